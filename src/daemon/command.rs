//! What others may ask of the daemon, and how they ask: a channel to the actor and a view of its latest snapshot.
//! The bus and `enftunctl run` use it alike; neither knows how the daemon works.

use super::snapshot::Snapshot;
use crate::error::Class;
use crate::logging;
use crate::state::Failure;
use crate::tunnel::aws::tokens::Tokens;
use log::LevelFilter;
use std::fmt;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};

/// Who asked for a change: it stands in the log beside what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The bus name or the signal.
    pub name: String,
    /// The user id, where known.
    pub uid: Option<u32>,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.uid {
            Some(uid) => write!(f, "{} (uid {uid})", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// What the daemon is asked for: a change, or a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// The tunnel is wanted.
    Connect(String),
    /// The tunnel is not wanted.
    Disconnect(String),
    /// A new session, now.
    Reconnect(String),
    /// These are the tunnel's tokens from now on; a new session, now, if it is wanted.
    RotateTokens {
        /// The tunnel.
        tunnel: String,
        /// They are never shown.
        tokens: Tokens,
    },
    /// Block it when it is not wanted, or do not, whatever its file says.
    SetLockdown(String, bool),
    /// Take over what changed outside.
    Reload(ReloadScope),
    /// Trust this interface, as a member of this group, until the configuration is read again.
    Trust {
        /// The group.
        group: String,
        /// The interface.
        interface: String,
    },
    /// Do not trust this member of this group any more, until the configuration is read again.
    Distrust {
        /// The group.
        group: String,
        /// The interface.
        interface: String,
    },
    /// Log from this level on, until the configuration's own level changes.
    SetLogLevel(LevelFilter),
    /// Write the log there.
    SetLogTarget(logging::Target),
    /// Look now whether all that is ours in the kernel is as it shall be, and put back what is not.
    Verify,
    /// What the kernel shall hold for this tunnel now, and for all tunnels together, as text.
    Plan(String),
    /// The system is about to sleep, or is awake again.
    Sleep(bool),
    /// End the daemon; the kernel state stays as it is.
    Shutdown,
}

impl fmt::Display for Request {
    /// As the log says it behind "refused".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(name) => write!(f, "connect {name}"),
            Self::Disconnect(name) => write!(f, "disconnect {name}"),
            Self::Reconnect(name) => write!(f, "reconnect {name}"),
            Self::RotateTokens { tunnel, .. } => write!(f, "new tokens of {tunnel}"),
            Self::SetLockdown(name, on) => write!(f, "lockdown {name} {}", if *on { "on" } else { "off" }),
            Self::Reload(_) => f.write_str("reload"),
            Self::Trust { group, interface } => write!(f, "trust in {interface} (group {group})"),
            Self::Distrust { group, interface } => write!(f, "no more trust in {interface} (group {group})"),
            Self::SetLogLevel(level) => write!(f, "log level {level}"),
            Self::SetLogTarget(target) => write!(f, "log target {target}"),
            Self::Verify => f.write_str("a look at the kernel"),
            Self::Plan(name) => write!(f, "the plan of {name}"),
            Self::Sleep(asleep) => f.write_str(if *asleep { "sleep" } else { "waking up" }),
            Self::Shutdown => f.write_str("shutdown"),
        }
    }
}

/// What a reload takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReloadScope {
    /// The configuration.
    pub configuration: bool,
    /// What differs of links, addresses, routes and rules is put back.
    pub network: bool,
    /// What differs of the firewall is put back.
    pub firewall: bool,
}

impl ReloadScope {
    /// Everything.
    pub const ALL: Self = Self { configuration: true, network: true, firewall: true };

    /// As the number on the bus has it: 1 configuration, 2 network, 4 firewall, 0 all; none for others.
    pub fn from_flags(flags: u32) -> Option<Self> {
        match flags {
            0 => Some(Self::ALL),
            1..8 => Some(Self { configuration: flags & 1 != 0, network: flags & 2 != 0, firewall: flags & 4 != 0 }),
            _ => None,
        }
    }
}

/// What a request is answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A change is accepted.
    Done,
    /// All was as it shall be, or not.
    Verified(bool),
    /// Commands, for people.
    Plan(String),
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such tunnel.
    #[error("there is no tunnel called \"{0}\"; `enftunctl list` shows those there are")]
    NotFound(String),
    /// No such trusted group.
    #[error("there is no group called \"{0}\" in enftun.toml; `enftunctl group list` shows those there are")]
    NoGroup(String),
    /// An argument makes no sense.
    #[error("{0}")]
    InvalidArgument(String),
    /// It cannot be done on this host.
    #[error("{0}")]
    Unsupported(String),
    /// The kernel does not do it.
    #[error("{}", .0.text)]
    Kernel(Failure),
    /// It makes no sense in the present state.
    #[error("{0}")]
    WrongState(String),
    /// The configuration has errors; nothing was changed.
    #[error("the configuration has errors and nothing was changed: {0}")]
    InvalidConfig(String),
    /// It could not be done, or not be remembered.
    #[error("{0}")]
    Failed(String),
    /// The daemon is ending.
    #[error("the daemon is shutting down")]
    ShuttingDown,
}

impl Refusal {
    /// The class of the error.
    pub fn class(&self) -> Class {
        match self {
            Self::NotFound(_) | Self::NoGroup(_) | Self::InvalidArgument(_) | Self::InvalidConfig(_) => {
                Class::Configuration
            }
            Self::Kernel(failure) => failure.class,
            Self::Failed(_) | Self::Unsupported(_) => Class::Environment,
            Self::WrongState(_) | Self::ShuttingDown => Class::Transient,
        }
    }
}

/// A request with who asked and where the answer goes.
#[derive(Debug)]
pub struct Command {
    /// What.
    pub request: Request,
    /// Who.
    pub caller: Caller,
    /// Answered once the request is accepted (for `Reload`: applied).
    pub reply: oneshot::Sender<Result<Answer, Refusal>>,
}

/// The handle that everybody but the actor holds.
#[derive(Clone, Debug)]
pub struct Core {
    commands: mpsc::Sender<Command>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
}

impl Core {
    /// A handle on whatever answers `commands` and publishes snapshots: the daemon, or a simulation in a test.
    pub fn new(commands: mpsc::Sender<Command>, snapshot: watch::Receiver<Arc<Snapshot>>) -> Self {
        Self { commands, snapshot }
    }

    /// Asks, and waits until the daemon has accepted or refused.
    pub async fn ask(&self, request: Request, caller: Caller) -> Result<Answer, Refusal> {
        let (reply, answer) = oneshot::channel();
        let command = Command { request, caller, reply };
        self.commands.send(command).await.map_err(|_| Refusal::ShuttingDown)?;
        answer.await.unwrap_or(Err(Refusal::ShuttingDown))
    }

    /// The latest snapshot, at once.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    /// Wakes for every new snapshot.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.clone()
    }
}
