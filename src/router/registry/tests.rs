use super::*;
use rcgen::PublicKeyData;

const A: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x8f80, 1, 0, 0, 0, 0, 0xa);
const B: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x8f80, 1, 0, 0, 0, 0, 0xb);

fn spki() -> Vec<u8> {
    rcgen::KeyPair::generate().unwrap().subject_public_key_info()
}

fn endpoint(address: Ipv6Addr, spki: &[u8]) -> Endpoint {
    let pem = encode("PUBLIC KEY", spki);
    Endpoint { user: Some("alice".into()), created: Some(1_767_323_045), pem, ..Endpoint::unknown(address) }
}

fn registry() -> (tempfile::TempDir, Registry) {
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::new(&directory.path().join("a/endpoints"));
    (directory, registry)
}

fn names(registry: &Registry) -> Vec<String> {
    let entries = std::fs::read_dir(&registry.directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_file_says_all_there_is_and_reads_as_it_was_written() {
    let key = spki();
    let written = Endpoint { modified: Some(2), used: vec!["ab".into(), "cd".into()], ..endpoint(A, &key) };
    assert_eq!(Endpoint::parse(A, &written.to_text(), None), written);
    let [read] = &written.keys()[..] else { panic!("{written:?}") };
    assert_eq!((read.kind.as_str(), &read.fingerprint), ("ecdsa_p256", &sha256(&key)));
    assert!(written.has_only(&key) && !written.has_only(&spki()));
    let revoked = Endpoint { revoked: Some(7), ..written.clone() };
    assert_eq!(Endpoint::parse(A, &revoked.to_text(), Some(9)), revoked);
    assert_eq!(Endpoint::parse(A, &revoked.to_text(), None), written, "the name of the file decides");
    assert_eq!(Endpoint::parse(A, "", Some(9)).revoked, Some(9));
}

#[test]
fn an_address_is_given_once_and_revoked_for_good_until_it_is_added_again() {
    let (_directory, registry) = registry();
    assert_eq!(registry.list().unwrap(), []);
    assert_eq!(registry.find(A).unwrap(), None, "the directory need not be there");
    let (first, second) = (endpoint(A, &spki()), endpoint(A, &spki()));
    registry.write().unwrap().create(&first).unwrap();
    assert!(matches!(registry.write().unwrap().create(&second), Err(RegistryError::Taken(A))));
    assert_eq!(registry.find(A).unwrap(), Some(first.clone()));

    let revoked = registry.write().unwrap().revoke(A, 77).unwrap();
    assert_eq!(revoked, Endpoint { revoked: Some(77), ..first.clone() });
    assert_eq!(names(&registry), [format!("{A}.revoked")]);
    assert_eq!(registry.write().unwrap().revoke(A, 99).unwrap(), revoked, "again, it changes nothing");
    assert!(matches!(registry.write().unwrap().create(&second), Err(RegistryError::Taken(A))));
    assert_eq!(*registry.list().unwrap()[0], revoked);

    registry.write().unwrap().replace(&second).unwrap();
    assert_eq!(registry.find(A).unwrap(), Some(second));
    assert_eq!(names(&registry), [format!("{A}.pem")]);

    let unknown = registry.write().unwrap().revoke(B, 5).unwrap();
    assert_eq!(unknown, Endpoint { revoked: Some(5), ..Endpoint::unknown(B) }, "whoever signed its certificate");
}

#[test]
fn where_both_files_are_it_is_revoked() {
    let (_directory, registry) = registry();
    registry.write().unwrap().create(&endpoint(A, &spki())).unwrap();
    // Killed between the two steps of a revocation; or touched by hand.
    std::fs::write(revocation_file(&registry.directory, A), "").unwrap();
    for seen in [registry.find(A).unwrap().unwrap(), (*registry.list().unwrap()[0]).clone()] {
        assert!(seen.revoked.is_some_and(|since| since > 0), "{seen:?}");
    }
    assert_eq!(registry.list().unwrap().len(), 1);
}

#[test]
fn the_list_has_what_others_wrote_changed_and_left_unfinished() {
    let (_directory, registry) = registry();
    registry.write().unwrap().create(&endpoint(A, &spki())).unwrap();
    let before = registry.list().unwrap();
    let other = endpoint(A, &spki());
    Registry::new(&registry.directory).write().unwrap().replace(&other).unwrap();
    assert_ne!(registry.list().unwrap(), before);
    assert_eq!(*registry.list().unwrap()[0], other);

    for name in [".enftun-half", "fd00:8f80:1:0::c.pem", "notes.txt", "fd00::d"] {
        std::fs::write(registry.directory.join(name), other.to_text()).unwrap();
    }
    std::fs::write(endpoint_file(&registry.directory, B), &other.to_text()[..40]).unwrap();
    let list = registry.list().unwrap();
    assert_eq!(list.iter().map(|endpoint| endpoint.address).collect::<Vec<_>>(), [A, B]);
    assert_eq!(list[1].keys(), [], "a file that is cut short");
    registry.write().unwrap().tidy().unwrap();
    assert!(!names(&registry).contains(&".enftun-half".to_owned()));
    assert_eq!(names(&registry).len(), 5);
}

#[test]
fn two_writers_take_turns_also_in_one_process() {
    let (_directory, registry) = registry();
    let writer = registry.write().unwrap();
    let (to, from) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _second = registry.write().unwrap();
            to.send("second").unwrap();
        });
        // The other cannot be first, however long it has had.
        std::thread::yield_now();
        assert!(from.try_recv().is_err());
        drop(writer);
        assert_eq!(from.recv().unwrap(), "second");
    });
}

#[test]
fn what_is_no_key_of_the_address_is_not_added() {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = |name: &str| {
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.self_signed(&key).unwrap()
    };
    let own = certificate(&A.to_string());
    let spki = key.subject_public_key_info();
    for good in [own.pem().into_bytes(), own.der().to_vec(), encode("PUBLIC KEY", &spki).into_bytes(), spki.clone()] {
        let pem = pem_for(A, &good).unwrap();
        assert!(Endpoint { pem, ..Endpoint::unknown(A) }.has_only(&spki));
    }
    assert_eq!(pem_for(B, own.pem().as_bytes()), Err(KeyError::Other(A)));
    let both = own.pem() + &key.serialize_pem();
    assert_eq!(pem_for(A, both.as_bytes()), Err(KeyError::Private));
    for nothing in [&b""[..], b"-----BEGIN PUBLIC KEY-----\n", b"ssh-ed25519 AAAA"] {
        assert_eq!(pem_for(A, nothing), Err(KeyError::None));
    }
}
