//! `enftunctl run NAME|FILE`: one tunnel in the foreground, without systemd or bus. It applies, connects, prints each change
//! of state, and on Ctrl-C takes away everything that it made.

use super::args::Run;
use super::{CliError, load_groups, load_tunnel, output, time};
use crate::config::{self, Lockdown};
use crate::daemon::in_force::{Holder, InForce};
use crate::daemon::last_plans::LastPlans;
use crate::daemon::targets::Targets;
use crate::daemon::{Caller, Core, Daemon, Request, STATES, Snapshot, Transition};
use crate::kernel::Kernel;
use crate::logging;
use crate::paths::Paths;
use crate::state::{Phase, Tls};
use crate::terminal::{Span, Tone};
use log::LevelFilter;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

/// One change of state: what `monitor` prints, and what the new session is.
#[derive(Serialize)]
struct Line<'a> {
    event: &'static str,
    time: u64,
    tunnel: &'a str,
    new: &'a str,
    old: &'a str,
    reason: &'a str,
    error: Option<&'a str>,
    active_remote: Option<&'a str>,
    addresses: Vec<String>,
    tls: Option<Session<'a>>,
}

#[derive(Serialize)]
struct Session<'a> {
    version: &'a str,
    cipher: &'a str,
    peer_subject: &'a str,
    wire: Option<&'static str>,
}

/// Runs the tunnel until SIGINT or SIGTERM.
pub async fn run(args: Run) -> Result<(), CliError> {
    let paths = Paths { config: args.config_dir.path, runtime: args.runtime_dir.path, ..Paths::default() };
    let mut tunnel = load_tunnel(&args.tunnel, &paths)?;
    // The user is at the keyboard: ending the program is the user's own disconnect, and leaves nothing behind.
    if tunnel.route.lockdown == Lockdown::Boot {
        tunnel.route.lockdown = Lockdown::Session;
    }
    let at_home = tunnel.kind.enf().filter(|enf| enf.advertise.is_none());
    let by_hand = at_home.and_then(|enf| Some(enf.dns.as_ref()?.resolvectl(&enf.tun.dev).join("; ")));
    logging::init("enftunctl", LevelFilter::Warn, Some(STATES));
    if let Some(by_hand) = by_hand {
        log::warn!(
            "`run` leaves [dns] alone, and names go where /etc/resolv.conf says; once connected, by hand: {by_hand}"
        );
    }
    let name = tunnel.name.clone();
    let mut interrupt = signal(SignalKind::interrupt()).map_err(CliError::Start)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(CliError::Start)?;
    let kernel = Kernel::new(nix::unistd::geteuid().as_raw(), &paths.runtime)?;
    let mut config = config::Config { groups: load_groups(&paths)?, ..config::Config::default() };
    config.tunnels.insert(name.clone(), tunnel);
    let in_force = InForce::open(&paths.runtime, Holder::Run)?;
    let loaded = config::Loaded { config, ..config::Loaded::default() };
    let (daemon, core) = Daemon::new(paths, loaded, kernel, in_force, LastPlans::default(), Targets::default())
        .map_err(CliError::Start)?;
    let actor = tokio::spawn(daemon.run());
    let me = Caller { name: "enftunctl run".to_owned(), uid: Some(nix::unistd::getuid().as_raw()) };
    let mut printed = 0;
    core.ask(Request::Connect(name.clone()), me.clone()).await?;
    let told = tokio::select! {
        told = tell_changes(&core, args.json, &mut printed) => told,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };
    core.ask(Request::Disconnect(name.clone()), me.clone()).await?;
    let last = core.snapshot();
    let told = told.and_then(|()| tell_new(&last, args.json, &mut printed));
    core.ask(Request::Shutdown, me).await?;
    let _ = actor.await;
    match last.tunnels.get(&name).filter(|tunnel| tunnel.state != Phase::Disconnected) {
        Some(tunnel) => Err(CliError::LeftBehind {
            tunnel: name,
            why: tunnel.last_error.as_ref().map(ToString::to_string).unwrap_or_default(),
        }),
        None => told,
    }
}

async fn tell_changes(core: &Core, json: bool, printed: &mut u64) -> Result<(), CliError> {
    let mut view = core.subscribe();
    loop {
        let snapshot = view.borrow_and_update().clone();
        tell_new(&snapshot, json, printed)?;
        if view.changed().await.is_err() {
            return Ok(());
        }
    }
}

fn tell_new(snapshot: &Snapshot, json: bool, printed: &mut u64) -> Result<(), CliError> {
    for change in snapshot.history.iter().filter(|change| change.number > *printed) {
        if json { output::json_line(&line(change, snapshot))? } else { output::spans(&text(change, snapshot))? }
    }
    *printed = snapshot.transitions;
    Ok(())
}

fn line<'a>(change: &'a Transition, snapshot: &'a Snapshot) -> Line<'a> {
    let now = snapshot.tunnels.get(&change.tunnel).filter(|_| change.new == Phase::Connected);
    Line {
        event: "state-changed",
        time: time::now(),
        tunnel: &change.tunnel,
        new: change.new.as_str(),
        old: change.old.as_str(),
        reason: change.reason.as_str(),
        error: change.error.as_ref().map(|failure| failure.text.as_str()),
        active_remote: now.and_then(|tunnel| tunnel.active_remote.as_deref()),
        addresses: now.map(|tunnel| tunnel.addresses.iter().map(ToString::to_string).collect()).unwrap_or_default(),
        tls: now.and_then(|tunnel| Some(session(tunnel.tls.as_ref()?, tunnel.forwards.is_none()))),
    }
}

/// `packets`: it carries them, and there are two wires for that.
fn session(tls: &Tls, packets: bool) -> Session<'_> {
    let wire = packets.then_some(tls.wire.as_str());
    Session { version: &tls.version, cipher: &tls.cipher, peer_subject: &tls.peer_subject, wire }
}

fn text(change: &Transition, snapshot: &Snapshot) -> [Span; 4] {
    let Line { tunnel, new, reason, error, active_remote, addresses, .. } = line(change, snapshot);
    let detail = match (error, active_remote) {
        (Some(error), _) => format!(": {error}"),
        (None, Some(remote)) if addresses.is_empty() => format!(" to {remote}{}", places(tunnel, snapshot)),
        (None, Some(remote)) => format!(" to {remote} as {}", addresses.join(", ")),
        (None, None) => format!(" ({reason})"),
    };
    let now = time::clock(time::now());
    [Span::new(Tone::Faint, now), format!("  {tunnel} ").into(), Span::state(new), detail.into()]
}

/// Where the services of a tunnel are, for a port may be left to chance.
fn places(tunnel: &str, snapshot: &Snapshot) -> String {
    let forwards = snapshot.tunnels.get(tunnel).and_then(|tunnel| tunnel.forwards.as_ref());
    let services = forwards.into_iter().flat_map(|forwards| &forwards.places.services);
    services.filter_map(|(name, place)| Some(format!(", {name} at {}", place.as_ref()?))).collect()
}
