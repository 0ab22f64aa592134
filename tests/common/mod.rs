//! What the integration tests share. One file per concern; a test says what is promised, and these say how it is shown.
#![allow(dead_code, unused_imports, missing_docs)]

pub mod aws_service;
pub mod bus;
pub mod card;
pub mod certs;
pub mod client;
pub mod echo;
#[cfg(feature = "enrol")]
pub mod enrol;
#[cfg(feature = "enrol")]
pub mod enrol_api;
pub mod fake_router;
pub mod logind;
pub mod middle;
pub mod name_server;
pub mod netns;
pub mod notify;
pub mod openmetrics;
pub mod polkit;
pub mod relay;
pub mod roaming;
pub mod room;
pub mod schema;
pub mod seeded;
pub mod swtpm;
pub mod unruly;
pub mod verbs;
pub mod wire;

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

/// The long form of a test is asked for.
pub fn long() -> bool {
    std::env::var_os("ENFTUN_LONG").is_some_and(|value| value == "1")
}

/// Says a figure, past what keeps the output of tests that pass.
pub fn figure(text: &str) {
    use std::io::Write;
    std::io::stderr().write_all(format!("FIGURE {text}\n").as_bytes()).unwrap();
}
