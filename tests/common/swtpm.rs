//! A TPM 2.0 in a program, with the state of its own that a real one has in its chip, and tpm2-tools to look at it from
//! outside. It is reached over the loopback of the namespace that it is started in, where there can be one.

use super::bus::has;
use super::netns::{Netns, Running};
use super::{skip, wait_for};
use enftun::config::Tpm;
use std::net::TcpStream;
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

/// Each has a port of its own, whatever namespace it is in: within a process, one way leads to one TPM.
static NEXT_PORT: AtomicU16 = AtomicU16::new(2321);

pub struct Swtpm {
    port: u16,
    state: tempfile::TempDir,
    running: Option<Running>,
}

impl Swtpm {
    /// A new one, just made. Says SKIPPED where there is none.
    pub fn start(test: &str) -> Option<Self> {
        for program in ["swtpm", "tpm2_createprimary"] {
            if !has(program) {
                skip(test, &format!("there is no {program}"));
                return None;
            }
        }
        let port = NEXT_PORT.fetch_add(2, Ordering::Relaxed);
        let mut tpm = Self { port, state: tempfile::tempdir().unwrap(), running: None };
        tpm.switch_on();
        Some(tpm)
    }

    /// Starts it with the state that it had.
    pub fn switch_on(&mut self) {
        // What other stories have open at this moment must not stay open in it: a TPM serves nobody else as long as one is.
        let alone =
            "for fd in /proc/self/fd/*; do fd=${fd##*/}; [ $fd -le 2 ] || eval \"exec $fd>&-\"; done; exec \"$@\"";
        let mut command = Netns::here().command("bash");
        command.args(["-c", alone, "bash", "swtpm", "socket", "--tpm2", "--flags", "not-need-init,startup-clear"]);
        command.arg("--tpmstate").arg(format!("dir={}", self.state.path().display()));
        for (what, port) in [("--server", self.port), ("--ctrl", self.port + 1)] {
            command.arg(what).arg(format!("type=tcp,port={port},bindaddr=127.0.0.1"));
        }
        self.running = Some(Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()));
        // It takes one connection at a time, and the next when that one is closed.
        wait_for("the TPM to listen", || TcpStream::connect(("127.0.0.1", self.port + 1)).is_ok());
    }

    /// Ends it as a power cut does.
    pub fn switch_off(&mut self) {
        self.running = None;
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.running.as_ref().unwrap().0.id()
    }

    /// How a program finds it.
    pub fn config(&self) -> Tpm {
        Tpm { tcti: format!("swtpm:host=127.0.0.1,port={}", self.port), ..Tpm::default() }
    }

    /// A shell command with tpm2-tools that talk to it, in a directory, however it ends.
    pub fn try_tools(&self, directory: &std::path::Path, command: &str) -> Output {
        let mut shell = Netns::here().command("sh");
        shell.args(["-ec", command]).current_dir(directory).env("TPM2TOOLS_TCTI", self.config().tcti);
        shell.output().unwrap()
    }

    /// The same; it must succeed. Returns what it printed.
    #[track_caller]
    pub fn tools(&self, directory: &std::path::Path, command: &str) -> String {
        let output = self.try_tools(directory, command);
        assert!(output.status.success(), "{command}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// `tpm2_createprimary` of the storage key that is made of the owner's seed, into `storage`.
pub const STORAGE: &str = "tpm2_createprimary -Q -C o -G ecc -c storage \
     -a 'restricted|decrypt|fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda'";
