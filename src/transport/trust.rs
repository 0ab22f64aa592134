//! Whom the two ends of a tunnel believe to be what they say: the router's certificate as the client judges it, the
//! client's as the router does, for X.509 v1 (which stock webpki refuses) and v3. It opens no connection, and reads no
//! file but the trust anchors once and the enrolled endpoint at each handshake.
//!
//! A v1 certificate says nothing of who may sign others, so only an anchor in the CA file may sign one; a v3
//! certificate takes webpki's full path checks. A certificate that stands in the CA file itself is taken as it is.

mod client;
mod error;
mod path;
mod router;

pub use client::{
    ClientIdentity, ClientTrust, ClientVerifier, ENDPOINT, REVOKED, client_identity, endpoint_file, revocation_file,
};
pub use error::{TrustError, Usage};
pub use path::Anchors;
pub(crate) use router::ip_address;
pub use router::{RouterTrust, RouterVerifier};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use rustls::{CertificateError, DigitallySignedStruct, Error, PeerMisbehaved};

use crate::identity::parse;

/// The signatures that are understood, in certificates and handshakes.
fn algorithms() -> WebPkiSupportedAlgorithms {
    default_provider().signature_verification_algorithms
}

fn public_key(certificate: &[u8]) -> Result<SubjectPublicKeyInfoDer<'_>, Error> {
    let certificate = parse(certificate).ok_or(CertificateError::BadEncoding)?;
    Ok(SubjectPublicKeyInfoDer::from(certificate.tbs_certificate.subject_pki.raw))
}

/// The proof of TLS 1.3 that the far end holds the key of its certificate: RFC 8446 section 4.4.3.
fn handshake13(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    verify_tls13_signature_with_raw_key(message, &public_key(certificate)?, signed, &algorithms())
}

/// The same in TLS 1.2, where a scheme does not name the curve: RFC 5246 section 7.4.1.4.1.
fn handshake12(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let key = public_key(certificate)?;
    let key = webpki::RawPublicKeyEntity::try_from(&key).map_err(|_| CertificateError::BadEncoding)?;
    let (_, candidates) = algorithms()
        .mapping
        .iter()
        .find(|(scheme, _)| *scheme == signed.scheme)
        .ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
    // Those for another kind of key fail too, and prove nothing.
    if candidates.iter().any(|alg| key.verify_signature(*alg, message, signed.signature()).is_ok()) {
        Ok(HandshakeSignatureValid::assertion())
    } else {
        Err(CertificateError::BadSignature.into())
    }
}
