//! `enftund lockdown NAME`: blocks what belongs in one tunnel, and ends. It needs no bus, no network, no daemon and no device,
//! so it can run before the network comes up. First nothing passes at all; only then is the configuration read.

use super::in_force::{Holder, InForce, InForceError};
use super::last_plans::LastPlans;
use super::targets::Targets;
use super::{note, program};
use crate::config::{self, Lockdown};
use crate::dbus::client::{Client, ClientError};
use crate::error::{Class, chain};
use crate::kernel::{Kernel, KernelError};
use crate::logging;
use crate::plan::{self, Facts, Host, Openings, Plan};
use crate::privileges::{self, PrivilegeError};
use crate::state::Wanted;
use log::LevelFilter;
use std::io;

/// Why a tunnel is not blocked as its configuration says.
#[derive(Debug, thiserror::Error)]
pub enum LockdownError {
    /// The right privileges cannot be had.
    #[error("{why}; {now}", now = if *.blocked { EMERGENCY } else { "nothing is blocked" })]
    Privileges {
        /// Why.
        why: PrivilegeError,
        /// Whether everything is blocked.
        blocked: bool,
    },
    /// What is in force cannot be known or kept.
    #[error("{why}; {now}", now = if *.blocked { EMERGENCY } else { "nothing was changed" })]
    InForce {
        /// Why.
        why: InForceError,
        /// Whether everything is blocked.
        blocked: bool,
    },
    /// The configuration cannot be used. The tunnel is blocked nevertheless.
    #[error(
        "the configuration of {tunnel} cannot be used (`enftunctl check`), and it is blocked nevertheless: {how}. `enftunctl clear {tunnel}` opens it"
    )]
    Configuration {
        /// The tunnel.
        tunnel: String,
        /// What blocks.
        how: &'static str,
    },
    /// The kernel cannot be told.
    #[error("{why}; {now}", now = if *.blocked { EMERGENCY } else { "nothing is blocked" })]
    Kernel {
        /// Why.
        why: KernelError,
        /// Whether everything is blocked.
        blocked: bool,
    },
    /// The plan does not come into force. What is in force already blocks.
    #[error("block it as configured")]
    Apply(#[from] KernelError),
    /// The daemon keeps this host, and cannot be asked.
    #[error("{holder}, or have it block {tunnel}: `enftunctl lockdown {tunnel} on`")]
    HandOver {
        /// The tunnel.
        tunnel: String,
        /// Who.
        holder: InForceError,
        /// Why not.
        source: Box<ClientError>,
    },
    /// The runtime cannot be had.
    #[error("start")]
    Runtime(#[from] io::Error),
}

const EMERGENCY: &str = "nothing passes but loopback, neighbour discovery and DHCP";
const LAST_PLAN: &str = "as it was when it last worked";
const BY_THE_DAEMON: &str = "by enftund, which runs";

impl LockdownError {
    /// The class of the error.
    pub fn class(&self) -> Class {
        match self {
            Self::Configuration { .. } => Class::Configuration,
            Self::Kernel { why: error, .. } | Self::Apply(error) => error.class(),
            Self::HandOver { .. } | Self::Privileges { .. } | Self::InForce { .. } | Self::Runtime(_) => {
                Class::Environment
            }
        }
    }
}

/// Blocks `name`, unless its lockdown does not ask for it.
pub fn run(options: &program::Options, name: &str) -> Result<(), LockdownError> {
    logging::init("enftund", options.log_level.unwrap_or(LevelFilter::Info), None);
    let directories = [options.paths.state.clone(), options.paths.runtime.clone()];
    let dropped = privileges::drop_privileges(&options.user, &directories);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let uid = match dropped {
        Ok(dropped) => dropped.uid,
        Err(why) => return Err(runtime.block_on(without_privileges(options, name, why))),
    };
    let done = runtime.block_on(lock_down(options, name, uid));
    runtime.shutdown_background();
    done
}

/// The daemon cannot run here either. While we are who we are, at least nothing passes.
async fn without_privileges(options: &program::Options, name: &str, why: PrivilegeError) -> LockdownError {
    let blocked = match InForce::open(&options.paths.runtime, Holder::Lockdown) {
        Ok(mut in_force) => {
            note(name, in_force.set_unknown(name));
            block_everything().await
        }
        Err(InForceError::Locked { .. }) => false,
        Err(_) => block_everything().await,
    };
    LockdownError::Privileges { why, blocked }
}

/// The emergency policy alone, knowing nothing.
async fn block_everything() -> bool {
    let done = Kernel::block_everything().await;
    if let Err(error) = &done {
        log::error!("{}", chain(error));
    }
    done.is_ok()
}

async fn lock_down(options: &program::Options, name: &str, uid: u32) -> Result<(), LockdownError> {
    let mut in_force = match InForce::open(&options.paths.runtime, Holder::Lockdown) {
        Ok(in_force) => in_force,
        Err(held @ InForceError::Locked { .. }) => return hand_over(options, name, held).await,
        Err(why) => return Err(LockdownError::InForce { why, blocked: block_everything().await }),
    };
    // Whoever comes next finds it written down, also when this ends here.
    note(name, in_force.set_unknown(name));
    let mut kernel = match Kernel::new(uid, &options.paths.runtime) {
        Ok(kernel) => kernel,
        Err(why) => return Err(LockdownError::Kernel { why, blocked: block_everything().await }),
    };
    if let Err(error) = apply_host(&mut kernel, &in_force).await {
        // The rules can still be had.
        log::error!(ENFTUN_TUNNEL = name; "{}", chain(&error));
    }

    let mut last_plans = LastPlans::load(&options.paths.state);
    let wish = judge(options, name, &last_plans);
    let plan = match &wish {
        Wish::Block(plan) => Some(plan.as_ref().clone()),
        Wish::Leave => None,
        Wish::Unusable => last_plans.get(name).cloned(),
    };
    if let Some(plan) = &plan {
        note(name, in_force.set(name, plan));
        // All is blocked until the rules are there.
        kernel.apply(plan).await?;
        apply_host(&mut kernel, &in_force).await?;
        retire(&mut kernel, &mut in_force, name).await;
        if !last_plans.is_damaged() {
            last_plans.set(name, Some(plan));
        }
    }
    match (wish, plan) {
        (Wish::Block(_), _) => log::info!(ENFTUN_TUNNEL = name; "{name} is blocked"),
        (Wish::Leave, _) => {
            log::info!(ENFTUN_TUNNEL = name; "{name} is left as it was: its lockdown is not \"boot\"");
            note(name, in_force.set_known(name));
            apply_host(&mut kernel, &in_force).await?;
        }
        (Wish::Unusable, plan) => {
            let how = if plan.is_some() { LAST_PLAN } else { EMERGENCY };
            return Err(LockdownError::Configuration { tunnel: name.to_owned(), how });
        }
    }
    Ok(())
}

/// What is to be done about a tunnel.
enum Wish {
    /// This.
    Block(Box<Plan>),
    /// Nothing.
    Leave,
    /// Its configuration cannot be used: what was last in force.
    Unusable,
}

/// Reads the configuration, and what the user said of the tunnel's lockdown beside it.
fn judge(options: &program::Options, name: &str, last_plans: &LastPlans) -> Wish {
    let targets = Targets::load(&options.paths.state).unwrap_or_else(|error| {
        log::error!("{}", chain(&error));
        Targets::default()
    });
    let config::Loaded { mut config, findings, .. } = config::load(&options.paths.config);
    program::tell(&findings);
    let Some(mut tunnel) = config.tunnels.remove(name) else {
        let opened = targets.lockdown(name) == Some(false);
        if !opened {
            let file = options.paths.tunnel_file(name);
            log::error!(ENFTUN_TUNNEL = name; "the file {} cannot be used, or is not there", file.display());
        }
        return if opened { Wish::Leave } else { Wish::Unusable };
    };
    let lockdown = targets.overrule(name, tunnel.route.lockdown);
    // Its user neither opened it, as far as is known, nor wants it: the last plan is the only word that there is.
    let was_blocked = targets.get(name).is_none() && last_plans.was_blocking(name);
    if lockdown != Lockdown::Boot && !was_blocked {
        return Wish::Leave;
    }
    tunnel.route.lockdown = lockdown;
    let facts = Facts { wanted: &Wanted::Blocked, kept: &[], openings: &Openings::default() };
    Wish::Block(Box::new(plan::build(&tunnel, &config.groups, facts)))
}

/// Brings what all tunnels in force need together into force.
async fn apply_host(kernel: &mut Kernel, in_force: &InForce) -> Result<(), KernelError> {
    let host = Host::with(in_force.plans().values(), kernel.owner(), !in_force.unknown().is_empty());
    kernel.apply_host(&host).await.map(drop)
}

/// Takes away what former plans of the tunnel had and no plan has now.
async fn retire(kernel: &mut Kernel, in_force: &mut InForce, name: &str) {
    let plans: Vec<Plan> = in_force.plans().values().cloned().collect();
    let mut errors = Vec::new();
    for scope in in_force.former(name) {
        errors.extend(kernel.retire(&scope, &plans).await);
    }
    for error in &errors {
        log::error!(ENFTUN_TUNNEL = name; "{}", chain(error));
    }
    if errors.is_empty() {
        note(name, in_force.retired(name));
    }
}

/// The daemon keeps this host: it is asked.
async fn hand_over(options: &program::Options, name: &str, held: InForceError) -> Result<(), LockdownError> {
    if !held.is_daemon() {
        return Err(LockdownError::InForce { why: held, blocked: false });
    }
    let wish = judge(options, name, &LastPlans::load(&options.paths.state));
    if matches!(wish, Wish::Leave) {
        log::info!(ENFTUN_TUNNEL = name; "{name} is left as it was: its lockdown is not \"boot\"");
        return Ok(());
    }
    let asked = async {
        let client = Client::connect().await?;
        match client.tunnel(name).await {
            Ok((_, tunnel)) if tunnel.blocking => Ok(()),
            _ => client.set_lockdown(name, true).await,
        }
    };
    asked.await.map_err(|source| LockdownError::HandOver {
        tunnel: name.to_owned(),
        holder: held,
        source: Box::new(source),
    })?;
    log::info!(ENFTUN_TUNNEL = name; "enftund keeps {name} blocked");
    match wish {
        Wish::Unusable => Err(LockdownError::Configuration { tunnel: name.to_owned(), how: BY_THE_DAEMON }),
        Wish::Block(_) | Wish::Leave => Ok(()),
    }
}
