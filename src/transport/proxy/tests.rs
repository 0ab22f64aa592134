use super::*;
use crate::config::Login;
use futures_util::FutureExt;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const LIMIT: Duration = Duration::from_secs(30);
const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\nVia: 1.1 proxy\r\n\r\n";
/// What comes after the proxy's answer.
const REST: &[u8] = b"\x16\x03\x03rest\r\n\r\n";

fn login() -> Option<Login> {
    Some(Login { user: b"Aladdin".to_vec(), password: b"open sesame".to_vec() })
}

fn proxy(scheme: Scheme, login: Option<Login>) -> config::Proxy {
    config::Proxy { scheme, host: "proxy.example.net".into(), port: 3128, login }
}

/// What is sent to a proxy that answers with these bytes whatever it is asked, what comes of it, and what is left unread.
fn told<'a>(proxy: &config::Proxy, host: &str, answers: &'a [u8]) -> (Vec<u8>, Result<(), Why>, &'a [u8]) {
    let mut stream = tokio::io::join(answers, Vec::new());
    let result = ask(&mut stream, proxy, host, 443).now_or_never().expect("nothing to wait for");
    let (left, sent) = stream.into_inner();
    (sent, result, left)
}

fn http(host: &str, answer: &str, login: Option<Login>) -> (String, Result<(), Why>) {
    let (sent, result, _) = told(&proxy(Scheme::Http, login), host, answer.as_bytes());
    (String::from_utf8(sent).unwrap(), result)
}

fn refused(answer: &str, login: Option<Login>) -> (Class, String) {
    let why = http("router.example.net", answer, login).1.unwrap_err();
    (why.class(), why.to_string())
}

#[test]
fn a_connect_names_the_router_and_carries_the_login() {
    let ok = "HTTP/1.0 200 OK\r\n\r\n";
    let (sent, result) = http("router.example.net", ok, None);
    assert!(result.is_ok());
    assert_eq!(sent, "CONNECT router.example.net:443 HTTP/1.1\r\nHost: router.example.net:443\r\n\r\n");
    // The example of RFC 7617 section 2.
    let (sent, _) = http("2001:db8::1", ok, login());
    let expected = "CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n\
                    Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\r\n";
    assert_eq!(sent, expected);
}

#[test]
fn an_http_proxy_that_does_not_connect_says_whose_business_it_is() {
    use Class::{Configuration, Transient};
    for (answer, login, class, text) in [
        (
            "HTTP/1.1 407 x\r\nProxy-Authenticate: Basic realm=\"a\"\r\n\r\n",
            None,
            Configuration,
            "write USER:PASSWORD@",
        ),
        ("HTTP/1.1 407 x\r\nproxy-authenticate: BASIC\r\n\r\n", login(), Configuration, "refuses the user"),
        (
            "HTTP/1.1 407 x\r\nProxy-Authenticate: NTLM\r\nProxy-Authenticate: Digest a=b, Basic realm=\"\"\r\n\r\n",
            None,
            Configuration,
            "write USER",
        ),
        ("HTTP/1.1 407 x\r\nProxy-Authenticate: NTLM\r\n\r\n", login(), Configuration, "another way than Basic"),
        ("HTTP/1.1 401 x\r\n\r\n", login(), Configuration, "refuses the user"),
        ("HTTP/1.1 401 x\r\n\r\n", None, Configuration, "rules do not allow"),
        ("HTTP/1.1 403 x\r\n\r\n", None, Configuration, "rules do not allow"),
        ("HTTP/1.1 405 x\r\n\r\n", None, Configuration, "does not do CONNECT"),
        ("HTTP/1.1 429 x\r\n\r\n", None, Transient, "too many"),
        ("HTTP/1.1 302 x\r\nLocation: http://login.example/\r\n\r\n", None, Transient, "captive portal"),
        ("HTTP/1.1 500 x\r\n\r\n", None, Transient, "error of its own"),
        ("HTTP/1.1 502 x\r\n\r\n", None, Transient, "cannot be reached from there (HTTP status 502)"),
        ("HTTP/1.1 503 x\r\n\r\n", None, Transient, "overloaded"),
        ("HTTP/1.1 999 x\r\n\r\n", None, Transient, "status 999"),
        ("SSH-2.0-OpenSSH_9.2p1\r\n", None, Transient, "does not speak HTTP"),
        ("HTTP/2 200 OK\r\n\r\n", None, Transient, "does not speak HTTP"),
        ("", None, Transient, "closed the connection"),
        ("HTTP/1.1 200 OK\r\n", None, Transient, "closed the connection"),
    ] {
        let (found, said) = refused(answer, login);
        assert!(
            said.contains(text) && !said.contains("sesame") && !said.contains("login.example"),
            "{answer:?}: {said}"
        );
        assert_eq!(found, class, "{answer:?}");
    }
}

#[test]
fn interim_answers_are_passed_over() {
    let (_, result) =
        http("a", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nA: b\r\n\r\nHTTP/1.1 204 x\r\n\r\n", None);
    assert!(result.is_ok());
    let forever = "HTTP/1.1 100 Continue\r\n\r\n".repeat(1000);
    assert!(matches!(http("a", &forever, None).1, Err(Why::Endless)));
}

#[test]
fn no_more_than_16_kib_of_an_answer_are_read() {
    let long = |pad: usize| format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "x".repeat(pad)).into_bytes();
    let around = long(0).len();
    let proxy = proxy(Scheme::Http, None);
    assert!(told(&proxy, "a", &long(http::LONGEST - around)).1.is_ok());
    let endless = long(http::LONGEST);
    let (_, result, left) = told(&proxy, "a", &endless);
    assert!(matches!(result, Err(Why::Endless)));
    assert_eq!(left.len(), endless.len() - http::LONGEST);
    let fields = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(101));
    assert!(matches!(told(&proxy, "a", fields.as_bytes()).1, Err(Why::Endless)));
}

/// A sound conversation: the proxy, the router's host, what the proxy answers, and what it is asked.
type Conversation = (config::Proxy, &'static str, Vec<u8>, Option<Vec<u8>>);

fn sound() -> Vec<Conversation> {
    let plain = [5, 0].as_slice();
    let with_login = [5, 2, 1, 0].as_slice();
    let from_ipv4 = [5, 0, 0, 1, 10, 0, 0, 1, 4, 56].as_slice();
    let from_ipv6 = [&[5, 0, 0, 4], [0xfd; 16].as_slice(), &[4, 56]].concat();
    let from_name = [&[5, 0, 0, 3, 5], b"inner".as_slice(), &[4, 56]].concat();
    let socks = || proxy(Scheme::Socks5, None);
    let asked = |start: &[u8], request: &[u8]| Some([start, request].concat());
    let name = [&[5, 1, 0, 3, 18], b"router.example.net".as_slice(), &[1, 187]].concat();
    let v6 = [&[5, 1, 0, 4, 0x20, 1, 0x0d, 0xb8], [0; 11].as_slice(), &[1, 1, 187]].concat();
    let logged_in = [&[5, 2, 0, 2, 1, 7], b"Aladdin".as_slice(), &[11], b"open sesame", &name].concat();
    vec![
        (proxy(Scheme::Http, None), "a", ESTABLISHED.to_vec(), None),
        (socks(), "router.example.net", [plain, from_ipv4].concat(), asked(&[5, 1, 0], &name)),
        (socks(), "2001:db8::1", [plain, &from_ipv6].concat(), asked(&[5, 1, 0], &v6)),
        (
            socks(),
            "198.51.100.7",
            [plain, &from_name].concat(),
            asked(&[5, 1, 0], &[5, 1, 0, 1, 198, 51, 100, 7, 1, 187]),
        ),
        (proxy(Scheme::Socks5, login()), "router.example.net", [with_login, from_ipv4].concat(), Some(logged_in)),
        (proxy(Scheme::Socks5, login()), "a", [plain, from_ipv4].concat(), None),
    ]
}

#[test]
fn what_follows_the_answer_is_left_for_tls() {
    for (proxy, host, answer, asked) in sound() {
        let bytes = [answer.as_slice(), REST].concat();
        let (sent, result, left) = told(&proxy, host, &bytes);
        assert!(result.is_ok(), "{proxy} {result:?}");
        assert_eq!(left, REST);
        assert!(asked.is_none_or(|asked| asked == sent), "{proxy}: {sent:?}");
    }
}

#[test]
fn an_answer_that_ends_early_at_any_byte_is_no_connection() {
    for (proxy, host, answer, _) in sound() {
        for end in 0..answer.len() {
            let result = told(&proxy, host, &answer[..end]).1;
            assert!(matches!(result, Err(Why::Closed)), "{proxy} after {end} bytes: {result:?}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_comes_byte_by_byte_is_the_same() {
    for (proxy, host, answer, _) in sound() {
        // No more than one byte is ever under way.
        let (mut ours, theirs) = tokio::io::duplex(1);
        let (mut read, mut write) = tokio::io::split(theirs);
        tokio::spawn(async move { tokio::io::copy(&mut read, &mut tokio::io::sink()).await });
        let bytes = [answer.as_slice(), REST].concat();
        tokio::spawn(async move { write.write_all(&bytes).await });
        ask(&mut ours, &proxy, host, 443).await.unwrap();
        let mut left = [0; REST.len()];
        ours.read_exact(&mut left).await.unwrap();
        assert_eq!(left, REST);
    }
}

#[test]
fn a_socks_proxy_that_does_not_connect_says_whose_business_it_is() {
    use Class::{Configuration, Transient};
    let plain = proxy(Scheme::Socks5, None);
    let user = proxy(Scheme::Socks5, login());
    for (proxy, answer, class, text) in [
        (&plain, [5, 0xff].as_slice(), Configuration, "write USER:PASSWORD@"),
        (&user, &[5, 0xff], Configuration, "another way than user and password"),
        (&user, &[5, 2, 1, 1], Configuration, "refuses the user"),
        (&user, &[5, 2, 5, 1], Configuration, "refuses the user"),
        (&user, &[5, 2, 4, 0], Transient, "does not speak SOCKS5"),
        (&plain, &[5, 0, 5, 1], Transient, "does not say why"),
        (&plain, &[5, 0, 5, 2], Configuration, "rules do not allow"),
        (&plain, &[5, 0, 5, 3], Transient, "no network"),
        (&plain, &[5, 0, 5, 4], Transient, "cannot be reached from there"),
        (&plain, &[5, 0, 5, 5], Transient, "the far end refuses"),
        (&plain, &[5, 0, 5, 6], Transient, "TTL"),
        (&plain, &[5, 0, 5, 7], Configuration, "CONNECT"),
        (&plain, &[5, 0, 5, 8], Configuration, "kind of address"),
        (&plain, &[5, 0, 5, 99], Transient, "reply 99"),
        (&plain, &[5, 0, 5, 0, 0, 9], Transient, "does not speak SOCKS5"),
        (&plain, b"HTTP/1.1 400 Bad Request\r\n\r\n", Transient, "does not speak SOCKS5"),
    ] {
        let why = told(proxy, "a", answer).1.unwrap_err();
        assert_eq!(why.class(), class, "{answer:?}");
        let said = why.to_string();
        assert!(said.contains(text) && !said.contains("sesame"), "{answer:?}: {said}");
    }
}

#[tokio::test]
async fn a_proxy_that_says_nothing_is_given_up_in_time() {
    let (mut ours, _theirs) = tokio::io::duplex(4096);
    let way = Way::Proxy(proxy(Scheme::Http, login()));
    let host = Host { host: "router.example.net".into(), port: 443, way };
    let error = lead(&mut ours, &host, Duration::from_millis(20)).await.unwrap_err();
    let failure = Failure::from(&error);
    assert_eq!((failure.reason, failure.class), (Reason::Timeout, Class::Transient));
    let text = "the proxy http://proxy.example.net:3128, asked for router.example.net:443, accepted the connection but did not connect to it within 20ms";
    assert_eq!(failure.text, text);
    lead(&mut ours, &Host::direct("a", 1), LIMIT).await.unwrap();
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for (proxy, host, _, _) in sound() {
            let _ = told(&proxy, host, &bytes);
        }
    }

    #[test]
    fn no_damage_to_an_answer_makes_it_panic_or_read_on(
        at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>(), more in proptest::collection::vec(any::<u8>(), 0..300)
    ) {
        for (proxy, host, mut answer, _) in sound() {
            *at.get_mut(&mut answer) = byte;
            answer.truncate(cut.index(answer.len() + 1));
            answer.extend(&more);
            let (_, result, left) = told(&proxy, host, &answer);
            // What was taken for the whole answer is one by itself.
            if result.is_ok() {
                let taken = answer.len() - left.len();
                prop_assert!(told(&proxy, host, &answer[..taken]).1.is_ok());
                prop_assert!(told(&proxy, host, &answer[..taken - 1]).1.is_err());
            }
        }
    }
}
