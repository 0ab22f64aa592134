//! What changed outside is taken over: the configuration is read again and compared with the one in force, tunnel by tunnel, and
//! what differs in the kernel is put back. With errors in a file nothing changes.

use super::supervised::Supervised;
use super::{Answer, Caller, Daemon, Refusal, ReloadScope, note};
use crate::config::{self, Kind, Loaded, Lockdown};
use crate::logging::message;
use crate::state::health::Reach;
use crate::state::{Event, Failure, Phase, Reason, Target, Wanted};
use log::LevelFilter;

impl Daemon {
    /// Takes over what changed outside: the configuration first, then what differs in the kernel.
    pub(super) async fn reload(&mut self, scope: ReloadScope, caller: &Caller) -> Result<Answer, Refusal> {
        log::info!(MESSAGE_ID = message::REQUEST, ENFTUN_REQUEST = "reload", ENFTUN_CALLER = caller.to_string();
            "reload, asked by {caller}");
        if scope.configuration {
            self.reload_configuration().await?;
        }
        if scope.firewall {
            self.heal_firewall().await;
        }
        if scope.network {
            self.heal_network().await;
        }
        self.publish();
        let failures = self.tunnels.values().filter(|tunnel| tunnel.state.phase == Phase::Error);
        let failure =
            failures.filter_map(|tunnel| tunnel.state.last_failure.as_ref()).find(|failure| failure.is_kernel());
        failure.map_or(Ok(Answer::Done), |failure| Err(Refusal::Kernel(failure.clone())))
    }

    /// Reads the configuration again. With errors nothing changes; otherwise what changed is applied: a tunnel whose
    /// retry, autoconnect, lockdown or name servers alone changed keeps its session, any other change starts a new one.
    async fn reload_configuration(&mut self) -> Result<(), Refusal> {
        let loaded: Loaded = config::load(&self.paths.config);
        for finding in &loaded.findings {
            log::warn!(MESSAGE_ID = message::CONFIGURATION; "{}", finding.one_line());
        }
        if loaded.has_errors() {
            let is_error = |finding: &&config::Finding| finding.severity == config::Severity::Error;
            let errors: Vec<String> =
                loaded.findings.iter().filter(is_error).map(|finding| finding.one_line()).collect();
            return Err(Refusal::InvalidConfig(errors.join("; ")));
        }
        (self.findings, self.config_hash) = (loaded.findings, loaded.hash);
        self.set_log_level(loaded.config.daemon.log_level);
        if loaded.config.connectivity.probe_url != self.probe_url {
            (self.probe_url, self.reach) = (loaded.config.connectivity.probe_url, Reach::default());
        }
        self.configured_groups.clone_from(&loaded.config.groups);
        self.groups = loaded.config.groups;
        let mut new = loaded.config.tunnels;
        for name in self.names() {
            match new.remove(&name) {
                Some(config) => self.reconfigure(&name, config).await,
                None => self.remove(&name).await,
            }
        }
        for (name, config) in new {
            log::info!(ENFTUN_TUNNEL = name.as_str(); "new tunnel {name}");
            let found = self.in_force.plans().get(&name);
            let blocked = found.is_some() || self.in_force.unknown().contains(&name);
            self.tunnels.insert(name.clone(), Supervised::new(config, &self.targets, found));
            if blocked {
                self.restore(&name).await;
            }
        }
        self.watch_credentials();
        self.forget_others().await;
        self.regroup().await;
        Ok(())
    }

    /// Applies again what changed with the trusted groups alone. What failed, if something did.
    pub(super) async fn regroup(&mut self) -> Option<Failure> {
        let mut failed = None;
        for name in self.names() {
            let Some(tunnel) = self.tunnels.get(&name).filter(|tunnel| tunnel.in_force != Wanted::Open) else {
                continue;
            };
            if tunnel.plan(&self.groups) != tunnel.applied {
                failed = self.apply_again(&name).await.or(failed);
            }
        }
        failed
    }

    /// Brings the plan for the present state into force, which has not changed. What failed, if something did.
    pub(super) async fn apply_again(&mut self, name: &str) -> Option<Failure> {
        let Event::ApplyFailed(failure) = self.apply(name).await else { return None };
        self.feed(name, Event::ApplyFailed(failure.clone())).await;
        Some(failure)
    }

    /// A level that was set otherwise, by an argument, stays.
    fn set_log_level(&mut self, level: LevelFilter) {
        if log::max_level() == self.log_level {
            log::set_max_level(level);
        }
        self.log_level = level;
    }

    pub(super) async fn reconfigure(&mut self, name: &str, new: config::Tunnel) {
        let Some(tunnel) = self.tunnels.get_mut(name) else { return };
        let old = tunnel.configure(new, &self.targets);
        let new = tunnel.config.clone();
        if old == new {
            return;
        }
        log::info!(ENFTUN_TUNNEL = name; "the configuration of {name} changed");
        let (up, blocked) = (tunnel.state.target == Target::Up, tunnel.in_force != Wanted::Open);
        if up && !keeps_session(&old, &new) {
            self.feed(name, Event::Reconnect(Reason::Config)).await;
        } else if !up && blocked && lockdown(&old) == Lockdown::Boot && lockdown(&new) != Lockdown::Boot {
            self.feed(name, Event::Unlock).await;
        } else if blocked && tunnel.plan(&self.groups) != tunnel.applied {
            let _ = self.apply_again(name).await;
        }
    }

    /// A tunnel whose file is gone is disconnected, and nothing of it stays in the kernel.
    async fn remove(&mut self, name: &str) {
        log::info!(ENFTUN_TUNNEL = name; "the file of {name} is gone: it is disconnected and forgotten");
        self.feed(name, Event::Disconnect).await;
        self.tunnels.remove(name);
        note(name, self.clear(name).await);
        note(name, self.targets.forget(name));
    }
}

fn lockdown(tunnel: &config::Tunnel) -> Lockdown {
    tunnel.route.lockdown
}

/// Only what the supervisor itself runs by changed.
fn keeps_session(old: &config::Tunnel, new: &config::Tunnel) -> bool {
    let mut same = config::Tunnel { autoconnect: new.autoconnect, retry: new.retry, ..old.clone() };
    if let (Kind::Enf(kept), Kind::Enf(wanted)) = (&mut same.kind, &new.kind) {
        kept.dns.clone_from(&wanted.dns);
    }
    same.route.lockdown = new.route.lockdown;
    same.route.trusted_interfaces.clone_from(&new.route.trusted_interfaces);
    same.route.trusted_groups.clone_from(&new.route.trusted_groups);
    same == *new
}
