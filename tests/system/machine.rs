//! A machine with a real systemd: Debian in a container, its disk in memory, plugged into a network namespace anew at each
//! boot. Nothing of it is left when it is dropped, nor when the test is killed.

use crate::common::bus::has;
use crate::common::netns::Netns;
use crate::common::{skip, wait_for};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

/// What the tests keep from run to run.
pub fn cache() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

pub fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Why no machine can boot here.
pub fn missing() -> Option<String> {
    if !nix::unistd::getuid().is_root() {
        return Some("needs root".to_owned());
    }
    if !Path::new("/dev/net/tun").exists() {
        return Some("there is no /dev/net/tun".to_owned());
    }
    let program = ["systemd-nspawn", "mmdebstrap", "nsenter", "pgrep"].into_iter().find(|program| !has(program))?;
    Some(format!("{program} is missing"))
}

/// Where the Debian root of all machines is, `root`, and a kernel, `kernel`; made when there is none for the script as it is now.
pub fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let script = source("tests/system/root");
        let sum = Command::new("sha256sum").arg(&script).output().unwrap();
        let root = cache().join(format!("system-root-{}", &String::from_utf8(sum.stdout).unwrap()[..16]));
        if !root.exists() {
            // Only a whole one has its name.
            let unfinished = tempfile::Builder::new().prefix("unfinished-root-").tempdir_in(cache()).unwrap();
            let log = unfinished.path().join("log");
            let made = Command::new(script)
                .arg(unfinished.path().join("whole"))
                .stdin(Stdio::null())
                .stdout(std::fs::File::create(&log).unwrap())
                .stderr(std::fs::OpenOptions::new().append(true).open(&log).unwrap())
                .status();
            assert!(made.unwrap().success(), "no Debian root:\n{}", std::fs::read_to_string(&log).unwrap());
            for old in std::fs::read_dir(cache()).unwrap().map(|entry| entry.unwrap()) {
                if old.file_name().to_string_lossy().starts_with("system-root-") {
                    std::fs::remove_dir_all(old.path()).unwrap();
                }
            }
            std::fs::rename(unfinished.path().join("whole"), &root).unwrap();
        }
        root
    })
}

/// The packages that the machines find in `/opt/packages`.
fn shared() -> PathBuf {
    let directory = cache().join("packages");
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

/// Makes our packages of this version, of the development build; `None`: of the version that they have.
/// Returns the version.
pub fn packages(version: Option<&'static str>) -> String {
    static MADE: Mutex<BTreeSet<Option<&str>>> = Mutex::new(BTreeSet::new());
    // A test that failed here fails all others.
    let mut made = MADE.lock().unwrap();
    if made.insert(version) {
        let mut build = Command::new(source("packaging/build"));
        build.arg("--output").arg(shared()).env("ENFTUN_PROFILE", "dev").stdin(Stdio::null());
        if let Some(version) = version {
            build.args(["--version", version]);
        }
        let output = build.output().unwrap();
        assert!(output.status.success(), "packaging/build: {}{}", text(&output.stdout), text(&output.stderr));
    }
    version.unwrap_or(env!("CARGO_PKG_VERSION")).to_owned()
}

/// One machine. It is off until it boots.
pub struct Machine {
    keeper: Child,
    orders: Option<ChildStdin>,
    tidings: BufReader<ChildStdout>,
    /// Its first process, as the host sees it, and its cable's end.
    on: Option<(u32, Netns)>,
}

impl Machine {
    /// A new one; none, said loudly, where that cannot be.
    pub fn new(test: &str) -> Option<Self> {
        if let Some(reason) = missing() {
            skip(test, &reason);
            return None;
        }
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("enftun-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let console = cache().join(format!("console-of-{test}"));
        let mut keeper = Command::new(source("tests/system/machine"))
            .arg(name)
            .arg(root().join("root"))
            .arg(shared())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(console).unwrap())
            .spawn()
            .unwrap();
        let (orders, tidings) = (keeper.stdin.take(), BufReader::new(keeper.stdout.take().unwrap()));
        Some(Self { keeper, orders, tidings, on: None })
    }

    /// Boots, and waits for the bus. Its network is `network` and what is plugged into that by now.
    #[track_caller]
    pub fn boot(&mut self, network: Netns) {
        assert!(self.on.is_none(), "it runs already");
        writeln!(self.orders.as_mut().unwrap(), "{}", network.path().display()).unwrap();
        let line = self.hear();
        let leader = line.strip_prefix("up ").and_then(|pid| pid.parse().ok());
        self.on = Some((leader.unwrap_or_else(|| panic!("it does not boot: {line:?}; see console-of-*")), network));
        wait_for("the system bus of the machine", || self.sh("busctl --system status").status.success());
    }

    /// As [`Self::boot`], and waits until all that is started at boot is there.
    #[track_caller]
    pub fn boot_wholly(&mut self, network: Netns) {
        self.boot(network);
        self.is_up();
    }

    /// Waits until all that is started at boot is there; nothing of it has failed.
    #[track_caller]
    pub fn is_up(&self) {
        let state = self.sh("systemctl is-system-running --wait");
        assert!(state.status.success(), "{state:?}\n{}", self.must("systemctl --failed --no-legend"));
    }

    /// Switches it off as a person would, and waits. What is on its disk stays.
    #[track_caller]
    pub fn power_off(&mut self) {
        // The connection to the bus may end before the answer.
        let _ = self.sh("systemctl poweroff");
        self.is_off();
    }

    /// Pulls the plug: nothing is asked to stop.
    pub fn pull_the_plug(&mut self) {
        let (leader, _) = self.on.as_ref().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(leader.cast_signed()), nix::sys::signal::SIGKILL).unwrap();
        self.is_off();
    }

    fn is_off(&mut self) {
        assert_eq!(self.hear(), "off");
        self.on = None;
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.tidings.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// The network namespace that it is in.
    pub fn network(&self) -> &Netns {
        &self.on.as_ref().expect("it is switched off").1
    }

    /// A program in the machine, as root, not started yet. It belongs to no unit and no session.
    pub fn command(&self, program: &str) -> Command {
        let (leader, _) = self.on.as_ref().expect("it is switched off");
        let mut command = Command::new("nsenter");
        command.args(["--all", "--target", &leader.to_string(), "--wdns=/", "--", program]);
        command.env_clear().envs([
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("HOME", "/root"),
            ("LANG", "C.UTF-8"),
            ("DEBIAN_FRONTEND", "noninteractive"),
        ]);
        command.stdin(Stdio::null());
        command
    }

    /// A shell command in the machine, as root, however it ends.
    pub fn sh(&self, command: &str) -> Output {
        self.command("sh").arg("-ec").arg(command).output().unwrap()
    }

    /// As [`Self::sh`], as another user; without a session, as a service of that user would be.
    pub fn sh_as(&self, user: &str, command: &str) -> Output {
        self.command("runuser").args(["-u", user, "--", "sh", "-ec", command]).output().unwrap()
    }

    /// A shell command that must succeed. Returns what it printed.
    #[track_caller]
    pub fn must(&self, command: &str) -> String {
        succeeded(command, self.sh(command))
    }

    /// As [`Self::must`], as another user.
    #[track_caller]
    pub fn must_as(&self, user: &str, command: &str) -> String {
        succeeded(command, self.sh_as(user, command))
    }

    /// A shell command that must fail. Returns what it printed, errors first.
    #[track_caller]
    pub fn must_not(&self, command: &str) -> String {
        let output = self.sh(command);
        assert!(!output.status.success(), "`{command}` succeeded: {output:?}");
        text(&output.stderr) + &text(&output.stdout)
    }

    /// Waits until a shell command succeeds.
    #[track_caller]
    pub fn wait_until(&self, command: &str) {
        wait_for(command, || self.sh(command).status.success());
    }

    /// Installs or upgrades these of our packages.
    #[track_caller]
    pub fn install(&self, version: Option<&'static str>, packages: &[&str]) {
        let version = self::packages(version);
        let files: Vec<String> =
            packages.iter().map(|package| format!("/opt/packages/{package}_{version}_amd64.deb")).collect();
        self.must(&format!("dpkg --install {}", files.join(" ")));
    }

    /// Has its shells see in /proc what its services see, as on a host: one id of this boot, and sysctls of the network that can
    /// be written. nspawn mounts an id of its own over the kernel's, and makes /proc/sys read-only; services of ours have
    /// another /proc. `journalctl --boot` finds nothing from then on.
    #[track_caller]
    pub fn unveil_proc(&self) {
        self.must(
            "umount /proc/sys/kernel/random/boot_id
             mount -t proc proc /mnt; mount --bind /mnt/sys/net /proc/sys/net; umount /mnt",
        );
    }

    /// Writes a file on its disk; directories on the way are made.
    #[track_caller]
    pub fn write(&self, path: &str, content: &str) {
        let mut shell = self.command("sh");
        shell.args(["-ec", "mkdir -p \"$(dirname \"$1\")\"; cat >\"$1\"", "sh", path]);
        let mut shell = shell.stdin(Stdio::piped()).spawn().unwrap();
        shell.stdin.take().unwrap().write_all(content.as_bytes()).unwrap();
        assert!(shell.wait().unwrap().success(), "{path}");
    }

    /// What of ours may be in its kernel: rules, routes, links, addresses, rulesets; line by line, in no order.
    pub fn network_state(&self) -> BTreeSet<String> {
        let state = self.must(
            "for family in 4 6; do
                ip -$family rule | sed \"s/^/-$family rule /\"; ip -$family route show table all | sed \"s/^/-$family route /\"
             done
             ip -brief link; ip -brief address; nft list ruleset; grep . /proc/sys/net/ipv4/conf/all/src_valid_mark",
        );
        state.lines().map(str::to_owned).collect()
    }

    /// What a unit has said since this boot.
    pub fn journal(&self, unit: &str) -> String {
        self.must(&format!("journalctl --boot --no-pager --output=short-precise --unit={unit}"))
    }
}

#[track_caller]
fn succeeded(command: &str, output: Output) -> String {
    assert!(
        output.status.success(),
        "`{command}`: {}\n{}{}",
        output.status,
        text(&output.stderr),
        text(&output.stdout)
    );
    text(&output.stdout)
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.orders = None;
        let keeper = nix::unistd::Pid::from_raw(self.keeper.id().cast_signed());
        let _ = nix::sys::signal::kill(keeper, nix::sys::signal::SIGTERM);
        let _ = self.keeper.wait();
    }
}
