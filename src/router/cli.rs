//! `enftun-router`: reads the command line and the configuration, runs the router or asks one that runs.

mod endpoints;
#[cfg(feature = "enrol")]
mod users;

use super::{Order, RouterError, control, metrics, serve};
use crate::config;
use crate::error::{Exit, chain};
use crate::logging;
use crate::metrics::deliver;
use crate::sys::passed;
use crate::terminal::{Colour, Terminal};
use clap::{CommandFactory, Parser, Subcommand};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

#[derive(Debug, Parser)]
#[command(name = "enftun-router", version, about = "The ENF router: the far end of enftun's tunnels")]
struct Arguments {
    /// The router's configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/enftun/router.toml", global = true)]
    config: PathBuf,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the router in the foreground (the default). SIGHUP reads the certificates again; SIGTERM ends it gracefully
    Serve,
    /// Show the sessions of a running router; exits 3 when none answers
    Status {
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Print what a running router counts as OpenMetrics text, for a collector; exits 3 when none answers
    Metrics {
        /// Replace this file as a whole instead of printing; for node-exporter its name ends in .prom
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Who is enrolled, whether a router runs or not
    #[command(subcommand)]
    Endpoints(endpoints::Verb),
    /// Who may enrol, and with which password
    #[cfg(feature = "enrol")]
    #[command(subcommand)]
    Users(users::Verb),
}

/// The command line as a value: what the manual page and the completions are made of.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// The whole program. `load` reads a configuration file and says all that is wrong with it; without a configuration it
/// cannot be used.
pub fn run<F: Display>(load: impl Fn(&Path) -> (Option<config::Router>, Vec<F>)) -> ExitCode {
    // clap exits with 2 by itself when the command line is wrong.
    let arguments = Arguments::parse();
    let (config, findings) = load(&arguments.config);
    for finding in findings {
        eprintln!("{finding}");
    }
    let Some(config) = config else { return Exit::Configuration.into() };
    let outcome = match arguments.verb.unwrap_or(Verb::Serve) {
        Verb::Serve => run_router(&config),
        Verb::Status { json } => status(&config, json),
        Verb::Metrics { output } => print_metrics(&config, output),
        Verb::Endpoints(verb) => endpoints::run(&config, verb),
        #[cfg(feature = "enrol")]
        Verb::Users(verb) => users::run(&config, verb),
    };
    match outcome {
        Ok(()) => Exit::Ok.into(),
        Err(error) => {
            eprintln!("enftun-router: {}", chain(&error));
            error.exit().into()
        }
    }
}

fn run_router(config: &config::Router) -> Result<(), RouterError> {
    logging::init("enftun-router", log::LevelFilter::Info, None);
    // One descriptor per session; the usual soft limit of 1024 is for programs that use select().
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let wanted = config.max_sessions as u64;
        if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_err() || hard < wanted {
            log::warn!("at most {hard} files may be open: fewer than max_sessions ({wanted}); see LimitNOFILE=");
        }
    }
    let passed = passed::listeners().map_err(|source| RouterError::Passed { number: 1, source })?;
    let runtime = tokio::runtime::Runtime::new().map_err(RouterError::Runtime)?;
    let outcome = runtime.block_on(async {
        let orders = orders().map_err(RouterError::Runtime)?;
        serve(config, passed, orders).await
    });
    runtime.shutdown_background();
    outcome
}

/// Signals, as the router understands them.
fn orders() -> std::io::Result<mpsc::Receiver<Order>> {
    let (to, orders) = mpsc::channel(8);
    for (kind, order) in [
        (SignalKind::terminate(), Order::Stop),
        (SignalKind::interrupt(), Order::Stop),
        (SignalKind::hangup(), Order::Reload),
    ] {
        let (to, mut signals) = (to.clone(), signal(kind)?);
        tokio::spawn(async move { while signals.recv().await.is_some() && to.send(order).await.is_ok() {} });
    }
    Ok(orders)
}

fn status(config: &config::Router, json: bool) -> Result<(), RouterError> {
    let status = control::ask(&config.control_socket)?;
    let text = match serde_json::to_string_pretty(&status) {
        Ok(document) if json => document + "\n",
        _ => status.to_text(SystemTime::now(), &Terminal::of_stdout(Colour::Auto)),
    };
    print(&text);
    Ok(())
}

/// A reader that closes the pipe early (`| head`) is no error.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn print_metrics(config: &config::Router, output: Option<PathBuf>) -> Result<(), RouterError> {
    let asked = control::ask(&config.control_socket);
    // Old figures must not go on looking alive: also when nobody answers there is a document.
    let text = metrics::document(asked.as_ref().ok(), SystemTime::now());
    let written = deliver(&text, output.as_deref());
    asked?;
    match (written, output) {
        (Err(source), Some(file)) => Err(RouterError::Write { file, source }),
        // As with `status`, a reader may have seen enough.
        _ => Ok(()),
    }
}
