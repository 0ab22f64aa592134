//! A card, the host behind it, and frames that such hosts were seen to send.

use super::wire::{ALL_NODES, Peer, UDP};
use super::{Duid, LinkAddress, Responder, Settings, ethernet};
use crate::state::Moment;
use crate::tunnel::enf::packet::{self, ICMPV6, Packet, ROUTER};
use std::net::Ipv6Addr;
use std::time::Duration;

pub const OWN: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x8f80, 1, 0, 0, 0, 0, 0x1234);
pub const DUID: Duid = Duid::from_uuid([0xab; 16]);
pub const CARD: LinkAddress = [2, 0, 0, 0, 0, 1];
pub const HOST: LinkAddress = [2, 0, 0, 0, 0, 0xaa];
/// All routers on the link, and somebody beyond the tunnel.
pub const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
pub const FAR: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x8f80, 2, 0, 0, 0, 0, 9);
/// When cards are made.
pub const START: Moment = Duration::from_secs(1000);
/// The address that the host has on the link.
pub const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 0xaa);

/// Linux 6.18, when its device comes up: a multicast listener report, a probe for its own link-local address with a nonce
/// (RFC 7527), a router solicitation; and its question for fe80::1.
pub const LINUX_REPORT: &str = "333300000016020000 0000aa86dd 6000000000240001 00000000000000000000000000000000
    ff020000000000000000000000000016 3a00050200000100 8f006ee000000001 04000000 ff0200000000000000000001ff0000aa";
pub const LINUX_PROBE: &str = "3333ff0000aa020000 0000aa86dd 6000000000203aff 00000000000000000000000000000000
    ff0200000000000000000001ff0000aa 8700f3b400000000 fe8000000000000000 0000fffe0000aa 0e01c4204ec06734";
pub const LINUX_ROUTER_SOLICITATION: &str = "333300000002020000 0000aa86dd 6000000000103aff
    fe80000000000000000000fffe0000aa ff020000000000000000000000000002 850079da00000000 01010200000000aa";
pub const LINUX_NEIGHBOUR_SOLICITATION: &str = "3333ff000001020000 0000aa86dd 6000000000203aff
    fe80000000000000000000fffe0000aa ff0200000000000000000001ff000001 87007a4700000000 fe800000000000000000000000000001
    01010200000000aa";
/// rdisc6 1.0.6, without an option.
pub const RDISC6: &str = "333300000002020000 0000aa86dd 600ff75b00083aff
    fe80000000000000000000fffe0000aa ff020000000000000000000000000002 85007d8d00000000";
/// isc-dhcp-client 4.4.3: Solicit, with the checksum that the device fills in.
pub const DHCLIENT: &str = "333300010002020000 0000aa86dd 600f1dc000401101
    fe80000000000000000000fffe0000aa ff020000000000000000000000010002 022202230040ee14 01c0cf7a
    0001000e00010001329ae4e5 0200000000aa 0006000800170018 0027001f 000800020000 0003000c000000aa00000e1000001518";

/// The bytes of such a text.
pub fn bytes(hex: &str) -> Vec<u8> {
    let digits: String = hex.split_whitespace().collect();
    data_encoding::HEXLOWER.decode(digits.as_bytes()).unwrap()
}

/// A card with name servers, routes and the rest to be filled in.
pub fn settings() -> Settings {
    Settings {
        lladdr: CARD,
        announce_lladdr: true,
        own: OWN,
        routes: Vec::new(),
        mtu: 1280,
        router: true,
        dhcp6: true,
        dns: Vec::new(),
        ra_period: Duration::from_secs(600),
        duid: DUID,
        seed: 1,
    }
}

/// A packet; an ICMPv6 or UDP checksum is filled in.
pub fn packet(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let mut payload = payload.to_vec();
    let at = match protocol {
        ICMPV6 => 2,
        UDP => 6,
        _ => payload.len(),
    };
    if let Some(place) = payload.get_mut(at..at + 2) {
        place.fill(0);
        let sum = packet::checksum(source, destination, protocol, &payload).to_be_bytes();
        payload[at..at + 2].copy_from_slice(&sum);
    }
    let [high, low] = (payload.len() as u16).to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, high, low, protocol, hop_limit];
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

/// A frame from the host: to the group of a multicast address, or to the card.
pub fn frame(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let to = if destination.is_multicast() { Peer::group(destination).link } else { CARD };
    let mut frame = Vec::new();
    ethernet::write(&mut frame, to, HOST, &packet(source, destination, protocol, hop_limit, payload));
    frame
}

pub fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A card that has said where it is.
pub fn card(settings: &Settings) -> Responder {
    let mut card = Responder::new(settings, START);
    let announced = card.poll(START).unwrap();
    assert_eq!((sound(&announced), to_and_kind(&announced)), (true, (Peer::group(ALL_NODES).link, ALL_NODES, 136)));
    card
}

/// A card that advertises nothing: all that it sends is an answer.
pub fn quiet() -> Responder {
    card(&Settings { router: false, ..settings() })
}

/// Everything that is due now.
pub fn all(card: &mut Responder, now: Moment) -> Vec<Vec<u8>> {
    let frames: Vec<_> = std::iter::from_fn(|| card.poll(now)).take(1000).collect();
    for frame in &frames {
        assert!(sound(frame), "{frame:02x?}");
    }
    assert!(card.due().is_none_or(|due| due > now), "what is due was sent");
    frames
}

/// A frame from the card whose packet is whole, with a right checksum and, if it is the card's own, hop limit 255.
pub fn sound(frame: &[u8]) -> bool {
    let parsed = ethernet::parse(frame).unwrap();
    let Some(Packet::V6 { source, destination, next_header, payload }) = Packet::parse(parsed.packet) else {
        return false;
    };
    let own = source != ROUTER
        || (parsed.packet[7] == 255 && packet::checksum(source, destination, next_header, payload) == 0);
    own && frame[6..12] == CARD && parsed.packet.len() + 14 == frame.len()
}

/// Link-layer destination, IPv6 destination, ICMPv6 type.
pub fn to_and_kind(frame: &[u8]) -> (LinkAddress, Ipv6Addr, u8) {
    let destination: [u8; 16] = frame[38..54].try_into().unwrap();
    (frame[..6].try_into().unwrap(), destination.into(), frame[54])
}
