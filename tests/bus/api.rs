//! What the manager, trusted groups and the log offer beyond reading and the three verbs of a tunnel.

use crate::common::bus::{PrivateBus, has, own_uid, stderr, stdout};
use crate::common::{skip, wait_for};
use crate::listener::{Listener, Signal};
use crate::simulation::{CONFIG_HASH, LOG_LEVEL, Simulation, failure};
use enftun::config::Severity;
use enftun::daemon::{Refusal, ReloadScope, Request};
use enftun::dbus;
use enftun::logging::Target;
use enftun::state::health::{Code, Warning};
use enftun::state::{Phase, Reason};
use std::collections::HashMap;
use std::io::{Seek, Write};
use std::time::Duration;
use zbus::Variant;

const NAME: &str = "org.enftun.Enftun1";
const ROOT: &str = "/org/enftun/Enftun1";
const MANAGER: &str = "org.enftun.Enftun1.Manager";
const ENF0: &str = "/org/enftun/Enftun1/tunnel/enf0";
const TUNNEL: &str = "org.enftun.Enftun1.Tunnel";
const STATISTICS: &str = "org.enftun.Enftun1.Tunnel.Statistics";
const LAN: &str = "/org/enftun/Enftun1/group/lan";
const GROUP: &str = "org.enftun.Enftun1.TrustedGroup";

async fn world(test: &str) -> Option<(PrivateBus, Simulation, dbus::Bus)> {
    let bus = PrivateBus::start(test)?;
    let (daemon, core) = Simulation::new(&["enf0"]);
    let served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    Some((bus, daemon, served))
}

fn manager(bus: &PrivateBus, property: &str) -> String {
    stdout(bus.busctl(&["get-property", NAME, ROOT, MANAGER, property])).trim_end().to_owned()
}

/// Calls as a program does, and gives the error's name and text.
async fn call<B: serde::Serialize + zbus::zvariant::DynamicType>(
    connection: &zbus::Connection,
    path: &str,
    interface: &str,
    method: &str,
    body: &B,
) -> Result<zbus::Message, (String, String)> {
    connection.call_method(Some(NAME), path, Some(interface), method, body).await.map_err(|error| match error {
        zbus::Error::MethodError(name, text, _) => (name.to_string(), text.unwrap_or_default()),
        other => panic!("{other:?}"),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_tells_what_it_can_do_what_it_runs_by_and_what_to_look_at() {
    let Some((bus, daemon, _served)) =
        world("the_daemon_tells_what_it_can_do_what_it_runs_by_and_what_to_look_at").await
    else {
        return;
    };
    for (name, value) in [
        ("Features", "as 6 \"enf\" \"aws-iot\" \"dns\" \"lockdown\" \"trusted-groups\" \"router-card\""),
        ("Connectivity", "s \"unknown\""),
        ("ConfigHash", &format!("s \"{CONFIG_HASH}\"")),
        ("Startup", "b false"),
        ("Warnings", "aa{sv} 0"),
        ("Groups", "ao 0"),
    ] {
        assert_eq!(manager(&bus, name), value, "{name}");
    }
    let mut listener = Listener::new(&bus).await;
    daemon.edit(|snapshot| {
        snapshot.starting = true;
        let text = "the own certificate expires in 6 days";
        snapshot.warnings.push(Warning::new(Code::CertificateExpires, Severity::Error, text).of("enf0"));
        snapshot.warnings.push(Warning::new(Code::Configuration, Severity::Warning, "no remote.name"));
    });
    let signal = listener.next().await;
    let Signal::Properties(path, interface, changed) = signal else { panic!("{signal:?}") };
    assert_eq!((path.as_str(), interface.as_str()), (ROOT, MANAGER));
    assert_eq!(changed.keys().collect::<Vec<_>>(), ["Startup", "Warnings"]);
    assert_eq!(
        manager(&bus, "Warnings"),
        "aa{sv} 2 4 \"code\" s \"certificate-expires\" \"severity\" s \"error\" \"text\" s \"the own certificate expires in \
         6 days\" \"tunnel\" s \"enf0\" 3 \"code\" s \"configuration\" \"severity\" s \"warning\" \"text\" s \"no remote.name\""
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_group_is_an_object_whose_members_come_and_go() {
    let Some((bus, daemon, _served)) = world("a_trusted_group_is_an_object_whose_members_come_and_go").await else {
        return;
    };
    let mut listener = Listener::new(&bus).await;
    let missing = stderr(bus.busctl(&["call", NAME, ROOT, MANAGER, "GetGroup", "s", "lan"]));
    assert!(missing.contains("there is no group called \"lan\" in enftun.toml"), "{missing}");
    daemon.group("lan", |_| ());
    let added = listener.until(|signal| matches!(signal, Signal::Added(path, _) if path == LAN)).await;
    assert!(added.iter().all(|signal| matches!(signal, Signal::Added(..))), "objects come first: {added:?}");
    assert_eq!(stdout(bus.busctl(&["call", NAME, ROOT, MANAGER, "GetGroup", "s", "lan"])), format!("o \"{LAN}\"\n"));
    let read = |name: &str| stdout(bus.busctl(&["get-property", NAME, LAN, GROUP, name])).trim_end().to_owned();
    for (name, value) in [
        ("Name", "s \"lan\""),
        ("Number", "u 364"),
        ("Members", "as 2 \"eth1\" \"wlan0\""),
        ("Configured", "as 2 \"eth1\" \"wlan0\""),
        ("Present", "as 1 \"eth1\""),
    ] {
        assert_eq!(read(name), value, "{name}");
    }
    listener.until(|signal| matches!(signal, Signal::Properties(path, ..) if path == ROOT)).await;
    stdout(bus.busctl(&["call", NAME, LAN, GROUP, "AddInterface", "s", "usb0"]));
    let changed = listener.next().await;
    assert!(
        matches!(&changed, Signal::Properties(path, interface, values) if path == LAN && interface == GROUP
            && values.keys().eq(["Members"])),
        "{changed:?}"
    );
    stdout(bus.busctl(&["call", NAME, LAN, GROUP, "RemoveInterface", "s", "eth1"]));
    assert_eq!(read("Members"), "as 2 \"wlan0\" \"usb0\"");
    let (group, interface) = (|| "lan".to_owned(), |name: &str| name.to_owned());
    assert_eq!(
        daemon.requests(),
        [
            Request::Trust { group: group(), interface: interface("usb0") },
            Request::Distrust { group: group(), interface: interface("eth1") }
        ]
    );
    daemon.edit(|snapshot| snapshot.groups.clear());
    listener.until(|signal| matches!(signal, Signal::Removed(path, _) if path == LAN)).await;
    assert_eq!(manager(&bus, "Groups"), "ao 0");
}

#[tokio::test(flavor = "multi_thread")]
async fn enftunctl_group_lists_adds_and_removes() {
    let Some((bus, daemon, _served)) = world("enftunctl_group_lists_adds_and_removes").await else { return };
    let ctl = |args: &[&str]| bus.command(env!("CARGO_BIN_EXE_enftunctl")).arg("group").args(args).output().unwrap();
    assert_eq!(stdout(ctl(&["list"])), "there is no group in enftun.toml\n");
    daemon.group("lan", |_| ());
    daemon.group("empty", |group| {
        (group.members, group.configured, group.present) = (Vec::new(), Vec::new(), Vec::new());
    });
    wait_for("the group", || bus.busctl(&["introspect", NAME, LAN, GROUP]).status.success());
    assert_eq!(stdout(ctl(&["add", "lan", "usb0"])), "");
    assert_eq!(stdout(ctl(&["remove", "lan", "wlan0"])), "");
    assert_eq!(
        stdout(ctl(&["list"])),
        "GROUP  NUMBER  INTERFACE  STATE\n\
         empty  364     -          no interface is trusted\n\
         lan    364     eth1       present\n\
         lan    364     usb0       absent, until the configuration is read again\n"
    );
    let json: serde_json::Value = serde_json::from_str(&stdout(ctl(&["list", "--json"]))).unwrap();
    let lan = serde_json::json!({
        "name": "lan", "number": 364, "members": ["eth1", "usb0"], "configured": ["eth1", "wlan0"], "present": ["eth1"],
    });
    assert_eq!((&json["version"], &json["groups"][1]), (&1.into(), &lan));
    let unknown = ctl(&["add", "wan", "eth0"]);
    assert_eq!(unknown.status.code(), Some(5));
    assert!(stderr(unknown).contains("there is no group called wan in enftun.toml; there are: empty, lan"));
    daemon.refuse(Refusal::InvalidArgument("eth1 is the device of tunnel enf0".to_owned()));
    let refused = ctl(&["add", "lan", "eth1"]);
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(stderr(refused), "enftunctl: eth1 is the device of tunnel enf0\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_takes_the_sum_of_what_is_taken_over() {
    let Some((bus, daemon, _served)) = world("reload_takes_the_sum_of_what_is_taken_over").await else { return };
    for flags in 0..8 {
        stdout(bus.busctl(&["call", NAME, ROOT, MANAGER, "Reload", "u", &flags.to_string()]));
    }
    let of = |configuration, network, firewall| Request::Reload(ReloadScope { configuration, network, firewall });
    assert_eq!(
        daemon.requests(),
        [
            of(true, true, true),
            of(true, false, false),
            of(false, true, false),
            of(true, true, false),
            of(false, false, true),
            of(true, false, true),
            of(false, true, true),
            of(true, true, true),
        ]
    );
    let refused = stderr(bus.busctl(&["call", NAME, ROOT, MANAGER, "Reload", "u", "8"]));
    assert!(refused.contains("flags 0x8 are unknown; 1 is the configuration"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_with_options_waits_for_the_outcome_and_names_what_went_wrong() {
    let Some((bus, daemon, _served)) =
        world("connect_with_options_waits_for_the_outcome_and_names_what_went_wrong").await
    else {
        return;
    };
    let connection = Listener::new(&bus).await.connection;
    let connect = async |options: HashMap<&'static str, Variant<'static>>| {
        call(&connection, ENF0, TUNNEL, "ConnectWithOptions", &options).await.map(drop)
    };
    let wait = |usec: u64| HashMap::from([("wait-usec", Variant::from(usec))]);
    connect(HashMap::new()).await.unwrap();
    assert_eq!(daemon.requests().len(), 1, "without options it is Connect");
    let (name, text) = connect(HashMap::from([("wiat", Variant::from(1_u64))])).await.unwrap_err();
    assert_eq!(name, "org.enftun.Enftun1.Error.InvalidArgument");
    assert!(text.contains("no option \"wiat\""), "{text}");
    let (name, _) = connect(HashMap::from([("wait-usec", Variant::from("long"))])).await.unwrap_err();
    assert_eq!(name, "org.enftun.Enftun1.Error.InvalidArgument");
    assert_eq!(daemon.requests().len(), 1, "what cannot be read does nothing");
    let (name, text) = connect(wait(50_000)).await.unwrap_err();
    assert_eq!(name, "org.enftun.Enftun1.Error.Timeout");
    assert!(text.contains("it goes on trying"), "{text}");
    const FOREVER: u64 = 60_000_000;
    for (reason, word) in [
        (Reason::AuthFailed, "AuthFailed"),
        (Reason::CredentialsMissing, "AuthFailed"),
        (Reason::CertificateExpired, "CertificateExpired"),
        (Reason::CertificateUntrusted, "CertificateUntrusted"),
        (Reason::CertificateName, "CertificateUntrusted"),
        (Reason::DnsFailed, "DnsFailed"),
        (Reason::NoNetwork, "Offline"),
        (Reason::FirewallFailed, "FirewallFailed"),
        (Reason::RouteFailed, "RoutingFailed"),
        (Reason::Timeout, "Timeout"),
        (Reason::TokenRejected, "AuthFailed"),
        (Reason::TunnelClosed, "Failed"),
        (Reason::ListenFailed, "Failed"),
        (Reason::RemoteClosed, "Failed"),
    ] {
        // The failure of an attempt before is not this one's.
        daemon.fail("enf0", Phase::Reconnecting, failure(Reason::ProtocolError, "an old failure"));
        let asked = daemon.requests().len();
        let failing = async {
            while daemon.requests().len() == asked {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            daemon.fail("enf0", Phase::Reconnecting, failure(reason, "what went wrong"));
        };
        let (answer, ()) = tokio::join!(connect(wait(FOREVER)), failing);
        assert_eq!(answer.unwrap_err(), (format!("org.enftun.Enftun1.Error.{word}"), "what went wrong".to_owned()));
    }
    let then = async |happens: fn(&Simulation)| {
        let asked = daemon.requests().len();
        while daemon.requests().len() == asked {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        happens(&daemon);
    };
    let (answer, ()) = tokio::join!(connect(wait(FOREVER)), then(|daemon| daemon.connected("enf0")));
    answer.unwrap();
    let disconnected =
        |daemon: &Simulation| daemon.tunnel("enf0", |tunnel| tunnel.target = enftun::state::Target::Down);
    daemon.transition("enf0", Phase::Connecting, Reason::User);
    let (answer, ()) = tokio::join!(connect(wait(FOREVER)), then(disconnected));
    assert_eq!(answer.unwrap_err().0, "org.enftun.Enftun1.Error.Aborted");
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_are_told_as_often_as_somebody_asks_and_not_otherwise() {
    let Some((bus, daemon, _served)) = world("counters_are_told_as_often_as_somebody_asks_and_not_otherwise").await
    else {
        return;
    };
    let set = |rate: &str| bus.busctl(&["set-property", NAME, ENF0, STATISTICS, "RefreshRateMs", "u", rate]);
    let mut listener = Listener::new(&bus).await;
    let refused = stderr(set("99"));
    assert!(refused.contains("99 ms is too often: 0 is never, and 100 the least otherwise"), "{refused}");
    daemon.counters("enf0").received_units(1, 1);
    stdout(set("100"));
    let rate = listener.next().await;
    assert!(
        matches!(&rate, Signal::Properties(_, interface, values) if interface == STATISTICS
            && values.keys().eq(["RefreshRateMs"])),
        "nothing was told before, and the rate first: {rate:?}"
    );
    daemon.counters("enf0").received_units(1, 41);
    let told = listener.next().await;
    let Signal::Properties(path, interface, values) = told else { panic!("{told:?}") };
    assert_eq!((path.as_str(), interface.as_str()), (ENF0, STATISTICS));
    // Whatever was counted before the first look is not told as a change; what came after is.
    assert_eq!(values.keys().collect::<Vec<_>>(), ["RxBytes", "RxPackets"]);
    stdout(set("0"));
    listener
        .until(|signal| matches!(signal, Signal::Properties(_, _, values) if values.contains_key("RefreshRateMs")))
        .await;
    daemon.counters("enf0").received_units(1, 1000);
    daemon.transition("enf0", Phase::Connecting, Reason::User);
    let next = listener.next().await;
    assert!(matches!(&next, Signal::Properties(_, interface, _) if interface == TUNNEL), "no more counters: {next:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_the_running_daemon_is_changed_as_systemctl_does_it() {
    let Some((bus, daemon, _served)) = world("the_log_of_the_running_daemon_is_changed_as_systemctl_does_it").await
    else {
        return;
    };
    const LOG: [&str; 2] = ["/org/freedesktop/LogControl1", "org.freedesktop.LogControl1"];
    let get = |name: &str| stdout(bus.busctl(&["get-property", NAME, LOG[0], LOG[1], name])).trim_end().to_owned();
    let set = |name: &str, value: &str| bus.busctl(&["set-property", NAME, LOG[0], LOG[1], name, "s", value]);
    assert_eq!(get("SyslogIdentifier"), "s \"enftund\"");
    assert_eq!(get("LogTarget"), "s \"console\"");
    let _level = LOG_LEVEL.lock().await;
    let before = log::max_level();
    for (word, level, read) in [
        ("debug", log::LevelFilter::Debug, "debug"),
        ("notice", log::LevelFilter::Info, "info"),
        ("info", log::LevelFilter::Info, "info"),
        ("warning", log::LevelFilter::Warn, "warning"),
        ("crit", log::LevelFilter::Error, "err"),
        ("emerg", log::LevelFilter::Off, "emerg"),
    ] {
        stdout(set("LogLevel", word));
        assert_eq!(daemon.requests().pop(), Some(Request::SetLogLevel(level)), "{word}");
        assert_eq!(get("LogLevel"), format!("s \"{read}\""));
    }
    log::set_max_level(before);
    let refused = stderr(set("LogLevel", "loud"));
    assert!(refused.contains("there is no log level \"loud\""), "{refused}");
    stdout(set("LogTarget", "journal"));
    assert_eq!(daemon.requests().pop(), Some(Request::SetLogTarget(Target::Journal)));
    let refused = stderr(set("LogTarget", "kmsg"));
    assert!(refused.contains("enftund does not log to \"kmsg\"; there are journal and console"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_is_judged_through_a_descriptor() {
    let Some((bus, _daemon, _served)) = world("a_configuration_is_judged_through_a_descriptor").await else { return };
    let connection = Listener::new(&bus).await.connection;
    let judge = async |file: std::fs::File| {
        let body = zbus::Fd::from(std::os::fd::OwnedFd::from(file));
        let reply = call(&connection, ROOT, MANAGER, "ValidateConfigFd", &body).await?;
        Ok::<_, (String, String)>(
            reply.body().deserialize::<(bool, Vec<(String, String, u32, u32, String)>)>().unwrap(),
        )
    };
    let file = |text: &[u8]| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text).unwrap();
        file.rewind().unwrap();
        file
    };
    let examples = format!("{}/packaging/examples", env!("CARGO_MANIFEST_DIR"));
    for name in ["device", "server", "enftun", "router"] {
        let example = std::fs::File::open(format!("{examples}/{name}.toml")).unwrap();
        assert_eq!(judge(example).await.unwrap(), (true, Vec::new()), "{name}");
    }
    let (ok, findings) = judge(file(b"[daemon]\nlog_level = \"loud\"\nlog_levle = \"info\"\n")).await.unwrap();
    assert!(!ok);
    let places: Vec<_> = findings.iter().map(|(_, key, line, column, _)| (key.as_str(), *line, *column)).collect();
    assert_eq!(places, [("daemon.log_level", 2, 13), ("daemon.log_levle", 3, 1)]);
    assert!(findings[1].4.contains("did you mean"), "{findings:?}");
    let (name, text) = judge(file(&[0xff])).await.unwrap_err();
    assert_eq!(name, "org.enftun.Enftun1.Error.InvalidArgument");
    assert!(text.contains("not UTF-8"), "{text}");
    let (_, text) = judge(file(&vec![b'#'; (1 << 20) + 1])).await.unwrap_err();
    assert!(text.contains("larger than 1 MiB"), "{text}");
    // Whoever hands over pipes that never end is answered, and hinders nobody for longer than that.
    let pipes: Vec<_> = (0..4).map(|_| nix::unistd::pipe().unwrap()).collect();
    let slow = pipes.iter().map(|(end, _)| judge(std::fs::File::from(end.try_clone().unwrap())));
    for answer in futures_util::future::join_all(slow).await {
        assert_eq!(answer.unwrap_err().0, "org.enftun.Enftun1.Error.Timeout");
    }
    assert_eq!(judge(file(b"")).await.unwrap_err().0, "org.enftun.Enftun1.Error.Busy", "their threads still wait");
    drop(pipes);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while judge(file(b"[daemon]\n")).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "the place is free again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gdbus_introspects_every_object() {
    const TEST: &str = "gdbus_introspects_every_object";
    let Some((bus, daemon, _served)) = world(TEST).await else { return };
    if !has("gdbus") {
        return skip(TEST, "gdbus (libglib2.0-bin) is missing");
    }
    daemon.group("lan", |_| ());
    wait_for("the group", || bus.busctl(&["introspect", NAME, LAN, GROUP]).status.success());
    for path in [ROOT, ENF0, LAN, "/org/freedesktop/LogControl1"] {
        let shown =
            stdout(bus.command("gdbus").args(["introspect", "--system", "-d", NAME, "-o", path]).output().unwrap());
        assert!(shown.contains("interface org."), "{path}: {shown}");
    }
}
