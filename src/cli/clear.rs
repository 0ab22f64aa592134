//! `enftunctl clear NAME`: takes away everything that the tunnel may have in the kernel, by the daemon or without it. It opens
//! what was blocked, so it says so; it goes on past errors and tells them all.

use super::args::Clear;
use super::{CliError, load_tunnel, output, tunnel_name};
use crate::daemon::in_force::{Holder, InForce};
use crate::daemon::last_plans::LastPlans;
use crate::dbus::client::{Change, Client, ClientError};
use crate::error::chain;
use crate::kernel::Kernel;
use crate::paths::Paths;
use crate::plan::{Host, Scope};

/// Clears, or reports everything that could not be cleared.
pub async fn run(args: Clear) -> Result<(), CliError> {
    let paths = Paths { config: args.config_dir.path, state: args.state_dir.path, runtime: args.runtime_dir.path };
    let name = &tunnel_name(&args.name);
    // A daemon that runs would put it back: it is told.
    if let Ok(client) = Client::connect().await
        && let Some(told) = by_daemon(&client, name).await?
    {
        return done(name, &told);
    }
    let mut in_force = InForce::open(&paths.runtime, Holder::Clear)?;
    let mut last_plans = LastPlans::load(&paths.state);
    let last = last_plans.get(name).map(|plan| plan.scope.clone());
    let mut scopes: Vec<Scope> = in_force.scopes(name).into_iter().chain(last).collect();
    match load_tunnel(&args.name, &paths) {
        Ok(tunnel) => scopes.push(Scope::of(&tunnel)),
        // What it has in the kernel is known nevertheless.
        Err(_) if !scopes.is_empty() || in_force.unknown().contains(name) || last_plans.was_blocking(name) => {}
        Err(error) => return Err(error),
    }
    let mut kernel = Kernel::new(nix::unistd::geteuid().as_raw(), &paths.runtime)?;
    let mut errors = Vec::new();
    for scope in &scopes {
        errors.extend(kernel.clear(scope).await.err().into_iter().flatten());
    }
    // What other tunnels need stays; the firewall goes last.
    let others = in_force.plans().iter().filter(|(other, _)| *other != name).map(|(_, plan)| plan);
    let emergency = in_force.unknown().iter().any(|other| other != name);
    errors.extend(kernel.apply_host(&Host::with(others, kernel.owner(), emergency)).await.err());
    if !errors.is_empty() {
        let why = errors.iter().map(|error| chain(error)).collect::<Vec<_>>().join("; ");
        return Err(CliError::LeftBehind { tunnel: name.to_owned(), why });
    }
    in_force.forget(name)?;
    last_plans.forget(name);
    done(name, "")
}

/// Has the daemon do it, if it has the tunnel. What it did, for people.
async fn by_daemon(client: &Client, name: &str) -> Result<Option<String>, CliError> {
    match client.tunnel(name).await {
        Ok(_) => {}
        // Its file cannot be used or is gone, and it may be kept blocked.
        Err(ClientError::NotFound { .. }) => {
            return match client.set_lockdown(name, false).await {
                Ok(()) => Ok(Some("; enftund had kept it blocked without its file".to_owned())),
                Err(ClientError::NotFound { .. }) => Ok(None),
                Err(error) => Err(error.into()),
            };
        }
        // It does not run.
        Err(_) => return Ok(None),
    }
    client.change(name, Change::Disconnect).await?;
    let (_, mut now) = client.tunnel(name).await?;
    let locked = now.lockdown == "boot";
    if locked {
        client.set_lockdown(name, false).await?;
        (_, now) = client.tunnel(name).await?;
    }
    if now.blocking {
        let why = now.last_error.map(|error| error.text).unwrap_or_default();
        return Err(CliError::LeftBehind { tunnel: name.to_owned(), why });
    }
    let more = format!(", and its lockdown is off from now on (`enftunctl lockdown {name} on` undoes that)");
    Ok(Some(format!("; enftund has disconnected it{}", if locked { more } else { String::new() })))
}

fn done(tunnel: &str, told: &str) -> Result<(), CliError> {
    output::line(&format!("nothing of {tunnel} is left in the kernel; its traffic is no longer blocked{told}"))
}
