//! What every room that keeps something in a file needs: to replace it as a whole, and to know whether it tells of this boot
//! and this network namespace. It knows nothing of what is kept.

use serde::{Deserialize, Serialize};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
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

/// Replaces a file as a whole: a reader sees the old or the new content, also after a power cut.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::Builder::new()
        .prefix(".enftun-")
        .permissions(fs::Permissions::from_mode(mode))
        .tempfile_in(directory)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    fs::File::open(directory)?.sync_all()
}
