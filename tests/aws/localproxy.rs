//! `enftun-localproxy` at both ends of a tunnel: what it carries, how it ends, and what it says.

use crate::common::aws_service::{Mode, Names, Reply, Service, Tunnel};
use crate::process::{CLIENT, Localproxy, command, echo, echoes, exchange, of, serve};
use nix::sys::signal::Signal;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use tempfile::TempDir;

/// A file that lives as long as the directory.
fn file(directory: &TempDir, name: &str, text: &str) -> String {
    let path = directory.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A settings file with these values below `tunneling.proxy`.
fn settings(directory: &TempDir, text: &str) -> String {
    file(directory, "settings.json", &format!(r#"{{ "tunneling": {{ "proxy": {text} }} }}"#))
}

/// So that a failure is the end.
fn at_once(directory: &TempDir) -> String {
    settings(directory, r#"{ "websocket": { "connect_retry_count": 0 }, "tcp": { "connection_retry_count": 0 } }"#)
}

/// What both ends say contains neither token.
#[track_caller]
fn keeps_quiet(said: &str, tunnel: &Tunnel) {
    for secret in [&tunnel.token(Mode::Source), &tunnel.token(Mode::Destination), CLIENT] {
        assert!(!said.contains(secret), "{secret} is in the log:\n{said}");
    }
}

#[test]
fn a_pair_carries_the_connections_of_several_services() {
    let service = Service::start();
    let tunnel = service.tunnel(&["SSH", "web"]);
    let targets = format!("SSH={},web=localhost:{}", echo(), echo());
    let destination = Localproxy::destination(&service, &tunnel, &["-d", &targets]);
    let source = Localproxy::source(&service, &tunnel, &["-m", "src"]);
    tunnel.destination().wait_for_session(1);
    // The free ports are in the log.
    let (ssh, web) = (source.port("SSH"), source.port("web"));
    let first = echoes(ssh, "one");
    let second = echoes(ssh, "two");
    echoes(web, "three");
    drop(first);
    drop(second);
    let bytes = vec![7; 3_000_000];
    assert!(exchange(ssh, &bytes) == bytes, "3 MB come back as they went");
    drop((source, destination));
}

#[test]
fn unix_sockets_stand_at_both_ends() {
    let (service, directory) = (Service::start(), tempfile::tempdir().unwrap());
    let tunnel = service.tunnel(&["SSH"]);
    let (application, listens) = (directory.path().join("application.sock"), directory.path().join("source.sock"));
    let listener = UnixListener::bind(&application).unwrap();
    std::thread::spawn(move || serve(listener.incoming()));
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let _destination = Localproxy::destination(&service, &tunnel, &["-d", &path(&application)]);
    let source = Localproxy::source(&service, &tunnel, &["-s", &format!("SSH={}", path(&listens))]);
    tunnel.destination().wait_for_session(1);
    source.wait_for_line(&["listening for", "source.sock"]);
    let mut connection = UnixStream::connect(&listens).unwrap();
    connection.write_all(b"hello").unwrap();
    let mut back = [0; 5];
    connection.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"hello");
}

#[test]
fn a_closed_tunnel_is_the_good_end_of_both() {
    let service = Service::start();
    let tunnel = service.tunnel(&["SSH"]);
    let mut destination = Localproxy::destination(&service, &tunnel, &["-d", &echo().to_string()]);
    let mut source = Localproxy::source(&service, &tunnel, &["-m", "src"]);
    tunnel.destination().wait_for_session(1);
    let mut connection = echoes(source.port("SSH"), "before");
    tunnel.close();
    assert_eq!(connection.read(&mut [0]).unwrap_or(0), 0, "the connection ends too");
    for proxy in [&mut source, &mut destination] {
        let (code, said) = proxy.wait();
        assert_eq!(code, Some(0), "{said}");
    }
}

#[test]
fn a_rejected_token_ends_with_4_and_is_not_repeated() {
    let service = Service::start();
    let tunnel = service.tunnel(&["SSH"]);
    for (mode, option) in [(Mode::Source, ["-s", "5555"]), (Mode::Destination, ["-d", "22"])] {
        // The token of the other end.
        let token = tunnel.token(mode.other());
        let mut proxy =
            Localproxy::start(of(&service, &tunnel, mode, &option).env("AWSIOT_TUNNEL_ACCESS_TOKEN", token));
        let (code, said) = proxy.wait();
        assert_eq!(code, Some(4), "{said}");
        assert!(said.contains("enftun-localproxy: ") && said.contains("403"), "{said}");
        keeps_quiet(&said, &tunnel);
    }
    assert_eq!(service.handshakes().len(), 2, "nobody tries again");
}

#[test]
fn a_port_that_is_taken_ends_with_7() {
    let (service, directory) = (Service::start(), tempfile::tempdir().unwrap());
    let tunnel = service.tunnel(&["SSH"]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let arguments = ["-s", &port, "-b", "127.0.0.1", "--settings-json", &at_once(&directory)];
    let (code, said) = Localproxy::source(&service, &tunnel, &arguments).wait();
    assert_eq!(code, Some(7), "{said}");
    assert!(said.contains(&port), "{said}");
}

#[test]
fn a_mapping_that_does_not_fit_the_tunnel_ends_with_78() {
    let service = Service::start();
    let (one, two) = (["SSH"], ["SSH", "web"]);
    for (services, arguments) in [
        (&one[..], ["-d", "ssh=22"]),
        (&one, ["-d", "SSH=22,web=80"]),
        (&two, ["-d", "SSH=22"]),
        // One port for two services fits neither.
        (&two, ["-d", "22"]),
        (&two, ["-s", "5555"]),
    ] {
        let tunnel = service.tunnel(services);
        let mode = if arguments[0] == "-s" { Mode::Source } else { Mode::Destination };
        let (code, said) = Localproxy::start(&mut of(&service, &tunnel, mode, &arguments)).wait();
        assert_eq!(code, Some(78), "{services:?} {arguments:?}: {said}");
        assert!(said.contains("SSH"), "{said}");
    }
}

#[test]
fn a_request_that_is_refused_for_good_ends_with_78() {
    let service = Service::start();
    let tunnel = service.tunnel(&["SSH"]);
    for status in [302, 400, 404] {
        let location = vec![("location".to_owned(), "https://example.net/".to_owned())];
        service.reply(Reply::Status(status, location));
        let (code, said) = Localproxy::source(&service, &tunnel, &["-m", "src"]).wait();
        assert_eq!(code, Some(78), "{said}");
        assert!(said.contains(&status.to_string()), "{said}");
    }
    assert_eq!(service.handshakes().len(), 3, "nobody tries again");
}

#[test]
fn a_count_of_retries_is_kept_with_a_growing_delay() {
    let (service, directory) = (Service::start(), tempfile::tempdir().unwrap());
    let tunnel = service.tunnel(&["SSH"]);
    for (count, reply) in [(0, Reply::HangUp), (2, Reply::Status(500, Vec::new())), (3, Reply::HangUp)] {
        service.reply(reply);
        let before = service.handshakes().len();
        let text = format!(r#"{{ "websocket": {{ "connect_retry_count": "{count}", "retry_delay_ms": "20" }} }}"#);
        let arguments = ["-m", "src", "--settings-json", &settings(&directory, &text)];
        let (code, said) = Localproxy::source(&service, &tunnel, &arguments).wait();
        assert_eq!(code, Some(1), "{said}");
        let attempts = count + 1;
        assert!(said.contains(&format!("gave up after {attempts} attempt")), "{said}");
        assert_eq!(service.handshakes().len() - before, attempts, "{said}");
        assert_eq!(said.matches("trying again in").count(), count, "{said}");
    }
}

#[test]
fn an_answer_without_a_subprotocol_is_tried_again_after_a_while_and_not_for_ever() {
    let (service, directory) = (Service::start(), tempfile::tempdir().unwrap());
    let tunnel = service.tunnel(&["SSH"]);
    tunnel.source().knobs(|knobs| knobs.names = Names::Missing);
    let text = r#"{ "websocket": { "connect_retry_count": 2, "retry_delay_ms": 20 } }"#;
    let arguments = ["-m", "src", "--settings-json", &settings(&directory, text)];
    let (code, said) = Localproxy::source(&service, &tunnel, &arguments).wait();
    assert_eq!((code, service.handshakes().len()), (Some(1), 3), "{said}");
}

#[test]
fn the_command_line_holds_before_the_file_and_the_file_before_the_environment() {
    let (service, directory) = (Service::start(), tempfile::tempdir().unwrap());
    let tunnel = service.tunnel(&["SSH"]);
    let config = |token: &str| {
        let text = format!(
            "# by hand\nproxy-endpoint = {}\naccess-token = {token}\nclient-token = {CLIENT}\nmode = source\ncapath = {}\n\
             local-bind-address = 127.0.0.2\n",
            service.endpoint(),
            service.ca_directory().display()
        );
        file(&directory, "localproxy.conf", &text)
    };
    let token = tunnel.token(Mode::Source);
    // The file's token, and not that of the environment.
    let path = config(&token);
    let from_file = Localproxy::start(command().args(["--config", &path]).env("AWSIOT_TUNNEL_ACCESS_TOKEN", "other"));
    from_file.wait_for_line(&["service \"SSH\" at 127.0.0.2:"]);
    drop(from_file);
    // The command line's, and its address; which has a price.
    let path = config("other");
    let typed = Localproxy::start(command().args(["--config", &path, "-t", &token, "-b", "127.0.0.3"]));
    typed.wait_for_line(&["service \"SSH\" at 127.0.0.3:"]);
    typed.wait_for_line(&["warn", "--access-token stands on the command line"]);
    keeps_quiet(&typed.said(), &tunnel);
    drop(typed);
    // The environment's, where nothing else says it.
    let path = file(&directory, "short.conf", "mode = src\n");
    let mut least = command();
    least.env("AWSIOT_TUNNEL_ENDPOINT", service.endpoint()).env("AWSIOT_TUNNEL_ACCESS_TOKEN", &token);
    least.env("AWSIOT_TUNNEL_CLIENT_TOKEN", CLIENT).env("SSL_CERT_FILE", service.ca_file());
    Localproxy::start(least.args(["--config", &path])).wait_for_line(&["service \"SSH\" at 127.0.0.1:"]);
}

#[test]
fn the_file_says_how_much_is_logged() {
    let (service, directory) = (Service::start(), tempfile::tempdir().unwrap());
    let tunnel = service.tunnel(&["SSH"]);
    let path = file(&directory, "quiet.conf", "verbose = 0\n");
    let mut quiet = Localproxy::source(&service, &tunnel, &["-m", "src", "--config", &path]);
    tunnel.source().wait_for_session(1);
    quiet.signal(Signal::SIGTERM);
    assert_eq!(quiet.wait(), (Some(0), String::new()));
}

#[test]
fn the_settings_file_is_used_and_what_is_unknown_in_it_is_told() {
    let (service, directory) = (Service::start(), tempfile::tempdir().unwrap());
    let tunnel = service.tunnel(&["SSH"]);
    let text = r#"{ "default_bind_address": "127.0.0.2", "websocket": { "ping_period_ms": "100", "colour": "blue" },
                    "message": { "may_payload_size": "10", "data_length_size": "4" } }"#;
    let json = settings(&directory, text);
    let _destination = Localproxy::destination(&service, &tunnel, &["-d", &echo().to_string()]);
    let source = Localproxy::source(&service, &tunnel, &["-m", "src", "--settings-json", &json]);
    tunnel.destination().wait_for_session(1);
    let line = source.wait_for_line(&["service \"SSH\" at 127.0.0.2:"]);
    source.wait_for_line(&["warn", "websocket.colour, which is no setting"]);
    source.wait_for_line(&["warn", "message.data_length_size, which changes nothing"]);
    tunnel.source().wait_for_pings(3);
    let address = line.split(" at ").nth(1).unwrap().split_whitespace().next().unwrap();
    let mut connection = TcpStream::connect(address).unwrap();
    connection.write_all(&[7; 100]).unwrap();
    connection.read_exact(&mut [0; 100]).unwrap();
}

#[test]
fn without_checks_any_certificate_is_taken_with_a_banner_and_with_them_none_that_is_unknown() {
    let (service, directory) = (Service::start(), tempfile::tempdir().unwrap());
    let tunnel = service.tunnel(&["SSH"]);
    let json = at_once(&directory);
    let untrusting = |more: &[&str]| {
        let mut command = command();
        command.env("AWSIOT_TUNNEL_ACCESS_TOKEN", tunnel.token(Mode::Source)).env("AWSIOT_TUNNEL_CLIENT_TOKEN", CLIENT);
        command.args(["-e", &service.endpoint(), "-m", "src", "--settings-json", &json]).args(more);
        Localproxy::start(&mut command)
    };
    let (code, said) = untrusting(&[]).wait();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("certificate") && !said.contains("NO CERTIFICATE IS CHECKED"), "{said}");
    let trusting = untrusting(&["-k", "-v", "0"]);
    tunnel.source().wait_for_session(1);
    trusting.wait_for_line(&["NO CERTIFICATE IS CHECKED"]);
}

/// A web proxy that connects to wherever it is asked to: where it is, and the heads of the requests.
fn web_proxy() -> (String, std::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (to, heads) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, to) = (client.unwrap(), to.clone());
            std::thread::spawn(move || {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    client.read_exact(&mut byte).unwrap();
                    head.push(byte[0]);
                }
                let head = String::from_utf8(head).unwrap();
                let target = head.split_whitespace().nth(1).unwrap().replace("localhost", "127.0.0.1");
                let _ = to.send(head);
                let mut service = TcpStream::connect(target).unwrap();
                // In two parts, which is nothing special.
                client.write_all(b"HTTP/1.1 200 Conn").unwrap();
                client.write_all(b"ection established\r\n\r\n").unwrap();
                let (mut from, mut back) = (client.try_clone().unwrap(), service.try_clone().unwrap());
                std::thread::spawn(move || std::io::copy(&mut from, &mut back));
                let _ = std::io::copy(&mut service, &mut client);
            });
        }
    });
    (address, heads)
}

#[test]
fn a_web_proxy_is_used_also_without_a_scheme_and_not_for_whoever_is_in_no_proxy() {
    let (service, directory) = (Service::start(), tempfile::tempdir().unwrap());
    let tunnel = service.tunnel(&["SSH"]);
    let (address, heads) = web_proxy();
    let json = at_once(&directory);
    let start = |variables: &[(&str, &str)]| {
        let mut command = of(&service, &tunnel, Mode::Source, &["-m", "src", "-v", "6", "--settings-json", &json]);
        Localproxy::start(command.envs(variables.iter().copied()))
    };
    for (session, variable) in [(1, "https_proxy"), (2, "HTTPS_PROXY")] {
        let proxied = start(&[(variable, &format!("me:pass%2Bword@{address}"))]);
        tunnel.source().wait_for_session(session);
        proxied.port("SSH");
        let head = heads.recv().unwrap();
        assert!(head.starts_with(&format!("CONNECT {} HTTP/1.1\r\n", service.endpoint())), "{head}");
        assert!(head.to_lowercase().contains("\r\nhost: ") && head.contains("bWU6cGFzcyt3b3Jk"), "{head}");
        let said = proxied.said();
        keeps_quiet(&said, &tunnel);
        assert!(!said.contains("pass+word") && !said.contains("pass%2Bword") && !said.contains("bWU6cGFz"), "{said}");
    }
    // Nobody is there.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (code, said) = start(&[("https_proxy", &nobody)]).wait();
    assert_eq!(code, Some(1), "{said}");
    let direct = start(&[("https_proxy", &nobody), ("NO_PROXY", "example.org,localhost")]);
    direct.port("SSH");
    direct.wait_for_line(&["NO_PROXY says that localhost"]);
}

#[test]
fn no_token_is_in_what_is_said_at_the_highest_level() {
    let service = Service::start();
    let tunnel = service.tunnel(&["SSH"]);
    let mut destination = Localproxy::destination(&service, &tunnel, &["-v", "6", "-d", &echo().to_string()]);
    let mut source = Localproxy::source(&service, &tunnel, &["-v", "6", "-m", "src"]);
    tunnel.destination().wait_for_session(1);
    echoes(source.port("SSH"), "hello");
    tunnel.source().abort();
    tunnel.source().wait_for_session(2);
    tunnel.close();
    for proxy in [&mut source, &mut destination] {
        let (_, said) = proxy.wait();
        assert!(said.contains("trace ") || said.contains("debug "), "{said}");
        keeps_quiet(&said, &tunnel);
    }
}

#[test]
fn ports_and_targets_are_found_in_two_files() {
    let (service, directory) = (Service::start(), tempfile::tempdir().unwrap());
    let tunnel = service.tunnel(&["SSH", "web"]);
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    file(&directory, "targets/b.ini", &format!("SSH = 127.0.0.1:{}\n", echo()));
    file(&directory, "targets/deep/a.ini", &format!("; the other\nweb = {}\n", echo()));
    file(&directory, "targets/notes.txt", "not a mapping\n");
    // Found in ./config, which is there and not empty.
    file(&directory, "config/one", &format!("SSH={free}\n"));
    let targets = directory.path().join("targets");
    let maps = ["-m", "dst", "--config-dir", targets.to_str().unwrap()];
    let destination = Localproxy::destination(&service, &tunnel, &maps);
    let source = Localproxy::start(of(&service, &tunnel, Mode::Source, &["-m", "src"]).current_dir(directory.path()));
    tunnel.destination().wait_for_session(1);
    destination.wait_for_line(&["warn", "notes.txt is left out"]);
    assert_eq!(source.port("SSH"), free);
    echoes(free, "one");
    echoes(source.port("web"), "two");
}

#[test]
fn a_signal_closes_the_tunnel_in_good_order() {
    let service = Service::start();
    for (session, signal) in [Signal::SIGTERM, Signal::SIGINT].into_iter().enumerate() {
        let tunnel = service.tunnel(&["SSH"]);
        let mut destination = Localproxy::destination(&service, &tunnel, &["-d", &echo().to_string()]);
        let mut source = Localproxy::source(&service, &tunnel, &["-m", "src"]);
        tunnel.destination().wait_for_session(1);
        let port = source.port("SSH");
        let mut connection = echoes(port, "before");
        source.signal(signal);
        let (code, said) = source.wait();
        assert_eq!(code, Some(0), "{session}: {said}");
        assert!(said.contains(signal.as_str()), "{said}");
        assert_eq!(connection.read(&mut [0]).unwrap_or(0), 0, "its connection ends");
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "nobody listens");
        tunnel.source().wait_until_gone();
        assert_eq!(tunnel.source().closed(), [Some(1000)]);
        destination.signal(signal);
        assert_eq!(destination.wait().0, Some(0));
    }
}

#[test]
fn a_signal_ends_it_also_while_it_waits_for_another_attempt() {
    let (service, directory) = (Service::start(), tempfile::tempdir().unwrap());
    let tunnel = service.tunnel(&["SSH"]);
    service.reply(Reply::HangUp);
    let json = settings(&directory, r#"{ "websocket": { "retry_delay_ms": 60000 } }"#);
    let mut source = Localproxy::source(&service, &tunnel, &["-m", "src", "--settings-json", &json]);
    source.wait_for_line(&["trying again in"]);
    source.signal(Signal::SIGTERM);
    assert_eq!(source.wait().0, Some(0));
}

#[test]
fn new_tokens_in_the_file_are_taken_at_a_signal() {
    let (service, directory) = (Service::start(), tempfile::tempdir().unwrap());
    let tunnel = service.tunnel(&["SSH"]);
    let write = || {
        let text = format!("access-token = {}\nclient-token = {CLIENT}\n", tunnel.token(Mode::Source));
        file(&directory, "tokens.conf", &text)
    };
    let path = write();
    let mut command = command();
    command.args(["-e", &service.endpoint(), "-m", "src", "--config", &path, "-c"]).arg(service.ca_directory());
    let source = Localproxy::start(&mut command);
    tunnel.source().wait_for_session(1);
    source.port("SSH");
    source.signal(Signal::SIGHUP);
    source.wait_for_line(&["SIGHUP: the tokens are as they were"]);
    tunnel.rotate(&[Mode::Source]);
    write();
    source.signal(Signal::SIGHUP);
    tunnel.source().wait_for_session(2);
    let last = service.wait_for_handshakes(2).last().unwrap().clone();
    assert_eq!((last.status, last.request.unwrap().token), (101, tunnel.token(Mode::Source)));
    fs::write(&path, "access-token\n").unwrap();
    source.signal(Signal::SIGHUP);
    source.wait_for_line(&["error", "SIGHUP: the tokens stay as they are"]);
    keeps_quiet(&source.said(), &tunnel);
    assert!(tunnel.source().is_connected(), "what is wrong in the file ends nothing");
}

#[test]
fn a_lost_session_is_followed_by_another_with_the_same_tokens() {
    let (service, directory) = (Service::start(), tempfile::tempdir().unwrap());
    let tunnel = service.tunnel(&["SSH"]);
    let json = settings(&directory, r#"{ "websocket": { "retry_delay_ms": 50 } }"#);
    let target = echo().to_string();
    let _destination = Localproxy::destination(&service, &tunnel, &["-d", &target, "--settings-json", &json]);
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let arguments = ["-s", &free.to_string(), "--settings-json", &json];
    let source = Localproxy::source(&service, &tunnel, &arguments);
    tunnel.destination().wait_for_session(1);
    source.wait_for_line(&["service \"SSH\" at"]);
    echoes(free, "one");
    for end in [Mode::Source, Mode::Destination] {
        tunnel.end(end).abort();
        tunnel.end(end).wait_for_session(2);
        crate::common::wait_for("the port to be there again", || TcpStream::connect(("127.0.0.1", free)).is_ok());
        echoes(free, "again");
    }
}

#[test]
fn without_a_client_token_a_lost_session_is_the_last_and_that_is_said() {
    let (service, directory) = (Service::start(), tempfile::tempdir().unwrap());
    let tunnel = service.tunnel(&["SSH"]);
    let json = settings(&directory, r#"{ "websocket": { "retry_delay_ms": 50 } }"#);
    let mut command = of(&service, &tunnel, Mode::Source, &["-v", "5", "-m", "src", "--settings-json", &json]);
    let mut source = Localproxy::start(command.env_remove("AWSIOT_TUNNEL_CLIENT_TOKEN"));
    tunnel.source().wait_for_session(1);
    source.wait_for_line(&["debug", "ready; "]);
    tunnel.source().abort();
    let (code, said) = source.wait();
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("without a client token the access token is good for one"), "{said}");
    keeps_quiet(&said, &tunnel);
}

#[test]
fn what_is_no_message_of_the_protocol_ends_it_only_where_the_settings_say_so() {
    for (setting, ends) in [("true", false), ("false", true)] {
        let (service, directory) = (Service::start(), tempfile::tempdir().unwrap());
        let tunnel = service.tunnel(&["SSH"]);
        let text = format!(r#"{{ "websocket": {{ "retry_delay_ms": 50, "reconnect_on_data_error": {setting} }} }}"#);
        let arguments = ["-v", "5", "-m", "src", "--settings-json", &settings(&directory, &text)];
        let mut source = Localproxy::source(&service, &tunnel, &arguments);
        tunnel.source().wait_for_session(1);
        source.wait_for_line(&["debug", "ready; "]);
        tunnel.source().send_bytes(&[0, 2, 0xff, 0xff]);
        if ends {
            let (code, said) = source.wait();
            assert_eq!((code, service.handshakes().len()), (Some(1), 1), "{said}");
        } else {
            tunnel.source().wait_for_session(2);
        }
    }
}

#[test]
fn any_close_frame_of_the_service_is_the_good_end() {
    let service = Service::start();
    for code in [1001, 1011, 4000] {
        let tunnel = service.tunnel(&["SSH"]);
        let mut source = Localproxy::source(&service, &tunnel, &["-m", "src"]);
        tunnel.source().wait_for_session(1);
        source.port("SSH");
        tunnel.source().close(code);
        let (exit, said) = source.wait();
        assert_eq!(exit, Some(0), "{said}");
        assert!(said.contains(&code.to_string()), "{said}");
    }
}

#[test]
fn a_destination_dials_from_its_bind_address() {
    let service = Service::start();
    let tunnel = service.tunnel(&["SSH"]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
    let _destination = Localproxy::destination(&service, &tunnel, &["-d", &target, "-b", "127.0.0.2"]);
    let source = Localproxy::source(&service, &tunnel, &["-m", "src"]);
    tunnel.destination().wait_for_session(1);
    let _connection = TcpStream::connect(("127.0.0.1", source.port("SSH"))).unwrap();
    assert_eq!(listener.accept().unwrap().1.ip().to_string(), "127.0.0.2");
}

#[test]
fn the_service_may_be_an_ipv6_address() {
    let service = Service::at("[::1]:0".parse().unwrap());
    let tunnel = service.tunnel(&["SSH"]);
    let mut command = command();
    command.env("AWSIOT_TUNNEL_ACCESS_TOKEN", tunnel.token(Mode::Source));
    // Its certificate has no such address.
    command.args(["-k", "-m", "src", "-e", &service.address.to_string()]);
    let source = Localproxy::start(&mut command);
    tunnel.source().wait_for_session(1);
    source.port("SSH");
    assert_eq!(service.handshakes()[0].request.as_ref().unwrap().client_token, None, "none is made");
}

#[test]
fn a_source_speaks_what_an_old_destination_understands() {
    for (flag, first) in [("V1", "STREAM_START 1"), ("V2", "STREAM_START 1")] {
        let service = Service::start();
        let tunnel = service.tunnel(&["SSH"]);
        let _destination = Localproxy::destination(&service, &tunnel, &["-d", &echo().to_string()]);
        let source = Localproxy::source(&service, &tunnel, &["-m", "src", "-y", flag]);
        tunnel.destination().wait_for_session(1);
        echoes(source.port("SSH"), "one");
        echoes(source.port("SSH"), "two");
        let said = tunnel.said_by(Mode::Source);
        assert!(!said.iter().any(|said| said.contains("CONNECTION")), "{first} {said:?}");
    }
}
