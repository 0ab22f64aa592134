//! What a tunnel remembers of its remotes from session to session: who failed and waits, who worked last, and when to look
//! whether a more preferred one is back. Pure: time and chance are handed in. It never dials, and knows no names.
//!
//! ```text
//! not connected   order():  [ last good | as configured ]  [ those that wait ]     all of them, each once
//! connected       better(): more preferred ones, none that waits; return_at() says when to ask
//! refused         waits  retry.first .. retry.max, doubling, less a random share
//! lost, and again waits  retry.stable_after .. LONGEST, doubling: no flapping
//! went away       waits, and is not tried: as long as it said, at most retry.max
//! ```

use super::backoff::{Backoff, jittered};
use super::{Moment, Tick};
use crate::config::Retry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// So long after a session was lost its remote is still the best guess, before those that are preferred to it.
const SHORT_OUTAGE: Duration = Duration::from_secs(120);
/// Nobody looks for a preferred remote less often than this, unless `retry.max` is longer.
const LONGEST: Duration = Duration::from_secs(600);
/// Looks that events ask for are at least so far apart.
const CLOSEST: Duration = Duration::from_secs(1);

/// The memory of one tunnel's remotes, by their places in `remote.hosts`: a smaller one is preferred.
/// A change of that list begins a new memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Remotes {
    each: BTreeMap<usize, Remote>,
    /// Whose session is up.
    active: Option<usize>,
    /// Whose session was up last, and when it was lost.
    last: Option<(usize, Moment)>,
    /// Looks for a preferred remote, which did not find one, since `last` or `active` is used.
    looks: u32,
    look_at: Moment,
    looked: Option<Moment>,
    /// Those that take nobody who offers a wire by name.
    nameless: BTreeSet<usize>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Remote {
    backoff: Backoff,
    /// When it has waited for its back-off,
    retry_at: Moment,
    /// and when it may be returned to, though it accepts connections.
    settle_at: Moment,
    /// Its last session did not live long.
    short: bool,
    /// How often in a row that made it wait.
    flaps: u32,
    /// Its session took over from that of a less preferred one.
    returned: bool,
    /// It has said that it is not to be called before.
    away_until: Moment,
}

impl Remotes {
    /// Which of `count` remotes to try, in this order: each once, those that wait behind the others, the one due first before
    /// the rest. The one that is in use or was until a moment ago goes first. Those that went away are left out, unless all did.
    pub fn order(&self, count: usize, now: Moment) -> Vec<usize> {
        let recent = self.last.filter(|(_, lost)| now.saturating_sub(*lost) <= SHORT_OUTAGE).map(|(index, _)| index);
        let proven = self.active.or(recent);
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by_key(|&index| {
            let wait = self.due(index).saturating_sub(now);
            (wait > Duration::ZERO, proven != Some(index), wait, index)
        });
        if order.iter().any(|index| !self.is_away(*index, now)) {
            order.retain(|index| !self.is_away(*index, now));
        }
        order
    }

    /// A remote said that it goes away, and not to call it for so long. Whether another of `count` remotes does not wait.
    /// Who does that again and again waits longer each time.
    pub fn went_away(&mut self, index: usize, wait: Duration, count: usize, tick: Tick, retry: &Retry) -> bool {
        let remote = self.each.entry(index).or_default();
        let in_turn = remote.backoff.next(retry, tick.random);
        remote.away_until = tick.now + wait.min(retry.max);
        remote.retry_at = tick.now + in_turn;
        (0..count).any(|other| other != index && self.due(other) <= tick.now)
    }

    fn is_away(&self, index: usize, now: Moment) -> bool {
        self.each.get(&index).is_some_and(|remote| remote.away_until > now)
    }

    /// A remote ends the handshake with everybody who offers it a wire by name, and takes who offers none.
    pub fn takes_no_names(&mut self, index: usize) {
        self.nameless.insert(index);
    }

    /// Those remotes; the offer is left out there.
    pub fn nameless(&self) -> &BTreeSet<usize> {
        &self.nameless
    }

    /// A remote could not be used: no connection, no handshake, or no word after it.
    pub fn refused(&mut self, index: usize, tick: Tick, retry: &Retry) {
        let remote = self.each.entry(index).or_default();
        remote.retry_at = tick.now + remote.backoff.next(retry, tick.random);
    }

    /// A session with this remote is the tunnel's from now on.
    pub fn ready(&mut self, index: usize, tick: Tick, retry: &Retry) {
        let before = self.active.replace(index);
        let same = before.or(self.last.map(|(last, _)| last)) == Some(index);
        let remote = self.each.entry(index).or_default();
        (remote.retry_at, remote.away_until) = (Duration::ZERO, Duration::ZERO);
        remote.returned = match before {
            Some(before) if before == index => remote.returned,
            Some(before) => before > index,
            None => false,
        };
        // A remote whose sessions come and go does not put off the look for a better one each time.
        if !same {
            self.looks = 0;
            self.look_at = tick.now + self.between_looks(tick, retry);
        }
    }

    /// The session with this remote ended though it was wanted, after it `lived` so long. One that was replaced is not lost.
    /// A remote that takes sessions and does not keep them waits, from the second on, or from the first after moving back.
    pub fn lost(&mut self, index: usize, lived: Duration, tick: Tick, retry: &Retry) {
        if self.active != Some(index) {
            return;
        }
        self.active = None;
        self.last = Some((index, tick.now));
        let remote = self.each.entry(index).or_default();
        if lived >= retry.stable_after {
            *remote = Remote::default();
            return;
        }
        // One may be the path's fault; after a second others are tried before it.
        if std::mem::take(&mut remote.returned) || remote.short {
            let longest = LONGEST.max(retry.stable_after);
            let wait = retry.stable_after.saturating_mul(2u32.saturating_pow(remote.flaps)).min(longest);
            remote.flaps = remote.flaps.saturating_add(1);
            remote.settle_at = tick.now + wait;
        }
        remote.short = true;
    }

    /// The remotes to try now though the session with `active` works: more preferred ones, in order. Asked from
    /// [`Remotes::return_at`] on; before that there are none. The next look is later.
    pub fn better(&mut self, active: usize, tick: Tick, retry: &Retry) -> Vec<usize> {
        if tick.now < self.look_at {
            return Vec::new();
        }
        let better: Vec<usize> = (0..active).filter(|&index| self.due(index) <= tick.now).collect();
        if !better.is_empty() {
            self.looks = self.looks.saturating_add(1);
            self.looked = Some(tick.now);
            self.look_at = tick.now + self.between_looks(tick, retry);
        }
        better
    }

    /// When to look for a remote that is preferred to `active`, if nothing happens until then; none: there is none.
    pub fn return_at(&self, active: usize) -> Option<Moment> {
        (0..active).map(|index| self.due(index)).min().map(|due| due.max(self.look_at))
    }

    /// What failed before may work now: nobody waits for a back-off any more, and it is time to look for a preferred remote.
    /// Those that came back and were lost again still wait.
    pub fn network_changed(&mut self, now: Moment) {
        for remote in self.each.values_mut() {
            remote.backoff.reset();
            remote.retry_at = Duration::ZERO;
        }
        self.looks = 0;
        self.look_at = self.looked.map_or(now, |looked| now.max(looked + CLOSEST));
    }

    /// Forgets everything but who is in use: somebody wants it tried now.
    pub fn reset(&mut self) {
        *self = Self { active: self.active, ..Self::default() };
    }

    fn due(&self, index: usize) -> Moment {
        self.each
            .get(&index)
            .map_or(Duration::ZERO, |remote| remote.retry_at.max(remote.settle_at).max(remote.away_until))
    }

    fn between_looks(&self, tick: Tick, retry: &Retry) -> Duration {
        let longest = LONGEST.max(retry.max);
        let whole = retry.max.saturating_mul(2u32.saturating_pow(self.looks)).min(longest);
        jittered(whole.as_secs_f64(), retry, tick.random / 2.0).min(longest)
    }
}

#[cfg(test)]
mod tests;
