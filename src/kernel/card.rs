//! What serves a host behind: the TAP, the bridge, and the port that is lent. Neither TAP nor bridge has a stack of this host on
//! it. A bridge of ours is known by its link-layer address; one of another is never touched, and no port is taken out of it.

use super::link::{self, TunInfo};
use super::{Kernel, KernelError, plain};
use crate::plan::{
    CARD_SYSCTLS, Card, CardChange, Change, Deaf, FoundBridge, FoundCard, FoundPort, FoundTap, Plan, Scope,
};
use crate::sys::tun::{Layer, Tun};
use futures_util::TryStreamExt;
use nix::errno::Errno;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_REQUEST};
use rtnetlink::packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, BridgeStpState, In6AddrGenMode, InfoBridge, InfoData, InfoKind,
    LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder};
use std::io;

/// What the kernel holds of a card with this scope. `held` is the index of the TAP that we are attached to.
pub(super) async fn observe(kernel: &Kernel, scope: &Scope) -> Result<FoundCard, rtnetlink::Error> {
    let Some(port) = &scope.port else { return Ok(FoundCard::default()) };
    let [tap, bridge] = Card::devices(&scope.dev);
    let links: Vec<Link> = dump(&kernel.netlink).await?;
    let named = |name: &str| links.iter().find(|link| link.name == name);
    let bridge = named(&bridge).filter(|bridge| bridge.is_ours());
    let in_bridge = |link: &Link| bridge.is_some_and(|bridge| link.master == Some(bridge.index));
    let held = kernel.held.get(&tap).map(|held| held.index);
    let found_tap = named(&tap).and_then(|link| {
        let tun = TunInfo::of(&link.message).filter(|tun| tun.layer == Layer::Ethernet)?;
        Some(FoundTap {
            index: link.index,
            attached: held == Some(link.index),
            owned: tun.persistent && tun.owner == Some(kernel.owner),
            bridged: in_bridge(link),
            deaf: link.deaf(),
            up: link.up,
            carrier: link.carrier(),
        })
    });
    let found_port =
        named(port).map(|link| FoundPort { absent: false, up: link.up, raised: kernel.previous.is_raised(link.index) });
    Ok(FoundCard {
        tap: found_tap,
        bridge: bridge.map(|link| FoundBridge {
            index: link.index,
            options: link.options(),
            deaf: link.deaf(),
            up: link.up,
        }),
        ports: links.iter().filter(|link| in_bridge(link) && link.name != tap).map(|link| link.name.clone()).collect(),
        port: found_port.unwrap_or(FoundPort { absent: true, ..FoundPort::default() }),
    })
}

/// One link as the kernel tells it.
struct Link {
    index: u32,
    name: String,
    master: Option<u32>,
    up: bool,
    message: LinkMessage,
}

async fn dump(netlink: &Handle) -> Result<Vec<Link>, rtnetlink::Error> {
    netlink.link().get().execute().map_ok(Link::of).try_collect().await
}

impl Link {
    fn of(message: LinkMessage) -> Self {
        let (mut name, mut master) = (String::new(), None);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(value) => name.clone_from(value),
                LinkAttribute::Controller(value) => master = Some(*value),
                _ => {}
            }
        }
        Self { index: message.header.index, name, master, up: message.header.flags.contains(LinkFlags::Up), message }
    }

    /// A bridge that we made.
    fn is_ours(&self) -> bool {
        let address = Card::bridge_address(&self.name);
        let is_bridge = link::link_info(&self.message).any(|info| *info == LinkInfo::Kind(InfoKind::Bridge));
        is_bridge
            && self
                .message
                .attributes
                .iter()
                .any(|attribute| matches!(attribute, LinkAttribute::Address(found) if *found == address))
    }

    fn options(&self) -> bool {
        let data = link::link_info(&self.message).find_map(|info| match info {
            LinkInfo::Data(InfoData::Bridge(data)) => Some(data),
            _ => None,
        });
        data.is_some_and(|data| options().iter().all(|option| data.contains(option)))
    }

    fn carrier(&self) -> bool {
        self.message.attributes.contains(&LinkAttribute::Carrier(1))
    }

    fn deaf(&self) -> Deaf {
        let (mut deaf, mut ipv4, mut ipv6) = (Deaf::default(), false, false);
        let families = self.message.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::AfSpecUnspec(families) => Some(families),
            _ => None,
        });
        for family in families.into_iter().flatten() {
            match family {
                AfSpecUnspec::Inet6(settings) => {
                    deaf.no_link_local = settings.contains(&AfSpecInet6::AddrGenMode(In6AddrGenMode::None));
                    ipv6 = settings.iter().any(|setting| {
                        matches!(setting, AfSpecInet6::DevConf(conf) if conf.accept_ra == 0 && conf.disable_ipv6 == 1)
                    });
                }
                AfSpecUnspec::Inet(settings) => {
                    ipv4 = settings.iter().any(|setting| {
                        matches!(setting, AfSpecInet::DevConf(conf) if conf.forwarding == 0 && conf.arp_ignore == 8)
                    });
                }
                _ => {}
            }
        }
        deaf.sysctls = ipv4 && ipv6;
        deaf
    }
}

/// Every frame is passed on at once: no spanning tree, no delay, and multicast to every port.
fn options() -> [InfoBridge; 3] {
    [InfoBridge::StpState(BridgeStpState::Disabled), InfoBridge::ForwardDelay(0), InfoBridge::MulticastSnooping(false)]
}

fn with_options(message: LinkMessageBuilder<LinkBridge>) -> LinkMessageBuilder<LinkBridge> {
    options().into_iter().fold(message, |message, option| message.append_info_data(option))
}

/// Makes one change.
pub(super) async fn apply(kernel: &mut Kernel, change: &CardChange) -> Result<io::Result<()>, KernelError> {
    let done = match change {
        CardChange::CreateTap(tap) => {
            let made = create_tap(&kernel.netlink, tap, kernel.owner).await?;
            kernel.hold(tap, made)
        }
        CardChange::Attach(tap) => {
            let attached = link::attach(tap, Layer::Ethernet).await?;
            kernel.hold(tap, attached)
        }
        CardChange::Own(tap) => kernel.on_held(tap, |held, owner| held.adopt(owner)),
        CardChange::SetCarrier(tap, on) => kernel.on_held(tap, |held, _| held.set_carrier(*on)),
        CardChange::CreateBridge(bridge) => create_bridge(&kernel.netlink, bridge).await?,
        CardChange::SetBridge(bridge) => set_bridge(&kernel.netlink, bridge).await,
        CardChange::NoLinkLocal(dev) => link::no_link_local(&kernel.netlink, dev).await,
        CardChange::SetSysctls(dev) => CARD_SYSCTLS
            .iter()
            .try_for_each(|(family, key, value)| super::sysctl::apply(&format!("{family}/conf/{dev}/{key}"), value)),
        CardChange::Enslave { port, bridge } => return enslave(&kernel.netlink, port, bridge).await.map(Ok),
        CardChange::SetUp(dev) => link::set_up(&kernel.netlink, dev).await,
        CardChange::Raise(port) => match link::index(port) {
            Ok(index) => {
                kernel.previous.raise(index)?;
                link::set_up(&kernel.netlink, port).await
            }
            Err(error) => Err(error),
        },
        CardChange::Release(port) => {
            unless_gone(link::set(&kernel.netlink, port, LinkMessageBuilder::nocontroller).await)
        }
        CardChange::Lower(port) => lower(kernel, port).await?,
        CardChange::Delete(dev) => {
            kernel.held.remove(dev);
            link::clear(&kernel.netlink, dev).await
        }
    };
    Ok(done)
}

/// The port of the plan's card, if that is another link than it was when it was last taken in.
pub(super) fn arriving(kernel: &Kernel, plan: &Plan) -> Option<(String, u32)> {
    let port = &plan.card.as_ref()?.port;
    let index = link::index(port).ok()?;
    (kernel.ports.get(port) != Some(&index)).then(|| (port.clone(), index))
}

/// This change is about that port.
pub(super) fn takes_in(change: &Change, arriving: Option<&(String, u32)>) -> bool {
    let Change::Card(CardChange::Enslave { port, .. } | CardChange::Raise(port)) = change else { return false };
    arriving.is_some_and(|(name, _)| name == port)
}

async fn create_tap(netlink: &Handle, tap: &str, owner: u32) -> Result<Tun, KernelError> {
    absent(netlink, tap).await?;
    Tun::create(tap, owner, Layer::Ethernet).map_err(|source| link::refused(tap, source))?;
    link::attach(tap, Layer::Ethernet).await
}

async fn create_bridge(netlink: &Handle, bridge: &str) -> Result<io::Result<()>, KernelError> {
    absent(netlink, bridge).await?;
    let address = LinkAttribute::Address(Card::bridge_address(bridge).to_vec());
    let message = with_options(LinkMessageBuilder::<LinkBridge>::new(bridge)).append_extra_attribute(address).build();
    Ok(netlink.link().add(message).execute().await.map_err(plain))
}

async fn set_bridge(netlink: &Handle, bridge: &str) -> io::Result<()> {
    let index = link::index(bridge)?;
    let message = || LinkMessageBuilder::<LinkBridge>::new(bridge).index(index);
    // With a spanning tree the kernel refuses to be without delay.
    let no_tree = message().append_info_data(InfoBridge::StpState(BridgeStpState::Disabled));
    for message in [no_tree.build(), with_options(message()).build()] {
        // A request that only changes (RTM_SETLINK) would leave alone what is peculiar to bridges.
        netlink.link().add(message).set_flags(NLM_F_REQUEST | NLM_F_ACK).execute().await.map_err(plain)?;
    }
    Ok(())
}

/// What has the name and is not ours stays.
async fn absent(netlink: &Handle, dev: &str) -> Result<(), KernelError> {
    match link::get(netlink, dev).await.map_err(|error| KernelError::observe("the link", error))? {
        None => Ok(()),
        Some(other) => Err(KernelError::Taken { dev: dev.to_owned(), kind: link::kind(&other) }),
    }
}

/// Puts a link into our bridge; not one that is in a bridge of somebody else.
async fn enslave(netlink: &Handle, port: &str, bridge: &str) -> Result<(), KernelError> {
    let links = dump(netlink).await.map_err(|error| KernelError::observe("the links", error))?;
    let master = links.iter().find(|link| link.name == port).and_then(|link| link.master);
    let master = master.and_then(|master| links.iter().find(|link| link.index == master));
    if let Some(master) = master.filter(|master| !master.is_ours()) {
        return Err(KernelError::PortTaken { port: port.to_owned(), master: master.name.clone() });
    }
    let refused = |source| KernelError::Port { port: port.to_owned(), source };
    let index = link::index(bridge).map_err(refused)?;
    link::set(netlink, port, |link| link.controller(index)).await.map_err(refused)
}

async fn lower(kernel: &mut Kernel, port: &str) -> Result<io::Result<()>, KernelError> {
    let done = unless_gone(link::set(&kernel.netlink, port, LinkMessageBuilder::down).await);
    if done.is_ok()
        && let Ok(index) = link::index(port)
    {
        kernel.previous.lowered(index)?;
    }
    Ok(done)
}

fn unless_gone(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => Ok(()),
        done => done,
    }
}
