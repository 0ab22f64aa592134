//! What people see on a terminal, and what programs get through a pipe.

use crate::common::bus::{PrivateBus, has, own_uid, stdout};
use crate::common::{skip, wait_for};
use crate::simulation::{Simulation, failure};
use enftun::config::Severity;
use enftun::dbus::{self, Bus};
use enftun::state::health::{Code, Warning};
use enftun::state::{Phase, Reason};
use std::process::Command;

const CTL: &str = env!("CARGO_BIN_EXE_enftunctl");
const GREEN: &str = "\u{1b}[32mconnected\u{1b}[0m";
const RED: &str = "\u{1b}[31merror\u{1b}[0m";

async fn two_tunnels(bus: &PrivateBus) -> (Simulation, Bus) {
    let (daemon, core) = Simulation::new(&["enf0", "my-tunnel"]);
    let served = dbus::serve_at(&bus.address(), core, own_uid()).await.unwrap();
    daemon.connected("enf0");
    daemon.fail("my-tunnel", Phase::Error, failure(Reason::KeyMismatch, "the key is another's"));
    bus.shows("my-tunnel", "State", "s \"error\"");
    (daemon, served)
}

/// On a terminal of this many columns; 0: it does not say how many.
fn on_a_terminal(bus: &PrivateBus, columns: u16, environment: &[(&str, &str)], words: &str) -> String {
    let mut command = bus.command("script");
    command.env_remove("NO_COLOR").env("TERM", "xterm").envs(environment.iter().copied());
    command.args(["-qefc", &format!("stty rows 24 cols {columns} -onlcr; {CTL} {words}"), "/dev/null"]);
    stdout(command.output().unwrap())
}

fn through_a_pipe(bus: &PrivateBus, words: &[&str]) -> String {
    let mut command: Command = bus.command(CTL);
    stdout(command.env_remove("NO_COLOR").env("TERM", "xterm").args(words).output().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_shows_colour_and_a_pipe_gets_none() {
    const TEST: &str = "a_terminal_shows_colour_and_a_pipe_gets_none";
    if !has("script") {
        return skip(TEST, "script is missing");
    }
    let Some(bus) = PrivateBus::start(TEST) else { return };
    let (_daemon, _served) = two_tunnels(&bus).await;
    for verb in ["status", "list"] {
        let text = on_a_terminal(&bus, 0, &[], verb);
        assert!(text.contains(GREEN) && text.contains(RED), "{verb}: {text:?}");
        let piped = through_a_pipe(&bus, &[verb]);
        assert!(piped.contains("connected") && !piped.contains('\u{1b}'), "{piped:?}");
        // Everything but the colour is the same; `SINCE` may have gone on.
        let bare = ["1", "2", "31", "32", "33", "0"]
            .iter()
            .fold(text, |text, sgr| text.replace(&format!("\u{1b}[{sgr}m"), ""));
        let shape = |text: &str| text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect::<String>();
        assert_eq!(shape(&bare), shape(&piped));
    }
    for (environment, words, colour) in [
        (&[("NO_COLOR", "1")][..], "status enf0", false),
        (&[("NO_COLOR", "")], "status enf0", true),
        (&[("TERM", "dumb")], "status enf0", false),
        (&[], "status enf0 --color never", false),
        (&[("NO_COLOR", "1")], "status enf0 --color always", true),
        (&[], "list --json", false),
    ] {
        let text = on_a_terminal(&bus, 0, environment, words);
        assert!(text.contains("connected"), "{text:?}");
        assert_eq!(text.contains('\u{1b}'), colour, "{environment:?} {words}: {text:?}");
    }
    assert!(through_a_pipe(&bus, &["--color=always", "status"]).contains(GREEN));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_narrow_terminal_shows_what_matters_most_and_a_pipe_gets_every_column() {
    const TEST: &str = "a_narrow_terminal_shows_what_matters_most_and_a_pipe_gets_every_column";
    if !has("script") {
        return skip(TEST, "script is missing");
    }
    let Some(bus) = PrivateBus::start(TEST) else { return };
    let (_daemon, _served) = two_tunnels(&bus).await;
    let header = |columns| {
        let text = on_a_terminal(&bus, columns, &[("NO_COLOR", "1")], "status");
        let header = text.lines().next().unwrap().to_owned();
        let table = text.lines().take_while(|line| !line.is_empty());
        table.for_each(|line| assert!(columns == 0 || line.chars().count() <= columns.into(), "{line:?}"));
        header.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ")
    };
    let all = "NAME STATE SINCE REASON REMOTE ADDRESSES RECEIVED SENT";
    assert_eq!(header(0), all);
    assert_eq!(header(200), all);
    assert_eq!(header(80), "NAME STATE SINCE REASON REMOTE");
    assert_eq!(header(24), "NAME STATE");
    assert!(through_a_pipe(&bus, &["status"]).starts_with("NAME       STATE      SINCE"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_stands_below_the_table() {
    let Some(bus) = PrivateBus::start("what_is_wrong_stands_below_the_table") else { return };
    let (daemon, _served) = two_tunnels(&bus).await;
    let below = |words: &[&str]| {
        let text = through_a_pipe(&bus, words);
        let lines = text.lines().skip_while(|line| !line.is_empty()).skip(1);
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(below(&["status"]), ["my-tunnel: the key is another's"]);
    assert!(below(&["status", "enf0"]).is_empty());
    daemon.edit(|snapshot| {
        let expires = Warning::new(Code::CertificateExpires, Severity::Error, "the own certificate expires in 6 days");
        snapshot.warnings = vec![expires.of("enf0"), Warning::new(Code::Configuration, Severity::Warning, "no name")];
    });
    wait_for("the warnings", || below(&["status", "enf0"]).len() == 2);
    let error = "error: enf0: the own certificate expires in 6 days (certificate-expires)";
    let warning = "warning: no name (configuration)";
    assert_eq!(below(&["status"]), ["my-tunnel: the key is another's", error, warning]);
    assert_eq!(below(&["status", "enf0"]), [error, warning]);
    assert_eq!(below(&["status", "my-tunnel"]), [warning]);
    if has("script") {
        let text = on_a_terminal(&bus, 0, &[], "status enf0");
        let red = |text: &str| format!("\u{1b}[31m{text}\u{1b}[0m");
        assert!(text.contains(&red("error")) && text.contains(&red("until 2027-01-15")), "{text:?}");
        assert!(text.contains("\u{1b}[33mwarning\u{1b}[0m: no name"), "{text:?}");
    }
}
