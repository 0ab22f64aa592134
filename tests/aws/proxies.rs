//! Proxies on the way to the service: each way to speak to one, and what it may answer.

use crate::common::aws_service::{Mode, Service};
use crate::common::certs::{Ca, Leaf};
use crate::ours::Ours;
use data_encoding::BASE64;
use enftun::config::{Host, Login, Proxy, Scheme, Way};
use enftun::state::Reason;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How a proxy behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manners {
    /// Lets everybody through.
    Open,
    /// Only with this login: `user:password`.
    Login(&'static str),
    /// Sends its answer byte by byte.
    InPieces,
    /// Answers with this status.
    Status(u16),
}

/// A proxy that speaks CONNECT or SOCKS5, in TLS or not.
pub struct FakeProxy {
    pub address: SocketAddr,
    /// What it was asked: the CONNECT request, or the SOCKS5 destination.
    pub asked: Arc<Mutex<Vec<String>>>,
    _runtime: tokio::runtime::Runtime,
    pub ca: tempfile::TempDir,
}

impl FakeProxy {
    pub fn start(scheme: Scheme, manners: Manners) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let directory = tempfile::tempdir().unwrap();
        let ca = Ca::v3("A proxy's CA");
        ca.write(directory.path(), "proxy");
        let identity = ca.sign_v3(Leaf::new("localhost").dns("localhost").ip("127.0.0.1").server_only());
        let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap();
        let config =
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![identity.cert_der.clone()], key)
                .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let log = asked.clone();
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (log, acceptor) = (log.clone(), acceptor.clone());
                tokio::spawn(async move {
                    socket.set_nodelay(true).unwrap();
                    match scheme {
                        Scheme::Socks5 => socks(socket, manners, log).await,
                        Scheme::Http => connect(socket, manners, log).await,
                        Scheme::Https => match acceptor.accept(socket).await {
                            Ok(socket) => connect(socket, manners, log).await,
                            Err(_) => None,
                        },
                    }
                });
            }
        });
        Self { address, asked, _runtime: runtime, ca: directory }
    }
}

async fn connect(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    manners: Manners,
    log: Arc<Mutex<Vec<String>>>,
) -> Option<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(client.read_u8().await.ok()?);
    }
    let request = String::from_utf8(request).unwrap();
    log.lock().unwrap().push(request.clone());
    let answer = match manners {
        Manners::Status(status) => format!("HTTP/1.1 {status} No\r\ncontent-length: 0\r\n\r\n"),
        Manners::Login(login) if !request.contains(&format!("Basic {}\r\n", BASE64.encode(login.as_bytes()))) => {
            "HTTP/1.1 407 Who are you\r\nProxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n".to_owned()
        }
        _ => "HTTP/1.1 200 Connection established\r\nVia: a proxy\r\n\r\n".to_owned(),
    };
    if manners == Manners::InPieces {
        for byte in answer.bytes() {
            client.write_all(&[byte]).await.ok()?;
            client.flush().await.ok()?;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    } else {
        client.write_all(answer.as_bytes()).await.ok()?;
        client.flush().await.ok()?;
    }
    if answer.starts_with("HTTP/1.1 200") {
        let target = request.split(' ').nth(1)?;
        let mut far = TcpStream::connect(target).await.ok()?;
        let _ = tokio::io::copy_bidirectional(&mut client, &mut far).await;
    }
    Some(())
}

async fn socks(mut client: TcpStream, manners: Manners, log: Arc<Mutex<Vec<String>>>) -> Option<()> {
    let mut head = [0; 2];
    client.read_exact(&mut head).await.ok()?;
    let mut methods = vec![0; head[1] as usize];
    client.read_exact(&mut methods).await.ok()?;
    if let Manners::Login(login) = manners {
        client.write_all(&[5, 2]).await.ok()?;
        let text = |mut client: TcpStream| async move {
            let length = client.read_u8().await.ok()?;
            let mut text = vec![0; length as usize];
            client.read_exact(&mut text).await.ok()?;
            Some((client, String::from_utf8(text).unwrap()))
        };
        client.read_u8().await.ok()?;
        let (user, password);
        (client, user) = text(client).await?;
        (client, password) = text(client).await?;
        let fine = format!("{user}:{password}") == login;
        client.write_all(&[1, u8::from(!fine)]).await.ok()?;
    } else {
        client.write_all(&[5, 0]).await.ok()?;
    }
    let mut request = [0; 4];
    client.read_exact(&mut request).await.ok()?;
    let host = match request[3] {
        3 => {
            let mut name = vec![0; client.read_u8().await.ok()? as usize];
            client.read_exact(&mut name).await.ok()?;
            String::from_utf8(name).unwrap()
        }
        _ => {
            let mut address = [0; 4];
            client.read_exact(&mut address).await.ok()?;
            std::net::Ipv4Addr::from(address).to_string()
        }
    };
    let port = client.read_u16().await.ok()?;
    log.lock().unwrap().push(format!("{host}:{port}"));
    let mut far = TcpStream::connect((host.as_str(), port)).await.ok()?;
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.ok()?;
    let _ = tokio::io::copy_bidirectional(&mut client, &mut far).await;
    Some(())
}

/// A source through this proxy.
fn through(service: &Service, proxy: &FakeProxy, scheme: Scheme, login: Option<&str>) -> Ours {
    let login = login.and_then(|login| login.split_once(':'));
    let login = login.map(|(user, password)| Login { user: user.into(), password: password.into() });
    let way = Way::Proxy(Proxy { scheme, host: "localhost".into(), port: proxy.address.port(), login });
    let tunnel = service.tunnel(&["A"]);
    // Whom to trust: the service's CA and the proxy's, in one directory.
    let ca = proxy.ca.path().join("service.pem");
    std::fs::copy(service.ca_file(), ca).unwrap();
    let directory = proxy.ca.path().to_owned();
    Ours::start(service, &tunnel, Mode::Source, |setup| {
        setup.host = Host { way, ..setup.host.clone() };
        (setup.ca, setup.again) = (Some(directory), false);
    })
}

#[test]
fn connect_with_and_without_a_login_in_tls_and_without() {
    for scheme in [Scheme::Http, Scheme::Https] {
        for (manners, login) in [(Manners::Open, None), (Manners::Login("me:s3cret word"), Some("me:s3cret word"))] {
            let service = Service::start();
            let proxy = FakeProxy::start(scheme, manners);
            let ours = through(&service, &proxy, scheme, login);
            ours.wait_until_ready(1);
            let asked = proxy.asked.lock().unwrap().clone();
            let target = service.endpoint();
            assert!(asked[0].starts_with(&format!("CONNECT {target} HTTP/1.1\r\n")), "{asked:?}");
            // D14: a request without a host is none.
            assert!(asked[0].to_ascii_lowercase().contains(&format!("\r\nhost: {target}\r\n")), "{asked:?}");
        }
    }
}

/// D14.
#[test]
fn an_answer_in_pieces_is_an_answer() {
    let service = Service::start();
    let proxy = FakeProxy::start(Scheme::Http, Manners::InPieces);
    through(&service, &proxy, Scheme::Http, None).wait_until_ready(1);
    assert_eq!(proxy.asked.lock().unwrap().len(), 1);
}

/// D14: it was tried again for ever.
#[test]
fn a_proxy_that_wants_another_login_is_asked_once() {
    for login in [None, Some("me:wrong")] {
        let service = Service::start();
        let proxy = FakeProxy::start(Scheme::Http, Manners::Login("me:right"));
        let ended = through(&service, &proxy, Scheme::Http, login).wait_until_over();
        assert_eq!(ended.failure.reason, Reason::ProxyFailed, "{ended:?}");
        assert!(!ended.failure.text.contains("wrong"), "{}", ended.failure.text);
        assert_eq!(proxy.asked.lock().unwrap().len(), 1);
        assert_eq!(service.connections(), 0);
    }
}

#[test]
fn a_proxy_that_refuses_is_said_to_be_the_cause() {
    for status in [302, 403, 500, 502] {
        let service = Service::start();
        let proxy = FakeProxy::start(Scheme::Http, Manners::Status(status));
        let ended = through(&service, &proxy, Scheme::Http, None).wait_until_over();
        assert_eq!(ended.failure.reason, Reason::ProxyFailed, "{ended:?}");
        assert!(ended.failure.text.contains(&status.to_string()), "{}", ended.failure.text);
    }
}

#[test]
fn socks5_with_and_without_a_login() {
    for (manners, login) in [(Manners::Open, None), (Manners::Login("me:s3cret"), Some("me:s3cret"))] {
        let service = Service::start();
        let proxy = FakeProxy::start(Scheme::Socks5, manners);
        through(&service, &proxy, Scheme::Socks5, login).wait_until_ready(1);
        assert_eq!(*proxy.asked.lock().unwrap(), [service.endpoint()]);
    }
}
