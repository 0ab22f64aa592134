//! Tests of what the options mean together.

use super::*;
use crate::localproxy::options::{Layer, command, named};

/// Words of the command line, with the token in the environment.
fn layers(words: &str) -> Layers {
    let words = std::iter::once("enftun-localproxy").chain(words.split_whitespace());
    let mut environment = Layer::default();
    environment.say(named("access-token").unwrap(), "access");
    let command_line = Layer::of_command_line(&command().try_get_matches_from(words).unwrap());
    Layers { command_line, environment, ..Layers::default() }
}

fn request(words: &str) -> Request {
    Request::new(&layers(words)).unwrap_or_else(|error| panic!("{words}: {error}"))
}

#[track_caller]
fn refused(words: &str, why: &str) {
    let error = Request::new(&layers(words)).expect_err(words).to_string();
    assert!(error.contains(why), "{words}: {error}");
}

fn tcp(host: Option<&str>, port: u16) -> Application {
    Application::Tcp { host: host.map(str::to_owned), port }
}

#[test]
fn the_mode_comes_from_ports_targets_or_mode_and_they_must_agree() {
    for (words, mode) in [
        ("-r eu-west-1 -s 5555", Mode::Source),
        ("-r eu-west-1 -d 22", Mode::Destination),
        ("-r eu-west-1 -m src", Mode::Source),
        ("-r eu-west-1 -m source -s 5555", Mode::Source),
        ("-r eu-west-1 -m dst", Mode::Destination),
        ("-r eu-west-1 -m destination -d 22", Mode::Destination),
    ] {
        assert_eq!(request(words).mode, mode, "{words}");
    }
    refused("-r eu-west-1", "the mode is missing");
    refused("-r eu-west-1 -s 1 -d 2", "--source-listen-port and --destination-app");
    refused("-r eu-west-1 -s 1 -m dst", "a destination does not listen");
    refused("-r eu-west-1 -d 1 -m src", "a source does not connect");
    refused("-r eu-west-1 -m both", "--mode: \"both\" is not src");
}

#[test]
fn region_and_endpoint_exclude_each_other_across_all_layers() {
    refused("-s 1", "--region or --proxy-endpoint");
    refused("-s 1 -r eu-west-1 -e example.net", "--region and --proxy-endpoint");
    let mut layers = layers("-s 1 -r eu-west-1");
    layers.environment.say(named("proxy-endpoint").unwrap(), "example.net");
    let error = Request::new(&layers).unwrap_err().to_string();
    assert!(error.contains("--region and AWSIOT_TUNNEL_ENDPOINT"), "{error}");
    let mut layers = self::layers("-s 1");
    layers.file.say(named("proxy-endpoint").unwrap(), "example.net");
    layers.file_path = Some("x.conf".into());
    layers.environment.say(named("region").unwrap(), "eu-west-1");
    let error = Request::new(&layers).unwrap_err().to_string();
    assert!(error.contains("AWSIOT_TUNNEL_REGION and proxy-endpoint in x.conf"), "{error}");
}

#[test]
fn an_endpoint_is_a_name_or_an_address_with_or_without_a_port() {
    for (text, host, port) in [
        ("Example.NET", "example.net", 443),
        ("example.net:8443", "example.net", 8443),
        ("127.0.0.1:1", "127.0.0.1", 1),
        ("[::1]:8443", "::1", 8443),
        ("[2001:DB8::1]", "2001:db8::1", 443),
        ("::1", "::1", 443),
    ] {
        assert_eq!(request(&format!("-s 1 -e {text}")).target, Target::Endpoint(host.to_owned(), port), "{text}");
    }
    for text in ["https://example.net", "a_b", "example.net:0", "example.net:65536", "a:b:c", "[::1", &"a".repeat(254)]
    {
        refused(&format!("-s 1 -e {text}"), "--proxy-endpoint");
    }
    for text in ["EU-west-1", "eu_west_1", &"a".repeat(65)] {
        refused(&format!("-s 1 -r {text}"), "is not a region");
    }
}

#[test]
fn ports_and_targets_are_read_with_and_without_services() {
    let named = |pairs: &[(&str, Application)]| {
        Given::Named(pairs.iter().map(|(service, application)| ((*service).to_owned(), application.clone())).collect())
    };
    let unix = |path: &str| Application::Unix(path.into());
    for (words, given) in [
        ("-s 5555", Given::Only(tcp(None, 5555))),
        ("-s /run/x.sock", Given::Only(unix("/run/x.sock"))),
        ("-s SSH=5555,web=8080", named(&[("SSH", tcp(None, 5555)), ("web", tcp(None, 8080))])),
        ("-s SSH=/run/a=b.sock", named(&[("SSH", unix("/run/a=b.sock"))])),
        ("-d 22", Given::Only(tcp(None, 22))),
        ("-d localhost:22", Given::Only(tcp(Some("localhost"), 22))),
        ("-d [::1]:22", Given::Only(tcp(Some("::1"), 22))),
        ("-d /run/a=b.sock", Given::Only(unix("/run/a=b.sock"))),
        ("-d SSH=22,a.b-c_d=10.0.0.1:80", named(&[("SSH", tcp(None, 22)), ("a.b-c_d", tcp(Some("10.0.0.1"), 80))])),
        ("-m src", Given::Nothing),
    ] {
        let request = request(&format!("-r eu-west-1 {words}"));
        assert_eq!(request.services, given, "{words}");
        assert!(request.warnings.is_empty(), "{:?}", request.warnings);
    }
    let relative = request("-r eu-west-1 -d ./x.sock").services;
    assert!(matches!(relative, Given::Only(Application::Unix(path)) if path.is_absolute()));
    for (words, why) in [
        ("-s 0", "for a free port leave --source-listen-port out"),
        ("-s 65536", "is not a port"),
        ("-s random", "1 to 65535"),
        ("-s localhost:22", "--local-bind-address"),
        ("-s 22,23", "must be SERVICE=…"),
        ("-s SSH=22,23", "must be SERVICE=…"),
        ("-s S!H=22", "a service is 1 to 128"),
        ("-s =22", "a service is 1 to 128"),
        ("-d localhost", "is not a port"),
        ("-d SSH=", "is not a port"),
        ("-d localhost:0", "not a port"),
    ] {
        refused(&format!("-r eu-west-1 {words}"), why);
    }
    refused(&format!("-r eu-west-1 -d /{}", "a".repeat(108)), "at most 107 bytes");
}

#[test]
fn of_a_service_that_is_named_twice_the_first_holds_with_a_warning() {
    let request = request("-r eu-west-1 -d SSH=22,SSH=23");
    let Given::Named(services) = request.services else { panic!("named") };
    assert_eq!(services["SSH"], tcp(None, 22));
    assert!(request.warnings.iter().any(|warning| warning.contains("SSH more than once")), "{:?}", request.warnings);
}

#[test]
fn what_the_destination_speaks_is_case_sensitive_and_anything_else_is_v3() {
    for (words, compat, warned) in [
        ("-s 1", Compat::V3, false),
        ("-s 1 -y V1", Compat::V1, false),
        ("-s 1 -y V2", Compat::V2, false),
        ("-s 1 -y V3", Compat::V3, false),
        ("-s 1 -y v1", Compat::V3, true),
        ("-s 1 -y 2", Compat::V3, true),
        ("-d 1 -y V1", Compat::V1, true),
    ] {
        let request = request(&format!("-r eu-west-1 {words}"));
        assert_eq!((request.compat, !request.warnings.is_empty()), (compat, warned), "{words}");
    }
}

#[test]
fn the_rest_is_judged_too() {
    let plain = request("-r eu-west-1 -s 1");
    assert!(plain.verify && plain.bind.is_none() && plain.capath.is_none() && plain.config_dir.is_none());
    let all = request("-r eu-west-1 -s 1 -k -b 0.0.0.0 -c certs --config-dir /maps --settings-json /x.json");
    assert!(!all.verify && all.capath.unwrap().ends_with("certs"));
    assert_eq!(
        (all.bind.as_deref(), all.config_dir, all.settings),
        (Some("0.0.0.0"), Some("/maps".into()), Some("/x.json".into()))
    );
    assert_eq!(request("-r eu-west-1 -s 1 -b [::1]").bind.as_deref(), Some("::1"));
    assert_eq!(request("-r eu-west-1 -s 1 -b localhost").bind.as_deref(), Some("localhost"));
    refused("-r eu-west-1 -s 1 -b localhost:22", "has a port");
    refused(&format!("-r eu-west-1 -s 1 -c {}", "a".repeat(4097)), "4096");
    let error = Request::new(&Layers { environment: Layer::default(), ..layers("-r eu-west-1 -s 1") }).unwrap_err();
    assert!(error.to_string().contains("AWSIOT_TUNNEL_ACCESS_TOKEN"), "{error}");
}

#[test]
fn a_token_on_the_command_line_is_warned_of_and_never_shown() {
    assert!(request("-r eu-west-1 -s 1").warnings.is_empty());
    let request = request(&format!("-r eu-west-1 -s 1 -t s3cret -i s3cret{}", "0".repeat(32)));
    assert_eq!(request.warnings.len(), 2);
    assert!(!format!("{request:?} {:?}", request.warnings).contains("s3cret"));
}

#[test]
fn a_token_that_is_none_is_told_without_it() {
    let error = |words: &str| {
        let error = Request::new(&layers(&format!("-r eu-west-1 -s 1 {words}"))).unwrap_err();
        crate::error::chain(&error)
    };
    let empty = error("--access-token=");
    assert_eq!(empty, "--access-token: the access token is empty");
    assert!(error(&format!("-t {}", "a".repeat(4097))).contains("longer than 4096"));
    let client = error("-t abc -i s3cret");
    assert!(
        client.starts_with("--client-token: the client token is not 32 to 128") && !client.contains("s3cret"),
        "{client}"
    );
}

#[test]
fn the_number_of_verbose_is_a_level() {
    for (value, level) in [
        ("0", LevelFilter::Off),
        ("1", LevelFilter::Error),
        ("2", LevelFilter::Error),
        ("3", LevelFilter::Warn),
        ("4", LevelFilter::Info),
        ("5", LevelFilter::Debug),
        ("6", LevelFilter::Trace),
        ("65535", LevelFilter::Trace),
    ] {
        assert_eq!(verbosity(&layers(&format!("-v {value}"))).unwrap(), level, "{value}");
    }
    assert_eq!(verbosity(&layers("")).unwrap(), LevelFilter::Info);
    let mut in_file = layers("");
    in_file.file.say(named("verbose").unwrap(), "6");
    assert_eq!(verbosity(&in_file).unwrap(), LevelFilter::Trace);
    for value in ["65536", "x"] {
        assert!(verbosity(&layers(&format!("-v {value}"))).is_err(), "{value}");
    }
}
