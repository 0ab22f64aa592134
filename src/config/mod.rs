//! What the user wrote, with every default filled in. Parsing finds all mistakes at once, each with file, line and column;
//! nothing here looks at the host beyond the configuration files, and nothing here changes anything.
//!
//! The types are plain values: `state`, `plan` and the sessions take them as they are.

mod aws;
mod daemon;
mod findings;
mod host;
mod import;
mod load;
pub mod mappings;
mod proxy;
mod reader;
mod router;
mod sink;
mod tpm;
mod tunnel;
mod unavailable;
#[cfg(feature = "enrol")]
pub mod users;
mod values;

pub use aws::{
    Application, Aws, Compat, Limits, Mode, Services, Subprotocol, parse_application, parse_region, region_host,
};
pub use findings::{Finding, Severity, findings_json};
pub use host::{Host, Login, Proxy, Scheme, Way, authority};
pub use import::{Imported, import, import_text};
pub use load::{
    Loaded, check_files, check_text, known_keys, load, load_daemon, load_router, load_tunnel, parse_daemon,
    parse_router, parse_tunnel,
};

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Everything that one daemon runs by: `enftun.toml` and each readable `tunnels/NAME.toml`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// The daemon's own settings.
    pub daemon: Daemon,
    /// Trusted interface groups by name.
    pub groups: BTreeMap<String, Group>,
    /// Captive portal check.
    pub connectivity: Connectivity,
    /// Tunnels by name; the name is the file's stem.
    pub tunnels: BTreeMap<String, Tunnel>,
}

/// `[daemon]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Daemon {
    /// The lowest level that is logged.
    pub log_level: log::LevelFilter,
}

impl Default for Daemon {
    fn default() -> Self {
        Self { log_level: log::LevelFilter::Info }
    }
}

/// `[groups.NAME]`: interfaces that may be talked to beside the tunnel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Group {
    /// Kernel link group number, 1 to 2^31-1.
    pub number: u32,
    /// Interface names.
    pub interfaces: Vec<String>,
}

/// Whether an interface of this name may be trusted; if not, why, in one line.
pub fn judge_trusted_interface(name: &str) -> Result<(), String> {
    values::trusted_interface(name).map(drop).map_err(one_line)
}

/// What is asked for in an enrolment, as `enrol.address` writes it; if it is nothing that can be, why, in one line.
pub fn parse_wanted(text: &str) -> Result<Wanted, String> {
    values::wanted(text).map_err(one_line)
}

/// A user who enrols, as `enrol.user` writes it.
pub fn parse_user(text: &str) -> Result<String, String> {
    values::user(text).map_err(one_line)
}

/// A name or an address, without brackets, and the port if one is written: `host`, `host:port`, `[::1]:port`, `::1`.
pub fn parse_endpoint(text: &str) -> Result<(String, Option<u16>), String> {
    match values::endpoint(text).map_err(one_line)? {
        values::Endpoint::Tcp(host, port) => Ok((host, port)),
        values::Endpoint::Vsock { .. } => Err("is a vsock address, and only a host and a port belong here".to_owned()),
    }
}

/// `http://[user:password@]host:port`, `https://…` or `socks5://…`. `None` is `direct`. What is wrong is told without any of it.
pub fn parse_web_proxy(text: &str) -> Result<Option<Proxy>, String> {
    proxy::web_proxy(text).map_err(one_line)
}

fn one_line(complaint: values::Complaint) -> String {
    match complaint.help {
        Some(help) => format!("{}; {help}", complaint.text),
        None => complaint.text,
    }
}

/// `[connectivity]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Connectivity {
    /// A URL that answers 204 on an open network; none: not probed.
    pub probe_url: Option<ProbeUrl>,
}

/// An `http` URL, in the parts that a request for it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeUrl {
    /// Who is asked.
    pub host: Host,
    /// Host, and port if it is written, as in the URL: the `Host` field of the request.
    pub authority: String,
    /// Path and query, with the leading slash.
    pub target: String,
}

/// One tunnel file. Everything that all kinds share stands here; what a kind adds is in [`Kind`].
#[derive(Clone, Debug, PartialEq)]
pub struct Tunnel {
    /// The file's stem; also the last part of its bus object's path.
    pub name: String,
    /// Connect when the daemon starts.
    pub autoconnect: bool,
    /// What the sessions of this tunnel carry.
    pub kind: Kind,
    /// Far ends, and how to reach and judge them.
    pub remote: Remote,
    /// What belongs in it, what may go beside it, and the mark of its own packets.
    pub route: Route,
    /// Back-off between attempts.
    pub retry: Retry,
    /// The TPM that keys and trust anchors may be in.
    pub tpm: Tpm,
}

/// What the sessions of a tunnel carry.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// IP packets between a TUN device and an ENF router.
    Enf(Box<Enf>),
    /// TCP connections through AWS IoT Secure Tunneling.
    Aws(Box<Aws>),
}

impl Kind {
    /// The word in the configuration file and on the bus.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Enf(_) => "enf",
            Self::Aws(_) => "aws-iot",
        }
    }

    /// What only kind `enf` has.
    pub fn enf(&self) -> Option<&Enf> {
        match self {
            Self::Enf(enf) => Some(enf),
            Self::Aws(_) => None,
        }
    }

    /// What only kind `aws-iot` has.
    pub fn aws(&self) -> Option<&Aws> {
        match self {
            Self::Aws(aws) => Some(aws),
            Self::Enf(_) => None,
        }
    }
}

/// The keys that only `kind = "enf"` has.
#[derive(Clone, Debug, PartialEq)]
pub struct Enf {
    /// `[tun]`.
    pub tun: Tun,
    /// `[dns]`, when the file has that section.
    pub dns: Option<Dns>,
    /// `[identity]`.
    pub identity: Identity,
    /// `[enrol]`, when the file has that section.
    pub enrol: Option<Enrol>,
    /// `[advertise]`, when the file has that section.
    pub advertise: Option<Advertise>,
}

/// `[tun]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Tun {
    /// Interface name, at most 15 bytes; default: the tunnel's name.
    pub dev: String,
    /// 1280 to 1496 bytes.
    pub mtu: u16,
    /// Put the own /128 on the device.
    pub set_address: bool,
    /// The only IPv4 address that may pass, with `route.allow_ipv4`.
    pub ipv4_address: Option<Ipv4Net>,
}

/// `[remote]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Remote {
    /// Far ends in order of preference; at least one.
    pub hosts: Vec<Host>,
    /// Trust anchors, PEM or DER. For kind `aws-iot` they are trusted beside the system's, and may be a directory of such
    /// files; none: only the system's.
    pub ca_cert_file: Option<Place>,
    /// The name or address that the router's certificate must carry.
    pub name: Option<String>,
    /// Idle time after which the router is asked for a sign of life; zero: only at the start of a session.
    pub heartbeat_period: Duration,
    /// How long its answer may take.
    pub heartbeat_timeout: Duration,
    /// TCP connect and TLS handshake, each; name look-up too.
    pub connect_timeout: Duration,
    /// TCP congestion control of the tunnel socket; none: the system's.
    pub congestion_control: Option<String>,
    /// What the session may carry.
    pub wire: Wire,
}

/// `remote.wire`: which wires the router is offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wire {
    /// Every one; the router chooses.
    #[default]
    Auto,
    /// None but the first, which every router has.
    V1,
}

/// `[route]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// What belongs in the tunnel, masked to its length, no duplicates. `"default"` is `::/0`, and with `allow_ipv4` `0.0.0.0/0` too.
    pub prefixes: Vec<IpNet>,
    /// Mark of our own packets.
    pub fwmark: u32,
    /// The bits of the mark that are ours; the mark is always matched with it.
    pub fwmark_mask: u32,
    /// The routing table of this tunnel.
    pub table: u32,
    /// Members of this tunnel's own group.
    pub trusted_interfaces: Vec<String>,
    /// Names of groups in `enftun.toml`.
    pub trusted_groups: Vec<String>,
    /// Let IPv4 through the tunnel.
    pub allow_ipv4: bool,
    /// When traffic is blocked while the tunnel is not wanted.
    pub lockdown: Lockdown,
}

impl Route {
    /// Everything belongs in the tunnel: a prefix of length zero is configured.
    pub fn is_default(&self) -> bool {
        self.prefixes.iter().any(|prefix| prefix.prefix_len() == 0)
    }
}

/// `route.lockdown`; the table in the configuration reference says what each means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lockdown {
    /// Blocked from before the network comes up until the user says otherwise.
    #[default]
    Boot,
    /// Blocked while the tunnel is wanted.
    Session,
    /// Held by routing only.
    Off,
}

impl Lockdown {
    /// The word in the configuration file and on the bus.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Session => "session",
            Self::Off => "off",
        }
    }
}

/// `[dns]`: which names are asked of which servers inside the tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Addresses of name servers; at least one.
    pub servers: Vec<IpAddr>,
    /// Names at and below these are asked of the servers and of nobody else; at least one.
    pub domains: Vec<Domain>,
}

/// One of the domains in `[dns]`. It is printed as it is written in the file and for `resolvectl domain`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Domain {
    /// Lower case, without a dot at its end; the root of all names is `.`.
    pub name: String,
    /// Written with `~`: only says where names go. Otherwise it is also appended to names of one label.
    pub route_only: bool,
}

impl Dns {
    /// All names are asked of the servers: `~.` is among the domains.
    pub fn is_default(&self) -> bool {
        self.domains.iter().any(|domain| domain.name == ".")
    }

    /// The same as commands for a person: what systemd-resolved is told of the link `dev`.
    pub fn resolvectl(&self, dev: &str) -> [String; 3] {
        let domains = self.domains.iter().map(|domain| format!(" '{domain}'")).collect::<String>();
        let servers = self.servers.iter().map(|server| format!(" {server}")).collect::<String>();
        [
            format!("resolvectl domain {dev}{domains}"),
            format!("resolvectl default-route {dev} {}", self.is_default()),
            format!("resolvectl dns {dev}{servers}"),
        ]
    }
}

impl std::fmt::Display for Domain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", if self.route_only { "~" } else { "" }, self.name)
    }
}

/// `[identity]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// Certificate, PEM or DER; absolute.
    pub cert_file: PathBuf,
    /// Private key, PEM or DER, or one in the TPM.
    pub key_file: Place,
    /// The own address is written here after each session start; absolute.
    pub ip_file: Option<PathBuf>,
    /// Where certificate and key are looked for, in order; at least one.
    pub source: Vec<Source>,
}

/// Where a certificate and its key come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// systemd's credentials `NAME.crt` and `NAME.key`.
    Credentials,
    /// `cert_file` and `key_file`.
    Files,
    /// The same, when the key is in a TPM.
    Tpm,
}

/// Where something is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file; absolute.
    File(PathBuf),
    /// In the TPM, under this handle: of a persistent key, or of an NV index.
    Tpm(u32),
}

/// `[tpm]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tpm {
    /// The way to it, as libtss2 names it: `device:/dev/tpmrm0`.
    pub tcti: String,
    /// The password of the owner hierarchy, or of `parent`, in a file of one line; absolute. None: it is empty.
    pub password_file: Option<PathBuf>,
    /// The storage key, by its persistent handle, under which keys are made. None: one that is made from the owner's seed.
    pub parent: Option<u32>,
}

/// `[enrol]`: who hands out addresses and takes keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Enrol {
    /// Where the interface is.
    pub url: EnrolUrl,
    /// Trust anchors of its certificate, PEM or DER.
    pub ca_cert_file: Place,
    /// Who enrols, unless the command line says otherwise.
    pub user: Option<String>,
    /// The user's password in a file of one line; absolute. None: the systemd credential `NAME.password`.
    pub password_file: Option<PathBuf>,
    /// What is asked for, unless the command line says otherwise.
    pub address: Wanted,
    /// How the daemon gets credentials by itself when there are none that are taken; none: it does not.
    pub provisioner: Option<Provisioner>,
}

/// An `https` URL in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnrolUrl {
    /// Who is asked; `host:port` when printed.
    pub host: Host,
    /// The path before those of the interface, without a slash at its end; mostly empty.
    pub path: String,
}

impl std::fmt::Display for EnrolUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "https://{}{}", self.host, self.path)
    }
}

/// Which address an enrolment asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// Any in the network of the login.
    #[default]
    Auto,
    /// Any in this network, a /64.
    In(Ipv6Net),
    /// This one.
    Exactly(Ipv6Addr),
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("an address in its network"),
            Self::In(network) => write!(f, "an address in {network}"),
            Self::Exactly(address) => write!(f, "the address {address}"),
        }
    }
}

/// How the daemon gets credentials by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Provisioner {
    /// Enrolment with a stored password.
    Password,
}

/// `[advertise]`: the host behind a router card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertise {
    /// The Ethernet side: the interface that the host is on.
    pub dev: String,
    /// Our link-layer address there: source of our frames, option of our advertisements. None: one that is made
    /// for this host.
    pub lladdr: Option<[u8; 6]>,
    /// Send router advertisements, and answer solicitations.
    pub router: bool,
    /// Answer DHCPv6.
    pub dhcp6: bool,
    /// The longest time between router advertisements.
    pub ra_period: Duration,
}

/// `[retry]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retry {
    /// The first delay.
    pub first: Duration,
    /// The longest delay.
    pub max: Duration,
    /// 0 none, 1 full.
    pub jitter: f64,
    /// A session that lived this long resets the back-off.
    pub stable_after: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            max: Duration::from_secs(60),
            jitter: 1.0,
            stable_after: Duration::from_secs(60),
        }
    }
}

/// `router.toml`, for `enftun-router`.
#[derive(Clone, Debug, PartialEq)]
pub struct Router {
    /// TCP addresses to listen on; sockets passed by systemd are used too.
    pub listen: Vec<std::net::SocketAddr>,
    /// The router's certificate (chain), PEM or DER; absolute.
    pub cert_file: PathBuf,
    /// Its key; absolute.
    pub key_file: PathBuf,
    /// Client certificates under these anchors may use the address in them; absolute.
    pub client_ca_file: Option<PathBuf>,
    /// Enrolled clients: one certificate or public key per address; absolute.
    pub endpoints_dir: PathBuf,
    /// Sessions beyond this many are refused.
    pub max_sessions: usize,
    /// Carry IPv4 for clients whose certificate names an IPv4 address.
    pub allow_ipv4: bool,
    /// Answers `enftun-router status`; absolute.
    pub control_socket: PathBuf,
    /// Uplink into this host; none: only client to client.
    pub tun: Option<RouterTun>,
    /// Forward packets between clients.
    pub between_clients: bool,
    /// Copy multicast wider than link-local from one client to all.
    pub multicast: bool,
    /// The interface that hands out addresses; none: off.
    pub enrol: Option<RouterEnrol>,
}

/// `[enrol]` of the router.
#[derive(Clone, Debug, PartialEq)]
pub struct RouterEnrol {
    /// Where the interface listens, with the router's own certificate.
    pub listen: std::net::SocketAddr,
    /// Addresses come from here; a /64.
    pub network: Ipv6Net,
    /// Who may enrol; absolute.
    pub users_file: PathBuf,
    /// How long a login is good.
    pub token_lifetime: Duration,
}

/// `[tun]` of the router.
#[derive(Clone, Debug, PartialEq)]
pub struct RouterTun {
    /// Interface name.
    pub dev: String,
    /// 1280 to 1496 bytes.
    pub mtu: u16,
    /// Addresses with the prefix length that is routed to the device.
    pub addresses: Vec<IpNet>,
}
