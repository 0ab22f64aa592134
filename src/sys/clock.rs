//! Notices that somebody set the wall clock (NTP after a boot at 1970): certificates that were "not yet valid" deserve
//! another look at once.
#![allow(unsafe_code)]

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::io::unix::AsyncFd;

/// Far enough in the future never to come, and small enough for any kernel.
const NEVER: Duration = Duration::from_secs(1 << 33);

/// Wakes when the wall clock jumps, and at no other time.
#[derive(Debug)]
pub struct ClockWatch {
    timer: AsyncFd<OwnedFd>,
}

impl ClockWatch {
    /// Starts watching; needs a tokio runtime.
    pub fn new() -> io::Result<Self> {
        Ok(Self { timer: armed()? })
    }

    /// Waits until the wall clock is set.
    pub async fn set(&mut self) {
        if self.timer.readable().await.is_ok() {
            // The old timer has done its work; a new one watches for the next jump.
            if let Ok(timer) = armed() {
                self.timer = timer;
                return;
            }
        }
        std::future::pending::<()>().await;
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
}
