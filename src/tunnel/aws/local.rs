//! A forwarded connection at this end, as the pump keeps it: its socket, what waits for it, and the bells by which the socket
//! calls.

use super::engine::Conn;
use super::forwards::Connection;
use super::socket::Socket;
use bytes::Bytes;
use futures_util::future::AbortHandle;
use futures_util::task::AtomicWaker;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// So many pieces are written at once.
const PIECES: usize = 16;

/// One connection of an application.
#[derive(Debug)]
pub(super) struct Local {
    /// Its service.
    pub service: Arc<str>,
    /// None: it is still being dialled.
    pub socket: Option<Socket>,
    /// Ends the dialling.
    pub dialling: Option<AbortHandle>,
    /// Its own place in the lists of who wants to read and to write.
    pub reads: Turn,
    pub writes: Turn,
    /// The application's data have ended.
    pub ended: bool,
    /// For the application.
    pub waiting: VecDeque<Bytes>,
    /// What whoever looks sees.
    pub counted: Option<Connection>,
}

/// One way of a socket.
#[derive(Debug)]
pub(super) struct Turn {
    bell: Waker,
    /// It is in the list already.
    pub listed: bool,
    /// It has called the socket, and waits to be called.
    pub waits: bool,
}

impl Local {
    /// Without a socket yet.
    pub fn new(conn: Conn, service: Arc<str>, bells: &Arc<Bells>) -> Self {
        let turn = |way| Turn { bell: bells.bell(conn, way), listed: false, waits: false };
        Self {
            service,
            socket: None,
            dialling: None,
            reads: turn(Way::Read),
            writes: turn(Way::Write),
            ended: false,
            waiting: VecDeque::new(),
            counted: None,
        }
    }

    /// Its bell rings once something can be read; `true`: it can be now.
    pub fn wants_to_read(&mut self) -> bool {
        let Some(socket) = &self.socket else { return false };
        let ready = socket.poll_readable(&mut Context::from_waker(&self.reads.bell)).is_ready();
        self.reads.waits = !ready;
        ready
    }

    /// As much as there is room for. `Ok(false)`: its bell rings once there is more.
    pub fn write(&mut self, mut written: impl FnMut(usize)) -> std::io::Result<bool> {
        let Some(socket) = &self.socket else { return Ok(false) };
        while !self.waiting.is_empty() {
            let mut slices = [IoSlice::new(&[]); PIECES];
            for (slice, piece) in slices.iter_mut().zip(&self.waiting) {
                *slice = IoSlice::new(piece);
            }
            let pieces = slices.get(..self.waiting.len().min(PIECES)).unwrap_or_default();
            match socket.try_write(pieces) {
                Ok(bytes) => {
                    written(bytes);
                    forget(&mut self.waiting, bytes);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    match socket.poll_writable(&mut Context::from_waker(&self.writes.bell)) {
                        Poll::Ready(Ok(())) => {}
                        Poll::Ready(Err(error)) => return Err(error),
                        Poll::Pending => {
                            self.writes.waits = true;
                            return Ok(false);
                        }
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// Takes so many bytes away from the front.
fn forget(waiting: &mut VecDeque<Bytes>, mut bytes: usize) {
    while let Some(first) = waiting.front_mut() {
        if first.len() > bytes {
            bytes::Buf::advance(first, bytes);
            return;
        }
        bytes -= first.len();
        waiting.pop_front();
    }
}

impl Drop for Local {
    /// Whatever ends it otherwise has taken the socket out: the application shall see that this was no good end.
    fn drop(&mut self) {
        self.socket.iter().for_each(Socket::break_off);
        self.dialling.iter().for_each(AbortHandle::abort);
    }
}

/// Which way of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Read,
    Write,
}

/// The bells of all connections: whichever rings wakes the pump, which then asks who it was. A connection that is gone takes
/// nothing along that would keep its socket open.
#[derive(Debug, Default)]
pub(super) struct Bells {
    pump: AtomicWaker,
    rung: Mutex<Vec<(Conn, Way)>>,
}

impl Bells {
    fn bell(self: &Arc<Self>, conn: Conn, way: Way) -> Waker {
        Arc::new(Bell { conn, way, bells: self.clone() }).into()
    }

    /// Those that have rung since this was asked last; who asks is woken when one rings again.
    pub fn rung(&self, cx: &Context<'_>) -> Vec<(Conn, Way)> {
        self.pump.register(cx.waker());
        std::mem::take(&mut *self.rung.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct Bell {
    conn: Conn,
    way: Way,
    bells: Arc<Bells>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.bells.rung.lock().unwrap_or_else(PoisonError::into_inner).push((self.conn, self.way));
        self.bells.pump.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_forgotten_to_the_byte() {
        let mut waiting: VecDeque<Bytes> = ["abc", "", "de", "f"].map(Bytes::from_static_str).into();
        forget(&mut waiting, 0);
        assert_eq!(waiting.len(), 4);
        forget(&mut waiting, 4);
        assert_eq!(waiting, ["e", "f"].map(Bytes::from_static_str));
        forget(&mut waiting, 2);
        assert!(waiting.is_empty());
    }

    trait FromStaticStr {
        fn from_static_str(text: &'static str) -> Self;
    }

    impl FromStaticStr for Bytes {
        fn from_static_str(text: &'static str) -> Self {
            Self::from_static(text.as_bytes())
        }
    }
}
