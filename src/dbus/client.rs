//! The daemon as a program on the bus sees it: everything it shows as plain values, the calls that change something, and a
//! stream of what happens. It knows nothing of how anything is printed.

use super::proxies::{ForwardsProxy, ManagerProxy, TrustedGroupProxy, TunnelProxy};
use super::watch::Watch;
use super::{ERROR_PREFIX, NAME, path};
use crate::error::{Class, Exit};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::os::fd::BorrowedFd;
use std::time::Duration;
use zbus::fdo::{self, ObjectManagerProxy};
use zbus::proxy::CacheProperties;
use zbus::{Connection, OwnedVariant, Variant};

/// A call that is not answered by then is given up. A reload waits for the kernel, and somebody may have to type a password.
const ANSWER: Duration = Duration::from_secs(300);

/// All properties of one interface.
pub(super) type Properties = HashMap<String, OwnedVariant>;

/// Why the daemon did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No bus.
    #[error("cannot reach the system bus (is dbus running?)")]
    NoBus(#[source] zbus::Error),
    /// Nobody has the name.
    #[error(
        "enftund is not running (nobody on the system bus is called {NAME}); start it with `systemctl start enftund`"
    )]
    NotRunning,
    /// It went away in the middle.
    #[error("enftund left the bus")]
    Gone,
    /// The caller may not.
    #[error("{0}")]
    NotAuthorised(String),
    /// No such tunnel.
    #[error("there is no tunnel called {name}; there {}", those(.others))]
    NotFound {
        /// What was asked for.
        name: String,
        /// Those there are.
        others: Vec<String>,
    },
    /// No such trusted group.
    #[error("there is no group called {name} in enftun.toml; there {}", those(.others))]
    NoGroup {
        /// What was asked for.
        name: String,
        /// Those there are.
        others: Vec<String>,
    },
    /// The daemon refused.
    #[error("{text}")]
    Refused {
        /// The last part of the error's name.
        word: String,
        /// Its text.
        text: String,
    },
    /// No answer.
    #[error("enftund does not answer; see `journalctl -u enftund`")]
    NoAnswer,
    /// The answer is not what this version understands.
    #[error("enftund's answer lacks a readable {0}: enftunctl and enftund are of different versions; restart enftund")]
    Unreadable(&'static str),
    /// Anything else that the bus says.
    #[error("the bus refuses the call")]
    Bus(#[source] zbus::Error),
}

fn those(names: &[String]) -> String {
    if names.is_empty() { "are none".to_owned() } else { format!("are: {}", names.join(", ")) }
}

impl ClientError {
    /// The class of the error.
    pub fn class(&self) -> Class {
        match self {
            Self::NoBus(_) | Self::NotRunning | Self::Gone | Self::NoAnswer => Class::Transient,
            Self::NotAuthorised(_) | Self::Unreadable(_) | Self::Bus(_) => Class::Environment,
            Self::NotFound { .. } | Self::NoGroup { .. } => Class::Configuration,
            Self::Refused { word, .. } if word == "InvalidConfig" => Class::Configuration,
            Self::Refused { .. } => Class::Transient,
        }
    }

    /// The exit code of a program that fails for this.
    pub fn exit(&self) -> Exit {
        match self {
            Self::NoBus(_) | Self::NotRunning | Self::Gone => Exit::NotRunning,
            Self::NotAuthorised(_) => Exit::NotAuthorised,
            Self::NotFound { .. } | Self::NoGroup { .. } => Exit::NotFound,
            Self::NoAnswer => Exit::TimedOut,
            Self::Refused { .. } | Self::Unreadable(_) | Self::Bus(_) => self.class().into(),
        }
    }
}

impl From<zbus::Error> for ClientError {
    fn from(error: zbus::Error) -> Self {
        match error {
            zbus::Error::FDO(error) => match *error {
                fdo::Error::ServiceUnknown(_) | fdo::Error::NameHasNoOwner(_) => Self::NotRunning,
                fdo::Error::AccessDenied(text) | fdo::Error::InteractiveAuthorizationRequired(text) => {
                    Self::NotAuthorised(text)
                }
                // What the bus answers for a callee that left without answering.
                fdo::Error::NoReply(_) => Self::Gone,
                error => Self::Bus(error.into()),
            },
            zbus::Error::MethodError(name, text, message) => match name.strip_prefix(ERROR_PREFIX) {
                Some(word) => Self::Refused { word: word.to_owned(), text: text.unwrap_or_default() },
                // A call starts the daemon only where it is enabled: elsewhere systemd has no unit of the name that the bus asks for.
                None if name.as_str() == "org.freedesktop.systemd1.NoSuchUnit" => Self::NotRunning,
                None => Self::Bus(zbus::Error::MethodError(name, text, message)),
            },
            zbus::Error::InputOutput(error) if error.kind() == std::io::ErrorKind::TimedOut => Self::NoAnswer,
            error => Self::Bus(error),
        }
    }
}

impl From<fdo::Error> for ClientError {
    fn from(error: fdo::Error) -> Self {
        zbus::Error::from(error).into()
    }
}

/// What can be asked of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is wanted.
    Connect,
    /// It is not wanted.
    Disconnect,
    /// A new session.
    Reconnect,
}

/// The daemon and its tunnels at one moment. This is also the form in JSON: `docs/json.md`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Overview {
    /// The daemon as a whole.
    pub daemon: DaemonInfo,
    /// Its tunnels by name.
    pub tunnels: Vec<TunnelInfo>,
}

/// The daemon as a whole.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DaemonInfo {
    /// Its version.
    pub version: String,
    /// All tunnels that are wanted, in one word.
    pub state: String,
    /// Something is blocked right now.
    pub blocking: bool,
    /// It is still returning the tunnels to what they were.
    pub startup: bool,
    /// Whether the network beside the tunnels reaches the internet.
    pub connectivity: String,
    /// What it can do.
    pub features: Vec<String>,
    /// SHA-256 of the configuration in force.
    pub config_hash: String,
    /// The host's firewall.
    pub firewall: FirewallInfo,
    /// What somebody should look at, the gravest first.
    pub warnings: Vec<WarningInfo>,
}

/// What somebody should look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WarningInfo {
    /// A word for programs.
    pub code: String,
    /// `error` or `warning`.
    pub severity: String,
    /// The tunnel it is about, where it is about one.
    pub tunnel: Option<String>,
    /// One line for people.
    pub text: String,
}

/// One group of trusted interfaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GroupInfo {
    /// Its name in `enftun.toml`.
    pub name: String,
    /// The kernel's number of it.
    pub number: u32,
    /// The interfaces that are trusted now.
    pub members: Vec<String>,
    /// Those in the file.
    pub configured: Vec<String>,
    /// Those of the members that exist.
    pub present: Vec<String>,
}

/// The host's firewall. Times are microseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "each field is the property of that name; docs/dbus.md describes them")]
pub struct FirewallInfo {
    pub table: String,
    pub in_force: bool,
    pub generation: u32,
    pub last_verified: Option<u64>,
}

/// One tunnel: the properties of its object, absent values as none. Times are microseconds since 1970.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs, reason = "each field is the property of that name; docs/dbus.md describes them")]
pub struct TunnelInfo {
    pub name: String,
    pub kind: String,
    pub state: String,
    pub target_state: String,
    pub state_reason: String,
    pub state_since: u64,
    pub last_error: Option<LastError>,
    pub attempt: u32,
    pub next_attempt: Option<u64>,
    pub interface: Option<String>,
    pub if_index: Option<i32>,
    pub mtu: Option<u32>,
    pub addresses: Vec<String>,
    pub routes: Vec<String>,
    pub remotes: Vec<String>,
    pub active_remote: Option<String>,
    pub fw_mark: u32,
    pub fw_mask: u32,
    pub table: u32,
    pub auto_connect: bool,
    pub lockdown: String,
    pub blocking: bool,
    pub tls: Option<TlsInfo>,
    pub statistics: StatisticsInfo,
    pub forwards: Option<ForwardsInfo>,
}

impl TunnelInfo {
    /// What it forwards, service by service; nothing where the kind does not.
    pub fn services(&self) -> impl Iterator<Item = &ServiceInfo> {
        self.forwards.iter().flat_map(|forwards| &forwards.services)
    }
}

/// What a tunnel of kind `aws-iot` forwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ForwardsInfo {
    /// `source` or `destination`.
    pub mode: String,
    /// The service's name for the live session.
    pub channel_id: Option<String>,
    /// The tunnel's services by name.
    pub services: Vec<ServiceInfo>,
    /// The live connections, the oldest first.
    pub connections: Vec<ConnectionInfo>,
}

/// One service of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceInfo {
    /// Its name; empty for that of a tunnel without services.
    pub name: String,
    /// Where it is at this end: an address, a name, or the path of a socket. None without a session.
    pub address: Option<String>,
    /// Its port; none for a socket's path.
    pub port: Option<u32>,
    /// What was counted.
    pub counters: ServiceCounters,
}

/// What was counted of one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "docs/dbus.md describes them")]
pub struct ServiceCounters {
    pub connections: u64,
    pub active: u64,
    pub refused: u64,
    pub unreachable: u64,
    pub reset: u64,
    pub too_slow: u64,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
}

/// One live connection. Times are microseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "docs/dbus.md describes them")]
pub struct ConnectionInfo {
    pub number: u64,
    pub service: String,
    pub peer: String,
    pub since: u64,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
}

/// The last thing that went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LastError {
    /// The word for programs.
    pub reason: String,
    /// One line for people.
    pub text: String,
}

/// What TLS agreed on. Times are microseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "docs/dbus.md describes them")]
pub struct TlsInfo {
    pub version: String,
    pub cipher: String,
    pub peer_subject: String,
    pub peer_not_after: u64,
    pub local_not_after: Option<u64>,
    pub wire: Option<String>,
}

/// The counters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "docs/dbus.md describes them")]
pub struct StatisticsInfo {
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    pub rx_packets: u64,
    pub tx_packets: u64,
    pub rx_dropped: u64,
    pub tx_dropped: u64,
    pub drop_reasons: BTreeMap<String, u64>,
    pub reconnects: u32,
    pub heartbeat_rtt_usec: u64,
}

/// A connection to the bus.
#[derive(Clone, Debug)]
pub struct Client {
    connection: Connection,
}

impl Client {
    /// Connects to the system bus (`DBUS_SYSTEM_BUS_ADDRESS`, else the usual socket); the daemon need not run.
    pub async fn connect() -> Result<Self, ClientError> {
        let connection =
            zbus::connection::Builder::system().method_timeout(ANSWER).build().await.map_err(ClientError::NoBus)?;
        Ok(Self { connection })
    }

    /// Whether the daemon is on the bus. Any other call may have the bus start it; this one does not.
    pub async fn is_running(&self) -> Result<bool, ClientError> {
        let name = zbus::names::BusName::try_from(NAME)?;
        Ok(fdo::DBusProxy::new(&self.connection).await?.name_has_owner(name).await?)
    }

    /// Everything the daemon shows.
    pub async fn overview(&self) -> Result<Overview, ClientError> {
        let objects = ObjectManagerProxy::new(&self.connection, NAME, path::ROOT).await?.get_managed_objects().await?;
        let root = fdo::PropertiesProxy::new(&self.connection, NAME, path::ROOT).await?;
        let of = zbus::names::InterfaceName::from_static_str_unchecked;
        let mut daemon = root.get_all(of("org.enftun.Enftun1.Manager")).await?;
        let mut firewall = root.get_all(of("org.enftun.Enftun1.Firewall")).await?;
        let mut tunnels = Vec::new();
        for mut interfaces in objects.into_values() {
            let tunnel = interfaces.remove("org.enftun.Enftun1.Tunnel");
            let statistics = interfaces.remove("org.enftun.Enftun1.Tunnel.Statistics");
            if let (Some(tunnel), Some(statistics)) = (tunnel, statistics) {
                let forwards = interfaces.remove("org.enftun.Enftun1.Tunnel.Forwards");
                let forwards = forwards.map(forwards_info).transpose()?;
                tunnels.push(TunnelInfo { forwards, ..tunnel_info(tunnel, statistics)? });
            }
        }
        tunnels.sort_by(|a, b| a.name.cmp(&b.name));
        let daemon = DaemonInfo {
            version: take(&mut daemon, "Version")?,
            state: take(&mut daemon, "State")?,
            blocking: take(&mut daemon, "Blocking")?,
            startup: take(&mut daemon, "Startup")?,
            connectivity: take(&mut daemon, "Connectivity")?,
            features: take(&mut daemon, "Features")?,
            config_hash: take(&mut daemon, "ConfigHash")?,
            warnings: take::<Vec<Properties>>(&mut daemon, "Warnings")?
                .into_iter()
                .map(warning_info)
                .collect::<Result<_, _>>()?,
            firewall: FirewallInfo {
                table: take(&mut firewall, "Table")?,
                in_force: take(&mut firewall, "InForce")?,
                generation: take(&mut firewall, "Generation")?,
                last_verified: some(take(&mut firewall, "LastVerified")?),
            },
        };
        Ok(Overview { daemon, tunnels })
    }

    /// The daemon and one tunnel.
    pub async fn tunnel(&self, name: &str) -> Result<(DaemonInfo, TunnelInfo), ClientError> {
        let Overview { daemon, tunnels } = self.overview().await?;
        let others = tunnels.iter().map(|tunnel| tunnel.name.clone()).collect();
        match tunnels.into_iter().find(|tunnel| tunnel.name == name) {
            Some(tunnel) => Ok((daemon, tunnel)),
            None => Err(ClientError::NotFound { name: name.to_owned(), others }),
        }
    }

    /// Asks for a change of one tunnel; returns when it is accepted.
    pub async fn change(&self, name: &str, change: Change) -> Result<(), ClientError> {
        let manager = ManagerProxy::new(&self.connection).await?;
        let path = match manager.get_tunnel(name).await.map_err(ClientError::from) {
            Err(ClientError::Refused { word, .. }) if word == "NotFound" => {
                return Err(self.tunnel(name).await.err().unwrap_or(ClientError::Gone));
            }
            path => path?,
        };
        let tunnel =
            TunnelProxy::builder(&self.connection).path(path).cache_properties(CacheProperties::No).build().await?;
        match change {
            Change::Connect => tunnel.connect(0).await?,
            Change::Disconnect => tunnel.disconnect(0).await?,
            Change::Reconnect => tunnel.reconnect(0).await?,
        }
        Ok(())
    }

    /// Gives a tunnel other tokens, which are read from `file`; returns when they are accepted.
    pub async fn rotate(&self, name: &str, file: BorrowedFd<'_>) -> Result<(), ClientError> {
        let forwards = ForwardsProxy::builder(&self.connection)
            .path(path::of_tunnel(name))
            .cache_properties(CacheProperties::No)
            .build()
            .await?;
        Ok(forwards.rotate_tokens(file.into()).await?)
    }

    /// What the kernel shall hold for a tunnel now, as text.
    pub async fn plan(&self, name: &str) -> Result<String, ClientError> {
        Ok(ManagerProxy::new(&self.connection).await?.get_plan(name).await?)
    }

    /// Has the configuration read again; returns when it is in force.
    pub async fn reload(&self) -> Result<(), ClientError> {
        Ok(ManagerProxy::new(&self.connection).await?.reload(0).await?)
    }

    /// Says whether a tunnel is blocked while it is not wanted, whatever its file says; returns when it is so.
    pub async fn set_lockdown(&self, name: &str, on: bool) -> Result<(), ClientError> {
        match ManagerProxy::new(&self.connection).await?.set_lockdown(name, on).await.map_err(ClientError::from) {
            Err(ClientError::Refused { word, .. }) if word == "NotFound" => {
                Err(self.tunnel(name).await.err().unwrap_or(ClientError::Gone))
            }
            done => done,
        }
    }

    /// The trusted groups by name.
    pub async fn groups(&self) -> Result<Vec<GroupInfo>, ClientError> {
        let objects = ObjectManagerProxy::new(&self.connection, NAME, path::ROOT).await?.get_managed_objects().await?;
        let of_group = |mut interfaces: HashMap<_, Properties>| interfaces.remove("org.enftun.Enftun1.TrustedGroup");
        let mut groups =
            objects.into_values().filter_map(of_group).map(group_info).collect::<Result<Vec<_>, ClientError>>()?;
        groups.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(groups)
    }

    /// Trusts an interface as a member of a group, or does not any more; returns when it is in force.
    pub async fn trust(&self, group: &str, interface: &str, trusted: bool) -> Result<(), ClientError> {
        let manager = ManagerProxy::new(&self.connection).await?;
        let path = match manager.get_group(group).await.map_err(ClientError::from) {
            Err(ClientError::Refused { word, .. }) if word == "NotFound" => {
                let others = self.groups().await?.into_iter().map(|group| group.name).collect();
                return Err(ClientError::NoGroup { name: group.to_owned(), others });
            }
            path => path?,
        };
        let group = TrustedGroupProxy::builder(&self.connection)
            .path(path)
            .cache_properties(CacheProperties::No)
            .build()
            .await?;
        match trusted {
            true => Ok(group.add_interface(interface).await?),
            false => Ok(group.remove_interface(interface).await?),
        }
    }

    /// What happens from now on.
    pub async fn watch(&self) -> Result<Watch, ClientError> {
        Watch::new(&self.connection).await
    }
}

fn warning_info(mut warning: Properties) -> Result<WarningInfo, ClientError> {
    Ok(WarningInfo {
        code: take(&mut warning, "code")?,
        severity: take(&mut warning, "severity")?,
        tunnel: warning.contains_key("tunnel").then(|| take(&mut warning, "tunnel")).transpose()?,
        text: take(&mut warning, "text")?,
    })
}

fn group_info(mut group: Properties) -> Result<GroupInfo, ClientError> {
    Ok(GroupInfo {
        name: take(&mut group, "Name")?,
        number: take(&mut group, "Number")?,
        members: take(&mut group, "Members")?,
        configured: take(&mut group, "Configured")?,
        present: take(&mut group, "Present")?,
    })
}

fn tunnel_info(mut tunnel: Properties, mut statistics: Properties) -> Result<TunnelInfo, ClientError> {
    let properties = &mut tunnel;
    let counters = &mut statistics;
    Ok(TunnelInfo {
        name: take(properties, "Name")?,
        kind: take(properties, "Kind")?,
        state: take(properties, "State")?,
        target_state: take(properties, "TargetState")?,
        state_reason: take(properties, "StateReason")?,
        state_since: take(properties, "StateSince")?,
        last_error: last_error(properties)?,
        attempt: take(properties, "Attempt")?,
        next_attempt: some(take(properties, "NextAttempt")?),
        interface: some(take(properties, "Interface")?),
        if_index: some(take(properties, "IfIndex")?),
        mtu: some(take(properties, "Mtu")?),
        addresses: take(properties, "Addresses")?,
        routes: take(properties, "Routes")?,
        remotes: take(properties, "Remotes")?,
        active_remote: some(take(properties, "ActiveRemote")?),
        fw_mark: take(properties, "FwMark")?,
        fw_mask: take(properties, "FwMask")?,
        table: take(properties, "Table")?,
        auto_connect: take(properties, "AutoConnect")?,
        lockdown: take(properties, "Lockdown")?,
        blocking: take(properties, "Blocking")?,
        tls: tls_info(take(properties, "Tls")?)?,
        statistics: StatisticsInfo {
            rx_bytes: take(counters, "RxBytes")?,
            tx_bytes: take(counters, "TxBytes")?,
            rx_packets: take(counters, "RxPackets")?,
            tx_packets: take(counters, "TxPackets")?,
            rx_dropped: take(counters, "RxDropped")?,
            tx_dropped: take(counters, "TxDropped")?,
            drop_reasons: take(counters, "DropReasons")?,
            reconnects: take(counters, "Reconnects")?,
            heartbeat_rtt_usec: take(counters, "HeartbeatRttUsec")?,
        },
        forwards: None,
    })
}

fn forwards_info(mut forwards: Properties) -> Result<ForwardsInfo, ClientError> {
    type Row = (u64, String, String, u64, u64, u64);
    let properties = &mut forwards;
    let mut counters: HashMap<String, HashMap<String, u64>> = take(properties, "Counters")?;
    // Of a service that is counted and has no place any more there are the counters.
    let places: Vec<(String, String, u32)> = take(properties, "Services")?;
    let mut services: BTreeMap<String, ServiceInfo> = places
        .into_iter()
        .map(|(name, address, port)| {
            let (address, port) = (some(address), some(port));
            (name.clone(), ServiceInfo { name, address, port, counters: ServiceCounters::default() })
        })
        .collect();
    for (name, counts) in counters.drain() {
        let of = |word: &str| counts.get(word).copied().unwrap_or_default();
        let entry = services.entry(name.clone());
        let service = entry.or_insert_with(|| ServiceInfo {
            name,
            address: None,
            port: None,
            counters: ServiceCounters::default(),
        });
        service.counters = ServiceCounters {
            connections: of("connections"),
            active: of("active"),
            refused: of("refused"),
            unreachable: of("unreachable"),
            reset: of("reset"),
            too_slow: of("too-slow"),
            rx_bytes: of("rx-bytes"),
            tx_bytes: of("tx-bytes"),
        };
    }
    let rows: Vec<Row> = take(properties, "Connections")?;
    let connection = |(number, service, peer, since, rx_bytes, tx_bytes)| ConnectionInfo {
        number,
        service,
        peer,
        since,
        rx_bytes,
        tx_bytes,
    };
    Ok(ForwardsInfo {
        mode: take(properties, "Mode")?,
        channel_id: some(take(properties, "ChannelId")?),
        services: services.into_values().collect(),
        connections: rows.into_iter().map(connection).collect(),
    })
}

fn tls_info(mut tls: Properties) -> Result<Option<TlsInfo>, ClientError> {
    if tls.is_empty() {
        return Ok(None);
    }
    Ok(Some(TlsInfo {
        version: take(&mut tls, "version")?,
        cipher: take(&mut tls, "cipher")?,
        peer_subject: take(&mut tls, "peer-subject")?,
        peer_not_after: take(&mut tls, "peer-not-after")?,
        local_not_after: some(take(&mut tls, "local-not-after")?),
        wire: some(take(&mut tls, "wire")?),
    }))
}

/// `LastError`, where the reason `none` stands for none.
pub(super) fn last_error(properties: &mut Properties) -> Result<Option<LastError>, ClientError> {
    let (reason, text): (String, String) = take(properties, "LastError")?;
    Ok((reason != "none").then_some(LastError { reason, text }))
}

fn take<T: TryFrom<Variant<'static>>>(properties: &mut Properties, name: &'static str) -> Result<T, ClientError> {
    let value = properties.remove(name).ok_or(ClientError::Unreadable(name))?;
    T::try_from(Variant::from(value)).map_err(|_| ClientError::Unreadable(name))
}

/// On the bus, zero and the empty string say that there is none.
fn some<T: Default + PartialEq>(value: T) -> Option<T> {
    (value != T::default()).then_some(value)
}
