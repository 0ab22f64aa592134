//! `enftunctl logs` and `report`: what a person needs who looks into a problem, from the real journalctl, nft and ip.

use crate::common::bus::{PrivateBus, has, no_other_uid, own_uid, stdout};
use crate::common::skip;
use crate::simulation::{Simulation, failure};
use enftun::dbus;
use enftun::state::{Phase, Reason};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const CTL: &str = env!("CARGO_BIN_EXE_enftunctl");
const WRITER: &str = "/lib/systemd/systemd-journal-remote";

/// A line of the journal: unit, tunnel, process, the unit that it is about, text.
const LINES: [(&str, &str, u32, &str, &str); 8] = [
    ("enftund.service", "", 100, "", "the daemon is ready"),
    ("enftund.service", "enf0", 100, "", "enf0 is connected"),
    ("enftund.service", "my-tunnel", 100, "", "my-tunnel is connected"),
    ("enftun@enf0.service", "", 101, "", "following enf0"),
    ("enftun@my-tunnel.service", "", 102, "", "following my-tunnel"),
    ("init.scope", "", 1, "enftun@enf0.service", "Started enftun@enf0.service"),
    ("init.scope", "", 1, "enftund.service", "Started enftund.service"),
    ("somebody.service", "enf0", 103, "enftund.service", "somebody says that enf0 is open"),
];

/// A journal with these lines, by the program that writes journals of other hosts.
fn journal(directory: &Path) -> PathBuf {
    let (export, file) = (directory.join("export"), directory.join("system.journal"));
    let entry = |(at, (unit, tunnel, pid, about, message)): (usize, &(&str, &str, u32, &str, &str))| {
        let since_boot = (at + 1) * 1_000_000;
        let now = 1_767_323_045_000_000 + since_boot;
        let mut entry = format!("__REALTIME_TIMESTAMP={now}\n__MONOTONIC_TIMESTAMP={since_boot}\n");
        entry += &format!("_BOOT_ID={:032x}\n_PID={pid}\n_SYSTEMD_UNIT={unit}\nPRIORITY=6\nMESSAGE={message}\n", 1);
        for (field, value) in [("ENFTUN_TUNNEL", tunnel), ("UNIT", about)] {
            if !value.is_empty() {
                entry += &format!("{field}={value}\n");
            }
        }
        entry + "\n"
    };
    fs::write(&export, LINES.iter().enumerate().map(entry).collect::<String>()).unwrap();
    let written = Command::new(WRITER).arg("-o").args([&file, &export]).output().unwrap();
    assert!(written.status.success(), "{written:?}");
    file
}

#[test]
fn logs_shows_the_daemon_and_the_tunnels_and_nobody_elses_lines() {
    const TEST: &str = "logs_shows_the_daemon_and_the_tunnels_and_nobody_elses_lines";
    if !has("journalctl") || !Path::new(WRITER).exists() {
        return skip(TEST, "journalctl or systemd-journal-remote is missing");
    }
    let directory = tempfile::tempdir().unwrap();
    let file = journal(directory.path());
    let logs = |words: &[&str]| {
        let file = format!("--file={}", file.display());
        let output = Command::new(CTL).arg("logs").args(words).args(["--", &file, "-o", "cat"]).output().unwrap();
        stdout(output).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let all: Vec<&str> = LINES.iter().map(|line| line.4).filter(|text| !text.starts_with("somebody")).collect();
    assert_eq!(logs(&[]), all);
    let of_enf0 = ["enf0 is connected", "following enf0", "Started enftun@enf0.service", "Started enftund.service"];
    assert_eq!(logs(&["enf0"]), of_enf0);
    assert_eq!(logs(&["my-tunnel"])[..2], ["my-tunnel is connected", "following my-tunnel"]);
    assert_eq!(logs(&["enf0", "--lines", "1"]), ["Started enftund.service"]);
    assert_eq!(logs(&["enf0", "--since", "2026-01-01"]), of_enf0);
    assert_eq!(logs(&["--since", "2030-01-01"]), Vec::<String>::new());
}

#[test]
fn without_a_journal_or_the_right_to_read_it_logs_says_so() {
    const TEST: &str = "without_a_journal_or_the_right_to_read_it_logs_says_so";
    let output = Command::new(CTL).arg("logs").env("PATH", "/nowhere").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("enftunctl: journalctl is not there"), "{output:?}");
    if own_uid() != 0 {
        return skip(TEST, "needs root, for a journal that others may not read");
    }
    if let Some(reason) = no_other_uid() {
        return skip(TEST, reason);
    }
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let program = directory.path().join("enftunctl");
    fs::copy(CTL, &program).unwrap();
    let script = "chmod 755 \"$1\"; mkdir -p /var/log/journal; mount -t tmpfs -o mode=755 tmpfs /var/log/journal
        mkdir -p /run/log && mount -t tmpfs -o mode=755 tmpfs /run/log
        mkdir /var/log/journal/0; umask 077; echo >/var/log/journal/0/system.journal
        exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$1/enftunctl\" logs";
    let output =
        Command::new("unshare").args(["-m", "sh", "-ec", script, "sh"]).arg(directory.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("closed to you") && text.contains("systemd-journal"), "{text}");
}

/// A configuration directory with secrets in every place where somebody might put one.
fn config(directory: &Path) -> String {
    let tunnels = directory.join("tunnels");
    fs::create_dir(&tunnels).unwrap();
    let tunnel = |proxy: &str| {
        format!(
            "kind = \"enf\"\n[remote]\nhosts = [\"router.example.net\"]\nca_cert_file = \"ca.pem\"\nproxy = \"{proxy}\"\n"
        )
    };
    fs::write(tunnels.join("enf0.toml"), tunnel("http://user:s3cret@proxy.example.net:3128")).unwrap();
    fs::write(tunnels.join("broken.toml"), tunnel("user:s3cret@proxy.example.net:3128") + "[route]\nfwmrk = 1\n")
        .unwrap();
    let office =
        tunnel("").replace("proxy = \"\"\n", "[route]\ntable = 77\nfwmark = 77\nprefixes = [\"fd00:77::/32\"]\n");
    fs::write(tunnels.join("office.toml"), office).unwrap();
    directory.to_str().unwrap().to_owned()
}

fn parts(output: Output) -> Vec<Value> {
    let report: Value = serde_json::from_str(&stdout(output)).unwrap();
    report["parts"].as_array().unwrap().clone()
}

#[track_caller]
fn part<'a>(parts: &'a [Value], name: &str) -> &'a Value {
    let names: Vec<_> = parts.iter().map(|part| part["name"].as_str().unwrap()).collect();
    parts.iter().find(|part| part["name"] == name).unwrap_or_else(|| panic!("no {name} in {names:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_has_what_a_maintainer_needs_and_no_secret() {
    let Some(bus) = PrivateBus::start("a_report_has_what_a_maintainer_needs_and_no_secret") else { return };
    let (daemon, core) = Simulation::new(&["enf0"]);
    let _served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    let text = "the proxy http://user:s3cret@proxy.example.net:3128 refuses";
    daemon.fail("enf0", Phase::Reconnecting, failure(Reason::ProxyFailed, text));
    bus.shows("enf0", "State", "s \"reconnecting\"");
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    let report =
        |more: &[&str]| bus.command(CTL).args(["report", "--config-dir", &config]).args(more).output().unwrap();
    let printed = report(&["--json"]);
    assert!(!String::from_utf8_lossy(&printed.stdout).contains("s3cret"));
    let parts = parts(printed);
    let text =
        |name: &str| part(&parts, name)["text"].as_str().unwrap_or_else(|| panic!("{}", part(&parts, name))).to_owned();
    assert!(text("enftunctl").contains(env!("CARGO_PKG_VERSION")));
    assert!(text("uname -srvm").starts_with("Linux "));
    assert!(text("status").contains("the proxy http://***@proxy.example.net:3128 refuses"), "{}", text("status"));
    assert!(text("plan of enf0").contains("# tunnel enf0"));
    let check = text(&format!("check {config}"));
    assert!(check.contains("broken.toml:") && check.contains("fwmrk"), "{check}");
    // Each of these is there, or says why not; which, is this host's business.
    for name in ["systemctl --version", "nft --version", "ip -6 rule", "ip -6 route show table 2097", "journal"] {
        let part = part(&parts, name);
        assert_ne!(part["text"].is_null(), part["missing"].is_null(), "{part}");
        assert_ne!(part["missing"], "", "{part}");
    }
    // For people, the same parts.
    let told = stdout(report(&[]));
    assert!(told.starts_with("enftunctl report, 20") && !told.contains("s3cret"), "{told}");
    for part in &parts {
        let heading = format!("\n== {}\n", part["name"].as_str().unwrap());
        assert!(told.contains(&heading), "{heading}");
    }
}

#[test]
fn a_report_says_why_a_part_is_missing() {
    let Some(bus) = PrivateBus::start("a_report_says_why_a_part_is_missing") else { return };
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    // The programs of this directory come first, and all of them are of no use.
    let programs = directory.path().join("bin");
    fs::create_dir(&programs).unwrap();
    for (name, text) in [
        ("nft", "echo 'Operation not permitted' >&2; exit 1"),
        ("ip", "[ \"$*\" != '-6 rule' ] || exec sleep 60; exit 7"),
    ] {
        fs::write(programs.join(name), format!("#!/bin/sh\n{text}\n")).unwrap();
        Command::new("chmod").arg("755").arg(programs.join(name)).status().unwrap();
    }
    fs::create_dir(programs.join("journalctl")).unwrap();
    let path = format!("{}:/usr/bin:/bin", programs.display());
    let mut command = bus.command(CTL);
    let parts = parts(command.args(["report", "--json", "--config-dir", &config]).env("PATH", path).output().unwrap());
    let why = |name: &str| part(&parts, name)["missing"].as_str().unwrap().to_owned();
    assert!(why("status").contains("enftund is not running"), "{}", why("status"));
    assert!(why("plan of office").contains("enftund is not running"), "the files tell which tunnels there are");
    assert!(!part(&parts, "ip -6 route show table 77")["missing"].is_null());
    assert_eq!(why("nft list table inet enftun"), "Operation not permitted");
    assert_eq!(why("ip -6 rule"), "ip did not end within 3 s");
    assert_eq!(why("ip -4 rule"), "ip ended with exit status: 7");
}
