//! What no safe interface offers: ioctls of the TUN device, descriptors that others hand us. The only unsafe code of the program.

pub mod clock;
pub mod inotify;
pub mod passed;
pub mod tun;
