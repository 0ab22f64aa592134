//! Which way leads to the remotes now, and what that means for each tunnel: a live session whose way is another gets a
//! successor, one whose way changed a little is asked for a sign of life, and whoever waits for a network waits no longer.
//! The kernel answers; nothing is sent for it.

use super::Daemon;
use super::supervised::Supervised;
use crate::config::Host;
use crate::error::chain;
use crate::kernel::Path;
use crate::state::{Event, Moment, Phase};
use crate::transport::resolve;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// From one new attempt because of another way to the next, however often the way changes.
const PACE: Duration = Duration::from_millis(250);
/// Where a router that is only a name may be, as far as routing is concerned: somewhere in the Internet.
const ANYWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 88, 99, 1)), IpAddr::V6(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 1))];

/// The ways to some addresses; none: there is none.
type Ways = BTreeMap<IpAddr, Option<Path>>;

/// What is known of the ways to a tunnel's remotes.
#[derive(Debug, Default)]
pub(super) struct Outlook {
    /// To all that may be dialled, when it was last looked or dialled.
    ways: Ways,
    /// That of the live session.
    live: Option<Path>,
    /// That for which a successor was started.
    tried: Option<Path>,
    /// The last attempt that was made because of another way.
    acted: Option<Moment>,
    /// When to look again, because the last attempt is too short a while ago.
    pub due: Option<Moment>,
}

impl Outlook {
    /// There is a way now where there was none or another.
    fn is_better(&self, now: &Ways) -> bool {
        now.iter().any(|(to, way)| {
            let before = self.ways.get(to).and_then(Option::as_ref);
            way.as_ref().is_some_and(|way| before.is_none_or(|before| way.moved(before)))
        })
    }
}

/// What a look at the way of a live session says.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing relevant changed, or there is no way yet.
    GoOn,
    /// Something did, but not the way itself.
    Probe,
    /// The way is another one.
    Move,
    /// The way of the session is the best again, after another was tried.
    Stay,
}

impl Outlook {
    /// Judges the way to the live session's far end as it is now. `under_way`: a successor is on its way or due.
    fn judge(&mut self, now: Option<Path>, under_way: bool) -> Verdict {
        let Some(now) = now else { return Verdict::GoOn };
        let Some(live) = &self.live else {
            self.live = Some(now);
            return Verdict::GoOn;
        };
        if now.moved(live) {
            if under_way && self.tried.as_ref().is_some_and(|tried| !now.moved(tried)) {
                return Verdict::GoOn;
            }
            self.tried = Some(now);
            return Verdict::Move;
        }
        let differs = now.differs(live);
        self.live = Some(now);
        match (self.tried.take(), differs) {
            (Some(_), _) => Verdict::Stay,
            (None, true) => Verdict::Probe,
            (None, false) => Verdict::GoOn,
        }
    }
}

impl Supervised {
    fn mark(&self) -> u32 {
        self.config.route.fwmark & self.config.route.fwmark_mask
    }

    /// It looks for a session, or watches one.
    fn is_looking(&self) -> bool {
        matches!(self.state.phase, Phase::Connecting | Phase::Connected | Phase::Reconnecting)
    }
}

impl Daemon {
    /// Something changed in the kernel's routing, maybe.
    pub(super) async fn look_around(&mut self) {
        for name in self.names() {
            if self.tunnels.get(&name).is_some_and(Supervised::is_looking) {
                self.look_for(&name).await;
            }
        }
    }

    /// Looks at the ways of one tunnel, and acts.
    pub(super) async fn look_for(&mut self, name: &str) {
        let now = self.now();
        let ways = self.ways(name).await;
        let Some(tunnel) = self.tunnels.get_mut(name) else { return };
        let earliest = tunnel.outlook.acted.map(|acted| acted + PACE).filter(|earliest| *earliest > now);
        tunnel.outlook.due = None;
        let event = match tunnel.state.phase {
            Phase::Connected => {
                let under_way = tunnel.state.successor().is_some() || tunnel.due.is_some();
                let way = tunnel
                    .state
                    .link
                    .as_ref()
                    .and_then(|link| link.peer)
                    .map(|peer| (peer, ways.get(&peer.ip()).cloned()));
                match way {
                    Some((_, Some(_))) if earliest.is_some() => {
                        tunnel.outlook.due = earliest;
                        return;
                    }
                    Some((peer, Some(way))) => match tunnel.outlook.judge(way, under_way) {
                        Verdict::GoOn => None,
                        Verdict::Probe => {
                            log::debug!(ENFTUN_TUNNEL = name; "the way to {peer} changed a little: asking for a sign of life");
                            tunnel.probe();
                            None
                        }
                        Verdict::Move => Some(Event::PathChanged),
                        Verdict::Stay => {
                            tunnel.probe();
                            Some(Event::PathRestored)
                        }
                    },
                    // The question failed: what cannot be seen is not trusted.
                    Some((_, None)) => Some(Event::PathChanged),
                    None => None,
                }
            }
            Phase::Connecting | Phase::Reconnecting if tunnel.outlook.is_better(&ways) => {
                if earliest.is_some() {
                    tunnel.outlook.due = earliest;
                    return;
                }
                Some(Event::PathChanged)
            }
            _ => None,
        };
        let better = tunnel.outlook.is_better(&ways);
        tunnel.outlook.ways = ways;
        if better {
            tunnel.remotes.network_changed(now);
        }
        if let Some(event) = event {
            if event == Event::PathChanged {
                tunnel.outlook.acted = Some(now);
                log::info!(ENFTUN_TUNNEL = name; "the way to the router of {name} is another one now");
            }
            self.feed(name, event).await;
        } else if better {
            self.look_for_preferred(name).await;
        }
    }

    /// The clocks tell of a sleep.
    pub(super) async fn resume(&mut self, slept: Duration) {
        log::info!("the system was asleep for {} s", slept.as_secs());
        self.clocks_told = true;
        self.woken().await;
    }

    /// Logind tells of a sleep: of both ends of each.
    pub(super) async fn announced(&mut self, asleep: bool) {
        log::info!("the system {}", if asleep { "is about to sleep" } else { "is awake again" });
        let slept = self.clock.slept();
        if !asleep && (slept.is_some() || !self.clocks_told) {
            self.woken().await;
        }
        // One sleep is told of once, however soon the next one follows.
        self.clocks_told = false;
    }

    /// The system slept: connections may be dead without a word, and the clocks of all waits stood still.
    async fn woken(&mut self) {
        let now = self.now();
        for name in self.names() {
            self.note_ways(&name).await;
            if let Some(tunnel) = self.tunnels.get_mut(&name) {
                tunnel.remotes.network_changed(now);
            }
            self.feed(&name, Event::Resumed).await;
        }
    }

    /// A remote that is preferred to the one in use is tried, if it is time and a way leads there.
    pub(super) async fn look_for_preferred(&mut self, name: &str) {
        let tick = self.tick();
        let Some(tunnel) = self.tunnels.get_mut(name) else { return };
        let retry = tunnel.config.retry;
        let (Phase::Connected, None, Some(link)) = (tunnel.state.phase, tunnel.state.successor(), &tunnel.state.link)
        else {
            return;
        };
        let mut better = tunnel.remotes.better(link.index, tick, &retry);
        let known = self.addresses.of(&tunnel.config.remote);
        better.retain(|index| {
            let dialled = tunnel.config.remote.hosts.get(*index).and_then(Host::dialled);
            let address = dialled.and_then(|(host, _)| host.parse().ok().or_else(|| known.get(host).copied()));
            // Where it is not known where it is, trying tells.
            address.and_then(|address| tunnel.outlook.ways.get(&address)).is_none_or(Option::is_some)
        });
        if !better.is_empty() {
            tunnel.preferred = better;
            self.feed(name, Event::Preferred).await;
        }
    }

    /// A session is dialled: whatever changes from now on is another way than its own.
    pub(super) async fn note_ways(&mut self, name: &str) {
        let ways = self.ways(name).await;
        if let Some(tunnel) = self.tunnels.get_mut(name) {
            tunnel.outlook.ways = ways;
        }
    }

    /// A session is live: the way that it was dialled by is its own.
    pub(super) async fn note_live(&mut self, name: &str) {
        let Some(tunnel) = self.tunnels.get_mut(name) else { return };
        let peer = tunnel.state.link.as_ref().and_then(|link| link.peer).map(|peer| peer.ip());
        tunnel.outlook.live = peer.and_then(|peer| tunnel.outlook.ways.get(&peer).cloned().flatten());
        tunnel.outlook.tried = None;
        self.look_for(name).await;
    }

    /// The ways to all that this tunnel may dial. What could not be asked is missing.
    async fn ways(&self, name: &str) -> Ways {
        let mut ways = Ways::new();
        let Some(tunnel) = self.tunnels.get(name) else { return ways };
        let (mark, inside) = (tunnel.mark(), self.inside());
        for to in self.destinations(tunnel).await {
            match self.kernel.path(to, mark, &inside).await {
                Ok(way) => {
                    ways.insert(to, way);
                }
                Err(error) => log::warn!(ENFTUN_TUNNEL = name; "{}", chain(&error)),
            }
        }
        ways
    }

    /// The addresses of hosts in tunnels: no packet of ours to a router comes from there.
    fn inside(&self) -> Vec<IpAddr> {
        let kept = self.tunnels.values().flat_map(|tunnel| tunnel.state.kept_addresses());
        kept.map(|net| net.addr()).collect()
    }

    /// Whatever a session of this tunnel may send packets to, as far as it is known.
    async fn destinations(&self, tunnel: &Supervised) -> BTreeSet<IpAddr> {
        let known = self.addresses.of(&tunnel.config.remote);
        let mut all: BTreeSet<IpAddr> = known.into_values().collect();
        all.extend(tunnel.state.link.as_ref().and_then(|link| link.peer).map(|peer| peer.ip()));
        let mut names = false;
        for (host, _) in tunnel.config.remote.hosts.iter().filter_map(Host::dialled) {
            match host.parse() {
                Ok(address) => drop(all.insert(address)),
                Err(_) => names = true,
            }
        }
        let at_the_first = tunnel.state.link.as_ref().is_some_and(|link| link.index == 0);
        if names && !at_the_first {
            let dns = tunnel.config.kind.enf().and_then(|enf| enf.dns.as_ref());
            let inside = dns.map(|dns| dns.servers.clone()).unwrap_or_default();
            all.extend(resolve::name_servers(&inside).await);
            all.extend(ANYWHERE);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(source: &str, ifindex: u32, carrier_changes: u32) -> Path {
        Path { source: source.parse().unwrap(), ifindex, gateway: None, carrier_changes, up: true }
    }

    #[test]
    fn a_live_session_moves_with_its_source_or_its_interface_and_is_asked_for_life_when_anything_else_changed() {
        let mut outlook = Outlook::default();
        let here = way("192.0.2.1", 2, 1);
        assert_eq!(outlook.judge(Some(here.clone()), false), Verdict::GoOn, "the first look");
        assert_eq!(outlook.judge(Some(here.clone()), false), Verdict::GoOn);
        assert_eq!(outlook.judge(None, false), Verdict::GoOn, "no way yet");
        assert_eq!(outlook.judge(Some(way("192.0.2.1", 2, 3)), false), Verdict::Probe);
        assert_eq!(outlook.judge(Some(way("192.0.2.1", 2, 3)), false), Verdict::GoOn);
        assert_eq!(outlook.judge(Some(way("192.0.2.1", 3, 1)), false), Verdict::Move, "the same address elsewhere");
        assert_eq!(outlook.judge(Some(way("192.0.2.1", 3, 1)), true), Verdict::GoOn, "a successor is on its way");
        assert_eq!(outlook.judge(Some(way("192.0.2.7", 3, 1)), true), Verdict::Move, "but not by this one");
        assert_eq!(outlook.judge(Some(way("192.0.2.1", 2, 3)), true), Verdict::Stay);
        assert_eq!(outlook.judge(Some(way("192.0.2.1", 2, 3)), false), Verdict::GoOn);
    }

    #[test]
    fn a_way_that_appears_or_changes_is_worth_an_attempt_and_one_that_goes_is_not() {
        let to: IpAddr = "198.51.100.1".parse().unwrap();
        let (none, some) = (Ways::from([(to, None)]), Ways::from([(to, Some(way("192.0.2.1", 2, 1)))]));
        let mut outlook = Outlook { ways: none.clone(), ..Outlook::default() };
        assert!(!outlook.is_better(&none));
        assert!(outlook.is_better(&some));
        outlook.ways = some.clone();
        assert!(!outlook.is_better(&some) && !outlook.is_better(&none));
        assert!(outlook.is_better(&Ways::from([(to, Some(way("192.0.2.9", 2, 1)))])));
    }
}
