//! Why the command ends, and with which code.

use super::environment::ProxyError;
use super::settings::SettingsError;
use crate::config::mappings::MappingsError;
use crate::error::{Class, Exit};
use crate::state::{Failure, Reason};
use crate::tunnel::aws::tokens::TokenError;
use std::io;
use std::path::PathBuf;

/// What is wrong with the options.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// One of them.
    #[error("{option}: {why}")]
    Wrong {
        /// As it was written.
        option: String,
        /// Never with a token in it.
        why: String,
    },
    /// Two of them.
    #[error("{one} and {other}: {why}")]
    Both {
        /// One.
        one: String,
        /// The other.
        other: String,
        /// Why they exclude each other, and what to do.
        why: &'static str,
    },
    /// A token that can be none.
    #[error("{option}")]
    Token {
        /// As it was written.
        option: String,
        /// What is wrong with it.
        source: TokenError,
    },
    /// Nobody says who we are.
    #[error(
        "the access token is missing: set the variable AWSIOT_TUNNEL_ACCESS_TOKEN, or write access-token = … in the file of \
         --config"
    )]
    NoToken,
    /// Nobody says where the service is.
    #[error("the service is missing: say --region or --proxy-endpoint")]
    NoTarget,
    /// Nobody says which end this is.
    #[error("the mode is missing: say --source-listen-port, --destination-app or --mode")]
    NoMode,
    /// The file of `--config`.
    #[error("{}:{line}: {why}", path.display())]
    ConfigFile {
        /// Which.
        path: PathBuf,
        /// Where.
        line: usize,
        /// Without the value.
        why: String,
    },
    /// A file that an option names.
    #[error("cannot read {}, which {what} names", path.display())]
    Unreadable {
        /// The option.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Why the command ends with something else than 0.
#[derive(Debug, thiserror::Error)]
pub enum LocalproxyError {
    /// The options.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// The settings file.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The port mapping files.
    #[error(transparent)]
    Mappings(#[from] MappingsError),
    /// The web proxy.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// A destination without a target.
    #[error(
        "nothing says what to connect to{}: say --destination-app, or write SERVICE=TARGET in a file of --config-dir",
        directory.as_ref().map(|path| format!(", and no file in {} does", path.display())).unwrap_or_default()
    )]
    NoTargets {
        /// Where it was looked for.
        directory: Option<PathBuf>,
    },
    /// A session ended for good.
    #[error("{}", .0.text)]
    Ended(Failure),
    /// The token was good once.
    #[error("the session was lost, and without a client token the access token is good for one: {}", .0.text)]
    Spent(Failure),
    /// It was tried often enough.
    #[error("gave up after {attempts} attempt{}: {}", if *.attempts == 1 { "" } else { "s" }, .failure.text)]
    GivenUp {
        /// How often.
        attempts: u32,
        /// Why the last one failed.
        failure: Failure,
    },
    /// The process lacks something it needs before it can start.
    #[error("cannot start")]
    Start(#[source] io::Error),
}

impl LocalproxyError {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::Settings(SettingsError::Write { .. }) => Exit::Failure,
            Self::Settings(_) | Self::Mappings(_) | Self::Proxy(_) | Self::NoTargets { .. } => Exit::Configuration,
            Self::Ended(failure) => match (failure.reason, failure.class) {
                (Reason::TokenRejected, _) => Exit::NotAuthorised,
                (Reason::ListenFailed, _) => Exit::CannotListen,
                (_, Class::Configuration) => Exit::Configuration,
                _ => Exit::Failure,
            },
            Self::Spent(_) => Exit::NotAuthorised,
            Self::GivenUp { .. } | Self::Start(_) => Exit::Failure,
        }
    }
}
