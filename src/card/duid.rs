//! Who our DHCPv6 server is: a DUID based on a random UUID (RFC 8415 section 11.5, RFC 6355), made once for a host and kept
//! in a file.

use crate::files;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

const UUID: [u8; 2] = [0, 4];
/// Bytes that are read of the file; it has 54.
const LONGEST: u64 = 256;

/// A DUID of type 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Duid([u8; 18]);

/// Why the DUID of this run is not the one of the next.
#[derive(Debug, thiserror::Error)]
pub enum DuidWarning {
    /// It is there, and cannot be read.
    #[error("read {}: {source}; the DHCPv6 server has another identifier in this run", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It holds something else.
    #[error(
        "{} does not hold a DUID; the DHCPv6 server has another identifier in this run: delete the file, and a new one is \
         made that stays",
        path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
    /// A new one cannot be kept.
    #[error("write {}: {source}; the DHCPv6 server has another identifier after the next start", path.display())]
    Unwritable {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The system has no random numbers: this one is the same wherever that happens.
    #[error("no random numbers for a DUID: the DHCPv6 server's identifier is not unique")]
    NotRandom,
}

impl Duid {
    /// The one in the file, which is made if it is not there. There is always one; with a warning, only for this run.
    pub fn kept(path: &Path) -> (Self, Option<DuidWarning>) {
        let in_this_run = |warning| {
            let (duid, worse) = Self::random();
            (duid, worse.or(Some(warning)))
        };
        match read(path) {
            Ok(text) => match Self::parse(&text) {
                Some(duid) => (duid, None),
                None => in_this_run(DuidWarning::Damaged { path: path.to_owned() }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (duid, warning) = Self::random();
                match files::create(path, format!("{duid}\n").as_bytes(), 0o644) {
                    Ok(()) => (duid, warning),
                    Err(source) => (duid, warning.or(Some(DuidWarning::Unwritable { path: path.to_owned(), source }))),
                }
            }
            Err(source) => in_this_run(DuidWarning::Unreadable { path: path.to_owned(), source }),
        }
    }

    /// A new one: a random UUID of version 4 (RFC 9562 section 5.4).
    pub fn random() -> (Self, Option<DuidWarning>) {
        let mut uuid = [0; 16];
        let warning = aws_lc_rs::rand::fill(&mut uuid).err().map(|_| DuidWarning::NotRandom);
        let [.., version, _, variant, _, _, _, _, _, _, _] = &mut uuid;
        *version = *version & 0x0f | 0x40;
        *variant = *variant & 0x3f | 0x80;
        (Self::from_uuid(uuid), warning)
    }

    /// The one of this UUID.
    pub const fn from_uuid(uuid: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = uuid;
        Self([UUID[0], UUID[1], a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])
    }

    /// As it is on the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Reads what [`Display`](fmt::Display) writes, in either case; white space around it does not matter.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let hex: Vec<u8> = text.trim_ascii().iter().copied().filter(|byte| *byte != b':').collect();
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(&hex).ok()?;
        let duid = Self(bytes.try_into().ok()?);
        duid.0.starts_with(&UUID).then_some(duid)
    }
}

/// Pairs of hexadecimal digits with colons between.
impl fmt::Display for Duid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs: Vec<String> = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        f.write_str(&pairs.join(":"))
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(LONGEST).read_to_end(&mut text)?;
    Ok(text)
}
