//! Which remote, and which address of it: the order, the race of a name's addresses, and what is said when nothing leads
//! anywhere. Real name servers and far ends behind a LAN, and faults by nft at the far end.

use super::names::{DNS, NAME, NEW_ROUTER, ROUTER, ROUTER6, World, story};
use crate::common::client::{Foreground, Tunnel};
use crate::common::fake_router::Manners;
use crate::common::name_server::Reply;
use crate::common::netns::{Netns, sh};
use crate::common::wait_for;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// Packets that the far end throws away: of this rule, with a counter of this name.
fn black_hole(world: &World, name: &str, rule: &str) {
    world.far.exec(&format!(
        "nft 'table inet fault {{ counter {name} {{ }}; chain in {{ type filter hook input priority 0; \
         {rule} counter name {name} drop; }}; }}'"
    ));
}

fn mend(world: &World) {
    world.far.exec("nft delete table inet fault");
}

fn packets(namespace: &Netns, counter: &str) -> u64 {
    let text = namespace.exec(&format!("nft list counter inet fault {counter}"));
    text.split_once("packets ").unwrap().1.split_whitespace().next().unwrap().parse().unwrap()
}

/// A tunnel to these, in this order.
fn tunnel_to_all(world: &World, hosts: &[&str]) -> Tunnel {
    let tunnel = world.tunnel_to("FIRST");
    Tunnel { remote: tunnel.remote.replace("FIRST", &hosts.join("\", \"")), ..tunnel }
}

/// As [`tunnel_to_all`], with time for slow machines: no attempt may end because of it.
fn patient(tunnel: Tunnel) -> Tunnel {
    Tunnel { remote: tunnel.remote.replace("connect_timeout = \"2s\"", "connect_timeout = \"20s\""), ..tunnel }
}

/// Connected by the first attempt.
#[track_caller]
fn at_once(run: &mut Foreground) {
    run.until("connected");
    assert!(run.seen.iter().all(|change| change.state != "reconnecting"), "{:#?}", run.seen);
}

#[test]
fn a_name_whose_ipv6_address_is_a_black_hole_connects_by_ipv4() {
    story("a_name_whose_ipv6_address_is_a_black_hole_connects_by_ipv4", |world| {
        let _dns = world.name_server(|_| Reply::Addresses(&[ROUTER6, ROUTER]));
        let (six, four) = (world.router_at(ROUTER6), world.router_at(ROUTER));
        black_hole(world, "six", &format!("ip6 daddr {ROUTER6}"));
        let started = Instant::now();
        at_once(&mut patient(world.tunnel()).run());
        println!("FIGURE connected past a black hole: {} ms", started.elapsed().as_millis());
        assert_eq!((six.connections(), four.connections()), (0, 1));
        assert!(packets(&world.far, "six") > 0, "IPv6 was tried first");
    });
}

#[test]
fn a_name_whose_ipv6_path_carries_only_small_packets_connects_by_ipv4() {
    story("a_name_whose_ipv6_path_carries_only_small_packets_connects_by_ipv4", |world| {
        let _dns = world.name_server(|_| Reply::Addresses(&[ROUTER6, ROUTER]));
        let (six, four) = (world.router_at(ROUTER6), world.router_at(ROUTER));
        // The handshake of TCP gets through, a ClientHello with a post-quantum share does not.
        black_hole(world, "six", &format!("ip6 daddr {ROUTER6} meta length 200-65535"));
        let started = Instant::now();
        at_once(&mut patient(world.tunnel()).run());
        println!("FIGURE connected past a path that loses large packets: {} ms", started.elapsed().as_millis());
        assert_eq!((six.connections(), four.connections()), (1, 1));
        assert!(packets(&world.far, "six") > 0);
    });
}

#[test]
fn a_far_end_that_fails_tls_on_one_address_is_tried_at_the_next() {
    story("a_far_end_that_fails_tls_on_one_address_is_tried_at_the_next", |world| {
        let _dns = world.name_server(|_| Reply::Addresses(&[ROUTER6, ROUTER]));
        let six = world.far_end(&format!("[{ROUTER6}]:443"), Manners::NoTls);
        let four = world.router_at(ROUTER);
        at_once(&mut patient(world.tunnel()).run());
        assert_eq!((six.connections(), four.connections()), (1, 1));
    });
}

#[test]
fn addresses_whose_look_up_is_slow_take_part_when_they_come() {
    story("addresses_whose_look_up_is_slow_take_part_when_they_come", |world| {
        let answers = Arc::new(AtomicBool::new(false));
        let told = answers.clone();
        let dns = world.name_server(move |question| match question.ipv6 || told.load(SeqCst) {
            true => Reply::Addresses(&[ROUTER6, ROUTER]),
            false => Reply::Silent,
        });
        let four = world.router_at(ROUTER);
        black_hole(world, "six", &format!("ip6 daddr {ROUTER6}"));
        let mut run = patient(world.tunnel()).run();
        wait_for("IPv6 to be tried alone", || packets(&world.far, "six") > 0);
        let asked = dns.questions().len();
        answers.store(true, SeqCst);
        at_once(&mut run);
        assert_eq!(four.connections(), 1);
        assert!(dns.questions().len() > asked, "the question was repeated, and the firewall let it out");
    });
}

#[test]
fn remotes_are_tried_in_their_order_each_at_its_own_port() {
    story("remotes_are_tried_in_their_order_each_at_its_own_port", |world| {
        let first = format!("{NEW_ROUTER}:444");
        let second = format!("[{ROUTER6}]:445");
        let hosts = [&first, &second, ROUTER];
        let mut run = tunnel_to_all(world, &hosts).run();
        let error = run.until("reconnecting").error;
        let places: Vec<_> = [&first, &second, &format!("{ROUTER}:443")].map(|host| error.find(host.as_str())).into();
        assert!(places.is_sorted() && places[0].is_some(), "{error}");
        let _second = world.far_end(&second, world.good());
        assert_eq!(run.until("connected").line["active_remote"], second);
    });
}

#[test]
fn where_no_route_leads_anywhere_the_reason_is_no_network_for_addresses_and_for_names() {
    story("where_no_route_leads_anywhere_the_reason_is_no_network_for_addresses_and_for_names", |world| {
        let refused = |tunnel: Tunnel| tunnel.run().until("reconnecting");
        // The control: with a network it is something else.
        assert_eq!(refused(world.tunnel_to(ROUTER)).reason, "unreachable");
        let _dns = world.name_server(|_| Reply::Code(3));
        assert_eq!(refused(world.tunnel()).reason, "dns-failed");

        sh("ip link set lan0 down");
        for host in [ROUTER.to_owned(), format!("[{ROUTER6}]:443")] {
            let change = refused(world.tunnel_to(&host));
            assert_eq!(change.reason, "no-network", "{change:#?}");
            assert!(change.error.contains("unreachable") && change.error.contains(host.as_str()), "{}", change.error);
        }
        let change = refused(world.tunnel());
        assert_eq!(change.reason, "no-network", "{change:#?}");
        assert!([NAME, DNS, "there is no network"].iter().all(|text| change.error.contains(text)), "{}", change.error);
        // A host that lost its network has often lost its name servers with it.
        world.host_file("/etc/resolv.conf", "");
        let change = refused(world.tunnel());
        assert_eq!(change.reason, "no-network", "{change:#?}");
        let mixed = refused(tunnel_to_all(world, &[NAME, ROUTER, ROUTER6]));
        assert_eq!(mixed.reason, "no-network", "{mixed:#?}");
    });
}

#[test]
fn while_nothing_answers_attempts_and_packets_are_few() {
    story("while_nothing_answers_attempts_and_packets_are_few", |world| {
        black_hole(world, "everything", "meta l4proto { tcp, udp }");
        let tunnel = tunnel_to_all(world, &[NAME, ROUTER]);
        let retry = "first = \"100ms\"\nmax = \"1s\"\njitter = 0.0\n".to_owned();
        let remote = tunnel.remote.replace("connect_timeout = \"2s\"", "connect_timeout = \"500ms\"");
        let started = Instant::now();
        let mut run = Tunnel { retry, remote, ..tunnel }.run();
        for _ in 0..8 {
            run.until("reconnecting");
        }
        // 100, 200, 400, 800 ms, and then a second each; and a second of waiting for answers in each.
        assert!(started.elapsed() > Duration::from_millis(1500 + 3 * 1000), "{:?}", started.elapsed());
        let packets = packets(&world.far, "everything");
        println!("FIGURE packets of 8 attempts that nobody answered: {packets}");
        assert!((8..=8 * 8).contains(&packets), "{packets}");
        mend(world);
    });
}

/// Lines for `[retry]`: sessions that live a moment count as stable, and nothing is left to chance.
fn quick(tunnel: Tunnel, max: &str) -> Tunnel {
    let retry = format!("first = \"100ms\"\nmax = \"{max}\"\njitter = 0.0\nstable_after = \"100ms\"\n");
    Tunnel { retry, ..tunnel }
}

/// Counts what is dialled at this place, and lets it pass.
fn count(world: &World, name: &str, address: &str) {
    world.far.exec(&format!(
        "nft 'table inet fault {{ counter {name} {{ }}; chain {name} {{ type filter hook input priority 0; \
         ip daddr {address} tcp flags syn counter name {name}; }}; }}'"
    ));
}

#[test]
fn a_remote_that_shakes_hands_and_says_nothing_does_not_keep_the_tunnel_from_the_next() {
    story("a_remote_that_shakes_hands_and_says_nothing_does_not_keep_the_tunnel_from_the_next", |world| {
        let mute = world.far_end(&format!("{NEW_ROUTER}:443"), world.mute());
        let _good = world.router_at(ROUTER);
        let mut run = tunnel_to_all(world, &[NEW_ROUTER, ROUTER]).run();
        assert_eq!(run.until("connected").line["active_remote"], format!("{ROUTER}:443"));
        assert!(mute.connections() >= 1);
    });
}

#[test]
fn a_dead_remote_is_not_tried_at_every_attempt_and_the_last_good_one_is_first() {
    story("a_dead_remote_is_not_tried_at_every_attempt_and_the_last_good_one_is_first", |world| {
        count(world, "dead", NEW_ROUTER);
        count(world, "good", ROUTER);
        let mut good = world.router_at(ROUTER);
        let mut run = quick(tunnel_to_all(world, &[NEW_ROUTER, ROUTER]), "60s").run();
        run.until("connected");
        assert_eq!(packets(&world.far, "dead"), 1, "the first one was tried first");
        for _ in 0..5 {
            drop(good);
            run.until_that("the loss of the session", |change| change.old == "connected");
            good = world.router_at(ROUTER);
            assert_eq!(run.until("connected").line["active_remote"], format!("{ROUTER}:443"));
        }
        // Both count what asks to connect. Whoever asked the good one and was refused, for it was not there, may ask the dead one
        // next; nobody asks the dead one first.
        let (dead, asked) = (packets(&world.far, "dead"), packets(&world.far, "good"));
        println!("FIGURE attempts at a dead first remote in 5 outages: {dead}; at the good one: {asked}");
        assert!(dead <= 1 + (asked - 6), "{dead}, {asked}");
    });
}

#[test]
fn the_preferred_remote_is_returned_to_once_it_is_back_and_the_session_before_is_not_lost() {
    story("the_preferred_remote_is_returned_to_once_it_is_back_and_the_session_before_is_not_lost", |world| {
        count(world, "preferred", NEW_ROUTER);
        let second = world.router_at(ROUTER);
        let mut run = quick(tunnel_to_all(world, &[NEW_ROUTER, ROUTER]), "1s").run();
        assert_eq!(run.until("connected").line["active_remote"], format!("{ROUTER}:443"));
        wait_for("looks for the preferred one", || packets(&world.far, "preferred") >= 3);
        assert_eq!(second.connections(), 1, "looks leave the session alone");
        let preferred = world.router_at(NEW_ROUTER);
        wait_for("the preferred one to have the session", || preferred.connections() == 1);
        let sessions =
            || world.far.exec(&format!("ss -Htn state established '( sport = :443 )' src {ROUTER}")).lines().count();
        wait_for("the session before to be closed", || sessions() == 0);
        assert_eq!((preferred.connections(), second.connections()), (1, 1));
        // The tunnel was connected all the time, and still is.
        assert!(run.seen.iter().all(|change| change.state != "reconnecting"), "{:#?}", run.seen);
    });
}

#[test]
fn a_name_that_nobody_could_be_asked_for_is_looked_up_at_once_when_the_network_comes() {
    story("a_name_that_nobody_could_be_asked_for_is_looked_up_at_once_when_the_network_comes", |world| {
        let dns = world.name_server(|_| Reply::Addresses(&[ROUTER]));
        let _router = world.router_at(ROUTER);
        sh("ip link set lan0 down");
        // Long after this test the next attempt would come by itself.
        let retry = "first = \"600s\"\nmax = \"600s\"\njitter = 0.0\n".to_owned();
        let mut run = Tunnel { retry, ..world.tunnel() }.run();
        assert_eq!(run.until("reconnecting").reason, "no-network");
        assert_eq!(dns.questions(), []);
        sh("ip link set lan0 up");
        let came = Instant::now();
        run.until("connected");
        println!("FIGURE from the network's coming to a session by name: {} ms", came.elapsed().as_millis());
    });
}
