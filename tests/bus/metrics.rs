//! `enftunctl metrics`: figures for collectors, read by the programs that collect them.

use crate::common::bus::{PrivateBus, own_uid, stdout};
use crate::common::openmetrics::{Samples, node_exporter};
use crate::common::wait_for;
use crate::simulation::{SINCE, Simulation, failure, time};
use enftun::config::Severity;
use enftun::dbus::{self, Bus};
use enftun::state::health::{Code, Warning};
use enftun::state::{Phase, Reason};
use enftun::tunnel::DropReason;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

const CTL: &str = env!("CARGO_BIN_EXE_enftunctl");

/// One tunnel that is connected and has counted, one that is not, and one that forwards.
async fn all_sorts(bus: &PrivateBus) -> (Simulation, Bus) {
    let (daemon, core) = Simulation::new(&["desk", "enf0", "my-tunnel"]);
    let served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    daemon.connected("enf0");
    let counters = daemon.counters("enf0");
    counters.received_units(1, 1536);
    counters.received_units(1, 40);
    counters.transmitted_units(1, 60);
    counters.dropped_rx(DropReason::SourceForged);
    counters.dropped_tx(DropReason::TooBig);
    counters.dropped_tx(DropReason::TooBig);
    counters.heartbeat(Duration::from_micros(12_345));
    (0..3).for_each(|_| counters.session_ready());
    daemon.fail("my-tunnel", Phase::Reconnecting, failure(Reason::DnsFailed, "no address"));
    daemon.edit(|snapshot| {
        let warning = |tunnel| Warning::new(Code::CertificateExpires, Severity::Error, "soon").of(tunnel);
        snapshot.warnings = vec![warning("enf0"), warning("my-tunnel")];
    });
    daemon.tunnel("my-tunnel", |tunnel| (tunnel.attempt, tunnel.since) = (4, time(SINCE)));
    let live = daemon.forwards("desk");
    for (bytes, peer) in [(3, "127.0.0.1:50000"), (5, "127.0.0.1:50001")] {
        let connection = live.open("SSH", peer.to_owned());
        connection.received(bytes);
        connection.sent(2 * bytes);
    }
    for (at, counter) in [&live.counters("DB").refused, &live.counters("DB").unreachable].into_iter().enumerate() {
        counter.fetch_add(7 + at as u64, Relaxed);
    }
    for (at, counter) in [&live.counters("DB").reset, &live.counters("DB").too_slow].into_iter().enumerate() {
        counter.fetch_add(9 + at as u64, Relaxed);
    }
    std::mem::forget(live.open("DB", "pid 7".to_owned()));
    bus.shows("desk", "Kind", "s \"aws-iot\"");
    (daemon, served)
}

fn metrics(bus: &PrivateBus) -> String {
    stdout(bus.command(CTL).arg("metrics").output().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_openmetrics_and_tell_what_the_daemon_tells() {
    const TEST: &str = "metrics_are_openmetrics_and_tell_what_the_daemon_tells";
    let Some(bus) = PrivateBus::start(TEST) else { return };
    let (daemon, _served) = all_sorts(&bus).await;
    let text = metrics(&bus);
    let Some(samples) = Samples::read(TEST, &text) else { return };
    for (name, kind, unit, value) in [
        ("enftun_up{}", "gauge", "", 1.0),
        ("enftun_build_info{version=0.1.0}", "gauge", "", 1.0),
        ("enftun_blocking{}", "gauge", "", 1.0),
        ("enftun_firewall_in_force{}", "gauge", "", 1.0),
        ("enftun_firewall_changes_total{}", "counter", "", 3.0),
        ("enftun_firewall_verified_timestamp_seconds{}", "gauge", "seconds", SINCE as f64),
        ("enftun_warnings{code=certificate-expires,severity=error}", "gauge", "", 2.0),
        ("enftun_tunnel_wire{tunnel=enf0,wire=v1}", "gauge", "", 0.0),
        ("enftun_tunnel_wire{tunnel=enf0,wire=v2}", "gauge", "", 1.0),
        ("enftun_tunnel_info{interface=enf0,kind=enf,lockdown=boot,tunnel=enf0}", "gauge", "", 1.0),
        ("enftun_tunnel_state_timestamp_seconds{tunnel=my-tunnel}", "gauge", "seconds", SINCE as f64),
        ("enftun_tunnel_wanted{tunnel=enf0}", "gauge", "", 1.0),
        ("enftun_tunnel_wanted{tunnel=my-tunnel}", "gauge", "", 0.0),
        ("enftun_tunnel_blocking{tunnel=my-tunnel}", "gauge", "", 1.0),
        ("enftun_tunnel_attempts{tunnel=my-tunnel}", "gauge", "", 4.0),
        ("enftun_tunnel_heartbeat_rtt_seconds{tunnel=enf0}", "gauge", "seconds", 0.012_345),
        ("enftun_tunnel_receive_bytes_total{tunnel=enf0}", "counter", "bytes", 1576.0),
        ("enftun_tunnel_receive_packets_total{tunnel=enf0}", "counter", "", 2.0),
        ("enftun_tunnel_receive_drop_total{tunnel=enf0}", "counter", "", 1.0),
        ("enftun_tunnel_transmit_bytes_total{tunnel=enf0}", "counter", "bytes", 60.0),
        ("enftun_tunnel_transmit_packets_total{tunnel=enf0}", "counter", "", 1.0),
        ("enftun_tunnel_transmit_drop_total{tunnel=enf0}", "counter", "", 2.0),
        ("enftun_tunnel_drops_total{reason=source-forged,tunnel=enf0}", "counter", "", 1.0),
        ("enftun_tunnel_drops_total{reason=too-big,tunnel=enf0}", "counter", "", 2.0),
        ("enftun_tunnel_reconnects_total{tunnel=enf0}", "counter", "", 2.0),
        ("enftun_tunnel_receive_bytes_total{tunnel=my-tunnel}", "counter", "bytes", 0.0),
        ("enftun_tunnel_reconnects_total{tunnel=desk}", "counter", "", 0.0),
        ("enftun_tunnel_service_active_connections{service=DB,tunnel=desk}", "gauge", "", 1.0),
        ("enftun_tunnel_service_active_connections{service=SSH,tunnel=desk}", "gauge", "", 0.0),
        ("enftun_tunnel_service_connections_total{service=SSH,tunnel=desk}", "counter", "", 2.0),
        ("enftun_tunnel_service_refused_total{service=DB,tunnel=desk}", "counter", "", 7.0),
        ("enftun_tunnel_service_unreachable_total{service=DB,tunnel=desk}", "counter", "", 8.0),
        ("enftun_tunnel_service_resets_total{service=DB,tunnel=desk}", "counter", "", 9.0),
        ("enftun_tunnel_service_too_slow_total{service=DB,tunnel=desk}", "counter", "", 10.0),
        ("enftun_tunnel_service_receive_bytes_total{service=SSH,tunnel=desk}", "counter", "bytes", 8.0),
        ("enftun_tunnel_service_transmit_bytes_total{service=SSH,tunnel=desk}", "counter", "bytes", 16.0),
    ] {
        let name = name.replace("0.1.0", env!("CARGO_PKG_VERSION"));
        assert_eq!(samples.get(&name), (kind, unit, value), "{name}");
    }
    samples.are_documented("enftun_", "enftun_router_");
    for phase in Phase::ALL {
        let value = |tunnel| samples.value(&format!("enftun_tunnel_state{{state={phase},tunnel={tunnel}}}"));
        assert_eq!(value("enf0"), f64::from(*phase == Phase::Connected), "{phase}");
        assert_eq!(value("my-tunnel"), f64::from(*phase == Phase::Reconnecting), "{phase}");
    }
    for (whose, end) in [("local", 1_800_000_000.0), ("peer", 1_900_000_000.0)] {
        let labels = format!("{{certificate={whose},tunnel=enf0}}");
        let (kind, unit, until) =
            samples.get(&format!("enftun_tunnel_certificate_not_after_timestamp_seconds{labels}"));
        assert_eq!((kind, unit, until), ("gauge", "seconds", end));
        let left = samples.value(&format!("enftun_tunnel_certificate_left_seconds{labels}"));
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        assert!((end - now - left).abs() < 60.0, "{left}");
    }
    let absent = |name: &str| !samples.names().iter().any(|sample| sample.starts_with(name) && sample.contains("my-t"));
    assert!(absent("enftun_tunnel_heartbeat") && absent("enftun_tunnel_certificate") && absent("enftun_tunnel_drops"));
    let packets = |name: &&str| name.contains("tunnel=desk") && (name.contains("_packets") || name.contains("_drop"));
    assert_eq!(samples.names().into_iter().filter(packets).collect::<Vec<_>>(), [""; 0], "it carries none");
    // What an attempt in vain leaves is as good a document.
    daemon.edit(|snapshot| {
        snapshot.tunnels.clear();
        snapshot.warnings.clear();
    });
    bus.gone("my-tunnel");
    assert_eq!(Samples::read(TEST, &metrics(&bus)).unwrap().names().len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_is_whole_everybodys_to_read_and_says_when_the_daemon_is_gone() {
    const TEST: &str = "the_file_is_whole_everybodys_to_read_and_says_when_the_daemon_is_gone";
    let Some(bus) = PrivateBus::start(TEST) else { return };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("enftun.prom");
    let write = || {
        // Also under a strict mask.
        let mut command = bus.command("sh");
        command.args(["-c", "umask 077; exec \"$0\" metrics --output \"$1\"", CTL]).arg(&file);
        command.output().unwrap()
    };
    {
        let (_daemon, served) = all_sorts(&bus).await;
        assert_eq!(stdout(write()), "");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o644);
        assert!(fs::read_to_string(&file).unwrap().ends_with("# EOF\n"));
        served.close().await;
    }
    let output = write();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("enftunctl: enftund is not running"));
    let Some(samples) = Samples::read(TEST, &fs::read_to_string(&file).unwrap()) else { return };
    assert_eq!((samples.names(), samples.value("enftun_up{}")), (vec!["enftun_up{}"], 0.0));
    let names: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["enftun.prom"], "nothing unfinished stays");
    let output = bus.command(CTL).args(["metrics", "--output", "/nowhere/enftun.prom"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "the daemon's absence is the first thing to know");
}

#[test]
fn a_look_at_the_figures_does_not_start_a_daemon_that_was_stopped() {
    let Some(bus) = PrivateBus::start("a_look_at_the_figures_does_not_start_a_daemon_that_was_stopped") else { return };
    let directory = tempfile::tempdir().unwrap();
    let started = directory.path().join("started");
    bus.activates(&format!("/usr/bin/touch {}", started.display()));
    let output = bus.command(CTL).arg("metrics").output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(!started.exists());
    // Any other call does.
    let mut status = bus.command(CTL).arg("status").spawn().unwrap();
    wait_for("the bus to start it", || started.exists());
    status.kill().unwrap();
    status.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn node_exporter_takes_the_file_through_a_link() {
    const TEST: &str = "node_exporter_takes_the_file_through_a_link";
    let Some(bus) = PrivateBus::start(TEST) else { return };
    let (_daemon, _served) = all_sorts(&bus).await;
    let (own, collected) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = own.path().join("enftun.prom");
    let output = bus.command(CTL).arg("metrics").arg("--output").arg(&file).output().unwrap();
    assert_eq!(stdout(output), "");
    std::os::unix::fs::symlink(&file, collected.path().join("enftun.prom")).unwrap();
    let Some(text) = node_exporter(TEST, collected.path()) else { return };
    for line in [
        "node_textfile_scrape_error 0",
        "enftun_up 1",
        "enftun_tunnel_state{state=\"connected\",tunnel=\"enf0\"} 1",
        "enftun_tunnel_receive_bytes_total{tunnel=\"enf0\"} 1576",
        "enftun_tunnel_drops_total{reason=\"too-big\",tunnel=\"enf0\"} 2",
        "enftun_tunnel_heartbeat_rtt_seconds{tunnel=\"enf0\"} 0.012345",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
    // The same collector refuses what is not of its format.
    fs::write(&file, "# TYPE a stateset\na{a=\"b\"} 1\n").unwrap();
    let text = node_exporter(TEST, collected.path()).unwrap();
    assert!(text.contains("node_textfile_scrape_error 1\n"), "{text}");
}
