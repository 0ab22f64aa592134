//! Reads `enftun.toml`: the daemon's own settings and the trusted interface groups.

use std::collections::BTreeMap;
use std::path::Path;

use log::LevelFilter;

use super::reader::{Reading, Section, read};
use super::values::{self, Complaint, quoted};
use super::{Config, Connectivity, Daemon, Group};

const LEVELS: [(&str, LevelFilter); 6] = [
    ("error", LevelFilter::Error),
    ("warn", LevelFilter::Warn),
    ("info", LevelFilter::Info),
    ("debug", LevelFilter::Debug),
    ("trace", LevelFilter::Trace),
    ("off", LevelFilter::Off),
];

/// Reads the daemon's file; the configuration has no tunnels.
pub(super) fn parse(file: &Path, text: &str) -> Reading<Config> {
    read(file, text, |root| Config {
        daemon: daemon(&mut root.section("daemon")),
        groups: groups(&mut root.section("groups")),
        connectivity: connectivity(root),
        tunnels: BTreeMap::new(),
    })
}

fn daemon(section: &mut Section<'_>) -> Daemon {
    Daemon { log_level: section.parse("log_level", values::word(&LEVELS)).unwrap_or(LevelFilter::Info) }
}

fn connectivity(root: &mut Section<'_>) -> Connectivity {
    let Some(item) = root.take("connectivity") else { return Connectivity::default() };
    item.asks_for("connectivity");
    let judge = |text: &str| values::url(&["http://", "https://"])(text).map(|()| text.to_owned());
    Connectivity { probe_url: item.section().parse("probe_url", judge) }
}

fn groups(section: &mut Section<'_>) -> BTreeMap<String, Group> {
    let mut groups = BTreeMap::new();
    let mut numbers: BTreeMap<u32, String> = BTreeMap::new();
    let mut members: BTreeMap<String, String> = BTreeMap::new();
    for (name, item) in section.entries() {
        if let Err(complaint) = values::name(name) {
            item.key_error(complaint);
        }
        let mut section = item.section();
        let number_item = section.require("number", "write number = 364; each group has its own");
        let number = number_item.as_ref().and_then(|item| item.integer(1..=super::tunnel::LARGEST_GROUP));
        if let (Some(item), Some(number)) = (&number_item, number) {
            match numbers.get(&number) {
                Some(other) => {
                    let text = format!("{number} is already the number of group {}", quoted(other));
                    item.error(Complaint::new(&text).help("give each group a number of its own"));
                }
                None => drop(numbers.insert(number, name.to_owned())),
            }
        }
        let mut interfaces = Vec::new();
        for item in section.take("interfaces").and_then(|item| item.list()).unwrap_or_default() {
            let Some(interface) = item.parse(values::trusted_interface) else { continue };
            match members.get(&interface) {
                Some(other) if other == name => item.warning(Complaint::new("is given twice")),
                Some(other) => {
                    let text = format!("{} is already in group {}", quoted(&interface), quoted(other));
                    item.error(Complaint::new(&text).help("the kernel keeps one group per interface"));
                }
                None => {
                    members.insert(interface.clone(), name.to_owned());
                    interfaces.push(interface);
                }
            }
        }
        groups.insert(name.to_owned(), Group { number: number.unwrap_or_default(), interfaces });
    }
    groups
}
