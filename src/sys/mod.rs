//! What no safe interface offers: ioctls of the TUN device, descriptors that others hand us, the environment, priorities of threads. The only unsafe code of the program.

pub mod clock;
#[cfg(feature = "tpm")]
pub mod environment;
pub mod inotify;
pub mod passed;
pub mod priority;
pub mod tcp;
pub mod tun;
pub mod vnet;
