//! What can go wrong between a key and its address, in words for the one who must mend it.

use std::io;
use std::time::Duration;

use super::SecretError;
use crate::error::{Class, chain};
use crate::identity::{CreateError, LoadError};
use crate::state::{Failure, Reason};
use crate::transport::dial::DialError;
use crate::transport::proxy::ProxyError;
use crate::transport::resolve::ResolveError;

/// A step, as errors name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// TCP and TLS.
    Connect,
    /// The login.
    Login,
    /// The request for an address.
    Address,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Connect => "connecting",
            Self::Login => "the login",
            Self::Address => "the request for an address",
        })
    }
}

/// Why there is no address. Nothing was changed on this host.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The CA file.
    #[error("the CA file of [enrol] cannot be used")]
    Anchors(#[from] LoadError),
    /// The password.
    #[error(transparent)]
    Password(#[from] SecretError),
    /// Nothing says where the password is.
    #[error("there is no password for {user:?}: give enrol.password_file, or the systemd credential {tunnel}.password")]
    NoPassword {
        /// Who would enrol.
        user: String,
        /// The tunnel.
        tunnel: String,
    },
    /// No key or certificate could be made.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// The name of the host.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The proxy on the way.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// No address answers.
    #[error("{remote} cannot be reached; is enrol.url right, and is it up?")]
    Unreachable {
        /// The interface.
        remote: String,
        /// What happened to the last of its addresses.
        source: DialError,
    },
    /// The far end is not to be believed, or does not speak TLS.
    #[error("{text}")]
    Tls {
        /// All of it.
        text: String,
        /// The word for programs.
        reason: Reason,
        /// What may be done about it.
        class: Class,
    },
    /// The connection broke.
    #[error("{step}: {remote} broke the connection")]
    Broken {
        /// When.
        step: Step,
        /// The interface.
        remote: String,
        /// What the system says.
        source: io::Error,
    },
    /// What comes is no HTTP, or ends too early.
    #[error("{step}: what {remote} answers is not HTTP, or ends in the middle: is enrol.url right?")]
    Http {
        /// When.
        step: Step,
        /// The interface.
        remote: String,
        /// What the library says.
        source: hyper::Error,
    },
    /// An answer that is larger than any that is meant.
    #[error(
        "{step}: {remote} answers with more than {limit} bytes: it is not the enrolment interface; correct enrol.url"
    )]
    TooLarge {
        /// When.
        step: Step,
        /// The interface.
        remote: String,
        /// The limit, bytes.
        limit: usize,
    },
    /// No answer.
    #[error("{step}: {remote} does not answer within {limit:?}; try again")]
    Timeout {
        /// When.
        step: Step,
        /// The interface.
        remote: String,
        /// The deadline.
        limit: Duration,
    },
    /// 401 to the login.
    #[error("{remote} does not accept the user {user:?} with this password{}", said(.reason))]
    Refused {
        /// The interface.
        remote: String,
        /// Who.
        user: String,
        /// What it says.
        reason: Option<String>,
    },
    /// 401 to the request for an address.
    #[error("{remote} does not accept its own login any more{}: try again", said(.reason))]
    TokenRefused {
        /// The interface.
        remote: String,
        /// What it says.
        reason: Option<String>,
    },
    /// 403.
    #[error("{remote} does not allow the user {user:?} {wanted}{}: ask its operator, or for something else", said(.reason))]
    Forbidden {
        /// The interface.
        remote: String,
        /// Who.
        user: String,
        /// What was asked for.
        wanted: String,
        /// What it says.
        reason: Option<String>,
    },
    /// 409.
    #[error("{remote} has given {wanted} to somebody else{}: ask for another, or for one in the network", said(.reason))]
    Taken {
        /// The interface.
        remote: String,
        /// What was asked for.
        wanted: String,
        /// What it says.
        reason: Option<String>,
    },
    /// 429, and 503 with a time.
    #[error("{remote} wants to be asked later{}{}", after(.seconds), said(.reason))]
    Later {
        /// The interface.
        remote: String,
        /// Its `Retry-After`.
        seconds: Option<u64>,
        /// What it says.
        reason: Option<String>,
    },
    /// 400, 422 and other refusals of what was asked.
    #[error("{step}: {remote} does not take the request (HTTP status {status}){}", said(.reason))]
    Rejected {
        /// When.
        step: Step,
        /// The interface.
        remote: String,
        /// HTTP status.
        status: u16,
        /// What it says.
        reason: Option<String>,
    },
    /// 5xx.
    #[error("{step}: {remote} has failed (HTTP status {status}){}: try again, or tell its operator", said(.reason))]
    Server {
        /// When.
        step: Step,
        /// The interface.
        remote: String,
        /// HTTP status.
        status: u16,
        /// What it says.
        reason: Option<String>,
    },
    /// Something else answers there.
    #[error("{step}: {remote} is not the enrolment interface ({what}): correct enrol.url")]
    Foreign {
        /// When.
        step: Step,
        /// The interface.
        remote: String,
        /// What it does instead.
        what: String,
    },
    /// `auto`, and the login names no network.
    #[error("{remote} does not say in which network {user:?} gets an address: write one instead of \"auto\"")]
    NoNetwork {
        /// The interface.
        remote: String,
        /// Who.
        user: String,
    },
    /// An address that was not asked for.
    #[error("{remote} gave the address {address:?}, which {why}: nothing was changed here; tell its operator")]
    WrongAddress {
        /// The interface.
        remote: String,
        /// What it gave.
        address: String,
        /// What is wrong with it.
        why: String,
    },
    /// Whatever failed in connecting, if whoever connects has no word of its own for it.
    #[error("connecting")]
    Io(#[from] io::Error),
    /// TLS cannot be set up at all.
    #[error("TLS to {remote} cannot be prepared: {why}")]
    Setup {
        /// The interface.
        remote: String,
        /// What is wrong.
        why: String,
    },
}

impl EnrolError {
    /// What may be done about it.
    pub fn class(&self) -> Class {
        match self {
            Self::Anchors(_) | Self::Setup { .. } => Class::Configuration,
            Self::Resolve(error) => error.class(),
            Self::Proxy(error) => error.class(),
            Self::Create(error) => error.class(),
            Self::Password(_) | Self::NoPassword { .. } => Class::Credentials,
            Self::Unreachable { source, .. } => source.class(),
            Self::Tls { class, .. } => *class,
            Self::Refused { .. } | Self::Forbidden { .. } | Self::Taken { .. } | Self::Rejected { .. } => {
                Class::Credentials
            }
            Self::Foreign { .. } | Self::TooLarge { .. } | Self::NoNetwork { .. } | Self::WrongAddress { .. } => {
                Class::Credentials
            }
            Self::Broken { .. }
            | Self::Http { .. }
            | Self::Timeout { .. }
            | Self::TokenRefused { .. }
            | Self::Later { .. }
            | Self::Server { .. }
            | Self::Io(_) => Class::Transient,
        }
    }

    /// The word for programs.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Anchors(_) | Self::Setup { .. } => Reason::CredentialsMissing,
            Self::Resolve(error) => error.reason(),
            Self::Proxy(error) => error.reason(),
            Self::Create(_) | Self::Password(_) | Self::NoPassword { .. } => Reason::EnrolmentFailed,
            Self::Unreachable { source, .. } => source.reason(),
            Self::Tls { reason, .. } => *reason,
            Self::Refused { .. } | Self::TokenRefused { .. } | Self::Forbidden { .. } | Self::Taken { .. } => {
                Reason::AuthFailed
            }
            Self::Timeout { .. } => Reason::Timeout,
            Self::Broken { .. } | Self::Io(_) => Reason::RemoteClosed,
            Self::Later { .. } | Self::Server { .. } => Reason::Unreachable,
            Self::Http { .. }
            | Self::TooLarge { .. }
            | Self::Rejected { .. }
            | Self::Foreign { .. }
            | Self::NoNetwork { .. }
            | Self::WrongAddress { .. } => Reason::ProtocolError,
        }
    }

    /// The interface refused this user or this request: only a person can change that.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Forbidden { .. } | Self::Taken { .. })
    }

    /// There was no answer in time.
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::Timeout { .. } => true,
            Self::Unreachable { source, .. } => matches!(source, DialError::ConnectTimeout { .. }),
            _ => false,
        }
    }

    /// How long the interface wants to be left alone, seconds.
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Self::Later { seconds, .. } => *seconds,
            _ => None,
        }
    }
}

impl From<&EnrolError> for Failure {
    fn from(error: &EnrolError) -> Self {
        Self::new(error.reason(), error.class(), chain(error))
    }
}

/// What the far end says is shown, but never at a length of its choice.
fn said(reason: &Option<String>) -> String {
    const LONGEST: usize = 200;
    match reason.as_deref().map(str::trim).filter(|reason| !reason.is_empty()) {
        Some(reason) => {
            let text: String =
                reason.chars().take(LONGEST).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
            format!(" (it says: {text})")
        }
        None => String::new(),
    }
}

fn after(seconds: &Option<u64>) -> String {
    seconds.map_or_else(String::new, |seconds| format!(": in {seconds} s"))
}
