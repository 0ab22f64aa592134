//! Random sequences of faults: each is drawn from a seed and can be told again with `ENFTUN_FAULT_SEED`. After each one the
//! paths are made good, and the tunnel must be connected within the bound of its back-off. After many of them nothing may have
//! been left behind: no descriptor, no thread, no rule.

use crate::common::middle::{ROUTER, ROUTER6, Way};
use crate::common::roaming::{Settings, World, world};
use crate::common::seeded::Seeded;
use crate::common::{figure, long};
use nix::sys::signal::Signal;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// What the settings of these worlds promise: the path works again, so a dead session is found (heartbeat period and timeout),
/// the longest delay passes, and one attempt succeeds (TCP and TLS, each within the connect timeout).
const BOUND: Duration = Duration::from_millis(1000 + 500 + 1000 + 2 * 1000);
/// On top of it, for a machine that does other things.
const MARGIN: Duration = Duration::from_secs(10);

/// One thing that goes wrong, or right again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    LinkDown(usize),
    LinkUp(usize),
    /// The default routes of this link are the best from now on; the other link stays.
    Prefer(usize),
    /// Another address on the link, and the old one goes.
    Readdress(usize, u8),
    NoAddress(usize),
    KillRouter,
    StartRouter,
    StopRouter,
    ContinueRouter,
    /// The tunnel's connections pass no more; new ones do.
    Wedge,
    Cut(usize),
    HalfOpen(usize, Way),
    Reset(usize),
    NoWay(usize),
    Lossy(usize),
    Throttle(usize),
    Relay(usize),
    Heal(usize),
    NameServer(bool),
    Reload,
    Reconnect,
}

/// A fault, and how long nothing happens after it.
type Step = (Fault, Duration);

fn draw(seed: u64) -> Vec<Step> {
    let mut chance = Seeded::new(seed);
    (0..3 + chance.below(5))
        .map(|_| {
            let side = chance.below(2) as usize;
            let fault = match chance.below(24) {
                0 | 1 => Fault::LinkDown(side),
                2 | 3 => Fault::LinkUp(side),
                4..=6 => Fault::Prefer(side),
                7 => Fault::Readdress(side, 11 + chance.below(3) as u8),
                8 => Fault::NoAddress(side),
                9 => Fault::KillRouter,
                10 => Fault::StartRouter,
                11 => Fault::StopRouter,
                12 => Fault::ContinueRouter,
                13 => Fault::Wedge,
                14 | 15 => Fault::Cut(side),
                16 => Fault::HalfOpen(side, chance.one_of(&[Way::Up, Way::Down])),
                17 => Fault::Reset(side),
                18 => Fault::NoWay(side),
                19 => chance.one_of(&[Fault::Lossy(side), Fault::Throttle(side), Fault::Relay(side)]),
                20 => Fault::Heal(side),
                21 => Fault::NameServer(chance.below(2) == 1),
                22 => Fault::Reload,
                _ => Fault::Reconnect,
            };
            // Mostly in quick succession, now and then long enough for a heartbeat to be missed.
            let pause = if chance.below(4) == 0 { 2000 } else { 300 };
            (fault, Duration::from_millis(chance.below(pause)))
        })
        .collect()
}

fn happens(world: &mut World, fault: Fault) {
    match fault {
        Fault::LinkDown(side) => world.link_down(side),
        Fault::LinkUp(side) => world.link_up(side),
        Fault::Prefer(side) => {
            for side in [0, 1] {
                world.link_up(side);
            }
            world.prefer(side);
        }
        Fault::Readdress(side, host) => {
            world.addresses(side, host);
            (10..14).filter(|old| *old != host).for_each(|old| world.no_address(side, old));
            world.route(side, 100 * (side + 1));
        }
        Fault::NoAddress(side) => (10..14).for_each(|old| world.no_address(side, old)),
        Fault::KillRouter => world.kill_router(),
        Fault::StartRouter if world.router_runs() => {}
        Fault::StartRouter => world.start_router(),
        Fault::StopRouter | Fault::ContinueRouter if !world.router_runs() => {}
        Fault::StopRouter => world.signal_router(Signal::SIGSTOP),
        Fault::ContinueRouter => world.signal_router(Signal::SIGCONT),
        Fault::Wedge => world.blackhole_flows(),
        Fault::Cut(side) => world.middles[side].cuts(),
        Fault::HalfOpen(side, way) => world.middles[side].half_opens(way),
        Fault::Reset(side) => world.middles[side].resets(),
        Fault::NoWay(side) => world.middles[side].has_no_way(),
        Fault::Lossy(side) => world.middles[side].loses(30),
        Fault::Throttle(side) => world.middles[side].throttles(20),
        Fault::Relay(side) => {
            world.middles[side].heals();
            world.middles[side].relays();
        }
        Fault::Heal(side) => world.middles[side].heals(),
        Fault::NameServer(alive) => world.dns.store(alive, SeqCst),
        Fault::Reload => drop(world.ctl(&["reload"])),
        Fault::Reconnect => drop(world.ctl(&["reconnect", "enf0"])),
    }
}

/// Makes everything good, as it was at the beginning.
fn mend(world: &mut World) {
    world.mend();
    for side in [0, 1] {
        (11..14).for_each(|host| world.no_address(side, host));
    }
}

/// What the daemon holds of the system.
#[derive(Debug)]
struct Holdings {
    descriptors: usize,
    threads: usize,
    memory: u64,
}

fn holdings(pid: u32) -> Holdings {
    let count = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    Holdings {
        descriptors: count("fd"),
        threads: count("task"),
        memory: rss.trim().trim_end_matches(" kB").parse().unwrap(),
    }
}

/// The host's rules, whichever address of the router is the one in use.
fn rules_of(world: &World) -> String {
    let routers = [format!("ip daddr {ROUTER} "), format!("ip6 daddr {ROUTER6} ")];
    routers.iter().fold(world.rules(), |rules, router| rules.replace(router, "router "))
}

/// How long each sequence took to come back, and what was left in the end.
#[derive(Default)]
struct Outcome {
    returns: Mutex<Vec<Duration>>,
    failures: Mutex<Vec<String>>,
    /// KiB before the first and after the last sequence, one pair a world.
    memory: Mutex<Vec<(u64, u64)>>,
}

/// One world lives through these sequences, with one daemon.
fn live_through(test: &str, number: u64, mut next: impl FnMut() -> Option<u64> + Send, outcome: &Outcome) {
    let hosts = match number % 3 {
        0 => vec![ROUTER.to_owned()],
        1 => vec![crate::common::roaming::NAME.to_owned()],
        _ => vec![format!("[{ROUTER6}]"), ROUTER.to_owned()],
    };
    let settings = Settings { hosts, ..Settings::default() };
    world(test, &settings, |world| {
        world.start_router();
        let _restless = world.restless();
        world.start_daemon();
        world.connect();
        // What is made once and kept is made by the first repetition of everything.
        world.ctl(&["reconnect", "enf0", "--wait=30s"]);
        world.back();
        let (before, rules, strays) = (holdings(world.daemon()), rules_of(world), world.strays_so_far());
        let mut lived = Vec::new();
        while let Some(seed) = next() {
            lived.push(seed);
            let steps = draw(seed);
            let told = || {
                let mut text = format!("seed {seed} of world {number} ({:?}); before it {lived:?}:", settings.hosts);
                steps.iter().for_each(|(fault, pause)| write!(text, "\n  {fault:?}, then {pause:?}").unwrap());
                format!("{text}\nENFTUN_FAULT_SEED={number}:{seed} tells it again")
            };
            let survived = catch_unwind(AssertUnwindSafe(|| {
                for (fault, pause) in &steps {
                    happens(world, *fault);
                    std::thread::sleep(*pause);
                }
                mend(world);
                let mended = Instant::now();
                let limit = BOUND + MARGIN;
                let mut back = None;
                while back.is_none() {
                    back = world.probe.answered_after(mended).filter(|_| world.says() == "connected");
                    assert!(mended.elapsed() < limit, "not back within {limit:?}\n{}", world.log_end());
                    std::thread::sleep(Duration::from_millis(5));
                }
                outcome.returns.lock().unwrap().push(mended.elapsed());
                world.no_strays_since(strays);
            }));
            if let Err(panic) = survived {
                let why = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                outcome.failures.lock().unwrap().push(format!("{}\n{why}", told()));
                // The next world begins anew.
                return;
            }
        }
        // Threads that only block (reading files, for one) end 10 s after their last work; sockets linger a moment.
        let mut after = holdings(world.daemon());
        let deadline = Instant::now() + Duration::from_secs(40);
        while (after.descriptors > before.descriptors || after.threads > before.threads || rules_of(world) != rules)
            && Instant::now() < deadline
        {
            std::thread::sleep(Duration::from_millis(200));
            after = holdings(world.daemon());
        }
        outcome.memory.lock().unwrap().push((before.memory, after.memory));
        let mut left = String::new();
        if after.descriptors > before.descriptors || after.threads > before.threads {
            let open = format!("ls -l /proc/{}/fd", world.daemon());
            let open = crate::common::netns::sh(&open);
            writeln!(left, "{before:?} became {after:?}:\n{open}").unwrap();
        }
        left += &crate::story::difference(&rules, &rules_of(world));
        if world.log().contains("panicked") {
            left += "the daemon panicked";
        }
        if !left.is_empty() {
            outcome.failures.lock().unwrap().push(format!("world {number} after {lived:?} left behind:\n{left}"));
        }
    });
}

/// So many sequences in so many worlds at once.
fn all(test: &str, sequences: u64, worlds: u64) -> Outcome {
    let (outcome, next) = (Outcome::default(), AtomicU64::new(0));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for number in 0..worlds {
            let (outcome, next) = (&outcome, &next);
            scope.spawn(move || {
                // A world that failed is followed by another one.
                while next.load(SeqCst) < sequences {
                    live_through(test, number, || Some(next.fetch_add(1, SeqCst)).filter(|n| *n < sequences), outcome);
                }
            });
        }
    });
    let mut returns = outcome.returns.lock().unwrap().clone();
    returns.sort();
    if let (Some(longest), Some(middle)) = (returns.last(), returns.get(returns.len() / 2)) {
        let late = returns.iter().filter(|took| **took > BOUND).count();
        let grown = outcome
            .memory
            .lock()
            .unwrap()
            .iter()
            .map(|(before, after)| format!("{before}->{after}"))
            .collect::<Vec<_>>();
        figure(&format!(
            "{} fault sequences in {worlds} worlds, {:?}: back after {middle:?} (median), {longest:?} (longest), {late} later than \
             {BOUND:?}; daemon's KiB {}",
            returns.len(),
            begun.elapsed(),
            grown.join(" ")
        ));
    }
    outcome
}

#[test]
fn after_any_sequence_of_faults_the_tunnel_is_back_and_nothing_is_left_behind() {
    let test = "after_any_sequence_of_faults_the_tunnel_is_back_and_nothing_is_left_behind";
    if let Some(seed) = std::env::var_os("ENFTUN_FAULT_SEED") {
        let seed = seed.into_string().unwrap();
        let (number, seed) = seed.split_once(':').unwrap_or(("0", &seed));
        let (outcome, mut seeds) = (Outcome::default(), vec![seed.parse().unwrap()]);
        live_through(test, number.parse().unwrap(), || seeds.pop(), &outcome);
        let failures = outcome.failures.into_inner().unwrap();
        assert!(failures.is_empty(), "{}", failures.join("\n\n"));
        return;
    }
    let (sequences, worlds) = if long() { (1000, 8) } else { (24, 6) };
    let outcome = all(test, sequences, worlds);
    let failures = outcome.failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n\n"));
}
