//! What each verb prints with `--json` is what `docs/schema` says and what `docs/json.md` shows: no key more, none less.

use crate::common::bus::{PrivateBus, own_uid};
use crate::common::schema::{ENFTUNCTL, ROUTER, documents, faults, hold, no_validator};
use crate::common::{skip, verbs};
use crate::simulation::{Simulation, failure};
use enftun::config::Severity;
use enftun::dbus::{self, Bus};
use enftun::state::health::{Code, Warning};
use enftun::state::{Phase, Reason};
use enftun::tunnel::DropReason;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

const CTL: &str = env!("CARGO_BIN_EXE_enftunctl");

/// These need a kernel of their own, and are held against the schema in the netns tier.
const ELSEWHERE: [&str; 2] = ["run", "clear"];

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap()
}

fn schema(file: &str) -> Value {
    serde_json::from_str(&read(file)).unwrap()
}

/// The verbs that have `--json`.
fn verbs() -> BTreeSet<String> {
    let verbs = verbs::of(&enftun::cli::command()).into_iter();
    let has_json = |verb: &clap::Command| verb.get_arguments().any(|argument| argument.get_long() == Some("json"));
    verbs.filter(|(_, verb)| has_json(verb)).map(|(name, _)| name).collect()
}

/// One tunnel that is connected and has counted, one that failed, one that forwards and one that could: every key that may be null
/// is so once, and is not once.
async fn all_sorts(bus: &PrivateBus) -> (Simulation, Bus) {
    let (daemon, core) = Simulation::new(&["desk", "enf0", "idle", "my-tunnel"]);
    daemon.forwards("desk");
    daemon.forwards("idle").rest();
    daemon.show_places("idle");
    daemon.forwarding("desk");
    // It stays as long as the daemon does.
    std::mem::forget(daemon.live("desk").open("SSH", "127.0.0.1:50000".to_owned()));
    let served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    daemon.connected("enf0");
    daemon.counters("enf0").dropped_tx(DropReason::TooBig);
    daemon.fail("my-tunnel", Phase::Error, failure(Reason::KeyMismatch, "the key is another's"));
    daemon.group("lan", |_| ());
    daemon.edit(|snapshot| {
        let warning = Warning::new(Code::CertificateExpires, Severity::Error, "the own certificate expires in 6 days");
        snapshot.warnings = vec![warning.clone().of("enf0"), warning];
    });
    daemon.tunnel("my-tunnel", |tunnel| tunnel.next_attempt = Some(std::time::SystemTime::now()));
    bus.shows("my-tunnel", "State", "s \"error\"");
    (daemon, served)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verb_prints_what_the_schema_has() {
    const TEST: &str = "every_verb_prints_what_the_schema_has";
    if let Some(reason) = no_validator() {
        return skip(TEST, reason);
    }
    let Some(bus) = PrivateBus::start(TEST) else { return };
    let (daemon, served) = all_sorts(&bus).await;
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().to_str().unwrap();
    std::fs::create_dir(directory.path().join("tunnels")).unwrap();
    let file = directory.path().join("tunnels/enf0.toml");
    std::fs::write(
        &file,
        "kind = \"enf\"\nremote.hosts = [\"router.example.net\"]\nremote.ca_cert_file = \"ca.pem\"\n",
    )
    .unwrap();
    let broken = directory.path().join("broken.toml");
    std::fs::write(&broken, "kind = \"enf\"\nroute.fwmrk = 1\n").unwrap();
    let mut held = BTreeSet::new();
    let mut verb = |name: &str, arguments: &[&str]| {
        let words = name.split(' ').chain(arguments.iter().copied()).chain(["--json"]);
        let output = bus.command(CTL).args(words).output().unwrap();
        let documents = documents(&String::from_utf8(output.stdout).unwrap());
        hold(ENFTUNCTL, &name.replace(' ', "-"), &documents);
        held.insert(name.to_owned());
    };
    verb("status", &[]);
    verb("status", &["enf0"]);
    verb("list", &[]);
    verb("check", &["--config-dir", config]);
    verb("check", &[broken.to_str().unwrap()]);
    verb("plan", &["enf0", "--config-dir", config]);
    let old = |name: &str| format!("{}/tests/fixtures/import/{name}/enf0.conf", env!("CARGO_MANIFEST_DIR"));
    verb("import", &[&old("types")]);
    verb("import", &[&old("syntax")]);
    verb("import", &[&old("device"), "--output", directory.path().join("new.toml").to_str().unwrap()]);
    let keygen = ["enf0", "--owner", "nobody", "--config-dir", config, "--yes"];
    verb("keygen", &[&keygen[..], &["fd00::1", "--self-signed"]].concat());
    verb("keygen", &[&keygen[..], &["fd00::1", "--csr"]].concat());
    verb("group list", &[]);
    verb("report", &["--config-dir", config]);
    verb("lockdown", &["enf0", "on"]);
    verb("lockdown", &["my-tunnel", "off"]);
    let heard = monitored(&bus, || {
        daemon.transition("enf0", Phase::Reconnecting, Reason::HeartbeatTimeout);
        daemon.fail("enf0", Phase::Error, failure(Reason::KeyMismatch, "the key is another's"));
        daemon.tamper("what was put back");
    });
    hold(ENFTUNCTL, "monitor", &heard);
    held.insert("monitor".to_owned());
    served.close().await;

    let here = ELSEWHERE.iter().map(|verb| (*verb).to_owned()).chain(held).collect::<BTreeSet<_>>();
    assert_eq!(here, verbs(), "each verb with --json is held against the schema");
}

/// What `monitor` tells until it has told of a repair.
fn monitored(bus: &PrivateBus, happening: impl FnOnce()) -> Vec<Value> {
    let mut child = bus.command(CTL).args(["monitor", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    let mut heard = vec![next()];
    happening();
    while heard.last().unwrap()["event"] != "tampered" {
        heard.push(next());
    }
    child.kill().unwrap();
    child.wait().unwrap();
    heard
}

#[test]
fn the_examples_in_json_md_are_as_the_schema_has_them() {
    const TEST: &str = "the_examples_in_json_md_are_as_the_schema_has_them";
    if let Some(reason) = no_validator() {
        return skip(TEST, reason);
    }
    let text = read(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/json.md"));
    let mut shown = BTreeSet::new();
    for section in text.split("\n## `").skip(1) {
        let heading = section.lines().next().unwrap();
        let names: Vec<_> = heading.split('`').step_by(2).filter(|name| !name.is_empty()).collect();
        let blocks = section.split("```json\n").skip(1).map(|rest| rest.split("```").next().unwrap());
        let documents: Vec<_> = blocks.flat_map(documents).collect();
        for name in names {
            hold(ENFTUNCTL, &name.replace(' ', "-"), &documents);
            shown.insert(name.to_owned());
        }
    }
    assert_eq!(shown, verbs(), "each verb with --json has a section");
}

#[test]
fn the_schemas_let_no_key_pass_that_they_do_not_name() {
    for file in [ENFTUNCTL, ROUTER] {
        let mut objects = 0;
        let mut left = vec![schema(file)];
        while let Some(part) = left.pop() {
            if part.get("properties").is_some() {
                objects += 1;
                assert_eq!(part["additionalProperties"], json!(false), "{part:#}");
                let named: BTreeSet<_> = part["properties"].as_object().unwrap().keys().map(String::as_str).collect();
                let needed: BTreeSet<_> =
                    part["required"].as_array().unwrap().iter().map(|key| key.as_str().unwrap()).collect();
                let optional: Vec<_> = named.symmetric_difference(&needed).collect();
                assert!(optional.is_empty() || optional == [&"help"], "{optional:?}");
            }
            match part {
                Value::Array(parts) => left.extend(parts),
                Value::Object(parts) => left.extend(parts.into_iter().map(|(_, part)| part)),
                _ => {}
            }
        }
        assert!(objects >= 5, "{file}");
    }
}

#[test]
fn a_document_of_another_form_is_noticed() {
    if let Some(reason) = no_validator() {
        return skip("a_document_of_another_form_is_noticed", reason);
    }
    let good = json!({ "version": 1, "cleared": ["enf0"], "text": "" });
    let wrong =
        [json!({ "version": 2, "cleared": [], "text": "" }), json!({ "version": 1, "cleared": [7], "text": "" })];
    assert_eq!(faults(ENFTUNCTL, "clear", &[good]), [""]);
    assert!(faults(ENFTUNCTL, "clear", &wrong).iter().all(|fault| !fault.is_empty()));
    let output = std::process::Command::new(CTL).args(["check", "/nowhere.toml", "--json"]).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(5), &b""[..]), "errors are never JSON");
}
