//! A router card: the client of [`super::roaming`] with a port `usb0`, and the host behind it in a namespace of its own, on
//! `eth0`. The host has only what the card tells it.
//!
//! ```text
//! host behind: eth0 --- usb0 :card: a0, b0 --- middles --- far (enftun-router)
//! ```

use super::netns::{Netns, ip, veth};
use super::roaming::{OVERLAY_ROUTER, OWN, Settings, TUNNEL, World, world};
use super::wait_for;
use std::fs::OpenOptions;
use std::io::Write;

/// The port's name, and the host's.
pub const PORT: &str = "usb0";
pub const LINK: &str = "eth0";

/// The card is the test's own namespace.
pub struct Card<'a> {
    pub world: &'a mut World,
    pub host: Netns,
}

/// Runs a story with router and daemon running, and the tunnel not yet connected. `advertise` are lines of the section.
pub fn card(test: &str, settings: &Settings, advertise: &str, tell: impl FnOnce(&mut Card<'_>) + Send) {
    world(test, settings, |world| {
        let mut card = Card { world, host: Netns::new() };
        card.plug();
        card.write(settings, advertise);
        card.world.start_router();
        card.world.start_daemon();
        tell(&mut card);
    });
}

impl Card<'_> {
    /// The cable between card and host.
    pub fn plug(&self) {
        veth(&Netns::here(), PORT, &self.host, LINK);
        self.host.exec(&format!(
            "cd /proc/sys/net/ipv6/conf/{LINK}; echo 2 > accept_ra; echo 1 > accept_ra_rtr_pref
             for f in accept_ra_rt_info_max_plen; do [ ! -e $f ] || echo 128 > $f; done
             ip link set {LINK} down; ip link set {LINK} addrgenmode eui64; ip link set {LINK} up"
        ));
    }

    /// Writes the tunnel's file.
    pub fn write(&self, settings: &Settings, advertise: &str) {
        self.world.configure(settings);
        let file = self.world.path().join(format!("etc/tunnels/{TUNNEL}.toml"));
        let mut file = OpenOptions::new().append(true).open(file).unwrap();
        write!(file, "\n[advertise]\ndev = \"{PORT}\"\n{advertise}\n").unwrap();
    }

    /// Connects, and waits until it is.
    #[track_caller]
    pub fn connect(&self) {
        let output = self.world.ctl(&["connect", TUNNEL, "--wait=30s"]);
        assert!(output.status.success(), "{output:?}\n{}", self.world.log_end());
    }

    /// The host takes the address that it could have had by DHCPv6.
    pub fn give_address(&self) {
        self.host.exec(&format!("ip addr replace {OWN}/128 dev {LINK} nodad"));
    }

    /// The host has a default route from the card.
    pub fn default_route(&self) -> bool {
        self.host.exec(&format!("ip -6 route show default dev {LINK}")).contains("via fe80::1 proto ra")
    }

    /// One ping from the host's own address.
    pub fn pings(&self, address: &str) -> bool {
        self.host.output(&format!("ping -c1 -W1 -I {OWN} {address}")).status.success()
    }

    /// Waits until the host reaches the far end through the tunnel.
    #[track_caller]
    pub fn carries(&self) {
        let log = || format!("{}\n{}", self.world.log_end(), self.host.exec("ip addr; ip -6 route; ip -6 neigh"));
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while !self.pings(OVERLAY_ROUTER) {
            assert!(std::time::Instant::now() < deadline, "the host behind reaches nothing\n{}", log());
        }
    }

    /// The host has the default route and an address, and reaches the far end.
    #[track_caller]
    pub fn up(&self) {
        self.connect();
        wait_for("a default route of the host behind", || self.default_route());
        self.give_address();
        self.carries();
    }

    /// The link of the card that a port is in.
    pub fn master(&self) -> String {
        let link: serde_json::Value = serde_json::from_str(&ip(&format!("-j link show {PORT}"))).unwrap();
        link[0]["master"].as_str().unwrap_or_default().to_owned()
    }
}
