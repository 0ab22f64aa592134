//! Trusted interfaces while programs run: they come and go, the configuration changes, processes are killed.

use super::{EVERYTHING, Lan, group, src_valid_mark};
use crate::common::bus::{daemon_user, own_uid};
use crate::common::certs::{Ca, Leaf};
use crate::common::client::{Foreground, Tunnel};
use crate::common::fake_router::{FakeRouter, Manners, server};
use crate::common::netns::{Running, in_netns_with_tun, ip, sh, state_of_host};
use crate::common::wait_for;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

const PUT_BACK: &str = "put back: ";
/// The program finds no bus, and so no daemon.
const NO_BUS: (&str, &str) = ("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent");

/// A tunnel `enf0` to a router on this host, or wherever it was started.
struct World {
    router: FakeRouter,
    tunnel: Tunnel,
}

impl World {
    fn new(route: &str, start: impl FnOnce(Manners) -> FakeRouter) -> Self {
        let ca = Ca::v3("Test Root");
        let router = ca.sign_v3(Leaf::new("router.example.net").dns("router.example.net"));
        let client = ca.sign_v3(Leaf::new("fd00:8f80:1::1234").ip("fd00:8f80:1::1234"));
        let router = start(Manners::Good(server(&router, &router, rustls::ALL_VERSIONS)));
        let mut tunnel = Tunnel::new(&router.address.to_string(), &ca, &client);
        tunnel.route = format!("{route}\nlockdown = \"session\"\n");
        // A busy machine shall not end the session.
        tunnel.remote = tunnel.remote.replace("\"2s\"", "\"30s\"");
        Self { router, tunnel }
    }

    fn run(&self) -> (Foreground, Arc<Mutex<String>>) {
        let mut run = self.tunnel.run();
        run.until("connected");
        let log = Arc::new(Mutex::new(String::new()));
        let (into, lines) = (log.clone(), BufReader::new(run.child.stderr.take().unwrap()));
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                into.lock().unwrap().push_str(&format!("{line}\n"));
            }
        });
        (run, log)
    }
}

/// `enftunctl clear`, as another process.
#[track_caller]
fn clear(tunnel: &Path, config: &Path, runtime: &Path) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_enftunctl"));
    command.env(NO_BUS.0, NO_BUS.1).arg("clear").arg(tunnel).arg("--config-dir").arg(config);
    let output = command.arg("--runtime-dir").arg(runtime).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_trusted_interface_may_be_absent_at_start_and_come_and_go() {
    in_netns_with_tun("a_trusted_interface_may_be_absent_at_start_and_come_and_go", || {
        let route = format!("{EVERYTHING}\ntrusted_interfaces = [\"lan1\"]");
        let world = World::new(&route, FakeRouter::start);
        let (run, log) = world.run();
        let told = || log.lock().unwrap().clone();
        // The neighbour answers once the interface is in its group.
        let lan = Lan::new("lan1", 2);
        for _ in 0..3 {
            lan.unplug();
            lan.plug();
            assert_eq!(group("lan1"), "363");
        }
        assert!(!told().contains(PUT_BACK), "nobody did wrong:\n{}", told());
        ip("link set lan1 group 5");
        wait_for("the repair", || told().contains("put back: ip link set dev lan1 group 363"));
        assert_eq!(group("lan1"), "363");
        assert_eq!(world.router.connections(), 1, "the session lives on");
        assert_eq!(run.interrupt(), Some(0));
        assert_eq!((group("lan1"), src_valid_mark()), ("5".into(), "0".into()));
    });
}

#[test]
fn a_link_in_a_foreign_group_is_warned_of_when_that_changes() {
    in_netns_with_tun("a_link_in_a_foreign_group_is_warned_of_when_that_changes", || {
        let (_lan, _trusted) = (Lan::new("lan0", 1), Lan::new("lan1", 2));
        ip("link set lan0 group 7");
        let world = World::new(&format!("{EVERYTHING}\ntrusted_interfaces = [\"lan1\"]"), FakeRouter::start);
        let (run, log) = world.run();
        let told = || log.lock().unwrap().clone();
        let warned = |number: u32| {
            let begin = format!("lan0 is in the link group {number}, ");
            told().lines().filter(|line| line.starts_with("warn") && line.contains(&begin)).count()
        };
        // Once, however often it is looked.
        let looks = |times: usize| {
            for _ in 0..times {
                let before = told().matches(PUT_BACK).count();
                ip("-6 rule del pref 557");
                wait_for("the look", || told().matches(PUT_BACK).count() > before);
            }
        };
        looks(2);
        assert_eq!(warned(7), 1, "{}", told());
        assert!(told().contains("`ip link set dev lan0 group default`"), "{}", told());
        ip("link set lan0 group 8");
        wait_for("the other group", || warned(8) == 1);
        ip("link set lan0 group default");
        // The first may be of a look that began before.
        looks(2);
        ip("link set lan0 group 8");
        wait_for("the warning again", || warned(8) == 2);
        assert_eq!((warned(7), group("lan0")), (1, "8".into()), "a foreign group is left alone");
        assert_eq!(run.interrupt(), Some(0));
    });
}

#[test]
fn disconnecting_gives_the_number_back_and_so_does_clear_after_kill_9() {
    in_netns_with_tun("disconnecting_gives_the_number_back_and_so_does_clear_after_kill_9", || {
        let _trusted = Lan::new("lan1", 2);
        ip("link set lan1 group 5");
        let world = World::new(&format!("{EVERYTHING}\ntrusted_interfaces = [\"lan1\", \"lan2\"]"), FakeRouter::start);
        let before = state_of_host();
        for killed in [false, true, false] {
            let (mut run, _log) = world.run();
            assert_eq!((group("lan1"), src_valid_mark()), ("363".into(), "1".into()));
            if killed {
                run.child.kill().unwrap();
                run.child.wait().unwrap();
                assert_eq!((group("lan1"), src_valid_mark()), ("363".into(), "1".into()), "it blocks on");
                clear(&world.tunnel.write(), world.tunnel.path(), &world.tunnel.path().join("run"));
            } else {
                assert_eq!(run.interrupt(), Some(0));
            }
            assert_eq!(state_of_host(), before);
            assert!(!world.tunnel.path().join("run/previous.json").exists());
        }
    });
}

#[test]
fn a_session_over_ipv4_stays_whatever_rp_filter_is() {
    in_netns_with_tun("a_session_over_ipv4_stays_whatever_rp_filter_is", || {
        let lan = Lan::new("lan0", 1);
        lan.route(["default", "default"], 1024);
        let start = |manners| lan.far.run(|| FakeRouter::at("203.0.113.9:443", manners));
        let world = World::new(&format!("{EVERYTHING}\ntrusted_interfaces = [\"lan1\"]"), start);
        let before = state_of_host();
        for (round, strictness) in [1, 2].into_iter().enumerate() {
            sh(&format!("for c in all lan0; do echo {strictness} > /proc/sys/net/ipv4/conf/$c/rp_filter; done"));
            let (run, log) = world.run();
            sh("nft 'table ip heard { counter answers { packets 0 bytes 0; }
                chain in { type filter hook input priority 300; tcp sport 443 counter name answers; }; }'");
            let answers = || {
                let json: serde_json::Value =
                    serde_json::from_str(&sh("nft -j list counter ip heard answers")).unwrap();
                json["nftables"][1]["counter"]["packets"].as_u64().unwrap()
            };
            // Each heartbeat is answered at least once, and they are a second apart.
            wait_for("three heartbeats", || answers() >= 6);
            assert_eq!(world.router.connections(), round + 1, "{}", log.lock().unwrap());
            sh("nft delete table ip heard");
            assert_eq!(run.interrupt(), Some(0));
        }
        sh("for c in all lan0; do echo 0 > /proc/sys/net/ipv4/conf/$c/rp_filter; done");
        assert_eq!(state_of_host(), before);
    });
}

/// `enftund` without a bus. Its tunnels find no router, and block all the same.
struct Daemon {
    directory: tempfile::TempDir,
    program: Option<Running>,
}

impl Daemon {
    fn new() -> Self {
        let daemon = Self { directory: tempfile::tempdir().unwrap(), program: None };
        sh(&format!("chmod 755 {0}; mkdir -p {0}/etc/tunnels {0}/state {0}/run", daemon.path().display()));
        for directory in ["state", "run"] {
            chown(daemon.path().join(directory), Some(daemon_user()), None).unwrap();
        }
        daemon
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn groups(&self, text: &str) {
        fs::write(self.path().join("etc/enftun.toml"), text).unwrap();
    }

    fn tunnel_file(&self, name: &str) -> PathBuf {
        self.path().join(format!("etc/tunnels/{name}.toml"))
    }

    fn tunnel(&self, name: &str, route: &str) {
        let text = format!(
            "kind = \"enf\"\nautoconnect = true\n[remote]\nhosts = [\"[::1]:1\"]\nname = \"router\"\n\
             [route]\n{route}\nlockdown = \"session\"\n"
        );
        fs::write(self.tunnel_file(name), text).unwrap();
    }

    fn start(&mut self) {
        // Where udev runs, everybody may open the TUN node; here it may be root's alone.
        let node = "mount -t tmpfs tmpfs /dev/net && mknod -m 666 /dev/net/tun c 10 200 && ";
        let node = if daemon_user() == own_uid() { "" } else { node };
        let mut command = Command::new("unshare");
        command.env(NO_BUS.0, NO_BUS.1);
        command.args(["-m", "sh", "-c", &format!("{node} exec \"$@\""), "sh", env!("CARGO_BIN_EXE_enftund")]);
        for (directory, place) in [("config", "etc"), ("state", "state"), ("runtime", "run")] {
            command.arg(format!("--{directory}-dir")).arg(self.path().join(place));
        }
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path().join("log")).unwrap();
        command.args(["--user", "65534"]).stdin(Stdio::null()).stderr(log);
        self.program = Some(Running(command.spawn().unwrap()));
    }

    fn reload(&self) {
        let pid = Pid::from_raw(self.program.as_ref().unwrap().0.id() as i32);
        kill(pid, Signal::SIGHUP).unwrap();
    }

    /// With SIGKILL.
    fn kill(&mut self) {
        drop(self.program.take());
    }
}

#[test]
fn a_group_of_two_tunnels_changes_with_reloads_and_is_given_back() {
    in_netns_with_tun("a_group_of_two_tunnels_changes_with_reloads_and_is_given_back", || {
        let (_lan, _trusted) = (Lan::new("lan0", 1), Lan::new("lan1", 2));
        ip("link set lan1 group 5");
        let before = state_of_host();
        let both = "[groups.lan]\nnumber = 400\ninterfaces = [\"lan0\", \"lan1\"]\n";
        let wide = |groups: &str| format!("{EVERYTHING}\ntrusted_groups = [{groups}]");
        let narrow = |groups: &str| {
            format!("prefixes = [\"fd00:8f80::/32\"]\nfwmark = 364\ntable = 2098\ntrusted_groups = [{groups}]")
        };
        let is = |lan0: &str, lan1: &str| {
            wait_for(&format!("groups {lan0} and {lan1}"), || [group("lan0"), group("lan1")] == [lan0, lan1])
        };
        let rules = || ip("-6 rule show pref 250") + &ip("-4 rule show pref 250");
        let mut daemon = Daemon::new();
        let (etc, run) = (daemon.path().join("etc"), daemon.path().join("run"));
        let trusts = |tunnel: &str, count: usize| {
            wait_for(&format!("{count} trusted interfaces of {tunnel}"), || {
                let text = fs::read(run.join("in-force.json")).unwrap_or_default();
                let json: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
                json["tunnels"][tunnel]["trusted"].as_object().is_some_and(|trusted| trusted.len() == count)
            });
        };
        daemon.groups(both);
        daemon.tunnel("enf0", &wide("\"lan\""));
        daemon.tunnel("enf1", &narrow("\"lan\""));
        daemon.start();
        trusts("enf1", 2);
        is("400", "400");
        // One tunnel no longer trusts it: the other still does.
        daemon.tunnel("enf1", &narrow(""));
        daemon.reload();
        trusts("enf1", 0);
        assert_eq!([group("lan0"), group("lan1")], ["400", "400"]);
        // The group has another number, and a member less.
        daemon.groups("[groups.lan]\nnumber = 401\ninterfaces = [\"lan0\"]\n");
        daemon.reload();
        is("401", "5");
        assert_eq!(rules().lines().count(), 2);
        daemon.groups(both);
        daemon.reload();
        is("400", "400");
        // Nobody trusts anything any more.
        daemon.tunnel("enf0", &wide(""));
        daemon.reload();
        is("0", "5");
        wait_for("no rule for trust", || rules().is_empty());
        assert_eq!(src_valid_mark(), "1", "both still block");

        // Killed while it holds them: each tunnel is cleared by another process, and the last gives all back.
        daemon.tunnel("enf0", &wide("\"lan\""));
        daemon.tunnel("enf1", &narrow("\"lan\""));
        daemon.reload();
        trusts("enf0", 2);
        trusts("enf1", 2);
        daemon.kill();
        clear(&daemon.tunnel_file("enf0"), &etc, &run);
        assert_eq!([group("lan0"), group("lan1")], ["400", "400"]);
        clear(&daemon.tunnel_file("enf1"), &etc, &run);
        assert_eq!(state_of_host(), before);
        assert!(!run.join("previous.json").exists());

        // A daemon that starts after kill -9 gives back what the one before it took.
        daemon.start();
        trusts("enf1", 2);
        daemon.kill();
        daemon.tunnel("enf0", &wide(""));
        daemon.tunnel("enf1", &narrow(""));
        daemon.start();
        is("0", "5");
        trusts("enf1", 0);
        daemon.kill();
        clear(&daemon.tunnel_file("enf0"), &etc, &run);
        clear(&daemon.tunnel_file("enf1"), &etc, &run);
        assert_eq!(state_of_host(), before);
    });
}
