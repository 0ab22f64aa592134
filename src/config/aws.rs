//! The keys of `kind = "aws-iot"`: TCP connections through AWS IoT Secure Tunneling.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::findings::Severity;
use super::proxy::web_proxy;
use super::reader::{Item, Section};
use super::tunnel::{SHORTEST, SHORTEST_PERIOD, Usual, way};
use super::values::{self, Complaint, Endpoint, quoted};
use super::{Host, Remote, Way, Wire, authority};

/// The keys that only `kind = "aws-iot"` has. The service's host is the only one of `remote.hosts`.
#[derive(Clone, Debug, PartialEq)]
pub struct Aws {
    /// Which end of the forwarded connections this is.
    pub mode: Mode,
    /// What each service of the tunnel is here.
    pub services: Services,
    /// A source listens here, unless a service says otherwise; a destination dials from here, where that is an address. None:
    /// `localhost`, and any address.
    pub bind: Option<String>,
    /// What the destination understands. A destination finds out by itself what the source does.
    pub compat: Compat,
    /// `Sec-WebSocket-Protocol`, without its prefix.
    pub subprotocol: Subprotocol,
    /// The access token, in a file of one line; absolute.
    pub token_file: Option<PathBuf>,
    /// The client token, in a file of one line; absolute. None: one is made, and kept.
    pub client_token_file: Option<PathBuf>,
    /// `false`: the server's certificate is not looked at. Only `enftun-localproxy -k` says so.
    pub verify: bool,
    /// Bounds in time and space.
    pub limits: Limits,
}

/// `aws.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Listens for applications.
    Source,
    /// Dials applications.
    Destination,
}

impl Mode {
    /// The word in the configuration file, in the request and on the bus.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

/// What is at this end of each service: where a source listens, what a destination dials. The tunnel says which services it
/// has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Services {
    /// The one service that there is, by whatever name.
    Only(Application),
    /// Exactly these.
    Named(BTreeMap<String, Application>),
    /// Each service of the tunnel is looked up here. What is missing gets a free port on a source, and is an error on a
    /// destination.
    Among(BTreeMap<String, Application>),
}

/// Where an application is: it is dialled, or listened for, there. As text: `port`, `host:port`, or a path with a `/` in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Application {
    /// TCP. Without a host it is that of `aws.bind`. Port 0: a free one, which a source chooses.
    Tcp {
        /// A name, or an IP address in text without brackets.
        host: Option<String>,
        /// Port.
        port: u16,
    },
    /// A Unix socket; absolute.
    Unix(PathBuf),
}

impl std::fmt::Display for Application {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp { host: Some(host), port } => f.write_str(&authority(host, *port)),
            Self::Tcp { host: None, port } => write!(f, "{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// `aws.compat`: the version of the protocol that a source speaks to the destination behind the service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compat {
    /// One service without a name, one connection at a time.
    V1,
    /// Services with names, one connection at a time in each.
    V2,
    /// Many connections in each.
    #[default]
    V3,
}

impl Compat {
    /// The word in the configuration file and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "V1",
            Self::V2 => "V2",
            Self::V3 => "V3",
        }
    }
}

/// The version of the protocol that is agreed with the service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Subprotocol {
    /// `aws.iot.securetunneling-1.0`
    V1,
    /// `aws.iot.securetunneling-2.0`
    V2,
    /// `aws.iot.securetunneling-3.0`
    #[default]
    V3,
}

impl Subprotocol {
    /// As it stands in `Sec-WebSocket-Protocol`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "aws.iot.securetunneling-1.0",
            Self::V2 => "aws.iot.securetunneling-2.0",
            Self::V3 => "aws.iot.securetunneling-3.0",
        }
    }
}

/// `[aws]`: bounds in time and space of what is forwarded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Connections of one service at a time; the source refuses more.
    pub max_connections: usize,
    /// Most bytes of data in one message, up to 64512.
    pub max_payload: usize,
    /// Bytes that may wait for one application before nothing more is read from the service.
    pub queue: usize,
    /// For so long in all may one application keep the others waiting, before its connection is reset.
    pub patience: Duration,
    /// After the application's end of its data, what the other end still sends is waited for while less than this passes
    /// without any. Zero: the connection ends at once.
    pub half_close_grace: Duration,
    /// A connection to an application, and a listening socket, is tried again so often; none: for ever.
    pub retries: Option<u32>,
    /// So long after the last attempt.
    pub retry_delay: Duration,
    /// One attempt to reach an application, all its addresses.
    pub dial_timeout: Duration,
}

impl Limits {
    /// The largest payload of a message: 63 KiB.
    pub const MAX_PAYLOAD: usize = 64_512;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 128,
            max_payload: Self::MAX_PAYLOAD,
            queue: 1 << 20,
            patience: Duration::from_secs(10),
            half_close_grace: Duration::from_secs(2),
            retries: Some(5),
            retry_delay: Duration::from_millis(2500),
            dial_timeout: Duration::from_secs(10),
        }
    }
}

/// What `[route]` says by itself. The numbers are not those of kind `enf`: one tunnel of each is common.
pub(super) const ROUTE: Usual = Usual { fwmark: 366, table: 2098, carries: false };

/// `[aws]` and `[remote]`.
pub(super) fn aws(name: &str, config_dir: &Path, root: &mut Section<'_>) -> (Aws, Remote) {
    let mut section = root.section("aws");
    let words = [Mode::Source, Mode::Destination].map(|mode| (mode.as_str(), mode));
    let mode = section.require("mode", "write mode = \"source\" or mode = \"destination\" below [aws]");
    // What is wrong for both is told all the same.
    let mode = mode.and_then(|item| item.parse(values::word(&words)));
    let host = host(&mut section);
    let services = services(mode, &mut section);
    let bind = section.parse("bind", bind);
    let words = [Compat::V1, Compat::V2, Compat::V3].map(|compat| (compat.as_str(), compat));
    let compat = section.take("compat").and_then(|item| {
        let compat = item.parse(values::word(&words))?;
        if mode == Some(Mode::Destination) {
            let text = "is for a source, which cannot find out; a destination does by itself";
            item.warning(Complaint::new(text).help("leave it out"));
        }
        Some(compat)
    });
    let words = [Subprotocol::V1, Subprotocol::V2, Subprotocol::V3].map(|version| (version.as_str(), version));
    let subprotocol = section.parse("subprotocol", values::word(&words)).unwrap_or_default();
    let aws = Aws {
        mode: mode.unwrap_or(Mode::Source),
        services,
        bind,
        compat: compat.unwrap_or_default(),
        subprotocol,
        token_file: Some(section.path_or("token_file", config_dir, &format!("{name}/{name}.token"))),
        client_token_file: section.parse("client_token_file", values::path(config_dir)),
        verify: true,
        limits: limits(&mut section),
    };
    (aws, remote(host, config_dir, &mut root.section("remote")))
}

/// The host of the service in a region.
pub fn region_host(region: &str) -> String {
    let china = matches!(region, "cn-north-1" | "cn-northwest-1");
    format!("data.tunneling.iot.{region}.amazonaws.com{}", if china { ".cn" } else { "" })
}

/// A region's name as the service has them; if it is nothing that can be, why, in one line.
pub fn parse_region(text: &str) -> Result<String, String> {
    region(text).map_err(|complaint| complaint.text)
}

fn region(text: &str) -> Result<String, Complaint> {
    let can_be = (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    can_be.then(|| text.to_owned()).ok_or_else(|| {
        Complaint::new(&format!("{} is not a region such as \"eu-central-1\"", quoted(text)))
            .help("a host is written endpoint = \"…\"")
    })
}

/// Where the service is: one of two keys says it.
fn host(section: &mut Section<'_>) -> Host {
    let region = section.take("region").map(|item| (item.parse(region), item));
    let endpoint = section.take("endpoint").map(|item| (item.parse(tcp_endpoint), item));
    let (host, port) = match (region, endpoint) {
        (Some((region, _)), None) => (region.map(|region| region_host(&region)), None),
        (None, Some((endpoint, _))) => endpoint.map_or((None, None), |(host, port)| (Some(host), port)),
        (Some(_), Some((_, item))) => {
            item.key_error(Complaint::new("is given, and so is region").help("leave one of them out"));
            (None, None)
        }
        (None, None) => {
            let complaint = Complaint::new("is missing, and there is no endpoint either");
            section.missing(Severity::Error, "region", complaint.help("write region = \"eu-central-1\" below [aws]"));
            (None, None)
        }
    };
    Host::direct(host.unwrap_or_default(), port.unwrap_or(443))
}

fn tcp_endpoint(text: &str) -> Result<(String, Option<u16>), Complaint> {
    match values::endpoint(text)? {
        Endpoint::Tcp(host, port) => Ok((host, port)),
        Endpoint::Vsock { .. } => Err(Complaint::new("is not reached by vsock; write a host's name or address")),
    }
}

/// A name or an address, without a port.
fn bind(text: &str) -> Result<String, Complaint> {
    match tcp_endpoint(text) {
        Ok((host, None)) => Ok(host),
        Ok((_, Some(_))) => Err(Complaint::new(&format!("{} has a port, and each service has its own", quoted(text)))),
        // The address that means all of them is nothing to reach, and something to listen on.
        Err(_) if text.parse::<std::net::IpAddr>().is_ok() => Ok(text.to_owned()),
        Err(complaint) => Err(complaint),
    }
}

fn services(mode: Option<Mode>, section: &mut Section<'_>) -> Services {
    let Some(item) = section.take("services") else {
        if mode == Some(Mode::Destination) {
            let complaint = Complaint::new("is missing: a destination must know what to connect to");
            let help = "write services = \"localhost:22\" below [aws], or SSH = \"localhost:22\" below [aws.services]";
            section.missing(Severity::Error, "services", complaint.help(help));
        }
        return Services::Among(BTreeMap::new());
    };
    if !item.is_table() {
        return application(mode, &item).map_or_else(|| Services::Among(BTreeMap::new()), Services::Only);
    }
    let mut services = BTreeMap::new();
    for (name, item) in item.section().entries() {
        if let Err(complaint) = service_name(name) {
            item.key_error(complaint);
        }
        if let Some(application) = application(mode, &item) {
            services.insert(name.to_owned(), application);
        }
    }
    Services::Named(services)
}

/// What the service takes for the name of a service.
pub(super) fn service_name(name: &str) -> Result<(), Complaint> {
    let can_be = (1..=128).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte));
    if can_be {
        return Ok(());
    }
    let text = "is no name of a service: 1 to 128 letters, digits and . _ : -, as they were given to OpenTunnel";
    Err(Complaint::new(text))
}

fn application(mode: Option<Mode>, item: &Item<'_>) -> Option<Application> {
    if item.is_integer() {
        return Some(Application::Tcp { host: None, port: item.port()? });
    }
    item.parse(|text| match parse_application(text) {
        Ok(Application::Tcp { port: 0, .. }) if mode == Some(Mode::Destination) => {
            Err(Complaint::new("is a free port, which only a source can choose").help("name the port to connect to"))
        }
        Ok(application) => Ok(application),
        Err(text) => Err(Complaint::new(&text)),
    })
}

/// `"22"`, `"localhost:22"`, `"[::1]:22"`, `"/run/app.sock"`; for a source also `"random"` and `"localhost:random"`. If it is
/// nothing that can be, why, in one line.
pub fn parse_application(text: &str) -> Result<Application, String> {
    if text.contains('/') {
        let path = Path::new(text);
        // What sun_path holds, with its end (unix(7)).
        return match path.is_absolute() && text.len() <= 107 && !text.contains('\0') {
            true => Ok(Application::Unix(path.to_owned())),
            false => Err(format!("{} is not an absolute path of at most 107 bytes for a Unix socket", quoted(text))),
        };
    }
    let port = |text: &str| match text {
        "random" => Some(0),
        text => text.parse::<u16>().ok().filter(|port| *port != 0 && text.bytes().all(|byte| byte.is_ascii_digit())),
    };
    if let Some(port) = port(text) {
        return Ok(Application::Tcp { host: None, port });
    }
    let wrong = || format!("{} is not a port, host:port, or the path of a Unix socket", quoted(text));
    let (host, number) = text.rsplit_once(':').ok_or_else(wrong)?;
    let (host, _) =
        tcp_endpoint(&format!("{host}:1")).or_else(|_| bind(host).map(|host| (host, None))).map_err(|_| wrong())?;
    Ok(Application::Tcp { host: Some(host), port: port(number).ok_or_else(wrong)? })
}

fn limits(section: &mut Section<'_>) -> Limits {
    let usual = Limits::default();
    let size = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    Limits {
        max_connections: count(section.integer("max_connections", 1..=65_536, size(usual.max_connections))),
        max_payload: count(section.integer("max_payload", 1..=size(Limits::MAX_PAYLOAD), size(usual.max_payload))),
        queue: count(section.integer("queue", 65_536..=(1 << 30), size(usual.queue))),
        patience: section.duration("patience", values::duration_from(SHORTEST), usual.patience),
        half_close_grace: section.duration(
            "half_close_grace",
            values::zero_or_duration_from(SHORTEST),
            usual.half_close_grace,
        ),
        retries: Some(section.integer("retries", 0..=1_000_000, 5)),
        retry_delay: section.duration("retry_delay", values::duration_from(SHORTEST), usual.retry_delay),
        dial_timeout: section.duration("dial_timeout", values::duration_from(SHORTEST), usual.dial_timeout),
    }
}

fn remote(mut host: Host, config_dir: &Path, section: &mut Section<'_>) -> Remote {
    host.way = section.take("proxy").and_then(|item| way(&item, web_proxy)).unwrap_or(Way::Direct);
    Remote {
        name: Some(host.host.clone()),
        hosts: vec![host],
        ca_cert_file: section.parse("ca_cert_file", values::path(config_dir)).map(Into::into),
        heartbeat_period: section.duration(
            "heartbeat_period",
            values::zero_or_duration_from(SHORTEST_PERIOD),
            Duration::from_secs(20),
        ),
        heartbeat_timeout: section.duration(
            "heartbeat_timeout",
            values::duration_from(SHORTEST),
            Duration::from_secs(10),
        ),
        connect_timeout: section.duration("connect_timeout", values::duration_from(SHORTEST), Duration::from_secs(15)),
        congestion_control: section.parse("congestion_control", values::congestion_control),
        wire: Wire::default(),
    }
}
