//! `enftunctl clear NAME`: takes away everything that the tunnel may have in the kernel, without the daemon. It opens what
//! was blocked, so it says so; it goes on past errors and tells them all.

use super::args::Clear;
use super::{CliError, load_tunnel, output};
use crate::daemon::in_force::InForce;
use crate::dbus::client::{Change, Client};
use crate::error::chain;
use crate::kernel::Kernel;
use crate::paths::Paths;
use crate::plan::{Host, Scope};

/// Clears, or reports everything that could not be cleared.
pub async fn run(args: Clear) -> Result<(), CliError> {
    let paths = Paths { config: args.config_dir.path, runtime: args.runtime_dir.path, ..Paths::default() };
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
        return done(&tunnel.name);
    }
    let mut in_force = InForce::open(&paths.runtime, "enftunctl clear")?;
    let mut kernel = Kernel::new(nix::unistd::geteuid().as_raw(), &paths.runtime)?;
    let scope = Scope::of(&tunnel);
    let mut errors = kernel.clear(&scope).await.err().unwrap_or_default();
    // What other tunnels need stays; the firewall goes last.
    let others = in_force.plans().iter().filter(|(name, _)| **name != tunnel.name).map(|(_, plan)| plan);
    errors.extend(kernel.apply_host(&Host::of(others, kernel.owner())).await.err());
    if errors.is_empty() {
        in_force.set(&tunnel.name, &scope.empty())?;
    } else {
        let why = errors.iter().map(|error| chain(error)).collect::<Vec<_>>().join("; ");
        return Err(CliError::LeftBehind { tunnel: tunnel.name, why });
    }
    done(&tunnel.name)
}

fn done(tunnel: &str) -> Result<(), CliError> {
    output::line(&format!("nothing of {tunnel} is left in the kernel; its traffic is no longer blocked"))
}
