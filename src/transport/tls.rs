//! The TLS configurations of both ends, and what a TLS error means to people and to the state machine. Whom to trust is
//! `trust`'s to say; connections are made and accepted elsewhere.
//!
//! Nothing is resumed: no tickets, no sessions, no early data. Each handshake judges both certificates anew.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, CommonState, Error, OtherError, ProtocolVersion, ServerConfig,
    SupportedProtocolVersion,
};

use super::trust::{ClientTrust, ClientVerifier, RouterTrust, RouterVerifier, TrustError, ip_address};
use crate::error::{Class, chain};
use crate::identity::tpm::TpmError;
use crate::identity::{Credentials, clock_is_wrong, clock_text, day, name_text, parse};
use crate::state::{Failure, Reason, Tls, WireVersion};

/// What both ends speak.
pub const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

/// The name of the second wire (ALPN, RFC 7301). The first one has none.
pub const ENFTUN_2: &[u8] = b"enftun/2";

/// The wires that both ends of this program offer and take by name, the most wanted first.
pub const WIRES: &[&[u8]] = &[ENFTUN_2];

/// Why there is no TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The versions asked for cannot be had.
    #[error("these TLS versions cannot be used")]
    Versions(#[source] Error),
}

impl TlsError {
    /// Versions are the program's own choice.
    pub fn class(&self) -> Class {
        Class::Bug
    }
}

/// How a client greets routers.
pub fn client_config(
    credentials: &Credentials,
    trust: RouterTrust,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(versions)
        .map_err(TlsError::Versions)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(RouterVerifier(trust)))
        .with_client_cert_resolver(always(credentials));
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// How a client greets a server that knows it by something else than a certificate: over HTTPS, say.
pub fn anonymous_client_config(
    trust: RouterTrust,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(versions)
        .map_err(TlsError::Versions)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(RouterVerifier(trust)))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// How a router greets clients.
pub fn server_config(
    credentials: &Credentials,
    trust: ClientTrust,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(versions)
        .map_err(TlsError::Versions)?
        .with_client_cert_verifier(Arc::new(ClientVerifier(trust)))
        .with_cert_resolver(always(credentials));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// How a router greets those who have no certificate yet: its enrolment interface speaks HTTP/1.1.
#[cfg(feature = "enrol")]
pub fn interface_config(
    credentials: &Credentials,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(versions)
        .map_err(TlsError::Versions)?
        .with_no_client_auth()
        .with_cert_resolver(always(credentials));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The same greeting, with an offer of the wires that have a name.
pub fn offering(config: &ClientConfig) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.alpn_protocols = names();
    Arc::new(config)
}

/// The same answer, for clients that offer one of the wires. To all others it would be a refusal: a server that has
/// protocols, none of which the client offers, ends the handshake (RFC 7301 section 3.2).
pub fn taking(config: &ServerConfig) -> Arc<ServerConfig> {
    let mut config = config.clone();
    config.alpn_protocols = names();
    Arc::new(config)
}

/// Whether one of these is a wire that we take.
pub fn offers_a_wire<'a>(mut offered: impl Iterator<Item = &'a [u8]>) -> bool {
    offered.any(|name| WIRES.contains(&name))
}

fn names() -> Vec<Vec<u8>> {
    WIRES.iter().map(|name| name.to_vec()).collect()
}

/// The wire that a finished handshake agreed on.
pub fn wire(connection: &CommonState) -> WireVersion {
    match connection.alpn_protocol() {
        Some(ENFTUN_2) => WireVersion::V2,
        _ => WireVersion::V1,
    }
}

/// The far end ended a handshake over what was offered: one that names no wire may go better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objection {
    /// It says so: none of the names is its own, and it takes nobody who offers others.
    Said,
    /// It broke off, as what knows nothing of such names might.
    Guessed,
}

impl Objection {
    /// What an error of a handshake says of the offer in it; none: the offer is not at fault.
    pub fn find(error: &io::Error) -> Option<Self> {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => Some(Self::Said),
            Some(Error::AlertReceived(
                AlertDescription::HandshakeFailure
                | AlertDescription::UnsupportedExtension
                | AlertDescription::IllegalParameter
                | AlertDescription::DecodeError
                | AlertDescription::UnexpectedMessage
                | AlertDescription::InternalError,
            )) => Some(Self::Guessed),
            Some(_) => None,
            None => match error.kind() {
                io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe => Some(Self::Guessed),
                _ => None,
            },
        }
    }
}

/// One certificate, whatever issuers the far end names: our issuer may be known to it by a key alone. The builders'
/// own ways to say so parse the certificate, and refuse v1.
fn always(credentials: &Credentials) -> Arc<SingleCertAndKey> {
    let certified = CertifiedKey::new(credentials.chain.clone(), Arc::clone(&credentials.key));
    Arc::new(SingleCertAndKey::from(certified))
}

/// What the client calls the far end in its greeting: `remote.name` when that is a DNS name, else its address, which
/// sends no name at all, as the C client.
pub fn server_name(name: Option<&str>, peer: IpAddr) -> ServerName<'static> {
    match name.filter(|name| ip_address(name).is_none()).map(|name| ServerName::try_from(name.to_owned())) {
        Some(Ok(name)) => name,
        Some(Err(_)) | None => peer.into(),
    }
}

/// What the bus shows of a finished handshake. `local_not_after` is the own certificate's.
pub fn describe(connection: &CommonState, local_not_after: i64) -> Tls {
    let peer = connection.peer_certificates().and_then(<[_]>::first).and_then(|der| parse(der));
    Tls {
        version: match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3".to_owned(),
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2".to_owned(),
            _ => String::new(),
        },
        cipher: connection
            .negotiated_cipher_suite()
            .and_then(|suite| suite.suite().as_str())
            // The library's names of the TLS 1.3 suites are not IANA's.
            .map(|name| name.strip_prefix("TLS13_").map_or_else(|| name.to_owned(), |rest| format!("TLS_{rest}")))
            .unwrap_or_default(),
        peer_subject: peer.as_ref().map(|peer| name_text(&peer.subject)).unwrap_or_default(),
        peer_not_after: peer.map(|peer| peer.validity.not_after.timestamp()).unwrap_or_default(),
        local_not_after,
        wire: wire(connection),
    }
}

/// What an I/O error on a TLS stream means. `remote` says who is at the far end, for the text.
pub fn failure(error: &io::Error, remote: &str) -> Failure {
    if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        return tls_failure(tls, remote);
    }
    let (reason, what) = match error.kind() {
        io::ErrorKind::UnexpectedEof => (Reason::RemoteClosed, "closed the connection in the middle of TLS"),
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
            (Reason::RemoteClosed, "broke the connection")
        }
        io::ErrorKind::TimedOut => (Reason::Timeout, "does not answer"),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown => {
            (Reason::Unreachable, "cannot be reached any more")
        }
        _ => (Reason::RemoteClosed, "is lost"),
    };
    Failure::new(reason, Class::Transient, format!("{remote} {what}: {error}"))
}

/// What a TLS error means.
pub fn tls_failure(error: &Error, remote: &str) -> Failure {
    let protocol = |text: String| Failure::new(Reason::ProtocolError, Class::Transient, format!("{remote} {text}"));
    if let Error::Other(OtherError(error)) = error
        && let Some(error) = error.downcast_ref::<TpmError>()
    {
        let text = format!("cannot sign with the own key: {}", chain(error));
        return Failure::new(Reason::CredentialsMissing, error.class(), text);
    }
    match error {
        Error::InvalidCertificate(error) => certificate_failure(error, remote),
        Error::NoCertificatesPresented => Failure::new(
            Reason::CertificateUntrusted,
            Class::Credentials,
            format!("{remote} presented no certificate: both ends must"),
        ),
        Error::AlertReceived(alert) => alert_failure(*alert, remote),
        Error::InvalidMessage(_) => protocol(format!("does not speak TLS ({error}): is the port right?")),
        Error::PeerIncompatible(_) => {
            protocol(format!("and this program have no version or cipher of TLS 1.2 and 1.3 in common: {error}"))
        }
        error => protocol(format!("does not keep to TLS: {error}")),
    }
}

fn alert_failure(alert: AlertDescription, remote: &str) -> Failure {
    let refusal = match alert {
        AlertDescription::CertificateExpired => "it says that it has expired (is the clock right there?)",
        AlertDescription::CertificateRevoked => "it says that it is revoked",
        AlertDescription::UnknownCA => "it does not know the CA that signed it",
        AlertDescription::CertificateRequired => "it says that none was sent",
        AlertDescription::AccessDenied => "it says that access is denied",
        AlertDescription::UnsupportedCertificate => "it does not support this kind of certificate",
        AlertDescription::DecryptError => "it says that the key does not belong to it",
        AlertDescription::BadCertificate
        | AlertDescription::NoCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::CertificateUnobtainable => "it does not accept it (is it enrolled there?)",
        AlertDescription::HandshakeFailure => {
            let text = format!(
                "{remote} ended the handshake: it has no TLS version or cipher in common with this program, or it \
                 does not accept this certificate"
            );
            return Failure::new(Reason::ProtocolError, Class::Transient, text);
        }
        other => {
            let text = format!("{remote} ended TLS with the alert {other:?}");
            return Failure::new(Reason::ProtocolError, Class::Transient, text);
        }
    };
    let text = format!("{remote} refuses this end's certificate: {refusal}");
    Failure::new(Reason::AuthFailed, Class::Credentials, text)
}

fn certificate_failure(error: &CertificateError, remote: &str) -> Failure {
    let seconds = |time: &UnixTime| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let mut class = Class::Credentials;
    let (reason, text) = match error {
        CertificateError::ExpiredContext { time, not_after } => {
            let text = format!("expired on {}; the clock says {}", day(seconds(not_after)), day(seconds(time)));
            (Reason::CertificateExpired, text)
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            if clock_is_wrong(seconds(time)) {
                class = Class::Transient;
            }
            let text = format!("is not valid before {}; {}", day(seconds(not_before)), clock_text(seconds(time)));
            (Reason::CertificateNotYetValid, text)
        }
        CertificateError::UnknownIssuer => {
            (Reason::CertificateUntrusted, "is not signed by any CA in the CA file".to_owned())
        }
        CertificateError::BadSignature => (
            Reason::CertificateUntrusted,
            "is not its own: it could not prove that it holds the key (bad handshake signature)".to_owned(),
        ),
        CertificateError::BadEncoding => (Reason::CertificateUntrusted, "cannot be read".to_owned()),
        other => match TrustError::find(other) {
            Some(error) => (error.reason(), format!("is refused: {}", chain(error))),
            None => (Reason::CertificateUntrusted, format!("is refused: {other}")),
        },
    };
    Failure::new(reason, class, format!("the certificate of {remote} {text}"))
}
