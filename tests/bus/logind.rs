//! Sleep as logind announces it reaches the daemon, and nobody else's word for it does.

use crate::common::bus::{PrivateBus, own_uid, stdout};
use crate::common::logind::{Logind, MANAGER, NAME, OBJECT};
use crate::common::wait_for;
use crate::simulation::Simulation;
use enftun::daemon::Request;
use enftun::dbus;
use zbus::Connection;
use zbus::message::Message;

fn told(daemon: &Simulation) -> Vec<bool> {
    let asleep = |request: &Request| match request {
        Request::Sleep(asleep) => Some(*asleep),
        _ => None,
    };
    daemon.requests().iter().filter_map(asleep).collect()
}

/// Logind goes to sleep and wakes up until the daemon is told: it may not know yet that this is logind.
fn until_told(logind: &Logind, bus: &PrivateBus, daemon: &Simulation) {
    let before = told(daemon).len();
    wait_for("logind to be heard", || {
        logind.prepare_for_sleep(bus, false);
        told(daemon).len() > before
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn sleep_and_waking_up_are_passed_on_in_order() {
    let test = "sleep_and_waking_up_are_passed_on_in_order";
    let Some(bus) = PrivateBus::start(test) else { return };
    let Some(logind) = Logind::start(test, &bus) else { return };
    let (daemon, core) = Simulation::new(&["enf0"]);
    let _served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    until_told(&logind, &bus, &daemon);
    let before = told(&daemon).len();
    let all = [true, false, true, false];
    all.iter().for_each(|asleep| logind.prepare_for_sleep(&bus, *asleep));
    wait_for("all of it", || told(&daemon).len() >= before + all.len());
    let told = told(&daemon);
    assert_eq!(told[told.len() - all.len()..], all);
    let (_, caller) = daemon.asked().pop().unwrap();
    assert_eq!(caller.to_string(), "systemd-logind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logind_that_comes_later_or_again_is_heard() {
    let test = "a_logind_that_comes_later_or_again_is_heard";
    let Some(bus) = PrivateBus::start(test) else { return };
    let (daemon, core) = Simulation::new(&["enf0"]);
    let _served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    for _ in 0..3 {
        let Some(logind) = Logind::start(test, &bus) else { return };
        until_told(&logind, &bus, &daemon);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_is_believed() {
    let test = "nobody_else_is_believed";
    let Some(bus) = PrivateBus::start(test) else { return };
    let (daemon, core) = Simulation::new(&["enf0"]);
    let _served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    let stranger = zbus::connection::Builder::address(bus.address().as_str()).build().await.unwrap();
    for there in [false, true] {
        let logind = if there {
            let Some(logind) = Logind::start(test, &bus) else { return };
            until_told(&logind, &bus, &daemon);
            Some(logind)
        } else {
            None
        };
        let before = told(&daemon);
        // To all, and, past all rules of who is heard, to the daemon alone; more than any queue holds.
        for _ in 0..300 {
            announce(&stranger, None).await;
            announce(&stranger, Some(dbus::NAME)).await;
        }
        // And as one whom the bus is said to have just given the name.
        let own = stranger.unique_name().unwrap().to_string();
        let granted = Message::signal("/org/freedesktop/DBus", "org.freedesktop.DBus", "NameOwnerChanged");
        let granted = granted.destination(dbus::NAME).build(&(NAME, "", own.as_str())).unwrap();
        stranger.send(&granted).await.unwrap();
        announce(&stranger, Some(dbus::NAME)).await;
        // What the daemon answers after all that, it answers when it has read all that.
        let answer = stranger.call_method(
            Some(dbus::NAME),
            "/org/enftun/Enftun1",
            Some("org.freedesktop.DBus.Peer"),
            "Ping",
            &(),
        );
        answer.await.unwrap();
        stdout(bus.busctl(&[
            "get-property",
            dbus::NAME,
            "/org/enftun/Enftun1",
            "org.enftun.Enftun1.Manager",
            "Version",
        ]));
        if let Some(logind) = logind {
            // The forged word has not deafened it either.
            until_told(&logind, &bus, &daemon);
            assert!(!told(&daemon).contains(&true), "{:?}", told(&daemon));
        } else {
            assert_eq!(told(&daemon), before);
        }
    }
}

async fn announce(stranger: &Connection, to: Option<&str>) {
    let mut signal = Message::signal(OBJECT, MANAGER, "PrepareForSleep");
    if let Some(to) = to {
        signal = signal.destination(to);
    }
    stranger.send(&signal.build(&true).unwrap()).await.unwrap();
}
