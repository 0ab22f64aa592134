//! A tunnel whose key is in a TPM: it connects, and comes back after whatever is restarted. The key is never on the disk.

use super::{OWN, ROUTER, World, ping, story};
use crate::common::bus::{daemon_user, stdout};
use crate::common::certs::{Ca, write};
use crate::common::netns::sh;
use crate::common::swtpm::{STORAGE, Swtpm};
use crate::common::wait_for;
use enftun::identity::tpm::{At, Blob, TpmKey, create, is_blob};
use enftun::identity::{self, Algorithm, Version};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// With a TPM, and no key in clear where the daemon may read; `tpm` and `identity` are lines of the tunnel's file.
fn story_with_tpm(test: &str, tell: impl FnOnce(&mut World, &mut Swtpm) + Send) {
    story(test, |world| {
        let Some(mut tpm) = Swtpm::start(test) else { return };
        for file in ["client.key.pem", "client.crt.pem"] {
            std::fs::remove_file(world.path().join("etc").join(file)).unwrap();
        }
        tell(world, &mut tpm);
    });
}

/// Writes the tunnel's file, and lets the daemon read it.
fn configure(world: &World, tpm: &Swtpm, from: &str, to: &str) {
    let retry = format!("max = \"300ms\"\n[tpm]\ntcti = \"{}\"", tpm.config().tcti);
    world.write_tunnel("enf0", &retry, "prefixes = [\"fd00:8f80::/32\"]");
    let file = world.tunnel_file("enf0");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(&file, text.replace(from, to)).unwrap();
    stdout(world.ctl(&["reload"]));
}

/// A certificate that the key signs over itself, for the client and for the router, which enrols it.
fn enrol(world: &World, key: &TpmKey) {
    let certificate = identity::self_signed(key, OWN.parse().unwrap(), Version::V3, SystemTime::now()).unwrap();
    std::fs::create_dir_all(world.path().join("endpoints")).unwrap();
    for file in ["etc/client.crt.pem".to_owned(), format!("endpoints/{OWN}.pem")] {
        write(&world.path().join(file), certificate.as_bytes(), 0o644);
    }
}

fn key_file(world: &World, blob: &Blob) -> PathBuf {
    let file = world.path().join("etc/client.key.pem");
    write(&file, blob.pem().as_bytes(), 0o600);
    chown(&file, Some(daemon_user()), None).unwrap();
    file
}

/// Files under `directory` that hold a private key which anybody could use who reads them.
fn keys_in_clear(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(keys_in_clear(&path));
        } else if let Ok(content) = std::fs::read(&path) {
            let pem = PrivateKeyDer::from_pem_slice(&content).ok();
            let key = pem.or_else(|| PrivateKeyDer::try_from(content).ok());
            if key.is_some_and(|key| any_supported_type(&key).is_ok()) {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn a_tunnel_with_its_key_in_the_tpm_is_back_after_a_restart_of_the_daemon_and_of_the_tpm() {
    story_with_tpm(
        "a_tunnel_with_its_key_in_the_tpm_is_back_after_a_restart_of_the_daemon_and_of_the_tpm",
        |world, tpm| {
            let (key, blob) = create(&tpm.config(), Algorithm::P256).unwrap();
            enrol(world, &key);
            key_file(world, &blob);
            configure(world, tpm, "[identity]", "[identity]\nsource = [\"tpm\"]");
            world.connect();
            assert!(ping(ROUTER));

            // Made in the TPM, and bound to it: there was never anything to write.
            const FIXED_TPM: u32 = 1 << 1;
            const FIXED_PARENT: u32 = 1 << 4;
            const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
            let attributes = u32::from_be_bytes(blob.public[4..8].try_into().unwrap());
            let bound = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN;
            assert_eq!(attributes & bound, bound, "{attributes:#x}");
            for directory in ["etc", "state", "run"] {
                assert_eq!(keys_in_clear(&world.path().join(directory)), Vec::<PathBuf>::new(), "{directory}");
            }
            assert_eq!(
                keys_in_clear(world.path()),
                [world.path().join("router.key.pem")],
                "what the search would find"
            );

            world.daemon = None;
            world.start_daemon();
            world.connect();
            assert!(ping(ROUTER));

            tpm.switch_off();
            tpm.switch_on();
            stdout(world.ctl(&["reconnect", "enf0", "--wait=30s"]));
            assert!(ping(ROUTER));
        },
    );
}

#[test]
fn a_key_under_a_persistent_handle_needs_no_file() {
    story_with_tpm("a_key_under_a_persistent_handle_needs_no_file", |world, tpm| {
        let directory = tempfile::tempdir().unwrap();
        let (key, blob) = create(&tpm.config(), Algorithm::P256).unwrap();
        for (name, part) in [("pub", &blob.public), ("priv", &blob.private)] {
            let length = u16::try_from(part.len()).unwrap().to_be_bytes();
            std::fs::write(directory.path().join(name), [&length, part.as_slice()].concat()).unwrap();
        }
        tpm.tools(
            directory.path(),
            &format!(
                "{STORAGE}; tpm2_load -Q -C storage -u pub -r priv -c key; tpm2_flushcontext -t; tpm2_evictcontrol -Q -C o -c key 0x81000005; \
                 tpm2_flushcontext -t"
            ),
        );
        enrol(world, &key);
        configure(world, tpm, "\"client.key.pem\"", "\"tpm:0x81000005\"");
        world.connect();
        assert!(ping(ROUTER));
        let other = TpmKey::open(&tpm.config(), At::Handle(0x8100_0005)).unwrap();
        assert_eq!(rcgen::PublicKeyData::der_bytes(&other), rcgen::PublicKeyData::der_bytes(&key));

        // Another key under the handle is not the certificate's.
        tpm.tools(
            directory.path(),
            &format!(
                "tpm2_evictcontrol -Q -C o -c 0x81000005; {STORAGE}; tpm2_create -Q -C storage -G ecc -u p -r q -c other \
                 -a 'sign|fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda'; \
                 tpm2_flushcontext -t; tpm2_evictcontrol -Q -C o -c other 0x81000005; tpm2_flushcontext -t"
            ),
        );
        stdout(world.ctl(&["disconnect", "enf0", "--wait=30s"]));
        world.ctl(&["connect", "enf0"]);
        wait_for("the daemon to say what is wrong", || world.status()["state_reason"] == "key-mismatch");
    });
}

#[test]
fn without_the_tpm_a_tunnel_asks_nobody_says_so_and_connects_when_it_is_there() {
    story_with_tpm("without_the_tpm_a_tunnel_asks_nobody_says_so_and_connects_when_it_is_there", |world, tpm| {
        let (key, blob) = create(&tpm.config(), Algorithm::P256).unwrap();
        enrol(world, &key);
        key_file(world, &blob);
        tpm.switch_off();
        configure(world, tpm, "[identity]", "[identity]\nsource = [\"tpm\", \"files\"]");
        world.ctl(&["connect", "enf0"]);
        // In between it tries again.
        wait_for("the daemon to say what is wrong", || {
            let status = world.status();
            status["state"] == "error"
                && status["state_reason"] == "credentials-missing"
                && status.to_string().contains("no TPM answers at swtpm:")
        });
        let router: serde_json::Value = serde_json::from_str(&stdout(world.router_status())).unwrap();
        assert_eq!(router["sessions"], serde_json::json!([]));
        assert_eq!(router["totals"]["handshakes_failed"], 0, "{router}");
        // The next attempt finds it.
        tpm.switch_on();
        wait_for("the tunnel to connect", || world.status()["state"] == "connected");
        assert!(ping(ROUTER));
    });
}

#[test]
fn the_trust_anchors_of_a_tunnel_are_read_from_nv_storage() {
    story("the_trust_anchors_of_a_tunnel_are_read_from_nv_storage", |world| {
        let test = "the_trust_anchors_of_a_tunnel_are_read_from_nv_storage";
        let Some(tpm) = Swtpm::start(test) else { return };
        let ca = std::fs::read(world.path().join("etc/ca.pem")).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), &ca).unwrap();
        configure(world, &tpm, "\"ca.pem\"", "\"tpm-nv:0x1410005\"");
        world.ctl(&["connect", "enf0"]);
        wait_for("the daemon to say what is wrong", || {
            world.status().to_string().contains("there is no NV index 0x1410005")
        });
        tpm.tools(
            directory.path(),
            &format!(
                "tpm2_nvdefine -Q -C o -s {} -a 'ownerwrite|authread|no_da' 0x1410005; \
                 tpm2_nvwrite -Q -C o -i ca.pem 0x1410005",
                ca.len()
            ),
        );
        wait_for("the tunnel to connect", || world.status()["state"] == "connected");
        assert!(ping(ROUTER));
        sh(&format!("rm {}/etc/ca.pem", world.path().display()));
        stdout(world.ctl(&["reconnect", "enf0", "--wait=30s"]));
        assert!(ping(ROUTER));
    });
}

#[test]
fn keygen_makes_keys_in_the_tpm_and_certificates_of_a_ca_for_them() {
    story_with_tpm("keygen_makes_keys_in_the_tpm_and_certificates_of_a_ca_for_them", |world, tpm| {
        configure(world, tpm, "[identity]", "[identity]\nsource = [\"tpm\"]");
        let etc = world.path().join("etc").display().to_string();
        let owner = daemon_user().to_string();
        let keygen = |more: &[&str]| {
            let common = ["keygen", "enf0", "--yes", "--config-dir", &etc, "--owner", &owner];
            stdout(world.ctl(&[&common, more].concat()))
        };
        let key = || std::fs::read(world.path().join("etc/client.key.pem")).unwrap();
        keygen(&[OWN, "--self-signed", "--tpm"]);
        sh(&format!("mkdir -p {0}/endpoints; cp {etc}/client.crt.pem {0}/endpoints/{OWN}.pem", world.path().display()));
        assert!(is_blob(&key()));
        world.connect();
        assert!(ping(ROUTER));
        let mode = std::fs::metadata(world.path().join("etc/client.key.pem")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);

        // The other way: a request that the TPM signs, a CA, and the certificate put in place.
        let before = key();
        let said = keygen(&[OWN, "--csr", "--tpm", "--json"]);
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!((&said["made"], &said["in_tpm"]), (&"request".into(), &true.into()), "{said}");
        assert_eq!(key(), before, "the key in use stays until there is a certificate");
        let request = said["request_file"].as_str().unwrap();
        let ca = Ca::v3("Own Root");
        write(&world.path().join("ca.key"), ca.identity.key_pem.as_bytes(), 0o600);
        ca.write(world.path(), "own-ca");
        sh(&format!(
            "cd {}; openssl x509 -req -in {request} -CA own-ca.pem -CAkey ca.key -set_serial 7 -days 30 \
             -copy_extensions copyall -out signed.pem 2>&1; cp signed.pem endpoints/{OWN}.pem",
            world.path().display()
        ));
        let signed = world.path().join("signed.pem").display().to_string();
        let common = ["keygen", "enf0", "--yes", "--config-dir", &etc, "--owner", &owner, "--cert", &signed];
        stdout(world.ctl(&common));
        assert!(is_blob(&key()) && key() != before);
        stdout(world.ctl(&["reconnect", "enf0", "--wait=30s"]));
        assert!(ping(ROUTER));
        assert_eq!(keys_in_clear(&world.path().join("etc")), Vec::<PathBuf>::new());
    });
}
