//! `enftun-router`: the far end.
fn main() {}
