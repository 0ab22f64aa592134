//! Sees every frame that the client sends over its cable, at the cable's other end, and says what each one is. What may be
//! sent and what may not is the bed's business.

use crate::common::netns::Netns;
use crate::common::wait_for;
use crate::shot::{TAG, probe_of_port, probe_of_report};
use nix::sys::socket::{ControlMessageOwned, LinkAddr, MsgFlags, recvmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use std::fmt;
use std::io::IoSliceMut;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

/// All protocols, in network byte order.
const ETH_P_ALL: i32 = 0x0300;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A question or answer about this address.
    Arp(Ipv4Addr),
    Tcp,
    Udp,
    Icmp(u8),
    /// The type, and for neighbour solicitations and advertisements the address they are about.
    Icmp6(u8, Option<Ipv6Addr>),
    /// The protocol number of an IP packet.
    Ip(u8),
    /// The type of a frame that is neither ARP nor IP.
    Ethernet(u16),
}

/// One frame from the client.
#[derive(Clone, Debug)]
pub struct Frame {
    /// When the kernel received it.
    pub at: SystemTime,
    pub kind: Kind,
    pub source: Option<IpAddr>,
    pub destination: Option<IpAddr>,
    pub ports: Option<(u16, u16)>,
    /// Time to live or hop limit.
    pub hops: u8,
    /// The probe that it belongs to, by its tag or its ports.
    pub probe: Option<u16>,
    length: usize,
}

/// A thread that listens at the interface `dev` of a namespace; ends with this value.
pub struct Sniffer {
    frames: Arc<Mutex<Vec<Frame>>>,
    seen: Arc<AtomicU64>,
    lost: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    namespace: std::path::PathBuf,
    dev: String,
}

impl Sniffer {
    /// Listens for what comes in at `dev`; what goes out there is not the client's. Start it before `dev` is up.
    pub fn start(at: &Netns, dev: &str) -> Self {
        let socket = at.run(|| open(dev));
        let (frames, seen) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU64::new(0)));
        let (lost, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let thread = std::thread::spawn({
            let (frames, seen, lost, stop) = (frames.clone(), seen.clone(), lost.clone(), stop.clone());
            move || listen(&socket, &frames, &seen, &lost, &stop)
        });
        Self { frames, seen, lost, stop, thread: Some(thread), namespace: at.path().to_owned(), dev: dev.to_owned() }
    }

    /// All frames since `from` that have been sent by now; older ones are forgotten. Fails if any was missed.
    pub fn since(&self, from: SystemTime) -> Vec<Frame> {
        let sent = self.received_by_the_link();
        wait_for("the sniffer to have seen all that came over the cable", || self.seen.load(SeqCst) >= sent);
        assert_eq!(self.lost.load(SeqCst), 0, "the sniffer was too slow");
        let mut frames = self.frames.lock().unwrap();
        frames.retain(|frame| frame.at >= from);
        frames.clone()
    }

    /// What the kernel counts at the interface.
    fn received_by_the_link(&self) -> u64 {
        let namespace = std::fs::File::open(&self.namespace).unwrap();
        let counters = std::thread::spawn(move || {
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            std::fs::read_to_string("/proc/thread-self/net/dev").unwrap()
        })
        .join()
        .unwrap();
        let prefix = format!("{}:", self.dev);
        let line = counters.lines().find_map(|line| line.trim_start().strip_prefix(&prefix)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        let _ = self.thread.take().unwrap().join();
    }
}

fn open(dev: &str) -> Socket {
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(ETH_P_ALL))).unwrap();
    let index = nix::net::if_::if_nametoindex(dev).unwrap();
    // Auxiliary data of classic BPF: the interface's index and the packet's type, of which 4 is "outgoing".
    const INDEX: u32 = 0xffff_f000 + 8;
    const TYPE: u32 = 0xffff_f000 + 4;
    let filter = [
        SockFilter::new(0x20, 0, 0, INDEX),
        SockFilter::new(0x15, 0, 3, index),
        SockFilter::new(0x20, 0, 0, TYPE),
        SockFilter::new(0x15, 1, 0, 4),
        SockFilter::new(0x06, 0, 0, u32::MAX),
        SockFilter::new(0x06, 0, 0, 0),
    ];
    socket.attach_filter(&filter).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    // Without root, as much as one may.
    if setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20)).is_err() {
        socket.set_recv_buffer_size(64 << 20).unwrap();
    }
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true).unwrap();
    setsockopt(&socket, sockopt::RxqOvfl, &1).unwrap();
    socket
}

fn listen(socket: &Socket, frames: &Mutex<Vec<Frame>>, seen: &AtomicU64, lost: &AtomicU64, stop: &AtomicBool) {
    let mut bytes = vec![0; 65536];
    while !stop.load(SeqCst) {
        let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec, u32);
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let received = recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::empty());
        let Ok(received) = received else { continue };
        let (length, mut at) = (received.bytes, None);
        for message in received.cmsgs().unwrap() {
            match message {
                ControlMessageOwned::ScmTimestampns(time) => at = Some(SystemTime::UNIX_EPOCH + Duration::from(time)),
                ControlMessageOwned::RxqOvfl(count) => lost.store(count.into(), SeqCst),
                _ => {}
            }
        }
        frames.lock().unwrap().push(parse(&bytes[..length], at.expect("a time stamp")));
        seen.fetch_add(1, SeqCst);
    }
}

fn parse(bytes: &[u8], at: SystemTime) -> Frame {
    let mut frame = Frame {
        at,
        kind: Kind::Ethernet(u16::from_be_bytes([bytes[12], bytes[13]])),
        source: None,
        destination: None,
        ports: None,
        hops: 0,
        probe: tag_in(bytes),
        length: bytes.len(),
    };
    let payload = &bytes[14..];
    match frame.kind {
        Kind::Ethernet(0x0806) => frame.kind = Kind::Arp(four(&payload[24..28])),
        Kind::Ethernet(0x0800) => {
            frame.source = Some(four(&payload[12..16]).into());
            frame.destination = Some(four(&payload[16..20]).into());
            frame.hops = payload[8];
            let first_fragment = u16::from_be_bytes([payload[6], payload[7]]) & 0x1fff == 0;
            let header = usize::from(payload[0] & 15) * 4;
            let rest = if first_fragment { &payload[header..] } else { &[] };
            frame.transport(payload[9], rest);
        }
        Kind::Ethernet(0x86dd) => {
            frame.source = Some(sixteen(&payload[8..24]).into());
            frame.destination = Some(sixteen(&payload[24..40]).into());
            frame.hops = payload[7];
            let (mut protocol, mut rest) = (payload[6], &payload[40..]);
            // Hop-by-hop options, routing header, fragment header, destination options.
            while matches!(protocol, 0 | 43 | 44 | 60) {
                let length = if protocol == 44 { 8 } else { 8 + usize::from(rest[1]) * 8 };
                let later_fragment = protocol == 44 && u16::from_be_bytes([rest[2], rest[3]]) & 0xfff8 != 0;
                (protocol, rest) = (rest[0], &rest[length..]);
                if later_fragment {
                    rest = &[];
                }
            }
            frame.transport(protocol, rest);
        }
        _ => {}
    }
    frame
}

impl Frame {
    /// What follows the IP header; nothing in later fragments.
    fn transport(&mut self, protocol: u8, rest: &[u8]) {
        self.kind = match (protocol, rest) {
            (6 | 17, [a, b, c, d, ..]) => {
                let (from, to) = (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]));
                self.ports = Some((from, to));
                self.probe = self.probe.or(probe_of_port(from)).or(probe_of_port(to));
                if protocol == 6 { Kind::Tcp } else { Kind::Udp }
            }
            (2, report) => {
                self.probe = probe_of_report(report);
                Kind::Ip(2)
            }
            (1, [kind, ..]) => Kind::Icmp(*kind),
            (58, [kind, ..]) => {
                Kind::Icmp6(*kind, matches!(kind, 135 | 136).then(|| rest.get(8..24).map(sixteen)).flatten())
            }
            _ => Kind::Ip(protocol),
        };
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.kind)?;
        if let (Some(source), Some(destination)) = (self.source, self.destination) {
            write!(f, " from {source} to {destination}")?;
        }
        if let Some((from, to)) = self.ports {
            write!(f, " ports {from} to {to}")?;
        }
        write!(f, ", {} bytes", self.length)
    }
}

fn tag_in(bytes: &[u8]) -> Option<u16> {
    let at = bytes.windows(TAG.len()).position(|window| window == TAG)? + TAG.len();
    std::str::from_utf8(bytes.get(at..at + 5)?).ok()?.parse().ok()
}

fn four(bytes: &[u8]) -> Ipv4Addr {
    <[u8; 4]>::try_from(bytes).unwrap().into()
}

fn sixteen(bytes: &[u8]) -> Ipv6Addr {
    <[u8; 16]>::try_from(bytes).unwrap().into()
}
