//! The manual pages and completions are whole: every verb, option and configuration key is in them, none is invented, the
//! defaults are the programs' own, and the tools that show them have nothing to complain of.

use crate::common::bus::has;
use crate::common::{skip, verbs};
use clap::ArgAction;
use enftun::config::known_keys;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process;

#[path = "../../packaging/pages/completions.rs"]
mod completions;
#[path = "../../packaging/pages/man.rs"]
mod man;

/// The page as it is written, and as words: without fonts and escapes.
fn page(name: &str) -> (String, String) {
    let (_, text) = man::pages().into_iter().find(|(file, _)| file == name).unwrap();
    let plain = ["\\fB", "\\fI", "\\fR"].iter().fold(text.clone(), |text, font| text.replace(font, ""));
    (text, plain.replace("\\-", "-").replace("\\(dq", "\"").replace("\\(ti", "~"))
}

/// The words after which something is said: what stands behind each `.TP`.
fn tags(plain: &str) -> Vec<&str> {
    let after = plain.split("\n.TP\n").skip(1).map(|rest| rest.lines().next().unwrap());
    after
        .map(|line| line.split_once(' ').filter(|(word, _)| word.starts_with('.')).map_or(line, |(_, tag)| tag))
        .collect()
}

#[test]
fn every_verb_and_every_option_is_in_the_page_of_its_program() {
    for (name, mut command) in man::programs() {
        let section = if ["enftunctl", "enftun-localproxy"].contains(&name) { 1 } else { 8 };
        let (_, plain) = page(&format!("{name}.{section}"));
        let mut checked = 0;
        for (verb, command) in verbs::of(&command) {
            let (_, part) = plain
                .split_once(&format!("\n.SS \"{verb} "))
                .or_else(|| plain.split_once(&format!("\n.SS {verb}\n")))
                .or_else(|| plain.split_once(&format!("\n.SS \"{verb}\"\n")))
                .unwrap_or_else(|| panic!("{name} {verb} has no heading"));
            let part = part.split("\n.S").next().unwrap();
            for argument in command.get_arguments() {
                let tag = argument
                    .get_long()
                    .map_or_else(|| argument.get_value_names().unwrap().join(" "), |long| format!("--{long}"));
                let tags = tags(part);
                assert!(tags.iter().any(|written| written.contains(&tag)), "{name} {verb}: {tag} in {tags:?}");
                checked += 1;
            }
        }
        command.build();
        for option in command.get_arguments().filter_map(|argument| argument.get_long()) {
            assert!(tags(&plain).iter().any(|tag| tag.contains(&format!("--{option}"))), "{name} --{option}");
            checked += 1;
        }
        assert!(checked > 3, "{name}");
    }
}

/// The keys of a page about a configuration file, with the default where one stands: in sections, `[NAME]` or none, from the
/// heading on that begins with `from` to the next of its rank.
fn documented(plain: &str, from: &str) -> Vec<(String, Option<String>)> {
    let (_, part) = plain.split_once(from).unwrap_or_else(|| panic!("no {from}"));
    let part = part.split("\n.SH ").next().unwrap();
    let mut keys = Vec::new();
    for section in part.split("\n.SS ").skip(1) {
        let heading = section.lines().next().unwrap();
        let table =
            heading.strip_prefix('[').map(|rest| format!("{}.", rest.trim_end_matches(']'))).unwrap_or_default();
        for tag in tags(section) {
            let (key, default) = tag.split_once(" = ").map_or((tag, None), |(key, value)| (key, Some(value)));
            keys.push((
                format!("{table}{key}").replace("NAME", "enf0"),
                default.map(|value| value.replace("NAME", "enf0")),
            ));
        }
    }
    keys
}

/// A text in which every section that may be left out stands.
const EVERY_SECTION: &str = r#"
kind = "enf"
remote.hosts = [{ host = "router.example.net" }]
tun.dev = "enf0"
groups.enf0.number = 364
[dns]
[advertise]
[enrol]
[tpm]
[connectivity]
"#;

/// What readers call tables is no key to write.
fn keys(known: BTreeSet<String>) -> BTreeSet<String> {
    let is_table = |key: &str| known.iter().any(|other| other.starts_with(&format!("{key}.")));
    known.iter().filter(|key| !is_table(key) || *key == "remote.hosts").cloned().collect()
}

#[test]
fn the_configuration_pages_have_every_key_there_is_and_no_other() {
    let (_, enftun) = page("enftun.toml.5");
    let (_, router) = page("enftun-router.toml.5");
    let [daemon, tunnel, far_end] = known_keys(EVERY_SECTION).map(keys);
    let [_, forwarding, _] = known_keys("kind = \"aws-iot\"").map(keys);
    assert!(forwarding.len() > 30 && forwarding.contains("aws.services"), "{forwarding:?}");
    assert!(tunnel.len() > 40 && tunnel.contains("dns.servers"), "{tunnel:?}");
    for (plain, from, known) in [
        (&enftun, "\n.SH THE DAEMON: enftun.toml", daemon),
        (&enftun, "\n.SH A TUNNEL: tunnels/NAME.toml", tunnel),
        (&enftun, "\n.SH A TUNNEL OF KIND aws-iot: tunnels/NAME.toml", forwarding),
        (&router, "\n.SH DESCRIPTION", far_end),
    ] {
        let written: Vec<String> = documented(plain, from).into_iter().map(|(key, _)| key).collect();
        let once: BTreeSet<String> = written.iter().cloned().collect();
        assert_eq!(once.len(), written.len(), "a key stands twice");
        assert_eq!(once, known, "left: in the page, right: in the program");
    }
}

#[test]
#[cfg(all(feature = "enrol", feature = "tpm"))]
fn the_defaults_in_the_configuration_pages_are_the_programs_own() {
    let lines = |keys: Vec<(String, Option<String>)>| {
        let given = keys.into_iter().filter_map(|(key, default)| Some(format!("{key} = {}\n", default?)));
        given.collect::<Vec<_>>()
    };
    let texts = |findings: &[enftun::config::Finding]| {
        findings.iter().map(enftun::config::Finding::one_line).collect::<Vec<_>>()
    };
    let (_, enftun) = page("enftun.toml.5");
    let least = "kind = \"enf\"\nremote.hosts = [\"router.example.net\"]\nremote.name = \"router.example.net\"\n";
    let defaults = lines(documented(&enftun, "\n.SH A TUNNEL: tunnels/NAME.toml"));
    assert!(defaults.len() > 20);
    // Some sections have defaults only where they stand.
    let sections = "dns.servers = [\"fd00::53\"]\nenrol.url = \"https://router.example.net:8443\"\nadvertise.dev = \"usb0\"\ntun.set_address = false\n";
    let without = format!("{least}{sections}");
    let mut with = without.clone();
    with.extend(defaults.into_iter().filter(|line| !line.starts_with("tun.set_address")));
    let parse =
        |text: &str| enftun::config::parse_tunnel("enf0", Path::new("enf0.toml"), Path::new("/etc/enftun"), text);
    let ((with, findings), (without, _)) = (parse(&with), parse(&without));
    assert_eq!(texts(&findings), Vec::<String>::new());
    assert_eq!(with.unwrap(), without.unwrap());

    let least = "kind = \"aws-iot\"\naws.region = \"eu-central-1\"\naws.mode = \"source\"\n";
    let defaults = lines(documented(&enftun, "\n.SH A TUNNEL OF KIND aws-iot: tunnels/NAME.toml"));
    assert!(defaults.len() > 20);
    let ((with, findings), (without, _)) = (parse(&format!("{least}{}", defaults.concat())), parse(least));
    assert_eq!(texts(&findings), Vec::<String>::new());
    assert_eq!(with.unwrap(), without.unwrap());

    let (_, router) = page("enftun-router.toml.5");
    let sections = "tun.mtu = 1280\nenrol.listen = \"[::1]:8443\"\nenrol.network = \"fd00:8f80:1::/64\"\n".to_owned();
    let defaults = lines(documented(&router, "\n.SH DESCRIPTION"));
    assert!(defaults.len() > 8);
    let others: String = defaults.into_iter().filter(|line| !line.starts_with("tun.mtu")).collect();
    let parse = |text: &str| enftun::config::parse_router(Path::new("/etc/enftun/router.toml"), text);
    let ((with, findings), (without, _)) = (parse(&(sections.clone() + &others)), parse(&sections));
    assert_eq!(texts(&findings), Vec::<String>::new());
    assert_eq!(with.unwrap(), without.unwrap());

    let defaults = lines(documented(&enftun, "\n.SH THE DAEMON: enftun.toml"));
    let (with, findings) = enftun::config::parse_daemon(
        Path::new("enftun.toml"),
        &format!("groups.enf0.number = 1\n{}", defaults.concat()),
    );
    assert_eq!(texts(&findings), Vec::<String>::new());
    let (without, _) = enftun::config::parse_daemon(Path::new("enftun.toml"), "groups.enf0.number = 1\n");
    assert_eq!(with.unwrap(), without.unwrap());
}

/// The lines between `.EX` and `.EE` of every page.
fn shown() -> Vec<String> {
    let examples = |file: &str| {
        let (_, plain) = page(file);
        let blocks = plain.split("\n.EX\n").skip(1).map(|rest| rest.split("\n.EE\n").next().unwrap());
        blocks.flat_map(str::lines).map(str::to_owned).collect::<Vec<_>>()
    };
    man::pages().iter().flat_map(|(file, _)| examples(file)).collect()
}

#[test]
fn our_commands_in_the_examples_are_commands_that_we_take() {
    let mut seen = BTreeSet::new();
    for line in shown() {
        let words: Vec<&str> = line.split_whitespace().collect();
        for (name, command) in man::programs() {
            if words.first() == Some(&name) {
                command.try_get_matches_from(&words).unwrap_or_else(|error| panic!("{line}: {error}"));
                seen.insert(name);
            }
        }
    }
    assert!(["enftunctl", "enftun-router", "enftun-localproxy"].iter().all(|name| seen.contains(name)), "{seen:?}");
}

#[test]
// Some of them ask for what only a whole build has.
#[cfg(all(feature = "enrol", feature = "tpm"))]
fn the_configurations_in_the_examples_have_no_findings() {
    let (_, plain) = page("enftun.toml.5");
    let example = plain.rsplit_once("\n.EX\n").unwrap().1.split("\n.EE").next().unwrap();
    let (tunnel, findings) =
        enftun::config::parse_tunnel("enf0", Path::new("enf0.toml"), Path::new("/etc/enftun"), example);
    assert!(tunnel.is_some() && findings.is_empty(), "{findings:?}");
    let (_, plain) = page("enftun-router.toml.5");
    let example = plain.rsplit_once("\n.EX\n").unwrap().1.split("\n.EE").next().unwrap();
    let (router, findings) = enftun::config::parse_router(Path::new("router.toml"), example);
    assert!(router.is_some() && findings.is_empty(), "{findings:?}");
}

#[test]
fn every_unit_is_in_a_page_and_every_page_that_is_referred_to_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages: BTreeSet<String> = man::pages().into_iter().map(|(file, _)| file).collect();
    let texts: String = pages.iter().map(|file| page(file).1).collect();
    let mut referred = 0;
    for unit in std::fs::read_dir(root.join("systemd/system")).unwrap().map(|entry| entry.unwrap().path()) {
        let name = unit.file_name().unwrap().to_str().unwrap().replace("@.", "@NAME.");
        assert!(texts.contains(&name), "{name}");
        let text = std::fs::read_to_string(&unit).unwrap();
        for reference in text.split_whitespace().filter_map(|word| word.split_once("man:")).map(|(_, page)| page) {
            let file = reference.trim_end_matches(')').replace('(', ".");
            assert!(pages.contains(&file), "{name}: {reference}");
            referred += 1;
        }
    }
    assert!(referred > 10);
    for line in texts.lines().filter_map(|line| line.strip_prefix(".BR enftun")) {
        if let Some((name, section)) = line.split_once(" (") {
            let file = format!("enftun{name}.{}", section.split(')').next().unwrap());
            assert!(pages.contains(&file), "{line}");
        }
    }
}

/// Writes files into a directory of their own.
fn written(files: Vec<(String, String)>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

/// Runs a program that must have nothing to say.
#[track_caller]
fn silent(command: &mut process::Command) {
    let output = command.env("LC_ALL", "C.UTF-8").output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{command:?}: {}", String::from_utf8_lossy(&said));
}

#[test]
fn the_programs_that_show_manual_pages_have_nothing_to_complain_of() {
    let test = "the_programs_that_show_manual_pages_have_nothing_to_complain_of";
    let dir = written(man::pages());
    let files = || man::pages().into_iter().map(|(name, _)| dir.path().join(name));
    assert_eq!(files().count(), 8);
    if has("mandoc") {
        files()
            .for_each(|file| silent(process::Command::new("mandoc").args(["-T", "lint", "-W", "warning"]).arg(file)));
    } else {
        skip(test, "mandoc is not installed");
    }
    if has("man") && has("groff") {
        // Only the formatter's warnings are of interest, not the page.
        let show = "man --warnings -E UTF-8 -l -Tutf8 -Z \"$1\" >/dev/null";
        files().for_each(|file| silent(process::Command::new("sh").args(["-c", show, "sh"]).arg(file)));
    } else {
        skip(test, "man and groff are not installed");
    }
}

#[test]
fn each_shell_reads_its_completions() {
    let dir = written(completions::scripts());
    let names: BTreeSet<String> = completions::scripts().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), 12);
    for (shell, of_shell) in [("bash", ".bash"), ("zsh", "_"), ("fish", ".fish")] {
        if !has(shell) {
            skip("each_shell_reads_its_completions", &format!("{shell} is not installed"));
            continue;
        }
        for name in names.iter().filter(|name| name.ends_with(of_shell) || name.starts_with(of_shell)) {
            silent(process::Command::new(shell).arg("-n").arg(dir.path().join(name)));
        }
    }
}

/// Runs a script in a shell that has our completions at hand as `$1`, and an `enftunctl` that lists two tunnels.
fn in_shell(shell: &str, file: &str, script: &str, words: &[&str]) -> Vec<String> {
    let dir = written(completions::scripts());
    let list = "#!/bin/sh\n[ \"$*\" = list ] && printf 'NAME   STATE\\nenf0   connected\\nspare  disconnected\\n'\n";
    let program = dir.path().join("enftunctl");
    std::fs::write(&program, list).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    let mut command = process::Command::new(shell);
    // fish has no name for the script.
    command.args(["-c", script]).args((shell != "fish").then_some(shell)).arg(dir.path().join(file)).args(words);
    let output = command.env("PATH", path).env("HOME", dir.path()).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// What bash offers for the last of `words`.
fn offered(words: &[&str]) -> Vec<String> {
    let script = "source \"$1\"; shift; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1))
                  [[ $(complete -p enftunctl) =~ -F\\ ([a-z_]+) ]]
                  ${BASH_REMATCH[1]} enftunctl \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD-1]}\"
                  printf '%s\\n' \"${COMPREPLY[@]}\"";
    in_shell("bash", "enftunctl.bash", script, words)
}

#[test]
fn bash_completes_verbs_options_and_the_words_of_an_argument() {
    assert_eq!(offered(&["enftunctl", "con"]), ["connect"]);
    assert_eq!(offered(&["enftunctl", "connect", "--w"]), ["--wait"]);
    assert_eq!(offered(&["enftunctl", "plan", "--state", "dis"]), ["disconnected", "disconnecting"]);
    let verbs: Vec<String> = verbs::of(&enftun::cli::command()).into_iter().map(|(name, _)| name).collect();
    let all = offered(&["enftunctl", ""]);
    for verb in verbs.iter().map(|name| name.split(' ').next().unwrap()) {
        assert!(all.iter().any(|word| word == verb), "{verb}");
    }
}

#[test]
fn shells_complete_the_names_of_tunnels() {
    let test = "shells_complete_the_names_of_tunnels";
    assert_eq!(offered(&["enftunctl", "connect", "en"]), ["enf0"]);
    assert_eq!(offered(&["enftunctl", "up", "sp"]), ["spare"]);
    assert_eq!(offered(&["enftunctl", "reload", "en"]), [""], "no tunnel belongs there");
    if has("fish") {
        let script = "source $argv[1]; complete -C $argv[2]";
        assert_eq!(in_shell("fish", "enftunctl.fish", script, &["enftunctl connect en"]), ["enf0"]);
        assert_eq!(in_shell("fish", "enftunctl.fish", script, &["enftunctl connect s"]), ["spare"]);
        let elsewhere = in_shell("fish", "enftunctl.fish", script, &["enftunctl reload en"]);
        assert!(!elsewhere.contains(&"enf0".to_owned()), "{elsewhere:?}");
    } else {
        skip(test, "fish is not installed");
    }
    if has("zsh") {
        // Outside its line editor zsh completes nothing, so what would be added is looked at.
        let script = "compdef() { : }; compadd() { shift; print -l -- \"$@\" }; source $1; _enftunctl_tunnels";
        assert_eq!(in_shell("zsh", "_enftunctl", script, &[]), ["enf0", "spare"]);
        let (_, script) = completions::scripts().into_iter().find(|(name, _)| name == "_enftunctl").unwrap();
        let connect = script.split("(connect)\n").nth(1).unwrap().split(";;").next().unwrap();
        assert!(connect.contains(":_enftunctl_tunnels'"), "{connect}");
    } else {
        skip(test, "zsh is not installed");
    }
}

/// Options that take nothing are the only ones without a name for their value.
#[test]
fn every_value_has_a_name_that_people_understand() {
    for (name, command) in man::programs() {
        for (verb, mut command) in verbs::of(&command) {
            command.build();
            for argument in command.get_arguments().filter(|argument| matches!(argument.get_action(), ArgAction::Set)) {
                assert!(argument.get_help().is_some(), "{name} {verb} {}", argument.get_id());
            }
        }
    }
}
