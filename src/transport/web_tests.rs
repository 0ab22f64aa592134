use super::*;
use crate::config::{Login, Proxy};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use std::path::PathBuf;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const LIMIT: Duration = Duration::from_secs(30);
const TPM: fn() -> Tpm = || Tpm { tcti: String::new(), password_file: None, parent: None };

struct Authority {
    ca: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("CA {:x}", fastrand::u64(..)));
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { ca, dir: TempDir::new().unwrap() }
    }

    fn file(&self, name: &str) -> PathBuf {
        let file = self.dir.path().join(name);
        std::fs::write(&file, self.ca.pem()).unwrap();
        file
    }

    fn server(&self, name: &str) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.ca).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&VERSIONS)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .unwrap();
        Arc::new(config).into()
    }
}

/// What comes of a greeting of `host` by a server that has a certificate for `name`.
async fn greeted(web: &Web, authority: &Authority, host: &str, name: &str) -> Result<(), Failure> {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let acceptor = authority.server(name);
    let server = tokio::spawn(async move {
        let mut stream = acceptor.accept(theirs).await?;
        stream.write_all(b"hello").await
    });
    let secured = web.secure(host, "the server", ours, LIMIT).await;
    let outcome = match secured {
        Ok(mut stream) => {
            let mut hello = [0; 5];
            stream.read_exact(&mut hello).await.unwrap();
            assert_eq!(&hello, b"hello");
            Ok(())
        }
        Err(failure) => Err(failure),
    };
    let _ = server.await.unwrap();
    outcome
}

#[tokio::test]
async fn a_server_is_believed_under_a_file_or_a_directory_of_cas_and_only_by_its_own_name() {
    let (authority, other) = (Authority::new(), Authority::new());
    let file = authority.file("5ed36f99.0");
    std::fs::write(authority.dir.path().join("README"), "no certificate").unwrap();
    std::os::unix::fs::symlink("nowhere", authority.dir.path().join("dangling.0")).unwrap();
    for place in [file, authority.dir.path().to_owned()] {
        let web = Web::new(Some(&Place::File(place)), &TPM()).unwrap();
        greeted(&web, &authority, "service.example.net", "service.example.net").await.unwrap();
        greeted(&web, &authority, "127.0.0.1", "127.0.0.1").await.unwrap();
        greeted(&web, &authority, "::1", "::1").await.unwrap();
        for (host, name) in [("a.example.net", "b.example.net"), ("127.0.0.1", "127.0.0.2")] {
            let failure = greeted(&web, &authority, host, name).await.unwrap_err();
            assert_eq!((failure.reason, failure.class), (Reason::CertificateName, Class::Credentials), "{failure}");
            assert!(failure.text.contains(host) && failure.text.contains(name), "{failure}");
        }
        let failure = greeted(&web, &other, "a.example.net", "a.example.net").await.unwrap_err();
        assert_eq!(failure.reason, Reason::CertificateUntrusted, "{failure}");
        assert!(failure.text.contains("any CA that this system trusts"), "{failure}");
    }
}

#[tokio::test]
async fn without_a_look_at_the_certificate_anybody_is_believed() {
    let web = Web::blind().unwrap();
    greeted(&web, &Authority::new(), "a.example.net", "b.example.net").await.unwrap();
}

#[test]
fn a_ca_file_that_is_not_there_is_said_to_be() {
    let place = Place::File("/nowhere/ca.pem".into());
    let failure = Failure::from(&Web::new(Some(&place), &TPM()).unwrap_err());
    assert!(failure.reason == Reason::CredentialsMissing && failure.text.contains("/nowhere/ca.pem"), "{failure}");
}

/// A proxy that TLS is spoken to: what it was asked, and TLS of the server behind it within.
#[tokio::test]
async fn tls_leads_to_the_proxy_and_within_it_to_the_server() {
    let authority = Authority::new();
    let web = Web::new(Some(&Place::File(authority.file("ca.pem"))), &TPM()).unwrap();
    let (to_proxy, to_server) = (authority.server("localhost"), authority.server("service.example.net"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let proxy = tokio::spawn(async move {
        let mut outer = to_proxy.accept(listener.accept().await.unwrap().0).await.unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            asked.push(outer.read_u8().await.unwrap());
        }
        for part in ["HTTP/1.1 200 Conn", "ection established\r\nVia: x\r", "\n\r\n"] {
            outer.write_all(part.as_bytes()).await.unwrap();
            outer.flush().await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut inner = to_server.accept(outer).await.unwrap();
        inner.write_all(b"hello").await.unwrap();
        inner.flush().await.unwrap();
        String::from_utf8(asked).unwrap()
    });
    let login = Some(Login { user: b"me".to_vec(), password: b"s3cret".to_vec() });
    let way = Way::Proxy(Proxy { scheme: Scheme::Https, host: "localhost".into(), port, login });
    let host = Host { host: "service.example.net".into(), port: 443, way };
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut stream = web.lead(stream, &host, LIMIT).await.unwrap();
    let mut hello = [0; 5];
    stream.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"hello");
    let asked = proxy.await.unwrap();
    assert!(
        asked.starts_with("CONNECT service.example.net:443 HTTP/1.1\r\nHost: service.example.net:443\r\n"),
        "{asked}"
    );
    assert!(asked.contains("Proxy-Authorization: Basic bWU6czNjcmV0\r\n"), "{asked}");
}

#[tokio::test]
async fn a_proxy_that_does_not_speak_tls_is_the_proxys_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let mut stream = listener.accept().await.unwrap().0;
        let _ = stream.read_u8().await;
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    });
    let way = Way::Proxy(Proxy { scheme: Scheme::Https, host: "localhost".into(), port, login: None });
    let host = Host { host: "service.example.net".into(), port: 443, way };
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let failure = Web::blind().unwrap().lead(stream, &host, LIMIT).await.unwrap_err();
    server.await.unwrap();
    assert_eq!((failure.reason, failure.class), (Reason::ProxyFailed, Class::Transient), "{failure}");
    assert!(failure.text.contains("the proxy https://localhost"), "{failure}");
}
