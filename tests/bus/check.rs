//! `enftunctl check`: no bus, no daemon.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn check(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_enftunctl"))
        .arg("check")
        .args(args)
        .env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent")
        .output()
        .unwrap()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config").join(name)
}

/// A configuration directory with one sound tunnel.
fn sound() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("tunnels")).unwrap();
    let tunnel = "[remote]\nname = \"router.example.net\"\nhosts = [\"router.example.net\"]\nca_cert_file = \"ca.pem\"\n\
                  [identity]\ncert_file = \"enf0.crt\"\nkey_file = \"enf0.key\"\n";
    fs::write(dir.path().join("tunnels/enf0.toml"), format!("kind = \"enf\"\n{tunnel}")).unwrap();
    dir
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_sound_directory_gets_no_word_and_exit_code_0() {
    let dir = sound();
    let output = check(&["--config-dir", dir.path().to_str().unwrap()]);
    assert_eq!((text(&output.stdout), text(&output.stderr)), (String::new(), String::new()));
    assert_eq!(output.status.code(), Some(0));
    let output = check(&[dir.path().join("tunnels/enf0.toml").to_str().unwrap(), "--json"]);
    assert_eq!(output.status.code(), Some(0));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json, serde_json::json!({ "version": 1, "findings": [] }));
}

#[test]
fn a_warning_is_shown_and_is_no_error() {
    let dir = sound();
    let file = dir.path().join("tunnels/enf0.toml");
    let without_name = fs::read_to_string(&file).unwrap().replace("name = \"router.example.net\"\n", "");
    fs::write(&file, without_name).unwrap();
    let output = check(&[file.to_str().unwrap()]);
    assert!(text(&output.stdout).starts_with("warning: remote.name: "), "{}", text(&output.stdout));
    assert_eq!((text(&output.stderr), output.status.code()), (String::new(), Some(0)));
}

#[test]
fn every_mistake_of_a_directory_is_shown_with_its_place_and_exit_code_78() {
    let dir = fixture("spelling");
    let output = check(&["--config-dir", dir.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(78));
    let expected = fs::read_to_string(dir.join("expected.txt")).unwrap();
    let printed = text(&output.stdout).replace(&format!("{}/", dir.display()), "");
    assert_eq!(printed.trim_end(), expected.trim_end());
    let errors = expected.lines().filter(|line| line.starts_with("error: ")).count();
    assert_eq!(text(&output.stderr), format!("enftunctl: the configuration has {errors} errors\n"));
}

#[test]
fn one_file_is_checked_alone_and_programs_get_the_same_findings() {
    let file = fixture("spelling").join("tunnels/enf0.toml");
    let output = check(&["--json", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(78));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = json["findings"].as_array().unwrap();
    assert!(findings.iter().all(|finding| finding["file"] == file.to_str().unwrap()));
    let first = &findings[0];
    assert_eq!((first["severity"].as_str(), first["key"].as_str()), (Some("error"), Some("auto_connect")));
    assert_eq!((first["line"].as_u64(), first["column"].as_u64()), (Some(2), Some(1)));
    assert_eq!(first["help"], "did you mean `autoconnect`?");
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/json.md")).unwrap();
    let (_, example) = page.split_once("## `check`\n\n```json\n").unwrap();
    let example: Value = serde_json::from_str(example.split("```").next().unwrap()).unwrap();
    let keys = |finding: &Value| finding.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(first), keys(&example["findings"][0]), "as documented");
}

#[test]
fn what_is_not_there_is_not_sound() {
    let dir = sound();
    let missing = dir.path().join("tunnels/enf1.toml");
    for args in [&[missing.to_str().unwrap()][..], &["--config-dir", missing.to_str().unwrap()]] {
        let output = check(args);
        assert_eq!(output.status.code(), Some(5), "{args:?}");
        assert_eq!(text(&output.stderr), format!("enftunctl: {} does not exist\n", missing.display()));
    }
}
