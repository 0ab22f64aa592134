//! One tunnel: what is asked of it, and how it is.

use super::{text, texts, usec, usec_of_seconds};
use crate::daemon::{Request, TunnelSnapshot};
use crate::dbus::fault::Fault;
use crate::dbus::gate::Gate;
use crate::state::Reason;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, OwnedVariant, Variant, interface};

/// `org.enftun.Enftun1.Tunnel`.
#[derive(Clone)]
pub(crate) struct Tunnel {
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
        self.gate.ask_with_flags(Request::Connect(self.name.clone()), flags, connection, &header).await
    }

    async fn connect_with_options(
        &self,
        options: HashMap<&str, Variant<'_>>,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(), Fault> {
        let mut wait = None;
        for (name, value) in options {
            match (name, u64::try_from(value)) {
                ("wait-usec", Ok(usec)) => wait = Some(Duration::from_micros(usec)),
                ("wait-usec", Err(_)) => {
                    return Err(Fault::ours("InvalidArgument", "the option wait-usec is a number of type t"));
                }
                _ => {
                    let text = format!("there is no option \"{name}\"; wait-usec is the only one yet");
                    return Err(Fault::ours("InvalidArgument", text));
                }
            }
        }
        match wait {
            Some(wait) => self.gate.connect(&self.name, wait, connection, &header).await,
            None => self.gate.ask(Request::Connect(self.name.clone()), connection, &header).await,
        }
    }

    async fn disconnect(
        &self,
        flags: u32,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(), Fault> {
        self.gate.ask_with_flags(Request::Disconnect(self.name.clone()), flags, connection, &header).await
    }

    async fn reconnect(
        &self,
        flags: u32,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(), Fault> {
        self.gate.ask_with_flags(Request::Reconnect(self.name.clone()), flags, connection, &header).await
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
            // Only one kind has two of them.
            ("wire", text(if now.forwards.is_none() { tls.wire.as_str() } else { "" })),
        ])
    }
}
