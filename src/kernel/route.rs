//! Routes: those of our table, and our multicast routes of table local.

use super::unless;
use crate::plan::{Family, Route, Scope, Target};
use futures_util::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use nix::errno::Errno;
use rtnetlink::Handle;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RoutePreference, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use std::io;
use std::net::IpAddr;

pub(super) async fn observe(
    netlink: &Handle,
    scope: &Scope,
    index: Option<u32>,
) -> Result<Vec<Route>, rtnetlink::Error> {
    let mut ours = Vec::new();
    for (family, table) in [(Family::V6, scope.table), (Family::V4, scope.table), (Family::V6, Route::LOCAL)] {
        let mut filter = RouteMessage::default();
        filter.header.address_family = address_family(family);
        filter.attributes.push(RouteAttribute::Table(table));
        // A table that does not exist yet is an empty dump.
        let mut dump = std::pin::pin!(netlink.route().get(filter).execute());
        while let Some(message) = dump.try_next().await? {
            ours.extend(parse(&message, family, &scope.dev, index).filter(|route| scope.owns_route(route)));
        }
    }
    Ok(ours)
}

pub(super) async fn apply(netlink: &Handle, route: &Route) -> io::Result<()> {
    let mut message = message(route)?;
    message.header.scope = match (&route.target, Family::of(&route.prefix)) {
        (Target::Dev(_), Family::V4) => RouteScope::Link,
        _ => RouteScope::Universe,
    };
    unless(append(netlink.clone(), message).await, Errno::EEXIST)
}

/// Adds a route beside any other with the same prefix and metric: that of a device which is just being replaced, say, goes only
/// when this one is there. One that is the same in all is EEXIST.
async fn append(mut netlink: Handle, message: RouteMessage) -> Result<(), rtnetlink::Error> {
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewRoute(message));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND;
    let mut answers = netlink.request(request)?;
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::Error(error) = answer.payload {
            return Err(rtnetlink::Error::NetlinkError(error));
        }
    }
    Ok(())
}

pub(super) async fn clear(netlink: &Handle, route: &Route) -> io::Result<()> {
    let message = match message(route) {
        // Its device is gone, and the route with it.
        Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => return Ok(()),
        message => message?,
    };
    unless(netlink.route().del(message).execute().await, Errno::ESRCH)
}

fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

/// The message that adds, and with the scope that means "any", deletes a route.
fn message(route: &Route) -> io::Result<RouteMessage> {
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(Family::of(&route.prefix));
    message.header.destination_prefix_length = route.prefix.prefix_len();
    message.header.scope = RouteScope::NoWhere;
    if route.by_kernel {
        message.header.protocol = RouteProtocol::Kernel;
    }
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Table(route.table));
    if route.prefix.prefix_len() > 0 {
        attributes.push(RouteAttribute::Destination(route.prefix.network().into()));
    }
    if route.metric > 0 {
        attributes.push(RouteAttribute::Priority(route.metric));
    }
    if route.pref_high {
        attributes.push(RouteAttribute::Preference(RoutePreference::High));
    }
    message.header.kind = match &route.target {
        Target::Dev(dev) => {
            attributes.push(RouteAttribute::Oif(super::link::index(dev)?));
            RouteType::Unicast
        }
        Target::Unreachable => RouteType::Unreachable,
        Target::Foreign => RouteType::Unspec,
    };
    Ok(message)
}

fn parse(message: &RouteMessage, family: Family, dev: &str, index: Option<u32>) -> Option<Route> {
    let header = &message.header;
    let (mut table, mut metric, mut to, mut out, mut pref_high) = (header.table.into(), 0, None, None, false);
    let mut direct = true;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(value) => table = *value,
            RouteAttribute::Priority(value) => metric = *value,
            RouteAttribute::Destination(RouteAddress::Inet(value)) => to = Some(IpAddr::V4(*value)),
            RouteAttribute::Destination(RouteAddress::Inet6(value)) => to = Some(IpAddr::V6(*value)),
            RouteAttribute::Oif(value) => out = Some(*value),
            RouteAttribute::Preference(value) => pref_high = *value == RoutePreference::High,
            RouteAttribute::Gateway(_)
            | RouteAttribute::Via(_)
            | RouteAttribute::MultiPath(_)
            | RouteAttribute::Encap(_) => {
                direct = false;
            }
            _ => {}
        }
    }
    let prefix = match to {
        Some(address) => IpNet::new(address, header.destination_prefix_length).ok()?,
        None => family.everything(),
    };
    let target = match header.kind {
        RouteType::Unicast if direct && out.is_some() && out == index => Target::Dev(dev.to_owned()),
        RouteType::Unreachable => Target::Unreachable,
        _ => Target::Foreign,
    };
    let by_kernel = header.protocol == RouteProtocol::Kernel;
    Some(Route { table, prefix, target, metric, pref_high, by_kernel })
}
