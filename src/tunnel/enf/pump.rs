//! Packets between the TUN and the wire, until one of them ends or the router is silent. It counts every packet it drops, and
//! never lets a bad packet end the session.

use super::filter::{Filter, Ingress};
use super::heartbeat::{self, Beat, Clock};
use super::session::Spec;
use super::wire::{Wire, WireError};
use crate::config;
use crate::error::{Class, chain};
use crate::state::{Ended, Failure, Link, Moment, Reason};
use crate::sys::tun::Tun;
use crate::transport::tls;
use crate::tunnel::{Counters, DropReason, Reporter, SessionEvent};
use std::io;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::sleep_until;

/// Packets taken from the TUN before the wire is served again.
const BATCH: usize = 64;
/// More than the largest MTU, so that a packet that is too big is seen as such.
const READ: usize = 2048;
/// A deadline that never comes.
const NEVER: Duration = Duration::from_secs(365 * 86_400);

/// Carries packets both ways. Both directions are served whenever the task wakes; neither waits for the other.
pub(super) struct Pump {
    wire: Wire,
    tun: Arc<Tun>,
    filter: Filter,
    clock: Clock,
    counters: Arc<Counters>,
    own: Ipv6Addr,
    started: Instant,
    /// The router's first valid frame has arrived.
    ready: bool,
    /// Bytes of the largest packet that may enter the tunnel.
    mtu: usize,
}

/// Why the pump stopped.
enum Stop {
    Wire(WireError),
    Tun(io::Error),
    Silent,
}

impl Pump {
    pub fn new(spec: &Spec, enf: &config::Enf, own: Ipv6Addr, wire: Wire) -> Self {
        let own_v4 = enf.tun.ipv4_address.filter(|_| enf.route.allow_ipv4).map(|net| net.addr());
        let remote = &spec.tunnel.remote;
        Self {
            wire,
            tun: spec.tun.clone(),
            filter: Filter::new(own, own_v4, &enf.route.prefixes),
            clock: Clock::new(remote.heartbeat_period, remote.heartbeat_timeout, Duration::ZERO),
            counters: spec.counters.clone(),
            own,
            started: Instant::now(),
            ready: false,
            mtu: usize::from(enf.tun.mtu),
        }
    }

    pub async fn run(mut self, link: Link, reporter: &Reporter) -> Ended {
        let mut link = Some(link);
        let stop = loop {
            if let Err(stop) = self.turn() {
                break stop;
            }
            if self.ready
                && let Some(link) = link.take()
            {
                self.counters.session_ready();
                reporter.report(SessionEvent::Ready(link)).await;
            }
            if let Err(stop) = self.wait().await {
                break stop;
            }
        };
        self.ended(stop)
    }

    fn now(&self) -> Moment {
        self.started.elapsed()
    }

    /// Does what can be done without waiting.
    fn turn(&mut self) -> Result<(), Stop> {
        self.take_from_wire()?;
        self.take_from_tun()?;
        match self.clock.poll(self.now()) {
            Beat::Dead => return Err(Stop::Silent),
            Beat::Send => {
                self.wire.push(&heartbeat::request(self.own));
            }
            Beat::Wait => {}
        }
        self.wire.flush().map_err(Stop::Wire)
    }

    fn take_from_wire(&mut self) -> Result<(), Stop> {
        let (filter, tun, counters) = (&self.filter, &self.tun, &self.counters);
        let (clock, ready, now) = (&mut self.clock, &mut self.ready, self.started.elapsed());
        let mut lost = None;
        let received = self.wire.receive(|packet| match filter.ingress(packet, clock.awaited()) {
            Ingress::Deliver => {
                clock.heard(now);
                *ready = true;
                match tun.try_send(packet) {
                    Ok(()) => counters.received(packet.len()),
                    Err(error) => match write_verdict(&error) {
                        Some(reason) => counters.dropped_rx(reason),
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
            Ingress::Drop(reason) => counters.dropped_rx(reason),
        });
        match lost {
            Some(error) => Err(Stop::Tun(error)),
            None => received.map(|_| ()).map_err(Stop::Wire),
        }
    }

    fn take_from_tun(&mut self) -> Result<(), Stop> {
        let mut packet = [0; READ];
        for _ in 0..BATCH {
            if !self.wire.room() {
                break;
            }
            let length = match self.tun.try_recv(&mut packet) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => match read_verdict(&error) {
                    true => break,
                    false => return Err(Stop::Tun(error)),
                },
            };
            let bytes = packet.get(..length).unwrap_or_default();
            let verdict = if length > self.mtu { Err(DropReason::TooBig) } else { self.filter.egress(bytes) };
            match verdict {
                Ok(()) if self.wire.push(bytes) => self.counters.transmitted(length),
                Ok(()) => self.counters.dropped_tx(DropReason::TooBig),
                Err(reason) => self.counters.dropped_tx(reason),
            }
        }
        Ok(())
    }

    /// Sleeps until there is something to do.
    async fn wait(&self) -> Result<(), Stop> {
        let at = self.started + self.clock.next().unwrap_or(NEVER);
        tokio::select! {
            ready = self.wire.ready(self.wire.pending()) => {
                ready.map(|_| ()).map_err(|error| Stop::Wire(WireError::Reset(error)))
            }
            readable = self.tun.readable(), if self.wire.room() => readable.map_err(Stop::Tun),
            () = sleep_until(at.into()) => Ok(()),
        }
    }

    fn ended(&self, stop: Stop) -> Ended {
        let by_far_end = matches!(stop, Stop::Wire(WireError::Closed | WireError::Eof | WireError::Reset(_)));
        Ended { failure: self.failure(stop), unheard: by_far_end && !self.ready }
    }

    fn failure(&self, stop: Stop) -> Failure {
        match stop {
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
            Stop::Wire(WireError::Tls(error)) => {
                let peer = self.wire.socket().peer_addr().map(|peer| peer.to_string()).unwrap_or_default();
                tls::tls_failure(&error, &peer)
            }
            Stop::Wire(error) => {
                let reason = match &error {
                    WireError::TooLong(_) => Reason::ProtocolError,
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
    }
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
