//! What somebody else changed in the kernel is put back, and told: each repair while they are few, a count once they are many.
//! It knows neither what a tunnel holds in the kernel nor how that is made: it applies the present plan again.

use super::{Daemon, Tampering, push};
use crate::error::{Class, chain};
use crate::kernel::KernelError;
use crate::logging::message;
use crate::state::{Ended, Event, Failure, Moment, Phase, Reason};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// This many lines in one window; what is more is counted, and told at its end.
const LINES: u32 = 5;
/// What repairs of no single tunnel are told of.
const HOST: &str = "the host's firewall";
/// What repairs of tunnels are told of whose files cannot be used.
const OTHERS: &str = "tunnels that are kept blocked";
const WINDOW: Duration = Duration::from_secs(10);

impl Daemon {
    /// Something changed in the kernel: whatever of ours is not as it shall be is put back. Whether all was.
    pub(super) async fn heal(&mut self) -> bool {
        // What all tunnels have together first: the firewall holds what the rest lets out meanwhile.
        let firewall = self.heal_firewall().await;
        let network = self.heal_network().await;
        self.publish();
        firewall && network
    }

    /// What all tunnels have together.
    pub(super) async fn heal_firewall(&mut self) -> bool {
        if !self.in_force.plans().is_empty()
            || !self.in_force.unknown().is_empty()
            || self.tunnels.values().any(|tunnel| tunnel.is_in_kernel())
        {
            return self.heal_host().await;
        }
        true
    }

    /// What each tunnel has of its own.
    pub(super) async fn heal_network(&mut self) -> bool {
        let (mut well, mut ours) = (true, false);
        if !self.others().is_empty() {
            ours = true;
            let changes = self.hold_others().await;
            well &= changes.is_empty();
            if !changes.is_empty() {
                let repair = self.repairs.note(changes.join("; "), self.now());
                self.tell(OTHERS, repair);
            }
        }
        for name in self.names() {
            if self.tunnels.get(&name).is_some_and(|tunnel| tunnel.is_in_kernel()) {
                ours = true;
                well &= self.heal_one(&name).await;
            }
        }
        if ours {
            self.miss_rules().await;
        }
        well
    }

    async fn heal_host(&mut self) -> bool {
        let repair = match self.apply_host().await {
            Ok(changes) if changes.is_empty() => return true,
            Ok(changes) => changes.join("; "),
            // He goes on; so do the notices, and we.
            Err(KernelError::UnstableFirewall) => {
                "nft: replace our table, in vain: it is changed again at once".to_owned()
            }
            Err(error) => {
                for name in self.names() {
                    if self.tunnels.get(&name).is_some_and(|tunnel| tunnel.applied.policy.is_some()) {
                        self.not_healed(&name, &error).await;
                    }
                }
                return false;
            }
        };
        let repair = self.repairs.note(repair, self.now());
        self.tell(HOST, repair);
        self.publish();
        false
    }

    async fn heal_one(&mut self, name: &str) -> bool {
        let now = self.now();
        let Some(tunnel) = self.tunnels.get_mut(name) else { return true };
        let (wanted, plan) = (tunnel.wanted(), tunnel.plan(&self.groups));
        let mut applied = self.kernel.apply(&plan).await;
        if applied.as_ref().is_err_and(|error| error.class() == Class::Transient) {
            // Somebody took away what was being mended: the next look sees what is left.
            applied = self.kernel.apply(&plan).await;
        }
        let applied = match applied {
            Ok(applied) => applied,
            Err(error) => {
                self.not_healed(name, &error).await;
                return false;
            }
        };
        (tunnel.in_force, tunnel.ifindex) = (wanted, applied.ifindex);
        // Sessions that did not notice, because their device was given another name or went to another namespace, carry
        // nothing any more.
        // Those of a router card have no device.
        let lost = tunnel.session_on != applied.ifindex && !tunnel.sessions.is_empty() && !tunnel.is_card();
        let well = applied.changes.is_empty() && !lost;
        if !applied.changes.is_empty() {
            let repair = tunnel.repairs.note(applied.changes.join("; "), now);
            self.tell(name, repair);
            self.publish();
        }
        for port in &applied.arrived {
            log::info!(ENFTUN_TUNNEL = name; "the port of the host behind is there: {port}");
        }
        self.serve(name, applied.tap);
        if lost {
            self.lose_device(name, &plan.scope.dev).await;
        }
        well
    }

    /// All sessions of a tunnel are over: they were made on a device that is not its own any more.
    async fn lose_device(&mut self, name: &str, dev: &str) {
        let Some(tunnel) = self.tunnels.get_mut(name) else { return };
        tunnel.stop_all().await;
        let successor = tunnel.state.successor().map(|successor| successor.id);
        for id in successor.into_iter().chain(tunnel.state.session()) {
            let text = format!("the device {dev} was taken away; it is made again");
            let failure = Failure::new(Reason::LinkLost, Class::Transient, text);
            self.feed(name, Event::Ended(id, Ended::of(failure))).await;
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
            log::warn!(MESSAGE_ID = message::FOREIGN;
                "somebody deleted a rule of the host's own; it is not put back: `{command}` does that");
        }
        self.lost_rules = lost;
    }

    /// Warns of links whose routes are used although nobody trusts them, once each.
    pub(super) fn warn_of_foreign(&mut self, foreign: BTreeSet<(String, u32)>) {
        for (link, group) in foreign.difference(&self.foreign_groups) {
            log::warn!(MESSAGE_ID = message::FOREIGN;
                "{link} is in the link group {group}, which nobody trusts: while any interface is trusted, routes over {link} \
                 are used before those of the tunnels, and only the firewall, where it blocks, holds what takes them; \
                 `ip link set dev {link} group default` takes it out of the group, `trusted_interfaces` trusts it"
            );
        }
        self.foreign_groups = foreign;
    }

    /// Tells how often something was put back while that was too often to tell each time.
    pub(super) fn tell_counts(&mut self, now: Moment) {
        let of_host = self.repairs.told(now);
        self.tell(HOST, of_host);
        for name in self.names() {
            let of_tunnel = self.tunnels.get_mut(&name).and_then(|tunnel| tunnel.repairs.told(now));
            self.tell(&name, of_tunnel);
        }
        self.publish();
    }

    /// Tells what was put back: the log, and whoever reads the next snapshot.
    fn tell(&mut self, name: &str, repair: Option<String>) {
        let Some(repair) = repair else { return };
        // Some commands are several lines.
        let what = format!("somebody else changed what belongs to {name}; put back: {}", repair.replace('\n', "; "));
        log::warn!(MESSAGE_ID = message::TAMPERED, ENFTUN_TUNNEL = name; "{what}");
        self.tampered += 1;
        push(&mut self.tamperings, Arc::new(Tampering { number: self.tampered, what }));
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
