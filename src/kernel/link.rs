//! The TUN device: persistent, owned by one user, without carrier while no session runs.

use super::{KernelError, plain, unless};
use crate::plan::{FoundLink, SYSCTLS};
use crate::sys::tun::{Layer, Tun};
use futures_util::TryStreamExt;
use nix::errno::Errno;
use rtnetlink::packet_core::Nla;
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoTun, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage,
};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec};
use std::io;
use std::time::Duration;

// linux/if_link.h and linux/if_tun.h.
const IFLA_TUN_OWNER: u16 = 1;
const IFLA_TUN_TYPE: u16 = 3;
const IFLA_TUN_PERSIST: u16 = 6;
const TYPE_TUN: u8 = 1;
const TYPE_TAP: u8 = 2;

/// How often, and how far apart, a device that is in other hands is tried again.
const PATIENCE: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);

/// The user who can own devices here: the wanted one, or the one we are where that one does not exist (a user namespace
/// without it: the kernel refuses such an owner).
pub(super) fn owner_here(wanted: u32) -> u32 {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    if map.is_empty() || maps(&map, wanted) {
        return wanted;
    }
    let ours = nix::unistd::geteuid().as_raw();
    log::warn!("uid {wanted} does not exist in this user namespace: TUN devices will belong to uid {ours}");
    ours
}

/// Whether a uid_map (first uid inside, first outside, how many) has this uid inside.
fn maps(map: &str, uid: u32) -> bool {
    map.lines().any(|line| {
        let mut fields = line.split_whitespace().map_while(|field| field.parse::<u32>().ok());
        match (fields.next(), fields.next(), fields.next()) {
            (Some(first), Some(_), Some(count)) => uid.checked_sub(first).is_some_and(|offset| offset < count),
            _ => false,
        }
    })
}

/// The index of a link by its name.
pub(super) fn index(dev: &str) -> io::Result<u32> {
    Ok(nix::net::if_::if_nametoindex(dev)?)
}

pub(super) async fn get(netlink: &Handle, dev: &str) -> Result<Option<LinkMessage>, rtnetlink::Error> {
    let mut answer = std::pin::pin!(netlink.link().get().match_name(dev).execute());
    match answer.try_next().await {
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code().abs() == Errno::ENODEV as i32 => Ok(None),
        answer => answer,
    }
}

/// The device, if a TUN device of this name is there. `held` is the index of the one that we are attached to.
pub(super) async fn observe(
    netlink: &Handle,
    dev: &str,
    owner: u32,
    held: Option<u32>,
) -> Result<Option<FoundLink>, rtnetlink::Error> {
    let Some(message) = get(netlink, dev).await? else { return Ok(None) };
    let Some(tun) = TunInfo::of(&message).filter(|tun| tun.layer == Layer::Ip) else { return Ok(None) };
    let index = message.header.index;
    let (mut mtu, mut carrier, mut no_link_local, mut sysctls) = (0, false, false, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Mtu(value) => mtu = *value,
            LinkAttribute::Carrier(value) => carrier = *value != 0,
            LinkAttribute::AfSpecUnspec(families) => {
                for settings in families.iter().filter_map(inet6) {
                    no_link_local = settings.contains(&AfSpecInet6::AddrGenMode(In6AddrGenMode::None));
                    sysctls = settings.iter().any(|setting| {
                        matches!(setting, AfSpecInet6::DevConf(conf) if conf.accept_ra == 0 && conf.disable_ipv6 == 0)
                    });
                }
            }
            _ => {}
        }
    }
    Ok(Some(FoundLink {
        index,
        attached: held == Some(index),
        owned: tun.persistent && tun.owner == Some(owner),
        mtu,
        no_link_local,
        sysctls,
        up: message.header.flags.contains(LinkFlags::Up),
        carrier,
    }))
}

fn inet6(family: &AfSpecUnspec) -> Option<&Vec<AfSpecInet6>> {
    match family {
        AfSpecUnspec::Inet6(settings) => Some(settings),
        _ => None,
    }
}

/// What only TUN and TAP devices say of themselves.
pub(super) struct TunInfo {
    pub layer: Layer,
    pub owner: Option<u32>,
    pub persistent: bool,
}

impl TunInfo {
    pub fn of(message: &LinkMessage) -> Option<Self> {
        let data = link_info(message).find_map(|info| match info {
            LinkInfo::Data(InfoData::Tun(data)) => Some(data),
            _ => None,
        })?;
        let value = |kind| {
            data.iter().find(|nla| nla.kind() == kind).map(|nla: &InfoTun| {
                let mut bytes = vec![0; nla.value_len()];
                nla.emit_value(&mut bytes);
                bytes
            })
        };
        let byte = |kind| value(kind)?.first().copied();
        let layer = match byte(IFLA_TUN_TYPE)? {
            TYPE_TUN => Layer::Ip,
            TYPE_TAP => Layer::Ethernet,
            _ => return None,
        };
        Some(Self {
            layer,
            owner: value(IFLA_TUN_OWNER).and_then(|bytes| Some(u32::from_ne_bytes(bytes.try_into().ok()?))),
            persistent: byte(IFLA_TUN_PERSIST) == Some(1),
        })
    }
}

pub(super) fn link_info(message: &LinkMessage) -> impl Iterator<Item = &LinkInfo> {
    message
        .attributes
        .iter()
        .filter_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(info) => Some(info),
            _ => None,
        })
        .flatten()
}

/// Makes the device, and attaches this process.
pub(super) async fn create(netlink: &Handle, dev: &str, owner: u32) -> Result<Tun, KernelError> {
    if let Some(other) = get(netlink, dev).await.map_err(|error| KernelError::observe("the link", error))? {
        return Err(KernelError::NotTun { dev: dev.to_owned(), kind: kind(&other) });
    }
    Tun::create(dev, owner, Layer::Ip).map_err(|source| refused(dev, source))?;
    attach(dev, Layer::Ip).await
}

/// What sort of link it is, for people.
pub(super) fn kind(message: &LinkMessage) -> String {
    let kind = link_info(message).find_map(|info| match info {
        LinkInfo::Kind(InfoKind::Tun) => Some(match TunInfo::of(message).map(|tun| tun.layer) {
            Some(Layer::Ip) => "a TUN device".to_owned(),
            _ => "a TAP device".to_owned(),
        }),
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    });
    kind.unwrap_or("a hardware device".to_owned())
}

/// Attaches this process. A process that is just ending, or has just forked, lets go in a moment.
pub(super) async fn attach(dev: &str, layer: Layer) -> Result<Tun, KernelError> {
    let mut patience = PATIENCE;
    loop {
        let attached = match layer {
            Layer::Ip => Tun::offloaded(dev),
            Layer::Ethernet => Tun::attach(dev, layer),
        };
        match attached {
            Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) && patience > 0 => {
                patience -= 1;
                tokio::time::sleep(PAUSE).await;
            }
            opened => return opened.map_err(|source| refused(dev, source)),
        }
    }
}

pub(super) fn refused(dev: &str, source: io::Error) -> KernelError {
    match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EBUSY) => KernelError::Busy { dev: dev.to_owned(), source },
        Some(Errno::ENOENT | Errno::ENODEV | Errno::ENXIO | Errno::EACCES) => KernelError::NoTun(source),
        _ => KernelError::Attach { dev: dev.to_owned(), source },
    }
}

pub(super) async fn set(
    netlink: &Handle,
    dev: &str,
    change: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
) -> io::Result<()> {
    let message = change(LinkUnspec::new_with_index(index(dev)?)).build();
    netlink.link().set(message).execute().await.map_err(plain)
}

pub(super) async fn set_mtu(netlink: &Handle, dev: &str, mtu: u16) -> io::Result<()> {
    set(netlink, dev, |link| link.mtu(mtu.into())).await
}

pub(super) async fn set_up(netlink: &Handle, dev: &str) -> io::Result<()> {
    set(netlink, dev, LinkMessageBuilder::up).await
}

/// Without this the kernel gives the device a random fe80 address, and speaks MLD into the tunnel.
pub(super) async fn no_link_local(netlink: &Handle, dev: &str) -> io::Result<()> {
    let mode = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    set(netlink, dev, |link| link.append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![mode]))).await
}

pub(super) fn set_sysctls(dev: &str) -> io::Result<()> {
    for (key, value) in SYSCTLS {
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{dev}/{key}"), value)?;
    }
    Ok(())
}

/// Deletes the device.
pub(super) async fn clear(netlink: &Handle, dev: &str) -> io::Result<()> {
    match index(dev) {
        Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => Ok(()),
        index => unless(netlink.link().del(index?).execute().await, Errno::ENODEV),
    }
}

#[cfg(test)]
mod tests {
    use super::maps;

    #[test]
    fn users_are_found_in_a_uid_map() {
        let all = "         0          0 4294967295\n";
        let some = "0 1000 1\n100 100000 50\n";
        assert!(maps(all, 0) && maps(all, 65_534));
        assert!(maps(some, 0) && maps(some, 100) && maps(some, 149));
        assert!(!maps(some, 1) && !maps(some, 99) && !maps(some, 150));
        assert!(!maps("", 0) && !maps("nonsense", 0));
    }
}
