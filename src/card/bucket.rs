//! How many answers in how much time: a token bucket.

use crate::state::Moment;
use std::time::Duration;

/// Holds up to `burst` tokens; one more every `interval`.
#[derive(Clone, Debug)]
pub struct Bucket {
    interval: Duration,
    burst: u32,
    /// When it would be full, if nobody takes any. It is empty when that is `burst` intervals away.
    full: Moment,
}

impl Bucket {
    /// A full bucket.
    pub fn new(interval: Duration, burst: u32) -> Self {
        Self { interval, burst, full: Moment::ZERO }
    }

    /// Takes a token, if there is one.
    pub fn take(&mut self, now: Moment) -> bool {
        let full = self.full.max(now) + self.interval;
        let there = full.saturating_sub(now) <= self.interval * self.burst;
        if there {
            self.full = full;
        }
        there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_one_each_interval() {
        let mut bucket = Bucket::new(Duration::from_millis(100), 3);
        let at = |milliseconds| Duration::from_secs(7) + Duration::from_millis(milliseconds);
        let taken: Vec<bool> = [0, 0, 0, 0, 50, 100, 101, 200, 600, 600, 600, 600].map(|ms| bucket.take(at(ms))).into();
        let expected = [true, true, true, false, false, true, false, true, true, true, true, false];
        assert_eq!(taken, expected);
    }
}
