//! `enftunctl plan NAME`: what the kernel must hold for a tunnel in a state, as commands a person can read and run.
//! It changes nothing and asks nobody.

use super::args::Plan;
use super::{CliError, load_groups, load_tunnel, output};
use crate::config::{Kind, Lockdown, Tunnel};
use crate::identity;
use crate::paths::{DAEMON_USER, Paths};
use crate::plan::{self, Facts, Host, Observed, Openings};
use crate::state::{Phase, Wanted};
use ipnet::{IpNet, Ipv6Net};
use serde::Serialize;
use std::net::SocketAddr;

#[derive(Serialize)]
struct Document<'a> {
    tunnel: &'a str,
    state: &'static str,
    commands: Vec<String>,
}

pub fn run(args: Plan) -> Result<(), CliError> {
    let paths = Paths { config: args.config_dir.path, ..Paths::default() };
    let tunnel = load_tunnel(&args.name, &paths)?;
    let own = own_addresses(&tunnel);
    let openings = openings(&tunnel);
    let wanted = wanted(&tunnel, args.state, own.clone());
    let facts = Facts { wanted: &wanted, kept: &own, openings: &openings };
    let plan = plan::build(&tunnel, &load_groups(&paths)?, facts);
    let host = Host::of([&plan], daemon_user());
    let at_home = tunnel.kind.enf().filter(|enf| args.state == Phase::Connected && enf.advertise.is_none());
    let dns = at_home.and_then(|enf| Some((enf.dns.as_ref()?, &enf.tun.dev)));
    let names: Vec<String> = dns.map(|(dns, dev)| dns.resolvectl(dev).into()).unwrap_or_default();
    if args.json {
        let of_tunnel = plan::diff(&plan, &Observed::default());
        let commands = host.commands().into_iter().chain(of_tunnel.iter().map(ToString::to_string)).chain(names);
        let commands = commands.collect();
        return output::json(&Document { tunnel: &tunnel.name, state: args.state.as_str(), commands });
    }
    output::line(&format!("# tunnel {}, {}", tunnel.name, args.state))?;
    if plan.link.is_some() && own.is_empty() {
        output::line("# the own address, which the certificate names, is left out: the certificate cannot be read")?;
    }
    if plan == plan.scope.empty() {
        output::line("# nothing: all traffic goes as without the tunnel")?;
    }
    host.to_string().lines().chain(plan.to_string().lines()).try_for_each(output::line)?;
    if !names.is_empty() {
        output::line("# name servers, through systemd-resolved")?;
    }
    names.iter().try_for_each(|command| output::line(command))
}

/// Where the session's own packets would be let go: the remotes, and proxies to them, that need no look-up.
fn openings(tunnel: &Tunnel) -> Openings {
    let mut openings = Openings::default();
    for host in &tunnel.remote.hosts {
        if let Some((name, port)) = host.dialled()
            && let Ok(address) = name.parse()
        {
            let to = if host.is_proxied() { &mut openings.proxies } else { &mut openings.remotes };
            to.push(SocketAddr::new(address, port));
        }
    }
    openings
}

/// The user that the daemon runs as, by number; where there is none, the caller.
fn daemon_user() -> u32 {
    let user = nix::unistd::User::from_name(DAEMON_USER).ok().flatten();
    user.map_or_else(nix::unistd::geteuid, |user| user.uid).as_raw()
}

/// What the kernel holds in a state; `disconnected` is what is left after the user's disconnect.
fn wanted(tunnel: &Tunnel, state: Phase, own: Vec<IpNet>) -> Wanted {
    match state {
        Phase::Disconnected | Phase::Disconnecting if tunnel.route.lockdown == Lockdown::Boot => Wanted::Blocked,
        Phase::Disconnected | Phase::Disconnecting => Wanted::Open,
        Phase::Connecting | Phase::Reconnecting | Phase::Error => Wanted::Connecting,
        Phase::Connected => Wanted::Connected(own),
    }
}

/// What the certificate names; nothing when it cannot be read.
fn own_addresses(tunnel: &Tunnel) -> Vec<IpNet> {
    let Kind::Enf(enf) = &tunnel.kind else { return Vec::new() };
    let chain = identity::certificates(&enf.identity.cert_file).unwrap_or_default();
    let own = chain.first().and_then(identity::address_of).map(|own| Ipv6Net::from(own).into());
    own.into_iter().chain(enf.tun.ipv4_address.filter(|_| tunnel.route.allow_ipv4).map(IpNet::from)).collect()
}
