//! The kernel plan in a real kernel: what each layout does to packets, and that nothing of it is left behind.

use crate::common::netns::{Netns, block_on, in_netns_with_tun, ip, sh, state_of_host, try_ip, veth};
use crate::common::{skip, wait_for};
use enftun::config::{self, Enf, Identity, Kind, Lockdown, Remote, Retry, Route, Tpm, Tun, Tunnel};
use enftun::error::{Class, chain};
use enftun::kernel::{Kernel, KernelError};
use enftun::plan::{self, Facts, Host, Observed, Openings, Plan, Scope};
use enftun::state::{Failure, Reason, Wanted};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

const MARK: u32 = 363;

/// A tunnel `enf0` with these prefixes; IPv4 ones only with `allow_ipv4`.
fn tunnel(prefixes: &[&str], allow_ipv4: bool) -> Tunnel {
    let prefixes = prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect();
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
        route: Route {
            prefixes,
            fwmark: MARK,
            fwmark_mask: u32::MAX,
            table: 2097,
            trusted_interfaces: Vec::new(),
            trusted_groups: Vec::new(),
            allow_ipv4,
            lockdown: Lockdown::Boot,
        },
        remote: Remote {
            hosts: vec![config::Host::direct("router.example.net", 443)],
            ca_cert_file: Some(PathBuf::new().into()),
            name: None,
            heartbeat_period: Duration::from_secs(300),
            heartbeat_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(15),
            congestion_control: None,
            wire: config::Wire::Auto,
        },
        retry: Retry::default(),
        tpm: Tpm::default(),
    }
}

fn everything() -> Tunnel {
    tunnel(&["::/0"], false)
}

fn everything_with_ipv4() -> Tunnel {
    tunnel(&["::/0", "0.0.0.0/0"], true)
}

fn prefixes() -> Tunnel {
    tunnel(&["fd00:8f80::/32", "fd00:8f80:1::/48", "ff05::/16", "10.64.0.0/10"], true)
}

/// A second tunnel beside the first.
fn another(dev: &str, table: u32, mark: u32, prefixes: &[&str]) -> Tunnel {
    let mut tunnel = tunnel(prefixes, false);
    let Kind::Enf(enf) = &mut tunnel.kind else { unreachable!() };
    enf.tun.dev = dev.into();
    (tunnel.route.table, tunnel.route.fwmark) = (table, mark);
    tunnel
}

fn own() -> Vec<IpNet> {
    vec!["fd00:8f80::5/128".parse().unwrap()]
}

fn connected(tunnel: &Tunnel) -> Plan {
    build(tunnel, &Wanted::Connected(own()), &own())
}

fn build(tunnel: &Tunnel, wanted: &Wanted, kept: &[IpNet]) -> Plan {
    plan::build(tunnel, &BTreeMap::new(), Facts { wanted, kept, openings: &Openings::default() })
}

fn kernel() -> Kernel {
    Kernel::new(nix::unistd::getuid().as_raw(), Path::new("/nothing/is/kept")).unwrap()
}

/// A host `here` on a LAN, whose other end is its way to everywhere: `far` answers to all these addresses.
struct Lan {
    _far: Netns,
    heard: UdpSocket,
}

/// In the LAN, outside, in the prefixes of [`prefixes`], and in IPv4.
const NEIGHBOUR: &str = "[fd00:1::2]:9999";
const OUTSIDE: &str = "[2001:db8:9::9]:9999";
const INSIDE: &str = "[fd00:8f80::99]:9999";
const OUTSIDE_IPV4: &str = "203.0.113.9:9999";

impl Lan {
    fn new() -> Self {
        let (here, far) = (Netns::here(), Netns::new());
        veth(&here, "lan0", &far, "far0");
        sh("ip addr add fd00:1::1/64 dev lan0; ip addr add 192.0.2.1/24 dev lan0
            ip -6 route add default via fd00:1::2; ip -4 route add default via 192.0.2.2");
        far.exec(
            "ip addr add fd00:1::2/64 dev far0; ip addr add 192.0.2.2/24 dev far0
             for a in 2001:db8:9::9 fd00:8f80::99 fd00:8f80:1::99 203.0.113.9; do ip addr add $a dev lo; done",
        );
        let heard = far.run(|| UdpSocket::bind("[::]:9999").unwrap());
        heard.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // The kernel answers for new addresses a moment after they are added.
        for address in ["fd00:1::2", "2001:db8:9::9", "fd00:8f80::99", "fd00:8f80:1::99", "192.0.2.2", "203.0.113.9"] {
            let answers = |from: &Netns, to: &str| from.output(&format!("ping -c1 -W1 {to}")).status.success();
            wait_for(address, || answers(&here, address) && answers(&far, "fd00:1::1"));
        }
        Self { _far: far, heard }
    }

    /// The probe arrives at the far end of the LAN.
    #[track_caller]
    fn hears(&self, probe: &Probe<'_>) {
        probe.send().unwrap_or_else(|error| panic!("{probe:?}: {error}"));
        let mut text = [0; 16];
        assert!(self.heard.recv(&mut text).is_ok(), "{probe:?} did not arrive");
    }

    /// Nothing has arrived that was not asked for.
    #[track_caller]
    fn heard_nothing_else(&self) {
        // Packets keep their order on the cable: when this one is there, all earlier ones would be.
        self.hears(&Probe { mark: MARK, ..to(NEIGHBOUR) });
        self.heard.set_nonblocking(true).unwrap();
        assert_eq!(self.heard.recv(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        self.heard.set_nonblocking(false).unwrap();
    }
}

/// One UDP packet.
#[derive(Debug, Clone, Copy)]
struct Probe<'a> {
    to: &'a str,
    mark: u32,
    device: Option<&'a str>,
}

fn to(address: &str) -> Probe<'_> {
    Probe { to: address, mark: 0, device: None }
}

impl Probe<'_> {
    fn marked(self) -> Self {
        Self { mark: MARK, ..self }
    }

    fn bound(self) -> Self {
        Self { device: Some("lan0"), ..self }
    }

    fn send(&self) -> io::Result<()> {
        let to: SocketAddr = self.to.parse().unwrap();
        let domain = socket2::Domain::for_address(to);
        let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, None).unwrap();
        socket.bind_device(self.device.map(str::as_bytes)).unwrap();
        socket.set_mark(self.mark).unwrap();
        socket.send_to(b"probe", &to.into()).map(drop)
    }

    #[track_caller]
    fn is_unreachable(&self) {
        let error = self.send().expect_err(&format!("{self:?} has no way"));
        let unreachable = [io::ErrorKind::NetworkUnreachable, io::ErrorKind::HostUnreachable];
        assert!(unreachable.contains(&error.kind()), "{self:?}: {error}");
    }
}

/// The probe goes into the device.
#[track_caller]
fn enters(kernel: &Kernel, dev: &str, probe: &Probe<'_>) {
    let tun = kernel.tun(dev).unwrap();
    // The carrier comes into force a moment after it is set: until then the packet is lost.
    wait_for(&format!("{probe:?} in {dev}"), || {
        probe.send().unwrap();
        let mut packet = [0; 1500];
        while let Ok(length) = read_now(&tun, &mut packet) {
            if packet[..length].ends_with(b"probe") {
                return true;
            }
        }
        false
    });
}

fn read_now(tun: &enftun::sys::tun::Tun, packet: &mut [u8]) -> io::Result<usize> {
    // Readiness is learned by the runtime's driver; the descriptor itself knows at once.
    Ok(nix::unistd::read(tun, packet)?)
}

#[test]
fn the_printed_text_and_apply_make_the_same() {
    in_netns_with_tun("the_printed_text_and_apply_make_the_same", || {
        for tunnel in [everything(), everything_with_ipv4(), prefixes()] {
            for wanted in [Wanted::Open, Wanted::Blocked, Wanted::Connecting, Wanted::Connected(own())] {
                let plan = build(&tunnel, &wanted, &own());
                let (by_hand, by_apply) = (Netns::new(), Netns::new());
                let text = format!("OWNER={}\n{plan}", nix::unistd::getuid());
                by_hand.exec(&text);
                let _attached = by_hand.run(|| {
                    plan.link.as_ref().map(|link| {
                        let runtime = tokio::runtime::Runtime::new().unwrap();
                        let _context = runtime.enter();
                        let tun = enftun::sys::tun::Tun::offloaded(&link.dev).unwrap();
                        tun.set_carrier(link.carrier).unwrap();
                        (tun, runtime)
                    })
                });
                by_apply.run(|| {
                    block_on(async {
                        let mut kernel = kernel();
                        kernel.apply(&plan).await.unwrap();
                        // The kernel reports a change of carrier a moment later.
                        wait_for(&format!("the state that this makes:\n{text}"), || {
                            state_of_host() == by_hand.run(state_of_host)
                        });
                        if wanted != Wanted::Open {
                            assert_ne!(state_of_host(), Netns::new().run(state_of_host));
                        }
                    });
                });
            }
        }
    });
}

#[test]
fn a_second_apply_writes_nothing_and_a_new_process_only_attaches() {
    in_netns_with_tun("a_second_apply_writes_nothing_and_a_new_process_only_attaches", || {
        let plan = connected(&prefixes());
        let ifindex = block_on(async {
            let mut kernel = kernel();
            let first = kernel.apply(&plan).await.unwrap();
            assert!(!first.changes.is_empty());
            assert_eq!(first.ifindex, Some(nix::net::if_::if_nametoindex("enf0").unwrap()));
            let second = kernel.apply(&plan).await.unwrap();
            assert_eq!(second.changes, Vec::<String>::new());
            first.ifindex
        });
        block_on(async {
            let mut kernel = kernel();
            assert!(kernel.tun("enf0").is_none());
            let adopted = kernel.apply(&plan).await.unwrap();
            assert_eq!(adopted.changes, ["# enftund attaches to enf0", "# enftund turns the carrier of enf0 on"]);
            assert_eq!(adopted.ifindex, ifindex);
            assert!(kernel.tun("enf0").is_some());
        });
    });
}

#[test]
fn clear_leaves_the_host_as_it_was_also_after_fifty_rounds() {
    in_netns_with_tun("clear_leaves_the_host_as_it_was_also_after_fifty_rounds", || {
        let _lan = Lan::new();
        let before = state_of_host();
        block_on(async {
            for round in 0..50 {
                let tunnel = [everything(), everything_with_ipv4(), prefixes()][round % 3].clone();
                let mut kernel = kernel();
                for wanted in [Wanted::Blocked, Wanted::Connecting, Wanted::Connected(own()), Wanted::Connecting] {
                    kernel.apply(&build(&tunnel, &wanted, &own())).await.unwrap();
                }
                if round % 2 == 0 {
                    kernel.clear(&Scope::of(&tunnel)).await.unwrap();
                } else {
                    kernel.apply(&build(&tunnel, &Wanted::Open, &[])).await.unwrap();
                }
                assert!(kernel.tun("enf0").is_none());
                assert_eq!(state_of_host(), before, "after round {round}");
                kernel.clear(&Scope::of(&tunnel)).await.unwrap();
            }
        });
    });
}

#[test]
fn whatever_an_apply_left_half_done_is_completed_and_cleared() {
    in_netns_with_tun("whatever_an_apply_left_half_done_is_completed_and_cleared", || {
        let _lan = Lan::new();
        let before = state_of_host();
        let plan = connected(&prefixes());
        // A setting that is changed without a note of what it was cannot return: that is `previous.json`'s story.
        let host = Host { sysctls: BTreeMap::new(), ..Host::of([&plan], nix::unistd::getuid().as_raw()) };
        let of_tunnel = plan::diff(&plan, &Observed::default());
        let whole: Vec<String> = host.commands().into_iter().chain(of_tunnel.iter().map(ToString::to_string)).collect();
        let goal = {
            block_on(async { kernel().apply(&plan).await.unwrap() });
            let observed = block_on(async { kernel().observe(&plan.scope).await.unwrap() });
            block_on(async { kernel().clear(&plan.scope).await.unwrap() });
            Observed { link: None, ..observed }
        };
        for done in 0..=whole.len() {
            // A killed process leaves what it had done, and its descriptor is closed.
            sh(&format!("OWNER={}\n{}", nix::unistd::getuid(), whole[..done].join("\n")));
            block_on(async {
                let mut kernel = kernel();
                kernel.apply_host(&host).await.unwrap();
                kernel.apply(&plan).await.unwrap();
                assert_eq!(kernel.apply_host(&host).await.unwrap().changes, [""; 0], "after {done} steps");
                let observed = kernel.observe(&plan.scope).await.unwrap();
                for (found, wanted) in
                    [(observed.rules.len(), goal.rules.len()), (observed.routes.len(), goal.routes.len())]
                {
                    assert_eq!(found, wanted, "after {done} steps");
                }
                assert_eq!(plan::diff(&plan, &observed), []);
                kernel.clear(&plan.scope).await.unwrap();
                kernel.apply_host(&Host::default()).await.unwrap();
            });
            assert_eq!(state_of_host(), before, "after {done} steps");
        }
    });
}

#[test]
fn whatever_a_clear_left_half_done_is_cleared() {
    in_netns_with_tun("whatever_a_clear_left_half_done_is_cleared", || {
        let _lan = Lan::new();
        let before = state_of_host();
        let plan = connected(&prefixes());
        for done in 0.. {
            let changes = block_on(async {
                let mut kernel = kernel();
                kernel.apply(&plan).await.unwrap();
                plan::diff(&plan.scope.empty(), &kernel.observe(&plan.scope).await.unwrap())
            });
            if done > changes.len() {
                break;
            }
            sh(&changes[..done].iter().map(|change| format!("{change}\n")).collect::<String>());
            block_on(async { kernel().clear(&plan.scope).await.unwrap() });
            assert_eq!(state_of_host(), before, "after {done} of {} steps", changes.len());
        }
    });
}

#[test]
fn everything_goes_by_the_tunnel_and_marked_packets_by_main() {
    in_netns_with_tun("everything_goes_by_the_tunnel_and_marked_packets_by_main", || {
        let lan = Lan::new();
        let main = || ip("-4 route show table main") + &ip("-6 route show table main");
        let routes = main();
        for address in [NEIGHBOUR, OUTSIDE, INSIDE, OUTSIDE_IPV4] {
            lan.hears(&to(address));
        }
        block_on(async {
            let mut kernel = kernel();
            kernel.apply(&connected(&everything())).await.unwrap();
            for address in [NEIGHBOUR, OUTSIDE, INSIDE, "[ff05::1:3]:9999", "[ff02::fb]:9999"] {
                enters(&kernel, "enf0", &to(address));
            }
            to(OUTSIDE_IPV4).is_unreachable();
            to(OUTSIDE).bound().is_unreachable();
            for address in [NEIGHBOUR, OUTSIDE, INSIDE, OUTSIDE_IPV4] {
                lan.hears(&to(address).marked());
            }
            lan.hears(&to(OUTSIDE).marked().bound());
            lan.heard_nothing_else();
            assert_eq!(main(), routes);

            kernel.apply(&connected(&everything_with_ipv4())).await.unwrap();
            enters(&kernel, "enf0", &to(OUTSIDE_IPV4));
            lan.hears(&to(OUTSIDE_IPV4).marked());
            lan.heard_nothing_else();
        });
    });
}

#[test]
fn marked_packets_without_a_way_in_main_have_none() {
    in_netns_with_tun("marked_packets_without_a_way_in_main_have_none", || {
        let lan = Lan::new();
        block_on(async {
            let mut kernel = kernel();
            kernel.apply(&connected(&everything_with_ipv4())).await.unwrap();
            lan.hears(&to(OUTSIDE).marked());
            sh("ip -6 route del default; ip -4 route del default");
            to(OUTSIDE).marked().is_unreachable();
            to(OUTSIDE_IPV4).marked().is_unreachable();
            lan.hears(&to(NEIGHBOUR).marked());
        });
    });
}

#[test]
fn only_the_prefixes_go_by_the_tunnel() {
    in_netns_with_tun("only_the_prefixes_go_by_the_tunnel", || {
        let lan = Lan::new();
        block_on(async {
            let mut kernel = kernel();
            kernel.apply(&connected(&prefixes())).await.unwrap();
            for address in [INSIDE, "[fd00:8f80:1::99]:9999", "[ff05::1:3]:9999", "10.64.3.3:9999"] {
                enters(&kernel, "enf0", &to(address));
            }
            to(INSIDE).bound().is_unreachable();
            for address in [NEIGHBOUR, OUTSIDE, OUTSIDE_IPV4] {
                lan.hears(&to(address));
                lan.hears(&to(address).bound());
            }
            lan.hears(&to(INSIDE).marked());
            // A longer route in main changes nothing.
            sh("ip -6 route add fd00:8f80::98/127 via fd00:1::2");
            enters(&kernel, "enf0", &to(INSIDE));
            lan.heard_nothing_else();
        });
    });
}

#[test]
fn an_own_address_with_a_short_prefix_takes_no_marked_packet_into_the_tunnel() {
    in_netns_with_tun("an_own_address_with_a_short_prefix_takes_no_marked_packet_into_the_tunnel", || {
        let lan = Lan::new();
        block_on(async {
            let mut kernel = kernel();
            let own = vec!["fd00:8f80::5/64".parse().unwrap(), "203.0.113.1/24".parse().unwrap()];
            kernel.apply(&build(&everything_with_ipv4(), &Wanted::Connected(own), &[])).await.unwrap();
            for address in [INSIDE, OUTSIDE_IPV4] {
                enters(&kernel, "enf0", &to(address));
                lan.hears(&to(address).marked());
            }
            lan.heard_nothing_else();
        });
    });
}

#[test]
fn without_the_device_nothing_leaves_by_another_door() {
    in_netns_with_tun("without_the_device_nothing_leaves_by_another_door", || {
        let lan = Lan::new();
        let kept_in = [OUTSIDE, INSIDE, NEIGHBOUR, "[ff05::1:3]:9999", OUTSIDE_IPV4];
        for address in &kept_in[..3] {
            lan.hears(&to(address));
            lan.hears(&to(address).bound());
        }
        block_on(async {
            let mut kernel = kernel();
            let tunnel = everything();
            let plan = connected(&tunnel);
            for without_device in ["deleted", "set down", "blocked", "connecting"] {
                kernel.apply(&plan).await.unwrap();
                match without_device {
                    "deleted" => drop(ip("link del enf0")),
                    "set down" => drop(ip("link set enf0 down")),
                    "blocked" => drop(kernel.apply(&build(&tunnel, &Wanted::Blocked, &[])).await.unwrap()),
                    _ => drop(kernel.apply(&build(&tunnel, &Wanted::Connecting, &own())).await.unwrap()),
                }
                for address in kept_in {
                    // With a device that has no carrier the kernel takes the packet and drops it.
                    if without_device == "connecting" {
                        let _ = to(address).send();
                    } else {
                        to(address).is_unreachable();
                    }
                }
                for address in &kept_in[..3] {
                    to(address).bound().is_unreachable();
                }
                lan.hears(&to(OUTSIDE).marked());
                lan.heard_nothing_else();
            }
        });
    });
}

#[test]
fn injuries_are_healed() {
    in_netns_with_tun("injuries_are_healed", || {
        let _lan = Lan::new();
        let plan = connected(&everything_with_ipv4());
        block_on(async {
            let mut kernel = kernel();
            kernel.apply(&plan).await.unwrap();
            for injury in [
                "ip link set enf0 down",
                "ip link set enf0 mtu 1400",
                "ip link set enf0 addrgenmode eui64",
                "echo 1 > /proc/sys/net/ipv6/conf/enf0/accept_ra",
                "echo 1 > /proc/sys/net/ipv6/conf/enf0/disable_ipv6",
                "ip -6 addr del fd00:8f80::5/128 dev enf0",
                "ip -6 addr add fd00:8f80::6/128 dev enf0",
                "ip -6 addr del fd00:8f80::5/128 dev enf0; ip -6 addr add fd00:8f80::5/128 dev enf0 nodad",
                "ip -6 rule del pref 556",
                "ip -6 rule del pref 557",
                "ip -4 rule flush; ip -4 rule add pref 32766 lookup main; ip -4 rule add pref 32767 lookup default",
                "ip -6 rule add pref 700 lookup 2097 protocol kernel",
                "ip -6 route flush table 2097",
                "ip -4 route flush table 2097",
                "ip -6 route flush table 2097; ip -6 route add default dev enf0 table 2097 protocol static",
                "ip -6 route add default via fd00:1::2 table 2097 metric 5",
                "ip -4 route add 203.0.113.0/24 via 192.0.2.2 table 2097",
                "ip -6 route add blackhole fd00:2::/64 table 2097",
                "ip -6 route del ff00::/8 dev enf0 table local metric 50",
                "ip -6 route del unreachable ff00::/8 table local metric 128",
            ] {
                sh(injury);
                let observed = kernel.observe(&plan.scope).await.unwrap();
                assert_ne!(plan::diff(&plan, &observed), [], "{injury} is seen");
                let healed = kernel.apply(&plan).await.unwrap_or_else(|error| panic!("{injury}: {}", chain(&error)));
                assert!(!healed.changes.is_empty());
                assert_eq!(plan::diff(&plan, &kernel.observe(&plan.scope).await.unwrap()), [], "{injury} is healed");
            }
            assert!(ip("-6 route get 2001:db8:9::9").contains("dev enf0"));
            ip("link del enf0");
            kernel.apply(&plan).await.unwrap();
            enters(&kernel, "enf0", &to(OUTSIDE));
        });
    });
}

#[test]
fn what_is_not_of_the_tunnel_is_not_touched() {
    in_netns_with_tun("what_is_not_of_the_tunnel_is_not_touched", || {
        let _lan = Lan::new();
        sh("ip -6 rule add pref 556 from fd00:1::1 lookup 77 protocol kernel
            ip -6 rule add pref 558 fwmark 0x77 unreachable protocol kernel
            ip -6 rule add pref 300 to fd00:8f80::77 lookup 77 protocol kernel
            ip -6 rule add pref 556 lookup 77 protocol static
            ip -6 rule add pref 202 fwmark 363 iif lan0 lookup main protocol kernel
            ip -4 rule add pref 1000 lookup 2097
            ip -6 route add default via fd00:1::2 table 77
            ip -6 route add unreachable ff00::/8 table local metric 129 protocol kernel
            ip tuntap add dev enf1 mode tun; ip link set enf1 up");
        let before = state_of_host();
        block_on(async {
            let mut kernel = kernel();
            kernel.apply(&connected(&everything())).await.unwrap();
            assert_ne!(state_of_host(), before);
            kernel.clear(&Scope::of(&everything())).await.unwrap();
            assert_eq!(state_of_host(), before);
        });
    });
}

#[test]
fn two_tunnels_with_nested_prefixes_live_side_by_side() {
    in_netns_with_tun("two_tunnels_with_nested_prefixes_live_side_by_side", || {
        let lan = Lan::new();
        let before = state_of_host();
        let wide = another("enf0", 2097, MARK, &["fd00:8f80::/32"]);
        let narrow = another("enf1", 2098, 364, &["fd00:8f80:1::/48"]);
        let (in_wide, in_narrow) = (to(INSIDE), to("[fd00:8f80:1::99]:9999"));
        block_on(async {
            let mut kernel = kernel();
            kernel.apply(&connected(&wide)).await.unwrap();
            enters(&kernel, "enf0", &in_narrow);
            kernel
                .apply(&build(&narrow, &Wanted::Connected(vec!["fd00:8f80:1::5/128".parse().unwrap()]), &[]))
                .await
                .unwrap();
            assert_eq!(kernel.apply(&connected(&wide)).await.unwrap().changes, Vec::<String>::new());
            enters(&kernel, "enf0", &in_wide);
            enters(&kernel, "enf1", &in_narrow);
            // The packets that carry one tunnel do not enter the other.
            lan.hears(&Probe { mark: 364, ..in_wide });
            lan.hears(&Probe { mark: MARK, ..in_narrow });
            // Without its device, what belongs in the narrow one does not take the wide one.
            ip("link del enf1");
            in_narrow.is_unreachable();
            enters(&kernel, "enf0", &in_wide);
            kernel.clear(&Scope::of(&narrow)).await.unwrap();
            enters(&kernel, "enf0", &in_narrow);
            lan.heard_nothing_else();
            kernel.clear(&Scope::of(&wide)).await.unwrap();
        });
        assert_eq!(state_of_host(), before);
    });
}

#[test]
fn prefixes_of_an_older_configuration_go_with_the_next_apply() {
    in_netns_with_tun("prefixes_of_an_older_configuration_go_with_the_next_apply", || {
        let lan = Lan::new();
        let (old, new) = (everything(), another("enf0", 2097, MARK, &["fd00:8f80::/32"]));
        let fresh = Netns::new().run(|| {
            block_on(async {
                kernel().apply(&build(&new, &Wanted::Blocked, &[])).await.unwrap();
                ip("-6 rule") + &ip("-4 rule")
            })
        });
        block_on(async {
            let mut kernel = kernel();
            kernel.apply(&build(&old, &Wanted::Blocked, &[])).await.unwrap();
            to(OUTSIDE).is_unreachable();
            let mut plan = build(&new, &Wanted::Blocked, &[]);
            plan.scope.prefixes.extend(Scope::of(&old).prefixes);
            kernel.apply(&plan).await.unwrap();
            assert_eq!(ip("-6 rule") + &ip("-4 rule"), fresh);
            lan.hears(&to(OUTSIDE));
            to(INSIDE).is_unreachable();
        });
    });
}

#[test]
fn a_device_that_is_there_already_is_adopted() {
    in_netns_with_tun("a_device_that_is_there_already_is_adopted", || {
        ip("tuntap add dev enf0 mode tun");
        let index = nix::net::if_::if_nametoindex("enf0").unwrap();
        let link = || ip("-d -j link show enf0");
        assert!(!link().contains("\"user\""));
        block_on(async {
            // Where the user exists, the device is his; in a user namespace without him it is ours.
            let exists = std::fs::read_to_string("/proc/self/uid_map").unwrap().contains("4294967295");
            let user = if exists { 65_533 } else { nix::unistd::getuid().as_raw() };
            let mut kernel = Kernel::new(65_533, Path::new("/nothing/is/kept")).unwrap();
            assert_eq!(kernel.apply(&connected(&everything())).await.unwrap().ifindex, Some(index));
            let json: serde_json::Value = serde_json::from_str(&link()).unwrap();
            let data = &json[0]["linkinfo"]["info_data"];
            // A number, or a name where there is one.
            assert!(data["user"] == user || (user == 0 && data["user"] == "root"), "{data}");
            assert_eq!(data["persist"], true);

            kernel.clear(&Scope::of(&everything())).await.unwrap();
            kernel.apply(&connected(&everything())).await.unwrap();
            let json: serde_json::Value = serde_json::from_str(&link()).unwrap();
            assert_eq!(&json[0]["linkinfo"]["info_data"], data);
        });
    });
}

#[test]
fn the_device_says_nothing_by_itself() {
    in_netns_with_tun("the_device_says_nothing_by_itself", || {
        block_on(async {
            let mut kernel = kernel();
            kernel.apply(&connected(&everything())).await.unwrap();
            wait_for("carrier", || ip("link show enf0").contains("LOWER_UP"));
            let addresses = ip("-6 -o addr show dev enf0");
            assert!(addresses.contains("fd00:8f80::5/128"), "{addresses}");
            assert_eq!(addresses.lines().count(), 1, "{addresses}");
            assert_eq!(sh("cat /proc/sys/net/ipv6/conf/enf0/accept_ra"), "0\n");
            // The first packet that comes out is ours: no MLD report, no router solicitation before it.
            to(OUTSIDE).send().unwrap();
            let tun = kernel.tun("enf0").unwrap();
            let mut packet = [0; 1500];
            let length = loop {
                tun.readable().await.unwrap();
                match tun.try_recv(&mut packet) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    received => break received.unwrap(),
                }
            };
            assert!(packet[..length].ends_with(b"probe"), "{:02x?}", &packet[..length]);
        });
    });
}

#[test]
fn between_sessions_addresses_stay_and_no_old_packet_is_sent_later() {
    in_netns_with_tun("between_sessions_addresses_stay_and_no_old_packet_is_sent_later", || {
        block_on(async {
            let tunnel = everything();
            let mut kernel = kernel();
            kernel.apply(&connected(&tunnel)).await.unwrap();
            enters(&kernel, "enf0", &to(OUTSIDE));
            // One more is left unread.
            to(OUTSIDE).send().unwrap();
            let tun = kernel.tun("enf0").unwrap();
            let between = kernel.apply(&build(&tunnel, &Wanted::Connecting, &own())).await.unwrap();
            assert_eq!(between.changes, ["# enftund turns the carrier of enf0 off"]);
            assert!(ip("-6 addr show dev enf0").contains("fd00:8f80::5/128"));
            wait_for("no carrier", || ip("link show enf0").contains("NO-CARRIER"));
            // Nobody else gets at the device meanwhile.
            assert_eq!(enftun::sys::tun::Tun::open("enf0").unwrap_err().raw_os_error(), Some(nix::libc::EBUSY));
            kernel.apply(&connected(&tunnel)).await.unwrap();
            let error = nix::unistd::read(&tun, &mut [0; 1500]).unwrap_err();
            assert_eq!(error, nix::errno::Errno::EAGAIN);
            enters(&kernel, "enf0", &to(OUTSIDE));
        });
    });
}

#[test]
fn what_is_written_to_the_device_arrives_on_the_host() {
    in_netns_with_tun("what_is_written_to_the_device_arrives_on_the_host", || {
        block_on(async {
            let mut kernel = kernel();
            kernel.apply(&connected(&everything())).await.unwrap();
            let heard = tokio::net::UdpSocket::bind("[fd00:8f80::5]:9999").await.unwrap();
            // UDP over IPv6 from fd00::1 with the payload "pong"; the checksum is right.
            let mut packet = vec![0x60, 0, 0, 0, 0, 12, 17, 64];
            packet.extend("fd00::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
            packet.extend("fd00:8f80::5".parse::<std::net::Ipv6Addr>().unwrap().octets());
            packet.extend([0x27, 0x0f, 0x27, 0x0f, 0, 12, 0, 0]);
            packet.extend(b"pong");
            let pseudo =
                packet[8..].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum::<u32>() + 12 + 17;
            let folded = (pseudo & 0xffff) + (pseudo >> 16);
            let sum = !(((folded & 0xffff) + (folded >> 16)) as u16);
            packet[46..48].copy_from_slice(&sum.to_be_bytes());
            let tun = kernel.tun("enf0").unwrap();
            tun.writable().await.unwrap();
            tun.try_send(&packet).unwrap();
            let mut text = [0; 16];
            assert_eq!(heard.recv(&mut text).await.unwrap(), 4);
            assert_eq!(&text[..4], b"pong");
        });
    });
}

#[test]
fn a_foreign_device_of_that_name_is_left_alone_and_the_rules_still_block() {
    in_netns_with_tun("a_foreign_device_of_that_name_is_left_alone_and_the_rules_still_block", || {
        let lan = Lan::new();
        let plan = connected(&everything());
        for (make, kind) in
            [("ip link add enf0 type veth peer name other", "veth"), ("ip tuntap add dev enf0 mode tap", "TAP")]
        {
            sh(make);
            let before = state_of_host();
            block_on(async {
                let mut kernel = kernel();
                let error = kernel.apply(&plan).await.unwrap_err();
                assert!(matches!(error, KernelError::NotTun { .. }), "{error:?}");
                assert!(error.to_string().contains(kind), "{error}");
                assert_eq!(error.class(), Class::Environment);
                to(OUTSIDE).is_unreachable();
                lan.hears(&to(OUTSIDE).marked());
                kernel.clear(&plan.scope).await.unwrap();
            });
            assert_eq!(state_of_host(), before);
            ip("link del enf0");
        }
    });
}

#[test]
fn a_device_in_other_hands_is_said_to_be() {
    in_netns_with_tun("a_device_in_other_hands_is_said_to_be", || {
        block_on(async {
            let mut first = kernel();
            let plan = connected(&everything());
            first.apply(&plan).await.unwrap();
            let error = kernel().apply(&plan).await.unwrap_err();
            assert!(matches!(error, KernelError::Busy { .. }), "{error:?}");
            assert!(error.to_string().contains("enf0 is in use by another process"), "{error}");
            assert_eq!(error.class(), Class::Transient);
        });
    });
}

#[test]
fn missing_rights_and_a_missing_driver_are_named() {
    in_netns_with_tun("missing_rights_and_a_missing_driver_are_named", || {
        // Both are taken from this thread only.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let plan = connected(&everything());
        if let Err(error) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS) {
            return skip("missing_rights_and_a_missing_driver_are_named", &format!("no mount namespace: {error}"));
        }
        sh("mount --make-rprivate /; mount -t tmpfs none /dev/net");
        let failure = runtime.block_on(async { Failure::from(&kernel().apply(&plan).await.unwrap_err()) });
        assert_eq!((failure.reason, failure.class), (Reason::RouteFailed, Class::Environment));
        assert!(failure.text.starts_with("/dev/net/tun cannot be opened"), "{failure}");

        runtime.block_on(async { kernel().clear(&plan.scope).await.unwrap() });
        caps::drop(None, caps::CapSet::Effective, caps::Capability::CAP_NET_ADMIN).unwrap();
        let failure = runtime.block_on(async { Failure::from(&kernel().apply(&plan).await.unwrap_err()) });
        assert_eq!((failure.reason, failure.class), (Reason::RouteFailed, Class::Environment));
        assert!(failure.text.contains("CAP_NET_ADMIN"), "{failure}");
        caps::raise(None, caps::CapSet::Effective, caps::Capability::CAP_NET_ADMIN).unwrap();
        assert!(!try_ip("-6 rule show pref 556").stdout.starts_with(b"556"));
    });
}
