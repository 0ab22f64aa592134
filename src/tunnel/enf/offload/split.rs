//! From a unit to the plain packets that it stands for, byte for byte what the kernel's own segmentation makes of it
//! (`inet_gso_segment`, `ipv6_gso_segment`, `tcp_gso_segment`, `__udp_gso_segment`; `skb_checksum_help` for a lone packet).
//!
//! It takes whatever a kernel hands out, and of all else what stays within the packet. Whether the header of a peer may be
//! believed is another question.

use super::{Unit, checksum};
use crate::sys::vnet::Vnet;

/// Bytes of a TCP header without options, and of a UDP header.
pub(super) const TCP: usize = 20;
pub(super) const UDP: usize = 8;
/// Where in them the checksum is.
pub(super) const TCP_CHECKSUM: usize = 16;
pub(super) const UDP_CHECKSUM: usize = 6;
/// TCP flags (RFC 9293 section 3.1): FIN and PSH, which only the last segment has, and CWR, which only the first has.
const LAST: u8 = 0x09;
const FIRST: u8 = 0x80;
/// Beside a TCP type: CWR is set (linux/virtio_net.h).
const ECN: u8 = 0x80;

/// How a unit comes apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// It is a packet.
    Whole,
    /// It is a packet whose checksum counts from `start` to the end and goes to `at`.
    Sum { start: usize, at: usize },
    /// Before every `size` bytes of what follows them come `headers` bytes of headers, of which TCP or UDP is the last, at `l4`.
    Segments { tcp: bool, l4: usize, headers: usize, size: usize },
}

impl Shape {
    /// `None` when things are not where the unit says.
    pub(super) fn of(unit: &Unit<'_>) -> Option<Self> {
        let Unit { vnet, packet } = *unit;
        let start = usize::from(vnet.csum_start);
        let at = start + usize::from(vnet.csum_offset);
        let needs_sum = vnet.flags & Vnet::NEEDS_CSUM != 0;
        if needs_sum && at + 2 > packet.len() {
            return None;
        }
        let lone = if needs_sum { Self::Sum { start, at } } else { Self::Whole };
        let gso_type = vnet.gso_type & !ECN;
        if gso_type == Vnet::NONE {
            return Some(lone);
        }
        let version = packet.first()? >> 4;
        let tcp = match (gso_type, version) {
            (Vnet::TCPV4, 4) | (Vnet::TCPV6, 6) => true,
            (Vnet::UDP_L4, 4 | 6) => false,
            _ => return None,
        };
        let ip = if version == 6 { 40 } else { usize::from(packet.first()? & 0x0f) * 4 };
        let l4 = if tcp { usize::from(*packet.get(start + 12)? >> 4) * 4 } else { UDP };
        let checksum = if tcp { TCP_CHECKSUM } else { UDP_CHECKSUM };
        let (headers, size) = (start + l4, usize::from(vnet.gso_size));
        let fits = ip >= 20 && start >= ip && (!tcp || l4 >= TCP) && at == start + checksum && headers <= packet.len();
        if !needs_sum || size == 0 || !fits || packet.len() > 65_535 {
            return None;
        }
        // One that is no longer than its segments is none.
        let one = packet.len() - headers <= size;
        Some(if one { lone } else { Self::Segments { tcp, l4: start, headers, size } })
    }
}

impl Unit<'_> {
    /// Bytes of the longest packet that it stands for.
    pub fn longest(&self) -> usize {
        match Shape::of(self) {
            Some(Shape::Segments { headers, size, .. }) => headers + size,
            _ => self.packet.len(),
        }
    }

    /// How many packets it stands for. At least 1, whatever its header says.
    pub fn packets(&self) -> usize {
        match Shape::of(self) {
            Some(Shape::Segments { headers, size, .. }) => (self.packet.len() - headers).div_ceil(size),
            _ => 1,
        }
    }

    /// Bytes of all the packets that it stands for.
    pub fn wire_bytes(&self) -> usize {
        match Shape::of(self) {
            Some(Shape::Segments { headers, size, .. }) => {
                let payload = self.packet.len() - headers;
                payload + payload.div_ceil(size) * headers
            }
            _ => self.packet.len(),
        }
    }
}

/// The packets that a unit stands for, one by one.
#[derive(Clone, Debug)]
pub struct Splitter<'a> {
    packet: &'a [u8],
    shape: Shape,
    /// Where in `packet` the payload of the next one begins; beyond its end when there is none.
    next: usize,
    /// How many there were.
    done: u16,
}

impl<'a> Splitter<'a> {
    /// `None` for a unit that nothing can be made of: no kernel hands out such a thing.
    pub fn new(unit: Unit<'a>) -> Option<Self> {
        let shape = Shape::of(&unit)?;
        let next = if let Shape::Segments { headers, .. } = shape { headers } else { 0 };
        Some(Self { packet: unit.packet, shape, next, done: 0 })
    }

    /// Bytes of the next packet; `None` when there is no more.
    pub fn next_len(&self) -> Option<usize> {
        match self.shape {
            _ if self.next >= self.packet.len() => None,
            Shape::Whole | Shape::Sum { .. } => Some(self.packet.len()),
            Shape::Segments { headers, size, .. } => Some(headers + size.min(self.packet.len() - self.next)),
        }
    }

    /// Writes the next packet to the beginning of `to`, and says how long it is. 0, and nothing is written, when there is no
    /// more, or `to` is shorter than [`next_len`](Self::next_len).
    pub fn write(&mut self, to: &mut [u8]) -> usize {
        let Some((header, payload)) = self.parts() else { return 0 };
        let length = header.len() + payload.len();
        let Some(to) = to.get_mut(..length) else { return 0 };
        let (first, second) = to.split_at_mut(header.len());
        first.copy_from_slice(header);
        second.copy_from_slice(payload);
        self.finish(to);
        length
    }

    /// Appends the next packet to `to`, and says how long it is; 0 when there is no more.
    pub fn append(&mut self, to: &mut Vec<u8>) -> usize {
        let Some((header, payload)) = self.parts() else { return 0 };
        let before = to.len();
        to.extend_from_slice(header);
        to.extend_from_slice(payload);
        if let Some(packet) = to.get_mut(before..) {
            self.finish(packet);
        }
        header.len() + payload.len()
    }

    /// What the next packet is made of.
    fn parts(&self) -> Option<(&'a [u8], &'a [u8])> {
        let length = self.next_len()?;
        match self.shape {
            Shape::Whole | Shape::Sum { .. } => Some((&[], self.packet)),
            Shape::Segments { headers, .. } => {
                let payload = self.packet.get(self.next..)?.get(..length - headers)?;
                Some((self.packet.get(..headers)?, payload))
            }
        }
    }

    /// Puts into `to`, which holds its parts, what is this packet's own; and goes on to the next.
    fn finish(&mut self, to: &mut [u8]) {
        match self.shape {
            Shape::Whole => self.next = self.packet.len(),
            Shape::Sum { start, at } => {
                complete(to, start, at);
                self.next = self.packet.len();
            }
            Shape::Segments { tcp, l4, headers, size } => {
                let place = Place {
                    index: self.done,
                    offset: (self.next - headers) as u32,
                    last: self.next + size >= self.packet.len(),
                    unit: self.packet.len(),
                };
                // Everything is where `Shape::of` saw it.
                let _ = place.network(to).and_then(|()| place.transport(to, l4, tcp));
                self.next += size;
                self.done += 1;
            }
        }
    }
}

/// Where a segment lies in its unit.
struct Place {
    index: u16,
    offset: u32,
    last: bool,
    unit: usize,
}

impl Place {
    /// Length, and for IPv4 identification and checksum.
    fn network(&self, packet: &mut [u8]) -> Option<()> {
        let length = packet.len();
        if packet.first()? >> 4 == 6 {
            return put(packet, 4, (length - 40) as u16);
        }
        let header = packet.get_mut(..usize::from(packet.first()? & 0x0f) * 4)?;
        put(header, 2, length as u16)?;
        put(header, 4, get(header, 4)?.wrapping_add(self.index))?;
        put(header, 10, 0)?;
        put(header, 10, !checksum::fold(checksum::sum(header)))
    }

    fn transport(&self, packet: &mut [u8], l4: usize, tcp: bool) -> Option<()> {
        let (whole, segment) = (self.unit - l4, packet.get_mut(l4..)?);
        let length = segment.len();
        let at = if tcp { TCP_CHECKSUM } else { UDP_CHECKSUM };
        // The field holds the sum of the pseudo-header, with the length of the whole.
        let pseudo = u32::from(get(segment, at)?) + u32::from(!(whole as u16)) + length as u32;
        put(segment, at, 0)?;
        if tcp {
            let sequence = segment.get_mut(4..)?.first_chunk_mut::<4>()?;
            *sequence = u32::from_be_bytes(*sequence).wrapping_add(self.offset).to_be_bytes();
            let flags = segment.get_mut(13)?;
            *flags &= !if self.last { 0 } else { LAST } & !if self.index == 0 { 0 } else { FIRST };
        } else {
            put(segment, 4, length as u16)?;
        }
        let sum = !checksum::fold(pseudo + checksum::sum(segment));
        put(segment, at, if sum == 0 && !tcp { 0xffff } else { sum })
    }
}

/// Adds what is missing to a checksum whose field holds the rest, of whatever protocol. 0 becomes its equal: for UDP it would
/// mean that there is none.
fn complete(packet: &mut [u8], start: usize, at: usize) {
    let sum = packet.get(start..).map_or(0, |counted| !checksum::fold(checksum::sum(counted)));
    let _ = put(packet, at, if sum == 0 { 0xffff } else { sum });
}

/// Calls `each` for every packet that a unit stands for; `scratch` is where they are made, and is given back with whatever
/// memory that took. `false`, and no call, for a unit that nothing can be made of.
pub fn split(unit: Unit<'_>, scratch: &mut Vec<u8>, mut each: impl FnMut(&[u8])) -> bool {
    let Some(mut splitter) = Splitter::new(unit) else { return false };
    if splitter.shape == Shape::Whole {
        each(unit.packet);
        return true;
    }
    loop {
        scratch.clear();
        if splitter.append(scratch) == 0 {
            return true;
        }
        each(scratch);
    }
}

/// The big-endian number at an offset.
pub(super) fn get(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|two| u16::from_be_bytes(*two))
}

/// Replaces it.
pub(super) fn put(bytes: &mut [u8], at: usize, value: u16) -> Option<()> {
    *bytes.get_mut(at..)?.first_chunk_mut()? = value.to_be_bytes();
    Some(())
}

#[cfg(test)]
#[path = "split_tests.rs"]
mod tests;
