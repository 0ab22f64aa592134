//! `enftun-localproxy`: AWS's local proxy, by other means. Everything is in [`enftun::localproxy`].

use std::process::ExitCode;

fn main() -> ExitCode {
    enftun::localproxy::main()
}
