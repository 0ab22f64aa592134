//! What the service knows: tunnels, tokens, who is connected, how each end shall be treated, and what happened.

use super::message::{CONNECTION_START, DATA, Message, SESSION_RESET, STREAM_RESET, STREAM_START};
use super::request::Request;
use super::rules::Rules;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// Which end of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    Source,
    Destination,
}

impl Mode {
    pub const BOTH: [Self; 2] = [Self::Source, Self::Destination];

    pub fn other(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

/// How a request is answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Reply {
    /// As the request deserves.
    #[default]
    Deserved,
    /// With this status and these headers, whatever it is.
    Status(u16, Vec<(String, String)>),
    /// Never.
    Hang,
    /// The connection ends instead.
    HangUp,
    /// The connection ends before TLS.
    Refuse,
    /// TLS never begins.
    Silent,
}

/// The subprotocol in the answer.
#[derive(Clone, Debug, Default)]
pub enum Names {
    /// The first that was offered and exists.
    #[default]
    Offered,
    Missing,
    Another(String),
}

/// How the services of the tunnel are told.
#[derive(Clone, Debug, Default)]
pub enum Announce {
    /// At once.
    #[default]
    Once,
    /// At once, and there is none.
    Empty,
    /// Not by itself: never, or late, when the test [sends](super::End::announce) them.
    Never,
    /// At once, and then these instead.
    Twice(Vec<String>),
}

/// How frames are laid into messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// One frame, one message.
    #[default]
    Whole,
    /// Messages end anywhere: within a length, in the middle of a frame, or after several.
    Cut,
    /// As many frames as a message takes.
    Merged,
    /// One frame, one message, in fragments of at most this.
    Fragments(usize),
}

/// How an end is treated.
#[derive(Clone, Debug)]
pub struct Knobs {
    pub names: Names,
    pub announce: Announce,
    pub shape: Shape,
    /// Pings are answered.
    pub pongs: bool,
    /// When this end goes or is replaced, the other one's streams are reset.
    pub reset_other: bool,
    /// What comes while the other end is absent waits for it; otherwise it is dropped.
    pub hold: bool,
    /// Whoever is replaced is told so by a close frame; otherwise its connection is broken.
    pub close_replaced: bool,
    /// What breaks a rule ends the session, as the service does.
    pub strict: bool,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            names: Names::Offered,
            announce: Announce::Once,
            shape: Shape::Whole,
            pongs: true,
            reset_other: true,
            hold: false,
            close_replaced: true,
            strict: false,
        }
    }
}

/// What an end's connection is to write.
#[derive(Debug)]
pub enum Out {
    /// A tunnel's frame, laid into messages as the knobs say.
    Frame(Bytes),
    /// WebSocket bytes as they are.
    Raw(Bytes),
    /// Everything before it, and then the end of the connection.
    End,
}

/// How a connection is ended from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Go,
    /// TCP reset.
    Abort,
}

/// A session.
#[derive(Debug)]
pub struct Live {
    pub number: u64,
    pub out: mpsc::Sender<Out>,
    pub order: watch::Sender<Order>,
    pub rules: Rules,
}

/// An access token.
#[derive(Debug)]
pub struct Token {
    pub tunnel: usize,
    pub mode: Mode,
    /// How it was first used.
    pub bound: Option<Option<String>>,
}

/// A request and what came of it.
#[derive(Clone, Debug)]
pub struct Handshake {
    pub at: Instant,
    /// 0: none was given.
    pub status: u16,
    /// If it was one.
    pub request: Option<Request>,
    pub complaint: String,
}

/// Something that was said: by whom, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// None: the service.
    pub from: Option<Mode>,
    /// None: nobody, it was dropped.
    pub to: Option<Mode>,
    pub what: String,
}

#[derive(Debug)]
pub struct End {
    pub knobs: Knobs,
    pub live: Option<Live>,
    pub reading: watch::Sender<bool>,
    /// Whoever sends something to it has this meanwhile: then what a new session says comes after what the old one said.
    pub gate: Arc<tokio::sync::Mutex<()>>,
    pub token: String,
    /// Frames for it that wait.
    pub held: VecDeque<Bytes>,
    /// Sessions so far.
    pub sessions: u64,
    pub ping_payloads: Vec<Bytes>,
    pub pongs: Vec<Bytes>,
    /// How its sessions ended: with a close frame's code, or without one.
    pub closed: Vec<Option<u16>>,
    pub bytes: u64,
}

#[derive(Debug)]
pub struct Tunnel {
    pub services: Vec<String>,
    pub ends: [End; 2],
    /// Streams that are there.
    pub streams: BTreeSet<(String, i32)>,
    pub said: Vec<Said>,
    pub violations: Vec<String>,
    /// By sender, service, stream and connection.
    pub carried: HashMap<(Mode, String, i32, u32), u64>,
}

#[derive(Debug, Default)]
pub struct State {
    pub tunnels: Vec<Tunnel>,
    pub tokens: HashMap<String, Token>,
    pub handshakes: Vec<Handshake>,
    pub reply: Reply,
    /// These first.
    pub replies: VecDeque<Reply>,
    pub connections: u64,
    /// The last one that was given out.
    pub numbers: u64,
    pub seed: u64,
}

/// The state, and who waits for it to change.
#[derive(Debug, Default)]
pub struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to the state, and wakes who waits.
    pub fn with<T>(&self, does: impl FnOnce(&mut State) -> T) -> T {
        let result = does(&mut self.lock());
        self.changed.notify_all();
        result
    }

    /// Waits until `look` finds something. The deadline only ends a test that would hang.
    #[track_caller]
    pub fn wait<T>(&self, what: &str, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut state = self.lock();
        loop {
            if let Some(found) = look(&mut state) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the service waited 60 s in vain for: {what}\n{}", state.story());
            state = self
                .changed
                .wait_timeout(state, left.min(Duration::from_millis(200)))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl State {
    /// A random word that is its own.
    pub fn unique(&mut self, letters: &str) -> String {
        self.numbers += 1;
        format!("{letters}{:016x}{:016x}{:04}", fastrand::u64(..), fastrand::u64(..), self.numbers)
    }

    /// What happened, for the message of a test that fails.
    pub fn story(&self) -> String {
        let mut lines = Vec::new();
        for handshake in &self.handshakes {
            lines.push(format!("handshake: {} {}", handshake.status, handshake.complaint));
        }
        for tunnel in &self.tunnels {
            lines.extend(tunnel.said.iter().map(ToString::to_string));
            lines.extend(tunnel.violations.iter().map(|violation| format!("VIOLATION: {violation}")));
        }
        let skipped = lines.len().saturating_sub(200);
        lines.drain(..skipped);
        lines.join("\n")
    }

    /// Judges who asks: the tunnel, or a status and why.
    pub fn admit(&mut self, request: &Request) -> Result<usize, (u16, String)> {
        let Some(token) = self.tokens.get_mut(&request.token) else { return Err((403, "the token is unknown".into())) };
        if token.mode != request.mode {
            return Err((403, format!("it is the token of the {}", token.mode.as_str())));
        }
        match &token.bound {
            None => token.bound = Some(request.client_token.clone()),
            Some(None) => return Err((403, "the token is used up".into())),
            Some(bound) if *bound != request.client_token => {
                return Err((403, "the token belongs to another client".into()));
            }
            Some(_) => {}
        }
        Ok(token.tunnel)
    }
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = |mode: Option<Mode>, none| mode.map_or(none, Mode::as_str);
        write!(f, "{} > {}: {}", name(self.from, "service"), name(self.to, "nobody"), self.what)
    }
}

impl Tunnel {
    pub fn end(&mut self, mode: Mode) -> &mut End {
        &mut self.ends[mode as usize]
    }

    pub fn say(&mut self, from: Option<Mode>, to: Option<Mode>, what: impl Into<String>) {
        self.said.push(Said { from, to, what: what.into() });
    }

    /// An end has sent this. Returns where it goes, and whether the session may go on.
    pub fn sent(&mut self, from: Mode, message: &Message) -> (Option<mpsc::Sender<Out>>, bool) {
        let to = from.other();
        let verdict = self.end(from).live.as_mut().map_or(Ok(()), |live| live.rules.check(message));
        let fine = verdict.is_ok();
        if let Err(why) = verdict {
            self.violations.push(format!("{} sent {message}: {why}", from.as_str()));
        }
        match message.kind {
            STREAM_START => {
                self.streams.retain(|(service, _)| *service != message.service);
                self.streams.insert((message.service.clone(), message.stream));
            }
            CONNECTION_START => {
                self.streams.insert((message.service.clone(), message.stream));
            }
            STREAM_RESET => {
                self.streams.remove(&(message.service.clone(), message.stream));
            }
            _ => {}
        }
        let present = self.end(to).live.is_some();
        if message.kind == DATA {
            let bytes = message.payload.len() as u64;
            self.end(from).bytes += bytes;
            *self.carried.entry((from, message.service.clone(), message.stream, message.connection)).or_default() +=
                bytes;
        } else {
            let reached = present || self.end(to).knobs.hold;
            self.say(Some(from), reached.then_some(to), message.to_string());
        }
        let out = self.end(to).live.as_mut().map(|live| {
            live.rules.told(message);
            live.out.clone()
        });
        (out, fine || !self.end(from).knobs.strict)
    }

    /// The service itself sends this to an end: where it goes.
    pub fn injected(&mut self, to: Mode, message: &Message) -> Option<mpsc::Sender<Out>> {
        match message.kind {
            SESSION_RESET => self.streams.clear(),
            STREAM_RESET => {
                self.streams.remove(&(message.service.clone(), message.stream));
            }
            _ => {}
        }
        self.say(None, Some(to), message.to_string());
        let live = self.end(to).live.as_mut()?;
        live.rules.told(message);
        Some(live.out.clone())
    }

    /// The session of this end is over, or about to be replaced: what is to be said to the other one.
    pub fn forsake(&mut self, mode: Mode) -> Option<(mpsc::Sender<Out>, Vec<Message>)> {
        let streams = std::mem::take(&mut self.streams);
        if !self.end(mode).knobs.reset_other || streams.is_empty() {
            return None;
        }
        let resets: Vec<_> =
            streams.iter().map(|(service, stream)| Message::of(STREAM_RESET, service, *stream, 0)).collect();
        let out = self.end(mode.other()).live.as_ref()?.out.clone();
        for reset in &resets {
            self.say(None, Some(mode.other()), reset.to_string());
        }
        Some((out, resets))
    }

    /// Bytes of data that this end has sent, by connection.
    pub fn carried_by(&self, mode: Mode) -> BTreeMap<(String, i32, u32), u64> {
        let mine = self.carried.iter().filter(|((from, ..), _)| *from == mode);
        mine.map(|((_, service, stream, connection), bytes)| ((service.clone(), *stream, *connection), *bytes))
            .collect()
    }
}

/// Shared between the service, its handles and its connections.
pub type Handle = Arc<Shared>;
