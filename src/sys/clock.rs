//! Notices that somebody set the wall clock (NTP after a boot at 1970): certificates that were "not yet valid" deserve
//! another look at once. And that the machine slept: connections from before may be dead without a word. It decides nothing.
#![allow(unsafe_code)]

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::clock_gettime;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::io::unix::AsyncFd;

/// Far enough in the future never to come, and small enough for any kernel.
const NEVER: Duration = Duration::from_secs(1 << 33);

/// A shorter sleep is none: no connection takes harm from it.
const NAP: Duration = Duration::from_secs(1);

/// Why the clock is not where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Jump {
    /// Somebody set it.
    Set,
    /// The machine slept for so long.
    Slept(Duration),
}

/// Wakes when the wall clock jumps, and at no other time.
#[derive(Debug)]
pub struct ClockWatch {
    timer: AsyncFd<OwnedFd>,
    sleeps: Sleeps,
}

impl ClockWatch {
    /// Starts watching; needs a tokio runtime.
    pub fn new() -> io::Result<Self> {
        Ok(Self { timer: armed()?, sleeps: Sleeps::default() }.rested())
    }

    /// Waits until the wall clock is set, or the machine wakes up, which sets it too. May be dropped and called again at any
    /// time: nothing is forgotten.
    pub async fn set(&mut self) -> Jump {
        if self.timer.readable().await.is_ok() {
            // The old timer has done its work; a new one watches for the next jump.
            if let Ok(timer) = armed() {
                self.timer = timer;
                return self.slept().map_or(Jump::Set, Jump::Slept);
            }
        }
        std::future::pending().await
    }

    /// How long the machine slept since this was last told, here or by [`set`](Self::set); none: it did not. It costs three
    /// looks at clocks and no system call.
    pub fn slept(&mut self) -> Option<Duration> {
        self.sleeps.look(Look::now()?)
    }

    /// Sleep from before is no news.
    fn rested(mut self) -> Self {
        self.slept();
        self
    }
}

/// The clocks at one moment, or nearly: this program may be held up between two looks, for however long.
#[derive(Clone, Copy, Debug)]
struct Look {
    /// The clock that runs on in sleep,
    boot_before: Duration,
    /// the one that stands still then,
    monotonic: Duration,
    /// and the first one again.
    boot_after: Duration,
}

impl Look {
    fn now() -> Option<Self> {
        let look = |clock: nix::time::ClockId| clock_gettime(clock).ok().map(Duration::from);
        Some(Self {
            boot_before: look(nix::time::ClockId::CLOCK_BOOTTIME)?,
            monotonic: look(nix::time::ClockId::CLOCK_MONOTONIC)?,
            boot_after: look(nix::time::ClockId::CLOCK_BOOTTIME)?,
        })
    }
}

/// Tells sleep from the gap between the two clocks: it only ever grows, and only in sleep.
#[derive(Debug, Default)]
struct Sleeps {
    /// The gap was this at most when sleep was last told.
    told: Option<Duration>,
}

impl Sleeps {
    fn look(&mut self, look: Look) -> Option<Duration> {
        let at_least = look.boot_before.saturating_sub(look.monotonic);
        let at_most = look.boot_after.saturating_sub(look.monotonic);
        let told = *self.told.get_or_insert(at_most);
        let slept = at_least.checked_sub(told).filter(|slept| *slept > NAP);
        // A look that was held up knows less than the one before, and takes nothing back.
        self.told = Some(if slept.is_some() { at_most } else { told.min(at_most) });
        slept
    }
}

fn armed() -> io::Result<AsyncFd<OwnedFd>> {
    let timer = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
    let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
    timer.set(Expiration::OneShot(TimeSpec::from_duration(NEVER)), flags)?;
    // SAFETY: an `OwnedFd` is open, and the same descriptor, until the `AsyncFd` that owns it is dropped.
    Ok(unsafe { AsyncFd::register(timer.into()) }?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    #[tokio::test]
    async fn it_sleeps_while_the_clock_runs_as_it_should() {
        let mut watch = ClockWatch::new().unwrap();
        let mut set = pin!(watch.set());
        assert!(set.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }

    #[tokio::test]
    async fn a_machine_that_is_awake_did_not_sleep() {
        assert_eq!(ClockWatch::new().unwrap().slept(), None);
    }

    /// The clocks of a machine that has slept `asleep` so far, in milliseconds; the look is held up by `held_up`.
    fn look(awake: u64, asleep: u64, held_up: (u64, u64)) -> Look {
        let millis = Duration::from_millis;
        Look {
            boot_before: millis(awake + asleep),
            monotonic: millis(awake + held_up.0),
            boot_after: millis(awake + held_up.0 + held_up.1 + asleep),
        }
    }

    #[test]
    fn sleep_is_told_once_and_for_how_long() {
        let mut sleeps = Sleeps::default();
        let mut slept = |awake, asleep| sleeps.look(look(awake, asleep, (0, 0))).map(|slept| slept.as_millis());
        assert_eq!(slept(100_000, 3_600_000), None, "sleep from before is no news");
        assert_eq!(slept(900_000, 3_600_000), None, "time alone is no sleep");
        assert_eq!(slept(900_001, 3_605_000), Some(5_000));
        assert_eq!(slept(900_002, 3_605_000), None);
        assert_eq!(slept(900_003, 3_606_000), None, "a nap");
        assert_eq!(slept(900_004, 3_606_001), Some(1_001), "two naps are a sleep");
        assert_eq!(slept(900_005, 90_006_001), Some(86_400_000), "a day");
    }

    #[test]
    fn a_program_that_is_held_up_while_it_looks_did_not_sleep_and_misses_no_sleep() {
        for held_up in [(60_000, 0), (0, 60_000), (60_000, 60_000)] {
            let mut sleeps = Sleeps::default();
            assert_eq!(sleeps.look(look(0, 0, held_up)), None);
            assert_eq!(sleeps.look(look(200_000, 0, (0, 0))), None, "{held_up:?}");
            assert_eq!(sleeps.look(look(200_000, 0, held_up)), None, "{held_up:?}");
            assert_eq!(sleeps.look(look(400_000, 0, (0, 0))), None, "{held_up:?}");
            // It slept, and is held up at the first look behind that.
            let first = sleeps.look(look(400_000, 30_000, held_up));
            let second = sleeps.look(look(600_000, 30_000, (0, 0)));
            assert_eq!(first.or(second), Some(Duration::from_secs(30)), "{held_up:?}");
            assert!(first.is_none() || second.is_none(), "told once");
        }
    }
}
