//! What the network beside the tunnels reaches, found out by one request for a URL whose answer is known: plain HTTP, so that
//! a captive portal can show itself. What is answered is judged and never followed.

use super::dial::{self, DialError, Options};
use super::race::Race;
use super::resolve;
use crate::config::ProbeUrl;
use crate::state::Reason;
use crate::state::health::{Connectivity, Reach};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// More than any answer that is judged by its content; what is longer is judged by its beginning.
const LONGEST: usize = 8 * 1024;
/// Fields of a head. An answer with more is no answer.
const FIELDS: usize = 64;
/// What NetworkManager's own servers answer with, beside nothing at all.
const NETWORK_MANAGER: &[u8] = b"NetworkManager is online";

/// Asks once, by connections that carry the mark of `options`. Before anything is sent, `ask` is told the name servers, then
/// `go` the addresses, and each is waited for.
pub async fn probe(
    url: &ProbeUrl,
    options: &Options,
    limit: Duration,
    ask: impl AsyncFnOnce(Vec<SocketAddr>),
    go: impl AsyncFnOnce(Vec<SocketAddr>),
) -> Reach {
    let attempt = async {
        let addresses = match resolve::resolve(&url.host, options, limit, ask).await {
            Ok(addresses) => addresses,
            Err(error) => return nowhere([error.reason()]),
        };
        go(addresses.clone()).await;
        let mut race = Race::new(|address| dial::connect(address, options, limit));
        race.add(addresses);
        match race.next().await {
            Some((_, mut stream)) => exchange(&mut stream, url).await,
            None => nowhere(race.failures().iter().map(DialError::reason)),
        }
    };
    timeout(limit, attempt).await.unwrap_or(Connectivity::Limited.into())
}

/// No address answers.
fn nowhere(reasons: impl IntoIterator<Item = Reason>) -> Reach {
    match reasons.into_iter().all(|reason| reason == Reason::NoNetwork) {
        true => Connectivity::None.into(),
        false => Connectivity::Limited.into(),
    }
}

async fn exchange(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), url: &ProbeUrl) -> Reach {
    // HTTP/1.0: the answer ends with the connection, and comes in one piece.
    let request =
        format!("GET {} HTTP/1.0\r\nHost: {}\r\nAccept: */*\r\nConnection: close\r\n\r\n", url.target, url.authority);
    if stream.write_all(request.as_bytes()).await.is_err() {
        return Connectivity::Limited.into();
    }
    let mut answer = Vec::new();
    let mut part = [0; 1024];
    loop {
        let whole = match stream.read(&mut part).await {
            Ok(length @ 1..) => {
                answer.extend_from_slice(part.get(..length).unwrap_or_default());
                answer.len() >= LONGEST
            }
            // Many portals reset.
            Ok(0) | Err(_) => true,
        };
        match judge(&answer, whole) {
            Some(reach) => return reach,
            None if whole => return Connectivity::Limited.into(),
            None => {}
        }
    }
}

/// What an answer means; none: it has not all come. `whole`: nothing more will.
fn judge(answer: &[u8], whole: bool) -> Option<Reach> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut head = httparse::Response::new(&mut fields);
    let length = match head.parse(answer) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return None,
        // Something answers that does not speak HTTP.
        Err(_) => return Some(Connectivity::Limited.into()),
    };
    let field =
        |name: &str| head.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value);
    let portal = || Reach { connectivity: Connectivity::Portal, portal: field("location").and_then(host_of) };
    match head.code.unwrap_or_default() {
        204 => Some(Connectivity::Full.into()),
        200 => {
            let body = answer.get(length..).unwrap_or_default();
            let says = field("content-length").and_then(|value| std::str::from_utf8(value).ok()?.trim().parse().ok());
            let complete = whole || says.is_some_and(|says: usize| body.len() >= says);
            match body.trim_ascii() {
                b"" | NETWORK_MANAGER if complete => Some(Connectivity::Full.into()),
                body if !complete && NETWORK_MANAGER.starts_with(body) => None,
                _ => Some(portal()),
            }
        }
        // RFC 6585 section 6: network authentication required.
        511 => Some(portal()),
        // Whoever was asked is there, and out of order.
        500.. => Some(Connectivity::Limited.into()),
        _ => Some(portal()),
    }
}

/// The host in a URL that somebody else wrote. It is shown to people, and holds nothing that a host's name cannot.
fn host_of(url: &[u8]) -> Option<String> {
    let url = std::str::from_utf8(url).ok()?;
    let (scheme, rest) = url.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let authority = rest.split(['/', '?', '#', '\\']).next()?;
    let place = authority.rsplit('@').next()?;
    let host = match place.strip_prefix('[') {
        Some(address) => address.split(']').next()?,
        None => place.split(':').next()?,
    };
    let plain = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:".contains(&byte));
    (plain && !host.is_empty() && host.len() <= 253).then(|| host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Host;
    use proptest::prelude::*;
    use tokio::io::duplex;

    fn word(answer: &str) -> (Option<&'static str>, Option<String>) {
        let reach = judge(answer.as_bytes(), true);
        (reach.as_ref().map(|reach| reach.connectivity.as_str()), reach.and_then(|reach| reach.portal))
    }

    #[test]
    fn the_internet_answers_with_nothing_and_a_portal_with_something() {
        let manager = "NetworkManager is online\n";
        for answer in [
            "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
            "HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned(),
            "HTTP/1.1 200 OK\r\n\r\n".to_owned(),
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{manager}", manager.len()),
        ] {
            assert_eq!(word(&answer), (Some("full"), None), "{answer}");
        }
        let at = |host: &str| (Some("portal"), Some(host.to_owned()));
        assert_eq!(
            word("HTTP/1.1 302 Found\r\nLocation: http://login.example.com/?x\r\n\r\n"),
            at("login.example.com")
        );
        assert_eq!(word("HTTP/1.1 307 .\r\nlocation: https://[2001:DB8::1]:8443/\r\n\r\n"), at("2001:db8::1"));
        assert_eq!(word("HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n"), (Some("portal"), None));
        assert_eq!(word("HTTP/1.1 200 OK\r\n\r\n<html>Welcome"), (Some("portal"), None));
        assert_eq!(word("HTTP/1.1 511 .\r\n\r\n"), (Some("portal"), None));
        assert_eq!(word("HTTP/1.1 403 Forbidden\r\n\r\n"), (Some("portal"), None));
        assert_eq!(word("HTTP/1.1 502 Bad Gateway\r\n\r\n").0, Some("limited"));
        assert_eq!(word("SSH-2.0-OpenSSH_9.2p1\r\n").0, Some("limited"));
        assert_eq!(word("HTTP/1.1 204").0, None);
    }

    #[test]
    fn an_answer_in_pieces_is_judged_when_enough_of_it_is_there() {
        let head = "HTTP/1.1 200 OK\r\n\r\n";
        assert_eq!(judge(format!("{head}Network").as_bytes(), false), None);
        assert_eq!(judge(format!("{head}<html").as_bytes(), false).unwrap().connectivity, Connectivity::Portal);
        assert_eq!(judge(head.as_bytes(), false), None);
        assert_eq!(
            judge(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false).unwrap().connectivity,
            Connectivity::Full
        );
    }

    #[test]
    fn the_host_of_a_portal_is_only_ever_a_name() {
        for (url, host) in [
            ("http://user:pw@portal.example:80/x", Some("portal.example")),
            ("HTTPS://Portal.Example", Some("portal.example")),
            ("http://evil.example\\@good.example/", Some("evil.example")),
            ("javascript://portal.example", None),
            ("http://a\u{1b}[31mb/", None),
            ("http://", None),
            ("http://b\u{fc}cher.example/", None),
        ] {
            assert_eq!(host_of(url.as_bytes()).as_deref(), host, "{url:?}");
        }
        assert_eq!(host_of(format!("http://{}/", "a".repeat(254)).as_bytes()), None);
    }

    #[tokio::test]
    async fn the_request_is_for_the_url_and_says_nothing_of_who_asks() {
        let (mut here, mut there) = duplex(4096);
        let url = ProbeUrl {
            host: Host::direct("probe.example.net", 8080),
            authority: "probe.example.net:8080".into(),
            target: "/generate_204?x".into(),
        };
        let server = async {
            let mut request = [0; 1024];
            let length = there.read(&mut request).await.unwrap();
            there.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            String::from_utf8(request[..length].to_vec()).unwrap()
        };
        let (reach, request) = tokio::join!(exchange(&mut here, &url), server);
        assert_eq!(reach.connectivity, Connectivity::Full);
        assert!(request.starts_with("GET /generate_204?x HTTP/1.0\r\nHost: probe.example.net:8080\r\n"), "{request}");
        assert!(request.ends_with("\r\n\r\n") && !request.to_ascii_lowercase().contains("enftun"), "{request}");
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic_or_show_a_control_character(
            answer in proptest::collection::vec(any::<u8>(), 0..300),
            location in "\\PC{0,60}[\\x00-\\x1f]?\\PC{0,20}",
            whole: bool,
        ) {
            judge(&answer, whole);
            let text = format!("HTTP/1.1 302 Found\r\nLocation: http://{location}\r\n\r\n");
            if let Some(host) = judge(text.as_bytes(), whole).and_then(|reach| reach.portal) {
                prop_assert!(host.bytes().all(|byte| byte.is_ascii_graphic()), "{:?}", host);
            }
        }
    }
}
