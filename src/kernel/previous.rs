//! What was there before we changed it, of things that are not ours: the groups of links, settings of the host, and which ports
//! of router cards were down. It is kept
//! in `previous.json` of the runtime directory, written before each change, so that whoever comes next gives it back, also
//! after a crash. It changes nothing in the kernel itself.
//!
//! What somebody else writes while we hold a thing is what he gets back when we let go; what he wrote since we last wrote
//! stays as it is then.

use super::KernelError;
use super::group;
use crate::files::{Here, replace};
use crate::plan::{Change, Host};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// One thing that we changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Before<V: Ord> {
    /// What somebody else wrote last.
    value: V,
    /// Everything that we wrote since we hold it: what is found of it is not somebody else's.
    ours: BTreeSet<V>,
}

impl<V: Ord + Clone> Before<V> {
    /// What is to be written back over what is found.
    fn owed(&self, found: &V) -> Option<V> {
        (self.ours.contains(found) && self.value != *found).then(|| self.value.clone())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Document {
    version: u32,
    here: Here,
    /// By the link's index: a link that was deleted and came back has another, and owes nothing to the old one.
    groups: BTreeMap<u32, Before<u32>>,
    /// By the file below `/proc/sys/net`.
    sysctls: BTreeMap<String, Before<String>>,
    /// Links that were down before we set them up, by index.
    #[serde(default)]
    raised: BTreeSet<u32>,
}

/// What is there of what a host needs beyond its own things.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub links: Vec<group::Found>,
    /// Without those that this kernel does not have.
    pub sysctls: BTreeMap<String, String>,
}

impl Found {
    /// As it is after a change.
    pub fn after(&mut self, change: &Change) {
        match change {
            Change::SetGroup { index, group, .. } => {
                self.links.iter_mut().filter(|link| link.index == *index).for_each(|link| link.group = *group);
            }
            Change::WriteSysctl { file, value } => drop(self.sysctls.insert(file.clone(), value.clone())),
            _ => {}
        }
    }
}

/// What must be written.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    /// Settings, and links that somebody took out of their groups.
    pub changes: Vec<Change>,
    /// Links that are new here.
    pub arrived: Vec<Change>,
}

/// The record.
#[derive(Debug)]
pub(super) struct Previous {
    path: PathBuf,
    document: Document,
}

impl Previous {
    /// Reads it. What another boot or namespace left counts for nothing; so does a file that is damaged, which is said in the
    /// log.
    pub fn open(runtime_dir: &Path) -> Result<Self, KernelError> {
        let path = runtime_dir.join("previous.json");
        let failed = |source| KernelError::Previous { path: path.clone(), source };
        let here = Here::now().map_err(failed)?;
        let kept = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice::<Document>(&bytes)
                .inspect_err(|error| {
                    let path = path.display();
                    log::error!(
                        "{path} is damaged ({error}): group numbers and settings from before are not known any more"
                    );
                })
                .ok(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(failed(source)),
        };
        let nothing = || Document {
            version: 1,
            here: here.clone(),
            groups: BTreeMap::new(),
            sysctls: BTreeMap::new(),
            raised: BTreeSet::new(),
        };
        let document = kept.filter(|document| document.here == here).unwrap_or_else(nothing);
        Ok(Self { path, document })
    }

    /// Whether links must be looked at for this host.
    pub fn cares_for_links(&self, host: &Host) -> bool {
        !host.groups.is_empty() || !self.document.groups.is_empty()
    }

    /// The settings that must be looked at for this host.
    pub fn sysctls(&self, host: &Host) -> BTreeSet<String> {
        let kept = self.document.sysctls.keys().cloned();
        host.sysctls.keys().map(|file| (*file).to_owned()).chain(kept).collect()
    }

    /// What must be written so that the host has what it needs. What is there now is on disk before this returns.
    pub fn take(&mut self, host: &Host, found: &Found) -> Result<Due, KernelError> {
        let mut next = self.document.clone();
        let mut due = Due::default();
        for (file, wanted) in &host.sysctls {
            let there = found.sysctls.get(*file);
            if there.is_some_and(|there| there == wanted) {
                continue;
            }
            if let Some(there) = there {
                remember(&mut next.sysctls, (*file).to_owned(), there, &(*wanted).to_owned());
            }
            due.changes.push(Change::WriteSysctl { file: (*file).to_owned(), value: (*wanted).to_owned() });
        }
        // What was kept of links that are gone is of no use.
        next.groups.retain(|index, _| found.links.iter().any(|link| link.index == *index));
        for link in &found.links {
            let Some(wanted) = host.groups.get(&link.name).filter(|wanted| **wanted != link.group) else { continue };
            let known = remember(&mut next.groups, link.index, &link.group, wanted);
            let change = Change::SetGroup { dev: link.name.clone(), index: link.index, group: *wanted };
            if known { due.changes.push(change) } else { due.arrived.push(change) }
        }
        self.keep(next)?;
        Ok(due)
    }

    /// What must be written back because the host does not need it any more.
    pub fn owed(&self, host: &Host, found: &Found) -> Vec<Change> {
        let wanted = |name: &str| host.groups.contains_key(name);
        let links = found.links.iter().filter(|link| !wanted(&link.name)).filter_map(|link| {
            let group = self.document.groups.get(&link.index)?.owed(&link.group)?;
            Some(Change::SetGroup { dev: link.name.clone(), index: link.index, group })
        });
        let sysctls = self.document.sysctls.iter().filter(|(file, _)| !host.sysctls.contains_key(file.as_str()));
        let sysctls = sysctls.filter_map(|(file, before)| {
            let value = before.owed(found.sysctls.get(file)?)?;
            Some(Change::WriteSysctl { file: file.clone(), value })
        });
        links.chain(sysctls).collect()
    }

    /// Forgets what the host does not need any more, but for what could not be written back.
    pub fn forget(&mut self, host: &Host, found: &Found, failed: &[Change]) -> Result<(), KernelError> {
        let mut next = self.document.clone();
        let held = |index: u32| {
            found.links.iter().any(|link| link.index == index && host.groups.contains_key(&link.name))
                || failed.iter().any(|change| matches!(change, Change::SetGroup { index: of, .. } if *of == index))
        };
        next.groups.retain(|index, _| held(*index));
        let needed = |name: &str| {
            host.sysctls.contains_key(name)
                || failed.iter().any(|change| matches!(change, Change::WriteSysctl { file, .. } if file == name))
        };
        next.sysctls.retain(|file, _| needed(file));
        self.keep(next)
    }

    /// A link is about to be set up that was down.
    pub fn raise(&mut self, index: u32) -> Result<(), KernelError> {
        let mut next = self.document.clone();
        next.raised.insert(index);
        self.keep(next)
    }

    /// Whether a link was down before we set it up.
    pub fn is_raised(&self, index: u32) -> bool {
        self.document.raised.contains(&index)
    }

    /// It is down again.
    pub fn lowered(&mut self, index: u32) -> Result<(), KernelError> {
        let mut next = self.document.clone();
        next.raised.remove(&index);
        self.keep(next)
    }

    /// What was kept of links that are gone is of no use.
    pub fn forget_vanished(&mut self) -> Result<(), KernelError> {
        let mut next = self.document.clone();
        next.raised.retain(|index| nix::net::if_::if_indextoname(*index).is_ok());
        self.keep(next)
    }

    fn keep(&mut self, next: Document) -> Result<(), KernelError> {
        if next == self.document {
            return Ok(());
        }
        self.write(&next).map_err(|source| KernelError::Previous { path: self.path.clone(), source })?;
        self.document = next;
        Ok(())
    }

    fn write(&self, document: &Document) -> io::Result<()> {
        if document.groups.is_empty() && document.sysctls.is_empty() && document.raised.is_empty() {
            return match fs::remove_file(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                removed => removed,
            };
        }
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory)?;
        }
        replace(&self.path, &serde_json::to_vec(document)?, 0o644)
    }
}

/// Takes note that what is found is about to be changed. Whether it was known before.
fn remember<K: Ord, V: Ord + Clone>(kept: &mut BTreeMap<K, Before<V>>, key: K, found: &V, wanted: &V) -> bool {
    let known = kept.contains_key(&key);
    let before = kept.entry(key).or_insert_with(|| Before { value: found.clone(), ours: BTreeSet::new() });
    if !before.ours.contains(found) {
        before.value = found.clone();
    }
    before.ours.insert(wanted.clone());
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "ipv4/conf/all/src_valid_mark";

    fn host(groups: &[(&str, u32)]) -> Host {
        let groups = groups.iter().map(|(name, number)| ((*name).to_owned(), *number)).collect();
        Host { groups, ..Host::default() }
    }

    fn links(found: &[(u32, &str, u32)]) -> Found {
        let links = found.iter().map(|(index, name, group)| {
            let name = (*name).to_owned();
            group::Found { index: *index, name, group: *group }
        });
        Found { links: links.collect(), ..Found::default() }
    }

    fn set(dev: &str, index: u32, group: u32) -> Change {
        Change::SetGroup { dev: dev.to_owned(), index, group }
    }

    struct Story {
        directory: tempfile::TempDir,
        previous: Previous,
    }

    impl Story {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            Self { previous: Previous::open(directory.path()).unwrap(), directory }
        }

        /// The process is killed and another begins.
        fn again(&mut self) {
            self.previous = Previous::open(self.directory.path()).unwrap();
        }

        fn file(&self) -> PathBuf {
            self.directory.path().join("previous.json")
        }
    }

    #[test]
    fn a_number_is_given_back_also_by_another_process_and_nothing_stays_on_disk() {
        let mut story = Story::new();
        let lan = host(&[("eth1", 364)]);
        let due = story.previous.take(&lan, &links(&[(3, "eth1", 5), (2, "eth0", 0)])).unwrap();
        assert_eq!((due.arrived, due.changes), (vec![set("eth1", 3, 364)], vec![]));
        story.again();
        let held = links(&[(3, "eth1", 364)]);
        assert_eq!(story.previous.take(&lan, &held).unwrap(), Due::default());
        assert_eq!(story.previous.owed(&lan, &held), []);
        assert_eq!(story.previous.owed(&host(&[]), &held), [set("eth1", 3, 5)]);
        story.previous.forget(&host(&[]), &held, &[]).unwrap();
        assert!(!story.file().exists());
        story.again();
        assert!(!story.previous.cares_for_links(&host(&[])));
    }

    #[test]
    fn a_process_that_is_killed_between_the_record_and_the_change_took_nothing() {
        let mut story = Story::new();
        let found = links(&[(3, "eth1", 5)]);
        story.previous.take(&host(&[("eth1", 364)]), &found).unwrap();
        story.again();
        assert_eq!(story.previous.owed(&host(&[]), &found), []);
        // Also when it was about to change our own number to another of ours.
        story.previous.take(&host(&[("eth1", 364)]), &found).unwrap();
        let held = links(&[(3, "eth1", 364)]);
        story.previous.take(&host(&[("eth1", 365)]), &held).unwrap();
        story.again();
        assert_eq!(story.previous.owed(&host(&[]), &held), [set("eth1", 3, 5)]);
    }

    #[test]
    fn what_somebody_else_wrote_meanwhile_is_his() {
        let lan = host(&[("eth1", 364)]);
        let mut story = Story::new();
        story.previous.take(&lan, &links(&[(3, "eth1", 5)])).unwrap();
        // While it is held it is put back, and he gets what he wrote last.
        let due = story.previous.take(&lan, &links(&[(3, "eth1", 7)])).unwrap();
        assert_eq!((due.arrived, due.changes), (vec![], vec![set("eth1", 3, 364)]));
        assert_eq!(story.previous.owed(&host(&[]), &links(&[(3, "eth1", 364)])), [set("eth1", 3, 7)]);
        // When it is let go, what is not ours any more stays.
        assert_eq!(story.previous.owed(&host(&[]), &links(&[(3, "eth1", 9)])), []);
    }

    #[test]
    fn what_was_so_before_is_not_ours() {
        let mut story = Story::new();
        let found = links(&[(3, "eth1", 364)]);
        assert_eq!(story.previous.take(&host(&[("eth1", 364)]), &found).unwrap(), Due::default());
        assert!(!story.file().exists());
        assert_eq!(story.previous.owed(&host(&[]), &found), []);
    }

    #[test]
    fn a_link_that_came_back_owes_nothing_and_one_with_another_name_is_still_known() {
        let lan = host(&[("eth1", 364)]);
        let mut story = Story::new();
        story.previous.take(&lan, &links(&[(3, "eth1", 5)])).unwrap();
        assert_eq!(story.previous.owed(&lan, &links(&[(3, "eth9", 364)])), [set("eth9", 3, 5)]);
        let due = story.previous.take(&lan, &links(&[(4, "eth1", 0)])).unwrap();
        assert_eq!((due.arrived, due.changes), (vec![set("eth1", 4, 364)], vec![]));
        assert_eq!(story.previous.owed(&host(&[]), &links(&[(4, "eth1", 364)])), [set("eth1", 4, 0)]);
    }

    #[test]
    fn settings_are_given_back_and_what_could_not_be_is_not_forgotten() {
        let needs = Host { sysctls: BTreeMap::from([(FILE, "1")]), ..Host::default() };
        let value = |value: &str| Found { sysctls: BTreeMap::from([(FILE.into(), value.into())]), links: Vec::new() };
        let write = |value: &str| Change::WriteSysctl { file: FILE.into(), value: value.into() };
        let mut story = Story::new();
        assert_eq!(story.previous.take(&needs, &value("0")).unwrap().changes, [write("1")]);
        story.again();
        assert_eq!(story.previous.sysctls(&Host::default()), BTreeSet::from([FILE.to_owned()]));
        let owed = story.previous.owed(&Host::default(), &value("1"));
        assert_eq!(owed, [write("0")]);
        story.previous.forget(&Host::default(), &value("1"), &owed).unwrap();
        assert_eq!(story.previous.owed(&Host::default(), &value("1")), owed);
        // A kernel without it is told what it lacks.
        let mut story = Story::new();
        assert_eq!(story.previous.take(&needs, &Found::default()).unwrap().changes, [write("1")]);
        assert!(!story.file().exists());
    }

    #[test]
    fn another_boot_or_namespace_and_a_damaged_file_count_for_nothing() {
        let mut story = Story::new();
        story.previous.take(&host(&[("eth1", 364)]), &links(&[(3, "eth1", 5)])).unwrap();
        let text = fs::read_to_string(story.file()).unwrap();
        let other = of_another_namespace(&text);
        for content in [other.as_str(), "{", ""] {
            fs::write(story.file(), content).unwrap();
            story.again();
            assert_eq!(story.previous.owed(&host(&[]), &links(&[(3, "eth1", 364)])), []);
        }
    }

    /// The record of another namespace.
    fn of_another_namespace(text: &str) -> String {
        let mut value: serde_json::Value = serde_json::from_str(text).unwrap();
        value["here"]["namespace"] = 1.into();
        value.to_string()
    }
}
