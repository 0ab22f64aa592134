//! Many clients that come back at once.

use super::bed::{A, B, Client, LISTEN, ping};
use super::program::{Program, signal};
use crate::common::certs::{Alg, Identity, Leaf, new_key};
use crate::common::netns::{block_on, in_netns};
use crate::common::wait_for;
use futures_util::future::join_all;
use nix::sys::signal::Signal;
use std::net::Ipv6Addr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use tokio::net::TcpStream;

const CLIENTS: u16 = 300;

#[test]
fn hundreds_reconnect_at_once_and_packets_go_on() {
    in_netns("storm", || {
        let program = Program::new(&format!("[{LISTEN:?}]"));
        let router = program.start();
        let key = new_key(Alg::P256);
        let identity = |number: u16| {
            let address = Ipv6Addr::new(0xfd00, 0x8f80, 1, 0, 0, 0, 0, number).to_string();
            (program.fleet.ca.sign_v1(Leaf::new(&address).key(&key)), address)
        };
        let clients: Vec<_> = (1..=CLIENTS).map(identity).collect();
        let (over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            // On a thread that waits for nothing else. Each ping is answered, or the test fails.
            let watcher = scope.spawn(|| {
                block_on(async {
                    let (mut a, mut b) = (program.fleet.client(A).await, program.fleet.client(B).await);
                    while !over.load(Relaxed) {
                        ping(&mut a, &mut b).await;
                        answered.fetch_add(1, Relaxed);
                    }
                });
            });
            let count = || program.status().sessions.len();
            block_on(async {
                let first = everybody(&program, &clients, || {}).await;
                wait_for("everybody is there", || count() == usize::from(CLIENTS) + 2 && answered.load(Relaxed) > 0);
                // Cut off, without a goodbye; and everybody is back before the router does anything.
                drop(first);
                wait_for("they are gone", || count() == 2);
                signal(&router, Signal::SIGSTOP);
                let before = answered.load(Relaxed);
                let again = everybody(&program, &clients, || signal(&router, Signal::SIGCONT)).await;
                // One was on its way already.
                assert!(answered.load(Relaxed) > before + 1, "packets had to wait until everybody was in");
                let status = program.status();
                assert_eq!((status.sessions.len(), status.totals.handshakes_failed), (usize::from(CLIENTS) + 2, 0));
                assert!(status.sessions.iter().all(|session| session.phase == "present" && session.drops.is_empty()));
                drop(again);
            });
            over.store(true, Relaxed);
            watcher.join().unwrap();
        });
    });
}

/// All of them at the same time: the router has everybody's first words when `said` is called. Each has had an answer through
/// its session.
async fn everybody(program: &Program, clients: &[(Identity, String)], said: impl FnOnce()) -> Vec<Client> {
    let connections = join_all(clients.iter().map(|_| async { TcpStream::connect(LISTEN).await.unwrap() })).await;
    let each = clients.iter().zip(connections);
    let greetings = join_all(each.map(|(client, io)| greet(program, client, io)));
    // Otherwise it would not be everybody's turn before `said`.
    let (clients, ()) = tokio::join!(tokio::task::unconstrained(greetings), async { said() });
    clients
}

async fn greet(program: &Program, (identity, address): &(Identity, String), io: TcpStream) -> Client {
    let mut client = Client::shake_hands_over(io, &program.fleet, address, identity, None).await;
    client.ask_router().await;
    client
}
