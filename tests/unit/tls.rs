//! TLS, trust and identity.

use crate::common::certs::{Alg, Ca, Identity, Leaf};

#[test]
fn openssl_reads_what_the_makers_write() {
    let dir = tempfile::tempdir().unwrap();
    for alg in [Alg::P256, Alg::P384, Alg::Rsa2048, Alg::Ed25519] {
        let ca = Ca { identity: Identity::self_signed_v1(Leaf::new("Fleet").alg(alg)) };
        let ca_file = ca.write(dir.path(), "ca");
        for identity in
            [ca.sign_v1(Leaf::new("v1").alg(alg)), ca.sign_v2("v2"), ca.sign_v3(Leaf::new("v3").dns("a.example"))]
        {
            let (cert_file, _) = identity.write(dir.path(), "leaf");
            let output = std::process::Command::new("openssl")
                .args(["verify", "-CAfile"])
                .args([&ca_file, &cert_file])
                .output()
                .unwrap();
            assert!(output.status.success(), "{alg:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
