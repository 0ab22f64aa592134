//! What to block when the configuration cannot be read: the plan of each tunnel that was in force last, with nothing but what
//! blocks, in `last-plans.json` of the state directory. It is written when that changes, which is when the configuration does.
//! A tunnel that is not here was opened by its user, or was never there.

use crate::error::chain;
use crate::files::{replace, set_aside};
use crate::plan::Plan;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Why a plan could not be kept.
#[derive(Debug, thiserror::Error)]
#[error("keep the last plans in {}", path.display())]
pub struct LastPlansError {
    /// Which file.
    path: PathBuf,
    /// Why.
    source: io::Error,
}

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    /// Without a plan: it is to be blocked, and nothing is known of it.
    tunnels: BTreeMap<String, Option<Plan>>,
}

const VERSION: u32 = 1;

/// The last plans, in memory and on disk. Without a file they live in memory only.
#[derive(Debug, Default)]
pub struct LastPlans {
    file: Option<PathBuf>,
    plans: BTreeMap<String, Option<Plan>>,
    /// The file is damaged; so nothing certain is known, as long as this lives.
    damaged: bool,
    to_set_aside: bool,
}

impl LastPlans {
    /// Reads them. A file that cannot be read means that every tunnel may have been blocked; it is said in the log, and the
    /// file is set aside before another is written.
    pub fn load(directory: &Path) -> Self {
        let path = directory.join("last-plans.json");
        let read = fs::read(&path).and_then(|bytes| {
            let Document { version, tunnels } = serde_json::from_slice(&bytes)?;
            if version == VERSION { Ok(tunnels) } else { Err(io::Error::other(format!("its version is {version}"))) }
        });
        match read {
            Ok(plans) => Self { file: Some(path), plans, ..Self::default() },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self { file: Some(path), ..Self::default() },
            Err(error) => {
                log::error!(
                    "{} cannot be used ({error}): whatever may have been blocked stays blocked",
                    path.display()
                );
                Self { file: Some(path), damaged: true, to_set_aside: true, ..Self::default() }
            }
        }
    }

    /// Nothing certain is known of any tunnel.
    pub fn is_damaged(&self) -> bool {
        self.damaged
    }

    /// All of them, by tunnel; none: it is to be blocked, and nothing is known of it.
    pub fn all(&self) -> &BTreeMap<String, Option<Plan>> {
        &self.plans
    }

    /// The last plan of a tunnel that worked.
    pub fn get(&self, tunnel: &str) -> Option<&Plan> {
        self.plans.get(tunnel).and_then(Option::as_ref)
    }

    /// Whether this tunnel was blocked, or may have been.
    pub fn was_blocking(&self, tunnel: &str) -> bool {
        self.damaged || self.plans.contains_key(tunnel)
    }

    /// Remembers what of `plan` blocks; none: that it is to be blocked. An error is said in the log: protection does not depend
    /// on it until the configuration breaks.
    pub fn set(&mut self, tunnel: &str, plan: Option<&Plan>) {
        let plan = plan.map(Plan::blocking);
        if self.plans.get(tunnel) != Some(&plan) {
            self.plans.insert(tunnel.to_owned(), plan);
            self.save(tunnel);
        }
    }

    /// The user opened this tunnel.
    pub fn forget(&mut self, tunnel: &str) {
        if self.plans.remove(tunnel).is_some() {
            self.save(tunnel);
        }
    }

    fn save(&mut self, tunnel: &str) {
        if let Err(error) = self.write() {
            log::error!(ENFTUN_TUNNEL = tunnel; "{}; should the configuration break, an old plan may block", chain(&error));
        }
    }

    fn write(&mut self) -> Result<(), LastPlansError> {
        let Some(path) = &self.file else { return Ok(()) };
        let failed = |source| LastPlansError { path: path.clone(), source };
        if std::mem::take(&mut self.to_set_aside) {
            let aside = set_aside(path).map_err(failed)?;
            log::warn!("what was {} is now {}", path.display(), aside.display());
        }
        let document = Document { version: VERSION, tunnels: self.plans.clone() };
        let text = serde_json::to_vec(&document).map_err(|error| failed(error.into()))?;
        replace(path, &text, 0o644).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Scope;

    fn plan(table: u32) -> Plan {
        let prefixes = vec!["fd00:8f80::/32".parse().unwrap()];
        Scope { dev: "enf0".to_owned(), table, mark: 363, mask: u32::MAX, prefixes, port: None }.empty()
    }

    #[test]
    fn it_is_written_only_when_something_changed() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("last-plans.json");
        let mut plans = LastPlans::load(directory.path());
        plans.set("enf0", Some(&plan(1)));
        fs::remove_file(&file).unwrap();
        plans.set("enf0", Some(&plan(1)));
        plans.forget("enf1");
        assert!(!file.exists(), "flash wears out");
        plans.set("enf0", Some(&plan(2)));
        plans.set("enf1", None);
        let again = LastPlans::load(directory.path());
        assert_eq!(again.get("enf0"), Some(&plan(2)));
        assert_eq!((again.get("enf1"), again.was_blocking("enf1"), again.was_blocking("enf2")), (None, true, false));
        plans.forget("enf0");
        assert!(!LastPlans::load(directory.path()).was_blocking("enf0"));
    }

    #[test]
    fn damaged_every_tunnel_may_have_been_blocked_and_the_file_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("last-plans.json"), b"{").unwrap();
        let mut plans = LastPlans::load(directory.path());
        assert!(plans.is_damaged() && plans.was_blocking("enf0"));
        plans.set("enf0", Some(&plan(1)));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
        assert!(!LastPlans::load(directory.path()).is_damaged());
    }
}
