//! Which packets may cross, in each direction (spec section 1.3, and stricter where that let forged or local traffic
//! through). Pure: bytes in, verdict out. It knows addresses and prefixes, and nothing of devices or sessions.

use super::heartbeat::{self, Answer};
use super::packet::{self, Packet, ROUTER};
use crate::tunnel::DropReason;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};

/// The addresses and prefixes of one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    own: Ipv6Addr,
    own_v4: Option<Ipv4Addr>,
    prefixes_v6: Vec<Ipv6Net>,
    prefixes_v4: Vec<Ipv4Net>,
}

/// What to do with a packet that came out of the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ingress {
    /// It goes to the host.
    Deliver,
    /// It is the router's answer to our heartbeat, and goes nowhere.
    HeartbeatReply,
    /// It goes nowhere.
    Drop(DropReason),
}

impl Filter {
    /// A filter for a host with this address. `own_v4` is its only IPv4 address, if IPv4 may pass at all; multicast is
    /// taken when it lies within `prefixes`.
    pub fn new(own: Ipv6Addr, own_v4: Option<Ipv4Addr>, prefixes: &[IpNet]) -> Self {
        let mut filter = Self { own, own_v4, prefixes_v6: Vec::new(), prefixes_v4: Vec::new() };
        for prefix in prefixes {
            match prefix {
                IpNet::V6(prefix) => filter.prefixes_v6.push(*prefix),
                IpNet::V4(prefix) => filter.prefixes_v4.push(*prefix),
            }
        }
        filter
    }

    /// From the host into the tunnel: `Ok` lets it pass.
    pub fn egress(&self, bytes: &[u8]) -> Result<(), DropReason> {
        match Packet::parse(bytes).ok_or(DropReason::Malformed)? {
            Packet::V6 { source, destination, .. } => {
                if source != self.own {
                    return Err(DropReason::SourceNotOwn);
                }
                let local = destination.is_unicast_link_local() && destination != ROUTER;
                if local || packet::is_link_scope_multicast(destination) || destination.is_loopback() {
                    return Err(DropReason::LinkLocal);
                }
                Ok(())
            }
            Packet::V4 { source, destination } => {
                let own = self.own_v4.ok_or(DropReason::Ipv4NotAllowed)?;
                if source != own {
                    return Err(DropReason::Ipv4NotAllowed);
                }
                if is_local_v4(destination) { Err(DropReason::LinkLocal) } else { Ok(()) }
            }
        }
    }

    /// Out of the tunnel towards the host. `awaited`: a heartbeat reply is outstanding.
    pub fn ingress(&self, bytes: &[u8], awaited: bool) -> Ingress {
        match Packet::parse(bytes) {
            None => Ingress::Drop(DropReason::Malformed),
            Some(Packet::V6 { source, destination, .. }) => {
                match heartbeat::answer(bytes, self.own) {
                    Answer::Good if awaited => return Ingress::HeartbeatReply,
                    Answer::Good | Answer::Bad => return Ingress::Drop(DropReason::HeartbeatStray),
                    Answer::Not => {}
                }
                verdict(self.ingress_v6(source, destination))
            }
            Some(Packet::V4 { source, destination }) => verdict(self.ingress_v4(source, destination)),
        }
    }

    fn ingress_v6(&self, source: Ipv6Addr, destination: Ipv6Addr) -> Result<(), DropReason> {
        if source.is_unicast_link_local() && source != ROUTER {
            return Err(DropReason::LinkLocal);
        }
        if source == self.own || source.is_loopback() || source.is_multicast() || source.is_unspecified() {
            return Err(DropReason::SourceForged);
        }
        if destination == self.own {
            return Ok(());
        }
        if packet::is_link_scope_multicast(destination) || destination.is_unicast_link_local() {
            return Err(DropReason::LinkLocal);
        }
        let wanted = destination.is_multicast() && self.prefixes_v6.iter().any(|prefix| prefix.contains(&destination));
        if wanted { Ok(()) } else { Err(DropReason::DestinationNotOwn) }
    }

    fn ingress_v4(&self, source: Ipv4Addr, destination: Ipv4Addr) -> Result<(), DropReason> {
        let own = self.own_v4.ok_or(DropReason::Ipv4NotAllowed)?;
        if source == own || source.is_multicast() || source.is_unspecified() || is_local_v4(source) {
            return Err(DropReason::SourceForged);
        }
        if destination == own {
            return Ok(());
        }
        if is_local_v4(destination) {
            return Err(DropReason::LinkLocal);
        }
        let wanted = destination.is_multicast() && self.prefixes_v4.iter().any(|prefix| prefix.contains(&destination));
        if wanted { Ok(()) } else { Err(DropReason::Ipv4NotAllowed) }
    }
}

/// Loopback, link-local (169.254/16), the local network control block (224.0.0/24) and broadcast stay on their link.
fn is_local_v4(address: Ipv4Addr) -> bool {
    let control_block = address.octets().starts_with(&[224, 0, 0]);
    address.is_loopback() || address.is_link_local() || address.is_broadcast() || control_block
}

fn verdict(result: Result<(), DropReason>) -> Ingress {
    match result {
        Ok(()) => Ingress::Deliver,
        Err(reason) => Ingress::Drop(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OWN: &str = "fd00:8f80:1::1234";

    fn v6(source: &str, destination: &str) -> Vec<u8> {
        packet::icmpv6_echo(source.parse().unwrap(), destination.parse().unwrap(), 128, b"\0\x01\0\x02 data")
    }

    fn v4(source: &str, destination: &str) -> Vec<u8> {
        let mut bytes = vec![0x45, 0, 0, 24, 0, 0, 0, 0, 64, 17, 0, 0];
        bytes.extend(source.parse::<Ipv4Addr>().unwrap().octets());
        bytes.extend(destination.parse::<Ipv4Addr>().unwrap().octets());
        bytes.extend([0; 4]);
        bytes
    }

    fn filter(prefixes: &[&str]) -> Filter {
        let prefixes: Vec<IpNet> = prefixes.iter().map(|text| text.parse().unwrap()).collect();
        Filter::new(OWN.parse().unwrap(), None, &prefixes)
    }

    #[test]
    fn only_the_own_source_enters_and_link_local_scope_never_crosses() {
        let filter = filter(&["::/0"]);
        for (source, destination, expected) in [
            (OWN, "fd00:8f80:1::9", Ok(())),
            (OWN, "2001:db8::1", Ok(())),
            (OWN, "fe80::1", Ok(())),
            (OWN, "ff0e::5", Ok(())),
            (OWN, "fe80::2", Err(DropReason::LinkLocal)),
            (OWN, "ff02::fb", Err(DropReason::LinkLocal)),
            (OWN, "ff01::1", Err(DropReason::LinkLocal)),
            ("fd00:8f80:1::1235", "fd00::9", Err(DropReason::SourceNotOwn)),
            ("fe80::5", "ff02::2", Err(DropReason::SourceNotOwn)),
            ("::", "ff02::2", Err(DropReason::SourceNotOwn)),
        ] {
            assert_eq!(filter.egress(&v6(source, destination)), expected, "{source} -> {destination}");
        }
    }

    #[test]
    fn out_of_the_tunnel_comes_only_what_is_for_us_from_somebody_else() {
        let filter = filter(&["2001:db8::/32", "ff08::/16"]);
        for (source, destination, expected) in [
            ("fd00:8f80:1::9", OWN, Ingress::Deliver),
            ("fe80::1", OWN, Ingress::Deliver),
            ("fd00:8f80:1::9", "ff08::7", Ingress::Deliver),
            ("fd00:8f80:1::9", "ff0e::7", Ingress::Drop(DropReason::DestinationNotOwn)),
            ("fd00:8f80:1::9", "ff02::1", Ingress::Drop(DropReason::LinkLocal)),
            ("fd00:8f80:1::9", "2001:db8::1", Ingress::Drop(DropReason::DestinationNotOwn)),
            (OWN, OWN, Ingress::Drop(DropReason::SourceForged)),
            ("::1", OWN, Ingress::Drop(DropReason::SourceForged)),
            ("::", OWN, Ingress::Drop(DropReason::SourceForged)),
            ("ff0e::1", OWN, Ingress::Drop(DropReason::SourceForged)),
            ("fe80::2", OWN, Ingress::Drop(DropReason::LinkLocal)),
        ] {
            assert_eq!(filter.ingress(&v6(source, destination), false), expected, "{source} -> {destination}");
        }
    }

    #[test]
    fn multicast_of_the_default_prefix_is_delivered_but_not_its_link_local_scope() {
        let filter = filter(&["::/0"]);
        assert_eq!(filter.ingress(&v6("fd00::9", "ff0e::7"), false), Ingress::Deliver);
        assert_eq!(filter.ingress(&v6("fd00::9", "ff02::fb"), false), Ingress::Drop(DropReason::LinkLocal));
    }

    #[test]
    fn ipv4_passes_only_from_and_to_the_configured_address() {
        let closed = filter(&["::/0"]);
        assert_eq!(closed.egress(&v4("10.64.0.7", "10.0.0.1")), Err(DropReason::Ipv4NotAllowed));
        assert_eq!(closed.ingress(&v4("10.0.0.1", "10.64.0.7"), false), Ingress::Drop(DropReason::Ipv4NotAllowed));
        let prefixes = ["::/0".parse().unwrap(), "0.0.0.0/0".parse().unwrap()];
        let open = Filter::new(OWN.parse().unwrap(), Some(Ipv4Addr::new(10, 64, 0, 7)), &prefixes);
        assert_eq!(open.egress(&v4("10.64.0.7", "10.0.0.1")), Ok(()));
        assert_eq!(open.egress(&v4("10.64.0.8", "10.0.0.1")), Err(DropReason::Ipv4NotAllowed));
        assert_eq!(open.egress(&v4("10.64.0.7", "224.0.0.251")), Err(DropReason::LinkLocal));
        assert_eq!(open.ingress(&v4("10.0.0.1", "10.64.0.7"), false), Ingress::Deliver);
        assert_eq!(open.ingress(&v4("10.0.0.1", "239.1.2.3"), false), Ingress::Deliver);
        assert_eq!(open.ingress(&v4("10.0.0.1", "10.64.0.8"), false), Ingress::Drop(DropReason::Ipv4NotAllowed));
        assert_eq!(open.ingress(&v4("127.0.0.1", "10.64.0.7"), false), Ingress::Drop(DropReason::SourceForged));
        assert_eq!(open.ingress(&v4("10.64.0.7", "10.64.0.7"), false), Ingress::Drop(DropReason::SourceForged));
    }

    #[test]
    fn a_heartbeat_reply_counts_only_from_the_router_with_a_good_checksum_and_while_one_is_awaited() {
        let filter = filter(&["::/0"]);
        let own = OWN.parse().unwrap();
        let reply = packet::echo_reply(&heartbeat::request(own), ROUTER).unwrap();
        assert_eq!(filter.ingress(&reply, true), Ingress::HeartbeatReply);
        assert_eq!(filter.ingress(&reply, false), Ingress::Drop(DropReason::HeartbeatStray));
        let mut bent = reply.clone();
        bent[42] ^= 0x10;
        assert_eq!(filter.ingress(&bent, true), Ingress::Drop(DropReason::HeartbeatStray));
        // A reply with the same identifier from anybody else is an ordinary packet, and goes to whoever asked.
        let foreign = packet::icmpv6_echo("fd00::9".parse().unwrap(), own, 129, b"ENFT");
        assert_eq!(filter.ingress(&foreign, true), Ingress::Deliver);
        // The user's own ping of the router carries data, and is the user's.
        let ping = packet::icmpv6_echo(ROUTER, own, 129, b"\x01\x02\0\x01 payload of a ping");
        assert_eq!(filter.ingress(&ping, true), Ingress::Deliver);
    }

    #[test]
    fn what_is_not_one_whole_packet_is_malformed() {
        let filter = filter(&["::/0"]);
        let whole = v6("fd00::9", OWN);
        for bytes in [&[][..], &[0x60; 39], &whole[..whole.len() - 1], &[0x50; 60], &[0x45; 10]] {
            assert_eq!(filter.ingress(bytes, true), Ingress::Drop(DropReason::Malformed));
            assert_eq!(filter.egress(bytes), Err(DropReason::Malformed));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        #[test]
        fn whatever_passes_has_the_right_addresses(mut bytes in prop::collection::vec(any::<u8>(), 40..120), own_source in any::<bool>()) {
            let filter = filter(&["::/0"]);
            let own: Ipv6Addr = OWN.parse().unwrap();
            bytes[0] = 0x60;
            let length = (bytes.len() - 40) as u16;
            bytes[4..6].copy_from_slice(&length.to_be_bytes());
            if own_source { bytes[8..24].copy_from_slice(&own.octets()); } else { bytes[24..40].copy_from_slice(&own.octets()); }
            if filter.egress(&bytes).is_ok() { prop_assert_eq!(&bytes[8..24], &own.octets()[..]); }
            if filter.ingress(&bytes, false) == Ingress::Deliver {
                prop_assert_ne!(&bytes[8..24], &own.octets()[..]);
                prop_assert!(bytes[24..40] == own.octets() || bytes[24] == 0xff);
            }
        }
    }
}
