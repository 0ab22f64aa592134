//! `enftunctl keygen` with an interface that fails at each step: the pair that was there is as it was each time, and the exit
//! code says what it was.

use crate::common::bus::has;
use crate::common::enrol_api::{Act, EnrolApi, huge, json_answer, refusal};
use crate::common::{skip, wait_for};
use crate::keygen::{ASKED, Host, at_a_terminal, is_a_pair, text};
use serde_json::json;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

const NETWORK: &str = "fd00:8f80:1::/64";
const LOGIN: Act = Act::LogsIn(NETWORK);
const PASSWORD: &str = "correct horse \"battery\"";

/// A host that enrols at this interface, with a pair that it has already.
struct Enrolling {
    host: Host,
    /// Files of the test that are not the host's.
    _beside: tempfile::TempDir,
    api: EnrolApi,
}

impl Enrolling {
    fn at(acts: &[Act]) -> Self {
        let beside = tempfile::tempdir().unwrap();
        let api = EnrolApi::start(beside.path(), acts);
        let host = Host::new(&section(&api.url(), &api));
        host.makes(&["fd00:8f80:1::1", "--self-signed"]);
        fs::write(host.path("password"), format!("{PASSWORD}\n")).unwrap();
        fs::set_permissions(host.path("password"), fs::Permissions::from_mode(0o600)).unwrap();
        Self { host, _beside: beside, api }
    }

    /// With `--yes` and a password file.
    #[track_caller]
    fn refuses(&self, words: &[&str], code: i32) -> String {
        let password = self.host.path("password");
        self.host.refuses(&[words, &["--yes", "--password-file", password.to_str().unwrap()]].concat(), code)
    }
}

fn section(url: &str, api: &EnrolApi) -> String {
    format!("[enrol]\nurl = \"{url}\"\nca_cert_file = {:?}\nuser = \"me\"\n", api.ca_cert_file)
}

#[test]
fn a_key_is_enrolled_and_its_address_is_in_the_certificate() {
    const TEST: &str = "a_key_is_enrolled_and_its_address_is_in_the_certificate";
    if !has("openssl") {
        return skip(TEST, "openssl is missing");
    }
    for (words, asked) in [
        (&["auto"][..], json!({"network": NETWORK})),
        (&[], json!({"network": NETWORK})),
        (&["fd00:8f80:1::/64", "--v1"], json!({"network": NETWORK})),
        (&["fd00:8f80:1::77/128", "--algorithm", "ed25519"], json!({"address": "fd00:8f80:1::77"})),
    ] {
        let it = Enrolling::at(&[LOGIN, Act::Gives("fd00:8f80:1::77")]);
        let password = it.host.path("password");
        let said = it.host.makes(&[words, &["--yes", "--password-file", password.to_str().unwrap()]].concat());
        assert!(said.starts_with("enf0 is fd00:8f80:1::77, until 20"), "{said}");
        is_a_pair(&it.host.cert(), &it.host.key(), "fd00:8f80:1::77");
        let [login, request] = &it.api.heard()[..] else { panic!("two requests") };
        assert_eq!(login.body, json!({"username": "me", "token": PASSWORD}));
        assert!(request.head.contains("authorization: Bearer a.token"), "{}", request.head);
        assert_eq!(request.body["address_request"], asked);
        let credentials =
            enftun::identity::load(&it.host.cert(), &it.host.key(), std::time::SystemTime::now()).unwrap();
        let public = credentials.key.public_key().unwrap().to_vec();
        assert_eq!(public, it.api.key(), "the key that is in use is the one that was enrolled");
    }
}

#[test]
fn an_answer_that_is_lost_on_the_way_is_asked_for_again_with_the_same_key() {
    let lost = Act::Says(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"addr".to_vec());
    let it = Enrolling::at(&[LOGIN, lost, Act::Gives("fd00:8f80:1::1")]);
    it.host.tunnel(&format!("{}password_file = \"password\"\n", section(&it.api.url(), &it.api)));
    it.host.makes(&["--renew"]);
    let [_, first, second] = &it.api.heard()[..] else { panic!("three requests") };
    assert_eq!(first.body, second.body);
}

#[test]
fn renewing_asks_for_the_address_that_is_there() {
    let it = Enrolling::at(&[LOGIN, Act::Gives("fd00:8f80:1::1")]);
    let before = fs::read(it.host.key()).unwrap();
    it.host.tunnel(&format!("{}password_file = \"password\"\n", section(&it.api.url(), &it.api)));
    let said = it.host.makes(&["--renew"]);
    assert!(said.contains("goes over to it by itself"), "{said}");
    assert_eq!(it.api.heard()[1].body["address_request"], json!({"address": "fd00:8f80:1::1"}));
    assert_ne!(fs::read(it.host.key()).unwrap(), before);
}

#[test]
fn whatever_the_interface_does_the_pair_before_is_as_it_was() {
    let html = || json_answer("200 OK", &json!("<html>"));
    let cut = || Act::Says(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"data\":".to_vec());
    let later = || Act::Says(b"HTTP/1.1 429 .\r\nRetry-After: 17\r\nContent-Length: 0\r\n\r\n".to_vec());
    for (acts, code, said) in [
        (vec![Act::Closes], 1, "the connection"),
        (vec![Act::NoTls], 1, "does not speak TLS"),
        (vec![refusal(401, "no such user")], 4, "does not accept the user \"me\""),
        (vec![refusal(403, "locked")], 4, "(it says: locked)"),
        (vec![later()], 1, "later: in 17 s"),
        (vec![refusal(500, "out of order")], 1, "has failed"),
        (vec![refusal(404, "")], 1, "correct enrol.url"),
        (vec![html()], 1, "correct enrol.url"),
        (vec![cut()], 1, "broke the connection"),
        (vec![huge()], 1, "more than 65536 bytes"),
        (vec![Act::Says(Vec::new())], 1, "ends in the middle"),
        (vec![Act::LogsIn("")], 1, "in which network"),
        (vec![LOGIN, Act::Closes], 1, "the connection"),
        (vec![LOGIN, refusal(401, "too late")], 1, "try again"),
        (vec![LOGIN, refusal(403, "not yours")], 4, "does not allow the user \"me\" an address in its network"),
        (vec![LOGIN, refusal(409, "taken")], 1, "to somebody else"),
        (vec![LOGIN, later()], 1, "later: in 17 s"),
        (vec![LOGIN, refusal(500, "disk full")], 1, "has failed"),
        (vec![LOGIN, html()], 1, "correct enrol.url"),
        (vec![LOGIN, cut()], 1, "broke the connection"),
        (vec![LOGIN, huge()], 1, "more than 65536 bytes"),
        (vec![LOGIN, Act::Gives("fd00:8f80:2::1")], 1, "is not in fd00:8f80:1::/64"),
        (vec![LOGIN, Act::Gives("")], 1, "has no address"),
    ] {
        let it = Enrolling::at(&acts);
        let complaint = it.refuses(&["auto"], code);
        let line = complaint.lines().last().unwrap();
        assert!(line.starts_with("enftunctl: ") && line.contains(said), "{said}: {complaint}");
        assert!(!complaint.contains("battery") && !complaint.contains("a.token"), "{complaint}");
    }
}

#[test]
fn an_interface_that_hangs_at_any_step_times_out() {
    for acts in [vec![Act::Silent], vec![Act::Hangs], vec![LOGIN, Act::Silent], vec![LOGIN, Act::Hangs]] {
        let it = Enrolling::at(&acts);
        let complaint = it.refuses(&["auto", "--timeout", "300ms"], 6);
        assert!(complaint.contains("within 300ms"), "{complaint}");
    }
}

#[test]
fn nobody_there_and_the_wrong_one_are_told_apart() {
    let it = Enrolling::at(&[LOGIN]);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    it.host.tunnel(&section(&format!("https://{closed}"), &it.api));
    let complaint = it.refuses(&["auto"], 1);
    assert!(complaint.contains("cannot be reached") && complaint.contains("refused"), "{complaint}");
    // Its certificate carries the address, and not this name of it.
    it.host.tunnel(&section(&format!("https://localhost:{}", it.api.address.port()), &it.api));
    let complaint = it.refuses(&["auto"], 1);
    assert!(complaint.contains("127.0.0.1, and not \"localhost\""), "{complaint}");
    let beside = tempfile::tempdir().unwrap();
    let other = EnrolApi::start(beside.path(), &[LOGIN]);
    it.host.tunnel(&section(&it.api.url(), &other));
    let complaint = it.refuses(&["auto"], 1);
    assert!(complaint.contains("its key did not sign") && complaint.contains("enrol-ca.pem"), "{complaint}");
    fs::remove_file(&other.ca_cert_file).unwrap();
    let complaint = it.refuses(&["auto"], 78);
    assert!(complaint.contains("enrol-ca.pem"), "{complaint}");
    assert!(it.api.heard().is_empty() && other.heard().is_empty(), "nobody else hears the password");
}

#[test]
fn a_password_comes_from_a_file_a_credential_or_the_standard_input_and_never_from_an_open_file() {
    let acts = [LOGIN, Act::Gives("fd00:8f80:1::1")];
    let token = |it: &Enrolling| it.api.heard()[0].body["token"].clone();

    let it = Enrolling::at(&acts);
    let mut child = it.host.command(&["--renew"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"piped\nmore\n").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(token(&it), "piped");

    let it = Enrolling::at(&acts);
    fs::create_dir(it.host.path("credentials")).unwrap();
    let credential = it.host.path("credentials/enf0.password");
    fs::write(&credential, "of systemd").unwrap();
    // As systemd gives it to a service's user: by an access list, whose mask shows in the group's bits.
    fs::set_permissions(&credential, fs::Permissions::from_mode(0o440)).unwrap();
    let mut command = it.host.command(&["--renew"]);
    let output = command.env("CREDENTIALS_DIRECTORY", it.host.path("credentials")).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(token(&it), "of systemd");

    let it = Enrolling::at(&acts);
    fs::set_permissions(it.host.path("password"), fs::Permissions::from_mode(0o644)).unwrap();
    let complaint = it.refuses(&["auto"], 1);
    assert!(complaint.contains(&format!("`chmod 600 {}`", it.host.path("password").display())), "{complaint}");
    let complaint = it.host.refuses(&["--renew"], 1);
    assert!(complaint.contains("the password from standard input is empty"), "{complaint}");
    assert!(it.api.heard().is_empty());
}

#[test]
fn at_a_terminal_the_password_is_asked_for_and_not_shown() {
    const TEST: &str = "at_a_terminal_the_password_is_asked_for_and_not_shown";
    if !has("script") {
        return skip(TEST, "script is missing");
    }
    let it = Enrolling::at(&[LOGIN, Act::Gives("fd00:8f80:1::1")]);
    let (code, seen) = at_a_terminal(&it.host.command(&["--renew"]), &[(ASKED, "y\n"), (": ", "s3cret word\n")]);
    assert_eq!(code, Some(0), "{seen}");
    assert!(seen.contains(&format!("Password of me at {}: ", it.api.url())), "{seen}");
    assert!(!seen.contains("s3cret"), "{seen}");
    assert_eq!(it.api.heard()[0].body["token"], "s3cret word");
}

#[test]
fn killed_while_it_waits_it_leaves_the_pair_and_the_next_one_tidies_up() {
    let it = Enrolling::at(&[Act::Hangs, LOGIN, Act::Gives("fd00:8f80:1::1")]);
    it.host.tunnel(&format!("{}password_file = \"password\"\n", section(&it.api.url(), &it.api)));
    let (cert, key) = (fs::read(it.host.cert()).unwrap(), fs::read(it.host.key()).unwrap());
    let mut child = it.host.command(&["--renew"]).spawn().unwrap();
    wait_for("the login", || it.api.heard().len() == 1);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!((fs::read(it.host.cert()).unwrap(), fs::read(it.host.key()).unwrap()), (cert, key));
    enftun::identity::load(&it.host.cert(), &it.host.key(), std::time::SystemTime::now()).unwrap();
    it.host.makes(&["--renew"]);
    enftun::identity::load(&it.host.cert(), &it.host.key(), std::time::SystemTime::now()).unwrap();
    let mut names: Vec<_> =
        fs::read_dir(it.host.path("enf0")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["enf0.crt.pem", "enf0.key.pem"]);
}

#[test]
fn a_disk_that_fills_up_meanwhile_is_no_loss_because_the_room_was_taken_before() {
    // The key is on the disk, and the certificate's room taken, before anybody is asked.
    let it = Enrolling::at(&[Act::Hangs]);
    it.host.tunnel(&format!("{}password_file = \"password\"\n", section(&it.api.url(), &it.api)));
    let mut child = it.host.command(&["--renew"]).spawn().unwrap();
    wait_for("the login", || it.api.heard().len() == 1);
    let names = fs::read_dir(it.host.path("enf0")).unwrap().map(|entry| entry.unwrap());
    let sizes: Vec<_> =
        names.map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len())).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(sizes.iter().any(|(name, _)| name == "enf0.key.pem.new"), "{sizes:?}");
    assert!(sizes.iter().any(|(name, size)| name == "enf0.crt.pem.new" && *size >= 4096), "{sizes:?}");
}
