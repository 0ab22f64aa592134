//! The sessions of each tunnel: the live one, one that is to take over from it, and those that only take what is still in
//! flight. What they report goes to the state machine; where their packets may go, to the firewall.

use super::Daemon;
use super::credentials::{self, kept_tokens};
use super::supervised::Supervised;
use crate::config::{self, Kind};
use crate::error::Class;
use crate::files;
use crate::logging::message;
use crate::plan::Openings;
use crate::state::health::Connectivity;
use crate::state::{Again, Cause, Ended, Event, Failure, Link, Reason, SessionId, Successor};
use crate::tunnel::aws::{session as aws_session, tokens};
use crate::tunnel::enf::session::{self, Spec};
use crate::tunnel::{Reporter, Session, SessionEvent};
use std::net::Ipv6Addr;
use std::sync::Arc;

/// A session that runs, and where its own packets may go.
#[derive(Debug)]
pub(super) struct Running {
    session: Session,
    openings: Openings,
}

impl Supervised {
    /// Where the packets of all its sessions may go.
    pub fn openings(&self) -> Openings {
        let mut all = Openings::default();
        for running in self.sessions.values() {
            all.remotes.extend(&running.openings.remotes);
            all.proxies.extend(&running.openings.proxies);
            all.resolvers.extend(&running.openings.resolvers);
        }
        for list in [&mut all.remotes, &mut all.proxies, &mut all.resolvers] {
            list.sort_unstable();
            list.dedup();
        }
        all
    }

    /// Asks the far end of the live session for a sign of life.
    pub fn probe(&self) {
        let live = self.state.session().and_then(|id| self.sessions.get(&id));
        live.inspect(|running| running.session.probe());
    }

    /// Ends every session up to this one.
    async fn stop_up_to(&mut self, last: SessionId) {
        let later = self.sessions.split_off(&(last + 1));
        for running in std::mem::replace(&mut self.sessions, later).into_values() {
            running.session.stop().await;
        }
    }

    /// Ends all sessions.
    pub async fn stop_all(&mut self) {
        self.stop_up_to(SessionId::MAX - 1).await;
    }

    fn speaks(&self, session: SessionId) -> bool {
        let successor = self.state.successor().map(|successor| successor.id);
        self.state.session() == Some(session) || successor == Some(session)
    }
}

impl Daemon {
    pub(super) async fn heard(&mut self, name: &str, session: SessionId, event: SessionEvent) {
        match event {
            SessionEvent::Ask { servers, granted } => {
                log::debug!(ENFTUN_TUNNEL = name; "asking {servers:?}");
                self.open(name, session, Openings { resolvers: servers, ..Openings::default() }).await;
                let _ = granted.send(());
            }
            SessionEvent::Dial { remote, addresses, proxied, servers, granted } => {
                log::debug!(ENFTUN_TUNNEL = name, ENFTUN_REMOTE = remote.as_str(); "dialling {addresses:?}");
                self.open(name, session, Openings { resolvers: servers, ..Openings::to(addresses, proxied) }).await;
                let _ = granted.send(());
            }
            SessionEvent::Enrolling { key, kept } => {
                let told = match self.identity_of(name, session) {
                    Ok(own) => credentials::keep_key(own, key).await,
                    Err(failure) => Err(failure),
                };
                let _ = kept.send(told);
            }
            SessionEvent::Enrolled { address, certificate, kept } => {
                let _ = kept.send(self.enrolled(name, session, address, certificate).await);
            }
            SessionEvent::Refused { index, .. } => self.refused(name, session, index),
            SessionEvent::TakesNoNames { index } => {
                if let Some(tunnel) = self.tunnels.get_mut(name).filter(|tunnel| tunnel.speaks(session)) {
                    tunnel.remotes.takes_no_names(index);
                }
            }
            SessionEvent::Connectivity(reach) => self.reached(reach),
            SessionEvent::Suspect => self.feed(name, Event::Suspect(session)).await,
            SessionEvent::Ready(link) => self.ready(name, session, link).await,
            SessionEvent::Ended(ended) => self.session_ended(name, session, ended).await,
        }
    }

    /// A remote could not be used.
    fn refused(&mut self, name: &str, session: SessionId, index: usize) {
        let tick = self.tick();
        if let Some(tunnel) = self.tunnels.get_mut(name).filter(|tunnel| tunnel.speaks(session)) {
            let retry = tunnel.config.retry;
            tunnel.remotes.refused(index, tick, &retry);
        }
    }

    /// Where the credentials of this session are kept, if it still has a say.
    fn identity_of(&self, name: &str, session: SessionId) -> Result<config::Identity, Failure> {
        let Some(tunnel) = self.tunnels.get(name).filter(|tunnel| tunnel.speaks(session)) else {
            let text = "the tunnel has changed meanwhile";
            return Err(Failure::new(Reason::EnrolmentFailed, Class::Transient, text));
        };
        match &tunnel.config.kind {
            Kind::Enf(enf) => Ok(enf.identity.clone()),
            Kind::Aws(_) => {
                let text = "this kind of tunnel has no certificate of its own";
                Err(Failure::new(Reason::EnrolmentFailed, Class::Bug, text))
            }
        }
    }

    /// Keeps the certificate of a session's new key. It is no news: the session is about to use it.
    async fn enrolled(
        &mut self,
        name: &str,
        session: SessionId,
        address: Ipv6Addr,
        certificate: String,
    ) -> Result<(), Failure> {
        credentials::keep_certificate(self.identity_of(name, session)?, certificate).await?;
        log::info!(MESSAGE_ID = message::ENROLLED, ENFTUN_TUNNEL = name; "{name} has a new certificate for {address}");
        self.note_credentials(name).await;
        Ok(())
    }

    async fn ready(&mut self, name: &str, session: SessionId, link: Link) {
        let tick = self.tick();
        let Some(tunnel) = self.tunnels.get_mut(name).filter(|tunnel| tunnel.speaks(session)) else { return };
        let config = tunnel.config.clone();
        let far_end = config.remote.hosts.get(link.index);
        if let Some(running) = tunnel.sessions.get_mut(&session) {
            let proxied = far_end.is_some_and(config::Host::is_proxied);
            running.openings = Openings::to(link.peer.into_iter().collect(), proxied);
        }
        let dialled = far_end.and_then(config::Host::dialled).zip(link.peer);
        if let Some(Err(error)) = dialled.map(|((host, _), peer)| self.addresses.set(host, peer.ip())) {
            log::warn!(ENFTUN_TUNNEL = name; "remember the router's address: {error}");
        }
        tunnel.not_renewed = None;
        let (index, retry) = (link.index, tunnel.config.retry);
        tunnel.remotes.ready(index, tick, &retry);
        self.reached(Connectivity::Full.into());
        self.feed(name, Event::Ready(session, link)).await;
        self.note_live(name).await;
    }

    async fn session_ended(&mut self, name: &str, session: SessionId, mut ended: Ended) {
        let tick = self.tick();
        let Some(tunnel) = self.tunnels.get_mut(name) else { return };
        tunnel.sessions.remove(&session);
        if let (true, Some(lived), Some(link)) =
            (tunnel.state.session() == Some(session), tunnel.state.connected_for(tick.now), &tunnel.state.link)
        {
            let retry = tunnel.config.retry;
            let index = link.index;
            tunnel.remotes.lost(index, lived, tick, &retry);
            if let Again::NotBefore(wait) = ended.again {
                let count = tunnel.config.remote.hosts.len();
                if tunnel.remotes.went_away(index, wait, count, tick, &retry) {
                    ended.again = Again::AtOnce;
                }
            }
        }
        if tunnel.speaks(session) {
            if tunnel.state.session() != Some(session) {
                log::info!(ENFTUN_TUNNEL = name; "{name} stays where it is: {}", ended.failure);
                let renews = tunnel.state.successor().is_some_and(|successor| successor.why == Cause::Credentials);
                if renews && ended.failure.class != Class::Transient {
                    tunnel.not_renewed = Some(ended.failure.clone());
                }
            }
            self.feed(name, Event::Ended(session, ended)).await;
        }
        // Those that were replaced are not the state machine's any more.
        if let Some(event) = self.open_for(name).await {
            self.feed(name, event).await;
        }
    }

    /// Lets a session's own packets go to these addresses, and no others.
    async fn open(&mut self, name: &str, session: SessionId, openings: Openings) {
        let Some(tunnel) = self.tunnels.get_mut(name).filter(|tunnel| tunnel.speaks(session)) else { return };
        if let Some(running) = tunnel.sessions.get_mut(&session) {
            running.openings = openings;
            if let Some(event) = self.open_for(name).await {
                self.feed(name, event).await;
            }
        }
    }

    /// Lets the packets of a tunnel's sessions pass, and no others of its own. What to tell the state machine, if that failed.
    async fn open_for(&mut self, name: &str) -> Option<Event> {
        let tunnel = self.tunnels.get_mut(name)?;
        let openings = tunnel.openings();
        let policy = tunnel.applied.policy.as_mut().filter(|policy| policy.openings != openings)?;
        policy.openings = openings;
        let failed = self.apply_host().await.err()?;
        Some(Event::ApplyFailed(Failure::from(&failed)))
    }

    pub(super) async fn start_session(&mut self, name: &str, id: SessionId) -> Option<Event> {
        self.note_ways(name).await;
        self.note_credentials(name).await;
        let kind = self.tunnels.get(name)?.config.kind.clone();
        let started = match kind {
            Kind::Enf(enf) => self.start_enf(name, id, enf),
            Kind::Aws(aws) => self.start_aws(name, id, aws),
        };
        match started? {
            Ok(session) => {
                let running = Running { session, openings: Openings::default() };
                self.tunnels.get_mut(name)?.sessions.insert(id, running);
                None
            }
            Err(failure) => Some(Event::Ended(id, Ended::of(failure))),
        }
    }

    fn start_enf(&mut self, name: &str, id: SessionId, enf: Box<config::Enf>) -> Option<Result<Session, Failure>> {
        let now = self.now();
        let tunnel = self.tunnels.get_mut(name)?;
        let tun = match tunnel.is_card() {
            true => tunnel.queue_of_card().map_err(|error| format!("make the way to the host behind: {error}")),
            false => self.kernel.tun(tunnel.dev()).ok_or_else(|| format!("the device {} is gone", tunnel.dev())),
        };
        let tun = match tun {
            Ok(tun) => tun,
            Err(text) => return Some(Err(Failure::new(Reason::LinkLost, Class::Transient, text))),
        };
        tunnel.session_on = tunnel.ifindex;
        let remotes = match tunnel.state.successor() {
            Some(Successor { id: successor, why: Cause::Preferred }) if successor == id => {
                std::mem::take(&mut tunnel.preferred)
            }
            _ => tunnel.remotes.order(tunnel.config.remote.hosts.len(), now),
        };
        Some(Ok(session::start(Spec {
            id,
            remotes,
            upstream: tunnel.upstream.clone(),
            probe: Arc::default(),
            tunnel: tunnel.config.clone(),
            enf: Arc::from(enf),
            tun,
            counters: tunnel.counters.clone(),
            last_addresses: self.addresses.of(&tunnel.config.remote),
            nameless: tunnel.remotes.nameless().clone(),
            probe_url: self.probe_url.clone(),
            refused: tunnel.state.refused_in_silence().cloned(),
            reporter: Reporter::new(name, id, self.reports.clone()),
        })))
    }

    fn start_aws(&mut self, name: &str, id: SessionId, aws: Box<config::Aws>) -> Option<Result<Session, Failure>> {
        let tunnel = self.tunnels.get_mut(name)?;
        Some(Ok(aws_session::start(aws_session::Spec {
            id,
            aws: Arc::from(aws),
            tokens: tokens::Source::Kept(kept_tokens(&tunnel.config, &self.paths.state)),
            forwards: tunnel.forwards.clone(),
            counters: tunnel.counters.clone(),
            last_addresses: self.addresses.of(&tunnel.config.remote),
            probe_url: self.probe_url.clone(),
            probe: Arc::default(),
            reporter: Reporter::new(name, id, self.reports.clone()),
            tunnel: tunnel.config.clone(),
        })))
    }

    pub(super) async fn stop_session(&mut self, name: &str, id: SessionId) {
        if let Some(tunnel) = self.tunnels.get_mut(name) {
            tunnel.stop_up_to(id).await;
        }
    }

    pub(super) async fn abandon_session(&mut self, name: &str, id: SessionId) -> Option<Event> {
        let running = self.tunnels.get_mut(name)?.sessions.remove(&id)?;
        running.session.stop().await;
        self.open_for(name).await
    }

    /// A successor has taken over.
    pub(super) fn retired(&self, name: &str) {
        let Some(tunnel) = self.tunnels.get(name) else { return };
        let Some(link) = &tunnel.state.link else { return };
        let peer = link.peer.map(|peer| format!(" ({peer})")).unwrap_or_default();
        log::info!(MESSAGE_ID = message::MOVED, ENFTUN_TUNNEL = name, ENFTUN_REASON = tunnel.state.reason.as_str(),
            ENFTUN_REMOTE = link.remote.as_str();
            "{name} goes on through {}{peer}: {}", link.remote, tunnel.state.reason);
    }

    pub(super) async fn stop_sessions(&mut self) {
        for tunnel in self.tunnels.values_mut() {
            tunnel.stop_all().await;
        }
    }
}

/// `identity.ip_file`, for scripts.
pub(super) fn write_address(tunnel: &Supervised) {
    let Some(enf) = tunnel.config.kind.enf() else { return };
    let (Some(path), Some(link)) = (&enf.identity.ip_file, &tunnel.state.link) else { return };
    let Some(address) = link.addresses.first() else { return };
    if let Err(error) = files::replace(path, format!("{}\n", address.addr()).as_bytes(), 0o644) {
        log::warn!(ENFTUN_TUNNEL = tunnel.config.name.as_str(); "write the own address to {}: {error}", path.display());
    }
}
