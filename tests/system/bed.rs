//! A machine, the cable it is plugged into with a sniffer at the other end, and a router there.
//!
//! ```text
//! the machine (systemd)                                                   the far host (a network namespace)
//! lan0  192.0.2.10, 2001:db8:1::10  ======== wan0  192.0.2.1, 2001:db8:1::1: enftun-router; the sniffer
//! enf0  fd00:8f80:1::1234                    enfr0 fd00:8f80:1::1
//!                                            lo    198.51.100.80, 2001:db8:2::80: the internet
//! ```

use crate::common::certs::{Ca, Leaf, write};
use crate::common::netns::{Netns, Running, veth};
use crate::common::wait_for;
use crate::machine::Machine;
use crate::sniffer::{Frame, Kind, Sniffer};
use std::net::IpAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::SystemTime;

/// The machine's address in the overlay, and the router's own on its uplink.
pub const OWN: &str = "fd00:8f80:1::1234";
pub const OVERLAY_ROUTER: &str = "fd00:8f80:1::1";
/// The router's last mile.
pub const ROUTER: &str = "192.0.2.1";
pub const ROUTER6: &str = "2001:db8:1::1";
/// Hosts that an open machine reaches by the LAN.
pub const FAR: [&str; 2] = ["198.51.100.80", "2001:db8:2::80"];

/// The world of one story.
pub struct Bed {
    pub machine: Machine,
    pub far: Netns,
    pub sniffer: Sniffer,
    directory: tempfile::TempDir,
    router: Option<Running>,
    /// The machine's network while it is switched off.
    unplugged: Option<Netns>,
}

/// Runs a story in a world where the machine is up, all that is started at boot is there, and the router runs. Nothing of
/// ours is installed.
pub fn story(test: &str, tell: impl FnOnce(&mut Bed)) {
    switched_off(test, |bed| {
        bed.boot();
        tell(bed);
    });
}

/// As [`story`], before the machine has booted for the first time.
pub fn switched_off(test: &str, tell: impl FnOnce(&mut Bed)) {
    let Some(machine) = Machine::new(test) else { return };
    let (far, unplugged) = (Netns::new(), Netns::new());
    far.exec(&format!(
        "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
         ip addr add {}/32 dev lo; ip addr add {}/128 dev lo",
        FAR[0], FAR[1]
    ));
    let sniffer = plug(&unplugged, &far);
    let directory = tempfile::tempdir().unwrap();
    let mut bed = Bed { machine, far, sniffer, directory, router: None, unplugged: Some(unplugged) };
    write_credentials(bed.directory.path());
    bed.start_router();
    tell(&mut bed);
}

/// A new cable from `lan0` of the machine's network, which is down and without an address, to the far host.
fn plug(network: &Netns, far: &Netns) -> Sniffer {
    veth(network, "lan0", far, "wan0");
    network.exec("ip link set lan0 address 02:00:00:00:00:10 down");
    far.exec(&format!(
        "ip addr add {ROUTER}/24 dev wan0; ip addr add {ROUTER6}/64 dev wan0 nodad; ip addr add fe80::1/64 dev wan0 nodad"
    ));
    Sniffer::start(far, "wan0")
}

/// A CA, what the router and the tunnel `enf0` need of it, and the router's configuration, which is for any network.
pub fn write_credentials(path: &Path) {
    let ca = Ca::v3("Test Root");
    ca.write(path, "ca");
    ca.sign_v3(Leaf::new("router.example.net").dns("router.example.net")).write(path, "router");
    ca.sign_v3(Leaf::new(OWN).ip(OWN)).write(path, "enf0");
    let router = format!(
        "listen = [\"{ROUTER}:443\", \"[{ROUTER6}]:443\"]\ncert_file = \"router.crt.pem\"\nkey_file = \"router.key.pem\"\n\
         client_ca_file = \"ca.pem\"\nendpoints_dir = \"endpoints\"\ncontrol_socket = \"control.sock\"\n\
         [tun]\ndev = \"enfr0\"\naddresses = [\"{OVERLAY_ROUTER}/64\"]\n"
    );
    write(&path.join("router.toml"), router.as_bytes(), 0o644);
}

impl Bed {
    /// Boots with `lan0` up and configured from the first moment on, and waits until all is there.
    #[track_caller]
    pub fn boot(&mut self) {
        let network = self.unplugged.take().expect("the machine is switched off");
        network.exec(&format!(
            "ip addr add 192.0.2.10/24 brd + dev lan0; ip addr add 2001:db8:1::10/64 dev lan0 nodad
             ip addr add fe80::10/64 dev lan0 nodad; ip link set lan0 up
             ip route add default via {ROUTER}; ip -6 route add default via {ROUTER6}"
        ));
        self.machine.boot_wholly(network);
    }

    /// Boots with `lan0` down and without an address, and waits for the bus only: the network is what the machine makes it.
    #[track_caller]
    pub fn boot_unconfigured(&mut self) {
        let network = self.unplugged.take().expect("the machine is switched off");
        self.machine.boot(network);
    }

    /// Switches the machine off as a person would. What was in its kernel is gone, and its cable is new.
    #[track_caller]
    pub fn power_off(&mut self) {
        self.machine.power_off();
        self.plug_in_anew();
    }

    /// The power fails.
    #[track_caller]
    pub fn power_fails(&mut self) {
        self.machine.pull_the_plug();
        self.plug_in_anew();
    }

    /// The machine's network while it is switched off.
    pub fn unplugged(&self) -> &Netns {
        self.unplugged.as_ref().expect("the machine is switched off")
    }

    fn plug_in_anew(&mut self) {
        wait_for("the old cable to be gone", || !self.far.output("ip link show wan0").status.success());
        let network = Netns::new();
        self.sniffer = plug(&network, &self.far);
        self.unplugged = Some(network);
    }

    /// A file of [`write_credentials`]: `ca.pem`, `enf0.crt.pem`, `enf0.key.pem`, those of the router.
    pub fn credential(&self, file: &str) -> String {
        std::fs::read_to_string(self.directory.path().join(file)).unwrap()
    }

    pub fn start_router(&mut self) {
        let file = self.directory.path().join("router.toml");
        // It ends when the test is killed, too.
        let mut command = self.far.command("setpriv");
        command.args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_enftun-router"), "serve", "--config"]).arg(&file);
        self.router = Some(Running(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()));
        wait_for("the router to answer", || {
            let mut command = self.far.command(env!("CARGO_BIN_EXE_enftun-router"));
            command.arg("--config").arg(&file).args(["status", "--json"]).output().unwrap().status.success()
        });
    }

    /// Lets the router enrol this user, for once if `once`. Nobody else's certificates are taken from now on.
    pub fn enrols(&mut self, user: &str, password: &str, once: bool) {
        let file = self.directory.path().join("router.toml");
        let text = std::fs::read_to_string(&file).unwrap().replace("client_ca_file = \"ca.pem\"\n", "");
        let listen = "listen = \"[::]:8443\"\nnetwork = \"fd00:8f80:1::/64\"\nusers_file = \"users\"\n";
        write(&file, format!("{text}[enrol]\n{listen}").as_bytes(), 0o644);
        write(&self.directory.path().join("password"), format!("{password}\n").as_bytes(), 0o600);
        let password = self.directory.path().join("password");
        let mut arguments = vec!["users", "set", user, "--password-file", password.to_str().unwrap()];
        arguments.extend(once.then_some("--once"));
        self.ask_router(&arguments);
        self.kill_router();
        self.start_router();
    }

    /// The router's own program, with its configuration.
    #[track_caller]
    pub fn ask_router(&self, arguments: &[&str]) {
        let mut command = self.far.command(env!("CARGO_BIN_EXE_enftun-router"));
        command.arg("--config").arg(self.directory.path().join("router.toml")).args(arguments);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }

    pub fn kill_router(&mut self) {
        self.router = None;
    }

    /// Installs our package and configures a tunnel as a person does who follows the manual: from the example for a device,
    /// with credentials of the overlay's operator. Nothing is started.
    #[track_caller]
    pub fn install(&self) {
        self.machine.install(None, &["enftun"]);
        self.configure();
    }

    /// The files of the tunnel `enf0`.
    #[track_caller]
    pub fn configure(&self) {
        let machine = &self.machine;
        machine.must("cp /usr/share/doc/enftun/examples/device.toml /etc/enftun/tunnels/enf0.toml");
        machine.must(&format!(
            "sed -i 's/^hosts = .*/hosts = [\"{ROUTER}\", \"[{ROUTER6}]\"]/; s/^#first = .*/first = \"200ms\"/; s/^#max = .*/max = \"1s\"/' \
                /etc/enftun/tunnels/enf0.toml"
        ));
        machine.write("/etc/enftun/enf.cacert.pem", &self.credential("ca.pem"));
        machine.write("/etc/enftun/enf0/enf0.crt.pem", &self.credential("enf0.crt.pem"));
        machine.write("/etc/enftun/enf0/enf0.key.pem", "");
        machine.must("chmod 600 /etc/enftun/enf0/enf0.key.pem; chown enftun: /etc/enftun/enf0/enf0.key.pem");
        machine.write("/etc/enftun/enf0/enf0.key.pem", &self.credential("enf0.key.pem"));
        machine.must("enftunctl check");
    }

    /// Waits until the tunnel is connected and carries.
    #[track_caller]
    pub fn connected(&self) {
        self.machine.must("enftunctl wait enf0 connected --timeout=60s");
        self.reaches(OVERLAY_ROUTER);
    }

    /// No unit has failed, and we have complained of nothing, since this boot.
    #[track_caller]
    pub fn nothing_failed(&self) {
        assert_eq!(self.machine.must("systemctl --failed --no-legend"), "");
        let errors = "journalctl --boot --quiet --no-pager --priority=err --unit='enftun*' --unit='dbus-org.enftun*'";
        assert_eq!(self.machine.must(errors), "");
    }

    /// Waits for a ping from the machine to this address.
    #[track_caller]
    pub fn reaches(&self, address: &str) {
        self.machine.wait_until(&format!("ping -c 1 -W 2 -q {address}"));
    }

    /// What the machine has sent over its cable since then, beside the tunnel's own connections and what every link needs:
    /// ARP and neighbour discovery on the LAN, DHCP, multicast memberships.
    pub fn left_beside_the_tunnel(&self, since: SystemTime) -> Vec<Frame> {
        self.sniffer.since(since).into_iter().filter(|frame| !allowed(frame)).collect()
    }
}

fn allowed(frame: &Frame) -> bool {
    if frame.probe.is_some() {
        return false;
    }
    let on_link = |address: IpAddr| {
        let nets = ["192.0.2.0/24", "2001:db8:1::/64", "fe80::/10"];
        nets.iter().any(|net| net.parse::<ipnet::IpNet>().unwrap().contains(&address))
    };
    let (Some(source), Some(destination)) = (frame.source, frame.destination) else {
        return matches!(frame.kind, Kind::Arp(address) if on_link(address.into()));
    };
    match frame.kind {
        Kind::Icmp6(133 | 131 | 132 | 143, _) => true,
        Kind::Icmp6(135 | 136, Some(address)) => frame.hops == 255 && on_link(address.into()),
        Kind::Udp => matches!((frame.ports, source.is_ipv4()), (Some((68, 67)), true) | (Some((546, 547)), false)),
        Kind::Tcp => {
            [ROUTER, ROUTER6].iter().any(|router| router.parse() == Ok(destination))
                && frame.ports.is_some_and(|(_, to)| to == 443)
        }
        _ => false,
    }
}
