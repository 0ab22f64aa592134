//! What every case stands on: a host and a far host with a cable between them, programs with a deadline, what a process costs.

use crate::common::netns::{Netns, Running, veth};
use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// What was measured, or why it could not be.
pub type Outcome<T> = Result<T, String>;

/// The last mile, IPv4. Every case has namespaces of its own, so it is the same in all.
pub const NEAR: &str = "192.0.2.1";
/// The far host's end of it.
pub const FAR: &str = "192.0.2.2";
/// A host between the two, where there is one.
const MIDDLE: &str = "192.0.2.254";
const MIDDLE6: &str = "fe80::254";
/// What is carried is IPv6: these are the addresses inside.
pub const INNER_NEAR: &str = "fd00:8f80:1::1234";
/// The far host's address inside; iperf3 and the echo service are there.
pub const INNER_FAR: &str = "fd00:8f80:1::1";
/// In every tunnel, and on the bare cable.
pub const MTU: u32 = 1280;

const ECHO: u16 = 7;
const IPERF: u16 = 5201;

/// Two hosts with a cable between them.
pub struct Bed {
    pub near: Netns,
    pub far: Netns,
    middle: Option<Netns>,
    pub directory: tempfile::TempDir,
    over: Arc<AtomicBool>,
}

impl Bed {
    /// The cable is `wire` at both ends; its MTU is that of an Ethernet. With a bottleneck, this queueing discipline is on both
    /// ends of a host in the middle: at the sender itself, its own TCP would keep the queue short.
    pub fn new(bottleneck: Option<&str>) -> Self {
        let (near, far) = (Netns::new(), Netns::new());
        let middle = bottleneck.map(|_| Netns::new());
        match (&middle, bottleneck) {
            (Some(middle), Some(bottleneck)) => {
                veth(&near, "wire", middle, "near");
                veth(middle, "far", &far, "wire");
                middle.exec("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
                for (dev, v4, v6) in [("near", NEAR, INNER_NEAR), ("far", FAR, INNER_FAR)] {
                    middle.exec(&format!(
                        "ip addr add {MIDDLE}/32 dev {dev}; ip addr add {MIDDLE6}/64 dev {dev} nodad
                         ip route add {v4} dev {dev}; ip route add {v6} dev {dev}; tc qdisc add dev {dev} root {bottleneck}"
                    ));
                }
            }
            _ => veth(&near, "wire", &far, "wire"),
        }
        for (host, own, peer) in [(&near, NEAR, FAR), (&far, FAR, NEAR)] {
            let via = if middle.is_some() { format!("via {MIDDLE} onlink") } else { String::new() };
            // The route says it for the tunnels' own connections, whatever this host prefers: a program need not.
            host.exec(&format!(
                "ip addr add {own}/32 dev wire; ip route add {peer} {via} dev wire src {own} congctl {}",
                crate::CONGESTION_CONTROL
            ));
        }
        let socket = far.run(|| UdpSocket::bind(("::", ECHO)).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let ends = over.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 64];
            while !ends.load(Relaxed) {
                if let Ok((length, peer)) = socket.recv_from(&mut bytes) {
                    let _ = socket.send_to(&bytes[..length], peer);
                }
            }
        });
        Self { near, far, middle, directory: tempfile::tempdir().unwrap(), over }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The bare cable: no tunnel, what is carried goes by itself.
    pub fn carries_bare(&self) {
        for (host, number, own, peer) in [(&self.near, 1, INNER_NEAR, INNER_FAR), (&self.far, 2, INNER_FAR, INNER_NEAR)]
        {
            let via = if self.middle.is_some() { format!("via {MIDDLE6}") } else { String::new() };
            host.exec(&format!(
                "ip link set wire mtu {MTU}; ip addr add fe80::{number}/64 dev wire nodad; ip addr add {own}/128 dev wire nodad
                 ip route add {peer} {via} dev wire"
            ));
        }
    }

    /// Waits until a packet that is sent from now on has come back. Returns when that was.
    pub fn carries(&self, deadline: Duration) -> Outcome<Instant> {
        self.near.run(|| {
            let begun = Instant::now();
            let socket = UdpSocket::bind("[::]:0").map_err(|error| error.to_string())?;
            socket.set_read_timeout(Some(Duration::from_millis(2))).map_err(|error| error.to_string())?;
            let mut bytes = [0; 8];
            while begun.elapsed() < deadline {
                // There may be no way yet.
                let sent = socket.send_to(b"anybody?", (INNER_FAR, ECHO)).is_ok();
                match socket.recv_from(&mut bytes) {
                    Ok(_) => return Ok(Instant::now()),
                    Err(_) if !sent => std::thread::sleep(Duration::from_millis(2)),
                    Err(_) => {}
                }
            }
            Err(format!("nothing came back through it within {deadline:?}"))
        })
    }

    /// An iperf3 transfer: bits a second, as the receiver counts them, and the bytes that it got.
    pub fn transfer(&self, streams: usize, down: bool, time: Duration) -> Outcome<Transferred> {
        let mut server = self.far.command("iperf3");
        let server = server.args(["-s", "-1"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Running(server.spawn().map_err(|error| format!("iperf3: {error}"))?);
        listens(server.0.id(), IPERF)?;
        let seconds = time.as_secs().max(1).to_string();
        let mut arguments =
            vec!["-c", INNER_FAR, "-t", &seconds, "-C", crate::CONGESTION_CONTROL, "-J", "--connect-timeout", "3000"];
        let streams = streams.to_string();
        arguments.extend(["-P", &streams]);
        if down {
            arguments.push("-R");
        }
        let text = command(&self.near, time + Duration::from_secs(12), "iperf3", &arguments)?;
        let report: serde_json::Value = serde_json::from_str(&text).map_err(|error| format!("iperf3: {error}"))?;
        if let Some(error) = report["error"].as_str() {
            return Err(format!("iperf3: {error}"));
        }
        let received = &report["end"]["sum_received"];
        match (received["bits_per_second"].as_f64(), received["bytes"].as_f64()) {
            (Some(rate), Some(bytes)) if bytes > 0.0 => Ok(Transferred { rate, bytes }),
            _ => Err("iperf3 received nothing".to_owned()),
        }
    }

    /// Round-trip times in milliseconds, sorted; and how many of a hundred were lost.
    pub fn ping(&self, count: usize, interval: &str) -> Outcome<Pings> {
        let number = count.to_string();
        let arguments = ["-n", "-c", &number, "-i", interval, "-W", "2", INNER_FAR];
        let time = Duration::from_secs_f64(count as f64 * interval.parse().unwrap_or(1.0));
        // It fails when one is lost, which is no failure here.
        let text = command(&self.near, time + Duration::from_secs(8), "ping", &arguments)
            .or_else(|failure| if failure.contains("time=") { Ok(failure) } else { Err(failure) })?;
        let time = |line: &str| line.split("time=").nth(1)?.split_whitespace().next()?.parse::<f64>().ok();
        let mut times: Vec<f64> = text.lines().filter_map(time).collect();
        if times.len() < count / 2 {
            return Err(format!("of {count} pings {} were answered", times.len()));
        }
        times.sort_by(f64::total_cmp);
        Ok(Pings { lost: 100.0 * (count.saturating_sub(times.len())) as f64 / count as f64, times })
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // The echo service holds the far namespace.
        self.over.store(true, Relaxed);
    }
}

/// What an iperf3 transfer came to.
pub struct Transferred {
    /// Bits a second.
    pub rate: f64,
    pub bytes: f64,
}

/// Round-trip times.
pub struct Pings {
    /// Milliseconds, sorted.
    times: Vec<f64>,
    /// Of a hundred.
    pub lost: f64,
}

impl Pings {
    /// The time that so many of a hundred did not exceed.
    pub fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.times.len() * percent).div_ceil(100).clamp(1, self.times.len());
        self.times[rank - 1]
    }
}

/// Runs a program to its end, and kills it when it takes longer. What it printed; failing, that is in the message.
pub fn command(at: &Netns, deadline: Duration, program: &str, arguments: &[&str]) -> Outcome<String> {
    let mut command = at.command("timeout");
    let seconds = format!("{:.1}", deadline.as_secs_f64());
    command.args(["-k", "1", &seconds, program]).args(arguments);
    let output = command.stdin(Stdio::null()).env("LC_ALL", "C").output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(match output.status.code() {
        Some(124 | 137) => format!("{program} took longer than {seconds} s\n{errors}{text}"),
        _ => format!("{program}: {}\n{errors}{text}", output.status),
    })
}

/// Starts a program that runs on; what it says goes to a file.
pub fn start(mut command: Command, log: &Path) -> Outcome<Running> {
    let append = || fs::OpenOptions::new().create(true).append(true).open(log);
    let (out, err) = (append().map_err(|error| error.to_string())?, append().map_err(|error| error.to_string())?);
    let name = command.get_args().map(|argument| argument.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
    child.map(Running).map_err(|error| format!("{name}: {error}"))
}

/// Waits until something is so.
pub fn until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) -> Outcome<()> {
    let begun = Instant::now();
    while !condition() {
        if begun.elapsed() > deadline {
            return Err(format!("waited {deadline:?} in vain for {what}"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Waits until a process's namespace has somebody who listens on a TCP port.
pub fn listens(process: u32, port: u16) -> Outcome<()> {
    let port = format!(":{port:04X} ");
    until("a listener", Duration::from_secs(5), || {
        ["tcp", "tcp6"].iter().any(|table| {
            let table = fs::read_to_string(format!("/proc/{process}/net/{table}")).unwrap_or_default();
            // 0A is LISTEN.
            table.lines().any(|line| line.contains(&port) && line.split_whitespace().nth(3) == Some("0A"))
        })
    })
}

/// The processor time of a process so far, all of its threads, in user and in the kernel. Seconds.
pub fn processor_time(process: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The second field is the name in brackets, and may hold anything.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    // proc_pid_stat(5): fields 14 and 15, counted from 1; the state is the third. In ticks, of which Linux always has 100 a second.
    let ticks: f64 = fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    ticks / 100.0
}

/// The memory of a process that is resident, in MB.
pub fn memory(process: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0) * 1024.0 / 1e6
}
