//! Two ends over loopback; where record boundaries or missing bytes matter, one end is a plain blocking socket with `rustls`
//! driven by hand.

use super::*;
use crate::tunnel::enf::frame2::Why;
use crate::tunnel::enf::offload::samples::{ACK, Flow, payload};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

fn configs(
    version: &'static rustls::SupportedProtocolVersion,
) -> (Arc<rustls::ClientConfig>, Arc<rustls::ServerConfig>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap().self_signed(&key).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
    let server = rustls::ServerConfig::builder_with_protocol_versions(&[version])
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    let client = rustls::ClientConfig::builder_with_protocol_versions(&[version])
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(client), Arc::new(server))
}

/// The plain end: a blocking socket and a TLS client after its handshake.
struct Plain {
    io: std::net::TcpStream,
    tls: rustls::ClientConnection,
}

async fn plain_and_wire(version: &'static rustls::SupportedProtocolVersion) -> (Plain, Wire) {
    let (client, server) = configs(version);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let plain = tokio::task::spawn_blocking(move || {
        let mut io = std::net::TcpStream::connect(address).unwrap();
        let mut tls = rustls::ClientConnection::new(client, ServerName::try_from("localhost").unwrap()).unwrap();
        while tls.is_handshaking() || tls.wants_write() {
            tls.complete_io(&mut io).unwrap();
        }
        Plain { io, tls }
    });
    let (io, _) = listener.accept().await.unwrap();
    let stream = tokio_rustls::TlsAcceptor::from(server).accept(io).await.unwrap();
    let (io, tls) = stream.into_inner();
    (plain.await.unwrap(), Wire::new(io, Connection::Server(tls)))
}

async fn wires() -> (Wire, Wire) {
    let (client, server) = configs(&rustls::version::TLS13);
    wires_with(client, server).await
}

async fn wires_with(client: Arc<rustls::ClientConfig>, server: Arc<rustls::ServerConfig>) -> (Wire, Wire) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let near = async {
        let io = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let (io, tls) = tokio_rustls::TlsConnector::from(client).connect(name, io).await.unwrap().into_inner();
        Wire::new(io, Connection::Client(tls))
    };
    let far = async {
        let (io, _) = listener.accept().await.unwrap();
        let (io, tls) = tokio_rustls::TlsAcceptor::from(server).accept(io).await.unwrap().into_inner();
        Wire::new(io, Connection::Server(tls))
    };
    tokio::join!(near, far)
}

/// Reads until `wanted` packets have come or the connection has ended.
async fn gather(wire: &mut Wire, wanted: usize) -> (Vec<Vec<u8>>, Option<WireError>) {
    let mut packets = Vec::new();
    while packets.len() < wanted {
        wire.ready(false).await.unwrap();
        if let Err(error) = wire.receive(|unit| packets.push(unit.packet.to_vec())) {
            return (packets, Some(error));
        }
    }
    (packets, None)
}

/// Waits for room in the socket; takes what a server sends by itself (session tickets) out of the way.
async fn wait_writable(wire: &mut Wire) {
    while !wire.ready(true).await.unwrap().write {
        wire.receive(|_| {}).unwrap();
    }
}

async fn flush_all(wire: &mut Wire) {
    wire.flush().unwrap();
    while wire.pending() {
        wait_writable(wire).await;
        wire.flush().unwrap();
    }
}

impl Plain {
    /// The next TLS record: content type of its header, and its plaintext.
    fn record(&mut self) -> (u8, Vec<u8>) {
        let mut header = [0; 5];
        self.io.read_exact(&mut header).unwrap();
        let mut record = header.to_vec();
        record.resize(5 + usize::from(u16::from_be_bytes([header[3], header[4]])), 0);
        self.io.read_exact(&mut record[5..]).unwrap();
        let mut bytes = &record[..];
        while !bytes.is_empty() {
            self.tls.read_tls(&mut bytes).unwrap();
        }
        self.tls.process_new_packets().unwrap();
        let mut plaintext = Vec::new();
        let _ = self.tls.reader().read_to_end(&mut plaintext);
        (header[0], plaintext)
    }

    /// Ciphertext of one record per piece.
    fn sealed(&mut self, pieces: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for piece in pieces {
            self.tls.writer().write_all(piece).unwrap();
            self.tls.write_tls(&mut bytes).unwrap();
        }
        bytes
    }
}

fn frames(packets: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for packet in packets {
        assert!(frame::put(packet, &mut bytes));
    }
    bytes
}

#[tokio::test]
async fn every_record_holds_whole_frames_and_many_of_them() {
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let (mut plain, mut wire) = plain_and_wire(version).await;
        let reader = tokio::task::spawn_blocking(move || {
            let (mut records, mut lengths) = (0, Vec::new());
            while lengths.len() < 100 {
                let (content_type, plaintext) = plain.record();
                assert_eq!(content_type, 23);
                let mut rest = &plaintext[..];
                while let Some((packet, after)) = frame::take(rest).unwrap() {
                    lengths.push(packet.len());
                    rest = after;
                }
                assert!(rest.is_empty(), "a frame was split over two records");
                assert!(plaintext.len() <= 16 * 1024);
                records += usize::from(!plaintext.is_empty());
            }
            (records, lengths)
        });
        let sent: Vec<usize> = (0..100).map(|n| if n % 3 == 0 { 1496 } else { 40 + n }).collect();
        for length in &sent {
            assert!(wire.push(&vec![6; *length]));
        }
        flush_all(&mut wire).await;
        let (records, lengths) = reader.await.unwrap();
        assert_eq!(lengths, sent);
        assert_eq!(records, sent.iter().sum::<usize>().div_ceil(16 * 1024), "full records but the last");
    }
}

#[tokio::test]
async fn a_record_dribbled_byte_by_byte_is_received_whole() {
    let (mut plain, mut wire) = plain_and_wire(&rustls::version::TLS13).await;
    let bytes = plain.sealed(&[&frames(&[&[1; 700], &[2; 3]])]);
    let writer = tokio::task::spawn_blocking(move || {
        plain.io.set_nodelay(true).unwrap();
        for byte in bytes {
            plain.io.write_all(&[byte]).unwrap();
        }
        plain
    });
    let (packets, error) = gather(&mut wire, 2).await;
    assert!(error.is_none());
    assert_eq!(packets, [vec![1; 700], vec![2; 3]]);
    writer.await.unwrap();
}

#[tokio::test]
async fn a_frame_over_several_records_and_several_frames_in_one_are_both_fine() {
    let (mut plain, mut wire) = plain_and_wire(&rustls::version::TLS13).await;
    let whole = frames(&[&[1; 1496], &[], &[2; 40], &[3; 1000]]);
    let bytes = plain.sealed(&[&whole[..1], &whole[1..2], &whole[2..700], &whole[700..1600], &whole[1600..]]);
    plain.io.write_all(&bytes).unwrap();
    let (packets, error) = gather(&mut wire, 4).await;
    assert!(error.is_none());
    assert_eq!(packets, [vec![1; 1496], vec![], vec![2; 40], vec![3; 1000]]);
}

#[tokio::test]
async fn what_came_right_behind_the_handshake_is_not_lost() {
    let (client, server) = configs(&rustls::version::TLS13);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut io = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let accepted = tokio::spawn(async move {
        let (io, _) = listener.accept().await.unwrap();
        let (io, tls) = tokio_rustls::TlsAcceptor::from(server).accept(io).await.unwrap().into_inner();
        Wire::new(io, Connection::Server(tls))
    });
    let plain = tokio::task::spawn_blocking(move || {
        let mut tls = rustls::ClientConnection::new(client, ServerName::try_from("localhost").unwrap()).unwrap();
        tls.writer().write_all(&frames(&[b"early"])).unwrap();
        // The client's last flight and the first frame leave in one segment.
        while tls.is_handshaking() {
            let mut flight = Vec::new();
            while tls.wants_write() {
                tls.write_tls(&mut flight).unwrap();
            }
            io.write_all(&flight).unwrap();
            tls.read_tls(&mut io).unwrap();
            tls.process_new_packets().unwrap();
        }
        let mut flight = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut flight).unwrap();
        }
        io.write_all(&flight).unwrap();
        io
    });
    let _open = plain.await.unwrap();
    let mut wire = accepted.await.unwrap();
    assert_eq!(gather(&mut wire, 1).await.0, [b"early".to_vec()]);
}

#[tokio::test]
async fn a_far_end_that_does_not_read_fills_a_bounded_backlog() {
    let (mut near, far) = wires().await;
    socket2::SockRef::from(near.socket()).set_send_buffer_size(4096).unwrap();
    let mut pushed = 0_usize;
    loop {
        while near.room() {
            assert!(near.push(&[6; 1400]));
            pushed += 1;
        }
        near.flush().unwrap();
        assert!(near.unsent + near.record.len() <= BACKLOG + RECORD, "bounded");
        if !near.room() {
            // Nobody reads: the socket stays full.
            let waited = tokio::time::timeout(Duration::from_millis(300), async {
                while !near.room() {
                    wait_writable(&mut near).await;
                    near.flush().unwrap();
                }
            });
            if waited.await.is_err() {
                break;
            }
        }
    }
    let mut far = far;
    let (_, (packets, _)) = tokio::join!(flush_all(&mut near), gather(&mut far, pushed));
    assert_eq!(packets.len(), pushed, "nothing that was pushed is lost");
    assert!(near.room() && !near.pending());
}

#[tokio::test]
async fn the_ways_to_end_are_told_apart() {
    let (mut near, mut far) = wires().await;
    assert!(near.push(b"last"));
    near.close();
    let (packets, error) = gather(&mut far, 2).await;
    assert_eq!(packets, [b"last".to_vec()], "what was sent before the goodbye arrives");
    assert!(matches!(error, Some(WireError::Closed)), "{error:?}");
    assert!(far.push(b"answer"));
    flush_all(&mut far).await;
    assert_eq!(gather(&mut near, 1).await.0, [b"answer".to_vec()], "the other direction stays open");

    let (mut near, mut far) = wires().await;
    // The client must have read the session tickets: a socket that is closed with bytes unread sends a reset.
    assert!(far.push(b"hello"));
    flush_all(&mut far).await;
    gather(&mut near, 1).await;
    drop(near);
    assert!(matches!(gather(&mut far, 1).await.1, Some(WireError::Eof)));

    let (near, mut far) = wires().await;
    socket2::SockRef::from(near.socket()).set_linger(Some(Duration::ZERO)).unwrap();
    drop(near);
    assert!(matches!(gather(&mut far, 1).await.1, Some(WireError::Reset(_))));

    let (mut plain, mut wire) = plain_and_wire(&rustls::version::TLS13).await;
    let bytes = plain.sealed(&[&frames(&[b"good"]), &[0x05, 0xd9]]);
    plain.io.write_all(&bytes).unwrap();
    let (packets, error) = gather(&mut wire, 2).await;
    assert_eq!(packets, [b"good".to_vec()]);
    assert!(matches!(error, Some(WireError::TooLong(frame::TooLong(1497)))), "{error:?}");
}

#[tokio::test]
async fn garbage_is_a_tls_error_and_the_far_end_hears_why() {
    let (mut plain, mut wire) = plain_and_wire(&rustls::version::TLS13).await;
    plain.io.write_all(&[23, 3, 3, 0, 32]).unwrap();
    plain.io.write_all(&[0; 32]).unwrap();
    assert!(matches!(gather(&mut wire, 1).await.1, Some(WireError::Tls(rustls::Error::DecryptError))));
    let heard = tokio::task::spawn_blocking(move || {
        loop {
            plain.tls.read_tls(&mut plain.io).unwrap();
            if let Err(error) = plain.tls.process_new_packets() {
                return error;
            }
        }
    });
    assert_eq!(heard.await.unwrap(), rustls::Error::AlertReceived(AlertDescription::BadRecordMac));
}

#[tokio::test]
async fn a_refused_client_reads_the_alert_even_when_its_write_fails_first() {
    // The server wants a certificate that this client does not have; under TLS 1.3 the client's handshake is over by then.
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap().self_signed(&key).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let roots = Arc::new(roots);
    let verifier = rustls::server::WebPkiClientVerifier::builder(roots.clone()).build().unwrap();
    let server = rustls::ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    let client = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let refused = tokio::spawn(async move {
        let (io, _) = listener.accept().await.unwrap();
        assert!(tokio_rustls::TlsAcceptor::from(Arc::new(server)).accept(io).await.is_err());
    });
    let io = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let (io, tls) = tokio_rustls::TlsConnector::from(Arc::new(client)).connect(name, io).await.unwrap().into_inner();
    let mut wire = Wire::new(io, Connection::Client(tls));
    refused.await.unwrap();
    let error = loop {
        assert!(wire.push(&[6; 1400]));
        if let Err(error) = wire.flush() {
            break error;
        }
        tokio::task::yield_now().await;
    };
    let alert = AlertDescription::CertificateRequired;
    assert!(matches!(&error, WireError::Tls(rustls::Error::AlertReceived(got)) if *got == alert), "{error:?}");
    assert_eq!(error.class(), Class::Credentials);
}

/// Two ends that agreed on `enftun/2`, and have said what they take.
async fn wires_v2(near: (bool, u16), far: (bool, u16)) -> (Wire, Wire) {
    let (client, server) = configs(&rustls::version::TLS13);
    let (mut client, mut server) = (Arc::unwrap_or_clone(client), Arc::unwrap_or_clone(server));
    client.alpn_protocols = vec![ALPN.to_vec()];
    server.alpn_protocols = vec![ALPN.to_vec()];
    let (mut one, mut other) = wires_with(Arc::new(client), Arc::new(server)).await;
    assert_eq!((one.version(), other.version()), (Version::V2, Version::V2));
    one.greet(Offloads { tcp: true, udp: near.0 }, near.1);
    other.greet(Offloads { tcp: true, udp: far.0 }, far.1);
    flush_all(&mut one).await;
    flush_all(&mut other).await;
    for receiver in [&mut one, &mut other] {
        while receiver.peer().is_none() {
            receiver.ready(false).await.unwrap();
            assert_eq!(receiver.receive(|_| panic!("a packet")).unwrap().packets, 0);
        }
    }
    (one, other)
}

/// Everything that arrives until there are as many units.
async fn units(wire: &mut Wire, wanted: usize) -> (Vec<(Vnet, Vec<u8>)>, Received) {
    let (mut units, mut all) = (Vec::new(), Received::default());
    while units.len() < wanted {
        wire.ready(false).await.unwrap();
        let received = wire.receive(|unit| units.push((unit.vnet, unit.packet.to_vec()))).unwrap();
        all.unsound += received.unsound;
        all.too_big += received.too_big;
        all.ping = received.ping.or(all.ping);
        all.pong = received.pong.or(all.pong);
    }
    (units, all)
}

/// The packets that units stand for.
fn whole(units: Vec<(Vnet, Vec<u8>)>) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for (vnet, packet) in units {
        let unit = Unit { vnet, packet: &packet };
        assert!(offload::split(unit, &mut Vec::new(), |packet| packets.push(packet.to_vec())));
    }
    packets
}

/// As many packets, however they arrive.
async fn packets(wire: &mut Wire, wanted: usize) -> Vec<Vec<u8>> {
    let mut got = Vec::new();
    while got.len() < wanted {
        got.extend(whole(units(wire, 1).await.0));
    }
    got
}

#[tokio::test]
async fn super_packets_cross_as_they_are_and_take_no_notice_of_records() {
    let (mut near, mut far) = wires_v2((true, 1280), (true, 1280)).await;
    let flow = Flow::tcp(true);
    let large = flow.unit(0, 7, ACK, &payload(1, 60_000), 1200);
    let small = (Vnet::default(), flow.packet(0, 9, ACK, b"lone"));
    let sent: Vec<_> = [&large, &small, &large, &large].into_iter().cloned().collect();
    for (vnet, packet) in &sent {
        assert!(near.push_unit(Unit { vnet: *vnet, packet }));
    }
    let udp = Flow::udp(true);
    let (vnet, packet) = udp.unit(0, 0, 0, b"to be summed", 0);
    assert!(near.push_unit(Unit { vnet, packet: &packet }));
    let (_, (mut got, received)) = tokio::join!(flush_all(&mut near), units(&mut far, sent.len() + 1));
    let summed = (Vnet::default(), udp.packet(0, 0, 0, b"to be summed"));
    assert_eq!(got.pop(), Some(summed), "a lone packet has its whole checksum");
    assert_eq!(got, sent);
    assert_eq!((received.unsound, received.too_big), (0, 0));
}

#[tokio::test]
async fn what_the_far_end_does_not_take_is_sent_as_packets() {
    let (mut near, mut far) = wires_v2((true, 1280), (false, 1280)).await;
    let (udp, tcp) = (Flow::udp(true), Flow::tcp(true));
    let (vnet, packet) = udp.unit(0, 0, 0, &payload(2, 3000), 1000);
    assert!(near.push_unit(Unit { vnet, packet: &packet }), "it takes no UDP super-packets");
    let (vnet, packet) = tcp.unit(0, 1, ACK, &payload(3, 1000), 100);
    assert!(near.push_unit(Unit { vnet, packet: &packet }), "segments of 100 bytes are too small for a super-packet");
    assert!(!near.push(&[0x60; 1281]), "longer than the far end's MTU");
    let mut expected = udp.packets(0, 0, 0, &payload(2, 3000), 1000);
    expected.extend(tcp.packets(0, 1, ACK, &payload(3, 1000), 100));
    let (_, got) = tokio::join!(flush_all(&mut near), packets(&mut far, expected.len()));
    assert_eq!(got, expected);
}

#[tokio::test]
async fn a_header_that_is_not_sound_costs_its_packet_and_not_the_session() {
    let (mut near, mut far) = wires_v2((true, 1280), (true, 1280)).await;
    let flow = Flow::tcp(true);
    let (vnet, packet) = flow.unit(0, 7, ACK, &payload(1, 5000), 1200);
    // What no honest end sends: around the sender's own judgement.
    for bad in [Vnet { gso_size: 1, ..vnet }, Vnet { gso_type: Vnet::TCPV4, ..vnet }, Vnet { flags: 0, ..vnet }] {
        near.put_frame(Unit { vnet: bad, packet: &packet });
    }
    near.put_frame(Unit::plain(&flow.packet(0, 7, ACK, &payload(1, 1300))));
    assert!(near.push_unit(Unit { vnet, packet: &packet }));
    let (_, (got, received)) = tokio::join!(flush_all(&mut near), units(&mut far, 1));
    assert_eq!(got, vec![(vnet, packet.to_vec())]);
    assert_eq!((received.unsound, received.too_big), (3, 1));
}

#[tokio::test]
async fn signs_of_life_and_last_words_are_no_packets() {
    let (mut near, mut far) = wires_v2((true, 1280), (true, 1400)).await;
    assert_eq!(near.peer().map(|peer| (peer.version, peer.mtu)), Some((2, 1400)));
    near.ping(42);
    assert!(near.push(b"\x60"));
    let (_, (_, received)) = tokio::join!(flush_all(&mut near), units(&mut far, 1));
    assert_eq!(received.ping, Some(42));
    far.pong(42);
    far.go_away(GoingAway { why: Why::ShuttingDown, after: 1500 });
    assert!(far.push(b"\x60"));
    let (_, (_, received)) = tokio::join!(flush_all(&mut far), units(&mut near, 1));
    assert_eq!(received.pong, Some(42));
    assert_eq!(near.going_away(), Some(GoingAway { why: Why::ShuttingDown, after: 1500 }));
}

#[tokio::test]
async fn a_super_packet_goes_to_an_old_far_end_as_the_packets_that_it_stands_for() {
    let (mut near, mut far) = wires().await;
    let flow = Flow::tcp(true);
    let (vnet, packet) = flow.unit(0, 7, ACK, &payload(1, 60_000), 1200);
    assert!(near.push_unit(Unit { vnet, packet: &packet }));
    near.ping(1);
    near.go_away(GoingAway { why: Why::Superseded, after: 0 });
    let expected = flow.packets(0, 7, ACK, &payload(1, 60_000), 1200);
    let (_, got) = tokio::join!(flush_all(&mut near), packets(&mut far, expected.len()));
    assert_eq!(got, expected);
}
