//! Signs of life: pings with the time in them, what comes back, and when the service counts as gone. Pure; time is handed in.

use crate::state::Moment;
use std::collections::VecDeque;
use std::time::Duration;

/// More pings than these are not remembered.
const REMEMBERED: usize = 8;

/// The pings of one session. A ping is answered in time only while both ways are open: what waits behind data that the service
/// or an application does not take says nothing of the path.
#[derive(Debug)]
pub(super) struct Heart {
    period: Duration,
    limit: Duration,
    /// None: nothing more is asked by itself.
    next: Option<Moment>,
    sent: VecDeque<(u64, Moment)>,
    last: u64,
    /// The service was heard, or cannot be expected to be.
    alive: Moment,
}

impl Heart {
    /// The first ping is due at once; without a `period` it is the only one.
    pub fn new(period: Duration, limit: Duration, now: Moment) -> Self {
        Self { period, limit, next: Some(now), sent: VecDeque::new(), last: 0, alive: now }
    }

    /// A ping is to be sent as soon as can be.
    pub fn ask(&mut self, now: Moment) {
        self.next = Some(now);
    }

    /// One is due.
    pub fn is_due(&self, now: Moment) -> bool {
        self.next.is_some_and(|next| next <= now)
    }

    /// The payload of the ping that is sent now: `wall` in milliseconds since the epoch, in decimal. No two are alike.
    pub fn ping(&mut self, wall: Duration, now: Moment) -> String {
        let milliseconds = u64::try_from(wall.as_millis()).unwrap_or(u64::MAX);
        self.last = milliseconds.max(self.last.saturating_add(1));
        while self.sent.len() >= REMEMBERED {
            self.sent.pop_front();
        }
        self.sent.push_back((self.last, now));
        self.next = (!self.period.is_zero()).then(|| now + self.period);
        self.last.to_string()
    }

    /// A pong came; how long its ping has been under way, if it answers one.
    pub fn pong(&mut self, payload: &[u8], now: Moment) -> Option<Duration> {
        let number: u64 = std::str::from_utf8(payload).ok()?.parse().ok()?;
        let at = self.sent.iter().position(|(sent, _)| *sent == number)?;
        let (_, sent) = self.sent.drain(..=at).next_back()?;
        Some(now.saturating_sub(sent))
    }

    /// Something was heard, or nothing can be now.
    pub fn is_alive(&mut self, now: Moment) {
        self.alive = now;
    }

    /// The service is gone if it is not heard until then.
    pub fn deadline(&self) -> Option<Moment> {
        self.sent.front().map(|(_, sent)| self.alive.max(*sent).saturating_add(self.limit))
    }

    /// When to ask next.
    pub fn next(&self) -> Option<Moment> {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Moment {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_first_ping_goes_at_once_and_the_others_each_period() {
        let mut heart = Heart::new(at(20), at(10), at(5));
        assert!(heart.is_due(at(5)));
        assert_eq!(heart.ping(at(1_700_000_000), at(5)), "1700000000000");
        assert!(!heart.is_due(at(24)) && heart.is_due(at(25)));
        assert_eq!(heart.ping(at(1_700_000_000), at(25)), "1700000000001", "each is known by itself");
        let mut once = Heart::new(at(0), at(10), at(5));
        once.ping(at(1), at(5));
        assert!(!once.is_due(at(1_000_000)));
        once.ask(at(7));
        assert!(once.is_due(at(7)));
    }

    #[test]
    fn only_the_answer_to_a_ping_is_one() {
        let mut heart = Heart::new(at(20), at(10), at(0));
        let (first, second) = (heart.ping(at(1), at(1)), heart.ping(at(2), at(2)));
        for odd in ["", "x", "-1", "99999999999999999999999999", "7"] {
            assert_eq!(heart.pong(odd.as_bytes(), at(3)), None);
        }
        assert_eq!(heart.pong(b"\xff", at(3)), None);
        assert_eq!(heart.pong(second.as_bytes(), at(3)), Some(at(1)));
        assert_eq!(heart.pong(first.as_bytes(), at(3)), None, "what is newer was answered");
        assert_eq!(heart.deadline(), None);
    }

    #[test]
    fn who_is_not_heard_in_time_is_gone_unless_nothing_could_be_heard() {
        let mut heart = Heart::new(at(20), at(10), at(0));
        assert_eq!(heart.deadline(), None);
        heart.ping(at(1), at(1));
        assert_eq!((heart.deadline(), heart.next()), (Some(at(11)), Some(at(21))));
        heart.is_alive(at(6));
        assert_eq!(heart.deadline(), Some(at(16)));
    }
}
