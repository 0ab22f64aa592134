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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn it_is_made_once_and_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("duid");
        let (first, warning) = Duid::kept(&path);
        assert!(warning.is_none(), "{warning:?}");
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{first}\n"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        let (again, warning) = Duid::kept(&path);
        assert_eq!((again, warning.is_none()), (first, true));
        let elsewhere = tempfile::tempdir().unwrap();
        assert_ne!(Duid::kept(&elsewhere.path().join("duid")).0, first);
    }

    #[test]
    fn it_is_a_random_uuid_behind_its_type() {
        let (duid, _) = Duid::random();
        let bytes = duid.as_bytes();
        assert_eq!((bytes.len(), &bytes[..2]), (18, &[0, 4][..]));
        assert_eq!((bytes[8] >> 4, bytes[10] >> 6), (4, 0b10), "version and variant");
        assert_ne!(Duid::random().0, duid);
        let text = Duid::from_uuid([0xab; 16]).to_string();
        assert_eq!(text, "00:04:ab:ab:ab:ab:ab:ab:ab:ab:ab:ab:ab:ab:ab:ab:ab:ab");
    }

    #[test]
    fn a_damaged_file_stays_and_a_fresh_one_serves_this_run() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("duid");
        let good = Duid::random().0.to_string();
        for text in ["", "\n", "00:04:ab", &good[3..], &good.replacen("00:04", "00:01", 1), &format!("{good}:00"), "zz"]
        {
            fs::write(&path, text).unwrap();
            let (duid, warning) = Duid::kept(&path);
            let said = warning.map(|warning| warning.to_string()).unwrap_or_default();
            assert!(said.contains("does not hold a DUID") && said.contains("delete the file"), "{text:?}: {said}");
            assert!(!text.contains(&duid.to_string()));
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn what_cannot_be_read_or_written_is_a_warning_and_a_duid() {
        let directory = tempfile::tempdir().unwrap();
        let (_, warning) = Duid::kept(directory.path());
        assert!(matches!(warning, Some(DuidWarning::Unreadable { .. })), "{warning:?}");
        let (_, warning) = Duid::kept(&directory.path().join("none/duid"));
        assert!(matches!(warning, Some(DuidWarning::Unwritable { .. })), "{warning:?}");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_its_own_is_read_back(uuid in any::<[u8; 16]>(), bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let duid = Duid::from_uuid(uuid);
            prop_assert_eq!(Duid::parse(format!(" {duid}\r\n").as_bytes()), Some(duid));
            prop_assert_eq!(Duid::parse(duid.to_string().to_uppercase().as_bytes()), Some(duid));
            let _ = Duid::parse(&bytes);
        }
    }
}
