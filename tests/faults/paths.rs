//! What a path can do to a tunnel: lose packets without a word, in one way or in both, reset, refuse, delay, reorder, bend and
//! cut short. The tunnel says what it saw, and is back when the path is.

use crate::common::echo::Transfer;
use crate::common::middle::{ROUTER6, Way};
use crate::common::relay::{End, Manner};
use crate::common::roaming::{OVERLAY_ROUTER, Settings, World};
use crate::common::unruly::Unruly;
use crate::common::wait_for;
use crate::story::{flood, survives, told};
use std::time::Duration;

fn mended(world: &mut World) {
    world.mend();
}

/// One story over IPv4 and one over IPv6.
fn both_families() -> [Settings; 2] {
    [Settings::default(), Settings { hosts: vec![format!("[{ROUTER6}]")], ..Settings::default() }]
}

#[test]
fn a_path_that_dies_without_a_word_is_noticed_and_the_tunnel_is_back_with_it() {
    for settings in both_families() {
        survives(
            "a_path_that_dies_without_a_word_is_noticed_and_the_tunnel_is_back_with_it",
            &settings,
            |world| world.middles[0].cuts(),
            &[("", "heartbeat-timeout", ""), ("reconnecting", "timeout", "443")],
            mended,
        );
    }
}

/// Section 0.4 (a) of the reference: there the deadline began when the heartbeat was written, and a full socket hid the death.
#[test]
fn a_path_that_dies_under_full_load_is_noticed_as_soon() {
    let mut load = None;
    survives(
        "a_path_that_dies_under_full_load_is_noticed_as_soon",
        &Settings::default(),
        |world| {
            load = Some(flood());
            let begun = world.status()["statistics"]["tx_packets"].as_u64().unwrap();
            wait_for("the flood", || world.status()["statistics"]["tx_packets"].as_u64().unwrap() > begun + 1000);
            world.middles[0].cuts();
        },
        &[("", "heartbeat-timeout", "")],
        mended,
    );
}

#[test]
fn a_path_that_loses_one_way_only_is_noticed() {
    for lost in [Way::Up, Way::Down] {
        survives(
            "a_path_that_loses_one_way_only_is_noticed",
            &Settings::default(),
            move |world| world.middles[0].half_opens(lost),
            &[("", "heartbeat-timeout", ""), ("reconnecting", "timeout", "443")],
            mended,
        );
    }
}

#[test]
fn one_wedged_connection_is_replaced_by_another_over_the_same_path() {
    told("one_wedged_connection_is_replaced_by_another_over_the_same_path", &Settings::default(), |world| {
        for _ in 0..3 {
            let wedged = world.wedge();
            wait_for("another connection", || world.flows().iter().any(|flow| !wedged.contains(flow)));
            world.back();
        }
    });
}

#[test]
fn a_path_that_resets_every_connection_is_told_and_tried_again() {
    for settings in both_families() {
        survives(
            "a_path_that_resets_every_connection_is_told_and_tried_again",
            &settings,
            |world| world.middles[0].resets(),
            &[("reconnecting", "remote-closed", "reset"), ("reconnecting", "unreachable", "refused")],
            mended,
        );
    }
}

#[test]
fn a_path_that_says_there_is_no_way_is_told_and_tried_again() {
    for settings in both_families() {
        let is_ipv6 = settings.hosts.iter().all(|host| host.starts_with('['));
        survives(
            "a_path_that_says_there_is_no_way_is_told_and_tried_again",
            &settings,
            |world| world.middles[0].has_no_way(),
            // Not `no-network`, which would wait for an event of this host's own. Over IPv6 the kernel does not take a gateway's
            // word for an answer.
            &[("", "heartbeat-timeout", ""), ("reconnecting", if is_ipv6 { "timeout" } else { "unreachable" }, "443")],
            mended,
        );
    }
}

/// As behind a tunnel of somebody's that drops what is too big and filters the message that would say so.
#[test]
fn a_path_that_swallows_large_packets_is_told_as_such_a_handshake_ends() {
    survives(
        "a_path_that_swallows_large_packets_is_told_as_such_a_handshake_ends",
        &Settings::default(),
        |world| {
            world.middles[0].breaks(&["meta length > 600 drop"]);
            world.wedge();
        },
        &[("reconnecting", "timeout", "did not finish the TLS handshake")],
        mended,
    );
}

#[test]
fn a_lossy_and_narrow_path_is_lived_with() {
    told("a_lossy_and_narrow_path_is_lived_with", &patient(), |world| {
        for lossy in [true, false] {
            let transfer = Transfer::start(OVERLAY_ROUTER.parse().unwrap());
            wait_for("the transfer", || transfer.bytes() > 1 << 18);
            if lossy {
                world.middles[0].loses(3)
            } else {
                world.middles[0].throttles(2000)
            }
            let before = transfer.bytes();
            wait_for("more of it", || transfer.bytes() > before + (1 << 18));
            world.middles[0].heals();
            transfer.finish();
        }
    });
}

/// A heartbeat that a slow machine or a bad path delays shall not end the session.
fn patient() -> Settings {
    Settings { heartbeat_period: "10s", heartbeat_timeout: "20s", connect_timeout: "10s", ..Settings::default() }
}

#[test]
fn packets_that_are_late_doubled_and_out_of_order_arrive_whole_through_the_tunnel() {
    let test = "packets_that_are_late_doubled_and_out_of_order_arrive_whole_through_the_tunnel";
    told(test, &patient(), |world| {
        world.middles[0].is_unruly(Unruly { late: Duration::from_millis(20), lost: 1, twice: 5 });
        // Also with a handshake in such weather.
        let output = world.ctl(&["reconnect", "enf0", "--wait=30s"]);
        assert!(output.status.success(), "{output:?}\n{}", world.log_end());
        let transfer = Transfer::start(OVERLAY_ROUTER.parse().unwrap());
        wait_for("a part of the transfer", || transfer.bytes() > 1 << 18);
        transfer.finish();
        world.middles[0].heals();
    });
}

/// A relay in the middle, as a proxy or an inspecting firewall is; its manner is in force from the next connection on.
fn relayed(test: &str, manner: Manner, says: &'static [crate::story::Says]) {
    survives(
        test,
        &Settings::default(),
        move |world| {
            world.middles[0].relays().treats(manner);
            world.wedge();
        },
        says,
        mended,
    );
}

#[test]
fn a_connection_that_stalls_in_the_handshake_is_given_up() {
    for (way, bytes) in [(Way::Up, 100), (Way::Down, 300)] {
        relayed(
            "a_connection_that_stalls_in_the_handshake_is_given_up",
            Manner { after: Some((way, bytes, End::Stall)), ..Manner::default() },
            &[("reconnecting", "timeout", "did not finish the TLS handshake")],
        );
    }
}

#[test]
fn a_connection_that_is_reset_in_the_handshake_is_told_and_tried_again() {
    for way in [Way::Up, Way::Down] {
        relayed(
            "a_connection_that_is_reset_in_the_handshake_is_told_and_tried_again",
            Manner { after: Some((way, 200, End::Reset)), ..Manner::default() },
            &[("reconnecting", "remote-closed", "")],
        );
    }
}

#[test]
fn a_connection_that_is_cut_short_in_the_middle_of_a_record_is_told_and_tried_again() {
    for way in [Way::Up, Way::Down] {
        relayed(
            "a_connection_that_is_cut_short_in_the_middle_of_a_record_is_told_and_tried_again",
            Manner { after: Some((way, 300, End::HalfClose)), ..Manner::default() },
            &[("reconnecting", "remote-closed", "")],
        );
    }
}

/// TLS sees it, here or there; what it carried is not delivered.
#[test]
fn bytes_that_are_bent_on_their_way_end_the_session_and_never_reach_the_host() {
    for way in [Way::Up, Way::Down] {
        told(
            "bytes_that_are_bent_on_their_way_end_the_session_and_never_reach_the_host",
            &Settings::default(),
            |world| {
                world.middles[0].relays();
                world.wedge();
                world.back();
                let seen = world.changes().len();
                // The handshake is over; packets are what is bent.
                world.middles[0].relay().treats(Manner { after: Some((way, 0, End::Bend)), ..Manner::default() });
                world.until(seen, "a TLS failure", |change| {
                    change.reason == "protocol-error" && !change.error.is_empty()
                });
                world.mend();
            },
        );
    }
}

#[test]
fn a_connection_that_stalls_when_it_carries_is_replaced() {
    for way in [Way::Up, Way::Down] {
        told("a_connection_that_stalls_when_it_carries_is_replaced", &Settings::default(), |world| {
            world.middles[0].relays();
            world.wedge();
            world.back();
            let seen = world.changes().len();
            world.middles[0].relay().treats(Manner { after: Some((way, 0, End::Stall)), ..Manner::default() });
            world.until(seen, "the stall", |change| change.reason == "heartbeat-timeout");
            world.mend();
        });
    }
}

#[test]
fn a_slow_and_narrow_relay_is_lived_with() {
    told("a_slow_and_narrow_relay_is_lived_with", &patient(), |world| {
        let manner = Manner { delay: Duration::from_millis(50), rate: Some(200_000), ..Manner::default() };
        world.middles[0].relays().treats(manner);
        let output = world.ctl(&["reconnect", "enf0", "--wait=30s"]);
        assert!(output.status.success(), "{output:?}\n{}", world.log_end());
        world.carries();
        world.mend();
        world.ctl(&["reconnect", "enf0", "--wait=30s"]);
    });
}
