//! Random faults in simulated time: the state machine alone, with a world that answers it. As the fault suite, but a day takes
//! a moment.

use crate::common::seeded::Seeded;
use enftun::config::{Lockdown, Retry};
use enftun::error::Class;
use enftun::state::{Effect, Ended, Event, Failure, Link, Moment, Phase, Policy, Reason, SessionId, Tick, Tls, Tunnel};
use std::collections::BTreeMap;
use std::time::Duration;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
const HEARTBEAT: Duration = Duration::from_secs(10);
const HANDSHAKE: Duration = Duration::from_millis(50);

fn policy() -> Policy {
    Policy { retry: Retry::default(), lockdown: Lockdown::Boot, overlaps: true }
}

fn link() -> Link {
    Link {
        remote: "router.example.net:443".into(),
        index: 0,
        peer: "192.0.2.1:443".parse().ok(),
        local: "192.0.2.9:40000".parse().ok(),
        addresses: vec!["fd00:8f80:1::1234/128".parse().unwrap()],
        tls: Tls::default(),
    }
}

/// What a far end does with an attempt, and with the sessions that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum World {
    Good,
    /// Everything vanishes.
    Silent,
    /// Every connection is reset at once.
    Refuses,
    /// It shakes hands and closes before the first frame.
    Closes,
    /// There is no way to anybody.
    NoNetwork,
}

/// A tunnel, the sessions that the daemon would run, and the time.
struct Simulation {
    tunnel: Tunnel,
    now: Moment,
    chance: Seeded,
    world: World,
    wake: Option<Moment>,
    /// What each session will say next, and when; none: nothing by itself.
    sessions: BTreeMap<SessionId, Option<(Moment, bool)>>,
    starts: Vec<Moment>,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut new = Self {
            tunnel: Tunnel::default(),
            now: Duration::ZERO,
            chance: Seeded::new(seed),
            world: World::Good,
            wake: None,
            sessions: BTreeMap::new(),
            starts: Vec::new(),
        };
        new.tell(Event::Connect(Reason::Boot));
        new
    }

    fn tell(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let tick = Tick { now: self.now, random: self.chance.share() };
            for effect in self.tunnel.step(event, &policy(), tick) {
                match effect {
                    Effect::Apply => events.push(Event::Applied),
                    Effect::Start(id) => {
                        self.starts.push(self.now);
                        let plan = self.attempt();
                        self.sessions.insert(id, Some(plan));
                    }
                    Effect::Stop(id) => self.sessions.retain(|session, _| *session > id),
                    Effect::Abandon(id) | Effect::Retire(id) => drop(self.sessions.remove(&id)),
                    Effect::WakeAt(at) => self.wake = at,
                    Effect::SaveTarget(_) | Effect::Probe(_) => {}
                }
            }
        }
    }

    /// When an attempt that begins now is decided, and whether it succeeds.
    fn attempt(&mut self) -> (Moment, bool) {
        match self.world {
            World::Good => (self.now + HANDSHAKE, true),
            World::Silent => (self.now + CONNECT_TIMEOUT, false),
            World::Refuses | World::Closes | World::NoNetwork => (self.now + HANDSHAKE, false),
        }
    }

    /// The world changes under the sessions that there are.
    fn becomes(&mut self, world: World) {
        self.world = world;
        if world == World::Good {
            return;
        }
        let last = self.now + if world == World::Silent { HEARTBEAT } else { Duration::ZERO };
        for plan in self.sessions.values_mut() {
            let sooner = plan.map_or(last, |(at, _)| at.min(last));
            *plan = Some((sooner, false));
        }
    }

    /// Lets time pass, and everything happen that is due meanwhile.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let session = self.sessions.iter().filter_map(|(id, plan)| plan.map(|(at, good)| (at, *id, good))).min();
            let wake = self.wake.map(|at| at.max(self.now));
            let next = session.map(|(at, ..)| at).into_iter().chain(wake).min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            match session.filter(|(at, ..)| *at <= self.now) {
                Some((_, id, true)) => {
                    self.sessions.insert(id, None);
                    self.tell(Event::Ready(id, link()));
                }
                Some((_, id, false)) => {
                    self.sessions.remove(&id);
                    let (reason, unheard) = match self.world {
                        World::Silent => (Reason::Timeout, false),
                        World::Closes => (Reason::RemoteClosed, true),
                        World::NoNetwork => (Reason::NoNetwork, false),
                        World::Good | World::Refuses => (Reason::RemoteClosed, false),
                    };
                    let failure = Failure::new(reason, Class::Transient, "simulated");
                    self.tell(Event::Ended(id, Ended { unheard, ..Ended::of(failure) }));
                }
                None => {
                    self.wake = None;
                    self.tell(Event::Timer);
                }
            }
        }
        self.now = end;
    }

    /// How long from now until it is connected, looking so often.
    fn until_connected(&mut self, limit: Duration) -> Option<Duration> {
        let begun = self.now;
        while self.now - begun <= limit {
            if self.tunnel.phase == Phase::Connected {
                return Some(self.now - begun);
            }
            self.pass(Duration::from_millis(10));
        }
        None
    }

    fn connected(&self) -> bool {
        self.tunnel.phase == Phase::Connected
    }
}

/// One dead attempt ends, the longest delay passes, the next one succeeds.
fn bound() -> Duration {
    HEARTBEAT + CONNECT_TIMEOUT + Retry::default().max + HANDSHAKE * 2
}

#[test]
fn after_a_thousand_random_sequences_in_simulated_time_it_is_connected_and_never_spins() {
    for seed in 0..1000 {
        let mut it = Simulation::new(seed);
        let mut events = 0;
        for _ in 0..5 + it.chance.below(40) {
            let session = it.tunnel.session().unwrap_or_default();
            match it.chance.below(12) {
                0..=4 => {
                    let worlds = [World::Good, World::Silent, World::Refuses, World::Closes, World::NoNetwork];
                    let world = it.chance.one_of(&worlds);
                    it.becomes(world);
                }
                roll => {
                    events += 1;
                    it.tell(match roll {
                        5 | 6 => Event::PathChanged,
                        7 => Event::PathRestored,
                        8 => Event::Suspect(session),
                        9 => Event::Resumed,
                        10 => Event::Renewed,
                        _ => Event::ClockSet,
                    });
                }
            }
            // From a moment to an hour.
            let scale = it.chance.below(12) as u32;
            let share = it.chance.share();
            it.pass(Duration::from_secs_f64(share * f64::from(1u32 << scale)));
        }
        // The world is good again, and nobody says so.
        it.becomes(World::Good);
        let back = it.until_connected(bound());
        assert!(back.is_some(), "seed {seed}: {:#?}", it.tunnel);
        it.pass(Duration::from_secs(3600));
        assert!(it.connected(), "seed {seed}: and it stays so: {:#?}", it.tunnel);
        assert_eq!(it.sessions.len(), 1, "seed {seed}: one session");
        // Never spins: attempts that no event asked for are at least the shortest delay apart, and seldom so near.
        let near = it.starts.windows(2).filter(|pair| pair[1] - pair[0] < Duration::from_millis(50)).count();
        assert!(near <= events, "seed {seed}: {near} attempts directly after another, with {events} events");
    }
}

#[test]
fn a_router_that_restarts_every_second_for_an_hour_is_tried_ever_more_seldom_and_found_when_it_stays() {
    for seed in 0..50 {
        let mut it = Simulation::new(seed);
        for _ in 0..3600 {
            it.becomes(World::Refuses);
            it.pass(Duration::from_millis(300));
            it.becomes(World::Good);
            it.pass(Duration::from_millis(700));
        }
        // With full jitter, delays are half the longest on average; the first few are shorter.
        assert!(it.starts.len() < 400, "seed {seed}: {} attempts in an hour", it.starts.len());
        assert!(it.until_connected(bound()).is_some(), "seed {seed}: {:#?}", it.tunnel);
    }
}

#[test]
fn a_week_without_any_router_costs_few_attempts_and_ends_with_the_router() {
    for world in [World::Silent, World::Refuses, World::Closes, World::NoNetwork] {
        let mut it = Simulation::new(7);
        it.pass(Duration::from_secs(120));
        it.becomes(world);
        it.pass(Duration::from_secs(7 * 86_400));
        assert!(it.starts.len() > 1000, "{world:?}: it never gives up: {} attempts", it.starts.len());
        // Half of retry.max on average.
        assert!(it.starts.len() < 7 * 86_400 / 20, "{world:?}: {} attempts", it.starts.len());
        it.becomes(World::Good);
        assert!(it.until_connected(bound()).is_some(), "{world:?}: {:#?}", it.tunnel);
    }
}

/// `docs/faults.md` names the tests that hold each promise.
#[test]
fn every_test_that_the_page_of_faults_names_is_there() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/faults.md")).unwrap();
    let mut sources = String::new();
    let mut left = vec![root.join("src"), root.join("tests")];
    while let Some(place) = left.pop() {
        if place.is_dir() {
            left.extend(std::fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path()));
        } else if place.extension().is_some_and(|extension| extension == "rs") {
            sources += &std::fs::read_to_string(place).unwrap();
        }
    }
    let words = page.split('`').skip(1).step_by(2).filter(|word| word.matches('_').count() > 2 && !word.contains(' '));
    let names: Vec<&str> = words.collect();
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        assert!(sources.contains(&format!("fn {name}(")), "there is no test {name}");
    }
}
