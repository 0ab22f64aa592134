//! One session of kind `enf`: credentials, dial, handshake, then packets between the TUN and the wire until it ends.
//! It reports to the daemon; `docs/errors.md` lists how it can end.

use super::connect::connect;
#[cfg(feature = "enrol")]
use super::provision::provision;
use super::pump::Pump;
use super::wire::Wire;
use crate::config::{self, Host};
use crate::error::{Class, chain};
use crate::identity::{self, Credentials};
use crate::state::{Ended, Failure, Link, Reason, SessionId};
use crate::sys::tun::Tun;
use crate::transport::tls;
use crate::tunnel::{Counters, Reporter, Session, SessionEvent, Upstream};
use ipnet::{IpNet, Ipv6Net};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::{Notify, oneshot};

/// What a session needs to live.
#[derive(Debug)]
pub struct Spec {
    /// Its number.
    pub id: SessionId,
    /// The tunnel's configuration.
    pub tunnel: Arc<config::Tunnel>,
    /// What only this kind has of it.
    pub enf: Arc<config::Enf>,
    /// The places in `remote.hosts` of those to try, in this order.
    pub remotes: Vec<usize>,
    /// Who takes packets from the host.
    pub upstream: Upstream,
    /// Somebody wants a sign of life of the far end now.
    pub probe: Arc<Notify>,
    /// The packets' way from and to the host.
    pub tun: Arc<Tun>,
    /// Where routers that are given by name were last found, for when nobody answers for the name.
    pub last_addresses: BTreeMap<String, IpAddr>,
    /// The places in `remote.hosts` of those that take nobody who offers a wire by name.
    pub nameless: BTreeSet<usize>,
    /// Asked when no remote can be reached, to find out why.
    pub probe_url: Option<config::ProbeUrl>,
    /// The router seems to have refused this tunnel's credentials by closing sessions without a word: new ones are to be had
    /// first, if there is a way.
    pub refused: Option<Failure>,
    /// Where it counts.
    pub counters: Arc<Counters>,
    /// Where it reports.
    pub reporter: Reporter,
}

/// Starts a session. It ends by itself when it must, or when it is stopped.
pub fn start(spec: Spec) -> Session {
    let (stop, stopped) = oneshot::channel();
    let probe = spec.probe.clone();
    let task = tokio::spawn(async move {
        let reporter = spec.reporter.clone();
        let ended = tokio::select! {
            biased;
            ended = run(spec) => ended,
            // The wire says goodbye when it is dropped.
            _ = stopped => return,
        };
        reporter.report(SessionEvent::Ended(ended)).await;
    });
    Session::new(stop, probe, task)
}

/// An attempt; and when it shows that the credentials are unfit, one more with new ones, if there is a way to have some. Where
/// the router has shown so before, new ones come first.
async fn run(mut spec: Spec) -> Ended {
    let refused = spec.refused.take();
    let enf = Arc::clone(&spec.enf);
    if let Some(why) = refused
        && let Some(renewed) = renew(&spec, &enf, &why).await
    {
        return again(&spec, renewed).await;
    }
    let unfit = match attempt(&spec).await {
        Ok(ended) => return ended,
        Err(why) => why,
    };
    match renew(&spec, &enf, &unfit).await {
        Some(renewed) => again(&spec, renewed).await,
        None => heard_before(unfit),
    }
}

/// The attempt with new credentials, if there are some.
async fn again(spec: &Spec, renewed: Result<(), Failure>) -> Ended {
    match renewed {
        Ok(()) => attempt(spec).await.unwrap_or_else(heard_before),
        Err(failure) => heard_before(failure),
    }
}

#[cfg(feature = "enrol")]
async fn renew(spec: &Spec, enf: &config::Enf, why: &Failure) -> Option<Result<(), Failure>> {
    provision(spec, enf, why).await
}

/// Nobody is there to ask.
#[cfg(not(feature = "enrol"))]
async fn renew(_: &Spec, _: &config::Enf, _: &Failure) -> Option<Result<(), Failure>> {
    None
}

fn heard_before(failure: Failure) -> Ended {
    Ended::of(failure)
}

/// From the credentials to the end. An error: other credentials are needed.
async fn attempt(spec: &Spec) -> Result<Ended, Failure> {
    let enf = &spec.enf;
    let credentials = match load(&spec.tunnel).await {
        Ok(credentials) => credentials,
        Err((failure, true)) => return Err(failure),
        Err((failure, false)) => return Ok(heard_before(failure)),
    };
    let own = match identity::own_address(&credentials) {
        Ok(own) => own,
        Err(error) => return Ok(heard_before(Failure::from(&error))),
    };
    let ended = match connect(spec, enf, &credentials).await {
        Ok((index, wire)) => {
            let link = link(&spec.tunnel, enf, own, index, &wire, &credentials);
            Pump::new(spec, enf, own, wire).run(link, spec.reporter.clone()).await
        }
        Err(failure) => heard_before(failure),
    };
    match ended.failure.reason {
        Reason::AuthFailed => Err(ended.failure),
        _ => Ok(ended),
    }
}

/// Certificate and key, looked for and read again for every session so that replaced files take effect. An error comes with
/// whether new ones would mend it.
async fn load(tunnel: &Arc<config::Tunnel>) -> Result<Credentials, (Failure, bool)> {
    let tunnel = Arc::clone(tunnel);
    let load = move || {
        let passed = identity::credentials_directory();
        identity::find(&tunnel, passed.as_deref())?.load(SystemTime::now())
    };
    match tokio::task::spawn_blocking(load).await {
        Ok(result) => result.map_err(|error| (Failure::from(&error), error.is_mended_by_new_ones())),
        Err(error) => Err((Failure::new(Reason::CredentialsMissing, Class::Bug, chain(&error)), false)),
    }
}

fn link(
    tunnel: &config::Tunnel,
    enf: &config::Enf,
    own: Ipv6Addr,
    index: usize,
    wire: &Wire,
    credentials: &Credentials,
) -> Link {
    let mut addresses: Vec<IpNet> = vec![Ipv6Net::from(own).into()];
    addresses.extend(enf.tun.ipv4_address.filter(|_| tunnel.route.allow_ipv4).map(IpNet::from));
    let tls = tls::describe(wire.tls(), credentials.not_after);
    let (peer, local) = (wire.socket().peer_addr().ok(), wire.socket().local_addr().ok());
    let remote = tunnel.remote.hosts.get(index).map(Host::to_string).unwrap_or_default();
    log::debug!(ENFTUN_TUNNEL = tunnel.name.as_str(), ENFTUN_REMOTE = remote.as_str(); "TLS handshake complete, wire {}", tls.wire);
    Link { remote, index, peer, local, addresses, tls }
}
