//! What is kept of a connection: where it is on the wire, what waits for its application, and how long it has kept others
//! waiting.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use super::Why;
use crate::state::Moment;

/// For so many bytes of the queue one piece of data may wait there, since a piece costs memory however short it is.
const BYTES_A_PIECE: usize = 64;
/// So many pieces may wait in any case.
const PIECES: usize = 1024;

#[derive(Debug)]
pub(super) struct Connection {
    /// Where in the engine's services.
    pub service: usize,
    /// On the wire; 0: messages carry none.
    pub id: u32,
    pub wire: Wire,
    /// The application is still being connected to: nothing can be delivered.
    pub dialling: Option<Dialling>,
    /// Came and not taken by the application.
    pub waiting: Waiting,
    /// Why its socket is broken off, once the application has taken what waits; none: it is closed.
    pub broken: Option<Why>,
    /// The application has more waiting than it may, since then.
    pub behind: bool,
    /// How long it has kept others waiting, as of `settled`.
    pub spent: Duration,
    pub settled: Moment,
    /// When the application last took something, or fell behind.
    pub progress: Moment,
}

/// What the other end thinks of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    Open,
    /// Open; the application sends no more, and unless data comes, it is reset at this moment of the reading clock.
    Lingering(Moment),
    /// Over. The application may still be taking what had come.
    Gone,
}

#[derive(Debug, Default)]
pub(super) struct Dialling {
    /// It opened its stream.
    pub first: bool,
    /// What has come meanwhile.
    pub kept: Vec<Bytes>,
}

impl Connection {
    /// The other end knows it.
    pub fn is_open(&self) -> bool {
        self.wire != Wire::Gone
    }

    pub fn new(service: usize, id: u32, dialling: Option<Dialling>, now: Moment) -> Self {
        Self {
            service,
            id,
            wire: Wire::Open,
            dialling,
            waiting: Waiting::default(),
            broken: None,
            behind: false,
            spent: Duration::ZERO,
            settled: now,
            progress: now,
        }
    }

    /// Brings `spent` up to now. It grows while the application is behind and others wait for it, and comes back while it
    /// keeps up.
    pub fn settle(&mut self, others: bool, now: Moment) {
        let passed = now.saturating_sub(self.settled);
        self.settled = now;
        match (self.behind, others) {
            (true, true) => self.spent += passed,
            (true, false) => {}
            (false, _) => self.spent = self.spent.saturating_sub(passed),
        }
    }

    /// When a connection that is behind, and is settled, has used up its patience if nothing changes.
    pub fn deadline(&self, others: bool, patience: Duration) -> Option<Moment> {
        let spent = others.then(|| self.settled.saturating_add(patience.saturating_sub(self.spent)));
        // Who is being connected to has a deadline of its own.
        let stuck = self.dialling.is_none().then(|| self.progress.saturating_add(patience));
        spent.into_iter().chain(stuck).min()
    }
}

/// How much waits for an application, in bytes and in pieces.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    bytes: usize,
    pieces: VecDeque<usize>,
}

impl Waiting {
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    pub fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.pieces.push_back(bytes);
    }

    pub fn take(&mut self, bytes: usize) {
        let mut rest = bytes.min(self.bytes);
        self.bytes -= rest;
        while let Some(first) = self.pieces.front_mut() {
            if *first > rest {
                *first -= rest;
                break;
            }
            rest -= *first;
            self.pieces.pop_front();
        }
    }

    /// More than may wait.
    pub fn is_over(&self, queue: usize) -> bool {
        self.bytes > queue || self.pieces.len() > PIECES.max(queue / BYTES_A_PIECE)
    }

    /// So little that more may come.
    pub fn is_low(&self, queue: usize) -> bool {
        self.is_empty() || (self.bytes < queue / 2 && self.pieces.len() < PIECES.max(queue / BYTES_A_PIECE) / 2)
    }
}
