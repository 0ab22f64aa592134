//! The figures as bars, in SVG.

use crate::measure::Figures;
use crate::peers::Kind;
use std::fmt::Write as _;

/// Figure, title, unit, decimals.
const PANELS: [(&str, &str, &str, usize); 10] = [
    ("tcp1_mbit_s", "TCP, 1 stream, up and down: more is better", "Mbit/s", 0),
    ("tcp8_up_mbit_s", "TCP, 8 streams, up: more is better", "Mbit/s", 0),
    ("pps64", "UDP without loss, 64 bytes: more is better", "/s", 0),
    ("pps_mtu", "UDP without loss, MTU-sized: more is better", "/s", 0),
    ("ping_p50_ms", "ping, idle, p50: less is better", "ms", 3),
    ("ping_loaded_p99_ms", "ping during a TCP stream up, p99: less is better", "ms", 2),
    ("cpu_s_per_gb", "Processor time per GB, both ends: less is better", "s", 2),
    ("rss_loaded_near_mb", "Memory of the near end, loaded: less is better", "MB", 1),
    ("bloat_up_ping_p99_ms", "ping p99, TCP up through 50 Mbit/s: less is better", "ms", 1),
    ("reconnect_ms", "Far end restarted, until a packet passes: less is better", "ms", 0),
];

const COLUMNS: usize = 2;
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 150.0;
/// Of a bar and the space to the next.
const STEP: f64 = 22.0;
/// Where bars begin and may end.
const LEFT: f64 = 100.0;
const RIGHT: f64 = 370.0;

/// All panels: a bar is as long as the median, a line reaches from the least to the most.
pub fn svg(kinds: &[Kind], figures: &Figures) -> String {
    let rows = PANELS.len().div_ceil(COLUMNS);
    let (width, height) = (WIDTH * COLUMNS as f64, HEIGHT * rows as f64 + 10.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    for (number, (figure, title, unit, decimals)) in PANELS.into_iter().enumerate() {
        let (x, y) = ((number % COLUMNS) as f64 * WIDTH, (number / COLUMNS) as f64 * HEIGHT);
        let _ = writeln!(
            svg,
            "<g transform=\"translate({x} {y})\">\n<text x=\"10\" y=\"24\" font-weight=\"bold\">{title}</text>"
        );
        let ranges: Vec<_> = kinds.iter().filter_map(|kind| Some((*kind, figures.range(*kind, figure)?))).collect();
        let most = ranges.iter().map(|(_, [.., most])| *most).fold(f64::MIN_POSITIVE, f64::max);
        let at = |value: f64| LEFT + (RIGHT - LEFT) * value / most;
        for (number, (kind, [median, least, most])) in ranges.into_iter().enumerate() {
            let y = 34.0 + number as f64 * STEP;
            let colour = match kind {
                Kind::Veth => "#cccccc",
                Kind::Openvpn => "#e0a458",
                Kind::WireguardGo => "#b56576",
                Kind::V1 => "#6d9dc5",
                Kind::V2 => "#1f5f99",
            };
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
                 <rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"16\" fill=\"{colour}\"/>\
                 <path d=\"M{:.1} {y2:.1}H{:.1}M{:.1} {y1:.1}v6M{:.1} {y1:.1}v6\" stroke=\"#222\" fill=\"none\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\">{} {unit}</text>",
                LEFT - 6.0,
                y + 12.0,
                kind.name(),
                at(median) - LEFT,
                at(least),
                at(most),
                at(least),
                at(most),
                at(most).max(at(median)) + 6.0,
                y + 12.0,
                crate::report::number(median, decimals),
                y1 = y + 5.0,
                y2 = y + 8.0,
            );
        }
        svg += "</g>\n";
    }
    svg + "</svg>\n"
}
