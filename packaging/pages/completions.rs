//! The completions of each program for each shell, under the names that the shells look for.

use clap_complete::{Generator, Shell, generate};

/// File names and their content.
pub fn scripts() -> Vec<(String, String)> {
    let mut scripts = Vec::new();
    for (name, command) in super::man::programs() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            generate(shell, &mut command.clone(), name, &mut script);
            scripts.push((shell.file_name(name), String::from_utf8_lossy(&script).into_owned()));
        }
    }
    scripts
}
