//! `enftunctl completions SHELL`: what makes a shell complete this command line. The packages install the same.

use super::{CliError, output};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap_complete::{Shell, generate};

/// The shells that the packages serve.
const SHELLS: [(&str, Shell); 3] = [("bash", Shell::Bash), ("zsh", Shell::Zsh), ("fish", Shell::Fish)];

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
    let mut script = Vec::new();
    generate(args.shell, &mut super::command(), "enftunctl", &mut script);
    output::text(&String::from_utf8_lossy(&script))
}
