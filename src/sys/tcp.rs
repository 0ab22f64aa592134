//! What the kernel knows of a TCP connection.
#![allow(unsafe_code)]

use nix::libc;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Bytes a second that the connection sends when it always has something to send: its window by its round trip (`TCP_INFO`).
/// `None`: it is no TCP connection, or has no round trip yet.
pub fn sending_rate(socket: BorrowedFd<'_>) -> Option<u64> {
    // SAFETY: a `struct tcp_info` is numbers alone, for which zeros are good.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and the kernel writes no more than `length` bytes to `info`, which outlives the call.
    let outcome = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut length)
    };
    let window = u64::from(info.tcpi_snd_cwnd) * u64::from(info.tcpi_snd_mss);
    (outcome == 0 && info.tcpi_rtt > 0).then(|| window * 1_000_000 / u64::from(info.tcpi_rtt))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    #[test]
    fn a_connection_that_has_carried_something_has_a_rate_and_what_is_none_has_none() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        near.write_all(&[7; 1000]).unwrap();
        far.read_exact(&mut [0; 1000]).unwrap();
        assert!(sending_rate(near.as_fd()).is_some_and(|rate| rate > 0));
        assert_eq!(sending_rate(std::io::stdin().as_fd()), None);
    }
}
