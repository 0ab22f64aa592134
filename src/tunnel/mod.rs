//! A live session of a tunnel: what the supervisor needs to know of any kind, and nothing of what a kind carries.
//!
//! A session dials, shakes hands and pumps by itself. It reports [`SessionEvent`]s, counts in [`Counters`], and ends when it
//! is told to or when it must. It never changes the host: links, routes and rules are the daemon's business.

pub mod aws;
pub mod counters;
pub mod enf;
pub mod reach;

pub use counters::{Counters, DropReason};

use crate::identity::KeyText;
use crate::state::health::Reach;
use crate::state::{Ended, Failure, Link, Moment, SessionId};
use enf::queue::Queue;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

/// How long a session that was told to stop may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// What a session tells the daemon.
#[derive(Debug)]
pub enum SessionEvent {
    /// It is about to ask these name servers, and waits for the answer: the firewall must know them first.
    Ask {
        /// Where questions will go.
        servers: Vec<SocketAddr>,
        /// Answered once they are allowed.
        granted: oneshot::Sender<()>,
    },
    /// It is about to send packets to these addresses, and waits for the answer: the firewall must know them first.
    Dial {
        /// The remote they belong to, as `host:port`.
        remote: String,
        /// Where packets will go: every address of it, or of the proxy on the way to it, that is known.
        addresses: Vec<SocketAddr>,
        /// They are a proxy's.
        proxied: bool,
        /// Name servers that are still being asked for more.
        servers: Vec<SocketAddr>,
        /// Answered once they are allowed.
        granted: oneshot::Sender<()>,
    },
    /// The tunnel is about to have this key enrolled, and waits until it is kept: whatever happens afterwards, it is there.
    Enrolling {
        /// The key.
        key: KeyText,
        /// Answered once it is kept, or cannot be.
        kept: oneshot::Sender<Result<(), Failure>>,
    },
    /// It is enrolled, and its certificate takes the place of the one before. Answered once it has, or cannot.
    Enrolled {
        /// The own address.
        address: Ipv6Addr,
        /// PEM.
        certificate: String,
        /// The answer.
        kept: oneshot::Sender<Result<(), Failure>>,
    },
    /// A remote cannot be used now; the next one is tried.
    Refused {
        /// Its place in `remote.hosts`.
        index: usize,
        /// Why.
        failure: Failure,
    },
    /// A remote ended the handshake over the wires that were offered by name, and takes who offers none.
    TakesNoNames {
        /// Its place in `remote.hosts`.
        index: usize,
    },
    /// No remote could be reached; what the network reaches instead.
    Connectivity(Reach),
    /// The far end has sent its first frame: packets can flow, and go out through this session from now on.
    Ready(Link),
    /// The far end owes an answer for longer than a path that works takes. The session goes on.
    Suspect,
    /// It is over; nothing follows.
    Ended(Ended),
}

/// Where a session's events go: marked with the tunnel's name and the session's number.
#[derive(Clone, Debug)]
pub struct Reporter {
    tunnel: String,
    session: SessionId,
    to: mpsc::Sender<(String, SessionId, SessionEvent)>,
}

impl Reporter {
    /// A reporter for one session.
    pub fn new(tunnel: &str, session: SessionId, to: mpsc::Sender<(String, SessionId, SessionEvent)>) -> Self {
        Self { tunnel: tunnel.to_owned(), session, to }
    }

    /// Tells the daemon; waits while its queue is full, and is silently dropped once it is gone.
    pub async fn report(&self, event: SessionEvent) {
        let _ = self.to.send((self.tunnel.clone(), self.session, event)).await;
    }
}

/// What only the two ends of one session know. It stands for that session where both ends can compare it.
pub type Proof = [u8; 16];

/// Which of a tunnel's sessions takes packets from the host: one at a time, always the newest that has heard from its far end.
/// What it took and its socket has no room for waits here, so that the next one has it.
#[derive(Clone, Debug)]
pub struct Upstream {
    baton: watch::Sender<Baton>,
    waiting: Arc<Mutex<Queue>>,
    /// What the times in the queue count from.
    since: Instant,
}

/// Most bytes that wait for the socket in one tunnel, with what is kept beside each packet.
const WAITING: usize = 1 << 20;

/// What the sessions of a tunnel know of each other.
#[derive(Debug, Default)]
pub struct Baton {
    /// The session that takes packets.
    holder: SessionId,
    /// It has not ended.
    live: bool,
    /// Its proof, while it lives.
    proof: Option<Proof>,
    /// Newer ones that ended before they heard from their far end, which may believe that they are there.
    fallen: Vec<Proof>,
}

impl Baton {
    /// A newer session than this one takes packets.
    pub fn is_beyond(&self, session: SessionId) -> bool {
        self.holder > session
    }

    /// This session takes packets, and newer ones have ended in vain.
    pub fn has_fallen(&self, session: SessionId) -> bool {
        self.holder == session && !self.fallen.is_empty()
    }
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            baton: watch::Sender::default(),
            waiting: Arc::new(Mutex::new(Queue::new(WAITING))),
            since: Instant::now(),
        }
    }
}

impl Upstream {
    /// This session takes packets from now on, unless a newer one does. Whoever is [taking](Self::while_mine) some finishes
    /// first.
    pub fn take(&self, session: SessionId, proof: Option<Proof>) {
        self.baton.send_if_modified(|baton| {
            let newer = session > baton.holder;
            if newer {
                *baton = Baton { holder: session, live: true, proof, fallen: Vec::new() };
            }
            newer
        });
    }

    /// This session takes packets.
    pub fn belongs_to(&self, session: SessionId) -> bool {
        self.baton.borrow().holder == session
    }

    /// Some session takes packets.
    pub fn is_live(&self) -> bool {
        self.baton.borrow().live
    }

    /// Runs `some` with what waits, and the time, while nobody else can take over; `None`: another session takes packets.
    /// `some` must not wait.
    pub fn while_mine<T>(&self, session: SessionId, some: impl FnOnce(&mut Queue, Moment) -> T) -> Option<T> {
        let baton = self.baton.borrow();
        (baton.holder == session).then(|| some(&mut self.waiting(), self.since.elapsed()))
    }

    fn waiting(&self) -> MutexGuard<'_, Queue> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn throw_away(&self) -> usize {
        let (mut waiting, mut packets) = (self.waiting(), 0);
        loop {
            let (next, dropped) = waiting.pop(self.since.elapsed());
            packets += dropped.packets;
            match next {
                Some(owned) => {
                    packets += owned.unit().packets();
                    waiting.recycle(owned);
                }
                None => return packets,
            }
        }
    }

    /// Tells of every change.
    pub fn watch(&self) -> watch::Receiver<Baton> {
        self.baton.subscribe()
    }

    /// The proof of the session that takes packets, if it lives.
    pub fn proof(&self) -> Option<Proof> {
        self.baton.borrow().proof
    }

    /// This session is over. If it never took packets, the one that does is told, so that it can tell the far end. Without a
    /// successor what waits is thrown away: nothing old is sent later. Returns how many packets that are.
    pub fn leave(&self, session: SessionId, proof: Option<Proof>) -> usize {
        let mut thrown = 0;
        self.baton.send_if_modified(|baton| {
            if session == baton.holder {
                (baton.live, baton.proof) = (false, None);
                thrown = self.throw_away();
            }
            let in_vain = proof.filter(|_| session > baton.holder && baton.proof.is_some());
            baton.fallen.extend(in_vain);
            in_vain.is_some()
        });
        thrown
    }

    /// The newer sessions that ended in vain since this was asked last, by the one that takes packets.
    pub fn fallen(&self, session: SessionId) -> Vec<Proof> {
        let mut fallen = Vec::new();
        self.baton.send_if_modified(|baton| {
            if baton.holder == session {
                fallen = std::mem::take(&mut baton.fallen);
            }
            false
        });
        fallen
    }
}

/// A running session. Dropping it ends it at once.
#[derive(Debug)]
pub struct Session {
    stop: Option<oneshot::Sender<()>>,
    probe: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Session {
    /// Takes over a task that ends soon after `stop` resolves.
    /// `probe` asks it for a sign of life of the far end, at once.
    pub fn new(stop: oneshot::Sender<()>, probe: Arc<Notify>, task: JoinHandle<()>) -> Self {
        Self { stop: Some(stop), probe, task }
    }

    /// Something happened to the path: the far end is asked for a sign of life now, and a silent one is told as
    /// [`SessionEvent::Suspect`] soon.
    pub fn probe(&self) {
        self.probe.notify_one();
    }

    /// Asks it to say goodbye, and waits until it is gone; after a second it is ended without.
    pub async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if tokio::time::timeout(GOODBYE, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_session_has_the_upstream_and_an_older_one_does_not_get_it_back() {
        let upstream = Upstream::default();
        let mut baton = upstream.watch();
        upstream.take(2, None);
        assert!(upstream.belongs_to(2) && baton.has_changed().unwrap());
        baton.mark_unchanged();
        upstream.take(1, None);
        upstream.take(2, None);
        assert!(upstream.belongs_to(2) && !upstream.belongs_to(1));
        assert!(!baton.has_changed().unwrap(), "nobody is woken for nothing");
        assert_eq!((upstream.while_mine(1, |_, _| ()), upstream.while_mine(2, |_, _| ())), (None, Some(())));
        upstream.take(3, None);
        assert!(baton.borrow_and_update().is_beyond(2) && !baton.borrow().is_beyond(3));
    }

    #[test]
    fn the_session_that_takes_packets_learns_of_newer_ones_that_ended_in_vain() {
        let upstream = Upstream::default();
        let baton = upstream.watch();
        upstream.leave(1, Some([1; 16]));
        assert!(!baton.borrow().has_fallen(0), "nobody is there who could tell the far end");
        upstream.take(2, Some([2; 16]));
        assert_eq!(upstream.proof(), Some([2; 16]));
        upstream.leave(1, Some([1; 16]));
        assert!(!baton.borrow().has_fallen(2), "an older one does not matter");
        upstream.leave(4, None);
        upstream.leave(3, Some([3; 16]));
        assert!(baton.borrow().has_fallen(2));
        assert_eq!((upstream.fallen(3), upstream.fallen(2), upstream.fallen(2)), (vec![], vec![[3; 16]], vec![]));
        assert!(upstream.is_live());
        upstream.leave(2, Some([2; 16]));
        assert!(!upstream.is_live());
        assert_eq!(upstream.proof(), None, "nobody can follow it any more");
    }

    #[test]
    fn nobody_takes_over_in_the_middle_of_a_packet() {
        use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
        let (upstream, taking) = (Upstream::default(), AtomicBool::new(false));
        upstream.take(1, None);
        // Each session reads as often as it may; two at the same time would find the flag set.
        std::thread::scope(|scope| {
            for session in 1..=4 {
                let (upstream, taking) = (&upstream, &taking);
                scope.spawn(move || {
                    upstream.take(session, None);
                    let mut turns = 0;
                    while turns < 1000 && upstream.belongs_to(session) {
                        upstream.while_mine(session, |_, _| {
                            assert!(!taking.swap(true, SeqCst), "two sessions take packets");
                            std::thread::yield_now();
                            taking.store(false, SeqCst);
                        });
                        turns += 1;
                    }
                });
            }
        });
        assert!(upstream.belongs_to(4));
    }
}
