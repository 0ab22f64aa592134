//! `enftunctl`: the command line.
fn main() {}
