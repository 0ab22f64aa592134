//! What waits for one client. Whoever forwards puts in, the session's task takes out; neither waits for the other, and a lock
//! is held for no longer than it takes to copy one packet or super-packet.
//! Flows take turns, and what has waited for too long is dropped ([`Queue`]).

use crate::state::Moment;
use crate::tunnel::enf::offload::Unit;
use crate::tunnel::enf::queue::{Owned, Queue};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes that wait for one session at most.
pub const LIMIT: usize = 512 * 1024;

/// The outbox of one session.
#[derive(Debug)]
pub struct Outbox(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    queue: Queue,
    /// In the queue, counted as they will be on the wire.
    packets: usize,
}

/// What came of putting something in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Put {
    /// It was empty before: who empties it has to be woken.
    pub first: bool,
    /// Packets that made room.
    pub dropped: usize,
}

/// What came of taking something out.
#[derive(Debug, Default)]
pub struct Taken {
    /// The next; none: nothing waits.
    pub unit: Option<Owned>,
    /// Packets that had waited for too long.
    pub dropped: usize,
}

impl Default for Outbox {
    fn default() -> Self {
        Self(Mutex::new(Inner { queue: Queue::new(LIMIT), packets: 0 }))
    }
}

impl Outbox {
    /// Puts one in.
    pub fn put(&self, unit: Unit<'_>, now: Moment) -> Put {
        let mut inner = self.inner();
        let first = inner.queue.is_empty();
        let dropped = inner.queue.push(unit, now).packets;
        inner.packets = (inner.packets + unit.packets()).saturating_sub(dropped);
        Put { first: first && !inner.queue.is_empty(), dropped }
    }

    /// Takes the next out, and gives back the one that was taken before.
    pub fn take(&self, before: Option<Owned>, now: Moment) -> Taken {
        let mut inner = self.inner();
        if let Some(before) = before {
            inner.queue.recycle(before);
        }
        let (unit, dropped) = inner.queue.pop(now);
        let dropped = dropped.packets;
        let gone = dropped + unit.as_ref().map_or(0, |taken| taken.unit().packets());
        inner.packets = inner.packets.saturating_sub(gone);
        Taken { unit, dropped }
    }

    /// Gives back the one that was taken last.
    pub fn give_back(&self, before: Owned) {
        self.inner().queue.recycle(before);
    }

    /// Packets that wait.
    pub fn packets(&self) -> usize {
        self.inner().packets
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::enf::packet::icmpv6_echo;
    use std::net::Ipv6Addr;

    const NOW: Moment = Moment::ZERO;

    #[test]
    fn only_the_first_wakes_and_those_of_a_flow_come_out_in_order() {
        let outbox = Outbox::default();
        let packet = |number: u8| icmpv6_echo(Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST, 128, &[number; 40]);
        for (number, first) in [(0, true), (1, false), (2, false)] {
            assert_eq!(outbox.put(Unit::plain(&packet(number)), NOW), Put { first, dropped: 0 });
        }
        let mut before = None;
        for number in 0..3 {
            assert_eq!(outbox.packets(), 3 - usize::from(number));
            let taken = outbox.take(before, NOW);
            assert_eq!(taken.unit.as_ref().unwrap().unit().packet, packet(number));
            before = taken.unit;
        }
        let end = outbox.take(before, NOW);
        assert_eq!((end.unit.is_none(), outbox.packets()), (true, 0));
        assert!(outbox.put(Unit::plain(&packet(9)), NOW).first, "it was emptied in between");
    }

    #[test]
    fn it_is_bounded_in_bytes_and_says_what_it_drops() {
        let outbox = Outbox::default();
        let packet = [6; 1000];
        let put: usize = (0..2 * LIMIT / packet.len()).map(|_| outbox.put(Unit::plain(&packet), NOW).dropped).sum();
        assert!(outbox.packets() * packet.len() <= LIMIT && outbox.packets() > LIMIT / packet.len() / 4);
        assert_eq!(outbox.packets() + put, 2 * LIMIT / packet.len());
    }
}
