//! TLS to servers of the web: whom the system trusts, and what the user adds to that. The certificate must carry the name that was
//! asked for, an address too. There is no certificate of our own, and nothing is resumed.

use super::proxy;
use super::tls::{self, VERSIONS};
use crate::config::{self, Host, Place, Scheme, Tpm, Way};
use crate::error::Class;
use crate::identity::{LoadError, certificates_at};
use crate::state::{Failure, Reason};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Why no server can be judged.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// The user's CA file.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Neither the system nor the user names anybody.
    #[error(
        "there is nobody to trust: this system has no CA certificates{said} (install ca-certificates, or name a file or a \
         directory of them)"
    )]
    Nobody {
        /// What reading them brought up.
        said: String,
    },
    /// What was chosen cannot be.
    #[error("these TLS versions cannot be used")]
    Versions(#[source] Error),
}

impl From<&WebError> for Failure {
    fn from(error: &WebError) -> Self {
        let (reason, class) = match error {
            WebError::Load(error) => (error.reason(), error.class()),
            WebError::Nobody { .. } => (Reason::CredentialsMissing, Class::Environment),
            WebError::Versions(_) => (Reason::ProtocolError, Class::Bug),
        };
        Self::new(reason, class, crate::error::chain(error))
    }
}

/// Who makes TLS connections to servers of the web.
#[derive(Clone)]
pub struct Web {
    connector: TlsConnector,
}

impl std::fmt::Debug for Web {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Web").finish_non_exhaustive()
    }
}

impl Web {
    /// Trusts whom the system trusts (`SSL_CERT_FILE` and `SSL_CERT_DIR` say whom instead), and those in `more`: a file, or a
    /// directory of files. Reads files: it may take its time.
    pub fn new(more: Option<&Place>, tpm: &Tpm) -> Result<Self, WebError> {
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&VERSIONS)
            .map_err(WebError::Versions)?;
        Ok(Self::of(builder.with_root_certificates(roots(more, tpm)?).with_no_client_auth()))
    }

    /// Trusts whoever answers.
    pub fn blind() -> Result<Self, WebError> {
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&VERSIONS)
            .map_err(WebError::Versions)?;
        Ok(Self::of(builder.dangerous().with_custom_certificate_verifier(Arc::new(Blind)).with_no_client_auth()))
    }

    fn of(mut config: ClientConfig) -> Self {
        config.resumption = Resumption::disabled();
        Self { connector: Arc::new(config).into() }
    }

    /// TLS with `host`, a name or an address, over a connection that leads there. `remote` says who that is, for the text.
    pub async fn secure<S>(&self, host: &str, remote: &str, stream: S, limit: Duration) -> Result<TlsStream<S>, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Ok(name) = ServerName::try_from(host.to_owned()) else {
            let text = format!("{remote} has a name that no certificate can carry");
            return Err(Failure::new(Reason::Config, Class::Configuration, text));
        };
        match timeout(limit, self.connector.connect(name, stream)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(failure(&error, remote)),
            Err(_) => {
                let text =
                    format!("{remote} accepted the connection but did not finish the TLS handshake within {limit:?}");
                Err(Failure::new(Reason::Timeout, Class::Transient, text))
            }
        }
    }

    /// From a connection to `host` or to its proxy to TLS with `host`. TLS to the proxy comes first where its URL says so.
    pub async fn lead(&self, stream: TcpStream, host: &Host, limit: Duration) -> Result<TlsStream<Leg>, Failure> {
        let address = stream.peer_addr().map(|address| format!(" ({address})")).unwrap_or_default();
        let mut leg = match &host.way {
            Way::Proxy(proxy @ config::Proxy { scheme: Scheme::Https, .. }) => {
                let secured = self.secure(&proxy.host, &format!("the proxy {proxy}"), stream, limit).await;
                Leg::Tls(Box::new(secured.map_err(as_proxy)?))
            }
            _ => Leg::Tcp(stream),
        };
        proxy::lead(&mut leg, host, limit).await.map_err(|error| Failure::from(&error))?;
        self.secure(&host.host, &format!("{host}{address}"), leg, limit).await
    }
}

/// What goes wrong with the connection to a proxy is the proxy's failure, unless it is its certificate's.
fn as_proxy(failure: Failure) -> Failure {
    match failure.reason {
        Reason::ProtocolError | Reason::RemoteClosed => Failure { reason: Reason::ProxyFailed, ..failure },
        _ => failure,
    }
}

/// Those whom the system trusts, and those in `more`.
fn roots(more: Option<&Place>, tpm: &Tpm) -> Result<RootCertStore, WebError> {
    let system = rustls_native_certs::load_native_certs();
    let mut said: Vec<_> = system.errors.iter().map(ToString::to_string).collect();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(system.certs);
    match more {
        Some(Place::File(path)) if path.is_dir() => {
            let (found, errors) = directory(path);
            said.extend(errors);
            roots.add_parsable_certificates(found);
        }
        Some(place) => {
            roots.add_parsable_certificates(certificates_at(place, tpm)?);
        }
        None => {}
    }
    for said in &said {
        log::debug!("CA certificates: {said}");
    }
    if roots.is_empty() {
        let said = said.first().map(|said| format!(": {said}")).unwrap_or_default();
        return Err(WebError::Nobody { said });
    }
    Ok(roots)
}

/// What is in the files of a directory, such as `openssl rehash` makes. What is none of ours there stops nobody.
fn directory(path: &Path) -> (Vec<CertificateDer<'static>>, Vec<String>) {
    let found = rustls_native_certs::load_certs_from_paths(None, Some(path));
    (found.certs, found.errors.iter().map(ToString::to_string).collect())
}

/// What an error of the handshake means.
fn failure(error: &io::Error, remote: &str) -> Failure {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    let (reason, text) = match tls {
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => (
            Reason::CertificateUntrusted,
            "is not signed by any CA that this system trusts (is it the right host, or is something in between? A CA of \
             your own is named in ca_cert_file below [remote])"
                .to_owned(),
        ),
        Some(Error::InvalidCertificate(CertificateError::BadSignature)) => (
            Reason::CertificateUntrusted,
            "has a signature that does not hold: a CA of that name is trusted, but by another key, or the key of the \
             certificate is not there"
                .to_owned(),
        ),
        Some(Error::InvalidCertificate(error @ CertificateError::NotValidForNameContext { .. })) => {
            (Reason::CertificateName, format!("is for another host: {error}"))
        }
        Some(Error::InvalidCertificate(CertificateError::NotValidForName)) => {
            (Reason::CertificateName, "is for another host".to_owned())
        }
        _ => return tls::failure(error, remote),
    };
    Failure::new(reason, Class::Credentials, format!("the certificate of {remote} {text}"))
}

/// The connection below TLS: to the server, or to a proxy that may want TLS for itself.
#[derive(Debug)]
pub enum Leg {
    /// In the clear.
    Tcp(TcpStream),
    /// TLS to the proxy.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Leg {
    /// The socket at the bottom.
    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Tcp(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl AsyncRead for Leg {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Leg {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Believes everybody, as it was told to.
#[derive(Debug)]
struct Blind;

impl ServerCertVerifier for Blind {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
#[path = "web_tests.rs"]
mod tests;
