//! What a bus call is refused with: an error name of ours (or the standard one for permission) and one line for people.

use super::ERROR_PREFIX;
use crate::daemon::Refusal;
use zbus::message::{Header, Message};
use zbus::names::ErrorName;

/// An error reply.
#[derive(Debug)]
pub(super) struct Fault {
    name: String,
    text: String,
}

impl Fault {
    /// `org.enftun.Enftun1.Error.WORD`.
    pub fn ours(word: &str, text: impl Into<String>) -> Self {
        Self { name: format!("{ERROR_PREFIX}{word}"), text: text.into() }
    }

    /// The caller may not do that.
    pub fn denied(text: impl Into<String>) -> Self {
        Self { name: "org.freedesktop.DBus.Error.AccessDenied".to_owned(), text: text.into() }
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        let word = match &refusal {
            Refusal::NotFound(_) => "NotFound",
            Refusal::WrongState(_) => "WrongState",
            Refusal::InvalidConfig(_) => "InvalidConfig",
            Refusal::Failed(_) => "Failed",
            Refusal::ShuttingDown => "ShuttingDown",
        };
        Self::ours(word, refusal.to_string())
    }
}

impl zbus::DBusError for Fault {
    fn create_reply(&self, call: &Header<'_>) -> zbus::Result<Message> {
        Message::error(call, self.name()).build(&self.text)
    }

    fn name(&self) -> ErrorName<'_> {
        ErrorName::from_str_unchecked(&self.name)
    }

    fn description(&self) -> Option<&str> {
        Some(&self.text)
    }
}
