//! The router with real clients over real TLS, each story in a network namespace of its own.

pub mod bed;
mod memory;
pub mod program;
mod storm;
mod super_packets;

use crate::common::certs::{Identity, Leaf};
use crate::common::netns::{ip, sh};
use bed::{A, B, C, Client, HOST, LISTEN, PATIENCE};
use bed::{as_it_is, drops, is_reply_from, ping, session, story, story_with_uplink};
use enftun::config;
use enftun::router::status::SessionStatus;
use enftun::router::{Order, RouterError, control, outbox, serve};
use enftun::tunnel::enf::frame2::{GoingAway, Why};
use enftun::tunnel::enf::packet::{ROUTER, echo_reply, icmpv6_echo};
use enftun::tunnel::enf::succession;
use enftun::tunnel::enf::wire::{Version, WireError, is_about_credentials};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

#[test]
fn two_clients_reach_each_other() {
    story("two_clients_reach_each_other", as_it_is, async |bed| {
        let (mut a, mut b) = (bed.client(A).await, bed.client(B).await);
        ping(&mut a, &mut b).await;
        ping(&mut b, &mut a).await;
        let status = bed.status().await;
        let a = session(&status, A);
        assert_eq!((a.rx_packets, a.tx_packets, a.queue), (3, 3, 0), "two pings and the router's");
        assert_eq!((a.tls.as_str(), &a.drops), ("TLSv1.3", &drops(&[])));
    });
}

#[test]
fn clients_are_kept_apart_when_the_configuration_says_so() {
    story(
        "clients_are_kept_apart",
        |config| config.between_clients = false,
        async |bed| {
            let (mut a, mut b) = (bed.client(A).await, bed.client(B).await);
            let request = a.request(B);
            a.send(&request).await;
            a.ask_router().await;
            b.ask_router().await;
            assert_eq!(session(&bed.status().await, A).drops, drops(&[("no-route", 1)]));
            assert!(b.received.is_empty());
        },
    );
}

#[test]
fn a_source_that_is_not_the_clients_own_is_dropped_and_counted() {
    story("source_enforcement", as_it_is, async |bed| {
        let (mut a, mut b) = (bed.client(A).await, bed.client(B).await);
        for source in [B, C, "fe80::a", "::"] {
            let (source, b) = (source.parse().unwrap(), b.address);
            a.send(&icmpv6_echo(source, b, 128, b"\0\0\0\0")).await;
            a.send(&icmpv6_echo(source, ROUTER, 128, b"\0\0\0\0")).await;
        }
        a.send(&[0x60, 1, 2, 3]).await;
        a.send(&[0x60]).await;
        let mut ipv4 = vec![0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        a.send(&ipv4).await;
        ipv4[0] = 0x44;
        a.send(&ipv4).await;
        ping(&mut a, &mut b).await;
        let wanted = drops(&[("source-forged", 8), ("malformed", 3), ("ipv4-not-allowed", 1)]);
        assert_eq!(session(&bed.status().await, A).drops, wanted);
    });
}

#[test]
fn ipv4_passes_between_the_addresses_in_the_certificates_and_no_others() {
    story(
        "ipv4",
        |config| config.allow_ipv4 = true,
        async |bed| {
            let of = |address: &str, ipv4: &str| bed.fleet.ca.sign_v3(Leaf::new(address).ip(address).ip(ipv4));
            let mut a = Client::connect(&bed.fleet, A, &of(A, "10.0.0.1")).await;
            let mut b = Client::connect(&bed.fleet, B, &of(B, "10.0.0.2")).await;
            assert_eq!(session(&bed.status().await, A).ipv4, Some(Ipv4Addr::new(10, 0, 0, 1)));
            let packet = |source: u8, destination: u8| {
                vec![0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, source, 10, 0, 0, destination]
            };
            a.send(&packet(3, 2)).await;
            a.send(&packet(1, 9)).await;
            a.send(&packet(1, 2)).await;
            assert_eq!(b.next().await, packet(1, 2));
            assert_eq!(session(&bed.status().await, A).drops, drops(&[("ipv4-not-allowed", 1), ("no-route", 1)]));
        },
    );
}

#[test]
fn the_newest_session_wins_and_what_is_in_flight_on_the_old_one_arrives() {
    story("newest_wins", as_it_is, async |bed| {
        let mut b = bed.client(B).await;
        let mut old = bed.client(A).await;
        let mut new = bed.client(A).await;
        ping(&mut b, &mut new).await;
        // Sent before the client knew; it comes on the old connection.
        let in_flight = old.request(B);
        old.send(&in_flight).await;
        assert_eq!(b.next().await, in_flight);
        // The client leaves the old connection late: the new session stays.
        old.wire.close();
        drop(old);
        bed.until("the old session is gone", |status| status.sessions.len() == 2).await;
        ping(&mut b, &mut new).await;
        assert!(bed.status().await.warnings.is_empty());
    });
}

#[test]
fn a_superseded_session_that_lingers_is_closed_with_a_goodbye() {
    story("superseded_goodbye", as_it_is, async |bed| {
        let mut old = bed.client(A).await;
        let mut new = bed.client(A).await;
        assert!(matches!(old.next_or_end().await, Err(WireError::Closed)));
        new.ask_router().await;
    });
}

#[test]
fn a_client_that_roams_again_and_again_never_waits() {
    story("roaming", as_it_is, async |bed| {
        let mut b = bed.client(B).await;
        let mut present = bed.client(A).await;
        let mut lost = Vec::new();
        for round in 0..20 {
            // `connect` returns when the router has answered: a session that is held has to wait for that.
            let new = bed.client(A).await;
            let old = std::mem::replace(&mut present, new);
            ping(&mut b, &mut present).await;
            match round % 4 {
                // The old network is gone: not even a goodbye gets through.
                0 => lost.push(old),
                // It closes the old session a while after the new one works, as a careful client does.
                1 => {
                    let mut old = old;
                    let request = old.request(B);
                    old.send(&request).await;
                    assert_eq!(b.next().await, request);
                    old.wire.close();
                }
                2 => drop(old),
                _ => {
                    let mut old = old;
                    old.wire.close();
                }
            }
        }
        let status = bed.until("all old sessions are gone", |status| status.sessions.len() == 2).await;
        assert_eq!(status.warnings, []);
        let again = bed.client(A).await;
        drop((again, lost));
    });
}

/// The new session proves that the old one is its own.
async fn claim(new: &mut Client, old: &Client) {
    let claim = succession::claim(new.address, &succession::proof(old.wire.tls()).unwrap());
    new.send(&claim).await;
}

#[test]
fn a_client_that_proves_that_it_moves_is_no_second_host_however_slow_its_old_path_is() {
    story("slow_old_path", as_it_is, async |bed| {
        let mut b = bed.client(B).await;
        let mut old = bed.client(A).await;
        let mut new = bed.client(A).await;
        claim(&mut new, &old).await;
        // What was sent long ago goes on arriving for longer than any other session has. Without the claim that is evidence
        // of another host: see the next story.
        let since = std::time::Instant::now();
        let late = old.request(B);
        while since.elapsed() < Duration::from_secs(8) {
            old.send(&late).await;
            assert_eq!(b.next().await, late);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // It asks whether its own way works.
        old.ask_router().await;
        ping(&mut b, &mut new).await;
        old.wire.close();
        assert!(matches!(old.next_or_end().await, Err(WireError::Closed)));
        drop(old);
        let status = bed.until("the old session is gone", |status| status.sessions.len() == 2).await;
        assert_eq!(status.warnings, []);
        let again = bed.client(A).await;
        drop((again, new));
    });
}

#[test]
fn a_client_that_moves_while_another_host_has_its_certificate_need_not_wait() {
    story("moves_beside_another_host", as_it_is, async |bed| {
        let mut first = bed.client(A).await;
        let second = bed.client(A).await;
        let request = first.request("fe80::1");
        while bed.status().await.warnings.is_empty() {
            if first.wire.push(&request) {
                let _ = first.wire.flush();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let mut stranger = Client::shake_hands(&bed.fleet, A, &bed.fleet.identity(A)).await;
        stranger.send(&request).await;
        bed.until("it waits", |status| status.sessions.iter().any(|session| session.phase == "held")).await;
        let mut moved = Client::shake_hands(&bed.fleet, A, &bed.fleet.identity(A)).await;
        claim(&mut moved, &second).await;
        let mut b = bed.client(B).await;
        bed.until("it has the address", |status| {
            status.sessions.iter().filter(|session| session.phase == "superseded").count() == 1
        })
        .await;
        ping(&mut b, &mut moved).await;
    });
}

#[test]
fn the_old_session_has_the_address_again_when_the_new_one_came_to_nothing() {
    story("back_again", as_it_is, async |bed| {
        let mut b = bed.client(B).await;
        let mut old = bed.client(A).await;
        // It is closed: at once.
        let mut new = bed.client(A).await;
        new.wire.close();
        drop(new);
        bed.until("it is gone", |status| status.sessions.len() == 2).await;
        ping(&mut b, &mut old).await;
        // It is silent, and the client knows: also at once.
        let mut silent = bed.client(A).await;
        ping(&mut b, &mut silent).await;
        claim(&mut old, &silent).await;
        old.ask_router().await;
        ping(&mut b, &mut old).await;
        assert_eq!(bed.status().await.warnings, []);
    });
}

#[test]
fn a_client_that_said_goodbye_still_gets_what_was_sealed_for_it() {
    story("rest", as_it_is, async |bed| {
        let mut b = bed.client(B).await;
        let mut old = bed.client(A).await;
        // More than the kernel keeps for a client that does not read.
        let (from, to) = (b.address, old.address);
        let packet = |number: u32| icmpv6_echo(from, to, 129, &[&number.to_be_bytes()[..], &[0; 1200]].concat());
        let mut sent = 0;
        while !session(&bed.status().await, A).drops.contains_key("queue-full") {
            for _ in 0..200 {
                let next = packet(sent);
                b.send(&next).await;
                sent += 1;
            }
            b.ask_router().await;
        }
        let mut new = Client::shake_hands(&bed.fleet, A, &bed.fleet.identity(A)).await;
        claim(&mut new, &old).await;
        // What was still in its queue comes by the new session.
        assert!(is_reply_from(&new.next().await, from));
        old.wire.close();
        socket2::SockRef::from(old.wire.socket()).shutdown(std::net::Shutdown::Write).unwrap();
        let mut received = old.received.len();
        let end = loop {
            match old.next_or_end().await {
                Ok(_) => received += 1,
                Err(end) => break end,
            }
        };
        assert!(matches!(end, WireError::Closed), "after {received} of {sent} packets: {end:?}");
        assert!(received * 1200 > 128 * 1024, "{received} of {sent} packets");
    });
}

#[test]
fn two_hosts_on_one_certificate_are_warned_about_and_calmed() {
    story("two_hosts", as_it_is, async |bed| {
        // Each host reconnects whenever it is closed, as the daemon does.
        let taken_over = Arc::new(AtomicUsize::new(0));
        let identity = bed.fleet.identity(A);
        let bed = Arc::new(bed);
        let hosts: Vec<_> = (0..2)
            .map(|_| {
                let (bed, identity, taken_over) = (Arc::clone(&bed), identity.clone(), Arc::clone(&taken_over));
                tokio::spawn(async move {
                    loop {
                        let mut host = Client::shake_hands(&bed.fleet, A, &identity).await;
                        let request = host.request("fe80::1");
                        host.send(&request).await;
                        if host.next_or_end().await.is_ok() {
                            taken_over.fetch_add(1, Relaxed);
                            while host.next_or_end().await.is_ok() {}
                        }
                    }
                })
            })
            .collect();
        let status = bed.until("a warning", |status| status.warnings.first().is_some_and(|w| w.count >= 2)).await;
        let warning = &status.warnings[0];
        assert_eq!((warning.code.as_str(), warning.address), ("duplicate-certificate", Some(A.parse().unwrap())));
        // Each exchange costs the 5 s in flight and then 2, 4, 8 ... seconds of waiting.
        let status = bed.until("a host that waits", |status| status.sessions.iter().any(|s| s.phase == "held")).await;
        assert!(status.sessions.iter().any(|session| session.phase == "present"), "the other one has the address");
        let taken = taken_over.load(Relaxed);
        assert!(taken <= 5, "{taken} sessions in a row took over");
        hosts.iter().for_each(JoinHandle::abort);
    });
}

#[test]
fn a_host_that_waits_gets_the_address_at_once_when_the_other_leaves() {
    story("held_then_free", as_it_is, async |bed| {
        let identity = bed.fleet.identity(A);
        let mut first = Client::connect(&bed.fleet, A, &identity).await;
        let mut second = Client::connect(&bed.fleet, A, &identity).await;
        // Evidence: it still sends, long after it was superseded.
        let request = first.request("fe80::1");
        while bed.status().await.warnings.is_empty() {
            if first.wire.push(&request) {
                let _ = first.wire.flush();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let mut third = Client::shake_hands(&bed.fleet, A, &identity).await;
        third.send(&request).await;
        third.send(&third.request(B)).await;
        let heard = |session: &SessionStatus| session.phase == "held" && session.drops == drops(&[("no-route", 1)]);
        bed.until("it is held, and was heard", |status| status.sessions.iter().any(heard)).await;
        second.wire.close();
        drop(second);
        assert!(is_reply_from(&third.next().await, ROUTER), "the answer that it waits for comes late, but it comes");
        assert_eq!(session(&bed.status().await, A).rx_packets, 0);
    });
}

#[test]
fn a_slow_receiver_costs_a_bounded_queue_and_nobody_else_anything() {
    story("slow_receiver", as_it_is, async |bed| {
        let (mut a, mut b, slow) = (bed.client(A).await, bed.client(B).await, bed.client(C).await);
        let flood = icmpv6_echo(a.address, slow.address, 129, &[0; 1400]);
        // The kernel's buffers take some megabytes first.
        loop {
            for _ in 0..1000 {
                a.send(&flood).await;
            }
            a.ask_router().await;
            ping(&mut a, &mut b).await;
            let status = bed.status().await;
            let slow = session(&status, C);
            assert!(slow.queue * flood.len() <= outbox::LIMIT);
            if slow.drops.get("queue-full").is_some_and(|count| *count > 1000) {
                break;
            }
        }
        let status = bed.status().await;
        assert_eq!(session(&status, A).drops, drops(&[]), "the sender is not blamed");
        assert_eq!(session(&status, B).drops, drops(&[]), "the bystander lost nothing");
        drop(slow);
    });
}

#[test]
fn multicast_crosses_only_when_it_is_wide_and_wanted() {
    for wanted in [true, false] {
        story(
            "multicast",
            |config| config.multicast = wanted,
            async |bed| {
                let (mut a, mut b, mut c) = (bed.client(A).await, bed.client(B).await, bed.client(C).await);
                for narrow in ["ff01::1", "ff02::1", "ff02::fb"] {
                    let packet = a.request(narrow);
                    a.send(&packet).await;
                }
                let wide = a.request("ff0e::42");
                a.send(&wide).await;
                a.ask_router().await;
                b.ask_router_after(wanted.then_some(&wide)).await;
                c.ask_router_after(wanted.then_some(&wide)).await;
                let dropped = session(&bed.status().await, A).drops.clone();
                assert_eq!(
                    dropped,
                    if wanted { drops(&[("link-local", 3)]) } else { drops(&[("link-local", 3), ("no-route", 1)]) }
                );
            },
        );
    }
}

#[test]
fn the_uplink_carries_packets_both_ways() {
    story_with_uplink("uplink", as_it_is, async |bed| {
        let mut a = bed.client(A).await;
        // The client asks the host behind the router.
        let request = a.request(HOST);
        a.send(&request).await;
        assert!(is_reply_from(&a.next().await, HOST.parse().unwrap()));
        // The host asks the client.
        let asked = tokio::task::spawn_blocking(|| sh(&format!("ping -6 -n -c 2 -W 10 {A}")));
        for _ in 0..2 {
            let request = a.next().await;
            a.send(&echo_reply(&request, a.address).unwrap()).await;
        }
        assert!(asked.await.unwrap().contains("2 received"));
        // Nobody has this address.
        tokio::task::spawn_blocking(|| sh(&format!("ping -6 -n -c 1 -W 1 {B} || true"))).await.unwrap();
        let status = bed.status().await;
        assert_eq!(status.uplink.as_deref(), Some("enfr0"));
        assert_eq!(status.totals.uplink.drops, drops(&[("no-route", 1)]));
        assert_eq!((status.totals.uplink.rx_packets, status.totals.uplink.tx_packets), (3, 3));
        let link = ip("-d link show enfr0");
        assert!(link.contains("mtu 1280") && link.contains("LOWER_UP"), "{link}");
        assert!(
            !ip("-6 addr show dev enfr0").contains("fe80"),
            "the kernel has no link-local address beside the router's"
        );
        bed.stop().await;
        assert!(!ip("link show").contains("enfr0"), "the device vanishes with the router");
    });
}

#[test]
fn wide_multicast_reaches_the_uplink_and_clients_cannot_reach_the_link_of_the_host() {
    story_with_uplink("uplink_multicast", as_it_is, async |bed| {
        let (mut a, mut b) = (bed.client(A).await, bed.client(B).await);
        for destination in ["ff02::1", "ff05::42", "ff0e::42", "fe80::2"] {
            let packet = a.request(destination);
            a.send(&packet).await;
        }
        a.ask_router().await;
        b.ask_router_after(None).await;
        let status = bed.status().await;
        assert_eq!(status.totals.uplink.tx_packets, 2);
        assert_eq!(session(&status, A).drops, drops(&[("link-local", 2)]));
    });
}

#[test]
fn an_enrolled_client_is_let_in_and_an_unknown_one_is_told_why_not() {
    story("enrolled", as_it_is, async |bed| {
        let enrolled = Identity::self_signed_v1(A);
        let file = bed.config.endpoints_dir.join(format!("{A}.pem"));
        std::fs::write(&file, enrolled.public_key_pem()).unwrap();
        let mut client = Client::connect(&bed.fleet, A, &enrolled).await;
        client.wire.close();

        let mut unknown = Client::shake_hands(&bed.fleet, B, &Identity::self_signed_v1(B)).await;
        let refused = unknown.next_or_end().await;
        assert!(
            matches!(&refused, Err(WireError::Tls(rustls::Error::AlertReceived(alert))) if is_about_credentials(*alert)),
            "{refused:?}"
        );
        std::fs::remove_file(&file).unwrap();
        let mut revoked = Client::shake_hands(&bed.fleet, A, &enrolled).await;
        assert!(matches!(revoked.next_or_end().await, Err(WireError::Tls(rustls::Error::AlertReceived(_)))));
        bed.until("both are counted", |status| status.totals.handshakes_failed == 2).await;
    });
}

#[test]
fn sessions_beyond_the_limit_are_refused() {
    story(
        "max_sessions",
        |config| config.max_sessions = 1,
        async |bed| {
            let mut a = bed.client(A).await;
            let mut b = Client::shake_hands(&bed.fleet, B, &bed.fleet.identity(B)).await;
            assert!(matches!(b.next_or_end().await, Err(WireError::Closed)));
            a.ask_router().await;
            let _again = bed.client(A).await;
            assert_eq!(bed.status().await.totals.refused, 1);
        },
    );
}

#[test]
fn a_router_that_stops_says_goodbye_to_all_and_leaves_nothing_behind() {
    story("shutdown", as_it_is, async |bed| {
        let (mut a, mut b) = (bed.client(A).await, bed.client(B).await);
        let socket = bed.config.control_socket.clone();
        let config = bed.config.clone();
        assert!(socket.exists());
        // One that is in the middle of its handshake does not hold up anybody.
        let _handshaking = TcpStream::connect(LISTEN).await.unwrap();
        let (orders, served) = (bed.orders, bed.served);
        orders.send(Order::Stop).await.unwrap();
        assert!(matches!(a.next_or_end().await, Err(WireError::Closed)));
        assert!(matches!(b.next_or_end().await, Err(WireError::Closed)));
        drop((a, b));
        timeout(PATIENCE, served).await.unwrap().unwrap().unwrap();
        assert!(!socket.exists());
        assert!(TcpStream::connect(LISTEN).await.is_err(), "nobody listens any more");
        assert!(matches!(control::ask(&config.control_socket), Err(RouterError::NotRunning { .. })));
    });
}

#[test]
fn whoever_is_sent_away_on_the_new_wire_hears_why() {
    story("going_away", as_it_is, async |bed| {
        let new = |address: &'static str| {
            let (fleet, identity) = (&bed.fleet, bed.fleet.identity(address));
            async move { Client::connect_by(fleet, address, &identity, Version::V2).await }
        };
        let (mut old, mut revoked, mut last) = (new(A).await, new(B).await, new(C).await);
        let _newer = new(A).await;
        std::fs::write(bed.config.endpoints_dir.join(format!("{B}.revoked")), "").unwrap();
        for (client, why) in [(&mut old, Why::Superseded), (&mut revoked, Why::Revoked)] {
            assert!(matches!(client.next_or_end().await, Err(WireError::Closed)));
            assert_eq!(client.wire.going_away(), Some(GoingAway { why, after: 0 }));
        }
        bed.orders.send(Order::Stop).await.unwrap();
        assert!(matches!(last.next_or_end().await, Err(WireError::Closed)));
        let away = last.wire.going_away();
        // Four sessions at the most: 2 ms for each.
        assert!(away.is_some_and(|away| away.why == Why::ShuttingDown && away.after <= 8), "{away:?}");
    });
}

#[test]
fn a_reload_takes_new_certificates_and_keeps_the_old_ones_when_the_new_are_bad() {
    story("reload", as_it_is, async |bed| {
        let mut before = bed.client(A).await;
        let not_after = bed.status().await.certificate_not_after;
        let renew = |leaf: Leaf| bed.fleet.ca.sign_v1(leaf).write(bed.fleet.dir.path(), "router");
        renew(Leaf::new("router.example").valid(("20200101000000Z", "20991231235959Z")));
        bed.orders.send(Order::Reload).await.unwrap();
        let status = bed.until("the new one", |status| status.certificate_not_after != not_after).await;
        std::fs::write(&bed.config.cert_file, "garbage").unwrap();
        bed.orders.send(Order::Reload).await.unwrap();
        // The channel holds one order: when a second fits, the first was taken up; when a third fits, it was carried out.
        bed.orders.send(Order::Reload).await.unwrap();
        bed.orders.send(Order::Reload).await.unwrap();
        let mut after = bed.client(B).await;
        ping(&mut before, &mut after).await;
        assert_eq!(bed.status().await.certificate_not_after, status.certificate_not_after);
    });
}

#[test]
fn a_second_router_does_not_take_the_control_socket_of_a_living_one() {
    story("second_router", as_it_is, async |bed| {
        let config = config::Router { listen: vec!["[::1]:4434".parse().unwrap()], ..bed.config.clone() };
        let (_orders, received) = mpsc::channel(1);
        assert!(matches!(serve(&config, Vec::new(), received).await, Err(RouterError::Running(_))));
        bed.status().await;
        // One that was killed leaves a socket that nobody answers on.
        let left: PathBuf = bed.fleet.dir.path().join("left.sock");
        drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
        assert!(left.exists());
        drop(control::Socket::bind(&left).unwrap());
        assert!(!left.exists());
    });
}

#[test]
fn the_control_socket_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    story("control_mode", as_it_is, async |bed| {
        let mode = std::fs::metadata(&bed.config.control_socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    });
}
