//! From an address to a connected TCP socket: mark the socket before it sends anything, and connect within a deadline. It
//! knows nothing of names, of TLS or of tunnels.

use crate::error::Class;
use crate::state::{Failure, Reason};
use socket2::{Domain, Socket, TcpKeepalive, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// Unacknowledged data older than this breaks the connection (`TCP_USER_TIMEOUT`).
const USER_TIMEOUT: Duration = Duration::from_secs(60);
/// Keepalive probes start after this idle time, and so many of them, so far apart, may be lost.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10)).with_retries(6);

/// With more than this not sent yet, the socket takes no more (`TCP_NOTSENT_LOWAT`): what waits, waits where it can be chosen
/// from, not in the kernel behind what came before.
const NOT_SENT: u32 = 64 * 1024;

/// What a tunnel socket carries from its first packet on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `SO_MARK`: routing and firewall know our packets by it.
    pub mark: u32,
    /// `TCP_CONGESTION`; none: the system's.
    pub congestion_control: Option<String>,
    /// Name servers inside the tunnel: they are not asked where its far end is.
    pub inside: Vec<IpAddr>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The kernel refuses to mark packets.
    #[error(
        "mark the socket to {peer} with {mark}: the capability CAP_NET_ADMIN is missing (start it with systemd or as root)"
    )]
    Mark {
        /// Where it was to go.
        peer: SocketAddr,
        /// The mark.
        mark: u32,
        /// EPERM.
        source: io::Error,
    },
    /// The kernel does not have the congestion control.
    #[error(
        "use the congestion control {name:?} (remote.congestion_control): not among those in \
         /proc/sys/net/ipv4/tcp_allowed_congestion_control"
    )]
    Congestion {
        /// Its name.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The socket could not be made ready.
    #[error("make a socket to {peer}")]
    Socket {
        /// Where it was to go.
        peer: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The connection was refused or no way led there.
    #[error("connect to {peer}")]
    Connect {
        /// Where to.
        peer: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The own routing has a way, and a gateway on it has none.
    #[error("connect to {peer}: a gateway on the way has none that leads there")]
    NoWayOn {
        /// Where to.
        peer: SocketAddr,
        /// Its word for it.
        source: io::Error,
    },
    /// Nothing answered.
    #[error("{peer} did not accept a connection within {limit:?}")]
    ConnectTimeout {
        /// Where to.
        peer: SocketAddr,
        /// The deadline.
        limit: Duration,
    },
}

impl DialError {
    /// The word for programs.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Mark { .. } | Self::Congestion { .. } | Self::Socket { .. } => Reason::Config,
            Self::Connect { source, .. } => match source.kind() {
                // The last: there is a route, and no address of our own to use on it.
                io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown | io::ErrorKind::AddrNotAvailable => {
                    Reason::NoNetwork
                }
                _ => Reason::Unreachable,
            },
            Self::NoWayOn { .. } => Reason::Unreachable,
            Self::ConnectTimeout { .. } => Reason::Timeout,
        }
    }

    /// What may be done about it.
    pub fn class(&self) -> Class {
        match self {
            Self::Mark { .. } => Class::Environment,
            Self::Congestion { .. } => Class::Configuration,
            _ => Class::Transient,
        }
    }
}

impl From<&DialError> for Failure {
    fn from(error: &DialError) -> Self {
        Self::new(error.reason(), error.class(), crate::error::chain(error))
    }
}

/// A connection to `peer`: marked before its first packet, without Nagle's delay, with keepalive and a user timeout.
pub async fn connect(peer: SocketAddr, options: &Options, limit: Duration) -> Result<TcpStream, DialError> {
    let socket = prepare(peer, options)?;
    timeout(limit, socket.connect(peer)).await.map_err(|_| DialError::ConnectTimeout { peer, limit })?.map_err(
        |source| match source.kind() {
            io::ErrorKind::NetworkUnreachable if has_way(peer, options.mark) => DialError::NoWayOn { peer, source },
            _ => DialError::Connect { peer, source },
        },
    )
}

/// The own routing has a way: the kernel answers a gateway's word in the same way as its own. Nothing is sent for it.
fn has_way(peer: SocketAddr, mark: u32) -> bool {
    marked(peer, Type::DGRAM, mark).is_ok_and(|socket| socket.connect(&peer.into()).is_ok())
}

/// A socket that can go to `peer` and carries `mark`; it does not block.
pub(super) fn marked(peer: SocketAddr, kind: Type, mark: u32) -> Result<Socket, DialError> {
    let failed = |source| DialError::Socket { peer, source };
    let socket = Socket::new(Domain::for_address(peer), kind, None).map_err(failed)?;
    if mark != 0 {
        socket.set_mark(mark).map_err(|source| DialError::Mark { peer, mark, source })?;
    }
    socket.set_nonblocking(true).map_err(failed)?;
    Ok(socket)
}

fn prepare(peer: SocketAddr, options: &Options) -> Result<TcpSocket, DialError> {
    let failed = |source| DialError::Socket { peer, source };
    let socket = marked(peer, Type::STREAM, options.mark)?;
    if let Some(name) = &options.congestion_control {
        socket
            .set_tcp_congestion(name.as_bytes())
            .map_err(|source| DialError::Congestion { name: name.clone(), source })?;
    }
    socket.set_tcp_nodelay(true).map_err(failed)?;
    socket.set_tcp_keepalive(&KEEPALIVE).map_err(failed)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT)).map_err(failed)?;
    socket.set_tcp_notsent_lowat(NOT_SENT).map_err(failed)?;
    Ok(TcpSocket::from_std_stream(socket.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::SockRef;
    use std::net::TcpListener;

    const LIMIT: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_connection_is_quick_and_notices_a_dead_peer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = connect(listener.local_addr().unwrap(), &Options::default(), LIMIT).await.unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), NOT_SENT);
    }

    #[tokio::test]
    async fn a_refused_connection_says_where_and_why() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = listener.local_addr().unwrap();
        drop(listener);
        let error = connect(peer, &Options::default(), LIMIT).await.unwrap_err();
        let failure = Failure::from(&error);
        assert_eq!((failure.reason, failure.class), (Reason::Unreachable, Class::Transient));
        assert!(failure.text.contains(&peer.to_string()) && failure.text.contains("refused"), "{failure}");
    }

    #[tokio::test]
    async fn an_unknown_congestion_control_is_a_configuration_error() {
        let options = Options { congestion_control: Some("nonesuch".into()), ..Options::default() };
        let error = connect("127.0.0.1:9".parse().unwrap(), &options, LIMIT).await.unwrap_err();
        assert_eq!(error.class(), Class::Configuration);
    }
}
