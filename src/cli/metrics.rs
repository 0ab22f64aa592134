//! `enftunctl metrics`: what the daemon counts, as OpenMetrics text for a collector: `docs/metrics.md`.

use super::{CliError, time};
use crate::dbus::client::{Client, ClientError, DaemonInfo, Overview, ServiceCounters, StatisticsInfo, TunnelInfo};
use crate::metrics::{Exposition, Family, Value, deliver};
use crate::state::{Phase, WireVersion};
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Replaces this file as a whole instead of printing; for node-exporter its name ends in .prom.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub async fn run(args: Args) -> Result<(), CliError> {
    let asked = ask().await;
    let text = match &asked {
        Ok(overview) => document(overview, time::now()),
        // Old figures must not go on looking alive.
        Err(_) => nobody(),
    };
    let written = deliver(&text, args.output.as_deref());
    asked?;
    written.map_err(|source| match args.output {
        Some(file) => CliError::Write { file, source },
        None => CliError::Output(source),
    })
}

/// A look every half minute must not start a daemon that somebody stopped.
async fn ask() -> Result<Overview, ClientError> {
    let client = Client::connect().await?;
    if client.is_running().await? { client.overview().await } else { Err(ClientError::NotRunning) }
}

fn up(to: &mut Exposition, up: bool) {
    to.gauge("enftun_up", "Whether enftund answers; if not, there is nothing else.", &[], up);
}

fn nobody() -> String {
    let mut text = Exposition::default();
    up(&mut text, false);
    text.text()
}

fn document(overview: &Overview, now: u64) -> String {
    let mut text = Exposition::default();
    up(&mut text, true);
    daemon(&mut text, &overview.daemon);
    warnings(&mut text, &overview.daemon);
    tunnels(&mut text, &overview.tunnels);
    certificates(&mut text, &overview.tunnels, now);
    counters(&mut text, &overview.tunnels);
    services(&mut text, &overview.tunnels);
    text.text()
}

fn daemon(to: &mut Exposition, daemon: &DaemonInfo) {
    to.gauge("enftun_build_info", "The version of enftund.", &[("version", &daemon.version)], true);
    let help = "Whether traffic outside the tunnels is blocked right now.";
    to.gauge("enftun_blocking", help, &[], daemon.blocking);
    let help = "Whether the host's firewall holds what it shall hold.";
    to.gauge("enftun_firewall_in_force", help, &[], daemon.firewall.in_force);
    let help = "How often enftund has made, replaced or deleted its firewall table.";
    to.counter("enftun_firewall_changes", help, daemon.firewall.generation);
    if let Some(verified) = daemon.firewall.last_verified {
        let help = "When the firewall was last seen to be as it shall be, since 1970.";
        to.gauge("enftun_firewall_verified_timestamp_seconds", help, &[], Value::micros(verified));
    }
}

/// By code, so that a rule may name what it is about; what there is none of is absent.
fn warnings(to: &mut Exposition, daemon: &DaemonInfo) {
    let mut counts = BTreeMap::new();
    for warning in &daemon.warnings {
        *counts.entry((warning.severity.as_str(), warning.code.as_str())).or_insert(0_u32) += 1;
    }
    let mut family = Family::gauge("enftun_warnings", "What somebody should look at.");
    for ((severity, code), count) in counts {
        family.add(&[("severity", severity), ("code", code)], count);
    }
    to.family(&family);
}

fn tunnels(to: &mut Exposition, tunnels: &[TunnelInfo]) {
    let help = "What the tunnel is: kind, network interface, when it is blocked while it is not wanted.";
    let mut info = Family::gauge("enftun_tunnel_info", help);
    let mut state =
        Family::gauge("enftun_tunnel_state", "The state the tunnel is in: 1 for that one, 0 for the others.");
    let mut since =
        Family::gauge("enftun_tunnel_state_timestamp_seconds", "Since when it is in that state, since 1970.");
    let mut wanted = Family::gauge("enftun_tunnel_wanted", "Whether the tunnel shall be connected.");
    let help = "Whether what belongs in the tunnel has no other way out right now.";
    let mut blocking = Family::gauge("enftun_tunnel_blocking", help);
    let mut attempts = Family::gauge("enftun_tunnel_attempts", "Attempts in vain since it was last connected.");
    let help = "The wire of the live session: 1 for that one, 0 for the others; absent without one.";
    let mut wire = Family::gauge("enftun_tunnel_wire", help);
    let help = "The round trip of the last heartbeat; absent before the first.";
    let mut heartbeat = Family::gauge("enftun_tunnel_heartbeat_rtt_seconds", help);
    for tunnel in tunnels {
        let of = ("tunnel", tunnel.name.as_str());
        let name = [of];
        let interface = tunnel.interface.as_deref().unwrap_or_default();
        let labels = [of, ("kind", &tunnel.kind), ("interface", interface), ("lockdown", &tunnel.lockdown)];
        info.add(&labels, true);
        state.one_of("state", &name, Phase::ALL.iter().map(|phase| phase.as_str()), &tunnel.state);
        since.add(&name, Value::micros(tunnel.state_since));
        wanted.add(&name, tunnel.target_state == "connected");
        blocking.add(&name, tunnel.blocking);
        attempts.add(&name, tunnel.attempt);
        if let Some(live) = tunnel.tls.as_ref().and_then(|tls| tls.wire.as_deref()) {
            wire.one_of("wire", &name, WireVersion::ALL.iter().map(|wire| wire.as_str()), live);
        }
        if tunnel.statistics.heartbeat_rtt_usec > 0 {
            heartbeat.add(&name, Value::micros(tunnel.statistics.heartbeat_rtt_usec));
        }
    }
    [info, state, since, wanted, blocking, attempts, wire, heartbeat].iter().for_each(|family| to.family(family));
}

fn certificates(to: &mut Exposition, tunnels: &[TunnelInfo], now: u64) {
    let help = "The end of the own certificate (local) and of the router's (peer) of the live session, since 1970.";
    let mut until = Family::gauge("enftun_tunnel_certificate_not_after_timestamp_seconds", help);
    let help = "The time that is left until then; divided by 86400, days.";
    let mut left = Family::gauge("enftun_tunnel_certificate_left_seconds", help);
    for tunnel in tunnels {
        let ends = tunnel.tls.as_ref().map(|tls| [("local", tls.local_not_after), ("peer", Some(tls.peer_not_after))]);
        for (whose, end) in ends.into_iter().flatten().filter_map(|(whose, end)| Some((whose, end?))) {
            let labels = [("tunnel", tunnel.name.as_str()), ("certificate", whose)];
            until.add(&labels, Value::micros(end));
            left.add(&labels, Value::left(end, now));
        }
    }
    to.family(&until);
    to.family(&left);
}

fn counters(to: &mut Exposition, tunnels: &[TunnelInfo]) {
    type Count = fn(&StatisticsInfo) -> u64;
    let families: [(_, _, Count); 7] = [
        ("enftun_tunnel_receive_bytes", "Bytes of packets that came out of the tunnel.", |of| of.rx_bytes),
        ("enftun_tunnel_receive_packets", "Packets that came out of the tunnel.", |of| of.rx_packets),
        ("enftun_tunnel_receive_drop", "Packets out of the tunnel that went no further.", |of| of.rx_dropped),
        ("enftun_tunnel_transmit_bytes", "Bytes of packets that went into the tunnel.", |of| of.tx_bytes),
        ("enftun_tunnel_transmit_packets", "Packets that went into the tunnel.", |of| of.tx_packets),
        ("enftun_tunnel_transmit_drop", "Packets of this host that did not enter the tunnel.", |of| of.tx_dropped),
        ("enftun_tunnel_reconnects", "Sessions after the first.", |of| of.reconnects.into()),
    ];
    // A kind that carries no packets counts none.
    let carries = |tunnel: &&TunnelInfo| tunnel.forwards.is_none();
    for (name, help, count) in families {
        let mut family = Family::counter(name, help);
        let of = |tunnel: &&TunnelInfo| carries(tunnel) || name == "enftun_tunnel_reconnects";
        tunnels.iter().filter(of).for_each(|tunnel| family.add(&[("tunnel", &tunnel.name)], count(&tunnel.statistics)));
        to.family(&family);
    }
    let mut drops = Family::counter("enftun_tunnel_drops", "Packets that were dropped, both ways, by reason.");
    for tunnel in tunnels {
        for (reason, count) in &tunnel.statistics.drop_reasons {
            drops.add(&[("tunnel", &tunnel.name), ("reason", reason)], *count);
        }
    }
    to.family(&drops);
}

/// What tunnels forward, service by service.
fn services(to: &mut Exposition, tunnels: &[TunnelInfo]) {
    type Count = fn(&ServiceCounters) -> u64;
    let all = || tunnels.iter().flat_map(|tunnel| tunnel.services().map(|service| (tunnel.name.as_str(), service)));
    let mut active = Family::gauge("enftun_tunnel_service_active_connections", "Connections that are forwarded now.");
    all().for_each(|(tunnel, service)| {
        active.add(&[("tunnel", tunnel), ("service", &service.name)], service.counters.active)
    });
    to.family(&active);
    let families: [(_, _, Count); 7] = [
        ("enftun_tunnel_service_connections", "Connections that began.", |of| of.connections),
        ("enftun_tunnel_service_refused", "Connections that were turned away.", |of| of.refused),
        ("enftun_tunnel_service_unreachable", "Applications that could not be reached.", |of| of.unreachable),
        ("enftun_tunnel_service_resets", "Connections that were broken off.", |of| of.reset),
        ("enftun_tunnel_service_too_slow", "Those of them whose application read too slowly.", |of| of.too_slow),
        ("enftun_tunnel_service_receive_bytes", "Bytes that went to applications.", |of| of.rx_bytes),
        ("enftun_tunnel_service_transmit_bytes", "Bytes that came from applications.", |of| of.tx_bytes),
    ];
    for (name, help, count) in families {
        let mut family = Family::counter(name, help);
        all().for_each(|(tunnel, service)| {
            family.add(&[("tunnel", tunnel), ("service", &service.name)], count(&service.counters))
        });
        to.family(&family);
    }
}
