use super::super::samples::{self, ACK, CWR, FIN, Flow, PSH};
use super::super::{Limits, check, split};
use super::*;
use proptest::prelude::*;

const ALL: Offloads = Offloads { tcp: true, udp: true };

/// The units of one batch.
fn coalesced(packets: &[Vec<u8>], takes: Offloads) -> Vec<(Vnet, Vec<u8>)> {
    let mut gro = Gro::new();
    gro.for_sink(takes);
    in_batch(&mut gro, packets)
}

fn in_batch(gro: &mut Gro, packets: &[Vec<u8>]) -> Vec<(Vnet, Vec<u8>)> {
    let mut units = Vec::new();
    let mut each = |unit: Unit<'_>| units.push((unit.vnet, unit.packet.to_vec()));
    for packet in packets {
        gro.push(packet, &mut each);
    }
    gro.flush(&mut each);
    units
}

fn parts(units: &[(Vnet, Vec<u8>)]) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for (vnet, packet) in units {
        assert!(split(Unit { vnet: *vnet, packet }, &mut Vec::new(), |packet| packets.push(packet.to_vec())));
    }
    packets
}

fn flows() -> [Flow; 4] {
    [Flow::tcp(false), Flow::tcp(true), Flow::udp(false), Flow::udp(true)]
}

#[test]
fn what_a_super_packet_was_split_into_becomes_that_super_packet() {
    for flow in flows() {
        for (count, last) in [(2, 1), (2, 1000), (40, 7)] {
            let payload = samples::payload(3, (count - 1) * 1000 + last);
            let flags = if last == 7 { ACK | PSH | FIN } else { ACK };
            let unit = flow.unit(u16::MAX - 1, u32::MAX - 500, flags, &payload, 1000);
            let same = std::slice::from_ref(&unit);
            assert_eq!(coalesced(&parts(same), ALL), same, "{flow:?} {count} {last}");
            assert_eq!(check(Unit { vnet: unit.0, packet: &unit.1 }, &Limits { mtu: 1280, udp: true }), Ok(()));
        }
    }
}

#[test]
fn many_flows_at_a_time_are_kept_apart_and_each_in_order() {
    let flows: Vec<Flow> = (0..8).map(|port| Flow { port, ..flows()[usize::from(port) % 4].clone() }).collect();
    let packets: Vec<_> = flows.iter().map(|flow| flow.packets(5, 77, ACK, &samples::payload(1, 9000), 900)).collect();
    let mixed: Vec<_> = (0..10).flat_map(|index| packets.iter().map(move |packets| packets[index].clone())).collect();
    let units = coalesced(&mixed, ALL);
    let whole: Vec<_> = flows.iter().map(|flow| flow.unit(5, 77, ACK, &samples::payload(1, 9000), 900)).collect();
    assert_eq!(units, whole);
    // One flow more than there is room for makes room for itself, in turn: nothing is lost.
    let ninth = Flow { port: 9, ..Flow::tcp(true) }.packets(1, 1, ACK, &samples::payload(1, 1800), 900);
    let more: Vec<_> = mixed.iter().flat_map(|packet| [packet.clone(), ninth[0].clone()]).collect();
    let mut got = parts(&coalesced(&more, ALL));
    let mut sent = more;
    got.sort();
    sent.sort();
    assert!(got == sent);
}

struct Next {
    flow: Flow,
    id: u16,
    sequence: u32,
    flags: u8,
    length: usize,
}

#[test]
fn what_must_not_be_joined_goes_on_as_it_came_and_behind_what_came_before() {
    type Change = fn(&mut Next);
    let changes: &[(&str, Change)] = &[
        ("another acknowledgement", |next| next.flow.ack += 1),
        ("another window", |next| next.flow.window += 1),
        ("another option", |next| next.flow.options[11] += 1),
        ("fewer options", |next| next.flow.options.truncate(8)),
        ("another TTL", |next| next.flow.ttl -= 1),
        ("another traffic class", |next| next.flow.tos = 3),
        ("a gap", |next| next.sequence += 1),
        ("the same again", |next| next.sequence -= 1000),
        ("SYN", |next| next.flags |= 2),
        ("RST", |next| next.flags |= 4),
        ("URG", |next| next.flags |= 0x20),
        ("CWR", |next| next.flags |= CWR),
        ("ECE", |next| next.flags |= ECE),
        ("no ACK", |next| next.flags &= !ACK),
        ("no payload", |next| next.length = 0),
        ("a longer payload", |next| next.length += 1),
    ];
    for v6 in [false, true] {
        let flow = Flow::tcp(v6);
        let before = flow.packets(1, 1, ACK, &samples::payload(1, 2000), 1000);
        let joined = flow.unit(1, 1, ACK, &samples::payload(1, 2000), 1000);
        let only_v4: &[(&str, Change)] = &[
            ("another identification", |next| next.id += 1),
            ("fragments allowed", |next| next.flow.dont_fragment = false),
        ];
        let only_v6: &[(&str, Change)] = &[("another flow label", |next| next.flow.label += 1)];
        for (what, change) in changes.iter().chain(if v6 { only_v6 } else { only_v4 }) {
            let mut next = Next { flow: flow.clone(), id: 3, sequence: 2001, flags: ACK, length: 1000 };
            change(&mut next);
            let odd = next.flow.packet(next.id, next.sequence, next.flags, &samples::payload(2, next.length));
            let units = coalesced(&[before.clone(), vec![odd.clone()]].concat(), ALL);
            assert_eq!(units, [joined.clone(), (Vnet::default(), odd)], "{what}");
        }
        // The positive control.
        let third = flow.packet(3, 2001, ACK, &samples::payload(2, 1000));
        assert_eq!(coalesced(&[before, vec![third]].concat(), ALL).len(), 1);
    }
}

#[test]
fn a_packet_with_a_bad_checksum_is_never_joined_and_stays_bad() {
    for flow in flows() {
        let good = flow.packets(1, 1, ACK, &samples::payload(1, 3000), 1000);
        for broken in 0..3 {
            for at in [flow.l4() + usize::from(flow.tcp) * 10 + 6, flow.headers() + 500, 10] {
                if at == 10 && flow.v6 {
                    continue;
                }
                let mut packets = good.clone();
                packets[broken][at] ^= 0x40;
                let units = coalesced(&packets, ALL);
                assert!(units.contains(&(Vnet::default(), packets[broken].clone())), "{flow:?} {broken} {at}");
                assert_eq!(parts(&units), packets);
            }
        }
    }
}

#[test]
fn a_checksum_written_as_its_equal_is_left_as_it_is() {
    let word = |packet: &[u8], at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    for flow in flows() {
        let at = flow.l4() + if flow.tcp { 16 } else { 6 };
        // Its second packet has a checksum of 0, which TCP writes as 0 and UDP as 0xffff.
        let mut payload = vec![0; 600];
        let missing = word(&flow.packet(2, 601, ACK, &payload), at);
        payload[..2].copy_from_slice(&missing.to_be_bytes());
        let packets = [flow.packet(1, 1, ACK, &[0; 600]), flow.packet(2, 601, ACK, &payload)];
        let right = if flow.tcp { 0 } else { 0xffff };
        assert_eq!(word(&packets[1], at), right);
        assert_eq!(coalesced(&packets, ALL).len(), 1);
        let mut other = packets;
        other[1][at..at + 2].copy_from_slice(&(!right).to_be_bytes());
        let units = coalesced(&other, ALL);
        assert_eq!((units.len(), parts(&units)), (2, other.to_vec()));
    }
}

#[test]
fn fragments_options_and_extensions_pass_behind_everything() {
    let flow = Flow::udp(true);
    let before = flow.packets(1, 1, ACK, &samples::payload(1, 2000), 1000);
    let joined = flow.unit(1, 1, ACK, &samples::payload(1, 2000), 1000);
    let mut extended = flow.packet(1, 1, ACK, &[0; 9]);
    extended[6] = 44;
    let mut with_options = Flow::udp(false).packet(1, 1, 0, &[0; 9]);
    with_options[0] = 0x46;
    let mut fragment = Flow::udp(false).packet(1, 1, 0, &[0; 9]);
    fragment[6] = 0x20;
    for odd in [extended, with_options, fragment] {
        let units = coalesced(&[before.clone(), vec![odd.clone()]].concat(), ALL);
        assert_eq!(units, [joined.clone(), (Vnet::default(), odd)]);
    }
    // What is of no flow at all need not wait.
    let mut ping = flow.packet(1, 1, 0, &[0; 9]);
    ping[6] = 58;
    assert_eq!(coalesced(&[before, vec![ping.clone()]].concat(), ALL), [(Vnet::default(), ping), joined]);
}

#[test]
fn only_what_the_sink_takes_is_made() {
    for flow in flows() {
        let packets = flow.packets(1, 1, ACK, &samples::payload(1, 3000), 1000);
        for takes in [Offloads::default(), Offloads { tcp: !flow.tcp, udp: flow.tcp }] {
            let units = coalesced(&packets, takes);
            assert!(units.iter().all(|(vnet, _)| *vnet == Vnet::default()));
            assert_eq!(parts(&units), packets);
        }
    }
}

#[test]
fn a_super_packet_ends_at_65_535_bytes_and_one_of_udp_at_64_datagrams() {
    for flow in flows() {
        let packets = flow.packets(1, 1, ACK, &samples::payload(1, 100_000), 1000);
        let units = coalesced(&packets, ALL);
        let most = if flow.tcp { (65_535 - flow.headers()) / 1000 } else { 64 };
        assert_eq!(units.iter().map(|(_, packet)| packet.len() - flow.headers()).max(), Some(most * 1000));
        assert_eq!((units.len(), parts(&units)), (2, packets));
    }
}

#[test]
fn memory_is_taken_once_and_given_back_when_told() {
    let mut gro = Gro::new();
    gro.for_sink(ALL);
    let capacity = |gro: &Gro| gro.flows.iter().map(|held| held.bytes.capacity()).collect::<Vec<_>>();
    let packets = Flow::tcp(true).packets(1, 1, ACK, &samples::payload(1, 200_000), 1200);
    in_batch(&mut gro, &packets);
    let first = capacity(&gro);
    assert_eq!(first.iter().filter(|capacity| **capacity > 0).count(), 1);
    for _ in 0..10 {
        in_batch(&mut gro, &packets);
        assert_eq!(capacity(&gro), first);
    }
    gro.release();
    assert_eq!(capacity(&gro), [0; FLOWS]);
    assert!(in_batch(&mut gro, &packets).len() < 5);
}

#[derive(Clone, Debug)]
struct Step {
    flow: usize,
    size: usize,
    flags: u8,
    gap: bool,
    changed: Option<u8>,
    broken: Option<(usize, u8)>,
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![6 => Just(100_usize), 1 => 0_usize..100, 1 => 101_usize..200, 1 => Just(1200)];
    let flags = prop_oneof![8 => Just(ACK), 1 => Just(ACK | PSH), 1 => Just(ACK | FIN), 1 => any::<u8>()];
    let rarely = |chance: u32| prop::bool::weighted(1.0 / f64::from(chance));
    let broken = prop_oneof![8 => Just(None), 1 => (0_usize..120, 1_u8..).prop_map(Some)];
    let changed = prop_oneof![8 => Just(None), 1 => (0_u8..6).prop_map(Some)];
    (0_usize..10, size, flags, rarely(12), changed, broken).prop_map(|(flow, size, flags, gap, changed, broken)| {
        let flow = if flow > 5 { 0 } else { flow };
        Step { flow, size, flags, gap, changed, broken }
    })
}

proptest! {
    #[test]
    fn every_packet_of_every_flow_comes_out_of_it_as_it_went_in(
        flows in prop::collection::vec(samples::flow(), 6), steps in prop::collection::vec(step(), 1..120), start in any::<(u16, u32)>(),
        takes in any::<[bool; 2]>(), breaks in prop::collection::vec(0_usize..120, 0..3),
    ) {
        let mut flows: Vec<Flow> = flows;
        for (index, flow) in flows.iter_mut().enumerate() { flow.port = index as u16; }
        let mut at = [start; 6];
        let mut packets = Vec::new();
        for step in &steps {
            let (flow, (id, sequence)) = (&mut flows[step.flow], &mut at[step.flow]);
            match step.changed {
                Some(0) => flow.ack = flow.ack.wrapping_add(1),
                Some(1) => flow.window ^= 1,
                Some(2) => flow.ttl ^= 1,
                Some(3) => flow.tos ^= 1,
                Some(4) => flow.label ^= 1,
                Some(_) => *id = id.wrapping_add(1),
                None => {}
            }
            if step.gap { *sequence = sequence.wrapping_add(7); }
            let mut packet = flow.packet(*id, *sequence, step.flags, &samples::payload(step.size as u8, step.size));
            *id = id.wrapping_add(1);
            *sequence = sequence.wrapping_add(step.size as u32);
            if let Some((at, bits)) = step.broken && let Some(byte) = packet.get_mut(at) { *byte ^= bits; }
            packets.push(packet);
        }
        let mut gro = Gro::new();
        gro.for_sink(Offloads { tcp: takes[0], udp: takes[1] });
        let mut got: Vec<Vec<u8>> = Vec::new();
        let mut breaks = breaks;
        breaks.sort_unstable();
        let mut rest = &packets[..];
        for at in breaks {
            let (now, later) = rest.split_at(at.min(rest.len()));
            got.extend(parts(&in_batch(&mut gro, now)));
            rest = later;
        }
        got.extend(parts(&in_batch(&mut gro, rest)));
        // A flow by what is in its headers, as whoever receives it sees it: broken packets may be of another one.
        let flow = |packet: &[u8]| {
            let version = packet[0] >> 4;
            let (protocol, network) = if version == 4 { (9, 12) } else { (6, 8) };
            let transport = if version == 4 { 20 } else { 40 };
            // One that is too short for its version is of a flow of its own.
            (version, packet[protocol], packet.get(network..transport + 4).unwrap_or(packet).to_vec())
        };
        let of_each = |packets: &[Vec<u8>]| {
            let mut all: Vec<(_, usize, Vec<u8>)> =
                packets.iter().enumerate().map(|(index, packet)| (flow(packet), index, packet.clone())).collect();
            all.sort();
            all.into_iter().map(|(flow, _, packet)| (flow, packet)).collect::<Vec<_>>()
        };
        prop_assert!(of_each(&got) == of_each(&packets));
    }

    #[test]
    fn no_bytes_make_it_panic_or_lose_one(packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20), version in any::<bool>()) {
        let mut packets = packets;
        for packet in &mut packets {
            let length = packet.len() as u16;
            if version && let Some(header) = packet.first_chunk_mut::<10>() {
                (header[0], header[9]) = (0x45, 6);
                header[2..4].copy_from_slice(&length.to_be_bytes());
                header[6..8].fill(0);
            }
        }
        let mut sent = packets.clone();
        let mut got = parts(&coalesced(&packets, ALL));
        sent.sort();
        got.sort();
        prop_assert_eq!(sent, got);
    }
}
