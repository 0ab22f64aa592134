//! The few words of nftables that our table is made of, as values: each prints as nft text for people, and becomes the JSON
//! that nft reads. What a table says is `firewall`'s business; how it gets into the kernel is `kernel`'s.

use super::Family;
use ipnet::IpNet;
use nftables::expr::{
    BinaryOperation, CT, Expression, Meta, MetaKey, NamedExpression, Payload, PayloadField, Prefix, SetItem,
};
use nftables::schema::{self, NfCmd, NfListObject, NfObject, Nftables};
use nftables::stmt::{Mangle, Match, Operator, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};
use std::fmt;
use std::net::IpAddr;

/// A table of family `inet`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// Its base chains.
    pub chains: Vec<Chain>,
}

/// A base chain of type `filter` and policy `drop`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Where it is called; also its name.
    pub hook: Hook,
    /// When, among other chains at this hook.
    pub priority: i32,
    /// Tried in this order.
    pub rules: Vec<Rule>,
}

/// A netfilter hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Every packet that comes in, before it is known where it goes.
    Prerouting,
    /// To this host.
    Input,
    /// Through this host.
    Forward,
    /// From this host.
    Output,
    /// Every packet that goes out, once its interface is settled.
    Postrouting,
}

/// One rule: when all tests hold, the actions are done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What must hold.
    pub tests: Vec<Test>,
    /// What is done then.
    pub actions: Vec<Action>,
    /// What it is for, at most 127 bytes; nft shows it.
    pub comment: &'static str,
}

/// A mark under its mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Mark {
    /// The bits that must be set as here.
    pub mark: u32,
    /// The bits that count.
    pub mask: u32,
}

/// What a packet is tested for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// It came in by one of these interfaces, by name.
    In(Vec<String>),
    /// It goes out by one of these.
    Out(Vec<String>),
    /// It goes out by none of these.
    NotOut(Vec<String>),
    /// It comes from one of these addresses, all of one family.
    From(Vec<IpNet>),
    /// It goes to one of these.
    To(Vec<IpNet>),
    /// It is of this family and comes from none of these.
    NotFrom(Vec<IpNet>),
    /// It is of this family and goes to none of these.
    NotTo(Vec<IpNet>),
    /// Its family.
    Family(Family),
    /// It carries this mark.
    Mark(Mark),
    /// Its flow carries this mark.
    FlowMark(Mark),
    /// It goes the way that the first packet of its flow went.
    Original,
    /// It answers.
    Reply,
    /// It is an ICMP error about a flow.
    Related,
    /// The socket that sent it is of this user id.
    User(u32),
    /// From this port.
    FromPort(Transport, u16),
    /// To this port.
    ToPort(Transport, u16),
    /// An ICMPv6 message of one of these types, by nft's names.
    Icmpv6(Vec<&'static str>),
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The chain lets it pass.
    Accept,
    /// It ends here.
    Drop,
    /// It carries this mark from here on.
    SetMark(Mark),
    /// Its flow does.
    SetFlowMark(Mark),
}

impl Rule {
    /// A rule that ends with one action.
    pub fn new(comment: &'static str, tests: impl Into<Vec<Test>>, action: Action) -> Self {
        Self { tests: tests.into(), actions: vec![action], comment }
    }

    /// The same as several rules, none of which tests for more than one name, address or type at a time.
    pub fn without_sets(&self) -> Vec<Self> {
        let mut all = vec![Vec::new()];
        for test in &self.tests {
            let parts = test.parts();
            all = all
                .iter()
                .flat_map(|tests| parts.iter().map(|part| [tests.as_slice(), part.as_slice()].concat()))
                .collect();
        }
        all.into_iter().map(|tests| Self { tests, ..self.clone() }).collect()
    }
}

impl Test {
    /// Tests of one item each: this one holds when all of any of these lists do.
    fn parts(&self) -> Vec<Vec<Self>> {
        fn each<T: Clone>(items: &[T], test: fn(Vec<T>) -> Test) -> Vec<Test> {
            items.iter().map(|item| test(vec![item.clone()])).collect()
        }
        let any = |tests: Vec<Self>| tests.into_iter().map(|test| vec![test]).collect();
        match self {
            Self::In(names) => any(each(names, Self::In)),
            Self::Out(names) => any(each(names, Self::Out)),
            Self::NotOut(names) => vec![each(names, Self::NotOut)],
            Self::From(nets) => any(each(nets, Self::From)),
            Self::To(nets) => any(each(nets, Self::To)),
            Self::NotFrom(nets) => vec![each(nets, Self::NotFrom)],
            Self::NotTo(nets) => vec![each(nets, Self::NotTo)],
            Self::Icmpv6(types) => any(each(types, Self::Icmpv6)),
            _ => vec![vec![self.clone()]],
        }
    }
}

impl Mark {
    /// The bits that stay when this mark is set. Bits that are set anyhow are among them, as nft prints it.
    fn kept(self) -> u32 {
        !self.mask | self.mark
    }
}

impl Hook {
    /// The word in nft, and the chain's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        }
    }

    fn json(self) -> NfHook {
        match self {
            Self::Prerouting => NfHook::Prerouting,
            Self::Input => NfHook::Input,
            Self::Forward => NfHook::Forward,
            Self::Output => NfHook::Output,
            Self::Postrouting => NfHook::Postrouting,
        }
    }
}

impl Transport {
    fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// `fd00::5` for a single address, `fd00::/8` for more.
fn net(net: &IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

/// `ip` or `ip6`, as nft calls the headers.
fn header(nets: &[IpNet]) -> &'static str {
    match nets.first().map(IpNet::addr) {
        Some(IpAddr::V4(_)) => "ip",
        Some(IpAddr::V6(_)) | None => "ip6",
    }
}

/// One as it is, several in braces.
fn listed(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    match items.as_slice() {
        [one] => one.clone(),
        _ => format!("{{ {} }}", items.join(", ")),
    }
}

fn quoted(names: &[String]) -> String {
    listed(names.iter().map(|name| format!("\"{name}\"")))
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nets = |nets: &[IpNet]| listed(nets.iter().map(net));
        match self {
            Self::In(names) => write!(f, "iifname {}", quoted(names)),
            Self::Out(names) => write!(f, "oifname {}", quoted(names)),
            Self::NotOut(names) => write!(f, "oifname != {}", quoted(names)),
            Self::From(these) => write!(f, "{} saddr {}", header(these), nets(these)),
            Self::To(these) => write!(f, "{} daddr {}", header(these), nets(these)),
            Self::NotFrom(these) => write!(f, "{} saddr != {}", header(these), nets(these)),
            Self::NotTo(these) => write!(f, "{} daddr != {}", header(these), nets(these)),
            Self::Family(Family::V4) => f.write_str("meta nfproto ipv4"),
            Self::Family(Family::V6) => f.write_str("meta nfproto ipv6"),
            Self::Mark(Mark { mark, mask: u32::MAX }) => write!(f, "meta mark {mark:#x}"),
            Self::Mark(Mark { mark, mask }) => write!(f, "meta mark & {mask:#x} == {mark:#x}"),
            Self::FlowMark(Mark { mark, mask: u32::MAX }) => write!(f, "ct mark {mark:#x}"),
            Self::FlowMark(Mark { mark, mask }) => write!(f, "ct mark & {mask:#x} == {mark:#x}"),
            Self::Original => f.write_str("ct direction original"),
            Self::Reply => f.write_str("ct direction reply"),
            Self::Related => f.write_str("ct state related"),
            Self::User(uid) => write!(f, "meta skuid {uid}"),
            Self::FromPort(transport, port) => write!(f, "{} sport {port}", transport.as_str()),
            Self::ToPort(transport, port) => write!(f, "{} dport {port}", transport.as_str()),
            Self::Icmpv6(types) => {
                write!(f, "icmpv6 type {}", listed(types.iter().map(|name| (*name).to_owned())))
            }
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = |f: &mut fmt::Formatter<'_>, what: &str, mark: &Mark| match mark.mask {
            u32::MAX => write!(f, "{what} mark set {:#x}", mark.mark),
            _ => write!(f, "{what} mark set {what} mark & {:#x} | {:#x}", mark.kept(), mark.mark),
        };
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::SetMark(mark) => set(f, "meta", mark),
            Self::SetFlowMark(mark) => set(f, "ct", mark),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for test in &self.tests {
            write!(f, "{test} ")?;
        }
        for action in &self.actions {
            write!(f, "{action} ")?;
        }
        write!(f, "comment \"{}\"", self.comment)
    }
}

impl fmt::Display for Table {
    /// Text for `nft -f` that replaces the table, whatever is in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name;
        writeln!(f, "table inet {name}\ndelete table inet {name}\ntable inet {name} {{")?;
        for (number, Chain { hook, priority, rules }) in self.chains.iter().enumerate() {
            let hook = hook.as_str();
            let gap = if number == 0 { "" } else { "\n" };
            writeln!(f, "{gap}    chain {hook} {{\n        type filter hook {hook} priority {priority}; policy drop;")?;
            for rule in rules {
                writeln!(f, "        {rule}")?;
            }
            writeln!(f, "    }}")?;
        }
        write!(f, "}}")
    }
}

impl Table {
    /// One transaction that replaces the table, whatever is in it.
    pub fn replace(&self) -> Nftables<'_> {
        let add = |object| NfObject::CmdObject(NfCmd::Add(object));
        let commands: Vec<_> = Self::delete(self.name).into_iter().chain(self.objects().into_iter().map(add)).collect();
        Nftables { objects: commands.into() }
    }

    /// One transaction after which there is no such table; there need not have been one.
    pub fn remove(name: &'static str) -> Nftables<'static> {
        Nftables { objects: Self::delete(name).into() }
    }

    fn delete<'a>(name: &'static str) -> Vec<NfObject<'a>> {
        let table = || NfListObject::Table(schema::Table { family: NfFamily::INet, name: name.into(), handle: None });
        // Deleting what is not there is an error, adding what is there is none.
        vec![NfObject::CmdObject(NfCmd::Add(table())), NfObject::CmdObject(NfCmd::Delete(table()))]
    }

    /// The table as nft lists it, but for handles.
    pub fn objects(&self) -> Vec<NfListObject<'_>> {
        let (family, table) = (NfFamily::INet, self.name);
        let mut objects = vec![NfListObject::Table(schema::Table { family, name: table.into(), handle: None })];
        objects.extend(self.chains.iter().map(|chain| {
            NfListObject::Chain(schema::Chain {
                family,
                table: table.into(),
                name: chain.hook.as_str().into(),
                _type: Some(NfChainType::Filter),
                hook: Some(chain.hook.json()),
                prio: Some(chain.priority),
                policy: Some(NfChainPolicy::Drop),
                ..schema::Chain::default()
            })
        }));
        for chain in &self.chains {
            objects.extend(chain.rules.iter().map(|rule| {
                NfListObject::Rule(schema::Rule {
                    family,
                    table: table.into(),
                    chain: chain.hook.as_str().into(),
                    expr: rule.statements().into(),
                    comment: Some(rule.comment.into()),
                    ..schema::Rule::default()
                })
            }));
        }
        objects
    }
}

impl Rule {
    fn statements(&self) -> Vec<Statement<'_>> {
        self.tests.iter().map(Test::json).chain(self.actions.iter().map(|action| action.json())).collect()
    }
}

impl Test {
    fn json(&self) -> Statement<'_> {
        let (left, op, right) = match self {
            Self::In(names) => (meta(MetaKey::Iifname), Operator::EQ, words(names.iter().map(String::as_str))),
            Self::Out(names) => (meta(MetaKey::Oifname), Operator::EQ, words(names.iter().map(String::as_str))),
            Self::NotOut(names) => (meta(MetaKey::Oifname), Operator::NEQ, words(names.iter().map(String::as_str))),
            Self::From(nets) => (field(header(nets), "saddr"), Operator::EQ, addresses(nets)),
            Self::To(nets) => (field(header(nets), "daddr"), Operator::EQ, addresses(nets)),
            Self::NotFrom(nets) => (field(header(nets), "saddr"), Operator::NEQ, addresses(nets)),
            Self::NotTo(nets) => (field(header(nets), "daddr"), Operator::NEQ, addresses(nets)),
            Self::Family(Family::V4) => (meta(MetaKey::Nfproto), Operator::EQ, word("ipv4")),
            Self::Family(Family::V6) => (meta(MetaKey::Nfproto), Operator::EQ, word("ipv6")),
            Self::Mark(mark) => (masked(meta(MetaKey::Mark), *mark), Operator::EQ, number(mark.mark)),
            Self::FlowMark(mark) => (masked(ct("mark"), *mark), Operator::EQ, number(mark.mark)),
            Self::Original => (ct("direction"), Operator::EQ, word("original")),
            Self::Reply => (ct("direction"), Operator::EQ, word("reply")),
            Self::Related => (ct("state"), Operator::IN, word("related")),
            Self::User(uid) => (meta(MetaKey::Skuid), Operator::EQ, number(*uid)),
            Self::FromPort(transport, port) => {
                (field(transport.as_str(), "sport"), Operator::EQ, number(u32::from(*port)))
            }
            Self::ToPort(transport, port) => {
                (field(transport.as_str(), "dport"), Operator::EQ, number(u32::from(*port)))
            }
            Self::Icmpv6(types) => (field("icmpv6", "type"), Operator::EQ, words(types.iter().copied())),
        };
        Statement::Match(Match { left, right, op })
    }
}

impl Action {
    fn json<'a>(self) -> Statement<'a> {
        let set = |key: fn() -> Expression<'a>, mark: Mark| {
            let value = match mark.mask {
                u32::MAX => number(mark.mark),
                _ => {
                    let kept = BinaryOperation::AND(key(), number(mark.kept()));
                    let kept = Expression::BinaryOperation(Box::new(kept));
                    Expression::BinaryOperation(Box::new(BinaryOperation::OR(vec![kept, number(mark.mark)])))
                }
            };
            Statement::Mangle(Mangle { key: key(), value })
        };
        match self {
            Self::Accept => Statement::Accept(None),
            Self::Drop => Statement::Drop(None),
            Self::SetMark(mark) => set(|| meta(MetaKey::Mark), mark),
            Self::SetFlowMark(mark) => set(|| ct("mark"), mark),
        }
    }
}

fn meta<'a>(key: MetaKey) -> Expression<'a> {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

fn ct<'a>(key: &'a str) -> Expression<'a> {
    Expression::Named(NamedExpression::CT(CT { key: key.into(), family: None, dir: None }))
}

fn field<'a>(protocol: &'a str, field: &'a str) -> Expression<'a> {
    let field = PayloadField { protocol: protocol.into(), field: field.into() };
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(field)))
}

fn number<'a>(number: u32) -> Expression<'a> {
    Expression::Number(number)
}

fn word<'a>(word: &'a str) -> Expression<'a> {
    Expression::String(word.into())
}

fn masked(key: Expression<'_>, mark: Mark) -> Expression<'_> {
    match mark.mask {
        u32::MAX => key,
        mask => Expression::BinaryOperation(Box::new(BinaryOperation::AND(key, number(mask)))),
    }
}

fn words<'a>(these: impl Iterator<Item = &'a str>) -> Expression<'a> {
    set(these.map(word).collect())
}

fn addresses<'a>(nets: &[IpNet]) -> Expression<'a> {
    let one = |net: &IpNet| {
        let address = Expression::String(net.addr().to_string().into());
        if net.prefix_len() == net.max_prefix_len() {
            return address;
        }
        Expression::Named(NamedExpression::Prefix(Prefix { addr: Box::new(address), len: net.prefix_len().into() }))
    };
    set(nets.iter().map(one).collect())
}

/// One as it is, several as a set.
fn set(mut items: Vec<Expression<'_>>) -> Expression<'_> {
    match (items.len(), items.pop()) {
        (1, Some(one)) => one,
        (_, last) => {
            items.extend(last);
            Expression::Named(NamedExpression::Set(items.into_iter().map(SetItem::Element).collect()))
        }
    }
}
