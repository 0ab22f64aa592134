//! Reads and edits the router's file of users: who may enrol, one a line.
//!
//! ```text
//! # NAME:HASH[:OPTION[,OPTION ...]]
//! alice:$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0$...
//! device-17:$argon2id$...:once,network=fd00:8f80:2::/64
//! ```

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use argon2::Params;
use argon2::password_hash::phc::PasswordHash;
use ipnet::Ipv6Net;

use super::findings::{Finding, Severity, Source};
use super::values::{self, Complaint, quoted};

/// Longest name of a user, bytes.
pub const LONGEST_NAME: usize = 64;
/// What one user may have unless the line says more or less.
pub const DEFAULT_MAX: u32 = 100;
/// Most that checking one password may cost: memory in KiB, passes, and lanes.
const MOST: (u32, u32, u32) = (256 << 10, 16, 16);
/// The only kind of hash.
const KIND: &str = "argon2id";
/// No more findings of one file.
const MOST_FINDINGS: usize = 200;

/// One user of the enrolment interface.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// Without spaces and colons.
    pub name: String,
    /// Of the password: argon2id, as a PHC string.
    pub hash: String,
    /// Addresses come from here; none: from `[enrol] network`.
    pub network: Option<Ipv6Net>,
    /// The password is good for one enrolment.
    pub once: bool,
    /// Addresses that are the user's at the same time.
    pub max: u32,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, network, once, max, .. } = self;
        f.debug_struct("User")
            .field("name", name)
            .field("network", network)
            .field("once", once)
            .field("max", max)
            .finish()
    }
}

/// The line.
impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let once = self.once.then(|| "once".to_owned());
        let network = self.network.map(|network| format!("network={network}"));
        let max = (self.max != DEFAULT_MAX).then(|| format!("max={}", self.max));
        let options: Vec<_> = [once, network, max].into_iter().flatten().collect();
        let colon = if options.is_empty() { "" } else { ":" };
        write!(f, "{}:{}{colon}{}", self.name, self.hash, options.join(","))
    }
}

/// Why a user cannot have this name; none: it can.
pub fn bad_name(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("a user needs a name")
    } else if name.len() > LONGEST_NAME {
        Some("a name has at most 64 bytes")
    } else if name.starts_with('#') {
        Some("a line that begins with # is a comment")
    } else if !name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':') {
        Some("a name has no spaces, no colons, and nothing beyond ASCII")
    } else {
        None
    }
}

/// Everybody in the file, and what is wrong with the lines that count for nobody. Findings do not show the line: there is a
/// hash in it.
pub fn parse_users(file: &Path, text: &str) -> (Vec<User>, Vec<Finding>) {
    let source = Source::new(file, text);
    let (mut users, mut findings, mut names) = (Vec::new(), Vec::new(), HashSet::new());
    let mut start = 0;
    for line in source.text().split('\n') {
        let end = start + line.len() + 1;
        if let Some(entry) = entry(line) {
            let user = user(entry, start).and_then(|user| match names.insert(user.name.clone()) {
                true => Ok(user),
                false => Err((start..start + user.name.len(), Complaint::new("stands above, and that line counts"))),
            });
            match user {
                Ok(user) => users.push(user),
                Err((span, complaint)) if findings.len() < MOST_FINDINGS => {
                    let name = entry.split(':').next().filter(|name| bad_name(name).is_none()).unwrap_or_default();
                    let finding = source.finding(Severity::Error, name.to_owned(), span, complaint.text);
                    let mut finding = finding.without_excerpt();
                    finding.help = complaint.help;
                    findings.push(finding);
                }
                Err(_) => {}
            }
        }
        start = end;
    }
    (users, findings)
}

/// The text with this user in it, in place of a line that was the same user's. All else stays as it is.
pub fn with_user(text: &str, user: &User) -> String {
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    match lines.iter_mut().find(|line| is_of(line, &user.name)) {
        Some(line) => *line = user.to_string(),
        None => lines.push(user.to_string()),
    }
    joined(&lines)
}

/// The text without this user; none: there is no such user.
pub fn without_user(text: &str, name: &str) -> Option<String> {
    let (of_user, others): (Vec<_>, Vec<_>) = text.lines().map(str::to_owned).partition(|line| is_of(line, name));
    (!of_user.is_empty()).then(|| joined(&others))
}

fn joined(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn is_of(line: &str, name: &str) -> bool {
    entry(line).is_some_and(|entry| entry.split(':').next() == Some(name))
}

/// What is neither blank nor a comment.
fn entry(line: &str) -> Option<&str> {
    let line = line.strip_suffix('\r').unwrap_or(line);
    (!line.trim().is_empty() && !line.starts_with('#')).then_some(line)
}

/// One line, of which the first byte is at `start`.
fn user(line: &str, start: usize) -> Result<User, (Range<usize>, Complaint)> {
    let (name, rest) = line.split_once(':').ok_or_else(|| {
        let complaint =
            Complaint::new("is not NAME:HASH[:OPTIONS]").help("enftun-router users set NAME writes the line");
        (start..start + line.len(), complaint)
    })?;
    if let Some(why) = bad_name(name) {
        return Err((start..start + name.len(), Complaint::new(why)));
    }
    let at_hash = start + name.len() + 1;
    let (hash, options) = rest.split_once(':').unwrap_or((rest, ""));
    check_hash(hash).map_err(|complaint| (at_hash..at_hash + hash.len(), complaint))?;
    let mut user = User { name: name.to_owned(), hash: hash.to_owned(), network: None, once: false, max: DEFAULT_MAX };
    let mut at = at_hash + hash.len() + 1;
    for word in options.split(',').filter(|_| !options.is_empty()) {
        option(&mut user, word).map_err(|complaint| (at..at + word.len(), complaint))?;
        at += word.len() + 1;
    }
    Ok(user)
}

fn option(user: &mut User, word: &str) -> Result<(), Complaint> {
    match word.split_once('=') {
        None if word == "once" => user.once = true,
        Some(("network", text)) => user.network = Some(values::subnet(text)?),
        Some(("max", text)) => {
            let max = text.parse().map_err(|_| Complaint::new(&format!("{} is no number of addresses", quoted(text))));
            user.max = max?;
        }
        _ => {
            let complaint = Complaint::new(&format!("{} is no option", quoted(word)));
            return Err(complaint.help("there are once, network=PREFIX/64 and max=N"));
        }
    }
    Ok(())
}

fn check_hash(text: &str) -> Result<(), Complaint> {
    let advice = "enftun-router users set NAME makes one of a password";
    let no = |why: &str| Err(Complaint::new(why).help(advice));
    let Ok(hash) = PasswordHash::new(text) else { return no("what stands for the password is no hash (PHC string)") };
    if hash.algorithm.as_str() != KIND {
        return no(&format!("the hash is not {KIND}"));
    }
    let Ok(params) = Params::try_from(&hash) else { return no("the parameters of the hash are none of argon2id's") };
    if hash.salt.is_none() || hash.hash.is_none() {
        return no("the hash is cut short");
    }
    let (memory, passes, lanes) = MOST;
    if params.m_cost() > memory || params.t_cost() > passes || params.p_cost() > lanes {
        return no(&format!("the hash costs too much: at most m={memory}, t={passes}, p={lanes} at each login"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0$aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNoaGFzaGhhc2g";

    fn parse(text: &str) -> (Vec<User>, Vec<String>) {
        let (users, findings) = parse_users(Path::new("users"), text);
        assert!(findings.iter().all(|finding| !finding.to_string().contains("$argon2id$v=19")), "a hash is shown");
        (users, findings.iter().map(Finding::one_line).collect())
    }

    #[test]
    fn a_line_is_read_as_it_is_written() {
        let text = format!("# who\n\nalice:{HASH}\r\nbob@x:{HASH}:once,network=fd00:8f80:2::/64,max=3\n");
        let (users, findings) = parse(&text);
        assert_eq!(findings, Vec::<String>::new());
        let [alice, bob] = &users[..] else { panic!("{users:?}") };
        assert_eq!((alice.name.as_str(), alice.once, alice.network, alice.max), ("alice", false, None, DEFAULT_MAX));
        assert_eq!((bob.once, bob.network, bob.max), (true, "fd00:8f80:2::/64".parse().ok(), 3));
        for user in &users {
            assert_eq!(parse(&user.to_string()).0, std::slice::from_ref(user));
        }
        assert!(!format!("{users:?}").contains("argon2"));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place_and_the_other_lines_count() {
        let text = format!(
            "alice\n bob:{HASH}\nalice:{HASH}\nalice:{HASH}\neve:secret\nmal:{HASH}:twice\nned:{HASH}:max=-1\n\
             oz:{HASH}:once,network=fd00::1/64\nrex:$argon2i$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNo\n\
             sam:{}\ntom:$argon2id$v=19$m=8,t=1,p=1\n",
            HASH.replace("19456", "9999999")
        );
        let (users, findings) = parse(&text);
        assert_eq!(users.iter().map(|user| user.name.as_str()).collect::<Vec<_>>(), ["alice"]);
        let after = 5 + HASH.len();
        for (finding, begin, part) in [
            (0, "users:1:1: error: alice: ".to_owned(), "NAME:HASH"),
            (1, "users:2:1: error: ".to_owned(), "no spaces"),
            (2, "users:4:1: error: alice: ".to_owned(), "stands above"),
            (3, "users:5:5: error: eve: ".to_owned(), "no hash"),
            (4, format!("users:6:{}: error: mal: ", after + 1), "once, network=PREFIX/64 and max=N"),
            (5, format!("users:7:{}: error: ned: ", after + 1), "no number"),
            (6, format!("users:8:{}: error: oz: ", after + 5), "length 64"),
            (7, "users:9:5: error: rex: ".to_owned(), "not argon2id"),
            (8, "users:10:5: error: sam: ".to_owned(), "too much"),
            (9, "users:11:5: error: tom: ".to_owned(), "cut short"),
        ] {
            let text = &findings[finding];
            assert!(text.starts_with(&begin) && text.contains(part), "{begin} {part}: {text}");
        }
        assert_eq!(findings.len(), 10);
    }

    #[test]
    fn an_edit_leaves_everything_else_as_it_was() {
        let text = format!("# who\nalice:{HASH}\n\nbroken\nbob:{HASH}:once");
        let (users, _) = parse(&text);
        let new = User { max: 2, ..users[0].clone() };
        let edited = with_user(&text, &new);
        assert_eq!(edited, format!("# who\nalice:{HASH}:max=2\n\nbroken\nbob:{HASH}:once\n"));
        let carol = User { name: "carol".into(), ..users[1].clone() };
        assert_eq!(with_user(&edited, &carol), format!("{edited}carol:{HASH}:once\n"));
        assert_eq!(without_user(&text, "alice"), Some(format!("# who\n\nbroken\nbob:{HASH}:once\n")));
        assert_eq!(without_user(&text, "ali"), None);
        assert_eq!(without_user(&text, "# who"), None);
        assert_eq!(with_user("", &new), format!("{new}\n"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_and_edited_without_harm_to_its_other_lines(
            lines in proptest::collection::vec("[ab#: \\t]{0,3}(:[$x]{0,3}|:HASH)?(:(once|max=7|network=fd00::/64|,|x)+)?\r?", 0..8),
        ) {
            let text = lines.join("\n").replace("HASH", HASH);
            let (users, findings) = parse_users(Path::new("users"), &text);
            let entries = text.split('\n').filter(|line| entry(line).is_some()).count();
            proptest::prop_assert_eq!(users.len() + findings.len(), entries, "each line counts or is complained of");
            for user in &users {
                let new = User { max: 9, ..user.clone() };
                let (edited, _) = parse_users(Path::new("users"), &with_user(&text, &new));
                let others = |users: &[User]| users.iter().filter(|other| other.name != user.name).cloned().collect::<Vec<_>>();
                proptest::prop_assert!(edited.contains(&new));
                proptest::prop_assert_eq!(others(&edited), others(&users));
                let (without, _) = parse_users(Path::new("users"), &without_user(&text, &user.name).unwrap());
                proptest::prop_assert_eq!(without, others(&users));
            }
        }
    }
}
