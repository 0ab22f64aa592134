use super::*;
use proptest::prelude::*;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

/// Does not understand marks, or does.
const NOT_ECT: u8 = 0;
const ECT: u8 = 2;

/// A UDP packet over IPv6 of `size` bytes, of the flow with this source port, with a number in it.
fn packet(port: u16, number: u32, size: usize, ecn: u8) -> Vec<u8> {
    let size = size.max(52);
    let mut packet = vec![0x60, ecn << 4, 0, 0];
    packet.extend_from_slice(&((size - 40) as u16).to_be_bytes());
    packet.extend_from_slice(&[17, 64]);
    packet.extend_from_slice(&[0xfd; 32]);
    packet.extend_from_slice(&[port.to_be_bytes(), 443u16.to_be_bytes(), [0, 0], [0, 0]].concat());
    packet.extend_from_slice(&number.to_be_bytes());
    packet.resize(size, 0xaa);
    packet
}

fn port(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[40], packet[41]])
}

fn number(packet: &[u8]) -> u32 {
    u32::from_be_bytes([packet[48], packet[49], packet[50], packet[51]])
}

fn is_marked(packet: &[u8]) -> bool {
    packet[1] & 0x30 == 0x30
}

/// Puts a packet in and knows that nothing is dropped.
fn fill(queue: &mut Queue, packet: &[u8], now: Moment) {
    assert_eq!(queue.push(Unit::plain(packet), now), Dropped::default());
}

/// Takes the next packet, which is there, and knows that nothing is dropped.
fn take(queue: &mut Queue, now: Moment) -> Vec<u8> {
    let (owned, dropped) = queue.pop(now);
    assert_eq!(dropped, Dropped::default());
    let owned = owned.unwrap();
    let packet = owned.unit().packet.to_vec();
    queue.recycle(owned);
    packet
}

/// Flows that share none of the buckets of this queue.
fn distinct_ports(queue: &Queue, count: usize) -> Vec<u16> {
    let mut seen = std::collections::HashSet::new();
    (1..).filter(|&port| seen.insert(flow::bucket(&packet(port, 0, 0, 0), &queue.seed))).take(count).collect()
}

/// How long a link of this rate takes for a packet.
fn serialisation(bytes: usize, bits_per_second: u64) -> Duration {
    Duration::from_nanos(bytes as u64 * 8 * 1_000_000_000 / bits_per_second)
}

#[test]
fn what_goes_in_comes_out_unchanged_and_with_its_header() {
    let mut queue = Queue::new(1 << 20);
    let vnet = Vnet { flags: 1, gso_type: Vnet::TCPV6, hdr_len: 60, gso_size: 1220, csum_start: 40, csum_offset: 16 };
    let large = packet(1, 1, 65_535, NOT_ECT);
    assert!(queue.push(Unit { vnet, packet: &large }, Moment::ZERO).is_none());
    assert_eq!((queue.len(), queue.bytes(), queue.is_empty()), (1, 65_535, false));
    let (owned, dropped) = queue.pop(Moment::ZERO);
    let owned = owned.unwrap();
    assert!(dropped.is_none());
    assert_eq!(owned.unit(), Unit { vnet, packet: &large });
    queue.recycle(owned);
    assert_eq!((queue.len(), queue.bytes(), queue.is_empty()), (0, 0, true));
    assert!(queue.pop(Moment::ZERO).0.is_none());
}

#[test]
fn an_empty_queue_is_a_few_words_and_nothing_more() {
    assert!(size_of::<Queue>() < 100, "{}", size_of::<Queue>());
    let mut queue = Queue::new(100_000);
    assert!(queue.tables.is_none());
    for number in 0..10 {
        fill(&mut queue, &packet(1, number, 1280, NOT_ECT), Moment::ZERO);
    }
    assert!(queue.tables.is_some());
    (0..10).for_each(|_| drop(take(&mut queue, Moment::ZERO)));
    assert!(queue.tables.is_none(), "it has handed on everything");
    // One that is too small for what is pushed is as empty as before.
    let mut queue = Queue::new(100);
    assert_eq!(queue.push(Unit::plain(&[0; 200]), Moment::ZERO), Dropped { units: 1, packets: 1, bytes: 200 });
    assert!(queue.tables.is_none() && queue.is_empty());
}

#[test]
fn a_buffer_that_came_back_serves_the_next_unit_of_its_size() {
    let mut queue = Queue::new(1 << 20);
    fill(&mut queue, &packet(1, 0, 100, NOT_ECT), Moment::ZERO);
    let mut seen = std::collections::HashSet::new();
    for number in 0..100 {
        for size in [1280, 40_000, 65_535] {
            fill(&mut queue, &packet(1, number, size, NOT_ECT), Moment::ZERO);
            fill(&mut queue, &packet(1, number, 100, NOT_ECT), Moment::ZERO);
            for _ in 0..2 {
                let owned = queue.pop(Moment::ZERO).0.unwrap();
                seen.insert(owned.unit().packet.as_ptr());
                queue.recycle(owned);
            }
        }
    }
    assert!(seen.len() < 10, "{} buffers for 600 units", seen.len());
}

#[test]
fn many_flows_take_turns_and_each_keeps_its_order() {
    let mut queue = Queue::new(1 << 20);
    let ports = distinct_ports(&queue, 4);
    for number in 0..20 {
        ports.iter().for_each(|&port| fill(&mut queue, &packet(port, number, 1400, NOT_ECT), Moment::ZERO));
    }
    let mut next = [0; 4];
    for round in 0..80 {
        let packet = take(&mut queue, Moment::ZERO);
        let flow = ports.iter().position(|&p| p == port(&packet)).unwrap();
        assert_eq!(number(&packet), next[flow]);
        next[flow] += 1;
        let (least, most) = (next.iter().min().unwrap(), next.iter().max().unwrap());
        assert!(most - least <= 2, "after {round}: {next:?}");
    }
}

#[test]
fn turns_are_in_bytes_also_for_super_packets() {
    let mut queue = Queue::new(64 << 20);
    let ports = distinct_ports(&queue, 2);
    for number in 0..100 {
        fill(&mut queue, &packet(ports[0], number, 60_000, NOT_ECT), Moment::ZERO);
    }
    for number in 0..6000 {
        fill(&mut queue, &packet(ports[1], number, 1000, NOT_ECT), Moment::ZERO);
    }
    let mut bytes = [0usize; 2];
    for _ in 0..3000 {
        let packet = take(&mut queue, Moment::ZERO);
        bytes[usize::from(port(&packet) == ports[1])] += packet.len();
        assert!(bytes[0].abs_diff(bytes[1]) <= 60_000 + 3 * 1500, "{bytes:?}");
    }
}

#[test]
fn a_sparse_flow_waits_for_no_more_than_the_packet_that_is_on_the_link() {
    const RATE: u64 = 10_000_000;
    let mut queue = Queue::new(256 * 1024);
    let ports = distinct_ports(&queue, 3);
    // Twice what the link carries, in two flows, and a small packet every 20 ms.
    let every = serialisation(1400, RATE);
    let mut arrivals: Vec<_> =
        (0..5000u32).flat_map(|n| [(every * n, ports[0], n, 1400), (every * n, ports[1], n, 1400)]).collect();
    arrivals.extend((1..250u32).map(|n| (Duration::from_micros(20_011) * n, ports[2], n, 100)));
    arrivals.sort();
    let (mut free, mut sparse, mut bulk, mut lost) = (Moment::ZERO, Vec::new(), Vec::new(), 0);
    let mut sent_at = std::collections::HashMap::new();
    for (at, port_, number_, size) in arrivals {
        while free <= at && !queue.is_empty() {
            let (owned, dropped) = queue.pop(free);
            lost += dropped.packets;
            let Some(owned) = owned else { break };
            let packet = owned.unit().packet;
            let waited = free - sent_at[&(port(packet), number(packet))];
            free += serialisation(packet.len(), RATE);
            if port(packet) == ports[2] {
                sparse.push(waited)
            } else {
                bulk.push(waited)
            }
            queue.recycle(owned);
        }
        free = free.max(at);
        sent_at.insert((port_, number_), at);
        lost += queue.push(Unit::plain(&packet(port_, number_, size, NOT_ECT)), at).packets;
    }
    assert!(lost > 1000, "the link is overloaded: {lost}");
    assert!(*bulk.iter().max().unwrap() > Duration::from_millis(20), "the bulk flows have a queue");
    assert!(sparse.len() >= 248, "no small packet is lost: {}", sparse.len());
    let worst = *sparse.iter().max().unwrap();
    assert!(worst <= serialisation(1500, RATE), "{worst:?}");
}

/// A sender like TCP (a window that grows by one packet a round trip, and is halved once a round trip at a loss or a mark) over
/// a link with this queue: how long its packets waited in the last five of fifteen seconds, sorted, and what it has sent in
/// them as a share of what the link could carry.
fn responsive(ecn: u8, limit: usize, with_codel: bool) -> (Vec<Duration>, f64, usize, usize) {
    const RATE: u64 = 20_000_000;
    const ROUND_TRIP: Duration = Duration::from_millis(40);
    const SIZE: usize = 1280;
    let (end, steady) = (Duration::from_secs(15), Duration::from_secs(10));
    let mut queue = Queue::new(limit);
    let (mut now, mut free) = (Moment::ZERO, Moment::ZERO);
    let (mut window, mut in_flight, mut number_, mut calm) = (10.0f64, 0usize, 0u32, Moment::ZERO);
    // When the sender hears of packets: (moment, how many, there is trouble).
    let mut news = BinaryHeap::new();
    let mut pushed_at = VecDeque::new();
    let (mut waits, mut sent, mut lost, mut marked) = (Vec::new(), 0usize, 0usize, 0usize);
    while now < end {
        while in_flight < window as usize {
            let dropped = queue.push(Unit::plain(&packet(1, number_, SIZE, ecn)), now);
            pushed_at.push_back((number_, now));
            (in_flight, number_) = (in_flight + 1, number_ + 1);
            if dropped.packets > 0 {
                lost += dropped.packets;
                news.push(Reverse((now + ROUND_TRIP, dropped.packets, true)));
            }
        }
        if free <= now && !queue.is_empty() {
            // Without CoDel: for its clock no packet has waited.
            let (owned, dropped) = queue.pop(if with_codel { now } else { Moment::ZERO });
            if dropped.packets > 0 {
                lost += dropped.packets;
                news.push(Reverse((now + ROUND_TRIP, dropped.packets, true)));
            }
            if let Some(owned) = owned {
                let packet = owned.unit().packet;
                while pushed_at.front().is_some_and(|&(n, _)| n < number(packet)) {
                    pushed_at.pop_front();
                }
                let waited = now - pushed_at.pop_front().unwrap().1;
                if now > steady {
                    waits.push(waited);
                    sent += packet.len();
                }
                marked += usize::from(is_marked(packet));
                news.push(Reverse((now + ROUND_TRIP, 1, is_marked(packet))));
                free = now + serialisation(packet.len(), RATE);
                queue.recycle(owned);
            }
        }
        let heard = news.peek().map_or(end, |Reverse((at, ..))| *at);
        now = if queue.is_empty() { heard } else { heard.min(free) };
        while let Some(&Reverse((at, packets, trouble))) = news.peek()
            && at <= now
        {
            news.pop();
            in_flight -= packets;
            if trouble && at >= calm {
                window = (window / 2.0).max(2.0);
                calm = at + ROUND_TRIP;
            } else if !trouble {
                window += packets as f64 / window;
            }
        }
    }
    waits.sort();
    let share = sent as f64 * 8.0 / ((end - steady).as_secs_f64() * RATE as f64);
    (waits, share, lost, marked)
}

#[test]
fn codel_brings_a_standing_queue_to_about_its_target_and_keeps_the_link_busy() {
    let (fifo, ..) = responsive(NOT_ECT, 1 << 20, false);
    assert!(fifo[fifo.len() / 2] > codel::TARGET * 10, "without it, packets wait: {:?}", fifo[fifo.len() / 2]);
    let (waits, share, lost, marked) = responsive(NOT_ECT, 1 << 20, true);
    let (median, high) = (waits[waits.len() / 2], waits[waits.len() * 95 / 100]);
    assert!(median < codel::TARGET * 2, "{median:?}");
    assert!(high < codel::TARGET * 5, "{high:?}");
    assert!(share > 0.85, "{share}");
    assert!(lost > 0 && marked == 0, "{lost} {marked}");
}

#[test]
fn a_sender_that_understands_marks_loses_nothing_and_waits_as_little() {
    let (waits, share, lost, marked) = responsive(ECT, 1 << 20, true);
    assert!(waits[waits.len() / 2] < codel::TARGET * 2, "{:?}", waits[waits.len() / 2]);
    assert!(share > 0.85, "{share}");
    assert!(lost == 0 && marked > 0, "{lost} {marked}");
}

#[test]
fn the_last_packet_of_a_flow_is_never_dropped_for_having_waited() {
    let mut queue = Queue::new(1 << 20);
    let late = |round: u64| Moment::from_secs(10 * round);
    for round in 0..100 {
        fill(&mut queue, &packet(1, 0, 1280, NOT_ECT), late(round));
        let _ = take(&mut queue, late(round + 1));
    }
}

#[test]
fn a_full_queue_drops_from_the_head_of_the_fattest_flow() {
    let mut queue = Queue::new(20 * 1280);
    let ports = distinct_ports(&queue, 2);
    for number in 0..15 {
        fill(&mut queue, &packet(ports[0], number, 1280, NOT_ECT), Moment::ZERO);
    }
    for number in 0..5 {
        fill(&mut queue, &packet(ports[1], number, 1280, NOT_ECT), Moment::ZERO);
    }
    let gone = Dropped { units: 1, packets: 1, bytes: 1280 };
    for number in 5..8 {
        assert_eq!(queue.push(Unit::plain(&packet(ports[1], number, 1280, NOT_ECT)), Moment::ZERO), gone);
    }
    let rest: Vec<_> = (0..20).map(|_| take(&mut queue, Moment::ZERO)).map(|p| (port(&p), number(&p))).collect();
    let of = |port| rest.iter().filter(|(p, _)| *p == port).map(|(_, n)| *n).collect::<Vec<_>>();
    assert_eq!(of(ports[0]), (3..15).collect::<Vec<_>>());
    assert_eq!(of(ports[1]), (0..8).collect::<Vec<_>>());
}

#[test]
fn a_super_packet_is_dropped_whole_and_told_as_what_it_stands_for() {
    let mut queue = Queue::new(100_000);
    let vnet = Vnet { flags: 1, gso_type: Vnet::UDP_L4, hdr_len: 48, gso_size: 1000, csum_start: 40, csum_offset: 6 };
    let packet = packet(1, 0, 48 + 42_500, NOT_ECT);
    let push = |queue: &mut Queue| queue.push(Unit { vnet, packet: &packet }, Moment::ZERO);
    assert!(push(&mut queue).is_none() && push(&mut queue).is_none());
    assert_eq!(push(&mut queue), Dropped { units: 1, packets: 43, bytes: packet.len() });
    assert_eq!((queue.len(), queue.bytes()), (2, 2 * packet.len()));
}

#[test]
fn small_packets_cannot_take_more_memory_than_large_ones() {
    let mut queue = Queue::new(128 * 1000);
    let mut dropped = Dropped::default();
    for number in 0..5000 {
        dropped += queue.push(Unit::plain(&packet(1, number, 60, NOT_ECT)), Moment::ZERO);
    }
    assert_eq!((queue.len(), dropped.packets), (1000, 4000));
}

/// What a test does to a queue.
#[derive(Clone, Debug)]
enum Step {
    Push { flow: u16, size: usize, ecn: u8 },
    Pop,
    Recycle,
    Wait { micros: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size = prop_oneof![4 => 52usize..200, 4 => 1000usize..1500, 1 => 1500usize..65_000];
    let step = prop_oneof![
        6 => (0u16..12, size, 0u8..4).prop_map(|(flow, size, ecn)| Step::Push { flow, size, ecn }),
        4 => Just(Step::Pop),
        3 => Just(Step::Recycle),
        2 => prop_oneof![0u64..1000, 0u64..200_000].prop_map(|micros| Step::Wait { micros }),
    ];
    prop::collection::vec(step, 0..400)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn nothing_is_lost_but_what_is_told_and_each_flow_keeps_its_order(steps in steps(), limit in 0usize..200_000) {
        let mut queue = Queue::new(limit);
        let (mut now, mut count, mut out) = (Moment::ZERO, 0u32, Vec::new());
        let (mut in_units, mut in_bytes, mut gone, mut out_bytes, mut out_units) = (0, 0, Dropped::default(), 0, 0);
        let mut last = [None; 12];
        let mut popped = |queue: &mut Queue, now: Moment, gone: &mut Dropped, out: &mut Vec<Owned>| {
            let (owned, dropped) = queue.pop(now);
            *gone += dropped;
            if let Some(owned) = owned {
                let packet = owned.unit().packet;
                let last = &mut last[usize::from(port(packet))];
                assert!(*last < Some(number(packet)), "order of a flow");
                *last = Some(number(packet));
                assert_eq!(packet.len(), 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]])));
                (out_bytes, out_units) = (out_bytes + packet.len(), out_units + 1);
                out.push(owned);
                return Some((out_bytes, out_units));
            }
            assert!(queue.is_empty(), "nothing comes out of an empty queue only");
            None
        };
        let (mut bytes_out, mut units_out) = (0, 0);
        for step in steps {
            match step {
                Step::Push { flow, size, ecn } => {
                    gone += queue.push(Unit::plain(&packet(flow, count, size, ecn)), now);
                    (count, in_units, in_bytes) = (count + 1, in_units + 1, in_bytes + size);
                }
                Step::Pop => {
                    if let Some(totals) = popped(&mut queue, now, &mut gone, &mut out) {
                        (bytes_out, units_out) = totals;
                    }
                }
                Step::Recycle => out.drain(..).for_each(|owned| queue.recycle(owned)),
                Step::Wait { micros } => now += Duration::from_micros(micros),
            }
            prop_assert!(queue.bytes() <= limit);
            prop_assert_eq!(in_units, units_out + gone.units + queue.len());
            prop_assert_eq!(in_bytes, bytes_out + gone.bytes + queue.bytes());
        }
        while let Some(totals) = popped(&mut queue, now, &mut gone, &mut out) {
            (bytes_out, units_out) = totals;
        }
        out.drain(..).for_each(|owned| queue.recycle(owned));
        prop_assert_eq!((in_units, in_bytes), (units_out + gone.units, bytes_out + gone.bytes));
        prop_assert!(queue.tables.is_none());
    }

    #[test]
    fn neither_bytes_nor_moments_make_it_panic(
        pushes in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..80), any::<u64>()), 0..60),
        pops in prop::collection::vec(any::<u64>(), 0..60),
    ) {
        let mut queue = Queue::new(4000);
        for (index, (bytes, at)) in pushes.iter().enumerate() {
            let _ = queue.push(Unit::plain(bytes), Moment::from_secs(*at));
            if let (Some(owned), _) = queue.pop(Moment::from_secs(pops.get(index).copied().unwrap_or(u64::MAX))) {
                queue.recycle(owned);
            }
        }
    }
}
