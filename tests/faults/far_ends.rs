//! What a router can do to its clients, or somebody in its place: be silent, reset, talk nonsense, come and go. The tunnel says
//! what it saw, does not spin, and is back when the router is.

use crate::common::fake_router::{FakeRouter, Manners};
use crate::common::middle::ROUTER;
use crate::common::roaming::{Settings, World};
use crate::common::{long, wait_for};
use crate::story::{Says, survives, told};
use nix::sys::signal::Signal;
use std::sync::Arc;
use std::sync::Mutex;

/// Somebody with these manners takes the router's place, and its identity.
fn replaced(test: &str, manners: impl FnOnce(Arc<rustls::ServerConfig>) -> Manners + Send, says: &'static [Says]) {
    let impostor = Mutex::new(None);
    let attempts = Mutex::new(0);
    survives(
        test,
        &Settings::default(),
        |world| {
            let config = world.router_config();
            world.kill_router();
            let start = || FakeRouter::at(&format!("{ROUTER}:443"), manners(config));
            *impostor.lock().unwrap() = Some(world.far.run(start));
        },
        says,
        |world| {
            let impostor = impostor.lock().unwrap().take().unwrap();
            wait_for("some attempts", || impostor.connections() > 3);
            *attempts.lock().unwrap() = impostor.connections();
            drop(impostor);
            world.start_router();
        },
    );
}

#[test]
fn a_router_that_accepts_and_stays_silent_is_given_up() {
    replaced(
        "a_router_that_accepts_and_stays_silent_is_given_up",
        |_| Manners::Silent,
        &[("reconnecting", "timeout", "did not finish the TLS handshake")],
    );
}

#[test]
fn a_router_that_shakes_hands_and_stays_silent_is_given_up() {
    replaced(
        "a_router_that_shakes_hands_and_stays_silent_is_given_up",
        |config| Manners::Babbles(config, Vec::new()),
        &[("", "heartbeat-timeout", "")],
    );
}

#[test]
fn a_router_that_resets_after_the_handshake_is_taken_for_one_that_refuses_and_tried_slowly() {
    replaced(
        "a_router_that_resets_after_the_handshake_is_taken_for_one_that_refuses_and_tried_slowly",
        Manners::Resets,
        &[("reconnecting", "remote-closed", ""), ("error", "auth-failed", "refuses this certificate")],
    );
}

#[test]
fn a_router_that_closes_after_the_handshake_is_taken_for_one_that_refuses_and_tried_slowly() {
    replaced(
        "a_router_that_closes_after_the_handshake_is_taken_for_one_that_refuses_and_tried_slowly",
        Manners::Refuses,
        &[("reconnecting", "remote-closed", ""), ("error", "auth-failed", "refuses this certificate")],
    );
}

#[test]
fn a_router_that_sends_garbage_inside_tls_is_given_up() {
    replaced(
        "a_router_that_sends_garbage_inside_tls_is_given_up",
        // A length that no packet has.
        |config| Manners::Sends(config, vec![0xff; 4096]),
        &[("reconnecting", "protocol-error", "frame of 65535 bytes")],
    );
}

#[test]
fn a_router_that_sends_frames_that_are_no_packets_is_given_up_for_its_silence() {
    replaced(
        "a_router_that_sends_frames_that_are_no_packets_is_given_up_for_its_silence",
        |config| Manners::Babbles(config, vec![vec![], vec![0; 40], vec![0x60; 1400]]),
        &[("", "heartbeat-timeout", "")],
    );
}

#[test]
fn whoever_speaks_no_tls_at_the_routers_place_is_told() {
    replaced(
        "whoever_speaks_no_tls_at_the_routers_place_is_told",
        |_| Manners::NoTls,
        &[("reconnecting", "protocol-error", "does not speak TLS")],
    );
}

#[test]
fn a_router_that_is_gone_is_told_and_tried_again() {
    survives(
        "a_router_that_is_gone_is_told_and_tried_again",
        &Settings::default(),
        World::kill_router,
        &[("reconnecting", "remote-closed", ""), ("reconnecting", "unreachable", "refused")],
        World::start_router,
    );
}

/// Its kernel still answers for it: connections are accepted, and bytes are acknowledged.
#[test]
fn a_router_that_hangs_is_noticed() {
    survives(
        "a_router_that_hangs_is_noticed",
        &Settings::default(),
        |world| world.signal_router(Signal::SIGSTOP),
        &[("", "heartbeat-timeout", ""), ("reconnecting", "timeout", "did not finish the TLS handshake")],
        |world| world.signal_router(Signal::SIGCONT),
    );
}

/// The short form of an hour of it, which `tests/unit/faults.rs` tells in simulated time.
#[test]
fn a_router_that_restarts_again_and_again_is_followed() {
    told("a_router_that_restarts_again_and_again_is_followed", &Settings::default(), |world| {
        for _ in 0..if long() { 100 } else { 8 } {
            world.kill_router();
            world.start_router();
            world.carries();
        }
    });
}
