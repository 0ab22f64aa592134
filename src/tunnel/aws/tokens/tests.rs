use super::*;
use std::os::unix::fs::PermissionsExt;

const OLD: &str = "AQGAAXhOldTokenOfTheTunnel";
const NEW: &str = "AQGAAXhNewTokenOfTheTunnel";
const CLIENT: &str = "11111111-2222-3333-4444-555555555555";

struct Host {
    directory: tempfile::TempDir,
    kept: Kept,
}

impl Host {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["state", "credentials"] {
            fs::create_dir(path(name)).unwrap();
        }
        let kept = Kept {
            name: "desk".to_owned(),
            state_dir: path("state"),
            token_file: Some(path("token")),
            client_token_file: None,
            credentials: Some(path("credentials")),
        };
        Self { directory, kept }
    }

    /// With this in `aws.token_file`.
    fn with_token(token: &str) -> Self {
        let host = Self::new();
        host.write("token", token);
        host
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.directory.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn load(&self) -> Result<Tokens, TokenError> {
        self.kept.load_beside(&|_| None)
    }

    /// Access and client token of the next session.
    fn pair(&self) -> (String, String) {
        let tokens = self.load().unwrap();
        (tokens.access().to_owned(), tokens.client().unwrap().to_owned())
    }

    fn said(&self) -> String {
        chain(&self.load().unwrap_err())
    }
}

fn tokens(access: &str, client: Option<&str>) -> Result<Tokens, TokenError> {
    Tokens::new(access.to_owned(), client.map(str::to_owned))
}

#[test]
fn tokens_are_judged_by_what_a_request_can_carry() {
    assert!(tokens(&"a".repeat(4096), Some(CLIENT)).is_ok());
    assert!(matches!(tokens("", None), Err(TokenError::Empty)));
    assert!(matches!(tokens(&"a".repeat(4097), None), Err(TokenError::TooLong)));
    for wrong in ["a\nb", "a\rb", "a\0", "a b", "tökén", "\u{7f}"] {
        assert!(matches!(tokens(wrong, None), Err(TokenError::Character)), "{wrong:?}");
    }
    assert!(tokens("a", Some(&"x-9".repeat(11))).is_ok());
    for wrong in [String::new(), "a".repeat(31), "a".repeat(129), "a".repeat(31) + "_", "a".repeat(31) + "\n"] {
        assert!(matches!(tokens("a", Some(&wrong)), Err(TokenError::Client)), "{wrong:?}");
    }
}

#[test]
fn lines_end_as_they_like_and_a_third_is_too_much() {
    for text in [format!("{OLD}\n{CLIENT}"), format!(" {OLD} \r\n{CLIENT}\r\n\r\n")] {
        let read = Tokens::parse(&text).unwrap();
        assert_eq!((read.access(), read.client()), (OLD, Some(CLIENT)));
    }
    assert_eq!(Tokens::parse(&format!("{OLD}\n")).unwrap().client(), None);
    assert!(matches!(Tokens::parse(""), Err(TokenError::Empty)));
    assert!(matches!(Tokens::parse(&format!("\n{OLD}")), Err(TokenError::Empty | TokenError::Client)));
    assert!(matches!(Tokens::parse(&format!("{OLD}\n{CLIENT}\nmore")), Err(TokenError::MoreLines)));
}

#[test]
fn a_client_token_is_made_once_for_an_access_token_and_outlives_the_program() {
    let host = Host::with_token(OLD);
    let (access, client) = host.pair();
    assert_eq!(access, OLD);
    assert_eq!((client.len(), &client[14..15]), (36, "4"), "a UUID of version 4: {client}");
    assert!(matches!(&client[19..20], "8" | "9" | "a" | "b"), "{client}");
    assert_eq!(host.pair(), (access, client.clone()));
    let kept = host.kept.path();
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(kept.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    host.write("token", NEW);
    assert_ne!(host.pair().1, client, "another token, another client");
    host.write("token", OLD);
    assert_eq!(host.pair().1, client, "the old one again");
}

#[test]
fn a_client_token_that_is_given_is_used() {
    let mut host = Host::with_token(&format!("{OLD}\n{CLIENT}\n"));
    assert_eq!(host.pair().1, CLIENT);
    assert!(!host.kept.path().exists(), "there is nothing to keep");
    host.write("token", OLD);
    host.kept.client_token_file = Some(host.directory.path().join("client"));
    assert!(host.said().contains("client token file"), "it has to be there");
    host.write("client", &format!("{CLIENT}\n"));
    assert_eq!(host.pair().1, CLIENT);
}

#[test]
fn the_first_place_that_has_a_token_is_it() {
    let host = Host::new();
    let variables = |name: &str| match name {
        ACCESS_VARIABLE => Some("from-environment".to_owned()),
        CLIENT_VARIABLE => Some(CLIENT.to_owned()),
        _ => None,
    };
    let found = || host.kept.load_beside(&variables).unwrap();
    assert_eq!((found().access(), found().client()), ("from-environment", Some(CLIENT)));
    host.write("token", "from-file");
    assert_eq!(found().access(), "from-file");
    assert_ne!(found().client(), Some(CLIENT), "that of the environment belongs to the other");
    host.write("credentials/desk.token", "from-credential");
    assert_eq!(found().access(), "from-credential");
    host.write("credentials/desk.token", "");
    assert!(matches!(host.kept.load_beside(&variables), Err(TokenError::In { .. })), "wrong, and not passed over");
}

#[test]
fn rotated_tokens_win_until_others_are_configured() {
    let host = Host::with_token(OLD);
    host.kept.rotate(tokens(NEW, Some(CLIENT)).unwrap()).unwrap();
    assert_eq!(host.pair(), (NEW.to_owned(), CLIENT.to_owned()));
    assert_eq!(host.pair().0, NEW, "again");
    fs::remove_file(host.directory.path().join("token")).unwrap();
    assert_eq!(host.pair().0, NEW, "nothing else says what to use");
    host.write("token", "AQnext");
    assert_eq!(host.pair().0, "AQnext");
    host.write("token", OLD);
    assert_eq!(host.pair().0, OLD, "what was rotated is forgotten");
    assert!(!fs::read_to_string(host.kept.path()).unwrap().contains(NEW));
}

#[test]
fn tokens_can_be_given_where_none_is_configured() {
    let host = Host::new();
    let said = host.said();
    for place in ["desk", "aws.token_file", "desk.token", ACCESS_VARIABLE, "enftunctl rotate desk"] {
        assert!(said.contains(place), "{place}: {said}");
    }
    host.kept.rotate(tokens(NEW, None).unwrap()).unwrap();
    let (access, client) = host.pair();
    assert_eq!(access, NEW);
    assert_eq!(host.pair().1, client, "made for it, and kept");
    host.write("token", OLD);
    assert_eq!(host.pair().0, OLD);
}

#[test]
fn wrong_tokens_in_a_file_are_replaced_like_right_ones() {
    let host = Host::with_token("not a token");
    host.said();
    host.kept.rotate(tokens(NEW, None).unwrap()).unwrap();
    assert_eq!(host.pair().0, NEW);
    host.write("token", "not a token either");
    host.said();
}

#[test]
fn a_damaged_file_is_set_aside() {
    let host = Host::with_token(OLD);
    host.kept.rotate(tokens(NEW, None).unwrap()).unwrap();
    fs::write(host.kept.path(), "{").unwrap();
    assert_eq!(host.pair().0, OLD);
    let aside = fs::read_dir(host.kept.path().parent().unwrap()).unwrap();
    assert!(aside.flatten().any(|entry| entry.file_name().to_string_lossy().contains("damaged")));
}

#[test]
fn nothing_is_used_that_cannot_be_kept() {
    let host = Host::with_token(OLD);
    fs::write(host.kept.state_dir.join("tokens"), "a file in the way").unwrap();
    let error = host.load().unwrap_err();
    assert!(matches!(error, TokenError::Keep { .. } | TokenError::Read { .. }), "{error}");
    assert!(host.kept.rotate(tokens(NEW, None).unwrap()).is_err());
}

#[test]
fn what_is_no_file_is_not_waited_for() {
    let host = Host::new();
    let path = host.directory.path().join("token");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(host.said().contains("it is no file"));
    fs::remove_file(&path).unwrap();
    fs::create_dir(path).unwrap();
    assert!(host.said().contains("it is no file"));
}

#[test]
fn no_error_and_no_debug_text_shows_a_token() {
    let host = Host::with_token(&format!("{OLD} {NEW}\n{CLIENT}\n"));
    let long = "s3cret".repeat(2000);
    let mut texts = vec![host.said(), format!("{:?}", host.load().unwrap_err())];
    host.write("token", &long);
    texts.extend([host.said(), format!("{:?}", host.load())]);
    host.write("token", &format!("{OLD}\ns3cret"));
    texts.extend([host.said(), format!("{:?}", host.load())]);
    let good = tokens(OLD, Some(CLIENT)).unwrap();
    texts.extend([format!("{good:?}"), format!("{:?}", Source::Given(good))]);
    for text in texts {
        assert!(!text.contains("s3cret") && !text.contains("AQGAAX") && !text.contains(CLIENT), "{text}");
    }
}

#[test]
fn the_configured_files_and_the_credential_are_watched() {
    let host = Host::new();
    let names: Vec<String> = host
        .kept
        .files()
        .iter()
        .map(|path| path.strip_prefix(host.directory.path()).unwrap().display().to_string())
        .collect();
    assert_eq!(names, ["credentials/desk.token", "token"]);
    assert!(host.kept.files().iter().all(|path| *path != host.kept.path()));
}
