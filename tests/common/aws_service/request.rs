//! The request with which a session begins, and its answer.

use super::state::Mode;
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use bytes::BytesMut;
use data_encoding::BASE64;
use std::fmt::Write as _;
use tokio::io::{AsyncRead, AsyncReadExt};

/// The service takes no longer request.
pub const MAX_REQUEST: usize = 4096;

pub const SUBPROTOCOLS: [&str; 3] =
    ["aws.iot.securetunneling-1.0", "aws.iot.securetunneling-2.0", "aws.iot.securetunneling-3.0"];

/// What was asked, after the strict look.
#[derive(Clone, Debug)]
pub struct Request {
    pub mode: Mode,
    pub token: String,
    pub client_token: Option<String>,
    pub key: String,
    pub offered: Vec<String>,
    /// All of it, for tests that look further.
    pub headers: Vec<(String, String)>,
}

/// Reads up to the empty line; what came after it is left in `buffer`.
pub async fn read(from: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> Result<Option<String>, String> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = buffer.split_to(end + 4);
            if head.len() > MAX_REQUEST {
                return Err(format!("the request has {} bytes", head.len()));
            }
            return String::from_utf8(head.to_vec()).map(Some).map_err(|_| "the request is no text".into());
        }
        if buffer.len() > MAX_REQUEST {
            return Err("the request has more than 4096 bytes".into());
        }
        match from.read_buf(buffer).await {
            Ok(0) | Err(_) => return Ok(None),
            Ok(_) => {}
        }
    }
}

/// Judges a request. An error is answered 400.
pub fn judge(head: &str) -> Result<Request, String> {
    let mut space = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut space);
    parsed.parse(head.as_bytes()).map_err(|error| format!("no HTTP: {error}"))?;
    let headers: Vec<(String, String)> = parsed
        .headers
        .iter()
        .map(|header| (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).trim().to_owned()))
        .collect();
    let all =
        |name: &str| headers.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect::<Vec<_>>();
    let one = |name: &str| match all(name)[..] {
        [value] => Ok(value),
        ref values => Err(format!("{} values of {name}", values.len())),
    };
    if (parsed.method, parsed.version) != (Some("GET"), Some(1)) {
        return Err("no GET of HTTP/1.1".into());
    }
    let mode = match parsed.path.unwrap() {
        "/tunnel?local-proxy-mode=source" => Mode::Source,
        "/tunnel?local-proxy-mode=destination" => Mode::Destination,
        path => return Err(format!("the path {path}")),
    };
    let has = |name: &str, word: &str| {
        one(name).map(|value| value.split(',').any(|item| item.trim().eq_ignore_ascii_case(word)))
    };
    if one("host")?.is_empty() || !has("upgrade", "websocket")? || !has("connection", "upgrade")? {
        return Err("no upgrade to a WebSocket".into());
    }
    if one("sec-websocket-version")? != "13" {
        return Err("the WebSocket's version".into());
    }
    let key = one("sec-websocket-key")?;
    if BASE64.decode(key.as_bytes()).map_or(0, |bytes| bytes.len()) != 16 {
        return Err("the WebSocket's key".into());
    }
    if !all("sec-websocket-extensions").is_empty() {
        return Err("there are no extensions".into());
    }
    let cookies =
        all("cookie").into_iter().flat_map(|value| value.split(';')).filter_map(|cookie| cookie.trim().split_once('='));
    let cookies = cookies.filter(|(name, _)| *name == "awsiot-tunnel-token").map(|(_, value)| value);
    let tokens: Vec<&str> = all("access-token").into_iter().chain(cookies).flat_map(|value| value.split(',')).collect();
    let [token] = tokens[..] else { return Err(format!("{} access tokens", tokens.len())) };
    let clients: Vec<&str> = all("client-token").into_iter().flat_map(|value| value.split(',')).collect();
    if clients.len() > 1 || clients.iter().any(|token| !is_client_token(token)) {
        return Err("the client token, which is 32 to 128 letters, digits and hyphens".into());
    }
    let offered = all("sec-websocket-protocol").into_iter().flat_map(|value| value.split(','));
    let offered: Vec<String> = offered.map(|name| name.trim().to_owned()).collect();
    if !offered.iter().any(|name| SUBPROTOCOLS.contains(&name.as_str())) {
        return Err(format!("the subprotocols {offered:?}"));
    }
    Ok(Request {
        mode,
        token: token.trim().to_owned(),
        client_token: clients.first().map(|token| (*token).to_owned()),
        key: key.to_owned(),
        offered,
        headers: headers.clone(),
    })
}

fn is_client_token(token: &str) -> bool {
    (32..=128).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// The answer that begins a session.
pub fn welcome(key: &str, channel: &str, subprotocol: Option<&str>) -> String {
    let accept = digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes());
    let mut head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: {}\r\n\
         channel-id: {channel}\r\n",
        BASE64.encode(accept.as_ref())
    );
    if let Some(subprotocol) = subprotocol {
        let _ = write!(head, "sec-websocket-protocol: {subprotocol}\r\n");
    }
    head + "\r\n"
}

/// An answer that begins none.
pub fn refusal(status: u16, channel: &str, headers: &[(String, String)]) -> String {
    let mut head =
        format!("HTTP/1.1 {status} No\r\nchannel-id: {channel}\r\ncontent-length: 0\r\nconnection: close\r\n");
    for (name, value) in headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    head + "\r\n"
}
