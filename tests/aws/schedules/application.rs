//! An application at one end of a connection, with its socket: what it sends is its own in every byte, and what it gets is
//! judged byte by byte.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use enftun::config::Mode;
use enftun::state::Moment;
use enftun::tunnel::aws::engine::{Conn, Why};

use crate::common::seeded::Seeded;

/// How an application behaves.
#[derive(Clone, Debug)]
pub struct Kind {
    /// Bytes that it wants to send.
    pub planned: usize,
    /// It takes at most so many at once, ...
    pub takes: usize,
    /// ... and not again before so long.
    pub each: Duration,
    /// When it has sent all: what then.
    pub then: Then,
    /// It breaks off after having sent so many.
    pub breaks: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It says so, and reads on.
    Eof,
    /// It closes.
    Close,
    /// It waits for the other one to end.
    Wait,
}

impl Default for Kind {
    fn default() -> Self {
        Self { planned: 0, takes: usize::MAX, each: Duration::ZERO, then: Then::Wait, breaks: None }
    }
}

impl Kind {
    /// `tiny`: what it sends comes byte by byte.
    pub fn draw(chance: &mut Seeded, unruly: bool, tiny: bool) -> Self {
        let most = chance.one_of(if tiny { &[1, 50, 300, 1000] } else { &[1, 50, 50, 2000, 2000, 20_000, 60_000] });
        let mut kind = Self { planned: chance.below(most) as usize, ..Self::default() };
        kind.then = chance.one_of(&[Then::Eof, Then::Close, Then::Wait]);
        if unruly {
            match chance.below(6) {
                0 => kind.takes = 1 + chance.below(200) as usize,
                1 => kind.each = Duration::from_millis(chance.below(300)),
                2 if !tiny => kind.each = Duration::from_secs(5),
                3 => kind.breaks = Some(chance.below(kind.planned as u64 + 1) as usize),
                _ => {}
            }
        }
        kind
    }
}

/// How a connection has ended, at this end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The other end was done.
    Finished,
    /// The application was, and the other one had sent nothing for long enough.
    Lingered,
    Aborted(Why),
    /// The application broke it off or could not be reached.
    Own,
    /// With its session.
    Lost,
}

#[derive(Debug)]
pub struct Application {
    pub side: Mode,
    pub service: String,
    pub conn: Conn,
    pub kind: Kind,
    /// The application is there. No: it is still being dialled.
    pub there: bool,
    pub sent: usize,
    /// It has said that it sends no more.
    pub eof: bool,
    /// Nothing came after that for long enough, perhaps.
    pub lingered: bool,
    /// In its socket, not taken.
    pub waiting: VecDeque<Bytes>,
    pub waiting_bytes: usize,
    pub received: usize,
    /// The first bytes received say whose they are.
    head: Vec<u8>,
    /// Whose bytes it gets.
    pub from: Option<usize>,
    pub end: Option<End>,
    /// Something happened that may have lost bytes on their way.
    pub cut: bool,
    reads_at: Moment,
    pub active: Moment,
}

/// Bytes that say whose a stream is.
pub const HEAD: usize = 8;

/// What the application of this number sends, from here on. The first bytes are the number, and each depends on its place.
pub fn bytes(number: usize, from: usize, count: usize) -> Bytes {
    let words = from / HEAD..(from + count).div_ceil(HEAD);
    let word = |at| Seeded::new((number as u64) << 32 | at as u64).next().to_le_bytes();
    let whole: Vec<u8> = words.flat_map(word).collect();
    Bytes::from(whole).slice(from % HEAD..from % HEAD + count)
}

impl Application {
    pub fn new(side: Mode, service: String, conn: Conn, kind: Kind, now: Moment) -> Self {
        Self {
            side,
            service,
            conn,
            kind,
            there: side == Mode::Source,
            sent: 0,
            eof: false,
            lingered: false,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            received: 0,
            head: Vec::new(),
            from: None,
            end: None,
            cut: false,
            reads_at: now,
            active: now,
        }
    }

    pub fn is_live(&self) -> bool {
        self.end.is_none()
    }

    pub fn get(&mut self, data: Bytes) {
        assert!(self.is_live() && self.there, "data for an application that is not there: {self:?}");
        self.waiting_bytes += data.len();
        self.waiting.push_back(data);
    }

    /// It reads, as much as it likes to.
    pub fn read(&mut self, now: Moment) -> Vec<Bytes> {
        let mut taken = Vec::new();
        if now < self.reads_at {
            return taken;
        }
        let mut rest = self.kind.takes;
        while rest > 0
            && let Some(mut data) = self.waiting.pop_front()
        {
            let more = data.split_off(rest.min(data.len()));
            if !more.is_empty() {
                self.waiting.push_front(more);
            }
            rest -= data.len();
            self.waiting_bytes -= data.len();
            taken.push(data);
        }
        if !taken.is_empty() {
            self.reads_at = now + self.kind.each;
            self.active = now;
        }
        taken
    }

    /// Judges bytes that it has read. `number` finds who sends what begins with these bytes.
    pub fn judge(&mut self, data: &[u8], count: usize) {
        let missing = HEAD.saturating_sub(self.head.len()).min(data.len());
        self.head.extend_from_slice(&data[..missing]);
        if self.from.is_none() && self.head.len() == HEAD {
            self.from = (0..count).find(|number| bytes(*number, 0, HEAD) == self.head);
            assert!(self.from.is_some(), "nobody has sent these bytes: {:?}", self.head);
        }
        if let Some(from) = self.from {
            let own = bytes(from, self.received, data.len());
            assert!(own == data, "at {} these are not the bytes that {from} has sent", self.received);
        }
        self.received += data.len();
    }

    /// What came is the beginning of what this one has sent, as far as that can be said.
    pub fn begins_like(&self, number: usize) -> bool {
        bytes(number, 0, self.head.len()) == self.head
    }

    /// The bytes that it sends now; none: not now.
    pub fn write(&mut self, number: usize, chance: &mut Seeded, now: Moment) -> Option<Bytes> {
        let until = self.kind.breaks.unwrap_or(self.kind.planned).min(self.kind.planned);
        if self.eof || self.sent >= until {
            return None;
        }
        let count = (1 + chance.below(chance.clone().one_of(&[10, 1000, 100_000])) as usize).min(until - self.sent);
        let data = bytes(number, self.sent, count);
        self.sent += count;
        self.active = now;
        Some(data)
    }
}
