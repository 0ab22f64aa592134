//! What containers on this host cannot show, on Debian's own kernel in an emulated machine: limits of memory and tasks, udev,
//! and AF_VSOCK. Whatever runs there takes ten times as long, so it is one story.

use crate::bed::write_credentials;
use crate::common::bus::has;
use crate::common::skip;
use crate::machine::{cache, missing, packages, root, source, text};
use std::process::{Command, Stdio};

const PROMISES: [&str; 7] = [
    "ok connected on Linux 6.1",
    "ok udev tells enftun's devices from others",
    "ok MemoryMax of enftund.service is enforced",
    "ok TasksMax of enftund.service is enforced",
    "ok AF_VSOCK is refused to enftund.service, and allowed by its drop-in",
    "ok connected over vsock, without a network",
    "ok a vsock relay that stops or ends is noticed, and used again when it is back",
];

#[test]
fn on_debians_kernel_limits_udev_and_vsock_are_as_the_units_say() {
    const TEST: &str = "on_debians_kernel_limits_udev_and_vsock_are_as_the_units_say";
    let lacks = ["qemu-system-x86_64", "mke2fs"].into_iter().find(|program| !has(program));
    if let Some(reason) = missing().or(lacks.map(|program| format!("{program} is missing"))) {
        return skip(TEST, &reason);
    }
    let version = packages(None);
    let payload = tempfile::tempdir().unwrap();
    write_credentials(payload.path());
    std::fs::copy(source("tests/system/in-vm"), payload.path().join("run")).unwrap();
    for package in ["enftun", "enftun-router"] {
        let name = format!("{package}_{version}_amd64.deb");
        std::fs::copy(cache().join("packages").join(&name), payload.path().join(name)).unwrap();
    }
    let output = Command::new(source("tests/system/vm"))
        .args([&root().join("root"), &root().join("kernel"), payload.path()])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = text(&output.stdout).replace('\r', "");
    assert!(output.status.success(), "{}\n{said}{}", output.status, text(&output.stderr));
    for promise in PROMISES {
        assert!(said.lines().any(|line| line.starts_with(promise)), "{promise}:\n{said}");
    }
}
