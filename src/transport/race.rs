//! Connections to the addresses of one name, raced as RFC 8305 says: IPv6 first, families in turn, a quarter of a second
//! apart, and the next at once where one fails. It knows neither names nor what a connection is made of.

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// The next attempt begins so long after the last (RFC 8305 section 5).
const APART: Duration = Duration::from_millis(250);

/// Attempts under way and to come. Dropping it ends them.
pub struct Race<'a, T, E> {
    dial: Box<dyn Fn(SocketAddr) -> Attempt<'a, T, E> + Send + Sync + 'a>,
    waiting: Waiting,
    running: FuturesUnordered<Attempt<'a, T, E>>,
    running_to: Vec<SocketAddr>,
    failures: Vec<E>,
    next_at: Instant,
}

/// Tells where it went, and what came of it.
type Attempt<'a, T, E> = BoxFuture<'a, (SocketAddr, Result<T, E>)>;

/// Addresses that nobody dials now, in the order in which each family was told.
#[derive(Debug, Default)]
struct Waiting {
    ipv6: VecDeque<SocketAddr>,
    ipv4: VecDeque<SocketAddr>,
    /// The last one taken was of IPv6.
    ipv6_last: bool,
}

impl<'a, T: 'a, E: 'a> Race<'a, T, E> {
    /// A race without an address yet. `dial` makes one attempt.
    pub fn new<A>(dial: impl Fn(SocketAddr) -> A + Send + Sync + 'a) -> Self
    where
        A: Future<Output = Result<T, E>> + Send + 'a,
    {
        Self {
            dial: Box::new(move |to| dial(to).map(move |result| (to, result)).boxed()),
            waiting: Waiting::default(),
            running: FuturesUnordered::new(),
            running_to: Vec::new(),
            failures: Vec::new(),
            next_at: Instant::now(),
        }
    }

    /// More addresses, behind those of the same family.
    pub fn add(&mut self, addresses: impl IntoIterator<Item = SocketAddr>) {
        addresses.into_iter().for_each(|address| self.waiting.queue(address).push_back(address));
    }

    /// The first connection, and where it leads; none: every attempt failed, and no address is left. The other attempts end;
    /// asked again, it begins with their addresses. May be given up and asked again at any time.
    pub async fn next(&mut self) -> Option<(SocketAddr, T)> {
        loop {
            if Instant::now() >= self.next_at
                && let Some(address) = self.waiting.take()
            {
                self.running.push((self.dial)(address));
                self.running_to.push(address);
                self.next_at = Instant::now() + APART;
            }
            if self.is_over() {
                return None;
            }
            tokio::select! {
                Some((address, result)) = self.running.next() => {
                    self.running_to.retain(|running| *running != address);
                    self.next_at = Instant::now();
                    match result {
                        Ok(connection) => {
                            self.stop();
                            // Whoever asks again could not use this one: the other family is next.
                            self.waiting.ipv6_last = address.is_ipv6();
                            return Some((address, connection));
                        }
                        Err(error) => self.failures.push(error),
                    }
                }
                () = sleep_until(self.next_at), if !self.waiting.is_empty() => {}
            }
        }
    }

    /// Nothing is under way, and no address is left.
    pub fn is_over(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Why attempts failed, in the order in which they did.
    pub fn failures(&self) -> &[E] {
        &self.failures
    }

    /// The same, for whoever has seen the end of it.
    pub fn into_failures(self) -> Vec<E> {
        self.failures
    }

    /// Ends what is under way; those addresses are the next.
    fn stop(&mut self) {
        self.running.clear();
        for address in self.running_to.drain(..).rev() {
            self.waiting.queue(address).push_front(address);
        }
    }
}

impl<T, E> fmt::Debug for Race<'_, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Race")
            .field("running", &self.running_to)
            .field("waiting", &self.waiting)
            .finish_non_exhaustive()
    }
}

impl Waiting {
    fn queue(&mut self, of: SocketAddr) -> &mut VecDeque<SocketAddr> {
        if of.is_ipv6() { &mut self.ipv6 } else { &mut self.ipv4 }
    }

    /// The next one: of the other family than the last, while it has any.
    fn take(&mut self) -> Option<SocketAddr> {
        let address = match self.ipv6_last {
            true => self.ipv4.pop_front().or_else(|| self.ipv6.pop_front()),
            false => self.ipv6.pop_front().or_else(|| self.ipv4.pop_front()),
        }?;
        self.ipv6_last = address.is_ipv6();
        Some(address)
    }

    fn is_empty(&self) -> bool {
        self.ipv6.is_empty() && self.ipv4.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tokio::sync::watch;

    const SIX: [&str; 2] = ["[2001:db8::1]:443", "[2001:db8::2]:443"];
    const FOUR: [&str; 3] = ["192.0.2.1:443", "192.0.2.2:443", "192.0.2.3:443"];

    fn addresses(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|address| address.parse().unwrap()).collect()
    }

    /// What becomes of an attempt.
    #[derive(Clone, Copy)]
    enum Fate {
        /// Connects once so many attempts have begun in all.
        Connects(usize),
        /// Fails once so many attempts have begun in all.
        Fails(usize),
        Hangs,
    }
    use Fate::{Connects, Fails, Hangs};

    type Fates = &'static [(&'static str, Fate)];

    /// What happened, in order.
    #[derive(Clone, Default)]
    struct Log {
        dials: watch::Sender<Vec<(Instant, &'static str)>>,
        ends: Arc<Mutex<Vec<&'static str>>>,
    }

    /// Writes down the end of an attempt.
    struct Alive(&'static str, Log);

    impl Drop for Alive {
        fn drop(&mut self) {
            self.1.ends.lock().unwrap().push(self.0);
        }
    }

    impl Log {
        fn dials(&self) -> Vec<&'static str> {
            self.dials.borrow().iter().map(|(_, name)| *name).collect()
        }

        fn race(&self, fates: Fates) -> Race<'static, &'static str, &'static str> {
            let log = self.clone();
            let mut race = Race::new(move |to: SocketAddr| {
                let (name, fate) = *fates.iter().find(|(name, _)| name.parse() == Ok(to)).unwrap();
                log.dials.send_modify(|dials| dials.push((Instant::now(), name)));
                let (alive, mut begun) = (Alive(name, log.clone()), log.dials.subscribe());
                async move {
                    let _alive = alive;
                    match fate {
                        Connects(after) => {
                            begun.wait_for(|dials| dials.len() >= after).await.map(|_| Ok(name)).unwrap()
                        }
                        Fails(after) => begun.wait_for(|dials| dials.len() >= after).await.map(|_| Err(name)).unwrap(),
                        Hangs => std::future::pending().await,
                    }
                }
            });
            race.add(fates.iter().map(|(name, _)| name.parse().unwrap()));
            race
        }

        /// Goes on until so many attempts have begun; none of them may connect.
        async fn until_begun(&self, count: usize, race: &mut Race<'static, &'static str, &'static str>) {
            let mut begun = self.dials.subscribe();
            tokio::select! {
                end = race.next() => panic!("{end:?}"),
                begun = begun.wait_for(|dials| dials.len() >= count) => drop(begun.unwrap()),
            }
        }
    }

    #[test]
    fn ipv6_is_first_and_the_families_take_turns() {
        let mut waiting = Waiting::default();
        for address in addresses(&[&FOUR[..], &SIX[..]].concat()) {
            waiting.queue(address).push_back(address);
        }
        let order: Vec<_> = std::iter::from_fn(|| waiting.take()).collect();
        assert_eq!(order, addresses(&[SIX[0], FOUR[0], SIX[1], FOUR[1], FOUR[2]]));
    }

    #[tokio::test]
    async fn attempts_begin_a_quarter_of_a_second_apart_and_the_first_connection_ends_the_others() {
        let log = Log::default();
        let mut race = log.race(&[(SIX[0], Hangs), (FOUR[0], Connects(3)), (SIX[1], Hangs), (FOUR[1], Hangs)]);
        assert_eq!(race.next().await, Some((FOUR[0].parse().unwrap(), FOUR[0])));
        assert_eq!(log.dials(), [SIX[0], FOUR[0], SIX[1]]);
        assert!(log.dials.borrow().windows(2).all(|pair| pair[1].0 - pair[0].0 >= APART), "{:?}", log.dials.borrow());
        assert_eq!(log.ends.lock().unwrap().len(), 3);
        // Those that were ended are the next, before those that never began.
        assert!(!race.is_over());
        log.until_begun(6, &mut race).await;
        assert_eq!(log.dials()[3..], [SIX[0], FOUR[1], SIX[1]]);
    }

    #[tokio::test]
    async fn where_one_fails_the_next_begins_at_once_and_every_failure_is_kept() {
        let log = Log::default();
        let mut race = log.race(&[(SIX[0], Fails(1)), (FOUR[0], Fails(3)), (SIX[1], Fails(3))]);
        assert_eq!(race.next().await, None);
        assert!(race.is_over());
        assert_eq!(log.dials(), [SIX[0], FOUR[0], SIX[1]]);
        let mut failures = race.failures().to_vec();
        failures[1..].sort_unstable();
        assert_eq!(failures, [SIX[0], FOUR[0], SIX[1]]);
    }

    #[tokio::test]
    async fn a_race_that_is_given_up_and_asked_again_loses_nothing() {
        let log = Log::default();
        let mut race = log.race(&[(SIX[0], Hangs), (FOUR[0], Connects(2))]);
        let winner = loop {
            tokio::select! {
                winner = race.next() => break winner,
                () = tokio::time::sleep(Duration::from_millis(7)) => {}
            }
        };
        assert_eq!(winner.unwrap().1, FOUR[0]);
        assert_eq!(log.dials(), [SIX[0], FOUR[0]]);
    }

    #[tokio::test]
    async fn an_address_that_arrives_late_takes_part() {
        let log = Log::default();
        let mut race = log.race(&[(SIX[0], Hangs), (FOUR[0], Connects(2))]);
        race.waiting.ipv4.clear();
        log.until_begun(1, &mut race).await;
        race.add(addresses(&[FOUR[0]]));
        assert_eq!(race.next().await.unwrap().1, FOUR[0]);
    }
}
