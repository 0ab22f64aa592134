//! An nftables table as the kernel's messages (nfnetlink): only those words of a table that a guard is made of. Plain bytes; it
//! talks to nobody.

use crate::plan::Family;
use crate::plan::nft::{Action, Chain, Hook, Mark, Rule, Table, Test, Transport};
use ipnet::IpNet;
use std::net::IpAddr;

// linux/netlink.h, linux/netfilter/nfnetlink.h.
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const NLA_F_NESTED: u16 = 0x8000;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const SUBSYS_NFTABLES: u16 = 10;
const NFPROTO_UNSPEC: u8 = 0;
const NFPROTO_INET: u8 = 1;
// linux/netfilter/nf_tables.h.
const NEWTABLE: u16 = SUBSYS_NFTABLES << 8;
const DELTABLE: u16 = NEWTABLE | 2;
const NEWCHAIN: u16 = NEWTABLE | 3;
const NEWRULE: u16 = NEWTABLE | 6;
/// As DELTABLE, and no error without a table. Linux 6.3.
const DESTROYTABLE: u16 = NEWTABLE | 26;
const OWNER: u32 = 2;
/// Linux 6.9.
const PERSIST: u32 = 4;
const META_MARK: u32 = 3;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const CT_DIRECTION: u32 = 1;
const CT_MARK: u32 = 3;
const DIRECTION_ORIGINAL: u8 = 0;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const EQUAL: u32 = 0;
const UNEQUAL: u32 = 1;
const REGISTER: u32 = 1;
const VERDICT_REGISTER: u32 = 0;
const DROP: u32 = 0;
const ACCEPT: u32 = 1;
const IFNAMSIZ: usize = 16;

/// One message about a table.
pub(super) struct Message {
    kind: u16,
    flags: u16,
    attributes: Vec<u8>,
}

/// A transaction: these messages, numbered from `first + 1`.
pub(super) fn batch(messages: &[Message], first: u32) -> Vec<u8> {
    let mut sequence = first;
    let mut batch = frame(BATCH_BEGIN, NLM_F_REQUEST, sequence, NFPROTO_UNSPEC, SUBSYS_NFTABLES, &[]);
    for (number, message) in messages.iter().enumerate() {
        sequence = sequence.wrapping_add(1);
        // One that is refused is answered in any case; the answer to the last one says that all are through.
        let ack = if number + 1 == messages.len() { NLM_F_ACK } else { 0 };
        let flags = NLM_F_REQUEST | message.flags | ack;
        batch.extend(frame(message.kind, flags, sequence, NFPROTO_INET, 0, &message.attributes));
    }
    sequence = sequence.wrapping_add(1);
    batch.extend(frame(BATCH_END, NLM_F_REQUEST, sequence, NFPROTO_UNSPEC, SUBSYS_NFTABLES, &[]));
    batch
}

/// Deletes the table; without one that is refused (ENOENT).
pub(super) fn delete(name: &str) -> Message {
    Message { kind: DELTABLE, flags: 0, attributes: text(1, name) }
}

/// A netlink message: its header, the header of nfnetlink, and attributes.
fn frame(kind: u16, flags: u16, sequence: u32, family: u8, resource: u16, attributes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(20 + attributes.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(attributes);
    bytes
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn nested(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | NLA_F_NESTED, &parts.concat())
}

fn text(kind: u16, text: &str) -> Vec<u8> {
    attribute(kind, &[text.as_bytes(), &[0]].concat())
}

fn number(kind: u16, number: u32) -> Vec<u8> {
    attribute(kind, &number.to_be_bytes())
}

/// One transaction that makes the table ours, with nothing else in it; none for a table that is no guard.
pub(super) fn replace(table: &Table) -> Option<Vec<Message>> {
    let make = NLM_F_CREATE;
    let flags = number(2, OWNER | PERSIST);
    let mut messages = vec![
        Message { kind: DESTROYTABLE, flags: 0, attributes: text(1, table.name) },
        Message { kind: NEWTABLE, flags: make, attributes: [text(1, table.name), flags].concat() },
    ];
    for Chain { hook, priority, rules } in &table.chains {
        let hooknum = match hook {
            Hook::Prerouting => 0,
            Hook::Postrouting => 4,
            Hook::Input | Hook::Forward | Hook::Output => return None,
        };
        let place = nested(4, &[number(1, hooknum), attribute(2, &priority.to_be_bytes())]);
        let attributes =
            [text(1, table.name), text(3, hook.as_str()), place, number(5, DROP), text(7, "filter")].concat();
        messages.push(Message { kind: NEWCHAIN, flags: make, attributes });
        for rule in rules {
            let attributes = [text(1, table.name), text(2, hook.as_str()), expressions(rule)?, comment(rule)?].concat();
            messages.push(Message { kind: NEWRULE, flags: make | NLM_F_APPEND, attributes });
        }
    }
    Some(messages)
}

/// What nft shows of a rule: type 0, length and text, in the rule's user data.
fn comment(rule: &Rule) -> Option<Vec<u8>> {
    let length = u8::try_from(rule.comment.len() + 1).ok()?;
    Some(attribute(7, &[&[0, length], rule.comment.as_bytes(), &[0]].concat()))
}

fn expressions(rule: &Rule) -> Option<Vec<u8>> {
    let mut steps: Vec<Vec<u8>> = Vec::new();
    for test in &rule.tests {
        for step in steps_of(test)? {
            // What a packet must be, to have such a field, is tested once.
            if !steps.contains(&step) {
                steps.push(step);
            }
        }
    }
    let [action] = rule.actions.as_slice() else { return None };
    let code = match action {
        Action::Accept => ACCEPT,
        Action::Drop => DROP,
        Action::SetMark(_) | Action::SetFlowMark(_) => return None,
    };
    steps.push(expression("immediate", &[number(1, VERDICT_REGISTER), nested(2, &[nested(2, &[number(1, code)])])]));
    Some(nested(4, &steps))
}

fn expression(name: &str, parts: &[Vec<u8>]) -> Vec<u8> {
    nested(1, &[text(1, name), nested(2, parts)])
}

fn meta(key: u32) -> Vec<u8> {
    expression("meta", &[number(1, REGISTER), number(2, key)])
}

fn ct(key: u32) -> Vec<u8> {
    expression("ct", &[number(1, REGISTER), number(2, key)])
}

fn payload(header: u32, offset: u32, length: usize) -> Vec<u8> {
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    expression("payload", &[number(1, REGISTER), number(2, header), number(3, offset), number(4, length)])
}

fn masked(mask: &[u8]) -> Vec<u8> {
    let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
    let nothing = vec![0; mask.len()];
    let value = |kind, bytes| nested(kind, &[attribute(1, bytes)]);
    expression(
        "bitwise",
        &[number(1, REGISTER), number(2, REGISTER), number(3, length), value(4, mask), value(5, &nothing)],
    )
}

fn compare(how: u32, value: &[u8]) -> Vec<u8> {
    expression("cmp", &[number(1, REGISTER), number(2, how), nested(3, &[attribute(1, value)])])
}

/// The steps of one test, each complete in itself; none for what no guard tests.
fn steps_of(test: &Test) -> Option<Vec<Vec<u8>>> {
    Some(match test {
        Test::In(names) => interface(META_IIFNAME, names, EQUAL)?,
        Test::Out(names) => interface(META_OIFNAME, names, EQUAL)?,
        Test::NotOut(names) => interface(META_OIFNAME, names, UNEQUAL)?,
        Test::From(nets) => address(nets, Side::Source, EQUAL)?,
        Test::To(nets) => address(nets, Side::Destination, EQUAL)?,
        Test::NotTo(nets) => address(nets, Side::Destination, UNEQUAL)?,
        Test::Family(family) => vec![of_family(*family)],
        Test::Mark(mark) => marked(meta(META_MARK), *mark),
        Test::FlowMark(mark) => marked(ct(CT_MARK), *mark),
        Test::Original => vec![[ct(CT_DIRECTION), compare(EQUAL, &[DIRECTION_ORIGINAL])].concat()],
        Test::FromPort(transport, port) => self::port(*transport, 0, *port),
        Test::ToPort(transport, port) => self::port(*transport, 2, *port),
        Test::Icmpv6(names) => {
            let [name] = names.as_slice() else { return None };
            let icmpv6 = compare(EQUAL, &[58]);
            let kind = compare(EQUAL, &[icmpv6_type(name)?]);
            vec![[meta(META_L4PROTO), icmpv6].concat(), [payload(TRANSPORT_HEADER, 0, 1), kind].concat()]
        }
        _ => return None,
    })
}

fn of_family(family: Family) -> Vec<u8> {
    let family = match family {
        Family::V4 => 2,
        Family::V6 => 10,
    };
    [meta(META_NFPROTO), compare(EQUAL, &[family])].concat()
}

fn interface(key: u32, names: &[String], how: u32) -> Option<Vec<Vec<u8>>> {
    let [name] = names else { return None };
    let mut bytes = name.clone().into_bytes();
    bytes.resize(IFNAMSIZ, 0);
    Some(vec![[meta(key), compare(how, &bytes)].concat()])
}

fn marked(load: Vec<u8>, Mark { mark, mask }: Mark) -> Vec<Vec<u8>> {
    let masked = if mask == u32::MAX { Vec::new() } else { masked(&mask.to_ne_bytes()) };
    vec![[load, masked, compare(EQUAL, &mark.to_ne_bytes())].concat()]
}

/// Which address of a packet.
#[derive(Clone, Copy)]
enum Side {
    Source,
    Destination,
}

fn address(nets: &[IpNet], side: Side, how: u32) -> Option<Vec<Vec<u8>>> {
    let [net] = nets else { return None };
    let bytes = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let (address, mask) = (bytes(net.network()), bytes(net.netmask()));
    let offset = match (net, side) {
        (IpNet::V4(_), Side::Source) => 12,
        (IpNet::V4(_), Side::Destination) => 16,
        (IpNet::V6(_), Side::Source) => 8,
        (IpNet::V6(_), Side::Destination) => 24,
    };
    let masked = if net.prefix_len() == net.max_prefix_len() { Vec::new() } else { masked(&mask) };
    let load = payload(NETWORK_HEADER, offset, address.len());
    Some(vec![of_family(Family::of(net)), [load, masked, compare(how, &address)].concat()])
}

fn port(transport: Transport, offset: u32, port: u16) -> Vec<Vec<u8>> {
    let protocol = match transport {
        Transport::Tcp => 6,
        Transport::Udp => 17,
    };
    let field = [payload(TRANSPORT_HEADER, offset, 2), compare(EQUAL, &port.to_be_bytes())];
    vec![[meta(META_L4PROTO), compare(EQUAL, &[protocol])].concat(), field.concat()]
}

/// By nft's names.
fn icmpv6_type(name: &str) -> Option<u8> {
    Some(match name {
        "mld-listener-report" => 131,
        "mld-listener-done" => 132,
        "nd-router-solicit" => 133,
        "nd-neighbor-solicit" => 135,
        "nd-neighbor-advert" => 136,
        "mld2-listener-report" => 143,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_is_no_guard_is_not_told_in_part() {
        assert!(replace(&crate::plan::emergency()).is_none());
    }

    #[test]
    fn every_message_and_attribute_fills_four_bytes() {
        for length in 0..9 {
            assert_eq!(attribute(1, &vec![1; length]).len() % 4, 0);
        }
        let whole = batch(&[delete("t"), delete("table")], u32::MAX);
        let mut rest = whole.as_slice();
        let mut sequences = Vec::new();
        while !rest.is_empty() {
            let number = |at: usize| u32::from_ne_bytes(rest[at..at + 4].try_into().unwrap());
            sequences.push(number(8));
            rest = &rest[number(0) as usize..];
        }
        assert_eq!(sequences, [u32::MAX, 0, 1, 2], "numbers may begin anew");
    }
}
