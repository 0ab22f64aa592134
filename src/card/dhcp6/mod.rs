//! The DHCPv6 server (RFC 8415) for the one address that there is. Whoever is behind the card gets it: a client that asks
//! for it takes it over from another, which hears so when it renews.

mod message;

use super::bucket::Bucket;
use super::wire::{self, Peer};
use super::{Duid, LinkAddress, Reason, Settings};
use crate::state::Moment;
use message::*;
use std::net::Ipv6Addr;
use std::time::Duration;

/// Where clients ask: all relay agents and servers.
pub const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// The port that servers listen to.
pub const SERVER_PORT: u16 = 547;
const CLIENT_PORT: u16 = 546;

/// Lifetimes of the address. It stays as long as the card's identity; when that changes, the next renewal brings the new
/// address, and without a card to renew the host behind has let go of the old one after two hours. A card that was restarted
/// in that time answers the next renewal as if it had given the address itself.
const PREFERRED: u32 = 3600;
const VALID: u32 = 7200;
/// T1 and T2 (RFC 8415 section 21.4): half, and four fifths, of the preferred lifetime.
const RENEW_AFTER: u32 = PREFERRED / 2;
const REBIND_AFTER: u32 = PREFERRED / 5 * 4;

/// A declined address is on another station of the link; nobody gets it for so long.
const WITHHELD: Duration = Duration::from_secs(60);

/// The client need not wait for other servers' offers.
const ONLY_SERVER: u8 = 255;

/// What fits into the least packet that every link carries, without its IPv6 and UDP header (RFC 8200 section 5).
const LONGEST: usize = 1280 - 48;
/// Room for the status at the end.
const STATUS: usize = 6;
/// Name servers that are told, and addresses of one association that are taken back, at most: with these, what is granted
/// always fits.
const NAME_SERVERS: usize = 16;
const TAKEN_BACK: usize = 8;

/// The server.
#[derive(Clone, Debug)]
pub struct Server {
    lladdr: LinkAddress,
    own: Ipv6Addr,
    dns: Vec<u8>,
    duid: Duid,
    binding: Option<Lease>,
    withheld_until: Option<Moment>,
    answers: Bucket,
}

/// Who has the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The client's DUID.
    pub client: Vec<u8>,
    /// When the valid lifetime ends.
    pub until: Moment,
}

/// What is said about an identity association: that it has the address, or why not.
#[derive(Clone, Copy)]
enum Say {
    Granted,
    Refused(Status),
}

impl Server {
    /// A server that has given nothing yet.
    pub fn new(settings: &Settings) -> Self {
        Self {
            lladdr: settings.lladdr,
            own: settings.own,
            dns: settings.dns.iter().take(NAME_SERVERS).flat_map(Ipv6Addr::octets).collect(),
            duid: settings.duid,
            binding: None,
            withheld_until: None,
            answers: Bucket::new(Duration::from_millis(100), 20),
        }
    }

    /// Who has the address, as far as this server knows.
    pub fn lease(&self) -> Option<&Lease> {
        self.binding.as_ref()
    }

    /// The client has found another station with the address, and nobody gets it until then.
    pub fn withheld_until(&self) -> Option<Moment> {
        self.withheld_until
    }

    /// The frame that answers a message. `unicast`: it was sent to the card's own address.
    pub fn answer(&mut self, from: Peer, unicast: bool, bytes: &[u8], now: Moment) -> Result<Vec<u8>, Reason> {
        let message = Message::parse(bytes).ok_or(Reason::Malformed)?;
        self.admit(&message)?;
        let answered_by_unicast = matches!(message.kind, REQUEST | RENEW | RELEASE | DECLINE);
        if unicast && !answered_by_unicast {
            return Err(Reason::Malformed);
        }
        if !self.answers.take(now) {
            return Err(Reason::TooMany);
        }
        let answer = if unicast {
            let mut answer = Answer::new(REPLY, &message, &self.duid);
            answer.status(Status::UseMulticast);
            answer
        } else {
            self.reply(&message, now)?
        };
        Ok(wire::udp(self.lladdr, from, SERVER_PORT, CLIENT_PORT, &answer.0))
    }

    /// The identifiers are those that this kind of message must have (RFC 8415 section 16).
    fn admit(&self, message: &Message<'_>) -> Result<(), Reason> {
        let (client, server) = (message.client.is_some(), message.server);
        let sound = match message.kind {
            SOLICIT | CONFIRM | REBIND => client && server.is_none(),
            REQUEST | RENEW | RELEASE | DECLINE => client && server.is_some(),
            INFORMATION_REQUEST => message.associations.is_empty(),
            _ => return Err(Reason::NotServed),
        };
        if !sound {
            return Err(Reason::Malformed);
        }
        let ours = server.is_none_or(|server| server == self.duid.as_bytes());
        if ours { Ok(()) } else { Err(Reason::NotForUs) }
    }

    /// RFC 8415 section 18.3.
    fn reply(&mut self, message: &Message<'_>, now: Moment) -> Result<Answer, Reason> {
        let client = message.client.unwrap_or_default();
        let mut answer = Answer::new(REPLY, message, &self.duid);
        match message.kind {
            SOLICIT => {
                let granted = self.choose(message, now, |_| true);
                if message.rapid && granted.is_some() {
                    put(&mut answer.0, RAPID_COMMIT, &[]);
                    self.bind(client, now);
                } else {
                    answer = Answer::new(ADVERTISE, message, &self.duid);
                    put(&mut answer.0, PREFERENCE, &[&[ONLY_SERVER]]);
                }
                self.tell(&mut answer, message, granted, |_| Status::NoAddrsAvail);
            }
            REQUEST => {
                let granted = self.choose(message, now, |association| self.foreign(association).is_empty());
                if granted.is_some() {
                    self.bind(client, now);
                }
                self.tell(&mut answer, message, granted, |association| {
                    let right = self.foreign(association).is_empty();
                    if right { Status::NoAddrsAvail } else { Status::NotOnLink }
                });
            }
            RENEW | REBIND => {
                let granted = self.choose(message, now, |_| true).filter(|_| self.holds(client, now));
                if granted.is_some() {
                    self.bind(client, now);
                }
                self.tell(&mut answer, message, granted, |_| Status::NoBinding);
            }
            CONFIRM => {
                let mut addresses =
                    message.associations.iter().flat_map(|association| &association.addresses).peekable();
                addresses.peek().ok_or(Reason::NotServed)?;
                let right = addresses.all(|address| *address == self.own);
                answer.status(if right { Status::Success } else { Status::NotOnLink });
            }
            RELEASE | DECLINE => {
                let holds = self.holds(client, now);
                let has = |association: &&Association| holds && association.addresses.contains(&self.own);
                for association in message.associations.iter().filter(|association| !has(association)) {
                    answer.association(association, Say::Refused(Status::NoBinding), &[]);
                }
                answer.status(Status::Success);
                if message.associations.iter().any(|association| has(&association)) {
                    self.binding = None;
                    if message.kind == DECLINE {
                        self.withheld_until = Some(now + WITHHELD);
                    }
                }
            }
            INFORMATION_REQUEST => self.tell(&mut answer, message, None, |_| Status::NoBinding),
            _ => return Err(Reason::NotServed),
        }
        Ok(answer)
    }

    /// Which association gets the address: the first IA_NA that names it, or else the first that may have it.
    fn choose(&self, message: &Message<'_>, now: Moment, may: impl Fn(&Association) -> bool) -> Option<usize> {
        if self.withheld_until.is_some_and(|until| now < until) {
            return None;
        }
        let mut candidates =
            message.associations.iter().enumerate().filter(|(_, association)| association.code == IA_NA);
        let names = |(_, association): &(usize, &Association)| association.addresses.contains(&self.own);
        let chosen = candidates.clone().find(names).or_else(|| candidates.find(|(_, association)| may(association)));
        chosen.map(|(index, _)| index)
    }

    /// The addresses in it that are not to be had here.
    fn foreign(&self, association: &Association) -> Vec<Ipv6Addr> {
        association.addresses.iter().copied().filter(|address| *address != self.own).collect()
    }

    /// The address is this client's, or nobody's that is known here: a card that was restarted does not know its leases.
    fn holds(&self, client: &[u8], now: Moment) -> bool {
        self.binding.as_ref().is_none_or(|lease| lease.client == client || lease.until <= now)
    }

    fn bind(&mut self, client: &[u8], now: Moment) {
        let until = now + Duration::from_secs(VALID.into());
        self.binding = Some(Lease { client: client.to_vec(), until });
    }

    /// Name servers, the association with the address, the others with why they have none, and at the end the status. A
    /// renewal also takes back the addresses that an association should not have.
    fn tell(
        &self,
        answer: &mut Answer,
        message: &Message<'_>,
        granted: Option<usize>,
        refuse: impl Fn(&Association) -> Status,
    ) {
        if message.wants_dns && !self.dns.is_empty() {
            put(&mut answer.0, DNS_SERVERS, &[&self.dns]);
        }
        let taken_back = if matches!(message.kind, RENEW | REBIND) { TAKEN_BACK } else { 0 };
        let over = |addresses: &[Ipv6Addr]| -> Vec<_> {
            addresses.iter().take(taken_back).map(|address| (*address, 0, 0)).collect()
        };
        let all = message.associations.iter().enumerate();
        let (chosen, others): (Vec<_>, Vec<_>) = all.partition(|(index, _)| Some(*index) == granted);
        for (_, association) in chosen {
            let addresses = [vec![(self.own, PREFERRED, VALID)], over(&self.foreign(association))].concat();
            answer.association(association, Say::Granted, &addresses);
        }
        for (_, association) in others {
            answer.association(association, Say::Refused(refuse(association)), &over(&association.addresses));
        }
        answer.status(Status::Success);
    }
}

/// The answer as it grows.
struct Answer(Vec<u8>);

impl Answer {
    fn new(kind: u8, to: &Message<'_>, duid: &Duid) -> Self {
        let [a, b, c] = to.transaction;
        let mut out = vec![kind, a, b, c];
        if let Some(client) = to.client {
            put(&mut out, CLIENT_ID, &[client]);
        }
        put(&mut out, SERVER_ID, &[duid.as_bytes()]);
        Self(out)
    }

    /// Appends an association and addresses with their preferred and valid lifetimes. What does not fit is left out.
    fn association(&mut self, association: &Association, say: Say, addresses: &[(Ipv6Addr, u32, u32)]) {
        let mut inner = Vec::new();
        for (address, preferred, valid) in addresses {
            put_address(&mut inner, *address, *preferred, *valid);
        }
        let times = match (say, association.code) {
            (Say::Granted, _) => [RENEW_AFTER, REBIND_AFTER],
            (Say::Refused(status), code) => {
                let prefix = code == IA_PD && status != Status::NoBinding;
                put_status(&mut inner, if prefix { Status::NoPrefixAvail } else { status });
                [0, 0]
            }
        };
        let times = times.map(u32::to_be_bytes).concat();
        let times = if association.code == IA_TA { &[] } else { &times[..] };
        let mut option = Vec::new();
        put(&mut option, association.code, &[&association.iaid, times, &inner]);
        if self.0.len() + option.len() + STATUS <= LONGEST {
            self.0.extend_from_slice(&option);
        }
    }

    /// The last option: ConnMan before 1.14 overlooks the last one of a message, and Success says no more than nothing.
    fn status(&mut self, status: Status) {
        put_status(&mut self.0, status);
    }
}

#[cfg(test)]
mod tests;
