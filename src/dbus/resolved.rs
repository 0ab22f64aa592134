//! The name servers of tunnels, in systemd-resolved: set on a tunnel's link once it is connected, set again when resolved or
//! the link is another one, and reverted when the tunnel is not wanted any more. One task that follows the daemon's snapshots.
//! It decides nothing about tunnels, holds nothing up, and never starts resolved.
//!
//! Between two sessions the servers stay on the link. It has no carrier then, so that resolved passes it by; whether a name may
//! be asked elsewhere meanwhile is for the firewall to say, as of all other traffic.

use crate::config::{Dns, Domain};
use crate::daemon::{Core, Snapshot, TunnelSnapshot};
use crate::error::chain;
use crate::state::{Phase, Target};
use futures_util::StreamExt;
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use zbus::fdo::{self, DBusProxy};
use zbus::proxy::CacheProperties;
use zbus::{Connection, Error};

const RESOLVED: &str = "org.freedesktop.resolve1";
const NO_SUCH_LINK: &str = "org.freedesktop.resolve1.NoSuchLink";
/// A call that is not answered by then is given up.
const ANSWER: Duration = Duration::from_secs(10);
/// Between two attempts, where trying again may help: resolved does not know a new link at once.
const RETRY: Duration = Duration::from_secs(1);
/// Between two attempts to reach the bus.
const BUS_RETRY: Duration = Duration::from_secs(5);

#[zbus::proxy(
    interface = "org.freedesktop.resolve1.Manager",
    default_service = "org.freedesktop.resolve1",
    default_path = "/org/freedesktop/resolve1"
)]
trait Manager {
    #[zbus(name = "SetLinkDNS", no_autostart)]
    fn set_link_dns(&self, ifindex: i32, servers: &[(i32, Vec<u8>)]) -> zbus::Result<()>;
    #[zbus(no_autostart)]
    fn set_link_domains(&self, ifindex: i32, domains: &[(&str, bool)]) -> zbus::Result<()>;
    #[zbus(no_autostart)]
    fn set_link_default_route(&self, ifindex: i32, enable: bool) -> zbus::Result<()>;
    #[zbus(no_autostart)]
    fn revert_link(&self, ifindex: i32) -> zbus::Result<()>;
}

/// Why the servers of a tunnel are not set. Each says what becomes of names, and what to do.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(
        "systemd-resolved is not running, and names go where /etc/resolv.conf says; start it (`systemctl enable --now \
         systemd-resolved`), or write the servers into /etc/resolv.conf"
    )]
    Absent,
    #[error(
        "there is no system bus, and names go where /etc/resolv.conf says; start dbus and systemd-resolved, or write the \
         servers into /etc/resolv.conf"
    )]
    NoBus(#[source] Error),
    #[error(
        "systemd-resolved does not let uid {uid} set them, and names go where they went before; allow that user the polkit \
         actions org.freedesktop.resolve1.set-dns-servers, set-domains, set-default-route and revert (as \
         org.enftun.Enftun1.rules in /usr/share/polkit-1/rules.d does for the user enftun), and reconnect"
    )]
    Denied { uid: u32, source: Error },
    #[error("systemd-resolved did not take them, and names go where they went before")]
    Refused(#[source] Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match &error {
            Error::FDO(cause) => match **cause {
                fdo::Error::AccessDenied(_) | fdo::Error::InteractiveAuthorizationRequired(_) => {
                    Self::Denied { uid: nix::unistd::geteuid().as_raw(), source: error }
                }
                fdo::Error::ServiceUnknown(_) | fdo::Error::NameHasNoOwner(_) => Self::Absent,
                _ => Self::Refused(error),
            },
            _ => Self::Refused(error),
        }
    }
}

impl Trouble {
    /// Asking again soon may help.
    fn passes(&self) -> bool {
        match self {
            Self::Refused(Error::InputOutput(error)) => error.kind() == io::ErrorKind::TimedOut,
            Self::Refused(error) => is_no_such_link(error),
            Self::Absent | Self::NoBus(_) | Self::Denied { .. } => false,
        }
    }
}

fn is_no_such_link(error: &Error) -> bool {
    matches!(error, Error::MethodError(name, ..) if name.as_str() == NO_SUCH_LINK)
}

/// Keeps resolved in line with the tunnels until the daemon is gone. There is no connection to the bus before a tunnel has
/// name servers.
pub async fn keep(core: Core) {
    let mut keeper = Keeper { view: core.subscribe(), links: BTreeMap::new(), told: BTreeMap::new() };
    let has_servers = |snapshot: &Arc<Snapshot>| snapshot.tunnels.values().any(|tunnel| tunnel.dns.is_some());
    while keeper.view.wait_for(has_servers).await.is_ok() {
        let connection = zbus::connection::Builder::system().method_timeout(ANSWER).build().await;
        let outcome = match &connection {
            Ok(connection) => keeper.follow(connection).await,
            Err(error) => Err(error.clone()),
        };
        let Err(error) = outcome else { return };
        keeper.forget();
        keeper.bring_in_line(Err(&Trouble::NoBus(error))).await;
        tokio::time::sleep(BUS_RETRY).await;
    }
}

/// What this task knows of resolved.
struct Keeper {
    view: watch::Receiver<Arc<Snapshot>>,
    /// Links by tunnel.
    links: BTreeMap<String, Link>,
    /// What was last complained of, by tunnel.
    told: BTreeMap<String, String>,
}

/// The link of one tunnel.
#[derive(Default)]
struct Link {
    ifindex: u32,
    /// What resolved has for it from us.
    set: Option<Dns>,
    /// What resolved did not take; it is not asked again before the next session.
    refused: Option<Dns>,
}

impl Keeper {
    /// Runs while there is a connection and a daemon; that the daemon is gone is no error.
    async fn follow(&mut self, connection: &Connection) -> zbus::Result<()> {
        let bus = DBusProxy::new(connection).await?;
        let mut owners = bus.receive_name_owner_changed_with_args(&[(0, RESOLVED)]).await?;
        let resolved = ManagerProxy::builder(connection).cache_properties(CacheProperties::No).build().await?;
        let mut there = bus.name_has_owner(RESOLVED.try_into()?).await?;
        loop {
            let again = self.bring_in_line(if there { Ok(&resolved) } else { Err(&Trouble::Absent) }).await;
            tokio::select! {
                changed = self.view.changed() => if changed.is_err() {
                    return Ok(());
                },
                signal = owners.next() => {
                    let Some(signal) = signal else {
                        return Err(io::Error::from(io::ErrorKind::ConnectionAborted).into());
                    };
                    there = signal.args()?.new_owner().is_some();
                    self.forget();
                }
                () = tokio::time::sleep(RETRY), if again => {}
            }
        }
    }

    /// Whatever resolved had from us, it may not have it any more.
    fn forget(&mut self) {
        for link in self.links.values_mut() {
            (link.set, link.refused) = (None, None);
        }
    }

    /// Makes resolved have what the latest snapshot wants. Whether to try again soon.
    async fn bring_in_line(&mut self, resolved: Result<&ManagerProxy<'_>, &Trouble>) -> bool {
        let snapshot = self.view.borrow_and_update().clone();
        let wanted: BTreeMap<&str, (u32, &Dns)> = snapshot
            .tunnels
            .iter()
            .filter_map(|(name, tunnel)| Some((name.as_str(), wanted(tunnel, self.links.get(name))?)))
            .collect();
        let gone = |name: &String, link: &mut Link| wanted.get(name.as_str()).is_none_or(|new| new.0 != link.ifindex);
        for (name, link) in self.links.extract_if(.., gone) {
            if let (Some(_), Ok(resolved)) = (link.set, resolved) {
                revert(&name, link.ifindex, resolved).await;
            }
        }
        let wanted_at_all = |tunnel: &Arc<TunnelSnapshot>| tunnel.dns.is_some() && tunnel.target == Target::Up;
        self.told.retain(|name, _| snapshot.tunnels.get(name).is_some_and(wanted_at_all));
        let mut again = false;
        for (name, (ifindex, dns)) in wanted {
            let link = self.links.entry(name.to_owned()).or_insert_with(|| Link { ifindex, ..Link::default() });
            if [&link.set, &link.refused].contains(&&Some(dns.clone())) {
                continue;
            }
            let outcome = match resolved {
                Ok(resolved) => set(ifindex, dns, resolved).await,
                Err(trouble) => {
                    self.complain(name, trouble);
                    continue;
                }
            };
            match outcome {
                Ok(()) => {
                    link.set = Some(dns.clone());
                    self.told.remove(name);
                    let (names, servers) = (words(&dns.domains), words(&dns.servers));
                    log::info!(ENFTUN_TUNNEL = name; "the name servers of {name} are set: {names} to {servers}");
                }
                Err(trouble) if trouble.passes() => {
                    log::debug!(ENFTUN_TUNNEL = name; "{}", chain(&trouble));
                    again = true;
                }
                Err(trouble) => {
                    (link.set, link.refused) = (None, Some(dns.clone()));
                    self.complain(name, &trouble);
                }
            }
        }
        again
    }

    /// Says it once.
    fn complain(&mut self, name: &str, trouble: &Trouble) {
        let text = chain(trouble);
        if self.told.get(name) != Some(&text) {
            log::warn!(ENFTUN_TUNNEL = name; "the name servers of {name} are not set: {text}");
            self.told.insert(name.to_owned(), text);
        }
    }
}

/// The link that shall have servers, and which: from the first session until the user lets the tunnel down, or the device is
/// another one.
fn wanted<'a>(tunnel: &'a TunnelSnapshot, link: Option<&Link>) -> Option<(u32, &'a Dns)> {
    let (ifindex, dns) = (tunnel.ifindex?, tunnel.dns.as_ref()?);
    let held = link.is_some_and(|link| link.ifindex == ifindex && link.set.is_some());
    (tunnel.state == Phase::Connected || (held && tunnel.target == Target::Up)).then_some((ifindex, dns))
}

/// The servers come last: before that, none of the link's settings means anything.
async fn set(ifindex: u32, dns: &Dns, resolved: &ManagerProxy<'_>) -> Result<(), Trouble> {
    let index = index(ifindex);
    let domains: Vec<(&str, bool)> =
        dns.domains.iter().map(|Domain { name, route_only }| (name.as_str(), *route_only)).collect();
    let servers: Vec<(i32, Vec<u8>)> = dns.servers.iter().map(address).collect();
    resolved.set_link_domains(index, &domains).await?;
    resolved.set_link_default_route(index, dns.is_default()).await?;
    resolved.set_link_dns(index, &servers).await?;
    Ok(())
}

async fn revert(name: &str, ifindex: u32, resolved: &ManagerProxy<'_>) {
    match resolved.revert_link(index(ifindex)).await {
        Ok(()) => log::info!(ENFTUN_TUNNEL = name; "the name servers of {name} are taken back"),
        // With the link, resolved forgets them by itself.
        Err(error) if is_no_such_link(&error) => {}
        Err(error) => log::warn!(ENFTUN_TUNNEL = name; "take back the name servers of {name}: {}", chain(&error)),
    }
}

/// On the bus an interface's index has a sign; the kernel's never need it.
fn index(ifindex: u32) -> i32 {
    i32::try_from(ifindex).unwrap_or_default()
}

fn address(address: &IpAddr) -> (i32, Vec<u8>) {
    match address {
        IpAddr::V4(address) => (nix::libc::AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (nix::libc::AF_INET6, address.octets().to_vec()),
    }
}

fn words<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
