//! The objects on the bus. Properties answer from the latest value the follower was given, at once; methods hand the
//! request to the [`Gate`]. `dbus/*.xml` is the contract, and a test holds these to it.

use super::fault::Fault;
use super::gate::Gate;
use super::path;
use crate::daemon::{Answer, Refusal, Request, Snapshot, TunnelSnapshot};
use crate::plan::TABLE;
use crate::state::Reason;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::watch;
use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, OwnedObjectPath, OwnedVariant, interface};

/// `org.enftun.Enftun1.Manager`.
#[derive(Clone)]
pub(super) struct Manager {
    pub gate: Gate,
    pub shown: watch::Receiver<Arc<Snapshot>>,
}

#[interface(name = "org.enftun.Enftun1.Manager", introspection_docs = false)]
impl Manager {
    #[zbus(out_args("tunnel"))]
    fn get_tunnel(&self, name: &str) -> Result<OwnedObjectPath, Fault> {
        if self.shown.borrow().tunnels.contains_key(name) {
            Ok(path::of_tunnel(name))
        } else {
            Err(Refusal::NotFound(name.to_owned()).into())
        }
    }

    #[zbus(out_args("tunnel"))]
    fn get_tunnel_by_interface(&self, interface: &str) -> Result<OwnedObjectPath, Fault> {
        let snapshot = self.shown.borrow();
        match snapshot.tunnels.values().find(|tunnel| tunnel.interface.as_deref() == Some(interface)) {
            Some(tunnel) => Ok(path::of_tunnel(&tunnel.name)),
            None => Err(Fault::ours("NotFound", format!("no tunnel has the interface \"{interface}\""))),
        }
    }

    async fn reload(
        &self,
        flags: u32,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(), Fault> {
        self.gate.ask(Request::Reload, flags, connection, &header).await
    }

    async fn set_lockdown(
        &self,
        tunnel: &str,
        on: bool,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(), Fault> {
        self.gate.ask(Request::SetLockdown(tunnel.to_owned(), on), 0, connection, &header).await
    }

    #[zbus(out_args("plan"))]
    async fn get_plan(
        &self,
        tunnel: String,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<String, Fault> {
        match self.gate.look(Request::Plan(tunnel), connection, &header).await? {
            Answer::Plan(text) => Ok(text),
            Answer::Done | Answer::Verified(_) => Err(Fault::ours("Failed", "the daemon answered something else")),
        }
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    #[zbus(property)]
    fn state(&self) -> &'static str {
        self.shown.borrow().state()
    }

    #[zbus(property)]
    fn blocking(&self) -> bool {
        self.shown.borrow().blocking()
    }

    #[zbus(property)]
    fn tunnels(&self) -> Vec<OwnedObjectPath> {
        self.shown.borrow().tunnels.keys().map(|name| path::of_tunnel(name)).collect()
    }
}

/// `org.enftun.Enftun1.Firewall`.
#[derive(Clone)]
pub(super) struct Firewall {
    pub gate: Gate,
    pub shown: watch::Receiver<Arc<Snapshot>>,
}

impl Firewall {
    /// Properties without a signal: the text is long, and both change much oftener than anybody needs to know.
    pub const SILENT: [&str; 2] = ["Policy", "LastVerified"];
}

#[interface(name = "org.enftun.Enftun1.Firewall", introspection_docs = false)]
impl Firewall {
    #[zbus(out_args("well"))]
    async fn verify(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<bool, Fault> {
        Ok(self.gate.look(Request::Verify, connection, &header).await? == Answer::Verified(true))
    }

    #[zbus(signal)]
    pub async fn tampered(emitter: &SignalEmitter<'_>, what: &str) -> zbus::Result<()>;

    #[zbus(property(emits_changed_signal = "false"))]
    fn policy(&self) -> String {
        self.shown.borrow().firewall.policy.to_string()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn table(&self) -> String {
        format!("inet {TABLE}")
    }

    #[zbus(property)]
    fn in_force(&self) -> bool {
        self.shown.borrow().firewall.in_force
    }

    #[zbus(property)]
    fn generation(&self) -> u32 {
        self.shown.borrow().firewall.generation
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn last_verified(&self) -> u64 {
        self.shown.borrow().firewall.verified.map(usec).unwrap_or_default()
    }
}

/// `org.enftun.Enftun1.Tunnel`.
#[derive(Clone)]
pub(super) struct Tunnel {
    pub name: String,
    pub gate: Gate,
    pub current: watch::Receiver<Arc<TunnelSnapshot>>,
}

impl Tunnel {
    fn now(&self) -> Arc<TunnelSnapshot> {
        self.current.borrow().clone()
    }
}

#[interface(name = "org.enftun.Enftun1.Tunnel", introspection_docs = false)]
impl Tunnel {
    async fn connect(
        &self,
        flags: u32,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(), Fault> {
        self.gate.ask(Request::Connect(self.name.clone()), flags, connection, &header).await
    }

    async fn disconnect(
        &self,
        flags: u32,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(), Fault> {
        self.gate.ask(Request::Disconnect(self.name.clone()), flags, connection, &header).await
    }

    async fn reconnect(
        &self,
        flags: u32,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(), Fault> {
        self.gate.ask(Request::Reconnect(self.name.clone()), flags, connection, &header).await
    }

    /// Not called `state_changed`: that is what the property `State` makes of itself.
    #[zbus(signal, name = "StateChanged")]
    pub async fn transition(emitter: &SignalEmitter<'_>, new: &str, old: &str, reason: &str) -> zbus::Result<()>;

    #[zbus(property(emits_changed_signal = "const"))]
    fn name(&self) -> String {
        self.name.clone()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn kind(&self) -> &'static str {
        self.now().kind
    }

    #[zbus(property)]
    fn state(&self) -> &'static str {
        self.now().state.as_str()
    }

    #[zbus(property)]
    fn target_state(&self) -> &'static str {
        self.now().target.as_str()
    }

    #[zbus(property)]
    fn state_reason(&self) -> &'static str {
        self.now().reason.as_str()
    }

    #[zbus(property)]
    fn state_since(&self) -> u64 {
        usec(self.now().since)
    }

    #[zbus(property)]
    fn last_error(&self) -> (String, String) {
        match &self.now().last_error {
            Some(failure) => (failure.reason.as_str().to_owned(), failure.text.clone()),
            None => (Reason::None.as_str().to_owned(), String::new()),
        }
    }

    #[zbus(property)]
    fn attempt(&self) -> u32 {
        self.now().attempt
    }

    #[zbus(property)]
    fn next_attempt(&self) -> u64 {
        self.now().next_attempt.map(usec).unwrap_or_default()
    }

    #[zbus(property)]
    fn interface(&self) -> String {
        self.now().interface.clone().unwrap_or_default()
    }

    #[zbus(property)]
    fn if_index(&self) -> i32 {
        self.now().ifindex.and_then(|index| i32::try_from(index).ok()).unwrap_or_default()
    }

    #[zbus(property)]
    fn mtu(&self) -> u32 {
        u32::from(self.now().mtu)
    }

    #[zbus(property)]
    fn addresses(&self) -> Vec<String> {
        texts(&self.now().addresses)
    }

    #[zbus(property)]
    fn routes(&self) -> Vec<String> {
        texts(&self.now().routes)
    }

    #[zbus(property)]
    fn remotes(&self) -> Vec<String> {
        self.now().remotes.clone()
    }

    #[zbus(property)]
    fn active_remote(&self) -> String {
        self.now().active_remote.clone().unwrap_or_default()
    }

    #[zbus(property)]
    fn fw_mark(&self) -> u32 {
        self.now().fwmark
    }

    #[zbus(property)]
    fn fw_mask(&self) -> u32 {
        self.now().fwmark_mask
    }

    #[zbus(property)]
    fn table(&self) -> u32 {
        self.now().table
    }

    #[zbus(property)]
    fn auto_connect(&self) -> bool {
        self.now().autoconnect
    }

    #[zbus(property)]
    fn lockdown(&self) -> &'static str {
        self.now().lockdown
    }

    #[zbus(property)]
    fn blocking(&self) -> bool {
        self.now().blocking
    }

    #[zbus(property)]
    fn tls(&self) -> BTreeMap<&'static str, OwnedVariant> {
        let now = self.now();
        let Some(tls) = &now.tls else { return BTreeMap::new() };
        BTreeMap::from([
            ("version", text(&tls.version)),
            ("cipher", text(&tls.cipher)),
            ("peer-subject", text(&tls.peer_subject)),
            ("peer-not-after", usec_of_seconds(tls.peer_not_after).into()),
            ("local-not-after", usec_of_seconds(tls.local_not_after).into()),
        ])
    }
}

/// `org.enftun.Enftun1.Tunnel.Statistics`.
pub(super) struct Statistics {
    pub current: watch::Receiver<Arc<TunnelSnapshot>>,
}

impl Statistics {
    fn totals(&self) -> crate::tunnel::counters::Totals {
        self.current.borrow().counters.totals()
    }
}

#[interface(name = "org.enftun.Enftun1.Tunnel.Statistics", introspection_docs = false)]
impl Statistics {
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

/// Microseconds since 1970, as all times on the bus.
fn usec(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

fn usec_of_seconds(seconds: i64) -> u64 {
    u64::try_from(seconds).unwrap_or_default().saturating_mul(1_000_000)
}

fn texts(nets: &[IpNet]) -> Vec<String> {
    nets.iter().map(IpNet::to_string).collect()
}

fn text(value: &str) -> OwnedVariant {
    zbus::Str::from(value.to_owned()).into()
}
