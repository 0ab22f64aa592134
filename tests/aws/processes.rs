//! What only a process shows: its memory, how often it tries, and much data between two of them.

use crate::apps::{App, Does, Socket, dial, receive, send};
use crate::common::aws_service::{Mode, Reply, Service, Tunnel};
use crate::common::{figure, long};
use crate::process::{Localproxy, of};
use std::net::SocketAddr;
use std::time::Instant;

/// Both ends over this version, which the service agrees to, with an application at this port. Where the source listens.
fn pair(service: &Service, tunnel: &Tunnel, port: u16, version: &str) -> (Localproxy, Localproxy, SocketAddr) {
    let settings = service.ca_directory().join("settings.json");
    let subprotocol = format!("aws.iot.securetunneling-{version}.0");
    let text = serde_json::json!({ "tunneling": { "proxy": { "websocket": { "subprotocol": subprotocol } } } });
    std::fs::write(&settings, text.to_string()).unwrap();
    let near = crate::apps::nobody();
    let compat = format!("V{version}");
    let start = |mode: Mode, more: &[&str]| {
        let mut command = of(service, tunnel, mode, more);
        Localproxy::start(command.arg("--settings-json").arg(&settings))
    };
    let destination = start(Mode::Destination, &["-d", &format!("127.0.0.1:{port}")]);
    let source = start(Mode::Source, &["-s", &near.to_string(), "-y", &compat]);
    tunnel.destination().wait_for_session(1);
    source.wait_for_line(&["listening"]);
    (source, destination, SocketAddr::from(([127, 0, 0, 1], near)))
}

/// D2: the reference grew from 12.7 to 312 MB.
#[test]
fn memory_stays_bounded_when_the_service_stops_reading() {
    let service = Service::start();
    let tunnel = service.tunnel(&["SSH"]);
    let app = App::start(Does::Checks(1));
    let (source, _destination, near) = pair(&service, &tunnel, app.port(), "3");
    let idle = source.memory().0;
    tunnel.source().stop_reading();
    let length = 300 << 20;
    // As many as may be, each with its part.
    let clients: Vec<_> = (0..10)
        .map(|_| {
            let mut client = dial(near);
            std::thread::spawn(move || send(&mut client, 1, length / 10).map(|()| client))
        })
        .collect();
    // Until nothing moves any more: memory has reached what it will.
    let full = crate::slow::settles(|| source.memory().1);
    figure(&format!(
        "a source at rest: {} MB; when 300 MB are pushed at it and the service reads nothing: {} MB (development build; the \
         reference: 12.7 and 312 MB)",
        idle / 1000,
        full / 1000
    ));
    assert!(full < idle + 40_000, "{idle} kB became {full} kB");
    tunnel.source().resume();
    let clients: Vec<_> = clients.into_iter().map(|client| client.join().unwrap().unwrap()).collect();
    crate::common::wait_for("all of it", || app.read() == length);
    drop(clients);
}

/// D1, measured: a client that reads nothing of what comes.
#[test]
fn memory_stays_bounded_when_an_application_stops_reading() {
    let service = Service::start();
    let tunnel = service.tunnel(&["SSH"]);
    let app = App::start(Does::Sends(2, 300 << 20));
    let (source, destination, near) = pair(&service, &tunnel, app.port(), "3");
    let idle = [source.memory().0, destination.memory().0];
    let lazy = dial(near);
    let full = [crate::slow::settles(|| source.memory().1), crate::slow::settles(|| destination.memory().1)];
    figure(&format!("a client that reads nothing of 300 MB: source and destination {idle:?} kB, then {full:?} kB"));
    assert!(full.iter().zip(idle).all(|(full, idle)| *full < idle + 40_000), "{idle:?} kB became {full:?} kB");
    drop(lazy);
}

/// Both ways, and the contents are looked at byte by byte.
#[test]
fn a_pair_of_processes_carries_much_over_each_version() {
    let length = if long() { 1 << 30 } else { 32 << 20 };
    for version in ["1", "2", "3"] {
        let service = Service::start();
        let tunnel = service.tunnel(&["SSH"]);
        let sink = App::start(Does::Checks(7));
        let (source, destination, near) = pair(&service, &tunnel, sink.port(), version);
        let began = Instant::now();
        let mut client = dial(near);
        send(&mut client, 7, length).unwrap();
        client.end_writing().unwrap();
        sink.wait_for_ends_of(1, length);
        assert_eq!(sink.read(), length);
        let up = began.elapsed().as_secs_f64();
        let most = [source.memory().1, destination.memory().1];
        drop((client, source, destination));
        let tunnel = service.tunnel(&["SSH"]);
        let spring = App::start(Does::Sends(8, length));
        let (_source, _destination, near) = pair(&service, &tunnel, spring.port(), version);
        let began = Instant::now();
        receive(&mut dial(near), 8, length);
        let rate = |time: f64| length as f64 / 1e6 / time;
        figure(&format!(
            "{} MB between two processes over v{version}: {:.0} MB/s up, {:.0} MB/s down, at most {most:?} kB resident \
             (development build)",
            length >> 20,
            rate(up),
            rate(began.elapsed().as_secs_f64())
        ));
    }
}

/// D9: delays grow, whatever goes wrong, and nothing spins.
#[test]
fn attempts_that_fail_come_ever_more_seldom() {
    for reply in [Reply::Status(503, Vec::new()), Reply::HangUp, Reply::Refuse] {
        let service = Service::start();
        let tunnel = service.tunnel(&["SSH"]);
        service.reply(reply.clone());
        let settings = service.ca_directory().join("settings.json");
        std::fs::write(&settings, r#"{"tunneling":{"proxy":{"websocket":{"retry_delay_ms":100}}}}"#).unwrap();
        let mut command = of(&service, &tunnel, Mode::Source, &["-s", "SSH=1"]);
        let _source = Localproxy::start(command.arg("--settings-json").arg(&settings));
        let handshakes = service.wait_for_handshakes(6);
        let gaps: Vec<_> = handshakes.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
        // The fifth delay may be 1.6 s long. Chance may take part of each away, never all of all.
        let all: std::time::Duration = gaps.iter().sum();
        assert!(all.as_millis() > 100, "{reply:?}: {gaps:?}");
    }
}
