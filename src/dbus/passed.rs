//! Tokens that somebody hands over as an open file. What is read is bounded in size and time, few are read at once, and nothing
//! of it is shown.

use super::fault::Fault;
use crate::tunnel::aws::tokens::{LIMIT, Tokens};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use zeroize::Zeroizing;

/// A file that is not at its end by then is given up.
const PATIENCE: Duration = Duration::from_secs(5);
/// A file system that does not answer is given up then; its thread goes on waiting.
const GRACE: Duration = Duration::from_secs(1);
/// Files that are read at once.
const AT_ONCE: usize = 4;

/// Reads tokens, a few at once.
#[derive(Clone, Debug)]
pub(super) struct TokenReader(Arc<Semaphore>);

impl Default for TokenReader {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl TokenReader {
    /// What is in the file, if it is tokens.
    pub async fn read(&self, file: OwnedFd) -> Result<Tokens, Fault> {
        let Ok(turn) = self.0.clone().try_acquire_owned() else {
            return Err(Fault::ours("Busy", format!("{AT_ONCE} files are being read already; try again")));
        };
        let reading = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            read(File::from(file), PATIENCE)
        });
        let read = timeout(PATIENCE + GRACE, reading).await.map_err(|_| late())?;
        read.map_err(|_| Fault::ours("Failed", "the file could not be read"))?
    }
}

fn late() -> Fault {
    Fault::ours("Timeout", format!("the file did not end within {} s", PATIENCE.as_secs()))
}

fn read(mut file: File, patience: Duration) -> Result<Tokens, Fault> {
    let bad = |text: String| Fault::ours("InvalidArgument", text);
    let unreadable = |error: io::Error| bad(format!("the file cannot be read: {error}"));
    let deadline = Instant::now() + patience;
    // Never grown: what it grows out of stays in memory.
    let mut bytes = Zeroizing::new([0; LIMIT + 1]);
    let mut length = 0;
    while let Some(free) = bytes.get_mut(length..).filter(|free| !free.is_empty()) {
        let left = deadline.saturating_duration_since(Instant::now());
        // A pipe that its writer keeps open must not hold a thread.
        let wait = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)], wait) {
            Ok(0) => return Err(late()),
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(unreadable(error.into())),
        }
        match file.read(free) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            Err(error) => return Err(unreadable(error)),
        }
    }
    if length > LIMIT {
        return Err(bad(format!("the file is larger than {LIMIT} bytes; no two tokens are")));
    }
    let text = std::str::from_utf8(bytes.get(..length).unwrap_or_default());
    let text = text.map_err(|_| bad("the file is not text".to_owned()))?;
    Tokens::parse(text).map_err(|error| bad(format!("these cannot be tokens: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};

    fn file(text: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text).unwrap();
        file.rewind().unwrap();
        file
    }

    fn refused(file: File) -> String {
        format!("{:?}", read(file, Duration::from_millis(50)).unwrap_err())
    }

    #[test]
    fn tokens_come_out_of_a_file_and_out_of_a_pipe_in_pieces() {
        let client = "c".repeat(32);
        let text = format!("secret\n{client}\n");
        let tokens = read(file(text.as_bytes()), PATIENCE).unwrap();
        assert_eq!((tokens.access(), tokens.client()), ("secret", Some(client.as_str())));
        let (reader, mut writer) = io::pipe().unwrap();
        let written = std::thread::spawn(move || {
            for byte in text.bytes() {
                writer.write_all(&[byte]).unwrap();
            }
        });
        let tokens = read(File::from(OwnedFd::from(reader)), PATIENCE).unwrap();
        assert_eq!((tokens.access(), tokens.client()), ("secret", Some(client.as_str())));
        written.join().unwrap();
    }

    #[test]
    fn what_does_not_end_or_is_too_much_or_no_text_is_refused_without_showing_it() {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"secret").unwrap();
        let endless = File::from(OwnedFd::from(reader));
        assert!(refused(endless).contains("did not end"));
        drop(writer);
        for (file, expected) in [
            (file(&b"secret\xff"[..]), "not text"),
            (file(&b"secret".repeat(2000)), "larger than 8192 bytes"),
            (file(&b"secret\0"[..]), "a character in it that no token has"),
            (file(b"secret\nsecret\n"), "the client token is not"),
            (file(b""), "the access token is empty"),
            (File::open("/").unwrap(), "cannot be read"),
            (File::open("/dev/zero").unwrap(), "larger than"),
        ] {
            let text = refused(file);
            assert!(text.contains(expected) && !text.contains("secret"), "{text}");
        }
    }
}
