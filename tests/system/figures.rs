//! What people and collectors are told on a real system: the figures' timer, the journal, and the report.

use crate::bed::story;

#[test]
fn the_timer_writes_the_figures_without_root_and_says_so_when_the_daemon_is_stopped() {
    story("the_timer_writes_the_figures_without_root_and_says_so_when_the_daemon_is_stopped", |bed| {
        bed.install();
        let machine = &bed.machine;
        machine.must("systemctl start enftun@enf0");
        bed.connected();
        machine.must("systemctl enable --now enftun-metrics.timer");
        let file = "/run/enftun-metrics/enftun.prom";
        machine.wait_until(&format!("grep -q '^enftun_up 1' {file}"));
        assert_eq!(machine.must(&format!("stat -c '%U %a' {file}")), "enftun 644\n");
        // As Debian's node-exporter has it: the directory is root's, and the reader is neither root nor us.
        machine.must(&format!(
            "mkdir -p /var/lib/prometheus/node-exporter; ln -s {file} /var/lib/prometheus/node-exporter/"
        ));
        let figures = machine.must_as("alice", "cat /var/lib/prometheus/node-exporter/enftun.prom");
        assert!(figures.contains("enftun_tunnel_state{tunnel=\"enf0\",state=\"connected\"} 1\n"), "{figures}");
        assert!(figures.contains("enftun_tunnel_certificate_left_seconds{tunnel=\"enf0\",certificate=\"peer\"}"));

        machine.must("systemctl stop enftun@enf0 enftund; systemctl start enftun-metrics.service");
        let figures = machine.must(&format!("cat {file}"));
        assert!(figures.contains("enftun_up 0\n") && !figures.contains("enftun_tunnel"), "{figures}");
        assert_eq!(machine.must("systemctl show -P ActiveState enftund"), "inactive\n", "a look starts nothing");
        bed.nothing_failed();
        assert_eq!(
            machine.must("journalctl --boot --quiet --unit=enftun-metrics.service"),
            "",
            "twice a minute is no news"
        );
    });
}

#[test]
fn root_sees_the_logs_and_the_whole_report_and_a_user_is_told_what_is_not_for_users() {
    story("root_sees_the_logs_and_the_whole_report_and_a_user_is_told_what_is_not_for_users", |bed| {
        bed.install();
        let machine = &bed.machine;
        machine.must("systemctl start enftun@enf0");
        bed.connected();
        let logs = machine.must("enftunctl logs enf0 -n 100");
        assert!(logs.contains("enftund[") && logs.contains("Started enftun@enf0.service"), "{logs}");
        machine.must("enftunctl logs --since today | grep -q 'Started enftund.service'");
        let refused = machine.sh_as("alice", "enftunctl logs");
        assert_eq!(refused.status.code(), Some(4), "{refused:?}");

        let report = machine.must("enftunctl report");
        for expected in [
            "\nsystemd 2",
            "\nnftables v",
            "\"state\": \"connected\"",
            "enftund.service",
            "\n== ip -6 rule\n",
            "lookup 2097",
            "\n== plan of enf0\n# tunnel enf0",
            "default dev enf0",
            "\ntable inet enftun {",
            "Started enftun@enf0.service",
        ] {
            assert!(report.contains(expected), "{expected:?} in {report}");
        }
        assert!(!report.contains("not to be had"), "{report}");
        assert!(!report.contains("PRIVATE KEY"));
        let report = machine.must_as("alice", "enftunctl report");
        assert!(report.contains("\"state\": \"connected\"") && report.contains("lookup 2097"), "{report}");
        let (_, table) = report.split_once("\n== nft list table inet enftun\n").unwrap();
        assert!(table.starts_with("(not to be had: ") && table.contains("Operation not permitted"), "{table}");
    });
}
