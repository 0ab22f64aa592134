//! Writes the manual pages and the shells' completions into a directory, for whoever makes a package:
//! `cargo run --example pages -- DIRECTORY`. It is an example, so that no program of ours carries what it needs.
//!
//! ```text
//! DIRECTORY/man/NAME.SECTION           one file a page
//! DIRECTORY/completions/PROGRAM.bash   /usr/share/bash-completion/completions/PROGRAM
//! DIRECTORY/completions/_PROGRAM       /usr/share/zsh/vendor-completions (Debian), /usr/share/zsh/site-functions (Fedora)
//! DIRECTORY/completions/PROGRAM.fish   /usr/share/fish/vendor_completions.d
//! ```

mod completions;
mod man;

use std::path::PathBuf;
use std::process::ExitCode;
use std::{env, fs, io};

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let (Some(directory), None) = (arguments.next().map(PathBuf::from), arguments.next()) else {
        eprintln!("usage: pages DIRECTORY");
        return ExitCode::from(2);
    };
    match write(&directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pages: write into {}: {error}", directory.display());
            ExitCode::FAILURE
        }
    }
}

fn write(directory: &std::path::Path) -> io::Result<()> {
    for (below, files) in [("man", man::pages()), ("completions", completions::scripts())] {
        let directory = directory.join(below);
        fs::create_dir_all(&directory)?;
        for (name, text) in files {
            fs::write(directory.join(name), text)?;
        }
    }
    Ok(())
}
