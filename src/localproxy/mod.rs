//! `enftun-localproxy`: one end of an AWS IoT Secure Tunneling tunnel as a command of its own, with the options of AWS's local
//! proxy. It runs the sessions that the daemon runs, without daemon, bus or privilege. `docs/localproxy.md` is its reference.

mod config_file;
mod environment;
mod error;
mod options;
mod request;
mod run;
mod settings;
mod tunnel;

pub use error::{LocalproxyError, UsageError};
pub use options::command;

use crate::config::{Aws, Tunnel};
use crate::error::{Exit, chain};
use crate::logging;
use crate::tunnel::aws::tokens::Tokens;
use clap::error::ErrorKind;
use nix::sys::prctl;
use options::{Layer, Layers, Origin};
use request::Request;
use settings::Settings;
use std::env;
use std::path::Path;
use std::process::ExitCode;

/// What runs, and where its tokens may be read again.
struct Plan {
    tunnel: Tunnel,
    aws: Aws,
    tokens: Tokens,
    layers: Layers,
    /// Attempts after a failed one, in a row; none: for ever.
    retries: Option<u32>,
    /// A session in which something was wrong is followed by another.
    reconnect_on_data_error: bool,
}

/// The whole program: reads the command line, does what it says, and turns an error into one line and an exit code.
pub fn main() -> ExitCode {
    let matches = match command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => return said(&error).into(),
    };
    match start(&matches) {
        Ok(()) => Exit::Ok.into(),
        Err(error) => {
            eprintln!("enftun-localproxy: {}", chain(&error));
            if error.exit() == Exit::Usage {
                eprintln!("`enftun-localproxy --help` lists the options");
            }
            error.exit().into()
        }
    }
}

/// The help goes where that of AWS's local proxy goes, and the version where that goes.
fn said(error: &clap::Error) -> Exit {
    match error.kind() {
        ErrorKind::DisplayHelp => {
            eprint!("{}", error.render());
            Exit::Ok
        }
        ErrorKind::DisplayVersion => {
            print!("{}", error.render());
            Exit::Ok
        }
        _ => {
            eprint!("{}", error.render());
            Exit::Usage
        }
    }
}

fn start(matches: &clap::ArgMatches) -> Result<(), LocalproxyError> {
    // A core dump would hold the tokens.
    prctl::set_dumpable(false).map_err(|error| LocalproxyError::Start(error.into()))?;
    let variable = |name: &str| env::var(name).ok();
    let layers = layers(matches, &variable)?;
    let level = request::verbosity(&layers)?;
    if let Some(path) = request::export(&layers)? {
        return Ok(Settings::export(&path)?);
    }
    let request = Request::new(&layers)?;
    logging::init("enftun-localproxy", level, None);
    let plan = plan(&request, layers, &variable)?;
    if !request.verify {
        eprintln!("{BANNER}");
    }
    run::run(plan)
}

const BANNER: &str = "\
*******************************************************************************
 --no-ssl-host-verify: NO CERTIFICATE IS CHECKED. Whoever is on the way to the
 service can read and change everything, and take the tokens.
*******************************************************************************";

fn layers(matches: &clap::ArgMatches, variable: &dyn Fn(&str) -> Option<String>) -> Result<Layers, UsageError> {
    let command_line = Layer::of_command_line(matches);
    let environment = Layer::of_environment(variable);
    let file_path = command_line.get("config").map(Into::into);
    let file = file_path.as_deref().map(config_file::read).transpose()?.unwrap_or_default();
    Ok(Layers { command_line, file, file_path, environment })
}

/// Everything that has to be known before the first connection, and a line in the log for whatever was probably not meant.
fn plan(request: &Request, layers: Layers, variable: &dyn Fn(&str) -> Option<String>) -> Result<Plan, LocalproxyError> {
    let (settings, ignored) = match &request.settings {
        Some(path) => Settings::read(path)?,
        None => (Settings::default(), Vec::new()),
    };
    let mut host = settings.host(&request.target)?;
    let (way, about_way) = environment::way(variable, &host)?;
    host.way = way;
    let (services, left_out) = tunnel::services(request, Path::new(""))?;
    for warning in request.warnings.iter().chain(&ignored).chain(&about_way).chain(&left_out) {
        log::warn!("{warning}");
    }
    let (tunnel, aws) = tunnel::tunnel(request, &settings, host, services);
    Ok(Plan {
        tunnel,
        aws,
        tokens: request.tokens.clone(),
        layers,
        retries: settings.connect_retries,
        reconnect_on_data_error: settings.reconnect_on_data_error,
    })
}

impl Plan {
    /// The tokens of the file of `--config` as it is now; none: they do not come from there.
    fn tokens_again(&mut self) -> Result<Option<Tokens>, UsageError> {
        let (Some(path), Some(said)) = (&self.layers.file_path, self.layers.get("access-token")) else {
            return Ok(None);
        };
        if said.origin != Origin::File {
            return Ok(None);
        }
        let file = config_file::read(path)?;
        self.layers.file = file;
        request::tokens(&self.layers).map(Some)
    }
}
