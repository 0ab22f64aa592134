//! Where a change may need a password and a person is at the terminal, somebody must show the prompt: polkit's own text agent,
//! `pkttyagent(1)`, for as long as this program runs. An agent of the desktop goes first. Without the program nothing is lost:
//! polkit finds nobody to ask, and says so.

use std::io::{IsTerminal, Read};
use std::process::{Child, Command, Stdio};

/// A running agent; it ends with this value.
#[derive(Debug)]
pub struct Agent(Child);

impl Agent {
    /// Starts it, and returns once polkit knows of it; none for root, and where nobody is at a terminal.
    pub fn start() -> Option<Self> {
        if nix::unistd::geteuid().is_root() || !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
            return None;
        }
        // It asks on /dev/tty. Its stdout is only what it closes when it is ready.
        let child = Command::new("pkttyagent")
            .args(["--fallback", "--notify-fd", "1", "--process", &std::process::id().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn();
        let mut agent = Self(child.ok()?);
        if let Some(mut ready) = agent.0.stdout.take() {
            let _ = ready.read_to_end(&mut Vec::new());
        }
        Some(agent)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
