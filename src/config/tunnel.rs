//! Reads `tunnels/NAME.toml`. It knows the keys, their defaults and what they must be to each other inside one file.

use std::collections::HashSet;
use std::hash::Hash;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;

use super::findings::Severity;
use super::reader::{Item, Reading, Section, read};
use super::tpm::{Held, tpm};
use super::values::{self, Complaint, Endpoint};
use super::{
    Advertise, Dns, Domain, Enf, Enrol, Host, Identity, Kind, Lockdown, Provisioner, Proxy, Remote, Retry, Route,
    Source, Tpm, Tun, Tunnel, Way, Wire, aws, proxy,
};

/// The kinds that this version has.
const KINDS: [(&str, Kinds); 2] = [("enf", Kinds::Enf), ("aws-iot", Kinds::Aws)];

#[derive(Clone, Copy)]
enum Kinds {
    Enf,
    Aws,
}

/// The kernel's group numbers are signed where rules compare them.
pub(super) const LARGEST_GROUP: u32 = 0x7fff_ffff;

pub(super) const SHORTEST: Duration = Duration::from_millis(10);
/// Time between router advertisements, and what it can be: three of them are their lifetime, at most 9000 s (RFC 4861).
const RA_PERIOD: Duration = Duration::from_secs(600);
const RA_PERIODS: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(3000));
pub(super) const SHORTEST_PERIOD: Duration = Duration::from_millis(100);

/// Reads a tunnel file. There is a value unless the kind is missing or foreign; it is sound only without errors.
pub(super) fn parse(name: &str, file: &Path, config_dir: &Path, text: &str) -> Reading<Option<Tunnel>> {
    let mut reading = read(file, text, |root| tunnel(name, config_dir, root));
    let Some(Tunnel { kind: Kind::Enf(enf), route, .. }) = reading.value.clone() else { return reading };
    if route.trusted_interfaces.contains(&enf.tun.dev) {
        let (place, complaint) = (trusted_place(&enf.tun.dev), trusts_itself(&enf.tun.dev, "leave it out"));
        reading.error_at(&place, "route.trusted_interfaces", complaint);
    }
    if let Some(Advertise { dev, .. }) = &enf.advertise {
        let complaint = if *dev == enf.tun.dev {
            let text =
                format!("{} is the device of this tunnel, and the host behind is on another", values::quoted(dev));
            Some(Complaint::new(&text).help("name the Ethernet interface that the host is on"))
        } else {
            route.trusted_interfaces.contains(dev).then(|| trusts_host_behind(dev))
        };
        if let Some(complaint) = complaint {
            reading.error_at("advertise.dev", "advertise.dev", complaint);
        }
    }
    reading
}

/// Nothing of the host behind goes another way than through the tunnel.
pub(super) fn trusts_host_behind(dev: &str) -> Complaint {
    let text = format!("{} is trusted too, and nothing of the host behind goes beside the tunnel", values::quoted(dev));
    Complaint::new(&text).help("take it out of the trusted interfaces; the host behind has the tunnel alone")
}

/// Where the interface stands in the file, for findings that compare files.
pub(super) fn trusted_place(interface: &str) -> String {
    format!("route.trusted_interfaces.{interface}")
}

/// The tunnel's own device is no way beside it.
pub(super) fn trusts_itself(dev: &str, help: &str) -> Complaint {
    let text = format!("{} is the device of this tunnel, and trust is for what is beside it", values::quoted(dev));
    Complaint::new(&text).help(help)
}

/// Where the prefix stands in the file, for findings that compare files.
pub(super) fn prefix_place(prefix: &IpNet) -> String {
    format!("route.prefixes.{prefix}")
}

fn tunnel(name: &str, config_dir: &Path, root: &mut Section<'_>) -> Option<Tunnel> {
    if let Err(complaint) = values::name(name) {
        let help = "the file's name gives the tunnel its name; rename the file";
        root.file_error(complaint.help(help));
    }
    let kind = root.require("kind", "write kind = \"enf\" or kind = \"aws-iot\" at the top");
    // Most are of the first kind: what is wrong with it as such is told too.
    let Some(kind) = kind.map_or(Some(Kinds::Enf), |kind| kind.parse(known_kind)) else {
        // What another kind's keys are is not known here.
        root.ignore_the_rest();
        return None;
    };
    let autoconnect = root.boolean("autoconnect", false);
    if let Kinds::Aws = kind {
        let (aws, remote) = aws::aws(name, config_dir, root);
        let route = route(&mut root.section("route"), &aws::ROUTE);
        let retry = retry(&mut root.section("retry"));
        let kind = Kind::Aws(Box::new(aws));
        return Some(Tunnel { name: name.to_owned(), autoconnect, kind, remote, route, retry, tpm: Tpm::default() });
    }
    let (remote, way) = remote(config_dir, &mut root.section("remote"));
    let route = route(&mut root.section("route"), &ROUTE);
    let advertise = advertise(root);
    let tun = tun(name, route.allow_ipv4, advertise.as_ref(), &mut root.section("tun"));
    let identity = identity(name, config_dir, &mut root.section("identity"));
    let retry = retry(&mut root.section("retry"));
    let dns = dns(&route, root);
    let enrol = enrol(config_dir, &way, &identity, root);
    let tpm = tpm(config_dir, root);
    let kind = Kind::Enf(Box::new(Enf { tun, dns, identity, enrol, advertise }));
    Some(Tunnel { name: name.to_owned(), autoconnect, kind, remote, route, retry, tpm })
}

fn known_kind(text: &str) -> Result<Kinds, Complaint> {
    KINDS.iter().find(|(word, _)| *word == text).map(|(_, kind)| *kind).ok_or_else(|| {
        let text = format!("{} is not a kind of tunnel that this version has", values::quoted(text));
        Complaint::new(&text).help(&format!("the kinds are: {}", KINDS.map(|(word, _)| word).join(", ")))
    })
}

fn tun(name: &str, allow_ipv4: bool, advertise: Option<&Advertise>, section: &mut Section<'_>) -> Tun {
    let dev = match section.take("dev") {
        Some(item) => item.parse(values::interface),
        None => {
            let dev = values::interface(name);
            if let Err(complaint) = &dev {
                let text = format!("is missing, and the tunnel's name cannot stand in for it: {}", complaint.text);
                section.missing(Severity::Error, "dev", Complaint::new(&text).help("write dev = \"enf0\" below [tun]"));
            }
            dev.ok()
        }
    };
    let ipv4_address = section.take("ipv4_address").and_then(|item| {
        if !allow_ipv4 {
            item.error(
                Complaint::new("is given, and IPv4 is not allowed").help("write allow_ipv4 = true below [route]"),
            );
        }
        item.parse(values::ipv4_network)
    });
    let set_address = section.take("set_address").map_or(advertise.is_none(), |item| {
        let set = item.boolean().unwrap_or(true);
        if set && advertise.is_some() {
            let text = "is true, and [advertise] gives the address to the host behind: two hosts cannot have it";
            item.error(Complaint::new(text).help("leave it out, or write false"));
        }
        set
    });
    Tun { dev: dev.unwrap_or_default(), mtu: section.mtu(), set_address, ipv4_address }
}

/// And the way of those who name none.
fn remote(config_dir: &Path, section: &mut Section<'_>) -> (Remote, Way) {
    let default_port = section.take("port").and_then(|item| item.port()).unwrap_or(443);
    let way = section.take("proxy").and_then(|item| way(&item, proxy::proxy)).unwrap_or_default();
    let listed = section.require("hosts", "write hosts = [\"router.example.net\"] below [remote]");
    let hosts = listed.map(|item| hosts(&item, default_port, &way)).unwrap_or_default();
    let name = match section.take("name") {
        Some(item) => item.parse(values::certificate_name),
        None => {
            let text = "is missing: any certificate under the CA file is taken for the router's";
            let complaint = Complaint::new(text).help("write the name or address in the router's certificate");
            section.missing(Severity::Warning, "name", complaint);
            None
        }
    };
    let ca_cert_file = section.place_or("ca_cert_file", config_dir, "enf.cacert.pem", Held::Certificates);
    let mut duration = |key, default, judge: &dyn Fn(&str) -> Result<Duration, Complaint>| {
        section.take(key).and_then(|item| item.duration(judge)).unwrap_or(Duration::from_secs(default))
    };
    let heartbeat_period = duration("heartbeat_period", 300, &values::zero_or_duration_from(SHORTEST_PERIOD));
    let heartbeat_timeout = duration("heartbeat_timeout", 10, &values::duration_from(SHORTEST));
    let connect_timeout = duration("connect_timeout", 15, &values::duration_from(SHORTEST));
    let congestion_control = section.parse("congestion_control", values::congestion_control);
    let words = [("auto", Wire::Auto), ("v1", Wire::V1)];
    let wire = section.parse("wire", values::word(&words)).unwrap_or_default();
    let remote = Remote {
        hosts,
        ca_cert_file: Some(ca_cert_file),
        name,
        heartbeat_period,
        heartbeat_timeout,
        connect_timeout,
        congestion_control,
        wire,
    };
    (remote, way)
}

/// What `proxy` says. Nothing of it is shown when it is wrong.
pub(super) fn way(item: &Item<'_>, proxy: impl FnOnce(&str) -> Result<Option<Proxy>, Complaint>) -> Option<Way> {
    Some(match item.parse_secret(proxy)? {
        Some(proxy) => {
            if proxy.login.is_some() {
                item.is_secret();
            }
            Way::Proxy(proxy)
        }
        None => Way::Direct,
    })
}

fn hosts(listed: &Item<'_>, default_port: u16, default_way: &Way) -> Vec<Host> {
    let Some(items) = listed.list() else { return Vec::new() };
    if items.is_empty() {
        listed.error(Complaint::new("is empty; a tunnel needs a far end").help("write [\"router.example.net\"]"));
    }
    let mut hosts = Vec::new();
    let mut seen = HashSet::new();
    for item in items {
        let host = if item.is_table() {
            in_a_table(&item, default_port, default_way)
        } else {
            item.parse(values::endpoint).map(|endpoint| host(endpoint, default_port, default_way.clone()))
        };
        let Some(host) = host else { continue };
        if seen.insert(Host { host: host.host.to_lowercase(), ..host.clone() }) {
            hosts.push(host);
        } else {
            item.warning(Complaint::new("is given twice"));
        }
    }
    hosts
}

fn host(endpoint: Endpoint, default_port: u16, way: Way) -> Host {
    match endpoint {
        Endpoint::Tcp(host, port) => Host { host, port: port.unwrap_or(default_port), way },
        Endpoint::Vsock { cid, port } => Host { host: String::new(), port: 0, way: Way::Vsock { cid, port } },
    }
}

/// A far end in a table of its own; none when anything in it is wrong.
fn in_a_table(item: &Item<'_>, default_port: u16, default_way: &Way) -> Option<Host> {
    let mut table = item.clone().section();
    let endpoint = table.require("host", "write { host = \"router.example.net\" }");
    let port = table.take("port").map(|item| (item.port(), item));
    let proxy = table.take("proxy").map(|item| (way(&item, proxy::proxy), item));
    let endpoint = endpoint?.parse(values::endpoint)?;
    if let (Some((_, item)), Endpoint::Tcp(_, Some(_)) | Endpoint::Vsock { .. }) = (&port, &endpoint) {
        item.error(Complaint::new("is given, and host has one too").help("leave one of them out"));
    }
    if let (Some((Some(Way::Proxy(_)), item)), Endpoint::Vsock { .. }) = (&proxy, &endpoint) {
        item.error(Complaint::new("is given for vsock, and no proxy leads there").help("leave it out"));
    }
    let port = port.map_or(Some(default_port), |(port, _)| port)?;
    let way = proxy.map_or(Some(default_way.clone()), |(way, _)| way)?;
    Some(host(endpoint, port, way))
}

/// What `[route]` says by itself, which depends on the kind.
pub(super) struct Usual {
    pub(super) fwmark: u32,
    pub(super) table: u32,
    /// It carries packets: all of IPv6, unless it is said which; IPv4 has to be allowed. What carries none holds back what it
    /// is told to.
    pub(super) carries: bool,
}

const ROUTE: Usual = Usual { fwmark: 363, table: 2097, carries: true };

fn route(section: &mut Section<'_>, usual: &Usual) -> Route {
    // A value that is wrong is reported once; what depends on it is not reported too.
    let mut may_ipv4 = || section.take("allow_ipv4").is_some_and(|item| item.boolean().unwrap_or(true));
    let allow_ipv4 = !usual.carries || may_ipv4();
    let prefixes = match section.take("prefixes") {
        Some(item) => prefixes(&item, allow_ipv4, !usual.carries),
        None if usual.carries => values::defaults(allow_ipv4),
        None => Vec::new(),
    };
    let mask_item = section.take("fwmark_mask");
    let fwmark_mask = mask_item.as_ref().map_or(Some(u32::MAX), |item| item.integer(1..=u32::MAX));
    let mark_item = section.take("fwmark");
    let fwmark = mark_item.as_ref().map_or(Some(usual.fwmark), |item| item.integer(1..=u32::MAX));
    if let (Some(mark), Some(mask)) = (fwmark, fwmark_mask)
        && mark & !mask != 0
        && let Some(item) = mark_item.as_ref().or(mask_item.as_ref())
    {
        let text = format!("the mark {mark:#x} has bits outside the mask {mask:#x}, and so would never match");
        item.error(Complaint::new(&text));
    }
    let table = section.take("table").and_then(|item| {
        let number = item.integer(1..=u32::MAX)?;
        if matches!(number, 253..=255) {
            let text = format!("{number} is one of the kernel's own tables (default, main, local)");
            item.error(Complaint::new(&text).help("any other number will do, such as 2097"));
        }
        Some(number)
    });
    let trusted = section.take("trusted_interfaces");
    let trusted_interfaces = trusted.map(|item| item.distinct(values::trusted_interface)).unwrap_or_default();
    if let (Some(mark), false) = (fwmark, trusted_interfaces.is_empty())
        && mark > LARGEST_GROUP
        && let Some(item) = &mark_item
    {
        let text = format!("the mark is the number of the group of route.trusted_interfaces, and {mark} is too large");
        item.error(Complaint::new(&text).help(&format!("a group has a number up to {LARGEST_GROUP}")));
    }
    let trusted_groups = section.take("trusted_groups").map(|item| item.distinct(values::name)).unwrap_or_default();
    let words = [Lockdown::Boot, Lockdown::Session, Lockdown::Off].map(|lockdown| (lockdown.as_str(), lockdown));
    let lockdown = section.take("lockdown").map(|item| (item.parse(values::word(&words)), item));
    if prefixes.is_empty()
        && let Some((Some(Lockdown::Boot | Lockdown::Session), item)) = &lockdown
    {
        item.warning(
            Complaint::new(
                "holds nothing back, for this kind of tunnel carries no packets and route.prefixes is empty",
            )
            .help("write prefixes = [\"default\"] below [route], and this host reaches nothing else"),
        );
    }
    let unless_said = if prefixes.is_empty() { Lockdown::Off } else { Lockdown::default() };
    Route {
        prefixes,
        fwmark: fwmark.unwrap_or(usual.fwmark),
        fwmark_mask: fwmark_mask.unwrap_or(u32::MAX),
        table: table.unwrap_or(usual.table),
        trusted_interfaces,
        trusted_groups,
        allow_ipv4,
        lockdown: lockdown.and_then(|(word, _)| word).unwrap_or(unless_said),
    }
}

fn prefixes(listed: &Item<'_>, allow_ipv4: bool, may_be_none: bool) -> Vec<IpNet> {
    let Some(items) = listed.list() else { return Vec::new() };
    if items.is_empty() && !may_be_none {
        let complaint = Complaint::new("is empty: nothing would belong in the tunnel");
        listed.error(complaint.help("write [\"default\"] for everything"));
    }
    let mut prefixes = Vec::new();
    let mut seen = HashSet::new();
    for item in items {
        for prefix in item.parse(|text| prefix(text, allow_ipv4)).unwrap_or_default() {
            let masked = prefix.trunc();
            if masked != prefix {
                let text = format!("has bits set beyond its length; {masked} is used");
                item.warning(Complaint::new(&text).help(&format!("write \"{masked}\"")));
            }
            if seen.insert(masked) {
                item.remember(prefix_place(&masked));
                prefixes.push(masked);
            } else {
                item.warning(Complaint::new("is given twice"));
            }
        }
    }
    prefixes
}

fn prefix(text: &str, allow_ipv4: bool) -> Result<Vec<IpNet>, Complaint> {
    if text == "default" {
        return Ok(values::defaults(allow_ipv4));
    }
    let prefix = values::network(text).map_err(|complaint| Complaint {
        help: complaint.help.or_else(|| super::reader::did_you_mean(text, &["default"])),
        ..complaint
    })?;
    if matches!(prefix.addr(), IpAddr::V4(_)) && !allow_ipv4 {
        let complaint = Complaint::new("is an IPv4 prefix, and IPv4 is not allowed");
        return Err(complaint.help("write allow_ipv4 = true below [route]"));
    }
    Ok(vec![prefix])
}

fn identity(name: &str, config_dir: &Path, section: &mut Section<'_>) -> Identity {
    let source = section.take("source").map(|item| {
        let words = [("credentials", Source::Credentials), ("files", Source::Files), ("tpm", Source::Tpm)];
        let sources = item.distinct(values::word(&words));
        if sources.contains(&Source::Tpm) {
            item.asks_for("tpm");
        } else if item.list().is_some_and(|items| items.is_empty()) {
            item.error(
                Complaint::new("is empty; a tunnel needs a certificate").help("write [\"credentials\", \"files\"]"),
            );
        }
        sources
    });
    Identity {
        cert_file: section.path_or("cert_file", config_dir, &format!("{name}/{name}.crt.pem")),
        key_file: section.place_or("key_file", config_dir, &format!("{name}/{name}.key.pem"), Held::Key),
        ip_file: section.parse("ip_file", values::path(config_dir)),
        source: source.unwrap_or_else(|| vec![Source::Credentials, Source::Files]),
    }
}

fn retry(section: &mut Section<'_>) -> Retry {
    let defaults = Retry::default();
    let first_item = section.take("first");
    let max_item = section.take("max");
    let first = first_item.as_ref().map_or(Some(defaults.first), |item| item.duration(values::duration_from(SHORTEST)));
    let max = max_item.as_ref().map_or(Some(defaults.max), |item| item.duration(values::duration_from(SHORTEST)));
    if let (Some(first), Some(max)) = (first, max)
        && first > max
        && let Some(item) = max_item.or(first_item)
    {
        let text = format!("the first delay, {first:?}, is longer than the longest, {max:?}");
        item.error(Complaint::new(&text).help("retry.first must not be above retry.max"));
    }
    Retry {
        first: first.unwrap_or(defaults.first),
        max: max.unwrap_or(defaults.max),
        jitter: section.take("jitter").and_then(|item| item.fraction()).unwrap_or(defaults.jitter),
        stable_after: section
            .take("stable_after")
            .and_then(|item| item.duration(values::duration))
            .unwrap_or(defaults.stable_after),
    }
}

fn dns(route: &Route, root: &mut Section<'_>) -> Option<Dns> {
    let mut section = root.take("dns")?.section();
    let servers = section.require("servers", "write servers = [\"fd00:8f80::53\"] below [dns]");
    let servers = servers.map(|item| {
        let empty = Complaint::new("is empty; names need a server").help("write [\"fd00:8f80::53\"]");
        some_of(&item, empty, |text| name_server(text, route))
    });
    let domains = match section.take("domains") {
        Some(item) => {
            let empty = Complaint::new("is empty: no name would be asked of the servers");
            let help = "leave it out for all names, or write [\"~example.net\"]";
            some_of(&item, empty.help(help), values::domain)
        }
        None => vec![Domain { name: ".".to_owned(), route_only: true }],
    };
    Some(Dns { servers: servers.unwrap_or_default(), domains })
}

/// As [`Item::distinct`]; that there are none is an error.
fn some_of<T: Clone + Eq + Hash>(
    listed: &Item<'_>,
    empty: Complaint,
    judge: impl Fn(&str) -> Result<T, Complaint>,
) -> Vec<T> {
    match listed.list() {
        None => Vec::new(),
        Some(items) if items.is_empty() => {
            listed.error(empty);
            Vec::new()
        }
        Some(_) => listed.distinct(judge),
    }
}

/// A name server that can be asked through this tunnel.
fn name_server(text: &str, route: &Route) -> Result<IpAddr, Complaint> {
    let server = values::name_server(text)?;
    if server.is_ipv4() && !route.allow_ipv4 {
        let complaint = Complaint::new("is an IPv4 address, and IPv4 is not allowed");
        return Err(complaint.help("write allow_ipv4 = true below [route]"));
    }
    // Without any prefix, that is the mistake.
    if route.prefixes.is_empty() || route.prefixes.iter().any(|prefix| prefix.contains(&server)) {
        return Ok(server);
    }
    let text = format!("{server} does not belong in the tunnel, so no question would find its way there");
    Err(Complaint::new(&text).help(&format!("add \"{}\" to route.prefixes", IpNet::from(server))))
}

fn advertise(root: &mut Section<'_>) -> Option<Advertise> {
    let mut section = root.take("advertise")?.section();
    let dev = section.require("dev", "write dev = \"usb0\" below [advertise]: the interface that the host is on");
    let lladdr = section.parse("lladdr", values::hardware_address);
    let router = section.boolean("router", true);
    let dhcp6 = section.boolean("dhcp6", true);
    let period = section.take("ra_period").and_then(|item| item.duration(values::duration_between(RA_PERIODS)));
    let ra_period = period.unwrap_or(RA_PERIOD);
    Some(Advertise { dev: dev?.parse(values::interface)?, lladdr, router, dhcp6, ra_period })
}

fn enrol(config_dir: &Path, way: &Way, identity: &Identity, root: &mut Section<'_>) -> Option<Enrol> {
    let item = root.take("enrol")?;
    item.asks_for("enrol");
    let mut section = item.section();
    let url = section.require("url", "write url = \"https://router.example.net:8443\" below [enrol]");
    let ca_cert_file = section.place_or("ca_cert_file", config_dir, "enf.cacert.pem", Held::Certificates);
    let user_item = section.take("user");
    let user = user_item.and_then(|item| item.parse(values::user));
    let password_file = section.parse("password_file", values::path(config_dir));
    let address = section.parse("address", values::wanted).unwrap_or_default();
    let words = [("password", Provisioner::Password)];
    let provisioner = section.take("provisioner").and_then(|item| {
        let provisioner = item.parse(values::word(&words))?;
        if user.is_none() {
            item.error(Complaint::new("needs somebody to enrol as").help("write user = \"…\" below [enrol]"));
        }
        if !identity.source.iter().any(|source| matches!(source, Source::Files | Source::Tpm)) {
            let complaint =
                Complaint::new("gets a certificate and a key as files, and neither \"files\" nor \"tpm\" is a source");
            item.error(complaint.help("add \"files\" to identity.source"));
        }
        if identity.key_file.file().is_none() {
            item.error(
                Complaint::new("puts a new key in a file, and identity.key_file is in the TPM")
                    .help("name a file there"),
            );
        }
        Some(provisioner)
    });
    let mut url = url?.parse(values::enrol_url)?;
    url.host.way = way.clone();
    Some(Enrol { url, ca_cert_file, user, password_file, address, provisioner })
}
