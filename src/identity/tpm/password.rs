//! The password of the owner hierarchy, from its file.

use super::error::TpmError;
use crate::identity::open_to_others;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use tss_esapi::structures::Auth;

/// The first line of a file that nobody else may read.
pub(super) fn read(path: &Path) -> Result<Auth, TpmError> {
    let wrong = |source| TpmError::PasswordFile { path: path.to_owned(), source };
    let file = File::open(path).map_err(wrong)?;
    if let Some(mode) = open_to_others(path, &file).map_err(wrong)? {
        return Err(TpmError::PasswordOpen { path: path.to_owned(), mode });
    }
    // As much as the longest password, and the end of its line.
    let mut text = Vec::with_capacity(Auth::MAX_SIZE + 2);
    file.take(Auth::MAX_SIZE as u64 + 2).read_to_end(&mut text).map_err(wrong)?;
    let end = text.iter().position(|byte| *byte == b'\n').unwrap_or(text.len());
    text.truncate(end);
    Auth::try_from(text).map_err(|_| TpmError::PasswordLong { path: path.to_owned() })
}
