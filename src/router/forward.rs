//! Where a packet from a client goes: one pure decision per packet. It knows addresses and settings, no session and no device.

use crate::tunnel::enf::packet::{self, Packet};
use crate::tunnel::enf::succession;
use crate::tunnel::{DropReason, Proof};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The settings that decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Clients may reach each other.
    pub between_clients: bool,
    /// Wide multicast goes to all sessions.
    pub multicast: bool,
    /// IPv4 of clients whose certificate names an address.
    pub allow_ipv4: bool,
    /// There is an uplink.
    pub uplink: bool,
}

/// Who sent it, by certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// The only IPv6 source it may use.
    pub address: Ipv6Addr,
    /// The only IPv4 source it may use.
    pub ipv4: Option<Ipv4Addr>,
    /// It is a client by its enrolment, as long as that stands.
    pub enrolled: bool,
}

/// What to do with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Answer the sender.
    Reply(Vec<u8>),
    /// It says that another session is the sender's own.
    Claim(Proof),
    /// The session with this address, or the uplink when there is none, or nowhere.
    Unicast(IpAddr),
    /// Copy it.
    Spread {
        /// To the uplink.
        uplink: bool,
        /// To all other sessions.
        sessions: bool,
    },
    /// It ends here.
    Drop(DropReason),
}

/// Where a packet from this client goes.
pub fn from_client(bytes: &[u8], client: &Client, rules: &Rules) -> Verdict {
    match Packet::parse(bytes) {
        None => Verdict::Drop(DropReason::Malformed),
        Some(Packet::V6 { source, .. }) if source != client.address => Verdict::Drop(DropReason::SourceForged),
        Some(Packet::V6 { destination: packet::ROUTER, .. }) => {
            match (succession::claimed(bytes), packet::echo_reply(bytes, packet::ROUTER)) {
                (Some(proof), _) => Verdict::Claim(proof),
                (None, Some(reply)) => Verdict::Reply(reply),
                (None, None) => Verdict::Drop(DropReason::LinkLocal),
            }
        }
        Some(Packet::V6 { destination, .. }) if destination.is_multicast() => {
            if packet::is_link_scope_multicast(destination) {
                Verdict::Drop(DropReason::LinkLocal)
            } else if rules.uplink || rules.multicast {
                Verdict::Spread { uplink: rules.uplink, sessions: rules.multicast }
            } else {
                Verdict::Drop(DropReason::NoRoute)
            }
        }
        Some(Packet::V6 { destination, .. }) => match stays_on_link(destination) {
            Some(reason) => Verdict::Drop(reason),
            None => Verdict::Unicast(destination.into()),
        },
        Some(Packet::V4 { source, destination }) => {
            if !rules.allow_ipv4 || client.ipv4 != Some(source) {
                Verdict::Drop(DropReason::Ipv4NotAllowed)
            } else if is_local_v4(destination) {
                Verdict::Drop(DropReason::LinkLocal)
            } else {
                Verdict::Unicast(destination.into())
            }
        }
    }
}

/// The session that a packet from the uplink is for.
pub fn from_uplink(bytes: &[u8], rules: &Rules) -> Result<IpAddr, DropReason> {
    match Packet::parse(bytes) {
        None => Err(DropReason::Malformed),
        // Nobody but the router itself speaks on the link with a client.
        Some(Packet::V6 { source, .. }) if source.is_unicast_link_local() => Err(DropReason::LinkLocal),
        Some(Packet::V6 { destination, .. }) if destination.is_multicast() => {
            let narrow = packet::is_link_scope_multicast(destination);
            Err(if narrow { DropReason::LinkLocal } else { DropReason::NoRoute })
        }
        Some(Packet::V6 { destination, .. }) => match stays_on_link(destination) {
            Some(reason) => Err(reason),
            None => Ok(destination.into()),
        },
        Some(Packet::V4 { .. }) if !rules.allow_ipv4 => Err(DropReason::Ipv4NotAllowed),
        Some(Packet::V4 { destination, .. }) if is_local_v4(destination) => Err(DropReason::LinkLocal),
        Some(Packet::V4 { destination, .. }) => Ok(destination.into()),
    }
}

/// Why a unicast address is not forwarded to, if so.
fn stays_on_link(destination: Ipv6Addr) -> Option<DropReason> {
    if destination.is_unicast_link_local() {
        Some(DropReason::LinkLocal)
    } else if destination.is_unspecified() || destination.is_loopback() {
        Some(DropReason::NoRoute)
    } else {
        None
    }
}

/// IPv4 crosses only from one host to another.
fn is_local_v4(destination: Ipv4Addr) -> bool {
    destination.is_multicast()
        || destination.is_broadcast()
        || destination.is_link_local()
        || destination.is_loopback()
        || destination.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
    const OWN4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const CLIENT: Client = Client { address: OWN, ipv4: Some(OWN4), enrolled: false };
    const ALL: Rules = Rules { between_clients: true, multicast: true, allow_ipv4: true, uplink: true };
    const NONE: Rules = Rules { between_clients: false, multicast: false, allow_ipv4: false, uplink: false };

    fn v6(source: &str, destination: &str) -> Vec<u8> {
        packet::icmpv6_echo(source.parse().unwrap(), destination.parse().unwrap(), 128, b"\0\0\0\0")
    }

    fn v4(source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0];
        packet.extend_from_slice(&source);
        packet.extend_from_slice(&destination);
        packet
    }

    #[test]
    fn each_kind_of_destination_has_its_way() {
        let to = |text: &str| Verdict::Unicast(text.parse().unwrap());
        let drop = Verdict::Drop;
        let spread = |uplink, sessions| Verdict::Spread { uplink, sessions };
        for (destination, with_all, with_none) in [
            ("fd00::2", to("fd00::2"), to("fd00::2")),
            ("2001:db8::1", to("2001:db8::1"), to("2001:db8::1")),
            ("fe80::2", drop(DropReason::LinkLocal), drop(DropReason::LinkLocal)),
            ("::1", drop(DropReason::NoRoute), drop(DropReason::NoRoute)),
            ("::", drop(DropReason::NoRoute), drop(DropReason::NoRoute)),
            ("ff01::1", drop(DropReason::LinkLocal), drop(DropReason::LinkLocal)),
            ("ff02::fb", drop(DropReason::LinkLocal), drop(DropReason::LinkLocal)),
            ("ff05::2", spread(true, true), drop(DropReason::NoRoute)),
            ("ff0e::1", spread(true, true), drop(DropReason::NoRoute)),
        ] {
            let packet = v6("fd00::1", destination);
            assert_eq!(from_client(&packet, &CLIENT, &ALL), with_all, "{destination}");
            assert_eq!(from_client(&packet, &CLIENT, &NONE), with_none, "{destination}");
        }
        assert_eq!(
            from_client(&v6("fd00::1", "ff0e::1"), &CLIENT, &Rules { multicast: false, ..ALL }),
            spread(true, false),
            "to the uplink always"
        );
    }

    #[test]
    fn a_source_that_is_not_in_the_certificate_goes_nowhere() {
        for destination in ["fd00::2", "fe80::1", "ff02::1", "ff0e::1"] {
            for source in ["fd00::3", "fe80::7", "::"] {
                assert_eq!(
                    from_client(&v6(source, destination), &CLIENT, &ALL),
                    Verdict::Drop(DropReason::SourceForged),
                    "{source} to {destination}"
                );
            }
        }
    }

    #[test]
    fn the_router_answers_echo_requests_and_nothing_else() {
        assert!(matches!(from_client(&v6("fd00::1", "fe80::1"), &CLIENT, &NONE), Verdict::Reply(_)));
        assert_eq!(from_client(&succession::claim(OWN, &[7; 16]), &CLIENT, &NONE), Verdict::Claim([7; 16]));
        let other = succession::claim("fd00::3".parse().unwrap(), &[7; 16]);
        assert_eq!(from_client(&other, &CLIENT, &NONE), Verdict::Drop(DropReason::SourceForged));
        let reply = packet::icmpv6_echo(OWN, packet::ROUTER, 129, b"\0\0\0\0");
        assert_eq!(from_client(&reply, &CLIENT, &ALL), Verdict::Drop(DropReason::LinkLocal));
    }

    #[test]
    fn ipv4_needs_permission_and_the_own_address() {
        let refused = Verdict::Drop(DropReason::Ipv4NotAllowed);
        let packet = v4(OWN4.octets(), [10, 0, 0, 2]);
        assert_eq!(from_client(&packet, &CLIENT, &ALL), Verdict::Unicast(Ipv4Addr::new(10, 0, 0, 2).into()));
        assert_eq!(from_client(&packet, &CLIENT, &NONE), refused);
        assert_eq!(from_client(&packet, &Client { ipv4: None, ..CLIENT }, &ALL), refused);
        assert_eq!(from_client(&v4([10, 0, 0, 9], [10, 0, 0, 2]), &CLIENT, &ALL), refused);
        for local in [[224, 0, 0, 1], [239, 1, 1, 1], [255, 255, 255, 255], [169, 254, 0, 1], [127, 0, 0, 1]] {
            let verdict = from_client(&v4(OWN4.octets(), local), &CLIENT, &ALL);
            assert_eq!(verdict, Verdict::Drop(DropReason::LinkLocal), "{local:?}");
        }
    }

    #[test]
    fn the_uplink_reaches_one_address_and_no_group() {
        let to = |source, destination| from_uplink(&v6(source, destination), &ALL);
        assert_eq!(to("2001:db8::1", "fd00::1"), Ok(OWN.into()));
        assert_eq!(to("fe80::1", "fd00::1"), Err(DropReason::LinkLocal));
        assert_eq!(to("2001:db8::1", "fe80::1"), Err(DropReason::LinkLocal));
        assert_eq!(to("2001:db8::1", "ff02::1"), Err(DropReason::LinkLocal));
        assert_eq!(to("2001:db8::1", "ff0e::1"), Err(DropReason::NoRoute));
        assert_eq!(from_uplink(&v4([8, 8, 8, 8], OWN4.octets()), &NONE), Err(DropReason::Ipv4NotAllowed));
        assert_eq!(from_uplink(&v4([8, 8, 8, 8], OWN4.octets()), &ALL), Ok(OWN4.into()));
        assert_eq!(from_uplink(b"\x60", &ALL), Err(DropReason::Malformed));
    }
}
