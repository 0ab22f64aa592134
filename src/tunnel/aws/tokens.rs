//! The tokens that a tunnel is opened with, where they come from, and those that are kept here: tokens that took the place of the
//! configured ones, and client tokens that were made. No token is ever in an error or in what is printed.
//!
//! ```text
//! credential NAME.token, or aws.token_file, or the environment --> configured --\
//!                                              STATE/tokens/NAME.json: rotated ----> the access token
//! beside it, or aws.client_token_file, or STATE/tokens/NAME.json: made ------------> its client token
//! ```
//!
//! Without a client token the service takes an access token once. So one is made for each access token that has none, and is
//! on disk before anybody hears of it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::{env, fmt, fs};

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::config;
use crate::error::{Class, chain};
use crate::files;
use crate::identity::Secret;
use crate::paths::DAEMON_USER;
use crate::state::{Failure, Reason};

/// The environment variable with the access token.
pub const ACCESS_VARIABLE: &str = "AWSIOT_TUNNEL_ACCESS_TOKEN";
/// The environment variable with the client token.
pub const CLIENT_VARIABLE: &str = "AWSIOT_TUNNEL_CLIENT_TOKEN";
/// No text with two tokens in it is longer, bytes.
pub const LIMIT: usize = 8192;

/// No access token is longer, bytes.
const LONGEST: usize = 4096;
/// So many made client tokens are kept: somebody may go back to an access token from before.
const MADE: usize = 8;
const VERSION: u32 = 1;

/// Why there are no tokens to use, or why they cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Nothing between the quotes, or nothing in the first line.
    #[error("the access token is empty")]
    Empty,
    /// Longer than the service's own limit.
    #[error("the access token is longer than {LONGEST} characters")]
    TooLong,
    /// It cannot be said in a request.
    #[error("the access token has a character in it that no token has: copy it again, as a whole and nothing else")]
    Character,
    /// Not what the service asks for.
    #[error("the client token is not 32 to 128 letters, digits and hyphens: a UUID is best")]
    Client,
    /// Not an access token and a client token.
    #[error("there is more than an access token in the first line and a client token in the second")]
    MoreLines,
    /// They are wrong, in a place that has a name.
    #[error("cannot use {place}")]
    In {
        /// Which place.
        place: String,
        /// What is wrong.
        source: Box<TokenError>,
    },
    /// A file is there, or has to be, and cannot be read.
    #[error("cannot read {place}")]
    Read {
        /// Which file.
        place: String,
        /// What the system says.
        source: io::Error,
    },
    /// None anywhere.
    #[error(
        "tunnel {tunnel} has no access token: {looked}; write one there, or give it with `enftunctl rotate {tunnel}`"
    )]
    None {
        /// Which tunnel.
        tunnel: String,
        /// Where it could have been.
        looked: String,
    },
    /// What has to outlive the program cannot be written.
    #[error("cannot keep the tokens in {}", path.display())]
    Keep {
        /// Where.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// No client token can be made.
    #[error("the system gives no random bytes to make a client token of")]
    NoRandom,
}

impl TokenError {
    /// Other tokens mend it, unless the disk is what is wrong.
    pub fn class(&self) -> Class {
        match self {
            Self::Keep { .. } | Self::NoRandom => Class::Environment,
            _ => Class::Credentials,
        }
    }
}

impl From<&TokenError> for Failure {
    fn from(error: &TokenError) -> Self {
        Self::new(Reason::CredentialsMissing, error.class(), chain(error))
    }
}

/// An access token, and the client token that binds it to this host. They are overwritten when they go.
#[derive(Clone, PartialEq, Eq)]
pub struct Tokens {
    access: Secret,
    client: Option<Secret>,
}

impl Tokens {
    /// Judges them by what a request can carry.
    ///
    /// # Errors
    /// One of them can be no token.
    pub fn new(access: String, client: Option<String>) -> Result<Self, TokenError> {
        let (access, client) = (Secret::new(access), client.map(Secret::new));
        let text = access.expose();
        if text.is_empty() {
            return Err(TokenError::Empty);
        }
        if text.len() > LONGEST {
            return Err(TokenError::TooLong);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError::Character);
        }
        let fits = |client: &Secret| {
            let text = client.expose();
            (32..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        if !client.as_ref().is_none_or(fits) {
            return Err(TokenError::Client);
        }
        Ok(Self { access, client })
    }

    /// Reads what a file or a descriptor holds: the access token in the first line, and the client token in the second, if there
    /// is one.
    ///
    /// # Errors
    /// It is not that.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let mut lines = text.trim_end().lines().map(str::trim);
        let access = lines.next().unwrap_or_default().to_owned();
        let client = lines.next().map(str::to_owned);
        if lines.next().is_some() {
            return Err(TokenError::MoreLines);
        }
        Self::new(access, client)
    }

    /// For the header `access-token`.
    pub fn access(&self) -> &str {
        self.access.expose()
    }

    /// For the header `client-token`.
    pub fn client(&self) -> Option<&str> {
        self.client.as_ref().map(Secret::expose)
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

/// Where a session gets its tokens.
#[derive(Clone, Debug)]
pub enum Source {
    /// These, always.
    Given(Tokens),
    /// Files, which are read for every session, and what is kept here.
    Kept(Kept),
}

impl Source {
    /// The tokens of the next session. It waits for the disk.
    ///
    /// # Errors
    /// There are none, they cannot be used, or what was made for them cannot be kept.
    pub fn load(&self) -> Result<Tokens, TokenError> {
        match self {
            Self::Given(tokens) => Ok(tokens.clone()),
            Self::Kept(kept) => kept.load(),
        }
    }
}

/// The tokens of one tunnel of the daemon.
#[derive(Clone, Debug)]
pub struct Kept {
    name: String,
    state_dir: PathBuf,
    token_file: Option<PathBuf>,
    client_token_file: Option<PathBuf>,
    credentials: Option<PathBuf>,
}

/// What is in `STATE/tokens/NAME.json`.
#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    rotated: Option<Rotated>,
    /// The newest last.
    made: Vec<Made>,
}

impl Default for Document {
    fn default() -> Self {
        Self { version: VERSION, rotated: None, made: Vec::new() }
    }
}

#[derive(Serialize, Deserialize)]
struct Rotated {
    /// SHA-256 of the configured access token that these stand for; none: none was configured.
    replaces: Option<String>,
    access_token: Secret,
    client_token: Option<Secret>,
}

#[derive(Serialize, Deserialize)]
struct Made {
    /// SHA-256 of the access token that it is for.
    of: String,
    client_token: Secret,
}

/// What the user wrote, right or wrong.
struct Configured {
    /// Of the access token.
    fingerprint: String,
    tokens: Result<Tokens, TokenError>,
}

/// One at a time reads, changes and writes a document: a session loads while the bus rotates.
static WRITER: Mutex<()> = Mutex::new(());

impl Kept {
    /// Those of this tunnel. `credentials` is [`identity::credentials_directory`](crate::identity::credentials_directory).
    pub fn new(tunnel: &config::Tunnel, state_dir: &Path, credentials: Option<&Path>) -> Self {
        let aws = tunnel.kind.aws();
        Self {
            name: tunnel.name.clone(),
            state_dir: state_dir.to_owned(),
            token_file: aws.and_then(|aws| aws.token_file.clone()),
            client_token_file: aws.and_then(|aws| aws.client_token_file.clone()),
            credentials: credentials.map(Path::to_owned),
        }
    }

    /// Every file that somebody else may put tokens into, whether it is there or not.
    pub fn files(&self) -> Vec<PathBuf> {
        [self.credential(), self.token_file.clone(), self.client_token_file.clone()].into_iter().flatten().collect()
    }

    /// From now on these are the tunnel's tokens, until others are configured. It waits for the disk.
    ///
    /// # Errors
    /// They cannot be kept, or the configured ones, for which they stand, cannot be read.
    pub fn rotate(&self, tokens: Tokens) -> Result<(), TokenError> {
        let _writer = WRITER.lock().unwrap_or_else(PoisonError::into_inner);
        let configured = self.configured(&from_environment)?;
        let mut document = self.read()?;
        document.rotated = Some(Rotated {
            replaces: configured.map(|configured| configured.fingerprint),
            access_token: tokens.access,
            client_token: tokens.client,
        });
        self.write(&document)
    }

    fn load(&self) -> Result<Tokens, TokenError> {
        self.load_beside(&from_environment)
    }

    fn load_beside(&self, environment: Environment<'_>) -> Result<Tokens, TokenError> {
        let _writer = WRITER.lock().unwrap_or_else(PoisonError::into_inner);
        let configured = self.configured(environment)?;
        let mut document = self.read()?;
        let mut changed = false;
        // What took the place of tokens that are configured no more has no place. Without any that are configured it stays.
        let of = configured.as_ref().map(|configured| &configured.fingerprint);
        if of.is_some() && document.rotated.as_ref().is_some_and(|rotated| rotated.replaces.as_ref() != of) {
            document.rotated = None;
            changed = true;
        }
        let mut tokens = match (&document.rotated, configured) {
            (Some(rotated), _) => Tokens { access: rotated.access_token.clone(), client: rotated.client_token.clone() },
            (None, Some(configured)) => configured.tokens?,
            (None, None) => return Err(self.none()),
        };
        if tokens.client.is_none() {
            tokens.client = self.configured_client(&tokens)?;
        }
        if tokens.client.is_none() {
            let of = fingerprint(tokens.access());
            let made = document.made.iter().find(|made| made.of == of).map(|made| made.client_token.clone());
            let client = made.map_or_else(
                || {
                    let client = Secret::new(uuid()?);
                    document.made.push(Made { of, client_token: client.clone() });
                    changed = true;
                    Ok(client)
                },
                Ok,
            )?;
            tokens.client = Some(client);
        }
        if changed {
            let old = document.made.len().saturating_sub(MADE);
            document.made.drain(..old);
            self.write(&document)?;
        }
        Ok(tokens)
    }

    /// The first of the places that has tokens. One that has wrong ones is never passed over for the next.
    fn configured(&self, environment: Environment<'_>) -> Result<Option<Configured>, TokenError> {
        let credential = self.credential().map(|path| (format!("the credential {}", path.display()), path));
        let file = self.token_file.clone().map(|path| (format!("the token file {}", path.display()), path));
        for (place, path) in [credential, file].into_iter().flatten() {
            if let Some(text) = self.read_secret(&place, &path)? {
                let access = text.lines().next().unwrap_or_default().trim();
                let tokens = Tokens::parse(&text).map_err(|error| error.of(place));
                return Ok(Some(Configured { fingerprint: fingerprint(access), tokens }));
            }
        }
        let Some(access) = environment(ACCESS_VARIABLE) else { return Ok(None) };
        let fingerprint = fingerprint(&access);
        let tokens = Tokens::new(access, environment(CLIENT_VARIABLE));
        let tokens = tokens.map_err(|error| error.of(format!("{ACCESS_VARIABLE} and {CLIENT_VARIABLE}")));
        Ok(Some(Configured { fingerprint, tokens }))
    }

    /// What is in `aws.client_token_file`, which has to be there.
    fn configured_client(&self, tokens: &Tokens) -> Result<Option<Secret>, TokenError> {
        let Some(path) = &self.client_token_file else { return Ok(None) };
        let place = format!("the client token file {}", path.display());
        let Some(text) = self.read_secret(&place, path)? else {
            return Err(TokenError::Read { place, source: io::ErrorKind::NotFound.into() });
        };
        let whole = Tokens::new(tokens.access().to_owned(), Some(text.trim().to_owned()));
        whole.map(|whole| whole.client).map_err(|error| error.of(place))
    }

    /// None: there is no such file.
    fn read_secret(&self, place: &str, path: &Path) -> Result<Option<Zeroizing<String>>, TokenError> {
        let failed = |source| TokenError::Read { place: place.to_owned(), source };
        // A pipe would have nobody wait for anything else.
        let file = match File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(failed(io::Error::other("it is no file")));
        }
        if metadata.mode() & 0o004 != 0 {
            log::warn!(
                ENFTUN_TUNNEL = self.name.as_str();
                "every user of this host may read {place}: chgrp {DAEMON_USER} {0} && chmod 640 {0}", path.display()
            );
        }
        // Never grown: what it grows out of stays in memory.
        let mut text = Zeroizing::new(String::with_capacity(LIMIT + 1));
        file.take(LIMIT as u64 + 1).read_to_string(&mut text).map_err(failed)?;
        if text.len() > LIMIT { Err(TokenError::TooLong.of(place.to_owned())) } else { Ok(Some(text)) }
    }

    fn credential(&self) -> Option<PathBuf> {
        self.credentials.as_ref().map(|directory| directory.join(format!("{}.token", self.name)))
    }

    fn none(&self) -> TokenError {
        let places: Vec<String> = [
            self.credential().map(|path| format!("no credential {}", path.display())),
            self.token_file.as_ref().map(|path| format!("no file {} (aws.token_file)", path.display())),
            Some(format!("no {ACCESS_VARIABLE} in the environment")),
        ]
        .into_iter()
        .flatten()
        .collect();
        TokenError::None { tunnel: self.name.clone(), looked: places.join(", ") }
    }

    fn path(&self) -> PathBuf {
        self.state_dir.join("tokens").join(format!("{}.json", self.name))
    }

    /// What is kept. A damaged file is set aside: what was in it cannot be had back.
    fn read(&self) -> Result<Document, TokenError> {
        let path = self.path();
        let failed = |source| TokenError::Read { place: path.display().to_string(), source };
        let bytes = match fs::read(&path) {
            Ok(bytes) => Zeroizing::new(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Document::default()),
            Err(error) => return Err(failed(error)),
        };
        let document = serde_json::from_slice::<Document>(&bytes).ok().filter(|document| document.version == VERSION);
        if let Some(document) = document {
            return Ok(document);
        }
        // serde quotes what it does not understand, and that may be a token.
        let aside = files::set_aside(&path).map_err(failed)?;
        log::warn!(
            ENFTUN_TUNNEL = self.name.as_str();
            "{} is damaged, or of another version, and is now {}: the configured tokens are used", path.display(), aside.display()
        );
        Ok(Document::default())
    }

    fn write(&self, document: &Document) -> Result<(), TokenError> {
        let path = self.path();
        let failed = |source| TokenError::Keep { path: path.clone(), source };
        let directory = files::directory_of(&path);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(failed)?;
        if let Ok(opened) = File::open(directory) {
            files::yield_to_owner_of(&self.state_dir, &opened);
        }
        let text = serde_json::to_vec(document).map_err(|error| failed(error.into()))?;
        files::replace(&path, &Zeroizing::new(text), 0o600).map_err(failed)
    }
}

impl TokenError {
    fn of(self, place: String) -> Self {
        Self::In { place, source: Box::new(self) }
    }
}

fn fingerprint(access_token: &str) -> String {
    HEXLOWER.encode(digest(&SHA256, access_token.as_bytes()).as_ref())
}

type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

fn from_environment(variable: &str) -> Option<String> {
    env::var(variable).ok().filter(|value| !value.is_empty())
}

/// A random UUID of version 4 (RFC 9562 section 5.4).
fn uuid() -> Result<String, TokenError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| TokenError::NoRandom)?;
    let number = u128::from_be_bytes(bytes) & !(0xf << 76 | 0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let [a, b, c, d] = [number >> 96, number >> 80, number >> 64, number >> 48];
    Ok(format!("{a:08x}-{:04x}-{:04x}-{:04x}-{:012x}", b & 0xffff, c & 0xffff, d & 0xffff, number & 0xffff_ffff_ffff))
}

#[cfg(test)]
mod tests;
