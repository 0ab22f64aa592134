//! Applications and services that are slower than what comes: nobody dies of them, nobody waits for them longer than need be,
//! and what waits is bounded.

use crate::apps::{App, Does, dial, echo, end, prefix, receive, send};
use crate::carry::pair;
use crate::common::aws_service::{Mode, Service, Tunnel};
use crate::common::wait_for;
use crate::ours::{Ours, named};
use enftun::config::{Compat, Limits, Services, Subprotocol};
use std::collections::BTreeMap;
use std::time::Duration;

/// Source and destination of the services `slow` and `quick`, with this patience.
fn ends(service: &Service, slow: &App, quick: &App, patience: Duration) -> (Tunnel, Ours, Ours) {
    let tunnel = service.tunnel(&["slow", "quick"]);
    let limits = Limits { patience, queue: 256 * 1024, ..Limits::default() };
    let destination = Ours::start(service, &tunnel, Mode::Destination, |setup| {
        setup.services = named(&[("slow", slow.port()), ("quick", quick.port())]);
        setup.limits = limits;
    });
    let source = Ours::start(service, &tunnel, Mode::Source, |setup| {
        setup.services = Services::Among(BTreeMap::new());
        setup.limits = limits;
    });
    source.wait_until_ready(1);
    destination.wait_until_ready(1);
    (tunnel, source, destination)
}

/// D1: on the destination.
#[test]
fn an_application_that_does_not_read_is_cut_off_and_the_others_go_on() {
    let service = Service::start();
    let (slow, quick) = (App::start(Does::Stalls(1)), App::start(Does::Echoes));
    let (_tunnel, source, destination) = ends(&service, &slow, &quick, Duration::from_millis(500));
    let mut beside = dial(source.address("quick"));
    echo(&mut beside, 2, 10_000);
    let mut client = dial(source.address("slow"));
    let pushed = std::thread::spawn(move || {
        let outcome = send(&mut client, 1, 64 << 20);
        (outcome, end(&mut client))
    });
    // It waits no longer than its patience for the other one, and a new connection is taken too.
    echo(&mut beside, 3, 1 << 20);
    let (_, outcome) = (pushed.join().unwrap(), destination.service("slow"));
    destination.wait_for_service("slow", "the one that was too slow", |service| service.counts.too_slow == 1);
    assert_eq!(outcome.counts.connections, 1);
    echo(&mut dial(source.address("quick")), 4, 1 << 20);
    assert_eq!((source.ready(), destination.ready()), (1, 1), "both sessions live on");
}

/// D1: on the source.
#[test]
fn a_client_that_does_not_read_is_cut_off_and_the_others_go_on() {
    let service = Service::start();
    let (slow, quick) = (App::start(Does::Sends(1, 64 << 20)), App::start(Does::Echoes));
    let (_tunnel, source, destination) = ends(&service, &slow, &quick, Duration::from_millis(500));
    let mut beside = dial(source.address("quick"));
    let mut lazy = dial(source.address("slow"));
    // The other one is busy, so that somebody waits.
    let address = source.address("quick");
    source.wait_for_service("slow", "the one that was too slow", |service| {
        echo(&mut dial(address), 2, 1000);
        service.counts.too_slow == 1
    });
    echo(&mut beside, 3, 1 << 20);
    let got = prefix(&mut lazy, 1, 64 << 20).unwrap();
    assert!(got < 64 << 20, "all of {got} bytes");
    assert_eq!((source.ready(), destination.ready()), (1, 1), "both sessions live on");
}

/// The patience here is less than what it takes, and a pong comes later than its deadline: all that does not matter.
#[test]
fn a_lone_slow_reader_gets_all_of_it() {
    let service = Service::start();
    let length = 6 << 20;
    let slow = App::start(Does::Dawdles(1, 16 * 1024, Duration::from_millis(10)));
    let tunnel = service.tunnel(&["slow"]);
    let limits = Limits { patience: Duration::from_secs(1), queue: 256 * 1024, ..Limits::default() };
    let destination = Ours::start(&service, &tunnel, Mode::Destination, |setup| {
        setup.services = named(&[("slow", slow.port())]);
        (setup.limits, setup.period, setup.timeout) = (limits, Duration::from_millis(500), Duration::from_secs(1));
    });
    tunnel.destination().wait_for_session(1);
    let source = Ours::start(&service, &tunnel, Mode::Source, |setup| {
        (setup.limits, setup.period, setup.timeout) = (limits, Duration::from_millis(500), Duration::from_secs(1));
    });
    let mut client = dial(source.address("slow"));
    send(&mut client, 1, length).unwrap();
    wait_for("everything", || slow.read() == length);
    assert_eq!((source.ends(), destination.ends()), (vec![], vec![]));
}

/// Whatever waited for the application goes out in one piece as soon as it reads: from then on the service is heard again, though
/// nothing else happens that could remind of it. Pings would, so there are none.
#[test]
fn who_was_not_heard_for_a_moment_is_heard_again_without_a_reminder() {
    let service = Service::start();
    let length = 24 << 20;
    let slow = App::start(Does::Dawdles(1, 64 * 1024, Duration::from_millis(2)));
    let tunnel = service.tunnel(&["slow"]);
    let limits = Limits { queue: 64 * 1024, ..Limits::default() };
    let destination = Ours::start(&service, &tunnel, Mode::Destination, |setup| {
        setup.services = named(&[("slow", slow.port())]);
        (setup.limits, setup.period) = (limits, Duration::ZERO);
    });
    tunnel.destination().wait_for_session(1);
    let source = Ours::start(&service, &tunnel, Mode::Source, |setup| {
        (setup.limits, setup.period) = (limits, Duration::ZERO);
    });
    let mut client = dial(source.address("slow"));
    send(&mut client, 1, length).unwrap();
    wait_for("everything", || slow.read() == length);
    assert_eq!((source.ends(), destination.ends()), (vec![], vec![]));
}

#[test]
fn a_lone_slow_client_gets_all_of_it() {
    let service = Service::start();
    let length = 6 << 20;
    let spring = App::start(Does::Sends(1, length));
    let tunnel = service.tunnel(&["slow"]);
    let limits = Limits { patience: Duration::from_secs(1), queue: 256 * 1024, ..Limits::default() };
    let destination = Ours::start(&service, &tunnel, Mode::Destination, |setup| {
        setup.services = named(&[("slow", spring.port())]);
        (setup.limits, setup.period, setup.timeout) = (limits, Duration::from_millis(500), Duration::from_secs(1));
    });
    tunnel.destination().wait_for_session(1);
    let source = Ours::start(&service, &tunnel, Mode::Source, |setup| {
        (setup.limits, setup.period, setup.timeout) = (limits, Duration::from_millis(500), Duration::from_secs(1));
    });
    let client = dial(source.address("slow"));
    let mut dawdling = Dawdling(client);
    receive(&mut dawdling, 1, length);
    assert_eq!((source.ends(), destination.ends()), (vec![], vec![]));
}

/// Reads little, and then rests.
struct Dawdling(std::net::TcpStream);

impl std::io::Read for Dawdling {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        std::thread::sleep(Duration::from_millis(10));
        let most = buffer.len().min(16 * 1024);
        self.0.read(&mut buffer[..most])
    }
}

/// D2: what an application pushes while the service reads nothing stays with the application.
#[test]
fn when_the_service_stops_reading_so_do_we() {
    let service = Service::start();
    let app = App::start(Does::Checks(1));
    let (tunnel, source, _destination) = pair(&service, app.port(), Compat::V3, Subprotocol::V3);
    tunnel.source().stop_reading();
    let mut client = dial(source.address("SSH"));
    let length = 64_u64 << 20;
    let pushed = std::thread::spawn(move || {
        let outcome = send(&mut client, 1, length);
        (outcome.is_ok(), client)
    });
    // It settles: the kernel's buffers are full, and ours.
    let taken = settles(|| source.service("SSH").counts.tx_bytes);
    crate::common::figure(&format!(
        "of 64 MB pushed at a service that does not read, {} kB were taken from the application",
        taken / 1024
    ));
    assert!(taken < 32 << 20, "{taken} bytes were taken");
    assert!(!pushed.is_finished());
    tunnel.source().resume();
    let (sent, client) = pushed.join().unwrap();
    assert!(sent);
    wait_for("all of it", || app.read() == length);
    drop(client);
}

/// The value once it has not changed for a while.
pub fn settles(mut value: impl FnMut() -> u64) -> u64 {
    let (mut last, mut same) = (value(), 0);
    while same < 50 {
        std::thread::sleep(Duration::from_millis(20));
        let now = value();
        same = if now == last && now > 0 { same + 1 } else { 0 };
        last = now;
    }
    last
}

#[test]
fn in_the_destination_too() {
    let service = Service::start();
    let length = 100_u64 << 20;
    let app = App::start(Does::Sends(1, length));
    let (tunnel, source, destination) = pair(&service, app.port(), Compat::V3, Subprotocol::V3);
    tunnel.destination().stop_reading();
    let mut client = dial(source.address("SSH"));
    let taken = settles(|| destination.service("SSH").counts.tx_bytes);
    assert!(taken < 64 << 20, "{taken} bytes were taken");
    tunnel.destination().resume();
    receive(&mut client, 1, length);
}
