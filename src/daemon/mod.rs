//! The one actor: it alone owns the state of every tunnel, carries out effects in order, and publishes the snapshot.
//! It never waits for a far end: sessions live in tasks of their own and report. Packets never pass through it.

pub mod addresses;
mod adoption;
pub mod arguments;
mod card;
pub mod command;
mod credentials;
mod healing;
mod health;
pub mod in_force;
pub mod last_plans;
pub mod lockdown;
pub mod program;
mod reload;
mod roaming;
mod sessions;
pub mod snapshot;
mod supervised;
pub mod targets;
mod trust;
mod watchdog;

pub use command::{Answer, Caller, Command, Core, Refusal, ReloadScope, Request};
pub use snapshot::{ForwardsSnapshot, GroupSnapshot, Snapshot, Tampering, Transition, TunnelSnapshot};

use crate::card::Duid;
use crate::config::{Finding, Group, Loaded, ProbeUrl};
use crate::error::chain;
use crate::identity::CredentialsWatch;
use crate::kernel::{Applied, HostApplied, Kernel, KernelError, Watch};
use crate::logging::{self, message};
use crate::paths::Paths;
use crate::plan::{Host, Plan};
use crate::state::health::Reach;
use crate::state::{Effect, Event, Failure, Moment, Phase, Reason, SessionId, Target, Tick, Wanted};
use crate::sys::clock::{ClockWatch, Jump};
use crate::tunnel::SessionEvent;
use addresses::LastAddresses;
use healing::Repairs;
use in_force::InForce;
use last_plans::LastPlans;
use log::LevelFilter;
use sessions::write_address;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use supervised::Supervised;
use targets::Targets;
use tokio::sync::{mpsc, watch};
use watchdog::Watchdog;

/// Requests and session events that may wait for the actor.
const QUEUE: usize = 64;
/// The log target of changes of state, for whoever shows them otherwise.
pub const STATES: &str = "enftun::states";
/// The longest sleep: warnings of what time alone brings (a certificate's end) are that late at most.
const LONG: Duration = Duration::from_secs(3600);

/// The daemon. [`Daemon::run`] consumes it.
#[derive(Debug)]
pub struct Daemon {
    paths: Paths,
    kernel: Kernel,
    watch: Watch,
    /// Repairs of what is no single tunnel's.
    repairs: Repairs,
    /// Rules of the host's own that were not there at the last look.
    lost_rules: Vec<&'static str>,
    /// Links in groups that are not ours, at the last look.
    foreign_groups: BTreeSet<(String, u32)>,
    /// The level in the configuration file.
    log_level: LevelFilter,
    /// Trusted interface groups as they are now,
    groups: BTreeMap<String, Group>,
    /// and as the file has them.
    configured_groups: BTreeMap<String, Group>,
    /// What the network beside the tunnels reaches, and how that is found out.
    reach: Reach,
    probe_url: Option<ProbeUrl>,
    /// What was found in the configuration in force.
    findings: Vec<Finding>,
    config_hash: String,
    /// Until the tunnels are back to what they were.
    starting: bool,
    /// Tunnels whose target could not be written down.
    not_remembered: BTreeSet<String>,
    tunnels: BTreeMap<String, Supervised>,
    /// What the kernel holds of them, and of tunnels that are not ours to run.
    in_force: InForce,
    last_plans: LastPlans,
    /// When to try again what could not be done of tunnels that are not ours to run.
    others_due: Option<Moment>,
    targets: Targets,
    /// Where routers that are given by name were last found.
    addresses: LastAddresses,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Receiver<(String, SessionId, SessionEvent)>,
    reports: mpsc::Sender<(String, SessionId, SessionEvent)>,
    published: watch::Sender<Arc<Snapshot>>,
    history: VecDeque<Arc<Transition>>,
    transitions: u64,
    tamperings: VecDeque<Arc<Tampering>>,
    tampered: u64,
    clock: ClockWatch,
    /// Certificates, keys and trust anchors on disk.
    credentials: CredentialsWatch,
    /// The clocks told of a sleep after logind last announced one: of the end of the same, logind is going to tell, too.
    clocks_told: bool,
    watchdog: Watchdog,
    started: Instant,
    started_at: SystemTime,
    random: RandomState,
    /// Of our DHCPv6 server, once it was needed.
    duid: Option<Duid>,
    draws: u64,
}

impl Daemon {
    /// A daemon over this configuration, and the handle that drives it. Needs a tokio runtime; nothing happens before
    /// [`Daemon::run`].
    pub fn new(
        paths: Paths,
        loaded: Loaded,
        kernel: Kernel,
        in_force: InForce,
        last_plans: LastPlans,
        targets: Targets,
    ) -> io::Result<(Self, Core)> {
        let Loaded { config, findings, hash: config_hash, .. } = loaded;
        let (command_sender, commands) = mpsc::channel(QUEUE);
        let (reports, events) = mpsc::channel(QUEUE);
        let (published, view) = watch::channel(Arc::default());
        let addresses = targets.directory().map(LastAddresses::load).unwrap_or_default();
        let supervised = |(name, tunnel)| {
            let found = in_force.plans().get(&name);
            let tunnel = Supervised::new(tunnel, &targets, found);
            (name, tunnel)
        };
        let tunnels = config.tunnels.into_iter().map(supervised).collect();
        let daemon = Self {
            paths,
            kernel,
            watch: Watch::new()?,
            repairs: Repairs::default(),
            lost_rules: Vec::new(),
            foreign_groups: BTreeSet::new(),
            log_level: config.daemon.log_level,
            configured_groups: config.groups.clone(),
            groups: config.groups,
            reach: Reach::default(),
            probe_url: config.connectivity.probe_url,
            findings,
            config_hash,
            starting: true,
            not_remembered: BTreeSet::new(),
            tunnels,
            in_force,
            last_plans,
            others_due: None,
            targets,
            addresses,
            commands,
            events,
            reports,
            published,
            history: VecDeque::new(),
            transitions: 0,
            tamperings: VecDeque::new(),
            tampered: 0,
            clock: ClockWatch::new()?,
            credentials: CredentialsWatch::new(),
            clocks_told: false,
            watchdog: Watchdog::new(),
            started: Instant::now(),
            started_at: SystemTime::now(),
            random: RandomState::new(),
            duid: None,
            draws: 0,
        };
        daemon.publish();
        Ok((daemon, Core::new(command_sender, view)))
    }

    /// Returns tunnels to their targets, then serves requests and events until it is asked to shut down. The kernel state
    /// stays as it is then: what blocked goes on blocking.
    pub async fn run(mut self) {
        for name in self.names() {
            self.restore(&name).await;
        }
        self.starting = false;
        self.watch_credentials();
        log::info!(MESSAGE_ID = message::STARTED; "enftund {} runs; tunnels: {}", env!("CARGO_PKG_VERSION"), self.tunnels.len());
        self.publish();
        loop {
            let due = self.repairs.due().into_iter().chain(self.others_due);
            let repairs = due.map(|due| due.saturating_sub(self.now()));
            let sleep = self
                .tunnels
                .values()
                .filter_map(|tunnel| tunnel.sleep(self.now()))
                .chain(repairs)
                .min()
                .unwrap_or(LONG);
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) if command.request == Request::Shutdown => {
                        log::info!(MESSAGE_ID = message::STOPPING, ENFTUN_CALLER = command.caller.to_string();
                            "shutting down, asked by {}; what is blocked stays blocked", command.caller);
                        self.stop_sessions().await;
                        let _ = command.reply.send(Ok(Answer::Done));
                        return;
                    }
                    Some(command) => self.obey(command).await,
                    None => return self.stop_sessions().await,
                },
                Some((name, session, event)) = self.events.recv() => self.heard(&name, session, event).await,
                () = tokio::time::sleep(sleep) => self.wake().await,
                () = self.watch.changed() => {
                    self.heal().await;
                    self.look_around().await;
                }
                () = self.watchdog.feed() => {}
                () = self.credentials.changed() => self.look_at_credentials().await,
                jump = self.clock.set() => {
                    match jump {
                        Jump::Set => log::info!("the wall clock was set"),
                        Jump::Slept(slept) => self.resume(slept).await,
                    }
                    for name in self.names() {
                        self.feed(&name, Event::ClockSet).await;
                    }
                }
            }
        }
    }

    fn names(&self) -> Vec<String> {
        self.tunnels.keys().cloned().collect()
    }

    fn now(&self) -> Moment {
        self.started.elapsed()
    }

    fn tick(&mut self) -> Tick {
        self.draws += 1;
        let draw = self.random.hash_one(self.draws) >> 11;
        Tick { now: self.now(), random: draw as f64 / (1u64 << 53) as f64 }
    }

    async fn obey(&mut self, command: Command) {
        let Command { request, caller, reply } = command;
        let answer = match &request {
            Request::Connect(name) => self.ask(name, &caller, "connect", Event::Connect(Reason::User)).await,
            Request::Disconnect(name) => self.ask(name, &caller, "disconnect", Event::Disconnect).await,
            Request::Reconnect(name) => self.ask(name, &caller, "reconnect", Event::Reconnect(Reason::User)).await,
            Request::RotateTokens { tunnel, tokens } => self.rotate_tokens(tunnel, tokens, &caller).await,
            Request::SetLockdown(name, on) => self.set_lockdown(name, *on, &caller).await.map(|()| Answer::Done),
            Request::Reload(scope) => self.reload(*scope, &caller).await,
            Request::Trust { group, interface } => self.set_trust(group, interface, true, &caller).await,
            Request::Distrust { group, interface } => self.set_trust(group, interface, false, &caller).await,
            Request::SetLogLevel(level) => {
                log::set_max_level(*level);
                self.said(&caller, "log-level", &format!("logging from level {level} on"))
            }
            Request::SetLogTarget(target) if logging::set_target(*target) => {
                self.said(&caller, "log-target", &format!("logging to the {target}"))
            }
            Request::SetLogTarget(target) => {
                Err(Refusal::Unsupported(format!("there is no {target} here to write the log to")))
            }
            Request::Verify => Ok(Answer::Verified(self.heal().await)),
            Request::Plan(name) => self.plan_text(name).map(Answer::Plan),
            Request::Sleep(asleep) => {
                self.announced(*asleep).await;
                Ok(Answer::Done)
            }
            // The loop takes it before it gets here.
            Request::Shutdown => Ok(Answer::Done),
        };
        if let Err(refusal) = &answer {
            log::warn!(MESSAGE_ID = message::REFUSED, ENFTUN_CALLER = caller.to_string();
                "refused {request} to {caller}: {refusal}");
        }
        let _ = reply.send(answer);
    }

    async fn ask(&mut self, name: &str, caller: &Caller, verb: &str, event: Event) -> Result<Answer, Refusal> {
        let tunnel = self.tunnels.get(name).ok_or_else(|| Refusal::NotFound(name.to_owned()))?;
        if verb == "reconnect" && tunnel.state.target == Target::Down {
            return Err(Refusal::WrongState(format!(
                "{name} is not connected; `enftunctl connect {name}` brings it up"
            )));
        }
        log::info!(MESSAGE_ID = message::REQUEST, ENFTUN_TUNNEL = name, ENFTUN_REQUEST = verb, ENFTUN_CALLER = caller.to_string();
            "{verb} {name}, asked by {caller}");
        if let Some(tunnel) = self.tunnels.get_mut(name) {
            tunnel.remotes.reset();
        }
        self.feed(name, event).await;
        Ok(Answer::Done)
    }

    fn said(&self, caller: &Caller, request: &str, what: &str) -> Result<Answer, Refusal> {
        log::info!(MESSAGE_ID = message::REQUEST, ENFTUN_REQUEST = request, ENFTUN_CALLER = caller.to_string();
            "{what}, asked by {caller}");
        Ok(Answer::Done)
    }

    /// What the kernel shall hold now: what all tunnels need together, this one as it shall be, and then its own.
    fn plan_text(&self, name: &str) -> Result<String, Refusal> {
        let tunnel = self.tunnels.get(name).ok_or_else(|| Refusal::NotFound(name.to_owned()))?;
        let plan = tunnel.plan(&self.groups);
        let nothing = if plan == plan.scope.empty() { "# nothing of its own\n" } else { "" };
        Ok(format!("# tunnel {name}, {}\n{nothing}{}{plan}", tunnel.state.phase, self.host(Some((name, &plan)))))
    }

    /// What all tunnels need together, as their plans in force have it, and one of them by this plan.
    fn host(&self, one: Option<(&str, &Plan)>) -> Host {
        let of = |name: &str| one.filter(|(one, _)| *one == name).map(|(_, plan)| plan);
        let ours = self.tunnels.iter().map(|(name, tunnel)| of(name).unwrap_or(&tunnel.applied));
        let others = self.in_force.plans().iter().filter(|(name, _)| !self.tunnels.contains_key(*name));
        let emergency = !self.in_force.unknown().is_empty();
        Host::with(ours.chain(others.map(|(_, plan)| plan)), self.kernel.owner(), emergency)
    }

    /// Brings what all tunnels need together into force, as their plans in force have it.
    async fn apply_host(&mut self) -> Result<Vec<String>, KernelError> {
        let host = self.host(None);
        let HostApplied { changes, arrived, foreign } = self.kernel.apply_host(&host).await?;
        for member in arrived {
            log::info!(MESSAGE_ID = message::TRUSTED; "a trusted interface is there: {member}");
        }
        self.warn_of_foreign(foreign);
        Ok(changes)
    }

    async fn wake(&mut self) {
        if let Some(slept) = self.clock.slept() {
            self.resume(slept).await;
        }
        let now = self.now();
        self.tell_counts(now);
        if self.others_due.is_some_and(|due| due <= now) {
            self.keep_others().await;
        }
        for name in self.names() {
            if self.tunnels.get(&name).and_then(|tunnel| tunnel.due).is_some_and(|due| due <= now) {
                self.feed(&name, Event::Timer).await;
            }
            if self.tunnels.get(&name).and_then(|tunnel| tunnel.outlook.due).is_some_and(|due| due <= now) {
                self.look_for(&name).await;
            }
            if self.tunnels.get(&name).and_then(Supervised::return_at).is_some_and(|due| due <= now) {
                self.look_for_preferred(&name).await;
            }
        }
    }

    /// Takes one event through the state machine and carries out everything that follows from it.
    async fn feed(&mut self, name: &str, event: Event) {
        let mut queue = VecDeque::from([event]);
        while let Some(event) = queue.pop_front() {
            let tick = self.tick();
            let Some(tunnel) = self.tunnels.get_mut(name) else { return };
            let old = tunnel.state.phase;
            let policy = tunnel.policy();
            let effects = tunnel.state.step(event, &policy, tick);
            self.changed(name, old);
            for effect in effects {
                queue.extend(self.carry_out(name, effect).await);
            }
        }
        self.publish();
    }

    async fn carry_out(&mut self, name: &str, effect: Effect) -> Option<Event> {
        let tunnel = self.tunnels.get_mut(name)?;
        match effect {
            Effect::Apply => Some(self.apply(name).await),
            Effect::Start(id) => self.start_session(name, id).await,
            Effect::Stop(id) => {
                self.stop_session(name, id).await;
                None
            }
            Effect::Abandon(id) => self.abandon_session(name, id).await,
            Effect::Probe(_) => {
                tunnel.probe();
                None
            }
            Effect::Retire(_) => {
                self.retired(name);
                None
            }
            Effect::WakeAt(at) => {
                tunnel.due = at;
                None
            }
            Effect::SaveTarget(target) => {
                let remembered = self.targets.set(name, target);
                if remembered.is_ok() {
                    self.not_remembered.remove(name);
                } else {
                    self.not_remembered.insert(name.to_owned());
                }
                if let Err(error) = remembered {
                    log::error!(ENFTUN_TUNNEL = name; "{}; after a restart {name} returns to its old target", chain(&error));
                }
                None
            }
        }
    }

    async fn apply(&mut self, name: &str) -> Event {
        let Some(tunnel) = self.tunnels.get(name) else { return Event::Applied };
        let wanted = tunnel.wanted();
        let applied = match self.enforce(name).await {
            Ok(applied) => applied,
            Err(error) => return Event::ApplyFailed(Failure::from(&error)),
        };
        for change in &applied.changes {
            log::debug!(ENFTUN_TUNNEL = name; "{change}");
        }
        if let Some(tunnel) = self.tunnels.get_mut(name) {
            tunnel.ifindex = applied.ifindex;
            if matches!(wanted, Wanted::Connected(_)) {
                write_address(tunnel);
            }
            tunnel.in_force = wanted;
        }
        self.serve(name, applied.tap);
        Event::Applied
    }

    /// Brings the plan of one tunnel into force: first all that holds traffic, then what is behind the firewall, and last what
    /// lets traffic pass.
    async fn enforce(&mut self, name: &str) -> Result<Applied, KernelError> {
        let Some(tunnel) = self.tunnels.get_mut(name) else { return Ok(Applied::default()) };
        let (wanted, plan) = (tunnel.wanted(), tunnel.plan(&self.groups));
        if wanted != Wanted::Open {
            note(name, self.in_force.set(name, &plan));
        }
        tunnel.take_leave(&plan).await;
        tunnel.applied.tighten(&plan);
        let mut changes = match self.apply_host().await {
            Ok(changes) => changes,
            Err(error) => {
                self.hold_by_routing(name, &wanted, &plan).await;
                return Err(error);
            }
        };
        let mut applied = self.kernel.apply(&plan).await?;
        changes.append(&mut applied.changes);
        if let Some(tunnel) = self.tunnels.get_mut(name).filter(|tunnel| tunnel.applied != plan) {
            tunnel.applied = plan.clone();
            changes.extend(self.apply_host().await?);
        }
        // The new plan is in force; only now what former ones alone had may go.
        self.retire(name, &plan.scope).await;
        if wanted == Wanted::Open {
            note(name, self.in_force.forget(name));
            self.last_plans.forget(name);
        } else {
            self.last_plans.set(name, Some(&plan));
        }
        Ok(Applied { changes, ..applied })
    }

    /// Without the firewall, routing holds what it can; it opens nothing.
    async fn hold_by_routing(&mut self, name: &str, wanted: &Wanted, plan: &Plan) {
        if !matches!(wanted, Wanted::Blocked | Wanted::Connecting) {
            return;
        }
        match self.kernel.apply(plan).await {
            Ok(applied) => {
                if let Some(tunnel) = self.tunnels.get_mut(name) {
                    (tunnel.in_force, tunnel.ifindex) = (wanted.clone(), applied.ifindex);
                }
            }
            Err(error) => log::error!(ENFTUN_TUNNEL = name; "{}", chain(&error)),
        }
    }

    /// Logs and records a change of state.
    fn changed(&mut self, name: &str, old: Phase) {
        let Some(tunnel) = self.tunnels.get_mut(name).filter(|tunnel| tunnel.state.phase != old) else { return };
        tunnel.since = SystemTime::now();
        let state = &tunnel.state;
        let level = match state.phase {
            Phase::Error => log::Level::Error,
            Phase::Reconnecting => log::Level::Warn,
            _ => log::Level::Info,
        };
        let kind = match state.phase {
            Phase::Connected => message::CONNECTED,
            Phase::Disconnected => message::DISCONNECTED,
            Phase::Reconnecting => message::LOST,
            Phase::Error => message::FAILED,
            Phase::Connecting | Phase::Disconnecting => message::CONNECTING,
        };
        let remote = state.link.as_ref().map_or("", |link| &link.remote);
        let detail = match (state.phase, &state.last_failure, &state.link) {
            (Phase::Error | Phase::Reconnecting, Some(failure), _) => format!(": {}", failure.text),
            (Phase::Connected, _, Some(link)) => {
                let peer = link.peer.map(|peer| format!(" ({peer})")).unwrap_or_default();
                format!(" to {}{peer}", link.remote)
            }
            _ => String::new(),
        };
        log::log!(target: STATES, level, MESSAGE_ID = kind, ENFTUN_TUNNEL = name, ENFTUN_STATE = state.phase.as_str(),
            ENFTUN_OLD_STATE = old.as_str(), ENFTUN_REASON = state.reason.as_str(), ENFTUN_REMOTE = remote;
            "{name} is {}{detail}", state.phase);
        self.transitions += 1;
        let transition = Transition {
            number: self.transitions,
            tunnel: name.to_owned(),
            new: state.phase,
            old,
            reason: state.reason,
            error: state.last_failure.clone().filter(|_| matches!(state.phase, Phase::Error | Phase::Reconnecting)),
        };
        push(&mut self.history, Arc::new(transition));
        self.publish();
    }

    fn publish(&self) {
        let firewall = self.kernel.firewall();
        let (groups, warnings) = (self.show_groups(), self.warnings());
        let tunnels = self
            .tunnels
            .iter()
            .map(|(name, tunnel)| (name.clone(), Arc::new(tunnel.snapshot(self.started_at, firewall.in_force))))
            .collect();
        self.published.send_modify(|snapshot| {
            *snapshot = Arc::new(Snapshot {
                kept: self.others().into_iter().chain(self.in_force.unknown().clone()).collect(),
                generation: snapshot.generation + 1,
                tunnels,
                history: self.history.clone(),
                transitions: self.transitions,
                firewall: firewall.clone(),
                tamperings: self.tamperings.clone(),
                tampered: self.tampered,
                starting: self.starting,
                groups: groups.clone(),
                warnings: warnings.clone(),
                connectivity: self.reach.connectivity,
                config_hash: self.config_hash.clone(),
            });
        });
    }
}

/// Says what could not be done and does not stop the rest.
fn note<E: std::error::Error + 'static>(name: &str, done: Result<(), E>) {
    if let Err(error) = done {
        log::error!(ENFTUN_TUNNEL = name; "{}", chain(&error));
    }
}

/// Remembers what a snapshot shows, and forgets the oldest.
fn push<T>(history: &mut VecDeque<Arc<T>>, latest: Arc<T>) {
    if history.len() == snapshot::HISTORY {
        history.pop_front();
    }
    history.push_back(latest);
}
