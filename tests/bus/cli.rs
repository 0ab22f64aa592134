//! `enftunctl` as people and scripts use it, against a real bus.

use crate::common::bus::{PrivateBus, no_other_uid, own_uid, stderr, stdout};
use crate::common::{skip, wait_for};
use crate::simulation::{CONFIG_HASH, SINCE, Simulation, failure, time};
use enftun::daemon::{Refusal, ReloadScope, Request};
use enftun::dbus::{self, Bus};
use enftun::state::{Phase, Reason};
use enftun::tunnel::DropReason;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

const CTL: &str = env!("CARGO_BIN_EXE_enftunctl");

fn ctl(bus: &PrivateBus, args: &[&str]) -> Output {
    bus.command(CTL).args(args).output().unwrap()
}

fn start(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// It failed with this code and exactly one line on stderr, which begins with the program's name.
#[track_caller]
fn complaint(output: Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout, b"");
    let text = stderr(output);
    assert!(text.starts_with("enftunctl: ") && text.ends_with('\n') && text.lines().count() == 1, "{text}");
    text.trim_start_matches("enftunctl: ").trim_end().to_owned()
}

async fn daemon(bus: &PrivateBus, tunnels: &[&str]) -> (Simulation, Bus) {
    let (daemon, core) = Simulation::new(tunnels);
    let served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    (daemon, served)
}

fn firewall() -> Value {
    json!({ "table": "inet enftun", "in_force": true, "generation": 3, "last_verified": 1_767_323_045_000_000_u64 })
}

fn asked(daemon: &Simulation, request: Request) {
    wait_for("the request to arrive", || daemon.requests().contains(&request));
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_people_everything_about_a_tunnel() {
    let Some(bus) = PrivateBus::start("status_tells_people_everything_about_a_tunnel") else { return };
    let (daemon, _served) = daemon(&bus, &["enf0"]).await;
    daemon.connected("enf0");
    daemon.tunnel("enf0", |tunnel| tunnel.since = time(SINCE));
    bus.shows("enf0", "StateSince", "t 1767323045000000");
    let counters = daemon.counters("enf0");
    counters.received_units(1, 1536);
    counters.transmitted_units(1, 40);
    counters.dropped_rx(DropReason::SourceForged);
    counters.heartbeat(std::time::Duration::from_micros(12_345));
    let text = stdout(ctl(&bus, &["status", "enf0"]));
    let mut lines: Vec<&str> = text.lines().collect();
    let since = lines.remove(1);
    assert!(since.starts_with("  since:         2026-01-02 03:04:05 UTC ("), "{since}");
    let firewall = lines.remove(4);
    assert!(firewall.starts_with("  firewall:      in force, looked at ") && firewall.ends_with(" ago"), "{firewall}");
    let expected = "\
enf0: connected
  reason:        user
  wanted:        yes
  blocking:      yes, what belongs in the tunnel has no other way out (lockdown: boot)
  remote:        router.example.net:443
  interface:     enf0 (index 7), MTU 1280
  addresses:     fd00:8f80::1/128
  routes:        ::/0
  TLS:           TLSv1.3, TLS_AES_256_GCM_SHA384
  wire:          v2
  router:        CN=router.example.net (certificate until 2030-03-17)
  certificate:   until 2027-01-15
  received:      1.5 KiB in 1 packets; 1 dropped
  sent:          40 B in 1 packets; 0 dropped
  drops:         1 source-forged
  reconnects:    0
  heartbeat:     12.3 ms";
    assert_eq!(lines.join("\n"), expected);
    // The only tunnel needs no name.
    assert!(stdout(ctl(&bus, &["status"])).starts_with("enf0: connected\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_what_went_wrong_and_cannot_be_steered_by_the_far_end() {
    let Some(bus) = PrivateBus::start("status_tells_what_went_wrong_and_cannot_be_steered_by_the_far_end") else {
        return;
    };
    let (daemon, _served) = daemon(&bus, &["enf0"]).await;
    let text = "the router says \"\u{1b}[2Jno\"";
    daemon.fail("enf0", Phase::Reconnecting, failure(Reason::RemoteClosed, text));
    daemon.tunnel("enf0", |tunnel| {
        tunnel.next_attempt = Some(time(SINCE));
        tunnel.attempt = 4;
    });
    bus.shows("enf0", "Attempt", "u 4");
    let text = stdout(ctl(&bus, &["status", "enf0"]));
    for expected in [
        "enf0: reconnecting\n",
        "  last error:    the router says \"\u{fffd}[2Jno\" (remote-closed)\n",
        "  next attempt:  2026-01-02 03:04:05 UTC (",
        ", after 4 in vain\n",
        "  remotes:       router.example.net:443, [2001:db8::1]:443\n",
    ] {
        assert!(text.contains(expected), "{expected:?} in {text}");
    }
    assert!(!text.contains('\u{1b}'));
}

#[tokio::test(flavor = "multi_thread")]
async fn status_says_when_the_firewall_is_not_in_force_where_there_shall_be_one() {
    let Some(bus) = PrivateBus::start("status_says_when_the_firewall_is_not_in_force_where_there_shall_be_one") else {
        return;
    };
    let (daemon, _served) = daemon(&bus, &["enf0"]).await;
    daemon.edit(|snapshot| snapshot.firewall.in_force = false);
    daemon.fail("enf0", Phase::Error, failure(Reason::FirewallFailed, "the program nft is not there"));
    daemon.tunnel("enf0", |tunnel| tunnel.blocking = false);
    bus.shows("enf0", "Blocking", "b false");
    let status = || stdout(ctl(&bus, &["status", "enf0"]));
    let text = status();
    assert!(text.contains("  blocking:      no (lockdown: boot)\n"), "{text}");
    assert!(text.contains("  firewall:      NOT in force; until it is, routing alone blocks"), "{text}");
    assert!(text.contains("the program nft is not there (firewall-failed)\n"), "{text}");
    daemon.tunnel("enf0", |tunnel| tunnel.lockdown = "off");
    bus.shows("enf0", "Lockdown", "s \"off\"");
    assert!(!status().contains("firewall: "), "{}", status());
    daemon.tunnel("enf0", |tunnel| (tunnel.lockdown, tunnel.state) = ("boot", Phase::Disconnected));
    bus.shows("enf0", "State", "s \"disconnected\"");
    assert!(!status().contains("firewall: "), "{}", status());
}

#[tokio::test(flavor = "multi_thread")]
async fn several_tunnels_are_a_table_without_colour() {
    let Some(bus) = PrivateBus::start("several_tunnels_are_a_table_without_colour") else { return };
    let (daemon, _served) = daemon(&bus, &["enf0", "my-tunnel"]).await;
    daemon.connected("enf0");
    bus.shows("enf0", "State", "s \"connected\"");
    let text = stdout(ctl(&bus, &["status"]));
    let rows: Vec<Vec<&str>> =
        text.lines().map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()).collect();
    assert_eq!(rows[0], ["NAME", "STATE", "SINCE", "REASON", "REMOTE", "ADDRESSES", "RECEIVED", "SENT"]);
    assert_eq!(rows[1][..2], ["enf0", "connected"]);
    assert_eq!(rows[1][3..], ["user", "router.example.net:443", "fd00:8f80::1/128", "0 B", "0 B"]);
    assert_eq!(rows[2][..2], ["my-tunnel", "disconnected"]);
    assert_eq!(rows[2][3..], ["none", "-", "-", "0 B", "0 B"]);
    assert_eq!(rows.len(), 3);
    assert!(!text.contains('\u{1b}'));
    let list = stdout(ctl(&bus, &["list"]));
    assert_eq!(list, "NAME       KIND  STATE\nenf0       enf   connected\nmy-tunnel  enf   disconnected\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn json_has_every_property_under_its_own_name() {
    let Some(bus) = PrivateBus::start("json_has_every_property_under_its_own_name") else { return };
    let (daemon, _served) = daemon(&bus, &["enf0", "my-tunnel"]).await;
    daemon.connected("enf0");
    daemon.tunnel("enf0", |tunnel| tunnel.since = time(SINCE));
    bus.shows("enf0", "StateSince", "t 1767323045000000");
    daemon.counters("enf0").dropped_tx(DropReason::TooBig);
    let expected = json!({
        "version": 1,
        "daemon": { "version": env!("CARGO_PKG_VERSION"), "state": "connected", "blocking": true, "startup": false,
            "connectivity": "unknown", "features": ["enf", "aws-iot", "dns", "lockdown", "trusted-groups", "router-card"],
            "config_hash": CONFIG_HASH, "firewall": firewall(), "warnings": [] },
        "tunnels": [{
            "name": "enf0", "kind": "enf",
            "state": "connected", "target_state": "connected", "state_reason": "user", "state_since": 1_767_323_045_000_000_u64,
            "last_error": null, "attempt": 0, "next_attempt": null,
            "interface": "enf0", "if_index": 7, "mtu": 1280, "addresses": ["fd00:8f80::1/128"], "routes": ["::/0"],
            "remotes": ["router.example.net:443", "[2001:db8::1]:443"], "active_remote": "router.example.net:443",
            "fw_mark": 363, "fw_mask": 4_294_967_295_u32, "table": 2097,
            "auto_connect": false, "lockdown": "boot", "blocking": true,
            "tls": {
                "version": "TLSv1.3", "cipher": "TLS_AES_256_GCM_SHA384", "peer_subject": "CN=router.example.net",
                "peer_not_after": 1_900_000_000_000_000_u64, "local_not_after": 1_800_000_000_000_000_u64, "wire": "v2",
            },
            "statistics": {
                "rx_bytes": 0, "tx_bytes": 0, "rx_packets": 0, "tx_packets": 0, "rx_dropped": 0, "tx_dropped": 1,
                "drop_reasons": { "too-big": 1 }, "reconnects": 0, "heartbeat_rtt_usec": 0,
            },
            "forwards": null,
        }],
    });
    let read = |args: &[&str]| serde_json::from_str::<Value>(&stdout(ctl(&bus, args))).unwrap();
    assert_eq!(read(&["status", "enf0", "--json"]), expected);
    let all = read(&["status", "--json"]);
    assert_eq!(all["tunnels"].as_array().unwrap().len(), 2);
    assert_eq!(all["tunnels"][0], expected["tunnels"][0]);
    assert_eq!(all["tunnels"][1]["tls"], Value::Null);
    assert_eq!(read(&["list", "--json"]), all);
    daemon.fail("enf0", Phase::Error, failure(Reason::AuthFailed, "refused"));
    bus.shows("enf0", "State", "s \"error\"");
    assert_eq!(
        read(&["status", "--json", "enf0"])["tunnels"][0]["last_error"],
        json!({ "reason": "auth-failed", "text": "refused" })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_without_wait_returns_when_it_is_accepted_and_prints_nothing() {
    let Some(bus) = PrivateBus::start("a_change_without_wait_returns_when_it_is_accepted_and_prints_nothing") else {
        return;
    };
    let (daemon, _served) = daemon(&bus, &["enf0"]).await;
    for verb in ["connect", "up", "disconnect", "down", "reconnect"] {
        assert_eq!(stdout(ctl(&bus, &[verb, "enf0"])), "", "{verb}");
    }
    assert_eq!(stdout(ctl(&bus, &["reload"])), "");
    let name = || "enf0".to_owned();
    assert_eq!(
        daemon.requests(),
        [
            Request::Connect(name()),
            Request::Connect(name()),
            Request::Disconnect(name()),
            Request::Disconnect(name()),
            Request::Reconnect(name()),
            Request::Reload(ReloadScope::ALL),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_with_wait_returns_when_connected_and_not_before() {
    let Some(bus) = PrivateBus::start("connect_with_wait_returns_when_connected_and_not_before") else { return };
    let (daemon, _served) = daemon(&bus, &["enf0"]).await;
    // An error of the last try, still shown when the new one begins, is not the new one's.
    daemon.fail("enf0", Phase::Error, failure(Reason::AuthFailed, "the old story"));
    bus.shows("enf0", "State", "s \"error\"");
    let mut command = bus.command(CTL);
    command.args(["connect", "enf0", "--wait"]);
    let mut child = start(command);
    asked(&daemon, Request::Connect("enf0".to_owned()));
    daemon.fail("enf0", Phase::Reconnecting, failure(Reason::DnsFailed, "no address"));
    daemon.transition("enf0", Phase::Connecting, Reason::DnsFailed);
    assert!(child.try_wait().unwrap().is_none(), "it still waits");
    daemon.connected("enf0");
    assert_eq!(stdout(child.wait_with_output().unwrap()), "");
    // Connected already is success at once.
    daemon.transition("enf0", Phase::Connected, Reason::User);
    assert_eq!(stdout(ctl(&bus, &["wait", "enf0", "connected"])), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_from_before_the_answer_is_not_taken_for_the_new_attempts() {
    let Some(bus) = PrivateBus::start("a_failure_from_before_the_answer_is_not_taken_for_the_new_attempts") else {
        return;
    };
    let (daemon, _served) = daemon(&bus, &["enf0"]).await;
    daemon.fail_late(failure(Reason::AuthFailed, "the old story"));
    let mut command = bus.command(CTL);
    command.args(["connect", "enf0", "--wait=300s"]);
    let child = start(command);
    asked(&daemon, Request::Connect("enf0".to_owned()));
    daemon.connected("enf0");
    assert_eq!(stdout(child.wait_with_output().unwrap()), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_with_wait_fails_with_the_failures_text_as_soon_as_trying_again_is_no_use() {
    let Some(bus) =
        PrivateBus::start("connect_with_wait_fails_with_the_failures_text_as_soon_as_trying_again_is_no_use")
    else {
        return;
    };
    let (daemon, _served) = daemon(&bus, &["enf0"]).await;
    let mut command = bus.command(CTL);
    command.args(["connect", "enf0", "--wait=300s"]);
    let child = start(command);
    asked(&daemon, Request::Connect("enf0".to_owned()));
    daemon.fail(
        "enf0",
        Phase::Error,
        failure(Reason::CertificateExpired, "the own certificate expired on 2026-01-01; renew it"),
    );
    let text = complaint(child.wait_with_output().unwrap(), 1);
    assert!(text.contains("enf0 did not become connected"), "{text}");
    assert!(text.contains("the own certificate expired on 2026-01-01; renew it"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_ends_when_somebody_else_wants_the_contrary() {
    let Some(bus) = PrivateBus::start("waiting_ends_when_somebody_else_wants_the_contrary") else { return };
    let (daemon, _served) = daemon(&bus, &["enf0"]).await;
    let mut command = bus.command(CTL);
    command.args(["connect", "enf0", "--wait=300s"]);
    let child = start(command);
    asked(&daemon, Request::Connect("enf0".to_owned()));
    assert_eq!(stdout(ctl(&bus, &["disconnect", "enf0", "--wait"])), "");
    let text = complaint(child.wait_with_output().unwrap(), 1);
    assert!(text.contains("somebody else made it disconnecting"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn reconnect_with_wait_is_not_content_with_the_old_session() {
    let Some(bus) = PrivateBus::start("reconnect_with_wait_is_not_content_with_the_old_session") else { return };
    let (daemon, _served) = daemon(&bus, &["enf0"]).await;
    daemon.connected("enf0");
    bus.shows("enf0", "State", "s \"connected\"");
    let text = complaint(ctl(&bus, &["reconnect", "enf0", "--wait=200ms"]), 6);
    assert_eq!(text, "enf0 is not connected after 0.2 s: it is connecting");
    let mut command = bus.command(CTL);
    command.args(["reconnect", "enf0", "--wait=300s"]);
    let child = start(command);
    wait_for("the second request", || daemon.requests().len() == 2);
    daemon.connected("enf0");
    assert_eq!(stdout(child.wait_with_output().unwrap()), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_ends_in_vain_says_how_it_is_instead() {
    let Some(bus) = PrivateBus::start("a_wait_that_ends_in_vain_says_how_it_is_instead") else { return };
    let (daemon, _served) = daemon(&bus, &["enf0"]).await;
    daemon.fail("enf0", Phase::Reconnecting, failure(Reason::Unreachable, "no remote accepts a connection"));
    bus.shows("enf0", "State", "s \"reconnecting\"");
    let text = complaint(ctl(&bus, &["wait", "enf0", "connected", "--timeout", "100ms"]), 6);
    assert_eq!(text, "enf0 is not connected after 0.1 s: it is reconnecting: no remote accepts a connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_lasts_no_time_is_seen_by_wait() {
    let Some(bus) = PrivateBus::start("a_state_that_lasts_no_time_is_seen_by_wait") else { return };
    let (daemon, _served) = daemon(&bus, &["enf0"]).await;
    let mut command = bus.command(CTL);
    command.args(["wait", "enf0", "error", "--timeout=300s"]);
    let mut child = start(command);
    // Waiting cannot be seen from outside: change until it is noticed, and never rest in the state.
    wait_for("wait to see the state", || {
        daemon.edit(|snapshot| {
            crate::simulation::transition(snapshot, "enf0", Phase::Error, Reason::Config);
            crate::simulation::transition(snapshot, "enf0", Phase::Connecting, Reason::Config);
        });
        child.try_wait().unwrap().is_some()
    });
    assert_eq!(stdout(child.wait_with_output().unwrap()), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_not_there_is_answered_with_those_that_are() {
    let Some(bus) = PrivateBus::start("a_name_that_is_not_there_is_answered_with_those_that_are") else { return };
    let (daemon, _served) = daemon(&bus, &["enf0", "office"]).await;
    for args in [
        &["status", "enf1"][..],
        &["connect", "enf1"],
        &["connect", "enf1", "--wait"],
        &["disconnect", "enf1"],
        &["reconnect", "enf1"],
        &["wait", "enf1", "connected"],
    ] {
        assert_eq!(
            complaint(ctl(&bus, args), 5),
            "there is no tunnel called enf1; there are: enf0, office",
            "{args:?}"
        );
    }
    daemon.remove("enf0");
    daemon.remove("office");
    wait_for("both to be gone", || ctl(&bus, &["status", "office"]).status.code() == Some(5));
    assert_eq!(complaint(ctl(&bus, &["connect", "office"]), 5), "there is no tunnel called office; there are none");
    assert!(stdout(ctl(&bus, &["status"])).starts_with("no tunnels;"));
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_are_those_that_scripts_rely_on() {
    let Some(mut bus) = PrivateBus::start("exit_codes_are_those_that_scripts_rely_on") else { return };
    for args in [&["status"][..], &["list"], &["connect", "enf0"], &["wait", "enf0", "connected"], &["reload"]] {
        let text = complaint(ctl(&bus, args), 3);
        assert!(text.contains("enftund is not running"), "{args:?}: {text}");
    }
    let (daemon, served) = daemon(&bus, &["enf0"]).await;
    for args in [&["frobnicate"][..], &["connect"], &["wait", "enf0", "up"], &["connect", "enf0", "--wait=soon"], &[]] {
        assert_eq!(ctl(&bus, args).status.code(), Some(2), "{args:?}");
    }
    assert_eq!(ctl(&bus, &["--help"]).status.code(), Some(0));
    daemon.refuse(Refusal::InvalidConfig("enf0.toml:3:1: unknown key".to_owned()));
    let text = complaint(ctl(&bus, &["reload"]), 78);
    assert!(text.contains("nothing was changed: enf0.toml:3:1: unknown key"), "{text}");
    daemon.refuse(Refusal::WrongState("not now".to_owned()));
    assert_eq!(complaint(ctl(&bus, &["connect", "enf0"]), 1), "not now");
    drop(served);
    bus.kill();
    let text = complaint(ctl(&bus, &["status"]), 3);
    assert!(text.starts_with("cannot reach the system bus (is dbus running?)"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_reads_and_is_told_that_more_is_for_root() {
    const TEST: &str = "another_user_reads_and_is_told_that_more_is_for_root";
    let Some(bus) = PrivateBus::start(TEST) else { return };
    if let Some(reason) = no_other_uid() {
        return skip(TEST, reason);
    }
    let (daemon, _served) = daemon(&bus, &["enf0"]).await;
    let program = bus.place(CTL);
    let run = |args: &[&str]| bus.command_as_nobody(&program).args(args).output().unwrap();
    assert!(stdout(run(&["status", "enf0"])).starts_with("enf0: disconnected\n"));
    for args in [&["connect", "enf0"][..], &["disconnect", "enf0", "--wait"], &["reconnect", "enf0"], &["reload"]] {
        let text = complaint(run(args), 4);
        assert!(text.starts_with("there is no polkit on the bus, and without it only root may do this"), "{text}");
    }
    assert_eq!(daemon.requests(), []);
    assert_eq!(stdout(ctl(&bus, &["connect", "enf0"])), "");
    assert_eq!(daemon.requests().len(), 1);
}

fn lines(child: &mut Child) -> Lines<BufReader<ChildStdout>> {
    BufReader::new(child.stdout.take().unwrap()).lines()
}

#[tokio::test(flavor = "multi_thread")]
async fn monitor_tells_changes_failures_and_the_daemons_coming_and_going() {
    let Some(bus) = PrivateBus::start("monitor_tells_changes_failures_and_the_daemons_coming_and_going") else {
        return;
    };
    let mut command = bus.command(CTL);
    command.arg("monitor");
    let mut child = start(command);
    let mut lines = lines(&mut child);
    let mut next = || {
        let line = lines.next().unwrap().unwrap();
        let (when, what) = line.split_once("  ").unwrap();
        assert!(when.starts_with("20") && when.ends_with(" UTC") && when.len() == 27, "{when}");
        what.to_owned()
    };
    assert_eq!(next(), "enftund is not running");
    let (first, served) = daemon(&bus, &["enf0"]).await;
    assert_eq!(next(), "enftund is running");
    first.transition("enf0", Phase::Connecting, Reason::User);
    assert_eq!(next(), "enf0: disconnected -> connecting (user)");
    first.fail("enf0", Phase::Reconnecting, failure(Reason::DnsFailed, "no address for router.example.net"));
    assert_eq!(next(), "enf0: connecting -> reconnecting (dns-failed): no address for router.example.net");
    first.transition("enf0", Phase::Connecting, Reason::DnsFailed);
    assert_eq!(next(), "enf0: reconnecting -> connecting (dns-failed)");
    first.connected("enf0");
    assert_eq!(next(), "enf0: connecting -> connected (user)");
    served.close().await;
    assert_eq!(next(), "enftund is not running");
    let (second, _served) = daemon(&bus, &["my-tunnel"]).await;
    assert_eq!(next(), "enftund is running");
    second.transition("my-tunnel", Phase::Error, Reason::Config);
    assert_eq!(next(), "my-tunnel: disconnected -> error (config)");
    // Ctrl-C is how it is meant to end.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().cast_signed()), nix::sys::signal::Signal::SIGINT)
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn monitor_prints_a_json_document_a_line() {
    let Some(bus) = PrivateBus::start("monitor_prints_a_json_document_a_line") else { return };
    let (daemon, served) = daemon(&bus, &["enf0"]).await;
    let mut command = bus.command(CTL);
    command.args(["monitor", "--json"]);
    let mut child = start(command);
    let mut lines = lines(&mut child);
    let mut next = || {
        let mut event: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        let time = event.as_object_mut().unwrap().remove("time").unwrap().as_u64().unwrap();
        assert!(time > 1_767_323_045_000_000, "microseconds since 1970: {time}");
        event
    };
    assert_eq!(next(), json!({ "version": 1, "event": "daemon", "running": true }));
    daemon.fail("enf0", Phase::Error, failure(Reason::KeyMismatch, "the key is another's"));
    assert_eq!(
        next(),
        json!({
            "version": 1, "event": "state-changed", "tunnel": "enf0", "new": "error", "old": "disconnected",
            "reason": "key-mismatch", "error": "the key is another's",
        })
    );
    daemon.transition("enf0", Phase::Connecting, Reason::User);
    assert_eq!(next()["error"], Value::Null);
    daemon.tamper("what was put back");
    assert_eq!(next(), json!({ "version": 1, "event": "tampered", "what": "what was put back" }));
    served.close().await;
    assert_eq!(next(), json!({ "version": 1, "event": "daemon", "running": false }));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_can_make_monitor_tell_lies() {
    let Some(bus) = PrivateBus::start("nobody_else_can_make_monitor_tell_lies") else { return };
    let (daemon, _served) = daemon(&bus, &["enf0"]).await;
    let mut command = bus.command(CTL);
    command.arg("monitor");
    let mut child = start(command);
    let mut lines = lines(&mut child);
    assert!(lines.next().unwrap().unwrap().ends_with("enftund is running"));
    // Another program sends the same signals: to everybody, and to every other program by name.
    let liar = zbus::connection::Builder::address(bus.address().as_str()).build().await.unwrap();
    let names = zbus::fdo::DBusProxy::new(&liar).await.unwrap().list_names().await.unwrap();
    let mut sent = 0;
    for to in names.iter().map(|name| Some(name.as_str())).chain([None]) {
        let body = ("connected", "disconnected", "user");
        let path = "/org/enftun/Enftun1/tunnel/enf0";
        liar.emit_signal(to, path, "org.enftun.Enftun1.Tunnel", "StateChanged", &body).await.unwrap();
        let body = (dbus::NAME, ":1.0", "");
        liar.emit_signal(to, "/org/freedesktop/DBus", "org.freedesktop.DBus", "NameOwnerChanged", &body).await.unwrap();
        sent += 1;
    }
    assert!(sent > 3, "the liar, the daemon, the monitor, and everybody");
    // The bus has taken all of it once it answers the liar; only then the truth is told.
    zbus::fdo::DBusProxy::new(&liar).await.unwrap().get_id().await.unwrap();
    daemon.transition("enf0", Phase::Connecting, Reason::Boot);
    assert!(lines.next().unwrap().unwrap().ends_with("enf0: disconnected -> connecting (boot)"));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_goes_while_it_is_waited_for_ends_the_wait() {
    let Some(bus) = PrivateBus::start("a_daemon_that_goes_while_it_is_waited_for_ends_the_wait") else { return };
    let (daemon, served) = daemon(&bus, &["enf0"]).await;
    let mut command = bus.command(CTL);
    command.args(["connect", "enf0", "--wait=300s"]);
    let child = start(command);
    asked(&daemon, Request::Connect("enf0".to_owned()));
    served.close().await;
    let text = complaint(child.wait_with_output().unwrap(), 3);
    assert!(["enftund left the bus", "enftund is not running"].iter().any(|start| text.starts_with(start)), "{text}");
}
