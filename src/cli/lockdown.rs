//! `enftunctl lockdown NAME on|off`: what the user says of a tunnel's lockdown, which holds instead of what its file says.

use super::{CliError, output};
use crate::dbus::client::Client;
use serde::Serialize;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The tunnel.
    name: String,
    /// on: blocked from boot until it is opened, as lockdown = "boot"; off: blocked only while it is wanted, as "session".
    switch: Switch,
    /// Prints JSON instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    tunnel: &'a str,
    lockdown: &'a str,
    wanted: bool,
    blocking: bool,
    text: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Switch {
    On,
    Off,
}

pub async fn run(args: Args) -> Result<(), CliError> {
    let Args { name, switch, json } = args;
    let client = Client::connect().await?;
    client.set_lockdown(&name, switch == Switch::On).await?;
    // One whose file cannot be used is not there any more.
    let now = client.tunnel(&name).await.ok().map(|(_, tunnel)| tunnel);
    let wanted = now.as_ref().is_some_and(|tunnel| tunnel.target_state == "connected");
    let blocking = now.as_ref().is_some_and(|tunnel| tunnel.blocking);
    let text = match (switch, wanted, blocking) {
        (Switch::On, _, _) => format!("{name} is blocked from boot on, until `enftunctl lockdown {name} off`"),
        (Switch::Off, true, _) => format!(
            "{name} is no longer blocked from boot on; it is blocked as long as it is wanted: `enftunctl disconnect {name}` opens it"
        ),
        (Switch::Off, false, false) => format!("{name} is not blocked any more"),
        (Switch::Off, false, true) => format!("{name} is being opened: `enftunctl status {name}` shows how it is"),
    };
    if !json {
        return output::line(&text);
    }
    // What was asked for, where there is no tunnel to say so itself.
    let asked = if switch == Switch::On { "boot" } else { "session" };
    let lockdown = now.as_ref().map_or(asked, |tunnel| &tunnel.lockdown);
    output::json(&Document { tunnel: &name, lockdown, wanted, blocking, text: &text })
}
