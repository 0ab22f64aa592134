//! `enftunctl`: the command line. Everything is in [`enftun::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(feature = "tpm")]
    enftun::sys::environment::quieten_tss2();
    enftun::cli::main()
}
