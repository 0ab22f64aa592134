//! From packets to super-packets: consecutive segments of a TCP connection, and datagrams of one size of a UDP flow, become one
//! unit whose [`split`](super::split()) gives back the very bytes. The rules are those of the kernel's generic receive offload
//! (`tcp_gro_receive`, `udp_gro_receive`, `inet_gro_receive`), and stricter where a byte would be lost: nothing may differ
//! between two packets but what splitting writes anew.
//!
//! ```text
//! packet ---> its flow is held? ---no---> held, if it may be the first of many; else it goes on
//!                  |yes
//!                  fits behind it? --no--> what is held goes on, then the packet as above
//!                  |yes
//!                  checksums good? --no--> the same
//!                  |yes
//!                  joined; PSH, FIN, a short payload or 65,535 bytes complete the unit, and it goes on
//! ```
//!
//! The packets of one flow stay in order. Nothing is held beyond [`Gro::flush`], which ends every batch; a packet that stayed
//! alone goes on as it came, and nobody has looked at its checksum.

use super::check::UDP_SEGMENTS;
use super::split::{TCP, TCP_CHECKSUM, UDP, UDP_CHECKSUM, get, put};
use super::{Unit, checksum};
use crate::sys::tun::Offloads;
use crate::sys::vnet::Vnet;

/// Flows that are held at a time.
const FLOWS: usize = 8;
/// Most bytes of a super-packet.
const LONGEST: usize = 65_535;
const FIN_PSH: u8 = 0x09;
const ACK: u8 = 0x10;
const ECE: u8 = 0x40;

/// Coalesces packets. Of use to any number of connections in turn, each between its own two [`flush`](Self::flush)es.
#[derive(Debug, Default)]
pub struct Gro {
    takes: Offloads,
    flows: [Held; FLOWS],
    /// Whose turn it is to make room.
    turn: usize,
}

/// The packets of a flow that wait for more.
#[derive(Debug, Default)]
struct Held {
    /// 0: nothing is held.
    key: u64,
    /// The first packet, and the payloads of the others.
    bytes: Vec<u8>,
    shape: Segment,
    /// Whether the checksums of the first are right; seen when there is a second.
    sound: Option<bool>,
    count: u16,
    /// Flags that only the last has.
    last: u8,
    /// The TCP sequence number that comes next.
    next: u32,
}

/// A whole TCP or UDP packet without IP options, extension headers or fragments.
#[derive(Clone, Copy, Debug, Default)]
struct Segment {
    /// The same for all packets of a flow. Other flows may have it too: that costs a chance, and mixes nothing up.
    key: u64,
    tcp: bool,
    l4: usize,
    headers: usize,
    payload: usize,
    /// It may stand in a super-packet: first of all,
    begins: bool,
    /// or behind others.
    follows: bool,
}

/// What a packet is to the flows that are held.
enum Seen {
    /// Of one of them, perhaps.
    Segment(Segment),
    /// Of none.
    Apart,
    /// Of any.
    Unclear,
}

impl Gro {
    /// Makes nothing but plain packets until it is [told](Self::for_sink) of more.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on the units go where this is taken. Only between batches.
    pub fn for_sink(&mut self, takes: Offloads) {
        self.takes = takes;
    }

    /// Takes one packet. `each` is called for every unit that is complete.
    pub fn push(&mut self, packet: &[u8], each: &mut impl FnMut(Unit<'_>)) {
        match see(packet) {
            Seen::Segment(segment) if segment.tcp && self.takes.tcp || !segment.tcp && self.takes.udp => {
                self.join(packet, segment, each);
            }
            Seen::Segment(_) | Seen::Apart => each(Unit::plain(packet)),
            Seen::Unclear => {
                self.flush(each);
                each(Unit::plain(packet));
            }
        }
    }

    /// Ends a batch: calls `each` for everything that is held.
    pub fn flush(&mut self, each: &mut impl FnMut(Unit<'_>)) {
        for held in &mut self.flows {
            held.emit(each);
        }
    }

    /// Gives back all memory. Only between batches: what is held is lost.
    pub fn release(&mut self) {
        *self = Self { takes: self.takes, ..Self::default() };
    }

    fn join(&mut self, packet: &[u8], segment: Segment, each: &mut impl FnMut(Unit<'_>)) {
        if let Some(held) = self.flows.iter_mut().find(|held| held.key == segment.key) {
            if held.takes(packet, &segment) {
                if held.append(packet, &segment) {
                    held.emit(each);
                }
                return;
            }
            held.emit(each);
        }
        if !segment.begins {
            return each(Unit::plain(packet));
        }
        let free = self.flows.iter().position(|held| held.key == 0);
        let place = free.unwrap_or(self.turn);
        if let Some(held) = self.flows.get_mut(place) {
            held.emit(each);
            held.begin(packet, segment);
        }
        if free.is_none() {
            self.turn = (self.turn + 1) % FLOWS;
        }
    }
}

impl Held {
    fn begin(&mut self, packet: &[u8], segment: Segment) {
        self.bytes.clear();
        self.bytes.extend_from_slice(packet);
        (self.key, self.shape, self.sound, self.count, self.last) = (segment.key, segment, None, 1, 0);
        self.next = sequence(packet, segment.l4).wrapping_add(segment.payload as u32);
    }

    /// The packet is the next of this flow, and splitting would give back its very bytes.
    fn takes(&mut self, packet: &[u8], segment: &Segment) -> bool {
        let shape = self.shape;
        segment.follows
            && segment.payload <= shape.payload
            && (segment.tcp, segment.l4, segment.headers) == (shape.tcp, shape.l4, shape.headers)
            && self.bytes.len() + segment.payload <= LONGEST
            && self.is_next(packet).is_some_and(|next| next)
            && *self.sound.get_or_insert_with(|| is_sound(&self.bytes, &shape))
            && is_sound(packet, segment)
    }

    /// Whatever splitting does not write anew is equal, and whatever it does is as it will.
    fn is_next(&self, packet: &[u8]) -> Option<bool> {
        let Segment { tcp, l4, headers, .. } = self.shape;
        let (first, second) = (self.bytes.get(..headers)?, packet.get(..headers)?);
        let same = |from: usize, to: usize| first.get(from..to) == second.get(from..to);
        let network = if l4 == 40 {
            same(0, 4) && same(6, 40)
        } else {
            let id = get(first, 4)?.wrapping_add(self.count);
            same(0, 2) && get(second, 4)? == id && same(6, 10) && same(12, 20)
        };
        let transport = if tcp {
            let flags = second.get(l4 + 13)? & !FIN_PSH == *first.get(l4 + 13)?;
            let options = same(l4 + 18, headers);
            sequence(second, l4) == self.next && flags && same(l4 + 8, l4 + 13) && same(l4 + 14, l4 + 16) && options
        } else {
            true
        };
        Some(network && transport && same(l4, l4 + 4))
    }

    /// Adds it. The unit is complete when that is so.
    fn append(&mut self, packet: &[u8], segment: &Segment) -> bool {
        let size = self.shape.payload;
        if self.count == 1 {
            // Once, and not bit by bit.
            let most = if segment.tcp { LONGEST } else { LONGEST.min(self.shape.headers + size * UDP_SEGMENTS) };
            self.bytes.reserve_exact(most.saturating_sub(self.bytes.len()));
        }
        self.bytes.extend_from_slice(packet.get(segment.headers..).unwrap_or_default());
        self.count += 1;
        self.next = self.next.wrapping_add(segment.payload as u32);
        if segment.tcp {
            self.last = packet.get(segment.l4 + 13).map_or(0, |flags| flags & FIN_PSH);
        }
        let full = self.bytes.len() + size > LONGEST || !segment.tcp && usize::from(self.count) == UDP_SEGMENTS;
        full || self.last != 0 || segment.payload < size
    }

    fn emit(&mut self, each: &mut impl FnMut(Unit<'_>)) {
        if self.key != 0 {
            self.key = 0;
            // A lone packet is untouched. In many everything is where `see` saw it.
            let vnet = if self.count == 1 { None } else { self.merged() };
            each(Unit { vnet: vnet.unwrap_or_default(), packet: &self.bytes });
        }
    }

    /// Makes the first packet's headers those of the whole, and says what is to be done to it.
    fn merged(&mut self) -> Option<Vnet> {
        let Segment { tcp, l4, headers, payload, .. } = self.shape;
        let (network, transport) = self.bytes.split_at_mut_checked(l4)?;
        let length = transport.len();
        let (addresses, gso_type) = if l4 == 40 {
            put(network, 4, length as u16)?;
            (checksum::sum(network.get(8..)?), Vnet::TCPV6)
        } else {
            put(network, 2, (20 + length) as u16)?;
            put(network, 10, 0)?;
            let sum = !checksum::fold(checksum::sum(network));
            put(network, 10, sum)?;
            (checksum::sum(network.get(12..)?), Vnet::TCPV4)
        };
        let (protocol, at) = if tcp { (6, TCP_CHECKSUM) } else { (17, UDP_CHECKSUM) };
        if tcp {
            *transport.get_mut(13)? |= self.last;
        } else {
            put(transport, 4, length as u16)?;
        }
        put(transport, at, checksum::fold(addresses + protocol + length as u32))?;
        Some(Vnet {
            flags: Vnet::NEEDS_CSUM,
            gso_type: if tcp { gso_type } else { Vnet::UDP_L4 },
            hdr_len: headers as u16,
            gso_size: payload as u16,
            csum_start: l4 as u16,
            csum_offset: at as u16,
        })
    }
}

/// What is there, from the headers alone.
fn see(packet: &[u8]) -> Seen {
    let network = match packet.first() {
        Some(0x45) => network_v4(packet),
        Some(0x60..=0x6f) => network_v6(packet),
        // Options, which may hide fragments; and whatever is no IP.
        Some(0x40..=0x4f) => return Seen::Unclear,
        _ => return Seen::Apart,
    };
    match network {
        Some((l4, protocol @ (6 | 17), key)) => transport(packet, l4, protocol == 6, key).unwrap_or(Seen::Unclear),
        // Hop-by-hop options, routing, fragment, authentication, destination options, mobility, HIP, shim6.
        Some((40, 0 | 43 | 44 | 51 | 60 | 135 | 139 | 140, _)) => Seen::Unclear,
        Some(_) => Seen::Apart,
        None => Seen::Unclear,
    }
}

/// Length of the header, protocol, and what of the key is in it.
fn network_v4(packet: &[u8]) -> Option<(usize, u8, u64)> {
    let header = packet.first_chunk::<20>()?;
    let whole = usize::from(get(header, 2)?) == packet.len() && get(header, 6)? & !0x4000 == 0;
    whole.then_some((20, header[9], u64::from_ne_bytes(*header.last_chunk::<8>()?)))
}

fn network_v6(packet: &[u8]) -> Option<(usize, u8, u64)> {
    let header = packet.first_chunk::<40>()?;
    let whole = usize::from(get(header, 4)?) + 40 == packet.len();
    let (words, _) = header.last_chunk::<32>()?.as_chunks::<8>();
    let key = words.iter().fold(0_u64, |key, word| key.rotate_left(13) ^ u64::from_ne_bytes(*word));
    whole.then_some((40, header[6], key))
}

fn transport(packet: &[u8], l4: usize, tcp: bool, addresses: u64) -> Option<Seen> {
    let segment = packet.get(l4..)?;
    let ports = u32::from_ne_bytes(*segment.first_chunk()?);
    // Never 0.
    let key = (addresses.rotate_left(7) ^ (u64::from(ports) << 8) ^ (u64::from(tcp) << 1)) | 1;
    let (header, begins, follows) = if tcp {
        let flags = *segment.get(13)?;
        let follows = flags & !(FIN_PSH | ECE) == ACK;
        (usize::from(*segment.get(12)? >> 4) * 4, follows && flags & FIN_PSH == 0, follows)
    } else {
        // Without a checksum there is nothing to be verified by.
        let summed = usize::from(get(segment, 4)?) == segment.len() && get(segment, UDP_CHECKSUM)? != 0;
        (UDP, summed, summed)
    };
    let payload = segment.len().checked_sub(header)?;
    if tcp && header < TCP {
        return None;
    }
    let (begins, follows) = (begins && payload > 0, follows && payload > 0);
    Some(Seen::Segment(Segment { key, tcp, l4, headers: l4 + header, payload, begins, follows }))
}

/// All checksums are right, and written as splitting writes them: of the two that are equal, 0 and 0xffff, TCP and IPv4 have
/// the former and UDP the latter.
fn is_sound(packet: &[u8], shape: &Segment) -> bool {
    let Some((network, transport)) = packet.split_at_checked(shape.l4) else { return false };
    let addresses = network.get(if shape.l4 == 40 { 8 } else { 12 }..).unwrap_or_default();
    let protocol = if shape.tcp { 6 } else { 17 };
    let sum = checksum::sum(addresses) + protocol + transport.len() as u32 + checksum::sum(transport);
    let written = shape.l4 == 40 || checksum::sum(network) == 0xffff && get(network, 10) != Some(0xffff);
    // UDP was asked for its 0 before.
    written && checksum::fold(sum) == 0xffff && !(shape.tcp && get(transport, TCP_CHECKSUM) == Some(0xffff))
}

fn sequence(packet: &[u8], l4: usize) -> u32 {
    packet.get(l4 + 4..).and_then(|rest| rest.first_chunk()).map_or(0, |four| u32::from_be_bytes(*four))
}

#[cfg(test)]
#[path = "gro_tests.rs"]
mod tests;
