//! The same objects without a bus, over a socket pair: for tests of others, and for a bus that is not there.

use crate::common::bus::own_uid;
use crate::listener::{Listener, Signal};
use crate::simulation::Simulation;
use enftun::daemon::{Caller, Request};
use enftun::dbus;
use std::os::unix::net::UnixStream;

const ENF0: &str = "/org/enftun/Enftun1/tunnel/enf0";
const TUNNEL: &str = "org.enftun.Enftun1.Tunnel";

async fn pair(tunnels: &[&str], uid: u32) -> (Simulation, dbus::Bus, zbus::Connection) {
    let (daemon, core) = Simulation::new(tunnels);
    let (server, client) = UnixStream::pair().unwrap();
    let client = zbus::connection::Builder::unix_stream(client).p2p().build();
    let (bus, client) = tokio::join!(dbus::serve_peer(server, core, uid), client);
    (daemon, bus.unwrap(), client.unwrap())
}

#[tokio::test]
async fn a_peer_reads_calls_and_hears() {
    let (daemon, _bus, client) = pair(&["enf0"], own_uid()).await;
    let mut listener = Listener::on(client.clone()).await;
    client.call_method(None::<&str>, ENF0, Some(TUNNEL), "Connect", &0u32).await.unwrap();
    let caller = Caller { name: "peer".to_owned(), uid: Some(own_uid()) };
    assert_eq!(daemon.asked(), [(Request::Connect("enf0".to_owned()), caller)]);
    let signals = listener.until(|signal| matches!(signal, Signal::State(..))).await;
    let told = Signal::State(ENF0.into(), "connecting".into(), "disconnected".into(), "user".into());
    assert_eq!(signals.last(), Some(&told));
}

#[tokio::test]
async fn a_peer_that_goes_is_noticed() {
    let (_daemon, bus, client) = pair(&["enf0"], own_uid()).await;
    client.close().await.unwrap();
    tokio::time::timeout(std::time::Duration::from_secs(30), bus.closed()).await.expect("the end is noticed");
}
