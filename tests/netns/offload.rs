//! Splitting and coalescing against the kernel's own: what we make of a super-packet is, byte for byte, what the kernel makes of
//! it, and what we make of packets the kernel takes for the super-packets that they are.

use crate::common::netns::{Netns, block_on, in_netns_with_tun, ip, sh};
use crate::common::{skip, wait_for};
use enftun::sys::tun::{Offloads, Tun};
use enftun::sys::vnet::Vnet;
use enftun::tunnel::enf::offload::{Gro, Limits, Unit, check, split};
use nix::sys::socket::{setsockopt, sockopt};
use samples::{ACK, CWR, FIN, Flow, PSH};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

#[path = "../../src/tunnel/enf/offload/samples.rs"]
#[allow(dead_code)]
mod samples;

const LIMITS: Limits = Limits { mtu: 1280, udp: true };

/// All packets that a unit stands for.
fn parts(unit: Unit<'_>) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    assert!(split(unit, &mut Vec::new(), |packet| packets.push(packet.to_vec())), "{:?}", unit.vnet);
    packets
}

/// The next `count` packets of a TUN that are for `port`; the kernel has things to say of its own.
fn received(tun: &Tun, flow: &Flow, count: usize) -> Vec<Vec<u8>> {
    let (mut packets, mut buffer) = (Vec::new(), vec![0; 65_535]);
    let ports = flow.l4()..flow.l4() + 4;
    wait_for(&format!("{count} packets of {flow:?}"), || {
        while let Ok(length) = tun.try_recv(&mut buffer) {
            let packet = &buffer[..length];
            let version = if flow.v6 { 6 } else { 4 };
            if packet[0] >> 4 == version && packet.get(ports.clone()) == Some(&flow.packet(0, 0, 0, &[])[ports.clone()])
            {
                packets.push(packet.to_vec());
            }
        }
        packets.len() >= count
    });
    packets
}

#[test]
fn the_kernel_splits_as_we_do() {
    in_netns_with_tun("the_kernel_splits_as_we_do", || {
        block_on(async {
            let (into, out) = (Tun::offloaded("in0").unwrap(), Tun::open("out0").unwrap());
            for (tun, name) in [(&into, "in0"), (&out, "out0")] {
                sh(&format!(
                    "echo 1 > /proc/sys/net/ipv6/conf/{name}/forwarding; echo 0 > /proc/sys/net/ipv4/conf/{name}/rp_filter"
                ));
                ip(&format!("link set {name} mtu 1500 addrgenmode none up"));
                tun.set_carrier(true).unwrap();
            }
            sh("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter");
            sh("echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
            for (device, v4, v6) in [("in0", "10.64.0.7", "fd00:8f80:1::1234"), ("out0", "10.0.0.9", "fd00:8f80:1::9")]
            {
                ip(&format!("route add {v4} dev {device}"));
                ip(&format!("route add {v6} dev {device}"));
            }
            let mut compared = 0;
            for flow in [Flow::tcp(false), Flow::tcp(true), Flow::udp(false), Flow::udp(true)] {
                if !flow.tcp && !into.offloads().udp {
                    skip("the_kernel_splits_as_we_do", "the kernel has no USO (before 6.2)");
                    continue;
                }
                for (case, (length, size)) in
                    [(1, 0), (999, 0), (1001, 1000), (4000, 1000), (60_001, 1001), (64_000, 1400), (5000, 536), (3, 1)]
                        .into_iter()
                        .enumerate()
                {
                    for flags in [ACK, ACK | PSH, ACK | PSH | FIN, ACK | CWR, ACK | 0x40 | PSH] {
                        let port = 1000 + case as u16 * 100 + u16::from(flags);
                        let flow = Flow { port, tos: case as u8 * 4, dont_fragment: case % 2 == 0, ..flow.clone() };
                        let payload = samples::payload(flags, length);
                        let (id, sequence) = (u16::MAX - 2, u32::MAX - 3000);
                        let (vnet, packet) = flow.unit(id, sequence, flags, &payload, size);
                        into.try_send_with(vnet, &packet).unwrap();
                        // A router's hop comes before.
                        let hop = Flow { ttl: flow.ttl - 1, ..flow.clone() };
                        let (vnet, packet) = hop.unit(id, sequence, flags, &payload, size);
                        let ours = parts(Unit { vnet, packet: &packet });
                        let kernels = received(&out, &flow, ours.len());
                        assert!(kernels == ours, "{flow:?} {length} {size} {flags:x}\n{kernels:x?}\n{ours:x?}");
                        compared += ours.len();
                    }
                }
            }
            assert!(compared > 500, "{compared} packets were compared");
        });
    });
}

/// Two hosts with a TUN each, and we are the cable.
struct Cable {
    far: Netns,
    near_tun: Tun,
    far_tun: Tun,
}

/// What passed, from the near host to the far one.
#[derive(Debug, Default)]
struct Seen {
    /// Super-packets that the near host's kernel sent.
    sent: usize,
    /// Super-packets that the far host's kernel was given.
    given: usize,
    /// Most packets of one of them.
    most: usize,
}

impl Cable {
    /// The far host's TUN takes super-packets; the near one's, when it shall.
    fn new(offloaded: bool) -> Self {
        let far = Netns::new();
        let up = |name: &str, own: [&str; 2], other: [&str; 2]| {
            ip(&format!("link set {name} mtu 1280 addrgenmode none up"));
            for (own, other) in own.into_iter().zip(other) {
                let nodad = if own.contains(':') { "nodad" } else { "" };
                ip(&format!("addr add {own} dev {name} {nodad}"));
                ip(&format!("route add {other} dev {name}"));
            }
        };
        let (near_addresses, far_addresses) = (["10.64.0.7", "fd00:8f80:1::1234"], ["10.0.0.9", "fd00:8f80:1::9"]);
        let near_tun = if offloaded { Tun::offloaded("near0").unwrap() } else { Tun::open("near0").unwrap() };
        up("near0", near_addresses, far_addresses);
        near_tun.set_carrier(true).unwrap();
        let runtime = tokio::runtime::Handle::current();
        let far_tun = far.run(|| {
            let _entered = runtime.enter();
            let tun = Tun::offloaded("far0").unwrap();
            up("far0", far_addresses, near_addresses);
            tun.set_carrier(true).unwrap();
            tun
        });
        Self { far, near_tun, far_tun }
    }

    /// Carries packets both ways until `story`, which is in the near namespace and is told the far one, has ended.
    async fn carry(&self, story: impl FnOnce(&Netns) + Send) -> Seen {
        let (mut seen, mut back, mut gro, over) =
            (Seen::default(), Seen::default(), Gro::new(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let teller = scope.spawn(|| {
                story(&self.far);
                over.store(true, Relaxed);
            });
            while !over.load(Relaxed) && !teller.is_finished() {
                let there = one_batch(&self.near_tun, &self.far_tun, &mut gro, &mut seen);
                let again = one_batch(&self.far_tun, &self.near_tun, &mut gro, &mut back);
                if !there && !again {
                    std::thread::sleep(Duration::from_micros(100));
                }
            }
        });
        seen
    }
}

/// Splits what one TUN has, coalesces the packets, and gives them to the other. Whether there was any.
fn one_batch(from: &Tun, to: &Tun, gro: &mut Gro, seen: &mut Seen) -> bool {
    let (mut buffer, mut scratch, mut any) = (vec![0; 65_535], Vec::new(), false);
    gro.for_sink(to.offloads());
    let mut send = |unit: Unit<'_>| {
        to.try_send_with(unit.vnet, unit.packet).unwrap();
        seen.given += usize::from(unit.packets() > 1);
        seen.most = seen.most.max(unit.packets());
    };
    for _ in 0..32 {
        let Ok((vnet, length)) = from.try_recv_with(&mut buffer) else { break };
        any = true;
        let unit = Unit { vnet, packet: &buffer[..length] }.canonical();
        seen.sent += usize::from(unit.packets() > 1);
        assert_eq!(check(unit, &LIMITS), Ok(()), "{unit:?}");
        let (packets, bytes) = (unit.packets(), unit.wire_bytes());
        let mut counted = (0, 0);
        let whole = split(unit, &mut scratch, |packet| {
            assert!(packet.len() <= 1280);
            counted = (counted.0 + 1, counted.1 + packet.len());
            gro.push(packet, &mut send);
        });
        assert_eq!((whole, counted), (true, (packets, bytes)));
    }
    gro.flush(&mut send);
    any
}

fn tcp_transfer(far: &Netns, address: &str) {
    let sent: Vec<u8> = samples::payload(1, 8 << 20);
    let listener = far.run(|| TcpListener::bind((address, 0)).unwrap());
    let address = listener.local_addr().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| TcpStream::connect(address).unwrap().write_all(&sent).unwrap());
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        assert!(got == sent, "{} bytes of {}", got.len(), sent.len());
    });
}

fn tcp_in_super_packets(test: &str, offloaded: bool) {
    in_netns_with_tun(test, || {
        block_on(async {
            let cable = Cable::new(offloaded);
            for address in ["10.0.0.9", "fd00:8f80:1::9"] {
                let seen = cable.carry(|far| tcp_transfer(far, address)).await;
                assert_eq!(seen.sent > 100, offloaded, "{address}: {seen:?}");
                assert!(seen.given > 100 && seen.most > 10, "{address}: {seen:?}");
            }
        });
    });
}

#[test]
fn a_transfer_that_we_split_and_coalesce_arrives() {
    tcp_in_super_packets("a_transfer_that_we_split_and_coalesce_arrives", true);
}

#[test]
fn a_transfer_that_the_kernel_splits_and_we_coalesce_arrives() {
    tcp_in_super_packets("a_transfer_that_the_kernel_splits_and_we_coalesce_arrives", false);
}

#[test]
fn datagrams_that_we_split_and_coalesce_arrive_each_by_itself() {
    let test = "datagrams_that_we_split_and_coalesce_arrive_each_by_itself";
    in_netns_with_tun(test, || {
        block_on(async {
            let cable = Cable::new(true);
            if cable.far_tun.offloads() != (Offloads { tcp: true, udp: true }) {
                return skip(test, "the kernel has no USO (before 6.2)");
            }
            for (own, other) in [("10.64.0.7", "10.0.0.9"), ("fd00:8f80:1::1234", "fd00:8f80:1::9")] {
                let seen = cable
                    .carry(|far| {
                        let receiver = far.run(|| UdpSocket::bind((other, 0)).unwrap());
                        let sender = UdpSocket::bind((own, 0)).unwrap();
                        datagrams(&sender, &receiver, receiver.local_addr().unwrap());
                    })
                    .await;
                assert!(seen.sent >= 20 && seen.given >= 20 && seen.most >= 40, "{own}: {seen:?}");
            }
        });
    });
}

/// One call of the sender makes 41 datagrams, of which the last is shorter.
fn datagrams(sender: &UdpSocket, receiver: &UdpSocket, to: SocketAddr) {
    sender.connect(to).unwrap();
    setsockopt(sender, sockopt::UdpGsoSegment, &1000).unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut buffer = [0; 2000];
    for round in 0..20 {
        let payload = samples::payload(round, 40_100);
        sender.send(&payload).unwrap();
        for expected in payload.chunks(1000) {
            let length = receiver.recv(&mut buffer).unwrap();
            assert!(&buffer[..length] == expected, "{length} bytes");
        }
    }
}

#[test]
fn whatever_the_check_lets_pass_the_kernel_takes() {
    in_netns_with_tun("whatever_the_check_lets_pass_the_kernel_takes", || {
        block_on(async {
            let tun = Tun::offloaded("in0").unwrap();
            ip("link set in0 mtu 1280 addrgenmode none up");
            tun.set_carrier(true).unwrap();
            for flow in [Flow::tcp(false), Flow::tcp(true), Flow::udp(false), Flow::udp(true)] {
                let limits = Limits { udp: tun.offloads().udp, ..LIMITS };
                let mut taken = 0;
                for size in [0, 1, 2, 500, 536, 1000, 1280 - flow.headers() as u16] {
                    for length in [1, 2, 3, 63, 64, 65, 1000, 1001, 30_000, 65_535 - flow.headers()] {
                        let (vnet, packet) = flow.unit(1, 2, ACK, &samples::payload(1, length), size);
                        if check(Unit { vnet, packet: &packet }, &limits).is_ok() {
                            tun.try_send_with(vnet, &packet).unwrap();
                            taken += 1;
                        }
                    }
                }
                assert!(taken > 10, "{flow:?}");
            }
            // The positive control: a kernel does refuse what is beyond all reason.
            let (vnet, packet) = Flow::tcp(true).unit(1, 2, ACK, &[0; 3000], 1000);
            assert!(tun.try_send_with(Vnet { csum_start: 60_000, ..vnet }, &packet).is_err());
        });
    });
}
