//! What the applications' sockets do: they send, they take what was delivered, they end.

use bytes::Bytes;

use super::connection::{Connection, Wire};
use super::{Action, Conn, Engine, LocalEnd};
use crate::config::Limits;
use crate::state::Moment;
use crate::tunnel::aws::message::Type;

impl Engine {
    /// A connection begins, in the current stream of its service.
    pub(super) fn begin(&mut self, at: usize, connection: Connection, now: Moment) -> Conn {
        self.last += 1;
        let conn = Conn(self.last);
        if let Some(service) = self.services.get_mut(at) {
            service.conns.insert(connection.id, conn);
            service.live += 1;
            service.held += 1;
            if let Some(stream) = &mut service.stream {
                stream.opened += 1;
            }
        }
        self.conns.insert(conn, connection);
        self.one_more(now);
        conn
    }

    /// The application's bytes. After its end, and after that of the connection, they are for nobody.
    pub fn send(&mut self, conn: Conn, mut data: Bytes, _now: Moment) {
        let Some(connection) = self.conns.get(&conn).filter(|connection| connection.wire == Wire::Open) else { return };
        let (at, id) = (connection.service, connection.id);
        let Some(stream) = self.services.get(at).and_then(|service| service.stream.as_ref()) else { return };
        let (stream, most) = (stream.id, self.settings.limits.max_payload.clamp(1, Limits::MAX_PAYLOAD));
        while !data.is_empty() {
            let payload = data.split_to(most.min(data.len()));
            self.put(Type::Data, at, stream, id, payload);
        }
    }

    /// Bytes for an application.
    pub(super) fn deliver(&mut self, conn: Conn, data: Bytes, now: Moment) {
        let Some(connection) = self.conns.get_mut(&conn).filter(|_| !data.is_empty()) else { return };
        connection.waiting.add(data.len());
        match &mut connection.dialling {
            Some(dialling) => dialling.kept.push(data),
            None => self.actions.push_back(Action::Deliver { conn, data }),
        }
        self.refresh_linger(conn, now);
        self.judge_waiting(conn, now);
    }

    /// The application has taken so many of the bytes delivered to it.
    pub fn written(&mut self, conn: Conn, bytes: usize, now: Moment) {
        let Some(connection) = self.conns.get_mut(&conn).filter(|_| bytes > 0) else { return };
        connection.waiting.take(bytes);
        connection.progress = now;
        self.judge_waiting(conn, now);
        if self.conns.get(&conn).is_some_and(|connection| !connection.is_open()) {
            self.finish(conn, now);
        }
    }

    /// The application's end. After the end of its data the other end's are still delivered for a while, since the protocol
    /// cannot say that only one way is over.
    pub fn local_end(&mut self, conn: Conn, how: LocalEnd, now: Moment) {
        let Some(connection) = self.conns.get(&conn) else { return };
        let (at, id) = (connection.service, connection.id);
        match (how, connection.wire) {
            (LocalEnd::Eof, Wire::Open) if !self.settings.limits.half_close_grace.is_zero() => self.linger(conn, now),
            (LocalEnd::Eof, Wire::Open) => {
                self.reset_connection(at, id);
                self.finish(conn, now);
            }
            (LocalEnd::Eof, Wire::Lingering(_) | Wire::Gone) => {}
            (LocalEnd::Broken, wire) => {
                if wire != Wire::Gone {
                    self.reset_connection(at, id);
                }
                self.forget(conn, now);
            }
        }
    }
}
