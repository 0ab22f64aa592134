//! One TLS connection that carries frames, for both ends. It drives `rustls` over the socket without waiting: the caller
//! decides when to wait ([`Wire::ready`]), and what a packet means.
//!
//! No frame is ever split over two TLS records (peers exist that read a frame with one plain `recv`); many whole frames
//! share a record. What waits for the socket is bounded by [`BACKLOG`] as long as the caller asks [`Wire::room`] first,
//! and an idle connection holds no buffer of its own.

use super::frame;
use super::offload::Unit;
use crate::error::Class;
use rustls::{AlertDescription, Connection};
use std::cell::Cell;
use std::io::{self, BufRead, IoSlice, Write};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Above this many bytes that the socket did not take yet, [`Wire::room`] says no.
pub const BACKLOG: usize = 64 * 1024;
/// Most plaintext in one TLS record (RFC 8446 section 5.1).
const RECORD: usize = 16 * 1024;
/// What a record adds to its plaintext, at most: header, explicit nonce (TLS 1.2), tag.
const OVERHEAD: usize = 29;
/// Bytes read from the socket at once, and about the most that one [`Wire::receive`] takes.
const READ: usize = 64 * 1024;

thread_local! {
    /// Where ciphertext lands before `rustls` takes it: one system call for what it would read in pieces of 4 KiB.
    static STAGE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A TLS connection after its handshake, with the frames on it.
#[derive(Debug)]
pub struct Wire {
    io: TcpStream,
    tls: Connection,
    /// Whole frames that will be the next record.
    record: Vec<u8>,
    /// The beginning of a frame whose end has not arrived.
    partial: Vec<u8>,
    /// Sealed bytes that the socket has not taken, about.
    unsent: usize,
    /// What the handshake left in `tls` has been looked at.
    primed: bool,
}

/// What one [`Wire::receive`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Whole packets handed on.
    pub packets: usize,
    /// The socket is empty now; otherwise there may be more at once.
    pub blocked: bool,
}

/// What the socket is ready for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// [`Wire::receive`] will find something: bytes, the end, or an error.
    pub read: bool,
    /// [`Wire::flush`] will get something off.
    pub write: bool,
}

/// How a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The far end said goodbye (close_notify).
    #[error("the far end closed the connection")]
    Closed,
    /// The far end is gone without a goodbye.
    #[error("the far end ended the connection without a TLS goodbye (its process or a middlebox was cut off)")]
    Eof,
    /// The socket failed.
    #[error("the connection broke")]
    Reset(#[source] io::Error),
    /// The far end does not speak this protocol.
    #[error("the connection was given up")]
    TooLong(#[from] frame::TooLong),
    /// The far end sent a TLS alert, or something that is no TLS.
    #[error("the TLS connection failed")]
    Tls(#[source] rustls::Error),
}

impl WireError {
    /// Refused credentials are the user's to mend; everything else may go away.
    pub fn class(&self) -> Class {
        match self {
            Self::Tls(rustls::Error::AlertReceived(alert)) if is_about_credentials(*alert) => Class::Credentials,
            Self::Closed | Self::Eof | Self::Reset(_) | Self::TooLong(_) | Self::Tls(_) => Class::Transient,
        }
    }
}

/// The alert says that the far end does not accept who we are (RFC 8446 section 6.2).
pub fn is_about_credentials(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::NoCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError
    )
}

impl Wire {
    /// Takes over a connection whose handshake is complete; `tokio_rustls` streams come apart by `into_inner`.
    /// What the far end sent right behind its handshake is not lost: the first [`Wire::receive`] hands it on.
    pub fn new(io: TcpStream, mut tls: Connection) -> Self {
        // The bound is ours: a limit inside rustls would accept a part of a frame.
        tls.set_buffer_limit(None);
        Self { io, tls, record: Vec::new(), partial: Vec::new(), unsent: 0, primed: false }
    }

    /// What the handshake agreed on.
    pub fn tls(&self) -> &Connection {
        &self.tls
    }

    /// The socket beneath.
    pub fn socket(&self) -> &TcpStream {
        &self.io
    }

    /// More packets may be pushed: less than [`BACKLOG`] waits for the socket.
    pub fn room(&self) -> bool {
        self.unsent + self.record.len() < BACKLOG
    }

    /// Adds one frame to the record under way. `false`, and nothing added, when the packet is longer than the wire carries.
    pub fn push(&mut self, packet: &[u8]) -> bool {
        let length = frame::HEADER + packet.len();
        if packet.len() > frame::MAX_PACKET {
            return false;
        }
        if self.record.len() + length > RECORD {
            self.seal();
        }
        // A lone packet gets what it needs, the first of many a whole record.
        self.record.reserve_exact(if self.record.is_empty() { length } else { RECORD - self.record.len() });
        frame::put(packet, &mut self.record)
    }

    /// Adds a packet or super-packet. `false`, and nothing added, when it is longer than the wire carries.
    pub fn push_unit(&mut self, unit: Unit<'_>) -> bool {
        unit.is_plain() && self.push(unit.packet)
    }

    /// Writes as much as the socket takes now. What was pushed is sealed as soon as the socket keeps up: until then
    /// frames gather in one record.
    pub fn flush(&mut self) -> Result<(), WireError> {
        self.write_out()?;
        if !self.record.is_empty() && !self.tls.wants_write() {
            self.seal();
            self.write_out()?;
        }
        Ok(())
    }

    /// Something waits for the socket: [`Wire::flush`] once it is writable.
    pub fn pending(&self) -> bool {
        self.tls.wants_write() || !self.record.is_empty()
    }

    /// Reads what is there, at most about 64 KiB, and calls `each` for every whole packet. Packets that arrived before the
    /// end of the connection are handed on before the error is returned.
    pub fn receive(&mut self, mut each: impl FnMut(Unit<'_>)) -> Result<Received, WireError> {
        let mut received = Received::default();
        if !self.primed {
            self.primed = true;
            self.advance(&mut each, &mut received)?;
        }
        let mut stage = STAGE.take();
        stage.resize(READ, 0);
        let outcome = self.read_into(&mut stage, &mut each, &mut received);
        STAGE.set(stage);
        outcome.map(|()| received)
    }

    /// Waits until there is something to read or, when asked, until the socket takes more. A busy connection lets other
    /// tasks run here. Readiness to read stays until [`Wire::receive`] has emptied the socket.
    pub async fn ready(&self, write: bool) -> io::Result<Ready> {
        // Neither `readable` nor `try_read` counts against the task's budget.
        tokio::task::coop::consume_budget().await;
        if !self.primed {
            return Ok(Ready { read: true, write: false });
        }
        let interest = if write { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        let ready = self.io.ready(interest).await?;
        Ok(Ready { read: ready.is_readable(), write: ready.is_writable() })
    }

    /// Says goodbye, as far as the socket takes it now. Receiving goes on: the far end may still have something to say.
    pub fn close(&mut self) {
        if !self.record.is_empty() {
            self.seal();
        }
        self.tls.send_close_notify();
        let _ = self.write_out();
    }

    /// Makes one TLS record of what was pushed.
    fn seal(&mut self) {
        let record = std::mem::take(&mut self.record);
        // Fails only after a fatal error, which the next read or write tells in its own words.
        if self.tls.writer().write_all(&record).is_ok() {
            self.unsent += record.len() + OVERHEAD;
        }
    }

    fn write_out(&mut self) -> Result<(), WireError> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut Socket(&self.io)) {
                Ok(written) => self.unsent = self.unsent.saturating_sub(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.last_words(error)),
            }
        }
        self.unsent = 0;
        Ok(())
    }

    /// A write failed. Often the far end said why before it went: an alert that is still to be read beats "broken pipe".
    fn last_words(&mut self, error: io::Error) -> WireError {
        match self.receive(|_| {}) {
            Err(said @ (WireError::Tls(_) | WireError::Closed)) => said,
            _ => WireError::Reset(error),
        }
    }

    fn read_into(
        &mut self,
        stage: &mut [u8],
        each: &mut impl FnMut(Unit<'_>),
        received: &mut Received,
    ) -> Result<(), WireError> {
        let mut taken = 0;
        while taken < READ {
            match self.io.try_read(stage) {
                Ok(0) => return Err(WireError::Eof),
                Ok(length) => {
                    taken += length;
                    let mut bytes = stage.get(..length).unwrap_or_default();
                    while !bytes.is_empty() {
                        self.tls.read_tls(&mut bytes).map_err(WireError::Reset)?;
                        self.advance(each, received)?;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    received.blocked = true;
                    // rustls gives back the buffer of a large record only when it is asked to read again.
                    let _ = self.tls.read_tls(&mut Nothing);
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(WireError::Reset(error)),
            }
        }
        Ok(())
    }

    /// Decrypts what `tls` holds and takes the frames out of it.
    fn advance(&mut self, each: &mut impl FnMut(Unit<'_>), received: &mut Received) -> Result<(), WireError> {
        let outcome = self.tls.process_new_packets();
        let mut reader = self.tls.reader();
        while let Ok(chunk) = reader.fill_buf() {
            if chunk.is_empty() {
                break;
            }
            let length = chunk.len();
            received.packets += take_frames(&mut self.partial, chunk, each)?;
            reader.consume(length);
        }
        match outcome {
            Ok(state) if state.peer_has_closed() => Err(WireError::Closed),
            Ok(_) => Ok(()),
            Err(error) => {
                // rustls has an alert ready that tells the far end what was wrong.
                while matches!(self.tls.write_tls(&mut Socket(&self.io)), Ok(1..)) {}
                Err(WireError::Tls(error))
            }
        }
    }
}

/// Calls `each` for every frame that `partial` and `bytes` complete, and leaves an incomplete last one in `partial`.
fn take_frames(
    partial: &mut Vec<u8>,
    mut bytes: &[u8],
    each: &mut impl FnMut(Unit<'_>),
) -> Result<usize, frame::TooLong> {
    let mut packets = 0;
    while !partial.is_empty() && !bytes.is_empty() {
        let wanted = match partial.first_chunk::<{ frame::HEADER }>() {
            None => frame::HEADER - partial.len(),
            Some(header) => frame::HEADER + usize::from(u16::from_be_bytes(*header)) - partial.len(),
        };
        let (now, later) = bytes.split_at(wanted.min(bytes.len()));
        partial.extend_from_slice(now);
        bytes = later;
        if let Some((packet, _)) = frame::take(partial)? {
            each(Unit::plain(packet));
            packets += 1;
            *partial = Vec::new();
        }
    }
    while let Some((packet, rest)) = frame::take(bytes)? {
        each(Unit::plain(packet));
        packets += 1;
        bytes = rest;
    }
    partial.extend_from_slice(bytes);
    Ok(packets)
}

/// The socket as `rustls` wants to write to it: never waiting.
struct Socket<'a>(&'a TcpStream);

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A source that has nothing now.
struct Nothing;

impl io::Read for Nothing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
