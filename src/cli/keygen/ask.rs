//! What is asked of the person at the terminal.

use std::io::{self, IsTerminal, Write};

use super::error::KeygenError;

/// A person is there to read and to answer.
pub fn somebody_is_there() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks yes or no; only a word that begins with y is yes.
pub fn confirm(question: &str) -> Result<(), KeygenError> {
    let mut screen = io::stderr();
    write!(screen, "{question} [y/N] ").and_then(|()| screen.flush()).map_err(KeygenError::Terminal)?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(KeygenError::Terminal)?;
    match answer.trim_start().starts_with(['y', 'Y']) {
        true => Ok(()),
        false => Err(KeygenError::Declined),
    }
}
