//! Follows the daemon's snapshots and tells the bus what changed: objects that came and went, the properties that have
//! another value, every change of state in order, every repair, and counters as often as somebody asked. One task; it alone
//! sends signals, but for that of a property which a caller has just set.

use super::gate::Gate;
use super::objects::{Firewall, Forwards, LogControl, Manager, Refresh, Statistics, TrustedGroup, Tunnel};
use super::passed::TokenReader;
use super::validation::Validator;
use super::{path, polkit};
use crate::daemon::{Core, GroupSnapshot, Snapshot, TunnelSnapshot};
use futures_util::StreamExt;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use zbus::connection::Builder;
use zbus::fdo::{ObjectManager, Properties};
use zbus::object_server::{Interface, SignalEmitter};
use zbus::{Connection, OwnedVariant, Variant};

type Values = HashMap<String, OwnedVariant>;

/// A sleep that something else always ends.
const LONG: Duration = Duration::from_secs(86_400);

/// The values of a served interface as the bus last heard them.
struct Served<I> {
    object: I,
    told: Values,
    /// Properties that are read and not told.
    silent: &'static [&'static str],
}

/// The objects of one tunnel.
struct OfTunnel {
    current: watch::Sender<Arc<TunnelSnapshot>>,
    tunnel: Served<Tunnel>,
    statistics: Served<Statistics>,
    forwards: Option<Served<Forwards>>,
    /// How often the counters are told, and when they are due.
    rate: Duration,
    due: Option<Instant>,
}

/// The object of one trusted group.
struct OfGroup {
    current: watch::Sender<GroupSnapshot>,
    group: Served<TrustedGroup>,
}

/// The state of the task, and the objects it serves.
pub(super) struct Follower {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    shown: watch::Sender<Arc<Snapshot>>,
    announced: watch::Sender<u64>,
    gate: Gate,
    manager: Served<Manager>,
    firewall: Served<Firewall>,
    tunnels: BTreeMap<String, OfTunnel>,
    groups: BTreeMap<String, OfGroup>,
    tokens: TokenReader,
    /// Wakes the task when somebody says how often counters are told.
    refreshed: Arc<tokio::sync::Notify>,
    /// The number of the last change of state that was told.
    told: u64,
    /// The number of the last repair that was told.
    told_of_repairs: u64,
}

impl Follower {
    /// Starts from the present snapshot: what happened before is not told again.
    pub fn new(core: Core, own_uid: u32) -> Self {
        let mut snapshots = core.subscribe();
        let first = snapshots.borrow_and_update().clone();
        let (announced, heard) = watch::channel(first.generation);
        let (shown, seen) = watch::channel(first.clone());
        let gate = Gate::new(core, own_uid, heard);
        let manager = Manager { gate: gate.clone(), shown: seen.clone(), validator: Validator::default() };
        let firewall = Firewall { gate: gate.clone(), shown: seen };
        let mut follower = Self {
            snapshots,
            shown,
            announced,
            gate,
            manager: Served::new(manager),
            firewall: Served { silent: &Firewall::SILENT, ..Served::new(firewall) },
            tunnels: BTreeMap::new(),
            groups: BTreeMap::new(),
            tokens: TokenReader::default(),
            refreshed: Arc::default(),
            told: first.transitions,
            told_of_repairs: first.tampered,
        };
        for tunnel in first.tunnels.values() {
            follower.tunnels.insert(tunnel.name.clone(), follower.of_tunnel(tunnel));
        }
        for group in first.groups.values() {
            follower.groups.insert(group.name.clone(), follower.of_group(group));
        }
        follower
    }

    fn of_tunnel(&self, snapshot: &Arc<TunnelSnapshot>) -> OfTunnel {
        let (current, seen) = watch::channel(snapshot.clone());
        let tunnel = Tunnel { name: snapshot.name.clone(), gate: self.gate.clone(), current: seen.clone() };
        let refresh = Refresh::new(self.refreshed.clone());
        let forwards = snapshot.forwards.as_ref().map(|_| {
            let (name, gate, reader) = (snapshot.name.clone(), self.gate.clone(), self.tokens.clone());
            let forwards = Forwards { name, gate, current: seen.clone(), reader };
            Served { silent: &Forwards::SILENT, ..Served::new(forwards) }
        });
        let statistics = Statistics { current: seen, gate: self.gate.clone(), refresh };
        OfTunnel {
            current,
            tunnel: Served::new(tunnel),
            statistics: Served { silent: &Statistics::SILENT, ..Served::new(statistics) },
            forwards,
            rate: Duration::ZERO,
            due: None,
        }
    }

    fn of_group(&self, snapshot: &GroupSnapshot) -> OfGroup {
        let (current, seen) = watch::channel(snapshot.clone());
        let group = TrustedGroup { name: snapshot.name.clone(), gate: self.gate.clone(), current: seen };
        OfGroup { current, group: Served::new(group) }
    }

    /// Registers every object of the present snapshot, before anybody can call.
    pub fn register<'a>(&self, mut builder: Builder<'a>) -> Builder<'a> {
        builder = builder
            .serve_at(path::LOG_CONTROL, LogControl { gate: self.gate.clone() })
            .serve_at(path::ROOT, ObjectManager)
            .serve_at(path::ROOT, self.firewall.object.clone())
            .serve_at(path::ROOT, self.manager.object.clone());
        for (name, entry) in &self.groups {
            builder = builder.serve_at(path::of_group(name).into_inner(), entry.group.object.clone());
        }
        for (name, entry) in &self.tunnels {
            let path = path::of_tunnel(name).into_inner();
            if let Some(forwards) = &entry.forwards {
                builder = builder.serve_at(path.clone(), forwards.object.clone());
            }
            builder = builder
                .serve_at(path.clone(), entry.statistics.object.clone())
                .serve_at(path, entry.tunnel.object.clone());
        }
        builder
    }

    /// Runs until the connection fails or the daemon is gone.
    pub async fn run(mut self, connection: &Connection) -> zbus::Result<()> {
        self.manager.told = values(&self.manager.object, connection, path::ROOT).await?;
        self.firewall.told = values(&self.firewall.object, connection, path::ROOT).await?;
        for (name, entry) in &mut self.tunnels {
            entry.note(connection, &path::of_tunnel(name)).await?;
        }
        for (name, entry) in &mut self.groups {
            entry.group.told = values(&entry.group.object, connection, &path::of_group(name)).await?;
        }
        // Without a bus there is no polkit.
        let mut permissions = match connection.is_bus() {
            true => polkit::changes(connection).await?.boxed(),
            false => futures_util::stream::pending().boxed(),
        };
        let refreshed = self.refreshed.clone();
        loop {
            let due = self.tunnels.values().filter_map(|entry| entry.due).min();
            tokio::select! {
                changed = self.snapshots.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let next = self.snapshots.borrow_and_update().clone();
                    self.tell(next, connection).await?;
                }
                Some(()) = permissions.next() => {
                    Manager::permissions_changed(&SignalEmitter::new(connection, path::ROOT)?).await?;
                }
                () = refreshed.notified() => self.schedule(connection).await?,
                () = sleep_until(due.unwrap_or_else(|| Instant::now() + LONG)) => self.tell_counters(connection).await?,
            }
        }
    }

    /// New objects first and gone objects last, so that every signal in between belongs to an object that is there;
    /// properties before `StateChanged`, so that whoever hears it has the properties of that state or a later one.
    async fn tell(&mut self, next: Arc<Snapshot>, connection: &Connection) -> zbus::Result<()> {
        let others = |(name, entry): (&String, &OfTunnel)| {
            let next = next.tunnels.get(name)?;
            (nature(&entry.current.borrow()) != nature(next)).then(|| name.clone())
        };
        for name in self.tunnels.iter().filter_map(others).collect::<Vec<_>>() {
            self.remove_tunnel(&name, connection).await?;
        }
        let mut changed = Vec::new();
        for (name, snapshot) in &next.tunnels {
            if let Some(entry) = self.tunnels.get(name)
                && !Arc::ptr_eq(&entry.current.send_replace(snapshot.clone()), snapshot)
            {
                changed.push(name);
            }
        }
        for (name, snapshot) in &next.groups {
            if let Some(entry) = self.groups.get(name) {
                entry.current.send_replace(snapshot.clone());
            }
        }
        self.shown.send_replace(next.clone());
        // From here on every read answers with the new values, however slowly the bus takes the signals.
        for (name, snapshot) in &next.tunnels {
            if !self.tunnels.contains_key(name) {
                self.add_tunnel(snapshot, connection).await?;
            }
        }
        for name in changed {
            if let Some(entry) = self.tunnels.get_mut(name) {
                let path = path::of_tunnel(name);
                if let Some(forwards) = &mut entry.forwards {
                    forwards.tell(connection, &path).await?;
                }
                entry.tunnel.tell(connection, &path).await?;
            }
        }
        for (name, snapshot) in &next.groups {
            match self.groups.get_mut(name) {
                Some(entry) => entry.group.tell(connection, &path::of_group(name)).await?,
                None => self.add_group(snapshot, connection).await?,
            }
        }
        self.manager.tell(connection, path::ROOT).await?;
        self.firewall.tell(connection, path::ROOT).await?;
        self.tell_repairs(&next, connection).await?;
        self.tell_transitions(&next, connection).await?;
        self.remove_gone(&next, connection).await?;
        self.announced.send_replace(next.generation);
        Ok(())
    }

    async fn add_tunnel(&mut self, snapshot: &Arc<TunnelSnapshot>, connection: &Connection) -> zbus::Result<()> {
        let path = path::of_tunnel(&snapshot.name);
        let mut entry = self.of_tunnel(snapshot);
        entry.note(connection, &path).await?;
        let server = connection.object_server();
        if let Some(forwards) = &entry.forwards {
            server.at(&path, forwards.object.clone()).await?;
        }
        server.at(&path, entry.statistics.object.clone()).await?;
        server.at(&path, entry.tunnel.object.clone()).await?;
        self.tunnels.insert(snapshot.name.clone(), entry);
        Ok(())
    }

    async fn add_group(&mut self, snapshot: &GroupSnapshot, connection: &Connection) -> zbus::Result<()> {
        let path = path::of_group(&snapshot.name);
        let mut entry = self.of_group(snapshot);
        entry.group.told = values(&entry.group.object, connection, &path).await?;
        connection.object_server().at(&path, entry.group.object.clone()).await?;
        self.groups.insert(snapshot.name.clone(), entry);
        Ok(())
    }

    async fn remove_tunnel(&mut self, name: &str, connection: &Connection) -> zbus::Result<()> {
        let Some(entry) = self.tunnels.remove(name) else { return Ok(()) };
        let (server, path) = (connection.object_server(), path::of_tunnel(name));
        server.remove::<Tunnel, _>(&path).await?;
        server.remove::<Statistics, _>(&path).await?;
        if entry.forwards.is_some() {
            server.remove::<Forwards, _>(&path).await?;
        }
        Ok(())
    }

    async fn remove_gone(&mut self, next: &Snapshot, connection: &Connection) -> zbus::Result<()> {
        let server = connection.object_server();
        let gone: Vec<String> = self.tunnels.keys().filter(|name| !next.tunnels.contains_key(*name)).cloned().collect();
        for name in gone {
            self.remove_tunnel(&name, connection).await?;
        }
        let gone: Vec<String> = self.groups.keys().filter(|name| !next.groups.contains_key(*name)).cloned().collect();
        for name in gone {
            server.remove::<TrustedGroup, _>(&path::of_group(&name)).await?;
            self.groups.remove(&name);
        }
        Ok(())
    }

    /// Takes over how often somebody wants to hear of the counters. What they were before is not told.
    async fn schedule(&mut self, connection: &Connection) -> zbus::Result<()> {
        for (name, entry) in &mut self.tunnels {
            let rate = entry.statistics.object.refresh.rate();
            if rate == entry.rate {
                continue;
            }
            entry.rate = rate;
            entry.due = (!rate.is_zero()).then(|| Instant::now() + rate);
            entry.statistics.told = values(&entry.statistics.object, connection, &path::of_tunnel(name)).await?;
        }
        Ok(())
    }

    /// Tells the counters that are due.
    async fn tell_counters(&mut self, connection: &Connection) -> zbus::Result<()> {
        let now = Instant::now();
        for (name, entry) in &mut self.tunnels {
            if entry.due.is_some_and(|due| due <= now) {
                entry.due = Some(now + entry.rate);
                entry.statistics.tell(connection, &path::of_tunnel(name)).await?;
            }
        }
        Ok(())
    }

    async fn tell_repairs(&mut self, next: &Snapshot, connection: &Connection) -> zbus::Result<()> {
        let emitter = SignalEmitter::new(connection, path::ROOT)?;
        for tampering in &next.tamperings {
            if tampering.number > self.told_of_repairs {
                self.told_of_repairs = tampering.number;
                Firewall::tampered(&emitter, &tampering.what).await?;
            }
        }
        Ok(())
    }

    async fn tell_transitions(&mut self, next: &Snapshot, connection: &Connection) -> zbus::Result<()> {
        for transition in &next.history {
            if transition.number <= self.told {
                continue;
            }
            let missed = transition.number - self.told - 1;
            if missed > 0 {
                log::warn!(
                    "the bus was too slow for {missed} changes of state; their StateChanged signals are missing"
                );
            }
            self.told = transition.number;
            let emitter = SignalEmitter::new(connection, path::of_tunnel(&transition.tunnel).into_inner())?;
            let (new, old, reason) = (transition.new.as_str(), transition.old.as_str(), transition.reason.as_str());
            Tunnel::transition(&emitter, new, old, reason).await?;
        }
        Ok(())
    }
}

/// What never changes on a tunnel's object: a tunnel that became another has another object.
fn nature(tunnel: &TunnelSnapshot) -> (&'static str, Option<&'static str>) {
    (tunnel.kind, tunnel.forwards.as_ref().map(|forwards| forwards.mode))
}

impl OfTunnel {
    /// What the bus hears from now on are changes.
    async fn note(&mut self, connection: &Connection, path: &str) -> zbus::Result<()> {
        self.tunnel.told = values(&self.tunnel.object, connection, path).await?;
        if let Some(forwards) = &mut self.forwards {
            forwards.told = values(&forwards.object, connection, path).await?;
        }
        Ok(())
    }
}

impl<I: Interface> Served<I> {
    fn new(object: I) -> Self {
        Self { object, told: Values::new(), silent: &[] }
    }

    /// One PropertiesChanged with exactly those properties that have another value than the bus last heard.
    async fn tell(&mut self, connection: &Connection, path: &str) -> zbus::Result<()> {
        let now = values(&self.object, connection, path).await?;
        let changed: HashMap<&str, Variant<'_>> = now
            .iter()
            .filter(|(name, value)| self.told.get(*name) != Some(value) && !self.silent.contains(&name.as_str()))
            .map(|(name, value)| Ok((name.as_str(), Variant::try_from(value)?)))
            .collect::<zbus::Result<_>>()?;
        if !changed.is_empty() {
            let emitter = SignalEmitter::new(connection, path)?;
            Properties::properties_changed(&emitter, I::name(), changed, Cow::Borrowed(&[])).await?;
        }
        self.told = now;
        Ok(())
    }
}

/// What `GetAll` would answer: the interface's own list of properties is the only one.
async fn values<I: Interface>(object: &I, connection: &Connection, path: &str) -> zbus::Result<Values> {
    let emitter = SignalEmitter::new(connection, path)?;
    Ok(object.get_all(connection.object_server(), connection, None, &emitter).await?)
}
