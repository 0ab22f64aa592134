//! Credentials on disk: every form that is read, and what is said of every other.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use enftun::error::Class;
use enftun::identity::{LoadError, load, own_address};
use enftun::state::{Failure, Reason};
use enftun::transport::trust::Anchors;

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use super::{ADDRESS, HEX_ADDRESS};
use crate::common::certs::{Alg, Ca, EXPIRED, Identity, Leaf, NOT_YET, THIS_CENTURY, write};
use crate::common::skip;

fn failure_of(error: &LoadError) -> Failure {
    Failure::from(error)
}

#[track_caller]
fn assert_refused(story: &str, dir: &Path, reason: Reason, part: &str) {
    let error = load(&dir.join("a.crt.pem"), &dir.join("a.key.pem"), SystemTime::now()).expect_err(story);
    let failure = failure_of(&error);
    assert_eq!((failure.reason, failure.class), (reason, Class::Credentials), "{story}: {failure}");
    assert!(failure.text.contains(part), "{story}: {part:?} is not in {failure}");
    assert!(failure.text.contains(&dir.display().to_string()), "{story}: no path in {failure}");
    assert!(!failure.text.contains('\n'), "{story}: {failure}");
}

#[test]
fn pem_and_der_of_every_form_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    if Command::new("openssl").arg("version").output().is_err() {
        return skip("pem_and_der_of_every_form_are_read", "no openssl");
    }
    // SEC1 or PKCS#1, which keys had before PKCS#8.
    let traditional = |input: &Path, output: &Path| {
        let pkey = Command::new("openssl").args(["pkey", "-traditional", "-in"]).arg(input).output().unwrap();
        assert!(pkey.status.success(), "{}", String::from_utf8_lossy(&pkey.stderr));
        write(output, &pkey.stdout, 0o600);
    };
    for alg in [Alg::P256, Alg::P384, Alg::Rsa2048, Alg::Ed25519] {
        for identity in [
            Identity::self_signed_v1(Leaf::new(ADDRESS).alg(alg)),
            Identity::self_signed_v3(Leaf::new(ADDRESS).alg(alg)),
        ] {
            let (cert, key) = identity.write(dir.path(), "a");
            write(&path("a.der"), &identity.cert_der, 0o644);
            write(&path("pkcs8.der"), identity.key.serialized_der(), 0o600);
            if alg == Alg::Ed25519 {
                // It has no traditional form.
                std::fs::copy(&key, path("traditional.pem")).unwrap();
            } else {
                traditional(&key, &path("traditional.pem"));
            }
            let pem = std::fs::read(path("traditional.pem")).unwrap();
            write(&path("traditional.der"), PrivateKeyDer::from_pem_slice(&pem).unwrap().secret_der(), 0o600);
            for cert in [cert, path("a.der")] {
                for key in [&key, &path("traditional.pem"), &path("traditional.der"), &path("pkcs8.der")] {
                    let story = format!("{alg:?}, {}, {}", cert.display(), key.display());
                    let credentials = load(&cert, key, SystemTime::now()).expect(&story);
                    assert_eq!(own_address(&credentials).expect(&story).to_string(), ADDRESS);
                    assert_eq!(credentials.subject, format!("CN={ADDRESS}"));
                }
            }
        }
    }
}

#[test]
fn what_is_wrong_with_the_files_is_said_with_the_path_and_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (cert, key) = (dir.join("a.crt.pem"), dir.join("a.key.pem"));
    let good = Identity::self_signed_v1(ADDRESS);
    let missing = Reason::CredentialsMissing;

    assert_refused("nothing there", dir, missing, "cannot read the certificate file");
    good.write(dir, "a");
    std::fs::remove_file(&key).unwrap();
    assert_refused("no key", dir, missing, "No such file");

    let half = &good.cert_pem[..good.cert_pem.len() / 2];
    let zeroed = good.cert_pem.replace(|c: char| c.is_ascii_lowercase(), "A");
    for (story, content, part) in [
        ("empty", "", "is empty"),
        ("garbage", "\u{1}\u{2}garbage", "holds no certificate"),
        ("a key", good.key_pem.as_str(), "holds no certificate"),
        ("cut off", half, "is damaged"),
        ("overwritten", zeroed.as_str(), "number 1"),
    ] {
        good.write(dir, "a");
        write(&cert, content.as_bytes(), 0o644);
        assert_refused(story, dir, missing, part);
    }
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n";
    for (story, content, part) in [
        ("empty key", "", "the key file"),
        ("garbage key", "garbage", "holds no private key"),
        ("certificate as key", good.cert_pem.as_str(), "holds no private key"),
        ("cut off key", "-----BEGIN PRIVATE KEY-----\nMAA=\n", "is damaged"),
        ("senseless key", "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n", "other than RSA"),
        ("encrypted key", encrypted, "take the passphrase off"),
    ] {
        good.write(dir, "a");
        write(&key, content.as_bytes(), 0o600);
        assert_refused(story, dir, missing, part);
    }
    for mode in [0o640, 0o604, 0o660, 0o644] {
        good.write(dir, "a");
        write(&key, good.key_pem.as_bytes(), mode);
        assert_refused("open key", dir, missing, &format!("chmod 600 {}", key.display()));
    }
    good.write(dir, "a");
    write(&key, Identity::self_signed_v1(ADDRESS).key_pem.as_bytes(), 0o600);
    assert_refused("another's key", dir, Reason::KeyMismatch, "does not belong to the certificate");

    Identity::self_signed_v1(Leaf::new(ADDRESS).valid(EXPIRED)).write(dir, "a");
    assert_refused("expired", dir, Reason::CertificateExpired, "expired on 2002-01-01");
    Identity::self_signed_v1(Leaf::new(ADDRESS).valid(NOT_YET)).write(dir, "a");
    assert_refused("not yet", dir, Reason::CertificateNotYetValid, "not valid before 2090-01-01");
}

#[test]
fn a_clock_before_the_build_is_to_blame_and_the_credentials_are_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = Identity::self_signed_v1(Leaf::new(ADDRESS).valid(THIS_CENTURY)).write(dir.path(), "a");
    let failure = failure_of(&load(&cert, &key, UNIX_EPOCH + Duration::from_secs(9)).unwrap_err());
    assert_eq!((failure.reason, failure.class), (Reason::CertificateNotYetValid, Class::Transient));
    assert!(failure.text.contains("the clock says 1970-01-01, which is before this program was built"), "{failure}");

    let (cert, key) = Identity::self_signed_v1(ADDRESS).write(dir.path(), "always");
    let always = load(&cert, &key, UNIX_EPOCH).expect("the years 0000 to 9999 hold 1970");
    assert_eq!(always.not_after, 253_402_300_799);
}

#[test]
fn the_own_address_is_the_one_in_the_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::v1("Fleet");
    let address = |identity: Identity| {
        let (cert, key) = identity.write(dir.path(), "a");
        own_address(&load(&cert, &key, SystemTime::now()).unwrap())
            .map(|address| address.to_string())
            .map_err(|error| failure_of(&error).text)
    };
    let ok = Ok(ADDRESS.to_owned());
    assert_eq!(address(ca.sign_v1(ADDRESS)), ok, "v1, textual");
    assert_eq!(address(ca.sign_v1("fd00:8f80:1:0:0:0:0:1234")), ok, "v1, textual, long form");
    assert_eq!(address(ca.sign_v1(HEX_ADDRESS)), ok, "v1, hex digits");
    assert_eq!(address(ca.sign_v3(Leaf::new("x").ip(ADDRESS))), ok, "v3, alternative name");
    assert_eq!(address(ca.sign_v3(Leaf::new("x").ip(ADDRESS).ip(ADDRESS).ip("10.0.0.1"))), ok, "v3, the same twice");
    assert_eq!(address(ca.sign_v3(Leaf::new(ADDRESS).ip("fd00::5"))), ok, "v3, the common name comes first");
    for (identity, part) in [
        (ca.sign_v1("device 7"), "(CN=device 7) carries no IPv6 address"),
        (ca.sign_v3(Leaf::new("x").ip("fd00::1").ip("fd00::2")), "or more than one"),
        (ca.sign_v3(Leaf::new("x").ip("198.51.100.7")), "carries no IPv6 address"),
        (ca.sign_v1("fe80::1"), "cannot be used: it is a link-local address"),
        (ca.sign_v1("ff02::1"), "multicast"),
        (ca.sign_v1("::"), "unspecified"),
        (ca.sign_v1("::1"), "loopback"),
    ] {
        let text = address(identity).unwrap_err();
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

#[test]
fn a_ca_file_is_read_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.pem");
    let (one, two) = (Ca::v1("One"), Ca::v3("Two"));
    let both = format!("# our CAs\n{}{}", one.identity.cert_pem, two.identity.cert_pem);
    write(&file, both.as_bytes(), 0o644);
    assert_eq!(format!("{:?}", Anchors::load(&file).unwrap()), "Anchors(2 certificates, 2 may sign)");
    write(&file, &one.identity.cert_der, 0o644);
    assert_eq!(format!("{:?}", Anchors::load(&file).unwrap()), "Anchors(1 certificates, 1 may sign)");

    let damaged = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    write(&file, format!("{both}{damaged}").as_bytes(), 0o644);
    let text = failure_of(&Anchors::load(&file).unwrap_err()).text;
    assert!(text.contains("certificate number 3 in") && text.contains("ca.pem"), "{text}");
    let text = failure_of(&Anchors::load(&dir.path().join("none.pem")).unwrap_err()).text;
    assert!(text.contains("none.pem: No such file"), "{text}");
}
