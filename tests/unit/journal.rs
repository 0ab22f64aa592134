//! The kinds of event in the journal: what the program logs, what the page says and what the catalogue explains are the same.

use enftun::logging::message;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn ids() -> BTreeSet<&'static str> {
    message::ALL.iter().map(|(_, id)| *id).collect()
}

/// Every word of 32 hexadecimal digits.
fn ids_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_hexdigit());
    words.filter(|word| word.len() == 32).collect()
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

#[test]
fn every_kind_has_an_id_of_its_own_and_stands_in_the_page_and_the_catalogue() {
    assert_eq!(ids().len(), message::ALL.len(), "no id twice");
    assert_eq!(ids_in(&read("docs/journal.md")), ids());
    let catalogue = read("systemd/enftun.catalog");
    let entries: Vec<_> = catalogue.lines().filter_map(|line| line.strip_prefix("-- ")).collect();
    assert_eq!(entries.iter().copied().collect::<BTreeSet<_>>(), ids());
    assert_eq!(entries.len(), ids().len());
    for (name, id) in message::ALL {
        let row = format!("| {} | `{id}` |", name.replace('-', " "));
        assert!(read("docs/journal.md").contains(&row), "{row}");
    }
}

#[test]
fn every_kind_is_logged_somewhere() {
    let text: String = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
        .iter()
        .filter(|path| !path.ends_with("logging/message.rs"))
        .map(|path| std::fs::read_to_string(path).unwrap_or_default())
        .collect();
    for (name, _) in message::ALL {
        let used = format!("message::{}", name.replace('-', "_").to_uppercase());
        assert!(text.contains(&used), "{used}");
    }
}

#[test]
fn the_catalogue_is_one_that_journalctl_takes() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("usr/lib/systemd/catalog");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::create_dir_all(root.path().join("var/lib/systemd/catalog")).unwrap();
    std::fs::write(directory.join("enftun.catalog"), read("systemd/enftun.catalog")).unwrap();
    let Ok(output) = Command::new("journalctl").arg("--update-catalog").arg("--root").arg(root.path()).output() else {
        return crate::common::skip("the_catalogue_is_one_that_journalctl_takes", "journalctl (systemd) is missing");
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for (_, id) in message::ALL {
        let output =
            Command::new("journalctl").arg("--root").arg(root.path()).args(["--dump-catalog", id]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("Subject: ") && text.contains("Defined-By: enftun"), "{id}: {text}");
    }
}
