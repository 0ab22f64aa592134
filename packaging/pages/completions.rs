//! The completions of each program for each shell, under the names that the shells look for.

use clap::Command;
use clap_complete::{Generator, Shell, generate};
use enftun::cli::completion_script;

/// File names and their content.
pub fn scripts() -> Vec<(String, String)> {
    let mut scripts = Vec::new();
    for (name, command) in super::man::programs() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script =
                if name == "enftunctl" { completion_script(shell) } else { generated(shell, name, command.clone()) };
            scripts.push((shell.file_name(name), script));
        }
    }
    scripts
}

fn generated(shell: Shell, name: &str, mut command: Command) -> String {
    let mut script = Vec::new();
    generate(shell, &mut command, name, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}
