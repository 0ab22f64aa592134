//! What the documentation shows is what happens.

use crate::common::bus::{PrivateBus, own_uid, stdout};
use crate::simulation::{LOG_LEVEL, SINCE, Simulation, time};
use enftun::dbus;
use enftun::state::Reason;
use enftun::tunnel::DropReason;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

fn document(name: &str) -> String {
    std::fs::read_to_string(format!("{}/docs/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The bodies of the fenced blocks in this language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[path = "../../packaging/pages/man.rs"]
mod man;

/// Runs each of these calls of `busctl` as a person would, with the tunnels and the group that the texts speak of: all work, and
/// so many of them are requests to the daemon.
async fn run(test: &str, commands: &[&str], requests: usize) {
    let Some(bus) = PrivateBus::start(test) else { return };
    let (daemon, core) = Simulation::new(&["desk", "enf0"]);
    daemon.group("lan", |_| ());
    daemon.forwards("desk");
    daemon.connected("enf0");
    daemon.connect_at_once();
    let _served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    let _level = LOG_LEVEL.lock().await;
    let level = log::max_level();
    for command in commands {
        let mut shell = bus.command("sh");
        shell.args(["-c", &format!("exec {command}")]);
        if !command.starts_with("busctl monitor") {
            assert!(command.starts_with("busctl "), "{command}");
            let output = shell.output().unwrap();
            assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
            continue;
        }
        let mut child = shell.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut said).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(said.contains("Monitoring bus"), "{command}: {said}");
    }
    log::set_max_level(level);
    assert_eq!(daemon.requests().len(), requests, "the calls reached the daemon");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_in_dbus_md_works() {
    let text = document("dbus.md");
    let commands: Vec<&str> = blocks(&text, "sh").iter().flat_map(|block| block.lines()).collect();
    assert_eq!(commands.len(), 27);
    run("every_command_in_dbus_md_works", &commands, 11).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_busctl_command_in_the_readme_works() {
    let text = document("../README.md");
    let commands: Vec<&str> = text.lines().filter(|line| line.starts_with("busctl ")).collect();
    assert_eq!(commands.len(), 5);
    run("every_busctl_command_in_the_readme_works", &commands, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_busctl_command_in_the_manual_pages_works() {
    let text: String = man::pages().into_iter().map(|(_, text)| text.replace("\\-", "-")).collect();
    let commands: Vec<&str> = text.lines().filter(|line| line.starts_with("busctl ")).collect();
    assert_eq!(commands.len(), 13);
    run("every_busctl_command_in_the_manual_pages_works", &commands, 8).await;
}

#[test]
fn dbus_md_lists_every_reason_and_every_property() {
    let text = document("dbus.md");
    let (_, reasons) = text.split_once("Reasons: `").unwrap();
    let reasons: Vec<&str> = reasons.split('`').next().unwrap().split_whitespace().collect();
    let words: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(reasons, words);
    let mut properties = 0;
    let files = ["Manager", "Tunnel", "Tunnel.Forwards", "Firewall", "TrustedGroup"]
        .map(|name| format!("{}/dbus/org.enftun.Enftun1.{name}.xml", env!("CARGO_MANIFEST_DIR")));
    let xml = files.map(|file| std::fs::read_to_string(file).unwrap()).concat();
    for property in xml.split("<property name=\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(text.contains(&format!("`{property}`")), "{property}");
        properties += 1;
    }
    assert_eq!(properties, 48);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_in_json_md_is_what_status_prints() {
    let Some(bus) = PrivateBus::start("the_example_in_json_md_is_what_status_prints") else { return };
    let (daemon, core) = Simulation::new(&["enf0"]);
    let _served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    daemon.connected("enf0");
    daemon.tunnel("enf0", |tunnel| tunnel.since = time(SINCE));
    bus.shows("enf0", "StateSince", "t 1767323045000000");
    daemon.counters("enf0").dropped_tx(DropReason::TooBig);
    let text = document("json.md");
    let examples = blocks(&text, "json");
    let mut example: Value = serde_json::from_str(examples[0]).unwrap();
    example["daemon"]["version"] = env!("CARGO_PKG_VERSION").into();
    let mut command = bus.command(env!("CARGO_BIN_EXE_enftunctl"));
    let printed = stdout(command.args(["status", "enf0", "--json"]).output().unwrap());
    assert_eq!(serde_json::from_str::<Value>(&printed).unwrap(), example);
    // The order of the keys, too: people compare by eye.
    let keys = |text: &str| -> Vec<String> {
        text.split('"')
            .skip(1)
            .step_by(2)
            .filter(|word| text.contains(&format!("\"{word}\":")))
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(keys(&printed), keys(examples[0]));
    for line in examples[1].lines() {
        assert_eq!(serde_json::from_str::<Value>(line).unwrap()["version"], 1, "{line}");
    }
}
