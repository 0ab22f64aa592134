//! Says at most so often what happens often.

use crate::state::Moment;
use std::time::Duration;

/// Between two lines.
const APART: Duration = Duration::from_secs(10);

/// One kind of line.
#[derive(Debug, Default)]
pub(super) struct Seldom {
    next: Moment,
    unsaid: u64,
}

impl Seldom {
    /// It happened once more; how often since the last line, if there may be one now.
    pub fn say(&mut self, now: Moment) -> Option<u64> {
        self.unsaid += 1;
        if now < self.next {
            return None;
        }
        self.next = now + APART;
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_said_at_once_and_the_others_together() {
        let mut seldom = Seldom::default();
        let at = Duration::from_secs;
        assert_eq!(
            [0, 1, 2, 10, 11, 30].map(|second| seldom.say(at(second))),
            [Some(1), None, None, Some(3), None, Some(2)]
        );
    }
}
