//! A machine's life with a tunnel: set up by the manual, restarted, killed, switched off, upgraded. The example for a device
//! is in force throughout, so everything belongs in the tunnel.

use crate::bed::{FAR, OVERLAY_ROUTER, story};
use crate::fire::Fire;
use std::time::SystemTime;

const TUNNEL: &str = "org.enftun.Enftun1 /org/enftun/Enftun1/tunnel/enf0 org.enftun.Enftun1.Tunnel";

#[test]
fn a_person_follows_the_manual() {
    story("a_person_follows_the_manual", |bed| {
        bed.install();
        bed.machine.must("systemctl enable --now enftun@enf0");
        bed.connected();
        let blocked = |address: &str| !bed.machine.sh(&format!("ping -c 1 -W 1 {address}")).status.success();
        let begun = SystemTime::now();
        assert!(blocked(FAR[0]), "IPv4 has no place in this tunnel");
        bed.reaches(FAR[1]);
        assert!(bed.left_beside_the_tunnel(begun).is_empty(), "IPv6 goes through it");

        // Anybody may look, root may act, and an ordinary user may not open the machine.
        for user in ["root", "alice"] {
            let state = bed.machine.must_as(user, &format!("busctl get-property {TUNNEL} State"));
            assert_eq!(state, "s \"connected\"\n", "{user}");
        }
        let refused = bed.machine.sh_as("alice", &format!("busctl call {TUNNEL} Disconnect u 0"));
        assert!(!refused.status.success(), "{refused:?}");
        bed.machine.must(&format!("busctl call {TUNNEL} Reconnect u 0"));
        bed.connected();

        // An edit is taken, and the tunnel is there still.
        bed.machine
            .must("sed -i 's/^#mtu = .*/mtu = 1300/' /etc/enftun/tunnels/enf0.toml; systemctl reload enftun@enf0");
        bed.machine.wait_until("ip link show enf0 | grep -q 'mtu 1300'");
        bed.connected();
        assert!(bed.machine.journal("enftun@enf0").contains("connected"), "{}", bed.machine.journal("enftun@enf0"));

        // Stopped, it stays closed: the lockdown of the example is that of the boot. Only the user opens it.
        bed.machine.must("systemctl stop enftun@enf0");
        assert!(blocked(OVERLAY_ROUTER) && FAR.iter().all(|far| blocked(far)));
        bed.machine.must("enftunctl lockdown enf0 off");
        FAR.iter().for_each(|far| bed.reaches(far));
        bed.nothing_failed();
    });
}

#[test]
fn nothing_leaves_when_the_daemon_is_restarted_stopped_or_killed() {
    story("nothing_leaves_when_the_daemon_is_restarted_stopped_or_killed", |bed| {
        let mut fire = Fire::open(bed.machine.network());
        fire.all_leave(bed);
        bed.install();
        bed.machine.must("systemctl enable --now enftun@enf0");
        bed.connected();
        fire.nothing_may_leave();
        for what in [
            "systemctl restart enftund",
            "systemctl kill --signal=KILL enftund",
            "systemctl reload enftund",
            "systemctl restart enftun@enf0",
            "systemctl kill --signal=KILL --kill-who=main enftun@enf0",
            "systemctl stop enftund; systemctl start enftun@enf0",
            "systemctl daemon-reload",
        ] {
            let before = bed.machine.must("systemctl show --value --property=MainPID enftund");
            bed.machine.must(what);
            if what.contains("KILL enftund") {
                bed.machine.wait_until(&format!(
                    "pid=$(systemctl show --value --property=MainPID enftund); test $pid != {} -a $pid != 0",
                    before.trim()
                ));
            }
            bed.machine.wait_until("systemctl is-active enftund");
            bed.connected();
            fire.nothing_left(bed, what);
        }
        // It could have been seen.
        bed.machine.must("enftunctl disconnect enf0 --wait; enftunctl lockdown enf0 off");
        fire.all_leave(bed);
    });
}

/// The machine's network is its own business: systemd-networkd gives `lan0` its addresses.
fn networkd(bed: &crate::bed::Bed) {
    bed.machine.write(
        "/etc/systemd/network/50-lan.network",
        "[Match]\nName=lan0\n[Network]\nLinkLocalAddressing=ipv6\nIPv6AcceptRA=no\nAddress=192.0.2.10/24\n\
         Address=2001:db8:1::10/64\nGateway=192.0.2.1\nGateway=2001:db8:1::1\n",
    );
    bed.machine.must("systemctl enable systemd-networkd");
}

#[test]
fn a_reboot_is_blocked_before_the_network_is_there() {
    story("a_reboot_is_blocked_before_the_network_is_there", |bed| {
        networkd(bed);
        bed.power_off();
        let fire = Fire::open(bed.unplugged());
        bed.boot_unconfigured();
        bed.machine.is_up();
        // Without us, the machine is open as soon as it has a network.
        fire.all_leave(bed);
        drop(fire);

        bed.install();
        bed.machine.must("systemctl enable --now enftun@enf0");
        bed.connected();
        for how in ["switched off", "without power"] {
            if how == "switched off" {
                bed.power_off()
            } else {
                bed.power_fails()
            }
            let fire = Fire::open(bed.unplugged());
            bed.boot_unconfigured();
            bed.machine.is_up();
            bed.connected();
            fire.nothing_left(bed, how);
            bed.nothing_failed();
        }
        // The far end is away: the machine waits behind its walls.
        bed.kill_router();
        bed.power_off();
        let fire = Fire::open(bed.unplugged());
        bed.boot_unconfigured();
        bed.machine.is_up();
        assert_eq!(bed.machine.must("systemctl is-active enftun@enf0"), "active\n");
        fire.nothing_left(bed, "without a router");
        bed.start_router();
        bed.connected();
        fire.nothing_left(bed, "with a router again");
        bed.nothing_failed();
    });
}

#[test]
fn an_upgrade_under_fire_opens_nothing_and_keeps_what_the_user_wrote() {
    story("an_upgrade_under_fire_opens_nothing_and_keeps_what_the_user_wrote", |bed| {
        let mut fire = Fire::open(bed.machine.network());
        fire.all_leave(bed);
        bed.install();
        bed.machine.must("echo '# mine' >>/etc/enftun/enftun.toml");
        bed.machine.must("systemctl enable --now enftun@enf0");
        bed.connected();
        let before = bed.machine.must("systemctl show --value --property=MainPID enftund enftun@enf0");
        fire.nothing_may_leave();
        bed.machine.install(Some("9.0.0"), &["enftun"]);
        bed.connected();
        fire.nothing_left(bed, "an upgrade");
        assert_eq!(bed.machine.must("dpkg-query --showformat '${Version}' --show enftun"), "9.0.0");
        let after = bed.machine.must("systemctl show --value --property=MainPID enftund enftun@enf0");
        let pids = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert!(pids(&after).iter().all(|pid| pid != "0" && !pids(&before).contains(pid)), "{before} {after}");
        assert!(bed.machine.must("cat /etc/enftun/enftun.toml").contains("# mine"));
        // What is stopped is not started, and stays as closed as it was.
        bed.machine.must("systemctl stop enftun@enf0 enftund");
        bed.machine.install(None, &["enftun"]);
        bed.machine.must_not("systemctl is-active enftund enftun@enf0");
        fire.nothing_left(bed, "and back, while nothing of ours runs");
        bed.nothing_failed();
    });
}
