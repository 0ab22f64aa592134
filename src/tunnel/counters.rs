//! What a session counts. The counters outlive sessions: they belong to the tunnel, and every reader sees them without a lock.

use crate::state::words;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

words! {
    /// Why a packet went no further. `docs/errors.md` says what each means.
    DropReason {
        /// Not an IP packet, or its length field disagrees with its length.
        Malformed => "malformed",
        /// Into the tunnel: the source is not the own address.
        SourceNotOwn => "source-not-own",
        /// Out of the tunnel: the destination is neither the own address nor a wanted group.
        DestinationNotOwn => "destination-not-own",
        /// Out of the tunnel: the source is the own address, loopback, multicast or link-local.
        SourceForged => "source-forged",
        /// Link-local scope never crosses.
        LinkLocal => "link-local",
        /// IPv4 without `route.allow_ipv4`, or from or to another address than the configured one.
        Ipv4NotAllowed => "ipv4-not-allowed",
        /// A heartbeat reply nobody waits for, from the wrong source, or with a bad checksum.
        HeartbeatStray => "heartbeat-stray",
        /// The TUN is down (EIO).
        TunDown => "tun-down",
        /// The kernel had no room for it (ENOBUFS, EAGAIN).
        TunBusy => "tun-busy",
        /// The kernel refused the packet (EINVAL and the like).
        TunRefused => "tun-refused",
        /// Larger than the tunnel carries.
        TooBig => "too-big",
        /// The receiver's queue is full.
        QueueFull => "queue-full",
        /// Nobody has the destination.
        NoRoute => "no-route",
        /// The host behind a router card sent it while no session was up.
        NotConnected => "not-connected",
        /// What the peer says is still to be done to a packet does not agree with the packet.
        OffloadInvalid => "offload-invalid",
    }
}

/// Packets and bytes are those of the inner IP packets, seen from this host: received out of the tunnel, transmitted into it.
#[derive(Debug, Default)]
pub struct Counters {
    rx_bytes: AtomicU64,
    tx_bytes: AtomicU64,
    rx_packets: AtomicU64,
    tx_packets: AtomicU64,
    rx_dropped: AtomicU64,
    tx_dropped: AtomicU64,
    drops: [AtomicU64; DropReason::ALL.len()],
    sessions: AtomicU64,
    heartbeat_rtt_usec: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Totals {
    /// Bytes out of the tunnel.
    pub rx_bytes: u64,
    /// Bytes into the tunnel.
    pub tx_bytes: u64,
    /// Packets out of the tunnel.
    pub rx_packets: u64,
    /// Packets into the tunnel.
    pub tx_packets: u64,
    /// Packets that arrived through the tunnel and went no further.
    pub rx_dropped: u64,
    /// Packets that the host sent and that did not enter the tunnel.
    pub tx_dropped: u64,
    /// Sessions after the first.
    pub reconnects: u64,
    /// The last heartbeat's round trip in microseconds; 0 before the first.
    pub heartbeat_rtt_usec: u64,
}

impl Counters {
    /// So many packets, with so many bytes together, came out of the tunnel and went on.
    pub fn received_units(&self, packets: usize, bytes: usize) {
        self.rx_packets.fetch_add(packets as u64, Relaxed);
        self.rx_bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// So many packets, with so many bytes together, went into the tunnel.
    pub fn transmitted_units(&self, packets: usize, bytes: usize) {
        self.tx_packets.fetch_add(packets as u64, Relaxed);
        self.tx_bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// One packet that came out of the tunnel went no further.
    pub fn dropped_rx(&self, reason: DropReason) {
        self.dropped_rx_units(reason, 1);
    }

    /// So many packets that came out of the tunnel went no further.
    pub fn dropped_rx_units(&self, reason: DropReason, packets: usize) {
        self.rx_dropped.fetch_add(packets as u64, Relaxed);
        self.dropped(reason, packets);
    }

    /// One packet did not enter the tunnel.
    pub fn dropped_tx(&self, reason: DropReason) {
        self.dropped_tx_units(reason, 1);
    }

    /// So many packets did not enter the tunnel.
    pub fn dropped_tx_units(&self, reason: DropReason, packets: usize) {
        self.tx_dropped.fetch_add(packets as u64, Relaxed);
        self.dropped(reason, packets);
    }

    fn dropped(&self, reason: DropReason, packets: usize) {
        if let Some(counter) = self.drops.get(reason as usize) {
            counter.fetch_add(packets as u64, Relaxed);
        }
    }

    /// A session's first frame arrived.
    pub fn session_ready(&self) {
        self.sessions.fetch_add(1, Relaxed);
    }

    /// A heartbeat came back after this long.
    pub fn heartbeat(&self, round_trip: std::time::Duration) {
        let usec = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX).max(1);
        self.heartbeat_rtt_usec.store(usec, Relaxed);
    }

    /// All counters but the reasons.
    pub fn totals(&self) -> Totals {
        Totals {
            rx_bytes: self.rx_bytes.load(Relaxed),
            tx_bytes: self.tx_bytes.load(Relaxed),
            rx_packets: self.rx_packets.load(Relaxed),
            tx_packets: self.tx_packets.load(Relaxed),
            rx_dropped: self.rx_dropped.load(Relaxed),
            tx_dropped: self.tx_dropped.load(Relaxed),
            reconnects: self.sessions.load(Relaxed).saturating_sub(1),
            heartbeat_rtt_usec: self.heartbeat_rtt_usec.load(Relaxed),
        }
    }

    /// How many packets were dropped for each reason that ever occurred.
    pub fn drop_reasons(&self) -> Vec<(DropReason, u64)> {
        DropReason::ALL
            .iter()
            .zip(&self.drops)
            .map(|(reason, count)| (*reason, count.load(Relaxed)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}
