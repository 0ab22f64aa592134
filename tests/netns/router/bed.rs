//! A router, and clients that are nothing but a wire.

use crate::common::certs::{Ca, Identity};
use crate::common::netns::{block_on, in_netns, in_netns_with_tun};
use crate::common::wire::offering;
use enftun::config;
use enftun::identity;
use enftun::router::status::{SessionStatus, Status};
use enftun::router::{Order, RouterError, control, serve};
use enftun::sys::tun::Offloads;
use enftun::transport::tls::{VERSIONS, client_config};
use enftun::transport::trust::{Anchors, RouterTrust};
use enftun::tunnel::enf::packet::{Packet, ROUTER, echo_reply, icmpv6_echo};
use enftun::tunnel::enf::wire::{Version, Wire, WireError};
use rustls::Connection;
use rustls::pki_types::ServerName;
use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub const LISTEN: &str = "[::1]:4433";
/// Only ends a test that would hang.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub const A: &str = "fd00:8f80::a";
pub const B: &str = "fd00:8f80::b";
pub const C: &str = "fd00:8f80::c";
pub const HOST: &str = "fd00:8f80::1";

/// What a router and its clients share: a CA, and a directory with the router's files.
pub struct Fleet {
    pub dir: tempfile::TempDir,
    pub ca: Ca,
    pub ca_file: PathBuf,
}

impl Fleet {
    /// Writes `router.crt.pem`, `router.key.pem` and `ca.pem`.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::v1("Fleet");
        ca.sign_v1("router.example").write(dir.path(), "router");
        let ca_file = ca.write(dir.path(), "ca");
        std::fs::create_dir(dir.path().join("endpoints")).unwrap();
        Self { dir, ca, ca_file }
    }

    pub fn identity(&self, address: &str) -> Identity {
        self.ca.sign_v1(address)
    }

    pub async fn client(&self, address: &str) -> Client {
        Client::connect(self, address, &self.identity(address)).await
    }
}

/// A router in this process.
pub struct Bed {
    pub fleet: Fleet,
    pub config: config::Router,
    pub orders: mpsc::Sender<Order>,
    pub served: JoinHandle<Result<(), RouterError>>,
}

/// Runs a story with a router; `adjust` changes its configuration.
pub fn story(test: &str, adjust: impl FnOnce(&mut config::Router) + Send, story: impl AsyncFnOnce(Bed) + Send) {
    in_netns(test, || block_on(async { story(Bed::start(adjust).await).await }));
}

/// As [`story`], with an uplink that has the address [`HOST`].
pub fn story_with_uplink(
    test: &str,
    adjust: impl FnOnce(&mut config::Router) + Send,
    story: impl AsyncFnOnce(Bed) + Send,
) {
    let adjust = |config: &mut config::Router| {
        let addresses = vec![format!("{HOST}/64").parse().unwrap()];
        config.tun = Some(config::RouterTun { dev: "enfr0".into(), mtu: 1280, addresses });
        adjust(config);
    };
    in_netns_with_tun(test, || block_on(async { story(Bed::start(adjust).await).await }));
}

pub fn as_it_is(_: &mut config::Router) {}

impl Bed {
    async fn start(adjust: impl FnOnce(&mut config::Router)) -> Self {
        let fleet = Fleet::new();
        let file = |name: &str| fleet.dir.path().join(name);
        let mut config = config::Router {
            listen: vec![LISTEN.parse().unwrap()],
            cert_file: file("router.crt.pem"),
            key_file: file("router.key.pem"),
            client_ca_file: Some(file("ca.pem")),
            endpoints_dir: file("endpoints"),
            max_sessions: 100,
            allow_ipv4: false,
            control_socket: file("run/router.sock"),
            tun: None,
            between_clients: true,
            multicast: false,
            enrol: None,
        };
        adjust(&mut config);
        let (orders, received) = mpsc::channel(1);
        let served = tokio::spawn({
            let config = config.clone();
            async move { serve(&config, Vec::new(), received).await }
        });
        let bed = Self { fleet, config, orders, served };
        bed.until("the router answers", |_| true).await;
        bed
    }

    pub async fn ask(&self) -> Result<Status, RouterError> {
        let socket = self.config.control_socket.clone();
        tokio::task::spawn_blocking(move || control::ask(&socket)).await.unwrap()
    }

    pub async fn status(&self) -> Status {
        self.ask().await.unwrap()
    }

    /// Waits until the status is as wanted.
    pub async fn until(&self, what: &str, condition: impl Fn(&Status) -> bool) -> Status {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            match self.ask().await {
                Ok(status) if condition(&status) => return status,
                seen => {
                    assert!(tokio::time::Instant::now() < deadline, "waited in vain for: {what}; last seen: {seen:?}");
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn client(&self, address: &str) -> Client {
        self.fleet.client(address).await
    }

    pub async fn stop(self) {
        self.orders.send(Order::Stop).await.unwrap();
        timeout(PATIENCE, self.served).await.unwrap().unwrap().unwrap();
    }
}

pub fn session<'a>(status: &'a Status, address: &str) -> &'a SessionStatus {
    let address: Ipv6Addr = address.parse().unwrap();
    let found = status.sessions.iter().find(|session| session.address == address && session.phase == "present");
    found.unwrap_or_else(|| panic!("no present session of {address}: {status:?}"))
}

pub fn drops(wanted: &[(&str, u64)]) -> BTreeMap<String, u64> {
    wanted.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect()
}

/// A client that is nothing but a wire.
pub struct Client {
    pub wire: Wire,
    pub address: Ipv6Addr,
    pub received: VecDeque<Vec<u8>>,
}

impl Client {
    /// Connects, and waits until the router has answered: then the session is there.
    pub async fn connect(fleet: &Fleet, address: &str, identity: &Identity) -> Self {
        let mut client = Self::shake_hands(fleet, address, identity).await;
        client.ask_router().await;
        client
    }

    /// By the wire that is named, whichever the others of this run use.
    pub async fn connect_by(fleet: &Fleet, address: &str, identity: &Identity, wire: Version) -> Self {
        let names: &[&str] = if wire == Version::V2 { &["enftun/2"] } else { &[] };
        let mut client = Self::shake_hands_offering(fleet, address, identity, Some(names)).await;
        assert_eq!(client.wire.version(), wire);
        client.ask_router().await;
        client
    }

    pub async fn shake_hands(fleet: &Fleet, address: &str, identity: &Identity) -> Self {
        Self::shake_hands_offering(fleet, address, identity, None).await
    }

    /// As [`shake_hands`](Self::shake_hands), with an offer of these protocols.
    pub async fn shake_hands_offering(
        fleet: &Fleet,
        address: &str,
        identity: &Identity,
        names: Option<&[&str]>,
    ) -> Self {
        let io = TcpStream::connect(LISTEN).await.unwrap();
        Self::shake_hands_over(io, fleet, address, identity, names).await
    }

    /// The same over a connection that is there.
    pub async fn shake_hands_over(
        io: TcpStream,
        fleet: &Fleet,
        address: &str,
        identity: &Identity,
        names: Option<&[&str]>,
    ) -> Self {
        let dir = tempfile::tempdir_in(fleet.dir.path()).unwrap();
        let (cert_file, key_file) = identity.write(dir.path(), "client");
        let credentials = identity::load(&cert_file, &key_file, SystemTime::now()).unwrap();
        let anchors = Anchors::load(&fleet.ca_file).unwrap();
        let trust = RouterTrust { anchors, name: Some("router.example".into()) };
        let mut config = offering(client_config(&credentials, trust, &VERSIONS).unwrap());
        if let Some(names) = names {
            Arc::make_mut(&mut config).alpn_protocols = names.iter().map(|name| name.as_bytes().to_vec()).collect();
        }
        io.set_nodelay(true).unwrap();
        let name = ServerName::try_from("router.example").unwrap();
        let (io, tls) = tokio_rustls::TlsConnector::from(config).connect(name, io).await.unwrap().into_inner();
        let mut wire = Wire::new(io, Connection::Client(tls));
        wire.greet(Offloads { tcp: true, udp: false }, u16::MAX);
        Self { wire, address: address.parse().unwrap(), received: VecDeque::new() }
    }

    pub fn request(&self, to: &str) -> Vec<u8> {
        icmpv6_echo(self.address, to.parse().unwrap(), 128, b"\0\x01\0\x02question")
    }

    pub async fn send(&mut self, packet: &[u8]) {
        assert!(self.wire.push(packet));
        self.wire.flush().unwrap();
        while self.wire.pending() {
            if self.wire.ready(true).await.unwrap().read {
                self.wire.receive(|unit| self.received.push_back(unit.packet.to_vec())).unwrap();
            }
            self.wire.flush().unwrap();
        }
    }

    /// The next packet, or how the connection ended.
    pub async fn next_or_end(&mut self) -> Result<Vec<u8>, WireError> {
        let next = async {
            loop {
                if let Some(packet) = self.received.pop_front() {
                    return Ok(packet);
                }
                self.wire.ready(false).await.unwrap();
                self.wire.receive(|unit| self.received.push_back(unit.packet.to_vec()))?;
            }
        };
        timeout(PATIENCE, next).await.expect("a packet or the end")
    }

    pub async fn next(&mut self) -> Vec<u8> {
        self.next_or_end().await.unwrap()
    }

    /// Asks the router itself, and waits for the answer. All that was sent before it has gone its way by then.
    pub async fn ask_router(&mut self) {
        let request = self.request("fe80::1");
        self.send(&request).await;
        let answer = self.next().await;
        assert!(is_reply_from(&answer, ROUTER), "{answer:?}");
    }

    /// All that came before the router's answer is `expected`.
    pub async fn ask_router_after(&mut self, expected: Option<&Vec<u8>>) {
        let request = self.request("fe80::1");
        self.send(&request).await;
        if let Some(expected) = expected {
            assert_eq!(&self.next().await, expected);
        }
        assert!(is_reply_from(&self.next().await, ROUTER));
    }
}

pub fn is_reply_from(packet: &[u8], wanted: Ipv6Addr) -> bool {
    matches!(Packet::parse(packet), Some(Packet::V6 { source, payload, .. }) if source == wanted && payload[0] == 129)
}

/// `from` asks `to`, `to` answers.
pub async fn ping(from: &mut Client, to: &mut Client) {
    let request = from.request(&to.address.to_string());
    from.send(&request).await;
    let arrived = to.next().await;
    assert_eq!(arrived, request);
    to.send(&echo_reply(&arrived, to.address).unwrap()).await;
    assert!(is_reply_from(&from.next().await, to.address));
}
