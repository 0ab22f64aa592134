//! What others may ask of the daemon, and how they ask: a channel to the actor and a view of its latest snapshot.
//! The bus and `enftunctl run` use it alike; neither knows how the daemon works.

use super::snapshot::Snapshot;
use crate::error::Class;
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
    /// Block it when it is not wanted, or do not, whatever its file says.
    SetLockdown(String, bool),
    /// Read the configuration again and make it so.
    Reload,
    /// Look now whether all that is ours in the kernel is as it shall be, and put back what is not.
    Verify,
    /// What the kernel shall hold for this tunnel now, and for all tunnels together, as text.
    Plan(String),
    /// End the daemon; the kernel state stays as it is.
    Shutdown,
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
            Self::NotFound(_) | Self::InvalidConfig(_) => Class::Configuration,
            Self::Failed(_) => Class::Environment,
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
