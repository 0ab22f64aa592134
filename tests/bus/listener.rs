//! Another program on the bus that notes every signal of the daemon, in order.

use crate::common::bus::PrivateBus;
use futures_util::StreamExt;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;
use zbus::{MatchRule, Message, MessageStream, OwnedObjectPath, OwnedVariant};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Path, interface, and the values in text form.
    Properties(String, String, BTreeMap<String, String>),
    /// Path, new, old, reason.
    State(String, String, String, String),
    /// Path and what.
    Tampered(String, String),
    /// Path and interfaces.
    Added(String, BTreeSet<String>),
    /// Path and interfaces.
    Removed(String, BTreeSet<String>),
}

pub struct Listener {
    pub connection: zbus::Connection,
    stream: MessageStream,
}

impl Listener {
    pub async fn new(bus: &PrivateBus) -> Self {
        let connection = zbus::connection::Builder::address(bus.address().as_str()).build().await.unwrap();
        Self::on(connection).await
    }

    pub async fn on(connection: zbus::Connection) -> Self {
        let rule = MatchRule::builder()
            .msg_type(zbus::message::Type::Signal)
            .path_namespace("/org/enftun/Enftun1")
            .build()
            .unwrap();
        let queue = 10_000.try_into().unwrap();
        let stream = MessageStream::for_match_rule(rule, &connection, Some(queue)).await.unwrap();
        Self { connection, stream }
    }

    /// The next signal. The deadline only ends a test that would hang.
    pub async fn next(&mut self) -> Signal {
        let message = tokio::time::timeout(Duration::from_secs(30), self.stream.next()).await.expect("no signal");
        read(&message.unwrap().unwrap())
    }

    /// Every signal up to the first that is `last`, and that one too.
    pub async fn until(&mut self, last: impl Fn(&Signal) -> bool) -> Vec<Signal> {
        let mut signals = Vec::new();
        loop {
            let signal = self.next().await;
            let done = last(&signal);
            signals.push(signal);
            if done {
                return signals;
            }
        }
    }
}

fn read(message: &Message) -> Signal {
    let header = message.header();
    let path = header.path().unwrap().to_string();
    let body = message.body();
    match header.member().unwrap().as_str() {
        "PropertiesChanged" => {
            let (interface, changed, invalidated): (String, HashMap<String, OwnedVariant>, Vec<String>) =
                body.deserialize().unwrap();
            assert!(invalidated.is_empty());
            let text = |value: OwnedVariant| zbus::Variant::from(value).to_string();
            Signal::Properties(path, interface, changed.into_iter().map(|(name, value)| (name, text(value))).collect())
        }
        "StateChanged" => {
            let (new, old, reason) = body.deserialize().unwrap();
            Signal::State(path, new, old, reason)
        }
        "Tampered" => Signal::Tampered(path, body.deserialize().unwrap()),
        "InterfacesAdded" => {
            let (path, interfaces): (OwnedObjectPath, HashMap<String, HashMap<String, OwnedVariant>>) =
                body.deserialize().unwrap();
            Signal::Added(path.to_string(), interfaces.into_keys().collect())
        }
        "InterfacesRemoved" => {
            let (path, interfaces): (OwnedObjectPath, BTreeSet<String>) = body.deserialize().unwrap();
            Signal::Removed(path.to_string(), interfaces)
        }
        other => panic!("unexpected signal {other}"),
    }
}
