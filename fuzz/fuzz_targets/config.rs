//! Any text as each of the three configuration files: no panic, a value exactly when there is no error, and every finding
//! points into the text and can be shown in every form.
#![no_main]

use std::path::Path;

use enftun::config::{Finding, Severity, findings_json, parse_daemon, parse_router, parse_tunnel};
use libfuzzer_sys::fuzz_target;

fn judge(text: &str, usable: bool, findings: &[Finding]) {
    assert_eq!(usable, findings.iter().all(|finding| finding.severity != Severity::Error));
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for finding in findings {
        let line = text.split('\n').nth(finding.line as usize - 1).expect("a line of the file");
        assert!((1..=line.chars().count() + 1).contains(&(finding.column as usize)));
        assert!(!finding.one_line().contains('\n'));
        assert!(!finding.to_string().chars().any(|character| character.is_control() && character != '\n'));
    }
    let _ = findings_json(findings);
}

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let dir = Path::new("/etc/enftun");
    let (tunnel, findings) = parse_tunnel("enf0", &dir.join("tunnels/enf0.toml"), dir, &text);
    judge(&text, tunnel.is_some(), &findings);
    let (daemon, findings) = parse_daemon(&dir.join("enftun.toml"), &text);
    judge(&text, daemon.is_some(), &findings);
    let (router, findings) = parse_router(&dir.join("router.toml"), &text);
    judge(&text, router.is_some(), &findings);
});
