//! What is blocked, by `lockdown`: each cell of the table in the configuration reference on a real kernel, and what holds when
//! files are damaged, edited or gone, and when a program is killed. The probes go to a host on the LAN.

use crate::common::bus::{PrivateBus, daemon_user, own_uid, stderr, stdout};
use crate::common::certs::{Ca, Identity, Leaf, write};
use crate::common::fake_router::{FakeRouter, Manners, server};
use crate::common::netns::{Netns, Running, in_netns_with_tun, ip, sh, state_of_host, try_ip, veth};
use crate::common::wire::remote_line;
use crate::common::{schema, skip, wait_for};
use nix::sys::socket::{setsockopt, sockopt};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

const OPEN: [&str; 5] = ["tcp4", "tcp6", "udp4", "udp6", "bound4"];
const BLOCKED: [&str; 0] = [];
/// What nftables alone holds: IPv4 that is bound to a device.
const ROUTED: [&str; 1] = ["bound4"];
const WORDS: [&str; 3] = ["boot", "session", "off"];
const EVERYTHING: &str = "prefixes = [\"default\"]";

/// A client, which is the test's own namespace, with a router of its own on loopback and a host on the LAN.
struct World {
    bus: PrivateBus,
    _lan: Netns,
    directory: tempfile::TempDir,
    ca: Ca,
    router: Option<FakeRouter>,
    address: SocketAddr,
    daemon: Option<Running>,
}

fn story(test: &str, tell: impl FnOnce(&mut World) + Send) {
    in_netns_with_tun(test, || {
        let Some(bus) = PrivateBus::start(test) else { return };
        let lan = Netns::new();
        veth(&Netns::here(), "lan0", &lan, "lan1");
        for (netns, dev, own) in [(&Netns::here(), "lan0", 1), (&lan, "lan1", 2)] {
            netns.exec(&format!(
                "ip addr add 192.0.2.{own}/24 dev {dev}; ip addr add 2001:db8::{own}/64 dev {dev} nodad"
            ));
        }
        // Without waiting for a neighbour, a probe has left when the call that sends it returns.
        let far = lan.exec("ip -br link show lan1 | awk '{ print $3 }'");
        for address in ["192.0.2.2", "2001:db8::2"] {
            ip(&format!("neigh add {address} lladdr {} dev lan0 nud permanent", far.trim()));
        }
        sh(r#"nft 'table inet sniff {
            counter tcp4 { }; counter tcp6 { }; counter udp4 { }; counter udp6 { }; counter bound4 { }; counter link { };
            chain out {
                type filter hook postrouting priority 400;
                oifname != lan0 accept
                tcp dport 7001 counter name tcp4
                tcp dport 7002 counter name tcp6
                udp dport 7003 counter name udp4
                udp dport 7004 counter name udp6
                udp dport 7005 counter name bound4
                udp dport { 67, 547 } counter name link
                icmpv6 type { nd-neighbor-solicit, nd-router-solicit } counter name link
            }
        }'"#);
        let ca = Ca::v3("Test Root");
        let mut world = World {
            bus,
            _lan: lan,
            directory: tempfile::tempdir().unwrap(),
            ca,
            router: None,
            address: "[::1]:0".parse().unwrap(),
            daemon: None,
        };
        world.prepare();
        assert_eq!(world.leaks(), OPEN, "the probes are seen where nothing is blocked");
        tell(&mut world);
    });
}

impl World {
    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn state(&self, file: &str) -> PathBuf {
        self.path().join("state").join(file)
    }

    fn prepare(&mut self) {
        sh(&format!("chmod 755 {0}; mkdir -p {0}/etc/tunnels {0}/state {0}/run", self.path().display()));
        self.ca.write(self.path(), "etc/ca");
        let (_, key) =
            self.ca.sign_v3(Leaf::new("fd00:8f80:1::1234").ip("fd00:8f80:1::1234")).write(self.path(), "etc/client");
        for file in [key, self.path().join("state"), self.path().join("run")] {
            chown(file, Some(daemon_user()), Some(daemon_user())).unwrap();
        }
        self.start_router(Manners::Good);
    }

    fn identity(&self) -> Identity {
        self.ca.sign_v3(Leaf::new("router.example.net").dns("router.example.net"))
    }

    fn start_router(&mut self, manners: fn(std::sync::Arc<rustls::ServerConfig>) -> Manners) {
        self.router = None;
        let router = self.identity();
        let config = server(&router, &router, rustls::ALL_VERSIONS);
        wait_for("the router's address to be free", || std::net::TcpListener::bind(self.address).is_ok());
        let router = FakeRouter::at(&self.address.to_string(), manners(config));
        self.address = router.address;
        self.router = Some(router);
    }

    fn tunnel_file(&self, name: &str) -> PathBuf {
        self.path().join(format!("etc/tunnels/{name}.toml"))
    }

    fn write_tunnel(&self, name: &str, lockdown: &str, route: &str) {
        let text = format!(
            "kind = \"enf\"\n[remote]\nhosts = [\"{}\"]\nca_cert_file = \"ca.pem\"\nname = \"router.example.net\"\n\
             heartbeat_timeout = \"30s\"\n{}[route]\n{route}\nlockdown = \"{lockdown}\"\n[identity]\n\
             cert_file = \"client.crt.pem\"\nkey_file = \"client.key.pem\"\n[retry]\nfirst = \"100ms\"\nmax = \"1s\"\n",
            self.address,
            remote_line()
        );
        write(&self.tunnel_file(name), text.as_bytes(), 0o644);
    }

    fn damage(&self, name: &str) {
        write(&self.tunnel_file(name), b"kind = \"enf\"\n[rout]\n", 0o644);
    }

    fn enftund(&self, arguments: &[&str]) -> std::process::Command {
        // Where udev runs, everybody may open the TUN node; here it may be root's alone.
        let node = "mount -t tmpfs tmpfs /dev/net && mknod -m 666 /dev/net/tun c 10 200 && ";
        let node = if daemon_user() == own_uid() { "" } else { node };
        let mut command = self.bus.command("unshare");
        command.args(["-m", "sh", "-c", &format!("{node} exec \"$@\""), "sh", env!("CARGO_BIN_EXE_enftund")]);
        command.args(arguments);
        for (directory, place) in [("config", "etc"), ("state", "state"), ("runtime", "run")] {
            command.arg(format!("--{directory}-dir")).arg(self.path().join(place));
        }
        command.args(["--user", "65534", "--log-level", "debug"]);
        command
    }

    fn start_daemon(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.path().join("log")).unwrap();
        self.daemon = Some(Running(self.enftund(&[]).stderr(log).spawn().unwrap()));
        wait_for("the daemon on the bus", || self.ctl(&["list"]).status.success());
    }

    fn kill_daemon(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.0.kill().unwrap();
            daemon.0.wait().unwrap();
        }
        wait_for("the daemon to be off the bus", || self.ctl(&["list"]).status.code() == Some(3));
    }

    fn restart_daemon(&mut self) {
        self.kill_daemon();
        self.start_daemon();
    }

    /// Everything that is gone after a reboot.
    fn reboot(&mut self) {
        self.kill_daemon();
        self.reboot_kernel();
    }

    fn reboot_kernel(&self) {
        sh(&format!("rm -f {}/run/*", self.path().display()));
        sh("for table in enftun enftun-guard; do nft delete table inet $table 2>/dev/null || true; done; ip link del enf0 2>/dev/null || true
            for family in -4 -6; do
                ip $family rule show | sed -n 's/^\\([2-9][0-9][0-9]\\):.*/\\1/p' | while read -r preference; do
                    ip $family rule del pref $preference
                done
            done
            ip -6 route del unreachable ff00::/8 table local 2>/dev/null || true");
    }

    fn lockdown(&self, name: &str) -> Output {
        self.enftund(&["lockdown", name]).output().unwrap()
    }

    fn ctl(&self, arguments: &[&str]) -> Output {
        self.bus.command(env!("CARGO_BIN_EXE_enftunctl")).args(arguments).output().unwrap()
    }

    fn clear(&self, name: &str) -> Output {
        let place = |place: &str| self.path().join(place).to_str().unwrap().to_owned();
        let (config, state, runtime) = (place("etc"), place("state"), place("run"));
        self.ctl(&["clear", name, "--config-dir", &config, "--state-dir", &state, "--runtime-dir", &runtime])
    }

    fn clear_all(&self, more: &[&str]) -> Output {
        let place = |place: &str| self.path().join(place).to_str().unwrap().to_owned();
        let (state, runtime) = (place("state"), place("run"));
        self.ctl(&[&["clear", "--all", "--state-dir", &state, "--runtime-dir", &runtime], more].concat())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path().join("log")).unwrap()
    }

    fn connect(&self) {
        stdout(self.ctl(&["connect", "enf0", "--wait=30s"]));
    }

    fn disconnect(&self) {
        stdout(self.ctl(&["disconnect", "enf0", "--wait=30s"]));
    }

    /// The probes to the host on the LAN that leave this one.
    fn leaks(&self) -> Vec<&'static str> {
        let count = |name: &str| {
            let listed: serde_json::Value =
                serde_json::from_str(&sh(&format!("nft -j list counter inet sniff {name}"))).unwrap();
            listed["nftables"][1]["counter"]["packets"].as_u64().unwrap()
        };
        let before = OPEN.map(count);
        for port in [7001, 7002] {
            let to = if port == 7001 { "192.0.2.2" } else { "2001:db8::2" };
            let to = SocketAddr::new(to.parse().unwrap(), port);
            let _ = TcpStream::connect_timeout(&to, Duration::from_millis(20));
        }
        for (from, to, dev) in [
            ("0.0.0.0:0", "192.0.2.2:7003", None),
            ("[::]:0", "[2001:db8::2]:7004", None),
            ("0.0.0.0:0", "192.0.2.2:7005", Some("lan0")),
        ] {
            let socket = UdpSocket::bind(from).unwrap();
            if let Some(dev) = dev {
                setsockopt(&socket, sockopt::BindToDevice, &dev.into()).unwrap();
            }
            let _ = socket.send_to(b"probe", to);
        }
        let after = OPEN.map(count);
        OPEN.into_iter().enumerate().filter(|(at, _)| after[*at] > before[*at]).map(|(_, name)| name).collect()
    }

    #[track_caller]
    fn lets(&self, out: &[&str], when: &str) {
        assert_eq!(self.leaks(), out, "{when}\n{}", sh("nft list ruleset; ip rule; ip -6 rule"));
    }
}

/// What a tunnel that is wanted lets out.
fn while_wanted(word: &str) -> &'static [&'static str] {
    if word == "off" { &ROUTED } else { &BLOCKED }
}

#[test]
fn before_the_network_comes_up_only_boot_blocks() {
    for word in WORDS {
        story("before_the_network_comes_up_only_boot_blocks", |world| {
            world.write_tunnel("enf0", word, EVERYTHING);
            let before = state_of_host();
            let done = world.lockdown("enf0");
            assert!(done.status.success(), "{done:?}");
            let expected: &[&str] = if word == "boot" { &BLOCKED } else { &OPEN };
            world.lets(expected, word);
            if word != "boot" {
                assert_eq!(sh("nft list tables").trim(), "table inet sniff");
            }
            world.start_daemon();
            world.lets(expected, &format!("{word}: a daemon that starts keeps it so"));
            world.bus.shows("enf0", "State", "s \"disconnected\"");
            world.bus.shows("enf0", "Blocking", if word == "boot" { "b true" } else { "b false" });
            world.kill_daemon();
            stdout(world.clear("enf0"));
            world.lets(&OPEN, &format!("{word}: after clear"));
            assert_eq!(without_counters(&state_of_host()), without_counters(&before));
        });
    }
}

fn without_counters(state: &str) -> String {
    let is_counter = |line: &&str| !line.contains("packets") && !line.contains("neigh/");
    state.lines().filter(is_counter).collect::<Vec<_>>().join("\n")
}

#[test]
fn while_it_is_wanted_nothing_leaves_in_any_state_and_off_leaves_it_to_the_routes() {
    for word in WORDS {
        story("while_it_is_wanted_nothing_leaves_in_any_state_and_off_leaves_it_to_the_routes", |world| {
            let out = while_wanted(word);
            world.write_tunnel("enf0", word, EVERYTHING);
            world.start_daemon();
            world.lets(&OPEN, &format!("{word}: nobody has asked for it yet"));
            world.start_router(|_| Manners::Silent);
            stdout(world.ctl(&["connect", "enf0"]));
            stdout(world.ctl(&["wait", "enf0", "connecting"]));
            world.lets(out, &format!("{word}: connecting"));
            world.start_router(Manners::Good);
            stdout(world.ctl(&["wait", "enf0", "connected"]));
            world.lets(out, &format!("{word}: connected"));
            world.router = None;
            stdout(world.ctl(&["wait", "enf0", "reconnecting"]));
            world.lets(out, &format!("{word}: reconnecting"));
            world.start_router(Manners::Refuses);
            stdout(world.ctl(&["wait", "enf0", "error"]));
            world.lets(out, &format!("{word}: error"));
            world.start_router(Manners::Good);
            stdout(world.ctl(&["reconnect", "enf0", "--wait=30s"]));
            world.kill_daemon();
            world.lets(out, &format!("{word}: the daemon is dead"));
            let done = world.lockdown("enf0");
            assert!(done.status.success(), "{done:?}");
            let out_of_boot: &[&str] = if word == "boot" { &BLOCKED } else { out };
            world.lets(out_of_boot, &format!("{word}: and `enftund lockdown` opens nothing"));
            world.start_daemon();
            world.lets(out, &format!("{word}: the daemon is starting again"));
            stdout(world.ctl(&["wait", "enf0", "connected"]));
            world.lets(out, &format!("{word}: connected again"));
        });
    }
}

#[test]
fn after_the_users_disconnect_only_boot_blocks() {
    for word in WORDS {
        story("after_the_users_disconnect_only_boot_blocks", |world| {
            world.write_tunnel("enf0", word, EVERYTHING);
            world.start_daemon();
            world.connect();
            world.disconnect();
            let expected: &[&str] = if word == "boot" { &BLOCKED } else { &OPEN };
            world.lets(expected, word);
            world.restart_daemon();
            world.lets(expected, &format!("{word}: after a restart of the daemon"));
            world.reboot();
            assert!(world.lockdown("enf0").status.success());
            world.lets(expected, &format!("{word}: after a reboot, before the daemon"));
            world.start_daemon();
            world.lets(expected, &format!("{word}: after a reboot"));
        });
    }
}

#[test]
fn lockdown_off_and_clear_open_what_is_not_wanted_for_good() {
    for word in WORDS {
        for verb in ["lockdown", "clear", "clear without the daemon"] {
            story("lockdown_off_and_clear_open_what_is_not_wanted_for_good", |world| {
                world.write_tunnel("enf0", word, EVERYTHING);
                world.start_daemon();
                world.connect();
                if verb == "lockdown" {
                    let said = stdout(world.ctl(&["lockdown", "enf0", "off"]));
                    assert!(said.contains("`enftunctl disconnect enf0` opens it"), "{said}");
                    world.lets(while_wanted(word), &format!("{word}: it is wanted"));
                    world.disconnect();
                } else if verb == "clear" {
                    let said = stdout(world.clear("enf0"));
                    assert!(said.contains("no longer blocked"), "{said}");
                    assert_eq!(said.contains("its lockdown is off"), word == "boot", "{said}");
                } else {
                    world.kill_daemon();
                    stdout(world.clear("enf0"));
                    world.lets(&OPEN, &format!("{word}: {verb}"));
                    assert!(!std::fs::read_to_string(world.state("last-plans.json")).unwrap().contains("enf0"));
                    return;
                }
                world.lets(&OPEN, &format!("{word}: {verb}"));
                world.restart_daemon();
                world.lets(&OPEN, &format!("{word}: {verb}, and a restart"));
                world.reboot();
                assert!(world.lockdown("enf0").status.success());
                world.lets(&OPEN, &format!("{word}: {verb}, and a reboot"));
            });
        }
    }
}

#[test]
fn what_the_user_says_of_lockdown_holds_instead_of_the_file_until_it_is_said_again() {
    story("what_the_user_says_of_lockdown_holds_instead_of_the_file_until_it_is_said_again", |world| {
        world.write_tunnel("enf0", "session", EVERYTHING);
        world.start_daemon();
        stdout(world.ctl(&["lockdown", "enf0", "on"]));
        world.lets(&BLOCKED, "on blocks at once");
        world.bus.shows("enf0", "Lockdown", "s \"boot\"");
        world.bus.shows("enf0", "StateReason", "s \"lockdown\"");
        world.reboot();
        assert!(world.lockdown("enf0").status.success());
        world.lets(&BLOCKED, "before the daemon");
        world.start_daemon();
        world.lets(&BLOCKED, "in a new daemon");
        world.connect();
        world.disconnect();
        world.lets(&BLOCKED, "after a disconnect");
        world.write_tunnel("enf0", "off", EVERYTHING);
        stdout(world.ctl(&["reload"]));
        world.lets(&BLOCKED, "whatever the file says");
        stdout(world.ctl(&["lockdown", "enf0", "off"]));
        world.lets(&OPEN, "off opens at once");
        world.bus.shows("enf0", "Lockdown", "s \"off\"");
        assert_eq!(world.ctl(&["lockdown", "enf1", "on"]).status.code(), Some(5), "no such tunnel");
    });
}

#[test]
fn lockdown_before_any_daemon_leaves_dhcp_and_neighbour_discovery() {
    story("lockdown_before_any_daemon_leaves_dhcp_and_neighbour_discovery", |world| {
        world.write_tunnel("enf0", "boot", EVERYTHING);
        let link = || sh("nft list counter inet sniff link");
        for damaged in [false, true] {
            if damaged {
                world.reboot();
                world.damage("enf0");
                std::fs::remove_file(world.state("last-plans.json")).unwrap();
            }
            world.lockdown("enf0");
            world.lets(&BLOCKED, "all of the rest");
            let before = link();
            sh("echo 1 > /proc/sys/net/ipv6/conf/lan0/accept_dad; ip -6 addr add 2001:db8:5::5/64 dev lan0");
            wait_for("duplicate address detection", || link() != before);
            ip("-6 addr del 2001:db8:5::5/64 dev lan0");
            let before = link();
            let socket = UdpSocket::bind("192.0.2.1:68").unwrap();
            setsockopt(&socket, sockopt::BindToDevice, &"lan0".into()).unwrap();
            socket.send_to(b"renew", "192.0.2.2:67").unwrap();
            assert_ne!(link(), before, "a lease can be renewed");
        }
    });
}

#[test]
fn a_broken_file_with_a_last_plan_is_blocked_as_before_and_reload_of_the_mended_one_takes_over() {
    const TEST: &str = "a_broken_file_with_a_last_plan_is_blocked_as_before_and_reload_of_the_mended_one_takes_over";
    story(TEST, |world| {
        // Only IPv6, so that what is blocked tells the last plan from the emergency.
        let (only, open) = ("prefixes = [\"2001:db8::/64\"]", ["tcp4", "udp4", "bound4"]);
        world.write_tunnel("enf0", "boot", only);
        world.start_daemon();
        world.connect();
        world.lets(&open, "connected");
        world.reboot();
        world.damage("enf0");
        let done = world.lockdown("enf0");
        assert_eq!(done.status.code(), Some(78));
        let said = String::from_utf8(done.stderr).unwrap();
        assert!(said.contains("rout") && said.contains("enf0.toml:2"), "the findings: {said}");
        assert!(said.contains("blocked nevertheless: as it was when it last worked"), "{said}");
        world.lets(&open, "the last plan");
        // With and without the boot unit before it.
        for _ in 0..2 {
            world.start_daemon();
            wait_for("the daemon to say what to do", || {
                let log = world.log();
                log.contains("its file cannot be used, and enf0 was blocked") && log.contains("enftunctl clear enf0")
            });
            wait_for("the last plan", || world.leaks() == open);
            assert_eq!(stdout(world.ctl(&["status", "--json"])).matches("\"blocking\": true").count(), 1);
            // What blocks is healed too.
            sh("nft delete table inet enftun; ip -6 rule del to 2001:db8::/64 unreachable");
            wait_for("it to be put back", || {
                sh("nft list tables").contains("enftun") && ip("-6 rule").contains("2001:db8::/64 unreachable")
            });
            world.reboot();
        }
        world.start_daemon();
        world.write_tunnel("enf0", "boot", "prefixes = [\"2001:db8::/65\"]\ntable = 2098");
        stdout(world.ctl(&["reload"]));
        stdout(world.ctl(&["wait", "enf0", "connected"]));
        let rules = ip("-6 rule");
        assert!(rules.contains("2001:db8::/65") && !rules.contains("2001:db8::/64"), "{rules}");
        world.lets(&open, "the mended file");
    });
}

#[test]
fn a_broken_file_without_a_last_plan_leaves_the_emergency_until_the_user_opens_it() {
    story("a_broken_file_without_a_last_plan_leaves_the_emergency_until_the_user_opens_it", |world| {
        world.damage("enf0");
        let before = state_of_host();
        world.start_daemon();
        world.lets(&OPEN, "a daemon alone locks nobody out for a file that never worked");
        world.kill_daemon();
        let done = world.lockdown("enf0");
        assert_eq!(done.status.code(), Some(78));
        let said = String::from_utf8(done.stderr).unwrap();
        assert!(said.contains("nothing passes but loopback") && said.contains("enftunctl clear enf0"), "{said}");
        world.lets(&BLOCKED, "the emergency");
        world.start_daemon();
        world.lets(&BLOCKED, "a daemon keeps it");
        assert!(stdout(world.ctl(&["status", "--json"])).contains("\"blocking\": true"));
        sh("nft flush ruleset; nft add table inet sniff");
        wait_for("the emergency to be put back", || sh("nft list tables").contains("enftun"));
        stdout(world.clear("enf0"));
        assert!(!sh("nft list tables").contains("enftun"), "opened by the daemon");
        world.kill_daemon();
        world.lockdown("enf0");
        assert!(!sh("nft list tables").contains("enftun"), "what was opened stays open");
        drop(before);
    });
}

#[test]
fn what_its_user_opened_stays_open_when_its_file_breaks() {
    story("what_its_user_opened_stays_open_when_its_file_breaks", |world| {
        world.write_tunnel("enf0", "session", EVERYTHING);
        world.start_daemon();
        world.connect();
        world.disconnect();
        world.damage("enf0");
        world.restart_daemon();
        world.lets(&OPEN, "nobody locked it");
        world.write_tunnel("enf0", "boot", EVERYTHING);
        stdout(world.ctl(&["reload"]));
        stdout(world.ctl(&["lockdown", "enf0", "off"]));
        world.damage("enf0");
        world.reboot();
        assert!(world.lockdown("enf0").status.success());
        world.lets(&OPEN, "its user said off");
    });
}

#[test]
fn an_emergency_is_over_when_the_file_is_mended() {
    story("an_emergency_is_over_when_the_file_is_mended", |world| {
        for (word, out) in [("boot", &BLOCKED[..]), ("session", &OPEN[..])] {
            world.reboot();
            world.damage("enf0");
            world.lockdown("enf0");
            world.start_daemon();
            world.lets(&BLOCKED, "the emergency");
            world.write_tunnel("enf0", word, "prefixes = [\"2001:db8::/64\", \"fd00::/8\"]");
            stdout(world.ctl(&["reload"]));
            let open: &[&str] = if out.is_empty() { &["tcp4", "udp4", "bound4"] } else { &OPEN };
            world.lets(open, word);
            stdout(world.clear("enf0"));
            world.kill_daemon();
            for file in ["targets.json", "last-plans.json"] {
                let _ = std::fs::remove_file(world.state(file));
            }
        }
    });
}

#[test]
fn with_damaged_targets_what_was_blocked_stays_blocked_and_the_file_is_set_aside() {
    story("with_damaged_targets_what_was_blocked_stays_blocked_and_the_file_is_set_aside", |world| {
        world.write_tunnel("enf0", "session", EVERYTHING);
        world.start_daemon();
        world.connect();
        world.reboot();
        std::fs::write(world.state("targets.json"), "{\"version\":").unwrap();
        assert!(world.lockdown("enf0").status.success());
        world.lets(&BLOCKED, "before the daemon");
        for _ in 0..2 {
            world.start_daemon();
            world.lets(&BLOCKED, "nobody knows that it was not wanted any more");
            world.bus.shows("enf0", "State", "s \"disconnected\"");
            world.reboot();
        }
        assert!(world.log().contains("targets.json is damaged"));
        let aside = std::fs::read_dir(world.path().join("state")).unwrap();
        let aside = aside.map(|entry| entry.unwrap().path()).find(|path| path.to_str().unwrap().contains(".damaged-"));
        assert_eq!(std::fs::read_to_string(aside.unwrap()).unwrap(), "{\"version\":");
        world.start_daemon();
        stdout(world.ctl(&["lockdown", "enf0", "off"]));
        world.lets(&OPEN, "the user's word");
    });
}

#[test]
fn with_damaged_last_plans_what_may_have_been_blocked_is() {
    story("with_damaged_last_plans_what_may_have_been_blocked_is", |world| {
        world.write_tunnel("enf0", "boot", EVERYTHING);
        world.start_daemon();
        world.connect();
        world.reboot();
        world.damage("enf0");
        std::fs::write(world.state("last-plans.json"), "{").unwrap();
        for _ in 0..2 {
            world.start_daemon();
            world.lets(&BLOCKED, "the emergency, which a reboot does not forget");
            world.reboot();
        }
        sh(&format!(
            "rm -r {0}/etc/tunnels; rm {0}/state/*; echo x > {0}/state/last-plans.json",
            world.path().display()
        ));
        world.start_daemon();
        world.lets(&BLOCKED, "a host that was locked, without anything readable");
        world.reboot();
        sh(&format!("rm {0}/state/*", world.path().display()));
        world.start_daemon();
        world.lets(&OPEN, "a host without any tunnel is not cut off");
    });
}

#[test]
fn a_file_edited_while_the_daemon_was_dead_leaves_no_stale_rule() {
    story("a_file_edited_while_the_daemon_was_dead_leaves_no_stale_rule", |world| {
        for route in [
            "prefixes = [\"2001:db8::/64\"]\ntable = 2098\nfwmark = 364",
            "prefixes = [\"2001:db8::/64\", \"2001:db8:1::/64\"]\ntable = 2098\nfwmark = 365",
            "prefixes = [\"2001:db8::/64\"]",
        ] {
            world.write_tunnel("enf0", "session", "prefixes = [\"2001:db8::/64\", \"2001:db8:7::/48\"]");
            world.start_daemon();
            world.connect();
            world.kill_daemon();
            let edited = format!("[tun]\ndev = \"other0\"\n[route]\n{route}");
            world.write_tunnel("enf0", "session", route);
            let text = std::fs::read_to_string(world.tunnel_file("enf0")).unwrap();
            write(&world.tunnel_file("enf0"), text.replace(&format!("[route]\n{route}"), &edited).as_bytes(), 0o644);
            world.start_daemon();
            stdout(world.ctl(&["wait", "enf0", "connected"]));
            world.lets(&["tcp4", "udp4", "bound4"], route);
            assert!(!try_ip("link show enf0").status.success(), "the device is called otherwise now");
            let adopted = state_of_rules();
            world.disconnect();
            assert_eq!(ip("-6 rule").lines().count() + ip("rule").lines().count(), 2 + 3, "{}", state_of_rules());
            world.connect();
            assert_eq!(state_of_rules(), adopted, "as if there had never been another file");
            world.disconnect();
            world.kill_daemon();
        }
    });
}

#[test]
fn clear_all_takes_away_what_any_tunnel_has_once_the_daemon_is_gone() {
    story("clear_all_takes_away_what_any_tunnel_has_once_the_daemon_is_gone", |world| {
        let state = || state_of_rules() + &ip("link") + &sh("nft list tables");
        let before = state();
        world.write_tunnel("enf0", "boot", EVERYTHING);
        // Nothing is known of it but that it is to be blocked.
        world.damage("enf1");
        assert!(world.lockdown("enf0").status.success());
        assert!(!world.lockdown("enf1").status.success());
        world.start_daemon();
        world.connect();
        let said = stderr(world.clear_all(&[]));
        assert!(said.contains("enftund (process") && said.contains("end it first"), "{said}");
        world.lets(&BLOCKED, "while the daemon runs it is the daemon's");
        world.kill_daemon();
        world.lets(&BLOCKED, "it was killed");
        let said = stdout(world.clear_all(&[]));
        assert!(said.contains("nothing is blocked any more"), "{said}");
        world.lets(&OPEN, "everything is cleared");
        assert_eq!(state(), before);
        assert!(world.lockdown("enf0").status.success());
        let printed = schema::documents(&stdout(world.clear_all(&["--json"])));
        assert_eq!(printed[0]["cleared"], serde_json::json!(["enf0"]));
        if let Some(reason) = schema::no_validator() {
            return skip("clear_all_takes_away_what_any_tunnel_has_once_the_daemon_is_gone", reason);
        }
        schema::hold(schema::ENFTUNCTL, "clear", &printed);
    });
}

fn state_of_rules() -> String {
    format!("{}{}{}", ip("rule"), ip("-6 rule"), sh("ip -6 route show table all | grep -v 'dev lan0\\|dev lo' || true"))
}

#[test]
fn a_file_that_is_gone_opens_nothing_but_an_explicit_reload_and_clear_do() {
    for opens in ["reload", "clear", "clear without the daemon"] {
        story("a_file_that_is_gone_opens_nothing_but_an_explicit_reload_and_clear_do", |world| {
            let before = state_of_rules();
            world.write_tunnel("enf0", "session", EVERYTHING);
            world.start_daemon();
            world.connect();
            world.kill_daemon();
            std::fs::remove_file(world.tunnel_file("enf0")).unwrap();
            world.start_daemon();
            world.lets(&BLOCKED, "the file is gone");
            assert!(world.log().contains("its file is gone, and enf0 was blocked"), "{}", world.log());
            world.reboot();
            world.start_daemon();
            world.lets(&BLOCKED, "also after a reboot");
            match opens {
                "reload" => drop(stdout(world.ctl(&["reload"]))),
                "clear" => drop(stdout(world.clear("enf0"))),
                _ => {
                    world.kill_daemon();
                    stdout(world.clear("enf0"));
                }
            }
            world.lets(&OPEN, opens);
            assert_eq!(state_of_rules(), before);
            world.restart_daemon();
            world.lets(&OPEN, &format!("{opens}, and a restart"));
        });
    }
}

#[test]
fn killed_at_any_moment_the_next_start_converges() {
    story("killed_at_any_moment_the_next_start_converges", |world| {
        world.write_tunnel("enf0", "boot", EVERYTHING);
        let begun = std::time::Instant::now();
        world.lockdown("enf0");
        let whole = begun.elapsed();
        let locked = state_of_rules();
        let emergency_or_more = |world: &World, delay: Duration| {
            world.reboot_kernel();
            let mut child = world.enftund(&["lockdown", "enf0"]).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(delay);
            let _ = child.kill();
            child.wait().unwrap();
        };
        for step in 0..12 {
            emergency_or_more(world, whole * step / 12);
            let table = sh("nft list tables").contains("enftun");
            // An nft that was under way ends its transaction.
            let leaks = world.leaks();
            assert!(leaks.is_empty() || (leaks == OPEN && !table), "killed at {step}/12: {leaks:?}");
            if step % 2 == 0 {
                assert!(world.lockdown("enf0").status.success());
                assert_eq!(state_of_rules(), locked, "killed at {step}/12");
            } else {
                world.start_daemon();
                if table {
                    world.lets(&BLOCKED, "the daemon keeps it");
                }
                world.connect();
                world.kill_daemon();
                world.lets(&BLOCKED, "killed again");
                world.lockdown("enf0");
                assert_eq!(state_of_rules(), locked, "killed at {step}/12");
                stdout(world.clear("enf0"));
                std::fs::remove_file(world.state("targets.json")).unwrap();
            }
        }
    });
}

#[test]
fn a_daemon_killed_while_it_connects_goes_on_where_it_was() {
    story("a_daemon_killed_while_it_connects_goes_on_where_it_was", |world| {
        world.write_tunnel("enf0", "session", EVERYTHING);
        world.start_daemon();
        world.connect();
        let connected = state_of_rules();
        world.disconnect();
        for step in 0..8 {
            stdout(world.ctl(&["connect", "enf0"]));
            std::thread::sleep(Duration::from_millis(15 * step));
            world.kill_daemon();
            world.lets(&BLOCKED, &format!("killed {step}/8 of the way"));
            world.start_daemon();
            world.lets(&BLOCKED, "started again");
            stdout(world.ctl(&["wait", "enf0", "connected"]));
            assert_eq!(state_of_rules(), connected);
            stdout(world.ctl(&["disconnect", "enf0"]));
            world.kill_daemon();
            world.start_daemon();
            world.lets(&OPEN, "the user's disconnect is not forgotten");
        }
    });
}

#[test]
fn what_cannot_start_for_want_of_a_user_or_a_directory_blocks_everything() {
    story("what_cannot_start_for_want_of_a_user_or_a_directory_blocks_everything", |world| {
        world.write_tunnel("enf0", "boot", EVERYTHING);
        let without = |user: &str, runtime: &Path| {
            let mut command = world.bus.command(env!("CARGO_BIN_EXE_enftund"));
            command.args(["lockdown", "enf0", "--user", user, "--config-dir"]).arg(world.path().join("etc"));
            command.arg("--state-dir").arg(world.path().join("state")).arg("--runtime-dir").arg(runtime);
            let output = command.output().unwrap();
            assert_eq!(output.status.code(), Some(1));
            stderr(output)
        };
        let run = world.path().join("run");
        if own_uid() == 0 {
            let said = without("nobody-of-that-name", &run);
            assert!(said.contains("nobody-of-that-name") && said.contains("nothing passes but loopback"), "{said}");
            world.lets(&BLOCKED, "no such user");
            stdout(world.clear("enf0"));
        }
        let said = without("65534", &world.tunnel_file("enf0").join("run"));
        assert!(said.contains("nothing passes but loopback"), "{said}");
        world.lets(&BLOCKED, "no directory to write to");
        stdout(world.clear("enf0"));
        world.lets(&OPEN, "after clear");
        assert!(world.lockdown("enf0").status.success());
        let said = without("nobody-of-that-name", &run);
        world.lets(&BLOCKED, &said);
    });
}

#[test]
fn a_killed_run_stays_blocked_until_the_user_opens_it() {
    story("a_killed_run_stays_blocked_until_the_user_opens_it", |world| {
        world.write_tunnel("enf0", "session", EVERYTHING);
        let place = |place: &str| world.path().join(place);
        let run = || {
            let mut command = world.bus.command(env!("CARGO_BIN_EXE_enftunctl"));
            command.args(["run", "enf0", "--config-dir"]).arg(place("etc"));
            command.arg("--runtime-dir").arg(place("run")).stdout(Stdio::piped()).stderr(Stdio::null());
            let mut child = command.spawn().unwrap();
            let lines = std::io::BufReader::new(child.stdout.take().unwrap());
            let up = std::io::BufRead::lines(lines).map_while(Result::ok).any(|line| line.contains("enf0 connected"));
            assert!(up);
            Running(child)
        };
        drop(run());
        world.lets(&BLOCKED, "killed");
        world.start_daemon();
        world.lets(&BLOCKED, "a daemon, which nobody told to open it");
        assert!(!try_ip("link show enf0").status.success(), "and nobody to connect it");
        let second = world.enftund(&[]).output().unwrap();
        assert_eq!(second.status.code(), Some(1));
        let said = String::from_utf8(second.stderr).unwrap();
        let pid = world.daemon.as_ref().unwrap().0.id();
        assert!(said.contains(&format!("enftund (process {pid}) keeps the tunnels of this host already")), "{said}");
        world.disconnect();
        world.lets(&OPEN, "disconnected");
    });
}

#[test]
fn two_tunnels_are_locked_at_once_and_opened_one_by_one() {
    story("two_tunnels_are_locked_at_once_and_opened_one_by_one", |world| {
        world.write_tunnel("enf0", "boot", "prefixes = [\"2001:db8::/64\"]");
        world.write_tunnel("enf1", "boot", "prefixes = [\"0.0.0.0/0\"]\nallow_ipv4 = true\ntable = 2098\nfwmark = 364");
        // The boot units of both, at the same moment.
        let both = ["enf0", "enf1"].map(|name| world.enftund(&["lockdown", name]).spawn().unwrap());
        for mut child in both {
            assert!(child.wait().unwrap().success());
        }
        world.lets(&BLOCKED, "both");
        world.start_daemon();
        world.lets(&BLOCKED, "both, in a daemon");
        world.connect();
        world.lets(&BLOCKED, "one is connected");
        stdout(world.clear("enf0"));
        world.lets(&["tcp6", "udp6"], "enf1 alone");
        world.kill_daemon();
        world.damage("enf1");
        world.start_daemon();
        world.lets(&["tcp6", "udp6"], "enf1 alone, by its last plan");
        world.connect();
        world.lets(&BLOCKED, "beside a tunnel that is connected");
        stdout(world.clear("enf1"));
        world.lets(&["tcp4", "udp4", "bound4"], "enf0 alone");
    });
}

#[test]
fn a_running_daemon_is_asked_to_lock_down() {
    story("a_running_daemon_is_asked_to_lock_down", |world| {
        world.write_tunnel("enf0", "boot", EVERYTHING);
        world.start_daemon();
        world.lets(&OPEN, "nobody asked for it");
        assert!(world.lockdown("enf0").status.success());
        world.lets(&BLOCKED, "the daemon does it");
        world.connect();
        assert!(world.lockdown("enf0").status.success());
        world.bus.shows("enf0", "State", "s \"connected\"");
        world.write_tunnel("enf1", "boot", "prefixes = [\"fd00:9::/32\"]\ntable = 2098\nfwmark = 364");
        let unknown = world.lockdown("enf1");
        assert_eq!(unknown.status.code(), Some(1), "it was not reloaded");
        assert!(stderr(unknown).contains("enftunctl lockdown enf1 on"));
        world.bus.kill();
        let alone = stderr(world.lockdown("enf1"));
        assert!(alone.contains("enftund (process") && alone.contains("end it first"), "{alone}");
        world.lets(&BLOCKED, "and nothing was changed");
    });
}
