//! Where a password comes from. It is no argument: every user of the host can see those.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use zeroize::Zeroizing;

use super::ask::{first_line, line_after, somebody_is_there, stdin};
use super::error::KeygenError;

/// Asks for a password, which is not shown; or, where nobody is at a terminal, takes the first line of the standard input.
pub async fn asked(prompt: &str) -> Result<Zeroizing<String>, KeygenError> {
    let line = match somebody_is_there() {
        true => line_after(prompt, true).await?,
        false => first_line(&mut stdin()?).map_err(KeygenError::Terminal)?,
    };
    not_empty(line, "no password was given: type it, pipe it in, or name a file that holds it (--password-file)")
}

/// The first line of a file that nobody else can read.
pub fn in_file(path: &Path) -> Result<Zeroizing<String>, KeygenError> {
    let failed = |source| KeygenError::PasswordFile { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    let mode = found.permissions().mode() & 0o7777;
    // systemd lets the service's user read a credential of root's by an access list, which the group's bits stand for.
    let credential = path.parent().map(Path::to_owned) == crate::identity::credentials_directory();
    let closed_to = if credential { 0o037 } else { 0o077 };
    if found.is_file() && mode & closed_to != 0 {
        return Err(KeygenError::PasswordOpen { path: path.to_owned(), mode });
    }
    not_empty(first_line(&mut file).map_err(failed)?, &format!("the first line of {} is empty", path.display()))
}

fn not_empty(line: Zeroizing<String>, otherwise: &str) -> Result<Zeroizing<String>, KeygenError> {
    if line.is_empty() { Err(KeygenError::Password(otherwise.to_owned())) } else { Ok(line) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{OpenOptions, Permissions, set_permissions, write};
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;

    #[test]
    fn a_password_file_that_others_can_read_is_refused_with_the_command_that_closes_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        file.unwrap().write_all(b"s3cret\n").unwrap();
        assert_eq!(in_file(&path).unwrap().as_str(), "s3cret");
        for mode in [0o640, 0o604, 0o660] {
            set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = in_file(&path).unwrap_err();
            assert!(matches!(error, KeygenError::PasswordOpen { .. }), "{error}");
            assert!(error.to_string().contains(&format!("`chmod 600 {}`", path.display())), "{error}");
        }
        set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        write(&path, "\n").unwrap();
        assert!(matches!(in_file(&path).unwrap_err(), KeygenError::Password(_)));
        let absent = directory.path().join("absent");
        assert!(matches!(in_file(&absent).unwrap_err(), KeygenError::PasswordFile { .. }));
    }
}
