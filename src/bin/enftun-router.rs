//! `enftun-router`: the far end. The library does the work.

use std::process::ExitCode;

fn main() -> ExitCode {
    enftun::router::cli::run(enftun::config::load_router)
}
