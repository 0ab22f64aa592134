//! Calls that change something: who may, what the daemon is asked, and how a refusal reads.

use crate::common::bus::{PrivateBus, no_other_uid, own_uid, stderr, stdout};
use crate::common::skip;
use crate::listener::Listener;
use crate::simulation::Simulation;
use enftun::daemon::{Refusal, ReloadScope, Request};
use enftun::dbus;

const NAME: &str = "org.enftun.Enftun1";
const ROOT: &str = "/org/enftun/Enftun1";
const MANAGER: &str = "org.enftun.Enftun1.Manager";
const ENF0: &str = "/org/enftun/Enftun1/tunnel/enf0";
const TUNNEL: &str = "org.enftun.Enftun1.Tunnel";

/// Every call that changes something.
const CHANGES: [(&str, &str, &str, &[&str]); 5] = [
    (ENF0, TUNNEL, "Connect", &["u", "0"]),
    (ENF0, TUNNEL, "Disconnect", &["u", "0"]),
    (ENF0, TUNNEL, "Reconnect", &["u", "0"]),
    (ROOT, MANAGER, "Reload", &["u", "0"]),
    (ROOT, MANAGER, "SetLockdown", &["sb", "enf0", "false"]),
];

#[tokio::test(flavor = "multi_thread")]
async fn another_user_may_change_nothing_and_root_may() {
    const TEST: &str = "another_user_may_change_nothing_and_root_may";
    let Some(bus) = PrivateBus::start(TEST) else { return };
    if let Some(reason) = no_other_uid() {
        return skip(TEST, reason);
    }
    let (daemon, core) = Simulation::new(&["enf0"]);
    let _served = dbus::serve_at(&bus.address(), core, 1234).await.unwrap();
    for (path, interface, method, arguments) in CHANGES {
        // dbus-send prints the error's name, and its text shows that it is the daemon that refuses, not the bus.
        let mut command = bus.command_as_nobody("dbus-send");
        let method = format!("{interface}.{method}");
        command.args(["--system", "--print-reply", "--dest=org.enftun.Enftun1", path, &method]);
        command.args(match arguments {
            ["u", "0"] => vec!["uint32:0"],
            _ => vec!["string:enf0", "boolean:false"],
        });
        let complaint = stderr(command.output().unwrap());
        assert!(
            complaint.starts_with("Error org.freedesktop.DBus.Error.AccessDenied: there is no polkit on the bus"),
            "{method}: {complaint}"
        );
    }
    assert_eq!(daemon.requests(), []);
    for (path, interface, method, arguments) in CHANGES {
        stdout(bus.busctl(&[&["call", NAME, path, interface, method], arguments].concat()));
    }
    let tunnel = || "enf0".to_owned();
    assert_eq!(
        daemon.requests(),
        [
            Request::Connect(tunnel()),
            Request::Disconnect(tunnel()),
            Request::Reconnect(tunnel()),
            Request::Reload(ReloadScope::ALL),
            Request::SetLockdown(tunnel(), false)
        ]
    );
    for (_, caller) in daemon.asked() {
        assert!(caller.name.starts_with(":1."), "the caller's bus name goes into the log: {caller}");
        assert_eq!(caller.uid, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_user_the_daemon_runs_as_may_change_things_too() {
    const TEST: &str = "the_user_the_daemon_runs_as_may_change_things_too";
    let Some(bus) = PrivateBus::start(TEST) else { return };
    if let Some(reason) = no_other_uid() {
        return skip(TEST, reason);
    }
    let (daemon, core) = Simulation::new(&["enf0"]);
    let _served = dbus::serve_at(&bus.address(), core, 65534).await.unwrap();
    stdout(bus.busctl_as_nobody(&["call", NAME, ENF0, TUNNEL, "Connect", "u", "0"]));
    assert_eq!(daemon.requests(), [Request::Connect("enf0".to_owned())]);
    assert_eq!(daemon.asked()[0].1.uid, Some(65534));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_has_a_name_for_programs_and_a_line_for_people() {
    let Some(bus) = PrivateBus::start("a_refusal_has_a_name_for_programs_and_a_line_for_people") else { return };
    let (daemon, core) = Simulation::new(&["enf0"]);
    let _served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    let client = Listener::new(&bus).await.connection;
    let call = async |path: &str, method: &str, flags: u32| {
        let interface = if path == ENF0 { TUNNEL } else { "org.enftun.Enftun1.Manager" };
        match client.call_method(Some(NAME), path, Some(interface), method, &flags).await.unwrap_err() {
            zbus::Error::MethodError(name, text, _) => (name.to_string(), text.unwrap()),
            other => panic!("{other:?}"),
        }
    };
    let (name, text) = call(ENF0, "Connect", 8).await;
    assert_eq!(name, "org.enftun.Enftun1.Error.InvalidArgument");
    assert_eq!(text, "flags 0x8 are unknown; 0 is the only value yet");
    assert_eq!(daemon.requests(), [], "a call with unknown flags does nothing");
    for (refusal, word, part) in [
        (Refusal::NotFound("enf0".to_owned()), "NotFound", "there is no tunnel called \"enf0\""),
        (Refusal::WrongState("not while it sleeps".to_owned()), "WrongState", "not while it sleeps"),
        (
            Refusal::InvalidConfig("enf0.toml:3:1: what?".to_owned()),
            "InvalidConfig",
            "nothing was changed: enf0.toml:3:1: what?",
        ),
        (Refusal::Failed("no room on the disk".to_owned()), "Failed", "no room on the disk"),
        (Refusal::ShuttingDown, "ShuttingDown", "shutting down"),
    ] {
        daemon.refuse(refusal);
        for (path, method) in [(ENF0, "Connect"), ("/org/enftun/Enftun1", "Reload")] {
            let (name, text) = call(path, method, 0).await;
            assert_eq!(name, format!("org.enftun.Enftun1.Error.{word}"));
            assert!(text.contains(part), "{text}");
        }
    }
}
