//! How two ends come to the wire that they speak: offers by name (ALPN), far ends that want none of them, and what each end
//! says when it goes. The stranger is `tests/peers/enftun2.py`, which knows docs/protocol.md and nothing else.

use super::router::bed::{A, B, Client, LISTEN, PATIENCE, as_it_is, drops, ping, session as session_of, story};
use crate::common::certs::{Ca, Identity, Leaf};
use crate::common::client::{Foreground, Tunnel};
use crate::common::fake_router::{FakeRouter, Manners, server};
use crate::common::netns::{Running, block_on, in_netns_with_tun, ip, sh};
use crate::common::{skip, wait_for};
use enftun::tunnel::enf::packet::Packet;
use rustls::ServerConfig;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::time::timeout;

const NAME: &str = "router.example.net";

struct World {
    ca: Ca,
    router: Identity,
    client: Identity,
}

impl World {
    fn new() -> Self {
        let ca = Ca::v3("Test Root");
        let router = ca.sign_v3(Leaf::new(NAME).dns(NAME));
        let client = ca.sign_v3(Leaf::new("fd00:8f80:1::1234").ip("fd00:8f80:1::1234"));
        Self { ca, router, client }
    }

    /// A far end that knows these protocols.
    fn knows(&self, protocols: &[&str]) -> Arc<ServerConfig> {
        let mut config = Arc::unwrap_or_clone(server(&self.router, &self.router, rustls::ALL_VERSIONS));
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    /// A tunnel that says of the wire what this line says, whatever the tests' tunnels say otherwise.
    fn tunnel(&self, host: &str, wire: &str) -> Tunnel {
        let name = format!("name = \"{NAME}\"");
        Tunnel::new(host, &self.ca, &self.client).remote(&name).remote(&format!("wire = \"{wire}\""))
    }
}

/// The stranger, and what it says, line by line.
struct Stranger {
    process: Running,
    said: mpsc::UnboundedReceiver<String>,
    heard: Vec<String>,
}

impl Stranger {
    /// None: there is no Python here.
    fn start(test: &str, arguments: &[&OsStr]) -> Option<Self> {
        let mut python = Command::new("python3");
        python.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/enftun2.py")).args(arguments);
        let Ok(mut child) = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() else {
            skip(test, "python3 is missing");
            return None;
        };
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, said) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            lines.map_while(Result::ok).try_for_each(|line| sender.send(line).map_err(drop)).ok();
        });
        Some(Self { process: Running(child), said, heard: Vec::new() })
    }

    /// Waits for a line that begins so, unless it came already; each is found once.
    async fn says(&mut self, start: &str) -> String {
        let search = async {
            loop {
                if let Some(at) = self.heard.iter().position(|line| line.starts_with(start)) {
                    return self.heard.remove(at);
                }
                let line = self.said.recv().await;
                self.heard.push(line.unwrap_or_else(|| panic!("it ended before {start:?}; it said {:#?}", self.heard)));
            }
        };
        timeout(PATIENCE, search).await.unwrap_or_else(|_| panic!("waited in vain for {start:?}"))
    }

    fn do_it(&mut self, words: &str) {
        writeln!(self.process.0.stdin.as_mut().unwrap(), "{words}").unwrap();
    }
}

fn wire_of(run: &mut Foreground) -> String {
    run.until("connected").line["tls"]["wire"].as_str().unwrap().to_owned()
}

#[test]
fn two_ends_that_have_both_wires_take_the_second_and_a_tunnel_that_says_v1_the_first() {
    in_netns_with_tun("two_ends_that_have_both_wires", || {
        let world = World::new();
        let router = FakeRouter::start(Manners::Good(world.knows(&["enftun/2"])));
        for (wire, expected) in [("auto", "v2"), ("v1", "v1")] {
            let mut run = world.tunnel(&router.address.to_string(), wire).run();
            assert_eq!(wire_of(&mut run), expected);
        }
        assert_eq!(router.connections(), 2, "nobody was greeted twice");
    });
}

#[test]
fn a_far_end_that_knows_nothing_of_alpn_gets_the_first_wire_at_once() {
    in_netns_with_tun("a_far_end_that_knows_nothing_of_alpn", || {
        let world = World::new();
        let router = FakeRouter::start(Manners::Good(world.knows(&[])));
        let mut run = world.tunnel(&router.address.to_string(), "auto").run();
        assert_eq!(wire_of(&mut run), "v1");
        assert_eq!(router.connections(), 1);
    });
}

#[test]
fn a_far_end_that_refuses_the_offer_is_greeted_again_without_and_that_is_remembered() {
    in_netns_with_tun("a_far_end_that_refuses_the_offer", || {
        let world = World::new();
        let far_end = || world.knows(&["http/1.1"]);
        let router = FakeRouter::start(Manners::Good(far_end()));
        let address = router.address.to_string();
        let mut run = world.tunnel(&address, "auto").run();
        assert_eq!(wire_of(&mut run), "v1");
        assert_eq!(router.connections(), 2, "in one attempt");
        assert!(run.seen.iter().all(|change| change.state != "reconnecting"), "{:#?}", run.seen);
        drop(router);
        run.until("reconnecting");
        let router = FakeRouter::at(&address, Manners::Good(far_end()));
        assert_eq!(wire_of(&mut run), "v1");
        assert_eq!(router.connections(), 1, "nothing was offered");
        drop(run);
        // Who offers nothing from the beginning has no such trouble.
        assert_eq!(wire_of(&mut world.tunnel(&address, "v1").run()), "v1");
        assert_eq!(router.connections(), 2);
    });
}

#[test]
fn a_path_that_breaks_whoever_offers_names_is_used_without() {
    in_netns_with_tun("a_path_that_breaks_whoever_offers_names", || {
        let world = World::new();
        let router = FakeRouter::start(Manners::BreaksOffers(world.knows(&["enftun/2"])));
        let mut run = world.tunnel(&router.address.to_string(), "auto").run();
        assert_eq!(wire_of(&mut run), "v1");
        assert_eq!(router.connections(), 2, "in one attempt");
    });
}

#[test]
fn the_router_is_no_stranger_to_whoever_offers_what_it_does_not_have() {
    story("the_router_is_no_stranger", as_it_is, async |bed| {
        let offering = async |address: &str, names: &[&str]| {
            let identity = bed.fleet.identity(address);
            let mut client = Client::shake_hands_offering(&bed.fleet, address, &identity, Some(names)).await;
            client.ask_router().await;
            client
        };
        let mut a = offering(A, &["h2", "http/1.1"]).await;
        let mut b = offering(B, &["h2", "enftun/2"]).await;
        ping(&mut a, &mut b).await;
        let status = bed.status().await;
        assert_eq!((session_of(&status, A).wire.as_str(), session_of(&status, B).wire.as_str()), ("v1", "v2"));
    });
}

#[test]
fn a_stranger_that_knows_the_specification_alone_is_a_client_of_the_router() {
    let test = "a_stranger_is_a_client";
    story(test, as_it_is, async |bed| {
        let mut b = bed.client(B).await;
        let (certificate, key) = bed.fleet.identity(A).write(bed.fleet.dir.path(), "stranger");
        let port = LISTEN.rsplit_once(':').unwrap().1;
        let files = [certificate.as_os_str(), key.as_os_str(), bed.fleet.ca_file.as_os_str()];
        let [mode, port, own, peer] = ["client", port, A, B].map(OsStr::new);
        let arguments = [&[mode, port][..], &files, &[own, peer]].concat();
        let Some(mut stranger) = Stranger::start(test, &arguments) else { return };
        stranger.says("alpn enftun/2").await;
        stranger.says("hello 2 ").await;
        stranger.says("pong 4711").await;
        stranger.says("echo-reply fe80::1").await;
        // A client that takes TCP super-packets gets the one that is sound as it is, and datagrams one by one.
        let mut payloads = Vec::new();
        for _ in 0..4 {
            let packet = b.next().await;
            let Some(Packet::V6 { next_header, payload, .. }) = Packet::parse(&packet) else { panic!("{packet:?}") };
            payloads.push((next_header, payload[if next_header == 6 { 20 } else { 8 }..].to_vec()));
        }
        let datagrams = ["abc", "def", "gh"].map(|text| (17, text.as_bytes().to_vec()));
        assert_eq!(payloads, [&[(6, vec![b'a'; 3000])][..], &datagrams].concat());
        let status = bed.status().await;
        assert_eq!(session_of(&status, A).wire, "v2");
        assert_eq!(session_of(&status, A).drops, drops(&[("offload-invalid", 3)]));
        bed.stop().await;
        stranger.says("going-away 1 ").await;
        stranger.says("closed").await;
    });
}

/// A router that a stranger made, its port first.
async fn strange_router(test: &str, world: &World, tunnel: &Tunnel) -> Option<(Stranger, String)> {
    let (certificate, key) = world.router.write(tunnel.path(), "router");
    let ca = tunnel.path().join("ca.pem");
    let files = [OsStr::new("router"), certificate.as_os_str(), key.as_os_str(), ca.as_os_str()];
    let mut stranger = Stranger::start(test, &files)?;
    let port = stranger.says("").await;
    Some((stranger, format!("[::1]:{port}")))
}

#[test]
fn a_stranger_that_knows_the_specification_alone_is_a_router() {
    let test = "a_stranger_is_a_router";
    in_netns_with_tun(test, || {
        block_on(async {
            let world = World::new();
            let mut tunnel = world.tunnel("HOST", "auto");
            let Some((mut stranger, host)) = strange_router(test, &world, &tunnel).await else { return };
            tunnel.remote = tunnel.remote.replace("HOST", &host);
            let mut run = tunnel.run();
            stranger.says("session enftun/2").await;
            stranger.says("hello 2 ").await;
            stranger.says("ping").await;
            assert_eq!(wire_of(&mut run), "v2");
            wait_for("the route", || ip("-6 route get fd00:8f80::9").contains("enf0"));
            let pings = sh("ping -6 -q -c 3 -i 0.2 fd00:8f80::9");
            assert!(pings.contains(" 3 received"), "{pings}");
            // The kernel leaves the checksum of a segment to the far end, which has no use for it.
            let connect = ["5", "bash", "-c", "exec 3<>/dev/tcp/fd00:8f80::9/7"];
            let _connecting = Running(Command::new("timeout").args(connect).spawn().unwrap());
            stranger.says("packet 6 ").await;
            stranger.do_it("ping 99");
            stranger.says("pong 99").await;
            stranger.do_it("away 1 300");
            let change = run.until("reconnecting");
            assert_eq!(change.reason, "going-away", "{change:#?}");
            assert!(change.error.contains("shut down") && change.error.contains("300ms"), "{change:#?}");
            stranger.says("session enftun/2").await;
            assert_eq!(wire_of(&mut run), "v2");
            stranger.do_it("away 2 0");
            let change = run.until("reconnecting");
            assert_eq!(change.reason, "superseded", "{change:#?}");
        });
    });
}

#[test]
fn when_a_router_goes_away_another_is_called_at_once() {
    let test = "when_a_router_goes_away_another_is_called_at_once";
    in_netns_with_tun(test, || {
        block_on(async {
            let world = World::new();
            let mut tunnel = world.tunnel("HOST", "auto");
            let Some((mut first, host)) = strange_router(test, &world, &tunnel).await else { return };
            let Some((mut second, other)) = strange_router(test, &world, &tunnel).await else { return };
            tunnel.remote = tunnel.remote.replace("\"HOST\"", &format!("\"{host}\", \"{other}\""));
            // Longer than anybody here waits.
            tunnel.retry = "first = \"300s\"\nmax = \"300s\"\njitter = 0\n".to_owned();
            let mut run = tunnel.run();
            assert_eq!(run.until("connected").line["active_remote"], host);
            first.says("session").await;
            first.do_it("away 1 200000");
            assert_eq!(run.until("reconnecting").reason, "going-away");
            assert_eq!(run.until("connected").line["active_remote"], other);
            second.says("session enftun/2").await;
        });
    });
}
