//! A tunnel of kind `aws-iot` in the real daemon: its tokens come, are rejected, are replaced over the bus and on disk, and
//! outlive the daemon. The service is the test's own.

use super::{World, story};
use crate::common::aws_service::{Mode, Service, Tunnel};
use crate::common::bus::{daemon_user, stdout};
use crate::common::certs::write;
use crate::common::wait_for;
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;
use std::process::Stdio;

const DESK: &str = "/org/enftun/Enftun1/tunnel/desk";
const FORWARDS: &str = "org.enftun.Enftun1.Tunnel.Forwards";

/// A tunnel that listens where it likes, and is retried once in an hour.
fn desk(world: &World, service: &Service, token: &str) {
    let etc = world.path().join("etc");
    std::fs::copy(service.ca_file(), etc.join("service.pem")).unwrap();
    let text = format!(
        "kind = \"aws-iot\"\n[aws]\nmode = \"source\"\nendpoint = \"127.0.0.1:{}\"\ntoken_file = \"desk.token\"\n\
         [remote]\nca_cert_file = \"service.pem\"\n[route]\nlockdown = \"off\"\n[retry]\nmax = \"1h\"\njitter = 0.0\n",
        service.address.port()
    );
    write(&world.tunnel_file("desk"), text.as_bytes(), 0o644);
    put(world, token);
    stdout(world.ctl(&["reload"]));
}

fn token_file(world: &World) -> PathBuf {
    world.path().join("etc/desk.token")
}

/// As a careful program does.
fn put(world: &World, token: &str) {
    let new = world.path().join("etc/new");
    write(&new, format!("{token}\n").as_bytes(), 0o600);
    chown(&new, Some(daemon_user()), None).unwrap();
    std::fs::rename(new, token_file(world)).unwrap();
}

impl World {
    fn of_desk(&self) -> serde_json::Value {
        let text = stdout(self.ctl(&["status", "desk", "--json"]));
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["tunnels"][0].clone()
    }

    #[track_caller]
    fn desk_is(&self, state: &str, reason: &str) {
        wait_for(&format!("desk to be {state} ({reason})"), || {
            let now = self.of_desk();
            now["state"] == state && now["state_reason"] == reason
        });
    }

    /// What is listened on, as any program reads it.
    fn port(&self) -> u16 {
        let services = stdout(self.bus.busctl(&["get-property", "org.enftun.Enftun1", DESK, FORWARDS, "Services"]));
        let (_, port) = services.trim().rsplit_once(' ').unwrap();
        assert_eq!(services.trim(), format!("a(ssu) 1 \"SSH\" \"127.0.0.1\" {port}"));
        port.parse().unwrap()
    }

    fn rotate(&self, token: &str) {
        let path = self.path().join("given");
        std::fs::write(&path, token).unwrap();
        let given = std::fs::File::open(path).unwrap();
        let mut ctl = self.bus.command(env!("CARGO_BIN_EXE_enftunctl"));
        assert!(ctl.args(["rotate", "desk"]).stdin(Stdio::from(given)).status().unwrap().success());
    }
}

fn source(tunnel: &Tunnel) -> String {
    tunnel.token(Mode::Source)
}

#[test]
fn new_tokens_are_taken_over_the_bus_and_from_the_file_and_outlive_the_daemon() {
    story("new_tokens_are_taken_over_the_bus_and_from_the_file_and_outlive_the_daemon", |world| {
        let service = Service::start();
        let tunnel = service.tunnel(&["SSH"]);
        let mut tokens = vec!["AQGAAXjNobodyKnowsThis".to_owned(), source(&tunnel)];
        desk(world, &service, &tokens[0]);
        std::fs::set_permissions(token_file(world), std::fs::Permissions::from_mode(0o644)).unwrap();
        stdout(world.ctl(&["connect", "desk"]));
        world.desk_is("error", "token-rejected");
        assert!(world.log().contains("every user of this host may read the token file"), "{}", world.log());

        // Over the bus: at once, though the next attempt is an hour away.
        world.rotate(&tokens[1]);
        world.desk_is("connected", "user");
        assert!(TcpStream::connect(("127.0.0.1", world.port())).is_ok());
        let status = stdout(world.ctl(&["status", "desk"]));
        assert!(!status.contains("irewall") && status.contains("blocking:      no"), "nothing belongs in it: {status}");
        let kept = world.path().join("state/tokens/desk.json");
        let modes = [&kept, kept.parent().unwrap()].map(|path| {
            let metadata = std::fs::metadata(path).unwrap();
            (metadata.uid(), metadata.mode() & 0o777)
        });
        assert_eq!(modes, [(daemon_user(), 0o600), (daemon_user(), 0o700)]);

        // The service takes a token with one client token alone: the daemon that starts has the same.
        world.daemon = None;
        tunnel.source().wait_until_gone();
        world.start_daemon();
        world.desk_is("connected", "boot");
        tunnel.source().wait_for_session(2);

        // From the file: what was given over the bus stood for what was there.
        tunnel.rotate(&[Mode::Source]);
        tokens.push(source(&tunnel));
        put(world, &tokens[2]);
        tunnel.source().wait_for_session(3);
        world.desk_is("connected", "config");
        let clients: Vec<_> = service.handshakes().into_iter().map(|handshake| format!("{handshake:?}")).collect();
        assert!(clients.len() >= 4, "{clients:#?}");

        let log = world.log();
        assert!(log.contains("new tokens of desk, given by"), "{log}");
        let kept = std::fs::read_to_string(kept).unwrap();
        assert!(!kept.contains(&tokens[1]), "what was given is forgotten");
        let made: serde_json::Value = serde_json::from_str(&kept).unwrap();
        let made =
            made["made"].as_array().unwrap().iter().map(|made| made["client_token"].as_str().unwrap().to_owned());
        let seen = [log, stdout(world.ctl(&["status", "desk"])), stdout(world.ctl(&["report"]))].concat();
        for secret in tokens.into_iter().chain(made) {
            assert!(!seen.contains(&secret), "{secret} in {seen}");
        }
    });
}
