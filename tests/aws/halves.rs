//! Half of a connection that ends: the protocol has no word for it, and most requests get their answer nevertheless.

use crate::apps::{App, Does, Socket, dial, end, pattern};
use crate::common::aws_service::{Mode, Service};
use crate::ours::{Ours, named};
use enftun::config::Limits;
use std::io::Read;
use std::time::Duration;

/// A client that sends, ends its half and waits: what the reference answers with nothing.
#[test]
fn a_request_that_ends_gets_its_answer() {
    let service = Service::start();
    let tunnel = service.tunnel(&["A"]);
    // It answers at once, which needs no end of the request.
    let app = App::start(Does::Echoes);
    let _destination = Ours::destination(&service, &tunnel, &[("A", app.port())]);
    let source = Ours::source(&service, &tunnel);
    for (key, length) in [(1, 5), (2, 500_000)] {
        let mut client = dial(source.address("A"));
        let mut expected = vec![0; length];
        pattern(key, 0, &mut expected);
        let mut sending = client.another();
        let sent = expected.clone();
        let sender = std::thread::spawn(move || {
            std::io::Write::write_all(&mut sending, &sent).unwrap();
            sending.end_writing().unwrap();
        });
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        sender.join().unwrap();
        assert!(answer == expected, "{} of {length} bytes came back", answer.len());
    }
}

/// An application that answers and ends: its last bytes arrive, and then its end.
#[test]
fn an_answer_that_ends_arrives_whole() {
    let service = Service::start();
    for length in [1, 70_000, 5_000_000] {
        let tunnel = service.tunnel(&["A"]);
        let app = App::start(Does::Sends(3, length));
        let _destination = Ours::destination(&service, &tunnel, &[("A", app.port())]);
        let source = Ours::source(&service, &tunnel);
        let mut client = dial(source.address("A"));
        crate::apps::receive(&mut client, 3, length);
        assert_eq!(end(&mut client), Ok(()));
    }
}

/// With no grace the connection ends as the reference's does, and nobody waits.
#[test]
fn without_grace_the_end_of_one_half_is_the_end_of_both() {
    let service = Service::start();
    let tunnel = service.tunnel(&["A"]);
    let app = App::start(Does::Answers);
    let limits = Limits { half_close_grace: Duration::ZERO, ..Limits::default() };
    let port = app.port();
    let _destination = Ours::start(&service, &tunnel, Mode::Destination, |setup| {
        (setup.services, setup.limits) = (named(&[("A", port)]), limits);
    });
    tunnel.destination().wait_for_session(1);
    let source = Ours::start(&service, &tunnel, Mode::Source, |setup| setup.limits = limits);
    let mut client = dial(source.address("A"));
    std::io::Write::write_all(&mut client, b"hello").unwrap();
    client.end_writing().unwrap();
    let _ = end(&mut client);
    app.wait_for_ends(1);
    tunnel.wait_until_said(Some(Mode::Source), "CONNECTION_RESET A:1/1");
}
