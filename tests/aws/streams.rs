//! What the service and the other end may say beside data, right or wrong: resets of every kind, streams that replace others,
//! messages that nobody knows, odd pings and pongs.

use crate::apps::{App, Does, dial, echo, end};
use crate::common::aws_service::message::{
    CONNECTION_RESET, CONNECTION_START, Message, SESSION_RESET, STREAM_RESET, STREAM_START,
};
use crate::common::aws_service::websocket::{BINARY, PING, PONG, TEXT};
use crate::common::aws_service::{Announce, Mode, Service, Shape, Tunnel};
use crate::ours::{Ours, named};
use crate::raw::Raw;
use enftun::error::Class;
use enftun::state::Reason;

/// Both ends of ours with the services A and B, and an echo behind each.
pub struct Bed {
    pub service: Service,
    pub tunnel: Tunnel,
    pub apps: [App; 2],
    pub source: Ours,
    pub destination: Ours,
}

impl Bed {
    pub fn new() -> Self {
        let service = Service::start();
        let tunnel = service.tunnel(&["A", "B"]);
        let apps = [App::start(Does::Echoes), App::start(Does::Echoes)];
        let at = [("A", apps[0].port()), ("B", apps[1].port())];
        let destination = Ours::destination(&service, &tunnel, &at);
        let source = Ours::source(&service, &tunnel);
        destination.wait_until_ready(1);
        source.wait_until_ready(1);
        Self { service, tunnel, apps, source, destination }
    }

    #[track_caller]
    pub fn echoes(&self, name: &str) {
        echo(&mut dial(self.source.address(name)), 77, 10_000);
    }

    /// Connections through both services work, and all of this happened in one session of each end.
    #[track_caller]
    pub fn lives(&self) {
        self.echoes("A");
        self.echoes("B");
        assert_eq!((self.source.ready(), self.destination.ready()), (1, 1));
        assert_eq!((self.source.ends(), self.destination.ends()), (vec![], vec![]));
    }
}

/// D4.
#[test]
fn a_session_reset_ends_every_connection_and_the_next_ones_work() {
    for mode in Mode::BOTH {
        let bed = Bed::new();
        let mut clients: Vec<_> = ["A", "A", "B"].into_iter().map(|name| dial(bed.source.address(name))).collect();
        for (key, client) in clients.iter_mut().enumerate() {
            echo(client, key as u64, 1000);
        }
        bed.tunnel.end(mode).send(&Message::of(SESSION_RESET, "", 0, 0));
        if mode == Mode::Destination {
            // Real ones go to both ends.
            bed.apps[0].wait_for_ends(2);
            bed.apps[1].wait_for_ends(1);
            bed.tunnel.source().send(&Message::of(SESSION_RESET, "", 0, 0));
        }
        for client in &mut clients {
            let _ = end(client);
        }
        bed.lives();
    }
}

/// D4: one that has nothing to do is not disturbed either.
#[test]
fn a_session_reset_finds_an_idle_end_well() {
    let bed = Bed::new();
    for mode in Mode::BOTH {
        bed.tunnel.end(mode).send(&Message::of(SESSION_RESET, "", 0, 0));
        bed.tunnel.end(mode).settle();
    }
    bed.lives();
}

#[test]
fn a_stream_reset_ends_the_connections_of_that_service_only() {
    for mode in Mode::BOTH {
        let bed = Bed::new();
        let mut first = [dial(bed.source.address("A")), dial(bed.source.address("A"))];
        let mut other = dial(bed.source.address("B"));
        first.iter_mut().for_each(|client| echo(client, 1, 1000));
        echo(&mut other, 2, 1000);
        bed.tunnel.end(mode).send(&Message::of(STREAM_RESET, "A", 1, 0));
        if mode == Mode::Destination {
            bed.apps[0].wait_for_ends(2);
            bed.tunnel.source().send(&Message::of(STREAM_RESET, "A", 1, 0));
        }
        first.iter_mut().for_each(|client| {
            let _ = end(client);
        });
        echo(&mut other, 3, 10_000);
        bed.lives();
        let said = bed.tunnel.said_by(Mode::Source);
        assert!(said.iter().any(|what| what.starts_with("STREAM_START A:2/")), "{said:?}");
    }
}

#[test]
fn a_reset_of_what_never_was_means_nothing() {
    let bed = Bed::new();
    let mut client = dial(bed.source.address("A"));
    echo(&mut client, 1, 1000);
    for mode in Mode::BOTH {
        for message in [
            Message::of(STREAM_RESET, "A", 9, 0),
            Message::of(STREAM_RESET, "B", 1, 0),
            Message::of(CONNECTION_RESET, "A", 1, 99),
            Message::data("A", 1, 99, "nobody's"),
            Message::data("A", 9, 1, "nobody's"),
        ] {
            bed.tunnel.end(mode).send(&message);
        }
        bed.tunnel.end(mode).settle();
    }
    echo(&mut client, 2, 10_000);
    bed.lives();
}

/// A destination of ours and a source made by hand.
fn by_hand(apps: &[(&str, u16)]) -> (Service, Tunnel, Ours, Raw) {
    let service = Service::start();
    let names: Vec<&str> = apps.iter().map(|(name, _)| *name).collect();
    let tunnel = service.tunnel(&names);
    let destination = Ours::start(&service, &tunnel, Mode::Destination, |setup| setup.services = named(apps));
    destination.wait_until_ready(1);
    let mut source = Raw::connect(&service, Mode::Source, &tunnel.token(Mode::Source));
    source.hear();
    (service, tunnel, destination, source)
}

/// D7.
#[test]
fn a_stream_that_replaces_another_takes_effect_at_once() {
    let app = App::start(Does::Echoes);
    let (_service, _tunnel, destination, mut source) = by_hand(&[("A", app.port())]);
    for stream in 1..6 {
        source.say(&Message::of(STREAM_START, "A", stream, stream as u32));
        let data = Message::data("A", stream, stream as u32, format!("stream {stream}"));
        source.say(&data);
        assert_eq!(source.hear(), data, "without a further start");
        app.wait_for_ends(stream as usize - 1);
    }
    assert_eq!((app.connections(), destination.ready()), (5, 1));
}

/// D7: after a source has come back, its first stream has the number of the one that was.
#[test]
fn a_stream_that_begins_again_with_the_same_number_is_a_new_one() {
    let app = App::start(Does::Echoes);
    let (service, tunnel, destination, mut source) = by_hand(&[("A", app.port())]);
    tunnel.source().knobs(|knobs| knobs.reset_other = false);
    for time in 0..4 {
        source.say(&Message::of(STREAM_START, "A", 1, 1));
        let data = Message::data("A", 1, 1, format!("time {time}"));
        source.say(&data);
        assert_eq!(source.hear(), data);
        app.wait_for_ends(time);
        source = Raw::connect(&service, Mode::Source, &tunnel.token(Mode::Source));
        source.hear();
    }
    assert_eq!((app.connections(), destination.ready()), (4, 1));
}

#[test]
fn a_destination_that_came_late_takes_a_connection_of_a_stream_it_never_saw() {
    let app = App::start(Does::Echoes);
    let (_service, _tunnel, _destination, mut source) = by_hand(&[("A", app.port())]);
    // The stream began while another destination was there.
    source.write(&crate::common::aws_service::websocket::masked_frame(
        true,
        BINARY,
        &Message::of(CONNECTION_START, "A", 3, 7).frame(),
    ));
    let data = Message::data("A", 3, 7, "hello");
    source.say(&data);
    assert_eq!(source.hear(), data);
    // This source's number is its own affair; the judge here has seen no start of it.
    assert!(!_tunnel.violations().is_empty());
}

#[test]
fn a_connection_that_begins_twice_is_reset_and_the_others_stay() {
    let app = App::start(Does::Echoes);
    let (_service, tunnel, destination, mut source) = by_hand(&[("A", app.port())]);
    source.say(&Message::of(STREAM_START, "A", 1, 1));
    source.say(&Message::of(CONNECTION_START, "A", 1, 2));
    for connection in [1, 2] {
        source.say(&Message::data("A", 1, connection, "x"));
        assert_eq!(source.hear(), Message::data("A", 1, connection, "x"));
    }
    source.say(&Message::of(CONNECTION_START, "A", 1, 2));
    assert_eq!(source.hear(), Message::of(CONNECTION_RESET, "A", 1, 2));
    source.say(&Message::data("A", 1, 1, "y"));
    assert_eq!(source.hear(), Message::data("A", 1, 1, "y"));
    assert_eq!(destination.ready(), 1);
    assert_eq!(tunnel.violations().len(), 1, "that of the source made by hand");
}

/// D11.
#[test]
fn unknown_messages_that_may_be_ignored_are() {
    let bed = Bed::new();
    let mut client = dial(bed.source.address("A"));
    echo(&mut client, 1, 1000);
    for mode in Mode::BOTH {
        for service in ["A", "B", "", "unheard-of"] {
            let message = Message { ignorable: true, ..Message::of(99, service, 1, 1) };
            bed.tunnel.end(mode).send(&message);
            bed.tunnel.end(mode).send(&Message { stream: 0, connection: 0, ..message });
        }
    }
    echo(&mut client, 2, 10_000);
    bed.lives();
}

/// Each of these ends the session, and the next one works: nothing hangs, and nobody exits.
#[test]
fn what_cannot_be_understood_ends_the_session_and_the_next_one_works() {
    type Says = fn(&Tunnel, Mode);
    let says: [(&str, Says); 7] = [
        ("an unknown type", |tunnel, mode| tunnel.end(mode).send(&Message::of(99, "A", 1, 1))),
        ("an unknown type without a service", |tunnel, mode| tunnel.end(mode).send(&Message::of(99, "", 0, 0))),
        ("type 0", |tunnel, mode| tunnel.end(mode).send(&Message::of(0, "A", 1, 1))),
        ("no protobuf", |tunnel, mode| tunnel.end(mode).send_bytes(&[0, 3, 0xff, 0xff, 0xff])),
        ("a text message", |tunnel, mode| tunnel.end(mode).send_raw(true, TEXT, &[0, 2, 8, 4])),
        ("a reserved opcode", |tunnel, mode| tunnel.end(mode).send_raw(true, 3, b"x")),
        ("a control frame in pieces", |tunnel, mode| tunnel.end(mode).send_raw(false, PING, b"x")),
    ];
    for mode in Mode::BOTH {
        let bed = Bed::new();
        for (number, (what, says)) in says.iter().enumerate() {
            let end = if mode == Mode::Source { &bed.source } else { &bed.destination };
            says(&bed.tunnel, mode);
            let ends = end.wait_for_ends(number + 1);
            let failure = &ends[number].failure;
            assert_eq!(
                (failure.reason, failure.class),
                (Reason::ProtocolError, Class::Transient),
                "{what}: {failure:?}"
            );
            end.wait_until_ready(number as u64 + 2);
            bed.echoes("B");
        }
    }
}

/// Only sources begin anything. In version 3 that ends the connection, and before it the session.
#[test]
fn a_source_that_is_told_of_a_new_connection_does_not_take_that() {
    let bed = Bed::new();
    let mut client = dial(bed.source.address("A"));
    echo(&mut client, 1, 1000);
    bed.tunnel.source().send(&Message::of(STREAM_START, "A", 1, 5));
    bed.tunnel.wait_until_said(Some(Mode::Source), "CONNECTION_RESET A:1/5");
    echo(&mut client, 2, 1000);
    // The judge knows of no connection 5.
    assert_eq!(bed.tunnel.violations().len(), 1);
    bed.tunnel.source().send(&Message::of(STREAM_START, "A", 1, 0));
    let ends = bed.source.wait_for_ends(1);
    assert_eq!(ends[0].failure.reason, Reason::ProtocolError);
    bed.source.wait_until_ready(2);
    bed.echoes("A");
}

/// D11: an unsolicited pong that was no number ended the process.
#[test]
fn odd_pongs_are_no_reason_to_go() {
    let bed = Bed::new();
    for mode in Mode::BOTH {
        for payload in [&b""[..], b"not a number", b"18446744073709551616", &[0xff; 125], b"-1"] {
            bed.tunnel.end(mode).send_raw(true, PONG, payload);
        }
    }
    bed.lives();
}

/// D11: the answer came twice.
#[test]
fn a_ping_is_answered_once() {
    let bed = Bed::new();
    for mode in Mode::BOTH {
        for number in 0..5 {
            bed.tunnel.end(mode).send_raw(true, PING, format!("ping {number}").as_bytes());
            bed.tunnel.end(mode).wait_for_pongs(number + 1);
        }
    }
    // What was to come twice had come before these.
    bed.lives();
    for mode in Mode::BOTH {
        let expected: Vec<String> = (0..5).map(|number| format!("ping {number}")).collect();
        assert_eq!(bed.tunnel.end(mode).pongs(), expected);
    }
}

#[test]
fn services_that_come_late_are_waited_for() {
    let service = Service::start();
    let tunnel = service.tunnel(&["A"]);
    let app = App::start(Does::Echoes);
    tunnel.knobs(|knobs| knobs.announce = Announce::Never);
    let destination = Ours::destination(&service, &tunnel, &[("A", app.port())]);
    let source = Ours::source(&service, &tunnel);
    for mode in Mode::BOTH {
        tunnel.end(mode).wait_for_session(1);
        tunnel.end(mode).wait_for_pings(1);
    }
    assert_eq!((source.ready(), destination.ready()), (0, 0), "nothing listens yet");
    for mode in Mode::BOTH {
        tunnel.end(mode).announce();
    }
    echo(&mut dial(source.address("A")), 1, 1000);
}

#[test]
fn services_that_are_told_again_change_nothing() {
    let service = Service::start();
    let tunnel = service.tunnel(&["A"]);
    let app = App::start(Does::Echoes);
    tunnel.knobs(|knobs| knobs.announce = Announce::Twice(vec!["other".into()]));
    let destination = Ours::destination(&service, &tunnel, &[("A", app.port())]);
    let source = Ours::source(&service, &tunnel);
    echo(&mut dial(source.address("A")), 1, 1000);
    assert_eq!((source.ready(), destination.ready()), (1, 1));
    assert_eq!(source.forwards.places().services.keys().collect::<Vec<_>>(), ["A"]);
}

#[test]
fn a_tunnel_without_services_has_one_without_a_name() {
    use crate::ours::tcp;
    use enftun::config::Services;
    let service = Service::start();
    let tunnel = service.tunnel(&[]);
    let app = App::start(Does::Echoes);
    let port = app.port();
    let _destination =
        Ours::start(&service, &tunnel, Mode::Destination, |setup| setup.services = Services::Only(tcp(port)));
    tunnel.destination().wait_for_session(1);
    let source = Ours::start(&service, &tunnel, Mode::Source, |setup| {
        setup.services = Services::Only(tcp(0));
        setup.compat = enftun::config::Compat::V1;
    });
    echo(&mut dial(source.address("")), 1, 100_000);
}

/// However messages are cut, what is said is the same.
#[test]
fn frames_may_be_cut_and_merged_anyhow() {
    for shape in [Shape::Cut, Shape::Merged, Shape::Fragments(1), Shape::Fragments(4096)] {
        let bed = Bed::new();
        bed.tunnel.knobs(|knobs| knobs.shape = shape);
        let clients: Vec<_> = (0..6)
            .map(|key| {
                let address = bed.source.address(if key % 2 == 0 { "A" } else { "B" });
                let length = if shape == Shape::Fragments(1) { 20_000 } else { 1 << 20 };
                std::thread::spawn(move || echo(&mut dial(address), key, length))
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().unwrap());
        bed.lives();
    }
}
