//! The side of the applications: what the engine wants done with them, and what they do.

use super::{BATCH, Done, Pump, TURN};
use crate::config::Application;
use crate::config::{Limits, Mode};
use crate::error::{Class, chain};
use crate::state::{Ended, Failure, Reason};
use crate::tunnel::aws::engine::{Action, Conn, LocalEnd, Why};
use crate::tunnel::aws::forwards::Place;
use crate::tunnel::aws::listen::{Listener, listen};
use crate::tunnel::aws::local::{Local, Way};
use crate::tunnel::aws::{application, services};
use futures_util::future::{FutureExt, abortable, try_join_all};
use futures_util::stream::StreamExt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::sleep;

/// Sockets that only wait for their applications' end. What is more is closed without.
const CLOSING: usize = 1024;
/// A host that has no more descriptors may have some after this.
const BREATH: Duration = Duration::from_millis(100);

impl Pump<'_> {
    /// The tunnel has these services.
    pub(super) fn serve(&mut self, tunnel: &[String]) -> Result<(), Ended> {
        let aws = self.spec.aws.clone();
        self.served = true;
        self.applications = services::judge(&aws, tunnel).map_err(Ended::of)?;
        let ours: Vec<String> = self.applications.keys().cloned().collect();
        log::debug!(ENFTUN_TUNNEL = self.spec.tunnel.name.as_str(); "the tunnel has the services {ours:?}");
        match aws.mode {
            Mode::Destination => {
                let host = aws.bind.clone().unwrap_or_else(|| "localhost".to_owned());
                let places = self.applications.iter().map(|(name, application)| {
                    let place = match application.clone() {
                        Application::Tcp { host: own, port } => Place::Name(own.unwrap_or_else(|| host.clone()), port),
                        Application::Unix(path) => Place::Unix(path),
                    };
                    (name.clone(), Some(place))
                });
                self.spec.forwards.serve(self.channel_id.clone(), places);
                self.is_ready();
            }
            Mode::Source => {
                let all = self.applications.iter().map(|(name, application)| {
                    let (service, application) = (Arc::from(name.as_str()), application.clone());
                    let before = self.spec.forwards.port_before(name);
                    let aws = aws.clone();
                    async move { listen(service, &application, aws.bind.as_deref(), before, &aws.limits).await }
                });
                self.listening = Some(try_join_all(all.collect::<Vec<_>>()).boxed());
            }
        }
        self.engine.services(&ours, self.now()).map_err(|violation| self.violated(&violation))
    }

    fn is_ready(&mut self) {
        self.spec.counters.session_ready();
        self.ready = true;
    }

    /// Whether a source listens by now.
    pub(super) fn poll_listening(&mut self, cx: &mut Context<'_>) -> Done {
        let Some(listening) = &mut self.listening else { return Ok(false) };
        let Poll::Ready(end) = listening.poll_unpin(cx) else { return Ok(false) };
        self.listening = None;
        let all = end.map_err(|why| {
            let text = format!("cannot {why}");
            Ended::of(Failure::new(Reason::ListenFailed, Class::Environment, text))
        })?;
        let name = self.spec.tunnel.name.as_str();
        let places: Vec<_> = all.iter().map(|one| (one.service.to_string(), Some(one.place.clone()))).collect();
        for (service, place) in &places {
            let place = place.as_ref().map(ToString::to_string).unwrap_or_default();
            log::info!(ENFTUN_TUNNEL = name; "listening for the service {service:?} at {place}");
        }
        self.spec.forwards.serve(self.channel_id.clone(), places);
        for one in all {
            for listener in one.listeners {
                self.accept_next(one.service.clone(), Arc::new(listener), Duration::ZERO);
            }
        }
        self.is_ready();
        Ok(true)
    }

    fn accept_next(&mut self, service: Arc<str>, listener: Arc<Listener>, after: Duration) {
        self.accepts.push(
            async move {
                if !after.is_zero() {
                    sleep(after).await;
                }
                let accepted = listener.accept().await;
                (service, listener, accepted)
            }
            .boxed(),
        );
    }

    /// Applications that connect.
    pub(super) fn poll_accepts(&mut self, cx: &mut Context<'_>) -> bool {
        let mut busy = false;
        for _ in 0..TURN {
            if !self.has_room() {
                break;
            }
            let Poll::Ready(Some((service, listener, accepted))) = self.accepts.poll_next_unpin(cx) else { break };
            busy = true;
            let mut after = Duration::ZERO;
            match accepted {
                Ok(socket) => self.accepted(&service, socket),
                Err(error) => {
                    log::warn!(ENFTUN_TUNNEL = self.spec.tunnel.name.as_str(); "cannot take a connection for the service {service:?}: {}", chain(&error));
                    after = BREATH;
                }
            }
            self.accept_next(service, listener, after);
        }
        busy
    }

    fn accepted(&mut self, service: &Arc<str>, socket: super::Socket) {
        let (now, name) = (self.now(), self.spec.tunnel.name.as_str());
        match self.engine.accept(service, now) {
            Ok(conn) => {
                let mut local = Local::new(conn, service.clone(), &self.bells);
                let peer = socket.peer();
                log::debug!(ENFTUN_TUNNEL = name; "{service:?}: {peer} connected");
                local.counted = Some(self.spec.forwards.open(service, peer));
                local.socket = Some(socket);
                self.locals.insert(conn, local);
                self.list(conn, Way::Read);
            }
            Err(refused) => {
                socket.break_off();
                self.spec.forwards.counters(service).refused.fetch_add(1, Relaxed);
                if let Some(times) = self.refusals.say(now) {
                    log::warn!(ENFTUN_TUNNEL = name; "refused a connection of {} for the service {service:?} ({times} since this was said last): {refused}", socket.peer());
                }
            }
        }
    }

    /// Applications that were dialled.
    pub(super) fn poll_dials(&mut self, cx: &mut Context<'_>) -> bool {
        let mut busy = false;
        while let Poll::Ready(Some(end)) = self.dials.poll_next_unpin(cx) {
            busy = true;
            let Some((conn, end)) = end else { continue };
            let now = self.now();
            let Some(local) = self.locals.get_mut(&conn) else { continue };
            local.dialling = None;
            match end {
                Ok(socket) => {
                    local.counted = Some(self.spec.forwards.open(&local.service, socket.peer()));
                    log::debug!(ENFTUN_TUNNEL = self.spec.tunnel.name.as_str(); "{:?}: connected to {}", local.service, socket.peer());
                    local.socket = Some(socket);
                    self.engine.dialled(conn, now);
                    self.list(conn, Way::Read);
                }
                Err(why) => {
                    self.spec.forwards.counters(&local.service).unreachable.fetch_add(1, Relaxed);
                    if let Some(times) = self.unreachable.say(now) {
                        log::warn!(ENFTUN_TUNNEL = self.spec.tunnel.name.as_str(); "the application of the service {:?} cannot be reached ({times} times since this was said last): {why}", local.service);
                    }
                    self.engine.dial_failed(conn, now);
                    self.locals.remove(&conn);
                }
            }
        }
        busy
    }

    fn dial(&mut self, conn: Conn, service: Arc<str>) {
        let Some(application) = self.applications.get(&*service).cloned() else {
            self.engine.dial_failed(conn, self.now());
            return;
        };
        let aws = self.spec.aws.clone();
        let dial = async move { (conn, application::reach(&application, aws.bind.as_deref(), &aws.limits).await) };
        let (dial, handle) = abortable(dial);
        let mut local = Local::new(conn, service, &self.bells);
        local.dialling = Some(handle);
        self.locals.insert(conn, local);
        self.dials.push(dial.map(Result::ok).boxed());
    }

    /// All that the engine wants, and what comes of it.
    pub(super) fn settle(&mut self) -> Result<(), Ended> {
        loop {
            self.act()?;
            let Some(conn) = self.writing.pop_front() else { return Ok(()) };
            self.write(conn);
        }
    }

    /// What the engine wants, but for the applications' writing.
    pub(super) fn act(&mut self) -> Result<(), Ended> {
        while let Some(action) = self.engine.poll() {
            match action {
                Action::Send(frame) => self.send(frame),
                Action::Serve(tunnel) => self.serve(&tunnel)?,
                Action::Dial { conn, service } => self.dial(conn, service),
                Action::Deliver { conn, data } => {
                    self.spec.counters.received_units(1, data.len());
                    match self.locals.get_mut(&conn) {
                        Some(local) => {
                            local.waiting.push_back(data);
                            if !local.writes.waits {
                                self.list(conn, Way::Write);
                            }
                        }
                        None => self.engine.written(conn, data.len(), self.now()),
                    }
                }
                Action::Finish { conn } => {
                    let Some(mut local) = self.locals.remove(&conn) else { continue };
                    self.log_end(&local, "closed");
                    if let Some(socket) = local.socket.take().filter(|_| self.closing.len() < CLOSING) {
                        self.closing.push(socket.finish().boxed());
                    }
                }
                Action::Abort { conn, why } => {
                    let Some(local) = self.locals.remove(&conn) else { continue };
                    self.log_end(&local, &why.to_string());
                    let counters = self.spec.forwards.counters(&local.service);
                    let counter = if why == Why::TooSlow { &counters.too_slow } else { &counters.reset };
                    counter.fetch_add(1, Relaxed);
                }
            }
        }
        Ok(())
    }

    fn log_end(&self, local: &Local, how: &str) {
        let peer = local.socket.as_ref().map(super::Socket::peer).unwrap_or_default();
        log::debug!(ENFTUN_TUNNEL = self.spec.tunnel.name.as_str(); "{:?}: the connection with {peer} ends: {how}", local.service);
    }

    /// Those whose sockets have called have their turns.
    pub(super) fn list_those_who_rang(&mut self, cx: &Context<'_>) {
        for (conn, way) in self.bells.rung(cx) {
            if let Some(local) = self.locals.get_mut(&conn) {
                match way {
                    Way::Read => local.reads.waits = false,
                    Way::Write => local.writes.waits = false,
                }
                self.list(conn, way);
            }
        }
    }

    fn list(&mut self, conn: Conn, way: Way) {
        let Some(local) = self.locals.get_mut(&conn) else { return };
        let (turn, list) = match way {
            Way::Read => (&mut local.reads, &mut self.reading),
            Way::Write => (&mut local.writes, &mut self.writing),
        };
        if !turn.listed {
            turn.listed = true;
            list.push_back(conn);
        }
    }

    /// A piece of each application that has one, in turn, while there is room for it.
    pub(super) fn read_applications(&mut self) -> Done {
        let mut busy = false;
        for _ in 0..TURN {
            if !self.has_room() {
                break;
            }
            let Some(conn) = self.reading.pop_front() else { break };
            busy = true;
            self.read(conn);
            // What comes of it takes up room.
            self.act()?;
        }
        Ok(busy)
    }

    fn read(&mut self, conn: Conn) {
        let (now, most) = (self.now(), self.spec.aws.limits.max_payload.clamp(1, Limits::MAX_PAYLOAD));
        let Some(local) = self.locals.get_mut(&conn) else { return };
        local.reads.listed = false;
        let Some(socket) = local.socket.as_ref().filter(|_| !local.ended) else { return };
        if self.buffer.capacity() < most {
            self.buffer.reserve(BATCH);
        }
        match socket.try_read(&mut self.buffer, most) {
            Ok(0) => {
                local.ended = true;
                self.engine.local_end(conn, LocalEnd::Eof, now);
            }
            Ok(bytes) => {
                local.counted.iter().for_each(|counted| counted.sent(bytes));
                self.spec.counters.transmitted_units(1, bytes);
                self.engine.send(conn, self.buffer.split().freeze(), now);
                self.list(conn, Way::Read);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                if local.wants_to_read() {
                    self.list(conn, Way::Read);
                }
            }
            Err(error) => self.broke(conn, &error),
        }
    }

    fn write(&mut self, conn: Conn) {
        let now = self.now();
        let Some(local) = self.locals.get_mut(&conn) else { return };
        local.writes.listed = false;
        let mut bytes = 0;
        let end = local.write(|written| bytes += written);
        if bytes > 0 {
            local.counted.iter().for_each(|counted| counted.received(bytes));
            self.engine.written(conn, bytes, now);
        }
        if let Err(error) = end {
            self.broke(conn, &error);
        }
    }

    /// The application's socket is of no use any more.
    fn broke(&mut self, conn: Conn, error: &std::io::Error) {
        if let Some(local) = self.locals.remove(&conn) {
            self.log_end(&local, &chain(error));
        }
        self.engine.local_end(conn, LocalEnd::Broken, self.now());
    }
}
