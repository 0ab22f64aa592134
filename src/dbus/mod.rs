//! The daemon on the D-Bus, and the way to it: bus objects, and what the command line uses to reach them; and what the daemon
//! itself asks of others on the bus. The only user of zbus. It decides nothing about tunnels: calls become [`crate::daemon::Request`]s, snapshots become properties and signals.
//!
//! The surface is described in `docs/dbus.md`; the XML files in `dbus/` are the contract.

pub mod client;
mod fault;
mod follow;
mod gate;
mod logind;
mod objects;
mod passed;
pub mod path;
mod polkit;
mod proxies;
pub mod resolved;
pub mod systemd;
mod validation;
mod watch;

use crate::daemon::Core;
use crate::error::Class;
use follow::Follower;
use std::os::unix::net::UnixStream;
use tokio::task::JoinHandle;
use zbus::connection::Builder;
use zbus::fdo::{self, RequestNameFlags};
use zbus::{Connection, Guid};

pub use watch::{Happening, Watch};

/// The name of the daemon on the system bus.
pub const NAME: &str = "org.enftun.Enftun1";

/// What the names of our own errors start with.
pub const ERROR_PREFIX: &str = "org.enftun.Enftun1.Error.";

/// Why the daemon is not on the bus.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// No bus there.
    #[error("cannot reach the system bus (is dbus running?)")]
    Unreachable(#[source] zbus::Error),
    /// Somebody else has the name.
    #[error("the bus name {NAME} is taken by {owner}: another enftund runs; stop that one first")]
    NameTaken {
        /// The owner's unique name, and its process where the bus knows it.
        owner: String,
    },
    /// The policy of the bus does not let us have the name.
    #[error(
        "the bus does not let uid {uid} own the name {NAME}: run as user enftun or root, with org.enftun.Enftun1.conf in \
         /usr/share/dbus-1/system.d"
    )]
    NotAllowed {
        /// Who asked.
        uid: u32,
        /// What the bus said.
        #[source]
        source: zbus::Error,
    },
    /// The bus did not do what was asked.
    #[error("cannot take the bus name {NAME}")]
    RequestName(#[source] zbus::Error),
}

impl BusError {
    /// The class of the error.
    pub fn class(&self) -> Class {
        match self {
            Self::Unreachable(_) | Self::RequestName(_) => Class::Transient,
            Self::NameTaken { .. } | Self::NotAllowed { .. } => Class::Environment,
        }
    }
}

/// The daemon's presence on a bus. It ends when this is dropped.
#[derive(Debug)]
pub struct Bus {
    connection: Connection,
    follower: JoinHandle<()>,
    /// What else follows somebody on this bus.
    logind: Option<JoinHandle<()>>,
}

impl Bus {
    /// Returns once the connection is broken, for whatever reason; then [`serve`] may be tried again.
    pub async fn closed(&self) {
        self.connection.closed().await;
    }

    /// Leaves the bus now, even while calls are still being answered.
    pub async fn close(self) {
        self.end_tasks();
        let _ = self.connection.clone().close().await;
    }

    fn end_tasks(&self) {
        [Some(&self.follower), self.logind.as_ref()].into_iter().flatten().for_each(JoinHandle::abort);
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.end_tasks();
    }
}

/// Puts the daemon on the system bus (`DBUS_SYSTEM_BUS_ADDRESS`, else the usual socket): all objects first, then the name.
/// `own_uid` is the user the daemon runs as; that user and root need not ask polkit.
pub async fn serve(core: Core, own_uid: u32) -> Result<Bus, BusError> {
    serve_with(Builder::system(), core, own_uid).await
}

/// The same on the bus at `address`.
pub async fn serve_at(address: &str, core: Core, own_uid: u32) -> Result<Bus, BusError> {
    serve_with(Builder::address(address), core, own_uid).await
}

/// Serves the same objects to the one peer at the other end of `stream`, without a bus and so without a name.
/// Who calls is whom the kernel says the peer is.
pub async fn serve_peer(stream: UnixStream, core: Core, own_uid: u32) -> Result<Bus, BusError> {
    start(Builder::unix_stream(stream).server(Guid::generate()).p2p(), core, own_uid).await
}

async fn serve_with(builder: Builder<'_>, core: Core, own_uid: u32) -> Result<Bus, BusError> {
    let mut bus = start(builder, core.clone(), own_uid).await?;
    match bus.connection.request_name_with_flags(NAME, RequestNameFlags::DO_NOT_QUEUE).await {
        Ok(_) => {
            bus.logind = Some(tokio::spawn(logind::follow(bus.connection.clone(), core)));
            Ok(bus)
        }
        Err(zbus::Error::NameTaken) => Err(BusError::NameTaken { owner: owner(&bus.connection).await }),
        Err(source) if is_denied(&source) => Err(BusError::NotAllowed { uid: own_uid, source }),
        Err(source) => Err(BusError::RequestName(source)),
    }
}

async fn start(builder: Builder<'_>, core: Core, own_uid: u32) -> Result<Bus, BusError> {
    let follower = Follower::new(core, own_uid);
    let connection = follower.register(builder).build().await.map_err(BusError::Unreachable)?;
    let mine = connection.clone();
    let follower = tokio::spawn(async move {
        if let Err(error) = follower.run(&mine).await {
            log::warn!("left the bus: {}", crate::error::chain(&error));
            // The bus shows a state that is no longer true: rather nothing than that.
            let _ = mine.close().await;
        }
    });
    Ok(Bus { connection, follower, logind: None })
}

fn is_denied(error: &zbus::Error) -> bool {
    matches!(error, zbus::Error::FDO(error) if matches!(**error, fdo::Error::AccessDenied(_)))
}

async fn owner(connection: &Connection) -> String {
    let bus = match fdo::DBusProxy::new(connection).await {
        Ok(bus) => bus,
        Err(_) => return "somebody".to_owned(),
    };
    let Ok(name) = zbus::names::BusName::try_from(NAME) else { return "somebody".to_owned() };
    let Ok(owner) = bus.get_name_owner(name.clone()).await else { return "somebody".to_owned() };
    match bus.get_connection_unix_process_id(name).await {
        Ok(pid) => format!("{owner} (process {pid})"),
        Err(_) => owner.to_string(),
    }
}
