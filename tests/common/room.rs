//! Files and processes of a host's own, for clients that run as on a real one: nothing of this machine's configuration is read
//! or changed, and everything in it ends with it.

use super::netns::{Netns, Running};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

pub const NETWORKD: &str = "/lib/systemd/systemd-networkd";

/// Mount, process and host name namespaces over a network namespace.
pub struct Room {
    holder: Running,
    logs: PathBuf,
}

/// Why the clients cannot be run here, if they cannot: they take other users' identities.
pub fn no_room(programs: &[&str]) -> Option<String> {
    if std::fs::read_to_string("/proc/self/uid_map").unwrap().split_whitespace().last() == Some("1") {
        return Some("the clients run as users of their own; run as root".to_owned());
    }
    let there = |program: &str| match program.starts_with('/') {
        true => Path::new(program).exists(),
        false => Command::new("which").arg(program).output().unwrap().status.success(),
    };
    programs.iter().find(|program| !there(program)).map(|program| format!("{program} is not installed"))
}

impl Room {
    /// A room over the host's network; what its programs say is written to files in `logs`.
    pub fn new(host: &Netns, logs: &Path) -> Self {
        let script = "
            mount -t proc proc /proc
            mount -t tmpfs -o mode=755 tmpfs /mnt; mkdir /mnt/above /mnt/work
            mount -t overlay -o lowerdir=/etc,upperdir=/mnt/above,workdir=/mnt/work overlay /etc
            mount -t tmpfs -o mode=755 tmpfs /run
            mount -t tmpfs -o mode=755 tmpfs /var/lib
            # Of a read-only /sys networkd concludes that there is no udev to wait for.
            mount -t sysfs -o ro sysfs /sys
            mkdir -p /var/lib/dhcp /var/lib/dhcpcd /run/dbus /run/systemd/netif /etc/systemd/network
            rm -f /etc/systemd/network/* /etc/dhcpcd.duid /etc/resolv.conf
            chown systemd-network: /run/systemd/netif
            echo ready; exec cat";
        let arguments = ["-mpu", "--propagation=private", "--fork", "--kill-child=KILL", "sh", "-ec", script];
        let mut command = host.command("unshare");
        let mut holder = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { holder: Running(holder), logs: logs.to_owned() }
    }

    /// A shell command on the host, among its files and processes.
    pub fn command(&self, command: &str) -> Command {
        let room = format!("/proc/{}/ns", self.holder.0.id());
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["net", "mnt", "uts"].map(|sort| format!("--{}={room}/{sort}", sort.replace("mnt", "mount"))));
        nsenter.arg(format!("--pid={room}/pid_for_children")).args(["--", "sh", "-ec", command]);
        nsenter
    }

    pub fn output(&self, command: &str) -> Output {
        self.command(command).output().unwrap()
    }

    #[track_caller]
    pub fn exec(&self, command: &str) -> String {
        let output = self.output(command);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "`{command}`: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// Starts a program on the host, which ends with it at the latest; its number is in `/run/NAME.pid`.
    pub fn spawn(&self, name: &str, program: &str) {
        let log = std::fs::OpenOptions::new().append(true).create(true).open(self.logs.join(name)).unwrap();
        let mut command = self.command(&format!("echo $$ >/run/{name}.pid; exec {program}"));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        // It need not be waited for: it ends before us.
        drop(command.spawn().unwrap());
    }

    /// What a program of this name has said.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.logs.join(name)).unwrap_or_default()
    }
}
