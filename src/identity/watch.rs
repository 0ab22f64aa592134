//! Notices that files of certificates and keys were replaced, changed, put there or taken away, by whatever way: renamed over,
//! written in place, behind a symbolic link that now leads elsewhere, in a directory that was not there before. It reads none
//! of them.
//!
//! The kernel's notices (inotify) of every directory on the way to a file are only the reason to look; whether a file is
//! another one is seen by looking. So what else happens in these directories wakes nobody, and a lost notice does no harm.

use crate::sys::inotify::Notices;
use nix::sys::inotify::{AddWatchFlags, WatchDescriptor};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// After the last notice: certificate and key are two files.
const SETTLE: Duration = Duration::from_millis(200);
/// After the first, should there be no end of them.
const PATIENCE: Duration = Duration::from_secs(2);
/// As many links as the kernel follows on one way.
const LINKS: usize = 40;
/// Batches of notices that are read together.
const DRAIN: usize = 1024;

/// A name came, went, leads elsewhere, or its file was written or given other rights.
const IN_DIRECTORY: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_ONLYDIR)
    .union(ON_FILE);
/// A directory itself went.
const PASSED: AddWatchFlags =
    AddWatchFlags::IN_DELETE_SELF.union(AddWatchFlags::IN_MOVE_SELF).union(AddWatchFlags::IN_ONLYDIR);
const ON_FILE: AddWatchFlags = AddWatchFlags::IN_CLOSE_WRITE
    .union(AddWatchFlags::IN_ATTRIB)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF);

/// Watches files, whether they are there or not.
#[derive(Debug)]
pub struct CredentialsWatch {
    /// None: the kernel has no more of them for us.
    notices: Option<Notices>,
    /// The files, and what they were at the last look.
    files: BTreeMap<PathBuf, Option<Look>>,
    /// Directories, by what the kernel calls the watch, and the names that matter there.
    watched: HashMap<WatchDescriptor, BTreeSet<OsString>>,
    /// What could not be watched, said once.
    complained: BTreeSet<(PathBuf, String)>,
    /// After the first notice: when to look at the latest, and when to look as it is.
    due: Option<(Instant, Instant)>,
}

/// What tells a file from the one that was there before. Whatever is done to a file changes its ctime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    device: u64,
    inode: u64,
    changed: (i64, i64),
    size: u64,
}

impl Look {
    fn at(file: &Path) -> Option<Self> {
        let found = fs::metadata(file).ok()?;
        let changed = (found.ctime(), found.ctime_nsec());
        Some(Self { device: found.dev(), inode: found.ino(), changed, size: found.size() })
    }
}

impl Default for CredentialsWatch {
    fn default() -> Self {
        Self::new()
    }
}

impl CredentialsWatch {
    /// Watches nothing yet; needs a tokio runtime.
    pub fn new() -> Self {
        let notices = Notices::new().inspect_err(|error| {
            log::warn!(
                "new certificates are not noticed ({error}; fs.inotify.max_user_instances may be too low): they are taken when \
                 a session starts"
            );
        });
        Self {
            notices: notices.ok(),
            files: BTreeMap::new(),
            watched: HashMap::new(),
            complained: BTreeSet::new(),
            due: None,
        }
    }

    /// Watches these files from now on, and no others. What happens to them after this is told; so say first what to watch,
    /// and read then. What happened before to those that were watched already is told too.
    pub fn watch(&mut self, files: impl IntoIterator<Item = PathBuf>) {
        // A name from the root on: only such a one leads to the same place for ever.
        let files = files.into_iter().filter_map(|file| std::path::absolute(file).ok());
        let before = std::mem::take(&mut self.files);
        let seen = |file: PathBuf| (before.get(&file).copied().flatten(), file);
        self.files = files.map(seen).map(|(look, file)| (file, look)).collect();
        self.ask();
        for (file, look) in &mut self.files {
            if !before.contains_key(file) {
                *look = Look::at(file);
            }
        }
    }

    /// Waits until one of the files is another one, or has changed, since it was last told; a while after the last notice, so
    /// that certificate and key are told together. May be dropped and called again at any time: nothing is forgotten.
    pub async fn changed(&mut self) {
        loop {
            if let Some((latest, settled)) = self.due {
                tokio::select! {
                    () = sleep_until(latest.min(settled)) => {
                        self.due = None;
                        if self.look() {
                            return;
                        }
                    }
                    heard = heard(self.notices.as_ref()) => self.take(heard),
                }
            } else {
                let heard = heard(self.notices.as_ref()).await;
                self.take(heard);
            }
        }
    }

    /// Reads the notices that are there.
    fn take(&mut self, heard: io::Result<()>) {
        let mut relevant = heard.is_err();
        let Some(queue) = &self.notices else { return };
        for _ in 0..DRAIN {
            let notices = match queue.take() {
                Ok(notices) if notices.is_empty() => break,
                Ok(notices) => notices,
                Err(_) => Vec::new(),
            };
            for notice in notices {
                let lost = notice.mask.contains(AddWatchFlags::IN_Q_OVERFLOW);
                // Without a name it is about the directory, or about a file that is watched itself.
                let ours = |names: &BTreeSet<OsString>| notice.name.as_ref().is_none_or(|name| names.contains(name));
                relevant |= lost || self.watched.get(&notice.wd).is_some_and(ours);
                if notice.mask.contains(AddWatchFlags::IN_IGNORED) {
                    self.watched.remove(&notice.wd);
                }
            }
        }
        if relevant {
            let now = Instant::now();
            let settled = self.due.map_or(now + PATIENCE, |(_, settled)| settled);
            self.due = Some((now + SETTLE, settled));
            // A directory may be there now that was not, or a link lead elsewhere.
            self.ask();
        }
    }

    /// Whether a file is another one.
    fn look(&mut self) -> bool {
        let mut changed = false;
        for (file, last) in &mut self.files {
            let now = Look::at(file);
            changed |= now != std::mem::replace(last, now);
        }
        changed
    }

    /// Asks the kernel for notices of what is on the ways to the files now, and of nothing else.
    fn ask(&mut self) {
        let mut last = None;
        for _ in 0..LINKS {
            let ways = self.ways();
            if last.as_ref() == Some(&ways) {
                break;
            }
            self.ask_for(&ways);
            // What came between walking and asking is seen by walking once more.
            last = Some(ways);
        }
    }

    fn ask_for(&mut self, ways: &BTreeMap<PathBuf, BTreeSet<OsString>>) {
        let Some(queue) = &self.notices else { return };
        let (mut watched, mut failed): (HashMap<_, BTreeSet<OsString>>, _) = (HashMap::new(), BTreeSet::new());
        for (directory, names) in ways {
            // What is only passed is quiet however much goes on in it: the next directory tells itself when it goes.
            let passed = names.iter().all(|name| is_directory(&directory.join(name)));
            match queue.add(directory, if passed { PASSED } else { IN_DIRECTORY }) {
                // Two names of one directory are one watch.
                Ok(watch) => watched.entry(watch).or_default().extend(names.iter().cloned()),
                Err(error) if is_gone(&error) => {}
                // Who may not list a directory may still open what is in it.
                Err(error) => {
                    for file in names.iter().map(|name| directory.join(name)).filter(|file| !file.is_dir()) {
                        match queue.add(&file, ON_FILE) {
                            Ok(watch) => drop(watched.entry(watch).or_default()),
                            Err(error) if is_gone(&error) => {}
                            Err(_) => drop(failed.insert((directory.clone(), error.to_string()))),
                        }
                    }
                }
            }
        }
        for watch in self.watched.keys().filter(|watch| !watched.contains_key(watch)) {
            queue.remove(*watch);
        }
        for (directory, error) in failed.difference(&self.complained) {
            log::warn!(
                "{} cannot be watched for certificates that are put there ({error}): they are taken when a session starts",
                directory.display()
            );
        }
        (self.watched, self.complained) = (watched, failed);
    }

    /// Every directory that is passed on the way to a file, links followed, with the name that is looked up there; as far as
    /// it leads.
    fn ways(&self) -> BTreeMap<PathBuf, BTreeSet<OsString>> {
        let mut ways: BTreeMap<PathBuf, BTreeSet<OsString>> = BTreeMap::new();
        for file in self.files.keys() {
            walk(file, |directory, name| {
                ways.entry(directory.to_owned()).or_default().insert(name.to_owned());
            });
        }
        ways
    }
}

/// Waits for a notice; for ever where there are none.
async fn heard(notices: Option<&Notices>) -> io::Result<()> {
    match notices {
        Some(notices) => notices.readable().await,
        None => std::future::pending().await,
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// A directory and no link to one.
fn is_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
}

fn walk(file: &Path, mut pass: impl FnMut(&Path, &OsStr)) {
    let mut at = PathBuf::from("/");
    let mut ahead: VecDeque<OsString> = parts(file);
    let mut links = 0;
    while let Some(part) = ahead.pop_front() {
        if part == ".." {
            // Nothing of it is a link any more.
            at.pop();
            continue;
        }
        pass(&at, &part);
        let next = at.join(&part);
        match fs::read_link(&next) {
            Ok(target) if links < LINKS => {
                links += 1;
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                for part in parts(&target).into_iter().rev() {
                    ahead.push_front(part);
                }
            }
            // It is there and no link.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => at = next,
            _ => return,
        }
    }
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let part = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(part).collect()
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
