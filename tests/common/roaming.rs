//! A host with two links, a middle behind each, and the router behind both: a world in which a path can vanish and another
//! take its place. Daemon, bus and router are the real programs.
//!
//! ```text
//!          a0 --- middle 1 ---
//! client                       far (enftun-router, name server, echo)
//!          b0 --- middle 2 ---
//! ```

use super::bus::{PrivateBus, daemon_user, own_uid, stdout};
use super::certs::{Ca, Identity, Leaf, write};
use super::echo::{Echo, Probe};
use super::middle::{DNS, FAR, Middle, ROUTER, ROUTER6};
use super::name_server::{NameServer, Reply};
use super::netns::{Netns, Running, in_netns_with_tun, ip, sh, try_ip};
use super::wait_for;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The client's address in the overlay, and the router's own on its uplink.
pub const OWN: &str = "fd00:8f80:1::1234";
pub const OVERLAY_ROUTER: &str = "fd00:8f80:1::1";
/// What the router is called.
pub const NAME: &str = "router.example.net";
/// The tunnel, and its device.
pub const TUNNEL: &str = "enf0";

/// What the tunnel's file says, beyond what is the same in every story.
#[derive(Clone, Debug)]
pub struct Settings {
    pub hosts: Vec<String>,
    pub prefixes: &'static str,
    pub heartbeat_period: &'static str,
    pub heartbeat_timeout: &'static str,
    pub connect_timeout: &'static str,
    pub retry: &'static str,
}

impl Default for Settings {
    /// Everything belongs in the tunnel; deadlines and delays are short.
    fn default() -> Self {
        Self {
            hosts: vec![ROUTER.to_owned()],
            prefixes: "\"default\"",
            heartbeat_period: "1s",
            heartbeat_timeout: "500ms",
            connect_timeout: "1s",
            retry: "first = \"50ms\"\nmax = \"1s\"\n",
        }
    }
}

/// One change of state, as `enftunctl monitor --json` tells it.
#[derive(Clone, Debug)]
pub struct Change {
    pub heard: Instant,
    pub new: String,
    pub reason: String,
    pub error: String,
}

/// The client is the test's own namespace.
pub struct World {
    pub far: Netns,
    pub middles: [Middle; 2],
    pub bus: PrivateBus,
    /// Whether the name server answers.
    pub dns: Arc<AtomicBool>,
    _name_server: NameServer,
    pub echo: Echo,
    pub probe: Probe,
    pub directory: tempfile::TempDir,
    ca: Ca,
    /// The router's.
    identity: Identity,
    changes: Arc<Mutex<Vec<Change>>>,
    router: Option<Running>,
    daemon: Option<Running>,
    monitor: Option<Running>,
}

/// Runs a story in a world where both paths work, the first is preferred, the router runs and the tunnel is connected.
pub fn story(test: &str, settings: &Settings, tell: impl FnOnce(&mut World) + Send) {
    world(test, settings, |world| {
        world.start_router();
        world.start_daemon();
        world.connect();
        tell(world);
    });
}

/// As [`story`], with neither router nor daemon running.
pub fn world(test: &str, settings: &Settings, tell: impl FnOnce(&mut World) + Send) {
    in_netns_with_tun(test, || {
        let Some(bus) = PrivateBus::start(test) else { return };
        tell(&mut World::new(settings, bus));
    });
}

impl World {
    fn new(settings: &Settings, bus: PrivateBus) -> Self {
        let (client, far) = (Netns::here(), Netns::new());
        far.exec(
            "cd /proc/sys/net; for f in ipv4/conf/*/rp_filter; do echo 0 > $f; done; echo 1 > ipv6/conf/all/forwarding",
        );
        for (v4, v6) in [(ROUTER, ROUTER6), (DNS, "2001:db8:2::53"), (FAR[0], FAR[1])] {
            far.exec(&format!("ip addr add {v4}/32 dev lo; ip addr add {v6}/128 dev lo nodad"));
        }
        // Which link packets leave by is the routes' business alone.
        sh("cd /proc/sys/net; for f in ipv4/conf/*/rp_filter; do echo 0 > $f; done
            echo 1 > ipv4/conf/all/promote_secondaries");
        let middles = [1, 2].map(|number| Middle::new(&client, &far, number));
        let dns = Arc::new(AtomicBool::new(true));
        let alive = dns.clone();
        let name_server = NameServer::start(&far, DNS, move |question| match alive.load(SeqCst) {
            true if question.name == NAME => Reply::Addresses(&[ROUTER]),
            true => Reply::Code(3),
            false => Reply::Silent,
        });
        let echo = Echo::start(&far);
        let probe = Probe::start(OVERLAY_ROUTER.parse().unwrap());
        let directory = tempfile::tempdir().unwrap();
        let changes = Arc::default();
        let ca = Ca::v3("Test Root");
        let identity = ca.sign_v3(Leaf::new(NAME).dns(NAME));
        let world = Self {
            far,
            middles,
            bus,
            dns,
            _name_server: name_server,
            echo,
            probe,
            directory,
            ca,
            identity,
            changes,
            router: None,
            daemon: None,
            monitor: None,
        };
        world.write_files();
        world.configure(settings);
        for side in [0, 1] {
            world.link_up(side);
        }
        world
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    fn write_files(&self) {
        sh(&format!("chmod 755 {0}; mkdir -p {0}/etc/tunnels {0}/state {0}/run", self.path().display()));
        self.ca.write(self.path(), "etc/ca");
        self.identity.write(self.path(), "router");
        self.certify(OWN);
        for file in [self.path().join("state"), self.path().join("run")] {
            chown(file, Some(daemon_user()), None).unwrap();
        }
        let router = format!(
            "listen = [\"{ROUTER}:443\", \"[{ROUTER6}]:443\"]\ncert_file = \"router.crt.pem\"\nkey_file = \"router.key.pem\"\n\
             client_ca_file = \"etc/ca.pem\"\nendpoints_dir = \"endpoints\"\ncontrol_socket = \"control.sock\"\n\
             [tun]\ndev = \"enfr0\"\naddresses = [\"{OVERLAY_ROUTER}/64\"]\n"
        );
        write(&self.path().join("router.toml"), router.as_bytes(), 0o644);
        write(&self.path().join("resolv.conf"), format!("nameserver {DNS}\n").as_bytes(), 0o644);
        write(&self.path().join("hosts"), b"127.0.0.1 localhost\n", 0o644);
    }

    /// Gives the client a certificate for this address, as a careful program does: the files are written beside those before, and
    /// renamed.
    pub fn certify(&self, address: &'static str) {
        let (cert, key) = self.ca.sign_v3(Leaf::new(address).ip(address)).write(self.path(), "etc/new");
        chown(&key, Some(daemon_user()), None).unwrap();
        std::fs::rename(cert, self.path().join("etc/client.crt.pem")).unwrap();
        std::fs::rename(key, self.path().join("etc/client.key.pem")).unwrap();
    }

    /// Writes the tunnel's file; the daemon reads it at its start and at a reload.
    pub fn configure(&self, settings: &Settings) {
        let hosts: Vec<String> = settings.hosts.iter().map(|host| format!("\"{host}\"")).collect();
        let text = format!(
            "kind = \"enf\"\n[remote]\nhosts = [{}]\nca_cert_file = \"ca.pem\"\nname = \"{NAME}\"\nheartbeat_period = \"{}\"\n\
             heartbeat_timeout = \"{}\"\nconnect_timeout = \"{}\"\n{}[route]\nprefixes = [{}]\nlockdown = \"session\"\n[identity]\n\
             cert_file = \"client.crt.pem\"\nkey_file = \"client.key.pem\"\n[retry]\n{}",
            hosts.join(", "),
            settings.heartbeat_period,
            settings.heartbeat_timeout,
            settings.connect_timeout,
            super::wire::remote_line(),
            settings.prefixes,
            settings.retry
        );
        write(&self.path().join(format!("etc/tunnels/{TUNNEL}.toml")), text.as_bytes(), 0o644);
    }

    /// What a far end needs to be taken for the router.
    pub fn router_config(&self) -> Arc<rustls::ServerConfig> {
        super::fake_router::server(&self.identity, &self.identity, rustls::ALL_VERSIONS)
    }

    pub fn start_router(&mut self) {
        let mut command = self.far.command(env!("CARGO_BIN_EXE_enftun-router"));
        command.arg("--config").arg(self.path().join("router.toml")).arg("serve");
        let log = self.append("router.log");
        self.router = Some(Running(command.stdin(Stdio::null()).stderr(log).spawn().unwrap()));
        wait_for("the router to answer", || {
            let mut command = self.far.command(env!("CARGO_BIN_EXE_enftun-router"));
            let status = command.arg("--config").arg(self.path().join("router.toml")).args(["status", "--json"]);
            status.output().unwrap().status.success()
        });
    }

    fn append(&self, file: &str) -> std::fs::File {
        std::fs::OpenOptions::new().create(true).append(true).open(self.path().join(file)).unwrap()
    }

    /// As by a crash.
    pub fn kill_router(&mut self) {
        self.router = None;
    }

    pub fn router_runs(&self) -> bool {
        self.router.is_some()
    }

    #[track_caller]
    pub fn signal_router(&self, signal: Signal) {
        // nsenter has become the router.
        signal_to(self.router.as_ref().unwrap(), signal);
    }

    pub fn start_daemon(&mut self) {
        let path = self.path().display();
        // Where udev runs, everybody may open the TUN node; here it may be root's alone.
        let node = "mount -t tmpfs tmpfs /dev/net && mknod -m 666 /dev/net/tun c 10 200 && ";
        let node = if daemon_user() == own_uid() { "" } else { node };
        let files =
            format!("mount --bind {path}/resolv.conf /etc/resolv.conf && mount --bind {path}/hosts /etc/hosts && ");
        let mut command = self.bus.command("unshare");
        command.args(["-m", "sh", "-c", &format!("{files}{node} exec \"$@\""), "sh", env!("CARGO_BIN_EXE_enftund")]);
        for (option, directory) in [("--config-dir", "etc"), ("--state-dir", "state"), ("--runtime-dir", "run")] {
            command.arg(option).arg(self.path().join(directory));
        }
        command.args(["--user", "65534", "--log-level", "debug"]);
        self.daemon = Some(Running(command.stderr(self.append("log")).spawn().unwrap()));
        wait_for("the daemon on the bus", || self.ctl(&["list"]).status.success());
        self.follow();
    }

    /// Hears every change of state from here on.
    fn follow(&mut self) {
        let mut command = self.bus.command(env!("CARGO_BIN_EXE_enftunctl"));
        command.args(["monitor", "--json"]);
        let mut monitor = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(monitor.stdout.take().unwrap()).lines();
        // The first says that it listens.
        lines.next().unwrap().unwrap();
        let changes = self.changes.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let line: serde_json::Value = serde_json::from_str(&line).unwrap();
                let word = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
                if line["event"] == "state-changed" {
                    let (new, reason, error) = (word("new"), word("reason"), word("error"));
                    changes.lock().unwrap().push(Change { heard: Instant::now(), new, reason, error });
                }
            }
        });
        self.monitor = Some(Running(monitor));
    }

    /// As by `kill -9`.
    pub fn kill_daemon(&mut self) {
        (self.daemon, self.monitor) = (None, None);
    }

    #[track_caller]
    pub fn signal_daemon(&self, signal: Signal) {
        signal_to(self.daemon.as_ref().unwrap(), signal);
    }

    /// The daemon's process.
    pub fn daemon(&self) -> u32 {
        self.daemon.as_ref().unwrap().0.id()
    }

    pub fn ctl(&self, arguments: &[&str]) -> Output {
        self.bus.command(env!("CARGO_BIN_EXE_enftunctl")).args(arguments).output().unwrap()
    }

    #[track_caller]
    pub fn connect(&self) {
        let output = self.ctl(&["connect", TUNNEL, "--wait=30s"]);
        assert!(output.status.success(), "{output:?}\n{}", self.log_end());
        self.carries();
    }

    #[track_caller]
    pub fn status(&self) -> serde_json::Value {
        let text = stdout(self.ctl(&["status", TUNNEL, "--json"]));
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["tunnels"][0].clone()
    }

    /// Every change of state so far.
    pub fn changes(&self) -> Vec<Change> {
        self.changes.lock().unwrap().clone()
    }

    /// The state that was last told.
    pub fn says(&self) -> String {
        self.changes.lock().unwrap().last().map_or_else(String::new, |change| change.new.clone())
    }

    /// How often it was connected so far.
    pub fn sessions(&self) -> usize {
        self.log().matches(" is connected to ").count()
    }

    /// Waits for a change of state after the first `seen` that fits, and returns it.
    #[track_caller]
    pub fn until(&self, seen: usize, what: &str, fits: impl Fn(&Change) -> bool) -> Change {
        let mut found = None;
        let deadline = Instant::now() + Duration::from_secs(30);
        while found.is_none() {
            found = self.changes().into_iter().skip(seen).find(|change| fits(change));
            assert!(
                Instant::now() < deadline,
                "waited in vain for {what}; saw {:#?}\n{}",
                &self.changes()[seen..],
                self.log_end()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        found.unwrap()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path().join("log")).unwrap()
    }

    pub fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// A packet that is sent from now on comes back through the tunnel. Returns when.
    #[track_caller]
    pub fn carries(&self) -> Instant {
        let now = Instant::now();
        wait_for_or("a packet through the tunnel", || self.log_end(), || self.probe.answered_after(now))
    }

    /// Waits until it is connected and carries.
    #[track_caller]
    pub fn back(&self) {
        wait_for_or(
            "the tunnel to be connected",
            || self.log_end(),
            || (self.status()["state"] == "connected").then_some(()),
        );
        self.carries();
    }

    /// The client's own ends of the tunnel's connections, as far as the kernel knows them.
    pub fn flows(&self) -> Vec<SocketAddr> {
        let connections = sh("ss -Htn state established '( dport = 443 )'");
        let local = |line: &str| line.split_whitespace().nth(2).and_then(|local| local.parse().ok());
        connections.lines().map(|line| local(line).unwrap_or_else(|| panic!("not understood: {line:?}"))).collect()
    }

    /// All of the tunnel's connections pass no more, by whichever middle. New ones do.
    pub fn blackhole_flows(&self) {
        for flow in self.flows() {
            self.middles.iter().for_each(|middle| middle.blackholes(flow.port()));
        }
    }

    /// The same, once there is one. Those that pass no more.
    #[track_caller]
    pub fn wedge(&self) -> Vec<SocketAddr> {
        let mut flows = Vec::new();
        wait_for("a connection to wedge", || {
            flows = self.flows();
            !flows.is_empty()
        });
        for flow in &flows {
            self.middles.iter().for_each(|middle| middle.blackholes(flow.port()));
        }
        flows
    }

    /// The link is up, with its addresses; its default routes are behind those of the links before.
    pub fn link_up(&self, side: usize) {
        self.addresses(side, 10);
        self.route(side, 100 * (side + 1));
    }

    /// As DHCP and router advertisements give them.
    pub fn addresses(&self, side: usize, host: u8) {
        let Middle { dev, lan, .. } = self.middles[side];
        sh(&format!(
            "ip link set {dev} up; ip addr replace {lan}.{host}/24 brd + dev {dev}
             ip addr replace 2001:db8:1{0}::{host}/64 dev {dev} nodad; ip addr replace fe80::{host}/64 dev {dev} nodad",
            side + 1
        ));
    }

    /// Takes one of the link's addresses away, as when a lease ends.
    pub fn no_address(&self, side: usize, host: u8) {
        let Middle { dev, lan, .. } = self.middles[side];
        drop(try_ip(&format!("addr del {lan}.{host}/24 dev {dev}")));
        drop(try_ip(&format!("addr del 2001:db8:1{}::{host}/64 dev {dev}", side + 1)));
        drop(try_ip(&format!("addr del fe80::{host}/64 dev {dev}")));
    }

    /// The link's default routes, with this metric alone.
    pub fn route(&self, side: usize, metric: usize) {
        let Middle { dev, lan, .. } = self.middles[side];
        // The new one comes before the old one goes.
        sh(&format!(
            "for f in -4 -6; do
                 case $f in -4) via={lan}.1 ;; -6) via=2001:db8:1{0}::1 ;; esac
                 ip $f route replace default via $via dev {dev} metric {metric}
                 for old in $(ip $f route show default dev {dev} | sed -n 's/.* metric \\([0-9]*\\).*/\\1/p'); do
                     [ $old = {metric} ] || ip $f route del default via $via dev {dev} metric $old
                 done
             done",
            side + 1
        ));
    }

    /// Packets without a reason to do otherwise take this link from now on; the other one stays up.
    pub fn prefer(&self, side: usize) {
        self.route(side, 50);
        self.route(1 - side, 200);
    }

    /// The first link's address moves to the second, and the way back with it. The gateway there knows no old flow.
    pub fn swap_address(&self) {
        let [old, new] = &self.middles;
        new.netns.exec(&format!(
            "ip addr add {0}.1/24 dev lan0; nft add element inet middle guests '{{ {0}.10 }}'",
            old.lan
        ));
        self.far.exec(&format!("ip route replace {}.0/24 via 198.18.2.1", old.lan));
        sh(&format!(
            "ip addr flush dev {}; ip addr flush dev {}; ip addr add {lan}.10/24 brd + dev {1}; ip route add default via {lan}.1 dev {1}",
            old.dev,
            new.dev,
            lan = old.lan
        ));
    }

    /// Undoes [`Self::swap_address`].
    pub fn swap_back(&self) {
        let [old, new] = &self.middles;
        new.netns.exec(&format!(
            "ip addr del {0}.1/24 dev lan0; nft delete element inet middle guests '{{ {0}.10 }}'",
            old.lan
        ));
        self.far.exec(&format!("ip route replace {}.0/24 via 198.18.1.1", old.lan));
        sh(&format!("ip addr flush dev {}", new.dev));
        [0, 1].into_iter().for_each(|side| self.link_up(side));
    }

    pub fn link_down(&self, side: usize) {
        ip(&format!("link set {} down", self.middles[side].dev));
    }

    /// Everything between client and router is good again.
    pub fn mend(&mut self) {
        for side in [0, 1] {
            self.middles[side].heals();
            self.link_up(side);
        }
        self.dns.store(true, SeqCst);
        match &self.router {
            Some(_) => self.signal_router(Signal::SIGCONT),
            None => self.start_router(),
        }
    }

    /// What the client sent beside the tunnel so far. Only what comes later is told of in detail.
    pub fn strays_so_far(&self) -> u64 {
        self.middles.iter().for_each(Middle::forget_strays);
        self.strays()
    }

    fn strays(&self) -> u64 {
        self.middles.iter().map(Middle::strays).sum()
    }

    /// Nothing left beside the tunnel since there were so many.
    #[track_caller]
    pub fn no_strays_since(&self, strays: u64) {
        let kinds = || self.middles.iter().map(Middle::kinds_of_strays).collect::<String>();
        assert_eq!(self.strays(), strays, "something left beside the tunnel\n{}\n{}", self.log_end(), kinds());
    }

    /// What is ours or might be in the host's kernel, in an order of its own.
    pub fn rules(&self) -> String {
        let mut lines: Vec<String> = Vec::new();
        for what in ["-4 rule show", "-6 rule show", "-4 route show table all", "-6 route show table all"] {
            lines.extend(ip(what).lines().map(|line| format!("ip {what}: {}", line.trim_end())));
        }
        lines.sort();
        format!("{}\n{}", lines.join("\n"), sh("nft list ruleset"))
    }
}

/// Waits for something; says more when it does not come.
#[track_caller]
fn wait_for_or<T>(what: &str, more: impl Fn() -> String, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited 30 s in vain for {what}\n{}", more());
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn signal_to(running: &Running, signal: Signal) {
    nix::sys::signal::kill(Pid::from_raw(running.0.id().cast_signed()), signal).unwrap();
}

/// Sends packets that belong in the tunnel, by every way and bound to every link, until it is dropped.
pub struct Restless(Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl World {
    /// Starts it on an open host, which is the control: the middles see packets of every sort. Then none waits for a
    /// neighbour's address any more, to leave when the host is closed.
    #[track_caller]
    pub fn restless(&self) -> Restless {
        let restless = Restless::start();
        for (middle, sockets) in self.middles.iter().zip([2, 1]) {
            wait_for("packets of every sort beside the tunnel", || {
                let kinds = middle.kinds_of_strays();
                FAR.iter().all(|far| kinds.matches(far).count() >= sockets)
            });
        }
        restless
    }
}

impl Restless {
    fn start() -> Self {
        let here = Netns::here();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let sockets = here.run(|| {
            let mut sockets = Vec::new();
            for far in FAR {
                let far: IpAddr = far.parse().unwrap();
                let any = if far.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                for device in [None, Some("a0"), Some("b0")] {
                    let socket = std::net::UdpSocket::bind(any).unwrap();
                    socket2::SockRef::from(&socket).bind_device(device.map(str::as_bytes)).unwrap();
                    sockets.push((socket, SocketAddr::new(far, 9009)));
                }
            }
            sockets
        });
        let thread = std::thread::spawn(move || {
            while !stopped.load(SeqCst) {
                for (socket, far) in &sockets {
                    let _ = socket.send_to(b"restless", far);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self(stop, Some(thread))
    }
}

impl Drop for Restless {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
        let _ = self.1.take().unwrap().join();
    }
}
