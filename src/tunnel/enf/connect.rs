//! From a tunnel's remotes to a wire with one of them: names, addresses, connections, handshakes, in the order it is told.
//! Who ends the handshake over the wires that are offered by name is greeted again at once, with no such offer.

use super::session::Spec;
use super::wire::Wire;
use crate::config::{self, Host, Way};
use crate::error::{Class, chain};
use crate::identity::Credentials;
use crate::state::{Failure, Reason};
use crate::transport::dial::{self, Options};
use crate::transport::race::Race;
use crate::transport::tls::Objection;
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
        let offers = spec.tunnel.remote.wire == config::Wire::Auto && !spec.nameless.contains(&index);
        match connect_to(spec, enf, credentials, host, offers).await {
            Ok((wire, objection)) => {
                if objection == Some(Objection::Said) {
                    spec.reporter.report(SessionEvent::TakesNoNames { index }).await;
                }
                return Ok((index, wire));
            }
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
        mark: spec.tunnel.route.fwmark & spec.tunnel.route.fwmark_mask,
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
async fn connect_to(
    spec: &Spec,
    enf: &config::Enf,
    credentials: &Credentials,
    host: &Host,
    offers: bool,
) -> Result<Greeted, Failure> {
    let remote = &spec.tunnel.remote;
    let limit = remote.connect_timeout;
    let options = options(spec, enf);
    let anchors = anchors(spec).await?;
    let trust = RouterTrust { anchors, name: remote.name.clone() };
    let tls = tls::client_config(credentials, trust, &tls::VERSIONS)
        .map_err(|error| Failure::new(Reason::ProtocolError, error.class(), chain(&error)))?;

    let greeting = Greeting {
        tunnel: &spec.tunnel.name,
        host,
        limit,
        offer: offers.then(|| tls::offering(&tls).into()),
        plain: tls.into(),
    };
    if let Way::Vsock { cid, port } = host.way {
        let dial = async || vsock::connect(cid, port, limit).await.map_err(|error| Failure::from(&error));
        let name = tls::server_name(remote.name.as_deref(), Ipv6Addr::UNSPECIFIED.into());
        return greeting.say(name, dial().await?, dial).await;
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
    let dial = async |address| dial::connect(address, &options, limit).await.map_err(|error| Failure::from(&error));
    let mut race = Race::new(dial);
    let mut handshakes = FuturesUnordered::new();
    let mut company_at = Instant::now();
    let mut failures = Vec::new();
    loop {
        let alone = !handshakes.is_empty() && Instant::now() < company_at;
        tokio::select! {
            Some(end) = handshakes.next() => match end {
                Ok(greeted) => return Ok(greeted),
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
                handshakes.push(greeting.say(name, stream, async move || dial(address).await));
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
    let Some(file) = tunnel.remote.ca_cert_file.clone() else {
        let text = "there is nobody to trust (remote.ca_cert_file)";
        return Err(Failure::new(Reason::Config, Class::Configuration, text));
    };
    let load = move || Anchors::load_at(&file, &tunnel.tpm);
    match tokio::task::spawn_blocking(load).await {
        Ok(result) => result.map_err(|error| Failure::from(&error)),
        Err(error) => Err(Failure::new(Reason::CredentialsMissing, Class::Bug, chain(&error))),
    }
}

/// A wire, and what the far end had against the offer that was made before.
type Greeted = (Wire, Option<Objection>);

/// How one far end is greeted.
struct Greeting<'a> {
    tunnel: &'a str,
    host: &'a Host,
    /// For each part of it.
    limit: Duration,
    /// With the wires that have a name, if they are offered to it,
    offer: Option<TlsConnector>,
    /// and without.
    plain: TlsConnector,
}

impl Greeting<'_> {
    /// From a connection to TLS with the far end. Where it breaks off over an offer, once more without, on another connection
    /// that `dial` makes.
    async fn say(
        &self,
        name: ServerName<'static>,
        stream: TcpStream,
        dial: impl AsyncFnOnce() -> Result<TcpStream, Failure>,
    ) -> Result<Greeted, Failure> {
        let Some(offer) = &self.offer else {
            return Ok((self.handshake(&self.plain, name, stream).await.map_err(|(failure, _)| failure)?, None));
        };
        let (failure, objection) = match self.handshake(offer, name.clone(), stream).await {
            Ok(wire) => return Ok((wire, None)),
            Err((failure, Some(objection))) => (failure, objection),
            Err((failure, None)) => return Err(failure),
        };
        log::info!(ENFTUN_TUNNEL = self.tunnel, ENFTUN_REMOTE:% = self.host; "{failure}; trying without ALPN");
        match (dial().await, objection) {
            (Ok(stream), _) => match self.handshake(&self.plain, name, stream).await {
                Ok(wire) => Ok((wire, Some(objection))),
                Err((failure, _)) => Err(failure),
            },
            (Err(failure), Objection::Said) => Err(failure),
            // It may have been its end.
            (Err(_), Objection::Guessed) => Err(failure),
        }
    }

    /// Through the proxy, if there is one, to the end of a handshake. A failure comes with what the far end has against the
    /// offer in it.
    async fn handshake(
        &self,
        connector: &TlsConnector,
        name: ServerName<'static>,
        mut stream: TcpStream,
    ) -> Result<Wire, (Failure, Option<Objection>)> {
        let Self { host, limit, .. } = *self;
        let address = stream.peer_addr().map(|address| format!(" ({address})")).unwrap_or_default();
        proxy::lead(&mut stream, host, limit).await.map_err(|error| (Failure::from(&error), None))?;
        match timeout(limit, connector.connect(name, stream)).await {
            Ok(Ok(stream)) => {
                let (socket, connection) = stream.into_inner();
                Ok(Wire::new(socket, connection.into()))
            }
            Ok(Err(error)) => Err((tls::failure(&error, &host.to_string()), Objection::find(&error))),
            Err(_) => {
                let text = format!(
                    "{host}{address} accepted the connection but did not finish the TLS handshake within {limit:?}"
                );
                Err((Failure::new(Reason::Timeout, Class::Transient, text), None))
            }
        }
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
