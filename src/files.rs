//! What every room that keeps something in a file needs: to replace it as a whole, to set a damaged one aside, and to know
//! whether it tells of this boot and this network namespace. It knows nothing of what is kept.

use serde::{Deserialize, Serialize};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::{fs, io};

/// The namespace whose kernel state a file tells of: a boot and a network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Here {
    boot: String,
    namespace: u64,
}

impl Here {
    /// That of the calling thread.
    pub fn now() -> io::Result<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        Ok(Self { boot, namespace: fs::metadata("/proc/thread-self/ns/net")?.ino() })
    }
}

/// Replaces a file as a whole: a reader sees the old or the new content, also after a power cut. The mode is the file's
/// whatever the mask.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let (directory, file) = beside(path, content, mode)?;
    file.persist(path).map_err(|error| error.error)?;
    fs::File::open(directory)?.sync_all()
}

/// As [`replace`]; root's file is its whose `like` is.
pub fn replace_like(path: &Path, content: &[u8], mode: u32, like: &Path) -> io::Result<()> {
    let (directory, file) = beside(path, content, mode)?;
    yield_to_owner_of(like, file.as_file());
    file.persist(path).map_err(|error| error.error)?;
    fs::File::open(directory)?.sync_all()
}

/// As [`replace`], where there is nothing yet; `AlreadyExists` otherwise.
pub fn create(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let (directory, file) = beside(path, content, mode)?;
    file.persist_noclobber(path).map_err(|error| error.error)?;
    fs::File::open(directory)?.sync_all()
}

/// The directory that a file is in.
pub fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes what was done to the names in the directory of `path` last over a power cut.
pub fn sync_directory_of(path: &Path) -> io::Result<()> {
    fs::File::open(directory_of(path))?.sync_all()
}

/// The content in a file without a name yet, in the directory where it shall be.
fn beside<'a>(path: &'a Path, content: &[u8], mode: u32) -> io::Result<(&'a Path, tempfile::NamedTempFile)> {
    let directory = directory_of(path);
    let mut file = tempfile::Builder::new()
        .prefix(".enftun-")
        .permissions(fs::Permissions::from_mode(mode))
        .tempfile_in(directory)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    yield_to_owner_of(directory, file.as_file());
    Ok((directory, file))
}

/// Root's files in a directory of the daemon's user are that user's: the daemon is not root. Where that cannot be, they stay
/// as they are.
pub fn yield_to_owner_of(directory: &Path, file: &fs::File) {
    if nix::unistd::geteuid().is_root()
        && let Ok(owner) = fs::metadata(directory)
        && let Err(error) = fchown(file, Some(owner.uid()), Some(owner.gid()))
    {
        log::debug!("give a file to the owner of {}: {error}", directory.display());
    }
}

/// Gives a damaged file another name, which is returned.
pub fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".damaged-{seconds}"));
    let aside = path.with_file_name(name);
    if aside.symlink_metadata().is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    fs::rename(path, &aside)?;
    Ok(aside)
}
