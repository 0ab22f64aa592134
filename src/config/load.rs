//! From a directory or a list of files to what a program runs by: reads the files, and compares them with each other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};

use super::findings::{Finding, Severity, Source};
use super::reader::{self, Reading};
use super::values::{self, Complaint, quoted};
use super::{Config, Group, Kind, Router, Tunnel, daemon, router, tunnel};
use crate::paths::{DAEMON_USER, Paths};

/// No configuration file is larger.
const LARGEST: u64 = 1 << 20;

/// What one configuration directory holds.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// Everything that could be used. An `enftun.toml` with errors counts as absent: half a group trusts the wrong links.
    pub config: Config,
    /// Everything that there is to say, file by file: `enftun.toml`, then the tunnels by name.
    pub findings: Vec<Finding>,
    /// Tunnels whose files have errors; they are not in `config.tunnels`.
    pub broken: BTreeSet<String>,
    /// SHA-256 over the names and contents of all files that could be read, in hexadecimal.
    pub hash: String,
}

impl Loaded {
    /// Whether a file, or part of one, could not be used.
    pub fn has_errors(&self) -> bool {
        has_errors(&self.findings)
    }
}

/// Reads `enftun.toml` and every `tunnels/NAME.toml` under `config_dir`, and compares them. What is absent has its default.
/// A tunnel with errors is left out and named in [`Loaded::broken`]; the others are not harmed by it.
pub fn load(config_dir: &Path) -> Loaded {
    let paths = Paths { config: values::absolute(config_dir), ..Paths::default() };
    let mut loaded = Loaded::default();
    let mut hash = Context::new(&SHA256);
    let mut groups = None;
    match daemon_text(&paths.daemon_file()) {
        Ok(None) => groups = Some(BTreeMap::new()),
        Ok(Some(text)) => {
            add(&mut hash, &paths.daemon_file(), &text);
            let reading = daemon::parse(&paths.daemon_file(), &text);
            groups = groups_of(&reading);
            let (config, findings) = sound(reading, Some);
            (loaded.config, loaded.findings) = (config.unwrap_or_default(), findings);
        }
        Err(finding) => loaded.findings.push(finding),
    }
    let mut candidates = Vec::new();
    match tunnel_files(&paths.tunnels_dir()) {
        Ok(files) => {
            for file in files {
                let text = read_text(&file);
                if let Ok(text) = &text {
                    add(&mut hash, &file, text);
                }
                candidates.push(Candidate::of(&file, &paths.config, text));
            }
        }
        Err(finding) => loaded.findings.push(finding),
    }
    loaded.hash = hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    compare(&mut candidates, groups.as_ref());
    for candidate in candidates {
        let (tunnel, findings) = candidate.finish();
        match tunnel {
            Ok(tunnel) => drop(loaded.config.tunnels.insert(tunnel.name.clone(), tunnel)),
            Err(name) => drop(loaded.broken.insert(name)),
        }
        loaded.findings.extend(findings);
    }
    loaded
}

/// Reads `enftun.toml` alone; the configuration has no tunnels. What is absent, or has errors, has its default.
pub fn load_daemon(config_dir: &Path) -> (Config, Vec<Finding>) {
    match read_daemon(&config_dir.join("enftun.toml")) {
        Ok(None) => (Config::default(), Vec::new()),
        Ok(Some(reading)) => {
            let (config, findings) = sound(reading, Some);
            (config.unwrap_or_default(), findings)
        }
        Err(finding) => (Config::default(), vec![finding]),
    }
}

/// Reads one tunnel file, wherever it lies; the tunnel is called after it. Nothing it may refer to elsewhere is looked at.
pub fn load_tunnel(file: &Path, config_dir: &Path) -> (Option<Tunnel>, Vec<Finding>) {
    let (tunnel, findings) = Candidate::of(file, config_dir, read_text(file)).finish();
    (tunnel.ok(), findings)
}

/// As [`load_tunnel`], from text: `file` is only what findings call it.
pub fn parse_tunnel(name: &str, file: &Path, config_dir: &Path, text: &str) -> (Option<Tunnel>, Vec<Finding>) {
    sound(tunnel::parse(name, file, config_dir, text), |tunnel| tunnel)
}

/// Reads the router's file. Relative paths in it start at its directory.
pub fn load_router(file: &Path) -> (Option<Router>, Vec<Finding>) {
    match read_text(file) {
        Ok(text) => parse_router(file, &text),
        Err(finding) => (None, vec![finding]),
    }
}

/// As [`load_router`], from text.
pub fn parse_router(file: &Path, text: &str) -> (Option<Router>, Vec<Finding>) {
    sound(router::parse(file, text), Some)
}

/// Reads `enftun.toml` from text; the configuration has no tunnels.
pub fn parse_daemon(file: &Path, text: &str) -> (Option<Config>, Vec<Finding>) {
    sound(daemon::parse(file, text), Some)
}

/// Every key that the readers ask for over `text`, once as each of the three files: `enftun.toml`, a tunnel, `router.toml`.
/// Sections that are optional are asked for theirs when they stand in the text. The manual pages are held against it.
pub fn known_keys(text: &str) -> [BTreeSet<String>; 3] {
    let (file, dir) = (Path::new("enf0.toml"), Path::new("/"));
    [daemon::parse(file, text).known, tunnel::parse("enf0", file, dir, text).known, router::parse(file, text).known]
}

/// Judges one text by itself: `enftun.toml`, a router's file or a tunnel's, told by what stands in it. `file` is only what
/// findings call it.
pub fn check_text(file: &Path, config_dir: &Path, text: &str) -> Vec<Finding> {
    if reader::has_top_level(text, "listen") {
        router::parse(file, text).findings
    } else if ["daemon", "groups", "connectivity"].iter().any(|key| reader::has_top_level(text, key)) {
        daemon::parse(file, text).findings
    } else {
        Candidate::parse(file, config_dir, text).finish().1
    }
}

/// Judges `files` by themselves and, as far as they are tunnels, with each other and the groups of `config_dir`.
/// `enftun.toml` is the daemon's file, what is called `router.toml` or listens is a router's, everything else is a tunnel.
pub fn check_files(files: &[PathBuf], config_dir: &Path) -> Vec<Finding> {
    let mut found = BTreeMap::new();
    let mut candidates = Vec::new();
    let mut groups = None;
    for (at, file) in files.iter().enumerate() {
        let text = match read_text(file) {
            Ok(text) => text,
            Err(finding) => {
                found.insert(at, vec![finding]);
                continue;
            }
        };
        let name = file.file_name().unwrap_or_default();
        if name == "enftun.toml" {
            let reading = daemon::parse(file, &text);
            groups = Some(groups_of(&reading));
            found.insert(at, reading.findings);
        } else if name == "router.toml" || reader::has_top_level(&text, "listen") {
            found.insert(at, router::parse(file, &text).findings);
        } else {
            candidates.push((at, Candidate::of(file, config_dir, Ok(text))));
        }
    }
    let groups = groups.unwrap_or_else(|| match read_daemon(&config_dir.join("enftun.toml")) {
        Ok(None) => Some(BTreeMap::new()),
        Ok(Some(reading)) => groups_of(&reading),
        Err(_) => None,
    });
    let (places, mut candidates): (Vec<_>, Vec<_>) = candidates.into_iter().unzip();
    compare(&mut candidates, groups.as_ref());
    found.extend(places.into_iter().zip(candidates.into_iter().map(|candidate| candidate.finish().1)));
    found.into_values().flatten().collect()
}

/// A tunnel file that was read, before it is compared with others.
struct Candidate {
    name: String,
    content: Result<Reading<Option<Tunnel>>, Finding>,
}

impl Candidate {
    fn of(file: &Path, config_dir: &Path, text: Result<String, Finding>) -> Self {
        match text {
            Ok(text) => {
                let mut candidate = Self::parse(file, config_dir, &text);
                candidate.judge_readers(file);
                candidate
            }
            Err(finding) => Self { name: stem(file), content: Err(finding) },
        }
    }

    fn parse(file: &Path, config_dir: &Path, text: &str) -> Self {
        let name = stem(file);
        Self { content: Ok(tunnel::parse(&name, file, config_dir, text)), name }
    }

    /// Warns when everybody may read a file with a password in it.
    fn judge_readers(&mut self, file: &Path) {
        let Ok(reading) = &mut self.content else { return };
        let everybodys = || file.metadata().is_ok_and(|metadata| metadata.mode() & 0o004 != 0);
        if reading.has_secrets() && everybodys() {
            let text = "has a user's name or password in it, and every user of this host may read the file";
            let help = format!("chgrp {DAEMON_USER} {0} && chmod 640 {0}", file.display());
            reading.warn_of_secrets(&Complaint::new(text).help(&help));
        }
    }

    /// The tunnel, or the name of one that cannot be used.
    fn finish(self) -> (Result<Tunnel, String>, Vec<Finding>) {
        match self.content {
            Ok(reading) => {
                let (tunnel, findings) = sound(reading, |tunnel| tunnel);
                (tunnel.ok_or(self.name), findings)
            }
            Err(finding) => (Err(self.name), vec![finding]),
        }
    }
}

/// Adds what is wrong between files: to the later of two tunnels that claim the same, and to one that is at odds with the groups.
/// `groups` is `None` when they are not known for certain.
fn compare(candidates: &mut [Candidate], groups: Option<&BTreeMap<String, Group>>) {
    let mut earlier: Vec<(PathBuf, Tunnel)> = Vec::new();
    for reading in candidates.iter_mut().filter_map(|candidate| candidate.content.as_mut().ok()) {
        let Some(tunnel) = reading.value.clone() else { continue };
        if let Some(groups) = groups {
            let known: Vec<&str> = groups.keys().map(String::as_str).collect();
            for name in tunnel.route.trusted_groups.iter().filter(|name| !groups.contains_key(*name)) {
                let complaint = Complaint::new(&format!("there is no group {} in enftun.toml", quoted(name)));
                let complaint = Complaint { help: reader::did_you_mean(name, &known), ..complaint };
                let key = "route.trusted_groups";
                reading.error_at(&format!("{key}.{name}"), key, complaint);
            }
            for (place, key, complaint) in conflicts_with_groups(groups, &tunnel) {
                reading.error_at(&place, key, complaint);
            }
        }
        // What is not sound by itself claims nothing: half of it may be guessed.
        if reading.has_errors() {
            continue;
        }
        for (file, other) in &earlier {
            let owner = format!("tunnel {} ({})", quoted(&other.name), file.display());
            for (place, key, complaint) in conflicts(other, &tunnel, &owner) {
                reading.error_at(&place, key, complaint);
            }
        }
        earlier.push((reading.file().to_owned(), tunnel));
    }
}

/// What a tunnel claims and the groups of `enftun.toml` have: as [`conflicts`].
fn conflicts_with_groups(groups: &BTreeMap<String, Group>, tunnel: &Tunnel) -> Vec<(String, &'static str, Complaint)> {
    let mut found = Vec::new();
    let route = &tunnel.route;
    let enf = tunnel.kind.enf();
    let own = !route.trusted_interfaces.is_empty();
    for (name, group) in groups {
        if own && group.number == route.fwmark {
            let text = format!(
                "the group of these interfaces has the number of the mark, {}, and group {} of enftun.toml has it already",
                route.fwmark,
                quoted(name)
            );
            let complaint = Complaint::new(&text).help("give the group, or the mark, another number");
            found.push(("route.trusted_interfaces".to_owned(), "route.trusted_interfaces", complaint));
            continue;
        }
        for interface in route.trusted_interfaces.iter().filter(|name| group.interfaces.contains(name)) {
            let text = format!("{} is already in group {} of enftun.toml", quoted(interface), quoted(name));
            let help = format!("write trusted_groups = [{}]; the kernel keeps one group per interface", quoted(name));
            let complaint = Complaint::new(&text).help(&help);
            found.push((tunnel::trusted_place(interface), "route.trusted_interfaces", complaint));
        }
        let own_device = enf.map(|enf| &enf.tun.dev).filter(|dev| group.interfaces.contains(dev));
        if let Some(dev) = own_device.filter(|_| route.trusted_groups.contains(name)) {
            let key = "route.trusted_groups";
            found.push((format!("{key}.{name}"), key, tunnel::trusts_itself(dev, "take it out of the group")));
        }
        let behind = enf.and_then(|enf| enf.advertise.as_ref()).map(|advertise| &advertise.dev);
        if let Some(dev) = behind.filter(|dev| group.interfaces.contains(dev)) {
            found.push(("advertise.dev".to_owned(), "advertise.dev", tunnel::trusts_host_behind(dev)));
        }
    }
    found
}

/// It has routes of its own.
fn uses_table(tunnel: &Tunnel) -> bool {
    matches!(tunnel.kind, Kind::Enf(_)) || !tunnel.route.prefixes.is_empty()
}

/// What `later` claims and `earlier` has: the place in the file, the key, and what to say.
fn conflicts(earlier: &Tunnel, later: &Tunnel, owner: &str) -> Vec<(String, &'static str, Complaint)> {
    let mut found = Vec::new();
    let mut say = |place: &str, key: &'static str, complaint: Complaint| found.push((place.to_owned(), key, complaint));
    let device = |tunnel: &Tunnel| tunnel.kind.enf().map(|enf| enf.tun.dev.clone());
    if let Some(dev) = device(later).filter(|dev| device(earlier).as_ref() == Some(dev)) {
        let text = format!("{} is already the device of {owner}", quoted(&dev));
        say("tun.dev", "tun.dev", Complaint::new(&text).help("give each tunnel a device of its own"));
    }
    let behind = |tunnel: &Tunnel| tunnel.kind.enf()?.advertise.as_ref().map(|advertise| advertise.dev.clone());
    if let Some(dev) = behind(later) {
        let whose = if device(earlier).as_ref() == Some(&dev) {
            Some("is the device")
        } else if behind(earlier).as_ref() == Some(&dev) {
            Some("has the host behind")
        } else if earlier.route.trusted_interfaces.contains(&dev) {
            Some("is a trusted interface")
        } else {
            None
        };
        if let Some(whose) = whose {
            let text = format!("{} {whose} of {owner}", quoted(&dev));
            let help = "an interface has one host behind, of one tunnel, and is nothing else";
            say("advertise.dev", "advertise.dev", Complaint::new(&text).help(help));
        }
    }
    if let Some(dev) = behind(earlier) {
        if device(later).as_ref() == Some(&dev) {
            let text = format!("{} has the host behind of {owner}", quoted(&dev));
            say("tun.dev", "tun.dev", Complaint::new(&text).help("give the tunnel another device"));
        }
        if later.route.trusted_interfaces.contains(&dev) {
            let text =
                format!("{} has the host behind of {owner}, and nothing of it goes beside a tunnel", quoted(&dev));
            say(&tunnel::trusted_place(&dev), "route.trusted_interfaces", Complaint::new(&text).help("take it out"));
        }
    }
    let (a, b) = (&earlier.route, &later.route);
    if uses_table(earlier) && uses_table(later) && a.table == b.table {
        let text = format!("{} is already the table of {owner}", b.table);
        say("route.table", "route.table", Complaint::new(&text).help("give each tunnel a table of its own"));
    }
    if (a.fwmark ^ b.fwmark) & a.fwmark_mask & b.fwmark_mask == 0 {
        let text =
            format!("{:#x} under the mask {:#x} cannot be told from the mark of {owner}", b.fwmark, b.fwmark_mask);
        say("route.fwmark", "route.fwmark", Complaint::new(&text).help("give each tunnel a mark of its own"));
    }
    for interface in b.trusted_interfaces.iter().filter(|interface| a.trusted_interfaces.contains(interface)) {
        let text = format!("{} is already a trusted interface of {owner}", quoted(interface));
        let help = "the kernel keeps one group per interface; trust it through a group of enftun.toml in both";
        say(&tunnel::trusted_place(interface), "route.trusted_interfaces", Complaint::new(&text).help(help));
    }
    for prefix in b.prefixes.iter().filter(|prefix| a.prefixes.contains(prefix)) {
        let text = match prefix.prefix_len() {
            0 => format!("{owner} has the default already ({prefix}), and only one can have it"),
            _ => format!("{prefix} belongs to {owner} already"),
        };
        say(&tunnel::prefix_place(prefix), "route.prefixes", Complaint::new(&text));
    }
    found
}

fn has_errors(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.severity == Severity::Error)
}

/// The value of a file without errors, and what was found.
fn sound<T, U>(reading: Reading<T>, value: impl FnOnce(T) -> Option<U>) -> (Option<U>, Vec<Finding>) {
    let usable = !reading.has_errors();
    (Some(reading.value).filter(|_| usable).and_then(value), reading.findings)
}

/// The groups of a file that has no errors.
fn groups_of(reading: &Reading<Config>) -> Option<BTreeMap<String, Group>> {
    (!reading.has_errors()).then(|| reading.value.groups.clone())
}

/// `None` when there is no such file, which is no mistake.
fn daemon_text(file: &Path) -> Result<Option<String>, Finding> {
    match file.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        _ => read_text(file).map(Some),
    }
}

fn read_daemon(file: &Path) -> Result<Option<Reading<Config>>, Finding> {
    Ok(daemon_text(file)?.map(|text| daemon::parse(file, &text)))
}

/// One file: neither its name nor its text can be taken for a part of another.
fn add(hash: &mut Context, file: &Path, text: &str) {
    for part in [file.file_name().unwrap_or_default().as_encoded_bytes(), text.as_bytes()] {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part);
    }
}

/// The tunnel files in name order. As a shell's `*.toml` does, this passes over what starts with a dot: editors' leftovers.
fn tunnel_files(dir: &Path) -> Result<Vec<PathBuf>, Finding> {
    let unreadable = |error: io::Error| Finding::of_file(dir, format!("cannot be listed: {error}"));
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(unreadable)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn stem(file: &Path) -> String {
    file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// The whole text of a regular file of reasonable size.
pub(super) fn read_text(file: &Path) -> Result<String, Finding> {
    let unreadable = |error: io::Error| Finding::of_file(file, format!("cannot be read: {error}"));
    let metadata = fs::metadata(file).map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(Finding::of_file(file, "is a directory, and a file belongs here".to_owned()));
    }
    if !metadata.is_file() {
        // Opening a pipe would wait for whoever writes into it.
        return Err(Finding::of_file(file, "is not a regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    File::open(file).and_then(|open| open.take(LARGEST + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    if bytes.len() as u64 > LARGEST {
        return Err(Finding::of_file(file, "is larger than 1 MiB; no configuration is".to_owned()));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let byte = error.as_bytes().get(at).copied().unwrap_or_default();
        let source = Source::new(file, &String::from_utf8_lossy(error.as_bytes()));
        source.finding(Severity::Error, String::new(), at..at + 1, format!("is not UTF-8 text: byte {byte:#04x}"))
    })
}
