//! What the bus is told, and that it is told exactly once and in order.

use crate::common::bus::{PrivateBus, own_uid};
use crate::listener::{Listener, Signal};
use crate::simulation::{Simulation, tamper, transition};
use enftun::dbus;
use enftun::state::{Phase, Reason};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::Stdio;

const ENF0: &str = "/org/enftun/Enftun1/tunnel/enf0";
const ENF1: &str = "/org/enftun/Enftun1/tunnel/enf1";
const ROOT: &str = "/org/enftun/Enftun1";
const TUNNEL: &str = "org.enftun.Enftun1.Tunnel";

fn properties(path: &str, interface: &str, changed: &[(&str, &str)]) -> Signal {
    let changed = changed.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Signal::Properties(path.to_owned(), interface.to_owned(), changed)
}

/// Says on the bus that a test's story is over, so that the listener knows that nothing more will come of it.
fn full_stop(daemon: &Simulation) {
    daemon.tunnel("enf0", |tunnel| tunnel.mtu = 1496);
}

fn is_full_stop(signal: &Signal) -> bool {
    matches!(signal, Signal::Properties(_, _, changed) if changed.get("Mtu").is_some_and(|mtu| mtu.ends_with("1496")))
}

#[tokio::test(flavor = "multi_thread")]
async fn properties_changed_names_exactly_what_changed() {
    let Some(bus) = PrivateBus::start("properties_changed_names_exactly_what_changed") else { return };
    let (daemon, core) = Simulation::new(&["enf0", "enf1"]);
    let _served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    let mut listener = Listener::new(&bus).await;
    daemon.tunnel("enf0", |tunnel| tunnel.attempt = 3);
    assert_eq!(listener.next().await, properties(ENF0, TUNNEL, &[("Attempt", "uint32 3")]));
    // A new value that is equal to the old one is no change, and neither are counters.
    daemon.tunnel("enf1", |tunnel| tunnel.attempt = 0);
    daemon.counters("enf0").received_units(1, 1000);
    daemon.edit(|_| {});
    daemon.edit(|snapshot| {
        for tunnel in snapshot.tunnels.values_mut() {
            std::sync::Arc::make_mut(tunnel).blocking = false;
        }
        let enf1 = std::sync::Arc::make_mut(snapshot.tunnels.get_mut("enf1").unwrap());
        enf1.addresses = vec!["fd00::1/128".parse().unwrap()];
    });
    assert_eq!(listener.next().await, properties(ENF0, TUNNEL, &[("Blocking", "false")]));
    assert_eq!(
        listener.next().await,
        properties(ENF1, TUNNEL, &[("Addresses", "[\"fd00::1/128\"]"), ("Blocking", "false")])
    );
    assert_eq!(listener.next().await, properties(ROOT, "org.enftun.Enftun1.Manager", &[("Blocking", "false")]));
    full_stop(&daemon);
    assert_eq!(listener.next().await, properties(ENF0, TUNNEL, &[("Mtu", "uint32 1496")]));
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_quick_changes_of_state_are_all_told_in_order() {
    let Some(bus) = PrivateBus::start("fifty_quick_changes_of_state_are_all_told_in_order") else { return };
    let (daemon, core) = Simulation::new(&["enf0", "enf1"]);
    // What happened before the daemon came onto the bus is not told.
    daemon.transition("enf0", Phase::Error, Reason::Config);
    let _served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    let mut listener = Listener::new(&bus).await;
    let mut expected = Vec::new();
    let mut old = BTreeMap::from([("enf0", "error"), ("enf1", "disconnected")]);
    for number in 0..50 {
        let name = if number % 3 == 0 { "enf1" } else { "enf0" };
        let new = Phase::ALL[number % Phase::ALL.len()];
        let reason = Reason::ALL[number % Reason::ALL.len()];
        // Some snapshots carry one change and some carry several.
        if number % 5 == 0 {
            daemon.edit(|snapshot| {
                transition(snapshot, name, new, reason);
                transition(snapshot, name, Phase::Error, reason);
            });
            expected.push((name, new.as_str(), old[name], reason.as_str()));
            expected.push((name, "error", new.as_str(), reason.as_str()));
            old.insert(name, "error");
        } else {
            daemon.transition(name, new, reason);
            expected.push((name, new.as_str(), old[name], reason.as_str()));
            old.insert(name, new.as_str());
        }
    }
    full_stop(&daemon);
    let signals = listener.until(is_full_stop).await;
    // The full stop's own PropertiesChanged precedes the signals of the states it was coalesced with: read on for those.
    let mut told: Vec<Signal> = signals.into_iter().filter(|signal| matches!(signal, Signal::State(..))).collect();
    while told.len() < expected.len() {
        let signal = listener.next().await;
        told.extend(matches!(signal, Signal::State(..)).then_some(signal));
    }
    let expected: Vec<Signal> = expected
        .into_iter()
        .map(|(name, new, old, reason)| {
            Signal::State(format!("/org/enftun/Enftun1/tunnel/{name}"), new.into(), old.into(), reason.into())
        })
        .collect();
    assert_eq!(told.len(), 60);
    assert_eq!(told, expected);
    daemon.transition("enf0", Phase::Connecting, Reason::Boot);
    let next = listener.until(|signal| matches!(signal, Signal::State(..))).await;
    let told = Signal::State(ENF0.into(), "connecting".into(), old["enf0"].into(), "boot".into());
    assert_eq!(next.last(), Some(&told), "nothing was told twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hears_of_a_state_already_has_its_properties() {
    let Some(bus) = PrivateBus::start("who_hears_of_a_state_already_has_its_properties") else { return };
    let (daemon, core) = Simulation::new(&["enf0"]);
    let _served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    let mut listener = Listener::new(&bus).await;
    daemon.connected("enf0");
    let Signal::Properties(path, _, changed) = listener.next().await else { panic!("PropertiesChanged comes first") };
    assert_eq!(path, ENF0);
    let names: BTreeSet<&str> = changed.keys().map(String::as_str).collect();
    let expected = ["ActiveRemote", "Addresses", "IfIndex", "State", "StateReason", "StateSince", "TargetState", "Tls"];
    assert_eq!(names, BTreeSet::from(expected));
    assert_eq!(listener.next().await, properties(ROOT, "org.enftun.Enftun1.Manager", &[("State", "\"connected\"")]));
    assert_eq!(
        listener.next().await,
        Signal::State(ENF0.into(), "connected".into(), "disconnected".into(), "user".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_follows_the_signals_of_what_the_call_caused() {
    let Some(bus) = PrivateBus::start("an_answer_follows_the_signals_of_what_the_call_caused") else { return };
    let (_daemon, core) = Simulation::new(&["enf0"]);
    let _served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    let mut listener = Listener::new(&bus).await;
    let client = listener.connection.clone();
    for round in 0..20 {
        let method = if round % 2 == 0 { "Connect" } else { "Disconnect" };
        let answer = client.call_method(Some(dbus::NAME), ENF0, Some(TUNNEL), method, &0u32).await.unwrap();
        let last = if round % 2 == 0 { "connecting" } else { "disconnected" };
        // Everything that came before the answer is waiting already: the signal must be among it.
        use futures_util::FutureExt;
        let mut heard = false;
        while let Some(signal) = listener.next().now_or_never() {
            heard |= matches!(&signal, Signal::State(_, new, _, _) if new == last);
        }
        assert!(heard, "round {round}: {method} was answered ({answer:?}) before {last} was told");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tunnels_come_and_go_with_all_their_interfaces() {
    let Some(bus) = PrivateBus::start("tunnels_come_and_go_with_all_their_interfaces") else { return };
    let (daemon, core) = Simulation::new(&["enf0"]);
    let _served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    let mut listener = Listener::new(&bus).await;
    let only = |interface: &str| BTreeSet::from([interface.to_owned()]);
    let statistics = "org.enftun.Enftun1.Tunnel.Statistics";
    daemon.add("enf1");
    assert_eq!(listener.next().await, Signal::Added(ENF1.into(), only(statistics)));
    assert_eq!(listener.next().await, Signal::Added(ENF1.into(), only(TUNNEL)));
    let Signal::Properties(path, _, changed) = listener.next().await else { panic!("the manager has a new tunnel") };
    assert_eq!((path.as_str(), changed.keys().map(String::as_str).collect()), (ROOT, vec!["Tunnels"]));
    let get = || bus.busctl(&["get-property", dbus::NAME, ENF1, TUNNEL, "Name"]);
    assert!(get().status.success());
    daemon.transition("enf1", Phase::Connecting, Reason::User);
    listener.until(|signal| matches!(signal, Signal::State(path, ..) if path == ENF1)).await;
    daemon.remove("enf1");
    let Signal::Properties(path, _, changed) = listener.next().await else { panic!("the manager lost a tunnel") };
    assert_eq!((path.as_str(), changed.keys().map(String::as_str).collect()), (ROOT, vec!["Tunnels"]));
    assert_eq!(listener.next().await, Signal::Removed(ENF1.into(), only(TUNNEL)));
    assert_eq!(listener.next().await, Signal::Removed(ENF1.into(), only(statistics)));
    assert!(!get().status.success());
    // And again: nothing of the old object is left.
    daemon.add("enf1");
    assert_eq!(listener.next().await, Signal::Added(ENF1.into(), only(statistics)));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_repair_is_told_once_and_in_order_and_the_firewall_tells_what_matters() {
    let Some(bus) = PrivateBus::start("every_repair_is_told_once_and_in_order_and_the_firewall_tells_what_matters")
    else {
        return;
    };
    let (daemon, core) = Simulation::new(&["enf0"]);
    daemon.tamper("before the daemon came onto the bus");
    let _served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    let mut listener = Listener::new(&bus).await;
    let told = |what: &str| Signal::Tampered(ROOT.to_owned(), what.to_owned());
    daemon.tamper("first");
    assert_eq!(listener.next().await, told("first"));
    // A look that found all well, and a new text, are read and not told; the rest comes before the repair it belongs to.
    daemon.edit(|snapshot| {
        snapshot.firewall.verified = Some(std::time::SystemTime::now());
        snapshot.firewall.policy = "another".into();
    });
    daemon.edit(|snapshot| {
        snapshot.firewall.in_force = false;
        snapshot.firewall.generation = 7;
        tamper(snapshot, "second");
        tamper(snapshot, "third");
        transition(snapshot, "enf0", Phase::Reconnecting, Reason::LinkLost);
    });
    let of_tunnel = listener.next().await;
    assert!(matches!(&of_tunnel, Signal::Properties(path, ..) if path == ENF0), "{of_tunnel:?}");
    let of_daemon = listener.next().await;
    let firewall = "org.enftun.Enftun1.Firewall";
    let expected = properties(ROOT, firewall, &[("Generation", "uint32 7"), ("InForce", "false")]);
    assert_eq!(of_daemon, expected);
    assert_eq!(listener.next().await, told("second"));
    assert_eq!(listener.next().await, told("third"));
    assert!(matches!(listener.next().await, Signal::State(..)), "then what followed from it");
    // More than a snapshot remembers: the oldest are missed.
    daemon.edit(|snapshot| (0..100).for_each(|number| tamper(snapshot, &number.to_string())));
    for number in 100 - enftun::daemon::snapshot::HISTORY..100 {
        assert_eq!(listener.next().await, told(&number.to_string()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn busctl_monitor_reads_like_prose() {
    let Some(bus) = PrivateBus::start("busctl_monitor_reads_like_prose") else { return };
    let (daemon, core) = Simulation::new(&["enf0"]);
    let _served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    let mut monitor = bus
        .command("busctl")
        .args(["--system", "monitor", dbus::NAME])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It says on stderr that it listens.
    let mut said = String::new();
    BufReader::new(monitor.stderr.take().unwrap()).read_line(&mut said).unwrap();
    assert!(said.contains("Monitoring bus"), "{said}");
    daemon.connected("enf0");
    let mut seen = String::new();
    for line in BufReader::new(monitor.stdout.take().unwrap()).lines() {
        seen.push_str(&line.unwrap());
        seen.push('\n');
        if seen.split_once("Member=StateChanged").is_some_and(|(_, body)| body.contains("};")) {
            break;
        }
    }
    let (_, seen) = seen.split_once("Member=StateChanged").unwrap();
    monitor.kill().unwrap();
    monitor.wait().unwrap();
    for expected in ["STRING \"connected\";", "STRING \"disconnected\";", "STRING \"user\";"] {
        assert!(seen.contains(expected), "{expected} in {seen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_that_is_too_slow_misses_signals_and_never_state() {
    let Some(bus) = PrivateBus::start("a_bus_that_is_too_slow_misses_signals_and_never_state") else { return };
    let (daemon, core) = Simulation::new(&["enf0"]);
    let _served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    let mut listener = Listener::new(&bus).await;
    // More changes between two looks than a snapshot remembers.
    daemon.edit(|snapshot| {
        for _ in 0..50 {
            transition(snapshot, "enf0", Phase::Connecting, Reason::User);
            transition(snapshot, "enf0", Phase::Reconnecting, Reason::Timeout);
        }
    });
    let Signal::Properties(_, _, changed) = listener.next().await else { panic!("PropertiesChanged comes first") };
    assert_eq!(changed["State"], "\"reconnecting\"");
    full_stop(&daemon);
    let told = listener.until(is_full_stop).await;
    let told = told.iter().filter(|signal| matches!(signal, Signal::State(..))).count();
    assert_eq!(told, enftun::daemon::snapshot::HISTORY);
}
