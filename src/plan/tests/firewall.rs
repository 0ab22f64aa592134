//! What the table lets pass, judged packet by packet as the kernel would: for any set of tunnels, trusted interfaces and
//! openings, nothing that belongs in a tunnel goes out, comes in or passes by another way.

use super::*;
use crate::plan::nft::{Action as Done, Chain, Hook, Table, Test, Transport};
use proptest::prelude::*;
use std::net::IpAddr;

const UID: u32 = 990;

/// What a chain can know of a packet.
#[derive(Clone, Debug)]
struct Packet {
    comes_by: &'static str,
    goes_by: &'static str,
    source: IpAddr,
    destination: IpAddr,
    mark: u32,
    uid: u32,
    transport: Option<(Transport, u16, u16)>,
    icmpv6: Option<&'static str>,
    flow_mark: u32,
    original: bool,
}

fn holds(test: &Test, packet: &Packet) -> bool {
    let within = |nets: &[IpNet], address: IpAddr| nets.iter().any(|net| net.contains(&address));
    let same_family = |nets: &[IpNet]| nets.iter().all(|net| net.addr().is_ipv4() == packet.source.is_ipv4());
    match test {
        Test::In(names) => names.iter().any(|name| name == packet.comes_by),
        Test::Out(names) => names.iter().any(|name| name == packet.goes_by),
        Test::NotOut(names) => !names.iter().any(|name| name == packet.goes_by),
        Test::From(nets) => within(nets, packet.source),
        Test::To(nets) => within(nets, packet.destination),
        Test::NotFrom(nets) => same_family(nets) && !within(nets, packet.source),
        Test::NotTo(nets) => same_family(nets) && !within(nets, packet.destination),
        Test::Family(family) => (*family == Family::V4) == packet.source.is_ipv4(),
        Test::Mark(mark) => packet.mark & mark.mask == mark.mark,
        Test::FlowMark(mark) => packet.flow_mark & mark.mask == mark.mark,
        Test::Original => packet.original,
        Test::Reply => !packet.original,
        Test::Related => false,
        Test::User(uid) => packet.uid == *uid,
        Test::FromPort(transport, port) => {
            packet.transport.is_some_and(|(of, from, _)| (of, from) == (*transport, *port))
        }
        Test::ToPort(transport, port) => packet.transport.is_some_and(|(of, _, to)| (of, to) == (*transport, *port)),
        Test::Icmpv6(types) => packet.icmpv6.is_some_and(|kind| types.contains(&kind)),
    }
}

/// Whether the chain lets it pass; marks are changed on the way.
fn passes(table: &Table, hook: Hook, packet: &mut Packet) -> bool {
    let chain = table.chains.iter().find(|chain| chain.hook == hook).unwrap();
    for rule in chain.rules.iter() {
        if rule.tests.iter().all(|test| holds(test, packet)) {
            for action in &rule.actions {
                match action {
                    Done::Accept => return true,
                    Done::Drop => return false,
                    Done::SetMark(mark) => packet.mark = packet.mark & !mark.mask | mark.mark,
                    Done::SetFlowMark(mark) => packet.flow_mark = packet.flow_mark & !mark.mask | mark.mark,
                }
            }
        }
    }
    panic!("the chain does not end in a drop: {chain:?}")
}

/// Out of this host.
fn leaves(table: &Table, packet: &Packet) -> bool {
    let mut packet = packet.clone();
    passes(table, Hook::Output, &mut packet) && passes(table, Hook::Postrouting, &mut packet)
}

const REMOTE: &str = "2001:db8::1";
/// Of the first tunnel, if it is a card.
const BRIDGE: &str = "enf0-br";

/// It is of a card's bridge: the kernel's own where there is no card.
fn is_of_bridge(plans: &[Plan], link: &str) -> bool {
    link == BRIDGE && plans.iter().any(|plan| plan.card.is_some())
}

fn tunnels() -> impl Strategy<Value = Vec<Plan>> {
    let wanted = prop_oneof![Just(Wanted::Blocked), Just(Wanted::Connecting), Just(Wanted::Connected(own()))];
    let one = (wanted, 0..3, any::<bool>(), 0..3, any::<bool>());
    proptest::collection::vec(one, 1..3).prop_map(|all| {
        let plan =
            |(number, (wanted, which, trusting, dialling, on_a_card)): (usize, (Wanted, i32, bool, i32, bool))| {
                let prefixes: &[&str] = match (number, which) {
                    (0, 0) => &["::/0"],
                    (0, _) => &["fd00:8f80::/32", "ff05::/16"],
                    (_, 0) => &["fd00:9::/32"],
                    _ => &["fd00:8f80:1::/48"],
                };
                let tunnel = tunnel(prefixes, false);
                // One port, one host behind.
                let mut tunnel = if on_a_card && number == 0 { card(tunnel) } else { tunnel };
                let Kind::Enf(enf) = &mut tunnel.kind else { unreachable!() };
                enf.tun.dev = format!("enf{number}");
                tunnel.route.fwmark = 363 + number as u32;
                tunnel.route.table += number as u32;
                if trusting {
                    tunnel.route.trusted_interfaces = vec![format!("trusted{number}")];
                }
                let openings = match dialling {
                    0 => Openings::default(),
                    by_proxy => Openings::to(vec![format!("[{REMOTE}]:443").parse().unwrap()], by_proxy == 2),
                };
                super::super::build(
                    &tunnel,
                    &BTreeMap::new(),
                    Facts { wanted: &wanted, kept: &[], openings: &openings },
                )
            };
        all.into_iter().enumerate().map(plan).collect()
    })
}

fn packets() -> impl Strategy<Value = Packet> {
    let link = prop::sample::select(vec!["eth0", "trusted0", "trusted1", "enf0", "enf1", BRIDGE, "usb0"]);
    let v6 = [
        REMOTE,
        "2001:db8:9::9",
        "fd00:8f80::9",
        "fd00:8f80:1::9",
        "fd00:9::9",
        "fd00:8f80::5",
        "fe80::9",
        "ff02::1",
        "ff05::1",
    ];
    let v4 = ["192.0.2.1", "10.64.0.9", "255.255.255.255", "224.0.0.1"];
    let pair = prop_oneof![
        (prop::sample::select(v6.to_vec()), prop::sample::select(v6.to_vec())),
        (prop::sample::select(v4.to_vec()), prop::sample::select(v4.to_vec())),
    ];
    let port = || prop_oneof![Just(443), Just(53), Just(68), Just(67), Just(546), Just(547), Just(9999)];
    let transport = proptest::option::of((prop_oneof![Just(Transport::Tcp), Just(Transport::Udp)], port(), port()));
    let icmp =
        proptest::option::of(prop_oneof![Just("echo-request"), Just("nd-neighbor-solicit"), Just("nd-router-advert")]);
    let mark = || prop_oneof![Just(0), Just(363), Just(364), Just(7)];
    (link.clone(), link, pair, mark(), prop_oneof![Just(0), Just(UID)], transport, icmp, mark(), any::<bool>())
        .prop_map(|(comes_by, goes_by, (source, destination), mark, uid, transport, icmpv6, flow_mark, original)| {
            Packet {
                comes_by,
                goes_by,
                source: source.parse().unwrap(),
                destination: destination.parse().unwrap(),
                mark,
                uid,
                transport,
                icmpv6: icmpv6.filter(|_| transport.is_none() && source.contains(':')),
                flow_mark,
                original,
            }
        })
}

/// The tunnel that a packet to this address belongs in: that with the longest prefix.
fn owner(plans: &[Plan], address: IpAddr) -> Option<&Plan> {
    let length = |plan: &&Plan| {
        plan.scope.prefixes.iter().filter(|net| net.contains(&address)).map(|net| net.prefix_len() + 1).max()
    };
    plans.iter().filter(|plan| length(plan).is_some()).max_by_key(length)
}

/// What keeps a link alive.
fn keeps_link(packet: &Packet) -> bool {
    let ports = packet.transport.filter(|(transport, ..)| *transport == Transport::Udp).map(|(_, from, to)| (from, to));
    let v4 = packet.source.is_ipv4();
    let dhcp = |out| {
        ports
            == Some(if v4 {
                [(67, 68), (68, 67)][usize::from(out)]
            } else {
                [(547, 546), (546, 547)][usize::from(out)]
            })
    };
    dhcp(true) || dhcp(false) || packet.icmpv6.is_some_and(|kind| kind.starts_with("nd-"))
}

fn ours(plans: &[Plan], packet: &Packet) -> bool {
    plans.iter().any(|plan| {
        let policy = plan.policy.as_ref().unwrap();
        let marked = packet.mark & plan.scope.mask == plan.scope.mark;
        let Openings { remotes, proxies, .. } = &policy.openings;
        let to_remote = remotes.iter().chain(proxies).any(|remote| {
            packet.destination == remote.ip()
                && packet.transport.is_some_and(|(transport, _, to)| (transport, to) == (Transport::Tcp, remote.port()))
        });
        let known = packet.flow_mark & plan.scope.mask == plan.scope.mark && packet.original;
        marked && (known || (packet.uid == UID && to_remote))
    })
}

fn trusted(plan: &Plan, link: &str) -> bool {
    plan.trusted.contains_key(link)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_belongs_in_a_tunnel_leaves_by_no_other_way(plans in tunnels(), packet in packets()) {
        let table = super::super::firewall(&plans, UID, false).unwrap();
        if leaves(&table, &packet) && !keeps_link(&packet) && !ours(&plans, &packet) {
            if let Some(plan) = owner(&plans, packet.destination) {
                let through = packet.goes_by == plan.scope.dev && matches!(&plan.link, Some(link) if link.carrier);
                prop_assert!(through || trusted(plan, packet.goes_by), "{packet:?} leaves");
            }
            let marked = plans.iter().any(|plan| packet.mark & plan.scope.mask == plan.scope.mark);
            prop_assert!(!marked, "{packet:?} leaves with a mark that is not its own");
        }
    }

    #[test]
    fn what_belongs_in_no_tunnel_leaves_as_without_any(plans in tunnels(), mut packet in packets()) {
        let table = super::super::firewall(&plans, UID, false).unwrap();
        packet.mark = 0;
        let own = plans.iter().flat_map(|plan| &plan.policy.as_ref().unwrap().own).any(|own| *own == packet.source);
        // Of a proxy it says nothing: this destination is in no tunnel, so not everything is.
        let direct = plans.iter().any(|plan| !plan.policy.as_ref().unwrap().openings.remotes.is_empty());
        let to_router = direct && packet.transport.is_some_and(|(_, _, to)| to == 443) && packet.destination == REMOTE.parse::<IpAddr>().unwrap();
        let device = packet.goes_by.starts_with("enf") && packet.goes_by != BRIDGE;
        if owner(&plans, packet.destination).is_none() && !own && !to_router && !device {
            prop_assert!(leaves(&table, &packet), "{packet:?} is held");
        }
    }

    #[test]
    fn while_everything_is_in_a_tunnel_nobody_else_reaches_its_router_or_proxy(plans in tunnels(), mut packet in packets()) {
        (packet.mark, packet.flow_mark, packet.destination) = (0, 0, REMOTE.parse().unwrap());
        packet.transport = Some((Transport::Tcp, 4000, 443));
        let everything = plans.iter().any(|plan| plan.scope.prefixes.iter().any(|prefix| prefix.prefix_len() == 0));
        let dialled = plans.iter().any(|plan| plan.policy.as_ref().unwrap().openings != Openings::default());
        let beside = packet.goes_by == BRIDGE || !packet.goes_by.starts_with("enf");
        if everything && dialled && beside && packet.source.is_ipv6() {
            prop_assert!(!leaves(&super::super::firewall(&plans, UID, false).unwrap(), &packet), "{packet:?} leaves");
        }
    }

    #[test]
    fn nothing_comes_in_from_where_a_tunnel_should_have_brought_it(plans in tunnels(), packet in packets()) {
        let table = super::super::firewall(&plans, UID, false).unwrap();
        let mut seen = packet.clone();
        let comes_in = passes(&table, Hook::Prerouting, &mut seen) && passes(&table, Hook::Input, &mut seen);
        let answer = plans.iter().any(|plan| !packet.original && packet.flow_mark & plan.scope.mask == plan.scope.mark);
        let tunnel = packet.comes_by.starts_with("enf") && packet.comes_by != BRIDGE;
        prop_assert!(!(comes_in && !answer && is_of_bridge(&plans, packet.comes_by)), "{packet:?} comes in by the bridge");
        let advert = packet.icmpv6 == Some("nd-router-advert") && packet.comes_by == "usb0";
        prop_assert!(!(comes_in && !answer && advert && plans.iter().any(|plan| plan.card.is_some())), "{packet:?} comes in");
        if comes_in && !answer && !tunnel {
            let to_own = plans.iter().any(|plan| {
                plan.policy.as_ref().unwrap().own.contains(&packet.destination)
            });
            prop_assert!(!to_own, "{packet:?} reaches an own address beside the tunnel");
            if let Some(plan) = owner(&plans, packet.source) {
                prop_assert!(keeps_link(&packet) || trusted(plan, packet.comes_by), "{packet:?} comes in");
            }
        }
    }

    #[test]
    fn nothing_passes_through_beside_a_tunnel(plans in tunnels(), packet in packets()) {
        let table = super::super::firewall(&plans, UID, false).unwrap();
        let mut packet = packet;
        packet.mark = 0;
        let bridged = |link| is_of_bridge(&plans, link);
        if bridged(packet.comes_by) && bridged(packet.goes_by) && packet.source.is_ipv6() {
            // Between the host behind and the daemon, whatever it is.
            for hook in [Hook::Prerouting, Hook::Forward, Hook::Postrouting] {
                prop_assert!(passes(&table, hook, &mut packet.clone()), "{packet:?} is held in {hook:?}");
            }
        } else if passes(&table, Hook::Forward, &mut packet.clone()) {
            prop_assert!(!bridged(packet.comes_by), "{packet:?} leaves the bridge");
            let (from, to) = (owner(&plans, packet.source), owner(&plans, packet.destination));
            let inside = |plan: &Plan, link: &str| link == plan.scope.dev || trusted(plan, link);
            if let Some(plan) = to {
                prop_assert!(inside(plan, packet.comes_by) && inside(plan, packet.goes_by), "{packet:?} passes");
            } else if let Some(plan) = from {
                prop_assert!(packet.comes_by == plan.scope.dev && trusted(plan, packet.goes_by), "{packet:?} passes");
            }
        }
    }

    #[test]
    fn every_chain_ends_in_an_explicit_drop(plans in tunnels()) {
        let table = super::super::firewall(&plans, UID, false).unwrap();
        for Chain { rules, .. } in table.chains.iter().chain(&crate::plan::emergency().chains) {
            let last = rules.last().unwrap();
            prop_assert!(last.tests.is_empty() && last.actions == [Done::Drop]);
        }
    }

    #[test]
    fn an_emergency_beside_tunnels_opens_nothing(plans in tunnels(), packet in packets()) {
        let table = |emergency| super::super::firewall(&plans, UID, emergency).unwrap();
        prop_assert!(!leaves(&table(true), &packet) || leaves(&table(false), &packet), "{packet:?}");
    }

    #[test]
    fn the_guard_alone_judges_what_comes_and_leaves_as_the_firewall_does(plans in tunnels(), packet in packets()) {
        let table = super::super::firewall(&plans, UID, false).unwrap();
        let guard = super::super::guard(&plans, UID, false).unwrap();
        for hook in [Hook::Prerouting, Hook::Postrouting] {
            let judges = |table| passes(table, hook, &mut packet.clone());
            prop_assert_eq!(judges(&guard), judges(&table));
        }
    }

    #[test]
    fn in_an_emergency_only_what_keeps_a_link_leaves_or_comes_in(packet in packets()) {
        let table = crate::plan::emergency();
        prop_assert_eq!(leaves(&table, &packet), leaves(&table, &packet) && keeps_link(&packet));
        for hook in [Hook::Output, Hook::Postrouting] {
            prop_assert!(!passes(&table, hook, &mut packet.clone()) || keeps_link(&packet), "{hook:?}: {packet:?}");
        }
        let mut seen = packet.clone();
        let comes_in = passes(&table, Hook::Prerouting, &mut seen) && passes(&table, Hook::Input, &mut seen);
        prop_assert!(!comes_in || keeps_link(&packet), "{packet:?}");
        prop_assert!(!passes(&table, Hook::Forward, &mut packet.clone()));
    }
}

#[test]
fn without_a_tunnel_that_blocks_there_is_no_table() {
    let mut off = tunnel(&["::/0"], false);
    off.route.lockdown = Lockdown::Off;
    assert_eq!(super::super::firewall([&build(&off, &Wanted::Connecting, &[])], UID, false), None);
    let open = build(&tunnel(&["::/0"], false), &Wanted::Open, &[]);
    assert_eq!(super::super::firewall([&open], UID, false), None);
    assert_eq!(super::super::guard([&open], UID, false), None);
}
