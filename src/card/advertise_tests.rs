use crate::card::discovery::{ROUTER_ADVERTISEMENT, ROUTER_SOLICITATION};
use crate::card::testing::*;
use crate::card::wire::ALL_NODES;
use crate::card::{Reason, Settings, Verdict};
use crate::tunnel::enf::packet::ICMPV6;
use ipnet::Ipv6Net;
use std::net::Ipv6Addr;
use std::time::Duration;

#[test]
fn an_advertisement_byte_by_byte() {
    let routes =
        ["::/0", "fd00:8f80:1:0:5::/64", "2001:db8:1:2:3:4::/80", "fc00::/7"].map(|text| text.parse().unwrap());
    let mut card = card(&Settings { routes: routes.to_vec(), ..settings() });
    let expected = bytes(
        "333300000001 020000000001 86dd 6000000000603aff
        fe800000000000000000000000000001 ff020000000000000000000000000001
        86009dc0 00 88 0708 00000000 00000000
        0101020000000001 0501000000000500
        18024008 00000708 fd008f8000010000
        18010008 00000708
        18035008 00000708 20010db8000100020003000000000000
        18020708 00000708 fc00000000000000",
    );
    assert_eq!(all(&mut card, START), [expected]);
}

#[test]
fn without_a_default_route_the_card_is_no_default_router_and_has_no_preference_as_one() {
    let routes = vec!["2001:db8::/32".parse().unwrap()];
    let quiet = Settings { routes, dhcp6: false, announce_lladdr: false, mtu: 1400, ..settings() };
    let sent = card(&quiet).poll(START).unwrap();
    assert_eq!(sent[58..62], [0, 0, 0, 0], "no hop limit, not managed, no preference, no lifetime");
    assert_eq!(sent[70..78], [5, 1, 0, 0, 0, 0, 0x05, 0x78], "no source link-layer address comes before the MTU");
}

#[test]
fn lifetimes_are_three_periods_within_what_hosts_may_believe() {
    for (period, seconds) in [(600, 1800), (3000, 9000), (10_000, 9000), (4, 12), (1, 12), (0, 12)] {
        let ra_period = Duration::from_secs(period);
        let routes = vec!["::/0".parse().unwrap()];
        let sent = card(&Settings { routes, ra_period, ..settings() }).poll(START).unwrap();
        let [high, low] = u16::to_be_bytes(seconds);
        assert_eq!((&sent[60..62], &sent[90..94]), (&[high, low][..], &[0, 0, high, low][..]), "period {period} s");
    }
}

#[test]
fn routes_that_do_not_fit_are_left_out_and_told() {
    let route = |number: u16| Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0xdb8, number, 0, 0, 0, 0, 0), 48);
    let routes: Vec<_> = (0..100).map(route).collect();
    let mut card = card(&Settings { routes, ..settings() });
    let sent = card.poll(START).unwrap();
    assert!(sound(&sent) && (14 + 1265..=14 + 1280).contains(&sent.len()), "{} bytes", sent.len());
    let left_out = card.condition().left_out;
    let fitting = (sent.len() - 14 - 40 - 16 - 16) / 16 - 1;
    assert_eq!(left_out, (fitting as u16..100).map(route).collect::<Vec<_>>());
}

#[test]
fn three_advertisements_come_soon_and_then_one_in_each_period_at_random_times() {
    for seed in 0..20 {
        let mut card = card(&Settings { seed, ..settings() });
        let mut times = Vec::new();
        for _ in 0..200 {
            let due = card.due().unwrap();
            assert_eq!(all(&mut card, due).len(), 1);
            times.push(due);
        }
        let gaps: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(times[0], START);
        assert!(gaps[..2].iter().all(|gap| *gap == ms(16_000)), "{gaps:?}");
        assert!(gaps[2..].iter().all(|gap| (ms(200_000)..=ms(600_000)).contains(gap)), "{gaps:?}");
        assert!(gaps[2..].windows(2).any(|pair| pair[0] != pair[1]));
    }
}

#[test]
fn a_solicitation_is_answered_within_half_a_second_to_the_one_who_asked() {
    for (asked, seed) in [LINUX_ROUTER_SOLICITATION, RDISC6].into_iter().zip(0..) {
        let mut card = card(&Settings { seed, ..settings() });
        all(&mut card, START);
        let now = START + ms(1000);
        assert_eq!(card.frame(&bytes(asked), now), Verdict::Taken);
        let due = card.due().unwrap();
        assert!((now..=now + ms(500)).contains(&due), "{due:?}");
        assert_eq!(card.frame(&bytes(asked), now), Verdict::Taken, "twice is once");
        let answers = all(&mut card, due);
        assert_eq!(answers.len(), 1);
        assert_eq!(to_and_kind(&answers[0]), (HOST, LINK_LOCAL, ROUTER_ADVERTISEMENT));
    }
}

#[test]
fn one_without_an_address_hears_it_with_everybody_but_everybody_only_every_three_seconds() {
    let mut card = card(&settings());
    all(&mut card, START);
    let message = [ROUTER_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    let asked = frame(Ipv6Addr::UNSPECIFIED, ALL_ROUTERS, ICMPV6, 255, &message);
    let mut times = Vec::new();
    // Somebody asks ten times a second, for a minute.
    for at in (0..60_000).step_by(100) {
        assert_eq!(card.frame(&asked, START + ms(at)), Verdict::Taken);
        for sent in all(&mut card, START + ms(at)) {
            assert_eq!(to_and_kind(&sent).1, ALL_NODES);
            times.push(at);
        }
    }
    assert!((15..=20).contains(&times.len()), "{times:?}");
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= 3000), "{times:?}");
}

#[test]
fn however_many_ask_the_link_is_not_flooded_and_nobody_is_forgotten() {
    let mut card = card(&settings());
    all(&mut card, START);
    let message = [ROUTER_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    let mut sent = Vec::new();
    for at in 0..10_000 {
        let asker = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 7, (at % 50) as u16);
        card.frame(&frame(asker, ALL_ROUTERS, ICMPV6, 255, &message), START + ms(at));
        sent.extend(all(&mut card, START + ms(at)));
    }
    let to_all = sent.iter().filter(|frame| to_and_kind(frame).1 == ALL_NODES).count();
    assert!((2..=4).contains(&to_all) && sent.len() <= 25, "{to_all} of {} to everybody", sent.len());
}

#[test]
fn a_card_that_slept_sends_one_advertisement_and_not_those_it_missed() {
    let mut card = card(&settings());
    all(&mut card, START);
    assert_eq!(all(&mut card, START + Duration::from_secs(1_000_000)).len(), 1);
}

#[test]
fn the_farewell_takes_back_every_route_and_nothing_follows() {
    let routes: Vec<Ipv6Net> = ["::/0", "2001:db8::/32"].map(|text| text.parse().unwrap()).to_vec();
    let mut card = card(&Settings { routes, ..settings() });
    let hello = card.poll(START).unwrap();
    let farewell = card.farewell().unwrap();
    assert!(sound(&farewell));
    assert_eq!(farewell[58..62], [0, 0x80, 0, 0], "no default router, and no preference as one");
    let mut expected = hello[62..].to_vec();
    for lifetime in [28, 44, 52] {
        assert_eq!(expected[lifetime..lifetime + 4], [0, 0, 7, 8]);
        expected[lifetime..lifetime + 4].fill(0);
    }
    assert_eq!(farewell[62..], expected);
    assert_eq!((card.farewell(), card.due()), (None, None));
    assert_eq!(card.frame(&bytes(RDISC6), START), Verdict::Drop(Reason::NotServed));
}

#[test]
fn what_is_switched_off_is_not_answered() {
    let mut card = card(&Settings { router: false, dhcp6: false, ..settings() });
    for asked in [RDISC6, LINUX_ROUTER_SOLICITATION, DHCLIENT] {
        assert_eq!(card.frame(&bytes(asked), START), Verdict::Drop(Reason::NotServed));
    }
    assert_eq!((card.due(), card.farewell()), (None, None));
}
