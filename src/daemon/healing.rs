//! What somebody else changed in the kernel is put back, and told: each repair while they are few, a count once they are many.
//! It knows neither what a tunnel holds in the kernel nor how that is made: it applies the present plan again.

use super::Daemon;
use crate::error::{Class, chain};
use crate::kernel::KernelError;
use crate::state::{Ended, Event, Failure, Moment, Phase, Reason, Wanted};
use std::time::Duration;

/// This many lines in one window; what is more is counted, and told at its end.
const LINES: u32 = 5;
/// What repairs of no single tunnel are told of.
const HOST: &str = "the host's firewall";
/// What repairs of tunnels are told of whose files cannot be used.
const OTHERS: &str = "tunnels that are kept blocked";
const WINDOW: Duration = Duration::from_secs(10);

impl Daemon {
    /// Something changed in the kernel: whatever of ours is not as it shall be is put back.
    pub(super) async fn heal(&mut self) {
        let mut ours = false;
        let others = !self.others().is_empty();
        if others
            || !self.in_force.unknown().is_empty()
            || self.tunnels.values().any(|tunnel| tunnel.in_force != Wanted::Open)
        {
            self.heal_host().await;
        }
        if others {
            ours = true;
            let (changes, now) = (self.keep_others().await, self.now());
            if !changes.is_empty() {
                tell(OTHERS, self.repairs.note(changes.join("; "), now));
            }
        }
        for name in self.names() {
            if self.tunnels.get(&name).is_some_and(|tunnel| tunnel.in_force != Wanted::Open) {
                ours = true;
                self.heal_one(&name).await;
            }
        }
        if ours {
            self.miss_rules().await;
        }
    }

    /// What all tunnels have together first: the firewall holds what the rest lets out meanwhile.
    async fn heal_host(&mut self) {
        match self.apply_host().await {
            Ok(changes) if changes.is_empty() => {}
            Ok(changes) => {
                let now = self.now();
                tell(HOST, self.repairs.note(changes.join("; "), now));
                self.publish();
            }
            Err(error) => {
                for name in self.names() {
                    if self.tunnels.get(&name).is_some_and(|tunnel| tunnel.applied.policy.is_some()) {
                        self.not_healed(&name, &error).await;
                    }
                }
            }
        }
    }

    async fn heal_one(&mut self, name: &str) {
        let now = self.now();
        let Some(tunnel) = self.tunnels.get_mut(name) else { return };
        let (wanted, plan) = (tunnel.wanted(), tunnel.plan(&self.groups));
        let applied = match self.kernel.apply(&plan).await {
            Ok(applied) => applied,
            Err(error) => return self.not_healed(name, &error).await,
        };
        (tunnel.in_force, tunnel.ifindex) = (wanted, applied.ifindex);
        // A session that did not notice, because its device was given another name or went to another namespace, carries
        // nothing any more.
        let lost = if tunnel.session_on == applied.ifindex { None } else { tunnel.session.take() };
        let lost = lost.zip(tunnel.state.session());
        if !applied.changes.is_empty() {
            tell(name, tunnel.repairs.note(applied.changes.join("; "), now));
            self.publish();
        }
        if let Some((session, id)) = lost {
            session.stop().await;
            let text = format!("the device {} was taken away; it is made again", plan.scope.dev);
            let failure = Failure::new(Reason::LinkLost, Class::Transient, text);
            self.feed(name, Event::Ended(id, Ended { failure, unheard: false })).await;
        }
    }

    /// Says it once; a timer of the state machine tries again, and so does the next notice.
    async fn not_healed(&mut self, name: &str, error: &KernelError) {
        let Some(tunnel) = self.tunnels.get(name) else { return };
        let known = matches!(tunnel.state.reason, Reason::RouteFailed | Reason::FirewallFailed);
        if tunnel.state.phase == Phase::Error && known {
            log::debug!(ENFTUN_TUNNEL = name; "{}", chain(error));
        } else {
            self.feed(name, Event::ApplyFailed(Failure::from(error))).await;
        }
    }

    /// Reports rules that are not ours and without which the host reaches nothing.
    async fn miss_rules(&mut self) {
        let Ok(lost) = self.kernel.lost_rules().await else { return };
        for command in lost.iter().filter(|command| !self.lost_rules.contains(command)) {
            log::warn!("somebody deleted a rule of the host's own; it is not put back: `{command}` does that");
        }
        self.lost_rules = lost;
    }

    /// Tells how often something was put back while that was too often to tell each time.
    pub(super) fn tell_counts(&mut self, now: Moment) {
        tell(HOST, self.repairs.told(now));
        for (name, tunnel) in &mut self.tunnels {
            tell(name, tunnel.repairs.told(now));
        }
    }
}

/// The repairs of one tunnel.
#[derive(Debug, Default)]
pub(super) struct Repairs {
    window: Option<Moment>,
    lines: u32,
    untold: u32,
    last: String,
}

impl Repairs {
    /// Takes note of one repair. What to tell now, if anything.
    pub fn note(&mut self, repair: String, now: Moment) -> Option<String> {
        if self.window.is_none_or(|end| end <= now) && self.untold == 0 {
            (self.window, self.lines) = (Some(now + WINDOW), 0);
        }
        if self.lines < LINES {
            self.lines += 1;
            return Some(repair);
        }
        self.untold += 1;
        self.last = repair;
        None
    }

    /// When there will be something to tell.
    pub fn due(&self) -> Option<Moment> {
        self.window.filter(|_| self.untold > 0)
    }

    /// The count of what was not told, once it is due. While there are many, this is all that is told.
    pub fn told(&mut self, now: Moment) -> Option<String> {
        self.due().filter(|due| *due <= now)?;
        self.window = Some(now + WINDOW);
        let untold = std::mem::take(&mut self.untold);
        let times = if untold == 1 { "once".to_owned() } else { format!("{untold} times") };
        Some(format!("{times} more within {} s, the last time: {}", WINDOW.as_secs(), std::mem::take(&mut self.last)))
    }
}

/// Tells what was put back.
fn tell(name: &str, repair: Option<String>) {
    if let Some(repair) = repair {
        log::warn!(ENFTUN_TUNNEL = name; "somebody else changed what belongs to {name}; put back: {repair}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_few_repairs_are_each_told() {
        let mut repairs = Repairs::default();
        for number in 0..LINES {
            assert_eq!(repairs.note(number.to_string(), at(1)), Some(number.to_string()));
        }
        assert_eq!(repairs.due(), None, "nobody is woken for nothing");
        assert_eq!(repairs.note("later".into(), at(11)).as_deref(), Some("later"));
    }

    #[test]
    fn many_repairs_are_counted_and_none_is_forgotten() {
        let mut repairs = Repairs::default();
        let mut lines = Vec::new();
        let mut told = 0;
        // Ten in each of a hundred seconds.
        for second in 0..100 {
            lines.extend(repairs.told(at(second)));
            for number in 0..10 {
                if repairs.note(format!("{second}.{number}"), at(second)).is_some() {
                    told += 1;
                }
            }
        }
        assert_eq!(told, LINES);
        assert_eq!(lines.len(), 9);
        assert_eq!(lines[0], "95 times more within 10 s, the last time: 9.9");
        assert_eq!(lines[8], "100 times more within 10 s, the last time: 89.9");
        assert_eq!(repairs.due(), Some(at(100)));
        assert!(repairs.told(at(100)).unwrap().starts_with("100 times"));
        assert_eq!(repairs.due(), None);
    }

    #[test]
    fn after_a_quiet_window_each_is_told_again() {
        let mut repairs = Repairs::default();
        for _ in 0..=LINES {
            repairs.note("first".into(), at(0));
        }
        assert_eq!(repairs.told(at(9)), None);
        assert_eq!(repairs.told(at(10)).unwrap(), "once more within 10 s, the last time: first");
        assert_eq!(repairs.note("at once".into(), at(19)), None, "it may be the same again");
        assert_eq!(repairs.told(at(20)).unwrap(), "once more within 10 s, the last time: at once");
        assert_eq!(repairs.note("quiet since".into(), at(31)).unwrap(), "quiet since");
    }
}
