//! The settings file: JSON, everything below `tunneling.proxy`, with the keys of AWS's local proxy. What is not in the file
//! keeps its default; what is unknown or means nothing here is told and ignored.

use super::request::Target;
use crate::config::{self, Host, Limits, Retry, Subprotocol};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Regions whose endpoint has another form.
const CHINA: [&str; 2] = ["cn-north-1", "cn-northwest-1"];

/// What sizes of buffers and frames have no effect on, with the value that AWS's local proxy has for it.
const WITHOUT_MEANING: [(&str, &str, &str); 7] = [
    ("message.data_length_size", "2", "the protocol has two bytes there"),
    ("message.data_frame_max_size", "65538", "a frame is as large as the protocol lets it be"),
    ("message.max_size", "65536", "a frame is as large as the protocol lets it be"),
    ("tcp.read_buffer_size", "131076", "what is read has the size that it needs"),
    ("websocket.max_frame_size", "131076", "the kernel chooses the socket's buffers"),
    ("websocket.read_buffer_size", "131076", "what is read has the size that it needs"),
    ("websocket.write_buffer_size", "131076", "what is written has the size that it needs"),
];

/// Shortest time between pings.
const SHORTEST_PERIOD: i64 = 100;
/// Longest time that anything here can be set to: a day.
const LONGEST: i64 = 86_400_000;
/// What stands before a region.
const OVERRIDE: &str = "region_endpoint_overrides.";

/// The values of the settings file.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `default_bind_address`: where a source listens without `-b`.
    pub bind: String,
    /// `endpoint_format`: `%s` is the region.
    pub endpoint_format: String,
    /// `region_endpoint_overrides`: host, or host and port, by region.
    pub overrides: BTreeMap<String, String>,
    /// `message` and `tcp`.
    pub limits: Limits,
    /// `websocket.ping_period_ms`.
    pub ping_period: Duration,
    /// `websocket.retry_delay_ms`: the first delay.
    pub retry_delay: Duration,
    /// `websocket.connect_retry_count`; none: for ever.
    pub connect_retries: Option<u32>,
    /// `websocket.reconnect_on_data_error`.
    pub reconnect_on_data_error: bool,
    /// `websocket.subprotocol`.
    pub subprotocol: Subprotocol,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            bind: "localhost".to_owned(),
            endpoint_format: "data.tunneling.iot.%s.amazonaws.com".to_owned(),
            overrides: CHINA.map(|region| (region.to_owned(), config::region_host(region))).into(),
            limits: Limits::default(),
            ping_period: Duration::from_secs(20),
            retry_delay: Duration::from_millis(2500),
            connect_retries: None,
            reconnect_on_data_error: true,
            subprotocol: Subprotocol::V3,
        }
    }
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read the settings in {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no JSON.
    #[error("{} is no JSON that can be read", path.display())]
    Json {
        /// Which.
        path: PathBuf,
        /// Where, and why.
        source: serde_json::Error,
    },
    /// A value.
    #[error("{}: {key} {why}", path.display())]
    Value {
        /// Which file.
        path: PathBuf,
        /// Below `tunneling.proxy`.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// The region has no host that can be.
    #[error("the endpoint of the region {region}, {host:?}, {why}")]
    Endpoint {
        /// The region.
        region: String,
        /// What the settings make of it.
        host: String,
        /// What is wrong.
        why: String,
    },
    /// The defaults cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Settings {
    /// Reads a file, and gives a line for each thing in it that is ignored.
    pub fn read(path: &Path) -> Result<(Self, Vec<String>), SettingsError> {
        let text = fs::read_to_string(path).map_err(|source| SettingsError::Read { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<(Self, Vec<String>), SettingsError> {
        let json = |source| SettingsError::Json { path: path.to_owned(), source };
        let tree: Value = serde_json::from_str(text.trim_start_matches('\u{feff}')).map_err(json)?;
        let mut given = Given { path, values: BTreeMap::new(), warnings: Vec::new() };
        match tree.pointer("/tunneling/proxy") {
            Some(tree) => flatten("", tree, &mut given.values),
            None => given.warn("has no tunneling.proxy in it, so nothing of it is used".to_owned()),
        }
        let settings = given.settings()?;
        Ok((settings, given.warnings))
    }

    /// Writes the defaults where `path` says.
    pub fn export(path: &Path) -> Result<(), SettingsError> {
        let text = format!("{:#}\n", Self::default().json());
        fs::write(path, text).map_err(|source| SettingsError::Write { path: path.to_owned(), source })
    }

    fn json(&self) -> Value {
        let count = |count: Option<u32>| count.map_or(-1, i64::from);
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        json!({ "tunneling": { "proxy": {
            "default_bind_address": self.bind,
            "endpoint_format": self.endpoint_format,
            "region_endpoint_overrides": self.overrides,
            "message": { "max_payload_size": self.limits.max_payload },
            "tcp": {
                "connection_retry_count": count(self.limits.retries),
                "connection_retry_delay_ms": milliseconds(self.limits.retry_delay),
                "max_active_connections": self.limits.max_connections,
                "write_buffer_size": self.limits.queue,
            },
            "websocket": {
                "ping_period_ms": milliseconds(self.ping_period),
                "retry_delay_ms": milliseconds(self.retry_delay),
                "connect_retry_count": count(self.connect_retries),
                "reconnect_on_data_error": self.reconnect_on_data_error,
                "subprotocol": self.subprotocol.as_str(),
            },
        } } })
    }

    /// Where the service is.
    pub fn host(&self, target: &Target) -> Result<Host, SettingsError> {
        let region = match target {
            Target::Endpoint(host, port) => return Ok(Host::direct(host, *port)),
            Target::Region(region) => region,
        };
        let host = self.overrides.get(region).cloned().unwrap_or_else(|| self.endpoint_format.replace("%s", region));
        match config::parse_endpoint(&host) {
            Ok((host, port)) => Ok(Host::direct(host, port.unwrap_or(443))),
            Err(why) => Err(SettingsError::Endpoint { region: region.clone(), host, why }),
        }
    }

    /// Back-off between sessions: from the delay of the settings on.
    pub fn retry(&self) -> Retry {
        let usual = Retry::default();
        Retry { first: self.retry_delay, max: usual.max.max(self.retry_delay), ..usual }
    }
}

/// Every value that is no table, by its dotted path.
fn flatten(path: &str, tree: &Value, values: &mut BTreeMap<String, Value>) {
    match tree {
        Value::Object(entries) => {
            for (key, value) in entries {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(&path, value, values);
            }
        }
        value => {
            values.insert(path.to_owned(), value.clone());
        }
    }
}

/// What stands in the file, and was not asked for yet.
struct Given<'a> {
    path: &'a Path,
    values: BTreeMap<String, Value>,
    warnings: Vec<String>,
}

impl Given<'_> {
    fn settings(&mut self) -> Result<Settings, SettingsError> {
        let usual = Settings::default();
        let mut limits = usual.limits;
        // The name under which it is documented is misspelt.
        for key in ["message.may_payload_size", "message.max_payload_size"] {
            limits.max_payload = self.size(key, 1..=Limits::MAX_PAYLOAD)?.unwrap_or(limits.max_payload);
        }
        limits.retries = self.count("tcp.connection_retry_count")?.unwrap_or(limits.retries);
        limits.retry_delay = self.time("tcp.connection_retry_delay_ms", 1)?.unwrap_or(limits.retry_delay);
        limits.max_connections = self.size("tcp.max_active_connections", 1..=65_535)?.unwrap_or(limits.max_connections);
        limits.queue = self.size("tcp.write_buffer_size", 4096..=1 << 30)?.unwrap_or(limits.queue);
        let mut overrides = usual.overrides;
        let regions: Vec<String> = self.values.keys().filter(|key| key.starts_with(OVERRIDE)).cloned().collect();
        for key in regions {
            if let (Some(host), Some(region)) = (self.text(&key)?, key.strip_prefix(OVERRIDE)) {
                overrides.insert(region.to_owned(), host);
            }
        }
        let settings = Settings {
            bind: self.text("default_bind_address")?.unwrap_or(usual.bind),
            endpoint_format: self.text("endpoint_format")?.unwrap_or(usual.endpoint_format),
            overrides,
            limits,
            ping_period: self.time("websocket.ping_period_ms", SHORTEST_PERIOD)?.unwrap_or(usual.ping_period),
            retry_delay: self.time("websocket.retry_delay_ms", 1)?.unwrap_or(usual.retry_delay),
            connect_retries: self.count("websocket.connect_retry_count")?.unwrap_or(usual.connect_retries),
            reconnect_on_data_error: self
                .boolean("websocket.reconnect_on_data_error")?
                .unwrap_or(usual.reconnect_on_data_error),
            subprotocol: self.subprotocol("websocket.subprotocol")?.unwrap_or(usual.subprotocol),
        };
        for (key, usual, why) in WITHOUT_MEANING {
            if self.text(key)?.is_some_and(|text| text != usual) {
                self.warn(format!("says {key}, which changes nothing here: {why}"));
            }
        }
        for key in std::mem::take(&mut self.values).into_keys() {
            self.warn(format!("says {key}, which is no setting that is known, and is ignored"));
        }
        Ok(settings)
    }

    fn warn(&mut self, what: String) {
        self.warnings.push(format!("{} {what}", self.path.display()));
    }

    fn wrong<T>(&self, key: &str, why: String) -> Result<T, SettingsError> {
        Err(SettingsError::Value { path: self.path.to_owned(), key: key.to_owned(), why })
    }

    /// The value as text, whatever it is: what AWS's local proxy writes are strings.
    fn text(&mut self, key: &str) -> Result<Option<String>, SettingsError> {
        Ok(match self.values.remove(key) {
            None => None,
            Some(Value::String(text)) => Some(text.trim().to_owned()),
            Some(Value::Number(number)) => Some(number.to_string()),
            Some(Value::Bool(value)) => Some(value.to_string()),
            Some(other) => {
                return self.wrong(key, format!("is {other}, and a number, a word or a string belongs there"));
            }
        })
    }

    fn integer(&mut self, key: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, SettingsError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        match text.parse::<i64>() {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            _ => self.wrong(
                key,
                format!("is {text:?}, and a number from {} to {} belongs there", range.start(), range.end()),
            ),
        }
    }

    fn size(&mut self, key: &str, range: RangeInclusive<usize>) -> Result<Option<usize>, SettingsError> {
        let range = i64::try_from(*range.start()).unwrap_or(0)..=i64::try_from(*range.end()).unwrap_or(i64::MAX);
        Ok(self.integer(key, range)?.and_then(|number| usize::try_from(number).ok()))
    }

    fn time(&mut self, key: &str, least: i64) -> Result<Option<Duration>, SettingsError> {
        let milliseconds = self.integer(key, least..=LONGEST)?.and_then(|number| u64::try_from(number).ok());
        Ok(milliseconds.map(Duration::from_millis))
    }

    /// How often something is tried again: -1 is for ever.
    fn count(&mut self, key: &str) -> Result<Option<Option<u32>>, SettingsError> {
        Ok(self.integer(key, -1..=u32::MAX.into())?.map(|count| u32::try_from(count).ok()))
    }

    fn boolean(&mut self, key: &str) -> Result<Option<bool>, SettingsError> {
        match self.text(key)?.as_deref() {
            None => Ok(None),
            Some("true" | "1") => Ok(Some(true)),
            Some("false" | "0") => Ok(Some(false)),
            Some(other) => self.wrong(key, format!("is {other:?}, and true or false belongs there")),
        }
    }

    fn subprotocol(&mut self, key: &str) -> Result<Option<Subprotocol>, SettingsError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        let all = [Subprotocol::V1, Subprotocol::V2, Subprotocol::V3];
        match all.into_iter().find(|subprotocol| subprotocol.as_str() == text) {
            Some(subprotocol) => Ok(Some(subprotocol)),
            None => self.wrong(
                key,
                format!("is {text:?}, and one of aws.iot.securetunneling-1.0, -2.0 and -3.0 belongs there"),
            ),
        }
    }
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
