//! Which addresses of a network may be a client's. Pure, but for the randomness of new ones.

use crate::identity::unusable;
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;
use ipnet::Ipv6Net;
use std::net::Ipv6Addr;

/// Interface identifiers that no host has (RFC 5453, and IANA's registry of them): the subnet-router anycast address, the
/// block of Proxy Mobile IPv6 and of IANA's own identifiers, and the subnet anycast addresses (RFC 2526).
const RESERVED: [(u64, u64); 3] =
    [(0, 0), (0x0200_5eff_fe00_0000, 0x0200_5eff_feff_ffff), (0xfdff_ffff_ffff_ff80, 0xfdff_ffff_ffff_ffff)];

/// Why nobody can have this address; none: somebody can.
pub fn refused(address: Ipv6Addr) -> Option<&'static str> {
    let [.., a, b, c, d, e, f, g, h] = address.octets();
    let identifier = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
    let reserved = RESERVED.iter().any(|(first, last)| (first..=last).contains(&&identifier));
    unusable(address).or(reserved.then_some("it is reserved for anycast (RFC 5453)"))
}

/// A random address of the network, a /64, that somebody can have.
///
/// # Errors
/// There is no randomness.
pub fn random(network: Ipv6Net) -> Result<Ipv6Addr, Unspecified> {
    loop {
        let mut identifier = [0; 8];
        rand::fill(&mut identifier)?;
        let address = Ipv6Addr::from(u128::from(network.network()) | u128::from(u64::from_be_bytes(identifier)));
        if refused(address).is_none() {
            return Ok(address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_gets_what_is_reserved() {
        for (text, free) in [
            ("fd00:8f80:1::", false),
            ("fd00:8f80:1::1", true),
            ("fd00:8f80:1:0:200:5eff:fdff:ffff", true),
            ("fd00:8f80:1:0:200:5eff:fe00:0", false),
            ("fd00:8f80:1:0:200:5eff:fe00:5213", false),
            ("fd00:8f80:1:0:200:5eff:feff:ffff", false),
            ("fd00:8f80:1:0:200:5eff:ff00:0", true),
            ("fd00:8f80:1:0:fdff:ffff:ffff:ff7f", true),
            ("fd00:8f80:1:0:fdff:ffff:ffff:ff80", false),
            ("fd00:8f80:1:0:fdff:ffff:ffff:ffff", false),
            ("fd00:8f80:1:0:fe00::", true),
            ("fe80::1234", false),
        ] {
            assert_eq!(refused(text.parse().unwrap()).is_none(), free, "{text}");
        }
    }

    #[test]
    fn a_random_address_is_of_its_network_and_another_each_time() {
        let network: Ipv6Net = "fd00:8f80:1:2::/64".parse().unwrap();
        let all: std::collections::HashSet<_> = (0..1000).map(|_| random(network).unwrap()).collect();
        assert_eq!(all.len(), 1000);
        assert!(all.iter().all(|address| network.contains(address) && refused(*address).is_none()));
    }
}
