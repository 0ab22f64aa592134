//! The service manager's watchdog (`WatchdogSec=`), fed from the actor's own loop: no other task can say for the actor that it
//! still does anything. Without a service manager that asks for it, nothing ever happens.

use super::program::notify;
use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};

#[derive(Debug)]
pub(super) struct Watchdog {
    feeding: Option<Interval>,
}

impl Watchdog {
    /// What the service manager asks of this process. Needs a runtime.
    pub fn new() -> Self {
        let feeding = sd_notify::watchdog_enabled().map(|limit| {
            let mut feeding = interval(limit / 3);
            feeding.set_missed_tick_behavior(MissedTickBehavior::Delay);
            feeding
        });
        Self { feeding }
    }

    /// Waits until it is time, and feeds it.
    pub async fn feed(&mut self) {
        match &mut self.feeding {
            Some(feeding) => feeding.tick().await,
            None => return std::future::pending().await,
        };
        notify(&[NotifyState::Watchdog]);
    }
}
