//! From a tunnel's service to a WebSocket with it: TCP to one of its addresses or its proxy, TLS, and the opening handshake with
//! the tokens. What a refusal means is decided here.

use super::session::Spec;
use super::tokens::Tokens;
use crate::config::Host;
use crate::error::{Class, chain};
use crate::state::{Again, Ended, Failure, Link, Moment, Reason};
use crate::transport::dial::Options;
use crate::transport::tls;
use crate::transport::web::{Leg, Web};
use crate::transport::websocket::{self, Fields, HandshakeError, Request, Said};
use crate::tunnel::SessionEvent;
use crate::tunnel::reach::Reach;
use std::env::consts;
use std::time::Duration;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;

/// Neither end sends longer messages of the WebSocket.
const LONGEST_MESSAGE: usize = 131_076;
/// The service takes no longer request.
const LONGEST_REQUEST: usize = 4096;
/// Who has asked too often, and is not told when to ask again, waits this long.
const PAUSE: Duration = Duration::from_secs(60);

/// The socket that frames go through.
pub(super) type Socket = WebSocketStream<TlsStream<Leg>>;

/// The service has agreed.
#[derive(Debug)]
pub(super) struct Connected {
    /// Where frames go.
    pub socket: Socket,
    /// The service's name for it.
    pub channel_id: Option<String>,
    /// What the daemon shows.
    pub link: Link,
}

/// Connects and shakes hands.
pub(super) async fn connect(spec: &Spec, tokens: &Tokens) -> Result<Connected, Ended> {
    let Some(host) = spec.tunnel.remote.hosts.first() else {
        let text = "no service is configured (aws.region or aws.endpoint)";
        return Err(Ended::of(Failure::new(Reason::Config, Class::Configuration, text)));
    };
    let connected = match secure(spec, host).await {
        Ok(stream) => shake_hands(spec, host, tokens, stream).await,
        Err(failure) => Err(Ended::of(reach(spec).explain(spec.probe_url.as_ref(), failure).await)),
    };
    if let Err(ended) = &connected {
        log::info!(ENFTUN_TUNNEL = spec.tunnel.name.as_str(), ENFTUN_REMOTE:% = host; "{}", ended.failure);
        spec.reporter.report(SessionEvent::Refused { index: 0, failure: ended.failure.clone() }).await;
    }
    connected
}

fn reach(spec: &Spec) -> Reach<'_> {
    let Spec { tunnel, last_addresses, reporter, .. } = spec;
    let options = Options {
        mark: tunnel.route.fwmark & tunnel.route.fwmark_mask,
        congestion_control: tunnel.remote.congestion_control.clone(),
        inside: Vec::new(),
    };
    Reach { tunnel, options, last_addresses, reporter }
}

/// TLS with the service. Only this much is raced: a token may be good for one handshake.
async fn secure(spec: &Spec, host: &Host) -> Result<TlsStream<Leg>, Failure> {
    let (tunnel, verify) = (spec.tunnel.clone(), spec.aws.verify);
    // Read again for every session, so that replaced files take effect.
    let load = move || match verify {
        true => Web::new(tunnel.remote.ca_cert_file.as_ref(), &tunnel.tpm),
        false => Web::blind(),
    };
    let web = match tokio::task::spawn_blocking(load).await {
        Ok(result) => result.map_err(|error| Failure::from(&error))?,
        Err(error) => return Err(Failure::new(Reason::CredentialsMissing, Class::Bug, chain(&error))),
    };
    let (web, limit) = (&web, spec.tunnel.remote.connect_timeout);
    reach(spec).first(host, |_, stream| web.lead(stream, host, limit)).await
}

async fn shake_hands(spec: &Spec, host: &Host, tokens: &Tokens, stream: TlsStream<Leg>) -> Result<Connected, Ended> {
    let link = link(host, &stream);
    let mut fields = vec![("access-token", tokens.access())];
    fields.extend(tokens.client().map(|client| ("client-token", client)));
    let agent = format!("enftun/{} ({} {})", env!("CARGO_PKG_VERSION"), consts::OS, consts::ARCH);
    fields.push(("User-Agent", &agent));
    let target = format!("/tunnel?local-proxy-mode={}", spec.aws.mode.as_str());
    let request = Request {
        host: &host.host,
        target: &target,
        subprotocol: spec.aws.subprotocol.as_str(),
        fields: Fields(fields),
        longest: LONGEST_REQUEST,
        longest_message: LONGEST_MESSAGE,
    };
    let opened = websocket::open(stream, &request, spec.tunnel.remote.connect_timeout).await;
    let (socket, Said { channel_id, .. }) = opened.map_err(|error| refusal(&error, host))?;
    let channel = channel_id.as_deref().unwrap_or("without a name");
    log::info!(ENFTUN_TUNNEL = spec.tunnel.name.as_str(), ENFTUN_REMOTE:% = host; "connected as {}, channel {channel}", spec.aws.mode.as_str());
    Ok(Connected { socket, channel_id, link })
}

/// What the end of a handshake means for the tunnel.
fn refusal(error: &HandshakeError, host: &Host) -> Ended {
    let failed = |reason, class, text: String| Ended::of(Failure::new(reason, class, text));
    let plain = || format!("{host} {}", chain(error));
    match error {
        HandshakeError::Status { status, said } => refused_with(*status, said.retry_after, &plain()),
        HandshakeError::TooLong { .. } | HandshakeError::Unsendable(_) => {
            failed(Reason::Config, Class::Configuration, format!("cannot ask {host} for the tunnel: {}", chain(error)))
        }
        HandshakeError::Strange(_) | HandshakeError::Foreign | HandshakeError::Endless => {
            failed(Reason::ProtocolError, Class::Transient, plain())
        }
        HandshakeError::Closed | HandshakeError::Broken(_) => failed(Reason::RemoteClosed, Class::Transient, plain()),
        HandshakeError::Silent(_) => failed(Reason::Timeout, Class::Transient, plain()),
    }
}

fn refused_with(status: u16, retry_after: Option<Moment>, plain: &str) -> Ended {
    let (reason, class, what) = match status {
        401 | 403 => (
            Reason::TokenRejected,
            Class::Credentials,
            "it refuses the access token, which may be spent, expired, rotated, or of another region, tunnel or mode: rotate \
             the tokens of the tunnel, or open another, and give the new one",
        ),
        408 | 425 | 429 => (Reason::Unreachable, Class::Transient, "it is asked too often"),
        300..=399 => (
            Reason::ProtocolError,
            Class::Configuration,
            "it sends us elsewhere, as the service never does: is the host right, or a captive portal in between?",
        ),
        400..=499 => (
            Reason::ProtocolError,
            Class::Configuration,
            "it does not understand the request: are the host and the region right?",
        ),
        500..=599 => (Reason::Unreachable, Class::Transient, "it has an error of its own"),
        _ => (Reason::ProtocolError, Class::Transient, "that is no answer to the opening of a WebSocket"),
    };
    let again = match (class, status, retry_after) {
        (Class::Transient, 408 | 425 | 429, after) => Again::NotBefore(after.unwrap_or(PAUSE)),
        (Class::Transient, _, Some(after)) => Again::NotBefore(after),
        _ => Again::InTurn,
    };
    let failure = Failure::new(reason, class, format!("{plain}: {what}"));
    Ended { failure, unheard: false, again }
}

fn link(host: &Host, stream: &TlsStream<Leg>) -> Link {
    let (leg, connection) = stream.get_ref();
    let socket = leg.socket();
    Link {
        remote: host.to_string(),
        index: 0,
        peer: socket.peer_addr().ok(),
        local: socket.local_addr().ok(),
        addresses: Vec::new(),
        tls: tls::describe(connection, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_says_whether_it_is_worth_coming_again_and_when() {
        let host = Host::direct("service.example.net", 443);
        let seconds = Duration::from_secs;
        for (status, retry_after, reason, class, again) in [
            (401, None, Reason::TokenRejected, Class::Credentials, Again::InTurn),
            (403, Some(9), Reason::TokenRejected, Class::Credentials, Again::InTurn),
            (400, None, Reason::ProtocolError, Class::Configuration, Again::InTurn),
            (404, None, Reason::ProtocolError, Class::Configuration, Again::InTurn),
            (302, None, Reason::ProtocolError, Class::Configuration, Again::InTurn),
            (429, None, Reason::Unreachable, Class::Transient, Again::NotBefore(PAUSE)),
            (429, Some(7), Reason::Unreachable, Class::Transient, Again::NotBefore(seconds(7))),
            (408, None, Reason::Unreachable, Class::Transient, Again::NotBefore(PAUSE)),
            (500, None, Reason::Unreachable, Class::Transient, Again::InTurn),
            (503, Some(3), Reason::Unreachable, Class::Transient, Again::NotBefore(seconds(3))),
            (200, None, Reason::ProtocolError, Class::Transient, Again::InTurn),
        ] {
            let said = Said { channel_id: Some("c-1".into()), retry_after: retry_after.map(seconds) };
            let ended = refusal(&HandshakeError::Status { status, said }, &host);
            let found = (ended.failure.reason, ended.failure.class, ended.again);
            assert_eq!(found, (reason, class, again), "{status}: {}", ended.failure);
            let text = &ended.failure.text;
            assert!(text.contains(&status.to_string()) && text.contains("c-1") && text.contains("service."), "{text}");
        }
    }
}
