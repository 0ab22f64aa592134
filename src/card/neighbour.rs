//! Where the host behind is: the link-layer address of one IPv6 address, and the packets that wait for it (RFC 4861
//! section 7, for a cache of one).
//!
//! ```text
//! unknown --packet--> asked --heard--> known --silent, packet--> known, checked --no answer--> unknown
//!    ^------- no answer --'               ^------ heard ----------------'
//! ```

use super::LinkAddress;
use crate::state::Moment;
use std::collections::VecDeque;
use std::time::Duration;

/// RFC 4861 section 10: RETRANS_TIMER, MAX_MULTICAST_SOLICIT and MAX_UNICAST_SOLICIT, REACHABLE_TIME, DELAY_FIRST_PROBE_TIME.
const RETRANSMIT: Duration = Duration::from_secs(1);
const ATTEMPTS: u8 = 3;
const REACHABLE: Duration = Duration::from_secs(30);
const FIRST_PROBE: Duration = Duration::from_secs(5);

/// Packets that wait at most; the oldest make room.
const QUEUE: usize = 16;

/// The cache.
#[derive(Clone, Debug, Default)]
pub struct Neighbour {
    state: State,
    waiting: VecDeque<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Unknown,
    Asked(Questions),
    Known {
        link: LinkAddress,
        heard: Moment,
        check: Option<Questions>,
    },
}

#[derive(Clone, Copy, Debug)]
struct Questions {
    sent: u8,
    next: Moment,
}

impl Questions {
    fn first(at: Moment) -> Self {
        Self { sent: 0, next: at }
    }

    /// One more, if it is time and any are left. `None`: it is not time.
    fn ask(&mut self, now: Moment) -> Option<Turn> {
        if self.next > now {
            return None;
        }
        if self.sent >= ATTEMPTS {
            return Some(Turn::GivenUp);
        }
        *self = Self { sent: self.sent + 1, next: now + RETRANSMIT };
        Some(Turn::Ask)
    }
}

enum Turn {
    Ask,
    GivenUp,
}

/// What the cache wants to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// A solicitation: to everybody, or to the station that had the address.
    Ask(Option<LinkAddress>),
    /// A packet that waited.
    Send(LinkAddress, Vec<u8>),
}

impl Neighbour {
    /// The host has shown where it is.
    pub fn heard(&mut self, link: LinkAddress, now: Moment) {
        self.state = State::Known { link, heard: now, check: None };
    }

    /// Where it is, if that is known and nothing else waits.
    pub fn link(&self) -> Option<LinkAddress> {
        match self.state {
            State::Known { link, .. } => Some(link),
            _ => None,
        }
    }

    /// Where to send a packet now. `None`: it must [wait](Self::wait).
    pub fn wanted(&mut self, now: Moment) -> Option<LinkAddress> {
        match &mut self.state {
            State::Known { link, heard, check } => {
                if check.is_none() && now.saturating_sub(*heard) >= REACHABLE {
                    *check = Some(Questions::first(now + FIRST_PROBE));
                }
                self.waiting.is_empty().then_some(*link)
            }
            State::Asked(_) => None,
            State::Unknown => {
                self.state = State::Asked(Questions::first(now));
                None
            }
        }
    }

    /// Keeps a packet until the host is found. False: another one has made room for it.
    pub fn wait(&mut self, packet: &[u8]) -> bool {
        let room = self.waiting.len() < QUEUE;
        if !room {
            self.waiting.pop_front();
        }
        self.waiting.push_back(packet.to_vec());
        room
    }

    /// The next wish, if there is one now.
    pub fn poll(&mut self, now: Moment) -> Option<Wish> {
        let (turn, last) = match &mut self.state {
            State::Unknown => return None,
            State::Asked(questions) => (questions.ask(now)?, None),
            State::Known { link, check, .. } => {
                if let Some(packet) = self.waiting.pop_front() {
                    return Some(Wish::Send(*link, packet));
                }
                (check.as_mut()?.ask(now)?, Some(*link))
            }
        };
        match turn {
            Turn::Ask => Some(Wish::Ask(last)),
            Turn::GivenUp => {
                *self = Self::default();
                None
            }
        }
    }

    /// When there is a wish, if nothing happens: at once, if that is in the past.
    pub fn due(&self) -> Option<Moment> {
        match self.state {
            State::Known { .. } if !self.waiting.is_empty() => Some(Moment::ZERO),
            State::Asked(Questions { next, .. }) => Some(next),
            State::Known { check, .. } => check.map(|questions| questions.next),
            State::Unknown => None,
        }
    }
}

#[cfg(test)]
#[path = "neighbour_tests.rs"]
mod tests;
