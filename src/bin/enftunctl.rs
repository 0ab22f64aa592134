//! `enftunctl`: the command line. Everything is in [`enftun::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    enftun::cli::main()
}
