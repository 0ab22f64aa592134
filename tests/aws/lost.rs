//! Sessions that end, and those that follow.

use crate::apps::{App, Does, dial, echo, end, prefix, send};
use crate::carry::pair;
use crate::common::aws_service::{Mode, Service};
use crate::common::wait_for;
use crate::ours::{Ours, named};
use crate::streams::Bed;
use enftun::config::{Compat, Subprotocol};
use enftun::error::Class;
use enftun::state::Reason;
use std::time::Duration;

/// Whichever end is cut comes back with its tokens, whether the service resets the other one's streams or not.
#[test]
fn an_end_whose_connection_breaks_comes_back_with_the_same_tokens() {
    for reset_other in [true, false] {
        for mode in Mode::BOTH {
            let bed = Bed::new();
            bed.tunnel.knobs(|knobs| knobs.reset_other = reset_other);
            let mut before = dial(bed.source.address("A"));
            echo(&mut before, 1, 10_000);
            bed.tunnel.end(mode).abort();
            let end_of_ours = if mode == Mode::Source { &bed.source } else { &bed.destination };
            let ends = end_of_ours.wait_for_ends(1);
            assert_eq!(ends[0].failure.class, Class::Transient, "{:?}", ends[0]);
            end_of_ours.wait_until_ready(2);
            if mode == Mode::Source || reset_other {
                let _ = end(&mut before);
            }
            for key in 0..3 {
                echo(&mut dial(bed.source.address("A")), key, 10_000);
                echo(&mut dial(bed.source.address("B")), key, 10_000);
            }
            let used: Vec<_> =
                bed.service.handshakes().into_iter().map(|handshake| handshake.request.unwrap()).collect();
            assert_eq!(used.len(), 3);
            assert!(used.iter().all(|request| request.client_token.as_deref() == Some(crate::raw::CLIENT)));
        }
    }
}

#[test]
fn without_a_client_token_the_access_token_is_used_up_and_that_is_said() {
    let service = Service::start();
    let tunnel = service.tunnel(&["A"]);
    let source = Ours::start(&service, &tunnel, Mode::Source, |setup| setup.client_token = None);
    source.wait_until_ready(1);
    tunnel.source().abort();
    let ended = source.wait_until_over();
    assert_eq!((ended.failure.reason, ended.failure.class), (Reason::TokenRejected, Class::Credentials));
    let token = tunnel.token(Mode::Source);
    assert!(!ended.failure.text.contains(&token), "{}", ended.failure.text);
}

#[test]
fn a_token_that_was_rotated_is_rejected_and_the_new_one_works() {
    let service = Service::start();
    let tunnel = service.tunnel(&["A"]);
    let app = App::start(Does::Echoes);
    let destination = Ours::destination(&service, &tunnel, &[("A", app.port())]);
    destination.wait_until_ready(1);
    let old = tunnel.token(Mode::Source);
    let source = Ours::start(&service, &tunnel, Mode::Source, |setup| setup.token = Some(old));
    echo(&mut dial(source.address("A")), 1, 1000);
    tunnel.rotate(&[Mode::Source]);
    tunnel.source().abort();
    assert_eq!(source.wait_until_over().failure.reason, Reason::TokenRejected);
    let source = Ours::source(&service, &tunnel);
    echo(&mut dial(source.address("A")), 2, 1000);
    assert_eq!(destination.ready(), 1);
}

#[test]
fn a_token_that_belongs_to_another_client_is_rejected() {
    let service = Service::start();
    let tunnel = service.tunnel(&["A"]);
    let first = Ours::source(&service, &tunnel);
    first.wait_until_ready(1);
    let second = Ours::start(&service, &tunnel, Mode::Source, |setup| {
        setup.client_token = Some("another-client-another-client-00".into());
    });
    assert_eq!(second.wait_until_over().failure.reason, Reason::TokenRejected);
    assert_eq!((first.ready(), first.ends()), (1, vec![]));
}

/// A close frame: the tunnel is closed, or another took this place. Whatever its code, it is the end.
#[test]
fn a_close_frame_of_any_code_is_the_end() {
    for code in [1000, 1001, 1002, 1008, 1011, 1012, 3000, 4000, 4999] {
        for mode in Mode::BOTH {
            let service = Service::start();
            let tunnel = service.tunnel(&["A"]);
            let ours = Ours::start(&service, &tunnel, mode, |setup| {
                if mode == Mode::Destination {
                    setup.services = named(&[("A", 1)]);
                }
            });
            ours.wait_until_ready(1);
            tunnel.end(mode).close(code);
            let ended = ours.wait_until_over();
            assert_eq!(
                (ended.failure.reason, ended.failure.class),
                (Reason::TunnelClosed, Class::Credentials),
                "{code}"
            );
            assert_eq!(service.handshakes().len(), 1);
        }
    }
}

#[test]
fn a_closed_tunnel_ends_both_and_their_connections() {
    let bed = Bed::new();
    let mut client = dial(bed.source.address("A"));
    echo(&mut client, 1, 1000);
    bed.tunnel.close();
    for ours in [&bed.source, &bed.destination] {
        assert_eq!(ours.wait_until_over().failure.reason, Reason::TunnelClosed);
    }
    let _ = end(&mut client);
    bed.apps[0].wait_for_ends(1);
}

#[test]
fn who_is_replaced_goes_and_the_newcomer_serves() {
    let bed = Bed::new();
    let mut client = dial(bed.source.address("A"));
    echo(&mut client, 1, 1000);
    let newcomer = Ours::source(&bed.service, &bed.tunnel);
    newcomer.wait_until_ready(1);
    assert_eq!(bed.source.wait_until_over().failure.reason, Reason::TunnelClosed);
    let _ = end(&mut client);
    echo(&mut dial(newcomer.address("A")), 2, 10_000);
    assert_eq!(bed.destination.ready(), 1);
}

/// Nothing but what was sent arrives, from its beginning and without a gap, however the way breaks.
#[test]
fn what_arrives_of_a_transfer_that_breaks_is_its_beginning() {
    for mode in Mode::BOTH {
        for (compat, subprotocol) in [(Compat::V3, Subprotocol::V3), (Compat::V2, Subprotocol::V2)] {
            let service = Service::start();
            let length = 1 << 30;
            let sink = App::start(Does::Checks(5));
            let (tunnel, source, _destination) = pair(&service, sink.port(), compat, subprotocol);
            let mut client = dial(source.address("SSH"));
            let sender = std::thread::spawn(move || send(&mut client, 5, length));
            wait_for("some of it", || sink.read() > 1 << 20);
            tunnel.end(mode).abort();
            assert!(sender.join().unwrap().is_err(), "the client is told");
            sink.wait_for_ends(1);
            assert!(sink.read() < length);
            let spring = App::start(Does::Sends(6, length));
            let (tunnel, source, _destination) = pair(&service, spring.port(), compat, subprotocol);
            let mut client = dial(source.address("SSH"));
            crate::apps::receive(&mut client, 6, 1 << 20);
            tunnel.end(mode).abort();
            assert!(crate::apps::prefix_from(&mut client, 6, 1 << 20, length).unwrap() < length - (1 << 20));
        }
    }
}

/// A new session of one end never gets what was meant for its predecessor's connections.
#[test]
fn late_bytes_of_an_old_session_reach_nobody() {
    let service = Service::start();
    let app = App::start(Does::Echoes);
    let (tunnel, source, _destination) = pair(&service, app.port(), Compat::V3, Subprotocol::V3);
    // The destination hears nothing of the loss, so that it goes on sending for the connection that was.
    tunnel.source().knobs(|knobs| knobs.reset_other = false);
    for round in 0..10_u64 {
        let mut client = dial(source.address("SSH"));
        let mut sending = std::net::TcpStream::try_clone(&client).unwrap();
        let sender = std::thread::spawn(move || send(&mut sending, round, 1 << 30));
        assert!(prefix(&mut client, round, 200_000).unwrap() > 0);
        tunnel.source().abort();
        let _ = sender.join();
        drop(client);
        source.wait_until_ready(round + 2);
        // If anything of the old one came here, this would see it.
        echo(&mut dial(source.address("SSH")), 100 + round, 100_000);
    }
}

/// D17.
#[test]
fn a_service_that_answers_no_ping_is_left() {
    for mode in Mode::BOTH {
        let service = Service::start();
        let tunnel = service.tunnel(&["A"]);
        let ours = Ours::start(&service, &tunnel, mode, |setup| {
            if mode == Mode::Destination {
                setup.services = named(&[("A", 1)]);
            }
            (setup.period, setup.timeout) = (Duration::from_millis(200), Duration::from_millis(500));
        });
        ours.wait_until_ready(1);
        tunnel.end(mode).wait_for_pings(3);
        assert_eq!(ours.ends(), [], "as long as they are answered");
        tunnel.knobs(|knobs| knobs.pongs = false);
        let ended = &ours.wait_for_ends(1)[0];
        assert_eq!((ended.failure.reason, ended.failure.class), (Reason::HeartbeatTimeout, Class::Transient));
        tunnel.knobs(|knobs| knobs.pongs = true);
        ours.wait_until_ready(2);
    }
}

#[test]
fn told_to_stop_it_resets_what_is_open_and_says_goodbye() {
    for mode in Mode::BOTH {
        let Bed { service: _service, tunnel, apps, source, destination } = Bed::new();
        let mut client = dial(source.address("A"));
        echo(&mut client, 1, 1000);
        let left = match mode {
            Mode::Source => {
                source.stop();
                destination
            }
            Mode::Destination => {
                destination.stop();
                source
            }
        };
        tunnel.end(mode).wait_until_gone();
        assert_eq!(tunnel.end(mode).closed(), [Some(1000)]);
        let said = tunnel.said_by(mode);
        assert!(said.iter().any(|what| what.contains("_RESET A:1/")), "{said:?}");
        let _ = end(&mut client);
        apps[0].wait_for_ends(1);
        assert_eq!(left.ends(), []);
    }
}
