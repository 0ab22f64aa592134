//! Text that is shown nowhere: a password, a token.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use super::open_to_others;

/// No password is longer, bytes.
const LIMIT: u64 = 4096;

/// Why a password cannot be had from a file.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It is not there, or may not be read.
    #[error("cannot read the password file {}", path.display())]
    Read {
        /// Where.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Others can read it.
    #[error(
        "the password file {path} is open to others (mode {mode:04o}): close it with `chmod 600 {path}`",
        path = path.display()
    )]
    Open {
        /// Where.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Nothing in it.
    #[error("the password file {} has nothing in its first line", path.display())]
    Empty {
        /// Where.
        path: PathBuf,
    },
}

/// A password or a token. It is overwritten when it goes, and printed as stars.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Keeps the text.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The first line of a file that nobody but its owner can read.
    ///
    /// # Errors
    /// It cannot be read, is open to others, or has nothing in its first line.
    pub fn read(path: &Path) -> Result<Self, SecretError> {
        let failed = |source| SecretError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        if let Some(mode) = open_to_others(path, &file).map_err(failed)? {
            return Err(SecretError::Open { path: path.to_owned(), mode });
        }
        let mut text = Zeroizing::new(String::new());
        file.take(LIMIT).read_to_string(&mut text).map_err(failed)?;
        match text.lines().next().filter(|line| !line.is_empty()) {
            Some(line) => Ok(Self::new(line.to_owned())),
            None => Err(SecretError::Empty { path: path.to_owned() }),
        }
    }

    /// The text itself, for whoever has to say it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}
