//! Why a router does not start, or cannot be asked.

use super::registry::{KeyError, RegistryError};
use crate::error::{Class, Exit};
use crate::identity::LoadError;
use crate::terminal::password::PasswordError;
use crate::transport::tls::TlsError;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;

/// Why a router does not start, or cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum RouterError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}{}", listen_advice(source))]
    Listen {
        /// `listen`.
        address: SocketAddr,
        /// What the kernel says.
        source: io::Error,
    },
    /// A socket that systemd passed is of no use.
    #[error("socket {number} passed by the service manager is not a listening TCP socket (see ListenStream=)")]
    Passed {
        /// Counted from 1.
        number: usize,
        /// What the kernel says.
        source: io::Error,
    },
    /// Nobody passed sockets, and none are configured.
    #[error("there is nothing to listen on: set `listen`, or start it by a socket unit")]
    NoListener,
    /// Certificate, key or client CA.
    #[error(transparent)]
    Credentials(#[from] LoadError),
    /// The TLS configuration.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The uplink cannot be set up.
    #[error("cannot {step} for the uplink {dev}; it needs CAP_NET_ADMIN and /dev/net/tun")]
    Uplink {
        /// What was tried.
        step: &'static str,
        /// Interface name.
        dev: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// The control socket cannot be made.
    #[error("cannot make the control socket {}", path.display())]
    Control {
        /// `control_socket`.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The control socket answers.
    #[error("another router is running: it answers on {}; stop it, or set another control_socket", .0.display())]
    Running(PathBuf),
    /// Nobody answers on the control socket.
    #[error("no router answers on {}", path.display())]
    NotRunning {
        /// `control_socket`.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The answer is not ours.
    #[error("what answers on {} is not a router of this version", path.display())]
    NotAStatus {
        /// `control_socket`.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The metrics cannot be written.
    #[error("cannot write {}", file.display())]
    Write {
        /// `--output`.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Who is enrolled cannot be read or written.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Nobody can have this address.
    #[error("{address} cannot be a client's: {why}")]
    Unusable {
        /// The address.
        address: Ipv6Addr,
        /// What it is instead.
        why: &'static str,
    },
    /// What was given cannot be read.
    #[error("cannot read {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What was given is not what an endpoint is known by.
    #[error("{} cannot be enrolled for {address}", file.display())]
    Key {
        /// The address.
        address: Ipv6Addr,
        /// The file.
        file: PathBuf,
        /// Why.
        source: KeyError,
    },
    /// There is no `[enrol]`.
    #[error("the configuration has no [enrol]: there is no file of users")]
    NoInterface,
    /// Nobody of that name.
    #[error("there is no user {name}")]
    NoUser {
        /// Who.
        name: String,
    },
    /// No password came.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// A password cannot be hashed.
    #[cfg(feature = "enrol")]
    #[error("cannot hash the password")]
    Hash {
        /// What the library says.
        source: argon2::password_hash::Error,
    },
    /// Signals cannot be received, or threads not be started.
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
}

impl RouterError {
    /// The class of the error.
    pub fn class(&self) -> Class {
        match self {
            Self::Listen { .. }
            | Self::Uplink { .. }
            | Self::Control { .. }
            | Self::Runtime(_)
            | Self::Read { .. }
            | Self::Write { .. } => Class::Environment,
            Self::Key { .. } | Self::Unusable { .. } | Self::NoUser { .. } => Class::Credentials,
            Self::NoInterface => Class::Configuration,
            Self::Password(error) => error.class(),
            #[cfg(feature = "enrol")]
            Self::Hash { .. } => Class::Bug,
            Self::Registry(error) => error.class(),
            Self::Passed { .. } | Self::NoListener => Class::Configuration,
            Self::Credentials(error) => error.class(),
            Self::Tls(error) => error.class(),
            Self::Running(_) | Self::NotRunning { .. } | Self::NotAStatus { .. } => Class::Transient,
        }
    }

    /// How `enftun-router` ends with it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::NotRunning { .. } => Exit::NotRunning,
            Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => Exit::NotFound,
            Self::NoUser { .. } => Exit::NotFound,
            Self::Password(error) if error.is_missing_file() => Exit::NotFound,
            error => Exit::from(error.class()),
        }
    }
}

fn listen_advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (another program listens there)",
        io::ErrorKind::PermissionDenied => " (ports below 1024 need CAP_NET_BIND_SERVICE or a socket unit)",
        io::ErrorKind::AddrNotAvailable => " (no interface has this address)",
        _ => "",
    }
}
