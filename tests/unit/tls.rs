//! Both ends of a tunnel in real handshakes: who gets in, who does not, and in which words.

mod accepted;
mod files;
mod interop;
mod mutations;
mod refused;

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use enftun::identity::Credentials;
use enftun::state::{Failure, Tls};
use enftun::transport::tls::{self, client_config, server_config};
use enftun::transport::trust::{Anchors, ClientIdentity, ClientTrust, RouterTrust, RouterVerifier, client_identity};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::common::certs::{Ca, Identity};

/// The address that clients in these tests have.
const ADDRESS: &str = "fd00:8f80:1::1234";
/// The same as the C client's tools write it.
const HEX_ADDRESS: &str = "fd008f80000100000000000000001234";

/// Two ends that may or may not like each other.
struct Scene {
    router: Credentials,
    client: Option<Credentials>,
    router_trust: RouterTrust,
    client_trust: ClientTrust,
    versions: Vec<&'static SupportedProtocolVersion>,
    now: Option<u64>,
    dir: TempDir,
}

/// How each end saw it.
struct Outcome {
    client: Result<Tls, Failure>,
    router: Result<(Tls, Option<ClientIdentity>), Failure>,
}

impl Scene {
    /// Both ends trust `ca`.
    fn new(ca: &Ca, router: &Identity, client: &Identity) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            router: credentials(router),
            client: Some(credentials(client)),
            router_trust: RouterTrust { anchors: anchors(&[ca]), name: None },
            client_trust: ClientTrust { anchors: Some(anchors(&[ca])), endpoints_dir: dir.path().to_owned() },
            versions: tls::VERSIONS.to_vec(),
            now: None,
            dir,
        }
    }

    /// A router that knows enrolled clients only.
    fn enrolled_only(ca: &Ca, router: &Identity, client: &Identity) -> Self {
        let mut scene = Self::new(ca, router, client);
        scene.client_trust.anchors = None;
        scene
    }

    fn with_name(mut self, name: &str) -> Self {
        self.router_trust.name = Some(name.to_owned());
        self
    }

    /// The clock of both ends, seconds since 1970.
    fn at(mut self, now: u64) -> Self {
        self.now = Some(now);
        self
    }

    fn endpoint_file(&self) -> PathBuf {
        self.dir.path().join(format!("{ADDRESS}.pem"))
    }

    fn enrol(self, pem: &str) -> Self {
        std::fs::write(self.endpoint_file(), pem).unwrap();
        self
    }

    /// Shakes hands, then the router says one byte: in TLS 1.3 a client hears only then that it was refused.
    fn run(&self) -> Outcome {
        let mut client = match &self.client {
            Some(credentials) => client_config(credentials, self.router_trust.clone(), &self.versions).unwrap(),
            None => {
                let verifier = Arc::new(RouterVerifier(self.router_trust.clone()));
                let config = ClientConfig::builder_with_protocol_versions(&self.versions)
                    .dangerous()
                    .with_custom_certificate_verifier(verifier)
                    .with_no_client_auth();
                Arc::new(config)
            }
        };
        let mut router = server_config(&self.router, self.client_trust.clone(), &self.versions).unwrap();
        if let Some(now) = self.now {
            Arc::get_mut(&mut client).unwrap().time_provider = Arc::new(At(now));
            Arc::get_mut(&mut router).unwrap().time_provider = Arc::new(At(now));
        }
        let local_not_after = self.client.as_ref().map_or(0, |credentials| credentials.not_after);
        let name = tls::server_name(self.router_trust.name.as_deref(), IpAddr::V4(Ipv4Addr::LOCALHOST));
        let (near, far) = tokio::io::duplex(1 << 16);
        let client = async {
            let mut stream = TlsConnector::from(client).connect(name, near).await?;
            stream.read_u8().await?;
            io::Result::Ok(tls::describe(stream.get_ref().1, local_not_after))
        };
        let router = async {
            let mut stream = TlsAcceptor::from(router).accept(far).await?;
            stream.write_u8(1).await?;
            stream.flush().await?;
            let session = stream.get_ref().1;
            let identity = client_identity(session.peer_certificates().unwrap(), &self.client_trust);
            let tls = tls::describe(session, self.router.not_after);
            // Keeps the stream until the client has read.
            let _ = stream.read_u8().await;
            io::Result::Ok((tls, identity))
        };
        let (client, router) = block_on(async { tokio::join!(client, router) });
        Outcome {
            client: client.map_err(|error| tls::failure(&error, "router.example:443")),
            router: router.map_err(|error| tls::failure(&error, "198.51.100.7:50000")),
        }
    }

    /// The same in TLS 1.3 and in TLS 1.2.
    fn run_each(mut self) -> [(&'static str, Outcome); 2] {
        [("TLSv1.3", &rustls::version::TLS13), ("TLSv1.2", &rustls::version::TLS12)].map(|(text, version)| {
            self.versions = vec![version];
            (text, self.run())
        })
    }
}

#[derive(Debug)]
struct At(u64);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0)))
    }
}

/// Credentials that nobody has checked.
fn credentials(identity: &Identity) -> Credentials {
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap();
    Credentials {
        chain: rustls::pki_types::CertificateDer::pem_slice_iter(identity.cert_pem.as_bytes())
            .collect::<Result<_, _>>()
            .unwrap(),
        key: rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap(),
        subject: String::new(),
        not_after: 4_000_000_000,
        cert_file: "test".into(),
    }
}

/// A CA file with these certificates.
fn anchors(cas: &[&Ca]) -> Anchors {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.pem");
    let pem: String = cas.iter().map(|ca| ca.identity.cert_pem.as_str()).collect();
    std::fs::write(&file, pem).unwrap();
    Anchors::load(&file).unwrap()
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
