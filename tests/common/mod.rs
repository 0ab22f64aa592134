//! What the integration tests share. One file per concern; a test says what is promised, and these say how it is shown.
#![allow(dead_code, missing_docs)]

pub mod bus;
pub mod certs;
pub mod client;
pub mod fake_router;
pub mod logind;
pub mod name_server;
pub mod netns;
pub mod notify;
pub mod openmetrics;
pub mod polkit;
pub mod schema;
pub mod verbs;

use std::time::{Duration, Instant};

/// Says loudly that a test cannot run here. With `ENFTUN_REQUIRE_ALL=1` that is a failure.
/// `tests/run` counts the lines in the file that `ENFTUN_SKIPPED` names.
pub fn skip(test: &str, reason: &str) {
    use std::io::Write;
    let line = format!("SKIPPED {test}: {reason}");
    assert!(std::env::var_os("ENFTUN_REQUIRE_ALL").is_none_or(|value| value != "1"), "{line}");
    eprintln!("{line}");
    if let Some(file) = std::env::var_os("ENFTUN_SKIPPED") {
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(file).unwrap();
        writeln!(file, "{line}").unwrap();
    }
}

/// Waits until `condition` holds. The deadline is generous: it only ends a test that would hang.
#[track_caller]
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "waited 30 s in vain for: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
