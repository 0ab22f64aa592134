//! What a tunnel forwards, and how it gets other tokens.

use super::usec;
use crate::daemon::{Request, TunnelSnapshot};
use crate::dbus::fault::Fault;
use crate::dbus::gate::Gate;
use crate::dbus::passed::TokenReader;
use crate::dbus::polkit::{Action, Details};
use crate::tunnel::aws::forwards::{Place, View};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;
use zbus::message::Header;
use zbus::{Connection, OwnedFd, interface};

/// `org.enftun.Enftun1.Tunnel.Forwards`.
#[derive(Clone)]
pub(crate) struct Forwards {
    pub name: String,
    pub gate: Gate,
    pub current: watch::Receiver<Arc<TunnelSnapshot>>,
    pub reader: TokenReader,
}

/// Number, service, peer, since, bytes to the application, bytes from it.
type Row = (u64, String, String, u64, u64, u64);

impl Forwards {
    /// They change all the time.
    pub const SILENT: [&str; 2] = ["Connections", "Counters"];

    fn view(&self) -> View {
        self.current.borrow().forwards.as_ref().map(|forwards| forwards.live.view()).unwrap_or_default()
    }
}

#[interface(name = "org.enftun.Enftun1.Tunnel.Forwards", introspection_docs = false)]
impl Forwards {
    async fn rotate_tokens(
        &self,
        file: OwnedFd,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(), Fault> {
        let details = Details::from([("tunnel", self.name.as_str())]);
        let what = format!("new tokens of {}", self.name);
        // Whoever may not is not read from.
        let caller = self.gate.admit(Action::Credentials, &details, &what, connection, &header).await?;
        let tokens = self.reader.read(file.into()).await?;
        self.gate.submit(Request::RotateTokens { tunnel: self.name.clone(), tokens }, caller).await
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn mode(&self) -> &'static str {
        self.current.borrow().forwards.as_ref().map(|forwards| forwards.mode).unwrap_or_default()
    }

    #[zbus(property)]
    fn channel_id(&self) -> String {
        let now = self.current.borrow();
        now.forwards.as_ref().and_then(|forwards| forwards.places.channel_id.clone()).unwrap_or_default()
    }

    #[zbus(property)]
    fn services(&self) -> Vec<(String, String, u32)> {
        let now = self.current.borrow();
        let Some(forwards) = &now.forwards else { return Vec::new() };
        forwards.places.services.iter().map(|(name, place)| service(name, place.as_ref())).collect()
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn counters(&self) -> BTreeMap<String, BTreeMap<&'static str, u64>> {
        let of = |service: crate::tunnel::aws::forwards::ServiceView| {
            let counts = service.counts;
            let counters = BTreeMap::from([
                ("active", service.connections.len() as u64),
                ("connections", counts.connections),
                ("refused", counts.refused),
                ("reset", counts.reset),
                ("rx-bytes", counts.rx_bytes),
                ("too-slow", counts.too_slow),
                ("tx-bytes", counts.tx_bytes),
                ("unreachable", counts.unreachable),
            ]);
            (service.name, counters)
        };
        self.view().services.into_iter().map(of).collect()
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn connections(&self) -> Vec<Row> {
        let rows = self.view().services.into_iter().flat_map(|service| {
            let name = service.name;
            service
                .connections
                .into_iter()
                .map(move |one| (one.number, name.clone(), one.peer, usec(one.since), one.rx_bytes, one.tx_bytes))
        });
        let mut rows: Vec<Row> = rows.collect();
        rows.sort_by_key(|row| row.0);
        rows
    }
}

/// Name, address and port, or name and path.
fn service(name: &str, place: Option<&Place>) -> (String, String, u32) {
    let (address, port) = match place {
        Some(Place::Tcp(address)) => (address.ip().to_string(), address.port()),
        Some(Place::Name(host, port)) => (host.clone(), *port),
        Some(Place::Unix(path)) => (path.display().to_string(), 0),
        None => (String::new(), 0),
    };
    (name.to_owned(), address, port.into())
}
