//! The destination's part: the other end opens streams and connections, and the application is dialled.

use super::connection::{Connection, Dialling};
use super::service::Stream;
use super::{Action, Conn, Engine, HARD, Violation, Why};
use crate::state::Moment;
use crate::tunnel::aws::message::{Message, Type};

impl Engine {
    /// Opens a stream, whatever was there: a source that has reconnected may use the same number again.
    pub(super) fn stream_start(&mut self, message: &Message, now: Moment) -> Result<(), Violation> {
        self.judge_start(message)?;
        let Some(at) = self.service_of(&message.service_id) else {
            self.refuse(message);
            return Ok(());
        };
        self.open_stream(at, Stream::new(message.stream_id, message.connection_id == 0), now);
        self.join(at, message.connection_id, now);
        Ok(())
    }

    /// Opens a connection in a stream. Where the stream is not known, this destination came later than it.
    pub(super) fn connection_start(&mut self, message: &Message, now: Moment) -> Result<(), Violation> {
        self.judge_start(message)?;
        let (stream, id) = (message.stream_id, message.connection_id);
        let found = self.service_of(&message.service_id).and_then(|at| Some((at, self.services.get(at)?)));
        let Some((at, service)) = found else {
            self.refuse(message);
            return Ok(());
        };
        match service.stream.as_ref().filter(|current| current.id == stream) {
            // A stream whose connections have no ids has one, and a further one needs an id.
            Some(current) if current.single || id == 0 => self.close_stream(at, Why::Misused, now),
            Some(_) => match service.conns.get(&id) {
                // The other end means a new connection, and its data would go to the old one: both end.
                Some(old) => {
                    self.abort(*old, Why::Misused, now);
                    self.put(Type::ConnectionReset, at, stream, id, bytes::Bytes::new());
                }
                None => self.join(at, id, now),
            },
            // Sent before the other end heard of the reset, which is the answer.
            None if service.refused == Some(stream) => {}
            None if id == 0 => self.put(Type::StreamReset, at, stream, 0, bytes::Bytes::new()),
            None => {
                self.open_stream(at, Stream::new(stream, false), now);
                self.join(at, id, now);
            }
        }
        Ok(())
    }

    fn open_stream(&mut self, at: usize, stream: Stream, now: Moment) {
        self.abort_all(at, Why::Replaced, now);
        if let Some(service) = self.services.get_mut(at) {
            service.stream = Some(stream);
            service.refused = None;
        }
    }

    /// A connection of the current stream, unless there are too many.
    fn join(&mut self, at: usize, id: u32, now: Moment) {
        let Some(service) = self.services.get(at) else { return };
        let first = service.stream.as_ref().is_some_and(|stream| stream.opened == 0);
        if service.held >= self.settings.limits.max_connections.max(1).saturating_mul(HARD) {
            return if first { self.reset_stream(at) } else { self.reset_connection(at, id) };
        }
        let service = service.name.clone();
        let conn = self.begin(at, Connection::new(at, id, Some(Dialling { first, ..Dialling::default() }), now), now);
        self.actions.push_back(Action::Dial { conn, service });
    }

    /// No service here has that name.
    fn refuse(&mut self, message: &Message) {
        let alone = message.r#type == i32::from(Type::ConnectionStart) && message.connection_id != 0;
        let (kind, id) = if alone { (Type::ConnectionReset, message.connection_id) } else { (Type::StreamReset, 0) };
        let service_id = message.service_id.clone();
        let stream_id = message.stream_id;
        self.write(&Message { r#type: kind.into(), stream_id, service_id, connection_id: id, ..Message::default() });
    }

    /// The application is connected: it gets what has come meanwhile.
    pub fn dialled(&mut self, conn: Conn, now: Moment) {
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        let Some(dialling) = connection.dialling.take() else { return };
        connection.progress = now;
        self.actions.extend(dialling.kept.into_iter().map(|data| Action::Deliver { conn, data }));
    }

    /// The application cannot be reached. That ends this connection only, and the stream where it is alone in it.
    pub fn dial_failed(&mut self, conn: Conn, now: Moment) {
        let Some(connection) = self.conns.get(&conn) else { return };
        let Some(dialling) = &connection.dialling else { return };
        let (at, id, first) = (connection.service, connection.id, dialling.first);
        if connection.is_open() {
            let alone = self.services.get(at).is_some_and(|service| service.conns.len() == 1);
            if first && alone { self.reset_stream(at) } else { self.reset_connection(at, id) }
        }
        self.forget(conn, now);
    }
}
