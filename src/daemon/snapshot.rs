//! What the daemon shows of itself: an immutable value, replaced as a whole by the actor. Every reader (bus, status line,
//! metrics) answers from the latest one and never waits.

use crate::config::Dns;
use crate::kernel::Firewall;
use crate::state::health::{Connectivity, Warning};
use crate::state::{Failure, Phase, Reason, Target, Tls};
use crate::tunnel::Counters;
use crate::tunnel::aws::forwards::{Forwards, Places};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

/// How many changes of state and how many repairs a snapshot remembers; a reader that is slower than that misses signals, never state.
pub const HISTORY: usize = 64;

/// The daemon at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counts snapshots up from 1.
    pub generation: u64,
    /// Tunnels by name.
    pub tunnels: BTreeMap<String, Arc<TunnelSnapshot>>,
    /// Tunnels that are not there, because their files cannot be used or are gone, and that are blocked.
    pub kept: BTreeSet<String>,
    /// The latest changes of state, oldest first.
    pub history: VecDeque<Arc<Transition>>,
    /// How many changes there have been in all.
    pub transitions: u64,
    /// The host's firewall.
    pub firewall: Firewall,
    /// The latest repairs of what somebody else changed, as they were told, oldest first.
    pub tamperings: VecDeque<Arc<Tampering>>,
    /// How many of them there have been in all.
    pub tampered: u64,
    /// The tunnels are still being returned to what they were.
    pub starting: bool,
    /// Trusted groups by name.
    pub groups: BTreeMap<String, GroupSnapshot>,
    /// What somebody should look at, the gravest first.
    pub warnings: Vec<Warning>,
    /// What the network beside the tunnels reaches.
    pub connectivity: Connectivity,
    /// SHA-256 of the configuration in force, in hexadecimal.
    pub config_hash: String,
}

/// One group of trusted interfaces at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSnapshot {
    /// Its name.
    pub name: String,
    /// The kernel's number of it.
    pub number: u32,
    /// The interfaces in the file.
    pub configured: Vec<String>,
    /// The interfaces that are trusted now.
    pub members: Vec<String>,
    /// Those of them that exist.
    pub present: Vec<String>,
}

/// Something that was put back, or how often things were put back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tampering {
    /// Its number, counted from 1.
    pub number: u64,
    /// What belonged to whom, and what was done: one line.
    pub what: String,
}

/// One change of a tunnel's state.
#[derive(Clone, Debug)]
pub struct Transition {
    /// The number of this change, counted from 1.
    pub number: u64,
    /// The tunnel's name.
    pub tunnel: String,
    /// The new state.
    pub new: Phase,
    /// The state before.
    pub old: Phase,
    /// Why.
    pub reason: Reason,
    /// What went wrong, when something did.
    pub error: Option<Failure>,
}

/// One tunnel at one moment.
#[derive(Clone, Debug)]
pub struct TunnelSnapshot {
    /// Its name.
    pub name: String,
    /// `enf` or `aws-iot`.
    pub kind: &'static str,
    /// Where it is.
    pub state: Phase,
    /// Where it shall be.
    pub target: Target,
    /// Why it is there.
    pub reason: Reason,
    /// Since when it is there.
    pub since: SystemTime,
    /// The last thing that went wrong.
    pub last_error: Option<Failure>,
    /// Attempts since it was last connected.
    pub attempt: u32,
    /// When the next attempt is due.
    pub next_attempt: Option<SystemTime>,
    /// Traffic that belongs in the tunnel has no other way out right now: the firewall is in force, or, under
    /// `lockdown = "off"`, the routing.
    pub blocking: bool,
    /// The device's name, when the kind has one.
    pub interface: Option<String>,
    /// The device's index while it exists.
    pub ifindex: Option<u32>,
    /// MTU in bytes.
    pub mtu: u16,
    /// Own addresses on the device.
    pub addresses: Vec<IpNet>,
    /// What belongs in the tunnel.
    pub routes: Vec<IpNet>,
    /// Far ends as `host:port`, in order.
    pub remotes: Vec<String>,
    /// The far end of the live session.
    pub active_remote: Option<String>,
    /// Mark of our own packets.
    pub fwmark: u32,
    /// Its mask.
    pub fwmark_mask: u32,
    /// Routing table.
    pub table: u32,
    /// Connect when the daemon starts.
    pub autoconnect: bool,
    /// `boot`, `session` or `off`.
    pub lockdown: &'static str,
    /// Name servers inside the tunnel.
    pub dns: Option<Dns>,
    /// What TLS agreed on, in a live session.
    pub tls: Option<Tls>,
    /// Live counters, shared with the session.
    pub counters: Arc<Counters>,
    /// What it forwards, when the kind does.
    pub forwards: Option<ForwardsSnapshot>,
}

/// What a tunnel forwards, at one moment.
#[derive(Clone, Debug)]
pub struct ForwardsSnapshot {
    /// `source` or `destination`.
    pub mode: &'static str,
    /// The services of the live session, and where they are.
    pub places: Places,
    /// Connections and counters, shared with the session.
    pub live: Arc<Forwards>,
}

impl Snapshot {
    /// `disconnected`, `connecting`, `connected`, `degraded` or `error`: all tunnels that are wanted, in one word.
    pub fn state(&self) -> &'static str {
        let wanted: Vec<Phase> =
            self.tunnels.values().filter(|tunnel| tunnel.target == Target::Up).map(|tunnel| tunnel.state).collect();
        let connected = wanted.iter().filter(|state| **state == Phase::Connected).count();
        match wanted.len() {
            0 => "disconnected",
            all if connected == all => "connected",
            _ if connected > 0 => "degraded",
            _ if wanted.contains(&Phase::Error) => "error",
            _ => "connecting",
        }
    }

    /// Traffic that belongs in some tunnel has no other way out right now.
    pub fn blocking(&self) -> bool {
        (!self.kept.is_empty() && self.firewall.in_force) || self.tunnels.values().any(|tunnel| tunnel.blocking)
    }
}
