//! The wire in arbitrary bytes and arbitrary chunks: the same packets come out however it is cut, nothing is read twice or
//! lost, and whatever a packet holds, reading it and answering it does not panic.
#![no_main]

use enftun::tunnel::enf::frame::{self, HEADER, TooLong};
use enftun::tunnel::enf::packet::{Packet, ROUTER, echo_reply};
use libfuzzer_sys::fuzz_target;

/// Every packet of `wire`, and how it ends: the bytes of an incomplete frame, or the error.
fn whole(wire: &[u8]) -> (Vec<&[u8]>, Result<&[u8], TooLong>) {
    let mut packets = Vec::new();
    let mut rest = wire;
    loop {
        match frame::take(rest) {
            Ok(Some((packet, after))) => {
                assert_eq!(HEADER + packet.len() + after.len(), rest.len());
                packets.push(packet);
                rest = after;
            }
            Ok(None) => return (packets, Ok(rest)),
            Err(error) => return (packets, Err(error)),
        }
    }
}

/// The same, from a buffer that grows by chunks of the lengths in `cuts`, over and over.
fn in_chunks(wire: &[u8], cuts: &[u8]) -> (Vec<Vec<u8>>, Result<Vec<u8>, TooLong>) {
    let mut packets = Vec::new();
    let mut buffer: Vec<u8> = Vec::new();
    let mut rest = wire;
    let mut lengths = cuts.iter().cycle();
    while !rest.is_empty() {
        let length = lengths.next().map_or(1, |cut| usize::from(*cut) + 1).min(rest.len());
        let (chunk, after) = rest.split_at(length);
        buffer.extend_from_slice(chunk);
        rest = after;
        loop {
            match frame::take(&buffer) {
                Ok(Some((packet, after))) => {
                    packets.push(packet.to_vec());
                    buffer = after.to_vec();
                }
                Ok(None) => break,
                Err(error) => return (packets, Err(error)),
            }
        }
    }
    (packets, Ok(buffer))
}

fuzz_target!(|data: &[u8]| {
    let Some((count, data)) = data.split_first() else { return };
    let (cuts, wire) = data.split_at(usize::from(count % 8).min(data.len()));
    let (packets, end) = whole(wire);
    let (same, same_end) = in_chunks(wire, cuts);
    assert_eq!(packets, same);
    assert_eq!(end.map(<[u8]>::to_vec), same_end);
    for packet in packets {
        let mut framed = Vec::new();
        assert!(frame::put(packet, &mut framed));
        assert_eq!(frame::take(&framed), Ok(Some((packet, &[][..]))));
        let _ = Packet::parse(packet);
        if let Some(reply) = echo_reply(packet, ROUTER) {
            assert!(matches!(Packet::parse(&reply), Some(Packet::V6 { source: ROUTER, .. })));
        }
    }
});
