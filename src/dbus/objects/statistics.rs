//! The counters of a tunnel.

use crate::daemon::TunnelSnapshot;
use crate::dbus::fault::Fault;
use crate::dbus::gate::Gate;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use zbus::message::Header;
use zbus::{Connection, interface};

/// `org.enftun.Enftun1.Tunnel.Statistics`.
#[derive(Clone)]
pub(crate) struct Statistics {
    pub current: watch::Receiver<Arc<TunnelSnapshot>>,
    pub gate: Gate,
    pub refresh: Refresh,
}

/// How often changes of the counters are told. It is set by callers, and the follower heeds it.
#[derive(Clone)]
pub(crate) struct Refresh {
    millis: Arc<AtomicU32>,
    follower: Arc<Notify>,
}

/// The shortest time between two signals, in milliseconds.
const SHORTEST: u32 = 100;

impl Refresh {
    /// Never. `follower` is notified of a change.
    pub fn new(follower: Arc<Notify>) -> Self {
        Self { millis: Arc::default(), follower }
    }

    /// The time between two signals; zero: never.
    pub fn rate(&self) -> Duration {
        Duration::from_millis(self.millis.load(Relaxed).into())
    }
}

impl Statistics {
    /// Whoever sets it is answered with the signal.
    pub const SILENT: [&str; 1] = ["RefreshRateMs"];

    fn totals(&self) -> crate::tunnel::counters::Totals {
        self.current.borrow().counters.totals()
    }
}

#[interface(name = "org.enftun.Enftun1.Tunnel.Statistics", introspection_docs = false)]
impl Statistics {
    #[zbus(property)]
    fn refresh_rate_ms(&self) -> u32 {
        self.refresh.millis.load(Relaxed)
    }

    #[zbus(property)]
    async fn set_refresh_rate_ms(
        &self,
        rate: u32,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Option<Header<'_>>,
    ) -> Result<(), Fault> {
        let header = header.ok_or_else(|| Fault::denied("the bus does not say who you are"))?;
        self.gate.may_inspect(connection, &header).await?;
        if (1..SHORTEST).contains(&rate) {
            let text = format!("{rate} ms is too often: 0 is never, and {SHORTEST} the least otherwise");
            return Err(Fault::ours("InvalidArgument", text));
        }
        self.refresh.millis.store(rate, Relaxed);
        self.refresh.follower.notify_one();
        Ok(())
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn rx_bytes(&self) -> u64 {
        self.totals().rx_bytes
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn tx_bytes(&self) -> u64 {
        self.totals().tx_bytes
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn rx_packets(&self) -> u64 {
        self.totals().rx_packets
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn tx_packets(&self) -> u64 {
        self.totals().tx_packets
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn rx_dropped(&self) -> u64 {
        self.totals().rx_dropped
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn tx_dropped(&self) -> u64 {
        self.totals().tx_dropped
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn drop_reasons(&self) -> BTreeMap<&'static str, u64> {
        let reasons = self.current.borrow().counters.drop_reasons();
        reasons.into_iter().map(|(reason, count)| (reason.as_str(), count)).collect()
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn reconnects(&self) -> u32 {
        u32::try_from(self.totals().reconnects).unwrap_or(u32::MAX)
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn heartbeat_rtt_usec(&self) -> u64 {
        self.totals().heartbeat_rtt_usec
    }
}
