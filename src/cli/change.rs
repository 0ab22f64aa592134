//! `enftunctl connect`, `disconnect` and `reconnect`: the same words to the daemon but for one, and the same wait.

pub use crate::dbus::client::Change;

use super::wait::{self, Sought};
use super::{CliError, time};
use crate::dbus::client::Client;
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The tunnel.
    name: String,
    /// Waits until it is done, and fails when it cannot be: 60s unless TIMEOUT says otherwise.
    #[arg(
        long,
        value_name = "TIMEOUT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "60s",
        value_parser = time::duration
    )]
    wait: Option<Duration>,
}

pub async fn run(change: Change, args: Args) -> Result<(), CliError> {
    let client = Client::connect().await?;
    let Some(timeout) = args.wait else {
        return Ok(client.change(&args.name, change).await?);
    };
    let mut watch = client.watch().await?;
    let (_, before) = client.tunnel(&args.name).await?;
    client.change(&args.name, change).await?;
    // The answer comes after the signals of what the call caused: what waits here is the past.
    watch.skip_past();
    let sought = match change {
        Change::Connect => Sought::new("connected").or_failure(),
        Change::Disconnect => Sought::new("disconnected").or_failure(),
        Change::Reconnect => Sought::new("connected").or_failure().anew(),
    };
    wait::until(&client, watch, &args.name, sought, Some(&before), timeout).await
}
