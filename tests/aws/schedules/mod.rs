//! Random schedules between the engines of a source and a destination, in simulated time and without any I/O: frames wait,
//! are cut and merged, applications read slowly and end as they like, dials fail, sessions are lost and come back, the service
//! resets what it wants. Whatever happens: what an application gets is a prefix of what the one at the other end has sent, and
//! all of it where nothing was cut; no byte comes to a connection that it was not sent to; every connection ends; nothing is
//! left behind.
//!
//! Each schedule is drawn from a seed, and `ENFTUN_SCHEDULE_SEED` tells one again.

mod application;
mod relay;
mod verdict;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use enftun::config::{Compat, Limits};
use enftun::tunnel::aws::engine::Why;

use crate::common::seeded::Seeded;
use crate::common::{figure, long};
use application::{End, Kind};
use world::World;

/// What a schedule is like. What happens in it is drawn while it goes on.
#[derive(Clone, Debug)]
pub struct Plan {
    pub compat: Compat,
    pub services: Vec<String>,
    pub limits: Limits,
    pub clients: u64,
    /// Sessions are lost.
    pub losses: bool,
    /// The service resets the other side's streams when one side has come back.
    pub resets: bool,
    /// The service resets streams and sessions as it likes.
    pub moods: bool,
    /// Some dials fail.
    pub failures: bool,
    /// How long the pieces are in which a WebSocket's bytes come, at most.
    pub pieces: u64,
    /// Applications read slowly, stall, or break off.
    pub unruly: bool,
}

impl Plan {
    fn draw(chance: &mut Seeded) -> Self {
        let compat = chance.one_of(&[Compat::V1, Compat::V2, Compat::V3, Compat::V3]);
        let names = chance.one_of(&[&["SSH"][..], &[""], &["SSH", "db.example.net"], &["a", "b", "c"]]);
        let names = if compat == Compat::V1 { &names[..1] } else { names };
        let milliseconds = |chance: &mut Seeded, least, most| Duration::from_millis(least + chance.below(most - least));
        let limits = Limits {
            max_connections: 1 + chance.below(20) as usize,
            max_payload: chance.one_of(&[1, 7, 300, 4000, 64_512]),
            queue: chance.one_of(&[0, 10, 1000, 20_000, 1 << 20]),
            patience: milliseconds(chance, 50, 5000),
            half_close_grace: chance.one_of(&[0, 20, 2000]).try_into().map(Duration::from_millis).unwrap(),
            ..Limits::default()
        };
        let mut half = || chance.below(2) == 0;
        let (losses, resets, moods, failures, unruly) = (half(), half(), half() && half(), half(), half());
        let (clients, pieces) = (1 + chance.below(20), chance.one_of(&[3, 40, 1000, 131_076]));
        let services = names.iter().map(ToString::to_string).collect();
        Self { compat, services, limits, clients, losses, resets, moods, failures, pieces, unruly }
    }
}

/// Lives through what this seed draws.
fn live_through(seed: u64) -> World {
    let mut chance = Seeded::new(seed);
    let plan = Plan::draw(&mut chance);
    let mut world = World::new(plan, chance);
    world.live();
    world.settle();
    world.judge();
    world
}

/// So many schedules, on as many processors as there are.
fn all(schedules: u64) {
    if let Ok(seed) = std::env::var("ENFTUN_SCHEDULE_SEED") {
        live_through(seed.parse().expect("ENFTUN_SCHEDULE_SEED is a number"));
        return;
    }
    let (next, bytes, connections, equal) =
        (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let failures = Mutex::new(Vec::new());
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some(seed) = Some(next.fetch_add(1, SeqCst)).filter(|seed| *seed < schedules) {
                    match catch_unwind(AssertUnwindSafe(|| live_through(seed))) {
                        Ok(world) => {
                            let received: usize = world.applications.iter().map(|one| one.received).sum();
                            bytes.fetch_add(received as u64, SeqCst);
                            connections.fetch_add(world.applications.len() as u64 / 2, SeqCst);
                            equal.fetch_add(world.equal, SeqCst);
                        }
                        Err(_) => failures.lock().unwrap().push(seed),
                    }
                }
            });
        }
    });
    figure(&format!(
        "{schedules} schedules in {:.1?}: {} connections, {} bytes, {} ways complete",
        begun.elapsed(),
        connections.into_inner(),
        bytes.into_inner(),
        equal.into_inner()
    ));
    let failures = failures.into_inner().unwrap();
    let Some(first) = failures.first() else { return };
    panic!(
        "{} of {schedules} failed: seeds {failures:?}; ENFTUN_SCHEDULE_SEED={first} tells the first again",
        failures.len()
    );
}

#[test]
fn in_any_schedule_what_arrives_is_a_prefix_of_what_was_sent_and_no_byte_crosses_connections() {
    all(if long() { 10_000 } else { 200 });
}

/// Nothing is cut by anybody: everything arrives.
fn calm(compat: Compat, limits: Limits, clients: u64, pieces: u64) -> Plan {
    let services = vec!["SSH".to_owned()];
    Plan {
        compat,
        services,
        limits,
        clients,
        losses: false,
        resets: false,
        moods: false,
        failures: false,
        pieces,
        unruly: false,
    }
}

#[test]
fn a_lone_slow_reader_ends_up_with_everything() {
    for (seed, compat) in [(1, Compat::V1), (2, Compat::V2), (3, Compat::V3)] {
        let limits = Limits { queue: 2000, patience: Duration::from_millis(500), ..Limits::default() };
        let mut world = World::new(calm(compat, limits, 0, 10_000), Seeded::new(seed));
        world.until_served();
        let slow = Kind { planned: 0, takes: 40, each: Duration::from_millis(5), ..Kind::default() };
        world.connect_as(0, Kind { planned: 300_000, ..Kind::default() }, slow);
        world.settle();
        world.judge();
        let received = world.applications.iter().map(|one| one.received).max();
        assert_eq!(received, Some(300_000), "{compat:?}");
        assert!(world.paused > 0, "it was never behind");
    }
}

#[test]
fn one_that_does_not_read_is_cut_off_and_all_others_get_everything() {
    let limits = Limits { queue: 2000, patience: Duration::from_millis(500), ..Limits::default() };
    let mut world = World::new(calm(Compat::V3, limits, 0, 10_000), Seeded::new(5));
    world.until_served();
    let deaf = Kind { takes: 0, ..Kind::default() };
    world.connect_as(0, Kind { planned: 100_000, ..Kind::default() }, deaf);
    for _ in 0..10 {
        world.connect_as(0, Kind { planned: 50_000, ..Kind::default() }, Kind { planned: 20_000, ..Kind::default() });
    }
    world.settle();
    world.judge();
    let cut = world.applications.iter().filter(|one| one.end == Some(End::Aborted(Why::TooSlow))).count();
    let full = |bytes| world.applications.iter().filter(|one| one.received == bytes).count();
    assert_eq!((cut, full(50_000), full(20_000)), (1, 10, 10));
}
