//! When a heartbeat is due, when its answer is suspiciously late, and when the router is given up. Pure: moments in, decisions
//! out; it sends nothing and knows no packet.
//!
//! ```text
//! nothing heard for a period ---------------------> a beat, answer within the timeout
//! sent, and nothing heard for half the timeout ---> a beat, answer within the other half
//! somebody asks (probe) --------------------------> a beat, answer within the timeout
//!                                                   no answer when a path that works would have brought it: suspect
//! ```

use crate::state::Moment;
use std::time::Duration;

/// Beats that somebody asks for are no closer together than this.
const GAP: Duration = Duration::from_millis(100);
/// The least and the most patience before an outstanding answer is suspicious, as long as round trips allow the latter.
const IMPATIENT: Duration = Duration::from_millis(200);
const PATIENT: Duration = Duration::from_secs(1);

/// What the clock asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// Nothing yet.
    Wait,
    /// Send a heartbeat now.
    Send,
    /// The answer is later than this path's round trips let expect. Told once for each beat at most.
    Suspect,
    /// The router did not answer in time.
    Dead,
}

/// The heartbeat clock of one session. The first beat is due at once; later ones as above. The time for the answer runs from
/// when the beat was due, whether or not it could be written: a peer that stopped reading is found like one that is gone.
#[derive(Clone, Debug)]
pub struct Clock {
    period: Duration,
    timeout: Duration,
    due: Option<Due>,
    /// When a beat is due because somebody asks. Nothing that is heard until then makes it needless.
    probe: Option<Moment>,
    /// When the router is given up, unless something is heard.
    deadline: Option<Moment>,
    doubt: Option<Doubt>,
    /// Something was sent since something was heard.
    one_way: bool,
    heard: Option<Moment>,
    last_beat: Option<Moment>,
    /// Beats without an answer.
    outstanding: u32,
    round_trip: Option<Duration>,
}

/// A beat to come.
#[derive(Clone, Copy, Debug)]
struct Due {
    at: Moment,
    answer_by: Moment,
}

/// A beat whose answer is awaited soon.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    /// What is heard from here on is no leftover from before the path died.
    dispelled_from: Moment,
    until: Moment,
}

impl Clock {
    /// A clock that starts now. A period of zero means: only the first beat, and those that somebody asks for.
    pub fn new(period: Duration, timeout: Duration, now: Moment) -> Self {
        Self {
            period,
            timeout,
            due: Some(Due { at: now, answer_by: now + timeout }),
            probe: None,
            deadline: None,
            doubt: None,
            one_way: false,
            heard: None,
            last_beat: None,
            outstanding: 0,
            round_trip: None,
        }
    }

    /// When to ask again with [`Clock::poll`]; none: when something happens. After a poll that said [`Beat::Wait`] it lies in
    /// the future.
    pub fn next(&self) -> Option<Moment> {
        let (due, doubt) = (self.due.map(|due| due.at), self.doubt.map(|doubt| doubt.until));
        [due, self.probe, doubt, self.deadline].into_iter().flatten().min()
    }

    /// What is to be done now; to be asked again until it is [`Beat::Wait`] or [`Beat::Dead`].
    pub fn poll(&mut self, now: Moment) -> Beat {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            return Beat::Dead;
        }
        if let Some(doubt) = self.doubt.take_if(|doubt| doubt.until <= now)
            && self.heard.is_none_or(|heard| heard < doubt.dispelled_from)
        {
            return Beat::Suspect;
        }
        let probe = self.probe.filter(|at| *at <= now).map(|at| at + self.timeout);
        let due = self.due.filter(|due| due.at <= now).map(|due| due.answer_by);
        match probe.into_iter().chain(due).min() {
            Some(answer_by) => {
                self.send(answer_by, now);
                Beat::Send
            }
            None => Beat::Wait,
        }
    }

    fn send(&mut self, answer_by: Moment, now: Moment) {
        // One that was sent long ago and is still without its own answer never gets one.
        let counts = self.last_beat.is_some_and(|last| now < last + self.timeout);
        self.outstanding = if counts { self.outstanding.saturating_add(1) } else { 1 };
        // Whoever is asked late, because nobody ran this clock, still gets some time.
        self.deadline.get_or_insert(answer_by.max(now + self.timeout / 2));
        (self.due, self.probe, self.last_beat) = (None, None, Some(now));
        let patience = self.patience();
        self.doubt.get_or_insert(Doubt { dispelled_from: now + patience / 2, until: now + patience });
    }

    /// Somebody wants a sign of life now.
    pub fn probe(&mut self, now: Moment) {
        let at = self.last_beat.map_or(now, |last| now.max(last + GAP));
        self.probe.get_or_insert(at);
    }

    /// Packets were sent. If nothing comes back for half the timeout, that is reason enough to ask.
    pub fn sent(&mut self, now: Moment) {
        if self.one_way || self.deadline.is_some() || self.period.is_zero() {
            return;
        }
        self.one_way = true;
        let half = self.timeout / 2;
        let at = self.last_beat.map_or(now, |last| now.max(last)) + half;
        if self.due.is_none_or(|due| at < due.at) {
            let slow = self.round_trip.map_or(half, |round_trip| (4 * round_trip).clamp(half, self.timeout));
            self.due = Some(Due { at, answer_by: at + slow });
        }
    }

    /// A valid frame arrived: the far end lives.
    pub fn heard(&mut self, now: Moment) {
        self.heard = Some(now);
        self.one_way = false;
        self.deadline = None;
        let at = now + self.period;
        self.due = (!self.period.is_zero()).then_some(Due { at, answer_by: at + self.timeout });
    }

    /// A heartbeat is outstanding.
    pub fn awaited(&self) -> bool {
        self.outstanding > 0
    }

    /// The answer to an outstanding heartbeat arrived; returns the round trip, if it is clear which one was answered.
    pub fn answered(&mut self, now: Moment) -> Option<Duration> {
        let before = self.outstanding;
        self.outstanding = before.saturating_sub(1);
        self.heard(now);
        let last = self.last_beat?;
        if before > 1 {
            let patience = self.patience();
            self.doubt = Some(Doubt { dispelled_from: last + patience / 2, until: (last + patience).max(now + GAP) });
            return None;
        }
        self.doubt = None;
        let round_trip = (before == 1).then(|| now.saturating_sub(last))?;
        self.round_trip = Some(self.round_trip.map_or(round_trip, |smooth| (smooth * 7 + round_trip) / 8));
        Some(round_trip)
    }

    /// The answer to the heartbeat that was sent at this moment, to the microsecond, arrived; returns the round trip. All that
    /// were sent before it are answered with it.
    pub fn answered_to(&mut self, sent: Moment, now: Moment) -> Option<Duration> {
        if self.last_beat.is_some_and(|last| last.as_micros() == sent.as_micros()) {
            self.outstanding = 1;
        }
        self.answered(now)
    }

    /// How long an answer may take before it is suspicious: some round trips, at most a second where round trips are not as
    /// slow as that.
    fn patience(&self) -> Duration {
        let most = PATIENT.min(self.timeout / 2);
        let usual =
            self.round_trip.map_or(most, |round_trip| (4 * round_trip).max(IMPATIENT).min(most).max(2 * round_trip));
        usual.min(self.timeout)
    }
}

#[cfg(test)]
#[path = "liveness_tests.rs"]
mod tests;
