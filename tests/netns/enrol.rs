//! `enftun-router` as the far end of enrolment, with the real program: what the C client asks for, what is refused, what
//! outlives a kill, and the end of whoever is revoked.

use crate::common::certs::{Identity, Leaf};
use crate::common::enrol::{Asker, ENDPOINTS, LOGIN, user, wanted};
use crate::common::netns::{Running, block_on, in_netns, sh};
use crate::common::openmetrics::Samples;
use crate::common::{schema, skip, wait_for};
use crate::router::bed::{A, B, Client, LISTEN, PATIENCE, ping};
use crate::router::program::{Program, signal, wait_for_the_end};
use enftun::config::{self, Wanted};
use enftun::error::Class;
use enftun::identity::enrol::{Https, Login, Secret, enrol};
use enftun::identity::{Algorithm, PublicKey, keypair};
use enftun::router::registry::{Endpoint, Registry};
use enftun::tunnel::enf::wire::WireError;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{Read, Write};
use std::net::Ipv6Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::timeout;

const INTERFACE: &str = "[::1]:8443";
const NETWORK: &str = "fd00:8f80:1::/64";

/// A router with an enrolment interface; what it logs is kept.
struct Router(Program);

impl Router {
    fn new(users: &str) -> Self {
        let program = Program::new(&format!("[{LISTEN:?}]"));
        let mut config = fs::OpenOptions::new().append(true).open(&program.config).unwrap();
        writeln!(config, "[enrol]\nlisten = {INTERFACE:?}\nnetwork = {NETWORK:?}").unwrap();
        let router = Self(program);
        router.write_users(users);
        router
    }

    fn write_users(&self, text: &str) {
        enftun::files::replace(&self.0.fleet.dir.path().join("users"), text.as_bytes(), 0o600).unwrap();
    }

    fn start(&self) -> Running {
        let log = fs::OpenOptions::new().append(true).create(true).open(self.0.fleet.dir.path().join("log")).unwrap();
        let running = Running(self.0.command().stdin(Stdio::null()).stderr(log).spawn().unwrap());
        self.0.wait_until_it_answers();
        running
    }

    fn log(&self) -> String {
        fs::read_to_string(self.0.fleet.dir.path().join("log")).unwrap()
    }

    fn asker(&self) -> Asker {
        Asker::new(INTERFACE, &self.0.fleet.ca_file)
    }

    fn registry(&self) -> Registry {
        Registry::new(&self.0.fleet.dir.path().join("endpoints"))
    }

    fn endpoint(&self, address: &str) -> Option<Endpoint> {
        self.registry().find(address.parse().unwrap()).unwrap()
    }

    /// A verb that ends well; what it printed.
    #[track_caller]
    fn run(&self, arguments: &[&str]) -> String {
        let output = self.0.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// An identity that is enrolled by `user` with the password `secret`.
    async fn enrolled(&self, user: &str) -> (String, Identity) {
        let (asker, key) = (self.asker(), Identity::self_signed_v1("a key"));
        let token = asker.token(user, "secret").await;
        let answer = asker.enrol(&token, &key, json!({ "network": NETWORK })).await.unwrap();
        assert_eq!(answer.status, 201, "{answer:?}");
        let address = answer.body["address"].as_str().unwrap().to_owned();
        (address.clone(), Identity::self_signed_v1(Leaf::new(&address).key(&key.key)))
    }

    /// Whoever has this identity is not let in.
    async fn keeps_out(&self, address: &str, identity: &Identity) {
        let mut client = Client::shake_hands(&self.0.fleet, address, identity).await;
        let end = client.next_or_end().await.unwrap_err();
        assert_eq!(end.class(), Class::Credentials, "{end:?}");
    }
}

/// As the C client's library sends it.
fn c_client(router: &Router, path: &str, more: &str, body: &Value) -> Value {
    let dir = router.0.fleet.dir.path();
    fs::write(dir.join("body"), body.to_string()).unwrap();
    let answer = sh(&format!(
        "curl --silent --show-error --cacert {ca} --resolve router.example:8443:[::1] -A libcurl-agent/1.0 \
         -H 'Accept: application/json' -H 'Content-Type: application/json' {more} --data @{dir}/body \
         https://router.example:8443{path}",
        ca = router.0.fleet.ca_file.display(),
        dir = dir.display(),
    ));
    serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

#[test]
fn what_the_c_client_asks_for_it_gets_and_the_running_router_lets_it_in() {
    in_netns("c_client", || {
        if Command::new("curl").arg("--version").stdout(Stdio::null()).status().is_err() {
            return skip("what_the_c_client_asks_for_it_gets_and_the_running_router_lets_it_in", "curl is missing");
        }
        let router = Router::new(&user("alice", "open sesame", ""));
        let running = router.start();
        let login = c_client(&router, LOGIN, "", &json!({ "username": "alice", "token": "open sesame" }));
        let [session] = &login["data"].as_array().unwrap()[..] else { panic!("{login}") };
        let keys: HashSet<_> = session.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, HashSet::from(["username", "token", "user_id", "type", "domain_id", "domain_network"]));
        assert_eq!((&session["username"], &session["domain_network"]), (&json!("alice"), &json!(NETWORK)));
        assert_eq!(login["page"], json!({ "curr": 0, "next": -1, "prev": -1 }));
        let token = session["token"].as_str().unwrap();
        assert!(token.len() < 255, "what the C client has room for");

        let key = Identity::self_signed_v1("a key");
        let bearer = format!("-H 'authorization: Bearer {token}'");
        let request = wanted(&key, json!({ "network": NETWORK }));
        let answer = c_client(&router, ENDPOINTS, &bearer, &request);
        let address = answer["address"].as_str().unwrap();
        assert_eq!((&answer["network"], answer.as_object().unwrap().len()), (&json!(NETWORK), 5));
        let [credential] = &answer["active_credentials"]["body"].as_array().unwrap()[..] else { panic!("{answer}") };
        assert_eq!(credential["key"], request["ecdsa_credential"]["key"], "upper case, as it came");
        assert_eq!(credential["type"], "ecdsa_p256");

        let other = c_client(
            &router,
            ENDPOINTS,
            &bearer,
            &wanted(&Identity::self_signed_v1("b"), json!({ "address": address })),
        );
        assert_eq!(other["address"], address, "its own address with another key");
        let wrong = c_client(&router, ENDPOINTS, "", &request);
        assert_eq!((&wrong["http_error"], wrong.as_object().unwrap().len()), (&json!(401), 3), "{wrong}");
        c_client(&router, ENDPOINTS, &bearer, &wanted(&key, json!({ "address": address })));

        block_on(async {
            let identity = Identity::self_signed_v1(Leaf::new(address).key(&key.key));
            let mut client = Client::connect(&router.0.fleet, address, &identity).await;
            let mut neighbour = router.0.fleet.client(A).await;
            ping(&mut client, &mut neighbour).await;
        });
        let log = router.log();
        let print = &router.endpoint(address).unwrap().keys()[0].fingerprint;
        assert!(log.contains(&format!("{address} was enrolled by alice")) && log.contains(print), "{log}");
        assert!(!log.contains(token) && !log.contains("sesame"), "{log}");
        drop(running);
    });
}

#[test]
fn whatever_is_wrong_has_its_status_its_number_and_its_reason() {
    in_netns("statuses", || {
        let router = Router::new(&(user("alice", "secret", ":max=1") + &user("bob", "secret", "")));
        let _running = router.start();
        block_on(async {
            let (asker, key) = (router.asker(), Identity::self_signed_v1("a"));
            let token = asker.token("bob", "secret").await;
            let (alices, alices_token) = (router.enrolled("alice").await.0, asker.token("alice", "secret").await);
            let any = json!({ "network": NETWORK });
            let request = wanted(&key, any.clone()).to_string();
            let bad_key = request.replace("\"04", "\"05");
            let of = |address: &str| wanted(&key, json!({ "address": address })).to_string();
            let large = " ".repeat(100_000);
            let revoked = "fd00:8f80:1::dead";
            router.run(&["endpoints", "revoke", revoked]);
            for (status, number, path, token, body) in [
                (400, 1, LOGIN, "", "{"),
                (400, 1, LOGIN, "", "{\"username\":\"alice\",\"token\":null}"),
                (401, 4, LOGIN, "", "{\"username\":\"alice\",\"token\":\"guess\"}"),
                (401, 4, LOGIN, "", "{\"username\":\"nobody\",\"token\":\"guess\"}"),
                (401, 5, ENDPOINTS, "", request.as_str()),
                (401, 5, ENDPOINTS, "made-up", &request),
                (400, 1, ENDPOINTS, &token, "[]"),
                (400, 2, ENDPOINTS, &token, &bad_key),
                (400, 3, ENDPOINTS, &token, &of("fd00:8f80:1::")),
                (403, 6, ENDPOINTS, &token, &of("fd00:8f80:2::7")),
                (403, 8, ENDPOINTS, &token, &of(revoked)),
                (403, 9, ENDPOINTS, &alices_token, &request),
                (404, 10, "/", "", ""),
                (404, 10, "/api/xiam/v1/endpoints/", &token, &request),
                (409, 12, ENDPOINTS, &token, &of(&alices)),
                (413, 13, LOGIN, "", &large),
                (413, 13, ENDPOINTS, &token, &large),
            ] {
                let answer = asker.post(path, Some(token), body).await.unwrap();
                let case = format!("{path} {}: {answer:?}", &body[..body.len().min(200)]);
                assert_eq!((answer.status, answer.body["xiam_error"].as_i64()), (status, Some(number)), "{case}");
                assert_eq!(answer.body["http_error"].as_u64(), Some(status.into()), "{case}");
                assert!(answer.body["reason"].as_str().is_some_and(|reason| reason.len() > 10), "{case}");
                assert_eq!(answer.header("content-type"), Some("application/json"), "{case}");
                assert_eq!(answer.header("www-authenticate"), (number == 5).then_some("Bearer"), "{case}");
            }
            for path in [LOGIN, ENDPOINTS] {
                let answer =
                    asker.say(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await;
                let answer = answer.unwrap();
                assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")));
            }
            // What does not say how much it is, is counted while it comes.
            let head =
                format!("POST {LOGIN} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n");
            let chunked = format!("{head}{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
            assert_eq!(asker.say(chunked.as_bytes()).await.unwrap().status, 413);
            assert_eq!(asker.enrol(&token, &key, any).await.unwrap().status, 201, "and what is right is done");
        });
        assert!(!router.log().contains("guess"), "{}", router.log());
    });
}

#[test]
fn who_logs_in_too_often_has_to_wait_and_is_told_how_long() {
    in_netns("too_often", || {
        let router = Router::new(&user("alice", "secret", ""));
        let _running = router.start();
        block_on(async {
            let asker = router.asker();
            let mut refused = None;
            for _ in 0..20 {
                let answer = asker.log_in("alice", "guess").await.unwrap();
                if answer.status == 429 {
                    refused = Some(answer);
                    break;
                }
                assert_eq!(answer.status, 401);
            }
            let refused = refused.expect("a limit");
            assert!((1..=6).contains(&refused.header("retry-after").unwrap().parse::<u32>().unwrap()), "{refused:?}");
            assert_eq!(asker.log_in("alice", "secret").await.unwrap().status, 429, "the right password, too");
            assert_eq!(asker.log_in("bob", "guess").await.unwrap().status, 401, "another user is not concerned");
            let status = router.0.status().enrol.unwrap();
            assert_eq!((status.logins, status.logins_refused > 10), (0, true));
        });
    });
}

#[test]
fn a_one_time_password_is_used_up_by_the_enrolment_and_by_nothing_else() {
    in_netns("one_time", || {
        let router = Router::new(&user("device", "secret", ":once"));
        let running = router.start();
        let any = || json!({ "network": NETWORK });
        let (one, two) = (Identity::self_signed_v1("1"), Identity::self_signed_v1("2"));
        let address = block_on(async {
            let asker = router.asker();
            let token = asker.token("device", "secret").await;
            // Neither a login nor a request that comes to nothing uses it up.
            assert_eq!(asker.enrol(&token, &one, json!({ "address": "fd00::1" })).await.unwrap().status, 403);
            let answer = asker.enrol(&token, &one, any()).await.unwrap();
            assert_eq!(asker.enrol(&token, &two, any()).await.unwrap().status, 403);
            answer.body["address"].clone()
        });
        drop(running);
        let _running = router.start();
        block_on(async {
            let asker = router.asker();
            let token = asker.token("device", "secret").await;
            let refused = asker.enrol(&token, &two, any()).await.unwrap();
            assert_eq!((refused.status, &refused.body["xiam_error"]), (403, &json!(7)), "{refused:?}");
            let again = asker.enrol(&token, &one, any()).await.unwrap();
            assert_eq!((again.status, &again.body["address"]), (200, &address), "whoever has not heard the answer");
        });
        assert_eq!(router.registry().list().unwrap().len(), 1);
    });
}

/// One who asks for an address with new keys, again and again, until nobody answers any more.
async fn enrol_until_the_end(
    asker: Asker,
    token: String,
    answered: tokio::sync::mpsc::UnboundedSender<(String, Identity)>,
) {
    loop {
        let key = Identity::self_signed_v1("a key");
        match asker.enrol(&token, &key, json!({ "network": NETWORK })).await {
            Ok(answer) => {
                assert_eq!(answer.status, 201, "{answer:?}");
                answered.send((answer.body["address"].as_str().unwrap().to_owned(), key)).unwrap();
            }
            Err(_) => return,
        }
    }
}

#[test]
fn a_router_killed_amid_enrolments_keeps_every_one_that_it_answered_and_no_half_one() {
    in_netns("killed", || {
        let rounds = 5;
        let once: String = (0..rounds * 4).map(|at| user(&format!("once{at}"), "secret", ":once")).collect();
        let router = Router::new(&(user("alice", "secret", ":max=100000") + &once));
        let mut all: HashMap<String, Identity> = HashMap::new();
        for round in 0..rounds {
            let running = router.start();
            let pid = nix::unistd::Pid::from_raw(running.0.id().try_into().unwrap());
            block_on(async {
                let asker = router.asker();
                let (to, mut answered) = tokio::sync::mpsc::unbounded_channel();
                let mut askers = JoinSet::new();
                let mut tokens = Vec::new();
                for at in 0..4 {
                    tokens.push(asker.token(&format!("once{}", round * 4 + at), "secret").await);
                }
                let token = asker.token("alice", "secret").await;
                for _ in 0..6 {
                    askers.spawn(enrol_until_the_end(asker.clone(), token.clone(), to.clone()));
                }
                // Each password that is good once, for two keys at the same time.
                for token in tokens.into_iter().flat_map(|token| [token.clone(), token]) {
                    let (asker, to) = (asker.clone(), to.clone());
                    askers.spawn(async move {
                        let key = Identity::self_signed_v1("a key");
                        match asker.enrol(&token, &key, json!({ "network": NETWORK })).await {
                            Ok(answer) if answer.status == 201 => {
                                to.send((answer.body["address"].as_str().unwrap().to_owned(), key)).unwrap();
                            }
                            Ok(answer) => assert_eq!(answer.body["xiam_error"], 7, "{answer:?}"),
                            Err(_) => {}
                        }
                    });
                }
                drop(to);
                for _ in 0..10 + 7 * round {
                    let (address, key) = timeout(PATIENCE, answered.recv()).await.unwrap().unwrap();
                    assert!(all.insert(address, key).is_none(), "an address is given twice");
                }
                nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
                askers.join_all().await;
                while let Some((address, key)) = answered.recv().await {
                    assert!(all.insert(address, key).is_none(), "an address is given twice");
                }
            });
            drop(running);
            let kept = router.registry().list().unwrap();
            for endpoint in &kept {
                assert_eq!(endpoint.keys().len(), 1, "half a file: {endpoint:?}");
            }
            let by_address: HashMap<String, _> =
                kept.iter().map(|endpoint| (endpoint.address.to_string(), endpoint)).collect();
            for (address, key) in &all {
                let spki = rcgen::PublicKeyData::subject_public_key_info(&*key.key);
                assert!(by_address[address].has_only(&spki), "{address} was answered");
            }
            let users: Vec<_> = kept.iter().filter_map(|endpoint| endpoint.user.as_deref()).collect();
            for at in 0..rounds * 4 {
                let name = format!("once{at}");
                assert!(users.iter().filter(|user| **user == name).count() <= 1, "{name} was used up twice");
            }
        }
        // The next one starts clean, and whoever has not heard the answer gets the same again.
        let _running = router.start();
        let left = fs::read_dir(router.0.fleet.dir.path().join("endpoints")).unwrap();
        assert!(left.map(|entry| entry.unwrap().file_name()).all(|name| name.to_str().unwrap().ends_with(".pem")));
        block_on(async {
            let asker = router.asker();
            let token = asker.token("alice", "secret").await;
            let alices =
                all.iter().filter(|(address, _)| router.endpoint(address).unwrap().user.as_deref() == Some("alice"));
            for (address, key) in alices.take(5) {
                let again = asker.enrol(&token, key, json!({ "network": NETWORK })).await.unwrap();
                assert_eq!((again.status, again.body["address"].as_str()), (200, Some(address.as_str())));
            }
        });
    });
}

#[test]
fn a_client_that_is_revoked_is_dropped_at_once_and_stays_out() {
    in_netns("revoked", || {
        let router = Router::new(&user("alice", "secret", ""));
        let _running = router.start();
        block_on(async {
            let (address, identity) = router.enrolled("alice").await;
            let mut client = Client::connect(&router.0.fleet, &address, &identity).await;
            let mut other = router.0.fleet.client(A).await;
            ping(&mut client, &mut other).await;

            assert!(router.run(&["endpoints", "revoke", &address]).contains("is revoked"));
            assert!(matches!(client.next_or_end().await, Err(WireError::Closed)), "a goodbye");
            // It does not go by itself, and reaches nobody any more; nor does anybody reach it.
            let request = other.request(&address);
            other.send(&request).await;
            other.ask_router().await;
            assert!(other.received.is_empty() && client.received.is_empty());
            drop(client);
            router.keeps_out(&address, &identity).await;
            let status = router.0.status();
            assert_eq!((status.totals.revoked, status.totals.handshakes_failed), (1, 1));
            ping(&mut other, &mut router.0.fleet.client(B).await).await;
            if let Some(samples) = Samples::read("revoked", &router.run(&["metrics"])) {
                samples.are_documented("enftun_router_", "");
                assert_eq!(samples.value("enftun_router_sessions_revoked_total{}"), 1.0);
                assert_eq!(samples.value("enftun_router_enrol_requests_total{outcome=new}"), 1.0);
                assert_eq!(samples.value("enftun_router_enrol_logins_total{outcome=done}"), 1.0);
            }

            // Its user does not get it again, the administrator gives it out again.
            let asker = router.asker();
            let token = asker.token("alice", "secret").await;
            assert_eq!(asker.enrol(&token, &identity, json!({ "address": address })).await.unwrap().status, 403);
            let (cert_file, _) = identity.write(router.0.fleet.dir.path(), "again");
            let added = router.run(&["endpoints", "add", &address, cert_file.to_str().unwrap()]);
            assert!(added.contains("is enrolled with the ecdsa_p256 key") && added.contains("revoked"), "{added}");
            Client::connect(&router.0.fleet, &address, &identity).await;
        });
        let log = router.log();
        assert!(log.contains("is revoked") && log.contains("is a client no more"), "{log}");
    });
}

#[test]
fn a_revocation_binds_whoever_signed_the_certificate() {
    in_netns("revoked_under_the_ca", || {
        let router = Router::new("");
        let running = router.start();
        block_on(async {
            let identity = router.0.fleet.identity(A);
            let mut client = Client::connect(&router.0.fleet, A, &identity).await;
            // Two sessions of it: one that was superseded does not get the address back.
            let mut newer = Client::connect(&router.0.fleet, A, &identity).await;
            assert!(router.run(&["endpoints", "revoke", A]).contains("was not enrolled"));
            for session in [&mut newer, &mut client] {
                assert!(matches!(session.next_or_end().await, Err(WireError::Closed)));
            }
            router.keeps_out(A, &identity).await;
            router.0.fleet.client(B).await;
        });
        drop(running);
        let _running = router.start();
        block_on(router.keeps_out(A, &router.0.fleet.identity(A)));
    });
}

#[test]
fn a_file_that_goes_ends_the_session_that_it_let_in_and_one_that_is_replaced_does_not() {
    in_netns("file_gone", || {
        let router = Router::new("");
        let _running = router.start();
        let endpoints = router.0.fleet.dir.path().join("endpoints");
        block_on(async {
            let (one, two) = (Identity::self_signed_v1(A), Identity::self_signed_v1(A));
            let file = endpoints.join(format!("{A}.pem"));
            fs::write(&file, one.public_key_pem()).unwrap();
            let mut client = Client::connect(&router.0.fleet, A, &one).await;
            let mut certified = router.0.fleet.client(B).await;
            fs::write(endpoints.join(format!("{B}.pem")), two.public_key_pem()).unwrap();

            // Renewed: who is there stays, and whoever comes needs the new key.
            enftun::files::replace(&file, two.public_key_pem().as_bytes(), 0o600).unwrap();
            router.keeps_out(A, &one).await;
            ping(&mut client, &mut certified).await;
            let mut renewed = Client::connect(&router.0.fleet, A, &two).await;
            ping(&mut renewed, &mut certified).await;

            fs::remove_file(&file).unwrap();
            assert!(matches!(renewed.next_or_end().await, Err(WireError::Closed)));
            fs::remove_file(endpoints.join(format!("{B}.pem"))).unwrap();
            certified.ask_router().await;
        });
        // The directory itself goes and comes: it is watched again.
        fs::rename(&endpoints, endpoints.with_extension("old")).unwrap();
        fs::create_dir(&endpoints).unwrap();
        block_on(async {
            let one = Identity::self_signed_v1(A);
            fs::write(endpoints.join(format!("{A}.pem")), one.public_key_pem()).unwrap();
            let mut client = Client::connect(&router.0.fleet, A, &one).await;
            fs::remove_file(endpoints.join(format!("{A}.pem"))).unwrap();
            assert!(matches!(client.next_or_end().await, Err(WireError::Closed)));
        });
    });
}

#[test]
fn who_says_nothing_or_dribbles_is_sent_away_and_sessions_go_on_meanwhile() {
    in_netns("slowloris", || {
        let router = Router::new(&user("alice", "secret", ""));
        let _running = router.start();
        block_on(async {
            let (mut a, mut b) = (router.0.fleet.client(A).await, router.0.fleet.client(B).await);
            let asker = router.asker();
            let mut stalled = JoinSet::new();
            let ended = Arc::new(tokio::sync::Semaphore::new(0));
            for at in 0..24 {
                let (asker, ended) = (asker.clone(), Arc::clone(&ended));
                stalled.spawn(async move {
                    // No TLS, no request, a request whose head dribbles, a body that never ends.
                    if at % 4 == 0 {
                        let mut io = tokio::net::TcpStream::connect(asker.interface).await.unwrap();
                        let _ = io.read(&mut [0]).await;
                    } else if let Ok(mut stream) = asker.connect().await {
                        let head: &[u8] = match at % 4 {
                            1 => b"",
                            2 => b"POST /api/xcr/v2/xauth HTTP/1.1\r\nhost: ",
                            _ => b"POST /api/xcr/v2/xauth HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n{",
                        };
                        let _ = stream.write_all(head).await;
                        let mut left = [0; 64];
                        loop {
                            tokio::select! {
                                read = stream.read(&mut left) => match read {
                                    Ok(1..) => {}
                                    Ok(0) | Err(_) => break,
                                },
                                () = tokio::time::sleep(std::time::Duration::from_millis(300)) => {
                                    if at % 4 > 1 && stream.write_all(b"x").await.is_err() {
                                        break;
                                    }
                                }
                            }
                        }
                    }
                    ended.add_permits(1);
                });
            }
            // Sixteen of one source have a place, and the others are sent away at once.
            let sent_away = timeout(PATIENCE, ended.acquire_many(8)).await.unwrap().unwrap();
            sent_away.forget();
            assert!(asker.log_in("alice", "secret").await.is_err(), "no place is left");
            let mut pings = 0;
            while !stalled.is_empty() {
                ping(&mut a, &mut b).await;
                pings += 1;
                while stalled.try_join_next().is_some() {}
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            assert!(pings > 10, "{pings}");
            assert_eq!(asker.log_in("alice", "secret").await.unwrap().status, 200, "places are free again");
        });
    });
}

#[test]
fn a_renewed_certificate_is_the_interfaces_too() {
    in_netns("reload", || {
        let router = Router::new("");
        let running = router.start();
        let served = || {
            block_on(async {
                let stream = router.asker().connect().await.unwrap();
                stream.get_ref().1.peer_certificates().unwrap()[0].clone()
            })
        };
        let before = served();
        let renewed = router.0.fleet.ca.sign_v1("router.example");
        renewed.write(router.0.fleet.dir.path(), "router");
        assert_eq!(served(), before);
        signal(&running, Signal::SIGHUP);
        wait_for("the new certificate", || served() == renewed.cert_der);
        signal(&running, Signal::SIGTERM);
        assert!(wait_for_the_end(running).success());
    });
}

#[test]
fn the_verbs_keep_users_and_endpoints_and_their_documents_are_as_the_schema_has_them() {
    const TEST: &str = "the_verbs_keep_users_and_endpoints_and_their_documents_are_as_the_schema_has_them";
    in_netns("verbs", || {
        let router = Router::new("# our devices\n");
        let _running = router.start();
        let users = router.0.fleet.dir.path().join("users");
        let set = |arguments: &[&str], password: &str| -> Output {
            let mut command = router.0.command();
            let mut child = command
                .args(["users", "set"])
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
            child.wait_with_output().unwrap()
        };
        assert!(set(&["alice", "--network", "fd00:8f80:2::/64", "--max", "3"], "secret\n").status.success());
        let file = router.0.fleet.dir.path().join("password");
        fs::write(&file, "secret\nand more").unwrap();
        assert!(set(&["device", "--once", "--password-file", file.to_str().unwrap()], "").status.success());
        assert!(fs::read_to_string(&users).unwrap().starts_with("# our devices\nalice:$argon2id$"));
        assert_eq!(fs::metadata(&users).unwrap().permissions().mode() & 0o777, 0o600);

        let (address, identity) = block_on(router.enrolled("device"));
        router.run(&["endpoints", "revoke", B]);
        let listed: Value = serde_json::from_str(&router.run(&["users", "list", "--json"])).unwrap();
        let expected = json!([
            { "name": "alice", "network": "fd00:8f80:2::/64", "once": false, "used": false, "endpoints": 0, "max": 3 },
            { "name": "device", "network": NETWORK, "once": true, "used": true, "endpoints": 1, "max": 100 },
        ]);
        assert_eq!(listed["users"], expected);
        let endpoints: Value = serde_json::from_str(&router.run(&["endpoints", "list", "--json"])).unwrap();
        let of = |address: &str| {
            let all = endpoints["endpoints"].as_array().unwrap();
            all.iter().find(|endpoint| endpoint["address"] == address).unwrap().clone()
        };
        assert_eq!((&of(&address)["user"], &of(&address)["revoked"]), (&json!("device"), &Value::Null));
        assert_eq!(of(&address)["keys"][0]["type"], "ecdsa_p256");
        assert!(of(B)["revoked"].is_u64() && of(B)["keys"] == json!([]));
        let text = router.run(&["endpoints", "list"]);
        assert!(text.contains("enrolled") && text.contains("revoked") && text.contains(&address), "{text}");
        assert!(router.run(&["users", "list"]).contains("used up"));
        assert!(router.run(&["status"]).contains("1 addresses given"));

        // Set again: the network stays, the password is another one at once.
        assert!(set(&["alice"], "other").status.success());
        block_on(async {
            let asker = router.asker();
            assert_eq!(asker.log_in("alice", "secret").await.unwrap().status, 401);
            let answer = asker.log_in("alice", "other").await.unwrap();
            assert_eq!(answer.body["data"][0]["domain_network"], "fd00:8f80:2::/64");
        });
        let gone = router.run(&["users", "remove", "device"]);
        assert!(gone.contains("1 endpoints of device stay enrolled"), "{gone}");
        block_on(async {
            assert_eq!(router.asker().log_in("device", "secret").await.unwrap().status, 401);
            Client::connect(&router.0.fleet, &address, &identity).await;
        });

        let key = router.0.fleet.dir.path().join("key.pem");
        fs::write(&key, &identity.key_pem).unwrap();
        let code = |arguments: &[&str]| router.0.run(arguments).status.code().unwrap();
        assert_eq!(code(&["users", "remove", "device"]), 5);
        assert_eq!(code(&["endpoints", "add", A, "/nowhere"]), 5);
        assert_eq!(code(&["endpoints", "add", A, key.to_str().unwrap()]), 1, "a private key");
        assert_eq!(code(&["endpoints", "add", "ff02::1", key.to_str().unwrap()]), 1);
        assert_eq!(code(&["endpoints", "revoke", "router.example"]), 2);
        assert_eq!(code(&["users", "set", "a:b"]), 2);
        assert_eq!(code(&["users", "set", "a", "--password-file", "/nowhere"]), 5);
        assert_eq!(set(&["empty"], "\n").status.code(), Some(1));

        if let Some(reason) = schema::no_validator() {
            return skip(TEST, reason);
        }
        schema::hold(schema::ROUTER, "users-list", &[listed]);
        schema::hold(schema::ROUTER, "endpoints-list", &[endpoints]);
        let status = router.run(&["status", "--json"]);
        schema::hold(schema::ROUTER, "status", &schema::documents(&status));
    });
}

#[test]
fn a_password_that_is_typed_is_asked_for_twice_and_shown_nowhere() {
    const TEST: &str = "a_password_that_is_typed_is_asked_for_twice_and_shown_nowhere";
    in_netns("typed", || {
        if Command::new("script").arg("--version").stdout(Stdio::null()).status().is_err() {
            return skip(TEST, "script is missing");
        }
        let router = Router::new("");
        let config = router.0.config.display().to_string();
        // Each pair: what it asks, and what is typed then.
        let on_a_terminal = |talk: &[(&str, &str)]| {
            let mut script = Command::new("script");
            let program = env!("CARGO_BIN_EXE_enftun-router");
            script.args(["-qefc", &format!("{program} --config {config} users set alice"), "/dev/null"]);
            let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            let (mut keys, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
            let mut shown = String::new();
            for (asked, typed) in talk {
                while !shown.contains(asked) {
                    let mut byte = [0];
                    screen.read_exact(&mut byte).unwrap_or_else(|error| panic!("{error}: {shown}"));
                    shown.push(byte[0].into());
                }
                keys.write_all(typed.as_bytes()).unwrap();
            }
            let _ = screen.read_to_string(&mut shown);
            (child.wait().unwrap().code(), shown)
        };
        let (first, again) = ("New password of alice: ", "The same again: ");
        for (talk, told) in [
            (&[(first, "open sesame\r"), (again, "open sesam\r")][..], "not the same"),
            (&[(first, "\x03")], "no password was given"),
            (&[(first, "\r")], "is empty"),
        ] {
            let (code, shown) = on_a_terminal(talk);
            assert!(code == Some(1) && shown.contains(told) && !shown.contains("sesam"), "{code:?} {shown}");
        }
        let users = || fs::read_to_string(router.0.fleet.dir.path().join("users")).unwrap();
        assert_eq!(users(), "");
        let (code, shown) = on_a_terminal(&[(first, "open sesamf\x7fe\r"), (again, "open sesame\r")]);
        assert!(code == Some(0) && !shown.contains("sesam"), "{code:?} {shown}");
        let hash = users().trim_end().strip_prefix("alice:").unwrap().to_owned();
        assert!(enftun::router::enrol::passwords::is_right(b"open sesame", &hash));
    });
}

#[test]
fn our_own_client_gets_an_address_for_each_kind_of_key_and_is_let_in_with_it() {
    in_netns("own_client", || {
        let router = Router::new(&user("alice", "secret", ""));
        let _running = router.start();
        let text = format!(
            "kind = \"enf\"\nremote.hosts = [\"router.example\"]\nremote.name = \"router.example\"\n\
             [enrol]\nurl = \"https://router.example:8443\"\nca_cert_file = {:?}\n",
            router.0.fleet.ca_file
        );
        let (tunnel, findings) = config::parse_tunnel("enf0", Path::new("enf0.toml"), Path::new("/"), &text);
        let tunnel = tunnel.unwrap_or_else(|| panic!("{findings:?}"));
        let enf = tunnel.kind.enf().unwrap();
        let asked = enf.enrol.as_ref().unwrap();
        block_on(async {
            let https = Https::new(asked, &tunnel.tpm).unwrap();
            let dial = async || {
                let stream = tokio::net::TcpStream::connect(INTERFACE).await.unwrap();
                https.secure(stream).await
            };
            let login = Login { user: "alice".into(), password: Secret::new("secret".into()) };
            let mut neighbour = router.0.fleet.client(A).await;
            for algorithm in Algorithm::ALL {
                let key = Arc::new(keypair(algorithm).unwrap());
                let public = PublicKey::of(&*key).unwrap();
                let enrolled = enrol(&asked.url, &login, Wanted::Auto, &public, dial).await.unwrap();
                assert_eq!(enrolled.network, NETWORK.parse().ok());
                let address = enrolled.address.to_string();
                let identity = Identity::self_signed_v3(Leaf::new(&address).key(&key));
                let mut client = Client::connect(&router.0.fleet, &address, &identity).await;
                ping(&mut client, &mut neighbour).await;
                // Renewed: the same address, another key.
                let renewed = PublicKey::of(&keypair(algorithm).unwrap()).unwrap();
                let exactly = Wanted::Exactly(enrolled.address);
                assert_eq!(enrol(&asked.url, &login, exactly, &renewed, dial).await.unwrap().address, enrolled.address);
                ping(&mut client, &mut neighbour).await;
                router.keeps_out(&address, &identity).await;
            }
            let wrong = Login { password: Secret::new("guess".into()), ..login.clone() };
            let public = PublicKey::of(&keypair(Algorithm::P256).unwrap()).unwrap();
            let refused = enrol(&asked.url, &wrong, Wanted::Auto, &public, dial).await.unwrap_err();
            assert_eq!(refused.class(), Class::Credentials, "{refused}");
        });
    });
}

#[test]
#[ignore = "a figure: cargo test --test netns enrol::figures -- --ignored --nocapture"]
fn figures_with_many_endpoints() {
    in_netns("figures", || {
        let router = Router::new(&user("alice", "secret", ""));
        let endpoints = router.0.fleet.dir.path().join("endpoints");
        let pem = Identity::self_signed_v1("a key").public_key_pem();
        for at in 0..20_000 {
            let text = format!("User: user{at}\nCreated: 1767323045\n{pem}");
            fs::write(endpoints.join(format!("fd00:8f80:3::{:x}:{:x}.pem", 1 + at / 60_000, 1 + at)), text).unwrap();
        }
        let _running = router.start();
        block_on(async {
            let asker = router.asker();
            let token = asker.token("alice", "secret").await;
            let mut times = Vec::new();
            for _ in 0..21 {
                let (key, begun) = (Identity::self_signed_v1("a key"), std::time::Instant::now());
                let answer = asker.enrol(&token, &key, json!({ "network": NETWORK })).await.unwrap();
                assert_eq!(answer.status, 201);
                times.push(begun.elapsed());
            }
            let first = times[0];
            times.sort_unstable();
            crate::common::figure(&format!("20,000 endpoints: first enrolment {first:?}, median {:?}", times[10]));
        });
    });
}

/// That the addresses above are what they are said to be.
#[test]
fn the_network_of_the_tests_is_not_that_of_their_clients() {
    let network: ipnet::Ipv6Net = NETWORK.parse().unwrap();
    assert!([A, B].iter().all(|address| !network.contains(&address.parse::<Ipv6Addr>().unwrap())));
}
