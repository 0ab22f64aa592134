//! The kernel plan in a real kernel.

use crate::common::netns::{Netns, in_netns, ip, state_of_host, veth};

#[test]
fn a_topology_of_namespaces_carries_packets_and_leaves_nothing() {
    in_netns("topology", || {
        let before = state_of_host();
        let (here, there) = (Netns::here(), Netns::new());
        veth(&here, "lan0", &there, "far0");
        ip("addr add fd00:1::1/64 dev lan0");
        there.exec("ip addr add fd00:1::2/64 dev far0");
        there.exec("ping -c1 -W5 fd00:1::1");
        there.run(|| assert!(ip("link").contains("far0")));
        assert_ne!(state_of_host(), before);
        ip("link del lan0");
        assert_eq!(state_of_host(), before);
    });
}
