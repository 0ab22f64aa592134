//! A key that was just made: in this program, or in a TPM, which gives it to nobody.

use rcgen::{KeyPair, PublicKeyData, SignatureAlgorithm, SigningKey};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use zeroize::Zeroizing;

#[cfg(not(feature = "tpm"))]
use super::tpm::TpmError;
#[cfg(feature = "tpm")]
use super::tpm::{self, Blob, TpmKey};
use super::{Algorithm, CreateError, keypair, open_to_others};
use crate::config::Tpm;

/// What is kept of a key in a file. It is overwritten when it goes, and printed as stars.
pub struct KeyText(Zeroizing<String>);

impl KeyText {
    /// The text itself, for the file.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for KeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

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

    /// One that was made before and is in this file, beside a certificate that never came; in `tpm`, if there is one named.
    /// None: nothing there can be such a key, or others could read it.
    pub fn begun(file: &Path, tpm: Option<&Tpm>) -> Result<Option<Self>, CreateError> {
        let read = || {
            let mut opened = File::open(file).ok()?;
            open_to_others(file, &opened).ok()?.is_none().then_some(())?;
            let mut text = Zeroizing::new(String::new());
            opened.read_to_string(&mut text).ok()?;
            Some(text)
        };
        let Some(text) = read() else { return Ok(None) };
        match tpm {
            None => Ok(KeyPair::from_pem(&text).ok().map(|key| Self::Clear(Box::new(key)))),
            #[cfg(feature = "tpm")]
            Some(tpm) => {
                let Ok(blob) = Blob::read(text.as_bytes()) else { return Ok(None) };
                let key = TpmKey::open(tpm, tpm::At::Blob(blob.clone()))?;
                Ok(Some(Self::InTpm(Box::new(key), blob)))
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
    pub fn pem(&self) -> KeyText {
        KeyText(Zeroizing::new(match self {
            Self::Clear(key) => key.serialize_pem(),
            #[cfg(feature = "tpm")]
            Self::InTpm(_, blob) => blob.pem(),
        }))
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
