//! `enftunctl plan NAME`: what the kernel must hold for a tunnel in a state, as commands a person can read and run.
//! It changes nothing and asks nobody.

use crate::config::{self, Lockdown};
use crate::error::Class;
use crate::plan::{self, Observed};
use crate::state::{Phase, Wanted};
use ipnet::{IpNet, Ipv6Net};
use std::io::{self, Write};
use std::net::Ipv6Addr;

/// Why no plan was printed.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The word is no state.
    #[error("\"{0}\" is not a state of a tunnel; the states are {all}", all = states())]
    UnknownState(String),
    /// The output is gone.
    #[error("print the plan")]
    Print(#[from] io::Error),
}

fn states() -> String {
    Phase::ALL.iter().map(|phase| phase.as_str()).collect::<Vec<_>>().join(", ")
}

impl PlanError {
    /// The class of the error.
    pub fn class(&self) -> Class {
        match self {
            Self::UnknownState(_) => Class::Configuration,
            Self::Print(_) => Class::Environment,
        }
    }
}

/// Prints the plan of `tunnel` in the state `state_word`, with the own `address` where it is known: as a shell script, or as
/// JSON with one string a command. `disconnected` is what is left after the user's disconnect.
pub fn run(
    tunnel: &config::Tunnel,
    state_word: &str,
    address: Option<Ipv6Addr>,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), PlanError> {
    let phase = Phase::ALL.iter().find(|phase| phase.as_str() == state_word);
    let phase = phase.ok_or_else(|| PlanError::UnknownState(state_word.to_owned()))?;
    let own: Vec<IpNet> = address.map(|address| Ipv6Net::from(address).into()).into_iter().collect();
    let config::Kind::Enf(enf) = &tunnel.kind;
    let wanted = match phase {
        Phase::Disconnected | Phase::Disconnecting if enf.route.lockdown == Lockdown::Boot => Wanted::Blocked,
        Phase::Disconnected | Phase::Disconnecting => Wanted::Open,
        Phase::Connecting | Phase::Reconnecting | Phase::Error => Wanted::Connecting,
        Phase::Connected => Wanted::Connected(own.clone()),
    };
    let plan = plan::build(tunnel, &wanted, &own);
    if json {
        let commands: Vec<String> = plan::diff(&plan, &Observed::default()).iter().map(ToString::to_string).collect();
        let value = serde_json::json!({ "tunnel": tunnel.name, "state": phase.as_str(), "commands": commands });
        writeln!(out, "{value:#}")?;
        return Ok(());
    }
    writeln!(out, "# tunnel {}, {phase}", tunnel.name)?;
    if plan.link.is_some() && enf.tun.set_address && own.is_empty() {
        writeln!(out, "# the own address, which the certificate names, is left out")?;
    }
    if plan == plan.scope.empty() {
        writeln!(out, "# nothing: all traffic goes as without the tunnel")?;
    }
    write!(out, "{plan}")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::tunnel;

    fn printed(state: &str, address: Option<&str>, json: bool) -> String {
        let mut out = Vec::new();
        let address = address.map(|address| address.parse().unwrap());
        run(&tunnel(&["::/0"], false), state, address, json, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_state_prints_its_plan() {
        let connected = printed("connected", Some("fd00:8f80::5"), false);
        assert!(connected.starts_with("# tunnel enf0, connected\n# rules"), "{connected}");
        assert!(connected.contains("ip -6 addr add fd00:8f80::5/128 dev enf0"));
        assert!(printed("connecting", None, false).contains("is left out"));
        let disconnected = printed("disconnected", None, false);
        assert!(disconnected.contains("unreachable") && !disconnected.contains("tuntap"), "{disconnected}");
    }

    #[test]
    fn json_has_a_string_for_each_command() {
        let value: serde_json::Value = serde_json::from_str(&printed("error", Some("fd00:8f80::5"), true)).unwrap();
        assert_eq!((&value["tunnel"], &value["state"]), (&"enf0".into(), &"error".into()));
        let commands = value["commands"].as_array().unwrap();
        assert!(
            commands.iter().any(|command| command == "ip -6 rule add pref 557 from all unreachable protocol kernel")
        );
    }

    #[test]
    fn an_unknown_state_is_answered_with_those_there_are() {
        let error = run(&tunnel(&["::/0"], false), "up", None, false, &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("connecting, connected"), "{error}");
        assert_eq!(error.class(), Class::Configuration);
    }
}
