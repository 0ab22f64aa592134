//! What of ours the kernel of this host holds: the plan in force of each tunnel, in `in-force.json` of the runtime directory,
//! and the lock that makes its holder the one writer. Whoever comes next, after a crash too, renders the same host from it.

use crate::files::{Here, replace};
use crate::plan::{Openings, Plan};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often, and how far apart, a lock that somebody holds is tried again.
const PATIENCE: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);

/// Why what is in force cannot be known or written.
#[derive(Debug, thiserror::Error)]
pub enum InForceError {
    /// Another program of ours changes this host.
    #[error("{holder} already keeps the tunnels of this host ({lock} is locked)", lock = path.display())]
    Locked {
        /// Who.
        holder: String,
        /// The lock.
        path: PathBuf,
    },
    /// A file cannot be used.
    #[error("keep what is in force in {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    here: Here,
    tunnels: BTreeMap<String, Plan>,
}

/// What is in force. Its owner alone may change the kernel: nobody else gets one as long as it lives.
#[derive(Debug)]
pub struct InForce {
    path: PathBuf,
    here: Here,
    plans: BTreeMap<String, Plan>,
    _lock: Flock<File>,
}

impl InForce {
    /// Takes the lock, as `holder`, and reads what is in force. What another boot or namespace left counts for nothing; so
    /// does a file that is damaged, which is said in the log.
    pub fn open(runtime_dir: &Path, holder: &str) -> Result<Self, InForceError> {
        fs::create_dir_all(runtime_dir)
            .map_err(|source| InForceError::File { path: runtime_dir.to_owned(), source })?;
        let lock = lock(&runtime_dir.join("lock"), holder)?;
        let path = runtime_dir.join("in-force.json");
        let failed = |source| InForceError::File { path: path.clone(), source };
        let here = Here::now().map_err(failed)?;
        let plans = match fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice::<Document>(&bytes) {
                Ok(document) if document.here == here => document.tunnels,
                Ok(_) => BTreeMap::new(),
                Err(error) => {
                    log::error!("{} is damaged ({error}): what it told of is not known any more", path.display());
                    BTreeMap::new()
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => return Err(failed(source)),
        };
        Ok(Self { path, here, plans, _lock: lock })
    }

    /// The plans in force, by tunnel. One that is not here has nothing in the kernel.
    pub fn plans(&self) -> &BTreeMap<String, Plan> {
        &self.plans
    }

    /// Remembers the plan of a tunnel.
    pub fn set(&mut self, tunnel: &str, plan: &Plan) -> Result<(), InForceError> {
        // Where a session may send to ends with the process that runs it.
        let mut plan = plan.clone();
        if let Some(policy) = &mut plan.policy {
            policy.openings = Openings::default();
        }
        if plan == plan.scope.empty() {
            if self.plans.remove(tunnel).is_none() {
                return Ok(());
            }
        } else if self.plans.insert(tunnel.to_owned(), plan.clone()).as_ref() == Some(&plan) {
            return Ok(());
        }
        let document = Document { version: 1, here: self.here.clone(), tunnels: self.plans.clone() };
        let text = serde_json::to_vec(&document).map_err(io::Error::from);
        text.and_then(|text| replace(&self.path, &text, 0o644))
            .map_err(|source| InForceError::File { path: self.path.clone(), source })
    }
}

fn lock(path: &Path, holder: &str) -> Result<Flock<File>, InForceError> {
    let failed = |source| InForceError::File { path: path.to_owned(), source };
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
    let mut patience = PATIENCE;
    let locked = loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            // What a killed process was just starting shares its lock for a moment.
            Err((held, nix::errno::Errno::EWOULDBLOCK)) if patience > 0 => {
                patience -= 1;
                std::thread::sleep(PAUSE);
                file = held;
            }
            done => break done,
        }
    };
    match locked {
        Ok(mut lock) => {
            lock.set_len(0).and_then(|()| write!(lock, "{holder} (process {})", std::process::id())).map_err(failed)?;
            Ok(lock)
        }
        Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            Err(InForceError::Locked { holder, path: path.to_owned() })
        }
        Err((_, error)) => Err(failed(error.into())),
    }
}
