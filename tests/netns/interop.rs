//! Against a far end that is not ours: OpenSSL, an X.509 v1 certificate that is its own CA, and the most naive reader of the
//! wire there can be.

use crate::common::certs::{Ca, Identity};
use crate::common::client::Tunnel;
use crate::common::netns::{Running, in_netns_with_tun, ip, sh};
use crate::common::{skip, wait_for};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

fn survives(test: &'static str, version: &'static str) {
    in_netns_with_tun(test, move || {
        let router = Identity::self_signed_v1("router.example.net");
        let ca = Ca { identity: router.clone() };
        let client = Identity::self_signed_v1("fd008f80000100000000000000001234");
        let mut tunnel = Tunnel::new("", &ca, &client).remote("name = \"router.example.net\"");
        let (certificate, key) = router.write(tunnel.path(), "router");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/plain_router.py");
        let mut python = Command::new("python3");
        python.arg(script).arg(certificate).arg(key).arg(version).stdout(Stdio::piped());
        let Ok(child) = python.spawn() else { return skip(test, "python3 is missing") };
        let mut peer = Running(child);
        let mut said = BufReader::new(peer.0.stdout.take().unwrap()).lines().map(Result::unwrap);
        let port = said.next().unwrap();
        tunnel.remote = tunnel.remote.replace("hosts = [\"\"]", &format!("hosts = [\"[::1]:{port}\"]"));
        let mut run = tunnel.run();
        let change = run.until("connected");
        assert_eq!(change.line["tls"]["version"], format!("TLSv{version}"));
        wait_for("the route", || ip("-6 route get fd00:8f80::9").contains("enf0"));
        // Eight senders at once, so that many frames share a record, of sizes that do not divide it.
        let flood = sh("for size in 0 1 100 511 700 999 1200 1230; do \
             ping -6 -q -i 0.002 -l 20 -c 300 -s $size fd00:8f80::9 & done; wait");
        // A slow peer may lose packets; it may not lose its place in the stream.
        assert!(!flood.contains(" 0 received"), "{flood}");
        assert_eq!(run.interrupt(), Some(0));
        let end = said.next().unwrap();
        assert!(end.ends_with("closed"), "the far end gave up: {end}");
        let frames: u32 = end.split(' ').next().unwrap().parse().unwrap();
        assert!(frames > 2_000, "{end}");
    });
}

#[test]
fn a_naive_reader_on_openssl_never_sees_a_split_frame_over_tls_1_3() {
    survives("a_naive_reader_on_openssl_never_sees_a_split_frame_over_tls_1_3", "1.3");
}

#[test]
fn a_naive_reader_on_openssl_never_sees_a_split_frame_over_tls_1_2() {
    survives("a_naive_reader_on_openssl_never_sees_a_split_frame_over_tls_1_2", "1.2");
}
