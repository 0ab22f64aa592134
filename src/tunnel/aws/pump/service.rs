//! The side of the service: messages of the WebSocket both ways, signs of life, and the goodbye.

use super::{BATCH, COST, Done, MOST, Pump, ROOM, TURN, asked};
use crate::error::Class;
use crate::state::{Ended, Failure, Reason};
use crate::transport::tls;
use crate::tunnel::aws::engine::Violation;
use bytes::Bytes;
use futures_util::future::FutureExt;
use futures_util::sink::SinkExt;
use futures_util::stream::StreamExt;
use std::future::Future;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

/// The goodbye may take so long, and the service's answer to it so long of that.
const GOODBYE: Duration = Duration::from_millis(800);
const ANSWER: Duration = Duration::from_millis(300);
/// Of what a service says in its close frame so much is shown.
const SHOWN: usize = 120;

impl Pump<'_> {
    /// What the service sends, while somebody takes it.
    pub(super) fn poll_messages(&mut self, cx: &mut Context<'_>) -> Done {
        let (mut busy, mut bytes) = (false, 0);
        for _ in 0..TURN {
            if bytes > BATCH {
                break;
            }
            if !self.may_hear() {
                // What is not read cannot be heard.
                self.heart.is_alive(self.now());
                break;
            }
            let message = match self.socket.poll_next_unpin(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok(message))) => message,
                Poll::Ready(Some(Err(error))) => return Err(self.broken(error)),
                Poll::Ready(None) => return Err(self.hung_up()),
            };
            busy = true;
            bytes += message.len();
            self.heart.is_alive(self.now());
            self.message(message, cx)?;
            self.act()?;
        }
        Ok(busy)
    }

    /// What the service sends has room here.
    pub(super) fn may_hear(&self) -> bool {
        self.engine.may_receive() && self.outgoing_bytes <= MOST
    }

    fn message(&mut self, message: Message, cx: &mut Context<'_>) -> Result<(), Ended> {
        let now = self.now();
        match message {
            Message::Binary(bytes) => self.engine.receive(&bytes, now).map_err(|violation| self.violated(&violation)),
            // The library has the answer ready.
            Message::Ping(_) => {
                self.unflushed = true;
                Ok(())
            }
            Message::Pong(payload) => {
                if let Some(round_trip) = self.heart.pong(&payload, now) {
                    self.spec.counters.heartbeat(round_trip);
                    log::trace!(ENFTUN_TUNNEL = self.spec.tunnel.name.as_str(); "pong after {round_trip:?}");
                }
                Ok(())
            }
            Message::Close(frame) => {
                // Its answer, if there is room for it now.
                let _ = self.socket.poll_flush_unpin(cx);
                Err(self.closed(frame.as_ref()))
            }
            Message::Text(_) => Err(self.failed(Reason::ProtocolError, "sent a text, and only data is forwarded")),
            Message::Frame(_) => Ok(()),
        }
    }

    /// A frame, behind those that wait.
    pub(super) fn send(&mut self, frame: Bytes) {
        self.outgoing_bytes += frame.len() + COST;
        self.outgoing.push_back(frame);
    }

    /// There is room for what applications send.
    pub(super) fn has_room(&self) -> bool {
        self.outgoing_bytes < ROOM
    }

    /// Gives the WebSocket what it takes, and the kernel what the WebSocket has.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> Done {
        let mut busy = false;
        while self.heart.is_due(self.now()) || !self.outgoing.is_empty() {
            match self.socket.poll_ready_unpin(cx) {
                Poll::Pending => {
                    self.is_blocked();
                    return Ok(busy);
                }
                Poll::Ready(Err(error)) => return Err(self.broken(error)),
                Poll::Ready(Ok(())) => {}
            }
            let now = self.now();
            let message = if self.heart.is_due(now) {
                let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                Message::Ping(self.heart.ping(wall, now).into())
            } else {
                let Some(frame) = self.outgoing.pop_front() else { break };
                self.outgoing_bytes -= frame.len() + COST;
                Message::Binary(frame)
            };
            self.socket.start_send_unpin(message).map_err(|error| self.broken(error))?;
            (self.unflushed, busy) = (true, true);
        }
        if self.unflushed {
            match self.socket.poll_flush_unpin(cx) {
                Poll::Pending => self.is_blocked(),
                Poll::Ready(Err(error)) => return Err(self.broken(error)),
                Poll::Ready(Ok(())) => {
                    busy |= self.blocked;
                    (self.unflushed, self.blocked) = (false, false);
                }
            }
        }
        Ok(busy)
    }

    fn is_blocked(&mut self) {
        self.blocked = true;
        // What is not sent cannot be answered.
        self.heart.is_alive(self.now());
    }

    /// Does what is due, and is woken for the next.
    pub(super) fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Done {
        let mut busy = false;
        if self.probe.poll_unpin(cx).is_ready() {
            self.probe = asked(self.spec.probe.clone());
            self.heart.ask(self.now());
            busy = true;
        }
        let now = self.now();
        if self.engine.due().is_some_and(|due| due <= now) {
            self.engine.wake(now);
            busy = true;
        }
        let reads = self.may_hear() && !self.blocked;
        let deadline = self.heart.deadline().filter(|_| reads);
        if deadline.is_some_and(|deadline| deadline <= now) {
            let limit = self.spec.tunnel.remote.heartbeat_timeout;
            let what = format!("did not answer a ping within {limit:?}, and sends nothing else");
            return Err(self.failed(Reason::HeartbeatTimeout, &what));
        }
        let limit = self.spec.tunnel.remote.connect_timeout;
        let services = (!self.served).then_some(limit);
        if services.is_some_and(|limit| limit <= now) {
            let what = format!("agreed, and did not say within {limit:?} which services the tunnel has");
            return Err(self.failed(Reason::Timeout, &what));
        }
        // While it is blocked a ping waits for the kernel, not for the time.
        let ping = self.heart.next().filter(|_| !self.blocked);
        busy |= ping.is_some_and(|ping| ping <= now);
        let Some(due) = [self.engine.due(), deadline, ping, services].into_iter().flatten().min() else {
            return Ok(busy);
        };
        let at = self.since + due;
        if self.alarm.deadline() != at {
            self.alarm.as_mut().reset(at);
        }
        Ok(busy | self.alarm.as_mut().poll(cx).is_ready())
    }

    /// Ends every connection at both ends, and then the session.
    pub(super) async fn say_goodbye(&mut self) {
        self.listening = None;
        self.accepts.clear();
        self.dials.clear();
        self.engine.stop(self.now());
        if self.settle().is_err() {
            return;
        }
        let goodbye = async {
            while let Some(frame) = self.outgoing.pop_front() {
                self.socket.feed(Message::Binary(frame)).await?;
            }
            let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
            self.socket.send(Message::Close(Some(frame))).await?;
            let answer = async { while let Some(Ok(_)) = self.socket.next().await {} };
            let _ = timeout(ANSWER, answer).await;
            Ok::<_, Error>(())
        };
        if let Ok(Err(error)) = timeout(GOODBYE, goodbye).await {
            log::debug!(ENFTUN_TUNNEL = self.spec.tunnel.name.as_str(); "goodbye to {}: {error}", self.remote);
        }
    }

    pub(super) fn violated(&self, violation: &Violation) -> Ended {
        let text = format!("{violation} ({})", self.remote);
        Ended::of(Failure::new(Reason::ProtocolError, Class::Transient, text))
    }

    fn failed(&self, reason: Reason, what: &str) -> Ended {
        Ended::of(Failure::new(reason, Class::Transient, format!("{} {what}", self.remote)))
    }

    fn hung_up(&self) -> Ended {
        self.failed(Reason::RemoteClosed, "closed the connection without a word")
    }

    fn closed(&self, frame: Option<&CloseFrame>) -> Ended {
        let why = frame.map(|frame| {
            let reason = frame.reason.chars().filter(|letter| !letter.is_control()).take(SHOWN).collect::<String>();
            let reason = if reason.is_empty() { reason } else { format!(", {reason:?}") };
            format!(" (code {}{reason})", u16::from(frame.code))
        });
        let text = format!(
            "{} closed the tunnel{}: it was closed by somebody, it has expired, or its tokens were used elsewhere",
            self.remote,
            why.unwrap_or_default()
        );
        Ended::of(Failure::new(Reason::TunnelClosed, Class::Credentials, text))
    }

    fn broken(&self, error: Error) -> Ended {
        use tokio_tungstenite::tungstenite::error::ProtocolError;
        match error {
            Error::Io(error) => Ended::of(tls::failure(&error, &self.remote)),
            Error::ConnectionClosed
            | Error::AlreadyClosed
            | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => self.hung_up(),
            error => self.failed(Reason::ProtocolError, &format!("does not keep to WebSocket: {error}")),
        }
    }
}
