//! The .rpm's hold what the .deb's hold, and their scripts do the same. No Fedora can be had here: they are installed on the
//! Debian machine, without regard to the names of Fedora's packages.

use crate::bed::{FAR, story};
use crate::fire::Fire;
use crate::machine::{cache, packages, text};
use std::collections::BTreeSet;
use std::process::Command;

/// What a program on this host prints; it must succeed.
#[track_caller]
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    text(&output.stdout)
}

#[test]
fn an_rpm_holds_what_the_deb_holds() {
    let version = packages(None);
    let file = |name: String| cache().join("packages").join(name).to_str().unwrap().to_owned();
    for package in ["enftun", "enftun-router", "enftun-applet", "enftun-localproxy"] {
        let deb = file(format!("{package}_{version}_amd64.deb"));
        let rpm = file(format!("{package}-{version}-1.x86_64.rpm"));
        let digests = said("rpm", &["-K", &rpm]);
        assert!(digests.contains("digests OK"), "{digests}");

        // Mode, owner, size and path of each file; directories that others have, too, are in no rpm.
        let in_deb: BTreeSet<String> = said("dpkg-deb", &["--contents", &deb])
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|fields| fields[0].starts_with('-'))
            .map(|fields| format!("{} {} {} {}", fields[0], fields[1], fields[2], &fields[5][1..]))
            .map(|line| line.replace("zsh/vendor-completions", "zsh/site-functions"))
            .collect();
        let format = "[%{FILEMODES:perms} %{FILEUSERNAME}/%{FILEGROUPNAME} %{FILESIZES} %{FILENAMES}\n]";
        let in_rpm: BTreeSet<String> = said("rpm", &["-qp", "--queryformat", format, &rpm])
            .lines()
            .filter(|line| line.starts_with('-'))
            .map(str::to_owned)
            .collect();
        assert_eq!(in_rpm, in_deb, "{package}");

        let needs = said("rpm", &["-qp", "--requires", &rpm]);
        let of_deb = said("dpkg-deb", &["--field", &deb, "Depends"]);
        for (rpm, deb) in [
            ("libc.so.6(GLIBC_2.34)", "libc6 (>= "),
            ("systemd >= 252", "systemd (>= 252)"),
            ("libtss2-esys.so.0", "libtss2-esys-3.0.2-0 (>= "),
            ("nftables", "nftables"),
            ("dbus\n", "dbus-system-bus"),
        ] {
            assert_eq!(needs.contains(rpm), of_deb.contains(deb), "{package}: {needs}\n{of_deb}");
        }
        let conffiles = said("rpm", &["-qp", "--configfiles", &rpm]);
        assert_eq!(
            conffiles,
            said("sh", &["-c", &format!("dpkg-deb --info {deb} conffiles 2>/dev/null || :")]),
            "{package}"
        );
    }
}

#[test]
fn an_rpm_is_installed_upgraded_under_fire_and_erased() {
    story("an_rpm_is_installed_upgraded_under_fire_and_erased", |bed| {
        let file = |version: &str| format!("/opt/packages/enftun-{version}-1.x86_64.rpm");
        let (version, higher) = (packages(None), packages(Some("9.0.0")));
        let before = bed.machine.network_state();
        let mut fire = Fire::open(bed.machine.network());
        fire.all_leave(bed);

        bed.machine.must(&format!("rpm --install --nodeps {}", file(&version)));
        assert_eq!(bed.machine.must("rpm --verify --nodeps enftun"), "");
        assert_eq!(bed.machine.network_state(), before);
        bed.machine.must("id enftun; test -d /run/enftun");
        bed.machine.must_not("systemctl is-enabled enftund");
        bed.machine.must_not("systemctl is-active enftund");
        bed.configure();
        bed.machine.must("echo '# mine' >>/etc/enftun/enftun.toml; systemctl enable --now enftun@enf0");
        bed.connected();

        let pid = bed.machine.must("systemctl show --value --property=MainPID enftund");
        fire.nothing_may_leave();
        bed.machine.must(&format!("rpm --upgrade --nodeps {}", file(&higher)));
        bed.connected();
        fire.nothing_left(bed, "an upgrade");
        assert_ne!(bed.machine.must("systemctl show --value --property=MainPID enftund"), pid);
        assert_eq!(bed.machine.must("rpm -q --queryformat '%{VERSION}' enftun"), "9.0.0");
        assert!(bed.machine.must("cat /etc/enftun/enftun.toml").contains("# mine"));

        bed.nothing_failed();
        bed.machine.unveil_proc();
        bed.machine.must("rpm --erase --nodeps enftun");
        drop(fire);
        FAR.iter().for_each(|far| bed.reaches(far));
        assert_eq!(bed.machine.network_state(), before);
        assert_eq!(bed.machine.must("find /etc/systemd/system /usr -name '*enftun*'"), "");
        bed.machine.must("grep '# mine' /etc/enftun/enftun.toml.rpmsave; test -f /etc/enftun/tunnels/enf0.toml");
        assert_eq!(bed.machine.must("systemctl --failed --no-legend"), "");
    });
}
