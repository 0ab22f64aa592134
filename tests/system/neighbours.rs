//! Who else manages links leaves ours alone: systemd-networkd and NetworkManager, in turn, from the installation on and also
//! when they are told to do everything anew.

use crate::bed::{Bed, story};
use crate::common::wait_for;

/// The tunnel's own part of the kernel's state, which nobody else may touch.
fn ours(bed: &Bed) -> String {
    bed.machine.must(
        "ip -d -o link show enf0; ip -o addr show dev enf0 | sed 's/ *valid_lft.*//'; ip -4 rule; ip -6 rule
         ip -6 route show table 2097; ip -6 route show table local type multicast dev enf0; nft list table inet enftun",
    )
}

/// Installs, connects, and has the neighbour do everything anew; ours is as it was each time. Returns what the daemon had to put
/// back.
fn leaves_us_alone(bed: &Bed, anew: &[&str]) -> Vec<String> {
    bed.install();
    bed.machine.must("systemctl enable --now enftun@enf0");
    bed.connected();
    let before = ours(bed);
    for command in anew {
        bed.machine.must(command);
        bed.connected();
        wait_for(&format!("what is ours, after `{command}`"), || ours(bed) == before);
    }
    bed.nothing_failed();
    let journal = bed.machine.journal("enftund");
    journal.lines().filter_map(|line| line.split_once("put back: ")).map(|(_, what)| what.to_owned()).collect()
}

#[test]
fn systemd_networkd_leaves_the_tunnel_alone() {
    story("systemd_networkd_leaves_the_tunnel_alone", |bed| {
        // It would take every link that nobody else claims.
        bed.machine.write(
            "/etc/systemd/network/90-all.network",
            "[Match]\nName=*\n[Network]\nDHCP=yes\nKeepConfiguration=yes\n",
        );
        bed.machine.must("systemctl start systemd-networkd");
        bed.machine.wait_until("networkctl --no-legend list lan0 | grep -q -v unmanaged");
        let put_back = leaves_us_alone(
            bed,
            &["networkctl reload", "networkctl reconfigure lan0", "systemctl restart systemd-networkd"],
        );
        assert!(put_back.is_empty(), "{put_back:?}");
        let link = bed.machine.must("networkctl --no-legend list enf0");
        assert!(link.contains("unmanaged"), "{link}");
    });
}

#[test]
fn network_manager_leaves_the_tunnel_alone() {
    story("network_manager_leaves_the_tunnel_alone", |bed| {
        bed.machine.write(
            "/etc/NetworkManager/system-connections/lan.nmconnection",
            "[connection]\nid=lan\ntype=ethernet\ninterface-name=lan0\n[ipv4]\nmethod=manual\naddress1=192.0.2.10/24,192.0.2.1\n\
             [ipv6]\nmethod=manual\naddress1=2001:db8:1::10/64,2001:db8:1::1\n",
        );
        bed.machine
            .must("chmod 600 /etc/NetworkManager/system-connections/lan.nmconnection; systemctl start NetworkManager");
        bed.machine.must("nmcli --wait 30 connection up lan");
        let put_back = leaves_us_alone(
            bed,
            &[
                "nmcli general reload",
                "nmcli --wait 30 connection up lan",
                "nmcli networking off; nmcli networking on; nm-online --quiet --timeout=30",
                "systemctl restart NetworkManager",
            ],
        );
        // When it ends, NetworkManager resets this of every link, also of those that it does not manage.
        assert!(put_back.iter().all(|what| what == "ip link set dev enf0 addrgenmode none"), "{put_back:?}");
        let device = bed.machine.must("nmcli --terse --fields DEVICE,STATE device");
        assert!(device.contains("enf0:unmanaged"), "{device}");
    });
}
