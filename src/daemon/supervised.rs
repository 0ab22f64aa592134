//! One tunnel as the daemon holds it: its configuration, its state, its session, and how it looks from outside.

use super::card::HostBehind;
use super::credentials::Fingerprint;
use super::healing::Repairs;
use super::roaming::Outlook;
use super::sessions::Running;
use super::snapshot::{ForwardsSnapshot, TunnelSnapshot};
use super::targets::Targets;
use crate::config::{self, Group, Kind, Lockdown};
use crate::plan::{self, Facts, Plan, Scope};
use crate::state::{self, Failure, Moment, Phase, Policy, Remotes, SessionId, Wanted};
use crate::tunnel::aws::forwards::Forwards;
use crate::tunnel::{Counters, Upstream};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// One tunnel in the daemon.
#[derive(Debug)]
pub(super) struct Supervised {
    /// Lockdown in it is what holds: that of the file, or what the user said beside it.
    pub config: Arc<config::Tunnel>,
    /// Lockdown in the file.
    pub written: Lockdown,
    pub state: state::Tunnel,
    pub sessions: BTreeMap<SessionId, Running>,
    /// What is remembered of its remotes.
    pub remotes: Remotes,
    /// What was in the files of the last session that was begun.
    pub credentials: Option<Fingerprint>,
    /// New ones that could not be used, while the session goes on with those before.
    pub not_renewed: Option<Failure>,
    /// Which ways lead to them.
    pub outlook: Outlook,
    /// Those that the next successor tries, when it is for the sake of preferred ones.
    pub preferred: Vec<usize>,
    /// Which of its sessions takes packets.
    pub upstream: Upstream,
    /// The device that the sessions read and write.
    pub session_on: Option<u32>,
    /// Whom the sessions of a router card carry for.
    pub behind: Option<HostBehind>,
    pub counters: Arc<Counters>,
    /// What it forwards, over all its sessions.
    pub forwards: Arc<Forwards>,
    /// When the state machine wants to be woken.
    pub due: Option<Moment>,
    pub since: SystemTime,
    pub ifindex: Option<u32>,
    /// What of ours the kernel holds, as far as we know.
    pub in_force: Wanted,
    /// The plan of it.
    pub applied: Plan,
    pub repairs: Repairs,
}

impl Supervised {
    /// A tunnel as its file has it, and what of it was found in force.
    pub fn new(config: config::Tunnel, targets: &Targets, found: Option<&Plan>) -> Self {
        let (config, written) = overrule(config, targets);
        Self {
            in_force: if found.is_some() { Wanted::Blocked } else { Wanted::Open },
            applied: found.cloned().unwrap_or_else(|| Scope::of(&config).empty()),
            config: Arc::new(config),
            written,
            state: state::Tunnel::found(found.map(Plan::own_addresses).unwrap_or_default()),
            sessions: BTreeMap::new(),
            remotes: Remotes::default(),
            credentials: None,
            not_renewed: None,
            outlook: Outlook::default(),
            preferred: Vec::new(),
            upstream: Upstream::default(),
            session_on: None,
            behind: None,
            counters: Arc::default(),
            forwards: Arc::default(),
            due: None,
            since: SystemTime::now(),
            ifindex: None,
            repairs: Repairs::default(),
        }
    }

    /// Takes another configuration; the one before is returned.
    pub fn configure(&mut self, new: config::Tunnel, targets: &Targets) -> Arc<config::Tunnel> {
        let (config, written) = overrule(new, targets);
        self.written = written;
        if config.remote.hosts != self.config.remote.hosts {
            (self.remotes, self.outlook) = (Remotes::default(), Outlook::default());
        }
        std::mem::replace(&mut self.config, Arc::new(config))
    }

    /// The configuration as the file has it.
    pub fn as_written(&self) -> config::Tunnel {
        let mut config = (*self.config).clone();
        config.route.lockdown = self.written;
        config
    }

    pub fn policy(&self) -> Policy {
        Policy {
            retry: self.config.retry,
            lockdown: self.config.route.lockdown,
            overlaps: matches!(self.config.kind, Kind::Enf(_)),
        }
    }

    pub fn wanted(&self) -> Wanted {
        self.state.wanted(&self.policy())
    }

    pub fn plan(&self, groups: &BTreeMap<String, Group>) -> Plan {
        let (wanted, kept) = (self.wanted(), self.state.kept_addresses());
        plan::build(&self.config, groups, Facts { wanted: &wanted, kept, openings: &self.openings() })
    }

    /// The interface that carries the packets.
    pub fn dev(&self) -> &str {
        self.config.kind.enf().map_or("", |enf| &enf.tun.dev)
    }

    /// Something of it is in the kernel, or may be.
    pub fn is_in_kernel(&self) -> bool {
        self.in_force != Wanted::Open || self.applied != self.applied.scope.empty()
    }

    /// The firewall shall hold what belongs in it.
    pub fn is_promised(&self) -> bool {
        self.applied.policy.is_some() && !self.applied.scope.prefixes.is_empty()
    }

    /// The firewall holds more than routing can, and all of it even without routing. Where it is promised, its word counts.
    fn blocking(&self, firewall_in_force: bool) -> bool {
        if self.applied.scope.prefixes.is_empty() {
            return false;
        }
        match self.applied.policy {
            Some(_) => firewall_in_force,
            None => self.in_force != Wanted::Open,
        }
    }

    pub fn snapshot(&self, started: SystemTime, firewall_in_force: bool) -> TunnelSnapshot {
        let enf = self.config.kind.enf();
        let route = &self.config.route;
        let link = self.state.link.as_ref().filter(|_| self.state.phase == Phase::Connected);
        let there = matches!(self.in_force, Wanted::Connecting | Wanted::Connected(_));
        TunnelSnapshot {
            name: self.config.name.clone(),
            kind: self.config.kind.as_str(),
            state: self.state.phase,
            target: self.state.target,
            reason: self.state.reason,
            since: self.since,
            last_error: self.state.last_failure.clone(),
            attempt: self.state.attempt,
            next_attempt: self.state.next_attempt.map(|at| started + at),
            blocking: self.blocking(firewall_in_force),
            interface: enf.map(|enf| enf.tun.dev.clone()),
            ifindex: self.ifindex.filter(|_| there),
            mtu: enf.map(|enf| enf.tun.mtu).unwrap_or_default(),
            addresses: match link {
                Some(link) => link.addresses.clone(),
                None if there => self.state.kept_addresses().to_vec(),
                None => Vec::new(),
            },
            routes: route.prefixes.clone(),
            remotes: self.config.remote.hosts.iter().map(ToString::to_string).collect(),
            active_remote: link.map(|link| link.remote.clone()),
            fwmark: route.fwmark,
            fwmark_mask: route.fwmark_mask,
            table: route.table,
            autoconnect: self.config.autoconnect,
            lockdown: route.lockdown.as_str(),
            // On a router card they are the host's behind: nothing here reaches them.
            dns: enf.and_then(|enf| enf.dns.clone()).filter(|_| !self.is_card()),
            tls: link.map(|link| link.tls.clone()),
            counters: self.counters.clone(),
            forwards: self.config.kind.aws().map(|aws| ForwardsSnapshot {
                mode: aws.mode.as_str(),
                places: self.forwards.places(),
                live: self.forwards.clone(),
            }),
        }
    }

    /// When to look for a preferred remote.
    pub fn return_at(&self) -> Option<Moment> {
        let active = self.state.link.as_ref().filter(|_| self.state.phase == Phase::Connected)?.index;
        self.remotes.return_at(active).filter(|_| self.state.successor().is_none())
    }

    /// How long until the state machine wants to be woken, or there are repairs to tell, seen from `now`.
    pub fn sleep(&self, now: Moment) -> Option<Duration> {
        let due = self.due.into_iter().chain(self.repairs.due()).chain(self.outlook.due).chain(self.return_at());
        due.min().map(|due| due.saturating_sub(now))
    }
}

/// The tunnel with what the user said of its lockdown, and what its file says.
fn overrule(mut config: config::Tunnel, targets: &Targets) -> (config::Tunnel, Lockdown) {
    let written = config.route.lockdown;
    config.route.lockdown = targets.overrule(&config.name, written);
    (config, written)
}
