//! `enftunctl import`: no bus, no daemon.

use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const CTL: &str = env!("CARGO_BIN_EXE_enftunctl");

fn ctl(args: &[&str]) -> Output {
    Command::new(CTL).args(args).env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent").output().unwrap()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/import").join(name)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The tunnel file of a fixture, as it is printed: the name of the old file is that on the command line.
fn expected(old: &Path) -> String {
    let golden = fs::read_to_string(old.with_file_name("expected.toml")).unwrap();
    golden.replace("\"enf0.conf\"", &format!("{:?}", path(old)))
}

#[test]
fn the_new_file_is_printed_and_what_there_is_to_know_stands_beside_it() {
    let old = fixture("device/enf0.conf");
    let output = ctl(&["import", path(&old)]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stdout), expected(&old));
    let said = text(&output.stderr).replace(&format!("{}/", path(old.parent().unwrap())), "");
    assert_eq!(said, fs::read_to_string(old.with_file_name("expected.txt")).unwrap());
}

#[test]
fn install_puts_it_in_its_place_and_replaces_nothing_without_force() {
    let old = fixture("device/enf0.conf");
    let dir = tempfile::tempdir().unwrap();
    let install = |more: &[&str]| {
        let mut args = vec!["import", path(&old), "--install", "--config-dir", path(dir.path())];
        args.extend(more);
        ctl(&args)
    };
    let output = install(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let new = dir.path().join("tunnels/enf0.toml");
    assert_eq!(text(&output.stdout), format!("wrote {}\n", path(&new)));
    assert_eq!(fs::read_to_string(&new).unwrap(), expected(&old));
    assert_eq!(fs::metadata(&new).unwrap().permissions().mode() & 0o7777, 0o644);
    assert_eq!(ctl(&["check", "--config-dir", path(dir.path())]).status.code(), Some(0));

    fs::write(&new, "mine").unwrap();
    let output = install(&[]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), String::new()));
    let last = text(&output.stderr).lines().last().unwrap().to_owned();
    let complaint = "exists already, and was left as it is; --force replaces it";
    assert_eq!(last, format!("enftunctl: {} {complaint}", path(&new)));
    assert_eq!(fs::read_to_string(&new).unwrap(), "mine");
    assert_eq!(install(&["--force"]).status.code(), Some(0));
    assert_eq!(fs::read_to_string(&new).unwrap(), expected(&old));

    assert_eq!(install(&["--name", "other"]).status.code(), Some(0));
    assert_eq!(fs::read_to_string(dir.path().join("tunnels/other.toml")).unwrap(), expected(&old));
    let mut files: Vec<_> =
        fs::read_dir(dir.path().join("tunnels")).unwrap().map(|file| file.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["enf0.toml", "other.toml"], "nothing is left behind");
}

#[test]
fn a_name_that_no_tunnel_can_have_writes_nothing() {
    let old = fixture("device/enf0.conf");
    let dir = tempfile::tempdir().unwrap();
    for name in ["../enf0", "a b", ".hidden"] {
        let output = ctl(&["import", path(&old), "--install", "--name", name, "--config-dir", path(dir.path())]);
        assert_eq!(output.status.code(), Some(78), "{name}");
        assert!(text(&output.stderr).contains("is not a name"), "{}", text(&output.stderr));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

#[test]
fn another_place_may_be_named() {
    let old = fixture("server/enf1.conf");
    let dir = tempfile::tempdir().unwrap();
    let new = dir.path().join("enf1.toml");
    assert_eq!(ctl(&["import", path(&old), "--output", path(&new)]).status.code(), Some(0));
    assert!(fs::read_to_string(&new).unwrap().contains("dev = \"overlay0\""));
    let nowhere = dir.path().join("not/there.toml");
    let output = ctl(&["import", path(&old), "--output", path(&nowhere)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("cannot write "), "{}", text(&output.stderr));
}

#[test]
fn a_file_that_cannot_be_brought_over_writes_nothing_and_exits_78() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["syntax", "router-missing", "include-missing", "unclosed"] {
        let old = fixture(name).join("enf0.conf");
        let output = ctl(&["import", path(&old)]);
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(78), String::new()), "{name}");
        let output = ctl(&["import", path(&old), "--install", "--config-dir", path(dir.path())]);
        assert_eq!(output.status.code(), Some(78), "{name}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    let output = ctl(&["import", "/nonexistent/enf0.conf"]);
    assert_eq!(output.status.code(), Some(5));
    assert_eq!(text(&output.stderr), "enftunctl: /nonexistent/enf0.conf does not exist\n");
    assert_eq!(ctl(&["import", path(dir.path())]).status.code(), Some(78), "a directory");
    assert_eq!(ctl(&["import"]).status.code(), Some(2));
}

#[test]
fn programs_get_the_same_as_one_document() {
    let old = fixture("types/enf0.conf");
    let output = ctl(&["import", path(&old), "--json"]);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["findings", "output", "toml", "version"]);
    assert_eq!((&json["version"], &json["output"]), (&1.into(), &Value::Null));
    assert_eq!(json["toml"], expected(&old));
    let port = json["findings"].as_array().unwrap().iter().find(|finding| finding["key"] == "remote.port").unwrap();
    assert_eq!((&port["severity"], &port["line"], &port["column"]), (&"warning".into(), &5.into(), &10.into()));
    assert_eq!(port["help"], "if it was meant, write port = 8443 below [remote]");

    let output = ctl(&["import", path(&fixture("syntax/enf0.conf")), "--json"]);
    assert_eq!(output.status.code(), Some(78));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["toml"], &json["findings"][0]["severity"]), (&Value::Null, &"error".into()));
}

#[test]
fn port_mapping_files_begin_a_tunnel_file_that_asks_for_the_rest() {
    let (maps, config) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(maps.path().join("one"), "SSH=22\n").unwrap();
    fs::write(maps.path().join("two"), "web=10.0.0.1:80\n").unwrap();
    let output = ctl(&["import", path(maps.path())]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let toml = text(&output.stdout);
    for line in ["kind = \"aws-iot\"", "mode = \"destination\"", "SSH = 22", "web = \"10.0.0.1:80\""] {
        assert!(toml.lines().any(|written| written == line), "{line}: {toml}");
    }
    assert!(text(&output.stderr).contains("aws.region: is not in port mapping files"), "{}", text(&output.stderr));
    // Nothing is put in its place before the questions are answered.
    let install = ["import", path(maps.path()), "--install", "--name", "lab", "--config-dir", path(config.path())];
    assert_eq!(ctl(&install).status.code(), Some(78));
    assert!(!config.path().join("tunnels/lab.toml").exists());
}
