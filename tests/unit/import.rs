//! What `import` makes of the C client's files: golden texts beside them, everything that it writes can be used, no text at
//! all makes it panic, and the library that the C client reads its files with agrees on what they say.

use crate::common::skip;
use enftun::config::{self, Finding, Imported, Severity, Tunnel};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/import")
}

fn import_text(text: &str) -> Imported {
    config::import_text(Path::new("enf0.conf"), text, &|path| {
        Ok(if path.ends_with("self") { "@include \"self\"\n".repeat(9) } else { "# nothing\n".to_owned() })
    })
}

/// What is written has no errors; nothing is written exactly when the old file has some.
#[track_caller]
fn usable(imported: &Imported) -> Option<Tunnel> {
    let refused = imported.findings.iter().any(|finding| finding.severity == Severity::Error);
    assert_eq!(imported.toml.is_none(), refused);
    let text = imported.toml.as_ref()?;
    let (tunnel, findings) =
        config::parse_tunnel("enf0", Path::new("tunnels/enf0.toml"), Path::new("/etc/enftun"), text);
    let said: Vec<String> = findings.iter().map(Finding::one_line).collect();
    // That the router's name is missing is for the user to mend, and `import` has said so.
    assert!(said.iter().all(|line| line.contains("warning: remote.name")), "{said:#?} about\n{text}");
    Some(tunnel.unwrap())
}

/// Each directory has an old file, what becomes of it, and what is said about it. `ENFTUN_BLESS=1` writes the latter two
/// anew, to be read before they are committed.
#[test]
fn old_files_become_what_stands_beside_them() {
    let mut different = Vec::new();
    let (mut good, mut refused) = (0, 0);
    for case in fs::read_dir(fixtures()).unwrap() {
        let dir = case.unwrap().path();
        let old = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
        let old = old.into_iter().find(|path| path.extension().is_some_and(|end| end == "conf")).unwrap();
        // A build without TPMs says so, instead.
        if !cfg!(feature = "tpm") && fs::read_to_string(&old).unwrap().contains("tpm:") {
            continue;
        }
        let imported = config::import(&old);
        if usable(&imported).is_some() {
            good += 1
        } else {
            refused += 1
        }
        let here = |text: String| text.replace(&format!("{}/", dir.display()), "");
        let said = here(imported.findings.iter().map(|finding| format!("{finding}\n\n")).collect());
        assert!(!said.contains("secret") && !said.contains("geheim"), "{said}");
        for (name, text) in [("expected.toml", here(imported.toml.unwrap_or_default())), ("expected.txt", said)] {
            let golden = dir.join(name);
            if std::env::var_os("ENFTUN_BLESS").is_some() {
                fs::write(&golden, &text).unwrap();
            } else if fs::read_to_string(&golden).unwrap_or_default() != text {
                different.push(format!("{}:\n{text}", golden.display()));
            }
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
    let least = if cfg!(feature = "tpm") { 7 } else { 4 };
    assert!(good >= least && refused >= 4, "{good} {refused}");
}

/// A value of any type, in the old language; often what belongs there.
fn value() -> impl Strategy<Value = String> {
    let text = prop_oneof![
        Just("enf0".to_owned()),
        Just("default".to_owned()),
        Just("443".to_owned()),
        Just("192.0.2.1".to_owned()),
        Just("2001:db8::/32".to_owned()),
        Just("2001:db8::1".to_owned()),
        Just("10.0.0.0/8".to_owned()),
        "[ -~]{0,20}"
    ]
    .prop_map(|text| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")));
    let number = prop_oneof![any::<i32>(), -2..400_i32, Just(300_000)].prop_map(|number| number.to_string());
    let hexadecimal = any::<u32>().prop_map(|number| format!("{number:#x}"));
    let boolean = prop_oneof![Just("true"), Just("false"), Just("True")].prop_map(str::to_owned);
    let scalar =
        prop_oneof![4 => text.clone(), 3 => number, 1 => hexadecimal, 1 => boolean, 1 => Just("1.5".to_owned())];
    prop_oneof![
        4 => scalar.clone(),
        3 => prop::collection::vec(text, 0..4).prop_map(|items| format!("[ {} ]", items.join(", "))),
        1 => prop::collection::vec(-5..5_i32, 0..3).prop_map(|items| format!("{items:?}")),
        1 => prop::collection::vec(scalar.clone(), 0..3).prop_map(|items| format!("( {} )", items.join(", "))),
        1 => scalar.prop_map(|item| format!("{{ x = {item}; }}")),
    ]
}

const KEYS: [(&str, &[&str]); 4] = [
    ("tun", &["dev", "dev_node", "ip_path", "ip_set"]),
    ("remote", &["hosts", "port", "ca_cert_file", "heartbeat_period", "heartbeat_timeout"]),
    ("route", &["fwmark", "table", "prefixes", "trusted_interfaces", "allow_ipv4", "ra_period"]),
    ("identity", &["cert_file", "key_file", "ip_file", "xtt", "tpm", "ipv6_network", "unknown"]),
];

/// An old file in which each setting may be there, with any value, after any mark.
fn old_file() -> impl Strategy<Value = String> {
    let groups: Vec<_> = KEYS
        .iter()
        .map(|(group, keys)| {
            let settings: Vec<_> = keys
                .iter()
                .map(|key| {
                    let marks = (prop_oneof![Just("="), Just(":")], prop_oneof![Just(";"), Just(","), Just("")]);
                    prop::option::weighted(0.6, (value(), marks))
                        .prop_map(move |given| given.map(|(value, (is, end))| format!("  {key} {is} {value}{end}\n")))
                })
                .collect();
            settings.prop_map(move |lines| {
                format!("{group}:\n{{\n{}}};\n", lines.into_iter().flatten().collect::<String>())
            })
        })
        .collect();
    groups.prop_map(|groups| groups.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whatever_is_written_can_be_used(text in old_file()) {
        usable(&import_text(&text));
    }

    #[test]
    fn no_text_makes_it_panic(text in "(?s).{0,200}") {
        usable(&import_text(&text));
    }

    #[test]
    fn no_sequence_of_the_languages_own_marks_makes_it_panic(
        parts in prop::collection::vec(prop_oneof![
            Just("tun"), Just("remote"), Just(":"), Just("="), Just("{"), Just("}"), Just("["), Just("]"), Just("("),
            Just(")"), Just(";"), Just(","), Just("\"a\""), Just("5"), Just("0xfL"), Just("1.5"), Just("true"),
            Just("\n@include \"x\"\n"), Just("\n@include \"self\"\n"), Just("/*"), Just("*/"), Just("#"), Just("\n"), Just(" ")
        ], 0..60)
    ) {
        usable(&import_text(&parts.concat()));
    }
}

#[test]
fn the_name_of_an_included_file_cannot_steer_the_terminal() {
    let Imported { toml, findings } = import_text("@include \"a\u{1b}[2J\"\n");
    assert!(toml.is_none() && findings[0].text.contains("control characters"), "{findings:?}");
    assert!(!findings.iter().any(|finding| finding.to_string().contains('\u{1b}')));
}

#[test]
fn depth_and_size_have_limits() {
    for text in
        ["a = (".repeat(100_000), "a = { ".repeat(100_000), "@include \"self\"".to_owned(), "a=1 ".repeat(100_000)]
    {
        assert!(import_text(&text).toml.is_none());
    }
    assert!(import_text(&"@include \"x\"\n".repeat(100)).toml.is_none());
    let many: String = (0..10_000).map(|number| format!("a{number} = 1\n")).collect();
    let Imported { toml, findings } = import_text(&many);
    assert!(toml.is_some() && findings.len() == 201, "{}", findings.len());
    assert!(findings[200].text.ends_with(" more findings, which are not shown"), "{}", findings[200].text);
    // What is below them is taken.
    assert!(import_text(&format!("a = {}{};", "(".repeat(30), ")".repeat(30))).toml.is_some());
}

/// libconfig itself: prints what each setting is for the C client, or that it refuses the file.
const ORACLE: &str = r#"
#include <libconfig.h>
#include <stdio.h>
int main(int count, char **names) {
    config_t config;
    config_init(&config);
    if (!config_read_file(&config, names[1])) { printf("refused\n"); return 0; }
    for (int at = 2; at < count; at++) {
        int number; const char *text; config_setting_t *setting = config_lookup(&config, names[at]);
        if (config_lookup_bool(&config, names[at], &number)) printf("%s bool %d\n", names[at], number);
        else if (config_lookup_int(&config, names[at], &number)) printf("%s int %d\n", names[at], number);
        else if (config_lookup_string(&config, names[at], &text)) printf("%s text %s\n", names[at], text);
        else if (setting && config_setting_type(setting) == CONFIG_TYPE_ARRAY)
            for (int element = 0; element < config_setting_length(setting); element++) {
                text = config_setting_get_string_elem(setting, element);
                if (text) printf("%s element %s\n", names[at], text);
            }
    }
    return 0;
}
"#;

/// The oracle as a program, where it can be built.
fn oracle(dir: &Path) -> Option<PathBuf> {
    let (source, program) = (dir.join("oracle.c"), dir.join("oracle"));
    fs::write(&source, ORACLE).unwrap();
    let built = Command::new("cc").arg(&source).arg("-o").arg(&program).arg("-lconfig").output();
    built.is_ok_and(|output| output.status.success()).then_some(program)
}

/// What libconfig says of a text: every setting that the C client would find, by name.
fn told(oracle: &Path, dir: &Path, text: &str) -> Option<BTreeMap<String, Vec<String>>> {
    let file = dir.join("enf0.conf");
    fs::write(&file, text).unwrap();
    let names = KEYS.iter().flat_map(|(group, keys)| keys.iter().map(move |key| format!("{group}.{key}")));
    let output = Command::new(oracle).arg(&file).args(names).current_dir(dir).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if said.starts_with("refused") {
        return None;
    }
    let mut settings: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in said.lines() {
        let (name, value) = line.split_once(' ').unwrap();
        settings.entry(name.to_owned()).or_default().push(value.to_owned());
    }
    Some(settings)
}

/// Where a setting is of the right type and in range, the tunnel has its value; where it is not, the C client's default.
#[track_caller]
fn agrees(tunnel: &Tunnel, said: &BTreeMap<String, Vec<String>>, text: &str) {
    let enf = tunnel.kind.enf().unwrap();
    let first = |name: &str, kind: &str| said.get(name)?.first()?.strip_prefix(kind).map(str::to_owned);
    let number = |name: &str| first(name, "int ")?.parse::<i64>().ok();
    let same = |name: &str, is: String, shall: String| assert_eq!(is, shall, "{name} of\n{text}");
    let flag = |name: &str, default: bool| first(name, "bool ").map_or(default, |value| value == "1").to_string();
    same("tun.ip_set", enf.tun.set_address.to_string(), flag("tun.ip_set", true));
    same("route.allow_ipv4", tunnel.route.allow_ipv4.to_string(), flag("route.allow_ipv4", false));
    let mark = number("route.fwmark").filter(|mark| *mark > 0).unwrap_or(363);
    same("route.fwmark", tunnel.route.fwmark.to_string(), mark.to_string());
    let table = number("route.table").filter(|table| *table > 0 && !(253..=255).contains(table)).unwrap_or(2097);
    same("route.table", tunnel.route.table.to_string(), table.to_string());
    let port = first("remote.port", "text ").and_then(|port| port.parse::<u16>().ok()).filter(|port| *port > 0);
    same("remote.port", tunnel.remote.hosts[0].port.to_string(), port.unwrap_or(443).to_string());
    if let Some(period) = number("remote.heartbeat_period").filter(|period| *period >= 100) {
        assert_eq!(tunnel.remote.heartbeat_period, Duration::from_millis(period.unsigned_abs()), "{text}");
    }
    if !said.contains_key("remote.heartbeat_timeout") {
        assert_eq!(tunnel.remote.heartbeat_timeout, Duration::from_secs(10), "{text}");
    }
    if first("tun.dev", "text ").is_none() {
        same("tun.dev", enf.tun.dev.clone(), "enf0".to_owned());
    }
    if let Some(file) = first("identity.cert_file", "text ").filter(|file| !file.is_empty()) {
        assert_eq!(enf.identity.cert_file, std::path::absolute(Path::new("/etc/enftun").join(file)).unwrap(), "{text}");
    }
    if !said.contains_key("route.prefixes") && !text.contains("prefixes") {
        assert!(tunnel.route.is_default(), "{text}");
    }
}

#[test]
fn the_c_clients_own_library_reads_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let Some(oracle) = oracle(dir.path()) else {
        return skip("the_c_clients_own_library_reads_the_same", "libconfig.h, or a C compiler, is not installed");
    };
    let (mut read, mut refused) = (0, 0);
    let mut judge = |text: &str| {
        let imported = import_text(text);
        let Some(said) = told(&oracle, dir.path(), text) else {
            refused += 1;
            let words = imported.findings.iter().any(|finding| finding.text.contains("refuses the whole file"));
            assert!(words, "libconfig refuses, and nothing is said:\n{text}");
            return;
        };
        let refusals: Vec<_> =
            imported.findings.iter().filter(|one| one.text.contains("refuses the whole file")).collect();
        assert!(refusals.is_empty(), "libconfig reads it: {refusals:?}\n{text}");
        if let Some(tunnel) = usable(&imported) {
            read += 1;
            agrees(&tunnel, &said, text);
        }
    };
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for _ in 0..300 {
        judge(&old_file().new_tree(&mut runner).unwrap().current());
    }
    let least = "remote: { hosts = [\"192.0.2.1\"]; }; ";
    for text in [
        "",
        "a = 1; a = 2;",
        "a = default;",
        "a = [default];",
        "a = [1 2];",
        "a = [[\"x\"]];",
        "a = 5,;",
        "a = 5;;",
        "-a = 5",
        "a = 12abc",
        "/* a",
        "a = \"x",
        "a =",
        "{ a = 1 }",
        "a { b = 1 }",
        "a = {",
        "a = }",
        "a = [1, \"x\"];",
        "a = [true, 1];",
        "a = (1, \"x\", [2], { b = 3; });",
        "a-b* = 5; *c = 6",
        "a = 1e5; b = .5; c = 5.; d = 1.e3; e = -1.5E-3",
        "a = tRue",
        "a = \"x\ny\"",
        "a = \"\\x41\\q\\n\\\\\\\"\"",
        "a = 1 // c\n# d\n/* e\n*/ b = 2",
        "route: { fwmark = 0xffffffff; };",
        "route: { fwmark = 5000000000L; };",
        "route: { fwmark = 10L; };",
        "route: { fwmark = 4294967296; };",
        "route: { fwmark = +7; };",
        "route: { fwmark = 0x16C }",
        "route = ( { fwmark = 5; } );",
        "route = 5;",
        "a = 1; @include \"x\"",
        "tun: { ip_set = FALSE }",
        "a.b = 5;",
        "a = 1 b = 2",
        "a = [];",
        "a = ();",
        "a = {};",
    ] {
        judge(&format!("{least}{text}"));
    }
    assert!(read > 50 && refused > 15, "{read} {refused}");
}
