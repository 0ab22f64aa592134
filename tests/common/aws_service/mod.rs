//! The service of AWS IoT Secure Tunneling as far as its two clients see it: TLS and a WebSocket on loopback, tokens, tunnels,
//! and a relay between their ends. It holds its clients strictly to the protocol, and misbehaves itself in every way that a
//! test may want.
//!
//! ```ignore
//! let service = Service::start();
//! let tunnel = service.tunnel(&["SSH"]);
//! let token = tunnel.token(Mode::Source);      // for whoever connects to service.endpoint() and trusts service.ca_file()
//! tunnel.end(Mode::Source).close(1000);
//! ```
//!
//! A rule that a client broke makes the test fail when the service is dropped, unless the test took it with
//! [`Tunnel::violations`].

pub mod message;
pub mod request;
mod rules;
mod serve;
mod state;
pub mod websocket;

pub use message::Message;
pub use state::{Announce, Handshake, Knobs, Mode, Names, Reply, Said, Shape};

use super::certs::{Ca, Leaf};
use bytes::Bytes;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use state::{Handle, Order, Out, State, Token};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;

/// The service. It runs until it is dropped.
pub struct Service {
    pub address: SocketAddr,
    shared: Handle,
    directory: tempfile::TempDir,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Service {
    pub fn start() -> Self {
        Self::at("127.0.0.1:0".parse().unwrap())
    }

    /// It listens there.
    pub fn at(address: SocketAddr) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ca = Ca::v3("A throw-away CA for tests");
        ca.write(directory.path(), "ca");
        let identity = ca.sign_v3(
            Leaf::new("localhost").dns("localhost").ip("127.0.0.1").ip(&address.ip().to_string()).server_only(),
        );
        let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![identity.cert_der.clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("aws-service")
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(async { listen(address) });
        let address = listener.local_addr().unwrap();
        let shared = Handle::default();
        let with = shared.clone();
        runtime.spawn(async move {
            loop {
                let Ok((socket, _)) = listener.accept().await else { continue };
                tokio::spawn(serve::serve(with.clone(), acceptor.clone(), socket));
            }
        });
        Self { address, shared, directory, runtime: Some(runtime) }
    }

    /// For `remote` and `-e`.
    pub fn endpoint(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    /// Whom to trust.
    pub fn ca_file(&self) -> std::path::PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// The directory with just that file.
    pub fn ca_directory(&self) -> &Path {
        self.directory.path()
    }

    /// Opens a tunnel.
    pub fn tunnel(&self, services: &[&str]) -> Tunnel {
        let number = self.shared.with(|state| {
            let end = |token: String| state::End {
                knobs: Knobs::default(),
                live: None,
                reading: watch::channel(true).0,
                gate: Arc::default(),
                token,
                held: Default::default(),
                sessions: 0,
                ping_payloads: Vec::new(),
                pongs: Vec::new(),
                closed: Vec::new(),
                bytes: 0,
            };
            state.tunnels.push(state::Tunnel {
                services: services.iter().map(|name| (*name).to_owned()).collect(),
                ends: [end(String::new()), end(String::new())],
                streams: Default::default(),
                said: Vec::new(),
                violations: Vec::new(),
                carried: Default::default(),
            });
            state.tunnels.len() - 1
        });
        let tunnel = Tunnel { shared: self.shared.clone(), number };
        tunnel.rotate(&Mode::BOTH);
        tunnel
    }

    /// Every request is answered so from now on.
    pub fn reply(&self, reply: Reply) {
        self.shared.with(|state| state.reply = reply);
    }

    /// The next so many are answered so.
    pub fn reply_next(&self, times: usize, reply: Reply) {
        self.shared.with(|state| state.replies.extend(std::iter::repeat_n(reply, times)));
    }

    /// Every request so far and what came of it.
    pub fn handshakes(&self) -> Vec<Handshake> {
        self.shared.lock().handshakes.clone()
    }

    /// Waits for so many in all.
    #[track_caller]
    pub fn wait_for_handshakes(&self, many: usize) -> Vec<Handshake> {
        self.shared.wait(&format!("{many} handshakes"), |state| {
            (state.handshakes.len() >= many).then(|| state.handshakes.clone())
        })
    }

    /// TCP connections so far.
    pub fn connections(&self) -> u64 {
        self.shared.lock().connections
    }

    /// What happened, for people.
    pub fn story(&self) -> String {
        self.shared.lock().story()
    }
}

/// A queue as long as the system allows, so that bursts of tests are not its business.
fn listen(address: SocketAddr) -> TcpListener {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap_or_else(|error| panic!("cannot listen on {address}: {error}"));
    socket.listen(1024).unwrap()
}

impl Drop for Service {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_timeout(std::time::Duration::from_secs(5));
        let state = self.shared.lock();
        let broken: Vec<&String> = state.tunnels.iter().flat_map(|tunnel| &tunnel.violations).collect();
        if std::thread::panicking() {
            eprintln!("what the service saw:\n{}", state.story());
        } else if !broken.is_empty() {
            panic!("rules of the protocol were broken: {broken:#?}\n{}", state.story());
        }
    }
}

/// A tunnel that was opened at the service.
#[derive(Clone)]
pub struct Tunnel {
    shared: Handle,
    number: usize,
}

impl Tunnel {
    fn with<T>(&self, does: impl FnOnce(&mut state::Tunnel) -> T) -> T {
        self.shared.with(|state| does(&mut state.tunnels[self.number]))
    }

    #[track_caller]
    fn wait<T>(&self, what: &str, mut look: impl FnMut(&mut state::Tunnel) -> Option<T>) -> T {
        self.shared.wait(what, |state| look(&mut state.tunnels[self.number]))
    }

    pub fn token(&self, mode: Mode) -> String {
        self.with(|tunnel| tunnel.end(mode).token.clone())
    }

    /// Makes new tokens for these ends; the old ones are worth nothing, and whoever is connected stays so.
    pub fn rotate(&self, modes: &[Mode]) {
        self.shared.with(|state: &mut State| {
            for &mode in modes {
                state.tokens.retain(|_, token| (token.tunnel, token.mode) != (self.number, mode));
                let token = state.unique(&format!("{}-", mode.as_str()));
                state.tokens.insert(token.clone(), Token { tunnel: self.number, mode, bound: None });
                state.tunnels[self.number].end(mode).token = token;
            }
        });
    }

    /// Closes it: both ends are told, and their tokens are worth nothing.
    pub fn close(&self) {
        self.shared.with(|state| state.tokens.retain(|_, token| token.tunnel != self.number));
        for mode in Mode::BOTH {
            let live = self.with(|tunnel| tunnel.end(mode).live.as_ref().map(|live| live.out.clone()));
            if let Some(out) = live {
                say_goodbye(&out, 1000);
            }
        }
    }

    pub fn end(&self, mode: Mode) -> End<'_> {
        End { tunnel: self, mode }
    }

    pub fn source(&self) -> End<'_> {
        self.end(Mode::Source)
    }

    pub fn destination(&self) -> End<'_> {
        self.end(Mode::Destination)
    }

    /// Treats both ends so from now on.
    pub fn knobs(&self, turn: impl Fn(&mut Knobs)) {
        self.with(|tunnel| tunnel.ends.iter_mut().for_each(|end| turn(&mut end.knobs)));
    }

    /// What was said: every message but data, in the order of its arrival here, and who came and went.
    pub fn said(&self) -> Vec<Said> {
        self.with(|tunnel| tunnel.said.clone())
    }

    /// What this end said, in its order, as text.
    pub fn said_by(&self, mode: Mode) -> Vec<String> {
        self.said().into_iter().filter(|said| said.from == Some(mode)).map(|said| said.what).collect()
    }

    /// Waits until an end, or the service, has said this.
    #[track_caller]
    pub fn wait_until_said(&self, from: Option<Mode>, what: &str) {
        self.wait(what, |tunnel| tunnel.said.iter().any(|said| said.from == from && said.what == what).then_some(()));
    }

    /// Rules that were broken so far. The test takes them: they do not make it fail.
    pub fn violations(&self) -> Vec<String> {
        self.with(|tunnel| std::mem::take(&mut tunnel.violations))
    }

    /// Bytes of data that this end has sent, by service, stream and connection.
    pub fn carried_by(&self, mode: Mode) -> BTreeMap<(String, i32, u32), u64> {
        self.with(|tunnel| tunnel.carried_by(mode))
    }
}

/// Who is gone already needs no goodbye.
fn say_goodbye(out: &mpsc::Sender<Out>, code: u16) {
    let _ = out.blocking_send(Out::Raw(websocket::frame(true, websocket::CLOSE, &websocket::goodbye(code, ""))));
    let _ = out.blocking_send(Out::End);
}

/// One end of a tunnel, as the service has it.
#[derive(Clone, Copy)]
pub struct End<'a> {
    tunnel: &'a Tunnel,
    mode: Mode,
}

impl End<'_> {
    /// Treats it so from now on.
    pub fn knobs(&self, turn: impl FnOnce(&mut Knobs)) {
        self.tunnel.with(|tunnel| turn(&mut tunnel.end(self.mode).knobs));
    }

    pub fn is_connected(&self) -> bool {
        self.tunnel.with(|tunnel| tunnel.end(self.mode).live.is_some())
    }

    /// Sessions so far.
    pub fn sessions(&self) -> u64 {
        self.tunnel.with(|tunnel| tunnel.end(self.mode).sessions)
    }

    /// Waits until there have been so many sessions, and the last is there.
    #[track_caller]
    pub fn wait_for_session(&self, many: u64) {
        let what = format!("session {many} of the {}", self.mode.as_str());
        self.tunnel.wait(&what, |tunnel| {
            let end = tunnel.end(self.mode);
            (end.sessions >= many && end.live.is_some()).then_some(())
        });
    }

    /// Waits until nobody is connected.
    #[track_caller]
    pub fn wait_until_gone(&self) {
        let what = format!("the end of the {}", self.mode.as_str());
        self.tunnel.wait(&what, |tunnel| tunnel.end(self.mode).live.is_none().then_some(()));
    }

    /// How its sessions ended by themselves: with a close frame's code, or without one.
    pub fn closed(&self) -> Vec<Option<u16>> {
        self.tunnel.with(|tunnel| tunnel.end(self.mode).closed.clone())
    }

    /// Pings that came.
    pub fn pings(&self) -> Vec<Bytes> {
        self.tunnel.with(|tunnel| tunnel.end(self.mode).ping_payloads.clone())
    }

    #[track_caller]
    pub fn wait_for_pings(&self, many: usize) -> Vec<Bytes> {
        let what = format!("{many} pings of the {}", self.mode.as_str());
        self.tunnel.wait(&what, |tunnel| {
            let pings = &tunnel.end(self.mode).ping_payloads;
            (pings.len() >= many).then(|| pings.clone())
        })
    }

    /// Pongs that came.
    pub fn pongs(&self) -> Vec<Bytes> {
        self.tunnel.with(|tunnel| tunnel.end(self.mode).pongs.clone())
    }

    #[track_caller]
    pub fn wait_for_pongs(&self, many: usize) -> Vec<Bytes> {
        let what = format!("{many} pongs of the {}", self.mode.as_str());
        self.tunnel.wait(&what, |tunnel| {
            let pongs = &tunnel.end(self.mode).pongs;
            (pongs.len() >= many).then(|| pongs.clone())
        })
    }

    /// Bytes of data that came from it.
    pub fn bytes(&self) -> u64 {
        self.tunnel.with(|tunnel| tunnel.end(self.mode).bytes)
    }

    fn out(&self) -> mpsc::Sender<Out> {
        let what = format!("a session of the {}", self.mode.as_str());
        self.tunnel.wait(&what, |tunnel| tunnel.end(self.mode).live.as_ref().map(|live| live.out.clone()))
    }

    /// Sends it a message that the other end did not send.
    #[track_caller]
    pub fn send(&self, message: &Message) {
        let out = self.out();
        self.tunnel.with(|tunnel| tunnel.injected(self.mode, message));
        let _ = out.blocking_send(Out::Frame(message.frame()));
    }

    /// Waits until it has read everything that it was sent: until it answers a ping.
    #[track_caller]
    pub fn settle(&self) {
        let payload = self.tunnel.shared.with(|state| state.unique("settle-"));
        self.send_raw(true, websocket::PING, payload.as_bytes());
        let what = format!("an answer of the {}", self.mode.as_str());
        self.tunnel.wait(&what, |tunnel| tunnel.end(self.mode).pongs.iter().any(|pong| *pong == payload).then_some(()));
    }

    /// Tells it the services of the tunnel, now.
    pub fn announce(&self) {
        let services = self.tunnel.with(|tunnel| tunnel.services.clone());
        self.send(&Message::services(&services));
    }

    /// Sends bytes as if they were a frame of the tunnel.
    pub fn send_bytes(&self, bytes: &[u8]) {
        let _ = self.out().blocking_send(Out::Frame(Bytes::copy_from_slice(bytes)));
    }

    /// Sends a WebSocket frame of any opcode.
    pub fn send_raw(&self, last: bool, opcode: u8, payload: &[u8]) {
        let _ = self.out().blocking_send(Out::Raw(websocket::frame(last, opcode, payload)));
    }

    /// Sends a close frame, and goes.
    pub fn close(&self, code: u16) {
        say_goodbye(&self.out(), code);
    }

    /// Breaks its TCP connection.
    pub fn abort(&self) {
        self.tunnel.with(|tunnel| {
            if let Some(live) = &tunnel.end(self.mode).live {
                let _ = live.order.send(Order::Abort);
            }
        });
    }

    /// Reads nothing more from it, also in later sessions.
    pub fn stop_reading(&self) {
        self.tunnel.with(|tunnel| tunnel.end(self.mode).reading.send_replace(false));
    }

    pub fn resume(&self) {
        self.tunnel.with(|tunnel| tunnel.end(self.mode).reading.send_replace(true));
    }
}
