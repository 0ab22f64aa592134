//! The directories the programs use, in one place. Every one can be moved by an argument, so that tests and `run` need no root.

use std::path::PathBuf;

/// `/etc/enftun`: what the user wrote.
pub const CONFIG_DIR: &str = "/etc/enftun";
/// `/var/lib/enftun`: what must survive a reboot.
pub const STATE_DIR: &str = "/var/lib/enftun";
/// `/run/enftun`: what must not survive a reboot.
pub const RUNTIME_DIR: &str = "/run/enftun";

/// Whom the daemon becomes when it is started as root.
pub const DAEMON_USER: &str = "enftun";

/// Where one daemon keeps its things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Configuration directory; relative paths in tunnel files start here.
    pub config: PathBuf,
    /// State directory.
    pub state: PathBuf,
    /// Runtime directory.
    pub runtime: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self { config: CONFIG_DIR.into(), state: STATE_DIR.into(), runtime: RUNTIME_DIR.into() }
    }
}

impl Paths {
    /// `enftun.toml`, the daemon's own file; it may be absent.
    pub fn daemon_file(&self) -> PathBuf {
        self.config.join("enftun.toml")
    }

    /// The directory that holds one file per tunnel.
    pub fn tunnels_dir(&self) -> PathBuf {
        self.config.join("tunnels")
    }

    /// The file of the tunnel called `name`.
    pub fn tunnel_file(&self, name: &str) -> PathBuf {
        self.tunnels_dir().join(format!("{name}.toml"))
    }
}
