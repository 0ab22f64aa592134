//! Framing of `enftun/2` (docs/protocol.md): a big-endian u32 length, a kind, and what that kind carries. Pure.
//!
//! ```text
//! 0              4      5                                      4 + length
//! | length: u32  | kind | packet: Vnet header (10), IP packet  |
//! |              |      | hello, ping, pong, going-away        |
//! ```

use super::offload::Unit;
use crate::sys::vnet::Vnet;

/// Bytes of the length and the kind.
pub const HEADER: usize = 5;
/// Bytes before the packet in its frame.
pub const BEFORE_PACKET: usize = HEADER + Vnet::SIZE;
/// The longest packet: what an IP header can tell.
pub const MAX_PACKET: usize = 65_535;
/// Most that a length may say: a kind, a header, a packet.
const MAX: usize = 1 + Vnet::SIZE + MAX_PACKET;
/// The protocol's version, as a hello says it.
pub const VERSION: u8 = 2;

const PACKET: u8 = 0;
const HELLO: u8 = 1;
const PING: u8 = 2;
const PONG: u8 = 3;
const GOING_AWAY: u8 = 4;

/// In a hello: the sender takes UDP super-packets.
const TAKES_UDP: u8 = 1;

/// What the far end sent is no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// Longer than any frame, or without a kind.
    #[error("the far end sent a frame of {0} bytes; a frame has 1 to {MAX}")]
    Length(u32),
    /// A frame of this kind is longer than that.
    #[error("the far end sent a frame of kind {kind} with {length} bytes, which are too few")]
    Short {
        /// The kind.
        kind: u8,
        /// Bytes behind the kind.
        length: usize,
    },
}

/// What each end says of itself before anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The highest version of this protocol that it speaks.
    pub version: u8,
    /// It takes UDP super-packets.
    pub udp: bool,
    /// Its MTU, bytes: no packet that it is sent, or is made of what it is sent, shall be longer.
    pub mtu: u16,
}

/// Why an end goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Not said.
    Unspecified,
    /// It is being shut down.
    ShuttingDown,
    /// A newer session has the address.
    Superseded,
    /// The far end may not use it any more.
    Revoked,
}

/// An end is about to close the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoingAway {
    /// Why.
    pub why: Why,
    /// Milliseconds in which it does not want to be called again.
    pub after: u32,
}

/// One frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A packet or super-packet, whose header nobody has looked at yet.
    Packet(Unit<'a>),
    /// The far end says what it is.
    Hello(Hello),
    /// It wants a sign of life: the same stamp in a pong.
    Ping(u64),
    /// The sign of life, with the stamp of the ping. What the answerer's own clock says follows, and is not looked at.
    Pong(u64),
    /// It goes away.
    GoingAway(GoingAway),
    /// Something that a later version may have: it is skipped.
    Unknown(u8),
}

/// Appends what stands before a packet of this length. Whoever asks knows that it is no longer than [`MAX_PACKET`].
pub fn begin_packet(vnet: Vnet, length: usize, to: &mut Vec<u8>) {
    begin(PACKET, Vnet::SIZE + length, to);
    to.extend_from_slice(&vnet.to_bytes());
}

/// Appends a hello.
pub fn put_hello(hello: Hello, to: &mut Vec<u8>) {
    begin(HELLO, 4, to);
    to.extend_from_slice(&[hello.version, if hello.udp { TAKES_UDP } else { 0 }]);
    to.extend_from_slice(&hello.mtu.to_be_bytes());
}

/// Appends a ping.
pub fn put_ping(stamp: u64, to: &mut Vec<u8>) {
    begin(PING, 8, to);
    to.extend_from_slice(&stamp.to_be_bytes());
}

/// Appends the answer to a ping; `clock` is the own clock in microseconds.
pub fn put_pong(stamp: u64, clock: u64, to: &mut Vec<u8>) {
    begin(PONG, 16, to);
    to.extend_from_slice(&stamp.to_be_bytes());
    to.extend_from_slice(&clock.to_be_bytes());
}

/// Appends a going-away.
pub fn put_going_away(away: GoingAway, to: &mut Vec<u8>) {
    begin(GOING_AWAY, 5, to);
    to.push(away.why as u8);
    to.extend_from_slice(&away.after.to_be_bytes());
}

fn begin(kind: u8, body: usize, to: &mut Vec<u8>) {
    let length = u32::try_from(1 + body).unwrap_or(u32::MAX);
    to.extend_from_slice(&length.to_be_bytes());
    to.push(kind);
}

/// Bytes of the whole frame that begins here, once its length is there.
pub fn length(bytes: &[u8]) -> Result<Option<usize>, Bad> {
    let Some(length) = bytes.first_chunk::<4>().map(|length| u32::from_be_bytes(*length)) else { return Ok(None) };
    match usize::try_from(length) {
        Ok(body @ 1..=MAX) => Ok(Some(4 + body)),
        _ => Err(Bad::Length(length)),
    }
}

/// The first frame in `bytes` and what follows it; `None` while the frame is incomplete.
pub fn take(bytes: &[u8]) -> Result<Option<(Frame<'_>, &[u8])>, Bad> {
    let Some(whole) = length(bytes)? else { return Ok(None) };
    let Some((frame, rest)) = bytes.split_at_checked(whole) else { return Ok(None) };
    let Some(([_, _, _, _, kind], body)) = frame.split_first_chunk::<HEADER>() else { return Ok(None) };
    let frame = read(*kind, body).ok_or(Bad::Short { kind: *kind, length: body.len() })?;
    Ok(Some((frame, rest)))
}

/// Frames may be longer than what is known of them, except for packets.
fn read(kind: u8, body: &[u8]) -> Option<Frame<'_>> {
    let stamp = |body: &[u8]| body.first_chunk().map(|stamp| u64::from_be_bytes(*stamp));
    Some(match kind {
        PACKET => {
            let (header, packet) = body.split_first_chunk()?;
            Frame::Packet(Unit { vnet: Vnet::from_bytes(*header), packet })
        }
        HELLO => {
            let [version, flags, high, low] = *body.first_chunk()?;
            Frame::Hello(Hello { version, udp: flags & TAKES_UDP != 0, mtu: u16::from_be_bytes([high, low]) })
        }
        PING => Frame::Ping(stamp(body)?),
        PONG => Frame::Pong(stamp(body)?),
        GOING_AWAY => {
            let [why, after @ ..] = *body.first_chunk::<5>()?;
            let why = match why {
                1 => Why::ShuttingDown,
                2 => Why::Superseded,
                3 => Why::Revoked,
                _ => Why::Unspecified,
            };
            Frame::GoingAway(GoingAway { why, after: u32::from_be_bytes(after) })
        }
        other => Frame::Unknown(other),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(vnet: Vnet, bytes: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        begin_packet(vnet, bytes.len(), &mut frame);
        frame.extend_from_slice(bytes);
        frame
    }

    #[test]
    fn every_frame_has_the_bytes_of_the_specification() {
        let mut bytes = Vec::new();
        put_hello(Hello { version: 2, udp: true, mtu: 1280 }, &mut bytes);
        assert_eq!(bytes, [0, 0, 0, 5, 1, 2, 1, 5, 0]);
        assert_eq!(take(&bytes), Ok(Some((Frame::Hello(Hello { version: 2, udp: true, mtu: 1280 }), &[][..]))));
        bytes.clear();
        put_ping(0x0102, &mut bytes);
        assert_eq!(bytes, [0, 0, 0, 9, 2, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(take(&bytes), Ok(Some((Frame::Ping(0x0102), &[][..]))));
        bytes.clear();
        put_pong(0x0102, 7, &mut bytes);
        assert_eq!(bytes, [0, 0, 0, 17, 3, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(take(&bytes), Ok(Some((Frame::Pong(0x0102), &[][..]))));
        bytes.clear();
        put_going_away(GoingAway { why: Why::Revoked, after: 1000 }, &mut bytes);
        assert_eq!(bytes, [0, 0, 0, 6, 4, 3, 0, 0, 3, 0xe8]);
        let away = Frame::GoingAway(GoingAway { why: Why::Revoked, after: 1000 });
        assert_eq!(take(&bytes), Ok(Some((away, &[][..]))));
        let vnet = Vnet { flags: 1, gso_type: 4, hdr_len: 60, gso_size: 1220, csum_start: 40, csum_offset: 16 };
        let bytes = packet(vnet, b"\x60..");
        assert_eq!(bytes, *b"\0\0\0\x0e\0\x01\x04\x3c\0\xc4\x04\x28\0\x10\0\x60..");
        assert_eq!(take(&bytes), Ok(Some((Frame::Packet(Unit { vnet, packet: b"\x60.." }), &[][..]))));
    }

    #[test]
    fn the_longest_packet_passes_and_a_byte_more_ends_the_session() {
        let longest = packet(Vnet::default(), &[0; MAX_PACKET]);
        assert!(
            matches!(take(&longest), Ok(Some((Frame::Packet(Unit { packet, .. }), []))) if packet.len() == MAX_PACKET)
        );
        assert_eq!(take(&[0, 1, 0, 11]), Err(Bad::Length(65_547)));
        assert_eq!(take(&[0, 0, 0, 0]), Err(Bad::Length(0)));
        assert_eq!(take(&[0, 0, 0, 3, 0, 1, 2]), Err(Bad::Short { kind: 0, length: 2 }));
        assert_eq!(take(&[0, 0, 0, 2, 2, 0]), Err(Bad::Short { kind: 2, length: 1 }));
    }

    #[test]
    fn what_is_not_known_is_skipped_and_what_is_longer_than_known_is_read() {
        assert_eq!(take(&[0, 0, 0, 3, 200, 1, 2, 9]), Ok(Some((Frame::Unknown(200), &[9][..]))));
        let hello = Hello { version: 3, udp: false, mtu: 1400 };
        assert_eq!(take(&[0, 0, 0, 7, 1, 3, 0x80, 5, 0x78, 9, 9]), Ok(Some((Frame::Hello(hello), &[][..]))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        #[test]
        fn no_bytes_make_it_panic_or_take_more_than_there_is(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(Some((_, rest))) = take(&bytes) {
                prop_assert_eq!(length(&bytes), Ok(Some(bytes.len() - rest.len())));
            }
        }

        #[test]
        fn frames_come_out_as_they_went_in(packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..8)) {
            let mut bytes: Vec<u8> = packets.iter().flat_map(|bytes| packet(Vnet::default(), bytes)).collect();
            put_ping(1, &mut bytes);
            let mut rest = &bytes[..];
            for expected in &packets {
                let Ok(Some((Frame::Packet(unit), after))) = take(rest) else { panic!("no packet") };
                prop_assert_eq!(unit.packet, &expected[..]);
                rest = after;
            }
            prop_assert_eq!(take(rest), Ok(Some((Frame::Ping(1), &[][..]))));
        }
    }
}
