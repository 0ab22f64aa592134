//! The protocol of AWS IoT Secure Tunneling as a pure state machine: bytes of the WebSocket and events of local connections go
//! in, [`Action`]s come out. It knows no I/O, no clock, no task; one engine lives as long as one WebSocket.
//!
//! ```text
//!             receive --> frames --> opening --> receiving --> source | destination
//! accept, dialled, send, local_end, written --> local ---------------^
//!                        wake <-- due <-- pace (slow readers, half-closed connections)
//! ```
//!
//! | module | owns |
//! |---|---|
//! | `opening` | until this end serves: the tunnel's services, and what came too early |
//! | `receiving` | to which connection a message belongs; data and resets |
//! | `source`, `destination` | how streams and connections begin |
//! | `local` | what the application and its socket do |
//! | `pace` | who is behind, who waits for the other end's last data, and for how long |
//! | `connection`, `service` | the records |

mod connection;
mod destination;
mod local;
mod opening;
mod pace;
mod receiving;
mod service;
mod source;
mod types;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::frames::{self, Frames};
use super::message::{Message, Type};
use crate::config::{Compat, Mode};
use crate::state::Moment;
use connection::Connection;
use opening::Opening;
use pace::Pace;
pub use service::Ids;
use service::{Naming, Service};
pub use types::{Action, Conn, LocalEnd, Refused, Settings, Violation, Why};

/// So many times `max_connections` of one service may be there with those that only wait for their end, and on a destination
/// altogether: what one end may make the other hold is bounded.
const HARD: usize = 4;

/// One end of one session.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    frames: Frames,
    opening: Opening,
    /// Whether the other end's messages name their service.
    naming: Option<Naming>,
    services: Vec<Service>,
    /// Where in `services`.
    names: BTreeMap<Arc<str>, usize>,
    conns: BTreeMap<Conn, Connection>,
    /// The last handle given.
    last: u64,
    pace: Pace,
    actions: VecDeque<Action>,
    /// The ids of services as the session before left them.
    before: Ids,
    stopped: bool,
}

impl Engine {
    /// The first session of a tunnel: streams and connections are numbered from 1.
    pub fn new(settings: Settings) -> Self {
        Self::after(settings, Ids::default())
    }

    /// A session after one that left these ids: numbers go on from there, since data of the old session may still be under
    /// way and must not be taken for the new one's.
    pub fn after(settings: Settings, before: Ids) -> Self {
        Self {
            settings,
            frames: Frames::default(),
            opening: Opening::default(),
            naming: None,
            services: Vec::new(),
            names: BTreeMap::new(),
            conns: BTreeMap::new(),
            last: 0,
            pace: Pace::default(),
            actions: VecDeque::new(),
            before,
            stopped: false,
        }
    }

    /// The ids that this session has used, for [`Engine::after`].
    pub fn ids(&self) -> Ids {
        let mut ids = self.before.clone();
        self.services.iter().for_each(|service| ids.note(service));
        ids
    }

    /// Any piece of the stream of bytes. An error: the session must end, and nothing more comes of this engine.
    pub fn receive(&mut self, mut bytes: &[u8], now: Moment) -> Result<(), Violation> {
        while !self.stopped
            && let Some(message) = self.frames.next(&mut bytes)?
        {
            self.message(message, now)?;
        }
        Ok(())
    }

    /// Resets all that is open, so that the other end closes too. What has come for connections that the other end has
    /// ended may still be delivered.
    pub fn stop(&mut self, now: Moment) {
        for at in 0..self.services.len() {
            self.close_stream(at, Why::Stopped, now);
        }
        self.stopped = true;
    }

    /// What is to be done next, until there is none. To be asked after every other call.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Sends a message of a stream. Nothing that is sent is too long for a frame: names are short, or were in a frame before.
    fn put(&mut self, kind: Type, at: usize, stream: i32, id: u32, payload: Bytes) {
        let Some(service) = self.services.get(at) else { return };
        let named = match self.settings.mode {
            Mode::Source => self.settings.compat != Compat::V1,
            // As it was asked: a session keeps to one form.
            Mode::Destination => self.naming != Some(Naming::Without),
        };
        let service_id = if named { service.name.to_string() } else { String::new() };
        self.write(&Message {
            r#type: kind.into(),
            stream_id: stream,
            payload,
            service_id,
            connection_id: id,
            ..Message::default()
        });
    }

    fn write(&mut self, message: &Message) {
        self.actions.extend(frames::encode(message).map(Action::Send));
    }

    /// Resets the current stream of a service. Its connections are the caller's.
    fn reset_stream(&mut self, at: usize) {
        let Some(service) = self.services.get_mut(at) else { return };
        let Some(stream) = service.stream.take() else { return };
        service.refused = Some(stream.id);
        self.put(Type::StreamReset, at, stream.id, 0, Bytes::new());
    }

    /// Tells the other end that this connection is over: alone, where it can be.
    fn reset_connection(&mut self, at: usize, id: u32) {
        match self.services.get(at).and_then(|service| service.stream.as_ref()) {
            Some(stream) if stream.single => self.reset_stream(at),
            Some(stream) => {
                let stream = stream.id;
                self.put(Type::ConnectionReset, at, stream, id, Bytes::new());
            }
            None => {}
        }
    }

    /// Ends the current stream of a service and all that is in it, at both ends.
    fn close_stream(&mut self, at: usize, why: Why, now: Moment) {
        self.reset_stream(at);
        self.abort_all(at, why, now);
    }

    fn abort_all(&mut self, at: usize, why: Why, now: Moment) {
        for conn in self.services.get(at).map(Service::open).unwrap_or_default() {
            self.abort(conn, why, now);
        }
    }

    /// Ends a connection without a word to the other end, and breaks its socket off.
    fn abort(&mut self, conn: Conn, why: Why, now: Moment) {
        if self.forget(conn, now) {
            self.actions.push_back(Action::Abort { conn, why });
        }
    }

    /// The other end, or we towards it, are done with this connection: once the application has what has come for it, its
    /// socket is closed, or broken off.
    fn finish(&mut self, conn: Conn, now: Moment) {
        self.leave(conn, now);
        let Some(connection) = self.conns.get(&conn).filter(|connection| connection.waiting.is_empty()) else { return };
        let action = connection.broken.map_or(Action::Finish { conn }, |why| Action::Abort { conn, why });
        if self.forget(conn, now) {
            self.actions.push_back(action);
        }
    }

    /// Nothing is left of a connection here. Whether there was something.
    fn forget(&mut self, conn: Conn, now: Moment) -> bool {
        self.leave(conn, now);
        let Some(connection) = self.conns.remove(&conn) else { return false };
        if let Some(service) = self.services.get_mut(connection.service) {
            service.held -= 1;
        }
        true
    }
}
