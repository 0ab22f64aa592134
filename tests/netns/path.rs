//! The way to a router as the kernel's routing has it for our own marked packets, on a host whose tunnel takes everything.

use crate::common::netns::{Netns, block_on, in_netns, in_netns_with_tun, ip, sh, veth};
use crate::common::wait_for;
use enftun::kernel::{Kernel, Path, Watch};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::RawFd;
use std::time::Duration;
use tokio::time::timeout;

const MARK: u32 = 363;
const ROUTER: &str = "2001:db8:9::9";
const ROUTER_IPV4: &str = "203.0.113.9";
const OVERLAY: &str = "fd00:8f80::5";

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn kernel() -> Kernel {
    Kernel::new(nix::unistd::getuid().as_raw(), std::path::Path::new("/nothing/is/kept")).unwrap()
}

/// A host with two interfaces to the world, `eth` (preferred) and `wlan`, and rules as a tunnel that takes everything has them.
struct Host {
    _world: Netns,
    kernel: Kernel,
}

impl Host {
    /// Needs a runtime.
    fn new() -> Self {
        let (here, world) = (Netns::here(), Netns::new());
        veth(&here, "eth", &world, "eth-far");
        veth(&here, "wlan", &world, "wlan-far");
        sh("ip addr add 192.0.2.1/24 dev eth; ip addr add fd00:1::1/64 dev eth
            ip addr add 198.51.100.1/24 dev wlan; ip addr add fd00:2::1/64 dev wlan
            for f in -4 -6; do
              ip $f rule add pref 201 fwmark 363 unreachable
              ip $f rule add pref 200 fwmark 363 lookup main
            done
            ip -6 rule add pref 557 unreachable; ip -6 rule add pref 556 lookup 2097
            ip -4 route add unreachable default table 2097 metric 1024; ip -4 rule add pref 364 lookup 2097
            ip -4 route add default via 192.0.2.254 dev eth metric 100
            ip -6 route add default via fd00:1::fe metric 100
            ip -4 route add default via 198.51.100.254 dev wlan metric 600
            ip -6 route add default via fd00:2::fe metric 600");
        Self { _world: world, kernel: kernel() }
    }

    async fn path(&self, to: &str) -> Option<Path> {
        self.kernel.path(address(to), MARK, &[address(OVERLAY)]).await.unwrap()
    }

    async fn both(&self) -> [Path; 2] {
        [self.path(ROUTER_IPV4).await.unwrap(), self.path(ROUTER).await.unwrap()]
    }
}

fn index(interface: &str) -> u32 {
    nix::net::if_::if_nametoindex(interface).unwrap()
}

#[test]
fn our_packets_go_where_main_says_and_nobody_elses() {
    in_netns("our_packets_go_where_main_says_and_nobody_elses", || {
        block_on(async {
            let host = Host::new();
            for (to, source, gateway) in
                [(ROUTER_IPV4, "192.0.2.1", "192.0.2.254"), (ROUTER, "fd00:1::1", "fd00:1::fe")]
            {
                let path = host.path(to).await.unwrap();
                assert_eq!(path.source, address(source));
                assert_eq!(path.ifindex, index("eth"));
                assert_eq!(path.gateway, Some(address(gateway)));
                assert!(path.up);
                // What others send has no way but the tunnel, which is not there.
                let others = host.kernel.path(address(to), 0, &[]).await.unwrap();
                assert_eq!(others, None, "{to} without our mark");
            }
            for neighbour in ["192.0.2.77", "fd00:1::77"] {
                assert_eq!(host.path(neighbour).await.unwrap().gateway, None, "{neighbour} is on the link");
            }
            // A router on this very host.
            assert_eq!(host.path("198.51.100.1").await.unwrap().ifindex, index("lo"));
        });
    });
}

#[test]
fn a_default_route_of_another_interface_is_another_way() {
    in_netns("a_default_route_of_another_interface_is_another_way", || {
        block_on(async {
            let host = Host::new();
            let before = host.both().await;
            sh("ip -4 route replace default via 198.51.100.254 dev wlan metric 50
                ip -6 route replace default via fd00:2::fe metric 50");
            for (now, before) in host.both().await.iter().zip(&before) {
                assert_eq!(now.ifindex, index("wlan"));
                assert!(now.moved(before), "{now:?}");
            }
            sh("ip -4 route del default metric 50; ip -6 route del default metric 50");
            assert_eq!(host.both().await, before, "and back");
        });
    });
}

#[test]
fn the_same_address_on_another_interface_is_another_way() {
    in_netns("the_same_address_on_another_interface_is_another_way", || {
        block_on(async {
            let host = Host::new();
            let before = host.both().await;
            // A laptop's cable is pulled, and the bridge to its radio gives it the same addresses.
            sh("ip addr flush dev eth scope global; ip addr flush dev wlan scope global
                ip addr add 192.0.2.1/24 dev wlan; ip addr add fd00:1::1/64 dev wlan
                ip -4 route replace default via 192.0.2.254 dev wlan metric 100
                ip -6 route replace default via fd00:1::fe metric 100");
            for (now, before) in host.both().await.iter().zip(&before) {
                assert_eq!((now.source, now.gateway), (before.source, before.gateway));
                assert!(now.moved(before), "{now:?}");
            }
        });
    });
}

#[test]
fn another_gateway_or_a_carrier_that_was_away_is_a_doubt_and_no_other_way() {
    in_netns("another_gateway_or_a_carrier_that_was_away_is_a_doubt_and_no_other_way", || {
        block_on(async {
            let host = Host::new();
            let before = host.both().await;
            sh("ip -4 route replace default via 192.0.2.253 dev eth metric 100
                ip -6 route replace default via fd00:1::fd metric 100");
            let gateway = host.both().await;
            for (now, before) in gateway.iter().zip(&before) {
                assert!(!now.moved(before) && now.differs(before), "{now:?}");
            }
            // Over before anybody looked. IPv4 addresses stay when the carrier goes, and so do the routes; IPv6 ones too.
            host._world.exec("ip link set eth-far down; ip link set eth-far up");
            wait_for("the carrier", || ip("link show eth").contains("state UP"));
            sh("ip -4 route replace default via 192.0.2.253 dev eth metric 100
                ip -6 route replace default via fd00:1::fd metric 100");
            for (now, before) in host.both().await.iter().zip(&gateway) {
                assert_eq!((now.source, now.gateway, now.up), (before.source, before.gateway, true));
                assert!(now.carrier_changes > before.carrier_changes);
                assert!(!now.moved(before) && now.differs(before), "{now:?}");
            }
            // And one that stays away, where the route stays.
            host._world.exec("ip link set eth-far down");
            wait_for("no carrier", || !ip("link show eth").contains("state UP"));
            let away = host.path("192.0.2.254").await.unwrap();
            assert!(!away.up, "{away:?}");
            // Nothing else: the same is no news.
            assert_eq!(host.path("192.0.2.254").await.unwrap(), away);
        });
    });
}

#[test]
fn no_route_is_no_way_and_no_error() {
    in_netns("no_route_is_no_way_and_no_error", || {
        block_on(async {
            let host = Host::new();
            host.both().await;
            sh("for f in -4 -6; do ip $f route del default; ip $f route del default; done");
            for to in [ROUTER_IPV4, ROUTER] {
                assert_eq!(host.path(to).await, None, "{to}: our last rule");
            }
            sh("for f in -4 -6; do ip $f rule del pref 201; done
                ip -4 rule del pref 364; ip -6 rule del pref 556; ip -6 rule del pref 557");
            for to in [ROUTER_IPV4, ROUTER] {
                assert_eq!(host.path(to).await, None, "{to}: no route at all");
            }
            for kind in ["unreachable", "prohibit"] {
                sh(&format!("for f in -4 -6; do ip $f route add {kind} default; done"));
                for to in [ROUTER_IPV4, ROUTER] {
                    assert_eq!(host.path(to).await, None, "{to}: {kind}");
                }
                sh(&format!("for f in -4 -6; do ip $f route del {kind} default; done"));
            }
            // The kernel's answer here is the one to a question that it does not understand.
            ip("route add blackhole default");
            let error = host.kernel.path(address(ROUTER_IPV4), MARK, &[]).await.unwrap_err();
            assert!(error.to_string().contains("the way to the router"), "{error}");
        });
    });
}

#[test]
fn an_address_of_the_tunnel_is_no_source() {
    in_netns_with_tun("an_address_of_the_tunnel_is_no_source", || {
        block_on(async {
            let host = Host::new();
            sh(&format!(
                "ip tuntap add mode tun enf0; ip link set enf0 addrgenmode none up
                 ip addr add {OVERLAY}/128 dev enf0 nodad; ip addr del fd00:2::1/64 dev wlan"
            ));
            let good = host.path(ROUTER).await.unwrap();
            let told = |source: &str| sh(&format!("ip -6 route get {ROUTER} mark {MARK}")).contains(source);

            // As during a roam: the address is not there yet, on its way out, or on trial. That trial lasts: it is many
            // questions.
            let lan = "fd00:1::1/64 dev eth";
            for (change, seen) in [
                (format!("ip addr del {lan}"), ""),
                (format!("ip addr add {lan} nodad preferred_lft 0"), "deprecated"),
                (
                    format!(
                        "echo 1 > /proc/sys/net/ipv6/conf/eth/accept_dad; echo 1000 > /proc/sys/net/ipv6/conf/eth/dad_transmits
                         ip addr del {lan}; ip addr add {lan}"
                    ),
                    "tentative",
                ),
            ] {
                sh(&change);
                assert!(sh("ip -6 addr show dev eth").contains(seen));
                // With the address went the route to its link.
                sh("ip -6 route replace fd00:1::/64 dev eth
                    ip -6 route replace default via fd00:1::fe dev eth metric 100");
                assert!(told(OVERLAY), "the kernel offers it after {change}");
                assert_eq!(host.path(ROUTER).await, None, "{change}");
                // Who does not say what is inside gets it.
                let naive = host.kernel.path(address(ROUTER), MARK, &[]).await.unwrap().unwrap();
                assert_eq!(naive.source, address(OVERLAY));
            }
            sh(&format!("ip addr del {lan}; ip addr add {lan} nodad"));
            sh("ip -6 route replace default via fd00:1::fe dev eth metric 100");
            assert_eq!(host.path(ROUTER).await, Some(good));
        });
    });
}

#[test]
fn a_link_local_address_is_a_source_on_the_link_only() {
    in_netns("a_link_local_address_is_a_source_on_the_link_only", || {
        block_on(async {
            let host = Host::new();
            sh("ip addr flush dev wlan; ip addr del fd00:1::1/64 dev eth; ip addr add fe80::1/64 dev eth nodad
                ip -6 route replace 2001:db8:8::/64 dev eth
                ip -6 route replace default via fe80::fe dev eth metric 100");
            assert_eq!(host.path(ROUTER).await, None, "no router of the link forwards that");
            assert_eq!(host.path("2001:db8:8::8").await.unwrap().source, address("fe80::1"));
        });
    });
}

#[test]
fn more_notices_than_the_socket_holds_are_a_notice_too() {
    in_netns("more_notices_than_the_socket_holds_are_a_notice_too", || {
        block_on(async {
            let host = Host::new();
            let before = host.path(ROUTER).await.unwrap();
            let mut watch = Watch::new().unwrap();
            // Nobody reads meanwhile. In the midst of it the way changes, and that notice may be among the lost ones.
            let routes = |range: std::ops::Range<u32>, verb: &str| {
                range.map(|n| format!("route {verb} 10.{}.{}.0/24 dev wlan\n", n / 256, n % 256)).collect::<String>()
            };
            let batch = format!(
                "{}route replace default via fd00:2::fe metric 50\n{}",
                routes(0..6000, "add"),
                routes(0..6000, "del")
            );
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("batch");
            std::fs::write(&file, batch).unwrap();
            ip(&format!("-batch {}", file.display()));
            assert!(lost_notices() > 0, "the socket held them all: the test shows nothing");

            timeout(Duration::from_secs(30), watch.changed()).await.expect("a notice");
            assert!(host.path(ROUTER).await.unwrap().moved(&before));
            // It goes on: silence, then the next change.
            while timeout(Duration::from_millis(500), watch.changed()).await.is_ok() {}
            ip("-6 route del default metric 50");
            timeout(Duration::from_secs(30), watch.changed()).await.expect("a notice after the overflow");
            assert_eq!(host.path(ROUTER).await.unwrap(), before);
        });
    });
}

/// Notices that the sockets of this process in this namespace lost.
fn lost_notices() -> u64 {
    let table = std::fs::read_to_string("/proc/thread-self/net/netlink").unwrap();
    let columns: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    let drops = columns.iter().position(|column| *column == "Drops").unwrap();
    table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(drops)?.parse::<u64>().ok()).sum()
}

#[test]
fn no_program_that_we_start_inherits_a_netlink_socket() {
    in_netns("no_program_that_we_start_inherits_a_netlink_socket", || {
        block_on(async {
            let before = netlink_sockets();
            let (kernel, _watch) = (kernel(), Watch::new().unwrap());
            // The kernel lists a socket once it has been used.
            kernel.path(address(ROUTER), MARK, &[]).await.unwrap();
            let ours: Vec<RawFd> = netlink_sockets().difference(&before).copied().collect();
            assert!(ours.len() >= 3, "rtnetlink, and two subscriptions: {ours:?}");
            for fd in ours {
                let flags = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
                let flags = flags.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
                let flags = u32::from_str_radix(flags, 8).unwrap();
                assert!(flags & nix::libc::O_CLOEXEC as u32 != 0, "descriptor {fd} is not closed on exec");
            }
        });
    });
}

/// The netlink sockets of this namespace that this process holds.
fn netlink_sockets() -> BTreeSet<RawFd> {
    let table = std::fs::read_to_string("/proc/thread-self/net/netlink").unwrap();
    let inodes: BTreeSet<String> = table
        .lines()
        .skip(1)
        .filter_map(|line| Some(format!("socket:[{}]", line.split_whitespace().last()?)))
        .collect();
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
    let named = descriptors.filter_map(|entry| {
        let entry = entry.ok()?;
        let target = std::fs::read_link(entry.path()).ok()?;
        inodes.contains(target.to_str()?).then(|| entry.file_name().to_str()?.parse().ok())?
    });
    named.collect()
}
