//! WebSocket framing of a server, by hand: every opcode, every way to cut, and a strict look at what a client sends.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// The longest message, either way.
pub const MAX_MESSAGE: usize = 131_076;

/// One frame as it came, unmasked.
#[derive(Debug)]
pub struct Frame {
    pub last: bool,
    pub opcode: u8,
    pub payload: BytesMut,
}

/// Reads the frames of a client. [`Reader::next`] may be dropped and asked again.
pub struct Reader {
    buffer: BytesMut,
    /// A client masks, a server does not.
    masked: bool,
}

impl Reader {
    /// What is sent by clients. `already` came before.
    pub fn of_clients(already: BytesMut) -> Self {
        Self { buffer: already, masked: true }
    }

    /// What is sent by servers.
    pub fn of_servers(already: BytesMut) -> Self {
        Self { buffer: already, masked: false }
    }

    /// The next frame; `Ok(None)`: the connection is at its end. An error is what no client may send, or the connection's.
    pub async fn next(&mut self, from: &mut (impl AsyncRead + Unpin)) -> Result<Option<Frame>, String> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(Some(frame));
            }
            self.buffer.reserve(256 * 1024);
            match from.read_buf(&mut self.buffer).await {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if self.masked => return Err(format!("lost: {error}")),
                Err(_) => return Ok(None),
            }
        }
    }

    fn take(&mut self) -> Result<Option<Frame>, String> {
        let have = &self.buffer[..];
        let [first, second, ..] = *have else { return Ok(None) };
        let (last, opcode) = (first & 0x80 != 0, first & 0x0f);
        let after = |length: usize| have.get(2..2 + length);
        let (size, length) = match second & 0x7f {
            126 => match after(2) {
                Some(bytes) => (2, u64::from(u16::from_be_bytes(bytes.try_into().unwrap()))),
                None => return Ok(None),
            },
            127 => match after(8) {
                Some(bytes) => (8, u64::from_be_bytes(bytes.try_into().unwrap())),
                None => return Ok(None),
            },
            length => (0, u64::from(length)),
        };
        let complaint = if first & 0x70 != 0 {
            "a reserved bit is set: no extension was agreed"
        } else if (second & 0x80 != 0) != self.masked {
            "a client masks its frames, and a server does not"
        } else if !matches!(opcode, CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG) {
            "an opcode that there is not"
        } else if opcode >= CLOSE && (!last || length > 125) {
            "a control frame is whole, and at most 125 bytes long"
        } else if size == 2 && length < 126 || size == 8 && length <= 0xffff {
            "a length is written as short as can be"
        } else if length > MAX_MESSAGE as u64 {
            "a message has at most 131076 bytes"
        } else {
            ""
        };
        if !complaint.is_empty() {
            return Err(format!("WebSocket: {complaint}: {first:02x} {second:02x}, {length} bytes"));
        }
        let head = 2 + size + if self.masked { 4 } else { 0 };
        if have.len() < head + length as usize {
            return Ok(None);
        }
        let key: Option<[u8; 4]> = self.masked.then(|| have[head - 4..head].try_into().unwrap());
        self.buffer.advance(head);
        let mut payload = self.buffer.split_to(length as usize);
        if let Some(key) = key {
            mask(&mut payload, key);
        }
        Ok(Some(Frame { last, opcode, payload }))
    }
}

/// Masks and unmasks.
pub fn mask(bytes: &mut [u8], key: [u8; 4]) {
    let wide = u64::from_ne_bytes([key, key].concat().try_into().unwrap());
    let mut words = bytes.chunks_exact_mut(8);
    for word in &mut words {
        let masked = u64::from_ne_bytes((&*word).try_into().unwrap()) ^ wide;
        word.copy_from_slice(&masked.to_ne_bytes());
    }
    for (byte, key) in words.into_remainder().iter_mut().zip(key.into_iter().cycle()) {
        *byte ^= key;
    }
}

/// What stands before a payload that is not masked.
pub fn put_head(out: &mut BytesMut, last: bool, opcode: u8, length: usize) {
    out.put_u8(opcode | if last { 0x80 } else { 0 });
    match length {
        0..126 => out.put_u8(length as u8),
        126..0x1_0000 => {
            out.put_u8(126);
            out.put_u16(length as u16);
        }
        _ => {
            out.put_u8(127);
            out.put_u64(length as u64);
        }
    }
}

/// A whole frame of a server.
pub fn frame(last: bool, opcode: u8, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(payload.len() + 10);
    put_head(&mut out, last, opcode, payload.len());
    out.put_slice(payload);
    out.freeze()
}

/// A whole frame of a client.
pub fn masked_frame(last: bool, opcode: u8, payload: &[u8]) -> Bytes {
    let key = [0x37, 0xfa, 0x21, 0x3d];
    let mut out = BytesMut::with_capacity(payload.len() + 14);
    put_head(&mut out, last, opcode, payload.len());
    out[1] |= 0x80;
    out.put_slice(&key);
    let begin = out.len();
    out.put_slice(payload);
    mask(&mut out[begin..], key);
    out.freeze()
}

/// A close frame's payload.
pub fn goodbye(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_be_bytes(), reason.as_bytes()].concat()
}
