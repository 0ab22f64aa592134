//! Several sessions of one tunnel on one device: packets move from the old one to the new one, and none is lost, doubled or
//! read by the wrong one. The sessions are the library's, without the daemon around them; kernel, TLS and router are real.

mod station;
mod transfer;

use super::router::bed::{self, A, B, PATIENCE};
use crate::common::netns::sh;
use enftun::router::status::Status;
use enftun::state::Reason;
use enftun::tunnel::SessionEvent;
use enftun::tunnel::enf::succession::{self, claimed};
use enftun::tunnel::enf::wire::WireError;
use station::*;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::time::timeout;

#[test]
fn twenty_successors_lose_and_double_no_packet() {
    bed::story("twenty_successors", bed::as_it_is, async |bed| {
        const PORT: u16 = 7;
        const WINDOW: u32 = 32;
        let mut station = Station::new(&bed.fleet, &QUIET);
        let mut sessions = vec![station.up().await];
        let mut other = bed.client(B).await;
        let host = UdpSocket::bind((address(A), PORT)).await.unwrap();
        host.connect((address(B), PORT)).await.unwrap();
        // The other client sends everything back. Two connections overtake each other, so numbers may come out of order.
        let mirror = tokio::spawn(async move {
            loop {
                let packet = other.next().await;
                let Some(data) = datagram(&packet, address(B)) else { continue };
                let back = udp((address(B), PORT).into(), (address(A), PORT).into(), &data);
                other.send(&back).await;
            }
        });
        let (done, mut stop) = mpsc::channel::<()>(1);
        let traffic = tokio::spawn(async move {
            let (mut sent, mut received) = (0_u32, 0_u32);
            let mut missing = BTreeSet::new();
            let mut buffer = [0; 2048];
            while received < sent || stop.try_recv().is_err() {
                while sent < received + WINDOW && stop.is_empty() {
                    let mut data = vec![0; 4 + (sent % 1000) as usize];
                    data[..4].copy_from_slice(&sent.to_be_bytes());
                    host.send(&data).await.unwrap();
                    missing.insert(sent);
                    sent += 1;
                }
                let length = timeout(PATIENCE, host.recv(&mut buffer)).await.expect("no packet is lost").unwrap();
                assert!(missing.remove(&number(&buffer[..length])), "a packet came twice, or was never sent");
                received += 1;
            }
            received
        });
        for _ in 0..20 {
            let session = station.start();
            loop {
                match station.next().await {
                    (id, SessionEvent::Ready(_)) if id == station.last => break,
                    (id, SessionEvent::Ended(ended)) => {
                        assert!(id < station.last, "the new one ended: {ended:?}");
                        assert_eq!(ended.failure.reason, Reason::Superseded, "{ended:?}");
                    }
                    other => panic!("{other:?}"),
                }
            }
            sessions.push(session);
            // Some packets go through each.
            let seen = station.counters.totals().tx_packets;
            let deadline = tokio::time::Instant::now() + PATIENCE;
            while seen + 50 > station.counters.totals().tx_packets {
                assert!(tokio::time::Instant::now() < deadline, "traffic stands still");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        done.send(()).await.unwrap();
        let total = traffic.await.unwrap();
        assert!(total >= 1000, "{total}");
        assert!(!mirror.is_finished());
        // The old ones go away, and nobody takes them for another host.
        let status = bed.until("one session of each client", |status| status.sessions.len() == 2).await;
        assert_eq!(status.warnings, []);
        assert_eq!(bed::session(&status, A).phase, "present");
        mirror.abort();
    });
}

#[test]
fn a_successor_takes_no_packet_before_it_was_heard_and_the_old_one_none_after() {
    story("a_successor_takes_no_packet_before_it_was_heard", async || {
        let mut pair = Pair::new(&QUIET).await;
        let (_first, mut old) = pair.up().await;
        let (_second, mut new) = pair.standby().await;
        new.heartbeat().await;
        for number in 0..200 {
            pair.say(number).await;
            reaches(&mut old, number).await;
        }
        // What it receives, it delivers; that is what makes it the one that sends.
        pair.hears_from(&mut new, 1).await;
        assert_eq!(pair.station.ready().await, 2);
        for number in 200..400 {
            pair.say(number).await;
            reaches(&mut new, number).await;
        }
        // The old one delivers what was on its way, before and after it has said goodbye, and sends nothing.
        pair.hears_from(&mut old, 2).await;
        let end = old.until(|_| true).await;
        assert!(matches!(end, Err(WireError::Closed)), "{end:?}");
        pair.hears_from(&mut old, 3).await;
        drop(old);
        let (id, ended) = pair.station.ended().await;
        assert_eq!((id, ended.failure.reason, ended.unheard), (1, Reason::Superseded, false), "{ended:?}");
        pair.say(400).await;
        reaches(&mut new, 400).await;
    });
}

#[test]
fn a_successor_says_first_which_session_it_follows_and_a_session_that_follows_none_says_nothing() {
    story("a_successor_says_first", async || {
        let mut pair = Pair::new(&QUIET).await;
        let (first, mut old) = pair.standby().await;
        assert_eq!(old.next().await.claim(), None, "nobody was there before");
        pair.hears_from(&mut old, 1).await;
        assert_eq!(pair.station.ready().await, 1);
        let (second, mut new) = pair.standby().await;
        let proof = succession::proof(old.0.tls());
        assert!(proof.is_some());
        assert_eq!(new.next().await.claim(), proof);
        // It comes to nothing, and the one that stays says so, once.
        let vain = succession::proof(new.0.tls());
        second.stop().await;
        assert_eq!(claimed(&old.until(|packet| claimed(packet).is_some()).await.unwrap()), vain);
        pair.say(1).await;
        assert_eq!(claimed(&old.until(|_| true).await.unwrap()), None);
        first.stop().await;
        let (_third, mut later) = pair.standby().await;
        assert_eq!(later.next().await.claim(), None, "the one before is over");
    });
}

#[test]
fn a_draining_session_ends_also_when_its_far_end_neither_reads_nor_closes() {
    story("a_draining_session_ends", async || {
        let mut pair = Pair::new(&QUIET).await;
        let (_first, wedged) = pair.up().await;
        // More than the sockets take: the goodbye cannot be said either.
        flood(&pair).await;
        let (_second, mut new) = pair.up().await;
        let (id, ended) = pair.station.ended().await;
        assert_eq!((id, ended.failure.reason), (1, Reason::Superseded), "{ended:?}");
        pair.hears_from(&mut new, 1).await;
        drop(wedged);
    });
}

#[test]
fn a_session_that_was_overtaken_in_standby_says_goodbye_and_counts_for_nothing() {
    story("overtaken_in_standby", async || {
        let mut pair = Pair::new(&QUIET).await;
        let (_first, mut slow) = pair.standby().await;
        let (_second, mut new) = pair.up().await;
        // Its answer comes too late to make a difference.
        slow.answer().await;
        assert!(matches!(slow.until(|_| true).await, Err(WireError::Closed)));
        drop(slow);
        let (id, ended) = pair.station.ended().await;
        assert_eq!((id, ended.failure.reason, ended.unheard), (1, Reason::Superseded, false), "{ended:?}");
        pair.say(1).await;
        reaches(&mut new, 1).await;
    });
}

#[test]
fn a_successor_that_is_refused_says_so_and_the_old_session_goes_on() {
    story("a_successor_that_is_refused", async || {
        let mut pair = Pair::new(&QUIET).await;
        let (_first, mut old) = pair.up().await;
        let (_second, mut refusing) = pair.standby().await;
        refusing.heartbeat().await;
        refusing.0.close();
        drop(refusing);
        let (id, ended) = pair.station.ended().await;
        assert_eq!((id, ended.failure.reason, ended.unheard), (2, Reason::RemoteClosed, true), "{ended:?}");
        pair.say(1).await;
        reaches(&mut old, 1).await;
        pair.hears_from(&mut old, 2).await;
    });
}

#[test]
fn a_wedged_peer_is_found_by_traffic_within_the_timeout_and_its_heartbeat_is_not_the_last() {
    story("a_wedged_peer", async || {
        let mut pair = Pair::new(&["heartbeat_period = \"300s\"", "heartbeat_timeout = \"2s\""]).await;
        let (_first, wedged) = pair.up().await;
        // Nothing is read any more, and packets go out until no byte fits in: the heartbeat is stuck behind them.
        flood(&pair).await;
        assert!(matches!(pair.station.next().await, (1, SessionEvent::Suspect)), "told before it is given up");
        let (_, ended) = pair.station.ended().await;
        assert_eq!((ended.failure.reason, ended.unheard), (Reason::HeartbeatTimeout, false), "long before the period");
        drop(wedged);
        // The next session asks again and again.
        let (session, mut peer) = pair.up().await;
        for _ in 0..5 {
            session.probe();
            peer.answer().await;
        }
        pair.say(1).await;
        let asked = peer.heartbeat().await;
        peer.answer_to(asked).await;
        pair.hears_from(&mut peer, 2).await;
    });
}

#[test]
fn a_probe_asks_at_once_and_silence_is_told_once() {
    story("a_probe_asks_at_once", async || {
        let mut pair = Pair::new(&["heartbeat_period = \"300s\"", "heartbeat_timeout = \"60s\""]).await;
        let (session, mut peer) = pair.up().await;
        for _ in 0..3 {
            session.probe();
            peer.answer().await;
        }
        session.probe();
        let asked = peer.heartbeat().await;
        let event = pair.station.next().await;
        assert!(matches!(event, (1, SessionEvent::Suspect)), "and not before: {event:?}");
        // It was only late. The session goes on, and the same beat is not told of again.
        peer.answer_to(asked).await;
        pair.hears_from(&mut peer, 1).await;
        peer.0.close();
        drop(peer);
        assert_eq!(pair.station.ended().await.1.failure.reason, Reason::RemoteClosed);
    });
}

#[test]
fn a_path_that_swallows_everything_is_suspected_by_a_probe_and_given_up_by_traffic() {
    bed::story("a_path_that_swallows_everything", bed::as_it_is, async |bed| {
        let remote = ["heartbeat_period = \"300s\"", "heartbeat_timeout = \"2s\""];
        let mut station = Station::new(&bed.fleet, &remote);
        let session = station.up().await;
        sh(
            "nft 'table inet t { chain i { type filter hook input priority 0; tcp dport 4433 drop; tcp sport 4433 drop; }; }'",
        );
        session.probe();
        let event = station.next().await;
        assert!(matches!(event, (1, SessionEvent::Suspect)), "{event:?}");
        assert_eq!(station.ended().await.1.failure.reason, Reason::HeartbeatTimeout);
        sh("nft delete table inet t");

        let _session = station.up().await;
        sh(
            "nft 'table inet t { chain i { type filter hook input priority 0; tcp dport 4433 drop; tcp sport 4433 drop; }; }'",
        );
        let host = UdpSocket::bind(at(HERE)).await.unwrap();
        host.send_to(b"nobody answers this", at(THERE)).await.unwrap();
        let event = station.next().await;
        assert!(matches!(event, (2, SessionEvent::Suspect)), "{event:?}");
        assert_eq!(station.ended().await.1.failure.reason, Reason::HeartbeatTimeout);
    });
}

/// Carries bytes between a client and the router until the client has said all of its handshake, and swallows everything
/// from then on: a path that dies at the worst moment.
async fn dying(listener: TcpListener) {
    loop {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut router = TcpStream::connect(bed::LISTEN).await.unwrap();
        tokio::spawn(async move {
            let (mut from_client, mut from_router) = ([0; 4096], [0; 4096]);
            let mut answered = false;
            loop {
                tokio::select! {
                    length = client.read(&mut from_client) => match length {
                        Ok(length @ 1..) => {
                            router.write_all(&from_client[..length]).await.unwrap();
                            // The first thing that the client says after the router's part ends the handshake.
                            if answered {
                                let _ = tokio::io::copy(&mut client, &mut tokio::io::sink()).await;
                                // The router is not told of the end either.
                                return std::future::pending().await;
                            }
                        }
                        _ => return,
                    },
                    length = router.read(&mut from_router) => match length {
                        Ok(length @ 1..) => {
                            client.write_all(&from_router[..length]).await.unwrap();
                            answered = true;
                        }
                        _ => return,
                    },
                }
            }
        });
    }
}

#[test]
fn a_successor_that_hears_nothing_gives_the_address_back_to_the_old_session() {
    bed::story("a_successor_that_hears_nothing", bed::as_it_is, async |bed| {
        let listener = TcpListener::bind("[::1]:0").await.unwrap();
        let hosts = format!("hosts = [\"{}\", \"{}\"]", bed::LISTEN, listener.local_addr().unwrap());
        let remote = ["heartbeat_period = \"300s\"", "heartbeat_timeout = \"2s\"", &hosts];
        let mut station = Station::new(&bed.fleet, &remote);
        let relay = tokio::spawn(dying(listener));
        let mut other = bed.client(B).await;
        let host = UdpSocket::bind(at(HERE)).await.unwrap();
        let _first = station.up().await;
        let _second = station.start_to(&[1]);
        let two = |status: &Status| status.sessions.iter().filter(|session| session.address == address(A)).count() == 2;
        let event = tokio::select! {
            _ = bed.until("the router takes it for the newer one", two) => station.next().await,
            event = station.next() => event,
        };
        // What goes to the client meanwhile is lost, until the successor is given up.
        let (id, SessionEvent::Ended(ended)) = event else { panic!("{event:?}") };
        assert_eq!((id, ended.failure.reason, ended.unheard), (2, Reason::HeartbeatTimeout, false), "{ended:?}");
        let arrives = async {
            let mut buffer = [0; 64];
            loop {
                other.send(&udp(at(THERE), at(HERE), b"back")).await;
                if timeout(Duration::from_millis(100), host.recv(&mut buffer)).await.is_ok() {
                    return;
                }
            }
        };
        timeout(PATIENCE, arrives).await.expect("the old session has the address again");
        let status = bed.status().await;
        let of_client: Vec<_> = status.sessions.iter().filter(|session| session.address == address(A)).collect();
        assert_eq!((of_client[0].phase.as_str(), &status.warnings[..]), ("present", &[][..]), "{status:?}");
        relay.abort();
    });
}
