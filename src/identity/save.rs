//! Puts a certificate and its key in the place of those before, so that there is a pair at every moment.
//!
//! They are two files, and no file system replaces two at once. So the replacement has one moment at which it counts: when
//! the certificate gets its name. In this order, each step lasting over a power cut before the next:
//!
//! 1. the new key, whole, is `KEY_FILE.new`; and `CERT_FILE.new` takes the certificate's place on the disk ([`stage`]);
//! 2. the new certificate replaces the old one, by renaming: from here on the new pair counts;
//! 3. `KEY_FILE.new` becomes `KEY_FILE`, by renaming.
//!
//! Until step 2 the old files are not touched, whatever fails. Between 2 and 3 `KEY_FILE` is still the old key, and who loads
//! the pair finds the key of its certificate in `KEY_FILE.new` ([`super::load`] looks there). So a process that is killed
//! leaves the old pair or the new one. A request for a certificate is step 1 alone: [`complete`] does the rest when the
//! certificate is there, and until then the old pair is in use. A lock on the directory of the key keeps others from doing the
//! same meanwhile.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Gid, Uid};
use tempfile::NamedTempFile;

use super::Part;
use crate::error::Class;
use crate::files;

/// As much as a certificate takes on a disk, bytes.
const ROOM: usize = 4096;

/// The two files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairFiles {
    /// Certificate.
    pub cert_file: PathBuf,
    /// Key.
    pub key_file: PathBuf,
}

impl PairFiles {
    /// The request for a certificate that is on its way.
    pub fn request_file(&self) -> PathBuf {
        with(&self.key_file, ".csr")
    }
}

/// To whom the files shall belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: Uid,
    /// Group.
    pub gid: Gid,
}

/// Where a key is while its certificate is on the way.
pub fn next_key_file(key_file: &Path) -> PathBuf {
    with(key_file, ".new")
}

fn with(file: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(ending);
    name.into()
}

/// Why a pair could not be saved. The one before is as it was, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// A file could not be written.
    #[error("cannot write the {part} file {}; what was there before is as it was", path.display())]
    Write {
        /// Which of the two.
        part: Part,
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else does the same.
    #[error("another process makes a new pair in {} now", .0.display())]
    Busy(PathBuf),
    /// The last step failed, after which there is nothing to lose.
    #[error(
        "the new certificate is in place and counts, but its key could not be given its name: do so with `mv {} {}`",
        from.display(), to.display()
    )]
    Rename {
        /// Its name now.
        from: PathBuf,
        /// The name that it shall have.
        to: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl SaveError {
    /// Disk and permissions.
    pub fn class(&self) -> Class {
        Class::Environment
    }
}

/// A key that is on the disk beside the pair, and room for its certificate. When it is dropped, both go again.
#[derive(Debug)]
pub struct Staged {
    files: PairFiles,
    certificate: Option<NamedTempFile>,
    keep_key: bool,
    _lock: Flock<File>,
}

/// Step 1: writes `key` (PEM) as `KEY_FILE.new` and takes the room for a certificate, so that what comes after it can hardly
/// fail. The directories must exist. Without an `owner` the files belong to whoever writes them.
pub fn stage(files: &PairFiles, key: &str, owner: Option<Owner>) -> Result<Staged, SaveError> {
    let lock = lock(files)?;
    settle(files)?;
    let certificate = room(&files.cert_file, owner);
    let certificate = certificate.map_err(|source| cannot_write(Part::Certificate, &files.cert_file, source))?;
    let cannot_write = |source| cannot_write(Part::Key, &files.key_file, source);
    let next = next_key_file(&files.key_file);
    let mut name = tempfile::Builder::new();
    let file = draft(name.prefix(".enftun-"), &next, key.as_bytes(), 0o600, owner).map_err(cannot_write)?;
    file.persist(&next).map_err(|error| cannot_write(error.error))?;
    let staged = Staged { files: files.clone(), certificate: Some(certificate), keep_key: false, _lock: lock };
    files::sync_directory_of(&next).map_err(cannot_write)?;
    Ok(staged)
}

impl Staged {
    /// Steps 2 and 3: puts the certificate (PEM) and its key in place.
    pub fn commit(mut self, certificate: &str) -> Result<(), SaveError> {
        let path = &self.files.cert_file;
        if let Some(mut file) = self.certificate.take() {
            fill(file.as_file_mut(), certificate)
                .and_then(|()| file.persist(path).map_err(|error| error.error))
                .map_err(|source| cannot_write(Part::Certificate, path, source))?;
        }
        // From here on the key is the certificate's.
        self.keep_key = true;
        rename_key(&self.files)
    }

    /// Leaves the key where it is, until a certificate for it comes ([`complete`]).
    pub fn keep(mut self) {
        self.keep_key = true;
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let next = next_key_file(&self.files.key_file);
        if !self.keep_key
            && let Err(error) = fs::remove_file(&next)
        {
            log::warn!("remove {}: {error}", next.display());
        }
    }
}

fn fill(file: &mut File, content: &str) -> io::Result<()> {
    file.rewind()?;
    file.write_all(content.as_bytes())?;
    file.set_len(content.len() as u64)?;
    file.sync_all()
}

/// Does the last step of a replacement that was interrupted before it, so that the next one begins with a whole pair.
pub fn settle(files: &PairFiles) -> Result<(), SaveError> {
    let Ok(chain) = super::certificates(&files.cert_file) else { return Ok(()) };
    match chain.first().and_then(super::public_key_of) {
        Some(spki) if super::fits(&next_key_file(&files.key_file), &spki) => rename_key(files),
        _ => Ok(()),
    }
}

/// All steps at once.
pub fn save(files: &PairFiles, certificate: &str, key: &str, owner: Option<Owner>) -> Result<(), SaveError> {
    stage(files, key, owner)?.commit(certificate)
}

/// Steps 2 and 3 for a key that was left at `KEY_FILE.new`. The caller has seen that `certificate` (PEM) is for that key.
pub fn complete(files: &PairFiles, certificate: &str, owner: Option<Owner>) -> Result<(), SaveError> {
    let _lock = lock(files)?;
    room(&files.cert_file, owner)
        .and_then(|mut file| fill(file.as_file_mut(), certificate).map(|()| file))
        .and_then(|file| file.persist(&files.cert_file).map_err(|error| error.error))
        .map_err(|source| cannot_write(Part::Certificate, &files.cert_file, source))?;
    rename_key(files)
}

/// Step 3.
fn rename_key(files: &PairFiles) -> Result<(), SaveError> {
    let (from, to) = (next_key_file(&files.key_file), files.key_file.clone());
    // The order must hold after a power cut, too.
    files::sync_directory_of(&files.cert_file)
        .and_then(|()| fs::rename(&from, &to))
        .and_then(|()| files::sync_directory_of(&to))
        .map_err(|source| SaveError::Rename { from, to, source })
}

fn lock(files: &PairFiles) -> Result<Flock<File>, SaveError> {
    let directory = files::directory_of(&files.key_file);
    let file = File::open(directory).map_err(|source| cannot_write(Part::Key, &files.key_file, source))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        Errno::EWOULDBLOCK => SaveError::Busy(directory.to_owned()),
        error => cannot_write(Part::Key, &files.key_file, error.into()),
    })
}

/// As much of the disk as a certificate takes, under a name of its own.
fn room(cert_file: &Path, owner: Option<Owner>) -> io::Result<NamedTempFile> {
    let next = with(cert_file, ".new");
    // One that a killed process left.
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut name = tempfile::Builder::new();
    name.prefix(next.file_name().unwrap_or_default()).rand_bytes(0);
    draft(&mut name, &next, &[b'\n'; ROOM], 0o644, owner)
}

/// A file beside `path`, on the disk with this content, mode and owner.
fn draft(
    name: &mut tempfile::Builder<'_, '_>,
    path: &Path,
    content: &[u8],
    mode: u32,
    owner: Option<Owner>,
) -> io::Result<NamedTempFile> {
    let mut file = name.permissions(Permissions::from_mode(mode)).tempfile_in(files::directory_of(path))?;
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    if let Some(Owner { uid, gid }) = owner {
        fchown(file.as_file(), Some(uid.as_raw()), Some(gid.as_raw()))?;
    }
    file.write_all(content)?;
    file.as_file().sync_all()?;
    Ok(file)
}

fn cannot_write(part: Part, path: &Path, source: io::Error) -> SaveError {
    SaveError::Write { part, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Algorithm, Version, keypair, load, self_signed};
    use std::net::Ipv6Addr;
    use std::time::SystemTime;

    struct Pair {
        certificate: String,
        key: String,
    }

    /// A pair for `fd00::N`.
    fn pair(number: u16) -> Pair {
        let key = keypair(Algorithm::P256).unwrap();
        let address = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number);
        let certificate = self_signed(&key, address, Version::V3, SystemTime::now()).unwrap();
        Pair { certificate, key: key.serialize_pem() }
    }

    struct Place {
        files: PairFiles,
        _root: tempfile::TempDir,
    }

    fn place() -> Place {
        let root = tempfile::tempdir().unwrap();
        let [certs, keys] = ["certs", "keys"].map(|name| root.path().join(name));
        fs::create_dir(&certs).unwrap();
        fs::create_dir(&keys).unwrap();
        let files = PairFiles { cert_file: certs.join("enf0.crt.pem"), key_file: keys.join("enf0.key.pem") };
        Place { files, _root: root }
    }

    impl Place {
        fn save(&self, pair: &Pair) -> Result<(), SaveError> {
            save(&self.files, &pair.certificate, &pair.key, None)
        }

        /// Every file there is, by name.
        fn names(&self) -> Vec<String> {
            let directories =
                [&self.files.cert_file, &self.files.key_file].map(|file| files::directory_of(file).to_owned());
            let entries = directories.iter().flat_map(|directory| fs::read_dir(directory).unwrap());
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }

        /// The subject of the pair that is in use.
        fn in_use(&self) -> String {
            load(&self.files.cert_file, &self.files.key_file, SystemTime::now()).unwrap().subject
        }

        fn next(&self) -> PathBuf {
            next_key_file(&self.files.key_file)
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_pair_replaces_another_whole_and_leaves_nothing_else() {
        let place = place();
        // Longer than what comes after them.
        fs::write(&place.files.cert_file, [b'x'; 9000]).unwrap();
        fs::write(&place.files.key_file, [b'x'; 9000]).unwrap();
        for number in [1, 2] {
            let pair = pair(number);
            place.save(&pair).unwrap();
            assert_eq!(fs::read_to_string(&place.files.cert_file).unwrap(), pair.certificate);
            assert_eq!(fs::read_to_string(&place.files.key_file).unwrap(), pair.key);
            assert_eq!(place.in_use(), format!("CN=fd00::{number}"));
            assert_eq!((mode(&place.files.cert_file), mode(&place.files.key_file)), (0o644, 0o600));
            assert_eq!(place.names(), ["enf0.crt.pem", "enf0.key.pem"]);
        }
    }

    #[test]
    fn a_key_without_a_certificate_disturbs_nobody_and_goes_when_it_comes_to_nothing() {
        let place = place();
        place.save(&pair(1)).unwrap();
        let staged = stage(&place.files, &pair(2).key, None).unwrap();
        assert_eq!((place.in_use().as_str(), mode(&place.next())), ("CN=fd00::1", 0o600));
        drop(staged);
        assert_eq!(place.names(), ["enf0.crt.pem", "enf0.key.pem"]);
        assert_eq!(place.in_use(), "CN=fd00::1");
    }

    #[test]
    fn where_the_certificate_cannot_be_put_the_pair_before_is_in_use() {
        let place = place();
        place.save(&pair(1)).unwrap();
        let next = pair(2);
        let staged = stage(&place.files, &next.key, None).unwrap();
        // No file can be given the name of a directory.
        let aside = place.files.cert_file.with_extension("aside");
        fs::rename(&place.files.cert_file, &aside).unwrap();
        fs::create_dir(&place.files.cert_file).unwrap();
        let error = staged.commit(&next.certificate).unwrap_err();
        assert!(matches!(error, SaveError::Write { part: Part::Certificate, .. }), "{error}");
        fs::remove_dir(&place.files.cert_file).unwrap();
        fs::rename(&aside, &place.files.cert_file).unwrap();
        assert_eq!(place.in_use(), "CN=fd00::1");
        assert_eq!(place.names(), ["enf0.crt.pem", "enf0.key.pem"]);
    }

    #[test]
    fn a_process_that_dies_between_certificate_and_key_leaves_the_new_pair() {
        for first in [false, true] {
            let place = place();
            if !first {
                place.save(&pair(1)).unwrap();
            }
            let new = pair(2);
            stage(&place.files, &new.key, None).unwrap().keep();
            fs::write(&place.files.cert_file, &new.certificate).unwrap();
            assert_eq!(place.in_use(), "CN=fd00::2");
            fs::write(place.files.cert_file.with_extension("pem.new"), "room").unwrap();
            // The next replacement, which comes to nothing, does not lose it.
            drop(stage(&place.files, &pair(3).key, None).unwrap());
            assert_eq!(place.in_use(), "CN=fd00::2");
            assert_eq!(fs::read_to_string(&place.files.key_file).unwrap(), new.key);
        }
    }

    #[test]
    fn a_key_that_waits_for_its_certificate_is_taken_when_it_comes() {
        let place = place();
        place.save(&pair(1)).unwrap();
        let next = pair(2);
        stage(&place.files, &next.key, None).unwrap().keep();
        assert_eq!(place.in_use(), "CN=fd00::1");
        complete(&place.files, &next.certificate, None).unwrap();
        assert_eq!(place.in_use(), "CN=fd00::2");
        assert_eq!(place.names(), ["enf0.crt.pem", "enf0.key.pem"]);
    }

    #[test]
    fn two_at_a_time_do_not_mix_their_keys_and_certificates() {
        let place = place();
        place.save(&pair(1)).unwrap();
        let (first, second) = (pair(2), pair(3));
        let staged = stage(&place.files, &first.key, None).unwrap();
        assert!(matches!(place.save(&second).unwrap_err(), SaveError::Busy(_)));
        staged.commit(&first.certificate).unwrap();
        assert_eq!(place.in_use(), "CN=fd00::2");
        place.save(&second).unwrap();
        assert_eq!(place.in_use(), "CN=fd00::3");
    }

    #[test]
    fn a_next_key_that_others_may_read_is_not_used() {
        let place = place();
        place.save(&pair(1)).unwrap();
        let next = pair(2);
        stage(&place.files, &next.key, None).unwrap().keep();
        fs::write(&place.files.cert_file, &next.certificate).unwrap();
        fs::set_permissions(place.next(), Permissions::from_mode(0o644)).unwrap();
        let error = load(&place.files.cert_file, &place.files.key_file, SystemTime::now()).unwrap_err();
        assert!(matches!(error, crate::identity::LoadError::Mismatch { .. }), "{error}");
    }
}
