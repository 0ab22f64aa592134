//! How a client tells the router that two sessions are its own: the newer one names a secret that only the two ends of the
//! older one know, in an echo request to the router. Only who holds the older session can say it, and a router that does not
//! know of it answers, or does not; neither changes anything. `docs/router.md` says what the router makes of it.

use super::packet::{self, ICMPV6, Packet, ROUTER};
use crate::tunnel::Proof;
use rustls::Connection;
use std::net::Ipv6Addr;

/// Separates this secret from all others of the connection (RFC 5705, RFC 8446 section 7.5).
const LABEL: &[u8] = b"EXPERIMENTAL-enftun-succession";
/// Identifier and sequence number of the request.
const MARK: &[u8; 4] = b"ENFS";

/// What only the two ends of this connection know; none while its handshake is not complete.
pub fn proof(tls: &Connection) -> Option<Proof> {
    tls.export_keying_material(Proof::default(), LABEL, None).ok()
}

/// Says that the session of this proof belongs to the one that sends it.
pub fn claim(own: Ipv6Addr, proof: &Proof) -> Vec<u8> {
    packet::icmpv6_echo(own, ROUTER, 128, &[MARK, proof.as_slice()].concat())
}

/// The proof in a claim; `None` for every other packet.
pub fn claimed(bytes: &[u8]) -> Option<Proof> {
    let Packet::V6 { source, destination: ROUTER, next_header: ICMPV6, payload } = Packet::parse(bytes)? else {
        return None;
    };
    let ([128, 0, _, _], body) = payload.split_first_chunk::<4>()? else { return None };
    let (mark, proof) = body.split_first_chunk::<4>()?;
    let sound = mark == MARK && packet::icmpv6_checksum(source, ROUTER, payload) == 0;
    proof.try_into().ok().filter(|_| sound)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::enf::heartbeat;

    const OWN: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);

    #[test]
    fn a_claim_is_read_as_it_was_said_and_nothing_else_is_one() {
        let said = claim(OWN, &[7; 16]);
        assert_eq!(claimed(&said), Some([7; 16]));
        assert!(packet::echo_reply(&said, ROUTER).is_some(), "for others it is an echo request");
        for at in 0..said.len() {
            let mut bent = said.clone();
            bent[at] ^= 1;
            // The hop limit and the flow label do not count.
            assert_eq!(claimed(&bent).is_some(), [1, 2, 3, 7].contains(&at) || at == 0, "byte {at}");
            assert_eq!(claimed(&said[..at]), None);
        }
        assert_eq!(claimed(&heartbeat::request(OWN)), None);
        assert_eq!(claimed(&packet::icmpv6_echo(OWN, ROUTER, 128, b"ENFS")), None);
        assert_eq!(claimed(&packet::icmpv6_echo(OWN, ROUTER, 128, &[b"ENFS".as_slice(), &[7; 17]].concat())), None);
        assert_eq!(claimed(&packet::icmpv6_echo(OWN, OWN, 128, &[b"ENFS".as_slice(), &[7; 16]].concat())), None);
    }
}
