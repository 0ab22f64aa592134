//! What the host lends us: the groups of trusted links, and settings. Taken before it is needed, given back when nothing
//! needs it any more; what was there before is [`previous`](super::previous)'s business.

use super::previous::Found;
use super::{Kernel, KernelError, group, sysctl};
use crate::plan::Host;
use std::collections::BTreeSet;

/// What is the host's and no single tunnel's, in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostApplied {
    /// What was changed, as commands; empty when all was there already.
    pub changes: Vec<String>,
    /// Trusted interfaces that have come, as the commands that put them into their groups. Nobody did wrong.
    pub arrived: Vec<String>,
    /// While there are trusted interfaces: links in a group that is not ours, with its number. Their routes are used too.
    pub foreign: BTreeSet<(String, u32)>,
}

impl Kernel {
    /// What is there now.
    pub(super) async fn found(&self, host: &Host) -> Result<Found, KernelError> {
        let mut found = Found::default();
        if self.previous.cares_for_links(host) {
            found.links = group::observe(&self.netlink)
                .await
                .map_err(|error| KernelError::observe("the groups of links", error))?;
        }
        for file in self.previous.sysctls(host) {
            let value = sysctl::observe(&file)
                .map_err(|source| KernelError::Observe { what: "a setting of the host", source })?;
            found.sysctls.extend(value.map(|value| (file, value)));
        }
        Ok(found)
    }

    /// Takes what the host needs, and does not have yet. Goes on after an error.
    pub(super) async fn take(&mut self, host: &Host, found: &mut Found, done: &mut HostApplied) -> Vec<KernelError> {
        let due = match self.previous.take(host, found) {
            Ok(due) => due,
            Err(error) => return vec![error],
        };
        let mut errors = Vec::new();
        for (changes, told) in [(due.changes, &mut done.changes), (due.arrived, &mut done.arrived)] {
            for change in changes {
                match self.execute(&change).await {
                    Ok(()) => {
                        told.push(change.to_string());
                        found.after(&change);
                    }
                    Err(error) => errors.push(error),
                }
            }
        }
        errors
    }

    /// Gives back what the host does not need any more. Goes on after an error.
    pub(super) async fn give_back(
        &mut self,
        host: &Host,
        mut found: Found,
        done: &mut HostApplied,
    ) -> Vec<KernelError> {
        let (mut errors, mut failed) = (Vec::new(), Vec::new());
        for change in self.previous.owed(host, &found) {
            match self.execute(&change).await {
                Ok(()) => {
                    done.changes.push(change.to_string());
                    found.after(&change);
                }
                Err(error) => {
                    errors.push(error);
                    failed.push(change);
                }
            }
        }
        errors.extend(self.previous.forget(host, &found, &failed).err());
        if !host.groups.is_empty() {
            let foreign = found.links.into_iter().filter(|link| link.group != group::DEFAULT);
            let foreign = foreign.filter(|link| !host.groups.contains_key(&link.name));
            done.foreign = foreign.map(|link| (link.name, link.group)).collect();
        }
        errors
    }
}
