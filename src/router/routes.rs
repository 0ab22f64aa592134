//! Which session has an address: what every packet asks. It is read without a lock that all would share: the table is in
//! shards, each under a lock of its own.
//!
//! Two packets meet at a lock only when their receivers are in one shard, and those for one receiver meet at its outbox anyway.
//! So a table without any lock would gain nothing measurable.

use super::sessions::Session;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, PoisonError, RwLock};

/// Far more than there are processors.
const SHARDS: usize = 64;

/// The table. Writers are serialised by their caller.
#[derive(Debug)]
pub struct Routes {
    v6: Map<Ipv6Addr>,
    v4: Map<Ipv4Addr>,
}

#[derive(Debug)]
struct Map<A>(Box<[Shard<A>]>);

/// Its lock is in no cache line with that of another.
#[derive(Debug)]
#[repr(align(64))]
struct Shard<A>(RwLock<HashMap<A, Arc<Session>>>);

impl Default for Routes {
    fn default() -> Self {
        Self { v6: Map::new(), v4: Map::new() }
    }
}

impl Routes {
    /// Calls `with` for the session that has the address. As long as it runs, the address stays with that session.
    pub fn find<T>(&self, address: IpAddr, with: impl FnOnce(&Session) -> T) -> Option<T> {
        match address {
            IpAddr::V6(address) => self.v6.find(address, |session| with(session)),
            IpAddr::V4(address) => self.v4.find(address, |session| with(session)),
        }
    }

    /// Whether this very session has its address.
    pub fn has(&self, session: &Session) -> bool {
        self.v6.find(session.client.address, |present| present.id == session.id).unwrap_or(false)
    }

    /// Calls `with` for every session that has an address.
    pub fn each(&self, mut with: impl FnMut(&Session)) {
        for shard in &self.v6.0 {
            shard.0.read().unwrap_or_else(PoisonError::into_inner).values().for_each(|session| with(session));
        }
    }

    /// The session has its addresses from now on. Returns the one that had the IPv6 address; nobody finds that one any more.
    pub fn install(&self, session: &Arc<Session>) -> Option<Arc<Session>> {
        let client = session.client;
        let old = self.v6.with(client.address, |map| map.insert(client.address, Arc::clone(session)));
        if let Some(old) = &old {
            self.forget_v4(old);
        }
        if let Some(address) = client.ipv4 {
            self.v4.with(address, |map| map.insert(address, Arc::clone(session)));
        }
        old
    }

    /// The session has no address any more; whether it had one.
    pub fn remove(&self, session: &Session) -> bool {
        self.forget_v4(session);
        self.v6.remove(session.client.address, session)
    }

    fn forget_v4(&self, session: &Session) {
        if let Some(address) = session.client.ipv4 {
            self.v4.remove(address, session);
        }
    }
}

impl<A: Copy + Eq + Hash + Into<IpAddr>> Map<A> {
    fn new() -> Self {
        Self((0..SHARDS).map(|_| Shard(RwLock::default())).collect())
    }

    fn find<T>(&self, address: A, with: impl FnOnce(&Arc<Session>) -> T) -> Option<T> {
        let map = self.shard(address)?.0.read().unwrap_or_else(PoisonError::into_inner);
        map.get(&address).map(with)
    }

    fn with<T>(&self, address: A, with: impl FnOnce(&mut HashMap<A, Arc<Session>>) -> Option<T>) -> Option<T> {
        with(&mut self.shard(address)?.0.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn remove(&self, address: A, session: &Session) -> bool {
        let removed = self.with(address, |map| {
            let mine = map.get(&address).is_some_and(|present| present.id == session.id);
            if mine { map.remove(&address) } else { None }
        });
        removed.is_some()
    }

    fn shard(&self, address: A) -> Option<&Shard<A>> {
        let bits = match address.into() {
            IpAddr::V6(address) => {
                let bits = address.to_bits();
                (bits >> 64) as u64 ^ bits as u64
            }
            IpAddr::V4(address) => address.to_bits().into(),
        };
        // Neighbours are spread (Fibonacci hashing).
        let spread = bits.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        self.0.get(spread as usize % SHARDS)
    }
}
