//! Packets and units for tests, built field by field from the RFCs, with a checksum as slow as it is plain.

use super::Vnet;
use proptest::prelude::*;

pub const FIN: u8 = 0x01;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;
pub const CWR: u8 = 0x80;

/// What the packets of a flow have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    pub v6: bool,
    pub tcp: bool,
    pub port: u16,
    pub ttl: u8,
    pub tos: u8,
    pub label: u32,
    pub dont_fragment: bool,
    /// A whole number of words.
    pub options: Vec<u8>,
    pub ack: u32,
    pub window: u16,
}

/// The sum of RFC 1071 section 1, word by word.
pub fn sum(bytes: &[u8]) -> u32 {
    let mut total = 0;
    for pair in bytes.chunks(2) {
        total += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        total = (total & 0xffff) + (total >> 16);
    }
    total
}

impl Flow {
    pub fn tcp(v6: bool) -> Self {
        let (ttl, options) = (64, vec![1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9]);
        let (port, tos, label, dont_fragment) = (443, 0, 0x12345, true);
        Self { v6, tcp: true, port, ttl, tos, label, dont_fragment, options, ack: 0x0102_0304, window: 501 }
    }

    pub fn udp(v6: bool) -> Self {
        Self { tcp: false, options: Vec::new(), ..Self::tcp(v6) }
    }

    /// Bytes before the payload.
    pub fn headers(&self) -> usize {
        self.l4() + if self.tcp { 20 + self.options.len() } else { 8 }
    }

    pub fn l4(&self) -> usize {
        if self.v6 { 40 } else { 20 }
    }

    fn built(&self, id: u16, sequence: u32, flags: u8, payload: &[u8], partial: bool) -> Vec<u8> {
        let mut l4 = Vec::new();
        l4.extend(40_000_u16.to_be_bytes());
        l4.extend(self.port.to_be_bytes());
        if self.tcp {
            l4.extend(sequence.to_be_bytes());
            l4.extend(self.ack.to_be_bytes());
            l4.extend([(5 + self.options.len() as u8 / 4) << 4, flags]);
            l4.extend(self.window.to_be_bytes());
            l4.extend([0; 4]);
            l4.extend(&self.options);
        } else {
            l4.extend((8 + payload.len() as u16).to_be_bytes());
            l4.extend([0; 2]);
        }
        l4.extend(payload);
        let protocol = if self.tcp { 6 } else { 17 };
        let (mut source, mut destination) = (vec![10, 64, 0, 7], vec![10, 0, 0, 9]);
        if self.v6 {
            source = [0xfd, 0, 0x8f, 0x80, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x34].to_vec();
            destination = [0xfd, 0, 0x8f, 0x80, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9].to_vec();
        }
        let pseudo = sum(&[&source[..], &destination].concat()) + protocol + l4.len() as u32;
        let at = if self.tcp { 16 } else { 6 };
        let mut value = sum(&(pseudo + if partial { 0 } else { sum(&l4) }).to_be_bytes()) as u16;
        if !partial {
            value = !value;
            if value == 0 && !self.tcp {
                value = 0xffff;
            }
        }
        l4[at..at + 2].copy_from_slice(&value.to_be_bytes());
        let mut packet = Vec::new();
        if self.v6 {
            packet.extend((6 << 28 | u32::from(self.tos) << 20 | self.label).to_be_bytes());
            packet.extend((l4.len() as u16).to_be_bytes());
            packet.extend([protocol as u8, self.ttl]);
        } else {
            packet.extend([0x45, self.tos]);
            packet.extend((20 + l4.len() as u16).to_be_bytes());
            packet.extend(id.to_be_bytes());
            packet.extend([if self.dont_fragment { 0x40 } else { 0 }, 0, self.ttl, protocol as u8, 0, 0]);
        }
        packet.extend(&source);
        packet.extend(&destination);
        if !self.v6 {
            let checksum = !(sum(&packet) as u16);
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        packet.extend(&l4);
        packet
    }

    /// A whole packet.
    pub fn packet(&self, id: u16, sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        self.built(id, sequence, flags, payload, false)
    }

    /// A super-packet of segments of `size` bytes; with 0 a packet whose checksum is still to be completed.
    pub fn unit(&self, id: u16, sequence: u32, flags: u8, payload: &[u8], size: u16) -> (Vnet, Vec<u8>) {
        let gso_type = match (self.tcp, self.v6) {
            _ if size == 0 => Vnet::NONE,
            (true, true) => Vnet::TCPV6,
            (true, false) => Vnet::TCPV4,
            (false, _) => Vnet::UDP_L4,
        };
        let vnet = Vnet {
            flags: Vnet::NEEDS_CSUM,
            gso_type,
            hdr_len: if size == 0 { 0 } else { self.headers() as u16 },
            gso_size: size,
            csum_start: self.l4() as u16,
            csum_offset: if self.tcp { 16 } else { 6 },
        };
        (vnet, self.built(id, sequence, flags, payload, true))
    }

    /// The packets of [`unit`](Self::unit), each built by itself.
    pub fn packets(&self, id: u16, sequence: u32, flags: u8, payload: &[u8], size: usize) -> Vec<Vec<u8>> {
        let count = payload.len().div_ceil(size);
        let one = |(index, chunk): (usize, &[u8])| {
            let mut flags = flags;
            if index > 0 {
                flags &= !CWR;
            }
            if index + 1 < count {
                flags &= !(FIN | PSH);
            }
            let sequence = sequence.wrapping_add((index * size) as u32);
            self.packet(id.wrapping_add(index as u16), sequence, flags, chunk)
        };
        payload.chunks(size).enumerate().map(one).collect()
    }
}

/// Any flow.
pub fn flow() -> impl Strategy<Value = Flow> {
    let options = prop_oneof![Just(0), Just(3), 0_usize..=10]
        .prop_flat_map(|words| prop::collection::vec(any::<u8>(), words * 4));
    (any::<[bool; 3]>(), any::<[u8; 2]>(), 0_u32..1 << 20, options, any::<u32>(), any::<[u16; 2]>()).prop_map(
        |([v6, tcp, dont_fragment], [ttl, tos], label, options, ack, [port, window])| {
            let options = if tcp { options } else { Vec::new() };
            Flow { v6, tcp, port, ttl, tos, label, dont_fragment, options, ack, window }
        },
    )
}

/// Bytes that are not all the same, without the cost of drawing each.
pub fn payload(seed: u8, length: usize) -> Vec<u8> {
    let mut state = u32::from(seed).wrapping_mul(0x9e37_79b9) | 1;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(length)
    .collect()
}
