//! What is told: a table, the ratios, the JSON file, the page and its picture.

use crate::measure::Figures;
use crate::options::Options;
use crate::peers::Kind;
use std::fmt::Write as _;

/// A row of the table.
pub struct Row {
    pub figure: &'static str,
    pub name: &'static str,
    pub unit: &'static str,
    pub decimals: usize,
}

const fn row(figure: &'static str, name: &'static str, unit: &'static str, decimals: usize) -> Row {
    Row { figure, name, unit, decimals }
}

pub const ROWS: &[Row] = &[
    row("tcp1_up_mbit_s", "TCP, 1 stream, up", "Mbit/s", 0),
    row("tcp1_down_mbit_s", "TCP, 1 stream, down", "Mbit/s", 0),
    row("tcp8_up_mbit_s", "TCP, 8 streams, up", "Mbit/s", 0),
    row("tcp8_down_mbit_s", "TCP, 8 streams, down", "Mbit/s", 0),
    row("pps64", "UDP, 64 bytes, no loss", "packets/s", 0),
    row("pps_mtu", "UDP, MTU-sized, no loss", "packets/s", 0),
    row("ping_p50_ms", "ping, idle, p50", "ms", 3),
    row("ping_p99_ms", "ping, idle, p99", "ms", 3),
    row("ping_loaded_p50_ms", "ping, TCP stream up, p50", "ms", 2),
    row("ping_loaded_p99_ms", "ping, TCP stream up, p99", "ms", 2),
    row("cpu_s_per_gb", "processor, both ends", "s/GB", 2),
    row("cpu_near_s_per_gb", "processor, near end", "s/GB", 2),
    row("cpu_far_s_per_gb", "processor, far end", "s/GB", 2),
    row("rss_idle_near_mb", "memory, idle, near end", "MB", 1),
    row("rss_idle_far_mb", "memory, idle, far end", "MB", 1),
    row("rss_loaded_near_mb", "memory, loaded, near end", "MB", 1),
    row("rss_loaded_far_mb", "memory, loaded, far end", "MB", 1),
    row("connect_ms", "connect", "ms", 0),
    row("reconnect_ms", "reconnect, far end restarted", "ms", 0),
    row("bloat_up_ping_p50_ms", "50 Mbit/s, up: ping p50", "ms", 1),
    row("bloat_up_ping_p99_ms", "50 Mbit/s, up: ping p99", "ms", 1),
    row("bloat_up_mbit_s", "50 Mbit/s, up: TCP", "Mbit/s", 1),
    row("bloat_down_ping_p50_ms", "50 Mbit/s, down: ping p50", "ms", 1),
    row("bloat_down_ping_p99_ms", "50 Mbit/s, down: ping p99", "ms", 1),
    row("bloat_down_mbit_s", "50 Mbit/s, down: TCP", "Mbit/s", 1),
];

/// What a ratio should be.
#[derive(Clone, Copy)]
pub enum Target {
    None,
    AtLeast(f64),
    AtMost(f64),
}

pub struct Ratio {
    pub key: String,
    pub value: f64,
    pub target: Target,
}

impl Ratio {
    pub fn met(&self) -> bool {
        match self.target {
            Target::None => true,
            Target::AtLeast(target) => self.value >= target,
            Target::AtMost(target) => self.value <= target,
        }
    }
}

/// The medians of ours against those of the others.
pub fn ratios(figures: &Figures) -> Vec<Ratio> {
    use Target::{AtLeast, AtMost, None as Any};
    let mut ratios = Vec::new();
    for (ours, other, figure, name, target) in [
        (Kind::V1, Kind::Openvpn, "tcp1_mbit_s", "tcp1", AtLeast(5.0)),
        (Kind::V2, Kind::Openvpn, "tcp1_mbit_s", "tcp1", AtLeast(12.0)),
        (Kind::V1, Kind::WireguardGo, "tcp1_mbit_s", "tcp1", AtLeast(2.5)),
        (Kind::V2, Kind::WireguardGo, "tcp1_mbit_s", "tcp1", AtLeast(6.0)),
        (Kind::V1, Kind::Veth, "tcp1_mbit_s", "tcp1", Any),
        (Kind::V2, Kind::Veth, "tcp1_mbit_s", "tcp1", AtLeast(0.4)),
        (Kind::V1, Kind::Openvpn, "tcp1_up_mbit_s", "tcp1_up", Any),
        (Kind::V2, Kind::Openvpn, "tcp1_up_mbit_s", "tcp1_up", Any),
        (Kind::V1, Kind::Openvpn, "tcp1_down_mbit_s", "tcp1_down", Any),
        (Kind::V2, Kind::Openvpn, "tcp1_down_mbit_s", "tcp1_down", Any),
        (Kind::V1, Kind::Openvpn, "pps64", "pps64", AtLeast(3.0)),
        (Kind::V2, Kind::Openvpn, "pps64", "pps64", AtLeast(4.0)),
        (Kind::V1, Kind::WireguardGo, "pps64", "pps64", Any),
        (Kind::V2, Kind::WireguardGo, "pps64", "pps64", Any),
        (Kind::V1, Kind::Openvpn, "ping_p50_ms", "ping_p50", AtMost(1.05)),
        (Kind::V2, Kind::Openvpn, "ping_p50_ms", "ping_p50", AtMost(1.05)),
        (Kind::V1, Kind::Openvpn, "cpu_s_per_gb", "cpu_per_gb", AtMost(0.25)),
        (Kind::V2, Kind::Openvpn, "cpu_s_per_gb", "cpu_per_gb", AtMost(0.10)),
        (Kind::V1, Kind::Veth, "bloat_up_ping_p99_ms", "bloat_up_p99", AtMost(1.5)),
        (Kind::V2, Kind::Veth, "bloat_up_ping_p99_ms", "bloat_up_p99", AtMost(1.5)),
        (Kind::V1, Kind::Veth, "bloat_down_ping_p99_ms", "bloat_down_p99", AtMost(1.5)),
        (Kind::V2, Kind::Veth, "bloat_down_ping_p99_ms", "bloat_down_p99", AtMost(1.5)),
    ] {
        if let (Some([value, ..]), Some([against, ..])) = (figures.range(ours, figure), figures.range(other, figure)) {
            let key = format!("{}_{name}_vs_{}", ours.key(), other.key());
            ratios.push(Ratio { key, value: value / against, target });
        }
    }
    ratios
}

fn number(value: f64, decimals: usize) -> String {
    format!("{value:.decimals$}")
}

/// The terminal's table.
pub fn print(options: &Options, figures: &Figures) {
    let mut text = format!("{:30}", "median (least to most)");
    for kind in &options.only {
        let _ = write!(text, "  {:>24}", kind.name());
    }
    println!("{text}");
    for row in ROWS {
        if !options.only.iter().any(|kind| figures.range(*kind, row.figure).is_some()) {
            continue;
        }
        let mut text = format!("{:30}", row.name);
        for kind in &options.only {
            let cell = match figures.range(*kind, row.figure) {
                Some([median, least, most]) => {
                    let [median, least, most] = [median, least, most].map(|value| number(value, row.decimals));
                    format!("{median} ({least} to {most})")
                }
                None => "-".to_owned(),
            };
            let _ = write!(text, "  {cell:>24}");
        }
        println!("{text}  {}", row.unit);
    }
    println!();
    for ratio in ratios(figures) {
        let verdict = match ratio.target {
            Target::None => String::new(),
            Target::AtLeast(target) => format!("at least {target}: {}", if ratio.met() { "met" } else { "MISSED" }),
            Target::AtMost(target) => format!("at most {target}: {}", if ratio.met() { "met" } else { "MISSED" }),
        };
        println!("{:34} {:8.3}  {verdict}", ratio.key, ratio.value);
    }
}
