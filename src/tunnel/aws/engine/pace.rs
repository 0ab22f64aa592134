//! Time: applications that are behind, and connections whose application sends no more.
//!
//! The protocol has no window. While an application is behind by more than its queue holds, nothing is read from the
//! WebSocket, which makes every other connection wait. So each has a budget for that, [`crate::config::Limits::patience`]. It
//! is spent while others wait and comes back while the application keeps up; alone, an application may be as slow as it
//! likes, but must not stand still for so long.
//!
//! What the other end still sends to a half-closed connection cannot come while nothing is read. Its grace is therefore
//! measured with a clock that stands still meanwhile: the *reading clock*.

use std::collections::BTreeSet;
use std::time::Duration;

use super::connection::Wire;
use super::{Conn, Engine, Why};
use crate::state::Moment;

#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Their applications have more waiting than they may.
    behind: BTreeSet<Conn>,
    /// By the moment, on the reading clock, at which they are reset.
    lingering: BTreeSet<(Moment, Conn)>,
    /// How many the other end knows.
    open: usize,
    /// Nothing is read, since then.
    paused: Option<Moment>,
    /// For so long nothing was read, before.
    pauses: Duration,
}

impl Pace {
    fn reading_clock(&self, now: Moment) -> Moment {
        self.paused.unwrap_or(now).saturating_sub(self.pauses)
    }

    /// Whether somebody waits for one that is behind.
    fn others(&self) -> bool {
        self.open > 1
    }
}

impl Engine {
    /// `false`: nothing should be read from the WebSocket, because an application is behind, or because the caller has not
    /// said yet what is served.
    pub fn may_receive(&self) -> bool {
        self.pace.behind.is_empty() && !self.opening.is_judged()
    }

    /// When to wake it next.
    pub fn due(&self) -> Option<Moment> {
        let (others, patience) = (self.pace.others(), self.settings.limits.patience);
        let behind = self.pace.behind.iter().filter_map(|conn| self.conns.get(conn)?.deadline(others, patience));
        let lingering = self.pace.lingering.first().filter(|_| self.pace.paused.is_none());
        behind.chain(lingering.map(|(until, _)| until.saturating_add(self.pace.pauses))).min()
    }

    /// Something may be due. To be called at [`Engine::due`] or later.
    pub fn wake(&mut self, now: Moment) {
        while let Some(conn) = self.out_of_patience(now) {
            self.tell_end(conn);
            self.abort(conn, Why::TooSlow, now);
        }
        let clock = self.pace.reading_clock(now);
        while let Some((until, conn)) = self.pace.lingering.first().copied()
            && until <= clock
        {
            self.tell_end(conn);
            self.finish(conn, now);
        }
    }

    fn tell_end(&mut self, conn: Conn) {
        if let Some(connection) = self.conns.get(&conn) {
            self.reset_connection(connection.service, connection.id);
        }
    }

    /// Of those that are behind and have used up their patience, the one that did so first. One at a time: once it is gone,
    /// another may be alone.
    fn out_of_patience(&self, now: Moment) -> Option<Conn> {
        let (others, patience) = (self.pace.others(), self.settings.limits.patience);
        let deadlines = self.pace.behind.iter().filter_map(|conn| {
            let deadline = self.conns.get(conn)?.deadline(others, patience)?;
            Some((deadline, *conn))
        });
        deadlines.min().filter(|(deadline, _)| *deadline <= now).map(|(_, conn)| conn)
    }

    /// After every change of what waits for an application.
    pub(super) fn judge_waiting(&mut self, conn: Conn, now: Moment) {
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        let queue = self.settings.limits.queue;
        if !connection.behind && connection.is_open() && connection.waiting.is_over(queue) {
            connection.settle(false, now);
            connection.behind = true;
            connection.progress = now;
            self.pace.behind.insert(conn);
            self.pace.paused.get_or_insert(now);
        } else if connection.behind && connection.waiting.is_low(queue) {
            self.catch_up(conn, now);
        }
    }

    /// Not behind any more: its application has taken enough, or its end has come.
    fn catch_up(&mut self, conn: Conn, now: Moment) {
        let others = self.pace.others();
        if let Some(connection) = self.conns.get_mut(&conn).filter(|connection| connection.behind) {
            connection.settle(others, now);
            connection.behind = false;
        }
        self.pace.behind.remove(&conn);
        if self.pace.behind.is_empty()
            && let Some(paused) = self.pace.paused.take()
        {
            self.pace.pauses += now.saturating_sub(paused);
        }
    }

    /// The application sends no more.
    pub(super) fn linger(&mut self, conn: Conn, now: Moment) {
        let until = self.pace.reading_clock(now).saturating_add(self.settings.limits.half_close_grace);
        let Some(connection) = self.conns.get_mut(&conn).filter(|connection| connection.wire == Wire::Open) else {
            return;
        };
        connection.wire = Wire::Lingering(until);
        self.pace.lingering.insert((until, conn));
        if let Some(service) = self.services.get_mut(connection.service) {
            service.live -= 1;
        }
    }

    /// The other end still sends.
    pub(super) fn refresh_linger(&mut self, conn: Conn, now: Moment) {
        let until = self.pace.reading_clock(now).saturating_add(self.settings.limits.half_close_grace);
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        if let Wire::Lingering(before) = connection.wire {
            connection.wire = Wire::Lingering(until);
            self.pace.lingering.remove(&(before, conn));
            self.pace.lingering.insert((until, conn));
        }
    }

    /// The other end knows one more.
    pub(super) fn one_more(&mut self, now: Moment) {
        self.set_open(self.pace.open + 1, now);
    }

    /// The other end knows this connection no longer. What waits for its application stays, and keeps nobody waiting.
    pub(super) fn leave(&mut self, conn: Conn, now: Moment) {
        let Some(connection) = self.conns.get_mut(&conn).filter(|connection| connection.is_open()) else { return };
        let wire = std::mem::replace(&mut connection.wire, Wire::Gone);
        let (at, id) = (connection.service, connection.id);
        if let Some(service) = self.services.get_mut(at) {
            service.conns.remove(&id);
            if wire == Wire::Open {
                service.live -= 1;
            }
        }
        if let Wire::Lingering(until) = wire {
            self.pace.lingering.remove(&(until, conn));
        }
        self.catch_up(conn, now);
        self.set_open(self.pace.open - 1, now);
    }

    /// Whether time counts against those that are behind depends on whether they are alone.
    fn set_open(&mut self, open: usize, now: Moment) {
        let others = self.pace.others();
        self.pace.open = open;
        if others != self.pace.others() {
            for conn in &self.pace.behind {
                if let Some(connection) = self.conns.get_mut(conn) {
                    connection.settle(others, now);
                }
            }
        }
    }
}
