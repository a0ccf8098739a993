//! Tells the Agent which platform it is built for: approved releases name theirs.

#[expect(clippy::disallowed_methods, reason = "how cargo tells a build script")]
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = std::env::var("TARGET").unwrap_or_default();
    println!("cargo::rustc-env=AGENT_TARGET={target}");
}
