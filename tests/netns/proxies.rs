//! Tunnels through other people's proxies: tinyproxy (HTTP CONNECT) and microsocks (SOCKS5), on a LAN behind which the router
//! is. The router listens on the proxy's loopback only, and so is reached through the proxy or not at all; as "localhost" it is
//! found only by a name that the proxy looks up.

use crate::common::bus::{PrivateBus, daemon_user, has, own_uid, stdout};
use crate::common::certs::{Ca, Identity, Leaf, write};
use crate::common::client::{Foreground, Tunnel};
use crate::common::fake_router::{FakeRouter, Manners, client_address, server};
use crate::common::netns::{Netns, Running, in_netns_with_tun, ip, sh, state_of_host, veth};
use crate::common::wire::remote_line;
use crate::common::{skip, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustls::ALL_VERSIONS;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::chown;
use std::process::Command;
use std::time::Duration;

const HTTP: &str = "http://192.0.2.2:3128";
const HTTP_WITH_LOGIN: &str = "http://me:s3cr%33t@192.0.2.2:3129";
const SOCKS: &str = "socks5://192.0.2.2:1080";
const SOCKS_WITH_LOGIN: &str = "socks5://me:s3cr%33t@192.0.2.2:1081";
const PASSWORD: &str = "s3cr3t";

/// The test's own namespace is the client's; these are on the other side of its cable.
struct World {
    lan: Netns,
    ca: Ca,
    client: Identity,
    directory: tempfile::TempDir,
    router: Identity,
    _routers: Vec<FakeRouter>,
}

fn story(test: &str, tell: impl FnOnce(&World) + Send) {
    if let Some(missing) = ["tinyproxy", "microsocks"].into_iter().find(|program| !has(program)) {
        return skip(test, &format!("{missing} is missing"));
    }
    in_netns_with_tun(test, || {
        let lan = Netns::new();
        veth(&Netns::here(), "lan0", &lan, "lan1");
        for (netns, dev, own) in [(&Netns::here(), "lan0", 1), (&lan, "lan1", 2)] {
            netns.exec(&format!(
                "ip addr add 192.0.2.{own}/24 dev {dev}; ip addr add 2001:db8::{own}/64 dev {dev} nodad"
            ));
        }
        let ca = Ca::v3("Test Root");
        let router = ca.sign_v3(Leaf::new("router.example.net").dns("router.example.net"));
        let client = ca.sign_v3(Leaf::new("fd00:8f80:1::1234").ip("fd00:8f80:1::1234"));
        let config = server(&router, &router, ALL_VERSIONS);
        let good = |address| lan.run(|| FakeRouter::at(address, Manners::Good(config.clone())));
        let routers = vec![good("[::1]:4433"), good("127.0.0.1:4433")];
        tell(&World { lan, ca, client, directory: tempfile::tempdir().unwrap(), router, _routers: routers });
    });
}

impl World {
    /// A proxy that is ready; one with a port that ends in 9 or 1 wants a login.
    fn proxy(&self, port: u16) -> Running {
        let login = port % 2 == 1;
        let command = match port {
            3128 | 3129 => {
                let file = self.directory.path().join(format!("{port}.conf"));
                let login = if login { format!("BasicAuth me {PASSWORD}\n") } else { String::new() };
                let text = format!("Port {port}\nListen 192.0.2.2\nListen 2001:db8::2\nLogLevel Critical\n{login}");
                fs::write(&file, text).unwrap();
                format!("tinyproxy -d -c {}", file.display())
            }
            _ if login => format!("microsocks -i :: -p {port} -u me -P {PASSWORD} 2>/dev/null"),
            _ => format!("microsocks -i :: -p {port} 2>/dev/null"),
        };
        let running = self.lan.spawn(&command);
        wait_for("the proxy to listen", || TcpStream::connect(("192.0.2.2", port)).is_ok());
        running
    }

    fn tunnel(&self, router: &str, proxy: &str) -> Tunnel {
        Tunnel::new(router, &self.ca, &self.client)
            .remote(&format!("proxy = \"{proxy}\"\nname = \"router.example.net\""))
    }
}

/// The tunnel is up, and through this proxy.
#[track_caller]
fn connected(run: &mut Foreground, via: &str) {
    let change = run.until("connected");
    let remote = change.line["active_remote"].as_str().unwrap();
    assert!(remote.ends_with(&format!(" via {via}")), "{remote}");
    assert!(ip("-6 addr show dev enf0").contains(&format!("{}/128", client_address())));
}

#[test]
fn a_tunnel_goes_through_each_sort_of_proxy_by_name_and_by_address() {
    story("a_tunnel_goes_through_each_sort_of_proxy_by_name_and_by_address", |world| {
        let _proxies = [3128, 3129, 1080, 1081].map(|port| world.proxy(port));
        for (router, proxy, shown) in [
            ("localhost:4433", HTTP, HTTP),
            ("127.0.0.1:4433", HTTP_WITH_LOGIN, "http://192.0.2.2:3129"),
            ("[::1]:4433", HTTP, HTTP),
            ("[::1]:4433", "http://[2001:db8::2]:3128", "http://[2001:db8::2]:3128"),
            ("localhost:4433", SOCKS, SOCKS),
            ("127.0.0.1:4433", SOCKS, SOCKS),
            ("[::1]:4433", SOCKS_WITH_LOGIN, "socks5://192.0.2.2:1081"),
            ("localhost:4433", "socks5://me:s3cr%33t@[2001:db8::2]:1081", "socks5://[2001:db8::2]:1081"),
        ] {
            let before = state_of_host();
            let mut run = world.tunnel(router, proxy).run();
            connected(&mut run, shown);
            assert_eq!(run.interrupt(), Some(0));
            assert_eq!(state_of_host(), before, "{router} through {shown} leaves nothing behind");
        }
    });
}

#[test]
fn the_router_behind_a_proxy_is_judged_as_any() {
    story("the_router_behind_a_proxy_is_judged_as_any", |world| {
        let _proxy = world.proxy(3128);
        let tunnel = Tunnel::new("localhost:4433", &world.ca, &world.client);
        let tunnel = tunnel.remote(&format!("proxy = \"{HTTP}\"\nname = \"another.example.net\""));
        let change = tunnel.run().until("error");
        assert_eq!(change.reason, "certificate-name", "{change:#?}");
        assert!(change.error.contains("another.example.net") && change.error.contains("router.example.net"));
    });
}

#[test]
fn a_login_that_a_proxy_refuses_or_misses_is_an_error_that_says_what_to_write() {
    story("a_login_that_a_proxy_refuses_or_misses_is_an_error_that_says_what_to_write", |world| {
        let _proxies = [3129, 1081].map(|port| world.proxy(port));
        for (proxy, text) in [
            ("http://192.0.2.2:3129", "wants a user and a password: write USER:PASSWORD@"),
            ("http://me:wr0ng@192.0.2.2:3129", "refuses the user and the password"),
            ("socks5://192.0.2.2:1081", "wants a user and a password: write USER:PASSWORD@"),
            ("socks5://me:wr0ng@192.0.2.2:1081", "refuses the user and the password"),
        ] {
            let change = world.tunnel("localhost:4433", proxy).run().until("error");
            assert_eq!(change.reason, "proxy-failed", "{change:#?}");
            assert!(change.error.contains(text) && !change.error.contains("wr0ng"), "{change:#?}");
        }
    });
}

#[test]
fn what_is_wrong_behind_a_proxy_or_with_it_is_said_and_tried_again() {
    story("what_is_wrong_behind_a_proxy_or_with_it_is_said_and_tried_again", |world| {
        let _proxies = [3128, 1080].map(|port| world.proxy(port));
        for (router, proxy, reason, text) in [
            ("localhost:4", HTTP, "proxy-failed", "cannot connect to it"),
            ("localhost:4", SOCKS, "proxy-failed", "the far end refuses the connection"),
            ("nonesuch.invalid", SOCKS, "proxy-failed", "SOCKS5 reply"),
            // Each waits for the other.
            ("localhost:4433", "socks5://192.0.2.2:3128", "timeout", "the proxy socks5://192.0.2.2:3128, asked for"),
            ("localhost:4433", "http://192.0.2.2:1080", "proxy-failed", "proxy http://192.0.2.2:1080"),
            ("localhost:4433", "http://192.0.2.2:9", "unreachable", "192.0.2.2:9"),
        ] {
            let change = world.tunnel(router, proxy).run().until("reconnecting");
            assert_eq!(change.reason, reason, "{change:#?}");
            assert!(change.error.contains(text), "{change:#?}");
        }
        // Nobody answers on the far side of the router's port: TLS waits, not the proxy.
        let silent = world.lan.run(|| FakeRouter::at("127.0.0.1:0", Manners::Silent));
        let change = world.tunnel(&silent.address.to_string(), HTTP).run().until("reconnecting");
        assert_eq!(change.reason, "timeout", "{change:#?}");
        assert!(change.error.contains("TLS handshake"), "{change:#?}");
    });
}

#[test]
fn a_proxy_that_stops_ends_or_is_silent_is_noticed_and_used_again_when_it_is_back() {
    story("a_proxy_that_stops_ends_or_is_silent_is_noticed_and_used_again_when_it_is_back", |world| {
        for (port, url) in [(3128, HTTP), (1080, SOCKS)] {
            let mut proxy = world.proxy(port);
            let mut run = world.tunnel("localhost:4433", url).run();
            connected(&mut run, url);
            // It is there for the kernel, and does nothing: the heartbeat finds that, and then the next connection.
            let stopped = Pid::from_raw(proxy.0.id() as i32);
            kill(stopped, Signal::SIGSTOP).unwrap();
            run.until_that("an unanswered heartbeat", |change| change.reason == "heartbeat-timeout");
            let change = run.until_that("a silent proxy", |change| change.reason == "timeout");
            assert!(change.error.contains("accepted the connection but did not connect to it"), "{change:#?}");
            kill(stopped, Signal::SIGCONT).unwrap();
            connected(&mut run, url);
            proxy.0.kill().unwrap();
            proxy.0.wait().unwrap();
            run.until_that("the end of the connection", |change| change.reason == "remote-closed");
            run.until_that("a proxy that is gone", |change| change.reason == "unreachable");
            let _again = world.proxy(port);
            connected(&mut run, url);
            assert_eq!(run.interrupt(), Some(0));
        }
    });
}

#[test]
fn a_remote_of_its_own_way_is_the_one_to_fall_back_to() {
    story("a_remote_of_its_own_way_is_the_one_to_fall_back_to", |world| {
        let _proxy = world.proxy(1080);
        // Nothing listens directly, neither here nor on the LAN.
        let tunnel = Tunnel::new("x", &world.ca, &world.client);
        let hosts = format!("hosts = [\"192.0.2.2:4433\", {{ host = \"localhost:4433\", proxy = \"{SOCKS}\" }}]");
        let tunnel = Tunnel { remote: tunnel.remote.replace("hosts = [\"x\"]", &hosts), ..tunnel };
        connected(&mut tunnel.run(), SOCKS);
        let direct = "hosts = [{ host = \"192.0.2.2:4434\", proxy = \"direct\" }]\nproxy = \"http://192.0.2.2:9\"";
        let config = server(&world.router, &world.router, ALL_VERSIONS);
        let _router = world.lan.run(|| FakeRouter::at("192.0.2.2:4434", Manners::Good(config)));
        let tunnel = Tunnel { remote: tunnel.remote.replace(&hosts, direct), ..tunnel };
        let change = tunnel.run().until("connected");
        assert_eq!(change.line["active_remote"], "192.0.2.2:4434");
    });
}

#[test]
fn from_a_proxy_the_native_way_is_returned_to_once_it_works_without_losing_the_session() {
    story("from_a_proxy_the_native_way_is_returned_to_once_it_works_without_losing_the_session", |world| {
        let _proxy = world.proxy(1080);
        let tunnel = world.tunnel("x", SOCKS);
        let hosts = "hosts = [{ host = \"192.0.2.2:4433\", proxy = \"direct\" }, \"localhost:4433\"]";
        let tunnel = Tunnel { remote: tunnel.remote.replace("hosts = [\"x\"]", hosts), ..tunnel };
        let mut run = tunnel.run();
        connected(&mut run, SOCKS);
        let through = || {
            let on_loopback = "ss -Htn state established '( sport = :4433 )' | grep -vc 192.0.2.2:4433 || true";
            world.lan.exec(on_loopback).trim().parse::<u32>().unwrap()
        };
        assert_eq!(through(), 1, "the session through the proxy is seen");
        let config = server(&world.router, &world.router, ALL_VERSIONS);
        let native = world.lan.run(|| FakeRouter::at("192.0.2.2:4433", Manners::Good(config)));
        wait_for("a session by the native way", || native.connections() == 1);
        wait_for("the session through the proxy to be closed", || through() == 0);
        assert_eq!(native.connections(), 1);
        kill(Pid::from_raw(run.child.id() as i32), Signal::SIGINT).unwrap();
        run.until("disconnecting");
        assert!(run.seen.iter().all(|change| change.state != "reconnecting"), "{:#?}", run.seen);
    });
}

/// Packets that left by the cable, to the proxy and others; what keeps the link alive is not counted.
fn left() -> [u64; 2] {
    ["proxy", "else"].map(|name| {
        let listed: serde_json::Value =
            serde_json::from_str(&sh(&format!("nft -j list counter inet sniff {name}"))).unwrap();
        listed["nftables"][1]["counter"]["packets"].as_u64().unwrap()
    })
}

fn reaches(address: &str) -> bool {
    TcpStream::connect_timeout(&address.parse::<SocketAddr>().unwrap(), Duration::from_millis(300)).is_ok()
}

#[test]
fn the_proxy_is_the_only_opening_and_ours_alone_while_everything_is_in_the_tunnel() {
    story("the_proxy_is_the_only_opening_and_ours_alone_while_everything_is_in_the_tunnel", |world| {
        let _proxies = [3128, 1080].map(|port| world.proxy(port));
        let _elsewhere = world.lan.run(|| TcpListener::bind("192.0.2.2:7001").unwrap());
        sh("nft 'table inet sniff {
            counter proxy { }; counter else { }
            chain out {
                type filter hook postrouting priority 400;
                oifname != lan0 accept
                icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, mld2-listener-report } accept
                ip daddr 192.0.2.2 tcp dport { 3128, 1080 } counter name proxy accept
                counter name else
            }
        }'");
        assert!(reaches("192.0.2.2:7001"));
        assert!(left()[1] > 0, "what leaves is seen");
        for url in [HTTP, SOCKS] {
            let peer = url.split_once("://").unwrap().1;
            let tunnel = world.tunnel("localhost:4433", url);
            let everything = tunnel.route.replace("fd00:8f80::/32", "default");
            let mut run = Tunnel { route: everything, ..world.tunnel("localhost:4433", url) }.run();
            run.until("connecting");
            let [_, before] = left();
            connected(&mut run, url);
            let [ours, _] = left();
            assert!(ours > 0);
            assert!(!reaches("192.0.2.2:7001") && !reaches(peer), "others reach neither the LAN nor the proxy");
            let _ = sh("ping -c 1 -W 1 192.0.2.2 2>&1 || true; ping -c 1 -W 1 2001:db8::2 2>&1 || true");
            assert_eq!(left()[1], before, "nothing else left");
            assert_eq!(run.interrupt(), Some(0));
            let mut run = tunnel.run();
            connected(&mut run, url);
            assert!(reaches(peer), "a proxy is others' way too, while only a prefix is in the tunnel");
            assert_eq!(run.interrupt(), Some(0));
        }
    });
}

#[test]
fn the_password_of_a_proxy_is_shown_nowhere() {
    let test = "the_password_of_a_proxy_is_shown_nowhere";
    story(test, |world| {
        let Some(bus) = PrivateBus::start(test) else { return };
        let path = world.directory.path();
        sh(&format!("cd {}; chmod 755 .; mkdir -p etc/tunnels state run", path.display()));
        world.ca.write(path, "etc/ca");
        let (_, key) = world.client.write(path, "etc/client");
        for file in [key, path.join("state"), path.join("run")] {
            chown(file, Some(daemon_user()), None).unwrap();
        }
        for (number, proxy) in [(0, HTTP_WITH_LOGIN), (1, SOCKS_WITH_LOGIN), (2, "http://me:s3cr%33tx@192.0.2.2:3129")]
        {
            let text = format!(
                "kind = \"enf\"\n[remote]\nhosts = [\"localhost:4433\"]\nca_cert_file = \"ca.pem\"\nproxy = \"{proxy}\"\n\
                 {}[route]\nprefixes = [\"fd00:8f8{number}::/32\"]\ntable = 210{number}\nfwmark = 36{number}\n\
                 [identity]\ncert_file = \"client.crt.pem\"\nkey_file = \"client.key.pem\"\n",
                remote_line()
            );
            write(&path.join(format!("etc/tunnels/enf{number}.toml")), text.as_bytes(), 0o644);
        }
        let _proxies = [3129, 1081].map(|port| world.proxy(port));
        // Where udev runs, everybody may open the TUN node; here it may be root's alone.
        let node = "mount -t tmpfs tmpfs /dev/net && mknod -m 666 /dev/net/tun c 10 200 && ";
        let node = if daemon_user() == own_uid() { "" } else { node };
        let mut command = bus.command("unshare");
        command.args(["-m", "sh", "-c", &format!("{node} exec \"$@\""), "sh", env!("CARGO_BIN_EXE_enftund")]);
        for (directory, place) in [("config", "etc"), ("state", "state"), ("runtime", "run")] {
            command.arg(format!("--{directory}-dir")).arg(path.join(place));
        }
        command.args(["--user", "65534", "--log-level", "trace"]);
        let log = fs::File::create(path.join("log")).unwrap();
        let daemon = Running(command.stderr(log).spawn().unwrap());
        let place = |place: &str| path.join(place).to_str().unwrap().to_owned();
        let ctl = |arguments: &[&str]| bus.command(env!("CARGO_BIN_EXE_enftunctl")).args(arguments).output().unwrap();
        wait_for("the daemon on the bus", || ctl(&["list"]).status.success());
        stdout(ctl(&["connect", "enf0", "--wait=30s"]));
        stdout(ctl(&["connect", "enf1", "--wait=30s"]));
        ctl(&["connect", "enf2"]);
        bus.shows("enf2", "State", "s \"error\"");
        bus.shows("enf2", "StateReason", "s \"proxy-failed\"");

        let mut seen = fs::read_to_string(path.join("log")).unwrap();
        for (number, via) in
            [(0, "http://192.0.2.2:3129"), (1, "socks5://192.0.2.2:1081"), (2, "http://192.0.2.2:3129")]
        {
            let name = format!("enf{number}");
            let status = stdout(ctl(&["status", &name, "--json"]));
            assert!(status.contains(&format!("localhost:4433 via {via}")), "{status}");
            seen += &status;
            seen += &stdout(ctl(&["plan", &name, "--config-dir", &place("etc")]));
            let object = format!("/org/enftun/Enftun1/tunnel/{name}");
            let introspected = bus.busctl(&["introspect", "org.enftun.Enftun1", &object]);
            seen += &String::from_utf8_lossy(&introspected.stdout);
        }
        for verb in [["check"].as_slice(), &["check", "--json"], &["report"], &["report", "--json"]] {
            let output = ctl(&[verb, &["--config-dir", &place("etc")]].concat());
            seen += &String::from_utf8_lossy(&[output.stdout, output.stderr].concat());
        }
        for directory in ["state", "run"] {
            for file in fs::read_dir(path.join(directory)).unwrap().map(|entry| entry.unwrap().path()) {
                seen += &String::from_utf8_lossy(&fs::read(file).unwrap_or_default());
            }
        }
        for what in ["cmdline", "environ"] {
            seen += &String::from_utf8_lossy(&fs::read(format!("/proc/{}/{what}", daemon.0.id())).unwrap());
        }
        let words = ["dialling", "Remotes", "chmod 640", "refuses the user", "enftund", "via socks5://192.0.2.2:1081"];
        for word in words {
            assert!(seen.contains(word), "what is searched is there: {word}\n{seen}");
        }
        // As it is written, as it is, and as HTTP carries it.
        for secret in ["s3cr", "bWU6czNjcjN0"] {
            let line = seen.lines().find(|line| line.contains(secret));
            assert_eq!(line, None, "a password is shown");
        }
        let encoded = Command::new("sh").args(["-c", "printf me:s3cr3t | base64"]).output().unwrap().stdout;
        assert!(encoded.starts_with(b"bWU6czNjcjN0"));
        for name in ["enf0", "enf1", "enf2"] {
            stdout(ctl(&["disconnect", name, "--wait=30s"]));
        }
    });
}
