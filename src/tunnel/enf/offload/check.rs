//! Whether the header of a unit agrees with its packet. The kernel believes what a TUN's writer says: it takes segments of
//! one byte, TCP over IPv4 in an IPv6 packet, checksums in the middle of an address. So what comes from a peer is asked here
//! first; and whoever sends to a peer asks the same before, and splits what would be refused.

use super::split::{TCP, TCP_CHECKSUM, UDP, UDP_CHECKSUM, get};
use super::{Shape, Unit, checksum};
use crate::sys::vnet::Vnet;
use crate::tunnel::DropReason;

/// Fewest payload bytes of a TCP segment: what every host takes (RFC 9293 section 3.7.1).
pub const TCP_SEGMENT: usize = 536;
/// Most datagrams of a UDP super-packet. From 6.9 a kernel takes 128 (`UDP_MAX_SEGMENTS`); all before that, and none refuses 64.
pub const UDP_SEGMENTS: usize = 64;
/// TCP flags that a super-packet may have: FIN, PSH, ACK, ECE. CWR would need a type of its own, and the others stand alone.
const TCP_FLAGS: u8 = 0x59;

/// What the receiver of units takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the largest packet.
    pub mtu: u16,
    /// UDP super-packets too.
    pub udp: bool,
}

/// Whether a unit is one that a receiver with these limits takes.
///
/// # Errors
/// `too-big`: a plain packet, or one that a super-packet stands for, is longer than the MTU. `offload-invalid`: the header
/// does not agree with the packet, or with the limits.
pub fn check(unit: Unit<'_>, limits: &Limits) -> Result<(), DropReason> {
    let mtu = usize::from(limits.mtu);
    let longest = if unit.vnet == Vnet::default() {
        unit.packet.len()
    } else {
        longest(&unit, limits).ok_or(DropReason::OffloadInvalid)?
    };
    if longest <= mtu { Ok(()) } else { Err(DropReason::TooBig) }
}

/// Bytes of the longest packet that it stands for; `None` when something does not agree.
fn longest(unit: &Unit<'_>, limits: &Limits) -> Option<usize> {
    let Unit { vnet, packet } = *unit;
    let (l4, protocol, addresses) = network(packet)?;
    let segment = packet.get(l4..)?;
    let (headers, at, types) = match protocol {
        6 => {
            let header = usize::from(*segment.get(12)? >> 4) * 4;
            (header, TCP_CHECKSUM, if l4 == 40 { Vnet::TCPV6 } else { Vnet::TCPV4 })
        }
        17 => (UDP, UDP_CHECKSUM, Vnet::UDP_L4),
        _ => return None,
    };
    let tcp = protocol == 6;
    let whole = if tcp { headers >= TCP } else { usize::from(get(segment, 4)?) == segment.len() };
    let summed = usize::from(vnet.csum_start) == l4 && usize::from(vnet.csum_offset) == at;
    // Zero and its equal are the same sum.
    let pseudo = checksum::fold(addresses + u32::from(protocol) + segment.len() as u32);
    let sound = get(segment, at)? % 0xffff == pseudo % 0xffff;
    if vnet.flags != Vnet::NEEDS_CSUM || !whole || !summed || !sound || headers > segment.len() {
        return None;
    }
    let (payload, size) = (segment.len() - headers, usize::from(vnet.gso_size));
    if vnet.gso_type == Vnet::NONE {
        return (size == 0 && vnet.hdr_len == 0).then_some(packet.len());
    }
    let typed = vnet.gso_type == types && usize::from(vnet.hdr_len) == l4 + headers;
    let sized = if tcp {
        size >= TCP_SEGMENT && segment.get(13)? & !TCP_FLAGS == 0
    } else {
        limits.udp && size >= 1 && payload <= size * UDP_SEGMENTS
    };
    (typed && sized && payload > size).then_some(l4 + headers + size)
}

/// Length of the IP header, protocol and sum of the addresses, of a whole packet without options, extensions or fragments.
fn network(packet: &[u8]) -> Option<(usize, u8, u32)> {
    match packet.first()? {
        0x45 => {
            let header = packet.first_chunk::<20>()?;
            let whole = usize::from(get(header, 2)?) == packet.len() && get(header, 6)? & !0x4000 == 0;
            let sound = checksum::fold(checksum::sum(header)) == 0xffff;
            (whole && sound).then_some((20, header[9], checksum::sum(header.last_chunk::<8>()?)))
        }
        0x60..=0x6f => {
            let header = packet.first_chunk::<40>()?;
            let whole = usize::from(get(header, 4)?) + 40 == packet.len();
            whole.then_some((40, header[6], checksum::sum(header.last_chunk::<32>()?)))
        }
        _ => None,
    }
}

impl Unit<'_> {
    /// The same with a header that says no more than it must. A kernel's says of the headers how many bytes lie together in its
    /// memory, and of a lone packet that its checksum was seen to be good; peers are told neither.
    #[must_use]
    pub fn canonical(self) -> Self {
        let Vnet { gso_type, gso_size, csum_start, csum_offset, .. } = self.vnet;
        let lone = Vnet { flags: Vnet::NEEDS_CSUM, csum_start, csum_offset, ..Vnet::default() };
        let vnet = match Shape::of(&self) {
            Some(Shape::Whole) => Vnet::default(),
            Some(Shape::Sum { .. }) => lone,
            // It lies within a packet of at most 65,535 bytes.
            Some(Shape::Segments { headers, .. }) => Vnet { gso_type, gso_size, hdr_len: headers as u16, ..lone },
            None => self.vnet,
        };
        Self { vnet, ..self }
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
