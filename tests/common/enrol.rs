//! A router's enrolment interface from outside: its files, and requests as plain text over TLS.

use super::certs::Identity;
use argon2::{Argon2, Params, PasswordHasher};
use data_encoding::HEXUPPER;
use enftun::transport::trust::{Anchors, RouterTrust, RouterVerifier};
use rcgen::PublicKeyData;
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub const LOGIN: &str = "/api/xcr/v2/xauth";
pub const ENDPOINTS: &str = "/api/xiam/v1/endpoints";

/// A line of the file of users, with a hash that costs nothing.
pub fn user(name: &str, password: &str, options: &str) -> String {
    let cheap = Argon2::from(Params::new(8, 1, 1, None).unwrap());
    let salt = format!("salt of {name}");
    let hash = cheap.hash_password_with_salt(password.as_bytes(), salt.as_bytes()).unwrap();
    format!("{name}:{hash}{options}\n")
}

/// What is asked for with the key of this identity.
pub fn wanted(identity: &Identity, address_request: Value) -> Value {
    let key = HEXUPPER.encode(identity.key.der_bytes());
    json!({ "ecdsa_credential": { "type": "ecdsa_p256", "key": key }, "address_request": address_request })
}

/// Who asks.
#[derive(Clone)]
pub struct Asker {
    pub interface: SocketAddr,
    pub ca_file: PathBuf,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Value,
}

impl Answer {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }
}

impl Asker {
    pub fn new(interface: &str, ca_file: &Path) -> Self {
        Self { interface: interface.parse().unwrap(), ca_file: ca_file.to_owned() }
    }

    pub async fn connect(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let trust = RouterTrust { anchors: Anchors::load(&self.ca_file).unwrap(), name: Some("router.example".into()) };
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(RouterVerifier(trust)))
            .with_no_client_auth();
        let io = TcpStream::connect(self.interface).await?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("router.example").unwrap(), io).await
    }

    /// Sends this and takes all that comes, until the router closes.
    pub async fn say(&self, text: &[u8]) -> std::io::Result<Answer> {
        let mut stream = self.connect().await?;
        stream.write_all(text).await?;
        stream.flush().await?;
        let mut answer = Vec::new();
        // A router that was killed says no goodbye: what has come is what counts.
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let body = serde_json::from_str(body).map_err(|_| std::io::ErrorKind::UnexpectedEof)?;
        Ok(Answer { status, head: head.to_owned(), body })
    }

    pub async fn post(&self, path: &str, token: Option<&str>, body: &str) -> std::io::Result<Answer> {
        let token = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
        let head = format!("POST {path} HTTP/1.1\r\nhost: router.example\r\nconnection: close\r\n{token}");
        self.say(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await
    }

    pub async fn log_in(&self, user: &str, password: &str) -> std::io::Result<Answer> {
        self.post(LOGIN, None, &json!({ "username": user, "token": password }).to_string()).await
    }

    /// The token of a login that is answered.
    pub async fn token(&self, user: &str, password: &str) -> String {
        let answer = self.log_in(user, password).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body["data"][0]["token"].as_str().unwrap().to_owned()
    }

    pub async fn enrol(&self, token: &str, identity: &Identity, address_request: Value) -> std::io::Result<Answer> {
        self.post(ENDPOINTS, Some(token), &wanted(identity, address_request).to_string()).await
    }
}
