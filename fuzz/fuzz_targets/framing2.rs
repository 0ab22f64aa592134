//! `enftun/2` in arbitrary bytes: frames come out as they were put in, nothing is read twice or lost, and of whatever a packet's
//! header says either it is refused, or the packet comes apart into whole packets that are no longer than the MTU.
#![no_main]

use enftun::tunnel::enf::frame2::{self, Frame};
use enftun::tunnel::enf::offload::{self, Limits, check};
use enftun::tunnel::enf::packet::Packet;
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits { mtu: 1280, udp: true };

/// The same frame, as this program writes it; none for one that it would not write.
fn again(frame: &Frame<'_>) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    match *frame {
        Frame::Packet(unit) => {
            frame2::begin_packet(unit.vnet, unit.packet.len(), &mut bytes);
            bytes.extend_from_slice(unit.packet);
        }
        Frame::Hello(hello) => frame2::put_hello(hello, &mut bytes),
        Frame::Ping(stamp) => frame2::put_ping(stamp, &mut bytes),
        Frame::Pong(stamp) => frame2::put_pong(stamp, 0, &mut bytes),
        Frame::GoingAway(away) => frame2::put_going_away(away, &mut bytes),
        Frame::Unknown(_) => return None,
    }
    Some(bytes)
}

fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    while let Ok(Some((frame, after))) = frame2::take(rest) {
        let length = rest.len() - after.len();
        assert_eq!(frame2::length(rest), Ok(Some(length)));
        // Not before it is whole, and then whatever follows.
        assert_eq!(frame2::take(&rest[..length - 1]), Ok(None));
        if let Some(bytes) = again(&frame) {
            assert_eq!(frame2::take(&bytes), Ok(Some((frame, &[][..]))));
        }
        if let Frame::Packet(unit) = frame
            && check(unit, &LIMITS).is_ok()
        {
            let mut packets = 0;
            let made = offload::split(unit, &mut Vec::new(), |packet| {
                packets += 1;
                assert!(packet.len() <= usize::from(LIMITS.mtu));
                assert!(unit.is_plain() || Packet::parse(packet).is_some());
            });
            assert!(unit.packet.is_empty() || made && packets == unit.packets());
        }
        rest = after;
    }
});
