//! The firewall of the whole host as a value: one table, rendered from every tunnel that blocks. Pure; `docs/kernel.md` says
//! why each rule is there. Every chain says what passes and ends in an explicit `drop`: with the policy alone, packets pass
//! for the microseconds in which the table is replaced.

use super::nft::{Action, Chain, Hook, Mark, Rule, Table, Test, Transport};
use super::{Card, Family, Plan};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

/// The name of our table, in family `inet`.
pub const TABLE: &str = "enftun";
/// The name of the table that stays when somebody flushes the ruleset.
pub const GUARD: &str = "enftun-guard";
const LOOPBACK: &str = "lo";

/// What the firewall must know of one tunnel that blocks, beside the scope of its plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Own addresses in the tunnel: no other link carries packets from or to them.
    pub own: Vec<IpAddr>,
    /// What may pass the device: the prefixes, while connected.
    pub through: Vec<IpNet>,
    /// Where our own packets may go.
    pub openings: Openings,
    /// Interfaces that may be talked to beside the tunnel, by name.
    pub trusted: BTreeSet<String>,
}

/// Where a tunnel's own packets may go, marked and sent by our user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Openings {
    /// Far ends that are dialled or connected to: TCP.
    pub remotes: Vec<SocketAddr>,
    /// Proxies on the way to far ends, as [`Self::remotes`]; others may use them too.
    #[serde(default)]
    pub proxies: Vec<SocketAddr>,
    /// Name servers, while a question to them is out: UDP and TCP.
    pub resolvers: Vec<SocketAddr>,
}

impl Openings {
    /// TCP to these addresses of a far end, or of the proxy on the way to it.
    pub fn to(addresses: Vec<SocketAddr>, are_a_proxys: bool) -> Self {
        let (remotes, proxies) = if are_a_proxys { (Vec::new(), addresses) } else { (addresses, Vec::new()) };
        Self { remotes, proxies, resolvers: Vec::new() }
    }
}

/// A tunnel that blocks.
struct Blocking<'a> {
    /// False: nothing is known of it, not even its mark.
    known: bool,
    /// None: it has none.
    dev: Option<&'a str>,
    mark: Mark,
    prefixes: &'a [IpNet],
    card: Option<&'a Card>,
    policy: &'a Policy,
}

/// All tunnels that block.
struct Host<'a> {
    tunnels: Vec<Blocking<'a>>,
    uid: u32,
}

/// The table for these plans; none when no tunnel blocks. `uid` is the user whose packets are our own. In an `emergency` there
/// is a tunnel beside them of which nothing is known: only what these plans let through passes.
pub fn firewall<'a>(plans: impl IntoIterator<Item = &'a Plan>, uid: u32, emergency: bool) -> Option<Table> {
    blocking(plans, uid, emergency).map(|host| host.table())
}

/// The guard for these plans: a table that holds the host alone while [`firewall`] is missing. It judges each packet that comes
/// in as the first chain of that one does, and each that goes out as the last, by flow marks too, which outlive the table.
/// Without sets: it is short to tell the kernel.
pub fn guard<'a>(plans: impl IntoIterator<Item = &'a Plan>, uid: u32, emergency: bool) -> Option<Table> {
    blocking(plans, uid, emergency).map(|host| host.guard())
}

fn blocking<'a>(plans: impl IntoIterator<Item = &'a Plan>, uid: u32, emergency: bool) -> Option<Host<'a>> {
    let blocking = |plan: &'a Plan| {
        let policy = plan.policy.as_ref()?;
        let mark = Mark { mark: plan.scope.mark, mask: plan.scope.mask };
        let dev = Some(plan.scope.dev.as_str()).filter(|dev| !dev.is_empty());
        Some(Blocking { known: true, dev, mark, prefixes: &plan.scope.prefixes, card: plan.card.as_ref(), policy })
    };
    let tunnels: Vec<_> = plans.into_iter().filter_map(blocking).chain(emergency.then_some(UNKNOWN)).collect();
    tunnels.iter().any(|tunnel| !tunnel.prefixes.is_empty()).then_some(Host { tunnels, uid })
}

impl Host<'_> {
    fn table(&self) -> Table {
        let chain = |hook, priority, rules| Chain { hook, priority, rules };
        let chains = vec![
            chain(Hook::Prerouting, -150, self.prerouting()),
            chain(Hook::Input, 0, self.input()),
            chain(Hook::Forward, 0, self.forward()),
            chain(Hook::Output, 0, self.output()),
            chain(Hook::Postrouting, 300, self.postrouting()),
        ];
        Table { name: TABLE, chains }
    }

    /// The way back of our own packets is checked by the way they went, and an own address is reached through the tunnel only.
    fn prerouting(&self) -> Vec<Rule> {
        let mut rules = self.each_mark(|mark| Rule {
            tests: vec![Test::Reply, Test::FlowMark(mark)],
            actions: vec![Action::SetMark(mark)],
            comment: "the way back of our own packets is looked up as the way out (rp_filter)",
        });
        rules.push(Rule::new(
            "through the tunnel, or from this host itself",
            [Test::In(self.inside())],
            Action::Accept,
        ));
        rules.extend(self.passing(Test::In));
        let trusted = self.trusted_interfaces();
        for family in Family::ALL {
            let not_to = |nets: Vec<IpNet>| if nets.is_empty() { Test::Family(family) } else { Test::NotTo(nets) };
            let own = self.own(family);
            // To a stranger, not even that there is no way.
            let unicast = |prefix: &IpNet| prefix.prefix_len() > 0 && !prefix.addr().is_multicast();
            let mut strangers: Vec<IpNet> = self.prefixes(family).into_iter().filter(unicast).collect();
            strangers.extend(&own);
            let strangers = IpNet::aggregate(&strangers);
            if !trusted.is_empty() && strangers != own {
                let tests = [Test::In(trusted.clone()), not_to(own)];
                rules.push(Rule::new("trusted interfaces, not to an own address", tests, Action::Accept));
            }
            rules.push(Rule::new("not to what belongs in a tunnel", [not_to(strangers)], Action::Accept));
        }
        rules.push(last());
        rules
    }

    fn input(&self) -> Vec<Rule> {
        let mut rules = vec![Rule::new("this host itself", [Test::In(vec![LOOPBACK.into()])], Action::Accept)];
        let answers = "answers to our own packets";
        rules.extend(self.each_mark(|mark| Rule::new(answers, [Test::FlowMark(mark), Test::Reply], Action::Accept)));
        let errors = "ICMP errors about them: path MTU, unreachable";
        rules.extend(self.each_mark(|mark| Rule::new(errors, [Test::FlowMark(mark), Test::Related], Action::Accept)));
        let advert = |devices| [Test::In(devices), Test::Icmpv6(vec!["nd-router-advert"])];
        let devices = self.devices();
        if !devices.is_empty() {
            rules.push(Rule::new("the far end gives no routes", advert(devices), Action::Drop));
        }
        let of_cards = |which: fn(&Card) -> &String| self.cards().map(which).cloned().collect::<Vec<_>>();
        if self.cards().next().is_some() {
            rules.push(Rule::new(
                "no stack of this host is on a card's bridge",
                [Test::In(of_cards(|card| &card.bridge))],
                Action::Drop,
            ));
            rules.push(Rule::new(
                "nor does the host behind give routes",
                advert(of_cards(|card| &card.port)),
                Action::Drop,
            ));
        }
        for dev in self.open_devices() {
            rules.push(Rule::new("out of the tunnel", [Test::In(vec![dev])], Action::Accept));
        }
        for own in Family::ALL.map(|family| self.own(family)).into_iter().filter(|own| !own.is_empty()) {
            rules.push(Rule::new("an own address is reached through the tunnel only", [Test::To(own)], Action::Drop));
        }
        rules.extend(link_keeping(
            (67, 68),
            (547, 546),
            &["nd-router-advert", "nd-neighbor-solicit", "nd-neighbor-advert", "mld-listener-query"],
        ));
        rules.extend(self.outside(|prefixes| vec![Test::NotFrom(prefixes)]));
        rules.extend(self.by_prefix(Test::From, |tunnel, _, from| {
            trusted(tunnel, |names| vec![from.clone(), Test::In(names)]).into_iter().collect()
        }));
        rules.push(last());
        rules
    }

    fn forward(&self) -> Vec<Rule> {
        let mut rules = self.each_mark(|mark| Rule::new(FORGED, [Test::Mark(mark)], Action::Drop));
        for card in self.cards() {
            let bridge = || vec![card.bridge.clone()];
            let tests = [Test::Family(Family::V6), Test::In(bridge()), Test::Out(bridge())];
            rules.push(Rule::new(BRIDGED, tests, Action::Accept));
            rules.push(Rule::new("and goes nowhere else", [Test::In(bridge())], Action::Drop));
        }
        rules.extend(self.outside(|prefixes| vec![Test::NotFrom(prefixes.clone()), Test::NotTo(prefixes)]));
        rules.extend(self.by_prefix(Test::To, |tunnel, prefix, to| {
            let beside = trusted(tunnel, |names| vec![to.clone(), Test::In(names.clone()), Test::Out(names)]);
            let into = |dev| trusted(tunnel, |names| vec![to.clone(), Test::In(names), Test::Out(dev)]);
            let out_of = |dev| trusted(tunnel, |names| vec![to.clone(), Test::In(dev), Test::Out(names)]);
            let dev = || tunnel.carries(prefix);
            [beside, dev().and_then(into), dev().and_then(out_of)].into_iter().flatten().collect()
        }));
        // What is left goes to where no tunnel leads: the way back of what trusted interfaces sent.
        rules.extend(self.by_prefix(Test::From, |tunnel, prefix, from| {
            let inside = self.prefixes(Family::of(prefix));
            if inside.iter().any(|prefix| prefix.prefix_len() == 0) {
                return Vec::new();
            }
            let tests = |dev| |names| vec![from.clone(), Test::NotTo(inside.clone()), Test::In(dev), Test::Out(names)];
            tunnel.carries(prefix).and_then(|dev| trusted(tunnel, tests(dev))).into_iter().collect()
        }));
        rules.push(last());
        rules
    }

    fn output(&self) -> Vec<Rule> {
        let mut rules = self.before_output();
        // One that nothing is known of has no mark: nothing is its own.
        for tunnel in self.tunnels.iter().filter(|tunnel| tunnel.known) {
            rules.extend(self.ours(tunnel));
        }
        rules.extend(self.each_mark(|mark| Rule::new(FORGED, [Test::Mark(mark)], Action::Drop)));
        rules.extend(self.no_imitation());
        rules.extend(self.beside_and_into());
        rules
    }

    /// Nobody else connects to a router that we connect to. A proxy is also others' way, unless everything belongs in a tunnel:
    /// then it would be a way beside it.
    fn no_imitation(&self) -> Vec<Rule> {
        let rule = |peer: &SocketAddr, comment| {
            let to = Test::To(vec![peer.ip().into()]);
            Rule::new(
                comment,
                [Test::NotOut(self.inside()), to, Test::ToPort(Transport::Tcp, peer.port())],
                Action::Drop,
            )
        };
        let openings = || self.tunnels.iter().map(|tunnel| &tunnel.policy.openings);
        let remotes: BTreeSet<_> = openings().flat_map(|openings| &openings.remotes).collect();
        let everything = |family| self.prefixes(family).iter().any(|prefix| prefix.prefix_len() == 0);
        let proxies: BTreeSet<_> = openings()
            .flat_map(|openings| &openings.proxies)
            .filter(|proxy| everything(Family::of(&proxy.ip().into())))
            .collect();
        let routers = remotes.into_iter().map(|peer| rule(peer, "nobody imitates us towards the router"));
        routers.chain(proxies.into_iter().map(|peer| rule(peer, "nobody imitates us towards the proxy"))).collect()
    }

    /// What a card's bridge passes on, where br_netfilter shows it to these hooks. This host itself sends no IPv6 there: the
    /// bridge has it disabled.
    fn passing(&self, by: fn(Vec<String>) -> Test) -> Option<Rule> {
        let bridges: Vec<String> = self.cards().map(|card| card.bridge.clone()).collect();
        (!bridges.is_empty()).then(|| Rule::new(BRIDGED, [Test::Family(Family::V6), by(bridges)], Action::Accept))
    }

    fn cards(&self) -> impl Iterator<Item = &Card> {
        self.tunnels.iter().filter_map(|tunnel| tunnel.card)
    }

    /// Judges the interface that a packet really goes out by, after whatever other tables did to it.
    fn postrouting(&self) -> Vec<Rule> {
        let mut rules: Vec<Rule> = self.passing(Test::Out).into_iter().collect();
        rules.extend(self.before_output());
        rules.extend(self.each_mark(known));
        rules.extend(self.each_mark(|mark| Rule::new(FORGED, [Test::Mark(mark)], Action::Drop)));
        rules.extend(self.beside_and_into());
        rules
    }

    /// The first and the last chain once more, as far as they judge.
    fn guard(&self) -> Table {
        let judges = |rule: &&Rule| matches!(rule.actions.as_slice(), [Action::Accept | Action::Drop]);
        let chain = |hook, priority, rules: Vec<Rule>| {
            let rules = rules.iter().filter(judges).flat_map(Rule::without_sets).collect();
            Chain { hook, priority, rules }
        };
        let chains =
            vec![chain(Hook::Prerouting, -149, self.prerouting()), chain(Hook::Postrouting, 301, self.postrouting())];
        Table { name: GUARD, chains }
    }

    fn before_output(&self) -> Vec<Rule> {
        let mut rules = vec![Rule::new("this host itself", [Test::Out(vec![LOOPBACK.into()])], Action::Accept)];
        for own in Family::ALL.map(|family| self.own(family)).into_iter().filter(|own| !own.is_empty()) {
            let tests = [Test::NotOut(self.inside()), Test::From(own)];
            rules.push(Rule::new("an own address in the tunnel is no source elsewhere", tests, Action::Drop));
        }
        rules
    }

    /// Our own packets: the mark alone proves nothing, CAP_NET_RAW is enough to set it.
    fn ours(&self, tunnel: &Blocking<'_>) -> Vec<Rule> {
        let Blocking { mark, policy: Policy { openings, .. }, .. } = tunnel;
        let to = |peer: &SocketAddr, transport, comment| Rule {
            tests: vec![
                Test::Mark(*mark),
                Test::User(self.uid),
                Test::To(vec![peer.ip().into()]),
                Test::ToPort(transport, peer.port()),
            ],
            actions: vec![Action::SetFlowMark(*mark), Action::Accept],
            comment,
        };
        let remotes = openings.remotes.iter().map(|peer| to(peer, Transport::Tcp, "our own connection to the router"));
        let proxies = openings.proxies.iter().map(|peer| to(peer, Transport::Tcp, "our own connection to the proxy"));
        let questions = openings.resolvers.iter().flat_map(|server| {
            [Transport::Udp, Transport::Tcp].map(|transport| to(server, transport, "our own question for its name"))
        });
        // What a process that is gone leaves behind belongs to no user any more.
        remotes.chain(proxies).chain(questions).chain([known(*mark)]).collect()
    }

    fn beside_and_into(&self) -> Vec<Rule> {
        let mut rules = link_keeping(
            (68, 67),
            (546, 547),
            &[
                "mld-listener-report",
                "mld-listener-done",
                "nd-router-solicit",
                "nd-neighbor-solicit",
                "nd-neighbor-advert",
                "mld2-listener-report",
            ],
        );
        rules.extend(self.outside(|prefixes| vec![Test::NotTo(prefixes)]));
        rules.extend(self.by_prefix(Test::To, |tunnel, prefix, to| {
            let beside = trusted(tunnel, |names| vec![to.clone(), Test::Out(names)]);
            let into = |dev| Rule::new("into the tunnel", [to.clone(), Test::Out(dev)], Action::Accept);
            beside.into_iter().chain(tunnel.carries(prefix).map(into)).collect()
        }));
        rules.push(last());
        rules
    }

    /// What holds for each prefix, the longest first, as the routing rules have it. What is said of a prefix is final: a
    /// packet does not go on to a shorter one.
    fn by_prefix(
        &self,
        side: impl Fn(Vec<IpNet>) -> Test,
        rules_for: impl Fn(&Blocking<'_>, &IpNet, Test) -> Vec<Rule>,
    ) -> Vec<Rule> {
        let mut all: Vec<(&IpNet, &Blocking<'_>)> =
            self.tunnels.iter().flat_map(|tunnel| tunnel.prefixes.iter().map(move |prefix| (prefix, tunnel))).collect();
        all.sort_by_key(|(prefix, _)| (Family::of(prefix) == Family::V4, Reverse(prefix.prefix_len()), **prefix));
        let mut rules = Vec::new();
        for (prefix, tunnel) in &all {
            let test = match prefix.prefix_len() {
                0 => Test::Family(Family::of(prefix)),
                _ => side(vec![**prefix]),
            };
            rules.extend(rules_for(tunnel, prefix, test.clone()));
            if all.iter().any(|(other, _)| other != prefix && other.contains(*prefix)) {
                rules.push(Rule::new("by no other tunnel", [test], Action::Drop));
            }
        }
        rules
    }

    /// What belongs in no tunnel passes.
    fn outside(&self, other_than: impl Fn(Vec<IpNet>) -> Vec<Test>) -> Vec<Rule> {
        let mut rules = Vec::new();
        for family in Family::ALL {
            let prefixes = self.prefixes(family);
            let tests = match prefixes.as_slice() {
                [] => vec![Test::Family(family)],
                [everything] if everything.prefix_len() == 0 => continue,
                _ => other_than(prefixes),
            };
            rules.push(Rule::new("what belongs in no tunnel", tests, Action::Accept));
        }
        rules
    }

    /// What belongs in any tunnel.
    fn prefixes(&self, family: Family) -> Vec<IpNet> {
        let all = self.tunnels.iter().flat_map(|tunnel| tunnel.prefixes);
        IpNet::aggregate(&all.filter(|prefix| Family::of(prefix) == family).copied().collect())
    }

    fn each_mark(&self, rule: impl Fn(Mark) -> Rule) -> Vec<Rule> {
        self.tunnels.iter().filter(|tunnel| tunnel.known).map(|tunnel| rule(tunnel.mark)).collect()
    }

    fn devices(&self) -> Vec<String> {
        self.tunnels.iter().filter_map(|tunnel| tunnel.dev).map(str::to_owned).collect()
    }

    fn open_devices(&self) -> Vec<String> {
        let open = |tunnel: &&Blocking<'_>| !tunnel.policy.through.is_empty();
        self.tunnels.iter().filter(open).filter_map(|tunnel| tunnel.dev).map(str::to_owned).collect()
    }

    fn trusted_interfaces(&self) -> Vec<String> {
        let all = self.tunnels.iter().flat_map(|tunnel| &tunnel.policy.trusted);
        all.collect::<BTreeSet<_>>().into_iter().cloned().collect()
    }

    /// Loopback and the tunnels.
    fn inside(&self) -> Vec<String> {
        [LOOPBACK.to_owned()].into_iter().chain(self.devices()).collect()
    }

    fn own(&self, family: Family) -> Vec<IpNet> {
        let own = self.tunnels.iter().flat_map(|tunnel| &tunnel.policy.own).map(|address| IpNet::from(*address));
        own.filter(|net| Family::of(net) == family).collect::<BTreeSet<_>>().into_iter().collect()
    }
}

impl Blocking<'_> {
    /// The device, if packets to or from this prefix may pass it now.
    fn carries(&self, prefix: &IpNet) -> Option<Vec<String>> {
        let open = self.policy.through.contains(prefix);
        self.dev.filter(|_| open).map(|dev| vec![dev.to_owned()])
    }
}

fn trusted(tunnel: &Blocking<'_>, tests: impl FnOnce(Vec<String>) -> Vec<Test>) -> Option<Rule> {
    let names: Vec<String> = tunnel.policy.trusted.iter().cloned().collect();
    (!names.is_empty()).then(|| Rule::new("trusted interfaces", tests(names), Action::Accept))
}

/// It is seen here where the module br_netfilter is loaded.
const BRIDGED: &str = "a host behind and enftund, by the card's bridge (br_netfilter)";
const FORGED: &str = "our mark on what is not ours";

/// A packet of a flow that was found to be ours.
fn known(mark: Mark) -> Rule {
    Rule::new("our own, known before", [Test::Mark(mark), Test::FlowMark(mark), Test::Original], Action::Accept)
}

/// A link keeps its addresses: DHCP as a client, with unicast renewals, and neighbour and router discovery.
fn link_keeping(dhcp4: (u16, u16), dhcp6: (u16, u16), icmpv6: &[&'static str]) -> Vec<Rule> {
    let dhcp = |family, (from, to)| {
        let tests = [Test::Family(family), Test::FromPort(Transport::Udp, from), Test::ToPort(Transport::Udp, to)];
        Rule::new("DHCP, as a client", tests, Action::Accept)
    };
    let discovery = Rule::new("neighbour and router discovery, MLD", [Test::Icmpv6(icmpv6.to_vec())], Action::Accept);
    vec![dhcp(Family::V4, dhcp4), dhcp(Family::V6, dhcp6), discovery]
}

fn last() -> Rule {
    Rule::new("everything else", [], Action::Drop)
}

/// A tunnel of which nothing is known, so that everything may belong in it.
const UNKNOWN: Blocking<'static> = Blocking {
    known: false,
    dev: None,
    mark: Mark { mark: 0, mask: 0 },
    prefixes: &EVERYTHING,
    card: None,
    policy: &NOTHING,
};
static EVERYTHING: [IpNet; 2] = [Family::V6.everything(), Family::V4.everything()];
static NOTHING: Policy = Policy {
    own: Vec::new(),
    through: Vec::new(),
    openings: Openings { remotes: Vec::new(), proxies: Vec::new(), resolvers: Vec::new() },
    trusted: BTreeSet::new(),
};

/// What holds before any configuration is known: nothing passes but loopback, neighbour discovery and DHCP.
pub fn emergency() -> Table {
    Host { tunnels: vec![UNKNOWN], uid: 0 }.table()
}
