//! Makes certificates of every shape the tests need: X.509 v1 as the C client's tools write them, and v3. It judges none.
//!
//! ```ignore
//! let ca = Ca::v1("Fleet");
//! let router = ca.sign_v1("router.example");                              // CN only, valid in the years 0000 to 9999
//! let client = ca.sign_v3(Leaf::new("fd00:8f80:1::1234").client_only());  // v3 with an extended key usage
//! let (cert_file, key_file) = client.write(dir, "client");           // 0644 and 0600
//! let ca_file = ca.write(dir, "ca");
//! ```

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SigningKey,
};
use rustls::pki_types::CertificateDer;
use yasna::models::ObjectIdentifier;

/// The whole range a certificate can say, and what the C client's tools write.
pub const FOR_EVER: (&str, &str) = ("00000101000000Z", "99991231235959Z");

/// What a v3 certificate says unless told otherwise.
pub const THIS_CENTURY: (&str, &str) = ("20200101000000Z", "20991231235959Z");

/// Long over.
pub const EXPIRED: (&str, &str) = ("20010101000000Z", "20020101000000Z");

/// Not before the year 2090.
pub const NOT_YET: (&str, &str) = ("20900101000000Z", "20910101000000Z");

/// The kind of key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Alg {
    #[default]
    P256,
    P384,
    Rsa2048,
    Ed25519,
}

/// What a certificate shall say of its subject.
#[derive(Clone, Debug)]
pub struct Leaf {
    cn: String,
    validity: Option<(&'static str, &'static str)>,
    sans: Vec<SanType>,
    usages: Vec<ExtendedKeyUsagePurpose>,
    is_ca: IsCa,
    key_usages: Vec<KeyUsagePurpose>,
    alg: Alg,
    key: Option<Arc<KeyPair>>,
}

impl From<&str> for Leaf {
    fn from(cn: &str) -> Self {
        Self::new(cn)
    }
}

impl Leaf {
    /// A subject with this common name, a P-256 key, and no extension.
    pub fn new(cn: &str) -> Self {
        Self {
            cn: cn.to_owned(),
            validity: None,
            sans: Vec::new(),
            usages: Vec::new(),
            is_ca: IsCa::NoCa,
            key_usages: Vec::new(),
            alg: Alg::default(),
            key: None,
        }
    }

    /// Validity as a pair of `YYYYMMDDHHMMSSZ`.
    pub fn valid(mut self, validity: (&'static str, &'static str)) -> Self {
        self.validity = Some(validity);
        self
    }

    /// v3: adds a DNS subject alternative name.
    pub fn dns(mut self, name: &str) -> Self {
        self.sans.push(SanType::DnsName(name.try_into().unwrap()));
        self
    }

    /// v3: adds an IP subject alternative name.
    pub fn ip(mut self, address: &str) -> Self {
        self.sans.push(SanType::IpAddress(address.parse::<IpAddr>().unwrap()));
        self
    }

    /// v3: extended key usage clientAuth.
    pub fn client_only(mut self) -> Self {
        self.usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        self
    }

    /// v3: extended key usage serverAuth.
    pub fn server_only(mut self) -> Self {
        self.usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        self
    }

    /// v3: basicConstraints CA:TRUE.
    pub fn ca(mut self) -> Self {
        self.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        self
    }

    /// v3: basicConstraints CA:FALSE, said aloud.
    pub fn not_ca(mut self) -> Self {
        self.is_ca = IsCa::ExplicitNoCa;
        self
    }

    /// v3: keyUsage digitalSignature only, which may not sign certificates.
    pub fn may_not_sign(mut self) -> Self {
        self.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        self
    }

    /// Another kind of key.
    pub fn alg(mut self, alg: Alg) -> Self {
        self.alg = alg;
        self
    }

    /// A key that exists already.
    pub fn key(mut self, key: &Arc<KeyPair>) -> Self {
        self.key = Some(Arc::clone(key));
        self
    }

    fn make_key(&self) -> Arc<KeyPair> {
        self.key.clone().unwrap_or_else(|| new_key(self.alg))
    }
}

/// A certificate with its key.
#[derive(Clone)]
pub struct Identity {
    pub cert_der: CertificateDer<'static>,
    /// The certificate, and what [`Identity::with_chain`] put behind it.
    pub cert_pem: String,
    /// PKCS#8.
    pub key_pem: String,
    pub key: Arc<KeyPair>,
    cn: String,
}

impl Identity {
    /// v1, signed by its own key: what `keygen` enrols, and the shape of the C client's test certificates.
    pub fn self_signed_v1(leaf: impl Into<Leaf>) -> Self {
        let leaf = leaf.into();
        let key = leaf.make_key();
        let der = old_der(None, &leaf, &leaf.cn, &key, &key);
        Self::new(der, &leaf.cn, key)
    }

    /// v3, signed by its own key.
    pub fn self_signed_v3(leaf: impl Into<Leaf>) -> Self {
        let leaf = leaf.into();
        let key = leaf.make_key();
        let der = v3_params(&leaf).self_signed(&*key).unwrap().der().clone();
        Self::new(der, &leaf.cn, key)
    }

    fn new(cert_der: CertificateDer<'static>, cn: &str, key: Arc<KeyPair>) -> Self {
        Self {
            cert_pem: pem("CERTIFICATE", &cert_der),
            key_pem: pem("PRIVATE KEY", key.serialized_der()),
            cert_der,
            key,
            cn: cn.to_owned(),
        }
    }

    /// Signs with this identity's key and name, whether or not it may.
    pub fn as_issuer(&self) -> Ca {
        Ca { identity: self.clone() }
    }

    /// Puts further certificates behind its own in the file.
    pub fn with_chain(mut self, chain: &[&Identity]) -> Self {
        for link in chain {
            self.cert_pem.push_str(&pem("CERTIFICATE", &link.cert_der));
        }
        self
    }

    /// The public key as a `PUBLIC KEY` PEM.
    pub fn public_key_pem(&self) -> String {
        pem("PUBLIC KEY", &self.key.subject_public_key_info())
    }

    /// Writes `STEM.crt.pem` (0644) and `STEM.key.pem` (0600).
    pub fn write(&self, dir: &Path, stem: &str) -> (PathBuf, PathBuf) {
        let cert_file = dir.join(format!("{stem}.crt.pem"));
        let key_file = dir.join(format!("{stem}.key.pem"));
        write(&cert_file, self.cert_pem.as_bytes(), 0o644);
        write(&key_file, self.key_pem.as_bytes(), 0o600);
        (cert_file, key_file)
    }
}

/// Something that signs certificates.
#[derive(Clone)]
pub struct Ca {
    pub identity: Identity,
}

impl Ca {
    /// A v1 root, valid for ever, as the one that ships with the C client.
    pub fn v1(cn: &str) -> Self {
        Self { identity: Identity::self_signed_v1(cn) }
    }

    /// A v3 root with basicConstraints CA:TRUE.
    pub fn v3(cn: &str) -> Self {
        Self { identity: Identity::self_signed_v3(Leaf::new(cn).ca()) }
    }

    /// Signs a v1 certificate; its years are 0000 to 9999 unless told otherwise.
    pub fn sign_v1(&self, leaf: impl Into<Leaf>) -> Identity {
        self.sign_old(None, leaf.into())
    }

    /// The same as v2, which nobody issues and the rules for v1 hold for.
    pub fn sign_v2(&self, leaf: impl Into<Leaf>) -> Identity {
        self.sign_old(Some(1), leaf.into())
    }

    /// Signs a v3 certificate, valid from 2020 to 2099 unless told otherwise.
    pub fn sign_v3(&self, leaf: impl Into<Leaf>) -> Identity {
        let leaf = leaf.into();
        let key = leaf.make_key();
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(&self.identity.cn);
        let issuer = Issuer::new(params, &*self.identity.key);
        let der = v3_params(&leaf).signed_by(&*key, &issuer).unwrap().der().clone();
        Identity::new(der, &leaf.cn, key)
    }

    /// Writes `STEM.pem` for `ca_cert_file`.
    pub fn write(&self, dir: &Path, stem: &str) -> PathBuf {
        let file = dir.join(format!("{stem}.pem"));
        write(&file, self.identity.cert_pem.as_bytes(), 0o644);
        file
    }

    fn sign_old(&self, version: Option<u8>, leaf: Leaf) -> Identity {
        let key = leaf.make_key();
        let der = old_der(version, &leaf, &self.identity.cn, &self.identity.key, &key);
        Identity::new(der, &leaf.cn, key)
    }
}

/// A fresh key.
pub fn new_key(alg: Alg) -> Arc<KeyPair> {
    Arc::new(
        KeyPair::generate_for(match alg {
            Alg::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Alg::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            Alg::Rsa2048 => &rcgen::PKCS_RSA_SHA256,
            Alg::Ed25519 => &rcgen::PKCS_ED25519,
        })
        .unwrap(),
    )
}

/// Writes a file with exactly this mode.
pub fn write(file: &Path, content: &[u8], mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(file, content).unwrap();
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// PEM armour.
pub fn pem(label: &str, der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in der.chunks(48) {
        for group in line.chunks(3) {
            let bits = (0..3).fold(0, |bits, i| bits << 8 | u32::from(*group.get(i).unwrap_or(&0)));
            for i in 0..4 {
                let digit = DIGITS[(bits >> (18 - 6 * i)) as usize & 63] as char;
                text.push(if i <= group.len() { digit } else { '=' });
            }
        }
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}

fn serial() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn distinguished_name(cn: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, cn);
    name
}

fn v3_params(leaf: &Leaf) -> CertificateParams {
    let (not_before, not_after) = leaf.validity.unwrap_or(THIS_CENTURY);
    let mut params = CertificateParams::default();
    let number = |text: &str| text.parse::<u32>().unwrap();
    let moment = |text: &str| {
        let day = rcgen::date_time_ymd(number(&text[..4]) as i32, number(&text[4..6]) as u8, number(&text[6..8]) as u8);
        let seconds = number(&text[8..10]) * 3600 + number(&text[10..12]) * 60 + number(&text[12..14]);
        day + Duration::from_secs(seconds.into())
    };
    params.not_before = moment(not_before);
    params.not_after = moment(not_after);
    params.serial_number = Some(SerialNumber::from(serial()));
    params.subject_alt_names = leaf.sans.clone();
    params.distinguished_name = distinguished_name(&leaf.cn);
    params.is_ca = leaf.is_ca;
    params.key_usages = leaf.key_usages.clone();
    params.extended_key_usages = leaf.usages.clone();
    params
}

/// A certificate as RFC 5280 section 4.1 has it, without extensions: version 1, or what `version` says (1 is v2).
fn old_der(
    version: Option<u8>,
    leaf: &Leaf,
    issuer_cn: &str,
    issuer_key: &KeyPair,
    key: &KeyPair,
) -> CertificateDer<'static> {
    assert!(leaf.sans.is_empty() && leaf.usages.is_empty(), "only v3 has extensions");
    let (not_before, not_after) = leaf.validity.unwrap_or(FOR_EVER);
    let tbs = yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            if let Some(version) = version {
                writer.next().write_tagged(yasna::Tag::context(0), |writer| writer.write_u8(version));
            }
            writer.next().write_u64(serial());
            write_algorithm(writer.next(), issuer_key);
            write_name(writer.next(), issuer_cn);
            writer.next().write_sequence(|writer| {
                for time in [not_before, not_after] {
                    writer.next().write_der(&[&[0x18, 15], time.as_bytes()].concat());
                }
            });
            write_name(writer.next(), &leaf.cn);
            writer.next().write_der(&key.subject_public_key_info());
        });
    });
    let signature = issuer_key.sign(&tbs).unwrap();
    let der = yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_der(&tbs);
            write_algorithm(writer.next(), issuer_key);
            writer.next().write_bitvec_bytes(&signature, signature.len() * 8);
        });
    });
    der.into()
}

fn write_name(writer: yasna::DERWriter<'_>, cn: &str) {
    writer.write_sequence(|writer| {
        writer.next().write_set(|writer| {
            writer.next().write_sequence(|writer| {
                writer.next().write_oid(&ObjectIdentifier::from_slice(&[2, 5, 4, 3]));
                writer.next().write_utf8_string(cn);
            });
        });
    });
}

fn write_algorithm(writer: yasna::DERWriter<'_>, key: &KeyPair) {
    let alg = key.algorithm();
    let (oid, null): (&[u64], bool) = if alg == &rcgen::PKCS_ECDSA_P256_SHA256 {
        (&[1, 2, 840, 10045, 4, 3, 2], false)
    } else if alg == &rcgen::PKCS_ECDSA_P384_SHA384 {
        (&[1, 2, 840, 10045, 4, 3, 3], false)
    } else if alg == &rcgen::PKCS_RSA_SHA256 {
        (&[1, 2, 840, 113549, 1, 1, 11], true)
    } else {
        (&[1, 3, 101, 112], false)
    };
    writer.write_sequence(|writer| {
        writer.next().write_oid(&ObjectIdentifier::from_slice(oid));
        if null {
            writer.next().write_null();
        }
    });
}
