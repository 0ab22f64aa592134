//! Several sessions of one tunnel on one device: packets move from the old one to the new one, and none is lost, doubled or
//! read by the wrong one. The sessions are the library's, without the daemon around them; kernel, TLS and router are real.

use super::router::bed::{self, A, B, PATIENCE};
use crate::common::client::Tunnel;
use crate::common::fake_router::{server, shake};
use crate::common::netns::{Netns, block_on, in_netns_with_tun, ip, sh, veth};
use enftun::config;
use enftun::router::status::Status;
use enftun::state::{Ended, Reason, SessionId};
use enftun::sys::tun::Tun;
use enftun::tunnel::enf::packet::{Packet, ROUTER, echo_reply};
use enftun::tunnel::enf::session::{self, Spec};
use enftun::tunnel::enf::succession::claimed;
use enftun::tunnel::enf::wire::{Wire, WireError};
use enftun::tunnel::{Counters, Reporter, Session, SessionEvent, Upstream};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// One tunnel's device, and the sessions on it.
struct Station {
    _files: Tunnel,
    config: Arc<config::Tunnel>,
    tun: Arc<Tun>,
    upstream: Upstream,
    counters: Arc<Counters>,
    last: SessionId,
    reports: mpsc::Sender<(String, SessionId, SessionEvent)>,
    events: mpsc::Receiver<(String, SessionId, SessionEvent)>,
}

impl Station {
    /// The device enf0 with the address A in the namespace of this thread. `remote`: lines for `[remote]`.
    fn new(fleet: &bed::Fleet, remote: &[&str]) -> Self {
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

    fn start(&mut self) -> Session {
        self.start_to(&[0])
    }

    /// `remotes`: places in `remote.hosts`.
    fn start_to(&mut self, remotes: &[usize]) -> Session {
        self.last += 1;
        session::start(Spec {
            id: self.last,
            tunnel: self.config.clone(),
            remotes: remotes.to_vec(),
            upstream: self.upstream.clone(),
            probe: Arc::default(),
            tun: self.tun.clone(),
            last_addresses: BTreeMap::new(),
            probe_url: None,
            counters: self.counters.clone(),
            reporter: Reporter::new("enf0", self.last, self.reports.clone()),
        })
    }

    /// What a session reports next; whatever asks for leave gets it.
    async fn next(&mut self) -> (SessionId, SessionEvent) {
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

    async fn ready(&mut self) -> SessionId {
        match self.next().await {
            (id, SessionEvent::Ready(_)) => id,
            other => panic!("not ready, but {other:?}"),
        }
    }

    async fn ended(&mut self) -> (SessionId, Ended) {
        match self.next().await {
            (id, SessionEvent::Ended(ended)) => (id, ended),
            other => panic!("not ended, but {other:?}"),
        }
    }

    /// A session that is up.
    async fn up(&mut self) -> Session {
        let session = self.start();
        assert_eq!(self.ready().await, self.last);
        session
    }
}

/// A far end that does what the test does.
struct FarEnd {
    listener: TcpListener,
    config: Arc<rustls::ServerConfig>,
}

impl FarEnd {
    async fn new(fleet: &bed::Fleet) -> Self {
        let router = fleet.ca.sign_v1("router.example");
        let config = server(&router, &router, rustls::ALL_VERSIONS);
        Self { listener: TcpListener::bind("[::1]:0").await.unwrap(), config }
    }

    fn hosts(&self) -> String {
        format!("hosts = [\"{}\"]", self.listener.local_addr().unwrap())
    }

    async fn accept(&self) -> Peer {
        let (io, _) = timeout(PATIENCE, self.listener.accept()).await.expect("a connection").unwrap();
        Peer(shake(io, self.config.clone()).await.unwrap())
    }
}

/// The far end's side of one session.
struct Peer(Wire);

impl Peer {
    /// Packets until there is one that is wanted, or the end.
    async fn until(&mut self, wanted: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>, WireError> {
        let search = async {
            loop {
                let mut found = None;
                self.0.receive(|packet| {
                    if wanted(packet) {
                        found.get_or_insert_with(|| packet.to_vec());
                    }
                })?;
                match found {
                    Some(packet) => return Ok(packet),
                    None => drop(self.0.ready(false).await.unwrap()),
                }
            }
        };
        timeout(PATIENCE, search).await.expect("a packet or the end")
    }

    async fn heartbeat(&mut self) -> Vec<u8> {
        let own = |packet: &[u8]| echo_reply(packet, ROUTER).is_some() && claimed(packet).is_none();
        self.until(own).await.unwrap()
    }

    async fn send(&mut self, packet: &[u8]) {
        assert!(self.0.push(packet));
        self.0.flush().unwrap();
        while self.0.pending() {
            self.0.ready(true).await.unwrap();
            self.0.flush().unwrap();
        }
    }

    /// Answers one heartbeat.
    async fn answer(&mut self) {
        let heartbeat = self.heartbeat().await;
        self.send(&echo_reply(&heartbeat, ROUTER).unwrap()).await;
    }
}

fn story(test: &str, story: impl AsyncFnOnce() + Send) {
    in_netns_with_tun(test, || block_on(story()));
}

fn address(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// A UDP packet.
fn udp(from: SocketAddr, to: SocketAddr, data: &[u8]) -> Vec<u8> {
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
fn datagram(packet: &[u8], to: Ipv6Addr) -> Option<Vec<u8>> {
    match Packet::parse(packet)? {
        Packet::V6 { destination, next_header: 17, payload, .. } if destination == to => Some(payload[8..].to_vec()),
        _ => None,
    }
}

fn number(data: &[u8]) -> u32 {
    u32::from_be_bytes(data[..4].try_into().unwrap())
}

#[test]
fn twenty_successors_lose_and_double_no_packet() {
    bed::story("twenty_successors", bed::as_it_is, async |bed| {
        const PORT: u16 = 7;
        const WINDOW: u32 = 32;
        let mut station = Station::new(&bed.fleet, &QUIET);
        let mut sessions = vec![station.up().await];
        let mut other = bed.client(B).await;
        let host = UdpSocket::bind((address(A), PORT)).await.unwrap();
        host.connect((address(B), PORT)).await.unwrap();
        // The other client sends everything back. Two connections overtake each other, so numbers may come out of order.
        let mirror = tokio::spawn(async move {
            loop {
                let packet = other.next().await;
                let Some(data) = datagram(&packet, address(B)) else { continue };
                let back = udp((address(B), PORT).into(), (address(A), PORT).into(), &data);
                other.send(&back).await;
            }
        });
        let (done, mut stop) = mpsc::channel::<()>(1);
        let traffic = tokio::spawn(async move {
            let (mut sent, mut received) = (0_u32, 0_u32);
            let mut missing = BTreeSet::new();
            let mut buffer = [0; 2048];
            while received < sent || stop.try_recv().is_err() {
                while sent < received + WINDOW && stop.is_empty() {
                    let mut data = vec![0; 4 + (sent % 1000) as usize];
                    data[..4].copy_from_slice(&sent.to_be_bytes());
                    host.send(&data).await.unwrap();
                    missing.insert(sent);
                    sent += 1;
                }
                let length = timeout(PATIENCE, host.recv(&mut buffer)).await.expect("no packet is lost").unwrap();
                assert!(missing.remove(&number(&buffer[..length])), "a packet came twice, or was never sent");
                received += 1;
            }
            received
        });
        for _ in 0..20 {
            let session = station.start();
            loop {
                match station.next().await {
                    (id, SessionEvent::Ready(_)) if id == station.last => break,
                    (id, SessionEvent::Ended(ended)) => {
                        assert!(id < station.last, "the new one ended: {ended:?}");
                        assert_eq!(ended.failure.reason, Reason::Superseded, "{ended:?}");
                    }
                    other => panic!("{other:?}"),
                }
            }
            sessions.push(session);
            // Some packets go through each.
            let seen = station.counters.totals().tx_packets;
            let deadline = tokio::time::Instant::now() + PATIENCE;
            while seen + 50 > station.counters.totals().tx_packets {
                assert!(tokio::time::Instant::now() < deadline, "traffic stands still");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        done.send(()).await.unwrap();
        let total = traffic.await.unwrap();
        assert!(total >= 1000, "{total}");
        assert!(!mirror.is_finished());
        // The old ones go away, and nobody takes them for another host.
        let status = bed.until("one session of each client", |status| status.sessions.len() == 2).await;
        assert_eq!(status.warnings, []);
        assert_eq!(bed::session(&status, A).phase, "present");
        mirror.abort();
    });
}

/// A station, its far end, and a socket of the host's that talks through the tunnel.
struct Pair {
    station: Station,
    far: FarEnd,
    host: UdpSocket,
    _fleet: bed::Fleet,
}

/// No heartbeat but the first, for as long as a test takes.
const QUIET: [&str; 2] = ["heartbeat_period = \"300s\"", "heartbeat_timeout = \"120s\""];

const HERE: (&str, u16) = (A, 7);
const THERE: (&str, u16) = (B, 7);

fn at((host, port): (&str, u16)) -> SocketAddr {
    (address(host), port).into()
}

impl Pair {
    async fn new(remote: &[&str]) -> Self {
        let fleet = bed::Fleet::new();
        let far = FarEnd::new(&fleet).await;
        let hosts = far.hosts();
        let station = Station::new(&fleet, &[remote, &[&hosts]].concat());
        let host = UdpSocket::bind(at(HERE)).await.unwrap();
        host.connect(at(THERE)).await.unwrap();
        Self { station, far, host, _fleet: fleet }
    }

    /// A session in standby: its first heartbeat waits for an answer.
    async fn standby(&mut self) -> (Session, Peer) {
        let session = self.station.start();
        // The handshake needs both sides.
        let peer = tokio::select! {
            peer = self.far.accept() => peer,
            event = self.station.next() => panic!("{event:?}"),
        };
        (session, peer)
    }

    /// A session that is up.
    async fn up(&mut self) -> (Session, Peer) {
        let (session, mut peer) = self.standby().await;
        peer.answer().await;
        assert_eq!(self.station.ready().await, self.station.last);
        (session, peer)
    }

    /// The host's packet with this number goes out.
    async fn say(&self, number: u32) {
        self.host.send(&number.to_be_bytes()).await.unwrap();
    }

    /// A packet with this number from this peer reaches the host.
    async fn hears_from(&self, peer: &mut Peer, number: u32) {
        peer.send(&udp(at(THERE), at(HERE), &number.to_be_bytes())).await;
        let mut buffer = [0; 64];
        let length = timeout(PATIENCE, self.host.recv(&mut buffer)).await.expect("it arrives").unwrap();
        assert_eq!(buffer[..length], number.to_be_bytes());
    }
}

/// The first packet at this peer that is no heartbeat has this number.
async fn reaches(peer: &mut Peer, expected: u32) {
    let packet = peer.until(|packet| echo_reply(packet, ROUTER).is_none()).await.unwrap();
    assert_eq!(datagram(&packet, address(B)).map(|data| number(&data)), Some(expected));
}

#[test]
fn a_successor_takes_no_packet_before_it_was_heard_and_the_old_one_none_after() {
    story("a_successor_takes_no_packet_before_it_was_heard", async || {
        let mut pair = Pair::new(&QUIET).await;
        let (_first, mut old) = pair.up().await;
        let (_second, mut new) = pair.standby().await;
        new.heartbeat().await;
        for number in 0..200 {
            pair.say(number).await;
            reaches(&mut old, number).await;
        }
        // What it receives, it delivers; that is what makes it the one that sends.
        pair.hears_from(&mut new, 1).await;
        assert_eq!(pair.station.ready().await, 2);
        for number in 200..400 {
            pair.say(number).await;
            reaches(&mut new, number).await;
        }
        // The old one delivers what was on its way, before and after it has said goodbye, and sends nothing.
        pair.hears_from(&mut old, 2).await;
        let end = old.until(|_| true).await;
        assert!(matches!(end, Err(WireError::Closed)), "{end:?}");
        pair.hears_from(&mut old, 3).await;
        drop(old);
        let (id, ended) = pair.station.ended().await;
        assert_eq!((id, ended.failure.reason, ended.unheard), (1, Reason::Superseded, false), "{ended:?}");
        pair.say(400).await;
        reaches(&mut new, 400).await;
    });
}

#[test]
fn a_draining_session_ends_also_when_its_far_end_neither_reads_nor_closes() {
    story("a_draining_session_ends", async || {
        let mut pair = Pair::new(&QUIET).await;
        let (_first, wedged) = pair.up().await;
        // More than the sockets take: the goodbye cannot be said either.
        flood(&pair).await;
        let (_second, mut new) = pair.up().await;
        let (id, ended) = pair.station.ended().await;
        assert_eq!((id, ended.failure.reason), (1, Reason::Superseded), "{ended:?}");
        pair.hears_from(&mut new, 1).await;
        drop(wedged);
    });
}

/// Sends until the session takes nothing more from the device.
async fn flood(pair: &Pair) {
    let full = || {
        let link = ip("-s link show enf0");
        let sent = link.lines().last().unwrap();
        sent.split_whitespace().nth(3).unwrap() != "0"
    };
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !full() {
        assert!(tokio::time::Instant::now() < deadline, "somebody reads");
        for _ in 0..1000 {
            let _ = pair.host.try_send(&[0; 1000]);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn a_session_that_was_overtaken_in_standby_says_goodbye_and_counts_for_nothing() {
    story("overtaken_in_standby", async || {
        let mut pair = Pair::new(&QUIET).await;
        let (_first, mut slow) = pair.standby().await;
        let (_second, mut new) = pair.up().await;
        // Its answer comes too late to make a difference.
        slow.answer().await;
        assert!(matches!(slow.until(|_| true).await, Err(WireError::Closed)));
        drop(slow);
        let (id, ended) = pair.station.ended().await;
        assert_eq!((id, ended.failure.reason, ended.unheard), (1, Reason::Superseded, false), "{ended:?}");
        pair.say(1).await;
        reaches(&mut new, 1).await;
    });
}

#[test]
fn a_successor_that_is_refused_says_so_and_the_old_session_goes_on() {
    story("a_successor_that_is_refused", async || {
        let mut pair = Pair::new(&QUIET).await;
        let (_first, mut old) = pair.up().await;
        let (_second, mut refusing) = pair.standby().await;
        refusing.heartbeat().await;
        refusing.0.close();
        drop(refusing);
        let (id, ended) = pair.station.ended().await;
        assert_eq!((id, ended.failure.reason, ended.unheard), (2, Reason::RemoteClosed, true), "{ended:?}");
        pair.say(1).await;
        reaches(&mut old, 1).await;
        pair.hears_from(&mut old, 2).await;
    });
}

#[test]
fn a_wedged_peer_is_found_by_traffic_within_the_timeout_and_its_heartbeat_is_not_the_last() {
    story("a_wedged_peer", async || {
        let mut pair = Pair::new(&["heartbeat_period = \"300s\"", "heartbeat_timeout = \"2s\""]).await;
        let (_first, wedged) = pair.up().await;
        // Nothing is read any more, and packets go out until no byte fits in: the heartbeat is stuck behind them.
        flood(&pair).await;
        assert!(matches!(pair.station.next().await, (1, SessionEvent::Suspect)), "told before it is given up");
        let (_, ended) = pair.station.ended().await;
        assert_eq!((ended.failure.reason, ended.unheard), (Reason::HeartbeatTimeout, false), "long before the period");
        drop(wedged);
        // The next session asks again and again.
        let (session, mut peer) = pair.up().await;
        for _ in 0..5 {
            session.probe();
            peer.answer().await;
        }
        pair.say(1).await;
        let asked = peer.heartbeat().await;
        peer.send(&echo_reply(&asked, ROUTER).unwrap()).await;
        pair.hears_from(&mut peer, 2).await;
    });
}

#[test]
fn a_probe_asks_at_once_and_silence_is_told_once() {
    story("a_probe_asks_at_once", async || {
        let mut pair = Pair::new(&["heartbeat_period = \"300s\"", "heartbeat_timeout = \"60s\""]).await;
        let (session, mut peer) = pair.up().await;
        for _ in 0..3 {
            session.probe();
            peer.answer().await;
        }
        session.probe();
        let asked = peer.heartbeat().await;
        let event = pair.station.next().await;
        assert!(matches!(event, (1, SessionEvent::Suspect)), "and not before: {event:?}");
        // It was only late. The session goes on, and the same beat is not told of again.
        peer.send(&echo_reply(&asked, ROUTER).unwrap()).await;
        pair.hears_from(&mut peer, 1).await;
        peer.0.close();
        drop(peer);
        assert_eq!(pair.station.ended().await.1.failure.reason, Reason::RemoteClosed);
    });
}

#[test]
fn a_path_that_swallows_everything_is_suspected_by_a_probe_and_given_up_by_traffic() {
    bed::story("a_path_that_swallows_everything", bed::as_it_is, async |bed| {
        let remote = ["heartbeat_period = \"300s\"", "heartbeat_timeout = \"2s\""];
        let mut station = Station::new(&bed.fleet, &remote);
        let session = station.up().await;
        sh(
            "nft 'table inet t { chain i { type filter hook input priority 0; tcp dport 4433 drop; tcp sport 4433 drop; }; }'",
        );
        session.probe();
        let event = station.next().await;
        assert!(matches!(event, (1, SessionEvent::Suspect)), "{event:?}");
        assert_eq!(station.ended().await.1.failure.reason, Reason::HeartbeatTimeout);
        sh("nft delete table inet t");

        let _session = station.up().await;
        sh(
            "nft 'table inet t { chain i { type filter hook input priority 0; tcp dport 4433 drop; tcp sport 4433 drop; }; }'",
        );
        let host = UdpSocket::bind(at(HERE)).await.unwrap();
        host.send_to(b"nobody answers this", at(THERE)).await.unwrap();
        let event = station.next().await;
        assert!(matches!(event, (2, SessionEvent::Suspect)), "{event:?}");
        assert_eq!(station.ended().await.1.failure.reason, Reason::HeartbeatTimeout);
    });
}

/// Carries bytes between a client and the router until the client has said all of its handshake; from then on only to the
/// router. Such paths exist: a firewall on the way that learns the connection in one direction.
async fn one_way(listener: TcpListener) {
    loop {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut router = TcpStream::connect(bed::LISTEN).await.unwrap();
        tokio::spawn(async move {
            let (mut from_client, mut from_router) = ([0; 4096], [0; 4096]);
            let mut answered = false;
            loop {
                tokio::select! {
                    length = client.read(&mut from_client) => match length {
                        Ok(length @ 1..) => {
                            router.write_all(&from_client[..length]).await.unwrap();
                            // The first thing that the client says after the router's part ends the handshake.
                            if answered {
                                let _ = tokio::io::copy(&mut client, &mut router).await;
                                // The router is not told of the end either.
                                return std::future::pending().await;
                            }
                        }
                        _ => return,
                    },
                    length = router.read(&mut from_router) => match length {
                        Ok(length @ 1..) => {
                            client.write_all(&from_router[..length]).await.unwrap();
                            answered = true;
                        }
                        _ => return,
                    },
                }
            }
        });
    }
}

#[test]
fn a_successor_that_hears_nothing_gives_the_address_back_to_the_old_session() {
    bed::story("a_successor_that_hears_nothing", bed::as_it_is, async |bed| {
        let listener = TcpListener::bind("[::1]:0").await.unwrap();
        let hosts = format!("hosts = [\"{}\", \"{}\"]", bed::LISTEN, listener.local_addr().unwrap());
        let remote = ["heartbeat_period = \"300s\"", "heartbeat_timeout = \"2s\"", &hosts];
        let mut station = Station::new(&bed.fleet, &remote);
        let relay = tokio::spawn(one_way(listener));
        let mut other = bed.client(B).await;
        let host = UdpSocket::bind(at(HERE)).await.unwrap();
        let _first = station.up().await;
        let _second = station.start_to(&[1]);
        let two = |status: &Status| status.sessions.iter().filter(|session| session.address == address(A)).count() == 2;
        let event = tokio::select! {
            _ = bed.until("the router takes it for the newer one", two) => station.next().await,
            event = station.next() => event,
        };
        // What goes to the client meanwhile is lost, until the successor is given up.
        let (id, SessionEvent::Ended(ended)) = event else { panic!("{event:?}") };
        assert_eq!((id, ended.failure.reason, ended.unheard), (2, Reason::HeartbeatTimeout, false), "{ended:?}");
        let arrives = async {
            let mut buffer = [0; 64];
            loop {
                other.send(&udp(at(THERE), at(HERE), b"back")).await;
                if timeout(Duration::from_millis(100), host.recv(&mut buffer)).await.is_ok() {
                    return;
                }
            }
        };
        timeout(PATIENCE, arrives).await.expect("the old session has the address again");
        let status = bed.status().await;
        let of_client: Vec<_> = status.sessions.iter().filter(|session| session.address == address(A)).collect();
        assert_eq!((of_client[0].phase.as_str(), &status.warnings[..]), ("present", &[][..]), "{status:?}");
        relay.abort();
    });
}

/// What a stream of this test carries at each place.
fn pattern(place: u64) -> u8 {
    (place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// Reads a stream to its end and checks every byte; returns the longest wait for one.
async fn check(stream: &mut (impl AsyncRead + Unpin), received: &AtomicU64) -> Duration {
    let (mut place, mut longest) = (0, Duration::ZERO);
    let mut buffer = vec![0; 65_536];
    loop {
        let since = tokio::time::Instant::now();
        let read = timeout(PATIENCE, stream.read(&mut buffer)).await.expect("the transfer goes on").expect("no reset");
        longest = longest.max(since.elapsed());
        if read == 0 {
            return longest;
        }
        for byte in &buffer[..read] {
            assert_eq!(*byte, pattern(place), "byte {place}");
            place += 1;
        }
        received.store(place, SeqCst);
    }
}

async fn fill(stream: &mut (impl AsyncWrite + Unpin), done: Arc<AtomicBool>) -> u64 {
    let mut place = 0;
    while !done.load(SeqCst) {
        let bytes: Vec<_> = (place..place + 16_384).map(pattern).collect();
        timeout(PATIENCE, stream.write_all(&bytes)).await.expect("the transfer goes on").expect("no reset");
        place += 16_384;
    }
    stream.shutdown().await.unwrap();
    place
}

#[test]
fn a_running_transfer_survives_twenty_successors_in_both_directions() {
    const TEST: &str = "a_running_transfer_survives_twenty_successors_in_both_directions";
    let listen = |config: &mut config::Router| config.listen = vec!["[::]:4433".parse().unwrap()];
    let story = async |bed: bed::Bed| {
        let server = TcpListener::bind((address(bed::HOST), 5001)).await.unwrap();
        // It sends back what it gets.
        let echo = tokio::spawn(async move {
            let (mut stream, _) = server.accept().await.unwrap();
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await.unwrap();
            write.shutdown().await.unwrap();
        });
        let client = Netns::new();
        tokio::task::block_in_place(|| {
            veth(&Netns::here(), "wan0", &client, "lan0");
            ip("addr add 192.0.2.2/24 dev wan0");
            client.exec("ip addr add 192.0.2.1/24 dev lan0");
            client.run(|| block_on(transfer(&bed.fleet)));
        });
        timeout(PATIENCE, echo).await.unwrap().unwrap();
        let status = bed.until("all have gone", |status| status.sessions.is_empty()).await;
        assert_eq!(status.warnings, []);
    };
    bed::story_with_uplink(TEST, listen, story);
}

/// The client's side: one connection through the tunnel, and twenty sessions one after the other beneath it.
async fn transfer(fleet: &bed::Fleet) {
    let remote = ["hosts = [\"192.0.2.2:4433\"]", "heartbeat_period = \"300s\"", "heartbeat_timeout = \"60s\""];
    let mut station = Station::new(fleet, &remote);
    let mut sessions = vec![station.up().await];
    let socket = TcpSocket::new_v6().unwrap();
    socket.bind((address(A), 0).into()).unwrap();
    let stream = timeout(PATIENCE, socket.connect((address(bed::HOST), 5001).into())).await.unwrap().unwrap();
    let (mut read, mut write) = stream.into_split();
    let done = Arc::new(AtomicBool::new(false));
    let filled = tokio::spawn({
        let done = done.clone();
        async move { fill(&mut write, done).await }
    });
    let received = Arc::new(AtomicU64::new(0));
    let checked = tokio::spawn({
        let received = received.clone();
        async move { check(&mut read, &received).await }
    });
    for _ in 0..20 {
        sessions.push(station.start());
        loop {
            match station.next().await {
                (id, SessionEvent::Ready(_)) if id == station.last => break,
                (id, SessionEvent::Ended(ended)) if id < station.last => {
                    assert_eq!(ended.failure.reason, Reason::Superseded, "{ended:?}");
                }
                // The path is busy, not dead: nobody acts on it here.
                (_, SessionEvent::Suspect) => {}
                other => panic!("{other:?}"),
            }
        }
        // Each carries a share of it.
        let (seen, deadline) = (received.load(SeqCst), tokio::time::Instant::now() + PATIENCE);
        while received.load(SeqCst) < seen + 200_000 {
            assert!(tokio::time::Instant::now() < deadline, "the transfer stands still");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    done.store(true, SeqCst);
    let total = timeout(PATIENCE, filled).await.unwrap().unwrap();
    let stalled = timeout(PATIENCE, checked).await.unwrap().unwrap();
    assert_eq!(received.load(SeqCst), total);
    eprintln!("{total} bytes there and back under 20 successors; longest stall {stalled:?}");
}
