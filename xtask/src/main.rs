//! Checks and generated documents of the project.

fn main() {}
