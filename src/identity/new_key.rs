//! A key that was just made: in this program, or in a TPM, which gives it to nobody.

use rcgen::{KeyPair, PublicKeyData, SignatureAlgorithm, SigningKey};
use zeroize::Zeroizing;

#[cfg(not(feature = "tpm"))]
use super::tpm::TpmError;
#[cfg(feature = "tpm")]
use super::tpm::{self, Blob, TpmKey};
use super::{Algorithm, CreateError, keypair};
use crate::config::Tpm;

/// A key that was just made.
pub enum NewKey {
    /// It will be a file that everything is in.
    Clear(Box<KeyPair>),
    /// It will be a file that this TPM alone can use.
    #[cfg(feature = "tpm")]
    InTpm(Box<TpmKey>, Blob),
}

impl NewKey {
    /// In `tpm`, if there is one named.
    pub fn make(algorithm: Algorithm, tpm: Option<&Tpm>) -> Result<Self, CreateError> {
        match tpm {
            None => Ok(Self::Clear(Box::new(keypair(algorithm)?))),
            #[cfg(feature = "tpm")]
            Some(tpm) => {
                let (key, blob) = tpm::create(tpm, algorithm)?;
                Ok(Self::InTpm(Box::new(key), blob))
            }
            #[cfg(not(feature = "tpm"))]
            Some(_) => Err(TpmError::NotBuilt.into()),
        }
    }

    /// It is in a TPM.
    pub fn is_in_tpm(&self) -> bool {
        !matches!(self, Self::Clear(_))
    }

    /// What is kept of it in a file.
    pub fn pem(&self) -> Zeroizing<String> {
        Zeroizing::new(match self {
            Self::Clear(key) => key.serialize_pem(),
            #[cfg(feature = "tpm")]
            Self::InTpm(_, blob) => blob.pem(),
        })
    }
}

impl PublicKeyData for NewKey {
    fn der_bytes(&self) -> &[u8] {
        match self {
            Self::Clear(key) => key.der_bytes(),
            #[cfg(feature = "tpm")]
            Self::InTpm(key, _) => key.der_bytes(),
        }
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self {
            Self::Clear(key) => PublicKeyData::algorithm(&**key),
            #[cfg(feature = "tpm")]
            Self::InTpm(key, _) => PublicKeyData::algorithm(&**key),
        }
    }
}

impl SigningKey for NewKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        match self {
            Self::Clear(key) => key.sign(message),
            #[cfg(feature = "tpm")]
            Self::InTpm(key, _) => SigningKey::sign(&**key, message),
        }
    }
}
