//! One endpoint, and its file as text.

use crate::identity::parse;
use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use rustls::pki_types::pem::{PemObject, SectionKind};
use std::fmt::Write;
use std::net::Ipv6Addr;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

/// One address and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The address.
    pub address: Ipv6Addr,
    /// Who enrolled it; none: an administrator did.
    pub user: Option<String>,
    /// When, seconds since 1970.
    pub created: Option<u64>,
    /// When its key was replaced last.
    pub modified: Option<u64>,
    /// When it was revoked.
    pub revoked: Option<u64>,
    /// What stands for the one-time passwords that were used up for it.
    pub used: Vec<String>,
    /// Certificates and public keys, PEM.
    pub pem: String,
}

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// `ecdsa_p256`, `ecdsa_p384`, `ed25519`, `rsa`, or the number of another algorithm.
    pub kind: String,
    /// SHA-256 of its SubjectPublicKeyInfo, hexadecimal.
    pub fingerprint: String,
}

/// Why a file is not what an endpoint is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Neither.
    #[error("it holds neither a certificate nor a public key")]
    None,
    /// It belongs to the client alone.
    #[error("it holds a private key: give the certificate or the public key, and keep the private key on its host")]
    Private,
    /// Its holder would have another address.
    #[error("the certificate in it is for {0}")]
    Other(Ipv6Addr),
}

const BEGIN: &str = "-----BEGIN ";

impl Endpoint {
    /// An address of which nothing is known.
    pub fn unknown(address: Ipv6Addr) -> Self {
        let (user, used) = (None, Vec::new());
        Self { address, user, created: None, modified: None, revoked: None, used, pem: String::new() }
    }

    /// Reads a file; what is not understood is left out. `revoked` is when, if the file's name says so and its text does
    /// not say when.
    pub fn parse(address: Ipv6Addr, text: &str, revoked: Option<u64>) -> Self {
        let mut endpoint = Self::unknown(address);
        let start = text.find(BEGIN).unwrap_or(text.len());
        let (above, pem) = text.split_at(start);
        endpoint.pem = pem.to_owned();
        for (name, value) in above.lines().filter_map(|line| line.split_once(": ")) {
            match name {
                "User" => endpoint.user = Some(value.to_owned()),
                "Created" => endpoint.created = value.parse().ok(),
                "Modified" => endpoint.modified = value.parse().ok(),
                "Revoked" => endpoint.revoked = value.parse().ok(),
                "Used" => endpoint.used.push(value.to_owned()),
                _ => {}
            }
        }
        // The name alone says whether.
        endpoint.revoked = revoked.map(|otherwise| endpoint.revoked.unwrap_or(otherwise));
        endpoint
    }

    /// The file.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: &dyn std::fmt::Display| {
            let _ = writeln!(text, "{name}: {value}");
        };
        if let Some(user) = &self.user {
            line("User", user);
        }
        for (name, time) in [("Created", self.created), ("Modified", self.modified), ("Revoked", self.revoked)] {
            if let Some(time) = time {
                line(name, &time);
            }
        }
        self.used.iter().for_each(|used| line("Used", used));
        text + &self.pem
    }

    /// Its keys; none: the file cannot be used.
    pub fn keys(&self) -> Vec<Key> {
        sections(self.pem.as_bytes()).into_iter().filter_map(|(kind, der)| Key::of(kind, &der)).collect()
    }

    /// Whether this is its only key.
    pub fn has_only(&self, spki: &[u8]) -> bool {
        let fingerprint = sha256(spki);
        matches!(&self.keys()[..], [key] if key.fingerprint == fingerprint)
    }
}

impl Key {
    fn of(kind: SectionKind, der: &[u8]) -> Option<Self> {
        match kind {
            SectionKind::Certificate => Self::of_spki(parse(der)?.subject_pki.raw),
            SectionKind::PublicKey => Self::of_spki(der),
            _ => None,
        }
    }

    fn of_spki(der: &[u8]) -> Option<Self> {
        let (rest, spki) = SubjectPublicKeyInfo::from_der(der).ok()?;
        let oid = spki.algorithm.algorithm.to_id_string();
        let curve = spki.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok()).map(|oid| oid.to_id_string());
        let kind = match (oid.as_str(), curve.as_deref()) {
            ("1.2.840.10045.2.1", Some("1.2.840.10045.3.1.7")) => "ecdsa_p256",
            ("1.2.840.10045.2.1", Some("1.3.132.0.34")) => "ecdsa_p384",
            ("1.3.101.112", _) => "ed25519",
            ("1.2.840.113549.1.1.1", _) => "rsa",
            (other, _) => other,
        };
        rest.is_empty().then(|| Self { kind: kind.to_owned(), fingerprint: sha256(der) })
    }
}

/// What an endpoint's file holds of a certificate or public key, PEM or DER, that somebody has for this address.
pub fn pem_for(address: Ipv6Addr, bytes: &[u8]) -> Result<String, KeyError> {
    let private = |kind: &SectionKind| {
        matches!(kind, SectionKind::PrivateKey | SectionKind::EcPrivateKey | SectionKind::RsaPrivateKey)
    };
    let found = sections(bytes);
    if found.iter().any(|(kind, _)| private(kind)) {
        return Err(KeyError::Private);
    }
    let whole = if parse(bytes).is_some() { SectionKind::Certificate } else { SectionKind::PublicKey };
    // What follows the first is the chain of a certificate, whose keys are not the client's.
    let (kind, der) = found.into_iter().next().unwrap_or_else(|| (whole, bytes.to_vec()));
    Key::of(kind, &der).ok_or(KeyError::None)?;
    if kind == SectionKind::Certificate
        && let Some(other) = crate::identity::address_of(&der.as_slice().into())
        && other != address
    {
        return Err(KeyError::Other(other));
    }
    Ok(encode(if kind == SectionKind::Certificate { "CERTIFICATE" } else { "PUBLIC KEY" }, &der))
}

/// DER as PEM (RFC 7468).
pub fn encode(label: &str, der: &[u8]) -> String {
    let lines = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(label, der), lines)
}

fn sections(bytes: &[u8]) -> Vec<(SectionKind, Vec<u8>)> {
    <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes).filter_map(Result::ok).collect()
}

/// SHA-256, hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    HEXLOWER.encode(digest(&SHA256, bytes).as_ref())
}
