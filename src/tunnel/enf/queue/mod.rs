//! Units that wait: fair between flows, short in time, bounded in bytes. It is FQ-CoDel (RFC 8290, with RFC 8289 for each
//! flow) over packets and super-packets. Pure: the caller brings the time, nothing is sent or received.
//!
//! ```text
//! push --hash of addresses, protocol, ports--> flow --+--> new flows, each for one quantum --+--> CoDel --> pop
//!                                                     +--> old flows, in turn, a quantum ----+     |
//!                                                                                                  +--> marked, or dropped
//! ```
//!
//! A flow that sends less than its share finds itself among the new ones each time, so that a ping never waits behind a bulk
//! transfer. A unit is taken, marked or dropped as a whole. Sizes are in bytes.
//!
//! | file | owns |
//! |---|---|
//! | `flow` | which packets belong together |
//! | `codel` | when a flow has to be told to slow down |
//! | `ecn` | telling it without a loss |
//! | `tables` | flows and buffers while something waits |

mod codel;
mod ecn;
mod flow;
mod tables;
#[cfg(test)]
mod tests;

use super::offload::Unit;
use crate::state::Moment;
use crate::sys::vnet::Vnet;
use flow::Seed;
use std::ops::AddAssign;
use tables::{Slot, Tables};

/// Units that wait for room. An empty queue holds no memory but its own few words.
#[derive(Debug)]
pub struct Queue {
    /// Only while something waits.
    tables: Option<Box<Tables>>,
    limit: usize,
    bytes: usize,
    /// Bytes, and no unit for less than it costs.
    charged: usize,
    len: usize,
    seed: Seed,
}

/// A unit that has left the queue. It goes back with [`Queue::recycle`], so that its memory serves the next one.
#[derive(Debug)]
#[must_use = "it goes back with Queue::recycle"]
pub struct Owned {
    vnet: Vnet,
    packet: Vec<u8>,
}

impl Owned {
    /// What was pushed; the packet may have been marked on the way ("congestion experienced", RFC 3168).
    pub fn unit(&self) -> Unit<'_> {
        Unit { vnet: self.vnet, packet: &self.packet }
    }
}

/// What the queue gave up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "drops are counted"]
pub struct Dropped {
    /// Whole units.
    pub units: usize,
    /// The packets that these stood for.
    pub packets: usize,
    /// The units' bytes.
    pub bytes: usize,
}

impl Dropped {
    /// Nothing was dropped.
    pub fn is_none(&self) -> bool {
        self.units == 0
    }
}

impl AddAssign for Dropped {
    fn add_assign(&mut self, other: Self) {
        self.units += other.units;
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

impl Queue {
    /// An empty queue for this many bytes. Small units count for 128 bytes, so that they cost no more memory than large ones.
    pub fn new(limit_bytes: usize) -> Self {
        Self { tables: None, limit: limit_bytes, bytes: 0, charged: 0, len: 0, seed: Seed::random() }
    }

    /// Puts a copy of a unit behind those of its flow. When there is no room, the flow that has most in the queue loses its
    /// oldest units, which may be the one that was just added.
    pub fn push(&mut self, unit: Unit<'_>, now: Moment) -> Dropped {
        let tables = self.tables.get_or_insert_with(tables::acquire);
        let (bytes, charge) = tables.push(flow::bucket(unit.packet, &self.seed), unit, now);
        self.bytes += bytes;
        self.charged += charge;
        self.len += 1;
        let mut dropped = Dropped::default();
        while self.charged > self.limit {
            let Some(slot) = self.tables.as_mut().and_then(|tables| tables.drop_from_fattest()) else { break };
            dropped += self.leave(&slot);
            self.keep(slot.packet);
        }
        self.rest();
        dropped
    }

    /// Takes the unit whose turn it is. What CoDel took out on the way is gone. Nothing comes out of an empty queue, and of no
    /// other.
    pub fn pop(&mut self, now: Moment) -> (Option<Owned>, Dropped) {
        let mut dropped = Dropped::default();
        loop {
            let taken = self.tables.as_mut().and_then(|tables| tables.pop(now));
            match taken {
                Some((slot, true)) => {
                    dropped += self.leave(&slot);
                    self.keep(slot.packet);
                }
                Some((slot, false)) => {
                    let _ = self.leave(&slot);
                    return (Some(Owned { vnet: slot.vnet, packet: slot.packet }), dropped);
                }
                None => {
                    self.rest();
                    return (None, dropped);
                }
            }
        }
    }

    /// Takes back the memory of a unit that was popped.
    pub fn recycle(&mut self, owned: Owned) {
        self.keep(owned.packet);
        self.rest();
    }

    /// Units that wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes of the units that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn leave(&mut self, slot: &Slot) -> Dropped {
        let bytes = slot.packet.len();
        self.bytes = self.bytes.saturating_sub(bytes);
        self.charged = self.charged.saturating_sub(tables::charge(bytes));
        self.len = self.len.saturating_sub(1);
        Dropped { units: 1, packets: slot.packets, bytes }
    }

    fn keep(&mut self, buffer: Vec<u8>) {
        if let Some(tables) = &mut self.tables {
            tables.buffers.give(buffer, self.limit);
        }
    }

    /// Whoever has nothing to keep keeps nothing.
    fn rest(&mut self) {
        if self.is_empty()
            && let Some(tables) = self.tables.take()
        {
            tables::release(tables);
        }
    }
}
