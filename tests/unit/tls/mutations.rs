//! Damaged and hostile certificates: nothing panics, and nothing that was changed after it was signed is believed.

use std::sync::LazyLock;
use std::time::SystemTime;

use enftun::identity::{address_of, ipv4_of, load};
use enftun::transport::trust::{Anchors, ClientTrust, ClientVerifier, RouterTrust, RouterVerifier, client_identity};
use proptest::prelude::*;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use tempfile::TempDir;
use x509_parser::nom::Offset;

use super::{ADDRESS, anchors};
use crate::common::certs::{Alg, Ca, FOR_EVER, Identity, Leaf, write};

/// Signed once: what is mutated, and who judges it.
struct World {
    leaves: Vec<Identity>,
    router: RouterVerifier,
    named: RouterVerifier,
    client: ClientVerifier,
    dir: TempDir,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let (old, new) = (Ca::v1("Old"), Ca::v3("New"));
    let ed = Ca { identity: Identity::self_signed_v1(Leaf::new("Ed").alg(Alg::Ed25519)) };
    let dir = tempfile::tempdir().unwrap();
    let anchors = anchors(&[&old, &new, &ed]);
    World {
        leaves: vec![
            old.sign_v1("router.example"),
            old.sign_v1(ADDRESS),
            ed.sign_v1(ADDRESS),
            new.sign_v3(Leaf::new("x").dns("router.example").server_only()),
            new.sign_v3(Leaf::new("x").ip(ADDRESS).ip("10.0.0.7").client_only().not_ca()),
            new.sign_v3(Leaf::new("router.example").valid(FOR_EVER)),
            new.sign_v3(Leaf::new(ADDRESS).valid(FOR_EVER)),
        ],
        router: RouterVerifier(RouterTrust { anchors: anchors.clone(), name: None }),
        named: RouterVerifier(RouterTrust { anchors: anchors.clone(), name: Some("router.example".into()) }),
        client: ClientVerifier(ClientTrust { anchors: Some(anchors), endpoints_dir: dir.path().join("endpoints") }),
        dir,
    }
});

impl World {
    /// Whether anybody believes it.
    fn believed(&self, der: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> bool {
        let now = UnixTime::now();
        let name = ServerName::try_from("router.example").unwrap();
        self.router.verify_server_cert(der, intermediates, &name, &[], now).is_ok()
            || self.named.verify_server_cert(der, intermediates, &name, &[], now).is_ok()
            || self.client.verify_client_cert(der, intermediates, now).is_ok()
            || client_identity(std::slice::from_ref(der), &self.client.0).is_some()
    }

    /// Everything else that reads certificates.
    fn read(&self, stem: &str, der: &[u8]) {
        let certificate = CertificateDer::from(der);
        let _ = (address_of(&certificate), ipv4_of(&certificate));
        let (cert, key) = self.leaves[0].write(self.dir.path(), stem);
        write(&cert, der, 0o644);
        let _ = load(&cert, &key, SystemTime::now());
        let _ = Anchors::load(&cert);
        write(&key, der, 0o600);
        let _ = load(&cert, &key, SystemTime::now());
    }
}

#[derive(Clone, Debug)]
enum Mutation {
    Flip(prop::sample::Index, u8),
    Insert(prop::sample::Index, u8),
    Cut(prop::sample::Index, usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let place = any::<prop::sample::Index>;
    prop_oneof![
        4 => (place(), 0u8..8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        2 => (place(), any::<u8>()).prop_map(|(at, byte)| Mutation::Insert(at, byte)),
        1 => (place(), 1usize..40).prop_map(|(at, len)| Mutation::Cut(at, len)),
    ]
}

fn mutate(bytes: &mut Vec<u8>, mutations: &[Mutation]) {
    for mutation in mutations {
        if bytes.is_empty() {
            return;
        }
        match mutation {
            Mutation::Flip(at, bit) => *at.get_mut(bytes) ^= 1 << bit,
            Mutation::Insert(at, byte) => bytes.insert(at.index(bytes.len()), *byte),
            Mutation::Cut(at, len) => {
                let start = at.index(bytes.len());
                bytes.drain(start..bytes.len().min(start + len));
            }
        }
    }
}

#[test]
fn every_leaf_is_believed_before_it_is_touched() {
    for leaf in &WORLD.leaves {
        assert!(WORLD.believed(&leaf.cert_der, &[]));
    }
}

#[test]
fn a_certificate_for_all_years_cannot_be_made_to_start_in_1970() {
    let always = &WORLD.leaves[5].cert_der;
    let at = always.windows(15).position(|part| part == b"00000101000000Z").unwrap();
    let mut bytes = always.to_vec();
    bytes[at..at + 15].copy_from_slice(b"19700101000000Z");
    let mutated = CertificateDer::from(bytes);
    assert!(!WORLD.believed(&mutated, &[]));
    assert!(!WORLD.believed(&mutated, std::slice::from_ref(always)), "the signed one beside it lends it nothing");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn random_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        WORLD.read("random", &bytes);
        prop_assert!(!WORLD.believed(&CertificateDer::from(bytes), &[]));
    }

    #[test]
    fn a_certificate_mutated_anywhere_panics_nobody(
        leaf in any::<prop::sample::Index>(),
        mutations in prop::collection::vec(mutation(), 1..4),
    ) {
        let original = &leaf.get(&WORLD.leaves).cert_der;
        let mut bytes = original.to_vec();
        mutate(&mut bytes, &mutations);
        WORLD.read("mutated", &bytes);
        let mutated = CertificateDer::from(bytes);
        let _ = WORLD.believed(&mutated, &[]);
        let _ = WORLD.believed(original, &[mutated]);
    }

    #[test]
    fn a_certificate_mutated_where_it_is_signed_is_not_believed(
        leaf in any::<prop::sample::Index>(),
        mutations in prop::collection::vec(mutation(), 1..4),
    ) {
        let original = &leaf.get(&WORLD.leaves).cert_der;
        let (_, parsed) = x509_parser::parse_x509_certificate(original).unwrap();
        let tbs: &[u8] = parsed.tbs_certificate.as_ref();
        let start = original.as_ref().offset(tbs);
        let mut middle = tbs.to_vec();
        mutate(&mut middle, &mutations);
        prop_assume!(middle != tbs);
        let bytes = [&original[..start], &middle, &original[start + tbs.len()..]].concat();
        let mutated = CertificateDer::from(bytes);
        prop_assert!(!WORLD.believed(&mutated, &[]));
        // The original beside it lends it nothing.
        prop_assert!(!WORLD.believed(&mutated, std::slice::from_ref(original)));
    }
}
