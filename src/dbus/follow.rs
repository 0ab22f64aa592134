//! Follows the daemon's snapshots and tells the bus what changed: objects that came and went, the properties that have
//! another value, every change of state in order, and every repair. One task; it alone sends signals.

use super::gate::Gate;
use super::objects::{Firewall, Manager, Statistics, Tunnel};
use super::path;
use crate::daemon::{Core, Snapshot, TunnelSnapshot};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use tokio::sync::watch;
use zbus::connection::Builder;
use zbus::fdo::{ObjectManager, Properties};
use zbus::object_server::{Interface, SignalEmitter};
use zbus::{Connection, OwnedVariant, Variant};

type Values = HashMap<String, OwnedVariant>;

/// The values of a served interface as the bus last heard them.
struct Served<I> {
    object: I,
    told: Values,
    /// Properties that are read and not told.
    silent: &'static [&'static str],
}

struct Entry {
    current: watch::Sender<Arc<TunnelSnapshot>>,
    tunnel: Served<Tunnel>,
}

/// The state of the task, and the objects it serves.
pub(super) struct Follower {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    shown: watch::Sender<Arc<Snapshot>>,
    announced: watch::Sender<u64>,
    gate: Gate,
    manager: Served<Manager>,
    firewall: Served<Firewall>,
    tunnels: BTreeMap<String, Entry>,
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
        let manager = Manager { gate: gate.clone(), shown: seen.clone() };
        let firewall = Firewall { gate: gate.clone(), shown: seen };
        let mut follower = Self {
            snapshots,
            shown,
            announced,
            gate,
            manager: Served { object: manager, told: Values::new(), silent: &[] },
            firewall: Served { object: firewall, told: Values::new(), silent: &Firewall::SILENT },
            tunnels: BTreeMap::new(),
            told: first.transitions,
            told_of_repairs: first.tampered,
        };
        for tunnel in first.tunnels.values() {
            follower.tunnels.insert(tunnel.name.clone(), follower.entry(tunnel));
        }
        follower
    }

    fn entry(&self, snapshot: &Arc<TunnelSnapshot>) -> Entry {
        let (current, seen) = watch::channel(snapshot.clone());
        let object = Tunnel { name: snapshot.name.clone(), gate: self.gate.clone(), current: seen };
        Entry { current, tunnel: Served { object, told: Values::new(), silent: &[] } }
    }

    /// Registers every object of the present snapshot, before anybody can call.
    pub fn register<'a>(&self, mut builder: Builder<'a>) -> Builder<'a> {
        builder = builder
            .serve_at(path::ROOT, ObjectManager)
            .serve_at(path::ROOT, self.firewall.object.clone())
            .serve_at(path::ROOT, self.manager.object.clone());
        for (name, entry) in &self.tunnels {
            let path = path::of_tunnel(name).into_inner();
            builder = builder
                .serve_at(path.clone(), Statistics { current: entry.current.subscribe() })
                .serve_at(path, entry.tunnel.object.clone());
        }
        builder
    }

    /// Runs until the connection fails or the daemon is gone.
    pub async fn run(mut self, connection: &Connection) -> zbus::Result<()> {
        self.manager.told = values(&self.manager.object, connection, path::ROOT).await?;
        self.firewall.told = values(&self.firewall.object, connection, path::ROOT).await?;
        for (name, entry) in &mut self.tunnels {
            entry.tunnel.told = values(&entry.tunnel.object, connection, &path::of_tunnel(name)).await?;
        }
        while self.snapshots.changed().await.is_ok() {
            let next = self.snapshots.borrow_and_update().clone();
            self.tell(next, connection).await?;
        }
        Ok(())
    }

    /// New objects first and gone objects last, so that every signal in between belongs to an object that is there;
    /// properties before `StateChanged`, so that whoever hears it has the properties of that state or a later one.
    async fn tell(&mut self, next: Arc<Snapshot>, connection: &Connection) -> zbus::Result<()> {
        let mut changed = Vec::new();
        for (name, snapshot) in &next.tunnels {
            if let Some(entry) = self.tunnels.get(name)
                && !Arc::ptr_eq(&entry.current.send_replace(snapshot.clone()), snapshot)
            {
                changed.push(name);
            }
        }
        self.shown.send_replace(next.clone());
        // From here on every read answers with the new values, however slowly the bus takes the signals.
        for (name, snapshot) in &next.tunnels {
            if !self.tunnels.contains_key(name) {
                self.add(snapshot, connection).await?;
            }
        }
        for name in changed {
            if let Some(entry) = self.tunnels.get_mut(name) {
                entry.tunnel.tell(connection, &path::of_tunnel(name)).await?;
            }
        }
        self.manager.tell(connection, path::ROOT).await?;
        self.firewall.tell(connection, path::ROOT).await?;
        self.tell_repairs(&next, connection).await?;
        self.tell_transitions(&next, connection).await?;
        let gone: Vec<String> = self.tunnels.keys().filter(|name| !next.tunnels.contains_key(*name)).cloned().collect();
        for name in gone {
            let path = path::of_tunnel(&name);
            connection.object_server().remove::<Tunnel, _>(&path).await?;
            connection.object_server().remove::<Statistics, _>(&path).await?;
            self.tunnels.remove(&name);
        }
        self.announced.send_replace(next.generation);
        Ok(())
    }

    async fn add(&mut self, snapshot: &Arc<TunnelSnapshot>, connection: &Connection) -> zbus::Result<()> {
        let path = path::of_tunnel(&snapshot.name);
        let mut entry = self.entry(snapshot);
        entry.tunnel.told = values(&entry.tunnel.object, connection, &path).await?;
        let server = connection.object_server();
        server.at(&path, Statistics { current: entry.current.subscribe() }).await?;
        server.at(&path, entry.tunnel.object.clone()).await?;
        self.tunnels.insert(snapshot.name.clone(), entry);
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

impl<I: Interface> Served<I> {
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
