//! systemd-logind as python-dbusmock has it, on a private bus.

use super::bus::{PrivateBus, stdout};
use super::wait_for;
use std::path::Path;
use std::process::{Child, Stdio};

pub const NAME: &str = "org.freedesktop.login1";
pub const OBJECT: &str = "/org/freedesktop/login1";
pub const MANAGER: &str = "org.freedesktop.login1.Manager";

const POLICY: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <policy context="default">
    <allow own="org.freedesktop.login1"/>
    <allow send_destination="org.freedesktop.login1"/>
  </policy>
</busconfig>
"#;

/// It leaves the bus with this value.
pub struct Logind(Child);

impl Logind {
    /// None, said loudly, where dbusmock is missing.
    pub fn start(test: &str, bus: &PrivateBus) -> Option<Self> {
        if !Path::new("/usr/lib/python3/dist-packages/dbusmock").exists() {
            super::skip(test, "python3-dbusmock is missing");
            return None;
        }
        bus.add_policy("login1.conf", POLICY);
        // setpriv: it must not outlive a test that is killed.
        let mock = bus
            .command("setpriv")
            .args(["--pdeathsig", "KILL", "/usr/bin/python3", "-m", "dbusmock", "--system", "--template", "logind"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let started = Self(mock);
        wait_for("logind to be on the bus", || {
            bus.busctl(&["call", NAME, OBJECT, MANAGER, "CanSuspend"]).status.success()
        });
        Some(started)
    }

    /// Says that the system is about to sleep, or awake again.
    pub fn prepare_for_sleep(&self, bus: &PrivateBus, asleep: bool) {
        let asleep = asleep.to_string();
        let signal = ["EmitSignal", "sssav", MANAGER, "PrepareForSleep", "b", "1", "b", &asleep];
        stdout(bus.busctl(&[&["call", NAME, OBJECT, "org.freedesktop.DBus.Mock"], signal.as_slice()].concat()));
    }
}

impl Drop for Logind {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
