//! What the kernel must hold for a tunnel, as a value: built from the configuration and the state, printed as ip commands.
//! No I/O. `kernel` compares it with what is there ([`diff`]) and makes the difference go away.
//!
//! `docs/kernel.md` draws the layout and says why each part is as it is.

mod card;
mod diff;
mod firewall;
mod host;
mod item;
pub mod nft;

pub(crate) use card::SYSCTLS as CARD_SYSCTLS;
pub use card::{Card, CardChange, Deaf, FoundBridge, FoundCard, FoundPort, FoundTap};
pub use diff::{Change, FoundLink, Observed, diff};
pub(crate) use diff::{SYSCTLS, missing};
pub use firewall::{GUARD, Openings, Policy, TABLE, emergency, firewall, guard};
pub use host::Host;
pub use item::{Action, Address, Family, Link, Match, Route, Rule, Target};

use crate::config::{self, Group, Lockdown};
use crate::state::Wanted;
use ipnet::{IpNet, Ipv6Net};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// The rules of all tunnels are in this block: before l3mdev, so that VRFs are blocked too.
const BLOCK: std::ops::RangeInclusive<u32> = 200..=999;

/// All IPv6 multicast, which the kernel routes in table local, before any rule of ours.
const MULTICAST: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8);

/// Everything of one tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What is ours: nothing else is touched.
    pub scope: Scope,
    /// The TUN device, if there shall be one.
    pub link: Option<Link>,
    /// Addresses on the device.
    pub addresses: Vec<Address>,
    /// Routes of our table, and multicast routes of table local.
    pub routes: Vec<Route>,
    /// Rules, in the order in which they are added.
    pub rules: Vec<Rule>,
    /// Trusted interfaces, each with the number of its group.
    pub trusted: BTreeMap<String, u32>,
    /// What serves a host behind, if this is a router card.
    #[serde(default)]
    pub card: Option<Card>,
    /// What it adds to the host's firewall; none: it does not block there.
    pub policy: Option<Policy>,
}

/// What belongs to one tunnel in the kernel: the device with its addresses, all routes of the table, and exactly those
/// rules and multicast routes that a plan with this mark and these prefixes can hold. No two tunnels share any of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// Interface name; empty: it has none.
    pub dev: String,
    /// Routing table; 0: it has none.
    pub table: u32,
    /// Mark of our own packets.
    pub mark: u32,
    /// The bits of the mark that are ours.
    pub mask: u32,
    /// What goes by the tunnel or nowhere. After a reload, prefixes that were configured before may stand here beside those
    /// of the plan: then `apply` removes them, after it has added the new ones.
    pub prefixes: Vec<IpNet>,
    /// On a router card, the port that it is lent: then TAP and bridge are ours too.
    #[serde(default)]
    pub port: Option<String>,
}

impl Scope {
    /// What belongs to this tunnel.
    pub fn of(tunnel: &config::Tunnel) -> Self {
        let enf = tunnel.kind.enf();
        let route = &tunnel.route;
        let mut prefixes = route.prefixes.clone();
        // Everything is everything: IPv4 that may not pass the tunnel goes nowhere.
        if prefixes.contains(&Family::V6.everything()) && !prefixes.contains(&Family::V4.everything()) {
            prefixes.push(Family::V4.everything());
        }
        let port = enf.and_then(|enf| enf.advertise.as_ref()).map(|advertise| advertise.dev.clone());
        Self {
            dev: enf.map(|enf| enf.tun.dev.clone()).unwrap_or_default(),
            table: if enf.is_none() && route.prefixes.is_empty() { 0 } else { route.table },
            mark: route.fwmark,
            mask: route.fwmark_mask,
            prefixes,
            port,
        }
    }

    /// Nothing of all this: the plan that `clear` applies.
    pub fn empty(&self) -> Plan {
        Plan {
            scope: self.clone(),
            link: None,
            addresses: Vec::new(),
            routes: Vec::new(),
            rules: Vec::new(),
            trusted: BTreeMap::new(),
            card: None,
            policy: None,
        }
    }

    /// The multicast among the prefixes.
    fn multicast(&self) -> Vec<IpNet> {
        let mut all: Vec<IpNet> = Vec::new();
        for prefix in &self.prefixes {
            let multicast = match prefix {
                IpNet::V6(prefix) if prefix.contains(&MULTICAST) => IpNet::V6(MULTICAST),
                IpNet::V6(prefix) if MULTICAST.contains(prefix) => IpNet::V6(*prefix),
                IpNet::V4(_) | IpNet::V6(_) => continue,
            };
            if !all.contains(&multicast) {
                all.push(multicast);
            }
        }
        all
    }

    /// Whether a rule of the kernel's is this tunnel's: one of our layout, or any of our block that leads into our table.
    pub fn owns_rule(&self, rule: &Rule) -> bool {
        let ours = match &rule.matches {
            Match::Mark { mark, mask } => (*mark, *mask) == (self.mark, self.mask),
            Match::To(prefix) => self.prefixes.contains(prefix),
            Match::Dhcp | Match::Trusted => return false,
        };
        (ours && *rule == Rule::new(rule.family, rule.matches.clone(), rule.action))
            || (BLOCK.contains(&rule.preference) && rule.action == Action::Lookup(self.table))
    }

    /// Whether a route of the kernel's is this tunnel's.
    pub fn owns_route(&self, route: &Route) -> bool {
        let multicast = || {
            self.multicast()
                .iter()
                .any(|prefix| *route == Route::multicast(*prefix, &self.dev) || *route == Route::no_multicast(*prefix))
        };
        route.table == self.table || (route.table == Route::LOCAL && multicast())
    }
}

/// What a plan follows from, beside the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// What the kernel must hold.
    pub wanted: &'a Wanted,
    /// Own addresses of the last session. They stay on the link until the next one, so that sockets keep their source, and
    /// as long as the tunnel blocks no socket that is left sends from them by another way.
    pub kept: &'a [IpNet],
    /// Where our own packets may go now.
    pub openings: &'a Openings,
}

/// The plan of one tunnel. `groups` are those that it may name as trusted.
pub fn build(tunnel: &config::Tunnel, groups: &BTreeMap<String, Group>, facts: Facts<'_>) -> Plan {
    let Facts { wanted, kept, openings } = facts;
    let route = &tunnel.route;
    let mut plan = Scope::of(tunnel).empty();
    // Only kind `enf` has a device, and carries what belongs in the tunnel. Another kind holds it back.
    let enf = tunnel.kind.enf();
    let (link, carrier, addresses) = match wanted {
        Wanted::Open => return plan,
        Wanted::Blocked => (None, false, kept),
        Wanted::Connecting => (enf, false, kept),
        // What passes a router card is the host's behind; the device has nothing to carry, for nothing here has the address.
        Wanted::Connected(addresses) => (enf, enf.is_some_and(|enf| enf.advertise.is_none()), addresses.as_slice()),
    };

    let scope = &plan.scope;
    // The configured prefixes, and nothing that is only blocked: IPv4 without `allow_ipv4`.
    let carried =
        |prefix: &&IpNet| route.prefixes.contains(prefix) && (route.allow_ipv4 || Family::of(prefix) == Family::V6);
    plan.rules = rules(scope);
    let ipv4 = scope.prefixes.iter().filter(|prefix| Family::of(prefix) == Family::V4);
    plan.routes.extend(ipv4.map(|prefix| Route::no_way(*prefix, scope.table)));

    let multicast = scope.multicast();
    plan.routes.extend(multicast.iter().map(|prefix| Route::no_multicast(*prefix)));
    if let Some(enf) = link {
        plan.routes.extend(multicast.iter().map(|prefix| Route::multicast(*prefix, &scope.dev)));
        plan.routes.extend(
            scope.prefixes.iter().filter(carried).map(|prefix| Route::via_tun(*prefix, scope.table, &scope.dev)),
        );
        plan.link = Some(Link { dev: scope.dev.clone(), mtu: enf.tun.mtu, carrier });
        if enf.tun.set_address {
            plan.addresses = addresses.iter().map(|net| Address::own(*net, &scope.dev)).collect();
        }
        let known = addresses.iter().any(|net| Family::of(net) == Family::V6);
        plan.card = scope.port.as_ref().map(|port| Card::of(&scope.dev, port, known));
    }

    plan.trusted = trusted(route, groups);
    // Its own packets pass what others block, also where it blocks nothing itself.
    if route.lockdown != Lockdown::Off || scope.prefixes.is_empty() {
        plan.policy = Some(Policy {
            own: addresses.iter().map(IpNet::addr).collect(),
            through: scope.prefixes.iter().filter(carried).filter(|_| carrier).copied().collect(),
            openings: openings.clone(),
            trusted: plan.trusted.keys().cloned().collect(),
        });
    }
    plan
}

/// The trusted interfaces: those of the groups, and the tunnel's own, whose group has the number of its mark.
fn trusted(route: &config::Route, groups: &BTreeMap<String, Group>) -> BTreeMap<String, u32> {
    let named = route.trusted_groups.iter().filter_map(|name| groups.get(name));
    let named = named.flat_map(|group| group.interfaces.iter().map(|interface| (interface.clone(), group.number)));
    named.chain(route.trusted_interfaces.iter().map(|interface| (interface.clone(), route.fwmark))).collect()
}

fn next_owns(next: &Plan, address: &IpAddr) -> bool {
    next.policy.as_ref().is_some_and(|policy| policy.own.contains(address))
}

/// In each family: marked packets first, then the prefixes; and each `unreachable` before the lookup that it backs. For the
/// prefixes of IPv4 that is a route.
fn rules(scope: &Scope) -> Vec<Rule> {
    let mut rules = Vec::new();
    for family in Family::ALL {
        let marked = Match::Mark { mark: scope.mark, mask: scope.mask };
        rules.push(Rule::new(family, marked.clone(), Action::Unreachable));
        rules.push(Rule::new(family, marked, Action::Lookup(Route::MAIN)));
        for prefix in scope.prefixes.iter().filter(|prefix| Family::of(prefix) == family) {
            if family == Family::V6 {
                rules.push(Rule::new(family, Match::To(*prefix), Action::Unreachable));
            }
            rules.push(Rule::new(family, Match::To(*prefix), Action::Lookup(scope.table)));
        }
    }
    rules
}

impl Plan {
    /// The same tunnel with nothing but what blocks: what a plan in state `blocked` is.
    pub fn blocking(&self) -> Self {
        let policy =
            |policy: &Policy| Policy { own: policy.own.clone(), trusted: policy.trusted.clone(), ..Policy::default() };
        let holds = |route: &&Route| route.target == Target::Unreachable;
        Self {
            link: None,
            card: None,
            addresses: Vec::new(),
            routes: self.routes.iter().filter(holds).cloned().collect(),
            policy: self.policy.as_ref().map(policy),
            ..self.clone()
        }
    }

    /// The addresses that no other link carries packets from or to.
    pub fn own_addresses(&self) -> Vec<IpNet> {
        self.policy.iter().flat_map(|policy| &policy.own).map(|address| IpNet::from(*address)).collect()
    }

    /// Makes this plan, which is in force, hold what `next` holds back too, and let pass only what `next` lets pass. An own
    /// address is guarded as long as it may be on the device.
    pub fn tighten(&mut self, next: &Self) {
        self.trusted.extend(next.trusted.clone());
        // Nothing comes in by a bridge from its first moment on.
        self.card = next.card.clone().or(self.card.take());
        let Some(mut policy) = next.policy.clone() else { return };
        if let Some(old) = &self.policy {
            policy.own.extend(old.own.iter().filter(|address| !next_owns(next, address)));
            policy.through.retain(|prefix| old.through.contains(prefix));
        } else {
            policy.through.clear();
        }
        let mut scope = next.scope.clone();
        scope.prefixes.extend(self.scope.prefixes.iter().filter(|prefix| !next.scope.prefixes.contains(prefix)));
        self.scope = scope;
        self.policy = Some(policy);
        self.rules.clone_from(&next.rules);
    }

    /// What a change would delete is part of this plan.
    pub fn holds(&self, change: &Change) -> bool {
        match change {
            Change::DeleteRule(rule) => self.rules.contains(rule),
            Change::DeleteRoute(route) => self.routes.contains(route),
            Change::DeleteAddress(address) => self.addresses.contains(address),
            Change::DeleteLink(dev) => self.link.as_ref().is_some_and(|link| link.dev == *dev),
            Change::Card(change) => self.holds_of_card(change),
            _ => false,
        }
    }
}

impl fmt::Display for Plan {
    /// The commands that bring a host without anything of ours to this plan, for `sh`, in the order of application. Whoever
    /// runs them names the user that may attach to the device in `OWNER`; the carrier comes with the process that attaches.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut section = "";
        for change in diff(self, &Observed::default()) {
            let heading = change.heading();
            if heading != section {
                writeln!(f, "# {heading}")?;
                section = heading;
            }
            writeln!(f, "{change}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
