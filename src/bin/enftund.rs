//! `enftund`: the daemon.
fn main() {}
