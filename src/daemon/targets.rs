//! Which tunnels are wanted, kept across restarts: `targets.json` in the state directory, replaced atomically.

use crate::files::replace;
use crate::state::Target;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Why the targets could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum TargetsError {
    /// The file is there and cannot be read.
    #[error("read the wanted states of tunnels from {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not what this program writes.
    #[error("{path} is damaged; delete it to start with every tunnel disconnected")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where.
        source: serde_json::Error,
    },
    /// The file cannot be replaced.
    #[error("remember the wanted states of tunnels in {path}")]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Document {
    version: u32,
    connected: BTreeMap<String, bool>,
}

/// The wanted states, in memory and on disk. Without a file they live in memory only.
#[derive(Debug, Default)]
pub struct Targets {
    file: Option<PathBuf>,
    connected: BTreeMap<String, bool>,
}

impl Targets {
    /// Reads `targets.json` in `directory`; an absent file means that nothing was ever wanted.
    pub fn load(directory: &Path) -> Result<Self, TargetsError> {
        let path = directory.join("targets.json");
        let connected = match fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice::<Document>(&bytes)
                    .map_err(|source| TargetsError::Damaged { path: path.clone(), source })?
                    .connected
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => return Err(TargetsError::Read { path, source }),
        };
        Ok(Self { file: Some(path), connected })
    }

    /// The state directory, if there is one.
    pub fn directory(&self) -> Option<&Path> {
        self.file.as_deref().and_then(Path::parent)
    }

    /// The last wish for this tunnel; none when nobody ever said.
    pub fn get(&self, tunnel: &str) -> Option<Target> {
        self.connected.get(tunnel).map(|up| if *up { Target::Up } else { Target::Down })
    }

    /// Remembers a wish.
    pub fn set(&mut self, tunnel: &str, target: Target) -> Result<(), TargetsError> {
        self.connected.insert(tunnel.to_owned(), target == Target::Up);
        self.save()
    }

    /// Forgets a tunnel that is no longer configured.
    pub fn forget(&mut self, tunnel: &str) -> Result<(), TargetsError> {
        match self.connected.remove(tunnel) {
            Some(_) => self.save(),
            None => Ok(()),
        }
    }

    fn save(&self) -> Result<(), TargetsError> {
        let Some(path) = &self.file else { return Ok(()) };
        let document = Document { version: 1, connected: self.connected.clone() };
        let text = serde_json::to_vec_pretty(&document)
            .map_err(|source| TargetsError::Damaged { path: path.clone(), source })?;
        replace(path, &text, 0o600).map_err(|source| TargetsError::Write { path: path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_survives_a_restart_and_nothing_else_is_left_in_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let mut targets = Targets::load(directory.path()).unwrap();
        assert_eq!(targets.get("enf0"), None);
        targets.set("enf0", Target::Up).unwrap();
        targets.set("enf1", Target::Down).unwrap();
        targets.set("enf2", Target::Up).unwrap();
        targets.forget("enf2").unwrap();
        let again = Targets::load(directory.path()).unwrap();
        assert_eq!((again.get("enf0"), again.get("enf1")), (Some(Target::Up), Some(Target::Down)));
        assert_eq!(again.get("enf2"), None);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_file_is_said_to_be_damaged() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("targets.json"), b"{").unwrap();
        assert!(matches!(Targets::load(directory.path()), Err(TargetsError::Damaged { .. })));
    }
}
