//! The service of these tests is itself as it should be: shown by a client made by hand.

use crate::common::aws_service::message::{CONNECTION_START, Message, STREAM_RESET, STREAM_START};
use crate::common::aws_service::websocket::{self, BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT};
use crate::common::aws_service::{Announce, Mode, Names, Reply, Service, Shape};
use crate::raw::{CLIENT, Raw, request};

fn hex(text: &str) -> Vec<u8> {
    text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

#[test]
fn its_messages_are_those_that_the_reference_took() {
    let of = Message::of;
    let ssh = ["SSH".to_owned()];
    let data = Message::data("SSH", 1, 1, "hi");
    for (message, bytes) in [
        (Message::services(&ssh), "00 07 08 05 32 03 53 53 48"),
        (Message::services(&[]), "00 02 08 05"),
        (of(STREAM_START, "", 1, 0), "00 04 08 02 10 01"),
        (of(STREAM_START, "SSH", 1, 0), "00 09 08 02 10 01 2a 03 53 53 48"),
        (of(STREAM_START, "SSH", 1, 1), "00 0b 08 02 10 01 2a 03 53 53 48 38 01"),
        (of(CONNECTION_START, "SSH", 1, 2), "00 0b 08 06 10 01 2a 03 53 53 48 38 02"),
        (data, "00 0f 08 01 10 01 22 02 68 69 2a 03 53 53 48 38 01"),
        (of(7, "SSH", 1, 1), "00 0b 08 07 10 01 2a 03 53 53 48 38 01"),
        (of(STREAM_RESET, "SSH", 1, 0), "00 09 08 03 10 01 2a 03 53 53 48"),
        (of(4, "", 0, 0), "00 02 08 04"),
    ] {
        assert_eq!(message.frame(), hex(bytes), "{message}");
        assert_eq!(Message::parse(message.frame().slice(2..)).unwrap(), message);
    }
    let negative = of(STREAM_START, "", -1, 0);
    assert_eq!(Message::parse(negative.frame().slice(2..)).unwrap(), negative);
    for broken in ["08 02 10 00", "08 02 08 02", "08 02 40 01", "22 05 01", "08", "0a 01 31", "08 80"] {
        assert!(Message::parse(hex(broken).into()).is_err(), "{broken}");
    }
}

#[test]
fn its_masks_are_those_of_the_standard() {
    // RFC 6455, section 5.7.
    assert_eq!(websocket::masked_frame(true, TEXT, b"Hello"), hex("81 85 37 fa 21 3d 7f 9f 4d 51 58"));
    assert_eq!(websocket::frame(true, TEXT, b"Hello"), hex("81 05 48 65 6c 6c 6f"));
    // At every length the key goes around.
    for length in 0..40 {
        let masked = websocket::masked_frame(true, BINARY, &vec![0; length]);
        let key = [0x37, 0xfa, 0x21, 0x3d];
        assert!(masked[6..].iter().zip(key.iter().cycle()).all(|(byte, key)| byte == key), "{length}");
    }
}

#[test]
fn a_request_is_looked_at_strictly() {
    let service = Service::start();
    let tunnel = service.tunnel(&["SSH"]);
    let token = format!("access-token: {}", tunnel.token(Mode::Source));
    let good = request("source", &[&token]);
    let cookie = format!("cookie: a=b; awsiot-tunnel-token={}", tunnel.token(Mode::Source));
    let long = format!("X: {}", "x".repeat(4096));
    let bad = [
        (good.replace("/tunnel?", "/other?"), 400),
        (good.replace("mode=source", "mode=both"), 400),
        (good.replace("GET", "POST"), 400),
        (good.replace("Version: 13", "Version: 8"), 400),
        (good.replace("dGhlIHNhbXBsZSBub25jZQ==", "dGhl"), 400),
        (good.replace("securetunneling-3.0", "securetunneling-4.0"), 400),
        (good.replace("Upgrade: websocket\r\n", ""), 400),
        (request("source", &[]), 400),
        (request("source", &[&token, &token]), 400),
        (request("source", &[&token, &cookie]), 400),
        (request("source", &[&token, "client-token: short"]), 400),
        (request("source", &[&token, "Sec-WebSocket-Extensions: permessage-deflate"]), 400),
        (request("source", &[&token, &long]), 400),
        (request("destination", &[&token]), 403),
        (request("source", &["access-token: unknown"]), 403),
    ];
    for (request, status) in &bad {
        let answer = Raw::dial(&service).ask(request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}{answer}");
        assert!(answer.contains("channel-id: "), "{answer}");
    }
    let answer = Raw::dial(&service).ask(&request("source", &[&cookie]));
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert!(answer.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{answer}");
    assert!(answer.contains("sec-websocket-protocol: aws.iot.securetunneling-3.0\r\n"), "{answer}");
    assert_eq!(service.handshakes().len(), bad.len() + 1);
}

#[test]
fn a_token_belongs_to_the_first_who_uses_it() {
    let service = Service::start();
    let tunnel = service.tunnel(&["SSH"]);
    let status = |mode: Mode, token: &str, client: Option<&str>| {
        let lines = [format!("access-token: {token}"), format!("client-token: {}", client.unwrap_or_default())];
        let lines: Vec<&str> = lines[..if client.is_some() { 2 } else { 1 }].iter().map(String::as_str).collect();
        Raw::dial(&service).ask(&request(mode.as_str(), &lines))[9..12].parse::<u16>().unwrap()
    };
    let (source, destination) = (tunnel.token(Mode::Source), tunnel.token(Mode::Destination));
    assert_eq!(status(Mode::Source, &source, None), 101);
    assert_eq!(status(Mode::Source, &source, None), 403, "it is used up");
    assert_eq!(status(Mode::Source, &source, Some(CLIENT)), 403);
    assert_eq!(status(Mode::Destination, &destination, Some(CLIENT)), 101);
    assert_eq!(status(Mode::Destination, &destination, Some(CLIENT)), 101, "the same pair may come back");
    assert_eq!(status(Mode::Destination, &destination, Some(&CLIENT.replace('0', "1"))), 403);
    assert_eq!(status(Mode::Destination, &destination, None), 403);
    tunnel.rotate(&[Mode::Destination]);
    assert_eq!(status(Mode::Destination, &destination, Some(CLIENT)), 403, "it was rotated");
    assert_eq!(status(Mode::Destination, &tunnel.token(Mode::Destination), Some(&CLIENT.replace('0', "1"))), 101);
    tunnel.close();
    assert_eq!(status(Mode::Destination, &tunnel.token(Mode::Destination), Some(CLIENT)), 403, "the tunnel is closed");
}

/// Both ends of a tunnel with the services A and B.
fn pair(service: &Service) -> (crate::common::aws_service::Tunnel, Raw, Raw) {
    let tunnel = service.tunnel(&["A", "B"]);
    let mut ends = Mode::BOTH.map(|mode| Raw::connect(service, mode, &tunnel.token(mode)));
    for end in &mut ends {
        assert_eq!(end.hear().services, ["A", "B"]);
    }
    let [source, destination] = ends;
    (tunnel, source, destination)
}

#[test]
fn frames_cross_it_whole_cut_and_merged() {
    let service = Service::start();
    for shape in [Shape::Whole, Shape::Cut, Shape::Merged, Shape::Fragments(7)] {
        let (tunnel, mut source, mut destination) = pair(&service);
        tunnel.knobs(|knobs| knobs.shape = shape);
        let start = Message::of(STREAM_START, "A", 1, 1);
        // Cut and in fragments itself: within the length, and in the middle.
        let frame = start.frame();
        source.write(&websocket::masked_frame(false, BINARY, &frame[..1]));
        source.write(&websocket::masked_frame(true, CONTINUATION, &frame[1..4]));
        source.write(&websocket::masked_frame(true, BINARY, &frame[4..]));
        let mut expected = vec![start];
        for number in 0..100_u32 {
            let data = Message::data("A", 1, 1, vec![number as u8; 1 + (number as usize * 997) % 64_512]);
            source.say(&data);
            expected.push(data);
        }
        for message in expected {
            assert_eq!(destination.hear(), message, "{shape:?}");
        }
        destination.say(&Message::data("A", 1, 1, "back"));
        assert_eq!(source.hear().payload, "back");
        assert_eq!(tunnel.carried_by(Mode::Destination)[&("A".to_owned(), 1, 1)], 4);
    }
}

#[test]
fn what_breaks_a_rule_is_noticed() {
    let service = Service::start();
    let bad = [
        (Mode::Destination, Message::of(STREAM_START, "A", 1, 1)),
        (Mode::Destination, Message::data("A", 1, 1, "x")),
        (Mode::Source, Message::of(STREAM_START, "A", -1, 1)),
        (Mode::Source, Message::of(STREAM_START, "C", 1, 1)),
        (Mode::Source, Message::of(STREAM_START, "", 1, 0)),
        (Mode::Source, Message::of(CONNECTION_START, "A", 1, 1)),
        (Mode::Source, Message::of(STREAM_RESET, "A", 1, 0)),
        (Mode::Source, Message::services(&["A".into()])),
        (Mode::Source, Message::of(4, "", 0, 0)),
        (Mode::Source, Message::of(9, "A", 1, 1)),
        (Mode::Source, Message::data("A", 1, 1, vec![0; 64_513])),
        (Mode::Source, Message { ignorable: true, ..Message::of(STREAM_START, "A", 1, 1) }),
    ];
    for (mode, message) in bad {
        let (tunnel, mut source, mut destination) = pair(&service);
        tunnel.knobs(|knobs| knobs.strict = true);
        let end = if mode == Mode::Source { &mut source } else { &mut destination };
        end.say(&message);
        assert_eq!(end.goodbye(), 1002, "{message}");
        assert_eq!(tunnel.violations().len(), 1, "{message}");
    }
    let raw = [
        ("a mask is missing", websocket::frame(true, BINARY, b"\0\x02\x08\x04")),
        ("text", websocket::masked_frame(true, TEXT, b"hello")),
        ("a continuation of nothing", websocket::masked_frame(true, CONTINUATION, b"hello")),
        ("a long control frame", websocket::masked_frame(true, PING, &[0; 126])),
        ("a long message", websocket::masked_frame(true, BINARY, &[0; 131_077])),
        ("an unknown field", websocket::masked_frame(true, BINARY, &[0, 2, 0x40, 1])),
    ];
    for (what, bytes) in raw {
        let (tunnel, mut source, _destination) = pair(&service);
        source.write(&bytes);
        assert_eq!(source.goodbye(), 1002, "{what}");
        assert_eq!(tunnel.violations().len(), 1, "{what}");
    }
    let (tunnel, mut source, _destination) = pair(&service);
    for message in [
        Message::of(STREAM_START, "A", 1, 1),
        Message::of(CONNECTION_START, "A", 1, 2),
        Message::data("A", 1, 2, "x"),
        Message::of(7, "A", 1, 1),
        Message::of(STREAM_RESET, "A", 1, 0),
        Message::of(STREAM_START, "A", 2, 3),
        Message::of(STREAM_START, "B", 1, 1),
    ] {
        source.say(&message);
        tunnel.wait_until_said(Some(Mode::Source), "STREAM_START A:1/1");
    }
    tunnel.wait_until_said(Some(Mode::Source), "STREAM_START B:1/1");
    assert_eq!(tunnel.violations(), [""; 0]);
    for message in [
        Message::of(STREAM_START, "A", 4, 4),
        Message::of(CONNECTION_START, "A", 2, 5),
        Message::of(STREAM_START, "A", 3, 6),
        Message::of(STREAM_START, "B", 2, 0),
        Message::data("A", 1, 1, "x"),
    ] {
        source.say(&message);
    }
    source.say(&Message::of(STREAM_START, "B", 3, 2));
    tunnel.wait_until_said(Some(Mode::Source), "STREAM_START B:3/2");
    assert_eq!(tunnel.violations().len(), 5);
}

#[test]
fn who_is_left_behind_is_told_by_resets() {
    let service = Service::start();
    let (tunnel, mut source, mut destination) = pair(&service);
    source.say(&Message::of(STREAM_START, "A", 1, 1));
    source.say(&Message::of(STREAM_START, "B", 1, 1));
    destination.hear();
    destination.hear();
    drop(source);
    for name in ["A", "B"] {
        assert_eq!(destination.hear(), Message::of(STREAM_RESET, name, 1, 0));
    }
    let mut source = Raw::connect(&service, Mode::Source, &tunnel.token(Mode::Source));
    source.hear();
    source.say(&Message::of(STREAM_START, "A", 1, 1));
    destination.hear();
    let mut next = Raw::connect(&service, Mode::Source, &tunnel.token(Mode::Source));
    assert_eq!(source.goodbye(), 1000, "it is replaced");
    assert_eq!(destination.hear(), Message::of(STREAM_RESET, "A", 1, 0));
    next.hear();
    tunnel.source().knobs(|knobs| (knobs.reset_other, knobs.close_replaced) = (false, false));
    next.say(&Message::of(STREAM_START, "A", 1, 1));
    destination.hear();
    let mut last = Raw::connect(&service, Mode::Source, &tunnel.token(Mode::Source));
    assert!(next.frame().is_none(), "its connection is broken");
    last.hear();
    last.say(&Message::of(STREAM_START, "A", 1, 1));
    assert_eq!(destination.hear(), Message::of(STREAM_START, "A", 1, 1), "no reset before");
    assert_eq!(tunnel.source().sessions(), 4);
}

#[test]
fn it_misbehaves_as_it_is_told() {
    let service = Service::start();
    let tunnel = service.tunnel(&["A"]);
    let source = tunnel.source();
    let ask = || {
        let token = format!("access-token: {}", tunnel.token(Mode::Source));
        Raw::dial(&service).ask(&request("source", &[&token, &format!("client-token: {CLIENT}")]))
    };
    service.reply_next(1, Reply::Status(429, vec![("retry-after".into(), "7".into())]));
    assert!(ask().contains("retry-after: 7\r\n"));
    service.reply_next(1, Reply::HangUp);
    assert_eq!(ask(), "");
    source.knobs(|knobs| knobs.names = Names::Missing);
    assert!(!ask().contains("sec-websocket-protocol"));
    source.knobs(|knobs| knobs.names = Names::Another("foo.bar".into()));
    assert!(ask().contains("sec-websocket-protocol: foo.bar\r\n"));
    source.knobs(|knobs| (knobs.names, knobs.announce) = (Names::Offered, Announce::Never));
    let mut raw = Raw::connect(&service, Mode::Source, &tunnel.token(Mode::Source));
    raw.write(&websocket::masked_frame(true, PING, b"123"));
    let pong = raw.frame().unwrap();
    assert_eq!((pong.opcode, &pong.payload[..]), (PONG, &b"123"[..]));
    source.announce();
    assert_eq!(raw.hear().services, ["A"]);
    source.knobs(|knobs| knobs.pongs = false);
    raw.write(&websocket::masked_frame(true, PING, b"456"));
    assert_eq!(source.wait_for_pings(2)[1], "456");
    source.send_raw(true, PING, b"hello");
    assert_eq!(raw.frame().unwrap().opcode, PING, "the second ping had no answer");
    raw.write(&websocket::masked_frame(true, PONG, b"hello"));
    assert_eq!(source.wait_for_pongs(1), ["hello"]);
    source.stop_reading();
    raw.write(&websocket::masked_frame(true, PING, b"789"));
    source.send_raw(true, TEXT, b"text");
    assert_eq!(raw.frame().unwrap().opcode, TEXT);
    assert_eq!(source.pings().len(), 2, "it does not read");
    source.resume();
    source.wait_for_pings(3);
    source.close(4000);
    assert_eq!(raw.goodbye(), 4000);
    assert!(raw.frame().is_none());
    source.wait_until_gone();
    source.knobs(|knobs| knobs.announce = Announce::Twice(vec!["Z".into()]));
    let mut raw = Raw::connect(&service, Mode::Source, &tunnel.token(Mode::Source));
    assert_eq!((raw.hear().services, raw.hear().services), (vec!["A".to_owned()], vec!["Z".to_owned()]));
    raw.write(&websocket::masked_frame(true, CLOSE, &websocket::goodbye(1000, "")));
    assert_eq!(raw.goodbye(), 1000);
    source.wait_until_gone();
    assert_eq!(source.closed().last(), Some(&Some(1000)));
    let mut raw = Raw::connect(&service, Mode::Source, &tunnel.token(Mode::Source));
    raw.hear();
    raw.hear();
    source.abort();
    assert!(raw.frame().is_none());
}
