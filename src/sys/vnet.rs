//! `struct virtio_net_hdr` (linux/virtio_net.h, VIRTIO 1.2 section 5.1.6): what is still to be done to a packet. Pure.

/// The header before a packet of an offloaded queue, and before every packet of `enftun/2`. The default: nothing to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vnet {
    /// [`Vnet::NEEDS_CSUM`], or not. [`Vnet::DATA_VALID`] on what the kernel hands out.
    pub flags: u8,
    /// How to segment, one of the constants below.
    pub gso_type: u8,
    /// Length of the headers that every segment begins with. The kernel takes it as a hint.
    pub hdr_len: u16,
    /// Most payload bytes of one segment.
    pub gso_size: u16,
    /// Where the checksum begins to count, from the packet's first byte.
    pub csum_start: u16,
    /// Where its result goes, from there.
    pub csum_offset: u16,
}

impl Vnet {
    /// Bytes that it takes.
    pub const SIZE: usize = 10;
    /// The checksum field holds the sum of the pseudo-header; the rest is to be added.
    pub const NEEDS_CSUM: u8 = 1;
    /// The checksum is known to be good.
    pub const DATA_VALID: u8 = 2;
    /// One packet.
    pub const NONE: u8 = 0;
    /// TCP over IPv4.
    pub const TCPV4: u8 = 1;
    /// TCP over IPv6.
    pub const TCPV6: u8 = 4;
    /// UDP datagrams over either.
    pub const UDP_L4: u8 = 5;

    /// As it stands on the wire: little-endian.
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let ([h0, h1], [g0, g1]) = (self.hdr_len.to_le_bytes(), self.gso_size.to_le_bytes());
        let ([s0, s1], [o0, o1]) = (self.csum_start.to_le_bytes(), self.csum_offset.to_le_bytes());
        [self.flags, self.gso_type, h0, h1, g0, g1, s0, s1, o0, o1]
    }

    /// The reverse of [`to_bytes`](Self::to_bytes).
    pub fn from_bytes([flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1]: [u8; Self::SIZE]) -> Self {
        Self {
            flags,
            gso_type,
            hdr_len: u16::from_le_bytes([h0, h1]),
            gso_size: u16::from_le_bytes([g0, g1]),
            csum_start: u16::from_le_bytes([s0, s1]),
            csum_offset: u16::from_le_bytes([o0, o1]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_little_endian_and_comes_back_as_it_went() {
        let header = Vnet { flags: 1, gso_type: 4, hdr_len: 60, gso_size: 1220, csum_start: 40, csum_offset: 16 };
        assert_eq!(header.to_bytes(), [1, 4, 60, 0, 0xc4, 4, 40, 0, 16, 0]);
        assert_eq!(Vnet::from_bytes(header.to_bytes()), header);
    }
}
