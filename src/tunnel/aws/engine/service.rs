//! What is kept of a service: its stream, its numbers, and which of its connections the other end knows.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Conn;

/// Whether messages name their service. A session keeps to one form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    With,
    /// As v1 does.
    Without,
}

#[derive(Debug)]
pub(super) struct Service {
    /// As on the wire.
    pub name: Arc<str>,
    pub stream: Option<Stream>,
    /// The last stream that this end has reset.
    pub refused: Option<i32>,
    /// Open for the other end, by their ids there.
    pub conns: BTreeMap<u32, Conn>,
    /// Of these, those whose application still sends.
    pub live: usize,
    /// All that the engine holds, with those that only wait for their application to take the rest.
    pub held: usize,
    /// On a source: the destination has shown that it knows no connection ids, so a stream has room for one.
    pub alone: bool,
    /// On a source: the last stream that was opened.
    pub last_stream: i32,
    /// On a source: the last connection that was opened.
    pub last_connection: u32,
}

/// The current stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub id: i32,
    /// It has one connection, and messages need not say which.
    pub single: bool,
    /// How many connections it has had.
    pub opened: u64,
}

impl Stream {
    pub fn new(id: i32, single: bool) -> Self {
        Self { id, single, opened: 0 }
    }
}

impl Service {
    pub fn new(name: Arc<str>, before: &Ids) -> Self {
        let (last_stream, last_connection) = before.0.get(&name).copied().unwrap_or_default();
        Self {
            name,
            stream: None,
            refused: None,
            conns: BTreeMap::new(),
            live: 0,
            held: 0,
            alone: false,
            last_stream,
            last_connection,
        }
    }

    /// Those that the other end knows.
    pub fn open(&self) -> Vec<Conn> {
        self.conns.values().copied().collect()
    }

    /// The number of the next stream: 1 after 2^31 - 1.
    pub fn next_stream(&mut self) -> i32 {
        self.last_stream = self.last_stream.checked_add(1).unwrap_or(1);
        self.last_stream
    }

    /// The number of the next connection; none that is open.
    pub fn next_connection(&mut self) -> u32 {
        loop {
            self.last_connection = self.last_connection.checked_add(1).unwrap_or(1);
            if !self.conns.contains_key(&self.last_connection) {
                return self.last_connection;
            }
        }
    }
}

/// The last stream and connection of each service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids(BTreeMap<Arc<str>, (i32, u32)>);

impl Ids {
    pub(super) fn note(&mut self, service: &Service) {
        self.0.insert(service.name.clone(), (service.last_stream, service.last_connection));
    }
}
