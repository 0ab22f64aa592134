//! `enftunctl reload`: has the daemon read its configuration again; returns when it is in force.

use super::CliError;
use crate::dbus::client::Client;

pub async fn run() -> Result<(), CliError> {
    Ok(Client::connect().await?.reload().await?)
}
