//! What waits for one client. Whoever forwards puts in, the session's task takes out; neither waits for the other, and a lock
//! is held for no longer than it takes to copy one packet.

use crate::state::Moment;
use crate::tunnel::enf::offload::Unit;
pub use fifo::Owned;
use fifo::Queue;
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
        let dropped = inner.queue.push(unit, now);
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

/// First in, first out.
mod fifo {
    use super::{Moment, Unit};
    use crate::sys::vnet::Vnet;
    use std::collections::VecDeque;

    /// Buffers that are kept for what comes next, as long as something waits.
    const SPARE: usize = 64;

    #[derive(Debug)]
    pub struct Queue {
        waiting: VecDeque<Owned>,
        spare: Vec<Vec<u8>>,
        bytes: usize,
        limit: usize,
    }

    /// A unit with its own buffer.
    #[derive(Debug)]
    pub struct Owned {
        vnet: Vnet,
        packet: Vec<u8>,
    }

    impl Owned {
        /// What waited.
        pub fn unit(&self) -> Unit<'_> {
            Unit { vnet: self.vnet, packet: &self.packet }
        }
    }

    impl Queue {
        pub fn new(limit: usize) -> Self {
            Self { waiting: VecDeque::new(), spare: Vec::new(), bytes: 0, limit }
        }

        pub fn push(&mut self, unit: Unit<'_>, _: Moment) -> usize {
            if self.bytes + unit.packet.len() > self.limit {
                return unit.packets();
            }
            let mut packet = self.spare.pop().unwrap_or_default();
            packet.extend_from_slice(unit.packet);
            self.bytes += packet.len();
            self.waiting.push_back(Owned { vnet: unit.vnet, packet });
            0
        }

        pub fn pop(&mut self, _: Moment) -> (Option<Owned>, usize) {
            let next = self.waiting.pop_front();
            match &next {
                Some(next) => self.bytes -= next.packet.len(),
                // An idle session holds no memory.
                None => (self.waiting, self.spare) = (VecDeque::new(), Vec::new()),
            }
            (next, 0)
        }

        pub fn recycle(&mut self, Owned { mut packet, .. }: Owned) {
            if self.spare.len() < SPARE {
                packet.clear();
                self.spare.push(packet);
            }
        }

        pub fn is_empty(&self) -> bool {
            self.waiting.is_empty()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment::ZERO;

    #[test]
    fn only_the_first_wakes_and_all_come_out_in_order() {
        let outbox = Outbox::default();
        for (number, first) in [(0, true), (1, false), (2, false)] {
            assert_eq!(outbox.put(Unit::plain(&[number; 40]), NOW), Put { first, dropped: 0 });
        }
        let mut before = None;
        for number in 0..3 {
            assert_eq!(outbox.packets(), 3 - usize::from(number));
            let taken = outbox.take(before, NOW);
            assert_eq!(taken.unit.as_ref().unwrap().unit().packet, [number; 40]);
            before = taken.unit;
        }
        assert!(outbox.take(before, NOW).unit.is_none());
        assert!(outbox.put(Unit::plain(&[9; 40]), NOW).first, "it was emptied in between");
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
