//! A name server for tests: real sockets in a namespace, and answers as a story wants them.

use super::netns::Netns;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

/// A question as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub name: String,
    pub ipv6: bool,
    pub tcp: bool,
}

/// What it answers.
pub enum Reply {
    /// Those of the kind that was asked for.
    Addresses(&'static [&'static str]),
    /// This response code.
    Code(u8),
    /// Nothing but the advice to ask by TCP.
    Truncated,
    Silent,
}

type Knowledge = Arc<dyn Fn(&Question) -> Reply + Send + Sync>;

/// A name server at port 53, UDP and TCP, until it is dropped.
pub struct NameServer {
    questions: Arc<Mutex<Vec<Question>>>,
    _runtime: tokio::runtime::Runtime,
}

impl NameServer {
    pub fn start(at: &Netns, address: &str, knows: impl Fn(&Question) -> Reply + Send + Sync + 'static) -> Self {
        let address: IpAddr = address.parse().unwrap();
        let questions = Arc::new(Mutex::new(Vec::new()));
        let (knows, seen): (Knowledge, _) = (Arc::new(knows), questions.clone());
        let runtime = at.run(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let (udp, tcp) = runtime
                .block_on(async { (UdpSocket::bind((address, 53)).await, TcpListener::bind((address, 53)).await) });
            runtime.spawn(serve_udp(udp.unwrap(), knows.clone(), seen.clone()));
            runtime.spawn(serve_tcp(tcp.unwrap(), knows, seen));
            runtime
        });
        Self { questions, _runtime: runtime }
    }

    pub fn questions(&self) -> Vec<Question> {
        self.questions.lock().unwrap().clone()
    }
}

async fn serve_udp(socket: UdpSocket, knows: Knowledge, seen: Arc<Mutex<Vec<Question>>>) {
    let mut bytes = [0; 512];
    while let Ok((length, peer)) = socket.recv_from(&mut bytes).await {
        if let Some(reply) = reply(&bytes[..length], false, &knows, &seen) {
            let _ = socket.send_to(&reply, peer).await;
        }
    }
}

async fn serve_tcp(listener: TcpListener, knows: Knowledge, seen: Arc<Mutex<Vec<Question>>>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let (knows, seen) = (knows.clone(), seen.clone());
        tokio::spawn(async move {
            while let Ok(length) = stream.read_u16().await {
                let mut bytes = vec![0; length.into()];
                stream.read_exact(&mut bytes).await.unwrap();
                if let Some(reply) = reply(&bytes, true, &knows, &seen) {
                    stream.write_u16(reply.len() as u16).await.unwrap();
                    stream.write_all(&reply).await.unwrap();
                }
            }
        });
    }
}

/// A header, the question, and the answers.
fn reply(bytes: &[u8], tcp: bool, knows: &Knowledge, seen: &Mutex<Vec<Question>>) -> Option<Vec<u8>> {
    let (mut at, mut labels) = (12, Vec::new());
    while bytes[at] != 0 {
        let end = at + 1 + usize::from(bytes[at]);
        labels.push(String::from_utf8_lossy(&bytes[at + 1..end]).into_owned());
        at = end;
    }
    let asked = &bytes[12..at + 5];
    let question = Question { name: labels.join("."), ipv6: bytes[at + 2] == 28, tcp };
    seen.lock().unwrap().push(question.clone());
    let (flags, addresses) = match knows(&question) {
        Reply::Addresses(addresses) => (0x8180, addresses),
        Reply::Code(code) => (0x8180 | u16::from(code), [].as_slice()),
        Reply::Truncated => (0x8380, [].as_slice()),
        Reply::Silent => return None,
    };
    let addresses = addresses.iter().map(|address| address.parse::<IpAddr>().unwrap());
    let answers: Vec<_> = addresses.filter(|address| address.is_ipv6() == question.ipv6).collect();
    let mut out = bytes[..2].to_vec();
    for word in [flags, 1, answers.len() as u16, 0, 0] {
        out.extend(word.to_be_bytes());
    }
    out.extend(asked);
    for address in answers {
        let (kind, data) = match address {
            IpAddr::V4(address) => (1, address.octets().to_vec()),
            IpAddr::V6(address) => (28, address.octets().to_vec()),
        };
        out.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, data.len() as u8]);
        out.extend(data);
    }
    Some(out)
}
