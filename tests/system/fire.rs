//! Packets that must not leave a blocked machine: a choice of the wire tier's sorts, sent again and again in the machine's
//! network by somebody whom nobody in the machine can stop, from before it boots if need be.

use crate::bed::{Bed, FAR, ROUTER, ROUTER6};
use crate::common::netns::Netns;
use crate::shot::{Link, Shot, Way, What};
use crate::sniffer::Frame;
use nix::sched::{CloneFlags, setns};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

/// It ends with this value.
pub struct Fire {
    probes: BTreeMap<u16, String>,
    since: SystemTime,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// To hosts far away and on the LAN, by routing and by name of the interface.
fn shots() -> Vec<Shot> {
    let mut shots = Vec::new();
    for to in [FAR[0], FAR[1], ROUTER, ROUTER6] {
        let at = |port| SocketAddr::new(to.parse().unwrap(), port);
        shots.extend([(What::Udp, 53), (What::Tcp, 80), (What::Echo, 0)].map(|(what, port)| Shot::new(what, at(port))));
        shots.extend([Way::Device, Way::PacketInfo].map(|way| Shot::new(What::Udp, at(9999)).by(way)));
    }
    shots
}

impl Fire {
    /// Opens fire in this network, which has a `lan0`.
    pub fn open(network: &Netns) -> Self {
        let index = network.run(|| nix::net::if_::if_nametoindex("lan0").unwrap());
        let link = Link { name: "lan0", index, address: "192.0.2.10".parse().unwrap() };
        let shots: Vec<(u16, Shot)> = (1..).zip(shots()).collect();
        let name = |shot: &Shot| format!("{:?} to {} by {:?}", shot.what, shot.to, shot.way);
        let probes = shots.iter().map(|(id, shot)| (*id, name(shot))).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let (namespace, stopped) = (std::fs::File::open(network.path()).unwrap(), stop.clone());
        let thread = std::thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            while !stopped.load(SeqCst) {
                // Refused, unreachable, without an address just now: all the same to us.
                shots.iter().for_each(|(id, shot)| drop(shot.fire(*id, &link)));
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Self { probes, since: SystemTime::now(), stop, thread: Some(thread) }
    }

    /// The control: every sort leaves, and the sniffer sees and tells each.
    #[track_caller]
    pub fn all_leave(&self, bed: &Bed) {
        let begun = SystemTime::now();
        let mut missing = self.probes.clone();
        crate::common::wait_for("every probe to leave an open machine", || {
            for frame in bed.sniffer.since(begun) {
                frame.probe.map(|probe| missing.remove(&probe));
            }
            missing.is_empty()
        });
    }

    /// From here on nothing is excused.
    pub fn nothing_may_leave(&mut self) {
        self.since = SystemTime::now();
    }

    /// Nothing has left since that moment that is not the tunnel's or the link's own.
    #[track_caller]
    pub fn nothing_left(&self, bed: &Bed, what: &str) {
        assert!(!self.thread.as_ref().unwrap().is_finished(), "somebody fires");
        let left: BTreeSet<String> =
            bed.left_beside_the_tunnel(self.since).iter().map(|frame| self.tell(frame)).collect();
        assert!(left.is_empty(), "{what}: {left:#?}");
    }

    fn tell(&self, frame: &Frame) -> String {
        let name = frame.probe.and_then(|probe| self.probes.get(&probe));
        let when = frame.at.duration_since(self.since).unwrap_or_default().as_millis();
        name.map_or_else(|| format!("{frame}, after {when} ms"), |name| format!("{name}: {frame}"))
    }
}

impl Drop for Fire {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking(), "the fire went out");
    }
}
