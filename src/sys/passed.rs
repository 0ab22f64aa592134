//! Listening sockets passed by the service manager (sd_listen_fds(3)).
#![allow(unsafe_code)]

use std::io;
use std::net::TcpListener;
use std::os::fd::FromRawFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Takes the sockets, once: a second call gets none. Each is closed on exec. Whether they are listening TCP sockets is the
/// caller's to check.
pub fn listeners() -> io::Result<Vec<TcpListener>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Relaxed) {
        return Ok(Vec::new());
    }
    // SAFETY: the service manager passes these descriptors open and for this process (LISTEN_PID); `sd_notify` fails when
    // one is not open, and nobody else in the program takes them: TAKEN lets this happen once.
    Ok(sd_notify::listen_fds()?.map(|fd| unsafe { TcpListener::from_raw_fd(fd) }).collect())
}
