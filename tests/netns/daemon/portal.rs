//! A network that wants somebody to sign in: found out by the probe, told on the bus and to people, and over when it is over.

use super::{MANAGER, Netns, World, stdout, story};
use crate::common::certs::write;
use crate::common::netns::sh;
use crate::common::wait_for;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

const PORTAL: &str =
    "HTTP/1.1 302 Found\r\nLocation: http://login.example.net:8080/?from=\u{85}\r\nContent-Length: 0\r\n\r\n";
const ONLINE: &str = "HTTP/1.1 204 No Content\r\n\r\n";

/// Answers each request for the web with what it is told, as if it were the web; requests so far.
fn web(at: &Netns, answer: &Arc<Mutex<&'static str>>) -> Arc<Mutex<Vec<String>>> {
    let listener = at.run(|| TcpListener::bind("0.0.0.0:8080").unwrap());
    at.exec(
        "nft 'table ip web { chain in { type nat hook prerouting priority -100; tcp dport 80 redirect to :8080; }; }'",
    );
    let (requests, answer) = (Arc::new(Mutex::new(Vec::new())), answer.clone());
    let seen = requests.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let lines = BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
            seen.lock().unwrap().push(lines.collect::<Vec<_>>().join("\n"));
            let _ = (&stream).write_all(answer.lock().unwrap().as_bytes());
        }
    });
    requests
}

fn connectivity(world: &World) -> String {
    world.get(MANAGER, "Connectivity").replace("s ", "").replace('"', "")
}

#[test]
fn a_captive_portal_is_told_and_stays_blocked_until_somebody_has_signed_in() {
    story("a_captive_portal_is_told_and_stays_blocked_until_somebody_has_signed_in", |world| {
        // Nothing but the web answers, and all of that is the portal's.
        let answer = Arc::new(Mutex::new(PORTAL));
        let requests = web(&world.far, &answer);
        world.far.exec("nft 'table inet closed { chain in { type filter hook input priority 0; tcp dport 443 reject with tcp reset; }; }'");
        sh("ip route add default via 192.0.2.2");
        world.write_tunnel("enf0", "max = \"1s\"", "prefixes = [\"default\"]");
        assert_eq!(connectivity(world), "unknown");
        write(
            &world.path().join("etc/enftun.toml"),
            b"[connectivity]\nprobe_url = \"http://198.51.100.80/generate_204\"\n",
            0o644,
        );
        stdout(world.ctl(&["reload"]));
        stdout(world.ctl(&["connect", "enf0"]));

        wait_for("the portal to be found", || connectivity(world) == "portal");
        wait_for("the attempt to end", || {
            world.status()["last_error"]["text"].as_str().is_some_and(|text| text.contains("portal"))
        });
        let error = world.status()["last_error"]["text"].as_str().unwrap().to_owned();
        assert!(error.contains("192.0.2.2") && error.contains("at login.example.net answers"), "{error}");
        assert!(!error.chars().any(char::is_control), "{error:?}");
        let shown = stdout(world.ctl(&["status"]));
        assert!(shown.contains("captive portal at login.example.net"), "{shown}");
        let shown: serde_json::Value = serde_json::from_str(&stdout(world.ctl(&["status", "--json"]))).unwrap();
        let codes: Vec<_> =
            shown["daemon"]["warnings"].as_array().unwrap().iter().map(|warning| warning["code"].clone()).collect();
        assert!(codes.contains(&"captive-portal".into()), "{shown}");
        assert_eq!((&shown["daemon"]["connectivity"], &shown["daemon"]["blocking"]), (&"portal".into(), &true.into()));
        assert!(requests.lock().unwrap()[0].starts_with("GET /generate_204 HTTP/1.0\nHost: 198.51.100.80\n"));
        // The way that was opened for the probe is not there for anybody else.
        assert!(std::net::TcpStream::connect("198.51.100.80:80").is_err(), "everything stays blocked");

        // Signed in, and the routers are still out of reach: that is something else.
        *answer.lock().unwrap() = ONLINE;
        wait_for("the portal to be gone", || connectivity(world) == "full");
        assert!(!stdout(world.ctl(&["status"])).contains("portal"));
        // The web answers nothing either.
        world.far.exec("nft add rule inet closed in tcp dport 8080 reject with tcp reset");
        wait_for("no answer to be told", || connectivity(world) == "limited");

        world.far.exec("nft delete table inet closed");
        stdout(world.ctl(&["wait", "enf0", "connected", "--timeout", "30s"]));
        assert_eq!(connectivity(world), "full");
        sh("ip link set lan0 down");
        let _ = world.ctl(&["reconnect", "enf0"]);
        wait_for("no network to be told", || connectivity(world) == "none");
    });
}
