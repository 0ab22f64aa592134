//! The task between TAP and sessions: whole frames on one side, packets on the other. It waits for nobody but both of them, the
//! responder's next moment, and its end.

use crate::card::{Delivery, Reason, Responder, Verdict};
use crate::sys::tun::Tun;
use crate::tunnel::{Counters, DropReason, Upstream};
use nix::errno::Errno;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::time::sleep_until;

/// Frames, or packets, taken before the other side is served again.
const BATCH: usize = 64;
/// More than the largest frame, so that one that is too big is seen as such.
const READ: usize = 2048;
/// A deadline that never comes.
const NEVER: Duration = Duration::from_secs(365 * 86_400);

/// What the task has.
pub(super) struct Port {
    pub tunnel: String,
    pub tap: Arc<Tun>,
    pub packets: Arc<Tun>,
    pub session: Arc<Tun>,
    pub responder: Responder,
    pub upstream: Upstream,
    pub counters: Arc<Counters>,
    pub started: Instant,
    /// It was told that the host behind has the card's address.
    pub told: bool,
}

impl Port {
    /// Serves the host behind until it is stopped, or the TAP is gone.
    pub async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        loop {
            if let Err(error) = self.turn() {
                log::debug!(ENFTUN_TUNNEL = self.tunnel.as_str(); "{} is gone: {error}", self.tap.name());
                return;
            }
            let due = self.responder.due().unwrap_or(NEVER);
            tokio::select! {
                stop = &mut stopped => {
                    // A sender that was dropped without a word: so does this end.
                    if stop.is_ok() && let Some(frame) = self.responder.farewell() {
                        let _ = self.tap.try_send(&frame);
                    }
                    return;
                }
                _ = self.tap.readable() => {}
                _ = self.packets.readable() => {}
                () = sleep_until((self.started + due).into()) => {}
            }
        }
    }

    /// Does what can be done without waiting.
    fn turn(&mut self) -> io::Result<()> {
        self.take_frames()?;
        self.take_packets()?;
        let now = self.started.elapsed();
        while let Some(frame) = self.responder.poll(now) {
            self.send(&frame)?;
        }
        Ok(())
    }

    /// From the host behind.
    fn take_frames(&mut self) -> io::Result<()> {
        let mut buffer = [0; READ];
        for _ in 0..BATCH {
            let Some(length) = received(self.tap.try_recv(&mut buffer))? else { return Ok(()) };
            let frame = buffer.get(..length).unwrap_or_default();
            match self.responder.frame(frame, self.started.elapsed()) {
                Verdict::Packet(packet) => {
                    Self::pass(&self.upstream, &self.packets, &self.session, &self.counters, packet)
                }
                Verdict::Taken => {}
                Verdict::Drop(reason) => {
                    log::trace!("a frame of the host behind is dropped: {reason}");
                    if let Some(reason) = counted(reason) {
                        self.counters.dropped_tx(reason);
                    }
                    if reason == Reason::AddressTaken && !std::mem::replace(&mut self.told, true) {
                        log::warn!(ENFTUN_TUNNEL = self.tunnel.as_str();
                            "the host behind, or something beside it, has the address fe80::1, which is the card's: take it away there");
                    }
                }
            }
        }
        Ok(())
    }

    /// To the session, if one is up. Without, a packet of the host behind goes nowhere, and is not kept for later.
    fn pass(upstream: &Upstream, packets: &Tun, session: &Tun, counters: &Counters, packet: &[u8]) {
        if !upstream.is_live() {
            counters.dropped_tx(DropReason::NotConnected);
            let mut byte = [0; 1];
            while session.try_recv(&mut byte).is_ok() {
                counters.dropped_tx(DropReason::NotConnected);
            }
        } else if packets.try_send(packet).is_err() {
            counters.dropped_tx(DropReason::QueueFull);
        }
    }

    /// From sessions.
    fn take_packets(&mut self) -> io::Result<()> {
        let (mut buffer, mut frame) = ([0; READ], Vec::with_capacity(READ));
        for _ in 0..BATCH {
            let Some(length) = received(self.packets.try_recv(&mut buffer))? else { return Ok(()) };
            let packet = buffer.get(..length).unwrap_or_default();
            match self.responder.packet(packet, self.started.elapsed(), &mut frame) {
                Delivery::Frame => self.send(&frame)?,
                Delivery::Waits => {}
                Delivery::Drop(reason) => {
                    self.counters.dropped_rx(counted(reason).unwrap_or(DropReason::NoRoute));
                }
            }
        }
        Ok(())
    }

    /// To the host behind.
    fn send(&self, frame: &[u8]) -> io::Result<()> {
        match self.tap.try_send(frame) {
            Err(error) if gone(&error) => Err(error),
            Err(error) => {
                let down = error.raw_os_error() == Some(Errno::EIO as i32);
                self.counters.dropped_rx(if down { DropReason::TunDown } else { DropReason::TunBusy });
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}

/// The length, if there is something now; an error only if there will never be anything.
fn received(received: io::Result<usize>) -> io::Result<Option<usize>> {
    match received {
        Ok(length) => Ok(Some(length)),
        Err(error) if gone(&error) => Err(error),
        Err(_) => Ok(None),
    }
}

/// The device was deleted, or the other end of the pair dropped.
fn gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EBADFD as i32) || error.kind() == io::ErrorKind::UnexpectedEof
}

/// What the tunnel counts. What was never meant for it, as ARP and DHCPv4, is none of its packets.
fn counted(reason: Reason) -> Option<DropReason> {
    match reason {
        Reason::Malformed => Some(DropReason::Malformed),
        Reason::SourceNotOwn => Some(DropReason::SourceNotOwn),
        Reason::LinkLocal => Some(DropReason::LinkLocal),
        Reason::TooBig => Some(DropReason::TooBig),
        Reason::Unreachable => Some(DropReason::NoRoute),
        Reason::NotForUs
        | Reason::NotIpv6
        | Reason::Invalid
        | Reason::NotServed
        | Reason::TooMany
        | Reason::AddressTaken => None,
    }
}
