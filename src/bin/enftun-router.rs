//! `enftun-router`: the far end.

use std::process::ExitCode;

fn main() -> ExitCode {
    enftun::router::cli::run(enftun::config::load_router)
}
