//! `enftunctl follow`: the process of `enftun@NAME.service`. It has the daemon connect the tunnel, is ready once what belongs in
//! it has no other way out, and tells its life. The daemon may go and come; the tunnel is disconnected for one reason only: that
//! somebody stops that unit. It holds nothing itself, and never waits for the far end.

use super::CliError;
use crate::daemon::program::notify;
use crate::dbus::client::{self, Client, ClientError, TunnelInfo};
use crate::dbus::systemd::{self, Ending};
use crate::dbus::{Happening, Watch};
use crate::error::{Class, chain};
use crate::logging;
use log::{Level, LevelFilter};
use sd_notify::NotifyState;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};

/// Between two attempts to reach the bus, or a daemon that is busy.
const RETRY: Duration = Duration::from_secs(5);
/// Between two looks whether what belongs in the tunnel has no other way out yet.
const LOOK: Duration = Duration::from_millis(500);
/// How long a stop waits for PID 1, and then for a daemon that is just restarting. `TimeoutStopSec=` is longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the tunnels' units depend on.
const DAEMON_UNIT: &str = "enftund.service";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The tunnel.
    name: String,
}

pub async fn run(args: Args) -> Result<(), CliError> {
    logging::init("enftunctl", LevelFilter::Info, None);
    let mut terminate = signal(SignalKind::terminate()).map_err(CliError::Start)?;
    let mut follower = Follower { name: args.name, ..Follower::default() };
    tokio::select! {
        done = follower.follow() => return told(done),
        // Whoever typed it typed the end of this process, not of the tunnel.
        interrupted = tokio::signal::ctrl_c() => return interrupted.map_err(CliError::Start),
        _ = terminate.recv() => {}
    }
    ended(&follower.name).await
}

#[derive(Default)]
struct Follower {
    name: String,
    /// The daemon has accepted the tunnel as wanted, at least once.
    asked: bool,
    /// The service manager knows.
    ready: bool,
    /// What it was told last.
    status: String,
    /// The last line in the log.
    line: String,
}

impl Follower {
    /// Returns when there is nothing more to follow: somebody disconnected the tunnel, or it cannot be.
    async fn follow(&mut self) -> Result<(), CliError> {
        loop {
            match self.follow_one_bus().await {
                Err(CliError::Client(error)) if error.class() == Class::Transient => {
                    self.waiting(&format!("{}; trying again", chain(&error)));
                }
                done => return done,
            }
            sleep(RETRY).await;
        }
    }

    async fn follow_one_bus(&mut self) -> Result<(), CliError> {
        let client = Client::connect().await?;
        let mut watch = client.watch().await?;
        let mut happening = if watch.is_here() { Happening::Here } else { Happening::Gone };
        loop {
            match self.heard(&client, &mut watch, happening).await {
                // It left in the middle: that is the next thing to happen.
                Ok(false) | Err(CliError::Client(ClientError::NotRunning | ClientError::Gone)) => {}
                done => return done.map(drop),
            }
            happening = loop {
                tokio::select! {
                    happening = watch.next() => break happening?,
                    () = sleep(LOOK), if self.asked && !self.ready && watch.is_here() => {
                        let (_, tunnel) = client.tunnel(&self.name).await?;
                        self.look(&tunnel)?;
                    }
                }
            };
        }
    }

    /// Whether this was the last thing of interest: somebody disconnected the tunnel.
    async fn heard(&mut self, client: &Client, watch: &mut Watch, happening: Happening) -> Result<bool, CliError> {
        match happening {
            Happening::Here => self.want(client, watch).await.map(|()| false),
            // The kernel holds meanwhile what it held.
            Happening::Gone => {
                self.waiting("enftund is not there; waiting for it");
                Ok(false)
            }
            Happening::State { tunnel, new, reason, error, .. } if tunnel == self.name => {
                self.changed(client, &new, &reason, error.as_deref()).await
            }
            _ => Ok(false),
        }
    }

    /// Has the daemon want the tunnel: once for this process, and again if it forgot.
    async fn want(&mut self, client: &Client, watch: &mut Watch) -> Result<(), CliError> {
        let (_, mut tunnel) = client.tunnel(&self.name).await?;
        if !self.asked || tunnel.target_state != "connected" {
            client.change(&self.name, client::Change::Connect).await?;
            // What it caused at once is in what is read now.
            watch.skip_past();
            (_, tunnel) = client.tunnel(&self.name).await?;
        }
        self.asked = true;
        let name = self.name.as_str();
        log::info!(ENFTUN_TUNNEL = name, ENFTUN_STATE = tunnel.state.as_str(); "following {name}: it is {}", state(&tunnel));
        self.look(&tunnel)
    }

    /// Tells the service manager how the tunnel is; ready is what has no other way out.
    fn look(&mut self, tunnel: &TunnelInfo) -> Result<(), CliError> {
        self.tell_status(&state(tunnel));
        if tunnel.state == "error" && !is_for_the_service(&tunnel.state_reason) {
            let error = tunnel.last_error.as_ref();
            let why = error.map_or(&tunnel.state_reason, |error| &error.text);
            return Err(self.in_error(&tunnel.state_reason, why));
        }
        // To a tunnel of another kind may belong nothing that could have another way.
        if (tunnel.blocking || tunnel.routes.is_empty()) && !self.ready {
            self.ready = true;
            notify(&[NotifyState::Ready]);
        }
        Ok(())
    }

    async fn changed(
        &mut self,
        client: &Client,
        new: &str,
        reason: &str,
        error: Option<&str>,
    ) -> Result<bool, CliError> {
        if new == "error" && !is_for_the_service(reason) {
            return Err(self.in_error(reason, error.unwrap_or(reason)));
        }
        let (_, tunnel) = client.tunnel(&self.name).await?;
        let detail = match (new, error, &tunnel.active_remote) {
            ("connected", _, Some(remote)) => format!(" to {remote}"),
            (_, Some(error), _) => format!(" ({reason}): {error}"),
            (_, None, _) => format!(" ({reason})"),
        };
        self.tell_change(new, reason, &detail);
        if matches!(new, "disconnecting" | "disconnected") && tunnel.target_state == "disconnected" {
            log::info!(ENFTUN_TUNNEL = self.name.as_str(); "{} is not wanted any more: this unit ends", self.name);
            return Ok(true);
        }
        self.look(&tunnel)?;
        Ok(false)
    }

    /// One attempt after the other that ends the same way is one line.
    fn tell_change(&mut self, new: &str, reason: &str, detail: &str) {
        let name = self.name.as_str();
        let line = format!("{name} is {new}{detail}");
        let again = new == "connecting" && self.line.starts_with(&format!("{name} is reconnecting"));
        if again || line == self.line {
            return;
        }
        let level = if matches!(new, "reconnecting" | "error") { Level::Warn } else { Level::Info };
        log::log!(level, ENFTUN_TUNNEL = name, ENFTUN_STATE = new, ENFTUN_REASON = reason; "{line}");
        self.line = line;
    }

    /// There is no daemon to follow for a while; the same trouble is said once.
    fn waiting(&mut self, why: &str) {
        if self.status != why {
            log::warn!(ENFTUN_TUNNEL = self.name.as_str(); "{why}");
            self.tell_status(why);
        }
    }

    fn tell_status(&mut self, text: &str) {
        if self.status != text {
            notify(&[NotifyState::Status(text)]);
            text.clone_into(&mut self.status);
        }
    }

    fn in_error(&self, reason: &str, why: &str) -> CliError {
        let (tunnel, reason, why) = (self.name.clone(), reason.to_owned(), why.to_owned());
        CliError::InError { tunnel, reason, why }
    }
}

/// The service has ended the tunnel, or takes its token no more. The next step is somebody's who has another token; to fail and
/// begin again would only ask the service once more.
fn is_for_the_service(reason: &str) -> bool {
    matches!(reason, "token-rejected" | "tunnel-closed")
}

/// What is wrong with the tunnel belongs in the journal with its fields.
fn told(done: Result<(), CliError>) -> Result<(), CliError> {
    if let Err(error @ CliError::InError { tunnel, reason, .. }) = &done {
        log::error!(ENFTUN_TUNNEL = tunnel.as_str(), ENFTUN_STATE = "error", ENFTUN_REASON = reason.as_str(); "{}", chain(error));
    }
    done
}

/// The tunnel's state in one line.
fn state(tunnel: &TunnelInfo) -> String {
    match (&tunnel.active_remote, &tunnel.last_error) {
        (Some(remote), _) if tunnel.state == "connected" => format!("connected to {remote}"),
        (_, Some(error)) if tunnel.state != "connected" => {
            format!("{} ({}): {}", tunnel.state, tunnel.state_reason, error.text)
        }
        _ => format!("{} ({})", tunnel.state, tunnel.state_reason),
    }
}

/// This process is being ended: disconnects the tunnel if that is what somebody means by it.
async fn ended(name: &str) -> Result<(), CliError> {
    notify(&[NotifyState::Stopping]);
    let unit = format!("enftun@{name}.service");
    let why = match timeout(PATIENCE, systemd::why_ended(&unit, DAEMON_UNIT)).await {
        Ok(Ok(Ending::Stopped)) => return disconnect(name, &unit).await,
        // Not the end that systemd asked for: it starts this again.
        Ok(Ok(Ending::Unasked)) => return Err(CliError::Unasked { tunnel: name.to_owned(), unit }),
        Ok(Ok(Ending::Otherwise(why))) => why,
        Ok(Err(error)) => format!("systemd does not say why this process ends ({})", chain(&error)),
        Err(_) => "systemd does not say why this process ends".to_owned(),
    };
    log::info!(ENFTUN_TUNNEL = name; "{name} is left as it is: {why}");
    Ok(())
}

async fn disconnect(name: &str, unit: &str) -> Result<(), CliError> {
    log::info!(ENFTUN_TUNNEL = name; "{unit} is stopped: disconnecting {name}");
    let disconnecting = async {
        let client = Client::connect().await?;
        let mut watch = client.watch().await?;
        loop {
            while !watch.is_here() {
                watch.next().await?;
            }
            match client.change(name, client::Change::Disconnect).await {
                // It left in the middle.
                Err(ClientError::NotRunning | ClientError::Gone) => drop(watch.next().await?),
                // Nothing is left to disconnect.
                Err(ClientError::NotFound { .. }) => return Ok(()),
                done => return done,
            }
        }
    };
    match timeout(PATIENCE, disconnecting).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(CliError::NotDisconnected { tunnel: name.to_owned() }),
    }
}
