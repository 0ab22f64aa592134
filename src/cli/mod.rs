//! `enftunctl`: what people and scripts type. One file a verb; here are the list of verbs, the exit code and the one line on
//! stderr. What it knows of the daemon it has from the bus; verbs that work without the daemon say so.

mod agent;
pub mod args;
mod change;
mod check;
mod clear;
mod completions;
mod follow;
mod group;
mod import;
mod keygen;
mod list;
mod lockdown;
mod logs;
mod metrics;
mod monitor;
mod output;
mod plan;
mod redact;
mod reload;
mod report;
mod rotate;
mod run;
mod status;
mod time;
mod wait;

pub use completions::script as completion_script;

use crate::config::{self, Group, Severity, Tunnel};
use crate::daemon::Refusal;
use crate::daemon::in_force::InForceError;
use crate::dbus::client::ClientError;
use crate::error::{Class, Exit, chain};
use crate::kernel::KernelError;
use crate::paths::Paths;
use crate::terminal::Colour;
use crate::terminal::password::PasswordError;
use crate::tunnel::aws::tokens::TokenError;
use clap::{CommandFactory, Parser, Subcommand};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Drives enftund, which keeps this host on an overlay network through tunnels.
#[derive(Debug, Parser)]
#[command(
    name = "enftunctl",
    version,
    disable_help_subcommand = true,
    after_help = "To begin: write /etc/enftun/tunnels/NAME.toml (see enftun.toml(5)), `enftunctl check` it, `enftunctl reload`, \
                  `enftunctl connect NAME`, `enftunctl status`.\n\nExit codes: 0 done, 1 failed, 2 wrong usage, 3 enftund is not running, 4 not authorised, 5 no such tunnel or file, \
                  6 timed out, 78 configuration errors."
)]
struct Cli {
    /// When words are coloured: auto is on a terminal, unless NO_COLOR is set or TERM is dumb.
    #[arg(long, global = true, value_name = "WHEN", default_value_t)]
    color: Colour,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Shows how the tunnels are.
    Status(status::Args),
    /// Lists the tunnels there are.
    List(list::Args),
    /// Makes a tunnel carry traffic.
    #[command(visible_alias = "up")]
    Connect(change::Args),
    /// Makes a tunnel stop carrying traffic.
    #[command(visible_alias = "down")]
    Disconnect(change::Args),
    /// Starts a new session of a tunnel.
    Reconnect(change::Args),
    /// Has a tunnel blocked from boot until it is opened, or only while it is wanted; holds instead of what its file says.
    Lockdown(lockdown::Args),
    /// Gives a tunnel of kind aws-iot other tokens, until others are configured.
    Rotate(rotate::Args),
    /// Lists the trusted interface groups, and trusts interfaces or does not any more.
    Group(group::Args),
    /// Waits until a tunnel is in a state.
    Wait(wait::Args),
    /// Tells what happens, until it is interrupted.
    Monitor(monitor::Args),
    /// Shows what the journal has of the daemon and the tunnels, or of one tunnel.
    Logs(logs::Args),
    /// Prints everything that a report of a problem needs, without secrets; sends nothing.
    Report(report::Args),
    /// Prints what is counted as OpenMetrics text, for a collector.
    Metrics(metrics::Args),
    /// Connects a tunnel and tells its life: what enftun@NAME.service runs. When that unit is stopped, it disconnects.
    Follow(follow::Args),
    /// Has the configuration read again.
    Reload,
    /// Prints what the kernel holds for a tunnel in a state, as commands; changes nothing.
    Plan(args::Plan),
    /// Runs one tunnel in the foreground, without the daemon; Ctrl-C takes everything away again.
    Run(args::Run),
    /// Takes away everything of a tunnel from the kernel, and so opens what was blocked; has enftund do so where it runs.
    Clear(args::Clear),
    /// Checks configuration files, without the daemon.
    Check(check::Args),
    /// Makes a tunnel file of what the C client's file says, or the port mapping files of AWS's local proxy, and tells what has no
    /// counterpart. Works without the daemon.
    Import(import::Args),
    /// Makes a new key and certificate of a tunnel: has a router's interface give the address, or without one. Works without the
    /// daemon.
    Keygen(keygen::Args),
    /// Prints the completions of this command line for a shell.
    Completions(completions::Args),
}

impl Verb {
    /// It may need a password.
    fn changes(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Disconnect(_) | Self::Reconnect(_) => true,
            Self::Lockdown(_) | Self::Rotate(_) | Self::Reload => true,
            Self::Group(args) => args.changes(),
            _ => false,
        }
    }

    async fn run(self) -> Result<(), CliError> {
        match self {
            Self::Status(args) => status::run(args).await,
            Self::List(args) => list::run(args).await,
            Self::Connect(args) => change::run(change::Change::Connect, args).await,
            Self::Disconnect(args) => change::run(change::Change::Disconnect, args).await,
            Self::Reconnect(args) => change::run(change::Change::Reconnect, args).await,
            Self::Lockdown(args) => lockdown::run(args).await,
            Self::Rotate(args) => rotate::run(args).await,
            Self::Group(args) => group::run(args).await,
            Self::Wait(args) => wait::run(args).await,
            Self::Monitor(args) => monitor::run(args).await,
            Self::Logs(args) => logs::run(args),
            Self::Report(args) => report::run(args).await,
            Self::Metrics(args) => metrics::run(args).await,
            Self::Follow(args) => follow::run(args).await,
            Self::Reload => reload::run().await,
            Self::Plan(args) => plan::run(args),
            Self::Run(args) => run::run(args).await,
            Self::Clear(args) => clear::run(args).await,
            Self::Check(args) => check::run(args),
            Self::Import(args) => import::run(args),
            Self::Keygen(args) => keygen::run(args).await,
            Self::Completions(args) => completions::run(&args),
        }
    }
}

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The daemon or the bus.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Waited for a state, and it is clear that it will not come.
    #[error("{tunnel} did not become {wanted}: {why}")]
    Failed {
        /// The tunnel.
        tunnel: String,
        /// The state that was waited for.
        wanted: String,
        /// What happened instead.
        why: String,
    },
    /// Waited for a state in vain.
    #[error("{tunnel} is not {wanted} after {waited}: {now}")]
    TimedOut {
        /// The tunnel.
        tunnel: String,
        /// The state that was waited for.
        wanted: String,
        /// How long.
        waited: String,
        /// How it is instead.
        now: String,
    },
    /// A followed tunnel will not be connected by itself. The log says so.
    #[error("{tunnel} cannot be connected: {why}; it stays blocked as its lockdown says, and is tried again slowly")]
    InError {
        /// The tunnel.
        tunnel: String,
        /// The word for it.
        reason: String,
        /// What is wrong.
        why: String,
    },
    /// The process that follows a tunnel was ended by somebody else than its service manager.
    #[error("ended by a signal, though nobody stops {unit}: {tunnel} is left as it is")]
    Unasked {
        /// The tunnel.
        tunnel: String,
        /// Its unit.
        unit: String,
    },
    /// The unit of a tunnel is stopped, and the daemon does not hear of it.
    #[error("enftund is not there to disconnect {tunnel}: once it is, `enftunctl disconnect {tunnel}` does")]
    NotDisconnected {
        /// The tunnel.
        tunnel: String,
    },
    /// The kernel cannot be talked to.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Another program of ours is at work.
    #[error(transparent)]
    InForce(#[from] InForceError),
    /// The actor refuses.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Something of a tunnel is still in the kernel.
    #[error("something of {tunnel} is still in the kernel: {why}; `enftunctl clear {tunnel}` tries again")]
    LeftBehind {
        /// The tunnel.
        tunnel: String,
        /// What, and why.
        why: String,
    },
    /// Something of some tunnel is still in the kernel.
    #[error("something of the tunnels is still in the kernel: {0}; `enftunctl clear --all` tries again")]
    SomethingLeft(String),
    /// The configuration has errors; they were printed.
    #[error("the configuration has {errors} error{}", if *.errors == 1 { "" } else { "s" })]
    Configuration {
        /// How many.
        errors: usize,
    },
    /// A file is in the way.
    #[error("{} exists already, and was left as it is; --force replaces it", .0.display())]
    Exists(PathBuf),
    /// Not there.
    #[error("{} does not exist", .0.display())]
    NoFile(PathBuf),
    /// The output cannot be written.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
    /// A file cannot be written.
    #[error("cannot write {}", file.display())]
    Write {
        /// Which.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No journal.
    #[error("journalctl is not there, so this host has no journal; the lines of enftund are where its stderr goes")]
    NoJournal,
    /// The journal is closed to the caller.
    #[error(
        "the system's journal is closed to you; become root, or have somebody add you to the group systemd-journal"
    )]
    JournalForbidden,
    /// The tunnel is not opened with tokens.
    #[error("{tunnel} is of kind {kind}, which has no tokens")]
    NoTokens {
        /// The tunnel.
        tunnel: String,
        /// Its kind.
        kind: String,
    },
    /// What shall be tokens is none.
    #[error(transparent)]
    Tokens(#[from] TokenError),
    /// Nothing was typed.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// No identity was made.
    #[error(transparent)]
    Keygen(Box<keygen::KeygenError>),
    /// The process lacks something it needs before it can start.
    #[error("cannot start")]
    Start(#[source] io::Error),
}

impl CliError {
    /// The class of the error.
    pub fn class(&self) -> Class {
        match self {
            Self::Client(error) => error.class(),
            Self::Failed { .. } | Self::TimedOut { .. } | Self::NotDisconnected { .. } | Self::Unasked { .. } => {
                Class::Transient
            }
            Self::InError { reason, .. } if reason == "config" => Class::Configuration,
            Self::InError { .. } => Class::Credentials,
            Self::Kernel(error) => error.class(),
            Self::Keygen(error) => error.class(),
            Self::Refused(refusal) => refusal.class(),
            Self::NoTokens { .. } => Class::Transient,
            Self::Tokens(error) => error.class(),
            Self::Password(error) => error.class(),
            Self::InForce(_) | Self::Output(_) | Self::Write { .. } | Self::Start(_) => Class::Environment,
            Self::LeftBehind { .. } | Self::SomethingLeft(_) | Self::Exists(_) => Class::Environment,
            Self::NoJournal | Self::JournalForbidden => Class::Environment,
            Self::Configuration { .. } | Self::NoFile(_) => Class::Configuration,
        }
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Client(error) => error.exit(),
            Self::Keygen(error) => error.exit(),
            Self::TimedOut { .. } => Exit::TimedOut,
            Self::NoFile(_) => Exit::NotFound,
            Self::JournalForbidden => Exit::NotAuthorised,
            _ => self.class().into(),
        }
    }
}

impl From<keygen::KeygenError> for CliError {
    fn from(error: keygen::KeygenError) -> Self {
        Self::Keygen(Box::new(error))
    }
}

fn is_path(what: &str) -> bool {
    what.contains('/') || what.ends_with(".toml")
}

/// What the tunnel is called that `NAME|FILE` means.
fn tunnel_name(what: &str) -> String {
    let stem = Path::new(what).file_stem().filter(|_| is_path(what));
    stem.map_or_else(|| what.to_owned(), |stem| stem.to_string_lossy().into_owned())
}

/// The tunnel that `NAME|FILE` means: a file when it looks like a path, else the file of that name. All findings are printed.
fn load_tunnel(what: &str, paths: &Paths) -> Result<Tunnel, CliError> {
    let file = if is_path(what) { PathBuf::from(what) } else { paths.tunnel_file(what) };
    if matches!(file.try_exists(), Ok(false)) {
        return Err(CliError::NoFile(file));
    }
    let (tunnel, findings) = config::load_tunnel(&file, &paths.config);
    for finding in &findings {
        eprintln!("{finding}");
    }
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    tunnel.ok_or(CliError::Configuration { errors })
}

/// The trusted groups of the configuration directory. All findings are printed.
fn load_groups(paths: &Paths) -> Result<BTreeMap<String, Group>, CliError> {
    let (config, findings) = config::load_daemon(&paths.config);
    for finding in &findings {
        eprintln!("{finding}");
    }
    match findings.iter().filter(|finding| finding.severity == Severity::Error).count() {
        0 => Ok(config.groups),
        errors => Err(CliError::Configuration { errors }),
    }
}

/// The command line as a value: what the manual page and the completions are made of.
pub fn command() -> clap::Command {
    Cli::command()
}

/// The whole program: reads the command line, does what it says, and turns an error into one line and an exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    output::set_colour(cli.color);
    let done = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::Start).and_then(
        |runtime| {
            let _agent = cli.verb.changes().then(agent::Agent::start);
            let done = runtime.block_on(cli.verb.run());
            // A name look-up may still hang in the resolver; the end does not wait for it.
            runtime.shutdown_background();
            done
        },
    );
    match done {
        Ok(()) => Exit::Ok.into(),
        // Whoever read the output has seen enough.
        Err(CliError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Ok.into(),
        Err(error @ CliError::InError { .. }) => error.exit().into(),
        Err(error) => {
            eprintln!("enftunctl: {}", output::clean(&chain(&error)));
            error.exit().into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }
}
