//! Flows and buffers of a queue in which something waits. Queues that have become empty hand theirs on to the next one that
//! needs some, so that thousands of them hold no memory, and few allocate.

use super::super::offload::Unit;
use super::codel::{Codel, SHORT};
use super::ecn;
use super::flow::BUCKETS;
use crate::state::Moment;
use crate::sys::vnet::Vnet;
use std::collections::VecDeque;
use std::sync::Mutex;

/// What a flow may send when its turn comes, about the MTU (RFC 8290 section 5.2.2 says why not more).
pub const QUANTUM: i32 = 1500;
/// The smallest buffer, and the least that a unit is charged.
const LEAST: usize = 128;
/// Sizes of buffer: [`LEAST`] times a power of two, up to 64 KiB.
const CLASSES: usize = 10;
/// No flow.
const NONE: u16 = u16::MAX;

/// Sets of tables that wait for a queue, all in all.
const SPARE: usize = 16;
/// Bytes of buffers that stay with one of them.
const SPARE_BYTES: usize = 512 * 1024;
/// Flows that stay with one of them, and units that each has room for.
const SPARE_FLOWS: usize = 64;
const SPARE_UNITS: usize = 64;

#[expect(clippy::vec_box, reason = "they go from queue to queue without being copied")]
static POOL: Mutex<Vec<Box<Tables>>> = Mutex::new(Vec::new());

/// Tables without anything in them. Whoever would have to wait for some makes its own.
pub fn acquire() -> Box<Tables> {
    POOL.try_lock().ok().and_then(|mut pool| pool.pop()).unwrap_or_else(|| Box::new(Tables::new()))
}

/// Takes the tables of a queue that has become empty.
pub fn release(mut tables: Box<Tables>) {
    tables.clear();
    if let Ok(mut pool) = POOL.try_lock()
        && pool.len() < SPARE
    {
        pool.push(tables);
    }
}

/// What a unit of so many bytes counts for.
pub fn charge(bytes: usize) -> usize {
    bytes.max(LEAST)
}

/// A unit that waits.
#[derive(Debug)]
pub struct Slot {
    pub vnet: Vnet,
    pub packet: Vec<u8>,
    /// What it stands for.
    pub packets: usize,
    since: Moment,
}

/// The flows in which something waits, or has just waited.
#[derive(Debug)]
pub struct Tables {
    /// From a packet's bucket to its flow.
    index: [u16; BUCKETS],
    flows: Vec<Flow>,
    /// What each flow holds, as charged: side by side, so that the fattest is found fast.
    backlogs: Vec<u32>,
    /// Flows without a bucket.
    unused: Vec<u16>,
    /// Flows that have something again after a while; they come first.
    new: VecDeque<u16>,
    /// Flows that have used up a quantum.
    old: VecDeque<u16>,
    pub buffers: Buffers,
}

#[derive(Debug, Default)]
struct Flow {
    bucket: u16,
    /// Bytes that it may still send in this turn; what it has sent too much otherwise.
    credit: i32,
    codel: Codel,
    units: VecDeque<Slot>,
}

impl Tables {
    fn new() -> Self {
        Self {
            index: [NONE; BUCKETS],
            flows: Vec::new(),
            backlogs: Vec::new(),
            unused: Vec::new(),
            new: VecDeque::new(),
            old: VecDeque::new(),
            buffers: Buffers::default(),
        }
    }

    /// Adds a unit to its flow. Its bytes, and what they are charged as.
    pub fn push(&mut self, bucket: u16, unit: Unit<'_>, since: Moment) -> (usize, usize) {
        let bytes = unit.packet.len();
        let at = self.flow_of(bucket);
        let mut packet = self.buffers.take(bytes);
        packet.extend_from_slice(unit.packet);
        if let (Some(flow), Some(backlog)) =
            (self.flows.get_mut(usize::from(at)), self.backlogs.get_mut(usize::from(at)))
        {
            *backlog = backlog.saturating_add(charge_u32(bytes));
            flow.units.push_back(Slot { vnet: unit.vnet, packet, packets: unit.packets(), since });
        }
        (bytes, charge(bytes))
    }

    /// The flow of a bucket; one that had none is new.
    fn flow_of(&mut self, bucket: u16) -> u16 {
        let Some(entry) = self.index.get_mut(usize::from(bucket)) else { return NONE };
        if *entry == NONE {
            let at = self.unused.pop().unwrap_or(self.flows.len() as u16);
            if usize::from(at) == self.flows.len() {
                self.flows.push(Flow::default());
                self.backlogs.push(0);
            }
            if let Some(flow) = self.flows.get_mut(usize::from(at)) {
                (flow.bucket, flow.credit, flow.codel) = (bucket, QUANTUM, Codel::default());
            }
            self.new.push_back(at);
            *entry = at;
        }
        *entry
    }

    /// The next unit in turn, and whether it is one that is to be dropped.
    pub fn pop(&mut self, now: Moment) -> Option<(Slot, bool)> {
        loop {
            let (is_new, at) = match self.new.front() {
                Some(at) => (true, *at),
                None => (false, *self.old.front()?),
            };
            let (flow, backlog) = (self.flows.get_mut(usize::from(at))?, self.backlogs.get_mut(usize::from(at))?);
            if flow.credit <= 0 {
                // A whole super-packet takes many turns to earn; nobody else takes any when it is alone.
                let alone = self.new.len() + self.old.len() == 1;
                flow.credit = if alone { QUANTUM } else { flow.credit + QUANTUM };
                self.retire(is_new);
                continue;
            }
            let Some(mut slot) = flow.units.pop_front() else {
                // Once behind the old ones, so that nobody stays new by being empty now and then.
                if is_new && !self.old.is_empty() {
                    self.retire(true);
                } else {
                    self.forget(is_new);
                }
                continue;
            };
            let bytes = slot.packet.len();
            *backlog = backlog.saturating_sub(charge_u32(bytes));
            let told = flow.codel.tells(now.saturating_sub(slot.since), *backlog, now);
            let dropped = told && !ecn::mark(&mut slot.packet);
            if !dropped {
                flow.credit = flow.credit.saturating_sub_unsigned(charge_u32(bytes));
            }
            return Some((slot, dropped));
        }
    }

    /// The oldest unit of the flow that holds most.
    pub fn drop_from_fattest(&mut self) -> Option<Slot> {
        let most = self.backlogs.iter().fold(0, |most, &backlog| backlog.max(most));
        let at = self.backlogs.iter().position(|&backlog| backlog == most)?;
        let slot = self.flows.get_mut(at)?.units.pop_front()?;
        if let Some(backlog) = self.backlogs.get_mut(at) {
            *backlog = backlog.saturating_sub(charge_u32(slot.packet.len()));
        }
        Some(slot)
    }

    /// The first flow goes behind the old ones.
    fn retire(&mut self, is_new: bool) {
        let from = if is_new { &mut self.new } else { &mut self.old };
        if let Some(at) = from.pop_front() {
            self.old.push_back(at);
        }
    }

    /// The first flow has nothing, and gives up its place.
    fn forget(&mut self, is_new: bool) {
        let from = if is_new { &mut self.new } else { &mut self.old };
        let Some(at) = from.pop_front() else { return };
        if let Some(flow) = self.flows.get_mut(usize::from(at)) {
            flow.units.shrink_to(SPARE_UNITS);
            if let Some(entry) = self.index.get_mut(usize::from(flow.bucket)) {
                *entry = NONE;
            }
        }
        self.unused.push(at);
    }

    /// Nothing waits any more: everybody gives up its place.
    fn clear(&mut self) {
        while !self.new.is_empty() {
            self.forget(true);
        }
        while !self.old.is_empty() {
            self.forget(false);
        }
        if self.flows.len() > SPARE_FLOWS {
            *self = Self { buffers: std::mem::take(&mut self.buffers), ..Self::new() };
        }
        self.buffers.shrink(SPARE_BYTES);
    }
}

fn charge_u32(bytes: usize) -> u32 {
    u32::try_from(charge(bytes)).unwrap_or(u32::MAX)
}

/// Buffers that wait for the next unit, by size.
#[derive(Debug, Default)]
pub struct Buffers {
    free: [Vec<Vec<u8>>; CLASSES],
    bytes: usize,
}

impl Buffers {
    /// An empty buffer for so many bytes.
    fn take(&mut self, bytes: usize) -> Vec<u8> {
        let size = bytes.max(LEAST).next_power_of_two();
        match self.free.get_mut(class(size)).and_then(Vec::pop) {
            Some(buffer) => {
                self.bytes = self.bytes.saturating_sub(buffer.capacity());
                buffer
            }
            None => Vec::with_capacity(size),
        }
    }

    /// Keeps a buffer, unless that many bytes are kept already.
    pub fn give(&mut self, mut buffer: Vec<u8>, most: usize) {
        let size = buffer.capacity();
        if size.is_power_of_two()
            && self.bytes + size <= most.max(SPARE_BYTES)
            && let Some(free) = self.free.get_mut(class(size))
        {
            buffer.clear();
            self.bytes += size;
            free.push(buffer);
        }
    }

    fn shrink(&mut self, most: usize) {
        for free in self.free.iter_mut().rev() {
            while self.bytes > most
                && let Some(buffer) = free.pop()
            {
                self.bytes = self.bytes.saturating_sub(buffer.capacity());
            }
        }
    }
}

/// The place of a size, a power of two, among the classes.
fn class(size: usize) -> usize {
    size.ilog2().saturating_sub(LEAST.ilog2()) as usize
}

const _: () = assert!(SHORT as i32 == QUANTUM);
