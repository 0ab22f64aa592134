//! What is in a TPM 2.0: private keys, which sign there and never leave it, and trust anchors in its NV storage. Without the
//! feature `tpm` everything here says that it cannot be had.
//!
//! A key is a file with a blob that only the TPM can open ([`Blob`]), or stays in the TPM under a handle. Commands to one TPM
//! are given one after the other, each with its own deadline ([`queue`]): a TPM is slow, and some take one connection only.

mod blob;

pub use blob::{Blob, BlobError, Parent, is_blob};

#[cfg(feature = "tpm")]
mod commands;
#[cfg(feature = "tpm")]
mod error;
#[cfg(feature = "tpm")]
mod key;
#[cfg(feature = "tpm")]
mod password;
#[cfg(feature = "tpm")]
mod queue;

#[cfg(feature = "tpm")]
pub use error::TpmError;
#[cfg(feature = "tpm")]
pub use key::{TpmKey, create};

#[cfg(not(feature = "tpm"))]
mod absent;
#[cfg(not(feature = "tpm"))]
pub use absent::TpmError;

use crate::config::Tpm;
use rustls::sign::SigningKey;
use std::sync::Arc;

/// Where a key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    /// In the TPM, under this persistent handle.
    Handle(u32),
    /// In a file.
    Blob(Blob),
}

/// A key, which was found in the TPM and can sign.
///
/// # Errors
/// There is no such key, the TPM does not take it, or there is no TPM.
pub fn open(tpm: &Tpm, at: At) -> Result<Arc<dyn SigningKey>, TpmError> {
    #[cfg(feature = "tpm")]
    return Ok(Arc::new(TpmKey::open(tpm, at)?));
    #[cfg(not(feature = "tpm"))]
    return absent::nothing(tpm, at);
}

/// SubjectPublicKeyInfo of the key in a file, DER, as its maker wrote it: the TPM is not asked. None: it cannot be told.
pub fn public_key(blob: &Blob) -> Option<Vec<u8>> {
    #[cfg(feature = "tpm")]
    return key::spki(blob);
    #[cfg(not(feature = "tpm"))]
    return absent::nothing(&Tpm::default(), blob).ok();
}

/// Everything that is in an NV index.
///
/// # Errors
/// There is no such index, nothing was written to it, it may not be read, or there is no TPM.
pub fn stored(tpm: &Tpm, index: u32) -> Result<Vec<u8>, TpmError> {
    #[cfg(feature = "tpm")]
    return commands::stored(tpm, index);
    #[cfg(not(feature = "tpm"))]
    return absent::nothing(tpm, index);
}
