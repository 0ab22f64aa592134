//! enftun-applet in the hands of an ordinary user, about whom a real polkitd decides.

use crate::common::bus::{PrivateBus, no_other_uid, own_uid};
use crate::common::polkit::Polkit;
use crate::common::skip;
use crate::desktop::{Desktop, eventually};
use crate::simulation::Simulation;
use enftun::daemon::Request;
use enftun::dbus;
use std::path::Path;

#[tokio::test(flavor = "multi_thread")]
async fn what_asks_for_a_password_says_so_and_what_is_refused_is_grey_as_soon_as_polkit_says_it() {
    let test = "what_asks_for_a_password_says_so_and_what_is_refused_is_grey_as_soon_as_polkit_says_it";
    let Some(bus) = PrivateBus::start(test) else { return };
    let Some(desktop) = Desktop::without_screen(test) else { return };
    if let Some(reason) = no_other_uid() {
        return skip(test, reason);
    }
    let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("dbus/org.enftun.Enftun1.policy");
    let Some(polkit) = Polkit::start(&bus, &[&policy]) else { return skip(test, "polkitd is missing") };
    let (daemon, core) = Simulation::new(&["enf0"]);
    let _served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    let applet = desktop.applet_of_nobody(&bus).await;

    // Somebody without a session needs an administrator for everything.
    let menu = |below: &str| {
        let state = if below.contains("router") { "connected" } else { "disconnected" };
        format!(
            "- enftun: {state}\n- Traffic has no way around the tunnels\n----\nenf0: {state}\n{below}----\nQuit this applet\n"
        )
    };
    applet.shows(&menu("    Connect…\n    - Disconnect…\n    - Reconnect…\n")).await;
    applet.click(&["enf0: disconnected", "Connect…"]).await;
    // The call allowed a prompt; nobody is here to show one.
    let refused = "Connect enf0 failed: org.enftun.Enftun1.connect needs authentication, and nobody could be asked";
    eventually("the refusal", async || applet.tooltip().await.contains(refused)).await;

    polkit.rule(
        "polkit.addRule(function (action, subject) {
             if (action.id == \"org.enftun.Enftun1.connect\") return polkit.Result.YES;
             if (action.id == \"org.enftun.Enftun1.disconnect\") return polkit.Result.NO;
         });",
    );
    eventually("the menu to follow", async || applet.menu_text().await.contains("    Connect\n    - Disconnect\n"))
        .await;
    assert_eq!(daemon.requests(), []);
    applet.click(&["enf0: disconnected", "Connect"]).await;
    eventually("the daemon to be asked", async || !daemon.requests().is_empty()).await;
    daemon.connected("enf0");
    // And the complaint is gone, as the next call succeeded.
    let connected = "    - router.example.net:443\n    - fd00:8f80::1/128\n    ----\n    - Connect\n    - Disconnect\n    Reconnect\n";
    applet.shows(&menu(connected)).await;
    applet.click(&["enf0: connected", "Disconnect"]).await;
    applet.click(&["enf0: connected", "Reconnect"]).await;
    eventually("the second call", async || daemon.requests().len() > 1).await;
    assert_eq!(daemon.requests(), [Request::Connect("enf0".to_owned()), Request::Reconnect("enf0".to_owned())]);
    assert!(daemon.asked().iter().all(|(_, caller)| caller.uid == Some(65534)));
}
