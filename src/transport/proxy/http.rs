//! HTTP CONNECT (RFC 9110 section 9.3.6), with Basic authentication (RFC 7617).

use super::{Answer, Why};
use crate::config::{Login, authority};
use data_encoding::BASE64;
use httparse::{EMPTY_HEADER, Response, Status};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest answer that is read, in bytes.
pub(super) const LONGEST: usize = 16 * 1024;
/// No proxy sends more header fields than this.
const FIELDS: usize = 100;

pub(super) async fn ask<S>(stream: &mut S, login: Option<&Login>, host: &str, port: u16) -> Result<(), Why>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let target = authority(host, port);
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(Login { user, password }) = login {
        let plain = [user.as_slice(), b":", password.as_slice()].concat();
        request += &format!("Proxy-Authorization: Basic {}\r\n", BASE64.encode(&plain));
    }
    request += "\r\n";
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut left = LONGEST;
    loop {
        match head(stream, &mut left).await? {
            // More follows (RFC 9110 section 15.2).
            Head { status: 100 | 102..=199, .. } => {}
            Head { status: 200..=299, .. } => return Ok(()),
            Head { status: 407, basic: false, .. } => return Err(Why::LoginUnknown("Basic")),
            Head { status: 407, .. } if login.is_none() => return Err(Why::LoginWanted),
            // Some say to one who logged in wrongly what a server would say.
            Head { status: 401, .. } if login.is_some() => return Err(Why::LoginRefused),
            Head { status: 407, .. } => return Err(Why::LoginRefused),
            // The request timed out, came too early, or was one of too many.
            Head { status: status @ (408 | 425 | 429), .. } => return Err(Why::Failed(Answer::Http(status))),
            Head { status: status @ 400..=499, .. } => return Err(Why::Forbidden(Answer::Http(status))),
            Head { status, .. } => return Err(Why::Failed(Answer::Http(status))),
        }
    }
}

/// What is needed of an answer.
struct Head {
    status: u16,
    /// Basic is among the ways to log in.
    basic: bool,
}

/// Reads one head, byte by byte: what follows it is not HTTP any more, and not for us. It is a few hundred bytes, once.
async fn head<S: AsyncRead + Unpin>(stream: &mut S, left: &mut usize) -> Result<Head, Why> {
    let mut bytes = Vec::new();
    loop {
        if *left == 0 {
            return Err(Why::Endless);
        }
        *left -= 1;
        let byte = stream.read_u8().await?;
        bytes.push(byte);
        // A wrong beginning is told at once, and the rest looked at once it is whole.
        let whole = bytes.ends_with(b"\n\r\n") || bytes.ends_with(b"\n\n");
        if (whole || bytes.len() == b"HTTP/1.".len())
            && let Some(head) = parse(&bytes)?
        {
            return Ok(head);
        }
    }
}

/// `None` while the end is missing.
fn parse(bytes: &[u8]) -> Result<Option<Head>, Why> {
    let mut fields = [EMPTY_HEADER; FIELDS];
    let mut response = Response::new(&mut fields);
    match response.parse(bytes) {
        Ok(Status::Partial) => return Ok(None),
        Ok(Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Why::Endless),
        Err(_) => return Err(Why::Foreign("HTTP")),
    }
    let offers = |field: &httparse::Header<'_>| {
        field.name.eq_ignore_ascii_case("Proxy-Authenticate")
            && field.value.split(|byte| b" ,\t".contains(byte)).any(|word| word.eq_ignore_ascii_case(b"basic"))
    };
    let basic = response.headers.iter().any(offers);
    Ok(response.code.map(|status| Head { status, basic }))
}

/// What a status says about a CONNECT.
pub(super) fn words(status: u16) -> &'static str {
    match status {
        400 => "it does not understand the request",
        401 | 403 | 451 => "its rules do not allow it",
        404 | 410 => "it does not know that name",
        405 | 501 => "it does not do CONNECT",
        408 | 504 => "the far end did not answer it in time",
        429 => "there are too many requests",
        500 => "it has an error of its own",
        502 => "the far end cannot be reached from there",
        503 => "it is overloaded, or the far end cannot be reached from there",
        300..=399 => "it sends us elsewhere (is it a captive portal?)",
        _ => "it gives no other reason",
    }
}
