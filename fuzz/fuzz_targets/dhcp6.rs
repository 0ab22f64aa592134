//! Arbitrary DHCPv6 messages, one after the other, from a neighbour of a router card: no panic, and every answer fits into
//! the least packet, repeats the transaction and ends with its status; no address is given but the one that there is.
#![no_main]

use std::net::Ipv6Addr;
use std::time::Duration;

use enftun::card::{Duid, Responder, Settings, Verdict};
use enftun::tunnel::enf::packet::{ROUTER, checksum};
use libfuzzer_sys::fuzz_target;

const OWN: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x8f80, 1, 0, 0, 0, 0, 0x1234);
const CLIENT: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xaa);
const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
const CARD: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// A frame with this message, for the group of servers or for the card alone.
fn frame(message: &[u8], unicast: bool) -> Vec<u8> {
    let (link, to) = if unicast { (CARD, ROUTER) } else { ([0x33, 0x33, 0, 1, 0, 2], SERVERS) };
    let length = (8 + message.len()) as u16;
    let mut datagram = [&[0x02, 0x22, 0x02, 0x23][..], &length.to_be_bytes(), &[0, 0], message].concat();
    let sum = match checksum(CLIENT, to, 17, &datagram) {
        0 => 0xffff,
        sum => sum,
    };
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    let mut frame = [&link[..], &[2, 0, 0, 0, 0, 0xaa], &[0x86, 0xdd, 0x60, 0, 0, 0], &length.to_be_bytes()].concat();
    frame.extend_from_slice(&[17, 1]);
    frame.extend_from_slice(&CLIENT.octets());
    frame.extend_from_slice(&to.octets());
    frame.extend_from_slice(&datagram);
    frame
}

/// The options of a message or of an option.
fn options(mut rest: &[u8]) -> Vec<(u16, &[u8])> {
    let mut options = Vec::new();
    while !rest.is_empty() {
        let (header, after) = rest.split_at(4);
        let (data, after) = after.split_at(usize::from(u16::from_be_bytes([header[2], header[3]])));
        options.push((u16::from_be_bytes([header[0], header[1]]), data));
        rest = after;
    }
    options
}

fn judge(message: &[u8], answer: &[u8]) {
    assert!(answer.len() <= 14 + 1280);
    assert_eq!(answer[54..58], [0x02, 0x23, 0x02, 0x22]);
    assert_eq!(checksum(ROUTER, CLIENT, 17, &answer[54..]), 0);
    let answer = &answer[62..];
    assert!(matches!(answer[0], 2 | 7) && answer[1..4] == message[1..4]);
    let options = options(&answer[4..]);
    assert!(options.last().is_some_and(|(code, status)| *code == 13 && status.len() == 2));
    let mut given = 0;
    for (_, association) in options.iter().filter(|(code, _)| *code == 3) {
        for (_, address) in self::options(&association[12..]).iter().filter(|(code, _)| *code == 5) {
            if address[16..] != [0; 8] {
                assert_eq!(address[..16], OWN.octets());
                given += 1;
            }
        }
    }
    assert!(given <= 1);
}

// Each piece of the input: how much time passes, whom it is for and whether it names our server, the length in two bytes,
// and the message.
fuzz_target!(|data: &[u8]| {
    let duid = Duid::from_uuid([0xab; 16]);
    let mut now = Duration::from_secs(1);
    let mut card = Responder::new(
        &Settings {
            lladdr: CARD,
            announce_lladdr: false,
            own: OWN,
            routes: Vec::new(),
            mtu: 1280,
            router: false,
            dhcp6: true,
            dns: vec!["fd00:8f80::53".parse().expect("an address")],
            ra_period: Duration::from_secs(600),
            duid,
            seed: 7,
        },
        now,
    );
    assert!(card.poll(now).is_some(), "it says where it is");
    let ours = [&[0, 2, 0, 18][..], duid.as_bytes()].concat();
    let mut rest = data;
    while let [how, high, low, after @ ..] = rest {
        let (message, after) = after.split_at(after.len().min(usize::from(u16::from_be_bytes([*high & 3, *low]))));
        rest = after;
        now += Duration::from_secs(u64::from(how >> 2) * 60);
        let mut message = message.to_vec();
        if how & 1 == 1 {
            message.extend_from_slice(&ours);
        }
        if card.frame(&frame(&message, how & 2 == 2), now) == Verdict::Taken {
            let answer = card.poll(now).expect("an answer");
            judge(&message, &answer);
        }
        assert_eq!(card.poll(now), None);
    }
});
