//! Trusted groups while the daemon runs: members that come and go by the user's word, until the configuration is read again.
//! What the kernel is told of them is the plan's business.

use super::snapshot::GroupSnapshot;
use super::{Answer, Caller, Daemon, Refusal};
use crate::config::{self, Group};
use crate::kernel;
use crate::logging::message;
use std::collections::BTreeMap;

impl Daemon {
    /// Trusts an interface as a member of a group, or does not any more. To be so already is success.
    pub(super) async fn set_trust(
        &mut self,
        name: &str,
        interface: &str,
        trusted: bool,
        caller: &Caller,
    ) -> Result<Answer, Refusal> {
        let no_group = || Refusal::NoGroup(name.to_owned());
        let group = self.groups.get(name).ok_or_else(no_group)?;
        if group.interfaces.iter().any(|member| member == interface) == trusted {
            return Ok(Answer::Done);
        }
        if trusted {
            self.may_join(interface)?;
        }
        let verb = if trusted { "trusts" } else { "does not trust" };
        log::info!(MESSAGE_ID = message::REQUEST, ENFTUN_REQUEST = "trust", ENFTUN_CALLER = caller.to_string();
            "group {name} {verb} {interface} from now on, asked by {caller}");
        let group = self.groups.get_mut(name).ok_or_else(no_group)?;
        if trusted {
            group.interfaces.push(interface.to_owned());
        } else {
            group.interfaces.retain(|member| member != interface);
        }
        let applied = self.regroup().await;
        self.publish();
        applied.map_or(Ok(Answer::Done), |failure| Err(Refusal::Kernel(failure)))
    }

    /// The kernel keeps one group per interface, and nobody trusts a tunnel.
    fn may_join(&self, interface: &str) -> Result<(), Refusal> {
        let refuse = |text: String| Err(Refusal::InvalidArgument(text));
        if let Err(text) = config::judge_trusted_interface(interface) {
            return refuse(text);
        }
        let holds = |group: &Group| group.interfaces.iter().any(|member| member == interface);
        if let Some((other, _)) = self.groups.iter().find(|(_, group)| holds(group)) {
            return refuse(format!(
                "{interface} is already in group {other}, and the kernel keeps one group per interface"
            ));
        }
        for (name, tunnel) in &self.tunnels {
            if tunnel.dev() == interface {
                return refuse(format!("{interface} is the device of tunnel {name}, and a tunnel is not trusted"));
            }
            let enf = tunnel.config.kind.enf();
            if enf.and_then(|enf| enf.advertise.as_ref()).is_some_and(|advertise| advertise.dev == interface) {
                return refuse(format!(
                    "{interface} has the host behind of tunnel {name}, and nothing of it goes beside the tunnel"
                ));
            }
            if tunnel.config.route.trusted_interfaces.iter().any(|member| member == interface) {
                return refuse(format!("{interface} is a trusted interface of tunnel {name} already"));
            }
        }
        Ok(())
    }

    /// Every group as it is now.
    pub(super) fn show_groups(&self) -> BTreeMap<String, GroupSnapshot> {
        let show = |(name, group): (&String, &Group)| {
            let configured = self.configured_groups.get(name).map(|group| group.interfaces.clone()).unwrap_or_default();
            let present = group.interfaces.iter().filter(|interface| kernel::exists(interface)).cloned().collect();
            let (name, number, members) = (name.clone(), group.number, group.interfaces.clone());
            (name.clone(), GroupSnapshot { name, number, configured, members, present })
        };
        self.groups.iter().map(show).collect()
    }
}
