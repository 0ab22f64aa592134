//! `enftunctl wait`, and the waiting of `connect --wait` and its like: a state is waited for by signals, never by asking
//! again and again, so that a state that lasts a millisecond counts too.

use super::{CliError, args, time};
use crate::dbus::client::{Client, ClientError, TunnelInfo};
use crate::dbus::{Happening, Watch};
use crate::state::Phase;
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The tunnel.
    name: String,
    /// The state.
    #[arg(value_parser = args::phase())]
    state: Phase,
    /// How long at most.
    #[arg(long, default_value = "60s", value_parser = time::duration)]
    timeout: Duration,
}

pub async fn run(args: Args) -> Result<(), CliError> {
    let client = Client::connect().await?;
    let watch = client.watch().await?;
    until(&client, watch, &args.name, Sought::new(args.state.as_str()), None, args.timeout).await
}

/// What is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Sought {
    state: &'static str,
    /// A state from which the sought one will not come ends the wait.
    or_failure: bool,
    /// To be in that state since before does not count.
    anew: bool,
}

impl Sought {
    pub fn new(state: &'static str) -> Self {
        Self { state, or_failure: false, anew: false }
    }

    pub fn or_failure(self) -> Self {
        Self { or_failure: true, ..self }
    }

    pub fn anew(self) -> Self {
        Self { anew: true, ..self }
    }

    /// Why the tunnel, now that it is `new`, will not come to the sought state.
    fn hopeless(&self, tunnel: &str, new: &str, cause: &str) -> Option<CliError> {
        let contrary = match self.state {
            "connected" => matches!(new, "disconnecting" | "disconnected"),
            _ => new == "connecting",
        };
        if !self.or_failure {
            None
        } else if new == "error" {
            Some(self.failed(tunnel, cause))
        } else if contrary {
            Some(self.failed(tunnel, &format!("somebody else made it {new}")))
        } else {
            None
        }
    }

    fn failed(&self, tunnel: &str, why: &str) -> CliError {
        CliError::Failed { tunnel: tunnel.to_owned(), wanted: self.state.to_owned(), why: why.to_owned() }
    }
}

/// Waits. `before` is how the tunnel was before something was asked of it: what still is as it was then says nothing.
pub async fn until(
    client: &Client,
    mut watch: Watch,
    name: &str,
    sought: Sought,
    before: Option<&TunnelInfo>,
    timeout: Duration,
) -> Result<(), CliError> {
    let waiting = async {
        let (_, now) = client.tunnel(name).await?;
        let unchanged = before.is_some_and(|old| (&old.state, old.state_since) == (&now.state, now.state_since));
        if now.state == sought.state && !(sought.anew && unchanged) {
            return Ok(());
        }
        if sought.anew && now.target_state == "disconnected" {
            return Err(sought.failed(name, "it is not wanted; connect it"));
        }
        if !unchanged && let Some(error) = sought.hopeless(name, &now.state, &cause(&now)) {
            return Err(error);
        }
        loop {
            match watch.next().await? {
                Happening::State { tunnel, new, .. } if tunnel == name && new == sought.state => return Ok(()),
                Happening::State { tunnel, new, reason, error, .. } if tunnel == name => {
                    if let Some(error) = sought.hopeless(name, &new, &error.unwrap_or(reason)) {
                        return Err(error);
                    }
                }
                Happening::State { .. } | Happening::Tampered { .. } | Happening::Here => {}
                Happening::Gone => return Err(ClientError::Gone.into()),
            }
        }
    };
    match tokio::time::timeout(timeout, waiting).await {
        Ok(done) => done,
        Err(_) => {
            let (_, now) = client.tunnel(name).await?;
            Err(CliError::TimedOut {
                tunnel: name.to_owned(),
                wanted: sought.state.to_owned(),
                waited: time::seconds(timeout),
                now: match &now.last_error {
                    Some(error) => format!("it is {}: {}", now.state, error.text),
                    None => format!("it is {}", now.state),
                },
            })
        }
    }
}

fn cause(tunnel: &TunnelInfo) -> String {
    tunnel.last_error.as_ref().map_or_else(|| tunnel.state_reason.clone(), |error| error.text.clone())
}
