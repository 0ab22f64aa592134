//! What a router card needs beside the TUN: a TAP that the daemon speaks Ethernet on, and a bridge from it to the port that
//! the host behind is on. Values only; `docs/card.md` draws it and says why each part is as it is.

use super::{Change, Plan};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The card's own things, and the port that it is lent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// The daemon's end: a TAP.
    pub tap: String,
    /// Between the two.
    pub bridge: String,
    /// The Ethernet interface that the host behind is on.
    pub port: String,
    /// Whether frames may flow: the address that the host behind is given is known.
    pub carrier: bool,
}

/// What the kernel holds of a card.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundCard {
    /// The TAP.
    pub tap: Option<FoundTap>,
    /// The bridge.
    pub bridge: Option<FoundBridge>,
    /// What is in the bridge beside the TAP, by name.
    pub ports: Vec<String>,
    /// The port of the card.
    pub port: FoundPort,
}

/// The TAP as it is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundTap {
    /// Interface index.
    pub index: u32,
    /// This process holds its descriptor.
    pub attached: bool,
    /// It is persistent, and belongs to the user who may attach.
    pub owned: bool,
    /// It is in the bridge.
    pub bridged: bool,
    /// No stack of this host is on it.
    pub deaf: Deaf,
    /// Administratively up.
    pub up: bool,
    /// Frames may flow.
    pub carrier: bool,
}

/// The bridge as it is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundBridge {
    /// Interface index.
    pub index: u32,
    /// It passes every frame on at once: no spanning tree, no delay, and multicast to every port.
    pub options: bool,
    /// No stack of this host is on it.
    pub deaf: Deaf,
    /// Administratively up.
    pub up: bool,
}

/// How far an interface is without a stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deaf {
    /// The kernel makes no link-local address for it.
    pub no_link_local: bool,
    /// [`SYSCTLS`] are as they shall be.
    pub sysctls: bool,
}

/// The port as it is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FoundPort {
    /// There is no such link now: it is waited for.
    pub absent: bool,
    /// Administratively up.
    pub up: bool,
    /// It was down before we needed it.
    pub raised: bool,
}

/// One change of a card's things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CardChange {
    /// Make the TAP, persistent and owned, and attach this process to it; the carrier is off then.
    CreateTap(String),
    /// Attach this process to it.
    Attach(String),
    /// Make it persistent and owned.
    Own(String),
    /// Make the bridge.
    CreateBridge(String),
    /// Set its options.
    SetBridge(String),
    /// No link-local address.
    NoLinkLocal(String),
    /// No IPv6, and nothing of IPv4 that answers or forwards.
    SetSysctls(String),
    /// Put a link into the bridge.
    Enslave {
        /// The link.
        port: String,
        /// The bridge.
        bridge: String,
    },
    /// Set a device of ours up.
    SetUp(String),
    /// Set the port up, and remember that it was down.
    Raise(String),
    /// Let frames flow, or not.
    SetCarrier(String, bool),
    /// Take a link out of the bridge.
    Release(String),
    /// Set the port down, as it was.
    Lower(String),
    /// Delete a device of ours.
    Delete(String),
}

/// What keeps this host's stack off the TAP and the bridge: family, file below `/proc/sys/net/FAMILY/conf/DEV`, value.
pub(crate) const SYSCTLS: [(&str, &str, &str); 4] = [
    ("ipv6", "disable_ipv6", "1"),
    ("ipv6", "accept_ra", "0"),
    ("ipv4", "forwarding", "0"),
    ("ipv4", "arp_ignore", "8"),
];

const TAP: &str = "-tap";
const BRIDGE: &str = "-br";
/// Bytes of the longest interface name.
const LONGEST: usize = 15;

impl Card {
    /// The card of the tunnel with this device, which is lent this port.
    pub fn of(dev: &str, port: &str, carrier: bool) -> Self {
        Self { tap: name(dev, TAP), bridge: name(dev, BRIDGE), port: port.to_owned(), carrier }
    }

    /// The names of the devices that are made for the tunnel with this device: TAP, bridge.
    pub fn devices(dev: &str) -> [String; 2] {
        [name(dev, TAP), name(dev, BRIDGE)]
    }

    /// The link-layer address of a bridge of ours: by it we know it again. Locally administered, and the same for each
    /// name, so that nothing else has it by chance.
    pub fn bridge_address(bridge: &str) -> [u8; 6] {
        let [a, b, c, d, ..] = hash(bridge).to_le_bytes();
        [0x02, 0xe4, a, b, c, d]
    }
}

/// The device's name and a suffix; a long one is cut, and what was cut is told by a number.
fn name(dev: &str, suffix: &str) -> String {
    if dev.len() + suffix.len() <= LONGEST {
        return format!("{dev}{suffix}");
    }
    let number = format!("~{:04x}", hash(dev) & 0xffff);
    let room = dev.floor_char_boundary(LONGEST - suffix.len() - number.len());
    format!("{}{number}{suffix}", dev.get(..room).unwrap_or_default())
}

/// FNV-1a, 64 bits: the same in every version of the program.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// What makes what is found into what the plan has.
pub(super) fn diff(plan: &Plan, found: &FoundCard) -> Vec<Change> {
    let changes = match &plan.card {
        Some(card) => up(card, found),
        None => down(plan, found),
    };
    changes.into_iter().map(Change::Card).collect()
}

fn up(card: &Card, found: &FoundCard) -> Vec<CardChange> {
    use CardChange::{Attach, CreateBridge, CreateTap, Enslave, Own, Raise, Release, SetBridge, SetCarrier, SetUp};
    let Card { tap, bridge, port, carrier } = card;
    let mut changes = Vec::new();
    match &found.tap {
        None => changes.push(CreateTap(tap.clone())),
        Some(found) => {
            changes.extend((!found.attached).then(|| Attach(tap.clone())));
            changes.extend((!found.owned).then(|| Own(tap.clone())));
        }
    }
    changes.extend(deafen(tap, found.tap.as_ref().map(|tap| tap.deaf)));
    match &found.bridge {
        None => changes.push(CreateBridge(bridge.clone())),
        Some(found) if !found.options => changes.push(SetBridge(bridge.clone())),
        Some(_) => {}
    }
    changes.extend(deafen(bridge, found.bridge.as_ref().map(|bridge| bridge.deaf)));
    let into = |port: &str| Enslave { port: port.to_owned(), bridge: bridge.clone() };
    changes.extend(found.ports.iter().filter(|other| *other != port).cloned().map(Release));
    changes.extend((!found.tap.as_ref().is_some_and(|tap| tap.bridged)).then(|| into(tap)));
    if !found.port.absent {
        changes.extend((!found.ports.contains(port)).then(|| into(port)));
    }
    changes.extend((!found.bridge.as_ref().is_some_and(|bridge| bridge.up)).then(|| SetUp(bridge.clone())));
    changes.extend((!found.tap.as_ref().is_some_and(|tap| tap.up)).then(|| SetUp(tap.clone())));
    if !found.port.absent && !found.port.up {
        changes.push(Raise(port.clone()));
    }
    let on = found.tap.as_ref().is_some_and(|tap| tap.attached && tap.carrier);
    changes.extend((on != *carrier).then(|| SetCarrier(tap.clone(), *carrier)));
    changes
}

fn deafen(dev: &str, found: Option<Deaf>) -> Vec<CardChange> {
    let Deaf { no_link_local, sysctls } = found.unwrap_or_default();
    let link_local = (!no_link_local).then(|| CardChange::NoLinkLocal(dev.to_owned()));
    link_local.into_iter().chain((!sysctls).then(|| CardChange::SetSysctls(dev.to_owned()))).collect()
}

fn down(plan: &Plan, found: &FoundCard) -> Vec<CardChange> {
    let [tap, bridge] = Card::devices(&plan.scope.dev);
    let mut changes: Vec<CardChange> = found.tap.iter().map(|_| CardChange::Delete(tap.clone())).collect();
    changes.extend(found.ports.iter().cloned().map(CardChange::Release));
    changes.extend(found.bridge.iter().map(|_| CardChange::Delete(bridge.clone())));
    let port = plan.scope.port.as_ref().filter(|_| found.port.raised && found.port.up && !found.port.absent);
    changes.extend(port.cloned().map(CardChange::Lower));
    changes
}

impl Plan {
    /// What a change of a card's things would take away is part of this plan.
    pub(super) fn holds_of_card(&self, change: &CardChange) -> bool {
        let Some(card) = &self.card else { return false };
        match change {
            CardChange::Delete(dev) => [&card.tap, &card.bridge].contains(&dev),
            CardChange::Release(port) | CardChange::Lower(port) => *port == card.port,
            _ => false,
        }
    }
}

impl CardChange {
    /// What they are for, for people.
    pub(super) const HEADING: &'static str =
        "the host behind: frames between its port and enftund, and no stack of this host on the way; OWNER may attach";
}

impl fmt::Display for CardChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateTap(tap) => write!(f, "ip tuntap add dev {tap} mode tap user ${{OWNER:-enftun}}"),
            Self::Attach(tap) => write!(f, "# enftund attaches to {tap}"),
            Self::Own(tap) => write!(f, "# enftund makes {tap} persistent, for its own user"),
            Self::CreateBridge(bridge) => {
                let [a, b, c, d, e, g] = Card::bridge_address(bridge);
                write!(
                    f,
                    "ip link add dev {bridge} address {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x} type bridge {BRIDGE_OPTIONS}"
                )
            }
            // With a spanning tree the kernel refuses to be without delay.
            Self::SetBridge(bridge) => write!(
                f,
                "ip link set dev {bridge} type bridge stp_state 0\nip link set dev {bridge} type bridge {BRIDGE_OPTIONS}"
            ),
            Self::NoLinkLocal(dev) => write!(f, "ip link set dev {dev} addrgenmode none"),
            Self::SetSysctls(dev) => {
                for (number, (family, key, value)) in SYSCTLS.iter().enumerate() {
                    let separator = if number == 0 { "" } else { "\n" };
                    write!(f, "{separator}echo {value} > /proc/sys/net/{family}/conf/{dev}/{key}")?;
                }
                Ok(())
            }
            Self::Enslave { port, bridge } => write!(f, "ip link set dev {port} master {bridge}"),
            Self::SetUp(dev) | Self::Raise(dev) => write!(f, "ip link set dev {dev} up"),
            Self::SetCarrier(tap, on) => {
                write!(f, "# enftund turns the carrier of {tap} {}", if *on { "on" } else { "off" })
            }
            Self::Release(port) => write!(f, "ip link set dev {port} nomaster"),
            Self::Lower(port) => write!(f, "ip link set dev {port} down"),
            Self::Delete(dev) => write!(f, "ip link del dev {dev}"),
        }
    }
}

/// As ip(8) has them.
const BRIDGE_OPTIONS: &str = "stp_state 0 forward_delay 0 mcast_snooping 0";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_devices_of_a_card_have_names_that_fit_and_differ() {
        let long = ["enf0", "elevenbytes", "twelve-bytes", "fifteen-bytes-a", "fifteen-bytes-b", "ééééééé"];
        let all: Vec<String> = long.iter().flat_map(|dev| Card::devices(dev)).collect();
        assert!(all.iter().all(|name| name.len() <= LONGEST), "{all:?}");
        let distinct: std::collections::BTreeSet<_> = all.iter().chain(&[]).collect();
        assert_eq!(distinct.len(), all.len(), "{all:?}");
        assert_eq!(Card::devices("enf0"), ["enf0-tap", "enf0-br"]);
        assert_ne!(Card::bridge_address("enf0-br"), Card::bridge_address("enf1-br"));
    }
}
