//! One session after the other, until a signal or the service ends it, or nothing is left to try.

use super::{LocalproxyError, Plan};
use crate::config::{Aws, Retry, Tunnel};
use crate::error::{Class, chain};
use crate::state::{Again, Backoff, Ended, Failure, Reason, SessionId, Tls};
use crate::tunnel::aws::forwards::Forwards;
use crate::tunnel::aws::session::{self, Spec};
use crate::tunnel::aws::tokens::Source;
use crate::tunnel::{Counters, Reporter, SessionEvent};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc};

/// A service that asks for patience is given no more than this.
const LONGEST: Duration = Duration::from_secs(60);
/// TLS and sockets of one session have no use for more.
const THREADS: usize = 2;
/// Events that may wait.
const EVENTS: usize = 64;

/// Runs the tunnel to its end.
pub fn run(plan: Plan) -> Result<(), LocalproxyError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .map_err(LocalproxyError::Start)?;
    let done = runtime.block_on(async {
        let signals = Signals::new().map_err(LocalproxyError::Start)?;
        Proxy::new(plan, signals).run().await
    });
    // A name look-up may still hang in the resolver; the end does not wait for it.
    runtime.shutdown_background();
    done
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// What a signal asks for.
enum Wish {
    End(&'static str),
    ReadAgain,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.terminate.recv() => Wish::End("SIGTERM"),
            _ = self.interrupt.recv() => Wish::End("SIGINT"),
            _ = self.hangup.recv() => Wish::ReadAgain,
        }
    }
}

/// How a session was over.
enum Over {
    /// By itself; how long it carried data, if it did.
    Ended(Ended, Option<Duration>),
    /// By a signal.
    Told,
    /// There are new tokens.
    Renewed,
}

struct Proxy {
    plan: Plan,
    tunnel: Arc<Tunnel>,
    aws: Arc<Aws>,
    forwards: Arc<Forwards>,
    counters: Arc<Counters>,
    signals: Signals,
    attempts: Attempts,
}

impl Proxy {
    fn new(plan: Plan, signals: Signals) -> Self {
        let (tunnel, aws) = (Arc::new(plan.tunnel.clone()), Arc::new(plan.aws.clone()));
        let attempts = Attempts::new(tunnel.retry, plan.retries);
        Self { plan, tunnel, aws, forwards: Arc::default(), counters: Arc::default(), signals, attempts }
    }

    async fn run(mut self) -> Result<(), LocalproxyError> {
        // Some session was there with these tokens.
        let mut carried = false;
        for id in 1.. {
            let (ended, lived) = match self.session(id).await {
                Over::Ended(ended, lived) => (ended, lived),
                Over::Told => break,
                Over::Renewed => {
                    self.attempts.reset();
                    carried = false;
                    continue;
                }
            };
            let failure = &ended.failure;
            if failure.reason == Reason::TunnelClosed {
                log::info!("{}", failure.text);
                break;
            }
            if self.is_final(failure, lived.is_some()) {
                let spent = failure.reason == Reason::TokenRejected && carried && self.plan.tokens.client().is_none();
                return Err(if spent {
                    LocalproxyError::Spent(ended.failure)
                } else {
                    LocalproxyError::Ended(ended.failure)
                });
            }
            carried |= lived.is_some();
            let Some(delay) = self.attempts.next(&ended, lived, fastrand::f64()) else {
                return Err(LocalproxyError::GivenUp { attempts: self.attempts.failures, failure: ended.failure });
            };
            log::warn!("{}; trying again in {:.1} s", failure.text, delay.as_secs_f64());
            if !self.pause(delay).await {
                break;
            }
        }
        Ok(())
    }

    /// Only an edit, or another token, helps; or the settings say that it shall be the end.
    fn is_final(&self, failure: &Failure, carried: bool) -> bool {
        match failure.reason {
            Reason::TokenRejected | Reason::ListenFailed => true,
            Reason::ProtocolError if carried && !self.plan.reconnect_on_data_error => true,
            _ => failure.class == Class::Configuration,
        }
    }

    /// From the first look-up to the end.
    async fn session(&mut self, id: SessionId) -> Over {
        let (to, mut events) = mpsc::channel(EVENTS);
        let session = session::start(Spec {
            id,
            tunnel: self.tunnel.clone(),
            aws: self.aws.clone(),
            tokens: Source::Given(self.plan.tokens.clone()),
            forwards: self.forwards.clone(),
            counters: self.counters.clone(),
            last_addresses: BTreeMap::new(),
            probe_url: None,
            probe: Arc::new(Notify::new()),
            reporter: Reporter::new(&self.tunnel.name, id, to),
        });
        let mut since: Option<Instant> = None;
        loop {
            tokio::select! {
                event = events.recv() => match event.map(|(_, _, event)| event) {
                    // Nothing is held back on this host for its sake.
                    Some(SessionEvent::Ask { granted, .. } | SessionEvent::Dial { granted, .. }) => {
                        let _ = granted.send(());
                    }
                    Some(SessionEvent::Ready(link)) => {
                        since = Some(Instant::now());
                        let Tls { version, cipher, .. } = &link.tls;
                        log::debug!("ready; {} speaks {version} with {cipher}", link.remote);
                    }
                    Some(SessionEvent::Ended(ended)) => return Over::Ended(ended, since.map(|since| since.elapsed())),
                    Some(other) => log::debug!("{other:?}"),
                    None => return Over::Ended(Ended::of(vanished()), since.map(|since| since.elapsed())),
                },
                wish = self.signals.next() => match wish {
                    Wish::End(signal) => {
                        log::info!("{signal}: closing the tunnel's connections");
                        session.stop().await;
                        return Over::Told;
                    }
                    Wish::ReadAgain => {
                        if self.renew() {
                            session.stop().await;
                            return Over::Renewed;
                        }
                    }
                },
            }
        }
    }

    /// Whether to go on after the delay. New tokens are tried at once.
    async fn pause(&mut self, delay: Duration) -> bool {
        let mut over = std::pin::pin!(tokio::time::sleep(delay));
        loop {
            tokio::select! {
                () = &mut over => return true,
                wish = self.signals.next() => match wish {
                    Wish::End(signal) => {
                        log::info!("{signal}: ending");
                        return false;
                    }
                    Wish::ReadAgain => {
                        if self.renew() {
                            self.attempts.reset();
                            return true;
                        }
                    }
                },
            }
        }
    }

    /// Reads the tokens again, and says whether there are others.
    fn renew(&mut self) -> bool {
        match self.plan.tokens_again() {
            Ok(Some(tokens)) if tokens != self.plan.tokens => {
                log::info!("SIGHUP: connecting with the new tokens");
                self.plan.tokens = tokens;
                return true;
            }
            Ok(Some(_)) => log::info!("SIGHUP: the tokens are as they were"),
            Ok(None) => {
                log::warn!("SIGHUP: the tokens are not from the file of --config, so there is nothing to read again")
            }
            Err(error) => log::error!("SIGHUP: the tokens stay as they are: {}", chain(&error)),
        }
        false
    }
}

/// A session that ends without a word is a defect.
fn vanished() -> Failure {
    Failure::new(Reason::None, Class::Bug, "the session ended without a word, which is a defect of this program")
}

/// Failures in a row, and what follows the next.
struct Attempts {
    retry: Retry,
    /// So many may follow a failed one; none: for ever.
    limit: Option<u32>,
    backoff: Backoff,
    failures: u32,
}

impl Attempts {
    fn new(retry: Retry, limit: Option<u32>) -> Self {
        Self { retry, limit, backoff: Backoff::default(), failures: 0 }
    }

    fn reset(&mut self) {
        self.backoff.reset();
        self.failures = 0;
    }

    /// How long to wait after this end; none: it was tried often enough. A session that lived long begins a new row, and is no
    /// failure itself.
    fn next(&mut self, ended: &Ended, lived: Option<Duration>, random: f64) -> Option<Duration> {
        if lived.is_some_and(|lived| lived >= self.retry.stable_after) {
            self.reset();
        } else {
            self.failures = self.failures.saturating_add(1);
            if self.limit.is_some_and(|limit| self.failures > limit) {
                return None;
            }
        }
        let usual = self.backoff.next(&self.retry, random);
        Some(match ended.again {
            Again::NotBefore(delay) => usual.max(delay.min(self.retry.max.max(LONGEST))),
            Again::InTurn | Again::AtOnce => usual,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(again: Again) -> Ended {
        Ended { again, ..Ended::of(Failure::new(Reason::Unreachable, Class::Transient, "no way")) }
    }

    fn attempts(limit: Option<u32>) -> Attempts {
        let retry = Retry { first: Duration::from_millis(2500), jitter: 0.0, ..Retry::default() };
        Attempts::new(retry, limit)
    }

    #[test]
    fn delays_grow_and_a_session_that_lived_long_starts_again() {
        let mut attempts = attempts(None);
        let mut next = |lived| attempts.next(&ended(Again::InTurn), lived, 0.5).unwrap().as_millis();
        assert_eq!([next(None), next(None), next(Some(Duration::from_secs(5)))], [2500, 5000, 10_000]);
        assert_eq!([next(Some(Duration::from_secs(60))), next(None)], [2500, 5000]);
    }

    #[test]
    fn a_count_of_retries_is_kept() {
        for (limit, expected) in [(0, 0), (1, 1), (2, 2), (7, 7)] {
            let mut attempts = attempts(Some(limit));
            let retries = (0..20).take_while(|_| attempts.next(&ended(Again::InTurn), None, 0.5).is_some()).count();
            assert_eq!((retries, attempts.failures), (expected, limit + 1));
        }
        let mut attempts = attempts(Some(0));
        let long = Some(Duration::from_secs(61));
        assert!(attempts.next(&ended(Again::InTurn), long, 0.5).is_some(), "a session that lived long is no failure");
        assert!(attempts.next(&ended(Again::InTurn), None, 0.5).is_none());
    }

    #[test]
    fn who_asks_for_patience_is_given_some() {
        let next =
            |delay| attempts(None).next(&ended(Again::NotBefore(Duration::from_secs(delay))), None, 0.5).unwrap();
        assert_eq!([next(1), next(30), next(3600)].map(|delay| delay.as_millis()), [2500, 30_000, 60_000]);
    }
}
