//! The client's side: a login, and the request for an address, each over a connection of its own. Redirects are not followed:
//! whoever could send one would get the password.

use std::net::Ipv6Addr;
use std::pin::pin;
use std::time::{Duration, SystemTime};

use futures_util::future::{Either, select};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderValue, LOCATION, RETRY_AFTER, USER_AGENT,
};
use hyper::{HeaderMap, Method, Request};
use hyper_util::rt::TokioIo;
use ipnet::Ipv6Net;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::Secret;
use super::api::{
    self, AddressRequest, Credential, EndpointAnswer, EndpointRequest, ErrorBody, LoginAnswer, LoginRequest,
};
use super::error::{EnrolError, Step};
use crate::config::{EnrolUrl, Wanted, authority};
use crate::identity::{PublicKey, parse_address, unusable};

/// A request and its answer, beside connecting. Routers take their time to hash passwords.
const LIMIT: Duration = Duration::from_secs(30);
/// The head of an answer, bytes and fields.
const HEAD: (usize, usize) = (16 << 10, 64);
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Who enrols.
#[derive(Clone, Debug)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The password, which may be good for one time only.
    pub password: Secret,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enrolled {
    /// The address that the key has from now on.
    pub address: Ipv6Addr,
    /// The network that it was asked for in, or that the interface names.
    pub network: Option<Ipv6Net>,
}

/// Has the interface at `url` give an address to `key`. `dial` opens a TLS connection to it each time; it has deadlines of its
/// own. Each exchange ends within 30 s, and reads no more than [`api::LIMIT`] bytes. The last one, if it breaks, is tried once
/// more.
///
/// # Errors
/// Nothing was changed here. The interface may have taken the key all the same if the connection broke at its last answer.
pub async fn enrol<S, E, D>(
    url: &EnrolUrl,
    login: &Login,
    wanted: Wanted,
    key: &PublicKey,
    dial: D,
) -> Result<Enrolled, EnrolError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    E: Into<EnrolError>,
    D: AsyncFn() -> Result<S, E>,
{
    let asking = Asking { url, remote: url.to_string(), user: &login.user, wanted, limit: LIMIT };
    asking.ask(login, key, dial).await
}

/// One enrolment, for its requests and its errors.
struct Asking<'a> {
    url: &'a EnrolUrl,
    remote: String,
    user: &'a str,
    wanted: Wanted,
    /// For each exchange.
    limit: Duration,
}

impl Asking<'_> {
    async fn ask<S, E, D>(&self, login: &Login, key: &PublicKey, dial: D) -> Result<Enrolled, EnrolError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        E: Into<EnrolError>,
        D: AsyncFn() -> Result<S, E>,
    {
        let body = LoginRequest { username: login.user.clone(), token: login.password.clone() };
        let stream = dial().await.map_err(Into::into)?;
        let answer: LoginAnswer = self.exchange(Step::Login, stream, &body, None).await?;
        let session = answer.data.into_iter().next().unwrap_or_default();
        let Some(token) = session.token.filter(|token| !token.expose().is_empty()) else {
            return Err(self.foreign(Step::Login, "its answer to the login has no token"));
        };

        let address_request = self.request(session.domain_network)?;
        let body = EndpointRequest { ecdsa_credential: Credential::of(key), address_request };
        let ask = async || {
            let stream = dial().await.map_err(Into::into)?;
            self.exchange::<_, _, EndpointAnswer>(Step::Address, stream, &body, Some(&token)).await
        };
        let answer = match ask().await {
            // It may have given the address, and a password that was good for one time is used up then. The same request
            // again gives the same.
            Err(EnrolError::Broken { .. } | EnrolError::Http { .. } | EnrolError::Timeout { .. }) => ask().await,
            answer => answer,
        };
        self.check(address_request, &answer?)
    }

    fn request(&self, own: Option<Ipv6Net>) -> Result<AddressRequest, EnrolError> {
        match (self.wanted, own) {
            (Wanted::Exactly(address), _) => Ok(AddressRequest::Address(address)),
            (Wanted::In(network), _) | (Wanted::Auto, Some(network)) => Ok(AddressRequest::Network(network)),
            (Wanted::Auto, None) => {
                Err(EnrolError::NoNetwork { remote: self.remote.clone(), user: self.user.to_owned() })
            }
        }
    }

    /// An address is only what was asked for.
    fn check(&self, asked: AddressRequest, answer: &EndpointAnswer) -> Result<Enrolled, EnrolError> {
        let text = answer.address.as_deref().unwrap_or_default();
        let Some(address) = parse_address(text.strip_suffix("/128").unwrap_or(text)) else {
            return Err(self.foreign(Step::Address, "its answer has no address"));
        };
        let wrong =
            |why: String| Err(EnrolError::WrongAddress { remote: self.remote.clone(), address: text.to_owned(), why });
        match asked {
            AddressRequest::Address(asked) if asked != address => return wrong(format!("is not {asked}")),
            AddressRequest::Network(network) if !network.contains(&address) => {
                return wrong(format!("is not in {network}"));
            }
            _ => {}
        }
        if let Some(why) = unusable(address) {
            return wrong(format!("cannot be an own address: {why}"));
        }
        let network = match asked {
            AddressRequest::Network(network) => Some(network),
            AddressRequest::Address(_) => answer.network,
        };
        Ok(Enrolled { address, network })
    }

    async fn exchange<S, Q, A>(&self, step: Step, stream: S, body: &Q, token: Option<&Secret>) -> Result<A, EnrolError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        Q: Serialize,
        A: DeserializeOwned,
    {
        let request = self.http_request(step, body, token)?;
        let exchange = self.send(step, stream, request);
        let (head, body) = timeout(self.limit, exchange).await.map_err(|_| EnrolError::Timeout {
            step,
            remote: self.remote.clone(),
            limit: self.limit,
        })??;
        self.judge(step, head.status.as_u16(), &head.headers, &body)
    }

    fn http_request(
        &self,
        step: Step,
        body: &impl Serialize,
        token: Option<&Secret>,
    ) -> Result<Request<Full<Bytes>>, EnrolError> {
        // As large as it can become: a buffer that grows leaves copies of the password behind.
        let mut json = Zeroizing::new(Vec::with_capacity(api::LIMIT));
        let made = serde_json::to_writer(&mut *json, body).map_err(|error| error.to_string()).and_then(|()| {
            let path = match step {
                Step::Address => api::ENDPOINTS,
                Step::Connect | Step::Login => api::LOGIN,
            };
            let host = match self.url.host.port {
                443 => authority(&self.url.host.host, 443).trim_end_matches(":443").to_owned(),
                port => authority(&self.url.host.host, port),
            };
            let mut request = Request::builder()
                .method(Method::POST)
                .uri(format!("{}{path}", self.url.path))
                .header(HOST, host)
                .header(CONTENT_TYPE, JSON)
                .header(ACCEPT, JSON)
                .header(USER_AGENT, concat!("enftun/", env!("CARGO_PKG_VERSION")))
                .header(CONNECTION, "close");
            if let Some(token) = token {
                let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
                    .map_err(|_| "its token cannot stand in a request".to_owned())?;
                value.set_sensitive(true);
                request = request.header(AUTHORIZATION, value);
            }
            request.body(Full::new(Bytes::from_owner(json))).map_err(|error| error.to_string())
        });
        made.map_err(|what| self.foreign(step, &what))
    }

    async fn send<S>(
        &self,
        step: Step,
        stream: S,
        request: Request<Full<Bytes>>,
    ) -> Result<(hyper::http::response::Parts, Bytes), EnrolError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let failed = |error| self.http_error(step, error);
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD.0).max_headers(HEAD.1);
        let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(failed)?;
        let exchange = pin!(async move {
            let (head, body) = sender.send_request(request).await.map_err(failed)?.into_parts();
            match Limited::new(body, api::LIMIT).collect().await {
                Ok(body) => Ok((head, body.to_bytes())),
                Err(error) if error.is::<LengthLimitError>() => {
                    Err(EnrolError::TooLarge { step, remote: self.remote.clone(), limit: api::LIMIT })
                }
                Err(error) => Err(match error.downcast::<hyper::Error>() {
                    Ok(error) => failed(*error),
                    Err(error) => self.foreign(step, &error.to_string()),
                }),
            }
        });
        match select(exchange, pin!(connection)).await {
            Either::Left((answer, _)) => answer,
            // It has nothing more to say; what it said is with the other one.
            Either::Right((_, exchange)) => exchange.await,
        }
    }

    fn http_error(&self, step: Step, source: hyper::Error) -> EnrolError {
        let remote = self.remote.clone();
        let io = std::error::Error::source(&source).and_then(|source| source.downcast_ref::<std::io::Error>());
        match io {
            Some(io) => EnrolError::Broken { step, remote, source: std::io::Error::new(io.kind(), io.to_string()) },
            None => EnrolError::Http { step, remote, source },
        }
    }

    /// What an answer means.
    fn judge<A: DeserializeOwned>(
        &self,
        step: Step,
        status: u16,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<A, EnrolError> {
        let error: ErrorBody = serde_json::from_slice(body).unwrap_or_default();
        // The C client does not look at the status, and some interfaces say it in the body alone.
        let status = match (status, error.http_error) {
            (200..=299, Some(inner @ 400..)) => inner,
            (status, _) => status,
        };
        let (remote, user, reason) = (self.remote.clone(), self.user.to_owned(), error.reason);
        Err(match status {
            200..=299 => match serde_json::from_slice(body) {
                Ok(answer) => return Ok(answer),
                Err(error) => self.foreign(step, &format!("what it answers is not the JSON of an answer: {error}")),
            },
            300..=399 => {
                let to = headers.get(LOCATION).map(|to| String::from_utf8_lossy(to.as_bytes()));
                let to = to.map(|to| format!(" to {:?}", to.chars().take(200).collect::<String>()));
                self.foreign(step, &format!("it sends its callers elsewhere{}", to.unwrap_or_default()))
            }
            401 if step == Step::Login => EnrolError::Refused { remote, user, reason },
            401 => EnrolError::TokenRefused { remote, reason },
            403 if step == Step::Login => EnrolError::Refused { remote, user, reason },
            403 => EnrolError::Forbidden { remote, user, wanted: self.wanted.to_string(), reason },
            404 | 405 => self.foreign(step, &format!("HTTP status {status}")),
            409 => EnrolError::Taken { remote, wanted: self.wanted.to_string(), reason },
            429 | 503 => EnrolError::Later { remote, seconds: retry_after(headers, SystemTime::now()), reason },
            500.. => EnrolError::Server { step, remote, status, reason },
            _ => EnrolError::Rejected { step, remote, status, reason },
        })
    }

    fn foreign(&self, step: Step, what: &str) -> EnrolError {
        EnrolError::Foreign { step, remote: self.remote.clone(), what: what.to_owned() }
    }
}

/// RFC 9110 section 10.2.3: seconds, or a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<u64> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let until = |date: SystemTime| date.duration_since(now).unwrap_or_default().as_secs();
    text.parse().ok().or_else(|| httpdate::parse_http_date(text).ok().map(until))
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
