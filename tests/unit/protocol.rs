//! The frames that docs/protocol.md shows are the ones that this program writes, takes, and makes packets of.

use enftun::sys::vnet::Vnet;
use enftun::tunnel::enf::frame;
use enftun::tunnel::enf::frame2::{self, Frame, GoingAway, Hello, Why};
use enftun::tunnel::enf::heartbeat;
use enftun::tunnel::enf::offload::{Limits, Unit, check, split};
use std::collections::BTreeMap;

/// The bytes of every block that is marked with `hex` and a name. `61*3` is three of that byte.
fn vectors() -> BTreeMap<String, Vec<u8>> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/protocol.md");
    let text = std::fs::read_to_string(page).unwrap();
    let blocks = text.split("```hex ").skip(1).map(|block| {
        let (block, _) = block.split_once("```").unwrap();
        let (name, hex) = block.split_once('\n').unwrap();
        (name.to_owned(), hex.split_whitespace().flat_map(bytes).collect())
    });
    blocks.collect()
}

fn bytes(word: &str) -> Vec<u8> {
    let (digits, times) = word.split_once('*').map_or((word, 1), |(digits, times)| (digits, times.parse().unwrap()));
    let pairs = (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap());
    pairs.collect::<Vec<_>>().repeat(times)
}

fn made(put: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes);
    bytes
}

#[test]
fn the_frames_in_the_specification_are_what_this_program_writes() {
    let heartbeat = heartbeat::request("fd00:8f80:1::1234".parse().unwrap());
    let away = GoingAway { why: Why::ShuttingDown, after: 3000 };
    let vectors = vectors();
    for (name, frame) in [
        ("v1-heartbeat", made(|to| assert!(frame::put(&heartbeat, to)))),
        ("v2-hello", made(|to| frame2::put_hello(Hello { version: 2, udp: true, mtu: 1280 }, to))),
        ("v2-ping", made(|to| frame2::put_ping(1_500_000, to))),
        ("v2-pong", made(|to| frame2::put_pong(1_500_000, 777_000_000, to))),
        ("v2-going-away", made(|to| frame2::put_going_away(away, to))),
        (
            "v2-packet",
            made(|to| {
                frame2::begin_packet(Vnet::default(), heartbeat.len(), to);
                to.extend_from_slice(&heartbeat);
            }),
        ),
    ] {
        assert_eq!(vectors[name], frame, "{name}");
    }
}

#[test]
fn the_packets_in_the_specification_are_sound_and_stand_for_what_it_says() {
    let vectors = vectors();
    let limits = Limits { mtu: 1280, udp: true };
    for (name, stands_for) in [
        ("v2-packet", None),
        ("v2-checksum", None),
        ("v2-udp", Some("v2-udp-stands-for")),
        ("v2-tcp", Some("v2-tcp-stands-for")),
    ] {
        let Ok(Some((Frame::Packet(unit), []))) = frame2::take(&vectors[name]) else { panic!("{name} is no packet") };
        assert_eq!(check(unit, &limits), Ok(()), "{name}");
        let mut packets = Vec::new();
        assert!(split(unit, &mut Vec::new(), |packet| packets.push(packet.to_vec())), "{name}");
        match stands_for {
            Some(expected) => assert_eq!(packets.concat(), vectors[expected], "{name}"),
            None => assert_eq!(packets.len(), 1, "{name}"),
        }
        // One of another length is another.
        let shorter = Unit { packet: &unit.packet[..unit.packet.len() - 1], ..unit };
        assert!(unit.is_plain() || check(shorter, &limits).is_err(), "{name}");
    }
    assert_eq!(vectors.len(), 11, "every vector is looked at: {:?}", vectors.keys());
}
