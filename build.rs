//! Tells the program when it was built: a clock that stands before that day is wrong, and certificates are not to blame.

use std::env;
use std::time::{SystemTime, UNIX_EPOCH};

fn main() {
    // Reproducible builds say their own date. Nothing else triggers a rerun, so that a rebuild stays cheap.
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    let told = env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse::<u64>().ok());
    let epoch = told.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()));
    println!("cargo::rustc-env=ENFTUN_BUILD_EPOCH={epoch}");
}
