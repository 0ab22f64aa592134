//! The messages of the tunnel, written from the wire format's description alone: nothing of the program under test is used, so
//! that a mistake is not made twice.

use bytes::{BufMut, Bytes, BytesMut};
use std::fmt;

pub const DATA: u32 = 1;
pub const STREAM_START: u32 = 2;
pub const STREAM_RESET: u32 = 3;
pub const SESSION_RESET: u32 = 4;
pub const SERVICE_IDS: u32 = 5;
pub const CONNECTION_START: u32 = 6;
pub const CONNECTION_RESET: u32 = 7;

/// The most that a message may carry.
pub const MAX_PAYLOAD: usize = 64_512;

/// One message; a zero and an empty string are absent on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub kind: u32,
    pub stream: i32,
    pub ignorable: bool,
    pub payload: Bytes,
    pub service: String,
    pub services: Vec<String>,
    pub connection: u32,
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names =
            ["UNKNOWN", "DATA", "STREAM_START", "STREAM_RESET", "SESSION_RESET", "SERVICE_IDS", "CONNECTION_START"];
        match self.kind as usize {
            7 => f.write_str("CONNECTION_RESET")?,
            kind => match names.get(kind) {
                Some(name) => f.write_str(name)?,
                None => write!(f, "TYPE {kind}")?,
            },
        }
        match self.kind {
            SERVICE_IDS => write!(f, " {:?}", self.services),
            SESSION_RESET => Ok(()),
            _ => write!(f, " {}:{}/{}", self.service, self.stream, self.connection),
        }
    }
}

impl Message {
    /// Of a connection: any of the messages that name one.
    pub fn of(kind: u32, service: &str, stream: i32, connection: u32) -> Self {
        Self { kind, stream, service: service.to_owned(), connection, ..Self::default() }
    }

    pub fn data(service: &str, stream: i32, connection: u32, payload: impl Into<Bytes>) -> Self {
        Self { payload: payload.into(), ..Self::of(DATA, service, stream, connection) }
    }

    pub fn services(names: &[String]) -> Self {
        Self { kind: SERVICE_IDS, services: names.to_vec(), ..Self::default() }
    }

    /// With its length before it.
    pub fn frame(&self) -> Bytes {
        let body = self.encode();
        let mut frame = BytesMut::with_capacity(body.len() + 2);
        frame.put_u16(u16::try_from(body.len()).unwrap());
        frame.put(body);
        frame.freeze()
    }

    fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.payload.len() + self.service.len() + 40);
        if self.kind != 0 {
            number(&mut out, 1, self.kind.into());
        }
        if self.stream != 0 {
            // As protobuf has it: a negative number takes ten bytes.
            number(&mut out, 2, i64::from(self.stream) as u64);
        }
        if self.ignorable {
            number(&mut out, 3, 1);
        }
        if !self.payload.is_empty() {
            text(&mut out, 4, &self.payload);
        }
        if !self.service.is_empty() {
            text(&mut out, 5, self.service.as_bytes());
        }
        for name in &self.services {
            text(&mut out, 6, name.as_bytes());
        }
        if self.connection != 0 {
            number(&mut out, 7, self.connection.into());
        }
        out.freeze()
    }

    /// Reads one, without its length. What no peer may write is an error: a field that nobody knows, one that comes twice, one
    /// that is written though it has its default value.
    pub fn parse(mut body: Bytes) -> Result<Self, String> {
        let (mut message, mut seen) = (Self::default(), 0_u32);
        while !body.is_empty() {
            let tag = varint(&mut body)?;
            let (field, wire) = (tag >> 3, tag & 7);
            let numeric = matches!(field, 1 | 2 | 3 | 7);
            if !(1..=7).contains(&field) || wire != if numeric { 0 } else { 2 } {
                return Err(format!("an unknown field: number {field}, wire type {wire}"));
            }
            if field != 6 && seen & (1 << field) != 0 {
                return Err(format!("field {field} comes twice"));
            }
            seen |= 1 << field;
            let (value, bytes) = if numeric {
                (varint(&mut body)?, Bytes::new())
            } else {
                let length = varint(&mut body)? as usize;
                if length > body.len() {
                    return Err(format!("field {field} is longer than the message"));
                }
                (length as u64, body.split_to(length))
            };
            if value == 0 && field != 6 {
                return Err(format!("field {field} is written though it has its default value"));
            }
            let too_large = |_| format!("field {field} is out of range: {value}");
            let string =
                |bytes: &Bytes| String::from_utf8(bytes.to_vec()).map_err(|_| format!("field {field} is no text"));
            match field {
                1 => message.kind = u32::try_from(value).map_err(too_large)?,
                2 => message.stream = i32::try_from(value as i64).map_err(too_large)?,
                3 => message.ignorable = true,
                4 => message.payload = bytes,
                5 => message.service = string(&bytes)?,
                6 => message.services.push(string(&bytes)?),
                _ => message.connection = u32::try_from(value).map_err(too_large)?,
            }
        }
        Ok(message)
    }
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn number(out: &mut BytesMut, field: u64, value: u64) {
    put_varint(out, field << 3);
    put_varint(out, value);
}

fn text(out: &mut BytesMut, field: u64, value: &[u8]) {
    put_varint(out, field << 3 | 2);
    put_varint(out, value.len() as u64);
    out.put_slice(value);
}

fn varint(body: &mut Bytes) -> Result<u64, String> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let Some(&byte) = body.first() else { return Err("it ends within a number".into()) };
        let _ = body.split_to(1);
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err("a number of more than ten bytes".into())
}

/// Takes a whole frame off the front of a stream, if there is one: its bytes with their length, and what they say.
pub fn take_frame(stream: &mut BytesMut) -> Option<(Bytes, Result<Message, String>)> {
    let length = 2 + usize::from(u16::from_be_bytes([*stream.first()?, *stream.get(1)?]));
    if stream.len() < length {
        return None;
    }
    let frame = stream.split_to(length).freeze();
    let message = Message::parse(frame.slice(2..));
    Some((frame, message))
}
