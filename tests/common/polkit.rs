//! The real polkitd on a private bus. It reads only the host's own directories, so it gets a mount namespace in which those
//! are the test's: neither the actions nor the rules of the machine that runs the test count.

use super::bus::{PrivateBus, stdout};
use super::netns::Running;
use super::wait_for;
use std::fs;
use std::path::Path;
use std::process::Stdio;

const POLKITD: [&str; 2] = ["/usr/lib/polkit-1/polkitd", "/usr/libexec/polkitd"];

/// A running polkitd; it ends with this value.
pub struct Polkit {
    directory: tempfile::TempDir,
    _daemon: Running,
}

impl Polkit {
    /// Starts it with the actions in these files and no rule; none where polkitd is missing.
    pub fn start(bus: &PrivateBus, actions: &[&Path]) -> Option<Self> {
        Self::start_with(bus, actions, "")
    }

    /// The same with a rule (see [`Polkit::rule`]) from its start.
    pub fn start_with(bus: &PrivateBus, actions: &[&Path], rule: &str) -> Option<Self> {
        let polkitd = POLKITD.iter().find(|path| Path::new(path).exists())?;
        let policy = fs::read_to_string("/usr/share/dbus-1/system.d/org.freedesktop.PolicyKit1.conf").unwrap();
        bus.add_policy("org.freedesktop.PolicyKit1.conf", &policy);
        let directory = tempfile::Builder::new().prefix("enftun-polkit-").tempdir().unwrap();
        let dir = directory.path();
        // polkitd gives root up before it reads them.
        super::netns::sh(&format!("cd {}; chmod 755 .; mkdir -m 755 actions rules.d no-rules.d", dir.display()));
        for file in actions {
            fs::copy(file, dir.join("actions").join(file.file_name().unwrap())).unwrap();
        }
        fs::write(dir.join("rules.d/50-test.rules"), rule).unwrap();
        let script = "cd \"$1\"; mount --make-rprivate /; mount --bind actions /usr/share/polkit-1/actions
             mount --bind rules.d /usr/share/polkit-1/rules.d; mount --bind no-rules.d /etc/polkit-1/rules.d
             exec setpriv --pdeathsig KILL \"$2\" --no-debug";
        let mut command = bus.command("unshare");
        command.args(["-m", "sh", "-ec", script, "polkit"]).arg(dir).arg(polkitd).stderr(Stdio::null());
        let daemon = Running(command.spawn().unwrap());
        wait_for("polkitd", || bus.has("org.freedesktop.PolicyKit1"));
        Some(Self { directory, _daemon: daemon })
    }

    /// Replaces the rule, a file of JavaScript (polkit(8)). polkitd takes notice a moment later.
    pub fn rule(&self, text: &str) {
        fs::write(self.directory.path().join("rules.d/50-test.rules"), text).unwrap();
    }
}

impl PrivateBus {
    /// Whether somebody has this name.
    pub fn has(&self, name: &str) -> bool {
        let bus = "org.freedesktop.DBus";
        stdout(self.busctl(&["call", bus, "/org/freedesktop/DBus", bus, "NameHasOwner", "s", name])).trim() == "b true"
    }
}
