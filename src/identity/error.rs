//! What can be wrong with credentials on disk, in words for the one who must mend it.

use std::fmt;
use std::io;
use std::net::Ipv6Addr;
use std::path::PathBuf;

use rustls::pki_types::pem;

use super::clock::{clock_is_wrong, day};
use super::tpm::{BlobError, TpmError};
use crate::error::{Class, chain};
use crate::state::{Failure, Reason};

/// Which file an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Certificates.
    Certificate,
    /// The private key.
    Key,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certificate => "certificate",
            Self::Key => "key",
        })
    }
}

/// Why credentials or trust anchors cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is not there, or may not be read.
    #[error("cannot read the {part} file {}", path.display())]
    Read {
        /// Which file.
        part: Part,
        /// Where.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Nothing in it.
    #[error("the {part} file {} is empty: write it again, or correct the path in the configuration", path.display())]
    Empty {
        /// Which file.
        part: Part,
        /// Where.
        path: PathBuf,
    },
    /// PEM armour that does not hold.
    #[error("the {part} file {} is damaged", path.display())]
    Pem {
        /// Which file.
        part: Part,
        /// Where.
        path: PathBuf,
        /// What is wrong with the armour.
        source: pem::Error,
    },
    /// Neither a certificate in PEM nor in DER.
    #[error("{} holds no certificate: it must be PEM (-----BEGIN CERTIFICATE-----) or DER", path.display())]
    NoCertificate {
        /// Where.
        path: PathBuf,
    },
    /// A certificate that cannot be read as one.
    #[error("certificate number {number} in {} is damaged, or of a version other than X.509 v1 and v3", path.display())]
    BadCertificate {
        /// Where.
        path: PathBuf,
        /// Counted from 1.
        number: usize,
    },
    /// Neither a private key in PEM nor in DER.
    #[error("{} holds no private key: it must be PKCS#8, SEC1 or PKCS#1, in PEM or DER", path.display())]
    NoKey {
        /// Where.
        path: PathBuf,
    },
    /// The key needs a passphrase, and nobody is there to type it.
    #[error(
        "the key file {path} is encrypted: take the passphrase off with `openssl pkey -in {path}`",
        path = path.display()
    )]
    KeyEncrypted {
        /// Where.
        path: PathBuf,
    },
    /// A private key of a kind that cannot be used.
    #[error("the key in {} is damaged, or of a kind other than RSA, ECDSA and Ed25519", path.display())]
    BadKey {
        /// Where.
        path: PathBuf,
        /// What the library says.
        source: rustls::Error,
    },
    /// Others can read the key.
    #[error(
        "the key file {path} is open to others (mode {mode:04o}): close it with `chmod 600 {path}`",
        path = path.display()
    )]
    KeyOpen {
        /// Where.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// systemd has passed none, and nothing else is a source.
    #[error(
        "there are no systemd credentials {tunnel}.crt and {tunnel}.key: have enftund.service load them (LoadCredential=), or \
         add \"files\" to identity.source"
    )]
    NoCredentials {
        /// The tunnel.
        tunnel: String,
    },
    /// A file for a TPM that holds no key for one.
    #[error("the key file {} cannot be used", path.display())]
    TpmFile {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        source: BlobError,
    },
    /// The key is in a TPM, and whoever wants it does not ask any.
    #[error("the key in {} is in a TPM: only a tunnel's key can be", path.display())]
    KeyInTpm {
        /// Where.
        path: PathBuf,
    },
    /// The key could be read by whoever reads files, and that is not wanted.
    #[error(
        "the key in {} is not in a TPM: make one that is (`enftunctl keygen --tpm`), or add \"files\" to identity.source",
        path.display()
    )]
    KeyInClear {
        /// Where.
        path: PathBuf,
    },
    /// What the TPM has to give is not to be had.
    #[error("cannot use the {part} {place}")]
    Tpm {
        /// Which of the two.
        part: Part,
        /// The file that needs the TPM, or the place in it.
        place: String,
        /// What is wrong.
        source: TpmError,
    },
    /// Key and certificate are not a pair.
    #[error(
        "the key in {} does not belong to the certificate in {}: one of the two files is from another identity",
        key_file.display(),
        cert_file.display()
    )]
    Mismatch {
        /// The certificate.
        cert_file: PathBuf,
        /// The key.
        key_file: PathBuf,
    },
    /// The certificate is too old.
    #[error(
        "the certificate in {} expired on {}; the clock says {}: get a new one, or set the clock",
        path.display(), day(*not_after), day(*now)
    )]
    Expired {
        /// Where.
        path: PathBuf,
        /// The end of its validity, seconds since 1970.
        not_after: i64,
        /// The clock.
        now: i64,
    },
    /// The certificate is too new for the clock.
    #[error("the certificate in {} is not valid before {}; {}", path.display(), day(*not_before), clock_text(*now))]
    NotYetValid {
        /// Where.
        path: PathBuf,
        /// The start of its validity, seconds since 1970.
        not_before: i64,
        /// The clock.
        now: i64,
    },
    /// The certificate says no address.
    #[error(
        "the certificate in {} ({subject}) carries no IPv6 address, or more than one: the address stands in the common \
         name, or in one subject alternative name", path.display()
    )]
    NoAddress {
        /// Where.
        path: PathBuf,
        /// Its subject.
        subject: String,
    },
    /// The certificate says an address that no host can have.
    #[error("the address {address} in the certificate in {} cannot be used: {why}", path.display())]
    Unusable {
        /// Where.
        path: PathBuf,
        /// The address.
        address: Ipv6Addr,
        /// What it is instead.
        why: &'static str,
    },
}

impl LoadError {
    /// A certificate from the future goes away by itself when the clock is set; all else needs other files.
    pub fn class(&self) -> Class {
        match self {
            Self::NotYetValid { now, .. } if clock_is_wrong(*now) => Class::Transient,
            Self::Tpm { source, .. } => source.class(),
            _ => Class::Credentials,
        }
    }

    /// A new certificate and key would mend it, and nothing that somebody may still want is lost with the old ones.
    pub fn is_mended_by_new_ones(&self) -> bool {
        match self {
            Self::Read { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::Empty { .. } | Self::NoCredentials { .. } | Self::Mismatch { .. } | Self::Expired { .. } => true,
            _ => false,
        }
    }

    /// The word for programs.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Mismatch { .. } => Reason::KeyMismatch,
            Self::Expired { .. } => Reason::CertificateExpired,
            Self::NotYetValid { .. } => Reason::CertificateNotYetValid,
            _ => Reason::CredentialsMissing,
        }
    }
}

impl From<&LoadError> for Failure {
    fn from(error: &LoadError) -> Self {
        Self::new(error.reason(), error.class(), chain(error))
    }
}

/// What to say of the clock beside a certificate that is not valid yet.
pub(crate) fn clock_text(now: i64) -> String {
    if clock_is_wrong(now) {
        format!(
            "the clock says {}, which is before this program was built: the clock is wrong, and all is tried again when \
             it is set",
            day(now)
        )
    } else {
        format!("the clock says {}", day(now))
    }
}
