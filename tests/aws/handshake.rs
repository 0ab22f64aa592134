//! What becomes of a session before it is one: every answer that the service, or something in its place, may give.

use crate::apps::{App, Does, dial, echo};
use crate::common::aws_service::{Announce, Mode, Names, Reply, Service};
use crate::ours::{Ours, Setup, named, tcp};
use enftun::config::{Host, Services, Subprotocol};
use enftun::error::Class;
use enftun::state::{Again, Ended, Reason};
use std::collections::BTreeMap;
use std::time::Duration;

/// One session of either end against a service that was prepared; how it ends.
fn ends_with(
    prepare: impl Fn(&Service, &crate::common::aws_service::Tunnel),
    change: impl Fn(&mut Setup),
) -> [Ended; 2] {
    Mode::BOTH.map(|mode| {
        let service = Service::start();
        let tunnel = service.tunnel(&["A"]);
        prepare(&service, &tunnel);
        let ours = Ours::start(&service, &tunnel, mode, |setup| {
            if mode == Mode::Destination {
                setup.services = named(&[("A", 1)]);
            }
            setup.again = false;
            change(setup);
        });
        let ended = ours.wait_until_over();
        assert_eq!(ours.ready(), 0);
        let (token, text) = (tunnel.token(mode), &ended.failure.text);
        assert!(!text.contains(&token) && !text.contains(crate::raw::CLIENT), "{text}");
        ended
    })
}

#[track_caller]
fn is(ended: &Ended, reason: Reason, class: Class) {
    assert_eq!((ended.failure.reason, ended.failure.class), (reason, class), "{ended:?}");
}

fn status(status: u16) -> Reply {
    Reply::Status(status, Vec::new())
}

/// D8, as far as a session knows: a rejection is no good end.
#[test]
fn a_rejected_token_is_said_to_be_one() {
    for code in [401, 403] {
        for ended in ends_with(|service, _| service.reply(status(code)), |_| {}) {
            is(&ended, Reason::TokenRejected, Class::Credentials);
            assert!(ended.failure.text.contains(&code.to_string()), "{}", ended.failure.text);
        }
    }
    for ended in ends_with(|_, _| {}, |setup| setup.token = Some("unknown".into())) {
        is(&ended, Reason::TokenRejected, Class::Credentials);
    }
}

#[test]
fn a_token_of_the_other_end_is_rejected() {
    let service = Service::start();
    let tunnel = service.tunnel(&["A"]);
    let token = tunnel.token(Mode::Destination);
    let ours = Ours::start(&service, &tunnel, Mode::Source, |setup| setup.token = Some(token));
    is(&ours.wait_until_over(), Reason::TokenRejected, Class::Credentials);
}

#[test]
fn what_only_an_edit_can_change_is_a_matter_of_configuration() {
    for code in [301, 302, 307, 308, 400, 404, 405, 410, 418, 426, 451] {
        for ended in ends_with(|service, _| service.reply(status(code)), |_| {}) {
            is(&ended, Reason::ProtocolError, Class::Configuration);
            assert!(ended.failure.text.contains(&code.to_string()), "{}", ended.failure.text);
        }
    }
}

#[test]
fn who_is_asked_for_patience_waits_as_long_as_that() {
    for code in [408, 425, 429] {
        let after = Reply::Status(code, vec![("retry-after".into(), "7".into())]);
        for ended in ends_with(|service, _| service.reply(after.clone()), |_| {}) {
            assert_eq!(
                (ended.failure.class, ended.again),
                (Class::Transient, Again::NotBefore(Duration::from_secs(7)))
            );
        }
        for ended in ends_with(|service, _| service.reply(status(code)), |_| {}) {
            assert_eq!(
                (ended.failure.class, ended.again),
                (Class::Transient, Again::NotBefore(Duration::from_secs(60)))
            );
        }
    }
}

#[test]
fn errors_of_the_service_are_worth_another_try() {
    for code in [500, 502, 503, 504] {
        for ended in ends_with(|service, _| service.reply(status(code)), |_| {}) {
            assert_eq!(ended.failure.class, Class::Transient, "{ended:?}");
            assert!(ended.failure.text.contains(&code.to_string()), "{}", ended.failure.text);
        }
    }
    for reply in [Reply::HangUp, Reply::Refuse] {
        for ended in ends_with(|service, _| service.reply(reply.clone()), |_| {}) {
            assert_eq!(ended.failure.class, Class::Transient, "{ended:?}");
        }
    }
}

#[test]
fn it_comes_back_when_the_errors_are_over() {
    let service = Service::start();
    let tunnel = service.tunnel(&["A"]);
    let app = App::start(Does::Echoes);
    for reply in [status(500), Reply::HangUp, status(503), Reply::Refuse] {
        service.reply_next(2, reply);
    }
    let _destination = Ours::destination(&service, &tunnel, &[("A", app.port())]);
    let source = Ours::source(&service, &tunnel);
    echo(&mut dial(source.address("A")), 1, 1000);
    assert_eq!(service.handshakes().len(), 10);
}

/// D17.
#[test]
fn a_handshake_that_is_never_answered_has_a_deadline() {
    for reply in [Reply::Hang, Reply::Silent] {
        let short = |setup: &mut Setup| setup.connect_timeout = Duration::from_millis(500);
        for ended in ends_with(|service, _| service.reply(reply.clone()), short) {
            is(&ended, Reason::Timeout, Class::Transient);
        }
    }
}

/// They are waited for as long as the service lives, and no longer.
#[test]
fn a_service_that_tells_no_services_and_answers_no_ping_is_left() {
    let silent = |tunnel: &crate::common::aws_service::Tunnel| {
        tunnel.knobs(|knobs| (knobs.announce, knobs.pongs) = (Announce::Never, false));
    };
    let short =
        |setup: &mut Setup| (setup.period, setup.timeout) = (Duration::from_millis(100), Duration::from_millis(500));
    for ended in ends_with(|_, tunnel| silent(tunnel), short) {
        is(&ended, Reason::HeartbeatTimeout, Class::Transient);
    }
}

/// The reference connected again at once, a hundred times in three seconds; or took whatever was said.
#[test]
fn an_answer_without_the_subprotocol_or_with_another_is_none() {
    for names in
        [Names::Missing, Names::Another("foo.bar".into()), Names::Another("aws.iot.securetunneling-1.0".into())]
    {
        for ended in ends_with(|_, tunnel| tunnel.knobs(|knobs| knobs.names = names.clone()), |_| {}) {
            is(&ended, Reason::ProtocolError, Class::Transient);
            assert_eq!(ended.again, Again::InTurn, "after the back-off");
        }
    }
}

#[test]
fn a_certificate_of_somebody_else_is_not_trusted() {
    let other = Service::start();
    for ended in ends_with(|_, _| {}, |setup| setup.ca = Some(other.ca_file())) {
        assert_eq!(ended.failure.reason, Reason::CertificateUntrusted, "{ended:?}");
    }
    assert_eq!(other.handshakes().len(), 0);
}

#[test]
fn a_directory_of_trusted_certificates_will_do() {
    let service = Service::start();
    let tunnel = service.tunnel(&["A"]);
    let directory = service.ca_directory().to_owned();
    let source = Ours::start(&service, &tunnel, Mode::Source, |setup| setup.ca = Some(directory));
    source.wait_until_ready(1);
}

#[test]
fn nobody_at_the_port_is_worth_another_try() {
    let port = crate::apps::nobody();
    for ended in ends_with(|_, _| {}, |setup| setup.host = Host::direct("localhost", port)) {
        assert_eq!(ended.failure.class, Class::Transient, "{ended:?}");
    }
}

#[test]
fn the_request_is_as_the_service_wants_it() {
    let service = Service::start();
    for subprotocol in [Subprotocol::V1, Subprotocol::V2, Subprotocol::V3] {
        for client_token in [Some(crate::raw::CLIENT.to_owned()), None] {
            let tunnel = service.tunnel(&["A"]);
            let before = service.handshakes().len();
            let ours = Ours::start(&service, &tunnel, Mode::Source, |setup| {
                setup.services = Services::Only(tcp(0));
                (setup.subprotocol, setup.client_token) = (subprotocol, client_token.clone());
            });
            ours.wait_until_ready(1);
            let request = service.wait_for_handshakes(before + 1)[before].request.clone().unwrap();
            assert_eq!(request.mode, Mode::Source);
            assert_eq!(request.offered, [subprotocol.as_str()]);
            assert_eq!((request.token, request.client_token), (tunnel.token(Mode::Source), client_token));
            assert!(ours.forwards.places().channel_id.unwrap().starts_with("channel-"));
        }
    }
}

/// A request of more than 4 KiB would be refused: a token that is too long is not sent at all, or said to be the cause.
#[test]
fn a_token_too_long_for_a_request_does_no_harm() {
    for ended in ends_with(|_, _| {}, |setup| setup.token = Some("x".repeat(4096))) {
        assert_ne!(ended.failure.class, Class::Transient, "{ended:?}");
    }
}

/// D18 and section 2.4.
#[test]
fn services_that_do_not_agree_with_the_tunnel_are_a_matter_of_configuration() {
    let among = |services: &[(&str, u16)]| match named(services) {
        Services::Named(services) => Services::Among(services),
        other => other,
    };
    let cases: [(&[&str], Mode, Services); 7] = [
        (&["A", "B"], Mode::Source, Services::Only(tcp(0))),
        (&["A", "B"], Mode::Destination, Services::Only(tcp(1))),
        (&["A", "B"], Mode::Source, named(&[("A", 0)])),
        (&["A"], Mode::Source, named(&[("A", 0), ("B", 0)])),
        (&["A"], Mode::Destination, named(&[("a", 1)])),
        (&["A", "B"], Mode::Destination, among(&[("A", 1)])),
        (&["A"], Mode::Destination, Services::Among(BTreeMap::new())),
    ];
    for (names, mode, services) in cases {
        let service = Service::start();
        let tunnel = service.tunnel(names);
        let ours = Ours::start(&service, &tunnel, mode, |setup| setup.services = services.clone());
        is(&ours.wait_until_over(), Reason::Config, Class::Configuration);
        assert_eq!(ours.ready(), 0);
    }
}

#[test]
fn a_source_gives_a_free_port_to_services_that_are_not_mapped() {
    let service = Service::start();
    let tunnel = service.tunnel(&["A", "B"]);
    let port = crate::apps::nobody();
    let source = Ours::start(&service, &tunnel, Mode::Source, |setup| {
        setup.services = Services::Among(BTreeMap::from([("B".to_owned(), tcp(port)), ("unused".to_owned(), tcp(1))]));
    });
    assert_eq!(source.address("B").port(), port);
    assert_ne!(source.address("A").port(), 0);
}

#[test]
fn a_port_that_is_taken_is_tried_again_and_then_said() {
    let service = Service::start();
    let tunnel = service.tunnel(&["A"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let start = |retries: Option<u32>| {
        Ours::start(&service, &tunnel, Mode::Source, |setup| {
            setup.services = named(&[("A", port)]);
            setup.limits.retries = retries;
            setup.limits.retry_delay = Duration::from_millis(100);
        })
    };
    let ended = start(Some(2)).wait_until_over();
    is(&ended, Reason::ListenFailed, Class::Environment);
    assert!(ended.failure.text.contains(&port.to_string()), "{}", ended.failure.text);
    let source = start(None);
    tunnel.source().wait_for_session(2);
    drop(taken);
    source.wait_until_ready(1);
}
