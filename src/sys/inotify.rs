//! The kernel's notices of changes in directories (inotify(7)), awaited without blocking.
#![allow(unsafe_code)]

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;
use tokio::io::unix::AsyncFd;

/// A queue of notices; closed on exec.
#[derive(Debug)]
pub struct Notices {
    queue: AsyncFd<Queue>,
}

#[derive(Debug)]
struct Queue(Inotify);

impl AsRawFd for Queue {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Notices {
    /// An empty queue that nothing is sent to yet; needs a tokio runtime.
    pub fn new() -> io::Result<Self> {
        let queue = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        // SAFETY: an `Inotify` owns its descriptor: it is open, and the same, until the `AsyncFd` that owns it is dropped.
        Ok(Self { queue: unsafe { AsyncFd::register(Queue(queue)) }? })
    }

    /// Asks for these notices of this file or directory. The same one twice is one.
    pub fn add(&self, path: &Path, mask: AddWatchFlags) -> io::Result<WatchDescriptor> {
        Ok(self.queue.get_ref().0.add_watch(path, mask)?)
    }

    /// Asks for no more of them.
    pub fn remove(&self, watch: WatchDescriptor) {
        // The kernel has done it already for what is gone.
        let _ = self.queue.get_ref().0.rm_watch(watch);
    }

    /// Waits until there is a notice. Cancel safe.
    pub async fn readable(&self) -> io::Result<()> {
        self.queue.readable().await?.retain_ready();
        Ok(())
    }

    /// Some notices, oldest first; none: there are no more, and [`readable`](Self::readable) waits for the next.
    pub fn take(&self) -> io::Result<Vec<InotifyEvent>> {
        let taken = self.queue.try_io(tokio::io::Interest::READABLE, |queue| match queue.0.read_events() {
            Err(Errno::EINTR) => Ok(Vec::new()),
            taken => Ok(taken?),
        });
        match taken {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Vec::new()),
            taken => taken,
        }
    }
}
