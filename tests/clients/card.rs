//! A host behind a router card, with the programs that people have: the kernel's own handling of router advertisements, dhcpcd,
//! dhclient and systemd-networkd. Each has its address and routes from the card alone, and reaches the far end by them.

use crate::common::card::{Card, LINK, card};
use crate::common::roaming::{OVERLAY_ROUTER, OWN, Settings, TUNNEL};
use crate::common::room::{NETWORKD, Room, no_room};
use crate::common::{skip, wait_for};
use std::time::{Duration, Instant};

/// A host whose files and processes are its own, behind a card that is connected.
struct Behind<'a, 'b> {
    card: &'a mut Card<'b>,
    room: Room,
    _logs: tempfile::TempDir,
}

fn behind(test: &str, settings: &Settings, advertise: &str, tell: impl FnOnce(&mut Behind<'_, '_>) + Send) {
    let programs = ["dhclient", "dhcpcd", "networkctl", "rdisc6", "dbus-daemon", "ping", NETWORKD];
    if let Some(why) = no_room(&programs) {
        return skip(test, &why);
    }
    card(test, settings, advertise, |card| {
        let logs = tempfile::tempdir().unwrap();
        let room = Room::new(&card.host, logs.path());
        card.connect();
        tell(&mut Behind { card, room, _logs: logs });
    });
}

impl Behind<'_, '_> {
    fn networkd(&self) {
        self.room.exec(&format!(
            "printf '[Match]\\nName={LINK}\\n[Network]\\nDHCP=ipv6\\nIPv6AcceptRA=yes\\n' >/etc/systemd/network/eth0.network"
        ));
        self.room.spawn("bus", "dbus-daemon --system --nofork --nopidfile");
        self.wait("the bus", |behind| behind.room.output("test -S /run/dbus/system_bus_socket").status.success());
        self.room.spawn("client", NETWORKD);
    }

    fn addresses(&self) -> String {
        self.room.exec(&format!("ip -6 addr show dev {LINK} scope global -tentative -dadfailed"))
    }

    /// The host has the tunnel's address, all of it and nothing else.
    fn leased(&self) -> bool {
        let addresses = self.addresses();
        addresses.contains(&format!("inet6 {OWN}/128 ")) && addresses.matches("inet6").count() == 1
    }

    fn routes(&self) -> String {
        self.room.exec(&format!("ip -6 route show dev {LINK} proto ra"))
    }

    fn default_route(&self) -> bool {
        self.routes().lines().any(|line| line.starts_with("default ") && line.contains("via fe80::1"))
    }

    /// With no word of ours about source or way.
    fn pings(&self) -> bool {
        self.room.output(&format!("ping -c1 -W1 {OVERLAY_ROUTER}")).status.success()
    }

    #[track_caller]
    fn wait(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(90);
        while !condition(self) {
            if Instant::now() > deadline {
                let state = self.room.exec("ip addr; ip -6 route; ip -6 neigh");
                panic!(
                    "waited in vain for: {what}\n{state}\n{}\n{}",
                    self.room.log("client"),
                    self.card.world.log_end()
                );
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Address, default route, and the far end both ways.
    #[track_caller]
    fn served(&self) {
        self.wait("the tunnel's address", Self::leased);
        self.wait("the default route", Self::default_route);
        self.wait("an answer from the far end", Self::pings);
        let from_far = || self.card.world.far.output(&format!("ping -c1 -W1 {OWN}")).status.success();
        self.wait("the far end's question to be answered", |_| from_far());
    }

    /// The user disconnects: there is no way any more, and the client knows.
    #[track_caller]
    fn told_of_the_end(&self) {
        assert!(self.card.world.ctl(&["disconnect", TUNNEL, "--wait"]).status.success());
        self.wait("the default route to be gone", |behind| !behind.default_route());
    }
}

#[test]
fn a_router_advertisement_has_every_field_as_it_is_configured() {
    let test = "a_router_advertisement_has_every_field_as_it_is_configured";
    let settings = Settings { prefixes: "\"default\", \"fd00:8f80::/32\"", ..Settings::default() };
    behind(test, &settings, "lladdr = \"02:00:5e:10:00:01\"\nra_period = \"100s\"", |behind| {
        let told = behind.room.exec(&format!("rdisc6 -1 -w 5000 {LINK}"));
        let field = |name: &str| {
            let lines = told.lines().filter_map(|line| line.split_once(':')).filter(|(key, _)| key.trim() == name);
            lines.map(|(_, value)| value.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
        };
        for (name, values) in [
            ("Hop limit", &["undefined ( 0x00)"][..]),
            ("Stateful address conf.", &["Yes"]),
            ("Router preference", &["high"]),
            ("Router lifetime", &["300 (0x0000012c) seconds"]),
            ("Source link-layer address", &["02:00:5E:10:00:01"]),
            ("MTU", &["1280 bytes (valid)"]),
            ("Route", &["fd00:8f80:1::/64", "::/0", "fd00:8f80::/32"]),
            ("Route preference", &["high"; 3]),
            ("Route lifetime", &["300 (0x0000012c) seconds"; 3]),
        ] {
            assert_eq!(field(name), values, "{name}\n{told}");
        }
        assert!(told.contains("from fe80::1") && !told.contains("Prefix"), "no address is made of it: {told}");
    });
}

#[test]
fn the_kernel_takes_routes_with_their_lifetimes_and_the_mtu_and_makes_no_address() {
    let test = "the_kernel_takes_routes_with_their_lifetimes_and_the_mtu_and_makes_no_address";
    let settings = Settings { prefixes: "\"default\", \"fd00:8f80::/32\"", ..Settings::default() };
    behind(test, &settings, "ra_period = \"100s\"", |behind| {
        behind.wait("the default route", Behind::default_route);
        let routes = behind.routes();
        let of = |prefix: &str| routes.lines().find(|line| line.starts_with(&format!("{prefix} "))).map(str::to_owned);
        let expires = |line: &str| {
            let word = line.split("expires ").nth(1)?.split("sec").next()?;
            word.parse::<u32>().ok()
        };
        let default = of("default").unwrap_or_default();
        assert!(default.contains("pref high") && expires(&default).is_some_and(|left| left <= 300), "{routes}");
        // Where the kernel was built with it (CONFIG_IPV6_ROUTE_INFO).
        let plen = format!("/proc/sys/net/ipv6/conf/{LINK}/accept_ra_rt_info_max_plen");
        if std::path::Path::new("/proc/sys/net/ipv6/conf/lo/accept_ra_rt_info_max_plen").exists() {
            let route = of("fd00:8f80::/32").unwrap_or_default();
            assert!(route.contains("via fe80::1") && route.contains("pref high"), "{plen}: {routes}");
        }
        behind
            .wait("the MTU", |behind| behind.room.exec(&format!("cat /proc/sys/net/ipv6/conf/{LINK}/mtu")) == "1280\n");
        assert_eq!(behind.addresses(), "", "no address is made of an advertisement");
        behind.card.give_address();
        behind.served();
        behind.told_of_the_end();
    });
}

#[test]
fn dhcpcd_has_its_address_and_routes_renews_and_releases() {
    behind("dhcpcd_has_its_address_and_routes_renews_and_releases", &Settings::default(), "", |behind| {
        behind.room.spawn("client", &format!("dhcpcd -6 -B -d {LINK}"));
        behind.served();
        // It asks again, and keeps both.
        behind.room.exec(&format!("dhcpcd -6 -N {LINK}"));
        behind
            .wait("a renewal", |behind| behind.room.log("client").matches("REPLY6 received from fe80::1").count() > 1);
        behind.served();
        behind.told_of_the_end();
        behind.room.exec(&format!("dhcpcd -6 -k {LINK}"));
        behind.wait("the address to be gone", |behind| behind.addresses().is_empty());
    });
}

#[test]
fn dhclient_has_its_address_from_the_card_and_its_routes_by_the_kernel() {
    behind("dhclient_has_its_address_from_the_card_and_its_routes_by_the_kernel", &Settings::default(), "", |behind| {
        behind.room.spawn("client", &format!("dhclient -6 -d -v {LINK}"));
        behind.served();
        let log = behind.room.log("client");
        assert!(log.contains("RCV: Advertise message") && log.contains("RCV: Reply message"), "{log}");
        behind.told_of_the_end();
        // And again: it gets the same address.
        behind.card.connect();
        behind.served();
        behind.room.exec(&format!("kill $(cat /run/client.pid); dhclient -6 -r -v {LINK}"));
        behind.wait("the address to be gone", |behind| behind.addresses().is_empty());
    });
}

#[test]
fn networkd_has_its_address_routes_and_name_servers_and_renews() {
    let test = "networkd_has_its_address_routes_and_name_servers_and_renews";
    let dns = "[dns]\nservers = [\"fd00:8f80:1::1\"]\n";
    behind(test, &Settings::default(), dns, |behind| {
        behind.networkd();
        behind.served();
        let status = || behind.room.exec(&format!("networkctl --no-pager status {LINK}"));
        behind.wait("networkd to be done", |_| status().contains("(configured)"));
        assert!(status().contains("fd00:8f80:1::1"), "the name server: {}", status());
        behind.room.exec(&format!("networkctl renew {LINK}"));
        behind.served();
        behind.told_of_the_end();
    });
}

#[test]
fn a_client_that_is_there_before_the_tunnel_and_through_its_trouble_is_served_by_the_same_address() {
    let test = "a_client_that_is_there_before_the_tunnel_and_through_its_trouble_is_served_by_the_same_address";
    behind(test, &Settings::default(), "", |behind| {
        assert!(behind.card.world.ctl(&["disconnect", TUNNEL, "--wait"]).status.success());
        behind.networkd();
        wait_for("networkd to look for somebody", || {
            behind.room.output(&format!("networkctl --no-pager status {LINK}")).status.success()
        });
        assert!(!behind.leased() && !behind.default_route());
        behind.card.connect();
        behind.served();
        behind.card.world.kill_router();
        wait_for("the loss of the router", || behind.card.world.status()["state"] == "reconnecting");
        behind.card.world.kill_daemon();
        assert!(behind.leased() && behind.default_route() && !behind.pings(), "it has no other way");
        behind.card.world.start_router();
        behind.card.world.start_daemon();
        behind.served();
    });
}

#[test]
fn without_router_there_is_an_address_and_no_route_and_a_route_by_hand_does() {
    let test = "without_router_there_is_an_address_and_no_route_and_a_route_by_hand_does";
    behind(test, &Settings::default(), "router = false", |behind| {
        behind.room.spawn("client", &format!("dhclient -6 -d -v {LINK}"));
        behind.wait("the tunnel's address", Behind::leased);
        assert!(!behind.room.output(&format!("rdisc6 -1 -r 1 -w 1000 {LINK}")).status.success());
        assert!(!behind.default_route() && !behind.pings());
        behind.room.exec(&format!("ip -6 route add default via fe80::1 dev {LINK}"));
        behind.wait("an answer from the far end", Behind::pings);
    });
}

#[test]
fn without_dhcp6_there_are_routes_and_no_address_and_an_address_by_hand_does() {
    let test = "without_dhcp6_there_are_routes_and_no_address_and_an_address_by_hand_does";
    behind(test, &Settings::default(), "dhcp6 = false", |behind| {
        behind.wait("the default route", Behind::default_route);
        let told = behind.room.exec(&format!("rdisc6 -1 -w 5000 {LINK}"));
        let managed = told.lines().find(|line| line.starts_with("Stateful address conf.")).unwrap_or_default();
        assert!(managed.ends_with(" No"), "{told}");
        behind.room.spawn("client", &format!("dhclient -6 -d -v {LINK}"));
        behind.wait("three solicitations", |behind| behind.room.log("client").matches("XMT: Solicit").count() >= 3);
        assert_eq!(behind.addresses(), "");
        behind.card.give_address();
        behind.wait("an answer from the far end", Behind::pings);
    });
}
