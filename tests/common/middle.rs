//! A host between the client and the router. It forwards like a stateful gateway with ingress filtering, counts what the
//! client sends beside the tunnel, and breaks what passes as a test wants: by nft, by a relay ([`super::relay`]), or packet by
//! packet ([`super::unruly`]).

use super::netns::{Netns, veth};
use super::relay::Relay;
use super::unruly::{Detour, Unruly};

/// The router's last mile, behind every middle.
pub const ROUTER: &str = "198.51.100.1";
pub const ROUTER6: &str = "2001:db8:2::1";
/// The name server there.
pub const DNS: &str = "198.51.100.53";
/// What listens there for everybody, beside the tunnel.
pub const FAR: [&str; 2] = ["198.51.100.80", "2001:db8:2::80"];

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client to the router.
    Up,
    /// From the router to the client.
    Down,
}

/// One of the two hosts in the middle: `lan0` is at the client, `wan0` at the router.
pub struct Middle {
    pub netns: Netns,
    /// The client's interface to it, and its IPv4 prefix.
    pub dev: &'static str,
    pub lan: &'static str,
    relay: Option<Relay>,
    unruly: Option<Detour>,
}

impl Middle {
    /// A middle between these two, number 1 or 2. The client's end has no address yet; the router knows the way back.
    pub fn new(client: &Netns, far: &Netns, number: u8) -> Self {
        let (dev, lan) = if number == 1 { ("a0", "192.0.2") } else { ("b0", "203.0.113") };
        let netns = Netns::new();
        veth(client, dev, &netns, "lan0");
        veth(&netns, "wan0", far, &format!("wan{number}"));
        netns.exec(&format!(
            "cd /proc/sys/net; echo 1 > ipv4/ip_forward; echo 1 > ipv6/conf/all/forwarding
             for f in ipv4/conf/*/rp_filter; do echo 0 > $f; done
             ip addr add {lan}.1/24 dev lan0; ip addr add 2001:db8:1{number}::1/64 dev lan0; ip addr add fe80::1/64 dev lan0
             ip addr add 198.18.{number}.1/24 dev wan0; ip addr add 2001:db8:3{number}::1/64 dev wan0
             ip addr add fe80::1/64 dev wan0
             ip route add default via 198.18.{number}.2; ip route add default via 2001:db8:3{number}::2"
        ));
        far.exec(&format!(
            "ip addr add 198.18.{number}.2/24 dev wan{number}; ip addr add 2001:db8:3{number}::2/64 dev wan{number}
             ip addr add fe80::2/64 dev wan{number}
             ip route add {lan}.0/24 via 198.18.{number}.1; ip route add 2001:db8:1{number}::/64 via 2001:db8:3{number}::1"
        ));
        let middle = Self { netns, dev, lan, relay: None, unruly: None };
        // As home and cellular gateways are: only flows whose beginning they saw, and only from addresses that are theirs.
        middle.nft(&format!(
            "table inet middle {{
                set blackholed {{ type inet_service; }}
                set guests {{ type ipv4_addr; }}
                counter strays {{ }}
                set kinds4 {{ typeof ip daddr . ip protocol . @th,0,32; flags dynamic; size 4096; }}
                set kinds6 {{ typeof ip6 daddr . ip6 nexthdr . @th,0,32; flags dynamic; size 4096; }}
                chain seen {{
                    type filter hook prerouting priority -310
                    iifname != lan0 accept
                    ip daddr {ROUTER} tcp dport 443 accept
                    ip6 daddr {ROUTER6} tcp dport 443 accept
                    ip daddr {DNS} udp dport 53 accept
                    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, mld2-listener-report }} accept
                    counter name strays
                    update @kinds4 {{ ip daddr . ip protocol . @th,0,32 }}
                    update @kinds6 {{ ip6 daddr . ip6 nexthdr . @th,0,32 }}
                }}
                chain redirected {{ type nat hook prerouting priority -100; }}
                chain faults {{ type filter hook forward priority 10; }}
                chain gateway {{
                    type filter hook forward priority 0
                    ct state invalid drop
                    tcp flags & (syn | ack) != syn ct state new drop
                    tcp dport @blackholed drop
                    tcp sport @blackholed drop
                    iifname lan0 jump lan
                }}
                chain lan {{
                    ip saddr {lan}.0/24 accept
                    ip6 saddr 2001:db8:1{number}::/64 accept
                    ip saddr @guests accept
                    drop
                }}
            }}"
        ));
        middle
    }

    #[track_caller]
    fn nft(&self, text: &str) {
        self.netns.exec(&format!("nft -f - <<'NFT'\n{text}\nNFT"));
    }

    /// Packets from the client that are neither the tunnel's nor the link's own business.
    pub fn strays(&self) -> u64 {
        let listed = self.netns.exec("nft -j list counter inet middle strays");
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        listed["nftables"][1]["counter"]["packets"].as_u64().unwrap()
    }

    /// From now on [`Self::kinds_of_strays`] tells of new ones only.
    pub fn forget_strays(&self) {
        self.netns.exec("nft flush set inet middle kinds4; nft flush set inet middle kinds6");
    }

    /// What they were: destination, protocol, and the first bytes after the IP header.
    pub fn kinds_of_strays(&self) -> String {
        ["kinds4", "kinds6"].map(|set| self.netns.exec(&format!("nft list set inet middle {set}"))).concat()
    }

    /// These rules judge what is forwarded, in place of those before.
    #[track_caller]
    pub fn breaks(&self, rules: &[&str]) {
        let rules: Vec<String> = rules.iter().map(|rule| format!("add rule inet middle faults {rule}")).collect();
        self.nft(&format!("flush chain inet middle faults\n{}", rules.join("\n")));
    }

    /// Nothing passes, and nobody says so.
    pub fn cuts(&self) {
        self.breaks(&["drop"]);
    }

    /// Packets pass one way only.
    pub fn half_opens(&self, lost: Way) {
        self.breaks(&[match lost {
            Way::Up => "iifname lan0 drop",
            Way::Down => "iifname wan0 drop",
        }]);
    }

    /// Whoever sends a TCP segment to the router is told that there is no such connection.
    pub fn resets(&self) {
        self.breaks(&["tcp dport 443 reject with tcp reset"]);
    }

    /// Whoever sends a packet is told that there is no way.
    pub fn has_no_way(&self) {
        self.breaks(&["iifname lan0 reject with icmpx no-route"]);
    }

    /// Some packets of a hundred are lost, in both ways.
    pub fn loses(&self, percent: u8) {
        self.breaks(&[&format!("numgen random mod 100 < {percent} drop")]);
    }

    /// More than this is dropped.
    pub fn throttles(&self, kilobytes: u32) {
        self.breaks(&[&format!("limit rate over {kilobytes} kbytes/second burst 16 kbytes drop")]);
    }

    /// This flow passes no more; new ones do.
    pub fn blackholes(&self, client_port: u16) {
        self.nft(&format!("add element inet middle blackholed {{ {client_port} }}"));
    }

    /// A relay takes the client's connections and makes its own to the router.
    pub fn relays(&mut self) -> &Relay {
        let relay = Relay::start(&self.netns, [ROUTER, ROUTER6]);
        self.nft(&format!(
            "add rule inet middle redirected iifname lan0 tcp dport 443 redirect to :{}",
            super::relay::PORT
        ));
        self.relay.insert(relay)
    }

    /// The one that [`Self::relays`] started.
    pub fn relay(&self) -> &Relay {
        self.relay.as_ref().unwrap()
    }

    /// Every packet takes a way through a program that treats each on its own.
    pub fn is_unruly(&mut self, unruly: Unruly) {
        self.unruly = Some(unruly.start(&self.netns, "mid0"));
        self.netns.exec(
            "ip link set mid0 addrgenmode none up
             for f in -4 -6; do
                 ip $f route add default dev mid0 table 100
                 for i in lan0 wan0; do ip $f rule add pref 20 iif $i lookup 100; done
             done",
        );
    }

    /// Lets everything pass again.
    pub fn heals(&mut self) {
        self.nft(
            "flush chain inet middle faults\nflush chain inet middle redirected\nflush set inet middle blackholed",
        );
        self.relay = None;
        if self.unruly.take().is_some() {
            // The device is gone with its holder, and its routes with it.
            self.netns.exec("for f in -4 -6; do for i in lan0 wan0; do ip $f rule del pref 20 iif $i; done; done");
        }
    }
}
