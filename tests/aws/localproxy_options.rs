//! `enftun-localproxy` before its first connection: what it says of itself, and how it refuses what it cannot use.

use crate::process::output;
use std::fs;
use std::path::Path;

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

const TOKEN: (&str, &str) = ("AWSIOT_TUNNEL_ACCESS_TOKEN", "s3cret-token");

#[test]
fn help_goes_to_stderr_and_the_version_to_stdout() {
    for arguments in [["--help"], ["-h"]] {
        let output = output(&arguments, &[]);
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), String::new()));
        let help = text(&output.stderr);
        for option in ["--access-token", "--destination-client-type", "--export-settings-json", "Exit codes"] {
            assert!(help.contains(option), "{option}: {help}");
        }
    }
    for arguments in [["--version"], ["-V"]] {
        let output = output(&arguments, &[]);
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
        assert_eq!(text(&output.stdout), format!("enftun-localproxy {}\n", env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn wrong_usage_is_told_on_stderr_with_a_hint_and_without_tokens() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("x.conf");
    fs::write(&config, "region = eu-west-1\nregoin = s3cret\n").unwrap();
    let config = config.to_str().unwrap();
    let endpoint = [TOKEN, ("AWSIOT_TUNNEL_ENDPOINT", "example.net")];
    for (arguments, environment, why) in [
        (vec![], &[TOKEN][..], "the service is missing"),
        (vec!["-r", "eu-west-1"], &[TOKEN], "the mode is missing"),
        (vec!["-r", "eu-west-1", "-s", "1"], &[], "the access token is missing"),
        (vec!["-r", "eu-west-1", "-s", "1"], &[("AWSIOT_TUNNEL_ACCESS_TOKEN", "s3cret\u{7}")], "has a character"),
        (vec!["-r", "eu-west-1", "-s", "1", "-i", "s3cret"], &[TOKEN], "--client-token: the client token is not 32"),
        (vec!["-r", "eu-west-1", "-s", "1"], &endpoint, "--region and AWSIOT_TUNNEL_ENDPOINT"),
        (vec!["-r", "eu-west-1", "-s", "1", "-d", "2"], &[TOKEN], "--source-listen-port and --destination-app"),
        (vec!["-r", "eu-west-1", "-s", "0"], &[TOKEN], "--source-listen-port: has the port 0"),
        (vec!["-r", "eu-west-1", "-s", "1", "-v", "much"], &[TOKEN], "--verbose: \"much\""),
        (vec!["--config", config, "-s", "1"], &[TOKEN], "x.conf:2: has a key that is no option; did you mean region?"),
        (vec!["--config", "/nonexistent", "-s", "1"], &[TOKEN], "cannot read /nonexistent, which --config names"),
        (vec!["--nonsense"], &[TOKEN], "unexpected argument"),
    ] {
        let output = output(&arguments, environment);
        let said = text(&output.stderr);
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), String::new()), "{arguments:?}: {said}");
        assert!(said.contains(why) && said.contains("--help") && !said.contains("s3cret"), "{arguments:?}: {said}");
    }
}

#[test]
fn what_cannot_be_configured_so_ends_with_78() {
    let directory = tempfile::tempdir().unwrap();
    let settings = directory.path().join("x.json");
    fs::write(&settings, r#"{ "tunneling": { "proxy": { "websocket": { "ping_period_ms": "soon" } } } }"#).unwrap();
    let settings = settings.to_str().unwrap();
    let with = |more: &[&'static str]| [&["-r", "eu-west-1"], more].concat();
    let json = [with(&["-s", "1"]), vec!["--settings-json", settings]].concat();
    let proxied = [TOKEN, ("https_proxy", "ftp://me:s3cret@proxy:1")];
    for (arguments, environment, why) in [
        (json, &[TOKEN][..], "websocket.ping_period_ms is \"soon\""),
        (with(&["-s", "1", "--settings-json", "/nonexistent"]), &[TOKEN], "cannot read the settings in /nonexistent"),
        (with(&["-m", "dst"]), &[TOKEN], "nothing says what to connect to"),
        (with(&["-m", "src", "--config-dir", "/nonexistent"]), &[TOKEN], "/nonexistent"),
        (with(&["-s", "1"]), &proxied, "the web proxy in the variable https_proxy does not start with"),
    ] {
        let output = output(&arguments, environment);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{arguments:?}: {said}");
        assert!(said.contains(why) && !said.contains("s3cret"), "{arguments:?}: {said}");
    }
}

#[test]
fn the_default_settings_are_written_and_can_be_used() {
    let directory = tempfile::tempdir().unwrap();
    for option in ["--export-default-settings", "--export-settings-json"] {
        let file = directory.path().join(option);
        // Nothing else is needed for it.
        let exported = output(&[option, file.to_str().unwrap()], &[]);
        assert_eq!(exported.status.code(), Some(0), "{}", text(&exported.stderr));
        let json: serde_json::Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        assert_eq!(json["tunneling"]["proxy"]["websocket"]["subprotocol"], "aws.iot.securetunneling-3.0");
        // It is read, and what is missing then is something else.
        let used = output(&["-r", "eu-west-1", "-m", "dst", "--settings-json", file.to_str().unwrap()], &[TOKEN]);
        let said = text(&used.stderr);
        assert!(said.contains("nothing says what to connect to") && !said.contains("warn"), "{said}");
    }
    let failed = output(&["--export-default-settings", "/nonexistent/x.json"], &[]);
    assert_eq!(failed.status.code(), Some(1), "{}", text(&failed.stderr));
}

#[test]
fn every_option_setting_and_variable_is_in_the_documentation() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let documentation = fs::read_to_string(root.join("docs/localproxy.md")).unwrap();
    let command = enftun::localproxy::command();
    let options = command.get_arguments().filter_map(|argument| argument.get_long()).map(|long| format!("`--{long}`"));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("x.json");
    output(&["--export-default-settings", file.to_str().unwrap()], &[]);
    let json: serde_json::Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let mut settings = Vec::new();
    for (key, value) in json["tunneling"]["proxy"].as_object().unwrap() {
        match value.as_object().filter(|_| key != "region_endpoint_overrides") {
            Some(table) => settings.extend(table.keys().map(|below| format!("`{key}.{below}`"))),
            None => settings.push(format!("`{key}")),
        }
    }
    assert_eq!(settings.len(), 13, "{settings:?}");
    let variables = [
        "AWSIOT_TUNNEL_ACCESS_TOKEN",
        "AWSIOT_TUNNEL_CLIENT_TOKEN",
        "AWSIOT_TUNNEL_ENDPOINT",
        "AWSIOT_TUNNEL_REGION",
        "https_proxy",
        "NO_PROXY",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
    ];
    for word in options.chain(settings).chain(variables.map(|variable| format!("`{variable}`"))) {
        assert!(documentation.contains(&word), "docs/localproxy.md does not have {word}");
    }
}
