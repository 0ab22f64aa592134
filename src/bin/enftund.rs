//! `enftund`: the daemon. It reads its arguments, and the library does the rest.

use clap::{Parser, Subcommand};
use enftun::daemon::lockdown;
use enftun::daemon::program::{self, Options};
use enftun::error::{Class, Exit, chain};
use enftun::paths::{CONFIG_DIR, DAEMON_USER, Paths, RUNTIME_DIR, STATE_DIR};
use log::LevelFilter;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

/// Keeps this host on its overlay networks, and its traffic off every other way.
#[derive(Debug, Parser)]
#[command(version, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Where enftun.toml and tunnels/*.toml are.
    #[arg(long, global = true, value_name = "DIR", default_value = CONFIG_DIR)]
    config_dir: PathBuf,
    /// Where the wanted states of tunnels are kept.
    #[arg(long, global = true, value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,
    /// Where files live that do not survive a reboot.
    #[arg(long, global = true, value_name = "DIR", default_value = RUNTIME_DIR)]
    runtime_dir: PathBuf,
    /// The user to become when started as root.
    #[arg(long, global = true, value_name = "NAME", default_value = DAEMON_USER)]
    user: String,
    /// error, warn, info, debug or trace; beats enftun.toml.
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<LevelFilter>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Blocks what belongs in one tunnel, as lockdown = "boot" in its file says, and ends: for the time before the network
    /// comes up. Needs no bus, no network and no daemon. With a file that cannot be used, what was last in force is
    /// blocked, or everything, and the exit code is 78.
    Lockdown {
        /// The tunnel.
        name: String,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let options = Options {
        paths: Paths { config: arguments.config_dir, state: arguments.state_dir, runtime: arguments.runtime_dir },
        user: arguments.user,
        log_level: arguments.log_level,
    };
    match arguments.verb {
        None => end(program::run(&options), |error| error.class()),
        Some(Verb::Lockdown { name }) => end(lockdown::run(&options, &name), |error| error.class()),
    }
}

fn end<E: Error + 'static>(done: Result<(), E>, class: fn(&E) -> Class) -> ExitCode {
    match done {
        Ok(()) => Exit::Ok.into(),
        Err(error) => {
            eprintln!("enftund: {}", chain(&error));
            Exit::from(class(&error)).into()
        }
    }
}
