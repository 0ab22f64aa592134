//! Any text as the file of users and as the file of an endpoint: no panic, findings point into the text and show no hash, and
//! what is edited reads as it was meant.
#![no_main]

use std::path::Path;

use enftun::config::users::{parse_users, with_user, without_user};
use enftun::router::registry::{Endpoint, pem_for};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let (users, findings) = parse_users(Path::new("users"), &text);
    let lines = text.strip_prefix('\u{feff}').unwrap_or(&text);
    for finding in &findings {
        let line = lines.split('\n').nth(finding.line as usize - 1).expect("a line of the file");
        assert!((1..=line.chars().count() + 1).contains(&(finding.column as usize)));
        assert!(!finding.one_line().contains('\n'));
    }
    for user in &users {
        let (again, _) = parse_users(Path::new("users"), &with_user(lines, user));
        assert!(again.contains(user));
        let (without, _) = parse_users(Path::new("users"), &without_user(lines, &user.name).expect("it is there"));
        assert!(without.iter().all(|other| other.name != user.name));
    }
    let address = "fd00:8f80:1::a".parse().expect("an address");
    let endpoint = Endpoint::parse(address, &text, Some(1));
    let _ = (endpoint.keys(), endpoint.to_text());
    if let Ok(pem) = pem_for(address, data) {
        assert_eq!(Endpoint { pem, ..Endpoint::unknown(address) }.keys().len(), 1);
    }
});
