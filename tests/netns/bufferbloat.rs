//! Bulk through a slow link, and little packets beside it: these go before what waits, in both directions, and none is lost.
//! Told by what arrives before what, never by a clock.
//!
//! ```text
//! host --- enf0 === lan0 --- a slow link --- far0 === enfr0 --- the router's host
//! ```

use crate::common::certs::{Ca, Leaf};
use crate::common::client::Tunnel;
use crate::common::netns::{Netns, Running, in_netns_with_tun, sh, veth};
use crate::common::{figure, wait_for};
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

const OWN: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x8f80, 1, 0, 0, 0, 0, 0x1234);
const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x8f80, 1, 0, 0, 0, 0, 1);
/// What the link carries, and what the bulk flow sends: twice that.
const LINK: &str = "4mbit";
const BULK_PER_SECOND: usize = 8_000_000 / 8;
/// Bytes of a packet's data: of the bulk flow, of the little one.
const LARGE: usize = 1000;
const SMALL: usize = 40;
/// Little packets, one every 20 ms.
const LITTLE: usize = 100;
const EVERY: Duration = Duration::from_millis(20);
/// So much of the bulk waits or is lost before the first little packet.
const STANDING: usize = 1_500_000;

/// What has arrived at the far side, in the order in which it came: everything goes to one socket.
#[derive(Default)]
struct Arrivals {
    /// Bytes of the bulk flow.
    bulk: AtomicUsize,
    stop: AtomicBool,
}

/// For each packet that was sent while there were little ones: how many bytes of the bulk arrived between its sending and itself.
#[derive(Debug, Default)]
struct Ahead {
    bulk: Vec<usize>,
    little: Vec<usize>,
}

/// In a packet: how much of the bulk had arrived when it was sent, and whether there were little ones by then.
struct Stamp(usize, bool);

impl Stamp {
    fn packet(&self, size: usize) -> Vec<u8> {
        let mut packet = vec![0; size];
        packet[..8].copy_from_slice(&self.0.to_be_bytes());
        packet[8] = self.1.into();
        packet
    }

    fn read(packet: &[u8]) -> Self {
        Self(usize::from_be_bytes(packet[..8].try_into().unwrap()), packet[8] == 1)
    }
}

impl Arrivals {
    fn receive(&self, socket: &UdpSocket, bulk: SocketAddr) -> Ahead {
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let (mut ahead, mut packet) = (Ahead::default(), [0; 2 * LARGE]);
        while !self.stop.load(SeqCst) {
            let Ok((length, from)) = socket.recv_from(&mut packet) else { continue };
            let Stamp(then, counts) = Stamp::read(&packet);
            let before = self.bulk.load(SeqCst).saturating_sub(then);
            if from == bulk {
                self.bulk.fetch_add(length, SeqCst);
            }
            if counts {
                if from == bulk { &mut ahead.bulk } else { &mut ahead.little }.push(before);
            }
        }
        ahead
    }

    fn send(&self, socket: &UdpSocket, size: usize, counts: bool) -> usize {
        socket.send(&Stamp(self.bulk.load(SeqCst), counts).packet(size)).unwrap_or_default()
    }

    /// The bulk flow until there is much more of it than the link carries; then both. Bytes of the bulk that were sent.
    fn flood(&self, bulk: &UdpSocket, little: &UdpSocket) -> usize {
        let (begun, mut sent, mut littles, mut next) = (Instant::now(), 0, 0, None);
        while littles < LITTLE {
            assert!(begun.elapsed() < Duration::from_secs(60), "{sent} bytes sent, {} arrived", self.bulk.load(SeqCst));
            // What was missed while somebody else had the processor is not made up for.
            let due = (begun.elapsed().as_micros() as usize * BULK_PER_SECOND / 1_000_000).saturating_sub(sent);
            for _ in 0..(due / LARGE).min(20) {
                sent += self.send(bulk, LARGE, next.is_some());
            }
            let now = Instant::now();
            match next {
                None if sent > self.bulk.load(SeqCst) + STANDING => next = Some(now),
                Some(at) if now >= at => {
                    self.send(little, SMALL, true);
                    (littles, next) = (littles + 1, Some(at.max(now) + EVERY));
                }
                _ => std::thread::sleep(Duration::from_millis(2)),
            }
        }
        sent
    }
}

fn router(far: &Netns, directory: &Path) -> Running {
    let router = format!(
        "listen = [\"192.0.2.2:443\"]\ncert_file = \"router.crt.pem\"\nkey_file = \"router.key.pem\"\nclient_ca_file = \"ca.pem\"\n\
         endpoints_dir = \"endpoints\"\ncontrol_socket = \"control.sock\"\n[tun]\ndev = \"enfr0\"\naddresses = [\"{ROUTER}/64\"]\n"
    );
    let file = directory.join("router.toml");
    std::fs::write(&file, router).unwrap();
    let command = |verb: &str| {
        let mut command = far.command(env!("CARGO_BIN_EXE_enftun-router"));
        command.arg("--config").arg(&file).arg(verb).stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::null());
        command
    };
    let running = Running(command("serve").spawn().unwrap());
    wait_for("the router to answer", || command("status").status().unwrap().success());
    running
}

fn story(test: &str, upwards: bool) {
    in_netns_with_tun(test, || {
        let (here, far) = (Netns::here(), Netns::new());
        veth(&here, "lan0", &far, "far0");
        sh("ip addr add 192.0.2.1/24 dev lan0");
        far.exec("ip addr add 192.0.2.2/24 dev far0");
        let ca = Ca::v3("Test Root");
        let files = tempfile::tempdir().unwrap();
        ca.write(files.path(), "ca");
        ca.sign_v3(Leaf::new("router.example").dns("router.example")).write(files.path(), "router");
        let _router = router(&far, files.path());
        let client = ca.sign_v3(Leaf::new(&OWN.to_string()).ip(&OWN.to_string()));
        let mut tunnel = Tunnel::new("192.0.2.2:443", &ca, &client).remote("name = \"router.example\"");
        // The answer is given in time on the slow link, too.
        tunnel.remote = tunnel.remote.replace("heartbeat_timeout = \"2s\"", "heartbeat_timeout = \"30s\"");
        let mut run = tunnel.run();
        run.until("connected");
        let ((from, near, dev), (to, other)) = match upwards {
            true => ((OWN, &here, "lan0"), (ROUTER, &far)),
            false => ((ROUTER, &far, "far0"), (OWN, &here)),
        };
        near.exec(&format!("tc qdisc add dev {dev} root tbf rate {LINK} burst 16k latency 50ms"));
        let socket = other.run(|| UdpSocket::bind((to, 7)).unwrap());
        // What the tunnel's TCP has to say again holds up the rest, which then comes all at once.
        if nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &(8 << 20)).is_err() {
            socket2::SockRef::from(&socket).set_recv_buffer_size(8 << 20).unwrap();
        }
        let sender = || {
            let socket = UdpSocket::bind((from, 0)).unwrap();
            socket.connect((to, 7)).unwrap();
            socket
        };
        let (bulk, little) = near.run(|| (sender(), sender()));
        let bulk_address = bulk.local_addr().unwrap();
        let arrivals = Arrivals::default();
        let (sent, ahead) = std::thread::scope(|scope| {
            let receiver = scope.spawn(|| arrivals.receive(&socket, bulk_address));
            let sent = arrivals.flood(&bulk, &little);
            // The link is slow: what is on its way arrives, until for a while nothing does.
            let mut last = (arrivals.bulk.load(SeqCst), Instant::now());
            wait_for("the end of what is on the way", || {
                let seen = arrivals.bulk.load(SeqCst);
                if seen != last.0 {
                    last = (seen, Instant::now());
                }
                last.1.elapsed() > Duration::from_secs(2)
            });
            arrivals.stop.store(true, SeqCst);
            (sent, receiver.join().unwrap())
        });
        let middle = |numbers: &[usize]| {
            let mut numbers = numbers.to_vec();
            numbers.sort_unstable();
            numbers[numbers.len() / 2]
        };
        let arrived = arrivals.bulk.load(SeqCst);
        let (bulk, little) = (middle(&ahead.bulk), middle(&ahead.little));
        figure(&format!(
            "{test}: {} of {LITTLE} little packets arrived, {} of {} kB of bulk; {} kB went before a little packet, {} before a large one",
            ahead.little.len(),
            arrived / 1000,
            sent / 1000,
            little / 1000,
            bulk / 1000
        ));
        assert!(arrived < sent * 4 / 5, "the link is too slow for the bulk: {arrived} of {sent} bytes arrived");
        // Where a socket's buffer is small, some may be lost at the very end.
        assert!(ahead.little.len() * 20 >= LITTLE * 19, "{} of {LITTLE} little packets arrived", ahead.little.len());
        assert!(little * 5 < bulk * 4, "a little packet waits behind {little} bytes, a large one behind {bulk}");
        run.interrupt();
    });
}

#[test]
fn a_little_packet_into_the_tunnel_goes_before_the_bulk_that_waits() {
    story("a_little_packet_into_the_tunnel_goes_before_the_bulk_that_waits", true);
}

#[test]
fn a_little_packet_out_of_the_router_goes_before_the_bulk_that_waits() {
    story("a_little_packet_out_of_the_router_goes_before_the_bulk_that_waits", false);
}
