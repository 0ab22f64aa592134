//! What is told: a table, the ratios, the JSON file, the page and its picture.

use crate::bed::Outcome;
use crate::measure::Figures;
use crate::options::Options;
use crate::peers::Kind;
use crate::picture;
use std::fmt::{self, Write as _};
use std::path::Path;

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

impl Row {
    fn shown(&self, options: &Options, figures: &Figures) -> bool {
        options.only.iter().any(|kind| figures.range(*kind, self.figure).is_some())
    }

    fn cell(&self, kind: Kind, figures: &Figures) -> String {
        let Some(range) = figures.range(kind, self.figure) else { return "-".to_owned() };
        let [median, least, most] = range.map(|value| number(value, self.decimals));
        if figures.get(kind, self.figure).len() == 1 { median } else { format!("{median} ({least} to {most})") }
    }
}

/// In the order of the tables.
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

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::AtLeast(target) => write!(formatter, "at least {target}"),
            Self::AtMost(target) => write!(formatter, "at most {target}"),
        }
    }
}

impl Ratio {
    fn verdict(&self) -> &'static str {
        let met = match self.target {
            Target::None => return "",
            Target::AtLeast(target) => self.value >= target,
            Target::AtMost(target) => self.value <= target,
        };
        if met { "met" } else { "MISSED" }
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

/// With so many digits behind the point.
pub fn number(value: f64, decimals: usize) -> String {
    format!("{value:.decimals$}")
}

/// The table on the terminal.
pub fn print(options: &Options, facts: &[(&str, String)], figures: &Figures) {
    for (name, value) in facts {
        println!("{name}: {value}");
    }
    let mut text = format!("\n{:27}", "median (least to most)");
    for kind in &options.only {
        let _ = write!(text, " {:>23}", kind.name());
    }
    println!("{text}");
    for row in ROWS.iter().filter(|row| row.shown(options, figures)) {
        let mut text = format!("{:27}", row.name);
        for kind in &options.only {
            let _ = write!(text, " {:>23}", row.cell(*kind, figures));
        }
        println!("{text}  {}", row.unit);
    }
    println!();
    for ratio in ratios(figures) {
        println!("{:30} {:8.3}  {:14} {}", ratio.key, ratio.value, ratio.target.to_string(), ratio.verdict());
    }
    for (kind, what, why) in &figures.failures {
        println!("FAILED {}, {what}: {why}", kind.name());
    }
}

/// Of every measurement of every case.
pub fn json(options: &Options, facts: &[(&str, String)], figures: &Figures) -> serde_json::Value {
    // More digits than a measurement has are noise.
    let short = |value: f64| serde_json::Value::from(format!("{value:.6}").parse::<f64>().unwrap_or(value));
    let mut all = serde_json::Map::new();
    for (figure, kind) in
        figures.names().into_iter().flat_map(|name| options.only.iter().map(move |kind| (name, *kind)))
    {
        if let Some([median, least, most]) = figures.range(kind, figure) {
            let key = format!("{}_{figure}", kind.key());
            all.insert(format!("{key}_min"), short(least));
            all.insert(format!("{key}_max"), short(most));
            all.insert(key, short(median));
        }
    }
    let failures = figures.failures.iter().map(|(kind, what, why)| format!("{}, {what}: {why}", kind.name()));
    serde_json::json!({
        "ratios": ratios(figures).into_iter().map(|ratio| (ratio.key, short(ratio.value))).collect::<serde_json::Map<_, _>>(),
        "figures": all,
        "machine": facts.iter().map(|(name, value)| ((*name).to_owned(), value.clone().into())).collect::<serde_json::Map<_, _>>(),
        "rounds": options.rounds,
        "failures": failures.collect::<Vec<_>>(),
    })
}

const BEGIN: &str = "<!-- What is between these two lines is written by `benches/run tunnel`. -->";
const END: &str = "<!-- The end of what is written by `benches/run tunnel`. -->";

/// Puts the tables into the page, in the place of those before, and writes the picture.
pub fn write_page(options: &Options, facts: &[(&str, String)], figures: &Figures) -> Outcome<()> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let page = docs.join("performance.md");
    let said = |error: std::io::Error| format!("{}: {error}", page.display());
    let text = std::fs::read_to_string(&page).map_err(said)?;
    let around = text.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = around.ok_or_else(|| format!("{}: the lines that tell where are missing", page.display()))?;
    let whole = format!("{before}{BEGIN}\n\n{}\n{END}{after}", markdown(options, facts, figures));
    std::fs::write(docs.join("performance.svg"), picture::svg(&options.only, figures)).map_err(said)?;
    std::fs::write(&page, whole).map_err(said)
}

fn markdown(options: &Options, facts: &[(&str, String)], figures: &Figures) -> String {
    let mut text = String::new();
    let facts: Vec<String> = facts.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let _ = writeln!(
        text,
        "{} rounds, medians, in brackets the least and the most. {}.\n",
        options.rounds,
        facts.join("; ")
    );
    let _ = writeln!(text, "![The figures as bars](performance.svg)\n");
    let names: Vec<&str> = options.only.iter().map(|kind| kind.name()).collect();
    let _ = writeln!(text, "| | unit | {} |\n|---|---|{}", names.join(" | "), "--:|".repeat(names.len()));
    for row in ROWS.iter().filter(|row| row.shown(options, figures)) {
        let cells: Vec<String> = options.only.iter().map(|kind| row.cell(*kind, figures)).collect();
        let _ = writeln!(text, "| {} | {} | {} |", row.name, row.unit, cells.join(" | "));
    }
    let _ = writeln!(text, "\n| medians of ours against theirs | | asked for | |\n|---|--:|---|---|");
    for ratio in ratios(figures) {
        let _ = writeln!(text, "| {} | {:.2} | {} | {} |", ratio.key, ratio.value, ratio.target, ratio.verdict());
    }
    for (kind, what, why) in &figures.failures {
        let _ = writeln!(text, "\nFailed: {}, {what}: {}", kind.name(), why.lines().next().unwrap_or_default());
    }
    text
}
