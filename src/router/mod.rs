//! The far end: TLS listeners, one session per client address, forwarding between sessions and to an uplink into this host.
//!
//! | file | owns |
//! |---|---|
//! | [`forward`] | where a packet goes, as a pure decision |
//! | [`duplicates`] | two hosts on one certificate, as pure bookkeeping |
//! | [`sessions`], [`routes`] | who has which address, and how a packet finds that out |
//! | [`outbox`] | what waits for one session |
//! | [`session`] | one session's task |
//! | [`listen`], [`handshakes`] | sockets, handshakes and where they are computed, whom to let in |
//! | [`registry`], [`revocation`] | who is enrolled and who is revoked, on disk; the end of a revoked client's session |
//! | `enrol` | the interface that enrols clients |
//! | [`uplink`] | the TUN device |
//! | [`control`], [`status`] | what the router shows of itself |
//! | [`cli`] | `enftun-router` |
//!
//! A packet never waits for another client: each session has a bounded outbox, and what does not fit is dropped and counted.

pub mod cli;
pub mod control;
pub mod duplicates;
#[cfg(feature = "enrol")]
pub mod enrol;
mod error;
pub mod forward;
mod handshakes;
pub mod listen;
mod metrics;
pub mod outbox;
pub mod quiet;
pub mod registry;
mod revocation;
pub mod routes;
pub mod session;
pub mod sessions;
pub mod status;
pub mod uplink;

pub use error::RouterError;

use crate::config;
use crate::error::chain;
use crate::state::Moment;
use crate::tunnel::enf::device;
use crate::tunnel::enf::frame2::{GoingAway, Why};
use crate::tunnel::enf::offload::Unit;
use crate::tunnel::{Counters, DropReason};
use forward::{Rules, Verdict};
use listen::Trust;
use nix::errno::Errno;
use quiet::Quiet;
use sd_notify::NotifyState;
use sessions::{Session, Sessions};
use status::{Status, Sum, Totals, Warning};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use uplink::Uplink;

/// Connections beyond `max_sessions` that may shake hands or say goodbye at the same time.
const COMING_AND_GOING: usize = 1024;

/// When a router ends, clients are asked to come back one after another, with so many milliseconds for each of them, and all of
/// them within a minute.
const EACH: u64 = 2;
const ALL_ARE_BACK: u64 = 60_000;

/// What the outside asks of a running router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Read certificate, key and client CA again.
    Reload,
    /// Say goodbye to all and end.
    Stop,
}

/// What all sessions share.
pub struct Hub {
    /// Who has which address.
    pub sessions: Sessions,
    rules: Rules,
    uplink: Option<Uplink>,
    #[cfg(feature = "enrol")]
    enrol: Option<Arc<enrol::Interface>>,
    trust: RwLock<Arc<Trust>>,
    /// One per connection, from its first byte to its last.
    places: Arc<Semaphore>,
    all_places: u32,
    /// Where sessions run, and where handshakes are computed.
    packets: Handle,
    handshakes: Handle,
    stopping: watch::Sender<bool>,
    started: Instant,
    listeners: Vec<SocketAddr>,
    handshakes_failed: AtomicU64,
    connections_refused: AtomicU64,
    sessions_revoked: AtomicU64,
    refused_lines: Quiet,
    handshake_lines: Quiet,
}

/// Runs a router until it is told to stop. `passed` are listening sockets that somebody else opened.
///
/// # Errors
/// Whatever keeps it from starting. Once it runs, it runs.
pub async fn serve(
    config: &config::Router,
    passed: Vec<TcpListener>,
    mut orders: mpsc::Receiver<Order>,
) -> Result<(), RouterError> {
    let trust = Arc::new(Trust::load(config)?);
    let listeners = listen::open(&config.listen, passed)?;
    let uplink = match &config.tun {
        Some(tun) => Some(Uplink::open(tun).await?),
        None => None,
    };
    #[cfg(feature = "enrol")]
    let (interface, counter) = match &config.enrol {
        Some(enrol) => {
            let (interface, listener) = enrol::Interface::open(config, enrol)?;
            (Some(Arc::new(interface)), Some(listener))
        }
        None => (None, None),
    };
    let handshakes = handshakes::Threads::start()?;
    let control = control::Socket::bind(&config.control_socket)?;
    let all_places = u32::try_from((config.max_sessions + COMING_AND_GOING).min(Semaphore::MAX_PERMITS));
    let all_places = all_places.unwrap_or(u32::MAX);
    let hub = Arc::new(Hub {
        sessions: Sessions::new(config.max_sessions),
        rules: Rules {
            between_clients: config.between_clients,
            multicast: config.multicast,
            allow_ipv4: config.allow_ipv4,
            uplink: uplink.is_some(),
        },
        uplink,
        #[cfg(feature = "enrol")]
        enrol: interface,
        trust: RwLock::new(trust),
        places: Arc::new(Semaphore::new(all_places as usize)),
        all_places,
        packets: Handle::current(),
        handshakes: handshakes.handle(),
        stopping: watch::Sender::new(false),
        started: Instant::now(),
        listeners: listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect(),
        handshakes_failed: AtomicU64::new(0),
        connections_refused: AtomicU64::new(0),
        sessions_revoked: AtomicU64::new(0),
        refused_lines: Quiet::default(),
        handshake_lines: Quiet::default(),
    });

    // Dropped at the end: then nobody is let in any more.
    let mut doors = JoinSet::new();
    for listener in listeners {
        doors.spawn(listen::accept(listener, Arc::clone(&hub)));
    }
    doors.spawn(control::answer(control, Arc::clone(&hub)));
    doors.spawn(revocation::watch(Arc::clone(&hub), config.endpoints_dir.clone()));
    #[cfg(feature = "enrol")]
    if let (Some(interface), Some(listener)) = (&hub.enrol, counter) {
        log::info!(ENFTUN_LISTEN:% = interface.listener; "enrolling clients on {}", interface.listener);
        doors.spawn(enrol::accept(listener, Arc::clone(&hub), Arc::clone(interface)));
    }
    if hub.uplink.is_some() {
        doors.spawn(uplink::pump(Arc::clone(&hub)));
    }
    for address in &hub.listeners {
        log::info!(ENFTUN_LISTEN:% = address; "listening on {address}");
    }
    notify(NotifyState::Ready);

    while let Some(Order::Reload) = orders.recv().await {
        match Trust::load(config) {
            Ok(trust) => {
                *hub.trust.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(trust);
                log::info!("certificate, key and client CA were read again; new sessions use them");
            }
            Err(error) => log::error!("the certificate, key and client CA in use stay: {}", chain(&error)),
        }
    }

    notify(NotifyState::Stopping);
    doors.shutdown().await;
    hub.stopping.send_replace(true);
    hub.sessions.shut_down(|sessions| GoingAway { why: Why::ShuttingDown, after: comes_back_after(sessions) });
    let everybody = hub.places.acquire_many(hub.all_places);
    if tokio::time::timeout(session::GOODBYE + Duration::from_millis(500), everybody).await.is_err() {
        log::warn!("some clients did not answer the goodbye");
    }
    Ok(())
}

/// Milliseconds after which one of so many clients shall come back: at random, so that they do not come all at once.
fn comes_back_after(sessions: usize) -> u32 {
    let all = (sessions as u64).saturating_mul(EACH).min(ALL_ARE_BACK);
    u32::try_from(fastrand::u64(..=all)).unwrap_or_default()
}

/// Tells the service manager, if there is one.
fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        log::warn!("cannot tell the service manager: {error}");
    }
}

impl Hub {
    /// The time that outboxes go by.
    fn now(&self) -> Moment {
        self.started.elapsed()
    }

    /// Sends a packet from a client on its way.
    fn forward(&self, from: &Arc<Session>, unit: Unit<'_>, now: Moment) {
        let bytes = unit.packet;
        let dropped = match forward::from_client(bytes, &from.client, &self.rules) {
            Verdict::Drop(reason) => Some(reason),
            Verdict::Reply(reply) => {
                // The client asks whether this way works, not whether another one does.
                from.deliver(Unit::plain(&reply), now);
                None
            }
            Verdict::Claim(proof) => {
                self.sessions.claim(from, proof);
                None
            }
            Verdict::Unicast(to) => {
                let found = self.sessions.find(to, |target| {
                    let allowed = self.rules.between_clients || target.id == from.id;
                    if allowed {
                        target.deliver(unit, now);
                    }
                    allowed
                });
                match found {
                    Some(true) => None,
                    Some(false) => Some(DropReason::NoRoute),
                    None => self.to_uplink(unit),
                }
            }
            Verdict::Spread { uplink, sessions } => {
                if sessions {
                    self.sessions.each(|target| {
                        if target.client.address != from.client.address {
                            target.deliver(unit, now);
                        }
                    });
                }
                // The copies are on their way whatever the uplink says.
                if uplink { self.to_uplink(unit).filter(|_| !sessions) } else { None }
            }
        };
        match dropped {
            None => from.counters.received_units(unit.packets(), unit.wire_bytes()),
            Some(reason) => from.counters.dropped_rx_units(reason, unit.packets()),
        }
    }

    /// Hands a packet to this host; says why not.
    fn to_uplink(&self, unit: Unit<'_>) -> Option<DropReason> {
        let Some(uplink) = &self.uplink else { return Some(DropReason::NoRoute) };
        match device::send(&uplink.tun, unit) {
            Ok(()) => {
                uplink.counters.transmitted_units(unit.packets(), unit.wire_bytes());
                None
            }
            Err(error) => {
                let reason = drop_reason(&error);
                uplink.counters.dropped_tx_units(reason, unit.packets());
                Some(reason)
            }
        }
    }

    /// Sends a packet from this host on its way.
    fn forward_from_host(&self, unit: Unit<'_>, now: Moment, counters: &Counters) {
        let bytes = unit.packet;
        let outcome = forward::from_uplink(bytes, &self.rules)
            .and_then(|to| self.sessions.find(to, |target| target.deliver(unit, now)).ok_or(DropReason::NoRoute));
        match outcome {
            Ok(()) => counters.received_units(unit.packets(), unit.wire_bytes()),
            Err(reason) => counters.dropped_rx_units(reason, unit.packets()),
        }
    }

    /// A connection was one too many.
    fn refused(&self, peer: SocketAddr, why: &str) {
        self.connections_refused.fetch_add(1, Relaxed);
        if let Some(more) = self.refused_lines.allows() {
            log::warn!(ENFTUN_PEER:% = peer; "{peer} was refused: {why}{}", quiet::and_more(more));
        }
    }

    /// Everything that `enftun-router status` shows.
    pub fn status(&self) -> Status {
        let (sessions, sum, duplicates) = self.sessions.report(Instant::now());
        let mut uplink = Sum::default();
        if let Some(Uplink { counters, .. }) = &self.uplink {
            uplink.add(counters);
        }
        Status {
            schema: 1,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime: self.started.elapsed().as_secs(),
            listeners: self.listeners.clone(),
            uplink: self.uplink.as_ref().map(|uplink| uplink.tun.name().to_owned()),
            certificate_not_after: self.trust().not_after,
            enrol: self.enrol_status(),
            sessions,
            totals: Totals {
                handshakes_failed: self.handshakes_failed.load(Relaxed),
                refused: self.connections_refused.load(Relaxed),
                revoked: self.sessions_revoked.load(Relaxed),
                sum,
                uplink,
            },
            warnings: duplicates.into_iter().map(|(address, count)| Warning::duplicate(address, count)).collect(),
        }
    }

    #[cfg(feature = "enrol")]
    fn enrol_status(&self) -> Option<status::EnrolStatus> {
        self.enrol.as_ref().map(|interface| interface.desk.status(interface.listener))
    }

    #[cfg(not(feature = "enrol"))]
    fn enrol_status(&self) -> Option<status::EnrolStatus> {
        None
    }

    fn trust(&self) -> Arc<Trust> {
        Arc::clone(&self.trust.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What the kernel means by refusing a packet.
fn drop_reason(error: &io::Error) -> DropReason {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EIO) => DropReason::TunDown,
        Some(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM) => DropReason::TunBusy,
        _ => DropReason::TunRefused,
    }
}
