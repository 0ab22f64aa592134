//! A private bus that is as strict as the system bus: our own policy file on top of "nothing is allowed".

use super::wait_for;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// Everything but the project's own file: what Debian's and Fedora's system.conf say, as far as it matters here.
const CONFIG: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=@DIR@/socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Introspectable"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Properties"/>
    <deny send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus" send_member="UpdateActivationEnvironment"/>
  </policy>
  <policy user="@UID@">
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Monitoring"/>
  </policy>
  <includedir>@DIR@/system.d</includedir>
  <servicedir>@DIR@/services</servicedir>
</busconfig>
"#;

/// A running bus; it ends with this value.
pub struct PrivateBus {
    directory: tempfile::TempDir,
    daemon: Child,
}

/// Whether a program is in PATH.
pub fn has(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// The user this test runs as.
pub fn own_uid() -> u32 {
    nix::unistd::getuid().as_raw()
}

/// The user that stands for the `enftun` that the package creates: somebody else than root wherever that can be.
pub fn daemon_user() -> u32 {
    if no_other_uid().is_none() { 65534 } else { own_uid() }
}

/// Why no process of another user can be started here, if so.
pub fn no_other_uid() -> Option<&'static str> {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let covers = |line: &str| {
        let mut fields = line.split_whitespace().filter_map(|field| field.parse::<u64>().ok());
        let (Some(first), _, Some(count)) = (fields.next(), fields.next(), fields.next()) else { return false };
        first <= 65534 && 65534 < first + count
    };
    if own_uid() != 0 {
        Some("needs root")
    } else if !map.lines().any(covers) {
        Some("uid 65534 is not mapped in this user namespace")
    } else if !has("setpriv") {
        Some("setpriv (util-linux) is missing")
    } else {
        None
    }
}

impl PrivateBus {
    /// A bus with the project's policy; none, said loudly, where dbus-daemon or busctl is missing.
    pub fn start(test: &str) -> Option<Self> {
        let policy =
            fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("dbus/org.enftun.Enftun1.conf")).unwrap();
        let policy = policy.replace("user=\"enftun\"", &format!("user=\"{}\"", daemon_user()));
        Self::start_with(test, Some(&policy))
    }

    /// A bus that knows nothing of enftun.
    pub fn start_without_policy(test: &str) -> Option<Self> {
        Self::start_with(test, None)
    }

    fn start_with(test: &str, policy: Option<&str>) -> Option<Self> {
        for program in ["dbus-daemon", "dbus-send", "busctl", "setpriv"] {
            if !has(program) {
                super::skip(test, &format!("{program} is missing"));
                return None;
            }
        }
        let directory = tempfile::Builder::new().prefix("enftun-bus-").tempdir().unwrap();
        let dir = directory.path();
        // Clients of other users must be able to reach the socket.
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(dir.join("system.d")).unwrap();
        fs::create_dir(dir.join("services")).unwrap();
        if let Some(policy) = policy {
            fs::write(dir.join("system.d/org.enftun.Enftun1.conf"), policy).unwrap();
        }
        let config = CONFIG.replace("@DIR@", dir.to_str().unwrap()).replace("@UID@", &own_uid().to_string());
        fs::write(dir.join("bus.conf"), config).unwrap();
        let daemon = Self::spawn(dir);
        Some(Self { directory, daemon })
    }

    fn spawn(dir: &Path) -> Child {
        // setpriv: the bus must not outlive a test that is killed.
        let daemon = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "dbus-daemon", "--nofork", "--nopidfile", "--config-file"])
            .arg(dir.join("bus.conf"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for("the bus to listen", || std::os::unix::net::UnixStream::connect(dir.join("socket")).is_ok());
        daemon
    }

    /// From now on the bus starts this command when somebody calls the daemon while it is not there.
    pub fn activates(&self, command: &str) {
        let user = nix::unistd::User::from_uid(nix::unistd::getuid()).unwrap().unwrap().name;
        let name = enftun::dbus::NAME;
        let text = format!("[D-BUS Service]\nName={name}\nExec={command}\nUser={user}\n");
        fs::write(self.directory.path().join("services").join(format!("{name}.service")), text).unwrap();
        self.reload();
    }

    /// Adds another program's policy, as its package would.
    pub fn add_policy(&self, name: &str, policy: &str) {
        fs::write(self.directory.path().join("system.d").join(name), policy).unwrap();
        self.reload();
    }

    fn reload(&self) {
        let bus = "org.freedesktop.DBus";
        stdout(self.busctl(&["call", bus, "/org/freedesktop/DBus", bus, "ReloadConfig"]));
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    /// For `DBUS_SYSTEM_BUS_ADDRESS`.
    pub fn address(&self) -> String {
        format!("unix:path={}", self.socket().display())
    }

    /// Ends the bus under its clients.
    pub fn kill(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }

    /// Starts it again, where it was, after [`Self::kill`].
    pub fn restart(&mut self) {
        let _ = fs::remove_file(self.socket());
        self.daemon = Self::spawn(self.directory.path());
    }

    /// A command that takes this bus for the system bus.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("DBUS_SYSTEM_BUS_ADDRESS", self.address()).env("LC_ALL", "C").stdin(Stdio::null());
        command
    }

    /// The same, run by uid 65534. Ask [`no_other_uid`] first.
    pub fn command_as_nobody(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.command("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(program);
        command
    }

    /// Runs `busctl --system ARGS`.
    pub fn busctl(&self, args: &[&str]) -> Output {
        self.command("busctl").arg("--system").args(args).output().unwrap()
    }

    /// Runs `busctl --system ARGS` as uid 65534.
    pub fn busctl_as_nobody(&self, args: &[&str]) -> Output {
        self.command_as_nobody("busctl").arg("--system").args(args).output().unwrap()
    }

    /// Waits until a tunnel's property reads so: what the daemon publishes is on the bus a moment later.
    #[track_caller]
    pub fn shows(&self, tunnel: &str, property: &str, value: &str) {
        let path = enftun::dbus::path::of_tunnel(tunnel);
        let interface = "org.enftun.Enftun1.Tunnel";
        wait_for(&format!("{property} of {tunnel} to be {value}"), || {
            let output = self.busctl(&["get-property", enftun::dbus::NAME, &path, interface, property]);
            output.stdout.trim_ascii_end() == value.as_bytes()
        });
    }

    /// Waits until a tunnel is not on the bus any more.
    #[track_caller]
    pub fn gone(&self, tunnel: &str) {
        let path = enftun::dbus::path::of_tunnel(tunnel);
        wait_for(&format!("{tunnel} to be gone"), || {
            !self
                .busctl(&["get-property", enftun::dbus::NAME, &path, "org.enftun.Enftun1.Tunnel", "Name"])
                .status
                .success()
        });
    }

    /// A copy of `program` where every user can run it.
    pub fn place(&self, program: &str) -> PathBuf {
        let copy = self.directory.path().join(Path::new(program).file_name().unwrap());
        fs::copy(program, &copy).unwrap();
        copy
    }
}

impl Drop for PrivateBus {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// What a command printed, once it is known to have succeeded.
#[track_caller]
pub fn stdout(output: Output) -> String {
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What a command complained of, once it is known to have failed.
#[track_caller]
pub fn stderr(output: Output) -> String {
    assert!(!output.status.success(), "it succeeded: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}
