//! Who is a client: the router's judgement of a device, by a client CA or by enrolment.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::pem::{self, PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::error::{TrustError, Usage, check_dates};
use super::{Anchors, algorithms, handshake12, handshake13};
use crate::identity::{address_of, ipv4_of, parse, unusable};

/// Whom a router lets in.
#[derive(Clone, Debug)]
pub struct ClientTrust {
    /// The client CA file: a certificate under it may use the address in it.
    pub anchors: Option<Anchors>,
    /// One file per enrolled client, `ADDRESS.pem` with the address in its canonical text, holding a certificate or a
    /// public key; and one, `ADDRESS.revoked`, per address that nobody may use, whoever signed its certificate. It is read
    /// at each handshake: enrolment and revocation need no restart.
    pub endpoints_dir: PathBuf,
}

/// The file that enrols an address.
pub fn endpoint_file(endpoints_dir: &Path, address: Ipv6Addr) -> PathBuf {
    endpoints_dir.join(format!("{address}.{ENDPOINT}"))
}

/// The file that revokes an address, whatever it holds.
pub fn revocation_file(endpoints_dir: &Path, address: Ipv6Addr) -> PathBuf {
    endpoints_dir.join(format!("{address}.{REVOKED}"))
}

/// The ends of the two files' names.
pub const ENDPOINT: &str = "pem";
/// See [`ENDPOINT`].
pub const REVOKED: &str = "revoked";

/// What a client's certificate entitles it to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientIdentity {
    /// The only IPv6 address that it may use.
    pub address: Ipv6Addr,
    /// The only IPv4 address that it may use. One that the client wrote into a certificate by itself does not count:
    /// the certificate is under the client CA, or is itself the enrolled one.
    pub ipv4: Option<Ipv4Addr>,
    /// It was let in by its file in `endpoints_dir`, and not by the client CA.
    pub enrolled: bool,
}

/// Who sits at the far end of a finished handshake, judged once more at this moment.
pub fn client_identity(chain: &[CertificateDer<'_>], trust: &ClientTrust) -> Option<ClientIdentity> {
    let (leaf, intermediates) = chain.split_first()?;
    trust.judge(leaf, intermediates, UnixTime::now()).ok()
}

impl ClientTrust {
    /// Whether a client that was let in would still be, as far as the directory has a say. What cannot be told changes
    /// nothing for who is in.
    pub fn still_holds(&self, address: Ipv6Addr, enrolled: bool) -> bool {
        let is_there =
            |file: &Path| is_there(file).unwrap_or_else(|_| file.extension().is_some_and(|end| end == ENDPOINT));
        !is_there(&revocation_file(&self.endpoints_dir, address))
            && (!enrolled || is_there(&endpoint_file(&self.endpoints_dir, address)))
    }

    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientIdentity, CertificateError> {
        let certificate = parse(leaf).ok_or(CertificateError::BadEncoding)?;
        let validity = &certificate.validity;
        check_dates(validity.not_before.timestamp(), validity.not_after.timestamp(), now)?;
        let address = address_of(leaf).ok_or(TrustError::NoAddress)?;
        if let Some(why) = unusable(address) {
            return Err(TrustError::Unusable { address, why }.into());
        }
        let file = revocation_file(&self.endpoints_dir, address);
        match is_there(&file) {
            Ok(false) => {}
            Ok(true) => return Err(CertificateError::Revoked),
            Err(source) => return Err(TrustError::Endpoint { address, file, source }.into()),
        }
        let under_ca = match &self.anchors {
            Some(anchors) => anchors.verify(leaf, intermediates, Usage::Client, now),
            None => Err(CertificateError::UnknownIssuer),
        };
        let Err(refused) = under_ca else {
            return Ok(ClientIdentity { address, ipv4: ipv4_of(leaf), enrolled: false });
        };

        let file = endpoint_file(&self.endpoints_dir, address);
        match enrolled(&file, leaf, certificate.tbs_certificate.subject_pki.raw) {
            Ok(Match::Certificate) => Ok(ClientIdentity { address, ipv4: ipv4_of(leaf), enrolled: true }),
            Ok(Match::Key) => Ok(ClientIdentity { address, ipv4: None, enrolled: true }),
            Ok(Match::No) => Err(TrustError::OtherKey { address, file }.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(match refused {
                CertificateError::UnknownIssuer => TrustError::NotEnrolled { address, file }.into(),
                refused => refused,
            }),
            Err(source) => Err(TrustError::Endpoint { address, file, source }.into()),
        }
    }
}

fn is_there(file: &Path) -> io::Result<bool> {
    match file.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

enum Match {
    Certificate,
    Key,
    No,
}

/// Whether the file holds this certificate, or at least its key.
fn enrolled(file: &Path, leaf: &CertificateDer<'_>, key: &[u8]) -> io::Result<Match> {
    let bytes = std::fs::read(file)?;
    let mut found = Match::No;
    let mut any = false;
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(&bytes) {
        let (kind, der) = section.map_err(io::Error::other)?;
        match kind {
            SectionKind::Certificate if der == leaf.as_ref() => return Ok(Match::Certificate),
            SectionKind::Certificate if parse(&der).is_some_and(|known| known.subject_pki.raw == key) => {
                found = Match::Key;
            }
            SectionKind::PublicKey if der == key => found = Match::Key,
            SectionKind::Certificate | SectionKind::PublicKey => {}
            _ => continue,
        }
        any = true;
    }
    if any { Ok(found) } else { Err(io::Error::other(pem::Error::NoItemsFound)) }
}

/// Judges the client in the handshake; one without a certificate is refused.
#[derive(Debug)]
pub struct ClientVerifier(pub ClientTrust);

impl ClientCertVerifier for ClientVerifier {
    /// None: an enrolled client's issuer is unknown to us, and it must offer its certificate all the same.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.0.judge(end_entity, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        handshake12(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        handshake13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}
