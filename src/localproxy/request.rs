//! What the options mean together: the judged values of the command, and what there is to warn of. Nothing is read here but
//! the layers.

use super::UsageError;
use super::options::{Layers, Origin, Said};
use crate::config::{self, Application, Compat, Mode};
use crate::tunnel::aws::tokens::{TokenError, Tokens};
use log::LevelFilter;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Longest path, endpoint and service id, in bytes.
const LONGEST_PATH: usize = 4096;
const LONGEST_ENDPOINT: usize = 253;
const LONGEST_SERVICE: usize = 128;

/// What is asked for, judged.
pub struct Request {
    /// Which end this is.
    pub mode: Mode,
    /// What `-s` or `-d` says.
    pub services: Given,
    /// The access token, and the client token if there is one. None is made: it would not outlive the process.
    pub tokens: Tokens,
    /// Where the service is.
    pub target: Target,
    /// `-b`.
    pub bind: Option<String>,
    /// `-c`; absolute.
    pub capath: Option<PathBuf>,
    /// Not `-k`.
    pub verify: bool,
    /// `-y`.
    pub compat: Compat,
    /// `--config-dir`.
    pub config_dir: Option<PathBuf>,
    /// `--settings-json`.
    pub settings: Option<PathBuf>,
    /// A line for each thing that is probably not what was meant.
    pub warnings: Vec<String>,
}

/// What is said about the services on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given {
    /// Nothing: the port mapping files say it.
    Nothing,
    /// One port or target for the only service.
    Only(Application),
    /// A port or target for each.
    Named(BTreeMap<String, Application>),
}

/// Where the service is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The one of this region.
    Region(String),
    /// Host and port.
    Endpoint(String, u16),
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("mode", &self.mode).field("target", &self.target).finish_non_exhaustive()
    }
}

/// How much is logged, from the number of `--verbose`.
pub fn verbosity(layers: &Layers) -> Result<LevelFilter, UsageError> {
    let Some(said) = layers.get("verbose") else { return Ok(LevelFilter::Info) };
    let level: u16 =
        said.value.parse().map_err(|_| said.wrong(format!("{:?} is not a number from 0 to 65535", said.value)))?;
    Ok(match level {
        0 => LevelFilter::Off,
        1 | 2 => LevelFilter::Error,
        3 => LevelFilter::Warn,
        4 => LevelFilter::Info,
        5 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    })
}

/// The file of `--export-default-settings`.
pub fn export(layers: &Layers) -> Result<Option<PathBuf>, UsageError> {
    layers.get("export-default-settings").map(|said| path(&said)).transpose()
}

impl Request {
    /// Judges what is said. The first mistake is told.
    pub fn new(layers: &Layers) -> Result<Self, UsageError> {
        let mut warnings = Vec::new();
        let target = target(layers)?;
        let mode = mode(layers)?;
        let services = match (layers.get("source-listen-port"), layers.get("destination-app")) {
            (Some(said), _) | (_, Some(said)) => services(&said, mode, &mut warnings)?,
            (None, None) => Given::Nothing,
        };
        let tokens = tokens(layers)?;
        for said in ["access-token", "client-token"].into_iter().filter_map(|long| layers.get(long)) {
            if said.origin == Origin::CommandLine {
                warnings.push(format!(
                    "{} stands on the command line, which every user of this host can read: let the environment or a file say it",
                    said.name()
                ));
            }
        }
        let compat = match layers.get("destination-client-type") {
            None => Compat::V3,
            Some(said) => compat(&said, mode, &mut warnings),
        };
        let paths = |long| layers.get(long).map(|said| path(&said)).transpose();
        Ok(Self {
            mode,
            services,
            tokens,
            target,
            bind: layers.get("local-bind-address").map(|said| bind(&said)).transpose()?,
            capath: paths("capath")?,
            verify: layers.get("no-ssl-host-verify").is_none(),
            compat,
            config_dir: paths("config-dir")?,
            settings: paths("settings-json")?,
            warnings,
        })
    }
}

/// The tokens, wherever they are said. What is wrong with one is told without it.
pub fn tokens(layers: &Layers) -> Result<Tokens, UsageError> {
    let Some(access) = layers.get("access-token") else { return Err(UsageError::NoToken) };
    let client = layers.get("client-token");
    Tokens::new(access.value.to_owned(), client.map(|said| said.value.to_owned())).map_err(|source| {
        let wrong = client.filter(|_| matches!(source, TokenError::Client)).unwrap_or(access);
        UsageError::Token { option: wrong.name(), source }
    })
}

/// Region and endpoint exclude each other, wherever they are said.
fn target(layers: &Layers) -> Result<Target, UsageError> {
    match (layers.get("region"), layers.get("proxy-endpoint")) {
        (Some(region), Some(endpoint)) => Err(UsageError::Both {
            one: region.name(),
            other: endpoint.name(),
            why: "both say where the service is; leave one of them out",
        }),
        (Some(said), None) => region(&said).map(Target::Region),
        (None, Some(said)) => endpoint(&said),
        (None, None) => Err(UsageError::NoTarget),
    }
}

fn region(said: &Said<'_>) -> Result<String, UsageError> {
    config::parse_region(said.value).map_err(|why| said.wrong(why))
}

fn endpoint(said: &Said<'_>) -> Result<Target, UsageError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".:[]-".contains(&byte);
    if said.value.len() > LONGEST_ENDPOINT || !said.value.bytes().all(fits) {
        return Err(said.wrong("is not HOST or HOST:PORT of at most 253 letters, digits, dots and dashes"));
    }
    let (host, port) = config::parse_endpoint(&said.value.to_lowercase()).map_err(|why| said.wrong(why))?;
    Ok(Target::Endpoint(host, port.unwrap_or(443)))
}

fn mode(layers: &Layers) -> Result<Mode, UsageError> {
    let (source, destination) = (layers.get("source-listen-port"), layers.get("destination-app"));
    let mode = layers.get("mode");
    let meant = match mode.map(|said| (said.value, said)) {
        None => None,
        Some(("src" | "source", _)) => Some(Mode::Source),
        Some(("dst" | "destination", _)) => Some(Mode::Destination),
        Some((_, said)) => return Err(said.wrong(format!("{:?} is not src, source, dst or destination", said.value))),
    };
    let against = |said: Said<'_>, other: Option<Said<'_>>, why| {
        let other = other.map(|other| other.name()).unwrap_or_default();
        Err(UsageError::Both { one: said.name(), other, why })
    };
    match (source, destination, meant) {
        (Some(source), Some(_), _) => against(
            source,
            destination,
            "one is for source mode and the other for destination mode; leave one of them out",
        ),
        (Some(source), None, Some(Mode::Destination)) => {
            against(source, mode, "a destination does not listen; say --destination-app, or --mode source")
        }
        (None, Some(destination), Some(Mode::Source)) => against(
            destination,
            mode,
            "a source does not connect to applications; say --source-listen-port, or --mode destination",
        ),
        (Some(_), ..) => Ok(Mode::Source),
        (_, Some(_), _) => Ok(Mode::Destination),
        (None, None, Some(mode)) => Ok(mode),
        (None, None, None) => Err(UsageError::NoMode),
    }
}

/// One port or target, or `SERVICE=…` for each. Of what is said twice the first holds.
fn services(said: &Said<'_>, mode: Mode, warnings: &mut Vec<String>) -> Result<Given, UsageError> {
    let items: Vec<&str> = said.value.split(',').map(str::trim).collect();
    // A path may have an = in it, too; a service has no slash.
    let split = |item| str::split_once(item, '=').filter(|(service, _)| !service.contains('/'));
    if let [item] = items.as_slice()
        && split(item).is_none()
    {
        return Ok(Given::Only(application(item, mode).map_err(|why| said.wrong(why))?));
    }
    let mut services = BTreeMap::new();
    for item in items {
        let Some((service, target)) = split(item) else {
            return Err(said.wrong(format!("has {item:?} beside others, and each of several must be SERVICE=…")));
        };
        let service = service.trim();
        self::service(service).map_err(|why| said.wrong(why))?;
        let application = application(target.trim(), mode).map_err(|why| said.wrong(why))?;
        if services.contains_key(service) {
            warnings.push(format!("{} says {service} more than once; the first holds", said.name()));
            continue;
        }
        services.insert(service.to_owned(), application);
    }
    Ok(Given::Named(services))
}

/// Whether a service may be called so; if not, why.
pub fn service(name: &str) -> Result<(), String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
    if name.is_empty() || name.len() > LONGEST_SERVICE || !name.bytes().all(fits) {
        return Err(format!("has {name:?}, and a service is 1 to 128 letters, digits and . _ : -"));
    }
    Ok(())
}

/// A port of a source, a target of a destination, or the path of a Unix socket; if it is none, why.
pub fn application(text: &str, mode: Mode) -> Result<Application, String> {
    if text.contains('/') {
        let path = std::path::absolute(text).map_err(|error| format!("{text:?} is no path: {error}"))?;
        return config::parse_application(&path.to_string_lossy());
    }
    if mode == Mode::Source && text == "0" {
        return Err("has the port 0; for a free port leave --source-listen-port out and say --mode source".to_owned());
    }
    match config::parse_application(text)? {
        Application::Tcp { port: 0, .. } => Err(format!("has {text:?}, and a port is a number from 1 to 65535")),
        Application::Tcp { host: Some(_), .. } if mode == Mode::Source => {
            Err(format!("has {text:?}, and a source listens on a port (its address is --local-bind-address) or a path"))
        }
        application => Ok(application),
    }
}

/// The reference's way: what it does not know, it takes for V3.
fn compat(said: &Said<'_>, mode: Mode, warnings: &mut Vec<String>) -> Compat {
    let compat = match said.value {
        "V1" => Compat::V1,
        "V2" => Compat::V2,
        "V3" => Compat::V3,
        other => {
            warnings.push(format!("{} is {other:?} and not V1 or V2; the destination is taken for V3", said.name()));
            Compat::V3
        }
    };
    if mode == Mode::Destination && compat != Compat::V3 {
        warnings.push(format!("{} is for a source; a destination finds out what the source speaks", said.name()));
    }
    compat
}

fn bind(said: &Said<'_>) -> Result<String, UsageError> {
    // What an address may be that is listened on differs from what can be reached.
    let text = said.value.trim_start_matches('[').trim_end_matches(']');
    if text.parse::<std::net::IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    match config::parse_endpoint(said.value) {
        Ok((host, None)) => Ok(host),
        Ok((_, Some(_))) => Err(said.wrong("has a port; only an address or a name belongs here")),
        Err(why) => Err(said.wrong(why)),
    }
}

fn path(said: &Said<'_>) -> Result<PathBuf, UsageError> {
    let judged = match said.value {
        "" => Err("is empty; write a path".to_owned()),
        text if text.len() > LONGEST_PATH => Err(format!("is longer than {LONGEST_PATH} bytes")),
        text if text.contains('\0') => Err("has a zero byte in it".to_owned()),
        text => std::path::absolute(Path::new(text)).map_err(|error| error.to_string()),
    };
    judged.map_err(|why| said.wrong(why))
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
