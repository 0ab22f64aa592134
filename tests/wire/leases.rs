//! While everything is blocked, a link keeps its addresses: DHCPv4 and DHCPv6 leases are got, renewed and rebound, and router
//! advertisements are heard, with the clients that people have, against dnsmasq. All the while, a sniffer at the other end of
//! the cable sees nothing leave but that. The clients run as on a real host, except that `/etc`, `/run` and `/var/lib` are
//! their own, and that leases are short.

use crate::common::netns::{Netns, Running};
use crate::common::room::{NETWORKD, Room, no_room};
use crate::common::skip;
use enftun::config;
use enftun::kernel::Kernel;
use enftun::plan::{self, Facts, Host, Openings, Plan};
use enftun::state::Wanted;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

/// In seconds; the shortest that dnsmasq gives.
const LEASE: u32 = 120;
/// A client renews its DHCPv4 lease after so many seconds, and rebinds it after so many. DHCPv6 has no option for it: 60 and 105.
const RENEW: u32 = 5;
const REBIND: u32 = 10;

/// What may leave, in the language of tcpdump: ARP; DHCP as a client; router and neighbour solicitations and neighbour
/// advertisements; and MLD reports, which have a hop-by-hop header.
const ALLOWED: &str = "arp or (ip and udp src port 68 and udp dst port 67) or (ip6 and udp src port 546 and udp dst port 547) \
                       or (icmp6 and (ip6[40] = 133 or ip6[40] = 135 or ip6[40] = 136)) \
                       or (ip6[6] = 0 and ip6[40] = 58 and (ip6[48] = 143 or ip6[48] = 131 or ip6[48] = 132))";
/// What is sent when nothing blocks any more: an echo request larger than any that is sent before.
const MARKER: &str = "icmp6 and ip6[40] = 128 and greater 600";

/// The client's own packets, `ciaddr` set: it holds the address and wants to keep it.
const UNICAST_RENEWAL: &str = "ether dst LAN and udp dst port 67 and udp[20:4] != 0";
const BROADCAST_REBINDING: &str = "ether broadcast and udp dst port 67 and udp[20:4] != 0";
/// The server's consent to either: the message type is its first option.
const CONSENT: &str = "ether src LAN and udp src port 67 and udp[250] = 5 and udp[20:4] != 0";

#[derive(Clone, Copy, Debug, PartialEq)]
enum Client {
    Dhclient,
    Dhcpcd,
    Networkd,
}

/// A host `eth0` that is blocked, and a LAN with a DHCP server at the other end of its cable.
struct Bed {
    lan: Netns,
    host: Netns,
    /// The hardware addresses of LAN and host.
    ends: [String; 2],
    room: Room,
    blocked: Blocked,
    server: Option<Running>,
    _sniffer: Running,
    noise: Running,
    directory: tempfile::TempDir,
}

/// The product at work, without the daemon, so that nothing is healed.
struct Blocked {
    runtime: tokio::runtime::Runtime,
    kernel: Kernel,
    plan: Plan,
    host: Host,
}

#[test]
fn dhclient_gets_renews_by_unicast_and_rebinds_a_dhcpv4_lease() {
    keeps_its_dhcpv4_lease("dhclient_gets_renews_by_unicast_and_rebinds_a_dhcpv4_lease", Client::Dhclient);
}

/// Its unicast renewals go by a raw socket that is bound to nothing: no routing rule can tell them from other UDP. It falls back
/// to broadcast, which every client does before the lease ends.
#[test]
fn dhcpcd_gets_and_rebinds_a_dhcpv4_lease() {
    keeps_its_dhcpv4_lease("dhcpcd_gets_and_rebinds_a_dhcpv4_lease", Client::Dhcpcd);
}

#[test]
fn networkd_gets_renews_by_unicast_and_rebinds_a_dhcpv4_lease() {
    keeps_its_dhcpv4_lease("networkd_gets_renews_by_unicast_and_rebinds_a_dhcpv4_lease", Client::Networkd);
}

fn keeps_its_dhcpv4_lease(test: &str, client: Client) {
    let Some(mut bed) = Bed::new(test) else { return };
    bed.serve("192.0.2.1");
    bed.start(client, "-4");
    bed.wait("an IPv4 address", |bed| bed.lifetime("-4", "192.0.2.") > 0);
    // Our own packets find their way to the router by it.
    bed.wait("the IPv4 default route", |bed| bed.host.exec("ip -4 route show default").contains("via 192.0.2.1"));
    assert!(bed.host.exec("ip -4 route get 203.0.113.1 mark 363").contains("via 192.0.2.1"));

    let renewal = if client == Client::Dhcpcd { BROADCAST_REBINDING } else { UNICAST_RENEWAL };
    bed.wait("a renewal, to which the server consents", |bed| bed.count(renewal) > 0 && bed.count(CONSENT) > 0);
    bed.wait("the lease to begin anew", |bed| bed.lifetime("-4", "192.0.2.") > LEASE - RENEW + 1);

    // The server moves: nobody is at the address any more that gave the lease.
    let consents = bed.count(CONSENT);
    bed.serve("192.0.2.2");
    bed.wait("a rebinding by broadcast, to which the other server consents", |bed| {
        bed.count(BROADCAST_REBINDING) > 0 && bed.count(&format!("{CONSENT} and src host 192.0.2.2")) > 0
    });
    assert!(bed.count(CONSENT) > consents);
    bed.wait("the lease to begin anew", |bed| bed.lifetime("-4", "192.0.2.") > LEASE - REBIND + 1);
    bed.nothing_else_left();
}

#[test]
fn dhclient_gets_renews_and_rebinds_a_dhcpv6_lease() {
    let Some(mut bed) = Bed::new("dhclient_gets_renews_and_rebinds_a_dhcpv6_lease") else { return };
    bed.serve("192.0.2.1");
    bed.start(Client::Dhclient, "-6");
    bed.wait("a DHCPv6 address", |bed| bed.leased() > 0);
    // A client that starts again takes the times from its file: what it reads there has been so for a minute.
    for (message, seconds) in [("renew", 65), ("rebind", 108)] {
        bed.wait("the lease to be written down", Bed::written_down);
        bed.exec(&format!(
            "kill $(cat /run/client.pid); while kill -0 $(cat /run/client.pid) 2>/dev/null; do sleep 0.1; done
             sed -i -E 's/starts [0-9]+/starts '$(($(date +%s) - {seconds}))'/' /var/lib/dhcp/dhclient6.leases"
        ));
        if message == "rebind" {
            bed.serve("192.0.2.2");
        }
        bed.start(Client::Dhclient, "-6");
        bed.wait(message, |bed| bed.answered(message));
        bed.wait("the lease to begin anew", |bed| bed.leased() > LEASE - 10);
    }
    bed.nothing_else_left();
}

#[test]
fn dhcpcd_gets_renews_and_rebinds_a_dhcpv6_lease() {
    let Some(mut bed) = Bed::new("dhcpcd_gets_renews_and_rebinds_a_dhcpv6_lease") else { return };
    bed.serve("192.0.2.1");
    bed.start(Client::Dhcpcd, "-6");
    bed.wait("a DHCPv6 address", |bed| bed.leased() > 0);
    bed.wait("the IPv6 default route", |bed| bed.default_route("ra"));
    bed.exec("dhcpcd -6 -N eth0");
    bed.wait("renew", |bed| bed.answered("renew"));
    bed.serve("192.0.2.2");
    bed.exec("dhcpcd -6 -n eth0");
    bed.wait("rebind", |bed| bed.answered("rebind"));
    // It starts over on that occasion.
    bed.wait("the address", |bed| bed.leased() > 0);
    bed.nothing_else_left();
}

#[test]
fn networkd_gets_and_renews_a_dhcpv6_lease_and_hears_router_advertisements() {
    let test = "networkd_gets_and_renews_a_dhcpv6_lease_and_hears_router_advertisements";
    let Some(mut bed) = Bed::new(test) else { return };
    bed.serve("192.0.2.1");
    bed.start(Client::Networkd, "-6");
    bed.wait("a DHCPv6 address", |bed| bed.leased() > 0);
    bed.wait("an address from the router's prefix", |bed| bed.autoconfigured());
    bed.wait("the IPv6 default route", |bed| bed.default_route("ra"));
    bed.wait("renew", |bed| bed.answered("renew"));
    bed.wait("the lease to begin anew", |bed| bed.leased() > LEASE - 10);
    if std::env::var_os("ENFTUN_LONG").is_some_and(|value| value == "1") {
        bed.serve("192.0.2.2");
        bed.wait("rebind", |bed| bed.answered("rebind"));
        bed.wait("the lease to begin anew", |bed| bed.leased() > LEASE - 10);
    }
    bed.nothing_else_left();
}

#[test]
fn the_kernel_makes_an_address_and_a_default_route_of_a_router_advertisement() {
    let test = "the_kernel_makes_an_address_and_a_default_route_of_a_router_advertisement";
    let Some(mut bed) = Bed::new(test) else { return };
    bed.serve("192.0.2.1");
    bed.host.exec("ip link set eth0 up");
    bed.wait("an address from the router's prefix", |bed| bed.autoconfigured());
    bed.wait("the IPv6 default route", |bed| bed.default_route("ra"));
    // After the link's way down and up it solicits again.
    bed.host.exec("ip link set eth0 down");
    assert!(!bed.autoconfigured());
    bed.host.exec("ip link set eth0 up");
    bed.wait("the address again", |bed| bed.autoconfigured());
    bed.wait("the default route again", |bed| bed.default_route("ra"));
    assert!(bed.host.exec("ip -6 route get 2001:db8::1 mark 363").contains("via fe80:"));
    bed.nothing_else_left();
}

#[test]
fn a_reconfiguration_by_networkd_leaves_our_rules_routes_and_table_as_they_are() {
    let test = "a_reconfiguration_by_networkd_leaves_our_rules_routes_and_table_as_they_are";
    let Some(mut bed) = Bed::new(test) else { return };
    bed.serve("192.0.2.1");
    bed.start(Client::Networkd, "-4");
    let configured = |bed: &Bed| bed.exec("networkctl --no-pager status eth0").contains("(configured)");
    bed.wait("networkd to be done", configured);
    let ours = |bed: &Bed| {
        bed.host.exec(
            "ip -4 rule; ip -6 rule; ip -4 route show table 2097; ip -6 route show table 2097
             ip -6 route show table local type unreachable; nft -a list table inet enftun; ip -j link show enf0",
        )
    };
    let before = ours(&bed);
    // Somebody else's, for it to delete.
    bed.host.exec("ip route add 203.0.113.0/24 dev eth0 table 2098 protocol static");
    let offers = bed.count("udp src port 67");
    bed.exec("networkctl reconfigure eth0");
    bed.wait("a foreign route to be deleted", |bed| bed.host.exec("ip route show table 2098").is_empty());
    bed.wait("a lease again", |bed| bed.count("udp src port 67") > offers);
    bed.wait("networkd to be done", configured);
    assert_eq!(ours(&bed), before);
    assert_eq!(bed.apply(), Vec::<String>::new());
    bed.nothing_else_left();
}

#[test]
fn without_its_rule_a_dhcpv4_renewal_by_unicast_does_not_leave() {
    let Some(mut bed) = Bed::new("without_its_rule_a_dhcpv4_renewal_by_unicast_does_not_leave") else { return };
    bed.without("DHCP, as a client");
    bed.serve("192.0.2.1");
    bed.start(Client::Dhclient, "-4");
    // What goes by a packet socket passes no firewall.
    bed.wait("an IPv4 address", |bed| bed.lifetime("-4", "192.0.2.") > 0);
    bed.wait("a rebinding by broadcast", |bed| bed.count(BROADCAST_REBINDING) > 0);
    assert_eq!(bed.count(UNICAST_RENEWAL), 0);
    bed.nothing_else_left();
}

#[test]
fn without_its_rule_no_dhcpv6_lease_is_got() {
    let Some(mut bed) = Bed::new("without_its_rule_no_dhcpv6_lease_is_got") else { return };
    bed.without("DHCP, as a client");
    bed.serve("192.0.2.1");
    bed.start(Client::Dhclient, "-6");
    bed.wait("three solicitations", |bed| bed.log("client").matches("XMT: Solicit on eth0").count() >= 3);
    assert_eq!((bed.count("udp port 547"), bed.leased()), (0, 0));
    bed.nothing_else_left();
}

#[test]
fn without_its_rule_no_router_advertisement_is_heard() {
    let Some(mut bed) = Bed::new("without_its_rule_no_router_advertisement_is_heard") else { return };
    bed.without("neighbour and router discovery, MLD");
    bed.serve("192.0.2.1");
    bed.host.exec("ip link set eth0 up");
    let heard = |bed: &Bed| bed.count("ether src LAN and icmp6 and ip6[40] = 134 and ip6 src net fe80::/10");
    bed.wait("two router advertisements", |bed| heard(bed) >= 2);
    assert!(!bed.autoconfigured() && !bed.default_route("ra"));
    assert_eq!(bed.count("ether src HOST and icmp6"), 0);
    bed.nothing_else_left();
}

impl Bed {
    /// The cable, the sniffer, and a host that is connecting; `eth0` is still down. None where that cannot be had.
    fn new(test: &str) -> Option<Self> {
        let programs = ["dnsmasq", "dhclient", "dhcpcd", "networkctl", "dbus-daemon", "tcpdump", "ping", NETWORKD];
        if let Some(why) = no_room(&programs) {
            skip(test, &why);
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let (lan, host) = (Netns::new(), Netns::new());
        host.exec(&format!("ip link add eth0 type veth peer name lan0 netns {}", lan.path().display()));
        lan.exec("ip -6 addr add fd00:1::1/64 dev lan0 nodad; ip link set lan0 up");
        let ends = [(&lan, "lan0"), (&host, "eth0")].map(|(netns, dev)| {
            let link = netns.exec(&format!("ip -br link show {dev}"));
            link.split_whitespace().nth(2).unwrap().to_owned()
        });
        let mut blocked = Blocked::new(&host, directory.path());
        blocked.apply(&host);
        let sniffer = capture(&lan, directory.path());
        let noise = host.spawn(&format!(
            "sh -c '{}'",
            NOISE.replace("ENOUGH", &directory.path().join("enough").display().to_string())
        ));
        let room = Room::new(&host, directory.path());
        Some(Self { lan, host, ends, room, blocked, server: None, _sniffer: sniffer, noise, directory })
    }

    /// Brings our plan into force, and returns what had to be done.
    fn apply(&mut self) -> Vec<String> {
        self.blocked.apply(&self.host)
    }

    /// A DHCP server and router at this address and no other, with an identity of its own.
    fn serve(&mut self, address: &str) {
        self.server = None;
        self.lan.exec(&format!("ip -4 addr flush dev lan0; ip addr add {address}/24 dev lan0"));
        let identity = format!("ab:cd:{:02x}", address.rsplit('.').next().unwrap().parse::<u8>().unwrap());
        let log = self.file("server");
        let starts = self.log("server").matches("started, version").count();
        self.server = Some(self.lan.spawn(&format!(
            "dnsmasq --no-daemon --conf-file=/dev/null --pid-file= --user=root --port=0 --interface=lan0 --bind-interfaces \
             --dhcp-authoritative --no-ping --dhcp-leasefile=/dev/null --leasefile-ro --dhcp-duid=1,{identity} \
             --dhcp-range=192.0.2.100,192.0.2.150,{LEASE} --dhcp-option=58,{RENEW} --dhcp-option=59,{REBIND} \
             --dhcp-range=fd00:1::100,fd00:1::1ff,slaac,64,{LEASE} --enable-ra >>{} 2>&1",
            log.display()
        )));
        // Its sockets are open by then.
        self.wait("the server", |bed| bed.log("server").matches("started, version").count() > starts);
    }

    /// Starts a client for one family, as it runs on a host.
    fn start(&self, client: Client, family: &str) {
        if client == Client::Dhclient {
            // The others do that.
            self.host.exec("ip link set eth0 up");
            self.wait("a link-local address", |bed| {
                let addresses = bed.host.exec("ip -6 addr show dev eth0 scope link");
                addresses.contains("fe80:") && !addresses.contains("tentative")
            });
        }
        if client == Client::Networkd {
            let dhcp = if family == "-4" { "ipv4\nIPv6AcceptRA=no" } else { "ipv6\nIPv6AcceptRA=yes" };
            self.exec(&format!(
                "printf '[Match]\\nName=eth0\\n[Network]\\nDHCP={dhcp}\\n[DHCPv4]\\nUseHostname=no\\n' >/etc/systemd/network/eth0.network"
            ));
            self.room.spawn("bus", "dbus-daemon --system --nofork --nopidfile");
            self.wait("the bus", |bed| bed.room.output("test -S /run/dbus/system_bus_socket").status.success());
        }
        self.room.spawn(
            "client",
            &match client {
                Client::Dhclient => format!("dhclient {family} -d -v eth0"),
                Client::Dhcpcd => format!("dhcpcd {family} -B -d eth0"),
                Client::Networkd => NETWORKD.to_owned(),
            },
        );
    }

    /// Takes the rules with this comment out of the firewall.
    fn without(&mut self, comment: &str) {
        let all = self.host.exec("nft list table inet enftun");
        let rest: Vec<&str> = all.lines().filter(|line| !line.contains(comment)).collect();
        assert!(rest.len() < all.lines().count(), "{comment}: {all}");
        self.blocked.host.guard = None;
        self.blocked.apply(&self.host);
        self.host.exec(&format!("nft -f - <<'EOF'\ndelete table inet enftun\n{}\nEOF", rest.join("\n")));
    }

    /// The rest of the lifetime of an address that begins so, in seconds; 0 if there is none.
    fn lifetime(&self, family: &str, begins: &str) -> u32 {
        let addresses = self.host.exec(&format!("ip {family} addr show dev eth0 scope global -tentative -dadfailed"));
        let mut lines = addresses.lines().skip_while(|line| !line.contains(&format!(" {begins}")));
        let rest =
            lines.nth(1).and_then(|line| line.trim().strip_prefix("valid_lft ")?.split("sec").next()?.parse().ok());
        rest.unwrap_or(0)
    }

    /// As [`Self::lifetime`], of the DHCPv6 lease.
    fn leased(&self) -> u32 {
        self.lifetime("-6", "fd00:1::1")
    }

    /// Whether dhclient's file has the lease that began last, and all of it.
    fn written_down(&self) -> bool {
        let file = self.exec("cat /var/lib/dhcp/dhclient6.leases");
        let last = file.rsplit("starts ").next().and_then(|rest| rest.split(';').next());
        let began: Option<u64> = last.and_then(|began| began.parse().ok());
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        began.is_some_and(|began| began + 30 > now) && file.ends_with("}\n")
    }

    /// Whether there is an address that the host itself made of the router's prefix.
    fn autoconfigured(&self) -> bool {
        // The range of leases is fd00:1::100 to fd00:1::1ff, and no address that is made of a hardware address is that short.
        self.host
            .exec("ip -6 addr show dev eth0 scope global")
            .lines()
            .any(|line| line.contains("ff:fe") && line.contains("fd00:1::"))
    }

    fn default_route(&self, protocol: &str) -> bool {
        self.host.exec(&format!("ip -6 route show default proto {protocol}")).contains("via fe80:")
    }

    /// Whether a DHCPv6 message of this sort was sent, and a reply came after it.
    fn answered(&self, message: &str) -> bool {
        let lines = self.frames("udp port 546 or udp port 547");
        let sent = lines.iter().position(|line| line.contains(&format!("dhcp6 {message}")));
        sent.is_some_and(|sent| lines[sent..].iter().any(|line| line.contains("dhcp6 reply")))
    }

    /// The frames on the cable that this filter of tcpdump's takes; LAN and HOST are the addresses of its ends.
    fn frames(&self, filter: &str) -> Vec<String> {
        let [lan, host] = &self.ends;
        let filter = filter.replace("LAN", lan).replace("HOST", host);
        let output = Command::new("tcpdump")
            .args(["-n", "-e", "-tt", "-r"])
            .arg(self.file("frames"))
            .arg(&filter)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        // The sniffer may be in the middle of a frame.
        assert!(output.status.success() || errors.contains("truncated dump file"), "{filter}: {errors}");
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }

    fn count(&self, filter: &str) -> usize {
        self.frames(filter).len()
    }

    /// Nothing left but what may leave; and what does leave when nothing blocks is seen, after all that left before.
    fn nothing_else_left(&mut self) {
        std::fs::write(self.file("enough"), "").unwrap();
        self.noise.0.wait().unwrap();
        self.blocked.open(&self.host);
        self.host.exec("ip link set eth0 up");
        self.wait("the sniffer to see an open host's packet", |bed| {
            bed.host.output("ping -c1 -W1 -s 900 ff02::1%eth0");
            bed.count(&format!("ether src HOST and {MARKER}")) > 0
        });
        let from_host = self.frames("ether src HOST");
        let marker = self.frames(&format!("ether src HOST and {MARKER}")).remove(0);
        let blocked = from_host.iter().position(|line| *line == marker).unwrap();
        let allowed = self.frames(&format!("ether src HOST and ({ALLOWED})"));
        let leaks: Vec<_> = from_host[..blocked].iter().filter(|line| !allowed.contains(line)).collect();
        assert!(leaks.is_empty(), "{leaks:#?}");
    }

    /// Waits; the slowest is a DHCPv6 rebinding, after 105 s.
    #[track_caller]
    fn wait(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(150);
        while !condition(self) {
            if Instant::now() > deadline {
                let state = self.host.exec("ip addr; ip -4 route; ip -6 route; ip rule");
                let logs = ["client", "server"].map(|what| self.log(what));
                let frames = self.frames("");
                let last = &frames[frames.len().saturating_sub(40)..];
                panic!("waited in vain for: {what}\n{state}\n{}\n{last:#?}", logs.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(name)).unwrap_or_default()
    }

    #[track_caller]
    fn exec(&self, command: &str) -> String {
        self.room.exec(command)
    }
}

/// What tries to leave all the while, by ways that routing cannot close: bound to the link, and link-local.
const NOISE: &str = "until [ -e ENOUGH ]; do
    ping -c1 -W1 -I eth0 192.0.2.1; ping -c1 -W1 -I eth0 -b 255.255.255.255
    ping -c1 -W1 -I eth0 fd00:1::1; ping -c1 -W1 ff02::1%eth0
    sleep 0.5
done >/dev/null 2>&1";

/// Writes what passes the cable to `frames`.
fn capture(lan: &Netns, directory: &Path) -> Running {
    let mut command = lan.command("tcpdump");
    command.args(["-i", "lan0", "-U", "--immediate-mode", "-Z", "root", "-w"]).arg(directory.join("frames"));
    let mut sniffer = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut stderr = BufReader::new(sniffer.stderr.take().unwrap());
    while !line.contains("listening on") {
        assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "{line}");
    }
    sniffer.stderr = Some(stderr.into_inner());
    Running(sniffer)
}

impl Blocked {
    fn new(host: &Netns, runtime_dir: &Path) -> Self {
        let text = "kind = \"enf\"\n[remote]\nhosts = [\"2001:db8::1\"]\nname = \"router\"\n[route]\nprefixes = [\"default\"]\n";
        let (tunnel, findings) = config::parse_tunnel("enf0", Path::new("enf0.toml"), Path::new("/"), text);
        let tunnel = tunnel.unwrap_or_else(|| panic!("{findings:?}"));
        let facts = Facts { wanted: &Wanted::Connecting, kept: &[], openings: &Openings::default() };
        let plan = plan::build(&tunnel, &BTreeMap::new(), facts);
        let uid = nix::unistd::getuid().as_raw();
        host.run(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let kernel = runtime.block_on(async { Kernel::new(uid, runtime_dir).unwrap() });
            Self { runtime, kernel, host: Host::of([&plan], uid), plan }
        })
    }

    fn open(&mut self, host: &Netns) {
        host.run(|| self.runtime.block_on(async { self.kernel.apply_host(&Host::default()).await.unwrap() }));
    }

    fn apply(&mut self, host: &Netns) -> Vec<String> {
        host.run(|| {
            self.runtime.block_on(async {
                let mut changes = self.kernel.apply_host(&self.host).await.unwrap().changes;
                changes.extend(self.kernel.apply(&self.plan).await.unwrap().changes);
                changes
            })
        })
    }
}
