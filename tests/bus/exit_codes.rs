//! The exit codes that scripts rely on: a case for each verb at each code, and the table in `docs/errors.md` has just these.

use crate::common::bus::{PrivateBus, no_other_uid, own_uid};
use crate::common::{skip, verbs};
use crate::simulation::Simulation;
use enftun::daemon::Refusal;
use enftun::dbus;
use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Output, Stdio};

const CTL: &str = env!("CARGO_BIN_EXE_enftunctl");

/// Those whose good end needs a kernel of its own, a bus or somebody who interrupts them; other tests show it.
const END_WELL_ELSEWHERE: [&str; 4] = ["run", "clear", "monitor", "follow"];

/// What changes something, and so can be refused.
const CHANGES: [(&str, &[&str]); 7] = [
    ("connect", &["enf0"]),
    ("disconnect", &["enf0"]),
    ("reconnect", &["enf0"]),
    ("lockdown", &["enf0", "on"]),
    ("reload", &[]),
    ("group add", &["lan", "eth1"]),
    ("group remove", &["lan", "eth1"]),
];

/// Verb, more words, code.
type Case<'a> = (&'a str, &'a [&'a str], i32);

/// What was seen: a code, and the verbs that ended with it.
#[derive(Default)]
struct Seen(BTreeSet<(i32, String)>);

impl Seen {
    /// Each case ends with its code, and a failure with one line that begins with the program's name.
    #[track_caller]
    fn check(&mut self, cases: &[Case<'_>], mut run: impl FnMut(&mut Command) -> Output) {
        for (verb, more, code) in cases {
            let mut command = Command::new(CTL);
            command.args(verb.split(' ')).args(*more).stdin(Stdio::null());
            let output = run(&mut command);
            let complaint = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(*code), "{verb} {more:?}: {complaint}");
            let last = complaint.lines().last().unwrap_or_default();
            assert!(matches!(code, 0 | 2) || last.starts_with("enftunctl: "), "{verb} {more:?}: {complaint}");
            self.0.insert((*code, (*verb).to_owned()));
        }
    }
}

/// The rows of the table; `all` stands for every verb.
fn documented(all: &[String]) -> BTreeSet<(i32, String)> {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/errors.md")).unwrap();
    let (_, table) = text.split_once("\n## Exit codes\n").unwrap();
    let rows = table.lines().filter_map(|line| {
        let mut cells = line.split('|').skip(1).map(str::trim);
        Some((cells.next()?.parse().ok()?, cells.next()?.to_owned()))
    });
    rows.flat_map(|(code, cell): (i32, String)| {
        let named = cell.split('`').skip(1).step_by(2).map(str::to_owned);
        let verbs: Vec<String> = if cell == "all" { all.to_vec() } else { named.collect() };
        verbs.into_iter().map(move |verb| (code, verb))
    })
    .collect()
}

/// An interface that refuses the user, and one that says nothing.
#[cfg(feature = "enrol")]
fn enrolment(seen: &mut Seen, config: &std::path::Path) {
    use crate::common::enrol_api::{Act, EnrolApi, refusal};
    use std::os::unix::fs::PermissionsExt;
    for (act, code) in [(refusal(401, "no"), 4), (Act::Silent, 6)] {
        let api = EnrolApi::start(config, &[act]);
        let section = format!("[enrol]\nurl = {:?}\nca_cert_file = \"enrol-ca.pem\"\nuser = \"me\"\n", api.url());
        fs::write(config.join("tunnels/new.toml"), format!("{}{section}", crate::keygen::TUNNEL)).unwrap();
        fs::write(config.join("password"), "s3cret").unwrap();
        fs::set_permissions(config.join("password"), fs::Permissions::from_mode(0o600)).unwrap();
        let password = config.join("password");
        let [password, config] = [&password, config].map(|path| path.to_str().unwrap());
        let words = ["new", "--config-dir", config, "--password-file", password, "--timeout=500ms", "--owner=nobody"];
        seen.check(&[("keygen", &words, code)], |command| command.output().unwrap());
    }
}

/// Nobody can be asked.
#[cfg(not(feature = "enrol"))]
fn enrolment(seen: &mut Seen, _: &std::path::Path) {
    seen.0.extend([4, 6].map(|code| (code, "keygen".to_owned())));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verb_ends_with_the_code_that_the_documentation_has() {
    const TEST: &str = "every_verb_ends_with_the_code_that_the_documentation_has";
    let Some(mut bus) = PrivateBus::start(TEST) else { return };
    let mut seen = Seen::default();
    let address = bus.address();
    let on_bus = |command: &mut Command| command.env("DBUS_SYSTEM_BUS_ADDRESS", &address).output().unwrap();

    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (config, state, runtime) = (at(""), at("state"), at("run"));
    for place in ["tunnels", "state", "run"] {
        fs::create_dir(directory.path().join(place)).unwrap();
    }
    let good = "kind = \"enf\"\nremote.hosts = [\"router.example.net\"]\nremote.ca_cert_file = \"ca.pem\"\n";
    let (file, broken) = (at("tunnels/enf0.toml"), at("tunnels/broken.toml"));
    fs::write(&file, good).unwrap();
    fs::write(&broken, "kind = \"enf\"\nroute.fwmrk = 1\n").unwrap();
    let old = |name: &str| format!("{}/tests/fixtures/import/{name}/enf0.conf", env!("CARGO_MANIFEST_DIR"));
    let (old_good, old_broken, full) = (old("device"), old("syntax"), "/dev/full/enftun.prom");
    let dirs = ["--config-dir", &config];
    let all_dirs = ["--config-dir", &config, "--state-dir", &state, "--runtime-dir", &runtime];

    let tokens = at("tokens");
    fs::write(&tokens, "AQGAAXjSomeToken\n").unwrap();
    let with_tokens = ["desk", tokens.as_str()];
    let rotate = |code| [("rotate", &with_tokens[..], code)];

    // Nobody has the daemon's name.
    let there = ["enf0", dirs[0], dirs[1]];
    let absent = ["enf7", dirs[0], dirs[1]];
    let wrong = ["broken", dirs[0], dirs[1]];
    let absent_everywhere = [&["enf7"], &all_dirs[..]].concat();
    let wrong_everywhere = [&["broken"], &all_dirs[..]].concat();
    seen.check(
        &[
            ("status", &[], 3),
            ("list", &[], 3),
            ("connect", &["enf0"], 3),
            ("disconnect", &["enf0"], 3),
            ("reconnect", &["enf0"], 3),
            ("lockdown", &["enf0", "on"], 3),
            ("wait", &["enf0", "connected"], 3),
            ("metrics", &[], 3),
            ("reload", &[], 3),
            ("group list", &[], 3),
            ("group add", &["lan", "eth1"], 3),
            ("group remove", &["lan", "eth1"], 3),
            ("plan", &there, 0),
            ("plan", &absent, 5),
            ("plan", &wrong, 78),
            ("run", &absent, 5),
            ("run", &wrong, 78),
            ("clear", &absent_everywhere, 5),
            ("clear", &wrong_everywhere, 78),
            ("check", &[&file], 0),
            ("check", &["/nowhere.toml"], 5),
            ("check", &[&broken], 78),
            ("import", &[&old_good], 0),
            ("import", &[&old_good, "--output", full], 1),
            ("import", &["/nowhere.conf"], 5),
            ("import", &[&old_broken], 78),
            ("keygen", &[&there[..], &["fd00::1", "--self-signed", "--owner", "nobody"]].concat(), 0),
            ("keygen", &[&there[..], &["fd00::1", "--self-signed", "--owner", "nobody"]].concat(), 1),
            ("keygen", &absent, 5),
            ("keygen", &wrong, 78),
            ("report", &dirs, 0),
            ("completions", &["bash"], 0),
            ("logs", &["--", "--version"], 0),
        ],
        on_bus,
    );
    seen.check(&rotate(3), on_bus);
    seen.check(&[("logs", &["--", "--version"], 1)], |command| command.env("PATH", "/nowhere").output().unwrap());

    tokio::task::block_in_place(|| enrolment(&mut seen, directory.path()));

    let (daemon, core) = Simulation::new(&["desk", "enf0", "stuck"]);
    daemon.forwards("desk");
    daemon.group("lan", |_| {});
    let served = dbus::serve_at(&address, core, own_uid()).await.unwrap();
    seen.check(
        &[
            ("status", &["enf0"], 0),
            ("list", &[], 0),
            ("connect", &["enf0"], 0),
            ("disconnect", &["enf0"], 0),
            ("reconnect", &["enf0"], 0),
            ("lockdown", &["enf0", "on"], 0),
            ("wait", &["stuck", "disconnected"], 0),
            ("metrics", &[], 0),
            ("metrics", &["--output", full], 1),
            ("reload", &[], 0),
            ("group list", &[], 0),
            ("group add", &["lan", "eth1"], 0),
            ("group remove", &["lan", "eth1"], 0),
            ("status", &["enf7"], 5),
            ("connect", &["enf7"], 5),
            ("disconnect", &["enf7"], 5),
            ("reconnect", &["enf7"], 5),
            ("wait", &["enf7", "connected"], 5),
            ("group add", &["dmz", "eth1"], 5),
            ("group remove", &["dmz", "eth1"], 5),
            ("wait", &["stuck", "connected", "--timeout=100ms"], 6),
            ("connect", &["stuck", "--wait=100ms"], 6),
            ("reconnect", &["stuck", "--wait=100ms"], 6),
        ],
        on_bus,
    );
    seen.check(&rotate(0), on_bus);
    seen.check(&[("rotate", &["enf0"], 1), ("rotate", &["enf7"], 5), ("rotate", &["desk", "/nowhere"], 5)], on_bus);
    daemon.slow_down();
    seen.check(&[("disconnect", &["stuck", "--wait=100ms"], 6)], on_bus);
    daemon.refuse(Refusal::NotFound("enf7".to_owned()));
    seen.check(&[("lockdown", &["enf7", "off"], 5)], on_bus);
    daemon.refuse(Refusal::InvalidConfig("enf0.toml:1:1: no".to_owned()));
    seen.check(&[("reload", &[], 78)], on_bus);
    daemon.refuse(Refusal::Failed("no".to_owned()));
    seen.check(&CHANGES.map(|(verb, more)| (verb, more, 1)), on_bus);
    seen.check(&rotate(1), on_bus);

    let all: Vec<_> = verbs::of(&enftun::cli::command()).into_iter().map(|(name, _)| name).collect();
    for verb in &all {
        seen.check(&[(verb, &["--no-such-option"], 2)], on_bus);
    }
    let nothing = bus.command(CTL).output().unwrap();
    assert_eq!(nothing.status.code(), Some(2));
    let told = String::from_utf8(nothing.stderr).unwrap();
    assert!(told.contains("Usage: enftunctl") && told.contains("To begin:"), "{told}");

    if let Some(reason) = no_other_uid() {
        return skip(TEST, reason);
    }
    let program = bus.place(CTL);
    seen.check(&CHANGES.map(|(verb, more)| (verb, more, 4)), |command| {
        bus.command_as_nobody(&program).args(command.get_args()).output().unwrap()
    });
    let tokens = bus.place(&tokens);
    seen.check(&[("rotate", &["desk", tokens.to_str().unwrap()], 4)], |command| {
        bus.command_as_nobody(&program).args(command.get_args()).output().unwrap()
    });
    drop(served);
    bus.kill();
    seen.check(&[("monitor", &[], 3), ("status", &[], 3)], on_bus);

    // Shown by tests of their own.
    seen.0.extend(END_WELL_ELSEWHERE.map(|verb| (0, verb.to_owned())));
    seen.0.insert((4, "logs".to_owned()));
    let missing: Vec<_> = documented(&all).difference(&seen.0).cloned().collect();
    let more: Vec<_> = seen.0.difference(&documented(&all)).cloned().collect();
    assert_eq!((missing, more), (vec![], vec![]), "documented and not seen; seen and not documented");
}
