//! How much memory an idle session costs the router. A measurement, not a promise: run it with
//! `cargo test --release --test netns router::memory -- --ignored --nocapture`.

use super::bed::{Client, LISTEN};
use super::program::Program;
use crate::common::certs::{Alg, Leaf, new_key};
use crate::common::netns::{block_on, in_netns};
use std::net::Ipv6Addr;

#[test]
#[ignore = "a measurement of some minutes"]
fn resident_memory_per_idle_session() {
    in_netns("memory", || {
        let program = Program::new(&format!("[{LISTEN:?}]"));
        let running = program.start();
        let key = new_key(Alg::P256);
        let resident = || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", running.0.id())).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
            line.split_whitespace().next().unwrap().parse::<f64>().unwrap()
        };
        block_on(async {
            let mut clients = vec![connect(&program, 0, &key).await];
            let empty = resident();
            println!("{:>8} sessions: {empty:>8} KiB", 1);
            for wanted in [1_000, 5_000] {
                while clients.len() < wanted {
                    clients.push(connect(&program, clients.len(), &key).await);
                }
                let now = resident();
                println!("{wanted:>8} sessions: {now:>8} KiB, {:.1} KiB each", (now - empty) / (wanted - 1) as f64);
            }
            assert_eq!(program.status().sessions.len(), 5_000);
        });
    });
}

async fn connect(program: &Program, number: usize, key: &std::sync::Arc<rcgen::KeyPair>) -> Client {
    let address = Ipv6Addr::new(0xfd00, 0x8f80, 1, 0, 0, 0, 0, number.try_into().unwrap()).to_string();
    let identity = program.fleet.ca.sign_v1(Leaf::new(&address).key(key));
    Client::connect(&program.fleet, &address, &identity).await
}
