//! Routing rules. Only rules that are nothing but a mark or a destination with a lookup or `unreachable` are looked at: any
//! further selector makes it somebody else's, and so does another protocol than `kernel`.

use super::{plain, unless};
use crate::plan::{Action, Family, Match, Route, Rule, Scope};
use futures_util::TryStreamExt;
use ipnet::IpNet;
use nix::errno::Errno;
use rtnetlink::packet_core::{DefaultNla, Nla};
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage, RulePortRange};
use rtnetlink::packet_route::{AddressFamily, IpProtocol};
use rtnetlink::{Handle, IpVersion};
use std::io;

/// The rules that the kernel makes for itself, as (family, table, command).
const STANDARD: [(Family, u32, &str); 5] = [
    (Family::V6, Route::LOCAL, "ip -6 rule add pref 0 lookup local"),
    (Family::V6, Route::MAIN, "ip -6 rule add pref 32766 lookup main"),
    (Family::V4, Route::LOCAL, "ip -4 rule add pref 0 lookup local"),
    (Family::V4, Route::MAIN, "ip -4 rule add pref 32766 lookup main"),
    (Family::V4, DEFAULT, "ip -4 rule add pref 32767 lookup default"),
];
const DEFAULT: u32 = 253;
/// `FRA_SPORT_MASK` and `FRA_DPORT_MASK`.
const PORT_MASKS: [u16; 2] = [28, 29];

pub(super) async fn observe(netlink: &Handle, scope: &Scope) -> Result<Vec<Rule>, rtnetlink::Error> {
    let ours = |(rule, protocol): &(Rule, _)| *protocol == Some(RouteProtocol::Kernel) && scope.owns_rule(rule);
    Ok(all(netlink).await?.into_iter().filter(ours).map(|(rule, _)| rule).collect())
}

/// Our rules that are the host's.
pub(super) async fn observe_of_host(netlink: &Handle) -> Result<Vec<Rule>, rtnetlink::Error> {
    let ours = |(rule, protocol): &(Rule, _)| *protocol == Some(RouteProtocol::Kernel) && Rule::is_of_host(rule);
    Ok(all(netlink).await?.into_iter().filter(ours).map(|(rule, _)| rule).collect())
}

/// The standard rules that are not there, at whatever preference.
pub(super) async fn lost(netlink: &Handle) -> Result<Vec<&'static str>, rtnetlink::Error> {
    let found = all(netlink).await?;
    let there = |family: Family, table| {
        let everything = Match::To(family.everything());
        found.iter().any(|(rule, _)| {
            rule.family == family && rule.matches == everything && rule.action == Action::Lookup(table)
        })
    };
    let lost = STANDARD.iter().filter(|(family, table, _)| !there(*family, *table));
    Ok(lost.map(|(_, _, command)| *command).collect())
}

/// The rules that are as simple as ours, and who made them.
async fn all(netlink: &Handle) -> Result<Vec<(Rule, Option<RouteProtocol>)>, rtnetlink::Error> {
    let mut found = Vec::new();
    for version in [IpVersion::V6, IpVersion::V4] {
        let mut dump = std::pin::pin!(netlink.rule().get(version).execute());
        while let Some(message) = dump.try_next().await? {
            found.extend(parse(&message));
        }
    }
    Ok(found)
}

pub(super) async fn apply(netlink: &Handle, rule: &Rule) -> io::Result<()> {
    let mut request = netlink.rule().add();
    *request.message_mut() = message(rule);
    unless(request.execute().await, Errno::EEXIST)
}

pub(super) async fn clear(netlink: &Handle, rule: &Rule) -> io::Result<()> {
    match netlink.rule().del(message(rule)).execute().await.map_err(plain) {
        Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(()),
        result => result,
    }
}

fn message(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = match rule.family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    };
    let attributes = &mut message.attributes;
    attributes.push(RuleAttribute::Priority(rule.preference));
    attributes.push(RuleAttribute::Protocol(RouteProtocol::Kernel));
    match &rule.matches {
        Match::Mark { mark, mask } => {
            attributes.push(RuleAttribute::FwMark(*mark));
            attributes.push(RuleAttribute::FwMask(*mask));
        }
        Match::To(prefix) if prefix.prefix_len() == 0 => {}
        Match::To(prefix) => {
            message.header.dst_len = prefix.prefix_len();
            attributes.push(RuleAttribute::Destination(prefix.network()));
        }
        Match::Trusted => {
            attributes.push(RuleAttribute::SuppressPrefixLen(0));
            attributes.push(RuleAttribute::SuppressIfGroup(0));
        }
        Match::Dhcp => {
            attributes.push(RuleAttribute::IpProtocol(IpProtocol::Udp));
            attributes.push(RuleAttribute::SourcePortRange(port(Match::DHCP.0)));
            attributes.push(RuleAttribute::DestinationPortRange(port(Match::DHCP.1)));
        }
    }
    message.header.action = match rule.action {
        Action::Unreachable => RuleAction::Unreachable,
        Action::Lookup(table) => {
            attributes.push(RuleAttribute::Table(table));
            RuleAction::ToTable
        }
    };
    message
}

fn value_of(attribute: &DefaultNla) -> Vec<u8> {
    let mut value = vec![0; attribute.value_len()];
    attribute.emit_value(&mut value);
    value
}

fn port(number: u16) -> RulePortRange {
    RulePortRange { start: number, end: number }
}

fn parse(message: &RuleMessage) -> Option<(Rule, Option<RouteProtocol>)> {
    let header = &message.header;
    let family = match header.family {
        AddressFamily::Inet => Family::V4,
        AddressFamily::Inet6 => Family::V6,
        _ => return None,
    };
    let plain = header.src_len == 0 && header.tos == 0 && !header.flags.contains(RuleFlags::Invert);
    let (mut preference, mut mark, mut mask, mut to, mut table, mut protocol) =
        (0, 0, 0, None, header.table.into(), None);
    let (mut transport, mut from, mut towards) = (None, None, None);
    let (mut suppressed_length, mut suppressed_group) = (u32::MAX, u32::MAX);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(value) => preference = *value,
            RuleAttribute::FwMark(value) => mark = *value,
            RuleAttribute::FwMask(value) => mask = *value,
            RuleAttribute::Table(value) => table = *value,
            RuleAttribute::Protocol(value) => protocol = Some(*value),
            RuleAttribute::Destination(value) => to = Some(*value),
            // The kernel always sends the first of these two; all ones means that they are not used.
            RuleAttribute::SuppressPrefixLen(value) => suppressed_length = *value,
            RuleAttribute::SuppressIfGroup(value) => suppressed_group = *value,
            RuleAttribute::IpProtocol(value) => transport = Some(*value),
            RuleAttribute::SourcePortRange(value) => from = Some(*value),
            RuleAttribute::DestinationPortRange(value) => towards = Some(*value),
            // New kernels name the bits of the ports that count: all of them.
            RuleAttribute::Other(other) if PORT_MASKS.contains(&other.kind()) && value_of(other) == [0xff, 0xff] => {}
            _ => return None,
        }
    }
    let dhcp = (Some(IpProtocol::Udp), Some(port(Match::DHCP.0)), Some(port(Match::DHCP.1)));
    let matches = match (mask, to) {
        (0, None)
            if header.dst_len == 0
                && (suppressed_length, suppressed_group, transport, from, towards) == (0, 0, None, None, None) =>
        {
            Match::Trusted
        }
        _ if (suppressed_length, suppressed_group) != (u32::MAX, u32::MAX) => return None,
        (0, None) if header.dst_len == 0 && (transport, from, towards) == dhcp => Match::Dhcp,
        _ if (transport, from, towards) != (None, None, None) => return None,
        (0, None) if header.dst_len == 0 => Match::To(family.everything()),
        (0, Some(address)) => Match::To(IpNet::new(address, header.dst_len).ok()?),
        (mask, None) => Match::Mark { mark, mask },
        _ => return None,
    };
    let action = match header.action {
        RuleAction::Unreachable => Action::Unreachable,
        RuleAction::ToTable => Action::Lookup(table),
        _ => return None,
    };
    plain.then_some((Rule { family, preference, matches, action }, protocol))
}
