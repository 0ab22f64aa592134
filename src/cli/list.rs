//! `enftunctl list`: which tunnels there are.

use super::{CliError, output};
use crate::dbus::client::Client;
use crate::terminal::Span;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Prints JSON instead of a table.
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args) -> Result<(), CliError> {
    let overview = Client::connect().await?.overview().await?;
    if args.json {
        return output::json(&overview);
    }
    let rows = overview
        .tunnels
        .into_iter()
        .map(|tunnel| [tunnel.name.into(), tunnel.kind.into(), Span::state(&tunnel.state)])
        .collect();
    output::table(["NAME", "KIND", "STATE"], rows)
}
