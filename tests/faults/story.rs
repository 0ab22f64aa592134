//! How a fault is told: the tunnel is connected and the host restless; something breaks; the tunnel says what; it is mended; the
//! tunnel comes back by itself. Meanwhile nothing leaves the host beside the tunnel, and afterwards its rules are what they were.

use crate::common::netns::Running;
use crate::common::roaming::{Settings, World, world};
use std::time::{Duration, Instant};

/// A state, its reason (nothing: any of them), and words of the failure that it shows.
pub type Says = (&'static str, &'static str, &'static str);

/// Breaks something, waits until each of these has been said, mends it, and waits until the tunnel carries again.
pub fn survives(
    test: &str,
    settings: &Settings,
    breaks: impl FnOnce(&mut World) + Send,
    says: &[Says],
    mends: impl FnOnce(&mut World) + Send,
) {
    told(test, settings, |world| {
        let seen = world.changes().len();
        breaks(world);
        for (state, reason, text) in says {
            let change = world.until(seen, &format!("{state} ({reason}): {text}"), |change| {
                (state.is_empty() || change.new == *state)
                    && (reason.is_empty() || change.reason == *reason)
                    && change.error.contains(text)
            });
            assert!(!change.error.is_empty() || text.is_empty(), "{change:?}");
        }
        mends(world);
    });
}

/// As [`survives`], for stories with a plot of their own.
pub fn told(test: &str, settings: &Settings, tell: impl FnOnce(&mut World) + Send) {
    world(test, settings, |world| {
        world.start_router();
        let _restless = world.restless();
        world.start_daemon();
        world.connect();
        let (rules, strays) = (world.rules(), world.strays_so_far());
        tell(world);
        world.back();
        let deadline = Instant::now() + Duration::from_secs(30);
        while world.rules() != rules {
            assert!(Instant::now() < deadline, "the host's rules changed:\n{}", difference(&rules, &world.rules()));
            std::thread::sleep(Duration::from_millis(20));
        }
        world.no_strays_since(strays);
        assert!(!world.log().contains("panicked"), "{}", world.log());
    });
}

/// The lines that are gone, and those that are new.
pub fn difference(before: &str, now: &str) -> String {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    let (before, now) = (lines(before), lines(now));
    let gone = before.difference(&now).map(|line| format!("- {line}\n"));
    gone.chain(now.difference(&before).map(|line| format!("+ {line}\n"))).collect()
}

/// Packets in plenty through the tunnel, so that every buffer is full when something breaks.
pub fn flood() -> Running {
    let program = "import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
while True:
    try:
        s.sendto(bytes(1200), ('fd00:8f80:1::99', 9))
    except OSError:
        pass";
    Running(std::process::Command::new("python3").args(["-c", program]).spawn().unwrap())
}
