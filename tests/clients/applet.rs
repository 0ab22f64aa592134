//! What enftun-applet shows and does, read and clicked over the bus as a panel would.

use crate::common::bus::{PrivateBus, has, own_uid};
use crate::common::skip;
use crate::desktop::{Applet, Desktop, eventually};
use crate::simulation::{Simulation, failure};
use enftun::config::Severity;
use enftun::daemon::{Refusal, Request};
use enftun::dbus::{self, Bus};
use enftun::state::health::{Code, Warning};
use enftun::state::{Phase, Reason};
use std::process::Output;

/// A desktop without a screen, a system bus, a daemon with one tunnel, and the applet.
struct Scene {
    applet: Applet,
    daemon: Simulation,
    served: Bus,
    desktop: Desktop,
    bus: PrivateBus,
}

async fn scene(test: &str) -> Option<Scene> {
    let bus = PrivateBus::start(test)?;
    let desktop = Desktop::without_screen(test)?;
    let (daemon, core) = Simulation::new(&["enf0"]);
    let served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    let applet = desktop.applet(&bus).await;
    Some(Scene { applet, daemon, served, desktop, bus })
}

const DISCONNECTED: &str = "\
- enftun: disconnected
- Traffic has no way around the tunnels
----
enf0: disconnected
    Connect
    - Disconnect
    - Reconnect
----
Quit this applet
";

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_is_connected_reconnected_and_disconnected_by_clicks() {
    let Some(scene) = scene("a_tunnel_is_connected_reconnected_and_disconnected_by_clicks").await else { return };
    scene.applet.shows(DISCONNECTED).await;
    scene.applet.click(&["enf0: disconnected", "Connect"]).await;
    eventually("the daemon to be asked", async || !scene.daemon.requests().is_empty()).await;
    scene.daemon.connected("enf0");
    let connected = "\
- enftun: connected
- Traffic has no way around the tunnels
----
enf0: connected
    - router.example.net:443
    - fd00:8f80::1/128
    ----
    - Connect
    Disconnect
    Reconnect
----
Quit this applet
";
    scene.applet.shows(connected).await;
    scene.applet.click(&["enf0: connected", "Reconnect"]).await;
    eventually("the tunnel to be connecting", async || scene.applet.title().await.unwrap() == "enftun: connecting")
        .await;
    scene.applet.click(&["enf0: connecting", "Disconnect"]).await;
    eventually("the tunnel to be off", async || scene.applet.title().await.unwrap() == "enftun: disconnected").await;
    let name = || "enf0".to_owned();
    let asked = [Request::Connect(name()), Request::Reconnect(name()), Request::Disconnect(name())];
    assert_eq!(scene.daemon.requests(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_grey_is_not_done_even_when_a_click_comes() {
    let Some(scene) = scene("what_is_grey_is_not_done_even_when_a_click_comes").await else { return };
    scene.applet.shows(DISCONNECTED).await;
    scene.applet.click(&["enf0: disconnected", "Disconnect"]).await;
    // Calls are made in order: had the first click done something, it would be there before the second.
    scene.applet.click(&["enf0: disconnected", "Connect"]).await;
    eventually("the second click to be done", async || !scene.daemon.requests().is_empty()).await;
    assert_eq!(scene.daemon.requests(), [Request::Connect("enf0".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tunnels_come_and_go_and_their_failures_are_told() {
    let Some(scene) = scene("tunnels_come_and_go_and_their_failures_are_told").await else { return };
    scene.daemon.add("my_lab");
    scene.daemon.connected("enf0");
    scene.daemon.tunnel("my_lab", |tunnel| tunnel.target = enftun::state::Target::Up);
    scene.daemon.fail("my_lab", Phase::Error, failure(Reason::AuthFailed, "the router does not know this certificate"));
    let degraded = "\
- enftun: degraded
- Traffic has no way around the tunnels
----
enf0: connected
    - router.example.net:443
    - fd00:8f80::1/128
    ----
    - Connect
    Disconnect
    Reconnect
my_lab: error
    - the router does not know this certificate
    ----
    - Connect
    Disconnect
    Reconnect
----
Quit this applet
";
    scene.applet.shows(degraded).await;
    let tooltip = "enftun: degraded\nTraffic has no way around the tunnels\nenf0: connected\nmy_lab: error";
    assert_eq!(scene.applet.tooltip().await, tooltip);
    scene.daemon.remove("enf0");
    eventually("only the failed one to be left", async || scene.applet.title().await.unwrap() == "enftun: error").await;
    assert_eq!(scene.applet.read::<String>("Status").await.unwrap(), "NeedsAttention");
    assert!(!scene.applet.menu_text().await.contains("enf0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn warnings_are_in_the_menu_and_on_the_icon_until_they_are_over() {
    let Some(scene) = scene("warnings_are_in_the_menu_and_on_the_icon_until_they_are_over").await else { return };
    scene.applet.shows(DISCONNECTED).await;
    let icon = async || scene.applet.read::<Vec<(i32, i32, Vec<u8>)>>("IconPixmap").await.unwrap();
    let before = icon().await;
    let grave = Warning::new(Code::HostRuleMissing, Severity::Error, "a rule of the host is gone");
    let other = Warning::new(Code::CertificateExpires, Severity::Warning, "the certificate expires in 12 days");
    scene.daemon.edit(|snapshot| snapshot.warnings = vec![grave, other.of("enf0")]);
    let warned = "\
- enftun: disconnected
- Traffic has no way around the tunnels
----
enf0: disconnected
    Connect
    - Disconnect
    - Reconnect
----
- Error: a rule of the host is gone
- Warning: enf0: the certificate expires in 12 days
----
Quit this applet
";
    scene.applet.shows(warned).await;
    let tooltip = scene.applet.tooltip().await;
    assert!(tooltip.ends_with("is gone\nWarning: enf0: the certificate expires in 12 days"), "{tooltip}");
    assert_eq!(scene.applet.read::<String>("Status").await.unwrap(), "NeedsAttention");
    assert_ne!(icon().await, before);
    scene.daemon.edit(|snapshot| snapshot.warnings.clear());
    scene.applet.shows(DISCONNECTED).await;
    assert_eq!(scene.applet.read::<String>("Status").await.unwrap(), "Active");
    assert_eq!(icon().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_goes_and_comes() {
    let Some(Scene { applet, daemon, served, bus, desktop: _desktop }) = scene("the_daemon_goes_and_comes").await
    else {
        return;
    };
    applet.shows(DISCONNECTED).await;
    served.close().await;
    let absent = "\
- enftun: enftund is not running
- What was blocked stays blocked
----
Quit this applet
";
    applet.shows(absent).await;
    drop(daemon);
    let (daemon, core) = Simulation::new(&["enf0"]);
    let _served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    applet.shows(DISCONNECTED).await;
    applet.click(&["enf0: disconnected", "Connect"]).await;
    eventually("the new daemon to be asked", async || !daemon.requests().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_system_bus_goes_and_comes() {
    let test = "the_system_bus_goes_and_comes";
    let Some(mut scene) = scene(test).await else { return };
    scene.applet.shows(DISCONNECTED).await;
    scene.bus.kill();
    eventually("the applet to notice", async || scene.applet.title().await.unwrap().contains("system bus")).await;
    drop(scene.served);
    scene.bus.restart();
    let (_daemon, core) = Simulation::new(&["enf0", "enf1"]);
    let _served = dbus::serve_at(&scene.bus.address(), core, own_uid()).await.unwrap();
    eventually("the second tunnel", async || scene.applet.menu_text().await.contains("enf1: disconnected")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_call_is_shown_and_told_and_can_be_dismissed() {
    let Some(scene) = scene("a_refused_call_is_shown_and_told_and_can_be_dismissed").await else { return };
    let notifications = Notifications::serve(&scene.desktop).await;
    scene.applet.shows(DISCONNECTED).await;
    scene.daemon.refuse(Refusal::ShuttingDown);
    scene.applet.click(&["enf0: disconnected", "Connect"]).await;
    let complaint = "Connect enf0 failed: the daemon is shutting down";
    eventually("the complaint", async || scene.applet.menu_text().await.contains(&format!("\n{complaint}\n"))).await;
    assert!(scene.applet.tooltip().await.ends_with(complaint));
    eventually("the notification", async || !notifications.lock().unwrap().is_empty()).await;
    assert_eq!(*notifications.lock().unwrap(), [complaint]);
    scene.applet.click(&[complaint]).await;
    scene.applet.shows(DISCONNECTED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_one_applet_in_a_session_until_it_is_told_to_quit() {
    let Some(mut scene) = scene("there_is_one_applet_in_a_session_until_it_is_told_to_quit").await else { return };
    let second = scene.desktop.applet_command(&scene.bus).output().unwrap();
    assert_eq!(complaint(&second), "enftun-applet: it runs in this session already\n");
    scene.applet.click(&["Quit this applet"]).await;
    eventually("the applet to end", async || scene.applet.process.outcome().is_some_and(|outcome| outcome.success()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_with_the_session() {
    let Some(mut scene) = scene("it_ends_with_the_session").await else { return };
    scene.applet.shows(DISCONNECTED).await;
    assert!(scene.applet.process.outcome().is_none());
    scene.desktop.log_out();
    eventually("the applet to end", async || scene.applet.process.outcome().is_some_and(|outcome| outcome.success()))
        .await;
}

#[test]
fn the_program_explains_itself() {
    let run = |argument: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_enftun-applet"));
        command.args(argument).env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent").output().unwrap()
    };
    let version = run(&["--version"]);
    assert_eq!(version.stdout, format!("enftun-applet {}\n", env!("CARGO_PKG_VERSION")).into_bytes());
    let help = String::from_utf8(run(&["--help"]).stdout).unwrap();
    assert!(help.contains("notification area"), "{help}");
    assert_eq!(run(&["--nonsense"]).status.code(), Some(2));
    let nowhere = complaint(&run(&[]));
    assert!(nowhere.starts_with("enftun-applet: cannot reach the session bus"), "{nowhere}");
}

#[test]
fn it_needs_nothing_of_the_library() {
    let bin = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin");
    let uses = |file: &std::path::Path| std::fs::read_to_string(file).unwrap().contains("enftun::");
    assert!(uses(&bin.join("enftund.rs")), "what does need it is recognised");
    let files = std::fs::read_dir(bin.join("enftun-applet")).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> = files.inspect(|file| assert!(!uses(file), "{}", file.display())).collect();
    assert!(files.len() > 5);
}

#[test]
fn desktops_understand_its_entry_in_their_menus() {
    let test = "desktops_understand_its_entry_in_their_menus";
    if !has("desktop-file-validate") {
        return skip(test, "desktop-file-validate is missing");
    }
    let entry = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/enftun-applet.desktop");
    let output = std::process::Command::new("desktop-file-validate").arg(entry).output().unwrap();
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
}

fn complaint(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A desktop's notifications: what was to be shown.
struct Notifications(std::sync::Arc<std::sync::Mutex<Vec<String>>>);

#[zbus::interface(name = "org.freedesktop.Notifications")]
impl Notifications {
    #[allow(clippy::too_many_arguments, reason = "the standard has them")]
    fn notify(
        &self,
        _program: &str,
        _replaces: u32,
        _icon: &str,
        _summary: &str,
        body: &str,
        _actions: Vec<String>,
        _hints: std::collections::HashMap<String, zbus::OwnedVariant>,
        _timeout: i32,
    ) -> u32 {
        self.0.lock().unwrap().push(body.to_owned());
        1
    }
}

impl Notifications {
    async fn serve(desktop: &Desktop) -> std::sync::Arc<std::sync::Mutex<Vec<String>>> {
        let shown = std::sync::Arc::<std::sync::Mutex<Vec<String>>>::default();
        let connection = desktop.connect().await;
        connection.object_server().at("/org/freedesktop/Notifications", Self(shown.clone())).await.unwrap();
        connection.request_name("org.freedesktop.Notifications").await.unwrap();
        tokio::spawn(async move { connection.closed().await });
        shown
    }
}
