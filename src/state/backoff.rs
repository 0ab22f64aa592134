//! How long to wait before the next attempt: doubling from `retry.first` to `retry.max`, less a random share.

use crate::config::Retry;
use std::time::Duration;

/// No delay is shorter than this, so that nothing ever spins.
const FLOOR: Duration = Duration::from_millis(50);

/// Counts failures in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The delay after one more failure. `random` is uniform in 0..1.
    pub fn next(&mut self, retry: &Retry, random: f64) -> Duration {
        let factor = 2f64.powi(self.failures.min(30) as i32);
        self.failures = self.failures.saturating_add(1);
        let whole = (retry.first.as_secs_f64() * factor).min(retry.max.as_secs_f64());
        jittered(whole, retry, random)
    }

    /// The delay for what only a change from outside mends: always around `retry.max`.
    pub fn slow(retry: &Retry, random: f64) -> Duration {
        // Half the jitter: "slowly" must not become "at once" by chance.
        jittered(retry.max.as_secs_f64(), retry, random / 2.0)
    }

    /// Start from the shortest delay again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

pub(super) fn jittered(whole: f64, retry: &Retry, random: f64) -> Duration {
    let share = 1.0 - retry.jitter.clamp(0.0, 1.0) * random.clamp(0.0, 1.0);
    Duration::try_from_secs_f64(whole * share).unwrap_or(retry.max).max(FLOOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Retry {
        Retry { jitter: 0.0, ..Retry::default() }
    }

    #[test]
    fn delays_double_up_to_the_maximum_and_start_again_after_a_reset() {
        let mut backoff = Backoff::default();
        let seconds: Vec<u64> = (0..8).map(|_| backoff.next(&plain(), 0.9).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60]);
        backoff.reset();
        assert_eq!(backoff.next(&plain(), 0.5).as_secs(), 1);
    }

    #[test]
    fn full_jitter_spreads_over_the_whole_delay_but_never_spins() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next(&Retry::default(), 0.0), Duration::from_secs(1));
        backoff.reset();
        assert_eq!(backoff.next(&Retry::default(), 0.999_999), FLOOR);
        assert!(Backoff::slow(&Retry::default(), 0.999) >= Duration::from_secs(30));
    }
}
