//! What a host behind a card has: the real daemon, the real router, and the host's own kernel.

use crate::common::card::{Card, LINK, PORT, card};
use crate::common::netns::{ip, sh};
use crate::common::roaming::{OVERLAY_ROUTER, OWN, Settings, TUNNEL};
use crate::common::wait_for;
use nix::sys::signal::Signal;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::net::SocketAddrV6;

/// What the middle sees of the host behind, beside the tunnel: packets with its address, or to one of its own.
fn watch_the_uplinks(card: &Card<'_>) {
    for middle in &card.world.middles {
        middle.netns.exec(&format!(
            "nft 'table inet behind {{
                 counter seen {{ packets 0 bytes 0; }}
                 chain pre {{
                     type filter hook prerouting priority -400;
                     iifname lan0 ip6 saddr {{ {OWN}, fd77::/64 }} counter name seen
                     iifname lan0 ip saddr 192.168.7.0/24 counter name seen
                 }}
             }}'"
        ));
    }
}

fn seen(card: &Card<'_>) -> u64 {
    let count = |listed: String| -> u64 {
        let value: serde_json::Value = serde_json::from_str(&listed).unwrap();
        value["nftables"][1]["counter"]["packets"].as_u64().unwrap()
    };
    card.world.middles.iter().map(|middle| count(middle.netns.exec("nft -j list counter inet behind seen"))).sum()
}

/// A card that routes whatever it is given, if it is asked to.
fn route_everything() {
    sh("cd /proc/sys/net; echo 1 > ipv4/ip_forward; echo 1 > ipv6/conf/all/forwarding");
}

#[test]
fn a_host_behind_has_its_routes_from_the_card_and_reaches_the_far_end_through_the_tunnel() {
    let test = "a_host_behind_has_its_routes_from_the_card_and_reaches_the_far_end_through_the_tunnel";
    card(test, &Settings::default(), "", |card| {
        let daemon = card.world.path().join("etc/enftun.toml");
        std::fs::write(daemon, "[groups.lan]\nnumber = 7\ninterfaces = []\n").unwrap();
        assert!(card.world.ctl(&["reload"]).status.success());
        assert!(!card.default_route(), "nothing is advertised before the address is known");
        card.up();
        let refused = card.world.ctl(&["group", "add", "lan", PORT]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("has the host behind of tunnel enf0"), "{said}");
        // From the other side, too; large packets both ways.
        card.world.far.exec(&format!("ping -c 3 -i 0.2 -W 2 -s 1200 {OWN}"));
        card.host.exec(&format!("ping -c 3 -i 0.2 -W 2 -s 1200 -I {OWN} {OVERLAY_ROUTER}"));
        let statistics = &card.world.status()["statistics"];
        assert!(statistics["tx_packets"].as_u64() >= Some(7), "{statistics}");
        // The card itself has nothing of it: no address, and no way in.
        assert!(!ip("-6 addr show").contains(OWN));
        assert!(sh("ping -c1 -W1 2001:db8:2::80 2>&1 || echo fails").contains("fails"));
    });
}

#[test]
fn while_it_reconnects_the_host_behind_keeps_its_routes_and_nothing_of_it_goes_another_way() {
    let test = "while_it_reconnects_the_host_behind_keeps_its_routes_and_nothing_of_it_goes_another_way";
    card(test, &Settings::default(), "", |card| {
        route_everything();
        watch_the_uplinks(card);
        card.up();
        card.world.strays_so_far();
        card.world.kill_router();
        wait_for("the loss of the router", || card.world.status()["state"] == "reconnecting");
        // It asks, and is answered, as before.
        assert!(card.host.exec(&format!("rdisc6 -1 -w 5000 {LINK}")).contains("from fe80::1"));
        assert!(card.default_route() && !card.pings(OVERLAY_ROUTER) && !card.pings("2001:db8:2::80"));
        let drops = card.world.status()["statistics"]["drop_reasons"]["not-connected"].as_u64();
        assert!(drops > Some(0), "{}", card.world.status());
        card.world.start_router();
        card.carries();
        // The daemon dies: fail closed, and no word.
        card.world.kill_daemon();
        assert!(!card.pings(OVERLAY_ROUTER) && !card.pings("2001:db8:2::80"));
        assert!(card.default_route());
        card.world.start_daemon();
        card.carries();
        assert_eq!(seen(card), 0);
    });
}

#[test]
fn a_disconnect_takes_the_routes_back_and_gives_the_port_back() {
    card("a_disconnect_takes_the_routes_back_and_gives_the_port_back", &Settings::default(), "", |card| {
        let port = || sh(&format!("ip -j -d link show {PORT}; grep -s '' /proc/sys/net/ipv[46]/conf/{PORT}/* || true"));
        let before = port();
        for _ in 0..2 {
            card.up();
            assert_ne!(port(), before);
            assert!(card.world.ctl(&["disconnect", TUNNEL, "--wait"]).status.success());
            // Not when their lifetime ends: at once.
            wait_for("the routes to be gone", || {
                card.host.exec(&format!("ip -6 route show proto ra dev {LINK}")).is_empty()
            });
            assert_eq!(port(), before);
            assert!(!ip("link").contains("enf0"));
        }
    });
}

#[test]
fn nothing_of_the_host_behind_reaches_the_cards_own_stack_or_its_uplink() {
    let test = "nothing_of_the_host_behind_reaches_the_cards_own_stack_or_its_uplink";
    card(test, &Settings::default(), "", |card| {
        route_everything();
        watch_the_uplinks(card);
        // The card is, on the port, what a careless one would be: an IPv6 router, and an IPv4 one.
        sh(&format!(
            "ip addr add fd77::1/64 dev {PORT} nodad; ip addr add 192.168.7.1/24 dev {PORT}; ip addr add fe80::77/64 dev {PORT} nodad"
        ));
        card.host.exec(&format!(
            "ip addr add fd77::2/64 dev {LINK} nodad; ip addr add 192.168.7.2/24 dev {LINK}
             ip -6 route add 2001:db8:2::80/128 via fd77::1; ip route add 198.51.100.80 via 192.168.7.1"
        ));
        let probes = || {
            for (from, to) in [("fd77::2", "2001:db8:2::80"), (OWN, "2001:db8:2::80"), ("192.168.7.2", "198.51.100.80")]
            {
                let _ = card.host.output(&format!("ping -c2 -i 0.2 -W1 -I {from} {to}"));
            }
        };
        let answers = |address: &str| card.host.output(&format!("ping -c1 -W1 {address}")).status.success();
        // Without the tunnel all of it is seen.
        card.give_address();
        wait_for("the card to forward", || {
            probes();
            seen(card) >= 3
        });
        wait_for("the card to answer", || answers("fd77::1") && answers("192.168.7.1"));
        // With it, none; whatever the host behind knows of the card's addresses.
        card.connect();
        card.host.exec(&format!(
            "card=$(ip -j -6 neigh show fd77::1 dev {LINK} | sed -n 's/.*\"lladdr\":\"\\([^\"]*\\)\".*/\\1/p'); [ -n \"$card\" ]
             ip neigh replace fd77::1 lladdr $card dev {LINK}; ip neigh replace 192.168.7.1 lladdr $card dev {LINK}"
        ));
        let before = seen(card);
        probes();
        assert_eq!(seen(card), before, "nothing passes the card but by the tunnel");
        assert!(!answers("fd77::1") && !answers("192.168.7.1"), "nobody is at home");
        card.host.exec("ip -6 route del 2001:db8:2::80/128 via fd77::1");
        wait_for("a default route of the host behind", || card.default_route());
        card.carries();
        // Also without our table, by the bridge alone (where the daemon cannot put it back in time).
        card.world.signal_daemon(Signal::SIGSTOP);
        sh("nft flush ruleset; nft delete table inet enftun-guard 2>/dev/null || true");
        card.host.exec("ip -6 route add 2001:db8:2::80/128 via fd77::1");
        probes();
        assert_eq!(seen(card), before);
        card.world.signal_daemon(Signal::SIGCONT);
    });
}

#[test]
fn the_cards_own_kernel_takes_no_routes_from_its_own_advertisements_or_the_host_behind() {
    let test = "the_cards_own_kernel_takes_no_routes_from_its_own_advertisements_or_the_host_behind";
    card(test, &Settings::default(), "", |card| {
        for conf in ["all", "default", PORT] {
            sh(&format!("echo 2 > /proc/sys/net/ipv6/conf/{conf}/accept_ra"));
        }
        let taken = || ip("-6 route show default proto ra");
        wait_for("the card to hear a forged advertisement", || {
            advertise(card);
            taken().contains(PORT)
        });
        ip(&format!("-6 route flush proto ra dev {PORT}"));
        card.up();
        ip(&format!("-6 route flush proto ra dev {PORT}"));
        let told = card.host.exec(&format!("rdisc6 -1 -w 5000 {LINK}"));
        assert!(told.contains("from fe80::1"), "{told}");
        for _ in 0..10 {
            advertise(card);
            card.carries();
        }
        assert_eq!(taken(), "");
    });
}

/// A router advertisement that the host behind has no business to send.
fn advertise(card: &Card<'_>) {
    card.host.run(|| {
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)).unwrap();
        let index = nix::net::if_::if_nametoindex(LINK).unwrap();
        socket.set_multicast_hops_v6(255).unwrap();
        socket.set_multicast_if_v6(index).unwrap();
        let all_nodes = SocketAddrV6::new("ff02::1".parse().unwrap(), 0, 0, index);
        // Lifetime 1800 s; the kernel adds the checksum.
        let message = [134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
        // Its own address may still be tentative.
        let _ = socket.send_to(&message, &SockAddr::from(all_nodes));
    });
}

#[test]
fn whatever_is_taken_from_a_card_is_put_back_within_a_second_and_the_session_goes_on() {
    let test = "whatever_is_taken_from_a_card_is_put_back_within_a_second_and_the_session_goes_on";
    card(test, &Settings::default(), "", |card| {
        card.up();
        let sessions = card.world.sessions();
        for deed in [
            "link del enf0-br",
            "link del enf0-tap",
            &format!("link set {PORT} nomaster"),
            "link set enf0-br down",
            "link del enf0",
        ] {
            ip(deed);
            card.carries();
            wait_for(&format!("{deed} to be undone"), || card.master() == "enf0-br" && ip("link").contains("enf0-tap"));
        }
        assert_eq!(card.world.sessions(), sessions, "{}", card.world.log_end());
        assert!(card.world.log().contains("somebody else changed what belongs to enf0; put back: "));
    });
}

#[test]
fn a_port_that_goes_and_comes_is_a_warning_and_then_served_again() {
    card("a_port_that_goes_and_comes_is_a_warning_and_then_served_again", &Settings::default(), "", |card| {
        let warned = |card: &Card<'_>| {
            String::from_utf8(card.world.ctl(&["status", "--json"]).stdout).unwrap().contains("card-port-missing")
        };
        card.up();
        assert!(!warned(card));
        ip(&format!("link del {PORT}"));
        wait_for("a warning", || warned(card));
        assert_eq!(card.world.status()["state"], "connected");
        card.plug();
        card.give_address();
        wait_for("a default route of the host behind", || card.default_route());
        card.carries();
        wait_for("no warning", || !warned(card));
        assert!(!card.world.log().contains("somebody else changed"), "{}", card.world.log_end());
    });
}

/// Another address of the same network.
const NEXT: &str = "fd00:8f80:1::5678";

#[test]
fn a_renewed_certificate_with_another_address_serves_the_new_one_and_the_old_one_no_more() {
    let test = "a_renewed_certificate_with_another_address_serves_the_new_one_and_the_old_one_no_more";
    card(test, &Settings::default(), "", |card| {
        card.up();
        card.world.certify(NEXT);
        wait_for("the new address to be served", || {
            card.world.log().contains(&format!("the host behind is served: it is {NEXT}"))
        });
        // What it had is nobody's any more.
        wait_for("the old address to be out of use", || !card.pings(OVERLAY_ROUTER));
        card.host.exec(&format!("ip addr replace {NEXT}/128 dev {LINK} nodad"));
        wait_for("an answer from the far end", || {
            card.host.output(&format!("ping -c1 -W1 -I {NEXT} {OVERLAY_ROUTER}")).status.success()
        });
        assert!(card.default_route());
    });
}
