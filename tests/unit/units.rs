//! The unit files: systemd understands every line, and what each program may do is no more than promised. What they do on a
//! booted system is shown in the system tier.

use crate::common::bus::has;
use crate::common::skip;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const HERE: &str = env!("CARGO_MANIFEST_DIR");
const HOST_UNITS: &str = "/lib/systemd/system";

/// The units as somebody starts them, and ten times the exposure of each at most, as `systemd-analyze security` counts it.
const UNITS: [(&str, u32); 11] = [
    ("enftund.service", 17),
    ("enftun-router.service", 15),
    ("enftun-lockdown@enf0.service", 15),
    ("enftun@enf0.service", 5),
    ("enftun-wait-online@enf0.service", 5),
    ("enftun-metrics.service", 5),
    ("enftun-router-metrics.service", 5),
    ("enftun-metrics.timer", 0),
    ("enftun-router-metrics.timer", 0),
    ("enftun-online.target", 0),
    ("enftun-router.socket", 0),
];

/// A root with our units, our programs and this host's own units.
struct Root(tempfile::TempDir);

impl Root {
    /// None, said loudly, where there is no systemd to ask.
    fn new(test: &str) -> Option<Self> {
        let dbus = Path::new(HOST_UNITS).join("dbus.socket");
        if !has("systemd-analyze") || !dbus.exists() {
            skip(test, &format!("systemd-analyze or {} is missing", dbus.display()));
            return None;
        }
        let root = Self(tempfile::tempdir().unwrap());
        let units = root.path("usr/lib/systemd/system");
        fs::create_dir_all(&units).unwrap();
        fs::create_dir_all(root.path("usr/bin")).unwrap();
        fs::create_dir_all(root.path("usr/sbin")).unwrap();
        for (link, to) in [("lib", "usr/lib"), ("bin", "usr/bin"), ("sbin", "usr/sbin")] {
            symlink(to, root.path(link)).unwrap();
        }
        for file in files(Path::new(HOST_UNITS)) {
            // Those of others complain on their own account.
            let name = file.file_name().unwrap().to_str().unwrap();
            let needed = ["target", "slice", "mount"].contains(&file.extension().unwrap_or_default().to_str().unwrap());
            if needed || name.starts_with("dbus.") {
                fs::copy(&file, units.join(name)).unwrap();
            }
        }
        for file in files(&Path::new(HERE).join("systemd/system")) {
            fs::copy(&file, units.join(file.file_name().unwrap())).unwrap();
        }
        for program in ["enftund", "enftunctl", "enftun-router", "kill", "dbus-daemon"] {
            let file = root.path("usr/bin").join(program);
            fs::write(&file, "#!/bin/sh\n").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Some(root)
    }

    fn path(&self, below: &str) -> PathBuf {
        self.0.path().join(below)
    }

    fn unit(&self, name: &str) -> PathBuf {
        let file = name.replace("@enf0", "@");
        self.path("usr/lib/systemd/system").join(file)
    }

    /// What systemd says of all our units together.
    fn verify(&self) -> Output {
        let root = format!("--root={}", self.0.path().display());
        let units = UNITS.iter().map(|(unit, _)| unit);
        Command::new("systemd-analyze").args(["verify", "--man=no", &root]).args(units).output().unwrap()
    }
}

/// Regular files, also behind links.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_file()).collect()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn systemd_understands_every_line_of_every_unit_and_drop_in() {
    let Some(root) = Root::new("systemd_understands_every_line_of_every_unit_and_drop_in") else { return };
    let asked: Vec<PathBuf> = UNITS.iter().map(|(unit, _)| root.unit(unit)).collect();
    for file in files(&Path::new(HERE).join("systemd/system")) {
        assert!(
            asked.iter().any(|asked| asked.file_name() == file.file_name()),
            "{} is not asked about",
            file.display()
        );
    }
    let clean = root.verify();
    assert!(clean.status.success() && said(&clean).is_empty(), "{}", said(&clean));

    let drop_ins = Path::new(HERE).join("systemd/drop-ins");
    for unit in fs::read_dir(drop_ins).unwrap().map(|entry| entry.unwrap().path()) {
        let place = root.path("etc/systemd/system").join(unit.file_name().unwrap());
        fs::create_dir_all(&place).unwrap();
        for file in files(&unit) {
            fs::copy(&file, place.join(file.file_name().unwrap())).unwrap();
        }
    }
    let widened = root.verify();
    assert!(widened.status.success() && said(&widened).is_empty(), "{}", said(&widened));

    // What it would say otherwise.
    let unit = root.unit("enftund.service");
    fs::write(&unit, fs::read_to_string(&unit).unwrap().replace("WatchdogSec=", "WatchdogSecs=")).unwrap();
    assert!(said(&root.verify()).contains("WatchdogSecs"), "{}", said(&root.verify()));
}

#[test]
fn each_program_may_do_no_more_than_promised() {
    let Some(root) = Root::new("each_program_may_do_no_more_than_promised") else { return };
    let exposure = |unit: &Path, threshold: u32| {
        let threshold = format!("--threshold={threshold}");
        let mut command = Command::new("systemd-analyze");
        command.args(["security", "--offline=true", "--no-pager", &threshold]).arg(unit).output().unwrap()
    };
    for (name, limit) in UNITS.into_iter().filter(|(name, _)| name.ends_with(".service")) {
        let output = exposure(&root.unit(name), limit);
        let overall = said(&output).lines().last().unwrap_or_default().to_owned();
        println!("{overall}");
        assert!(overall.contains("Overall exposure level"), "{}", said(&output));
        assert!(output.status.success(), "{name}: more than {limit}: {}", said(&output));
    }
    // What it would say of a unit that is less careful.
    let unit = root.unit("enftund.service");
    fs::write(&unit, fs::read_to_string(&unit).unwrap().replace("User=enftun", "User=root")).unwrap();
    assert!(!exposure(&unit, 17).status.success());
}
