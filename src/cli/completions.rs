//! `enftunctl completions SHELL`: what makes a shell complete this command line. The packages install the same. What clap
//! writes knows verbs, options and words; the names of tunnels are added here, which the shell asks the daemon for.

use super::{CliError, output};
use clap::Command;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap_complete::{Shell, generate};

/// The shells that the packages serve.
const SHELLS: [(&str, Shell); 3] = [("bash", Shell::Bash), ("zsh", Shell::Zsh), ("fish", Shell::Fish)];

/// The names of tunnels, one a line; without a daemon there are none.
const NAMES: &str = "enftunctl list 2>/dev/null | sed '1d; s/ .*//'";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell.
    #[arg(value_name = "SHELL", value_parser = shell())]
    shell: Shell,
}

fn shell() -> impl TypedValueParser<Value = Shell> {
    PossibleValuesParser::new(SHELLS.map(|(name, _)| name))
        .map(|word| SHELLS.iter().find(|(name, _)| *name == word).map_or(Shell::Bash, |(_, shell)| *shell))
}

pub fn run(args: &Args) -> Result<(), CliError> {
    output::text(&script(args.shell))
}

/// The whole script for one of bash, zsh and fish.
pub fn script(shell: Shell) -> String {
    let mut command = super::command();
    let mut script = Vec::new();
    generate(shell, &mut command, "enftunctl", &mut script);
    let script = String::from_utf8_lossy(&script);
    let verbs = verbs_of_tunnels(&command).join(" ");
    match shell {
        Shell::Zsh => {
            let (first, rest) = script.split_once('\n').unwrap_or((&script, ""));
            let line = |line: &str| match line.contains(":name -- ") {
                true => line.replace(":_default'", ":_enftunctl_tunnels'"),
                false => line.to_owned(),
            };
            let rest: Vec<String> = rest.lines().map(line).collect();
            // zsh looks for its own word in the first line, and for the function that the file is called after in the last.
            format!(
                "{first}\n\n_enftunctl_tunnels() {{\n    compadd -- ${{(f)\"$({NAMES})\"}}\n}}\n{}\n",
                rest.join("\n")
            )
        }
        Shell::Fish => {
            let one = |verb| {
                format!("complete -c enftunctl -n \"__fish_enftunctl_using_subcommand {verb}\" -f -a \"({NAMES})\"\n")
            };
            format!("{script}{}", verbs.split(' ').map(one).collect::<String>())
        }
        _ => format!(
            "{script}
_enftunctl_tunnels() {{
    _enftunctl \"$@\"
    if [[ $2 != -* && \" {verbs} \" == *\" $3 \"* ]]; then
        COMPREPLY+=($(compgen -W \"$({NAMES})\" -- \"$2\"))
    fi
}}
complete -F _enftunctl_tunnels -o bashdefault -o default enftunctl
"
        ),
    }
}

/// The verbs, by all their names, whose first word is the name of a tunnel.
fn verbs_of_tunnels(command: &Command) -> Vec<&str> {
    let named = |verb: &&Command| {
        let first = verb.get_positionals().next();
        first.and_then(|argument| argument.get_value_names()).is_some_and(|names| names == ["NAME"])
    };
    command.get_subcommands().filter(named).flat_map(Command::get_name_and_visible_aliases).collect()
}
