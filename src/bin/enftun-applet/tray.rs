//! The item in the notification area, as `org.kde.StatusNotifierItem` on the session bus: it shows a [`View`], registers with
//! the panels that come and go, and passes on what was clicked. It decides nothing.

use super::daemon::Call;
use super::dbusmenu::{self, Menu};
use super::icon::{self, Pixmap};
use super::menu::Act;
use super::view::{Look, View};
use futures_util::StreamExt;
use std::collections::HashMap;
use tokio::sync::{mpsc, watch};
use zbus::connection::Builder;
use zbus::fdo::{DBusProxy, RequestNameFlags};
use zbus::message::Type;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, MatchRule, MessageStream, OwnedObjectPath, Variant, interface};

const ITEM: &str = "/StatusNotifierItem";
const WATCHER: &str = "org.kde.StatusNotifierWatcher";
/// Whoever has it is the only applet of this session.
const APPLET: &str = "org.enftun.Applet1";

/// Why there is no applet.
#[derive(Debug, thiserror::Error)]
pub enum TrayError {
    #[error("cannot reach the session bus: start this in a desktop session, as the user who sits there")]
    NoSession(#[source] zbus::Error),
    #[error("it runs in this session already")]
    Already,
    #[error("the session bus does not do what it should")]
    Bus(#[from] zbus::Error),
}

#[zbus::proxy(
    interface = "org.kde.StatusNotifierWatcher",
    default_service = "org.kde.StatusNotifierWatcher",
    default_path = "/StatusNotifierWatcher"
)]
trait Watcher {
    fn register_status_notifier_item(&self, service: &str) -> zbus::Result<()>;
}

#[zbus::proxy(
    interface = "org.freedesktop.Notifications",
    default_service = "org.freedesktop.Notifications",
    default_path = "/org/freedesktop/Notifications"
)]
trait Notifications {
    #[allow(clippy::too_many_arguments, reason = "the standard has them")]
    fn notify(
        &self,
        program: &str,
        replaces: u32,
        icon: &str,
        summary: &str,
        body: &str,
        actions: &[&str],
        hints: HashMap<&str, Variant<'_>>,
        timeout: i32,
    ) -> zbus::Result<u32>;
}

/// Shows `view` until the user quits or the session ends.
pub async fn run(
    view: &watch::Sender<View>,
    mut seen: watch::Receiver<View>,
    calls: mpsc::UnboundedSender<Call>,
) -> Result<(), TrayError> {
    let (clicks, mut clicked) = mpsc::unbounded_channel();
    let connection = Builder::session()
        .serve_at(ITEM, Item { seen: seen.clone() })
        .serve_at(dbusmenu::PATH, Menu::new(seen.clone(), clicks))
        .build()
        .await
        .map_err(TrayError::NoSession)?;
    match connection.request_name_with_flags(APPLET, RequestNameFlags::DO_NOT_QUEUE).await {
        Err(zbus::Error::NameTaken) => return Err(TrayError::Already),
        done => done?,
    };
    let rule = MatchRule::builder().msg_type(Type::Signal).interface("org.freedesktop.DBus");
    let rule = rule.member("NameOwnerChanged").add_arg(WATCHER).build()?;
    let mut watchers = MessageStream::for_match_rule(rule, &connection, None).await?;
    tokio::spawn(register(connection.clone()));
    let mut last = seen.borrow_and_update().clone();
    loop {
        tokio::select! {
            changed = seen.changed() => {
                if changed.is_err() { return Ok(()) }
                let next = seen.borrow_and_update().clone();
                match tell(&connection, &last, &next).await {
                    // The session has ended.
                    Err(zbus::Error::InputOutput(_)) => return Ok(()),
                    done => done?,
                }
                last = next;
            }
            // A panel came or went.
            watcher = watchers.next() => match watcher {
                Some(Ok(_)) => drop(tokio::spawn(register(connection.clone()))),
                _ => return Ok(()),
            },
            Some(act) = clicked.recv() => match act {
                Act::Call { method, path, name } => drop(calls.send(Call { method, path, name })),
                Act::Dismiss => view.send_modify(|view| view.complaint = None),
                Act::Quit => return Ok(()),
            },
        }
    }
}

/// Nobody to register with is no error: a panel may come later.
async fn register(connection: Connection) {
    let Ok(name) = zbus::names::BusName::try_from(WATCHER) else { return };
    let Ok(bus) = DBusProxy::new(&connection).await else { return };
    if !bus.name_has_owner(name).await.unwrap_or_default() {
        return;
    }
    let done = async { WatcherProxy::new(&connection).await?.register_status_notifier_item(APPLET).await };
    if let Err(error) = done.await {
        eprintln!("enftun-applet: the notification area does not take the item: {error}");
    }
}

/// Sends the signals of what has changed, for whoever shows the item.
async fn tell(connection: &Connection, last: &View, next: &View) -> zbus::Result<()> {
    let item = SignalEmitter::new(connection, ITEM)?;
    if face(last) != face(next) {
        Item::new_icon(&item).await?;
        Item::new_attention_icon(&item).await?;
        Item::new_status(&item, status(next)).await?;
    }
    Item::new_tool_tip(&item).await?;
    dbusmenu::tell(connection).await?;
    if let Some(complaint) = next.complaint.as_deref().filter(|_| last.complaint != next.complaint) {
        let (connection, complaint) = (connection.clone(), complaint.to_owned());
        tokio::spawn(async move { notify(&connection, &complaint).await });
    }
    Ok(())
}

/// A desktop without notifications has the tooltip and the menu.
async fn notify(connection: &Connection, complaint: &str) {
    let body = markup(complaint);
    if let Ok(desktop) = NotificationsProxy::new(connection).await {
        let sent = desktop.notify("enftun", 0, "dialog-error", "enftun", &body, &[], HashMap::new(), -1);
        let _ = sent.await;
    }
}

fn face(view: &View) -> (Look, bool) {
    (view.look(), !view.warnings.is_empty() || view.complaint.is_some())
}

fn status(view: &View) -> &'static str {
    if view.look() == Look::Error || !view.warnings.is_empty() { "NeedsAttention" } else { "Active" }
}

fn markup(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

struct Item {
    seen: watch::Receiver<View>,
}

#[interface(name = "org.kde.StatusNotifierItem")]
impl Item {
    /// The menu is all there is, but not every panel opens it by itself for a click: those that do not ask for `ContextMenu`.
    fn activate(&self, _x: i32, _y: i32) {}

    fn secondary_activate(&self, _x: i32, _y: i32) {}

    fn context_menu(&self, _x: i32, _y: i32) {}

    fn scroll(&self, _delta: i32, _orientation: &str) {}

    #[zbus(signal)]
    async fn new_icon(emitter: &SignalEmitter<'_>) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn new_attention_icon(emitter: &SignalEmitter<'_>) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn new_tool_tip(emitter: &SignalEmitter<'_>) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn new_status(emitter: &SignalEmitter<'_>, status: &str) -> zbus::Result<()>;

    #[zbus(property)]
    fn category(&self) -> &'static str {
        "SystemServices"
    }

    #[zbus(property)]
    fn id(&self) -> &'static str {
        "enftun-applet"
    }

    #[zbus(property)]
    fn title(&self) -> String {
        self.seen.borrow().headline()
    }

    #[zbus(property)]
    fn status(&self) -> &'static str {
        status(&self.seen.borrow())
    }

    #[zbus(property)]
    fn window_id(&self) -> i32 {
        0
    }

    /// Empty: the pixmaps are the icon.
    #[zbus(property)]
    fn icon_name(&self) -> &'static str {
        ""
    }

    #[zbus(property)]
    fn icon_pixmap(&self) -> Vec<Pixmap> {
        let (look, warned) = face(&self.seen.borrow());
        icon::pixmaps(look, warned)
    }

    #[zbus(property)]
    fn attention_icon_name(&self) -> &'static str {
        ""
    }

    #[zbus(property)]
    fn attention_icon_pixmap(&self) -> Vec<Pixmap> {
        self.icon_pixmap()
    }

    #[zbus(property)]
    fn tool_tip(&self) -> (String, Vec<Pixmap>, String, String) {
        let view = self.seen.borrow();
        (String::new(), Vec::new(), view.headline(), markup(&view.summary()))
    }

    #[zbus(property)]
    fn item_is_menu(&self) -> bool {
        true
    }

    #[zbus(property)]
    fn menu(&self) -> OwnedObjectPath {
        OwnedObjectPath::try_from(dbusmenu::PATH).unwrap_or_default()
    }
}
