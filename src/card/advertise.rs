//! Router advertisements: what they say (RFC 4861 section 4.2, RFC 4191) and when they are sent (RFC 4861 section 6.2).

use super::discovery::{ROUTER_ADVERTISEMENT, SOURCE_LINK_ADDRESS, link_option};
use super::wire::{self, ALL_NODES, Peer};
use super::{LinkAddress, Settings};
use crate::state::Moment;
use ipnet::Ipv6Net;
use std::time::Duration;

const MTU: u8 = 5;
const ROUTE_INFORMATION: u8 = 24;
/// "Addresses are given by DHCPv6."
const MANAGED: u8 = 0x80;
/// Router preference, here and in Route Information (RFC 4191 section 2.1).
const HIGH: u8 = 0x08;

/// The longest router lifetime that hosts may believe (RFC 4861 section 6.2.1).
const LONGEST_LIFETIME: Duration = Duration::from_secs(9000);
/// Bounds of the period: the least of RFC 4861 section 6.2.1, and what makes three of them the longest lifetime (periods over
/// 1800 s: RFC 8319).
const PERIODS: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(3000));
/// RFC 4861 section 10: MAX_INITIAL_RTR_ADVERT_INTERVAL, MAX_INITIAL_RTR_ADVERTISEMENTS, MIN_DELAY_BETWEEN_RAS,
/// MAX_RA_DELAY_TIME.
const INITIAL_INTERVAL: Duration = Duration::from_secs(16);
const INITIAL: u8 = 3;
const LEAST_GAP: Duration = Duration::from_secs(3);
const ANSWER_DELAY: Duration = Duration::from_millis(500);

/// IPv6 header, and the fixed part of the message.
const FIXED: usize = 40 + 16;

/// What is advertised, and the timers.
#[derive(Clone, Debug)]
pub struct Advertiser {
    lladdr: LinkAddress,
    body: Vec<u8>,
    farewell: Vec<u8>,
    left_out: Vec<Ipv6Net>,
    period: Duration,
    /// How many of the first, closer ones are still to come.
    initial: u8,
    /// When everybody hears the next one.
    next: Moment,
    last: Option<Moment>,
    /// When somebody who asked gets one.
    answer: Option<(Moment, Peer)>,
    last_answer: Option<Moment>,
}

impl Advertiser {
    /// The first one is due at once.
    pub fn new(settings: &Settings, now: Moment) -> Self {
        let period = settings.ra_period.clamp(PERIODS.0, PERIODS.1);
        let (routes, left_out) = routes(settings);
        let lifetime = (period * 3).min(LONGEST_LIFETIME);
        Self {
            lladdr: settings.lladdr,
            body: body(settings, &routes, lifetime),
            farewell: body(settings, &routes, Duration::ZERO),
            left_out,
            period,
            initial: INITIAL,
            next: now,
            last: None,
            answer: None,
            last_answer: None,
        }
    }

    /// The routes for which there was no room.
    pub fn left_out(&self) -> &[Ipv6Net] {
        &self.left_out
    }

    /// Somebody asked; none: without an address, so that the answer is for everybody.
    pub fn solicited(&mut self, by: Option<Peer>, now: Moment, rng: &mut fastrand::Rng) {
        let soon = now + ANSWER_DELAY.mul_f64(rng.f64());
        let waiting = self.answer.map(|(_, peer)| peer);
        match by {
            Some(peer) if waiting.is_none() => {
                let earliest = self.last_answer.map_or(Moment::ZERO, |last| last + ANSWER_DELAY);
                self.answer = Some((soon.max(earliest), peer));
            }
            Some(peer) if waiting == Some(peer) => {}
            _ => {
                let earliest = self.last.map_or(Moment::ZERO, |last| last + LEAST_GAP);
                self.next = self.next.min(soon.max(earliest));
            }
        }
    }

    /// The next advertisement, if it is time.
    pub fn poll(&mut self, now: Moment, rng: &mut fastrand::Rng) -> Option<Vec<u8>> {
        if self.next <= now {
            self.initial = self.initial.saturating_sub(1);
            // Random, so that routers do not fall into step (RFC 4861 section 6.2.4).
            let interval = self.period.mul_f64(1.0 - rng.f64() * 2.0 / 3.0);
            let limit = if self.initial > 0 { INITIAL_INTERVAL } else { self.period };
            self.next = now + interval.min(limit).max(LEAST_GAP);
            self.last = Some(now);
            self.answer = None;
            return Some(self.message(Peer::group(ALL_NODES), &self.body));
        }
        let (_, peer) = self.answer.take_if(|(due, _)| *due <= now)?;
        self.last_answer = Some(now);
        Some(self.message(peer, &self.body))
    }

    /// When the next one is due.
    pub fn due(&self) -> Moment {
        self.answer.map_or(self.next, |(due, _)| due.min(self.next))
    }

    /// "Forget these routes", for everybody (RFC 4861 section 6.2.5).
    pub fn farewell(&self) -> Vec<u8> {
        self.message(Peer::group(ALL_NODES), &self.farewell)
    }

    fn message(&self, to: Peer, body: &[u8]) -> Vec<u8> {
        wire::icmpv6(self.lladdr, to, ROUTER_ADVERTISEMENT, 0, body)
    }
}

/// The own /64 first, then what is configured, each once, while there is room in one packet; and the rest.
fn routes(settings: &Settings) -> (Vec<Ipv6Net>, Vec<Ipv6Net>) {
    let own = Ipv6Net::new(settings.own, 64).ok();
    let link_option = if settings.announce_lladdr { 8 } else { 0 };
    let mut room = usize::from(settings.mtu).saturating_sub(FIXED + 8 + link_option);
    let (mut routes, mut left_out) = (Vec::new(), Vec::new());
    for route in own.iter().chain(&settings.routes).map(Ipv6Net::trunc) {
        let needed = route_units(route) * 8;
        if routes.contains(&route) || left_out.contains(&route) {
        } else if needed <= room {
            room -= needed;
            routes.push(route);
        } else {
            left_out.push(route);
        }
    }
    (routes, left_out)
}

/// Everything after the checksum. A lifetime of zero takes back what another one said.
fn body(settings: &Settings, routes: &[Ipv6Net], lifetime: Duration) -> Vec<u8> {
    let seconds = u16::try_from(lifetime.as_secs()).unwrap_or(u16::MAX);
    let default = settings.routes.iter().any(|route| route.prefix_len() == 0);
    let router_lifetime = if default { seconds } else { 0 };
    // Who is no default router has no preference as one (RFC 4191 section 2.2).
    let preference = if router_lifetime > 0 { HIGH } else { 0 };
    let managed = if settings.dhcp6 { MANAGED } else { 0 };
    // The hop limit and the two timers stay as the host has them.
    let mut body = vec![0, managed | preference];
    body.extend_from_slice(&router_lifetime.to_be_bytes());
    body.extend_from_slice(&[0; 8]);
    if settings.announce_lladdr {
        body.extend_from_slice(&link_option(SOURCE_LINK_ADDRESS, settings.lladdr));
    }
    body.extend_from_slice(&[MTU, 1, 0, 0]);
    body.extend_from_slice(&u32::from(settings.mtu).to_be_bytes());
    for route in routes {
        let units = route_units(*route);
        body.extend_from_slice(&[ROUTE_INFORMATION, units as u8, route.prefix_len(), HIGH]);
        body.extend_from_slice(&u32::from(seconds).to_be_bytes());
        body.extend(route.network().octets().iter().take(units * 8 - 8));
    }
    body
}

/// The least length of its option in units of 8 bytes (RFC 4191 section 2.3).
fn route_units(route: Ipv6Net) -> usize {
    match route.prefix_len() {
        0 => 1,
        1..=64 => 2,
        _ => 3,
    }
}

#[cfg(test)]
#[path = "advertise_tests.rs"]
mod tests;
