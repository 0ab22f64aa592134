//! A client of the service made by hand: it says what a test wants, right or wrong.

use crate::common::aws_service::message::{self, Message};
use crate::common::aws_service::websocket::{self, BINARY, CLOSE, CONTINUATION, Frame, Reader};
use crate::common::aws_service::{Mode, Service};
use bytes::BytesMut;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub const CLIENT: &str = "0123456789abcdef0123456789abcdef";

/// A connection to the service.
pub struct Raw {
    runtime: Runtime,
    socket: TlsStream<TcpStream>,
    reader: Option<Reader>,
    stream: BytesMut,
}

/// The request's lines that every client sends.
pub fn request(mode: &str, more: &[&str]) -> String {
    let mut lines = vec![
        format!("GET /tunnel?local-proxy-mode={mode} HTTP/1.1"),
        "Host: localhost".to_owned(),
        "Upgrade: websocket".to_owned(),
        "Connection: Upgrade".to_owned(),
        "Sec-WebSocket-Version: 13".to_owned(),
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==".to_owned(),
        "Sec-WebSocket-Protocol: aws.iot.securetunneling-3.0".to_owned(),
    ];
    lines.extend(more.iter().map(|line| (*line).to_owned()));
    lines.join("\r\n") + "\r\n\r\n"
}

impl Raw {
    pub fn dial(service: &Service) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(service.ca_file()).unwrap()).unwrap();
        let config =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let socket = runtime.block_on(async {
            let socket = TcpStream::connect(service.address).await.unwrap();
            TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap()
        });
        Self { runtime, socket, reader: None, stream: BytesMut::new() }
    }

    /// Sends a request, and returns the answer's head.
    pub fn ask(&mut self, request: &str) -> String {
        let socket = &mut self.socket;
        self.runtime.block_on(async {
            socket.write_all(request.as_bytes()).await.unwrap();
            socket.flush().await.unwrap();
            let mut head = BytesMut::new();
            loop {
                if let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
                    let answer = String::from_utf8(head.split_to(end + 4).to_vec()).unwrap();
                    self.reader = Some(Reader::of_servers(head));
                    return answer;
                }
                if socket.read_buf(&mut head).await.unwrap_or(0) == 0 {
                    return String::from_utf8(head.to_vec()).unwrap();
                }
            }
        })
    }

    /// Connects with this token and [`CLIENT`], and takes the services.
    pub fn connect(service: &Service, mode: Mode, token: &str) -> Self {
        let mut raw = Self::dial(service);
        let lines = [format!("access-token: {token}"), format!("client-token: {CLIENT}")];
        let answer = raw.ask(&request(mode.as_str(), &[&lines[0], &lines[1]]));
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        raw
    }

    /// Writes WebSocket bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) {
        let socket = &mut self.socket;
        self.runtime.block_on(async {
            socket.write_all(bytes).await.unwrap();
            socket.flush().await.unwrap();
        });
    }

    pub fn say(&mut self, message: &Message) {
        self.write(&websocket::masked_frame(true, BINARY, &message.frame()));
    }

    /// The next WebSocket frame; none: the end.
    pub fn frame(&mut self) -> Option<Frame> {
        let (reader, socket) = (self.reader.as_mut().unwrap(), &mut self.socket);
        self.runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(60), reader.next(socket)).await.expect("nothing came").unwrap()
        })
    }

    /// The next message of the tunnel, and the sizes of the WebSocket frames that came meanwhile.
    pub fn hear(&mut self) -> Message {
        loop {
            if let Some((_, message)) = message::take_frame(&mut self.stream) {
                return message.unwrap();
            }
            let frame = self.frame().expect("the connection ended");
            assert!(matches!(frame.opcode, BINARY | CONTINUATION), "{frame:?}");
            self.stream.extend_from_slice(&frame.payload);
        }
    }

    /// The code of the close frame that comes next.
    pub fn goodbye(&mut self) -> u16 {
        let frame = self.frame().expect("the connection ended");
        assert_eq!(frame.opcode, CLOSE, "{frame:?}");
        u16::from_be_bytes([frame.payload[0], frame.payload[1]])
    }
}
