//! A TCP relay in the middle that treats each connection's bytes as a test wants: it delays, throttles, stalls, bends, cuts
//! short and resets. It sees only what TLS shows.

use super::middle::Way;
use super::netns::Netns;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Where it listens.
pub const PORT: u16 = 4443;

/// What becomes of a connection when as many bytes as may pass have passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both sides get a reset.
    Reset,
    /// This way is closed (FIN) in the middle of whatever it was; the other goes on.
    HalfClose,
    /// Nothing more passes this way; everything stays open.
    Stall,
    /// From there on the bytes are not those that were sent.
    Bend,
}

/// What happens to connections, present and future.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner {
    /// Before each piece.
    pub delay: Duration,
    /// Bytes per second, each way.
    pub rate: Option<u32>,
    /// After this many bytes of a connection this way.
    pub after: Option<(Way, u64, End)>,
}

/// Relays until it is dropped.
pub struct Relay {
    manner: watch::Sender<Manner>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Relay {
    pub fn start(at: &Netns, routers: [&str; 2]) -> Self {
        let (manner, watched) = watch::channel(Manner::default());
        let [v4, v6] = routers.map(|router| SocketAddr::new(router.parse().unwrap(), 443));
        let runtime = at.run(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let listener = runtime.block_on(TcpListener::bind(("::", PORT))).unwrap();
            runtime.spawn(async move {
                while let Ok((client, peer)) = listener.accept().await {
                    let router = if peer.ip().to_canonical().is_ipv4() { v4 } else { v6 };
                    tokio::spawn(connection(client, router, watched.clone()));
                }
            });
            runtime
        });
        Self { manner, runtime: Some(runtime) }
    }

    /// From now on, also for connections that there are.
    pub fn treats(&self, manner: Manner) {
        self.manner.send_replace(manner);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Its port is free afterwards.
        self.runtime.take().unwrap().shutdown_timeout(Duration::from_secs(5));
    }
}

async fn connection(client: TcpStream, router: SocketAddr, manner: watch::Receiver<Manner>) {
    let Ok(server) = TcpStream::connect(router).await else {
        let _ = client.set_zero_linger();
        return;
    };
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    let up = copy(client_in, server_out, Way::Up, manner.clone());
    let down = copy(server_in, client_out, Way::Down, manner);
    let (mut up, mut down) = (std::pin::pin!(up), std::pin::pin!(down));
    let (first, halves) = tokio::select! {
        halves = &mut up => (Way::Up, halves),
        halves = &mut down => (Way::Down, halves),
    };
    let other = match (halves, first) {
        (Some(halves), Way::Up) => (Some(halves), down.await),
        (Some(halves), Way::Down) => (Some(halves), up.await),
        // Both directions go with their sockets.
        (None, _) => return,
    };
    drop(other);
}

/// Copies until an end of file; none: the connection has been reset.
async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    way: Way,
    mut manner: watch::Receiver<Manner>,
) -> Option<(OwnedReadHalf, OwnedWriteHalf)> {
    let (mut bytes, mut passed) = ([0; 4096], 0u64);
    loop {
        let length = match from.read(&mut bytes).await {
            Ok(0) => {
                let _ = to.shutdown().await;
                return Some((from, to));
            }
            Ok(length) => length,
            Err(_) => {
                let _ = to.as_ref().set_zero_linger();
                return None;
            }
        };
        let now = *manner.borrow_and_update();
        tokio::time::sleep(now.delay).await;
        if let Some(rate) = now.rate {
            tokio::time::sleep(Duration::from_secs_f64(length as f64 / f64::from(rate))).await;
        }
        let piece = &mut bytes[..length];
        let mut end = None;
        if let Some((broken, after, what)) = now.after.filter(|(broken, ..)| *broken == way) {
            let room = usize::try_from(after.saturating_sub(passed)).unwrap().min(length);
            match what {
                End::Bend => piece[room..].iter_mut().for_each(|byte| *byte ^= 0x55),
                _ if room < length => end = Some((room, what)),
                _ => {}
            }
            debug_assert_eq!(broken, way);
        }
        let whole = end.map_or(length, |(room, _)| room);
        if to.write_all(&piece[..whole]).await.is_err() {
            let _ = from.as_ref().set_zero_linger();
            return None;
        }
        passed += whole as u64;
        match end {
            None => {}
            Some((_, End::Reset)) => {
                let _ = from.as_ref().set_zero_linger();
                let _ = to.as_ref().set_zero_linger();
                return None;
            }
            Some((_, End::HalfClose)) => {
                let _ = to.shutdown().await;
                return Some((from, to));
            }
            // The rest is lost; what stays open stays so.
            Some(_) => std::future::pending().await,
        }
    }
}
