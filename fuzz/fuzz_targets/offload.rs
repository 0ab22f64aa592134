//! Super-packets of any bytes and headers: nothing panics, what the check lets pass splits into whole packets within the MTU, and
//! packets that were coalesced come apart again into the very bytes.
#![no_main]

use enftun::sys::tun::Offloads;
use enftun::sys::vnet::Vnet;
use enftun::tunnel::enf::offload::{Gro, Limits, Splitter, Unit, check, checksum, split};
use enftun::tunnel::enf::packet::Packet;
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits { mtu: 1280, udp: true };

/// All packets that a unit stands for, written in both ways.
fn parts(unit: Unit<'_>) -> Option<Vec<Vec<u8>>> {
    let mut packets = Vec::new();
    let whole = split(unit, &mut Vec::new(), |packet| packets.push(packet.to_vec()));
    assert_eq!(whole, Splitter::new(unit).is_some());
    if let Some(mut splitter) = Splitter::new(unit).filter(|_| !unit.packet.is_empty()) {
        let mut buffer = vec![0; unit.packet.len()];
        for packet in &packets {
            assert_eq!(splitter.next_len(), Some(packet.len()));
            assert_eq!(splitter.write(&mut buffer), packet.len());
            assert_eq!(&buffer[..packet.len()], packet);
        }
        assert_eq!(splitter.next_len(), None);
    }
    whole.then_some(packets)
}

fn one(header: [u8; Vnet::SIZE], packet: &[u8]) {
    let unit = Unit { vnet: Vnet::from_bytes(header), packet };
    let parts = parts(unit);
    if let Some(parts) = &parts {
        assert_eq!(parts.len(), unit.packets());
        assert_eq!(parts.iter().map(Vec::len).sum::<usize>(), unit.wire_bytes());
    }
    if check(unit, &LIMITS).is_ok() {
        assert_eq!(unit.canonical(), unit);
        let parts = parts.unwrap();
        if unit.vnet != Vnet::default() {
            assert!(parts.iter().all(|packet| packet.len() <= 1280 && Packet::parse(packet).is_some()));
        }
    }
}

fn many(data: &[u8]) {
    let mut packets = Vec::new();
    let mut rest = data;
    while let Some(([high, low], after)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([high & 0x07, *low])).min(after.len());
        let (packet, after) = after.split_at(length);
        packets.push(packet.to_vec());
        rest = after;
    }
    let mut gro = Gro::new();
    gro.for_sink(Offloads { tcp: true, udp: true });
    let mut got = Vec::new();
    let mut each = |unit: Unit<'_>| {
        if unit.vnet != Vnet::default() {
            // Its segments may be shorter than a peer may send them: the very bytes come back all the same.
            assert!(unit.packets() > 1);
        }
        got.extend(parts(unit).unwrap());
    };
    for packet in &packets {
        gro.push(packet, &mut each);
    }
    gro.flush(&mut each);
    // Flows overtake each other: nothing is lost or changed.
    packets.sort();
    got.sort();
    assert_eq!(packets, got);
}

/// A super-packet with right lengths and sums, and otherwise what the fuzzer says: what it is split into is coalesced.
fn sound(header: [u8; Vnet::SIZE], packet: &[u8]) {
    let (v6, tcp) = (header[1] & 1 == 0, header[1] & 2 == 0);
    let (l4, protocol, at) = (if v6 { 40 } else { 20 }, if tcp { 6 } else { 17 }, if tcp { 16 } else { 6 });
    if packet.len() < l4 + 20 || packet.len() > 65_535 {
        return;
    }
    let mut packet = packet.to_vec();
    let length = packet.len() - l4;
    let (network, transport) = packet.split_at_mut(l4);
    let addresses = if v6 {
        network[0] = 0x60 | network[0] & 15;
        network[4..6].copy_from_slice(&(length as u16).to_be_bytes());
        network[6] = protocol;
        checksum::sum(&network[8..])
    } else {
        network[0] = 0x45;
        network[2..4].copy_from_slice(&((20 + length) as u16).to_be_bytes());
        (network[6], network[7], network[9]) = (network[6] & 0x40, 0, protocol);
        network[10..12].fill(0);
        let sum = !checksum::fold(checksum::sum(network));
        network[10..12].copy_from_slice(&sum.to_be_bytes());
        checksum::sum(&network[12..])
    };
    if !tcp {
        transport[4..6].copy_from_slice(&(length as u16).to_be_bytes());
    }
    let pseudo = checksum::fold(addresses + u32::from(protocol) + length as u32);
    transport[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
    let vnet = Vnet {
        flags: Vnet::NEEDS_CSUM,
        gso_type: match (tcp, v6) {
            (true, true) => Vnet::TCPV6,
            (true, false) => Vnet::TCPV4,
            (false, _) => Vnet::UDP_L4,
        },
        csum_start: l4 as u16,
        csum_offset: at as u16,
        ..Vnet::from_bytes(header)
    };
    let unit = Unit { vnet, packet: &packet }.canonical();
    one(unit.vnet.to_bytes(), &packet);
    let Some(packets) = parts(unit) else { return };
    let framed: Vec<u8> = packets
        .iter()
        .filter(|packet| packet.len() < 0x800)
        .flat_map(|packet| [&(packet.len() as u16).to_be_bytes()[..], packet].concat())
        .collect();
    many(&framed);
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    match (kind % 3, data.split_first_chunk()) {
        (0, Some((header, packet))) => one(*header, packet),
        (1, Some((header, packet))) => sound(*header, packet),
        _ => many(data),
    }
});
