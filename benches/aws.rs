//! What a pair of `enftun-localproxy` carries through a service on loopback: throughput, latency, memory. `benches/run aws`
//! runs it. The figures of AWS's own local proxy beside it are those of the specification: they were taken elsewhere, through
//! another relay, and are not measured here.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../tests/common"]
mod common {
    #![allow(dead_code, unused_imports)]

    pub mod aws_service;
    pub mod certs;
    pub mod seeded;
}
#[path = "../tests/aws/process.rs"]
#[allow(dead_code, reason = "the tier aws uses all of it")]
mod process;

use common::aws_service::message::{MAX_PAYLOAD, Message, STREAM_START};
use common::aws_service::websocket::{BINARY, Reader, masked_frame};
use common::aws_service::{Mode, Service, Tunnel};
use process::{Localproxy, of};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const MB: f64 = 1e6;

/// What is measured, and what the specification says of the reference.
struct Figure {
    key: &'static str,
    what: &'static str,
    unit: &'static str,
    reference: &'static str,
}

const fn figure(key: &'static str, what: &'static str, unit: &'static str, reference: &'static str) -> Figure {
    Figure { key, what, unit, reference }
}

const FIGURES: [Figure; 16] = [
    figure("relay", "the service alone, between two clients that only copy", "MB/s", "-"),
    figure("v3_up_1", "source to destination, 1 connection, v3", "MB/s", "128"),
    figure("v3_up_8", "the same, 8 connections", "MB/s", "-"),
    figure("v3_down_1", "destination to source, 1 connection, v3", "MB/s", "-"),
    figure("v3_down_8", "the same, 8 connections", "MB/s", "-"),
    figure("v1_up_1", "source to destination, 1 connection, v1", "MB/s", "-"),
    figure("v1_down_1", "destination to source, 1 connection, v1", "MB/s", "-"),
    figure("connect_echo_median", "connect and echo of one byte, median", "ms", "45.5"),
    figure("connect_echo_p99", "the same, 99th percentile", "ms", "-"),
    figure("two_writes_median", "two 1-byte writes, echoed, median", "ms", "42.5"),
    figure("ping_pong_median", "1-byte ping-pong on an open connection, median", "ms", "0.74"),
    figure("ping_pong_p99", "the same, 99th percentile", "ms", "-"),
    figure("rss_idle_source", "resident memory, idle source", "MB", "13"),
    figure("rss_idle_destination", "resident memory, idle destination", "MB", "13"),
    figure("rss_stalled_source", "source, 300 MB pushed, service reads nothing", "MB", "312"),
    figure("rss_busy_peak_source", "source, highest during the transfers", "MB", "75"),
];

/// Both ends as processes, with an application.
struct Bed {
    service: Service,
    tunnel: Tunnel,
    source: Localproxy,
    destination: Localproxy,
    port: u16,
}

impl Bed {
    fn new(version: &str, application: u16) -> Self {
        let service = Service::start();
        let tunnel = service.tunnel(&["SSH"]);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let settings = service.ca_directory().join("settings.json");
        let text = format!(
            "{{\"tunneling\":{{\"proxy\":{{\"websocket\":{{\"subprotocol\":\"aws.iot.securetunneling-{version}.0\"}}}}}}}}"
        );
        std::fs::write(&settings, text).unwrap();
        let start = |mode: Mode, what: [&str; 2], compat: &[&str]| {
            let mut command = of(&service, &tunnel, mode, &what);
            Localproxy::start(command.args(compat).arg("--settings-json").arg(&settings))
        };
        let compat = format!("V{version}");
        let compat = if version == "3" { Vec::new() } else { vec!["-y", compat.as_str()] };
        let destination = start(Mode::Destination, ["-d", &format!("127.0.0.1:{application}")], &[]);
        let source = start(Mode::Source, ["-s", &port.to_string()], &compat);
        tunnel.destination().wait_for_session(1);
        tunnel.source().wait_for_session(1);
        let bed = Self { service, tunnel, source, destination, port };
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", bed.port)).is_err() {
            assert!(
                Instant::now() < deadline,
                "the source does not listen:\n{}{}",
                bed.source.said(),
                bed.service.story()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        bed
    }

    fn dial(&self) -> TcpStream {
        let socket = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        socket
    }
}

/// An application: each connection says in its first bytes what it wants, `e`: an echo, `r`: to be read, `s` and a length: to
/// be sent so much.
fn application() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        while let Ok((socket, _)) = listener.accept() {
            std::thread::spawn(move || serve(socket));
        }
    });
    port
}

fn serve(mut socket: TcpStream) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let mut order = [0; 9];
    socket.read_exact(&mut order[..1])?;
    let mut buffer = vec![0; 256 * 1024];
    if order[0] == b'e' {
        loop {
            let count = socket.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            socket.write_all(&buffer[..count])?;
        }
    }
    socket.read_exact(&mut order[1..])?;
    let mut left = u64::from_be_bytes(order[1..].try_into().unwrap());
    if order[0] == b's' {
        while left > 0 {
            let count = left.min(buffer.len() as u64) as usize;
            socket.write_all(&buffer[..count])?;
            left -= count as u64;
        }
    } else {
        while left > 0 {
            let count = socket.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            left -= count as u64;
        }
        socket.write_all(b"!")?;
    }
    // The client goes first.
    while socket.read(&mut buffer)? > 0 {}
    Ok(())
}

fn order(what: u8, length: u64) -> [u8; 9] {
    let mut order = [what; 9];
    order[1..].copy_from_slice(&length.to_be_bytes());
    order
}

/// So many connections at once move so much in all. MB/s.
fn throughput(bed: &Bed, up: bool, connections: u64, total: u64) -> f64 {
    let each = total / connections;
    let clients: Vec<TcpStream> = (0..connections).map(|_| bed.dial()).collect();
    let begin = Instant::now();
    let clients: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            std::thread::spawn(move || {
                let mut buffer = vec![0; 256 * 1024];
                client.write_all(&order(if up { b'r' } else { b's' }, each)).unwrap();
                let mut left = each;
                while left > 0 {
                    let most = left.min(buffer.len() as u64) as usize;
                    if up {
                        client.write_all(&buffer[..most]).unwrap();
                        left -= most as u64;
                    } else {
                        let count = client.read(&mut buffer[..most]).unwrap();
                        assert!(count > 0, "it ended early");
                        left -= count as u64;
                    }
                }
                if up {
                    client.read_exact(&mut buffer[..1]).unwrap();
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    (each * connections) as f64 / MB / begin.elapsed().as_secs_f64()
}

fn milliseconds(times: &mut [Duration], share: f64) -> f64 {
    times.sort_unstable();
    let at = ((times.len() - 1) as f64 * share) as usize;
    times[at].as_secs_f64() * 1e3
}

/// The service between two clients that do nothing but copy. MB/s.
fn relay(total: u64) -> f64 {
    let service = Service::start();
    let tunnel = service.tunnel(&["SSH"]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let rate = runtime.block_on(async {
        let mut source = connect(&service, &tunnel, Mode::Source).await;
        let mut destination = connect(&service, &tunnel, Mode::Destination).await;
        let receiving = tokio::spawn(async move {
            let (mut reader, mut got) = (Reader::of_servers(Default::default()), 0);
            while got < total {
                got += reader.next(&mut destination).await.unwrap().expect("the service goes on").payload.len() as u64;
            }
        });
        use tokio::io::AsyncWriteExt;
        let start = Message::of(STREAM_START, "SSH", 1, 1);
        let data = masked_frame(true, BINARY, &Message::data("SSH", 1, 1, vec![0; MAX_PAYLOAD]).frame());
        let begin = Instant::now();
        source.write_all(&masked_frame(true, BINARY, &start.frame())).await.unwrap();
        for _ in 0..total / MAX_PAYLOAD as u64 + 1 {
            source.write_all(&data).await.unwrap();
        }
        source.flush().await.unwrap();
        receiving.await.unwrap();
        total as f64 / MB / begin.elapsed().as_secs_f64()
    });
    drop(runtime);
    rate
}

async fn connect(
    service: &Service,
    tunnel: &Tunnel,
    mode: Mode,
) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    use rustls::pki_types::pem::PemObject;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_file(service.ca_file()).unwrap()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let socket = tokio::net::TcpStream::connect(service.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let mut socket = connector.connect("localhost".try_into().unwrap(), socket).await.unwrap();
    let request = format!(
        "GET /tunnel?local-proxy-mode={} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\naccess-token: {}\r\n\
         Sec-WebSocket-Protocol: aws.iot.securetunneling-3.0\r\n\r\n",
        mode.as_str(),
        tunnel.token(mode)
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    socket.flush().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    socket
}

type Found = BTreeMap<&'static str, Vec<f64>>;

fn round(found: &mut Found, megabytes: u64) {
    let total = megabytes * 1_000_000;
    let mut add = |key: &'static str, value: f64| found.entry(key).or_default().push(value);
    add("relay", relay(total));
    let application = application();
    let bed = Bed::new("3", application);
    std::thread::sleep(Duration::from_millis(500));
    add("rss_idle_source", bed.source.memory().0 as f64 / 1e3);
    add("rss_idle_destination", bed.destination.memory().0 as f64 / 1e3);
    let mut times: Vec<Duration> = (0..200)
        .map(|_| {
            let begin = Instant::now();
            let mut client = bed.dial();
            client.write_all(b"e").unwrap();
            client.write_all(b"x").unwrap();
            client.read_exact(&mut [0]).unwrap();
            begin.elapsed()
        })
        .collect();
    add("connect_echo_median", milliseconds(&mut times, 0.5));
    add("connect_echo_p99", milliseconds(&mut times, 0.99));
    let mut client = bed.dial();
    client.write_all(b"e").unwrap();
    let mut pings = |writes: usize| -> Vec<Duration> {
        (0..500)
            .map(|_| {
                let begin = Instant::now();
                (0..writes).for_each(|_| client.write_all(b"x").unwrap());
                (0..writes).for_each(|_| client.read_exact(&mut [0]).unwrap());
                begin.elapsed()
            })
            .collect()
    };
    add("two_writes_median", milliseconds(&mut pings(2), 0.5));
    let mut times = pings(1);
    add("ping_pong_median", milliseconds(&mut times, 0.5));
    add("ping_pong_p99", milliseconds(&mut times, 0.99));
    add("v3_up_1", throughput(&bed, true, 1, total));
    add("v3_up_8", throughput(&bed, true, 8, total));
    add("v3_down_1", throughput(&bed, false, 1, total));
    add("v3_down_8", throughput(&bed, false, 8, total));
    add("rss_busy_peak_source", bed.source.memory().1 as f64 / 1e3);
    drop(bed);
    let bed = Bed::new("1", application);
    add("v1_up_1", throughput(&bed, true, 1, total));
    add("v1_down_1", throughput(&bed, false, 1, total));
    drop(bed);
    let bed = Bed::new("3", application);
    bed.tunnel.source().stop_reading();
    let mut client = bed.dial();
    client.set_write_timeout(Some(Duration::from_secs(3))).unwrap();
    let _ = client.write_all(&order(b'r', u64::MAX));
    let (mut pushed, block) = (0, vec![0; 256 * 1024]);
    while pushed < 300_000_000 && client.write_all(&block).is_ok() {
        pushed += block.len();
    }
    add("rss_stalled_source", bed.source.memory().1 as f64 / 1e3);
}

fn main() {
    let (mut rounds, mut megabytes, mut json) = (5, 256, None::<PathBuf>);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|value| value.parse().ok()).expect("a number");
        match argument.as_str() {
            "--rounds" => rounds = number(),
            "--megabytes" => megabytes = number(),
            "--json" => json = arguments.next().map(PathBuf::from),
            // cargo adds it.
            "--bench" => {}
            other => panic!("there is no option {other}"),
        }
    }
    let mut found = Found::new();
    for number in 1..=rounds {
        eprintln!("round {number} of {rounds}");
        round(&mut found, megabytes);
    }
    let median = |key: &str| {
        let mut values = found[key].clone();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let build = if cfg!(debug_assertions) { "development build: throughput says little" } else { "release build" };
    println!(
        "\nA pair of enftun-localproxy through the tests' service on loopback ({build}), medians of {rounds} rounds."
    );
    println!(
        "\"reference\" is AWS's local proxy 3.3.1 as the specification tells, elsewhere and through another relay: not measured here.\n"
    );
    println!("{:<58} {:>10} {:>10}", "", "enftun", "reference");
    for figure in &FIGURES {
        let value = median(figure.key);
        println!("{:<58} {value:>10.2} {:>10} {}", figure.what, figure.reference, figure.unit);
    }
    let ratios = [
        ("v3_up_1_of_relay", median("v3_up_1") / median("relay")),
        ("v3_down_1_of_relay", median("v3_down_1") / median("relay")),
        ("v1_up_1_of_v3", median("v1_up_1") / median("v3_up_1")),
        ("rss_stalled_of_idle", median("rss_stalled_source") / median("rss_idle_source")),
    ];
    println!();
    for (key, ratio) in ratios {
        println!("{key:<58} {ratio:>10.2}");
    }
    if let Some(json) = json {
        let figures: BTreeMap<_, _> = FIGURES.iter().map(|figure| (figure.key, median(figure.key))).collect();
        let document = serde_json::json!({ "ratios": BTreeMap::from(ratios), "figures": figures });
        std::fs::write(json, format!("{document:#}\n")).unwrap();
    }
}
