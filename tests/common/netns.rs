//! Network namespaces for tests: one for a test's own thread, and several, held by child processes, for a topology.
//! Works as root and, without root, under `unshare -Urnm`. Nothing outlives the test, even when it is killed.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// Runs `story` in an empty network namespace (only `lo`, up) on a thread of its own. Programs that it starts, threads and
/// runtimes that it makes are in the same namespace. Says SKIPPED where that is not allowed.
pub fn in_netns(test: &str, story: impl FnOnce() + Send) {
    let outcome = std::thread::scope(|scope| {
        let thread = scope.spawn(|| match nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET) {
            Ok(()) => {
                ip("link set lo up");
                story();
            }
            Err(error) => super::skip(
                test,
                &format!("no network namespace of its own ({error}); run as root or under `unshare -Urnm`"),
            ),
        });
        thread.join()
    });
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// As [`in_netns`], for stories that need TUN devices.
pub fn in_netns_with_tun(test: &str, story: impl FnOnce() + Send) {
    match std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => in_netns(test, story),
        Err(error) => super::skip(test, &format!("/dev/net/tun: {error}")),
    }
}

/// A runtime whose threads are in the namespace of the calling thread; waits for `future`.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(future)
}

/// `ip ARGUMENTS` in the namespace of the calling thread; it must succeed. Returns what it printed.
#[track_caller]
pub fn ip(arguments: &str) -> String {
    must(&format!("ip {arguments}"), &try_ip(arguments))
}

/// `ip ARGUMENTS` in the namespace of the calling thread, however it ends.
pub fn try_ip(arguments: &str) -> Output {
    Command::new("ip").args(arguments.split_whitespace()).output().expect("iproute2 is installed")
}

/// A shell command in the namespace of the calling thread; it must succeed. Returns what it printed.
#[track_caller]
pub fn sh(command: &str) -> String {
    must(command, &Command::new("sh").arg("-ec").arg(command).output().unwrap())
}

#[track_caller]
fn must(what: &str, output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "`{what}`: {}\n{}{}", output.status, text(&output.stderr), text(&output.stdout));
    text(&output.stdout)
}

/// Everything that a clean-up must bring back in the namespace of the calling thread: links, addresses, rules and routes of
/// both families and all tables, sysctls, and the nft rules where nft is installed. Two equal states give equal bytes.
pub fn state_of_host() -> String {
    let mut state = String::new();
    for what in [
        "-d -j link show",
        "-d -j addr show",
        "-d -j -4 rule show",
        "-d -j -6 rule show",
        "-d -j -4 route show table all",
        "-d -j -6 route show table all",
    ] {
        writeln!(state, "ip {what}\n{}", ip(what).replace("},{", "},\n{")).unwrap();
    }
    for tree in ["/proc/sys/net/ipv4", "/proc/sys/net/ipv6"] {
        sysctls(Path::new(tree), &mut state);
    }
    if let Ok(output) = Command::new("nft").args(["list", "ruleset"]).output() {
        writeln!(state, "nft list ruleset\n{}", String::from_utf8_lossy(&output.stdout)).unwrap();
    }
    state
}

fn sysctls(directory: &Path, into: &mut String) {
    let mut entries: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for entry in entries {
        if entry.is_dir() {
            sysctls(&entry, into);
        } else if let Ok(value) = std::fs::read_to_string(&entry) {
            writeln!(into, "{} = {}", entry.display(), value.trim()).unwrap();
        }
    }
}

/// A network namespace, entered by its path under `/proc`. Made by [`Netns::new`], it lives as long as this value.
pub struct Netns {
    path: PathBuf,
    holder: Option<Child>,
}

/// A program that is killed when this is dropped.
pub struct Running(pub Child);

impl Netns {
    /// A new namespace with `lo` up, held by a child that ends when it is dropped, or when the test is killed.
    #[track_caller]
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        // The child reads from a pipe that only we hold: it gets its end of file even when we are killed.
        let mut holder = Command::new("unshare")
            .args(["-n", "sh", "-ec", "ip link set lo up; echo ready; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare is installed");
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "a network namespace (root or `unshare -Urnm` is needed)");
        Self { path: format!("/proc/{}/ns/net", holder.id()).into(), holder: Some(holder) }
    }

    /// The namespace of the calling thread, while that thread lives.
    pub fn here() -> Self {
        let thread = nix::unistd::gettid();
        Self { path: format!("/proc/{}/task/{thread}/ns/net", std::process::id()).into(), holder: None }
    }

    /// Its path, for `setns` and `nsenter --net=`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A program in this namespace, not started yet.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path.display())).arg("--").arg(program);
        command
    }

    /// A shell command in this namespace, however it ends.
    pub fn output(&self, command: &str) -> Output {
        self.command("sh").arg("-ec").arg(command).output().unwrap()
    }

    /// A shell command in this namespace; it must succeed. Returns what it printed.
    #[track_caller]
    pub fn exec(&self, command: &str) -> String {
        must(command, &self.output(command))
    }

    /// Starts a shell command in this namespace.
    pub fn spawn(&self, command: &str) -> Running {
        Running(self.command("sh").arg("-ec").arg(format!("exec {command}")).stdin(Stdio::null()).spawn().unwrap())
    }

    /// Runs `story` on a thread of its own in this namespace.
    pub fn run<T: Send>(&self, story: impl FnOnce() -> T + Send) -> T {
        let namespace = std::fs::File::open(&self.path).unwrap();
        let outcome = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                story()
            });
            thread.join()
        });
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Some(mut holder) = self.holder.take() {
            let _ = holder.kill();
            let _ = holder.wait();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A cable: `a_name` in `a` and `b_name` in `b`, both up. Addresses are the caller's business; with IPv6 duplicate address
/// detection off, so that an address can be used at once.
#[track_caller]
pub fn veth(a: &Netns, a_name: &str, b: &Netns, b_name: &str) {
    a.exec(&format!("ip link add {a_name} type veth peer name {b_name} netns {}", b.path.display()));
    for (namespace, name) in [(a, a_name), (b, b_name)] {
        namespace.exec(&format!(
            "echo 0 > /proc/sys/net/ipv6/conf/{name}/accept_dad; ip link set {name} addrgenmode none up"
        ));
    }
}
