//! From a remote's name to its addresses, by questions that carry the tunnel's mark. The system's look-up cannot mark: with
//! everything in the tunnel its questions belong in the tunnel too, and before there is one they are blocked.
//!
//! It reads `/etc/hosts` and `/etc/resolv.conf` again for every look-up, remembers no answer, and leaves neither task nor
//! socket behind. Of nsswitch.conf it knows nothing: only these two files and DNS.

use super::dial::{self, DialError, Options};
use crate::config::Host;
use crate::error::Class;
use crate::state::{Failure, Reason};
use hickory_resolver::Resolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::iocompat::AsyncIoTokioAsStd;
use hickory_resolver::net::runtime::{RuntimeProvider, Spawn, TokioTime};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use socket2::{Socket, Type};
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::pin::{Pin, pin};
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

const HOSTS: &str = "/etc/hosts";
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Where systemd-resolved lists the servers that it asks itself.
const UPLINK: &str = "/run/systemd/resolve/resolv.conf";
/// systemd-resolved's own addresses: what it asks for others carries no mark.
const STUBS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 54))];
/// As many servers as the system's look-up asks (resolv.conf(5)).
const SERVERS: usize = 3;
const PORT: u16 = 53;
/// So long the IPv4 addresses of a name wait for its IPv6 addresses (RFC 8305 section 3).
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);
/// Nobody's addresses (RFC 3849, RFC 5737) that only a route to the whole world covers. Nothing is ever sent there.
const AFAR: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0xffff, 0, 0, 0, 1)), PORT),
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)), PORT),
];
/// How long one question waits, if nothing else is configured (resolv.conf(5)).
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// Nobody to ask.
    #[error("look up the name {name}: no name server is configured ({RESOLV_CONF} has no `nameserver` line)")]
    NoServer {
        /// The name.
        name: String,
    },
    /// No server gave an address.
    #[error("look up the name {name}: {}", list(.answers))]
    NoAddress {
        /// The name.
        name: String,
        /// Each server that was asked, and what came of it.
        answers: Vec<(SocketAddr, Answer)>,
    },
    /// The name cannot stand in a question.
    #[error("look up the name {name}: it is not a name that DNS can have ({source})")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        source: hickory_resolver::proto::ProtoError,
    },
    /// A file that says how to look names up cannot be read.
    #[error("look up the name {name}: read {file}")]
    File {
        /// The name.
        name: String,
        /// The file.
        file: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Nobody can be asked, as no route leads out of this host.
    #[error("look up the name {name}: there is no network: {}", nobody(.answers))]
    NoNetwork {
        /// The name.
        name: String,
        /// Each server that was asked, and what came of it.
        answers: Vec<(SocketAddr, Answer)>,
    },
    /// The question cannot be marked.
    #[error(transparent)]
    Mark(DialError),
}

/// What a name server said, other than an address.
#[derive(Debug)]
pub enum Answer {
    /// There is no such name.
    NoSuchName,
    /// The name has neither an IPv6 nor an IPv4 address.
    Empty,
    /// An error code.
    Error(ResponseCode),
    /// Nothing.
    Silent,
    /// Nothing that makes sense.
    Failed(NetError),
    /// No question can go there.
    Unreachable(DialError),
}

impl ResolveError {
    /// The word for programs.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Mark(error) => error.reason(),
            Self::NoNetwork { .. } => Reason::NoNetwork,
            _ => Reason::DnsFailed,
        }
    }

    /// What may be done about it.
    pub fn class(&self) -> Class {
        match self {
            Self::Mark(error) => error.class(),
            _ => Class::Transient,
        }
    }
}

impl From<&ResolveError> for Failure {
    fn from(error: &ResolveError) -> Self {
        Self::new(error.reason(), error.class(), crate::error::chain(error))
    }
}

impl Answer {
    /// Nothing that another server says would change it.
    fn is_final(&self) -> bool {
        matches!(self, Self::NoSuchName | Self::Empty)
    }

    /// No route leads to the server.
    fn is_no_way(&self) -> bool {
        matches!(self, Self::Unreachable(error) if error.reason() == Reason::NoNetwork)
    }
}

impl From<NetError> for Answer {
    fn from(error: NetError) -> Self {
        match error {
            NetError::Timeout => Self::Silent,
            NetError::Dns(DnsError::ResponseCode(code)) => Self::Error(code),
            NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
                ResponseCode::NXDomain => Self::NoSuchName,
                ResponseCode::NoError => Self::Empty,
                code => Self::Error(code),
            },
            other => Self::Failed(other),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchName => f.write_str("says that there is no such name (NXDOMAIN)"),
            Self::Empty => f.write_str("knows the name, but no address of it"),
            Self::Error(ResponseCode::Refused) => f.write_str("refuses to answer us (REFUSED)"),
            Self::Error(ResponseCode::ServFail) => f.write_str("cannot find it out at present (SERVFAIL)"),
            Self::Error(code) => write!(f, "answers with an error ({code})"),
            Self::Silent => f.write_str("does not answer"),
            Self::Failed(error) => write!(f, "gives no usable answer ({error})"),
            Self::Unreachable(error) => write!(f, "cannot be asked ({})", crate::error::chain(error)),
        }
    }
}

fn list(answers: &[(SocketAddr, Answer)]) -> String {
    let each = |(server, answer): &(SocketAddr, Answer)| format!("the name server {} {answer}", server.ip());
    answers.iter().map(each).collect::<Vec<_>>().join("; ")
}

fn nobody(answers: &[(SocketAddr, Answer)]) -> String {
    match answers.is_empty() {
        true => format!(
            "no name server is configured ({RESOLV_CONF} has no `nameserver` line), and no route leads out of this host"
        ),
        false => list(answers),
    }
}

/// All addresses of a remote or of its proxy, whichever is dialled, once all are known: IPv6 first, otherwise as they were told. Else as [`find`].
pub async fn resolve(
    host: &Host,
    options: &Options,
    limit: Duration,
    ask: impl AsyncFnOnce(Vec<SocketAddr>),
) -> Result<Vec<SocketAddr>, ResolveError> {
    let (found, mut batches) = mpsc::unbounded_channel();
    find(host, options, limit, ask, found).await?;
    let mut addresses = Vec::new();
    while let Some(mut batch) = batches.recv().await {
        addresses.append(&mut batch);
    }
    addresses.sort_by_key(SocketAddr::is_ipv4);
    Ok(addresses)
}

/// Sends the addresses of a remote or of its proxy, whichever is dialled, as they are found, at least one, and each once: IPv6
/// and IPv4 are asked for at the same time, and neither waits long for the other. An address in text needs no look-up, and
/// vsock has none. Questions carry the mark of `options`. Before the first of them `ask` is told the name servers, and waited
/// for.
pub async fn find(
    host: &Host,
    options: &Options,
    limit: Duration,
    ask: impl AsyncFnOnce(Vec<SocketAddr>),
    found: mpsc::UnboundedSender<Vec<SocketAddr>>,
) -> Result<(), ResolveError> {
    let Some((name, port)) = host.dialled() else { return Ok(()) };
    let tell = |addresses: &[IpAddr]| {
        if !addresses.is_empty() {
            // Nobody listens any more once there is a connection.
            let _ = found.send(addresses.iter().map(|address| SocketAddr::new(*address, port)).collect());
        }
    };
    if let Ok(address) = name.parse::<IpAddr>() {
        tell(&[address]);
        return Ok(());
    }
    let deadline = Instant::now() + limit;
    let mut known = in_hosts(&read(name, HOSTS).await?, name);
    if !known.is_empty() {
        known.sort_by_key(IpAddr::is_ipv4);
        known.dedup();
        tell(&known);
        return Ok(());
    }
    let config = system_config(name, &options.inside).await?;
    ask(config.servers.clone()).await;
    ask_all(name, &config, options.mark, deadline, &tell).await
}

/// A file's text; a file that is not there is empty.
async fn read(name: &str, file: &'static str) -> Result<String, ResolveError> {
    match tokio::fs::read(file).await {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(ResolveError::File { name: name.to_owned(), file, source }),
    }
}

/// The addresses that hosts(5) gives a name.
fn in_hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let name = name.trim_end_matches('.');
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().split_whitespace());
    lines
        .filter_map(|mut words| {
            let address = words.next()?.parse().ok()?;
            words.any(|word| word.trim_end_matches('.').eq_ignore_ascii_case(name)).then_some(address)
        })
        .collect()
}

/// What resolv.conf(5) says.
#[derive(Debug, PartialEq, Eq)]
struct SystemConfig {
    servers: Vec<SocketAddr>,
    search: Vec<String>,
    ndots: usize,
    timeout: Duration,
    edns0: bool,
}

impl SystemConfig {
    /// What `text` says, but for the servers among `inside`, unless it has no others.
    fn parse_outside(text: &str, inside: &[IpAddr]) -> Self {
        let config = Self::parse(text, inside);
        if config.servers.is_empty() { Self::parse(text, &[]) } else { config }
    }

    fn parse(text: &str, inside: &[IpAddr]) -> Self {
        let mut config =
            Self { servers: Vec::new(), search: Vec::new(), ndots: 1, timeout: DEFAULT_TIMEOUT, edns0: false };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") if config.servers.len() < SERVERS => {
                    let outside = |server: &SocketAddr| !inside.contains(&server.ip());
                    config.servers.extend(words.next().and_then(server).filter(outside));
                }
                // The last of these lines counts.
                Some("search" | "domain") => config.search = words.map(str::to_owned).collect(),
                Some("options") => words.for_each(|word| config.option(word)),
                _ => {}
            }
        }
        config
    }

    /// The limits are those of resolv.conf(5).
    fn option(&mut self, word: &str) {
        let number = |text: &str| text.parse::<u8>().ok();
        match word.split_once(':') {
            Some(("ndots", value)) => self.ndots = number(value).map_or(self.ndots, |dots| dots.min(15).into()),
            Some(("timeout", value)) => {
                self.timeout =
                    number(value).map_or(self.timeout, |seconds| Duration::from_secs(seconds.clamp(1, 30).into()));
            }
            _ if word == "edns0" => self.edns0 = true,
            _ => {}
        }
    }

    fn only_stubs(&self) -> bool {
        !self.servers.is_empty() && self.servers.iter().all(|server| STUBS.contains(&server.ip()))
    }
}

/// A name server's address, a link-local one with its interface.
fn server(text: &str) -> Option<SocketAddr> {
    let Some((address, zone)) = text.split_once('%') else {
        return Some(SocketAddr::new(text.parse().ok()?, PORT));
    };
    let index = zone.parse().or_else(|_| nix::net::if_::if_nametoindex(zone)).ok()?;
    Some(SocketAddrV6::new(address.parse().ok()?, PORT, 0, index).into())
}

/// systemd-resolved lists the servers of all links, those of the tunnel's own among them. They cannot be reached before there
/// is a session, and would leave no place for those that can.
async fn system_config(name: &str, inside: &[IpAddr]) -> Result<SystemConfig, ResolveError> {
    let config = SystemConfig::parse_outside(&read(name, RESOLV_CONF).await?, inside);
    if config.only_stubs() {
        let uplink = SystemConfig::parse_outside(&read(name, UPLINK).await?, inside);
        if !uplink.servers.is_empty() {
            return Ok(uplink);
        }
    }
    Ok(config)
}

/// The name servers that a look-up would ask, as far as they are known; see [`system_config`] for `inside`.
pub async fn name_servers(inside: &[IpAddr]) -> Vec<IpAddr> {
    let config = system_config("", inside).await;
    config.map(|config| config.servers.iter().map(SocketAddr::ip).collect()).unwrap_or_default()
}

/// One server after the other, each for its share of the time that is left, until one knows.
async fn ask_all(
    name: &str,
    config: &SystemConfig,
    mark: u32,
    deadline: Instant,
    tell: &impl Fn(&[IpAddr]),
) -> Result<(), ResolveError> {
    let question = Name::from_utf8(name).map_err(|source| ResolveError::Name { name: name.to_owned(), source })?;
    let candidates = candidates(&question, config);
    let mut left = u32::try_from(config.servers.len()).unwrap_or(1);
    let mut answers = Vec::new();
    for &server in &config.servers {
        let share = deadline.saturating_duration_since(Instant::now()) / left.max(1);
        left = left.saturating_sub(1);
        // What keeps a question from being sent is found out first: the resolver would not say it.
        let answer = match question_socket(server, mark) {
            Err(error @ DialError::Mark { .. }) => return Err(ResolveError::Mark(error)),
            Err(error) => Answer::Unreachable(error),
            Ok(_) => {
                let mut told = false;
                let tell = |addresses: &[IpAddr]| {
                    told |= !addresses.is_empty();
                    tell(addresses);
                };
                match timeout(share, ask(&candidates, server, config, mark, share, tell)).await {
                    Err(_) | Ok(Err(_)) if told => return Ok(()),
                    Ok(Ok(())) => return Ok(()),
                    Ok(Err(answer)) => answer,
                    Err(_) => Answer::Silent,
                }
            }
        };
        let last = answer.is_final();
        answers.push((server, answer));
        if last {
            break;
        }
    }
    let name = name.to_owned();
    // A server on this host may have nobody to ask either.
    let helpless = |(server, answer): &(SocketAddr, Answer)| {
        answer.is_no_way() || server.ip().is_loopback() && matches!(answer, Answer::Error(_))
    };
    let nobody_reached = !answers.is_empty() && answers.iter().all(|(_, answer)| answer.is_no_way());
    let cut_off = || answers.iter().all(helpless) && !AFAR.iter().any(|to| leads(*to, mark));
    Err(match answers.is_empty() {
        _ if nobody_reached || cut_off() => ResolveError::NoNetwork { name, answers },
        true => ResolveError::NoServer { name },
        false => ResolveError::NoAddress { name, answers },
    })
}

/// There is a way to this address. Nothing is sent.
fn leads(to: SocketAddr, mark: u32) -> bool {
    question_socket(to, mark).is_ok()
}

/// The full names that a name may stand for, by the search list of resolv.conf(5), the likeliest first.
fn candidates(name: &Name, config: &SystemConfig) -> Vec<Name> {
    let mut full = name.clone();
    full.set_fqdn(true);
    if name.is_fqdn() {
        return vec![full];
    }
    let searched = config.search.iter().filter_map(|domain| {
        let mut domain = Name::from_str_relaxed(domain).ok()?;
        domain.set_fqdn(true);
        name.clone().append_domain(&domain).ok()
    });
    let first = usize::from(name.num_labels()) > config.ndots;
    let mut all: Vec<Name> = first.then(|| full.clone()).into_iter().chain(searched).collect();
    if !all.contains(&full) {
        all.push(full);
    }
    all
}

/// Asks one server for each name until it knows one.
async fn ask(
    names: &[Name],
    server: SocketAddr,
    config: &SystemConfig,
    mark: u32,
    share: Duration,
    mut tell: impl FnMut(&[IpAddr]),
) -> Result<(), Answer> {
    let servers = vec![NameServerConfig::udp_and_tcp(server.ip())];
    let (alive, ends) = watch::channel(());
    let network = Marked { mark, server, tasks: Tasks(ends) };
    let mut builder = Resolver::builder_with_config(ResolverConfig::from_parts(None, Vec::new(), servers), network);
    let options: &mut ResolverOpts = builder.options_mut();
    options.use_hosts_file = ResolveHosts::Never;
    options.cache_size = 0;
    options.edns0 = config.edns0;
    // UDP questions are repeated within this time; a server that answers only one of the two questions must leave time for
    // that answer to be used.
    options.timeout = config.timeout.min(share / 2);
    options.attempts = 0;
    // The kernel chooses source ports, at random, when the sockets are connected.
    options.os_port_selection = true;
    let resolver = builder.build().map_err(Answer::from)?;
    let mut answer = Answer::Empty;
    for name in names {
        match both(&resolver, name, &mut tell).await {
            Ok(()) => return Ok(()),
            Err(other) => answer = other,
        }
    }
    drop(alive);
    Err(answer)
}

/// Both families at the same time. IPv6 addresses are told at once, IPv4 addresses when the IPv6 ones are known, or seem to be
/// slow.
async fn both(resolver: &Resolver<Marked>, name: &Name, tell: &mut impl FnMut(&[IpAddr])) -> Result<(), Answer> {
    let mut ipv6 = pin!(addresses(resolver, name, RecordType::AAAA));
    let mut ipv4 = pin!(addresses(resolver, name, RecordType::A));
    let known = |result: &Result<Vec<IpAddr>, Answer>| result.as_deref().unwrap_or_default().to_vec();
    let (ipv6, ipv4) = tokio::select! {
        ipv6 = &mut ipv6 => {
            tell(&known(&ipv6));
            let ipv4 = ipv4.await;
            tell(&known(&ipv4));
            (ipv6, ipv4)
        }
        ipv4 = &mut ipv4 => match timeout(RESOLUTION_DELAY, &mut ipv6).await {
            Ok(ipv6) => {
                tell(&[known(&ipv6), known(&ipv4)].concat());
                (ipv6, ipv4)
            }
            Err(_) => {
                tell(&known(&ipv4));
                let ipv6 = ipv6.await;
                tell(&known(&ipv6));
                (ipv6, ipv4)
            }
        },
    };
    match (ipv6, ipv4) {
        (Ok(_), _) | (_, Ok(_)) => Ok(()),
        // What may be different next time is the answer.
        (Err(ipv6), Err(ipv4)) => Err(if ipv6.is_final() { ipv4 } else { ipv6 }),
    }
}

/// The addresses of one family, at least one.
async fn addresses(resolver: &Resolver<Marked>, name: &Name, kind: RecordType) -> Result<Vec<IpAddr>, Answer> {
    let found = resolver.lookup(name.clone(), kind).await.map_err(Answer::from)?;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for record in found.answers() {
        let address = match &record.data {
            RData::A(address) => IpAddr::V4(address.0),
            RData::AAAA(address) => IpAddr::V6(address.0),
            _ => continue,
        };
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() { Err(Answer::Empty) } else { Ok(addresses) }
}

/// A socket for a question by UDP. Connected, so that it takes only this server's answers, and keeps a link-local server's
/// interface.
fn question_socket(server: SocketAddr, mark: u32) -> Result<Socket, DialError> {
    let socket = dial::marked(server, Type::DGRAM, mark)?;
    socket.connect(&server.into()).map_err(|source| DialError::Connect { peer: server, source })?;
    Ok(socket)
}

/// Sockets to one name server, marked before they send anything.
#[derive(Clone)]
struct Marked {
    mark: u32,
    /// With its interface if it is link-local, which the resolver would forget.
    server: SocketAddr,
    tasks: Tasks,
}

impl RuntimeProvider for Marked {
    type Handle = Tasks;
    type Timer = TokioTime;
    type Udp = UdpSocket;
    type Tcp = AsyncIoTokioAsStd<TcpStream>;

    fn create_handle(&self) -> Tasks {
        self.tasks.clone()
    }

    fn connect_tcp(
        &self,
        _: SocketAddr,
        _: Option<SocketAddr>,
        limit: Option<Duration>,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Self::Tcp>>>> {
        let network = self.clone();
        Box::pin(async move {
            let socket = dial::marked(network.server, Type::STREAM, network.mark).map_err(io::Error::other)?;
            let socket = TcpSocket::from_std_stream(socket.into());
            let connected = timeout(limit.unwrap_or(DEFAULT_TIMEOUT), socket.connect(network.server)).await??;
            Ok(AsyncIoTokioAsStd(connected))
        })
    }

    fn bind_udp(&self, _: SocketAddr, _: SocketAddr) -> Pin<Box<dyn Send + Future<Output = io::Result<Self::Udp>>>> {
        let network = self.clone();
        Box::pin(async move {
            let socket = question_socket(network.server, network.mark).map_err(io::Error::other)?;
            UdpSocket::from_std(socket.into())
        })
    }
}

/// Starts tasks that end, and drop their sockets, when the look-up that needs them ends or is given up.
#[derive(Clone)]
struct Tasks(watch::Receiver<()>);

impl Spawn for Tasks {
    fn spawn_bg(&mut self, future: impl Future<Output = ()> + Send + 'static) {
        let mut alive = self.0.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = future => {}
                // The look-up holds the sender and never sends.
                _ = alive.changed() => {}
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    fn addresses(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|address| address.parse().unwrap()).collect()
    }

    #[tokio::test]
    async fn an_address_in_text_needs_no_look_up() {
        for (host, address) in [("2001:db8::1", "[2001:db8::1]:444"), ("192.0.2.1", "192.0.2.1:444")] {
            let host = Host::direct(host, 444);
            assert_eq!(
                resolve(&host, &Options::default(), LIMIT, async |_| panic!("nobody is asked")).await.unwrap(),
                [address.parse().unwrap()]
            );
        }
    }

    #[tokio::test]
    async fn an_impossible_name_says_so() {
        let long = format!("{}.example.net", "a".repeat(64));
        let error = ask_all(&long, &SystemConfig::parse("", &[]), 0, Instant::now(), &|_| ()).await.unwrap_err();
        assert_eq!((error.reason(), error.class()), (Reason::DnsFailed, Class::Transient));
        assert!(error.to_string().contains(&long), "{error}");
    }

    #[test]
    fn hosts_gives_every_address_of_a_name_in_any_case_and_nothing_in_a_comment() {
        let text = "127.0.0.1 localhost\n# 192.0.2.9 router.example.net\n192.0.2.1 r Router.Example.NET # 192.0.2.8\n\
                    2001:db8::1\trouter.example.net.\nfe80::1%lan0 router.example.net\n192.0.2.3 router.example.net.uk\njunk\n";
        assert_eq!(in_hosts(text, "router.example.net"), addresses(&["192.0.2.1", "2001:db8::1"]));
        assert_eq!(in_hosts(text, "r."), addresses(&["192.0.2.1"]));
        assert!(in_hosts(text, "192.0.2.9").is_empty());
    }

    #[test]
    fn resolv_conf_is_read_as_the_manual_says() {
        let config = SystemConfig::parse(
            "# nameserver 192.0.2.9\nnameserver 192.0.2.1\nnameserver\t2001:db8::1\nnameserver nonsense\ndomain old.example\n\
             search a.example b.example\noptions ndots:2 timeout:99 edns0 trust-ad ndots:x\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n",
            &[],
        );
        let servers = addresses(&["192.0.2.1", "2001:db8::1", "192.0.2.3"]);
        assert_eq!(config.servers.iter().map(SocketAddr::ip).collect::<Vec<_>>(), servers);
        assert!(config.servers.iter().all(|server| server.port() == 53));
        assert_eq!(config.search, ["a.example", "b.example"]);
        assert_eq!((config.ndots, config.timeout, config.edns0), (2, Duration::from_secs(30), true));
    }

    #[test]
    fn servers_inside_the_tunnel_take_no_place_unless_there_are_no_others() {
        let inside = addresses(&["fd00::1", "fd00::2", "fd00::3"]);
        let listed = |text: &str| -> Vec<IpAddr> {
            SystemConfig::parse_outside(text, &inside).servers.iter().map(SocketAddr::ip).collect()
        };
        let ours = "nameserver fd00::1\nnameserver fd00::2\nnameserver fd00::3\n";
        assert_eq!(listed(&format!("{ours}nameserver 192.0.2.1\n")), addresses(&["192.0.2.1"]));
        assert_eq!(listed(ours), inside);
    }

    #[test]
    fn a_link_local_server_keeps_its_interface() {
        for zone in ["lo", "1"] {
            let config = SystemConfig::parse(&format!("nameserver fe80::1%{zone}\nnameserver fe80::1%nonesuch\n"), &[]);
            assert_eq!(config.servers, [SocketAddrV6::new("fe80::1".parse().unwrap(), 53, 0, 1).into()]);
        }
    }

    #[test]
    fn only_the_stub_of_resolved_is_passed_by() {
        assert!(SystemConfig::parse("nameserver 127.0.0.53\n", &[]).only_stubs());
        assert!(!SystemConfig::parse("nameserver 127.0.0.1\n", &[]).only_stubs());
        assert!(!SystemConfig::parse("nameserver 127.0.0.53\nnameserver 192.0.2.1\n", &[]).only_stubs());
        assert!(!SystemConfig::parse("", &[]).only_stubs());
    }
}
