//! Stands for the service manager: hears what a program tells it (sd_notify(3)).

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The socket that `NOTIFY_SOCKET` names; it ends with this value.
pub struct NotifySocket {
    directory: tempfile::TempDir,
    socket: UnixDatagram,
}

impl NotifySocket {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        Self { directory, socket }
    }

    /// For `NOTIFY_SOCKET`.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("notify")
    }

    /// The next thing that is told within this time.
    pub fn next_within(&self, time: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(time)).unwrap();
        let mut message = [0; 4096];
        let length = self.socket.recv(&mut message).ok()?;
        Some(String::from_utf8(message[..length].to_vec()).unwrap().trim_end().to_owned())
    }

    /// Waits until this is told, and returns what was told before.
    #[track_caller]
    pub fn until(&self, wanted: &str) -> Vec<String> {
        let (deadline, mut told) = (Instant::now() + Duration::from_secs(30), Vec::new());
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            match self.next_within(left) {
                Some(message) if message == wanted => return told,
                Some(message) => told.push(message),
                None => panic!("waited 30 s in vain for {wanted}; heard {told:#?}"),
            }
        }
    }
}
