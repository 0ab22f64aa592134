//! The packages: what an installation does and does not, what an upgrade holds, what a removal opens and a purge leaves.

use crate::bed::{FAR, story};
use crate::machine::{cache, packages, text};
use std::process::Command;

#[test]
fn installed_nothing_is_enabled_started_or_changed() {
    story("installed_nothing_is_enabled_started_or_changed", |bed| {
        let before = bed.machine.network_state();
        bed.machine.install(None, &["enftun", "enftun-router"]);
        assert_eq!(bed.machine.network_state(), before);
        let units = bed.machine.must("systemctl list-unit-files --no-legend 'enftun*' | awk '{ print $1, $2 }'");
        for unit in ["enftund.service", "enftun@.service", "enftun-lockdown@.service", "enftun-router.socket"] {
            assert!(units.contains(&format!("{unit} disabled")), "{units}");
        }
        assert!(!units.contains("enabled"), "{units}");
        assert_eq!(bed.machine.must("systemctl list-units --all --no-legend 'enftun*'"), "");
        // Nobody's question starts a daemon that its user has not enabled.
        let status = bed.machine.sh("enftunctl status");
        assert_eq!(status.status.code(), Some(3), "{status:?}");
        bed.machine.must_not("busctl call org.enftun.Enftun1 /org/enftun/Enftun1 org.freedesktop.DBus.Peer Ping");
        assert_eq!(bed.machine.must("systemctl list-units --all --no-legend 'enftun*'"), "");
        bed.machine.must("systemd-analyze verify --man=no /usr/lib/systemd/system/enftund.service");
        bed.machine.must("dpkg --verify enftun enftun-router; dpkg --audit");
        bed.machine.must("journalctl --list-catalog | grep -q enftun");
        bed.machine.must("id enftun; id enftun-router; test -d /run/enftun");
    });
}

#[test]
fn removed_and_purged_the_host_is_open_and_as_it_was() {
    story("removed_and_purged_the_host_is_open_and_as_it_was", |bed| {
        let before = bed.machine.network_state();
        bed.install();
        bed.machine.must("echo '# mine' >>/etc/enftun/enftun.toml");
        bed.machine.must("systemctl enable --now enftun@enf0");
        bed.connected();
        assert!(!bed.machine.sh(&format!("ping -c 1 -W 1 {}", FAR[0])).status.success(), "it blocks");

        bed.machine.unveil_proc();
        bed.machine.must("apt-get --quiet --assume-yes remove enftun");
        FAR.iter().for_each(|far| bed.reaches(far));
        assert_eq!(bed.machine.network_state(), before);
        assert_eq!(bed.machine.must("systemctl list-units --state=active,failed --no-legend 'enftun*.service'"), "");
        assert!(bed.machine.must("cat /etc/enftun/enftun.toml").contains("# mine"), "a configuration is kept");
        assert_eq!(bed.machine.must("systemctl --failed --no-legend"), "");

        // What was enabled is again when the package comes back; and what was kept is in force.
        bed.machine.install(None, &["enftun"]);
        assert!(bed.machine.must("cat /etc/enftun/enftun.toml").contains("# mine"));
        assert_eq!(bed.machine.must("systemctl is-enabled enftun@enf0"), "enabled\n");
        bed.machine.must("systemctl start enftun@enf0");
        bed.connected();

        // Nothing of ours runs, and it blocks; that goes, too.
        bed.machine.must("systemctl stop enftund");
        bed.machine.must_not(&format!("ping -c 1 -W 1 {}", FAR[1]));
        let said = bed.machine.must("apt-get --quiet --assume-yes purge enftun");
        assert!(said.contains("/etc/enftun is kept"), "{said}");
        FAR.iter().for_each(|far| bed.reaches(far));
        assert_eq!(bed.machine.network_state(), before);
        assert_eq!(bed.machine.must("systemctl --failed --no-legend"), "");
        let left = bed.machine.must(
            "find / -xdev \\( -name '*enftun*' -o -lname '*enftun*' \\) ! -path '/proc/*' ! -path '/var/log/*' \
             ! -path '/opt/packages*' ! -path '/var/lib/dpkg/*' | sort",
        );
        assert_eq!(left, "/etc/enftun\n", "what its user wrote, and nothing else");
        assert_eq!(
            bed.machine.must("find /etc/enftun -type f | sort"),
            "/etc/enftun/enf.cacert.pem\n/etc/enftun/enf0/enf0.crt.pem\n/etc/enftun/enf0/enf0.key.pem\n/etc/enftun/tunnels/enf0.toml\n"
        );
    });
}

#[test]
fn a_package_that_cannot_open_the_host_stays() {
    story("a_package_that_cannot_open_the_host_stays", |bed| {
        let before = bed.machine.network_state();
        bed.install();
        bed.machine.must("systemctl enable --now enftun@enf0");
        bed.connected();
        bed.machine.unveil_proc();
        bed.machine.must("mv /usr/sbin/nft /usr/sbin/nft.away");
        let said = bed.machine.must_not("dpkg --remove enftun");
        assert!(said.contains("enftunctl clear --all") && said.contains("enftun is not removed"), "{said}");
        bed.machine.must_not(&format!("ping -c 1 -W 1 {}", FAR[1]));
        bed.machine.must("mv /usr/sbin/nft.away /usr/sbin/nft; dpkg --remove enftun");
        FAR.iter().for_each(|far| bed.reaches(far));
        assert_eq!(bed.machine.network_state(), before);
    });
}

#[test]
fn without_files_of_the_user_a_purge_leaves_nothing() {
    story("without_files_of_the_user_a_purge_leaves_nothing", |bed| {
        bed.machine.install(None, &["enftun", "enftun-router"]);
        let said = bed.machine.must("apt-get --quiet --assume-yes purge enftun enftun-router");
        assert!(!said.contains("kept"), "{said}");
        bed.machine.must_not("ls -d /etc/enftun");
        assert_eq!(bed.machine.must("find /etc/systemd/system /usr -name '*enftun*'"), "");
    });
}

#[test]
fn lintian_has_nothing_to_say() {
    let version = packages(None);
    for package in ["enftun", "enftun-router", "enftun-applet", "enftun-localproxy"] {
        let file = cache().join("packages").join(format!("{package}_{version}_amd64.deb"));
        let output = Command::new("lintian").args(["--allow-root", "--fail-on", "error,warning"]).arg(file).output();
        let output = output.expect("lintian is installed");
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(output.status.success() && !said.contains("W: ") && !said.contains("E: "), "{said}");
    }
}
