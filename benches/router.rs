//! The router with 1 to 10,000 sessions: throughput, memory, forwarding latency in peace and while thousands reconnect at once.
//! `benches/run router` runs it. The router is a process of its own; clients are nothing but a wire, in this process.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../tests/common/mod.rs"]
mod common;

use common::certs::{Alg, Ca, Leaf, new_key};
use common::netns::{Running, in_netns_with_tun, ip};
use common::wait_for;
use enftun::identity;
use enftun::sys::priority;
use enftun::sys::tun::Offloads;
use enftun::sys::vnet::Vnet;
use enftun::transport::tls::{VERSIONS, client_config};
use enftun::transport::trust::{Anchors, RouterTrust};
use enftun::tunnel::enf::offload::Unit;
use enftun::tunnel::enf::packet::{ROUTER, icmpv6_echo};
use enftun::tunnel::enf::wire::{ALPN, Version, Wire};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, Connection};
use std::collections::BTreeMap;
use std::io;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

const PROGRAM: &str = env!("CARGO_BIN_EXE_enftun-router");
const LISTEN: &str = "[::1]:4433";
/// Sessions of the columns.
const SIZES: [usize; 4] = [1, 100, 1_000, 10_000];
/// Sessions that are cut off and come back at once.
const STORM: usize = 5_000;
/// Clients that shake hands at the same time while a column's sessions are set up.
const AT_ONCE: usize = 64;
/// Sessions that send at the same time, each to another one.
const FLOWS: usize = 4;
/// Bytes that each has on the way.
const WINDOW: u64 = 256 * 1024;
/// Payload bytes of a packet: an MTU of 1280.
const SEGMENT: u16 = 1220;
/// Packets in a super-packet.
const SEGMENTS: usize = 48;
/// How long each throughput is measured.
const TRANSFER: Duration = Duration::from_secs(2);
/// Packets whose time is taken in peace, and the time between two.
const PACKETS: usize = 1_000;
const PAUSE: Duration = Duration::from_millis(1);
/// A packet that takes longer is lost.
const LOST: Duration = Duration::from_secs(10);
/// The load is no more important than what the router has for handshakes, so that it is the router that is measured.
const NICE: u8 = 5;
/// Where the router's uplink leads. What goes there is thrown away by the kernel.
const BEYOND: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x8f80, 2, 0, 0, 0, 0, 1);

/// A router, and who may connect.
struct World {
    clients: Vec<Arc<ClientConfig>>,
    directory: tempfile::TempDir,
}

/// A client that is nothing but a wire.
struct Client {
    wire: Wire,
    address: Ipv6Addr,
}

/// What was measured, by the name of the figure.
type Figures = BTreeMap<String, Vec<f64>>;

fn address(number: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x8f80, 1, 0, 0, 0, 0, u16::try_from(number + 1).unwrap())
}

impl World {
    /// Certificates for as many clients. All have one key: it is the router that is measured.
    fn new(clients: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ca = Ca::v1("Fleet");
        ca.sign_v1("router.example").write(directory.path(), "router");
        let ca_file = ca.write(directory.path(), "ca");
        std::fs::create_dir(directory.path().join("endpoints")).unwrap();
        let uplink = "[tun]\ndev = \"enfr0\"\naddresses = [\"fd00:8f80::1/64\"]\n";
        let text = format!(
            "listen = [\"{LISTEN}\"]\nclient_ca_file = \"ca.pem\"\nendpoints_dir = \"endpoints\"\n\
             control_socket = \"control.sock\"\nmax_sessions = 12000\n{uplink}"
        );
        std::fs::write(directory.path().join("router.toml"), text).unwrap();
        let (anchors, key) = (Anchors::load(&ca_file).unwrap(), new_key(Alg::P256));
        let of = |number: usize| {
            let identity = ca.sign_v1(Leaf::new(&address(number).to_string()).key(&key));
            let (cert_file, key_file) = identity.write(directory.path(), "client");
            let credentials = identity::load(&cert_file, &key_file, std::time::SystemTime::now()).unwrap();
            let trust = RouterTrust { anchors: anchors.clone(), name: Some("router.example".into()) };
            client_config(&credentials, trust, &VERSIONS).unwrap()
        };
        Self { clients: (0..clients).map(of).collect(), directory }
    }

    /// The far end, running.
    fn router(&self) -> Running {
        let command = |verb: &str| {
            let mut command = Command::new(PROGRAM);
            command.arg("--config").arg(self.directory.path().join("router.toml")).arg(verb);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        let router = Running(command("serve").spawn().unwrap());
        wait_for("the router answers", || command("status").status().unwrap().success());
        ip(&format!("-6 route replace blackhole {BEYOND}/128"));
        router
    }

    async fn client(&self, number: usize, version: Version) -> io::Result<Client> {
        let mut config = Arc::clone(&self.clients[number]);
        if version == Version::V2 {
            Arc::make_mut(&mut config).alpn_protocols = vec![ALPN.to_vec()];
        }
        let io = TcpStream::connect(LISTEN).await?;
        io.set_nodelay(true)?;
        let name = ServerName::try_from("router.example").unwrap();
        let (io, tls) = tokio_rustls::TlsConnector::from(config).connect(name, io).await?.into_inner();
        let mut client = Client { wire: Wire::new(io, Connection::Client(tls)), address: address(number) };
        client.wire.greet(Offloads { tcp: true, udp: true }, 1280);
        // Once the router has answered, the session is there.
        client.send(Unit::plain(&icmpv6_echo(client.address, ROUTER, 128, b"\0\0\0\0"))).await?;
        client.next().await?;
        Ok(client)
    }

    /// As many clients as fast as the processors allow; how often one had to try again.
    async fn connect(self: &Arc<Self>, numbers: Vec<usize>, at_once: usize) -> (BTreeMap<usize, Client>, usize) {
        let (places, retries) = (Arc::new(Semaphore::new(at_once)), Arc::new(AtomicUsize::new(0)));
        let mut tasks = JoinSet::new();
        for number in numbers {
            let (world, places, retries) = (Arc::clone(self), Arc::clone(&places), Arc::clone(&retries));
            tasks.spawn(async move {
                let _place = places.acquire().await.unwrap();
                loop {
                    match timeout(Duration::from_secs(30), world.client(number, Version::V1)).await {
                        Ok(Ok(client)) => return (number, client),
                        Ok(Err(_)) | Err(_) => retries.fetch_add(1, Relaxed),
                    };
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            });
        }
        let mut clients = BTreeMap::new();
        while let Some(done) = tasks.join_next().await {
            let (number, client) = done.unwrap();
            clients.insert(number, client);
        }
        (clients, retries.load(Relaxed))
    }
}

fn broken(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}

impl Client {
    async fn send(&mut self, unit: Unit<'_>) -> io::Result<()> {
        assert!(self.wire.push_unit(unit));
        self.wire.flush().map_err(broken)?;
        while self.wire.pending() {
            self.wire.socket().writable().await?;
            self.wire.flush().map_err(broken)?;
        }
        Ok(())
    }

    /// Waits for a packet, or several.
    async fn next(&mut self) -> io::Result<usize> {
        loop {
            self.wire.ready(false).await?;
            let mut bytes = 0;
            self.wire.receive(|unit| bytes += unit.wire_bytes()).map_err(broken)?;
            if bytes > 0 {
                return Ok(bytes);
            }
        }
    }
}

/// A TCP super-packet.
fn bulk(from: Ipv6Addr, to: Ipv6Addr) -> (Vnet, Vec<u8>) {
    let payload = usize::from(SEGMENT) * SEGMENTS;
    let length = u16::try_from(20 + payload).unwrap();
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, 6, 64];
    packet[4..6].copy_from_slice(&length.to_be_bytes());
    packet.extend(from.octets());
    packet.extend(to.octets());
    let words = packet[8..40].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let mut sum = words.sum::<u32>() + u32::from(length) + 6;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // Ports, sequence, acknowledgement, ACK, window, the pseudo-header's sum.
    packet.extend([0x13, 0x88, 0x13, 0x89, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff]);
    packet.extend(u16::try_from(sum).unwrap().to_be_bytes());
    packet.extend([0, 0]);
    packet.resize(packet.len() + payload, 0x5a);
    let vnet = Vnet {
        flags: Vnet::NEEDS_CSUM,
        gso_type: Vnet::TCPV6,
        hdr_len: 60,
        gso_size: SEGMENT,
        csum_start: 40,
        csum_offset: 16,
    };
    (vnet, packet)
}

/// One direction between two clients, or to the uplink.
#[derive(Default)]
struct Flow {
    received: AtomicU64,
    news: Notify,
    over: AtomicBool,
}

impl Flow {
    /// Sends as fast as the router takes it, with at most [`WINDOW`] on the way.
    async fn send(&self, from: &mut Client, to: Ipv6Addr) -> io::Result<()> {
        let (vnet, mut packet) = bulk(from.address, to);
        let (mut sequence, mut sent, mut lost) = (1_u32, 0_u64, 0_u64);
        while !self.over.load(Relaxed) {
            while from.wire.room() && (to == BEYOND || sent < self.received.load(Relaxed) + lost + WINDOW) {
                packet[44..48].copy_from_slice(&sequence.to_be_bytes());
                sequence = sequence.wrapping_add(u32::from(SEGMENT) * SEGMENTS as u32);
                let unit = Unit { vnet, packet: &packet };
                assert!(from.wire.push_unit(unit));
                sent += unit.wire_bytes() as u64;
            }
            from.wire.flush().map_err(broken)?;
            if from.wire.pending() || !from.wire.room() {
                from.wire.socket().writable().await?;
            } else if to == BEYOND {
                tokio::task::yield_now().await;
            } else if timeout(Duration::from_millis(100), self.news.notified()).await.is_err() {
                // What was dropped does not arrive any more.
                lost = sent - self.received.load(Relaxed);
            }
        }
        Ok(())
    }

    async fn receive(&self, at: &mut Client) -> io::Result<()> {
        while !self.over.load(Relaxed) {
            if let Ok(bytes) = timeout(Duration::from_millis(100), at.next()).await {
                self.received.fetch_add(bytes? as u64, Relaxed);
                self.news.notify_one();
            }
        }
        Ok(())
    }
}

/// Mbit/s between pairs of clients, all at the same time.
async fn between(pairs: &mut [(Client, Client)]) -> f64 {
    let flows: Vec<_> = pairs.iter().map(|_| Arc::new(Flow::default())).collect();
    let mut tasks = Vec::new();
    for (flow, (from, to)) in flows.iter().zip(pairs) {
        let address = to.address;
        tasks.push(async move { tokio::try_join!(flow.send(from, address), flow.receive(to)).map(drop) });
    }
    let received = || flows.iter().map(|flow| flow.received.load(Relaxed)).sum::<u64>();
    measured(&flows, tasks, received).await
}

/// Mbit/s from clients to the uplink, as the kernel counts what it was handed.
async fn to_uplink(clients: Vec<&mut Client>) -> f64 {
    let flows: Vec<_> = clients.iter().map(|_| Arc::new(Flow::default())).collect();
    let tasks = flows.iter().zip(clients).map(|(flow, from)| flow.send(from, BEYOND)).collect();
    let read = |what| {
        let text = std::fs::read_to_string(format!("/proc/thread-self/net/{what}")).unwrap();
        let line = text.lines().find_map(|line| line.trim().strip_prefix("enfr0:").map(str::to_owned)).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    measured(&flows, tasks, || read("dev")).await
}

async fn measured(
    flows: &[Arc<Flow>],
    tasks: Vec<impl Future<Output = io::Result<()>>>,
    received: impl Fn() -> u64,
) -> f64 {
    let watch = async {
        // Until the windows are open.
        tokio::time::sleep(TRANSFER / 4).await;
        let (before, since) = (received(), Instant::now());
        tokio::time::sleep(TRANSFER).await;
        let rate = (received() - before) as f64 * 8.0 / since.elapsed().as_secs_f64() / 1e6;
        flows.iter().for_each(|flow| {
            flow.over.store(true, Relaxed);
            flow.news.notify_one();
        });
        rate
    };
    let (rate, outcomes) = tokio::join!(watch, futures_util::future::join_all(tasks));
    outcomes.into_iter().for_each(|outcome| outcome.unwrap());
    rate
}

/// How long packets take from one client to another, in microseconds, sorted: as many as said, or until `over`.
fn latencies(world: &Arc<World>, ends: [usize; 2], over: impl Fn(usize) -> bool + Send) -> Vec<f64> {
    // On a thread that waits for nothing else.
    let world = Arc::clone(world);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut taken: Vec<f64> = runtime.block_on(async {
        let mut from = world.client(ends[0], Version::V1).await.unwrap();
        let mut to = world.client(ends[1], Version::V1).await.unwrap();
        let packet = icmpv6_echo(from.address, to.address, 129, &[0; 60]);
        let mut taken = Vec::new();
        while !over(taken.len()) {
            let sent = Instant::now();
            from.send(Unit::plain(&packet)).await.unwrap();
            let arrived = timeout(LOST, to.next()).await;
            taken.push(if arrived.is_ok() { sent.elapsed().as_secs_f64() * 1e6 } else { LOST.as_secs_f64() * 1e6 });
            tokio::time::sleep(PAUSE).await;
        }
        taken
    });
    taken.sort_by(f64::total_cmp);
    taken
}

fn percentile(sorted: &[f64], percent: usize) -> f64 {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

/// Resident KiB of the router.
fn resident(router: &Running) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", router.0.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// The threads of the load.
fn load() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.on_thread_start(|| priority::lower(NICE).unwrap());
    builder.enable_all().build().unwrap()
}

/// One column, one time.
fn column(world: &Arc<World>, size: usize, figures: &mut Figures) {
    let mut add = |name: &str, value: f64| figures.entry(format!("router_{size}_{name}")).or_default().push(value);
    let router = world.router();
    let load = load();
    let before = resident(&router);
    let begun = Instant::now();
    let (mut clients, _) = load
        .block_on(load.spawn({
            let world = Arc::clone(world);
            async move { world.connect((0..size).collect(), AT_ONCE).await }
        }))
        .unwrap();
    if size >= 100 {
        add("handshakes_per_s", size as f64 / begun.elapsed().as_secs_f64());
        // What shook hands is gone, and the kernel has what was given back.
        std::thread::sleep(Duration::from_millis(500));
        add("memory_kib_per_session", (resident(&router) - before) / size as f64);
    } else {
        add("memory_kib_per_session", resident(&router) - before);
    }
    add("memory_kib", resident(&router));

    // Two more, so that there are two in each column.
    let watchers = [size, size + 1];
    let idle = latencies(world, watchers, |taken| taken >= PACKETS);
    add("latency_p50_us", percentile(&idle, 50));
    add("latency_p99_us", percentile(&idle, 99));

    for (version, name) in [(Version::V1, "v1"), (Version::V2, "v2")] {
        let flows = FLOWS.min(size.div_ceil(2));
        let world = Arc::clone(world);
        let rates = load
            .block_on(load.spawn(async move {
                let mut pairs = Vec::new();
                for flow in 0..flows {
                    // Beyond the sessions that are idle.
                    let number = world.clients.len() - 2 * flow - 2;
                    let ends = (
                        world.client(number, version).await.unwrap(),
                        world.client(number + 1, version).await.unwrap(),
                    );
                    assert_eq!(ends.0.wire.version(), version);
                    pairs.push(ends);
                }
                (between(&mut pairs).await, to_uplink(pairs.iter_mut().map(|(from, _)| from).collect()).await)
            }))
            .unwrap();
        add(&format!("between_{name}_mbit_s"), rates.0);
        add(&format!("uplink_{name}_mbit_s"), rates.1);
    }

    if size > STORM {
        let over = Arc::new(AtomicBool::new(false));
        let (sender, counted) = std::sync::mpsc::channel();
        let watch = std::thread::spawn({
            let (world, over) = (Arc::clone(world), Arc::clone(&over));
            move || {
                sender.send(()).unwrap();
                latencies(&world, watchers, |_| over.load(Relaxed))
            }
        });
        counted.recv().unwrap();
        std::thread::sleep(Duration::from_millis(200));
        // Whoever watches, and others, stay.
        let lost: Vec<_> = (0..STORM).filter_map(|number| clients.remove(&number)).collect();
        drop(lost);
        let begun = Instant::now();
        let (back, retries) = load
            .block_on(load.spawn({
                let world = Arc::clone(world);
                async move { world.connect((0..STORM).collect(), STORM).await }
            }))
            .unwrap();
        let took = begun.elapsed().as_secs_f64();
        over.store(true, Relaxed);
        let during = watch.join().unwrap();
        add("storm_s", took);
        add("storm_handshakes_per_s", STORM as f64 / took);
        add("storm_tried_again", retries as f64);
        add("storm_latency_p50_us", percentile(&during, 50));
        add("storm_latency_p99_us", percentile(&during, 99));
        add("storm_latency_max_us", during[during.len() - 1]);
        load.block_on(async { drop(back) });
    }
    load.block_on(async { drop(clients) });
    load.shutdown_timeout(Duration::from_secs(5));
    drop(router);
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn print(figures: &Figures, sizes: &[usize]) {
    print!("{:40}", "sessions");
    sizes.iter().for_each(|size| print!("{size:>22}"));
    println!();
    for (name, title, decimals) in [
        ("between_v1_mbit_s", "between clients, v1, Mbit/s", 0),
        ("between_v2_mbit_s", "between clients, v2, Mbit/s", 0),
        ("uplink_v1_mbit_s", "to the uplink, v1, Mbit/s", 0),
        ("uplink_v2_mbit_s", "to the uplink, v2, Mbit/s", 0),
        ("latency_p50_us", "a lone packet, p50, microseconds", 0),
        ("latency_p99_us", "a lone packet, p99, microseconds", 0),
        ("memory_kib", "resident, KiB", 0),
        ("memory_kib_per_session", "resident for each session, KiB", 1),
        ("handshakes_per_s", "handshakes a second", 0),
        ("storm_s", "5,000 reconnect at once: seconds", 1),
        ("storm_handshakes_per_s", "  handshakes a second", 0),
        ("storm_tried_again", "  tried again", 0),
        ("storm_latency_p50_us", "  a lone packet, p50, microseconds", 0),
        ("storm_latency_p99_us", "  a lone packet, p99, microseconds", 0),
        ("storm_latency_max_us", "  a lone packet, longest, microseconds", 0),
    ] {
        let cell = |size: &usize| match figures.get(&format!("router_{size}_{name}")) {
            None => String::new(),
            Some(values) => {
                let (least, most) =
                    (values.iter().copied().fold(f64::MAX, f64::min), values.iter().copied().fold(0.0, f64::max));
                let range =
                    if values.len() > 1 { format!(" ({least:.decimals$}-{most:.decimals$})") } else { String::new() };
                format!("{:.decimals$}{range}", median(values))
            }
        };
        let cells: Vec<_> = sizes.iter().map(cell).collect();
        if cells.iter().any(|cell| !cell.is_empty()) {
            print!("{title:40}");
            cells.iter().for_each(|cell| print!("{cell:>22}"));
            println!();
        }
    }
}

fn main() {
    let (mut rounds, mut json, mut sizes) = (3, None::<PathBuf>, SIZES.to_vec());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--rounds" => rounds = arguments.next().unwrap().parse().unwrap(),
            "--json" => json = arguments.next().map(PathBuf::from),
            "--sessions" => sizes = arguments.next().unwrap().split(',').map(|size| size.parse().unwrap()).collect(),
            // What cargo adds.
            "--bench" => {}
            other => panic!("what is {other}?"),
        }
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let most = *sizes.iter().max().unwrap();
    assert!(hard as usize > most + STORM + 500, "the hard limit of open files is {hard}: too few (ulimit -Hn)");
    let mut figures = Figures::new();
    in_netns_with_tun("router", || {
        let world = Arc::new(World::new(most + 2 + 2 * FLOWS));
        for round in 0..rounds {
            for size in &sizes {
                eprintln!("Round {} of {rounds}: {size} sessions", round + 1);
                column(&world, *size, &mut figures);
            }
        }
    });
    println!("The router and its clients on the same processors; medians of {rounds} rounds (range).");
    print(&figures, &sizes);
    if let Some(json) = json {
        let medians: BTreeMap<_, _> = figures.iter().map(|(name, values)| (name, median(values))).collect();
        let document = serde_json::json!({ "ratios": {}, "figures": medians });
        std::fs::write(json, format!("{document:#}\n")).unwrap();
    }
}
