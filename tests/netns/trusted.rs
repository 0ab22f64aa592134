//! What trust lets pass and what it does not, in a real kernel: networks on cables, each with a host at the other end that is
//! also everything beyond it and hears what leaves. The stories of programs are in `trusted/programs.rs`.

use crate::common::netns::{Netns, block_on, in_netns_with_tun, ip, sh, state_of_host, veth};
use crate::common::{skip, wait_for};
use enftun::config::{self, Group, Tunnel};
use enftun::error::chain;
use enftun::kernel::{HostApplied, Kernel};
use enftun::plan::{self, Facts, Host, Openings, Plan};
use enftun::state::{Failure, Reason, Wanted};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

mod programs;

/// Beyond every network, in both families; and what belongs in the tunnel.
const OUTSIDE: [&str; 2] = ["[2001:db8:9::9]:9999", "203.0.113.9:9999"];
const INSIDE: &str = "[fd00:8f80::99]:9999";
const EVERYTHING: &str = "prefixes = [\"default\"]";
/// No answer within this: what is expected then cannot come at all.
const NOTHING: Duration = Duration::from_millis(300);

/// A network: `dev` here, and a host at the other end.
struct Lan {
    dev: String,
    number: u8,
    far: Netns,
    heard: UdpSocket,
    control: UdpSocket,
}

impl Lan {
    fn new(dev: &str, number: u8) -> Self {
        let far = Netns::new();
        let (heard, control) =
            far.run(|| (UdpSocket::bind("[::]:9999").unwrap(), UdpSocket::bind("0.0.0.0:67").unwrap()));
        for socket in [&heard, &control] {
            socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        }
        let lan = Self { dev: dev.into(), number, far, heard, control };
        lan.plug();
        lan
    }

    /// Connects the cable, as new interfaces.
    fn plug(&self) {
        self.plug_silently();
        for address in [format!("fd00:{}::2", self.number), format!("10.0.{}.2", self.number)] {
            wait_for(&address, || ping(&Netns::here(), &address));
        }
    }

    /// As [`Self::plug`], where nobody could say yet whether it works.
    fn plug_silently(&self) {
        let Self { dev, number, far, .. } = self;
        veth(&Netns::here(), dev, far, "far0");
        sh(&format!("ip addr add fd00:{number}::1/64 dev {dev}; ip addr add 10.0.{number}.1/24 dev {dev}"));
        far.exec(&format!(
            "ip addr add fd00:{number}::2/64 dev far0; ip addr add 10.0.{number}.2/24 dev far0
             for a in 2001:db8:9::9 203.0.113.9 fd00:8f80::99; do ip addr replace $a dev lo; done
             ip -6 route add default via fd00:{number}::1; ip -4 route add default via 10.0.{number}.1"
        ));
    }

    fn unplug(&self) {
        ip(&format!("link del {}", self.dev));
    }

    fn neighbours(&self, port: u16) -> [String; 2] {
        [format!("[fd00:{}::2]:{port}", self.number), format!("10.0.{}.2:{port}", self.number)]
    }

    /// Adds a route that leads here, in both families: `[IPv6, IPv4]`.
    fn route(&self, to: [&str; 2], metric: u32) {
        let Self { dev, number, .. } = self;
        sh(&format!("ip -6 route add {} via fd00:{number}::2 dev {dev} metric {metric}", to[0]));
        sh(&format!("ip -4 route add {} via 10.0.{number}.2 dev {dev} metric {metric}", to[1]));
    }

    /// What a hostile DHCP server makes: two halves that win against every default.
    fn inject(&self) {
        self.route(["::/1", "0.0.0.0/1"], 1);
        self.route(["8000::/1", "128.0.0.0/1"], 1);
    }

    /// The probe arrives here.
    #[track_caller]
    fn hears(&self, to: &str) {
        send(to).unwrap_or_else(|error| panic!("{to} by {}: {error}", self.dev));
        let mut text = [0; 16];
        assert!(self.heard.recv(&mut text).is_ok(), "the probe to {to} did not arrive by {}", self.dev);
    }

    /// Nothing has arrived that was not asked for.
    #[track_caller]
    fn heard_nothing(&self) {
        // DHCP passes always, and packets keep their order on the cable: when this one is there, all earlier ones would be.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind_device(Some(self.dev.as_bytes())).unwrap();
        socket.bind(&"0.0.0.0:68".parse::<SocketAddr>().unwrap().into()).unwrap();
        let server: SocketAddr = format!("10.0.{}.2:67", self.number).parse().unwrap();
        socket.send_to(b"control", &server.into()).unwrap();
        self.control.recv(&mut [0; 16]).expect("the control packet arrives");
        self.heard.set_nonblocking(true).unwrap();
        let mut text = [0; 64];
        let heard = self.heard.recv_from(&mut text);
        self.heard.set_nonblocking(false).unwrap();
        assert_eq!(heard.unwrap_err().kind(), io::ErrorKind::WouldBlock, "something left by {}", self.dev);
    }
}

fn ping(from: &Netns, address: &str) -> bool {
    from.output(&format!("ping -c1 -W1 -q {address}")).status.success()
}

fn send(to: &str) -> io::Result<()> {
    let to: SocketAddr = to.parse().unwrap();
    let any = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    UdpSocket::bind(any).unwrap().send_to(b"probe", to).map(drop)
}

/// A TCP connection, if it comes about.
fn connects(from: &Netns, to: &str, patience: Duration) -> bool {
    let to: SocketAddr = to.parse().unwrap();
    from.run(|| TcpStream::connect_timeout(&to, patience).is_ok())
}

fn tunnel(name: &str, route: &str) -> Tunnel {
    let address = if route.contains("allow_ipv4") { "ipv4_address = \"10.64.0.7/32\"" } else { "" };
    let text = format!(
        "kind = \"enf\"\n[remote]\nhosts = [\"2001:db8::1\"]\nname = \"router\"\n[tun]\n{address}\n[route]\n{route}\n"
    );
    let (tunnel, findings) = config::parse_tunnel(name, Path::new("enf0.toml"), Path::new("/"), &text);
    tunnel.unwrap_or_else(|| panic!("{findings:?}"))
}

fn own() -> Wanted {
    Wanted::Connected(vec!["fd00:8f80::5/128".parse::<IpNet>().unwrap()])
}

/// The plan of `enf0` with this `[route]`; the group `lan` is there for it.
fn plan(route: &str, wanted: &Wanted) -> Plan {
    let lan = Group { number: 400, interfaces: vec!["lan1".into()] };
    let groups = BTreeMap::from([("lan".to_owned(), lan)]);
    plan::build(&tunnel("enf0", route), &groups, Facts { wanted, kept: &[], openings: &Openings::default() })
}

/// A kernel whose record of what was there before lies in a directory of its own.
struct Held {
    kernel: Kernel,
    directory: tempfile::TempDir,
}

impl Held {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { kernel: Self::kernel(&directory), directory }
    }

    fn kernel(directory: &tempfile::TempDir) -> Kernel {
        Kernel::new(nix::unistd::getuid().as_raw(), directory.path()).unwrap()
    }

    /// The process is killed, and another begins.
    fn again(self) -> Self {
        let Self { kernel, directory } = self;
        drop(kernel);
        Self { kernel: Self::kernel(&directory), directory }
    }

    async fn host(&mut self, plans: &[Plan]) -> HostApplied {
        let host = Host::of(plans, self.kernel.owner());
        self.kernel.apply_host(&host).await.unwrap_or_else(|error| panic!("{}", chain(&error)))
    }

    /// Brings one plan into force, with what of the host belongs to it.
    async fn apply(&mut self, plan: &Plan) -> HostApplied {
        let done = self.host(std::slice::from_ref(plan)).await;
        self.kernel.apply(plan).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
        done
    }

    async fn clear(&mut self, plan: &Plan) {
        self.kernel.clear(&plan.scope).await.unwrap();
        self.host(&[]).await;
        assert_eq!(std::fs::read_dir(self.directory.path()).unwrap().count(), 0, "the record is gone");
    }

    /// The probe goes into the device of the tunnel.
    #[track_caller]
    fn enters(&self, what: &str, mut probe: impl FnMut()) {
        let tun = self.kernel.tun("enf0").unwrap();
        wait_for(&format!("{what} in the tunnel"), || {
            probe();
            let mut packet = [0; 1500];
            while let Ok(length) = nix::unistd::read(&tun, &mut packet) {
                if packet[..length].ends_with(b"probe") {
                    return true;
                }
            }
            false
        });
    }
}

fn group(dev: &str) -> String {
    let json: serde_json::Value = serde_json::from_str(&ip(&format!("-j -N -d link show {dev}"))).unwrap();
    match &json[0]["group"] {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

const SRC_VALID_MARK: &str = "/proc/sys/net/ipv4/conf/all/src_valid_mark";

fn src_valid_mark() -> String {
    std::fs::read_to_string(SRC_VALID_MARK).unwrap().trim().to_owned()
}

/// Every state in which the tunnel blocks.
fn blocking() -> [Wanted; 3] {
    [Wanted::Blocked, Wanted::Connecting, own()]
}

#[test]
fn a_default_route_on_a_trusted_link_takes_nothing() {
    in_netns_with_tun("a_default_route_on_a_trusted_link_takes_nothing", || {
        let (lan, trusted) = (Lan::new("lan0", 1), Lan::new("lan1", 2));
        lan.route(["default", "default"], 1024);
        trusted.route(["default", "default"], 1);
        let neighbours = trusted.neighbours(9999);
        OUTSIDE.iter().chain([&INSIDE]).for_each(|to| trusted.hears(to));
        for route in [EVERYTHING, "prefixes = [\"default\"]\nallow_ipv4 = true"] {
            let route = format!("{route}\ntrusted_interfaces = [\"lan1\"]");
            block_on(async {
                let mut held = Held::new();
                for wanted in blocking() {
                    held.apply(&plan(&route, &wanted)).await;
                    for to in OUTSIDE.iter().chain([&INSIDE]) {
                        let _ = send(to);
                    }
                    neighbours.iter().for_each(|to| trusted.hears(to));
                    trusted.heard_nothing();
                    lan.heard_nothing();
                }
                held.enters(OUTSIDE[0], || drop(send(OUTSIDE[0])));
                held.clear(&plan(&route, &own())).await;
            });
            OUTSIDE.iter().for_each(|to| trusted.hears(to));
        }
    });
}

#[test]
fn routes_injected_on_an_untrusted_link_take_nothing() {
    in_netns_with_tun("routes_injected_on_an_untrusted_link_take_nothing", || {
        let (lan, trusted) = (Lan::new("lan0", 1), Lan::new("lan1", 2));
        lan.inject();
        OUTSIDE.iter().chain([&INSIDE]).for_each(|to| lan.hears(to));
        block_on(async {
            let mut held = Held::new();
            let route = format!("{EVERYTHING}\ntrusted_interfaces = [\"lan1\"]");
            for wanted in blocking() {
                held.apply(&plan(&route, &wanted)).await;
                for to in OUTSIDE.iter().chain([&INSIDE]) {
                    let _ = send(to);
                }
                lan.neighbours(9999).iter().for_each(|to| drop(send(to)));
                trusted.neighbours(9999).iter().for_each(|to| trusted.hears(to));
                lan.heard_nothing();
                trusted.heard_nothing();
            }
            held.clear(&plan(&route, &own())).await;
        });
        OUTSIDE.iter().for_each(|to| lan.hears(to));
    });
}

/// As the README says: trusting a link trusts its DHCP server for routes longer than /0.
#[test]
fn routes_longer_than_a_default_on_a_trusted_link_are_used() {
    in_netns_with_tun("routes_longer_than_a_default_on_a_trusted_link_are_used", || {
        let (lan, trusted) = (Lan::new("lan0", 1), Lan::new("lan1", 2));
        lan.route(["default", "default"], 1024);
        block_on(async {
            let mut held = Held::new();
            let route = format!("{EVERYTHING}\ntrusted_interfaces = [\"lan1\"]");
            for wanted in blocking() {
                held.apply(&plan(&route, &wanted)).await;
                trusted.inject();
                OUTSIDE.iter().chain([&INSIDE]).for_each(|to| trusted.hears(to));
                lan.heard_nothing();
                sh("ip -6 route flush dev lan1 metric 1; ip -4 route flush dev lan1 metric 1");
                OUTSIDE.iter().chain([&INSIDE]).for_each(|to| drop(send(to)));
                trusted.heard_nothing();
            }
            held.clear(&plan(&route, &own())).await;
        });
    });
}

#[test]
fn a_link_in_a_foreign_group_takes_nothing_and_is_named() {
    in_netns_with_tun("a_link_in_a_foreign_group_takes_nothing_and_is_named", || {
        let (foreign, trusted) = (Lan::new("lan0", 1), Lan::new("lan1", 2));
        ip("link set lan0 group 7");
        let before = state_of_host();
        let route = format!("{EVERYTHING}\ntrusted_interfaces = [\"lan1\"]");
        block_on(async {
            let mut held = Held::new();
            for inject in [false, true] {
                if inject {
                    foreign.inject()
                } else {
                    foreign.route(["default", "default"], 1)
                }
                OUTSIDE.iter().for_each(|to| foreign.hears(to));
                for wanted in blocking() {
                    let done = held.apply(&plan(&route, &wanted)).await;
                    assert_eq!(done.foreign, BTreeSet::from([("lan0".to_owned(), 7)]));
                    OUTSIDE.iter().chain([&INSIDE]).for_each(|to| drop(send(to)));
                    foreign.neighbours(9999).iter().for_each(|to| drop(send(to)));
                    trusted.neighbours(9999).iter().for_each(|to| trusted.hears(to));
                    foreign.heard_nothing();
                }
                // Nobody trusts anything: the group of a link is nobody's business.
                assert_eq!(held.apply(&plan(EVERYTHING, &own())).await.foreign, BTreeSet::new());
                held.clear(&plan(&route, &own())).await;
                sh("ip -6 route flush dev lan0 metric 1; ip -4 route flush dev lan0 metric 1");
            }
        });
        assert_eq!(state_of_host(), before);
    });
}

#[test]
fn neighbours_on_a_trusted_link_are_talked_to_and_others_not() {
    in_netns_with_tun("neighbours_on_a_trusted_link_are_talked_to_and_others_not", || {
        let (lan, trusted) = (Lan::new("lan0", 1), Lan::new("lan1", 2));
        lan.route(["default", "default"], 1024);
        let services = [&lan, &trusted].map(|lan| lan.far.run(|| TcpListener::bind("[::]:8080").unwrap()));
        let service_here = TcpListener::bind("[::]:8080").unwrap();
        let here = Netns::here();
        let ours = |lan: &Lan| [format!("[fd00:{}::1]:8080", lan.number), format!("10.0.{}.1:8080", lan.number)];
        let long = Duration::from_secs(10);
        for lan in [&lan, &trusted] {
            assert!(lan.neighbours(8080).iter().all(|to| connects(&here, to, long)));
            assert!(ours(lan).iter().all(|to| connects(&lan.far, to, long)));
        }
        block_on(async {
            let mut held = Held::new();
            for route in ["trusted_interfaces = [\"lan1\"]", "trusted_groups = [\"lan\"]"] {
                let route = format!("{EVERYTHING}\n{route}");
                for wanted in blocking() {
                    held.apply(&plan(&route, &wanted)).await;
                    for to in trusted.neighbours(8080) {
                        assert!(connects(&here, &to, long), "out to {to}, {wanted:?}");
                    }
                    for to in ours(&trusted) {
                        assert!(connects(&trusted.far, &to, long), "in to {to}, {wanted:?}");
                    }
                    trusted.neighbours(9999).iter().for_each(|to| trusted.hears(to));
                    for to in lan.neighbours(8080) {
                        assert!(!connects(&here, &to, NOTHING), "out to {to}, {wanted:?}");
                    }
                    for to in ours(&lan) {
                        assert!(!connects(&lan.far, &to, NOTHING), "in to {to}, {wanted:?}");
                    }
                    lan.neighbours(9999).iter().for_each(|to| drop(send(to)));
                    lan.heard_nothing();
                }
                held.clear(&plan(&route, &own())).await;
            }
        });
        drop((services, service_here));
    });
}

#[test]
fn what_is_behind_a_trusted_bridge_uses_the_tunnel_and_nothing_else_does() {
    in_netns_with_tun("what_is_behind_a_trusted_bridge_uses_the_tunnel_and_nothing_else_does", || {
        let (lan, trusted) = (Lan::new("lan0", 1), Lan::new("lan1", 2));
        lan.route(["default", "default"], 1024);
        let guest = Netns::new();
        veth(&Netns::here(), "guest0", &guest, "eth0");
        // Forwarding makes the host a router; what it says of itself then is not what is looked at here.
        sh("echo 1 > /proc/sys/net/ipv6/conf/all/forwarding; echo 1 > /proc/sys/net/ipv4/ip_forward
            ip link add br0 type bridge; echo 0 > /proc/sys/net/ipv6/conf/br0/accept_dad
            ip link set br0 addrgenmode none up; ip link set guest0 master br0
            ip addr add fd00:5::1/64 dev br0; ip addr add 10.0.5.1/24 dev br0");
        guest.exec(
            "ip addr add fd00:5::2/64 dev eth0; ip addr add 10.0.5.2/24 dev eth0
                    ip -6 route add default via fd00:5::1; ip -4 route add default via 10.0.5.1",
        );
        wait_for("the guest's way out", || ping(&guest, "fd00:1::2") && ping(&guest, "10.0.1.2"));
        let from_guest = |to: &str| guest.run(|| drop(send(to)));
        let heard_in_guest = guest.run(|| UdpSocket::bind("[::]:9999").unwrap());
        heard_in_guest.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        block_on(async {
            let mut held = Held::new();
            for (interfaces, may) in [("\"lan1\"", false), ("\"lan1\", \"br0\"", true)] {
                let route = format!("{EVERYTHING}\ntrusted_interfaces = [{interfaces}]");
                for wanted in blocking() {
                    held.apply(&plan(&route, &wanted)).await;
                    OUTSIDE.iter().chain([&INSIDE]).for_each(|to| from_guest(to));
                    lan.neighbours(9999).iter().for_each(|to| from_guest(to));
                    let host = ping(&guest, "fd00:5::1") && ping(&guest, "10.0.5.1");
                    assert_eq!(host, may, "the guest talks to the host, {wanted:?}");
                    lan.heard_nothing();
                    // From one trusted network to another.
                    trusted.neighbours(9999).iter().for_each(|to| from_guest(to));
                    for _ in 0..2 {
                        if may {
                            trusted.heard.recv(&mut [0; 16]).unwrap();
                        }
                    }
                    trusted.heard_nothing();
                }
                let tun = held.kernel.tun("enf0").unwrap();
                if may {
                    held.enters("what the guest sends", || from_guest(INSIDE));
                    held.enters("what the guest sends", || from_guest(OUTSIDE[0]));
                    wait_for("what comes back", || {
                        nix::unistd::write(&tun, &with_header(&udp_to_guest())).unwrap();
                        heard_in_guest.recv(&mut [0; 16]).is_ok()
                    });
                } else {
                    held.enters("what the host sends", || drop(send(INSIDE)));
                    from_guest(INSIDE);
                    nix::unistd::write(&tun, &with_header(&udp_to_guest())).unwrap();
                    // Packets keep their order: the host's own is there, and the guest's would be before it.
                    held.enters("what the host sends", || drop(send(INSIDE)));
                    assert_eq!(nix::unistd::read(&tun, &mut [0; 1500]), Err(nix::errno::Errno::EAGAIN));
                    heard_in_guest.set_nonblocking(true).unwrap();
                    assert!(heard_in_guest.recv(&mut [0; 16]).is_err());
                    heard_in_guest.set_nonblocking(false).unwrap();
                }
                held.clear(&plan(&route, &own())).await;
            }
        });
    });
}

/// As the queue of a device with offloads has it: nothing is left to be done to the packet.
fn with_header(packet: &[u8]) -> Vec<u8> {
    [&enftun::sys::vnet::Vnet::default().to_bytes(), packet].concat()
}

/// UDP over IPv6 from INSIDE to port 9999 of the guest, with the payload "pong".
fn udp_to_guest() -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 12, 17, 64];
    packet.extend("fd00:8f80::99".parse::<std::net::Ipv6Addr>().unwrap().octets());
    packet.extend("fd00:5::2".parse::<std::net::Ipv6Addr>().unwrap().octets());
    packet.extend([0x27, 0x0f, 0x27, 0x0f, 0, 12, 0, 0]);
    packet.extend(b"pong");
    let sum = packet[8..].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum::<u32>() + 12 + 17;
    let folded = (sum & 0xffff) + (sum >> 16);
    packet[46..48].copy_from_slice(&(!(((folded & 0xffff) + (folded >> 16)) as u16)).to_be_bytes());
    packet
}

#[test]
fn applied_twice_writes_nothing_and_fifty_rounds_leave_nothing() {
    in_netns_with_tun("applied_twice_writes_nothing_and_fifty_rounds_leave_nothing", || {
        let (_lan, _trusted) = (Lan::new("lan0", 1), Lan::new("lan1", 2));
        ip("link set lan0 group 5");
        let before = state_of_host();
        assert_eq!(src_valid_mark(), "0");
        let routes = ["trusted_interfaces = [\"lan0\", \"gone0\"]", "trusted_groups = [\"lan\"]", ""];
        block_on(async {
            let mut held = Held::new();
            for round in 0..50 {
                let route = format!("{EVERYTHING}\n{}", routes[round % 3]);
                for wanted in blocking() {
                    let plan = plan(&route, &wanted);
                    held.apply(&plan).await;
                    assert_eq!(src_valid_mark(), "1");
                    let again = held.apply(&plan).await;
                    assert_eq!((again.changes, again.arrived), (vec![], vec![]), "round {round}, {wanted:?}");
                }
                let expected = [["363", "0"], ["5", "400"], ["5", "0"]][round % 3];
                assert_eq!([group("lan0"), group("lan1")], expected);
                if round % 2 == 0 {
                    held = held.again();
                }
                held.clear(&plan(&route, &own())).await;
                assert_eq!(state_of_host(), before, "after round {round}");
            }
        });
    });
}

#[test]
fn another_process_gives_back_what_a_killed_one_took_at_every_step() {
    in_netns_with_tun("another_process_gives_back_what_a_killed_one_took_at_every_step", || {
        let (_lan, _trusted) = (Lan::new("lan0", 1), Lan::new("lan1", 2));
        ip("link set lan0 group 5");
        let before = state_of_host();
        let plan = plan(&format!("{EVERYTHING}\ntrusted_interfaces = [\"lan0\", \"lan1\"]"), &Wanted::Blocked);
        let steps = [
            format!("echo 1 > {SRC_VALID_MARK}"),
            "ip link set lan0 group 363".to_owned(),
            "ip link set lan1 group 363".to_owned(),
        ];
        block_on(async {
            // What a process writes down before it changes anything.
            let mut held = Held::new();
            held.apply(&plan).await;
            let file = held.directory.path().join("previous.json");
            let record = std::fs::read(&file).unwrap();
            held.clear(&plan).await;
            for done in 0..=steps.len() {
                std::fs::write(&file, &record).unwrap();
                sh(&format!(":\n{}", steps[..done].join("\n")));
                held = held.again();
                if done % 2 == 0 {
                    held.apply(&plan).await;
                    assert_eq!([group("lan0"), group("lan1")], ["363", "363"]);
                }
                held.clear(&plan).await;
                assert_eq!(state_of_host(), before, "after {done} steps");
            }
        });
    });
}

#[test]
fn a_member_that_was_deleted_and_came_back_does_not_get_the_number_of_the_old_one() {
    in_netns_with_tun("a_member_that_was_deleted_and_came_back_does_not_get_the_number_of_the_old_one", || {
        let trusted = Lan::new("lan1", 2);
        ip("link set lan1 group 5");
        let plan = plan(&format!("{EVERYTHING}\ntrusted_groups = [\"lan\"]"), &Wanted::Blocked);
        block_on(async {
            let mut held = Held::new();
            held.apply(&plan).await;
            trusted.unplug();
            held.apply(&plan).await;
            trusted.plug_silently();
            assert_eq!(held.apply(&plan).await.arrived, ["ip link set dev lan1 group 400"]);
            trusted.neighbours(9999).iter().for_each(|to| trusted.hears(to));
            // One that was given another name is not trusted any more.
            sh("ip link set lan1 down; ip link set lan1 name lan9; ip link set lan9 up");
            assert_eq!(held.apply(&plan).await.changes, ["ip link set dev lan9 group 0"]);
            sh("ip link set lan9 down; ip link set lan9 name lan1; ip link set lan1 up");
            held.apply(&plan).await;
            assert_eq!(group("lan1"), "400");
            held.clear(&plan).await;
            assert_eq!(group("lan1"), "0");
        });
    });
}

#[test]
fn what_somebody_else_wrote_is_what_he_gets_back() {
    in_netns_with_tun("what_somebody_else_wrote_is_what_he_gets_back", || {
        let _trusted = Lan::new("lan1", 2);
        let plan = plan(&format!("{EVERYTHING}\ntrusted_groups = [\"lan\"]"), &Wanted::Blocked);
        block_on(async {
            let mut held = Held::new();
            held.apply(&plan).await;
            sh(&format!("ip link set lan1 group 7; echo 0 > {SRC_VALID_MARK}"));
            let healed = held.apply(&plan).await;
            let expected = ["echo 1 > /proc/sys/net/ipv4/conf/all/src_valid_mark", "ip link set dev lan1 group 400"];
            assert_eq!(healed.changes, expected);
            held.clear(&plan).await;
            assert_eq!((group("lan1"), src_valid_mark()), ("7".into(), "0".into()));

            // What he wrote after us stays.
            held.apply(&plan).await;
            ip("link set lan1 group 9");
            held.clear(&plan).await;
            assert_eq!(group("lan1"), "9");

            // What was as we need it is not ours to change.
            sh(&format!("ip link set lan1 group 400; echo 1 > {SRC_VALID_MARK}"));
            let done = held.apply(&plan).await;
            assert!(!done.changes.iter().chain(&done.arrived).any(|change| change.contains("400")), "{done:?}");
            held.clear(&plan).await;
            assert_eq!((group("lan1"), src_valid_mark()), ("400".into(), "1".into()));
        });
    });
}

#[test]
fn a_group_of_two_tunnels_stays_until_the_last_of_them_lets_go() {
    in_netns_with_tun("a_group_of_two_tunnels_stays_until_the_last_of_them_lets_go", || {
        let trusted = Lan::new("lan1", 2);
        let before = state_of_host();
        let wide = plan(&format!("{EVERYTHING}\ntrusted_groups = [\"lan\"]"), &Wanted::Blocked);
        let lan = Group { number: 400, interfaces: vec!["lan1".into()] };
        let narrow = |route: &str| {
            let route =
                format!("prefixes = [\"fd00:2::/48\"]\nfwmark = 364\ntable = 2098\nlockdown = \"session\"\n{route}");
            let facts = Facts { wanted: &Wanted::Blocked, kept: &[], openings: &Openings::default() };
            plan::build(&tunnel("enf1", &route), &BTreeMap::from([("lan".to_owned(), lan.clone())]), facts)
        };
        let [v6, v4] = trusted.neighbours(9999);
        block_on(async {
            let mut held = Held::new();
            held.apply(&wide).await;
            let both = [wide.clone(), narrow("trusted_groups = [\"lan\"]")];
            held.host(&both).await;
            held.kernel.apply(&both[1]).await.unwrap();
            [&v6, &v4].iter().for_each(|to| trusted.hears(to));
            // The second no longer trusts it: the route is still used for the first, and the firewall holds the second's.
            let both = [wide.clone(), narrow("")];
            let mut changes = held.host(&both).await.changes;
            changes.retain(|change| !change.contains("enftun-guard"));
            assert_eq!(changes, ["nft: replace table inet enftun"]);
            assert_eq!(group("lan1"), "400");
            let _ = send(&v6);
            trusted.hears(&v4);
            trusted.heard_nothing();
            held.kernel.clear(&both[1].scope).await.unwrap();
            held.host(&both[..1]).await;
            trusted.hears(&v6);
            held.clear(&wide).await;
        });
        assert_eq!(state_of_host(), before);
    });
}

#[test]
fn an_ipv4_last_mile_connects_whatever_rp_filter_is() {
    in_netns_with_tun("an_ipv4_last_mile_connects_whatever_rp_filter_is", || {
        let lan = Lan::new("lan0", 1);
        lan.route(["default", "default"], 1024);
        let _router = lan.far.run(|| TcpListener::bind("0.0.0.0:443").unwrap());
        let remote: SocketAddr = "203.0.113.9:443".parse().unwrap();
        let dial = |patience| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_mark(363).unwrap();
            socket.connect_timeout(&remote.into(), patience)
        };
        let wanted = Wanted::Connecting;
        let openings = Openings::to(vec![remote], false);
        let facts = Facts { wanted: &wanted, kept: &[], openings: &openings };
        let plan = plan::build(&tunnel("enf0", EVERYTHING), &BTreeMap::new(), facts);
        block_on(async {
            let mut held = Held::new();
            for strictness in [0, 1, 2] {
                sh(&format!(
                    "for c in all default lan0; do echo {strictness} > /proc/sys/net/ipv4/conf/$c/rp_filter; done"
                ));
                // Routing alone, without the mark of answers: what the rest is for.
                held.kernel.apply(&plan).await.unwrap();
                let alone = dial(NOTHING);
                assert_eq!(alone.is_ok(), strictness == 0, "rp_filter {strictness}: {alone:?}");
                held.apply(&plan).await;
                dial(Duration::from_secs(10)).unwrap_or_else(|error| panic!("rp_filter {strictness}: {error}"));
                held.clear(&plan).await;
            }
        });
    });
}

#[test]
fn settings_that_cannot_be_written_are_named_with_what_to_do() {
    const NAME: &str = "settings_that_cannot_be_written_are_named_with_what_to_do";
    in_netns_with_tun(NAME, || {
        if let Err(error) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS) {
            return skip(NAME, &format!("no mount namespace: {error}"));
        }
        sh("mount --make-rprivate /; mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys");
        let plan = plan(EVERYTHING, &Wanted::Blocked);
        let host = Host::of([&plan], nix::unistd::getuid().as_raw());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut held = Held::new();
            let failure = Failure::from(&held.kernel.apply_host(&host).await.unwrap_err());
            assert_eq!(failure.reason, Reason::RouteFailed, "{failure}");
            assert!(failure.text.contains("ReadWritePaths=/proc/sys/net"), "{failure}");
            assert!(failure.text.contains("src_valid_mark"), "{failure}");
            assert!(sh("nft list tables").contains("inet enftun"), "it blocks all the same");
            // Nothing was changed, so nothing is in the way of taking all of it back.
            held.host(&[]).await;
        });
    });
}
