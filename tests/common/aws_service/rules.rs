//! Who may send what: each end of a tunnel is held to it, message by message.

use super::message::{
    CONNECTION_RESET, CONNECTION_START, DATA, MAX_PAYLOAD, Message, SERVICE_IDS, SESSION_RESET, STREAM_RESET,
    STREAM_START,
};
use super::state::Mode;
use std::collections::{HashMap, HashSet};

/// What one session of one end has said so far.
#[derive(Debug)]
pub struct Rules {
    mode: Mode,
    /// 1 to 3.
    version: usize,
    services: Vec<String>,
    /// Messages name a service. Not both in one session of a source.
    named: Option<bool>,
    spoken: HashMap<String, Spoken>,
}

#[derive(Debug, Default)]
struct Spoken {
    /// The last stream and connection that this end began, or that it was told of.
    stream: i32,
    connection: u32,
    /// What exists: streams and connections that this end began, or that it was told of.
    known: HashSet<(i32, u32)>,
    /// What this end has ended itself.
    ended: HashSet<(i32, u32)>,
}

impl Rules {
    pub fn new(mode: Mode, version: usize, services: &[String]) -> Self {
        Self { mode, version, services: services.to_vec(), named: None, spoken: HashMap::new() }
    }

    /// This message went to the end: it may answer to it from now on.
    pub fn told(&mut self, message: &Message) {
        if self.mode == Mode::Destination && matches!(message.kind, STREAM_START | CONNECTION_START) {
            let spoken = self.spoken.entry(message.service.clone()).or_default();
            if message.kind == STREAM_START {
                spoken.known.retain(|(stream, _)| *stream != message.stream);
                spoken.ended.retain(|(stream, _)| *stream != message.stream);
            }
            spoken.known.insert((message.stream, message.connection));
        }
    }

    /// Judges what the end has sent.
    pub fn check(&mut self, message: &Message) -> Result<(), String> {
        let kind = message.kind;
        let connections = matches!(kind, CONNECTION_START | CONNECTION_RESET);
        if matches!(kind, SERVICE_IDS | SESSION_RESET) {
            return Err("only the service sends that".into());
        }
        if !(DATA..=CONNECTION_RESET).contains(&kind) {
            return Err("there is no such type".into());
        }
        if message.ignorable || !message.services.is_empty() {
            return Err("a field that does not belong there".into());
        }
        if message.payload.len() > MAX_PAYLOAD || message.payload.is_empty() != (kind != DATA) {
            return Err(format!("{} bytes of payload", message.payload.len()));
        }
        if message.stream <= 0 {
            return Err(format!("stream {}", message.stream));
        }
        if connections && message.connection == 0 {
            return Err("connection 0".into());
        }
        if self.version < 3 && (message.connection != 0 || connections)
            || self.version < 2 && !message.service.is_empty()
        {
            return Err(format!("version {} has no such thing", self.version));
        }
        let named = !message.service.is_empty();
        if if named { !self.services.contains(&message.service) } else { self.services.len() > 1 } {
            return Err(format!("there is no service {:?}", message.service));
        }
        if self.mode == Mode::Source && *self.named.get_or_insert(named) != named {
            return Err("with and without a service's name in one session".into());
        }
        let spoken = self.spoken.entry(message.service.clone()).or_default();
        let this = (message.stream, message.connection);
        match (self.mode, kind) {
            (Mode::Destination, STREAM_START | CONNECTION_START) => return Err("a destination begins nothing".into()),
            (Mode::Source, STREAM_START) => {
                let next = if spoken.stream == i32::MAX { 1 } else { spoken.stream + 1 };
                // A session may go on with the numbers of the one before.
                if spoken.stream != 0 && message.stream != next {
                    return Err(format!("the next stream is {next}"));
                }
                spoken.stream = message.stream;
                spoken.begins(message)?;
            }
            (Mode::Source, CONNECTION_START) => {
                if message.stream != spoken.stream {
                    return Err(format!("the stream is {}", spoken.stream));
                }
                if spoken.ended.contains(&(message.stream, 0)) {
                    return Err("it has ended the stream".into());
                }
                spoken.begins(message)?;
            }
            (_, STREAM_RESET) => {
                if !spoken.known.iter().any(|(stream, _)| *stream == message.stream) {
                    return Err("the stream never was".into());
                }
                spoken.ended.insert((message.stream, 0));
            }
            (_, kind) => {
                if !spoken.known.contains(&this) {
                    return Err("the connection never was".into());
                }
                if spoken.ended.contains(&this) || spoken.ended.contains(&(message.stream, 0)) {
                    return Err("it has ended the connection itself".into());
                }
                if kind == CONNECTION_RESET {
                    spoken.ended.insert(this);
                }
            }
        }
        Ok(())
    }
}

impl Spoken {
    fn begins(&mut self, message: &Message) -> Result<(), String> {
        if message.connection != 0 && self.connection != 0 && message.connection != self.connection + 1 {
            return Err(format!("the next connection is {}", self.connection + 1));
        }
        if self.known.iter().any(|(_, before)| (*before == 0) != (message.connection == 0)) {
            return Err("with and without a connection's number in one session".into());
        }
        self.connection = message.connection;
        self.known.insert((message.stream, message.connection));
        Ok(())
    }
}
