//! Reads `router.toml`, the file of `enftun-router`.

use std::collections::HashSet;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use super::reader::{Item, Reading, Section, read};
use super::values::{self, Complaint, quoted};
use super::{Router, RouterEnrol, RouterTun};

/// Longest path that a UNIX socket takes (`sun_path` less its end).
const LONGEST_SOCKET: usize = 107;
/// How long a login is good, and what is the least that makes sense.
const TOKEN_LIFETIME: Duration = Duration::from_mins(10);
const SHORTEST: Duration = Duration::from_secs(1);

/// Reads the router's file; relative paths start at the file's directory.
pub(super) fn parse(file: &Path, text: &str) -> Reading<Router> {
    let base = file.parent().unwrap_or(Path::new(""));
    read(file, text, |root| router(base, root))
}

fn router(base: &Path, root: &mut Section<'_>) -> Router {
    let listen = match root.take("listen") {
        Some(item) => item.distinct(values::socket_address),
        None => vec![SocketAddr::from((Ipv6Addr::UNSPECIFIED, 443))],
    };
    let allow_ipv4 = root.take("allow_ipv4").is_some_and(|item| item.boolean().unwrap_or(true));
    let max_sessions = root.integer("max_sessions", 1..=1 << 20, 65536);
    let tun = root.take("tun").map(|item| tun(allow_ipv4, &mut item.section()));
    let mut forward = root.section("forward");
    let enrol = root.take("enrol").and_then(|item| enrol(base, &item));
    Router {
        listen,
        cert_file: root.path_or("cert_file", base, "router.crt.pem"),
        key_file: root.path_or("key_file", base, "router.key.pem"),
        client_ca_file: root.parse("client_ca_file", values::path(base)),
        endpoints_dir: root.path_or("endpoints_dir", base, "/var/lib/enftun-router/endpoints"),
        max_sessions: usize::try_from(max_sessions).unwrap_or(usize::MAX),
        allow_ipv4,
        control_socket: control_socket(base, root),
        tun,
        between_clients: forward.boolean("between_clients", true),
        multicast: forward.boolean("multicast", false),
        enrol,
    }
}

fn control_socket(base: &Path, root: &mut Section<'_>) -> PathBuf {
    let given = root.take("control_socket").and_then(|item| {
        let path = item.parse(values::path(base))?;
        let length = path.as_os_str().len();
        if length > LONGEST_SOCKET {
            let text = format!("is {length} bytes long in full; a socket's path can have {LONGEST_SOCKET}");
            item.error(Complaint::new(&text));
        }
        Some(path)
    });
    given.unwrap_or_else(|| PathBuf::from("/run/enftun-router/control.sock"))
}

fn tun(allow_ipv4: bool, section: &mut Section<'_>) -> RouterTun {
    let dev = section.parse("dev", values::interface).unwrap_or_else(|| "enfr0".to_owned());
    let mut addresses = Vec::new();
    let mut seen = HashSet::new();
    for item in section.take("addresses").and_then(|item| item.list()).unwrap_or_default() {
        let Some(address) = item.parse(values::network) else { continue };
        if matches!(address, IpNet::V4(_)) && !allow_ipv4 {
            let complaint = Complaint::new("is an IPv4 address, and IPv4 is not allowed");
            item.error(complaint.help("write allow_ipv4 = true above the first section"));
        } else if seen.insert(address.addr()) {
            addresses.push(address);
        } else {
            item.error(Complaint::new(&format!("{} is given twice", quoted(&address.addr().to_string()))));
        }
    }
    RouterTun { dev, mtu: section.mtu(), addresses }
}

fn enrol(base: &Path, item: &Item<'_>) -> Option<RouterEnrol> {
    item.asks_for("enrol");
    let mut section = item.clone().section();
    let listen = section.require("listen", "write listen = \"127.0.0.1:8443\" below [enrol]");
    let network = section.require("network", "write network = \"fd00:8f80:1::/64\" below [enrol]");
    let listen = listen.and_then(|item| item.parse(values::socket_address));
    let network = network.and_then(|item| item.parse(values::subnet));
    let users_file = section.path_or("users_file", base, "users");
    let token_lifetime = section.take("token_lifetime").and_then(|item| item.duration(values::duration_from(SHORTEST)));
    Some(RouterEnrol {
        listen: listen?,
        network: network?,
        users_file,
        token_lifetime: token_lifetime.unwrap_or(TOKEN_LIFETIME),
    })
}
