//! The one nftables table that all tunnels have together.

use super::usec;
use crate::daemon::{Answer, Request, Snapshot};
use crate::dbus::fault::Fault;
use crate::dbus::gate::Gate;
use crate::plan::TABLE;
use std::sync::Arc;
use tokio::sync::watch;
use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, interface};

/// `org.enftun.Enftun1.Firewall`.
#[derive(Clone)]
pub(crate) struct Firewall {
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

    /// Without a header it is the daemon itself that reads.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn policy(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Option<Header<'_>>,
    ) -> Result<String, Fault> {
        if let Some(header) = header {
            self.gate.may_inspect(connection, &header).await?;
        }
        Ok(self.shown.borrow().firewall.policy.to_string())
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
