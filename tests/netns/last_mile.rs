//! The way to the router itself, with everything in the tunnel: it is not taken for what belongs in the tunnel, by either
//! family, whatever goes on in the kernel around it.

use crate::common::certs::{Ca, Leaf};
use crate::common::client::Tunnel;
use crate::common::fake_router::{FakeRouter, Manners, server};
use crate::common::netns::{Netns, in_netns_with_tun, sh, veth};
use crate::common::wait_for;

const OWN: &str = "fd00:8f80:1::1234";

/// On a host that was prepared so, a tunnel for everything to a router at `address`, behind a gateway; once it is connected,
/// `tell`. The session must be the first one still.
fn connected_by(test: &str, address: &str, prepared: &str, tell: impl FnOnce() + Send) {
    in_netns_with_tun(test, || {
        let (here, far) = (Netns::here(), Netns::new());
        veth(&here, "lan0", &far, "far0");
        sh("ip addr add 192.0.2.1/24 dev lan0; ip addr add 2001:db8::1/64 dev lan0
            ip -4 route add default via 192.0.2.2; ip -6 route add default via 2001:db8::2");
        far.exec(
            "ip addr add 192.0.2.2/24 dev far0; ip addr add 2001:db8::2/64 dev far0
             ip addr add 203.0.113.1/32 dev lo; ip addr add 2001:db8:f::1/128 dev lo",
        );
        wait_for("all addresses", || [&here, &far].iter().all(|end| end.exec("ip -6 addr show tentative").is_empty()));
        sh(prepared);
        let ca = Ca::v3("Test Root");
        let config = {
            let router = ca.sign_v3(Leaf::new("router").dns("router"));
            server(&router, &router, rustls::ALL_VERSIONS)
        };
        let router = far.run(|| FakeRouter::at(&format!("{address}:443"), Manners::Good(config)));
        let mut tunnel = Tunnel::new(&format!("{address}:443"), &ca, &ca.sign_v3(Leaf::new(OWN).ip(OWN)));
        tunnel.route = "prefixes = [\"default\"]\nlockdown = \"session\"\n".to_owned();
        let mut run = tunnel.run();
        run.until("connected");
        tell();
        // Two heartbeats, a second apart, get there and back.
        std::thread::sleep(std::time::Duration::from_secs(3));
        assert_eq!(router.connections(), 1, "no reconnect: {:#?}", run.seen);
        run.interrupt();
    });
}

#[test]
fn an_ipv6_last_mile_stays_up_through_a_thousand_netlink_events() {
    connected_by("an_ipv6_last_mile_stays_up_through_a_thousand_netlink_events", "[2001:db8:f::1]", "", || {
        for number in 0..250 {
            sh(&format!(
                "ip addr add 2001:db8:5::{number:x}/128 dev lo; ip -6 route add 2001:db8:6:{number:x}::/64 dev lan0
                 ip addr del 2001:db8:5::{number:x}/128 dev lo; ip -6 route del 2001:db8:6:{number:x}::/64 dev lan0"
            ));
        }
    });
}

#[test]
fn an_ipv4_last_mile_stays_up_with_every_setting_of_rp_filter() {
    for setting in 0..=2 {
        let prepared = format!("for f in all lan0; do echo {setting} > /proc/sys/net/ipv4/conf/$f/rp_filter; done");
        connected_by("an_ipv4_last_mile_stays_up_with_every_setting_of_rp_filter", "203.0.113.1", &prepared, || {});
    }
}
