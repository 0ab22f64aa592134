//! Framing of the ENF wire, version 1 (spec section 1.2): a big-endian u16 length, then that many bytes of one IP packet.

/// Largest packet that is accepted from the far end; more ends the session, as it does in the C client.
pub const MAX_PACKET: usize = 1496;
/// Bytes before each packet.
pub const HEADER: usize = 2;

/// The far end sent a frame longer than [`MAX_PACKET`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the far end sent a frame of {0} bytes; the most that this protocol carries is {MAX_PACKET}")]
pub struct TooLong(pub usize);

/// Appends what stands before a packet of this length, at most [`MAX_PACKET`].
pub fn begin(length: usize, to: &mut Vec<u8>) {
    to.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
}

/// Appends one frame. `false`, and nothing appended, when the packet is longer than the wire carries.
pub fn put(packet: &[u8], to: &mut Vec<u8>) -> bool {
    let Some(length) = u16::try_from(packet.len()).ok().filter(|_| packet.len() <= MAX_PACKET) else { return false };
    to.extend_from_slice(&length.to_be_bytes());
    to.extend_from_slice(packet);
    true
}

/// Bytes of the whole frame that begins here, once its length is there.
pub fn length(bytes: &[u8]) -> Result<Option<usize>, TooLong> {
    let Some(header) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes(*header));
    if length > MAX_PACKET { Err(TooLong(length)) } else { Ok(Some(HEADER + length)) }
}

/// A packet and the bytes behind its frame; `None` while the frame is incomplete.
pub type Taken<'a> = Option<(&'a [u8], &'a [u8])>;

/// The first packet in `bytes` and what follows its frame; `None` while the frame is incomplete.
pub fn take(bytes: &[u8]) -> Result<Taken<'_>, TooLong> {
    let Some((frame, rest)) = length(bytes)?.and_then(|whole| bytes.split_at_checked(whole)) else { return Ok(None) };
    Ok(frame.get(HEADER..).map(|packet| (packet, rest)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn frames_of_1496_pass_and_1497_end_the_session() {
        let mut wire = Vec::new();
        assert!(put(&[7; MAX_PACKET], &mut wire));
        assert!(!put(&[7; MAX_PACKET + 1], &mut wire));
        assert_eq!(take(&wire).unwrap().unwrap().0.len(), MAX_PACKET);
        assert_eq!(take(&[0x05, 0xd9]), Err(TooLong(1497)));
    }

    #[test]
    fn an_empty_frame_is_legal() {
        assert_eq!(take(&[0, 0, 9]).unwrap(), Some((&[][..], &[9][..])));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        #[test]
        fn what_was_put_is_taken_again_in_order(packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..=MAX_PACKET), 0..8)) {
            let mut wire = Vec::new();
            for packet in &packets { prop_assert!(put(packet, &mut wire)); }
            let mut rest = &wire[..];
            let mut got = Vec::new();
            while let Some((packet, after)) = take(rest).unwrap() { got.push(packet.to_vec()); rest = after; }
            prop_assert!(rest.is_empty());
            prop_assert_eq!(got, packets);
        }

        #[test]
        fn no_bytes_make_it_panic_or_take_more_than_there_is(bytes in prop::collection::vec(any::<u8>(), 0..4000)) {
            if let Ok(Some((packet, rest))) = take(&bytes) {
                prop_assert_eq!(HEADER + packet.len() + rest.len(), bytes.len());
            }
        }
    }
}
