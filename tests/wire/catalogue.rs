//! The catalogue of probes: each sort of packet that must not leave, how it is sent, and which layer holds it alone.

use crate::bed::{Bed, Example, FAR_SERVICE, LAN, LAN6, NEIGHBOUR, NEIGHBOUR6, OWN, OWN4, ROUTER, ROUTER6, SERVICE};
use crate::common::bus::{daemon_user, no_other_uid, own_uid};
use crate::probes::{Held, Probe, Who};
use crate::shot::{Link, Shot, Way, What, payload};
use socket2::{SockAddr, Socket};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::Duration;

/// Somebody who is neither root nor the daemon.
const SOMEBODY: u32 = 1;
/// The marks of nobody: another mark than the tunnel's.
const OTHER_MARK: u32 = 0x99;

/// Collects probes; the names are made of what they are.
struct Catalogue {
    link: Link,
    probes: Vec<Probe>,
}

impl Catalogue {
    fn add(&mut self, who: Who, held: Held, name: &str, shot: Shot) {
        // Where there are no other users there is nobody to be.
        if matches!(who, Who::Client(uid) if uid != own_uid() && no_other_uid().is_some()) {
            return;
        }
        let mut name = format!("{name}: {who:?} {:?} to {}", shot.what, shot.destination());
        if shot.way != Way::Chosen {
            name += &format!(" by {:?}", shot.way);
        }
        if let Some(mark) = shot.mark {
            name += &format!(" with mark {mark:#x}");
        }
        if let Some(source) = shot.source {
            name += &format!(" from {source}");
        }
        let link = self.link.clone();
        // Refused, unreachable, without an address just now: all the same to us.
        let fire = move |id| drop(shot.fire(id, &link));
        self.probes.push(Probe { name, held, who, fire: Box::new(fire) });
    }

    /// A socket that is connected while the host is open, and sends ever after.
    fn add_flow(&mut self, who: Who, held: Held, shot: Shot) {
        let name = format!("from before: {who:?} {:?} to {} by {:?}", shot.what, shot.to, shot.way);
        let (link, mut flow) = (self.link.clone(), None::<Socket>);
        let fire = move |id| {
            let socket = flow.get_or_insert_with(|| {
                let socket = shot.socket(id, &link).unwrap();
                let to = SockAddr::from(shot.destination());
                socket.connect_timeout(&to, Duration::from_secs(10)).expect("an open host");
                socket.set_nonblocking(true).unwrap();
                socket
            });
            let _ = socket.send(&payload(id, 0));
        };
        self.probes.push(Probe { name, held, who, fire: Box::new(fire) });
    }
}

/// All probes that fit the bed's example.
pub fn all(bed: &Bed) -> Vec<Probe> {
    let mut catalogue = Catalogue { link: bed.link.clone(), probes: Vec::new() };
    catalogue.far(bed);
    catalogue.flows(bed);
    catalogue.forwarded(bed);
    catalogue.sources(bed);
    catalogue.inbound(bed);
    if bed.example == Example::Device {
        catalogue.lan(bed);
        catalogue.imitations(bed);
    }
    catalogue.probes
}

/// A few that only the firewall holds, as fast as they can: one socket each, and no pause.
pub fn flood(bed: &Bed) -> Vec<Probe> {
    let [far4, far6] = bed.example.far().map(|far| SocketAddr::new(far, 9999));
    let shots = [
        Shot::new(What::Udp, far4).by(Way::Device),
        Shot::new(What::Udp, far4).marked(bed.example.mark()),
        Shot::new(What::Udp, far6).marked(bed.example.mark()),
    ];
    let link = bed.link.clone();
    let probe = |shot: Shot| {
        let (link, mut socket) = (link.clone(), None::<Socket>);
        let fire = move |id| {
            let socket = socket.get_or_insert_with(|| shot.socket(id, &link).unwrap());
            let (to, payload) = (SockAddr::from(shot.destination()), payload(id, 0));
            for _ in 0..100 {
                let _ = socket.send_to(&payload, &to);
            }
        };
        let name = format!("flood to {} by {:?}, mark {:?}", shot.to, shot.way, shot.mark);
        Probe { name, held: Held::ByFirewall, who: Who::Client(own_uid()), fire: Box::new(fire) }
    };
    shots.map(probe).into()
}

/// Bound to a device, IPv4 is held by the firewall alone.
fn bound(to: IpAddr) -> Held {
    if to.is_ipv4() { Held::ByFirewall } else { Held::ByRouting }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

impl Catalogue {
    /// To a host far away that belongs in the tunnel.
    fn far(&mut self, bed: &Bed) {
        let (root, mark) = (Who::Client(own_uid()), bed.example.mark());
        for far in bed.example.far() {
            let at = |port| SocketAddr::new(far, port);
            for (what, port) in
                [(What::Udp, 53), (What::Udp, 9999), (What::Tcp, 53), (What::Tcp, 80), (What::Echo, 0), (What::Raw, 0)]
            {
                self.add(root, Held::ByRouting, "plain", Shot::new(what, at(port)));
                self.add(root, Held::ByFirewall, "stolen mark", Shot::new(what, at(port)).marked(mark));
                self.add(root, bound(far), "bound", Shot::new(what, at(port)).by(Way::Device));
            }
            for (what, port) in [(What::Udp, 53), (What::Tcp, 443)] {
                for uid in [SOMEBODY, daemon_user()] {
                    self.add(Who::Client(uid), Held::ByRouting, "another user", Shot::new(what, at(port)));
                    let marked = Shot::new(what, at(port)).marked(mark);
                    self.add(Who::Client(uid), Held::ByFirewall, "another user, stolen mark", marked);
                }
            }
            self.add(root, Held::ByRouting, "other mark", Shot::new(What::Udp, at(53)).marked(OTHER_MARK));
            for way in [Way::PacketInfo, Way::UnicastIf] {
                self.add(root, bound(far), "bound", Shot::new(What::Udp, at(53)).by(way));
                self.add(root, bound(far), "bound", Shot::new(What::Udp, at(9999)).by(way));
            }
            self.add(Who::Client(SOMEBODY), bound(far), "bound", Shot::new(What::Udp, at(53)).by(Way::Device));
            self.add(root, Held::ByRouting, "large", Shot { size: 4000, ..Shot::new(What::Udp, at(9999)) });
            let large = Shot { size: 4000, ..Shot::new(What::Udp, at(9999)) };
            self.add(root, bound(far), "large, bound", large.by(Way::Device));
            if far.is_ipv4() {
                self.add(root, Held::ByRouting, "mapped", Shot { mapped: true, ..Shot::new(What::Udp, at(53)) });
                self.add(root, Held::ByRouting, "mapped", Shot { mapped: true, ..Shot::new(What::Tcp, at(80)) });
            }
        }
    }

    /// Sockets that were there before.
    fn flows(&mut self, bed: &Bed) {
        for far in bed.example.far() {
            for (what, port) in [(What::Udp, 9999), (What::Tcp, FAR_SERVICE)] {
                let shot = Shot::new(what, SocketAddr::new(far, port));
                self.add_flow(Who::Client(own_uid()), Held::ByRouting, shot);
                self.add_flow(Who::Client(own_uid()), bound(far), shot.by(Way::Device));
                self.add_flow(Who::Container, Held::ByRouting, shot);
            }
        }
        if bed.example == Example::Device {
            for own in [LAN, LAN6] {
                let to = SocketAddr::new(ip(own), SERVICE);
                self.add_flow(Who::Neighbour, Held::ByRouting, Shot::new(What::Tcp, to));
                self.add_flow(Who::Neighbour, Held::ByRouting, Shot::new(What::Udp, to));
            }
        }
    }

    /// From behind the client, masqueraded (.2) and as they are (.3).
    fn forwarded(&mut self, bed: &Bed) {
        for far in bed.example.far() {
            for last in [2, 3] {
                let source = if far.is_ipv4() { format!("10.99.0.{last}") } else { format!("fd99::{last}") };
                for (what, port) in [(What::Udp, 53), (What::Udp, 9999), (What::Tcp, 80), (What::Echo, 0)] {
                    let shot = Shot::new(what, SocketAddr::new(far, port)).from(ip(&source));
                    self.add(Who::Container, Held::ByRouting, "forwarded", shot);
                }
            }
        }
        if bed.example == Example::Device {
            for neighbour in [NEIGHBOUR, NEIGHBOUR6] {
                let shot = Shot::new(What::Udp, SocketAddr::new(ip(neighbour), 53));
                self.add(Who::Container, Held::ByRouting, "forwarded", shot);
            }
        }
    }

    /// With a source of their own choice.
    fn sources(&mut self, bed: &Bed) {
        let root = Who::Client(own_uid());
        for far in bed.example.far() {
            let (lan, own) = if far.is_ipv4() { (LAN, OWN4) } else { (LAN6, OWN) };
            let shot = |what, port| Shot::new(what, SocketAddr::new(far, port));
            for what in [What::Udp, What::Tcp] {
                self.add(root, Held::ByRouting, "the LAN's source", shot(what, 80).from(ip(lan)));
                // The kernel itself refuses an IPv4 source that is nowhere.
                if far.is_ipv6() || bed.example == Example::Server {
                    self.add(root, Held::ByRouting, "the tunnel's source", shot(what, 81).from(ip(own)));
                    let shot = shot(what, 80).from(ip(own));
                    self.add(root, bound(far), "the tunnel's source", shot.by(Way::Device));
                    self.add(
                        root,
                        Held::ByFirewall,
                        "the tunnel's source, stolen mark",
                        shot.marked(bed.example.mark()),
                    );
                }
            }
        }
    }

    /// From the LAN to the client; the answers must not leave.
    fn inbound(&mut self, bed: &Bed) {
        // Where the LAN belongs in no tunnel, routing has nothing against answers.
        let held = if bed.example == Example::Device { Held::ByRouting } else { Held::ByFirewall };
        for who in [Who::Neighbour, Who::Hostile] {
            let mut addresses = vec![("the tunnel's address", ip(OWN)), ("the tunnel's address", ip(OWN4))];
            if bed.example == Example::Device {
                addresses.extend([("inbound", ip(LAN)), ("inbound", ip(LAN6))]);
            }
            for (name, address) in addresses {
                // The second port is closed.
                for (what, port) in [
                    (What::Udp, SERVICE),
                    (What::Tcp, SERVICE),
                    (What::Udp, SERVICE + 1),
                    (What::Tcp, SERVICE + 1),
                    (What::Echo, 0),
                ] {
                    self.add(who, held, name, Shot::new(what, SocketAddr::new(address, port)));
                }
            }
            if bed.example == Example::Device {
                let index = bed.neighbour.run(|| nix::net::if_::if_nametoindex("lan0").unwrap());
                for to in ["fe80::10", "ff02::1"] {
                    let to = SocketAddrV6::new(to.parse().unwrap(), SERVICE, 0, index);
                    self.add(who, Held::ByRouting, "inbound, link-local", Shot::new(What::Echo, to.into()));
                    self.add(who, Held::ByRouting, "inbound, link-local", Shot::new(What::Udp, to.into()));
                }
            }
        }
    }

    /// To the LAN: its hosts, broadcast, multicast.
    fn lan(&mut self, bed: &Bed) {
        let root = Who::Client(own_uid());
        for neighbour in [NEIGHBOUR, NEIGHBOUR6] {
            let to = |port| SocketAddr::new(ip(neighbour), port);
            for (what, port) in [(What::Udp, 53), (What::Tcp, 80), (What::Echo, 0)] {
                self.add(root, Held::ByRouting, "neighbour", Shot::new(what, to(port)));
                self.add(root, bound(to(0).ip()), "neighbour", Shot::new(what, to(port)).by(Way::Device));
                let marked = Shot::new(what, to(port)).marked(bed.example.mark());
                self.add(root, Held::ByFirewall, "neighbour, stolen mark", marked);
            }
            for way in [Way::PacketInfo, Way::UnicastIf, Way::DontRoute] {
                self.add(root, bound(to(0).ip()), "neighbour", Shot::new(What::Udp, to(53)).by(way));
            }
        }
        let scoped = |address: &str, port| SocketAddrV6::new(ip6(address), port, 0, bed.link.index).into();
        for (what, port) in [(What::Udp, 53), (What::Tcp, 80), (What::Echo, 0)] {
            self.add(root, Held::ByRouting, "link-local", Shot::new(what, scoped("fe80::20", port)));
        }
        for (group, port) in [("ff02::1:77", 9999), ("ff02::fb", 5353), ("ff05::77", 9999), ("ff0e::77", 9999)] {
            // The kernel looks at the scope of link-local groups only.
            let held = if group.starts_with("ff02") { Held::ByFirewall } else { Held::ByRouting };
            self.add(root, held, "scoped multicast", Shot::new(What::Udp, scoped(group, port)));
            let to = SocketAddr::new(ip(group), port);
            for way in [Way::MulticastIf, Way::Device, Way::PacketInfo] {
                self.add(root, Held::ByFirewall, "scoped multicast", Shot::new(What::Udp, to).by(way));
            }
            // A link-local group needs a link.
            if !group.starts_with("ff02") {
                self.add(root, Held::ByRouting, "multicast", Shot::new(What::Udp, to));
            }
        }
        self.add(root, Held::ByFirewall, "scoped multicast", Shot::new(What::Echo, scoped("ff02::1", 0)));
        for (group, port) in [("224.0.0.251", 5353), ("224.0.0.77", 9999), ("239.1.2.3", 9999)] {
            let to = SocketAddr::new(ip(group), port);
            self.add(root, Held::ByRouting, "multicast", Shot::new(What::Udp, to));
            for way in [Way::MulticastIf, Way::Device, Way::PacketInfo] {
                self.add(root, Held::ByFirewall, "scoped multicast", Shot::new(What::Udp, to).by(way));
            }
            // The kernel takes the source's interface.
            self.add(root, Held::ByFirewall, "scoped multicast", Shot::new(What::Udp, to).from(ip(LAN)));
        }
        // The group is the probe's own.
        self.add(
            root,
            Held::ByFirewall,
            "membership report",
            Shot::new(What::Join, SocketAddr::new(ip("239.77.0.0"), 0)),
        );
        for (broadcast, held) in [("255.255.255.255", Held::ByRouting), ("192.0.2.255", Held::ByFirewall)] {
            // DHCP's own port, from another than DHCP's own.
            for port in [67, 9999] {
                let shot = Shot::new(What::Udp, SocketAddr::new(ip(broadcast), port));
                self.add(root, held, "broadcast", shot);
                for way in [Way::Device, Way::PacketInfo, Way::UnicastIf] {
                    self.add(root, Held::ByFirewall, "broadcast", shot.by(way));
                }
            }
        }
    }

    /// Towards the router where the tunnel goes, as if it were the tunnel.
    fn imitations(&mut self, bed: &Bed) {
        let routing = if bed.example == Example::Device { Held::ByRouting } else { Held::ByFirewall };
        let mark = bed.example.mark();
        for router in [ROUTER, ROUTER6] {
            let to = SocketAddr::new(ip(router), 443);
            // The daemon's own user with the mark is the daemon, for all that a firewall can know; not so by UDP.
            let shots =
                [(What::Tcp, own_uid()), (What::Tcp, SOMEBODY), (What::Udp, own_uid()), (What::Udp, daemon_user())];
            for (what, uid) in shots {
                let who = Who::Client(uid);
                self.add(who, routing, "imitation", Shot::new(what, to));
                let held = if routing == Held::ByRouting { bound(to.ip()) } else { routing };
                self.add(who, held, "imitation, bound", Shot::new(what, to).by(Way::Device));
                if what == What::Udp || uid != daemon_user() {
                    self.add(who, Held::ByFirewall, "imitation, stolen mark", Shot::new(what, to).marked(mark));
                }
            }
            self.add(Who::Client(daemon_user()), routing, "imitation, unmarked", Shot::new(What::Tcp, to));
            let beside = Shot::new(What::Tcp, SocketAddr::new(ip(router), 444)).marked(mark);
            self.add(Who::Client(daemon_user()), Held::ByFirewall, "beside the router's port", beside);
        }
    }
}

fn ip6(text: &str) -> std::net::Ipv6Addr {
    text.parse().unwrap()
}
