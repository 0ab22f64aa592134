//! Through a proxy: over a connection to it that stands already, one more is asked for, to the far end. Nothing is looked
//! up here, and no packet is sent but on that connection; what comes after the proxy's answer is left in it unread.
//!
//! No error repeats a user's name or a password, nor what the proxy wrote.

mod http;
mod socks5;

use crate::config::{self, Host, Scheme, Way};
use crate::error::Class;
use crate::state::{Failure, Reason};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

/// Why the proxy does not lead to the far end.
#[derive(Debug, thiserror::Error)]
#[error("{proxy} {why}")]
pub struct ProxyError {
    /// The proxy, and behind it the far end that was asked for.
    proxy: String,
    /// What happened.
    #[source]
    pub why: Why,
}

/// What a proxy did, other than to connect.
#[derive(Debug, thiserror::Error)]
pub enum Why {
    /// It wants to know who asks.
    #[error("wants a user and a password: write USER:PASSWORD@ before its name in proxy (below [remote])")]
    LoginWanted,
    /// It does not know us.
    #[error("refuses the user and the password that stand in proxy (below [remote])")]
    LoginRefused,
    /// It knows none of the ways to log in that we know.
    #[error("wants a login by another way than {0}: another proxy, or a rule in this one for this host, is needed")]
    LoginUnknown(&'static str),
    /// It may not do what it was asked for.
    #[error("does not connect to it: {0}")]
    Forbidden(Answer),
    /// It could not do what it was asked for.
    #[error("cannot connect to it: {0}")]
    Failed(Answer),
    /// It speaks something else.
    #[error("does not speak {0}: is its port right?")]
    Foreign(&'static str),
    /// It goes on and on.
    #[error("answers with more than {} KiB", http::LONGEST / 1024)]
    Endless,
    /// It ended the connection.
    #[error("closed the connection before it answered")]
    Closed,
    /// The connection ended by itself.
    #[error("is lost")]
    Broken(#[source] io::Error),
    /// It said nothing, or not all.
    #[error("accepted the connection but did not connect to it within {0:?}")]
    Silent(Duration),
}

/// What a proxy answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// An HTTP status (RFC 9110 section 15).
    Http(u16),
    /// A SOCKS5 reply (RFC 1928 section 6).
    Socks5(u8),
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Http(status) => write!(f, "{} (HTTP status {status})", http::words(*status)),
            Self::Socks5(reply) => write!(f, "{} (SOCKS5 reply {reply})", socks5::words(*reply)),
        }
    }
}

impl Why {
    fn class(&self) -> Class {
        match self {
            Self::LoginWanted | Self::LoginRefused | Self::LoginUnknown(_) | Self::Forbidden(_) => Class::Configuration,
            Self::Failed(_) | Self::Foreign(_) | Self::Endless | Self::Closed | Self::Broken(_) | Self::Silent(_) => {
                Class::Transient
            }
        }
    }
}

impl From<io::Error> for Why {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Broken(error),
        }
    }
}

impl ProxyError {
    /// The word for programs.
    pub fn reason(&self) -> Reason {
        match self.why {
            Why::Silent(_) => Reason::Timeout,
            _ => Reason::ProxyFailed,
        }
    }

    /// What may be done about it.
    pub fn class(&self) -> Class {
        self.why.class()
    }
}

impl From<&ProxyError> for Failure {
    fn from(error: &ProxyError) -> Self {
        Self::new(error.reason(), error.class(), crate::error::chain(error))
    }
}

/// Leads the connection on to `host`, if a proxy is the way there: `stream` is a connection to that proxy, and afterwards to
/// the far end. TLS to the proxy itself is the caller's, and stands already where the URL asks for it.
pub async fn lead<S>(stream: &mut S, host: &Host, limit: Duration) -> Result<(), ProxyError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Way::Proxy(proxy) = &host.way else { return Ok(()) };
    let asked = timeout(limit, ask(stream, proxy, &host.host, host.port)).await;
    let shown = || format!("the proxy {proxy}, asked for {},", config::authority(&host.host, host.port));
    asked.unwrap_or(Err(Why::Silent(limit))).map_err(|why| ProxyError { proxy: shown(), why })
}

/// As [`lead`], without a limit.
pub async fn ask<S>(stream: &mut S, proxy: &config::Proxy, host: &str, port: u16) -> Result<(), Why>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match proxy.scheme {
        Scheme::Http | Scheme::Https => http::ask(stream, proxy.login.as_ref(), host, port).await,
        Scheme::Socks5 => socks5::ask(stream, proxy.login.as_ref(), host, port).await,
    }
}

#[cfg(test)]
mod tests;
