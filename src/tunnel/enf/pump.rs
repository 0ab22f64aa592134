//! Packets between the TUN and the wire, until one of them ends or the router is silent. It counts every packet it drops, and
//! never lets a bad packet end the session.
//!
//! Several sessions of a tunnel may live at the same time, on one TUN. All deliver what they receive; one takes packets:
//!
//! ```text
//! standby --first valid frame--> upstream --a newer session has it--> draining --closed, or too long--> over
//! asks for a sign of life        takes packets from the TUN           sends nothing, delivers what is still on the way
//! ```

use super::device;
use super::filter::{Filter, Ingress};
use super::frame2::{GoingAway, Why};
use super::heartbeat;
use super::liveness::{Beat, Clock};
use super::offload::Unit;
use super::queue::{Dropped, Queue};
use super::session::Spec;
use super::succession;
use super::wire::{Version, Wire, WireError};
use crate::config;
use crate::error::{Class, chain};
use crate::state::{Again, Ended, Failure, Link, Moment, Reason, SessionId};
use crate::sys::tun::Tun;
use crate::transport::tls;
use crate::tunnel::{Baton, Counters, DropReason, Proof, Reporter, SessionEvent, Upstream};
use std::io;
use std::net::{Ipv6Addr, Shutdown};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use tokio::time::sleep_until;

/// Packets, or super-packets, taken from the TUN before the wire is served again, and bytes.
const BATCH: usize = 64;
const BATCH_BYTES: usize = 256 * 1024;
/// A deadline that never comes.
const NEVER: Duration = Duration::from_secs(365 * 86_400);
/// How long a draining session leaves its own direction open: routers exist that throw away what they have for a client that
/// said goodbye.
const GRACE: Duration = Duration::from_millis(500);
/// A draining session ends after this time at the latest. More than a router gives it.
const DRAIN: Duration = Duration::from_secs(6);

/// Carries packets both ways. Both directions are served whenever the task wakes; neither waits for the other.
pub(super) struct Pump {
    id: SessionId,
    wire: Wire,
    tun: Arc<Tun>,
    filter: Filter,
    clock: Clock,
    counters: Arc<Counters>,
    upstream: Upstream,
    baton: watch::Receiver<Baton>,
    /// What stands for this session at the router.
    proof: Option<Proof>,
    probe: Arc<Notify>,
    own: Ipv6Addr,
    started: Instant,
    /// The router's first valid frame has arrived.
    ready: bool,
    /// The far end owes an answer for too long, which is not told yet.
    suspect: bool,
    draining: Option<Draining>,
    /// Packets wait until the socket takes more.
    waiting: bool,
    /// Bytes of the largest packet that may enter the tunnel.
    mtu: usize,
    /// What the far end has said of itself has been looked at.
    greeted: bool,
    name: String,
}

/// A newer session has taken over.
#[derive(Clone, Copy)]
struct Draining {
    since: Moment,
    goodbye: Goodbye,
}

/// How far the end of the own direction is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Goodbye {
    Unsaid,
    Sealed,
    Sent,
}

/// Why the pump stopped.
enum Stop {
    Wire(WireError),
    Tun(io::Error),
    Silent,
    Drained,
}

impl Pump {
    pub fn new(spec: &Spec, enf: &config::Enf, own: Ipv6Addr, mut wire: Wire) -> Self {
        wire.greet(spec.tun.offloads(), enf.tun.mtu);
        // The router shall know from the start that this is no other host.
        if let Some(predecessor) = spec.upstream.proof() {
            wire.push(&succession::claim(own, &predecessor));
        }
        let own_v4 = enf.tun.ipv4_address.filter(|_| spec.tunnel.route.allow_ipv4).map(|net| net.addr());
        let remote = &spec.tunnel.remote;
        Self {
            id: spec.id,
            proof: succession::proof(wire.tls()),
            wire,
            tun: spec.tun.clone(),
            filter: Filter::new(own, own_v4, &spec.tunnel.route.prefixes),
            clock: Clock::new(remote.heartbeat_period, remote.heartbeat_timeout, Duration::ZERO),
            counters: spec.counters.clone(),
            upstream: spec.upstream.clone(),
            baton: spec.upstream.watch(),
            probe: spec.probe.clone(),
            own,
            started: Instant::now(),
            ready: false,
            suspect: false,
            draining: None,
            waiting: false,
            mtu: usize::from(enf.tun.mtu),
            greeted: false,
            name: spec.tunnel.name.clone(),
        }
    }

    pub async fn run(mut self, link: Link, reporter: Reporter) -> Ended {
        let mut link = Some(link);
        let stop = loop {
            if let Err(stop) = self.turn() {
                break stop;
            }
            if self.ready
                && let Some(link) = link.take()
            {
                self.upstream.take(self.id, self.proof);
                // What the one before had no room for.
                self.waiting = true;
                // Otherwise a newer one was faster: nobody waits for this one any more.
                if self.upstream.belongs_to(self.id) {
                    self.counters.session_ready();
                    reporter.report(SessionEvent::Ready(link)).await;
                }
            }
            if std::mem::take(&mut self.suspect) {
                reporter.report(SessionEvent::Suspect).await;
            }
            if let Err(stop) = self.wait().await {
                break stop;
            }
        };
        let ended = self.ended(stop);
        // Never a word: whatever is there is no router that can be used.
        if let Some(Link { index, .. }) = link {
            reporter.report(SessionEvent::Refused { index, failure: ended.failure.clone() }).await;
        }
        ended
    }

    fn now(&self) -> Moment {
        self.started.elapsed()
    }

    /// Does what can be done without waiting.
    fn turn(&mut self) -> Result<(), Stop> {
        self.take_from_wire()?;
        if self.draining.is_none() && self.is_succeeded() {
            self.draining = Some(Draining { since: self.now(), goodbye: Goodbye::Unsaid });
            self.waiting = false;
        }
        match self.draining {
            Some(draining) => self.drain(draining)?,
            None => {
                self.claim_the_fallen();
                self.take_from_tun()?;
                self.beat()?;
            }
        }
        self.wire.flush().map_err(Stop::Wire)
    }

    /// A newer session takes packets.
    fn is_succeeded(&self) -> bool {
        self.baton.borrow().is_beyond(self.id)
    }

    /// The router may have given the address to a newer session that came to nothing: it comes back to this one.
    fn claim_the_fallen(&mut self) {
        if self.baton.borrow().has_fallen(self.id) {
            for proof in self.upstream.fallen(self.id) {
                self.wire.push(&succession::claim(self.own, &proof));
            }
        }
    }

    fn beat(&mut self) -> Result<(), Stop> {
        let now = self.now();
        loop {
            match self.clock.poll(now) {
                Beat::Dead => return Err(Stop::Silent),
                // Nothing has been heard yet of one in standby: it is not the path that it came for that is in doubt.
                Beat::Suspect => self.suspect |= self.ready,
                Beat::Send => match self.wire.version() {
                    Version::V1 => drop(self.wire.push(&heartbeat::request(self.own))),
                    Version::V2 => self.wire.ping(stamp(now)),
                },
                Beat::Wait => return Ok(()),
            }
        }
    }

    /// Nothing is sent any more but what waits already, and then the goodbye. What is still on the way from the router is
    /// delivered until it closes.
    fn drain(&mut self, mut draining: Draining) -> Result<(), Stop> {
        let drained_for = self.now().saturating_sub(draining.since);
        if drained_for >= DRAIN {
            return Err(Stop::Drained);
        }
        if draining.goodbye == Goodbye::Unsaid && drained_for >= GRACE {
            self.wire.close();
            draining.goodbye = Goodbye::Sealed;
        }
        if draining.goodbye == Goodbye::Sealed && !self.wire.pending() {
            let _ = socket2::SockRef::from(self.wire.socket()).shutdown(Shutdown::Write);
            draining.goodbye = Goodbye::Sent;
        }
        self.draining = Some(draining);
        Ok(())
    }

    fn take_from_wire(&mut self) -> Result<(), Stop> {
        let (filter, tun, counters) = (&self.filter, &self.tun, &self.counters);
        let (clock, ready, now) = (&mut self.clock, &mut self.ready, self.started.elapsed());
        let mut lost = None;
        let received = self.wire.receive(|unit| match filter.ingress(unit.packet, clock.awaited()) {
            Ingress::Deliver => {
                clock.heard(now);
                *ready = true;
                match device::send(tun, unit) {
                    Ok(()) => counters.received_units(unit.packets(), unit.wire_bytes()),
                    Err(error) => match write_verdict(&error) {
                        Some(reason) => counters.dropped_rx_units(reason, unit.packets()),
                        None => lost = Some(error),
                    },
                }
            }
            Ingress::HeartbeatReply => {
                *ready = true;
                if let Some(round_trip) = clock.answered(now) {
                    counters.heartbeat(round_trip);
                }
            }
            Ingress::Drop(reason) => counters.dropped_rx_units(reason, unit.packets()),
        });
        if let Some(error) = lost {
            return Err(Stop::Tun(error));
        }
        let received = received.map_err(Stop::Wire)?;
        if let Some(stamp) = received.ping {
            self.wire.pong(stamp);
        }
        if let Some(stamp) = received.pong.filter(|_| clock.awaited()) {
            *ready = true;
            if let Some(round_trip) = clock.answered_to(Duration::from_micros(stamp), now) {
                counters.heartbeat(round_trip);
            }
        }
        if !self.greeted
            && let Some(peer) = self.wire.peer()
        {
            self.greeted = true;
            if usize::from(peer.mtu) < self.mtu {
                log::warn!(ENFTUN_TUNNEL = self.name.as_str();
                    "the router takes packets of up to {} bytes, and longer ones of this host are dropped: write mtu = {} \
                     below [tun]", peer.mtu, peer.mtu);
            }
        }
        for (reason, packets) in received.thrown_away() {
            counters.dropped_rx_units(reason, packets);
        }
        Ok(())
    }

    fn take_from_tun(&mut self) -> Result<(), Stop> {
        let upstream = self.upstream.clone();
        upstream.while_mine(self.id, |waiting, now| self.take_batch(waiting, now)).unwrap_or(Ok(()))
    }

    /// Packets go straight to the wire as long as its socket takes them. What it does not take waits in fair order: a long
    /// transfer is told to slow down, and what others send goes before what has waited long.
    fn take_batch(&mut self, waiting: &mut Queue, now: Moment) -> Result<(), Stop> {
        let mut sent = self.send_waiting(waiting, now)?;
        let mut taken = 0;
        for _ in 0..BATCH {
            if taken >= BATCH_BYTES {
                break;
            }
            let (filter, mtu, wire, counters) = (&self.filter, self.mtu, &mut self.wire, &self.counters);
            let received = device::receive(&self.tun, |unit| {
                taken += unit.packet.len();
                let verdict = if unit.longest() <= mtu { filter.egress(unit.packet) } else { Err(DropReason::TooBig) };
                match verdict {
                    Err(reason) => counters.dropped_tx_units(reason, unit.packets()),
                    Ok(()) if waiting.is_empty() && wire.room() => {
                        sent = true;
                        push(wire, counters, unit);
                    }
                    Ok(()) => count(counters, waiting.push(unit, now)),
                }
            });
            match received {
                Ok(()) if self.wire.room() => {}
                Ok(()) => {
                    self.wire.flush().map_err(Stop::Wire)?;
                    sent |= self.send_waiting(waiting, now)?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => match read_verdict(&error) {
                    true => break,
                    false => return Err(Stop::Tun(error)),
                },
            }
        }
        if sent {
            self.clock.sent(self.now());
        }
        self.waiting = !waiting.is_empty();
        Ok(())
    }

    /// What waited goes first, as far as the socket takes it. Whether something went.
    fn send_waiting(&mut self, waiting: &mut Queue, now: Moment) -> Result<bool, Stop> {
        let mut sent = false;
        if !waiting.is_empty() {
            self.wire.flush().map_err(Stop::Wire)?;
        }
        while !waiting.is_empty() && self.wire.room() {
            let (next, dropped) = waiting.pop(now);
            count(&self.counters, dropped);
            if let Some(owned) = next {
                sent = true;
                push(&mut self.wire, &self.counters, owned.unit());
                waiting.recycle(owned);
            }
            if !self.wire.room() {
                self.wire.flush().map_err(Stop::Wire)?;
            }
        }
        Ok(sent)
    }

    /// Sleeps until there is something to do.
    async fn wait(&mut self) -> Result<(), Stop> {
        let at = self.started + self.next().unwrap_or(NEVER);
        let (id, draining, started) = (self.id, self.draining.is_some(), self.started);
        let taking = !draining && self.ready;
        tokio::select! {
            ready = self.wire.ready(self.wire.pending() || self.waiting) => {
                ready.map(|_| ()).map_err(|error| Stop::Wire(WireError::Reset(error)))
            }
            readable = self.tun.readable(), if taking => readable.map_err(Stop::Tun),
            _ = self.baton.wait_for(|baton| baton.is_beyond(id) || baton.has_fallen(id)), if !draining => Ok(()),
            () = self.probe.notified(), if !draining => {
                self.clock.probe(started.elapsed());
                Ok(())
            }
            () = sleep_until(at.into()) => Ok(()),
        }
    }

    /// When there is something to do although nothing happens.
    fn next(&self) -> Option<Moment> {
        match self.draining {
            Some(Draining { since, goodbye: Goodbye::Unsaid }) => Some(since + GRACE),
            Some(Draining { since, .. }) => Some(since + DRAIN),
            None => self.clock.next(),
        }
    }

    fn ended(&self, stop: Stop) -> Ended {
        let stop = if self.draining.is_some() || self.is_succeeded() { Stop::Drained } else { stop };
        let by_far_end = matches!(stop, Stop::Wire(WireError::Closed | WireError::Eof | WireError::Reset(_)));
        match self.wire.going_away().filter(|_| by_far_end) {
            Some(away) => {
                let wait = Duration::from_millis(away.after.into());
                Ended { failure: went_away(away, wait), unheard: false, again: Again::NotBefore(wait) }
            }
            None => Ended { unheard: by_far_end && !self.ready, ..Ended::of(self.failure(stop)) },
        }
    }

    fn failure(&self, stop: Stop) -> Failure {
        match stop {
            Stop::Drained => Failure::new(
                Reason::Superseded,
                Class::Transient,
                "a newer session of this tunnel has taken over, as it was meant to",
            ),
            Stop::Silent => Failure::new(
                Reason::HeartbeatTimeout,
                Class::Transient,
                "the router did not answer the heartbeat in time: the path to it, or the router, is dead",
            ),
            Stop::Tun(error) => Failure::new(
                Reason::LinkLost,
                Class::Transient,
                format!("the device {} is gone ({error}); it is made again", self.tun.name()),
            ),
            // Its socket knows no more than the address of a proxy, or none.
            Stop::Wire(WireError::Tls(error)) => tls::tls_failure(&error, "the router"),
            Stop::Wire(error) => {
                let reason = match &error {
                    WireError::TooLong(_) | WireError::Bad(_) => Reason::ProtocolError,
                    _ => Reason::RemoteClosed,
                };
                Failure::new(reason, error.class(), chain(&error))
            }
        }
    }
}

impl Drop for Pump {
    /// However a session ends, it says goodbye, so that the router forgets it at once.
    fn drop(&mut self) {
        self.wire.close();
        let thrown = self.upstream.leave(self.id, self.proof);
        self.counters.dropped_tx_units(DropReason::NotConnected, thrown);
    }
}

fn push(wire: &mut Wire, counters: &Counters, unit: Unit<'_>) {
    if wire.push_unit(unit) {
        counters.transmitted_units(unit.packets(), unit.wire_bytes());
    } else {
        counters.dropped_tx_units(DropReason::TooBig, unit.packets());
    }
}

fn count(counters: &Counters, dropped: Dropped) {
    if !dropped.is_none() {
        counters.dropped_tx_units(DropReason::QueueFull, dropped.packets);
    }
}

/// A moment in a ping.
fn stamp(moment: Moment) -> u64 {
    u64::try_from(moment.as_micros()).unwrap_or(u64::MAX)
}

/// Whoever may not come any more hears that from the next handshake, in words that nobody can forge.
fn went_away(away: GoingAway, wait: Duration) -> Failure {
    let again = match away.after {
        0 => String::new(),
        _ => format!("; it is not to be called again for {wait:?}"),
    };
    let (reason, why) = match away.why {
        Why::Unspecified => (Reason::GoingAway, "the router ended the session"),
        Why::ShuttingDown => (Reason::GoingAway, "the router is being shut down"),
        Why::Superseded => (
            Reason::Superseded,
            "the router gave the address to a newer session (does another host use the same certificate?)",
        ),
        Why::Revoked => (Reason::GoingAway, "the router says that this certificate may not be used any more"),
    };
    Failure::new(reason, Class::Transient, format!("{why}{again}"))
}

/// What an error of writing a packet to the TUN means: `Some` drops that one packet, `None` means that the device is gone.
fn write_verdict(error: &io::Error) -> Option<DropReason> {
    use nix::errno::Errno;
    match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
        // The device is down; somebody or something will bring it up again.
        Errno::EIO => Some(DropReason::TunDown),
        Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM => Some(DropReason::TunBusy),
        Errno::EINVAL | Errno::EMSGSIZE | Errno::EPERM => Some(DropReason::TunRefused),
        Errno::EINTR => Some(DropReason::TunBusy),
        _ => None,
    }
}

/// What an error of reading the TUN means: `true` goes on, `false` means that the device is gone.
fn read_verdict(error: &io::Error) -> bool {
    use nix::errno::Errno;
    matches!(
        Errno::from_raw(error.raw_os_error().unwrap_or(0)),
        Errno::EIO | Errno::EINTR | Errno::ENOBUFS | Errno::ENOMEM
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;

    #[test]
    fn one_bad_packet_is_dropped_and_counted_and_only_a_vanished_device_ends_the_session() {
        for (errno, expected) in [
            (Errno::EIO, Some(DropReason::TunDown)),
            (Errno::EAGAIN, Some(DropReason::TunBusy)),
            (Errno::ENOBUFS, Some(DropReason::TunBusy)),
            (Errno::ENOMEM, Some(DropReason::TunBusy)),
            (Errno::EINVAL, Some(DropReason::TunRefused)),
            (Errno::EMSGSIZE, Some(DropReason::TunRefused)),
            (Errno::EBADFD, None),
            (Errno::EBADF, None),
        ] {
            let error = io::Error::from(errno);
            assert_eq!(write_verdict(&error), expected, "{errno}");
        }
        for (errno, goes_on) in [(Errno::EIO, true), (Errno::EINTR, true), (Errno::EBADFD, false)] {
            assert_eq!(read_verdict(&io::Error::from(errno)), goes_on, "{errno}");
        }
    }
}
