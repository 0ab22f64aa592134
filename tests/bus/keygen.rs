//! `enftunctl keygen` without an interface: no bus, no daemon. What asks one is in `keygen_api.rs`.

use crate::common::bus::has;
use crate::common::skip;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

pub const CTL: &str = env!("CARGO_BIN_EXE_enftunctl");
pub const TUNNEL: &str = "kind = \"enf\"\nremote.hosts = [\"router.example.net\"]\nremote.name = \"router.example.net\"\n\
                      remote.ca_cert_file = \"ca.pem\"\n";
pub const ASKED: &str = "Go on? [y/N] ";
const ADDRESS: &str = "fd00:8f80:1::1234";

/// A configuration directory with one tunnel.
pub struct Host {
    pub dir: tempfile::TempDir,
}

/// Path, content, mode, owner.
pub type Files = BTreeMap<PathBuf, (Vec<u8>, u32, u32)>;

impl Host {
    pub fn new(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(dir.path().join("tunnels")).unwrap();
        let host = Self { dir };
        host.tunnel(more);
        host
    }

    pub fn tunnel(&self, more: &str) {
        fs::write(self.path("tunnels/enf0.toml"), format!("{TUNNEL}{more}")).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn cert(&self) -> PathBuf {
        self.path("enf0/enf0.crt.pem")
    }

    pub fn key(&self) -> PathBuf {
        self.path("enf0/enf0.key.pem")
    }

    /// `enftunctl keygen enf0 …`, ready to be run with nothing to read.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(CTL);
        command.args(["keygen", "enf0"]).args(words).args(["--owner", "nobody", "--config-dir"]).arg(self.dir.path());
        command.env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent").env_remove("CREDENTIALS_DIRECTORY");
        command.stdin(Stdio::null());
        command
    }

    pub fn keygen(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    #[track_caller]
    pub fn makes(&self, words: &[&str]) -> String {
        let output = self.keygen(words);
        assert_eq!(output.status.code(), Some(0), "{words:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// It ends with this code, and everything is as it was. What it says is returned.
    #[track_caller]
    pub fn refuses(&self, words: &[&str], code: i32) -> String {
        let before = self.files();
        let output = self.keygen(words);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
        assert_eq!(self.files(), before, "{words:?}: {said}");
        said
    }

    /// Everything in the configuration directory but the tunnels; directories, too.
    pub fn files(&self) -> Files {
        let mut found = Files::new();
        let mut left = vec![self.dir.path().to_owned()];
        while let Some(directory) = left.pop() {
            for entry in fs::read_dir(&directory).unwrap() {
                let path = entry.unwrap().path();
                let about = fs::symlink_metadata(&path).unwrap();
                let content = if about.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
                if about.is_dir() {
                    left.push(path.clone());
                }
                found.insert(path, (content, about.mode() & 0o7777, about.uid()));
            }
        }
        found
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

/// What openssl prints; it must end well.
#[track_caller]
pub fn openssl(words: &str) -> String {
    let output = Command::new("openssl").args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "openssl {words}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// The certificate is for this address, openssl takes it and the key, and they belong to each other.
#[track_caller]
pub fn is_a_pair(cert: &Path, key: &Path, address: &str) {
    let (cert, key) = (cert.display(), key.display());
    assert_eq!(
        openssl(&format!("x509 -in {cert} -noout -subject -nameopt RFC2253")),
        format!("subject=CN={address}\n")
    );
    let of_key = openssl(&format!("pkey -in {key} -pubout"));
    assert_eq!(openssl(&format!("x509 -in {cert} -noout -pubkey")), of_key);
}

#[test]
fn a_first_pair_has_its_modes_and_its_owner_whatever_the_mask() {
    for umask in ["000", "022", "077"] {
        let host = Host::new("");
        let made = host.command(&[ADDRESS, "--self-signed"]);
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("umask {umask}; exec \"$@\""), "sh", CTL]).args(made.get_args());
        let output = shell.output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!((mode(&host.cert()), mode(&host.key()), mode(&host.path("enf0"))), (0o644, 0o600, 0o755));
        let mine = fs::metadata(host.dir.path()).unwrap().uid();
        let uids: Vec<_> =
            [host.cert(), host.key(), host.path("enf0")].map(|path| fs::metadata(path).unwrap().uid()).into();
        let note = text(&output.stderr);
        // Whoever is no root, or root of a namespace that has no such user, keeps them and is told.
        assert_eq!(note.contains("note: the files are yours"), uids == [mine; 3], "{note}");
        let names: Vec<_> = host.files().into_keys().collect();
        assert_eq!(names.len(), 5, "nothing is left behind: {names:?}");
    }
}

#[test]
fn a_directory_for_keys_alone_is_closed() {
    let host = Host::new("[identity]\ncert_file = \"certs/a.pem\"\nkey_file = \"deep/keys/a.pem\"\n");
    host.makes(&[ADDRESS, "--self-signed"]);
    assert_eq!(
        (mode(&host.path("certs")), mode(&host.path("deep/keys")), mode(&host.path("deep"))),
        (0o755, 0o700, 0o755)
    );
}

#[test]
fn openssl_takes_every_kind_of_certificate_and_key() {
    const TEST: &str = "openssl_takes_every_kind_of_certificate_and_key";
    if !has("openssl") {
        return skip(TEST, "openssl is missing");
    }
    for algorithm in ["p256", "p384", "ed25519"] {
        for (form, version) in [(&["--self-signed"][..], "Version: 3"), (&["--self-signed", "--v1"], "Version: 1")] {
            let host = Host::new("");
            host.makes(&[&[ADDRESS, "--algorithm", algorithm], form].concat());
            is_a_pair(&host.cert(), &host.key(), ADDRESS);
            let (cert, key) = (host.cert(), host.key());
            let shown = openssl(&format!("x509 -in {} -noout -text", cert.display()));
            assert!(shown.contains(version), "{shown}");
            openssl(&format!("verify -check_ss_sig -purpose sslclient -CAfile {0} {0}", cert.display()));
            openssl(&format!("pkey -in {} -noout -check", key.display()));
            if version == "Version: 3" {
                assert!(shown.contains("IP Address:FD00:8F80:1:0:0:0:0:1234"), "{shown}");
                assert!(
                    shown.contains("TLS Web Client Authentication") && shown.contains("Digital Signature"),
                    "{shown}"
                );
            } else {
                assert!(!shown.contains("X509v3"), "{shown}");
            }
        }
    }
}

#[test]
fn a_request_leaves_the_pair_in_use_until_its_certificate_comes() {
    const TEST: &str = "a_request_leaves_the_pair_in_use_until_its_certificate_comes";
    if !has("openssl") {
        return skip(TEST, "openssl is missing");
    }
    for algorithm in ["p256", "p384", "ed25519"] {
        let host = Host::new("");
        host.makes(&["fd00::1", "--self-signed"]);
        let (cert, key) = (fs::read(host.cert()).unwrap(), fs::read(host.key()).unwrap());
        let said = host.makes(&[ADDRESS, "--csr", "--algorithm", algorithm]);
        assert!(said.contains("enftunctl keygen enf0 --cert FILE"), "{said}");
        assert_eq!((fs::read(host.cert()).unwrap(), fs::read(host.key()).unwrap()), (cert.clone(), key.clone()));
        let (request, waiting) = (host.path("enf0/enf0.key.pem.csr"), host.path("enf0/enf0.key.pem.new"));
        assert_eq!((mode(&request), mode(&waiting)), (0o644, 0o600));
        let shown = openssl(&format!("req -in {} -noout -verify -text", request.display()));
        assert!(shown.contains(&format!("CN = {ADDRESS}")) || shown.contains(&format!("CN={ADDRESS}")), "{shown}");
        assert!(shown.contains("IP Address:FD00:8F80:1:0:0:0:0:1234"), "{shown}");

        // Another key's certificate is no answer to it.
        let said = host.refuses(&["--cert", host.cert().to_str().unwrap()], 1);
        assert!(said.contains("does not belong to"), "{said}");
        // And the key that waits is not thrown away without a word.
        for words in [&["--renew", "--self-signed"][..], &[ADDRESS, "--csr"]] {
            let said = host.refuses(words, 1);
            assert!(said.contains("waits for a certificate") && said.contains("--yes"), "{said}");
        }

        let at = |name: &str| host.path(name).display().to_string();
        openssl(&format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=Own -keyout {} -out {}",
            at("ca.key"),
            at("own.pem")
        ));
        openssl(&format!(
            "x509 -req -in {} -CA {} -CAkey {} -CAcreateserial -copy_extensions copy -days 30 -out {}",
            request.display(),
            at("own.pem"),
            at("ca.key"),
            at("signed.pem")
        ));
        host.makes(&["--cert", &at("signed.pem")]);
        is_a_pair(&host.cert(), &host.key(), ADDRESS);
        openssl(&format!("verify -purpose sslclient -CAfile {} {}", at("own.pem"), host.cert().display()));
        assert_eq!((mode(&host.cert()), mode(&host.key())), (0o644, 0o600));
        assert!(!request.exists() && !waiting.exists());
        let said = host.refuses(&["--cert", &at("signed.pem")], 1);
        assert!(said.contains("no key waits for a certificate"), "{said}");
    }
}

#[test]
fn renewing_keeps_the_address_and_the_kind_and_changes_the_key() {
    const TEST: &str = "renewing_keeps_the_address_and_the_kind_and_changes_the_key";
    if !has("openssl") {
        return skip(TEST, "openssl is missing");
    }
    let host = Host::new("");
    host.makes(&[ADDRESS, "--self-signed", "--v1", "--algorithm", "p384"]);
    let of = |words: &str| openssl(&format!("x509 -in {} -noout {words}", host.cert().display()));
    let (key, serial) = (fs::read(host.key()).unwrap(), of("-serial"));
    let said = host.makes(&["--renew", "--self-signed", "--json"]);
    let document: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(document["address"], ADDRESS);
    assert_eq!((&document["algorithm"], &document["replaced"]), (&"p384".into(), &true.into()));
    assert_ne!((fs::read(host.key()).unwrap(), of("-serial")), (key, serial));
    let shown = of("-text");
    assert!(shown.contains("Version: 1") && shown.contains("secp384r1"), "{shown}");
    is_a_pair(&host.cert(), &host.key(), ADDRESS);

    let empty = Host::new("");
    let said = empty.refuses(&["--renew", "--self-signed"], 1);
    assert!(said.contains("there is no certificate to renew"), "{said}");
}

#[test]
fn where_nobody_can_be_asked_a_pair_is_replaced_only_when_that_is_meant() {
    let host = Host::new("");
    host.makes(&[ADDRESS, "--self-signed"]);
    let said = host.refuses(&["fd00::2", "--self-signed"], 1);
    assert!(said.contains(&format!("of {ADDRESS}")) && said.contains("--yes") && said.contains("--renew"), "{said}");
    fs::remove_file(host.cert()).unwrap();
    host.refuses(&["fd00::2", "--self-signed"], 1);
    host.makes(&["fd00::2", "--self-signed", "--yes"]);
    host.makes(&["--renew", "--self-signed"]);
}

/// What a person sees who answers each question, once it is there.
pub fn at_a_terminal(command: &Command, answers: &[(&str, &str)]) -> (Option<i32>, String) {
    let words = command.get_args().map(|word| format!("'{}'", word.to_str().unwrap())).collect::<Vec<_>>().join(" ");
    let mut script = Command::new("script");
    script.args(["-qefc", &format!("{CTL} {words}"), "/dev/null"]);
    script.env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent").env_remove("CREDENTIALS_DIRECTORY");
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (mut keyboard, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let (mut seen, mut part) = (String::new(), [0; 1024]);
    for (question, answer) in answers {
        while !seen.ends_with(question) {
            let length = screen.read(&mut part).unwrap();
            assert!(length > 0, "{question:?} is not asked: {seen}");
            seen += std::str::from_utf8(&part[..length]).unwrap();
        }
        keyboard.write_all(answer.as_bytes()).unwrap();
    }
    screen.read_to_string(&mut seen).unwrap();
    drop(keyboard);
    (child.wait().unwrap().code(), seen)
}

#[test]
fn a_person_is_told_what_is_replaced_and_asked_once() {
    const TEST: &str = "a_person_is_told_what_is_replaced_and_asked_once";
    if !has("script") {
        return skip(TEST, "script is missing");
    }
    let host = Host::new("");
    host.makes(&[ADDRESS, "--self-signed"]);
    let before = host.files();
    for answer in ["n\n", "\n", "sure\n"] {
        let (code, seen) = at_a_terminal(&host.command(&["fd00::2", "--self-signed"]), &[(ASKED, answer)]);
        assert_eq!(code, Some(1), "{seen}");
        assert!(seen.contains("nothing was changed") && seen.contains("Go on? [y/N]"), "{seen}");
        assert!(seen.contains(&format!("of {ADDRESS}, good until ")) && seen.contains("enf0.key.pem"), "{seen}");
        assert_eq!(host.files(), before);
    }
    let (code, seen) = at_a_terminal(&host.command(&["fd00::2", "--self-signed"]), &[(ASKED, "y\n")]);
    assert_eq!((code, seen.matches("[y/N]").count()), (Some(0), 1), "{seen}");
    assert!(seen.contains("enf0 is fd00::2"), "{seen}");
    let (code, seen) = at_a_terminal(&host.command(&["fd00::3", "--self-signed", "--yes"]), &[]);
    assert_eq!((code, seen.matches("[y/N]").count()), (Some(0), 0), "{seen}");
}

#[test]
fn what_is_in_the_way_is_said_before_anything_is_done() {
    let host = Host::new("");
    host.makes(&[ADDRESS, "--self-signed"]);
    let renew = ["--renew", "--self-signed"];
    let key = fs::read(host.key()).unwrap();
    let replace = |put: &dyn Fn(&Path)| {
        fs::remove_file(host.key()).unwrap();
        put(&host.key());
    };
    replace(&|path| symlink("/dev/null", path).unwrap());
    assert!(host.refuses(&renew, 1).contains("symbolic link"));
    replace(&|path| fs::create_dir(path).unwrap());
    assert!(host.refuses(&renew, 1).contains("is no file"));
    fs::remove_dir(host.key()).unwrap();
    fs::write(host.key(), key).unwrap();

    host.tunnel("[identity]\ncert_file = \"ca.pem/a.pem\"\n");
    fs::write(host.path("ca.pem"), "").unwrap();
    assert!(host.refuses(&[ADDRESS, "--self-signed"], 1).contains("directory"));
    host.tunnel("[identity]\nsource = [\"credentials\"]\n");
    assert!(host.refuses(&[ADDRESS, "--self-signed"], 78).contains("identity.source"));
    host.tunnel("[identity]\nkey_file = \"enf0/enf0.crt.pem\"\n");
    host.refuses(&[ADDRESS, "--self-signed", "--yes"], 1);
}

#[test]
fn arguments_that_say_nothing_sensible_are_wrong_usage() {
    let host = Host::new("");
    for words in [
        &["fd00::1/48", "--self-signed"][..],
        &["fe80::1", "--self-signed"],
        &["192.0.2.1", "--self-signed"],
        &["fd00:8f80:1::1/64", "--self-signed"],
        &["auto", "--self-signed"],
        &["--self-signed"],
        &["fd00::/64", "--csr"],
        &["fd00::1", "--self-signed", "--csr"],
        &["fd00::1", "--renew", "--self-signed"],
        &["fd00::1", "--self-signed", "--user", "me"],
        &["fd00::1", "--csr", "--v1"],
        &["fd00::1", "--algorithm", "rsa"],
        &["--password", "s3cret"],
    ] {
        host.refuses(words, 2);
    }
    let said = host.refuses(&[ADDRESS], 78);
    assert!(said.contains("has no [enrol]"), "{said}");
    let absent = Command::new(CTL).args(["keygen", "enf7", "--config-dir"]).arg(host.dir.path()).output().unwrap();
    assert_eq!(absent.status.code(), Some(5));
    host.tunnel("route.fwmrk = 1\n");
    host.refuses(&[ADDRESS, "--self-signed"], 78);
}

/// Runs a script as root of a namespace of its own, in which $1 is this program and $2 the configuration directory.
fn in_a_mount_namespace(host: &Host, script: &str) -> Output {
    let mut command = Command::new("unshare");
    // Root needs no namespace of users, in which others would be strangers.
    let new = if nix::unistd::geteuid().is_root() { "-m" } else { "-rm" };
    command.args([new, "bash", "-euc", script, "bash", CTL]).arg(host.dir.path()).stdin(Stdio::null());
    command.output().unwrap()
}

#[test]
fn a_disk_that_is_full_or_read_only_loses_nothing() {
    const TEST: &str = "a_disk_that_is_full_or_read_only_loses_nothing";
    if !Command::new("unshare").args(["-rm", "true"]).output().is_ok_and(|output| output.status.success()) {
        return skip(TEST, "this kernel does not let users make namespaces");
    }
    let host = Host::new("");
    host.makes(&[ADDRESS, "--self-signed"]);
    // With no or one page left, certificate or key cannot be written; with two both can.
    let script = r#"
        program=$1 dir=$2 pair=$2/enf0
        renew() { code=0; "$program" keygen enf0 --renew --self-signed --owner nobody --config-dir "$dir" 2>"$dir/said" || code=$?; }
        same() { diff -r "$dir/before" "$pair"; }
        cp -a "$pair" "$dir/before"
        mount -t tmpfs -o size=256k,mode=755 tmpfs "$pair"
        cp -a "$dir/before/." "$pair"
        for pages in 0 1; do
            free=$(stat -f -c %a "$pair")
            head -c $(((free - pages) * 4096)) /dev/zero >"$pair/fill"
            [ "$(stat -f -c %a "$pair")" = "$pages" ]
            renew
            [ "$code" = 1 ]
            grep -q 'No space left on device' "$dir/said"
            rm "$pair/fill"
            same
        done
        mount -o remount,bind,ro "$pair"
        renew
        [ "$code" = 1 ]
        grep -q 'Read-only file system' "$dir/said"
        same
        mount -o remount,bind,rw "$pair"
        free=$(stat -f -c %a "$pair")
        head -c $(((free - 2) * 4096)) /dev/zero >"$pair/fill"
        renew
        [ "$code" = 0 ]
        ! cmp -s "$dir/before/enf0.key.pem" "$pair/enf0.key.pem"
        ls -A "$pair"
    "#;
    let output = in_a_mount_namespace(&host, script);
    let said = fs::read_to_string(host.path("said")).unwrap_or_default();
    assert!(output.status.success(), "{}{}{said}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stdout).ends_with("enf0.crt.pem\nenf0.key.pem\nfill\n"), "{}", text(&output.stdout));
}
