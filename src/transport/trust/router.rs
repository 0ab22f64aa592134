//! Who is a router: the client's judgement of the far end.

use std::net::IpAddr;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use super::error::{TrustError, Usage};
use super::{Anchors, algorithms, handshake12, handshake13};
use crate::identity::{addresses, common_names, name_text, parse, parse_address};

/// Whom a client takes for its router.
#[derive(Clone, Debug)]
pub struct RouterTrust {
    /// The CA file.
    pub anchors: Anchors,
    /// `remote.name`: the certificate must carry it. Without, any certificate under the anchors will do, except a
    /// device's: any device of a fleet could play the router otherwise.
    pub name: Option<String>,
}

impl RouterTrust {
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), CertificateError> {
        self.anchors.verify(leaf, intermediates, Usage::Server, now)?;
        let certificate = parse(leaf).ok_or(CertificateError::BadEncoding)?;
        match (&self.name, addresses(&certificate).first()) {
            (Some(name), _) => check_name(leaf, &certificate, name),
            (None, Some(address)) => Err(TrustError::Device(*address).into()),
            (None, None) => Ok(()),
        }
    }
}

/// An address in any form that a certificate or the configuration writes it.
pub(crate) fn ip_address(name: &str) -> Option<IpAddr> {
    parse_address(name).map(IpAddr::V6).or_else(|| name.parse().ok())
}

/// RFC 6125: the subject alternative names if there are any, else the common name.
fn check_name(
    leaf: &CertificateDer<'_>,
    certificate: &X509Certificate<'_>,
    wanted: &str,
) -> Result<(), CertificateError> {
    let names = certificate.subject_alternative_name().map_err(|_| CertificateError::BadEncoding)?;
    let address = ip_address(wanted);
    let (carried, presented) = match names {
        Some(names) => {
            let wanted = match address {
                Some(address) => Some(ServerName::from(address)),
                None => ServerName::try_from(wanted).ok(),
            };
            let carried = wanted.is_some_and(|wanted| san_carries(leaf, &wanted));
            (carried, list(names.value.general_names.iter().filter_map(san_text)))
        }
        None => {
            let carried = common_names(certificate).any(|name| match address {
                Some(_) => ip_address(name) == address,
                None => name.eq_ignore_ascii_case(wanted),
            });
            (carried, name_text(&certificate.subject))
        }
    };
    if carried { Ok(()) } else { Err(TrustError::Name { wanted: wanted.to_owned(), presented }.into()) }
}

fn san_carries(leaf: &CertificateDer<'_>, wanted: &ServerName<'_>) -> bool {
    webpki::EndEntityCert::try_from(leaf).is_ok_and(|leaf| leaf.verify_is_valid_for_subject_name(wanted).is_ok())
}

fn san_text(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(format!("{name:?}")),
        GeneralName::IPAddress(bytes) => match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
            (Ok(bytes), _) => Some(IpAddr::from(bytes).to_string()),
            (_, Ok(bytes)) => Some(IpAddr::from(bytes).to_string()),
            _ => None,
        },
        _ => None,
    }
}

fn list(names: impl Iterator<Item = String>) -> String {
    let names: Vec<_> = names.collect();
    if names.is_empty() { "neither a DNS name nor an address".to_owned() } else { names.join(", ") }
}

/// Judges the router in the handshake. The name that rustls was told is not asked: [`RouterTrust`] says what counts.
#[derive(Debug)]
pub struct RouterVerifier(pub RouterTrust);

impl ServerCertVerifier for RouterVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.0.judge(end_entity, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
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
