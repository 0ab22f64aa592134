//! `enftunctl follow`, the process of `enftun@NAME.service`: when it is ready, what it tells, and what its end means.

use crate::common::bus::{PrivateBus, own_uid, stdout};
use crate::common::notify::NotifySocket;
use crate::common::wait_for;
use crate::fake_systemd::{FakeSystemd, Now};
use crate::simulation::{Simulation, failure};
use enftun::daemon::{Refusal, Request};
use enftun::dbus::{self, Bus};
use enftun::state::{Phase, Reason, Target};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Read;
use std::process::{Child, Stdio};
use std::time::Duration;

/// `enftunctl follow enf0` under a service manager.
struct Followed {
    child: Child,
    manager: NotifySocket,
}

/// How it ended, and what it had said.
struct Ended {
    code: Option<i32>,
    said: String,
}

impl Followed {
    fn start(bus: &PrivateBus) -> Self {
        let manager = NotifySocket::new();
        let mut command = bus.command(env!("CARGO_BIN_EXE_enftunctl"));
        command.args(["follow", "enf0"]).env("NOTIFY_SOCKET", manager.path()).stderr(Stdio::piped());
        Self { child: command.spawn().unwrap(), manager }
    }

    #[track_caller]
    fn is_ready(&self) -> Vec<String> {
        self.manager.until("READY=1")
    }

    #[track_caller]
    fn tells(&self, status: &str) {
        self.manager.until(&format!("STATUS={status}"));
    }

    fn ends(mut self) -> Ended {
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        Ended { code: self.child.wait().unwrap().code(), said }
    }

    fn ends_by(self, signal: Signal) -> Ended {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
        self.ends()
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn serve(bus: &PrivateBus) -> (Simulation, Bus) {
    let (daemon, core) = Simulation::new(&["enf0"]);
    (daemon, dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap())
}

fn connects(daemon: &Simulation) -> usize {
    daemon.requests().iter().filter(|request| **request == Request::Connect("enf0".to_owned())).count()
}

fn disconnects(daemon: &Simulation) -> bool {
    daemon.requests().contains(&Request::Disconnect("enf0".to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_ready_once_the_tunnel_is_wanted_and_blocked_and_waits_for_no_far_end() {
    let test = "it_is_ready_once_the_tunnel_is_wanted_and_blocked_and_waits_for_no_far_end";
    let Some(bus) = PrivateBus::start(test) else { return };
    let (daemon, _served) = serve(&bus).await;
    daemon.tunnel("enf0", |tunnel| tunnel.blocking = false);
    let followed = Followed::start(&bus);
    followed.tells("connecting (user)");
    assert_eq!(connects(&daemon), 1);
    assert_eq!(followed.manager.next_within(Duration::from_secs(2)), None, "not ready: it is not blocked yet");
    daemon.tunnel("enf0", |tunnel| tunnel.blocking = true);
    assert_eq!(followed.is_ready(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_life_of_the_tunnel_is_told_each_event_in_one_line_and_an_attempt_like_the_last_in_none() {
    let test = "the_life_of_the_tunnel_is_told_each_event_in_one_line_and_an_attempt_like_the_last_in_none";
    let Some(bus) = PrivateBus::start(test) else { return };
    let (daemon, _served) = serve(&bus).await;
    let followed = Followed::start(&bus);
    followed.is_ready();
    daemon.connected("enf0");
    followed.tells("connected to router.example.net:443");
    for _ in 0..3 {
        daemon.fail("enf0", Phase::Reconnecting, failure(Reason::HeartbeatTimeout, "no answer within 10 s"));
        followed.tells("reconnecting (heartbeat-timeout): no answer within 10 s");
        daemon.transition("enf0", Phase::Connecting, Reason::HeartbeatTimeout);
        followed.tells("connecting (heartbeat-timeout): no answer within 10 s");
    }
    daemon.connected("enf0");
    followed.tells("connected to router.example.net:443");
    let ended = followed.ends_by(Signal::SIGINT);
    assert_eq!(ended.code, Some(0));
    let lines: Vec<&str> = ended.said.lines().collect();
    let connected = "info  enf0 is connected to router.example.net:443 tunnel=enf0 state=connected reason=user";
    let expected = [
        "info  following enf0: it is connecting (user) tunnel=enf0 state=connecting",
        connected,
        "warn  enf0 is reconnecting (heartbeat-timeout): no answer within 10 s tunnel=enf0 state=reconnecting reason=heartbeat-timeout",
        connected,
    ];
    assert_eq!(lines, expected);
    assert!(!disconnects(&daemon), "whoever interrupts it interrupts no tunnel");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_a_daemon_that_goes_and_comes_and_asks_again_only_for_what_that_one_forgot() {
    let test = "it_waits_for_a_daemon_that_goes_and_comes_and_asks_again_only_for_what_that_one_forgot";
    let Some(bus) = PrivateBus::start(test) else { return };
    let (_first, served) = serve(&bus).await;
    let mut followed = Followed::start(&bus);
    followed.is_ready();
    served.close().await;
    followed.tells("enftund is not there; waiting for it");

    // It kept what is wanted.
    let (second, core) = Simulation::new(&["enf0"]);
    second.tunnel("enf0", |tunnel| tunnel.target = Target::Up);
    second.connected("enf0");
    let served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    followed.tells("connected to router.example.net:443");
    assert_eq!(second.requests(), []);
    served.close().await;
    followed.tells("enftund is not there; waiting for it");

    // It did not.
    let (third, _served) = serve(&bus).await;
    wait_for("the tunnel to be wanted again", || connects(&third) == 1);
    followed.tells("connecting (user)");
    assert!(followed.child.try_wait().unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_a_daemon_that_is_not_there_yet() {
    let Some(bus) = PrivateBus::start("it_waits_for_a_daemon_that_is_not_there_yet") else { return };
    let followed = Followed::start(&bus);
    followed.tells("enftund is not there; waiting for it");
    let (daemon, _served) = serve(&bus).await;
    followed.is_ready();
    assert_eq!(connects(&daemon), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_person_can_mend_ends_it_with_the_reason_and_disconnects_nothing() {
    let test = "what_only_a_person_can_mend_ends_it_with_the_reason_and_disconnects_nothing";
    let Some(bus) = PrivateBus::start(test) else { return };
    let (daemon, served) = serve(&bus).await;
    for (reason, code) in
        [(Reason::CertificateExpired, 1), (Reason::AuthFailed, 1), (Reason::FirewallFailed, 1), (Reason::Config, 78)]
    {
        let followed = Followed::start(&bus);
        followed.is_ready();
        daemon.fail("enf0", Phase::Error, failure(reason, "so it is"));
        let ended = followed.ends();
        assert_eq!(ended.code, Some(code), "{reason}: {}", ended.said);
        let last = ended.said.lines().last().unwrap();
        assert!(last.starts_with("error enf0 cannot be connected: so it is; "), "{last}");
        assert!(last.ends_with(&format!("tunnel=enf0 state=error reason={reason}")), "{last}");
    }
    daemon.refuse(Refusal::InvalidConfig("enf0.toml:1:1: no".to_owned()));
    assert_eq!(Followed::start(&bus).ends().code, Some(78));
    assert!(!disconnects(&daemon));
    served.close().await;

    let (_other, core) = Simulation::new(&["enf1"]);
    let _served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    let ended = Followed::start(&bus).ends();
    assert_eq!(ended.code, Some(5));
    assert!(ended.said.contains("no tunnel called enf0"), "{}", ended.said);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_without_a_fault_when_somebody_disconnects_the_tunnel() {
    let Some(bus) = PrivateBus::start("it_ends_without_a_fault_when_somebody_disconnects_the_tunnel") else { return };
    let (_daemon, _served) = serve(&bus).await;
    let followed = Followed::start(&bus);
    followed.is_ready();
    stdout(bus.command(env!("CARGO_BIN_EXE_enftunctl")).args(["disconnect", "enf0"]).output().unwrap());
    let ended = followed.ends();
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    assert!(ended.said.contains("enf0 is not wanted any more"), "{}", ended.said);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_disconnects_when_its_own_unit_is_stopped_and_in_no_other_case() {
    let test = "sigterm_disconnects_when_its_own_unit_is_stopped_and_in_no_other_case";
    let Some(bus) = PrivateBus::start(test) else { return };
    let (daemon, _served) = serve(&bus).await;
    let systemd = FakeSystemd::start(&bus, Now::stop()).await;
    let cases = [
        ("restarted", Now { job: Some("restart"), ..Now::stop() }, 0, "is to restart"),
        ("a stray signal", Now { job: None, ..Now::stop() }, 1, "though nobody stops enftun@enf0.service"),
        ("stopped with enftund", Now { daemon_job: Some("stop"), ..Now::stop() }, 0, "enftund.service is stopped"),
        ("the end of the system", Now { system: "stopping", ..Now::stop() }, 0, "the system is going down"),
        ("run by a person", Now { unit: "session-1.scope", ..Now::stop() }, 0, "belongs to session-1.scope"),
    ];
    for (case, now, code, why) in cases {
        *systemd.now.lock().unwrap() = now;
        let followed = Followed::start(&bus);
        followed.is_ready();
        let ended = followed.ends_by(Signal::SIGTERM);
        assert_eq!(ended.code, Some(code), "{case}: {}", ended.said);
        assert!(ended.said.contains(why), "{case}: {}", ended.said);
        assert!(!disconnects(&daemon), "{case}");
    }
    for now in [
        Now { daemon_job: Some("start"), ..Now::stop() },
        Now { daemon_loaded: false, ..Now::stop() },
        Now { system: "degraded", ..Now::stop() },
        Now::stop(),
    ] {
        let (case, before) = (format!("{now:?}"), daemon.requests().len());
        *systemd.now.lock().unwrap() = now;
        let followed = Followed::start(&bus);
        followed.is_ready();
        let ended = followed.ends_by(Signal::SIGTERM);
        assert_eq!(ended.code, Some(0), "{case}: {}", ended.said);
        assert_eq!(daemon.requests()[before..].last(), Some(&Request::Disconnect("enf0".to_owned())), "{case}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_systemd_to_ask_sigterm_disconnects_nothing() {
    let Some(bus) = PrivateBus::start("without_systemd_to_ask_sigterm_disconnects_nothing") else { return };
    let (daemon, _served) = serve(&bus).await;
    let followed = Followed::start(&bus);
    followed.is_ready();
    let ended = followed.ends_by(Signal::SIGTERM);
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    assert!(ended.said.contains("systemd does not say why"), "{}", ended.said);
    assert!(!disconnects(&daemon));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_while_the_daemon_is_away_for_a_moment_reaches_the_next_one() {
    let Some(bus) = PrivateBus::start("a_stop_while_the_daemon_is_away_for_a_moment_reaches_the_next_one") else {
        return;
    };
    let (_first, served) = serve(&bus).await;
    let _systemd = FakeSystemd::start(&bus, Now::stop()).await;
    let followed = Followed::start(&bus);
    followed.is_ready();
    served.close().await;
    followed.tells("enftund is not there; waiting for it");
    kill(Pid::from_raw(followed.child.id().cast_signed()), Signal::SIGTERM).unwrap();
    followed.manager.until("STOPPING=1");
    let (second, _served) = serve(&bus).await;
    assert_eq!(followed.ends().code, Some(0));
    assert!(disconnects(&second));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_is_held_back_it_is_ready_at_once_and_a_token_that_is_rejected_is_waited_out() {
    let test = "where_nothing_is_held_back_it_is_ready_at_once_and_a_token_that_is_rejected_is_waited_out";
    let Some(bus) = PrivateBus::start(test) else { return };
    let (daemon, _served) = serve(&bus).await;
    daemon.forwards("enf0");
    daemon.tunnel("enf0", |tunnel| tunnel.blocking = false);
    let followed = Followed::start(&bus);
    followed.is_ready();
    daemon.fail("enf0", Phase::Error, failure(Reason::TokenRejected, "the service takes the token no more"));
    followed.tells("error (token-rejected): the service takes the token no more");
    daemon.connected("enf0");
    followed.tells("connected to router.example.net:443");
    assert_eq!(connects(&daemon), 1, "the service is not asked again for it");
    daemon.fail("enf0", Phase::Error, failure(Reason::Config, "the tunnel has other services"));
    let ended = followed.ends();
    assert!(ended.code != Some(0) && ended.said.contains("the tunnel has other services"), "{}", ended.said);
}
