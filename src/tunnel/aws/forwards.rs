//! What a tunnel forwards right now, for whoever looks: services and where they are, live connections, counters. It belongs
//! to the tunnel and outlives its sessions. Looking never waits for the network.

use super::engine::Ids;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// The forwards of one tunnel, shared between its sessions and those who look.
#[derive(Debug, Default)]
pub struct Forwards {
    live: Mutex<Live>,
}

#[derive(Debug, Default)]
struct Live {
    channel_id: Option<String>,
    services: BTreeMap<String, Service>,
    next: u64,
    /// As the last session left them.
    ids: Ids,
}

#[derive(Debug, Default)]
struct Service {
    place: Option<Place>,
    /// Where it was listened for last.
    before: Option<Place>,
    connections: BTreeMap<u64, Open>,
    counters: Arc<ServiceCounters>,
}

/// Where a service is at this end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A source listens here, or this is what a destination last connected to.
    Tcp(SocketAddr),
    /// A destination dials this name.
    Name(String, u16),
    /// A Unix socket.
    Unix(PathBuf),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Name(host, port) => f.write_str(&crate::config::authority(host, *port)),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Place {
    /// The TCP port; none: a Unix socket.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(address) => Some(address.port()),
            Self::Name(_, port) => Some(*port),
            Self::Unix(_) => None,
        }
    }
}

/// What is counted of a service, over all sessions of the tunnel.
#[derive(Debug, Default)]
pub struct ServiceCounters {
    /// Connections that began.
    pub connections: AtomicU64,
    /// Connections of applications that were turned away: too many at a time, or no session.
    pub refused: AtomicU64,
    /// Applications that could not be reached.
    pub unreachable: AtomicU64,
    /// Connections that the other end, the service or this end broke off.
    pub reset: AtomicU64,
    /// Connections that were broken off because the application read too slowly.
    pub too_slow: AtomicU64,
    /// Bytes of data that came through the tunnel and went to applications.
    pub rx_bytes: AtomicU64,
    /// Bytes of data that came from applications and went into the tunnel.
    pub tx_bytes: AtomicU64,
}

/// A live connection, as its owner counts in it. It is off the list when this is dropped.
#[derive(Debug)]
pub struct Connection {
    forwards: Arc<Forwards>,
    service: String,
    number: u64,
    /// Its own bytes.
    own: Arc<Bytes>,
    /// Those of its service.
    all: Arc<ServiceCounters>,
}

#[derive(Debug, Default)]
struct Bytes {
    rx: AtomicU64,
    tx: AtomicU64,
}

#[derive(Debug)]
struct Open {
    peer: String,
    since: SystemTime,
    bytes: Arc<Bytes>,
}

impl Connection {
    /// So many bytes went to the application.
    pub fn received(&self, bytes: usize) {
        self.own.rx.fetch_add(bytes as u64, Relaxed);
        self.all.rx_bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// So many bytes came from the application.
    pub fn sent(&self, bytes: usize) {
        self.own.tx.fetch_add(bytes as u64, Relaxed);
        self.all.tx_bytes.fetch_add(bytes as u64, Relaxed);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(service) = self.forwards.live().services.get_mut(&self.service) {
            service.connections.remove(&self.number);
        }
    }
}

impl Forwards {
    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session is there: the service's name for it, and where its services are. What was counted of them before goes on.
    pub fn serve(&self, channel_id: Option<String>, places: impl IntoIterator<Item = (String, Option<Place>)>) {
        let mut live = self.live();
        live.channel_id = channel_id;
        let mut before = std::mem::take(&mut live.services);
        for (name, place) in places {
            let known = before.remove(&name).unwrap_or_default();
            let service = Service { before: place.clone().or(known.before), place, ..known };
            live.services.insert(name, service);
        }
        // Connections of a session that is on its way out find their counters still.
        before.retain(|_, service| !service.connections.is_empty());
        live.services.extend(before);
    }

    /// The session is over: nothing is listened for. Counters stay.
    pub fn rest(&self) {
        let mut live = self.live();
        live.channel_id = None;
        live.services.values_mut().for_each(|service| service.place = None);
    }

    /// The port that a service was listened for at last: it is taken again where any will do.
    pub(super) fn port_before(&self, service: &str) -> Option<u16> {
        self.live().services.get(service)?.before.as_ref()?.port()
    }

    /// The ids of streams and connections that the last session left.
    pub(super) fn ids(&self) -> Ids {
        self.live().ids.clone()
    }

    /// Keeps the ids for the next session.
    pub(super) fn keep_ids(&self, ids: Ids) {
        self.live().ids = ids;
    }

    /// The counters of a service.
    pub fn counters(&self, service: &str) -> Arc<ServiceCounters> {
        self.live().services.entry(service.to_owned()).or_default().counters.clone()
    }

    /// A connection of `service` has begun. `peer` says who or what is at its local end, for people.
    pub fn open(self: &Arc<Self>, service: &str, peer: String) -> Connection {
        let mut live = self.live();
        live.next += 1;
        let number = live.next;
        let entry = live.services.entry(service.to_owned()).or_default();
        let own = Arc::<Bytes>::default();
        entry.counters.connections.fetch_add(1, Relaxed);
        entry.connections.insert(number, Open { peer, since: SystemTime::now(), bytes: own.clone() });
        Connection { forwards: self.clone(), service: service.to_owned(), number, own, all: entry.counters.clone() }
    }

    /// Everything, as it is now.
    pub fn view(&self) -> View {
        let live = self.live();
        let services = live.services.iter().map(|(name, service)| {
            let count = |counter: &AtomicU64| counter.load(Relaxed);
            let counters = &service.counters;
            ServiceView {
                name: name.clone(),
                place: service.place.clone(),
                connections: service
                    .connections
                    .iter()
                    .map(|(number, open)| ConnectionView {
                        number: *number,
                        peer: open.peer.clone(),
                        since: open.since,
                        rx_bytes: count(&open.bytes.rx),
                        tx_bytes: count(&open.bytes.tx),
                    })
                    .collect(),
                counts: Counts {
                    connections: count(&counters.connections),
                    refused: count(&counters.refused),
                    unreachable: count(&counters.unreachable),
                    reset: count(&counters.reset),
                    too_slow: count(&counters.too_slow),
                    rx_bytes: count(&counters.rx_bytes),
                    tx_bytes: count(&counters.tx_bytes),
                },
            }
        });
        View { channel_id: live.channel_id.clone(), services: services.collect() }
    }

    /// The same without what changes all the time.
    pub fn places(&self) -> Places {
        let live = self.live();
        let services = live.services.iter().map(|(name, service)| (name.clone(), service.place.clone()));
        Places { channel_id: live.channel_id.clone(), services: services.collect() }
    }
}

/// Services and where they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// The service's name for the live session (`channel-id`).
    pub channel_id: Option<String>,
    /// By name; none: nothing is there now.
    pub services: BTreeMap<String, Option<Place>>,
}

/// A look at [`Forwards`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The service's name for the live session (`channel-id`).
    pub channel_id: Option<String>,
    /// In the order of their names.
    pub services: Vec<ServiceView>,
}

/// A look at one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceView {
    /// As the tunnel has it; empty: a tunnel without services.
    pub name: String,
    /// Where it is; none: no session.
    pub place: Option<Place>,
    /// The oldest first.
    pub connections: Vec<ConnectionView>,
    /// What was counted.
    pub counts: Counts,
}

/// A look at one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionView {
    /// Tells it from others of the tunnel; never used again.
    pub number: u64,
    /// Who or what is at its local end.
    pub peer: String,
    /// When it began.
    pub since: SystemTime,
    /// Bytes that went to the application.
    pub rx_bytes: u64,
    /// Bytes that came from it.
    pub tx_bytes: u64,
}

/// A look at [`ServiceCounters`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Counts {
    pub connections: u64,
    pub refused: u64,
    pub unreachable: u64,
    pub reset: u64,
    pub too_slow: u64,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_come_and_go_and_counters_stay() {
        let forwards = Arc::new(Forwards::default());
        let place = Place::Tcp("127.0.0.1:2222".parse().unwrap());
        forwards.serve(Some("channel".into()), [("SSH".to_owned(), Some(place.clone()))]);
        let connection = forwards.open("SSH", "127.0.0.1:40000".into());
        connection.received(3);
        connection.sent(5);
        let view = forwards.view();
        assert_eq!(view.channel_id.as_deref(), Some("channel"));
        let ssh = &view.services[0];
        assert_eq!((ssh.place.as_ref(), ssh.connections.len()), (Some(&place), 1));
        assert_eq!((ssh.connections[0].rx_bytes, ssh.connections[0].tx_bytes), (3, 5));
        forwards.rest();
        drop(connection);
        let ssh = &forwards.view().services[0];
        assert_eq!((ssh.place.as_ref(), ssh.connections.len()), (None, 0));
        assert_eq!((ssh.counts.connections, ssh.counts.rx_bytes, ssh.counts.tx_bytes), (1, 3, 5));
    }
}
