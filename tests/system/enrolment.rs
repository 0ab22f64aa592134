//! A device gets its address, a new key while it runs, and is thrown out: by the manual, on a booted machine.

use crate::bed::{Bed, FAR, OVERLAY_ROUTER, ROUTER, ROUTER6, story};
use std::time::SystemTime;

const PASSWORD: &str = "correct horse battery staple";

/// The device's configuration is the example's, with nothing but names changed. There is no certificate yet.
fn configure(bed: &mut Bed, once: bool) {
    bed.enrols("fleet-7", PASSWORD, once);
    bed.machine.install(None, &["enftun"]);
    bed.machine.must(&format!(
        "cp /usr/share/doc/enftun/examples/device.toml /etc/enftun/tunnels/enf0.toml
         sed -i 's/^#first = .*/first = \"200ms\"/; s/^#max = .*/max = \"1s\"/' /etc/enftun/tunnels/enf0.toml
         printf '%s router.example.net\\n' {ROUTER} {ROUTER6} >>/etc/hosts
         umask 077; printf '%s\\n' '{PASSWORD}' >/root/password"
    ));
    bed.machine.write("/etc/enftun/enf.cacert.pem", &bed.credential("ca.pem"));
}

#[test]
fn a_device_is_enrolled_started_renewed_while_it_runs_and_revoked() {
    story("a_device_is_enrolled_started_renewed_while_it_runs_and_revoked", |bed| {
        configure(bed, false);
        let machine = &bed.machine;
        machine.must("enftunctl keygen enf0 auto --user fleet-7 --password-file /root/password --yes");
        machine.must("enftunctl check");
        let files = "stat -c '%a %U %n' /etc/enftun/enf0/enf0.crt.pem /etc/enftun/enf0/enf0.key.pem";
        let theirs = "644 enftun /etc/enftun/enf0/enf0.crt.pem\n600 enftun /etc/enftun/enf0/enf0.key.pem\n";
        assert_eq!(machine.must(files), theirs);
        machine.must("systemctl start enftun@enf0");
        bed.connected();
        let status: serde_json::Value = serde_json::from_str(&machine.must("enftunctl status enf0 --json")).unwrap();
        let address = status["tunnels"][0]["addresses"][0].as_str().unwrap().trim_end_matches("/128").to_owned();
        assert!(address.starts_with("fd00:8f80:1:"), "{status:#}");

        // The interface is reached through the tunnel now, for nothing else leaves; and nothing breaks.
        let begun = SystemTime::now();
        let certificate = machine.must("sha256sum /etc/enftun/enf0/*");
        machine.must("enftunctl keygen enf0 --renew --user fleet-7 --password-file /root/password --yes");
        assert_ne!(machine.must("sha256sum /etc/enftun/enf0/*"), certificate, "both are new");
        assert_eq!(machine.must(files), theirs);
        machine.wait_until("journalctl -u enftund | grep -q 'the credentials of enf0 changed'");
        machine.wait_until("journalctl -u enftund | grep -q 'enf0 goes on through'");
        bed.connected();
        assert!(machine.must("enftunctl status enf0").contains(&address), "it is the same address");
        bed.reaches(FAR[1]);
        assert!(bed.left_beside_the_tunnel(begun).is_empty());

        // Thrown out at once, and blocked.
        bed.ask_router(&["endpoints", "revoke", &address]);
        machine.must("enftunctl wait enf0 error --timeout=60s");
        assert!(machine.must("enftunctl status enf0").contains("auth-failed"));
        let blocked = |address: &str| !machine.sh(&format!("ping -c 1 -W 1 {address}")).status.success();
        assert!(blocked(OVERLAY_ROUTER) && FAR.iter().all(|far| blocked(far)));
        assert!(bed.left_beside_the_tunnel(begun).is_empty());
    });
}

#[test]
fn a_device_without_a_certificate_enrols_by_itself_with_its_one_time_password() {
    story("a_device_without_a_certificate_enrols_by_itself_with_its_one_time_password", |bed| {
        configure(bed, true);
        let machine = &bed.machine;
        machine.must(
            "sed -i 's/^#user = .*/user = \"fleet-7\"/; s/^#provisioner = .*/provisioner = \"password\"/
                     s,^cert_file = .*,cert_file = \"/var/lib/enftun/identity/enf0.crt.pem\",
                     s,^key_file = .*,key_file = \"/var/lib/enftun/identity/enf0.key.pem\",' /etc/enftun/tunnels/enf0.toml
             mkdir -p /etc/systemd/system/enftund.service.d
             cp /usr/share/doc/enftun/examples/systemd/enftund.service.d/password.conf /etc/systemd/system/enftund.service.d/
             sed -i 's,:/etc/enftun/enf0/password,:/root/password,' /etc/systemd/system/enftund.service.d/password.conf
             systemctl daemon-reload; enftunctl check",
        );
        let begun = SystemTime::now();
        machine.must("systemctl start enftun@enf0");
        bed.connected();
        let modes =
            machine.must("stat -c '%a %U' /var/lib/enftun/identity/enf0.crt.pem /var/lib/enftun/identity/enf0.key.pem");
        assert_eq!(modes, "644 enftun\n600 enftun\n");
        assert!(bed.left_beside_the_tunnel(begun).iter().all(|frame| frame.ports.is_some_and(|(_, to)| to == 8443)));

        // It is there after a restart, and nobody enrols again.
        machine.must("systemctl restart enftund");
        bed.connected();
        assert_eq!(machine.must("journalctl --boot -u enftund | grep -c 'has a new certificate'"), "1\n");
        bed.nothing_failed();
    });
}
