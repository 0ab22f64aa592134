//! The daemon as the public bus API shows it, and the calls that change something. This is all an applet needs:
//!
//! 1. who has the name (`NameOwnerChanged`), so that the daemon may come and go;
//! 2. `GetManagedObjects` and the manager's `GetAll` once, then `InterfacesAdded`, `InterfacesRemoved` and `PropertiesChanged`;
//! 3. `GetPermissions`, and again at `PermissionsChanged`;
//! 4. `Connect`, `Disconnect` and `Reconnect` of a tunnel.

use super::menu::Method;
use super::view::{MANAGER, Objects, Properties, ROOT, View};
use futures_util::StreamExt;
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use zbus::fdo::{self, DBusProxy, ObjectManagerProxy, PropertiesProxy};
use zbus::message::Type;
use zbus::names::{OwnedInterfaceName, UniqueName};
use zbus::proxy::CacheProperties;
use zbus::{Connection, MatchRule, Message, MessageStream, OwnedObjectPath};

const NAME: &str = "org.enftun.Enftun1";
const BUS: &str = "org.freedesktop.DBus";
/// Signals that wait here do not hold up answers on the same connection before there are this many.
const QUEUE: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// Between two attempts to reach the system bus.
const PAUSE: Duration = Duration::from_secs(1);

#[zbus::proxy(interface = "org.enftun.Enftun1.Manager", default_path = "/org/enftun/Enftun1")]
trait Manager {
    fn get_permissions(&self) -> zbus::Result<HashMap<String, String>>;
}

#[zbus::proxy(interface = "org.enftun.Enftun1.Tunnel")]
trait Tunnel {
    #[zbus(allow_interactive_auth)]
    fn connect(&self, flags: u32) -> zbus::Result<()>;
    #[zbus(allow_interactive_auth)]
    fn disconnect(&self, flags: u32) -> zbus::Result<()>;
    #[zbus(allow_interactive_auth)]
    fn reconnect(&self, flags: u32) -> zbus::Result<()>;
}

/// A method of a tunnel that shall be called.
#[derive(Debug)]
pub struct Call {
    pub method: Method,
    pub path: String,
    pub name: String,
}

/// Keeps `view` true for ever, over restarts of the daemon and of the system bus.
pub async fn follow(view: watch::Sender<View>, mut calls: mpsc::UnboundedReceiver<Call>) {
    loop {
        let why = match Connection::system().await {
            Ok(connection) => match on_the_bus(&connection, &view, &mut calls).await {
                Ok(()) => "the system bus has ended".to_owned(),
                Err(error) => reason(error),
            },
            Err(_) => "the system bus cannot be reached".to_owned(),
        };
        show(&view, View::without(why));
        tokio::time::sleep(PAUSE).await;
        // What was asked of a daemon that is gone is not done to the next one.
        while calls.try_recv().is_ok() {}
    }
}

/// Returns when the bus ends.
async fn on_the_bus(
    connection: &Connection,
    view: &watch::Sender<View>,
    calls: &mut mpsc::UnboundedReceiver<Call>,
) -> zbus::Result<()> {
    let rule = MatchRule::builder().msg_type(Type::Signal).sender(BUS).interface(BUS);
    let rule = rule.member("NameOwnerChanged").add_arg(NAME).build()?;
    let mut owners = MessageStream::for_match_rule(rule, connection, Some(QUEUE)).await?;
    let mut owner = match DBusProxy::new(connection).await?.get_name_owner(NAME.try_into()?).await {
        Ok(owner) => owner.to_string(),
        Err(fdo::Error::NameHasNoOwner(_)) => String::new(),
        Err(error) => return Err(error.into()),
    };
    loop {
        let mut daemon = match owner.as_str() {
            "" => Err("enftund is not running".to_owned()),
            name => Daemon::new(connection, name).await.map_err(reason),
        };
        show(view, daemon.as_ref().map_or_else(View::without, Daemon::view));
        // Until the name has another owner.
        owner = loop {
            tokio::select! {
                biased;
                signal = next(daemon.as_mut().ok()) => match (signal, &mut daemon) {
                    (Some(Ok(signal)), Ok(daemon)) => {
                        daemon.hear(&signal).await?;
                        show(view, daemon.view());
                    }
                    _ => return Ok(()),
                },
                message = owners.next() => match message {
                    Some(Ok(message)) => if let Some(owner) = new_owner(&message) { break owner },
                    _ => return Ok(()),
                },
                Some(call) = calls.recv() => if let Ok(daemon) = &daemon {
                    tokio::spawn(carry_out(call, daemon.owner.clone(), connection.clone(), view.clone()));
                },
            }
        };
    }
}

async fn next(daemon: Option<&mut Daemon>) -> Option<zbus::Result<Message>> {
    match daemon {
        Some(daemon) => daemon.signals.next().await,
        None => std::future::pending().await,
    }
}

fn new_owner(message: &Message) -> Option<String> {
    message.header().sender().filter(|sender| sender.as_str() == BUS)?;
    message.body().deserialize::<(String, String, String)>().ok().map(|(_, _, new)| new)
}

/// One daemon, as long as it has the name.
struct Daemon {
    owner: UniqueName<'static>,
    manager: ManagerProxy<'static>,
    signals: MessageStream,
    objects: Objects,
    permissions: HashMap<String, String>,
}

impl Daemon {
    /// Everything is asked by the owner's own name: nobody can pretend to have it, and nothing is started by asking.
    async fn new(connection: &Connection, owner: &str) -> zbus::Result<Self> {
        let owner = UniqueName::try_from(owner)?.into_owned();
        // First to listen and then to read, so that nothing is missed in between.
        let rule = MatchRule::builder().msg_type(Type::Signal).sender(&owner).path_namespace(ROOT).build()?;
        let signals = MessageStream::for_match_rule(rule.to_owned(), connection, Some(QUEUE)).await?;
        let objects = ObjectManagerProxy::builder(connection).destination(&owner).path(ROOT).build().await?;
        let plain = |(name, properties): (OwnedInterfaceName, Properties)| (name.to_string(), properties);
        let objects = objects.get_managed_objects().await?.into_iter();
        let mut objects: Objects =
            objects.map(|(path, interfaces)| (path.to_string(), interfaces.into_iter().map(plain).collect())).collect();
        // The managing object is not one of those it manages.
        let root = PropertiesProxy::builder(connection).destination(&owner).path(ROOT).build().await?;
        let properties = root.get_all(MANAGER.try_into()?).await?;
        objects.entry(ROOT.to_owned()).or_default().insert(MANAGER.to_owned(), properties);
        let manager = ManagerProxy::builder(connection).destination(&owner).cache_properties(CacheProperties::No);
        let manager = manager.build().await?;
        let mut daemon = Self { owner, manager, signals, objects, permissions: HashMap::new() };
        daemon.ask_permissions().await;
        Ok(daemon)
    }

    /// Without an answer everything is worth a try.
    async fn ask_permissions(&mut self) {
        self.permissions = self.manager.get_permissions().await.unwrap_or_default();
    }

    fn view(&self) -> View {
        View::of(&self.objects, &self.permissions)
    }

    async fn hear(&mut self, signal: &Message) -> zbus::Result<()> {
        let header = signal.header();
        let (Some(path), Some(interface), Some(member)) = (header.path(), header.interface(), header.member()) else {
            return Ok(());
        };
        match (interface.as_str(), member.as_str()) {
            ("org.freedesktop.DBus.ObjectManager", "InterfacesAdded") => {
                let (path, added): (OwnedObjectPath, HashMap<String, Properties>) = signal.body().deserialize()?;
                self.objects.entry(path.to_string()).or_default().extend(added);
            }
            ("org.freedesktop.DBus.ObjectManager", "InterfacesRemoved") => {
                let (path, removed): (OwnedObjectPath, Vec<String>) = signal.body().deserialize()?;
                if let Some(object) = self.objects.get_mut(path.as_str()) {
                    object.retain(|interface, _| !removed.contains(interface));
                }
            }
            ("org.freedesktop.DBus.Properties", "PropertiesChanged") => {
                let (interface, changed, _): (String, Properties, Vec<String>) = signal.body().deserialize()?;
                let object = self.objects.entry(path.to_string()).or_default();
                object.entry(interface).or_default().extend(changed);
            }
            (MANAGER, "PermissionsChanged") => self.ask_permissions().await,
            _ => {}
        }
        Ok(())
    }
}

/// In a task of its own: somebody may have to type a password first.
async fn carry_out(call: Call, owner: UniqueName<'static>, connection: Connection, view: watch::Sender<View>) {
    let method = call.method;
    let done = async {
        let tunnel = TunnelProxy::builder(&connection).destination(owner).path(call.path);
        let tunnel = tunnel.cache_properties(CacheProperties::No).build().await?;
        match method {
            Method::Connect => tunnel.connect(0).await,
            Method::Disconnect => tunnel.disconnect(0).await,
            Method::Reconnect => tunnel.reconnect(0).await,
        }
    };
    let complaint = done.await.err().map(|error| format!("{method:?} {} failed: {}", call.name, reason(error)));
    view.send_modify(|view| view.complaint = complaint);
}

/// A complaint stays where it is.
fn show(view: &watch::Sender<View>, next: View) {
    view.send_if_modified(|view| {
        let next = View { complaint: view.complaint.clone(), ..next };
        let changed = *view != next;
        *view = next;
        changed
    });
}

/// The daemon's own words, without the error's name.
fn reason(error: zbus::Error) -> String {
    match error {
        zbus::Error::MethodError(_, Some(text), _) => text,
        zbus::Error::FDO(error) => match *error {
            fdo::Error::AccessDenied(text) | fdo::Error::InteractiveAuthorizationRequired(text) => text,
            fdo::Error::ServiceUnknown(_) | fdo::Error::NoReply(_) => "enftund has left the bus".to_owned(),
            error => error.to_string(),
        },
        error => error.to_string(),
    }
}
