//! One TLS connection that carries frames, for both ends. It drives `rustls` over the socket without waiting: the caller
//! decides when to wait ([`Wire::ready`]), and what a packet means.
//!
//! Packets come and go as [`Unit`]s, whichever protocol the handshake agreed on:
//!
//! * the ENF wire, version 1: a super-packet goes out as the packets that it stands for, and what arrives is made into
//!   super-packets again. No frame is ever split over two TLS records (peers exist that read a frame with one plain `recv`);
//!   many whole frames share a record.
//! * `enftun/2`: super-packets cross as they are, once their headers are found to be sound, and a few frames say other things.
//!
//! What waits for the socket is bounded by [`BACKLOG`] and one unit as long as the caller asks [`Wire::room`] first, and an
//! idle connection holds no buffer of its own.

use super::frame;
use super::frame2::{self, Frame, GoingAway, Hello};
use super::offload::{self, Gro, Limits, Splitter, Unit, check};
use crate::error::Class;
pub use crate::state::WireVersion as Version;
use crate::sys::tcp::sending_rate;
use crate::sys::tun::Offloads;
use crate::sys::vnet::Vnet;
use crate::transport::tls;
pub use crate::transport::tls::ENFTUN_2 as ALPN;
use crate::tunnel::DropReason;
use rustls::{AlertDescription, Connection};
use std::cell::Cell;
use std::io::{self, BufRead, IoSlice, Write};
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Above this many bytes that the socket did not take yet, [`Wire::room`] says no.
pub const BACKLOG: usize = 64 * 1024;
/// Most plaintext in one TLS record (RFC 8446 section 5.1).
const RECORD: usize = 16 * 1024;
/// What a record adds to its plaintext, at most: header, explicit nonce (TLS 1.2), tag.
const OVERHEAD: usize = 29;
/// Bytes read from the socket at once, and about the most that one [`Wire::receive`] takes.
const READ: usize = 128 * 1024;
/// How long what the kernel keeps unsent may take to leave, and the least and the most bytes that this is made into: as little as
/// possible, for nothing can go before it, and as much as keeps the connection busy until this program runs again.
const NOT_SENT_FOR: Duration = Duration::from_millis(4);
const NOT_SENT: RangeInclusive<u64> = 16 * 1024..=512 * 1024;
/// The rate of a connection is asked for no more often.
const RATE_PERIOD: Duration = Duration::from_millis(50);
/// A packet of this length is sealed from where it is, not from a copy behind others.
const LARGE: usize = 4096;

thread_local! {
    /// Where ciphertext lands before `rustls` takes it: one system call for what it would read in pieces of 4 KiB.
    static STAGE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    /// Where a packet is made of a super-packet.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    /// An empty buffer for whoever on this thread needs one for frames, so that none is made for each record.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    /// What makes super-packets of packets. It holds nothing between two calls of [`Wire::receive`].
    static GRO: Cell<Option<Box<Gro>>> = const { Cell::new(None) };
}

/// What the clock in a pong counts from.
static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A TLS connection after its handshake, with the frames on it.
#[derive(Debug)]
pub struct Wire {
    io: TcpStream,
    tls: Connection,
    version: Version,
    /// Whole frames that will be the next record.
    record: Vec<u8>,
    /// The beginning of a frame whose end has not arrived.
    partial: Vec<u8>,
    /// Sealed bytes that the socket has not taken, about.
    unsent: usize,
    /// So much may wait here: [`BACKLOG`], or less where that would take long.
    backlog: usize,
    /// The socket took less than it was offered.
    blocked: bool,
    /// When the connection's rate was last asked for.
    rated: Option<Instant>,
    /// What the handshake left in `tls` has been looked at.
    primed: bool,
    /// What this end has said of itself, and what is taken where its units go.
    own: Hello,
    sink: Offloads,
    /// What the far end has said of itself.
    peer: Option<Hello>,
    away: Option<GoingAway>,
}

/// What one [`Wire::receive`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Whole packets handed on.
    pub packets: usize,
    /// The socket is empty now; otherwise there may be more at once.
    pub blocked: bool,
    /// The far end wants a sign of life: [`Wire::pong`] with this. Of several the last.
    pub ping: Option<u64>,
    /// A sign of life came, with the stamp of its ping. Of several the last.
    pub pong: Option<u64>,
    /// Packets whose headers were not sound, and that were thrown away.
    pub unsound: usize,
    /// Packets that are longer than this end had said it takes, and that were thrown away.
    pub too_big: usize,
}

impl Received {
    /// What was thrown away, and why.
    pub fn thrown_away(&self) -> impl Iterator<Item = (DropReason, usize)> {
        [(DropReason::OffloadInvalid, self.unsound), (DropReason::TooBig, self.too_big)]
            .into_iter()
            .filter(|(_, packets)| *packets > 0)
    }
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
    /// The same, of `enftun/2`.
    #[error("the connection was given up")]
    Bad(#[from] frame2::Bad),
    /// The far end sent a TLS alert, or something that is no TLS.
    #[error("the TLS connection failed")]
    Tls(#[source] rustls::Error),
}

impl WireError {
    /// Refused credentials are the user's to mend; everything else may go away.
    pub fn class(&self) -> Class {
        match self {
            Self::Tls(rustls::Error::AlertReceived(alert)) if is_about_credentials(*alert) => Class::Credentials,
            Self::Closed | Self::Eof | Self::Reset(_) | Self::TooLong(_) | Self::Bad(_) | Self::Tls(_) => {
                Class::Transient
            }
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
        let version = tls::wire(&tls);
        Self {
            io,
            tls,
            version,
            record: Vec::new(),
            partial: Vec::new(),
            unsent: 0,
            backlog: BACKLOG,
            blocked: false,
            rated: None,
            primed: false,
            own: Hello { version: frame2::VERSION, udp: false, mtu: u16::MAX },
            sink: Offloads::default(),
            peer: None,
            away: None,
        }
    }

    /// Says what this end is, before anything else is said. On the ENF wire nothing is, but what is coalesced follows it too.
    pub fn greet(&mut self, offloads: Offloads, mtu: u16) {
        self.own = Hello { version: frame2::VERSION, udp: offloads.udp, mtu };
        self.sink = offloads;
        self.say(|record, own| frame2::put_hello(own, record));
    }

    /// What the handshake agreed on.
    pub fn version(&self) -> Version {
        self.version
    }

    /// What the far end has said of itself, once it has.
    pub fn peer(&self) -> Option<Hello> {
        self.peer
    }

    /// The far end has said that it goes away.
    pub fn going_away(&self) -> Option<GoingAway> {
        self.away
    }

    /// Wants a sign of life. The answer has this stamp. Nothing happens on the ENF wire, where packets do that.
    pub fn ping(&mut self, stamp: u64) {
        self.say(|record, _| frame2::put_ping(stamp, record));
    }

    /// Gives a sign of life; not while too much waits for the socket.
    pub fn pong(&mut self, stamp: u64) {
        if self.room() {
            let clock = u64::try_from(STARTED.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.say(|record, _| frame2::put_pong(stamp, clock, record));
        }
    }

    /// Says that this end goes away.
    pub fn go_away(&mut self, away: GoingAway) {
        self.say(|record, _| frame2::put_going_away(away, record));
    }

    fn say(&mut self, put: impl FnOnce(&mut Vec<u8>, Hello)) {
        if self.version == Version::V2 {
            self.reserve();
            put(&mut self.record, self.own);
        }
    }

    /// What the handshake agreed on.
    pub fn tls(&self) -> &Connection {
        &self.tls
    }

    /// The socket beneath.
    pub fn socket(&self) -> &TcpStream {
        &self.io
    }

    /// More packets may be pushed: the socket has taken all that it was offered, and little is new.
    pub fn room(&self) -> bool {
        let waiting = self.unsent + self.record.len();
        if self.blocked { waiting == 0 } else { waiting < self.backlog }
    }

    /// Adds one packet with nothing left to do. `false`, and nothing added, when it is longer than the wire carries.
    pub fn push(&mut self, packet: &[u8]) -> bool {
        self.push_unit(Unit::plain(packet))
    }

    /// Adds a packet or super-packet. `false`, when something of it is longer than the wire carries and was left out.
    pub fn push_unit(&mut self, unit: Unit<'_>) -> bool {
        match self.version {
            Version::V1 => self.push_packets(unit),
            Version::V2 => self.push_frame(unit),
        }
    }

    /// As the ENF wire has it: a frame for each packet.
    fn push_packets(&mut self, unit: Unit<'_>) -> bool {
        if unit.packet.is_empty() {
            return self.push_packet(0, |record| frame::put(&[], record));
        }
        let Some(mut packets) = Splitter::new(unit) else { return false };
        while let Some(length) = packets.next_len() {
            let whole = |record: &mut Vec<u8>| {
                frame::begin(length, record);
                packets.append(record) == length
            };
            if length > frame::MAX_PACKET || !self.push_packet(length, whole) {
                return false;
            }
        }
        true
    }

    /// Puts a frame with a packet of this length into a record that has room for all of it.
    fn push_packet(&mut self, length: usize, put: impl FnOnce(&mut Vec<u8>) -> bool) -> bool {
        if self.record.len() + frame::HEADER + length > RECORD {
            self.seal();
        }
        self.reserve();
        put(&mut self.record)
    }

    /// As `enftun/2` has it: one frame, or as many as the far end wants to have it in.
    fn push_frame(&mut self, unit: Unit<'_>) -> bool {
        let takes = self.peer.unwrap_or(Hello { version: frame2::VERSION, udp: false, mtu: u16::MAX });
        match check(unit, &Limits { mtu: takes.mtu, udp: takes.udp }) {
            Ok(()) if unit.packet.len() > frame2::MAX_PACKET => false,
            Ok(()) if unit.is_plain() || unit.vnet.gso_type != Vnet::NONE => {
                self.put_frame(unit);
                true
            }
            // A lone packet goes with its whole checksum: then the far end can make one of many, which saves more.
            Ok(()) | Err(DropReason::OffloadInvalid) if !unit.is_plain() => {
                let (mut scratch, mut all) = (SCRATCH.take(), true);
                let made = offload::split(unit, &mut scratch, |packet| {
                    let fits = packet.len() <= usize::from(takes.mtu);
                    all &= fits;
                    if fits {
                        self.put_frame(Unit::plain(packet));
                    }
                });
                SCRATCH.set(scratch);
                made && all
            }
            Ok(()) | Err(_) => false,
        }
    }

    fn put_frame(&mut self, unit: Unit<'_>) {
        self.reserve();
        frame2::begin_packet(unit.vnet, unit.packet.len(), &mut self.record);
        if unit.packet.len() >= LARGE {
            self.seal_with(unit.packet);
        } else {
            self.record.extend_from_slice(unit.packet);
            if self.record.len() >= RECORD {
                self.seal();
            }
        }
    }

    /// The record under way gets a buffer, if it has none.
    fn reserve(&mut self) {
        if self.record.capacity() == 0 {
            self.record = SPARE.take();
        }
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

    /// Reads what is there, at most about 128 KiB, and calls `each` for every packet, or for what became of several of a flow.
    /// Packets that arrived before the end of the connection are handed on before the error is returned.
    pub fn receive(&mut self, mut each: impl FnMut(Unit<'_>)) -> Result<Received, WireError> {
        let mut received = Received::default();
        let mut gro = GRO.take().unwrap_or_default();
        gro.for_sink(self.sink);
        let mut outcome = Ok(());
        if !self.primed {
            self.primed = true;
            outcome = self.advance(&mut gro, &mut each, &mut received);
        }
        if outcome.is_ok() {
            let mut stage = STAGE.take();
            stage.resize(READ, 0);
            outcome = self.read_into(&mut stage, &mut gro, &mut each, &mut received);
            STAGE.set(stage);
        }
        gro.flush(&mut each);
        GRO.set(Some(gro));
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

    /// Makes TLS records of what was pushed.
    fn seal(&mut self) {
        self.seal_with(&[]);
    }

    /// Makes TLS records of what was pushed and this after it.
    fn seal_with(&mut self, rest: &[u8]) {
        let mut record = std::mem::take(&mut self.record);
        let length = record.len() + rest.len();
        let both = [IoSlice::new(&record), IoSlice::new(rest)];
        let pieces = if rest.is_empty() { both.get(..1).unwrap_or_default() } else { &both };
        // Fails only after a fatal error, which the next read or write tells in its own words.
        if self.tls.writer().write_vectored(pieces).is_ok() {
            self.unsent += length + length.div_ceil(RECORD) * OVERHEAD;
        }
        record.clear();
        SPARE.set(record);
    }

    fn write_out(&mut self) -> Result<(), WireError> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut Socket(&self.io)) {
                Ok(written) => self.unsent = self.unsent.saturating_sub(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = true;
                    self.keep_little_unsent();
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.last_words(error)),
            }
        }
        (self.unsent, self.blocked) = (0, false);
        Ok(())
    }

    /// Has the kernel say that it takes more only when what it keeps is about to be gone, at the rate at which this connection
    /// sends (`TCP_NOTSENT_LOWAT`).
    fn keep_little_unsent(&mut self) {
        if self.rated.is_some_and(|rated| rated.elapsed() < RATE_PERIOD) {
            return;
        }
        self.rated = Some(Instant::now());
        if let Some(rate) = sending_rate(self.io.as_fd()) {
            let bytes = rate.saturating_mul(NOT_SENT_FOR.as_millis() as u64) / 1000;
            let bytes = bytes.clamp(*NOT_SENT.start(), *NOT_SENT.end()) as u32;
            self.backlog = BACKLOG.min(bytes as usize / 2);
            // A kernel without it keeps what it likes.
            let _ = socket2::SockRef::from(&self.io).set_tcp_notsent_lowat(bytes);
        }
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
        gro: &mut Gro,
        each: &mut impl FnMut(Unit<'_>),
        received: &mut Received,
    ) -> Result<(), WireError> {
        let mut taken = 0;
        while taken < READ {
            match self.read(stage) {
                Ok(0) => return Err(WireError::Eof),
                Ok(length) => {
                    taken += length;
                    received.blocked = length < stage.len();
                    let mut bytes = stage.get(..length).unwrap_or_default();
                    while !bytes.is_empty() {
                        self.tls.read_tls(&mut bytes).map_err(WireError::Reset)?;
                        self.advance(gro, each, received)?;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => received.blocked = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(WireError::Reset(error)),
            }
            if received.blocked {
                // rustls gives back the buffer of a large record only when it is asked to read again.
                let _ = self.tls.read_tls(&mut Nothing);
                break;
            }
        }
        Ok(())
    }

    /// Reads what is there. A read that does not fill the buffer has emptied the socket, and its readiness is over: the runtime
    /// learns so without another system call, and of all that comes after the read by an event.
    fn read(&self, stage: &mut [u8]) -> io::Result<usize> {
        let mut short = None;
        let outcome = self.io.try_io(Interest::READABLE, || match nix::unistd::read(&self.io, stage)? {
            length if (1..stage.len()).contains(&length) => {
                short = Some(length);
                Err(io::ErrorKind::WouldBlock.into())
            }
            length => Ok(length),
        });
        short.map_or(outcome, Ok)
    }

    /// Decrypts what `tls` holds and takes the frames out of it.
    fn advance(
        &mut self,
        gro: &mut Gro,
        each: &mut impl FnMut(Unit<'_>),
        received: &mut Received,
    ) -> Result<(), WireError> {
        let limits = Limits { mtu: self.own.mtu, udp: self.own.udp };
        let outcome = self.tls.process_new_packets();
        let mut reader = self.tls.reader();
        while let Ok(chunk) = reader.fill_buf() {
            if chunk.is_empty() {
                break;
            }
            let length = chunk.len();
            match self.version {
                Version::V1 => take_frames(&mut self.partial, chunk, frame::length, |frame| {
                    if let Some((packet, _)) = frame::take(frame)? {
                        received.packets += 1;
                        gro.push(packet, each);
                    }
                    Ok::<_, frame::TooLong>(())
                })?,
                Version::V2 => take_frames(&mut self.partial, chunk, frame2::length, |frame| {
                    match frame2::take(frame)? {
                        Some((Frame::Packet(unit), _)) => {
                            received.packets += 1;
                            match check(unit, &limits) {
                                Ok(()) if unit.is_plain() => gro.push(unit.packet, each),
                                Ok(()) => {
                                    // Whatever is held of its flow came before it.
                                    gro.flush(each);
                                    each(unit);
                                }
                                Err(DropReason::TooBig) => received.too_big += 1,
                                Err(_) => received.unsound += 1,
                            }
                        }
                        Some((Frame::Hello(hello), _)) => self.peer = Some(hello),
                        Some((Frame::Ping(stamp), _)) => received.ping = Some(stamp),
                        Some((Frame::Pong(stamp), _)) => received.pong = Some(stamp),
                        Some((Frame::GoingAway(away), _)) => self.away = Some(away),
                        Some((Frame::Unknown(_), _)) | None => {}
                    }
                    Ok::<_, frame2::Bad>(())
                })?,
            }
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

/// Calls `each` for every whole frame in `partial` and `bytes`, and leaves an incomplete last one in `partial`. `length` tells
/// how long the frame is that begins here, once that can be seen.
fn take_frames<E>(
    partial: &mut Vec<u8>,
    mut bytes: &[u8],
    length: impl Fn(&[u8]) -> Result<Option<usize>, E>,
    mut each: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    while !partial.is_empty() && !bytes.is_empty() {
        // One byte more until the length can be seen.
        let whole = length(partial)?.unwrap_or(partial.len() + 1);
        partial.reserve(whole.saturating_sub(partial.len()));
        let (now, later) = bytes.split_at(whole.saturating_sub(partial.len()).min(bytes.len()));
        partial.extend_from_slice(now);
        bytes = later;
        if length(partial)?.is_some_and(|whole| whole == partial.len()) {
            each(partial)?;
            partial.clear();
            SPARE.set(std::mem::take(partial));
        }
    }
    while let Some((frame, rest)) = length(bytes)?.and_then(|whole| bytes.split_at_checked(whole)) {
        each(frame)?;
        bytes = rest;
    }
    if !bytes.is_empty() {
        if partial.capacity() == 0 {
            *partial = SPARE.take();
        }
        partial.extend_from_slice(bytes);
    }
    Ok(())
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
