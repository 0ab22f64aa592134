//! From a certificate to a trust anchor: what the CA file holds, and whether a certificate is under it.

use std::fmt;
use std::path::Path;

use rustls::CertificateError;
use rustls::pki_types::alg_id::AlgorithmIdentifier;
use rustls::pki_types::{
    CertificateDer, FipsStatus, InvalidSignature, SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer, TrustAnchor,
    UnixTime,
};
use x509_parser::asn1_rs::Any;
use x509_parser::certificate::X509Certificate;
use x509_parser::nom::Offset;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Version;

use super::algorithms;
use super::error::{TrustError, Usage, check_dates, from_webpki};
use crate::config::{Place, Tpm};
use crate::identity::{LoadError, certificates, certificates_at, parse};

/// What a CA file holds.
#[derive(Clone)]
pub struct Anchors {
    /// All of it: a certificate that stands here needs no signature.
    certificates: Vec<CertificateDer<'static>>,
    /// Those that may sign others.
    signers: Vec<Signer>,
    /// The same for webpki.
    anchors: Vec<TrustAnchor<'static>>,
}

#[derive(Clone)]
struct Signer {
    subject: Vec<u8>,
    key: SubjectPublicKeyInfoDer<'static>,
}

impl fmt::Debug for Anchors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Anchors({} certificates, {} may sign)", self.certificates.len(), self.signers.len())
    }
}

impl Anchors {
    /// Reads a CA file, PEM or DER.
    pub fn load(ca_file: &Path) -> Result<Self, LoadError> {
        Self::of(certificates(ca_file)?, ca_file)
    }

    /// As [`Self::load`], for what is in a file or in `tpm`; that takes its time.
    pub fn load_at(place: &Place, tpm: &Tpm) -> Result<Self, LoadError> {
        Self::of(certificates_at(place, tpm)?, Path::new(&place.to_string()))
    }

    fn of(certificates: Vec<CertificateDer<'static>>, ca_file: &Path) -> Result<Self, LoadError> {
        let mut signers = Vec::new();
        let mut anchors = Vec::new();
        for (index, der) in certificates.iter().enumerate() {
            let bad = || LoadError::BadCertificate { path: ca_file.to_owned(), number: index + 1 };
            let certificate = parse(der).ok_or_else(bad)?;
            let anchor = webpki::anchor_from_trusted_cert(der).map_err(|_| bad())?;
            if may_sign(&certificate) {
                anchors.push(anchor.to_owned());
                signers.push(Signer {
                    subject: certificate.subject.as_raw().to_vec(),
                    key: SubjectPublicKeyInfoDer::from(certificate.subject_pki.raw).into_owned(),
                });
            }
        }
        Ok(Self { certificates, signers, anchors })
    }

    /// Whether `leaf` is valid now, may be used so, and is under these anchors.
    pub(super) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<(), CertificateError> {
        let certificate = parse(leaf).ok_or(CertificateError::BadEncoding)?;
        let validity = &certificate.validity;
        check_dates(validity.not_before.timestamp(), validity.not_after.timestamp(), now)?;
        if self.certificates.iter().any(|known| known.as_ref() == leaf.as_ref()) {
            return if fits(&certificate, usage) { Ok(()) } else { Err(TrustError::Purpose(usage).into()) };
        }
        match certificate.version {
            X509Version::V3 => self.verify_v3(leaf, intermediates, usage, now),
            _ => self.verify_old(leaf, &certificate),
        }
    }

    /// v1 and v2: the signature of an anchor, and nothing in between.
    fn verify_old(&self, der: &[u8], certificate: &X509Certificate<'_>) -> Result<(), CertificateError> {
        let tbs: &[u8] = certificate.tbs_certificate.as_ref();
        let algorithm = (certificate.signature == certificate.signature_algorithm)
            .then(|| signature_algorithm(der, tbs))
            .flatten()
            .ok_or(CertificateError::BadEncoding)?;
        if certificate.signature_value.unused_bits != 0 {
            return Err(CertificateError::BadEncoding);
        }
        let known: Vec<_> =
            algorithms().all.iter().filter(|known| known.signature_alg_id().as_ref() == algorithm).collect();
        if known.is_empty() {
            return Err(TrustError::Algorithm.into());
        }
        let mut same_name = false;
        for signer in self.signers.iter().filter(|signer| signer.subject == certificate.issuer.as_raw()) {
            same_name = true;
            let Ok(key) = webpki::RawPublicKeyEntity::try_from(&signer.key) else { continue };
            let signature: &[u8] = certificate.signature_value.as_ref();
            if known.iter().any(|algorithm| key.verify_signature(**algorithm, tbs, signature).is_ok()) {
                return Ok(());
            }
        }
        Err(if same_name { TrustError::IssuerKey.into() } else { CertificateError::UnknownIssuer })
    }

    fn verify_v3(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<(), CertificateError> {
        let leaf = SinceEpoch::new(leaf);
        let intermediates: Vec<_> = intermediates.iter().map(|der| SinceEpoch::new(der)).collect();
        let chain: Vec<_> = intermediates.iter().map(SinceEpoch::der).collect();
        let verifiers: Vec<_> = algorithms()
            .all
            .iter()
            .map(|algorithm| OriginalBytes { algorithm: *algorithm, leaf: &leaf, intermediates: &intermediates })
            .collect();
        let verifiers: Vec<_> =
            verifiers.iter().map(|verifier| verifier as &dyn SignatureVerificationAlgorithm).collect();
        let der = leaf.der();
        let usage_of = match usage {
            Usage::Server => webpki::KeyUsage::server_auth(),
            Usage::Client => webpki::KeyUsage::client_auth(),
        };
        webpki::EndEntityCert::try_from(&der)
            .and_then(|leaf| {
                leaf.verify_for_usage(&verifiers, &self.anchors, &chain, now, usage_of, None, None).map(|_| ())
            })
            .map_err(|error| from_webpki(error, usage))
    }
}

/// v1 and v2 cannot say; a v3 certificate must say that it is a CA (RFC 5280 sections 4.2.1.3 and 4.2.1.9).
fn may_sign(certificate: &X509Certificate<'_>) -> bool {
    certificate.version != X509Version::V3
        || matches!(certificate.basic_constraints(), Ok(Some(constraints)) if constraints.value.ca)
            && match certificate.key_usage() {
                Ok(usage) => usage.is_none_or(|usage| usage.value.key_cert_sign()),
                Err(_) => false,
            }
}

/// Whether the extended key usage, if there is one, allows it.
fn fits(certificate: &X509Certificate<'_>, usage: Usage) -> bool {
    match certificate.extended_key_usage() {
        Ok(None) => true,
        Ok(Some(extension)) => match usage {
            Usage::Server => extension.value.server_auth,
            Usage::Client => extension.value.client_auth,
        },
        Err(_) => false,
    }
}

/// The content of `signatureAlgorithm`, which follows the signed part in a certificate.
fn signature_algorithm<'a>(der: &'a [u8], tbs: &[u8]) -> Option<&'a [u8]> {
    let (_, algorithm) = Any::from_der(der.get(der.offset(tbs) + tbs.len()..)?).ok()?;
    Some(algorithm.data)
}

/// A certificate as webpki can read it. webpki knows no year before 1970, and a certificate that has always been valid
/// says 0000: its `notBefore` is moved to 1970 in a copy, which no clock can tell apart. Signatures are checked over
/// the original bytes ([`OriginalBytes`]).
struct SinceEpoch<'a> {
    original: &'a [u8],
    moved: Option<Vec<u8>>,
}

impl<'a> SinceEpoch<'a> {
    fn new(original: &'a [u8]) -> Self {
        Self { original, moved: Self::moved(original) }
    }

    fn moved(original: &[u8]) -> Option<Vec<u8>> {
        let certificate = parse(original)?;
        if certificate.validity.not_before.timestamp() >= 0 {
            return None;
        }
        // Validity follows the issuer: RFC 5280 section 4.1.
        let issuer = certificate.tbs_certificate.issuer.as_raw();
        let (_, validity) = Any::from_der(original.get(original.offset(issuer) + issuer.len()..)?).ok()?;
        let (_, not_before) = Any::from_der(validity.data).ok()?;
        let start = original.offset(not_before.data);
        let epoch: &[u8] = match not_before.data.len() {
            15 => b"19700101000000Z",
            13 => b"700101000000Z",
            _ => return None,
        };
        let mut copy = original.to_vec();
        copy.get_mut(start..start + epoch.len())?.copy_from_slice(epoch);
        Some(copy)
    }

    fn der(&self) -> CertificateDer<'_> {
        CertificateDer::from(self.moved.as_deref().unwrap_or(self.original))
    }

    /// The bytes of the original where `part`, a slice of the copy, lies in it.
    fn original_of(&self, part: &[u8]) -> Option<&'a [u8]> {
        let copy = self.moved.as_deref()?;
        let start = copy.as_ptr_range().contains(&part.as_ptr()).then(|| copy.offset(part))?;
        self.original.get(start..start + part.len())
    }
}

/// Verifies signatures over what was signed, not over the copy that webpki reads.
struct OriginalBytes<'a> {
    algorithm: &'static dyn SignatureVerificationAlgorithm,
    leaf: &'a SinceEpoch<'a>,
    intermediates: &'a [SinceEpoch<'a>],
}

impl fmt::Debug for OriginalBytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.algorithm.fmt(f)
    }
}

impl SignatureVerificationAlgorithm for OriginalBytes<'_> {
    fn verify_signature(&self, public_key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        let mut all = std::iter::once(self.leaf).chain(self.intermediates);
        let message = all.find_map(|certificate| certificate.original_of(message)).unwrap_or(message);
        self.algorithm.verify_signature(public_key, message, signature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.signature_alg_id()
    }

    fn fips_status(&self) -> FipsStatus {
        self.algorithm.fips_status()
    }
}
