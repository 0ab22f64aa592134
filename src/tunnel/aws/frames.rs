//! Frames: a big-endian u16 length, then one protobuf message of so many bytes. The messages of the WebSocket are one stream
//! of bytes; a frame may begin and end anywhere in them, in the middle of its length too.

use bytes::Bytes;
use prost::{DecodeError, Message as _};

use super::message::Message;

/// Bytes of the length before a message.
pub const HEADER: usize = 2;

/// A message as a frame; none for one that is longer than its length can say.
pub fn encode(message: &Message) -> Option<Bytes> {
    let length = message.encoded_len();
    let header = u16::try_from(length).ok()?;
    let mut frame = Vec::with_capacity(HEADER + length);
    frame.extend_from_slice(&header.to_be_bytes());
    message.encode_raw(&mut frame);
    Some(frame.into())
}

/// Puts the frames together again. It holds less than one.
///
/// A payload is copied once, into memory of its own that is hardly larger: what waits for a slow reader costs what it is long.
#[derive(Debug, Default)]
pub struct Frames {
    /// The beginning of a frame of which the rest has not come.
    begun: Vec<u8>,
}

impl Frames {
    /// The next message that is whole with `bytes`, which it takes off; none: all of `bytes` was taken and more is needed.
    pub fn next(&mut self, bytes: &mut &[u8]) -> Result<Option<Message>, DecodeError> {
        if self.begun.is_empty()
            && let Some((frame, rest)) = whole(bytes).and_then(|length| bytes.split_at_checked(length))
        {
            *bytes = rest;
            return Message::decode(frame.get(HEADER..).unwrap_or_default()).map(Some);
        }
        while !bytes.is_empty() {
            let length = whole(&self.begun).unwrap_or(HEADER);
            let missing = length.saturating_sub(self.begun.len());
            let (more, rest) = bytes.split_at_checked(missing).unwrap_or((bytes, &[]));
            self.begun.reserve_exact(missing);
            self.begun.extend_from_slice(more);
            *bytes = rest;
            if whole(&self.begun) == Some(self.begun.len()) {
                return joined(std::mem::take(&mut self.begun)).map(Some);
            }
        }
        Ok(None)
    }
}

/// How long the frame is that begins here, once its length is there.
fn whole(bytes: &[u8]) -> Option<usize> {
    bytes.first_chunk::<HEADER>().map(|header| HEADER + usize::from(u16::from_be_bytes(*header)))
}

/// The message of a frame that came in pieces. Its payload is a part of the frame, if it is most of it.
fn joined(frame: Vec<u8>) -> Result<Message, DecodeError> {
    let frame = Bytes::from(frame);
    let mut message = Message::decode(frame.slice(HEADER.min(frame.len())..))?;
    if message.payload.len() * 2 < frame.len() {
        message.payload = Bytes::copy_from_slice(&message.payload);
    }
    Ok(message)
}

#[cfg(test)]
#[path = "frames_tests.rs"]
mod tests;
