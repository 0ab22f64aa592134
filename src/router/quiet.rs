//! Keeps a log line that repeats from filling the journal.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One line of this kind in this time.
const EVERY: Duration = Duration::from_secs(5);

/// The memory of one kind of line.
#[derive(Debug, Default)]
pub struct Quiet(Mutex<(Option<Instant>, u64)>);

impl Quiet {
    /// Whether the line may be written now, and how many were left out before it.
    pub fn allows(&self) -> Option<u64> {
        self.allows_at(Instant::now())
    }

    fn allows_at(&self, now: Instant) -> Option<u64> {
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, skipped) = &mut *memory;
        if last.is_some_and(|last| now.saturating_duration_since(last) < EVERY) {
            *skipped += 1;
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(skipped))
    }
}

/// The end of a line before which this many were left out.
pub fn and_more(count: u64) -> String {
    if count == 0 { String::new() } else { format!(" ({count} more like this since the last such line)") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_line_is_written_now_and_then_with_the_number_left_out() {
        let (quiet, now) = (Quiet::default(), Instant::now());
        assert_eq!(quiet.allows_at(now), Some(0));
        assert_eq!(quiet.allows_at(now), None);
        assert_eq!(quiet.allows_at(now), None);
        assert_eq!(quiet.allows_at(now + EVERY), Some(2));
    }
}
