use super::*;
use crate::error::Class;
use crate::identity::{Algorithm, keypair};
use serde_json::{Value, json};
use std::io;
use std::sync::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

const TOKEN: &str = "eyJ.a-token";

/// An interface that answers each connection with the next of its answers, and keeps the requests.
struct Interface {
    answers: Mutex<Vec<Vec<u8>>>,
    heard: Mutex<Vec<tokio::task::JoinHandle<String>>>,
}

impl Interface {
    fn new<A: AsRef<[u8]>>(answers: impl IntoIterator<Item = A>) -> Self {
        let mut answers: Vec<_> = answers.into_iter().map(|answer| answer.as_ref().to_vec()).collect();
        answers.reverse();
        Self { answers: answers.into(), heard: Mutex::default() }
    }

    async fn dial(&self) -> Result<DuplexStream, io::Error> {
        let (ours, mut theirs) = duplex(1 << 20);
        let answer = self.answers.lock().unwrap().pop().ok_or(io::ErrorKind::ConnectionRefused)?;
        self.heard.lock().unwrap().push(tokio::spawn(async move {
            let mut heard = Vec::new();
            while !is_whole(&heard) {
                if theirs.read_buf(&mut heard).await.unwrap() == 0 {
                    break;
                }
            }
            theirs.write_all(&answer).await.unwrap();
            String::from_utf8(heard).unwrap()
        }));
        Ok(ours)
    }

    async fn asked(&self, wanted: Wanted) -> Result<Enrolled, EnrolError> {
        let url = EnrolUrl { host: crate::config::Host::direct("router.example.net", 8443), path: "/below".to_owned() };
        let login = Login { user: "me".to_owned(), password: Secret::new("s3cret\"".to_owned()) };
        let key = PublicKey::of(&keypair(Algorithm::P256).unwrap()).unwrap();
        enrol(&url, &login, wanted, &key, async || self.dial().await).await
    }

    /// The requests, head and body.
    async fn heard(self) -> Vec<(String, Value)> {
        let mut heard = Vec::new();
        for request in self.heard.into_inner().unwrap() {
            let request = request.await.unwrap();
            let (head, body) = request.split_once("\r\n\r\n").unwrap();
            heard.push((head.to_owned(), serde_json::from_str(body).unwrap()));
        }
        heard
    }
}

/// The request is all there.
fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    length.is_some_and(|length| body.len() >= length.trim().parse().unwrap())
}

fn answer(status: &str, body: impl ToString) -> String {
    let body = body.to_string();
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn login() -> String {
    let session = json!({"username": "me", "token": TOKEN, "domain_network": "fd00:8f80:1::/64"});
    answer("200 OK", json!({"data": [session], "page": {"curr": 0, "next": -1, "prev": -1}}))
}

fn address(text: &str) -> String {
    answer("200 OK", json!({"address": text, "network": "fd00:8f80:1::/64", "active_credentials": {"body": []}}))
}

async fn login_fails(answer: impl AsRef<[u8]>) -> EnrolError {
    Interface::new([answer]).asked(Wanted::Auto).await.unwrap_err()
}

async fn address_fails(answer: impl Into<Vec<u8>>) -> EnrolError {
    Interface::new([login().into_bytes(), answer.into()]).asked(Wanted::Auto).await.unwrap_err()
}

#[tokio::test]
async fn a_login_and_a_request_give_the_address_in_the_network_of_the_login() {
    let interface = Interface::new([login(), address("fd00:8f80:1::1234")]);
    let enrolled = interface.asked(Wanted::Auto).await.unwrap();
    let network = "fd00:8f80:1::/64".parse().unwrap();
    assert_eq!(enrolled, Enrolled { address: "fd00:8f80:1::1234".parse().unwrap(), network: Some(network) });
    let [(login, credentials), (request, wanted)] = &interface.heard().await[..] else { panic!("two requests") };
    assert!(login.starts_with("POST /below/api/xcr/v2/xauth HTTP/1.1\r\n"), "{login}");
    assert!(login.contains("\r\nhost: router.example.net:8443\r\n"), "{login}");
    assert_eq!(*credentials, json!({"username": "me", "token": "s3cret\""}));
    assert!(request.starts_with("POST /below/api/xiam/v1/endpoints HTTP/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("\r\nauthorization: Bearer {TOKEN}\r\n")), "{request}");
    assert_eq!(wanted["address_request"], json!({"network": "fd00:8f80:1::/64"}));
    let key = wanted["ecdsa_credential"]["key"].as_str().unwrap();
    assert!(key.len() == 130 && key.starts_with("04") && key.to_uppercase() == key, "{key}");
}

#[tokio::test]
async fn a_network_or_an_address_is_asked_for_as_it_is_wanted() {
    let one = "fd00:8f80:1::7".parse().unwrap();
    for (wanted, asked, given) in [
        (Wanted::Exactly(one), json!({"address": "fd00:8f80:1::7"}), "fd00:8f80:1::7/128"),
        (Wanted::In("fd00:2::/64".parse().unwrap()), json!({"network": "fd00:2::/64"}), "FD00:2::0:7"),
    ] {
        let interface = Interface::new([login(), address(given)]);
        let enrolled = interface.asked(wanted).await.unwrap();
        assert_eq!(enrolled.address, given.trim_end_matches("/128").parse::<Ipv6Addr>().unwrap());
        assert_eq!(interface.heard().await[1].1["address_request"], asked);
    }
}

#[tokio::test]
async fn an_address_that_was_not_asked_for_is_not_taken() {
    let one = Wanted::Exactly("fd00:8f80:1::7".parse().unwrap());
    for (wanted, given, why) in [
        (one, "fd00:8f80:1::8", "is not fd00:8f80:1::7"),
        (Wanted::Auto, "fd00:8f80:2::8", "is not in fd00:8f80:1::/64"),
        (Wanted::In("fe80::/64".parse().unwrap()), "fe80::8", "link-local"),
    ] {
        let error = Interface::new([login(), address(given)]).asked(wanted).await.unwrap_err();
        assert!(matches!(error, EnrolError::WrongAddress { .. }), "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    for body in [json!({}), json!({"address": null}), json!({"address": "router"}), json!([1])] {
        let error = address_fails(answer("200 OK", &body)).await;
        assert!(matches!(error, EnrolError::Foreign { .. }), "{body}: {error}");
    }
}

#[tokio::test]
async fn each_refusal_says_who_and_what_to_do() {
    let said = |status: &str| answer(status, json!({"xiam_error": 1, "http_error": 0, "reason": "no\u{1b}[2J way"}));
    let error = login_fails(said("401 Unauthorized")).await;
    assert!(matches!(error, EnrolError::Refused { .. }) && error.is_refusal(), "{error}");
    assert!(error.to_string().contains("\"me\"") && error.to_string().contains("no\u{fffd}[2J way"), "{error}");
    let error = address_fails(said("403 Forbidden")).await;
    assert!(matches!(error, EnrolError::Forbidden { .. }) && error.class() == Class::Credentials, "{error}");
    let error = address_fails(said("409 Conflict")).await;
    assert!(matches!(error, EnrolError::Taken { .. }), "{error}");
    let error = address_fails(said("401 Unauthorized")).await;
    assert!(matches!(error, EnrolError::TokenRefused { .. }) && error.class() == Class::Transient, "{error}");
    let error = address_fails(said("400 Bad Request")).await;
    assert!(matches!(error, EnrolError::Rejected { status: 400, .. }), "{error}");
    let error = login_fails(said("500 Internal Server Error")).await;
    assert!(matches!(error, EnrolError::Server { status: 500, .. }) && error.class() == Class::Transient, "{error}");
    // Some say it in the body alone.
    let error = address_fails(answer("200 OK", json!({"xiam_error": 9, "http_error": 403, "reason": null}))).await;
    assert!(matches!(error, EnrolError::Forbidden { reason: None, .. }), "{error}");
}

#[tokio::test]
async fn what_must_wait_says_how_long() {
    let later = "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 17\r\nContent-Length: 0\r\n\r\n";
    let error = login_fails(later).await;
    assert_eq!(error.retry_after(), Some(17));
    assert!(error.to_string().contains("in 17 s"), "{error}");
    let mut headers = HeaderMap::new();
    let now = httpdate::parse_http_date("Wed, 21 Oct 2026 07:28:00 GMT").unwrap();
    headers.insert(RETRY_AFTER, HeaderValue::from_static("Wed, 21 Oct 2026 07:29:00 GMT"));
    assert_eq!(retry_after(&headers, now), Some(60));
    headers.insert(RETRY_AFTER, HeaderValue::from_static("soon"));
    assert_eq!(retry_after(&headers, now), None);
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_gets_no_password() {
    let elsewhere = "HTTP/1.1 307 Temporary Redirect\r\nLocation: https://evil.example/\r\nContent-Length: 0\r\n\r\n";
    let interface = Interface::new([elsewhere]);
    let error = interface.asked(Wanted::Auto).await.unwrap_err();
    assert!(error.to_string().contains("\"https://evil.example/\""), "{error}");
    assert_eq!(interface.heard().await.len(), 1);
}

#[tokio::test]
async fn whatever_is_no_answer_of_the_interface_is_told() {
    let page = answer("200 OK", "<html>");
    for (bytes, what) in [
        (page.as_str(), "correct enrol.url"),
        (&answer("404 Not Found", ""), "HTTP status 404"),
        (&answer("200 OK", json!({"data": []})), "no token"),
        (&answer("200 OK", json!({"data": [{"token": null}]})), "no token"),
        (&answer("200 OK", json!({"data": [{"token": "a\nb", "domain_network": "fd00::/64"}]})), "token cannot stand"),
        ("SSH-2.0-OpenSSH_9.2p1\r\n", "not HTTP"),
        ("", "ends in the middle"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"data\":", "broke the connection"),
    ] {
        let interface = Interface::new([bytes, bytes]);
        let error = interface.asked(Wanted::Auto).await.unwrap_err();
        assert!(error.to_string().contains(what), "{bytes:?}: {error}");
    }
}

#[tokio::test]
async fn an_answer_without_end_is_given_up() {
    let large = vec![b' '; api::LIMIT + 1];
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", large.len());
    let error = login_fails([head.as_bytes(), &large].concat()).await;
    assert!(matches!(error, EnrolError::TooLarge { .. }), "{error}");
    let head = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(HEAD.0));
    let error = login_fails(head).await;
    assert!(matches!(error, EnrolError::Http { .. }), "{error}");
}

#[tokio::test]
async fn an_interface_that_says_nothing_is_given_up_in_time() {
    let ends = Mutex::new(Vec::new());
    let login = Login { user: "me".to_owned(), password: Secret::new(String::new()) };
    let url = EnrolUrl { host: crate::config::Host::direct("router.example.net", 443), path: String::new() };
    let key = PublicKey::of(&keypair(Algorithm::P256).unwrap()).unwrap();
    let silent = async || {
        let (ours, theirs) = duplex(1 << 16);
        ends.lock().unwrap().push(theirs);
        Ok::<_, EnrolError>(ours)
    };
    let limit = Duration::from_millis(50);
    let asking = Asking { url: &url, remote: url.to_string(), user: "me", wanted: Wanted::Auto, limit };
    let error = asking.ask(&login, &key, silent).await.unwrap_err();
    assert!(matches!(error, EnrolError::Timeout { step: Step::Login, .. }) && error.is_timeout(), "{error}");
}

#[tokio::test]
async fn without_a_network_auto_says_what_to_write() {
    let login = answer("200 OK", json!({"data": [{"token": TOKEN}]}));
    let error = Interface::new([login]).asked(Wanted::Auto).await.unwrap_err();
    assert!(matches!(error, EnrolError::NoNetwork { .. }), "{error}");
}

#[tokio::test]
async fn neither_password_nor_token_is_ever_shown() {
    let error = address_fails(answer("500 .", "{}")).await;
    let secret = Login { user: "me".to_owned(), password: Secret::new("s3cret".to_owned()) };
    for text in [format!("{error:?}"), format!("{secret:?}")] {
        assert!(!text.contains("s3cret") && !text.contains("eyJ"), "{text}");
    }
}
