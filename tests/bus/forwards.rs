//! Tunnels that forward connections (kind `aws-iot`): what the bus and `enftunctl` show of them, and how they get other tokens
//! without anybody seeing these.

use crate::common::bus::{PrivateBus, no_other_uid, own_uid, stderr, stdout};
use crate::common::polkit::Polkit;
use crate::common::{skip, wait_for};
use crate::listener::{Listener, Signal};
use crate::simulation::{LOG_LEVEL, Simulation, failure, time};
use enftun::daemon::{Refusal, Request};
use enftun::dbus::{self, Bus};
use enftun::state::{Phase, Reason};
use enftun::tunnel::aws::tokens::Tokens;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Mutex;
use std::time::Duration;

const NAME: &str = "org.enftun.Enftun1";
const DESK: &str = "/org/enftun/Enftun1/tunnel/desk";
const TUNNEL: &str = "org.enftun.Enftun1.Tunnel";
const STATISTICS: &str = "org.enftun.Enftun1.Tunnel.Statistics";
const FORWARDS: &str = "org.enftun.Enftun1.Tunnel.Forwards";
const CTL: &str = env!("CARGO_BIN_EXE_enftunctl");

const ACCESS: &str = "AQGAAXjTheAccessTokenThatNobodySees";
const CLIENT: &str = "c11e4770-4e75-4ab5-9c1d-000000000042";

/// The tunnel desk, which forwards, and enf0, which does not.
async fn world(test: &str) -> Option<(PrivateBus, Simulation, Bus)> {
    let bus = PrivateBus::start(test)?;
    let (daemon, core) = Simulation::new(&["desk", "enf0"]);
    daemon.forwards("desk");
    let served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    Some((bus, daemon, served))
}

#[track_caller]
fn property(bus: &PrivateBus, name: &str) -> String {
    stdout(bus.busctl(&["get-property", NAME, DESK, FORWARDS, name])).trim_end().to_owned()
}

fn ctl(bus: &PrivateBus, args: &[&str]) -> Output {
    bus.command(CTL).args(args).output().unwrap()
}

fn rotate(tokens: &Tokens) -> Request {
    Request::RotateTokens { tunnel: "desk".to_owned(), tokens: tokens.clone() }
}

fn tokens() -> Tokens {
    Tokens::new(ACCESS.to_owned(), Some(CLIENT.to_owned())).unwrap()
}

/// Calls as a program does, and gives the error's name and text.
async fn hand_over(connection: &zbus::Connection, file: impl Into<OwnedFd>) -> Result<(), (String, String)> {
    let file = zbus::Fd::from(file.into());
    let done = connection.call_method(Some(NAME), DESK, Some(FORWARDS), "RotateTokens", &file).await;
    done.map(drop).map_err(|error| match error {
        zbus::Error::MethodError(name, text, _) => (name.to_string(), text.unwrap_or_default()),
        other => panic!("{other:?}"),
    })
}

fn file(text: &str) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.rewind().unwrap();
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn services_the_port_left_to_chance_connections_and_counters_are_read_by_busctl() {
    let Some((bus, daemon, _served)) =
        world("services_the_port_left_to_chance_connections_and_counters_are_read_by_busctl").await
    else {
        return;
    };
    assert_eq!(property(&bus, "Mode"), "s \"source\"");
    assert_eq!(property(&bus, "ChannelId"), "s \"0ddba11\"");
    assert_eq!(
        property(&bus, "Services"),
        "a(ssu) 2 \"DB\" \"/run/db.sock\" 0 \"SSH\" \"127.0.0.1\" 40123",
        "also the port that nobody chose"
    );
    assert_eq!(property(&bus, "Connections"), "a(tssttt) 0");
    let live = daemon.live("desk");
    let ssh = live.open("SSH", "127.0.0.1:50000".to_owned());
    ssh.received(3);
    ssh.sent(5);
    drop(live.open("DB", "pid 7".to_owned()));
    live.counters("DB").refused.fetch_add(2, std::sync::atomic::Ordering::Relaxed);
    let rows = property(&bus, "Connections");
    assert!(rows.starts_with("a(tssttt) 1 1 \"SSH\" \"127.0.0.1:50000\" 1") && rows.ends_with(" 3 5"), "{rows}");
    assert_eq!(
        property(&bus, "Counters"),
        "a{sa{st}} 2 \"DB\" 8 \"active\" 0 \"connections\" 1 \"refused\" 2 \"reset\" 0 \"rx-bytes\" 0 \"too-slow\" 0 \
         \"tx-bytes\" 0 \"unreachable\" 0 \"SSH\" 8 \"active\" 1 \"connections\" 1 \"refused\" 0 \"reset\" 0 \
         \"rx-bytes\" 3 \"too-slow\" 0 \"tx-bytes\" 5 \"unreachable\" 0"
    );
    let read = |name: &str| stdout(bus.busctl(&["get-property", NAME, DESK, TUNNEL, name])).trim_end().to_owned();
    assert_eq!((read("Kind").as_str(), read("Interface").as_str()), ("s \"aws-iot\"", "s \"\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn new_places_and_channels_are_told_and_counters_are_not() {
    let Some((bus, daemon, _served)) = world("new_places_and_channels_are_told_and_counters_are_not").await else {
        return;
    };
    let mut listener = Listener::new(&bus).await;
    let live = daemon.live("desk");
    let connection = live.open("SSH", "127.0.0.1:50000".to_owned());
    connection.sent(1);
    live.rest();
    daemon.show_places("desk");
    let told = listener.next().await;
    let Signal::Properties(path, interface, values) = told else { panic!("{told:?}") };
    assert_eq!((path.as_str(), interface.as_str()), (DESK, FORWARDS));
    assert_eq!(values.keys().collect::<Vec<_>>(), ["ChannelId", "Services"]);
    assert_eq!(property(&bus, "Services"), "a(ssu) 2 \"DB\" \"\" 0 \"SSH\" \"\" 0");
    assert_eq!(property(&bus, "ChannelId"), "s \"\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_that_becomes_another_kind_or_another_end_has_another_object() {
    let Some((bus, daemon, _served)) =
        world("a_tunnel_that_becomes_another_kind_or_another_end_has_another_object").await
    else {
        return;
    };
    let mut listener = Listener::new(&bus).await;
    let ready = |path: &str, last: &str| {
        let (path, last) = (path.to_owned(), last.to_owned());
        move |signal: &Signal| matches!(signal, Signal::Added(at, interfaces) if *at == path && interfaces.contains(&last))
    };
    let changes = |signals: &[Signal], path: &str| -> Vec<String> {
        let of = |interfaces: &std::collections::BTreeSet<String>| {
            interfaces.iter().map(|name| name.rsplit('.').next().unwrap().to_owned()).collect::<String>()
        };
        let change = |signal: &Signal| match signal {
            Signal::Added(at, interfaces) if at == path => Some(format!("+{}", of(interfaces))),
            Signal::Removed(at, interfaces) if at == path => Some(format!("-{}", of(interfaces))),
            _ => None,
        };
        signals.iter().filter_map(change).collect()
    };
    let enf0 = "/org/enftun/Enftun1/tunnel/enf0";
    daemon.forwards("enf0");
    let heard = listener.until(ready(enf0, TUNNEL)).await;
    assert_eq!(changes(&heard, enf0), ["-Tunnel", "-Statistics", "+Forwards", "+Statistics", "+Tunnel"]);
    assert_eq!(changes(&heard, DESK), [""; 0], "the other one stays");
    daemon.tunnel("enf0", |tunnel| tunnel.forwards.as_mut().unwrap().mode = "destination");
    let heard = listener.until(ready(enf0, TUNNEL)).await;
    assert_eq!(changes(&heard, enf0), ["-Tunnel", "-Statistics", "-Forwards", "+Forwards", "+Statistics", "+Tunnel"]);
    let mode = || bus.busctl(&["get-property", NAME, enf0, FORWARDS, "Mode"]);
    assert_eq!(stdout(mode()), "s \"destination\"\n");
    daemon.tunnel("enf0", |tunnel| (tunnel.kind, tunnel.forwards) = ("enf", None));
    let heard = listener.until(ready(enf0, TUNNEL)).await;
    assert_eq!(changes(&heard, enf0), ["-Tunnel", "-Statistics", "-Forwards", "+Statistics", "+Tunnel"]);
    assert!(!mode().status.success());
    daemon.transition("enf0", Phase::Connecting, Reason::User);
    bus.shows("enf0", "State", "s \"connecting\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_taken_from_a_file_and_from_a_pipe() {
    let Some((bus, daemon, _served)) = world("tokens_are_taken_from_a_file_and_from_a_pipe").await else { return };
    let connection = Listener::new(&bus).await.connection;
    hand_over(&connection, file(&format!("{ACCESS}\n{CLIENT}\n"))).await.unwrap();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let slowly = std::thread::spawn(move || {
        for byte in ACCESS.bytes() {
            writer.write_all(&[byte]).unwrap();
        }
    });
    hand_over(&connection, OwnedFd::from(reader)).await.unwrap();
    slowly.join().unwrap();
    let alone = Tokens::new(ACCESS.to_owned(), None).unwrap();
    assert_eq!(daemon.requests(), [rotate(&tokens()), rotate(&alone)]);
    assert_eq!(daemon.asked()[0].1.uid, Some(own_uid()));
    bus.shows("desk", "State", "s \"connecting\"");
    bus.shows("desk", "StateReason", "s \"user\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_tokens_is_refused_in_words_that_do_not_show_it() {
    let Some((bus, daemon, _served)) = world("what_cannot_be_tokens_is_refused_in_words_that_do_not_show_it").await
    else {
        return;
    };
    let connection = Listener::new(&bus).await.connection;
    for (given, expected) in [
        (file(""), "the access token is empty"),
        (file(&format!("{ACCESS} {ACCESS}")), "a character in it that no token has"),
        (file(&format!("{ACCESS}\n{ACCESS}_")), "the client token is not 32 to 128"),
        (file(&format!("{ACCESS}\n{CLIENT}\n{ACCESS}")), "more than an access token"),
        (file(&ACCESS.repeat(1000)), "larger than 8192 bytes"),
        (File::open("/").unwrap(), "the file cannot be read"),
    ] {
        let (name, text) = hand_over(&connection, given).await.unwrap_err();
        assert_eq!(name, "org.enftun.Enftun1.Error.InvalidArgument", "{text}");
        assert!(text.contains(expected) && !text.contains(ACCESS), "{text}");
    }
    assert_eq!(daemon.requests(), []);
    daemon.refuse(Refusal::Failed("cannot keep the tokens".to_owned()));
    let (name, text) = hand_over(&connection, file(ACCESS)).await.unwrap_err();
    assert_eq!((name.as_str(), text.as_str()), ("org.enftun.Enftun1.Error.Failed", "cannot keep the tokens"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_descriptor_that_does_not_end_holds_up_nobody_and_is_given_up() {
    let Some((bus, daemon, _served)) = world("a_descriptor_that_does_not_end_holds_up_nobody_and_is_given_up").await
    else {
        return;
    };
    let connection = Listener::new(&bus).await.connection;
    let (reader, writer) = std::io::pipe().unwrap();
    let endless: Vec<_> = (0..4)
        .map(|_| {
            let (connection, reader) = (connection.clone(), reader.try_clone().unwrap());
            tokio::spawn(async move {
                loop {
                    match hand_over(&connection, reader.try_clone().unwrap()).await.unwrap_err() {
                        // Its turn was taken by the one who asks below.
                        (name, _) if name.ends_with(".Busy") => tokio::time::sleep(Duration::from_millis(1)).await,
                        error => return error,
                    }
                }
            })
        })
        .collect();
    // All turns are taken once somebody is told so.
    let busy = async {
        loop {
            match hand_over(&connection, file(ACCESS)).await {
                Err((name, _)) if name.ends_with(".Busy") => return,
                _ => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), busy).await.expect("somebody is told to come back");
    assert_eq!(property(&bus, "Mode"), "s \"source\"", "meanwhile the bus answers");
    for call in endless {
        let (name, text) = call.await.unwrap();
        assert_eq!(name, "org.enftun.Enftun1.Error.Timeout", "{text}");
    }
    drop(writer);
    let before = daemon.requests().len();
    hand_over(&connection, file(ACCESS)).await.unwrap();
    assert_eq!(daemon.requests().len(), before + 1, "and there are turns again");
}

#[tokio::test(flavor = "multi_thread")]
async fn enftunctl_rotate_reads_a_file_or_standard_input() {
    let Some((bus, daemon, _served)) = world("enftunctl_rotate_reads_a_file_or_standard_input").await else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokens");
    fs::write(&path, format!("{ACCESS}\n{CLIENT}\n")).unwrap();
    assert_eq!(stdout(ctl(&bus, &["rotate", "desk", path.to_str().unwrap()])), "");
    for dash in [&[][..], &["-"]] {
        let mut command = bus.command(CTL);
        let mut child = command.args(["rotate", "desk"]).args(dash).stdin(Stdio::piped()).spawn().unwrap();
        write!(child.stdin.take().unwrap(), "{ACCESS}\n{CLIENT}").unwrap();
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(daemon.requests(), [rotate(&tokens()), rotate(&tokens()), rotate(&tokens())]);
    fs::write(&path, format!("{ACCESS} and {ACCESS}\n")).unwrap();
    let refused = ctl(&bus, &["rotate", "desk", path.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(1));
    let text = stderr(refused);
    assert!(text.contains("a character in it that no token has") && !text.contains(ACCESS), "{text}");
    let refused = ctl(&bus, &["rotate", "enf0", path.to_str().unwrap()]);
    assert!(stderr(refused).contains("enf0 is of kind enf, which has no tokens"));
    assert_eq!(ctl(&bus, &["rotate", "desk", "/nowhere"]).status.code(), Some(5));
    assert_eq!(daemon.requests().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_needs_an_administrator_or_a_rule_to_give_tokens() {
    const TEST: &str = "another_user_needs_an_administrator_or_a_rule_to_give_tokens";
    let Some((bus, daemon, _served)) = world(TEST).await else { return };
    if let Some(reason) = no_other_uid() {
        return skip(TEST, reason);
    }
    let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("dbus/org.enftun.Enftun1.policy");
    let Some(polkit) = Polkit::start(&bus, &[&policy]) else { return skip(TEST, "polkitd is missing") };
    let program = bus.place(CTL);
    let rotate_as_nobody = || {
        let mut command = bus.command_as_nobody(&program);
        let mut child = command
            .args(["rotate", "desk"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        write!(child.stdin.take().unwrap(), "{ACCESS}\n{CLIENT}\n").unwrap();
        child.wait_with_output().unwrap()
    };
    let refused = rotate_as_nobody();
    assert_eq!(refused.status.code(), Some(4));
    let text = stderr(refused);
    assert!(text.contains("org.enftun.Enftun1.credentials needs authentication") && !text.contains(ACCESS), "{text}");
    assert_eq!(daemon.requests(), []);
    polkit.rule(
        "polkit.addRule(function (action, subject) { \
         if (action.id == \"org.enftun.Enftun1.credentials\" && action.lookup(\"tunnel\") == \"desk\") \
         return polkit.Result.YES; });",
    );
    wait_for("the rule to be read", || rotate_as_nobody().status.success());
    let (request, caller) = daemon.asked().pop().unwrap();
    assert_eq!((request, caller.uid), (rotate(&tokens()), Some(65534)), "the log says who it was");
}

/// Everything that is logged in this process.
struct Log(Mutex<String>);

static LOG: Log = Log(Mutex::new(String::new()));

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let mut text = self.0.lock().unwrap();
        text.push_str(&format!("{} {}\n", record.target(), record.args()));
    }

    fn flush(&self) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn no_message_on_the_bus_and_no_line_of_the_log_has_a_token() {
    const TEST: &str = "no_message_on_the_bus_and_no_line_of_the_log_has_a_token";
    let Some((bus, daemon, _served)) = world(TEST).await else { return };
    let _level = LOG_LEVEL.lock().await;
    let before = log::max_level();
    log::set_logger(&LOG).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    log::trace!("a line of the test's own");
    let mut monitor = bus.command("busctl");
    let mut monitor =
        monitor.args(["--system", "monitor"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(monitor.stderr.take().unwrap()).read_line(&mut said).unwrap();
    assert!(said.contains("Monitoring bus"), "{said}");
    let messages = BufReader::new(monitor.stdout.take().unwrap());
    // Up to the last message that is made here: that shows, too, that what is said is heard.
    let heard = std::thread::spawn(move || {
        let mut text = String::new();
        for line in messages.lines() {
            text.push_str(&line.unwrap());
            if text.contains("the last word") {
                break;
            }
        }
        text
    });
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokens");
    let path = path.to_str().unwrap();
    fs::write(path, format!("{ACCESS}\n{CLIENT}\n")).unwrap();
    assert_eq!(stdout(ctl(&bus, &["rotate", "desk", path])), "");
    daemon.refuse(Refusal::Failed("no".to_owned()));
    let said = stderr(ctl(&bus, &["rotate", "desk", path]));
    let connection = Listener::new(&bus).await.connection;
    let (_, wrong) = hand_over(&connection, file(&format!("{ACCESS}\n{ACCESS}"))).await.unwrap_err();
    stderr(bus.busctl(&[
        "call",
        NAME,
        "/org/enftun/Enftun1",
        "org.enftun.Enftun1.Manager",
        "GetTunnel",
        "s",
        "the last word",
    ]));
    let heard = heard.join().unwrap();
    monitor.kill().unwrap();
    monitor.wait().unwrap();
    log::set_max_level(before);
    assert!(heard.contains("RotateTokens"), "the monitor hears the call: {heard}");
    let log = LOG.0.lock().unwrap().clone();
    assert!(log.contains("a line of the test's own"), "{log}");
    for text in [heard, said, wrong, log, format!("{:?}", daemon.requests())] {
        assert!(!text.contains(ACCESS) && !text.contains(CLIENT), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_what_is_forwarded_and_leaves_out_what_there_is_not() {
    let Some((bus, daemon, _served)) = world("status_shows_what_is_forwarded_and_leaves_out_what_there_is_not").await
    else {
        return;
    };
    daemon.forwarding("desk");
    bus.shows("desk", "State", "s \"connected\"");
    let live = daemon.live("desk");
    let connection = live.open("SSH", "127.0.0.1:50000".to_owned());
    connection.received(2048);
    live.counters("SSH").too_slow.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let text = stdout(ctl(&bus, &["status", "desk"]));
    for expected in [
        "desk: connected",
        "  mode:          source\n",
        "  channel:       0ddba11\n",
        "  forwards:      DB at /run/db.sock: 0 now, 0 in all; 0 B to, 0 B from applications\n",
        "  forwards:      SSH at 127.0.0.1:40123: 1 now, 1 in all; 2.0 KiB to, 0 B from applications; 1 too slow\n",
        "  connection:    SSH with 127.0.0.1:50000, begun ",
        "  service:       CN=router.example.net",
    ] {
        assert!(text.contains(expected), "{expected:?} in\n{text}");
    }
    for absent in
        ["firewall:", "interface:", "addresses:", "routes:", "wire:", "router:", "packets", "drops", "\n  certificate:"]
    {
        assert!(!text.contains(absent), "{absent} in\n{text}");
    }
    let table = stdout(ctl(&bus, &["status"]));
    let row = table.lines().find(|line| line.starts_with("desk")).unwrap();
    assert!(row.ends_with("-          2.0 KiB   0 B"), "{table}");
    assert!(stdout(ctl(&bus, &["list"])).contains("desk  aws-iot  connected"));
    daemon.tunnel("desk", |tunnel| tunnel.since = time(crate::simulation::SINCE));
    let json: serde_json::Value = serde_json::from_str(&stdout(ctl(&bus, &["status", "desk", "--json"]))).unwrap();
    let forwards = &json["tunnels"][0]["forwards"];
    assert_eq!(forwards["services"][1]["port"], 40123);
    assert_eq!(forwards["connections"][0]["peer"], "127.0.0.1:50000");
    for key in ["interface", "mtu", "if_index"] {
        assert_eq!(json["tunnels"][0][key], serde_json::Value::Null, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_other_verb_takes_such_a_tunnel_as_any() {
    let Some((bus, daemon, _served)) = world("every_other_verb_takes_such_a_tunnel_as_any").await else { return };
    assert_eq!(stdout(bus.busctl(&["get-property", NAME, DESK, STATISTICS, "Reconnects"])), "u 0\n");
    daemon.fail("desk", Phase::Error, failure(Reason::TokenRejected, "the service refuses the access token"));
    bus.shows("desk", "StateReason", "s \"token-rejected\"");
    let refused = stdout(ctl(&bus, &["status", "desk"]));
    assert!(refused.contains("last error:    the service refuses the access token (token-rejected)"), "{refused}");
    let mut monitor = bus.command(CTL).args(["monitor"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(monitor.stdout.take().unwrap()).lines();
    assert!(told.next().unwrap().unwrap().contains("enftund is running"));
    daemon.forwarding("desk");
    assert!(told.next().unwrap().unwrap().contains("desk"));
    monitor.kill().unwrap();
    monitor.wait().unwrap();
    assert_eq!(stdout(ctl(&bus, &["wait", "desk", "connected"])), "");
    let directory = tempfile::tempdir().unwrap();
    let report = stdout(ctl(&bus, &["report", "--config-dir", directory.path().to_str().unwrap()]));
    assert!(report.contains("== plan of desk") && report.contains("\"address\": \"/run/db.sock\""), "{report}");
    for verb in ["reconnect", "disconnect"] {
        assert_eq!(stdout(ctl(&bus, &[verb, "desk"])), "", "{verb}");
    }
    assert_eq!(stdout(ctl(&bus, &["lockdown", "desk", "on"])).lines().count(), 1);
}
