//! What every error of the program has in common: a class that drives retry, exit code, bus error name and log level,
//! and the one-line form in which people read it. Each module keeps its own `thiserror` enum; this file knows none.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

/// What kind of thing went wrong, and so what may be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Goes away by itself: trying again is right.
    Transient,
    /// What the user wrote is wrong: only an edit helps.
    Configuration,
    /// A certificate or key is missing, wrong, expired or refused.
    Credentials,
    /// The host lacks something: a device node, a permission, a program.
    Environment,
    /// A defect of this program.
    Bug,
}

/// The exit codes of all programs (stable; scripts rely on them).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// It failed; the one line on stderr says why.
    Failure = 1,
    /// The command line is wrong.
    Usage = 2,
    /// No daemon on the bus.
    NotRunning = 3,
    /// The caller may not do that.
    NotAuthorised = 4,
    /// No tunnel, group or file of that name.
    NotFound = 5,
    /// The wait ended before the state was reached.
    TimedOut = 6,
    /// A service cannot be listened for at this end.
    CannotListen = 7,
    /// A configuration file has errors (`EX_CONFIG`).
    Configuration = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<Class> for Exit {
    fn from(class: Class) -> Self {
        match class {
            Class::Configuration => Self::Configuration,
            Class::Transient | Class::Credentials | Class::Environment | Class::Bug => Self::Failure,
        }
    }
}

/// The error and everything beneath it in one line, joined by `: `. A cause that its parent already quotes is not said twice.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Transient => "transient",
            Self::Configuration => "configuration",
            Self::Credentials => "credentials",
            Self::Environment => "environment",
            Self::Bug => "bug",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[derive(Debug, thiserror::Error)]
    #[error("open the TUN")]
    struct Outer(#[source] io::Error);

    #[test]
    fn a_chain_is_one_line_and_says_nothing_twice() {
        assert_eq!(chain(&Outer(io::Error::other("no such device"))), "open the TUN: no such device");
        let told = io::Error::other(io::Error::other("no such device"));
        assert_eq!(chain(&told), "no such device");
    }
}
