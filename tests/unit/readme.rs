//! README.md is true: each test that it names is there, each file that it links to is there.

use std::path::Path;

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn every_test_that_the_readme_names_is_there() {
    let readme = read("README.md");
    let mut named = 0;
    for word in readme.split('`').filter(|word| word.starts_with("tests/") || word.starts_with("src/")) {
        let (file, name) = word.split_once("::").unwrap_or((word, ""));
        let text = read(file);
        assert!(name.is_empty() || text.contains(&format!("fn {name}(")), "{word}");
        named += 1;
    }
    assert!(named > 50, "{named}");
}

#[test]
fn every_link_of_the_readme_leads_somewhere() {
    let readme = read("README.md");
    let targets = readme.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
    for target in targets.filter(|target| !target.starts_with("http")) {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(target).exists(), "{target}");
    }
}
