//! What happens on the bus, in order and only by the daemon's own word: the sender of every signal is compared with the
//! present owner of the name, which only the bus can tell.

use super::client::{ClientError, LastError, Properties, last_error};
use super::{NAME, path};
use futures_util::{FutureExt, StreamExt};
use std::collections::HashMap;
use std::num::NonZeroUsize;
use zbus::message::Type;
use zbus::names::UniqueName;
use zbus::{Connection, MatchRule, Message, MessageStream, fdo};

/// Signals that wait here do not hold up the answers on the same connection before there are this many.
const QUEUE: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

const BUS: &str = "org.freedesktop.DBus";

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    /// A tunnel's state changed.
    State {
        /// The tunnel's name.
        tunnel: String,
        /// The new state.
        new: String,
        /// The state before.
        old: String,
        /// Why.
        reason: String,
        /// The failure that is the reason, if one is.
        error: Option<String>,
    },
    /// Something was put back that somebody else had changed.
    Tampered {
        /// What, in one line.
        what: String,
    },
    /// The daemon came onto the bus.
    Here,
    /// The daemon left the bus.
    Gone,
}

/// A stream of [`Happening`]s.
#[derive(Debug)]
pub struct Watch {
    connection: Connection,
    owners: MessageStream,
    /// The present owner of the name.
    owner: Option<String>,
    /// Its signals.
    signals: Option<MessageStream>,
    /// `LastError` of each tunnel, so that a change of state can be told with its failure.
    errors: HashMap<String, LastError>,
}

impl Watch {
    pub(super) async fn new(connection: &Connection) -> Result<Self, ClientError> {
        let rule = MatchRule::builder()
            .msg_type(Type::Signal)
            .sender(BUS)
            .interface(BUS)
            .member("NameOwnerChanged")
            .add_arg(NAME)
            .build()?;
        let owners = MessageStream::for_match_rule(rule, connection, Some(QUEUE)).await?;
        let mut watch =
            Self { connection: connection.clone(), owners, owner: None, signals: None, errors: HashMap::new() };
        let bus = fdo::DBusProxy::new(connection).await?;
        let name = zbus::names::BusName::try_from(NAME)?;
        match bus.get_name_owner(name).await {
            Ok(owner) => watch.follow(owner.inner()).await?,
            Err(fdo::Error::NameHasNoOwner(_)) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(watch)
    }

    /// Whether the daemon is on the bus, as far as this stream has told.
    pub fn is_here(&self) -> bool {
        self.owner.is_some()
    }

    async fn follow(&mut self, owner: &UniqueName<'_>) -> Result<(), ClientError> {
        let rule = MatchRule::builder().msg_type(Type::Signal).sender(owner).path_namespace(path::ROOT).build()?;
        self.signals = Some(MessageStream::for_match_rule(rule.into_owned(), &self.connection, Some(QUEUE)).await?);
        self.owner = Some(owner.to_string());
        self.errors.clear();
        let objects = fdo::ObjectManagerProxy::new(&self.connection, NAME, path::ROOT).await?;
        for (path, mut interfaces) in objects.get_managed_objects().await? {
            let name = path::tunnel_name(&path);
            if let (Some(name), Some(mut tunnel)) = (name, interfaces.remove("org.enftun.Enftun1.Tunnel")) {
                self.errors.extend(last_error(&mut tunnel)?.map(|error| (name, error)));
            }
        }
        Ok(())
    }

    /// Forgets what has arrived so far.
    pub fn skip_past(&mut self) {
        while let Some(Some(Ok(message))) = self.signals.as_mut().and_then(|signals| signals.next().now_or_never()) {
            let _ = self.read(&message);
        }
    }

    /// Waits for the next thing that happens.
    pub async fn next(&mut self) -> Result<Happening, ClientError> {
        loop {
            let signals = async {
                match &mut self.signals {
                    Some(signals) => signals.next().await,
                    None => std::future::pending().await,
                }
            };
            // What the daemon still said comes before the news that it is gone.
            let (message, from_daemon) = tokio::select! {
                biased;
                message = signals => (message, true),
                message = self.owners.next() => (message, false),
            };
            let message = message.ok_or(ClientError::Gone)??;
            if from_daemon {
                if let Some(happening) = self.read(&message) {
                    return Ok(happening);
                }
            } else if let Some(happening) = self.owner_changed(&message).await? {
                return Ok(happening);
            }
        }
    }

    fn read(&mut self, message: &Message) -> Option<Happening> {
        let header = message.header();
        let (interface, member) = (header.interface()?, header.member()?);
        if (interface.as_str(), member.as_str()) == ("org.enftun.Enftun1.Firewall", "Tampered") {
            return Some(Happening::Tampered { what: message.body().deserialize().ok()? });
        }
        let tunnel = path::tunnel_name(header.path()?.as_str())?;
        match (interface.as_str(), member.as_str()) {
            ("org.enftun.Enftun1.Tunnel", "StateChanged") => {
                let (new, old, reason): (String, String, String) = message.body().deserialize().ok()?;
                let failed = matches!(new.as_str(), "reconnecting" | "error");
                let error = self.errors.get(&tunnel).filter(|error| failed && error.reason == reason);
                let error = error.map(|error| error.text.clone());
                Some(Happening::State { tunnel, new, old, reason, error })
            }
            ("org.freedesktop.DBus.Properties", "PropertiesChanged") => {
                let (_, mut changed, _): (String, Properties, Vec<String>) = message.body().deserialize().ok()?;
                if changed.contains_key("LastError") {
                    match last_error(&mut changed).ok()? {
                        Some(error) => self.errors.insert(tunnel, error),
                        None => self.errors.remove(&tunnel),
                    };
                }
                None
            }
            _ => None,
        }
    }

    async fn owner_changed(&mut self, message: &Message) -> Result<Option<Happening>, ClientError> {
        if message.header().sender().is_none_or(|sender| sender.as_str() != BUS) {
            return Ok(None);
        }
        let (_, _, new): (String, String, String) = message.body().deserialize().map_err(ClientError::from)?;
        if self.owner.as_deref().unwrap_or_default() == new {
            return Ok(None);
        }
        (self.owner, self.signals) = (None, None);
        if new.is_empty() {
            return Ok(Some(Happening::Gone));
        }
        let owner = UniqueName::try_from(new)?;
        match self.follow(&owner).await {
            Ok(()) => Ok(Some(Happening::Here)),
            // Gone again already: the next message says so.
            Err(ClientError::NotRunning | ClientError::Gone) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
