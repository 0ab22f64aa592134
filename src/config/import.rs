//! From the C client's file to ours; and from the port mapping files of AWS's local proxy, which have a file of their own
//! below. What is written does what the old file did when the C client read it, defaults and ignored settings included;
//! whatever was meant otherwise, has no counterpart or is out of our range is told with its place in the old file. The table
//! in `docs/import.md` is this file in words.

mod libconfig;
mod mappings;
mod tpm;
mod translation;

use std::collections::HashSet;
use std::net::Ipv6Addr;
use std::path::Path;

use ipnet::IpNet;

use self::libconfig::{Fault, Notice, Parsed, Setting};
use self::translation::{NOWHERE, Old, Translation, path};
use super::findings::{Finding, Severity};
use super::load::read_text;
use super::values::{self, Complaint, Endpoint, quoted};

/// What became of an old file.
#[derive(Clone, Debug)]
pub struct Imported {
    /// A tunnel file that has no errors; none when there is an error among the findings.
    pub toml: Option<String>,
    /// What there is to know, in the order of the old file.
    pub findings: Vec<Finding>,
}

/// Reads the C client's `file`; what it includes is looked for beside it. Or port mapping files of AWS's local proxy: one, or a
/// directory of them.
pub fn import(file: &Path) -> Imported {
    if file.is_dir() {
        return mappings::import(file);
    }
    match read_text(file) {
        Ok(text) if super::mappings::is_mappings(&text) => mappings::import(file),
        Ok(text) => import_text(file, &text, &read_text),
        Err(finding) => Imported { toml: None, findings: vec![finding] },
    }
}

/// As [`import`], from text; `include` reads the files that it includes.
pub fn import_text(file: &Path, text: &str, include: &dyn Fn(&Path) -> Result<String, Finding>) -> Imported {
    let Parsed { sources, notices, settings } = libconfig::parse(file, text, include);
    let mut translation = Translation::new(sources);
    for Notice { place, text, help } in notices {
        translation.say(Severity::Warning, "", &place, Complaint { text, help });
    }
    match settings {
        Ok(settings) => translation.all(&settings),
        Err(Fault::Syntax(Notice { place, text, help })) => {
            let text = format!("{text}; the C client refuses the whole file, too");
            translation.say(Severity::Error, "", &place, Complaint { text, help });
        }
        Err(Fault::Include(Notice { place, text, help })) => {
            translation.say(Severity::Error, "", &place, Complaint { text, help });
        }
    }
    translation.finish(file)
}

/// The C client's defaults where they matter, in the form of the old file.
const DEVICE: &str = "enf0";
const ROUTER: &str = "23.147.128.112";

impl Translation {
    fn all(&mut self, settings: &[Setting]) {
        let mut root = Old { path: "", settings, known: vec!["version"] };
        let [mut tun, mut remote, mut route, mut identity] =
            ["tun", "remote", "route", "identity"].map(|name| self.group(&mut root, name));
        let dev = self.tun(&mut tun);
        self.remote(&mut remote);
        self.route(&mut route, &dev);
        self.identity(&mut identity);
        for group in [root, tun, remote, route, identity] {
            self.unknown(&group);
        }
    }

    /// Writes `[tun]`, and says what the device is called.
    fn tun(&mut self, old: &mut Old<'_>) -> String {
        let mut dev = DEVICE.to_owned();
        if let Some((text, place)) = self.text(old, "dev", &quoted(DEVICE)) {
            match values::interface(text) {
                Ok(name) => dev = name,
                Err(complaint) => {
                    self.warn("tun.dev", place, format!("{}; {DEVICE:?} is written instead", complaint.text));
                }
            }
        }
        self.write("tun", "dev", dev.as_str());
        if let Some((set, _)) = self.boolean(old, "ip_set", "set_address", true) {
            self.write("tun", "set_address", set);
        }
        self.no_counterpart(old, "dev_node", "the device node is always /dev/net/tun");
        self.no_counterpart(old, "ip_path", "the kernel is told without the program ip");
        dev
    }

    fn remote(&mut self, old: &mut Old<'_>) {
        self.hosts(old);
        if let Some((text, place)) = self.text(old, "port", "\"443\"") {
            let port = text.parse::<u16>().ok().or((text == "https").then_some(443)).filter(|port| *port != 0);
            match port {
                Some(port) => self.write("remote", "port", i64::from(port)),
                None => {
                    self.warn("remote.port", place, format!("{} is not a port; 443 is used", quoted(text)));
                }
            }
        }
        self.path(old, "ca_cert_file", "/etc/enftun/enf.cacert.pem");
        let text =
            "the C client takes any certificate under its CA for the router's; so does this, until you say the name";
        let help = "write name = \"…\" below [remote]: the name or address in the router's certificate";
        self.say(Severity::Warning, "remote.name", &NOWHERE, Complaint::new(text).help(help));
        self.milliseconds(old, "heartbeat_period", "300000", 100);
        self.milliseconds(old, "heartbeat_timeout", "10000", 10);
    }

    fn hosts(&mut self, old: &mut Old<'_>) {
        let key = "remote.hosts";
        let Some((strings, place)) = self.strings(old, "hosts", &format!("[{ROUTER:?}]")) else {
            if !old.settings.iter().any(|setting| setting.name == "hosts") {
                let text = format!("is not in the old file, so the C client's default is written: {ROUTER:?}");
                self.warn(key, &NOWHERE, text);
            }
            self.write("remote", "hosts", vec![ROUTER]);
            return;
        };
        let judge = |text: &str| match values::endpoint(text)? {
            Endpoint::Vsock { .. } => Err(Complaint::new("the C client cannot reach a router over vsock")),
            Endpoint::Tcp(host, None) => Ok(host.to_lowercase()),
            Endpoint::Tcp(..) => {
                let text = format!("{} has a port in it, which the C client took for a part of the name", quoted(text));
                Err(Complaint::new(&text).help("if it was meant, write it so in the new file: a port may stand there"))
            }
        };
        let hosts: Vec<String> = self.judged(key, &strings, judge).into_iter().map(|(host, _)| host).collect();
        if hosts.is_empty() {
            let complaint = Complaint::new("has no router in it that can be used, and a tunnel needs one");
            self.say(Severity::Error, key, place, complaint);
        }
        self.write("remote", "hosts", hosts);
    }

    fn path(&mut self, old: &mut Old<'_>, key: &'static str, default: &str) {
        let (section, default) = (old.path, if default.is_empty() { "none" } else { default });
        let Some((text, place)) = self.text(old, key, default) else { return };
        match values::path(Path::new("/"))(text) {
            Ok(_) => self.write(section, key, text),
            Err(complaint) => self.warn(&path(old, key), place, format!("{}; it is left out", complaint.text)),
        }
    }

    /// A time that is at least `least`. For the C client zero is never again, and what is negative wraps to for ever.
    fn milliseconds(&mut self, old: &mut Old<'_>, key: &'static str, default: &str, least: i32) {
        let written = |number: i32| (number > 0).then(|| format!("{key} = \"{number}ms\""));
        let Some((number, place)) = self.integer(old, key, default, written) else { return };
        let path = path(old, key);
        let period = key == "heartbeat_period";
        let value = match number {
            number if number >= least => duration(number),
            0 if period => "0s".to_owned(),
            _ if number > 0 => {
                self.warn(&path, &place, format!("{number} ms is too short; {least} ms, the shortest, is written"));
                duration(least)
            }
            _ if period => {
                let text = format!("{number} wraps in the C client, which then never asked again; \"0s\" says that");
                self.warn(&path, &place, text);
                "0s".to_owned()
            }
            _ => {
                self.warn(&path, &place, format!("{number} ms gives an answer no time; the default, 10 s, is used"));
                return;
            }
        };
        self.write(old.path, key, value);
    }

    fn route(&mut self, old: &mut Old<'_>, dev: &str) {
        self.prefixes(old);
        let written = |key: &'static str| move |number: i32| (number > 0).then(|| format!("{key} = {number}"));
        if let Some((mark, place)) = self.integer(old, "fwmark", "363", written("fwmark")) {
            if mark > 0 {
                self.write("route", "fwmark", i64::from(mark));
            } else {
                let text =
                    format!("is {mark}, no mark for the C client; a tunnel needs one, so the default, 363, is used");
                self.warn("route.fwmark", &place, text);
            }
        }
        if let Some((table, place)) = self.integer(old, "table", "2097", written("table")) {
            if table > 0 && !matches!(table, 253..=255) {
                self.write("route", "table", i64::from(table));
            } else {
                let text = format!("{table} is no table that a tunnel can have for itself; the default, 2097, is used");
                self.warn("route.table", &place, text);
            }
        }
        if let Some((strings, _)) = self.strings(old, "trusted_interfaces", "[]") {
            let judge = |text: &str| match values::trusted_interface(text)? {
                name if name == dev => Err(Complaint::new("is the device of the tunnel itself")),
                name => Ok(name),
            };
            let trusted = self.judged("route.trusted_interfaces", &strings, judge);
            let trusted: Vec<String> = trusted.into_iter().map(|(name, _)| name).collect();
            self.write("route", "trusted_interfaces", trusted);
        }
        if let Some((allow, place)) = self.boolean(old, "allow_ipv4", "allow_ipv4", false) {
            self.write("route", "allow_ipv4", allow);
            if allow {
                let text =
                    "the C client let IPv4 of any address through; here it is one address, and without one none passes";
                let help = "write ipv4_address = \"10.0.0.1/32\" below [tun], with the host's own";
                self.say(Severity::Warning, "route.allow_ipv4", &place, Complaint::new(text).help(help));
            }
        }
        let why = "the host itself is told its route and address directly; for a host behind it, on an Ethernet interface, \
                   write [advertise] with dev and ra_period (enftun.toml(5))";
        self.no_counterpart(old, "ra_period", why);
    }

    fn prefixes(&mut self, old: &mut Old<'_>) {
        let key = "route.prefixes";
        let Some((strings, place)) = self.strings(old, "prefixes", "[\"default\"]") else { return };
        let prefixes = self.judged(key, &strings, prefix);
        for (prefix, place) in &prefixes {
            if let Some(prefix) = prefix
                && *prefix != prefix.trunc()
            {
                let text = format!(
                    "has bits set beyond its length, which the C client's set-up refuses; {} is written",
                    prefix.trunc()
                );
                self.warn(key, place, text);
            }
        }
        let mut seen = HashSet::new();
        let written =
            prefixes.into_iter().map(|(prefix, _)| prefix.map_or("default".to_owned(), |net| net.trunc().to_string()));
        let mut written: Vec<String> = written.filter(|prefix| seen.insert(prefix.clone())).collect();
        if written.iter().any(|prefix| prefix == "default") {
            // Every IPv6 address is in there already.
            written.retain(|prefix| prefix != "::/0");
        }
        if written.is_empty() {
            let text = "has nothing in it that can be used, so nothing would belong in the tunnel";
            let help = "write what belongs in it, or \"default\" for everything";
            self.say(Severity::Error, key, place, Complaint::new(text).help(help));
        }
        self.write("route", "prefixes", written);
    }

    fn identity(&mut self, old: &mut Old<'_>) {
        for key in ["cert_file", "key_file", "ip_file"] {
            self.path(old, key, "");
        }
        let why = "XTT, by which the C client had its certificate from the router, is not available: bring certificate and key, \
                   or enrol";
        self.no_counterpart(old, "xtt", why);
        self.tpm(old);
        let without =
            ["cert_file", "key_file"].into_iter().filter(|key| !old.settings.iter().any(|one| one.name == *key));
        for key in without.collect::<Vec<_>>() {
            let what = if key == "cert_file" { "crt" } else { "key" };
            let text = format!("is not in the old file; NAME/NAME.{what}.pem is looked for, NAME being the tunnel's");
            self.warn(&path(old, key), &NOWHERE, text);
        }
        let why = "the C client did not read it, either";
        self.no_counterpart(old, "ipv6_network", why);
    }
}

/// `"default"` is `None`. The set-up script takes what has a colon, with or without a length, and gives up on all else.
fn prefix(text: &str) -> Result<Option<IpNet>, Complaint> {
    match (text, text.parse::<Ipv6Addr>()) {
        ("default", _) => Ok(None),
        (_, Ok(address)) => Ok(Some(IpNet::from(std::net::IpAddr::from(address)))),
        _ => match values::network(text)? {
            IpNet::V4(_) => Err(Complaint::new("is an IPv4 prefix, on which the C client's set-up gives up")),
            net => Ok(Some(net)),
        },
    }
}

/// Milliseconds as people write them.
fn duration(milliseconds: i32) -> String {
    if milliseconds % 1000 == 0 { format!("{}s", milliseconds / 1000) } else { format!("{milliseconds}ms") }
}
