//! How often what somebody else changed is told: each repair while they are few, and a count once they are many. Pure.

use crate::state::Moment;
use std::time::Duration;

/// This many lines in one window; what is more is counted, and told at its end.
const LINES: u32 = 5;
const WINDOW: Duration = Duration::from_secs(10);

/// The repairs of one tunnel.
#[derive(Debug, Default)]
pub(super) struct Repairs {
    window: Option<Moment>,
    lines: u32,
    untold: u32,
    last: String,
}

impl Repairs {
    /// Takes note of one repair. What to tell now, if anything.
    pub fn note(&mut self, repair: String, now: Moment) -> Option<String> {
        if self.window.is_none_or(|end| end <= now) && self.untold == 0 {
            (self.window, self.lines) = (Some(now + WINDOW), 0);
        }
        if self.lines < LINES {
            self.lines += 1;
            return Some(repair);
        }
        self.untold += 1;
        self.last = repair;
        None
    }

    /// When there will be something to tell.
    pub fn due(&self) -> Option<Moment> {
        self.window.filter(|_| self.untold > 0)
    }

    /// The count of what was not told, once it is due. While there are many, this is all that is told.
    pub fn told(&mut self, now: Moment) -> Option<String> {
        self.due().filter(|due| *due <= now)?;
        self.window = Some(now + WINDOW);
        let untold = std::mem::take(&mut self.untold);
        let times = if untold == 1 { "once".to_owned() } else { format!("{untold} times") };
        Some(format!("{times} more within {} s, the last time: {}", WINDOW.as_secs(), std::mem::take(&mut self.last)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_few_repairs_are_each_told() {
        let mut repairs = Repairs::default();
        for number in 0..LINES {
            assert_eq!(repairs.note(number.to_string(), at(1)), Some(number.to_string()));
        }
        assert_eq!(repairs.due(), None, "nobody is woken for nothing");
        assert_eq!(repairs.note("later".into(), at(11)).as_deref(), Some("later"));
    }

    #[test]
    fn many_repairs_are_counted_and_none_is_forgotten() {
        let mut repairs = Repairs::default();
        let mut lines = Vec::new();
        let mut told = 0;
        // Ten in each of a hundred seconds.
        for second in 0..100 {
            lines.extend(repairs.told(at(second)));
            for number in 0..10 {
                if repairs.note(format!("{second}.{number}"), at(second)).is_some() {
                    told += 1;
                }
            }
        }
        assert_eq!(told, LINES);
        assert_eq!(lines.len(), 9);
        assert_eq!(lines[0], "95 times more within 10 s, the last time: 9.9");
        assert_eq!(lines[8], "100 times more within 10 s, the last time: 89.9");
        assert_eq!(repairs.due(), Some(at(100)));
        assert!(repairs.told(at(100)).unwrap().starts_with("100 times"));
        assert_eq!(repairs.due(), None);
    }

    #[test]
    fn after_a_quiet_window_each_is_told_again() {
        let mut repairs = Repairs::default();
        for _ in 0..=LINES {
            repairs.note("first".into(), at(0));
        }
        assert_eq!(repairs.told(at(9)), None);
        assert_eq!(repairs.told(at(10)).unwrap(), "once more within 10 s, the last time: first");
        assert_eq!(repairs.note("at once".into(), at(19)), None, "it may be the same again");
        assert_eq!(repairs.told(at(20)).unwrap(), "once more within 10 s, the last time: at once");
        assert_eq!(repairs.note("quiet since".into(), at(31)).unwrap(), "quiet since");
    }
}
