//! `enftunctl group`: the trusted interface groups, and members that come and go by the user's word.

use super::{CliError, output};
use crate::dbus::client::{Client, GroupInfo};
use serde::Serialize;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Lists the groups and their interfaces.
    List {
        /// Prints JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Trusts an interface, which need not exist yet, until the configuration is read again.
    Add(Member),
    /// Does not trust an interface any more; one in the file is back when the configuration is read again.
    Remove(Member),
}

#[derive(Debug, clap::Args)]
struct Member {
    /// The group, as enftun.toml names it.
    group: String,
    /// The interface.
    interface: String,
}

impl Args {
    /// It may need a password.
    pub fn changes(&self) -> bool {
        !matches!(self.verb, Verb::List { .. })
    }
}

#[derive(Serialize)]
struct Document<'a> {
    groups: &'a [GroupInfo],
}

pub async fn run(args: Args) -> Result<(), CliError> {
    let client = Client::connect().await?;
    match args.verb {
        Verb::List { json } => {
            let groups = client.groups().await?;
            if json { output::json(&Document { groups: &groups }) } else { table(&groups) }
        }
        Verb::Add(Member { group, interface }) => Ok(client.trust(&group, &interface, true).await?),
        Verb::Remove(Member { group, interface }) => Ok(client.trust(&group, &interface, false).await?),
    }
}

/// A line a member; a group without one has a line of its own.
fn table(groups: &[GroupInfo]) -> Result<(), CliError> {
    if groups.is_empty() {
        return output::line("there is no group in enftun.toml");
    }
    let mut rows = Vec::new();
    for group in groups {
        if group.members.is_empty() {
            rows.push([
                group.name.clone(),
                group.number.to_string(),
                "-".to_owned(),
                "no interface is trusted".to_owned(),
            ]);
        }
        for member in &group.members {
            let there = if group.present.contains(member) { "present" } else { "absent" };
            let until = if group.configured.contains(member) { "" } else { ", until the configuration is read again" };
            rows.push([group.name.clone(), group.number.to_string(), member.clone(), format!("{there}{until}")]);
        }
    }
    output::table(["GROUP", "NUMBER", "INTERFACE", "STATE"], rows)
}
