use super::*;
use tokio::io::{DuplexStream, duplex};

const LIMIT: Duration = Duration::from_secs(30);
const TOKEN: &str = "very-secret-token";

fn request<'a>(token: &'a str) -> Request<'a> {
    Request {
        host: "service.example.net",
        target: "/tunnel?local-proxy-mode=source",
        subprotocol: "three",
        fields: Fields(vec![("access-token", token), ("User-Agent", "enftun")]),
        longest: 4096,
        longest_message: 131_076,
    }
}

async fn read_request(server: &mut DuplexStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        assert_ne!(server.read_buf(&mut bytes).await.unwrap(), 0);
    }
    String::from_utf8(bytes).unwrap()
}

/// What comes of a server that answers so; `ACCEPT` stands for what the key asks for. The answer comes byte by byte.
async fn answered(answer: &str) -> Result<Said, HandshakeError> {
    let (ours, mut theirs) = duplex(64 * 1024);
    let server = async {
        let asked = read_request(&mut theirs).await;
        let key = asked.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
        let answer = answer.replace("ACCEPT", &derive_accept_key(key.as_bytes()));
        for byte in answer.bytes() {
            if theirs.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(theirs);
    };
    let wanted = request(TOKEN);
    let (opened, ()) = tokio::join!(open(ours, &wanted, LIMIT), server);
    opened.map(|(_, said)| said)
}

const YES: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\
                   Sec-WebSocket-Accept: ACCEPT\r\nSec-WebSocket-Protocol: three\r\nchannel-id: abc-1\r\n\r\n";

#[tokio::test]
async fn the_request_is_what_the_service_expects_and_nothing_more() {
    let (ours, mut theirs) = duplex(64 * 1024);
    let wanted = request(TOKEN);
    let opening = open(ours, &wanted, LIMIT);
    let asked = tokio::select! { asked = read_request(&mut theirs) => asked, _ = opening => unreachable!() };
    let key = asked.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
    assert_eq!(BASE64.decode(key.as_bytes()).unwrap().len(), 16);
    let expected = format!(
        "GET /tunnel?local-proxy-mode=source HTTP/1.1\r\nHost: service.example.net\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Protocol: three\r\naccess-token: {TOKEN}\r\nUser-Agent: enftun\r\n\r\n"
    );
    assert_eq!(asked, expected);
    assert!(!format!("{wanted:?}").contains(TOKEN));
    let text = Request { host: "2001:db8::1", ..request(TOKEN) }.text("key").unwrap();
    assert!(text.contains("\r\nHost: [2001:db8::1]\r\n"));
}

#[tokio::test]
async fn a_request_that_no_service_takes_is_not_sent() {
    for (token, why) in [("x".repeat(4096), "too long"), ("a\r\nevil: b".to_owned(), "cannot be sent")] {
        let (ours, mut theirs) = duplex(64 * 1024);
        let error = open(ours, &request(&token), LIMIT).await.unwrap_err();
        assert!(error.to_string().contains(why) && !error.to_string().contains("evil"), "{error}");
        assert_eq!(theirs.read(&mut [0; 16]).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn only_what_was_asked_for_is_agreed_to() {
    assert_eq!(answered(YES).await.unwrap(), Said { channel_id: Some("abc-1".into()), retry_after: None });
    for (from, to, why) in [
        ("Sec-WebSocket-Protocol: three\r\n", "", "no subprotocol"),
        ("three", "foo.bar", "another subprotocol"),
        ("three\r\n", "three\r\nSec-WebSocket-Protocol: three\r\n", "another subprotocol"),
        ("ACCEPT", "nonsense", "not for this request"),
        ("Upgrade: WebSocket\r\n", "", "not upgraded"),
        ("keep-alive, Upgrade", "close", "not upgraded"),
        ("channel-id: abc-1", "Sec-WebSocket-Extensions: permessage-deflate", "extensions"),
        ("HTTP/1.1 101", "SSH-2.0-x", "does not speak HTTP"),
    ] {
        let error = answered(&YES.replace(from, to)).await.unwrap_err();
        assert!(error.to_string().contains(why), "{to}: {error}");
    }
}

#[tokio::test]
async fn a_refusal_says_its_status_and_when_to_come_again() {
    let error =
        answered("HTTP/1.1 403 Forbidden\r\nchannel-id: c\r\nContent-Length: 9\r\n\r\nsome body").await.unwrap_err();
    let expected = Said { channel_id: Some("c".into()), retry_after: None };
    assert!(matches!(&error, HandshakeError::Status { status: 403, said } if *said == expected), "{error}");
    let error = answered("HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nchannel-id: a b\r\n\r\n").await.unwrap_err();
    let expected = Said { channel_id: None, retry_after: Some(Duration::from_secs(7)) };
    assert!(matches!(&error, HandshakeError::Status { status: 429, said } if *said == expected), "{error}");
}

#[tokio::test]
async fn who_hangs_up_or_goes_on_for_ever_or_says_nothing_is_told_apart() {
    assert!(matches!(answered("").await.unwrap_err(), HandshakeError::Closed));
    assert!(matches!(answered("HTTP/1.1 101").await.unwrap_err(), HandshakeError::Closed));
    let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(2 * LONGEST));
    assert!(matches!(answered(&endless).await.unwrap_err(), HandshakeError::Endless));
    let (ours, _theirs) = duplex(64 * 1024);
    let error = open(ours, &request(TOKEN), Duration::from_millis(20)).await.unwrap_err();
    assert!(matches!(error, HandshakeError::Silent(_)), "{error}");
}

proptest::proptest! {
    #[test]
    fn no_answer_makes_it_panic(head in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
        let _ = judge(&head, "key", "three");
    }
}
