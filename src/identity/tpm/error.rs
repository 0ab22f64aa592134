//! What can be wrong with a TPM and with what is asked of it, in words for the one who must mend it.

use super::blob::{BlobError, Parent};
use crate::error::Class;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tss_esapi::Error;
use tss_esapi::constants::response_code::Tss2ResponseCodeKind as Kind;

/// Why nothing can be had from the TPM.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// The device is not there, or may not be used.
    #[error(
        "cannot use the TPM {}: is there one, and may this user use it? The group tss may; for the service see tpm.conf in \
         /usr/share/doc/enftun/examples/systemd",
        path.display()
    )]
    Device {
        /// Its path.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Nobody is there.
    #[error("no TPM answers at {tcti}")]
    Unreachable {
        /// The way to it.
        tcti: String,
        /// What the library says.
        source: Error,
    },
    /// It takes too long.
    #[error("the TPM at {tcti} did not answer within {limit:?}")]
    Silent {
        /// The way to it.
        tcti: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The thread that asked it is gone.
    #[error("the question to the TPM at {tcti} was lost")]
    Lost {
        /// The way to it.
        tcti: String,
    },
    /// The system has no thread to ask it with.
    #[error("cannot start a thread that asks the TPM")]
    Thread(#[source] io::Error),
    /// The file with the key is of no use.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The key is not this TPM's.
    #[error(
        "the TPM does not take it under {parent}: another TPM made it, or it is under another parent, or the TPM was cleared \
         since"
    )]
    Foreign {
        /// The parent that was tried.
        parent: Parent,
        /// What the TPM says.
        source: Error,
    },
    /// No object under this handle.
    #[error("there is no key {handle:#x} in the TPM: `tpm2_getcap handles-persistent` lists those that there are")]
    NoKey {
        /// The handle.
        handle: u32,
    },
    /// No such NV index.
    #[error("there is no NV index {index:#x} in the TPM: `tpm2_nvreadpublic` lists those that there are")]
    NoIndex {
        /// The index.
        index: u32,
    },
    /// The index was defined and never written.
    #[error("nothing was written to the NV index {index:#x}: write it with `tpm2_nvwrite`")]
    Unwritten {
        /// The index.
        index: u32,
    },
    /// The index has a policy, or only the platform may read it.
    #[error("neither everybody nor the owner may read the NV index {index:#x}: it has neither authread nor ownerread")]
    Unreadable {
        /// The index.
        index: u32,
    },
    /// A key for something else.
    #[error(
        "it cannot sign for TLS: it must be an unrestricted signing key on the curve P-256 or P-384, without a scheme or with \
         ECDSA and the hash of the curve's size"
    )]
    Kind,
    /// A password is wrong, or missing.
    #[error("the TPM asks for another password to {what}: write the owner's to a file, and that to tpm.password_file")]
    Password {
        /// What was asked of it.
        what: &'static str,
        /// What the TPM says.
        source: Error,
    },
    /// The password cannot be read.
    #[error("cannot read the password file {}", path.display())]
    PasswordFile {
        /// Where.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Others can read the password.
    #[error(
        "the password file {path} is open to others (mode {mode:04o}): close it with `chmod 600 {path}`",
        path = path.display()
    )]
    PasswordOpen {
        /// Where.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// No TPM has one this long.
    #[error("the password in {} is longer than any TPM takes", path.display())]
    PasswordLong {
        /// Where.
        path: PathBuf,
    },
    /// The TPM says no.
    #[error("the TPM does not {what}")]
    Refused {
        /// What was asked of it.
        what: &'static str,
        /// What the TPM says.
        source: Error,
    },
}

/// The word of the TPM in what the library says, if it is the TPM's.
pub(super) fn kind(error: &Error) -> Option<Kind> {
    match error {
        Error::Tss2Error(code) => code.kind(),
        Error::WrapperError(_) => None,
    }
}

impl TpmError {
    /// For `map_err`: what the TPM was asked to do, and did not.
    pub(super) fn refuses(what: &'static str) -> impl Fn(Error) -> Self {
        move |source| match kind(&source) {
            Some(Kind::AuthFail | Kind::BadAuth | Kind::AuthMissing | Kind::AuthUnavailable) => {
                Self::Password { what, source }
            }
            _ => Self::Refused { what, source },
        }
    }

    /// A TPM that is busy is free again by itself, and keys that are not this TPM's are other keys.
    pub fn class(&self) -> Class {
        match self {
            Self::Silent { .. } | Self::Lost { .. } | Self::Thread(_) => Class::Transient,
            Self::Refused { source, .. } => refused_class(source),
            Self::Device { .. } | Self::Unreachable { .. } => Class::Environment,
            Self::Blob(_)
            | Self::Foreign { .. }
            | Self::NoKey { .. }
            | Self::NoIndex { .. }
            | Self::Unwritten { .. }
            | Self::Unreadable { .. }
            | Self::Kind => Class::Credentials,
            Self::Password { .. }
            | Self::PasswordFile { .. }
            | Self::PasswordOpen { .. }
            | Self::PasswordLong { .. } => Class::Configuration,
        }
    }
}

fn refused_class(source: &Error) -> Class {
    match kind(source) {
        Some(
            Kind::Retry
            | Kind::Yielded
            | Kind::Canceled
            | Kind::Testing
            | Kind::NvRate
            | Kind::NvUnavailable
            | Kind::Memory
            | Kind::ObjectMemory
            | Kind::SessionMemory
            | Kind::SessionHandles
            | Kind::ContextGap,
        ) => Class::Transient,
        _ => Class::Environment,
    }
}
