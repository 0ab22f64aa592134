//! From a service to its application, at a destination: every address of its name, again as often as is configured, and nothing
//! else waits meanwhile.

use super::socket::Socket;
use crate::config::{Application, Limits, authority};
use crate::error::chain;
use crate::transport::race::Race;
use std::io;
use std::net::{IpAddr, SocketAddr};
use tokio::net::{TcpSocket, TcpStream, UnixStream, lookup_host};
use tokio::time::{sleep, timeout};

/// A connection to the application, or why there is none, in one line.
pub async fn reach(application: &Application, bind: Option<&str>, limits: &Limits) -> Result<Socket, String> {
    let mut attempts: u32 = 0;
    loop {
        let attempt = timeout(limits.dial_timeout, attempt(application, bind)).await;
        let why = match attempt {
            Ok(Ok(socket)) => return Ok(socket),
            Ok(Err(why)) => why,
            Err(_) => format!("{application} did not accept a connection within {:?}", limits.dial_timeout),
        };
        if limits.retries.is_some_and(|retries| attempts >= retries) {
            return Err(why);
        }
        attempts = attempts.saturating_add(1);
        log::debug!("{why}; trying again in {:?}", limits.retry_delay);
        sleep(limits.retry_delay).await;
    }
}

async fn attempt(application: &Application, bind: Option<&str>) -> Result<Socket, String> {
    let (host, port) = match application {
        Application::Unix(path) => {
            let connected = UnixStream::connect(path).await;
            return connected.map(Socket::from).map_err(|error| format!("connect to {}: {error}", path.display()));
        }
        Application::Tcp { host, port } => (host.as_deref().or(bind).unwrap_or("localhost"), *port),
    };
    let from = bind.and_then(|bind| bind.parse().ok());
    let found = addresses(host, port).await?;
    let usable: Vec<_> = found.into_iter().filter(|to| from.is_none_or(|from| is_same_family(from, *to))).collect();
    if usable.is_empty() {
        let from = from.map(|from: IpAddr| format!(" that can be dialled from {from} (aws.bind)")).unwrap_or_default();
        return Err(format!("{} has no address{from}", authority(host, port)));
    }
    let mut race = Race::new(|to| connect(from, to));
    race.add(usable);
    match race.next().await {
        Some((_, stream)) => Ok(stream.into()),
        None => Err(race.into_failures().join(", ")),
    }
}

/// As the host's own look-up has them: the application is this host's business, and its name may be of a kind that only the
/// host's own rules know.
pub(super) async fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let mut addresses: Vec<_> =
        lookup_host((host, port)).await.map_err(|error| format!("look up the name {host}: {error}"))?.collect();
    let mut seen = std::collections::HashSet::new();
    addresses.retain(|address| seen.insert(*address));
    Ok(addresses)
}

fn is_same_family(from: IpAddr, to: SocketAddr) -> bool {
    from.is_ipv4() == to.is_ipv4()
}

async fn connect(from: Option<IpAddr>, to: SocketAddr) -> Result<TcpStream, String> {
    let connected = async {
        let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(from) = from {
            socket.bind(SocketAddr::new(from, 0))?;
        }
        socket.connect(to).await
    };
    let from = || from.map(|from| format!(" from {from}")).unwrap_or_default();
    connected.await.map_err(|error: io::Error| format!("connect to {to}{}: {}", from(), chain(&error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::net::{TcpListener, UnixListener};

    fn limits(retries: u32) -> Limits {
        Limits { retries: Some(retries), retry_delay: Duration::from_millis(20), ..Limits::default() }
    }

    fn tcp(host: Option<&str>, port: u16) -> Application {
        Application::Tcp { host: host.map(str::to_owned), port }
    }

    #[tokio::test]
    async fn an_application_is_found_by_port_by_name_and_by_path_and_dialled_from_where_it_shall() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for (host, bind, from) in [
            (None, None, "127.0.0.1"),
            (None, Some("127.0.0.1"), "127.0.0.1"),
            (Some("localhost"), Some("127.0.0.7"), "127.0.0.7"),
            (Some("127.0.0.1"), Some("localhost"), "127.0.0.1"),
        ] {
            let _socket = reach(&tcp(host, port), bind, &limits(0)).await.unwrap();
            assert_eq!(listener.accept().await.unwrap().1.ip().to_string(), from, "{host:?} {bind:?}");
        }
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("app");
        let unix = UnixListener::bind(&path).unwrap();
        let _socket = reach(&Application::Unix(path), Some("127.0.0.1"), &limits(0)).await.unwrap();
        unix.accept().await.unwrap();
    }

    #[tokio::test]
    async fn an_application_that_is_not_there_yet_is_dialled_again() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("app");
        let application = Application::Unix(path.clone());
        let all = limits(1000);
        let late = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            UnixListener::bind(&path).unwrap()
        };
        let (socket, _listener) = tokio::join!(reach(&application, None, &all), late);
        socket.unwrap();
    }

    #[tokio::test]
    async fn why_an_application_is_not_reached_is_said_with_where() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let why = reach(&tcp(Some("127.0.0.1"), port), None, &limits(1)).await.unwrap_err();
        assert!(why.contains(&format!("127.0.0.1:{port}")) && why.contains("refused"), "{why}");
        let why = reach(&tcp(Some("127.0.0.1"), port), Some("::1"), &limits(0)).await.unwrap_err();
        assert!(why.contains("no address that can be dialled from ::1"), "{why}");
        let why = reach(&Application::Unix("/nowhere/app".into()), None, &limits(0)).await.unwrap_err();
        assert!(why.contains("/nowhere/app"), "{why}");
    }
}
