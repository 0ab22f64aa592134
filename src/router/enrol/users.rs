//! The file of users, read again whenever it has changed.

use super::passwords;
use crate::config::users::{User, parse_users};
use crate::router::quiet::{Quiet, and_more};
use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Who may enrol.
#[derive(Debug)]
pub struct Users {
    file: PathBuf,
    read: Mutex<(Option<Stamp>, Arc<Known>)>,
    lines: Quiet,
}

/// The users at one moment.
#[derive(Debug, Default)]
pub struct Known {
    users: HashMap<String, User>,
    /// Costs as much as the others and fits nothing.
    nobodys: String,
}

/// Another content is another file, or has another time or length.
type Stamp = (u64, i64, i64, u64);

impl Known {
    /// Who has this name.
    pub fn find(&self, name: &str) -> Option<&User> {
        self.users.get(name)
    }

    /// The user who has this name and this password. It takes as long if there is no such user.
    pub fn log_in(&self, name: &str, password: &[u8]) -> Option<&User> {
        let user = self.find(name);
        let right = passwords::is_right(password, user.map_or(&self.nobodys, |user| &user.hash));
        user.filter(|_| right)
    }
}

impl Users {
    /// Those of this file, which need not be there. What is wrong in it is logged each time that it is read.
    pub fn new(file: &Path) -> Self {
        let users = Self { file: file.to_owned(), read: Mutex::default(), lines: Quiet::default() };
        users.now();
        users
    }

    /// As the file is now. One that cannot be read has nobody in it.
    pub fn now(&self) -> Arc<Known> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp =
            std::fs::metadata(&self.file).map(|file| (file.ino(), file.mtime(), file.mtime_nsec(), file.len())).ok();
        if stamp.is_none() || stamp != read.0 || read.1.nobodys.is_empty() {
            *read = (stamp, Arc::new(self.load()));
        }
        Arc::clone(&read.1)
    }

    fn load(&self) -> Known {
        let text = std::fs::read_to_string(&self.file).unwrap_or_else(|error| {
            if let Some(more) = self.lines.allows() {
                let level = if error.kind() == io::ErrorKind::NotFound { log::Level::Warn } else { log::Level::Error };
                log::log!(level, "nobody can enrol: cannot read {}: {error}{}", self.file.display(), and_more(more));
            }
            String::new()
        });
        let (users, findings) = parse_users(&self.file, &text);
        for finding in findings {
            log::error!("{}; nobody logs in by this line", finding.place_and_text());
        }
        let nobodys = passwords::nobodys(users.iter()).unwrap_or_default();
        Known { users: users.into_iter().map(|user| (user.name.clone(), user)).collect(), nobodys }
    }
}
