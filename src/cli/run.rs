//! `enftunctl run NAME|FILE`: one tunnel in the foreground, without systemd or bus. It applies, connects, prints each change
//! of state, and on Ctrl-C takes away everything that it made.

use super::CliError;
use crate::config::{self, Kind, Lockdown, Tunnel};
use crate::daemon::targets::Targets;
use crate::daemon::{Caller, Core, Daemon, Request};
use crate::kernel::Kernel;
use crate::logging;
use crate::paths::Paths;
use log::LevelFilter;
use std::io::Write;
use std::path::{Path, PathBuf};
use tokio::signal::unix::{SignalKind, signal};

/// Finds what `NAME|FILE` means: a path when it looks like one or exists, else a tunnel's name.
pub fn tunnel_file(what: &str, paths: &Paths) -> PathBuf {
    let path = Path::new(what);
    if what.contains('/') || what.ends_with(".toml") { path.to_owned() } else { paths.tunnel_file(what) }
}

/// Reads one tunnel, or tells every finding.
pub fn load(what: &str, paths: &Paths) -> Result<Tunnel, CliError> {
    let file = tunnel_file(what, paths);
    let (tunnel, findings) = config::load_tunnel(&file, &paths.config);
    for finding in &findings {
        eprintln!("{finding}");
    }
    tunnel.ok_or(CliError::Configuration)
}

/// Runs the tunnel until SIGINT or SIGTERM.
pub async fn run(what: &str, paths: &Paths, json: bool, out: &mut dyn Write) -> Result<(), CliError> {
    let mut tunnel = load(what, paths)?;
    // Here the user is at the keyboard: ending the program is the user's own disconnect, and must leave nothing behind.
    let Kind::Enf(enf) = &mut tunnel.kind;
    enf.route.lockdown = Lockdown::Session;
    logging::init("enftunctl", LevelFilter::Warn);
    let name = tunnel.name.clone();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let kernel = Kernel::new(nix::unistd::geteuid().as_raw())?;
    let mut config = config::Config::default();
    config.tunnels.insert(name.clone(), tunnel);
    let (daemon, core) = Daemon::new(paths.clone(), config, kernel, Targets::default())?;
    let actor = tokio::spawn(daemon.run());
    let me = Caller { name: "enftunctl run".to_owned(), uid: Some(nix::unistd::getuid().as_raw()) };
    core.ask(Request::Connect(name.clone()), me.clone()).await?;
    let printed = tokio::select! {
        printed = print_states(&core, json, out) => printed,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };
    core.ask(Request::Disconnect(name), me.clone()).await?;
    print_new(&core, &mut u64::MAX, json, out)?;
    core.ask(Request::Shutdown, me).await?;
    let _ = actor.await;
    printed
}

async fn print_states(core: &Core, json: bool, out: &mut dyn Write) -> Result<(), CliError> {
    let mut view = core.subscribe();
    let mut printed = 0;
    loop {
        view.mark_unchanged();
        print_new(core, &mut printed, json, out)?;
        if view.changed().await.is_err() {
            return Ok(());
        }
    }
}
