//! Which tunnels are wanted, and what the user said of their lockdown, kept across restarts: `targets.json` in the state
//! directory, replaced atomically.

use crate::config::Lockdown;
use crate::error::chain;
use crate::files::{replace, set_aside};
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
    #[error("{path} is damaged")]
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
    #[serde(default)]
    lockdown: BTreeMap<String, bool>,
}

/// The format of the file. What is added under this number may be ignored by an older program.
const VERSION: u32 = 1;

/// The wanted states, in memory and on disk. Without a file they live in memory only.
#[derive(Debug, Default)]
pub struct Targets {
    file: Option<PathBuf>,
    connected: BTreeMap<String, bool>,
    lockdown: BTreeMap<String, bool>,
}

impl Targets {
    /// Reads `targets.json` in `directory`; an absent file means that nothing was ever wanted.
    pub fn load(directory: &Path) -> Result<Self, TargetsError> {
        let path = directory.join("targets.json");
        let (connected, lockdown) = match fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice::<Document>(&bytes) {
                Ok(Document { version: VERSION, connected, lockdown }) => (connected, lockdown),
                Ok(Document { version, .. }) => {
                    let source = serde::de::Error::custom(format_args!("its version is {version}, not {VERSION}"));
                    return Err(TargetsError::Damaged { path, source });
                }
                Err(source) => return Err(TargetsError::Damaged { path, source }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => (BTreeMap::new(), BTreeMap::new()),
            Err(source) => return Err(TargetsError::Read { path, source }),
        };
        Ok(Self { file: Some(path), connected, lockdown })
    }

    /// As [`Targets::load`]; a damaged file is set aside, and one that cannot be read is left alone: then what is wanted lives
    /// in memory. Both are said in the log.
    pub fn recover(directory: &Path) -> Self {
        let error = match Self::load(directory) {
            Ok(targets) => return targets,
            Err(error) => error,
        };
        let kept = "what was blocked stays blocked, until it is connected or `enftunctl lockdown NAME off` opens it";
        let aside = match &error {
            TargetsError::Damaged { path, .. } => set_aside(path).map(|aside| (path.clone(), aside)),
            _ => Err(io::ErrorKind::Unsupported.into()),
        };
        match aside {
            Ok((file, aside)) => {
                log::error!("{}; it is now {}; {kept}", chain(&error), aside.display());
                Self { file: Some(file), ..Self::default() }
            }
            Err(_) => {
                log::error!("{}; {kept}; nothing new is remembered until enftund is restarted", chain(&error));
                Self::default()
            }
        }
    }

    /// Every tunnel that something was ever said of.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.connected.keys().chain(self.lockdown.keys())
    }

    /// What the user said of a tunnel's lockdown: on or off, beside its file; none when nobody ever said.
    pub fn lockdown(&self, tunnel: &str) -> Option<bool> {
        self.lockdown.get(tunnel).copied()
    }

    /// Lockdown of a tunnel whose file says `written`.
    pub fn overrule(&self, tunnel: &str, written: Lockdown) -> Lockdown {
        match (self.lockdown(tunnel), written) {
            (Some(true), _) => Lockdown::Boot,
            (Some(false), Lockdown::Boot) => Lockdown::Session,
            (_, written) => written,
        }
    }

    /// Remembers what the user said of a tunnel's lockdown.
    pub fn set_lockdown(&mut self, tunnel: &str, on: bool) -> Result<(), TargetsError> {
        if self.lockdown.insert(tunnel.to_owned(), on) == Some(on) {
            return Ok(());
        }
        self.save()
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
        let lockdown = self.lockdown.remove(tunnel).is_some();
        if self.connected.remove(tunnel).is_some() || lockdown { self.save() } else { Ok(()) }
    }

    fn save(&self) -> Result<(), TargetsError> {
        let Some(path) = &self.file else { return Ok(()) };
        let document =
            Document { version: VERSION, connected: self.connected.clone(), lockdown: self.lockdown.clone() };
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
    fn what_the_user_said_of_lockdown_is_kept_beside_the_file_and_files_without_it_are_read() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("targets.json"), br#"{"version":1,"connected":{"enf0":true}}"#).unwrap();
        let mut targets = Targets::load(directory.path()).unwrap();
        assert_eq!((targets.get("enf0"), targets.lockdown("enf0")), (Some(Target::Up), None));
        for written in [Lockdown::Boot, Lockdown::Session, Lockdown::Off] {
            assert_eq!(targets.overrule("enf0", written), written);
        }
        targets.set_lockdown("enf0", true).unwrap();
        targets.set_lockdown("enf1", false).unwrap();
        let again = Targets::load(directory.path()).unwrap();
        assert_eq!(again.get("enf0"), Some(Target::Up));
        for (written, off) in [
            (Lockdown::Boot, Lockdown::Session),
            (Lockdown::Session, Lockdown::Session),
            (Lockdown::Off, Lockdown::Off),
        ] {
            assert_eq!(again.overrule("enf0", written), Lockdown::Boot);
            assert_eq!(again.overrule("enf1", written), off);
        }
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        for content in ["{", r#"{"version":2,"connected":{}}"#] {
            fs::write(directory.path().join("targets.json"), content).unwrap();
            let mut targets = Targets::recover(directory.path());
            targets.set("enf0", Target::Up).unwrap();
            assert_eq!(Targets::load(directory.path()).unwrap().get("enf0"), Some(Target::Up));
            let mut aside = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
            let aside = aside.find(|path| path.to_str().unwrap().contains(".damaged-")).unwrap();
            assert_eq!(fs::read_to_string(&aside).unwrap(), content);
            fs::remove_file(aside).unwrap();
        }
    }

    #[test]
    fn a_damaged_file_is_said_to_be_damaged() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("targets.json"), b"{").unwrap();
        assert!(matches!(Targets::load(directory.path()), Err(TargetsError::Damaged { .. })));
    }
}
