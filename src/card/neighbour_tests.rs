use crate::card::discovery::{NEIGHBOUR_ADVERTISEMENT, NEIGHBOUR_SOLICITATION, ROUTER_SOLICITATION};
use crate::card::testing::*;
use crate::card::wire::{ALL_NODES, solicited_node};
use crate::card::{Delivery, Reason, Responder, Verdict, ethernet};
use crate::tunnel::enf::packet::{ICMPV6, ROUTER};
use std::net::Ipv6Addr;

fn solicitation_of(target: Ipv6Addr, options: &[u8]) -> Vec<u8> {
    [&[NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0], &target.octets()[..], options].concat()
}

fn advertisement_of(target: Ipv6Addr, flags: u8, options: &[u8]) -> Vec<u8> {
    [&[NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0], &target.octets()[..], options].concat()
}

#[test]
fn linux_asking_for_the_router_is_answered_byte_by_byte() {
    let mut card = quiet();
    assert_eq!(card.frame(&bytes(LINUX_NEIGHBOUR_SOLICITATION), START), Verdict::Taken);
    // Router, solicited, override; the target link-layer address option.
    let expected = bytes(
        "0200000000aa 020000000001 86dd 6000000000203aff fe800000000000000000000000000001
        fe80000000000000000000fffe0000aa 88009873e0000000 fe800000000000000000000000000001 0201020000000001",
    );
    assert_eq!(all(&mut card, START), [expected]);
}

#[test]
fn a_card_that_starts_tells_everybody_where_it_is() {
    let mut card = Responder::new(&settings(), START);
    let announced = card.poll(START).unwrap();
    assert_eq!(to_and_kind(&announced), ([0x33, 0x33, 0, 0, 0, 1], ALL_NODES, NEIGHBOUR_ADVERTISEMENT));
    assert_eq!(announced[58], 0xa0, "router and override, but not solicited");
    assert_eq!(announced[62..], [&ROUTER.octets()[..], &[2, 1], &CARD].concat());
}

#[test]
fn a_probe_for_our_address_is_objected_to_before_everybody() {
    let mut card = quiet();
    let probe = frame(Ipv6Addr::UNSPECIFIED, solicited_node(ROUTER), ICMPV6, 255, &solicitation_of(ROUTER, &[]));
    assert_eq!(card.frame(&probe, START), Verdict::Taken);
    let answers = all(&mut card, START);
    assert_eq!(to_and_kind(&answers[0]), ([0x33, 0x33, 0, 0, 0, 1], ALL_NODES, NEIGHBOUR_ADVERTISEMENT));
    assert_eq!((answers.len(), answers[0][58]), (1, 0xa0), "router and override, but not solicited");
}

#[test]
fn a_question_is_answered_to_the_link_layer_address_that_it_names() {
    let other = [2, 0, 0, 0, 0, 0xbb];
    for (options, to) in [(&[][..], HOST), (&[1, 1, 2, 0, 0, 0, 0, 0xbb], other), (&[1, 1, 3, 0, 0, 0, 0, 0xbb], HOST)]
    {
        let mut card = quiet();
        let asked = frame(LINK_LOCAL, ROUTER, ICMPV6, 255, &solicitation_of(ROUTER, options));
        assert_eq!(card.frame(&asked, START), Verdict::Taken);
        assert_eq!(to_and_kind(&all(&mut card, START)[0]), (to, LINK_LOCAL, NEIGHBOUR_ADVERTISEMENT), "{options:?}");
    }
}

#[test]
fn neighbour_discovery_that_a_neighbour_cannot_have_sent_is_ignored() {
    let ask = |options: &[u8]| solicitation_of(ROUTER, options);
    let nobody = Ipv6Addr::UNSPECIFIED;
    let group = solicited_node(ROUTER);
    let coded = |code: u8| [&[NEIGHBOUR_SOLICITATION, code], &ask(&[])[2..]].concat();
    let solicit = |options: &[u8]| [&[ROUTER_SOLICITATION, 0, 0, 0, 0, 0, 0, 0], options].concat();
    let link = [1, 1, 2, 0, 0, 0, 0, 0xaa];
    for (what, source, destination, hop_limit, message, reason) in [
        ("passed a router", LINK_LOCAL, group, 254, ask(&[]), Reason::Invalid),
        ("code 1", LINK_LOCAL, group, 255, coded(1), Reason::Malformed),
        ("cut short", LINK_LOCAL, group, 255, ask(&[])[..23].to_vec(), Reason::Malformed),
        ("four bytes", LINK_LOCAL, group, 255, ask(&[])[..4].to_vec(), Reason::Malformed),
        ("an option of no length", LINK_LOCAL, group, 255, ask(&[1, 0, 0, 0, 0, 0, 0, 0]), Reason::Malformed),
        ("an option beyond the end", LINK_LOCAL, group, 255, ask(&[1, 2, 0, 0, 0, 0, 0, 0]), Reason::Malformed),
        ("half an option", LINK_LOCAL, group, 255, ask(&[1]), Reason::Malformed),
        ("a group as target", LINK_LOCAL, group, 255, solicitation_of(ALL_NODES, &[]), Reason::Malformed),
        ("a probe that tells an address", nobody, group, 255, ask(&link), Reason::Malformed),
        ("a probe to one station", nobody, ROUTER, 255, ask(&[]), Reason::Malformed),
        ("a probe to everybody", nobody, ALL_NODES, 255, ask(&[]), Reason::Malformed),
        ("a stranger", FAR, group, 255, ask(&[]), Reason::SourceNotOwn),
        ("another target", LINK_LOCAL, solicited_node(OWN), 255, solicitation_of(OWN, &[]), Reason::NotServed),
        ("from our own address", ROUTER, group, 255, ask(&[]), Reason::AddressTaken),
        ("claims our address", LINK_LOCAL, ALL_NODES, 255, advertisement_of(ROUTER, 0x20, &[]), Reason::AddressTaken),
        ("solicited by everybody", LINK_LOCAL, ALL_NODES, 255, advertisement_of(OWN, 0x60, &[]), Reason::Malformed),
        ("a far router solicitation", LINK_LOCAL, ALL_ROUTERS, 64, solicit(&[]), Reason::Invalid),
        ("a short router solicitation", LINK_LOCAL, ALL_ROUTERS, 255, solicit(&[])[..7].to_vec(), Reason::Malformed),
        ("nobody's link-layer address", nobody, ALL_ROUTERS, 255, solicit(&link), Reason::Malformed),
        ("a router advertisement", LINK_LOCAL, ALL_NODES, 255, [134; 16].to_vec(), Reason::Malformed),
        ("a redirect", LINK_LOCAL, ALL_NODES, 255, [&[137, 0], &[0; 38][..]].concat(), Reason::NotServed),
        ("discovery into the tunnel", OWN, FAR, 255, solicitation_of(FAR, &[]), Reason::NotServed),
    ] {
        let mut card = card(&settings());
        all(&mut card, START);
        let sent = frame(source, destination, ICMPV6, hop_limit, &message);
        assert_eq!(card.frame(&sent, START), Verdict::Drop(reason), "{what}");
        assert_eq!(all(&mut card, START + ms(500)), Vec::<Vec<u8>>::new(), "{what}");
    }
    let mut bent = bytes(LINUX_NEIGHBOUR_SOLICITATION);
    bent[57] ^= 1;
    assert_eq!(quiet().frame(&bent, START), Verdict::Drop(Reason::Invalid));
}

#[test]
fn the_first_packet_for_the_host_waits_for_its_answer_and_then_none_does() {
    let mut card = quiet();
    let (first, second) = (packet(FAR, OWN, 59, 64, b"first"), packet(FAR, OWN, 59, 64, b"second"));
    let mut out = Vec::new();
    assert_eq!(card.packet(&first, START, &mut out), Delivery::Waits);
    assert_eq!(card.packet(&second, START, &mut out), Delivery::Waits);
    let asked = all(&mut card, START);
    assert_eq!(asked.len(), 1);
    let group = solicited_node(OWN);
    assert_eq!(to_and_kind(&asked[0]), (ethernet::group(group), group, NEIGHBOUR_SOLICITATION));
    assert_eq!(asked[0][62..], [&OWN.octets()[..], &[1, 1], &CARD].concat());
    let answer = frame(OWN, ROUTER, ICMPV6, 255, &advertisement_of(OWN, 0x60, &[2, 1, 2, 0, 0, 0, 0, 0xaa]));
    assert_eq!(card.frame(&answer, START + ms(5)), Verdict::Taken);
    assert_eq!(card.condition().neighbour, Some(HOST));
    let released: Vec<_> = all(&mut card, START + ms(5)).iter().map(|frame| frame[14..].to_vec()).collect();
    assert_eq!(released, [first.clone(), second]);
    assert_eq!(card.packet(&first, START + ms(6), &mut out), Delivery::Frame);
    assert_eq!(out, [&HOST[..], &CARD, &[0x86, 0xdd], &first].concat());
}

#[test]
fn packets_keep_their_order_while_some_wait() {
    let mut card = quiet();
    let numbered: Vec<_> = (0..4u8).map(|number| packet(FAR, OWN, 59, 64, &[number])).collect();
    let mut out = Vec::new();
    card.packet(&numbered[0], START, &mut out);
    card.packet(&numbered[1], START, &mut out);
    all(&mut card, START);
    card.frame(&frame(OWN, FAR, 59, 64, b""), START);
    assert_eq!(card.packet(&numbered[2], START, &mut out), Delivery::Waits);
    let sent: Vec<_> = all(&mut card, START).iter().map(|frame| frame[14..].to_vec()).collect();
    assert_eq!(sent, numbered[..3]);
    assert_eq!(card.packet(&numbered[3], START, &mut out), Delivery::Frame);
}

#[test]
fn any_packet_of_the_host_shows_where_it_is_also_after_it_was_replaced() {
    let mut card = quiet();
    let mut sent = frame(OWN, FAR, 59, 64, b"");
    for station in [HOST, [2, 0, 0, 0, 0, 0xbb]] {
        sent[6..12].copy_from_slice(&station);
        card.frame(&sent, START);
        let mut out = Vec::new();
        assert_eq!(card.packet(&packet(FAR, OWN, 59, 64, b""), START, &mut out), Delivery::Frame);
        assert_eq!(out[..6], station);
    }
}

#[test]
fn a_host_that_does_not_answer_is_asked_three_times_and_again_for_the_next_packet() {
    let mut card = quiet();
    let mut out = Vec::new();
    for number in 0..20 {
        let expected = if number < 16 { Delivery::Waits } else { Delivery::Drop(Reason::Unreachable) };
        assert_eq!(card.packet(&packet(FAR, OWN, 59, 64, &[number]), START, &mut out), expected, "packet {number}");
    }
    let asked: Vec<_> = (0..100).map(|tenth| all(&mut card, START + ms(tenth * 100)).len()).collect();
    let seconds: Vec<_> = asked.iter().enumerate().filter(|(_, count)| **count > 0).collect();
    assert_eq!(seconds, [(0, &1), (10, &1), (20, &1)]);
    assert_eq!(card.due(), None);
    assert_eq!(card.packet(&packet(FAR, OWN, 59, 64, b"later"), START + ms(20_000), &mut out), Delivery::Waits);
    assert_eq!(all(&mut card, START + ms(20_000)).len(), 1);
    card.frame(&frame(OWN, FAR, 59, 64, b""), START + ms(20_001));
    let released = all(&mut card, START + ms(20_001));
    assert_eq!(released.len(), 1, "what had waited in vain is not sent later");
    assert!(released[0].ends_with(b"later"));
}

#[test]
fn a_host_that_is_silent_for_long_is_asked_whether_it_is_still_there() {
    let mut card = quiet();
    let mut out = Vec::new();
    let deliver = |card: &mut Responder, at: u64| {
        let mut out = Vec::new();
        card.packet(&packet(FAR, OWN, 59, 64, b""), START + ms(at), &mut out)
    };
    card.frame(&frame(OWN, FAR, 59, 64, b""), START);
    assert_eq!((deliver(&mut card, 29_999), card.due()), (Delivery::Frame, None));
    assert_eq!((deliver(&mut card, 30_000), card.due()), (Delivery::Frame, Some(START + ms(35_000))));
    let asked = all(&mut card, START + ms(35_000));
    assert_eq!(to_and_kind(&asked[0]), (HOST, OWN, NEIGHBOUR_SOLICITATION), "the host alone is asked");
    // It answers, without the option, as it may to a question for it alone.
    card.frame(&frame(OWN, ROUTER, ICMPV6, 255, &advertisement_of(OWN, 0x60, &[])), START + ms(35_001));
    assert_eq!((card.due(), deliver(&mut card, 36_000)), (None, Delivery::Frame));
    // The next time it does not.
    deliver(&mut card, 70_000);
    let asked: usize = (75_000..79_000).step_by(100).map(|at| all(&mut card, START + ms(at)).len()).sum();
    assert_eq!((asked, card.condition().neighbour), (3, None));
    assert_eq!(card.packet(&packet(FAR, OWN, 59, 64, b""), START + ms(80_000), &mut out), Delivery::Waits);
}

#[test]
fn packets_for_groups_need_no_answer_and_those_for_others_or_of_ipv4_are_not_sent() {
    let mut card = quiet();
    let mut out = Vec::new();
    assert_eq!(card.packet(&packet(FAR, "ff0e::1:2".parse().unwrap(), 59, 64, b""), START, &mut out), Delivery::Frame);
    assert_eq!((&out[..6], sound(&out)), (&[0x33, 0x33, 0, 1, 0, 2][..], true));
    let ipv4 = [&[0x45, 0, 0, 20][..], &[0; 16]].concat();
    for (sent, reason) in [
        (packet(FAR, FAR, 59, 64, b""), Reason::NotForUs),
        (ipv4, Reason::NotIpv6),
        (vec![], Reason::NotIpv6),
        (vec![0x60; 30], Reason::NotIpv6),
    ] {
        assert_eq!(card.packet(&sent, START, &mut out), Delivery::Drop(reason));
    }
    assert_eq!(card.due(), None);
}

#[test]
fn the_card_answers_pings_of_its_own_address() {
    for source in [LINK_LOCAL, OWN] {
        let mut card = quiet();
        let ping = frame(source, ROUTER, ICMPV6, 64, b"\x80\0\0\0\x12\x34\0\x01data");
        assert_eq!(card.frame(&ping, START), Verdict::Taken);
        let answers = all(&mut card, START);
        assert_eq!(to_and_kind(&answers[0]), (HOST, source, 129));
        assert!(answers[0].ends_with(b"\x12\x34\0\x01data"));
    }
    let stranger = frame(FAR, ROUTER, ICMPV6, 64, b"\x80\0\0\0\x12\x34\0\x01");
    assert_eq!(quiet().frame(&stranger, START), Verdict::Drop(Reason::SourceNotOwn));
    assert_eq!(quiet().frame(&frame(OWN, ROUTER, 6, 64, &[0; 20]), START), Verdict::Drop(Reason::LinkLocal));
}

#[test]
fn a_flood_of_questions_gets_a_hundred_answers_and_then_a_hundred_a_second() {
    let mut card = quiet();
    let asked = bytes(LINUX_NEIGHBOUR_SOLICITATION);
    let flood = |card: &mut Responder, at: u64| {
        let taken =
            |_: &usize| card.frame(&asked, START + ms(at)) == Verdict::Taken && card.poll(START + ms(at)).is_some();
        (0..1000usize).filter(taken).count()
    };
    assert_eq!([flood(&mut card, 0), flood(&mut card, 1000)], [100, 100]);
    let mut deaf = quiet();
    let taken = (0..1000).filter(|_| deaf.frame(&asked, START) == Verdict::Taken).count();
    assert_eq!(taken, 64, "as many wait for somebody who does not fetch them");
}
