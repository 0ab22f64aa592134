//! Who is enrolled and who is revoked: one file per address in `endpoints_dir`, written by the enrolment interface and by
//! `enftun-router endpoints`, read by them and at each handshake (`transport::trust`).
//!
//! `ADDRESS.pem` enrols: a certificate or public key in PEM, and above it, as explanatory text (RFC 7468 section 5.2), what
//! else is known. So one rename puts everything in force, or nothing. `ADDRESS.revoked` revokes, and keeps the same text:
//! the address is nobody's any more, and stays so until somebody adds it again. Where both are, it is revoked.

mod endpoint;

pub use endpoint::{Endpoint, Key, KeyError, encode, pem_for, sha256};

use super::status::seconds;
use crate::error::Class;
use crate::files;
use crate::transport::trust::{ENDPOINT, REVOKED, endpoint_file, revocation_file};
use nix::fcntl::{Flock, FlockArg};
use std::collections::{BTreeMap, HashMap};
use std::fs::{DirBuilder, File, Metadata};
use std::io;
use std::net::Ipv6Addr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Public keys, and who has them: the router's own business.
const MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;
/// What a writer that was killed leaves behind begins so (`files`).
const UNFINISHED: &str = ".enftun-";

/// Why the registry cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The directory.
    #[error("cannot {what} {}, where the router keeps who is enrolled (endpoints_dir)", path.display())]
    Directory {
        /// What was tried.
        what: &'static str,
        /// `endpoints_dir`.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// One file in it.
    #[error("cannot {what} {}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Somebody was faster.
    #[error("{0} is taken")]
    Taken(Ipv6Addr),
}

impl RegistryError {
    /// The host's files; or it goes by with another address.
    pub fn class(&self) -> Class {
        match self {
            Self::Directory { .. } | Self::File { .. } => Class::Environment,
            Self::Taken(_) => Class::Transient,
        }
    }
}

/// The directory, and what was read of it before.
#[derive(Debug)]
pub struct Registry {
    directory: PathBuf,
    read: Mutex<HashMap<Ipv6Addr, (Stamp, Arc<Endpoint>)>>,
}

/// The registry in the hands of one writer, of all processes.
#[derive(Debug)]
pub struct Writer<'a> {
    registry: &'a Registry,
    _lock: Flock<File>,
}

/// Files are replaced as a whole: another content is another file, or has another time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    file: u64,
    time: (i64, i64),
    length: u64,
    revoked: bool,
}

impl Stamp {
    fn of(metadata: &Metadata, revoked: bool) -> Self {
        let time = (metadata.mtime(), metadata.mtime_nsec());
        Self { file: metadata.ino(), time, length: metadata.len(), revoked }
    }
}

impl Registry {
    /// That of a router with this `endpoints_dir`, which need not be there.
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), read: Mutex::default() }
    }

    /// Everybody in it, by address. A file that cannot be understood is an endpoint without a key; its address is taken.
    pub fn list(&self) -> Result<Vec<Arc<Endpoint>>, RegistryError> {
        let failed = |source| RegistryError::Directory { what: "read", path: self.directory.clone(), source };
        let mut known = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found: BTreeMap<Ipv6Addr, (Stamp, Arc<Endpoint>)> = BTreeMap::new();
        let entries = match std::fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let Some((address, revoked)) = entry.file_name().to_str().and_then(address_of) else { continue };
            let path = entry.path();
            // The kernel finds it faster by the entry, but a link says nothing of what it leads to.
            let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
            let Ok(metadata) = (if is_link { std::fs::metadata(&path) } else { entry.metadata() }) else { continue };
            let stamp = Stamp::of(&metadata, revoked);
            if found.get(&address).is_some_and(|(other, _)| other.revoked) {
                continue;
            }
            let endpoint = match known.get(&address) {
                Some((before, endpoint)) if *before == stamp => Arc::clone(endpoint),
                _ => match read(address, &path, revoked)? {
                    Some(endpoint) => Arc::new(endpoint),
                    None => continue,
                },
            };
            found.insert(address, (stamp, endpoint));
        }
        let all = found.values().map(|(_, endpoint)| Arc::clone(endpoint)).collect();
        *known = found.into_iter().collect();
        Ok(all)
    }

    /// Who has this address, or had it until it was revoked.
    pub fn find(&self, address: Ipv6Addr) -> Result<Option<Endpoint>, RegistryError> {
        match read(address, &revocation_file(&self.directory, address), true)? {
            Some(revoked) => Ok(Some(revoked)),
            None => read(address, &endpoint_file(&self.directory, address), false),
        }
    }

    /// Waits until nobody else writes; makes the directory.
    pub fn write(&self) -> Result<Writer<'_>, RegistryError> {
        let path = || self.directory.clone();
        make(&self.directory).map_err(|source| RegistryError::Directory { what: "make", path: path(), source })?;
        let failed = |source| RegistryError::Directory { what: "lock", path: path(), source };
        let directory = File::open(&self.directory).map_err(failed)?;
        let lock = Flock::lock(directory, FlockArg::LockExclusive).map_err(|(_, error)| failed(error.into()))?;
        Ok(Writer { registry: self, _lock: lock })
    }
}

impl Writer<'_> {
    /// Removes what writers that were killed had not finished.
    pub fn tidy(&self) -> Result<(), RegistryError> {
        let directory = &self.registry.directory;
        let failed = |source| RegistryError::Directory { what: "tidy", path: directory.clone(), source };
        for entry in std::fs::read_dir(directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(UNFINISHED)) {
                std::fs::remove_file(entry.path()).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Enrols an address that nobody has or had; on disk when this returns.
    ///
    /// # Errors
    /// [`RegistryError::Taken`], also where somebody does not keep to the lock.
    pub fn create(&self, endpoint: &Endpoint) -> Result<(), RegistryError> {
        let address = endpoint.address;
        if self.registry.find(address)?.is_some() {
            return Err(RegistryError::Taken(address));
        }
        let path = endpoint_file(&self.registry.directory, address);
        match files::create(&path, endpoint.to_text().as_bytes(), MODE) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(RegistryError::Taken(address)),
            written => written.map_err(|source| RegistryError::File { what: "write", path, source }),
        }
    }

    /// Enrols an address whoever had it, and lifts its revocation.
    pub fn replace(&self, endpoint: &Endpoint) -> Result<(), RegistryError> {
        let endpoint = Endpoint { revoked: None, ..endpoint.clone() };
        self.put(endpoint_file(&self.registry.directory, endpoint.address), &endpoint)?;
        // Last: until then it is revoked, also for whoever is killed here.
        self.remove(revocation_file(&self.registry.directory, endpoint.address))
    }

    /// Takes the address from whoever has it; nobody may use it from now on. Again, it changes nothing.
    pub fn revoke(&self, address: Ipv6Addr, now: u64) -> Result<Endpoint, RegistryError> {
        let before = self.registry.find(address)?.unwrap_or_else(|| Endpoint::unknown(address));
        let revoked = Endpoint { revoked: before.revoked.or(Some(now)), ..before };
        self.put(revocation_file(&self.registry.directory, address), &revoked)?;
        // Last, as above.
        self.remove(endpoint_file(&self.registry.directory, address))?;
        Ok(revoked)
    }

    fn put(&self, path: PathBuf, endpoint: &Endpoint) -> Result<(), RegistryError> {
        let written = files::replace(&path, endpoint.to_text().as_bytes(), MODE);
        written.map_err(|source| RegistryError::File { what: "write", path, source })
    }

    fn remove(&self, path: PathBuf) -> Result<(), RegistryError> {
        let directory = &self.registry.directory;
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| File::open(directory)?.sync_all()).map_err(|source| RegistryError::File {
                what: "remove",
                path,
                source,
            }),
        }
    }
}

/// The address that a file of this name is about, and whether it revokes it.
fn address_of(name: &str) -> Option<(Ipv6Addr, bool)> {
    let (text, end) = name.rsplit_once('.')?;
    let address: Ipv6Addr = text.parse().ok()?;
    // At a handshake another spelling is not found.
    (address.to_string() == text && [ENDPOINT, REVOKED].contains(&end)).then_some((address, end == REVOKED))
}

fn read(address: Ipv6Addr, path: &Path, revoked: bool) -> Result<Option<Endpoint>, RegistryError> {
    match std::fs::read(path) {
        Ok(bytes) => {
            let since = || std::fs::metadata(path).and_then(|file| file.modified()).map_or(0, seconds);
            Ok(Some(Endpoint::parse(address, &String::from_utf8_lossy(&bytes), revoked.then(since))))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(RegistryError::File { what: "read", path: path.to_owned(), source }),
    }
}

/// For its owner only: that of the directory above it, when root makes it for the router.
fn make(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory)?;
    files::yield_to_owner_of(directory.parent().unwrap_or(Path::new("/")), &File::open(directory)?);
    Ok(())
}

#[cfg(test)]
mod tests;
