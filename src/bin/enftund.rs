//! `enftund`: the daemon. It reads its arguments, and the library does the rest.

use clap::Parser;
use enftun::daemon::program::{self, Options};
use enftun::error::{Exit, chain};
use enftun::paths::{CONFIG_DIR, DAEMON_USER, Paths, RUNTIME_DIR, STATE_DIR};
use log::LevelFilter;
use std::path::PathBuf;
use std::process::ExitCode;

/// Keeps this host on its overlay networks, and its traffic off every other way.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Where enftun.toml and tunnels/*.toml are.
    #[arg(long, value_name = "DIR", default_value = CONFIG_DIR)]
    config_dir: PathBuf,
    /// Where the wanted states of tunnels are kept.
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,
    /// Where files live that do not survive a reboot.
    #[arg(long, value_name = "DIR", default_value = RUNTIME_DIR)]
    runtime_dir: PathBuf,
    /// The user to become when started as root.
    #[arg(long, value_name = "NAME", default_value = DAEMON_USER)]
    user: String,
    /// error, warn, info, debug or trace; beats enftun.toml.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<LevelFilter>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let options = Options {
        paths: Paths { config: arguments.config_dir, state: arguments.state_dir, runtime: arguments.runtime_dir },
        user: arguments.user,
        log_level: arguments.log_level,
    };
    match program::run(&options) {
        Ok(()) => Exit::Ok.into(),
        Err(error) => {
            eprintln!("enftund: {}", chain(&error));
            Exit::from(error.class()).into()
        }
    }
}
