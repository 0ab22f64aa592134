//! The life of one tunnel as a pure function: an event goes in, the next state and the effects to carry out come out.
//! No I/O, no clock, no async: the time and the random share of each delay are handed in.
//!
//! ```text
//! disconnected --connect--> connecting --ready, applied--> connected
//! connecting --failure worth retrying--> reconnecting --timer--> connecting
//! connected --path changed, far end silent, credentials renewed--> connected, with a successor on its way (make before break)
//! connected --session ended--> reconnecting, or connecting when a successor is on its way
//! any --credentials, configuration or environment at fault--> error --slow timer, connect, reload--> connecting
//! any --disconnect--> disconnecting --applied--> disconnected
//! ```
//!
//! The kernel follows: [`Tunnel::wanted`] says what the plan must hold in each state, and every state but the user's own
//! `disconnected` blocks.

mod backoff;
mod failure;
pub mod health;
mod remotes;
mod succession;

pub use backoff::Backoff;
pub(crate) use failure::words;
pub use failure::{Failure, Reason};
pub use remotes::Remotes;
pub use succession::{Cause, Successor};

use crate::config::{Lockdown, Retry};
use crate::error::Class;
use ipnet::IpNet;
use std::net::SocketAddr;
use std::time::Duration;

/// A point in time: how long the daemon has been running. It never goes backwards.
pub type Moment = Duration;

/// This many sessions in a row that the far end closes before their first frame mean that it refuses the credentials
/// (TLS 1.3 judges the client after the client's handshake is over).
pub const UNHEARD_LIMIT: u32 = 3;

words! {
    /// Where a tunnel is in its life: the words of the bus property `State`.
    Phase {
        /// Not wanted, or not yet.
        Disconnected => "disconnected",
        /// An attempt is under way.
        Connecting => "connecting",
        /// Packets flow.
        Connected => "connected",
        /// Waiting for the next attempt.
        Reconnecting => "reconnecting",
        /// On the way down.
        Disconnecting => "disconnecting",
        /// Trying again would not help by itself; tried again slowly.
        Error => "error",
    }
}

words! {
    /// Whether the tunnel is wanted: the words of the bus property `TargetState`.
    Target {
        /// It shall carry traffic.
        Up => "connected",
        /// It shall not.
        Down => "disconnected",
    }
}

words! {
    /// What carries packets on a TLS connection (`docs/protocol.md`): the words of `wire` on the bus and in JSON.
    #[derive(Default)]
    WireVersion {
        /// The wire of the C client: a length and a packet.
        #[default]
        V1 => "v1",
        /// `enftun/2`: super-packets, and a channel to control them.
        V2 => "v2",
    }
}

/// What the daemon must know of time and chance for one step.
#[derive(Clone, Copy, Debug)]
pub struct Tick {
    /// Now.
    pub now: Moment,
    /// Uniform in 0..1.
    pub random: f64,
}

/// Facts of a live session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The configured remote, as `host:port`.
    pub remote: String,
    /// Its place in `remote.hosts`.
    pub index: usize,
    /// The address that was dialled; none: a way that is not IP.
    pub peer: Option<SocketAddr>,
    /// The own end of that connection.
    pub local: Option<SocketAddr>,
    /// Own addresses with prefix length.
    pub addresses: Vec<IpNet>,
    /// What TLS agreed on.
    pub tls: Tls,
}

/// What the bus shows of a TLS connection. No key material.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: String,
    /// The cipher suite's IANA name.
    pub cipher: String,
    /// The far end's subject.
    pub peer_subject: String,
    /// The end of the far end's validity, seconds since 1970.
    pub peer_not_after: i64,
    /// The end of the own certificate's validity, seconds since 1970.
    pub local_not_after: i64,
    /// What it carries.
    pub wire: WireVersion,
}

/// What can happen to a tunnel.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// It is wanted from now on.
    Connect(Reason),
    /// It is not wanted any more.
    Disconnect,
    /// It is blocked though it is not wanted, until the user says otherwise: by lockdown, or because it was when the daemon
    /// started.
    Lockdown,
    /// What is not wanted is no longer blocked, unless lockdown says so.
    Unlock,
    /// Start a new session now.
    Reconnect(Reason),
    /// The plan for the present state is in force.
    Applied,
    /// It is not; the old state of the kernel still blocks.
    ApplyFailed(Failure),
    /// The first frame arrived on this session.
    Ready(SessionId, Link),
    /// The session is over.
    Ended(SessionId, Ended),
    /// The moment of the last [`Effect::WakeAt`] has come.
    Timer,
    /// The wall clock was set.
    ClockSet,
    /// There is another path to the remotes than when they were last dialled, or one at all.
    PathChanged,
    /// The path that the live session was made on is the best again.
    PathRestored,
    /// The system slept: whatever was connected may be gone.
    Resumed,
    /// This session's far end owes an answer for longer than a path that works takes.
    Suspect(SessionId),
    /// A remote that is preferred to the one in use may be back.
    Preferred,
    /// Certificate, key or trust anchors changed.
    Renewed,
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// Why.
    pub failure: Failure,
    /// The handshake was complete but no frame had arrived, and the far end closed.
    pub unheard: bool,
    /// When it is worth trying again, if that can be.
    pub again: Again,
}

impl Ended {
    /// It came to nothing, and is tried again as everything is.
    pub fn of(failure: Failure) -> Self {
        Self { failure, unheard: false, again: Again::InTurn }
    }
}

/// When to try again after the end of a session, where that is worth it at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Again {
    /// After the back-off.
    #[default]
    InTurn,
    /// The far end said so: not for this long. Longer than `retry.max` nobody waits.
    NotBefore(Duration),
    /// There is another far end that does not wait.
    AtOnce,
}

/// Tells the sessions of a tunnel apart, so that a late word of an old one means nothing.
pub type SessionId = u64;

/// What the daemon must do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Bring [`Tunnel::wanted`] into force, and report `Applied` or `ApplyFailed`.
    Apply,
    /// Start a session.
    Start(SessionId),
    /// End the session, if it still runs, and those before it.
    Stop(SessionId),
    /// End a successor that is no longer wanted.
    Abandon(SessionId),
    /// Ask the far end of the session for a sign of life.
    Probe(SessionId),
    /// The session has been replaced; it takes what is in flight and ends by itself.
    Retire(SessionId),
    /// Report `Timer` at this moment; none: never.
    WakeAt(Option<Moment>),
    /// Remember the target across restarts.
    SaveTarget(Target),
}

/// What the kernel must hold for this tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing of ours.
    Open,
    /// Traffic that belongs in the tunnel goes nowhere; no link.
    Blocked,
    /// The same, and the link is there without carrier.
    Connecting,
    /// The link carries packets from these addresses.
    Connected(Vec<IpNet>),
}

/// The settings the state machine runs by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Back-off.
    pub retry: Retry,
    /// What the user's `disconnected` means.
    pub lockdown: Lockdown,
    /// The far end takes two sessions at a time. Otherwise a new one ends the live one, and what it carries: then a live one is
    /// asked for a sign of life where it would get a successor.
    pub overlaps: bool,
}

/// The state of one tunnel.
#[derive(Clone, Debug, PartialEq)]
pub struct Tunnel {
    /// Where it is.
    pub phase: Phase,
    /// Where it shall be.
    pub target: Target,
    /// Why it is there.
    pub reason: Reason,
    /// The last thing that went wrong since it was last connected.
    pub last_failure: Option<Failure>,
    /// Attempts since it was last connected; 0 before the first.
    pub attempt: u32,
    /// When the next attempt is due.
    pub next_attempt: Option<Moment>,
    /// Facts of the live session, once its first frame has arrived.
    pub link: Option<Link>,
    /// The own addresses of the last session, for as long as the tunnel blocks.
    addresses: Vec<IpNet>,
    /// Blocked while it is not wanted, whatever the policy.
    locked: bool,
    session: Option<SessionId>,
    successor: Option<Successor>,
    /// What a successor is still needed for, when the next one is due.
    insisting: Option<Cause>,
    last_session: SessionId,
    connected_at: Option<Moment>,
    unheard: u32,
    backoff: Backoff,
}

impl Default for Tunnel {
    fn default() -> Self {
        Self {
            phase: Phase::Disconnected,
            target: Target::Down,
            reason: Reason::None,
            last_failure: None,
            attempt: 0,
            next_attempt: None,
            link: None,
            addresses: Vec::new(),
            locked: false,
            session: None,
            successor: None,
            insisting: None,
            last_session: 0,
            connected_at: None,
            unheard: 0,
            backoff: Backoff::default(),
        }
    }
}

impl Tunnel {
    /// What the kernel must hold in this state.
    pub fn wanted(&self, policy: &Policy) -> Wanted {
        match self.phase {
            Phase::Disconnected | Phase::Disconnecting => match policy.lockdown {
                Lockdown::Boot if self.reason != Reason::None => Wanted::Blocked,
                _ if self.locked => Wanted::Blocked,
                Lockdown::Boot | Lockdown::Session | Lockdown::Off => Wanted::Open,
            },
            Phase::Error if self.target == Target::Down => Wanted::Blocked,
            Phase::Connecting | Phase::Reconnecting | Phase::Error | Phase::Connected => match &self.link {
                Some(link) => Wanted::Connected(link.addresses.clone()),
                None => Wanted::Connecting,
            },
        }
    }

    /// A tunnel that blocked under these own addresses when the daemon started.
    pub fn found(addresses: Vec<IpNet>) -> Self {
        Self { addresses, ..Self::default() }
    }

    /// The own addresses of the last session: on the link until the next one, and nobody's source elsewhere.
    pub fn kept_addresses(&self) -> &[IpNet] {
        &self.addresses
    }

    /// How long the live session has been connected.
    pub fn connected_for(&self, now: Moment) -> Option<Duration> {
        self.connected_at.map(|since| now.saturating_sub(since))
    }

    /// The router closes this tunnel's sessions without a word, as one does that refuses the credentials; what was said of it.
    pub fn refused_in_silence(&self) -> Option<&Failure> {
        self.last_failure.as_ref().filter(|_| self.unheard >= UNHEARD_LIMIT)
    }

    /// The session that may speak for this tunnel.
    pub fn session(&self) -> Option<SessionId> {
        self.session
    }

    /// The session that is to take over from it.
    pub fn successor(&self) -> Option<Successor> {
        self.successor
    }

    /// Takes one event and says what to do. Events of sessions that are no longer ours change nothing.
    #[must_use]
    pub fn step(&mut self, event: Event, policy: &Policy, tick: Tick) -> Vec<Effect> {
        match event {
            Event::Connect(reason) => self.connect(reason),
            Event::Disconnect => self.disconnect(),
            Event::Lockdown => self.lockdown(),
            Event::Unlock => match self.target {
                Target::Up => Vec::new(),
                Target::Down => self.go_down(Reason::User),
            },
            Event::Reconnect(reason) => match self.target {
                Target::Up => self.dial(reason),
                Target::Down => Vec::new(),
            },
            Event::Applied => self.applied(policy, tick),
            Event::ApplyFailed(failure) => self.apply_failed(failure, policy, tick),
            Event::Ready(id, link) if self.session == Some(id) => {
                self.link = Some(link);
                vec![Effect::Apply]
            }
            Event::Ended(id, ended) if self.session == Some(id) => self.ended(ended, policy, tick),
            Event::Ready(id, link) if self.succeeds(id) => self.take_over(link, tick),
            Event::Ended(id, ended) if self.succeeds(id) => self.successor_ended(&ended, policy, tick),
            Event::Ready(..) | Event::Ended(..) => Vec::new(),
            Event::Timer => self.timer(tick),
            Event::PathChanged | Event::Resumed if self.phase == Phase::Connected && !policy.overlaps => {
                self.session.map(Effect::Probe).into_iter().collect()
            }
            Event::Suspect(_) | Event::Preferred if !policy.overlaps => Vec::new(),
            // What comes with new credentials is worth more than what is carried: the old ones may end any moment.
            Event::Renewed if self.phase == Phase::Connected && !policy.overlaps => self.dial(Reason::Config),
            Event::PathChanged => self.moved(Cause::Path),
            Event::Resumed => self.moved(Cause::Sleep),
            Event::PathRestored => match self.successor.map(|successor| successor.why).or(self.insisting) {
                Some(Cause::Path) => self.settle(),
                _ => Vec::new(),
            },
            Event::Suspect(id) if self.session == Some(id) => self.succeed(Cause::Silence),
            Event::Suspect(_) => Vec::new(),
            Event::Preferred => self.succeed(Cause::Preferred),
            Event::Renewed => self.renewed(),
            Event::ClockSet => match self.phase {
                Phase::Error | Phase::Reconnecting if self.reason == Reason::CertificateNotYetValid => {
                    self.dial(self.reason)
                }
                _ => Vec::new(),
            },
        }
    }

    fn connect(&mut self, reason: Reason) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.target != Target::Up {
            self.target = Target::Up;
            effects.push(Effect::SaveTarget(Target::Up));
        }
        self.locked = false;
        match self.phase {
            Phase::Connecting | Phase::Connected => {}
            Phase::Disconnected | Phase::Disconnecting | Phase::Reconnecting | Phase::Error => {
                self.attempt = 0;
                self.unheard = 0;
                self.backoff.reset();
                effects.extend(self.dial(reason));
            }
        }
        effects
    }

    fn disconnect(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.target != Target::Down {
            self.target = Target::Down;
            effects.push(Effect::SaveTarget(Target::Down));
        }
        if self.phase != Phase::Disconnected || self.locked {
            effects.extend(self.go_down(Reason::User));
        }
        effects
    }

    fn lockdown(&mut self) -> Vec<Effect> {
        if self.target == Target::Up {
            return Vec::new();
        }
        let effects = self.go_down(Reason::Lockdown);
        self.locked = true;
        effects
    }

    /// Ends what there is, on the way to `disconnected`.
    fn go_down(&mut self, reason: Reason) -> Vec<Effect> {
        self.enter(Phase::Disconnecting, reason);
        let mut effects = self.stop_sessions();
        self.locked = false;
        effects.push(self.wake_at(None));
        effects.push(Effect::Apply);
        effects
    }

    /// Until the next attempt after this failure.
    fn delay(&mut self, failure: &Failure, policy: &Policy, tick: Tick) -> Duration {
        match (failure.class, failure.reason) {
            // Whoever brings a network says so.
            (Class::Transient, Reason::NoNetwork) => Backoff::slow(&policy.retry, tick.random),
            (Class::Transient, _) => self.backoff.next(&policy.retry, tick.random),
            (Class::Configuration | Class::Credentials | Class::Environment | Class::Bug, _) => {
                Backoff::slow(&policy.retry, tick.random)
            }
        }
    }

    /// Goes to `connecting` with no session running; `applied` starts one.
    fn dial(&mut self, reason: Reason) -> Vec<Effect> {
        let mut effects = self.stop_sessions();
        self.enter(Phase::Connecting, reason);
        effects.push(self.wake_at(None));
        effects.push(Effect::Apply);
        effects
    }

    fn applied(&mut self, policy: &Policy, tick: Tick) -> Vec<Effect> {
        match (self.phase, &self.link) {
            (Phase::Disconnecting, _) => {
                self.enter(Phase::Disconnected, self.reason);
                self.last_failure = None;
                self.attempt = 0;
                if self.wanted(policy) == Wanted::Open {
                    self.addresses.clear();
                }
                Vec::new()
            }
            (Phase::Connecting, None) if self.session.is_none() => {
                self.attempt = self.attempt.saturating_add(1);
                self.last_session += 1;
                self.session = Some(self.last_session);
                vec![Effect::Start(self.last_session)]
            }
            (Phase::Connecting, Some(link)) => {
                self.addresses = link.addresses.clone();
                self.connected_at = Some(tick.now);
                self.unheard = 0;
                self.last_failure = None;
                self.enter(Phase::Connected, self.reason);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn apply_failed(&mut self, failure: Failure, policy: &Policy, tick: Tick) -> Vec<Effect> {
        let mut effects = self.stop_sessions();
        self.enter(Phase::Error, failure.reason);
        self.last_failure = Some(failure);
        let delay = self.backoff.next(&policy.retry, tick.random);
        effects.push(self.wake_at(Some(tick.now + delay)));
        effects
    }

    fn ended(&mut self, ended: Ended, policy: &Policy, tick: Tick) -> Vec<Effect> {
        self.session = None;
        self.link = None;
        if let Some(since) = self.connected_at.take() {
            self.attempt = 0;
            if tick.now.saturating_sub(since) >= policy.retry.stable_after {
                self.backoff.reset();
            }
        }
        self.unheard = if ended.unheard { self.unheard + 1 } else { 0 };
        let failure = if self.unheard >= UNHEARD_LIMIT && ended.failure.class == Class::Transient {
            Failure::new(
                Reason::AuthFailed,
                Class::Credentials,
                format!(
                    "{}; {} sessions in a row ended so before their first packet: the router probably refuses this \
                     certificate (is it enrolled there, or under its client CA?)",
                    ended.failure.text, self.unheard
                ),
            )
        } else {
            ended.failure
        };
        if let Some(successor) = self.successor.take() {
            // It has begun already; nothing is waited for.
            self.session = Some(successor.id);
            self.attempt = 1;
            self.enter(Phase::Connecting, failure.reason);
            self.last_failure = Some(failure);
            return vec![Effect::Apply];
        }
        self.insisting = None;
        let phase = if failure.class == Class::Transient { Phase::Reconnecting } else { Phase::Error };
        let delay = self.delay(&failure, policy, tick);
        let delay = match ended.again {
            Again::AtOnce if failure.class == Class::Transient => Duration::ZERO,
            Again::NotBefore(wait) => delay.max(wait.min(policy.retry.max)),
            Again::AtOnce | Again::InTurn => delay,
        };
        self.enter(phase, failure.reason);
        self.last_failure = Some(failure);
        vec![Effect::Apply, self.wake_at(Some(tick.now + delay))]
    }

    fn timer(&mut self, tick: Tick) -> Vec<Effect> {
        match (self.phase, self.next_attempt) {
            (Phase::Reconnecting | Phase::Error, Some(due)) if due <= tick.now => match self.target {
                Target::Up => self.dial(self.reason),
                Target::Down if self.locked => self.lockdown(),
                Target::Down => self.go_down(Reason::User),
            },
            (Phase::Connected, Some(due)) if due <= tick.now => match self.insisting {
                Some(why) => self.succeed(why),
                None => Vec::new(),
            },
            _ => Vec::new(),
        }
    }

    fn stop_sessions(&mut self) -> Vec<Effect> {
        self.link = None;
        self.connected_at = None;
        self.insisting = None;
        let successor = self.successor.take().map(|successor| Effect::Abandon(successor.id));
        successor.into_iter().chain(self.session.take().map(Effect::Stop)).collect()
    }

    fn wake_at(&mut self, at: Option<Moment>) -> Effect {
        self.next_attempt = at;
        Effect::WakeAt(at)
    }

    fn enter(&mut self, phase: Phase, reason: Reason) {
        self.phase = phase;
        self.reason = reason;
    }
}

#[cfg(test)]
mod tests;
