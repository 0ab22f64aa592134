//! From a tunnel's remotes to a wire with one of them: names, addresses, connections, handshakes, in the order it is told.
//! Who ends the handshake over the wires that are offered by name is greeted again at once, with no such offer.

use super::session::Spec;
use super::wire::Wire;
use crate::config::{self, Host, Way};
use crate::error::{Class, chain};
use crate::identity::Credentials;
use crate::state::{Failure, Reason};
use crate::transport::dial::Options;
use crate::transport::tls::Objection;
use crate::transport::trust::{Anchors, RouterTrust};
use crate::transport::{proxy, tls, vsock};
use crate::tunnel::SessionEvent;
use crate::tunnel::reach::{Reach, worst};
use rustls::pki_types::ServerName;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::net::TcpStream;
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
    let all = spec.remotes.len() == spec.tunnel.remote.hosts.len();
    Err(reach(spec, enf).explain(spec.probe_url.as_ref().filter(|_| all), worst(failures, "; ")).await)
}

/// What every socket of this tunnel carries.
pub(super) fn options(spec: &Spec, enf: &config::Enf) -> Options {
    Options {
        mark: spec.tunnel.route.fwmark & spec.tunnel.route.fwmark_mask,
        congestion_control: spec.tunnel.remote.congestion_control.clone(),
        inside: enf.dns.as_ref().map(|dns| dns.servers.clone()).unwrap_or_default(),
    }
}

fn reach<'a>(spec: &'a Spec, enf: &config::Enf) -> Reach<'a> {
    let Spec { tunnel, last_addresses, reporter, .. } = spec;
    Reach { tunnel, options: options(spec, enf), last_addresses, reporter }
}

/// One remote, by whichever of its addresses is the first to shake hands.
async fn connect_to(
    spec: &Spec,
    enf: &config::Enf,
    credentials: &Credentials,
    host: &Host,
    offers: bool,
) -> Result<Greeted, Failure> {
    let remote = &spec.tunnel.remote;
    let limit = remote.connect_timeout;
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
    let reach = reach(spec, enf);
    let (reach, greeting) = (&reach, &greeting);
    let greet = |address: SocketAddr, stream| {
        let name = tls::server_name(remote.name.as_deref(), address.ip());
        greeting.say(name, stream, async move || reach.dial(address).await)
    };
    reach.first(host, greet).await
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
