//! A tunnel under test in the foreground: `enftunctl run FILE --json` in the namespace of the calling thread, its files in a
//! directory of its own, its changes of state as they come.

use super::certs::{Ca, Identity};
use super::wire;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// No state takes longer than this; it only ends a test that would hang.
const DEADLINE: Duration = Duration::from_secs(30);

/// The files of one tunnel.
pub struct Tunnel {
    pub directory: Arc<tempfile::TempDir>,
    /// Lines for `[remote]`.
    pub remote: String,
    /// Lines for `[route]`.
    pub route: String,
    /// Lines for `[tun]`.
    pub tun: String,
    /// Lines for `[retry]`.
    pub retry: String,
}

impl Tunnel {
    /// A tunnel to `[::1]:port` or any `host:port`, with these credentials and this CA file. Short deadlines and delays.
    pub fn new(host: &str, ca: &Ca, client: &Identity) -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        ca.write(directory.path(), "ca");
        client.write(directory.path(), "client");
        Self {
            directory,
            remote: format!(
                "hosts = [\"{host}\"]\nca_cert_file = \"ca.pem\"\nheartbeat_period = \"1s\"\nheartbeat_timeout = \"2s\"\nconnect_timeout = \"2s\"\n"
            ),
            route: "prefixes = [\"fd00:8f80::/32\"]\nlockdown = \"session\"\n".to_owned(),
            tun: String::new(),
            retry: "first = \"100ms\"\nmax = \"1s\"\n".to_owned(),
        }
    }

    /// Adds a line to `[remote]`.
    pub fn remote(mut self, line: &str) -> Self {
        self.remote += &format!("{line}\n");
        self
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn write(&self) -> PathBuf {
        let file = self.path().join("enf0.toml");
        // What a test says of the wire holds.
        let wire = if self.remote.contains("\nwire = ") { "" } else { wire::remote_line() };
        let text = format!(
            "kind = \"enf\"\n[tun]\n{}\n[remote]\n{}{wire}\n[route]\n{}\n[identity]\ncert_file = \"client.crt.pem\"\nkey_file = \"client.key.pem\"\n[retry]\n{}\n",
            self.tun, self.remote, self.route, self.retry
        );
        std::fs::write(&file, text).unwrap();
        file
    }

    /// Runs it in the foreground until the result is dropped.
    pub fn run(&self) -> Foreground {
        let mut command = Command::new(env!("CARGO_BIN_EXE_enftunctl"));
        self.start(self.run_command(&mut command))
    }

    /// Starts a program that runs it; its files stay as long as the result.
    pub fn start(&self, command: &mut Command) -> Foreground {
        Foreground::start(command, self.directory.clone())
    }

    /// The arguments of `enftunctl run`, for tests that wrap the program in another.
    pub fn run_command<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.arg("run").arg(self.write()).args(["--json", "--config-dir"]).arg(self.path());
        command.arg("--runtime-dir").arg(self.path().join("run"))
    }
}

/// One change of state as `--json` tells it.
#[derive(Clone, Debug)]
pub struct Change {
    pub state: String,
    pub old: String,
    pub reason: String,
    pub error: String,
    pub line: serde_json::Value,
}

/// A running `enftunctl run`.
pub struct Foreground {
    pub child: Child,
    changes: Receiver<Change>,
    /// All changes seen so far.
    pub seen: Vec<Change>,
    _files: Arc<tempfile::TempDir>,
}

impl Foreground {
    fn start(command: &mut Command, files: Arc<tempfile::TempDir>) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, changes) = channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let line: serde_json::Value =
                    serde_json::from_str(&line).unwrap_or_else(|_| panic!("not JSON: {line}"));
                let word = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
                let change = Change {
                    state: word("new"),
                    old: word("old"),
                    reason: word("reason"),
                    error: word("error"),
                    line: line.clone(),
                };
                if sender.send(change).is_err() {
                    return;
                }
            }
        });
        Self { child, changes, seen: Vec::new(), _files: files }
    }

    /// Waits for a change to `state`, and returns it.
    #[track_caller]
    pub fn until(&mut self, state: &str) -> Change {
        self.until_that(state, |change| change.state == state)
    }

    /// Waits for a change that fits.
    #[track_caller]
    pub fn until_that(&mut self, what: &str, fits: impl Fn(&Change) -> bool) -> Change {
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.changes.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(change) => {
                    self.seen.push(change.clone());
                    if fits(&change) {
                        return change;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("waited in vain for {what}; saw {:#?}", self.seen),
                Err(RecvTimeoutError::Disconnected) => {
                    let mut errors = String::new();
                    let _ = self.child.stderr.take().unwrap().read_to_string(&mut errors);
                    panic!("the program ended before {what}: {errors}; saw {:#?}", self.seen)
                }
            }
        }
    }

    /// Ctrl-C, and waits for the end; the exit code.
    pub fn interrupt(mut self) -> Option<i32> {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.child.id() as i32), nix::sys::signal::Signal::SIGINT)
            .unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
