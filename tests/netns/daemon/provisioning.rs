//! A tunnel that enrols by itself: when it does, when it does not, and that nothing leaves meanwhile.

use super::{ROUTER, World, ping, story};
use crate::common::bus::{daemon_user, stdout};
use crate::common::certs::{Ca, EXPIRED, Identity, Leaf, write};
use crate::common::fake_router::{FakeRouter, Manners, server};
use crate::common::netns::sh;
#[cfg(feature = "tpm")]
use crate::common::swtpm::Swtpm;
use crate::common::wait_for;
use std::collections::BTreeSet;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;

const USER: &str = "fleet-7";
const PASSWORD: &str = "correct horse battery staple";

/// A world whose router enrols the user, and takes nobody whom it has not enrolled; the tunnel's credentials are below the
/// daemon's state directory, and not there. `once`: the password is good for one time.
fn enrolling(test: &str, once: bool, tell: impl FnOnce(&mut World, &Identity) + Send) {
    story(test, |world| {
        let ca = Ca::v3("Test Root");
        ca.write(world.path(), "etc/ca");
        let name = "router.example.net";
        let router = ca.sign_v3(Leaf::new(name).dns(name).ip("192.0.2.2"));
        router.write(world.path(), "router");
        let file = world.path().join("router.toml");
        let text = std::fs::read_to_string(&file).unwrap().replace("client_ca_file = \"etc/ca.pem\"\n", "");
        let enrol = "[enrol]\nlisten = \"192.0.2.2:8443\"\nnetwork = \"fd00:8f80:1::/64\"\nusers_file = \"users\"\n";
        write(&file, (text + enrol).as_bytes(), 0o644);
        world.set_password(PASSWORD);
        let mut arguments = vec!["users", "set", USER, "--password-file", "-"];
        arguments.extend(once.then_some("--once"));
        sh(&format!("printf '%s\\n' '{PASSWORD}' | {} {}", world.router_program(), arguments.join(" ")));
        world.router = None;
        world.start_router();
        world.tunnel_that_enrols("prefixes = [\"fd00:8f80::/32\"]");
        tell(world, &router);
    });
}

impl World {
    fn router_program(&self) -> String {
        format!("{} --config {}", env!("CARGO_BIN_EXE_enftun-router"), self.path().join("router.toml").display())
    }

    fn set_password(&self, password: &str) {
        let file = self.path().join("etc/password");
        write(&file, format!("{password}\n").as_bytes(), 0o600);
        chown(file, Some(daemon_user()), None).unwrap();
    }

    fn tunnel_that_enrols(&self, route: &str) {
        self.write_tunnel("enf0", "max = \"1s\"", route);
        let file = self.tunnel_file("enf0");
        let [cert, key] = self.pair();
        let text = std::fs::read_to_string(&file)
            .unwrap()
            .replace("\"client.crt.pem\"", &format!("{cert:?}"))
            .replace("\"client.key.pem\"", &format!("{key:?}"));
        let enrol = format!(
            "[enrol]\nurl = \"https://192.0.2.2:8443\"\nca_cert_file = \"ca.pem\"\nuser = \"{USER}\"\n\
             password_file = \"password\"\nprovisioner = \"password\"\n"
        );
        write(&file, (text + &enrol).as_bytes(), 0o644);
        stdout(self.ctl(&["reload"]));
    }

    /// Certificate and key.
    fn pair(&self) -> [PathBuf; 2] {
        ["crt", "key"].map(|kind| self.path().join(format!("state/identity/enf0.{kind}.pem")))
    }

    fn contents(&self) -> [Vec<u8>; 2] {
        self.pair().map(|file| std::fs::read(file).unwrap())
    }

    /// Puts such a certificate and key there.
    fn put(&self, leaf: Leaf) {
        let directory = self.path().join("state/identity");
        std::fs::create_dir_all(&directory).unwrap();
        let (cert, key) = Ca::v3("Another Root").sign_v3(leaf).write(&directory, "enf0");
        for path in [&directory, &cert, &key] {
            chown(path, Some(daemon_user()), None).unwrap();
        }
    }

    /// The addresses that the router has enrolled.
    fn endpoints(&self) -> BTreeSet<String> {
        let text = sh(&format!("{} endpoints list --json", self.router_program()));
        let list: serde_json::Value = serde_json::from_str(&text).unwrap();
        let address = |endpoint: &serde_json::Value| endpoint["address"].as_str().unwrap().to_owned();
        list["endpoints"].as_array().unwrap().iter().map(address).collect()
    }

    fn enrolments(&self) -> usize {
        self.log().matches("enf0 has a new certificate").count()
    }

    #[track_caller]
    fn carries(&self) {
        stdout(self.ctl(&["wait", "enf0", "connected", "--timeout=60s"]));
        assert!(ping(ROUTER), "{}", self.log());
    }
}

#[test]
fn a_tunnel_without_a_certificate_enrols_once_and_keeps_what_it_got() {
    enrolling("a_tunnel_without_a_certificate_enrols_once_and_keeps_what_it_got", true, |world, _| {
        world.connect();
        world.carries();
        let mode = |path: &PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(world.pair().each_ref().map(mode), [0o644, 0o600]);
        let own = world.status()["addresses"][0].as_str().unwrap().trim_end_matches("/128").to_owned();
        assert_eq!(world.endpoints(), BTreeSet::from([own]));
        assert_eq!(
            world.log().matches("the credentials of enf0 changed").count(),
            0,
            "its own files are no news to it"
        );

        // Another daemon has nothing to do but to connect.
        let kept = world.contents();
        world.daemon = None;
        world.start_daemon();
        world.carries();
        assert_eq!((world.contents() == kept, world.enrolments()), (true, 1));
        assert!(!world.log().contains(PASSWORD));
    });
}

#[cfg(feature = "tpm")]
#[test]
fn where_only_a_key_in_the_tpm_counts_a_tunnel_enrols_one() {
    let test = "where_only_a_key_in_the_tpm_counts_a_tunnel_enrols_one";
    enrolling(test, true, |world, _| {
        let Some(tpm) = Swtpm::start(test) else { return };
        let file = world.tunnel_file("enf0");
        let text = std::fs::read_to_string(&file).unwrap().replace("[identity]", "[identity]\nsource = [\"tpm\"]");
        write(&file, format!("{text}[tpm]\ntcti = \"{}\"\n", tpm.config().tcti).as_bytes(), 0o644);
        stdout(world.ctl(&["reload"]));
        world.connect();
        world.carries();
        let [_, key] = world.contents();
        assert!(enftun::identity::tpm::is_blob(&key));
        assert_eq!(world.enrolments(), 1);
    });
}

#[test]
fn an_enrolment_that_was_cut_off_is_taken_up_with_its_key_although_the_password_is_used_up() {
    let test = "an_enrolment_that_was_cut_off_is_taken_up_with_its_key_although_the_password_is_used_up";
    enrolling(test, true, |world, _| {
        world.connect();
        world.carries();
        let own = world.endpoints();
        // What is left when the power fails after the router's answer and before the certificate is there.
        world.daemon = None;
        let [cert, key] = world.pair();
        let pending = format!("{}.new", key.display());
        std::fs::rename(&key, &pending).unwrap();
        std::fs::remove_file(&cert).unwrap();
        world.start_daemon();
        world.carries();
        assert_eq!((world.enrolments(), world.endpoints()), (2, own), "the same address");
        assert!(!std::path::Path::new(&pending).exists());

        // Without that key the password is good for nothing.
        world.daemon = None;
        for file in [cert, key] {
            std::fs::remove_file(file).unwrap();
        }
        world.start_daemon();
        stdout(world.ctl(&["wait", "enf0", "error", "--timeout=60s"]));
        assert_eq!(world.status()["state_reason"], "enrolment-failed");
    });
}

#[test]
fn a_tunnel_enrols_anew_when_its_certificate_is_refused_or_has_expired() {
    let test = "a_tunnel_enrols_anew_when_its_certificate_is_refused_or_has_expired";
    enrolling(test, false, |world, _| {
        // Of a CA that the router does not know.
        world.put(Leaf::new("fd00:8f80:1::99").ip("fd00:8f80:1::99"));
        world.connect();
        world.carries();
        assert_eq!((world.enrolments(), world.endpoints().len()), (1, 1));
        stdout(world.ctl(&["disconnect", "enf0", "--wait"]));
        world.put(Leaf::new("fd00:8f80:1::98").ip("fd00:8f80:1::98").valid(EXPIRED));
        world.connect();
        world.carries();
        assert_eq!((world.enrolments(), world.endpoints().len()), (2, 2));
    });
}

#[test]
fn a_router_that_closes_every_session_without_a_word_is_shown_a_new_certificate() {
    let test = "a_router_that_closes_every_session_without_a_word_is_shown_a_new_certificate";
    enrolling(test, true, |world, router| {
        let manners = Manners::Refuses(server(router, router, rustls::ALL_VERSIONS));
        let _silent = world.far.run(|| FakeRouter::at("192.0.2.2:444", manners));
        let file = world.tunnel_file("enf0");
        let text = std::fs::read_to_string(&file).unwrap().replace("[\"192.0.2.2\"]", "[\"192.0.2.2:444\"]");
        write(&file, text.as_bytes(), 0o644);
        stdout(world.ctl(&["reload"]));
        world.put(Leaf::new("fd00:8f80:1::99").ip("fd00:8f80:1::99"));
        world.ctl(&["connect", "enf0"]);
        wait_for("an enrolment", || world.enrolments() == 1);
        assert!(world.log().contains("3 sessions in a row ended so"), "{}", world.log());
    });
}

#[test]
fn a_refused_enrolment_is_an_error_that_blocks_and_changes_nothing_until_the_password_is_right() {
    let test = "a_refused_enrolment_is_an_error_that_blocks_and_changes_nothing_until_the_password_is_right";
    enrolling(test, false, |world, _| {
        world.put(Leaf::new("fd00:8f80:1::99").ip("fd00:8f80:1::99"));
        let kept = world.contents();
        world.set_password("wrong");
        world.ctl(&["connect", "enf0"]);
        stdout(world.ctl(&["wait", "enf0", "error", "--timeout=60s"]));
        let status = world.status();
        assert_eq!(status["state_reason"], "enrolment-failed", "{status:#}");
        let said = status["last_error"]["text"].as_str().unwrap();
        assert!(said.contains("refuses this end's certificate") && said.contains(USER), "{said}");
        assert!(!world.log().contains("wrong\""), "the password is not in the log");
        assert_eq!(world.contents(), kept);
        assert!(!ping(ROUTER));
        // It is tried at once.
        world.set_password(PASSWORD);
        world.carries();
        assert_eq!(world.enrolments(), 1);
    });
}

#[test]
fn a_key_that_others_can_read_is_looked_at_by_a_person_and_not_replaced() {
    enrolling("a_key_that_others_can_read_is_looked_at_by_a_person_and_not_replaced", false, |world, _| {
        world.put(Leaf::new("fd00:8f80:1::99").ip("fd00:8f80:1::99"));
        sh(&format!("chmod 644 {}", world.pair()[1].display()));
        let kept = world.contents();
        world.ctl(&["connect", "enf0"]);
        stdout(world.ctl(&["wait", "enf0", "error", "--timeout=60s"]));
        let status = world.status();
        let said = status["last_error"]["text"].as_str().unwrap();
        assert!(said.contains("chmod 600"), "{said}");
        assert_eq!((world.contents() == kept, world.enrolments(), world.endpoints().len()), (true, 0, 0));
    });
}

#[test]
fn while_a_tunnel_enrols_nothing_leaves_but_its_own_packets_to_the_interface() {
    let test = "while_a_tunnel_enrols_nothing_leaves_but_its_own_packets_to_the_interface";
    enrolling(test, false, |world, _| {
        world.tunnel_that_enrols("prefixes = [\"default\"]");
        // Nobody is there yet: the tunnel waits, and blocks.
        world.router = None;
        world.ctl(&["connect", "enf0"]);
        wait_for("an attempt that found nobody", || world.log().contains("enrolling anew at 192.0.2.2:8443 failed"));
        let word = world.status()["state"].as_str().unwrap().to_owned();
        assert!(["connecting", "reconnecting"].contains(&word.as_str()), "a network problem is no error: {word}");
        let connects = |port: u16| {
            let probe = format!("exec 3<>/dev/tcp/192.0.2.2/{port}");
            std::process::Command::new("timeout").args(["2", "bash", "-c", &probe]).status().unwrap().success()
        };
        world.start_router();
        world.carries();
        assert!(!connects(8443), "others may not go where the tunnel's packets went");
        stdout(world.ctl(&["disconnect", "enf0", "--wait"]));
        assert!(connects(8443), "they could");
    });
}
