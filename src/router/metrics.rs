//! `enftun-router metrics`: what a running router counts, as OpenMetrics text: `docs/metrics.md`. Sums only: a series per
//! session would be tens of thousands, and of whom they tell stands in `status --json`.

use super::status::{Status, Sum};
use crate::metrics::{Exposition, Family, Value};
use crate::state::WireVersion;
use std::time::{SystemTime, UNIX_EPOCH};

/// What a session can be in.
const PHASES: [&str; 4] = ["held", "present", "superseded", "closing"];

/// The document; without a status, that no router answers.
pub fn document(status: Option<&Status>, now: SystemTime) -> String {
    let mut text = Exposition::default();
    let help = "Whether the router answers; if not, there is nothing else.";
    text.gauge("enftun_router_up", help, &[], status.is_some());
    if let Some(status) = status {
        router(&mut text, status, now);
        enrolment(&mut text, status);
        traffic(&mut text, status);
    }
    text.text()
}

fn router(to: &mut Exposition, status: &Status, now: SystemTime) {
    to.gauge("enftun_router_build_info", "The version of the router.", &[("version", &status.version)], true);
    to.gauge("enftun_router_uptime_seconds", "Since the router started.", &[], status.uptime);
    let end = i128::from(status.certificate_not_after) * 1_000_000;
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    let help = "The end of the router's own certificate, since 1970.";
    to.gauge("enftun_router_certificate_not_after_timestamp_seconds", help, &[], Value::Micros(end));
    let left = Value::Micros(end - i128::try_from(now).unwrap_or(i128::MAX / 2));
    let help = "The time that is left until then; divided by 86400, days.";
    to.gauge("enftun_router_certificate_left_seconds", help, &[], left);
    let mut sessions = Family::gauge("enftun_router_sessions", "Sessions by what they are in.");
    for phase in PHASES {
        let count = status.sessions.iter().filter(|session| session.phase == phase).count() as u64;
        sessions.add(&[("phase", phase)], count);
    }
    to.family(&sessions);
    let mut wires = Family::gauge("enftun_router_sessions_by_wire", "Sessions by the wire that carries their packets.");
    for wire in WireVersion::ALL {
        let count = status.sessions.iter().filter(|session| session.wire == wire.as_str()).count() as u64;
        wires.add(&[("wire", wire.as_str())], count);
    }
    to.family(&wires);
    let queued: usize = status.sessions.iter().map(|session| session.queue).sum();
    to.gauge("enftun_router_queued_packets", "Packets that wait for a client.", &[], queued as u64);
    let help = "Addresses whose certificate two hosts use.";
    let duplicates = status.warnings.iter().filter(|warning| warning.code == "duplicate-certificate").count() as u64;
    to.gauge("enftun_router_duplicate_certificates", help, &[], duplicates);
    let failed = status.totals.handshakes_failed;
    to.counter("enftun_router_handshakes_failed", "Connections whose TLS handshake failed.", failed);
    let help = "Connections that were refused because there were too many.";
    to.counter("enftun_router_connections_refused", help, status.totals.refused);
    let help = "Sessions that were ended because their client is one no more.";
    to.counter("enftun_router_sessions_revoked", help, status.totals.revoked);
}

/// Where there is an interface for it.
fn enrolment(to: &mut Exposition, status: &Status) {
    let Some(enrol) = &status.enrol else { return };
    let mut logins = Family::counter("enftun_router_enrol_logins", "Logins at the enrolment interface.");
    logins.add(&[("outcome", "done")], enrol.logins);
    logins.add(&[("outcome", "refused")], enrol.logins_refused);
    to.family(&logins);
    let mut requests = Family::counter("enftun_router_enrol_requests", "Requests for an address.");
    for (outcome, count) in [("new", enrol.enrolled), ("renewed", enrol.renewed), ("refused", enrol.refused)] {
        requests.add(&[("outcome", outcome)], count);
    }
    to.family(&requests);
}

/// Of clients, and of the uplink where there is one.
fn traffic(to: &mut Exposition, status: &Status) {
    let uplink = status.uplink.as_ref().map(|_| ("uplink", &status.totals.uplink));
    let sides: Vec<(&str, &Sum)> = std::iter::once(("clients", &status.totals.sum)).chain(uplink).collect();
    for (name, help, count) in [
        ("enftun_router_receive_bytes", "Bytes of packets from that side.", (|sum| sum.rx_bytes) as fn(&Sum) -> u64),
        ("enftun_router_receive_packets", "Packets from that side.", |sum| sum.rx_packets),
        ("enftun_router_transmit_bytes", "Bytes of packets to that side.", |sum| sum.tx_bytes),
        ("enftun_router_transmit_packets", "Packets to that side.", |sum| sum.tx_packets),
    ] {
        let mut family = Family::counter(name, help);
        sides.iter().for_each(|(side, sum)| family.add(&[("side", side)], count(sum)));
        to.family(&family);
    }
    let mut drops = Family::counter("enftun_router_drops", "Packets that were dropped, by reason.");
    for (side, sum) in sides {
        sum.drops.iter().for_each(|(reason, count)| drops.add(&[("side", side), ("reason", reason)], *count));
    }
    to.family(&drops);
}
