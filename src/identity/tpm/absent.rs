//! What a build without the feature `tpm` says of TPMs.

use crate::config::Tpm;
use crate::error::Class;

/// Why nothing can be had from a TPM.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// The feature is missing.
    #[error("it is in a TPM, and this build has no support for one: build with --features tpm")]
    NotBuilt,
}

impl TpmError {
    /// Another build is needed.
    pub fn class(&self) -> Class {
        Class::Environment
    }
}

pub(super) fn nothing<T>(_: &Tpm, _: impl Sized) -> Result<T, TpmError> {
    Err(TpmError::NotBuilt)
}
