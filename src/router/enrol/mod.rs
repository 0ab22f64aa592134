//! The interface that enrols clients: HTTPS with the router's certificate, and no client certificates.
//!
//! | file | owns |
//! |---|---|
//! | [`desk`] | who gets which address |
//! | [`refusal`] | why not, as HTTP says it |
//! | [`users`], [`passwords`], [`tokens`] | who may ask |
//! | [`limits`] | how often |
//! | [`addresses`] | which addresses can be a client's |
//!
//! It must not take anything from the sessions beside it: connections, the time each may take, the size of what is read, and
//! the processors that hash passwords are bounded.

pub mod addresses;
pub mod desk;
pub mod limits;
pub mod passwords;
pub mod refusal;
pub mod tokens;
pub mod users;

use super::quiet::and_more;
use super::{Hub, RouterError, listen};
use crate::config;
use crate::identity::enrol::api::{ENDPOINTS, EndpointRequest, LIMIT, LOGIN, LoginRequest};
use desk::{Desk, Enrolled};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use limits::source;
use refusal::Refusal;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

/// Connections at the same time, in all and of one source.
const CONNECTIONS: usize = 128;
const OF_ONE_SOURCE: usize = 16;
/// A handshake, and the head of a request, that takes longer is given up.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The same of a connection, whatever is said on it: an enrolment takes two requests and less than a second.
const CONNECTION: Duration = Duration::from_secs(30);
/// Bytes of a request's head, and lines in it.
const HEAD: usize = 16 << 10;
const HEADERS: usize = 64;
/// Bytes of a body that is refused which are taken all the same, so that the answer is heard.
const THROWN_AWAY: usize = 1 << 20;
/// Who waits longer than this for a processor is asked to come again.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause when the host has no descriptor or memory left for one more connection.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// The interface of a running router.
#[derive(Debug)]
pub struct Interface {
    /// Where it listens.
    pub listener: SocketAddr,
    /// Who gets what.
    pub desk: Arc<Desk>,
    places: Arc<Semaphore>,
    sources: Arc<Mutex<HashMap<IpAddr, usize>>>,
    /// One per password that is being hashed: half of the processors are left for packets.
    hashing: Arc<Semaphore>,
    /// One writes at a time.
    writing: Arc<Semaphore>,
}

impl Interface {
    /// Opens what a router needs for it.
    pub fn open(config: &config::Router, enrol: &config::RouterEnrol) -> Result<(Self, TcpListener), RouterError> {
        let failed = |source| RouterError::Listen { address: enrol.listen, source };
        let listener = listen::bind(enrol.listen, &[]).map_err(failed)?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let interface = Self {
            listener: listener.local_addr().map_err(failed)?,
            desk: Arc::new(Desk::open(config, enrol)?),
            places: Arc::new(Semaphore::new(CONNECTIONS)),
            sources: Arc::default(),
            hashing: Arc::new(Semaphore::new((processors / 2).max(1))),
            writing: Arc::new(Semaphore::new(1)),
        };
        Ok((interface, listener))
    }
}

/// A place among the connections, in all and of its source.
struct Place {
    sources: Arc<Mutex<HashMap<IpAddr, usize>>>,
    source: IpAddr,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    fn take(interface: &Interface, peer: IpAddr) -> Option<Self> {
        let permit = Arc::clone(&interface.places).try_acquire_owned().ok()?;
        let (sources, source) = (Arc::clone(&interface.sources), source(peer));
        let mut counts = sources.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(source).or_default();
        if *count >= OF_ONE_SOURCE {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Self { sources, source, _permit: permit })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.source);
            }
        }
    }
}

/// Lets people in, for ever.
pub async fn accept(listener: TcpListener, hub: Arc<Hub>, interface: Arc<Interface>) {
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((io, peer)) => {
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                match Place::take(&interface, peer.ip()) {
                    Some(place) => {
                        let (hub, interface) = (Arc::clone(&hub), Arc::clone(&interface));
                        connections.spawn(async move {
                            let _place = place;
                            // What became of it is in the log where it matters; the rest is the client's business.
                            let outcome = timeout(CONNECTION, talk(hub, interface, io, peer)).await;
                            if let Ok(Err(error)) = outcome {
                                log::debug!("{peer}: {error}");
                            }
                        });
                    }
                    None => hub.refused(peer, "too many connections to the enrolment interface are open"),
                }
            }
            Err(error) => {
                if let Some(more) = hub.refused_lines.allows() {
                    log::error!("cannot accept a connection to the enrolment interface: {error}{}", and_more(more));
                }
                if listen::is_exhausted(&error) {
                    tokio::time::sleep(EXHAUSTED).await;
                }
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn talk(hub: Arc<Hub>, interface: Arc<Interface>, io: TcpStream, peer: SocketAddr) -> io::Result<()> {
    io.set_nodelay(true)?;
    let acceptor = TlsAcceptor::from(Arc::clone(&hub.trust().interface));
    let tls = timeout(HANDSHAKE, acceptor.accept(io)).await??;
    let service = service_fn(|request| {
        let (hub, interface) = (Arc::clone(&hub), Arc::clone(&interface));
        async move { Ok::<_, Infallible>(respond(&hub, &interface, request, peer).await) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HANDSHAKE).max_buf_size(HEAD).max_headers(HEADERS);
    server.serve_connection(TokioIo::new(tls), service).await.map_err(io::Error::other)
}

async fn respond(
    hub: &Arc<Hub>,
    interface: &Arc<Interface>,
    request: Request<Incoming>,
    peer: SocketAddr,
) -> Response<Full<Bytes>> {
    let (head, mut body) = request.into_parts();
    let outcome = match (head.uri.path(), &head.method) {
        (LOGIN, &Method::POST) => log_in(interface, &mut body, peer).await,
        (ENDPOINTS, &Method::POST) => enrol(hub, interface, &head.headers, &mut body, peer).await,
        (LOGIN | ENDPOINTS, _) => Err(Refusal::Method),
        _ => Err(Refusal::NotFound),
    };
    match outcome {
        Ok(response) => response,
        Err(refusal) => {
            // Closing on what was not read would be a reset, which overtakes the answer.
            let _ = take(&mut body, 0).await;
            refused(&refusal)
        }
    }
}

async fn log_in(
    interface: &Arc<Interface>,
    body: &mut Incoming,
    peer: SocketAddr,
) -> Result<Response<Full<Bytes>>, Refusal> {
    let login: LoginRequest = read(body).await?;
    let name = login.username.clone();
    let desk = Arc::clone(&interface.desk);
    let outcome = match interface.desk.may_try(&name, peer, Instant::now()) {
        Ok(()) => at_leisure(&interface.hashing, move || desk.log_in(&login, peer, Instant::now())).await,
        Err(refusal) => Err(refusal),
    };
    match outcome {
        Ok(answer) => Ok(json(StatusCode::OK, &answer)),
        Err(refusal) => {
            interface.desk.login_refused(&name, peer, &refusal);
            Err(refusal)
        }
    }
}

async fn enrol(
    hub: &Arc<Hub>,
    interface: &Arc<Interface>,
    headers: &HeaderMap,
    body: &mut Incoming,
    peer: SocketAddr,
) -> Result<Response<Full<Bytes>>, Refusal> {
    let grant = bearer(headers).and_then(|token| interface.desk.holder(token, Instant::now()));
    let user = grant.as_ref().map(|grant| grant.user.clone());
    let outcome = async {
        let grant = grant.ok_or(Refusal::Token)?;
        let wanted: EndpointRequest = read(body).await?;
        let (desk, hub) = (Arc::clone(&interface.desk), Arc::clone(hub));
        let in_use = move |address: Ipv6Addr| hub.sessions.find(address.into(), |_| ()).is_some();
        at_leisure(&interface.writing, move || desk.enrol(&grant, &wanted, peer, &in_use)).await
    };
    match outcome.await {
        Ok(Enrolled::New(answer)) => Ok(json(StatusCode::CREATED, &answer)),
        Ok(Enrolled::Renewed(answer) | Enrolled::Repeated(answer)) => Ok(json(StatusCode::OK, &answer)),
        Err(refusal) => {
            interface.desk.enrolment_refused(user.as_deref(), peer, &refusal);
            Err(refusal)
        }
    }
}

/// `Authorization: Bearer TOKEN` (RFC 6750 section 2.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// Does what takes time on a thread of its own, as soon as there is a place for it. Whoever does not wait for the end does
/// not stop it.
async fn at_leisure<T: Send + 'static>(
    places: &Arc<Semaphore>,
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let place = timeout(PATIENCE, Arc::clone(places).acquire_owned()).await;
    let Ok(Ok(place)) = place else { return Err(Refusal::Busy) };
    let done = tokio::task::spawn_blocking(move || {
        let _place = place;
        work()
    });
    done.await.unwrap_or(Err(Refusal::Failed))
}

/// The body as what it shall be.
async fn read<T: DeserializeOwned>(body: &mut Incoming) -> Result<T, Refusal> {
    let bytes = take(body, LIMIT).await?;
    // What serde says may quote the body, and there may be a password in it.
    serde_json::from_slice(&bytes).map_err(|error| {
        let what = if error.is_data() { "not what is asked for here" } else { "no JSON" };
        Refusal::Body(format!("{what}, at line {} column {}", error.line(), error.column()))
    })
}

/// What is left of the body. More than `limit` is taken, up to a point, and thrown away.
async fn take(body: &mut Incoming, limit: usize) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let mut bytes = Zeroizing::new(Vec::new());
    let mut seen = 0_usize;
    if body.size_hint().lower() > THROWN_AWAY as u64 {
        return Err(Refusal::TooLarge);
    }
    while let Some(frame) = body.frame().await {
        let data = frame.map_err(|_| Refusal::Body("it ends early".to_owned()))?.into_data().unwrap_or_default();
        seen = seen.saturating_add(data.len());
        if seen > THROWN_AWAY {
            break;
        }
        if seen <= limit {
            bytes.extend_from_slice(&data);
        }
    }
    if seen > limit { Err(Refusal::TooLarge) } else { Ok(bytes) }
}

fn refused(refusal: &Refusal) -> Response<Full<Bytes>> {
    let (status, _) = refusal.code();
    let mut response = json(status, &refusal.body());
    let headers = response.headers_mut();
    if let Some(seconds) = refusal.retry_after() {
        headers.insert(RETRY_AFTER, seconds.into());
    }
    match refusal {
        Refusal::Method => drop(headers.insert(ALLOW, HeaderValue::from_static("POST"))),
        Refusal::Token => drop(headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
        _ => {}
    }
    response
}

fn json(status: StatusCode, body: &impl Serialize) -> Response<Full<Bytes>> {
    let body = serde_json::to_vec(body).unwrap_or_default();
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
