//! The Ethernet side of a router card: a task that lives as long as the tunnel is wanted and its address is known, beyond any
//! session. It carries frames between the TAP and the [`Responder`], and packets between that and whichever session is up. It
//! decides nothing: what is answered is the responder's business, what may pass the session's filter's.
//!
//! ```text
//! host behind -- port -- bridge -- TAP -- Responder -- pair of queues -- session -- router
//! ```

mod port;

use super::Daemon;
use super::supervised::Supervised;
use crate::card::{Duid, LinkAddress, Responder, Settings};
use crate::config;
use crate::error::chain;
use crate::plan::Plan;
use crate::state::Wanted;
use crate::sys::tun::Tun;
use aws_lc_rs::digest::{SHA256, digest};
use ipnet::IpNet;
use port::Port;
use std::hash::BuildHasher;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long the last words to the host behind may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// The file in the state directory that holds the identifier of our DHCPv6 server.
const DUID: &str = "duid";

/// The card of one tunnel, once it was needed.
#[derive(Debug)]
pub(super) struct HostBehind {
    /// What sessions read and write instead of the TUN; the same for one after the other.
    session: Arc<Tun>,
    /// Its other end.
    packets: Arc<Tun>,
    serving: Option<Serving>,
}

/// The task. Dropping it ends it at once, without a word to the host behind.
#[derive(Debug)]
struct Serving {
    settings: Settings,
    /// The index of the TAP.
    tap: u32,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl HostBehind {
    fn new(dev: &str) -> io::Result<Self> {
        let (session, packets) = Tun::pair(dev)?;
        Ok(Self { session: Arc::new(session), packets: Arc::new(packets), serving: None })
    }
}

impl Serving {
    /// Says goodbye: what was advertised does not hold any more.
    async fn farewell(mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        let _ = timeout(FAREWELL, &mut self.task).await;
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Supervised {
    /// It is a router card's.
    pub fn is_card(&self) -> bool {
        self.config.kind.enf().is_some_and(|enf| enf.advertise.is_some())
    }

    /// What a session on a router card reads and writes.
    pub fn queue_of_card(&mut self) -> io::Result<Arc<Tun>> {
        let behind = match self.behind.take() {
            Some(behind) => behind,
            None => HostBehind::new(self.dev())?,
        };
        Ok(self.behind.insert(behind).session.clone())
    }

    /// The host behind hears that the tunnel is wanted no more, or that it is no more served as before, while there still is a
    /// way to tell it.
    pub async fn take_leave(&mut self, next: &Plan) {
        let stays = next.card.as_ref().is_some_and(|card| self.applied.card.as_ref().is_none_or(|now| now == card));
        if stays {
            return;
        }
        if let Some(serving) = self.behind.as_mut().and_then(|behind| behind.serving.take()) {
            serving.farewell().await;
        }
    }

    /// How the host behind is to be served by the plan in force; not at all while no address is known for it.
    fn settings_of_card(&self, duid: Duid) -> Option<Settings> {
        let enf = self.config.kind.enf()?;
        let advertise = enf.advertise.as_ref()?;
        let card = self.applied.card.as_ref().filter(|card| card.carrier)?;
        let addresses = match self.wanted() {
            Wanted::Connected(addresses) => addresses,
            _ => self.state.kept_addresses().to_vec(),
        };
        let own = addresses.iter().find_map(|net| match net {
            IpNet::V6(net) => Some(net.addr()),
            IpNet::V4(_) => None,
        })?;
        let v6 = |net: &IpNet| match net {
            IpNet::V6(net) => Some(*net),
            IpNet::V4(_) => None,
        };
        Some(Settings {
            lladdr: advertise.lladdr.unwrap_or_else(|| link_address(&duid, &card.port)),
            announce_lladdr: true,
            own,
            routes: self.config.route.prefixes.iter().filter_map(v6).collect(),
            mtu: enf.tun.mtu,
            router: advertise.router,
            dhcp6: advertise.dhcp6,
            dns: name_servers(enf),
            ra_period: advertise.ra_period,
            duid,
            seed: 0,
        })
    }
}

fn name_servers(enf: &config::Enf) -> Vec<std::net::Ipv6Addr> {
    let servers = enf.dns.iter().flat_map(|dns| &dns.servers);
    let v6 = servers.filter_map(|server| match server {
        IpAddr::V6(server) => Some(*server),
        IpAddr::V4(_) => None,
    });
    v6.collect()
}

/// Locally administered, the same in every run, and none of this host's own: the bridge would keep what is sent to one of those.
fn link_address(duid: &Duid, port: &str) -> LinkAddress {
    let hash = digest(&SHA256, &[duid.as_bytes(), port.as_bytes()].concat());
    match hash.as_ref() {
        [a, b, c, d, e, ..] => [0x02, *a, *b, *c, *d, *e],
        _ => [0x02, 0, 0, 0, 0, 1],
    }
}

impl Daemon {
    /// The host behind is served as the plan in force has it, by the TAP with this index.
    pub(super) fn serve(&mut self, name: &str, tap: Option<u32>) {
        let Some(tunnel) = self.tunnels.get(name) else { return };
        let needed = tunnel.is_card() && tunnel.applied.card.as_ref().is_some_and(|card| card.carrier);
        let duid = needed.then(|| self.duid());
        let seed = self.random.hash_one(self.draws);
        let Some(tunnel) = self.tunnels.get_mut(name) else { return };
        let Some(settings) = duid.and_then(|duid| tunnel.settings_of_card(duid)) else { return };
        let Some((index, device)) = tap.zip(tunnel.applied.card.as_ref().and_then(|card| self.kernel.tun(&card.tap)))
        else {
            return;
        };
        if let Err(error) = tunnel.queue_of_card() {
            log::error!(ENFTUN_TUNNEL = name; "serve the host behind: {error}");
            return;
        }
        let Some(behind) = &mut tunnel.behind else { return };
        let as_it_shall = |now: &Serving| now.settings == settings && now.tap == index && !now.task.is_finished();
        if behind.serving.as_ref().is_some_and(as_it_shall) {
            return;
        }
        let responder = Responder::new(&Settings { seed, ..settings.clone() }, Duration::ZERO);
        for route in &responder.condition().left_out {
            log::warn!(ENFTUN_TUNNEL = name; "{route} is not advertised to the host behind: one router advertisement has no room for so many routes");
        }
        log::info!(ENFTUN_TUNNEL = name; "the host behind is served: it is {}", settings.own);
        let port = Port {
            tunnel: name.to_owned(),
            tap: device,
            packets: behind.packets.clone(),
            session: behind.session.clone(),
            responder,
            upstream: tunnel.upstream.clone(),
            counters: tunnel.counters.clone(),
            started: Instant::now(),
            told: false,
        };
        let before = behind.serving.take();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            // Another address, or other routes, of the same card: those before do not hold any more.
            if let Some(before) = before {
                before.farewell().await;
            }
            port.run(stopped).await;
        });
        behind.serving = Some(Serving { settings, tap: index, stop: Some(stop), task });
    }

    /// Who our DHCPv6 server is.
    fn duid(&mut self) -> Duid {
        if let Some(duid) = self.duid {
            return duid;
        }
        let kept = self.targets.directory().map(|directory| directory.join(DUID));
        let (duid, warning) = kept.map_or_else(Duid::random, |file| Duid::kept(&file));
        if let Some(warning) = warning {
            log::warn!("{}", chain(&warning));
        }
        *self.duid.insert(duid)
    }
}
