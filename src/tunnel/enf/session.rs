//! One session of kind `enf`: credentials, dial, handshake, then packets between the TUN and the wire until it ends.
//! It reports to the daemon, counts every packet it drops, and never lets a bad packet end the session (`docs/errors.md`).

use super::filter::{Filter, Ingress};
use super::heartbeat::{self, Beat, Clock};
use super::wire::{Wire, WireError};
use crate::config::{self, Host};
use crate::error::{Class, chain};
use crate::identity::{self, Credentials};
use crate::state::{Ended, Failure, Link, Moment, Reason};
use crate::sys::tun::Tun;
use crate::transport::dial::{self, Options};
use crate::transport::resolve;
use crate::transport::tls;
use crate::transport::trust::{Anchors, RouterTrust};
use crate::tunnel::{Counters, DropReason, Reporter, Session, SessionEvent};
use ipnet::{IpNet, Ipv6Net};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::oneshot;
use tokio::time::{sleep_until, timeout};
use tokio_rustls::TlsConnector;

/// Packets taken from the TUN before the wire is served again.
const BATCH: usize = 64;
/// More than the largest MTU, so that a packet that is too big is seen as such.
const READ: usize = 2048;
/// A deadline that never comes.
const NEVER: Duration = Duration::from_secs(365 * 86_400);

/// What a session needs to live.
#[derive(Debug)]
pub struct Spec {
    /// The tunnel's configuration.
    pub tunnel: Arc<config::Tunnel>,
    /// The packets' way from and to the host.
    pub tun: Arc<Tun>,
    /// Where routers that are given by name were last found, for when nobody answers for the name.
    pub last_addresses: BTreeMap<String, IpAddr>,
    /// Where it counts.
    pub counters: Arc<Counters>,
    /// Where it reports.
    pub reporter: Reporter,
}

/// Starts a session. It ends by itself when it must, or when it is stopped.
pub fn start(spec: Spec) -> Session {
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(async move {
        let reporter = spec.reporter.clone();
        let ended = tokio::select! {
            biased;
            ended = run(spec) => ended,
            // The wire says goodbye when it is dropped.
            _ = stopped => return,
        };
        reporter.report(SessionEvent::Ended(ended)).await;
    });
    Session::new(stop, task)
}

async fn run(spec: Spec) -> Ended {
    let heard_before = |failure| Ended { failure, unheard: false };
    let config::Kind::Enf(enf) = &spec.tunnel.kind;
    let credentials = match load(&spec.tunnel).await {
        Ok(credentials) => credentials,
        Err(failure) => return heard_before(failure),
    };
    let own = match identity::own_address(&credentials) {
        Ok(own) => own,
        Err(error) => return heard_before(Failure::from(&error)),
    };
    let (host, wire) = match connect(&spec, enf, &credentials).await {
        Ok(connected) => connected,
        Err(failure) => return heard_before(failure),
    };
    let link = link(&spec.tunnel, enf, own, &host, &wire, &credentials);
    let pump = Pump::new(&spec, enf, own, wire);
    pump.run(link, &spec.reporter).await
}

/// Certificate and key, looked for and read again for every session so that replaced files take effect.
async fn load(tunnel: &Arc<config::Tunnel>) -> Result<Credentials, Failure> {
    let tunnel = Arc::clone(tunnel);
    let load = move || {
        let config::Kind::Enf(enf) = &tunnel.kind;
        let passed = identity::credentials_directory();
        let (cert_file, key_file) = identity::find(&tunnel.name, &enf.identity, passed.as_deref())?;
        identity::load(&cert_file, &key_file, SystemTime::now())
    };
    match tokio::task::spawn_blocking(load).await {
        Ok(result) => result.map_err(|error| Failure::from(&error)),
        Err(error) => Err(Failure::new(Reason::CredentialsMissing, Class::Bug, chain(&error))),
    }
}

/// The first remote, in the configured order, with which TCP and TLS succeed.
async fn connect(spec: &Spec, enf: &config::Enf, credentials: &Credentials) -> Result<(Host, Wire), Failure> {
    let mut failures = Vec::new();
    for host in &spec.tunnel.remote.hosts {
        match connect_to(spec, enf, credentials, host).await {
            Ok(wire) => return Ok((host.clone(), wire)),
            Err(failure) => {
                log::info!(ENFTUN_TUNNEL = spec.tunnel.name.as_str(), ENFTUN_REMOTE:% = host; "{failure}");
                failures.push(failure);
            }
        }
    }
    Err(worst(failures))
}

/// One failure for all remotes: worth an early retry when that is true of any; otherwise the first stands for all.
fn worst(failures: Vec<Failure>) -> Failure {
    let text = failures.iter().map(|failure| failure.text.as_str()).collect::<Vec<_>>().join("; ");
    let chosen = failures.iter().find(|failure| failure.class == Class::Transient).or(failures.first());
    match chosen {
        Some(failure) => Failure { text, ..failure.clone() },
        None => Failure::new(Reason::Config, Class::Configuration, "no remote is configured (remote.hosts)"),
    }
}

async fn connect_to(spec: &Spec, enf: &config::Enf, credentials: &Credentials, host: &Host) -> Result<Wire, Failure> {
    let remote = &spec.tunnel.remote;
    let limit = remote.connect_timeout;
    let options = Options {
        mark: enf.route.fwmark & enf.route.fwmark_mask,
        congestion_control: remote.congestion_control.clone(),
        inside: enf.dns.as_ref().map(|dns| dns.servers.clone()).unwrap_or_default(),
    };
    let ask = |servers| grant(spec, move |granted| SessionEvent::Ask { servers, granted });
    let addresses = match resolve::resolve(host, &options, limit, ask).await {
        Ok(addresses) => addresses,
        Err(error) => match spec.last_addresses.get(&host.host).filter(|_| error.reason() == Reason::DnsFailed) {
            Some(address) => {
                log::warn!(ENFTUN_TUNNEL = spec.tunnel.name.as_str(), ENFTUN_REMOTE:% = host; "{}; trying {address}, where it was last", chain(&error));
                vec![SocketAddr::new(*address, host.port)]
            }
            None => return Err(Failure::from(&error)),
        },
    };
    let dial = |granted| SessionEvent::Dial { remote: host.to_string(), addresses: addresses.clone(), granted };
    grant(spec, dial).await;
    let mut stream = Err(Failure::new(Reason::DnsFailed, Class::Transient, format!("{host} has no address")));
    for address in addresses {
        stream = dial::connect(address, &options, limit).await.map_err(|error| Failure::from(&error));
        if stream.is_ok() {
            break;
        }
    }
    let stream = stream?;
    let peer = stream.peer_addr().map_err(|error| broken(host, &error))?;
    let anchors = Anchors::load(&remote.ca_cert_file).map_err(|error| Failure::from(&error))?;
    let trust = RouterTrust { anchors, name: remote.name.clone() };
    let name = tls::server_name(remote.name.as_deref(), peer.ip());
    let config = tls::client_config(credentials, trust, &tls::VERSIONS)
        .map_err(|error| Failure::new(Reason::ProtocolError, error.class(), chain(&error)))?;
    let handshake = TlsConnector::from(config).connect(name, stream);
    match timeout(limit, handshake).await {
        Ok(Ok(stream)) => {
            let (socket, connection) = stream.into_inner();
            Ok(Wire::new(socket, connection.into()))
        }
        Ok(Err(error)) => Err(tls::failure(&error, &host.to_string())),
        Err(_) => Err(Failure::new(
            Reason::Timeout,
            Class::Transient,
            format!("{host} ({peer}) accepted the connection but did not finish the TLS handshake within {limit:?}"),
        )),
    }
}

/// Tells the daemon where packets are about to go, and waits until they may.
async fn grant(spec: &Spec, event: impl FnOnce(oneshot::Sender<()>) -> SessionEvent) {
    let (granted, wait) = oneshot::channel();
    spec.reporter.report(event(granted)).await;
    let _ = wait.await;
}

fn broken(host: &Host, error: &io::Error) -> Failure {
    Failure::new(Reason::RemoteClosed, Class::Transient, format!("the connection to {host} broke: {error}"))
}

fn link(
    tunnel: &config::Tunnel,
    enf: &config::Enf,
    own: Ipv6Addr,
    host: &Host,
    wire: &Wire,
    credentials: &Credentials,
) -> Link {
    let mut addresses: Vec<IpNet> = vec![Ipv6Net::from(own).into()];
    addresses.extend(enf.tun.ipv4_address.filter(|_| enf.route.allow_ipv4).map(IpNet::from));
    let tls = tls::describe(wire.tls(), credentials.not_after);
    let peer = wire.socket().peer_addr().unwrap_or_else(|_| SocketAddr::from(([0; 8], 0)));
    log::debug!(ENFTUN_TUNNEL = tunnel.name.as_str(), ENFTUN_REMOTE:% = host; "TLS handshake complete");
    Link { remote: host.to_string(), peer, addresses, tls }
}

/// Carries packets both ways. Both directions are served whenever the task wakes; neither waits for the other.
struct Pump {
    wire: Wire,
    tun: Arc<Tun>,
    filter: Filter,
    clock: Clock,
    counters: Arc<Counters>,
    own: Ipv6Addr,
    started: Instant,
    /// The router's first valid frame has arrived.
    ready: bool,
    /// Bytes of the largest packet that may enter the tunnel.
    mtu: usize,
}

/// Why the pump stopped.
enum Stop {
    Wire(WireError),
    Tun(io::Error),
    Silent,
}

impl Pump {
    fn new(spec: &Spec, enf: &config::Enf, own: Ipv6Addr, wire: Wire) -> Self {
        let own_v4 = enf.tun.ipv4_address.filter(|_| enf.route.allow_ipv4).map(|net| net.addr());
        let remote = &spec.tunnel.remote;
        Self {
            wire,
            tun: spec.tun.clone(),
            filter: Filter::new(own, own_v4, &enf.route.prefixes),
            clock: Clock::new(remote.heartbeat_period, remote.heartbeat_timeout, Duration::ZERO),
            counters: spec.counters.clone(),
            own,
            started: Instant::now(),
            ready: false,
            mtu: usize::from(enf.tun.mtu),
        }
    }

    async fn run(mut self, link: Link, reporter: &Reporter) -> Ended {
        let mut link = Some(link);
        let stop = loop {
            if let Err(stop) = self.turn() {
                break stop;
            }
            if self.ready
                && let Some(link) = link.take()
            {
                self.counters.session_ready();
                reporter.report(SessionEvent::Ready(link)).await;
            }
            if let Err(stop) = self.wait().await {
                break stop;
            }
        };
        self.ended(stop)
    }

    fn now(&self) -> Moment {
        self.started.elapsed()
    }

    /// Does what can be done without waiting.
    fn turn(&mut self) -> Result<(), Stop> {
        self.take_from_wire()?;
        self.take_from_tun()?;
        match self.clock.poll(self.now()) {
            Beat::Dead => return Err(Stop::Silent),
            Beat::Send => {
                self.wire.push(&heartbeat::request(self.own));
            }
            Beat::Wait => {}
        }
        self.wire.flush().map_err(Stop::Wire)
    }

    fn take_from_wire(&mut self) -> Result<(), Stop> {
        let (filter, tun, counters) = (&self.filter, &self.tun, &self.counters);
        let (clock, ready, now) = (&mut self.clock, &mut self.ready, self.started.elapsed());
        let mut lost = None;
        let received = self.wire.receive(|packet| match filter.ingress(packet, clock.awaited()) {
            Ingress::Deliver => {
                clock.heard(now);
                *ready = true;
                match tun.try_send(packet) {
                    Ok(()) => counters.received(packet.len()),
                    Err(error) => match write_verdict(&error) {
                        Some(reason) => counters.dropped_rx(reason),
                        None => lost = Some(error),
                    },
                }
            }
            Ingress::HeartbeatReply => {
                *ready = true;
                if let Some(round_trip) = clock.answered(now) {
                    counters.heartbeat(round_trip);
                }
            }
            Ingress::Drop(reason) => counters.dropped_rx(reason),
        });
        match lost {
            Some(error) => Err(Stop::Tun(error)),
            None => received.map(|_| ()).map_err(Stop::Wire),
        }
    }

    fn take_from_tun(&mut self) -> Result<(), Stop> {
        let mut packet = [0; READ];
        for _ in 0..BATCH {
            if !self.wire.room() {
                break;
            }
            let length = match self.tun.try_recv(&mut packet) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => match read_verdict(&error) {
                    true => break,
                    false => return Err(Stop::Tun(error)),
                },
            };
            let bytes = packet.get(..length).unwrap_or_default();
            let verdict = if length > self.mtu { Err(DropReason::TooBig) } else { self.filter.egress(bytes) };
            match verdict {
                Ok(()) if self.wire.push(bytes) => self.counters.transmitted(length),
                Ok(()) => self.counters.dropped_tx(DropReason::TooBig),
                Err(reason) => self.counters.dropped_tx(reason),
            }
        }
        Ok(())
    }

    /// Sleeps until there is something to do.
    async fn wait(&self) -> Result<(), Stop> {
        let at = self.started + self.clock.next().unwrap_or(NEVER);
        tokio::select! {
            ready = self.wire.ready(self.wire.pending()) => {
                ready.map(|_| ()).map_err(|error| Stop::Wire(WireError::Reset(error)))
            }
            readable = self.tun.readable(), if self.wire.room() => readable.map_err(Stop::Tun),
            () = sleep_until(at.into()) => Ok(()),
        }
    }

    fn ended(&self, stop: Stop) -> Ended {
        let by_far_end = matches!(stop, Stop::Wire(WireError::Closed | WireError::Eof | WireError::Reset(_)));
        Ended { failure: self.failure(stop), unheard: by_far_end && !self.ready }
    }

    fn failure(&self, stop: Stop) -> Failure {
        match stop {
            Stop::Silent => Failure::new(
                Reason::HeartbeatTimeout,
                Class::Transient,
                "the router did not answer the heartbeat in time: the path to it, or the router, is dead",
            ),
            Stop::Tun(error) => Failure::new(
                Reason::LinkLost,
                Class::Transient,
                format!("the device {} is gone ({error}); it is made again", self.tun.name()),
            ),
            Stop::Wire(WireError::Tls(error)) => {
                let peer = self.wire.socket().peer_addr().map(|peer| peer.to_string()).unwrap_or_default();
                tls::tls_failure(&error, &peer)
            }
            Stop::Wire(error) => {
                let reason = match &error {
                    WireError::TooLong(_) => Reason::ProtocolError,
                    _ => Reason::RemoteClosed,
                };
                Failure::new(reason, error.class(), chain(&error))
            }
        }
    }
}

impl Drop for Pump {
    /// However a session ends, it says goodbye, so that the router forgets it at once.
    fn drop(&mut self) {
        self.wire.close();
    }
}

/// What an error of writing a packet to the TUN means: `Some` drops that one packet, `None` means that the device is gone.
fn write_verdict(error: &io::Error) -> Option<DropReason> {
    use nix::errno::Errno;
    match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
        // The device is down; somebody or something will bring it up again.
        Errno::EIO => Some(DropReason::TunDown),
        Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM => Some(DropReason::TunBusy),
        Errno::EINVAL | Errno::EMSGSIZE | Errno::EPERM => Some(DropReason::TunRefused),
        Errno::EINTR => Some(DropReason::TunBusy),
        _ => None,
    }
}

/// What an error of reading the TUN means: `true` goes on, `false` means that the device is gone.
fn read_verdict(error: &io::Error) -> bool {
    use nix::errno::Errno;
    matches!(
        Errno::from_raw(error.raw_os_error().unwrap_or(0)),
        Errno::EIO | Errno::EINTR | Errno::ENOBUFS | Errno::ENOMEM
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;

    #[test]
    fn one_bad_packet_is_dropped_and_counted_and_only_a_vanished_device_ends_the_session() {
        for (errno, expected) in [
            (Errno::EIO, Some(DropReason::TunDown)),
            (Errno::EAGAIN, Some(DropReason::TunBusy)),
            (Errno::ENOBUFS, Some(DropReason::TunBusy)),
            (Errno::ENOMEM, Some(DropReason::TunBusy)),
            (Errno::EINVAL, Some(DropReason::TunRefused)),
            (Errno::EMSGSIZE, Some(DropReason::TunRefused)),
            (Errno::EBADFD, None),
            (Errno::EBADF, None),
        ] {
            let error = io::Error::from(errno);
            assert_eq!(write_verdict(&error), expected, "{errno}");
        }
        for (errno, goes_on) in [(Errno::EIO, true), (Errno::EINTR, true), (Errno::EBADFD, false)] {
            assert_eq!(read_verdict(&io::Error::from(errno)), goes_on, "{errno}");
        }
    }

    #[test]
    fn one_remote_worth_trying_again_makes_all_of_them_so() {
        let unreachable = Failure::new(Reason::Unreachable, Class::Transient, "a: refused");
        let untrusted = Failure::new(Reason::CertificateUntrusted, Class::Credentials, "b: unknown CA");
        let merged = worst(vec![untrusted.clone(), unreachable]);
        assert_eq!((merged.reason, merged.class), (Reason::Unreachable, Class::Transient));
        assert_eq!(merged.text, "b: unknown CA; a: refused");
        assert_eq!(worst(vec![untrusted.clone()]), untrusted);
    }
}
