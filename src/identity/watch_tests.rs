use super::*;
use caps::{CapSet, Capability};
use std::os::unix::fs::{PermissionsExt, symlink};
use tokio::time::timeout;

/// Only ends a test that would hang.
const LONG: Duration = Duration::from_secs(30);
/// Longer than anything that is told is kept back.
const QUIET: Duration = Duration::from_secs(3);

struct Host {
    directory: tempfile::TempDir,
    watch: CredentialsWatch,
}

impl Host {
    /// Watches these files, after `before`.
    fn new(files: &[&str], before: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        before(directory.path());
        let mut host = Self { directory, watch: CredentialsWatch::new() };
        host.watch(files);
        host
    }

    fn watch(&mut self, files: &[&str]) {
        let files: Vec<PathBuf> = files.iter().map(|file| self.path(file)).collect();
        self.watch.watch(files);
    }

    fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.path(file), text).unwrap();
    }

    async fn told(&mut self, what: &str) {
        assert!(timeout(LONG, self.watch.changed()).await.is_ok(), "not told: {what}");
    }

    /// Told nothing; and the watch is awake.
    async fn quiet(&mut self, what: &str, control: &str) {
        assert!(timeout(QUIET, self.watch.changed()).await.is_err(), "told: {what}");
        self.write(control, what);
        self.told(&format!("behind {what}")).await;
    }
}

fn both(directory: &Path) {
    fs::write(directory.join("crt"), "old").unwrap();
    fs::write(directory.join("key"), "old").unwrap();
}

#[tokio::test]
async fn a_file_that_is_replaced_written_taken_away_or_given_other_rights_is_told() {
    let mut host = Host::new(&["crt", "key"], both);
    host.write("crt.new", "renewed");
    fs::rename(host.path("crt.new"), host.path("crt")).unwrap();
    host.told("renamed over").await;
    host.write("key", "in place");
    host.told("written in place").await;
    fs::set_permissions(host.path("key"), fs::Permissions::from_mode(0o600)).unwrap();
    host.told("other rights").await;
    fs::remove_file(host.path("crt")).unwrap();
    host.told("taken away").await;
    fs::write(host.path("crt"), "again").unwrap();
    host.told("put there").await;
    fs::rename(host.path("crt"), host.path("gone")).unwrap();
    host.told("renamed away").await;
    fs::hard_link(host.path("gone"), host.path("crt")).unwrap();
    host.told("linked there").await;
}

#[tokio::test]
async fn certificate_and_key_are_told_together_and_once() {
    let mut host = Host::new(&["crt", "key"], both);
    for file in ["crt", "key"] {
        host.write("new", "renewed");
        fs::rename(host.path("new"), host.path(file)).unwrap();
    }
    host.told("both").await;
    host.quiet("the same again", "crt").await;
}

#[tokio::test]
async fn what_else_happens_beside_the_files_wakes_nobody() {
    let mut host = Host::new(&["crt", "key"], both);
    host.write("other", "");
    fs::rename(host.path("other"), host.path("another")).unwrap();
    fs::create_dir(host.path("crt.d")).unwrap();
    fs::set_permissions(host.directory.path(), fs::Permissions::from_mode(0o711)).unwrap();
    fs::read(host.path("crt")).unwrap();
    // Opened for writing, and left as it is.
    drop(fs::OpenOptions::new().append(true).open(host.path("key")).unwrap());
    host.quiet("the neighbours", "crt").await;
}

#[tokio::test]
async fn a_link_that_leads_elsewhere_is_told_and_so_is_what_it_leads_to() {
    // As certbot has it.
    let mut host = Host::new(&["live/crt"], |directory| {
        fs::create_dir(directory.join("archive")).unwrap();
        fs::create_dir(directory.join("live")).unwrap();
        fs::write(directory.join("archive/crt1"), "first").unwrap();
        symlink("../archive/crt1", directory.join("live/crt")).unwrap();
    });
    host.write("archive/crt1", "rewritten");
    host.told("the link's target is written").await;
    host.write("archive/crt2", "second");
    symlink("../archive/crt2", host.path("live/new")).unwrap();
    fs::rename(host.path("live/new"), host.path("live/crt")).unwrap();
    host.told("another link").await;
    host.write("archive/crt1", "of no interest any more");
    host.quiet("the target from before", "archive/crt2").await;
}

#[tokio::test]
async fn a_directory_that_is_swapped_behind_a_link_is_told() {
    // As Kubernetes has it: the files are links through a link to a directory, and that one is swapped.
    let mut host = Host::new(&["crt", "key"], |directory| {
        fs::create_dir(directory.join("..1")).unwrap();
        both(&directory.join("..1"));
        symlink("..1", directory.join("..data")).unwrap();
        for file in ["crt", "key"] {
            symlink(format!("..data/{file}"), directory.join(file)).unwrap();
        }
    });
    for (number, target) in [(2, "..2".into()), (3, host.path("..3"))] {
        fs::create_dir(host.path(&format!("..{number}"))).unwrap();
        both(&host.path(&format!("..{number}")));
        symlink(target, host.path("..new")).unwrap();
        fs::rename(host.path("..new"), host.path("..data")).unwrap();
        fs::remove_dir_all(host.path(&format!("..{}", number - 1))).unwrap();
        host.told("swapped").await;
    }
    host.write("..3/key", "in place");
    host.told("behind both links").await;
}

#[tokio::test]
async fn files_in_directories_that_come_later_are_told() {
    let mut host = Host::new(&["a/b/c/crt"], |_| {});
    fs::create_dir_all(host.path("a")).unwrap();
    assert!(timeout(QUIET, host.watch.changed()).await.is_err(), "a directory on the way is no file");
    // All at once: no notice comes for what is made before the watch is on its directory.
    fs::create_dir_all(host.path("a/b/c")).unwrap();
    host.write("a/b/c/crt", "first");
    host.told("made at once").await;
    host.write("a/b/c/crt", "second");
    host.told("written").await;
    fs::rename(host.path("a/b"), host.path("a/away")).unwrap();
    host.told("a directory on the way is moved away").await;
    fs::create_dir_all(host.path("other/c")).unwrap();
    host.write("other/c/crt", "third");
    symlink("../other", host.path("a/b")).unwrap();
    host.told("a link in its place").await;
    fs::remove_dir_all(host.path("other")).unwrap();
    host.told("all gone").await;
    fs::create_dir_all(host.path("other/c")).unwrap();
    host.write("other/c/crt", "fourth");
    host.told("and back").await;
}

#[tokio::test]
async fn what_is_watched_is_what_was_asked_for_last() {
    let mut host = Host::new(&["crt", "key"], both);
    host.write("crt", "before the second question");
    host.watch(&["crt", "other"]);
    host.told("what happened to a file that stays watched").await;
    host.write("key", "not asked for any more");
    host.quiet("the key", "other").await;
    host.watch(&[]);
    assert!(host.watch.watched.is_empty(), "{:?}", host.watch.watched);
}

#[tokio::test]
async fn a_notice_outlives_the_wait_for_it() {
    let mut host = Host::new(&["crt"], both);
    host.write("crt", "new");
    // Given up at every point; on a slow machine it may have come already.
    for _ in 0..20 {
        if timeout(Duration::from_millis(1), host.watch.changed()).await.is_ok() {
            return;
        }
    }
    host.told("given up many times").await;
}

#[tokio::test]
async fn without_an_end_of_changes_it_is_told_all_the_same() {
    let mut host = Host::new(&["crt"], both);
    let file = host.path("crt");
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let writer = tokio::spawn(async move {
        let mut number = 0;
        while stopped.try_recv().is_err() {
            number += 1;
            fs::write(&file, number.to_string()).unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    host.told("in the midst").await;
    host.told("and again").await;
    stop.send(()).unwrap();
    writer.await.unwrap();
}

#[tokio::test]
async fn more_notices_than_the_queue_holds_hide_nothing() {
    let mut host = Host::new(&["crt"], both);
    let limit: usize = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    for _ in 0..limit / 2 + 100 {
        // Different in a row, or the kernel would merge them.
        host.write("one", "");
        fs::remove_file(host.path("one")).unwrap();
    }
    host.write("crt", "its notice is lost");
    host.told("behind the overflow").await;
    host.write("crt", "and it goes on");
    host.told("after the overflow").await;
}

#[tokio::test]
async fn a_file_is_watched_itself_where_its_directory_may_not_be_listed() {
    // Root, too, is held to the rights of files then; this thread only.
    let all = [Capability::CAP_DAC_OVERRIDE, Capability::CAP_DAC_READ_SEARCH];
    let had: Vec<_> = all.into_iter().filter(|cap| caps::drop(None, CapSet::Effective, *cap).is_ok()).collect();
    let mut host = Host::new(&["closed/crt"], |directory| {
        fs::create_dir(directory.join("closed")).unwrap();
        fs::write(directory.join("closed/crt"), "old").unwrap();
        fs::set_permissions(directory.join("closed"), fs::Permissions::from_mode(0o300)).unwrap();
    });
    host.write("closed/crt", "in place");
    host.told("written in place").await;
    host.write("closed/new", "renewed");
    fs::rename(host.path("closed/new"), host.path("closed/crt")).unwrap();
    host.told("renamed over").await;
    host.write("closed/crt", "in place again");
    host.told("the new one").await;
    assert_eq!(fs::read_dir(host.path("closed")).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    fs::set_permissions(host.path("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    had.into_iter().for_each(|cap| drop(caps::raise(None, CapSet::Effective, cap)));
}

#[tokio::test]
async fn a_directory_that_is_only_passed_wakes_nobody_and_is_told_when_another_takes_its_place() {
    let mut host = Host::new(&["etc/enf0/crt"], |directory| {
        fs::create_dir_all(directory.join("etc/enf0")).unwrap();
        fs::write(directory.join("etc/enf0/crt"), "old").unwrap();
    });
    for beside in ["one", "two", "etc/three"] {
        host.write(beside, "created beside the way");
        fs::remove_file(host.path(beside)).unwrap();
    }
    let notices = host.watch.notices.as_ref().unwrap();
    assert!(timeout(QUIET, notices.readable()).await.is_err(), "nobody is woken");
    host.write("etc/enf0/beside", "in the last one");
    assert!(timeout(LONG, notices.readable()).await.is_ok(), "there notices do come");
    fs::create_dir_all(host.path("new/enf0")).unwrap();
    host.write("new/enf0/crt", "renewed");
    fs::rename(host.path("etc"), host.path("old")).unwrap();
    fs::rename(host.path("new"), host.path("etc")).unwrap();
    host.told("another directory").await;
    host.write("etc/enf0/crt", "in the new one");
    host.told("behind it").await;
    fs::remove_dir_all(host.path("etc")).unwrap();
    host.told("taken away").await;
    fs::create_dir_all(host.path("etc/enf0")).unwrap();
    host.write("etc/enf0/crt", "again");
    host.told("put there again").await;
}
