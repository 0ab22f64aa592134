//! Controlled delay (RFC 8289): a flow is told to slow down once even its shortest wait within an interval was too long, and
//! then more and more often until it has.

use crate::state::Moment;
use std::time::Duration;

/// A wait that is no trouble (RFC 8289 section 4.2).
pub const TARGET: Duration = Duration::from_millis(5);
/// The time within which a flow that was told may be expected to have slowed down (RFC 8289 section 4.3): a usual worst round
/// trip.
pub const INTERVAL: Duration = Duration::from_millis(100);
/// With no more than this behind it, no wait is the flow's fault: about the MTU.
pub const SHORT: u32 = 1500;
/// Whoever is in trouble again within this many intervals goes on from where it was.
const MEMORY: u32 = 16;

/// What is remembered of one flow.
#[derive(Clone, Copy, Debug, Default)]
pub struct Codel {
    /// When a whole interval of too long waits is over; none: the last wait was short.
    deadline: Option<Moment>,
    /// The flow is being told.
    telling: bool,
    /// When it is told next.
    next: Moment,
    /// How often it was told since it began.
    count: u32,
    /// `count` when it last began.
    began_with: u32,
}

impl Codel {
    /// The next unit of the flow has waited so long, and so many bytes of the flow are behind it: the flow is to be told, with
    /// this unit.
    pub fn tells(&mut self, waited: Duration, behind: u32, now: Moment) -> bool {
        if !self.is_late(waited, behind, now) {
            self.telling = false;
            return false;
        }
        if self.telling {
            let due = now >= self.next;
            if due {
                self.count = self.count.saturating_add(1);
                self.next = self.next.saturating_add(pause(self.count));
            }
            return due;
        }
        self.telling = true;
        let before = self.count.saturating_sub(self.began_with);
        let recent = now.saturating_sub(self.next) < INTERVAL * MEMORY;
        self.count = if before > 1 && recent { before } else { 1 };
        self.began_with = self.count;
        self.next = now.saturating_add(pause(self.count));
        true
    }

    fn is_late(&mut self, waited: Duration, behind: u32, now: Moment) -> bool {
        if waited < TARGET || behind <= SHORT {
            self.deadline = None;
            return false;
        }
        now >= *self.deadline.get_or_insert(now.saturating_add(INTERVAL))
    }
}

/// The control law: a constant rate of being told makes TCP slow down by its square.
fn pause(count: u32) -> Duration {
    Duration::from_secs_f64(INTERVAL.as_secs_f64() / f64::from(count.max(1)).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_millis(20);

    /// When a flow that waits `waited` is told, looked at every millisecond.
    fn told(codel: &mut Codel, from: u64, to: u64, waited: Duration, behind: u32) -> Vec<u64> {
        (from..to).filter(|&at| codel.tells(waited, behind, Moment::from_millis(at))).collect()
    }

    #[test]
    fn a_flow_is_told_after_an_interval_and_then_by_the_square_root() {
        let told = told(&mut Codel::default(), 1000, 1500, LONG, 10_000);
        // 100 ms of grace, then 100/sqrt(1), 100/sqrt(2), 100/sqrt(3), 100/sqrt(4), ... apart.
        assert_eq!(told, [1100, 1200, 1271, 1329, 1379, 1424, 1464]);
    }

    #[test]
    fn one_short_wait_within_each_interval_is_enough() {
        let mut codel = Codel::default();
        for round in 0..10 {
            assert_eq!(told(&mut codel, round * 100, round * 100 + 99, LONG, 10_000), [0u64; 0]);
            assert!(!codel.tells(TARGET / 2, 10_000, Moment::from_millis(round * 100 + 99)));
        }
    }

    #[test]
    fn a_flow_with_nothing_more_behind_is_never_told() {
        assert_eq!(told(&mut Codel::default(), 0, 3000, LONG * 100, SHORT), [0u64; 0]);
    }

    #[test]
    fn trouble_that_comes_back_soon_goes_on_from_where_it_was() {
        let mut codel = Codel::default();
        let first = told(&mut codel, 0, 600, LONG, 10_000);
        assert!(!codel.tells(Duration::ZERO, 10_000, Moment::from_millis(600)));
        let again = told(&mut codel, 700, 1200, LONG, 10_000);
        assert_eq!(again[0], 800, "an interval of grace there is in any case");
        assert!(again[1] - again[0] < first[1] - first[0], "{first:?} {again:?}");
        assert!(!codel.tells(Duration::ZERO, 10_000, Moment::from_millis(1200)));
        let later = told(&mut codel, 10_000, 10_400, LONG, 10_000);
        assert_eq!(later[1] - later[0], 100, "long ago: from the beginning");
    }
}
