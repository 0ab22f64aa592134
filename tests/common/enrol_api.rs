//! An enrolment interface that behaves as a test wants, at each step: real TLS on a real socket. It gives out addresses when it
//! is told to, and remembers the keys.

use super::certs::{Ca, Leaf};
use enftun::identity::enrol::api::{EndpointRequest, LIMIT};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// What it does with one connection.
#[derive(Clone)]
pub enum Act {
    /// Accepts the TCP connection and says nothing.
    Silent,
    /// Closes the TCP connection.
    Closes,
    /// Speaks something else than TLS.
    NoTls,
    /// Reads a request and answers with these bytes.
    Says(Vec<u8>),
    /// Reads a request and says nothing.
    Hangs,
    /// Answers a login, for this network.
    LogsIn(&'static str),
    /// Gives this address.
    Gives(&'static str),
}

/// An interface that runs until it is dropped.
pub struct EnrolApi {
    pub address: SocketAddr,
    /// For `enrol.ca_cert_file`.
    pub ca_cert_file: PathBuf,
    heard: Arc<Mutex<Vec<Heard>>>,
    runtime: Option<tokio::runtime::Runtime>,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Request line and fields.
    pub head: String,
    pub body: Value,
}

/// An answer with a JSON body.
pub fn json_answer(status: &str, body: &Value) -> Act {
    let body = body.to_string();
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}", body.len());
    Act::Says(format!("{head}\r\n\r\n{body}").into_bytes())
}

/// A refusal as the interface words it.
pub fn refusal(status: u16, reason: &str) -> Act {
    json_answer(&format!("{status} ."), &json!({"xiam_error": 1, "http_error": status, "reason": reason}))
}

/// An answer that is larger than any that is read.
pub fn huge() -> Act {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 2 * LIMIT);
    Act::Says([head.into_bytes(), vec![b' '; 2 * LIMIT]].concat())
}

impl EnrolApi {
    /// Its certificate is for 127.0.0.1, its CA in `directory`. The acts are done in turn, the last one again and again.
    pub fn start(directory: &Path, acts: &[Act]) -> Self {
        let ca = Ca::v3("Enrolment");
        let ca_cert_file = ca.write(directory, "enrol-ca");
        let identity = ca.sign_v3(Leaf::new("enrol").ip("127.0.0.1").server_only());
        let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![identity.cert_der], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (acts, ears) = (acts.to_vec(), heard.clone());
        runtime.spawn(async move {
            for at in 0.. {
                let Ok((socket, _)) = listener.accept().await else { continue };
                let act = acts[at.min(acts.len() - 1)].clone();
                tokio::spawn(serve(socket, acceptor.clone(), act, ears.clone()));
            }
        });
        Self { address, ca_cert_file, heard, runtime: Some(runtime) }
    }

    /// For `enrol.url`.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The requests so far.
    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// The key that an address was last asked for, as SubjectPublicKeyInfo.
    pub fn key(&self) -> Vec<u8> {
        let body = self.heard().pop().unwrap().body;
        let request: EndpointRequest = serde_json::from_value(body).unwrap();
        request.ecdsa_credential.public_key().unwrap().spki().to_vec()
    }
}

impl Drop for EnrolApi {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_timeout(std::time::Duration::from_secs(5));
    }
}

async fn serve(mut socket: TcpStream, acceptor: TlsAcceptor, act: Act, heard: Arc<Mutex<Vec<Heard>>>) {
    let answer = match act {
        Act::Silent => {
            let _ = socket.read_to_end(&mut Vec::new()).await;
            return;
        }
        Act::Closes => return,
        Act::NoTls => {
            let _ = socket.write_all(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n").await;
            let _ = socket.read_to_end(&mut Vec::new()).await;
            return;
        }
        Act::Hangs => None,
        Act::Says(bytes) => Some(bytes),
        Act::LogsIn(network) => {
            let session = json!({"username": "me", "token": "a.token", "user_id": 1, "type": "USER", "domain_id": null,
                "domain_network": network});
            let page = json!({"curr": 0, "next": -1, "prev": -1});
            let Act::Says(bytes) = json_answer("200 OK", &json!({"data": [session], "page": page})) else { return };
            Some(bytes)
        }
        Act::Gives(address) => {
            let answer = json!({"address": address, "network": null, "active_credentials": {"body": []}});
            let Act::Says(bytes) = json_answer("200 OK", &answer) else { return };
            Some(bytes)
        }
    };
    let Ok(mut stream) = acceptor.accept(socket).await else { return };
    let mut request = Vec::new();
    while !is_whole(&request) {
        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let text = String::from_utf8(request).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    heard.lock().unwrap().push(Heard { head: head.to_owned(), body: serde_json::from_str(body).unwrap() });
    if let Some(answer) = answer {
        let _ = stream.write_all(&answer).await;
        let _ = stream.shutdown().await;
    }
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    length.is_some_and(|length| body.len() >= length.trim().parse().unwrap())
}
