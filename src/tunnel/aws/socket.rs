//! The socket of an application: TCP or Unix, never waited for, closed as what happened asks for.

use crate::error::chain;
use bytes::{BufMut, BytesMut};
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::Shutdown;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};

/// An application whose host is gone without a word is noticed after two minutes.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10)).with_retries(6);
/// Most of what an application still sends after its end is thrown away, in bytes and in time.
const DISCARDED: usize = 16 << 20;
const DISCARDING: Duration = Duration::from_secs(2);

/// A connection with an application.
#[derive(Debug)]
pub enum Socket {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        let socket = SockRef::from(&stream);
        if let Err(error) = socket.set_tcp_nodelay(true).and_then(|()| socket.set_tcp_keepalive(&KEEPALIVE)) {
            log::debug!("a socket of an application takes no options: {}", chain(&error));
        }
        Self::Tcp(stream)
    }
}

impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Self {
        Self::Unix(stream)
    }
}

impl Socket {
    /// Who is at its other end, for people.
    pub fn peer(&self) -> String {
        match self {
            Self::Tcp(stream) => stream.peer_addr().map_or_else(|_| "tcp".to_owned(), |address| address.to_string()),
            Self::Unix(stream) => match stream.peer_addr() {
                Ok(address) if address.as_pathname().is_some() => {
                    address.as_pathname().map(|path| path.display().to_string()).unwrap_or_default()
                }
                _ => "unix".to_owned(),
            },
        }
    }

    /// Something can be read, or its end.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Unix(stream) => stream.poll_read_ready(cx),
        }
    }

    /// Something can be written, or it is broken.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_write_ready(cx),
            Self::Unix(stream) => stream.poll_write_ready(cx),
        }
    }

    /// Reads at most so many bytes; none is the end of the data.
    pub fn try_read(&self, into: &mut BytesMut, most: usize) -> io::Result<usize> {
        let mut into = into.limit(most);
        match self {
            Self::Tcp(stream) => stream.try_read_buf(&mut into),
            Self::Unix(stream) => stream.try_read_buf(&mut into),
        }
    }

    /// Writes what there is room for.
    pub fn try_write(&self, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write_vectored(parts),
            Self::Unix(stream) => stream.try_write_vectored(parts),
        }
    }

    /// When it is closed, its other end shall see an error.
    pub fn break_off(&self) {
        if let Self::Tcp(stream) = self {
            // Zero does not wait for anything: it only makes the close a reset.
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }

    /// Ends the data for the application, and lets go once that has ended its own. To close while something lies unread would
    /// be a reset, and could take away what the application has not read yet.
    pub async fn finish(self) {
        let ended = match &self {
            Self::Tcp(stream) => SockRef::from(stream).shutdown(Shutdown::Write),
            Self::Unix(stream) => SockRef::from(stream).shutdown(Shutdown::Write),
        };
        if ended.is_err() {
            return;
        }
        let _ = tokio::time::timeout(DISCARDING, self.discard()).await;
    }

    async fn discard(&self) {
        let (mut buffer, mut left) = (BytesMut::with_capacity(16 * 1024), DISCARDED);
        while left > 0 {
            buffer.clear();
            match std::future::poll_fn(|cx| self.poll_read(cx, &mut buffer)).await {
                Ok(0) | Err(_) => return,
                Ok(bytes) => left = left.saturating_sub(bytes),
            }
        }
    }

    fn poll_read(&self, cx: &mut Context<'_>, into: &mut BytesMut) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_readable(cx))?;
            match self.try_read(into, into.capacity()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (listener.accept().await.unwrap().0.into(), stream)
    }

    #[tokio::test]
    async fn a_socket_that_is_broken_off_is_an_error_at_its_other_end() {
        let (socket, mut stream) = pair().await;
        socket.break_off();
        drop(socket);
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_socket_that_is_finished_gives_all_that_was_written_though_the_application_goes_on_sending() {
        let (socket, mut stream) = pair().await;
        stream.write_all(&[7; 100_000]).await.unwrap();
        std::future::poll_fn(|cx| socket.poll_writable(cx)).await.unwrap();
        assert_eq!(socket.try_write(&[io::IoSlice::new(b"last words")]).unwrap(), 10);
        let closing = tokio::spawn(socket.finish());
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"last words");
        drop(stream);
        closing.await.unwrap();
    }
}
