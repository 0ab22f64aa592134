use super::*;
use crate::card::testing::*;
use crate::card::wire::{ALL_NODES, solicited_node};
use proptest::prelude::*;

#[test]
fn packets_from_the_own_address_enter_the_tunnel_byte_for_byte() {
    for destination in [FAR, "2001:db8::1".parse().unwrap(), "ff05::7".parse().unwrap(), "ff0e::1:2".parse().unwrap()] {
        let sent = frame(OWN, destination, UDP, 64, b"\x12\x34\x56\x78\0\x0d\0\0hello");
        assert_eq!(quiet().frame(&sent, START), Verdict::Packet(&sent[14..]), "to {destination}");
        let padded = [&sent[..], &[0; 9]].concat();
        assert_eq!(quiet().frame(&padded, START), Verdict::Packet(&sent[14..]), "padded, to {destination}");
    }
}

#[test]
fn what_is_foreign_or_of_the_link_stays_on_the_link() {
    let stranger = "fd00:8f80:1::1235".parse().unwrap();
    let nothing = Ipv6Addr::UNSPECIFIED;
    for (source, destination, reason) in [
        (stranger, FAR, Reason::SourceNotOwn),
        (stranger, "ff0e::1".parse().unwrap(), Reason::SourceNotOwn),
        ("::1".parse().unwrap(), FAR, Reason::SourceNotOwn),
        (LINK_LOCAL, FAR, Reason::LinkLocal),
        (LINK_LOCAL, "ff0e::1".parse().unwrap(), Reason::LinkLocal),
        (nothing, FAR, Reason::LinkLocal),
        (OWN, "fe80::7".parse().unwrap(), Reason::LinkLocal),
        (OWN, "ff02::fb".parse().unwrap(), Reason::LinkLocal),
        (OWN, "ff01::1".parse().unwrap(), Reason::LinkLocal),
        (OWN, "::1".parse().unwrap(), Reason::Malformed),
        (OWN, nothing, Reason::Malformed),
        (ROUTER, FAR, Reason::AddressTaken),
    ] {
        let mut card = quiet();
        assert_eq!(
            card.frame(&frame(source, destination, 59, 64, b""), START),
            Verdict::Drop(reason),
            "{source} -> {destination}"
        );
        assert_eq!(all(&mut card, START), Vec::<Vec<u8>>::new());
    }
    assert_eq!(quiet().frame(&bytes(LINUX_REPORT), START), Verdict::Drop(Reason::LinkLocal));
    assert_eq!(quiet().frame(&bytes(LINUX_PROBE), START), Verdict::Drop(Reason::NotServed));
}

#[test]
fn frames_for_other_stations_and_our_own_come_back_are_ignored() {
    let sent = frame(OWN, FAR, 59, 64, b"");
    for (to, from, expected) in [
        (CARD, HOST, Verdict::Packet(&sent[14..])),
        ([0x33, 0x33, 0, 0, 0, 1], HOST, Verdict::Packet(&sent[14..])),
        ([2, 0, 0, 0, 0, 2], HOST, Verdict::Drop(Reason::NotForUs)),
        ([0xff; 6], HOST, Verdict::Drop(Reason::NotForUs)),
        ([1, 0, 0x5e, 0, 0, 1], HOST, Verdict::Drop(Reason::NotForUs)),
        (CARD, CARD, Verdict::Drop(Reason::NotForUs)),
    ] {
        let mut addressed = sent.clone();
        addressed[..6].copy_from_slice(&to);
        addressed[6..12].copy_from_slice(&from);
        assert_eq!(quiet().frame(&addressed, START), expected, "{to:02x?} from {from:02x?}");
    }
}

#[test]
fn a_packet_that_the_tunnel_cannot_carry_is_told_its_mtu() {
    let mut card = quiet();
    let whole = frame(OWN, FAR, 59, 64, &[7; 1240]);
    assert!(matches!(card.frame(&whole, START), Verdict::Packet(_)));
    assert_eq!(all(&mut card, START).len(), 0);
    let large = frame(OWN, FAR, 59, 64, &[7; 1241]);
    assert_eq!(card.frame(&large, START), Verdict::Drop(Reason::TooBig));
    let answers = all(&mut card, START);
    assert_eq!(to_and_kind(&answers[0]), (HOST, OWN, 2));
    assert_eq!((answers.len(), answers[0].len()), (1, 14 + 1280));
    assert_eq!((&answers[0][58..62], &answers[0][62..]), (&[0, 0, 5, 0][..], &large[14..14 + 1232]));
}

#[test]
fn dhclient_is_offered_the_address() {
    let mut card = quiet();
    assert_eq!(card.frame(&bytes(DHCLIENT), START), Verdict::Taken);
    let answers = all(&mut card, START);
    assert_eq!((answers.len(), &answers[0][..6]), (1, &HOST[..]));
    assert_eq!(answers[0][38..54], LINK_LOCAL.octets());
    assert_eq!(answers[0][54..58], [0x02, 0x23, 0x02, 0x22]);
    assert_eq!(answers[0][62..66], [2, 0xc0, 0xcf, 0x7a], "an advertisement of its transaction");
    assert!(answers[0].windows(16).any(|window| window == OWN.octets()));
}

#[test]
fn a_datagram_that_is_not_whole_or_comes_from_afar_is_ignored() {
    let whole = bytes(DHCLIENT)[54..].to_vec();
    let all_servers = dhcp6::ALL_SERVERS;
    let changed = |at: usize, byte: u8| {
        let mut changed = whole.clone();
        changed[at] = byte;
        changed
    };
    for (what, source, destination, datagram, reason) in [
        ("a stranger", FAR, all_servers, whole.clone(), Reason::SourceNotOwn),
        ("nobody", Ipv6Addr::UNSPECIFIED, all_servers, whole.clone(), Reason::SourceNotOwn),
        ("another port", LINK_LOCAL, all_servers, changed(3, 0x24), Reason::NotServed),
        ("a wrong length", LINK_LOCAL, all_servers, changed(5, 0x41), Reason::Malformed),
        ("no message", LINK_LOCAL, all_servers, vec![2, 0x22, 2, 0x23, 0, 8, 0, 0], Reason::Malformed),
        ("half a header", LINK_LOCAL, all_servers, vec![2, 0x22, 2, 0x23], Reason::Malformed),
        ("to us alone", LINK_LOCAL, ROUTER, whole.clone(), Reason::Malformed),
        ("to servers of the site", LINK_LOCAL, "ff05::1:3".parse().unwrap(), whole.clone(), Reason::LinkLocal),
    ] {
        let mut card = quiet();
        assert_eq!(card.frame(&frame(source, destination, UDP, 1, &datagram), START), Verdict::Drop(reason), "{what}");
        assert_eq!(all(&mut card, START).len(), 0);
    }
    for (high, low) in [(0xee, 0x15), (0, 0)] {
        let mut bent = bytes(DHCLIENT);
        bent[60..62].copy_from_slice(&[high, low]);
        assert_eq!(quiet().frame(&bent, START), Verdict::Drop(Reason::Invalid));
    }
}

fn protocol() -> impl Strategy<Value = u8> {
    prop::sample::select(vec![ICMPV6, UDP, 0, 6, 59])
}

fn address() -> impl Strategy<Value = Ipv6Addr> {
    let known = [OWN, LINK_LOCAL, ROUTER, FAR, ALL_NODES, ALL_ROUTERS, dhcp6::ALL_SERVERS, solicited_node(ROUTER)];
    prop_oneof![prop::sample::select(known.to_vec()), any::<u128>().prop_map(Ipv6Addr::from)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_frame_makes_it_panic_and_what_it_sends_is_sound(
        frames in prop::collection::vec((address(), address(), protocol(), prop::collection::vec(any::<u8>(), 0..100), 128..140u8, any::<bool>()), 1..20),
        raw in prop::collection::vec(any::<u8>(), 0..120),
    ) {
        let mut card = card(&settings());
        let mut now = START;
        let _ = card.frame(&raw, now);
        for (source, destination, protocol, mut payload, kind, discovery) in frames {
            if let [first, second, ..] = &mut payload[..] && discovery { (*first, *second) = (kind, 0) }
            let sent = frame(source, destination, protocol, 255, &payload);
            let mut out = Vec::new();
            if let Verdict::Packet(packet) = card.frame(&sent, now) {
                prop_assert_eq!(packet, &sent[14..]);
                prop_assert!(source == OWN && !destination.is_unicast_link_local());
                prop_assert!(!packet::is_link_scope_multicast(destination));
            }
            let _ = card.packet(&packet(FAR, destination, protocol, 64, &payload), now, &mut out);
            let answers = all(&mut card, now);
            prop_assert!(answers.len() <= 20, "{} answers", answers.len());
            now += ms(700);
        }
    }
}
