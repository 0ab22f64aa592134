//! What comes from the other end once this one serves: to which connection it belongs, data, and resets.

use super::service::Stream;
use super::{Conn, Engine, Violation, Why};
use crate::config::Mode;
use crate::state::Moment;
use crate::tunnel::aws::message::{Message, Type};

/// What a message of a stream is about.
enum Addressee {
    One(Conn),
    /// Nothing that is open: the message is late, and is dropped.
    Nobody,
    /// It does not say which of several, so it could be anybody's.
    Unclear,
}

impl Engine {
    pub(super) fn received(&mut self, kind: Type, message: Message, now: Moment) -> Result<(), Violation> {
        match (kind, self.settings.mode) {
            (Type::Data, _) => self.data(message, now)?,
            (Type::StreamStart | Type::ConnectionStart, Mode::Source) => self.start_at_source(&message, now)?,
            (Type::StreamStart, Mode::Destination) => self.stream_start(&message, now)?,
            (Type::ConnectionStart, Mode::Destination) => self.connection_start(&message, now)?,
            (Type::StreamReset, _) => self.stream_reset(&message, now),
            (Type::ConnectionReset, _) => self.connection_reset(&message, now),
            (Type::SessionReset, _) => self.session_reset(now),
            (Type::Unknown | Type::ServiceIds, _) => {}
        }
        Ok(())
    }

    fn data(&mut self, message: Message, now: Moment) -> Result<(), Violation> {
        self.judge_start(&message)?;
        let Some(at) = self.service_of(&message.service_id) else { return Ok(()) };
        match self.addressee(at, &message, true) {
            Addressee::One(conn) => self.deliver(conn, message.payload, now),
            Addressee::Nobody => {}
            Addressee::Unclear => self.close_stream(at, Why::Misused, now),
        }
        Ok(())
    }

    /// What must be right in a message that carries or opens something. Resets may be sloppy: at worst they end nothing.
    pub(super) fn judge_start(&mut self, message: &Message) -> Result<(), Violation> {
        if message.stream_id < 1 {
            return Err(Violation::StreamId(message.stream_id));
        }
        self.judge_naming(&message.service_id)
    }

    /// `filtered`: only in the current stream.
    fn addressee(&mut self, at: usize, message: &Message, filtered: bool) -> Addressee {
        let Some(service) = self.services.get_mut(at) else { return Addressee::Nobody };
        let Some(stream) = service.stream.as_mut() else { return Addressee::Nobody };
        let current = stream.id == message.stream_id;
        let found = |conn: Option<&Conn>| conn.map_or(Addressee::Nobody, |conn| Addressee::One(*conn));
        if stream.single || (message.connection_id == 0 && current && knows_no_ids(stream, self.settings.mode)) {
            // Whatever connection id there is, there is only one.
            service.alone = true;
            stream.single = true;
            return found(service.conns.values().next().filter(|_| current));
        }
        match message.connection_id {
            0 if current => {
                service.alone = true;
                Addressee::Unclear
            }
            id if id != 0 && (current || !filtered) => found(service.conns.get(&id)),
            _ => Addressee::Nobody,
        }
    }

    /// Ends one connection; it has all that came before. Connection ids tell the connections of a service apart whatever
    /// the stream.
    fn connection_reset(&mut self, message: &Message, now: Moment) {
        let Some(at) = self.service_of(&message.service_id) else { return };
        match self.addressee(at, message, false) {
            Addressee::One(conn) => {
                if let Some(service) = self.services.get_mut(at) {
                    service.stream.take_if(|stream| stream.single);
                }
                self.finish(conn, now);
            }
            Addressee::Nobody => {}
            Addressee::Unclear => self.close_stream(at, Why::Misused, now),
        }
    }

    /// Ends the current stream, after all that came before. From an old peer that is how a connection ends; in a stream of
    /// many it is a failure, which the applications shall see. A connection id in it means nothing.
    fn stream_reset(&mut self, message: &Message, now: Moment) {
        let Some(at) = self.service_of(&message.service_id) else { return };
        let Some(service) = self.services.get_mut(at) else { return };
        let Some(stream) = service.stream.take_if(|stream| stream.id == message.stream_id) else { return };
        for conn in service.open() {
            if let Some(connection) = self.conns.get_mut(&conn).filter(|_| !stream.single) {
                connection.broken = Some(Why::Reset);
            }
            self.finish(conn, now);
        }
    }

    /// Ends every stream.
    fn session_reset(&mut self, now: Moment) {
        for at in 0..self.services.len() {
            if let Some(service) = self.services.get_mut(at) {
                service.stream = None;
            }
            self.abort_all(at, Why::Reset, now);
        }
    }
}

/// Whether a message without a connection id shows that the other end knows none, and there is no doubt whose it is. A
/// source cannot know before: its first connection has an id that an old destination overlooks. A destination has seen how its
/// source opens a stream.
fn knows_no_ids(stream: &Stream, mode: Mode) -> bool {
    mode == Mode::Source && stream.opened == 1
}
