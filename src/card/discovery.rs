//! Neighbour Discovery messages (RFC 4861): what the host behind may send, judged by the rules of sections 6.1.1, 7.1.1 and
//! 7.1.2, and the two that the card sends about addresses.

use super::ethernet::is_station;
use super::wire::{self, ALL_NODES, Peer, solicited_node};
use super::{LinkAddress, Reason};
use crate::tunnel::enf::packet::{ROUTER, icmpv6_checksum};
use std::net::Ipv6Addr;

/// ICMPv6 types.
pub const ROUTER_SOLICITATION: u8 = 133;
pub const ROUTER_ADVERTISEMENT: u8 = 134;
pub const NEIGHBOUR_SOLICITATION: u8 = 135;
pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
pub const REDIRECT: u8 = 137;

/// Option types.
pub const SOURCE_LINK_ADDRESS: u8 = 1;
pub const TARGET_LINK_ADDRESS: u8 = 2;

const FROM_ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// A message that is sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Somebody wants a router advertisement.
    RouterSolicitation,
    /// Somebody wants the link-layer address of `target`, or to know whether it is taken: then without a source address.
    NeighbourSolicitation {
        /// Of which address.
        target: Ipv6Addr,
        /// The asker's link-layer address.
        link: Option<LinkAddress>,
    },
    /// The link-layer address of `target`.
    NeighbourAdvertisement {
        /// Of which address.
        target: Ipv6Addr,
        /// Its link-layer address; none: that of the frame.
        link: Option<LinkAddress>,
    },
}

/// The header fields that the rules are about.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// Source address.
    pub source: Ipv6Addr,
    /// Destination address.
    pub destination: Ipv6Addr,
    /// Hop limit as it arrived.
    pub hop_limit: u8,
}

/// This ICMPv6 type belongs to Neighbour Discovery.
pub fn is_discovery(kind: u8) -> bool {
    (ROUTER_SOLICITATION..=REDIRECT).contains(&kind)
}

/// Reads a message of Neighbour Discovery.
pub fn parse(header: Header, message: &[u8]) -> Result<Message, Reason> {
    let Header { source, destination, hop_limit } = header;
    if hop_limit != 255 || icmpv6_checksum(source, destination, message) != 0 {
        return Err(Reason::Invalid);
    }
    let (&[kind, code, _, _, flags, _, _, _], body) = message.split_first_chunk::<8>().ok_or(Reason::Malformed)?;
    if code != 0 {
        return Err(Reason::Malformed);
    }
    match kind {
        ROUTER_SOLICITATION => {
            let options = Options::parse(body).ok_or(Reason::Malformed)?;
            let contradiction = source.is_unspecified() && options.source.is_some();
            if contradiction { Err(Reason::Malformed) } else { Ok(Message::RouterSolicitation) }
        }
        NEIGHBOUR_SOLICITATION => {
            let (target, options) = target_and_options(body)?;
            let probe = source.is_unspecified();
            if probe && (options.source.is_some() || destination != solicited_node(target)) {
                return Err(Reason::Malformed);
            }
            Ok(Message::NeighbourSolicitation { target, link: options.source })
        }
        NEIGHBOUR_ADVERTISEMENT => {
            let (target, options) = target_and_options(body)?;
            if destination.is_multicast() && flags & SOLICITED != 0 {
                return Err(Reason::Malformed);
            }
            Ok(Message::NeighbourAdvertisement { target, link: options.target })
        }
        _ => Err(Reason::NotServed),
    }
}

fn target_and_options(body: &[u8]) -> Result<(Ipv6Addr, Options), Reason> {
    let (target, rest) = body.split_first_chunk::<16>().ok_or(Reason::Malformed)?;
    let target = Ipv6Addr::from(*target);
    let options = Options::parse(rest).filter(|_| !target.is_multicast()).ok_or(Reason::Malformed)?;
    Ok((target, options))
}

#[derive(Default)]
struct Options {
    source: Option<LinkAddress>,
    target: Option<LinkAddress>,
}

impl Options {
    /// `None` when one has no length, or is longer than the rest (RFC 4861 section 4.6).
    fn parse(mut rest: &[u8]) -> Option<Self> {
        let mut options = Self::default();
        while let [kind, units, ..] = *rest {
            let (option, after) = rest.split_at_checked(usize::from(units) * 8).filter(|_| units > 0)?;
            rest = after;
            // Another length is another kind of link layer.
            let Ok(&[_, _, a, b, c, d, e, f]) = <&[u8; 8]>::try_from(option) else { continue };
            let link = Some([a, b, c, d, e, f]).filter(|link| is_station(*link));
            match kind {
                SOURCE_LINK_ADDRESS => options.source = options.source.or(link),
                TARGET_LINK_ADDRESS => options.target = options.target.or(link),
                _ => {}
            }
        }
        rest.is_empty().then_some(options)
    }
}

/// An option with a link-layer address (RFC 4861 section 4.6.1).
pub fn link_option(kind: u8, [a, b, c, d, e, f]: LinkAddress) -> [u8; 8] {
    [kind, 1, a, b, c, d, e, f]
}

/// "fe80::1 is here": to who asked, or to everybody when who asked has no address yet.
pub fn advertisement(link: LinkAddress, asked_by: Option<Peer>) -> Vec<u8> {
    let solicited = if asked_by.is_some() { SOLICITED } else { 0 };
    let mut body = vec![FROM_ROUTER | OVERRIDE | solicited, 0, 0, 0];
    body.extend_from_slice(&ROUTER.octets());
    body.extend_from_slice(&link_option(TARGET_LINK_ADDRESS, link));
    let to = asked_by.unwrap_or(Peer::group(ALL_NODES));
    wire::icmpv6(link, to, NEIGHBOUR_ADVERTISEMENT, 0, &body)
}

/// "Who has `target`?": to everybody, or to the station that had it, which then only needs to say that it is still there.
/// The option with our link-layer address must be there when everybody is asked (RFC 4861 section 4.3).
pub fn solicitation(link: LinkAddress, target: Ipv6Addr, last: Option<LinkAddress>) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend_from_slice(&target.octets());
    body.extend_from_slice(&link_option(SOURCE_LINK_ADDRESS, link));
    let to = match last {
        Some(last) => Peer { link: last, address: target },
        None => Peer::group(solicited_node(target)),
    };
    wire::icmpv6(link, to, NEIGHBOUR_SOLICITATION, 0, &body)
}
