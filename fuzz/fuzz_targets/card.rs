//! Arbitrary frames from the host behind a router card, with their lengths and checksums as they are and put right, and
//! arbitrary packets for it, at arbitrary times: no panic, what enters the tunnel is the host's own, and what the card says
//! by itself is whole and summed.
#![no_main]

use std::net::Ipv6Addr;
use std::time::Duration;

use enftun::card::{Delivery, Duid, Responder, Settings, Verdict};
use enftun::tunnel::enf::packet::{Packet, ROUTER, checksum, is_link_scope_multicast};
use libfuzzer_sys::fuzz_target;

const OWN: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x8f80, 1, 0, 0, 0, 0, 0x1234);
const LINK: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn settings() -> Settings {
    Settings {
        lladdr: LINK,
        announce_lladdr: true,
        own: OWN,
        routes: vec!["::/0".parse().expect("a prefix"), "2001:db8::/32".parse().expect("a prefix")],
        mtu: 1280,
        router: true,
        dhcp6: true,
        dns: vec!["fd00:8f80::53".parse().expect("an address")],
        ra_period: Duration::from_secs(60),
        duid: Duid::from_uuid([0xab; 16]),
        seed: 7,
    }
}

/// The packet in a frame that the card has sent.
fn sent(frame: &[u8]) -> &[u8] {
    assert_eq!((&frame[6..12], &frame[12..14]), (&LINK[..], &[0x86, 0xdd][..]));
    &frame[14..]
}

fn judge(card: &mut Responder, frame: &[u8], now: Duration) {
    if let Verdict::Packet(packet) = card.frame(frame, now) {
        let Some(Packet::V6 { source, destination, .. }) = Packet::parse(packet) else { panic!("no packet") };
        assert!(frame[14..].starts_with(packet) && packet.len() <= 1280);
        assert!(source == OWN && !destination.is_unicast_link_local() && !is_link_scope_multicast(destination));
    }
}

/// The same frame, whole and summed: the fuzzer does not find a checksum by chance.
fn mended(frame: &[u8]) -> Option<Vec<u8>> {
    let mut frame = Some(frame).filter(|frame| frame.len() > 54 + 8)?.to_vec();
    let (to_group, from_link) = (frame[0] & 1 == 1, frame[6] & 1 == 1);
    frame[..6].copy_from_slice(if to_group { &[0x33, 0x33, 0, 0, 0, 2] } else { &LINK });
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 0xaa]);
    frame[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
    let length = (frame.len() - 54) as u16;
    frame[18..20].copy_from_slice(&length.to_be_bytes());
    let source = if from_link { "fe80::aa".parse().ok()? } else { OWN };
    frame[22..38].copy_from_slice(&source.octets());
    let groups = [ROUTER, "ff02::2".parse().ok()?, "ff02::1:2".parse().ok()?, "ff02::1:ff00:1".parse().ok()?];
    let destination = *groups.get(usize::from(frame[38] & 3))?;
    frame[38..54].copy_from_slice(&destination.octets());
    let at = if frame[20] == 17 { 54 + 6 } else { 54 + 2 };
    if frame[20] == 17 {
        frame[58..60].copy_from_slice(&length.to_be_bytes());
    }
    frame[at..at + 2].fill(0);
    let sum = checksum(source, destination, frame[20], &frame[54..]).to_be_bytes();
    frame[at..at + 2].copy_from_slice(&sum);
    Some(frame)
}

// Each piece of the input: how many seconds pass, how many bytes of two follow, and these bytes.
fuzz_target!(|data: &[u8]| {
    let mut now = Duration::ZERO;
    let mut card = Responder::new(&settings(), now);
    let mut rest = data;
    while let [seconds, high, low, after @ ..] = rest {
        let (frame, after) = after.split_at(after.len().min(usize::from(u16::from_be_bytes([*high & 7, *low]))));
        rest = after;
        now += Duration::from_secs(u64::from(*seconds));
        judge(&mut card, frame, now);
        if let Some(frame) = mended(frame) {
            judge(&mut card, &frame, now);
        }
        let mut out = Vec::new();
        if card.packet(frame, now, &mut out) == Delivery::Frame {
            assert_eq!(sent(&out), frame);
        }
        let mut count = 0;
        while let Some(answer) = card.poll(now) {
            count += 1;
            assert!(count <= 100, "answers without end");
            let Some(Packet::V6 { source, destination, next_header, payload }) = Packet::parse(sent(&answer)) else {
                panic!("no packet")
            };
            assert!(source != ROUTER || destination == OWN || checksum(source, destination, next_header, payload) == 0);
        }
        assert!(card.due().is_some_and(|due| due > now));
    }
    let farewell = card.farewell().expect("it has advertised");
    assert!(Packet::parse(sent(&farewell)).is_some());
});
