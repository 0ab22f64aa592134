//! All sessions of the router: who has which address, who waits for it, who is on the way out. It moves no packet beyond
//! putting it into the queue of its receiver, and never waits.
//!
//! ```text
//!                                   +--- the newer one is gone ---+
//!                                   v                             |
//! handshake --> held ------> present --------------> superseded --+--> closing
//!                |  its turn     |  a newer session               |  5 s
//!                +---------------+--- told to end ----------------+
//! ```

use super::duplicates::Duplicates;
use super::forward::Client;
use super::outbox::{Outbox, Taken};
use super::routes::Routes;
use super::status::{SessionStatus, Sum, seconds};
use crate::state::{Moment, WireVersion};
use crate::tunnel::enf::frame2::{GoingAway, Why};
use crate::tunnel::enf::offload::Unit;
use crate::tunnel::enf::queue::Owned;
use crate::tunnel::{Counters, DropReason, Proof};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{
    AtomicBool, AtomicU8,
    Ordering::{AcqRel, Acquire, Release},
};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Instant, SystemTime};
use tokio::sync::Notify;

/// Where a session is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Another live host seems to have the address: it waits.
    Held,
    /// It has the address.
    Present,
    /// A newer session has the address; what is in flight is still taken.
    Superseded,
    /// Told to end.
    Closing,
}

impl Phase {
    /// The word in the status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Present => "present",
            Self::Superseded => "superseded",
            Self::Closing => "closing",
        }
    }
}

/// One session, as everybody but its own task sees it.
#[derive(Debug)]
pub struct Session {
    /// Tells sessions apart.
    pub id: u64,
    /// What its certificate entitles it to.
    pub client: Client,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// Since when.
    pub since: SystemTime,
    /// `TLSv1.3` or `TLSv1.2`.
    pub tls: &'static str,
    /// What it carries.
    pub wire: WireVersion,
    /// Received from the client, transmitted to it.
    pub counters: Counters,
    /// Its task shall look at its phase, and at its outbox.
    pub wake: Notify,
    /// What waits for the client.
    outbox: Outbox,
    phase: AtomicU8,
    /// What the client shall hear when this session is ended.
    away: OnceLock<GoingAway>,
    /// What stands for this session in a claim.
    proof: Option<Proof>,
    /// Another session of the same client has claimed it.
    moved: AtomicBool,
}

/// What becomes of a session that has just arrived.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It has its address.
    Present,
    /// It waits until then, or until the present session ends.
    Held(Instant),
    /// There are as many sessions as the configuration allows.
    TooMany,
    /// The router is shutting down.
    ShuttingDown,
}

/// The table of sessions.
#[derive(Debug)]
pub struct Sessions {
    max: usize,
    /// What every packet needs. Changed only under the lock of the book.
    routes: Routes,
    /// What only arrivals and departures need.
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    all: HashMap<u64, Arc<Session>>,
    /// The same by address, in the order of arrival.
    by_address: HashMap<Ipv6Addr, Vec<Arc<Session>>>,
    held: HashMap<Ipv6Addr, Arc<Session>>,
    /// Addresses that a session has.
    present: usize,
    duplicates: Duplicates,
    ended: Sum,
    last_id: u64,
    shutting_down: bool,
}

impl Session {
    /// Where it is in its life.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Acquire) {
            0 => Phase::Held,
            1 => Phase::Present,
            2 => Phase::Superseded,
            _ => Phase::Closing,
        }
    }

    /// Puts a packet into its outbox. When that is full, packets are dropped and counted: nobody waits for a slow client.
    pub fn deliver(&self, unit: Unit<'_>, now: Moment) {
        let put = self.outbox.put(unit, now);
        self.count_drops(put.dropped);
        if put.first {
            self.wake.notify_one();
        }
    }

    /// Takes the next packet out of its outbox, and gives back the one before.
    pub fn take(&self, before: Option<Owned>, now: Moment) -> Option<Owned> {
        let Taken { unit, dropped } = self.outbox.take(before, now);
        self.count_drops(dropped);
        unit
    }

    /// Gives back what was taken last.
    pub fn give_back(&self, before: Option<Owned>) {
        before.into_iter().for_each(|before| self.outbox.give_back(before));
    }

    fn count_drops(&self, packets: usize) {
        if packets > 0 {
            self.counters.dropped_tx_units(DropReason::QueueFull, packets);
        }
    }

    /// The client has another session, and goes over to it or has come back from it. It closes this one by itself.
    pub fn has_moved(&self) -> bool {
        self.moved.load(Acquire)
    }

    /// A superseded session is closed from now on. `false`: it is not superseded any more.
    pub fn give_up(&self) -> bool {
        let given_up = self.advance(Phase::Superseded, Phase::Closing);
        if given_up {
            let _ = self.away.set(GoingAway { why: Why::Superseded, after: 0 });
        }
        given_up
    }

    /// What the client shall hear of the end of this session.
    pub fn away(&self) -> GoingAway {
        self.away.get().copied().unwrap_or(GoingAway { why: Why::Unspecified, after: 0 })
    }

    /// Tells it to end.
    fn send_away(&self, away: GoingAway) {
        // The first reason holds.
        let _ = self.away.set(away);
        self.order(Phase::Closing);
    }

    fn advance(&self, from: Phase, to: Phase) -> bool {
        self.phase.compare_exchange(from as u8, to as u8, AcqRel, Acquire).is_ok()
    }

    fn order(&self, phase: Phase) {
        self.phase.store(phase as u8, Release);
        self.wake.notify_one();
    }

    fn status(&self) -> SessionStatus {
        let totals = self.counters.totals();
        SessionStatus {
            address: self.client.address,
            ipv4: self.client.ipv4,
            peer: self.peer,
            phase: self.phase().as_str().to_owned(),
            since: seconds(self.since),
            tls: self.tls.to_owned(),
            wire: self.wire.as_str().to_owned(),
            rx_bytes: totals.rx_bytes,
            rx_packets: totals.rx_packets,
            tx_bytes: totals.tx_bytes,
            tx_packets: totals.tx_packets,
            drops: Sum::drops_of(&self.counters),
            queue: self.outbox.packets(),
        }
    }
}

impl Sessions {
    /// An empty table for at most `max` addresses.
    pub fn new(max: usize) -> Self {
        Self { max, routes: Routes::default(), book: Mutex::default() }
    }

    /// A session that does not take part yet.
    pub fn create(
        &self,
        client: Client,
        peer: SocketAddr,
        tls: &'static str,
        wire: WireVersion,
        proof: Option<Proof>,
    ) -> Arc<Session> {
        let mut book = self.book();
        book.last_id += 1;
        let session = Session {
            id: book.last_id,
            client,
            peer,
            since: SystemTime::now(),
            tls,
            wire,
            counters: Counters::default(),
            wake: Notify::new(),
            outbox: Outbox::default(),
            phase: AtomicU8::new(Phase::Held as u8),
            away: OnceLock::new(),
            proof,
            moved: AtomicBool::new(false),
        };
        Arc::new(session)
    }

    /// A session takes part from now on: the newest one with an address has it, unless it must wait.
    pub fn arrive(&self, session: &Arc<Session>, now: Instant) -> Arrival {
        let address = session.client.address;
        let mut book = self.book();
        if book.shutting_down {
            return Arrival::ShuttingDown;
        }
        let taken = self.routes.find(address.into(), |_| ()).is_some();
        if !taken && book.present >= self.max {
            return Arrival::TooMany;
        }
        book.all.insert(session.id, Arc::clone(session));
        book.by_address.entry(address).or_default().push(Arc::clone(session));
        if let Some(until) = taken.then(|| book.duplicates.hold(address, now)).flatten() {
            if let Some(older) = book.held.insert(address, Arc::clone(session)) {
                older.send_away(GoingAway { why: Why::Superseded, after: 0 });
            }
            return Arrival::Held(until);
        }
        self.install(&mut book, session);
        book.duplicates.took_over(address);
        Arrival::Present
    }

    /// A session that was held has waited long enough.
    pub fn take_over(&self, session: &Arc<Session>) {
        let mut book = self.book();
        if book.held.get(&session.client.address).is_some_and(|held| held.id == session.id) {
            book.held.remove(&session.client.address);
            self.install(&mut book, session);
            book.duplicates.took_over(session.client.address);
        }
    }

    /// A session says, and proves, that another one belongs to the same client. That one is no other host, and if it has the
    /// address, the client wants it here instead, without waiting.
    pub fn claim(&self, by: &Arc<Session>, proof: Proof) {
        let address = by.client.address;
        let mut book = self.book();
        let of_address = book.by_address.get(&address).map_or(&[][..], Vec::as_slice);
        let Some(other) = of_address.iter().find(|other| other.id != by.id && other.proof == Some(proof)).cloned()
        else {
            return;
        };
        other.moved.store(true, Release);
        other.wake.notify_one();
        if self.routes.has(&other)
            && (by.advance(Phase::Superseded, Phase::Present) || by.advance(Phase::Held, Phase::Present))
        {
            if book.held.get(&address).is_some_and(|held| held.id == by.id) {
                book.held.remove(&address);
            }
            self.install(&mut book, by);
            other.moved.store(true, Release);
        }
    }

    /// A session is over. The address is free only if no newer session has it; one that was held gets it at once, else the
    /// newest of those that it was taken from.
    pub fn leave(&self, session: &Arc<Session>) {
        let address = session.client.address;
        let mut book = self.book();
        if book.all.remove(&session.id).is_some() {
            book.ended.add(&session.counters);
        }
        if let Some(of_address) = book.by_address.get_mut(&address) {
            of_address.retain(|other| other.id != session.id);
            if of_address.is_empty() {
                book.by_address.remove(&address);
            }
        }
        if book.held.get(&address).is_some_and(|held| held.id == session.id) {
            book.held.remove(&address);
        }
        self.release(&mut book, session);
    }

    /// Ends those sessions of an address at once: nothing is forwarded from or to them from now on, and they get a goodbye.
    /// Returns them.
    pub fn end(&self, address: Ipv6Addr, which: impl Fn(&Session) -> bool) -> Vec<Arc<Session>> {
        let mut book = self.book();
        let of_address = book.by_address.get(&address).map_or(&[][..], Vec::as_slice);
        let ended: Vec<_> =
            of_address.iter().filter(|session| session.phase() != Phase::Closing && which(session)).cloned().collect();
        for session in &ended {
            session.send_away(GoingAway { why: Why::Revoked, after: 0 });
            if book.held.get(&address).is_some_and(|held| held.id == session.id) {
                book.held.remove(&address);
            }
        }
        for session in &ended {
            self.release(&mut book, session);
        }
        ended
    }

    /// Every address that has a session, or had one that is not gone yet.
    pub fn addresses(&self) -> Vec<Ipv6Addr> {
        self.book().by_address.keys().copied().collect()
    }

    /// A session does not have its address any more, if it had it: the one that was held gets it, else the newest of those
    /// that it was taken from.
    fn release(&self, book: &mut Book, session: &Arc<Session>) {
        let address = session.client.address;
        if !self.routes.remove(session) {
            return;
        }
        book.present -= 1;
        if let Some(next) = book.held.remove(&address) {
            self.install(book, &next);
            book.duplicates.took_over(address);
        } else {
            let of_address = book.by_address.get(&address).map_or(&[][..], Vec::as_slice);
            let back = of_address.iter().rev().find(|other| other.advance(Phase::Superseded, Phase::Present)).cloned();
            if let Some(back) = back {
                self.install(book, &back);
            }
        }
    }

    fn install(&self, book: &mut Book, session: &Arc<Session>) {
        match self.routes.install(session) {
            Some(old) => old.order(Phase::Superseded),
            None => book.present += 1,
        }
        session.moved.store(false, Release);
        session.order(Phase::Present);
    }

    /// A superseded session turned out to be another live host. Returns how often that was seen of late.
    pub fn evidence(&self, address: Ipv6Addr, now: Instant) -> u32 {
        self.book().duplicates.evidence(address, now)
    }

    /// Calls `with` for the session that has the address; `None` when nobody has.
    pub fn find<T>(&self, address: IpAddr, with: impl FnOnce(&Session) -> T) -> Option<T> {
        self.routes.find(address, with)
    }

    /// Calls `with` for every session that has an address.
    pub fn each(&self, with: impl FnMut(&Session)) {
        self.routes.each(with);
    }

    /// Tells every session to end, and lets no new one in. `away` makes of the number of sessions what one of them hears.
    pub fn shut_down(&self, away: impl Fn(usize) -> GoingAway) {
        let mut book = self.book();
        book.shutting_down = true;
        for session in book.all.values() {
            session.send_away(away(book.all.len()));
        }
    }

    /// Every session in the order of arrival, what all of them counted since the start, and addresses with evidence of
    /// two hosts.
    pub fn report(&self, now: Instant) -> (Vec<SessionStatus>, Sum, Vec<(Ipv6Addr, u32)>) {
        let mut book = self.book();
        let mut all: Vec<_> = book.all.values().cloned().collect();
        let mut sum = book.ended.clone();
        let duplicates = book.duplicates.all(now);
        drop(book);
        all.sort_unstable_by_key(|session| session.id);
        all.iter().for_each(|session| sum.add(&session.counters));
        (all.iter().map(|session| session.status()).collect(), sum, duplicates)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::outbox::LIMIT;
    use super::*;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    const ADDRESS: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
    const OTHER: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

    fn session(sessions: &Sessions, address: Ipv6Addr, ipv4: Option<Ipv4Addr>) -> Arc<Session> {
        let client = Client { address, ipv4, enrolled: false };
        let session = sessions.create(client, "[::1]:1".parse().unwrap(), "TLSv1.3", WireVersion::V1, None);
        let proof = Some([u8::try_from(session.id).unwrap(); 16]);
        Arc::new(Session { proof, ..Arc::into_inner(session).unwrap() })
    }

    fn holder(sessions: &Sessions, address: impl Into<IpAddr>) -> Option<u64> {
        sessions.find(address.into(), |session| session.id)
    }

    #[test]
    fn the_newest_session_wins_and_a_late_close_of_the_old_one_changes_nothing() {
        let (sessions, now) = (Sessions::new(9), Instant::now());
        let v4 = Ipv4Addr::new(10, 0, 0, 1);
        let (old, new) = (session(&sessions, ADDRESS, Some(v4)), session(&sessions, ADDRESS, Some(v4)));
        assert_eq!(sessions.arrive(&old, now), Arrival::Present);
        assert_eq!(sessions.arrive(&new, now), Arrival::Present);
        assert_eq!((old.phase(), new.phase()), (Phase::Superseded, Phase::Present));
        sessions.leave(&old);
        assert_eq!(holder(&sessions, ADDRESS), Some(new.id));
        assert_eq!(holder(&sessions, v4), Some(new.id));
        sessions.leave(&new);
        assert_eq!(holder(&sessions, ADDRESS), None);
        assert_eq!(holder(&sessions, v4), None);
    }

    #[test]
    fn an_ipv4_address_goes_with_the_session_that_names_it() {
        let (sessions, now) = (Sessions::new(9), Instant::now());
        let v4 = Ipv4Addr::new(10, 0, 0, 1);
        sessions.arrive(&session(&sessions, ADDRESS, Some(v4)), now);
        sessions.arrive(&session(&sessions, ADDRESS, None), now);
        assert_eq!(holder(&sessions, v4), None, "the new certificate does not name it");
    }

    #[test]
    fn a_newcomer_waits_after_evidence_and_gets_the_address_when_the_present_session_ends() {
        let (sessions, now) = (Sessions::new(9), Instant::now());
        let present = session(&sessions, ADDRESS, None);
        sessions.arrive(&present, now);
        sessions.evidence(ADDRESS, now);
        let until = now + Duration::from_secs(2);
        let (first, second) = (session(&sessions, ADDRESS, None), session(&sessions, ADDRESS, None));
        assert_eq!(sessions.arrive(&first, now), Arrival::Held(until));
        assert_eq!(sessions.arrive(&second, now), Arrival::Held(until));
        assert_eq!(first.phase(), Phase::Closing, "one waits, the newest");
        assert_eq!(holder(&sessions, ADDRESS), Some(present.id));
        sessions.leave(&first);
        sessions.leave(&present);
        assert_eq!(holder(&sessions, ADDRESS), Some(second.id));
        assert_eq!(second.phase(), Phase::Present);
    }

    #[test]
    fn a_held_session_takes_over_once_and_only_while_it_waits() {
        let (sessions, now) = (Sessions::new(9), Instant::now());
        let (present, held) = (session(&sessions, ADDRESS, None), session(&sessions, ADDRESS, None));
        sessions.arrive(&present, now);
        sessions.evidence(ADDRESS, now);
        sessions.arrive(&held, now);
        sessions.take_over(&held);
        assert_eq!((present.phase(), held.phase()), (Phase::Superseded, Phase::Present));
        sessions.take_over(&present);
        assert_eq!(holder(&sessions, ADDRESS), Some(held.id), "the old one does not come back");
    }

    /// What stands for a session in these tests.
    fn proof(session: &Session) -> Proof {
        session.proof.unwrap()
    }

    #[test]
    fn who_proves_that_the_old_session_is_its_own_is_no_other_host() {
        let (sessions, now) = (Sessions::new(9), Instant::now());
        let (old, new, third) =
            (session(&sessions, ADDRESS, None), session(&sessions, ADDRESS, None), session(&sessions, OTHER, None));
        for one in [&old, &new, &third] {
            assert_eq!(sessions.arrive(one, now), Arrival::Present);
        }
        sessions.claim(&new, [0; 16]);
        sessions.claim(&third, proof(&old));
        sessions.claim(&old, proof(&old));
        assert!(!old.has_moved(), "only another session of the same address, and only by its proof");
        sessions.claim(&new, proof(&old));
        assert!(old.has_moved() && !new.has_moved());
        assert_eq!(
            (old.phase(), new.phase(), holder(&sessions, ADDRESS)),
            (Phase::Superseded, Phase::Present, Some(new.id))
        );
    }

    #[test]
    fn a_client_that_moves_need_not_wait_because_of_another_host() {
        let (sessions, now) = (Sessions::new(9), Instant::now());
        let (present, moved) = (session(&sessions, ADDRESS, None), session(&sessions, ADDRESS, None));
        sessions.arrive(&present, now);
        sessions.evidence(ADDRESS, now);
        assert!(matches!(sessions.arrive(&moved, now), Arrival::Held(_)));
        sessions.claim(&moved, proof(&present));
        assert_eq!((present.phase(), moved.phase()), (Phase::Superseded, Phase::Present));
        assert!(present.has_moved());
        // The other host waits as before, and is the only one that does.
        let other = session(&sessions, ADDRESS, None);
        assert!(matches!(sessions.arrive(&other, now), Arrival::Held(_)));
        sessions.leave(&moved);
        assert_eq!(holder(&sessions, ADDRESS), Some(other.id), "whoever waits comes before the old session");
    }

    #[test]
    fn the_old_session_takes_the_address_back_from_one_that_came_to_nothing() {
        let (sessions, now) = (Sessions::new(9), Instant::now());
        let v4 = Ipv4Addr::new(10, 0, 0, 1);
        let (old, vain) = (session(&sessions, ADDRESS, Some(v4)), session(&sessions, ADDRESS, Some(v4)));
        sessions.arrive(&old, now);
        sessions.arrive(&vain, now);
        sessions.claim(&vain, proof(&old));
        sessions.claim(&old, proof(&vain));
        assert_eq!((old.phase(), vain.phase()), (Phase::Present, Phase::Superseded));
        assert_eq!((holder(&sessions, ADDRESS), holder(&sessions, v4)), (Some(old.id), Some(old.id)));
        assert!(vain.has_moved() && !old.has_moved());
        sessions.leave(&vain);
        assert_eq!(holder(&sessions, ADDRESS), Some(old.id));
    }

    #[test]
    fn the_address_goes_back_when_the_newer_session_is_gone_to_one_that_is_not_given_up() {
        let (sessions, now) = (Sessions::new(9), Instant::now());
        let all: Vec<_> = (0..4).map(|_| session(&sessions, ADDRESS, None)).collect();
        all.iter().for_each(|one| assert_eq!(sessions.arrive(one, now), Arrival::Present));
        assert!(all[2].give_up());
        sessions.leave(&all[3]);
        assert_eq!(
            all.iter().map(|one| one.phase()).collect::<Vec<_>>()[..3],
            [Phase::Superseded, Phase::Present, Phase::Closing]
        );
        assert_eq!(holder(&sessions, ADDRESS), Some(all[1].id));
        assert!(!all[1].give_up(), "it is not superseded any more");
        sessions.leave(&all[0]);
        assert_eq!(holder(&sessions, ADDRESS), Some(all[1].id));
        sessions.leave(&all[1]);
        sessions.leave(&all[2]);
        assert_eq!(holder(&sessions, ADDRESS), None);
        assert!(sessions.book().by_address.is_empty(), "nothing is left behind");
    }

    #[test]
    fn more_addresses_than_allowed_are_refused_but_nobody_is_locked_out_of_his_own() {
        let (sessions, now) = (Sessions::new(1), Instant::now());
        assert_eq!(sessions.arrive(&session(&sessions, ADDRESS, None), now), Arrival::Present);
        assert_eq!(sessions.arrive(&session(&sessions, OTHER, None), now), Arrival::TooMany);
        assert_eq!(sessions.arrive(&session(&sessions, ADDRESS, None), now), Arrival::Present);
        sessions.shut_down(|_| GoingAway { why: Why::ShuttingDown, after: 7 });
        assert_eq!(sessions.arrive(&session(&sessions, ADDRESS, None), now), Arrival::ShuttingDown);
    }

    #[test]
    fn a_full_outbox_drops_and_counts() {
        let sessions = Sessions::new(1);
        let session = session(&sessions, ADDRESS, None);
        let (packet, sent) = ([6; 1000], 2 * LIMIT as u64 / 1000);
        for _ in 0..sent {
            session.deliver(Unit::plain(&packet), Moment::ZERO);
        }
        let waiting = session.status().queue as u64;
        assert!(waiting > 0 && waiting < sent);
        assert_eq!(session.counters.drop_reasons(), [(DropReason::QueueFull, sent - waiting)]);
        assert!(session.take(None, Moment::ZERO).is_some());
        assert_eq!(session.status().queue as u64, waiting - 1);
    }
}
