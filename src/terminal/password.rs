//! Passwords from people and programs: from the terminal, where they are not shown; from standard input, when that is none;
//! from a file. Never from a command line, which every user of the host can read.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::error::Class;

/// No password is longer, bytes.
const LONGEST: u64 = 4096;

/// Why there is no password.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// The terminal, standard input or the file.
    #[error("cannot read the password from {from}")]
    Read {
        /// Which.
        from: String,
        /// What the system says.
        source: io::Error,
    },
    /// Nothing was typed, or the first line is empty.
    #[error("the password from {0} is empty")]
    Empty(String),
    /// Too long to be one, or no text.
    #[error("what comes from {0} is no password: it must be text, and at most 4096 bytes")]
    NoText(String),
    /// The two did not agree.
    #[error("the two passwords are not the same")]
    Different,
    /// Ctrl-C or Ctrl-D.
    #[error("no password was given")]
    Cancelled,
}

impl PasswordError {
    /// The host's files, or what somebody typed.
    pub fn class(&self) -> Class {
        match self {
            Self::Read { .. } => Class::Environment,
            Self::Empty(_) | Self::NoText(_) | Self::Different | Self::Cancelled => Class::Credentials,
        }
    }

    /// The file that is not there.
    pub fn is_missing_file(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Where a password comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The terminal, or standard input when that is none.
    Asked,
    /// The first line of this file; `-` is standard input.
    File(PathBuf),
}

impl Source {
    /// `--password-file`, if it is there.
    pub fn new(file: Option<PathBuf>) -> Self {
        file.map_or(Self::Asked, Self::File)
    }

    /// The password; it may take as long as somebody types. `prompt` is shown on a terminal.
    pub fn read(&self, prompt: &str) -> Result<Zeroizing<String>, PasswordError> {
        match self {
            Self::Asked if io::stdin().is_terminal() => ask(prompt),
            Self::Asked => first_line("standard input", io::stdin()),
            Self::File(path) if path == Path::new("-") => first_line("standard input", io::stdin()),
            Self::File(path) => {
                let from = path.display().to_string();
                let file = File::open(path).map_err(|source| PasswordError::Read { from: from.clone(), source })?;
                first_line(&from, file)
            }
        }
    }

    /// A new password: on a terminal it is asked for twice.
    pub fn read_new(&self, prompt: &str) -> Result<Zeroizing<String>, PasswordError> {
        let password = self.read(prompt)?;
        if *self == Self::Asked && io::stdin().is_terminal() && *ask("The same again: ")? != *password {
            return Err(PasswordError::Different);
        }
        Ok(password)
    }
}

fn first_line(from: &str, reader: impl Read) -> Result<Zeroizing<String>, PasswordError> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST as usize + 1));
    let read = reader.take(LONGEST + 1).read_to_end(&mut bytes);
    read.map_err(|source| PasswordError::Read { from: from.to_owned(), source })?;
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    password(from, line)
}

fn password(from: &str, line: &[u8]) -> Result<Zeroizing<String>, PasswordError> {
    let text = std::str::from_utf8(line).ok().filter(|_| line.len() as u64 <= LONGEST);
    let text = text.ok_or_else(|| PasswordError::NoText(from.to_owned()))?;
    if text.is_empty() {
        return Err(PasswordError::Empty(from.to_owned()));
    }
    Ok(Zeroizing::new(text.to_owned()))
}

/// The terminal as it was, when this goes.
struct Quiet<'a>(&'a File, Termios);

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.0, SetArg::TCSAFLUSH, &self.1);
    }
}

fn ask(prompt: &str) -> Result<Zeroizing<String>, PasswordError> {
    const FROM: &str = "the terminal";
    let failed = |source| PasswordError::Read { from: FROM.to_owned(), source };
    let mut terminal = OpenOptions::new().read(true).write(true).open("/dev/tty").map_err(failed)?;
    let before = tcgetattr(&terminal).map_err(|error| failed(error.into()))?;
    let mut silent = before.clone();
    // Signals too: one that ended the program would leave the terminal silent.
    silent.local_flags.remove(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG);
    let line = {
        let quiet = Quiet(&terminal, before);
        tcsetattr(quiet.0, SetArg::TCSAFLUSH, &silent).map_err(|error| failed(error.into()))?;
        // Not before: who types at once is not shown either.
        let mut shown = quiet.0;
        shown.write_all(prompt.as_bytes()).map_err(failed)?;
        typed(quiet.0)
    };
    terminal.write_all(b"\n").map_err(failed)?;
    match line.map_err(failed)? {
        Some(line) => password(FROM, &line),
        None => Err(PasswordError::Cancelled),
    }
}

/// What somebody types up to Enter, with Backspace and Ctrl-U; none after Ctrl-C or Ctrl-D.
fn typed(mut keys: impl Read) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    // It never grows beyond this: no copy stays behind in memory.
    let mut line = Zeroizing::new(Vec::with_capacity(LONGEST as usize + 1));
    let mut key = [0];
    loop {
        match keys.read_exact(&mut key) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let [byte] = key;
        match byte {
            b'\r' | b'\n' => return Ok(Some(line)),
            0x03 | 0x04 => return Ok(None),
            0x15 => line.clear(),
            0x08 | 0x7f => {
                // A character of several bytes is one.
                while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
            }
            _ if line.len() as u64 <= LONGEST => line.push(byte),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(bytes: &[u8]) -> Result<String, String> {
        first_line("x", bytes).map(|text| text.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_first_line_is_the_password_and_nothing_else_is() {
        for bytes in [&b"secret"[..], b"secret\n", b"secret\r\n", b"secret\nmore\n"] {
            assert_eq!(line(bytes).as_deref(), Ok("secret"));
        }
        assert_eq!(line(b" pass word \n").as_deref(), Ok(" pass word "));
        assert!(line(b"").unwrap_err().contains("empty") && line(b"\nsecret").unwrap_err().contains("empty"));
        assert!(line(&[b'x'; 4097]).unwrap_err().contains("at most 4096"));
        assert!(line(b"\xff\n").unwrap_err().contains("text"));
        assert_eq!(line(&[b'x'; 4096]).unwrap().len(), 4096);
    }

    #[test]
    fn who_types_may_correct_and_give_up() {
        let typed = |keys: &[u8]| typed(keys).unwrap().map(|line| String::from_utf8(line.to_vec()).unwrap());
        assert_eq!(typed(b"sesame\n").as_deref(), Some("sesame"));
        assert_eq!(typed("x\x15sä\u{7f}esamf\u{8}e\r".as_bytes()).as_deref(), Some("sesame"));
        assert_eq!(typed(b"\x7fa\n").as_deref(), Some("a"));
        assert_eq!(typed(b"ses\x03"), None);
        assert_eq!(typed(b"\x04"), None);
        assert_eq!(typed(b"ses"), None, "the terminal is gone");
    }

    #[test]
    fn a_file_that_is_not_there_is_said() {
        let error = Source::File("/nowhere".into()).read("").unwrap_err();
        assert!(error.is_missing_file() && error.to_string().contains("/nowhere"), "{error}");
    }
}
