//! From a tunnel's remotes to a wire with one of them: names, addresses, connections, handshakes, in the order it is told.

use super::session::Spec;
use super::wire::Wire;
use crate::config::{self, Host, Way};
use crate::error::{Class, chain};
use crate::identity::Credentials;
use crate::state::{Failure, Reason};
use crate::transport::dial::{self, Options};
use crate::transport::race::Race;
use crate::transport::trust::{Anchors, RouterTrust};
use crate::transport::{connectivity, proxy, resolve, tls, vsock};
use crate::tunnel::{Reporter, SessionEvent};
use futures_util::stream::{FuturesUnordered, StreamExt};
use rustls::pki_types::ServerName;
use std::net::{Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsConnector;

/// A TLS handshake that takes longer than this is probably stuck: the other addresses are tried beside it.
const PATIENCE: Duration = Duration::from_secs(2);
/// So long a look at the network may put off the next attempt.
const LONGEST_PROBE: Duration = Duration::from_secs(5);

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
    Err(explain(spec, enf, worst(failures, "; ")).await)
}

/// Looks what the network reaches instead, when that may be why no remote could be reached, and adds what is to be done.
async fn explain(spec: &Spec, enf: &config::Enf, failure: Failure) -> Failure {
    let all = spec.remotes.len() == spec.tunnel.remote.hosts.len();
    let Some(url) = spec.probe_url.as_ref().filter(|_| all && may_be_the_network(failure.reason)) else {
        return failure;
    };
    let options = options(spec, enf);
    let limit = spec.tunnel.remote.connect_timeout.min(LONGEST_PROBE);
    let ask = async |servers| may_ask(spec, servers).await;
    let go = async |addresses: Vec<SocketAddr>| allow(spec, &url.host, &addresses, None).await;
    let reach = connectivity::probe(url, &options, limit, ask, go).await;
    spec.reporter.report(SessionEvent::Connectivity(reach.clone())).await;
    match reach.advice() {
        // Once somebody has signed in, everything else may be right.
        Some(advice) => Failure { text: format!("{}; {advice}", failure.text), class: Class::Transient, ..failure },
        None => failure,
    }
}

/// A network that lets nothing through, or answers itself, can look like this.
fn may_be_the_network(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::NoNetwork
            | Reason::DnsFailed
            | Reason::Timeout
            | Reason::Unreachable
            | Reason::RemoteClosed
            | Reason::ProxyFailed
            | Reason::ProtocolError
            | Reason::CertificateUntrusted
            | Reason::CertificateName
            | Reason::CertificateExpired
    )
}

/// What every socket of this tunnel carries.
pub(super) fn options(spec: &Spec, enf: &config::Enf) -> Options {
    Options {
        mark: enf.route.fwmark & enf.route.fwmark_mask,
        congestion_control: spec.tunnel.remote.congestion_control.clone(),
        inside: enf.dns.as_ref().map(|dns| dns.servers.clone()).unwrap_or_default(),
    }
}

/// One failure for all ways that failed: worth an early retry when that is true of any; otherwise the first stands for all. That
/// there is no network is the reason only when it is everyone's.
fn worst(failures: Vec<Failure>, between: &str) -> Failure {
    let text = failures.iter().map(|failure| failure.text.as_str()).collect::<Vec<_>>().join(between);
    let early = || failures.iter().filter(|failure| failure.class == Class::Transient);
    let chosen = early().find(|failure| failure.reason != Reason::NoNetwork).or(early().next()).or(failures.first());
    match chosen {
        Some(failure) => Failure { text, ..failure.clone() },
        None => Failure::new(Reason::Config, Class::Configuration, "no remote is configured (remote.hosts)"),
    }
}

/// One remote, by whichever of its addresses is the first to shake hands. A connection whose handshake takes long (the path
/// may carry only small packets) gets company from the other addresses.
async fn connect_to(spec: &Spec, enf: &config::Enf, credentials: &Credentials, host: &Host) -> Result<Wire, Failure> {
    let remote = &spec.tunnel.remote;
    let limit = remote.connect_timeout;
    let options = options(spec, enf);
    let anchors = anchors(spec).await?;
    let trust = RouterTrust { anchors, name: remote.name.clone() };
    let tls = tls::client_config(credentials, trust, &tls::VERSIONS)
        .map_err(|error| Failure::new(Reason::ProtocolError, error.class(), chain(&error)))?;

    let connector = TlsConnector::from(tls);
    if let Way::Vsock { cid, port } = host.way {
        let stream = vsock::connect(cid, port, limit).await.map_err(|error| Failure::from(&error))?;
        let name = tls::server_name(remote.name.as_deref(), Ipv6Addr::UNSPECIFIED.into());
        return handshake(&connector, name, stream, host, limit).await;
    }
    let asked = OnceLock::new();
    let ask = async |servers: Vec<SocketAddr>| {
        let _ = asked.set(servers.clone());
        may_ask(spec, servers).await;
    };
    let last = host.dialled().and_then(|(name, port)| Some(SocketAddr::new(*spec.last_addresses.get(name)?, port)));
    let (found, mut batches) = mpsc::unbounded_channel();
    let mut lookup = pin!(resolve::find(host, &options, limit, ask, found));
    let mut looking = true;
    let mut addresses = Vec::new();
    let mut race = Race::new(|address| {
        let options = &options;
        async move { dial::connect(address, options, limit).await.map_err(|error| Failure::from(&error)) }
    });
    let mut handshakes = FuturesUnordered::new();
    let mut company_at = Instant::now();
    let mut failures = Vec::new();
    loop {
        let alone = !handshakes.is_empty() && Instant::now() < company_at;
        tokio::select! {
            Some(end) = handshakes.next() => match end {
                Ok(wire) => return Ok(wire),
                Err(failure) => failures.push(failure),
            },
            Some(batch) = batches.recv() => {
                addresses.extend_from_slice(&batch);
                allow(spec, host, &addresses, asked.get().filter(|_| looking)).await;
                race.add(batch);
            }
            end = &mut lookup, if looking => {
                looking = false;
                let Err(error) = end else { continue };
                let failure = Failure::from(&error);
                if let Some(last) = last.filter(|_| error.class() == Class::Transient) {
                    log::warn!(ENFTUN_TUNNEL = spec.tunnel.name.as_str(), ENFTUN_REMOTE:% = host; "{}; trying {}, where it was last", failure.text, last.ip());
                    allow(spec, host, &[last], None).await;
                    race.add([last]);
                }
                failures.push(failure);
            }
            Some((address, stream)) = race.next(), if !alone => {
                let name = tls::server_name(remote.name.as_deref(), address.ip());
                handshakes.push(handshake(&connector, name, stream, host, limit));
                company_at = Instant::now() + PATIENCE.min(limit);
            }
            () = sleep_until(company_at), if alone && !race.is_over() => {}
            else => break,
        }
    }
    failures.splice(0..0, race.failures().iter().cloned());
    if failures.is_empty() {
        failures.push(Failure::new(Reason::DnsFailed, Class::Transient, format!("{host} has no address")));
    }
    Err(worst(failures, ", "))
}

/// The trust anchors, read again for every attempt so that replaced ones take effect.
async fn anchors(spec: &Spec) -> Result<Anchors, Failure> {
    let tunnel = spec.tunnel.clone();
    let load = move || Anchors::load_at(&tunnel.remote.ca_cert_file, &tunnel.tpm);
    match tokio::task::spawn_blocking(load).await {
        Ok(result) => result.map_err(|error| Failure::from(&error)),
        Err(error) => Err(Failure::new(Reason::CredentialsMissing, Class::Bug, chain(&error))),
    }
}

/// From a connection to TLS with the far end, through its proxy if it has one; each within a deadline.
async fn handshake(
    connector: &TlsConnector,
    name: ServerName<'static>,
    mut stream: TcpStream,
    host: &Host,
    limit: Duration,
) -> Result<Wire, Failure> {
    let address = stream.peer_addr().map(|address| format!(" ({address})")).unwrap_or_default();
    proxy::lead(&mut stream, host, limit).await.map_err(|error| Failure::from(&error))?;
    match timeout(limit, connector.connect(name, stream)).await {
        Ok(Ok(stream)) => {
            let (socket, connection) = stream.into_inner();
            Ok(Wire::new(socket, connection.into()))
        }
        Ok(Err(error)) => Err(tls::failure(&error, &host.to_string())),
        Err(_) => Err(Failure::new(
            Reason::Timeout,
            Class::Transient,
            format!("{host}{address} accepted the connection but did not finish the TLS handshake within {limit:?}"),
        )),
    }
}

/// Lets packets go to all addresses of a remote that are known, and to name servers that are still being asked.
async fn allow(spec: &Spec, host: &Host, addresses: &[SocketAddr], servers: Option<&Vec<SocketAddr>>) {
    dialling(spec.reporter.clone(), host, addresses.to_vec(), servers.cloned().unwrap_or_default()).await;
}

/// Lets questions go to these name servers.
async fn may_ask(spec: &Spec, servers: Vec<SocketAddr>) {
    asking(spec.reporter.clone(), servers).await;
}

/// As [`allow`], for whoever has no more than a reporter.
pub(super) async fn dialling(reporter: Reporter, host: &Host, addresses: Vec<SocketAddr>, servers: Vec<SocketAddr>) {
    let (remote, proxied) = (host.to_string(), host.is_proxied());
    let (granted, wait) = oneshot::channel();
    reporter.report(SessionEvent::Dial { remote, addresses, proxied, servers, granted }).await;
    let _ = wait.await;
}

/// Tells the daemon which name servers are about to be asked, and waits until they may.
pub(super) async fn asking(reporter: Reporter, servers: Vec<SocketAddr>) {
    let (granted, wait) = oneshot::channel();
    reporter.report(SessionEvent::Ask { servers, granted }).await;
    let _ = wait.await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_remote_worth_trying_again_makes_all_of_them_so() {
        let unreachable = Failure::new(Reason::Unreachable, Class::Transient, "a: refused");
        let untrusted = Failure::new(Reason::CertificateUntrusted, Class::Credentials, "b: unknown CA");
        let merged = worst(vec![untrusted.clone(), unreachable], "; ");
        assert_eq!((merged.reason, merged.class), (Reason::Unreachable, Class::Transient));
        assert_eq!(merged.text, "b: unknown CA; a: refused");
        assert_eq!(worst(vec![untrusted.clone()], "; "), untrusted);
    }

    #[test]
    fn that_there_is_no_network_is_said_only_when_no_way_leads_anywhere() {
        let none = |text| Failure::new(Reason::NoNetwork, Class::Transient, text);
        let merged = worst(vec![none("six"), none("four")], ", ");
        assert_eq!((merged.reason, merged.text.as_str()), (Reason::NoNetwork, "six, four"));
        let refused = Failure::new(Reason::Unreachable, Class::Transient, "four: refused");
        assert_eq!(worst(vec![none("six"), refused], ", ").reason, Reason::Unreachable);
    }
}
