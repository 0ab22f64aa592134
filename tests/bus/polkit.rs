//! Who may do what, by the word of a real polkitd that has our policy: root, an ordinary user, a user whom a rule grants one
//! thing and not another. Sessions and passwords need a whole system: the system tier has those.

use crate::common::bus::{PrivateBus, no_other_uid, own_uid, stderr, stdout};
use crate::common::polkit::Polkit;
use crate::common::{skip, wait_for};
use crate::listener::Listener;
use crate::simulation::Simulation;
use enftun::daemon::{Core, Request};
use enftun::dbus;
use futures_util::StreamExt;
use std::path::Path;
use std::time::Duration;
use zbus::{MatchRule, MessageStream};

const NAME: &str = "org.enftun.Enftun1";
const ROOT: &str = "/org/enftun/Enftun1";
const MANAGER: &str = "org.enftun.Enftun1.Manager";
const ENF0: &str = "/org/enftun/Enftun1/tunnel/enf0";
const TUNNEL: &str = "org.enftun.Enftun1.Tunnel";
const ACTIONS: [&str; 8] =
    ["connect", "credentials", "disconnect", "inspect", "lockdown", "logging", "reload", "trust"];

/// A daemon with the tunnel enf0 on a bus with polkitd.
struct World {
    bus: PrivateBus,
    polkit: Polkit,
    daemon: Simulation,
    _served: dbus::Bus,
}

async fn world(test: &str) -> Option<World> {
    let bus = PrivateBus::start(test)?;
    if let Some(reason) = no_other_uid() {
        skip(test, reason);
        return None;
    }
    let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("dbus/org.enftun.Enftun1.policy");
    let Some(polkit) = Polkit::start(&bus, &[&policy]) else {
        skip(test, "polkitd is missing");
        return None;
    };
    let (daemon, core): (Simulation, Core) = Simulation::new(&["enf0"]);
    let served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    Some(World { bus, polkit, daemon, _served: served })
}

impl World {
    fn call(&self, method: &str, interactive: bool) -> std::process::Output {
        let allow = format!("--allow-interactive-authorization={}", if interactive { "yes" } else { "no" });
        self.bus.busctl_as_nobody(&[&allow, "call", NAME, ENF0, TUNNEL, method, "u", "0"])
    }

    /// What `GetPermissions` tells user nobody, as `action=word`, and then root.
    fn permissions(&self) -> [Vec<String>; 2] {
        let args = ["--json=short", "call", NAME, ROOT, MANAGER, "GetPermissions"];
        [self.bus.busctl_as_nobody(&args), self.bus.busctl(&args)].map(|output| {
            let reply: serde_json::Value = serde_json::from_str(&stdout(output)).unwrap();
            let answers = reply["data"][0].as_object().unwrap();
            answers
                .iter()
                .map(|(action, word)| format!("{}={}", action.rsplit('.').next().unwrap(), word.as_str().unwrap()))
                .collect()
        })
    }
}

/// A rule for user nobody.
fn rule(body: &str) -> String {
    format!("polkit.addRule(function (action, subject) {{ if (subject.user == \"nobody\") {{ {body} }} }});")
}

fn all(word: &str) -> Vec<String> {
    ACTIONS.iter().map(|action| format!("{action}={word}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_user_without_a_session_may_look_and_needs_an_administrator_for_the_rest() {
    let Some(world) =
        world("an_ordinary_user_without_a_session_may_look_and_needs_an_administrator_for_the_rest").await
    else {
        return;
    };
    let [nobody, root] = world.permissions();
    assert_eq!(root, all("yes"));
    let mut expected = all("auth_admin");
    expected[3] = "inspect=yes".to_owned();
    assert_eq!(nobody, expected);
    // Where the call does not allow a prompt it says that one would help; where it does, nobody is there to show one.
    let refused = stderr(world.call("Disconnect", false));
    assert!(
        refused.contains("org.enftun.Enftun1.disconnect needs authentication, and the call does not allow"),
        "{refused}"
    );
    let refused = stderr(world.call("Disconnect", true));
    assert!(refused.contains("Access denied"), "busctl has no other text for it: {refused}");
    let mut raw = world.bus.command_as_nobody("dbus-send");
    raw.args([
        "--system",
        "--print-reply",
        "--dest=org.enftun.Enftun1",
        ENF0,
        "org.enftun.Enftun1.Tunnel.Connect",
        "uint32:0",
    ]);
    let refused = stderr(raw.output().unwrap());
    assert!(refused.starts_with("Error org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"), "{refused}");
    assert_eq!(world.daemon.requests(), []);
    let plan = ["call", NAME, ROOT, MANAGER, "GetPlan", "s", "enf0"];
    assert!(stdout(world.bus.busctl_as_nobody(&plan)).contains("enf0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_grants_connect_and_not_disconnect() {
    let Some(world) = world("a_rule_grants_connect_and_not_disconnect").await else { return };
    world.polkit.rule(&rule(
        "if (action.id == \"org.enftun.Enftun1.connect\") return polkit.Result.YES; \
         if (action.id == \"org.enftun.Enftun1.disconnect\") return polkit.Result.NO;",
    ));
    wait_for("the rule to be read", || world.permissions()[0].contains(&"connect=yes".to_owned()));
    assert!(world.permissions()[0].contains(&"disconnect=no".to_owned()));
    stdout(world.call("Connect", false));
    let refused = stderr(world.call("Disconnect", true));
    assert!(refused.contains("Access denied"), "{refused}");
    stdout(world.call("Reconnect", false));
    let tunnel = || "enf0".to_owned();
    assert_eq!(world.daemon.requests(), [Request::Connect(tunnel()), Request::Reconnect(tunnel())]);
    let (_, caller) = world.daemon.asked().pop().unwrap();
    assert_eq!(caller.uid, Some(65534), "the log says who it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_is_the_action_it_says_and_no_other() {
    let Some(world) = world("each_call_is_the_action_it_says_and_no_other").await else { return };
    world.daemon.group("lan", |_| ());
    let group = "/org/enftun/Enftun1/group/lan";
    let trust = "org.enftun.Enftun1.TrustedGroup";
    wait_for("the group", || world.bus.busctl(&["introspect", NAME, group, trust]).status.success());
    let set = |value: &'static str| {
        let properties = "org.freedesktop.DBus.Properties";
        vec![
            "call",
            NAME,
            "/org/freedesktop/LogControl1",
            properties,
            "Set",
            "ssv",
            "org.freedesktop.LogControl1",
            value,
        ]
    };
    let calls: Vec<(&str, Vec<&str>)> = vec![
        ("connect", vec!["call", NAME, ENF0, TUNNEL, "Connect", "u", "0"]),
        ("connect", vec!["call", NAME, ENF0, TUNNEL, "ConnectWithOptions", "a{sv}", "0"]),
        ("connect", vec!["call", NAME, ENF0, TUNNEL, "Reconnect", "u", "0"]),
        ("disconnect", vec!["call", NAME, ENF0, TUNNEL, "Disconnect", "u", "0"]),
        ("reload", vec!["call", NAME, ROOT, MANAGER, "Reload", "u", "0"]),
        ("lockdown", vec!["call", NAME, ROOT, MANAGER, "SetLockdown", "sb", "enf0", "true"]),
        ("trust", vec!["call", NAME, group, trust, "AddInterface", "s", "eth9"]),
        ("trust", vec!["call", NAME, group, trust, "RemoveInterface", "s", "eth9"]),
        ("logging", [set("LogLevel"), vec!["s", "info"]].concat()),
        ("inspect", vec!["call", NAME, ROOT, MANAGER, "GetPlan", "s", "enf0"]),
        ("inspect", vec!["call", NAME, ROOT, "org.enftun.Enftun1.Firewall", "Verify"]),
        ("inspect", vec!["get-property", NAME, ROOT, "org.enftun.Enftun1.Firewall", "Policy"]),
    ];
    for granted in ACTIONS {
        world.polkit.rule(&rule(&format!(
            "if (action.id.indexOf(\"org.enftun.Enftun1.\") == 0) \
             return action.id == \"org.enftun.Enftun1.{granted}\" ? polkit.Result.YES : polkit.Result.NO;"
        )));
        let expected: Vec<String> = ACTIONS
            .iter()
            .map(|action| format!("{action}={}", if *action == granted { "yes" } else { "no" }))
            .collect();
        wait_for("the rule to be read", || world.permissions()[0] == expected);
        for (action, call) in &calls {
            let output = world.bus.busctl_as_nobody(call);
            assert_eq!(output.status.success(), *action == granted, "{call:?} with {granted}: {output:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_may_keep_the_firewalls_text_to_itself() {
    let Some(world) = world("a_site_may_keep_the_firewalls_text_to_itself").await else { return };
    let all = ["call", NAME, ROOT, "org.freedesktop.DBus.Properties", "GetAll", "s", "org.enftun.Enftun1.Firewall"];
    assert!(stdout(world.bus.busctl_as_nobody(&all)).contains("table inet enftun"));
    world.polkit.rule(&rule("if (action.id == \"org.enftun.Enftun1.inspect\") return polkit.Result.NO;"));
    wait_for("the rule to be read", || world.permissions()[0].contains(&"inspect=no".to_owned()));
    let shown = stdout(world.bus.busctl_as_nobody(&all));
    assert!(shown.contains("InForce") && !shown.contains("table inet enftun"), "{shown}");
    assert!(stdout(world.bus.busctl(&all)).contains("table inet enftun"), "root sees it");
}

#[tokio::test(flavor = "multi_thread")]
async fn applets_are_told_when_permissions_may_have_changed() {
    let Some(world) = world("applets_are_told_when_permissions_may_have_changed").await else { return };
    let listener = Listener::new(&world.bus).await;
    let rule_for = MatchRule::builder().interface(MANAGER).member("PermissionsChanged").build().unwrap();
    let mut told = MessageStream::for_match_rule(rule_for, &listener.connection, None).await.unwrap();
    world.polkit.rule(&rule("return polkit.Result.NO;"));
    let signal = tokio::time::timeout(Duration::from_secs(30), told.next()).await.expect("PermissionsChanged");
    assert_eq!(signal.unwrap().unwrap().header().path().unwrap().as_str(), ROOT);
}
