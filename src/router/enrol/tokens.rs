//! Tokens: what a login is answered with, and a request for an address carries. They are kept as hashes, in memory only: a
//! router that starts again knows none. Pure but for their randomness; the time is handed in.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;
use data_encoding::BASE64URL_NOPAD;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Logins of one user that are good at the same time; one more ends the oldest.
const OF_ONE_USER: usize = 8;
/// The same of all users.
const IN_ALL: usize = 4096;
/// Bytes of randomness: 43 characters, which fit what every client has room for.
const LENGTH: usize = 32;

/// Who has logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The user.
    pub user: String,
    /// What stands for the password that was given: a user with another one has to log in again.
    pub password: String,
}

/// Every login that is good.
#[derive(Debug)]
pub struct Tokens {
    lifetime: Duration,
    /// By the hash of the token: how long a look-up takes tells nothing of a token.
    given: HashMap<[u8; 32], (Grant, Instant)>,
}

impl Tokens {
    /// None yet; each will be good for this long.
    pub fn new(lifetime: Duration) -> Self {
        Self { lifetime, given: HashMap::new() }
    }

    /// A new one.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn give(&mut self, grant: Grant, now: Instant) -> Result<String, Unspecified> {
        let mut bytes = [0; LENGTH];
        rand::fill(&mut bytes)?;
        let token = BASE64URL_NOPAD.encode(&bytes);
        self.given.retain(|_, (_, end)| *end > now);
        self.make_room(OF_ONE_USER, |other| other.user == grant.user);
        self.make_room(IN_ALL, |_| true);
        self.given.insert(hash(&token), (grant, now + self.lifetime));
        Ok(token)
    }

    /// Whose this is; none: nobody's, or nobody's any more.
    pub fn find(&self, token: &str, now: Instant) -> Option<&Grant> {
        self.given.get(&hash(token)).filter(|(_, end)| *end > now).map(|(grant, _)| grant)
    }

    fn make_room(&mut self, most: usize, of: impl Fn(&Grant) -> bool) {
        let those = || self.given.iter().filter(|(_, (grant, _))| of(grant));
        if those().count() >= most
            && let Some(oldest) = those().min_by_key(|(_, (_, end))| *end).map(|(hash, _)| *hash)
        {
            self.given.remove(&oldest);
        }
    }
}

fn hash(token: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME: Duration = Duration::from_secs(600);

    fn grant(user: &str) -> Grant {
        Grant { user: user.to_owned(), password: "hash".to_owned() }
    }

    #[test]
    fn a_token_is_short_is_its_users_and_ends_in_time() {
        let (mut tokens, now) = (Tokens::new(LIFETIME), Instant::now());
        let token = tokens.give(grant("alice"), now).unwrap();
        let other = tokens.give(grant("bob"), now).unwrap();
        assert_eq!((token.len(), token == other), (43, false));
        assert_eq!(tokens.find(&token, now), Some(&grant("alice")));
        assert_eq!(tokens.find(&token, now + LIFETIME - Duration::from_millis(1)), Some(&grant("alice")));
        assert_eq!(tokens.find(&token, now + LIFETIME), None);
        assert_eq!(tokens.find("", now), None);
        assert_eq!(tokens.find(&token[1..], now), None);
        assert!(!format!("{tokens:?}").contains(&token));
    }

    #[test]
    fn a_user_who_logs_in_again_and_again_ends_only_the_own_logins() {
        let (mut tokens, now) = (Tokens::new(LIFETIME), Instant::now());
        let others = tokens.give(grant("bob"), now).unwrap();
        let of_alice: Vec<_> = (0..OF_ONE_USER as u64 + 1)
            .map(|at| tokens.give(grant("alice"), now + Duration::from_secs(at + 1)).unwrap())
            .collect();
        let later = now + Duration::from_secs(60);
        assert_eq!(tokens.find(&of_alice[0], later), None, "the oldest");
        assert!(of_alice[1..].iter().chain([&others]).all(|token| tokens.find(token, later).is_some()));
        for user in 0..IN_ALL {
            tokens.give(grant(&user.to_string()), later).unwrap();
        }
        assert_eq!(tokens.given.len(), IN_ALL);
        tokens.give(grant("bob"), later + LIFETIME).unwrap();
        assert_eq!(tokens.given.len(), 1, "those that have ended take no room");
    }
}
