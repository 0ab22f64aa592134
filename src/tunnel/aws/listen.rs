//! Where a source listens: TCP on every address of a name with one port, or a Unix socket. A listening socket is there only as
//! long as what is returned here.
//!
//! A Unix socket belongs to the user that this runs as, and nobody else may connect (mode 0600). What is left of one whose
//! program is gone is taken away; one that somebody listens at is not.

use super::application::addresses;
use super::forwards::Place;
use super::socket::Socket;
use crate::config::{Application, Limits, authority};
use socket2::{Domain, Protocol, SockAddr, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::{TcpListener, UnixListener};
use tokio::time::sleep;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;
/// A free port is free on all addresses, or another one is tried.
const TRIES: usize = 16;

/// A service that is listened for.
#[derive(Debug)]
pub struct Listening {
    /// Its name on the wire.
    pub service: Arc<str>,
    /// Where, for whoever looks.
    pub place: Place,
    /// One for each address.
    pub listeners: Vec<Listener>,
}

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    /// At an address.
    Tcp(TcpListener),
    /// At a path. The file goes with it.
    Unix(UnixListener, OwnFile),
}

/// The file of a listening Unix socket, unless it has become another's.
#[derive(Debug)]
pub struct OwnFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl Drop for OwnFile {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|inode| inode == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|about| (about.dev(), about.ino()))
}

impl Listener {
    /// The next application.
    pub async fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener) => Ok(listener.accept().await?.0.into()),
            Self::Unix(listener, _) => Ok(listener.accept().await?.0.into()),
        }
    }
}

/// Listens for a service. A free port is the one that it had `before`, if nobody else has that. What fails is tried again as
/// often as is configured; the error is one line.
pub async fn listen(
    service: Arc<str>,
    application: &Application,
    bind: Option<&str>,
    before: Option<u16>,
    limits: &Limits,
) -> Result<Listening, String> {
    let mut attempts: u32 = 0;
    loop {
        let why = match attempt(application, bind, before).await {
            Ok((place, listeners)) => return Ok(Listening { service, place, listeners }),
            Err(why) => why,
        };
        if limits.retries.is_some_and(|retries| attempts >= retries) {
            return Err(why);
        }
        attempts = attempts.saturating_add(1);
        log::info!("cannot listen for the service {service:?}: {why}; trying again in {:?}", limits.retry_delay);
        sleep(limits.retry_delay).await;
    }
}

async fn attempt(
    application: &Application,
    bind: Option<&str>,
    before: Option<u16>,
) -> Result<(Place, Vec<Listener>), String> {
    match application {
        Application::Unix(path) => {
            let listener = unix(path).map_err(|error| format!("listen at {}: {error}", path.display()))?;
            Ok((Place::Unix(path.clone()), vec![listener]))
        }
        Application::Tcp { host, port } => {
            let host = host.as_deref().or(bind).unwrap_or("localhost");
            let hosts: Vec<IpAddr> = match host {
                // Both, whatever hosts(5) says of them.
                "localhost" => vec![[127, 0, 0, 1].into(), [0, 0, 0, 0, 0, 0, 0, 1].into()],
                host => addresses(host, *port).await?.iter().map(SocketAddr::ip).collect(),
            };
            let (listeners, first) = any_tcp(&hosts, *port, before)
                .map_err(|error| format!("listen at {}: {error}", authority(host, *port)))?;
            Ok((Place::Tcp(first), listeners.into_iter().map(Listener::Tcp).collect()))
        }
    }
}

/// On all these addresses with one port. A free one is the one from before, else any.
fn any_tcp(hosts: &[IpAddr], port: u16, before: Option<u16>) -> io::Result<(Vec<TcpListener>, SocketAddr)> {
    if port != 0 {
        return tcp(hosts, port);
    }
    if let Some(found) = before.filter(|port| *port != 0).and_then(|port| tcp(hosts, port).ok()) {
        return Ok(found);
    }
    let mut found = tcp(hosts, 0);
    for _ in 1..TRIES {
        if found.is_ok() {
            break;
        }
        found = tcp(hosts, 0);
    }
    found
}

fn tcp(hosts: &[IpAddr], port: u16) -> io::Result<(Vec<TcpListener>, SocketAddr)> {
    let (mut listeners, mut first, mut absent) = (Vec::new(), None::<SocketAddr>, None);
    for host in hosts {
        let port = first.map_or(port, |first| first.port());
        match tcp_at(SocketAddr::new(*host, port), hosts.len() > 1) {
            Ok(listener) => {
                if first.is_none() {
                    first = Some(listener.local_addr()?);
                }
                listeners.push(listener);
            }
            // This host has no such address, IPv6 perhaps: the others will do.
            Err(error) if is_absent(&error) => absent = Some(error),
            Err(error) => return Err(error),
        }
    }
    match (first, absent) {
        (Some(first), _) => Ok((listeners, first)),
        (None, Some(error)) => Err(error),
        (None, None) => Err(io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address")),
    }
}

fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(nix::errno::Errno::EAFNOSUPPORT as i32)
}

fn tcp_at(address: SocketAddr, beside_others: bool) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() && beside_others {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

fn unix(path: &Path) -> io::Result<Listener> {
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
    let address = SockAddr::unix(path)?;
    if let Err(error) = socket.bind(&address) {
        if error.kind() != io::ErrorKind::AddrInUse || !is_left_over(path, &address)? {
            return Err(error);
        }
        std::fs::remove_file(path)?;
        socket.bind(&address)?;
    }
    let own = OwnFile { path: path.to_owned(), inode: inode(path)? };
    // Nobody can connect before it listens.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(Listener::Unix(UnixListener::from_std(socket.into())?, own))
}

/// Whether this is a socket that nobody listens at any more.
fn is_left_over(path: &Path, address: &SockAddr) -> io::Result<bool> {
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        return Ok(false);
    }
    let probe = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A backlog that is full would make it wait.
    probe.set_nonblocking(true)?;
    Ok(probe.connect(address).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::net::{TcpStream, UnixStream};

    fn limits(retries: u32) -> Limits {
        Limits { retries: Some(retries), retry_delay: Duration::from_millis(20), ..Limits::default() }
    }

    async fn at(application: &Application, bind: Option<&str>, before: Option<u16>) -> Result<Listening, String> {
        listen("SSH".into(), application, bind, before, &limits(0)).await
    }

    fn port(host: Option<&str>, port: u16) -> Application {
        Application::Tcp { host: host.map(str::to_owned), port }
    }

    #[tokio::test]
    async fn localhost_is_both_loopback_addresses_with_one_port_and_a_free_port_is_had_again() {
        let listening = at(&port(None, 0), None, None).await.unwrap();
        let Place::Tcp(place) = listening.place else { panic!("{:?}", listening.place) };
        assert!(place.port() != 0 && place.ip().to_string() == "127.0.0.1");
        for listener in &listening.listeners {
            let Listener::Tcp(tcp) = listener else { panic!("{listener:?}") };
            assert_eq!(tcp.local_addr().unwrap().port(), place.port());
            let _stream = TcpStream::connect(tcp.local_addr().unwrap()).await.unwrap();
            listener.accept().await.unwrap();
        }
        let has_ipv6 = std::net::TcpListener::bind("[::1]:0").is_ok();
        assert_eq!(listening.listeners.len(), 1 + usize::from(has_ipv6));
        drop(listening);
        let again = at(&port(None, 0), None, Some(place.port())).await.unwrap();
        assert_eq!(again.place, Place::Tcp(place));
        let other = at(&port(None, 0), None, Some(place.port())).await.unwrap();
        assert_ne!(other.place, Place::Tcp(place), "that one is taken");
    }

    #[tokio::test]
    async fn a_port_that_somebody_has_is_an_error_and_taken_once_it_is_free() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let number = taken.local_addr().unwrap().port();
        let why = at(&port(Some("127.0.0.1"), number), None, None).await.unwrap_err();
        assert!(why.contains(&number.to_string()) && why.contains("in use"), "{why}");
        let free = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            drop(taken);
        };
        let (application, limits) = (port(None, number), limits(1000));
        let (listening, ()) = tokio::join!(listen("SSH".into(), &application, Some("127.0.0.1"), None, &limits), free);
        assert_eq!(listening.unwrap().place.port(), Some(number));
    }

    #[tokio::test]
    async fn the_file_of_a_dead_socket_is_replaced_and_of_a_live_one_not_and_goes_with_it() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("ssh");
        let application = Application::Unix(path.clone());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "left over");
        let listening = at(&application, None, None).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let why = at(&application, None, None).await.unwrap_err();
        assert!(why.contains("in use") && path.exists(), "{why}");
        let _stream = UnixStream::connect(&path).await.unwrap();
        listening.listeners[0].accept().await.unwrap();
        drop(listening);
        assert!(!path.exists());
        std::fs::write(&path, "mine").unwrap();
        assert!(at(&application, None, None).await.is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }
}
