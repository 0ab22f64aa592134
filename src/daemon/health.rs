//! What somebody should look at, gathered from all that the daemon knows. What makes a warning, and how grave it is, `state`
//! knows for what changes with time; the rest stands here.

use super::Daemon;
use super::supervised::Supervised;
use crate::config::Severity;
use crate::kernel;
use crate::logging::message;
use crate::state::health::{self, Code, Reach, Warning};
use std::time::SystemTime;

impl Daemon {
    /// Every warning there is, the gravest first.
    pub(super) fn warnings(&self) -> Vec<Warning> {
        let mut warnings = self.of_kept();
        let promised = self.tunnels.values().any(Supervised::is_promised);
        if promised && !self.kernel.firewall().in_force {
            let text = "the firewall is not in force, and only routing blocks; `enftunctl status` shows what failed";
            warnings.push(Warning::new(Code::FirewallNotInForce, Severity::Error, text));
        }
        for command in &self.lost_rules {
            let text = format!("a rule of the host's own is missing; `{command}` puts it back");
            warnings.push(Warning::new(Code::HostRuleMissing, Severity::Error, text));
        }
        for (link, group) in &self.foreign_groups {
            let text = format!(
                "{link} is in the link group {group}, which nobody trusts, and its routes are used: `ip link set dev {link} \
                 group default` takes it out, `trusted_interfaces` trusts it"
            );
            warnings.push(Warning::new(Code::ForeignLinkGroup, Severity::Warning, text));
        }
        warnings.extend(self.reach.advice().map(|text| Warning::new(Code::CaptivePortal, Severity::Warning, text)));
        for name in &self.not_remembered {
            let text =
                format!("what is wanted of {name} could not be written down: a restart returns it to what it was");
            warnings.push(Warning::new(Code::NotRemembered, Severity::Warning, text).of(name));
        }
        for (name, tunnel) in &self.tunnels {
            let Some(failure) = &tunnel.not_renewed else { continue };
            let text = format!(
                "the renewed credentials cannot be used, and the session goes on with those before: {}",
                failure.text
            );
            warnings.push(Warning::new(Code::NotRenewed, Severity::Error, text).of(name));
        }
        for (name, tunnel) in &self.tunnels {
            let port = tunnel.applied.card.as_ref().map(|card| &card.port);
            if let Some(port) = port.filter(|port| !kernel::exists(port)) {
                let text = format!("the interface {port} is not there, which the host behind is on; it is waited for");
                warnings.push(Warning::new(Code::CardPortMissing, Severity::Warning, text).of(name));
            }
        }
        let now = SystemTime::now();
        for (name, tunnel) in &self.tunnels {
            // Servers of the web renew theirs by themselves, and ask for none.
            let Some(link) = tunnel.state.link.as_ref().filter(|_| tunnel.config.kind.enf().is_some()) else {
                continue;
            };
            let own = health::expiry(Code::CertificateExpires, "the own certificate", link.tls.local_not_after, now);
            let router = health::expiry(
                Code::RouterCertificateExpires,
                "the router's certificate",
                link.tls.peer_not_after,
                now,
            );
            warnings.extend(own.into_iter().chain(router).map(|warning| warning.of(name)));
        }
        for finding in self.findings.iter().filter(|finding| finding.severity == Severity::Warning) {
            warnings.push(Warning::new(Code::Configuration, Severity::Warning, finding.place_and_text()));
        }
        warnings.sort_by_key(|warning| warning.severity);
        warnings
    }

    /// Somebody has looked, or a router was reached, which is as far as anybody wants to see.
    pub(super) fn reached(&mut self, reach: Reach) {
        if self.probe_url.is_none() || self.reach == reach {
            return;
        }
        match reach.advice() {
            Some(advice) => log::warn!(MESSAGE_ID = message::PORTAL; "{advice}"),
            None => log::info!("connectivity: {}", reach.connectivity),
        }
        self.reach = reach;
        self.publish();
    }

    fn of_kept(&self) -> Vec<Warning> {
        let last = self.others().into_iter().map(|name| {
            let text = format!(
                "the file of {name} cannot be used or is gone, and {name} stays blocked as it last was: mend it and \
                 `enftunctl reload`, or open it with `enftunctl clear {name}`"
            );
            (name, text)
        });
        let unknown = self.in_force.unknown().iter().filter(|name| !self.tunnels.contains_key(*name)).map(|name| {
            let text = format!(
                "nothing is known of {name}, which is to be blocked, so everything is: mend its file and `enftunctl reload`, \
                 or open it with `enftunctl clear {name}`"
            );
            (name.clone(), text)
        });
        let warning = |(name, text): (String, String)| Warning::new(Code::KeptBlocked, Severity::Error, text).of(&name);
        last.chain(unknown).map(warning).collect()
    }
}
