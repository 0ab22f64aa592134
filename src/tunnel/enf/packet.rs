//! The few header fields of an IP packet that decisions need. Slices in, `None` for anything that is not what it claims.

use super::offload::checksum::{fold, sum};
use std::net::{Ipv4Addr, Ipv6Addr};

/// IPv6 next header and IPv4 protocol number of ICMPv6 (RFC 4443).
pub const ICMPV6: u8 = 58;

/// The link-local address of the router itself on every ENF link; it answers heartbeats.
pub const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// A packet whose version and length fields agree with its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// RFC 791: at least 20 bytes, total length equal to the length.
    V4 {
        /// Source address.
        source: Ipv4Addr,
        /// Destination address.
        destination: Ipv4Addr,
    },
    /// RFC 8200: at least 40 bytes, payload length equal to the length less 40.
    V6 {
        /// Source address.
        source: Ipv6Addr,
        /// Destination address.
        destination: Ipv6Addr,
        /// Protocol of the first byte after the fixed header.
        next_header: u8,
        /// Everything after the fixed header.
        payload: &'a [u8],
    },
}

impl<'a> Packet<'a> {
    /// Reads the fixed header; `None` when this is not one whole IP packet.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => {
                let (header, _) = bytes.split_first_chunk::<20>()?;
                let header_len = usize::from(header[0] & 0x0f) * 4;
                let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
                let whole = total == bytes.len() && (20..=total).contains(&header_len);
                whole.then_some(Self::V4 {
                    source: Ipv4Addr::new(header[12], header[13], header[14], header[15]),
                    destination: Ipv4Addr::new(header[16], header[17], header[18], header[19]),
                })
            }
            6 => {
                let (header, payload) = bytes.split_first_chunk::<40>()?;
                let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
                let (_, addresses) = header.split_first_chunk::<8>()?;
                let (source, rest) = addresses.split_first_chunk::<16>()?;
                let (destination, _) = rest.split_first_chunk::<16>()?;
                (length == payload.len()).then_some(Self::V6 {
                    source: Ipv6Addr::from(*source),
                    destination: Ipv6Addr::from(*destination),
                    next_header: header[6],
                    payload,
                })
            }
            _ => None,
        }
    }
}

/// The Internet checksum (RFC 1071) of an ICMPv6 message under its pseudo-header (RFC 8200 section 8.1), as it goes on the
/// wire. Over a message that already carries its checksum the result is 0 exactly when that is right.
pub fn icmpv6_checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    checksum(source, destination, ICMPV6, message)
}

/// The same for a message of any upper-layer protocol.
pub fn checksum(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, message: &[u8]) -> u16 {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    let addresses = sum(&source.octets()) + sum(&destination.octets());
    !fold(addresses + sum(&length) + u32::from(protocol) + sum(message))
}

/// A whole IPv6 packet with an ICMPv6 echo message: hop limit 255, no flow label.
/// `kind` is 128 for a request and 129 for a reply; `body` is everything after the checksum (identifier, sequence, data).
pub fn icmpv6_echo(source: Ipv6Addr, destination: Ipv6Addr, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0];
    message.extend_from_slice(body);
    let checksum = icmpv6_checksum(source, destination, &message).to_be_bytes();
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut packet = Vec::with_capacity(40 + message.len());
    packet.extend_from_slice(&[0x60, 0, 0, 0, length[0], length[1], ICMPV6, 255]);
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&destination.octets());
    packet.extend_from_slice(&[kind, 0, checksum[0], checksum[1]]);
    packet.extend_from_slice(body);
    packet
}

/// The answer to an ICMPv6 echo request sent to `me`; `None` for everything else, and for a bad checksum.
pub fn echo_reply(packet: &[u8], me: Ipv6Addr) -> Option<Vec<u8>> {
    let Packet::V6 { source, destination, next_header: ICMPV6, payload } = Packet::parse(packet)? else { return None };
    let ([kind, code, _, _], body) = payload.split_first_chunk::<4>()?;
    let asked = *kind == 128 && *code == 0 && destination == me && body.len() >= 4;
    (asked && icmpv6_checksum(source, destination, payload) == 0).then(|| icmpv6_echo(me, source, 129, body))
}

/// The address is a multicast address whose scope (RFC 4291 section 2.7) is no wider than one link.
pub fn is_link_scope_multicast(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.octets();
    first == 0xff && second & 0x0f <= 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_reply_turns_the_addresses_round_and_has_a_good_checksum() {
        let me = "fd00::1".parse().unwrap();
        let request = icmpv6_echo(me, ROUTER, 128, b"\x12\x34\x00\x01data");
        let reply = echo_reply(&request, ROUTER).unwrap();
        let Some(Packet::V6 { source, destination, payload, .. }) = Packet::parse(&reply) else { panic!() };
        assert_eq!((source, destination), (ROUTER, me));
        assert_eq!(payload[0], 129);
        assert_eq!(icmpv6_checksum(source, destination, payload), 0);
    }

    #[test]
    fn a_request_with_a_bad_checksum_is_not_answered() {
        let mut request = icmpv6_echo("fd00::1".parse().unwrap(), ROUTER, 128, b"\0\0\0\0");
        request[42] ^= 1;
        assert_eq!(echo_reply(&request, ROUTER), None);
    }

    #[test]
    fn link_scope_is_interface_local_and_link_local_only() {
        for (text, narrow) in [
            ("ff01::1", true),
            ("ff02::fb", true),
            ("ff12::1", true),
            ("ff05::2", false),
            ("ff0e::1", false),
            ("fe80::1", false),
        ] {
            assert_eq!(is_link_scope_multicast(text.parse().unwrap()), narrow, "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Packet::parse(&bytes);
            let _ = echo_reply(&bytes, ROUTER);
        }
    }
}
