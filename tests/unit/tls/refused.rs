//! Who does not get in, and what each end is told.

use enftun::error::Class;
use enftun::state::{Failure, Reason};
use enftun::transport::tls::{failure, tls_failure};
use rustls::{AlertDescription, Error};

use super::{ADDRESS, Scene, credentials};
use crate::common::certs::{Ca, EXPIRED, Identity, Leaf, NOT_YET};

#[track_caller]
fn assert_failure(story: &str, failure: &Failure, reason: Reason, class: Class, part: &str) {
    assert_eq!((failure.reason, failure.class), (reason, class), "{story}: {failure}");
    assert!(failure.text.contains(part), "{story}: {part:?} is not in {failure}");
    assert!(!failure.text.contains('\n'), "{story}: more than one line: {failure}");
}

/// The client turns the router down; the router hears an alert.
#[track_caller]
fn assert_router_refused(story: &str, scene: Scene, reason: Reason, part: &str) {
    for (version, outcome) in scene.run_each() {
        let story = format!("{story}, {version}");
        let failure = outcome.client.expect_err(&story);
        assert_failure(&story, &failure, reason, Class::Credentials, part);
        let told = outcome.router.expect_err(&story);
        assert_failure(&story, &told, Reason::AuthFailed, Class::Credentials, "refuses this end's certificate");
    }
}

/// The router turns the client down; the client hears an alert, in TLS 1.3 after its own handshake.
#[track_caller]
fn assert_client_refused(story: &str, scene: Scene, reason: Reason, part: &str) {
    for (version, outcome) in scene.run_each() {
        let story = format!("{story}, {version}");
        let failure = outcome.router.expect_err(&story);
        assert_failure(&story, &failure, reason, Class::Credentials, part);
        let told = outcome.client.expect_err(&story);
        assert_failure(&story, &told, Reason::AuthFailed, Class::Credentials, "refuses this end's certificate");
    }
}

#[test]
fn a_router_that_no_anchor_vouches_for_is_refused() {
    let ca = Ca::v3("Fleet");
    let old = Ca::v1("Fleet");
    let stranger = Ca::v1("Stranger");
    let namesake = Ca::v1("Fleet");
    let client = ca.sign_v1(ADDRESS);
    let device = ca.sign_v1("some leaf");
    let v3_device = ca.sign_v3(Leaf::new("some leaf").dns("leaf.example"));
    let explicit = ca.sign_v3(Leaf::new("some leaf").dns("leaf.example").not_ca());
    let router = || Leaf::new("router.example");
    for (story, ca, router, part) in [
        ("v1, wrong CA", &ca, stranger.sign_v1(router()), "not signed by any CA in the CA file"),
        ("v3, wrong CA", &ca, stranger.sign_v3(router()), "not signed by any CA in the CA file"),
        ("v1, self-signed", &ca, Identity::self_signed_v1(router()), "not signed by any CA"),
        ("v3, self-signed", &ca, Identity::self_signed_v3(router()), "not signed by any CA"),
        ("v1, same issuer name, another key", &ca, namesake.sign_v1(router()), "was the CA replaced?"),
        ("v3, same issuer name, another key", &ca, namesake.sign_v3(router()), "was the CA replaced?"),
        ("v1, same name, under a v1 CA", &old, namesake.sign_v1(router()), "was the CA replaced?"),
        (
            "v1 under a v1 leaf",
            &ca,
            device.as_issuer().sign_v1(router()).with_chain(&[&device]),
            "not signed by any CA in the CA file",
        ),
        ("v3 under a v1 leaf", &ca, device.as_issuer().sign_v3(router()).with_chain(&[&device]), "may not sign others"),
        (
            "v1 under a v3 leaf",
            &ca,
            v3_device.as_issuer().sign_v1(router()).with_chain(&[&v3_device]),
            "not signed by any CA in the CA file",
        ),
        (
            "v3 under a v3 leaf",
            &ca,
            v3_device.as_issuer().sign_v3(router()).with_chain(&[&v3_device]),
            "may not sign others",
        ),
        (
            "v3 under a v3 leaf that says CA:FALSE",
            &ca,
            explicit.as_issuer().sign_v3(router()).with_chain(&[&explicit]),
            "may not sign others",
        ),
    ] {
        assert_router_refused(story, Scene::new(ca, &router, &client), Reason::CertificateUntrusted, part);
    }
}

#[test]
fn a_v3_certificate_in_the_ca_file_that_is_no_ca_signs_nothing() {
    let client = Ca::v1("Fleet").sign_v1(ADDRESS);
    for (story, anchor) in [
        ("no basicConstraints", Leaf::new("Root")),
        ("CA:FALSE", Leaf::new("Root").not_ca()),
        ("no keyCertSign", Leaf::new("Root").ca().may_not_sign()),
    ] {
        let anchor = Identity::self_signed_v3(anchor).as_issuer();
        for router in [anchor.sign_v1("router.example"), anchor.sign_v3("router.example")] {
            let scene = Scene::new(&anchor, &router, &client);
            assert_router_refused(story, scene, Reason::CertificateUntrusted, "not signed by any CA in the CA file");
        }
    }
}

#[test]
fn a_device_cannot_play_the_router() {
    let ca = Ca::v3("Fleet");
    let client = ca.sign_v1(ADDRESS);
    let way_out = "say so with remote.name = \"fd00:8f80:1::66\"";
    for (story, device, part) in [
        ("v1, common name", ca.sign_v1("fd00:8f80:1::66"), way_out),
        ("v1, hex digits", ca.sign_v1("fd008f80000100000000000000000066"), way_out),
        ("v3, common name", ca.sign_v3(Leaf::new("fd00:8f80:1::66").dns("router.example")), way_out),
        ("v3, alternative name", ca.sign_v3(Leaf::new("device 66").ip("fd00:8f80:1::66")), way_out),
        ("v3, clientAuth only", ca.sign_v3(Leaf::new("device 66").client_only()), "not for server authentication"),
    ] {
        let scene = Scene::new(&ca, &device, &client);
        assert_router_refused(story, scene, Reason::CertificateUntrusted, part);
    }
    let pinned = Identity::self_signed_v3(Leaf::new("device 66").client_only());
    let scene = Scene::new(&pinned.as_issuer(), &pinned, &client);
    assert_router_refused("pinned", scene, Reason::CertificateUntrusted, "not for server authentication");
}

#[test]
fn a_router_by_another_name_is_refused() {
    let ca = Ca::v3("Fleet");
    let client = ca.sign_v1(ADDRESS);
    let by_san = || ca.sign_v3(Leaf::new("router.example").dns("other.example").ip("198.51.100.7"));
    for (story, router, name, part) in [
        (
            "v3, other names",
            by_san(),
            "router.example",
            "carries \"other.example\", 198.51.100.7, but remote.name asks",
        ),
        ("v3, other address", by_san(), "198.51.100.8", "asks for \"198.51.100.8\""),
        ("v3, no SAN", ca.sign_v3("other.example"), "router.example", "carries CN=other.example"),
        ("v1", ca.sign_v1("other.example"), "router.example", "carries CN=other.example"),
        ("v1, name that contains it", ca.sign_v1("router.example.org"), "router.example", "router.example.org"),
        ("v1, other address", ca.sign_v1("2001:db8::2"), "2001:db8::1", "carries CN=2001:db8::2"),
        ("v1, no wildcard", ca.sign_v1("*.example"), "router.example", "carries CN=*.example"),
        ("v3, a name that is none", by_san(), "not a name", "asks for \"not a name\""),
    ] {
        let scene = Scene::new(&ca, &router, &client).with_name(name);
        assert_router_refused(story, scene, Reason::CertificateName, part);
    }
}

#[test]
fn dates_are_checked_at_both_ends() {
    let ca = Ca::v1("Fleet");
    let (router, client) = (ca.sign_v1("router.example"), ca.sign_v1(ADDRESS));
    let middle = ca.sign_v3(Leaf::new("Middle").ca().valid(EXPIRED));
    let under_old = middle.as_issuer().sign_v3("router.example").with_chain(&[&middle]);
    let dated = |cn: &str, dates| [ca.sign_v1(Leaf::new(cn).valid(dates)), ca.sign_v3(Leaf::new(cn).valid(dates))];

    let (expired, not_yet) = (Reason::CertificateExpired, Reason::CertificateNotYetValid);
    for old in dated("router.example", EXPIRED).iter().chain([&under_old]) {
        assert_router_refused(
            "expired",
            Scene::new(&ca, old, &client),
            expired,
            "expired on 2002-01-01; the clock says",
        );
    }
    for new in dated("router.example", NOT_YET) {
        let scene = Scene::new(&ca, &new, &client);
        assert_router_refused("not yet", scene, not_yet, "not valid before 2090-01-01; the clock says 20");
    }
    for old in dated(ADDRESS, EXPIRED) {
        let scene = Scene::new(&ca, &router, &old);
        assert_client_refused("expired", scene, expired, "certificate of 198.51.100.7:50000 expired on 2002-01-01");
        let scene = Scene::enrolled_only(&ca, &router, &old).enrol(&old.cert_pem);
        assert_client_refused("expired, though enrolled", scene, expired, "expired on 2002-01-01");
    }
    for new in dated(ADDRESS, NOT_YET) {
        assert_client_refused("not yet", Scene::new(&ca, &router, &new), not_yet, "not valid before 2090-01-01");
    }
}

#[test]
fn a_clock_before_the_build_is_to_blame_and_not_the_certificate() {
    let ca = Ca::v1("Fleet");
    let client = ca.sign_v1(ADDRESS);
    let router = ca.sign_v3("router.example");
    for (version, outcome) in Scene::new(&ca, &router, &client).at(7).run_each() {
        let failure = outcome.client.expect_err(version);
        let part = "the clock says 1970-01-01, which is before this program was built: the clock is wrong";
        assert_failure(version, &failure, Reason::CertificateNotYetValid, Class::Transient, part);
    }
}

#[test]
fn whoever_does_not_hold_the_key_is_refused() {
    let ca = Ca::v3("Fleet");
    for (story, router, client) in [
        ("v1", ca.sign_v1("router.example"), ca.sign_v1(ADDRESS)),
        ("v3", ca.sign_v3("router.example"), ca.sign_v3(ADDRESS)),
    ] {
        let thief = credentials(&Identity::self_signed_v1("thief")).key;
        let mut scene = Scene::new(&ca, &router, &client);
        scene.router.key = thief.clone();
        assert_router_refused(story, scene, Reason::CertificateUntrusted, "could not prove that it holds the key");
        let mut scene = Scene::new(&ca, &router, &client);
        scene.client.as_mut().unwrap().key = thief;
        assert_client_refused(story, scene, Reason::CertificateUntrusted, "could not prove that it holds the key");
    }
}

#[test]
fn a_client_that_the_router_does_not_know_is_refused() {
    let ca = Ca::v3("Fleet");
    let stranger = Ca::v3("Stranger");
    let router = ca.sign_v1("router.example");
    let own = || Identity::self_signed_v1(ADDRESS);
    let untrusted = Reason::CertificateUntrusted;
    for (story, client, part) in [
        ("self-signed", own(), "fd00:8f80:1::1234 is not enrolled"),
        ("v3 under another CA", stranger.sign_v3(ADDRESS), "fd00:8f80:1::1234 is not enrolled"),
        ("under a namesake", Ca::v1("Fleet").sign_v1(ADDRESS), "was the CA replaced?"),
        ("serverAuth only", ca.sign_v3(Leaf::new(ADDRESS).server_only()), "not for client authentication"),
        ("no address", ca.sign_v1("device 7"), "carries no IPv6 address"),
        ("two addresses", ca.sign_v3(Leaf::new("x").ip("fd00::1").ip("fd00::2")), "or more than one"),
        ("the router's own address", ca.sign_v1("fe80::1"), "fe80::1 cannot be used: it is a link-local address"),
        ("multicast", ca.sign_v1("ff02::1"), "multicast"),
    ] {
        assert_client_refused(story, Scene::new(&ca, &router, &client), untrusted, part);
    }

    let without_ca = Scene::enrolled_only(&ca, &router, &ca.sign_v1(ADDRESS));
    assert_client_refused("no client CA", without_ca, untrusted, "not enrolled");
    let (client, other) = (own(), own());
    let enrolled = |pem: &str| Scene::enrolled_only(&ca, &router, &client).enrol(pem);
    assert_client_refused("another certificate", enrolled(&other.cert_pem), untrusted, "enrolled with another key");
    assert_client_refused("another key", enrolled(&other.public_key_pem()), untrusted, "enrolled with another key");
    assert_client_refused("an empty file", enrolled(""), untrusted, "cannot be read from");
    assert_client_refused(
        "a damaged file",
        enrolled("-----BEGIN PUBLIC KEY-----\n#"),
        untrusted,
        "cannot be read from",
    );
}

#[test]
fn a_key_enrolled_for_one_address_does_not_open_another() {
    let ca = Ca::v1("Router CA");
    let router = ca.sign_v1("router.example");
    let enrolled = Identity::self_signed_v1(ADDRESS);
    let greedy = Identity::self_signed_v1(Leaf::new("fd00:8f80:1::9999").key(&enrolled.key));
    let scene = Scene::enrolled_only(&ca, &router, &greedy).enrol(&enrolled.cert_pem);
    assert_client_refused("greedy", scene, Reason::CertificateUntrusted, "fd00:8f80:1::9999 is not enrolled");
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let ca = Ca::v1("Fleet");
    let mut scene = Scene::new(&ca, &ca.sign_v1("router.example"), &ca.sign_v1(ADDRESS));
    scene.client = None;
    for (version, outcome) in scene.run_each() {
        let failure = outcome.router.expect_err(version);
        let untrusted = Reason::CertificateUntrusted;
        assert_failure(version, &failure, untrusted, Class::Credentials, "presented no certificate");
        assert!(outcome.client.is_err(), "{version}");
    }
}

#[test]
fn what_is_not_tls_is_a_protocol_error() {
    use std::io::Read;
    let ca = Ca::v1("Fleet");
    let scene = Scene::new(&ca, &ca.sign_v1("router.example"), &ca.sign_v1(ADDRESS));
    let config = enftun::transport::tls::client_config(
        scene.client.as_ref().unwrap(),
        scene.router_trust.clone(),
        &enftun::transport::tls::VERSIONS,
    )
    .unwrap();
    let name = rustls::pki_types::ServerName::try_from("router.example").unwrap();
    let mut connection = rustls::ClientConnection::new(config, name).unwrap();
    connection.read_tls(&mut b"HTTP/1.0 400 Bad Request\r\n".take(64)).unwrap();
    let error = connection.process_new_packets().unwrap_err();
    let failure = tls_failure(&error, "router.example:80");
    assert_failure("http", &failure, Reason::ProtocolError, Class::Transient, "router.example:80 does not speak TLS");
}

#[test]
fn versions_without_overlap_are_named() {
    let ca = Ca::v1("Fleet");
    let scene = Scene::new(&ca, &ca.sign_v1("router.example"), &ca.sign_v1(ADDRESS));
    let only = |version| {
        let (router, trust) = (&scene.router, scene.client_trust.clone());
        enftun::transport::tls::server_config(router, trust, &[version]).unwrap()
    };
    let client = enftun::transport::tls::client_config(
        scene.client.as_ref().unwrap(),
        scene.router_trust.clone(),
        &[&rustls::version::TLS13],
    )
    .unwrap();
    let (near, far) = tokio::io::duplex(1 << 16);
    let name = rustls::pki_types::ServerName::try_from("router.example").unwrap();
    let (client, router) = super::block_on(async {
        tokio::join!(
            tokio_rustls::TlsConnector::from(client).connect(name, near),
            tokio_rustls::TlsAcceptor::from(only(&rustls::version::TLS12)).accept(far)
        )
    });
    let failure = failure(&router.map(|_| ()).unwrap_err(), "198.51.100.7:50000");
    assert_failure("router", &failure, Reason::ProtocolError, Class::Transient, "in common");
    let failure = enftun::transport::tls::failure(&client.map(|_| ()).unwrap_err(), "router.example:443");
    assert_failure("client", &failure, Reason::ProtocolError, Class::Transient, "alert ProtocolVersion");
}

#[test]
fn alerts_say_whether_the_credentials_are_at_fault() {
    use AlertDescription as Alert;
    for (alert, reason, part) in [
        (Alert::BadCertificate, Reason::AuthFailed, "is it enrolled there?"),
        (Alert::CertificateUnknown, Reason::AuthFailed, "is it enrolled there?"),
        (Alert::UnknownCA, Reason::AuthFailed, "does not know the CA"),
        (Alert::CertificateExpired, Reason::AuthFailed, "has expired"),
        (Alert::CertificateRevoked, Reason::AuthFailed, "revoked"),
        (Alert::CertificateRequired, Reason::AuthFailed, "none was sent"),
        (Alert::AccessDenied, Reason::AuthFailed, "access is denied"),
        (Alert::UnsupportedCertificate, Reason::AuthFailed, "this kind of certificate"),
        (Alert::DecryptError, Reason::AuthFailed, "does not belong"),
        (Alert::HandshakeFailure, Reason::ProtocolError, "no TLS version or cipher in common"),
        (Alert::InternalError, Reason::ProtocolError, "InternalError"),
    ] {
        let class = if reason == Reason::AuthFailed { Class::Credentials } else { Class::Transient };
        let error = std::io::Error::new(std::io::ErrorKind::InvalidData, Error::AlertReceived(alert));
        let failure = failure(&error, "router.example:443");
        assert_failure(&format!("{alert:?}"), &failure, reason, class, part);
        assert!(failure.text.starts_with("router.example:443 "), "{failure}");
    }
}

#[test]
fn a_lost_connection_is_worth_another_try() {
    use std::io::{Error, ErrorKind};
    for (kind, reason) in [
        (ErrorKind::UnexpectedEof, Reason::RemoteClosed),
        (ErrorKind::ConnectionReset, Reason::RemoteClosed),
        (ErrorKind::TimedOut, Reason::Timeout),
        (ErrorKind::NetworkUnreachable, Reason::Unreachable),
        (ErrorKind::Other, Reason::RemoteClosed),
    ] {
        let failure = failure(&Error::new(kind, "the cause"), "router.example:443");
        assert_failure(&format!("{kind:?}"), &failure, reason, Class::Transient, "the cause");
    }
}
