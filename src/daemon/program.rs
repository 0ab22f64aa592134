//! `enftund` from start to end: privileges, configuration, the actor, the bus beside it, signals and the service manager.
//! It wires rooms together and decides nothing itself.

use super::in_force::{Holder, InForce, InForceError};
use super::last_plans::LastPlans;
use super::targets::Targets;
use super::{Caller, Core, Daemon, ReloadScope, Request, Snapshot};
use crate::config::{self, Finding, Loaded};
use crate::dbus;
use crate::error::{Class, chain};
use crate::kernel::{Kernel, KernelError};
use crate::logging::{self, message};
use crate::paths::Paths;
use crate::privileges::{self, PrivilegeError};
use crate::state::Phase;
use log::LevelFilter;
use sd_notify::NotifyState;
use std::io;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// Between two attempts to reach the bus.
const BUS_RETRY: Duration = Duration::from_secs(5);
/// Two threads: one may wait for a disk while the other serves packets.
const THREADS: usize = 2;

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directories.
    pub paths: Paths,
    /// Whom to become when started as root.
    pub user: String,
    /// Beats the configuration file's level.
    pub log_level: Option<LevelFilter>,
}

/// Why the daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The right privileges cannot be had.
    #[error(transparent)]
    Privileges(#[from] PrivilegeError),
    /// Another program of ours is at work, or what is in force cannot be kept.
    #[error(transparent)]
    InForce(#[from] InForceError),
    /// The kernel cannot be talked to.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The runtime, a signal or a timer cannot be had.
    #[error("start the daemon")]
    Runtime(#[from] io::Error),
}

impl StartError {
    /// The class of the error.
    pub fn class(&self) -> Class {
        match self {
            Self::Kernel(error) => error.class(),
            Self::Privileges(_) | Self::InForce(_) | Self::Runtime(_) => Class::Environment,
        }
    }
}

/// Runs the daemon until it is told to end.
pub fn run(options: &Options) -> Result<(), StartError> {
    logging::init("enftund", options.log_level.unwrap_or(LevelFilter::Info), None);
    let directories = [options.paths.state.clone(), options.paths.runtime.clone()];
    let dropped = privileges::drop_privileges(&options.user, &directories)?;
    if dropped.unmapped {
        log::warn!("this user namespace has no user {:?}: running on as uid {}", options.user, dropped.uid);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    let served = runtime.block_on(serve(options, dropped.uid));
    // A name look-up may still hang in the resolver; the end does not wait for it.
    runtime.shutdown_background();
    served
}

async fn serve(options: &Options, uid: u32) -> Result<(), StartError> {
    let in_force = InForce::open(&options.paths.runtime, Holder::Daemon)?;
    let loaded: Loaded = config::load(&options.paths.config);
    tell(&loaded.findings);
    log::set_max_level(options.log_level.unwrap_or(loaded.config.daemon.log_level));
    let broken = loaded.broken.clone();
    for tunnel in &broken {
        log::error!(MESSAGE_ID = message::CONFIGURATION, ENFTUN_TUNNEL = tunnel.as_str(); "{tunnel} is not there until its file is mended and reloaded (`enftunctl check`)");
    }
    let kernel = Kernel::new(uid, &options.paths.runtime)?;
    let targets = Targets::recover(&options.paths.state);
    let last_plans = LastPlans::load(&options.paths.state);
    let (mut daemon, core) = Daemon::new(options.paths.clone(), loaded, kernel, in_force, last_plans, targets)?;
    daemon.adopt(&broken).await;
    let signals = Signals::new()?;
    let actor = tokio::spawn(daemon.run());
    let (on_the_bus, ready) = oneshot::channel();
    let bus = tokio::spawn(stay_on_bus(core.clone(), uid, on_the_bus));
    let names = tokio::spawn(dbus::resolved::keep(core.clone()));
    let status = tokio::spawn(tell_service_manager(core.clone(), ready));
    signals.obey(&core).await;
    notify(&[NotifyState::Stopping]);
    status.abort();
    // The actor has ended its sessions when the request is answered.
    let _ = actor.await;
    bus.abort();
    names.abort();
    Ok(())
}

/// Says what there is to say of the configuration.
pub(super) fn tell(findings: &[Finding]) {
    for finding in findings {
        match finding.severity {
            config::Severity::Error => log::error!(MESSAGE_ID = message::CONFIGURATION; "{}", finding.one_line()),
            config::Severity::Warning => log::warn!(MESSAGE_ID = message::CONFIGURATION; "{}", finding.one_line()),
        }
    }
}

/// The daemon does its work without a bus too; it comes back to the bus whenever there is one.
async fn stay_on_bus(core: Core, uid: u32, first: oneshot::Sender<()>) {
    let mut first = Some(first);
    let mut told = None;
    loop {
        let trouble = match dbus::serve(core.clone(), uid).await {
            Ok(bus) => {
                told = None;
                if let Some(first) = first.take() {
                    let _ = first.send(());
                }
                bus.closed().await;
                "the connection to the bus is gone".to_owned()
            }
            Err(error) => chain(&error),
        };
        // The same trouble is said once.
        if told.as_ref() != Some(&trouble) {
            log::warn!("not on the bus: {trouble}; trying again every {BUS_RETRY:?}");
            told = Some(trouble);
        }
        if let Some(first) = first.take() {
            let _ = first.send(());
        }
        tokio::time::sleep(BUS_RETRY).await;
    }
}

async fn tell_service_manager(core: Core, ready: oneshot::Receiver<()>) {
    let _ = ready.await;
    notify(&[NotifyState::Ready]);
    let mut view = core.subscribe();
    let mut last = String::new();
    loop {
        let text = status_line(&view.borrow_and_update());
        if text != last {
            notify(&[NotifyState::Status(&text)]);
            last = text;
        }
        if view.changed().await.is_err() {
            return;
        }
    }
}

/// One line for `systemctl status`.
fn status_line(snapshot: &Snapshot) -> String {
    if snapshot.tunnels.is_empty() && snapshot.kept.is_empty() {
        return "no tunnel is configured".to_owned();
    }
    let words = snapshot.tunnels.values().map(|tunnel| match (tunnel.state, &tunnel.active_remote) {
        (Phase::Connected, Some(remote)) => format!("{} connected to {remote}", tunnel.name),
        (state, _) => format!("{} {state} ({})", tunnel.name, tunnel.reason),
    });
    let kept = snapshot.kept.iter().map(|name| format!("{name} kept blocked without its file"));
    words.chain(kept).collect::<Vec<_>>().join(", ")
}

/// Does nothing when no service manager asked for it.
pub(crate) fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::debug!("sd_notify: {error}");
    }
}

/// The signals that mean something.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Returns once the daemon has shut down.
    async fn obey(mut self, core: &Core) {
        loop {
            let (name, request) = tokio::select! {
                _ = self.terminate.recv() => ("SIGTERM", Request::Shutdown),
                _ = self.interrupt.recv() => ("SIGINT", Request::Shutdown),
                _ = self.hangup.recv() => ("SIGHUP", Request::Reload(ReloadScope::ALL)),
            };
            let last = request == Request::Shutdown;
            let answer = core.ask(request, Caller { name: name.to_owned(), uid: None }).await;
            if let Err(refusal) = answer {
                log::error!("{name}: {refusal}");
            }
            if last {
                return;
            }
        }
    }
}
