//! What connections carry arrives, whole and in its own connection: every version, one and many, small and large.

use crate::apps::{App, Does, Socket, dial, echo, end, receive, send};
use crate::common::aws_service::{Mode, Service, Shape, Tunnel};
use crate::common::{figure, long};
use crate::ours::{Ours, named, tcp};
use enftun::config::{Compat, Services, Subprotocol};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

/// The versions, as a source speaks them and the service agrees to them.
pub const VERSIONS: [(Compat, Subprotocol); 3] =
    [(Compat::V1, Subprotocol::V1), (Compat::V2, Subprotocol::V2), (Compat::V3, Subprotocol::V3)];

/// Both ends over this version, with one service and one application.
pub fn pair(service: &Service, port: u16, compat: Compat, subprotocol: Subprotocol) -> (Tunnel, Ours, Ours) {
    let tunnel = service.tunnel(&["SSH"]);
    let destination = Ours::start(service, &tunnel, Mode::Destination, |setup| {
        setup.services = Services::Only(tcp(port));
        setup.subprotocol = subprotocol;
    });
    let source = Ours::start(service, &tunnel, Mode::Source, |setup| {
        setup.services = Services::Only(tcp(0));
        (setup.compat, setup.subprotocol) = (compat, subprotocol);
    });
    destination.wait_until_ready(1);
    source.wait_until_ready(1);
    (tunnel, source, destination)
}

/// The name of the only service in this version.
pub fn only(subprotocol: Subprotocol) -> &'static str {
    if subprotocol == Subprotocol::V1 { "" } else { "SSH" }
}

#[test]
fn one_connection_after_the_other_over_each_version() {
    for (compat, subprotocol) in VERSIONS {
        let service = Service::start();
        let app = App::start(Does::Echoes);
        let (tunnel, source, _destination) = pair(&service, app.port(), compat, subprotocol);
        for key in 0..4 {
            let mut client = dial(source.address(only(subprotocol)));
            echo(&mut client, key, 300_000);
            drop(client);
            app.wait_for_ends(key as usize + 1);
        }
        let said = tunnel.said_by(Mode::Source);
        let begun: Vec<&str> = said.iter().map(String::as_str).filter(|what| what.contains("_START")).collect();
        let expected = match compat {
            Compat::V1 => ["STREAM_START :1/0", "STREAM_START :2/0", "STREAM_START :3/0", "STREAM_START :4/0"],
            Compat::V2 => {
                ["STREAM_START SSH:1/0", "STREAM_START SSH:2/0", "STREAM_START SSH:3/0", "STREAM_START SSH:4/0"]
            }
            Compat::V3 => [
                "STREAM_START SSH:1/1",
                "CONNECTION_START SSH:1/2",
                "CONNECTION_START SSH:1/3",
                "CONNECTION_START SSH:1/4",
            ],
        };
        assert_eq!(begun, expected);
    }
}

#[test]
fn the_flag_for_old_destinations_does_not_change_the_subprotocol() {
    for compat in [Compat::V1, Compat::V2] {
        let service = Service::start();
        let app = App::start(Does::Echoes);
        let (tunnel, source, _destination) = pair(&service, app.port(), compat, Subprotocol::V3);
        echo(&mut dial(source.address("SSH")), 1, 100_000);
        let first = tunnel.said_by(Mode::Source).into_iter().find(|what| what.contains("_START")).unwrap();
        assert_eq!(first, if compat == Compat::V1 { "STREAM_START :1/0" } else { "STREAM_START SSH:1/0" });
        for handshake in service.handshakes() {
            assert_eq!(handshake.request.unwrap().offered, ["aws.iot.securetunneling-3.0"]);
        }
    }
}

#[test]
fn several_services_do_not_mix() {
    let service = Service::start();
    let names = ["SSH", "vnc", "printer.example.com"];
    let tunnel = service.tunnel(&names);
    let apps = names.map(|_| App::start(Does::Echoes));
    let at: Vec<_> = names.iter().zip(&apps).map(|(name, app)| (*name, app.port())).collect();
    let _destination = Ours::destination(&service, &tunnel, &at);
    let source = Ours::source(&service, &tunnel);
    let addresses = names.map(|name| source.address(name));
    let clients: Vec<_> = (0..24_u64)
        .map(|key| {
            let address = addresses[key as usize % 3];
            std::thread::spawn(move || echo(&mut dial(address), key, 200_000))
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert_eq!(apps.each_ref().map(App::connections), [8; 3]);
    for name in names {
        source.wait_for_service(name, "eight connections and their bytes", |service| {
            let counts = service.counts;
            (counts.connections, counts.tx_bytes, counts.rx_bytes) == (8, 1_600_000, 1_600_000)
        });
    }
}

#[test]
fn a_hundred_and_twenty_eight_connections_at_once_keep_their_contents() {
    let service = Service::start();
    let app = App::start(Does::Echoes);
    let (tunnel, source, _destination) = pair(&service, app.port(), Compat::V3, Subprotocol::V3);
    tunnel.knobs(|knobs| knobs.shape = Shape::Cut);
    let address = source.address("SSH");
    // All are there before the first says anything.
    let clients: Vec<_> = (0..128).map(|_| dial(address)).collect();
    app.wait_for(128);
    let clients: Vec<_> = clients
        .into_iter()
        .enumerate()
        .map(|(key, mut client)| std::thread::spawn(move || echo(&mut client, key as u64, 100_000)))
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert_eq!(tunnel.carried_by(Mode::Source).len(), 128);
    assert!(tunnel.carried_by(Mode::Source).values().all(|bytes| *bytes == 100_000));
}

/// D3: connection 129 crashed the source.
#[test]
fn the_connection_beyond_the_limit_is_turned_away_and_the_others_stay() {
    let service = Service::start();
    let app = App::start(Does::Echoes);
    let tunnel = service.tunnel(&["SSH"]);
    let _destination = Ours::destination(&service, &tunnel, &[("SSH", app.port())]);
    let source = Ours::source(&service, &tunnel);
    let address = source.address("SSH");
    let mut clients: Vec<_> = (0..128).map(|_| dial(address)).collect();
    app.wait_for(128);
    for _ in 0..5 {
        // The reset may come before the kernel has told that it is connected.
        if let Ok(mut client) = TcpStream::connect(address) {
            client.patience(crate::apps::PATIENCE);
            let _ = end(&mut client);
        }
    }
    source.wait_for_service("SSH", "five refusals", |service| service.counts.refused == 5);
    for (key, client) in clients.iter_mut().enumerate() {
        echo(client, key as u64, 1000);
    }
    assert_eq!(app.connections(), 128);
    // Where one goes there is room for another.
    drop(clients.pop());
    app.wait_for_ends(1);
    crate::common::wait_for("room for another", || {
        TcpStream::connect(address).is_ok_and(|mut client| {
            client.patience(crate::apps::PATIENCE);
            client.write_all(b"x").is_ok() && client.read(&mut [0]).is_ok_and(|count| count == 1)
        })
    });
    drop(clients);
    assert_eq!(source.ready(), 1);
}

/// D10: a queue of no length, and small segments that wait.
#[test]
fn a_burst_of_connections_is_taken_at_once() {
    let service = Service::start();
    let app = App::start(Does::Echoes);
    let (_tunnel, source, _destination) = pair(&service, app.port(), Compat::V3, Subprotocol::V3);
    let address = source.address("SSH");
    let began = Instant::now();
    let clients: Vec<_> = (0..60)
        .map(|key| {
            std::thread::spawn(move || {
                let began = Instant::now();
                echo(&mut dial(address), key, 1);
                began.elapsed()
            })
        })
        .collect();
    let mut times: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    times.sort_unstable();
    figure(&format!(
        "60 connections at once, each with an echo of one byte: median {:?}, slowest {:?}, all in {:?}",
        times[30],
        times[59],
        began.elapsed()
    ));
    assert_eq!(app.connections(), 60);
}

/// A big one in both directions over each version, through a service that cuts and merges as it likes.
#[test]
fn much_data_arrives_unchanged_in_both_directions_over_each_version() {
    let length = if long() { 1 << 30 } else { 64 << 20 };
    for ((compat, subprotocol), shape) in VERSIONS.into_iter().zip([Shape::Fragments(4096), Shape::Cut, Shape::Merged])
    {
        let service = Service::start();
        let sink = App::start(Does::Checks(7));
        let (tunnel, source, destination) = pair(&service, sink.port(), compat, subprotocol);
        tunnel.knobs(|knobs| knobs.shape = shape);
        let began = Instant::now();
        let mut client = dial(source.address(only(subprotocol)));
        send(&mut client, 7, length).unwrap();
        client.end_writing().unwrap();
        sink.wait_for_ends_of(1, length);
        let up = began.elapsed();
        assert_eq!(sink.read(), length, "{compat:?}");
        drop((client, source, destination));
        let spring = App::start(Does::Sends(8, length));
        let (tunnel, source, _destination) = pair(&service, spring.port(), compat, subprotocol);
        tunnel.knobs(|knobs| knobs.shape = shape);
        let began = Instant::now();
        let mut client = dial(source.address(only(subprotocol)));
        receive(&mut client, 8, length);
        assert_eq!(end(&mut client), Ok(()), "it ends as the application ended it");
        let rate = |time: std::time::Duration| length as f64 / 1e6 / time.as_secs_f64();
        figure(&format!(
            "{} MB over {}: {:.0} MB/s up, {:.0} MB/s down (development build)",
            length >> 20,
            compat.as_str(),
            rate(up),
            rate(began.elapsed())
        ));
    }
}

#[test]
fn single_bytes_are_not_held_back() {
    let service = Service::start();
    let app = App::start(Does::Echoes);
    let (_tunnel, source, _destination) = pair(&service, app.port(), Compat::V3, Subprotocol::V3);
    let mut client = dial(source.address("SSH"));
    let mut times: Vec<_> = (0..200_u8)
        .map(|byte| {
            let began = Instant::now();
            // Two segments: the second must not wait for an acknowledgement of the first.
            client.write_all(&[byte]).unwrap();
            client.write_all(&[byte]).unwrap();
            let mut back = [0; 2];
            client.read_exact(&mut back).unwrap();
            assert_eq!(back, [byte; 2]);
            began.elapsed()
        })
        .collect();
    times.sort_unstable();
    figure(&format!("two 1-byte writes, echoed: median {:?} (development build; the reference: 42.5 ms)", times[100]));
}

#[test]
fn unix_sockets_at_both_ends() {
    use enftun::config::Application;
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    use std::os::unix::net::UnixStream;
    let service = Service::start();
    let tunnel = service.tunnel(&["SSH"]);
    let directory = tempfile::tempdir().unwrap();
    let (near, far) = (directory.path().join("near"), directory.path().join("far"));
    let app = App::unix(&far, Does::Echoes);
    let at = |path: &std::path::Path| {
        Services::Named(BTreeMap::from([("SSH".to_owned(), Application::Unix(path.to_owned()))]))
    };
    let _destination = Ours::start(&service, &tunnel, Mode::Destination, |setup| setup.services = at(&far));
    tunnel.destination().wait_for_session(1);
    let source = Ours::start(&service, &tunnel, Mode::Source, |setup| setup.services = at(&near));
    source.wait_until_ready(1);
    let metadata = std::fs::metadata(&near).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o007, 0, "not for everybody");
    for key in 0..3 {
        let mut client = UnixStream::connect(&near).unwrap();
        client.patience(crate::apps::PATIENCE);
        echo(&mut client, key, 300_000);
    }
    assert_eq!(app.connections(), 3);
    // One that is left over from a crash is no obstacle.
    source.stop();
    drop(std::os::unix::net::UnixListener::bind(&near));
    tunnel.destination().wait_for_session(1);
    let source = Ours::start(&service, &tunnel, Mode::Source, |setup| setup.services = at(&near));
    source.wait_until_ready(1);
    let mut client = UnixStream::connect(&near).unwrap();
    client.patience(crate::apps::PATIENCE);
    echo(&mut client, 9, 1000);
}

/// D12: a console or an old proxy begins streams without a service's name.
#[test]
fn a_source_of_version_1_reaches_a_destination_that_knows_nothing_of_it() {
    use crate::common::aws_service::message::{DATA, Message, STREAM_RESET, STREAM_START};
    use crate::raw::Raw;
    let service = Service::start();
    let tunnel = service.tunnel(&["SSH"]);
    let app = App::start(Does::Echoes);
    let destination =
        Ours::start(&service, &tunnel, Mode::Destination, |setup| setup.services = named(&[("SSH", app.port())]));
    destination.wait_until_ready(1);
    let mut source = Raw::connect(&service, Mode::Source, &tunnel.token(Mode::Source));
    assert_eq!(source.hear().services, ["SSH"]);
    for stream in 1..4 {
        source.say(&Message::of(STREAM_START, "", stream, 0));
        source.say(&Message::data("", stream, 0, "hello"));
        assert_eq!(source.hear(), Message { kind: DATA, ..Message::data("", stream, 0, "hello") });
        source.say(&Message::of(STREAM_RESET, "", stream, 0));
        app.wait_for_ends(stream as usize);
    }
    assert_eq!(destination.ready(), 1, "one session was enough");
    // Version 2: with a name, and without a number. The next stream takes the place of the one before.
    let tunnel = service.tunnel(&["SSH"]);
    let destination = Ours::destination(&service, &tunnel, &[("SSH", app.port())]);
    let mut source = Raw::connect(&service, Mode::Source, &tunnel.token(Mode::Source));
    source.hear();
    for stream in 1..4 {
        source.say(&Message::of(STREAM_START, "SSH", stream, 0));
        source.say(&Message::data("SSH", stream, 0, "again"));
        assert_eq!(source.hear(), Message::data("SSH", stream, 0, "again"));
    }
    app.wait_for_ends(5);
    assert_eq!(app.live(), 1);
    assert_eq!(destination.ready(), 1, "one session was enough");
}

/// D12: of two clients that overlap, the first is cut, and the second lives.
#[test]
fn in_the_old_versions_the_next_connection_takes_the_place_of_the_one_before() {
    for (compat, subprotocol) in &VERSIONS[..2] {
        let service = Service::start();
        let app = App::start(Does::Echoes);
        let (_tunnel, source, _destination) = pair(&service, app.port(), *compat, *subprotocol);
        let address = source.address(only(*subprotocol));
        let mut first = dial(address);
        echo(&mut first, 1, 1000);
        for key in 2..5 {
            let mut second = dial(address);
            echo(&mut second, key, 100_000);
            let _ = end(&mut first);
            echo(&mut second, key, 100_000);
            first = second;
        }
        assert_eq!(app.connections(), 4);
    }
}
