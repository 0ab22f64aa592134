//! `enftun-router` itself: command line, configuration file, signals, service manager.

use super::bed::{A, B, C, Client, Fleet, LISTEN, PATIENCE, ping};
use crate::common::netns::{Running, block_on, in_netns};
use crate::common::openmetrics::Samples;
use crate::common::wire::is_v1;
use crate::common::{schema, skip, wait_for};
use enftun::router::status::Status;
use enftun::tunnel::enf::wire::WireError;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Read;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Output, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_enftun-router");

pub struct Program {
    pub fleet: Fleet,
    pub config: PathBuf,
}

impl Program {
    /// `listen` is the value in the configuration file.
    pub fn new(listen: &str) -> Self {
        let fleet = Fleet::new();
        let config = fleet.dir.path().join("router.toml");
        let text = format!(
            "listen = {listen}\nclient_ca_file = \"ca.pem\"\nendpoints_dir = \"endpoints\"\ncontrol_socket = \"control.sock\"\nmax_sessions = 10000\n"
        );
        std::fs::write(&config, text).unwrap();
        Self { fleet, config }
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("--config").arg(&self.config);
        command
    }

    pub fn start(&self) -> Running {
        let running = Running(self.command().stdin(Stdio::null()).spawn().unwrap());
        self.wait_until_it_answers();
        running
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().unwrap()
    }

    pub fn wait_until_it_answers(&self) {
        wait_for("the router answers", || self.run(&["status"]).status.success());
    }

    pub fn status(&self) -> Status {
        let output = self.run(&["status", "--json"]);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

pub fn signal(program: &Running, signal: Signal) {
    kill(Pid::from_raw(program.0.id().try_into().unwrap()), signal).unwrap();
}

pub fn wait_for_the_end(mut program: Running) -> ExitStatus {
    let mut status = None;
    wait_for("the router ends", || {
        status = program.0.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

#[test]
fn status_shows_the_sessions_to_people_and_programs() {
    in_netns("status", || {
        let program = Program::new(&format!("[{LISTEN:?}]"));
        let nobody = program.run(&["status"]);
        assert_eq!(nobody.status.code(), Some(3), "no router answers: {nobody:?}");
        let _running = program.start();
        block_on(async {
            let _client = program.fleet.client(A).await;
            let status = program.status();
            assert_eq!(status.listeners, [LISTEN.parse().unwrap()]);
            assert_eq!((status.sessions.len(), status.sessions[0].address), (1, A.parse().unwrap()));
            let text = String::from_utf8(program.run(&["status"]).stdout).unwrap();
            let line = text.lines().find(|line| line.contains(A)).unwrap_or_else(|| panic!("{text}"));
            assert!(line.contains("present") && line.contains("TLSv1.3") && line.contains("[::1]:"), "{text}");
            if let Some(reason) = schema::no_validator() {
                return skip("status_shows_the_sessions_to_people_and_programs", reason);
            }
            let printed = String::from_utf8(program.run(&["status", "--json"]).stdout).unwrap();
            schema::hold(schema::ROUTER, "status", &schema::documents(&printed));
        });
    });
}

#[test]
fn metrics_tell_collectors_what_the_status_tells() {
    const TEST: &str = "metrics_tell_collectors_what_the_status_tells";
    in_netns(TEST, || {
        let program = Program::new(&format!("[{LISTEN:?}]"));
        let file = program.fleet.dir.path().join("enftun-router.prom");
        let write = || program.run(&["metrics", "--output", file.to_str().unwrap()]);
        let samples = || Samples::read(TEST, &std::fs::read_to_string(&file).unwrap());
        {
            let _running = program.start();
            block_on(async {
                let (mut a, mut b) = (program.fleet.client(A).await, program.fleet.client(B).await);
                ping(&mut a, &mut b).await;
                // Nobody has this address, and there is no uplink.
                let astray = a.request(C);
                a.send(&astray).await;
                a.ask_router().await;
                assert!(write().status.success());
                let Some(samples) = samples() else { return };
                let status = program.status();
                let wire = if is_v1() { "v1" } else { "v2" };
                for (name, kind, unit, value) in [
                    ("enftun_router_up{}", "gauge", "", 1),
                    ("enftun_router_sessions{phase=present}", "gauge", "", 2),
                    ("enftun_router_sessions{phase=held}", "gauge", "", 0),
                    (&format!("enftun_router_sessions_by_wire{{wire={wire}}}"), "gauge", "", 2),
                    ("enftun_router_receive_bytes_total{side=clients}", "counter", "bytes", status.totals.sum.rx_bytes),
                    ("enftun_router_receive_packets_total{side=clients}", "counter", "", 5),
                    (
                        "enftun_router_transmit_bytes_total{side=clients}",
                        "counter",
                        "bytes",
                        status.totals.sum.tx_bytes,
                    ),
                    ("enftun_router_transmit_packets_total{side=clients}", "counter", "", 5),
                    ("enftun_router_drops_total{reason=no-route,side=clients}", "counter", "", 1),
                    ("enftun_router_handshakes_failed_total{}", "counter", "", 0),
                    ("enftun_router_connections_refused_total{}", "counter", "", 0),
                    ("enftun_router_queued_packets{}", "gauge", "", 0),
                    ("enftun_router_duplicate_certificates{}", "gauge", "", 0),
                ] {
                    assert_eq!(samples.get(name), (kind, unit, value as f64), "{name}");
                }
                let end = samples.value("enftun_router_certificate_not_after_timestamp_seconds{}");
                assert_eq!(end, status.certificate_not_after as f64);
                let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
                let left = samples.value("enftun_router_certificate_left_seconds{}");
                assert!((end - now - left).abs() < 60.0, "{left}");
                assert!(samples.value("enftun_router_uptime_seconds{}") <= status.uptime as f64);
                samples.are_documented("enftun_router_", "enftun_router_enrol_");
                let of = |what: &str| samples.names().iter().filter(|name| name.contains(what)).count();
                assert_eq!((of("side=uplink"), of("fd00:")), (0, 0), "no uplink here, and no series per client");
            });
        }
        let output = write();
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert!(String::from_utf8(output.stderr).unwrap().starts_with("enftun-router: no router answers on"));
        if let Some(samples) = samples() {
            assert_eq!((samples.names(), samples.value("enftun_router_up{}")), (vec!["enftun_router_up{}"], 0.0));
        }
    });
}

#[test]
fn sigterm_ends_it_gracefully_and_sighup_reads_the_certificate_again() {
    in_netns("signals", || {
        let program = Program::new(&format!("[{LISTEN:?}]"));
        let running = program.start();
        block_on(async {
            let mut client: Client = program.fleet.client(A).await;
            let before = program.status().certificate_not_after;
            let renewed =
                crate::common::certs::Leaf::new("router.example").valid(("20200101000000Z", "20991231235959Z"));
            program.fleet.ca.sign_v1(renewed).write(program.fleet.dir.path(), "router");
            signal(&running, Signal::SIGHUP);
            wait_for("the new certificate", || program.status().certificate_not_after != before);
            client.ask_router().await;
            signal(&running, Signal::SIGTERM);
            assert!(matches!(client.next_or_end().await, Err(WireError::Closed)));
            drop(client);
            assert_eq!(wait_for_the_end(running).code(), Some(0));
            assert!(!program.fleet.dir.path().join("control.sock").exists());
        });
    });
}

#[test]
fn sockets_of_the_service_manager_are_used_and_it_is_told_when_the_router_is_ready() {
    in_netns("socket_activation", || {
        // The same address as in the configuration: the passed socket serves it.
        let program = Program::new(&format!("[{LISTEN:?}]"));
        let listener = TcpListener::bind(LISTEN).unwrap();
        let manager = UnixDatagram::bind(program.fleet.dir.path().join("notify")).unwrap();
        manager.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut command = Command::new("sh");
        command
            .args(["-ec", "exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"", "sh", PROGRAM, "--config"])
            .arg(&program.config)
            .env("NOTIFY_SOCKET", program.fleet.dir.path().join("notify"))
            .stdin(Stdio::from(OwnedFd::from(listener)));
        let running = Running(command.spawn().unwrap());
        let told = || {
            let mut message = [0; 64];
            let length = manager.recv(&mut message).unwrap();
            String::from_utf8(message[..length].to_vec()).unwrap()
        };
        assert_eq!(told().trim_end(), "READY=1");
        block_on(async { drop(program.fleet.client(A).await) });
        signal(&running, Signal::SIGTERM);
        assert_eq!(told().trim_end(), "STOPPING=1");
        assert_eq!(wait_for_the_end(running).code(), Some(0));
    });
}

#[test]
fn what_keeps_it_from_starting_is_said_in_one_line() {
    in_netns("start_errors", || {
        let program = Program::new(&format!("[{LISTEN:?}]"));
        let _taken = TcpListener::bind(LISTEN).unwrap();
        let output = program.run(&["serve"]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("[::1]:4433") && text.contains("another program listens there"), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");

        std::fs::write(&program.config, "listn = []").unwrap();
        let output = program.run(&["serve"]);
        assert_eq!(output.status.code(), Some(78));
        assert!(String::from_utf8(output.stderr).unwrap().contains("listn"));
    });
}

#[test]
fn running_out_of_descriptors_is_survived() {
    in_netns("descriptors", || {
        let program = Program::new(&format!("[{LISTEN:?}]"));
        let mut command = Command::new("sh");
        command.args(["-ec", "ulimit -n 24; exec \"$@\"", "sh", PROGRAM, "--config"]).arg(&program.config);
        let mut running = Running(command.stderr(Stdio::piped()).spawn().unwrap());
        program.wait_until_it_answers();
        let connections: Vec<_> = (0..40).map(|_| std::net::TcpStream::connect(LISTEN).unwrap()).collect();
        let mut log = running.0.stderr.take().unwrap();
        let (mut text, mut piece) = (String::new(), [0; 1024]);
        while !text.contains("cannot accept a connection") {
            let length = log.read(&mut piece).unwrap();
            assert!(length > 0, "{text}");
            text.push_str(&String::from_utf8_lossy(&piece[..length]));
        }
        // Nobody needs to read on: the line is rate-limited.
        drop(connections);
        block_on(async { program.fleet.client(A).await.ask_router().await });
    });
}
