//! The opening handshake of a WebSocket (RFC 6455 section 4.1), and the bounds of what it carries. The request is written here
//! rather than by the library below, which logs it whole, and there are secrets in it.

use crate::state::Moment;
use data_encoding::BASE64;
use httparse::{EMPTY_HEADER, Header, Response, Status};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use zeroize::Zeroizing;

/// Longest answer that is read, in bytes.
const LONGEST: usize = 16 * 1024;
const FIELDS: usize = 100;

/// What is asked for.
#[derive(Debug)]
pub struct Request<'a> {
    /// The `Host` field: a name, or an address without brackets, without a port.
    pub host: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// The one subprotocol that will do.
    pub subprotocol: &'a str,
    /// Further header fields. Their values are shown nowhere.
    pub fields: Fields<'a>,
    /// A request of more bytes is not sent.
    pub longest: usize,
    /// Neither end sends messages of more bytes.
    pub longest_message: usize,
}

/// Header fields whose values are shown nowhere.
pub struct Fields<'a>(pub Vec<(&'static str, &'a str)>);

impl std::fmt::Debug for Fields<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// What a server says beside yes or no.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Its name for the connection (`channel-id`).
    pub channel_id: Option<String>,
    /// Before this long has passed it wants to hear nothing (`Retry-After`).
    pub retry_after: Option<Moment>,
}

/// Why there is no WebSocket.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// It is not sent.
    #[error("the request would be {bytes} bytes long, and no more than {longest} are taken: the tokens are too long")]
    TooLong {
        /// What it would be.
        bytes: usize,
        /// What may be.
        longest: usize,
    },
    /// A value that no header field can carry.
    #[error("{0} has a character that cannot be sent")]
    Unsendable(&'static str),
    /// Another status than 101.
    #[error("answers with HTTP status {status}{}", .said.channel_id.as_ref().map(|id| format!(" (channel {id})")).unwrap_or_default())]
    Status {
        /// The status.
        status: u16,
        /// And what it says with it.
        said: Said,
    },
    /// 101, and not what was asked for.
    #[error("agrees to something that was not asked for: {0}")]
    Strange(&'static str),
    /// It speaks something else.
    #[error("does not speak HTTP: is the port right?")]
    Foreign,
    /// It goes on and on.
    #[error("answers with more than {} KiB", LONGEST / 1024)]
    Endless,
    /// It ended the connection.
    #[error("closed the connection before it answered")]
    Closed,
    /// The connection ended by itself.
    #[error("is lost")]
    Broken(#[source] io::Error),
    /// It said nothing, or not all.
    #[error("did not answer within {0:?}")]
    Silent(Duration),
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Broken(error),
        }
    }
}

/// A WebSocket over `stream`, if the server agrees to exactly what is asked for.
pub async fn open<S>(
    mut stream: S,
    request: &Request<'_>,
    limit: Duration,
) -> Result<(WebSocketStream<S>, Said), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let key = BASE64.encode(&nonce());
    let text = request.text(&key)?;
    let exchange = async {
        stream.write_all(text.as_bytes()).await?;
        stream.flush().await?;
        answer(&mut stream).await
    };
    let (head, rest) = timeout(limit, exchange).await.map_err(|_| HandshakeError::Silent(limit))??;
    let said = judge(&head, &key, request.subprotocol)?;
    // The library clears what it reads into before each read; TLS gives it no more than a record at a time.
    let config = WebSocketConfig::default()
        .read_buffer_size(16 * 1024)
        .write_buffer_size(request.longest_message)
        .max_message_size(Some(request.longest_message))
        .max_frame_size(Some(request.longest_message));
    Ok((WebSocketStream::from_partially_read(stream, rest, Role::Client, Some(config)).await, said))
}

/// Tells one handshake from another; it need not be hard to guess.
fn nonce() -> [u8; 16] {
    fastrand::u128(..).to_ne_bytes()
}

impl Request<'_> {
    /// As it is sent.
    fn text(&self, key: &str) -> Result<Zeroizing<String>, HandshakeError> {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.to_owned() };
        let own = [
            ("Host", host.as_str()),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", key),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Protocol", self.subprotocol),
        ];
        // Room for all of it from the start: what grows leaves copies behind.
        let mut text = Zeroizing::new(String::with_capacity(2 * self.longest.max(4096) + 4096));
        text.push_str(&format!("GET {} HTTP/1.1\r\n", self.target));
        for (name, value) in own.iter().chain(&self.fields.0) {
            if !value.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
                return Err(HandshakeError::Unsendable(name));
            }
            for part in [name, ": ", value, "\r\n"] {
                text.push_str(part);
            }
        }
        text.push_str("\r\n");
        match text.len() {
            bytes if bytes > self.longest => Err(HandshakeError::TooLong { bytes, longest: self.longest }),
            _ => Ok(text),
        }
    }
}

/// The head of the answer, and what came behind it.
async fn answer<S: AsyncRead + Unpin>(stream: &mut S) -> Result<(Vec<u8>, Vec<u8>), HandshakeError> {
    let mut bytes = Vec::with_capacity(4096);
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(HandshakeError::Closed);
        }
        let mut fields = [EMPTY_HEADER; FIELDS];
        match Response::new(&mut fields).parse(&bytes) {
            Ok(Status::Complete(length)) => {
                let rest = bytes.split_off(length);
                return Ok((bytes, rest));
            }
            Ok(Status::Partial) if bytes.len() < LONGEST => {}
            Ok(Status::Partial) | Err(httparse::Error::TooManyHeaders) => return Err(HandshakeError::Endless),
            Err(_) => return Err(HandshakeError::Foreign),
        }
    }
}

/// What a whole head says.
fn judge(head: &[u8], key: &str, subprotocol: &str) -> Result<Said, HandshakeError> {
    let mut fields = [EMPTY_HEADER; FIELDS];
    let mut response = Response::new(&mut fields);
    let complete = response.parse(head).is_ok_and(|status| status.is_complete());
    let (true, Some(status)) = (complete, response.code) else { return Err(HandshakeError::Foreign) };
    let all = |name| values(response.headers, name);
    let said = Said {
        channel_id: all("channel-id").next().filter(|id| is_printable(id)),
        retry_after: all("retry-after").find_map(|value| value.parse().ok()).map(Duration::from_secs),
    };
    if status != 101 {
        return Err(HandshakeError::Status { status, said });
    }
    let strange = |what| Err(HandshakeError::Strange(what));
    let lists = |name, word: &str| {
        all(name).any(|value| value.split(',').any(|listed| listed.trim().eq_ignore_ascii_case(word)))
    };
    if response.version != Some(1) || !lists("upgrade", "websocket") || !lists("connection", "upgrade") {
        return strange("the connection is not upgraded to WebSocket");
    }
    if !all("sec-websocket-accept").eq([derive_accept_key(key.as_bytes())]) {
        return strange("the answer is not for this request (Sec-WebSocket-Accept)");
    }
    if all("sec-websocket-extensions").next().is_some() {
        return strange("extensions of WebSocket");
    }
    match all("sec-websocket-protocol").collect::<Vec<_>>().as_slice() {
        [agreed] if agreed == subprotocol => Ok(said),
        [] => strange("no subprotocol (Sec-WebSocket-Protocol)"),
        _ => strange("another subprotocol (Sec-WebSocket-Protocol)"),
    }
}

fn values<'a>(fields: &'a [Header<'_>], name: &'a str) -> impl Iterator<Item = String> + 'a {
    let same = fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
    same.map(|field| String::from_utf8_lossy(field.value).trim().to_owned())
}

/// Fit for a log line.
fn is_printable(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
#[path = "websocket_tests.rs"]
mod tests;
