//! The applications at both ends, and the clients: plain sockets with contents that can be checked at any place.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// No read of these tests takes longer, or the test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The bytes of stream `key` from `offset` on: no two streams are alike, and neither are two places of one.
pub fn pattern(key: u64, offset: u64, bytes: &mut [u8]) {
    let word = |number: u64| {
        let mut z = (key << 40 | number).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ (z >> 27)).to_le_bytes()
    };
    let (mut done, mut at) = (0, offset);
    while done < bytes.len() {
        let within = (at % 8) as usize;
        let count = (8 - within).min(bytes.len() - done);
        bytes[done..done + count].copy_from_slice(&word(at / 8)[within..within + count]);
        (done, at) = (done + count, at + count as u64);
    }
}

/// A stream that can be half closed.
pub trait Socket: Read + Write + Send + 'static {
    fn end_writing(&self) -> io::Result<()>;
    fn patience(&self, patience: Duration);
    fn another(&self) -> Self;
}

impl Socket for TcpStream {
    fn end_writing(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }

    fn patience(&self, patience: Duration) {
        self.set_read_timeout(Some(patience)).unwrap();
        self.set_write_timeout(Some(patience)).unwrap();
    }

    fn another(&self) -> Self {
        self.try_clone().unwrap()
    }
}

impl Socket for UnixStream {
    fn end_writing(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }

    fn patience(&self, patience: Duration) {
        self.set_read_timeout(Some(patience)).unwrap();
        self.set_write_timeout(Some(patience)).unwrap();
    }

    fn another(&self) -> Self {
        self.try_clone().unwrap()
    }
}

/// What an application does with each connection.
#[derive(Clone)]
pub enum Does {
    /// Sends everything back.
    Echoes,
    /// Reads stream `key` from the beginning and checks it; how much is in [`App::read`].
    Checks(u64),
    /// Sends so much of stream `key`, and ends.
    Sends(u64, u64),
    /// Reads until the end of what comes, then sends it back and ends.
    Answers,
    /// Reads nothing as long as the test runs; then as `Checks`.
    Stalls(u64),
    /// Reads so many bytes at a time, with a pause after each; then as `Checks`.
    Dawdles(u64, usize, Duration),
}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    live: AtomicUsize,
    read: AtomicU64,
    let_go: AtomicBool,
    over: AtomicBool,
    deaf: AtomicBool,
    wrong: Mutex<Vec<String>>,
    /// How connections ended, in their order: with an end, or an error.
    ends: Mutex<Vec<Result<(), io::ErrorKind>>>,
}

/// An application that runs until it is dropped. What it read wrong fails the test then.
pub struct App {
    pub address: Option<SocketAddr>,
    seen: Arc<Seen>,
}

impl App {
    pub fn start(does: Does) -> Self {
        Self::at("127.0.0.1:0", does)
    }

    pub fn at(address: &str, does: Does) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Seen>::default();
        let with = seen.clone();
        std::thread::spawn(move || {
            while let Ok((socket, _)) = listener.accept() {
                if with.over.load(SeqCst) || with.deaf.load(SeqCst) {
                    return;
                }
                socket.set_nodelay(true).unwrap();
                serve(socket, does.clone(), with.clone());
            }
        });
        Self { address: Some(address), seen }
    }

    pub fn unix(path: &Path, does: Does) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let seen = Arc::<Seen>::default();
        let with = seen.clone();
        std::thread::spawn(move || {
            while let Ok((socket, _)) = listener.accept() {
                serve(socket, does.clone(), with.clone());
            }
        });
        Self { address: None, seen }
    }

    pub fn port(&self) -> u16 {
        self.address.unwrap().port()
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.seen.connections.load(SeqCst)
    }

    pub fn live(&self) -> usize {
        self.seen.live.load(SeqCst)
    }

    /// Bytes that it has read, over all connections.
    pub fn read(&self) -> u64 {
        self.seen.read.load(SeqCst)
    }

    /// How connections ended.
    pub fn ends(&self) -> Vec<Result<(), io::ErrorKind>> {
        self.seen.ends.lock().unwrap().clone()
    }

    #[track_caller]
    pub fn wait_for_ends(&self, many: usize) -> Vec<Result<(), io::ErrorKind>> {
        crate::common::wait_for(&format!("{many} ends of connections"), || self.ends().len() >= many);
        self.ends()
    }

    /// Waits for the end of connections that carry much, as long as something comes.
    #[track_caller]
    pub fn wait_for_ends_of(&self, many: usize, bytes: u64) {
        let (mut last, mut since) = (0, std::time::Instant::now());
        while self.ends().len() < many {
            let read = self.read();
            if read != last {
                (last, since) = (read, std::time::Instant::now());
            }
            assert!(since.elapsed() < PATIENCE, "nothing came for 60 s after {read} of {bytes} bytes");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Takes no further connection: it is refused.
    pub fn deafen(&self) {
        self.seen.deaf.store(true, SeqCst);
        // The one that it was waiting for.
        let address = self.address.unwrap();
        crate::common::wait_for("a port that refuses", || {
            TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err()
        });
    }

    #[track_caller]
    pub fn wait_for(&self, connections: usize) {
        crate::common::wait_for(&format!("{connections} connections"), || self.connections() >= connections);
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.seen.over.store(true, SeqCst);
        self.seen.let_go.store(true, SeqCst);
        // The next connection is its last, and frees the port.
        let _ = self.address.map(|address| TcpStream::connect_timeout(&address, Duration::from_secs(1)));
        let wrong = self.seen.wrong.lock().unwrap();
        assert!(wrong.is_empty() || std::thread::panicking(), "an application read what was not sent: {wrong:?}");
    }
}

fn serve(socket: impl Socket, does: Does, seen: Arc<Seen>) {
    seen.connections.fetch_add(1, SeqCst);
    seen.live.fetch_add(1, SeqCst);
    std::thread::spawn(move || {
        let end = act(socket, does, &seen);
        seen.live.fetch_sub(1, SeqCst);
        seen.ends.lock().unwrap().push(end.map_err(|error| error.kind()));
    });
}

fn act(mut socket: impl Socket, does: Does, seen: &Seen) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let check = |socket: &mut dyn Read, key: u64, buffer: &mut [u8], pause: Duration| -> io::Result<()> {
        let (mut offset, mut expected) = (0, vec![0; buffer.len()]);
        loop {
            let count = socket.read(buffer)?;
            if count == 0 {
                return Ok(());
            }
            pattern(key, offset, &mut expected[..count]);
            if buffer[..count] != expected[..count] {
                let mut wrong = seen.wrong.lock().unwrap();
                wrong.push(format!("stream {key}, within the {count} bytes after {offset}"));
            }
            offset += count as u64;
            seen.read.fetch_add(count as u64, SeqCst);
            std::thread::sleep(pause);
        }
    };
    match does {
        Does::Echoes => loop {
            let count = socket.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            seen.read.fetch_add(count as u64, SeqCst);
            socket.write_all(&buffer[..count])?;
        },
        Does::Checks(key) => check(&mut socket, key, &mut buffer, Duration::ZERO),
        Does::Dawdles(key, size, pause) => check(&mut socket, key, &mut buffer[..size], pause),
        Does::Stalls(key) => {
            while !seen.let_go.load(SeqCst) {
                std::thread::sleep(Duration::from_millis(10));
            }
            check(&mut socket, key, &mut buffer, Duration::ZERO)
        }
        Does::Sends(key, length) => {
            send(&mut socket, key, length)?;
            socket.end_writing()?;
            while socket.read(&mut buffer)? > 0 {}
            Ok(())
        }
        Does::Answers => {
            let mut all = Vec::new();
            socket.read_to_end(&mut all)?;
            seen.read.fetch_add(all.len() as u64, SeqCst);
            socket.write_all(&all)?;
            socket.end_writing()
        }
    }
}

/// Writes so much of stream `key`.
pub fn send(socket: &mut dyn Write, key: u64, length: u64) -> io::Result<()> {
    let (mut offset, mut buffer) = (0, vec![0; 64 * 1024]);
    while offset < length {
        let count = (length - offset).min(buffer.len() as u64) as usize;
        pattern(key, offset, &mut buffer[..count]);
        socket.write_all(&buffer[..count])?;
        offset += count as u64;
    }
    Ok(())
}

/// Reads so much of stream `key`, from its beginning.
#[track_caller]
pub fn receive(socket: &mut dyn Read, key: u64, length: u64) {
    let got = prefix(socket, key, length).unwrap();
    assert_eq!(got, length, "it ended too early");
}

/// Reads stream `key` up to its end, or so much: how many bytes that were. All of them are right.
#[track_caller]
pub fn prefix(socket: &mut dyn Read, key: u64, most: u64) -> io::Result<u64> {
    prefix_from(socket, key, 0, most)
}

/// The same from a later place of the stream on.
#[track_caller]
pub fn prefix_from(socket: &mut dyn Read, key: u64, begin: u64, most: u64) -> io::Result<u64> {
    let (mut offset, mut buffer, mut expected) = (0, vec![0; 64 * 1024], vec![0; 64 * 1024]);
    while offset < most {
        let room = buffer.len().min((most - offset) as usize);
        let count = match socket.read(&mut buffer[..room]) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
            Err(error) => return Err(error),
        };
        pattern(key, begin + offset, &mut expected[..count]);
        assert!(buffer[..count] == expected[..count], "stream {key} is wrong after {offset} bytes");
        offset += count as u64;
    }
    Ok(offset)
}

/// A client's connection.
#[track_caller]
pub fn dial(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    socket.patience(PATIENCE);
    socket.set_nodelay(true).unwrap();
    socket
}

/// Sends stream `key` to an echo and checks what comes back, both at the same time.
#[track_caller]
pub fn echo(socket: &mut impl Socket, key: u64, length: u64) {
    let mut sending = socket.another();
    let sender = std::thread::spawn(move || send(&mut sending, key, length));
    receive(socket, key, length);
    sender.join().unwrap().unwrap();
}

/// Reads until the connection is at its end: whether that was one, or it was broken.
#[track_caller]
pub fn end(socket: &mut impl Read) -> Result<(), io::ErrorKind> {
    let mut waste = [0; 4096];
    loop {
        match socket.read(&mut waste) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("the connection did not end"),
            Err(error) => return Err(error.kind()),
        }
    }
}

/// A port where nobody listens.
pub fn nobody() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// An address where connections are neither taken nor refused: its queue is full.
pub struct Mute {
    pub address: SocketAddr,
    _listener: socket2::Socket,
    _queued: Vec<socket2::Socket>,
}

impl Mute {
    pub fn start() -> Self {
        use socket2::{Domain, Socket, Type};
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let queued = (0..4).map(|_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&address.into());
            socket
        });
        let queued = queued.collect();
        // It is full once a further connection gets no answer.
        crate::common::wait_for("a full queue", || {
            TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_err()
        });
        Self { address, _listener: listener, _queued: queued }
    }
}
