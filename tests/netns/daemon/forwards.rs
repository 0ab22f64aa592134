//! Tunnels of kind `aws-iot` in the daemon: beside a tunnel that blocks everything, and as a lockdown by themselves. The service
//! is a local one; the other end of each tunnel is `enftun-localproxy`.

use super::{World, ping, story};
use crate::common::aws_service::{Mode, Service, Tunnel};
use crate::common::bus::{daemon_user, stdout};
use crate::common::certs::write;
use crate::common::echo::{Echo, PORT};
use crate::common::netns::{Running, sh, state_of_host};
use crate::common::wait_for;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::chown;
use std::process::Stdio;
use std::time::Duration;

const SERVICE: &str = "192.0.2.2:8443";
const LISTEN: &str = "127.0.0.1:2222";

/// The service behind the LAN, and a tunnel of it.
fn service(world: &World) -> (Service, Tunnel) {
    let service = world.far.run(|| Service::at(SERVICE.parse().unwrap()));
    sh(&format!("cp {} {}", service.ca_file().display(), world.path().join("etc/service.pem").display()));
    let tunnel = service.tunnel(&["ECHO"]);
    (service, tunnel)
}

/// The other end of the tunnel, in the service's namespace.
fn destination(world: &World, tunnel: &Tunnel) -> Running {
    let mut command = world.far.command(env!("CARGO_BIN_EXE_enftun-localproxy"));
    command.args(["-e", SERVICE, "-d", &format!("ECHO=127.0.0.1:{PORT}"), "-c"]).arg(world.path().join("etc"));
    command.env("AWSIOT_TUNNEL_ACCESS_TOKEN", tunnel.token(Mode::Destination));
    let log = std::fs::File::create(world.path().join("other-end.log")).unwrap();
    Running(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap())
}

impl World {
    fn write_forwarding(&self, aws: &str, route: &str) {
        let text = format!(
            "kind = \"aws-iot\"\n[aws]\nendpoint = \"{SERVICE}\"\ntoken_file = \"aws0.token\"\n{aws}\n[remote]\n\
             ca_cert_file = \"service.pem\"\n[route]\n{route}\n[retry]\nfirst = \"200ms\"\nmax = \"1s\"\n"
        );
        write(&self.tunnel_file("aws0"), text.as_bytes(), 0o644);
    }

    fn write_token(&self, token: &str) {
        let file = self.path().join("etc/aws0.token");
        write(&file, format!("{token}\n").as_bytes(), 0o600);
        chown(file, Some(daemon_user()), None).unwrap();
    }

    fn forwarding_status(&self) -> serde_json::Value {
        let text = stdout(self.ctl(&["status", "aws0", "--json"]));
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["tunnels"][0].clone()
    }
}

/// What is sent comes back.
fn echoes(to: &str) -> bool {
    let talk = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(to)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"through the tunnel")?;
        let mut back = [0; 18];
        stream.read_exact(&mut back)?;
        Ok(&back == b"through the tunnel")
    };
    talk().unwrap_or(false)
}

/// Somebody else than the daemon connects to the service.
fn somebody_reaches_the_service() -> bool {
    TcpStream::connect_timeout(&SERVICE.parse().unwrap(), Duration::from_secs(1)).is_ok()
}

/// Packets that left on the LAN so far, but for TCP to the service and to routers.
fn watch_the_lan() {
    sh(r#"nft 'table inet sniff {
        counter other { packets 0 bytes 0; }
        chain out {
            type filter hook postrouting priority 400;
            oifname lan0 tcp dport { 443, 8443 } accept
            oifname lan0 icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, mld2-listener-report } accept
            oifname lan0 counter name other
        }
    }'"#);
}

#[test]
fn under_a_lockdown_of_another_tunnel_it_reaches_its_service_by_mark_and_nothing_else_does() {
    let test = "under_a_lockdown_of_another_tunnel_it_reaches_its_service_by_mark_and_nothing_else_does";
    story(test, |world| {
        let (_service, tunnel) = service(world);
        let _echo = Echo::start(&world.far);
        let _other = destination(world, &tunnel);
        world.write_token(&tunnel.token(Mode::Source));
        world.write_forwarding(&format!("mode = \"source\"\nservices = \"{LISTEN}\""), "");
        world.write_tunnel("enf0", "max = \"1s\"", "prefixes = [\"default\"]");
        stdout(world.ctl(&["reload"]));
        assert!(ping("192.0.2.2") && somebody_reaches_the_service(), "the LAN works");

        // Its router does not answer: it blocks, and has no way for anything.
        world.router = None;
        stdout(world.ctl(&["connect", "enf0"]));
        wait_for("the block", || !ping("192.0.2.2"));
        assert!(!somebody_reaches_the_service());
        watch_the_lan();
        stdout(world.ctl(&["connect", "aws0", "--wait=30s"]));
        assert!(sh("ss -tne dst 192.0.2.2:8443").contains("fwmark:0x16e"), "its own packets carry its mark");
        wait_for("an echo through the tunnel", || echoes(LISTEN));
        assert!(!ping("192.0.2.2") && !somebody_reaches_the_service(), "nobody else gets out, nor to the service");
        assert_eq!(super::seen_on_the_lan(), 0, "{}", world.log());

        let status = world.forwarding_status();
        assert_eq!((&status["kind"], &status["blocking"]), (&"aws-iot".into(), &false.into()), "{status:#}");
        // It goes, and what blocks stays.
        stdout(world.ctl(&["disconnect", "aws0", "--wait"]));
        assert!(!echoes(LISTEN) && !ping("192.0.2.2"));
        stdout(world.ctl(&["disconnect", "enf0", "--wait"]));
        wait_for("the LAN", || ping("192.0.2.2"));
    });
}

#[test]
fn with_prefixes_of_its_own_it_is_a_lockdown_that_leaves_the_service_alone() {
    let test = "with_prefixes_of_its_own_it_is_a_lockdown_that_leaves_the_service_alone";
    story(test, |world| {
        let (_service, tunnel) = service(world);
        let _echo = Echo::start(&world.far);
        let _other = destination(world, &tunnel);
        world.write_token(&tunnel.token(Mode::Source));
        let route = "prefixes = [\"default\"]\nlockdown = \"session\"";
        world.write_forwarding(&format!("mode = \"source\"\nservices = \"{LISTEN}\""), route);
        stdout(world.ctl(&["reload"]));
        let before = state_of_host();
        watch_the_lan();
        stdout(world.ctl(&["connect", "aws0", "--wait=30s"]));
        wait_for("an echo through the tunnel", || echoes(LISTEN));
        assert!(!ping("192.0.2.2") && !ping("2001:db8::2") && !somebody_reaches_the_service());
        assert_eq!(world.forwarding_status()["blocking"], true);
        // Nor while the daemon is dead.
        world.daemon().kill().unwrap();
        world.daemon().wait().unwrap();
        assert!(!ping("192.0.2.2") && !somebody_reaches_the_service());
        world.daemon = None;
        world.start_daemon();
        stdout(world.ctl(&["wait", "aws0", "connected", "--timeout=60s"]));
        wait_for("an echo through the tunnel", || echoes(LISTEN));
        assert_eq!(super::seen_on_the_lan(), 0, "{}", world.log());
        sh("nft delete table inet sniff");
        stdout(world.ctl(&["disconnect", "aws0", "--wait"]));
        assert_eq!(state_of_host(), before, "nothing is left");
    });
}
