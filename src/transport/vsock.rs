//! A connection over vsock(7), between a virtual machine or a card and its host. No network is in between: nothing is marked,
//! looked up or let through the firewall.

use crate::error::Class;
use crate::state::{Failure, Reason};
use nix::errno::Errno;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum VsockError {
    /// There is no vsock here for this process.
    #[error(
        "make a vsock socket: neither the kernel nor the unit may leave it out (its module is vsock; \
         systemd's drop-in is enftund.service.d/vsock.conf)"
    )]
    Missing(#[source] io::Error),
    /// No driver leads there.
    #[error("connect to vsock:{cid}:{port}: no vsock driver of this kernel leads to context {cid}")]
    NoTransport {
        /// Context identifier.
        cid: u32,
        /// Port.
        port: u32,
        /// ENODEV.
        source: io::Error,
    },
    /// Nobody listens there, or the other side went away.
    #[error("connect to vsock:{cid}:{port}")]
    Connect {
        /// Context identifier.
        cid: u32,
        /// Port.
        port: u32,
        /// Why.
        source: io::Error,
    },
    /// Nothing answered.
    #[error("vsock:{cid}:{port} did not accept a connection within {limit:?}")]
    Timeout {
        /// Context identifier.
        cid: u32,
        /// Port.
        port: u32,
        /// The deadline.
        limit: Duration,
    },
}

impl VsockError {
    /// The word for programs.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Missing(_) => Reason::Config,
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::TimedOut => Reason::Timeout,
            // No network is awaited: it would not help.
            Self::NoTransport { .. } | Self::Connect { .. } => Reason::Unreachable,
            Self::Timeout { .. } => Reason::Timeout,
        }
    }

    /// What may be done about it. A driver may still be loaded.
    pub fn class(&self) -> Class {
        match self {
            Self::Missing(_) => Class::Environment,
            Self::NoTransport { .. } | Self::Connect { .. } | Self::Timeout { .. } => Class::Transient,
        }
    }
}

impl From<&VsockError> for Failure {
    fn from(error: &VsockError) -> Self {
        Self::new(error.reason(), error.class(), crate::error::chain(error))
    }
}

/// A connection to a port of a context. It comes in the clothes of TCP: what that type does with its descriptor (send, recv,
/// poll) is the same for every stream; its addresses are errors.
pub async fn connect(cid: u32, port: u32, limit: Duration) -> Result<TcpStream, VsockError> {
    let failed = |source: io::Error| match errno(&source) {
        Errno::ENODEV => VsockError::NoTransport { cid, port, source },
        _ => VsockError::Connect { cid, port, source },
    };
    let socket = Socket::new(Domain::VSOCK, Type::STREAM, None).map_err(VsockError::Missing)?;
    socket.set_nonblocking(true).map_err(failed)?;
    match socket.connect(&SockAddr::vsock(cid, port)) {
        Err(error) if errno(&error) == Errno::EINPROGRESS => {}
        other => other.map_err(failed)?,
    }
    let stream = TcpStream::from_std(OwnedFd::from(socket).into()).map_err(failed)?;
    timeout(limit, stream.writable()).await.map_err(|_| VsockError::Timeout { cid, port, limit })?.map_err(failed)?;
    match stream.take_error().map_err(failed)? {
        Some(error) => Err(failed(error)),
        None => Ok(stream),
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where nothing listens, or no driver leads, is a matter of this kernel; a connection or a hang it is nowhere.
    #[tokio::test]
    async fn where_nobody_listens_the_failure_names_context_and_port() {
        let error = connect(1, 4_000_000_001, Duration::from_secs(20)).await.unwrap_err();
        let failure = Failure::from(&error);
        match error {
            VsockError::Missing(_) => assert_eq!((failure.reason, failure.class), (Reason::Config, Class::Environment)),
            _ => {
                assert_eq!(failure.class, Class::Transient);
                assert!(failure.text.contains("vsock:1:4000000001"), "{failure}");
            }
        }
    }
}
