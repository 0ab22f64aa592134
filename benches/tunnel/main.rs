//! Ours beside OpenVPN, wireguard-go and the bare cable: in namespaces, everything interleaved. `benches/run tunnel` runs it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../../tests/common/mod.rs"]
mod common;

mod bed;
mod facts;
mod measure;
mod options;
mod peers;
mod picture;
mod report;
mod udp;

use bed::Outcome;
use measure::{Figures, What};
use options::Options;
use peers::{Kind, Peer};
use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

/// Of every TCP connection: those that are measured, and the tunnels' own. It is Linux's default.
pub const CONGESTION_CONTROL: &str = "cubic";

fn main() {
    // A panic is told as the failure of its step.
    std::panic::set_hook(Box::new(|_| {}));
    let options = Options::of_command_line();
    if let Some(command) = &options.keep {
        keep(&options, command);
        return;
    }
    let facts = facts::facts();
    let mut figures = Figures::default();
    let begun = Instant::now();
    for round in 0..options.rounds {
        println!("Round {} of {}", round + 1, options.rounds);
        one_round(&options, round, &mut figures);
    }
    println!("Measured in {} s.\n", begun.elapsed().as_secs());
    report::print(&options, &facts, &figures);
    let mut written = Ok(());
    if let Some(json) = &options.json {
        let document = report::json(&options, &facts, &figures);
        written =
            std::fs::write(json, format!("{document:#}\n")).map_err(|error| format!("{}: {error}", json.display()));
    }
    if options.docs {
        written = written.and(report::write_page(&options, &facts, &figures));
    }
    if let Err(failure) = &written {
        eprintln!("{failure}");
    }
    // A target that is missed is a figure as any other; what could not be measured is a failure.
    if !figures.failures.is_empty() || written.is_err() {
        std::process::exit(1);
    }
}

/// Every case is set up anew; then each measurement goes over all of them, beginning with another one in each round.
fn one_round(options: &Options, round: usize, figures: &mut Figures) {
    let mut peers = Vec::new();
    for kind in rotated(&options.only, round) {
        match caught(|| set_up(kind, figures)) {
            Ok(peer) => peers.push(peer),
            Err(failure) => figures.fails(kind, "connect", failure),
        }
    }
    for what in &options.what {
        let begun = Instant::now();
        print!("  {:10}", what.key());
        if *what == What::Reconnect {
            measure::reconnect(&mut peers, figures);
        }
        for peer in peers.iter_mut().filter(|_| *what != What::Reconnect) {
            let kind = peer.kind;
            print!(" {}", kind.key());
            let _ = std::io::stdout().flush();
            // A tunnel that broke is set up again for the next measurement.
            let outcome = caught(|| {
                if peer.bed.carries(Duration::from_secs(5)).is_err() {
                    *peer = set_up(kind, &mut Figures::default())?;
                }
                what.measure(options, peer, figures)
            });
            if let Err(failure) = outcome {
                figures.fails(kind, what.key(), failure);
            }
        }
        println!("  {:.0} s", begun.elapsed().as_secs_f64());
    }
}

fn set_up(kind: Kind, figures: &mut Figures) -> Outcome<Peer> {
    let mut peer = Peer::new(kind, None)?;
    let time = peer.connect()?;
    if kind != Kind::Veth {
        figures.add(kind, "connect_ms", time.as_secs_f64() * 1e3);
    }
    Ok(peer)
}

fn rotated(kinds: &[Kind], round: usize) -> Vec<Kind> {
    let mut kinds = kinds.to_vec();
    let length = kinds.len();
    kinds.rotate_left(round % length);
    kinds
}

/// What a step returns; a panic in it is its failure, and not the end of everything.
fn caught<T>(step: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    std::panic::catch_unwind(AssertUnwindSafe(step)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default())
    })
}

/// Sets the tunnels up, and runs a command while they are there.
fn keep(options: &Options, command: &str) {
    let mut peers = Vec::new();
    for kind in &options.only {
        match set_up(*kind, &mut Figures::default()) {
            Ok(peer) => peers.push(peer),
            Err(failure) => eprintln!("FAILED {}: {failure}", kind.name()),
        }
    }
    let mut shell = std::process::Command::new("bash");
    shell.args(["-c", command]).env("INNER_FAR", bed::INNER_FAR);
    for peer in &peers {
        let name = peer.kind.key().to_uppercase();
        println!("{}:", peer.kind.name());
        for (end, host) in [("NEAR", &peer.bed.near), ("FAR", &peer.bed.far)] {
            let enter = format!("nsenter --net={} --", host.path().display());
            println!("  ${name}_{end}={enter}");
            shell.env(format!("{name}_{end}"), enter);
        }
        if let Some([near, far]) = peer.processes() {
            println!("  ${name}_NEAR_PID={near} ${name}_FAR_PID={far}");
            if let (Some(near), Some(far)) = (number_outside(near), number_outside(far)) {
                println!("  outside they are {near} and {far}: nsenter -n -t {near}, perf record -g -p {near},{far}");
            }
            shell.env(format!("{name}_NEAR_PID"), near.to_string()).env(format!("{name}_FAR_PID"), far.to_string());
        }
        println!("  logs: {}/{{near,far}}.log", peer.bed.path().display());
    }
    let _ = shell.status();
}

/// What a process is numbered outside of the namespaces, where `benches/run` left a way to see it.
fn number_outside(process: u32) -> Option<u32> {
    let processes = std::path::PathBuf::from(std::env::var_os("OUTER_PROC")?);
    let own = std::fs::read_link("/proc/self/ns/pid").ok()?;
    let is_it = |directory: &std::path::Path| {
        let status = std::fs::read_to_string(directory.join("status")).unwrap_or_default();
        let numbers = status.lines().find(|line| line.starts_with("NSpid:")).unwrap_or_default();
        numbers.split_whitespace().next_back() == Some(&process.to_string())
            && std::fs::read_link(directory.join("ns/pid")).is_ok_and(|namespace| namespace == own)
    };
    let entries = std::fs::read_dir(processes).ok()?.flatten().map(|entry| entry.path());
    entries.filter(|path| is_it(path)).find_map(|path| path.file_name()?.to_str()?.parse().ok())
}
