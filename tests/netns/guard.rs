//! The guard table: what somebody's `nft flush ruleset` does not open, who may touch it, and who takes it over.

use crate::common::certs::{Ca, Leaf};
use crate::common::client::{Foreground, Tunnel};
use crate::common::fake_router::{FakeRouter, Manners, server};
use crate::common::netns::{Netns, block_on, in_netns_with_tun, sh, state_of_host, veth};
use crate::common::{skip, wait_for};
use crate::ruleset::hosts;
use enftun::config;
use enftun::kernel::{Kernel, KernelError};
use enftun::plan::{self, Facts, Host, Openings};
use enftun::state::Wanted;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

const MARK: u32 = 363;
const LIST: &str = "list table inet enftun-guard";

fn kernel() -> Kernel {
    Kernel::new(nix::unistd::getuid().as_raw(), Path::new("/nothing/is/kept")).unwrap()
}

/// Runs `tell` in a network namespace of its own, where the kernel can keep a guard.
fn story(test: &str, tell: impl FnOnce() + Send) {
    in_netns_with_tun(test, || {
        let (_, host) = hosts().pop().unwrap();
        let changes = block_on(async { kernel().apply_host(&guard_of(&host)).await.unwrap().changes });
        if changes.is_empty() {
            return skip(test, "this kernel keeps no nftables table for its owner (Linux 6.9 does)");
        }
        block_on(async { kernel().apply_host(&Host::default()).await.unwrap() });
        tell();
    });
}

/// The guard alone.
fn guard_of(host: &Host) -> Host {
    Host { guard: host.guard.clone(), ..Host::default() }
}

fn nft(arguments: &str) -> Result<String, String> {
    let output = Command::new("nft").args(arguments.split_whitespace()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// A table as nft lists it, but for handles and for the flags that nft's text cannot have.
fn listed() -> serde_json::Value {
    fn strip(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Array(items) => items.iter_mut().for_each(strip),
            serde_json::Value::Object(fields) => {
                fields.remove("handle");
                fields.values_mut().for_each(strip);
            }
            _ => {}
        }
    }
    let mut listed = serde_json::from_str(&nft("-j list table inet enftun-guard").unwrap()).unwrap();
    strip(&mut listed);
    if let Some(table) = listed["nftables"][1]["table"].as_object_mut() {
        table.remove("flags");
    }
    listed
}

#[test]
fn the_printed_guard_and_what_the_kernel_is_told_make_the_same_table() {
    story("the_printed_guard_and_what_the_kernel_is_told_make_the_same_table", || {
        for (what, host) in hosts() {
            let Some(table) = &host.guard else { continue };
            let by_text = Netns::new().run(|| {
                sh(&format!("nft -f - <<'EOF'\n{table}\nEOF"));
                listed()
            });
            assert!(by_text["nftables"].as_array().unwrap().len() > 5, "{what}: {by_text}");
            let by_us = Netns::new().run(|| {
                block_on(async {
                    let mut kernel = kernel();
                    assert_eq!(
                        kernel.apply_host(&guard_of(&host)).await.unwrap().changes,
                        ["nft: hold table inet enftun-guard"]
                    );
                    assert_eq!(kernel.apply_host(&guard_of(&host)).await.unwrap().changes, Vec::<String>::new());
                    listed()
                })
            });
            assert_eq!(by_us, by_text, "{what}:\n{table}");
        }
    });
}

/// Everything that root tries from outside while a process holds the guard.
fn nobody_else_can_change_it() {
    // But for nft's guess at who the owner is.
    let listed = || nft("-a list table inet enftun-guard").unwrap().split_once('\n').unwrap().1.to_owned();
    let before = listed();
    for attempt in [
        "delete table inet enftun-guard",
        "flush table inet enftun-guard",
        "flush chain inet enftun-guard postrouting",
        "delete chain inet enftun-guard postrouting",
        "add rule inet enftun-guard postrouting accept",
        "insert rule inet enftun-guard postrouting accept",
        "add chain inet enftun-guard mine",
        "add table inet enftun-guard { flags dormant; }",
    ] {
        let refused = nft(attempt).expect_err(attempt);
        assert!(refused.contains("Operation not permitted"), "{attempt}: {refused}");
    }
    nft("flush ruleset").unwrap();
    assert_eq!(listed(), before);
}

#[test]
fn nobody_else_can_change_the_guard_and_who_comes_next_takes_it_over() {
    story("nobody_else_can_change_the_guard_and_who_comes_next_takes_it_over", || {
        let before = state_of_host();
        let (_, host) = hosts().pop().unwrap();
        let host = guard_of(&host);
        block_on(async {
            let mut first = kernel();
            first.apply_host(&host).await.unwrap();
            nobody_else_can_change_it();
            // Also not another of us, who says why, and to whom it must not look like success.
            let mut second = kernel();
            for refused in [second.apply_host(&host).await, second.apply_host(&Host::default()).await] {
                let error = refused.unwrap_err();
                assert!(matches!(error, KernelError::GuardHeld), "{error:?}");
                assert!(error.to_string().contains("another process holds"), "{error}");
            }
            nobody_else_can_change_it();
            let listed = listed();
            // It has no owner now, and is still there.
            drop(first);
            assert_eq!(self::listed(), listed);
            second.apply_host(&host).await.unwrap();
            assert_eq!(self::listed(), listed);
            nobody_else_can_change_it();
            drop(second);
            // One that nobody owns is anybody's, also to delete.
            let mut third = kernel();
            assert_eq!(
                third.apply_host(&Host::default()).await.unwrap().changes,
                ["nft delete table inet enftun-guard"],
                "and nothing else"
            );
            assert_eq!(third.apply_host(&Host::default()).await.unwrap().changes, Vec::<String>::new());
            // What `enftunctl plan` prints makes an ordinary table; it becomes a guard.
            sh(&format!(
                "nft -f - <<'EOF'\n{}\nEOF\nnft add chain inet enftun-guard mine",
                host.guard.as_ref().unwrap()
            ));
            third.apply_host(&host).await.unwrap();
            assert_eq!(self::listed(), listed);
            nobody_else_can_change_it();
            third.apply_host(&Host::default()).await.unwrap();
        });
        assert_eq!(state_of_host(), before);
    });
}

#[test]
fn without_the_capability_it_is_not_said_that_another_holds_it() {
    story("without_the_capability_it_is_not_said_that_another_holds_it", || {
        let (_, host) = hosts().pop().unwrap();
        // This thread alone, and it ends with the story.
        caps::drop(None, caps::CapSet::Effective, caps::Capability::CAP_NET_ADMIN).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let refused = runtime.block_on(async { kernel().apply_host(&guard_of(&host)).await });
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("CAP_NET_ADMIN") && !error.contains("another"), "{error}");
    });
}

/// A host `here` with several cables, all to `far`, which hears what arrives at it and by which address.
struct Lan {
    _far: Netns,
    heard: Vec<UdpSocket>,
}

/// What is sent, and by which interface.
#[derive(Clone, Copy, Debug)]
struct Probe {
    dev: &'static str,
    from: u16,
    to: &'static str,
    mark: u32,
}

fn probe(dev: &'static str, to: &'static str) -> Probe {
    Probe { dev, from: 0, to, mark: 0 }
}

/// What routing alone does not hold: the sockets choose the interface, so that a failed lookup counts as "on link".
const ONLY_FIREWALL: [Probe; 5] = [
    Probe { dev: "lan0", from: 0, to: "192.0.2.2:9999", mark: 0 },
    Probe { dev: "lan0", from: 0, to: "192.0.2.255:9999", mark: 0 },
    Probe { dev: "lan0", from: 0, to: "255.255.255.255:9999", mark: 0 },
    Probe { dev: "lan0", from: 0, to: "239.1.2.3:9999", mark: 0 },
    Probe { dev: "lan0", from: 0, to: "[ff12::7]:9999", mark: 0 },
];

impl Lan {
    fn new(devices: &[&str]) -> Self {
        let (here, far) = (Netns::here(), Netns::new());
        for (number, dev) in devices.iter().enumerate() {
            let number = number + 1;
            veth(&here, dev, &far, &format!("far{number}"));
            sh(&format!(
                "ip addr add fd00:{number}::1/64 dev {dev}; ip addr add 192.0.{}.1/24 brd + dev {dev}
                 ip -6 route add fd00:8f80::/32 via fd00:{number}::2 dev {dev} metric {number}
                 ip -6 route add 2001:db8::/32 via fd00:{number}::2 dev {dev} metric {number}",
                number + 1
            ));
            far.exec(&format!(
                "ip addr add fd00:{number}::2/64 dev far{number}; ip addr add 192.0.{}.2/24 brd + dev far{number}",
                number + 1
            ));
        }
        far.exec("for a in fd00:8f80::99 fd00:8f80:1::99 2001:db8::99; do ip addr add $a dev lo; done");
        let heard = far.run(|| {
            let bound = |port: u16, domain| {
                let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).unwrap();
                let any: SocketAddr = match domain {
                    Domain::IPV4 => (Ipv4Addr::UNSPECIFIED, port).into(),
                    _ => {
                        socket.set_only_v6(true).unwrap();
                        (Ipv6Addr::UNSPECIFIED, port).into()
                    }
                };
                socket.bind(&any.into()).unwrap();
                UdpSocket::from(socket)
            };
            let (v4, v6) = (bound(9999, Domain::IPV4), bound(9999, Domain::IPV6));
            for number in 1..=devices.len() as u32 {
                let index = nix::net::if_::if_nametoindex(format!("far{number}").as_str()).unwrap();
                let address = Ipv4Addr::new(192, 0, number as u8 + 1, 2);
                v4.join_multicast_v4(&Ipv4Addr::new(239, 1, 2, 3), &address).unwrap();
                v6.join_multicast_v6(&"ff12::7".parse().unwrap(), index).unwrap();
            }
            vec![v4, v6, bound(67, Domain::IPV4), bound(547, Domain::IPV6)]
        });
        for socket in &heard {
            socket.set_nonblocking(true).unwrap();
        }
        let lan = Self { _far: far, heard };
        // The kernel answers for new addresses a moment after they are added.
        for (number, dev) in devices.iter().enumerate() {
            for to in [format!("fd00:{}::2", number + 1), format!("192.0.{}.2", number + 2)] {
                let ping = || Netns::here().output(&format!("ping -c1 -W1 -I {dev} {to}")).status.success();
                wait_for(&to, ping);
            }
        }
        lan
    }

    /// What has arrived and was not asked for yet.
    fn arrived(&self) -> Vec<String> {
        let mut arrived = Vec::new();
        for socket in &self.heard {
            let mut text = [0; 64];
            while let Ok(length) = socket.recv(&mut text) {
                arrived.push(String::from_utf8_lossy(&text[..length]).into_owned());
            }
        }
        arrived
    }

    /// Whether the probe arrives at the far end.
    fn hears(&self, probe: Probe) -> bool {
        let text = format!("{probe:?}");
        let _ = probe.send(&text[..text.len().min(64)]);
        let mut arrived = self.arrived();
        // Packets keep their order on a cable: when this one is there, the one before would be.
        let last = format!("last {}", probe.dev);
        Probe { from: 68, ..self::probe(probe.dev, "255.255.255.255:67") }.send(&last).unwrap();
        wait_for("DHCP", || {
            arrived.extend(self.arrived());
            arrived.contains(&last)
        });
        arrived.retain(|text| *text != last);
        assert!(arrived.len() < 2, "{arrived:?}");
        !arrived.is_empty()
    }
}

impl Probe {
    fn send(&self, text: &str) -> io::Result<()> {
        let to: SocketAddr = self.to.parse().unwrap();
        let socket = Socket::new(Domain::for_address(to), Type::DGRAM, None)?;
        socket.bind_device(Some(self.dev.as_bytes()))?;
        socket.set_mark(self.mark)?;
        if self.from != 0 {
            // Another test's child may hold the last socket until it runs its program.
            socket.set_reuse_address(true)?;
            let any: SocketAddr = match to {
                SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, self.from).into(),
                SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, self.from).into(),
            };
            socket.bind(&any.into())?;
        }
        if to.is_ipv4() {
            socket.set_broadcast(true)?;
        }
        socket.send_to(text.as_bytes(), &to.into()).map(drop)
    }
}

fn tunnel(name: &str, route: &str) -> config::Tunnel {
    let text = format!(
        "kind = \"enf\"\n[remote]\nhosts = [\"2001:db8::1\"]\nname = \"router\"\n[tun]\ndev = \"{name}\"\n[route]\n{route}\n"
    );
    let (tunnel, findings) = config::parse_tunnel(name, Path::new("enf0.toml"), Path::new("/"), &text);
    tunnel.unwrap_or_else(|| panic!("{findings:?}"))
}

fn trusting(mut tunnel: config::Tunnel, interface: &str) -> config::Tunnel {
    tunnel.route.trusted_interfaces = vec![interface.to_owned()];
    tunnel
}

/// What the host must hold for these tunnels, all connected or none.
fn host(connected: bool, tunnels: &[config::Tunnel]) -> Host {
    let own = vec!["fd00:8f80::5/128".parse().unwrap()];
    let wanted = if connected { Wanted::Connected(own.clone()) } else { Wanted::Connecting };
    let facts = Facts { wanted: &wanted, kept: &own, openings: &Openings::default() };
    let plans: Vec<_> = tunnels.iter().map(|tunnel| plan::build(tunnel, &BTreeMap::new(), facts)).collect();
    let host = Host::of(&plans, nix::unistd::getuid().as_raw());
    // The firewall and the guard alone: the rest needs a place to keep what was there before.
    Host { firewall: host.firewall, guard: host.guard, ..Host::default() }
}

#[test]
fn after_a_flush_the_guard_holds_alone_and_without_it_the_host_is_open() {
    story("after_a_flush_the_guard_holds_alone_and_without_it_the_host_is_open", || {
        let lan = Lan::new(&["lan0"]);
        let host = host(true, &[tunnel("enf0", "prefixes = [\"default\"]")]);
        block_on(async {
            let mut kernel = kernel();
            for probe in ONLY_FIREWALL {
                assert!(lan.hears(probe), "without a tunnel: {probe:?}");
            }
            kernel.apply_host(&host).await.unwrap();
            for probe in ONLY_FIREWALL {
                let refused = probe.send("refused").unwrap_err();
                assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied, "{probe:?}: {refused}");
            }
            sh("nft flush ruleset");
            assert!(nft("list table inet enftun").is_err(), "it is flushed");
            for probe in ONLY_FIREWALL {
                assert!(!lan.hears(probe), "the guard holds: {probe:?}");
            }
            kernel.apply_host(&Host { guard: None, ..host }).await.unwrap();
            sh("nft flush ruleset");
            for probe in ONLY_FIREWALL {
                assert!(lan.hears(probe), "without a guard a flush opens: {probe:?}");
            }
            kernel.apply_host(&Host::default()).await.unwrap();
        });
    });
}

#[test]
fn what_passes_the_firewall_passes_the_guard() {
    story("what_passes_the_firewall_passes_the_guard", || {
        let lan = Lan::new(&["lan0", "eth7", "enf0", "enf1"]);
        let prefixes =
            "prefixes = [\"fd00:8f80::/32\", \"ff12::/16\", \"239.0.0.0/8\", \"192.0.0.0/16\"]\nallow_ipv4 = true";
        let prefixes = [
            trusting(tunnel("enf0", prefixes), "eth7"),
            tunnel("enf1", "prefixes = [\"fd00:8f80:1::/48\"]\nfwmark = 0x7\nfwmark_mask = 0xf\ntable = 9"),
        ];
        let everything = [trusting(tunnel("enf0", "prefixes = [\"default\"]\nallow_ipv4 = true"), "eth7")];
        let inside = "[fd00:8f80::99]:9999";
        let inner = "[fd00:8f80:1::99]:9999";
        let outside = "[2001:db8::99]:9999";
        // In place of the firewall, this tells the kernel which flows are our own.
        sh("nft 'table inet other { chain output {
                type filter hook output priority -10; udp sport 7777 ct mark set meta mark;
            }; }'");
        let ours = |mark| Probe { from: 7777, mark, ..probe("lan0", inside) };
        let dhcp4 = Probe { from: 68, ..probe("lan0", "255.255.255.255:67") };
        let renewal4 = Probe { from: 68, ..probe("lan0", "192.0.2.2:67") };
        let dhcp6 = Probe { from: 546, ..probe("lan0", "[fd00:1::2]:547") };
        // (the probe, whether it passes with two prefix tunnels up, one default tunnel up, and the same not up)
        let cases = [
            (probe("lan0", inside), [false, false, false]),
            (probe("lan0", inner), [false, false, false]),
            (probe("lan0", outside), [true, false, false]),
            (ours(MARK), [true, true, true]),
            (ours(0x127), [true, false, false]),
            (ours(0x128), [false, false, false]),
            // Whoever may set a mark is not us.
            (Probe { from: 0, ..ours(MARK) }, [false, false, false]),
            (Probe { from: 0, to: outside, ..ours(MARK) }, [false, false, false]),
            (probe("eth7", inside), [true, true, true]),
            // The other tunnel trusts nobody.
            (probe("eth7", inner), [false, true, true]),
            (probe("eth7", "255.255.255.255:9999"), [true, true, true]),
            (probe("enf0", inside), [true, true, false]),
            (probe("enf0", inner), [false, true, false]),
            (probe("enf1", inner), [true, false, false]),
            (probe("enf1", inside), [false, false, false]),
            (probe("enf0", "192.0.4.2:9999"), [true, true, false]),
            (probe("lan0", "192.0.2.2:9999"), [false, false, false]),
            (probe("lan0", "239.1.2.3:9999"), [false, false, false]),
            (probe("lan0", "[ff12::7]:9999"), [false, false, false]),
            (dhcp4, [true, true, true]),
            (renewal4, [true, true, true]),
            (dhcp6, [true, true, true]),
            (Probe { to: "192.0.2.2:9999", ..renewal4 }, [false, false, false]),
            (Probe { from: 67, ..renewal4 }, [false, false, false]),
            (Probe { to: "[fd00:1::2]:9999", ..dhcp6 }, [true, false, false]),
        ];
        block_on(async {
            let mut kernel = kernel();
            let states = [host(true, &prefixes), host(true, &everything), host(false, &everything)];
            for (number, host) in states.iter().enumerate() {
                kernel.apply_host(&guard_of(host)).await.unwrap();
                for (probe, expected) in cases {
                    let text = host.guard.as_ref().unwrap();
                    assert_eq!(lan.hears(probe), expected[number], "{probe:?} in\n{text}");
                }
                // An own address is no more reached by way of the LAN than with the firewall.
                sh("ip addr replace fd00:8f80::5/128 dev lo");
                let reached = |by: &str, of: &str| {
                    lan._far.exec(&format!("ip -6 route replace {of} via {by}"));
                    lan._far.output(&format!("ping -c1 -W1 {of}")).status.success()
                };
                assert!(!reached("fd00:1::1", "fd00:8f80::5") && !reached("fd00:2::1", "fd00:8f80::5"));
                sh("ip addr del fd00:8f80::5/128 dev lo");
                // Neighbours are found, and the answer to a question of theirs leaves.
                sh("ip -6 neigh flush dev lan0");
                lan._far.exec("ip -6 neigh flush dev far1");
                let found = |netns: &Netns, of: &str| netns.exec(&format!("ip -6 neigh show {of}")).contains("lladdr");
                lan._far.output("ping -c1 -W1 fd00:1::1");
                wait_for("the neighbour's question is answered", || found(&lan._far, "fd00:1::1"));
                wait_for("the neighbour is found", || {
                    let _ = Probe { from: 546, ..probe("lan0", "[fd00:1::2]:547") }.send("neighbour");
                    found(&Netns::here(), "fd00:1::2")
                });
                lan.arrived();
            }
            kernel.apply_host(&Host::default()).await.unwrap();
        });
    });
}

/// Sends what only the firewall holds, over and over, until this is dropped.
fn flood<T>(story: impl FnOnce() -> T) -> (T, u32) {
    struct Ending<'a>(&'a AtomicBool);
    impl Drop for Ending<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let (stop, here) = (AtomicBool::new(false), Netns::here());
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            here.run(|| {
                let mut sent = 0;
                while !stop.load(Ordering::Relaxed) {
                    for probe in ONLY_FIREWALL {
                        let _ = probe.send("flood");
                        sent += 1;
                    }
                }
                sent
            })
        });
        let ending = Ending(&stop);
        let told = story();
        drop(ending);
        (told, sender.join().unwrap())
    })
}

#[test]
fn while_the_guard_is_replaced_nothing_leaves() {
    story("while_the_guard_is_replaced_nothing_leaves", || {
        let lan = Lan::new(&["lan0"]);
        let tunnels = [tunnel("enf0", "prefixes = [\"default\"]")];
        let states = [host(false, &tunnels), host(true, &tunnels)];
        block_on(async {
            let mut first = kernel();
            first.apply_host(&guard_of(&states[0])).await.unwrap();
            let ((), sent) = flood(|| {
                tokio::task::block_in_place(|| {
                    tokio::runtime::Handle::current().block_on(async {
                        for round in 0..100 {
                            let changes = first.apply_host(&guard_of(&states[(round + 1) % 2])).await.unwrap().changes;
                            assert_eq!(changes.len(), 1);
                            if round % 10 == 0 {
                                // The next process: no owner for a while, and never no table.
                                first = kernel();
                            }
                        }
                    });
                });
            });
            println!("{sent} probes while the guard was replaced 100 times");
            assert!(sent > 1000);
            assert_eq!(lan.arrived(), Vec::<String>::new());
            first.apply_host(&Host::default()).await.unwrap();
            assert!(lan.hears(ONLY_FIREWALL[0]));
        });
    });
}

/// A router, and a tunnel for everything to it.
fn daemon() -> (FakeRouter, Tunnel) {
    let ca = Ca::v3("Test Root");
    let router = ca.sign_v3(Leaf::new("router.example.net").dns("router.example.net"));
    let client = ca.sign_v3(Leaf::new("fd00:8f80:1::1234").ip("fd00:8f80:1::1234"));
    let router = FakeRouter::start(Manners::Good(server(&router, &router, rustls::ALL_VERSIONS)));
    let mut tunnel = Tunnel::new(&router.address.to_string(), &ca, &client);
    tunnel.route = "prefixes = [\"default\"]\nlockdown = \"session\"\n".to_owned();
    // A busy machine shall not end the session.
    tunnel.remote = tunnel.remote.replace("\"1s\"", "\"60s\"").replace("\"2s\"", "\"30s\"");
    (router, tunnel)
}

fn kill(run: &mut Foreground) {
    run.child.kill().unwrap();
    run.child.wait().unwrap();
}

#[test]
fn a_firewall_reload_in_a_loop_opens_nothing() {
    story("a_firewall_reload_in_a_loop_opens_nothing", || {
        let lan = Lan::new(&["lan0"]);
        let (_router, tunnel) = daemon();
        for probe in ONLY_FIREWALL {
            assert!(lan.hears(probe), "without a tunnel: {probe:?}");
        }
        let mut run = tunnel.run();
        run.until("connected");
        let (missing, sent) = flood(|| {
            // As firewalls are reloaded: all away, and the user's own table back.
            let mut missing = 0;
            for _ in 0..60 {
                sh(
                    "nft -f - <<'EOF'\nflush ruleset\ntable inet filter { chain output { type filter hook output priority 0; accept; }; }\nEOF",
                );
                missing += u32::from(nft("list table inet enftun").is_err());
                nft(LIST).unwrap();
            }
            missing
        });
        println!("{sent} probes, while our table was missing after {missing} of 60 reloads");
        assert!(sent > 1000 && missing > 10, "{sent} probes, {missing} times");
        assert_eq!(lan.arrived(), Vec::<String>::new());
        // Disturbed so often, the daemon may have begun anew.
        wait_for("the firewall, as it is while connected", || {
            let open = |table: &str| {
                nft(&format!("list table inet {table}")).is_ok_and(|text| text.contains("into the tunnel"))
            };
            open("enftun") && open("enftun-guard")
        });
        nobody_else_can_change_it();
        assert_eq!(run.interrupt(), Some(0));
        assert!(nft(LIST).unwrap_err().contains("No such file"), "the user disconnected");
        assert!(lan.hears(ONLY_FIREWALL[0]));
    });
}

#[test]
fn a_killed_daemon_leaves_the_guard_and_the_next_one_takes_it_over() {
    story("a_killed_daemon_leaves_the_guard_and_the_next_one_takes_it_over", || {
        let lan = Lan::new(&["lan0"]);
        let (_router, tunnel) = daemon();
        let before = state_of_host();
        let mut run = tunnel.run();
        run.until("connected");
        let (_, sent) = flood(|| {
            for _ in 0..5 {
                nobody_else_can_change_it();
                kill(&mut run);
                nft(LIST).expect("it outlives its owner");
                run = tunnel.run();
                run.until("connected");
            }
        });
        println!("{sent} probes while the daemon was killed and started five times");
        assert!(sent > 1000);
        assert_eq!(lan.arrived(), Vec::<String>::new());

        // What has no owner is flushed with the rest: then routing holds alone, and the next daemon makes it anew.
        kill(&mut run);
        sh("nft flush ruleset");
        assert!(nft(LIST).is_err());
        run = tunnel.run();
        run.until("connected");
        nobody_else_can_change_it();

        // Without any daemon, `clear` takes it away with all the rest.
        kill(&mut run);
        let clear = Command::new(env!("CARGO_BIN_EXE_enftunctl"))
            .arg("clear")
            .arg(tunnel.path().join("enf0.toml"))
            .arg("--config-dir")
            .arg(tunnel.path())
            .arg("--runtime-dir")
            .arg(tunnel.path().join("run"))
            .output()
            .unwrap();
        assert!(clear.status.success(), "{clear:?}");
        wait_for("all as before", || state_of_host() == before);
        assert!(lan.hears(ONLY_FIREWALL[0]));
    });
}
