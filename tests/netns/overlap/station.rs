//! What stories of overlapping sessions are played with: a device with sessions on it, far ends that do what the story says,
//! and numbered packets.

use crate::common::client::Tunnel;
use crate::common::fake_router::{server, shake};
use crate::common::netns::{block_on, in_netns_with_tun, ip};
use crate::router::bed::{self, A, B, PATIENCE};
use enftun::config;
use enftun::state::{Ended, SessionId};
use enftun::sys::tun::Tun;
use enftun::tunnel::enf::packet::{Packet, ROUTER, echo_reply};
use enftun::tunnel::enf::session::{self, Spec};
use enftun::tunnel::enf::succession::claimed;
use enftun::tunnel::enf::wire::{Version, Wire, WireError};
use enftun::tunnel::{Counters, DropReason, Proof, Reporter, Session, SessionEvent, Upstream};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// One tunnel's device, and the sessions on it.
pub struct Station {
    _files: Tunnel,
    pub config: Arc<config::Tunnel>,
    pub tun: Arc<Tun>,
    pub upstream: Upstream,
    pub counters: Arc<Counters>,
    pub last: SessionId,
    pub reports: mpsc::Sender<(String, SessionId, SessionEvent)>,
    pub events: mpsc::Receiver<(String, SessionId, SessionEvent)>,
}

impl Station {
    /// The device enf0 with the address A in the namespace of this thread. `remote`: lines for `[remote]`.
    pub fn new(fleet: &bed::Fleet, remote: &[&str]) -> Self {
        let mut files = Tunnel::new(bed::LISTEN, &fleet.ca, &fleet.identity(A)).remote("name = \"router.example\"");
        for line in remote {
            let key = line.split(' ').next().unwrap();
            files.remote =
                files.remote.lines().filter(|old| !old.starts_with(key)).map(|old| format!("{old}\n")).collect();
            files = files.remote(line);
        }
        let (config, findings) = config::load_tunnel(&files.write(), files.path());
        let config = config.unwrap_or_else(|| panic!("{findings:?}"));
        let tun = Tun::open("enf0").unwrap();
        tun.set_carrier(true).unwrap();
        ip("link set enf0 mtu 1280 addrgenmode none up");
        ip(&format!("-6 addr add {A}/128 dev enf0 nodad"));
        ip("-6 route add fd00:8f80::/32 dev enf0");
        let (reports, events) = mpsc::channel(64);
        Self {
            _files: files,
            config: Arc::new(config),
            tun: Arc::new(tun),
            upstream: Upstream::default(),
            counters: Arc::default(),
            last: 0,
            reports,
            events,
        }
    }

    pub fn start(&mut self) -> Session {
        self.start_to(&[0])
    }

    /// `remotes`: places in `remote.hosts`.
    pub fn start_to(&mut self, remotes: &[usize]) -> Session {
        self.last += 1;
        session::start(Spec {
            id: self.last,
            tunnel: self.config.clone(),
            enf: Arc::new(self.config.kind.enf().unwrap().clone()),
            remotes: remotes.to_vec(),
            upstream: self.upstream.clone(),
            probe: Arc::default(),
            tun: self.tun.clone(),
            last_addresses: BTreeMap::new(),
            nameless: BTreeSet::new(),
            refused: None,
            probe_url: None,
            counters: self.counters.clone(),
            reporter: Reporter::new("enf0", self.last, self.reports.clone()),
        })
    }

    /// What a session reports next; whatever asks for leave gets it.
    pub async fn next(&mut self) -> (SessionId, SessionEvent) {
        loop {
            let (_, id, event) = timeout(PATIENCE, self.events.recv()).await.expect("a report").unwrap();
            match event {
                SessionEvent::Ask { granted, .. } | SessionEvent::Dial { granted, .. } => drop(granted.send(())),
                // Told again, with more words, by the end of the session.
                SessionEvent::Refused { .. } => {}
                event => return (id, event),
            }
        }
    }

    pub async fn ready(&mut self) -> SessionId {
        match self.next().await {
            (id, SessionEvent::Ready(_)) => id,
            other => panic!("not ready, but {other:?}"),
        }
    }

    pub async fn ended(&mut self) -> (SessionId, Ended) {
        match self.next().await {
            (id, SessionEvent::Ended(ended)) => (id, ended),
            other => panic!("not ended, but {other:?}"),
        }
    }

    /// A session that is up.
    pub async fn up(&mut self) -> Session {
        let session = self.start();
        assert_eq!(self.ready().await, self.last);
        session
    }
}

/// A far end that does what the test does.
pub struct FarEnd {
    pub listener: TcpListener,
    pub config: Arc<rustls::ServerConfig>,
}

impl FarEnd {
    pub async fn new(fleet: &bed::Fleet) -> Self {
        let router = fleet.ca.sign_v1("router.example");
        let config = server(&router, &router, rustls::ALL_VERSIONS);
        Self { listener: TcpListener::bind("[::1]:0").await.unwrap(), config }
    }

    pub fn hosts(&self) -> String {
        format!("hosts = [\"{}\"]", self.listener.local_addr().unwrap())
    }

    pub async fn accept(&self) -> Peer {
        let (io, _) = timeout(PATIENCE, self.listener.accept()).await.expect("a connection").unwrap();
        Peer(shake(io, self.config.clone()).await.unwrap(), None)
    }
}

/// The far end's side of one session, and the ping that it has not looked at yet.
pub struct Peer(pub Wire, Option<u64>);

/// What a client says.
#[derive(Debug)]
pub enum Said {
    Packet(Vec<u8>),
    /// It wants a sign of life, and has a frame for that.
    Ping(u64),
}

impl Said {
    /// The session that it says it follows.
    pub fn claim(&self) -> Option<Proof> {
        match self {
            Self::Packet(packet) => claimed(packet),
            Self::Ping(_) => None,
        }
    }
}

impl Peer {
    /// Packets until there is one that is wanted, or the end.
    pub async fn until(&mut self, wanted: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>, WireError> {
        let search = async {
            loop {
                if let Some(packet) = self.look(&wanted)? {
                    return Ok(packet);
                }
                self.0.ready(false).await.unwrap();
            }
        };
        timeout(PATIENCE, search).await.expect("a packet or the end")
    }

    /// The first packet that is wanted of those that are there.
    fn look(&mut self, wanted: impl Fn(&[u8]) -> bool) -> Result<Option<Vec<u8>>, WireError> {
        let mut found = None;
        let received = self.0.receive(|unit| {
            if wanted(unit.packet) {
                found.get_or_insert_with(|| unit.packet.to_vec());
            }
        });
        match received {
            Ok(received) => self.1 = received.ping.or(self.1),
            // What came before the end is heard.
            Err(error) if found.is_none() => return Err(error),
            Err(_) => {}
        }
        Ok(found)
    }

    /// The next packet that is wanted, or a ping, whatever comes first.
    async fn hear(&mut self, wanted: impl Fn(&[u8]) -> bool) -> Said {
        let search = async {
            loop {
                if let Some(packet) = self.look(&wanted).unwrap() {
                    return Said::Packet(packet);
                }
                if let Some(stamp) = self.1.take() {
                    return Said::Ping(stamp);
                }
                self.0.ready(false).await.unwrap();
            }
        };
        timeout(PATIENCE, search).await.expect("the client says something")
    }

    /// Whatever comes next.
    pub async fn next(&mut self) -> Said {
        self.hear(|_| true).await
    }

    /// The client wants a sign of life.
    pub async fn heartbeat(&mut self) -> Said {
        match self.0.version() {
            Version::V1 => self.hear(|packet| echo_reply(packet, ROUTER).is_some() && claimed(packet).is_none()).await,
            Version::V2 => self.hear(|_| false).await,
        }
    }

    /// Gives one.
    pub async fn answer_to(&mut self, asked: Said) {
        match asked {
            Said::Packet(request) => self.send(&echo_reply(&request, ROUTER).unwrap()).await,
            Said::Ping(stamp) => {
                self.0.pong(stamp);
                self.flush().await;
            }
        }
    }

    pub async fn send(&mut self, packet: &[u8]) {
        assert!(self.0.push(packet));
        self.flush().await;
    }

    async fn flush(&mut self) {
        self.0.flush().unwrap();
        while self.0.pending() {
            self.0.ready(true).await.unwrap();
            self.0.flush().unwrap();
        }
    }

    /// Answers one heartbeat.
    pub async fn answer(&mut self) {
        let asked = self.heartbeat().await;
        self.answer_to(asked).await;
    }
}

pub fn story(test: &str, story: impl AsyncFnOnce() + Send) {
    in_netns_with_tun(test, || block_on(story()));
}

pub fn address(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// A UDP packet.
pub fn udp(from: SocketAddr, to: SocketAddr, data: &[u8]) -> Vec<u8> {
    let (SocketAddr::V6(from), SocketAddr::V6(to)) = (from, to) else { panic!("IPv6") };
    let length = u16::try_from(8 + data.len()).unwrap().to_be_bytes();
    let mut message = [from.port().to_be_bytes(), to.port().to_be_bytes(), length, [0, 0]].concat();
    message.extend_from_slice(data);
    // The checksum is that of ICMPv6 but for the protocol's number in the pseudo-header, which is a summand like any other.
    let sum = !enftun::tunnel::enf::packet::icmpv6_checksum(*from.ip(), *to.ip(), &message);
    let mut sum = u32::from(sum) + 0xffff - 58 + 17;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    message[6..8].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], 17, 64];
    packet.extend_from_slice(&from.ip().octets());
    packet.extend_from_slice(&to.ip().octets());
    packet.extend_from_slice(&message);
    packet
}

/// The data of a UDP packet to this address.
pub fn datagram(packet: &[u8], to: Ipv6Addr) -> Option<Vec<u8>> {
    match Packet::parse(packet)? {
        Packet::V6 { destination, next_header: 17, payload, .. } if destination == to => Some(payload[8..].to_vec()),
        _ => None,
    }
}

pub fn number(data: &[u8]) -> u32 {
    u32::from_be_bytes(data[..4].try_into().unwrap())
}

/// A station, its far end, and a socket of the host's that talks through the tunnel.
pub struct Pair {
    pub station: Station,
    pub far: FarEnd,
    pub host: UdpSocket,
    _fleet: bed::Fleet,
}

/// No heartbeat but the first, for as long as a test takes.
pub const QUIET: [&str; 2] = ["heartbeat_period = \"300s\"", "heartbeat_timeout = \"120s\""];

pub const HERE: (&str, u16) = (A, 7);
pub const THERE: (&str, u16) = (B, 7);

pub fn at((host, port): (&str, u16)) -> SocketAddr {
    (address(host), port).into()
}

impl Pair {
    pub async fn new(remote: &[&str]) -> Self {
        let fleet = bed::Fleet::new();
        let far = FarEnd::new(&fleet).await;
        let hosts = far.hosts();
        let station = Station::new(&fleet, &[remote, &[&hosts]].concat());
        let host = UdpSocket::bind(at(HERE)).await.unwrap();
        host.connect(at(THERE)).await.unwrap();
        Self { station, far, host, _fleet: fleet }
    }

    /// A session in standby: its first heartbeat waits for an answer.
    pub async fn standby(&mut self) -> (Session, Peer) {
        let session = self.station.start();
        // The handshake needs both sides.
        let peer = tokio::select! {
            peer = self.far.accept() => peer,
            event = self.station.next() => panic!("{event:?}"),
        };
        (session, peer)
    }

    /// A session that is up.
    pub async fn up(&mut self) -> (Session, Peer) {
        let (session, mut peer) = self.standby().await;
        peer.answer().await;
        assert_eq!(self.station.ready().await, self.station.last);
        (session, peer)
    }

    /// The host's packet with this number goes out.
    pub async fn say(&self, number: u32) {
        self.host.send(&number.to_be_bytes()).await.unwrap();
    }

    /// A packet with this number from this peer reaches the host.
    pub async fn hears_from(&self, peer: &mut Peer, number: u32) {
        peer.send(&udp(at(THERE), at(HERE), &number.to_be_bytes())).await;
        let mut buffer = [0; 64];
        let length = timeout(PATIENCE, self.host.recv(&mut buffer)).await.expect("it arrives").unwrap();
        assert_eq!(buffer[..length], number.to_be_bytes());
    }
}

/// The first packet at this peer that is no heartbeat has this number.
pub async fn reaches(peer: &mut Peer, expected: u32) {
    let packet = peer.until(|packet| echo_reply(packet, ROUTER).is_none()).await.unwrap();
    assert_eq!(datagram(&packet, address(B)).map(|data| number(&data)), Some(expected));
}

/// Sends until the session's socket takes nothing more, and what waits for it is more than may.
pub async fn flood(pair: &Pair) {
    let full = || pair.station.counters.drop_reasons().iter().any(|(reason, _)| *reason == DropReason::QueueFull);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !full() {
        assert!(tokio::time::Instant::now() < deadline, "somebody reads, or nobody drops");
        for _ in 0..1000 {
            let _ = pair.host.try_send(&[0; 1000]);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
