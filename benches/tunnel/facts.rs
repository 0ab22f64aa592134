//! What must be known beside the figures: the machine, and the versions of the others.

use std::fs;
use std::process::Command;

/// Name and value, for the table, the page and the JSON file.
pub fn facts() -> Vec<(&'static str, String)> {
    let model = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split(": ").nth(1));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    vec![
        ("processor", format!("{cores} cores, {}", model.unwrap_or("of an unknown kind"))),
        ("kernel", kernel.trim().to_owned()),
        // Another program that runs beside takes from all, but not from all alike.
        ("load before", load.split_whitespace().next().unwrap_or("unknown").to_owned()),
        (
            "enftun",
            format!(
                "{}{}",
                env!("CARGO_PKG_VERSION"),
                if cfg!(debug_assertions) { ", a development build" } else { "" }
            ),
        ),
        ("OpenVPN", version("openvpn", "OpenVPN ")),
        ("wireguard-go", version("wireguard-go", "wireguard-go ")),
        ("iperf3", version("iperf3", "iperf ")),
    ]
}

fn version(program: &str, before: &str) -> String {
    let output = Command::new(program).arg("--version").output().map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&output);
    let word = text.lines().find_map(|line| line.strip_prefix(before)?.split_whitespace().next());
    word.unwrap_or("not there").to_owned()
}
