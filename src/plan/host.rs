//! What the kernel must hold for all tunnels together: the firewall, the rule for trusted interfaces, their groups, and the
//! settings that all of it rests on. Pure; two tunnels that each brought only their own would undo each other.

use super::nft::Table;
use super::{Action, Family, Match, Plan, Route, Rule, firewall, guard};
use std::collections::BTreeMap;
use std::fmt;

/// Everything that is the host's and no single tunnel's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Our table; none: there is none.
    pub firewall: Option<Table>,
    /// The table that holds the host while somebody flushed the ruleset, where the kernel can keep one.
    pub guard: Option<Table>,
    /// The rules that let routes of trusted interfaces be used, except default routes; and the one for DHCP renewals.
    pub rules: Vec<Rule>,
    /// Trusted interfaces, each with the number of its group. Those that do not exist are waited for.
    pub groups: BTreeMap<String, u32>,
    /// Files below `/proc/sys/net`, and their values.
    pub sysctls: BTreeMap<&'static str, &'static str>,
}

/// The mark that the firewall gives to answers counts when the kernel judges their way back (rp_filter).
const SRC_VALID_MARK: (&str, &str) = ("ipv4/conf/all/src_valid_mark", "1");
/// What nft 1.0 cannot say of the guard: flags that it does not know, and a table that ends with its owner is none.
const GUARDED: &str = "the guard: enftund itself holds it, with flags owner and persist (Linux 6.9), and `nft flush ruleset` leaves it alone";

impl Host {
    /// What these plans need together. `uid` is the user whose packets are our own.
    pub fn of<'a>(plans: impl IntoIterator<Item = &'a Plan> + Clone, uid: u32) -> Self {
        Self::with(plans, uid, false)
    }

    /// The same, where in an `emergency` nothing else passes but loopback, neighbour discovery and DHCP: a tunnel that nothing
    /// is known of is to be blocked.
    pub fn with<'a>(plans: impl IntoIterator<Item = &'a Plan> + Clone, uid: u32, emergency: bool) -> Self {
        let groups: BTreeMap<String, u32> = plans.clone().into_iter().flat_map(|plan| plan.trusted.clone()).collect();
        let trusted = |family| Rule::new(family, Match::Trusted, Action::Lookup(Route::MAIN));
        let blocks = plans.clone().into_iter().any(|plan| !plan.rules.is_empty());
        let dhcp = Rule::new(Family::V4, Match::Dhcp, Action::Lookup(Route::MAIN));
        let mut rules = if blocks { vec![dhcp] } else { Vec::new() };
        if !groups.is_empty() {
            rules.extend(Family::ALL.map(trusted));
        }
        Self {
            firewall: firewall(plans.clone(), uid, emergency),
            guard: guard(plans, uid, emergency),
            rules,
            groups,
            sysctls: blocks.then_some(SRC_VALID_MARK).into_iter().collect(),
        }
    }
}

impl Host {
    /// The commands that bring it about on a host that has nothing of it, for `sh`, under headings for people.
    fn sections(&self) -> Vec<(&'static str, Vec<String>)> {
        let tables =
            |table: &Option<Table>| table.iter().map(|table| format!("nft -f - <<'EOF'\n{table}\nEOF")).collect();
        let sysctls = self.sysctls.iter().map(|(file, value)| format!("echo {value} > /proc/sys/net/{file}")).collect();
        let groups = self.groups.iter().map(|(name, number)| format!("ip link set dev {name} group {number}"));
        let trusted = groups.chain(self.rules.iter().map(ToString::to_string)).collect();
        vec![
            ("the firewall: what passes beside the tunnels, and nothing else", tables(&self.firewall)),
            (GUARDED, tables(&self.guard)),
            ("the marks of answers count when the kernel judges their way back (rp_filter)", sysctls),
            ("DHCP leases are renewed; routes of trusted interfaces are used, but never a default route", trusted),
        ]
    }

    /// The commands alone.
    pub fn commands(&self) -> Vec<String> {
        self.sections().into_iter().flat_map(|(_, commands)| commands).collect()
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (heading, commands) in self.sections().iter().filter(|(_, commands)| !commands.is_empty()) {
            writeln!(f, "# {heading}")?;
            commands.iter().try_for_each(|command| writeln!(f, "{command}"))?;
        }
        Ok(())
    }
}
