//! What shows that a tunnel carries: an echo service in the overlay, a probe that asks it every few milliseconds, and a TCP
//! transfer that must arrive whole.

use super::netns::Netns;
use super::seeded::Seeded;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Where the service listens, UDP and TCP.
pub const PORT: u16 = 7;
/// How often the probe asks.
pub const EVERY: Duration = Duration::from_millis(5);
/// So long nothing says that a thread should end.
const POLL: Duration = Duration::from_millis(100);

/// Answers with what it is sent, at every address of a namespace.
pub struct Echo(Arc<AtomicBool>);

impl Echo {
    pub fn start(at: &Netns) -> Self {
        let (udp, tcp) = at.run(|| (UdpSocket::bind(("::", PORT)).unwrap(), TcpListener::bind(("::", PORT)).unwrap()));
        let stop = Arc::new(AtomicBool::new(false));
        udp.set_read_timeout(Some(POLL)).unwrap();
        let stopped = stop.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 2048];
            while !stopped.load(SeqCst) {
                if let Ok((length, peer)) = udp.recv_from(&mut bytes) {
                    let _ = udp.send_to(&bytes[..length], peer);
                }
            }
        });
        tcp.set_nonblocking(true).unwrap();
        let stopped = stop.clone();
        std::thread::spawn(move || {
            while !stopped.load(SeqCst) {
                match tcp.accept() {
                    Ok((stream, _)) => drop(std::thread::spawn(move || {
                        stream.set_nonblocking(false).unwrap();
                        let _ = std::io::copy(&mut &stream, &mut &stream);
                    })),
                    Err(_) => std::thread::sleep(POLL),
                }
            }
        });
        Self(stop)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Asks every few milliseconds, from the namespace of the thread that starts it, and notes what comes back.
pub struct Probe {
    stop: Arc<AtomicBool>,
    /// When it was sent, and when the answer came.
    answers: Arc<Mutex<BTreeMap<Instant, Instant>>>,
}

impl Probe {
    pub fn start(to: IpAddr) -> Self {
        let socket = UdpSocket::bind("[::]:0").unwrap();
        let to = SocketAddr::new(to, PORT);
        let stop = Arc::new(AtomicBool::new(false));
        let answers: Arc<Mutex<BTreeMap<Instant, Instant>>> = Arc::default();
        let sent: Arc<Mutex<Vec<Instant>>> = Arc::default();
        let asking = socket.try_clone().unwrap();
        let (stopped, sent_too) = (stop.clone(), sent.clone());
        std::thread::spawn(move || {
            while !stopped.load(SeqCst) {
                let number = {
                    let mut sent = sent_too.lock().unwrap();
                    sent.push(Instant::now());
                    sent.len() as u64 - 1
                };
                let _ = asking.send_to(&number.to_be_bytes(), to);
                std::thread::sleep(EVERY);
            }
        });
        socket.set_read_timeout(Some(POLL)).unwrap();
        let (stopped, noted) = (stop.clone(), answers.clone());
        std::thread::spawn(move || {
            let mut bytes = [0; 8];
            while !stopped.load(SeqCst) {
                if let Ok((8, _)) = socket.recv_from(&mut bytes) {
                    let at = sent.lock().unwrap()[u64::from_be_bytes(bytes) as usize];
                    let mut noted = noted.lock().unwrap();
                    noted.insert(at, Instant::now());
                    // Nobody asks for what is long ago.
                    while noted.len() > 10_000 {
                        noted.pop_first();
                    }
                }
            }
        });
        Self { stop, answers }
    }

    /// When the first answer came to a question that was asked after this moment.
    pub fn answered_after(&self, moment: Instant) -> Option<Instant> {
        self.answers.lock().unwrap().range(moment..).map(|(_, came)| *came).min()
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
    }
}

/// A running transfer through the tunnel and back. Every byte is compared; a reset, an early end or a wrong byte is a failure.
pub struct Transfer {
    stop: Arc<AtomicBool>,
    bytes: Arc<AtomicUsize>,
    stall: Arc<Mutex<(Instant, Duration)>>,
    writer: Option<JoinHandle<std::io::Result<usize>>>,
    reader: Option<JoinHandle<std::io::Result<usize>>>,
}

const BLOCK: usize = 8192;

impl Transfer {
    /// From the namespace of the calling thread.
    #[track_caller]
    pub fn start(to: IpAddr) -> Self {
        let stream = TcpStream::connect_timeout(&SocketAddr::new(to, PORT), Duration::from_secs(10)).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let bytes = Arc::new(AtomicUsize::new(0));
        let stall = Arc::new(Mutex::new((Instant::now(), Duration::ZERO)));
        let (stopped, mut out) = (stop.clone(), stream.try_clone().unwrap());
        let writer = std::thread::spawn(move || {
            let (mut source, mut sent) = (Source::new(), 0);
            while !stopped.load(SeqCst) {
                out.write_all(&source.block())?;
                sent += BLOCK;
                // About 2.5 MB/s: enough to be under way at every moment, little enough for a slow machine.
                std::thread::sleep(Duration::from_millis(3));
            }
            out.shutdown(std::net::Shutdown::Write)?;
            Ok(sent)
        });
        let (counted, stalled, mut back) = (bytes.clone(), stall.clone(), stream);
        let reader = std::thread::spawn(move || {
            let (mut source, mut expected, mut at) = (Source::new(), Vec::new(), 0);
            let mut piece = [0; BLOCK];
            loop {
                let length = back.read(&mut piece)?;
                let now = Instant::now();
                let mut stall = stalled.lock().unwrap();
                stall.1 = stall.1.max(now - stall.0);
                stall.0 = now;
                drop(stall);
                if length == 0 {
                    return Ok(counted.load(SeqCst));
                }
                for byte in &piece[..length] {
                    if at == expected.len() {
                        (expected, at) = (source.block(), 0);
                    }
                    if *byte != expected[at] {
                        return Err(std::io::Error::other(format!("wrong byte after {}", counted.load(SeqCst))));
                    }
                    at += 1;
                }
                counted.fetch_add(length, SeqCst);
            }
        });
        Self { stop, bytes, stall, writer: Some(writer), reader: Some(reader) }
    }

    /// Bytes that came back so far.
    pub fn bytes(&self) -> usize {
        self.bytes.load(SeqCst)
    }

    /// Still under way, as far as one knows.
    pub fn runs(&self) -> bool {
        !self.writer.as_ref().unwrap().is_finished() && !self.reader.as_ref().unwrap().is_finished()
    }

    /// The longest time without a byte, since the last call.
    pub fn longest_stall(&self) -> Duration {
        std::mem::take(&mut self.stall.lock().unwrap().1)
    }

    /// Ends it; everything that was sent has come back, byte for byte. How much.
    #[track_caller]
    pub fn finish(mut self) -> usize {
        self.stop.store(true, SeqCst);
        let sent = self.writer.take().unwrap().join().unwrap().expect("the transfer could be written");
        let received = self.reader.take().unwrap().join().unwrap().expect("the transfer came back");
        assert_eq!(received, sent, "all of it came back");
        received
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
    }
}

/// Bytes that repeat nowhere near.
struct Source(Seeded);

impl Source {
    fn new() -> Self {
        Self(Seeded::new(42))
    }

    fn block(&mut self) -> Vec<u8> {
        (0..BLOCK / 8).flat_map(|_| self.0.next().to_be_bytes()).collect()
    }
}
