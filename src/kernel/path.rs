//! Which way our own packets to an address would go now: a question to the kernel's routing with our mark, and what the
//! interface of the answer says of its carrier. It changes nothing, and decides nothing.

use super::{Kernel, KernelError, plain};
use futures_util::TryStreamExt;
use nix::errno::Errno;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia};
use rtnetlink::packet_route::{AddressFamily, IpProtocol};
use std::io;
use std::net::IpAddr;

/// The way to one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// The address that the packets would come from.
    pub source: IpAddr,
    /// The interface that they would leave by.
    pub ifindex: u32,
    /// The next hop; none on the link itself.
    pub gateway: Option<IpAddr>,
    /// How often the interface's carrier came or went since it is there. It tells of a cable that was out, or of another
    /// access point, when all else is as before.
    pub carrier_changes: u32,
    /// The interface can carry packets.
    pub up: bool,
}

impl Path {
    /// A connection of that other path cannot go on by this one, or should not: it has another source address, or leaves by
    /// another interface.
    pub fn moved(&self, other: &Self) -> bool {
        (self.source, self.ifindex) != (other.source, other.ifindex)
    }

    /// Source and interface aside, something is another: whether a connection lives is to be found out.
    pub fn differs(&self, other: &Self) -> bool {
        (self.gateway, self.carrier_changes, self.up) != (other.gateway, other.carrier_changes, other.up)
    }
}

impl Kernel {
    /// The way that packets with this mark to this address would go now. None: there is none, or none yet. It is none yet,
    /// too, when the answer leads into a tunnel: for want of another source address the kernel takes one of `inside`, which
    /// are the addresses that hosts have in tunnels, or the way is by a TUN device of ours; and when a router of the
    /// link would have to forward what comes from a link-local address, which it never does.
    pub async fn path(&self, to: IpAddr, mark: u32, inside: &[IpAddr]) -> Result<Option<Path>, KernelError> {
        let failed = |source| KernelError::Observe { what: "the way to the router", source };
        let Some(answer) = self.ask_route(to, mark).await.map_err(failed)? else { return Ok(None) };
        let Some(way) = Way::of(&answer) else { return Ok(None) };
        let forwarded = way.gateway.is_some();
        let unforwardable = matches!(way.source, IpAddr::V6(source) if source.is_unicast_link_local());
        let by_tunnel = self.held.values().any(|held| held.index == way.ifindex);
        if by_tunnel || inside.contains(&way.source) || (forwarded && unforwardable) {
            return Ok(None);
        }
        let Some(link) = self.ask_link(way.ifindex).await.map_err(failed)? else { return Ok(None) };
        let carrier_changes = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::CarrierChanges(count) => Some(*count),
            _ => None,
        });
        Ok(Some(Path {
            source: way.source,
            ifindex: way.ifindex,
            gateway: way.gateway,
            carrier_changes: carrier_changes.unwrap_or(0),
            // What the kernel makes of the operational state (RFC 2863), of drivers that do not know theirs too.
            up: link.header.flags.contains(LinkFlags::Running),
        }))
    }

    /// The kernel's answer, if there is a way.
    async fn ask_route(&self, to: IpAddr, mark: u32) -> io::Result<Option<RouteMessage>> {
        let mut question = RouteMessage::default();
        (question.header.address_family, question.header.destination_prefix_length) = match to {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        question.attributes.push(RouteAttribute::Destination(to.into()));
        question.attributes.push(RouteAttribute::Mark(mark));
        // Rules may tell protocols apart.
        question.attributes.push(RouteAttribute::IpProto(IpProtocol::Tcp.into()));
        let answer = std::pin::pin!(self.netlink.route().get(question).execute()).try_next().await;
        match answer.map_err(plain) {
            Ok(answer) => Ok(answer),
            Err(error) if is_no_way(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn ask_link(&self, index: u32) -> io::Result<Option<LinkMessage>> {
        let answer = std::pin::pin!(self.netlink.link().get().match_index(index).execute()).try_next().await;
        match answer.map_err(plain) {
            // It went away between the two questions.
            Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => Ok(None),
            answer => answer,
        }
    }
}

/// No route, an unreachable one or such a rule, a prohibited one.
fn is_no_way(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES | Errno::ENETDOWN)
    )
}

/// What the kernel's routing answers.
struct Way {
    source: IpAddr,
    ifindex: u32,
    gateway: Option<IpAddr>,
}

impl Way {
    /// None for an answer that leads nowhere: an unreachable IPv6 route is an answer of that type, and without an address to
    /// send from there is none in the answer.
    fn of(answer: &RouteMessage) -> Option<Self> {
        if !matches!(answer.header.kind, RouteType::Unicast | RouteType::Local) {
            return None;
        }
        let (mut source, mut ifindex, mut gateway) = (None, None, None);
        for attribute in &answer.attributes {
            match attribute {
                RouteAttribute::PrefSource(address) => source = ip(address),
                RouteAttribute::Oif(index) => ifindex = Some(*index),
                RouteAttribute::Gateway(address) => gateway = ip(address),
                RouteAttribute::Via(RouteVia::Inet(address)) => gateway = Some((*address).into()),
                RouteAttribute::Via(RouteVia::Inet6(address)) => gateway = Some((*address).into()),
                _ => {}
            }
        }
        Some(Self { source: source.filter(|address| !address.is_unspecified())?, ifindex: ifindex?, gateway })
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> Path {
        Path {
            source: "192.0.2.1".parse().unwrap(),
            ifindex: 2,
            gateway: "192.0.2.254".parse().ok(),
            carrier_changes: 1,
            up: true,
        }
    }

    #[test]
    fn another_source_or_interface_is_another_way_and_all_else_is_a_doubt() {
        let before = path();
        assert!(!before.moved(&before) && !before.differs(&before));
        for moved in [Path { source: "192.0.2.3".parse().unwrap(), ..path() }, Path { ifindex: 3, ..path() }] {
            assert!(moved.moved(&before) && !moved.differs(&before), "{moved:?}");
        }
        let other = "192.0.2.253".parse().ok();
        for differing in [
            Path { gateway: None, ..path() },
            Path { gateway: other, ..path() },
            Path { carrier_changes: 3, ..path() },
            Path { up: false, ..path() },
        ] {
            assert!(!differing.moved(&before) && differing.differs(&before), "{differing:?}");
        }
    }
}
