//! Why somebody got no token or no address: the HTTP status, the interface's own number, and the words.

use crate::error::Class;
use crate::identity::enrol::api::{ENDPOINTS, ErrorBody, LIMIT, LOGIN};
use hyper::StatusCode;
use ipnet::Ipv6Net;
use std::net::Ipv6Addr;
use std::time::Duration;

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The body is not what was expected.
    #[error("the body of the request is not understood: {0}")]
    Body(String),
    /// The key is none.
    #[error(
        "ecdsa_credential is no public key of a type that is known: ecdsa_p256, ecdsa_p384 or ed25519, in hexadecimal digits"
    )]
    Key,
    /// Nobody can have it.
    #[error("{address} cannot be a client's address: {why}")]
    Address {
        /// What was asked for.
        address: Ipv6Addr,
        /// What it is instead.
        why: &'static str,
    },
    /// No such user, or another password: which, is not said.
    #[error("user or password is wrong")]
    Login,
    /// Never given, ended, or of a password that is not the user's any more.
    #[error("the token is not, or no longer, good: log in again")]
    Token,
    /// Outside what the user gets.
    #[error("this user gets addresses of {network} only")]
    OtherNetwork {
        /// What the user gets.
        network: Ipv6Net,
    },
    /// The one-time password is spent.
    #[error("this password was good for one enrolment, and is used up: ask for a new one")]
    UsedUp,
    /// An administrator took it away.
    #[error("{address} is revoked: only the router's administrator can give it out again")]
    Revoked {
        /// What was asked for.
        address: Ipv6Addr,
    },
    /// As many as the user may have.
    #[error("this user has {max} addresses, and may have no more")]
    TooMany {
        /// So many.
        max: u32,
    },
    /// There is nothing else.
    #[error("there is nothing but {LOGIN} and {ENDPOINTS}")]
    NotFound,
    /// Both are asked.
    #[error("it must be asked by POST")]
    Method,
    /// It is somebody else's.
    #[error("{address} is somebody else's")]
    Taken {
        /// What was asked for.
        address: Ipv6Addr,
    },
    /// Far more than a request has.
    #[error("the body of a request has at most {LIMIT} bytes")]
    TooLarge,
    /// Too many logins.
    #[error("too many logins: wait {} s", wait.as_secs().max(1))]
    TooOften {
        /// Until the next may be tried.
        wait: Duration,
    },
    /// This router's own fault.
    #[error("the router could not do it; its log says why")]
    Failed,
    /// It does what it can.
    #[error("the router has too much to do: try again")]
    Busy,
}

impl Refusal {
    /// Trying again helps where the router, or its administrator, is what is in the way.
    pub fn class(&self) -> Class {
        match self {
            Self::Failed => Class::Environment,
            Self::Busy | Self::TooOften { .. } => Class::Transient,
            _ => Class::Credentials,
        }
    }

    /// The HTTP status, and the interface's own number, which tells apart what shares one.
    pub fn code(&self) -> (StatusCode, i64) {
        match self {
            Self::Body(_) => (StatusCode::BAD_REQUEST, 1),
            Self::Key => (StatusCode::BAD_REQUEST, 2),
            Self::Address { .. } => (StatusCode::BAD_REQUEST, 3),
            Self::Login => (StatusCode::UNAUTHORIZED, 4),
            Self::Token => (StatusCode::UNAUTHORIZED, 5),
            Self::OtherNetwork { .. } => (StatusCode::FORBIDDEN, 6),
            Self::UsedUp => (StatusCode::FORBIDDEN, 7),
            Self::Revoked { .. } => (StatusCode::FORBIDDEN, 8),
            Self::TooMany { .. } => (StatusCode::FORBIDDEN, 9),
            Self::NotFound => (StatusCode::NOT_FOUND, 10),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, 11),
            Self::Taken { .. } => (StatusCode::CONFLICT, 12),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, 13),
            Self::TooOften { .. } => (StatusCode::TOO_MANY_REQUESTS, 14),
            Self::Failed => (StatusCode::INTERNAL_SERVER_ERROR, 15),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, 16),
        }
    }

    /// The body of the answer.
    pub fn body(&self) -> ErrorBody {
        let (status, number) = self.code();
        ErrorBody { xiam_error: Some(number), http_error: Some(status.as_u16()), reason: Some(self.to_string()) }
    }

    /// Seconds until it is worth a try.
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            // In whole seconds, and never too early.
            Self::TooOften { wait } => Some(wait.as_secs() + u64::from(wait.subsec_nanos() > 0)),
            Self::Busy => Some(2),
            _ => None,
        }
    }
}
