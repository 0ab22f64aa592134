//! Applications that cannot be reached: only who asked for them notices.

use crate::apps::{App, Does, Mute, dial, echo, end, nobody};
use crate::common::aws_service::{Mode, Service};
use crate::ours::{Ours, named};
use enftun::config::Limits;
use std::io::{Read, Write};
use std::time::Duration;

/// A connection that comes to an end at once, or to nothing.
#[track_caller]
fn loses(address: std::net::SocketAddr) {
    if let Ok(mut socket) = std::net::TcpStream::connect_timeout(&address, crate::apps::PATIENCE) {
        socket.set_read_timeout(Some(crate::apps::PATIENCE)).unwrap();
        let _ = end(&mut socket);
    }
}

/// D5.
#[test]
fn a_target_that_refuses_does_not_hold_up_another_service() {
    let service = Service::start();
    let tunnel = service.tunnel(&["A", "B"]);
    let app = App::start(Does::Echoes);
    let destination = Ours::start(&service, &tunnel, Mode::Destination, |setup| {
        setup.services = named(&[("A", nobody()), ("B", app.port())]);
        setup.limits = Limits { retries: None, retry_delay: Duration::from_millis(100), ..Limits::default() };
    });
    tunnel.destination().wait_for_session(1);
    let source = Ours::source(&service, &tunnel);
    let mut refused = dial(source.address("A"));
    refused.write_all(b"hello").unwrap();
    // It is tried again for ever, and meanwhile everything else goes on.
    tunnel.wait_until_said(Some(Mode::Source), "STREAM_START A:1/1");
    for key in 0..5 {
        echo(&mut dial(source.address("B")), key, 100_000);
    }
    refused.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(
        refused.read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock),
        "it waits still"
    );
    assert_eq!((source.ready(), destination.ready()), (1, 1));
}

/// D5.
#[test]
fn a_target_that_never_answers_freezes_nothing() {
    let service = Service::start();
    let tunnel = service.tunnel(&["A", "B"]);
    let (app, mute) = (App::start(Does::Echoes), Mute::start());
    let destination = Ours::start(&service, &tunnel, Mode::Destination, |setup| {
        setup.services = named(&[("A", mute.address.port()), ("B", app.port())]);
        setup.limits = Limits { retries: Some(0), dial_timeout: Duration::from_secs(2), ..Limits::default() };
        setup.period = Duration::from_millis(200);
    });
    tunnel.destination().wait_for_session(1);
    let source = Ours::source(&service, &tunnel);
    let mut silent = dial(source.address("A"));
    let pings = tunnel.destination().pings().len();
    for key in 0..5 {
        echo(&mut dial(source.address("B")), key, 100_000);
    }
    // Pings go on meanwhile.
    tunnel.destination().wait_for_pings(pings + 2);
    let _ = end(&mut silent);
    destination.wait_for_service("A", "the deadline", |service| service.counts.unreachable == 1);
    assert_eq!((source.ready(), destination.ready()), (1, 1));
}

/// D6.
#[test]
fn a_failed_dial_ends_that_connection_only() {
    let service = Service::start();
    let tunnel = service.tunnel(&["A"]);
    let app = App::start(Does::Echoes);
    let port = app.port();
    let _destination = Ours::start(&service, &tunnel, Mode::Destination, |setup| {
        setup.services = named(&[("A", port)]);
        setup.limits = Limits { retries: Some(1), retry_delay: Duration::from_millis(50), ..Limits::default() };
    });
    tunnel.destination().wait_for_session(1);
    let source = Ours::source(&service, &tunnel);
    let mut healthy = dial(source.address("A"));
    echo(&mut healthy, 1, 1000);
    app.deafen();
    for _ in 0..3 {
        loses(source.address("A"));
        echo(&mut healthy, 2, 10_000);
    }
    let said = tunnel.said_by(Mode::Destination);
    assert!(said.iter().any(|what| what == "CONNECTION_RESET A:1/2"), "{said:?}");
    assert!(!said.iter().any(|what| what.starts_with("STREAM_RESET")), "{said:?}");
}

#[test]
fn a_failed_dial_of_the_first_connection_resets_the_stream_and_the_next_is_tried() {
    let service = Service::start();
    let tunnel = service.tunnel(&["A"]);
    let port = nobody();
    let _destination = Ours::start(&service, &tunnel, Mode::Destination, |setup| {
        setup.services = named(&[("A", port)]);
        setup.limits = Limits { retries: Some(0), ..Limits::default() };
    });
    tunnel.destination().wait_for_session(1);
    let source = Ours::source(&service, &tunnel);
    loses(source.address("A"));
    tunnel.wait_until_said(Some(Mode::Destination), "STREAM_RESET A:1/0");
    let app = App::at(&format!("127.0.0.1:{port}"), Does::Echoes);
    echo(&mut dial(source.address("A")), 1, 1000);
    assert_eq!(app.connections(), 1);
}

/// An application that starts a little later than its first client.
#[test]
fn a_target_is_tried_again_and_what_was_sent_meanwhile_is_not_lost() {
    let service = Service::start();
    let tunnel = service.tunnel(&["A"]);
    let port = nobody();
    let destination = Ours::start(&service, &tunnel, Mode::Destination, |setup| {
        setup.services = named(&[("A", port)]);
        setup.limits = Limits { retries: None, retry_delay: Duration::from_millis(50), ..Limits::default() };
    });
    destination.wait_until_ready(1);
    tunnel.destination().wait_for_session(1);
    let source = Ours::source(&service, &tunnel);
    let mut client = dial(source.address("A"));
    client.write_all(b"early").unwrap();
    tunnel.wait_until_said(Some(Mode::Source), "STREAM_START A:1/1");
    let _app = App::at(&format!("127.0.0.1:{port}"), Does::Echoes);
    let mut back = [0; 5];
    client.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"early");
}
