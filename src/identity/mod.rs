//! Certificates and keys: finds and reads them, checks that they fit each other and the clock, and tells which address
//! they give; makes new ones ([`create`]) and saves them ([`save`]). It judges nobody else's certificate (`transport::trust` does),
//! and never shows or logs a key.

mod address;
mod clock;
mod create;
#[cfg(feature = "enrol")]
pub mod enrol;
mod error;
mod key;
mod new_key;
mod save;
mod secret;
mod source;
pub mod tpm;
mod watch;

pub use address::{address_of, ipv4_of, parse_address, unusable};
pub(crate) use address::{addresses, common_names};
pub use clock::{BUILD_EPOCH, clock_is_wrong, day, moment, seconds};
pub use create::{CreateError, LIFETIME, Version, certificate_pem, keypair, request, self_signed};
pub(crate) use error::clock_text;
pub use error::{LoadError, Part};
pub use key::{Algorithm, PublicKey};
pub use new_key::{KeyText, NewKey};
pub use save::{Owner, PairFiles, SaveError, Staged, complete, next_key_file, save, settle, stage};
pub use secret::{Secret, SecretError};
pub use source::{CredentialSource, candidates, credentials_directory, find};
pub use watch::CredentialsWatch;

use std::fs::File;
use std::io::{self, Read};
use std::net::Ipv6Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::config::{Place, Tpm};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::SigningKey;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::x509::{X509Name, X509Version};

/// No file of certificates or keys is larger; a path that leads to a device must not fill the memory.
const LIMIT: u64 = 4 << 20;

/// A certificate with its chain and key, checked against each other and the clock.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The own certificate first, then what the file holds behind it.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key.
    pub key: Arc<dyn SigningKey>,
    /// The own certificate's subject.
    pub subject: String,
    /// The end of the own certificate's validity, seconds since 1970.
    pub not_after: i64,
    /// Where the certificate was read.
    pub cert_file: PathBuf,
}

/// Reads a certificate (with its chain) and its key, each PEM or DER, and checks that they can be used at the time `now`.
pub fn load(cert_file: &Path, key_file: &Path, now: SystemTime) -> Result<Credentials, LoadError> {
    load_with(cert_file, now, |spki| match key_for(spki, cert_file, key_file)? {
        PrivateKey::Clear(key) => Ok(key),
        PrivateKey::InTpm(_) => Err(LoadError::KeyInTpm { path: key_file.to_owned() }),
    })
}

/// As [`load`], with a key that is in a file or in `tpm`, which is asked for it.
pub fn load_at(cert_file: &Path, key: &Place, tpm: &Tpm, now: SystemTime) -> Result<Credentials, LoadError> {
    load_with(cert_file, now, |spki| {
        let at = match key {
            Place::Tpm(handle) => tpm::At::Handle(*handle),
            Place::File(path) => match key_for(spki, cert_file, path)? {
                PrivateKey::Clear(key) => return Ok(key),
                PrivateKey::InTpm(blob) => tpm::At::Blob(blob),
            },
        };
        let named = key.to_string();
        let found =
            tpm::open(tpm, at).map_err(|source| LoadError::Tpm { part: Part::Key, place: named.clone(), source })?;
        match found.public_key().is_some_and(|public| public.as_ref() == spki) {
            true => Ok(found),
            false => Err(mismatch(cert_file, named)),
        }
    })
}

/// As [`load`], with the key of a SubjectPublicKeyInfo from elsewhere.
fn load_with(
    cert_file: &Path,
    now: SystemTime,
    key: impl FnOnce(&[u8]) -> Result<Arc<dyn SigningKey>, LoadError>,
) -> Result<Credentials, LoadError> {
    let chain = certificates(cert_file)?;
    let Some(Ok(own)) = chain.first().map(|leaf| parse(leaf).ok_or(leaf)) else {
        return Err(LoadError::BadCertificate { path: cert_file.to_owned(), number: 1 });
    };
    let subject = name_text(&own.subject);
    let (not_before, not_after) = (own.validity.not_before.timestamp(), own.validity.not_after.timestamp());
    let spki = own.subject_pki.raw.to_vec();

    let key = key(&spki)?;
    let now = seconds(now);
    if now < not_before {
        return Err(LoadError::NotYetValid { path: cert_file.to_owned(), not_before, now });
    }
    if now > not_after {
        return Err(LoadError::Expired { path: cert_file.to_owned(), not_after, now });
    }
    Ok(Credentials { chain, key, subject, not_after, cert_file: cert_file.to_owned() })
}

/// The address that these credentials give this host.
pub fn own_address(credentials: &Credentials) -> Result<Ipv6Addr, LoadError> {
    let path = || credentials.cert_file.clone();
    let address = credentials
        .chain
        .first()
        .and_then(address_of)
        .ok_or_else(|| LoadError::NoAddress { path: path(), subject: credentials.subject.clone() })?;
    match unusable(address) {
        Some(why) => Err(LoadError::Unusable { path: path(), address, why }),
        None => Ok(address),
    }
}

/// Every certificate in a file, PEM or DER; at least one. In PEM they are not parsed.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    let bytes = read(Part::Certificate, path, &open(Part::Certificate, path)?)?;
    certificates_in(bytes, path)
}

/// As [`certificates`], for what is in a file or in an NV index of `tpm`. An index may be longer than what is in it.
pub fn certificates_at(place: &Place, tpm: &Tpm) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    let index = match place {
        Place::File(path) => return certificates(path),
        Place::Tpm(index) => *index,
    };
    let named = place.to_string();
    let mut bytes = tpm::stored(tpm, index).map_err(|source| LoadError::Tpm {
        part: Part::Certificate,
        place: named.clone(),
        source,
    })?;
    if let Ok((rest, _)) = X509Certificate::from_der(&bytes)
        && rest.iter().all(|byte| matches!(byte, 0 | 0xff))
    {
        bytes.truncate(bytes.len() - rest.len());
    }
    certificates_in(bytes, Path::new(&named))
}

fn certificates_in(bytes: Vec<u8>, path: &Path) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    let found = if is_pem(&bytes) {
        CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>().map_err(|source| LoadError::Pem {
            part: Part::Certificate,
            path: path.to_owned(),
            source,
        })?
    } else {
        let whole = parse(&bytes).is_some();
        whole.then(|| CertificateDer::from(bytes)).into_iter().collect()
    };
    if found.is_empty() {
        return Err(LoadError::NoCertificate { path: path.to_owned() });
    }
    Ok(found)
}

/// What a key file holds.
enum PrivateKey {
    Clear(Arc<dyn SigningKey>),
    InTpm(tpm::Blob),
}

impl PrivateKey {
    /// SubjectPublicKeyInfo of its public half, DER. None: it cannot be told.
    fn spki(&self) -> Option<Vec<u8>> {
        match self {
            Self::Clear(key) => key.public_key().map(|public| public.to_vec()),
            Self::InTpm(blob) => tpm::public_key(blob),
        }
    }
}

/// The key of a certificate: that in `key_file`, or the one that was about to take its place ([`save`]).
fn key_for(spki: &[u8], cert_file: &Path, key_file: &Path) -> Result<PrivateKey, LoadError> {
    let found = private_key(key_file).and_then(|key| match key.spki() {
        Some(public) if public != spki => Err(mismatch(cert_file, key_file)),
        Some(_) => Ok(key),
        // What is wrong with one of a TPM is known when it is opened.
        None if matches!(key, PrivateKey::InTpm(_)) => Ok(key),
        None => Err(mismatch(cert_file, key_file)),
    });
    let next = || private_key(&next_key_file(key_file)).ok().filter(|key| key.spki().as_deref() == Some(spki));
    found.or_else(|error| next().ok_or(error))
}

fn mismatch(cert_file: &Path, key_file: impl Into<PathBuf>) -> LoadError {
    LoadError::Mismatch { cert_file: cert_file.to_owned(), key_file: key_file.into() }
}

/// The file holds the key of this public half.
fn fits(key_file: &Path, spki: &[u8]) -> bool {
    private_key(key_file).is_ok_and(|key| key.spki().as_deref() == Some(spki))
}

/// SubjectPublicKeyInfo of a certificate, DER.
pub(crate) fn public_key_of(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    parse(certificate).map(|certificate| certificate.subject_pki.raw.to_vec())
}

fn private_key(path: &Path) -> Result<PrivateKey, LoadError> {
    let file = open(Part::Key, path)?;
    if let Some(mode) = open_to_others(path, &file).map_err(|source| unreadable(Part::Key, path, source))? {
        return Err(LoadError::KeyOpen { path: path.to_owned(), mode });
    }
    let bytes = read(Part::Key, path, &file)?;
    if tpm::is_blob(&bytes) {
        let blob = tpm::Blob::read(&bytes);
        let blob = blob.map_err(|source| LoadError::TpmFile { path: path.to_owned(), source })?;
        return Ok(PrivateKey::InTpm(blob));
    }
    let key = if is_pem(&bytes) {
        PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
            pem::Error::NoItemsFound if bytes.windows(ENCRYPTED.len()).any(|part| part == ENCRYPTED) => {
                LoadError::KeyEncrypted { path: path.to_owned() }
            }
            pem::Error::NoItemsFound => LoadError::NoKey { path: path.to_owned() },
            source => LoadError::Pem { part: Part::Key, path: path.to_owned(), source },
        })?
    } else {
        PrivateKeyDer::try_from(bytes).map_err(|_| LoadError::NoKey { path: path.to_owned() })?
    };
    let key = any_supported_type(&key).map_err(|source| LoadError::BadKey { path: path.to_owned(), source })?;
    Ok(PrivateKey::Clear(key))
}

/// The permission bits of a secret's file if others than its owner may read or write it.
fn open_to_others(path: &Path, file: &File) -> io::Result<Option<u32>> {
    let mode = file.metadata()?.permissions().mode() & 0o7777;
    // systemd lets the service's user read a credential of root's by an access list, which the group's bits then stand for.
    let credential = path.parent().map(Path::to_owned) == credentials_directory();
    let closed_to = if credential { 0o037 } else { 0o077 };
    Ok((mode & closed_to != 0).then_some(mode))
}

const ENCRYPTED: &[u8] = b"-----BEGIN ENCRYPTED PRIVATE KEY-----";
const PEM: &[u8] = b"-----BEGIN ";

fn is_pem(bytes: &[u8]) -> bool {
    bytes.windows(PEM.len()).any(|part| part == PEM)
}

fn unreadable(part: Part, path: &Path, source: io::Error) -> LoadError {
    LoadError::Read { part, path: path.to_owned(), source }
}

fn open(part: Part, path: &Path) -> Result<File, LoadError> {
    File::open(path).map_err(|source| unreadable(part, path, source))
}

fn read(part: Part, path: &Path, file: &File) -> Result<Vec<u8>, LoadError> {
    let mut bytes = Vec::new();
    file.take(LIMIT).read_to_end(&mut bytes).map_err(|source| unreadable(part, path, source))?;
    if bytes.is_empty() { Err(LoadError::Empty { part, path: path.to_owned() }) } else { Ok(bytes) }
}

/// The whole of `der` as one certificate. X.509 v1 and v2 have no extensions, and there is no v4.
pub(crate) fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    let (rest, certificate) = X509Certificate::from_der(der).ok()?;
    let known = match certificate.version {
        X509Version::V1 | X509Version::V2 => certificate.extensions().is_empty(),
        X509Version::V3 => true,
        _ => false,
    };
    (rest.is_empty() && known).then_some(certificate)
}

/// A subject or issuer as people read it, on one line whatever it holds.
pub(crate) fn name_text(name: &X509Name<'_>) -> String {
    name.to_string().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
