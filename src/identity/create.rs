//! What makes a new identity: keys, certificates over them, and requests for certificates.

use rcgen::KeyPair;

use super::Algorithm;
use crate::error::Class;

/// Why no identity was made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The library for cryptography fails.
    #[error("a {algorithm} key cannot be made")]
    Key {
        /// The kind.
        algorithm: Algorithm,
        /// What the library says.
        source: rcgen::Error,
    },
}

impl CreateError {
    /// There is nothing that an edit would mend.
    pub fn class(&self) -> Class {
        Class::Bug
    }
}

/// A new key, from the system's randomness.
pub fn keypair(algorithm: Algorithm) -> Result<KeyPair, CreateError> {
    KeyPair::generate_for(algorithm.signature()).map_err(|source| CreateError::Key { algorithm, source })
}
