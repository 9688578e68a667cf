//! `cargo xtask`: builds, runs, tests, packages and measures.
fn main() {}
