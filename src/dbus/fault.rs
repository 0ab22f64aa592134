//! What a bus call is refused with: an error name of ours (or the standard one for permission) and one line for people.

use super::ERROR_PREFIX;
use crate::daemon::Refusal;
use crate::state::{Failure, Reason};
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

    /// Bits that mean nothing.
    pub fn unknown_flags(flags: u32, known: &str) -> Self {
        Self::ours("InvalidArgument", format!("flags {flags:#x} are unknown; {known}"))
    }

    /// What ended an attempt, as the answer to a call.
    pub fn of(failure: &Failure) -> Self {
        let word = match failure.reason {
            Reason::AuthFailed | Reason::CredentialsMissing | Reason::KeyMismatch | Reason::TokenRejected => {
                "AuthFailed"
            }
            Reason::CertificateExpired => "CertificateExpired",
            Reason::CertificateUntrusted | Reason::CertificateName => "CertificateUntrusted",
            Reason::DnsFailed => "DnsFailed",
            Reason::FirewallFailed => "FirewallFailed",
            Reason::RouteFailed => "RoutingFailed",
            Reason::NoNetwork => "Offline",
            Reason::Config => "InvalidConfig",
            Reason::Timeout => "Timeout",
            _ => "Failed",
        };
        Self::ours(word, failure.text.clone())
    }

    /// The caller would be asked for a password, and did not allow it.
    pub fn interaction_required(text: impl Into<String>) -> Self {
        Self { name: "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired".to_owned(), text: text.into() }
    }

    /// The caller may not do that.
    pub fn denied(text: impl Into<String>) -> Self {
        Self { name: "org.freedesktop.DBus.Error.AccessDenied".to_owned(), text: text.into() }
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        let word = match &refusal {
            Refusal::Kernel(failure) => return Self::of(failure),
            Refusal::NotFound(_) | Refusal::NoGroup(_) => "NotFound",
            Refusal::InvalidArgument(_) => "InvalidArgument",
            Refusal::Unsupported(_) => "Unsupported",
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
