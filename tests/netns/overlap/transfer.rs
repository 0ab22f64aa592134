//! A connection through the tunnel while the sessions beneath it change.

use super::station::*;
use crate::common::netns::{Netns, block_on, ip, veth};
use crate::router::bed::{self, A, PATIENCE};
use enftun::config;
use enftun::state::Reason;
use enftun::tunnel::SessionEvent;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::timeout;

/// What a stream of this test carries at each place.
fn pattern(place: u64) -> u8 {
    (place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// Reads a stream to its end and checks every byte; returns the longest wait for one.
async fn check(stream: &mut (impl AsyncRead + Unpin), received: &AtomicU64) -> Duration {
    let (mut place, mut longest) = (0, Duration::ZERO);
    let mut buffer = vec![0; 65_536];
    loop {
        let since = tokio::time::Instant::now();
        let read = timeout(PATIENCE, stream.read(&mut buffer)).await.expect("the transfer goes on").expect("no reset");
        longest = longest.max(since.elapsed());
        if read == 0 {
            return longest;
        }
        for byte in &buffer[..read] {
            assert_eq!(*byte, pattern(place), "byte {place}");
            place += 1;
        }
        received.store(place, SeqCst);
    }
}

async fn fill(stream: &mut (impl AsyncWrite + Unpin), done: Arc<AtomicBool>) -> u64 {
    let mut place = 0;
    while !done.load(SeqCst) {
        let bytes: Vec<_> = (place..place + 16_384).map(pattern).collect();
        timeout(PATIENCE, stream.write_all(&bytes)).await.expect("the transfer goes on").expect("no reset");
        place += 16_384;
    }
    stream.shutdown().await.unwrap();
    place
}

#[test]
fn a_running_transfer_survives_twenty_successors_in_both_directions() {
    const TEST: &str = "a_running_transfer_survives_twenty_successors_in_both_directions";
    let listen = |config: &mut config::Router| config.listen = vec!["[::]:4433".parse().unwrap()];
    let story = async |bed: bed::Bed| {
        let server = TcpListener::bind((address(bed::HOST), 5001)).await.unwrap();
        // It sends back what it gets.
        let echo = tokio::spawn(async move {
            let (mut stream, _) = server.accept().await.unwrap();
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await.unwrap();
            write.shutdown().await.unwrap();
        });
        let client = Netns::new();
        tokio::task::block_in_place(|| {
            veth(&Netns::here(), "wan0", &client, "lan0");
            ip("addr add 192.0.2.2/24 dev wan0");
            client.exec("ip addr add 192.0.2.1/24 dev lan0");
            client.run(|| block_on(transfer(&bed.fleet)));
        });
        timeout(PATIENCE, echo).await.unwrap().unwrap();
        let status = bed.until("all have gone", |status| status.sessions.is_empty()).await;
        assert_eq!(status.warnings, []);
    };
    bed::story_with_uplink(TEST, listen, story);
}

/// The client's side: one connection through the tunnel, and twenty sessions one after the other beneath it.
async fn transfer(fleet: &bed::Fleet) {
    let remote = ["hosts = [\"192.0.2.2:4433\"]", "heartbeat_period = \"300s\"", "heartbeat_timeout = \"60s\""];
    let mut station = Station::new(fleet, &remote);
    let mut sessions = vec![station.up().await];
    let socket = TcpSocket::new_v6().unwrap();
    socket.bind((address(A), 0).into()).unwrap();
    let stream = timeout(PATIENCE, socket.connect((address(bed::HOST), 5001).into())).await.unwrap().unwrap();
    let (mut read, mut write) = stream.into_split();
    let done = Arc::new(AtomicBool::new(false));
    let filled = tokio::spawn({
        let done = done.clone();
        async move { fill(&mut write, done).await }
    });
    let received = Arc::new(AtomicU64::new(0));
    let checked = tokio::spawn({
        let received = received.clone();
        async move { check(&mut read, &received).await }
    });
    for _ in 0..20 {
        sessions.push(station.start());
        loop {
            match station.next().await {
                (id, SessionEvent::Ready(_)) if id == station.last => break,
                (id, SessionEvent::Ended(ended)) if id < station.last => {
                    assert_eq!(ended.failure.reason, Reason::Superseded, "{ended:?}");
                }
                // The path is busy, not dead: nobody acts on it here.
                (_, SessionEvent::Suspect) => {}
                other => panic!("{other:?}"),
            }
        }
        // Each carries a share of it.
        let (seen, deadline) = (received.load(SeqCst), tokio::time::Instant::now() + PATIENCE);
        while received.load(SeqCst) < seen + 200_000 {
            assert!(tokio::time::Instant::now() < deadline, "the transfer stands still");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    done.store(true, SeqCst);
    let total = timeout(PATIENCE, filled).await.unwrap().unwrap();
    let stalled = timeout(PATIENCE, checked).await.unwrap().unwrap();
    assert_eq!(received.load(SeqCst), total);
    eprintln!("{total} bytes there and back under 20 successors; longest stall {stalled:?}");
}
