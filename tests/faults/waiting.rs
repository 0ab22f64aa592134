//! Waiting costs nothing: with no way to any router the daemon is as good as asleep.

use crate::common::figure;
use crate::common::long;
use crate::common::roaming::{Settings, World, story};
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

/// Processor time that a process has used so far.
fn used(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // utime and stime are the 14th and 15th field of proc_pid_stat(5), in hundredths of a second.
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// The share of one core that the daemon takes while nothing can be reached.
fn share(world: &World, over: Duration) -> f64 {
    let (begun, before) = (Instant::now(), used(world.daemon()));
    std::thread::sleep(over);
    (used(world.daemon()) - before).as_secs_f64() / begun.elapsed().as_secs_f64()
}

#[test]
fn waiting_for_a_path_takes_less_than_a_hundredth_of_one_core() {
    let test = "waiting_for_a_path_takes_less_than_a_hundredth_of_one_core";
    let over = Duration::from_secs(if long() { 60 } else { 5 });
    // As the configuration has it, if nobody changes it.
    let settings = Settings { retry: "", ..Settings::default() };
    type Break = fn(&mut World);
    let cases: [(&str, Break); 4] = [
        ("no router", World::kill_router),
        ("a path that swallows everything", |world| world.middles.iter().for_each(|middle| middle.cuts())),
        ("no link", |world| [0, 1].into_iter().for_each(|side| world.link_down(side))),
        ("no name server", |world| {
            world.dns.store(false, SeqCst);
            world.middles.iter().for_each(|middle| middle.cuts());
        }),
    ];
    for (what, breaks) in cases {
        let hosts = if what == "no name server" {
            vec![crate::common::roaming::NAME.to_owned()]
        } else {
            settings.hosts.clone()
        };
        story(test, &Settings { hosts, ..settings.clone() }, |world| {
            let seen = world.changes().len();
            breaks(world);
            world.until(seen, "the end of the session", |change| change.new == "reconnecting");
            let share = share(world, over);
            figure(&format!("waiting with {what}: {:.2} % of one core", share * 100.0));
            // The short form sees the first attempts, which follow one another soon, perhaps on a loaded machine: it finds what
            // spins.
            assert!(share < if long() { 0.01 } else { 0.1 }, "{share}\n{}", world.log_end());
            world.mend();
            // After a minute the pause until the next attempt may be as long.
            world.ctl(&["reconnect", "enf0"]);
            world.back();
        });
    }
}
