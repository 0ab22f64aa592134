//! The only place that changes the host: brings a [`Plan`] into force by rtnetlink and the TUN device, and takes it back.
//! It decides nothing: what shall be there is the plan's business, and what belongs to whom is its scope's.
//!
//! One file per concern, each with the same verbs: `observe` what is there, `apply` one item, `clear` one item.

mod address;
mod card;
mod error;
mod group;
mod guard;
mod host;
mod link;
mod nft;
mod path;
mod previous;
mod route;
mod rule;
mod sysctl;
mod watch;

pub use error::KernelError;
pub use host::HostApplied;
pub use nft::Firewall;
pub use path::Path;
pub use watch::Watch;

use crate::plan::{self, Card, Change, Host, Observed, Plan, Scope};
use crate::sys::tun::{Layer, Tun};
use guard::Guard;
use previous::Previous;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::AbortHandle;

/// How long a plan may take to come into force.
const DEADLINE: Duration = Duration::from_secs(10);
/// One round does it; more are needed when somebody else changes the same things, or left other settings of them behind.
const ROUNDS: usize = 3;

/// A plan in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// What was changed, as commands; empty when all was there already.
    pub changes: Vec<String>,
    /// The port of a card that has come since it was last there, as the commands that take it in. Nobody did wrong.
    pub arrived: Vec<String>,
    /// The device's index, if the plan has one.
    pub ifindex: Option<u32>,
    /// The index of a card's TAP, if the plan has one.
    pub tap: Option<u32>,
}

/// The kernel of one network namespace: that of the thread that made it.
#[derive(Debug)]
pub struct Kernel {
    netlink: rtnetlink::Handle,
    driver: AbortHandle,
    owner: u32,
    held: HashMap<String, Held>,
    /// What was there before of what is not ours.
    previous: Previous,
    /// How this nft lists our present table, where that is not as we expect it.
    listed: Option<(nft::Listing, nft::Listing)>,
    guard: Guard,
    firewall: Firewall,
    /// The ports of cards that were taken in, by name: the index of each.
    ports: HashMap<String, u32>,
}

/// Whether there is an interface of this name, in the network namespace of the calling thread.
pub fn exists(interface: &str) -> bool {
    nix::net::if_::if_nametoindex(interface).is_ok()
}

/// A device whose descriptor we hold.
#[derive(Debug)]
struct Held {
    index: u32,
    tun: Arc<Tun>,
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Kernel {
    /// Opens rtnetlink. `owner` is the user who may attach to TUN devices; in a user namespace that does not know this user,
    /// it is the user we are. In `runtime_dir` stands what was there before of what is not ours. Needs a tokio runtime.
    pub fn new(owner: u32, runtime_dir: &std::path::Path) -> Result<Self, KernelError> {
        let previous = Previous::open(runtime_dir)?;
        // With strict checks the kernel honours the filters of dumps: a table of ours is read without all others.
        let (connection, netlink, _) = rtnetlink::new_connection_with_strict_check().map_err(KernelError::Netlink)?;
        let driver = tokio::spawn(connection).abort_handle();
        Ok(Self {
            netlink,
            driver,
            owner: link::owner_here(owner),
            held: HashMap::new(),
            previous,
            listed: None,
            guard: Guard::default(),
            firewall: Firewall::default(),
            ports: HashMap::new(),
        })
    }

    /// Our table as the last look left it.
    pub fn firewall(&self) -> &Firewall {
        &self.firewall
    }

    /// The user who may attach to TUN devices, and whose marked packets are our own.
    pub fn owner(&self) -> u32 {
        self.owner
    }

    /// What is there of a tunnel.
    pub async fn observe(&self, scope: &Scope) -> Result<Observed, KernelError> {
        let held = self.held.get(&scope.dev).map(|held| held.index);
        let link = match scope.dev.as_str() {
            "" => None,
            dev => link::observe(&self.netlink, dev, self.owner, held)
                .await
                .map_err(|error| KernelError::observe("the link", error))?,
        };
        let addresses = match &link {
            Some(link) => address::observe(&self.netlink, link.index, &scope.dev)
                .await
                .map_err(|error| KernelError::observe("its addresses", error))?,
            None => Vec::new(),
        };
        let index = link.as_ref().map(|link| link.index);
        let routes = route::observe(&self.netlink, scope, index)
            .await
            .map_err(|error| KernelError::observe("the routes", error))?;
        let rules =
            rule::observe(&self.netlink, scope).await.map_err(|error| KernelError::observe("the rules", error))?;
        let card = card::observe(self, scope).await.map_err(|error| KernelError::observe("the card's links", error))?;
        Ok(Observed { link, addresses, routes, rules, card })
    }

    /// Brings a plan into force, and returns once the kernel holds exactly that. After an error, what was there before still
    /// blocks: everything is added before anything is deleted.
    pub async fn apply(&mut self, plan: &Plan) -> Result<Applied, KernelError> {
        tokio::time::timeout(DEADLINE, self.converge(plan)).await.unwrap_or(Err(KernelError::TimedOut(DEADLINE)))
    }

    async fn converge(&mut self, plan: &Plan) -> Result<Applied, KernelError> {
        let mut applied = Applied::default();
        for _ in 0..ROUNDS {
            let due = self.due(plan, &mut applied).await?;
            if due.is_empty() {
                return Ok(applied);
            }
            let arriving = card::arriving(self, plan);
            for change in due {
                self.execute(&change).await?;
                let told = match card::takes_in(&change, arriving.as_ref()) {
                    true => &mut applied.arrived,
                    false => &mut applied.changes,
                };
                told.push(change.to_string());
            }
            self.ports.extend(arriving);
        }
        let remaining = self.due(plan, &mut applied).await?;
        if remaining.is_empty() { Ok(applied) } else { Err(KernelError::Unstable(remaining)) }
    }

    /// Lets nothing pass but loopback, neighbour discovery and DHCP. It needs nothing but nft.
    pub async fn block_everything() -> Result<(), KernelError> {
        nft::apply(&plan::emergency()).await
    }

    /// Brings what is the host's and no single tunnel's into force. The firewall comes first and goes last; behind it this
    /// goes on after an error. The guard, where the kernel can keep one, is there even before the firewall, and after it.
    pub async fn apply_host(&mut self, host: &Host) -> Result<HostApplied, KernelError> {
        tokio::time::timeout(DEADLINE, self.converge_host(host)).await.unwrap_or(Err(KernelError::TimedOut(DEADLINE)))
    }

    async fn converge_host(&mut self, host: &Host) -> Result<HostApplied, KernelError> {
        let mut done = HostApplied::default();
        let guard = host.guard.as_ref();
        if guard.is_some() {
            // Whatever comes of it, the firewall is not kept waiting.
            done.changes.extend(self.guard.try_apply(guard).ok().flatten());
        }
        // Until it is seen to be.
        self.firewall.in_force = false;
        if let Some(table) = &host.firewall {
            done.changes.extend(self.enforce(table).await?);
        }
        let mut found = self.found(host).await;
        let mut errors = match &mut found {
            Ok(found) => self.take(host, found, &mut done).await,
            Err(_) => Vec::new(),
        };
        if guard.is_some() {
            match self.guard.apply(guard).await {
                Ok(change) => done.changes.extend(change),
                Err(error) => errors.push(error),
            }
        }
        match self.due_for_host(host).await {
            Ok(due) => {
                for change in due {
                    match self.execute(&change).await {
                        Ok(()) => done.changes.push(change.to_string()),
                        Err(error) => errors.push(error),
                    }
                }
            }
            Err(error) => errors.push(error),
        }
        match found {
            Ok(found) => errors.extend(self.give_back(host, found, &mut done).await),
            Err(error) => errors.push(error),
        }
        if host.firewall.is_none() {
            match self.no_table().await {
                Ok(change) => done.changes.extend(change),
                Err(error) => errors.push(error),
            }
        }
        if guard.is_none() {
            match self.guard.apply(None).await {
                Ok(change) => done.changes.extend(change),
                Err(error) => errors.push(error),
            }
        }
        KernelError::all(errors).map_or(Ok(done), Err)
    }

    /// Takes it for granted that our table is in the kernel as `table`, for so it is written down: that nft is gone since is an
    /// error then.
    pub fn presume(&mut self, table: &plan::nft::Table) {
        self.firewall.policy = table.to_string().into();
    }

    async fn no_table(&mut self) -> Result<Option<String>, KernelError> {
        let found = match nft::observe(plan::TABLE).await {
            // A host without nft has no table of ours, unless nft went away since.
            Err(KernelError::NoNft) if self.firewall.policy.is_empty() => None,
            found => found?,
        };
        self.firewall.policy = Arc::default();
        self.listed = None;
        if found.is_none() {
            return Ok(None);
        }
        nft::clear(plan::TABLE).await?;
        self.firewall.generation += 1;
        Ok(Some(format!("nft delete table inet {}", plan::TABLE)))
    }

    async fn due_for_host(&self, host: &Host) -> Result<Vec<Change>, KernelError> {
        let found =
            rule::observe_of_host(&self.netlink).await.map_err(|error| KernelError::observe("the rules", error))?;
        let added = plan::missing(&host.rules, &found).map(Change::AddRule);
        Ok(added.chain(plan::missing(&found, &host.rules).map(Change::DeleteRule)).collect())
    }

    /// Replaces our table if it is not as it shall be.
    async fn enforce(&mut self, table: &plan::nft::Table) -> Result<Option<String>, KernelError> {
        let wanted = nft::expected(table);
        let found = nft::observe(table.name).await?;
        let known = |listing: &nft::Listing| {
            *listing == wanted
                || self.listed.as_ref().is_some_and(|(of, as_listed)| *of == wanted && as_listed == listing)
        };
        if found.as_ref().is_some_and(known) {
            self.firewall.is_as_it_shall_be(table);
            return Ok(None);
        }
        if found.is_none() {
            self.firewall.policy = Arc::default();
        }
        for _ in 0..ROUNDS {
            nft::apply(table).await?;
            self.firewall.generation += 1;
            let Some(listing) = nft::observe(table.name).await?.filter(|listing| listing.resembles(&wanted)) else {
                continue;
            };
            // What is listed right after a transaction is what this nft makes of it.
            self.listed = (listing != wanted).then(|| {
                log::debug!("this nft lists our table in a form of its own");
                (wanted, listing)
            });
            self.firewall.is_as_it_shall_be(table);
            let verb = if found.is_some() { "replace" } else { "add" };
            return Ok(Some(format!("nft: {verb} table inet {}", table.name)));
        }
        Err(KernelError::UnstableFirewall)
    }

    /// What is still to be done for a plan.
    async fn due(&mut self, plan: &Plan, applied: &mut Applied) -> Result<Vec<Change>, KernelError> {
        let observed = self.observe(&plan.scope).await?;
        applied.ifindex = observed.link.as_ref().map(|link| link.index);
        applied.tap = observed.card.tap.as_ref().map(|tap| tap.index);
        // A descriptor of a device that is gone is good for nothing.
        self.held.retain(|dev, held| *dev != plan.scope.dev || Some(held.index) == applied.ifindex);
        let [tap, _] = Card::devices(&plan.scope.dev);
        self.held.retain(|dev, held| *dev != tap || Some(held.index) == applied.tap);
        Ok(plan::diff(plan, &observed))
    }

    /// Takes back everything of a tunnel. Goes on after an error; what is absent already is no error.
    pub async fn clear(&mut self, scope: &Scope) -> Result<(), Vec<KernelError>> {
        tokio::time::timeout(DEADLINE, self.take_back(scope))
            .await
            .unwrap_or_else(|_| Err(vec![KernelError::TimedOut(DEADLINE)]))
    }

    async fn take_back(&mut self, scope: &Scope) -> Result<(), Vec<KernelError>> {
        let nothing = scope.empty();
        let mut errors = Vec::new();
        for _ in 0..ROUNDS {
            errors.clear();
            let due = self.due(&nothing, &mut Applied::default()).await.map_err(|error| vec![error])?;
            if due.is_empty() {
                self.held.remove(&scope.dev);
                // Of a port that was taken away meanwhile.
                return self.previous.forget_vanished().map_err(|error| vec![error]);
            }
            for change in due {
                if let Err(error) = self.execute(&change).await {
                    errors.push(error);
                }
            }
        }
        match self.due(&nothing, &mut Applied::default()).await {
            Ok(remaining) if remaining.is_empty() => return Ok(()),
            Ok(remaining) => errors.push(KernelError::Unstable(remaining)),
            Err(error) => errors.push(error),
        }
        Err(errors)
    }

    /// Takes back what `before` owned and no plan of `now`, which are in force, holds: after a change of device, table, mark or
    /// prefixes. Goes on after an error.
    pub async fn retire(&mut self, before: &Scope, now: &[Plan]) -> Vec<KernelError> {
        let observed = match self.observe(before).await {
            Ok(observed) => observed,
            Err(error) => return vec![error],
        };
        let mut errors = Vec::new();
        for change in plan::diff(&before.empty(), &observed) {
            if !now.iter().any(|plan| plan.holds(&change))
                && let Err(error) = self.execute(&change).await
            {
                errors.push(error);
            }
        }
        errors
    }

    /// The rules of every host that are not there, as the commands that bring them back. They are not ours to add.
    pub async fn lost_rules(&self) -> Result<Vec<&'static str>, KernelError> {
        rule::lost(&self.netlink).await.map_err(|error| KernelError::observe("the rules", error))
    }

    /// The device's descriptor, while this process is attached to it.
    pub fn tun(&self, dev: &str) -> Option<Arc<Tun>> {
        self.held.get(dev).map(|held| held.tun.clone())
    }

    fn hold(&mut self, dev: &str, tun: Tun) -> io::Result<()> {
        self.held.insert(dev.to_owned(), Held { index: link::index(dev)?, tun: Arc::new(tun) });
        Ok(())
    }

    fn on_held(&self, dev: &str, act: impl FnOnce(&Tun, u32) -> io::Result<()>) -> io::Result<()> {
        self.held.get(dev).map_or(Err(io::ErrorKind::NotConnected.into()), |held| act(&held.tun, self.owner))
    }

    async fn execute(&mut self, change: &Change) -> Result<(), KernelError> {
        let netlink = &self.netlink;
        let done = match change {
            Change::AddRule(rule) => rule::apply(netlink, rule).await,
            Change::DeleteRule(rule) => rule::clear(netlink, rule).await,
            Change::AddRoute(route) => route::apply(netlink, route).await,
            Change::DeleteRoute(route) => route::clear(netlink, route).await,
            Change::AddAddress(address) => address::apply(netlink, address).await,
            Change::DeleteAddress(address) => address::clear(netlink, address).await,
            Change::CreateLink(dev) => {
                let tun = link::create(netlink, dev, self.owner).await?;
                self.hold(dev, tun)
            }
            Change::Attach(dev) => {
                let tun = link::attach(dev, Layer::Ip).await?;
                self.hold(dev, tun)
            }
            Change::OwnLink(dev) => self.on_held(dev, |held, owner| held.adopt(owner)),
            Change::SetCarrier(dev, on) => self.on_held(dev, |held, _| held.set_carrier(*on)),
            Change::Card(change) => match card::apply(self, change).await {
                Ok(done) => done,
                Err(error) => return Err(error),
            },
            Change::SetMtu(dev, mtu) => link::set_mtu(netlink, dev, *mtu).await,
            Change::NoLinkLocal(dev) => link::no_link_local(netlink, dev).await,
            Change::SetSysctls(dev) => link::set_sysctls(dev),
            Change::SetGroup { index, group, .. } => group::apply(netlink, *index, *group).await,
            Change::WriteSysctl { file, value } => sysctl::apply(file, value),
            Change::SetUp(dev) => link::set_up(netlink, dev).await,
            Change::DeleteLink(dev) => {
                self.held.remove(dev);
                link::clear(netlink, dev).await
            }
        };
        done.map_err(|source| KernelError::Change { change: Box::new(change.clone()), source })
    }
}

/// The plain error of a netlink request.
fn plain(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

/// The result of a request for which some error means that all is as it shall be.
fn unless(done: Result<(), rtnetlink::Error>, fine: nix::errno::Errno) -> io::Result<()> {
    match done.map_err(plain) {
        Err(error) if error.raw_os_error() == Some(fine as i32) => Ok(()),
        result => result,
    }
}
