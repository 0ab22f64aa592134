//! Two hosts on one certificate: what was seen, and how long newcomers wait because of it. Pure; the time is handed in.
//!
//! Without this the two would throw each other out for ever. A client that merely roams leaves no evidence, however often
//! it reconnects, and so never waits.

use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

/// The longest wait.
const LONGEST: Duration = Duration::from_secs(300);
/// Without new evidence for this long all is forgotten.
const QUIET: Duration = Duration::from_secs(600);

/// What is known of every address that more than one host seems to use.
#[derive(Debug, Default)]
pub struct Duplicates(HashMap<Ipv6Addr, Seen>);

#[derive(Debug)]
struct Seen {
    count: u32,
    last: Instant,
    /// When a newcomer may take over. The first that has to wait sets it, and those after it share it: a client that
    /// gives up and comes again does not start from the beginning.
    open: Option<Instant>,
}

impl Duplicates {
    /// A superseded session turned out to belong to another live host. Returns how often that was seen of late.
    pub fn evidence(&mut self, address: Ipv6Addr, now: Instant) -> u32 {
        self.forget(now);
        let seen = self.0.entry(address).or_insert(Seen { count: 0, last: now, open: None });
        seen.count = seen.count.saturating_add(1);
        seen.last = now;
        seen.count
    }

    /// Until when a newcomer waits while the present session lives; `None`: it takes over at once.
    pub fn hold(&mut self, address: Ipv6Addr, now: Instant) -> Option<Instant> {
        self.forget(now);
        let seen = self.0.get_mut(&address)?;
        let wait = Duration::from_secs(1_u64.checked_shl(seen.count).unwrap_or(u64::MAX)).min(LONGEST);
        let open = *seen.open.get_or_insert(now + wait);
        (open > now).then_some(open)
    }

    /// A newcomer took over: the next one waits anew.
    pub fn took_over(&mut self, address: Ipv6Addr) {
        if let Some(seen) = self.0.get_mut(&address) {
            seen.open = None;
        }
    }

    /// Every address with evidence, and how often it was seen.
    pub fn all(&mut self, now: Instant) -> Vec<(Ipv6Addr, u32)> {
        self.forget(now);
        let mut all: Vec<_> = self.0.iter().map(|(address, seen)| (*address, seen.count)).collect();
        all.sort_unstable();
        all
    }

    fn forget(&mut self, now: Instant) {
        self.0.retain(|_, seen| now.saturating_duration_since(seen.last) < QUIET);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_wait_doubles_with_each_evidence_up_to_five_minutes() {
        let now = Instant::now();
        let mut duplicates = Duplicates::default();
        assert_eq!(duplicates.hold(ADDRESS, now), None, "nothing is known");
        for wait in [2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            duplicates.evidence(ADDRESS, now);
            duplicates.took_over(ADDRESS);
            assert_eq!(duplicates.hold(ADDRESS, now), Some(now + wait * SECOND));
        }
        for _ in 0..100 {
            duplicates.evidence(ADDRESS, now);
        }
        duplicates.took_over(ADDRESS);
        assert_eq!(duplicates.hold(ADDRESS, now), Some(now + LONGEST), "no overflow");
        assert_eq!(duplicates.hold(Ipv6Addr::LOCALHOST, now), None, "other addresses are not touched");
    }

    #[test]
    fn a_newcomer_that_comes_again_does_not_wait_from_the_beginning() {
        let now = Instant::now();
        let mut duplicates = Duplicates::default();
        for _ in 0..4 {
            duplicates.evidence(ADDRESS, now);
        }
        assert_eq!(duplicates.hold(ADDRESS, now), Some(now + 16 * SECOND));
        assert_eq!(duplicates.hold(ADDRESS, now + 10 * SECOND), Some(now + 16 * SECOND));
        assert_eq!(duplicates.hold(ADDRESS, now + 20 * SECOND), None);
    }

    #[test]
    fn ten_quiet_minutes_forget_it() {
        let now = Instant::now();
        let mut duplicates = Duplicates::default();
        duplicates.evidence(ADDRESS, now);
        assert_eq!(duplicates.all(now + QUIET - SECOND), [(ADDRESS, 1)]);
        assert_eq!(duplicates.hold(ADDRESS, now + QUIET), None);
        assert!(duplicates.all(now + QUIET).is_empty());
    }
}
