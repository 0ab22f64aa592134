//! Who gets in.

use std::net::{IpAddr, Ipv4Addr};

use enftun::transport::tls::{client_config, server_config, server_name};
use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{ADDRESS, HEX_ADDRESS, Scene, block_on};
use crate::common::certs::{Alg, Ca, FOR_EVER, Identity, Leaf};

#[track_caller]
fn assert_connects(story: &str, scene: Scene) {
    for (version, outcome) in scene.run_each() {
        let client = outcome.client.unwrap_or_else(|failure| panic!("{story}, {version}, client: {failure}"));
        let (router, identity) =
            outcome.router.unwrap_or_else(|failure| panic!("{story}, {version}, router: {failure}"));
        assert_eq!((client.version.as_str(), router.version.as_str()), (version, version), "{story}");
        let identity = identity.unwrap_or_else(|| panic!("{story}, {version}: no identity"));
        assert_eq!(identity.address.to_string(), ADDRESS, "{story}, {version}");
    }
}

#[test]
fn every_pair_of_certificate_versions_shakes_hands_in_tls_1_2_and_1_3() {
    for ca in [Ca::v1("Fleet"), Ca::v3("Fleet")] {
        let routers = [
            ("v1", ca.sign_v1("router.example")),
            ("v2", ca.sign_v2("router.example")),
            ("v3", ca.sign_v3(Leaf::new("router.example").dns("router.example").server_only())),
        ];
        let clients = [
            ("v1, textual", ca.sign_v1(ADDRESS)),
            ("v1, hex digits", ca.sign_v1(HEX_ADDRESS)),
            ("v3, common name", ca.sign_v3(Leaf::new(ADDRESS).client_only())),
            ("v3, alternative name", ca.sign_v3(Leaf::new("device 7").ip(ADDRESS))),
        ];
        for (router_shape, router) in &routers {
            for (client_shape, client) in &clients {
                let story = format!("router {router_shape}, client {client_shape}");
                assert_connects(&story, Scene::new(&ca, router, client));
            }
        }
    }
}

#[test]
fn every_kind_of_key_works_in_old_certificates() {
    for alg in [Alg::P256, Alg::P384, Alg::Rsa2048, Alg::Ed25519] {
        let ca = Ca { identity: Identity::self_signed_v1(Leaf::new("Fleet").alg(alg)) };
        let router = ca.sign_v1(Leaf::new("router.example").alg(alg));
        let client = ca.sign_v1(Leaf::new(ADDRESS).alg(alg));
        assert_connects(&format!("{alg:?}"), Scene::new(&ca, &router, &client));
    }
}

#[test]
fn a_self_signed_certificate_that_is_the_ca_file_itself_is_a_router() {
    let client = Ca::v1("Fleet").sign_v1(ADDRESS);
    for router in [Identity::self_signed_v1("router.enftun.example"), Identity::self_signed_v3("router.enftun.example")]
    {
        let own = router.as_issuer();
        let scene = Scene::enrolled_only(&own, &router, &client).enrol(&client.cert_pem);
        assert_connects("leaf is the CA file", scene);
    }
}

#[test]
fn a_chain_through_an_intermediate_ca_is_followed_for_v3() {
    let root = Ca::v1("Root");
    let middle = root.sign_v3(Leaf::new("Middle").ca());
    let router = middle.as_issuer().sign_v3(Leaf::new("router.example").dns("router.example")).with_chain(&[&middle]);
    let client = middle.as_issuer().sign_v3(ADDRESS).with_chain(&[&middle]);
    assert_connects("v3 under v3 under v1", Scene::new(&root, &router, &client));
}

#[test]
fn remote_name_is_found_where_the_certificate_carries_it() {
    let ca = Ca::v3("Fleet");
    let client = ca.sign_v1(ADDRESS);
    let san = ca.sign_v3(Leaf::new("ignored").dns("router.example").ip("2001:db8::1").ip("198.51.100.7"));
    let wildcard = ca.sign_v3(Leaf::new("ignored").dns("*.routers.example"));
    for (story, router, name) in [
        ("v3, DNS name", &san, "router.example"),
        ("v3, DNS name in capitals", &san, "ROUTER.example"),
        ("v3, wildcard", &wildcard, "one.routers.example"),
        ("v3, IPv6 address", &san, "2001:db8:0::1"),
        ("v3, IPv6 address as hex digits", &san, "20010db8000000000000000000000001"),
        ("v3, IPv4 address", &san, "198.51.100.7"),
        ("v3, common name", &ca.sign_v3("router.example"), "Router.Example"),
        ("v1, common name", &ca.sign_v1("router.example"), "Router.Example"),
        ("v1, address", &ca.sign_v1("2001:db8::1"), "2001:db8:0:0::1"),
        ("v1, address in the other form", &ca.sign_v1("20010db8000000000000000000000001"), "2001:db8::1"),
        ("v1, no name of any kind", &ca.sign_v1("XAPTUM ROOT_1"), "xaptum root_1"),
    ] {
        assert_connects(story, Scene::new(&ca, router, &client).with_name(name));
    }
}

#[test]
fn a_certificate_for_all_years_is_valid_at_any_clock() {
    let ca = Ca::v1("Fleet");
    let middle = ca.sign_v3(Leaf::new("Middle").ca().valid(FOR_EVER));
    let chained = |leaf: Leaf| middle.as_issuer().sign_v3(leaf.valid(FOR_EVER)).with_chain(&[&middle]);
    let (v1_router, v1_client) = (ca.sign_v1("router.example"), ca.sign_v1(ADDRESS));
    let v3_router = ca.sign_v3(Leaf::new("router.example").dns("router.example").valid(FOR_EVER));
    let v3_client = ca.sign_v3(Leaf::new(ADDRESS).client_only().valid(FOR_EVER));
    for (story, router, client) in [
        ("v1", &v1_router, &v1_client),
        ("v3", &v3_router, &v3_client),
        ("v3 through an intermediate", &chained(Leaf::new("router.example")), &chained(Leaf::new(ADDRESS))),
    ] {
        // What the session is entitled to is judged by the system's clock, which is inside these years too.
        for now in [0, 1, 4_102_444_800, 253_402_300_799] {
            assert_connects(&format!("{story} at {now}"), Scene::new(&ca, router, client).at(now));
        }
    }
}

#[test]
fn an_enrolled_client_needs_no_ca() {
    let ca = Ca::v1("Router CA");
    let router = ca.sign_v1("router.example");
    for client in [Identity::self_signed_v1(ADDRESS), Identity::self_signed_v3(ADDRESS)] {
        let other_certificate = Identity::self_signed_v1(Leaf::new("anything").key(&client.key));
        for (story, pem) in [
            ("by certificate", client.cert_pem.clone()),
            ("by another certificate of the same key", other_certificate.cert_pem),
            ("by public key", client.public_key_pem()),
        ] {
            let scene = Scene::enrolled_only(&ca, &router, &client).enrol(&pem);
            assert_connects(story, scene);
            assert_connects(story, Scene::new(&ca, &router, &client).enrol(&pem));
        }
    }
}

#[test]
fn enrolment_and_revocation_need_no_restart() {
    let ca = Ca::v1("Router CA");
    let client = Identity::self_signed_v1(ADDRESS);
    let scene = Scene::enrolled_only(&ca, &ca.sign_v1("router.example"), &client);
    assert!(scene.run().router.is_err(), "not enrolled yet");
    let scene = scene.enrol(&client.cert_pem);
    assert!(scene.run().router.is_ok(), "enrolled");
    std::fs::remove_file(scene.endpoint_file()).unwrap();
    assert!(scene.run().router.is_err(), "revoked");
}

#[test]
fn an_ipv4_address_counts_only_when_somebody_else_vouched_for_it() {
    let ca = Ca::v3("Fleet");
    let router = ca.sign_v1("router.example");
    let with_ipv4 = || Leaf::new(ADDRESS).ip("10.64.0.7");
    let self_signed = Identity::self_signed_v3(with_ipv4());
    let ipv4 = |scene: Scene| scene.run().router.unwrap().1.unwrap().ipv4.map(|address| address.to_string());

    assert_eq!(ipv4(Scene::new(&ca, &router, &ca.sign_v3(with_ipv4()))).as_deref(), Some("10.64.0.7"), "the CA did");
    let by_certificate = Scene::enrolled_only(&ca, &router, &self_signed).enrol(&self_signed.cert_pem);
    assert_eq!(ipv4(by_certificate).as_deref(), Some("10.64.0.7"), "who enrolled this very certificate did");
    let by_key = Scene::enrolled_only(&ca, &router, &self_signed).enrol(&self_signed.public_key_pem());
    assert_eq!(ipv4(by_key), None, "nobody did: the client may write what it likes around an enrolled key");
    let two = ca.sign_v3(with_ipv4().ip("10.64.0.8"));
    assert_eq!(ipv4(Scene::new(&ca, &router, &two)), None, "which one?");
}

#[test]
fn what_the_bus_shows_is_what_was_agreed() {
    let ca = Ca::v1("Fleet");
    let outcome = Scene::new(&ca, &ca.sign_v1("router\n.example"), &ca.sign_v1(ADDRESS)).run();
    let tls = outcome.client.unwrap();
    assert_eq!(tls.version, "TLSv1.3");
    assert!(tls.cipher.starts_with("TLS_AES_"), "{}", tls.cipher);
    assert_eq!(tls.peer_subject, "CN=router\u{fffd}.example", "one line, whatever the far end calls itself");
    assert_eq!(tls.peer_not_after, 253_402_300_799);
    assert_eq!(tls.local_not_after, 4_000_000_000);
    assert_eq!(outcome.router.unwrap().0.peer_subject, format!("CN={ADDRESS}"));
}

#[test]
fn no_session_is_ever_resumed() {
    let ca = Ca::v1("Fleet");
    let scene = Scene::new(&ca, &ca.sign_v1("router.example"), &ca.sign_v1(ADDRESS));
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let client = client_config(scene.client.as_ref().unwrap(), scene.router_trust.clone(), &[version]).unwrap();
        let router = server_config(&scene.router, scene.client_trust.clone(), &[version]).unwrap();
        for _ in 0..2 {
            let (near, far) = tokio::io::duplex(1 << 16);
            let name = server_name(Some("router.example"), IpAddr::V4(Ipv4Addr::LOCALHOST));
            let (client, router) = (TlsConnector::from(client.clone()), TlsAcceptor::from(router.clone()));
            block_on(async {
                let (near, far) = tokio::join!(client.connect(name, near), router.accept(far));
                let (mut near, mut far) = (near.unwrap(), far.unwrap());
                far.write_u8(1).await.unwrap();
                far.flush().await.unwrap();
                near.read_u8().await.unwrap();
                assert_eq!(near.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
                assert_eq!(near.get_ref().1.tls13_tickets_received(), 0);
            });
        }
    }
}

#[test]
fn the_greeting_names_the_router_only_by_a_dns_name_that_was_configured() {
    let peer = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
    for (name, greeted) in [
        (None, "198.51.100.7"),
        (Some("router.example"), "router.example"),
        (Some("2001:db8::1"), "198.51.100.7"),
        (Some("198.51.100.9"), "198.51.100.7"),
        (Some(HEX_ADDRESS), "198.51.100.7"),
        (Some("not a name"), "198.51.100.7"),
    ] {
        assert_eq!(server_name(name, peer).to_str(), greeted, "{name:?}");
    }
}
