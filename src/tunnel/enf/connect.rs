//! From a tunnel's remotes to a wire with one of them: names, addresses, connections, handshakes, in the order it is told.

use super::session::Spec;
use super::wire::Wire;
use crate::config::{self, Host};
use crate::error::{Class, chain};
use crate::identity::Credentials;
use crate::state::{Failure, Reason};
use crate::transport::dial::{self, Options};
use crate::transport::resolve;
use crate::transport::tls;
use crate::transport::trust::{Anchors, RouterTrust};
use crate::tunnel::SessionEvent;
use std::io;
use std::net::SocketAddr;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// The first remote, in the order of `spec.remotes`, with which TCP and TLS succeed, by its place in `remote.hosts`.
pub(super) async fn connect(
    spec: &Spec,
    enf: &config::Enf,
    credentials: &Credentials,
) -> Result<(usize, Wire), Failure> {
    let mut failures = Vec::new();
    for &index in &spec.remotes {
        let Some(host) = spec.tunnel.remote.hosts.get(index) else { continue };
        match connect_to(spec, enf, credentials, host).await {
            Ok(wire) => return Ok((index, wire)),
            Err(failure) => {
                log::info!(ENFTUN_TUNNEL = spec.tunnel.name.as_str(), ENFTUN_REMOTE:% = host; "{failure}");
                spec.reporter.report(SessionEvent::Refused { index, failure: failure.clone() }).await;
                failures.push(failure);
            }
        }
    }
    Err(worst(failures))
}

/// One failure for all remotes: worth an early retry when that is true of any; otherwise the first stands for all.
fn worst(failures: Vec<Failure>) -> Failure {
    let text = failures.iter().map(|failure| failure.text.as_str()).collect::<Vec<_>>().join("; ");
    let chosen = failures.iter().find(|failure| failure.class == Class::Transient).or(failures.first());
    match chosen {
        Some(failure) => Failure { text, ..failure.clone() },
        None => Failure::new(Reason::Config, Class::Configuration, "no remote is configured (remote.hosts)"),
    }
}

async fn connect_to(spec: &Spec, enf: &config::Enf, credentials: &Credentials, host: &Host) -> Result<Wire, Failure> {
    let remote = &spec.tunnel.remote;
    let limit = remote.connect_timeout;
    let options = Options {
        mark: enf.route.fwmark & enf.route.fwmark_mask,
        congestion_control: remote.congestion_control.clone(),
        inside: enf.dns.as_ref().map(|dns| dns.servers.clone()).unwrap_or_default(),
    };
    let ask = |servers| grant(spec, move |granted| SessionEvent::Ask { servers, granted });
    let last = host.dialled().and_then(|(name, port)| Some((spec.last_addresses.get(name)?, port)));
    let addresses = match resolve::resolve(host, &options, limit, ask).await {
        Ok(addresses) => addresses,
        Err(error) => match last.filter(|_| error.reason() == Reason::DnsFailed) {
            Some((address, port)) => {
                log::warn!(ENFTUN_TUNNEL = spec.tunnel.name.as_str(), ENFTUN_REMOTE:% = host; "{}; trying {address}, where it was last", chain(&error));
                vec![SocketAddr::new(*address, port)]
            }
            None => return Err(Failure::from(&error)),
        },
    };
    let dial = |granted| SessionEvent::Dial { remote: host.to_string(), addresses: addresses.clone(), granted };
    grant(spec, dial).await;
    let mut stream = Err(Failure::new(Reason::DnsFailed, Class::Transient, format!("{host} has no address")));
    for address in addresses {
        stream = dial::connect(address, &options, limit).await.map_err(|error| Failure::from(&error));
        if stream.is_ok() {
            break;
        }
    }
    let stream = stream?;
    let peer = stream.peer_addr().map_err(|error| broken(host, &error))?;
    let anchors = Anchors::load(&remote.ca_cert_file).map_err(|error| Failure::from(&error))?;
    let trust = RouterTrust { anchors, name: remote.name.clone() };
    let name = tls::server_name(remote.name.as_deref(), peer.ip());
    let config = tls::client_config(credentials, trust, &tls::VERSIONS)
        .map_err(|error| Failure::new(Reason::ProtocolError, error.class(), chain(&error)))?;
    let handshake = TlsConnector::from(config).connect(name, stream);
    match timeout(limit, handshake).await {
        Ok(Ok(stream)) => {
            let (socket, connection) = stream.into_inner();
            Ok(Wire::new(socket, connection.into()))
        }
        Ok(Err(error)) => Err(tls::failure(&error, &host.to_string())),
        Err(_) => Err(Failure::new(
            Reason::Timeout,
            Class::Transient,
            format!("{host} ({peer}) accepted the connection but did not finish the TLS handshake within {limit:?}"),
        )),
    }
}

/// Tells the daemon where packets are about to go, and waits until they may.
async fn grant(spec: &Spec, event: impl FnOnce(oneshot::Sender<()>) -> SessionEvent) {
    let (granted, wait) = oneshot::channel();
    spec.reporter.report(event(granted)).await;
    let _ = wait.await;
}

fn broken(host: &Host, error: &io::Error) -> Failure {
    Failure::new(Reason::RemoteClosed, Class::Transient, format!("the connection to {host} broke: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_remote_worth_trying_again_makes_all_of_them_so() {
        let unreachable = Failure::new(Reason::Unreachable, Class::Transient, "a: refused");
        let untrusted = Failure::new(Reason::CertificateUntrusted, Class::Credentials, "b: unknown CA");
        let merged = worst(vec![untrusted.clone(), unreachable]);
        assert_eq!((merged.reason, merged.class), (Reason::Unreachable, Class::Transient));
        assert_eq!(merged.text, "b: unknown CA; a: refused");
        assert_eq!(worst(vec![untrusted.clone()]), untrusted);
    }
}
