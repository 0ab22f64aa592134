//! Explicit congestion notification (RFC 3168): a packet whose sender understands it is marked instead of dropped.

/// ECT(1), ECT(0) and CE; 0 is a sender that does not understand marks.
const CE: u8 = 0b11;

/// Marks a packet "congestion experienced". `false`, and nothing changed, when its sender would not understand.
pub fn mark(packet: &mut [u8]) -> bool {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => mark_v4(packet),
        Some(6) => mark_v6(packet),
        _ => false,
    }
}

fn mark_v4(packet: &mut [u8]) -> bool {
    let Some(header) = packet.first_chunk_mut::<20>() else { return false };
    if header[1] & CE == 0 {
        return false;
    }
    let before = u16::from_be_bytes([header[0], header[1]]);
    header[1] |= CE;
    let after = u16::from_be_bytes([header[0], header[1]]);
    // HC' = ~(~HC + ~m + m') (RFC 1624)
    let checksum = u16::from_be_bytes([header[10], header[11]]);
    let sum = u32::from(!checksum) + u32::from(!before) + u32::from(after);
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    [header[10], header[11]] = (!(folded as u16)).to_be_bytes();
    true
}

/// The traffic class lies across the first two bytes; no checksum covers it.
fn mark_v6(packet: &mut [u8]) -> bool {
    match packet.get_mut(1) {
        Some(byte) if *byte & CE << 4 != 0 => {
            *byte |= CE << 4;
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071, over a header with its checksum: 0 when that is right.
    fn checksum(header: &[u8]) -> u16 {
        let sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        !(((sum & 0xffff) + (sum >> 16)) as u16)
    }

    fn v4(tos: u8, rest: [u8; 16]) -> Vec<u8> {
        let mut packet = vec![0x45, tos, 0, 24];
        packet.extend_from_slice(&rest);
        packet.extend_from_slice(b"data");
        packet[10..12].fill(0);
        let sum = checksum(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    proptest! {
        #[test]
        fn a_marked_header_of_ipv4_has_the_checksum_it_would_have_been_sent_with(tos: u8, rest: [u8; 16]) {
            let mut packet = v4(tos, rest);
            let before = packet.clone();
            let marked = mark(&mut packet);
            prop_assert_eq!(marked, tos & CE != 0);
            prop_assert_eq!(&packet, &if marked { v4(tos | CE, rest) } else { before });
            prop_assert_eq!(checksum(&packet[..20]), 0);
        }

        #[test]
        fn ipv6_has_its_two_bits_set_and_no_other_changed(class: u8, label in 0u32..1 << 20, rest: [u8; 36]) {
            let word = |class: u8| (6 << 28 | u32::from(class) << 20 | label).to_be_bytes();
            let mut packet = [&word(class)[..], &rest].concat();
            prop_assert_eq!(mark(&mut packet), class & CE != 0);
            let expected = if class & CE == 0 { class } else { class | CE };
            prop_assert_eq!(packet, [&word(expected)[..], &rest].concat());
        }

        #[test]
        fn nothing_makes_it_panic(mut packet in prop::collection::vec(any::<u8>(), 0..30)) {
            mark(&mut packet);
        }
    }
}
