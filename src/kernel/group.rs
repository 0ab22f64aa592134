//! The group that each link of the host is in. Links are told by their index: it stays when the name changes, and goes with
//! the link.

use super::unless;
use futures_util::TryStreamExt;
use nix::errno::Errno;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::{Handle, LinkUnspec};
use std::io;

/// The group of a link that nobody put into another.
pub(super) const DEFAULT: u32 = 0;

/// A link of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub index: u32,
    pub name: String,
    pub group: u32,
}

/// Every link with its group.
pub(super) async fn observe(netlink: &Handle) -> Result<Vec<Found>, rtnetlink::Error> {
    let mut found = Vec::new();
    let mut dump = std::pin::pin!(netlink.link().get().execute());
    while let Some(message) = dump.try_next().await? {
        let (mut name, mut group) = (String::new(), DEFAULT);
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(value) => name = value,
                LinkAttribute::Group(value) => group = value,
                _ => {}
            }
        }
        found.push(Found { index: message.header.index, name, group });
    }
    Ok(found)
}

/// Puts a link into a group. One that is gone by now is fine.
pub(super) async fn apply(netlink: &Handle, index: u32, group: u32) -> io::Result<()> {
    let message = LinkUnspec::new_with_index(index).append_extra_attribute(LinkAttribute::Group(group)).build();
    unless(netlink.link().set(message).execute().await, Errno::ENODEV)
}
