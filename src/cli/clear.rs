//! `enftunctl clear NAME`: takes away everything that the tunnel may have in the kernel, without the daemon. It opens what
//! was blocked, so it says so; it goes on past errors and tells them all.

use super::args::Clear;
use super::{CliError, load_tunnel, output};
use crate::dbus::client::{Change, Client};
use crate::error::chain;
use crate::kernel::Kernel;
use crate::paths::Paths;
use crate::plan::Scope;

/// Clears, or reports everything that could not be cleared.
pub async fn run(args: Clear) -> Result<(), CliError> {
    let paths = Paths { config: args.config_dir.path, ..Paths::default() };
    let tunnel = load_tunnel(&args.name, &paths)?;
    // A daemon that runs would put it back: it is told first, and the lockdown that it keeps is not ours to break.
    if let Ok(client) = Client::connect().await
        && client.tunnel(&tunnel.name).await.is_ok()
    {
        client.change(&tunnel.name, Change::Disconnect).await?;
        let (_, now) = client.tunnel(&tunnel.name).await?;
        if now.blocking {
            return Err(CliError::LockedDown { tunnel: tunnel.name });
        }
    }
    let mut kernel = Kernel::new(nix::unistd::geteuid().as_raw())?;
    if let Err(errors) = kernel.clear(&Scope::of(&tunnel)).await {
        let why = errors.iter().map(|error| chain(error)).collect::<Vec<_>>().join("; ");
        return Err(CliError::LeftBehind { tunnel: tunnel.name, why });
    }
    output::line(&format!("nothing of {} is left in the kernel; its traffic is no longer blocked", tunnel.name))
}
