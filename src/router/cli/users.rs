//! `enftun-router users`: who may enrol, and with which password. It works on the file; a router that runs reads it again.

use super::print;
use crate::config;
use crate::config::RouterEnrol;
use crate::config::users::{DEFAULT_MAX, User, bad_name, parse_users, with_user, without_user};
use crate::files;
use crate::router::RouterError;
use crate::router::enrol::passwords;
use crate::router::registry::{Endpoint, Registry, sha256};
use crate::terminal::password::Source;
use crate::terminal::{Colour, Terminal};
use clap::Subcommand;
use ipnet::Ipv6Net;
use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Hashes of passwords are for their owner only.
const MODE: u32 = 0o600;

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Show who may enrol, and what they have
    List {
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Give a user a new password, and make the user if there is none of that name; network and most addresses stay unless
    /// they are given
    Set {
        /// The user
        #[arg(value_parser = name)]
        name: String,
        /// The password is good for one enrolment
        #[arg(long)]
        once: bool,
        /// Where the user's addresses come from, instead of [enrol] network
        #[arg(long, value_name = "PREFIX/64", value_parser = network)]
        network: Option<Ipv6Net>,
        /// The most addresses that are the user's at the same time
        #[arg(long, value_name = "N")]
        max: Option<u32>,
        /// Take the password from the first line of this file (- is standard input), instead of asking on the terminal
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Let a user log in no more. What the user has enrolled stays: `endpoints revoke` ends that
    Remove {
        /// The user
        #[arg(value_parser = name)]
        name: String,
    },
}

fn name(text: &str) -> Result<String, &'static str> {
    bad_name(text).map_or_else(|| Ok(text.to_owned()), Err)
}

fn network(text: &str) -> Result<Ipv6Net, &'static str> {
    let network = text.parse().ok().filter(|net: &Ipv6Net| net.prefix_len() == 64 && net.trunc() == *net);
    network.ok_or("it is no IPv6 network of length 64, such as fd00:8f80:1::/64")
}

pub fn run(config: &config::Router, verb: Verb) -> Result<(), RouterError> {
    let enrol = config.enrol.as_ref().ok_or(RouterError::NoInterface)?;
    let registry = Registry::new(&config.endpoints_dir);
    match verb {
        Verb::List { json } => list(enrol, &registry, json),
        Verb::Set { name, once, network, max, password_file } => {
            let password = Source::new(password_file).read_new(&format!("New password of {name}: "))?;
            let hash = passwords::hash(password.as_bytes()).map_err(|source| RouterError::Hash { source })?;
            change(config, enrol, |text| {
                let (users, _) = parse_users(&enrol.users_file, text);
                let before = users.into_iter().find(|user| user.name == name);
                let (old_network, old_max) = before.map_or((None, DEFAULT_MAX), |user| (user.network, user.max));
                let (network, max) = (network.or(old_network), max.unwrap_or(old_max));
                Ok(with_user(text, &User { name: name.clone(), hash, network, once, max }))
            })
        }
        Verb::Remove { name } => {
            change(config, enrol, |text| {
                without_user(text, &name).ok_or_else(|| RouterError::NoUser { name: name.clone() })
            })?;
            let left = registry.list()?.iter().filter(|endpoint| is_of(endpoint, &name)).count();
            if left > 0 {
                print(&format!(
                    "{left} endpoints of {name} stay enrolled; `enftun-router endpoints list` shows them\n"
                ));
            }
            Ok(())
        }
    }
}

fn is_of(endpoint: &Endpoint, name: &str) -> bool {
    endpoint.user.as_deref() == Some(name) && endpoint.revoked.is_none()
}

fn list(enrol: &RouterEnrol, registry: &Registry, as_json: bool) -> Result<(), RouterError> {
    let (users, findings) = parse_users(&enrol.users_file, &read(&enrol.users_file)?);
    for finding in findings {
        eprintln!("{finding}");
    }
    let endpoints = registry.list()?;
    let rows = users.iter().map(|user| Row::new(user, enrol, &endpoints));
    if as_json {
        let users: Vec<_> = rows.map(|row| row.document()).collect();
        print(&format!("{:#}\n", json!({ "schema": 1, "users": users })));
    } else if !users.is_empty() {
        let header = ["USER", "NETWORK", "PASSWORD", "ENDPOINTS", "MOST"];
        let rows = rows.map(|row| row.cells().map(Into::into)).collect();
        let lines = Terminal::of_stdout(Colour::Auto).table(header, rows);
        lines.iter().for_each(|line| print(&format!("{line}\n")));
    }
    Ok(())
}

/// What is shown of a user.
struct Row<'a> {
    user: &'a User,
    network: Ipv6Net,
    used: bool,
    endpoints: usize,
}

impl<'a> Row<'a> {
    fn new(user: &'a User, enrol: &RouterEnrol, endpoints: &[Arc<Endpoint>]) -> Self {
        let password = sha256(user.hash.as_bytes());
        Self {
            user,
            network: user.network.unwrap_or(enrol.network),
            used: endpoints.iter().any(|endpoint| endpoint.used.contains(&password)),
            endpoints: endpoints.iter().filter(|endpoint| is_of(endpoint, &user.name)).count(),
        }
    }

    fn document(&self) -> Value {
        json!({
            "name": self.user.name,
            "network": self.network.to_string(),
            "once": self.user.once,
            "used": self.used,
            "endpoints": self.endpoints,
            "max": self.user.max,
        })
    }

    fn cells(&self) -> [String; 5] {
        let password = match (self.user.once, self.used) {
            (false, _) => "lasting",
            (true, false) => "once",
            (true, true) => "used up",
        };
        let Self { user, network, endpoints, .. } = self;
        [user.name.clone(), network.to_string(), password.to_owned(), endpoints.to_string(), user.max.to_string()]
    }
}

/// Replaces the file by what `edit` makes of it, while nobody else does.
fn change(
    config: &config::Router,
    enrol: &RouterEnrol,
    edit: impl FnOnce(&str) -> Result<String, RouterError>,
) -> Result<(), RouterError> {
    let file = &enrol.users_file;
    let failed = |source| RouterError::Write { file: file.clone(), source };
    let _lock = lock(file).map_err(failed)?;
    let text = edit(&read(file)?)?;
    // Of whose it was; a first one is for the router, as its other files are.
    let state = config.endpoints_dir.parent();
    let mut like =
        [Some(file.as_path()), Some(&config.endpoints_dir), state, Some(&config.key_file)].into_iter().flatten();
    let like = like.find(|path| path.exists()).unwrap_or(file);
    files::replace_like(file, text.as_bytes(), MODE, like).map_err(failed)
}

fn read(file: &Path) -> Result<String, RouterError> {
    match std::fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        text => text.map_err(|source| RouterError::Read { file: file.to_owned(), source }),
    }
}

/// Beside the file, for the file itself is replaced.
fn lock(file: &Path) -> io::Result<Flock<File>> {
    let mut name = std::ffi::OsString::from(".");
    name.push(file.file_name().unwrap_or_default());
    name.push(".lock");
    let mut options = OpenOptions::new();
    let lock = options.write(true).create(true).truncate(false).mode(MODE).open(file.with_file_name(name))?;
    Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error.into())
}
