//! Addresses on the TUN device: all of them are ours.

use super::unless;
use crate::plan::Address;
use futures_util::TryStreamExt;
use ipnet::IpNet;
use nix::errno::Errno;
use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// How often, and how far apart, the kernel is asked whether an address is in use.
const PATIENCE: u32 = 500;
const PAUSE: Duration = Duration::from_millis(2);

pub(super) async fn observe(netlink: &Handle, index: u32, dev: &str) -> Result<Vec<Address>, rtnetlink::Error> {
    let mut request = netlink.address().get();
    request.message_mut().header.index = index;
    let found: Vec<AddressMessage> = request.execute().try_collect().await?;
    Ok(found.iter().filter(|message| message.header.index == index).filter_map(|message| parse(message, dev)).collect())
}

pub(super) async fn apply(netlink: &Handle, address: &Address) -> io::Result<()> {
    let index = super::link::index(&address.dev)?;
    let mut request = netlink.address().add(index, address.net.addr(), address.net.prefix_len());
    let mut flags = AddressFlags::Nodad;
    if address.no_prefix_route {
        flags |= AddressFlags::Noprefixroute;
    }
    request.message_mut().attributes.push(AddressAttribute::Flags(flags));
    unless(request.execute().await, Errno::EEXIST)?;
    if let IpAddr::V6(own) = address.net.addr() {
        in_use(netlink, own).await;
    }
    Ok(())
}

/// The kernel answers for a new IPv6 address only once work that it queued has made the local route: until then, packets to
/// it are dropped. Waits for that, but not for ever: somebody may have deleted the rule for table local.
async fn in_use(netlink: &Handle, own: Ipv6Addr) {
    for _ in 0..PATIENCE {
        let mut question = RouteMessage::default();
        question.header.address_family = AddressFamily::Inet6;
        question.header.destination_prefix_length = 128;
        question.attributes.push(RouteAttribute::Destination(own.into()));
        let answer = std::pin::pin!(netlink.route().get(question).execute()).try_next().await;
        if matches!(answer, Ok(Some(route)) if route.header.kind == RouteType::Local) {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

pub(super) async fn clear(netlink: &Handle, address: &Address) -> io::Result<()> {
    let index = match super::link::index(&address.dev) {
        // The device is gone, and its addresses with it.
        Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => return Ok(()),
        index => index?,
    };
    // The message that names an address to delete is the one that names it to add.
    let mut request = netlink.address().add(index, address.net.addr(), address.net.prefix_len());
    let message = std::mem::take(request.message_mut());
    unless(netlink.address().del(message).execute().await, Errno::EADDRNOTAVAIL)
}

fn parse(message: &AddressMessage, dev: &str) -> Option<Address> {
    let (mut own, mut no_prefix_route) = (None, false);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(value) => own = Some(*value),
            AddressAttribute::Address(value) => own = own.or(Some(*value)),
            AddressAttribute::Flags(flags) => no_prefix_route = flags.contains(AddressFlags::Noprefixroute),
            _ => {}
        }
    }
    let net = IpNet::new(own?, message.header.prefix_len).ok()?;
    Some(Address { net, dev: dev.to_owned(), no_prefix_route })
}
