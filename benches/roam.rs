//! How long it takes from something that happens to the first packet through the new session: in namespaces, with the real
//! daemon, router and bus. `benches/run roam` runs it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../tests/common/mod.rs"]
mod common;

use common::echo::{EVERY, Transfer};
use common::roaming::{OVERLAY_ROUTER, Settings, World, story};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// One kind of event, its target, and what the C client does.
struct Case {
    name: &'static str,
    /// In the JSON file.
    key: &'static str,
    target: Option<Duration>,
    c_client: &'static str,
    settings: Settings,
    happens: fn(&mut World, usize),
    /// Back to where the next round may begin.
    afterwards: fn(&mut World, usize),
}

/// What was measured of one case.
struct Measured {
    case: Case,
    /// Sorted.
    rounds: Vec<Duration>,
}

const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(2);

/// The heartbeat's timeout is a fifth of the default, so that a round does not take long, and a session counts as stable after
/// a second and not a minute: rounds follow one another, but each event meets a session that was stable. All else is the default.
fn settings() -> Settings {
    Settings {
        heartbeat_period: "300s",
        heartbeat_timeout: "2s",
        connect_timeout: "15s",
        retry: "stable_after = \"1s\"\n",
        ..Settings::default()
    }
}

fn cases() -> Vec<Case> {
    let nothing: fn(&mut World, usize) = |_, _| {};
    let case = |name, key, target: Option<u64>, c_client, happens, afterwards| Case {
        name,
        key,
        target: target.map(Duration::from_millis),
        c_client,
        settings: settings(),
        happens,
        afterwards,
    };
    vec![
        case(
            "path change: another default route is better, both links up",
            "path_change",
            Some(300),
            "1 s pause, then the handshake (1.6); IPv6: reconnects once a second for ever (0.3)",
            |world, round| world.prefer(1 - round % 2),
            nothing,
        ),
        Case {
            settings: Settings { hosts: vec![format!("[{}]", common::middle::ROUTER6)], ..settings() },
            ..case(
                "path change, the last mile over IPv6",
                "path_change_ipv6",
                Some(300),
                "reconnects once a second for ever (0.3)",
                |world, round| world.prefer(1 - round % 2),
                nothing,
            )
        },
        case(
            "link down: the interface in use goes down",
            "link_down",
            Some(300),
            "1 s pause, then the handshake; a blocking connect sees no later change (9, weakness 6)",
            |world, round| world.link_down(round % 2),
            // What goes down next is in use then.
            |world, round| {
                world.addresses(round % 2, 10);
                world.route(round % 2, 200);
                world.route(1 - round % 2, 100);
                settle(world);
            },
        ),
        case(
            "the same address on another interface",
            "same_address",
            Some(300),
            "not noticed (2); the next heartbeat is due after up to 300 s, its answer after 10 s more (1.4)",
            |world, _| world.swap_address(),
            |world, _| {
                world.swap_back();
                settle(world);
            },
        ),
        case(
            "router restart: killed and started again",
            "router_restart",
            Some(1500),
            "1 s pause, then the handshake; no back-off (0.5, 1.6)",
            |world, _| {
                world.kill_router();
                world.start_router();
            },
            nothing,
        ),
        case(
            "wedged peer: the connection's packets vanish, traffic goes out (timeout 2 s)",
            "wedged_peer",
            Some(HEARTBEAT_TIMEOUT.as_millis() as u64 + 1000),
            "never: the deadline counts from the written heartbeat, and it is never written (0.4 a)",
            |world, _| world.blackhole_flows(),
            nothing,
        ),
    ]
}

/// Waits until everything that the last event caused is over.
fn settle(world: &World) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while world.flows().len() != 1 || world.status()["state"] != "connected" {
        assert!(Instant::now() < deadline, "it does not settle\n{}", world.log_end());
        std::thread::sleep(Duration::from_millis(20));
    }
    // The next event shall find nothing under way, and a session that is stable.
    std::thread::sleep(Duration::from_millis(1200));
    world.carries();
}

fn measure(case: Case, rounds: usize) -> Measured {
    let mut measured = Vec::new();
    story(case.name, &case.settings.clone(), |world| {
        for round in 0..rounds {
            settle(world);
            let sessions = world.flows();
            let begun = Instant::now();
            (case.happens)(world, round);
            // The old connection's packets go nowhere once it has happened: the gateways let no other's pass, and the router's
            // process is another one. So what is asked from then on is answered by the new session. The time counts from
            // before, and so includes the commands that make it happen.
            let happened = Instant::now();
            let answered = loop {
                if let Some(answered) = world.probe.answered_after(happened)
                    && world.flows().iter().any(|flow| !sessions.contains(flow))
                {
                    break answered;
                }
                assert!(
                    begun.elapsed() < Duration::from_secs(60),
                    "{}: no new session\n{}",
                    case.name,
                    world.log_end()
                );
                std::thread::sleep(Duration::from_millis(5));
            };
            measured.push(answered - begun);
            (case.afterwards)(world, round);
        }
    });
    measured.sort();
    Measured { case, rounds: measured }
}

/// The longest time without a byte of a transfer, over so many changes of the path; and the median of each change's.
fn stall(changes: usize) -> (Duration, Duration) {
    let mut stalls = Vec::new();
    story("stall", &settings(), |world| {
        let transfer = Transfer::start(OVERLAY_ROUTER.parse().unwrap());
        for change in 0..changes {
            settle(world);
            transfer.longest_stall();
            let sessions = world.flows();
            world.prefer(1 - change % 2);
            while world.flows().iter().all(|flow| sessions.contains(flow)) {
                std::thread::sleep(Duration::from_millis(5));
            }
            settle(world);
            stalls.push(transfer.longest_stall());
            assert!(transfer.runs(), "the transfer broke\n{}", world.log_end());
        }
        transfer.finish();
    });
    stalls.sort();
    (stalls[stalls.len() - 1], stalls[stalls.len() / 2])
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

fn main() {
    let (mut rounds, mut json) = (11, None::<PathBuf>);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--rounds" => rounds = arguments.next().unwrap().parse().unwrap(),
            "--json" => json = arguments.next().map(PathBuf::from),
            // What cargo adds.
            "--bench" => {}
            other => panic!("what is {other}?"),
        }
    }
    let mut figures = serde_json::Map::new();
    println!(
        "From the event to the first packet through the new session, a probe every {EVERY:?}; {rounds} rounds each."
    );
    println!("{:>8} {:>8} {:>8}  {:>8}", "median", "least", "most", "target");
    let mut met = true;
    for case in cases() {
        let Measured { case, rounds } = measure(case, rounds);
        if rounds.is_empty() {
            println!("skipped: {}", case.name);
            continue;
        }
        let (median, least, most) = (rounds[rounds.len() / 2], rounds[0], rounds[rounds.len() - 1]);
        let held = case.target.is_none_or(|target| median <= target);
        met &= held;
        let shown = |time| format!("{:.0} ms", milliseconds(time));
        println!(
            "{:>8} {:>8} {:>8}  {:>8}  {}{}\n{:38}  C client: {}",
            shown(median),
            shown(least),
            shown(most),
            case.target.map(shown).unwrap_or_default(),
            case.name,
            if held { "" } else { "  MISSED" },
            "",
            case.c_client
        );
        for (what, time) in [("median", median), ("max", most)] {
            figures.insert(format!("roam_{}_{what}_ms", case.key), milliseconds(time).into());
        }
    }
    let (longest, median) = stall(20);
    println!(
        "{:>8} {:>8} {:>8}  {:>8}  stall of a running TCP transfer, over 20 changes of the path\n{:38}  C client: the pause of 1 s and \
         the handshake at least (1.6)",
        format!("{:.0} ms", milliseconds(median)),
        "",
        format!("{:.0} ms", milliseconds(longest)),
        "",
        ""
    );
    figures.insert("roam_transfer_stall_median_ms".to_owned(), milliseconds(median).into());
    figures.insert("roam_transfer_stall_max_ms".to_owned(), milliseconds(longest).into());
    println!("The numbers in brackets are sections of the reference of the C client.");
    if let Some(json) = json {
        let document = serde_json::json!({ "ratios": {}, "figures": figures });
        std::fs::write(json, format!("{document:#}\n")).unwrap();
    }
    if !met {
        println!("A target was MISSED.");
        std::process::exit(1);
    }
}
