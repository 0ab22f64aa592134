//! Why `enftunctl keygen` made nothing. Unless an error says otherwise, what was there before is as it was.

use std::io;
use std::path::PathBuf;
#[cfg(feature = "enrol")]
use std::time::Duration;

use crate::error::{Class, Exit};
#[cfg(feature = "enrol")]
use crate::identity::enrol::EnrolError;
use crate::identity::{CreateError, LoadError, SaveError};
use crate::privileges::PrivilegeError;
use crate::terminal::password::PasswordError;

/// Why no identity was made.
#[derive(Debug, thiserror::Error)]
pub enum KeygenError {
    /// Arguments that do not go together, or are missing.
    #[error("{0}")]
    Usage(String),
    /// It has no certificate.
    #[error("{0} is of a kind that has no certificate of its own; its tokens come from the service")]
    Kind(String),
    /// Nobody to ask.
    #[error(
        "{tunnel} has no [enrol]: write url = \"https://router.example.net:8443\" below [enrol] in its file, or make a \
         certificate without an interface (--self-signed, --csr)"
    )]
    NoEnrol {
        /// The tunnel.
        tunnel: String,
    },
    /// A program without the client of the interface.
    #[cfg(not(feature = "enrol"))]
    #[error("{0} cannot be enrolled by this build (without --features enrol); --self-signed and --csr ask nobody")]
    NotBuilt(String),
    /// Files are none of the tunnel's sources.
    #[error("{tunnel} does not use files: add \"files\" to identity.source, or put the pair where it comes from")]
    NotFiles {
        /// The tunnel.
        tunnel: String,
    },
    /// The key has no file.
    #[error("the key of {tunnel} is {place}, and a new one is a file: name that in identity.key_file")]
    NoKeyFile {
        /// The tunnel.
        tunnel: String,
        /// Where the key is.
        place: String,
    },
    /// A file cannot be put there.
    #[error("{} {why}", path.display())]
    Place {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A directory cannot be made.
    #[error("cannot make the directory {}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The owner of the files.
    #[error(transparent)]
    Owner(#[from] PrivilegeError),
    /// Nobody is there to be asked.
    #[error("{what}, and nobody is at a terminal to be asked: --yes says that it is meant{more}")]
    Unconfirmed {
        /// What would be lost.
        what: String,
        /// What else may have been meant.
        more: &'static str,
    },
    /// Somebody was there, and said no.
    #[error("nothing was changed")]
    Declined,
    /// There is no address to keep.
    #[error("there is no certificate to renew; `enftunctl keygen {tunnel} ADDRESS` makes a first one")]
    NothingToRenew {
        /// The tunnel.
        tunnel: String,
        /// What is wrong with the certificate.
        source: LoadError,
    },
    /// A certificate came for a request that nobody made.
    #[error("no key waits for a certificate ({} does not exist): `enftunctl keygen {tunnel} ADDRESS --csr` makes one", key_file.display())]
    NoRequest {
        /// The tunnel.
        tunnel: String,
        /// Where it would be.
        key_file: PathBuf,
    },
    /// The certificate or the key that waits for it.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// No password.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// The terminal.
    #[error("cannot ask at the terminal")]
    Terminal(#[source] io::Error),
    /// Key, certificate or request.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// It took too long.
    #[cfg(feature = "enrol")]
    #[error("{remote} did not give an address within {limit:?}; try again, or give it more time (--timeout)")]
    TimedOut {
        /// The interface.
        remote: String,
        /// The time that it had.
        limit: Duration,
    },
    /// The interface, or the way to it.
    #[cfg(feature = "enrol")]
    #[error(transparent)]
    Enrol(Box<EnrolError>),
    /// The interface cannot be reached, and the tunnels of this host may be why.
    #[cfg(feature = "enrol")]
    #[error(
        "{source}; what belongs in {tunnels} leaves by no other way: open it meanwhile (`enftunctl lockdown {first} off`, \
         afterwards `on`), or let the daemon enrol (enrol.provisioner)"
    )]
    Blocked {
        /// The tunnels that block.
        tunnels: String,
        /// One of them.
        first: String,
        /// What failed.
        source: Box<EnrolError>,
    },
    /// The disk.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// A request could not be written.
    #[error("cannot write {}", path.display())]
    Request {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl KeygenError {
    /// The class of the error.
    pub fn class(&self) -> Class {
        match self {
            Self::Usage(_) | Self::Kind(_) | Self::NoEnrol { .. } | Self::NotFiles { .. } | Self::NoKeyFile { .. } => {
                Class::Configuration
            }
            #[cfg(not(feature = "enrol"))]
            Self::NotBuilt(_) => Class::Configuration,
            Self::NothingToRenew { .. } | Self::NoRequest { .. } => Class::Credentials,
            Self::Load(error) => error.class(),
            Self::Create(error) => error.class(),
            #[cfg(feature = "enrol")]
            Self::Enrol(error) | Self::Blocked { source: error, .. } => error.class(),
            #[cfg(feature = "enrol")]
            Self::TimedOut { .. } => Class::Transient,
            Self::Save(error) => error.class(),
            Self::Password(error) => error.class(),
            Self::Place { .. }
            | Self::Directory { .. }
            | Self::Owner(_)
            | Self::Unconfirmed { .. }
            | Self::Declined
            | Self::Terminal(_)
            | Self::Request { .. } => Class::Environment,
        }
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            #[cfg(feature = "enrol")]
            Self::TimedOut { .. } => Exit::TimedOut,
            #[cfg(feature = "enrol")]
            Self::Enrol(error) | Self::Blocked { source: error, .. } => match &**error {
                EnrolError::Refused { .. } | EnrolError::Forbidden { .. } => Exit::NotAuthorised,
                error if error.is_timeout() => Exit::TimedOut,
                error => error.class().into(),
            },
            _ => self.class().into(),
        }
    }
}

#[cfg(feature = "enrol")]
impl From<EnrolError> for KeygenError {
    fn from(error: EnrolError) -> Self {
        Self::Enrol(Box::new(error))
    }
}
