//! What somebody should look at although nothing has failed yet, or what no single tunnel tells: findings with a word for
//! programs and a line for people. Pure; the daemon hands in what it knows.

use super::words;
use crate::config::Severity;
use std::time::{Duration, SystemTime};

words! {
    /// What a warning is about. The list may grow; the words never change.
    Code {
        /// Something in the configuration is allowed and probably not what is meant.
        Configuration => "configuration",
        /// A tunnel is kept blocked although its file cannot be used or is gone.
        KeptBlocked => "kept-blocked",
        /// The firewall shall be in force and is not; routing holds what it can.
        FirewallNotInForce => "firewall-not-in-force",
        /// A rule of the host's own is gone, without which it reaches nothing.
        HostRuleMissing => "host-rule-missing",
        /// Routes of a link that nobody trusts are used.
        ForeignLinkGroup => "foreign-link-group",
        /// The own certificate expires soon.
        CertificateExpires => "certificate-expires",
        /// The router's certificate expires soon.
        RouterCertificateExpires => "router-certificate-expires",
        /// A renewed certificate, key or CA file cannot be used; the session goes on with the one before.
        NotRenewed => "not-renewed",
        /// What is wanted could not be written down: a restart forgets it.
        NotRemembered => "not-remembered",
        /// The network wants somebody to sign in before it lets anything through.
        CaptivePortal => "captive-portal",
        /// The interface that the host behind a router card is on is not there.
        CardPortMissing => "card-port-missing",
    }
}

words! {
    /// What the network beside the tunnels reaches: the words of the bus property `Connectivity`.
    #[derive(Default)]
    Connectivity {
        /// Nobody has looked.
        #[default]
        Unknown => "unknown",
        /// No route leads anywhere.
        None => "none",
        /// Somebody else answers for the internet, until one signs in.
        Portal => "portal",
        /// There is a network, and no answer from the internet.
        Limited => "limited",
        /// The internet.
        Full => "full",
    }
}

/// What a look at the network found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// In a word.
    pub connectivity: Connectivity,
    /// The host to sign in at, if the portal named one: letters, digits and dots only.
    pub portal: Option<String>,
}

impl From<Connectivity> for Reach {
    fn from(connectivity: Connectivity) -> Self {
        Self { connectivity, portal: None }
    }
}

impl Reach {
    /// One line for people, if there is something to do.
    pub fn advice(&self) -> Option<String> {
        if self.connectivity != Connectivity::Portal {
            return None;
        }
        let whose = self.portal.as_deref().map(|host| format!(" at {host}")).unwrap_or_default();
        Some(format!(
            "a captive portal{whose} answers for the internet: this network wants somebody to sign in (enftun(7), CAPTIVE PORTALS)"
        ))
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The word for programs.
    pub code: Code,
    /// How grave it is.
    pub severity: Severity,
    /// The tunnel it is about, where it is about one.
    pub tunnel: Option<String>,
    /// One line for people.
    pub text: String,
}

impl Warning {
    /// A finding about the host or the daemon.
    pub fn new(code: Code, severity: Severity, text: impl Into<String>) -> Self {
        Self { code, severity, tunnel: None, text: text.into() }
    }

    /// The same about one tunnel.
    #[must_use]
    pub fn of(self, tunnel: &str) -> Self {
        Self { tunnel: Some(tunnel.to_owned()), ..self }
    }
}

/// A certificate's end is told of this long before, as a warning,
const SOON: Duration = Duration::from_secs(30 * 86_400);
/// and this long before, as an error.
const VERY_SOON: Duration = Duration::from_secs(7 * 86_400);

/// Whether the end of a certificate, in seconds since 1970, is near enough to be told; and how.
pub fn expiry(code: Code, whose: &str, not_after: i64, now: SystemTime) -> Option<Warning> {
    let now = i64::try_from(now.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs()).ok()?;
    let left = not_after.saturating_sub(now);
    let within = |limit: Duration| left < i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
    let severity = match () {
        () if within(VERY_SOON) => Severity::Error,
        () if within(SOON) => Severity::Warning,
        () => return None,
    };
    let when = match left {
        i64::MIN..=0 => "has expired".to_owned(),
        1..86_400 => format!("expires in {} h", left / 3600),
        86_400..172_800 => "expires in a day".to_owned(),
        _ => format!("expires in {} days", left / 86_400),
    };
    Some(Warning::new(code, severity, format!("{whose} {when}; the next connection after that is refused")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(not_after: i64) -> Option<(Severity, String)> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let warning = expiry(Code::CertificateExpires, "the certificate", not_after, now)?;
        Some((warning.severity, warning.text.split(';').next()?.to_owned()))
    }

    #[test]
    fn the_end_of_a_certificate_is_told_thirty_days_before_and_gravely_seven() {
        let now = 1_000_000_000;
        let told = |severity, text: &str| Some((severity, format!("the certificate {text}")));
        assert_eq!(at(now + 30 * 86_400), None);
        assert_eq!(at(now + 30 * 86_400 - 1), told(Severity::Warning, "expires in 29 days"));
        assert_eq!(at(now + 7 * 86_400), told(Severity::Warning, "expires in 7 days"));
        assert_eq!(at(now + 7 * 86_400 - 1), told(Severity::Error, "expires in 6 days"));
        assert_eq!(at(now + 86_400), told(Severity::Error, "expires in a day"));
        assert_eq!(at(now + 7200), told(Severity::Error, "expires in 2 h"));
        assert_eq!(at(now), told(Severity::Error, "has expired"));
        assert_eq!(at(i64::MIN), told(Severity::Error, "has expired"));
        // 9999-12-31, as in the C client's world.
        assert_eq!(at(253_402_300_799), None);
        assert_eq!(at(i64::MAX), None);
    }
}
