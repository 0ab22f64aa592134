//! The beginning of a session: the service says what the tunnel has, the caller judges that, and only then anything is acted
//! on. What comes earlier is kept, within bounds.

use super::service::{Naming, Service};
use super::{Action, Engine, Violation};
use crate::state::Moment;
use crate::tunnel::aws::message::{Message, Type};

/// Bytes of a service's name. A frame has room for these, the largest payload and everything else.
pub(super) const LONGEST_NAME: usize = 512;
/// Bytes of memory for messages that come too early. What one WebSocket message holds besides the services fits well.
const KEPT: usize = 8 << 20;

#[derive(Debug, Default)]
pub(super) struct Opening {
    state: State,
    kept: Vec<Message>,
    cost: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// The service has said nothing.
    #[default]
    Silent,
    /// It has said what there is; the caller judges.
    Announced,
    Serving,
}

impl Opening {
    pub fn is_serving(&self) -> bool {
        self.state == State::Serving
    }

    pub fn is_judged(&self) -> bool {
        self.state == State::Announced
    }
}

impl Engine {
    /// These are served from here on, by their names on the wire; what came for them meanwhile is acted on. Answers
    /// [`Action::Serve`]. Where the protocol has no such message, as in version 1, it is said without being asked, for the one
    /// service with the empty name.
    pub fn services(&mut self, ours: &[String], now: Moment) -> Result<(), Violation> {
        if self.stopped || self.opening.is_serving() {
            return Ok(());
        }
        for name in ours {
            let service = Service::new(name.as_str().into(), &self.before);
            if self.names.insert(service.name.clone(), self.services.len()).is_none() {
                self.services.push(service);
            }
        }
        self.opening.state = State::Serving;
        self.opening.cost = 0;
        std::mem::take(&mut self.opening.kept).into_iter().try_for_each(|message| self.message(message, now))
    }

    pub(super) fn message(&mut self, message: Message, now: Moment) -> Result<(), Violation> {
        match Type::try_from(message.r#type) {
            Ok(Type::Unknown) => Err(Violation::NoType),
            Ok(Type::ServiceIds) => self.announced(message.available_service_ids),
            Ok(kind) if self.opening.is_serving() => self.received(kind, message, now),
            Ok(_) => self.keep(message),
            Err(_) if message.ignorable => Ok(()),
            Err(_) => Err(Violation::UnknownType(message.r#type)),
        }
    }

    /// The first one counts: what a session serves does not change.
    fn announced(&mut self, names: Vec<String>) -> Result<(), Violation> {
        if self.opening.state != State::Silent {
            return Ok(());
        }
        if let Some(long) = names.iter().map(String::len).find(|length| *length > LONGEST_NAME) {
            return Err(Violation::LongName(long));
        }
        self.opening.state = State::Announced;
        self.actions.push_back(Action::Serve(names));
        Ok(())
    }

    fn keep(&mut self, mut message: Message) -> Result<(), Violation> {
        message.available_service_ids = Vec::new();
        self.opening.cost += size_of::<Message>() + message.payload.len() + message.service_id.len();
        if self.opening.cost > KEPT {
            return Err(Violation::TooEarly);
        }
        self.opening.kept.push(message);
        Ok(())
    }

    /// The other end's messages name their services all, or none does.
    pub(super) fn judge_naming(&mut self, name: &str) -> Result<(), Violation> {
        let naming = if name.is_empty() { Naming::Without } else { Naming::With };
        if *self.naming.get_or_insert(naming) == naming { Ok(()) } else { Err(Violation::Mixed) }
    }

    /// Which service a message is about. Without a name it is the only one.
    pub(super) fn service_of(&self, name: &str) -> Option<usize> {
        let only = (name.is_empty() && self.services.len() == 1).then_some(0);
        only.or_else(|| self.names.get(name).copied())
    }
}
