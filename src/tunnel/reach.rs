//! What every kind of tunnel needs to reach a far end: its name looked up with the firewall's leave, its addresses raced, company
//! for a handshake that takes long, and one failure for all ways that failed. What the handshake is, is the kind's to say.

use super::{Reporter, SessionEvent};
use crate::config::{self, Host};
use crate::error::Class;
use crate::state::{Failure, Reason};
use crate::transport::dial::{self, Options};
use crate::transport::race::Race;
use crate::transport::{connectivity, resolve};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

/// A handshake that takes longer than this is probably stuck: the other addresses are tried beside it.
const PATIENCE: Duration = Duration::from_secs(2);
/// So long a look at the network may put off the next attempt.
const LONGEST_PROBE: Duration = Duration::from_secs(5);

/// Who is on the way to a far end.
#[derive(Debug)]
pub struct Reach<'a> {
    /// The tunnel.
    pub tunnel: &'a config::Tunnel,
    /// What each of its sockets carries.
    pub options: Options,
    /// Where far ends that are given by name were last found, for when nobody answers for the name.
    pub last_addresses: &'a BTreeMap<String, IpAddr>,
    /// Who is told before anything is sent.
    pub reporter: &'a Reporter,
}

impl Reach<'_> {
    /// A connection to one address.
    pub async fn dial(&self, address: SocketAddr) -> Result<TcpStream, Failure> {
        let limit = self.tunnel.remote.connect_timeout;
        dial::connect(address, &self.options, limit).await.map_err(|error| Failure::from(&error))
    }

    /// What `greet` makes of a connection to `host`, or to its proxy, by whichever of its addresses is the first to succeed. A
    /// handshake that takes long (the path may carry only small packets) gets company from the other addresses.
    pub async fn first<T, F>(&self, host: &Host, greet: impl Fn(SocketAddr, TcpStream) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let limit = self.tunnel.remote.connect_timeout;
        let asked = OnceLock::new();
        let ask = async |servers: Vec<SocketAddr>| {
            let _ = asked.set(servers.clone());
            asking(self.reporter.clone(), servers).await;
        };
        let last = host.dialled().and_then(|(name, port)| Some(SocketAddr::new(*self.last_addresses.get(name)?, port)));
        let (found, mut batches) = mpsc::unbounded_channel();
        let mut lookup = pin!(resolve::find(host, &self.options, limit, ask, found));
        let mut looking = true;
        let mut addresses = Vec::new();
        let mut race = Race::new(|address| self.dial(address));
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
                    self.allow(host, &addresses, asked.get().filter(|_| looking)).await;
                    race.add(batch);
                }
                end = &mut lookup, if looking => {
                    looking = false;
                    let Err(error) = end else { continue };
                    let failure = Failure::from(&error);
                    if let Some(last) = last.filter(|_| error.class() == Class::Transient) {
                        log::warn!(ENFTUN_TUNNEL = self.tunnel.name.as_str(), ENFTUN_REMOTE:% = host; "{}; trying {}, where it was last", failure.text, last.ip());
                        self.allow(host, &[last], None).await;
                        race.add([last]);
                    }
                    failures.push(failure);
                }
                Some((address, stream)) = race.next(), if !alone => {
                    handshakes.push(greet(address, stream));
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

    /// Looks what the network reaches instead, when that may be why no far end could be reached, and adds what is to be done.
    pub async fn explain(&self, probe_url: Option<&config::ProbeUrl>, failure: Failure) -> Failure {
        let Some(url) = probe_url.filter(|_| may_be_the_network(failure.reason)) else { return failure };
        let limit = self.tunnel.remote.connect_timeout.min(LONGEST_PROBE);
        let ask = async |servers| asking(self.reporter.clone(), servers).await;
        let go = async |addresses: Vec<SocketAddr>| self.allow(&url.host, &addresses, None).await;
        let reach = connectivity::probe(url, &self.options, limit, ask, go).await;
        self.reporter.report(SessionEvent::Connectivity(reach.clone())).await;
        match reach.advice() {
            // Once somebody has signed in, everything else may be right.
            Some(advice) => Failure { text: format!("{}; {advice}", failure.text), class: Class::Transient, ..failure },
            None => failure,
        }
    }

    /// Lets packets go to all addresses of a far end that are known, and to name servers that are still being asked.
    async fn allow(&self, host: &Host, addresses: &[SocketAddr], servers: Option<&Vec<SocketAddr>>) {
        dialling(self.reporter.clone(), host, addresses.to_vec(), servers.cloned().unwrap_or_default()).await;
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

/// One failure for all ways that failed: worth an early retry when that is true of any; otherwise the first stands for all. That
/// there is no network is the reason only when it is everyone's.
pub fn worst(failures: Vec<Failure>, between: &str) -> Failure {
    let text = failures.iter().map(|failure| failure.text.as_str()).collect::<Vec<_>>().join(between);
    let early = || failures.iter().filter(|failure| failure.class == Class::Transient);
    let chosen = early().find(|failure| failure.reason != Reason::NoNetwork).or(early().next()).or(failures.first());
    match chosen {
        Some(failure) => Failure { text, ..failure.clone() },
        None => Failure::new(Reason::Config, Class::Configuration, "no remote is configured (remote.hosts)"),
    }
}

/// Tells the daemon where packets are about to go, and waits until they may.
pub async fn dialling(reporter: Reporter, host: &Host, addresses: Vec<SocketAddr>, servers: Vec<SocketAddr>) {
    let (remote, proxied) = (host.to_string(), host.is_proxied());
    let (granted, wait) = oneshot::channel();
    reporter.report(SessionEvent::Dial { remote, addresses, proxied, servers, granted }).await;
    let _ = wait.await;
}

/// Tells the daemon which name servers are about to be asked, and waits until they may.
pub async fn asking(reporter: Reporter, servers: Vec<SocketAddr>) {
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
