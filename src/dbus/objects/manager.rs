//! The daemon as a whole.

use super::text;
use crate::daemon::{Answer, Refusal, ReloadScope, Request, Snapshot};
use crate::dbus::fault::Fault;
use crate::dbus::gate::Gate;
use crate::dbus::path;
use crate::dbus::validation::{self, Validator};
use crate::state::health::Warning;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;
use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, OwnedFd, OwnedObjectPath, OwnedVariant, interface};

/// `org.enftun.Enftun1.Manager`.
#[derive(Clone)]
pub(crate) struct Manager {
    pub gate: Gate,
    pub shown: watch::Receiver<Arc<Snapshot>>,
    pub validator: Validator,
}

/// What this daemon can do: kinds of tunnel first.
const FEATURES: &[&str] = &["enf", "aws-iot", "dns", "lockdown", "trusted-groups", "router-card"];

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

    #[zbus(out_args("group"))]
    fn get_group(&self, name: &str) -> Result<OwnedObjectPath, Fault> {
        if self.shown.borrow().groups.contains_key(name) {
            Ok(path::of_group(name))
        } else {
            Err(Refusal::NoGroup(name.to_owned()).into())
        }
    }

    #[zbus(out_args("permissions"))]
    async fn get_permissions(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<BTreeMap<String, &'static str>, Fault> {
        self.gate.permissions(connection, &header).await
    }

    #[zbus(signal)]
    pub async fn permissions_changed(emitter: &SignalEmitter<'_>) -> zbus::Result<()>;

    #[zbus(out_args("ok", "findings"))]
    async fn validate_config_fd(
        &self,
        file: OwnedFd,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(bool, Vec<validation::Row>), Fault> {
        self.gate.may_inspect(connection, &header).await?;
        self.validator.judge(file.into()).await
    }

    async fn reload(
        &self,
        flags: u32,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(), Fault> {
        let scope = ReloadScope::from_flags(flags).ok_or_else(|| {
            Fault::unknown_flags(flags, "1 is the configuration, 2 the network, 4 the firewall, 0 all of it")
        })?;
        self.gate.ask(Request::Reload(scope), connection, &header).await
    }

    async fn set_lockdown(
        &self,
        tunnel: &str,
        on: bool,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(), Fault> {
        self.gate.ask(Request::SetLockdown(tunnel.to_owned(), on), connection, &header).await
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

    #[zbus(property)]
    fn groups(&self) -> Vec<OwnedObjectPath> {
        self.shown.borrow().groups.keys().map(|name| path::of_group(name)).collect()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn features(&self) -> Vec<&'static str> {
        FEATURES.to_vec()
    }

    #[zbus(property)]
    fn connectivity(&self) -> &'static str {
        self.shown.borrow().connectivity.as_str()
    }

    #[zbus(property)]
    fn config_hash(&self) -> String {
        self.shown.borrow().config_hash.clone()
    }

    #[zbus(property)]
    fn startup(&self) -> bool {
        self.shown.borrow().starting
    }

    #[zbus(property)]
    fn warnings(&self) -> Vec<BTreeMap<&'static str, OwnedVariant>> {
        let shown = self.shown.borrow();
        let show = |warning: &Warning| {
            let mut fields = BTreeMap::from([
                ("code", text(warning.code.as_str())),
                ("severity", text(warning.severity.as_str())),
                ("text", text(&warning.text)),
            ]);
            fields.extend(warning.tunnel.as_deref().map(|tunnel| ("tunnel", text(tunnel))));
            fields
        };
        shown.warnings.iter().map(show).collect()
    }
}
