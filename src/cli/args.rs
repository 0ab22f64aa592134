//! Arguments of the verbs that work without the daemon, and those that several verbs share.

use crate::state::Phase;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use std::path::PathBuf;

/// Where the configuration is.
#[derive(Clone, Debug, clap::Args)]
pub struct ConfigDir {
    /// The configuration directory.
    #[arg(long = "config-dir", value_name = "DIR", default_value = crate::paths::CONFIG_DIR)]
    pub path: PathBuf,
}

/// Where what is in force is written down.
#[derive(Clone, Debug, clap::Args)]
pub struct RuntimeDir {
    /// Where it is written down what is in force; another network namespace needs a directory of its own.
    #[arg(id = "runtime_dir", long = "runtime-dir", value_name = "DIR", default_value = crate::paths::RUNTIME_DIR)]
    pub path: PathBuf,
}

/// Where what must survive a reboot is.
#[derive(Clone, Debug, clap::Args)]
pub struct StateDir {
    /// Where it is written down what to block when the configuration cannot be read.
    #[arg(id = "state_dir", long = "state-dir", value_name = "DIR", default_value = crate::paths::STATE_DIR)]
    pub path: PathBuf,
}

/// `enftunctl plan NAME`.
#[derive(Clone, Debug, clap::Args)]
pub struct Plan {
    /// The tunnel's name.
    pub name: String,
    /// The state to show the plan of.
    #[arg(long, value_name = "STATE", default_value = "connected", value_parser = phase())]
    pub state: Phase,
    /// Prints JSON instead of text.
    #[arg(long)]
    pub json: bool,
    /// Where the configuration is.
    #[command(flatten)]
    pub config_dir: ConfigDir,
}

/// `enftunctl run NAME|FILE`.
#[derive(Clone, Debug, clap::Args)]
pub struct Run {
    /// The tunnel's name, or its file when there is a `/` or `.toml` in it.
    #[arg(value_name = "NAME|FILE")]
    pub tunnel: String,
    /// Prints JSON lines instead of text.
    #[arg(long)]
    pub json: bool,
    /// Where the configuration is.
    #[command(flatten)]
    pub config_dir: ConfigDir,
    /// Where what is in force is written down.
    #[command(flatten)]
    pub runtime_dir: RuntimeDir,
}

/// `enftunctl clear NAME`.
#[derive(Clone, Debug, clap::Args)]
pub struct Clear {
    /// The tunnel's name.
    #[arg(required_unless_present = "all")]
    pub name: Option<String>,
    /// Every tunnel, while enftund does not run.
    #[arg(long, conflicts_with = "name")]
    pub all: bool,
    /// Prints JSON instead of text.
    #[arg(long)]
    pub json: bool,
    /// Where the configuration is.
    #[command(flatten)]
    pub config_dir: ConfigDir,
    /// Where what must survive a reboot is.
    #[command(flatten)]
    pub state_dir: StateDir,
    /// Where what is in force is written down.
    #[command(flatten)]
    pub runtime_dir: RuntimeDir,
}

/// Reads the word of a state; `--help` lists them.
pub fn phase() -> impl TypedValueParser<Value = Phase> {
    PossibleValuesParser::new(Phase::ALL.iter().map(|phase| phase.as_str()))
        .map(|word| Phase::ALL.iter().copied().find(|phase| phase.as_str() == word).unwrap_or(Phase::Disconnected))
}
