//! The uplink: a TUN device into this host. It is made when the router starts and vanishes with it.

use super::quiet::{Quiet, and_more};
use super::{Hub, RouterError};
use crate::config;
use crate::sys::tun::Tun;
use crate::tunnel::Counters;
use crate::tunnel::enf::device;
use nix::errno::Errno;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute};
use rtnetlink::{Error, Handle, LinkUnspec};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Packets and super-packets read before others get their turn, and about how many bytes: an outbox holds more.
const BATCH: usize = 64;
const BATCH_BYTES: usize = 256 * 1024;

/// The device, and what passed it: received from the host, transmitted to it.
#[derive(Debug)]
pub struct Uplink {
    /// The device.
    pub tun: Tun,
    /// What passed it.
    pub counters: Counters,
}

impl Uplink {
    /// Makes the device with its addresses, and turns it on.
    pub async fn open(config: &config::RouterTun) -> Result<Self, RouterError> {
        let failed = |step| move |source| RouterError::Uplink { step, dev: config.dev.clone(), source };
        let tun = Tun::offloaded(&config.dev).map_err(failed("make the TUN device"))?;
        let (connection, netlink, _) = rtnetlink::new_connection().map_err(failed("open a netlink socket"))?;
        let connection = tokio::spawn(connection);
        set_up(&netlink, config).await.map_err(failed("set MTU and addresses"))?;
        connection.abort();
        tun.set_carrier(true).map_err(failed("turn on the carrier"))?;
        Ok(Self { tun, counters: Counters::default() })
    }
}

async fn set_up(netlink: &Handle, config: &config::RouterTun) -> io::Result<()> {
    let index = nix::net::if_::if_nametoindex(config.dev.as_str())?;
    // The router speaks for fe80::1 itself: the kernel shall have no link-local address here, and send no MLD.
    let quiet = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    let link = LinkUnspec::new_with_index(index).append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![quiet]));
    netlink.link().set(link.build()).execute().await.map_err(plain)?;
    let link = LinkUnspec::new_with_index(index).mtu(config.mtu.into()).up();
    netlink.link().set(link.build()).execute().await.map_err(plain)?;
    for address in &config.addresses {
        let mut request = netlink.address().add(index, address.addr(), address.prefix_len());
        request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        match request.execute().await.map_err(plain) {
            Err(error) if error.raw_os_error() == Some(Errno::EEXIST as i32) => {}
            outcome => outcome?,
        }
    }
    Ok(())
}

fn plain(error: Error) -> io::Error {
    match error {
        Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

/// Sends what this host has for clients on its way, for ever.
pub async fn pump(hub: Arc<Hub>) {
    let Some(uplink) = &hub.uplink else { return };
    let (name, lines) = (uplink.tun.name(), Quiet::default());
    loop {
        if let Err(error) = read(&hub, uplink).await {
            // Deleted by somebody, for one. Clients still reach each other.
            if let Some(more) = lines.allows() {
                log::error!(ENFTUN_LINK = name; "cannot read from the uplink {name}: {error}{}", and_more(more));
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        tokio::task::coop::consume_budget().await;
    }
}

async fn read(hub: &Hub, uplink: &Uplink) -> io::Result<()> {
    uplink.tun.readable().await?;
    let (now, mut bytes) = (hub.now(), 0);
    for _ in 0..BATCH {
        let received = device::receive(&uplink.tun, |unit| {
            bytes += unit.packet.len();
            hub.forward_from_host(unit, now, &uplink.counters);
        });
        match received {
            Ok(()) if bytes < BATCH_BYTES => {}
            Ok(()) => break,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
