//! enftun-applet in xfce4-panel: somebody else's watcher, menu and pixels. With `ENFTUN_PICTURES=docs` these tests also write
//! the pictures that stand there.

use crate::common::bus::{PrivateBus, own_uid};
use crate::desktop::{Desktop, eventually, watcher};
use crate::screen::{Area, Picture};
use crate::simulation::Simulation;
use enftun::config::Severity;
use enftun::daemon::Request;
use enftun::dbus;
use enftun::state::health::{Code, Warning};
use enftun::state::{Phase, Target};
use std::path::PathBuf;
use std::sync::Arc;

/// Where pictures go, if they are wanted.
fn pictures() -> Option<PathBuf> {
    std::env::var_os("ENFTUN_PICTURES").map(|directory| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(directory))
}

/// Two tunnels, in one snapshot, with or without a warning.
fn put(daemon: &Simulation, tunnels: [(Target, Phase); 2], blocking: bool, warned: bool) {
    daemon.edit(|snapshot| {
        snapshot.warnings = if warned { vec![warning()] } else { Vec::new() };
        for (tunnel, (target, state)) in snapshot.tunnels.values_mut().zip(tunnels) {
            let tunnel = Arc::make_mut(tunnel);
            (tunnel.target, tunnel.state, tunnel.blocking) = (target, state, blocking);
        }
    });
}

fn warning() -> Warning {
    Warning::new(Code::CertificateExpires, Severity::Warning, "the certificate expires in 12 days").of("enf0")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_panel_shows_a_shape_of_its_own_for_each_state_and_nothing_in_the_end() {
    let test = "the_panel_shows_a_shape_of_its_own_for_each_state_and_nothing_in_the_end";
    let Some(bus) = PrivateBus::start(test) else { return };
    let Some(desktop) = Desktop::start(test).await else { return };
    let (daemon, core) = Simulation::new(&["enf0", "enf1"]);
    let served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    let screen = desktop.screen();
    let empty = screen.picture();

    let (off, on) = ((Target::Down, Phase::Disconnected), (Target::Up, Phase::Connected));
    let (dialling, failed) = ((Target::Up, Phase::Connecting), (Target::Up, Phase::Error));
    put(&daemon, [off, off], false, false);
    let applet = desktop.applet(&bus).await;
    let connection = desktop.connect().await;
    eventually("the panel to have it", async || watcher(&connection).await.unwrap().len() == 1).await;
    let (first, _) = screen.settled(|picture| picture.difference(&empty)).await;
    let mut shown = vec![("disconnected", first)];
    for (name, tunnels, warned) in [
        ("disconnected, blocked", [off, off], false),
        ("connecting", [dialling, off], false),
        ("connected", [on, on], false),
        ("connected, with a warning", [on, on], true),
        ("degraded", [on, dialling], false),
        ("error", [failed, off], false),
    ] {
        put(&daemon, tunnels, true, warned);
        let last = shown.last().unwrap().1.clone();
        let (picture, _) = screen.settled(|picture| picture.difference(&last)).await;
        shown.push((name, picture));
    }
    served.close().await;
    let last = shown.last().unwrap().1.clone();
    let (picture, _) = screen.settled(|picture| picture.difference(&last)).await;
    shown.push(("no daemon", picture));

    let area = shown.iter().map(|(_, picture)| picture.difference(&empty).unwrap()).reduce(Area::and).unwrap();
    assert!(area.right - area.left <= 40 && area.bottom - area.top <= 40, "nothing but an icon: {area:?}");
    // For those who do not see colours: where something is painted differs.
    let ground = empty.cut(area);
    let icons: Vec<_> = shown.iter().map(|(name, picture)| (name, picture.cut(area))).collect();
    for (at, (name, icon)) in icons.iter().enumerate() {
        for (other_name, other) in &icons[..at] {
            let (mask, other) = (icon.mask(&ground), other.mask(&ground));
            let different = mask.iter().zip(other).filter(|(a, b)| **a != *b).count();
            assert!(different >= 20, "{name} and {other_name} differ in {different} pixels");
        }
    }
    let green = |at: usize| icons[at].1.count([0x2e, 0xa0, 0x4e]);
    assert!(
        green(3) >= 50 && green(6) == 0,
        "connected is green, {} pixels, and an error is not: {}",
        green(3),
        green(5)
    );
    if let Some(directory) = pictures() {
        let area = Area { left: area.left - 4, top: area.top - 2, right: area.right + 4, bottom: area.bottom + 2 };
        let icons: Vec<_> = shown.iter().map(|(_, picture)| picture.cut(area)).collect();
        Picture::doubled(&icons).save(&directory.join("applet-icons.png"));
    }
    drop(applet);
    screen.settled(|picture| (*picture == empty).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panel_that_comes_later_or_again_gets_the_item() {
    let test = "a_panel_that_comes_later_or_again_gets_the_item";
    let Some(bus) = PrivateBus::start(test) else { return };
    let Some(mut desktop) = Desktop::start(test).await else { return };
    let connection = desktop.connect().await;
    desktop.stop_panel();
    eventually("the panel to be gone", async || watcher(&connection).await.is_none()).await;
    let _applet = desktop.applet(&bus).await;
    for _ in 0..2 {
        desktop.start_panel().await;
        eventually("the panel to have it", async || watcher(&connection).await.is_some_and(|all| all.len() == 1)).await;
        desktop.stop_panel();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_opens_the_menu_with_the_mouse_and_disconnects() {
    let test = "a_person_opens_the_menu_with_the_mouse_and_disconnects";
    let Some(bus) = PrivateBus::start(test) else { return };
    let Some(desktop) = Desktop::start(test).await else { return };
    let (daemon, core) = Simulation::new(&["enf0", "office"]);
    let _served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    daemon.connected("enf0");
    daemon.edit(|snapshot| snapshot.warnings.push(warning()));
    desktop.paint("#41607a");
    let screen = desktop.screen();
    let (empty, ()) = screen.settled(|picture| (picture.pixel(400, 400) != [255; 3]).then_some(())).await;
    let _applet = desktop.applet(&bus).await;
    let (icon, place) = screen.settled(|picture| picture.difference(&empty)).await;
    // Where the pointer does not hide it.
    let [x, y] = [place.right - 2, place.bottom - 2].map(|at| at.to_string());
    desktop.input(&["mousemove", &x, &y]);
    let (pointed, _) = screen.settled(|picture| picture.difference(&icon)).await;
    desktop.input(&["click", "1"]);
    // Only menus are white.
    let white = |picture: &Picture| picture.count([255; 3]);
    let (menu, ()) = screen.settled(|picture| (white(picture) > 10_000).then_some(())).await;
    // The first entry that is not grey is the first tunnel, and the first of its own is to disconnect it.
    desktop.input(&["key", "Down"]);
    desktop.input(&["key", "Right"]);
    let (opened, ()) = screen.settled(|picture| (white(picture) > white(&menu) + 5_000).then_some(())).await;
    if let Some(directory) = pictures() {
        let area = opened.difference(&pointed).unwrap();
        let area = Area { left: area.left - 24, top: 0, right: opened.width, bottom: area.bottom + 24 };
        opened.cut(area).save(&directory.join("applet.png"));
    }
    desktop.input(&["key", "Return"]);
    eventually("the daemon to be asked", async || !daemon.requests().is_empty()).await;
    assert_eq!(daemon.requests(), [Request::Disconnect("enf0".to_owned())]);
}
