//! The whole of it: daemon, bus, router and command line as separate programs in two namespaces with a LAN between them.

use crate::common::bus::{PrivateBus, daemon_user, no_other_uid, own_uid, stdout};
use crate::common::certs::{Ca, Leaf, write};
use crate::common::netns::{Netns, Running, in_netns_with_tun, ip, sh, state_of_host, try_ip, veth};
use crate::common::wire::remote_line;
use crate::common::{skip, wait_for};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Output, Stdio};

mod api;
mod forwards;
mod portal;
#[cfg(feature = "enrol")]
mod provisioning;
mod renewal;
mod tokens;
#[cfg(feature = "tpm")]
mod tpm;

/// The client's address in the overlay, and the router's own on its uplink.
const OWN: &str = "fd00:8f80:1::1234";
const ROUTER: &str = "fd00:8f80:1::1";
const MANAGER: [&str; 3] = ["org.enftun.Enftun1", "/org/enftun/Enftun1", "org.enftun.Enftun1.Manager"];
const FIREWALL: [&str; 3] = ["org.enftun.Enftun1", "/org/enftun/Enftun1", "org.enftun.Enftun1.Firewall"];
const TUNNEL: [&str; 3] = ["org.enftun.Enftun1", "/org/enftun/Enftun1/tunnel/enf0", "org.enftun.Enftun1.Tunnel"];

/// The client is the test's own namespace; the router is the far one.
struct World {
    bus: PrivateBus,
    far: Netns,
    directory: tempfile::TempDir,
    router: Option<Running>,
    daemon: Option<Running>,
}

/// Runs a story in a world with router and daemon running and the tunnel `enf0` not yet connected.
fn story(test: &str, tell: impl FnOnce(&mut World) + Send) {
    in_netns_with_tun(test, || {
        let Some(bus) = PrivateBus::start(test) else { return };
        let far = Netns::new();
        veth(&Netns::here(), "lan0", &far, "wan0");
        for (netns, dev, own) in [(&Netns::here(), "lan0", 1), (&far, "wan0", 2)] {
            netns.exec(&format!(
                "ip addr add 192.0.2.{own}/24 dev {dev}; ip addr add 2001:db8::{own}/64 dev {dev} nodad"
            ));
        }
        let mut world = World { bus, far, directory: tempfile::tempdir().unwrap(), router: None, daemon: None };
        world.write_files();
        world.start_router();
        world.start_daemon();
        tell(&mut world);
    });
}

impl World {
    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn tunnel_file(&self, name: &str) -> PathBuf {
        self.path().join(format!("etc/tunnels/{name}.toml"))
    }

    fn write_files(&self) {
        sh(&format!("chmod 755 {0}; mkdir -p {0}/etc/tunnels {0}/state {0}/run", self.path().display()));
        let ca = Ca::v3("Test Root");
        ca.write(self.path(), "etc/ca");
        ca.sign_v3(Leaf::new("router.example.net").dns("router.example.net")).write(self.path(), "router");
        let (_, key) = ca.sign_v3(Leaf::new(OWN).ip(OWN)).write(self.path(), "etc/client");
        for file in [key, self.path().join("state"), self.path().join("run")] {
            chown(file, Some(daemon_user()), None).unwrap();
        }
        let router = format!(
            "listen = [\"192.0.2.2:443\", \"[2001:db8::2]:443\"]\ncert_file = \"router.crt.pem\"\nkey_file = \"router.key.pem\"\n\
             client_ca_file = \"etc/ca.pem\"\nendpoints_dir = \"endpoints\"\ncontrol_socket = \"control.sock\"\n\
             [tun]\ndev = \"enfr0\"\naddresses = [\"{ROUTER}/64\"]\n"
        );
        write(&self.path().join("router.toml"), router.as_bytes(), 0o644);
        self.write_tunnel("enf0", "", "prefixes = [\"fd00:8f80::/32\"]");
    }

    /// A tunnel file with these lines in `[retry]` and `[route]`.
    fn write_tunnel(&self, name: &str, retry: &str, route: &str) {
        let text = format!(
            "kind = \"enf\"\n[remote]\nhosts = [\"192.0.2.2\"]\nca_cert_file = \"ca.pem\"\nname = \"router.example.net\"\n\
             heartbeat_timeout = \"2s\"\n{}[route]\n{route}\nlockdown = \"session\"\n[identity]\ncert_file = \"client.crt.pem\"\n\
             key_file = \"client.key.pem\"\n[retry]\nfirst = \"200ms\"\n{retry}\n",
            remote_line()
        );
        write(&self.tunnel_file(name), text.as_bytes(), 0o644);
    }

    fn start_router(&mut self) {
        let mut command = self.far.command(env!("CARGO_BIN_EXE_enftun-router"));
        command.arg("--config").arg(self.path().join("router.toml")).arg("serve");
        self.router = Some(Running(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()));
        wait_for("the router to answer", || self.router_status().status.success());
    }

    fn router_status(&self) -> Output {
        let mut command = self.far.command(env!("CARGO_BIN_EXE_enftun-router"));
        command.arg("--config").arg(self.path().join("router.toml")).args(["status", "--json"]).output().unwrap()
    }

    fn start_daemon(&mut self) {
        // Where udev runs, everybody may open the TUN node; here it may be root's alone.
        let node = "mount -t tmpfs tmpfs /dev/net && mknod -m 666 /dev/net/tun c 10 200 && ";
        let node = if daemon_user() == own_uid() { "" } else { node };
        let mut command = self.bus.command("unshare");
        command.args(["-m", "sh", "-c", &format!("{node} exec \"$@\""), "sh", env!("CARGO_BIN_EXE_enftund")]);
        for directory in ["config", "state", "runtime"] {
            let place = match directory {
                "config" => "etc",
                "runtime" => "run",
                other => other,
            };
            command.arg(format!("--{directory}-dir")).arg(self.path().join(place));
        }
        command.args(["--user", "65534", "--log-level", "debug"]);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.path().join("log")).unwrap();
        self.daemon = Some(Running(command.stderr(log).spawn().unwrap()));
        wait_for("the daemon on the bus", || self.ctl(&["list"]).status.success());
    }

    fn daemon(&mut self) -> &mut Child {
        &mut self.daemon.as_mut().unwrap().0
    }

    fn ctl(&self, arguments: &[&str]) -> Output {
        self.bus.command(env!("CARGO_BIN_EXE_enftunctl")).args(arguments).output().unwrap()
    }

    fn connect(&self) {
        stdout(self.ctl(&["connect", "enf0", "--wait=30s"]));
    }

    fn status(&self) -> serde_json::Value {
        let text = stdout(self.ctl(&["status", "enf0", "--json"]));
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["tunnels"][0].clone()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path().join("log")).unwrap()
    }
}

fn ping(address: &str) -> bool {
    let mut command = std::process::Command::new("ping");
    command.args(["-c", "1", "-W", "2", "-q", address]).stdout(Stdio::null()).status().unwrap().success()
}

/// Packets that left on the LAN so far and that are not the tunnel's own: everything but TCP with port 443.
fn watch_the_lan() {
    sh(r#"nft 'table inet sniff {
        counter other { packets 0 bytes 0; }
        chain out {
            type filter hook postrouting priority 400;
            oifname lan0 tcp dport 443 accept
            oifname lan0 icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, mld2-listener-report } accept
            oifname lan0 counter name other
        }
    }'"#);
}

fn seen_on_the_lan() -> u64 {
    let listed: serde_json::Value = serde_json::from_str(&sh("nft -j list counter inet sniff other")).unwrap();
    listed["nftables"][1]["counter"]["packets"].as_u64().unwrap()
}

#[test]
fn from_a_bus_call_to_a_ping_and_back() {
    story("from_a_bus_call_to_a_ping_and_back", |world| {
        let before = state_of_host();
        let path = stdout(world.bus.busctl(&["call", MANAGER[0], MANAGER[1], MANAGER[2], "GetTunnel", "s", "enf0"]));
        assert_eq!(path.trim(), format!("o \"{}\"", TUNNEL[1]));
        stdout(world.bus.busctl(&["call", TUNNEL[0], TUNNEL[1], TUNNEL[2], "Connect", "u", "0"]));
        stdout(world.ctl(&["wait", "enf0", "connected"]));
        assert!(ping(ROUTER), "{}", world.log());
        world.far.exec(&format!("ping -c 1 -W 2 {OWN}"));
        let status = world.status();
        assert_eq!(status["active_remote"], "192.0.2.2:443");
        assert_eq!(status["addresses"][0], format!("{OWN}/128"));
        assert!(sh("ss -tne dst 192.0.2.2").contains("fwmark:0x16b"), "the tunnel's own packets carry its mark");
        assert!(status["statistics"]["rx_packets"].as_u64() >= Some(2), "{status:#}");
        let sessions: serde_json::Value = serde_json::from_str(&stdout(world.router_status())).unwrap();
        assert_eq!(sessions["sessions"][0]["address"], OWN);
        stdout(world.bus.busctl(&["call", TUNNEL[0], TUNNEL[1], TUNNEL[2], "Disconnect", "u", "0"]));
        stdout(world.ctl(&["wait", "enf0", "disconnected"]));
        assert_eq!(state_of_host(), before, "nothing is left");
    });
}

#[test]
fn the_shipped_device_connects_once_its_router_is_named_and_its_certificates_are_there() {
    let test = "the_shipped_device_connects_once_its_router_is_named_and_its_certificates_are_there";
    story(test, |world| {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/examples/device.toml");
        let example = std::fs::read_to_string(example).unwrap();
        // Nobody here knows the router's name, so its address stands there; its certificate carries the example's.
        let edited = example.replace("hosts = [\"router.example.net\"]", "hosts = [\"192.0.2.2\"]");
        assert_eq!(edited.lines().zip(example.lines()).filter(|(new, old)| new != old).count(), 1);
        write(&world.tunnel_file("enf0"), edited.as_bytes(), 0o644);
        let etc = world.path().join("etc");
        sh(&format!(
            "cd {}; cp ca.pem enf.cacert.pem; mkdir enf0; cp -p client.crt.pem enf0/enf0.crt.pem; cp -p client.key.pem enf0/enf0.key.pem",
            etc.display()
        ));
        let check = world.ctl(&["check", "--config-dir", etc.to_str().unwrap()]);
        assert_eq!((check.status.code(), stdout(check).as_str()), (Some(0), ""));
        stdout(world.ctl(&["reload"]));
        watch_the_lan();
        world.connect();
        assert!(ping(ROUTER), "{}", world.log());
        assert!(ping("2001:db8::2"), "it is behind the tunnel, too");
        assert_eq!(seen_on_the_lan(), 0, "all of it went through the tunnel");
        stdout(world.ctl(&["disconnect", "enf0", "--wait"]));
        stdout(world.ctl(&["lockdown", "enf0", "off"]));
        assert!(ping("2001:db8::2") && seen_on_the_lan() > 0, "the LAN would have carried it");
    });
}

#[test]
fn a_host_of_the_c_client_connects_with_its_own_file_imported() {
    story("a_host_of_the_c_client_connects_with_its_own_file_imported", |world| {
        let etc = world.path().join("etc");
        let (ca, conf) = (etc.join("ca.pem"), etc.join("enf0.conf"));
        let old = format!(
            "tun: {{ dev = \"old0\"; ip_path = \"/bin/ip\"; }};\nremote: {{ hosts = [ \"192.0.2.2\" ]; port = \"443\"; \
             ca_cert_file = {ca:?}; heartbeat_period = 15000; }};\nroute: {{ fwmark = 0x16c; table = 2098; \
             prefixes = [ \"fd00:8f80::/32\" ]; }};\nidentity: {{ cert_file = \"client.crt.pem\"; key_file = \"client.key.pem\"; }};\n"
        );
        write(&conf, old.as_bytes(), 0o644);
        let import = ["import", conf.to_str().unwrap(), "--install", "--force", "--config-dir", etc.to_str().unwrap()];
        stdout(world.ctl(&import));
        stdout(world.ctl(&["reload"]));
        world.connect();
        assert!(ping(ROUTER), "{}", world.log());
        let status = world.status();
        assert_eq!(
            (&status["interface"], &status["fw_mark"], &status["table"]),
            (&"old0".into(), &364.into(), &2098.into())
        );
        assert_eq!(status["routes"], serde_json::json!(["fd00:8f80::/32"]));
    });
}

#[test]
fn the_daemon_gives_up_root_for_good_in_every_thread() {
    story("the_daemon_gives_up_root_for_good_in_every_thread", |world| {
        if let Some(why) = no_other_uid() {
            return skip("the_daemon_gives_up_root_for_good_in_every_thread", why);
        }
        let tasks = format!("/proc/{}/task", world.daemon().id());
        for task in std::fs::read_dir(tasks).unwrap() {
            let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
            assert_eq!(field("Uid:"), "65534\t65534\t65534\t65534");
            assert_eq!(field("Groups:"), "");
            for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
                // Bit 12: CAP_NET_ADMIN.
                assert_eq!(field(set), "0000000000001000", "{set}");
            }
            assert_eq!(field("NoNewPrivs:"), "1");
        }
    });
}

#[test]
fn whoever_may_not_change_anything_may_still_read() {
    story("whoever_may_not_change_anything_may_still_read", |world| {
        if let Some(why) = no_other_uid() {
            return skip("whoever_may_not_change_anything_may_still_read", why);
        }
        // Uid 65534 is the daemon's own here, and may; so the stranger is another.
        let stranger = |arguments: &[&str]| {
            let mut command = world.bus.command("setpriv");
            command.args(["--reuid", "1", "--regid", "1", "--clear-groups", "busctl", "--system"]);
            command.args(arguments).output().unwrap()
        };
        let refused = stranger(&["call", TUNNEL[0], TUNNEL[1], TUNNEL[2], "Connect", "u", "0"]);
        assert!(!refused.status.success());
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains("Access denied"), "{said}");
        let state = stdout(stranger(&["get-property", TUNNEL[0], TUNNEL[1], TUNNEL[2], "State"]));
        assert_eq!(state.trim(), "s \"disconnected\"");
    });
}

#[test]
fn a_router_that_dies_is_found_again_and_nothing_leaves_by_the_lan_meanwhile() {
    story("a_router_that_dies_is_found_again_and_nothing_leaves_by_the_lan_meanwhile", |world| {
        world.write_tunnel("enf0", "max = \"1s\"", "prefixes = [\"default\"]");
        stdout(world.ctl(&["reload"]));
        watch_the_lan();
        let _ = ping("2001:db8::2");
        assert!(seen_on_the_lan() > 0, "the counter sees what leaves by the LAN");
        world.connect();
        assert!(ping(ROUTER));
        let before = seen_on_the_lan();
        world.router = None;
        stdout(world.ctl(&["wait", "enf0", "reconnecting"]));
        for address in ["2001:db8::2", "192.0.2.2", ROUTER] {
            assert!(!ping(address), "{address} answers though nothing may leave");
        }
        world.start_router();
        stdout(world.ctl(&["wait", "enf0", "connected"]));
        wait_for("a ping through the new session", || ping(ROUTER));
        assert_eq!(seen_on_the_lan(), before);
    });
}

#[test]
fn a_killed_daemon_leaves_traffic_blocked_and_returns_to_its_target() {
    story("a_killed_daemon_leaves_traffic_blocked_and_returns_to_its_target", |world| {
        world.write_tunnel("enf0", "", "prefixes = [\"fd00:8f80::/32\", \"2001:db8::/64\"]");
        stdout(world.ctl(&["reload"]));
        world.connect();
        world.daemon().kill().unwrap();
        world.daemon().wait().unwrap();
        assert!(!ping("2001:db8::2"), "what belongs in the tunnel goes nowhere while the daemon is dead");
        ip("link delete enf0");
        assert!(!ping("2001:db8::2"), "also when the device is deleted");
        assert!(ping("192.0.2.2"), "the LAN is there all the time");
        world.start_daemon();
        stdout(world.ctl(&["wait", "enf0", "connected"]));
        assert_eq!(world.status()["state_reason"], "boot");
        wait_for("a ping", || ping(ROUTER));
        assert_eq!(try_ip("-6 rule show").stdout.iter().filter(|byte| **byte == b'\n').count(), 2 + 2 + 4);
    });
}

#[test]
fn a_daemon_that_is_told_to_end_leaves_traffic_blocked() {
    story("a_daemon_that_is_told_to_end_leaves_traffic_blocked", |world| {
        world.connect();
        let rules = ip("-6 rule show");
        let pid = nix::unistd::Pid::from_raw(world.daemon().id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        assert!(world.daemon().wait().unwrap().success());
        assert_eq!(ip("-6 rule show"), rules);
        assert!(!ping(ROUTER));
        // Without the daemon, `clear` takes everything away.
        let config = world.path().join("etc");
        stdout(world.ctl(&["clear", "enf0", "--config-dir", config.to_str().unwrap()]));
        assert!(!ip("-6 rule show").contains("unreachable"));
        assert!(!try_ip("link show enf0").status.success());
    });
}

#[test]
fn under_boot_lockdown_a_disconnect_does_not_open_the_host_and_an_edited_file_does() {
    story("under_boot_lockdown_a_disconnect_does_not_open_the_host_and_an_edited_file_does", |world| {
        let lan = "prefixes = [\"fd00:8f80::/32\", \"2001:db8::/64\"]";
        world.write_tunnel("enf0", "", lan);
        let locked = std::fs::read_to_string(world.tunnel_file("enf0")).unwrap().replace("\"session\"", "\"boot\"");
        write(&world.tunnel_file("enf0"), locked.as_bytes(), 0o644);
        stdout(world.ctl(&["reload"]));
        assert!(ping("2001:db8::2"), "nothing is blocked before the first connect");
        world.connect();
        stdout(world.ctl(&["disconnect", "enf0", "--wait"]));
        assert!(!ping("2001:db8::2"));
        world.daemon().kill().unwrap();
        world.daemon().wait().unwrap();
        world.start_daemon();
        world.bus.shows("enf0", "Blocking", "b true");
        assert_eq!(world.status()["state_reason"], "lockdown");
        assert!(!ping("2001:db8::2"), "a new daemon keeps what the old one blocked");
        world.write_tunnel("enf0", "", lan);
        stdout(world.ctl(&["reload"]));
        wait_for("the host to be open", || ping("2001:db8::2"));
    });
}

#[test]
fn reload_changes_what_changed_and_nothing_else() {
    story("reload_changes_what_changed_and_nothing_else", |world| {
        world.connect();
        let since = |world: &World| world.status()["state_since"].clone();
        let (session, sessions) = (since(world), || world.log().matches("enf0 is connected").count());

        world.write_tunnel("enf0", "max = \"30s\"", "prefixes = [\"fd00:8f80::/32\"]");
        stdout(world.ctl(&["reload"]));
        assert_eq!(since(world), session, "a new back-off needs no new session");

        world.write_tunnel("enf0", "max = \"30s\"", "prefixes = [\"fd00:8f80::/32\", \"2001:db8:7::/48\"]");
        stdout(world.ctl(&["reload"]));
        wait_for("the new session", || sessions() == 2);
        assert!(ip("-6 rule show").contains("2001:db8:7::/48 unreachable"));
        world.write_tunnel("enf0", "max = \"30s\"", "prefixes = [\"fd00:8f80::/32\"]");
        stdout(world.ctl(&["reload"]));
        assert!(!ip("-6 rule show").contains("2001:db8:7::/48"), "what is no longer configured is gone");
        wait_for("the third session", || sessions() == 3);
        assert_eq!(world.log().matches("dialling").count(), 3, "a reload leaves the level of the command line alone");

        let (session, rules) = (since(world), ip("-6 rule show"));
        world.write_tunnel("enf0", "max = \"30s\"", "prefixes = [\"fd00:8f80::/32\"]\nfwmrk = 7");
        let refused = world.ctl(&["reload"]);
        assert_eq!(refused.status.code(), Some(78));
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains("enf0.toml") && said.contains("fwmrk") && said.contains("fwmark"), "{said}");
        assert_eq!((since(world), ip("-6 rule show")), (session, rules), "nothing changed");
        wait_for("a ping", || ping(ROUTER));
    });
}

#[test]
fn a_reload_may_give_the_device_another_name_under_a_live_session() {
    story("a_reload_may_give_the_device_another_name_under_a_live_session", |world| {
        let all = "prefixes = [\"default\"]";
        world.write_tunnel("enf0", "", all);
        stdout(world.ctl(&["reload"]));
        world.connect();
        for (name, other) in [("overlay7", "enf0"), ("enf0", "overlay7")] {
            world.write_tunnel("enf0", &format!("[tun]\ndev = \"{name}\""), all);
            stdout(world.ctl(&["reload"]));
            world.connect();
            wait_for("a ping", || ping(ROUTER));
            assert!(!try_ip(&format!("link show dev {other}")).status.success(), "the old one is gone");
            let multicast = ip("-6 route show table local ff00::/8");
            assert!(multicast.contains(name) && !multicast.contains(other), "{multicast}");
        }
    });
}

#[test]
fn tunnels_come_and_go_with_their_files() {
    story("tunnels_come_and_go_with_their_files", |world| {
        let before = state_of_host();
        world.write_tunnel("enf1", "", "prefixes = [\"fd00:8f81::/32\"]\nfwmark = 364\ntable = 2098");
        stdout(world.ctl(&["reload"]));
        stdout(world.ctl(&["connect", "enf1", "--wait"]));
        assert!(ip("-6 rule show").contains("fd00:8f81::/32"));
        std::fs::remove_file(world.tunnel_file("enf1")).unwrap();
        stdout(world.ctl(&["reload"]));
        assert_eq!(world.ctl(&["status", "enf1"]).status.code(), Some(5));
        assert_eq!(state_of_host(), before);
    });
}

#[test]
fn fifty_reconnects_leave_no_descriptor_thread_or_rule_behind() {
    story("fifty_reconnects_leave_no_descriptor_thread_or_rule_behind", |world| {
        world.connect();
        let pid = world.daemon().id();
        let count = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
        stdout(world.ctl(&["reconnect", "enf0", "--wait"]));
        let (descriptors, host) = (count("fd"), state_of_host());
        for _ in 0..50 {
            stdout(world.ctl(&["reconnect", "enf0", "--wait"]));
        }
        wait_for("the last session's descriptors to be closed", || count("fd") <= descriptors);
        assert_eq!(state_of_host(), host);
        assert!(!world.log().contains("put back"), "our own changes are nobody else's");
        assert!(ping(ROUTER));
    });
}

#[test]
fn an_idle_daemon_sleeps() {
    story("an_idle_daemon_sleeps", |world| {
        world.connect();
        let pid = world.daemon().id();
        let woken = || -> u64 {
            let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            let status = |task: std::io::Result<std::fs::DirEntry>| {
                std::fs::read_to_string(task.unwrap().path().join("status")).unwrap()
            };
            let switches = |status: String| -> u64 {
                status
                    .lines()
                    .filter_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
                    .map(|n| n.trim().parse::<u64>().unwrap())
                    .sum()
            };
            tasks.map(status).map(switches).sum()
        };
        // What connecting set in motion comes to rest first.
        let mut last = woken();
        wait_for("a second without anything to do", || {
            std::thread::sleep(std::time::Duration::from_secs(1));
            last == std::mem::replace(&mut last, woken())
        });
        let before = woken();
        std::thread::sleep(std::time::Duration::from_secs(5));
        let woken = woken().saturating_sub(before);
        assert!(woken <= 5, "woken {woken} times in five idle seconds\n{}", world.log());
    });
}

#[test]
fn what_blocks_after_a_disconnect_is_put_back_too() {
    story("what_blocks_after_a_disconnect_is_put_back_too", |world| {
        let file = world.tunnel_file("enf0");
        let text = std::fs::read_to_string(&file).unwrap().replace("lockdown = \"session\"", "lockdown = \"boot\"");
        std::fs::write(&file, text).unwrap();
        stdout(world.ctl(&["reload"]));
        world.connect();
        stdout(world.ctl(&["disconnect", "enf0", "--wait"]));
        let rules = ip("-6 rule show");
        assert!(rules.contains("fd00:8f80::/32 unreachable"), "{rules}");
        sh("ip -6 rule del to fd00:8f80::/32 unreachable");
        wait_for("the rule", || ip("-6 rule show") == rules);
        wait_for("a line in the log", || {
            world.log().lines().any(|line| line.contains("put back: ip -6 rule add") && line.contains("tunnel=enf0"))
        });
    });
}

/// The lines of `enftunctl monitor --json`, from now on.
struct Monitor {
    child: Running,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Monitor {
    fn start(world: &World) -> Self {
        let mut command = world.bus.command(env!("CARGO_BIN_EXE_enftunctl"));
        let mut child = command.args(["monitor", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut monitor = Self { child: Running(child), lines };
        monitor.until("daemon");
        monitor
    }

    /// Waits for an event. A test that hangs here is ended from outside.
    fn until(&mut self, event: &str) -> serde_json::Value {
        loop {
            let line = self.lines.next().unwrap_or_else(|| panic!("process {} ended", self.child.0.id())).unwrap();
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            if line["event"] == event {
                return line;
            }
        }
    }
}

impl World {
    fn get(&self, [name, path, interface]: [&str; 3], property: &str) -> String {
        stdout(self.bus.busctl(&["get-property", name, path, interface, property])).trim_end().to_owned()
    }

    fn verify(&self) -> String {
        stdout(self.bus.busctl(&["call", FIREWALL[0], FIREWALL[1], FIREWALL[2], "Verify"])).trim_end().to_owned()
    }

    /// The text that a call or property answers with, without busctl's quotes.
    fn text(&self, arguments: &[&str]) -> String {
        let answer: serde_json::Value = serde_json::from_str(&stdout(self.bus.busctl(arguments))).unwrap();
        let data = &answer["data"];
        data.as_str().or_else(|| data[0].as_str()).unwrap().to_owned()
    }

    fn plan(&self) -> String {
        self.text(&["--json=short", "call", MANAGER[0], MANAGER[1], MANAGER[2], "GetPlan", "s", "enf0"])
    }

    fn policy(&self) -> String {
        self.text(&["--json=short", "get-property", FIREWALL[0], FIREWALL[1], FIREWALL[2], "Policy"])
    }
}

#[test]
fn the_bus_shows_the_firewall_that_is_in_force_and_the_plan() {
    story("the_bus_shows_the_firewall_that_is_in_force_and_the_plan", |world| {
        let none = |world: &World| {
            assert_eq!(world.get(FIREWALL, "InForce"), "b false");
            assert_eq!(world.policy(), "");
            assert_eq!(world.get(MANAGER, "Blocking"), "b false");
            assert_eq!(world.plan(), "# tunnel enf0, disconnected\n# nothing of its own\n");
            assert_eq!(world.verify(), "b true", "nothing of ours, as it shall be");
        };
        none(world);
        world.connect();
        assert_eq!(world.get(FIREWALL, "InForce"), "b true");
        assert_eq!(world.get(FIREWALL, "Table"), "s \"inet enftun\"");
        assert_eq!(world.get(MANAGER, "Blocking"), "b true");
        assert_eq!(world.verify(), "b true");
        // The text is what nft reads, and what it makes of it is what is there.
        let (policy, there) = (world.policy(), sh("nft list table inet enftun"));
        write(&world.path().join("policy.nft"), policy.as_bytes(), 0o644);
        let elsewhere = Netns::new();
        elsewhere.exec(&format!("nft -f {}", world.path().join("policy.nft").display()));
        assert_eq!(elsewhere.exec("nft list table inet enftun"), there, "{policy}");
        let plan = world.plan();
        assert!(plan.starts_with("# tunnel enf0, connected\n"), "{plan}");
        assert!(plan.contains(policy.trim_end()), "the host's part is that of the moment:\n{plan}\n{policy}");
        assert!(plan.contains("ip -6 rule add pref 201 ") && plan.contains("ip tuntap add dev enf0 "), "{plan}");
        let unknown = world.bus.busctl(&["call", MANAGER[0], MANAGER[1], MANAGER[2], "GetPlan", "s", "enf9"]);
        assert!(String::from_utf8_lossy(&unknown.stderr).contains("no tunnel called"), "{unknown:?}");
        stdout(world.ctl(&["disconnect", "enf0", "--wait"]));
        none(world);
    });
}

#[test]
fn what_somebody_else_changes_is_put_back_and_told_on_the_bus() {
    story("what_somebody_else_changes_is_put_back_and_told_on_the_bus", |world| {
        world.connect();
        let mut monitor = Monitor::start(world);
        let number = |world: &World| world.get(FIREWALL, "Generation").trim_start_matches("u ").parse::<u32>().unwrap();
        let (generation, seen) = (number(world), world.get(FIREWALL, "LastVerified"));
        // Nobody is given notice of this one; but notices of something else may come just then.
        let mut repairs = 0;
        wait_for("a look on demand that finds it", || {
            repairs += 1;
            sh("echo 1 > /proc/sys/net/ipv6/conf/enf0/accept_ra");
            world.verify() == "b false"
        });
        let mut told: Vec<_> = (0..repairs).map(|_| monitor.until("tampered")).collect();
        let what = told.pop().unwrap()["what"].as_str().unwrap().to_owned();
        assert!(
            what.starts_with("somebody else changed what belongs to enf0; put back: echo 0 > /proc/sys/"),
            "{what}"
        );
        assert_eq!(sh("cat /proc/sys/net/ipv6/conf/enf0/accept_ra"), "0\n");
        assert_eq!(world.verify(), "b true");
        assert_ne!(world.get(FIREWALL, "LastVerified"), seen);
        assert_eq!(number(world), generation, "the firewall was as it shall be");
        sh("nft flush ruleset");
        let what = monitor.until("tampered")["what"].as_str().unwrap().to_owned();
        assert_eq!(
            what,
            "somebody else changed what belongs to the host's firewall; put back: nft: add table inet enftun"
        );
        assert_eq!(number(world), generation + 1);
        assert_eq!((world.verify(), world.get(FIREWALL, "InForce")), ("b true".to_owned(), "b true".to_owned()));
        assert_eq!(world.log().matches("put back: ").count(), repairs + 1, "the log says the same");
        assert_eq!(world.status()["state"], "connected");
        assert_eq!(world.log().matches("enf0 is connected").count(), 1, "the session lives on");
    });
}

#[test]
fn blocking_is_not_claimed_while_the_firewall_is_not_in_force() {
    story("blocking_is_not_claimed_while_the_firewall_is_not_in_force", |world| {
        world.connect();
        let (pid, nft) = (world.daemon().id(), sh("readlink -f $(command -v nft)").trim().to_owned());
        let broken = world.path().join("nft");
        write(&broken, b"#!/bin/sh\necho 'Error: it is broken' >&2\nexit 1\n", 0o755);
        sh(&format!("nsenter -m -t {pid} mount --bind {} {nft}", broken.display()));
        sh("nft add table ip other");
        stdout(world.ctl(&["wait", "enf0", "error"]));
        world.bus.shows("enf0", "Blocking", "b false");
        assert_eq!(world.get(FIREWALL, "InForce"), "b false");
        assert_eq!(world.get(MANAGER, "Blocking"), "b false");
        assert_eq!(world.verify(), "b false");
        assert!(!ping(ROUTER), "routing blocks all the same");
        let status = stdout(world.ctl(&["status", "enf0"]));
        for expected in ["  firewall:      NOT in force", "Error: it is broken", "(firewall-failed)"] {
            assert!(status.contains(expected), "{expected} in {status}");
        }
        sh(&format!("nsenter -m -t {pid} umount {nft}"));
        stdout(world.ctl(&["wait", "enf0", "connected"]));
        world.bus.shows("enf0", "Blocking", "b true");
        assert_eq!(world.verify(), "b true");
        assert!(stdout(world.ctl(&["status", "enf0"])).contains("  firewall:      in force, looked at "));
    });
}
