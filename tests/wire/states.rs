//! What holds while nothing happens: each layer, and the limits of what a layer holds.

use crate::bed::{Example, story};
use crate::common::netns::sh;
use crate::probes::Held;
use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

const EXAMPLES: [Example; 2] = [Example::Device, Example::Server];

/// Lets the probes fire for so long; nothing else is waited for.
fn a_while() {
    std::thread::sleep(Duration::from_millis(300));
}

#[test]
fn an_open_host_lets_every_probe_out_and_the_sniffer_sees_each() {
    for example in EXAMPLES {
        story("an_open_host_lets_every_probe_out_and_the_sniffer_sees_each", example, |bed| {
            let probing = bed.probe();
            bed.control(&probing);
        });
    }
}

#[test]
fn connected_nothing_leaves_beside_the_tunnel() {
    for example in EXAMPLES {
        story("connected_nothing_leaves_beside_the_tunnel", example, |bed| {
            let probing = bed.probe();
            bed.close(&probing);
            bed.across(&probing, "connected", 3, |bed| {
                let begun = SystemTime::now();
                a_while();
                bed.tunnel_carries();
                // Answers are one thing; it is not even asked.
                let heard = probing.heard_since(begun);
                assert!(heard.iter().all(|name| !name.starts_with("the tunnel's address")), "{heard:#?}");
            });
        });
    }
}

#[test]
fn without_the_firewall_routing_holds_what_lets_the_kernel_choose_the_interface() {
    for example in EXAMPLES {
        story("without_the_firewall_routing_holds_what_lets_the_kernel_choose_the_interface", example, |bed| {
            let probing = bed.probe();
            bed.close(&probing);
            // Without the daemon nobody heals, and nobody holds the guard: the flush takes it, too.
            bed.kill_daemon();
            sh("nft flush ruleset");
            let begun = SystemTime::now();
            a_while();
            let excused = bed.nothing_routed_left(&probing, "only routing", begun);
            // What is said to need the firewall does: this is also how we know that a leak is seen.
            let left: BTreeSet<u16> = excused.iter().filter_map(|frame| frame.probe).collect();
            let stayed: Vec<&str> = probing
                .names()
                .filter(|(id, name)| {
                    probing.only(Held::ByFirewall).any(|other| other == *id)
                        && !left.contains(id)
                        && !name.starts_with("from before")
                        && !name.contains("DontRoute")
                        && !name.starts_with("membership")
                })
                .map(|(_, name)| name)
                .collect();
            assert!(stayed.is_empty(), "these did not leave without the firewall: {stayed:#?}");
        });
    }
}
