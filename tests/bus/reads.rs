//! What anybody may read, as a script reads it: through busctl.

use crate::common::bus::{PrivateBus, no_other_uid, own_uid, stderr, stdout};
use crate::common::skip;
use crate::simulation::{SINCE, Simulation, failure, time};
use enftun::daemon::{Answer, Request};
use enftun::dbus;
use enftun::state::{Phase, Reason};
use enftun::tunnel::DropReason;
use std::collections::{BTreeMap, BTreeSet};

const NAME: &str = "org.enftun.Enftun1";
const ROOT: &str = "/org/enftun/Enftun1";
const ENF0: &str = "/org/enftun/Enftun1/tunnel/enf0";
const FIREWALL: &str = "org.enftun.Enftun1.Firewall";
const MANAGER: &str = "org.enftun.Enftun1.Manager";
const TUNNEL: &str = "org.enftun.Enftun1.Tunnel";
const STATISTICS: &str = "org.enftun.Enftun1.Tunnel.Statistics";

#[track_caller]
fn property(bus: &PrivateBus, path: &str, interface: &str, name: &str) -> String {
    stdout(bus.busctl(&["get-property", NAME, path, interface, name])).trim_end().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_property_of_a_live_tunnel_reads_as_documented() {
    let Some(bus) = PrivateBus::start("every_property_of_a_live_tunnel_reads_as_documented") else { return };
    let (daemon, core) = Simulation::new(&["enf0"]);
    let _served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    daemon.connected("enf0");
    daemon.tunnel("enf0", |tunnel| {
        tunnel.since = time(SINCE);
        tunnel.attempt = 2;
        tunnel.autoconnect = true;
    });
    bus.shows("enf0", "AutoConnect", "b true");
    for (name, value) in [
        ("Name", "s \"enf0\""),
        ("Kind", "s \"enf\""),
        ("State", "s \"connected\""),
        ("TargetState", "s \"connected\""),
        ("StateReason", "s \"user\""),
        ("StateSince", "t 1767323045000000"),
        ("LastError", "(ss) \"none\" \"\""),
        ("Attempt", "u 2"),
        ("NextAttempt", "t 0"),
        ("Interface", "s \"enf0\""),
        ("IfIndex", "i 7"),
        ("Mtu", "u 1280"),
        ("Addresses", "as 1 \"fd00:8f80::1/128\""),
        ("Routes", "as 1 \"::/0\""),
        ("Remotes", "as 2 \"router.example.net:443\" \"[2001:db8::1]:443\""),
        ("ActiveRemote", "s \"router.example.net:443\""),
        ("FwMark", "u 363"),
        ("FwMask", "u 4294967295"),
        ("Table", "u 2097"),
        ("AutoConnect", "b true"),
        ("Lockdown", "s \"boot\""),
        ("Blocking", "b true"),
        (
            "Tls",
            "a{sv} 6 \"cipher\" s \"TLS_AES_256_GCM_SHA384\" \"local-not-after\" t 1800000000000000 \
             \"peer-not-after\" t 1900000000000000 \"peer-subject\" s \"CN=router.example.net\" \"version\" s \"TLSv1.3\" \
             \"wire\" s \"v2\"",
        ),
    ] {
        assert_eq!(property(&bus, ENF0, TUNNEL, name), value, "{name}");
    }
    for (name, value) in [
        ("Version", format!("s \"{}\"", env!("CARGO_PKG_VERSION"))),
        ("State", "s \"connected\"".to_owned()),
        ("Blocking", "b true".to_owned()),
        ("Tunnels", format!("ao 1 \"{ENF0}\"")),
    ] {
        assert_eq!(property(&bus, ROOT, MANAGER, name), value, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_reads_as_a_word_and_a_line_and_the_next_attempt_as_a_time() {
    let Some(bus) = PrivateBus::start("a_failure_reads_as_a_word_and_a_line_and_the_next_attempt_as_a_time") else {
        return;
    };
    let (daemon, core) = Simulation::new(&["enf0"]);
    let _served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    daemon.fail("enf0", Phase::Reconnecting, failure(Reason::DnsFailed, "no address for router.example.net"));
    daemon.tunnel("enf0", |tunnel| tunnel.next_attempt = Some(time(SINCE)));
    bus.shows("enf0", "NextAttempt", "t 1767323045000000");
    assert_eq!(property(&bus, ENF0, TUNNEL, "LastError"), "(ss) \"dns-failed\" \"no address for router.example.net\"");
    assert_eq!(property(&bus, ENF0, TUNNEL, "Tls"), "a{sv} 0");
    assert_eq!(property(&bus, ENF0, TUNNEL, "ActiveRemote"), "s \"\"");
    assert_eq!(property(&bus, ENF0, TUNNEL, "IfIndex"), "i 0");
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_are_those_of_the_moment_they_are_read() {
    let Some(bus) = PrivateBus::start("statistics_are_those_of_the_moment_they_are_read") else { return };
    let (daemon, core) = Simulation::new(&["enf0"]);
    let _served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    assert_eq!(property(&bus, ENF0, STATISTICS, "RxBytes"), "t 0");
    let counters = daemon.counters("enf0");
    counters.received_units(1, 1000);
    counters.transmitted_units(1, 100);
    counters.transmitted_units(1, 10);
    counters.dropped_rx(DropReason::SourceForged);
    counters.dropped_tx(DropReason::SourceNotOwn);
    counters.dropped_tx(DropReason::SourceNotOwn);
    counters.session_ready();
    counters.session_ready();
    counters.heartbeat(std::time::Duration::from_millis(12));
    for (name, value) in [
        ("RxBytes", "t 1000"),
        ("TxBytes", "t 110"),
        ("RxPackets", "t 1"),
        ("TxPackets", "t 2"),
        ("RxDropped", "t 1"),
        ("TxDropped", "t 2"),
        ("DropReasons", "a{st} 2 \"source-forged\" 1 \"source-not-own\" 2"),
        ("Reconnects", "u 1"),
        ("HeartbeatRttUsec", "t 12000"),
    ] {
        assert_eq!(property(&bus, ENF0, STATISTICS, name), value, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_firewall_reads_as_documented_and_is_looked_at_on_demand() {
    let Some(bus) = PrivateBus::start("the_firewall_reads_as_documented_and_is_looked_at_on_demand") else { return };
    let (daemon, core) = Simulation::new(&["enf0"]);
    let _served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    for (name, value) in [
        ("Policy", "s \"table inet enftun {\\n}\\n\""),
        ("Table", "s \"inet enftun\""),
        ("InForce", "b true"),
        ("Generation", "u 3"),
        ("LastVerified", "t 1767323045000000"),
    ] {
        assert_eq!(property(&bus, ROOT, FIREWALL, name), value, "{name}");
    }
    let verify = || stdout(bus.busctl(&["call", NAME, ROOT, FIREWALL, "Verify"]));
    assert_eq!(verify(), "b true\n");
    daemon.edit(|snapshot| snapshot.firewall = enftun::kernel::Firewall::default());
    assert_eq!(verify(), "b false\n");
    for (name, value) in [("Policy", "s \"\""), ("InForce", "b false"), ("Generation", "u 0"), ("LastVerified", "t 0")]
    {
        assert_eq!(property(&bus, ROOT, FIREWALL, name), value, "{name}");
    }
    assert_eq!(daemon.requests(), [Request::Verify, Request::Verify], "properties are no requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_the_daemons_answer_and_an_unknown_tunnel_has_none() {
    let Some(bus) = PrivateBus::start("a_plan_is_the_daemons_answer_and_an_unknown_tunnel_has_none") else { return };
    let (daemon, core) = Simulation::new(&["enf0"]);
    let _served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    let get = |name: &str| bus.busctl(&["call", NAME, ROOT, MANAGER, "GetPlan", "s", name]);
    assert_eq!(stdout(get("enf0")), "s \"# tunnel enf0\\n\"\n");
    daemon.refuse(enftun::daemon::Refusal::NotFound("enf9".to_owned()));
    let complaint = stderr(get("enf9"));
    assert!(complaint.contains("there is no tunnel called \"enf9\""), "{complaint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_looks_in_a_flood_does_not_fill_the_daemons_queue() {
    let Some(bus) = PrivateBus::start("who_asks_for_looks_in_a_flood_does_not_fill_the_daemons_queue") else { return };
    let (_daemon, core, mut commands) = Simulation::stuck(&["enf0"]);
    let _served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    let call =
        |args: &[&str]| bus.command("busctl").args(["--system", "--quiet", "call", NAME]).args(args).spawn().unwrap();
    let looks: Vec<_> = (0..40).map(|_| call(&[ROOT, FIREWALL, "Verify"])).collect();
    let held = tokio::time::timeout(std::time::Duration::from_secs(30), commands.recv()).await.unwrap().unwrap();
    assert_eq!(held.request, Request::Verify);
    let mut change = call(&[ENF0, TUNNEL, "Connect", "u", "0"]);
    let next = tokio::time::timeout(std::time::Duration::from_secs(30), commands.recv()).await.unwrap().unwrap();
    assert_eq!(next.request, Request::Connect("enf0".to_owned()), "the other looks wait for the first");
    next.reply.send(Ok(Answer::Done)).unwrap();
    assert!(change.wait().unwrap().success());
    held.reply.send(Ok(Answer::Verified(true))).unwrap();
    tokio::spawn(async move {
        while let Some(command) = commands.recv().await {
            let _ = command.reply.send(Ok(Answer::Verified(true)));
        }
    });
    for mut look in looks {
        assert!(look.wait().unwrap().success(), "and each gets its turn");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_call_shows_every_object_and_the_tree_is_walkable() {
    let Some(bus) = PrivateBus::start("one_call_shows_every_object_and_the_tree_is_walkable") else { return };
    let (_daemon, core) = Simulation::new(&["enf0", "my-tunnel"]);
    let _served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    let objects = stdout(bus.busctl(&["call", NAME, ROOT, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects"]));
    for expected in [ENF0, "/org/enftun/Enftun1/tunnel/my_2dtunnel", TUNNEL, STATISTICS, "\"StateReason\" s \"none\""] {
        assert!(objects.contains(expected), "{expected} in {objects}");
    }
    let tree = stdout(bus.busctl(&["tree", "--list", NAME]));
    for expected in [ROOT, ENF0, "/org/enftun/Enftun1/tunnel/my_2dtunnel"] {
        assert!(tree.lines().any(|line| line.trim() == expected), "{expected} in {tree}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_is_found_by_name_and_by_interface() {
    let Some(bus) = PrivateBus::start("a_tunnel_is_found_by_name_and_by_interface") else { return };
    let (daemon, core) = Simulation::new(&["my-tunnel"]);
    daemon.tunnel("my-tunnel", |tunnel| tunnel.interface = Some("enf9".to_owned()));
    let _served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    let call = |method: &str, argument: &str| bus.busctl(&["call", NAME, ROOT, MANAGER, method, "s", argument]);
    let found = "o \"/org/enftun/Enftun1/tunnel/my_2dtunnel\"\n";
    assert_eq!(stdout(call("GetTunnel", "my-tunnel")), found);
    assert_eq!(stdout(call("GetTunnelByInterface", "enf9")), found);
    let complaint = stderr(call("GetTunnel", "enf9"));
    assert!(complaint.contains("there is no tunnel called \"enf9\""), "{complaint}");
    let complaint = stderr(call("GetTunnelByInterface", "my-tunnel"));
    assert!(complaint.contains("no tunnel has the interface \"my-tunnel\""), "{complaint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn anybody_may_read_everything() {
    const TEST: &str = "anybody_may_read_everything";
    let Some(bus) = PrivateBus::start(TEST) else { return };
    if let Some(reason) = no_other_uid() {
        return skip(TEST, reason);
    }
    let (_daemon, core) = Simulation::new(&["enf0"]);
    let _served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    let read = |args: &[&str]| stdout(bus.busctl_as_nobody(args));
    assert_eq!(read(&["get-property", NAME, ENF0, TUNNEL, "State"]), "s \"disconnected\"\n");
    assert_eq!(read(&["get-property", NAME, ENF0, STATISTICS, "RxBytes"]), "t 0\n");
    assert!(read(&["call", NAME, ROOT, MANAGER, "GetTunnel", "s", "enf0"]).contains(ENF0));
    assert!(read(&["call", NAME, ROOT, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects"]).contains(ENF0));
    assert_eq!(read(&["call", NAME, ROOT, FIREWALL, "Verify"]), "b true\n");
    assert_eq!(read(&["get-property", NAME, ROOT, FIREWALL, "InForce"]), "b true\n");
    assert!(read(&["call", NAME, ROOT, MANAGER, "GetPlan", "s", "enf0"]).contains("enf0"));
    assert!(read(&["introspect", NAME, ENF0]).contains("StateChanged"));
    assert_eq!(read(&["call", NAME, ENF0, "org.freedesktop.DBus.Peer", "Ping"]), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn properties_answer_while_the_daemon_answers_nothing() {
    let Some(bus) = PrivateBus::start("properties_answer_while_the_daemon_answers_nothing") else { return };
    let (daemon, core, mut commands) = Simulation::stuck(&["enf0"]);
    let _served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    // Far more calls than the daemon's queue holds, and not one is answered.
    let mut calls: Vec<_> = (0..40)
        .map(|_| {
            bus.command("busctl").args(["--system", "call", NAME, ENF0, TUNNEL, "Connect", "u", "0"]).spawn().unwrap()
        })
        .collect();
    let held = tokio::time::timeout(std::time::Duration::from_secs(30), commands.recv()).await.unwrap().unwrap();
    daemon.transition("enf0", Phase::Connecting, Reason::User);
    bus.shows("enf0", "State", "s \"connecting\"");
    assert_eq!(property(&bus, ENF0, STATISTICS, "RxBytes"), "t 0");
    assert!(stdout(bus.busctl(&["call", NAME, ROOT, MANAGER, "GetTunnel", "s", "enf0"])).contains(ENF0));
    assert!(calls.iter_mut().all(|call| call.try_wait().unwrap().is_none()), "a call was answered");
    // The control: once the daemon answers, they end.
    held.reply.send(Ok(Answer::Done)).unwrap();
    tokio::spawn(async move {
        while let Some(command) = commands.recv().await {
            command.reply.send(Ok(Answer::Done)).unwrap();
        }
    });
    for mut call in calls {
        assert!(call.wait().unwrap().success());
    }
}

/// The members of an interface, each as its tags in one line, without comments: `name` stands before the rest.
fn members(xml: &str, interface: &str) -> BTreeMap<String, String> {
    let mut text = String::new();
    let mut rest = xml;
    while let Some((before, after)) = rest.split_once("<!--") {
        text.push_str(before);
        rest = after.split_once("-->").unwrap().1;
    }
    text.push_str(rest);
    let (_, body) = text.split_once(&format!("<interface name=\"{interface}\">")).expect("the interface is there");
    let (body, _) = body.split_once("</interface>").unwrap();
    let mut members = BTreeMap::new();
    let mut open: Option<(String, String)> = None;
    for tag in body.split('<').map(str::trim).filter(|tag| !tag.is_empty()) {
        let kind = tag.trim_start_matches('/').split([' ', '>', '/']).next().unwrap();
        let is_member = ["method", "signal", "property"].contains(&kind);
        if is_member && !tag.starts_with('/') {
            let name = tag.split_once("name=\"").unwrap().1.split('"').next().unwrap();
            open = Some((format!("{kind} {name}"), String::new()));
        }
        let member = &mut open.as_mut().expect("a tag outside a member").1;
        member.push_str(tag.trim_end_matches("/>").trim_end_matches('>'));
        member.push('\n');
        if is_member && (tag.starts_with('/') || tag.ends_with("/>")) {
            let (name, tags) = open.take().unwrap();
            // `<method ...></method>` and `<method .../>` are the same.
            let tags = tags.trim_end_matches(&format!("/{kind}\n")).to_owned();
            assert!(members.insert(name, tags).is_none(), "declared twice: {kind}");
        }
    }
    members
}

#[tokio::test(flavor = "multi_thread")]
async fn the_live_objects_are_exactly_what_the_xml_files_say() {
    let Some(bus) = PrivateBus::start("the_live_objects_are_exactly_what_the_xml_files_say") else { return };
    let (daemon, core) = Simulation::new(&["desk", "enf0"]);
    daemon.group("lan", |_| ());
    daemon.forwards("desk");
    let _served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    let mut served = BTreeSet::new();
    let mut documented = BTreeSet::new();
    for (path, interface, own) in [
        (ROOT, MANAGER, 19),
        (ROOT, FIREWALL, 7),
        (ENF0, TUNNEL, 28),
        (ENF0, STATISTICS, 10),
        ("/org/enftun/Enftun1/tunnel/desk", "org.enftun.Enftun1.Tunnel.Forwards", 6),
        ("/org/enftun/Enftun1/group/lan", "org.enftun.Enftun1.TrustedGroup", 7),
    ] {
        let file = format!("{}/dbus/{interface}.xml", env!("CARGO_MANIFEST_DIR"));
        let contract = members(&std::fs::read_to_string(file).unwrap(), interface);
        assert_eq!(contract.len(), own, "{interface}: {:?}", contract.keys());
        let json = stdout(bus.busctl(&[
            "--json=short",
            "call",
            NAME,
            path,
            "org.freedesktop.DBus.Introspectable",
            "Introspect",
        ]));
        let reply: serde_json::Value = serde_json::from_str(&json).unwrap();
        let xml = reply["data"][0].as_str().unwrap();
        assert_eq!(members(xml, interface), contract, "{interface}");
        let interfaces = xml.split("<interface name=\"").skip(1).map(|rest| rest.split('"').next().unwrap());
        served.extend(interfaces.filter(|name| name.starts_with("org.enftun.")).map(str::to_owned));
        documented.insert(interface.to_owned());
    }
    assert_eq!(served, documented, "nothing is served that has no file");
}
