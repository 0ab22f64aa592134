//! `enftun-localproxy` as a process of its own, and applications at its two ends.

use crate::common::aws_service::{Mode, Service, Tunnel};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A client token, so that an access token can be used again.
pub const CLIENT: &str = "0f3ad9a4-0000-4000-8000-00000000c0de";
/// Only ends a test that would hang.
const LIMIT: Duration = Duration::from_secs(60);

/// The command in an environment of its own.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_enftun-localproxy"));
    command.env_clear().stdin(Stdio::null());
    command
}

/// Runs it to its end.
pub fn output(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let environment = environment.iter().copied();
    command().args(arguments).envs(environment).current_dir(directory.path()).output().unwrap()
}

/// The command for an end of a tunnel: with its tokens, and whom it is to trust.
pub fn of(service: &Service, tunnel: &Tunnel, mode: Mode, arguments: &[&str]) -> Command {
    let mut command = command();
    command.env("AWSIOT_TUNNEL_ACCESS_TOKEN", tunnel.token(mode)).env("AWSIOT_TUNNEL_CLIENT_TOKEN", CLIENT);
    command.args(["-e", &service.endpoint(), "-c"]).arg(service.ca_directory()).args(arguments);
    command
}

/// A running one. Dropping it kills it.
pub struct Localproxy {
    child: Child,
    said: Arc<(Mutex<String>, Condvar)>,
    reader: Option<JoinHandle<()>>,
}

impl Localproxy {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let said = Arc::<(Mutex<String>, Condvar)>::default();
        let (from, to) = (child.stderr.take().unwrap(), said.clone());
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                to.0.lock().unwrap().push_str(&(line + "\n"));
                to.1.notify_all();
            }
            to.1.notify_all();
        });
        Self { child, said, reader: Some(reader) }
    }

    /// A source with these arguments.
    pub fn source(service: &Service, tunnel: &Tunnel, arguments: &[&str]) -> Self {
        Self::start(&mut of(service, tunnel, Mode::Source, arguments))
    }

    /// A destination with these arguments.
    pub fn destination(service: &Service, tunnel: &Tunnel, arguments: &[&str]) -> Self {
        Self::start(&mut of(service, tunnel, Mode::Destination, arguments))
    }

    /// What it has said on stderr.
    pub fn said(&self) -> String {
        self.said.0.lock().unwrap().clone()
    }

    /// Waits for the first line with all of these in it.
    #[track_caller]
    pub fn wait_for_line(&self, parts: &[&str]) -> String {
        let deadline = Instant::now() + LIMIT;
        let mut said = self.said.0.lock().unwrap();
        loop {
            if let Some(line) = said.lines().find(|line| parts.iter().all(|part| line.contains(part))) {
                return line.to_owned();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let ended = self.reader.as_ref().is_some_and(JoinHandle::is_finished);
            assert!(!left.is_zero() && !ended, "no line with {parts:?} (ended: {ended}):\n{said}");
            said = self.said.1.wait_timeout(said, left.min(Duration::from_millis(100))).unwrap().0;
        }
    }

    /// Where it listens for a service, once it does: from the log.
    #[track_caller]
    pub fn port(&self, service: &str) -> u16 {
        let line = self.wait_for_line(&[&format!("listening for the service {service:?} at ")]);
        let (_, address) = line.split_once(" at ").unwrap();
        address.split_whitespace().next().unwrap().rsplit_once(':').unwrap().1.parse().unwrap()
    }

    /// Its resident memory in kB: now, and at most so far.
    pub fn memory(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let of = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        (of("VmRSS:"), of("VmHWM:"))
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Waits for its end: the code, and everything that it said. `None`: a signal.
    #[track_caller]
    pub fn wait(&mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "it runs on:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(5));
        };
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        (status.code(), self.said())
    }
}

impl Drop for Localproxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("process {} said:\n{}", self.child.id(), self.said());
        }
    }
}

/// An application that answers with what it is sent; its port. It lives as long as the process.
pub fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || serve(listener.incoming()));
    port
}

/// The same for connections of any kind.
pub fn serve<S: Read + Write + Send + 'static>(connections: impl Iterator<Item = std::io::Result<S>>) {
    for connection in connections {
        let Ok(mut connection) = connection else { continue };
        std::thread::spawn(move || {
            let mut bytes = vec![0; 1 << 16];
            while let Ok(length @ 1..) = connection.read(&mut bytes) {
                if connection.write_all(&bytes[..length]).is_err() {
                    break;
                }
            }
        });
    }
}

/// A connection to the port, through which `text` comes back.
#[track_caller]
pub fn echoes(port: u16, text: &str) -> TcpStream {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).unwrap();
    connection.set_read_timeout(Some(LIMIT)).unwrap();
    connection.write_all(text.as_bytes()).unwrap();
    let mut back = vec![0; text.len()];
    connection.read_exact(&mut back).unwrap();
    assert_eq!(String::from_utf8(back).unwrap(), text);
    connection
}

/// Sends all of it, says that it was all, and gives what came back until the end.
#[track_caller]
pub fn exchange(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).unwrap();
    connection.set_read_timeout(Some(LIMIT)).unwrap();
    let (mut to, bytes) = (connection.try_clone().unwrap(), bytes.to_vec());
    let writer = std::thread::spawn(move || {
        to.write_all(&bytes).unwrap();
        to.shutdown(Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    connection.read_to_end(&mut back).unwrap();
    writer.join().unwrap();
    back
}
