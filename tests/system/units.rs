//! The units under a real systemd: what start, reload, restart, stop, a crash and a boot do to a tunnel, and what nobody but
//! its user does to it.

use crate::bed::{Bed, FAR, OVERLAY_ROUTER, story, switched_off};
use crate::machine::text;
use std::time::SystemTime;

/// The installed package, the tunnel configured, both its units enabled and started; connected.
fn started(bed: &Bed) {
    bed.install();
    bed.machine.must("systemctl enable --now enftun@enf0");
    bed.connected();
}

/// A property of a unit.
fn shown(bed: &Bed, unit: &str, property: &str) -> String {
    bed.machine.must(&format!("systemctl show --property={property} --value {unit}")).trim().to_owned()
}

fn is_active(bed: &Bed, unit: &str) -> String {
    text(&bed.machine.sh(&format!("systemctl is-active {unit}")).stdout).trim().to_owned()
}

/// Nothing has failed, the tunnel is wanted and carries, and its unit follows it.
#[track_caller]
fn all_is_well(bed: &Bed) {
    bed.machine.wait_until("enftunctl wait enf0 connected --timeout=5s");
    bed.machine.wait_until("systemctl --quiet is-active enftund && systemctl --quiet is-active enftun@enf0");
    bed.reaches(OVERLAY_ROUTER);
    assert_eq!(bed.machine.must("systemctl --failed --no-legend"), "");
}

/// Nothing has left beside the tunnel since then.
#[track_caller]
fn nothing_left(bed: &Bed, since: SystemTime) {
    let left = bed.left_beside_the_tunnel(since);
    assert!(left.is_empty(), "{left:#?}");
}

#[test]
fn a_tunnel_is_started_followed_reloaded_and_stopped_as_any_service() {
    story("a_tunnel_is_started_followed_reloaded_and_stopped_as_any_service", |bed| {
        started(bed);
        bed.machine.wait_until("systemctl status enftun@enf0 | grep 'Status: \"connected to 192.0.2.1:443\"'");
        bed.machine.must("systemctl status enftund | grep 'Status: \"enf0 connected to 192.0.2.1:443\"'");
        assert_eq!(is_active(bed, "enftun-lockdown@enf0"), "inactive", "enabled for the next boot");
        assert_eq!(bed.machine.must("systemctl is-enabled enftun-lockdown@enf0"), "enabled\n");

        // What a reload takes over keeps the session.
        let session = || bed.machine.must("enftunctl status enf0 --json | grep state_since");
        let before = session();
        bed.machine
            .must("sed -i 's/^max = .*/max = \"2s\"/' /etc/enftun/tunnels/enf0.toml; systemctl reload enftun@enf0");
        assert_eq!(session(), before);
        bed.machine.wait_until("journalctl -u enftund | grep 'configuration of enf0 changed'");
        bed.machine.must("echo nonsense >> /etc/enftun/tunnels/enf0.toml");
        bed.machine.must_not("systemctl reload enftund");
        bed.machine.must_not("systemctl reload enftun@enf0");
        bed.machine.must("sed -i '$d' /etc/enftun/tunnels/enf0.toml; systemctl reload enftund");
        assert_eq!(session(), before);

        bed.machine.must("systemctl stop enftun@enf0");
        bed.machine.must("enftunctl wait enf0 disconnected --timeout=20s");
        assert_eq!((is_active(bed, "enftun@enf0"), is_active(bed, "enftund")), ("inactive".into(), "active".into()));
        bed.machine.must("systemctl start enftun@enf0; enftunctl disconnect enf0");
        bed.machine.wait_until(
            "systemctl show -P ActiveState -P Result enftun@enf0 | sort | xargs | grep -x 'inactive success'",
        );
        let journal = bed.machine.must("journalctl --output=cat --unit=enftun@enf0");
        for line in
            ["following enf0: it is connect", "enf0 is connected to 192.0.2.1:443", "is stopped: disconnecting enf0"]
        {
            assert!(journal.contains(line), "{line}: {journal}");
        }
        let fields = bed.machine.must("journalctl --output=json --unit=enftun@enf0 ENFTUN_STATE=connected | head -n 1");
        assert!(fields.contains("\"ENFTUN_TUNNEL\":\"enf0\""), "{fields}");
        // Of one that nobody connects, the blocking stays: lockdown is "boot".
        assert!(!bed.machine.sh(&format!("ping -c 1 -W 1 {}", FAR[0])).status.success());
        assert_eq!(bed.machine.must("systemctl --failed --no-legend"), "");
    });
}

#[test]
fn nothing_but_a_stop_of_its_unit_disconnects_a_tunnel_and_nothing_leaves_meanwhile() {
    story("nothing_but_a_stop_of_its_unit_disconnects_a_tunnel_and_nothing_leaves_meanwhile", |bed| {
        started(bed);
        let begun = SystemTime::now();
        // Somebody talks all the time.
        bed.machine.must(&format!(
            "systemd-run --quiet --unit=talk sh -c 'while :; do ping -c 1 -W 1 {}; ping -c 1 -W 1 {}; done'",
            FAR[0], FAR[1]
        ));
        for command in [
            "systemctl restart enftun@enf0",
            "systemctl restart enftund",
            "systemctl kill --kill-who=main --signal=KILL enftund",
            "systemctl kill --kill-who=main --signal=KILL enftun@enf0",
            "systemctl kill --kill-who=main --signal=TERM enftun@enf0",
            "systemctl kill --kill-who=main --signal=TERM enftund",
            "systemctl stop enftund; systemctl start enftun@enf0",
        ] {
            bed.machine.must(command);
            all_is_well(bed);
        }
        bed.machine.must_not("journalctl --boot | grep 'disconnect enf0, asked by'");
        nothing_left(bed, begun);
        // That it could be seen.
        bed.machine.must("systemctl stop enftun@enf0 talk; enftunctl lockdown enf0 off");
        let opened = SystemTime::now();
        bed.reaches(FAR[0]);
        assert!(!bed.left_beside_the_tunnel(opened).is_empty());
        bed.machine.must("journalctl --boot | grep 'disconnect enf0, asked by'");
    });
}

#[test]
fn an_enabled_tunnel_is_blocked_before_the_network_comes_up_and_connected_after_each_boot() {
    switched_off("an_enabled_tunnel_is_blocked_before_the_network_comes_up_and_connected_after_each_boot", |bed| {
        bed.boot();
        bed.install();
        bed.machine.write("/etc/systemd/system/talk.service", TALK);
        bed.machine.write("/etc/systemd/network/10-lan0.network", LAN);
        // Its file flushes the ruleset.
        bed.machine.must("systemctl enable systemd-networkd nftables talk enftun@enf0");
        bed.machine.must("grep 'flush ruleset' /etc/nftables.conf");
        for _ in 0..2 {
            bed.power_off();
            let begun = SystemTime::now();
            bed.boot_unconfigured();
            bed.machine.is_up();
            all_is_well(bed);
            nothing_left(bed, begun);
            assert_eq!(bed.machine.must("journalctl --quiet --boot --priority=err --unit='enftun*'"), "");
            let at =
                |unit: &str, what: &str| shown(bed, unit, &format!("{what}TimestampMonotonic")).parse::<u64>().unwrap();
            let blocked = at("enftun-lockdown@enf0", "ActiveEnter");
            assert!(at("nftables", "ActiveEnter") < blocked);
            assert!(blocked < at("network-pre.target", "ActiveEnter"));
            assert!(blocked < at("systemd-networkd", "InactiveExit"));
            assert_eq!(bed.machine.must("networkctl list enf0 --no-legend | awk '{ print $5 }'"), "unmanaged\n");
        }
        bed.machine.must(
            "journalctl --boot=-1 --unit=enftun@enf0 | grep 'left as it is: .* going down\\|left as it is: enftund'",
        );

        // A file that cannot be used opens nothing, and is no reason not to boot.
        bed.machine.must("echo nonsense >> /etc/enftun/tunnels/enf0.toml");
        bed.power_off();
        let begun = SystemTime::now();
        bed.boot_unconfigured();
        bed.machine.sh("systemctl is-system-running --wait");
        assert_eq!(shown(bed, "enftun-lockdown@enf0", "ExecMainStatus"), "78");
        assert_eq!(shown(bed, "enftun@enf0", "ExecMainStatus"), "5");
        assert_eq!(is_active(bed, "systemd-networkd"), "active");
        bed.machine.must("journalctl --boot --unit=enftun-lockdown@enf0 | grep 'it is blocked nevertheless'");
        bed.machine.must("sed -i '$d' /etc/enftun/tunnels/enf0.toml; systemctl reload enftund");
        bed.machine.must("systemctl start enftun-lockdown@enf0 enftun@enf0");
        all_is_well(bed);
        nothing_left(bed, begun);

        // That it could be seen.
        bed.machine.must("systemctl disable --now enftun@enf0; enftunctl clear enf0");
        bed.power_off();
        let begun = SystemTime::now();
        bed.boot_unconfigured();
        bed.reaches(FAR[0]);
        assert!(!bed.left_beside_the_tunnel(begun).is_empty());
        assert_eq!(bed.machine.must("systemctl list-units --all --no-legend 'enftun*'"), "");
    });
}

/// Talks from the first moment on.
const TALK: &str = "[Unit]
DefaultDependencies=no
[Service]
ExecStart=sh -c 'while :; do ping -c 1 -W 1 198.51.100.80; ping -c 1 -W 1 2001:db8:2::80; sleep 0.1; done'
StandardOutput=null
StandardError=null
[Install]
WantedBy=sysinit.target
";

const LAN: &str = "[Match]
Name=lan0
[Network]
Address=192.0.2.10/24
Address=2001:db8:1::10/64
Gateway=192.0.2.1
Gateway=2001:db8:1::1
IPv6AcceptRA=no
[Link]
RequiredForOnline=no
";

#[test]
fn the_boot_unit_blocks_whatever_is_missing() {
    story("the_boot_unit_blocks_whatever_is_missing", |bed| {
        bed.install();
        let reaches = |far: &str| bed.machine.sh(&format!("ping -c 1 -W 1 {far}")).status.success();
        for (missing, mended) in [
            (
                "mv /var/lib/enftun /root/kept; touch /var/lib/enftun",
                "rm /var/lib/enftun; mv /root/kept /var/lib/enftun",
            ),
            ("mv /run/enftun /root/kept", "mv /root/kept /run/enftun"),
            ("mv /etc/enftun/tunnels /root/kept", "mv /root/kept /etc/enftun/tunnels"),
        ] {
            FAR.iter().for_each(|far| bed.reaches(far));
            bed.machine.must(missing);
            bed.machine.sh("systemctl start enftun-lockdown@enf0");
            FAR.iter().for_each(|far| assert!(!reaches(far), "{far} without `{missing}`"));
            bed.machine.must(&format!("{mended}; systemctl stop enftun-lockdown@enf0; systemctl reset-failed"));
            bed.machine.must("enftunctl clear enf0");
        }
        FAR.iter().for_each(|far| bed.reaches(far));
    });
}

#[test]
fn a_wedged_daemon_is_killed_by_its_watchdog_and_the_next_one_takes_over() {
    story("a_wedged_daemon_is_killed_by_its_watchdog_and_the_next_one_takes_over", |bed| {
        bed.machine.write("/etc/systemd/system/enftund.service.d/short.conf", "[Service]\nWatchdogSec=2\n");
        started(bed);
        let begun = SystemTime::now();
        bed.machine.must("systemctl kill --kill-who=main --signal=STOP enftund");
        bed.machine.wait_until("journalctl --unit=enftund | grep 'Watchdog timeout'");
        all_is_well(bed);
        nothing_left(bed, begun);
    });
}

#[test]
fn the_daemon_has_one_capability_and_does_its_work_inside_the_sandbox() {
    story("the_daemon_has_one_capability_and_does_its_work_inside_the_sandbox", |bed| {
        bed.machine.network().exec("echo 0 > /proc/sys/net/ipv4/conf/all/src_valid_mark");
        started(bed);
        assert_eq!(bed.machine.must("sysctl -n net.ipv4.conf.all.src_valid_mark"), "1\n", "it may write that one");
        let status = |unit: &str| bed.machine.must(&format!("cat /proc/{}/status", shown(bed, unit, "MainPID")));
        let uid = bed.machine.must("id -u enftun");
        for (unit, capabilities) in [("enftund", "0000000000001000"), ("enftun@enf0", "0000000000000000")] {
            let status = status(unit);
            for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                assert!(status.contains(&format!("{set}:\t{capabilities}\n")), "{unit} {set}: {status}");
            }
            assert!(status.contains(&format!("Uid:\t{}\t", uid.trim())), "{unit}: {status}");
            assert!(status.contains("NoNewPrivs:\t1\n") && status.contains("Seccomp:\t2\n"), "{unit}: {status}");
        }
        // What it sees of the host: no other device, nothing to write, no home.
        let pid = shown(bed, "enftund", "MainPID");
        let inside = |command: &str| {
            let command =
                format!("nsenter --mount --target {pid} setpriv --reuid enftun --clear-groups sh -c '{command}'");
            bed.machine.sh(&command).status.success()
        };
        assert!(inside("test -c /dev/net/tun && test -w /var/lib/enftun && test -w /run/enftun"));
        for forbidden in [
            "touch /etc/enftun/x",
            "touch /run/x",
            "touch /usr/x",
            "test -e /dev/kmsg",
            "ls /home/alice",
            "echo 0 > /proc/sys/kernel/sysrq",
        ] {
            assert!(!inside(forbidden), "{forbidden}");
        }
        for (unit, limit) in [("enftund.service", 17), ("enftun@enf0.service", 5), ("enftun-lockdown@enf0.service", 15)]
        {
            println!(
                "{}",
                bed.machine
                    .must(&format!("systemd-analyze security --no-pager --threshold={limit} {unit} | tail -n 1"))
            );
        }
    });
}

#[test]
fn certificate_and_key_come_as_credentials_in_clear_or_encrypted_and_the_user_enftun_cannot_read_the_files() {
    let test =
        "certificate_and_key_come_as_credentials_in_clear_or_encrypted_and_the_user_enftun_cannot_read_the_files";
    story(test, |bed| {
        bed.install();
        bed.machine.must("chown root: /etc/enftun/enf0/*; chmod 600 /etc/enftun/enf0/*");
        bed.machine.sh("systemctl start enftun@enf0");
        bed.machine
            .wait_until("journalctl --unit=enftun@enf0 | grep 'cannot be connected: cannot read the certificate file'");
        assert_ne!(is_active(bed, "enftun@enf0"), "active");

        let examples = "/usr/share/doc/enftun/examples/systemd/enftund.service.d";
        let place = "/etc/systemd/system/enftund.service.d";
        bed.machine.must(&format!("mkdir -p {place}; cp {examples}/credentials.conf {place}"));
        bed.machine.must("systemctl daemon-reload; systemctl restart enftund; systemctl start enftun@enf0");
        all_is_well(bed);

        bed.machine.must(&format!(
            "mkdir -p /etc/credstore.encrypted
             systemd-creds encrypt --with-key=host /etc/enftun/enf0/enf0.key.pem /etc/credstore.encrypted/enf0.key --name=enf0.key
             rm /etc/enftun/enf0/enf0.key.pem
             sed -i 's/^LoadCredential=enf0.key/#&/; s/^#LoadCredentialEncrypted/LoadCredentialEncrypted/' {place}/credentials.conf
             systemctl daemon-reload; systemctl restart enftund"
        ));
        all_is_well(bed);
        bed.machine.must_not("grep -r 'PRIVATE KEY' /etc/enftun /etc/credstore.encrypted /var/lib/enftun /run/enftun");
    });
}

#[test]
fn what_a_person_must_mend_is_a_failed_unit_that_says_what_and_the_rest_is_tried_again() {
    story("what_a_person_must_mend_is_a_failed_unit_that_says_what_and_the_rest_is_tried_again", |bed| {
        bed.install();
        let said = bed.machine.must_not("systemctl start enftun@other");
        assert!(said.contains("enftun@other.service"), "{said}");
        bed.machine.must("systemctl status enftun@other | grep 'there is no tunnel called other' || journalctl --unit=enftun@other | grep 'there is no tunnel called other'");
        assert_eq!(
            (is_active(bed, "enftun@other"), shown(bed, "enftun@other", "NRestarts")),
            ("failed".into(), "0".into())
        );
        bed.machine.must("systemctl reset-failed enftun@other");

        // The router's fault is none of the unit's.
        bed.kill_router();
        bed.machine.must("systemctl start enftun@enf0");
        bed.machine.wait_until("systemctl status enftun@enf0 | grep 'Status: \"reconnecting (unreachable)'");
        assert_eq!(is_active(bed, "enftun@enf0"), "active");
        bed.start_router();
        all_is_well(bed);

        // A missing key is; once it is back, so is the tunnel.
        bed.machine.must("mv /etc/enftun/enf0/enf0.key.pem /root; enftunctl reconnect enf0");
        bed.machine.wait_until(
            "journalctl --priority=err --unit=enftun@enf0 | grep 'enf0 cannot be connected: cannot read the key file'",
        );
        bed.machine.wait_until("systemctl show -P SubState enftun@enf0 | grep auto-restart");
        assert!(!bed.machine.sh(&format!("ping -c 1 -W 1 {}", FAR[0])).status.success(), "it is blocked");
        bed.machine.must("mv /root/enf0.key.pem /etc/enftun/enf0");
        all_is_well(bed);
    });
}

#[test]
fn what_needs_the_tunnel_starts_when_it_is_connected() {
    story("what_needs_the_tunnel_starts_when_it_is_connected", |bed| {
        bed.install();
        bed.kill_router();
        let needs = "[Unit]\nWants=enftun-online.target\nAfter=enftun-online.target\n[Service]\nType=oneshot\nRemainAfterExit=yes\n";
        bed.machine
            .write("/etc/systemd/system/needs.service", &format!("{needs}ExecStart=ping -c 1 {OVERLAY_ROUTER}\n"));
        bed.machine.must("systemctl enable enftun-wait-online@enf0; systemctl start --no-block needs");
        bed.machine.wait_until("systemctl show -P SubState enftun-wait-online@enf0 | grep start");
        bed.machine.wait_until("systemctl status enftun@enf0 | grep 'Status: \"reconnecting'");
        assert_eq!(is_active(bed, "needs"), "inactive");
        bed.start_router();
        bed.machine.wait_until("systemctl is-active needs");
        all_is_well(bed);
    });
}

#[test]
fn the_router_is_started_by_its_first_client_without_a_capability_and_drop_ins_give_it_a_key_and_an_uplink() {
    story(
        "the_router_is_started_by_its_first_client_without_a_capability_and_drop_ins_give_it_a_key_and_an_uplink",
        |bed| {
            let machine = &bed.machine;
            machine.install(None, &["enftun-router"]);
            for file in ["router.crt.pem", "router.key.pem", "ca.pem"] {
                machine.write(&format!("/etc/enftun/{file}"), &bed.credential(file));
            }
            machine.must("chown enftun-router /etc/enftun/router.key.pem; chmod 600 /etc/enftun/router.key.pem");
            let config = "listen = [\"[::]:443\"]\ncert_file = \"router.crt.pem\"\nkey_file = \"router.key.pem\"\nclient_ca_file = \"ca.pem\"\n";
            machine.write("/etc/enftun/router.toml", config);
            machine.must("systemctl enable --now enftun-router.socket");
            assert_eq!(is_active(bed, "enftun-router"), "inactive");
            machine.must("bash -c ': < /dev/tcp/127.0.0.1/443'");
            machine.wait_until("systemctl is-active enftun-router");
            machine.must("enftun-router status");
            machine.must("systemctl start enftun-router-metrics.service");
            machine.must("grep '^enftun_router_up 1' /run/enftun-router-metrics/enftun-router.prom");
            let status = machine.must(&format!("cat /proc/{}/status", shown(bed, "enftun-router", "MainPID")));
            assert!(status.contains("CapBnd:\t0000000000000000\n"), "{status}");
            let analyzed = "systemd-analyze security --no-pager --threshold=15 enftun-router.service | tail -n 1";
            println!("{}", machine.must(analyzed));
            machine.must("systemctl reload enftun-router; systemctl restart enftun-router");

            let place = "/etc/systemd/system/enftun-router.service.d";
            let examples = "/usr/share/doc/enftun-router/examples/systemd/enftun-router.service.d";
            let drop_in = |name: &str| {
                machine.must(&format!("mkdir -p {place}; cp {examples}/{name}.conf {place}; systemctl daemon-reload"));
            };
            let passed = "/run/credentials/enftun-router.service/router.key";
            let config = config.replace("router.key.pem", passed);
            machine.write("/etc/enftun/router.toml", &config);
            machine.must("chown root: /etc/enftun/router.key.pem");
            machine.must_not("systemctl restart enftun-router");
            drop_in("credentials");
            machine.must("systemctl restart enftun-router");

            machine.write(
                "/etc/enftun/router.toml",
                &format!("{config}[tun]\ndev = \"enfr0\"\naddresses = [\"fd00:8f80:9::1/64\"]\n"),
            );
            machine.must_not("systemctl restart enftun-router");
            drop_in("uplink");
            machine.must("systemctl restart enftun-router; ip -6 address show dev enfr0 | grep fd00:8f80:9::1/64");
            machine.must("systemctl stop enftun-router.socket enftun-router");
            assert_eq!(machine.must("systemctl --failed --no-legend"), "");
        },
    );
}

#[test]
fn who_manages_networks_leaves_the_device_alone_whatever_it_is_called() {
    story("who_manages_networks_leaves_the_device_alone_whatever_it_is_called", |bed| {
        bed.install();
        bed.machine.must("sed -i 's/^#\\?dev = .*/dev = \"overlay7\"/' /etc/enftun/tunnels/enf0.toml; enftunctl check");
        bed.machine.must("systemctl start enftun@enf0; ip tuntap add mode tun name foreign0");
        all_is_well(bed);
        // Of the machine's own network: what is mounted is the host's.
        let told = |device: &str| {
            let udev = format!("mount -t sysfs sysfs /sys; exec udevadm test --action=add /sys/class/net/{device}");
            bed.machine.must(&format!("unshare --mount sh -ec '{udev}'"))
        };
        let ours = told("overlay7");
        for word in ["ENFTUN=1", "NM_UNMANAGED=1", "ID_NET_MANAGED_BY=org.enftun.Enftun1"] {
            assert!(ours.lines().any(|line| line == word), "{word}: {ours}");
        }
        let foreign = told("foreign0");
        assert!(foreign.contains("INTERFACE=foreign0") && !foreign.contains("ENFTUN"), "{foreign}");

        // Under its usual name also where there is no udev, as here.
        bed.machine
            .must("sed -i 's/^dev = .*/dev = \"enf0\"/' /etc/enftun/tunnels/enf0.toml; systemctl reload enftund");
        all_is_well(bed);
        let before = bed.machine.network_state();
        // A file of the host's that takes any tunnel, and a device that is nobody's.
        bed.machine
            .write("/etc/systemd/network/10-any.network", "[Match]\nKind=tun\n[Network]\nLinkLocalAddressing=no\n");
        bed.machine.must("ip address add 203.0.113.9/32 dev foreign0; ip link set foreign0 up");
        bed.machine.must("systemctl start NetworkManager systemd-networkd");
        bed.machine.wait_until("nmcli --terse --fields DEVICE,STATE device | grep -x enf0:unmanaged");
        bed.machine.wait_until("networkctl list enf0 --no-legend | grep unmanaged");
        bed.machine.wait_until("nmcli --terse --fields DEVICE,STATE device | grep '^foreign0:connected'");
        bed.machine.wait_until("networkctl list foreign0 --no-legend | grep config");
        bed.machine.must("networkctl reload; nmcli general reload; systemctl restart NetworkManager systemd-networkd");
        bed.machine.wait_until("nmcli --terse --fields DEVICE,STATE device | grep -x enf0:unmanaged");
        all_is_well(bed);
        let ours = |state: &std::collections::BTreeSet<String>| {
            state.iter().filter(|line| line.contains("enf0") || line.contains(" rule ")).cloned().collect::<Vec<_>>()
        };
        assert_eq!(ours(&bed.machine.network_state()), ours(&before));
    });
}
