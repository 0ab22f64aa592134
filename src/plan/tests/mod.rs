//! The layout against texts that a person can review, and the order of changes.
//! `ENFTUN_BLESS=1 cargo test plan` writes the texts anew.

mod firewall;

use super::*;
use crate::config::{
    Advertise, Enf, Host, Identity, Kind, Lockdown, Remote, Retry, Route as RouteConfig, Tpm, Tun, Tunnel,
};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) fn tunnel(prefixes: &[&str], allow_ipv4: bool) -> Tunnel {
    Tunnel {
        name: "enf0".into(),
        autoconnect: false,
        kind: Kind::Enf(Box::new(Enf {
            tun: Tun { dev: "enf0".into(), mtu: 1280, set_address: true, ipv4_address: None },
            dns: None,
            identity: Identity {
                cert_file: PathBuf::new(),
                key_file: PathBuf::new().into(),
                ip_file: None,
                source: vec![],
            },
            enrol: None,
            advertise: None,
        })),
        route: RouteConfig {
            prefixes: nets(prefixes),
            fwmark: 363,
            fwmark_mask: u32::MAX,
            table: 2097,
            trusted_interfaces: Vec::new(),
            trusted_groups: Vec::new(),
            allow_ipv4,
            lockdown: Lockdown::Boot,
        },
        remote: Remote {
            hosts: vec![Host::direct("router.example.net", 443)],
            ca_cert_file: Some(PathBuf::new().into()),
            name: None,
            heartbeat_period: Duration::from_secs(300),
            heartbeat_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(15),
            congestion_control: None,
            wire: crate::config::Wire::Auto,
        },
        retry: Retry::default(),
        tpm: Tpm::default(),
    }
}

fn build(tunnel: &Tunnel, wanted: &Wanted, kept: &[IpNet]) -> Plan {
    let openings = Openings::to(vec!["[2001:db8::1]:443".parse().unwrap()], false);
    super::build(tunnel, &BTreeMap::new(), Facts { wanted, kept, openings: &openings })
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn own() -> Vec<IpNet> {
    nets(&["fd00:8f80::5/128"])
}

#[test]
fn plans_read_as_reviewed() {
    let default = tunnel(&["::/0"], false);
    let both = tunnel(&["::/0", "0.0.0.0/0"], true);
    let prefix = tunnel(&["fd00:8f80::/32"], false);
    let several = tunnel(&["fd00:8f80::/32", "fd00:8f80:1::/48", "10.64.0.0/10"], true);
    let multicast = tunnel(&["ff05::/16", "ff08::1/128"], false);
    let mut trusting = default.clone();
    trusting.route.trusted_interfaces = vec!["eth1".into()];
    let mut off = default.clone();
    off.route.lockdown = Lockdown::Off;
    let mut no_address = prefix.clone();
    let Kind::Enf(enf) = &mut no_address.kind else { unreachable!() };
    enf.tun.set_address = false;
    let on_a_card = card(default.clone());
    let (forwards, alone) = (forwarding(&[]), forwarding(&["::/0", "0.0.0.0/0"]));
    let connected = || Wanted::Connected(own());
    let with_ipv4 = Wanted::Connected(nets(&["fd00:8f80::5/128", "10.64.0.7/32"]));
    let cases = [
        ("default.open", &default, Wanted::Open),
        ("default.blocked", &default, Wanted::Blocked),
        ("default.connecting", &default, Wanted::Connecting),
        ("default.connected", &default, connected()),
        ("default-ipv4.blocked", &both, Wanted::Blocked),
        ("default-ipv4.connected", &both, with_ipv4),
        ("prefix.blocked", &prefix, Wanted::Blocked),
        ("prefix.connected", &prefix, connected()),
        ("several.connected", &several, connected()),
        ("multicast.blocked", &multicast, Wanted::Blocked),
        ("multicast.connected", &multicast, connected()),
        ("no-address.connected", &no_address, connected()),
        ("trusting.blocked", &trusting, Wanted::Blocked),
        ("trusting.connected", &trusting, connected()),
        ("lockdown-off.connecting", &off, Wanted::Connecting),
        ("card.blocked", &on_a_card, Wanted::Blocked),
        ("card.connected", &on_a_card, connected()),
        ("forwarding.connected", &forwards, Wanted::Connected(Vec::new())),
        ("forwarding-alone.blocked", &alone, Wanted::Blocked),
        ("forwarding-alone.connected", &alone, Wanted::Connected(Vec::new())),
    ];
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/plan");
    for (name, tunnel, wanted) in cases {
        let kept = if tunnel.kind.enf().is_some() { own() } else { Vec::new() };
        let plan = build(tunnel, &wanted, &kept);
        let text = format!("{}{plan}", super::Host::of([&plan], 990));
        let file = directory.join(format!("{name}.sh"));
        if std::env::var_os("ENFTUN_BLESS").is_some() {
            std::fs::write(&file, &text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(&file).unwrap(), "{}", file.display());
    }
}

#[test]
fn a_proxy_is_opened_for_us_and_closed_to_others_only_when_everything_is_in_the_tunnel() {
    let openings = Openings::to(vec!["[2001:db8::1]:3128".parse().unwrap()], true);
    let rules = |prefix: &str| {
        let facts = Facts { wanted: &Wanted::Connecting, kept: &[], openings: &openings };
        let plan = super::build(&tunnel(&[prefix], false), &BTreeMap::new(), facts);
        let host = super::Host::of([&plan], 990).to_string();
        let about = host.lines().map(str::trim).filter(|line| line.contains("2001:db8::1"));
        about.map(str::to_owned).collect::<Vec<_>>()
    };
    let ours = "meta mark 0x16b meta skuid 990 ip6 daddr 2001:db8::1 tcp dport 3128 ct mark set 0x16b accept comment \"our own connection to the proxy\"";
    let nobody = "oifname != { \"lo\", \"enf0\" } ip6 daddr 2001:db8::1 tcp dport 3128 drop comment \"nobody imitates us towards the proxy\"";
    assert_eq!(rules("fd00:8f80::/32"), [ours]);
    assert_eq!(rules("::/0"), [ours, nobody]);
}

/// The kernel, as far as a diff sees it.
fn after(plan: &Plan) -> Observed {
    let link = plan.link.as_ref().map(|link| FoundLink {
        index: 2,
        attached: true,
        owned: true,
        mtu: link.mtu.into(),
        no_link_local: true,
        sysctls: true,
        up: true,
        carrier: link.carrier,
    });
    let card = plan.card.as_ref().map(|card| FoundCard {
        tap: Some(FoundTap {
            index: 3,
            attached: true,
            owned: true,
            bridged: true,
            deaf: DEAF,
            up: true,
            carrier: card.carrier,
        }),
        bridge: Some(FoundBridge { index: 4, options: true, deaf: DEAF, up: true }),
        ports: vec![card.port.clone()],
        port: FoundPort { absent: false, up: true, raised: true },
    });
    Observed {
        link,
        addresses: plan.addresses.clone(),
        routes: plan.routes.clone(),
        rules: plan.rules.clone(),
        card: card.unwrap_or_default(),
    }
}

const DEAF: Deaf = Deaf { no_link_local: true, sysctls: true };

/// The same on a router card, with the host behind on `usb0`.
fn card(mut tunnel: Tunnel) -> Tunnel {
    let Kind::Enf(enf) = &mut tunnel.kind else { unreachable!() };
    enf.tun.set_address = false;
    let ra_period = Duration::from_secs(600);
    let advertise = Advertise { dev: "usb0".into(), lladdr: None, router: true, dhcp6: true, ra_period };
    enf.advertise = Some(advertise);
    tunnel
}

/// A tunnel that carries no packets, and holds these prefixes back.
fn forwarding(prefixes: &[&str]) -> Tunnel {
    let text = "kind = \"aws-iot\"\naws.mode = \"source\"\naws.region = \"eu-central-1\"\n";
    let (tunnel, _) = crate::config::parse_tunnel("aws0", Path::new("aws0.toml"), Path::new("/"), text);
    let mut tunnel = tunnel.unwrap();
    tunnel.route.prefixes = nets(prefixes);
    tunnel.route.lockdown = if prefixes.is_empty() { Lockdown::Off } else { Lockdown::Boot };
    tunnel
}

#[test]
fn a_tunnel_that_carries_no_packets_passes_what_another_blocks_and_blocks_nothing_itself() {
    let openings = Openings::to(vec!["192.0.2.7:443".parse().unwrap()], false);
    let facts = Facts { wanted: &Wanted::Connecting, kept: &[], openings: &openings };
    let beside = super::build(&forwarding(&[]), &BTreeMap::new(), facts);
    assert_eq!(super::firewall([&beside], 990, false), None, "alone it needs no firewall");
    assert_eq!((&beside.link, beside.routes.len(), beside.scope.table), (&None, 0, 0));
    let blocking = build(&tunnel(&["::/0"], false), &Wanted::Connecting, &own());
    let host = super::Host::of([&blocking, &beside], 990).to_string();
    let ours = "meta mark 0x16e meta skuid 990 ip daddr 192.0.2.7 tcp dport 443 ct mark set 0x16e accept comment \"our own connection to the router\"";
    assert!(host.lines().any(|line| line.trim() == ours), "{host}");
    let nobody = host.lines().filter(|line| line.contains("192.0.2.7") && line.contains("drop"));
    assert_eq!(nobody.count(), 1, "nobody imitates it: {host}");
    assert!(!host.contains("\"\""), "no device without a name: {host}");
}

fn states(tunnel: &Tunnel) -> [Plan; 4] {
    [Wanted::Open, Wanted::Blocked, Wanted::Connecting, Wanted::Connected(own())]
        .map(|wanted| build(tunnel, &wanted, &own()))
}

#[test]
fn a_plan_in_force_needs_no_change_and_all_of_it_is_of_its_scope() {
    let several = tunnel(&["fd00::/8", "ff00::/8", "10.0.0.0/8"], true);
    let forwarding = [forwarding(&[]), forwarding(&["::/0", "0.0.0.0/0"])];
    for tunnel in [tunnel(&["::/0"], false), several.clone(), card(several)].into_iter().chain(forwarding) {
        for plan in states(&tunnel) {
            assert_eq!(diff(&plan, &after(&plan)), []);
            assert!(plan.rules.iter().all(|rule| plan.scope.owns_rule(rule)));
            assert!(plan.routes.iter().all(|route| plan.scope.owns_route(route)));
        }
    }
}

#[test]
fn at_no_step_between_two_blocking_states_is_a_rule_that_blocks_missing() {
    let [_, blocked, connecting, connected] = states(&tunnel(&["::/0"], false));
    for (from, to) in [(&blocked, &connected), (&connected, &blocked), (&connecting, &connected)] {
        let changes = diff(to, &after(from));
        assert!(!changes.is_empty());
        let touches_rules = |change: &Change| matches!(change, Change::AddRule(_) | Change::DeleteRule(_));
        assert!(!changes.iter().any(touches_rules), "{changes:?}");
    }
}

#[test]
fn on_the_way_up_rules_come_first_and_on_the_way_down_last() {
    let [open, _, _, connected] = states(&tunnel(&["::/0"], false));
    let unreachable = |rule: &Rule| rule.action == Action::Unreachable;
    let up = diff(&connected, &Observed::default());
    let lookup = up
        .iter()
        .position(|change| matches!(change, Change::AddRule(rule) if !unreachable(rule) && rule.preference > 300));
    let backed = up
        .iter()
        .position(|change| matches!(change, Change::AddRule(rule) if unreachable(rule) && rule.preference > 300));
    assert!(backed < lookup);
    let last_rule = up.iter().rposition(|change| matches!(change, Change::AddRule(_)));
    assert!(last_rule < up.iter().position(|change| matches!(change, Change::CreateLink(_))));
    assert_eq!(up.last(), Some(&Change::SetCarrier("enf0".into(), true)));

    let down = diff(&open, &after(&connected));
    assert_eq!(down.first(), Some(&Change::SetCarrier("enf0".into(), false)));
    let deleted_link = down.iter().position(|change| matches!(change, Change::DeleteLink(_)));
    assert!(deleted_link < down.iter().position(|change| matches!(change, Change::DeleteRule(_))));
    let holds = |change: &Change| match change {
        Change::DeleteRule(rule) => unreachable(rule),
        Change::DeleteRoute(route) => route.target == Target::Unreachable,
        _ => false,
    };
    let first_that_holds = down.iter().position(holds).unwrap();
    assert!(down[first_that_holds..].iter().all(holds), "{down:?}");
}

#[test]
fn what_is_missing_is_added_before_what_is_too_much_is_deleted() {
    let plan = build(&tunnel(&["fd00:8f80::/32"], false), &Wanted::Connected(own()), &[]);
    let mut found = after(&plan);
    found.addresses = vec![Address::own(nets(&["fd00:8f80::6/128"])[0], "enf0")];
    found.routes[0].by_kernel = false;
    let stale = Rule::new(Family::V6, Match::To(nets(&["fd00:9::/32"])[0]), Action::Lookup(2097));
    found.rules.push(stale.clone());
    let changes = diff(&plan, &found);
    assert_eq!(
        changes,
        [
            Change::AddAddress(plan.addresses[0].clone()),
            Change::AddRoute(plan.routes[0].clone()),
            Change::DeleteRoute(found.routes[0].clone()),
            Change::DeleteAddress(found.addresses[0].clone()),
            Change::DeleteRule(stale),
        ]
    );
}

#[test]
fn other_rules_and_routes_are_not_of_the_scope() {
    let scope = Scope::of(&tunnel(&["::/0"], false));
    let [everything, other] = [nets(&["::/0"])[0], nets(&["fd00::/8"])[0]];
    let ours = Rule::new(Family::V6, Match::To(everything), Action::Unreachable);
    assert!(scope.owns_rule(&ours));
    assert!(!scope.owns_rule(&Rule { preference: 558, ..ours.clone() }));
    assert!(!scope.owns_rule(&Rule::new(Family::V6, Match::To(other), Action::Unreachable)));
    assert!(!scope.owns_rule(&Rule::new(Family::V6, Match::Mark { mark: 363, mask: 0xff }, Action::Unreachable)));
    assert!(!scope.owns_rule(&Rule { preference: 32_766, action: Action::Lookup(2097), ..ours }));
    let route = Route::no_multicast(nets(&["ff00::/8"])[0]);
    assert!(scope.owns_route(&route));
    assert!(!scope.owns_route(&Route { metric: 256, ..route.clone() }));
    assert!(!scope.owns_route(&Route { table: Route::MAIN, ..route }));
}

#[test]
fn a_longer_prefix_is_always_tried_before_a_shorter_one() {
    for family in Family::ALL {
        let longest = family.everything().max_prefix_len();
        let preferences: Vec<u32> = (0..=longest)
            .rev()
            .flat_map(|length| {
                let prefix = IpNet::new(family.everything().addr(), length).unwrap();
                [Action::Lookup(2097), Action::Unreachable]
                    .map(|action| Rule::new(family, Match::To(prefix), action).preference)
            })
            .collect();
        assert!(preferences.is_sorted_by(|a, b| a < b));
        assert!(preferences.iter().all(|preference| BLOCK.contains(preference) && *preference > 250));
    }
}

#[test]
fn a_card_is_made_before_frames_flow_and_gives_its_port_back_as_it_was() {
    let [open, _, _, connected] = states(&card(tunnel(&["::/0"], false)));
    let of_card = |changes: Vec<Change>| -> Vec<String> {
        changes
            .into_iter()
            .filter(|change| matches!(change, Change::Card(_)))
            .map(|change| change.to_string())
            .collect()
    };
    let up = of_card(diff(&connected, &Observed::default()));
    let at = |command: &str| {
        up.iter().position(|line| line.starts_with(command)).unwrap_or_else(|| panic!("{command}: {up:#?}"))
    };
    // No stack of this host is on a device that is up.
    for dev in ["enf0-tap", "enf0-br"] {
        assert!(
            at(&format!("echo 1 > /proc/sys/net/ipv6/conf/{dev}/disable_ipv6"))
                < at(&format!("ip link set dev {dev} up"))
        );
    }
    assert_eq!(up.last().unwrap(), "# enftund turns the carrier of enf0-tap on");
    let down = of_card(diff(&open, &after(&connected)));
    let expected = [
        "ip link del dev enf0-tap",
        "ip link set dev usb0 nomaster",
        "ip link del dev enf0-br",
        "ip link set dev usb0 down",
    ];
    assert_eq!(down, expected);
    let mut was_up = after(&connected);
    was_up.card.port.raised = false;
    assert_eq!(of_card(diff(&open, &was_up)), expected[..3]);
}

#[test]
fn a_port_that_is_not_there_is_waited_for_and_whatever_else_is_in_the_bridge_is_put_out() {
    let plan = build(&card(tunnel(&["::/0"], false)), &Wanted::Connecting, &own());
    let mut found = after(&plan);
    (found.card.port, found.card.ports) = (FoundPort { absent: true, ..FoundPort::default() }, vec![]);
    assert_eq!(diff(&plan, &found), []);
    found.card.port = FoundPort { absent: false, up: false, raised: false };
    found.card.ports = vec!["eth1".into()];
    let changes: Vec<String> = diff(&plan, &found).iter().map(ToString::to_string).collect();
    assert_eq!(
        changes,
        ["ip link set dev eth1 nomaster", "ip link set dev usb0 master enf0-br", "ip link set dev usb0 up"]
    );
}

#[test]
fn frames_flow_once_it_is_known_whose_address_the_host_behind_has() {
    let card = card(tunnel(&["::/0"], false));
    let carrier = |wanted: &Wanted, kept: &[IpNet]| build(&card, wanted, kept).card.map(|card| card.carrier);
    assert_eq!(carrier(&Wanted::Connecting, &[]), Some(false));
    assert_eq!(carrier(&Wanted::Connecting, &own()), Some(true), "also while it reconnects");
    assert_eq!(carrier(&Wanted::Connected(own()), &[]), Some(true));
    assert_eq!((carrier(&Wanted::Blocked, &own()), carrier(&Wanted::Open, &own())), (None, None));
}

#[test]
fn plans_that_were_written_down_before_there_were_cards_are_read() {
    let plan = build(&tunnel(&["::/0"], false), &Wanted::Connecting, &[]);
    let mut value = serde_json::to_value(&plan).unwrap();
    value.as_object_mut().unwrap().remove("card");
    value["scope"].as_object_mut().unwrap().remove("port");
    assert_eq!(serde_json::from_value::<Plan>(value).unwrap(), plan);
}
