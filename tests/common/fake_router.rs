//! A far end that behaves as a test wants: real TLS on a real socket, in the namespace of the thread that starts it.

use super::certs::Identity;
use enftun::sys::tun::Offloads;
use enftun::sys::vnet::Vnet;
use enftun::tunnel::enf::frame;
use enftun::tunnel::enf::frame2::{self, Hello};
use enftun::tunnel::enf::packet::{ROUTER, echo_reply};
use enftun::tunnel::enf::wire::{ALPN, Wire};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::Acceptor;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};

/// What it does with each connection.
#[derive(Clone)]
pub enum Manners {
    /// Shakes hands and answers heartbeats.
    Good(Arc<ServerConfig>),
    /// Shakes hands, answers nothing, and sends these frames again and again.
    Babbles(Arc<ServerConfig>, Vec<Vec<u8>>),
    /// Shakes hands and sends these raw bytes inside TLS.
    Sends(Arc<ServerConfig>, Vec<u8>),
    /// Shakes hands and says goodbye before any frame.
    Refuses(Arc<ServerConfig>),
    /// Shakes hands and resets the connection before any frame.
    Resets(Arc<ServerConfig>),
    /// As a good one to who offers no protocol by name; the connections of all others break.
    BreaksOffers(Arc<ServerConfig>),
    /// Accepts the TCP connection and is silent.
    Silent,
    /// Sends something that is no TLS.
    NoTls,
}

/// A far end that runs until it is dropped.
pub struct FakeRouter {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    heartbeats: Arc<AtomicUsize>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl FakeRouter {
    pub fn start(manners: Manners) -> Self {
        Self::at("[::1]:0", manners)
    }

    pub fn at(address: &str, manners: Manners) -> Self {
        // A thread inherits the namespace of the thread that makes it.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind(address)).unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let heartbeats = Arc::new(AtomicUsize::new(0));
        let (count, beats) = (connections.clone(), heartbeats.clone());
        runtime.spawn(async move {
            loop {
                let Ok((socket, _)) = listener.accept().await else { continue };
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(socket, manners.clone(), beats.clone()));
            }
        });
        Self { address, connections, heartbeats, runtime: Some(runtime) }
    }

    /// TCP connections so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Heartbeats that a good one has answered so far, in all connections together.
    pub fn heartbeats(&self) -> usize {
        self.heartbeats.load(Ordering::SeqCst)
    }
}

impl Drop for FakeRouter {
    fn drop(&mut self) {
        // Its port is free afterwards.
        self.runtime.take().unwrap().shutdown_timeout(std::time::Duration::from_secs(5));
    }
}

async fn serve(mut socket: TcpStream, manners: Manners, heartbeats: Arc<AtomicUsize>) {
    match manners {
        Manners::BreaksOffers(config) => {
            let Ok(hello) = LazyConfigAcceptor::new(Acceptor::default(), socket).await else { return };
            if hello.client_hello().alpn().is_some() {
                let _ = hello.io.set_zero_linger();
                return;
            }
            let Ok(stream) = hello.into_stream(config).await else { return };
            let (socket, tls) = stream.into_inner();
            good(Wire::new(socket, tls.into()), heartbeats).await;
        }
        Manners::Good(config) => {
            let Some(wire) = shake(socket, config).await else { return };
            good(wire, heartbeats).await;
        }
        Manners::Babbles(config, frames) => {
            // By hand: a wire would not say everything.
            let Ok(stream) = TlsAcceptor::from(config).accept(socket).await else { return };
            let is_v2 = stream.get_ref().1.alpn_protocol() == Some(ALPN);
            let (mut from, mut to) = tokio::io::split(stream);
            let mut greeting = Vec::new();
            if is_v2 {
                frame2::put_hello(Hello { version: frame2::VERSION, udp: false, mtu: u16::MAX }, &mut greeting);
            }
            let mut babble = Vec::new();
            for frame in &frames {
                if is_v2 {
                    frame2::begin_packet(Vnet::default(), frame.len(), &mut babble);
                    babble.extend_from_slice(frame);
                } else {
                    assert!(frame::put(frame, &mut babble));
                }
            }
            let heard = tokio::spawn(async move { tokio::io::copy(&mut from, &mut tokio::io::sink()).await });
            let mut said = to.write_all(&greeting).await;
            while said.is_ok() && !heard.is_finished() {
                said = to.write_all(&babble).await.and(to.flush().await);
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
        Manners::Sends(config, bytes) => {
            // What is said is said in the old wire's words.
            let mut config = Arc::unwrap_or_clone(config);
            config.alpn_protocols.clear();
            let config = Arc::new(config);
            if let Ok(mut stream) = TlsAcceptor::from(config).accept(socket).await {
                let _ = stream.write_all(&bytes).await;
                let _ = stream.flush().await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        }
        Manners::Refuses(config) => {
            if let Ok(mut stream) = TlsAcceptor::from(config).accept(socket).await {
                let _ = stream.shutdown().await;
            }
        }
        Manners::Resets(config) => {
            // A wire would say goodbye.
            if let Ok(stream) = TlsAcceptor::from(config).accept(socket).await {
                let _ = stream.get_ref().0.set_zero_linger();
            }
        }
        Manners::Silent => {
            let _ = socket.read_to_end(&mut Vec::new()).await;
        }
        Manners::NoTls => {
            let _ = socket.write_all(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n").await;
            let _ = socket.read_to_end(&mut Vec::new()).await;
        }
    }
}

/// Answers signs of life until the end.
async fn good(mut wire: Wire, heartbeats: Arc<AtomicUsize>) {
    loop {
        let mut replies = Vec::new();
        let received = wire.receive(|unit| replies.extend(echo_reply(unit.packet, ROUTER)));
        replies.iter().for_each(|reply| assert!(wire.push(reply)));
        heartbeats.fetch_add(replies.len(), Ordering::SeqCst);
        if let Ok(Some(stamp)) = received.as_ref().map(|received| received.ping) {
            wire.pong(stamp);
            heartbeats.fetch_add(1, Ordering::SeqCst);
        }
        if received.is_err() || wire.flush().is_err() || wire.ready(wire.pending()).await.is_err() {
            return;
        }
    }
}

/// The far end's half of a handshake, and what it says of itself.
pub async fn shake(socket: TcpStream, config: Arc<ServerConfig>) -> Option<Wire> {
    let (socket, tls) = TlsAcceptor::from(config).accept(socket).await.ok()?.into_inner();
    let mut wire = Wire::new(socket, tls.into());
    wire.greet(Offloads { tcp: true, udp: false }, u16::MAX);
    wire.flush().ok()?;
    Some(wire)
}

/// A TLS server with this identity that asks for a client certificate and takes any, as the C client's test router does
/// not even do. It takes either wire. `key`: signs the handshake with this identity's key instead of its own.
pub fn server(
    identity: &Identity,
    key: &Identity,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Arc<ServerConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let der = PrivateKeyDer::from_pem_slice(key.key_pem.as_bytes()).unwrap();
    let key = aws_lc_rs::sign::any_supported_type(&der).unwrap();
    let certified = CertifiedKey::new(vec![identity.cert_der.clone()], key);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_client_cert_verifier(Arc::new(AnyClient))
        .with_cert_resolver(Arc::new(Always(Arc::new(certified))));
    config.alpn_protocols = vec![ALPN.to_vec()];
    Arc::new(config)
}

#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl rustls::server::ResolvesServerCert for Always {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

#[derive(Debug)]
struct AnyClient;

impl ClientCertVerifier for AnyClient {
    fn root_hint_subjects(&self) -> &[rustls::DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: rustls::pki_types::UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// The address that test clients carry.
pub fn client_address() -> Ipv6Addr {
    "fd00:8f80:1::1234".parse().unwrap()
}
