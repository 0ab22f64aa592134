use super::super::samples::{self, ACK, CWR, FIN, Flow, PSH};
use super::*;
use proptest::prelude::*;

fn splits(vnet: Vnet, packet: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut packets = Vec::new();
    split(Unit { vnet, packet }, &mut Vec::new(), |packet| packets.push(packet.to_vec())).then_some(packets)
}

#[test]
fn a_plain_packet_is_itself() {
    let packet = Flow::tcp(true).packet(0, 1, ACK, b"data");
    assert_eq!(splits(Vnet::default(), &packet), Some(vec![packet.clone()]));
    assert_eq!(splits(Vnet { flags: Vnet::DATA_VALID, ..Vnet::default() }, &packet), Some(vec![packet]));
}

#[test]
fn a_checksum_that_is_still_to_be_completed_is_completed() {
    for flow in [Flow::tcp(false), Flow::tcp(true), Flow::udp(false), Flow::udp(true)] {
        let (vnet, packet) = flow.unit(7, 9, ACK | PSH, b"some data", 0);
        assert_eq!(splits(vnet, &packet), Some(vec![flow.packet(7, 9, ACK | PSH, b"some data")]));
    }
}

#[test]
fn the_checksum_of_any_protocol_is_completed() {
    // GRE with a checksum (RFC 2784): no pseudo-header, checksum 4 bytes in.
    let mut packet = Flow::udp(true).packet(0, 0, 0, &[]);
    packet[6] = 47;
    packet.truncate(40);
    packet.extend([0x80, 0, 0x86, 0xdd, 0, 0, 0, 0, 1, 2, 3]);
    packet[5] = 11;
    let vnet = Vnet { flags: Vnet::NEEDS_CSUM, csum_start: 40, csum_offset: 4, ..Vnet::default() };
    let packets = splits(vnet, &packet).unwrap();
    assert_eq!(packets.len(), 1);
    assert_eq!(samples::sum(&packets[0][40..]), 0xffff);
    assert_eq!((&packets[0][..44], &packets[0][46..]), (&packet[..44], &packet[46..]));
}

#[test]
fn a_udp_checksum_of_0_is_written_as_its_equal() {
    let flow = Flow::udp(true);
    let word = |packet: &[u8]| u16::from_be_bytes([packet[46], packet[47]]);
    // One word of the payload brings the sum to 0xffff.
    let missing = word(&flow.packet(0, 0, 0, &[0; 600])).to_be_bytes();
    let mut payload = vec![0; 1200];
    payload[..2].copy_from_slice(&missing);
    payload[600..602].copy_from_slice(&missing);
    let (vnet, packet) = flow.unit(0, 0, 0, &payload, 600);
    let packets = splits(vnet, &packet).unwrap();
    assert_eq!(packets.iter().map(|packet| word(packet)).collect::<Vec<_>>(), [0xffff, 0xffff]);
    let (vnet, packet) = flow.unit(0, 0, 0, &payload[..600], 0);
    assert_eq!(word(&splits(vnet, &packet).unwrap()[0]), 0xffff);
}

#[test]
fn only_the_first_has_cwr_and_only_the_last_fin_and_psh() {
    let flow = Flow::tcp(true);
    let (vnet, packet) = flow.unit(0, u32::MAX - 700, ACK | CWR | FIN | PSH, &samples::payload(1, 3000), 1000);
    let packets = splits(Vnet { gso_type: vnet.gso_type | ECN, ..vnet }, &packet).unwrap();
    let seen: Vec<_> = packets.iter().map(|packet| (packet[53], &packet[44..48])).collect();
    let sequences = [u32::MAX - 700, 299, 1299].map(u32::to_be_bytes);
    assert_eq!(seen, [(ACK | CWR, &sequences[0][..]), (ACK, &sequences[1][..]), (ACK | FIN | PSH, &sequences[2][..])]);
}

#[test]
fn what_stands_before_the_segments_header_may_be_more_than_one_header() {
    // Destination options (RFC 8200 section 4.6) between IPv6 and TCP: a kernel segments that, if told where TCP begins.
    let flow = Flow { options: Vec::new(), ..Flow::tcp(true) };
    let (mut vnet, mut packet) = flow.unit(0, 5, ACK, &samples::payload(3, 2500), 1000);
    packet.splice(40..40, [6, 0, 1, 4, 0, 0, 0, 0]);
    packet[6] = 60;
    vnet.csum_start = 48;
    let lengths: Vec<_> =
        splits(vnet, &packet).unwrap().iter().map(|packet| (packet.len(), packet[4..6].to_vec())).collect();
    assert_eq!(lengths, [(1068, vec![4, 4]), (1068, vec![4, 4]), (568, vec![2, 16])]);
}

#[test]
fn nonsense_is_no_packet() {
    let (good, packet) = Flow::tcp(true).unit(0, 1, ACK, &[7; 3000], 1000);
    let bad = |vnet: Vnet| splits(vnet, &packet).is_none();
    assert!(!bad(good));
    assert!(bad(Vnet { gso_type: Vnet::TCPV4, ..good }));
    assert!(bad(Vnet { gso_type: Vnet::UDP_L4, ..good }));
    assert!(bad(Vnet { gso_type: 3, ..good }));
    assert!(bad(Vnet { gso_size: 0, ..good }));
    assert!(bad(Vnet { flags: 0, ..good }));
    assert!(bad(Vnet { csum_start: 39, ..good }));
    assert!(bad(Vnet { csum_start: 65_535, ..good }));
    assert!(bad(Vnet { csum_offset: 6, ..good }));
    assert!(bad(Vnet { csum_offset: 65_535, ..Vnet { gso_type: Vnet::NONE, ..good } }));
    assert!(splits(good, &packet[..60]).is_none());
    assert!(splits(good, &[]).is_none());
}

#[test]
fn a_buffer_that_is_too_short_takes_nothing() {
    let (vnet, packet) = Flow::udp(false).unit(1, 0, 0, &samples::payload(1, 1500), 1000);
    let mut splitter = Splitter::new(Unit { vnet, packet: &packet }).unwrap();
    let mut buffer = vec![0xaa; 2000];
    assert_eq!((splitter.next_len(), splitter.write(&mut buffer[..1027])), (Some(1028), 0));
    assert_eq!((splitter.write(&mut buffer), splitter.next_len()), (1028, Some(528)));
    assert_eq!(buffer[1028..], [0xaa; 972]);
    assert_eq!(splitter.write(&mut buffer), 528);
    assert_eq!((splitter.next_len(), splitter.write(&mut buffer)), (None, 0));
}

proptest! {
    #[test]
    fn a_super_packet_is_the_packets_built_one_by_one(
        flow in samples::flow(), numbers in any::<(u16, u32, u8, u8)>(), size in 1_u16..1500, length in 0_usize..20_000,
    ) {
        let (id, sequence, flags, seed) = numbers;
        // Its last packet may be full, or of one byte.
        let length = 1 + length.min(usize::from(size) * 70);
        let payload = samples::payload(seed, length);
        let (vnet, packet) = flow.unit(id, sequence, flags, &payload, size);
        let unit = Unit { vnet, packet: &packet };
        let mut expected = flow.packets(id, sequence, flags, &payload, usize::from(size));
        if let [one] = &mut expected[..] && flow.tcp && one[flow.l4() + 16..flow.l4() + 18] == [0, 0] {
            // A lone packet's 0 is written as its equal, whatever the protocol, as the kernel does.
            one[flow.l4() + 16..flow.l4() + 18].fill(0xff);
        }
        prop_assert_eq!(unit.packets(), expected.len());
        prop_assert_eq!(unit.wire_bytes(), expected.iter().map(Vec::len).sum::<usize>());
        let mut splitter = Splitter::new(unit).unwrap();
        let mut buffer = vec![0; 1600];
        for packet in &expected {
            prop_assert_eq!(splitter.next_len(), Some(packet.len()));
            prop_assert_eq!(splitter.write(&mut buffer), packet.len());
            prop_assert_eq!(&buffer[..packet.len()], packet);
        }
        prop_assert_eq!(splitter.next_len(), None);
        prop_assert_eq!(splits(vnet, &packet), Some(expected));
    }

    #[test]
    fn no_unit_makes_it_panic_or_miscount(
        header in any::<[u8; 10]>(), kind in 0_u8..7, numbers in (0_u16..100, 0_u16..30, 0_u16..60),
        wild in any::<bool>(), version in 0_u8..8, mut packet in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let mut vnet = Vnet::from_bytes(header);
        if !wild {
            (vnet.csum_start, vnet.csum_offset, vnet.gso_size) = numbers;
            (vnet.gso_type, vnet.flags) = (kind, vnet.flags | 1);
            if let Some(first) = packet.first_mut() { *first = *first & 15 | version << 4; }
        }
        let unit = Unit { vnet, packet: &packet };
        let mut counted = (0, 0);
        if split(unit, &mut Vec::new(), |packet| counted = (counted.0 + 1, counted.1 + packet.len())) {
            prop_assert_eq!(counted, (unit.packets(), unit.wire_bytes()));
        }
        prop_assert!(unit.packets() >= 1);
    }
}
