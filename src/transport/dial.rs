//! From a remote to a connected TCP socket: look the name up, mark the socket before it sends anything, connect, each with a
//! deadline. It knows nothing of TLS or of tunnels.

use crate::config::Host;
use crate::error::Class;
use crate::state::{Failure, Reason};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
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

/// What a tunnel socket carries from its first packet on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `SO_MARK`: routing and firewall know our packets by it.
    pub mark: u32,
    /// `TCP_CONGESTION`; none: the system's.
    pub congestion_control: Option<String>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name has no address.
    #[error("look up the name {host}")]
    Resolve {
        /// The name.
        host: String,
        /// The resolver's answer.
        source: io::Error,
    },
    /// The resolver did not answer.
    #[error("the name {host} could not be looked up within {limit:?}: no DNS server answers")]
    ResolveTimeout {
        /// The name.
        host: String,
        /// The deadline.
        limit: Duration,
    },
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
            Self::Resolve { .. } | Self::ResolveTimeout { .. } => Reason::DnsFailed,
            Self::Mark { .. } | Self::Congestion { .. } | Self::Socket { .. } => Reason::Config,
            Self::Connect { source, .. } => match source.kind() {
                io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown => Reason::NoNetwork,
                _ => Reason::Unreachable,
            },
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

/// The addresses of a remote, in the resolver's order. An address in text needs no resolver.
pub async fn resolve(host: &Host, limit: Duration) -> Result<Vec<SocketAddr>, DialError> {
    if let Ok(address) = host.host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, host.port)]);
    }
    let failed = |source| DialError::Resolve { host: host.host.clone(), source };
    let found = timeout(limit, tokio::net::lookup_host((host.host.as_str(), host.port)))
        .await
        .map_err(|_| DialError::ResolveTimeout { host: host.host.clone(), limit })?
        .map_err(failed)?;
    let addresses: Vec<SocketAddr> = found.collect();
    if addresses.is_empty() {
        return Err(failed(io::Error::new(io::ErrorKind::NotFound, "the name has no address")));
    }
    Ok(addresses)
}

/// A connection to `peer`: marked before its first packet, without Nagle's delay, with keepalive and a user timeout.
pub async fn connect(peer: SocketAddr, options: &Options, limit: Duration) -> Result<TcpStream, DialError> {
    let socket = prepare(peer, options)?;
    timeout(limit, socket.connect(peer))
        .await
        .map_err(|_| DialError::ConnectTimeout { peer, limit })?
        .map_err(|source| DialError::Connect { peer, source })
}

fn prepare(peer: SocketAddr, options: &Options) -> Result<TcpSocket, DialError> {
    let failed = |source| DialError::Socket { peer, source };
    let socket = Socket::new(Domain::for_address(peer), Type::STREAM, Some(Protocol::TCP)).map_err(failed)?;
    if options.mark != 0 {
        socket.set_mark(options.mark).map_err(|source| DialError::Mark { peer, mark: options.mark, source })?;
    }
    if let Some(name) = &options.congestion_control {
        socket
            .set_tcp_congestion(name.as_bytes())
            .map_err(|source| DialError::Congestion { name: name.clone(), source })?;
    }
    socket.set_tcp_nodelay(true).map_err(failed)?;
    socket.set_tcp_keepalive(&KEEPALIVE).map_err(failed)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT)).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
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
    async fn an_address_in_text_needs_no_resolver_and_an_impossible_name_says_so() {
        let literal = Host { host: "2001:db8::1".into(), port: 444 };
        assert_eq!(resolve(&literal, LIMIT).await.unwrap(), ["[2001:db8::1]:444".parse().unwrap()]);
        let name = Host { host: "no-such-host.invalid".into(), port: 443 };
        let error = resolve(&name, LIMIT).await.unwrap_err();
        assert_eq!(error.reason(), Reason::DnsFailed);
    }

    #[tokio::test]
    async fn an_unknown_congestion_control_is_a_configuration_error() {
        let options = Options { congestion_control: Some("nonesuch".into()), ..Options::default() };
        let error = connect("127.0.0.1:9".parse().unwrap(), &options, LIMIT).await.unwrap_err();
        assert_eq!(error.class(), Class::Configuration);
    }
}
