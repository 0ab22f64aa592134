//! One session of kind `aws-iot`: tokens, dial, handshake, then connections between applications and the service until it ends.
//! It reports to the daemon; `docs/errors.md` lists how it can end.

use super::connect::{Connected, connect};
use super::forwards::Forwards;
use super::pump::Pump;
use super::tokens;
use crate::config;
use crate::error::{Class, chain};
use crate::state::{Ended, Failure, Reason, SessionId};
use crate::tunnel::{Counters, Reporter, Session, SessionEvent};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::{Notify, oneshot};

/// What a session needs to live.
#[derive(Debug)]
pub struct Spec {
    /// Its number.
    pub id: SessionId,
    /// The tunnel's configuration.
    pub tunnel: Arc<config::Tunnel>,
    /// What only this kind has of it.
    pub aws: Arc<config::Aws>,
    /// Where the tokens are, read again for every session.
    pub tokens: tokens::Source,
    /// What is forwarded, for whoever looks; and what the next session goes on from.
    pub forwards: Arc<Forwards>,
    /// Where it counts.
    pub counters: Arc<Counters>,
    /// Where the service was last found, for when nobody answers for its name.
    pub last_addresses: BTreeMap<String, IpAddr>,
    /// Asked when the service cannot be reached, to find out why.
    pub probe_url: Option<config::ProbeUrl>,
    /// Somebody wants a sign of life of the service now.
    pub probe: Arc<Notify>,
    /// Where it reports.
    pub reporter: Reporter,
}

/// Starts a session. It ends by itself when it must, or when it is stopped.
pub fn start(spec: Spec) -> Session {
    let (stop, stopped) = oneshot::channel();
    let probe = spec.probe.clone();
    let task = tokio::spawn(async move {
        if let Some(ended) = run(&spec, stopped).await {
            spec.reporter.report(SessionEvent::Ended(ended)).await;
        }
    });
    Session::new(stop, probe, task)
}

/// How it ended; none: it was stopped.
async fn run(spec: &Spec, mut stopped: oneshot::Receiver<()>) -> Option<Ended> {
    let connected = tokio::select! {
        biased;
        connected = prepare(spec) => connected,
        _ = &mut stopped => return None,
    };
    match connected {
        Ok(connected) => Pump::new(spec, connected).run(stopped).await,
        Err(ended) => Some(ended),
    }
}

async fn prepare(spec: &Spec) -> Result<Connected, Ended> {
    let source = spec.tokens.clone();
    let tokens = match tokio::task::spawn_blocking(move || source.load()).await {
        Ok(Ok(tokens)) => tokens,
        Ok(Err(error)) => return Err(Ended::of(Failure::from(&error))),
        Err(error) => {
            return Err(Ended::of(Failure::new(Reason::CredentialsMissing, Class::Bug, chain(&error))));
        }
    };
    connect(spec, &tokens).await
}
