//! Giving up what the daemon does not need, for good, before any thread exists: it ends as its own user with
//! CAP_NET_ADMIN alone. It grants nothing, and it dies rather than run with more than it should have.

use caps::{CapSet, Capability, CapsHashSet};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::{self, Gid, Uid, User};
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::PathBuf;
use std::{fs, io};

/// Why the daemon cannot run with the privileges it should have.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// No such user.
    #[error(
        "there is no user {0:?} to run as; create it (`systemd-sysusers`, or `useradd --system {0}`) or name another with --user"
    )]
    NoUser(String),
    /// The user database cannot be read.
    #[error("look up the user {user:?}")]
    LookUp {
        /// Its name.
        user: String,
        /// Why.
        source: Errno,
    },
    /// Started as root to stay root.
    #[error("the daemon does not run as root: name an ordinary user with --user")]
    Root,
    /// Not root, and without the one capability that is needed.
    #[error("the capability CAP_NET_ADMIN is missing: start it with systemd (`systemctl start enftund`) or as root")]
    NoNetAdmin,
    /// A directory for state cannot be made.
    #[error("make the directory {path}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A system call failed.
    #[error("give up privileges: {call}")]
    Drop {
        /// Which.
        call: &'static str,
        /// Why.
        source: Errno,
    },
    /// A capability set cannot be changed.
    #[error("give up capabilities")]
    Capabilities(#[from] caps::errors::CapsError),
    /// Root could be had again.
    #[error("root could be had again after it was given up: refusing to run")]
    NotForGood,
}

/// What the process ended up as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// The user id it runs as.
    pub uid: u32,
    /// It should have changed its user id, and the user namespace does not have the other one.
    pub unmapped: bool,
}

/// Leaves the process with CAP_NET_ADMIN and nothing else, as `user` when it was started as root. The directories are made
/// for that user first. Call it before the first thread is started: capabilities belong to threads.
pub fn drop_privileges(user: &str, directories: &[PathBuf]) -> Result<Dropped, PrivilegeError> {
    let result = if unistd::geteuid().is_root() {
        let user = look_up(user)?;
        if user.uid.is_root() {
            return Err(PrivilegeError::Root);
        }
        become_user(&user, directories)?
    } else {
        if !caps::has_cap(None, CapSet::Permitted, Capability::CAP_NET_ADMIN)? {
            return Err(PrivilegeError::NoNetAdmin);
        }
        Dropped { uid: unistd::geteuid().as_raw(), unmapped: false }
    };
    keep_net_admin_only()?;
    prctl::set_no_new_privs().map_err(failed("no_new_privs"))?;
    // A core dump would hold private keys.
    prctl::set_dumpable(false).map_err(failed("dumpable"))?;
    if !result.unmapped && (unistd::setuid(Uid::from_raw(0)).is_ok() || unistd::seteuid(Uid::from_raw(0)).is_ok()) {
        return Err(PrivilegeError::NotForGood);
    }
    Ok(result)
}

/// To whom root gives a file that the daemon shall read: `user`. None: this process is not root, or its user namespace has no
/// such user, and files stay whose they are.
pub fn owner_for(user: &str) -> Result<Option<(Uid, Gid)>, PrivilegeError> {
    if !unistd::geteuid().is_root() {
        return Ok(None);
    }
    let user = look_up(user)?;
    Ok(is_mapped(user.uid).then_some((user.uid, user.gid)))
}

fn look_up(name: &str) -> Result<User, PrivilegeError> {
    let failed = |source| PrivilegeError::LookUp { user: name.to_owned(), source };
    let found = match name.parse::<u32>() {
        Ok(uid) => User::from_uid(Uid::from_raw(uid)).map_err(failed)?,
        Err(_) => User::from_name(name).map_err(failed)?,
    };
    found.ok_or_else(|| PrivilegeError::NoUser(name.to_owned()))
}

fn become_user(user: &User, directories: &[PathBuf]) -> Result<Dropped, PrivilegeError> {
    let unmapped = !is_mapped(user.uid);
    for path in directories {
        make_directory(path, (!unmapped).then_some((user.uid, user.gid)))
            .map_err(|source| PrivilegeError::Directory { path: path.clone(), source })?;
    }
    if unmapped {
        empty_bounding_set()?;
        return Ok(Dropped { uid: unistd::geteuid().as_raw(), unmapped });
    }
    prctl::set_keepcaps(true).map_err(failed("keepcaps"))?;
    unistd::setgroups(&[]).map_err(failed("setgroups"))?;
    unistd::setresgid(user.gid, user.gid, user.gid).map_err(failed("setresgid"))?;
    // CAP_SETPCAP goes with the user id.
    empty_bounding_set()?;
    unistd::setresuid(user.uid, user.uid, user.uid).map_err(failed("setresuid"))?;
    prctl::set_keepcaps(false).map_err(failed("keepcaps"))?;
    Ok(Dropped { uid: user.uid.as_raw(), unmapped })
}

fn empty_bounding_set() -> Result<(), PrivilegeError> {
    for capability in caps::all() {
        if capability != Capability::CAP_NET_ADMIN && caps::has_cap(None, CapSet::Bounding, capability)? {
            caps::drop(None, CapSet::Bounding, capability)?;
        }
    }
    Ok(())
}

/// In a user namespace only the ids in its map exist.
fn is_mapped(uid: Uid) -> bool {
    let Ok(map) = fs::read_to_string("/proc/self/uid_map") else { return true };
    map.lines().any(|line| {
        let mut fields = line.split_whitespace().map(|field| field.parse::<u64>().unwrap_or(0));
        let (first, _, count) = (fields.next(), fields.next(), fields.next());
        match (first, count) {
            (Some(first), Some(count)) => (first..first.saturating_add(count)).contains(&u64::from(uid.as_raw())),
            _ => false,
        }
    })
}

fn make_directory(path: &PathBuf, owner: Option<(Uid, Gid)>) -> io::Result<()> {
    if !path.exists() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(path)?;
        if let Some((uid, gid)) = owner {
            chown(path, Some(uid.as_raw()), Some(gid.as_raw()))?;
        }
    }
    Ok(())
}

fn keep_net_admin_only() -> Result<(), PrivilegeError> {
    let only = CapsHashSet::from([Capability::CAP_NET_ADMIN]);
    // In this order: the effective set, which is still full where no user id was changed, must not exceed the permitted one.
    // Ambient last: children (nft) act with the same capability.
    for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable, CapSet::Ambient] {
        // Where a service manager has done it already, it may forbid capset(2).
        if caps::read(None, set)? != only {
            caps::set(None, set, &only)?;
        }
    }
    Ok(())
}

fn failed(call: &'static str) -> impl Fn(Errno) -> PrivilegeError {
    move |source| PrivilegeError::Drop { call, source }
}
