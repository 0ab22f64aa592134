//! Router card mode: what the kernel holds for a host behind, and what that host has of it.

use crate::common::certs::{Ca, Leaf};
use crate::common::client;
use crate::common::fake_router::{FakeRouter, Manners, server};
use crate::common::netns::{Netns, block_on, in_netns_with_tun, ip, sh, state_of_host, veth};
use crate::common::wait_for;
use enftun::config::{self, Tunnel};
use enftun::error::chain;
use enftun::kernel::Kernel;
use enftun::plan::{self, Card, Facts, Host, Observed, Openings, Plan};
use enftun::state::Wanted;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::path::Path;

mod host_behind;

/// A card with the host behind on `usb0`.
fn tunnel(port: &str) -> Tunnel {
    let text = format!("kind = \"enf\"\nremote.hosts = [\"router.example.net\"]\n[advertise]\ndev = \"{port}\"\n");
    let (tunnel, findings) = config::parse_tunnel("enf0", Path::new("enf0.toml"), Path::new("/nowhere"), &text);
    tunnel.unwrap_or_else(|| panic!("{findings:?}"))
}

fn build(tunnel: &Tunnel, wanted: &Wanted) -> Plan {
    plan::build(tunnel, &BTreeMap::new(), Facts { wanted, kept: &own(), openings: &Openings::default() })
}

fn connected(tunnel: &Tunnel) -> Plan {
    build(tunnel, &Wanted::Connected(own()))
}

fn own() -> Vec<IpNet> {
    vec!["fd00:8f80::5/128".parse().unwrap()]
}

fn kernel(directory: &Path) -> Kernel {
    Kernel::new(nix::unistd::getuid().as_raw(), directory).unwrap()
}

/// A port with a host behind it.
fn port(host: &Netns, name: &str) {
    veth(&Netns::here(), name, host, &format!("{name}-host"));
    // The kernel says so a moment later.
    wait_for("the link to be up", || ip(&format!("link show {name}")).contains("state UP"));
}

fn master(port: &str) -> String {
    let link: serde_json::Value = serde_json::from_str(&ip(&format!("-j link show {port}"))).unwrap();
    link[0]["master"].as_str().unwrap_or_default().to_owned()
}

/// The state of the host without what the bridge module of the kernel counts by the clock.
fn state() -> String {
    let timers = [
        "hello_timer",
        "tcn_timer",
        "topology_change_timer",
        "gc_timer",
        "hold_timer",
        "forward_delay_timer",
        "message_age_timer",
    ];
    let mut state = state_of_host();
    for timer in timers {
        let key = format!("\"{timer}\":");
        let mut kept = String::new();
        let mut rest = state.as_str();
        while let Some((before, after)) = rest.split_once(&key) {
            kept += before;
            rest = after.trim_start_matches(|sign: char| sign.is_ascii_digit() || ". ".contains(sign));
        }
        state = kept + rest;
    }
    state
}

#[test]
fn the_printed_text_and_apply_make_the_same_card() {
    in_netns_with_tun("the_printed_text_and_apply_make_the_same_card", || {
        let plan = connected(&tunnel("usb0"));
        let directory = tempfile::tempdir().unwrap();
        let (by_hand, by_apply) = (Netns::new(), Netns::new());
        // What differs by chance is set.
        let devices = Card::devices("enf0");
        for side in [&by_hand, &by_apply] {
            side.exec(
                "ip link add usb0 address 02:00:00:00:00:01 type veth peer name usb0-host address 02:00:00:00:00:03",
            );
        }
        let text = format!("OWNER={}\n{plan}", nix::unistd::getuid());
        by_hand.exec(&text);
        let same = |side: &Netns| side.exec(&format!("ip link set dev {} address 02:00:00:00:00:02", devices[0]));
        let _attached = by_hand.run(|| {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let _context = runtime.enter();
            let tun = enftun::sys::tun::Tun::offloaded("enf0").unwrap();
            let tap = enftun::sys::tun::Tun::attach(&devices[0], enftun::sys::tun::Layer::Ethernet).unwrap();
            tap.set_carrier(true).unwrap();
            (tun, tap, runtime)
        });
        same(&by_hand);
        by_apply.run(|| {
            block_on(async {
                let mut kernel = kernel(directory.path());
                kernel.apply(&plan).await.unwrap();
                same(&Netns::here());
                wait_for(&format!("the state that this makes:\n{text}"), || state() == by_hand.run(state));
            });
        });
    });
}

#[test]
fn a_second_apply_of_a_card_writes_nothing_and_a_new_process_only_attaches() {
    in_netns_with_tun("a_second_apply_of_a_card_writes_nothing_and_a_new_process_only_attaches", || {
        let (host, directory) = (Netns::new(), tempfile::tempdir().unwrap());
        port(&host, "usb0");
        let plan = connected(&tunnel("usb0"));
        block_on(async {
            let mut kernel = kernel(directory.path());
            let first = kernel.apply(&plan).await.unwrap();
            assert!(!first.changes.is_empty() && first.tap.is_some());
            assert_eq!(first.arrived, ["ip link set dev usb0 master enf0-br"]);
            let second = kernel.apply(&plan).await.unwrap();
            assert_eq!((second.changes, second.arrived), (vec![], vec![]));
            assert_eq!((master("usb0"), master("enf0-tap")), ("enf0-br".into(), "enf0-br".into()));
        });
        block_on(async {
            let adopted = kernel(directory.path()).apply(&plan).await.unwrap();
            let expected = [
                "# enftund attaches to enf0",
                "# enftund attaches to enf0-tap",
                "# enftund turns the carrier of enf0-tap on",
            ];
            assert_eq!(adopted.changes, expected);
        });
    });
}

#[test]
fn a_port_is_given_back_as_it_was_whether_up_or_down_and_when_another_takes_its_place() {
    let test = "a_port_is_given_back_as_it_was_whether_up_or_down_and_when_another_takes_its_place";
    in_netns_with_tun(test, || {
        let (host, directory) = (Netns::new(), tempfile::tempdir().unwrap());
        for name in ["usb0", "usb1"] {
            port(&host, name);
        }
        sh("ip addr add 192.0.2.1/24 dev usb0; ip addr add 2001:db8:7::1/64 dev usb0 nodad; ip link set usb1 down");
        let before = state();
        block_on(async {
            for round in 0..6 {
                let (first, second) = (tunnel("usb1"), tunnel("usb0"));
                let mut one = kernel(directory.path());
                for wanted in [Wanted::Blocked, Wanted::Connecting, Wanted::Connected(own())] {
                    one.apply(&build(&first, &wanted)).await.unwrap();
                }
                assert_eq!((master("usb0"), master("usb1")), (String::new(), "enf0-br".into()));
                // Another process, as after a crash.
                drop(one);
                let mut other = kernel(directory.path());
                let next = connected(&second);
                other.apply(&next).await.unwrap();
                assert_eq!((master("usb0"), master("usb1")), ("enf0-br".into(), String::new()));
                let scope = connected(&first).scope;
                assert!(other.retire(&scope, std::slice::from_ref(&next)).await.is_empty());
                assert!(ip("link show usb1").contains("state DOWN") && master("usb0") == "enf0-br");
                if round % 2 == 0 {
                    other.clear(&next.scope).await.unwrap();
                } else {
                    other.apply(&build(&second, &Wanted::Open)).await.unwrap();
                }
                wait_for("the host to be as it was", || state() == before);
                assert!(!directory.path().join("previous.json").exists());
            }
        });
    });
}

#[test]
fn whatever_an_apply_of_a_card_left_half_done_is_completed_and_cleared() {
    in_netns_with_tun("whatever_an_apply_of_a_card_left_half_done_is_completed_and_cleared", || {
        let (host, directory) = (Netns::new(), tempfile::tempdir().unwrap());
        port(&host, "usb0");
        let before = state();
        let plan = connected(&tunnel("usb0"));
        let whole: Vec<String> = plan::diff(&plan, &Observed::default()).iter().map(ToString::to_string).collect();
        for done in 0..=whole.len() {
            sh(&format!("OWNER={}\n{}", nix::unistd::getuid(), whole[..done].join("\n")));
            block_on(async {
                let mut kernel = kernel(directory.path());
                kernel.apply(&plan).await.unwrap();
                let observed = kernel.observe(&plan.scope).await.unwrap();
                assert_eq!(plan::diff(&plan, &observed), [], "after {done} steps");
                kernel.clear(&plan.scope).await.unwrap();
            });
            wait_for(&format!("the host to be as it was, after {done} steps"), || state() == before);
        }
        // And a clear that was cut.
        let mut down = Vec::new();
        block_on(async {
            let mut kernel = kernel(directory.path());
            kernel.apply(&plan).await.unwrap();
            let observed = kernel.observe(&plan.scope).await.unwrap();
            down.extend(plan::diff(&plan.scope.empty(), &observed).iter().map(ToString::to_string));
        });
        for done in 0..=down.len() {
            block_on(async { kernel(directory.path()).apply(&plan).await.map(drop).unwrap() });
            sh(&down[..done].join("\n"));
            block_on(async { kernel(directory.path()).clear(&plan.scope).await.unwrap() });
            wait_for(&format!("the host to be as it was, after {done} steps of a clear"), || state() == before);
        }
    });
}

#[test]
fn a_port_in_somebody_elses_bridge_and_devices_with_our_names_are_not_touched() {
    in_netns_with_tun("a_port_in_somebody_elses_bridge_and_devices_with_our_names_are_not_touched", || {
        let (host, directory) = (Netns::new(), tempfile::tempdir().unwrap());
        port(&host, "usb0");
        let plan = connected(&tunnel("usb0"));
        let refusal = || {
            let error = block_on(async { kernel(directory.path()).apply(&plan).await.unwrap_err() });
            block_on(async { kernel(directory.path()).clear(&plan.scope).await.unwrap() });
            (error.class(), chain(&error))
        };
        let environment = |(class, text): (enftun::error::Class, String), expected: &str| {
            assert_eq!((class, text.as_str()), (enftun::error::Class::Environment, expected));
        };
        sh("ip link add br0 type bridge; ip link set usb0 master br0");
        let before = state();
        environment(
            refusal(),
            "usb0 is a port of br0, which is not ours, and [advertise] dev is for the host behind alone; take it out (`ip link set dev usb0 nomaster`)",
        );
        assert_eq!(state(), before);
        sh("ip link del br0; ip link add enf0-br type bridge");
        let before = state();
        environment(
            refusal(),
            "enf0-br exists and is not ours (bridge); the devices of [advertise] are called after tun.dev: choose another, or remove this one",
        );
        assert_eq!(state(), before, "a bridge that only has the name is somebody else's");
        sh("ip link del enf0-br; ip tuntap add enf0-tap mode tun");
        let (_, text) = refusal();
        assert!(text.starts_with("enf0-tap exists and is not ours (a TUN device)"), "{text}");
        sh("ip link del enf0-tap; ip link del usb0; ip tuntap add usb0 mode tun");
        let (_, text) = refusal();
        assert!(text.starts_with("put usb0 into a bridge: [advertise] dev must be an Ethernet interface"), "{text}");
    });
}

#[test]
fn whatever_is_done_to_a_card_is_undone_by_the_next_apply() {
    in_netns_with_tun("whatever_is_done_to_a_card_is_undone_by_the_next_apply", || {
        let (host, directory) = (Netns::new(), tempfile::tempdir().unwrap());
        port(&host, "usb0");
        port(&host, "eth9");
        let plan = connected(&tunnel("usb0"));
        block_on(async {
            let mut kernel = kernel(directory.path());
            kernel.apply(&plan).await.unwrap();
            for (deed, repair) in [
                ("ip link set usb0 nomaster", "ip link set dev usb0 master enf0-br"),
                ("ip link set usb0 down", "ip link set dev usb0 up"),
                ("ip link set eth9 master enf0-br", "ip link set dev eth9 nomaster"),
                ("ip link set enf0-tap nomaster", "ip link set dev enf0-tap master enf0-br"),
                ("ip link set enf0-tap down", "ip link set dev enf0-tap up"),
                ("ip link set enf0-tap carrier off", "# enftund turns the carrier of enf0-tap on"),
                ("ip link set enf0-br down", "ip link set dev enf0-br up"),
                (
                    "ip link set enf0-br type bridge stp_state 1",
                    "ip link set dev enf0-br type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
                ),
                (
                    "ip link set enf0-br type bridge mcast_snooping 1",
                    "ip link set dev enf0-br type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
                ),
                ("ip link set enf0-br addrgenmode eui64", "ip link set dev enf0-br addrgenmode none"),
                (
                    "echo 0 > /proc/sys/net/ipv6/conf/enf0-br/disable_ipv6",
                    "echo 1 > /proc/sys/net/ipv6/conf/enf0-br/disable_ipv6",
                ),
                (
                    "echo 2 > /proc/sys/net/ipv6/conf/enf0-br/accept_ra",
                    "echo 0 > /proc/sys/net/ipv6/conf/enf0-br/accept_ra",
                ),
                (
                    "echo 1 > /proc/sys/net/ipv4/conf/enf0-br/forwarding",
                    "echo 0 > /proc/sys/net/ipv4/conf/enf0-br/forwarding",
                ),
                ("ip link del enf0-br", "ip link add dev enf0-br address 02:e4"),
                ("ip link del enf0-tap", "ip tuntap add dev enf0-tap mode tap"),
            ] {
                sh(deed);
                let changes = kernel.apply(&plan).await.unwrap().changes;
                assert!(changes.iter().any(|change| change.contains(repair)), "{deed}: {changes:#?}");
                assert_eq!(kernel.apply(&plan).await.unwrap().changes, [""; 0], "{deed}");
                assert_eq!((master("usb0"), master("enf0-tap")), ("enf0-br".into(), "enf0-br".into()), "{deed}");
            }
            // A port that goes and comes, as on USB.
            ip("link del usb0");
            assert_eq!(kernel.apply(&plan).await.unwrap().changes, [""; 0], "it is waited for");
            port(&host, "usb0");
            let changes = kernel.apply(&plan).await.unwrap();
            assert_eq!(changes.arrived, ["ip link set dev usb0 master enf0-br"]);
            assert_eq!(changes.changes, [""; 0], "nobody did wrong");
        });
    });
}

#[test]
fn the_firewall_of_a_card_is_taken_by_the_kernel_and_comes_back_as_it_was_written() {
    in_netns_with_tun("the_firewall_of_a_card_is_taken_by_the_kernel_and_comes_back_as_it_was_written", || {
        let directory = tempfile::tempdir().unwrap();
        let plan = connected(&tunnel("usb0"));
        let host = Host::of([&plan], nix::unistd::getuid().as_raw());
        block_on(async {
            let mut kernel = kernel(directory.path());
            assert!(!kernel.apply_host(&host).await.unwrap().changes.is_empty());
            assert_eq!(kernel.apply_host(&host).await.unwrap().changes, [""; 0]);
            kernel.apply_host(&Host::default()).await.unwrap();
        });
    });
}

#[test]
fn run_in_the_foreground_serves_a_host_behind_too_and_leaves_nothing() {
    in_netns_with_tun("run_in_the_foreground_serves_a_host_behind_too_and_leaves_nothing", || {
        let host = Netns::new();
        port(&host, "usb0");
        host.exec(
            "echo 2 > /proc/sys/net/ipv6/conf/usb0-host/accept_ra; ip link set usb0-host down
             ip link set usb0-host addrgenmode eui64 up",
        );
        let ca = Ca::v3("Test Root");
        let router = ca.sign_v3(Leaf::new("router.example.net").dns("router.example.net"));
        let client = ca.sign_v3(Leaf::new("fd00:8f80:1::1234").ip("fd00:8f80:1::1234"));
        let far = FakeRouter::start(Manners::Good(server(&router, &router, rustls::ALL_VERSIONS)));
        let mut tunnel = client::Tunnel::new(&far.address.to_string(), &ca, &client);
        tunnel = tunnel.remote("name = \"router.example.net\"");
        tunnel.route = "prefixes = [\"default\"]\nlockdown = \"session\"".to_owned();
        tunnel.retry += "[advertise]\ndev = \"usb0\"\n";
        wait_for("the link to be up", || ip("link show usb0").contains("state UP"));
        let before = state();
        let mut run = tunnel.run();
        run.until("connected");
        let default = || host.exec("ip -6 route show default proto ra");
        wait_for("a default route of the host behind", || default().contains("via fe80::1 dev usb0-host"));
        assert_eq!(run.interrupt(), Some(0));
        wait_for("the route to be gone", || default().is_empty());
        wait_for("the host to be as it was", || state() == before);
    });
}
