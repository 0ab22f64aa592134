//! The parts of a plan, each of which prints as the ip command that a person would type to add it. Values only.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

const EVERYTHING_IPV4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);
const EVERYTHING_IPV6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0);

/// Where our marked packets are looked up: in main, and nowhere else (the next preference).
const MARKED: u32 = 200;
/// Renewals of DHCPv4 leases.
const DHCP: u32 = 240;
/// Routes of trusted interfaces, before those of any tunnel.
const TRUSTED: u32 = 250;
/// The first preference of prefix rules: those of full length. Each shorter length has the next two.
const PREFIXES: u32 = 300;

/// An address family; each has rules and tables of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V6, Self::V4];

    /// The family of a prefix.
    pub fn of(prefix: &IpNet) -> Self {
        match prefix {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }

    /// The prefix of length zero.
    pub const fn everything(self) -> IpNet {
        match self {
            Self::V4 => IpNet::V4(EVERYTHING_IPV4),
            Self::V6 => IpNet::V6(EVERYTHING_IPV6),
        }
    }
}

impl fmt::Display for Family {
    /// The option of ip(8).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "-4",
            Self::V6 => "-6",
        })
    }
}

/// The TUN device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Interface name.
    pub dev: String,
    /// MTU in bytes.
    pub mtu: u16,
    /// Whether packets may flow.
    pub carrier: bool,
}

/// An address on the device, without duplicate address detection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address with its prefix length.
    pub net: IpNet,
    /// Interface name.
    pub dev: String,
    /// The kernel makes no route for the prefix: it would be in main, where marked packets would take it into the tunnel.
    pub no_prefix_route: bool,
}

impl Address {
    /// An own address.
    pub fn own(net: IpNet, dev: &str) -> Self {
        Self { net, dev: dev.to_owned(), no_prefix_route: true }
    }

    pub(super) fn command(&self, verb: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ip {} addr {verb} {} dev {}", Family::of(&self.net), self.net, self.dev)?;
        if verb == "add" {
            if self.net.addr().is_ipv6() {
                f.write_str(" nodad")?;
            }
            if self.no_prefix_route {
                f.write_str(" noprefixroute")?;
            }
        }
        Ok(())
    }
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Routing table.
    pub table: u32,
    /// Destination.
    pub prefix: IpNet,
    /// Where to.
    pub target: Target,
    /// Lower is better.
    pub metric: u32,
    /// Preferred to routes of the same metric (IPv6).
    pub pref_high: bool,
    /// `protocol kernel`: networkd deletes routes of other protocols as foreign.
    pub by_kernel: bool,
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// Out of this device, without a gateway.
    Dev(String),
    /// Nowhere.
    Unreachable,
    /// Somewhere that no plan of ours leads.
    Foreign,
}

impl Route {
    /// Table `main`.
    pub const MAIN: u32 = 254;
    /// Table `local`.
    pub const LOCAL: u32 = 255;

    /// The metric the kernel gives to a route without one.
    pub fn default_metric(prefix: &IpNet) -> u32 {
        match prefix {
            IpNet::V4(_) => 0,
            IpNet::V6(_) => 1024,
        }
    }

    pub(super) fn via_tun(prefix: IpNet, table: u32, dev: &str) -> Self {
        let metric = Self::default_metric(&prefix);
        Self { table, prefix, target: Target::Dev(dev.to_owned()), metric, pref_high: false, by_kernel: true }
    }

    /// Before the routes that the kernel makes for each link (metric 256).
    pub(super) fn multicast(prefix: IpNet, dev: &str) -> Self {
        let target = Target::Dev(dev.to_owned());
        Self { table: Self::LOCAL, prefix, target, metric: 50, pref_high: true, by_kernel: true }
    }

    /// Between ours and the kernel's: without the TUN, multicast leaves by no other link.
    pub(super) fn no_multicast(prefix: IpNet) -> Self {
        let target = Target::Unreachable;
        Self { table: Self::LOCAL, prefix, target, metric: 128, pref_high: false, by_kernel: true }
    }

    /// Behind the way into the device: what finds none there has none. For IPv4 only. There it holds sockets that are bound to
    /// a device too; and as a rule it would keep the kernel from taking a default route, whose gateway it looks up by the
    /// rules (but passes over routes of this scope).
    pub(super) fn no_way(prefix: IpNet, table: u32) -> Self {
        let target = Target::Unreachable;
        Self { table, prefix, target, metric: 1024, pref_high: false, by_kernel: true }
    }

    pub(super) fn command(&self, verb: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ip {} route {verb} ", Family::of(&self.prefix))?;
        if self.target == Target::Unreachable {
            f.write_str("unreachable ")?;
        }
        match self.prefix.prefix_len() {
            0 => f.write_str("default")?,
            _ => write!(f, "{}", self.prefix)?,
        }
        if let Target::Dev(dev) = &self.target {
            write!(f, " dev {dev}")?;
        }
        write!(f, " table {}", Table(self.table))?;
        if self.metric != Self::default_metric(&self.prefix) {
            write!(f, " metric {}", self.metric)?;
        }
        if self.pref_high {
            f.write_str(" pref high")?;
        }
        if self.by_kernel {
            f.write_str(" protocol kernel")?;
        }
        Ok(())
    }
}

/// A routing rule of `protocol kernel`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its family.
    pub family: Family,
    /// Rules are tried in ascending order.
    pub preference: u32,
    /// Which packets.
    pub matches: Match,
    /// What happens to them.
    pub action: Action,
}

/// The packets that a rule is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Match {
    /// Those with this mark.
    Mark {
        /// The mark.
        mark: u32,
        /// The bits of it that count.
        mask: u32,
    },
    /// Those to this prefix.
    To(IpNet),
    /// A DHCPv4 client's. It renews a lease by unicast from a socket that is bound to no device.
    Dhcp,
    /// All; and what the table says is passed by when it is a default route, or leads to a link of the default group.
    Trusted,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Look the route up in this table; without one there, the next rule is tried.
    Lookup(u32),
    /// There is no way. A *route* that says so would be skipped for IPv6 sockets that are bound to a device.
    Unreachable,
}

impl Match {
    /// The ports of a DHCPv4 client and server.
    pub(crate) const DHCP: (u16, u16) = (68, 67);
}

impl Rule {
    /// The rule of our layout for these packets: longest prefixes first, marked packets before all, and each `unreachable`
    /// directly behind its lookup.
    pub(super) fn new(family: Family, matches: Match, action: Action) -> Self {
        let first = match &matches {
            Match::Mark { .. } => MARKED,
            Match::Dhcp => DHCP,
            Match::Trusted => TRUSTED,
            Match::To(prefix) => PREFIXES + 2 * u32::from(prefix.max_prefix_len() - prefix.prefix_len()),
        };
        let preference = first + u32::from(action == Action::Unreachable);
        Self { family, preference, matches, action }
    }

    /// Whether this is a rule of our layout that is the host's: for trusted interfaces, or for DHCP.
    pub fn is_of_host(rule: &Self) -> bool {
        [Match::Trusted, Match::Dhcp]
            .into_iter()
            .any(|matches| *rule == Self::new(rule.family, matches, Action::Lookup(Route::MAIN)))
    }

    pub(super) fn command(&self, verb: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ip {} rule {verb} pref {} from all ", self.family, self.preference)?;
        match &self.matches {
            Match::Mark { mark, mask } => write!(f, "fwmark {mark:#x}/{mask:#x} ")?,
            Match::To(prefix) if prefix.prefix_len() == 0 => {}
            Match::To(prefix) => write!(f, "to {prefix} ")?,
            Match::Dhcp => write!(f, "ipproto udp sport {} dport {} ", Match::DHCP.0, Match::DHCP.1)?,
            Match::Trusted => {}
        }
        match self.action {
            Action::Lookup(table) => write!(f, "lookup {}", Table(table))?,
            Action::Unreachable => f.write_str("unreachable")?,
        }
        if self.matches == Match::Trusted {
            f.write_str(" suppress_prefixlength 0 suppress_ifgroup default")?;
        }
        f.write_str(" protocol kernel")
    }
}

struct Table(u32);

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Route::MAIN => f.write_str("main"),
            Route::LOCAL => f.write_str("local"),
            number => write!(f, "{number}"),
        }
    }
}

macro_rules! prints_as_added {
    ($($item:ty),+) => {$(
        impl fmt::Display for $item {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.command("add", f)
            }
        }
    )+};
}
prints_as_added!(Address, Route, Rule);
