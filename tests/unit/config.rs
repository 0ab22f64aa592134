//! The configuration reader: what it says about broken files (golden texts beside the files), what it makes of sound ones,
//! and that no input at all makes it panic or point outside the file.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use enftun::config::{self, Enf, Finding, Host, Kind, Lockdown, Severity, Tunnel};
use proptest::prelude::*;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config")
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/examples")
}

fn texts(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(Finding::one_line).collect()
}

fn enf(tunnel: &Tunnel) -> &Enf {
    let Kind::Enf(enf) = &tunnel.kind;
    enf
}

/// Each directory is a configuration directory, with a `router.toml` perhaps; `expected.txt` holds what is said about it.
/// `ENFTUN_BLESS=1` writes those files anew, to be read before they are committed.
#[test]
fn broken_files_get_the_findings_that_stand_beside_them() {
    let mut different = Vec::new();
    for case in fs::read_dir(fixtures()).unwrap() {
        let dir = case.unwrap().path();
        let mut findings = config::load(&dir).findings;
        let router = dir.join("router.toml");
        if router.exists() {
            findings.extend(config::load_router(&router).1);
        }
        assert!(findings.iter().any(|finding| finding.severity == Severity::Error), "{}", dir.display());
        let rendered: String = findings.iter().map(|finding| format!("{finding}\n\n")).collect();
        let rendered = rendered.replace(&format!("{}/", dir.display()), "");
        let golden = dir.join("expected.txt");
        if std::env::var_os("ENFTUN_BLESS").is_some() {
            fs::write(&golden, &rendered).unwrap();
        } else if fs::read_to_string(&golden).unwrap_or_default() != rendered {
            different.push(format!("{}:\n{rendered}", golden.display()));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}
