//! The control socket: whoever may open it gets one JSON document per connection. It takes no commands.

use super::quiet::{Quiet, and_more};
use super::status::Status;
use super::{Hub, RouterError};
use nix::sys::stat::{Mode, fchmod};
use socket2::{Domain, SockAddr, Type};
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;

/// How long one reader may take, and how long a router may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A listening socket whose file is removed with it.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Makes the socket for the own user only (mode 0600), and its directory. A socket that nobody answers on is replaced.
    pub fn bind(path: &Path) -> Result<Self, RouterError> {
        let failed = |source| RouterError::Control { path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(failed)?;
        }
        match std::fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => {
                if UnixStream::connect(path).is_ok() {
                    return Err(RouterError::Running(path.to_owned()));
                }
                std::fs::remove_file(path).map_err(failed)?;
            }
            Ok(_) => return Err(failed(io::ErrorKind::AlreadyExists.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let listener = listen(path).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned() })
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    // On Linux the file gets the mode that the socket has when it is bound: at no time may others open it.
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(16)?;
    UnixListener::from_std(socket.into())
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Answers, for ever.
pub async fn answer(socket: Socket, hub: Arc<Hub>) {
    let lines = Quiet::default();
    loop {
        match socket.listener.accept().await {
            Ok((mut reader, _)) => {
                let hub = Arc::clone(&hub);
                tokio::spawn(async move {
                    let Ok(mut document) = serde_json::to_vec(&hub.status()) else { return };
                    document.push(b'\n');
                    // A reader that goes away early is its own business.
                    let _ = tokio::time::timeout(PATIENCE, reader.write_all(&document)).await;
                });
            }
            Err(error) => {
                if let Some(more) = lines.allows() {
                    log::error!("cannot answer on the control socket: {error}{}", and_more(more));
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Asks the router behind this socket.
pub fn ask(path: &Path) -> Result<Status, RouterError> {
    let fetch = || {
        let mut socket = UnixStream::connect(path)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut document = Vec::new();
        socket.read_to_end(&mut document)?;
        Ok(document)
    };
    let document = fetch().map_err(|source| RouterError::NotRunning { path: path.to_owned(), source })?;
    serde_json::from_slice(&document).map_err(|source| RouterError::NotAStatus { path: path.to_owned(), source })
}
