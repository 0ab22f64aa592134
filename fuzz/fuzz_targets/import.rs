//! Any text as a file of the C client: no panic, a tunnel file exactly when there is no error, and that file has none itself.
#![no_main]

use std::path::Path;

use enftun::config::{Severity, findings_json, import_text, parse_tunnel};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    // What is included is the file itself, so that depth has to end it.
    let imported = import_text(Path::new("/etc/enftun/enf0.conf"), &text, &|_| Ok(text.clone().into_owned()));
    let errors = imported.findings.iter().any(|finding| finding.severity == Severity::Error);
    assert_eq!(imported.toml.is_none(), errors);
    for finding in &imported.findings {
        assert!(!finding.to_string().chars().any(|character| character.is_control() && character != '\n'));
    }
    let _ = findings_json(&imported.findings);
    if let Some(toml) = imported.toml {
        let dir = Path::new("/etc/enftun");
        let (tunnel, findings) = parse_tunnel("enf0", &dir.join("tunnels/enf0.toml"), dir, &toml);
        assert!(tunnel.is_some(), "{findings:?}\n{toml}");
    }
});
