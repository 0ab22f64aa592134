//! Credentials that come, are renewed or end, and a system that sleeps: what the daemon makes of it without being told.

use super::{MANAGER, OWN, ROUTER, World, ping, story};
use crate::common::bus::{daemon_user, stdout};
use crate::common::certs::{Ca, EXPIRED, Identity, Leaf};
use crate::common::logind::Logind;
use crate::common::netns::sh;
use crate::common::wait_for;
use enftun::identity::day;
use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The first certificates say that they are good for so long; the renewed ones do not.
const NEXT_CENTURY: (&str, &str) = ("20200101000000Z", "21991231235959Z");
const A_DAY: u64 = 86_400;

/// A retry that nobody waits for.
const IN_AN_HOUR: &str = "max = \"1h\"\njitter = 0.0";

/// Who signs, so that certificates can be renewed. It replaces the world's own.
struct Operator {
    ca: Ca,
}

impl Operator {
    fn new(world: &mut World) -> Self {
        let ca = Ca::v3("Test Root");
        ca.write(world.path(), "etc/ca");
        let operator = Self { ca };
        operator.router(world, Leaf::new("router.example.net"));
        operator.put(world, &operator.client(NEXT_CENTURY.0, "20991231235959Z"));
        operator
    }

    /// A router with this certificate.
    fn router(&self, world: &mut World, leaf: Leaf) {
        world.router = None;
        self.ca.sign_v3(leaf.dns("router.example.net")).write(world.path(), "router");
        world.start_router();
    }

    fn client(&self, from: &str, to: &str) -> Identity {
        let for_ever = |text: &str| -> &'static str { text.to_owned().leak() };
        self.ca.sign_v3(Leaf::new(OWN).ip(OWN).valid((for_ever(from), for_ever(to))))
    }

    /// Puts files there as a careful program does: written beside, and renamed over the old ones.
    fn put(&self, world: &World, client: &Identity) {
        let directory = world.path().join("etc");
        let (cert, key) = client.write(&directory, "new");
        chown(&key, Some(daemon_user()), None).unwrap();
        std::fs::rename(cert, cert_file(world)).unwrap();
        std::fs::rename(key, key_file(world)).unwrap();
    }
}

fn cert_file(world: &World) -> PathBuf {
    world.path().join("etc/client.crt.pem")
}

fn key_file(world: &World) -> PathBuf {
    world.path().join("etc/client.key.pem")
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// The day in so many days, as a certificate writes it.
fn in_days(days: u64) -> String {
    day(i64::try_from(now() + days * A_DAY).unwrap()).replace('-', "") + "000000Z"
}

impl World {
    /// Where the router's sessions come from; those that a newer one has replaced may stay a while.
    fn peers(&self) -> Vec<String> {
        let status: serde_json::Value = serde_json::from_str(&stdout(self.router_status())).unwrap();
        let sessions = status["sessions"].as_array().unwrap();
        let present = sessions.iter().filter(|session| session["phase"] == "present");
        present.map(|session| session["peer"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until the router has a session that is none of these.
    #[track_caller]
    fn another_session(&self, before: &[String]) {
        wait_for("another session in the router", || {
            let peers = self.peers();
            peers.len() == 1 && !before.contains(&peers[0])
        });
    }

    /// The certificate's end as the live session has it.
    fn not_after(&self) -> i64 {
        self.status()["tls"]["local_not_after"].as_i64().unwrap()
    }

    fn warnings(&self) -> String {
        stdout(self.bus.busctl(&["get-property", MANAGER[0], MANAGER[1], MANAGER[2], "Warnings"]))
    }

    /// Handshakes that the router saw fail, and connections that it saw at all.
    fn is_asked(&self) -> bool {
        let status: serde_json::Value = serde_json::from_str(&stdout(self.router_status())).unwrap();
        status["totals"]["handshakes_failed"] != 0 || status["sessions"] != serde_json::json!([])
    }
}

/// A connection through the tunnel, and its far end, which sends back what it gets.
struct Inner(TcpStream);

impl Inner {
    fn new(world: &World) -> Self {
        let router = SocketAddr::from((ROUTER.parse::<Ipv6Addr>().unwrap(), 7777));
        let listener = world.far.run(|| TcpListener::bind(router).unwrap());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = [0; 4096];
            while let Ok(length) = stream.read(&mut buffer)
                && length > 0
                && stream.write_all(&buffer[..length]).is_ok()
            {}
        });
        let stream = TcpStream::connect(router).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self(stream)
    }

    /// There and back again.
    fn exchange(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).unwrap();
        let mut back = vec![0; text.len()];
        self.0.read_exact(&mut back).unwrap();
        assert_eq!(back, text.as_bytes());
    }
}

#[test]
fn a_tunnel_without_good_credentials_waits_and_goes_on_when_they_are_put_there() {
    let test = "a_tunnel_without_good_credentials_waits_and_goes_on_when_they_are_put_there";
    story(test, |world| {
        let operator = Operator::new(world);
        world.write_tunnel("enf0", IN_AN_HOUR, "prefixes = [\"fd00:8f80::/32\"]");
        stdout(world.ctl(&["reload"]));
        let good = operator.client("20200101000000Z", "20991231235959Z");
        let expired = operator.client(EXPIRED.0, EXPIRED.1);
        let files = |world: &World| [cert_file(world), key_file(world)];
        type Mischief<'a> = Box<dyn Fn(&World) + 'a>;
        let stories: [(&str, Mischief<'_>); 4] = [
            ("certificate-expired", Box::new(|world| operator.put(world, &expired))),
            (
                "credentials-missing",
                Box::new(|world| files(world).iter().for_each(|file| std::fs::remove_file(file).unwrap())),
            ),
            ("credentials-missing", Box::new(|world| std::fs::remove_file(key_file(world)).unwrap())),
            (
                "key-mismatch",
                Box::new(|world| drop(std::fs::copy(world.path().join("router.key.pem"), key_file(world)))),
            ),
        ];
        for (reason, spoil) in &stories {
            operator.put(world, &good);
            spoil(world);
            stdout(world.ctl(&["connect", "enf0"]));
            stdout(world.ctl(&["wait", "enf0", "error", "--timeout=30s"]));
            let status = world.status();
            assert_eq!(status["state_reason"], *reason, "{status:#}");
            // The next attempt is in an hour; nobody has asked the router, and nobody does meanwhile.
            let next = status["next_attempt"].as_u64().unwrap() / 1_000_000;
            assert!(next > now() + 1800, "{status:#}");
            assert!(!world.is_asked());
            let attempts = status["attempt"].clone();
            std::fs::write(world.path().join("etc/unrelated"), "").unwrap();
            assert_eq!(world.status()["attempt"], attempts, "it tries again and again");

            operator.put(world, &good);
            stdout(world.ctl(&["wait", "enf0", "connected", "--timeout=30s"]));
            assert!(ping(ROUTER));
            stdout(world.ctl(&["disconnect", "enf0"]));
            stdout(world.ctl(&["wait", "enf0", "disconnected", "--timeout=30s"]));
            wait_for("the session to be over", || world.peers().is_empty());
        }
        // Rights alone are enough: the key was open to others.
        sh(&format!("chmod 644 {}", key_file(world).display()));
        stdout(world.ctl(&["connect", "enf0"]));
        stdout(world.ctl(&["wait", "enf0", "error", "--timeout=30s"]));
        sh(&format!("chmod 600 {}", key_file(world).display()));
        stdout(world.ctl(&["wait", "enf0", "connected", "--timeout=30s"]));
    });
}

#[test]
fn renewed_credentials_are_taken_by_a_live_tunnel_and_a_running_connection_goes_on() {
    let test = "renewed_credentials_are_taken_by_a_live_tunnel_and_a_running_connection_goes_on";
    story(test, |world| {
        let operator = Operator::new(world);
        world.connect();
        let mut inner = Inner::new(world);
        inner.exchange("before");
        let since = world.status()["state_since"].clone();
        for (number, year) in ["2101", "2102", "2103"].iter().enumerate() {
            let (peers, not_after) = (world.peers(), world.not_after());
            operator.put(world, &operator.client("20200101000000Z", &format!("{year}0101000000Z")));
            world.another_session(&peers);
            wait_for("the new certificate", || world.not_after() > not_after);
            inner.exchange(&format!("renewal {number}"));
        }
        assert_eq!(world.status()["state_since"], since, "it was connected all the time");
        // Written anew and the same is nothing new. Longer than a change is kept back; then another, which is seen.
        let changes = |world: &World| world.log().matches("changed on disk").count();
        let (before, peers) = (changes(world), world.peers());
        sh(&format!("touch {}", cert_file(world).display()));
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(world.peers(), peers);
        operator.put(world, &operator.client("20200101000000Z", "21040101000000Z"));
        world.another_session(&peers);
        assert_eq!(changes(world), before + 1);
        inner.exchange("after all");
    });
}

#[test]
fn a_renewal_that_is_half_done_or_wrong_leaves_the_session_and_is_told() {
    story("a_renewal_that_is_half_done_or_wrong_leaves_the_session_and_is_told", |world| {
        let operator = Operator::new(world);
        world.connect();
        let mut inner = Inner::new(world);
        let peers = world.peers();
        assert!(!world.warnings().contains("not-renewed"));
        let renewed = operator.client("20200101000000Z", "21010101000000Z");
        // The certificate alone: the key is still that of the old one.
        std::fs::write(cert_file(world), &renewed.cert_pem).unwrap();
        wait_for("the warning", || world.warnings().contains("not-renewed"));
        inner.exchange("on the old session");
        assert_eq!(world.peers(), peers);
        let status = world.status();
        assert_eq!((&status["state"], &status["last_error"]), (&"connected".into(), &serde_json::Value::Null));

        std::fs::write(key_file(world), &renewed.key_pem).unwrap();
        world.another_session(&peers);
        wait_for("no warning", || !world.warnings().contains("not-renewed"));
        inner.exchange("on the new session");
    });
}

#[test]
fn the_end_of_both_certificates_is_a_warning_on_the_bus_before_it_comes() {
    story("the_end_of_both_certificates_is_a_warning_on_the_bus_before_it_comes", |world| {
        let operator = Operator::new(world);
        world.connect();
        for code in ["certificate-expires", "router-certificate-expires"] {
            assert!(!world.warnings().contains(code), "{}", world.warnings());
        }
        // Between thirty days and seven before, and less.
        for (days, severity) in [(20, "warning"), (3, "error")] {
            operator.put(world, &operator.client("20200101000000Z", &in_days(days)));
            let told = format!("\"code\" s \"certificate-expires\" \"severity\" s \"{severity}\"");
            wait_for(&told, || world.warnings().contains(&told));
            assert!(world.warnings().contains("\"tunnel\" s \"enf0\""));
        }
        operator.put(world, &operator.client("20200101000000Z", &in_days(40)));
        wait_for("no warning any more", || !world.warnings().contains("certificate-expires"));

        let leaf = Leaf::new("router.example.net").valid(("20200101000000Z", in_days(20).leak()));
        operator.router(world, leaf);
        let told = "\"code\" s \"router-certificate-expires\" \"severity\" s \"warning\"";
        wait_for(told, || world.warnings().contains(told));
    });
}

#[test]
fn a_system_that_wakes_up_gets_a_new_session_at_once() {
    let test = "a_system_that_wakes_up_gets_a_new_session_at_once";
    story(test, |world| {
        let Some(logind) = Logind::start(test, &world.bus) else { return };
        let _operator = Operator::new(world);
        world.connect();
        assert!(ping(ROUTER));
        let peers = world.peers();
        logind.prepare_for_sleep(&world.bus, true);
        // Meanwhile some box on the way forgot the connection, and says so to nobody.
        let port = peers[0].rsplit_once(':').unwrap().1;
        let forget = format!(
            "nft 'table inet box {{ chain in {{ type filter hook input priority 0; tcp sport {port} drop; }}; }}'"
        );
        world.far.exec(&forget);
        assert!(!ping(ROUTER), "the old session is dead, and nothing tells");
        let since = world.status()["state_since"].clone();
        logind.prepare_for_sleep(&world.bus, false);
        wait_for("packets through another session", || {
            world.peers().iter().any(|peer| !peers.contains(peer)) && ping(ROUTER)
        });
        let status = world.status();
        assert_eq!((&status["state"], &status["state_since"]), (&"connected".into(), &since));
        // The goodbye of the dead session may arrive: the router would wait for it a minute.
        world.far.exec("nft delete table inet box");
        // And again, and again: a lid that is opened for a moment.
        for _ in 0..2 {
            let peers = world.peers();
            logind.prepare_for_sleep(&world.bus, true);
            logind.prepare_for_sleep(&world.bus, false);
            world.another_session(&peers);
        }
    });
}

#[test]
fn waking_up_ends_a_wait_for_the_next_attempt() {
    let test = "waking_up_ends_a_wait_for_the_next_attempt";
    story(test, |world| {
        let Some(logind) = Logind::start(test, &world.bus) else { return };
        world.write_tunnel("enf0", IN_AN_HOUR, "prefixes = [\"fd00:8f80::/32\"]");
        sh(&format!("sed -i 's/^first = .*/first = \"1h\"/' {}", world.tunnel_file("enf0").display()));
        stdout(world.ctl(&["reload"]));
        world.router = None;
        stdout(world.ctl(&["connect", "enf0"]));
        stdout(world.ctl(&["wait", "enf0", "reconnecting", "--timeout=30s"]));
        world.start_router();
        let next = world.status()["next_attempt"].as_u64().unwrap() / 1_000_000;
        assert!(next > now() + 1800, "nothing else ends the wait");
        logind.prepare_for_sleep(&world.bus, true);
        assert_eq!(world.status()["state"], "reconnecting", "that it falls asleep is no reason");
        logind.prepare_for_sleep(&world.bus, false);
        stdout(world.ctl(&["wait", "enf0", "connected", "--timeout=30s"]));
    });
}
