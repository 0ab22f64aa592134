//! The kinds of key that are made for an own certificate, and the public half of one.

use std::fmt;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519, ParsedPublicKey, VerificationAlgorithm,
};
use rcgen::{PublicKeyData, SignatureAlgorithm};
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

/// A kind of key, and how it signs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Algorithm {
    /// ECDSA on the NIST curve P-256 with SHA-256: what every router takes.
    #[default]
    P256,
    /// ECDSA on the NIST curve P-384 with SHA-384.
    P384,
    /// Ed25519 (RFC 8032).
    Ed25519,
}

impl Algorithm {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::P256, Self::P384, Self::Ed25519];

    /// The word on the command line and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::P256 => "p256",
            Self::P384 => "p384",
            Self::Ed25519 => "ed25519",
        }
    }

    /// That of a public key, if it is one of these. `spki` is its SubjectPublicKeyInfo, DER.
    pub fn of_spki(spki: &[u8]) -> Option<Self> {
        let (_, spki) = SubjectPublicKeyInfo::from_der(spki).ok()?;
        let bytes = &spki.subject_public_key.data;
        Self::ALL.into_iter().find(|kind| PublicKey::new(*kind, bytes).is_some_and(|key| key.spki() == spki.raw))
    }

    pub(super) fn signature(self) -> &'static SignatureAlgorithm {
        match self {
            Self::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Self::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            Self::Ed25519 => &rcgen::PKCS_ED25519,
        }
    }

    fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::P256 => &ECDSA_P256_SHA256_ASN1,
            Self::P384 => &ECDSA_P384_SHA384_ASN1,
            Self::Ed25519 => &ED25519,
        }
    }

    /// The length of a public key, uncompressed, bytes.
    fn length(self) -> usize {
        match self {
            Self::P256 => 65,
            Self::P384 => 97,
            Self::Ed25519 => 32,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A public key that is one: on its curve.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PublicKey {
    algorithm: Algorithm,
    bytes: Vec<u8>,
    spki: Vec<u8>,
}

impl PublicKey {
    /// Of an uncompressed point (SEC 1, 0x04 in front), or of the 32 bytes of Ed25519. None: this is no key of that kind.
    pub fn new(algorithm: Algorithm, bytes: &[u8]) -> Option<Self> {
        if bytes.len() != algorithm.length() {
            return None;
        }
        let parsed = ParsedPublicKey::new(algorithm.verification(), bytes).ok()?;
        let spki: PublicKeyX509Der<'_> = parsed.as_der().ok()?;
        Some(Self { algorithm, bytes: bytes.to_vec(), spki: spki.as_ref().to_vec() })
    }

    /// The public half of a key pair, which may be in a TPM. None: it is of a kind that is not used here.
    pub fn of(key: &impl PublicKeyData) -> Option<Self> {
        let algorithm = Algorithm::ALL.into_iter().find(|kind| kind.signature() == key.algorithm())?;
        Self::new(algorithm, key.der_bytes())
    }

    /// Its kind.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// As [`Self::new`] takes it.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7), DER.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::KeyPair;

    #[test]
    fn the_public_half_of_each_kind_is_what_the_key_pair_says() {
        for algorithm in Algorithm::ALL {
            let pair = KeyPair::generate_for(algorithm.signature()).unwrap();
            let public = PublicKey::of(&pair).unwrap();
            assert_eq!(public.algorithm(), algorithm);
            assert_eq!(public.bytes(), pair.der_bytes(), "{algorithm}");
            assert_eq!(public.spki(), pair.subject_public_key_info(), "{algorithm}");
            assert_eq!(Algorithm::of_spki(public.spki()), Some(algorithm));
        }
    }

    #[test]
    fn what_is_no_point_of_the_curve_is_no_key() {
        let pair = KeyPair::generate_for(Algorithm::P256.signature()).unwrap();
        let mut point = pair.der_bytes().to_vec();
        assert_eq!(Algorithm::of_spki(&point), None);
        assert_eq!(PublicKey::new(Algorithm::P384, &point), None);
        assert_eq!(PublicKey::new(Algorithm::P256, &point[..64]), None);
        assert_eq!(PublicKey::new(Algorithm::P256, &[]), None);
        point[64] ^= 1;
        assert_eq!(PublicKey::new(Algorithm::P256, &point), None);
    }
}
