//! What the host behind a router card hears from the card, and which of its packets go into the tunnel. Pure: whole Ethernet
//! frames and moments in, frames out. It opens no device, reads no clock, and draws no randomness but from a seed.
//!
//! ```text
//! host behind --frame--> Responder::frame --Packet--> the session
//!                                         --Taken---> there may be an answer: poll
//! the session --packet-> Responder::packet --frame--> host behind
//! clock ---------------> Responder::poll --frame----> host behind: advertisements, answers, questions, packets that waited
//! ```
//!
//! `docs/card.md` lists every message with the rules it follows.

mod advertise;
mod bucket;
mod dhcp6;
mod discovery;
mod duid;
mod ethernet;
mod neighbour;
mod responder;
#[cfg(test)]
mod testing;
mod wire;

pub use dhcp6::Lease;
pub use duid::{Duid, DuidWarning};
pub use responder::{Condition, Responder};

use crate::state::words;
use ipnet::Ipv6Net;
use std::net::Ipv6Addr;
use std::time::Duration;

/// A 48-bit link-layer address.
pub type LinkAddress = [u8; 6];

/// What the card is to the host behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The card's link-layer address on that link: source of its frames, target of its neighbour advertisements.
    pub lladdr: LinkAddress,
    /// Router advertisements and neighbour solicitations tell it in their source link-layer address option. Without, the
    /// host behind asks for it.
    pub announce_lladdr: bool,
    /// The address of the tunnel, which the host behind gets.
    pub own: Ipv6Addr,
    /// What belongs in the tunnel; `::/0` makes the card a default router.
    pub routes: Vec<Ipv6Net>,
    /// Bytes that the largest packet through the tunnel has.
    pub mtu: u16,
    /// Advertise the routes.
    pub router: bool,
    /// Serve DHCPv6.
    pub dhcp6: bool,
    /// Name servers for the host behind, by DHCPv6.
    pub dns: Vec<Ipv6Addr>,
    /// The longest time between two unsolicited router advertisements; less than 4 s counts as 4 s, more than 3000 s as
    /// 3000 s.
    pub ra_period: Duration,
    /// Who the DHCPv6 server is.
    pub duid: Duid,
    /// Where the delays are drawn from.
    pub seed: u64,
}

/// What a frame from the host behind was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// An IPv6 packet for the session, which judges it once more.
    Packet(&'a [u8]),
    /// It was for the card itself. There may be an answer: ask [`Responder::poll`].
    Taken,
    /// It goes nowhere. Only what is [too big](Reason::TooBig) may be answered.
    Drop(Reason),
}

/// What becomes of a packet for the host behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The frame is in the buffer.
    Frame,
    /// The host is asked for its link-layer address first, and the packet waits: ask [`Responder::poll`].
    Waits,
    /// It goes nowhere.
    Drop(Reason),
}

words! {
    /// Why a frame of the host behind, or a packet for it, went nowhere.
    Reason {
        /// Shorter than its lengths say, or with fields that contradict each other.
        Malformed => "malformed",
        /// The Ethernet destination is neither the card nor an IPv6 group, or it is the card's own frame come back.
        NotForUs => "not-for-us",
        /// Another protocol than IPv6: IPv4, ARP, a VLAN tag.
        NotIpv6 => "not-ipv6",
        /// The source is neither the own address nor of the link.
        SourceNotOwn => "source-not-own",
        /// Link-local scope never crosses.
        LinkLocal => "link-local",
        /// A message that only neighbours may send has passed a router, or carries a wrong checksum.
        Invalid => "invalid",
        /// The card does not do that, by its configuration or at all.
        NotServed => "not-served",
        /// More questions in a short time than are answered.
        TooMany => "too-many",
        /// Larger than the tunnel carries.
        TooBig => "too-big",
        /// A neighbour says that it has the card's address fe80::1.
        AddressTaken => "address-taken",
        /// The host behind does not answer for its address.
        Unreachable => "unreachable",
    }
}
