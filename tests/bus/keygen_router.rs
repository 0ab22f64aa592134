//! `enftunctl keygen` and a real `enftun-router` with its enrolment interface.

use crate::common::certs::{Ca, Leaf};
use crate::common::wait_for;
use crate::keygen::Host;
use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

const ROUTER: &str = env!("CARGO_BIN_EXE_enftun-router");

/// A router that runs until it is dropped.
struct Router {
    dir: tempfile::TempDir,
    enrol: String,
    child: Child,
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

impl Router {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::v3("Fleet");
        ca.sign_v3(Leaf::new("router").ip("127.0.0.1").server_only()).write(dir.path(), "router");
        ca.write(dir.path(), "ca");
        fs::create_dir(dir.path().join("endpoints")).unwrap();
        let (listen, enrol) = (free_address(), free_address());
        let file = format!(
            "listen = [\"{listen}\"]\ncert_file = \"router.crt.pem\"\nkey_file = \"router.key.pem\"\n\
             endpoints_dir = \"endpoints\"\ncontrol_socket = \"router.sock\"\n\
             [enrol]\nlisten = \"{enrol}\"\nnetwork = \"fd00:8f80:1::/64\"\nusers_file = \"users\"\n"
        );
        fs::write(dir.path().join("router.toml"), file).unwrap();
        let mut command = Command::new(ROUTER);
        command.arg("--config").arg(dir.path().join("router.toml")).arg("serve").stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let router = Self { dir, enrol, child };
        wait_for("the interface", || TcpStream::connect(&router.enrol).is_ok());
        router
    }

    /// A user with this password.
    fn user(&self, name: &str, password: &str, more: &[&str]) {
        let mut command = Command::new(ROUTER);
        command.arg("--config").arg(self.dir.path().join("router.toml")).args(["users", "set", name]).args(more);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(format!("{password}\n").as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    }

    /// A host whose user is this one.
    fn host(&self, user: &str, password: &str) -> Host {
        let ca = self.dir.path().join("ca.pem");
        let host = Host::new(&format!(
            "[enrol]\nurl = \"https://{}\"\nca_cert_file = {ca:?}\nuser = \"{user}\"\npassword_file = \"password\"\n",
            self.enrol
        ));
        fs::write(host.path("password"), password).unwrap();
        fs::set_permissions(host.path("password"), fs::Permissions::from_mode(0o600)).unwrap();
        host
    }

    fn endpoint(&self, address: &str) -> PathBuf {
        self.dir.path().join(format!("endpoints/{address}.pem"))
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address that the pair of a host has.
fn address(host: &Host) -> String {
    let credentials = enftun::identity::load(&host.cert(), &host.key(), SystemTime::now()).unwrap();
    enftun::identity::own_address(&credentials).unwrap().to_string()
}

#[test]
fn a_router_gives_addresses_and_says_to_whom_it_does_not() {
    let router = Router::start();
    router.user("me", "s3cret", &[]);
    router.user("other", "t0p", &[]);
    let host = router.host("me", "s3cret");
    for algorithm in ["p256", "p384", "ed25519"] {
        host.makes(&["auto", "--algorithm", algorithm, "--yes"]);
        let own = address(&host);
        assert!(own.starts_with("fd00:8f80:1:"), "{own}");
        assert!(router.endpoint(&own).exists(), "{own}");
    }
    // Another key for the same address.
    let (own, endpoint) = (address(&host), router.endpoint(&address(&host)));
    let before = fs::read(&endpoint).unwrap();
    host.makes(&["--renew"]);
    assert_eq!(address(&host), own);
    assert_ne!(fs::read(&endpoint).unwrap(), before);

    let said = host.refuses(&["fd00:8f80:2::1", "--yes"], 4);
    assert!(said.contains("fd00:8f80:1::/64 only"), "{said}");
    let other = router.host("other", "t0p");
    let said = other.refuses(&[&own], 1);
    assert!(said.contains("has given the address") && said.contains("somebody else"), "{said}");
    let wrong = router.host("me", "guess");
    let said = wrong.refuses(&["auto"], 4);
    assert!(said.contains("does not accept the user \"me\""), "{said}");
}

#[test]
fn a_password_for_one_time_is_good_for_one_time() {
    let router = Router::start();
    router.user("me", "0nce", &["--once"]);
    let host = router.host("me", "0nce");
    host.makes(&["auto"]);
    let own = address(&host);
    let said = host.refuses(&["auto", "--yes"], 4);
    assert!(said.contains("used up"), "{said}");
    assert_eq!(address(&host), own);
}
