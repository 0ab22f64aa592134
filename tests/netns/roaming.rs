//! A host that moves: between links, addresses and gateways, and through times without any. The tunnel follows when the way to
//! its router changed, asks for a sign of life when something else about it did, and goes on undisturbed when nothing did.

use crate::common::echo::Transfer;
use crate::common::fake_router::{FakeRouter, Manners};
use crate::common::middle::{ROUTER, ROUTER6};
use crate::common::netns::{ip, sh};
use crate::common::roaming::{OVERLAY_ROUTER, Settings, World, story, world};
use crate::common::{figure, wait_for};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Nothing but a change of the path ends a session, starts another, or asks for a heartbeat.
fn quiet() -> Settings {
    Settings { heartbeat_period: "300s", heartbeat_timeout: "60s", connect_timeout: "10s", ..Settings::default() }
}

/// The tunnel's connections over one of the links.
fn flows_over(world: &World, side: usize) -> Vec<SocketAddr> {
    let addresses = ip(&format!("-o addr show dev {}", world.middles[side].dev));
    let mut flows = world.flows();
    flows.retain(|flow| addresses.contains(&format!(" {}/", flow.ip())));
    flows
}

#[test]
fn a_running_transfer_survives_twenty_changes_of_the_path_without_a_reset() {
    let test = "a_running_transfer_survives_twenty_changes_of_the_path_without_a_reset";
    for hosts in [vec![ROUTER.to_owned()], vec![format!("[{ROUTER6}]")]] {
        story(test, &Settings { hosts, ..quiet() }, |world| {
            let transfer = Transfer::start(OVERLAY_ROUTER.parse().unwrap());
            wait_for("the transfer", || transfer.bytes() > 1 << 18);
            transfer.longest_stall();
            let mut stalls = Vec::new();
            for change in 1..=20 {
                let side = change % 2;
                let old = world.flows();
                world.prefer(side);
                wait_for("a new connection over the new path", || {
                    flows_over(world, side).iter().any(|flow| !old.contains(flow))
                });
                let before = transfer.bytes();
                wait_for("the transfer to go on", || transfer.bytes() > before + (1 << 16));
                assert!(transfer.runs(), "the transfer broke at change {change}\n{}", world.log_end());
                stalls.push(transfer.longest_stall());
            }
            wait_for("one connection, over the new path", || {
                world.flows().len() == 1 && flows_over(world, 0).len() == 1
            });
            let bytes = transfer.finish();
            let ended: Vec<_> = world.changes().into_iter().filter(|change| change.new == "reconnecting").collect();
            assert!(ended.is_empty(), "a new session is there before the old one goes: {ended:#?}");
            stalls.sort();
            figure(&format!(
                "20 changes of the path under a transfer of {bytes} bytes: longest stall {:?} (median of each change's {:?})",
                stalls[19], stalls[10]
            ));
        });
    }
}

/// A story with a router that counts heartbeats.
fn counted(test: &str, tell: impl FnOnce(&mut World, &FakeRouter) + Send) {
    world(test, &quiet(), |world| {
        let config = world.router_config();
        let router = world.far.run(|| FakeRouter::at(&format!("{ROUTER}:443"), Manners::Good(config)));
        world.start_daemon();
        let output = world.ctl(&["connect", "enf0", "--wait=30s"]);
        assert!(output.status.success(), "{output:?}\n{}", world.log_end());
        tell(world, &router);
    });
}

/// The C client began each connection with 3 to 10, caused by its own device and address (section 1.4 of the reference).
#[test]
fn our_own_changes_cause_no_heartbeat() {
    counted("our_own_changes_cause_no_heartbeat", |world, router| {
        for connects in 1..=5 {
            settled();
            assert_eq!((router.connections(), router.heartbeats()), (connects, connects), "{}", world.log_end());
            let output = world.ctl(&["reconnect", "enf0", "--wait=30s"]);
            assert!(output.status.success(), "{output:?}");
        }
    });
}

/// Longer than events are gathered. Only what must not happen is waited for so.
fn settled() {
    std::thread::sleep(Duration::from_millis(700));
}

#[test]
fn what_does_not_concern_the_path_disturbs_nothing() {
    counted("what_does_not_concern_the_path_disturbs_nothing", |world, router| {
        settled();
        for what in [
            "link add other0 type bridge",
            "link set other0 up",
            "addr add 203.0.113.77/32 dev other0",
            "addr add 2001:db8:77::1/64 dev other0 nodad",
            "route add 10.77.0.0/16 dev other0",
            "rule add pref 30000 to 10.77.0.0/16 lookup 77",
            "link delete other0",
        ] {
            ip(what);
            settled();
        }
        assert_eq!((router.connections(), router.heartbeats()), (1, 1), "{}", world.log_end());
        // The control: what does concern it is noticed.
        another_gateway(world);
        wait_for("a heartbeat", || router.heartbeats() > 1);
    });
}

/// The same link and address, but another host to hand packets to: the old one's address is now this one's.
fn another_gateway(world: &World) {
    let middle = &world.middles[0];
    middle.netns.exec("ip addr add 192.0.2.2/24 dev lan0");
    sh(&format!("ip route replace default via 192.0.2.2 dev {} metric 100", middle.dev));
}

#[test]
fn another_gateway_asks_for_a_sign_of_life_at_once_and_keeps_the_session() {
    counted("another_gateway_asks_for_a_sign_of_life_at_once_and_keeps_the_session", |world, router| {
        settled();
        another_gateway(world);
        wait_for("a heartbeat", || router.heartbeats() == 2);
        settled();
        assert_eq!((router.connections(), router.heartbeats()), (1, 2), "{}", world.log_end());
    });
}

/// The C client compared addresses only (section 2 of the reference).
#[test]
fn the_same_address_on_another_interface_is_another_path() {
    story("the_same_address_on_another_interface_is_another_path", &quiet(), |world| {
        let old = world.flows();
        world.swap_address();
        wait_for("another connection", || world.flows().iter().any(|flow| !old.contains(flow)));
        world.back();
    });
}

/// Section 0.3 of the reference: there the route check failed for every IPv6 router, once a second for ever, and its own router
/// advertisement became the default route of its own last mile.
#[test]
fn an_ipv6_last_mile_is_stable_with_everything_in_the_tunnel() {
    let settings = Settings { hosts: vec![format!("[{ROUTER6}]")], ..Settings::default() };
    // A slow machine shall not end the session.
    let settings = Settings { heartbeat_timeout: "20s", ..settings };
    story("an_ipv6_last_mile_is_stable_with_everything_in_the_tunnel", &settings, |world| {
        let flows = world.flows();
        let main = || ip("-6 route show table main");
        let before = main();
        for other in 0..3 {
            ip(&format!("link add other{other} type bridge"));
            ip(&format!("link set other{other} up"));
            std::thread::sleep(Duration::from_millis(1200));
            ip(&format!("link delete other{other}"));
        }
        world.carries();
        assert_eq!(world.flows(), flows, "one connection for all that time\n{}", world.log_end());
        assert_eq!(
            world.changes().iter().filter(|change| change.new == "connecting").count(),
            1,
            "{:#?}",
            world.changes()
        );
        assert_eq!(main(), before);
        assert!(!main().contains("enf0"), "nothing of the main table leads into the tunnel");
    });
}

/// A delay that no test waits for.
fn slow_retry() -> Settings {
    Settings { retry: "first = \"300s\"\nmax = \"300s\"\njitter = 0.0\n", ..quiet() }
}

#[test]
fn the_network_comes_and_the_tunnel_connects_at_once() {
    world("the_network_comes_and_the_tunnel_connects_at_once", &slow_retry(), |world| {
        world.start_router();
        [0, 1].into_iter().for_each(|side| world.link_down(side));
        world.start_daemon();
        world.ctl(&["connect", "enf0"]);
        world.until(0, "no network", |change| change.new == "reconnecting" && change.reason == "no-network");
        let begun = Instant::now();
        world.link_up(1);
        world.until(0, "connected", |change| change.new == "connected");
        assert!(begun.elapsed() < Duration::from_secs(60), "not by the delay of 300 s");
        world.carries();
    });
}

#[test]
fn the_network_goes_and_comes_again_and_the_tunnel_is_back_at_once() {
    let settings = Settings { heartbeat_period: "1s", heartbeat_timeout: "1s", ..slow_retry() };
    story("the_network_goes_and_comes_again_and_the_tunnel_is_back_at_once", &settings, |world| {
        for _ in 0..3 {
            let seen = world.changes().len();
            [0, 1].into_iter().for_each(|side| world.link_down(side));
            world.until(seen, "the end of the session", |change| change.new == "reconnecting");
            world.link_up(0);
            world.until(seen, "connected", |change| change.new == "connected");
            world.carries();
        }
    });
}
