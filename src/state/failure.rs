//! Why a tunnel is in the state it is in: the words of the bus property `StateReason`, and a failure with its class and text.

use crate::error::Class;
use std::fmt;

macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident => $word:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$doc])* $variant),+ }

        impl $name {
            /// Every value, in the order of the reference.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word on the bus, in logs and in JSON.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}
pub(crate) use words;

words! {
    /// Why the last change of state happened. The list may grow; the words never change.
    Reason {
        /// Nothing happened yet.
        None => "none",
        /// Somebody asked for it.
        User => "user",
        /// The daemon started and returned to the target.
        Boot => "boot",
        /// The configuration changed, or is wrong.
        Config => "config",
        /// The path to the remote changed.
        NetworkChanged => "network-changed",
        /// There is no network to use.
        NoNetwork => "no-network",
        /// The TUN device vanished or went down.
        LinkLost => "link-lost",
        /// The router did not answer a heartbeat.
        HeartbeatTimeout => "heartbeat-timeout",
        /// Connect or handshake took too long.
        Timeout => "timeout",
        /// The far end closed or reset the connection.
        RemoteClosed => "remote-closed",
        /// The far end said that it is going away.
        GoingAway => "going-away",
        /// A newer session with the same identity took over.
        Superseded => "superseded",
        /// No new certificate could be had.
        EnrolmentFailed => "enrolment-failed",
        /// The far end refuses the credentials.
        AuthFailed => "auth-failed",
        /// Certificate or key cannot be read.
        CredentialsMissing => "credentials-missing",
        /// The key does not belong to the certificate.
        KeyMismatch => "key-mismatch",
        /// A certificate has expired.
        CertificateExpired => "certificate-expired",
        /// A certificate is not valid yet, or the clock is wrong.
        CertificateNotYetValid => "certificate-not-yet-valid",
        /// The router's certificate is not under the CA file, or is not a router's.
        CertificateUntrusted => "certificate-untrusted",
        /// The router's certificate carries another name.
        CertificateName => "certificate-name",
        /// The far end does not speak the protocol.
        ProtocolError => "protocol-error",
        /// No address for the remote's name.
        DnsFailed => "dns-failed",
        /// The proxy refuses or fails.
        ProxyFailed => "proxy-failed",
        /// No remote accepts a connection.
        Unreachable => "unreachable",
        /// The firewall could not be brought into force.
        FirewallFailed => "firewall-failed",
        /// Link, address, route or rule could not be brought into force.
        RouteFailed => "route-failed",
        /// The system sleeps.
        Suspended => "suspended",
        /// Lockdown holds.
        Lockdown => "lockdown",
        /// A service cannot be listened for at this end.
        ListenFailed => "listen-failed",
        /// The service refuses the access token.
        TokenRejected => "token-rejected",
        /// The service closed the tunnel for good.
        TunnelClosed => "tunnel-closed",
    }
}

/// Something that ended an attempt or a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The word for programs.
    pub reason: Reason,
    /// Whether and how it is worth trying again.
    pub class: Class,
    /// One line for people: what happened, to what, why, and what to do.
    pub text: String,
}

impl Failure {
    /// A failure with its one-line text.
    pub fn new(reason: Reason, class: Class, text: impl Into<String>) -> Self {
        Self { reason, class, text: text.into() }
    }
}

impl Failure {
    /// The kernel could not be brought to hold what it shall.
    pub fn is_kernel(&self) -> bool {
        matches!(self.reason, Reason::FirewallFailed | Reason::RouteFailed)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text, self.reason)
    }
}
