//! What is asked of the person at the terminal.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::error::KeygenError;
#[cfg(feature = "enrol")]
use crate::identity::enrol::Secret;

/// No line is longer, bytes.
const LIMIT: usize = 4096;

/// A person is there to read and to answer.
pub fn somebody_is_there() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks yes or no; only a word that begins with y is yes.
pub async fn confirm(question: &str) -> Result<(), KeygenError> {
    let answer = line_after(&format!("{question} [y/N] "), false).await?;
    match answer.trim_start().starts_with(['y', 'Y']) {
        true => Ok(()),
        false => Err(KeygenError::Declined),
    }
}

/// Asks for a password, which is not shown; or, where nobody is at a terminal, takes the first line of the standard input.
#[cfg(feature = "enrol")]
pub async fn password(prompt: &str) -> Result<Secret, KeygenError> {
    let mut line = match somebody_is_there() {
        true => line_after(prompt, true).await?,
        false => first_line(&mut stdin()?).map_err(KeygenError::Terminal)?,
    };
    if line.is_empty() { Err(KeygenError::NoPassword) } else { Ok(Secret::new(std::mem::take(&mut *line))) }
}

/// Unbuffered, so that no copy of a password stays behind.
fn stdin() -> Result<File, KeygenError> {
    io::stdin().as_fd().try_clone_to_owned().map(File::from).map_err(KeygenError::Terminal)
}

/// Asks at the terminal; what is typed is not shown if it is `hidden`. Ctrl-C gives up, and leaves the terminal as it was.
async fn line_after(prompt: &str, hidden: bool) -> Result<Zeroizing<String>, KeygenError> {
    let mut input = stdin()?;
    let quiet = if hidden { Some(Quiet::new(stdin()?).map_err(KeygenError::Terminal)?) } else { None };
    let mut screen = io::stderr();
    write!(screen, "{prompt}").and_then(|()| screen.flush()).map_err(KeygenError::Terminal)?;
    let line = tokio::task::spawn_blocking(move || first_line(&mut input));
    let answer = tokio::select! {
        line = line => line.map_err(io::Error::other).flatten().map_err(KeygenError::Terminal),
        _ = tokio::signal::ctrl_c() => Err(KeygenError::Interrupted),
    };
    if quiet.is_some() || answer.is_err() {
        // The Enter was not shown, either.
        let _ = writeln!(screen);
    }
    answer
}

/// Without its end; what is behind it stays where it is.
fn first_line(input: &mut impl Read) -> io::Result<Zeroizing<String>> {
    let mut line = Zeroizing::new(Vec::with_capacity(LIMIT));
    let mut byte = Zeroizing::new([0; 1]);
    while line.len() < LIMIT {
        match input.read(byte.as_mut_slice())? {
            0 => break,
            _ if *byte == *b"\n" => break,
            _ => line.extend_from_slice(byte.as_slice()),
        }
    }
    if line.len() == LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("the line has more than {} bytes", LIMIT - 1)));
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    let text = std::str::from_utf8(&line).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// A terminal that does not show what is typed, for as long as this lives.
struct Quiet {
    terminal: File,
    before: Termios,
}

impl Quiet {
    fn new(terminal: File) -> io::Result<Self> {
        let before = tcgetattr(&terminal)?;
        let mut quiet = before.clone();
        quiet.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(&terminal, SetArg::TCSAFLUSH, &quiet)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal, SetArg::TCSAFLUSH, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(bytes: &[u8]) -> io::Result<String> {
        first_line(&mut &*bytes).map(|line| line.to_string())
    }

    #[test]
    fn a_password_is_one_line_without_its_end() {
        assert_eq!(line(b"s3cret\n").unwrap(), "s3cret");
        assert_eq!(line(b" with blanks \r\nmore\n").unwrap(), " with blanks ");
        assert_eq!(line(b"no end").unwrap(), "no end");
        assert_eq!(line(b"\nsecond").unwrap(), "");
        assert_eq!(line(&[b'x'; LIMIT]).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(line(b"\xff\n").unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
