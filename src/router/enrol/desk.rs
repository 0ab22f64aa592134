//! Who gets which address: logins, and addresses for keys, whatever they come over. Everything that takes time (hashes of
//! passwords, files that are to last) is done here at once: the caller has a thread for it.

use super::addresses;
use super::limits::{Limit, source};
use super::refusal::Refusal;
use super::tokens::{Grant, Tokens};
use super::users::Users;
use crate::config;
use crate::config::users::{LONGEST_NAME, User};
use crate::error::chain;
use crate::identity::PublicKey;
use crate::identity::enrol::Secret;
use crate::identity::enrol::api::{
    AddressRequest, Credential, Credentials, EndpointAnswer, EndpointRequest, LoginAnswer, LoginRequest, Page, Session,
};
use crate::identity::moment;
use crate::router::quiet::{Quiet, and_more};
use crate::router::registry::{Endpoint, Registry, RegistryError, Writer, encode, sha256};
use crate::router::status::{EnrolStatus, seconds};
use ipnet::Ipv6Net;
use serde_json::Value;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Logins of one source: as many at once, and then one each time that so long has passed.
const LOGINS_OF_SOURCE: (u32, Duration) = (20, Duration::from_secs(3));
/// The same of one user, wherever they come from.
const LOGINS_OF_USER: (u32, Duration) = (10, Duration::from_secs(6));
/// Random addresses that are tried; that one is taken is as good as impossible.
const TRIES: usize = 16;

/// The desk.
#[derive(Debug)]
pub struct Desk {
    network: Ipv6Net,
    /// The router's own addresses.
    own: Vec<Ipv6Addr>,
    users: Users,
    registry: Registry,
    tokens: Mutex<Tokens>,
    sources: Mutex<Limit<IpAddr>>,
    names: Mutex<Limit<String>>,
    logins: AtomicU64,
    logins_refused: AtomicU64,
    enrolled: AtomicU64,
    renewed: AtomicU64,
    refused: AtomicU64,
    lines: Quiet,
}

/// What came of a request for an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enrolled {
    /// The address was nobody's.
    New(EndpointAnswer),
    /// Its key was replaced.
    Renewed(EndpointAnswer),
    /// All was so already: whoever asks again has not heard the answer.
    Repeated(EndpointAnswer),
}

impl Desk {
    /// The desk of a router; clears away what a killed one had not finished.
    pub fn open(config: &config::Router, enrol: &config::RouterEnrol) -> Result<Self, RegistryError> {
        let registry = Registry::new(&config.endpoints_dir);
        registry.write()?.tidy()?;
        let addresses = config.tun.iter().flat_map(|tun| &tun.addresses);
        Ok(Self {
            network: enrol.network,
            own: addresses
                .filter_map(|net| if let IpAddr::V6(address) = net.addr() { Some(address) } else { None })
                .collect(),
            users: Users::new(&enrol.users_file),
            registry,
            tokens: Mutex::new(Tokens::new(enrol.token_lifetime)),
            sources: Mutex::new(Limit::new(LOGINS_OF_SOURCE.0, LOGINS_OF_SOURCE.1)),
            names: Mutex::new(Limit::new(LOGINS_OF_USER.0, LOGINS_OF_USER.1)),
            logins: AtomicU64::new(0),
            logins_refused: AtomicU64::new(0),
            enrolled: AtomicU64::new(0),
            renewed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            lines: Quiet::default(),
        })
    }

    /// What was counted.
    pub fn status(&self, listener: SocketAddr) -> EnrolStatus {
        EnrolStatus {
            listener,
            logins: self.logins.load(Relaxed),
            logins_refused: self.logins_refused.load(Relaxed),
            enrolled: self.enrolled.load(Relaxed),
            renewed: self.renewed.load(Relaxed),
            refused: self.refused.load(Relaxed),
        }
    }

    /// Counts a login that did not come about, and says so in the log. Who is not known here is not named: people type
    /// their password in the wrong place.
    pub fn login_refused(&self, user: &str, peer: SocketAddr, refusal: &Refusal) {
        self.logins_refused.fetch_add(1, Relaxed);
        let known = self.users.now();
        self.log_refusal(known.find(user).map(|user| user.name.as_str()), peer, refusal, "log in");
    }

    /// The same of a request for an address.
    pub fn enrolment_refused(&self, user: Option<&str>, peer: SocketAddr, refusal: &Refusal) {
        self.refused.fetch_add(1, Relaxed);
        self.log_refusal(user, peer, refusal, "enrol");
    }

    fn log_refusal(&self, user: Option<&str>, peer: SocketAddr, refusal: &Refusal, what: &str) {
        if let Some(more) = self.lines.allows() {
            let (who, more) = (user.unwrap_or("somebody"), and_more(more));
            log::warn!(ENFTUN_PEER:% = peer, ENFTUN_USER = who; "{who} from {peer} could not {what}: {}{more}", chain(refusal));
        }
    }

    /// Whether somebody may try to log in now. Takes no time.
    pub fn may_try(&self, name: &str, peer: SocketAddr, now: Instant) -> Result<(), Refusal> {
        let too_often = |wait| Refusal::TooOften { wait };
        lock(&self.sources).take(source(peer.ip()), now).map_err(too_often)?;
        // Names that nobody has are counted too: an answer tells nothing of who has one.
        lock(&self.names).take(name.chars().take(LONGEST_NAME).collect(), now).map_err(too_often)
    }

    /// A token for a user and a password.
    pub fn log_in(&self, request: &LoginRequest, peer: SocketAddr, now: Instant) -> Result<LoginAnswer, Refusal> {
        let known = self.users.now();
        let user = known.log_in(&request.username, request.token.expose().as_bytes()).ok_or(Refusal::Login)?;
        let grant = Grant { user: user.name.clone(), password: sha256(user.hash.as_bytes()) };
        let token = lock(&self.tokens).give(grant, now).map_err(|_| Refusal::Failed)?;
        self.logins.fetch_add(1, Relaxed);
        log::info!(ENFTUN_USER = user.name, ENFTUN_PEER:% = peer; "{} logged in from {peer}", user.name);
        let network = user.network.unwrap_or(self.network);
        let session = Session {
            username: Some(user.name.clone()),
            token: Some(Secret::new(token)),
            user_id: Value::String(user.name.clone()),
            kind: Some("USER".to_owned()),
            domain_id: Value::String(network.to_string()),
            domain_network: Some(network),
        };
        Ok(LoginAnswer { data: vec![session], page: Page { curr: 0, next: -1, prev: -1 } })
    }

    /// Whose token it is; none: nobody's.
    pub fn holder(&self, token: &str, now: Instant) -> Option<Grant> {
        lock(&self.tokens).find(token, now).cloned()
    }

    /// An address for a key, on disk when this returns. `in_use`: a session has the address, by whatever right.
    pub fn enrol(
        &self,
        grant: &Grant,
        request: &EndpointRequest,
        peer: SocketAddr,
        in_use: &dyn Fn(Ipv6Addr) -> bool,
    ) -> Result<Enrolled, Refusal> {
        let known = self.users.now();
        let user = known.find(&grant.user).filter(|user| sha256(user.hash.as_bytes()) == grant.password);
        let user = user.ok_or(Refusal::Token)?;
        let key = request.ecdsa_credential.public_key().ok_or(Refusal::Key)?;
        let network = user.network.unwrap_or(self.network);
        let writer = self.registry.write().map_err(|error| self.failed(error))?;
        let case = Case { desk: self, user, grant, network, key: &key, writer: &writer, in_use };
        let outcome = match request.address_request {
            AddressRequest::Network(wanted) if wanted.trunc() != network => Err(Refusal::OtherNetwork { network }),
            AddressRequest::Network(_) => case.any(),
            AddressRequest::Address(address) => case.this(address),
        }?;
        let (counter, what, answer) = match &outcome {
            Enrolled::New(answer) => (&self.enrolled, "was enrolled", answer),
            Enrolled::Renewed(answer) => (&self.renewed, "got another key", answer),
            Enrolled::Repeated(_) => return Ok(outcome),
        };
        counter.fetch_add(1, Relaxed);
        let (address, print) = (answer.address.as_deref().unwrap_or_default(), sha256(key.spki()));
        log::info!(
            ENFTUN_ADDRESS = address, ENFTUN_USER = user.name, ENFTUN_PEER:% = peer, ENFTUN_FINGERPRINT = print;
            "{address} {what} by {} from {peer}: the {} key SHA-256 {print}", user.name, request.ecdsa_credential.kind
        );
        Ok(outcome)
    }

    fn failed(&self, error: RegistryError) -> Refusal {
        log::error!("nobody can enrol: {}", chain(&error));
        Refusal::Failed
    }
}

/// One request, while nobody else writes.
struct Case<'a> {
    desk: &'a Desk,
    user: &'a User,
    grant: &'a Grant,
    network: Ipv6Net,
    key: &'a PublicKey,
    writer: &'a Writer<'a>,
    in_use: &'a dyn Fn(Ipv6Addr) -> bool,
}

impl Case<'_> {
    /// Any address of the network: the one that this user has for this key, else a new one.
    fn any(&self) -> Result<Enrolled, Refusal> {
        let all = self.all()?;
        let same =
            |endpoint: &&Arc<Endpoint>| self.network.contains(&endpoint.address) && endpoint.has_only(self.key.spki());
        if let Some(repeated) = all.iter().filter(|endpoint| self.owns(endpoint)).find(same) {
            return Ok(Enrolled::Repeated(self.answer(repeated)));
        }
        self.may_have_more(&all)?;
        for _ in 0..TRIES {
            let address = addresses::random(self.network).map_err(|_| Refusal::Failed)?;
            if self.desk.own.contains(&address) || (self.in_use)(address) {
                continue;
            }
            match self.make(address) {
                Err(RegistryError::Taken(_)) => {}
                made => return made.map(Enrolled::New).map_err(|error| self.desk.failed(error)),
            }
        }
        Err(Refusal::Failed)
    }

    /// This address and no other.
    fn this(&self, address: Ipv6Addr) -> Result<Enrolled, Refusal> {
        if !self.network.contains(&address) {
            return Err(Refusal::OtherNetwork { network: self.network });
        }
        if let Some(why) = addresses::refused(address) {
            return Err(Refusal::Address { address, why });
        }
        let found = self.desk.registry.find(address).map_err(|error| self.desk.failed(error))?;
        match found {
            Some(found) if found.revoked.is_some() => Err(Refusal::Revoked { address }),
            Some(found) if !self.owns(&found) => Err(Refusal::Taken { address }),
            Some(found) if found.has_only(self.key.spki()) => Ok(Enrolled::Repeated(self.answer(&found))),
            Some(found) => {
                self.password_is_good(&self.all()?)?;
                self.renew(found)
            }
            None if self.desk.own.contains(&address) || (self.in_use)(address) => Err(Refusal::Taken { address }),
            None => {
                self.may_have_more(&self.all()?)?;
                match self.make(address) {
                    Err(RegistryError::Taken(_)) => Err(Refusal::Taken { address }),
                    made => made.map(Enrolled::New).map_err(|error| self.desk.failed(error)),
                }
            }
        }
    }

    fn all(&self) -> Result<Vec<Arc<Endpoint>>, Refusal> {
        self.desk.registry.list().map_err(|error| self.desk.failed(error))
    }

    fn owns(&self, endpoint: &Endpoint) -> bool {
        endpoint.user.as_deref() == Some(&self.user.name) && endpoint.revoked.is_none()
    }

    /// A password that is good for one enrolment is used up by the file of that enrolment, revoked or not, and by nothing
    /// else: there is no moment in which one is there without the other.
    fn password_is_good(&self, all: &[Arc<Endpoint>]) -> Result<(), Refusal> {
        let used = self.user.once && all.iter().any(|endpoint| endpoint.used.contains(&self.grant.password));
        if used { Err(Refusal::UsedUp) } else { Ok(()) }
    }

    fn may_have_more(&self, all: &[Arc<Endpoint>]) -> Result<(), Refusal> {
        self.password_is_good(all)?;
        let max = self.user.max;
        let has = all.iter().filter(|endpoint| self.owns(endpoint)).count();
        if has >= max as usize { Err(Refusal::TooMany { max }) } else { Ok(()) }
    }

    fn make(&self, address: Ipv6Addr) -> Result<EndpointAnswer, RegistryError> {
        let endpoint = Endpoint {
            user: Some(self.user.name.clone()),
            created: Some(seconds(SystemTime::now())),
            used: self.user.once.then(|| self.grant.password.clone()).into_iter().collect(),
            pem: encode("PUBLIC KEY", self.key.spki()),
            ..Endpoint::unknown(address)
        };
        self.writer.create(&endpoint)?;
        Ok(self.answer(&endpoint))
    }

    fn renew(&self, mut endpoint: Endpoint) -> Result<Enrolled, Refusal> {
        endpoint.modified = Some(seconds(SystemTime::now()));
        endpoint.pem = encode("PUBLIC KEY", self.key.spki());
        endpoint.used.extend(self.user.once.then(|| self.grant.password.clone()));
        self.writer.replace(&endpoint).map_err(|error| self.desk.failed(error))?;
        Ok(Enrolled::Renewed(self.answer(&endpoint)))
    }

    fn answer(&self, endpoint: &Endpoint) -> EndpointAnswer {
        let time = |seconds: u64| moment(i64::try_from(seconds).unwrap_or(i64::MAX));
        let changed = endpoint.modified.or(endpoint.created).map(time);
        let key = Credential { creation_timestamp: changed.clone(), ..Credential::of(self.key) };
        EndpointAnswer {
            address: Some(endpoint.address.to_string()),
            network: Some(self.network),
            creation_timestamp: endpoint.created.map(time),
            modification_timestamp: changed,
            active_credentials: Credentials { body: vec![key] },
        }
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
