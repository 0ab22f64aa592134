//! The TLS under the interface. Its certificate is judged by the CA file of `[enrol]` and nothing else, and must carry the
//! host of the URL.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustls::Error;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::error::{EnrolError, Step};
use crate::config::{self, EnrolUrl, Place};
use crate::transport::dial::{self, Options};
use crate::transport::proxy;
use crate::transport::race::Race;
use crate::transport::resolve::resolve;
use crate::transport::tls::{VERSIONS, anonymous_client_config, failure};
use crate::transport::trust::{Anchors, RouterTrust, TrustError};

/// Look-up, TCP connect and TLS handshake, each.
const LIMIT: Duration = Duration::from_secs(15);

/// What makes TLS connections to one interface.
#[derive(Clone)]
pub struct Https {
    connector: TlsConnector,
    name: ServerName<'static>,
    url: EnrolUrl,
    ca_cert_file: Place,
}

impl std::fmt::Debug for Https {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Https")
            .field("url", &self.url)
            .field("ca_cert_file", &self.ca_cert_file)
            .finish_non_exhaustive()
    }
}

impl Https {
    /// Reads the CA file, which may be in `tpm`.
    pub fn new(enrol: &config::Enrol, tpm: &config::Tpm) -> Result<Self, EnrolError> {
        let host = &enrol.url.host.host;
        let setup = |why: String| EnrolError::Setup { remote: enrol.url.to_string(), why };
        let trust = RouterTrust { anchors: Anchors::load_at(&enrol.ca_cert_file, tpm)?, name: Some(host.clone()) };
        let config = anonymous_client_config(trust, &VERSIONS).map_err(|error| setup(error.to_string()))?;
        let name = ServerName::try_from(host.clone()).map_err(|error| setup(error.to_string()))?;
        let (url, ca_cert_file) = (enrol.url.clone(), enrol.ca_cert_file.clone());
        Ok(Self { connector: config.into(), name, url, ca_cert_file })
    }

    /// TLS over a connection to the interface.
    pub async fn secure<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> Result<TlsStream<S>, EnrolError> {
        let remote = self.url.to_string();
        match timeout(LIMIT, self.connector.connect(self.name.clone(), stream)).await {
            Ok(result) => result.map_err(|error| self.untrusted(&error)),
            Err(_) => Err(EnrolError::Timeout { step: Step::Connect, remote, limit: LIMIT }),
        }
    }

    /// Connects, through the proxy of the tunnel if there is one, and secures, with whatever `options` the socket shall have.
    /// Before anything is sent, `ask` is told the name servers, then `go` the addresses, and each is waited for.
    pub async fn dial(
        &self,
        options: &Options,
        ask: impl AsyncFnOnce(Vec<SocketAddr>),
        go: impl AsyncFnOnce(Vec<SocketAddr>),
    ) -> Result<TlsStream<TcpStream>, EnrolError> {
        let addresses = resolve(&self.url.host, options, LIMIT, ask).await?;
        go(addresses.clone()).await;
        let mut race = Race::new(|address| dial::connect(address, options, LIMIT));
        race.add(addresses);
        if let Some((_, mut stream)) = race.next().await {
            proxy::lead(&mut stream, &self.url.host, LIMIT).await?;
            return self.secure(stream).await;
        }
        let remote = self.url.to_string();
        match race.into_failures().pop() {
            Some(source) => Err(EnrolError::Unreachable { remote, source }),
            None => Err(EnrolError::Io(io::ErrorKind::AddrNotAvailable.into())),
        }
    }

    fn untrusted(&self, error: &io::Error) -> EnrolError {
        let (remote, file) = (self.url.to_string(), &self.ca_cert_file);
        let told = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        let said = failure(error, &remote);
        let text = match told {
            Some(Error::InvalidCertificate(invalid)) => match TrustError::find(invalid) {
                Some(TrustError::Name { wanted, presented }) => format!(
                    "the certificate of {remote} carries {presented}, and not {wanted:?}: write the URL with a name that it \
                     carries (enrol.url)"
                ),
                _ => format!("{} (the CA file is {file}: enrol.ca_cert_file)", said.text),
            },
            _ => said.text,
        };
        EnrolError::Tls { text, reason: said.reason, class: said.class }
    }
}
