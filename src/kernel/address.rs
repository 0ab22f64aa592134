//! Addresses on the TUN device: all of them are ours.

use super::unless;
use crate::plan::Address;
use futures_util::TryStreamExt;
use ipnet::IpNet;
use nix::errno::Errno;
use rtnetlink::Handle;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use std::io;

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
    unless(request.execute().await, Errno::EEXIST)
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
