//! What the daemon finds when it starts, and what the user says of lockdown: tunnels return to their targets, what was blocked
//! stays blocked, also where its file cannot be used or is gone, and only the user's word opens it.

use super::{Caller, Daemon, Refusal, note};
use crate::config::Lockdown;
use crate::error::chain;
use crate::kernel::KernelError;
use crate::logging::message;
use crate::plan::{Plan, Scope};
use crate::state::{Event, Reason, Target, Wanted};
use std::collections::BTreeSet;
use std::time::Duration;

/// Between two attempts at what failed for a tunnel that is not there.
const RETRY: Duration = Duration::from_secs(10);
/// What is blocked on behalf of nobody knows whom.
const NOBODY: &str = "unknown";

/// Something of a tunnel is still in the kernel.
#[derive(Debug, thiserror::Error)]
#[error("something of it is still in the kernel: {}", .0.iter().map(|error| chain(error)).collect::<Vec<_>>().join("; "))]
pub(super) struct LeftBehind(Vec<KernelError>);

impl Daemon {
    /// Takes over what was blocked of tunnels that are not in the configuration: those in force, and those with a last plan.
    /// `broken` are those whose files cannot be used. The others are found by [`Daemon::run`].
    pub async fn adopt(&mut self, broken: &BTreeSet<String>) {
        for (name, plan) in self.last_plans.all().clone() {
            if self.tunnels.contains_key(&name) || self.in_force.plans().contains_key(&name) {
                continue;
            }
            match plan {
                Some(plan) => note(&name, self.in_force.set(&name, &plan)),
                None => note(&name, self.in_force.set_unknown(&name)),
            }
        }
        if self.last_plans.is_damaged() {
            self.block_what_may_have_been(broken);
        }
        for name in self.others() {
            let name = name.as_str();
            let why = if broken.contains(name) { "its file cannot be used" } else { "its file is gone" };
            log::error!(MESSAGE_ID = message::KEPT_BLOCKED, ENFTUN_TUNNEL = name; "{why}, and {name} was blocked: it stays so, as its last plan says. Mend the file \
                (`enftunctl check`) and `enftunctl reload`, or open it: `enftunctl clear {name}`");
        }
        for name in self.in_force.unknown().iter().filter(|name| !self.tunnels.contains_key(*name)) {
            log::error!(MESSAGE_ID = message::KEPT_BLOCKED, ENFTUN_TUNNEL = name.as_str(); "{name} is to be blocked, and neither a file nor a last plan can be used: nothing \
                passes but loopback, neighbour discovery and DHCP. Mend the file (`enftunctl check`) and `enftunctl reload`, \
                or open it: `enftunctl clear {name}`");
        }
        if !self.others().is_empty() || !self.in_force.unknown().is_empty() {
            self.keep_others().await;
            self.publish();
        }
    }

    /// The last plans are lost: every tunnel that cannot speak for itself may have been blocked, and the file's being there says
    /// that some tunnel was.
    fn block_what_may_have_been(&mut self, broken: &BTreeSet<String>) {
        let wanted = self.targets.names().filter(|name| !self.tunnels.contains_key(*name));
        let mut names: BTreeSet<String> = broken.iter().chain(wanted).cloned().collect();
        if names.is_empty() && self.tunnels.is_empty() && self.in_force.plans().is_empty() {
            names.insert(NOBODY.to_owned());
        }
        names.retain(|name| !self.in_force.plans().contains_key(name));
        for name in &names {
            note(name, self.in_force.set_unknown(name));
            self.last_plans.set(name, None);
        }
    }

    /// Returns one tunnel to its target. What was blocked and is not wanted blocks again, unless its user had opened it.
    pub(super) async fn restore(&mut self, name: &str) {
        let Some(tunnel) = self.tunnels.get(name) else { return };
        let boot = tunnel.policy().lockdown == Lockdown::Boot;
        let found = self.in_force.plans().contains_key(name);
        let unknown = self.in_force.unknown().contains(name);
        let was_blocked = found || self.last_plans.was_blocking(name) || (unknown && boot);
        let event = match self.targets.get(name) {
            Some(Target::Up) => Event::Connect(Reason::Boot),
            None if tunnel.config.autoconnect => Event::Connect(Reason::Boot),
            Some(Target::Down) if boot => Event::Lockdown,
            None if was_blocked || self.targets.lockdown(name) == Some(true) => Event::Lockdown,
            _ if found => Event::Unlock,
            _ => {
                self.last_plans.forget(name);
                if unknown {
                    note(name, self.in_force.set_known(name));
                    note(name, self.apply_host().await.map(drop));
                }
                return;
            }
        };
        self.feed(name, event).await;
    }

    /// What is in force of tunnels that are not ours to run.
    pub(super) fn others(&self) -> Vec<String> {
        self.in_force.plans().keys().filter(|name| !self.tunnels.contains_key(*name)).cloned().collect()
    }

    /// The plans of all tunnels.
    pub(super) fn plans_in_force(&self) -> Vec<Plan> {
        let others = self.in_force.plans().iter().filter(|(name, _)| !self.tunnels.contains_key(*name));
        self.tunnels.values().map(|tunnel| &tunnel.applied).chain(others.map(|(_, plan)| plan)).cloned().collect()
    }

    /// Keeps tunnels blocked that are not ours to run, and nothing more of them.
    pub(super) async fn keep_others(&mut self) {
        self.others_due = None;
        for name in self.others() {
            if let Some(plan) = self.in_force.plans().get(&name).map(Plan::blocking) {
                note(&name, self.in_force.set(&name, &plan));
            }
        }
        if let Err(error) = self.apply_host().await {
            log::error!("{}", chain(&error));
            self.others_due = Some(self.now() + RETRY);
        }
        self.hold_others().await;
    }

    /// Brings the plans of tunnels that are not ours to run into force. What was changed, as commands.
    pub(super) async fn hold_others(&mut self) -> Vec<String> {
        let mut changes = Vec::new();
        for name in self.others() {
            let Some(plan) = self.in_force.plans().get(&name).cloned() else { continue };
            match self.kernel.apply(&plan).await {
                Ok(applied) => {
                    changes.extend(applied.changes);
                    self.retire(&name, &plan.scope).await;
                }
                Err(error) => {
                    log::error!(ENFTUN_TUNNEL = name.as_str(); "{}", chain(&error));
                    self.others_due = Some(self.now() + RETRY);
                }
            }
        }
        changes
    }

    /// The configuration was read, and these are not in it.
    pub(super) async fn forget_others(&mut self) {
        let unknown = self.in_force.unknown().iter().filter(|name| !self.tunnels.contains_key(*name)).cloned();
        for name in self.others().into_iter().chain(unknown.collect::<Vec<_>>()) {
            log::warn!(ENFTUN_TUNNEL = name.as_str(); "there is no file of {name}: it is forgotten, and not blocked any more");
            note(&name, self.clear(&name).await);
            note(&name, self.targets.forget(&name));
        }
    }

    /// Takes away what former plans of a tunnel had and no plan has now.
    pub(super) async fn retire(&mut self, name: &str, now: &Scope) {
        let former: Vec<Scope> = self.in_force.scopes(name).into_iter().filter(|scope| scope != now).collect();
        if former.is_empty() {
            return;
        }
        let plans = self.plans_in_force();
        let mut errors = Vec::new();
        for scope in &former {
            errors.extend(self.kernel.retire(scope, &plans).await);
        }
        for error in &errors {
            log::error!(ENFTUN_TUNNEL = name; "{}", chain(error));
        }
        if errors.is_empty() {
            note(name, self.in_force.retired(name));
        }
    }

    /// Takes everything of a tunnel away that is not there any more.
    pub(super) async fn clear(&mut self, name: &str) -> Result<(), LeftBehind> {
        let last = self.last_plans.get(name).map(|plan| plan.scope.clone());
        let mut errors = Vec::new();
        let scopes: Vec<Scope> = self.in_force.scopes(name).into_iter().chain(last).collect();
        for scope in scopes {
            errors.extend(self.kernel.clear(&scope).await.err().into_iter().flatten());
        }
        if !errors.is_empty() {
            return Err(LeftBehind(errors));
        }
        note(name, self.in_force.forget(name));
        self.last_plans.forget(name);
        self.apply_host().await.map(drop).map_err(|error| LeftBehind(vec![error]))
    }

    /// What the user says of a tunnel's lockdown holds instead of what its file says, until it is said otherwise.
    pub(super) async fn set_lockdown(&mut self, name: &str, on: bool, caller: &Caller) -> Result<(), Refusal> {
        let there = self.tunnels.contains_key(name);
        let kept = self.in_force.plans().contains_key(name) || self.in_force.unknown().contains(name);
        if !there && !kept {
            return Err(Refusal::NotFound(name.to_owned()));
        }
        log::info!(MESSAGE_ID = message::REQUEST, ENFTUN_TUNNEL = name, ENFTUN_REQUEST = "lockdown", ENFTUN_CALLER = caller.to_string();
            "lockdown of {name} {}, asked by {caller}", if on { "on" } else { "off" });
        let remembered = self.targets.set_lockdown(name, on);
        if there {
            self.lock(name, on).await;
        } else if !on {
            note(name, self.targets.set(name, Target::Down));
            self.clear(name).await.map_err(|error| Refusal::Failed(chain(&error)))?;
            self.publish();
        }
        let forgotten = |error| Refusal::Failed(format!("it is done, but a restart will undo it: {}", chain(&error)));
        remembered.map_err(forgotten)
    }

    async fn lock(&mut self, name: &str, on: bool) {
        let Some(tunnel) = self.tunnels.get(name) else { return };
        self.reconfigure(name, tunnel.as_written()).await;
        let Some(tunnel) = self.tunnels.get(name) else { return };
        let blocked = tunnel.in_force != Wanted::Open;
        match (tunnel.state.target, on) {
            (Target::Down, true) if !blocked => self.feed(name, Event::Lockdown).await,
            (Target::Down, false) if blocked => self.feed(name, Event::Unlock).await,
            _ => self.publish(),
        }
    }
}
