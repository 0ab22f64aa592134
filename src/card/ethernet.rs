//! Ethernet II around IPv6 (RFC 2464).

use super::{LinkAddress, Reason};
use std::net::Ipv6Addr;

const IPV6: [u8; 2] = [0x86, 0xdd];
const HEADER: usize = 14;

/// A frame that carries IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Whom it is for: a station or a group.
    pub destination: LinkAddress,
    /// The station that sent it.
    pub source: LinkAddress,
    /// As many bytes as the IPv6 header claims; short frames are padded behind them.
    pub packet: &'a [u8],
}

/// Reads the header, and cuts the padding off.
pub fn parse(frame: &[u8]) -> Result<Frame<'_>, Reason> {
    let (header, rest) = frame.split_first_chunk::<HEADER>().ok_or(Reason::Malformed)?;
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *header;
    if [t0, t1] != IPV6 {
        return Err(Reason::NotIpv6);
    }
    let source = [s0, s1, s2, s3, s4, s5];
    if !is_station(source) {
        return Err(Reason::Malformed);
    }
    let (fixed, payload) = rest.split_first_chunk::<40>().ok_or(Reason::Malformed)?;
    let length = usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    if fixed[0] >> 4 != 6 || length > payload.len() {
        return Err(Reason::Malformed);
    }
    let packet = rest.get(..40 + length).ok_or(Reason::Malformed)?;
    Ok(Frame { destination: [d0, d1, d2, d3, d4, d5], source, packet })
}

/// Puts a frame around `packet`, in place of what `out` holds.
pub fn write(out: &mut Vec<u8>, destination: LinkAddress, source: LinkAddress, packet: &[u8]) {
    out.clear();
    out.reserve(HEADER + packet.len());
    out.extend_from_slice(&destination);
    out.extend_from_slice(&source);
    out.extend_from_slice(&IPV6);
    out.extend_from_slice(packet);
}

/// The group that frames for an IPv6 multicast address go to (RFC 2464 section 7).
pub fn group(address: Ipv6Addr) -> LinkAddress {
    let [.., a, b, c, d] = address.octets();
    [0x33, 0x33, a, b, c, d]
}

/// One of those groups.
pub fn is_group(address: LinkAddress) -> bool {
    address.starts_with(&[0x33, 0x33])
}

/// The address of one station: neither a group nor zero.
pub fn is_station(address: LinkAddress) -> bool {
    let [first, ..] = address;
    first & 1 == 0 && address != [0; 6]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_cut_off_and_what_is_short_is_refused() {
        let mut packet = vec![0x60, 0, 0, 0, 0, 4, 59, 64];
        packet.resize(44, 7);
        let mut frame = Vec::new();
        write(&mut frame, [2; 6], [4; 6], &packet);
        assert_eq!(parse(&frame), Ok(Frame { destination: [2; 6], source: [4; 6], packet: &packet }));
        frame.extend([0; 2]);
        assert_eq!(parse(&frame).unwrap().packet, packet);
        for length in 0..58 {
            let expected = if length < 14 { Reason::Malformed } else { parse(&frame[..length]).unwrap_err() };
            assert_eq!(parse(&frame[..length]), Err(expected), "{length} bytes");
        }
    }

    #[test]
    fn other_protocols_tags_and_senders_that_are_groups_are_refused() {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, 59, 64];
        packet.resize(40, 0);
        let mut frame = Vec::new();
        for (kind, reason) in [
            ([0x08, 0x00], Reason::NotIpv6),
            ([0x08, 0x06], Reason::NotIpv6),
            ([0x81, 0x00], Reason::NotIpv6),
            ([0x00, 0x36], Reason::NotIpv6),
        ] {
            write(&mut frame, [2; 6], [4; 6], &packet);
            frame[12..14].copy_from_slice(&kind);
            assert_eq!(parse(&frame), Err(reason));
        }
        for source in [[3; 6], [0xff; 6], [0; 6]] {
            write(&mut frame, [2; 6], source, &packet);
            assert_eq!(parse(&frame), Err(Reason::Malformed));
        }
        packet[0] = 0x40;
        write(&mut frame, [2; 6], [4; 6], &packet);
        assert_eq!(parse(&frame), Err(Reason::Malformed));
    }

    #[test]
    fn a_group_has_the_last_four_bytes_of_the_address() {
        assert_eq!(group("ff02::1:ff00:1".parse().unwrap()), [0x33, 0x33, 0xff, 0, 0, 1]);
        assert!(is_group([0x33, 0x33, 0, 0, 0, 1]) && !is_group([0xff; 6]));
    }
}
