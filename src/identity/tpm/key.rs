//! A key that signs in the TPM: for TLS, and for certificates and requests.

use super::error::TpmError;
use super::{At, Blob, commands};
use crate::config::Tpm;
use crate::identity::Algorithm;
use aws_lc_rs::digest::{SHA256, SHA384, digest};
use rustls::pki_types::{SubjectPublicKeyInfoDer, alg_id};
use rustls::sign::{Signer, SigningKey, public_key_to_spki};
use rustls::{OtherError, SignatureAlgorithm, SignatureScheme};
use std::sync::Arc;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::structures::{EccScheme, Public, Signature};
use tss_esapi::traits::UnMarshall;

/// What a key is on, and with it the hash of what it signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Curve {
    /// P-256, with SHA-256.
    P256,
    /// P-384, with SHA-384; not every TPM has it.
    P384,
}

impl Curve {
    pub(super) fn tpm(self) -> EccCurve {
        match self {
            Self::P256 => EccCurve::NistP256,
            Self::P384 => EccCurve::NistP384,
        }
    }

    pub(super) fn hash(self) -> HashingAlgorithm {
        match self {
            Self::P256 => HashingAlgorithm::Sha256,
            Self::P384 => HashingAlgorithm::Sha384,
        }
    }

    /// Bytes of a coordinate.
    fn size(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
        }
    }

    fn scheme(self) -> SignatureScheme {
        match self {
            Self::P256 => SignatureScheme::ECDSA_NISTP256_SHA256,
            Self::P384 => SignatureScheme::ECDSA_NISTP384_SHA384,
        }
    }
}

/// A private key in a TPM, known by its public part and its place.
#[derive(Clone, Debug)]
pub struct TpmKey {
    tpm: Tpm,
    at: At,
    curve: Curve,
    /// Uncompressed (SEC 1 section 2.3.3).
    point: Vec<u8>,
}

/// Makes a key under `tpm.parent`, and says what is to be kept of it in a file. Whoever has the file and the TPM can use it.
///
/// # Errors
/// There is no TPM, it does not have the curve (none has Ed25519), or it asks for a password.
pub fn create(tpm: &Tpm, algorithm: Algorithm) -> Result<(TpmKey, Blob), TpmError> {
    let curve = match algorithm {
        Algorithm::P256 => Curve::P256,
        Algorithm::P384 => Curve::P384,
        Algorithm::Ed25519 => return Err(TpmError::Kind),
    };
    let (public, blob) = commands::create(tpm, curve)?;
    Ok((TpmKey::new(tpm, At::Blob(blob.clone()), &public)?, blob))
}

impl TpmKey {
    /// The key of a file or a handle, which the TPM has or takes.
    ///
    /// # Errors
    /// As [`super::open`].
    pub fn open(tpm: &Tpm, at: At) -> Result<Self, TpmError> {
        let public = commands::public(tpm, at.clone())?;
        Self::new(tpm, at, &public)
    }

    fn new(tpm: &Tpm, at: At, public: &Public) -> Result<Self, TpmError> {
        let Public::Ecc { object_attributes, parameters, unique, .. } = public else { return Err(TpmError::Kind) };
        let curve = match parameters.ecc_curve() {
            EccCurve::NistP256 => Curve::P256,
            EccCurve::NistP384 => Curve::P384,
            _ => return Err(TpmError::Kind),
        };
        let scheme = match parameters.ecc_scheme() {
            EccScheme::Null => true,
            EccScheme::EcDsa(hash) => hash.hashing_algorithm() == curve.hash(),
            _ => false,
        };
        if !scheme || !object_attributes.sign_encrypt() || object_attributes.restricted() {
            return Err(TpmError::Kind);
        }
        let mut point = vec![4];
        for coordinate in [unique.x().value(), unique.y().value()] {
            let missing = curve.size().checked_sub(coordinate.len()).ok_or(TpmError::Kind)?;
            point.extend(std::iter::repeat_n(0, missing));
            point.extend_from_slice(coordinate);
        }
        Ok(Self { tpm: tpm.clone(), at, curve, point })
    }

    /// An ECDSA signature of `message`, in DER (RFC 3279 section 2.2.3).
    ///
    /// # Errors
    /// The TPM does not sign; after some seconds it is not waited for.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, TpmError> {
        let algorithm = match self.curve {
            Curve::P256 => &SHA256,
            Curve::P384 => &SHA384,
        };
        let digest = digest(algorithm, message).as_ref().to_vec();
        let signature = commands::sign(&self.tpm, self.at.clone(), self.curve, digest)?;
        let Signature::EcDsa(signature) = signature else { return Err(TpmError::Kind) };
        Ok(yasna::construct_der(|writer| {
            writer.write_sequence(|writer| {
                for number in [signature.signature_r(), signature.signature_s()] {
                    writer.next().write_bigint_bytes(number.value(), true);
                }
            });
        }))
    }
}

/// SubjectPublicKeyInfo of the key in a file.
pub(super) fn spki(blob: &Blob) -> Option<Vec<u8>> {
    let public = Public::unmarshall(&blob.public).ok()?;
    let key = TpmKey::new(&Tpm::default(), At::Blob(blob.clone()), &public).ok()?;
    key.public_key().map(|public| public.to_vec())
}

impl SigningKey for TpmKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered.contains(&self.curve.scheme()).then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        let algorithm = match self.curve {
            Curve::P256 => alg_id::ECDSA_P256,
            Curve::P384 => alg_id::ECDSA_P384,
        };
        Some(public_key_to_spki(&algorithm, &self.point))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for TpmKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        Self::sign(self, message).map_err(|error| rustls::Error::Other(OtherError(Arc::new(error))))
    }

    fn scheme(&self) -> SignatureScheme {
        self.curve.scheme()
    }
}

impl rcgen::PublicKeyData for TpmKey {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        match self.curve {
            Curve::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Curve::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
        }
    }
}

/// The library's error says nothing but that the key failed; why is in the log.
impl rcgen::SigningKey for TpmKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Self::sign(self, message).map_err(|error| {
            log::error!("{}", crate::error::chain(&error));
            rcgen::Error::RemoteKeyError
        })
    }
}
