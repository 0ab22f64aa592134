use super::super::samples::{self, ACK, CWR, FIN, Flow, PSH};
use super::super::split;
use super::*;
use proptest::prelude::*;

const LIMITS: Limits = Limits { mtu: 1280, udp: true };

fn verdict(vnet: Vnet, packet: &[u8]) -> Result<(), DropReason> {
    check(Unit { vnet, packet }, &LIMITS)
}

fn flows() -> [Flow; 4] {
    [Flow::tcp(false), Flow::tcp(true), Flow::udp(false), Flow::udp(true)]
}

#[test]
fn units_that_agree_with_themselves_pass() {
    for flow in flows() {
        let size = 1280 - flow.headers() as u16;
        let payload = samples::payload(1, 60_000);
        let (vnet, packet) = flow.unit(1, 2, ACK | PSH | FIN, &payload, size);
        assert_eq!(verdict(vnet, &packet), Ok(()), "{flow:?}");
        let (vnet, packet) = flow.unit(1, 2, ACK, &payload[..usize::from(size)], 0);
        assert_eq!(verdict(vnet, &packet), Ok(()), "{flow:?}");
        assert_eq!(verdict(Vnet::default(), &flow.packet(1, 2, ACK, &payload[..100])), Ok(()));
    }
}

#[test]
fn no_field_may_be_another() {
    for flow in flows() {
        let (good, packet) = flow.unit(1, 2, ACK, &samples::payload(1, 3000), 600);
        assert_eq!(verdict(good, &packet), Ok(()));
        for flags in (0..=255).filter(|flags| *flags != good.flags) {
            assert_eq!(verdict(Vnet { flags, ..good }, &packet), Err(DropReason::OffloadInvalid), "flags {flags}");
        }
        for gso_type in (0..=255).filter(|gso_type| *gso_type != good.gso_type) {
            assert_eq!(verdict(Vnet { gso_type, ..good }, &packet), Err(DropReason::OffloadInvalid), "type {gso_type}");
        }
        for other in (0..=u16::MAX).step_by(7).chain([good.csum_start + 1, good.csum_start - 1, good.hdr_len - 1]) {
            if other != good.hdr_len {
                assert_eq!(verdict(Vnet { hdr_len: other, ..good }, &packet), Err(DropReason::OffloadInvalid));
            }
            if other != good.csum_start {
                assert_eq!(verdict(Vnet { csum_start: other, ..good }, &packet), Err(DropReason::OffloadInvalid));
            }
            if other != good.csum_offset {
                assert_eq!(verdict(Vnet { csum_offset: other, ..good }, &packet), Err(DropReason::OffloadInvalid));
            }
        }
    }
}

#[test]
fn segments_are_from_536_bytes_for_tcp_and_1_for_udp_up_to_the_mtu_and_fewer_than_there_are() {
    for flow in flows() {
        let (least, most) = (if flow.tcp { 536 } else { 1 }, 1280 - flow.headers() as u16);
        for (size, length, expected) in [
            (0, 2000, Err(DropReason::OffloadInvalid)),
            (least - 1, 1100, Err(DropReason::OffloadInvalid)),
            (least, usize::from(least) * 2, Ok(())),
            (least, usize::from(least) + 1, Ok(())),
            (least, usize::from(least), Err(DropReason::OffloadInvalid)),
            (most, 60_000, Ok(())),
            (most + 1, 60_000, Err(DropReason::TooBig)),
            (u16::MAX, 60_000, Err(DropReason::OffloadInvalid)),
        ] {
            let (vnet, packet) = flow.unit(1, 2, ACK, &samples::payload(1, length), 1000);
            assert_eq!(verdict(Vnet { gso_size: size, ..vnet }, &packet), expected, "{flow:?} {size} {length}");
        }
        let (vnet, packet) = flow.unit(1, 2, ACK, &samples::payload(1, 1281 - flow.headers()), 0);
        assert_eq!(verdict(vnet, &packet), Err(DropReason::TooBig));
        assert_eq!(verdict(Vnet::default(), &packet), Err(DropReason::TooBig));
    }
}

#[test]
fn udp_super_packets_pass_only_where_they_were_announced_and_with_as_many_datagrams_as_every_kernel_takes() {
    let (vnet, packet) = Flow::udp(true).unit(0, 0, 0, &samples::payload(1, 64 * 100), 100);
    let unit = Unit { vnet, packet: &packet };
    assert_eq!(check(unit, &LIMITS), Ok(()));
    assert_eq!(check(unit, &Limits { udp: false, ..LIMITS }), Err(DropReason::OffloadInvalid));
    let (vnet, packet) = Flow::udp(true).unit(0, 0, 0, &samples::payload(1, 64 * 100 + 1), 100);
    assert_eq!(verdict(vnet, &packet), Err(DropReason::OffloadInvalid));
}

#[test]
fn options_extensions_fragments_lone_flags_and_wrong_lengths_are_refused() {
    let refused =
        |vnet, packet: &[u8], what: &str| assert_eq!(verdict(vnet, packet), Err(DropReason::OffloadInvalid), "{what}");
    let header_sum = |packet: &mut [u8]| {
        packet[10..12].fill(0);
        let sum = !(samples::sum(&packet[..20]) as u16);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    };
    for flow in flows() {
        let (vnet, good) = flow.unit(1, 2, ACK, &samples::payload(1, 3000), 600);
        refused(vnet, &good[..good.len() - 1], "shorter than its length");
        refused(vnet, &[&good[..], &[0]].concat(), "longer than its length");
        let mut packet = good.clone();
        packet[flow.l4() + usize::from(vnet.csum_offset)] ^= 1;
        refused(vnet, &packet, "another sum of the pseudo-header");
        let mut packet = good.clone();
        packet[if flow.v6 { 6 } else { 9 }] = 132;
        refused(vnet, &packet, "another protocol");
        if flow.v6 {
            let mut packet = good.clone();
            packet[6] = 60;
            refused(vnet, &packet, "extension headers");
        } else {
            for (at, value, what) in
                [(6, 0x20, "more fragments"), (7, 1, "a fragment"), (6, 0x80, "a reserved bit"), (0, 0x46, "options")]
            {
                let mut packet = good.clone();
                packet[at] = value;
                header_sum(&mut packet);
                refused(vnet, &packet, what);
            }
            let mut packet = good.clone();
            packet[8] ^= 1;
            refused(vnet, &packet, "a bad header checksum");
        }
        if flow.tcp {
            for flags in [0x02, 0x04, 0x20, CWR] {
                let (vnet, packet) = flow.unit(1, 2, ACK | flags, &samples::payload(1, 3000), 600);
                refused(vnet, &packet, "flags of a lone segment");
            }
            let mut packet = good.clone();
            packet[flow.l4() + 12] = 0x40;
            refused(Vnet { hdr_len: flow.l4() as u16 + 16, ..vnet }, &packet, "a header shorter than TCP's");
        } else {
            let mut packet = good.clone();
            packet[flow.l4() + 5] ^= 4;
            refused(vnet, &packet, "another UDP length");
        }
    }
}

#[test]
fn what_a_kernel_says_besides_is_left_away() {
    let flow = Flow::tcp(true);
    let (vnet, packet) = flow.unit(1, 2, ACK, &samples::payload(1, 3000), 600);
    let kernels = Unit { vnet: Vnet { hdr_len: 1000, flags: 3, ..vnet }, packet: &packet };
    assert_eq!(kernels.canonical(), Unit { vnet, packet: &packet });
    let (lone, packet) = flow.unit(1, 2, ACK, &samples::payload(1, 600), 0);
    let kernels = Unit { vnet: Vnet { gso_size: 600, gso_type: Vnet::TCPV6, ..lone }, packet: &packet };
    assert_eq!(kernels.canonical(), Unit { vnet: lone, packet: &packet });
    let plain = Vnet { flags: Vnet::DATA_VALID, ..Vnet::default() };
    assert_eq!(Unit { vnet: plain, packet: &packet }.canonical(), Unit::plain(&packet));
}

/// The packet is whole and its checksums are right.
fn is_sound(packet: &[u8]) -> bool {
    let (l4, protocol, addresses) = match packet[0] >> 4 {
        4 => (20, packet[9], &packet[12..20]),
        _ => (40, packet[6], &packet[8..40]),
    };
    let length = if l4 == 20 { [packet[2], packet[3]] } else { [packet[4], packet[5]] };
    let length = usize::from(u16::from_be_bytes(length)) + if l4 == 20 { 0 } else { 40 };
    let transport = &packet[l4..];
    let pseudo = samples::sum(addresses) + u32::from(protocol) + transport.len() as u32;
    let udp_length = usize::from(u16::from_be_bytes([transport[4], transport[5]]));
    length == packet.len()
        && (l4 == 40 || samples::sum(&packet[..20]) == 0xffff)
        && samples::sum(&(pseudo + samples::sum(transport)).to_be_bytes()) == 0xffff
        && (protocol == 6 || udp_length == transport.len() && transport[6..8] != [0, 0])
}

proptest! {
    #[test]
    fn whatever_passes_splits_into_whole_packets_with_right_checksums_within_the_mtu(
        flow in samples::flow(), size in 0_u16..1400, length in 0_usize..6000, flags in any::<u8>(),
        changes in prop::collection::vec((0_usize..80, any::<u8>()), 0..3), header in prop::option::of((0_usize..10, any::<u8>())),
    ) {
        let (mut vnet, mut packet) = flow.unit(1, 2, if size % 4 > 0 { ACK } else { flags }, &samples::payload(1, length), size);
        if let Some((at, value)) = header {
            let mut bytes = vnet.to_bytes();
            bytes[at] = value;
            vnet = Vnet::from_bytes(bytes);
        }
        for (at, value) in changes {
            if let Some(byte) = packet.get_mut(at) { *byte = value; }
        }
        let unit = Unit { vnet, packet: &packet };
        if vnet != Vnet::default() && check(unit, &LIMITS).is_ok() {
            let mut packets = 0;
            prop_assert_eq!(unit.canonical(), unit);
            let did = split(unit, &mut Vec::new(), |packet| {
                packets += 1;
                assert!(is_sound(packet), "{packet:x?}");
                assert!(packet.len() <= 1280);
            });
            prop_assert!(did);
            prop_assert_eq!(packets, unit.packets());
        }
    }

    #[test]
    fn no_unit_makes_it_panic(header in any::<[u8; 10]>(), packet in prop::collection::vec(any::<u8>(), 0..200)) {
        let unit = Unit { vnet: Vnet::from_bytes(header), packet: &packet };
        let _ = check(unit, &LIMITS);
        let _ = unit.canonical();
    }
}
