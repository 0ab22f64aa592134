//! The card on its Ethernet side: sorts what the host behind sends, and keeps what is to be sent to it.

use super::advertise::Advertiser;
use super::bucket::Bucket;
use super::dhcp6::{self, Lease, Server};
use super::discovery::{self, Header, Message};
use super::neighbour::{Neighbour, Wish};
use super::wire::{self, Peer, UDP};
use super::{Delivery, LinkAddress, Reason, Settings, Verdict, ethernet};
use crate::state::Moment;
use crate::tunnel::enf::packet::{self, ICMPV6, Packet, ROUTER};
use ipnet::Ipv6Net;
use std::collections::VecDeque;
use std::net::Ipv6Addr;
use std::time::Duration;

/// Answers that nobody has fetched yet.
const REPLIES: usize = 64;

/// ICMPv6 type (RFC 4443 section 3.2), and how much it says of the packet: the whole fits into 1280 bytes.
const PACKET_TOO_BIG: u8 = 2;
const QUOTED: usize = 1280 - 48;

/// The card's Ethernet side.
#[derive(Clone, Debug)]
pub struct Responder {
    lladdr: LinkAddress,
    own: Ipv6Addr,
    mtu: u16,
    rng: fastrand::Rng,
    advertiser: Option<Advertiser>,
    server: Option<Server>,
    neighbour: Neighbour,
    replies: VecDeque<Vec<u8>>,
    answers: Bucket,
}

/// What there is to tell people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// Where the host behind is, once it has shown itself.
    pub neighbour: Option<LinkAddress>,
    /// Routes that do not fit into one router advertisement, and are not advertised.
    pub left_out: Vec<Ipv6Net>,
    /// Who has the address by DHCPv6.
    pub lease: Option<Lease>,
    /// The host behind has found another station with the address: until then, nobody gets it.
    pub withheld_until: Option<Moment>,
}

impl Responder {
    /// Nothing is known of the host yet. That the card is here, and the first router advertisement, are due.
    pub fn new(settings: &Settings, now: Moment) -> Self {
        Self {
            lladdr: settings.lladdr,
            own: settings.own,
            mtu: settings.mtu,
            rng: fastrand::Rng::with_seed(settings.seed),
            advertiser: settings.router.then(|| Advertiser::new(settings, now)),
            server: settings.dhcp6.then(|| Server::new(settings)),
            neighbour: Neighbour::default(),
            // For a host that knows fe80::1 at the link-layer address of the card before.
            replies: VecDeque::from([discovery::advertisement(settings.lladdr, None)]),
            answers: Bucket::new(Duration::from_millis(10), 100),
        }
    }

    /// A frame from the host behind.
    pub fn frame<'a>(&mut self, frame: &'a [u8], now: Moment) -> Verdict<'a> {
        self.judge(frame, now).unwrap_or_else(Verdict::Drop)
    }

    /// A packet for the host behind, or a group of its: `out` becomes its frame.
    pub fn packet(&mut self, packet: &[u8], now: Moment, out: &mut Vec<u8>) -> Delivery {
        let Some(Packet::V6 { destination, .. }) = Packet::parse(packet) else {
            return Delivery::Drop(Reason::NotIpv6);
        };
        if destination.is_multicast() {
            ethernet::write(out, ethernet::group(destination), self.lladdr, packet);
            return Delivery::Frame;
        }
        if destination != self.own {
            return Delivery::Drop(Reason::NotForUs);
        }
        match self.neighbour.wanted(now) {
            Some(link) => {
                ethernet::write(out, link, self.lladdr, packet);
                Delivery::Frame
            }
            None if self.neighbour.wait(packet) => Delivery::Waits,
            None => Delivery::Drop(Reason::Unreachable),
        }
    }

    /// The next frame for the host behind that is due; to be asked again until there is none.
    pub fn poll(&mut self, now: Moment) -> Option<Vec<u8>> {
        if let Some(reply) = self.replies.pop_front() {
            return Some(reply);
        }
        match self.neighbour.poll(now) {
            Some(Wish::Ask(last)) => return Some(discovery::solicitation(self.lladdr, self.own, last)),
            Some(Wish::Send(link, packet)) => {
                let mut frame = Vec::new();
                ethernet::write(&mut frame, link, self.lladdr, &packet);
                return Some(frame);
            }
            None => {}
        }
        self.advertiser.as_mut()?.poll(now, &mut self.rng)
    }

    /// When [`poll`](Self::poll) has something, if nothing happens before; what lies in the past is due now.
    pub fn due(&self) -> Option<Moment> {
        let reply = (!self.replies.is_empty()).then_some(Moment::ZERO);
        let advertisement = self.advertiser.as_ref().map(Advertiser::due);
        [reply, self.neighbour.due(), advertisement].into_iter().flatten().min()
    }

    /// The last router advertisement, which takes the routes back. No other follows it. `None`: none are sent at all.
    pub fn farewell(&mut self) -> Option<Vec<u8>> {
        Some(self.advertiser.take()?.farewell())
    }

    /// How things stand.
    pub fn condition(&self) -> Condition {
        let left_out = self.advertiser.as_ref().map_or(&[][..], Advertiser::left_out).to_vec();
        let server = self.server.as_ref();
        Condition {
            neighbour: self.neighbour.link(),
            left_out,
            lease: server.and_then(Server::lease).cloned(),
            withheld_until: server.and_then(Server::withheld_until),
        }
    }

    fn judge<'a>(&mut self, frame: &'a [u8], now: Moment) -> Result<Verdict<'a>, Reason> {
        let frame = ethernet::parse(frame)?;
        if frame.source == self.lladdr || !(frame.destination == self.lladdr || ethernet::is_group(frame.destination)) {
            return Err(Reason::NotForUs);
        }
        let Some(Packet::V6 { source, destination, next_header, payload }) = Packet::parse(frame.packet) else {
            return Err(Reason::Malformed);
        };
        if source == ROUTER {
            return Err(Reason::AddressTaken);
        }
        if source == self.own {
            self.neighbour.heard(frame.source, now);
        }
        let from = Peer { link: frame.source, address: source };
        match next_header {
            ICMPV6 if payload.first().is_some_and(|kind| discovery::is_discovery(*kind)) => {
                let hop_limit = frame.packet.get(7).copied().unwrap_or_default();
                let message = discovery::parse(Header { source, destination, hop_limit }, payload)?;
                return self.discovery(from, message, now);
            }
            ICMPV6 if destination == ROUTER => return self.echo(from, frame.packet, now),
            UDP if destination == dhcp6::ALL_SERVERS || destination == ROUTER => {
                return self.dhcp6(from, destination, payload, now);
            }
            _ => {}
        }
        self.outward(source, destination)?;
        if frame.packet.len() > usize::from(self.mtu) {
            self.too_big(from, frame.packet, now);
            return Err(Reason::TooBig);
        }
        Ok(Verdict::Packet(frame.packet))
    }

    /// Tells the sender how much fits (RFC 4443 section 3.2). One who heeds our advertisements does not need it.
    fn too_big(&mut self, from: Peer, packet: &[u8], now: Moment) {
        let quoted = packet.get(..QUOTED).unwrap_or(packet);
        let body = [&u32::from(self.mtu).to_be_bytes(), quoted].concat();
        let frame = wire::icmpv6(self.lladdr, from, PACKET_TOO_BIG, 0, &body);
        // Without room for it, the next packet of that size brings another.
        let _ = self.reply(frame, now);
    }

    /// The packet may leave this link.
    fn outward(&self, source: Ipv6Addr, destination: Ipv6Addr) -> Result<(), Reason> {
        let narrow = destination.is_unicast_link_local() || packet::is_link_scope_multicast(destination);
        if narrow || source.is_unicast_link_local() || source.is_unspecified() {
            return Err(Reason::LinkLocal);
        }
        if source != self.own {
            return Err(Reason::SourceNotOwn);
        }
        let nowhere = destination.is_loopback() || destination.is_unspecified();
        if nowhere { Err(Reason::Malformed) } else { Ok(()) }
    }

    fn discovery(&mut self, from: Peer, message: Message, now: Moment) -> Result<Verdict<'static>, Reason> {
        match message {
            Message::RouterSolicitation => {
                let by = self.on_link(from.address).then_some(from);
                let advertiser = self.advertiser.as_mut().ok_or(Reason::NotServed)?;
                advertiser.solicited(by, now, &mut self.rng);
            }
            Message::NeighbourSolicitation { target: ROUTER, link } => {
                let asked_by = if from.address.is_unspecified() {
                    None
                } else if self.on_link(from.address) {
                    Some(Peer { link: link.unwrap_or(from.link), ..from })
                } else {
                    return Err(Reason::SourceNotOwn);
                };
                return self.reply(discovery::advertisement(self.lladdr, asked_by), now);
            }
            Message::NeighbourAdvertisement { target, link } if target == self.own => {
                self.neighbour.heard(link.unwrap_or(from.link), now);
            }
            Message::NeighbourAdvertisement { target: ROUTER, .. } => return Err(Reason::AddressTaken),
            Message::NeighbourSolicitation { .. } | Message::NeighbourAdvertisement { .. } => {
                return Err(Reason::NotServed);
            }
        }
        Ok(Verdict::Taken)
    }

    /// A ping of the card itself.
    fn echo(&mut self, from: Peer, packet: &[u8], now: Moment) -> Result<Verdict<'static>, Reason> {
        if !self.on_link(from.address) {
            return Err(Reason::SourceNotOwn);
        }
        let answer = packet::echo_reply(packet, ROUTER).ok_or(Reason::NotServed)?;
        let mut frame = Vec::new();
        ethernet::write(&mut frame, from.link, self.lladdr, &answer);
        self.reply(frame, now)
    }

    fn dhcp6(&mut self, from: Peer, to: Ipv6Addr, datagram: &[u8], now: Moment) -> Result<Verdict<'static>, Reason> {
        let (&[_, _, p0, p1, l0, l1, c0, c1], message) = datagram.split_first_chunk::<8>().ok_or(Reason::Malformed)?;
        if u16::from_be_bytes([p0, p1]) != dhcp6::SERVER_PORT {
            return Err(Reason::NotServed);
        }
        if usize::from(u16::from_be_bytes([l0, l1])) != datagram.len() {
            return Err(Reason::Malformed);
        }
        if [c0, c1] == [0, 0] || packet::checksum(from.address, to, UDP, datagram) != 0 {
            return Err(Reason::Invalid);
        }
        if !self.on_link(from.address) {
            return Err(Reason::SourceNotOwn);
        }
        let server = self.server.as_mut().ok_or(Reason::NotServed)?;
        let answer = server.answer(from, to == ROUTER, message, now)?;
        self.put(answer)
    }

    /// An address that the host behind can have: the own one, or one of the link.
    fn on_link(&self, address: Ipv6Addr) -> bool {
        address == self.own || address.is_unicast_link_local()
    }

    /// Answers that cost the asker as much as the card, but no more than so many.
    fn reply(&mut self, frame: Vec<u8>, now: Moment) -> Result<Verdict<'static>, Reason> {
        if self.answers.take(now) { self.put(frame) } else { Err(Reason::TooMany) }
    }

    fn put(&mut self, frame: Vec<u8>) -> Result<Verdict<'static>, Reason> {
        if self.replies.len() >= REPLIES {
            return Err(Reason::TooMany);
        }
        self.replies.push_back(frame);
        Ok(Verdict::Taken)
    }
}

#[cfg(test)]
#[path = "responder_tests.rs"]
mod tests;
