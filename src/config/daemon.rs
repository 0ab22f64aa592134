//! Reads `enftun.toml`: the daemon's own settings and the trusted interface groups.

use std::collections::BTreeMap;
use std::path::Path;

use log::LevelFilter;

use super::reader::{Reading, Section, read};
use super::values::{self, Complaint, Endpoint, quoted};
use super::{Config, Connectivity, Daemon, Group, Host, ProbeUrl};

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
    Connectivity { probe_url: root.section("connectivity").parse("probe_url", probe_url) }
}

/// `http://HOST[:PORT][/PATH][?QUERY]`.
fn probe_url(text: &str) -> Result<ProbeUrl, Complaint> {
    let Some(rest) = text.strip_prefix("http://") else {
        let complaint = Complaint::new(&format!("{} is not a URL that starts with http://", quoted(text)));
        return Err(match text.starts_with("https://") {
            true => complaint.help("no captive portal can answer for an https URL, so it would tell nothing of one"),
            false => complaint.help("write \"http://probe.example.net/generate_204\""),
        });
    };
    if !rest.chars().all(|c| c.is_ascii_graphic()) {
        return Err(Complaint::new(&format!("{} has a character that no URL has", quoted(text))));
    }
    let (authority, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if authority.contains('@') || target.contains('#') {
        let complaint = Complaint::new("has a login or a fragment, and a probe is sent without either");
        return Err(complaint.help("write only http://HOST/PATH"));
    }
    let Endpoint::Tcp(host, port) = values::endpoint(authority)? else {
        return Err(Complaint::new(&format!("{} is not a host that HTTP can reach", quoted(authority))));
    };
    let slash = if target.starts_with('/') { "" } else { "/" };
    Ok(ProbeUrl {
        host: Host::direct(host, port.unwrap_or(80)),
        authority: authority.to_owned(),
        target: format!("{slash}{target}"),
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_url_is_taken_apart() {
        for (text, host, authority, target) in [
            ("http://probe.example.net/generate_204", "probe.example.net:80", "probe.example.net", "/generate_204"),
            ("http://probe.example.net", "probe.example.net:80", "probe.example.net", "/"),
            ("http://[2001:db8::1]:8080?a=/b", "[2001:db8::1]:8080", "[2001:db8::1]:8080", "/?a=/b"),
        ] {
            let url = probe_url(text).unwrap();
            assert_eq!(
                (url.host.to_string().as_str(), url.authority.as_str(), url.target.as_str()),
                (host, authority, target)
            );
        }
    }

    #[test]
    fn what_would_tell_nothing_of_a_portal_is_told_why() {
        for (text, why) in [
            ("https://probe.example.net/", "no captive portal can answer"),
            ("probe.example.net", "starts with http://"),
            ("http://", "empty"),
            ("http://me:secret@probe.example.net/", "login"),
            ("http://probe.example.net/#top", "fragment"),
            ("http://probe.example.net/\r\nX: y", "no URL has"),
            ("http://vsock:2:3/", "HTTP"),
        ] {
            let complaint = probe_url(text).unwrap_err();
            let said = format!("{} {}", complaint.text, complaint.help.unwrap_or_default());
            assert!(said.contains(why), "{text}: {said}");
        }
    }
}
