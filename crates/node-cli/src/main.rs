//! `resultity-node`.

fn main() {}
