//! What of ours the kernel of this host holds: the plan in force of each tunnel, in `in-force.json` of the runtime directory,
//! and the lock that makes its holder the one writer. Whoever comes next, after a crash too, renders the same host from it.

use crate::files::{Here, replace, yield_to_owner_of};
use crate::plan::{Openings, Plan, Scope};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Who holds the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The daemon.
    Daemon,
    /// `enftund lockdown`.
    Lockdown,
    /// `enftunctl run`.
    Run,
    /// `enftunctl clear`.
    Clear,
}

impl Holder {
    /// Those that hold it for moments only: whoever comes next waits for them.
    const BRIEF: [Self; 2] = [Self::Lockdown, Self::Clear];

    fn as_str(self) -> &'static str {
        match self {
            Self::Daemon => "enftund",
            Self::Lockdown => "enftund lockdown",
            Self::Run => "enftunctl run",
            Self::Clear => "enftunctl clear",
        }
    }
}

/// How long a lock that somebody holds is tried again. What a killed process was just starting shares its lock for a moment.
const PATIENCE: Duration = Duration::from_secs(1);
/// The same where its holder will be done soon: several runs of nft, and a plan.
const LONG_PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);

/// Why what is in force cannot be known or written.
#[derive(Debug, thiserror::Error)]
pub enum InForceError {
    /// Another program of ours changes this host.
    #[error("{holder} keeps the tunnels of this host already ({lock} is locked): end it first", lock = path.display())]
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
    #[serde(default)]
    former: BTreeMap<String, Vec<Scope>>,
    #[serde(default)]
    unknown: BTreeSet<String>,
}

/// What is in force. Its owner alone may change the kernel: nobody else gets one as long as it lives.
#[derive(Debug)]
pub struct InForce {
    path: PathBuf,
    here: Here,
    plans: BTreeMap<String, Plan>,
    /// What these tunnels had before their present plans, and may still have.
    former: BTreeMap<String, Vec<Scope>>,
    /// Tunnels that are to be blocked and that nothing else is known of.
    unknown: BTreeSet<String>,
    _lock: Flock<File>,
}

impl InForce {
    /// Takes the lock and reads what is in force. What another boot or namespace left counts for nothing; so does a file that
    /// is damaged, which is said in the log. Who holds the lock for moments only is waited for.
    pub fn open(runtime_dir: &Path, holder: Holder) -> Result<Self, InForceError> {
        fs::create_dir_all(runtime_dir)
            .map_err(|source| InForceError::File { path: runtime_dir.to_owned(), source })?;
        let lock = wait_for_lock(&runtime_dir.join("lock"), holder)?;
        let path = runtime_dir.join("in-force.json");
        let failed = |source| InForceError::File { path: path.clone(), source };
        let here = Here::now().map_err(failed)?;
        let nothing = || Document {
            version: 1,
            here: here.clone(),
            tunnels: BTreeMap::new(),
            former: BTreeMap::new(),
            unknown: BTreeSet::new(),
        };
        let document = match fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice::<Document>(&bytes) {
                Ok(document) if document.here == here => document,
                Ok(_) => nothing(),
                Err(error) => {
                    log::error!("{} is damaged ({error}): what it told of is not known any more", path.display());
                    nothing()
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => nothing(),
            Err(source) => return Err(failed(source)),
        };
        let Document { tunnels: plans, former, unknown, .. } = document;
        Ok(Self { path, here, plans, former, unknown, _lock: lock })
    }

    /// The plans in force, by tunnel. One that is not here has nothing in the kernel.
    pub fn plans(&self) -> &BTreeMap<String, Plan> {
        &self.plans
    }

    /// Every tunnel that may have anything in the kernel, or that is to be blocked; some more than once.
    pub fn tunnels(&self) -> impl Iterator<Item = &String> {
        self.plans.keys().chain(self.former.keys()).chain(&self.unknown)
    }

    /// Tunnels that are to be blocked and that nothing else is known of: as long as there are any, nothing passes that no plan
    /// lets through.
    pub fn unknown(&self) -> &BTreeSet<String> {
        &self.unknown
    }

    /// Everything that a tunnel may have in the kernel.
    pub fn scopes(&self, tunnel: &str) -> Vec<Scope> {
        self.plans.get(tunnel).map(|plan| plan.scope.clone()).into_iter().chain(self.former(tunnel)).collect()
    }

    /// What a tunnel may still have of former plans.
    pub fn former(&self, tunnel: &str) -> Vec<Scope> {
        self.former.get(tunnel).cloned().unwrap_or_default()
    }

    /// Remembers the plan of a tunnel: before it comes into force, so that whoever finds it half done knows of it. What the
    /// one before had elsewhere stays known until [`InForce::retired`].
    pub fn set(&mut self, tunnel: &str, plan: &Plan) -> Result<(), InForceError> {
        // Where a session may send to ends with the process that runs it.
        let mut plan = plan.clone();
        if let Some(policy) = &mut plan.policy {
            policy.openings = Openings::default();
        }
        let known = self.unknown.remove(tunnel);
        let before = self.plans.insert(tunnel.to_owned(), plan.clone());
        if before.as_ref() == Some(&plan) && !known {
            return Ok(());
        }
        if let Some(Plan { scope, .. }) = before.filter(|before| before.scope != plan.scope) {
            self.former.entry(tunnel.to_owned()).or_default().push(scope);
        }
        self.save()
    }

    /// Nothing is left of former plans of this tunnel.
    pub fn retired(&mut self, tunnel: &str) -> Result<(), InForceError> {
        if self.former.remove(tunnel).is_some() { self.save() } else { Ok(()) }
    }

    /// Nothing of this tunnel is in the kernel any more, and it is not to be blocked.
    pub fn forget(&mut self, tunnel: &str) -> Result<(), InForceError> {
        let plan = self.plans.remove(tunnel).is_some();
        let former = self.former.remove(tunnel).is_some();
        if self.unknown.remove(tunnel) || plan || former { self.save() } else { Ok(()) }
    }

    /// This tunnel is to be blocked, and nothing is known of it.
    pub fn set_unknown(&mut self, tunnel: &str) -> Result<(), InForceError> {
        if self.unknown.insert(tunnel.to_owned()) { self.save() } else { Ok(()) }
    }

    /// This tunnel is not to be blocked because nothing is known of it.
    pub fn set_known(&mut self, tunnel: &str) -> Result<(), InForceError> {
        if self.unknown.remove(tunnel) { self.save() } else { Ok(()) }
    }

    fn save(&self) -> Result<(), InForceError> {
        let document = Document {
            version: 1,
            here: self.here.clone(),
            tunnels: self.plans.clone(),
            former: self.former.clone(),
            unknown: self.unknown.clone(),
        };
        let text = serde_json::to_vec(&document).map_err(io::Error::from);
        text.and_then(|text| replace(&self.path, &text, 0o644))
            .map_err(|source| InForceError::File { path: self.path.clone(), source })
    }
}

impl InForceError {
    /// Whether it is the daemon that holds the lock.
    pub fn is_daemon(&self) -> bool {
        matches!(self, Self::Locked { holder, .. } if holder.starts_with(&format!("{} (", Holder::Daemon.as_str())))
    }
}

fn wait_for_lock(path: &Path, holder: Holder) -> Result<Flock<File>, InForceError> {
    let begun = Instant::now();
    let patience = |holder: &str| if is_brief(holder) { LONG_PATIENCE } else { PATIENCE };
    loop {
        match lock(path, holder) {
            Err(InForceError::Locked { holder, .. }) if begun.elapsed() < patience(&holder) => {
                std::thread::sleep(PAUSE);
            }
            result => return result,
        }
    }
}

/// One that has not yet written who it is has only just come.
fn is_brief(holder: &str) -> bool {
    holder.is_empty() || Holder::BRIEF.iter().any(|brief| holder.starts_with(brief.as_str()))
}

fn lock(path: &Path, holder: Holder) -> Result<Flock<File>, InForceError> {
    let failed = |source| InForceError::File { path: path.to_owned(), source };
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
    // Made by root, it shall serve the daemon too.
    yield_to_owner_of(path.parent().unwrap_or(Path::new("/")), &file);
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            lock.set_len(0)
                .and_then(|()| write!(lock, "{} (process {})", holder.as_str(), std::process::id()))
                .map_err(failed)?;
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
