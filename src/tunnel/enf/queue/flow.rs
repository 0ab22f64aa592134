//! Which packets belong together: those of the same addresses, protocol and ports. The hash is keyed, so that nobody can make
//! packets that share a flow with somebody else's.

/// Flows that are told apart, a power of two (RFC 8290 section 5.2.1 takes as many).
pub const BUCKETS: usize = 1024;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// The key of a queue's hash.
#[derive(Clone, Copy, Debug)]
pub struct Seed([u64; 3]);

impl Seed {
    /// A key of its own for each queue.
    pub fn random() -> Self {
        Self(std::array::from_fn(|_| fastrand::u64(..) | 1))
    }
}

/// The flow of a packet, below [`BUCKETS`]. What is no IP packet shares one.
pub fn bucket(packet: &[u8], seed: &Seed) -> u16 {
    let hash = match packet.first().map(|byte| byte >> 4) {
        Some(6) => v6(packet, seed),
        Some(4) => v4(packet, seed),
        _ => None,
    };
    // The high bits are the good ones of a product.
    (mix(hash.unwrap_or(0)) >> (u64::BITS - BUCKETS.ilog2())) as u16
}

fn v6(packet: &[u8], &Seed([first, second, last]): &Seed) -> Option<u64> {
    let (header, payload) = packet.split_first_chunk::<40>()?;
    let (_, addresses) = header.split_first_chunk::<8>()?;
    let ([a, b, c, d], []) = addresses.as_chunks::<8>() else { return None };
    let [a, b, c, d] = [a, b, c, d].map(|word| u64::from_ne_bytes(*word));
    let protocol = header[6];
    let rest = u64::from(protocol) << 32 | u64::from(ports(protocol, payload));
    Some(fold(fold(a ^ first, b ^ second) ^ fold(c ^ second, d ^ last) ^ rest, last ^ first))
}

fn v4(packet: &[u8], &Seed([first, second, last]): &Seed) -> Option<u64> {
    let header = packet.first_chunk::<20>()?;
    let addresses = u64::from_ne_bytes(*header.last_chunk::<8>()?);
    let protocol = header[9];
    // All fragments of a datagram go the same way, and only the first has ports.
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
    let payload = packet.get(usize::from(header[0] & 0x0f) * 4..).filter(|_| !fragment).unwrap_or_default();
    let rest = u64::from(protocol) << 32 | u64::from(ports(protocol, payload));
    Some(fold(fold(addresses ^ first, second) ^ rest, last ^ first))
}

/// Both ports as they stand; 0 for protocols without.
fn ports(protocol: u8, payload: &[u8]) -> u32 {
    match (protocol, payload.first_chunk()) {
        (TCP | UDP, Some(ports)) => u32::from_ne_bytes(*ports),
        _ => 0,
    }
}

/// Neighbours, such as the ports of one host, go far from each other, whatever the key (the end of MurmurHash3).
fn mix(hash: u64) -> u64 {
    let hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53)
}

/// Every bit of both in every bit of the result.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn packet_v6(source: [u8; 16], destination: [u8; 16], protocol: u8, ports: [u16; 2]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 8, protocol, 64];
        packet.extend_from_slice(&source);
        packet.extend_from_slice(&destination);
        ports.iter().for_each(|port| packet.extend_from_slice(&port.to_be_bytes()));
        packet.extend_from_slice(b"data");
        packet
    }

    fn packet_v4(protocol: u8, offset: u16, ports: [u16; 2]) -> Vec<u8> {
        let mut packet = vec![0x46, 0, 0, 32, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 1, 1, 1, 1];
        packet[6..8].copy_from_slice(&offset.to_be_bytes());
        ports.iter().for_each(|port| packet.extend_from_slice(&port.to_be_bytes()));
        packet.extend_from_slice(b"data");
        packet
    }

    /// In how many of 64 keys two packets are of one flow.
    fn together(a: &[u8], b: &[u8]) -> usize {
        (0..64).map(|_| Seed::random()).filter(|seed| bucket(a, seed) == bucket(b, seed)).count()
    }

    #[test]
    fn a_flow_is_what_has_the_same_addresses_protocol_and_ports() {
        let (a, b) = ([1; 16], [2; 16]);
        let base = packet_v6(a, b, TCP, [1, 2]);
        let mut longer = base.clone();
        longer[1] = 0x30;
        longer.extend_from_slice(&[7; 1000]);
        assert_eq!(together(&base, &longer), 64);
        for other in [
            packet_v6(a, b, TCP, [2, 1]),
            packet_v6(b, a, TCP, [1, 2]),
            packet_v6(a, b, UDP, [1, 2]),
            packet_v6(a, [3; 16], TCP, [1, 2]),
            packet_v6(a, b, 58, [1, 2]),
        ] {
            assert!(together(&base, &other) < 8);
        }
        assert_eq!(together(&packet_v6(a, b, 58, [1, 2]), &packet_v6(a, b, 58, [3, 4])), 64, "no ports in ICMPv6");
        assert!(together(&packet_v4(UDP, 0, [1, 2]), &packet_v4(UDP, 0, [1, 3])) < 8, "behind the options");
        for offset in [0x2000, 0x0010] {
            let (a, b) = (packet_v4(UDP, offset, [1, 2]), packet_v4(UDP, offset ^ 0x2010, [3, 4]));
            assert_eq!(together(&a, &b), 64, "fragments of one datagram stay together");
        }
    }

    #[test]
    fn flows_spread_evenly_whatever_the_key() {
        for _ in 0..50 {
            let seed = Seed::random();
            let mut seen = HashMap::<_, usize>::new();
            for port in 0..8 * BUCKETS as u16 {
                *seen.entry(bucket(&packet_v6([1; 16], [2; 16], TCP, [port, 443]), &seed)).or_default() += 1;
            }
            // Chance leaves about one bucket in 3000 empty, and gives none more than 25.
            assert!(seen.len() > BUCKETS * 98 / 100, "{}", seen.len());
            assert!(seen.values().all(|&count| count < 40), "{:?}", seen.values().max());
            assert!(seen.keys().all(|&bucket| usize::from(bucket) < BUCKETS));
        }
    }

    proptest! {
        #[test]
        fn anything_has_a_flow(packet in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert!(usize::from(bucket(&packet, &Seed::random())) < BUCKETS);
        }
    }
}
