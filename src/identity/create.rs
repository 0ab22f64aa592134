//! What makes a new identity: keys, certificates that a key signs over itself, and requests for certificates of a CA. The
//! address stands where routers look for it: in the common name, and in v3 also as a subject alternative name.

use std::net::Ipv6Addr;
use std::time::{Duration, SystemTime};

use aws_lc_rs::signature::Ed25519KeyPair;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
    SerialNumber, SigningKey,
};
use x509_parser::time::ASN1Time;
use yasna::DERWriter;
use yasna::models::ObjectIdentifier;

use super::tpm::TpmError;
use super::{Algorithm, PublicKey, clock_is_wrong, clock_text, seconds};
use crate::error::Class;

/// How long a certificate is good.
pub const LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// It begins so long ago: the clock of a router may be behind.
const SKEW: Duration = Duration::from_secs(3600);
/// The length of a serial number, bytes; RFC 5280 section 4.1.2.2 allows 20.
const SERIAL: usize = 16;

/// The form of a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// Without extensions: what the C client makes, and what old routers may insist on.
    V1,
    /// With the extensions that say what it is for.
    #[default]
    V3,
}

/// Why no identity was made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The library for cryptography fails.
    #[error("a {algorithm} key cannot be made")]
    Key {
        /// The kind.
        algorithm: Algorithm,
        /// What the library says.
        source: rcgen::Error,
    },
    /// A key of a kind that is not made here, or a library that fails.
    #[error("a certificate for {address} cannot be signed with this key")]
    Sign {
        /// Whose it would be.
        address: Ipv6Addr,
        /// What the library says.
        source: rcgen::Error,
    },
    /// The TPM makes no key.
    #[error("a key in the TPM cannot be made")]
    Tpm(#[from] TpmError),
    /// The validity would be nonsense.
    #[error("no certificate can be made now: {}", clock_text(*now))]
    Clock {
        /// The clock, seconds since 1970.
        now: i64,
    },
}

impl CreateError {
    /// A clock is set by itself; nothing that anybody could edit would mend the rest.
    pub fn class(&self) -> Class {
        match self {
            Self::Clock { .. } => Class::Transient,
            Self::Tpm(error) => error.class(),
            Self::Key { .. } | Self::Sign { .. } => Class::Bug,
        }
    }
}

/// A new key, from the system's randomness. Its file is PKCS#8 in the version that everybody reads (RFC 5208).
pub fn keypair(algorithm: Algorithm) -> Result<KeyPair, CreateError> {
    match algorithm {
        // rcgen writes the version with a public key in it (RFC 5958), which OpenSSL 3.0 does not know.
        Algorithm::Ed25519 => Ed25519KeyPair::generate()
            .and_then(|key| key.to_pkcs8v1())
            .map_err(|_| rcgen::Error::RemoteKeyError)
            .and_then(|key| KeyPair::from_pkcs8_der_and_sign_algo(&key.as_ref().into(), algorithm.signature())),
        _ => KeyPair::generate_for(algorithm.signature()),
    }
    .map_err(|source| CreateError::Key { algorithm, source })
}

/// A certificate that `key` signs over itself, PEM: from an hour before `now` for [`LIFETIME`]. The key may be in a TPM.
///
/// # Errors
/// The clock stands before the day this program was built; or the key cannot sign.
pub fn self_signed(
    key: &impl SigningKey,
    address: Ipv6Addr,
    version: Version,
    now: SystemTime,
) -> Result<String, CreateError> {
    let validity = validity(now)?;
    let failed = |source| CreateError::Sign { address, source };
    match version {
        Version::V1 => v1(key, address, &validity).map(certificate_pem).map_err(failed),
        Version::V3 => {
            let mut params = params(address);
            [params.not_before, params.not_after] = validity.map(|time| time.to_datetime());
            params.serial_number = Some(SerialNumber::from_slice(&serial().map_err(failed)?));
            params.is_ca = IsCa::ExplicitNoCa;
            params.self_signed(key).map(|certificate| certificate.pem()).map_err(failed)
        }
    }
}

/// A request for a certificate over `key` (PKCS#10, RFC 2986), PEM, for a CA of one's own.
pub fn request(key: &impl SigningKey, address: Ipv6Addr) -> Result<String, CreateError> {
    let made = params(address).serialize_request(key).and_then(|request| request.pem());
    made.map_err(|source| CreateError::Sign { address, source })
}

/// What v3 certificates and requests say.
fn params(address: Ipv6Addr) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, address.to_string());
    params.subject_alt_names = vec![SanType::IpAddress(address.into())];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn validity(now: SystemTime) -> Result<[ASN1Time; 2], CreateError> {
    let wrong = || CreateError::Clock { now: seconds(now) };
    if clock_is_wrong(seconds(now)) {
        return Err(wrong());
    }
    let span = [now.checked_sub(SKEW), now.checked_add(LIFETIME)];
    let [from, to] = span.map(|time| ASN1Time::from_timestamp(time.map_or(i64::MAX, seconds)).map_err(|_| wrong()));
    Ok([from?, to?])
}

/// Random, positive, and without a leading zero.
fn serial() -> Result<[u8; SERIAL], rcgen::Error> {
    let mut serial = [0; SERIAL];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| rcgen::Error::RemoteKeyError)?;
    let [first, ..] = &mut serial;
    *first = *first & 0x7f | 0x40;
    Ok(serial)
}

/// A certificate of version 1 (RFC 5280 section 4.1), which rcgen does not write.
fn v1(key: &impl SigningKey, address: Ipv6Addr, validity: &[ASN1Time; 2]) -> Result<Vec<u8>, rcgen::Error> {
    let public = PublicKey::of(key).ok_or(rcgen::Error::UnsupportedSignatureAlgorithm)?;
    let (algorithm, serial) = (public.algorithm(), serial()?);
    let signed = yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_bigint_bytes(&serial, true);
            write_algorithm(writer.next(), algorithm);
            write_name(writer.next(), address);
            writer.next().write_sequence(|writer| {
                validity.iter().for_each(|time| write_time(writer.next(), time));
            });
            write_name(writer.next(), address);
            writer.next().write_der(public.spki());
        });
    });
    let signature = key.sign(&signed)?;
    Ok(yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_der(&signed);
            write_algorithm(writer.next(), algorithm);
            writer.next().write_bitvec_bytes(&signature, signature.len() * 8);
        });
    }))
}

fn write_algorithm(writer: DERWriter<'_>, algorithm: Algorithm) {
    let oid: &[u64] = match algorithm {
        Algorithm::P256 => &[1, 2, 840, 10045, 4, 3, 2],
        Algorithm::P384 => &[1, 2, 840, 10045, 4, 3, 3],
        Algorithm::Ed25519 => &[1, 3, 101, 112],
    };
    writer.write_sequence(|writer| writer.next().write_oid(&ObjectIdentifier::from_slice(oid)));
}

/// A common name, and nothing else.
fn write_name(writer: DERWriter<'_>, address: Ipv6Addr) {
    writer.write_sequence(|writer| {
        writer.next().write_set(|writer| {
            writer.next().write_sequence(|writer| {
                writer.next().write_oid(&ObjectIdentifier::from_slice(&[2, 5, 4, 3]));
                writer.next().write_utf8_string(&address.to_string());
            });
        });
    });
}

/// RFC 5280 section 4.1.2.5: two digits of the year up to 2049, four from then on.
fn write_time(writer: DERWriter<'_>, time: &ASN1Time) {
    let time = time.to_datetime();
    let rest = format!(
        "{:02}{:02}{:02}{:02}{:02}Z",
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second()
    );
    let (tag, text) = match time.year() {
        year @ 1950..2050 => (yasna::tags::TAG_UTCTIME, format!("{:02}{rest}", year % 100)),
        year => (yasna::tags::TAG_GENERALIZEDTIME, format!("{year:04}{rest}")),
    };
    writer.write_tagged_implicit(tag, |writer| writer.write_bytes(text.as_bytes()));
}

/// A certificate in PEM armour (RFC 7468).
pub fn certificate_pem(der: Vec<u8>) -> String {
    let lines = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new("CERTIFICATE", der), lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{address_of, parse};
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    use std::time::UNIX_EPOCH;
    use x509_parser::prelude::*;

    const ADDRESS: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x8f80, 1, 0, 0, 0, 0, 0x1234);

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn der(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    /// 2040-05-09 07:08:09.
    const THEN: u64 = 2_220_160_089;

    #[test]
    fn every_kind_of_key_makes_both_forms_of_certificate_signed_by_itself() {
        for algorithm in Algorithm::ALL {
            let key = keypair(algorithm).unwrap();
            for version in [Version::V1, Version::V3] {
                let pem = self_signed(&key, ADDRESS, version, at(THEN)).unwrap();
                let der = der(&pem);
                let certificate = parse(&der).unwrap();
                assert_eq!(address_of(&der), Some(ADDRESS), "{algorithm} {version:?}");
                assert_eq!(certificate.subject(), certificate.issuer());
                assert_eq!(certificate.subject_pki.raw, PublicKey::of(&key).unwrap().spki());
                assert_eq!(certificate.validity.not_before.timestamp(), THEN as i64 - 3600);
                assert_eq!(certificate.validity.not_after.timestamp(), THEN as i64 + 365 * 86400);
                assert_eq!(certificate.version, if version == Version::V1 { X509Version::V1 } else { X509Version::V3 });
                assert!(certificate.raw_serial().len() == SERIAL && certificate.raw_serial()[0] & 0x80 == 0);
            }
        }
    }

    #[test]
    fn a_v3_certificate_says_what_it_is_for() {
        let pem = self_signed(&keypair(Algorithm::P256).unwrap(), ADDRESS, Version::V3, at(THEN)).unwrap();
        let der = der(&pem);
        let certificate = parse(&der).unwrap();
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        let octets = ADDRESS.octets();
        assert!(matches!(names.value.general_names[..], [GeneralName::IPAddress(bytes)] if bytes == octets));
        let usages = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usages.client_auth && !usages.server_auth && !usages.any);
        let usage = certificate.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.digital_signature() && !usage.value.key_cert_sign());
        assert!(!certificate.is_ca());
    }

    #[test]
    fn serial_numbers_differ() {
        assert_ne!(serial().unwrap(), serial().unwrap());
    }

    #[test]
    fn a_request_carries_the_address_twice_and_proves_its_key() {
        for algorithm in Algorithm::ALL {
            let pem = request(&keypair(algorithm).unwrap(), ADDRESS).unwrap();
            assert!(pem.starts_with("-----BEGIN CERTIFICATE REQUEST-----\n"), "{pem}");
            let (_, armour) = parse_x509_pem(pem.as_bytes()).unwrap();
            let (_, request) = X509CertificationRequest::from_der(&armour.contents).unwrap();
            let subject = &request.certification_request_info.subject;
            assert_eq!(subject.to_string(), format!("CN={ADDRESS}"));
            let octets = ADDRESS.octets();
            let mut extensions = request.requested_extensions().unwrap();
            assert!(extensions.any(|extension| matches!(extension, ParsedExtension::SubjectAlternativeName(names)
                if matches!(names.general_names[..], [GeneralName::IPAddress(bytes)] if bytes == octets))));
        }
    }

    #[test]
    fn a_clock_before_this_program_makes_no_certificate() {
        let error = self_signed(&keypair(Algorithm::P256).unwrap(), ADDRESS, Version::V3, at(1)).unwrap_err();
        assert_eq!(error.class(), Class::Transient);
        assert!(error.to_string().contains("the clock is wrong"), "{error}");
    }

    #[test]
    fn a_time_has_two_digits_of_the_year_up_to_2049_and_four_from_then_on() {
        for (seconds, tag, text) in [(THEN, 0x17, "400509070809Z"), (2_524_608_000, 0x18, "20500101000000Z")] {
            let time = ASN1Time::from_timestamp(seconds as i64).unwrap();
            let der = yasna::construct_der(|writer| write_time(writer, &time));
            assert_eq!((der[0], std::str::from_utf8(&der[2..]).unwrap()), (tag, text));
        }
    }
}
