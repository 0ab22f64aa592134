//! The host's firewall as it gets into the kernel: by text, by JSON, replaced, read back, and taken away.

use crate::common::netns::{Netns, block_on, in_netns, sh, state_of_host};
use enftun::config::{self, Group, Tunnel};
use enftun::kernel::Kernel;
use enftun::plan::{self, Facts, Host, Openings, Plan};
use enftun::state::Wanted;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::path::Path;

fn tunnel(name: &str, route: &str) -> Tunnel {
    let text = format!(
        "kind = \"enf\"\n[remote]\nhosts = [\"2001:db8::1\"]\nname = \"router\"\n[tun]\n{}\n[route]\n{route}\n",
        if route.contains("allow_ipv4") { "ipv4_address = \"10.64.0.7/32\"" } else { "" }
    );
    let (tunnel, findings) = config::parse_tunnel(name, Path::new("enf0.toml"), Path::new("/"), &text);
    tunnel.unwrap_or_else(|| panic!("{findings:?}"))
}

fn trusting(mut tunnel: Tunnel, interfaces: &[&str], groups: &[&str]) -> Tunnel {
    tunnel.route.trusted_interfaces = interfaces.iter().map(|name| (*name).to_owned()).collect();
    tunnel.route.trusted_groups = groups.iter().map(|name| (*name).to_owned()).collect();
    tunnel
}

fn nets(nets: &[&str]) -> Vec<IpNet> {
    nets.iter().map(|net| net.parse().unwrap()).collect()
}

fn plan(tunnel: &Tunnel, wanted: &Wanted, openings: &Openings) -> Plan {
    let lan = Group { number: 364, interfaces: vec!["eth1".into(), "wlan0".into()] };
    let groups = BTreeMap::from([("lan".to_owned(), lan)]);
    plan::build(tunnel, &groups, Facts { wanted, kept: &nets(&["fd00:8f80::5/128"]), openings })
}

/// Everything that can stand in the table: each sort of tunnel in each state, alone and with others.
pub(super) fn hosts() -> Vec<(String, Host)> {
    let tunnels = [
        ("everything", "prefixes = [\"default\"]"),
        ("everything with IPv4", "prefixes = [\"default\"]\nallow_ipv4 = true"),
        ("a prefix", "prefixes = [\"fd00:8f80::/32\"]"),
        (
            "many prefixes",
            "prefixes = [\"fd00:1::/32\", \"fd00:2::/32\", \"fd00:3::/32\", \"fd00:3:1::/48\", \"fd01::1/128\", \"10.64.0.0/16\", \"10.65.0.0/16\", \"10.70.0.1/32\"]\nallow_ipv4 = true\nfwmark = 0x16b\nfwmark_mask = 0xfff",
        ),
        ("multicast", "prefixes = [\"ff05::/16\", \"fd00::/8\"]\nfwmark_mask = 0xffff"),
    ];
    let openings = [
        Openings::default(),
        Openings {
            remotes: vec!["[2001:db8::1]:443".parse().unwrap(), "192.0.2.1:444".parse().unwrap()],
            proxies: vec!["[2001:db8::1]:3128".parse().unwrap(), "192.0.2.1:1080".parse().unwrap()],
            resolvers: vec![],
        },
        Openings {
            remotes: vec![],
            proxies: vec![],
            resolvers: vec!["192.0.2.53:53".parse().unwrap(), "[fd00::53]:53".parse().unwrap()],
        },
    ];
    let own = || Wanted::Connected(nets(&["fd00:8f80::5/128", "fd00:8f80::6/128", "10.64.0.7/32"]));
    let mut hosts = vec![("nothing".to_owned(), Host::default())];
    let mut tunnels = tunnels.map(|(what, route)| (what, tunnel("enf0", route))).to_vec();
    tunnels.push(("trusting", trusting(tunnels[0].1.clone(), &["eth7"], &["lan"])));
    for (what, tunnel) in &tunnels {
        for wanted in [Wanted::Blocked, Wanted::Connecting, own()] {
            for openings in &openings {
                let host = Host::of(&[plan(tunnel, &wanted, openings)], 65_534);
                hosts.push((format!("{what}, {wanted:?}, {openings:?}"), host));
            }
        }
    }
    let second = tunnel("enf1", "prefixes = [\"fd00:8f80::/32\"]\nfwmark = 7\nfwmark_mask = 0xf\ntable = 9");
    let second = trusting(second, &[], &["lan"]);
    let both = [plan(&tunnels[0].1, &own(), &openings[1]), plan(&second, &own(), &openings[2])];
    hosts.push(("two tunnels, one in the other".to_owned(), Host::of(&both, 65_534)));
    hosts
}

#[test]
fn the_printed_ruleset_and_the_json_make_the_same_table() {
    in_netns("the_printed_ruleset_and_the_json_make_the_same_table", || {
        for (what, host) in hosts() {
            let Some(table) = &host.firewall else { continue };
            let (by_text, by_json) = (Netns::new(), Netns::new());
            by_text.exec(&format!("nft -f - <<'EOF'\n{table}\nEOF"));
            by_json.run(|| block_on(async { kernel().apply_host(&firewall_of(&host)).await.unwrap() }));
            let list = |netns: &Netns| netns.exec("nft -j list table inet enftun");
            assert_eq!(list(&by_text), list(&by_json), "{what}");
        }
    });
}

/// The firewall alone: the rest needs interfaces.
fn firewall_of(host: &Host) -> Host {
    Host { firewall: host.firewall.clone(), ..Host::default() }
}

fn kernel() -> Kernel {
    Kernel::new(nix::unistd::getuid().as_raw(), Path::new("/nothing/is/kept")).unwrap()
}

#[test]
fn what_is_in_force_is_recognised_by_another_process_and_left_alone() {
    in_netns("what_is_in_force_is_recognised_by_another_process_and_left_alone", || {
        let before = state_of_host();
        for (what, host) in hosts() {
            let host = firewall_of(&host);
            block_on(async { kernel().apply_host(&host).await.unwrap() });
            let handles = || sh("nft -a list ruleset");
            let listed = handles();
            let again = block_on(async { kernel().apply_host(&host).await.unwrap() });
            assert_eq!((again.changes, handles()), (Vec::new(), listed), "{what}");
        }
        block_on(async { kernel().apply_host(&Host::default()).await.unwrap() });
        assert_eq!(state_of_host(), before);
    });
}

#[test]
fn whatever_somebody_does_to_our_table_is_noticed_and_mended() {
    in_netns("whatever_somebody_does_to_our_table_is_noticed_and_mended", || {
        let (_, host) = hosts().pop().unwrap();
        let host = firewall_of(&host);
        block_on(async { kernel().apply_host(&host).await.unwrap() });
        let right = sh("nft -j list table inet enftun | sed 's/\"handle\": [0-9]*//g'");
        const ONE: &str =
            "$(nft -a list chain inet enftun output | sed -n '/no source elsewhere/s/.*# handle //p' | head -n1)";
        let injuries = [
            "nft flush ruleset".to_owned(),
            "nft delete table inet enftun".to_owned(),
            "nft flush table inet enftun".to_owned(),
            "nft flush chain inet enftun output".to_owned(),
            "nft insert rule inet enftun output accept".to_owned(),
            "nft add rule inet enftun postrouting accept".to_owned(),
            "nft add chain inet enftun mine".to_owned(),
            "nft add set inet enftun mine '{ type ipv4_addr; }'".to_owned(),
            "nft chain inet enftun input '{ policy accept; }'".to_owned(),
            format!("nft delete rule inet enftun output handle {ONE}"),
            format!("nft replace rule inet enftun output handle {ONE} accept"),
        ];
        for injury in injuries {
            sh(&injury);
            let mended = block_on(async { kernel().apply_host(&host).await.unwrap() });
            assert_eq!(mended.changes.len(), 1, "{injury}: {mended:?}");
            assert_eq!(sh("nft -j list table inet enftun | sed 's/\"handle\": [0-9]*//g'"), right, "{injury}");
        }
    });
}

#[test]
fn a_foreign_table_is_neither_read_nor_touched() {
    in_netns("a_foreign_table_is_neither_read_nor_touched", || {
        let foreign = "table ip other { set s { type ipv4_addr; flags interval; }; chain c { type nat hook postrouting priority 100; oifname \"x\" masquerade; }; }";
        sh(&format!("nft '{foreign}'"));
        let before = sh("nft -a list ruleset");
        for (_, host) in hosts().into_iter().take(4) {
            block_on(async { kernel().apply_host(&firewall_of(&host)).await.unwrap() });
            assert_eq!(sh("nft -a list table ip other"), before);
        }
        block_on(async { kernel().apply_host(&Host::default()).await.unwrap() });
        assert_eq!(sh("nft -a list ruleset"), before);
    });
}
