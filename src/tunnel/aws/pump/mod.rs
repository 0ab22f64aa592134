//! What is forwarded, from the moment the service agreed: one task that has the WebSocket, the engine and every socket of an
//! application, and does whatever can be done without waiting.
//!
//! ```text
//! applications -- read, while there is room --> engine -- frames --> outgoing --> WebSocket
//! applications <-- write, what waits ---------- engine <-- frames, while nobody is behind -- WebSocket
//! ```
//!
//! Nothing grows without bound. Towards the service [`ROOM`] bytes wait in all, and one read more; with more than that no
//! application is read and none accepted. Towards an application `limits.queue` bytes wait, and one message more; with more
//! than that the WebSocket is not read. Answers to what the other end asks for are counted too: above [`MOST`] nothing is read.

mod applications;
mod service;

use super::connect::{Connected, Socket as WebSocket};
use super::engine::{Conn, Engine, Settings};
use super::heart::Heart;
use super::listen::{Listener, Listening};
use super::local::{Bells, Local};
use super::seldom::Seldom;
use super::session::Spec;
use super::socket::Socket;
use crate::config::{Application, Subprotocol};
use crate::state::{Ended, Link, Moment};
use crate::tunnel::SessionEvent;
use bytes::{Bytes, BytesMut};
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, Sleep, sleep};

/// Bytes that may wait for the WebSocket before no application is read.
const ROOM: usize = 256 << 10;
/// And before the WebSocket itself is not read.
const MOST: usize = 1 << 20;
/// What a frame costs beside its bytes.
const COST: usize = 64;
/// Of each kind so many things are done before the others have their turn.
const TURN: usize = 32;
/// Bytes that come from the service before they are written.
const BATCH: usize = 256 << 10;

type Dialled = (Conn, Result<Socket, String>);
type Accepted = (Arc<str>, Arc<Listener>, io::Result<Socket>);

pub(super) struct Pump<'a> {
    spec: &'a Spec,
    engine: Engine,
    socket: WebSocket,
    channel_id: Option<String>,
    /// Until it is told, once everything is in place.
    link: Option<Link>,
    ready: bool,
    /// The tunnel has said which services it has.
    served: bool,
    remote: String,
    /// What moments count from.
    since: Instant,
    heart: Heart,
    /// Frames for the service.
    outgoing: VecDeque<Bytes>,
    outgoing_bytes: usize,
    /// The WebSocket has something that it has not given to the kernel,
    unflushed: bool,
    /// for the kernel takes nothing now.
    blocked: bool,
    locals: BTreeMap<Conn, Local>,
    bells: Arc<Bells>,
    /// Those that may have something to read, in turn; those that have something to be written.
    reading: VecDeque<Conn>,
    writing: VecDeque<Conn>,
    buffer: BytesMut,
    applications: BTreeMap<String, Application>,
    listening: Option<BoxFuture<'static, Result<Vec<Listening>, String>>>,
    accepts: FuturesUnordered<BoxFuture<'static, Accepted>>,
    dials: FuturesUnordered<BoxFuture<'static, Option<Dialled>>>,
    closing: FuturesUnordered<BoxFuture<'static, ()>>,
    probe: BoxFuture<'static, ()>,
    alarm: Pin<Box<Sleep>>,
    refusals: Seldom,
    unreachable: Seldom,
}

/// Why the pump does not simply go on.
enum Turn {
    /// Everything is in place.
    Ready,
    Stopped,
}

/// Something was done, so that more may be possible; or the session is over.
type Done = Result<bool, Ended>;

impl<'a> Pump<'a> {
    pub fn new(spec: &'a Spec, connected: Connected) -> Self {
        let Connected { socket, channel_id, link } = connected;
        let aws = &spec.aws;
        let settings = Settings { mode: aws.mode, compat: aws.compat, limits: aws.limits };
        let remote = &spec.tunnel.remote;
        Self {
            spec,
            engine: Engine::after(settings, spec.forwards.ids()),
            socket,
            channel_id,
            remote: link.remote.clone(),
            link: Some(link),
            ready: false,
            served: false,
            since: Instant::now(),
            heart: Heart::new(remote.heartbeat_period, remote.heartbeat_timeout, Moment::ZERO),
            outgoing: VecDeque::new(),
            outgoing_bytes: 0,
            unflushed: false,
            blocked: false,
            locals: BTreeMap::new(),
            bells: Arc::default(),
            reading: VecDeque::new(),
            writing: VecDeque::new(),
            buffer: BytesMut::new(),
            applications: BTreeMap::new(),
            listening: None,
            accepts: FuturesUnordered::new(),
            dials: FuturesUnordered::new(),
            closing: FuturesUnordered::new(),
            probe: asked(spec.probe.clone()),
            alarm: Box::pin(sleep(Duration::ZERO)),
            refusals: Seldom::default(),
            unreachable: Seldom::default(),
        }
    }

    /// Until the end; none: it was stopped.
    pub async fn run(mut self, mut stopped: oneshot::Receiver<()>) -> Option<Ended> {
        // The first version has no word for services.
        if self.spec.aws.subprotocol == Subprotocol::V1
            && let Err(ended) = self.serve(&[])
        {
            return Some(ended);
        }
        loop {
            match std::future::poll_fn(|cx| self.poll(cx, &mut stopped)).await {
                Ok(Turn::Ready) => {
                    if let Some(link) = self.link.take() {
                        self.spec.reporter.report(SessionEvent::Ready(link)).await;
                    }
                }
                Ok(Turn::Stopped) => {
                    self.say_goodbye().await;
                    return None;
                }
                Err(ended) => {
                    log::debug!(ENFTUN_TUNNEL = self.spec.tunnel.name.as_str(); "the session ends: {}", ended.failure);
                    return Some(ended);
                }
            }
        }
    }

    fn now(&self) -> Moment {
        self.since.elapsed()
    }

    /// All that can be done now, each kind in turn.
    fn poll(&mut self, cx: &mut Context<'_>, stopped: &mut oneshot::Receiver<()>) -> Poll<Result<Turn, Ended>> {
        if stopped.poll_unpin(cx).is_ready() {
            return Poll::Ready(Ok(Turn::Stopped));
        }
        self.list_those_who_rang(cx);
        for _ in 0..TURN {
            match self.poll_all(cx) {
                Ok(true) => {}
                Ok(false) if self.ready && self.link.is_some() => return Poll::Ready(Ok(Turn::Ready)),
                Ok(false) => return Poll::Pending,
                Err(ended) => return Poll::Ready(Err(ended)),
            }
        }
        // Others have their turn, and then this goes on.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_all(&mut self, cx: &mut Context<'_>) -> Done {
        let mut busy = self.poll_messages(cx)?;
        let unasked = !self.may_hear();
        busy |= self.poll_listening(cx)?;
        busy |= self.poll_dials(cx);
        busy |= self.poll_accepts(cx);
        busy |= self.read_applications()?;
        self.settle()?;
        busy |= self.poll_send(cx)?;
        // The WebSocket was not asked for more, and does not call whoever has not asked.
        busy |= unasked && self.may_hear();
        while let Poll::Ready(Some(())) = self.closing.poll_next_unpin(cx) {}
        busy |= self.poll_alarm(cx)?;
        Ok(busy)
    }
}

impl Drop for Pump<'_> {
    /// However it ends: nothing is listened for, the applications' sockets go, and the next session goes on from here.
    fn drop(&mut self) {
        self.spec.forwards.keep_ids(self.engine.ids());
        self.spec.forwards.rest();
    }
}

/// Somebody wants a sign of life.
fn asked(probe: Arc<Notify>) -> BoxFuture<'static, ()> {
    async move { probe.notified().await }.boxed()
}
