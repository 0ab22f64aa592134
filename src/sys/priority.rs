//! Threads that leave the processor to others.
#![allow(unsafe_code)]

use nix::errno::Errno;
use std::ffi::c_int;
use std::io;

/// Lowers the priority of the calling thread alone, as `nice` does.
pub fn lower(by: u8) -> io::Result<()> {
    // Linux takes 0 for the calling thread, where POSIX has the process.
    // SAFETY: takes its arguments by value.
    let failed = unsafe { nix::libc::setpriority(nix::libc::PRIO_PROCESS, 0, c_int::from(by)) };
    Errno::result(failed).map(drop).map_err(Into::into)
}
