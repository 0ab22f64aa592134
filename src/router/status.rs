//! What the router shows of itself: one JSON document, and the same for people.

use crate::terminal::{Span, Terminal, Tone};
use crate::tunnel::Counters;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime};

/// The router at one moment. Received is what came from clients, transmitted what went to them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Counts up with changes of this document that break readers.
    pub schema: u32,
    /// The program's version.
    pub version: String,
    /// Seconds since the start.
    pub uptime: u64,
    /// Where it listens.
    pub listeners: Vec<SocketAddr>,
    /// Interface name of the uplink.
    pub uplink: Option<String>,
    /// The end of the router's own certificate, seconds since 1970.
    pub certificate_not_after: i64,
    /// The enrolment interface, where there is one.
    pub enrol: Option<EnrolStatus>,
    /// Every session in the order of arrival.
    pub sessions: Vec<SessionStatus>,
    /// Since the start, over all sessions that were.
    pub totals: Totals,
    /// What somebody should look at.
    pub warnings: Vec<Warning>,
}

/// One session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// The client's address.
    pub address: Ipv6Addr,
    /// Its IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// `held`, `present`, `superseded` or `closing`.
    pub phase: String,
    /// Seconds since 1970.
    pub since: u64,
    /// `TLSv1.3` or `TLSv1.2`.
    pub tls: String,
    /// `v1` or `v2`.
    pub wire: String,
    /// Bytes from the client.
    pub rx_bytes: u64,
    /// Packets from the client.
    pub rx_packets: u64,
    /// Bytes to the client.
    pub tx_bytes: u64,
    /// Packets to the client.
    pub tx_packets: u64,
    /// Dropped packets by reason.
    pub drops: BTreeMap<String, u64>,
    /// Packets that wait for it.
    pub queue: usize,
}

/// What was counted since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Connections whose handshake failed.
    pub handshakes_failed: u64,
    /// Connections that were one too many.
    pub refused: u64,
    /// Sessions that were ended because their client is one no more.
    pub revoked: u64,
    /// What all sessions counted.
    #[serde(flatten)]
    pub sum: Sum,
    /// What came from and went to the host by the uplink.
    pub uplink: Sum,
}

/// The enrolment interface, since the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolStatus {
    /// Where it listens.
    pub listener: SocketAddr,
    /// Logins.
    pub logins: u64,
    /// Logins that were refused, also because there were too many.
    pub logins_refused: u64,
    /// Addresses that were given out.
    pub enrolled: u64,
    /// Keys that were replaced.
    pub renewed: u64,
    /// Requests for an address that were refused.
    pub refused: u64,
}

/// A sum of counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes transmitted.
    pub tx_bytes: u64,
    /// Packets transmitted.
    pub tx_packets: u64,
    /// Dropped packets by reason.
    pub drops: BTreeMap<String, u64>,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// A word for programs.
    pub code: String,
    /// The address that it is about.
    pub address: Option<Ipv6Addr>,
    /// How often it was seen of late.
    pub count: u32,
    /// What it means and what to do.
    pub text: String,
}

impl Warning {
    /// Two hosts use one certificate.
    pub fn duplicate(address: Ipv6Addr, count: u32) -> Self {
        Self {
            code: "duplicate-certificate".to_owned(),
            address: Some(address),
            count,
            text: format!(
                "two hosts use the certificate of {address}; they take turns, more and more slowly. \
                 Give one of them a certificate of its own"
            ),
        }
    }
}

impl Sum {
    /// Adds what a session has counted.
    pub fn add(&mut self, counters: &Counters) {
        let totals = counters.totals();
        self.rx_bytes += totals.rx_bytes;
        self.rx_packets += totals.rx_packets;
        self.tx_bytes += totals.tx_bytes;
        self.tx_packets += totals.tx_packets;
        for (reason, count) in counters.drop_reasons() {
            *self.drops.entry(reason.as_str().to_owned()).or_default() += count;
        }
    }

    /// Dropped packets by reason.
    pub fn drops_of(counters: &Counters) -> BTreeMap<String, u64> {
        counters.drop_reasons().into_iter().map(|(reason, count)| (reason.as_str().to_owned(), count)).collect()
    }
}

impl Status {
    /// For people at this terminal.
    pub fn to_text(&self, now: SystemTime, terminal: &Terminal) -> String {
        let listeners: Vec<_> = self.listeners.iter().map(ToString::to_string).collect();
        let Totals { handshakes_failed, refused, sum, .. } = &self.totals;
        let mut text = format!(
            "enftun-router {} up {}, listening on {}{}\n",
            self.version,
            span(Duration::from_secs(self.uptime)),
            listeners.join(" "),
            self.uplink.as_ref().map_or(String::new(), |dev| format!(", uplink {dev}")),
        );
        text += &format!(
            "{} sessions; in all {} packets in, {} out, dropped {}; {handshakes_failed} handshakes failed, {refused} refused\n",
            self.sessions.len(),
            sum.rx_packets,
            sum.tx_packets,
            drops(&sum.drops),
        );
        if let Some(enrol) = &self.enrol {
            text += &format!(
                "enrolling on {}: {} addresses given, {} keys renewed, {} refused; {} logins, {} refused\n",
                enrol.listener, enrol.enrolled, enrol.renewed, enrol.refused, enrol.logins, enrol.logins_refused,
            );
        }
        for warning in &self.warnings {
            let rest = format!(": {} (seen {} times)", warning.text, warning.count);
            text += &terminal.show(&[Span::new(Tone::Notice, "warning"), rest.into()]);
            text.push('\n');
        }
        if self.sessions.is_empty() {
            return text;
        }
        let row = |session: &SessionStatus| {
            let since = SystemTime::UNIX_EPOCH + Duration::from_secs(session.since);
            let tone = if session.phase == "present" { Tone::Good } else { Tone::Notice };
            [
                session.address.to_string().into(),
                Span::new(tone, &session.phase),
                session.peer.to_string().into(),
                span(now.duration_since(since).unwrap_or_default()).into(),
                bytes(session.rx_bytes).into(),
                bytes(session.tx_bytes).into(),
                drops(&session.drops).into(),
                session.queue.to_string().into(),
                session.tls.as_str().into(),
                session.wire.as_str().into(),
            ]
        };
        let header = ["ADDRESS", "STATE", "FROM", "FOR", "IN", "OUT", "DROPPED", "QUEUE", "TLS", "WIRE"];
        let rows = self.sessions.iter().map(row).collect();
        terminal.table(header, rows).iter().for_each(|line| text += &format!("{line}\n"));
        text
    }
}

/// Seconds since 1970.
pub fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn drops(drops: &BTreeMap<String, u64>) -> String {
    let texts: Vec<_> = drops.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    if texts.is_empty() { "0".to_owned() } else { texts.join(", ") }
}

fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m{s:02}s"),
        (0, h, m, _) => format!("{h}h{m:02}m"),
        (d, h, _, _) => format!("{d}d{h:02}h"),
    }
}

fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}
