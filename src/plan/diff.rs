//! What must change so that the kernel holds a plan: a pure comparison, in the order in which the changes are safe.
//!
//! What is missing is added before what is too much is deleted. On the way up what blocks comes first, each `unreachable`
//! before the lookup that it backs, so that nothing leaks while the rest is made; on the way down everything goes in the reverse order.

use super::card::{self, CardChange, FoundCard};
use super::{Action, Address, Plan, Route, Rule, Target};
use std::fmt;

/// What the kernel holds of a plan's scope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The TUN device.
    pub link: Option<FoundLink>,
    /// The addresses on it.
    pub addresses: Vec<Address>,
    /// Our routes.
    pub routes: Vec<Route>,
    /// Our rules.
    pub rules: Vec<Rule>,
    /// What serves a host behind.
    pub card: FoundCard,
}

/// The TUN device as it is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundLink {
    /// Interface index.
    pub index: u32,
    /// This process holds its descriptor.
    pub attached: bool,
    /// It is persistent, and belongs to the user who may attach.
    pub owned: bool,
    /// MTU in bytes.
    pub mtu: u32,
    /// The kernel makes no link-local address for it.
    pub no_link_local: bool,
    /// It takes part in IPv6, and hears no router advertisements.
    pub sysctls: bool,
    /// Administratively up.
    pub up: bool,
    /// Packets may flow.
    pub carrier: bool,
}

/// One change. Prints as the command that a person would type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Add a rule.
    AddRule(Rule),
    /// Make the device, persistent and owned, and attach this process to it; the carrier is off then.
    CreateLink(String),
    /// Attach this process to it; the carrier is off then.
    Attach(String),
    /// Make it persistent and owned.
    OwnLink(String),
    /// Set the MTU.
    SetMtu(String, u16),
    /// No link-local address.
    NoLinkLocal(String),
    /// IPv6, and no router advertisements.
    SetSysctls(String),
    /// Set it up.
    SetUp(String),
    /// Add an address.
    AddAddress(Address),
    /// Add a route.
    AddRoute(Route),
    /// Put a link into a group.
    SetGroup {
        /// Its name.
        dev: String,
        /// Its index.
        index: u32,
        /// The number of the group.
        group: u32,
    },
    /// Set a setting of the host.
    WriteSysctl {
        /// The file below `/proc/sys/net`.
        file: String,
        /// The value.
        value: String,
    },
    /// Of a router card.
    Card(CardChange),
    /// Let packets flow, or not.
    SetCarrier(String, bool),
    /// Delete a route.
    DeleteRoute(Route),
    /// Delete an address.
    DeleteAddress(Address),
    /// Delete the device.
    DeleteLink(String),
    /// Delete a rule.
    DeleteRule(Rule),
}

/// The sysctls of the device: file below `/proc/sys/net/ipv6/conf/DEV`, and value.
pub(crate) const SYSCTLS: [(&str, &str); 2] = [("disable_ipv6", "0"), ("accept_ra", "0")];

/// What makes `found` into `plan`; empty when they are the same.
pub fn diff(plan: &Plan, found: &Observed) -> Vec<Change> {
    let blocks = |route: &Route| route.target == Target::Unreachable;
    let mut changes: Vec<Change> = missing(&plan.routes, &found.routes).filter(blocks).map(Change::AddRoute).collect();
    changes.extend(missing(&plan.rules, &found.rules).map(Change::AddRule));

    link_up(plan, found.link.as_ref(), &mut changes);
    changes.extend(missing(&plan.addresses, &found.addresses).map(Change::AddAddress));
    changes.extend(missing(&plan.routes, &found.routes).filter(|route| !blocks(route)).map(Change::AddRoute));
    changes.extend(card::diff(plan, &found.card));

    if let Some(link) = &plan.link {
        let carrier = found.link.as_ref().is_some_and(|found| found.attached && found.carrier);
        if link.carrier != carrier {
            changes.push(Change::SetCarrier(link.dev.clone(), link.carrier));
        }
    } else if found.link.as_ref().is_some_and(|found| found.attached && found.carrier) {
        changes.push(Change::SetCarrier(plan.scope.dev.clone(), false));
    }

    let surplus_routes: Vec<Route> = missing(&found.routes, &plan.routes).collect();
    changes.extend(surplus_routes.iter().filter(|route| !blocks(route)).cloned().map(Change::DeleteRoute));
    changes.extend(missing(&found.addresses, &plan.addresses).map(Change::DeleteAddress));
    if plan.link.is_none() && found.link.is_some() {
        changes.push(Change::DeleteLink(plan.scope.dev.clone()));
    }
    let mut surplus_rules: Vec<Rule> = missing(&found.rules, &plan.rules).collect();
    surplus_rules.sort_by_key(|rule| rule.action == Action::Unreachable);
    changes.extend(surplus_rules.into_iter().map(Change::DeleteRule));
    changes.extend(surplus_routes.iter().filter(|route| blocks(route)).cloned().map(Change::DeleteRoute));
    changes
}

fn link_up(plan: &Plan, found: Option<&FoundLink>, changes: &mut Vec<Change>) {
    let Some(link) = &plan.link else { return };
    let dev = || link.dev.clone();
    let is = |right: fn(&FoundLink) -> bool| found.is_some_and(right);
    match found {
        None => changes.push(Change::CreateLink(dev())),
        Some(found) if !found.attached => changes.push(Change::Attach(dev())),
        Some(_) => {}
    }
    if found.is_some_and(|found| !found.owned) {
        changes.push(Change::OwnLink(dev()));
    }
    if found.is_none_or(|found| found.mtu != u32::from(link.mtu)) {
        changes.push(Change::SetMtu(dev(), link.mtu));
    }
    if !is(|found| found.no_link_local) {
        changes.push(Change::NoLinkLocal(dev()));
    }
    if !is(|found| found.sysctls) {
        changes.push(Change::SetSysctls(dev()));
    }
    if !is(|found| found.up) {
        changes.push(Change::SetUp(dev()));
    }
}

/// Those of `these` that are not in `those`.
pub(crate) fn missing<T: Clone + PartialEq>(these: &[T], those: &[T]) -> impl Iterator<Item = T> {
    these.iter().filter(|item| !those.contains(item)).cloned()
}

impl Change {
    /// The part of the layout that it belongs to, for people.
    pub(super) fn heading(&self) -> &'static str {
        match self {
            Self::AddRule(_) | Self::DeleteRule(_) => {
                "rules: our own marked packets by main or not at all; what belongs in the tunnel by its table or not at all"
            }
            Self::AddRoute(Route { target: Target::Unreachable, table: Route::LOCAL, .. })
            | Self::DeleteRoute(Route { target: Target::Unreachable, table: Route::LOCAL, .. }) => {
                "multicast leaves by no other link when the device is gone"
            }
            Self::AddRoute(Route { target: Target::Unreachable, .. })
            | Self::DeleteRoute(Route { target: Target::Unreachable, .. }) => {
                "IPv4 that finds no way into the device has none"
            }
            Self::AddAddress(_) | Self::DeleteAddress(_) => "own addresses",
            Self::AddRoute(_) | Self::DeleteRoute(_) => "routes into the device",
            Self::CreateLink(_)
            | Self::Attach(_)
            | Self::OwnLink(_)
            | Self::SetMtu(..)
            | Self::NoLinkLocal(_)
            | Self::SetSysctls(_)
            | Self::SetUp(_)
            | Self::DeleteLink(_) => "the device; OWNER may attach to it",
            Self::Card(_) => CardChange::HEADING,
            Self::SetGroup { .. } => "trusted interfaces",
            Self::WriteSysctl { .. } => "settings of the host",
            Self::SetCarrier(..) => "packets may flow, by the process that is attached",
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddRule(rule) => rule.command("add", f),
            Self::DeleteRule(rule) => rule.command("del", f),
            Self::AddRoute(route) => route.command("add", f),
            Self::DeleteRoute(route) => route.command("del", f),
            Self::AddAddress(address) => address.command("add", f),
            Self::DeleteAddress(address) => address.command("del", f),
            Self::CreateLink(dev) => write!(f, "ip tuntap add dev {dev} mode tun user ${{OWNER:-enftun}}"),
            Self::Attach(dev) => write!(f, "# enftund attaches to {dev}"),
            Self::OwnLink(dev) => write!(f, "# enftund makes {dev} persistent, for its own user"),
            Self::SetMtu(dev, mtu) => write!(f, "ip link set dev {dev} mtu {mtu}"),
            Self::NoLinkLocal(dev) => write!(f, "ip link set dev {dev} addrgenmode none"),
            Self::SetSysctls(dev) => {
                for (number, (key, value)) in SYSCTLS.iter().enumerate() {
                    let separator = if number == 0 { "" } else { "\n" };
                    write!(f, "{separator}echo {value} > /proc/sys/net/ipv6/conf/{dev}/{key}")?;
                }
                Ok(())
            }
            Self::SetUp(dev) => write!(f, "ip link set dev {dev} up"),
            Self::SetCarrier(dev, on) => {
                write!(f, "# enftund turns the carrier of {dev} {}", if *on { "on" } else { "off" })
            }
            Self::Card(change) => change.fmt(f),
            Self::SetGroup { dev, group, .. } => write!(f, "ip link set dev {dev} group {group}"),
            Self::WriteSysctl { file, value } => write!(f, "echo {value} > /proc/sys/net/{file}"),
            Self::DeleteLink(dev) => write!(f, "ip link del dev {dev}"),
        }
    }
}
