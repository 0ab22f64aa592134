//! What the C library of the TPM does to this process: it reads the environment, and leaves descriptors to be inherited.
#![allow(unsafe_code)]

use std::env;
use std::fs;
use std::os::fd::{BorrowedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// Keeps libtss2 from writing to stderr of its own accord: what it has to say is in its errors. Whoever sets `TSS2_LOG` gets
/// what that asks for. It does nothing once there is a second thread.
pub fn quieten_tss2() {
    let alone = fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1);
    if alone && env::var_os("TSS2_LOG").is_none() {
        // SAFETY: nobody else can read the environment meanwhile, for there is nobody else.
        unsafe { env::set_var("TSS2_LOG", "all+NONE") };
    }
}

/// Keeps connections to TPMs from the programs that are started from now on: libtss2 opens them to be inherited, and an
/// emulated TPM would serve nobody else as long as such a program runs.
pub fn keep_tpms_from_children() {
    let Ok(open) = fs::read_dir("/proc/self/fd") else { return };
    for entry in open.flatten() {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        let concerned = target.to_str().is_some_and(|to| to.starts_with("socket:") || to.starts_with("/dev/tpm"));
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()) else { continue };
        if !concerned || number <= 2 {
            continue;
        }
        // SAFETY: it is only asked for its flags; one that was closed meanwhile has none.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        if fcntl(descriptor, FcntlArg::F_GETFD).is_ok_and(|flags| flags & FdFlag::FD_CLOEXEC.bits() == 0) {
            let _ = fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
        }
    }
}
