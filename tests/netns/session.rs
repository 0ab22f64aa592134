//! A tunnel against far ends of every kind: each case ends in the right state, with the right reason and message. The
//! program is `enftunctl run`, the kernel and TLS are real; only the far end is made to misbehave.

use crate::common::certs::{Ca, Identity, Leaf, write};
use crate::common::client::Tunnel;
use crate::common::fake_router::{FakeRouter, Manners, client_address, server};
use crate::common::netns::{Netns, in_netns_with_tun, ip, state_of_host, veth};
use crate::common::{schema, skip, wait_for};
use enftun::tunnel::enf::packet::{ROUTER, icmpv6_echo};
use rustls::version::{TLS12, TLS13};
use rustls::{ALL_VERSIONS, SupportedProtocolVersion};
use std::process::Command;

const ONLY_12: &[&SupportedProtocolVersion] = &[&TLS12];
const ONLY_13: &[&SupportedProtocolVersion] = &[&TLS13];
const PAST: (&str, &str) = ("20200101000000Z", "20210101000000Z");
const FUTURE: (&str, &str) = ("21000101000000Z", "21500101000000Z");

/// Good credentials on both sides, to be bent by each test.
struct World {
    ca: Ca,
    router: Identity,
    client: Identity,
}

impl World {
    fn v3() -> Self {
        let ca = Ca::v3("Test Root");
        let router = ca.sign_v3(Leaf::new("router.example.net").dns("router.example.net"));
        let client = ca.sign_v3(Leaf::new("fd00:8f80:1::1234").ip("fd00:8f80:1::1234"));
        Self { ca, router, client }
    }

    fn v1() -> Self {
        let ca = Ca::v1("Test Root");
        let (router, client) = (ca.sign_v1("router.example.net"), ca.sign_v1("fd008f80000100000000000000001234"));
        Self { ca, router, client }
    }

    fn config(&self) -> std::sync::Arc<rustls::ServerConfig> {
        server(&self.router, &self.router, ALL_VERSIONS)
    }

    fn tunnel_to(&self, router: &FakeRouter) -> Tunnel {
        Tunnel::new(&router.address.to_string(), &self.ca, &self.client)
    }
}

/// Runs one tunnel against one far end until `state`, and checks what is said.
#[track_caller]
fn expect(world: &World, manners: Manners, bend: impl Fn(Tunnel) -> Tunnel, state: &str, reason: &str, text: &str) {
    let router = FakeRouter::start(manners);
    let mut run = bend(world.tunnel_to(&router)).run();
    let change = run.until(state);
    assert_eq!(change.reason, reason, "{change:#?}");
    assert!(change.error.contains(text), "{:?} does not contain {text:?}", change.error);
}

fn as_is(tunnel: Tunnel) -> Tunnel {
    tunnel
}

fn connects(
    test: &str,
    world: impl FnOnce() -> World + Send,
    versions: &'static [&'static SupportedProtocolVersion],
    word: &str,
) {
    in_netns_with_tun(test, || {
        let world = world();
        let router = FakeRouter::start(Manners::Good(server(&world.router, &world.router, versions)));
        let before = state_of_host();
        let mut run = world.tunnel_to(&router).remote("name = \"router.example.net\"").run();
        let change = run.until("connected");
        assert_eq!(change.line["addresses"][0], "fd00:8f80:1::1234/128", "{change:#?}");
        assert_eq!(change.line["tls"]["version"], word);
        assert!(ip("-6 addr show dev enf0").contains(&format!("{}/128", client_address())));
        assert_eq!(run.interrupt(), Some(0));
        assert_eq!(state_of_host(), before, "Ctrl-C leaves nothing behind");
    });
}

#[test]
fn v3_certificates_connect_over_tls_1_3() {
    connects("v3_certificates_connect_over_tls_1_3", World::v3, ONLY_13, "TLSv1.3");
}

#[test]
fn v3_certificates_connect_over_tls_1_2() {
    connects("v3_certificates_connect_over_tls_1_2", World::v3, ONLY_12, "TLSv1.2");
}

#[test]
fn v1_certificates_connect_over_tls_1_3() {
    connects("v1_certificates_connect_over_tls_1_3", World::v1, ONLY_13, "TLSv1.3");
}

#[test]
fn v1_certificates_connect_over_tls_1_2() {
    connects("v1_certificates_connect_over_tls_1_2", World::v1, ONLY_12, "TLSv1.2");
}

#[test]
fn a_router_under_another_ca_is_not_trusted() {
    in_netns_with_tun("a_router_under_another_ca_is_not_trusted", || {
        let world = World { router: Ca::v3("Other Root").sign_v3(Leaf::new("r").dns("r")), ..World::v3() };
        expect(&world, Manners::Good(world.config()), as_is, "error", "certificate-untrusted", "CA");
        let world = World { router: Ca::v1("Other Root").sign_v1("r"), ..World::v1() };
        expect(&world, Manners::Good(world.config()), as_is, "error", "certificate-untrusted", "CA");
    });
}

#[test]
fn the_same_issuer_name_with_another_key_is_not_trusted() {
    in_netns_with_tun("the_same_issuer_name_with_another_key_is_not_trusted", || {
        let world = World { router: Ca::v3("Test Root").sign_v3(Leaf::new("r").dns("r")), ..World::v3() };
        expect(&world, Manners::Good(world.config()), as_is, "error", "certificate-untrusted", "");
        let world = World { router: Ca::v1("Test Root").sign_v1("r"), ..World::v1() };
        expect(&world, Manners::Good(world.config()), as_is, "error", "certificate-untrusted", "");
    });
}

#[test]
fn a_leaf_may_not_sign_a_leaf() {
    in_netns_with_tun("a_leaf_may_not_sign_a_leaf", || {
        let good = World::v1();
        let middle = good.ca.sign_v1("some device");
        let world = World { router: middle.as_issuer().sign_v1("router.example.net").with_chain(&[&middle]), ..good };
        expect(&world, Manners::Good(world.config()), as_is, "error", "certificate-untrusted", "");
        let good = World::v3();
        let middle = good.ca.sign_v3(Leaf::new("some device").not_ca());
        let router = middle.as_issuer().sign_v3(Leaf::new("r").dns("r")).with_chain(&[&middle]);
        let world = World { router, ..good };
        expect(&world, Manners::Good(world.config()), as_is, "error", "certificate-untrusted", "");
    });
}

#[test]
fn a_router_that_does_not_have_the_key_of_its_certificate_is_not_trusted() {
    in_netns_with_tun("a_router_that_does_not_have_the_key_of_its_certificate_is_not_trusted", || {
        for world in [World::v3(), World::v1()] {
            for versions in [ONLY_12, ONLY_13] {
                let thief = server(&world.router, &world.client, versions);
                expect(&world, Manners::Good(thief), as_is, "error", "certificate-untrusted", "signature");
            }
        }
    });
}

#[test]
fn another_name_in_the_certificate_is_said_with_both_names() {
    in_netns_with_tun("another_name_in_the_certificate_is_said_with_both_names", || {
        for world in [World::v3(), World::v1()] {
            let named = |tunnel: Tunnel| tunnel.remote("name = \"other.example.net\"");
            expect(&world, Manners::Good(world.config()), named, "error", "certificate-name", "other.example.net");
        }
    });
}

#[test]
fn a_device_cannot_play_the_router() {
    in_netns_with_tun("a_device_cannot_play_the_router", || {
        let good = World::v3();
        let device = good.ca.sign_v3(Leaf::new("fd00:8f80:1::99").ip("fd00:8f80:1::99"));
        let world = World { router: device, ..good };
        expect(&world, Manners::Good(world.config()), as_is, "error", "certificate-untrusted", "remote.name");
        let good = World::v1();
        let device = good.ca.sign_v1("fd008f80000100000000000000000099");
        let world = World { router: device, ..good };
        expect(&world, Manners::Good(world.config()), as_is, "error", "certificate-untrusted", "remote.name");
        let good = World::v3();
        let client_only = good.ca.sign_v3(Leaf::new("sensor").dns("sensor").client_only());
        let world = World { router: client_only, ..good };
        expect(&world, Manners::Good(world.config()), as_is, "error", "certificate-untrusted", "");
    });
}

#[test]
fn an_expired_router_certificate_is_said_to_be_expired() {
    in_netns_with_tun("an_expired_router_certificate_is_said_to_be_expired", || {
        let good = World::v3();
        let world = World { router: good.ca.sign_v3(Leaf::new("r").dns("r").valid(PAST)), ..good };
        expect(&world, Manners::Good(world.config()), as_is, "error", "certificate-expired", "expired");
        let good = World::v1();
        let world = World { router: good.ca.sign_v1(Leaf::new("r").valid(PAST)), ..good };
        expect(&world, Manners::Good(world.config()), as_is, "error", "certificate-expired", "expired");
    });
}

#[test]
fn a_router_certificate_of_the_future_is_said_to_be_not_yet_valid() {
    in_netns_with_tun("a_router_certificate_of_the_future_is_said_to_be_not_yet_valid", || {
        let good = World::v1();
        let world = World { router: good.ca.sign_v1(Leaf::new("r").valid(FUTURE)), ..good };
        expect(&world, Manners::Good(world.config()), as_is, "error", "certificate-not-yet-valid", "2100");
    });
}

#[test]
fn own_credentials_are_judged_before_anything_is_dialled() {
    in_netns_with_tun("own_credentials_are_judged_before_anything_is_dialled", || {
        let good = World::v3();
        let router = FakeRouter::start(Manners::Good(good.config()));
        let leaf = || Leaf::new("fd00:8f80:1::1234").ip("fd00:8f80:1::1234");
        let mut other_key = good.client.clone();
        other_key.key_pem = good.router.key_pem.clone();
        for (client, reason, text) in [
            (good.ca.sign_v3(leaf().valid(PAST)), "certificate-expired", "2021"),
            (good.ca.sign_v3(leaf().valid(FUTURE)), "certificate-not-yet-valid", "2100"),
            (other_key, "key-mismatch", "client.key.pem"),
            (good.ca.sign_v3(Leaf::new("no address")), "credentials-missing", "address"),
        ] {
            let mut run = Tunnel::new(&router.address.to_string(), &good.ca, &client).run();
            let change = run.until("error");
            assert_eq!(change.reason, reason, "{change:#?}");
            assert!(change.error.contains(text), "{:?} does not contain {text:?}", change.error);
        }
        assert_eq!(router.connections(), 0);
        // The router was there all the time.
        good.tunnel_to(&router).run().until("connected");
    });
}

#[test]
fn credentials_are_read_again_for_every_attempt() {
    in_netns_with_tun("credentials_are_read_again_for_every_attempt", || {
        let good = World::v3();
        let router = FakeRouter::start(Manners::Good(good.config()));
        let tunnel = good.tunnel_to(&router);
        std::fs::remove_file(tunnel.path().join("client.crt.pem")).unwrap();
        let mut run = tunnel.run();
        assert_eq!(run.until("error").reason, "credentials-missing");
        good.client.write(tunnel.path(), "client");
        run.until("connected");
    });
}

#[test]
fn a_key_that_others_can_read_is_refused_with_the_command_that_mends_it() {
    in_netns_with_tun("a_key_that_others_can_read_is_refused_with_the_command_that_mends_it", || {
        use std::os::unix::fs::PermissionsExt;
        let good = World::v3();
        let router = FakeRouter::start(Manners::Good(good.config()));
        let tunnel = good.tunnel_to(&router);
        let key = tunnel.path().join("client.key.pem");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        let change = tunnel.run().until("error");
        assert!(change.error.contains("chmod") && change.error.contains("client.key.pem"), "{change:#?}");
    });
}

#[test]
fn systemd_credentials_come_before_files_and_may_be_read_by_the_group() {
    in_netns_with_tun("systemd_credentials_come_before_files_and_may_be_read_by_the_group", || {
        let world = World::v3();
        let router = FakeRouter::start(Manners::Good(world.config()));
        let tunnel = world.tunnel_to(&router);
        // What the files hold does not fit.
        Ca::v3("Other Root").sign_v3(Leaf::new("fd00::1").ip("fd00::1")).write(tunnel.path(), "client");
        let passed = tempfile::tempdir().unwrap();
        let pass = |name: &str, content: &str, mode| write(&passed.path().join(name), content.as_bytes(), mode);
        pass("enf0.crt", &world.client.cert_pem, 0o440);
        pass("enf0.key", &world.client.key_pem, 0o440);
        let start = || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_enftunctl"));
            tunnel.start(tunnel.run_command(&mut command).env("CREDENTIALS_DIRECTORY", passed.path()))
        };
        let mut run = start();
        let change = run.until("connected");
        assert_eq!(change.line["addresses"][0], "fd00:8f80:1::1234/128", "{change:#?}");
        assert_eq!(run.interrupt(), Some(0));

        pass("enf0.key", &world.client.key_pem, 0o444);
        let mut run = start();
        let change = run.until("error");
        assert!(change.error.contains("enf0.key is open to others"), "{}", change.error);
        assert_eq!(run.interrupt(), Some(0));

        // One of the two is a mistake, and no reason to look elsewhere.
        std::fs::remove_file(passed.path().join("enf0.key")).unwrap();
        let mut run = start();
        let change = run.until("error");
        assert_eq!(change.reason, "credentials-missing");
        assert!(change.error.contains("enf0.key"), "{}", change.error);
    });
}

#[test]
fn a_router_that_refuses_the_certificate_by_an_alert_gives_auth_failed() {
    in_netns_with_tun("a_router_that_refuses_the_certificate_by_an_alert_gives_auth_failed", || {
        for versions in [ONLY_12, ONLY_13] {
            let good = World::v3();
            let world = World { client: Ca::v3("Other Root").sign_v3(Leaf::new("fd00:8f80:1::1234")), ..good };
            let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let mut anchors = rustls::RootCertStore::empty();
            anchors.add(world.ca.identity.cert_der.clone()).unwrap();
            let verifier =
                rustls::server::WebPkiClientVerifier::builder_with_provider(anchors.into(), provider.clone())
                    .build()
                    .unwrap();
            let strict = rustls::ServerConfig::builder_with_provider(provider)
                .with_protocol_versions(versions)
                .unwrap()
                .with_client_cert_verifier(verifier)
                .with_cert_resolver(world.config().cert_resolver.clone());
            expect(&world, Manners::Good(strict.into()), as_is, "error", "auth-failed", "refuse");
        }
    });
}

#[test]
fn three_sessions_closed_before_their_first_frame_give_auth_failed() {
    in_netns_with_tun("three_sessions_closed_before_their_first_frame_give_auth_failed", || {
        let world = World::v3();
        let router = FakeRouter::start(Manners::Refuses(world.config()));
        let mut run = world.tunnel_to(&router).run();
        let change = run.until("error");
        assert_eq!((change.reason.as_str(), router.connections()), ("auth-failed", 3), "{change:#?}");
        let before: Vec<&str> =
            run.seen.iter().filter(|c| c.state == "reconnecting").map(|c| c.reason.as_str()).collect();
        assert_eq!(before, ["remote-closed", "remote-closed"]);
    });
}

#[test]
fn a_router_that_is_silent_times_out_at_each_step() {
    in_netns_with_tun("a_router_that_is_silent_times_out_at_each_step", || {
        let world = World::v3();
        expect(&world, Manners::Silent, as_is, "reconnecting", "timeout", "handshake");
        let mute = Manners::Babbles(world.config(), Vec::new());
        expect(&world, mute, as_is, "reconnecting", "heartbeat-timeout", "heartbeat");
    });
}

#[test]
fn junk_frames_are_no_sign_of_life() {
    in_netns_with_tun("junk_frames_are_no_sign_of_life", || {
        let world = World::v3();
        let own = client_address();
        let junk = vec![
            Vec::new(),
            vec![0xff; 100],
            icmpv6_echo(own, own, 128, b"\0\0\0\0"),
            icmpv6_echo("::1".parse().unwrap(), own, 128, b"\0\0\0\0"),
            icmpv6_echo("fe80::2".parse().unwrap(), own, 129, b"ENFT"),
            icmpv6_echo(ROUTER, "fd00::9".parse().unwrap(), 129, b"ENFT"),
        ];
        let babbler = Manners::Babbles(world.config(), junk);
        expect(&world, babbler, as_is, "reconnecting", "heartbeat-timeout", "heartbeat");
    });
}

#[test]
fn what_is_no_enf_wire_is_a_protocol_error() {
    in_netns_with_tun("what_is_no_enf_wire_is_a_protocol_error", || {
        let world = World::v3();
        expect(&world, Manners::NoTls, as_is, "reconnecting", "protocol-error", "TLS");
        let too_long = Manners::Sends(world.config(), vec![0x05, 0xd9, 0x60]);
        expect(&world, too_long, as_is, "reconnecting", "protocol-error", "1497");
    });
}

#[test]
fn nobody_there_and_no_network_are_told_apart() {
    in_netns_with_tun("nobody_there_and_no_network_are_told_apart", || {
        let world = World::v3();
        for (host, reason) in [("[::1]:9", "unreachable"), ("192.0.2.1:443", "no-network")] {
            let change = Tunnel::new(host, &world.ca, &world.client).run().until("reconnecting");
            assert_eq!(change.reason, reason, "{change:#?}");
        }
    });
}

#[test]
fn a_remote_that_answers_nothing_at_all_is_given_up_in_time() {
    in_netns_with_tun("a_remote_that_answers_nothing_at_all_is_given_up_in_time", || {
        let world = World::v3();
        let far = Netns::new();
        veth(&Netns::here(), "lan0", &far, "wan0");
        ip("addr add 192.0.2.1/24 dev lan0");
        // It has the address, so that packets arrive, and throws them away.
        far.exec("ip addr add 192.0.2.2/24 dev wan0; nft 'table ip t { chain i { type filter hook input priority 0; tcp dport 443 drop; }; }'");
        let change = Tunnel::new("192.0.2.2:443", &world.ca, &world.client).run().until("reconnecting");
        assert_eq!(change.reason, "timeout", "{change:#?}");
        assert!(change.error.contains("192.0.2.2:443 did not accept a connection within 2s"), "{change:#?}");
    });
}

#[test]
fn a_dead_remote_does_not_keep_the_next_one_from_being_tried() {
    in_netns_with_tun("a_dead_remote_does_not_keep_the_next_one_from_being_tried", || {
        let world = World::v3();
        let router = FakeRouter::start(Manners::Good(world.config()));
        let mut tunnel = world.tunnel_to(&router);
        tunnel.remote = tunnel.remote.replace("hosts = [", "hosts = [\"[::1]:9\", \"192.0.2.1\", ");
        let change = tunnel.run().until("connected");
        assert_eq!(change.line["active_remote"], router.address.to_string());
    });
}

#[test]
fn a_device_deleted_under_a_live_session_is_made_again() {
    in_netns_with_tun("a_device_deleted_under_a_live_session_is_made_again", || {
        let world = World::v3();
        let router = FakeRouter::start(Manners::Good(world.config()));
        let mut run = world.tunnel_to(&router).run();
        run.until("connected");
        ip("link delete enf0");
        assert_eq!(run.until("reconnecting").reason, "link-lost");
        run.until("connected");
        assert!(ip("link show enf0").contains("LOWER_UP"));
    });
}

#[test]
fn a_device_that_is_down_loses_packets_and_not_the_session() {
    in_netns_with_tun("a_device_that_is_down_loses_packets_and_not_the_session", || {
        let world = World::v3();
        let ping = icmpv6_echo("fd00:8f80:1::9".parse().unwrap(), client_address(), 128, b"\0\0\0\0");
        let heartbeats =
            enftun::tunnel::enf::packet::echo_reply(&enftun::tunnel::enf::heartbeat::request(client_address()), ROUTER);
        let router = FakeRouter::start(Manners::Babbles(world.config(), vec![ping, heartbeats.unwrap()]));
        let mut run = world.tunnel_to(&router).run();
        run.until("connected");
        ip("link set enf0 down");
        // The session lives on while packets for the host meet EIO: no new connection is made, and traffic flows once the
        // device is up again.
        let received = || {
            ip("-s link show enf0").lines().nth(3).unwrap().split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        };
        ip("link set enf0 up");
        let before = received();
        wait_for("packets on the device", || received() > before);
        assert_eq!(router.connections(), 1);
    });
}

#[test]
fn a_packet_longer_than_the_mtu_is_dropped_and_counted() {
    in_netns_with_tun("a_packet_longer_than_the_mtu_is_dropped_and_counted", || {
        let world = World::v3();
        let router = FakeRouter::start(Manners::Good(world.config()));
        let mut run = world.tunnel_to(&router).run();
        run.until("connected");
        // Somebody raises the device's MTU behind our back, and is faster than the healing: what the router would refuse must
        // not reach it.
        let pid = nix::unistd::Pid::from_raw(run.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
        ip("link set enf0 mtu 1500");
        let long = vec![0; 1400];
        let socket = std::net::UdpSocket::bind((client_address(), 0)).unwrap();
        socket.send_to(&long, "[fd00:8f80::9]:9").unwrap();
        socket.send_to(b"short", "[fd00:8f80::9]:9").unwrap();
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
        let sent = || ip("-s link show enf0").lines().last().unwrap().split_whitespace().nth(1).unwrap().to_owned();
        wait_for("both packets to leave the host", || sent() == "2");
        assert_eq!(router.connections(), 1);
    });
}

#[test]
fn a_silent_name_server_is_given_up_in_time() {
    in_netns_with_tun("a_silent_name_server_is_given_up_in_time", || {
        let world = World::v3();
        let tunnel = Tunnel::new("router.example.net:443", &world.ca, &world.client);
        let resolv = tunnel.path().join("resolv.conf");
        // Bound, and never read: questions arrive and nobody answers.
        let server = std::net::UdpSocket::bind("127.0.0.53:53").unwrap();
        std::fs::write(&resolv, "nameserver 127.0.0.53\n").unwrap();
        let file = tunnel.write();
        let script = format!(
            "mount --bind {} /etc/resolv.conf && exec {} run {} --json --config-dir {}",
            resolv.display(),
            env!("CARGO_BIN_EXE_enftunctl"),
            file.display(),
            tunnel.path().display()
        );
        let mut run = tunnel.start(std::process::Command::new("unshare").args(["-m", "sh", "-c", &script]));
        let change = run.until("reconnecting");
        assert_eq!(change.reason, "dns-failed");
        assert!(change.error.contains("router.example.net"), "{change:#?}");
        let mut question = [0; 512];
        assert!(server.recv(&mut question).unwrap() > 12, "the question reached the silent server");
    });
}

#[test]
fn every_line_that_run_prints_is_as_the_schema_has_it() {
    const TEST: &str = "every_line_that_run_prints_is_as_the_schema_has_it";
    if let Some(reason) = schema::no_validator() {
        return skip(TEST, reason);
    }
    in_netns_with_tun(TEST, || {
        let world = World::v3();
        let router = FakeRouter::start(Manners::Good(world.config()));
        let mut run = world.tunnel_to(&router).run();
        run.until("connected");
        let seen: Vec<_> = run.seen.iter().map(|change| change.line.clone()).collect();
        assert!(seen.last().unwrap()["tls"].is_object());
        schema::hold(schema::ENFTUNCTL, "run", &seen);
    });
}

#[test]
fn a_stopped_router_is_found_by_traffic_long_before_the_period_and_used_again_when_it_goes_on() {
    use super::router::bed::{A, B, LISTEN};
    use super::router::program::Program;
    use nix::sys::signal::{Signal, kill};
    in_netns_with_tun("a_stopped_router_is_found_by_traffic", || {
        let program = Program::new(&format!("[{LISTEN:?}]"));
        let router = program.start();
        let pid = nix::unistd::Pid::from_raw(router.0.id().try_into().unwrap());
        let mut tunnel = Tunnel::new(LISTEN, &program.fleet.ca, &program.fleet.identity(A));
        tunnel.remote = tunnel.remote.replace("heartbeat_period = \"1s\"", "heartbeat_period = \"1h\"");
        let mut run = tunnel.run();
        run.until("connected");
        // Its kernel goes on taking what comes, as long as there is room: nothing fails, and nobody answers.
        kill(pid, Signal::SIGSTOP).unwrap();
        let socket = std::net::UdpSocket::bind((A, 0)).unwrap();
        socket.send_to(b"is anybody there", (B, 9)).unwrap();
        let change = run.until("reconnecting");
        assert!(["heartbeat-timeout", "timeout"].contains(&change.reason.as_str()), "{change:#?}");
        kill(pid, Signal::SIGCONT).unwrap();
        run.until("connected");
    });
}
