//! A daemon without a tunnel: it answers requests as the real one does and publishes the snapshots a test asks for.

use enftun::daemon::{
    Answer, Caller, Command, Core, ForwardsSnapshot, GroupSnapshot, Refusal, Request, Snapshot, Tampering, Transition,
    TunnelSnapshot,
};
use enftun::error::Class;
use enftun::kernel::Firewall;
use enftun::state::{Failure, Phase, Reason, Target, Tls, WireVersion};
use enftun::tunnel::Counters;
use enftun::tunnel::aws::forwards::{Forwards, Place};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, watch};

#[derive(Clone)]
pub struct Simulation {
    snapshot: watch::Sender<Arc<Snapshot>>,
    asked: Arc<Mutex<Vec<(Request, Caller)>>>,
    refuse: Arc<Mutex<Option<Refusal>>>,
    late: Arc<Mutex<Option<Failure>>>,
    slow: Arc<AtomicBool>,
    willing: Arc<AtomicBool>,
}

/// Held by tests that change the level of the log, which is one for all.
pub static LOG_LEVEL: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// 2026-01-02 03:04:05 UTC
pub const SINCE: u64 = 1_767_323_045;

/// SHA-256 of nothing.
pub const CONFIG_HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

pub fn time(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

pub fn tls() -> Tls {
    Tls {
        version: "TLSv1.3".to_owned(),
        cipher: "TLS_AES_256_GCM_SHA384".to_owned(),
        peer_subject: "CN=router.example.net".to_owned(),
        peer_not_after: 1_900_000_000,
        local_not_after: 1_800_000_000,
        wire: WireVersion::V2,
    }
}

pub fn failure(reason: Reason, text: &str) -> Failure {
    Failure::new(reason, Class::Transient, text)
}

fn tunnel(name: &str) -> TunnelSnapshot {
    TunnelSnapshot {
        name: name.to_owned(),
        kind: "enf",
        state: Phase::Disconnected,
        target: Target::Down,
        reason: Reason::None,
        since: time(SINCE),
        last_error: None,
        attempt: 0,
        next_attempt: None,
        blocking: true,
        interface: Some(name.to_owned()),
        ifindex: None,
        mtu: 1280,
        addresses: Vec::new(),
        routes: vec!["::/0".parse().unwrap()],
        remotes: vec!["router.example.net:443".to_owned(), "[2001:db8::1]:443".to_owned()],
        active_remote: None,
        fwmark: 363,
        fwmark_mask: 0xffff_ffff,
        table: 2097,
        autoconnect: false,
        lockdown: "boot",
        dns: None,
        tls: None,
        counters: Arc::new(Counters::default()),
        forwards: None,
    }
}

fn group(name: &str) -> GroupSnapshot {
    GroupSnapshot {
        name: name.to_owned(),
        number: 364,
        configured: vec!["eth1".to_owned(), "wlan0".to_owned()],
        members: vec!["eth1".to_owned(), "wlan0".to_owned()],
        present: vec!["eth1".to_owned()],
    }
}

impl Simulation {
    /// A daemon with these tunnels that answers every request.
    pub fn new(tunnels: &[&str]) -> (Self, Core) {
        let (simulation, core, mut commands) = Self::stuck(tunnels);
        let answering = simulation.clone();
        tokio::spawn(async move {
            while let Some(command) = commands.recv().await {
                answering.answer(command);
            }
        });
        (simulation, core)
    }

    /// A daemon that answers nothing as long as its commands are held back.
    pub fn stuck(tunnels: &[&str]) -> (Self, Core, mpsc::Receiver<Command>) {
        let (send, commands) = mpsc::channel(16);
        let tunnels = tunnels.iter().map(|name| ((*name).to_owned(), Arc::new(tunnel(name)))).collect();
        let firewall = Firewall {
            policy: "table inet enftun {\n}\n".into(),
            in_force: true,
            generation: 3,
            verified: Some(time(SINCE)),
        };
        let config_hash = CONFIG_HASH.to_owned();
        let first = Snapshot { generation: 1, tunnels, firewall, config_hash, ..Snapshot::default() };
        let (snapshot, seen) = watch::channel(Arc::new(first));
        let simulation = Self {
            snapshot,
            asked: Arc::default(),
            refuse: Arc::default(),
            late: Arc::default(),
            slow: Arc::default(),
            willing: Arc::default(),
        };
        (simulation, Core::new(send, seen), commands)
    }

    fn answer(&self, command: Command) {
        let Command { request, caller, reply } = command;
        let refusal = self.refuse.lock().unwrap().clone();
        let asked = (request.clone(), caller);
        if let Some(refusal) = refusal {
            self.asked.lock().unwrap().push(asked);
            let _ = reply.send(Err(refusal));
            return;
        }
        let mut answer = Answer::Done;
        match &request {
            Request::Connect(name) => {
                if let Some(failure) = self.late.lock().unwrap().take() {
                    self.fail(name, Phase::Error, failure);
                }
                self.tunnel(name, |tunnel| tunnel.target = Target::Up);
                self.transition(name, Phase::Connecting, Reason::User);
                if self.willing.load(Relaxed) {
                    self.connected(name);
                }
            }
            Request::Disconnect(name) => {
                self.tunnel(name, |tunnel| tunnel.target = Target::Down);
                self.transition(name, Phase::Disconnecting, Reason::User);
                if !self.slow.load(Relaxed) {
                    self.transition(name, Phase::Disconnected, Reason::User);
                }
            }
            Request::Reconnect(name) | Request::RotateTokens { tunnel: name, .. } => {
                self.transition(name, Phase::Connecting, Reason::User)
            }
            Request::SetLockdown(name, on) => {
                self.tunnel(name, |tunnel| tunnel.lockdown = if *on { "boot" } else { "session" });
            }
            // As it shall be is what was shown to be.
            Request::Verify => answer = Answer::Verified(self.snapshot.borrow().firewall.in_force),
            Request::Plan(name) => answer = Answer::Plan(format!("# tunnel {name}\n")),
            Request::Trust { group, interface } => self.group(group, |group| group.members.push(interface.clone())),
            Request::Distrust { group, interface } => {
                self.group(group, |group| group.members.retain(|member| member != interface));
            }
            Request::SetLogLevel(level) => log::set_max_level(*level),
            Request::SetLogTarget(_) | Request::Reload(_) | Request::Sleep(_) | Request::Shutdown => {}
        }
        // Only now: a test that sees the request sees what it caused, too.
        self.asked.lock().unwrap().push(asked);
        let _ = reply.send(Ok(answer));
    }

    /// What was asked, and by whom.
    pub fn asked(&self) -> Vec<(Request, Caller)> {
        self.asked.lock().unwrap().clone()
    }

    /// Only the requests.
    pub fn requests(&self) -> Vec<Request> {
        self.asked().into_iter().map(|(request, _)| request).collect()
    }

    /// From now on every request gets this answer.
    pub fn refuse(&self, refusal: Refusal) {
        *self.refuse.lock().unwrap() = Some(refusal);
    }

    /// From now on whoever connects is connected at once.
    pub fn connect_at_once(&self) {
        self.willing.store(true, Relaxed);
    }

    /// From now on a way down does not come to its end.
    pub fn slow_down(&self) {
        self.slow.store(true, Relaxed);
    }

    /// An older attempt fails so while the next request to connect is on its way.
    pub fn fail_late(&self, failure: Failure) {
        *self.late.lock().unwrap() = Some(failure);
    }

    /// Publishes one snapshot with these changes.
    pub fn edit(&self, change: impl FnOnce(&mut Snapshot)) {
        self.snapshot.send_modify(|snapshot| {
            let mut next = (**snapshot).clone();
            next.generation += 1;
            change(&mut next);
            *snapshot = Arc::new(next);
        });
    }

    /// Publishes one snapshot with these changes to one tunnel.
    pub fn tunnel(&self, name: &str, change: impl FnOnce(&mut TunnelSnapshot)) {
        self.edit(|snapshot| change(Arc::make_mut(snapshot.tunnels.get_mut(name).unwrap())));
    }

    /// Publishes one snapshot with these changes to one trusted group, which is there from then on.
    pub fn group(&self, name: &str, change: impl FnOnce(&mut GroupSnapshot)) {
        self.edit(|snapshot| change(snapshot.groups.entry(name.to_owned()).or_insert_with(|| group(name))));
    }

    /// Makes a tunnel one of kind `aws-iot`, whose service SSH is listened for at a port that was left to chance, and DB at the
    /// path of a socket.
    pub fn forwards(&self, name: &str) -> Arc<Forwards> {
        let live = Arc::new(Forwards::default());
        let places = [
            ("SSH".to_owned(), Some(Place::Tcp("127.0.0.1:40123".parse().unwrap()))),
            ("DB".to_owned(), Some(Place::Unix("/run/db.sock".into()))),
        ];
        live.serve(Some("0ddba11".to_owned()), places);
        self.tunnel(name, |tunnel| {
            tunnel.kind = "aws-iot";
            (tunnel.interface, tunnel.mtu, tunnel.routes) = (None, 0, Vec::new());
            tunnel.remotes = vec!["data.tunneling.iot.eu-west-1.amazonaws.com:443".to_owned()];
            tunnel.forwards = Some(ForwardsSnapshot { mode: "source", places: live.places(), live: live.clone() });
        });
        live
    }

    /// What such a tunnel forwards.
    pub fn live(&self, name: &str) -> Arc<Forwards> {
        self.snapshot.borrow().tunnels[name].forwards.as_ref().unwrap().live.clone()
    }

    /// Publishes where its services are now.
    pub fn show_places(&self, name: &str) {
        self.tunnel(name, |tunnel| {
            let forwards = tunnel.forwards.as_mut().unwrap();
            forwards.places = forwards.live.places();
        });
    }

    /// The whole of a live session of such a tunnel.
    pub fn forwarding(&self, name: &str) {
        self.edit(|snapshot| {
            let entry = Arc::make_mut(snapshot.tunnels.get_mut(name).unwrap());
            (entry.target, entry.last_error) = (Target::Up, None);
            entry.active_remote = entry.remotes.first().cloned();
            entry.tls = Some(Tls { local_not_after: 0, wire: WireVersion::V1, ..tls() });
            transition(snapshot, name, Phase::Connected, Reason::User);
        });
    }

    pub fn add(&self, name: &str) {
        self.edit(|snapshot| drop(snapshot.tunnels.insert(name.to_owned(), Arc::new(tunnel(name)))));
    }

    pub fn remove(&self, name: &str) {
        self.edit(|snapshot| drop(snapshot.tunnels.remove(name)));
    }

    pub fn counters(&self, name: &str) -> Arc<Counters> {
        self.snapshot.borrow().tunnels[name].counters.clone()
    }

    /// One change of state, in a snapshot of its own.
    pub fn transition(&self, name: &str, new: Phase, reason: Reason) {
        self.edit(|snapshot| transition(snapshot, name, new, reason));
    }

    /// Something was put back, in a snapshot of its own.
    pub fn tamper(&self, what: &str) {
        self.edit(|snapshot| tamper(snapshot, what));
    }

    /// Into `state` for a failure.
    pub fn fail(&self, name: &str, new: Phase, failure: Failure) {
        self.edit(|snapshot| {
            let reason = failure.reason;
            let entry = Arc::make_mut(snapshot.tunnels.get_mut(name).unwrap());
            entry.last_error = Some(failure);
            entry.tls = None;
            entry.active_remote = None;
            transition(snapshot, name, new, reason);
        });
    }

    /// The whole of a live session.
    pub fn connected(&self, name: &str) {
        self.edit(|snapshot| {
            let entry = Arc::make_mut(snapshot.tunnels.get_mut(name).unwrap());
            entry.target = Target::Up;
            entry.last_error = None;
            entry.ifindex = Some(7);
            entry.addresses = vec!["fd00:8f80::1/128".parse().unwrap()];
            entry.active_remote = Some("router.example.net:443".to_owned());
            entry.tls = Some(tls());
            transition(snapshot, name, Phase::Connected, Reason::User);
        });
    }
}

/// Notes one change of state in a snapshot that is being made.
pub fn transition(snapshot: &mut Snapshot, name: &str, new: Phase, reason: Reason) {
    let entry = Arc::make_mut(snapshot.tunnels.get_mut(name).unwrap());
    let old = entry.state;
    entry.state = new;
    entry.reason = reason;
    entry.since = SystemTime::now();
    snapshot.transitions += 1;
    let number = snapshot.transitions;
    snapshot.history.push_back(Arc::new(Transition { number, tunnel: name.to_owned(), new, old, reason, error: None }));
    while snapshot.history.len() > enftun::daemon::snapshot::HISTORY {
        snapshot.history.pop_front();
    }
}

/// Notes one repair in a snapshot that is being made.
pub fn tamper(snapshot: &mut Snapshot, what: &str) {
    snapshot.tampered += 1;
    let number = snapshot.tampered;
    snapshot.tamperings.push_back(Arc::new(Tampering { number, what: what.to_owned() }));
    while snapshot.tamperings.len() > enftun::daemon::snapshot::HISTORY {
        snapshot.tamperings.pop_front();
    }
}
