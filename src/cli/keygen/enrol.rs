//! The part of `keygen` that asks a router's interface for the address.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::timeout;

use super::{Args, KeygenError};
use crate::config::{self, Enf, EnrolUrl, Tunnel, Wanted};
use crate::dbus::client::Client;
use crate::identity::enrol::{EnrolError, Enrolled, Https, Login, Secret, Step, enrol};
use crate::identity::{NewKey, PublicKey, credentials_directory};
use crate::terminal::password::Source;
use crate::transport::dial::Options;

/// A daemon that does not answer by then is not asked whether it blocks.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whom to ask, as whom, and for what.
pub struct Interface {
    https: Https,
    url: EnrolUrl,
    login: Login,
    password_file: Option<PathBuf>,
    wanted: Wanted,
    limit: Duration,
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, from {} as {}", self.wanted, self.url, self.login.user)
    }
}

impl Interface {
    /// What the command line says, else what the tunnel's file says.
    pub fn new(args: &Args, tunnel: &Tunnel, enf: &Enf, wanted: Wanted) -> Result<Self, KeygenError> {
        let Some(config) = &enf.enrol else { return Err(KeygenError::NoEnrol { tunnel: tunnel.name.clone() }) };
        let Some(user) = args.user.clone().or_else(|| config.user.clone()) else {
            let text =
                "nobody is named who asks for the address: say --user NAME, or write user = \"NAME\" below [enrol]";
            return Err(KeygenError::Usage(text.to_owned()));
        };
        let password_file = args.password_file.clone().or_else(|| password_file(&tunnel.name, config));
        let login = Login { user, password: Secret::new(String::new()) };
        let https = Https::new(config, &tunnel.tpm)?;
        Ok(Self { https, url: config.url.clone(), login, password_file, wanted, limit: args.timeout })
    }

    /// Gets the password from where it is, or from the person who is there.
    pub fn take_password(&mut self) -> Result<(), KeygenError> {
        let file = self.password_file.clone();
        self.login.password = match file.filter(|path| path != Path::new("-")) {
            Some(path) => Secret::read(&path).map_err(EnrolError::from)?,
            None => {
                let prompt = format!("Password of {} at {}: ", self.login.user, self.url);
                let mut password = Source::new(self.password_file.clone()).read(&prompt)?;
                Secret::new(std::mem::take(&mut *password))
            }
        };
        Ok(())
    }

    /// Gets an address for the key.
    pub async fn enrol(&self, key: &NewKey) -> Result<Enrolled, KeygenError> {
        let Some(key) = PublicKey::of(key) else {
            return Err(KeygenError::Usage("this kind of key cannot be enrolled".to_owned()));
        };
        let options = Options::default();
        let enrolled = enrol(&self.url, &self.login, self.wanted, &key, async || {
            self.https.dial(&options, async |_| (), async |_| ()).await
        });
        match timeout(self.limit, enrolled).await {
            Ok(Ok(enrolled)) => Ok(enrolled),
            Ok(Err(source)) => Err(explained(source).await),
            Err(_) => Err(KeygenError::TimedOut { remote: self.url.to_string(), limit: self.limit }),
        }
    }
}

/// The file that the configuration names, or the systemd credential `TUNNEL.password` if there is one.
fn password_file(tunnel: &str, config: &config::Enrol) -> Option<PathBuf> {
    let credential = || credentials_directory().map(|directory| directory.join(format!("{tunnel}.password")));
    config.password_file.clone().or_else(|| credential().filter(|path| path.exists()))
}

/// A connection that does not come about, while tunnels of this host hold what belongs in them, may be one that they hold.
async fn explained(source: EnrolError) -> KeygenError {
    let unreachable = match &source {
        EnrolError::Resolve(_) | EnrolError::Unreachable { .. } => true,
        EnrolError::Timeout { step, .. } => *step == Step::Connect,
        _ => false,
    };
    let asked = async { Client::connect().await?.overview().await };
    if unreachable && let Ok(Ok(overview)) = timeout(PATIENCE, asked).await {
        let blocking = overview.tunnels.into_iter().filter(|tunnel| tunnel.blocking).map(|tunnel| tunnel.name);
        let blocking: Vec<_> = blocking.collect();
        if let Some(first) = blocking.first() {
            return KeygenError::Blocked { tunnels: blocking.join(", "), first: first.clone(), source: source.into() };
        }
    }
    source.into()
}
