//! What is in a TPM, with an emulated one in the test's own namespace and tpm2-tools as the other side: keys in files and
//! under handles, trust anchors in NV storage, and what is said when there is nothing to be had.

use crate::common::certs::Ca;
use crate::common::netns::{in_netns, sh};
use crate::common::swtpm::{STORAGE, Swtpm};
use crate::common::wait_for;
use enftun::config::{Place, Tpm};
use enftun::error::{Class, chain};
use enftun::identity::tpm::{At, Blob, Parent, TpmError, TpmKey, create, open};
use enftun::identity::{self, Algorithm, LoadError, Version};
use enftun::transport::trust::Anchors;
use std::fs;
use std::net::Ipv6Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

const ADDRESS: &str = "fd00:8f80:1::1234";
const INDEX: u32 = 0x141_0005;
/// `TPM2_PT_NV_BUFFER_MAX` and `TPM2_PT_NV_INDEX_MAX` of the emulated TPM.
const PIECE: usize = 1024;
const LARGEST: usize = 2048;

/// Runs a story with a new TPM and a directory.
fn story(test: &str, tell: impl FnOnce(&mut Swtpm, &Path) + Send) {
    in_netns(test, || {
        let Some(mut tpm) = Swtpm::start(test) else { return };
        let directory = tempfile::tempdir().unwrap();
        tell(&mut tpm, directory.path());
    });
}

fn address() -> Ipv6Addr {
    ADDRESS.parse().unwrap()
}

/// Writes a certificate that the key signs over itself, and what is in the key's file.
fn write_pair(directory: &Path, key: &TpmKey, file: &str) -> (PathBuf, PathBuf) {
    let (cert_file, key_file) = (directory.join("crt.pem"), directory.join("key.pem"));
    let certificate = identity::self_signed(key, address(), Version::V3, SystemTime::now()).unwrap();
    fs::write(&cert_file, certificate).unwrap();
    fs::write(&key_file, file).unwrap();
    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600)).unwrap();
    (cert_file, key_file)
}

fn load(pair: &(PathBuf, PathBuf), tpm: &Tpm) -> Result<identity::Credentials, LoadError> {
    identity::load_at(&pair.0, &Place::File(pair.1.clone()), tpm, SystemTime::now())
}

#[track_caller]
fn refused<T>(result: Result<T, LoadError>, says: &str, class: Class) {
    let Err(error) = result else { panic!("it was taken") };
    let text = chain(&error);
    assert!(text.contains(says), "{text}");
    assert_eq!(error.class(), class, "{text}");
}

#[test]
fn certificates_and_requests_of_a_key_in_the_tpm_are_signed_by_it() {
    story("certificates_and_requests_of_a_key_in_the_tpm_are_signed_by_it", |tpm, directory| {
        for algorithm in [Algorithm::P256, Algorithm::P384] {
            let (key, blob) = create(&tpm.config(), algorithm).unwrap();
            let pair = write_pair(directory, &key, &blob.pem());
            let own = identity::own_address(&load(&pair, &tpm.config()).unwrap()).unwrap();
            assert_eq!(own, address(), "{algorithm}");
            let request = identity::request(&key, address()).unwrap();
            fs::write(directory.join("request.pem"), request).unwrap();
            let v1 = identity::self_signed(&key, address(), Version::V1, SystemTime::now()).unwrap();
            fs::write(directory.join("v1.pem"), v1).unwrap();
            let directory = directory.display();
            sh(&format!("cd {directory}; openssl req -verify -in request.pem -noout 2>&1"));
            for certificate in ["crt.pem", "v1.pem"] {
                sh(&format!("cd {directory}; openssl verify -check_ss_sig -CAfile {certificate} {certificate}"));
            }
        }
        assert!(matches!(create(&tpm.config(), Algorithm::Ed25519), Err(TpmError::Kind)));
    });
}

#[test]
fn what_was_asked_of_a_tpm_leaves_nothing_in_it() {
    story("what_was_asked_of_a_tpm_leaves_nothing_in_it", |tpm, directory| {
        let loaded = |tpm: &Swtpm| {
            tpm.tools(
                directory,
                "tpm2_getcap handles-transient; tpm2_getcap handles-loaded-session; tpm2_getcap handles-persistent",
            )
        };
        assert_eq!(loaded(tpm), "");
        let (key, blob) = create(&tpm.config(), Algorithm::P256).unwrap();
        // It has room for three keys at a time.
        for _ in 0..10 {
            key.sign(b"something").unwrap();
            TpmKey::open(&tpm.config(), At::Blob(blob.clone())).unwrap();
        }
        assert_eq!(loaded(tpm), "");
    });
}

#[test]
fn many_at_once_wait_for_each_other() {
    story("many_at_once_wait_for_each_other", |tpm, _| {
        let (key, _) = create(&tpm.config(), Algorithm::P256).unwrap();
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(|| key.sign(b"something"))).collect();
            for one in all {
                one.join().unwrap().unwrap();
            }
        });
    });
}

#[test]
fn keys_that_tpm2_tools_made_are_used() {
    story("keys_that_tpm2_tools_made_are_used", |tpm, directory| {
        let sign = "-G ecc -a 'sign|fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda'";
        let parents = [("storage", Parent::Owner), ("0x81000001", Parent::Handle(0x8100_0001))];
        tpm.tools(
            directory,
            &format!("{STORAGE}; tpm2_evictcontrol -Q -C o -c storage 0x81000001; tpm2_flushcontext -t"),
        );
        for (parent, expected) in parents {
            tpm.tools(
                directory,
                &format!(
                    "rm -f tools.pem; {STORAGE}; tpm2_create -Q -C {parent} {sign} -u pub -r priv; tpm2_flushcontext -t; \
                     tpm2_encodeobject -Q -C {parent} -u pub -r priv -o tools.pem"
                ),
            );
            tpm.tools(directory, "tpm2_flushcontext -t");
            let file = fs::read_to_string(directory.join("tools.pem")).unwrap();
            let blob = Blob::read(file.as_bytes()).unwrap();
            assert_eq!(blob.parent, expected);
            let key = TpmKey::open(&tpm.config(), At::Blob(blob)).unwrap();
            let pair = write_pair(directory, &key, &file);
            load(&pair, &tpm.config()).unwrap();
            // The C client leaves its files open to everybody.
            fs::set_permissions(&pair.1, fs::Permissions::from_mode(0o644)).unwrap();
            refused(load(&pair, &tpm.config()), "chmod 600", Class::Credentials);
        }
    });
}

#[test]
fn a_key_that_cannot_sign_for_tls_is_told() {
    story("a_key_that_cannot_sign_for_tls_is_told", |tpm, directory| {
        tpm.tools(
            directory,
            &format!(
                "{STORAGE}; tpm2_evictcontrol -Q -C o -c storage 0x81000001; tpm2_flushcontext -t; \
                 tpm2_create -Q -C 0x81000001 -G rsa2048 -u pub -r priv -c rsa; \
                 tpm2_evictcontrol -Q -C o -c rsa 0x81000002; tpm2_flushcontext -t; \
                 tpm2_create -Q -C 0x81000001 -G ecc:ecdh -u pub -r priv -c ecdh; \
                 tpm2_evictcontrol -Q -C o -c ecdh 0x81000003; tpm2_flushcontext -t; \
                 tpm2_create -Q -C 0x81000001 -G ecc -p secret -c guarded -u pub -r priv \
                 -a 'sign|fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda'; \
                 tpm2_evictcontrol -Q -C o -c guarded 0x81000004; tpm2_flushcontext -t"
            ),
        );
        for handle in 0x8100_0001..=0x8100_0003 {
            let error = open(&tpm.config(), At::Handle(handle)).unwrap_err();
            assert!(matches!(error, TpmError::Kind), "{handle:#x}: {}", chain(&error));
        }
        let error = open(&tpm.config(), At::Handle(0x8100_0005)).unwrap_err();
        assert!(matches!(error, TpmError::NoKey { handle: 0x8100_0005 }), "{}", chain(&error));
        let guarded = TpmKey::open(&tpm.config(), At::Handle(0x8100_0004)).unwrap();
        let text = chain(&guarded.sign(b"something").unwrap_err());
        assert!(text.contains("has a password"), "{text}");
    });
}

#[test]
fn a_key_of_another_tpm_or_a_cleared_one_is_told() {
    story("a_key_of_another_tpm_or_a_cleared_one_is_told", |tpm, directory| {
        let (key, blob) = create(&tpm.config(), Algorithm::P256).unwrap();
        let pair = write_pair(directory, &key, &blob.pem());
        load(&pair, &tpm.config()).unwrap();
        // Another parent than the one that it was made under.
        tpm.tools(
            directory,
            "tpm2_createprimary -Q -C o -G ecc384 -c other; tpm2_evictcontrol -Q -C o -c other 0x81000001; tpm2_flushcontext -t",
        );
        let foreign = Blob { parent: Parent::Handle(0x8100_0001), ..blob.clone() };
        fs::write(&pair.1, foreign.pem()).unwrap();
        refused(load(&pair, &tpm.config()), "does not take it under 0x81000001", Class::Credentials);
        // One that is not there.
        fs::write(&pair.1, Blob { parent: Parent::Handle(0x8100_0002), ..blob.clone() }.pem()).unwrap();
        refused(load(&pair, &tpm.config()), "there is no key 0x81000002", Class::Credentials);
        fs::write(&pair.1, blob.pem()).unwrap();
        load(&pair, &tpm.config()).unwrap();
        tpm.tools(directory, "tpm2_clear -Q -c p");
        refused(load(&pair, &tpm.config()), "the TPM was cleared", Class::Credentials);
    });
}

#[test]
fn keys_are_made_under_the_parent_that_is_configured() {
    story("keys_are_made_under_the_parent_that_is_configured", |tpm, directory| {
        let config = Tpm { parent: Some(0x8100_0001), ..tpm.config() };
        let error = create(&config, Algorithm::P256).unwrap_err();
        assert!(chain(&error).contains("there is no key 0x81000001"), "{}", chain(&error));
        tpm.tools(
            directory,
            &format!("{STORAGE}; tpm2_evictcontrol -Q -C o -c storage 0x81000001; tpm2_flushcontext -t"),
        );
        let (_, blob) = create(&config, Algorithm::P256).unwrap();
        assert_eq!(blob.parent, Parent::Handle(0x8100_0001));
        // The same storage key is made of the seed, by tpm2-tools and by us.
        open(&tpm.config(), At::Blob(Blob { parent: Parent::Owner, ..blob })).unwrap();
    });
}

#[test]
fn the_owners_password_is_read_from_a_file_that_nobody_else_may_read() {
    story("the_owners_password_is_read_from_a_file_that_nobody_else_may_read", |tpm, directory| {
        let (key, blob) = create(&tpm.config(), Algorithm::P256).unwrap();
        let pair = write_pair(directory, &key, &blob.pem());
        tpm.tools(directory, "tpm2_changeauth -Q -c o 's3cret of the owner'");
        refused(load(&pair, &tpm.config()), "tpm.password_file", Class::Configuration);
        let file = directory.join("password");
        let config = Tpm { password_file: Some(file.clone()), ..tpm.config() };
        refused(load(&pair, &config), "cannot read the password file", Class::Configuration);
        fs::write(&file, "s3cret of the owner\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        refused(load(&pair, &config), "chmod 600", Class::Configuration);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        load(&pair, &config).unwrap();
        fs::write(&file, "s3cret of somebody").unwrap();
        refused(load(&pair, &config), "asks for another password", Class::Configuration);
    });
}

/// Writes `content` to an NV index as long as it, or as `size`.
fn store(tpm: &Swtpm, directory: &Path, content: &[u8], size: usize, attributes: &str) {
    fs::write(directory.join("content"), content).unwrap();
    tpm.tools(
        directory,
        &format!(
            "tpm2_nvundefine -Q -C o {INDEX:#x} 2>/dev/null || true; \
             tpm2_nvdefine -Q -C o -s {size} -a '{attributes}' {INDEX:#x}; tpm2_nvwrite -Q -C o -i content {INDEX:#x}"
        ),
    );
}

const FOR_ALL: &str = "ownerwrite|ownerread|authread|no_da";

#[test]
fn trust_anchors_of_every_length_are_read_from_nv_storage() {
    story("trust_anchors_of_every_length_are_read_from_nv_storage", |tpm, directory| {
        let cas: Vec<Ca> = (0..3).map(|number| Ca::v3(&format!("Root {number}"))).collect();
        let der = cas[0].identity.cert_der.to_vec();
        let pem = |count: usize| cas[..count].iter().map(|ca| ca.identity.cert_pem.as_str()).collect::<String>();
        // Behind what is in PEM, lines without a meaning.
        let filled = |text: String, length: usize| {
            assert!(text.len() <= length, "{}", text.len());
            format!("{text:\n<length$}").into_bytes()
        };
        let anchors = || Anchors::load_at(&Place::Tpm(INDEX), &tpm.config());
        let count = || format!("{:?}", anchors().unwrap());
        for (content, certificates) in [
            (pem(1).into_bytes(), 1),
            (filled(pem(1), PIECE), 1),
            (filled(pem(2), PIECE + 1), 2),
            (filled(pem(3), LARGEST), 3),
            (der.clone(), 1),
        ] {
            store(tpm, directory, &content, content.len(), FOR_ALL);
            let expected = format!("Anchors({certificates} certificates, {certificates} may sign)");
            assert_eq!(count(), expected, "{} bytes", content.len());
        }
        // An index that is longer than the certificate: the rest is as the TPM makes it.
        store(tpm, directory, &der, PIECE + der.len(), FOR_ALL);
        assert_eq!(count(), "Anchors(1 certificates, 1 may sign)");
        // The owner's to read, with the owner's password.
        store(tpm, directory, &der, der.len(), "ownerwrite|ownerread");
        assert_eq!(count(), "Anchors(1 certificates, 1 may sign)");
        tpm.tools(directory, "tpm2_changeauth -Q -c o secret");
        refused(anchors(), "tpm.password_file", Class::Configuration);
        let file = directory.join("password");
        fs::write(&file, "secret\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let config = Tpm { password_file: Some(file), ..tpm.config() };
        Anchors::load_at(&Place::Tpm(INDEX), &config).unwrap();
    });
}

#[test]
fn nv_storage_without_trust_anchors_is_told_with_its_index() {
    story("nv_storage_without_trust_anchors_is_told_with_its_index", |tpm, directory| {
        let anchors = || Anchors::load_at(&Place::Tpm(INDEX), &tpm.config());
        refused(
            anchors(),
            "cannot use the certificate tpm-nv:0x1410005: there is no NV index 0x1410005",
            Class::Credentials,
        );
        tpm.tools(directory, &format!("tpm2_nvdefine -Q -C o -s 100 -a '{FOR_ALL}' {INDEX:#x}"));
        refused(anchors(), "nothing was written to the NV index 0x1410005", Class::Credentials);
        store(tpm, directory, b"no certificate at all", 100, FOR_ALL);
        refused(anchors(), "tpm-nv:0x1410005 holds no certificate", Class::Credentials);
        store(tpm, directory, b"-----BEGIN CERTIFICATE-----\nMII", 31, FOR_ALL);
        refused(anchors(), "tpm-nv:0x1410005", Class::Credentials);
        store(tpm, directory, b"secret", 6, "ownerwrite|policyread");
        refused(anchors(), "neither everybody nor the owner may read", Class::Credentials);
    });
}

#[test]
fn a_tpm_that_is_not_there_or_hangs_is_told_and_used_again_when_it_is_back() {
    story("a_tpm_that_is_not_there_or_hangs_is_told_and_used_again_when_it_is_back", |tpm, directory| {
        let (key, blob) = create(&tpm.config(), Algorithm::P256).unwrap();
        let pair = write_pair(directory, &key, &blob.pem());
        let absent = Tpm { tcti: format!("device:{}/tpmrm0", directory.display()), ..Tpm::default() };
        refused(load(&pair, &absent), "/tpmrm0: is there one, and may this user use it?", Class::Environment);
        // What is there, and is no TPM.
        fs::write(directory.join("tpmrm0"), "").unwrap();
        refused(load(&pair, &absent), "no TPM answers at device:", Class::Environment);

        sh(&format!("kill -STOP {}", tpm.pid()));
        let status = format!("/proc/{}/status", tpm.pid());
        wait_for("the TPM to hang", || fs::read_to_string(&status).unwrap().contains("State:\tT"));
        // As many as the deadline lets through at once: one thread asks, and none is left for those that gave up.
        std::thread::scope(|scope| {
            for _ in 0..5 {
                scope.spawn(|| refused(load(&pair, &tpm.config()), "did not answer within", Class::Transient));
            }
        });
        sh(&format!("kill -CONT {}", tpm.pid()));
        load(&pair, &tpm.config()).unwrap();

        tpm.switch_off();
        refused(load(&pair, &tpm.config()), "no TPM answers at swtpm:", Class::Environment);
        tpm.switch_on();
        load(&pair, &tpm.config()).unwrap();
        key.sign(b"something").unwrap();
    });
}
