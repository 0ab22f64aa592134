//! Signs of life: the heartbeat packet of the ENF wire (spec section 1.4) and the clock that decides when one is due and
//! when the router is given up. Pure: moments in, decisions out.

use super::packet::{self, ICMPV6, Packet, ROUTER};
use crate::state::Moment;
use std::net::Ipv6Addr;
use std::time::Duration;

/// Identifier and sequence number of every heartbeat, as they stand on the wire.
const MARK: &[u8; 4] = b"ENFT";

/// The heartbeat of a host with this address: an ICMPv6 echo request to `fe80::1` without data.
pub fn request(own: Ipv6Addr) -> Vec<u8> {
    packet::icmpv6_echo(own, ROUTER, 128, MARK)
}

/// Whether a packet is the router's answer to a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is.
    Good,
    /// It claims to be, and its checksum is wrong.
    Bad,
    /// It is something else.
    Not,
}

/// Judges a packet for the host with address `own`.
pub fn answer(bytes: &[u8], own: Ipv6Addr) -> Answer {
    let Some(Packet::V6 { source: ROUTER, destination, next_header: ICMPV6, payload }) = Packet::parse(bytes) else {
        return Answer::Not;
    };
    let Some(([129, 0, _, _], body)) = payload.split_first_chunk::<4>() else { return Answer::Not };
    if destination != own || body != MARK {
        return Answer::Not;
    }
    if packet::icmpv6_checksum(ROUTER, own, payload) == 0 { Answer::Good } else { Answer::Bad }
}

/// What the clock asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// Nothing yet.
    Wait,
    /// Send a heartbeat now.
    Send,
    /// The router did not answer in time.
    Dead,
}

/// The heartbeat clock of one session. The first beat is due at once; later ones when nothing valid was heard for a period.
/// The time for the answer runs from when the beat was due, whether or not it could be written: a peer that stopped
/// reading is found like one that is gone.
#[derive(Clone, Debug)]
pub struct Clock {
    period: Duration,
    timeout: Duration,
    due: Option<Moment>,
    deadline: Option<Moment>,
    unanswered: Option<Moment>,
}

impl Clock {
    /// A clock that starts now. A period of zero means: only the first beat.
    pub fn new(period: Duration, timeout: Duration, now: Moment) -> Self {
        Self { period, timeout, due: Some(now), deadline: None, unanswered: None }
    }

    /// When to ask again with [`Clock::poll`]; none: when something is heard.
    pub fn next(&self) -> Option<Moment> {
        match (self.due, self.deadline) {
            (Some(due), Some(deadline)) => Some(due.min(deadline)),
            (one, other) => one.or(other),
        }
    }

    /// What is to be done now.
    pub fn poll(&mut self, now: Moment) -> Beat {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            return Beat::Dead;
        }
        match self.due {
            Some(due) if due <= now => {
                self.due = None;
                self.deadline = Some(due + self.timeout);
                self.unanswered = Some(now);
                Beat::Send
            }
            _ => Beat::Wait,
        }
    }

    /// A valid frame arrived: the far end lives.
    pub fn heard(&mut self, now: Moment) {
        self.deadline = None;
        self.due = (!self.period.is_zero()).then_some(now + self.period);
    }

    /// A heartbeat is outstanding.
    pub fn awaited(&self) -> bool {
        self.unanswered.is_some()
    }

    /// The answer to the outstanding heartbeat arrived; returns the round trip.
    pub fn answered(&mut self, now: Moment) -> Option<Duration> {
        let round_trip = self.unanswered.take().map(|sent| now.saturating_sub(sent));
        self.heard(now);
        round_trip
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(300);
    const TIMEOUT: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Moment {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_heartbeat_frame_is_the_one_of_the_c_client() {
        let mut frame = Vec::new();
        super::super::frame::put(&request("fd00:8f80:1::1234".parse().unwrap()), &mut frame);
        let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "00306000000000083afffd008f80000100000000000000001234fe800000000000000000000000000001800056e2454e4654"
        );
    }

    #[test]
    fn the_first_beat_is_due_at_once_and_the_next_after_a_silent_period() {
        let mut clock = Clock::new(PERIOD, TIMEOUT, at(0));
        assert_eq!(clock.poll(at(0)), Beat::Send);
        assert_eq!(clock.poll(at(1)), Beat::Wait);
        assert_eq!(clock.answered(at(1)), Some(at(1)));
        assert_eq!(clock.next(), Some(at(301)));
        clock.heard(at(200));
        assert_eq!(clock.poll(at(301)), Beat::Wait);
        assert_eq!(clock.poll(at(500)), Beat::Send);
    }

    #[test]
    fn the_deadline_counts_from_when_the_beat_was_due() {
        let mut clock = Clock::new(PERIOD, TIMEOUT, at(0));
        assert_eq!(clock.poll(at(4)), Beat::Send);
        assert_eq!(clock.next(), Some(at(10)));
        assert_eq!(clock.poll(at(10)), Beat::Dead);
    }

    #[test]
    fn any_valid_frame_proves_life_but_only_one_reply_is_awaited() {
        let mut clock = Clock::new(PERIOD, TIMEOUT, at(0));
        assert_eq!(clock.poll(at(0)), Beat::Send);
        clock.heard(at(9));
        assert_eq!(clock.poll(at(11)), Beat::Wait);
        assert!(clock.awaited());
        assert_eq!(clock.answered(at(12)), Some(at(12)));
        assert!(!clock.awaited());
        assert_eq!(clock.answered(at(13)), None);
    }

    #[test]
    fn a_period_of_zero_beats_once() {
        let mut clock = Clock::new(Duration::ZERO, TIMEOUT, at(0));
        assert_eq!(clock.poll(at(0)), Beat::Send);
        clock.heard(at(1));
        assert_eq!(clock.next(), None);
    }
}
