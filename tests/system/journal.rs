//! The journal of a real systemd: fields, kinds of event with their explanations, one message an event, and who asked.

use crate::bed::{Bed, story};
use enftun::logging::message;
use serde_json::Value;

/// What enftund has logged of this kind of event.
fn of_kind(bed: &Bed, id: &str) -> Vec<Value> {
    let lines = bed.machine.must(&format!("journalctl --sync; journalctl -u enftund -o json MESSAGE_ID={id} | cat"));
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn each_event_is_one_message_with_its_kind_its_fields_and_who_asked() {
    story("each_event_is_one_message_with_its_kind_its_fields_and_who_asked", |bed| {
        bed.install();
        bed.machine.must("systemctl enable --now enftun@enf0");
        bed.connected();
        assert_eq!(of_kind(bed, message::STARTED).len(), 1);

        let asked = of_kind(bed, message::REQUEST);
        assert_eq!(asked.len(), 1, "{asked:#?}");
        let uid = bed.machine.must("id -u enftun").trim().to_owned();
        assert_eq!(asked[0]["ENFTUN_REQUEST"], "connect");
        assert_eq!(asked[0]["ENFTUN_TUNNEL"], "enf0");
        let caller = asked[0]["ENFTUN_CALLER"].as_str().unwrap();
        assert!(caller.starts_with(":1.") && caller.ends_with(&format!("(uid {uid})")), "the unit asked: {caller}");

        let connected = of_kind(bed, message::CONNECTED);
        assert_eq!(connected.len(), 1, "{connected:#?}");
        for (field, value) in [
            ("ENFTUN_TUNNEL", "enf0"),
            ("ENFTUN_STATE", "connected"),
            ("ENFTUN_OLD_STATE", "connecting"),
            // The example has autoconnect = true.
            ("ENFTUN_REASON", "boot"),
            ("ENFTUN_REMOTE", "192.0.2.1:443"),
            ("SYSLOG_IDENTIFIER", "enftund"),
            ("PRIORITY", "5"),
        ] {
            assert_eq!(connected[0][field], value, "{field}");
        }

        let before = of_kind(bed, message::TAMPERED).len();
        bed.machine.must("nft delete table inet enftun");
        bed.machine.wait_until("nft list table inet enftun");
        bed.machine.wait_until(&format!("journalctl -u enftund MESSAGE_ID={} | grep 'put back'", message::TAMPERED));
        assert!(of_kind(bed, message::TAMPERED).len() > before);

        // Whoever reads with -x is told what it means.
        let explained = bed.machine.must(&format!("journalctl -x -u enftund MESSAGE_ID={} | cat", message::CONNECTED));
        assert!(explained.contains("Subject: Tunnel enf0 carries packets"), "{explained}");
        assert!(explained.contains("It is connected to 192.0.2.1:443."), "{explained}");
        // What needs nobody is no error.
        assert_eq!(bed.machine.must("journalctl -p err -u enftund -u 'enftun@*' -u 'enftun-lockdown@*' -q | cat"), "");
    });
}

#[test]
fn the_level_of_the_running_daemon_is_changed_by_systemctl() {
    story("the_level_of_the_running_daemon_is_changed_by_systemctl", |bed| {
        bed.install();
        bed.machine.must("systemctl enable --now enftun@enf0");
        bed.connected();
        let level = || bed.machine.must("systemctl service-log-level enftund").trim().to_owned();
        let debug = || {
            bed.machine
                .must("journalctl --sync; journalctl -q SYSLOG_IDENTIFIER=enftund PRIORITY=6 | wc -l")
                .trim()
                .to_owned()
        };
        assert_eq!((level(), debug()), ("info".into(), "0".into()));
        bed.machine.must("systemctl service-log-level enftund debug");
        assert_eq!(level(), "debug");
        bed.machine.must("enftunctl reconnect enf0 --wait");
        assert_ne!(debug(), "0");
        assert_eq!(bed.machine.must("systemctl service-log-target enftund").trim(), "journal");
        bed.machine.must_not("systemctl service-log-target enftund kmsg");
        bed.machine.must("systemctl service-log-level enftund warning");
        bed.machine.must("systemctl restart enftund");
        assert_eq!(level(), "info", "the configuration's word");
    });
}
