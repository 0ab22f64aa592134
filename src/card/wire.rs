//! Frames that the card sends by itself: all from fe80::1, with hop limit 255 and a checksum.

use super::{LinkAddress, ethernet};
use crate::tunnel::enf::packet::{self, ICMPV6, ROUTER};
use std::net::Ipv6Addr;

/// IPv6 next header of UDP.
pub const UDP: u8 = 17;
/// All nodes on the link.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Somebody on the link, or a group there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where frames go.
    pub link: LinkAddress,
    /// Where packets go.
    pub address: Ipv6Addr,
}

impl Peer {
    /// Everybody who listens to this multicast address.
    pub fn group(address: Ipv6Addr) -> Self {
        Self { link: ethernet::group(address), address }
    }
}

/// The solicited-node multicast address (RFC 4291 section 2.7.1) of a unicast address.
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    let last = u16::from_be_bytes([b, c]);
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), last)
}

/// A frame with an ICMPv6 message: its type, its code, and everything after its checksum.
pub fn icmpv6(from: LinkAddress, to: Peer, kind: u8, code: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend_from_slice(body);
    let sum = packet::icmpv6_checksum(ROUTER, to.address, &message).to_be_bytes();
    frame(from, to, ICMPV6, &[&[kind, code], &sum, body])
}

/// A frame with a UDP datagram (RFC 768).
pub fn udp(from: LinkAddress, to: Peer, source_port: u16, destination_port: u16, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + body.len()).unwrap_or(u16::MAX).to_be_bytes();
    let ports = [source_port.to_be_bytes(), destination_port.to_be_bytes()].concat();
    let unsummed = [&ports[..], &length, &[0, 0], body].concat();
    // 0 would mean that there is none (RFC 8200 section 8.1).
    let sum = match packet::checksum(ROUTER, to.address, UDP, &unsummed) {
        0 => 0xffff,
        sum => sum,
    };
    frame(from, to, UDP, &[&ports, &length, &sum.to_be_bytes(), body])
}

fn frame(from: LinkAddress, to: Peer, protocol: u8, payload: &[&[u8]]) -> Vec<u8> {
    let length: usize = payload.iter().map(|part| part.len()).sum();
    let [high, low] = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, high, low, protocol, 255];
    packet.extend_from_slice(&ROUTER.octets());
    packet.extend_from_slice(&to.address.octets());
    for part in payload {
        packet.extend_from_slice(part);
    }
    let mut frame = Vec::new();
    ethernet::write(&mut frame, to.link, from, &packet);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::enf::packet::Packet;

    #[test]
    fn what_is_sent_is_one_whole_packet_with_a_right_checksum() {
        let to = Peer { link: [4; 6], address: "fe80::5".parse().unwrap() };
        for (frame, protocol) in
            [(icmpv6([2; 6], to, 136, 0, b"odd"), ICMPV6), (udp([2; 6], to, 547, 546, b"odd"), UDP)]
        {
            let packet = ethernet::parse(&frame).unwrap().packet;
            let Some(Packet::V6 { source, destination, next_header, payload }) = Packet::parse(packet) else {
                panic!()
            };
            assert_eq!((source, destination, next_header, packet[7]), (ROUTER, to.address, protocol, 255));
            assert_eq!(packet::checksum(source, destination, protocol, payload), 0);
        }
    }

    #[test]
    fn a_udp_checksum_of_zero_is_sent_as_all_ones() {
        let to = Peer { link: [4; 6], address: "fe80::5".parse().unwrap() };
        let sum_of = |body: &[u8]| {
            let frame = udp([2; 6], to, 547, 546, body);
            u16::from_be_bytes([frame[60], frame[61]])
        };
        let rest = sum_of(&[0, 0]);
        assert_ne!(rest, 0);
        // With the complement of the rest as data, the sum is all ones and its complement 0.
        assert_eq!(sum_of(&rest.to_be_bytes()), 0xffff);
    }

    #[test]
    fn the_solicited_node_address_keeps_three_bytes() {
        let text = solicited_node("fd00:8f80:1::12:3456".parse().unwrap()).to_string();
        assert_eq!(text, "ff02::1:ff12:3456");
    }
}
