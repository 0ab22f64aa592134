//! Who may do what on a whole system: the daemon is the user `enftun`, whom polkit answers about others because the policy says
//! so; a user at the screen, one without a session, and an administrator's password.

use crate::bed::{Bed, story};
use crate::common::wait_for;
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

const CONNECT: &str = "busctl --allow-interactive-authorization=no call org.enftun.Enftun1 \
    /org/enftun/Enftun1/tunnel/enf0 org.enftun.Enftun1.Tunnel Connect u 0";
const DISCONNECT: &str = "busctl --allow-interactive-authorization=no call org.enftun.Enftun1 \
    /org/enftun/Enftun1/tunnel/enf0 org.enftun.Enftun1.Tunnel Disconnect u 0";
const PERMISSIONS: &str =
    "busctl call org.enftun.Enftun1 /org/enftun/Enftun1 org.enftun.Enftun1.Manager GetPermissions";

/// A machine with the daemon running, and the tunnel disconnected.
fn with_daemon(test: &str, tell: impl FnOnce(&mut Bed)) {
    story(test, |bed| {
        bed.install();
        bed.machine.must("systemctl enable --now enftund");
        tell(bed);
    });
}

/// A shell command in a session of alice at the screen.
fn at_the_screen(command: &str) -> String {
    format!(
        "systemd-run --quiet --wait --pipe --collect -p User=alice -p PAMName=login -E XDG_SEAT=seat0 \
         -E XDG_SESSION_TYPE=x11 -E XDG_SESSION_CLASS=user sh -ec '{command}'"
    )
}

#[test]
fn a_user_without_a_session_looks_and_one_at_the_screen_connects_and_does_not_disconnect() {
    with_daemon("a_user_without_a_session_looks_and_one_at_the_screen_connects_and_does_not_disconnect", |bed| {
        let machine = &bed.machine;
        machine.must_as("bob", "enftunctl status enf0");
        let refused = machine.sh_as("bob", CONNECT);
        assert!(!refused.status.success());
        assert!(String::from_utf8_lossy(&refused.stderr).contains("org.enftun.Enftun1.connect needs authentication"));
        let permissions = machine.must_as("bob", PERMISSIONS);
        assert!(permissions.contains("\"org.enftun.Enftun1.connect\" \"auth_admin\""), "{permissions}");
        assert!(permissions.contains("\"org.enftun.Enftun1.inspect\" \"yes\""), "{permissions}");

        let permissions = machine.must(&at_the_screen(PERMISSIONS));
        assert!(permissions.contains("\"org.enftun.Enftun1.connect\" \"yes\""), "{permissions}");
        assert!(permissions.contains("\"org.enftun.Enftun1.disconnect\" \"auth_admin\""), "{permissions}");
        machine.must(&at_the_screen(CONNECT));
        bed.connected();
        let refused = machine.must_not(&at_the_screen(DISCONNECT));
        assert!(refused.contains("org.enftun.Enftun1.disconnect needs authentication"), "{refused}");
        let refused = machine.must_not(&at_the_screen("enftunctl disconnect enf0"));
        assert!(refused.contains("nobody could be asked"), "{refused}");
        bed.connected();
        // The journal tells who asked, in a field of its own.
        let uid = machine.must("id -u alice").trim().to_owned();
        let asked = machine
            .must("journalctl -u enftund -o json --output-fields=ENFTUN_REQUEST,ENFTUN_CALLER ENFTUN_REQUEST=connect");
        assert!(asked.contains(&format!("(uid {uid})")), "{asked}");
    });
}

#[test]
fn a_rule_of_the_site_grants_connect_and_no_more() {
    with_daemon("a_rule_of_the_site_grants_connect_and_no_more", |bed| {
        let machine = &bed.machine;
        machine.write(
            "/etc/polkit-1/rules.d/50-site.rules",
            "polkit.addRule(function (action, subject) {\n\
             if (action.id == \"org.enftun.Enftun1.connect\" && subject.user == \"bob\") { return polkit.Result.YES; } });\n",
        );
        machine
            .wait_until(&format!("runuser -u bob -- {PERMISSIONS} | grep -q '\"org.enftun.Enftun1.connect\" \"yes\"'"));
        machine.must_as("bob", CONNECT);
        bed.connected();
        assert!(!machine.sh_as("bob", DISCONNECT).status.success());
        assert!(!machine.sh_as("bob", "enftunctl lockdown enf0 off").status.success());
        bed.connected();
    });
}

/// A program at a terminal in the machine, whose screen is read on the way.
struct Terminal {
    child: Child,
    shown: Receiver<Vec<u8>>,
    screen: String,
}

impl Terminal {
    /// Starts a command as bob, logged in at a terminal.
    fn start(bed: &Bed, command: &str) -> Self {
        // What is printed at the very end may be lost with the terminal, so it stays open.
        let login = format!(
            "systemd-run --quiet --pty --wait --collect -p User=bob -p PAMName=login \
             sh -c '{command}; echo ended with $?; sleep 300'"
        );
        // `script` gives systemd-run the terminal that it passes on.
        let mut child = bed
            .machine
            .command("script")
            .args(["-qefc", &login, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (send, shown) = channel();
        let mut out = child.stdout.take().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = out.read(&mut buffer) {
                if send.send(buffer[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { child, shown, screen: String::new() }
    }

    /// Reads the screen until it shows this; what may be typed for that is typed again and again, for the agent throws away
    /// what it finds when it begins to read.
    #[track_caller]
    fn until(&mut self, text: &str, typed: Option<&str>) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.screen.contains(text) {
            assert!(Instant::now() < deadline, "waited for {text:?}; the screen shows: {}", self.screen);
            match self.shown.recv_timeout(Duration::from_secs(1)) {
                Ok(bytes) => self.screen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(line) = typed {
                        let _ = writeln!(self.child.stdin.as_mut().unwrap(), "{line}");
                    }
                }
                Err(RecvTimeoutError::Disconnected) => panic!("{text:?} never came; the screen shows: {}", self.screen),
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn at_a_terminal_enftunctl_asks_for_an_administrators_password_and_says_what_for() {
    with_daemon("at_a_terminal_enftunctl_asks_for_an_administrators_password_and_says_what_for", |bed| {
        let machine = &bed.machine;
        machine.must("echo root:secret | chpasswd");
        machine.write(
            "/etc/polkit-1/rules.d/50-admin.rules",
            "polkit.addAdminRule(function (action, subject) { return [\"unix-user:root\"]; });\n",
        );
        machine.must("printf '[groups.lan]\\nnumber = 364\\ninterfaces = []\\n' >>/etc/enftun/enftun.toml; systemctl reload enftund");
        machine.must("enftunctl connect enf0 --wait");

        let mut terminal = Terminal::start(bed, "enftunctl disconnect enf0");
        terminal.until("Password:", None);
        assert!(
            terminal.screen.contains("Authentication is required to disconnect the tunnel enf0"),
            "{}",
            terminal.screen
        );
        terminal.until("ended with 4", Some("wrong"));
        assert!(machine.must("enftunctl status enf0").starts_with("enf0: connected"));

        let mut terminal = Terminal::start(bed, "enftunctl disconnect enf0");
        terminal.until("Password:", None);
        terminal.until("ended with 0", Some("secret"));
        wait_for("the tunnel to be disconnected", || {
            machine.must("enftunctl status enf0").starts_with("enf0: disconnected")
        });

        // Interface and group stand in the prompt of what opens a hole.
        let mut terminal = Terminal::start(bed, "enftunctl group add lan usb0");
        terminal.until("Password:", None);
        assert!(terminal.screen.contains("change the trust in the interface usb0 (group lan)"), "{}", terminal.screen);
        terminal.until("ended with 0", Some("secret"));
        assert!(machine.must("enftunctl group list").contains("usb0"));
    });
}
