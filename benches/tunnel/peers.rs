//! The cases: how each tunnel is set up, started and ended.

use crate::bed::{Bed, FAR, INNER_FAR, INNER_NEAR, MTU, Outcome, command, start, until};
use crate::common::bus::{PrivateBus, daemon_user, own_uid};
use crate::common::certs::{Ca, Leaf, write};
use crate::common::netns::Running;
use std::os::unix::fs::chown;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// What is measured beside each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The cable alone.
    Veth,
    Openvpn,
    WireguardGo,
    V1,
    V2,
}

impl Kind {
    pub const ALL: [Self; 5] = [Self::Veth, Self::Openvpn, Self::WireguardGo, Self::V1, Self::V2];

    /// In the JSON file, and on the command line.
    pub fn key(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::Openvpn => "openvpn",
            Self::WireguardGo => "wireguard_go",
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::Openvpn => "openvpn",
            Self::WireguardGo => "wireguard-go",
            Self::V1 => "ours, v1",
            Self::V2 => "ours, v2",
        }
    }
}

/// What ours are called on their last mile.
const NAME: &str = "router.example.net";
/// So long a tunnel may take until it carries, the first time or again. wireguard-go takes up to 15 s to notice that a peer
/// has forgotten it.
const UP: Duration = Duration::from_secs(40);

/// One case, set up: two hosts, and a tunnel between them or none.
pub struct Peer {
    pub kind: Kind,
    pub bed: Bed,
    bus: Option<PrivateBus>,
    near: Option<Running>,
    far: Option<Running>,
    /// wireguard-go's public keys, near and far.
    keys: Option<[String; 2]>,
    /// Its devices: their sockets are all in one directory.
    devices: [String; 2],
}

impl Peer {
    /// The hosts and the files; nothing runs yet. With a bottleneck, that is on the way in both directions.
    pub fn new(kind: Kind, bottleneck: Option<&str>) -> Outcome<Self> {
        let mut peer = Self {
            kind,
            bed: Bed::new(bottleneck),
            bus: None,
            near: None,
            far: None,
            keys: None,
            devices: Default::default(),
        };
        match kind {
            Kind::Veth => peer.bed.carries_bare(),
            Kind::Openvpn => peer.write_openvpn(),
            Kind::WireguardGo => peer.write_wireguard()?,
            Kind::V1 | Kind::V2 => peer.write_ours()?,
        }
        Ok(peer)
    }

    /// Starts both ends. The time from the start of the near one's program to the first packet that came back.
    pub fn connect(&mut self) -> Outcome<Duration> {
        self.start_far()?;
        let begun = self.start_near()?;
        let time = self.bed.carries(UP).map_err(|failure| self.explain(failure))? - begun;
        if matches!(self.kind, Kind::V1 | Kind::V2) {
            self.speaks()?;
        }
        Ok(time)
    }

    /// The far end's program is killed and started again; the time until a packet came back.
    pub fn reconnect(&mut self) -> Outcome<Duration> {
        let begun = Instant::now();
        self.far = None;
        self.start_far()?;
        Ok(self.bed.carries(UP).map_err(|failure| self.explain(failure))? - begun)
    }

    /// The processes of the tunnel: the near end's, the far end's. None for the cable.
    pub fn processes(&self) -> Option<[u32; 2]> {
        Some([self.near.as_ref()?.0.id(), self.far.as_ref()?.0.id()])
    }

    /// A failure, with what the programs said last.
    fn explain(&self, failure: String) -> String {
        let mut text = format!("{}: {failure}", self.kind.name());
        for file in ["near.log", "far.log"] {
            let log = std::fs::read_to_string(self.bed.path().join(file)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            for line in &lines[lines.len().saturating_sub(6)..] {
                text += &format!("\n    {file}: {line}");
            }
        }
        text
    }

    fn start_far(&mut self) -> Outcome<()> {
        let log = self.bed.path().join("far.log");
        match self.kind {
            Kind::Veth => {}
            Kind::Openvpn => self.far = Some(start(self.openvpn("far"), &log)?),
            Kind::WireguardGo => {
                self.far = Some(start(self.wireguard(1), &log)?);
                self.configure_wireguard(1)?;
            }
            Kind::V1 | Kind::V2 => {
                let arguments = |verb: &'static [&'static str]| {
                    let mut command = self.bed.far.command(env!("CARGO_BIN_EXE_enftun-router"));
                    command.arg("--config").arg(self.bed.path().join("router.toml")).args(verb);
                    command
                };
                let router = start(arguments(&["serve"]), &log)?;
                let answers = || arguments(&["status", "--json"]).output().is_ok_and(|output| output.status.success());
                until("the router to answer", Duration::from_secs(10), answers)?;
                self.far = Some(router);
            }
        }
        Ok(())
    }

    fn start_near(&mut self) -> Outcome<Instant> {
        let log = self.bed.path().join("near.log");
        let mut begun = Instant::now();
        match self.kind {
            Kind::Veth => {}
            Kind::Openvpn => self.near = Some(start(self.openvpn("near"), &log)?),
            Kind::WireguardGo => {
                self.near = Some(start(self.wireguard(0), &log)?);
                self.configure_wireguard(0)?;
            }
            Kind::V1 | Kind::V2 => {
                self.start_daemon()?;
                begun = Instant::now();
                self.ctl(&["connect", TUNNEL, "--wait=20s"])?;
            }
        }
        Ok(begun)
    }
}

// OpenVPN over TCP, self-signed certificates, each end knows the other's by its fingerprint.
impl Peer {
    fn write_openvpn(&self) {
        let path = self.bed.path();
        let ends = ["near", "far"].map(|end| crate::common::certs::Identity::self_signed_v3(Leaf::new(end).dns(end)));
        for (end, identity) in ["near", "far"].iter().zip(&ends) {
            identity.write(path, end);
        }
        let fingerprint = |end: usize| {
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &ends[end].cert_der);
            digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
        };
        let common = format!(
            "dev tun\ntun-mtu {MTU}\ndata-ciphers AES-256-GCM\ndisable-dco\nverb 1\npersist-key\npersist-tun\nkeepalive 10 60\n"
        );
        let address = format!("ifconfig-ipv6 {INNER_NEAR}/64 {INNER_FAR}");
        let near = format!(
            "{common}client\nproto tcp4-client\nremote {FAR} 1194\nnobind\n{address}\ncert near.crt.pem\nkey near.key.pem\n\
             peer-fingerprint {}\n",
            fingerprint(1)
        );
        let far = format!(
            "{common}proto tcp4-server\nmode server\ntls-server\ntopology subnet\ndh none\nport 1194\n\
             ifconfig-ipv6 {INNER_FAR}/64 {INNER_NEAR}\nifconfig-ipv6-pool {INNER_NEAR}/64\ncert far.crt.pem\nkey far.key.pem\n\
             peer-fingerprint {}\n",
            fingerprint(0)
        );
        write(&path.join("near.ovpn"), near.as_bytes(), 0o644);
        write(&path.join("far.ovpn"), far.as_bytes(), 0o644);
    }

    fn openvpn(&self, end: &str) -> Command {
        let host = if end == "near" { &self.bed.near } else { &self.bed.far };
        let mut command = host.command("openvpn");
        command.arg("--cd").arg(self.bed.path()).args(["--config", &format!("{end}.ovpn")]);
        command
    }
}

// wireguard-go.
impl Peer {
    fn write_wireguard(&mut self) -> Outcome<()> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, SeqCst);
        self.devices = [format!("near{number}"), format!("far{number}")];
        let mut keys = Vec::new();
        for end in ["near", "far"] {
            let key = command(&self.bed.near, Duration::from_secs(5), "wg", &["genkey"])?;
            let file = self.bed.path().join(format!("{end}.key"));
            write(&file, key.as_bytes(), 0o600);
            let pipe = format!("wg pubkey < {}", file.display());
            keys.push(command(&self.bed.near, Duration::from_secs(5), "sh", &["-c", &pipe])?.trim().to_owned());
        }
        self.keys = keys.try_into().ok();
        Ok(())
    }

    fn wireguard(&self, end: usize) -> Command {
        let (host, device) = ([&self.bed.near, &self.bed.far][end], &self.devices[end]);
        // Where one that was killed left it.
        let _ = std::fs::remove_file(format!("/var/run/wireguard/{device}.sock"));
        let mut command = host.command("wireguard-go");
        command.args(["-f", device.as_str()]).env("LOG_LEVEL", "error");
        command
    }

    fn configure_wireguard(&self, end: usize) -> Outcome<()> {
        let host = [&self.bed.near, &self.bed.far][end];
        let (device, name, address) = (&self.devices[end], ["near", "far"][end], [INNER_NEAR, INNER_FAR][end]);
        let socket = std::path::PathBuf::from(format!("/var/run/wireguard/{device}.sock"));
        until("wireguard-go to answer", Duration::from_secs(10), || {
            std::os::unix::net::UnixStream::connect(&socket).is_ok()
        })?;
        let keys = self.keys.as_ref().ok_or("no keys")?;
        let file = self.bed.path().join(format!("{name}.key"));
        let remote = if end == 0 { format!("endpoint {FAR}:51820") } else { String::new() };
        let port = if end == 0 { "" } else { "listen-port 51820" };
        let text = format!(
            "wg set {device} {port} private-key {} peer {} allowed-ips ::/0 {remote}
             ip addr add {address}/64 dev {device} nodad; ip link set {device} mtu {MTU} up",
            file.display(),
            keys[1 - end]
        );
        command(host, Duration::from_secs(5), "sh", &["-ec", &text]).map(drop)
    }
}

const TUNNEL: &str = "enf0";

// Ours: the daemon with a bus of its own, and the router with an uplink.
impl Peer {
    fn write_ours(&mut self) -> Outcome<()> {
        let path = self.bed.path();
        self.bus = Some(PrivateBus::start(self.kind.name()).ok_or("no bus")?);
        command(
            &self.bed.near,
            Duration::from_secs(5),
            "sh",
            &[
                "-ec",
                &format!("chmod 755 {0}; mkdir -p {0}/etc/tunnels {0}/state {0}/run {0}/endpoints", path.display()),
            ],
        )?;
        let ca = Ca::v3("Benchmark");
        ca.write(path, "etc/ca");
        ca.sign_v3(Leaf::new(NAME).dns(NAME)).write(path, "router");
        let (_, key) = ca.sign_v3(Leaf::new(INNER_NEAR).ip(INNER_NEAR)).write(path, "etc/client");
        for file in [key, path.join("state"), path.join("run")] {
            chown(file, Some(daemon_user()), None).map_err(|error| error.to_string())?;
        }
        let router = format!(
            "listen = [\"{FAR}:443\"]\ncert_file = \"router.crt.pem\"\nkey_file = \"router.key.pem\"\n\
             client_ca_file = \"etc/ca.pem\"\nendpoints_dir = \"endpoints\"\ncontrol_socket = \"control.sock\"\n\
             [tun]\ndev = \"enfr0\"\nmtu = {MTU}\naddresses = [\"{INNER_FAR}/64\"]\n"
        );
        write(&path.join("router.toml"), router.as_bytes(), 0o644);
        let wire = if self.kind == Kind::V1 { "wire = \"v1\"\n" } else { "" };
        let tunnel = format!(
            "kind = \"enf\"\n[tun]\nmtu = {MTU}\n[remote]\nhosts = [\"{FAR}\"]\nca_cert_file = \"ca.pem\"\nname = \"{NAME}\"\n{wire}\
             [route]\nprefixes = [\"fd00:8f80::/32\"]\nlockdown = \"session\"\n[identity]\ncert_file = \"client.crt.pem\"\n\
             key_file = \"client.key.pem\"\n"
        );
        write(&path.join(format!("etc/tunnels/{TUNNEL}.toml")), tunnel.as_bytes(), 0o644);
        Ok(())
    }

    fn start_daemon(&mut self) -> Outcome<()> {
        let bus = self.bus.as_ref().ok_or("no bus")?;
        let path = self.bed.path();
        // Where udev runs, everybody may open the TUN node; here it may be root's alone.
        let node = "mount -t tmpfs tmpfs /dev/net && mknod -m 666 /dev/net/tun c 10 200 && ";
        let node = if daemon_user() == own_uid() { "" } else { node };
        let mut command = bus.command("nsenter");
        command.arg(format!("--net={}", self.bed.near.path().display()));
        command.args(["--", "unshare", "-m", "sh", "-c", &format!("{node} exec \"$@\""), "sh"]);
        command.arg(env!("CARGO_BIN_EXE_enftund"));
        for (option, directory) in [("--config-dir", "etc"), ("--state-dir", "state"), ("--runtime-dir", "run")] {
            command.arg(option).arg(path.join(directory));
        }
        command.args(["--user", "65534"]);
        self.near = Some(start(command, &path.join("near.log"))?);
        until("the daemon on the bus", Duration::from_secs(10), || self.ctl(&["list"]).is_ok())
            .map_err(|failure| self.explain(failure))
    }

    /// A case that speaks another wire than it says would be worse than one that fails.
    fn speaks(&self) -> Outcome<()> {
        let status: serde_json::Value =
            serde_json::from_str(&self.ctl(&["status", TUNNEL, "--json"])?).map_err(|error| error.to_string())?;
        match &status["tunnels"][0]["tls"]["wire"] {
            wire if wire == self.kind.key() => Ok(()),
            wire => Err(format!("it speaks {wire}")),
        }
    }

    fn ctl(&self, arguments: &[&str]) -> Outcome<String> {
        let bus = self.bus.as_ref().ok_or("no bus")?;
        let mut command = bus.command("timeout");
        command.args(["-k", "1", "30", env!("CARGO_BIN_EXE_enftunctl")]).args(arguments);
        let output = command.output().map_err(|error| error.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(self.explain(format!("enftunctl {}: {}", arguments.join(" "), text(&output.stderr)))),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The near end first: nothing is tried again.
        self.near = None;
        self.far = None;
    }
}
