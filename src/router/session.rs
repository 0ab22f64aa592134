//! One session's task: packets from the client go where `forward` says, packets for it go out as fast as it takes them. A
//! session that was superseded listens a while longer, and tells whether there was another live host behind it.

use super::Hub;
use super::sessions::{Arrival, Phase, Session};
use crate::error::chain;
use crate::sys::tun::Offloads;
use crate::tunnel::DropReason;
use crate::tunnel::enf::frame;
use crate::tunnel::enf::offload::Unit;
use crate::tunnel::enf::packet;
use crate::tunnel::enf::succession;
use crate::tunnel::enf::wire::{Wire, WireError};
use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until, timeout};

/// How long a superseded session may still deliver what was in flight.
const IN_FLIGHT: Duration = Duration::from_secs(5);
/// The same for one whose client has said that it is its own: it goes by itself, as soon as the newer one has proved good.
const MOVED: Duration = Duration::from_secs(60);
/// Packets that a superseded session delivers later than this are no longer in flight: somebody is still sending.
const STILL_SENDING: Duration = Duration::from_secs(1);
/// Who answers a goodbye within this time was there all along.
const PROMPTLY: Duration = Duration::from_secs(1);
/// How long the far end may take to answer a goodbye.
pub const GOODBYE: Duration = Duration::from_secs(5);

/// What clients may send: what the far end of a packet does not take is split for it.
const TAKES: Offloads = Offloads { tcp: true, udp: true };
/// The longest packet that they may send: one that every wire carries.
const MTU: u16 = frame::MAX_PACKET as u16;

/// Everything that one session owns.
pub struct Task {
    /// What all sessions share.
    pub hub: Arc<Hub>,
    /// What others see of this session.
    pub me: Arc<Session>,
    /// The connection.
    pub wire: Box<Wire>,
    /// Its place among the connections.
    pub permit: OwnedSemaphorePermit,
    /// The client had sent no more than what was received last.
    pub drained: bool,
}

/// Why a session is over.
enum End {
    Wire(WireError),
    Superseded,
    Told,
}

/// The session takes part until this is dropped, also when its task panics.
struct Membership(Arc<Hub>, Arc<Session>);

impl Drop for Membership {
    fn drop(&mut self) {
        self.0.sessions.leave(&self.1);
    }
}

/// Runs a session to its end.
pub async fn run(mut task: Task) {
    task.wire.greet(TAKES, MTU);
    let membership = Membership(Arc::clone(&task.hub), Arc::clone(&task.me));
    let arrival = task.hub.sessions.arrive(&task.me, std::time::Instant::now());
    let (address, peer) = (task.me.client.address, task.me.peer);
    // Whoever was revoked after the handshake and before now was not found by the one who looks for sessions to end.
    super::revocation::judge(&task.hub, address);
    let held = match arrival {
        Arrival::Present => Ok(()),
        Arrival::Held(until) => {
            log::warn!(
                ENFTUN_ADDRESS:% = address, ENFTUN_PEER:% = peer;
                "{address}: another live host used this address just now; the session from {peer} has to wait"
            );
            Box::pin(task.held(until.into())).await
        }
        Arrival::TooMany | Arrival::ShuttingDown => {
            if arrival == Arrival::TooMany {
                task.hub.refused(peer, "there are as many sessions as max_sessions allows");
            }
            Box::pin(task.goodbye(GOODBYE)).await;
            return;
        }
    };
    let mut end = match held {
        Ok(()) => {
            log::info!(ENFTUN_ADDRESS:% = address, ENFTUN_PEER:% = peer, ENFTUN_TLS = task.me.tls; "{address}: session from {peer} started, wire {}", task.me.wire);
            task.present().await
        }
        Err(end) => end,
    };
    let why = loop {
        match end {
            End::Wire(error) => break chain(&error),
            End::Superseded => match Box::pin(task.superseded()).await {
                Some(why) => break why,
                None => {
                    log::info!(ENFTUN_ADDRESS:% = address, ENFTUN_PEER:% = peer; "{address}: the session from {peer} has the address again");
                    end = task.present().await;
                }
            },
            End::Told => {
                Box::pin(task.goodbye(GOODBYE)).await;
                break "closed by this router".to_owned();
            }
        }
    };
    let totals = task.me.counters.totals();
    log::info!(
        ENFTUN_ADDRESS:% = address, ENFTUN_PEER:% = peer, ENFTUN_RX_PACKETS = totals.rx_packets, ENFTUN_TX_PACKETS = totals.tx_packets;
        "{address}: session from {peer} ended: {why}"
    );
    drop(membership);
}

impl Task {
    async fn present(&mut self) -> End {
        loop {
            match self.me.phase() {
                Phase::Superseded => return End::Superseded,
                Phase::Closing => return End::Told,
                Phase::Held | Phase::Present => {}
            }
            if let Err(error) = self.send() {
                return End::Wire(error);
            }
            let pending = self.wire.pending();
            tokio::select! {
                () = self.me.wake.notified() => {}
                ready = self.wire.ready(pending) => {
                    if let Err(error) = self.receive_if_ready(ready) {
                        return End::Wire(error);
                    }
                    // What was forwarded waits for tasks that may be next on this very thread. They come first, or their
                    // outboxes overflow.
                    if !self.drained {
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
    }

    /// Waits for the address. The router's own answer is given late rather than never; all else goes nowhere.
    async fn held(&mut self, until: Instant) -> Result<(), End> {
        let (mut answer, mut ping) = (None, None);
        // The client may hear who we are.
        self.wire.flush().map_err(End::Wire)?;
        loop {
            tokio::select! {
                () = sleep_until(until) => self.hub.sessions.take_over(&self.me),
                () = self.me.wake.notified() => {}
                ready = self.wire.ready(false) => {
                    ready.map_err(|error| End::Wire(WireError::Reset(error)))?;
                    let (hub, me) = (&self.hub, &self.me);
                    let received = self.wire.receive(|unit| {
                        match (succession::claimed(unit.packet), packet::echo_reply(unit.packet, packet::ROUTER)) {
                            // It need not wait for itself.
                            (Some(proof), _) => hub.sessions.claim(me, proof),
                            (None, Some(reply)) => answer = Some(reply),
                            (None, None) => me.counters.dropped_rx_units(DropReason::NoRoute, unit.packets()),
                        }
                    });
                    let received = received.map_err(End::Wire)?;
                    received.thrown_away().for_each(|(reason, packets)| me.counters.dropped_rx_units(reason, packets));
                    ping = received.ping.or(ping);
                }
            }
            match self.me.phase() {
                Phase::Held => {}
                Phase::Closing => return Err(End::Told),
                Phase::Present | Phase::Superseded => {
                    ping.into_iter().for_each(|stamp| self.wire.pong(stamp));
                    answer.into_iter().for_each(|reply| self.me.deliver(Unit::plain(&reply), self.hub.now()));
                    return Ok(());
                }
            }
        }
    }

    /// A newer session has the address. What is still in flight is taken, then this one is closed. Returns why it is over, or
    /// nothing when the address has come back.
    async fn superseded(&mut self) -> Option<String> {
        let address = self.me.client.address;
        // Those who wait for the client are better off with its new session.
        let (now, mut next) = (self.hub.now(), self.me.take(None, self.hub.now()));
        while let Some(taken) = next {
            self.hub.sessions.find(address.into(), |successor| successor.deliver(taken.unit(), now));
            next = self.me.take(Some(taken), now);
        }
        let since = Instant::now();
        let mut still_sending = false;
        loop {
            let end = since + if self.me.has_moved() { MOVED } else { IN_FLIGHT };
            match self.me.phase() {
                Phase::Closing => break,
                Phase::Present => return None,
                Phase::Held | Phase::Superseded => {}
            }
            // Answers to signs of life that the client wants of this very session.
            let sent = self.send();
            let pending = self.wire.pending();
            let received = match sent {
                Err(error) => Err(error),
                Ok(()) => tokio::select! {
                    () = sleep_until(end) => break,
                    () = self.me.wake.notified() => Ok(0),
                    ready = self.wire.ready(pending) => self.receive_if_ready(ready),
                },
            };
            match received {
                Ok(packets) => still_sending |= packets > 0 && since.elapsed() > STILL_SENDING,
                Err(error) => {
                    // It went by itself, as a client does that has moved. It still gets what is sealed for it.
                    if matches!(error, WireError::Closed) {
                        self.rest().await;
                    }
                    return Some("a newer session took over".to_owned());
                }
            }
        }
        if !self.me.give_up() {
            match self.me.phase() {
                Phase::Present => return None,
                Phase::Held | Phase::Superseded | Phase::Closing => {
                    self.goodbye(GOODBYE).await;
                    return Some("closed by this router".to_owned());
                }
            }
        }
        let answered = self.goodbye(PROMPTLY).await;
        if !self.me.has_moved() && (still_sending || answered) {
            let count = self.hub.sessions.evidence(address, std::time::Instant::now());
            log::warn!(
                ENFTUN_ADDRESS:% = address, ENFTUN_PEER:% = self.me.peer;
                "{address}: two hosts use one certificate (seen {count} times of late; one of them at {}); newcomers have \
                 to wait. Give one of them a certificate of its own", self.me.peer
            );
        }
        Some("a newer session took over, and this one did not close by itself".to_owned())
    }

    /// The client says nothing more. It gets what is sealed for it, and a goodbye.
    async fn rest(&mut self) {
        self.wire.close();
        let sent = timeout(GOODBYE, async {
            while self.wire.pending() && self.wire.flush().is_ok() && self.wire.pending() {
                let _ = self.wire.socket().writable().await;
            }
        });
        let _ = sent.await;
    }

    /// Says goodbye and waits for the far end to go, at most this long. Whether it went.
    async fn goodbye(&mut self, within: Duration) -> bool {
        self.wire.go_away(self.me.away());
        self.wire.close();
        let mut said = false;
        let gone = timeout(within, async {
            loop {
                if !said && !self.wire.pending() {
                    said = true;
                    let _ = socket2::SockRef::from(self.wire.socket()).shutdown(Shutdown::Write);
                }
                let ready = self.wire.ready(self.wire.pending()).await;
                let outcome = match ready {
                    Ok(ready) if ready.read => self.wire.receive(|_| {}).map(drop),
                    Ok(_) => self.wire.flush(),
                    Err(error) => Err(WireError::Reset(error)),
                };
                match outcome {
                    Ok(()) => {}
                    Err(error) => return matches!(error, WireError::Closed | WireError::Eof),
                }
            }
        });
        gone.await.unwrap_or(false)
    }

    /// Hands the wire what it has room for.
    fn send(&mut self) -> Result<(), WireError> {
        let mut before = None;
        loop {
            let now = self.hub.now();
            while self.wire.room() {
                before = self.me.take(before, now);
                let Some(taken) = &before else { return self.wire.flush() };
                let unit = taken.unit();
                if self.wire.push_unit(unit) {
                    self.me.counters.transmitted_units(unit.packets(), unit.wire_bytes());
                } else {
                    self.me.counters.dropped_tx_units(DropReason::TooBig, unit.packets());
                }
            }
            let flushed = self.wire.flush();
            // As long as the socket keeps up there is no need to wait for it.
            if flushed.is_err() || !self.wire.room() {
                self.me.give_back(before);
                return flushed;
            }
        }
    }

    fn receive_if_ready(&mut self, ready: io::Result<crate::tunnel::enf::wire::Ready>) -> Result<usize, WireError> {
        if !ready.map_err(WireError::Reset)?.read {
            self.drained = true;
            return Ok(0);
        }
        let (hub, me, now) = (&self.hub, &self.me, self.hub.now());
        let received = self.wire.receive(|unit| hub.forward(me, unit, now))?;
        if let Some(stamp) = received.ping {
            self.wire.pong(stamp);
        }
        for (reason, packets) in received.thrown_away() {
            me.counters.dropped_rx_units(reason, packets);
        }
        self.drained = received.blocked;
        Ok(received.packets + usize::from(received.ping.is_some()))
    }
}
