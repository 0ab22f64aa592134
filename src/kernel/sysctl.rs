//! Settings of the host below `/proc/sys/net`, in the network namespace of the thread that asks.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

fn path(file: &str) -> PathBuf {
    Path::new("/proc/sys/net").join(file)
}

/// The value of a setting; none: this kernel does not have it.
pub(super) fn observe(file: &str) -> io::Result<Option<String>> {
    match fs::read_to_string(path(file)) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sets it.
pub(super) fn apply(file: &str, value: &str) -> io::Result<()> {
    fs::write(path(file), value)
}
