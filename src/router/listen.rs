//! Listening sockets, handshakes, and whom to let in.

use super::forward::Client;
use super::quiet::and_more;
use super::{Hub, RouterError, session};
use crate::config;
use crate::error::chain;
use crate::identity;
use crate::transport::tls::{self, server_config};
use crate::transport::trust::{Anchors, ClientTrust, client_identity};
use crate::tunnel::enf::succession;
use crate::tunnel::enf::wire::Wire;
use nix::errno::Errno;
use rustls::server::Acceptor;
use rustls::{Connection, ProtocolVersion, ServerConfig};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;

/// A handshake that takes longer is given up.
const HANDSHAKE: Duration = Duration::from_secs(15);
/// Pause when the host has no descriptor or memory left for one more connection.
const EXHAUSTED: Duration = Duration::from_millis(100);
/// Connections that the kernel keeps for us to accept.
const BACKLOG: i32 = 4096;
/// A vanished client is noticed after an idle minute and these probes.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 6;
/// Longest that sent bytes may stay unacknowledged, or a client take nothing at all.
const USER_TIMEOUT: Duration = Duration::from_secs(75);
/// Most bytes that the kernel keeps of one session without sending them.
const NOT_SENT: u32 = 128 * 1024;

/// Who we are and whom we let in: what SIGHUP replaces.
#[derive(Debug)]
pub struct Trust {
    tls: Arc<ServerConfig>,
    /// The same for clients that offer a wire by name.
    named: Arc<ServerConfig>,
    /// How the enrolment interface greets people.
    #[cfg(feature = "enrol")]
    pub interface: Arc<ServerConfig>,
    /// Whom to let in.
    pub clients: ClientTrust,
    /// The end of the own certificate's validity, seconds since 1970.
    pub not_after: i64,
}

impl Trust {
    /// Reads the certificate, the key and the client CA.
    pub fn load(config: &config::Router) -> Result<Self, RouterError> {
        let credentials = identity::load(&config.cert_file, &config.key_file, SystemTime::now())?;
        let anchors = config.client_ca_file.as_deref().map(Anchors::load).transpose()?;
        let clients = ClientTrust { anchors, endpoints_dir: config.endpoints_dir.clone() };
        let tls = server_config(&credentials, clients.clone(), &tls::VERSIONS)?;
        Ok(Self {
            named: tls::taking(&tls),
            tls,
            #[cfg(feature = "enrol")]
            interface: tls::interface_config(&credentials, &tls::VERSIONS)?,
            clients,
            not_after: credentials.not_after,
        })
    }
}

/// Makes the sockets, except for addresses that one of the passed sockets serves already.
pub fn open(addresses: &[SocketAddr], passed: Vec<TcpListener>) -> Result<Vec<tokio::net::TcpListener>, RouterError> {
    if addresses.is_empty() && passed.is_empty() {
        return Err(RouterError::NoListener);
    }
    let mut listeners = Vec::new();
    for (index, listener) in passed.into_iter().enumerate() {
        let use_it = |listener: TcpListener| {
            if !SockRef::from(&listener).is_listener()? || listener.local_addr().is_err() {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            listener.set_nonblocking(true)?;
            tokio::net::TcpListener::from_std(listener)
        };
        listeners.push(use_it(listener).map_err(|source| RouterError::Passed { number: index + 1, source })?);
    }
    let served: Vec<_> = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
    for address in addresses.iter().filter(|address| !served.contains(address)) {
        listeners.push(bind(*address, addresses).map_err(|source| RouterError::Listen { address: *address, source })?);
    }
    Ok(listeners)
}

pub(super) fn bind(address: SocketAddr, all: &[SocketAddr]) -> io::Result<tokio::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // [::]:PORT takes IPv4 too, unless IPv4 has a line of its own.
        socket.set_only_v6(all.iter().any(|other| other.is_ipv4() && other.port() == address.port()))?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    tokio::net::TcpListener::from_std(socket.into())
}

/// Lets clients in, for ever.
pub async fn accept(listener: tokio::net::TcpListener, hub: Arc<Hub>) {
    loop {
        match listener.accept().await {
            Ok((io, peer)) => let_in(&hub, io, peer),
            Err(error) => {
                if let Some(more) = hub.refused_lines.allows() {
                    log::error!("cannot accept a connection: {error}{}", and_more(more));
                }
                // Other errors are of the one connection that is gone already.
                if is_exhausted(&error) {
                    tokio::time::sleep(EXHAUSTED).await;
                }
            }
        }
    }
}

/// The host has no descriptor or memory left for one more connection.
pub(super) fn is_exhausted(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)
    )
}

fn let_in(hub: &Arc<Hub>, io: TcpStream, peer: SocketAddr) {
    // An IPv4 client of an IPv6 socket is shown as what it is.
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let Ok(permit) = Arc::clone(&hub.places).try_acquire_owned() else {
        return hub.refused(peer, "too many connections are open");
    };
    let threads = hub.handshakes.clone();
    let hub = Arc::clone(hub);
    threads.spawn(async move {
        // The handshake needs far more memory than the session after it: it is a task of its own, and gone when it is over.
        let mut stopping = hub.stopping.subscribe();
        let outcome = tokio::select! {
            _ = stopping.wait_for(|stopping| *stopping) => return,
            outcome = tokio::time::timeout(HANDSHAKE, shake_hands(&hub, io)) => outcome,
        };
        let why = match outcome {
            Ok(Ok((client, wire))) => {
                let version = match wire.tls().protocol_version() {
                    Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                    _ => "TLSv1.3",
                };
                let proof = succession::proof(wire.tls());
                let me = hub.sessions.create(client, peer, version, tls::wire(wire.tls()), proof);
                let packets = hub.packets.clone();
                packets.spawn(session::run(session::Task { hub, me, wire, permit, drained: true }));
                return;
            }
            Ok(Err(error)) => chain(&error),
            Err(_) => format!("no end of the handshake within {} s", HANDSHAKE.as_secs()),
        };
        hub.handshakes_failed.fetch_add(1, Relaxed);
        if let Some(more) = hub.handshake_lines.allows() {
            log::warn!(ENFTUN_PEER:% = peer, ENFTUN_REASON:% = why; "{peer} was not let in: {why}{}", and_more(more));
        }
    });
}

async fn shake_hands(hub: &Hub, io: TcpStream) -> io::Result<(Client, Box<Wire>)> {
    tune(&io)?;
    let trust = hub.trust();
    let hello = LazyConfigAcceptor::new(Acceptor::default(), io).await?;
    // Who offers nothing that we have is no stranger to the first wire, which has no name.
    let named = hello.client_hello().alpn().is_some_and(tls::offers_a_wire);
    let (io, tls) = hello.into_stream(Arc::clone(if named { &trust.named } else { &trust.tls })).await?.into_inner();
    let identity = client_identity(tls.peer_certificates().unwrap_or_default(), &trust.clients).ok_or_else(|| {
        // The verifier has accepted it a moment ago: it was revoked in between.
        io::Error::new(io::ErrorKind::PermissionDenied, "its certificate is no longer accepted")
    })?;
    let client = Client { address: identity.address, ipv4: identity.ipv4, enrolled: identity.enrolled };
    Ok((client, Box::new(Wire::new(io, Connection::Server(tls)))))
}

fn tune(io: &TcpStream) -> io::Result<()> {
    io.set_nodelay(true)?;
    let socket = SockRef::from(io);
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    // A client that is slower than its packets gets drops early rather than megabytes late.
    socket.set_tcp_notsent_lowat(NOT_SENT)
}
