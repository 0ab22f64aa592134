//! The environment of this process, as far as a C library reads its settings there.
#![allow(unsafe_code)]

use std::env;
use std::fs;

/// Keeps libtss2 from writing to stderr of its own accord: what it has to say is in its errors. Whoever sets `TSS2_LOG` gets
/// what that asks for. It does nothing once there is a second thread.
pub fn quieten_tss2() {
    let alone = fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1);
    if alone && env::var_os("TSS2_LOG").is_none() {
        // SAFETY: nobody else can read the environment meanwhile, for there is nobody else.
        unsafe { env::set_var("TSS2_LOG", "all+NONE") };
    }
}
