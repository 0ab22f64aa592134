//! Make before break: while a tunnel is connected, a new session is made beside the live one, and takes over once it has heard
//! from its far end. Pure, as all of `state`.

use super::{Effect, Ended, Failure, Link, Phase, Policy, Reason, SessionId, Tick, Tunnel};
use crate::error::Class;

/// A session that shall take over from the live one, which goes on until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Successor {
    /// Its number.
    pub id: SessionId,
    /// What it is for.
    pub why: Cause,
}

/// Why a live session needs a successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The path to the remote changed.
    Path,
    /// The system slept.
    Sleep,
    /// The far end is silent.
    Silence,
    /// A preferred remote may be back: only those are dialled.
    Preferred,
    /// Certificate, key or trust anchors changed.
    Credentials,
}

impl Cause {
    /// The word on the bus once the successor has taken over.
    pub fn reason(self) -> Reason {
        match self {
            Self::Path | Self::Preferred => Reason::NetworkChanged,
            Self::Sleep => Reason::Suspended,
            Self::Silence => Reason::HeartbeatTimeout,
            Self::Credentials => Reason::Config,
        }
    }

    /// It is worth trying again until it succeeds or the session ends. Silence either ends or ends the session, and preferred
    /// remotes have a memory of their own.
    fn insists(self) -> bool {
        match self {
            Self::Path | Self::Sleep | Self::Credentials => true,
            Self::Silence | Self::Preferred => false,
        }
    }
}

impl Tunnel {
    pub(super) fn succeeds(&self, id: SessionId) -> bool {
        self.successor.is_some_and(|successor| successor.id == id)
    }

    /// A new session beside the live one, unless there is one already.
    pub(super) fn succeed(&mut self, why: Cause) -> Vec<Effect> {
        if self.phase != Phase::Connected || self.successor.is_some() {
            return Vec::new();
        }
        self.last_session += 1;
        self.successor = Some(Successor { id: self.last_session, why });
        self.insisting = None;
        vec![self.wake_at(None), Effect::Start(self.last_session)]
    }

    /// What was dialled, or is being dialled, is another way than that which is there now.
    pub(super) fn moved(&mut self, why: Cause) -> Vec<Effect> {
        match self.phase {
            Phase::Connected => {
                let mut effects = self.settle();
                self.backoff.reset();
                effects.extend(self.succeed(why));
                effects
            }
            Phase::Connecting | Phase::Reconnecting => {
                self.backoff.reset();
                self.dial(why.reason())
            }
            Phase::Disconnected | Phase::Disconnecting | Phase::Error => Vec::new(),
        }
    }

    /// No successor is wanted any more.
    pub(super) fn settle(&mut self) -> Vec<Effect> {
        let wake = self.insisting.take().map(|_| self.wake_at(None));
        self.successor.take().map(|successor| Effect::Abandon(successor.id)).into_iter().chain(wake).collect()
    }

    pub(super) fn renewed(&mut self) -> Vec<Effect> {
        let mendable = |failure: &Failure| matches!(failure.class, Class::Credentials | Class::Configuration);
        match self.phase {
            Phase::Connected => {
                let mut effects = self.settle();
                effects.extend(self.succeed(Cause::Credentials));
                effects
            }
            // What was read may be half of the new files.
            Phase::Connecting => self.dial(Reason::Config),
            Phase::Reconnecting | Phase::Error if self.last_failure.as_ref().is_some_and(mendable) => {
                self.unheard = 0;
                self.dial(Reason::Config)
            }
            Phase::Reconnecting | Phase::Error | Phase::Disconnected | Phase::Disconnecting => Vec::new(),
        }
    }

    /// The successor has heard from its far end; from now on it is the session.
    pub(super) fn take_over(&mut self, link: Link, tick: Tick) -> Vec<Effect> {
        let (Some(successor), Some(old)) = (self.successor.take(), self.session) else { return Vec::new() };
        self.session = Some(successor.id);
        self.addresses = link.addresses.clone();
        self.link = Some(link);
        self.connected_at = Some(tick.now);
        self.reason = successor.why.reason();
        vec![Effect::Retire(old), Effect::Apply]
    }

    /// The live session goes on.
    pub(super) fn successor_ended(&mut self, ended: &Ended, policy: &Policy, tick: Tick) -> Vec<Effect> {
        let Some(successor) = self.successor.take() else { return Vec::new() };
        if !successor.why.insists() {
            return Vec::new();
        }
        self.insisting = Some(successor.why);
        let delay = self.delay(&ended.failure, policy, tick);
        vec![self.wake_at(Some(tick.now + delay))]
    }
}
