//! Name servers inside the tunnel: the real systemd-resolved on a private bus, with the real polkitd between it and the daemon.
//! Name servers at the far end and on the LAN tell who was asked. The host's own files and /run are the test's, in its own
//! mount namespace.

use crate::common::bus::{PrivateBus, daemon_user, has, no_other_uid, own_uid, stdout};
use crate::common::certs::{Ca, Leaf, write};
use crate::common::netns::{Netns, Running, in_netns_with_tun, ip, sh, veth};
use crate::common::polkit::Polkit;
use crate::common::wire::remote_line;
use crate::common::{skip, wait_for};
use nix::sched::{CloneFlags, unshare};
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const OWN: &str = "fd00:8f80:1::1234";
/// The router on its uplink; a name server listens there.
const ROUTER: &str = "fd00:8f80:1::1";
/// The far end's address on the LAN; a name server listens there too, and so does the router.
const LAN: &str = "192.0.2.2";
/// What the two answer, whatever they are asked.
const INSIDE: &str = "198.51.100.1";
const OUTSIDE: &str = "203.0.113.1";
const EVERY_NAME: &str = "[dns]\nservers = [\"fd00:8f80:1::1\"]\n";
const MANAGER: [&str; 3] =
    ["org.freedesktop.resolve1", "/org/freedesktop/resolve1", "org.freedesktop.resolve1.Manager"];

/// Where systemd-resolved is: the host's, or the one that `tests/run` unpacks because a package would change the host.
fn unpacked(path: &str) -> Option<PathBuf> {
    let unpacked = Path::new(env!("CARGO_TARGET_TMPDIR")).join("systemd-resolved").join(path);
    [unpacked, Path::new("/").join(path)].into_iter().find(|file| file.exists())
}

/// What our package lets the daemon's user do, who is nobody here.
fn our_rule() -> String {
    let rule = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("dbus/org.enftun.Enftun1.rules"));
    rule.unwrap().replace("\"enftun\"", "\"nobody\"")
}

/// The client is the test's own namespace; router and name servers are in the far one.
struct World {
    bus: PrivateBus,
    far: Netns,
    directory: tempfile::TempDir,
    router: Option<Running>,
    daemon: Option<Running>,
    resolved: Option<Running>,
    polkit: Option<Polkit>,
    _others: Vec<Running>,
}

/// Runs a story in a world with the router, both name servers and polkitd running, and resolved and the daemon not yet.
fn story(test: &str, tell: impl FnOnce(&mut World) + Send) {
    in_netns_with_tun(test, || {
        if unpacked("lib/systemd/systemd-resolved").is_none() {
            return skip(test, "systemd-resolved is missing; `tests/run` unpacks Debian's package");
        }
        if !has("dnsmasq") {
            return skip(test, "dnsmasq (dnsmasq-base) is missing");
        }
        let Some(bus) = PrivateBus::start(test) else { return };
        let far = Netns::new();
        veth(&Netns::here(), "lan0", &far, "wan0");
        ip("addr add 192.0.2.1/24 dev lan0");
        far.exec(&format!("ip addr add {LAN}/24 dev wan0"));
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        sh("mount --make-rprivate /");
        let mut world = World {
            bus,
            far,
            directory: tempfile::tempdir().unwrap(),
            router: None,
            daemon: None,
            resolved: None,
            polkit: None,
            _others: Vec::new(),
        };
        world.write_files();
        world.mount_files();
        world.start_router();
        for (address, answer) in [(ROUTER, INSIDE), (LAN, OUTSIDE)] {
            world.start_name_server(address, answer);
        }
        if no_other_uid().is_none() && !world.start_polkitd() {
            return skip(test, "polkitd is missing");
        }
        tell(&mut world);
    });
}

impl World {
    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn write_files(&self) {
        sh(&format!("cd {}; chmod 755 .; mkdir -p etc/tunnels state run systemd resolve", self.path().display()));
        let ca = Ca::v3("Test Root");
        ca.write(self.path(), "etc/ca");
        ca.sign_v3(Leaf::new("router.example.net").dns("router.example.net")).write(self.path(), "router");
        let (_, key) = ca.sign_v3(Leaf::new(OWN).ip(OWN)).write(self.path(), "etc/client");
        for file in [key, self.path().join("state"), self.path().join("run")] {
            chown(file, Some(daemon_user()), None).unwrap();
        }
        let router = format!(
            "listen = [\"{LAN}:443\"]\ncert_file = \"router.crt.pem\"\nkey_file = \"router.key.pem\"\n\
             client_ca_file = \"etc/ca.pem\"\nendpoints_dir = \"endpoints\"\ncontrol_socket = \"control.sock\"\n\
             [tun]\ndev = \"enfr0\"\naddresses = [\"{ROUTER}/64\"]\n"
        );
        write(&self.path().join("router.toml"), router.as_bytes(), 0o644);
        let policy = fs::read_to_string(unpacked("usr/share/dbus-1/system.d/org.freedesktop.resolve1.conf").unwrap());
        let policy = policy.unwrap().replace("\"systemd-resolve\"", &format!("\"{}\"", resolved_user()));
        self.bus.add_policy("org.freedesktop.resolve1.conf", &policy);
        // Nothing but questions to name servers, no names but those in files, and no cache that would hide a question.
        let config = "[Resolve]\nLLMNR=no\nMulticastDNS=no\nFallbackDNS=\nDNSSEC=no\nCache=no\n";
        write(&self.path().join("systemd/resolved.conf"), config.as_bytes(), 0o644);
        let users = fs::read_to_string("/etc/passwd").unwrap();
        let user = resolved_user();
        let users = format!("systemd-resolve:x:{user}:{user}::/:/bin/false\n{users}");
        write(&self.path().join("passwd"), users.as_bytes(), 0o644);
        chown(self.path().join("resolve"), Some(user), Some(user)).unwrap();
        write(&self.path().join("resolv.conf"), b"nameserver 127.0.0.53\n", 0o644);
    }

    /// Programs that this thread starts see these.
    fn mount_files(&self) {
        sh(&format!(
            "cd {}
             mount --bind passwd /etc/passwd
             mount --bind systemd /etc/systemd
             mount --bind resolv.conf \"$(readlink -m /etc/resolv.conf)\"
             mount -t tmpfs -o mode=755 tmpfs /run
             mkdir -p /run/systemd/resolve
             mount --bind resolve /run/systemd/resolve",
            self.path().display()
        ));
    }

    /// What the tunnel's file has besides the usual.
    fn write_tunnel(&self, host: &str, dns: &str) {
        self.write_tunnel_for("fd00:8f80::/32", host, dns);
    }

    fn write_tunnel_for(&self, prefix: &str, host: &str, dns: &str) {
        let text = format!(
            "kind = \"enf\"\n[remote]\nhosts = [\"{host}\"]\nca_cert_file = \"ca.pem\"\nname = \"router.example.net\"\n\
             {}[route]\nprefixes = [\"{prefix}\"]\nlockdown = \"session\"\n[identity]\ncert_file = \"client.crt.pem\"\n\
             key_file = \"client.key.pem\"\n[retry]\nfirst = \"200ms\"\nmax = \"1s\"\n{dns}",
            remote_line()
        );
        write(&self.path().join("etc/tunnels/enf0.toml"), text.as_bytes(), 0o644);
    }

    fn start_router(&mut self) {
        let mut command = self.far.command(env!("CARGO_BIN_EXE_enftun-router"));
        command.arg("--config").arg(self.path().join("router.toml")).arg("serve");
        self.router = Some(Running(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()));
        let status = || {
            let mut command = self.far.command(env!("CARGO_BIN_EXE_enftun-router"));
            command.arg("--config").arg(self.path().join("router.toml")).arg("status").output().unwrap()
        };
        wait_for("the router to answer", || status().status.success());
    }

    /// Answers every question for an IPv4 address with `answer`, but the router's name with the router's address.
    fn start_name_server(&mut self, address: &str, answer: &str) {
        let mut command = self.far.command("dnsmasq");
        command.args(["--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces"]);
        command.args(["--log-queries", &format!("--listen-address={address}"), &format!("--address=/#/{answer}")]);
        command.arg(format!("--address=/router.example.net/{LAN}"));
        let log = fs::File::create(self.path().join(format!("questions-{address}"))).unwrap();
        self._others.push(Running(command.stdin(Stdio::null()).stderr(log).spawn().unwrap()));
        wait_for("the name server", || self.asked(address).contains("started"));
    }

    /// What a name server says of the questions so far.
    fn asked(&self, address: &str) -> String {
        fs::read_to_string(self.path().join(format!("questions-{address}"))).unwrap()
    }

    fn start_polkitd(&mut self) -> bool {
        // Neither our own rule nor resolved's actions are this host's.
        let actions = unpacked("usr/share/polkit-1/actions/org.freedesktop.resolve1.policy").unwrap();
        self.polkit = Polkit::start_with(&self.bus, &[&actions], &our_rule());
        self.polkit.is_some()
    }

    /// What polkitd may allow.
    fn allow(&self, rules: &str) {
        self.polkit.as_ref().unwrap().rule(rules);
    }

    /// A resolved that knows nothing of an earlier one, and of the LAN's name server.
    fn start_resolved(&mut self) {
        self.stop_resolved();
        sh("rm -rf /run/systemd/resolve/*");
        let mut command = self.bus.command(unpacked("lib/systemd/systemd-resolved").unwrap());
        let log = fs::File::create(self.path().join("resolved-log")).unwrap();
        self.resolved = Some(Running(command.stderr(log).spawn().unwrap()));
        wait_for("systemd-resolved", || self.bus.has(MANAGER[0]));
        let server = ["ia(iay)", &index("lan0"), "1", "2", "4", "192", "0", "2", "2"];
        stdout(self.resolved_call("SetLinkDNS", &server));
        stdout(self.resolved_call("SetLinkDomains", &["ia(sb)", &index("lan0"), "0"]));
    }

    /// Lets the bus start resolved for whoever calls it, as it may on a host. Here it only leaves the file that is returned.
    fn make_it_startable(&self) -> PathBuf {
        let (dir, started) = (self.path().display(), self.path().join("started"));
        let service = format!("[D-BUS Service]\nName={}\nUser=root\nExec=/bin/false\n", MANAGER[0]);
        write(&self.path().join("org.freedesktop.resolve1.service"), service.as_bytes(), 0o644);
        write(&self.path().join("start"), format!("#!/bin/sh\ntouch {dir}/started\nexit 1\n").as_bytes(), 0o755);
        let config =
            format!("<busconfig><servicehelper>{dir}/start</servicehelper><servicedir>{dir}</servicedir></busconfig>");
        self.bus.add_policy("services.conf", &config);
        started
    }

    fn stop_resolved(&mut self) {
        self.resolved = None;
        wait_for("resolved to be gone", || !self.bus.has(MANAGER[0]));
    }

    fn resolved_call(&self, method: &str, arguments: &[&str]) -> Output {
        self.bus.busctl(&[&["--json=short", "call"], MANAGER.as_slice(), &[method], arguments].concat())
    }

    /// Whether resolved lets uid 65534 set anything.
    fn lets_nobody(&self) -> bool {
        let link = index("lan0");
        let call = [&["call"], MANAGER.as_slice(), &["SetLinkDefaultRoute", "ib", &link, "true"]].concat();
        self.bus.busctl_as_nobody(&call).status.success()
    }

    /// Servers, domains and whether it gets all names, of one link, by resolved's own word.
    fn link(&self, dev: &str) -> String {
        let object = stdout(self.resolved_call("GetLink", &["i", &index(dev)]));
        let object = object.split('"').find(|part| part.starts_with('/')).unwrap();
        let get = ["--json=short", "get-property", MANAGER[0], object, "org.freedesktop.resolve1.Link"];
        let all = stdout(self.bus.busctl(&[get.as_slice(), &["DNS", "Domains", "DefaultRoute"]].concat()));
        let data = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["data"].to_string();
        all.lines().map(data).collect::<Vec<_>>().join(" ")
    }

    #[track_caller]
    fn link_becomes(&self, expected: &str) {
        wait_for(&format!("enf0 to have {expected}"), || self.link("enf0") == expected);
    }

    /// The address that resolved finds for a name.
    fn look_up(&self, name: &str) -> Result<String, String> {
        let output = self.resolved_call("ResolveHostname", &["isit", "0", name, "2", "0"]);
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let bytes = answer["data"][0][0][2].as_array().unwrap().clone();
        Ok(bytes.iter().map(ToString::to_string).collect::<Vec<_>>().join("."))
    }

    fn start_daemon(&mut self) {
        // Where udev runs, everybody may open the TUN node; here it may be root's alone.
        if daemon_user() != own_uid() {
            sh("mount -t tmpfs tmpfs /dev/net && mknod -m 666 /dev/net/tun c 10 200");
        }
        let mut command = self.bus.command(env!("CARGO_BIN_EXE_enftund"));
        for (directory, place) in [("config", "etc"), ("state", "state"), ("runtime", "run")] {
            command.arg(format!("--{directory}-dir")).arg(self.path().join(place));
        }
        command.args(["--user", "65534", "--log-level", "debug"]);
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path().join("log")).unwrap();
        self.daemon = Some(Running(command.stderr(log).spawn().unwrap()));
        wait_for("the daemon on the bus", || self.ctl(&["list"]).status.success());
    }

    fn ctl(&self, arguments: &[&str]) -> Output {
        self.bus.command(env!("CARGO_BIN_EXE_enftunctl")).args(arguments).output().unwrap()
    }

    fn connect(&self) {
        stdout(self.ctl(&["connect", "enf0", "--wait=30s"]));
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path().join("log")).unwrap()
    }

    /// The daemon's warnings about name servers.
    fn warnings(&self) -> Vec<String> {
        let log = self.log();
        log.lines()
            .filter(|line| line.starts_with("warn") && line.contains("name servers"))
            .map(str::to_owned)
            .collect()
    }

    fn status(&self, property: &str) -> serde_json::Value {
        let text = stdout(self.ctl(&["status", "enf0", "--json"]));
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["tunnels"][0][property].clone()
    }
}

/// Whom resolved becomes: somebody whom the bus knows, and who is neither root nor the daemon.
fn resolved_user() -> u32 {
    if no_other_uid().is_none() { 2 } else { own_uid() }
}

fn index(dev: &str) -> String {
    ip(&format!("-o link show {dev}")).split(':').next().unwrap().to_owned()
}

fn ping(address: &str) -> bool {
    let mut command = Command::new("ping");
    command
        .args(["-c", "1", "-W", "2", "-q", address])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap()
        .success()
}

/// An IPv6 server as resolved shows it.
fn server(address: &str) -> String {
    let address: std::net::Ipv6Addr = address.parse().unwrap();
    format!("[10,{:?}]", address.octets()).replace(' ', "")
}

/// Counts questions to name servers that leave by the LAN.
fn count_questions() {
    sh("nft 'table inet sniff {
        counter questions { packets 0 bytes 0; }
        chain out {
            type filter hook postrouting priority 400;
            oifname lan0 meta l4proto { tcp, udp } th dport 53 counter name questions
        }
    }'");
}

fn on_the_lan() -> u64 {
    let text = sh("nft list counter inet sniff questions");
    text.split_once("packets ").unwrap().1.split_whitespace().next().unwrap().parse().unwrap()
}

fn every_name() -> String {
    format!("[{}] [[\".\",true]] true", server(ROUTER))
}

#[test]
fn servers_and_domains_are_on_the_link_while_the_tunnel_is_wanted() {
    story("servers_and_domains_are_on_the_link_while_the_tunnel_is_wanted", |world| {
        world.write_tunnel(LAN, EVERY_NAME);
        world.start_resolved();
        world.start_daemon();
        world.connect();
        world.link_becomes(&every_name());
        let since = world.status("state_since");

        // As in the file, also when that changes under the session.
        let some = "[dns]\nservers = [\"fd00:8f80:1::1\", \"fd00:8f80::53\"]\ndomains = [\"~Corp.Example\", \"lab.example.\"]\n";
        world.write_tunnel(LAN, some);
        stdout(world.ctl(&["reload"]));
        let servers = format!("[{},{}]", server(ROUTER), server("fd00:8f80::53"));
        world.link_becomes(&format!("{servers} [[\"corp.example\",true],[\"lab.example\",false]] false"));
        world.write_tunnel(LAN, "");
        stdout(world.ctl(&["reload"]));
        world.link_becomes("[] [] false");
        world.write_tunnel(LAN, EVERY_NAME);
        stdout(world.ctl(&["reload"]));
        world.link_becomes(&every_name());
        assert_eq!(world.status("state_since"), since, "the session lives on");

        // Between two sessions they stay; the link is the same.
        let link = index("enf0");
        world.router = None;
        stdout(world.ctl(&["wait", "enf0", "reconnecting"]));
        assert_eq!(world.link("enf0"), every_name());
        world.start_router();
        stdout(world.ctl(&["wait", "enf0", "connected"]));
        assert_eq!((world.link("enf0"), index("enf0")), (every_name(), link));

        stdout(world.ctl(&["disconnect", "enf0", "--wait"]));
        let listed = || fs::read_to_string("/run/systemd/resolve/resolv.conf").unwrap();
        wait_for("resolved to ask only the LAN's server", || !listed().contains(ROUTER));
        assert!(listed().contains(LAN));
        assert_eq!(world.warnings(), Vec::<String>::new());
    });
}

#[test]
fn they_are_set_again_for_a_new_resolved_a_new_device_and_a_new_daemon() {
    story("they_are_set_again_for_a_new_resolved_a_new_device_and_a_new_daemon", |world| {
        world.write_tunnel(LAN, EVERY_NAME);
        world.start_resolved();
        world.start_daemon();
        world.connect();
        world.link_becomes(&every_name());

        world.start_resolved();
        world.link_becomes(&every_name());

        let old = index("enf0");
        ip("link delete enf0");
        wait_for("a new device", || sh("ip -o link show enf0 2>/dev/null || true").contains("enf0"));
        stdout(world.ctl(&["wait", "enf0", "connected"]));
        assert_ne!(index("enf0"), old);
        world.link_becomes(&every_name());

        world.daemon = None;
        world.start_resolved();
        assert_eq!(world.link("enf0"), "[] [] false", "nobody else sets them");
        world.start_daemon();
        stdout(world.ctl(&["wait", "enf0", "connected"]));
        world.link_becomes(&every_name());
    });
}

#[test]
fn names_are_asked_through_the_tunnel_and_nowhere_else() {
    story("names_are_asked_through_the_tunnel_and_nowhere_else", |world| {
        world.write_tunnel(LAN, EVERY_NAME);
        world.start_resolved();
        world.start_daemon();
        count_questions();
        assert_eq!(world.look_up("before.example").unwrap(), OUTSIDE);
        assert!(on_the_lan() > 0 && world.asked(LAN).contains("before.example"), "the counter sees questions");

        world.connect();
        world.link_becomes(&every_name());
        let before = on_the_lan();
        assert_eq!(world.look_up("during.example").unwrap(), INSIDE);
        assert!(world.asked(ROUTER).contains("during.example"));
        assert_eq!(on_the_lan(), before);
        assert!(!world.asked(LAN).contains("during.example"));

        // Only some names: the others go where they went before.
        world.write_tunnel(LAN, &format!("{EVERY_NAME}domains = [\"~corp.example\"]\n"));
        stdout(world.ctl(&["reload"]));
        world.link_becomes(&format!("[{}] [[\"corp.example\",true]] false", server(ROUTER)));
        assert_eq!(world.look_up("host.corp.example").unwrap(), INSIDE);
        assert_eq!(on_the_lan(), before);
        assert_eq!(world.look_up("some.example").unwrap(), OUTSIDE);
        assert!(!world.asked(ROUTER).contains("some.example") && !world.asked(LAN).contains("host.corp.example"));

        // What resolved does with a link without carrier, and nothing that the routes of this tunnel could hold.
        world.router = None;
        stdout(world.ctl(&["wait", "enf0", "reconnecting"]));
        wait_for("names to go to the LAN", || world.look_up("between.corp.example").as_deref() == Ok(OUTSIDE));

        stdout(world.ctl(&["disconnect", "enf0", "--wait"]));
        wait_for("names to go to the LAN again", || world.look_up("after.example").as_deref() == Ok(OUTSIDE));
    });
}

#[test]
fn without_resolved_there_is_one_warning_and_the_tunnel_works() {
    story("without_resolved_there_is_one_warning_and_the_tunnel_works", |world| {
        world.write_tunnel(LAN, EVERY_NAME);
        let started = world.make_it_startable();
        world.start_daemon();
        world.connect();
        assert!(ping(ROUTER));
        wait_for("a warning", || world.warnings().len() == 1);
        let warning = &world.warnings()[0];
        for text in ["enf0", "systemd-resolved is not running", "/etc/resolv.conf", "systemctl"] {
            assert!(warning.contains(text), "{warning}");
        }
        stdout(world.ctl(&["reconnect", "enf0", "--wait"]));
        assert!(ping(ROUTER));
        assert!(!started.exists(), "it is not for the daemon to start it");
        assert!(!world.resolved_call("FlushCaches", &[]).status.success());
        assert!(started.exists(), "a call like any other would have");
        world.start_resolved();
        world.link_becomes(&every_name());
        assert_eq!(world.warnings().len(), 1);
    });
}

#[test]
fn without_the_permission_there_is_one_warning_that_names_it() {
    story("without_the_permission_there_is_one_warning_that_names_it", |world| {
        if let Some(why) = no_other_uid() {
            return skip("without_the_permission_there_is_one_warning_that_names_it", why);
        }
        world.allow("");
        world.write_tunnel(LAN, EVERY_NAME);
        world.start_resolved();
        wait_for("polkitd to know that nothing is allowed", || !world.lets_nobody());
        world.start_daemon();
        world.connect();
        wait_for("a warning", || world.warnings().len() == 1);
        let warning = world.warnings().remove(0);
        for text in ["enf0", "org.freedesktop.resolve1.set-dns-servers", "polkit", "org.enftun.Enftun1.rules"] {
            assert!(warning.contains(text), "{warning}");
        }
        assert!(ping(ROUTER));
        assert_eq!(world.link("enf0"), "[] [] false");
        world.allow(&our_rule());
        wait_for("polkitd to know that it is allowed", || world.lets_nobody());
        stdout(world.ctl(&["reconnect", "enf0", "--wait"]));
        world.link_becomes(&every_name());
        assert_eq!(world.warnings().len(), 1);
    });
}

#[test]
fn a_router_given_by_name_is_found_again_though_all_names_belong_in_the_tunnel() {
    story("a_router_given_by_name_is_found_again_though_all_names_belong_in_the_tunnel", |world| {
        // More servers than a resolv.conf has, before the LAN's own.
        let servers = ["fd00:8f80:1::1", "fd00:8f80::53", "fd00:8f80::54", "fd00:8f80::55"];
        world.write_tunnel("router.example.net", &format!("[dns]\nservers = {servers:?}\n"));
        world.start_resolved();
        world.start_daemon();
        world.connect();
        let listed = || fs::read_to_string("/run/systemd/resolve/resolv.conf").unwrap();
        wait_for("resolved to list all servers", || listed().matches("nameserver").count() == 5);
        let asked = world.asked(LAN).matches("router.example.net").count();
        world.router = None;
        stdout(world.ctl(&["wait", "enf0", "reconnecting"]));
        world.start_router();
        stdout(world.ctl(&["wait", "enf0", "connected", "--timeout=30s"]));
        assert!(world.asked(LAN).matches("router.example.net").count() > asked);
        assert!(
            !world.log().contains("does not answer") && !world.log().contains("cannot be asked"),
            "{}",
            world.log()
        );
    });
}

#[test]
fn with_everything_in_the_tunnel_names_fail_between_two_sessions_rather_than_leave_by_the_lan() {
    let test = "with_everything_in_the_tunnel_names_fail_between_two_sessions_rather_than_leave_by_the_lan";
    story(test, |world| {
        world.write_tunnel_for("default", LAN, EVERY_NAME);
        world.start_resolved();
        world.start_daemon();
        count_questions();
        assert_eq!(world.look_up("before.example").unwrap(), OUTSIDE);
        let before = on_the_lan();
        assert!(before > 0, "the counter sees questions");
        world.connect();
        world.link_becomes(&every_name());
        assert_eq!(world.look_up("during.example").unwrap(), INSIDE);
        world.router = None;
        stdout(world.ctl(&["wait", "enf0", "reconnecting"]));
        assert!(world.look_up("between.example").is_err());
        assert_eq!(on_the_lan(), before);
        world.start_router();
        stdout(world.ctl(&["wait", "enf0", "connected"]));
        wait_for("names in the new session", || world.look_up("again.example").as_deref() == Ok(INSIDE));
        assert_eq!(on_the_lan(), before);
    });
}

#[test]
fn run_leaves_name_servers_alone_and_says_how_to_set_them() {
    story("run_leaves_name_servers_alone_and_says_how_to_set_them", |world| {
        world.write_tunnel(LAN, EVERY_NAME);
        world.start_resolved();
        let log = fs::File::create(world.path().join("log")).unwrap();
        let mut command = world.bus.command(env!("CARGO_BIN_EXE_enftunctl"));
        command.args(["run", "enf0"]);
        for (directory, place) in [("config", "etc"), ("runtime", "run")] {
            command.arg(format!("--{directory}-dir")).arg(world.path().join(place));
        }
        let _run = Running(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
        wait_for("a warning", || world.log().contains("[dns]"));
        let (_, by_hand) =
            world.log().trim().split_once("by hand: ").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        wait_for("a session", || ping(ROUTER));
        assert_eq!(world.link("enf0"), "[] [] false");
        let mut shell = world.bus.command("sh");
        let resolvectl = unpacked("usr/bin/resolvectl").unwrap();
        let path = format!("{}:{}", resolvectl.parent().unwrap().display(), std::env::var("PATH").unwrap());
        stdout(shell.env("PATH", path).args(["-ec", &by_hand]).output().unwrap());
        assert_eq!(world.link("enf0"), every_name());
    });
}
