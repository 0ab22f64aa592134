//! The topology, the programs in it, and what the client may send in which state.
//!
//! ```text
//! container --- client --- lan (a bridge; the sniffer is at its end of the client's cable) --- gateway --- far
//!                           |                                                                              enftun-router,
//!                       neighbour, hostile                                                                 probe targets
//! ```

use crate::common::bus::{PrivateBus, daemon_user, own_uid, stdout};
use crate::common::certs::{Ca, Leaf, write};
pub use crate::common::figure;
use crate::common::netns::{Netns, Running, in_netns_with_tun, ip, sh, veth};
use crate::common::wire::remote_line;
use crate::common::{long, wait_for};
use crate::probes::{Held, Probing};
use crate::shot::Link;
use crate::sniffer::{Frame, Kind, Sniffer};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, SystemTime};

/// The client's address in the overlay, and the router's own on its uplink.
pub const OWN: &str = "fd00:8f80:1::1234";
pub const OWN4: &str = "10.64.0.7";
pub const OVERLAY_ROUTER: &str = "fd00:8f80:1::1";
/// The client's own addresses on the LAN.
pub const LAN: &str = "192.0.2.10";
pub const LAN6: &str = "2001:db8:1::10";
pub const LINK_LOCAL: &str = "fe80::10";
pub const NEIGHBOUR: &str = "192.0.2.20";
pub const NEIGHBOUR6: &str = "2001:db8:1::20";
/// The router's last mile.
pub const ROUTER: &str = "198.51.100.1";
pub const ROUTER6: &str = "2001:db8:2::1";
/// What listens in the client for everybody.
pub const SERVICE: u16 = 7007;
/// What listens far away.
pub const FAR_SERVICE: u16 = 9009;

/// Which of the shipped examples is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Example {
    /// `packaging/examples/device.toml`: everything belongs in the tunnel.
    Device,
    /// `packaging/examples/server.toml`: these prefixes do.
    Server,
}

impl Example {
    pub fn tunnel(self) -> &'static str {
        match self {
            Self::Device => "enf0",
            Self::Server => "overlay",
        }
    }

    pub fn dev(self) -> &'static str {
        match self {
            Self::Device => "enf0",
            Self::Server => "overlay0",
        }
    }

    pub fn mark(self) -> u32 {
        match self {
            Self::Device => 363,
            Self::Server => 0x16c,
        }
    }

    /// Hosts in the far network that belong in the tunnel.
    pub fn far(self) -> [IpAddr; 2] {
        let [v4, v6] = match self {
            Self::Device => ["198.51.100.80", "2001:db8:2::80"],
            Self::Server => ["10.64.1.80", "fd00:8f80:99::80"],
        };
        [v4.parse().unwrap(), v6.parse().unwrap()]
    }

    fn file(self) -> &'static str {
        match self {
            Self::Device => "device.toml",
            Self::Server => "server.toml",
        }
    }
}

/// How often a transition is repeated.
pub fn times(short: usize) -> usize {
    if long() { 100 } else { short }
}

/// The host under test is the test's own namespace.
pub struct Bed {
    pub example: Example,
    pub neighbour: Netns,
    pub hostile: Netns,
    pub container: Netns,
    _gateway: Netns,
    pub far: Netns,
    _lan: Netns,
    pub sniffer: Sniffer,
    pub bus: PrivateBus,
    pub link: Link,
    test: String,
    directory: tempfile::TempDir,
    router: Option<Running>,
    daemon: Option<Running>,
}

/// Runs a story in a bed where the router runs and the daemon does not: the host is open.
pub fn story(test: &str, example: Example, tell: impl FnOnce(&mut Bed) + Send) {
    in_netns_with_tun(test, || {
        let Some(bus) = PrivateBus::start(test) else { return };
        tell(&mut Bed::new(test, example, bus));
    });
}

impl Bed {
    fn new(test: &str, example: Example, bus: PrivateBus) -> Self {
        let [lan, neighbour, hostile, container, gateway, far] = std::array::from_fn(|_| Netns::new());
        let client = Netns::here();
        lan.exec("ip link add br0 type bridge mcast_snooping 0; ip link set br0 addrgenmode none up");
        lan.exec(&format!(
            "ip link add c0 type veth peer name lan0 netns {}; ip link set c0 addrgenmode none",
            client.path().display()
        ));
        let sniffer = Sniffer::start(&lan, "c0");
        lan.exec("ip link set c0 master br0 up");
        sh("echo 0 > /proc/sys/net/ipv6/conf/lan0/accept_dad; ip link set lan0 addrgenmode none up");
        for (end, port) in [(&neighbour, "n0"), (&hostile, "h0"), (&gateway, "g0")] {
            veth(end, "lan0", &lan, port);
            lan.exec(&format!("ip link set {port} master br0"));
        }
        for (end, own) in [(&neighbour, 20), (&hostile, 66), (&gateway, 1)] {
            end.exec(&format!(
                "ip addr add 192.0.2.{own}/24 brd + dev lan0; ip addr add 2001:db8:1::{own}/64 dev lan0 nodad
                 ip addr add fe80::{own}/64 dev lan0 nodad"
            ));
        }
        for end in [&neighbour, &hostile] {
            // Before the tunnel's address is there, the client says that the gateway is nearer.
            end.exec("for f in /proc/sys/net/ipv[46]/conf/*/accept_redirects; do echo 0 > $f; done");
            end.exec("ip route add default via 192.0.2.1; ip route add default via 2001:db8:1::1");
            // To the tunnel's address by way of the LAN.
            end.exec(&format!("ip route add {OWN} via {LAN6}; ip route add {OWN4} via {LAN}"));
        }
        // A LAN that answers for everybody: then what is taken for "on link" leaves, too.
        gateway.exec(
            "echo 1 > /proc/sys/net/ipv4/conf/lan0/proxy_arp; echo 0 > /proc/sys/net/ipv4/neigh/lan0/proxy_delay",
        );
        veth(&gateway, "wan0", &far, "wan0");
        let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding";
        gateway.exec(&format!(
            "{forward}; ip addr add 198.51.100.254/24 dev wan0; ip addr add 2001:db8:2::fe/64 dev wan0 nodad
             ip addr add fe80::fe/64 dev wan0 nodad
             ip route add 10.64.0.0/16 via 198.51.100.1; ip route add fd00:8f80::/32 via 2001:db8:2::1
             ip route add 10.99.0.0/16 via {LAN}; ip route add fd99::/32 via {LAN6}"
        ));
        far.exec(&format!(
            "{forward}; ip addr add fe80::1/64 dev wan0 nodad
             for a in 1 80; do ip addr add 198.51.100.$a/24 dev wan0; ip addr add 2001:db8:2::$a/64 dev wan0 nodad; done
             ip addr add 10.64.1.80/32 dev lo; ip addr add fd00:8f80:99::80/128 dev lo
             ip route add default via 198.51.100.254; ip route add default via 2001:db8:2::fe"
        ));
        veth(&client, "box0", &container, "eth0");
        sh(&format!(
            "{forward}; ip addr add 10.99.0.1/24 dev box0; ip addr add fd99::1/64 dev box0 nodad; ip addr add fe80::1/64 dev box0 nodad"
        ));
        // Every answer and error that there can be, as often as there is a cause.
        sh("cd /proc/sys/net; echo 0 > ipv4/icmp_ratelimit; echo 0 > ipv6/icmp/ratelimit
            echo 100000 > ipv4/icmp_msgs_per_sec 2>/dev/null || :");
        // As systemd has it: with the first address, the others of its prefix do not go.
        sh("echo 1 > /proc/sys/net/ipv4/conf/all/promote_secondaries");
        // From .2 and ::2 masqueraded, from .3 and ::3 as they are.
        container.exec(
            "for a in 2 3; do ip addr add 10.99.0.$a/24 dev eth0; ip addr add fd99::$a/64 dev eth0 nodad; done
             ip route add default via 10.99.0.1; ip route add default via fd99::1",
        );
        let index = nix::net::if_::if_nametoindex("lan0").unwrap();
        let link = Link { name: "lan0", index, address: LAN.parse().unwrap() };
        let directory = tempfile::tempdir().unwrap();
        let test = test.to_owned();
        let mut bed = Self {
            example,
            neighbour,
            hostile,
            container,
            _gateway: gateway,
            far,
            _lan: lan,
            sniffer,
            bus,
            link,
            test,
            directory,
            router: None,
            daemon: None,
        };
        bed.addresses();
        bed.default_routes();
        bed.masquerade();
        bed.write_files();
        bed.start_router();
        bed
    }

    /// The client's addresses on the LAN, as DHCP and router advertisements would give them.
    pub fn addresses(&self) {
        sh(&format!(
            "ip addr replace {LAN}/24 brd + dev lan0; ip addr replace {LAN6}/64 dev lan0 nodad
             ip addr replace {LINK_LOCAL}/64 dev lan0 nodad"
        ));
    }

    /// The client's way to the far network.
    pub fn default_routes(&self) {
        sh("ip route replace default via 192.0.2.1 dev lan0; ip -6 route replace default via 2001:db8:1::1 dev lan0");
    }

    /// What a container engine would have in the client.
    pub fn masquerade(&self) {
        sh("nft 'table inet engine { chain nat {
                type nat hook postrouting priority srcnat
                ip saddr 10.99.0.2 oifname lan0 masquerade
                ip6 saddr fd99::2 oifname lan0 masquerade
            }
        }'");
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn tunnel_file(&self) -> PathBuf {
        self.path().join(format!("etc/tunnels/{}.toml", self.example.tunnel()))
    }

    fn write_files(&self) {
        let name = self.example.tunnel();
        sh(&format!("chmod 755 {0}; mkdir -p {0}/etc/tunnels {0}/etc/{name} {0}/state {0}/run", self.path().display()));
        let ca = Ca::v3("Test Root");
        ca.write(self.path(), "client.ca");
        let router = ca.sign_v3(Leaf::new("router.example.net").dns("router.example.net"));
        router.write(self.path(), "router");
        let (ca_stem, stem) = match self.example {
            Example::Device => ("etc/enf.cacert", "etc/enf0/enf0"),
            Example::Server => ("etc/overlay/ca", "etc/overlay/server"),
        };
        ca.write(self.path(), ca_stem);
        let (_, key) = ca.sign_v3(Leaf::new(OWN).ip(OWN)).write(self.path(), stem);
        for file in [key, self.path().join("state"), self.path().join("run")] {
            chown(file, Some(daemon_user()), None).unwrap();
        }
        let router = format!(
            "listen = [\"{ROUTER}:443\", \"[{ROUTER6}]:443\"]\ncert_file = \"router.crt.pem\"\nkey_file = \"router.key.pem\"\n\
             client_ca_file = \"client.ca.pem\"\nendpoints_dir = \"endpoints\"\ncontrol_socket = \"control.sock\"\n\
             [tun]\ndev = \"enfr0\"\naddresses = [\"{OVERLAY_ROUTER}/64\"]\n"
        );
        write(&self.path().join("router.toml"), router.as_bytes(), 0o644);
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/examples").join(self.example.file());
        std::fs::copy(example, self.tunnel_file()).unwrap();
        self.configure(|tunnel| {
            tunnel["remote"]["hosts"] = toml::Value::from(vec![format!("{ROUTER}:443"), format!("[{ROUTER6}]:443")]);
            let retry: toml::Table = "first = \"200ms\"\nmax = \"500ms\"\njitter = 0.0".parse().unwrap();
            tunnel.insert("retry".to_owned(), retry.into());
            let remote = tunnel["remote"].as_table_mut().unwrap();
            remote.insert("heartbeat_period".to_owned(), "2s".into());
            remote.insert("heartbeat_timeout".to_owned(), "5s".into());
            remote.extend(remote_line().parse::<toml::Table>().unwrap());
        });
    }

    /// Changes the tunnel's file; the daemon reads it at its start and at a reload.
    pub fn configure(&self, change: impl FnOnce(&mut toml::Table)) {
        let mut tunnel: toml::Table = std::fs::read_to_string(self.tunnel_file()).unwrap().parse().unwrap();
        change(&mut tunnel);
        write(&self.tunnel_file(), tunnel.to_string().as_bytes(), 0o644);
    }

    pub fn start_router(&mut self) {
        let mut command = self.far.command(env!("CARGO_BIN_EXE_enftun-router"));
        command.arg("--config").arg(self.path().join("router.toml")).arg("serve");
        self.router = Some(Running(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()));
        wait_for("the router to answer", || {
            let mut command = self.far.command(env!("CARGO_BIN_EXE_enftun-router"));
            let status = command.arg("--config").arg(self.path().join("router.toml")).args(["status", "--json"]);
            status.output().unwrap().status.success()
        });
    }

    pub fn kill_router(&mut self) {
        self.router = None;
    }

    pub fn start_daemon(&mut self) {
        // Where udev runs, everybody may open the TUN node; here it may be root's alone.
        let node = "mount -t tmpfs tmpfs /dev/net && mknod -m 666 /dev/net/tun c 10 200 && ";
        let node = if daemon_user() == own_uid() { "" } else { node };
        let mut command = self.bus.command("unshare");
        command.args(["-m", "sh", "-c", &format!("{node} exec \"$@\""), "sh", env!("CARGO_BIN_EXE_enftund")]);
        for (option, directory) in [("--config-dir", "etc"), ("--state-dir", "state"), ("--runtime-dir", "run")] {
            command.arg(option).arg(self.path().join(directory));
        }
        command.args(["--user", "65534", "--log-level", "debug"]);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.path().join("log")).unwrap();
        self.daemon = Some(Running(command.stderr(log).spawn().unwrap()));
        wait_for("the daemon on the bus", || self.ctl(&["list"]).status.success());
    }

    pub fn daemon(&mut self) -> &mut Child {
        &mut self.daemon.as_mut().unwrap().0
    }

    pub fn kill_daemon(&mut self) {
        self.daemon().kill().unwrap();
        self.daemon().wait().unwrap();
    }

    pub fn signal(&mut self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.daemon().id().cast_signed());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    pub fn ctl(&self, arguments: &[&str]) -> Output {
        self.bus.command(env!("CARGO_BIN_EXE_enftunctl")).args(arguments).output().unwrap()
    }

    #[track_caller]
    pub fn must(&self, verb: &str, arguments: &[&str]) {
        let output = self.ctl(&[&[verb, self.example.tunnel()], arguments].concat());
        assert!(output.status.success(), "{verb} {arguments:?}: {output:?}\n{}", self.log_end());
    }

    #[track_caller]
    pub fn reload(&self) {
        stdout(self.ctl(&["reload"]));
    }

    /// Both examples connect by themselves when the daemon starts.
    #[track_caller]
    pub fn connected(&self) {
        self.must("wait", &["connected", "--timeout=30s"]);
    }

    /// How often there was a session so far.
    pub fn sessions(&self) -> usize {
        self.log().matches(" is connected to ").count()
    }

    /// Waits for a session after these, and that it carries.
    #[track_caller]
    pub fn session_after(&self, sessions: usize) {
        wait_for("another session", || self.sessions() > sessions);
        self.connected();
        self.tunnel_carries();
    }

    #[track_caller]
    pub fn until(&self, state: &str) {
        self.must("wait", &[state, "--timeout=30s"]);
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path().join("log")).unwrap()
    }

    fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// The tunnel is good for something, not merely closed.
    #[track_caller]
    pub fn tunnel_carries(&self) {
        wait_for("a ping through the tunnel", || {
            let mut ping = std::process::Command::new("ping");
            ping.args(["-c", "1", "-W", "2", "-q", OVERLAY_ROUTER]).stdout(Stdio::null()).stderr(Stdio::null());
            ping.status().unwrap().success()
        });
    }

    /// Each probe leaves while nothing is blocked, and the sniffer sees and recognises each. Then there is something to hold.
    #[track_caller]
    pub fn control(&self, probing: &Probing) {
        assert!(!ip("-6 rule show").contains("unreachable"), "nothing of ours is there yet");
        // So that packets to and from the tunnel's address have an end here.
        sh(&format!("ip addr add {OWN}/128 dev lo nodad; ip addr add {OWN4}/32 dev lo"));
        let begun = SystemTime::now();
        let mut missing: BTreeMap<u16, &str> = probing.names().collect();
        let deadline = begun + Duration::from_secs(30);
        while !missing.is_empty() {
            assert!(SystemTime::now() < deadline, "the sniffer did not see {missing:#?}");
            std::thread::sleep(Duration::from_millis(10));
            for frame in self.sniffer.since(begun) {
                frame.probe.map(|probe| missing.remove(&probe));
            }
        }
        sh(&format!("ip addr del {OWN}/128 dev lo; ip addr del {OWN4}/32 dev lo"));
    }

    /// The control, then the daemon; from here on nothing may leave. What was under way then is let out before.
    #[track_caller]
    pub fn close(&mut self, probing: &Probing) {
        self.control(probing);
        self.start_daemon();
        self.connected();
        self.tunnel_carries();
        assert!(!self.log().contains("panicked"), "{}", self.log());
    }

    /// Nothing that is not allowed leaves while `change` happens, however often.
    #[track_caller]
    pub fn across(&mut self, probing: &Probing, what: &str, short: usize, mut change: impl FnMut(&mut Self)) {
        for round in 1..=times(short) {
            let begun = SystemTime::now();
            change(self);
            self.nothing_left(probing, &format!("{what} (round {round})"), begun);
        }
    }

    #[track_caller]
    pub fn nothing_left(&self, probing: &Probing, what: &str, since: SystemTime) {
        let leaks = self.leaks(since);
        assert!(leaks.is_empty(), "{}: {what}:\n{}\n{}", self.test, probing.tell(&leaks, since), self.log_end());
    }

    /// As [`Self::nothing_left`], of what routing alone holds. Returns what left of all else.
    #[track_caller]
    pub fn nothing_routed_left(&self, probing: &Probing, what: &str, since: SystemTime) -> Vec<Frame> {
        let (excused, leaks): (Vec<_>, Vec<_>) =
            self.leaks(since).into_iter().partition(|frame| match probing.held_by(frame) {
                Some(held) => held == Held::ByFirewall,
                // Taken for "on link", as of IPv4 sockets that are bound to a device.
                None => matches!(frame.kind, Kind::Arp(_)),
            });
        assert!(leaks.is_empty(), "{}: {what}:\n{}\n{}", self.test, probing.tell(&leaks, since), self.log_end());
        excused
    }

    /// What has left since then and is not allowed.
    pub fn leaks(&self, since: SystemTime) -> Vec<Frame> {
        self.sniffer.since(since).into_iter().filter(|frame| !self.allows(frame)).collect()
    }

    /// The allowed set.
    fn allows(&self, frame: &Frame) -> bool {
        if frame.probe.is_some() {
            return false;
        }
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNet>>();
        let on_link = nets(&["192.0.2.0/24", "2001:db8:1::/64", "fe80::/10", "10.99.0.0/24", "fd99::/64"]);
        let overlay = nets(&["fd00:8f80::/32", "10.64.0.0/16"]);
        let within = |nets: &[IpNet], address: IpAddr| nets.iter().any(|net| net.contains(&address));
        if self.example == Example::Server {
            // The rest of the host's traffic is its own business.
            let about = match frame.kind {
                Kind::Arp(address) => Some(IpAddr::from(address)),
                Kind::Icmp6(_, Some(address)) => Some(address.into()),
                _ => None,
            };
            return [frame.source, frame.destination, about]
                .into_iter()
                .flatten()
                .all(|address| !within(&overlay, address));
        }
        let (Some(destination), Some(source)) = (frame.destination, frame.source) else {
            // Who answers to an address that is not on the LAN is nobody's question there.
            return matches!(frame.kind, Kind::Arp(address) if within(&on_link, address.into()) || address == Ipv4Addr::UNSPECIFIED);
        };
        let routers: [IpAddr; 2] = [ROUTER.parse().unwrap(), ROUTER6.parse().unwrap()];
        match frame.kind {
            Kind::Icmp6(133 | 131 | 132 | 143, _) => true,
            Kind::Icmp6(135 | 136, Some(address)) => frame.hops == 255 && within(&on_link, address.into()),
            Kind::Udp => matches!((frame.ports, source.is_ipv4()), (Some((68, 67)), true) | (Some((546, 547)), false)),
            // The tunnel's own.
            Kind::Tcp => routers.contains(&destination) && frame.ports.is_some_and(|(_, to)| to == 443),
            _ => false,
        }
    }

    /// Probes of every sort, firing until the result is dropped.
    pub fn probe(&self) -> Probing {
        Probing::start(self, crate::catalogue::all(self))
    }
}
