//! Where handshakes are computed. One takes about a millisecond of a processor, in pieces that nothing interrupts; when
//! thousands of clients come back at once, no packet shall wait behind them. So they have threads of their own, as many as there
//! are processors, and the kernel prefers the threads that forward.

use super::RouterError;
use crate::sys::priority;
use tokio::runtime::{Builder, Handle, Runtime};

/// Low enough that packets go first, and high enough that clients get in while all processors are busy forwarding: a third
/// of what a thread there gets.
const NICE: u8 = 5;

/// The threads. They end with this value, whatever they are at.
pub struct Threads(Option<Runtime>);

impl Threads {
    /// Starts them.
    pub fn start() -> Result<Self, RouterError> {
        let runtime = Builder::new_multi_thread()
            .thread_name("handshakes")
            .on_thread_start(|| {
                if let Err(error) = priority::lower(NICE) {
                    log::warn!("handshakes have the priority of packets: {error}");
                }
            })
            .enable_time()
            .build();
        Ok(Self(Some(runtime.map_err(RouterError::Runtime)?)))
    }

    /// Where to hand in what they shall do. It must bring its sockets with it.
    pub fn handle(&self) -> Handle {
        self.0.as_ref().map_or_else(Handle::current, |runtime| runtime.handle().clone())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
