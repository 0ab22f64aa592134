//! Signs of life: the heartbeat packet of the ENF wire (spec section 1.4), and what answers it. When one is due is decided by
//! `liveness`.

use super::packet::{self, ICMPV6, Packet, ROUTER};
use std::net::Ipv6Addr;

/// Identifier and sequence number of every heartbeat, as they stand on the wire.
const MARK: &[u8; 4] = b"ENFT";

/// The heartbeat of a host with this address: an ICMPv6 echo request to `fe80::1` without data.
pub fn request(own: Ipv6Addr) -> Vec<u8> {
    packet::icmpv6_echo(own, ROUTER, 128, MARK)
}

/// Whether a packet is the router's answer to a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is.
    Good,
    /// It claims to be, and its checksum is wrong.
    Bad,
    /// It is something else.
    Not,
}

/// Judges a packet for the host with address `own`.
pub fn answer(bytes: &[u8], own: Ipv6Addr) -> Answer {
    let Some(Packet::V6 { source: ROUTER, destination, next_header: ICMPV6, payload }) = Packet::parse(bytes) else {
        return Answer::Not;
    };
    let Some(([129, 0, _, _], body)) = payload.split_first_chunk::<4>() else { return Answer::Not };
    if destination != own || body != MARK {
        return Answer::Not;
    }
    if packet::icmpv6_checksum(ROUTER, own, payload) == 0 { Answer::Good } else { Answer::Bad }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heartbeat_frame_is_the_one_of_the_c_client() {
        let mut frame = Vec::new();
        super::super::frame::put(&request("fd00:8f80:1::1234".parse().unwrap()), &mut frame);
        let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "00306000000000083afffd008f80000100000000000000001234fe800000000000000000000000000001800056e2454e4654"
        );
    }
}
