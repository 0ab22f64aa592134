use super::*;
use proptest::prelude::*;

const PERIOD: Duration = Duration::from_secs(300);
const TIMEOUT: Duration = Duration::from_secs(10);

fn at(seconds: u64) -> Moment {
    Duration::from_secs(seconds)
}

fn ms(milliseconds: u64) -> Moment {
    Duration::from_millis(milliseconds)
}

/// A clock whose first beat was answered after this long, which was then.
fn settled(round_trip: Moment) -> Clock {
    let mut clock = Clock::new(PERIOD, TIMEOUT, at(0));
    assert_eq!(clock.poll(at(0)), Beat::Send);
    assert_eq!(clock.answered(round_trip), Some(round_trip));
    clock
}

#[test]
fn the_first_beat_is_due_at_once_and_the_next_after_a_silent_period() {
    let mut clock = Clock::new(PERIOD, TIMEOUT, at(0));
    assert_eq!(clock.poll(at(0)), Beat::Send);
    assert_eq!(clock.poll(ms(999)), Beat::Wait);
    assert_eq!(clock.answered(ms(999)), Some(ms(999)));
    assert_eq!(clock.next(), Some(ms(300_999)));
    clock.heard(at(200));
    assert_eq!(clock.poll(at(301)), Beat::Wait);
    assert_eq!(clock.poll(at(500)), Beat::Send);
}

#[test]
fn the_deadline_counts_from_when_the_beat_was_due() {
    let mut clock = Clock::new(PERIOD, TIMEOUT, at(0));
    assert_eq!(clock.poll(at(4)), Beat::Send);
    assert_eq!(clock.poll(at(5)), Beat::Suspect);
    assert_eq!(clock.next(), Some(at(10)));
    assert_eq!(clock.poll(at(10)), Beat::Dead);
}

#[test]
fn a_program_that_was_stopped_itself_still_waits_for_the_answer() {
    let mut clock = settled(ms(20));
    assert_eq!(clock.poll(at(4000)), Beat::Send);
    assert_eq!(clock.poll(at(4000)), Beat::Wait);
    assert_eq!(clock.answered(at(4001)), Some(at(1)));
}

#[test]
fn any_valid_frame_proves_life_but_only_one_reply_is_awaited() {
    let mut clock = Clock::new(PERIOD, TIMEOUT, at(0));
    assert_eq!(clock.poll(at(0)), Beat::Send);
    clock.heard(at(9));
    assert_eq!(clock.poll(at(11)), Beat::Wait);
    assert!(clock.awaited());
    assert_eq!(clock.answered(at(12)), Some(at(12)));
    assert!(!clock.awaited());
    assert_eq!(clock.answered(at(13)), None);
}

#[test]
fn a_period_of_zero_beats_once_and_when_somebody_asks() {
    let mut clock = Clock::new(Duration::ZERO, TIMEOUT, at(0));
    assert_eq!(clock.poll(at(0)), Beat::Send);
    clock.answered(ms(1));
    clock.sent(at(2));
    assert_eq!((clock.poll(at(1000)), clock.next()), (Beat::Wait, None));
    clock.probe(at(2000));
    assert_eq!(clock.poll(at(2000)), Beat::Send);
    assert_eq!(clock.poll(at(2010)), Beat::Dead);
}

#[test]
fn traffic_without_an_answer_finds_a_dead_path_within_the_timeout() {
    let mut clock = settled(ms(20));
    clock.sent(at(100));
    clock.sent(at(104));
    assert_eq!(clock.next(), Some(at(105)), "half the timeout after the first packet");
    assert_eq!(clock.poll(at(105)), Beat::Send);
    clock.sent(at(105));
    assert_eq!(clock.poll(ms(105_200)), Beat::Suspect);
    assert_eq!((clock.next(), clock.poll(at(110))), (Some(at(110)), Beat::Dead), "and not after a period");
}

#[test]
fn traffic_that_is_answered_costs_no_beat_and_one_way_traffic_few() {
    let mut clock = settled(ms(20));
    for second in 1..1000 {
        clock.sent(at(second));
        assert_eq!(clock.poll(at(second)), Beat::Wait);
        clock.heard(at(second) + ms(30));
    }
    let mut clock = settled(ms(20));
    let mut beats = 0;
    for moment in (1..100_000).map(|tenths| ms(100 * tenths)) {
        clock.sent(moment);
        if clock.poll(moment) == Beat::Send {
            beats += 1;
            clock.answered(moment + ms(20));
        }
    }
    assert!((1900..=2000).contains(&beats), "one each five seconds: {beats}");
}

#[test]
fn a_probe_is_a_beat_now_and_two_are_not_closer_than_a_tenth_of_a_second() {
    let mut clock = settled(ms(20));
    clock.probe(at(7));
    assert_eq!(clock.poll(at(7)), Beat::Send);
    clock.probe(at(7) + ms(10));
    clock.probe(at(7) + ms(20));
    assert_eq!(clock.poll(at(7) + ms(20)), Beat::Wait);
    // What is heard meanwhile may be a leftover from before somebody became curious.
    assert_eq!(clock.answered(at(7) + ms(25)), Some(ms(25)));
    assert_eq!(clock.next(), Some(at(7) + ms(100)));
    assert_eq!(clock.poll(at(7) + ms(100)), Beat::Send);
    assert_eq!(clock.answered(at(7) + ms(120)), Some(ms(20)));
    assert_eq!(clock.next(), Some(at(307) + ms(120)));
}

#[test]
fn a_silent_path_is_suspected_after_some_round_trips_and_once() {
    for (round_trip, patience) in [(1, 200), (20, 200), (100, 400), (240, 960), (400, 1000), (700, 1400)] {
        let mut clock = settled(ms(round_trip));
        clock.probe(at(7));
        assert_eq!(clock.poll(at(7)), Beat::Send);
        assert_eq!(clock.next(), Some(at(7) + ms(patience)), "round trip {round_trip} ms");
        // A frame that was on its way when the path died proves nothing.
        clock.heard(at(7) + ms(round_trip / 2));
        assert_eq!(clock.poll(at(7) + ms(patience)), Beat::Suspect);
        assert_eq!(clock.poll(at(7) + ms(patience)), Beat::Wait);
    }
}

#[test]
fn a_path_on_which_frames_go_on_arriving_is_not_suspected() {
    let mut clock = settled(ms(20));
    clock.probe(at(7));
    assert_eq!(clock.poll(at(7)), Beat::Send);
    clock.heard(at(7) + ms(150));
    assert_eq!(clock.poll(at(7) + ms(200)), Beat::Wait);
}

#[test]
fn a_round_trip_is_measured_only_where_it_is_clear_which_beat_was_answered() {
    let mut clock = settled(ms(20));
    clock.probe(at(7));
    assert_eq!(clock.poll(at(7)), Beat::Send);
    clock.probe(at(7) + ms(100));
    assert_eq!(clock.poll(at(7) + ms(100)), Beat::Send);
    assert_eq!(clock.answered(at(7) + ms(150)), None);
    assert!(clock.awaited());
    assert_eq!(clock.answered(at(7) + ms(160)), Some(ms(60)));
    assert!(!clock.awaited());
}

/// What may happen to a clock.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Heard,
    Answered,
    Sent,
    Probe,
    /// Time passes, and the clock is asked whenever it wants to be.
    Passes(u64),
    /// Time passes, and nobody asks it.
    Stopped(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        Just(Happening::Heard),
        Just(Happening::Answered),
        Just(Happening::Sent),
        Just(Happening::Probe),
        (0..20_000_u64).prop_map(Happening::Passes),
        (0..400_000_u64).prop_map(Happening::Passes),
        (0..60_000_u64).prop_map(Happening::Stopped),
    ]
}

/// A clock, the time it has seen, and what it asked for.
struct Run {
    clock: Clock,
    now: Moment,
    beats: Vec<Moment>,
    suspects: usize,
    dead: bool,
}

impl Run {
    /// Asks until there is nothing more to do now.
    fn ask(&mut self) {
        for _ in 0..4 {
            match self.clock.poll(self.now) {
                Beat::Send => self.beats.push(self.now),
                Beat::Suspect => self.suspects += 1,
                Beat::Dead => return self.dead = true,
                Beat::Wait => {
                    assert!(self.clock.next().is_none_or(|next| next > self.now), "it spins: {:?}", self.clock);
                    return;
                }
            }
        }
        panic!("it asks for too much at once: {:?}", self.clock);
    }

    fn pass(&mut self, milliseconds: u64) {
        let end = self.now + ms(milliseconds);
        while let Some(next) = self.clock.next().filter(|next| *next <= end && !self.dead) {
            self.now = self.now.max(next);
            self.ask();
        }
        self.now = end;
    }

    fn happens(&mut self, what: Happening) {
        match what {
            Happening::Heard => self.clock.heard(self.now),
            Happening::Answered => {
                if self.clock.awaited() {
                    self.clock.answered(self.now);
                }
            }
            Happening::Sent => self.clock.sent(self.now),
            Happening::Probe => self.clock.probe(self.now),
            Happening::Passes(milliseconds) => self.pass(milliseconds),
            Happening::Stopped(milliseconds) => self.now += ms(milliseconds),
        }
        if !self.dead {
            self.ask();
        }
    }

    fn new(period: u64, timeout: u64) -> Self {
        let clock = Clock::new(ms(period), ms(timeout), at(0));
        Self { clock, now: at(0), beats: Vec::new(), suspects: 0, dead: false }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn heartbeats_never_stop_for_the_life_of_a_session(
        period in prop_oneof![100..1000_u64, Just(300_000)],
        timeout in 10..20_000_u64,
        story in prop::collection::vec(happening(), 0..60),
    ) {
        let mut run = Run::new(period, timeout);
        for what in story {
            run.happens(what);
            prop_assert!(run.suspects <= run.beats.len(), "at most one for each beat");
            if run.dead { return Ok(()); }
        }
        // From here on the far end is silent: that is found in time, whatever happened before.
        run.pass(period + 2 * timeout + 200);
        prop_assert!(run.dead, "{:?}", run.clock);
    }

    #[test]
    fn a_far_end_that_answers_in_time_is_never_suspected_and_seldom_asked(
        timeout in 1_000..20_000_u64,
        round_trip in 1..400_u64,
        sends in prop::collection::vec(0..5_000_u64, 1..100),
    ) {
        let mut run = Run::new(300_000, timeout);
        run.ask();
        let mut answered = 0;
        for wait in sends {
            let end = run.now + ms(wait);
            loop {
                let answer = run.beats.get(answered).map(|beat| *beat + ms(round_trip));
                let next = [answer, run.clock.next()].into_iter().flatten().min();
                let Some(next) = next.filter(|next| *next <= end) else { break };
                run.now = next;
                if Some(next) == answer {
                    answered += 1;
                    run.clock.answered(next);
                }
                run.ask();
            }
            run.now = end;
            run.happens(Happening::Sent);
        }
        prop_assert_eq!((run.dead, run.suspects), (false, 0), "{:?}", run.clock);
        for pair in run.beats.windows(2) {
            prop_assert!(pair[1] - pair[0] >= ms(timeout) / 2, "{:?}", run.beats);
        }
    }

    #[test]
    fn a_period_of_zero_never_beats_by_itself(story in prop::collection::vec(happening(), 0..60)) {
        let mut run = Run::new(0, 10_000);
        let mut probes = 0;
        run.ask();
        for what in story {
            probes += usize::from(matches!(what, Happening::Probe));
            run.happens(what);
            if run.dead { return Ok(()); }
            prop_assert!(run.beats.len() <= 1 + probes);
        }
    }
}
