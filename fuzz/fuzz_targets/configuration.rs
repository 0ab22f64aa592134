//! Any text as a tunnel's, the router's and the daemon's file: no file is refused without a finding that says why, and each
//! finding can be printed.
#![no_main]

use enftun::config::{self, Finding, Severity};
use libfuzzer_sys::fuzz_target;
use std::path::Path;

fn explained<T>(value: Option<T>, findings: &[Finding]) {
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    assert_eq!(value.is_none(), errors > 0);
    for finding in findings {
        assert!(!finding.to_string().is_empty() && !finding.one_line().contains('\n'));
    }
}

fuzz_target!(|text: &str| {
    let directory = Path::new("/etc/enftun");
    let (tunnel, findings) = config::parse_tunnel("enf0", &directory.join("tunnels/enf0.toml"), directory, text);
    explained(tunnel, &findings);
    let (router, findings) = config::parse_router(&directory.join("router.toml"), text);
    explained(router, &findings);
    let (daemon, findings) = config::parse_daemon(&directory.join("enftun.toml"), text);
    explained(daemon, &findings);
});
