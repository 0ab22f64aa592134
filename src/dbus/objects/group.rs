//! One group of trusted interfaces.

use crate::daemon::{GroupSnapshot, Request};
use crate::dbus::fault::Fault;
use crate::dbus::gate::Gate;
use tokio::sync::watch;
use zbus::message::Header;
use zbus::{Connection, interface};

/// `org.enftun.Enftun1.TrustedGroup`.
#[derive(Clone)]
pub(crate) struct TrustedGroup {
    pub name: String,
    pub gate: Gate,
    pub current: watch::Receiver<GroupSnapshot>,
}

#[interface(name = "org.enftun.Enftun1.TrustedGroup", introspection_docs = false)]
impl TrustedGroup {
    async fn add_interface(
        &self,
        interface: String,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(), Fault> {
        self.gate.ask(Request::Trust { group: self.name.clone(), interface }, connection, &header).await
    }

    async fn remove_interface(
        &self,
        interface: String,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(), Fault> {
        self.gate.ask(Request::Distrust { group: self.name.clone(), interface }, connection, &header).await
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn name(&self) -> String {
        self.name.clone()
    }

    #[zbus(property)]
    fn number(&self) -> u32 {
        self.current.borrow().number
    }

    #[zbus(property)]
    fn members(&self) -> Vec<String> {
        self.current.borrow().members.clone()
    }

    #[zbus(property)]
    fn configured(&self) -> Vec<String> {
        self.current.borrow().configured.clone()
    }

    #[zbus(property)]
    fn present(&self) -> Vec<String> {
        self.current.borrow().present.clone()
    }
}
