//! Super-packets through the router: between clients of either wire, and to and from the host by the uplink.

use super::bed::{A, B, Bed, C, Client, HOST, as_it_is, drops, ping, session, story, story_with_uplink};
use crate::common::netns::Netns;
use enftun::sys::tun::Tun;
use enftun::sys::vnet::Vnet;
use enftun::tunnel::enf::device;
use enftun::tunnel::enf::offload::{Unit, split};
use enftun::tunnel::enf::packet::{Packet, checksum};
use enftun::tunnel::enf::wire::Version;
use std::io::{Read, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::time::Duration;
use tokio::time::timeout;

const TCP: u8 = 6;
const SEGMENT: usize = 1000;

/// A TCP super-packet of so many payload bytes.
fn bulk(from: Ipv6Addr, to: Ipv6Addr, payload: usize) -> (Vnet, Vec<u8>) {
    let mut segment = vec![0x13, 0x88, 0x13, 0x89, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0];
    segment.extend((0..payload).map(|number| (number % 251) as u8));
    let length = u16::try_from(segment.len()).unwrap();
    // The sum of the pseudo-header, as a kernel leaves it.
    let mut pseudo = [0; 4];
    pseudo[2..].copy_from_slice(&length.to_be_bytes());
    let words = from.segments().into_iter().chain(to.segments()).map(u32::from).sum::<u32>();
    let mut sum = words + u32::from(length) + u32::from(TCP);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    segment[16..18].copy_from_slice(&u16::try_from(sum).unwrap().to_be_bytes());
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([TCP, 64]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(segment);
    let vnet = Vnet {
        flags: Vnet::NEEDS_CSUM,
        gso_type: Vnet::TCPV6,
        hdr_len: 60,
        gso_size: SEGMENT as u16,
        csum_start: 40,
        csum_offset: 16,
    };
    (vnet, packet)
}

/// The packets that it stands for.
fn packets(unit: Unit<'_>) -> Vec<Vec<u8>> {
    let (mut scratch, mut packets) = (Vec::new(), Vec::new());
    assert!(split(unit, &mut scratch, |packet| packets.push(packet.to_vec())), "{:?}", unit.vnet);
    packets
}

async fn push(client: &mut Client, unit: Unit<'_>) {
    assert!(client.wire.push_unit(unit));
    client.wire.flush().unwrap();
    while client.wire.pending() {
        client.wire.socket().writable().await.unwrap();
        client.wire.flush().unwrap();
    }
}

/// So many packets, and in how many units they came.
async fn receive(client: &mut Client, wanted: usize) -> (Vec<Vec<u8>>, usize) {
    let (mut received, mut units) = (Vec::new(), 0);
    while received.len() < wanted {
        timeout(super::bed::PATIENCE, client.wire.ready(false)).await.expect("all packets").unwrap();
        let receiving = client.wire.receive(|unit| {
            units += 1;
            received.extend(packets(unit));
        });
        receiving.unwrap();
    }
    (received, units)
}

async fn client(bed: &Bed, address: &str, wire: Version) -> Client {
    Client::connect_by(&bed.fleet, address, &bed.fleet.identity(address), wire).await
}

#[test]
fn super_packets_cross_between_clients_of_either_wire() {
    use Version::{V1, V2};
    for (from, to) in [(V1, V1), (V1, V2), (V2, V1), (V2, V2)] {
        story("super_packets", as_it_is, async move |bed| {
            let (mut a, mut b) = (client(&bed, A, from).await, client(&bed, B, to).await);
            let (vnet, packet) = bulk(a.address, b.address, 40 * SEGMENT + 7);
            let unit = Unit { vnet, packet: &packet };
            let sent = packets(unit);
            for packet in &sent {
                let Some(Packet::V6 { source, destination, payload, .. }) = Packet::parse(packet) else { panic!() };
                assert_eq!(checksum(source, destination, TCP, payload), 0, "as a receiver sees it");
            }
            push(&mut a, unit).await;
            let (received, units) = receive(&mut b, sent.len()).await;
            assert!(received == sent, "{from:?} to {to:?}: the packets arrive as they were meant");
            assert!(
                units == 1 || (from, to) != (V2, V2),
                "one that nobody has to take apart stays whole: {units} units"
            );
            ping(&mut a, &mut b).await;
            let status = bed.status().await;
            let (a, b) = (session(&status, A), session(&status, B));
            // The packets, the signs of life of both, a ping and its answer.
            assert_eq!((a.rx_packets, b.tx_packets), (sent.len() as u64 + 2, sent.len() as u64 + 2));
            let bytes: usize = sent.iter().map(Vec::len).sum();
            assert!(a.rx_bytes as usize > bytes && (a.rx_bytes as usize) < bytes + 400, "{} of {bytes}", a.rx_bytes);
            assert_eq!((&a.drops, &b.drops), (&drops(&[]), &drops(&[])));
        });
    }
}

#[test]
fn a_forged_source_in_a_super_packet_is_dropped_and_counted_as_all_its_packets() {
    story("forged_super_packets", as_it_is, async |bed| {
        let (mut a, mut b) = (client(&bed, A, Version::V2).await, client(&bed, B, Version::V2).await);
        for source in [B, C, "fe80::a"] {
            let (vnet, packet) = bulk(source.parse().unwrap(), b.address, 9 * SEGMENT + 1);
            push(&mut a, Unit { vnet, packet: &packet }).await;
        }
        let (vnet, packet) = bulk(a.address, "fe80::b".parse().unwrap(), 9 * SEGMENT + 1);
        push(&mut a, Unit { vnet, packet: &packet }).await;
        // The next packet that arrives is the ping.
        ping(&mut a, &mut b).await;
        let wanted = drops(&[("source-forged", 30), ("link-local", 10)]);
        assert_eq!(session(&bed.status().await, A).drops, wanted);
    });
}

/// What a transfer carries.
fn pattern() -> Vec<u8> {
    (0..4_000_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[test]
fn tcp_of_real_kernels_goes_both_ways_by_the_uplink() {
    for wire in [Version::V1, Version::V2] {
        story_with_uplink("uplink_tcp", as_it_is, async move |bed| {
            let far = Netns::new();
            let mut client = client(&bed, A, wire).await;
            let runtime = tokio::runtime::Handle::current();
            let tun = far.run(|| {
                let _runtime = runtime.enter();
                let tun = Tun::offloaded("enfc0").unwrap();
                tun.set_carrier(true).unwrap();
                tun
            });
            far.exec(&format!("ip link set enfc0 addrgenmode none mtu 1280 up; ip addr add {A}/64 dev enfc0 nodad"));
            let listener = TcpListener::bind((HOST, 5001)).unwrap();
            // Each end sends all there is, and reads what the other has sent.
            let exchange = |mut stream: TcpStream| {
                stream.set_read_timeout(Some(super::bed::PATIENCE)).unwrap();
                let mut to = stream.try_clone().unwrap();
                let sender = std::thread::spawn(move || {
                    to.write_all(&pattern()).unwrap();
                    to.shutdown(std::net::Shutdown::Write).unwrap();
                });
                let mut received = Vec::new();
                stream.read_to_end(&mut received).unwrap();
                sender.join().unwrap();
                received == pattern()
            };
            let host = tokio::task::spawn_blocking(move || exchange(listener.accept().unwrap().0));
            let guest =
                tokio::task::spawn_blocking(move || far.run(|| exchange(TcpStream::connect((HOST, 5001)).unwrap())));
            let both = async { (host.await.unwrap(), guest.await.unwrap()) };
            let (mut largest, mut received) = (0, 0);
            let carry = async {
                loop {
                    tokio::select! {
                        readable = tun.readable() => {
                            readable.unwrap();
                            while client.wire.room() && device::receive(&tun, |unit| client.wire.push_unit(unit)).is_ok() {}
                        }
                        ready = client.wire.ready(client.wire.pending()) => {
                            ready.unwrap();
                            client.wire.receive(|unit| {
                                largest = largest.max(unit.packet.len());
                                received += unit.packets();
                                device::send(&tun, unit).unwrap();
                            }).unwrap();
                        }
                    }
                    client.wire.flush().unwrap();
                    // A full wire is served before the TUN is read again.
                    tokio::task::yield_now().await;
                }
            };
            let outcome = tokio::select! {
                outcome = timeout(Duration::from_secs(60), both) => outcome.expect("both transfers end"),
                () = carry => unreachable!(),
            };
            assert_eq!(outcome, (true, true), "{wire:?}: each end has what the other sent");
            assert!(
                largest > 4 * 1280 || wire == Version::V1,
                "{wire:?}: super-packets arrived; the largest unit had {largest} bytes"
            );
            let status = bed.status().await;
            assert!(status.totals.uplink.rx_packets >= received as u64, "{:?} {received}", status.totals.uplink);
            assert!(status.totals.uplink.tx_bytes > 4_000_000, "{:?}", status.totals.uplink);
        });
    }
}
