//! Coming onto the bus and leaving it.

use crate::common::bus::{PrivateBus, own_uid, stdout};
use crate::simulation::Simulation;
use enftun::dbus::{self, BusError};
use enftun::error::{Class, chain};
use std::time::Duration;

const TUNNEL: [&str; 4] = ["get-property", dbus::NAME, "/org/enftun/Enftun1/tunnel/enf0", "org.enftun.Enftun1.Tunnel"];

fn state(bus: &PrivateBus) -> std::process::Output {
    bus.busctl(&[&TUNNEL[..], &["State"]].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_is_told_who_has_the_name_and_the_first_is_undisturbed() {
    let Some(bus) = PrivateBus::start("a_second_daemon_is_told_who_has_the_name_and_the_first_is_undisturbed") else {
        return;
    };
    let (_first, core) = Simulation::new(&["enf0"]);
    let served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    let (_second, core) = Simulation::new(&["other"]);
    let error = dbus::serve_at(&bus.address(), core.clone(), own_uid()).await.unwrap_err();
    assert!(matches!(error, BusError::NameTaken { .. }), "{error:?}");
    assert_eq!(error.class(), Class::Environment);
    let process = format!("(process {})", std::process::id());
    assert!(error.to_string().contains(&process), "{error}");
    assert_eq!(stdout(state(&bus)), "s \"disconnected\"\n");
    // Once the first has left, the second gets it.
    served.close().await;
    dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_without_our_policy_is_told_apart() {
    let Some(bus) = PrivateBus::start_without_policy("a_bus_without_our_policy_is_told_apart") else { return };
    let (_daemon, core) = Simulation::new(&["enf0"]);
    let error = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap_err();
    assert!(matches!(error, BusError::NotAllowed { .. }), "{error:?}");
    let text = chain(&error);
    assert!(text.contains("/usr/share/dbus-1/system.d"), "{text}");
    assert!(!text.contains('\n'));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_bus_is_an_error_that_may_pass() {
    let (_daemon, core) = Simulation::new(&["enf0"]);
    let nowhere = tempfile::tempdir().unwrap();
    let address = format!("unix:path={}/none", nowhere.path().display());
    let error = dbus::serve_at(&address, core, own_uid()).await.unwrap_err();
    assert!(matches!(error, BusError::Unreachable(_)), "{error:?}");
    assert_eq!(error.class(), Class::Transient);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_that_dies_is_noticed_and_the_daemon_can_come_back() {
    let Some(mut bus) = PrivateBus::start("a_bus_that_dies_is_noticed_and_the_daemon_can_come_back") else { return };
    let (daemon, core) = Simulation::new(&["enf0"]);
    let served = dbus::serve_at(&bus.address(), core.clone(), own_uid()).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(50), served.closed()).await.is_err(), "it is not closed yet");
    bus.kill();
    tokio::time::timeout(Duration::from_secs(30), served.closed()).await.expect("the end is noticed");
    // The daemon lives on without a bus.
    daemon.connected("enf0");
    let Some(bus) = PrivateBus::start("a_bus_that_dies_is_noticed_and_the_daemon_can_come_back") else { return };
    let _served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    assert_eq!(stdout(state(&bus)), "s \"connected\"\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_takes_the_objects_off_the_bus_even_in_the_middle_of_a_call() {
    let Some(bus) = PrivateBus::start("leaving_takes_the_objects_off_the_bus_even_in_the_middle_of_a_call") else {
        return;
    };
    let (_daemon, core, mut commands) = Simulation::stuck(&["enf0"]);
    let served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    let mut call = bus
        .command("busctl")
        .args(["--system", "call", dbus::NAME, TUNNEL[2], TUNNEL[3], "Connect", "u", "0"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let _held = commands.recv().await.unwrap();
    assert!(state(&bus).status.success());
    served.close().await;
    assert!(!call.wait().unwrap().success(), "the call ends, without success");
    assert!(!state(&bus).status.success());
}
