//! The threads that fire probes without end, the services that they speak to, and who is to blame for a frame.

use crate::bed::{Bed, FAR_SERVICE, SERVICE};
use crate::common::bus::own_uid;
use crate::common::netns::Netns;
use crate::sniffer::Frame;
use nix::sched::{CloneFlags, setns};
use nix::unistd::{Uid, setfsuid};
use socket2::{Domain, Socket, Type};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

/// Which layer stands alone when the other is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// The kernel chooses the interface: routing holds it without the firewall.
    ByRouting,
    /// Bound to a device in IPv4, broadcast, scoped multicast, or with a stolen mark: only the firewall holds it.
    ByFirewall,
}

/// Who sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// A process in the client, of this user.
    Client(u32),
    /// A process in the container; the client forwards.
    Container,
    Neighbour,
    Hostile,
}

/// One sort of packet.
pub struct Probe {
    pub name: String,
    pub held: Held,
    pub who: Who,
    pub fire: Box<dyn FnMut(u16) + Send>,
}

/// Threads that fire probes, and the services that they speak to; all end with this value.
pub struct Probing {
    probes: BTreeMap<u16, (String, Held)>,
    heard: Arc<Mutex<BTreeMap<u16, SystemTime>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Probing {
    pub fn start(bed: &Bed, probes: Vec<Probe>) -> Self {
        // Leaves the processor to those who are being tested.
        Self::start_with_pause(bed, probes, Duration::from_millis(1))
    }

    pub fn start_with_pause(bed: &Bed, probes: Vec<Probe>, pause: Duration) -> Self {
        let (stop, heard) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(BTreeMap::new())));
        let mut probing = Self { probes: BTreeMap::new(), heard, stop, threads: Vec::new() };
        let client = Netns::here();
        // They listen before anybody speaks to them.
        for at in ["0.0.0.0", "::"] {
            let (socket, heard) = (client.run(|| udp_service(at)), probing.heard.clone());
            probing.thread(&client, move |stop| serve_udp(&socket, stop, &heard));
        }
        for (at, port) in [(&client, SERVICE), (&bed.far, FAR_SERVICE)] {
            let listener = at.run(|| TcpListener::bind(("::", port)).unwrap());
            probing.thread(at, move |stop| serve_tcp(&listener, stop));
        }

        let mut hands: BTreeMap<(Who, usize), Vec<(u16, Probe)>> = BTreeMap::new();
        for (index, probe) in probes.into_iter().enumerate() {
            let id = u16::try_from(index + 1).unwrap();
            probing.probes.insert(id, (probe.name.clone(), probe.held));
            // Two threads for those that are most.
            let hand = if probe.who == Who::Client(own_uid()) { index % 2 } else { 0 };
            hands.entry((probe.who, hand)).or_default().push((id, probe));
        }
        for ((who, _), mut probes) in hands {
            let at = match who {
                Who::Client(_) => &client,
                Who::Container => &bed.container,
                Who::Neighbour => &bed.neighbour,
                Who::Hostile => &bed.hostile,
            };
            probing.thread(at, move |stop| {
                if let Who::Client(uid) = who {
                    // What `meta skuid` reads; and the capabilities for marks and devices stay.
                    setfsuid(Uid::from_raw(uid));
                    assert_eq!(setfsuid(Uid::from_raw(uid)).as_raw(), uid);
                }
                while !stop.load(SeqCst) {
                    probes.iter_mut().for_each(|(id, probe)| (probe.fire)(*id));
                    std::thread::sleep(pause);
                }
            });
        }
        probing
    }

    /// A thread in this namespace.
    fn thread(&mut self, at: &Netns, work: impl FnOnce(&AtomicBool) + Send + 'static) {
        let (namespace, stop) = (std::fs::File::open(at.path()).unwrap(), self.stop.clone());
        self.threads.push(std::thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            work(&stop);
        }));
    }

    pub fn names(&self) -> impl Iterator<Item = (u16, &str)> {
        self.probes.iter().map(|(id, (name, _))| (*id, name.as_str()))
    }

    /// Those that one layer holds.
    pub fn only(&self, held: Held) -> impl Iterator<Item = u16> {
        self.probes.iter().filter(move |(_, probe)| probe.1 == held).map(|(id, _)| *id)
    }

    pub fn held_by(&self, frame: &Frame) -> Option<Held> {
        frame.probe.and_then(|id| self.probes.get(&id)).map(|(_, held)| *held)
    }

    /// The probes from outside that the client's service has heard since then.
    pub fn heard_since(&self, since: SystemTime) -> BTreeSet<&str> {
        let heard = self.heard.lock().unwrap();
        heard.iter().filter(|(_, at)| **at >= since).map(|(id, _)| self.probes[id].0.as_str()).collect()
    }

    /// Each probe that leaked, how often, and its first and last frame with their times.
    pub fn tell(&self, leaks: &[Frame], since: SystemTime) -> String {
        let mut groups: BTreeMap<Option<u16>, Vec<&Frame>> = BTreeMap::new();
        leaks.iter().for_each(|frame| groups.entry(frame.probe).or_default().push(frame));
        let when = |frame: &Frame| frame.at.duration_since(since).unwrap_or_default().as_micros() as f64 / 1000.0;
        let line = |(id, frames): (&Option<u16>, &Vec<&Frame>)| {
            let name = id.and_then(|id| self.probes.get(&id)).map_or("(no probe)", |(name, _)| name);
            let (first, last) = (frames[0], frames[frames.len() - 1]);
            let (begun, ended) = (when(first), when(last));
            format!("LEAK {name}: {} frames, {begun:.1} ms to {ended:.1} ms: {first}", frames.len())
        };
        groups.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Probing {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "a probe's thread ended early");
        }
    }
}

fn udp_service(at: &str) -> UdpSocket {
    let at: IpAddr = at.parse().unwrap();
    let domain = if at.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM, None).unwrap();
    if at.is_ipv6() {
        socket.set_only_v6(true).unwrap();
    }
    socket.bind(&SocketAddr::new(at, SERVICE).into()).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    socket.into()
}

/// Says everything back to whoever said it.
fn serve_udp(socket: &UdpSocket, stop: &AtomicBool, heard: &Mutex<BTreeMap<u16, SystemTime>>) {
    let mut bytes = [0; 2048];
    while !stop.load(SeqCst) {
        let Ok((length, from)) = socket.recv_from(&mut bytes) else { continue };
        if let Some(id) = crate::shot::probe_of_port(from.port()) {
            heard.lock().unwrap().insert(id, SystemTime::now());
        }
        let _ = socket.send_to(&bytes[..length], from);
    }
}

/// Says something to whoever connects, and reads what comes.
fn serve_tcp(listener: &TcpListener, stop: &AtomicBool) {
    listener.set_nonblocking(true).unwrap();
    let (mut streams, mut bytes) = (Vec::new(), [0; 2048]);
    while !stop.load(SeqCst) {
        while let Ok((stream, _)) = listener.accept() {
            let mut stream = stream;
            stream.set_nonblocking(true).unwrap();
            let _ = stream.write(b"hello");
            streams.push(stream);
        }
        streams.retain_mut(|stream| match stream.read(&mut bytes) {
            Ok(count) => count > 0 && stream.write(b"more").is_ok(),
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        });
        std::thread::sleep(Duration::from_millis(2));
    }
}
