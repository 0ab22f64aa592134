//! The way from a bus call to the daemon: who asks, whether they may, and what was answered. Nothing is decided here about
//! tunnels.

use super::fault::Fault;
use crate::daemon::{Answer, Caller, Core, Request};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;
use zbus::Connection;
use zbus::message::Header;

/// How long somebody who asks for a look waits. Callers themselves commonly give up after 25 s.
const LOOK: Duration = Duration::from_secs(20);

/// What every object needs to carry out a call that the daemon itself must answer.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    core: Core,
    own_uid: u32,
    announced: watch::Receiver<u64>,
    looking: Arc<Mutex<()>>,
}

impl Gate {
    /// `announced` says up to which generation of snapshots all signals are on their way.
    pub fn new(core: Core, own_uid: u32, announced: watch::Receiver<u64>) -> Self {
        Self { core, own_uid, announced, looking: Arc::default() }
    }

    /// Asks the daemon on behalf of the sender of `header`. Returns once the signals of what the request caused at once
    /// are sent, so that a caller who hears the answer has heard them before.
    pub async fn ask(
        &self,
        request: Request,
        flags: u32,
        connection: &Connection,
        header: &Header<'_>,
    ) -> Result<(), Fault> {
        let caller = caller(connection, header).await?;
        // Until polkit decides: root, and the user the daemon runs as (its units call it).
        if caller.uid != Some(0) && caller.uid != Some(self.own_uid) {
            log::debug!("refused {request:?} to {caller}");
            return Err(Fault::denied(format!("only root may do this, and {caller} is not; try again with sudo")));
        }
        if flags != 0 {
            return Err(Fault::ours(
                "InvalidArgument",
                format!("flags {flags:#x} are unknown; 0 is the only value yet"),
            ));
        }
        self.core.ask(request, caller).await?;
        self.announced().await;
        Ok(())
    }

    /// Asks for what everybody may know. One at a time, so that nobody can fill the daemon's queue with it.
    pub async fn look(&self, request: Request, connection: &Connection, header: &Header<'_>) -> Result<Answer, Fault> {
        let caller = caller(connection, header).await?;
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

    /// Waits until the signals of all that has happened so far are sent.
    async fn announced(&self) {
        let generation = self.core.snapshot().generation;
        let _ = self.announced.clone().wait_for(|announced| *announced >= generation).await;
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
