//! `enftunctl monitor`: every change of state and every repair as it happens, and the daemon's coming and going, until it is
//! interrupted.

use super::{CliError, output, time};
use crate::dbus::Happening;
use crate::dbus::client::Client;
use crate::terminal::{Span, Tone};
use serde::Serialize;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Prints a JSON document per line.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Event<'a> {
    Daemon { time: u64, running: bool },
    StateChanged { time: u64, tunnel: &'a str, new: &'a str, old: &'a str, reason: &'a str, error: Option<&'a str> },
    Tampered { time: u64, what: &'a str },
}

pub async fn run(args: Args) -> Result<(), CliError> {
    let client = Client::connect().await?;
    let following = async {
        let mut watch = client.watch().await?;
        tell(&args, if watch.is_here() { &Happening::Here } else { &Happening::Gone })?;
        loop {
            tell(&args, &watch.next().await?)?;
        }
    };
    tokio::select! {
        done = following => done,
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(CliError::Start),
    }
}

fn tell(args: &Args, happening: &Happening) -> Result<(), CliError> {
    let time = time::now();
    if args.json {
        return output::json_line(&match happening {
            Happening::Here => Event::Daemon { time, running: true },
            Happening::Gone => Event::Daemon { time, running: false },
            Happening::Tampered { what } => Event::Tampered { time, what },
            Happening::State { tunnel, new, old, reason, error } => {
                Event::StateChanged { time, tunnel, new, old, reason, error: error.as_deref() }
            }
        });
    }
    let mut line = vec![Span::new(Tone::Faint, format!("{} {} UTC", time::date(time), time::clock(time))), "  ".into()];
    match happening {
        Happening::Here => line.push(Span::new(Tone::Good, "enftund is running")),
        Happening::Gone => line.push(Span::new(Tone::Bad, "enftund is not running")),
        Happening::Tampered { what } => line.push(Span::new(Tone::Notice, what)),
        Happening::State { tunnel, new, old, reason, error } => {
            let error = error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
            let reason = format!(" ({reason}){error}");
            line.extend([format!("{tunnel}: {old} -> ").into(), Span::state(new), reason.into()]);
        }
    }
    output::spans(&line)
}
