//! What all other stories build on: the machine is a real one, and what the sniffer does not see was not sent.

use crate::bed::{FAR, story, switched_off};
use std::time::SystemTime;

#[test]
fn a_machine_boots_without_a_failed_unit_and_its_disk_outlives_a_reboot() {
    story("a_machine_boots_without_a_failed_unit_and_its_disk_outlives_a_reboot", |bed| {
        assert_eq!(bed.machine.must("cat /proc/1/comm"), "systemd\n");
        assert_eq!(bed.machine.must_as("alice", "id -un"), "alice\n");
        bed.machine.must("echo kept > /root/note; ip rule add pref 77 lookup main");
        let boot = bed.machine.must("cat /etc/machine-id");
        bed.power_off();
        bed.boot();
        assert_eq!(bed.machine.must("cat /root/note"), "kept\n");
        assert_eq!(bed.machine.must("cat /etc/machine-id"), boot);
        assert!(!bed.machine.must("ip rule").contains("77:"), "the kernel's state is new");
        assert_eq!(bed.machine.must("journalctl --list-boots | grep -c ' [0-9a-f]\\{32\\} '"), "2\n");
        bed.power_fails();
        bed.boot();
        assert_eq!(bed.machine.must("systemctl --failed --no-legend"), "");
    });
}

#[test]
fn an_open_machine_reaches_the_far_host_and_the_sniffer_sees_it() {
    switched_off("an_open_machine_reaches_the_far_host_and_the_sniffer_sees_it", |bed| {
        let begun = SystemTime::now();
        bed.boot();
        FAR.iter().for_each(|far| bed.reaches(far));
        let left = bed.left_beside_the_tunnel(begun);
        for far in FAR {
            let far = far.parse().unwrap();
            assert!(left.iter().any(|frame| frame.destination == Some(far)), "{far}: {left:#?}");
        }
    });
}
