//! The command line of `enftund`.

use super::program::Options;
use crate::paths::{CONFIG_DIR, DAEMON_USER, Paths, RUNTIME_DIR, STATE_DIR};
use clap::{CommandFactory, Parser, Subcommand};
use log::LevelFilter;
use std::path::PathBuf;

/// Keeps this host on its overlay networks, and its traffic off every other way.
#[derive(Debug, Parser)]
#[command(name = "enftund", version, disable_help_subcommand = true)]
pub struct Arguments {
    /// What to do instead of being the daemon.
    #[command(subcommand)]
    pub verb: Option<Verb>,
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

/// What `enftund` does besides being the daemon.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Blocks what belongs in one tunnel, as lockdown = "boot" in its file says, and ends: for the time before the network
    /// comes up. Needs no bus, no network and no daemon. With a file that cannot be used, what was last in force is
    /// blocked, or everything, and the exit code is 78.
    Lockdown {
        /// The tunnel.
        name: String,
    },
}

impl Arguments {
    /// What holds for every verb.
    pub fn options(&self) -> Options {
        let paths =
            Paths { config: self.config_dir.clone(), state: self.state_dir.clone(), runtime: self.runtime_dir.clone() };
        Options { paths, user: self.user.clone(), log_level: self.log_level }
    }
}

/// The command line as a value: what the manual page and the completions are made of.
pub fn command() -> clap::Command {
    Arguments::command()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        super::command().debug_assert();
    }
}
