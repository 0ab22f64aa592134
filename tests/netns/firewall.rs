//! What happens when the firewall, or a setting of the kernel, cannot be brought into force: the reason and the way out are
//! said, routing goes on blocking, and all is well again once it can. The nft that the program runs is a script in a mount
//! namespace of the program's own; what it does is written into a file.

use crate::common::certs::{Ca, Leaf};
use crate::common::client::{Change, Foreground, Tunnel};
use crate::common::fake_router::{FakeRouter, Manners, server};
use crate::common::netns::{in_netns_with_tun, ip, sh, try_ip};
use crate::common::notify::NotifySocket;
use crate::common::{skip, wait_for};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// A tunnel for everything, and its far end.
struct World {
    router: FakeRouter,
    tunnel: Tunnel,
    /// Where nft is on this host.
    nft: String,
}

fn story(test: &str, tell: impl FnOnce(&mut World) + Send) {
    in_netns_with_tun(test, || {
        if !Command::new("unshare").args(["-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]).status().unwrap().success() {
            return skip(test, "no mount namespace of its own");
        }
        let ca = Ca::v3("Test Root");
        let router = ca.sign_v3(Leaf::new("router.example.net").dns("router.example.net"));
        let client = ca.sign_v3(Leaf::new("fd00:8f80:1::1234").ip("fd00:8f80:1::1234"));
        let router = FakeRouter::start(Manners::Good(server(&router, &router, rustls::ALL_VERSIONS)));
        let mut tunnel = Tunnel::new(&router.address.to_string(), &ca, &client);
        tunnel.route = "prefixes = [\"default\"]\nlockdown = \"session\"\n".to_owned();
        // A busy machine shall not end the session.
        tunnel.remote = tunnel.remote.replace("\"1s\"", "\"60s\"").replace("\"2s\"", "\"30s\"");
        let nft = sh("readlink -f $(command -v nft)").trim().to_owned();
        tell(&mut World { router, tunnel, nft });
    });
}

impl World {
    fn path(&self) -> String {
        self.tunnel.path().display().to_string()
    }

    /// The program, in a mount namespace of its own that is prepared by a shell command.
    fn run(&self, prepare: &str) -> Foreground {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-ec", &format!("{prepare}; exec \"$@\""), "sh", env!("CARGO_BIN_EXE_enftunctl")]);
        self.tunnel.start(self.tunnel.run_command(&mut command))
    }

    /// The program with an nft that does what [`World::nft_does`] says last.
    fn run_with_script(&self) -> Foreground {
        self.run_with_script_and(":")
    }

    /// The same with a shell command before.
    fn run_with_script_and(&self, prepare: &str) -> Foreground {
        let path = self.path();
        sh(&format!(
            "cp {} {path}/nft; printf '#!/bin/sh\\n. {path}/manner\\n' > {path}/script; chmod 755 {path}/script",
            self.nft
        ));
        self.nft_works();
        self.run(&format!("{prepare}; mount --bind {path}/script {}", self.nft))
    }

    /// From now on, nft is these lines for `sh`.
    fn nft_does(&self, lines: &str) {
        let manner = self.tunnel.path().join("manner");
        std::fs::write(manner.with_extension("new"), format!("{lines}\n")).unwrap();
        std::fs::rename(manner.with_extension("new"), manner).unwrap();
    }

    fn nft_works(&self) {
        self.nft_does(&format!("exec {}/nft \"$@\"", self.path()));
    }
}

/// What somebody else does to nftables makes the program look.
fn notice() {
    sh("nft add table ip other; nft delete table ip other");
}

fn rules() -> String {
    format!("{}{}", ip("-6 rule show"), ip("-4 rule show"))
}

/// Routing alone: what lets the kernel choose the way finds none but the tunnel.
#[track_caller]
fn routing_blocks() {
    assert!(rules().contains("557:\tfrom all unreachable"), "{}", rules());
    let v6 = try_ip("-6 route get 2001:db8::1");
    let (said, found) = (String::from_utf8_lossy(&v6.stderr), String::from_utf8_lossy(&v6.stdout));
    assert!(said.contains("unreachable") || found.contains("dev enf0"), "{said}{found}");
    assert!(!try_ip("-4 route get 192.0.2.99").status.success());
}

#[track_caller]
fn is_firewall_failed(change: &Change, parts: &[&str]) {
    assert_eq!(change.reason, "firewall-failed", "{change:#?}");
    assert_eq!(change.error.lines().count(), 1, "{change:#?}");
    for part in parts {
        assert!(change.error.contains(part), "{part:?} in {change:#?}");
    }
}

/// How many processes with this in their command line there are.
fn processes(part: &str) -> usize {
    let line = |entry: std::fs::DirEntry| std::fs::read(entry.path().join("cmdline")).ok();
    let lines = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok).filter_map(line);
    lines.filter(|line| String::from_utf8_lossy(line).contains(part)).count()
}

/// The children of a process, also those that nobody has waited for.
fn children(pid: u32) -> Vec<String> {
    let stat = |entry: std::fs::DirEntry| std::fs::read_to_string(entry.path().join("stat")).ok();
    let stats = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok).filter_map(stat);
    let parent = |stat: &String| stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().parse::<u32>();
    stats.filter(|stat| parent(stat) == Ok(pid)).collect()
}

#[test]
fn an_nft_that_fails_is_an_error_that_blocks_by_routing_and_is_tried_again() {
    story("an_nft_that_fails_is_an_error_that_blocks_by_routing_and_is_tried_again", |world| {
        let mut run = world.run_with_script();
        run.until("connected");
        let (before, table) = (rules(), sh("nft list table inet enftun"));
        let refused =
            format!("exec setpriv --bounding-set -net_admin --inh-caps -net_admin {}/nft \"$@\"", world.path());
        for (number, (lines, parts)) in [
            (
                "printf 'Error: out of paper\\n\\n  in tray 2\\n' >&2; exit 1",
                &["nft): Error: out of paper; in tray 2"][..],
            ),
            ("exit 3", &["nft): exit status: 3", "nft list ruleset"]),
            ("echo this is no JSON", &["list our table (nft): expected", "in what it printed"]),
            ("exit 0", &["list our table (nft): EOF", "in what it printed"]),
            (&refused, &["Operation not permitted", "CAP_NET_ADMIN is missing"]),
        ]
        .into_iter()
        .enumerate()
        {
            world.nft_does(lines);
            notice();
            is_firewall_failed(&run.until("error"), parts);
            routing_blocks();
            assert_eq!(rules(), before, "{lines}");
            assert_eq!(sh("nft list table inet enftun"), table, "what is in force stays");
            world.nft_works();
            run.until("connected");
            assert_eq!((rules(), sh("nft list table inet enftun")), (before.clone(), table.clone()), "{lines}");
            assert_eq!(world.router.connections(), number + 2);
        }
    });
}

#[test]
fn an_nft_that_hangs_is_ended_and_leaves_no_process() {
    story("an_nft_that_hangs_is_ended_and_leaves_no_process", |world| {
        let mut run = world.run_with_script();
        run.until("connected");
        let before = rules();
        // Told apart from the sleep of any other test.
        let sleep = format!("sleep 1000.{}", std::process::id());
        world.nft_does(&format!("exec {sleep}"));
        let sleep = sleep.replace(' ', "\0");
        notice();
        wait_for("nft to be run", || processes(&sleep) == 1);
        routing_blocks();
        is_firewall_failed(&run.until("error"), &["did not end within 5 s", "run again later"]);
        assert_eq!(rules(), before);
        assert!(processes(&sleep) <= 1, "no more than the one that is run again");
        world.nft_works();
        run.until("connected");
        wait_for("the last one to be gone", || processes(&sleep) == 0 && children(run.child.id()).is_empty());
    });
}

#[test]
fn the_watchdog_is_fed_by_the_actor_and_by_nobody_else() {
    story("the_watchdog_is_fed_by_the_actor_and_by_nobody_else", |world| {
        let manager = NotifySocket::new();
        let asked = format!("export NOTIFY_SOCKET={} WATCHDOG_USEC=300000", manager.path().display());
        let mut run = world.run_with_script_and(&asked);
        run.until("connected");
        (0..3).for_each(|_| drop(manager.until("WATCHDOG=1")));
        // The actor waits for nft, which is given up after 5 s.
        world.nft_does("exec sleep 1000");
        notice();
        let deadline = Instant::now() + Duration::from_secs(60);
        while manager.next_within(Duration::from_secs(3)).is_some() {
            assert!(Instant::now() < deadline, "it is fed while the actor waits");
        }
        assert!(run.child.try_wait().unwrap().is_none(), "the program itself lives");
        world.nft_works();
        manager.until("WATCHDOG=1");
    });
}

#[test]
fn without_nft_a_first_connect_blocks_by_routing_and_says_what_to_install() {
    story("without_nft_a_first_connect_blocks_by_routing_and_says_what_to_install", |world| {
        let directory = Path::new(&world.nft).parent().unwrap().display().to_string();
        let mut run = world.run(&format!("mount -t tmpfs tmpfs {directory}"));
        is_firewall_failed(&run.until("error"), &["nft is not there; install it (`apt install nftables`"]);
        routing_blocks();
        ip("-6 rule del pref 557");
        wait_for("the rule, which is put back all the same", || rules().contains("557:"));
        assert_eq!(world.router.connections(), 0, "nothing is dialled");
        sh(&format!("nsenter -m -t {} umount -l {directory}", run.child.id()));
        run.until("connected");
        assert!(sh("nft list table inet enftun").contains("drop"));
        assert_eq!(run.interrupt(), Some(0));
    });
}

#[test]
fn without_lockdown_no_nft_is_needed() {
    story("without_lockdown_no_nft_is_needed", |world| {
        world.tunnel.route = world.tunnel.route.replace("session", "off");
        let directory = Path::new(&world.nft).parent().unwrap().display().to_string();
        let mut run = world.run(&format!("mount -t tmpfs tmpfs {directory}"));
        run.until("connected");
        routing_blocks();
        assert_eq!(run.interrupt(), Some(0));
        assert!(!rules().contains("unreachable"));
    });
}

#[test]
fn what_somebody_puts_in_right_after_us_is_not_taken_for_ours() {
    story("what_somebody_puts_in_right_after_us_is_not_taken_for_ours", |world| {
        let mut run = world.run_with_script();
        run.until("connected");
        let table = sh("nft list table inet enftun");
        let (path, once) = (world.path(), format!("{}/once", world.path()));
        // In the moment between our replacing the table and our looking at it.
        world.nft_does(&format!(
            "{path}/nft \"$@\" || exit\nif [ \"$2\" = -f ] && mkdir {once} 2> {once}.log; then {path}/nft insert rule inet enftun output accept; fi"
        ));
        sh("nft delete table inet enftun");
        wait_for("somebody to come in between", || Path::new(&once).exists());
        wait_for("the table as it was", || {
            String::from_utf8_lossy(
                &Command::new("nft").args(["list", "table", "inet", "enftun"]).output().unwrap().stdout,
            ) == table
        });
        assert_eq!(world.router.connections(), 1, "the session lives on");
    });
}

#[test]
fn a_setting_that_is_read_only_is_said_with_the_way_out() {
    story("a_setting_that_is_read_only_is_said_with_the_way_out", |world| {
        let mut run = world.run("mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys");
        let change = run.until("error");
        assert_eq!(change.reason, "route-failed", "{change:#?}");
        for part in ["/proc/sys/net/ipv4/conf/all/src_valid_mark", "read-only", "ReadWritePaths=/proc/sys/net"] {
            assert!(change.error.contains(part), "{part} in {change:#?}");
        }
        assert_eq!(change.error.lines().count(), 1, "{change:#?}");
        routing_blocks();
        assert!(sh("nft list table inet enftun").contains("drop"));
        sh(&format!("nsenter -m -t {} umount -l /proc/sys", run.child.id()));
        run.until("connected");
    });
}
