//! How often somebody may try: token buckets, one for each who. Pure; the time is handed in.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// More are not remembered at the same time; further ones wait, as whoever has tried too often does.
const MOST: usize = 16384;

/// One bucket each.
#[derive(Debug)]
pub struct Limit<Who> {
    burst: u32,
    every: Duration,
    /// When a bucket will be full again. One that is full is not kept.
    full: HashMap<Who, Instant>,
}

impl<Who: Eq + Hash> Limit<Who> {
    /// So many at once, and one more each time that `every` has passed.
    pub fn new(burst: u32, every: Duration) -> Self {
        Self { burst, every, full: HashMap::new() }
    }

    /// Takes one; else says when there will be one.
    pub fn take(&mut self, who: Who, now: Instant) -> Result<(), Duration> {
        if self.full.len() >= MOST {
            self.full.retain(|_, full| *full > now);
        }
        if self.full.len() >= MOST && !self.full.contains_key(&who) {
            return Err(self.every);
        }
        let full = self.full.entry(who).or_insert(now);
        let from = (*full).max(now);
        let until = from + self.every;
        match until.duration_since(now).checked_sub(self.every * self.burst) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => {
                *full = until;
                Ok(())
            }
        }
    }
}

/// Who somebody is by the address: in IPv6 a host has a whole /64.
pub fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address) & !u128::from(u64::MAX))),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_and_then_one_after_another() {
        let (mut limit, now) = (Limit::new(3, 6 * SECOND), Instant::now());
        for _ in 0..3 {
            assert_eq!(limit.take("a", now), Ok(()));
        }
        assert_eq!(limit.take("a", now), Err(6 * SECOND));
        assert_eq!(limit.take("b", now), Ok(()), "everybody has an own one");
        assert_eq!(limit.take("a", now + 2 * SECOND), Err(4 * SECOND), "who asks in vain does not wait for longer");
        assert_eq!(limit.take("a", now + 6 * SECOND), Ok(()));
        assert_eq!(limit.take("a", now + 6 * SECOND), Err(6 * SECOND));
        for _ in 0..3 {
            assert_eq!(limit.take("a", now + 60 * SECOND), Ok(()));
        }
        assert!(limit.take("a", now + 60 * SECOND).is_err(), "it never holds more than the burst");
    }

    #[test]
    fn however_many_try_the_memory_is_bounded_and_free_again_after_a_while() {
        let (mut limit, now) = (Limit::new(1, SECOND), Instant::now());
        for who in 0..MOST {
            assert_eq!(limit.take(who, now), Ok(()));
        }
        assert_eq!(limit.take(MOST, now), Err(SECOND));
        assert_eq!(limit.full.len(), MOST);
        assert_eq!(limit.take(MOST, now + SECOND), Ok(()));
        assert_eq!(limit.full.len(), 1);
    }

    #[test]
    fn all_addresses_of_one_host_are_one_source() {
        let of = |text: &str| source(text.parse().unwrap()).to_string();
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(of("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(of("192.0.2.7"), "192.0.2.7");
    }
}
