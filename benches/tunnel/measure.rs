//! What is measured, and how.

use crate::bed::{Bed, MTU, Outcome, Transferred, memory, processor_time};
use crate::options::Options;
use crate::peers::{Kind, Peer};
use crate::udp;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

/// One measurement of one case in one round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Of the tunnel's processes, with nothing to do.
    Memory,
    /// Round trips with nothing else going on.
    Ping,
    /// One TCP stream up, then down; the processor time that both took, and the memory.
    Tcp1,
    /// Eight streams at once.
    Tcp8,
    /// Round trips during a transfer up.
    LoadedPing,
    /// Packets with 64 bytes of payload a second.
    Pps64,
    /// Packets as long as the MTU a second.
    PpsMtu,
    /// Round trips during a transfer through a bottleneck.
    Bloat,
    /// The far end's program is killed and started again.
    Reconnect,
}

impl What {
    pub const ALL: [Self; 9] = [
        Self::Memory,
        Self::Ping,
        Self::Tcp1,
        Self::Tcp8,
        Self::LoadedPing,
        Self::Pps64,
        Self::PpsMtu,
        Self::Bloat,
        Self::Reconnect,
    ];

    /// On the command line.
    pub fn key(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Ping => "ping",
            Self::Tcp1 => "tcp1",
            Self::Tcp8 => "tcp8",
            Self::LoadedPing => "loadedping",
            Self::Pps64 => "pps64",
            Self::PpsMtu => "ppsmtu",
            Self::Bloat => "bloat",
            Self::Reconnect => "reconnect",
        }
    }

    pub fn measure(self, options: &Options, peer: &Peer, figures: &mut Figures) -> Outcome<()> {
        let (kind, bed) = (peer.kind, &peer.bed);
        match self {
            Self::Memory => {
                if let Some([near, far]) = peer.processes() {
                    figures.add(kind, "rss_idle_near_mb", memory(near));
                    figures.add(kind, "rss_idle_far_mb", memory(far));
                }
            }
            Self::Ping => {
                let pings = bed.ping(500, "0.002")?;
                figures.add(kind, "ping_p50_ms", pings.percentile(50));
                figures.add(kind, "ping_p99_ms", pings.percentile(99));
            }
            Self::Tcp1 => tcp1(options, peer, figures)?,
            Self::Tcp8 => {
                let time = options.time.min(Duration::from_secs(2));
                figures.add(kind, "tcp8_up_mbit_s", bed.transfer(8, false, time)?.rate / 1e6);
                figures.add(kind, "tcp8_down_mbit_s", bed.transfer(8, true, time)?.rate / 1e6);
            }
            Self::LoadedPing => {
                let (pings, _) = ping_during(bed, false, Duration::from_secs(2), 600, "0.002")?;
                figures.add(kind, "ping_loaded_p50_ms", pings.percentile(50));
                figures.add(kind, "ping_loaded_p99_ms", pings.percentile(99));
            }
            Self::Pps64 => pps(peer, figures, "pps64", 64)?,
            // IPv6 and UDP take 48 bytes.
            Self::PpsMtu => pps(peer, figures, "pps_mtu", MTU as usize - 48)?,
            Self::Bloat => bloat(kind, figures)?,
            // Of all cases at once.
            Self::Reconnect => {}
        }
        Ok(())
    }
}

fn tcp1(options: &Options, peer: &Peer, figures: &mut Figures) -> Outcome<()> {
    let before = peer.processes().map(|processes| processes.map(processor_time));
    let over = AtomicBool::new(false);
    let (up, down, most) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut most = [0.0_f64; 2];
            while !over.load(SeqCst) {
                if let Some(processes) = peer.processes() {
                    most = [0, 1].map(|end| most[end].max(memory(processes[end])));
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            most
        });
        let up = peer.bed.transfer(1, false, options.time);
        let down = up.is_ok().then(|| peer.bed.transfer(1, true, options.time));
        over.store(true, SeqCst);
        (up, down, watcher.join().unwrap())
    });
    let (up, down) = (up?, down.unwrap_or_else(|| Err("not tried".to_owned()))?);
    figures.add(peer.kind, "tcp1_up_mbit_s", up.rate / 1e6);
    figures.add(peer.kind, "tcp1_down_mbit_s", down.rate / 1e6);
    // As much one way as the other takes so long.
    figures.add(peer.kind, "tcp1_mbit_s", 2.0 / (1.0 / up.rate + 1.0 / down.rate) / 1e6);
    if let (Some(before), Some(processes)) = (before, peer.processes()) {
        let after = processes.map(processor_time);
        let gigabytes = (up.bytes + down.bytes) / 1e9;
        let [near, far] = [0, 1].map(|end| (after[end] - before[end]) / gigabytes);
        figures.add(peer.kind, "cpu_near_s_per_gb", near);
        figures.add(peer.kind, "cpu_far_s_per_gb", far);
        figures.add(peer.kind, "cpu_s_per_gb", near + far);
        figures.add(peer.kind, "rss_loaded_near_mb", most[0]);
        figures.add(peer.kind, "rss_loaded_far_mb", most[1]);
    }
    Ok(())
}

fn pps(peer: &Peer, figures: &mut Figures, figure: &'static str, payload: usize) -> Outcome<()> {
    // Where the round before ended.
    let near = figures.get(peer.kind, figure).last().copied().unwrap_or(30_000.0);
    let rate = udp::highest_rate(&peer.bed, payload, near)?;
    figures.add(peer.kind, figure, rate);
    Ok(())
}

/// Round trips while a stream runs. It has time to get going first.
fn ping_during(
    bed: &Bed,
    down: bool,
    time: Duration,
    count: usize,
    interval: &str,
) -> Outcome<(crate::bed::Pings, Transferred)> {
    std::thread::scope(|scope| {
        let transfer = scope.spawn(|| bed.transfer(1, down, time));
        std::thread::sleep(Duration::from_millis(600));
        let pings = bed.ping(count, interval);
        let transfer = transfer.join().map_err(|_| "the transfer's thread broke".to_owned())?;
        Ok((pings?, transfer?))
    })
}

/// What the host in the middle sends by, in both directions.
pub const BOTTLENECK: &str = "tbf rate 50mbit burst 16kb latency 50ms";

/// The tunnel's own connection goes through the bottleneck, or what is measured itself where there is no tunnel.
fn bloat(kind: Kind, figures: &mut Figures) -> Outcome<()> {
    let mut peer = Peer::new(kind, Some(BOTTLENECK))?;
    peer.connect()?;
    for (down, figure) in [(false, BLOAT_UP), (true, BLOAT_DOWN)] {
        let (pings, transfer) = ping_during(&peer.bed, down, Duration::from_secs(3), 200, "0.01")?;
        let values = [pings.percentile(50), pings.percentile(99), pings.lost, transfer.rate / 1e6];
        figure.into_iter().zip(values).for_each(|(figure, value)| figures.add(kind, figure, value));
    }
    Ok(())
}

const BLOAT_UP: [&str; 4] =
    ["bloat_up_ping_p50_ms", "bloat_up_ping_p99_ms", "bloat_up_ping_lost_percent", "bloat_up_mbit_s"];
const BLOAT_DOWN: [&str; 4] =
    ["bloat_down_ping_p50_ms", "bloat_down_ping_p99_ms", "bloat_down_ping_lost_percent", "bloat_down_mbit_s"];

/// All at once, because most of it is waiting.
pub fn reconnect(peers: &mut [Peer], figures: &mut Figures) {
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let tunnels = peers.iter_mut().filter(|peer| peer.kind != Kind::Veth);
        let threads: Vec<_> = tunnels.map(|peer| (peer.kind, scope.spawn(|| peer.reconnect()))).collect();
        let joined = threads.into_iter().map(|(kind, thread)| (kind, thread.join()));
        joined.map(|(kind, outcome)| (kind, outcome.unwrap_or_else(|_| Err("it broke".to_owned())))).collect()
    });
    for (kind, outcome) in outcomes {
        match outcome {
            Ok(time) => figures.add(kind, "reconnect_ms", time.as_secs_f64() * 1e3),
            Err(failure) => figures.fails(kind, "reconnect", failure),
        }
    }
}

/// Everything that was measured.
#[derive(Default)]
pub struct Figures {
    figures: BTreeMap<(Kind, &'static str), Vec<f64>>,
    /// Which case, which measurement, and why.
    pub failures: Vec<(Kind, &'static str, String)>,
}

impl Figures {
    pub fn add(&mut self, kind: Kind, figure: &'static str, value: f64) {
        self.figures.entry((kind, figure)).or_default().push(value);
    }

    pub fn fails(&mut self, kind: Kind, what: &'static str, failure: String) {
        eprintln!("FAILED {}, {what}: {failure}", kind.name());
        self.failures.push((kind, what, failure));
    }

    /// What there is, for whichever case.
    pub fn names(&self) -> BTreeSet<&'static str> {
        self.figures.keys().map(|(_, name)| *name).collect()
    }

    /// One of each round, in their order.
    pub fn get(&self, kind: Kind, figure: &str) -> &[f64] {
        let found = self.figures.iter().find(|((of, name), _)| *of == kind && *name == figure);
        found.map_or(&[], |(_, values)| values)
    }

    /// Median, least and most.
    pub fn range(&self, kind: Kind, figure: &str) -> Option<[f64; 3]> {
        let mut values = self.get(kind, figure).to_vec();
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Some([median, least, most])
    }
}
