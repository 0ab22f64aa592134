//! The small languages inside strings: durations, far ends, prefixes, names. Each judge takes what stands between the quotes
//! and gives the value, or a [`Complaint`] that says what is wrong and, where it can guess, what to write instead.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::reader::did_you_mean;
use super::{Domain, EnrolUrl, Host, Wanted};
use crate::identity::unusable;

/// What a judge has against a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Complaint {
    pub(super) text: String,
    pub(super) help: Option<String>,
}

impl Complaint {
    pub(super) fn new(text: &str) -> Self {
        Self { text: text.to_owned(), help: None }
    }

    pub(super) fn help(self, help: &str) -> Self {
        Self { help: Some(help.to_owned()), ..self }
    }
}

/// `text` in quotes, on one line, and not longer than a line.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(80) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}…", text.get(..end).unwrap_or_default()),
    }
}

/// `text` as it is, and not longer than a line.
pub(super) fn clipped(text: &str) -> String {
    match text.char_indices().nth(80) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
    }
}

/// Longest duration that is taken: deadlines are sums with the clock, and must not overflow.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// `"300s"`, `"5m"`, `"1h30m"`, `"250ms"`: whole numbers with units, each unit once, the largest first.
pub(super) fn duration(text: &str) -> Result<Duration, Complaint> {
    let wrong = || {
        let complaint = Complaint::new(&format!(
            "{} is not a duration such as \"300s\", \"5m\", \"1h30m\" or \"250ms\"",
            quoted(text)
        ));
        match text.parse::<u64>() {
            Ok(number) => complaint.help(&format!("write \"{number}s\"")),
            Err(_) => complaint,
        }
    };
    let mut units = UNITS.iter();
    let mut total: u64 = 0;
    let mut rest = text;
    loop {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len()));
        let (unit, after) = after.split_at(after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len()));
        // Taking from one iterator is what holds the units in order.
        let (_, factor) = units.find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        let part = number.parse::<u64>().map_err(|_| wrong())?.checked_mul(*factor);
        total = part.and_then(|part| total.checked_add(part)).unwrap_or(u64::MAX);
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    let value = Duration::from_millis(total);
    if value > LONGEST {
        return Err(Complaint::new(&format!(
            "{} is longer than a year (\"8760h\"), the longest that is taken",
            quoted(text)
        )));
    }
    Ok(value)
}

/// A duration of at least `least`, for what would spin or never succeed below it.
pub(super) fn duration_from(least: Duration) -> impl Fn(&str) -> Result<Duration, Complaint> {
    move |text| match duration(text)? {
        value if value < least => Err(Complaint::new(&format!(
            "{} is too short; it must be at least \"{}ms\"",
            quoted(text),
            least.as_millis()
        ))),
        value => Ok(value),
    }
}

/// A duration in a range, both ends included.
pub(super) fn duration_between((least, most): (Duration, Duration)) -> impl Fn(&str) -> Result<Duration, Complaint> {
    move |text| match duration_from(least)(text)? {
        value if value > most => {
            Err(Complaint::new(&format!("{} is too long; it must be at most \"{}s\"", quoted(text), most.as_secs())))
        }
        value => Ok(value),
    }
}

/// As [`duration_from`], and zero has a meaning of its own.
pub(super) fn zero_or_duration_from(least: Duration) -> impl Fn(&str) -> Result<Duration, Complaint> {
    move |text| match duration(text)? {
        Duration::ZERO => Ok(Duration::ZERO),
        _ => duration_from(least)(text)
            .map_err(|complaint| Complaint { text: format!("{}, or \"0s\"", complaint.text), help: complaint.help }),
    }
}

/// What a host string can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// A name or an address, and the port if one was given.
    Tcp(String, Option<u16>),
    /// `vsock:CID:PORT`.
    Vsock { cid: u32, port: u32 },
}

/// `"name"`, `"name:444"`, `"198.51.100.7:444"`, `"2001:db8::1"`, `"[2001:db8::1]:444"`, `"vsock:2:443"`.
pub(super) fn endpoint(text: &str) -> Result<Endpoint, Complaint> {
    if text.is_empty() {
        return Err(Complaint::new("is empty; write a name or an address"));
    }
    if text.contains('@') {
        // What stands before it may be a password, and is not repeated.
        let complaint = Complaint::new("has a user's name in it, and only a host and a port belong here");
        return Err(complaint.help("a proxy is written { host = \"router.example.net\", proxy = \"http://…\" }"));
    }
    if let Some((_, rest)) = text.split_once("://") {
        let rest = rest.split('/').next().unwrap_or_default();
        let complaint = Complaint::new(&format!("{} is a URL, and only a host and a port belong here", quoted(text)));
        return Err(if rest.is_empty() { complaint } else { complaint.help(&format!("write {}", quoted(rest))) });
    }
    if let Some(rest) = text.strip_prefix("vsock:") {
        // The largest of both numbers means "any" (vsock(7)).
        let number = |text: &str| text.parse::<u32>().ok().filter(|number| *number != u32::MAX);
        let numbers = rest.split_once(':').and_then(|(cid, port)| Some((number(cid)?, number(port)?)));
        return match numbers {
            Some((cid, port)) => Ok(Endpoint::Vsock { cid, port }),
            None => Err(Complaint::new(&format!("{} is not vsock:CID:PORT", quoted(text)))),
        };
    }
    if let Some(rest) = text.strip_prefix('[') {
        let Some((address, after)) = rest.split_once(']') else {
            return Err(Complaint::new(&format!("{} has no closing bracket", quoted(text))));
        };
        let port = match after.strip_prefix(':') {
            Some(digits) => Some(port(digits)?),
            None if after.is_empty() => None,
            None => {
                return Err(Complaint::new(&format!(
                    "{} has something other than \":PORT\" after the bracket",
                    quoted(text)
                )));
            }
        };
        return Ok(Endpoint::Tcp(reachable(ipv6(address)?.into())?.to_string(), port));
    }
    match text.split_once(':') {
        Some((_, rest)) if rest.contains(':') => Ok(Endpoint::Tcp(reachable(ipv6(text)?.into())?.to_string(), None)),
        Some((host, digits)) => Ok(Endpoint::Tcp(name_or_ipv4(host)?, Some(port(digits)?))),
        None => Ok(Endpoint::Tcp(name_or_ipv4(text)?, None)),
    }
}

fn port(digits: &str) -> Result<u16, Complaint> {
    let value = digits.parse::<u16>().ok().filter(|port| *port != 0);
    value.ok_or_else(|| Complaint::new(&format!("{} is not a port; it must be 1 to 65535", quoted(digits))))
}

fn ipv6(text: &str) -> Result<Ipv6Addr, Complaint> {
    text.parse().map_err(|_| {
        let complaint = Complaint::new(&format!("{} is not an IPv6 address", quoted(text)));
        if text.contains('%') { complaint.help("an address with a zone (%) cannot be used here") } else { complaint }
    })
}

fn reachable(address: IpAddr) -> Result<IpAddr, Complaint> {
    if address.is_unspecified() || address.is_multicast() {
        return Err(Complaint::new(&format!("{address} is no address of a single host")));
    }
    Ok(address)
}

fn name_or_ipv4(text: &str) -> Result<String, Complaint> {
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Ok(reachable(address.into())?.to_string());
    }
    host_name(text)
}

/// A DNS name as it goes on the wire (RFC 1035 section 2.3.4), with the underscores that people use.
fn host_name(text: &str) -> Result<String, Complaint> {
    let wrong = |why: &str| Err(Complaint::new(&format!("{} is not a host name: {why}", quoted(text))));
    if !text.is_ascii() {
        return wrong("it has letters beyond ASCII; write its xn-- form");
    }
    let labels = || text.strip_suffix('.').unwrap_or(text).split('.');
    if let Some(bad) = text.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))) {
        return wrong(&format!("{bad:?} cannot stand in one"));
    }
    if text.len() > 253 || labels().any(|label| label.is_empty() || label.len() > 63) {
        return wrong("it needs parts of 1 to 63 characters between its dots, 253 in all");
    }
    if labels().any(|label| label.starts_with('-') || label.ends_with('-')) {
        return wrong("no part may start or end with a dash");
    }
    if labels().next_back().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) {
        return wrong("it looks like an IPv4 address, and is none");
    }
    Ok(text.to_owned())
}

/// `remote.name`: a host name, or an IP address without brackets.
pub(super) fn certificate_name(text: &str) -> Result<String, Complaint> {
    if text.is_empty() {
        return Err(Complaint::new("is empty; write the name or address in the router's certificate"));
    }
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(address.to_string()),
        Err(_) => host_name(text),
    }
}

/// The address of a name server: of one host, and not of this one.
pub(super) fn name_server(text: &str) -> Result<IpAddr, Complaint> {
    let complaint = || Complaint::new(&format!("{} is not an IP address such as \"fd00:8f80::53\"", quoted(text)));
    let address = text.parse::<IpAddr>().map_err(|_| {
        let meant = text.parse::<SocketAddr>().map(|socket| socket.ip());
        match meant.or_else(|_| text.trim_matches(['[', ']']).parse::<IpAddr>()) {
            Ok(address) => complaint().help(&format!("write \"{address}\"; servers are asked at port 53")),
            Err(_) => complaint(),
        }
    })?;
    if address.is_loopback() {
        return Err(Complaint::new(&format!("{address} is this host itself, and a server in the tunnel belongs here")));
    }
    reachable(address)
}

/// `"~."`, `"~example.net"`, `"example.net"`: a domain for systemd-resolved, as `resolvectl domain` takes it.
pub(super) fn domain(text: &str) -> Result<Domain, Complaint> {
    let (name, route_only) = text.strip_prefix('~').map_or((text, false), |name| (name, true));
    if name == "." && route_only {
        return Ok(Domain { name: name.to_owned(), route_only });
    }
    if matches!(name, "" | "." | "*") {
        return Err(Complaint::new(&format!("{} is not a domain", quoted(text))).help("write \"~.\" for all names"));
    }
    let host = host_name(name).map_err(|complaint| match name.strip_prefix("*.") {
        Some(rest) => {
            complaint.help(&format!("a domain stands for all names below it: write {}", quoted(&format!("~{rest}"))))
        }
        None => complaint,
    })?;
    Ok(Domain { name: host.trim_end_matches('.').to_lowercase(), route_only })
}

/// `host:port` of a router's own socket.
pub(super) fn socket_address(text: &str) -> Result<SocketAddr, Complaint> {
    let complaint = || Complaint::new(&format!("{} is not an address with a port such as \"[::]:443\"", quoted(text)));
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => {
            Err(Complaint::new(&format!("{} has port 0; it must be 1 to 65535", quoted(text))))
        }
        Ok(address) => Ok(address),
        Err(_) => Err(match bracketed(text) {
            Some(address) => complaint().help(&format!("write \"{address}\"")),
            None => complaint(),
        }),
    }
}

/// What was likely meant by an address without a port, or without brackets before its port.
fn bracketed(text: &str) -> Option<SocketAddr> {
    if let Some((address, digits)) = text.rsplit_once(':')
        && let (Ok(address), Ok(port)) = (address.parse::<Ipv6Addr>(), digits.parse())
    {
        return Some(SocketAddr::new(address.into(), port));
    }
    let address = text.trim_matches(['[', ']']).parse::<IpAddr>().ok()?;
    Some(SocketAddr::new(address, 443))
}

/// An address and a prefix length, as it is written. A bare address gets a suggestion.
pub(super) fn network(text: &str) -> Result<IpNet, Complaint> {
    text.parse::<IpNet>().map_err(|_| {
        let complaint = Complaint::new(&format!(
            "{} is not an address with a prefix length such as \"fd00:8f80::/64\"",
            quoted(text)
        ));
        match text.parse::<IpAddr>() {
            Ok(address) => complaint.help(&format!("write \"{}\"", IpNet::from(address))),
            Err(_) => complaint,
        }
    })
}

/// `"10.64.0.7/32"`.
pub(super) fn ipv4_network(text: &str) -> Result<Ipv4Net, Complaint> {
    match network(text)? {
        IpNet::V4(net) => Ok(net),
        IpNet::V6(_) => {
            Err(Complaint::new(&format!("{} is an IPv6 prefix, and an IPv4 address belongs here", quoted(text))))
        }
    }
}

/// What `"default"` means, IPv6 first.
pub(super) fn defaults(allow_ipv4: bool) -> Vec<IpNet> {
    let v4 = allow_ipv4.then(|| Ipv4Net::default().into());
    std::iter::once(Ipv6Net::default().into()).chain(v4).collect()
}

/// A name that the kernel takes for an interface (`dev_valid_name`), and that neither iproute2, nft nor the directories under
/// `/proc/sys/net` take for something else.
pub(super) fn interface(text: &str) -> Result<String, Complaint> {
    let wrong = |why: &str| Err(Complaint::new(&format!("{} is not an interface name: {why}", quoted(text))));
    if text.is_empty() || text.len() > 15 {
        return wrong(&format!("it must have 1 to 15 bytes, and has {}", text.len()));
    }
    if let Some(bad) = text.chars().find(|c| !c.is_ascii_graphic() || r#"/:%*"'\"#.contains(*c)) {
        return wrong(&format!("{bad:?} cannot stand in one"));
    }
    if matches!(text, "." | ".." | "all" | "default") || text.bytes().all(|byte| byte.is_ascii_digit()) {
        return wrong("the name has another meaning");
    }
    Ok(text.to_owned())
}

/// As [`interface`]; the loopback is this host itself.
pub(super) fn trusted_interface(text: &str) -> Result<String, Complaint> {
    if text == "lo" {
        let complaint = Complaint::new("\"lo\" is this host itself, and needs no trust");
        return Err(complaint.help("leave it out; what is meant is the interface of a network"));
    }
    interface(text)
}

/// A tunnel's or a group's name: 1 to 64 of `A-Za-z0-9_.-`, the first of them no dot and no dash.
pub(super) fn name(text: &str) -> Result<String, Complaint> {
    let fits = (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
        && !text.starts_with(['.', '-']);
    if !fits {
        let rule = "it must be 1 to 64 letters, digits, \"_\", \".\" and \"-\", and not start with a dot or a dash";
        return Err(Complaint::new(&format!("{} is not a name: {rule}", quoted(text))));
    }
    Ok(text.to_owned())
}

/// A path, absolute or from `base`.
pub(super) fn path(base: &Path) -> impl Fn(&str) -> Result<PathBuf, Complaint> {
    move |text| {
        if text.is_empty() {
            return Err(Complaint::new("is empty; write a path"));
        }
        if text.contains('\0') {
            return Err(Complaint::new("has a zero byte in it, and no path can"));
        }
        Ok(absolute(&base.join(text)))
    }
}

/// `path` from the root; it need not exist.
pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// One of a few words.
pub(super) fn word<T: Copy>(choices: &[(&'static str, T)]) -> impl Fn(&str) -> Result<T, Complaint> {
    move |text| {
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Ok(*value);
        }
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let complaint = Complaint::new(&format!("{} is none of {}", quoted(text), words.join(", ")));
        Err(match did_you_mean(text, &words) {
            Some(meant) => complaint.help(&meant),
            None => complaint,
        })
    }
}

/// A congestion control algorithm: what fits the kernel's `TCP_CA_NAME_MAX`.
pub(super) fn congestion_control(text: &str) -> Result<String, Complaint> {
    let fits = (1..=15).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if fits {
        Ok(text.to_owned())
    } else {
        Err(Complaint::new(&format!("{} is not a name such as \"bbr\"", quoted(text))))
    }
}

/// `"02:00:00:00:00:01"`: an Ethernet address of one station.
pub(super) fn hardware_address(text: &str) -> Result<[u8; 6], Complaint> {
    let bytes: Option<Vec<u8>> =
        text.split(':').map(|pair| u8::from_str_radix(pair, 16).ok().filter(|_| pair.len() == 2)).collect();
    let address = bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok()).filter(|[first, ..]| first & 1 == 0);
    address.ok_or_else(|| {
        Complaint::new(&format!("{} is not the address of one station such as \"02:00:00:00:00:01\"", quoted(text)))
    })
}

/// `https://HOST[:PORT][/PATH]`.
pub(super) fn enrol_url(text: &str) -> Result<EnrolUrl, Complaint> {
    let help = "write \"https://router.example.net:8443\"";
    let Some(rest) = text.strip_prefix("https://") else {
        return Err(Complaint::new(&format!("{} is not a URL that starts with https://", quoted(text))).help(help));
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if !rest.chars().all(|c| c.is_ascii_graphic()) || authority.contains('@') || path.contains(['?', '#']) {
        let complaint = Complaint::new("has a login, a query, a fragment or a character that no URL has");
        return Err(complaint.help(help));
    }
    let Endpoint::Tcp(host, port) = endpoint(authority)? else {
        return Err(Complaint::new(&format!("{} is not a host that HTTP can reach", quoted(authority))).help(help));
    };
    let path = path.trim_end_matches('/').to_owned();
    Ok(EnrolUrl { host: Host::direct(host, port.unwrap_or(443)), path })
}

/// `"auto"`, an IPv6 address (with or without `/128`), or a /64.
pub(super) fn wanted(text: &str) -> Result<Wanted, Complaint> {
    let refused = |why: &str| {
        let complaint = Complaint::new(&format!("{} {why}", quoted(text)));
        Err(complaint.help("write an IPv6 address, a network such as \"fd00:8f80:1::/64\", or \"auto\""))
    };
    if text == "auto" {
        return Ok(Wanted::Auto);
    }
    let address = match (text.parse::<Ipv6Addr>(), text.parse::<Ipv6Net>()) {
        (Ok(address), _) => address,
        (_, Ok(net)) if net.prefix_len() == 128 => net.addr(),
        (_, Ok(net)) if net.prefix_len() == 64 && net.trunc() == net => return Ok(Wanted::In(net)),
        (_, Ok(net)) if net.prefix_len() == 64 => return refused("has bits set beyond its length"),
        (_, Ok(_)) => return refused("is neither a single address (/128) nor a network (/64)"),
        _ => return refused("is not an IPv6 address"),
    };
    match unusable(address) {
        Some(why) => refused(&format!("cannot be an own address: {why}")),
        None => Ok(Wanted::Exactly(address)),
    }
}

/// `"fd00:8f80:1::/64"`.
pub(super) fn subnet(text: &str) -> Result<Ipv6Net, Complaint> {
    match network(text)? {
        IpNet::V6(net) if net.prefix_len() == 64 && net.trunc() == net => Ok(net),
        _ => Err(Complaint::new(&format!("{} is not an IPv6 network of length 64", quoted(text)))
            .help("write it with nothing beyond its length, such as \"fd00:8f80:1::/64\"")),
    }
}

/// Who enrols: 1 to 128 visible characters without a colon, which ends a name in the file of users.
pub(super) fn user(text: &str) -> Result<String, Complaint> {
    let fits = (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
    if fits {
        return Ok(text.to_owned());
    }
    let rule = "it must be 1 to 128 visible ASCII characters, and no colon";
    Err(Complaint::new(&format!("{} is not a user's name: {rule}", quoted(text))))
}
