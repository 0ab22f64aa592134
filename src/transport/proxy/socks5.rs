//! SOCKS5 (RFC 1928) with user and password (RFC 1929): CONNECT by name or address.

use super::{Answer, Why};
use crate::config::Login;
use std::net::IpAddr;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const VERSION: u8 = 5;
const NO_LOGIN: u8 = 0;
const PASSWORD: u8 = 2;
const PASSWORD_VERSION: u8 = 1;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

pub(super) async fn ask<S>(stream: &mut S, login: Option<&Login>, host: &str, port: u16) -> Result<(), Why>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let methods: &[u8] = if login.is_some() { &[VERSION, 2, NO_LOGIN, PASSWORD] } else { &[VERSION, 1, NO_LOGIN] };
    send(stream, methods).await?;
    let method = version(stream).await?;
    match (method, login) {
        (NO_LOGIN, _) => {}
        (PASSWORD, Some(login)) => log_in(stream, login).await?,
        (_, Some(_)) => return Err(Why::LoginUnknown("user and password")),
        (_, None) => return Err(Why::LoginWanted),
    }
    let mut request = vec![VERSION, CONNECT, 0];
    match host.parse() {
        Ok(IpAddr::V4(address)) => {
            request.push(IPV4);
            request.extend(address.octets());
        }
        Ok(IpAddr::V6(address)) => {
            request.push(IPV6);
            request.extend(address.octets());
        }
        Err(_) => {
            request.push(NAME);
            counted(&mut request, host.as_bytes());
        }
    }
    request.extend(port.to_be_bytes());
    send(stream, &request).await?;
    let reply = version(stream).await?;
    match reply {
        0 => {}
        // Not allowed, and what it does not know how to do.
        2 | 7 | 8 => return Err(Why::Forbidden(Answer::Socks5(reply))),
        _ => return Err(Why::Failed(Answer::Socks5(reply))),
    }
    // The address that it connects from: nobody's business here, and not part of what follows.
    let _reserved = stream.read_u8().await?;
    let length = match stream.read_u8().await? {
        IPV4 => 4,
        IPV6 => 16,
        NAME => stream.read_u8().await?.into(),
        _ => return Err(FOREIGN),
    };
    let mut address = [0; 255 + 2];
    let address = address.get_mut(..length + 2).unwrap_or_default();
    stream.read_exact(address).await?;
    Ok(())
}

const FOREIGN: Why = Why::Foreign("SOCKS5");

async fn log_in<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, login: &Login) -> Result<(), Why> {
    let mut bytes = vec![PASSWORD_VERSION];
    counted(&mut bytes, &login.user);
    counted(&mut bytes, &login.password);
    send(stream, &bytes).await?;
    // Some say the version of SOCKS here.
    match (stream.read_u8().await?, stream.read_u8().await?) {
        (PASSWORD_VERSION | VERSION, 0) => Ok(()),
        (PASSWORD_VERSION | VERSION, _) => Err(Why::LoginRefused),
        _ => Err(FOREIGN),
    }
}

/// The byte after the version that an answer begins with.
async fn version<S: AsyncRead + Unpin>(stream: &mut S) -> Result<u8, Why> {
    if stream.read_u8().await? != VERSION {
        return Err(FOREIGN);
    }
    Ok(stream.read_u8().await?)
}

/// At most 255 bytes behind their number; the configuration lets no more through.
fn counted(into: &mut Vec<u8>, bytes: &[u8]) {
    let length = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
    into.push(length);
    into.extend(bytes.iter().take(length.into()));
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> Result<(), Why> {
    stream.write_all(bytes).await?;
    Ok(stream.flush().await?)
}

/// What a reply says (RFC 1928 section 6).
pub(super) fn words(reply: u8) -> &'static str {
    match reply {
        1 => "it failed, and does not say why",
        2 => "its rules do not allow it",
        3 => "it has no network that leads there",
        4 => "the far end cannot be reached from there, or it does not know that name",
        5 => "the far end refuses the connection",
        6 => "the far end is too far away from there (TTL expired)",
        7 => "it does not do CONNECT",
        8 => "it does not take this kind of address",
        _ => "it gives a reason that is not in the standard",
    }
}
