//! The way from a bus call to the daemon: who asks, whether they may, and what was answered. Nothing is decided here about
//! tunnels.

use super::fault::Fault;
use super::polkit::{self, Action, Details};
use crate::daemon::{Answer, Caller, Core, Request, TunnelSnapshot};
use crate::logging::message;
use crate::state::{Phase, Target};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::time::timeout;
use zbus::Connection;
use zbus::message::Header;

/// How long somebody who asks for a look waits. Callers themselves commonly give up after 25 s.
const LOOK: Duration = Duration::from_secs(20);
/// Calls that may wait for polkit at once, most of them for somebody to type a password.
const PROMPTS: usize = 32;

/// What every object needs to carry out a call that the daemon itself must answer.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    core: Core,
    own_uid: u32,
    announced: watch::Receiver<u64>,
    looking: Arc<Mutex<()>>,
    prompts: Arc<Semaphore>,
}

impl Gate {
    /// `announced` says up to which generation of snapshots all signals are on their way.
    pub fn new(core: Core, own_uid: u32, announced: watch::Receiver<u64>) -> Self {
        let prompts = Arc::new(Semaphore::new(PROMPTS));
        Self { core, own_uid, announced, looking: Arc::default(), prompts }
    }

    /// Asks the daemon on behalf of the sender of `header`. Returns once the signals of what the request caused at once
    /// are sent, so that a caller who hears the answer has heard them before.
    pub async fn ask(&self, request: Request, connection: &Connection, header: &Header<'_>) -> Result<(), Fault> {
        let (action, details) = Action::of(&request);
        let caller = self.admit(action, &details, &request, connection, header).await?;
        self.submit(request, caller).await
    }

    /// Refuses who may not do `what`; else who it is, for [`Gate::submit`].
    pub async fn admit(
        &self,
        action: Action,
        details: &Details<'_>,
        what: &(impl std::fmt::Display + Sync),
        connection: &Connection,
        header: &Header<'_>,
    ) -> Result<Caller, Fault> {
        self.may(action, details, connection, header).await.map_err(|(caller, fault)| {
            log::info!(MESSAGE_ID = message::REFUSED, ENFTUN_CALLER = caller.to_string();
                "{caller} may not do this: {what}");
            fault
        })
    }

    /// As [`Gate::ask`], on behalf of somebody who may.
    pub async fn submit(&self, request: Request, caller: Caller) -> Result<(), Fault> {
        self.core.ask(request, caller).await?;
        self.announced().await;
        Ok(())
    }

    /// The same for calls with flags, of which there are none yet.
    pub async fn ask_with_flags(
        &self,
        request: Request,
        flags: u32,
        connection: &Connection,
        header: &Header<'_>,
    ) -> Result<(), Fault> {
        match flags {
            0 => self.ask(request, connection, header).await,
            _ => Err(Fault::unknown_flags(flags, "0 is the only value yet")),
        }
    }

    /// Asks for a look. One at a time, so that nobody can fill the daemon's queue with it.
    pub async fn look(&self, request: Request, connection: &Connection, header: &Header<'_>) -> Result<Answer, Fault> {
        let caller = self.may_inspect(connection, header).await?;
        let look = async {
            let _turn = self.looking.lock().await;
            let answer = self.core.ask(request, caller).await?;
            self.announced().await;
            Ok(answer)
        };
        timeout(LOOK, look).await.unwrap_or_else(|_| {
            let text = format!("enftund is busy with the kernel for more than {} s; try again", LOOK.as_secs());
            Err(Fault::ours("Timeout", text))
        })
    }

    /// Refuses who may not look at what is not everybody's.
    pub async fn may_inspect(&self, connection: &Connection, header: &Header<'_>) -> Result<Caller, Fault> {
        self.may(Action::Inspect, &Details::new(), connection, header).await.map_err(|(_, fault)| fault)
    }

    /// What the sender of `header` may do.
    pub async fn permissions(
        &self,
        connection: &Connection,
        header: &Header<'_>,
    ) -> Result<BTreeMap<String, &'static str>, Fault> {
        let caller = caller(connection, header).await?;
        if self.is_ours(&caller) {
            return Ok(polkit::granted());
        }
        let _turn = self.turn()?;
        Ok(match polkit::permissions(connection, header).await {
            Ok(permissions) => permissions,
            Err(error) => {
                log::debug!("polkit: {error}");
                polkit::refused()
            }
        })
    }

    /// Asks for a tunnel, and returns once it is connected, or with why it is not.
    pub async fn connect(
        &self,
        name: &str,
        limit: Duration,
        connection: &Connection,
        header: &Header<'_>,
    ) -> Result<(), Fault> {
        let before = self.core.snapshot().tunnels.get(name).map(|tunnel| tunnel.since);
        self.ask(Request::Connect(name.to_owned()), connection, header).await?;
        let mut view = self.core.subscribe();
        let settled = async {
            loop {
                let tunnel = view.borrow_and_update().tunnels.get(name).cloned();
                if let Some(outcome) = outcome(name, tunnel.as_deref(), before) {
                    return outcome;
                }
                if view.changed().await.is_err() {
                    return Err(crate::daemon::Refusal::ShuttingDown.into());
                }
            }
        };
        timeout(limit, settled).await.unwrap_or_else(|_| {
            let text = format!("{name} is not connected after {} s; it goes on trying", limit.as_secs_f32());
            Err(Fault::ours("Timeout", text))
        })
    }

    fn is_ours(&self, caller: &Caller) -> bool {
        caller.uid == Some(0) || caller.uid == Some(self.own_uid)
    }

    /// One of the calls that may wait for polkit.
    fn turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>, Fault> {
        let busy = |_| Fault::ours("Busy", format!("{PROMPTS} calls wait for polkit already; try again later"));
        self.prompts.try_acquire().map_err(busy)
    }

    /// Who asks, if they may; else who it was, and what to answer. Root, and the user the daemon runs as (its units call it),
    /// may do everything; polkit decides about all others, where there is a bus.
    async fn may(
        &self,
        action: Action,
        details: &Details<'_>,
        connection: &Connection,
        header: &Header<'_>,
    ) -> Result<Caller, (Caller, Fault)> {
        let nobody = || Caller { name: "somebody".to_owned(), uid: None };
        let caller = caller(connection, header).await.map_err(|fault| (nobody(), fault))?;
        if self.is_ours(&caller) {
            return Ok(caller);
        }
        if !connection.is_bus() {
            let fault = Fault::denied(format!("only root may do this, and {caller} is not"));
            return Err((caller, fault));
        }
        let checked = async {
            let _turn = self.turn()?;
            polkit::check(connection, header, action, details).await
        };
        match checked.await {
            Ok(()) => Ok(caller),
            Err(fault) => Err((caller, fault)),
        }
    }

    /// Waits until the signals of all that has happened so far are sent.
    async fn announced(&self) {
        let generation = self.core.snapshot().generation;
        let _ = self.announced.clone().wait_for(|announced| *announced >= generation).await;
    }
}

/// Whether a wait for `connected` is over, and how. A failure from before the wait is none.
fn outcome(
    name: &str,
    tunnel: Option<&TunnelSnapshot>,
    before: Option<std::time::SystemTime>,
) -> Option<Result<(), Fault>> {
    let Some(tunnel) = tunnel else { return Some(Err(crate::daemon::Refusal::NotFound(name.to_owned()).into())) };
    match (tunnel.state, &tunnel.last_error) {
        (Phase::Connected, _) => Some(Ok(())),
        _ if tunnel.target == Target::Down => {
            Some(Err(Fault::ours("Aborted", format!("somebody disconnected {name} meanwhile"))))
        }
        (Phase::Reconnecting | Phase::Error, Some(failure)) if before != Some(tunnel.since) => {
            Some(Err(Fault::of(failure)))
        }
        _ => None,
    }
}

/// Who sent this message, by the word of the bus itself; without a bus, by the word of the kernel about the socket's peer.
async fn caller(connection: &Connection, header: &Header<'_>) -> Result<Caller, Fault> {
    if !connection.is_bus() {
        let uid = connection.peer_creds().await.ok().and_then(|credentials| credentials.unix_user_id());
        return Ok(Caller { name: "peer".to_owned(), uid });
    }
    let unknown = || Fault::denied("the bus does not say who you are");
    let sender = header.sender().ok_or_else(unknown)?;
    let reply = connection
        .call_method(
            Some("org.freedesktop.DBus"),
            "/org/freedesktop/DBus",
            Some("org.freedesktop.DBus"),
            "GetConnectionUnixUser",
            &sender,
        )
        .await
        .map_err(|_| unknown())?;
    let uid = reply.body().deserialize::<u32>().map_err(|_| unknown())?;
    Ok(Caller { name: sender.to_string(), uid: Some(uid) })
}
