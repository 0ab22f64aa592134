//! The bus starts the daemon for whoever calls it, where its user has enabled it; that is not, `packages.rs` shows.

use crate::bed::story;

#[test]
fn where_it_is_enabled_a_call_on_the_bus_starts_the_daemon() {
    story("where_it_is_enabled_a_call_on_the_bus_starts_the_daemon", |bed| {
        bed.install();
        let machine = &bed.machine;
        const VERSION: &str =
            "busctl get-property org.enftun.Enftun1 /org/enftun/Enftun1 org.enftun.Enftun1.Manager Version";
        machine.must_not(VERSION);
        machine.must("systemctl enable enftund");
        assert_eq!(machine.sh("systemctl is-active enftund").stdout, b"inactive\n");
        let version = format!("s \"{}\"\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(machine.must_as("alice", VERSION), version, "anybody may read, and so wake it");
        assert_eq!(machine.must("systemctl is-active enftund"), "active\n");
        machine.wait_until("systemctl show --property=StatusText --value enftund | grep 'enf0 connected to'");
    });
}
