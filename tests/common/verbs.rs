//! The verbs of a program's command line.

use clap::Command;

/// Each verb that does something, with its full name.
pub fn of(command: &Command) -> Vec<(String, Command)> {
    below(command, "")
}

fn below(command: &Command, before: &str) -> Vec<(String, Command)> {
    let verbs = command.get_subcommands().map(|verb| (format!("{before}{}", verb.get_name()), verb));
    verbs
        .flat_map(|(name, verb)| match verb.has_subcommands() {
            true => below(verb, &format!("{name} ")),
            false => vec![(name, verb.clone())],
        })
        .collect()
}
