//! `enftunctl clear NAME`: takes away everything that the tunnel may have in the kernel, by the daemon or without it;
//! `clear --all`, without it, what all of them may have. It opens what was blocked, so it says so; it goes on past errors and
//! tells them all.

use super::args::Clear;
use super::{CliError, load_tunnel, output, tunnel_name};
use crate::daemon::in_force::{Holder, InForce};
use crate::daemon::last_plans::LastPlans;
use crate::dbus::client::{Change, Client, ClientError};
use crate::error::chain;
use crate::kernel::Kernel;
use crate::paths::Paths;
use crate::plan::{Host, Scope};
use serde::Serialize;
use std::collections::BTreeSet;

#[derive(Serialize)]
struct Document<'a> {
    cleared: Vec<String>,
    text: &'a str,
}

/// Clears, or reports everything that could not be cleared.
pub async fn run(args: Clear) -> Result<(), CliError> {
    let paths = Paths { config: args.config_dir.path, state: args.state_dir.path, runtime: args.runtime_dir.path };
    let Some(what) = &args.name else { return all(&paths, args.json).await };
    let name = &tunnel_name(what);
    // A daemon that runs would put it back: it is told.
    if let Ok(client) = Client::connect().await
        && let Some(told) = by_daemon(&client, name).await?
    {
        return done(args.json, name, &told);
    }
    let mut in_force = InForce::open(&paths.runtime, Holder::Clear)?;
    let mut last_plans = LastPlans::load(&paths.state);
    let mut scopes = scopes(name, &in_force, &last_plans);
    match load_tunnel(what, &paths) {
        Ok(tunnel) => scopes.push(Scope::of(&tunnel)),
        // What it has in the kernel is known nevertheless.
        Err(_) if !scopes.is_empty() || in_force.unknown().contains(name) || last_plans.was_blocking(name) => {}
        Err(error) => return Err(error),
    }
    take_away(&BTreeSet::from([name.clone()]), &scopes, &in_force, &paths)
        .await
        .map_err(|why| CliError::LeftBehind { tunnel: name.clone(), why })?;
    forget([name], &mut in_force, &mut last_plans)?;
    done(args.json, name, "")
}

/// Every tunnel that may have anything in the kernel. A daemon that runs would put it back, and the lock is its own.
async fn all(paths: &Paths, json: bool) -> Result<(), CliError> {
    let mut in_force = InForce::open(&paths.runtime, Holder::Clear)?;
    let mut last_plans = LastPlans::load(&paths.state);
    let names: BTreeSet<String> = in_force.tunnels().chain(last_plans.all().keys()).cloned().collect();
    let scopes: Vec<Scope> = names.iter().flat_map(|name| scopes(name, &in_force, &last_plans)).collect();
    take_away(&names, &scopes, &in_force, paths).await.map_err(CliError::SomethingLeft)?;
    forget(&names, &mut in_force, &mut last_plans)?;
    tell(json, names.into_iter().collect(), "nothing of any tunnel is left in the kernel; nothing is blocked any more")
}

/// What a tunnel may have in the kernel, as far as it is written down.
fn scopes(name: &str, in_force: &InForce, last_plans: &LastPlans) -> Vec<Scope> {
    let last = last_plans.get(name).map(|plan| plan.scope.clone());
    in_force.scopes(name).into_iter().chain(last).collect()
}

/// Takes away what these tunnels have, and of the firewall what no other needs. Says what is left, and why.
async fn take_away(
    names: &BTreeSet<String>,
    scopes: &[Scope],
    in_force: &InForce,
    paths: &Paths,
) -> Result<(), String> {
    let mut kernel = Kernel::new(nix::unistd::geteuid().as_raw(), &paths.runtime).map_err(|error| chain(&error))?;
    let before = Host::with(in_force.plans().values(), kernel.owner(), !in_force.unknown().is_empty());
    if let Some(table) = &before.firewall {
        kernel.presume(table);
    }
    let mut errors = Vec::new();
    for scope in scopes {
        errors.extend(kernel.clear(scope).await.err().into_iter().flatten());
    }
    // What other tunnels need stays; the firewall goes last.
    let others = in_force.plans().iter().filter(|(other, _)| !names.contains(*other)).map(|(_, plan)| plan);
    let emergency = in_force.unknown().iter().any(|other| !names.contains(other));
    errors.extend(kernel.apply_host(&Host::with(others, kernel.owner(), emergency)).await.err());
    if errors.is_empty() { Ok(()) } else { Err(errors.iter().map(|error| chain(error)).collect::<Vec<_>>().join("; ")) }
}

fn forget<'a>(
    names: impl IntoIterator<Item = &'a String>,
    in_force: &mut InForce,
    last_plans: &mut LastPlans,
) -> Result<(), CliError> {
    for name in names {
        in_force.forget(name)?;
        last_plans.forget(name);
    }
    Ok(())
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

fn done(json: bool, tunnel: &str, told: &str) -> Result<(), CliError> {
    let text = format!("nothing of {tunnel} is left in the kernel; its traffic is no longer blocked{told}");
    tell(json, vec![tunnel.to_owned()], &text)
}

fn tell(json: bool, cleared: Vec<String>, text: &str) -> Result<(), CliError> {
    if json { output::json(&Document { cleared, text }) } else { output::line(text) }
}
