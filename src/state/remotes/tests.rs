//! By story, and by random worlds in which remotes come and go.

use super::*;
use proptest::prelude::*;

const RETRY: Retry = Retry {
    first: Duration::from_secs(1),
    max: Duration::from_secs(60),
    jitter: 0.0,
    stable_after: Duration::from_secs(60),
};

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn at(seconds: u64) -> Tick {
    Tick { now: secs(seconds), random: 0.0 }
}

/// A session with `index` that begins and ends.
fn session(remotes: &mut Remotes, index: usize, from: u64, to: u64) {
    remotes.ready(index, at(from), &RETRY);
    remotes.lost(index, secs(to - from), at(to), &RETRY);
}

#[test]
fn remotes_are_tried_in_the_configured_order() {
    assert_eq!(Remotes::default().order(3, secs(0)), [0, 1, 2]);
    assert!(Remotes::default().order(0, secs(0)).is_empty());
}

#[test]
fn one_that_failed_waits_behind_the_others_for_a_back_off_of_its_own() {
    let mut remotes = Remotes::default();
    remotes.refused(0, at(10), &RETRY);
    assert_eq!(remotes.order(2, secs(10)), [1, 0]);
    assert_eq!(remotes.order(2, secs(11)), [0, 1]);
    remotes.refused(0, at(11), &RETRY);
    assert_eq!(remotes.order(2, secs(12)), [1, 0]);
    assert_eq!(remotes.order(2, secs(13)), [0, 1]);
}

#[test]
fn when_all_wait_the_one_that_is_due_first_is_tried_first() {
    let mut remotes = Remotes::default();
    for seconds in [0, 1] {
        remotes.refused(0, at(seconds), &RETRY);
    }
    remotes.refused(1, at(1), &RETRY);
    assert_eq!(remotes.order(2, secs(1)), [1, 0]);
}

#[test]
fn after_a_short_outage_the_last_good_one_is_first_and_after_a_long_one_the_preferred() {
    let mut remotes = Remotes::default();
    session(&mut remotes, 1, 0, 100);
    assert_eq!(remotes.order(3, secs(101)), [1, 0, 2]);
    assert_eq!(remotes.order(3, secs(100) + SHORT_OUTAGE), [1, 0, 2]);
    assert_eq!(remotes.order(3, secs(101) + SHORT_OUTAGE), [0, 1, 2]);
}

#[test]
fn a_path_change_asks_the_remote_in_use_first() {
    let mut remotes = Remotes::default();
    remotes.ready(1, at(0), &RETRY);
    remotes.network_changed(secs(5));
    assert_eq!(remotes.order(2, secs(5)), [1, 0]);
}

#[test]
fn one_short_session_may_be_the_paths_fault_and_a_second_sends_the_tunnel_elsewhere() {
    let mut remotes = Remotes::default();
    session(&mut remotes, 0, 0, 5);
    assert_eq!(remotes.order(2, secs(5)), [0, 1]);
    session(&mut remotes, 0, 5, 10);
    assert_eq!(remotes.order(2, secs(10)), [1, 0]);
}

#[test]
fn a_session_that_was_replaced_is_no_failure_of_its_remote() {
    let mut remotes = Remotes::default();
    remotes.ready(1, at(0), &RETRY);
    remotes.ready(0, at(5), &RETRY);
    let before = remotes.clone();
    remotes.lost(1, secs(5), at(6), &RETRY);
    assert_eq!(remotes, before);
}

#[test]
fn looks_for_the_preferred_one_become_rarer_up_to_ten_minutes() {
    let mut remotes = Remotes::default();
    remotes.refused(0, at(0), &RETRY);
    remotes.ready(1, at(0), &RETRY);
    let mut gaps = Vec::new();
    let mut last = Duration::ZERO;
    for _ in 0..7 {
        let due = remotes.return_at(1).unwrap();
        let tick = Tick { now: due, random: 0.0 };
        assert!(remotes.better(1, Tick { now: due - secs(1), ..tick }, &RETRY).is_empty());
        assert_eq!(remotes.better(1, tick, &RETRY), [0]);
        remotes.refused(0, tick, &RETRY);
        gaps.push((due - last).as_secs());
        last = due;
    }
    assert_eq!(gaps, [60, 120, 240, 480, 600, 600, 600]);
    remotes.ready(0, Tick { now: last, random: 0.0 }, &RETRY);
    assert_eq!(remotes.return_at(0), None);
}

#[test]
fn a_change_of_the_network_opens_every_back_off_and_looks_at_once_but_a_storm_of_changes_does_not_spin() {
    let mut remotes = Remotes::default();
    for seconds in 0..9 {
        remotes.refused(0, at(seconds), &RETRY);
    }
    remotes.ready(1, at(10), &RETRY);
    remotes.network_changed(secs(11));
    assert_eq!(remotes.return_at(1), Some(secs(11)));
    let mut looks = 0;
    for step in 0..1000 {
        let tick = Tick { now: secs(11) + Duration::from_millis(10 * step), random: 0.0 };
        remotes.network_changed(tick.now);
        looks += remotes.better(1, tick, &RETRY).len();
    }
    assert_eq!(looks, 10);
}

#[test]
fn a_preferred_one_that_is_lost_soon_after_moving_back_waits_and_each_time_twice_as_long() {
    let mut remotes = Remotes::default();
    let mut now = 0;
    let mut waits = Vec::new();
    for _ in 0..6 {
        remotes.ready(1, at(now), &RETRY);
        remotes.ready(0, at(now), &RETRY);
        remotes.lost(0, secs(5), at(now + 5), &RETRY);
        assert_eq!(remotes.order(2, secs(now + 5)), [1, 0]);
        remotes.ready(1, at(now + 5), &RETRY);
        remotes.network_changed(secs(now + 6));
        let due = remotes.return_at(1).unwrap().as_secs();
        waits.push(due - now - 5);
        now = due;
    }
    assert_eq!(waits, [60, 120, 240, 480, 600, 600]);
    // Once it has lived, it is as good as any.
    session(&mut remotes, 0, now, now + 60);
    assert_eq!(remotes.order(2, secs(now + 60)), [0, 1]);
}

#[test]
fn a_reconnect_by_hand_forgets_every_wait() {
    let mut remotes = Remotes::default();
    remotes.refused(0, at(0), &RETRY);
    session(&mut remotes, 1, 0, 100);
    remotes.reset();
    assert_eq!(remotes, Remotes::default());
}

/// Remotes as they are: `None` refuses; otherwise a session lives so long.
type World = Vec<Option<Duration>>;

/// A tunnel that does with the memory what the daemon does, in a world that changes, for a day.
struct Driver {
    remotes: Remotes,
    world: World,
    now: Moment,
    random: f64,
    retry: Retry,
    /// Whose session is up, since when, and until when.
    session: Option<(usize, Moment, Moment)>,
    pause: Backoff,
    /// When each remote was dialled.
    dials: Vec<Vec<Moment>>,
    moved_back: usize,
}

impl Driver {
    fn new(world: World, retry: Retry, random: f64) -> Self {
        Self {
            remotes: Remotes::default(),
            dials: vec![Vec::new(); world.len()],
            world,
            now: Duration::ZERO,
            random,
            retry,
            session: None,
            pause: Backoff::default(),
            moved_back: 0,
        }
    }

    fn tick(&self) -> Tick {
        Tick { now: self.now, random: self.random }
    }

    fn dial(&mut self, order: &[usize]) -> bool {
        for &index in order {
            self.dials[index].push(self.now);
            match self.world[index] {
                Some(lives) => {
                    self.remotes.ready(index, self.tick(), &self.retry);
                    self.session = Some((index, self.now, self.now + lives));
                    return true;
                }
                None => self.remotes.refused(index, self.tick(), &self.retry),
            }
        }
        false
    }

    /// One thing happens: an attempt, a look, or the end of a session.
    fn step(&mut self, until: Moment) {
        match self.session {
            None => {
                let order = self.remotes.order(self.world.len(), self.now);
                if !self.dial(&order) {
                    self.now += self.pause.next(&self.retry, self.random);
                }
            }
            Some((index, since, end)) => match self.remotes.return_at(index) {
                Some(look) if look < end && look < until => {
                    self.now = self.now.max(look);
                    let better = self.remotes.better(index, self.tick(), &self.retry);
                    assert!(!better.is_empty() && better.iter().all(|better| *better < index), "a look for nothing");
                    self.moved_back += usize::from(self.dial(&better));
                }
                _ => {
                    self.now = end.min(until).max(self.now);
                    if self.now >= end {
                        self.session = None;
                        let lived = self.now - since;
                        if lived >= self.retry.stable_after {
                            self.pause.reset();
                        }
                        self.remotes.lost(index, lived, self.tick(), &self.retry);
                        self.now += self.pause.next(&self.retry, self.random);
                    }
                }
            },
        }
    }

    fn run(&mut self, until: Moment) {
        while self.now < until {
            self.step(until);
        }
    }
}

fn remote() -> impl Strategy<Value = Option<Duration>> {
    prop_oneof![Just(None), (1u64..200).prop_map(|lives| Some(secs(lives))), Just(Some(secs(1_000_000)))]
}

fn retries() -> impl Strategy<Value = Retry> {
    (1u64..20, 1u64..8, 0.0..=1.0, 0u64..200).prop_map(|(first, factor, jitter, stable)| Retry {
        first: Duration::from_millis(first * 100),
        max: Duration::from_millis(first * 100 * factor * factor),
        jitter,
        stable_after: secs(stable),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn every_remote_is_in_every_order_once_and_none_that_waits_before_one_that_does_not(
        events in proptest::collection::vec((0u8..5, 0usize..4, 0u64..100, 0.0..1.0), 0..60),
        retry in retries(),
    ) {
        let mut remotes = Remotes::default();
        let mut now = Duration::ZERO;
        for (kind, index, wait, random) in events {
            now += secs(wait);
            let tick = Tick { now, random };
            match kind {
                0 => remotes.refused(index, tick, &retry),
                1 => remotes.ready(index, tick, &retry),
                2 => remotes.lost(index, secs(wait), tick, &retry),
                3 => remotes.network_changed(now),
                _ => drop(remotes.better(index, tick, &retry)),
            }
            let order = remotes.order(4, now);
            let mut all = order.clone();
            all.sort_unstable();
            prop_assert_eq!(all, vec![0, 1, 2, 3]);
            prop_assert!(order.iter().is_sorted_by_key(|&index| remotes.due(index) > now));
            for remote in remotes.each.values() {
                prop_assert!(remote.retry_at <= now + retry.max.max(Duration::from_millis(50)));
                prop_assert!(remote.settle_at <= now + LONGEST.max(retry.stable_after));
            }
        }
    }

    /// Whatever happened before: once only one remote works, it is dialled within `retry.max` of the last failure of any.
    #[test]
    fn the_only_remote_that_works_is_found_within_the_longest_delay(
        world in proptest::collection::vec(remote(), 1..5),
        good in 0usize..5,
        random in 0.0..1.0,
        retry in retries(),
    ) {
        let mut driver = Driver::new(world, retry, random);
        driver.run(secs(3600));
        let good = good % driver.world.len();
        driver.world.fill(None);
        driver.world[good] = Some(secs(1_000_000));
        if let Some((index, _, end)) = &mut driver.session && *index != good {
            *end = driver.now;
        }
        let from = driver.now;
        while !matches!(driver.session, Some((index, ..)) if index == good) {
            driver.step(Duration::MAX);
        }
        prop_assert!(driver.now - from <= retry.max.max(Duration::from_millis(50)), "after {:?}", driver.now - from);
    }

    /// However the remotes behave, none is dialled more often than the pauses and looks allow.
    #[test]
    fn nothing_spins(world in proptest::collection::vec(remote(), 1..5), random in 0.0..1.0, retry in retries()) {
        let mut driver = Driver::new(world, retry, random);
        driver.run(secs(3600));
        for dials in &driver.dials {
            for (count, pair) in dials.windows(2).enumerate() {
                prop_assert!(pair[1] - pair[0] >= Duration::from_millis(50), "dial {}: {:?}", count, pair);
            }
        }
    }

    /// The preferred remote takes every session and drops it soon; the second works. Over a day the tunnel moves to the first
    /// only as often as doubling waits of up to ten minutes let it.
    #[test]
    fn a_preferred_remote_that_comes_and_goes_does_not_take_the_tunnel_with_it(
        lives in 1u64..60, random in 0.0..1.0, jitter in 0.0..=1.0,
    ) {
        let mut driver = Driver::new(vec![Some(secs(lives)), Some(secs(1_000_000))], Retry { jitter, ..RETRY }, random);
        driver.run(secs(86_400));
        prop_assert!(driver.moved_back <= 24 * 6 + 5, "{} times", driver.moved_back);
        // It is not given up either.
        prop_assert!(driver.moved_back >= 24 * 6 / 2, "{} times", driver.moved_back);
    }

    /// A preferred remote that is back for good is used again within the longest wait between looks.
    #[test]
    fn the_preferred_remote_is_returned_to_once_it_is_back(away in 1u64..86_400, random in 0.0..1.0, jitter in 0.0..=1.0) {
        let mut driver = Driver::new(vec![None, Some(secs(1_000_000))], Retry { jitter, ..RETRY }, random);
        driver.run(secs(away));
        driver.world[0] = Some(secs(1_000_000));
        driver.run(secs(away) + LONGEST);
        prop_assert_eq!(driver.session.map(|(index, ..)| index), Some(0));
        prop_assert_eq!(driver.moved_back, 1);
    }
}

#[test]
fn one_that_went_away_is_not_tried_until_it_is_back_unless_there_is_no_other() {
    let mut remotes = Remotes::default();
    session(&mut remotes, 0, 0, 100);
    assert!(remotes.went_away(0, secs(30), 2, at(100), &RETRY), "the other does not wait");
    assert_eq!((remotes.order(2, secs(100)), remotes.order(2, secs(129))), (vec![1], vec![1]));
    // It was the last good one, and is preferred.
    assert_eq!(remotes.order(2, secs(130)), [0, 1]);
    assert_eq!(remotes.return_at(1), Some(secs(130)), "nobody looks for it before either");

    let mut alone = Remotes::default();
    session(&mut alone, 0, 0, 100);
    assert!(!alone.went_away(0, secs(30), 1, at(100), &RETRY));
    assert_eq!(alone.order(1, secs(100)), [0], "there must be something to try");

    let mut both = Remotes::default();
    both.refused(1, at(100), &RETRY);
    session(&mut both, 0, 0, 100);
    assert!(!both.went_away(0, secs(30), 2, at(100), &RETRY), "the other waits, too");
}

#[test]
fn no_hint_is_longer_than_the_longest_delay_and_none_can_make_two_remotes_take_turns_without_a_pause() {
    let mut remotes = Remotes::default();
    session(&mut remotes, 0, 0, 100);
    assert!(remotes.went_away(0, secs(86_400), 2, at(100), &RETRY));
    assert_eq!((remotes.order(2, secs(159)), remotes.order(2, secs(160))), (vec![1], vec![0, 1]));
    let mut remotes = Remotes::default();
    for (index, seconds) in [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2)] {
        session(&mut remotes, index, seconds, seconds);
        let other_is_free = remotes.went_away(index, Duration::ZERO, 2, at(seconds), &RETRY);
        // The other has waited for its back-off of one second, then of two.
        assert_eq!(other_is_free, [(0, 0), (0, 1)].contains(&(index, seconds)), "{index} at {seconds}");
    }
}

#[test]
fn whoever_takes_no_names_is_remembered_until_somebody_wants_it_tried_now() {
    let mut remotes = Remotes::default();
    remotes.takes_no_names(1);
    session(&mut remotes, 1, 0, 1000);
    remotes.refused(1, at(1001), &RETRY);
    remotes.network_changed(secs(1002));
    assert!(remotes.nameless().iter().eq(&[1]));
    remotes.reset();
    assert!(remotes.nameless().is_empty());
}
