//! The source's part: an application connects, and a connection begins.

use super::connection::Connection;
use super::service::{Service, Stream};
use super::{Conn, Engine, HARD, Refused, Violation, Why};
use crate::config::{Compat, Mode};
use crate::state::Moment;
use crate::tunnel::aws::message::{Message, Type};

impl Engine {
    /// An application has connected. Its data may follow at once. Where a stream has room for one connection, the one before
    /// ends.
    pub fn accept(&mut self, service: &str, now: Moment) -> Result<Conn, Refused> {
        // Without names nobody could tell whose the bytes of several services are.
        let nameless = self.settings.compat == Compat::V1 && self.services.len() > 1;
        if self.settings.mode != Mode::Source || nameless {
            return Err(Refused::Unknown);
        }
        let at = *self.names.get(service).ok_or(Refused::Unknown)?;
        let service = self.services.get(at).ok_or(Refused::Unknown)?;
        let single = self.settings.compat != Compat::V3 || service.alone;
        if self.stopped || !self.has_room(service, single) {
            return Err(Refused::TooMany);
        }
        if single && service.stream.is_some() {
            // The old stream by its own number; there are destinations that overlook a stream which only takes the place of
            // another.
            self.close_stream(at, Why::Replaced, now);
        }
        let numbered = self.settings.compat == Compat::V3;
        let service = self.services.get_mut(at).ok_or(Refused::Unknown)?;
        let id = if numbered { service.next_connection() } else { 0 };
        let (kind, stream) = match &service.stream {
            Some(stream) => (Type::ConnectionStart, stream.id),
            None => {
                let stream = service.next_stream();
                service.stream = Some(Stream::new(stream, single));
                (Type::StreamStart, stream)
            }
        };
        self.put(kind, at, stream, id, bytes::Bytes::new());
        Ok(self.begin(at, Connection::new(at, id, None, now), now))
    }

    /// Whether another connection may begin.
    fn has_room(&self, service: &Service, single: bool) -> bool {
        let limit = self.settings.limits.max_connections;
        // Where it takes the place of what is there, that does not count.
        let (live, held) = if single { (0, service.held - service.conns.len()) } else { (service.live, service.held) };
        live < limit && held < limit.saturating_mul(HARD)
    }

    /// Only a destination opens connections. A connection of that number here would be mistaken for the other end's.
    pub(super) fn start_at_source(&mut self, message: &Message, now: Moment) -> Result<(), Violation> {
        self.judge_start(message)?;
        let several = self.settings.compat == Compat::V3 && message.connection_id != 0;
        let at = self.service_of(&message.service_id).filter(|_| several).ok_or(Violation::StartAtSource)?;
        if let Some(conn) = self.services.get(at).and_then(|service| service.conns.get(&message.connection_id)) {
            self.abort(*conn, Why::Misused, now);
        }
        self.put(Type::ConnectionReset, at, message.stream_id, message.connection_id, bytes::Bytes::new());
        Ok(())
    }
}
