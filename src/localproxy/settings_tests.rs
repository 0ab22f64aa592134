//! Tests of the settings file.

use super::*;

fn read(text: &str) -> (Settings, Vec<String>) {
    Settings::parse(Path::new("x.json"), text).unwrap()
}

fn below(text: &str) -> String {
    format!("{{ \"tunneling\": {{ \"proxy\": {text} }} }}")
}

#[test]
fn what_is_exported_reads_back_as_the_defaults() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("defaults.json");
    Settings::export(&path).unwrap();
    assert_eq!(Settings::read(&path).unwrap(), (Settings::default(), Vec::new()));
    let error = Settings::export(Path::new("/nonexistent/x.json")).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/x.json"), "{error}");
}

#[test]
fn every_setting_is_taken_as_a_number_and_as_a_string() {
    let values = r#"{
        "default_bind_address": "127.0.0.2", "endpoint_format": "x.%s.example.net",
        "region_endpoint_overrides": { "eu-west-1": "tunnel.example.net:8443" },
        "message": { "max_payload_size": 1000 },
        "tcp": { "connection_retry_count": -1, "connection_retry_delay_ms": 100, "max_active_connections": 7,
                 "write_buffer_size": 65536 },
        "websocket": { "ping_period_ms": 5000, "retry_delay_ms": 300, "connect_retry_count": 2,
                       "reconnect_on_data_error": false, "subprotocol": "aws.iot.securetunneling-1.0" }
    }"#;
    let mut expected = Settings {
        bind: "127.0.0.2".to_owned(),
        endpoint_format: "x.%s.example.net".to_owned(),
        limits: Limits {
            max_payload: 1000,
            retries: None,
            retry_delay: Duration::from_millis(100),
            max_connections: 7,
            queue: 65_536,
            ..Limits::default()
        },
        ping_period: Duration::from_secs(5),
        retry_delay: Duration::from_millis(300),
        connect_retries: Some(2),
        reconnect_on_data_error: false,
        subprotocol: Subprotocol::V1,
        ..Settings::default()
    };
    expected.overrides.insert("eu-west-1".to_owned(), "tunnel.example.net:8443".to_owned());
    assert_eq!(read(&below(values)), (expected.clone(), Vec::new()));
    // As AWS's local proxy writes them.
    let strings: String = values
        .split_inclusive([' ', ',', '\n', '}'])
        .map(|word| {
            let bare = word.trim_end_matches([' ', ',', '\n', '}']);
            match bare.parse::<i64>().is_ok() || bare == "false" {
                true => word.replacen(bare, &format!("\"{bare}\""), 1),
                false => word.to_owned(),
            }
        })
        .collect();
    assert!(strings.contains("\"-1\"") && strings.contains("\"false\""), "{strings}");
    assert_eq!(read(&below(&strings)), (expected, Vec::new()));
}

#[test]
fn the_misspelt_name_is_taken_and_the_right_one_holds() {
    let of = |text: &str| read(&below(text)).0.limits.max_payload;
    assert_eq!(of(r#"{ "message": { "may_payload_size": "512" } }"#), 512);
    assert_eq!(of(r#"{ "message": { "may_payload_size": 512, "max_payload_size": 1024 } }"#), 1024);
}

#[test]
fn what_is_unknown_or_means_nothing_is_told_and_ignored() {
    // The sample in AWS's documentation: its values are the usual ones.
    let sample = r#"{ "message": { "data_length_size": 2, "max_size": 65536 }, "tcp": { "read_buffer_size": "131076" },
                      "websocket": { "max_frame_size": 131076, "read_buffer_size": 131076, "write_buffer_size": 131076 } }"#;
    assert_eq!(read(&below(sample)), (Settings::default(), Vec::new()));
    let (settings, warnings) =
        read(&below(r#"{ "message": { "data_length_size": 4 }, "tcp": { "nodelay": true }, "x": null }"#));
    assert_eq!(settings, Settings::default());
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(warnings[0].contains("x.json says message.data_length_size, which changes nothing"), "{warnings:?}");
    assert!(warnings[1].contains("tcp.nodelay") && warnings[2].contains("says x,"), "{warnings:?}");
    let (settings, warnings) = read(r#"{ "tcp": {} }"#);
    assert!(settings == Settings::default() && warnings[0].contains("tunneling.proxy"), "{warnings:?}");
}

#[test]
fn a_wrong_value_is_told_with_its_key() {
    for (value, why) in [
        (
            r#"{ "message": { "max_payload_size": 64513 } }"#,
            "x.json: message.max_payload_size is \"64513\", and a number from 1 to 64512",
        ),
        (r#"{ "tcp": { "connection_retry_count": -2 } }"#, "from -1"),
        (r#"{ "tcp": { "max_active_connections": [] } }"#, "is []"),
        (r#"{ "websocket": { "ping_period_ms": 0 } }"#, "from 100"),
        (r#"{ "websocket": { "reconnect_on_data_error": "maybe" } }"#, "true or false"),
        (r#"{ "websocket": { "subprotocol": "aws.iot.securetunneling-4.0" } }"#, "-3.0"),
    ] {
        let error = Settings::parse(Path::new("x.json"), &below(value)).unwrap_err().to_string();
        assert!(error.contains(why), "{value}: {error}");
    }
    let error = Settings::parse(Path::new("x.json"), "{ nonsense").unwrap_err();
    assert!(crate::error::chain(&error).contains("line 1"), "{error}");
}

#[test]
fn a_region_is_a_host_also_in_china_with_a_settings_file() {
    let (with, _) = read(&below(r#"{ "region_endpoint_overrides": { "eu-west-1": "[::1]:8443", "us-east-1": "h" } }"#));
    for settings in [&Settings::default(), &with] {
        for (region, host) in [
            ("ap-south-1", "data.tunneling.iot.ap-south-1.amazonaws.com:443"),
            ("cn-north-1", "data.tunneling.iot.cn-north-1.amazonaws.com.cn:443"),
            ("cn-northwest-1", "data.tunneling.iot.cn-northwest-1.amazonaws.com.cn:443"),
        ] {
            assert_eq!(settings.host(&Target::Region(region.to_owned())).unwrap().to_string(), host);
        }
    }
    assert_eq!(with.host(&Target::Region("eu-west-1".to_owned())).unwrap(), Host::direct("::1", 8443));
    assert_eq!(with.host(&Target::Region("us-east-1".to_owned())).unwrap(), Host::direct("h", 443));
    assert_eq!(with.host(&Target::Endpoint("::1".to_owned(), 1)).unwrap(), Host::direct("::1", 1));
    let wrong = Settings { endpoint_format: "%s/path".to_owned(), ..Settings::default() };
    let error = wrong.host(&Target::Region("eu-west-1".to_owned())).unwrap_err().to_string();
    assert!(error.contains("eu-west-1"), "{error}");
}

#[test]
fn the_delay_of_the_settings_is_the_first_of_the_back_off() {
    let retry = Settings::default().retry();
    assert_eq!((retry.first, retry.max), (Duration::from_millis(2500), Duration::from_secs(60)));
    let slow = Settings { retry_delay: Duration::from_secs(90), ..Settings::default() }.retry();
    assert_eq!((slow.first, slow.max), (Duration::from_secs(90), Duration::from_secs(90)));
}
