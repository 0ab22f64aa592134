//! Messages are made and answers are read by `dhcproto`, another implementation, except where bytes matter.

use super::*;
use crate::card::ethernet;
use crate::card::testing::{self, DUID, OWN};
use dhcproto::v6::{
    self, DhcpOption, IAAddr, IANA, IAPD, IAPrefix, IATA, MessageType, ORO, OptionCode, Status as Code, StatusCode,
};
use dhcproto::{Decodable, Decoder, Encodable, Encoder};
use proptest::prelude::*;

const OTHER: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x8f80, 1, 0, 0, 0, 0, 0x9999);
const ALICE: &[u8] = &[0, 3, 0, 1, 2, 0, 0, 0, 0, 0xaa];
const BOB: &[u8] = &[0, 3, 0, 1, 2, 0, 0, 0, 0, 0xbb];
const XID: [u8; 3] = [1, 2, 3];
const NOW: Moment = Duration::from_secs(1000);

fn server() -> Server {
    Server::new(&Settings { dns: vec!["fd00:8f80::53".parse().unwrap()], ..testing::settings() })
}

fn peer() -> Peer {
    Peer { link: [2, 0, 0, 0, 0, 0xaa], address: "fe80::aa".parse().unwrap() }
}

/// Sends bytes, and reads the UDP payload of the answer.
fn bytes(server: &mut Server, unicast: bool, message: &[u8], now: Moment) -> Result<Vec<u8>, Reason> {
    let frame = server.answer(peer(), unicast, message, now)?;
    assert!(frame.len() <= 14 + 1280, "an answer of {} bytes", frame.len());
    let packet = ethernet::parse(&frame).unwrap().packet;
    assert_eq!(packet[40..44], [0x02, 0x23, 0x02, 0x22], "from port 547 to port 546");
    Ok(packet[48..].to_vec())
}

/// A message with these options, and its answer.
fn ask(server: &mut Server, kind: MessageType, options: Vec<DhcpOption>) -> Result<v6::Message, Reason> {
    ask_at(server, kind, options, NOW)
}

fn ask_at(
    server: &mut Server,
    kind: MessageType,
    options: Vec<DhcpOption>,
    now: Moment,
) -> Result<v6::Message, Reason> {
    let answer = bytes(server, false, &encoded(kind, options), now)?;
    let message = v6::Message::decode(&mut Decoder::new(&answer)).unwrap();
    let mut again = Vec::new();
    let known = message.opts().iter().cloned().collect();
    v6::Message::new_with_id(message.msg_type(), message.xid())
        .set_opts(known)
        .encode(&mut Encoder::new(&mut again))
        .unwrap();
    assert_eq!(again.len(), answer.len(), "every byte of the answer was understood");
    assert_eq!(message.xid(), XID);
    assert_eq!(message.opts().get(OptionCode::ServerId), Some(&DhcpOption::ServerId(DUID.as_bytes().to_vec())));
    Ok(message)
}

fn encoded(kind: MessageType, options: Vec<DhcpOption>) -> Vec<u8> {
    let mut message = v6::Message::new_with_id(kind, XID);
    message.set_opts(options.into_iter().collect());
    let mut out = Vec::new();
    message.encode(&mut Encoder::new(&mut out)).unwrap();
    out
}

fn client(id: &[u8]) -> DhcpOption {
    DhcpOption::ClientId(id.to_vec())
}

fn to_us() -> DhcpOption {
    DhcpOption::ServerId(DUID.as_bytes().to_vec())
}

fn address(addr: Ipv6Addr) -> DhcpOption {
    DhcpOption::IAAddr(IAAddr { addr, preferred_life: 0, valid_life: 0, opts: Default::default() })
}

fn ia_na(id: u32, addresses: &[Ipv6Addr]) -> DhcpOption {
    let opts = addresses.iter().copied().map(address).collect();
    DhcpOption::IANA(IANA { id, t1: 0, t2: 0, opts })
}

fn ia_pd(id: u32) -> DhcpOption {
    let prefix = IAPrefix {
        preferred_lifetime: 0,
        valid_lifetime: 0,
        prefix_len: 56,
        prefix_ip: Ipv6Addr::UNSPECIFIED,
        opts: Default::default(),
    };
    let opts = [DhcpOption::IAPrefix(prefix)].into_iter().collect();
    DhcpOption::IAPD(IAPD { id, t1: 0, t2: 0, opts })
}

fn ia_ta(id: u32) -> DhcpOption {
    DhcpOption::IATA(IATA { id, opts: Default::default() })
}

fn dns() -> DhcpOption {
    DhcpOption::ORO(ORO { opts: vec![OptionCode::DomainNameServers] })
}

/// Gets the address for a client.
fn request(server: &mut Server, id: &[u8], now: Moment) {
    let answer = ask_at(server, MessageType::Request, vec![client(id), to_us(), ia_na(1, &[OWN])], now).unwrap();
    assert_eq!(associations(&answer), [granted(1)]);
}

/// What an answer says of its identity associations, by number: T1 and T2, addresses with lifetimes, status.
type Said = (u32, [u32; 2], Vec<(Ipv6Addr, u32, u32)>, Option<Code>);

fn associations(answer: &v6::Message) -> Vec<Said> {
    let of = |opts: &v6::DhcpOptions| {
        let mut addresses = Vec::new();
        let mut status = None;
        for option in opts.iter() {
            match option {
                DhcpOption::IAAddr(a) => addresses.push((a.addr, a.preferred_life, a.valid_life)),
                DhcpOption::StatusCode(StatusCode { status: code, .. }) => status = Some(*code),
                other => panic!("{other:?}"),
            }
        }
        (addresses, status)
    };
    let mut said = Vec::new();
    for option in answer.opts().iter() {
        let (id, times, opts) = match option {
            DhcpOption::IANA(ia) => (ia.id, [ia.t1, ia.t2], &ia.opts),
            DhcpOption::IAPD(ia) => (ia.id, [ia.t1, ia.t2], &ia.opts),
            DhcpOption::IATA(ia) => (ia.id, [0, 0], &ia.opts),
            _ => continue,
        };
        let (addresses, status) = of(opts);
        said.push((id, times, addresses, status));
    }
    said.sort_by_key(|(id, ..)| *id);
    said
}

fn granted(id: u32) -> Said {
    (id, [1800, 2880], vec![(OWN, 3600, 7200)], None)
}

fn refused(id: u32, status: Code) -> Said {
    (id, [0, 0], Vec::new(), Some(status))
}

fn status(answer: &v6::Message) -> Code {
    match answer.opts().get(OptionCode::StatusCode) {
        Some(DhcpOption::StatusCode(StatusCode { status, .. })) => *status,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_solicitation_and_its_advertisement_byte_by_byte() {
    #[rustfmt::skip]
    let solicit = [
        1, 0x10, 0x08, 0x74,
        0, 1, 0, 10, 0, 3, 0, 1, 2, 0, 0, 0, 0, 0xaa,   // client identifier
        0, 6, 0, 4, 0, 23, 0, 24,                       // wants name servers and domains
        0, 8, 0, 2, 0, 0,                               // elapsed time
        0, 3, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 // IA_NA 0
    ];
    #[rustfmt::skip]
    let advertise = [
        2, 0x10, 0x08, 0x74,
        0, 1, 0, 10, 0, 3, 0, 1, 2, 0, 0, 0, 0, 0xaa,
        0, 2, 0, 18, 0, 4, 0xab, 0xab, 0xab, 0xab, 0xab, 0xab, 0xab, 0xab, 0xab, 0xab, 0xab, 0xab, 0xab, 0xab, 0xab, 0xab,
        0, 7, 0, 1, 255,
        0, 23, 0, 16, 0xfd, 0, 0x8f, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x53,
        0, 3, 0, 40, 0, 0, 0, 0, 0, 0, 0x07, 0x08, 0, 0, 0x0b, 0x40,
        0, 5, 0, 24, 0xfd, 0, 0x8f, 0x80, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x34, 0, 0, 0x0e, 0x10, 0, 0, 0x1c, 0x20,
        0, 13, 0, 2, 0, 0,
    ];
    assert_eq!(bytes(&mut server(), false, &solicit, NOW), Ok(advertise.to_vec()));
}

#[test]
fn an_offer_binds_nobody_and_a_request_does() {
    let mut server = server();
    let offer = ask(&mut server, MessageType::Solicit, vec![client(ALICE), ia_na(7, &[])]).unwrap();
    assert_eq!(offer.msg_type(), MessageType::Advertise);
    assert_eq!((associations(&offer), status(&offer)), (vec![granted(7)], Code::Success));
    assert_eq!(server.lease(), None);
    let options = vec![client(ALICE), to_us(), ia_na(7, &[OWN])];
    let reply = ask(&mut server, MessageType::Request, options).unwrap();
    assert_eq!(reply.msg_type(), MessageType::Reply);
    assert_eq!((associations(&reply), status(&reply)), (vec![granted(7)], Code::Success));
    assert_eq!(server.lease(), Some(&Lease { client: ALICE.to_vec(), until: NOW + Duration::from_secs(7200) }));
}

#[test]
fn rapid_commit_saves_the_second_exchange_when_there_is_an_address_to_give() {
    let mut server = server();
    let options = vec![client(ALICE), DhcpOption::RapidCommit, ia_na(0, &[])];
    let reply = ask(&mut server, MessageType::Solicit, options).unwrap();
    assert_eq!(reply.msg_type(), MessageType::Reply);
    assert_eq!(reply.opts().get(OptionCode::RapidCommit), Some(&DhcpOption::RapidCommit));
    assert_eq!(associations(&reply), [granted(0)]);
    assert_eq!(server.lease().unwrap().client, ALICE);
    let offer = ask(&mut server, MessageType::Solicit, vec![client(BOB), DhcpOption::RapidCommit, ia_pd(0)]).unwrap();
    assert_eq!(offer.msg_type(), MessageType::Advertise);
    assert_eq!(offer.opts().get(OptionCode::RapidCommit), None);
    assert_eq!(server.lease().unwrap().client, ALICE);
}

#[test]
fn of_several_associations_the_one_that_names_the_address_or_the_first_gets_it() {
    let none = Code::NoAddrsAvail;
    for (wanted, said) in [
        (vec![ia_na(5, &[]), ia_na(6, &[])], [granted(5), refused(6, none)]),
        (vec![ia_na(5, &[]), ia_na(0, &[OWN])], [granted(0), refused(5, none)]),
        (vec![ia_na(5, &[OTHER]), ia_na(6, &[OWN, OTHER])], [refused(5, none), granted(6)]),
        (vec![ia_na(5, &[OTHER]), ia_na(6, &[])], [granted(5), refused(6, none)]),
        (vec![ia_na(5, &[Ipv6Addr::UNSPECIFIED]), ia_na(6, &[])], [granted(5), refused(6, none)]),
    ] {
        let options = [vec![client(ALICE)], wanted.clone()].concat();
        assert_eq!(associations(&ask(&mut server(), MessageType::Solicit, options).unwrap()), said, "{wanted:?}");
    }
    let options = vec![client(ALICE), to_us(), ia_na(5, &[OTHER]), ia_na(6, &[])];
    let reply = ask(&mut server(), MessageType::Request, options).unwrap();
    assert_eq!(associations(&reply), [refused(5, Code::NotOnLink), granted(6)]);
}

#[test]
fn temporary_addresses_and_prefixes_are_refused_with_the_status_that_fits() {
    let options = vec![client(ALICE), ia_na(1, &[]), ia_ta(2), ia_pd(3)];
    let offer = ask(&mut server(), MessageType::Solicit, options.clone()).unwrap();
    let expected = [granted(1), refused(2, Code::NoAddrsAvail), refused(3, Code::NoPrefixAvail)];
    assert_eq!(associations(&offer), expected);
    let reply = ask(&mut server(), MessageType::Rebind, options).unwrap();
    assert_eq!(associations(&reply), [granted(1), refused(2, Code::NoBinding), refused(3, Code::NoBinding)]);
}

#[test]
fn a_message_with_other_identifiers_than_its_kind_must_have_is_discarded() {
    use MessageType::*;
    let foreign = || DhcpOption::ServerId(vec![0, 4, 1, 2, 3]);
    let (none, ours, other) = (None, Some(to_us()), Some(foreign()));
    let (bad, theirs) = (Some(Reason::Malformed), Some(Reason::NotForUs));
    for (kinds, with_none, with_ours, with_other) in
        [(&[Solicit, Confirm, Rebind][..], None, bad, bad), (&[Request, Renew, Release, Decline], bad, None, theirs)]
    {
        for kind in kinds {
            for (server_id, expected) in [(&none, with_none), (&ours, with_ours), (&other, with_other)] {
                let options = [ia_na(1, &[OWN])].into_iter().chain(server_id.clone()).collect::<Vec<_>>();
                let with_client = [vec![client(ALICE)], options.clone()].concat();
                assert_eq!(ask(&mut server(), *kind, with_client).err(), expected, "{kind:?} {server_id:?}");
                assert_eq!(ask(&mut server(), *kind, options).err(), bad, "{kind:?} without a client");
            }
        }
    }
    for (options, expected) in [
        (vec![], None),
        (vec![client(ALICE)], None),
        (vec![client(ALICE), to_us()], None),
        (vec![foreign()], theirs),
        (vec![client(ALICE), ia_na(1, &[])], bad),
    ] {
        assert_eq!(ask(&mut server(), InformationRequest, options.clone()).err(), expected, "{options:?}");
    }
    for kind in [Advertise, Reply, Reconfigure, LeaseQuery, DHCPv4Query, Unknown(0), Unknown(200)] {
        let options = vec![client(ALICE), to_us()];
        assert_eq!(ask(&mut server(), kind, options).err(), Some(Reason::NotServed), "{kind:?}");
    }
}

#[test]
fn what_must_be_multicast_is_told_so_or_discarded() {
    use MessageType::*;
    for kind in [Request, Renew, Release, Decline] {
        let mut server = server();
        let answer =
            bytes(&mut server, true, &encoded(kind, vec![client(ALICE), to_us(), ia_na(1, &[OWN])]), NOW).unwrap();
        let message = v6::Message::decode(&mut Decoder::new(&answer)).unwrap();
        assert_eq!((message.msg_type(), status(&message)), (Reply, Code::UseMulticast), "{kind:?}");
        assert_eq!(message.opts().iter().count(), 3, "{message:?}");
        assert_eq!((server.lease(), server.withheld_until()), (None, None));
    }
    for kind in [Solicit, Confirm, Rebind, InformationRequest] {
        let answer = bytes(&mut server(), true, &encoded(kind, vec![client(ALICE)]), NOW);
        assert_eq!(answer, Err(Reason::Malformed), "{kind:?}");
    }
}

#[test]
fn name_servers_are_told_to_those_who_ask() {
    let known = DhcpOption::DomainNameServers(vec!["fd00:8f80::53".parse().unwrap()]);
    for (kind, ids) in [
        (MessageType::Solicit, vec![client(ALICE)]),
        (MessageType::Request, vec![client(ALICE), to_us()]),
        (MessageType::Renew, vec![client(ALICE), to_us()]),
        (MessageType::Rebind, vec![client(ALICE)]),
        (MessageType::InformationRequest, vec![]),
    ] {
        let asked = ask(&mut server(), kind, [ids.clone(), vec![dns()]].concat()).unwrap();
        assert_eq!(asked.opts().get(OptionCode::DomainNameServers), Some(&known), "{kind:?}");
        let silent = ask(&mut server(), kind, ids.clone()).unwrap();
        assert_eq!(silent.opts().get(OptionCode::DomainNameServers), None, "{kind:?}");
        let mut without = Server::new(&testing::settings());
        let nothing = ask(&mut without, kind, [ids, vec![dns()]].concat()).unwrap();
        assert_eq!(nothing.opts().get(OptionCode::DomainNameServers), None, "{kind:?}");
    }
}

#[test]
fn confirm_is_answered_by_whether_every_address_is_right_and_not_at_all_without_one() {
    for (addresses, expected) in [
        (&[OWN][..], Ok(Code::Success)),
        (&[OTHER], Ok(Code::NotOnLink)),
        (&[OWN, OTHER], Ok(Code::NotOnLink)),
        (&[], Err(Reason::NotServed)),
        (&[Ipv6Addr::UNSPECIFIED], Err(Reason::NotServed)),
    ] {
        let answer = ask(&mut server(), MessageType::Confirm, vec![client(ALICE), ia_na(1, addresses)]);
        assert_eq!(answer.as_ref().map(status).map_err(|reason| *reason), expected, "{addresses:?}");
        assert!(answer.map_or(true, |answer| associations(&answer).is_empty()));
    }
}

#[test]
fn a_renewal_extends_the_lease_and_takes_back_addresses_that_are_not_to_be_had() {
    for (kind, ids) in [(MessageType::Renew, vec![client(ALICE), to_us()]), (MessageType::Rebind, vec![client(ALICE)])]
    {
        let mut server = server();
        request(&mut server, ALICE, NOW);
        let later = NOW + Duration::from_secs(1800);
        let options = [ids, vec![ia_na(1, &[OTHER, OWN]), ia_na(2, &[OTHER])]].concat();
        let reply = ask_at(&mut server, kind, options, later).unwrap();
        let mut first = granted(1);
        first.2.push((OTHER, 0, 0));
        let second = (2, [0, 0], vec![(OTHER, 0, 0)], Some(Code::NoBinding));
        assert_eq!(associations(&reply), [first, second]);
        assert_eq!(server.lease().unwrap().until, later + Duration::from_secs(7200));
    }
}

#[test]
fn a_card_that_was_restarted_renews_what_it_does_not_remember() {
    let mut server = server();
    let options = vec![client(ALICE), to_us(), ia_na(9, &[OWN])];
    assert_eq!(associations(&ask(&mut server, MessageType::Renew, options).unwrap()), [granted(9)]);
    assert_eq!(server.lease().unwrap().client, ALICE);
}

#[test]
fn a_card_with_another_identity_gives_the_new_address_and_ends_the_old() {
    let mut server = Server::new(&Settings { own: OTHER, ..testing::settings() });
    let reply = ask(&mut server, MessageType::Renew, vec![client(ALICE), to_us(), ia_na(1, &[OWN])]).unwrap();
    let expected = (1, [1800, 2880], vec![(OTHER, 3600, 7200), (OWN, 0, 0)], None);
    assert_eq!(associations(&reply), [expected]);
    let reply = ask(&mut server, MessageType::Confirm, vec![client(ALICE), ia_na(1, &[OWN])]).unwrap();
    assert_eq!(status(&reply), Code::NotOnLink);
}

#[test]
fn another_host_takes_the_address_over_and_the_first_hears_so() {
    let mut server = server();
    request(&mut server, ALICE, NOW);
    request(&mut server, BOB, NOW);
    let renewal = || vec![client(ALICE), to_us(), ia_na(1, &[OWN])];
    let lost = (1, [0, 0], vec![(OWN, 0, 0)], Some(Code::NoBinding));
    assert_eq!(associations(&ask(&mut server, MessageType::Renew, renewal()).unwrap()), [lost]);
    assert_eq!(server.lease().unwrap().client, BOB);
    let expired = NOW + Duration::from_secs(7200);
    let reply = ask_at(&mut server, MessageType::Renew, renewal(), expired).unwrap();
    assert_eq!(associations(&reply), [granted(1)], "the other one's lease has ended");
    assert_eq!(server.lease().unwrap().client, ALICE);
}

#[test]
fn a_release_ends_the_lease_of_its_own_client_only() {
    let mut server = server();
    request(&mut server, ALICE, NOW);
    for (who, addresses) in [(BOB, OWN), (ALICE, OTHER)] {
        let options = vec![client(who), to_us(), ia_na(1, &[addresses])];
        let reply = ask(&mut server, MessageType::Release, options).unwrap();
        assert_eq!((associations(&reply), status(&reply)), (vec![refused(1, Code::NoBinding)], Code::Success));
        assert_eq!(server.lease().unwrap().client, ALICE);
    }
    let options = vec![client(ALICE), to_us(), ia_na(1, &[OWN]), ia_pd(2)];
    let reply = ask(&mut server, MessageType::Release, options).unwrap();
    assert_eq!((associations(&reply), status(&reply)), (vec![refused(2, Code::NoBinding)], Code::Success));
    assert_eq!((server.lease(), server.withheld_until()), (None, None));
    request(&mut server, BOB, NOW);
}

#[test]
fn a_declined_address_is_withheld_for_a_minute() {
    let mut server = server();
    request(&mut server, ALICE, NOW);
    let options = vec![client(ALICE), to_us(), ia_na(1, &[OWN])];
    let reply = ask(&mut server, MessageType::Decline, options.clone()).unwrap();
    assert_eq!((associations(&reply), status(&reply)), (vec![], Code::Success));
    let until = NOW + Duration::from_secs(60);
    assert_eq!((server.lease(), server.withheld_until()), (None, Some(until)));
    let almost = until - Duration::from_nanos(1);
    let rapid = vec![client(ALICE), DhcpOption::RapidCommit, ia_na(1, &[])];
    let offer = ask_at(&mut server, MessageType::Solicit, rapid, almost).unwrap();
    assert_eq!(offer.msg_type(), MessageType::Advertise);
    assert_eq!(associations(&offer), [refused(1, Code::NoAddrsAvail)]);
    let reply = ask_at(&mut server, MessageType::Request, options, almost).unwrap();
    assert_eq!(associations(&reply), [refused(1, Code::NoAddrsAvail)]);
    assert_eq!(server.lease(), None);
    request(&mut server, ALICE, until);
}

#[test]
fn damaged_options_make_the_message_void() {
    let whole = encoded(MessageType::Solicit, vec![client(ALICE), ia_na(1, &[OWN]), dns()]);
    assert!(bytes(&mut server(), false, &whole, NOW).is_ok());
    let with = |options: &[u8]| [&whole[..], options].concat();
    for (what, message) in [
        ("cut short", whole[..whole.len() - 1].to_vec()),
        ("no header", vec![1, 2, 3]),
        ("half an option header", with(&[0, 8, 0])),
        ("longer than the message", with(&[0, 8, 0, 2, 0])),
        ("IA_NA without its times", with(&[0, 3, 0, 4, 0, 0, 0, 1])),
        ("IA_NA of three bytes", with(&[0, 3, 0, 3, 0, 0, 0])),
        ("IA_TA of three bytes", with(&[0, 4, 0, 3, 0, 0, 0])),
        ("IA_PD of eleven bytes", with(&[0, 25, 0, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
        ("an address of three bytes", with(&[0, 4, 0, 11, 0, 0, 0, 1, 0, 5, 0, 3, 1, 2, 3])),
        ("an odd list of options", with(&[0, 6, 0, 1, 0])),
        ("a second client identifier", with(&[0, 1, 0, 3, 0, 3, 9])),
    ] {
        assert_eq!(bytes(&mut server(), false, &message, NOW), Err(Reason::Malformed), "{what}");
    }
    for (length, sound) in [(0, false), (2, false), (3, true), (130, true), (131, false)] {
        let message = encoded(MessageType::Solicit, vec![client(&vec![7; length])]);
        assert_eq!(bytes(&mut server(), false, &message, NOW).is_ok(), sound, "a client identifier of {length} bytes");
    }
}

#[test]
fn a_client_that_asks_without_end_gets_ten_answers_a_second() {
    let mut server = server();
    let mut answered = |milliseconds: u64| {
        let now = NOW + Duration::from_millis(milliseconds);
        (0..1000).filter(|_| ask_at(&mut server, MessageType::Solicit, vec![client(ALICE)], now).is_ok()).count()
    };
    assert_eq!([answered(0), answered(99), answered(100), answered(1100)], [20, 0, 1, 10]);
}

#[test]
fn what_does_not_fit_into_one_packet_is_left_out_but_never_the_address() {
    let many = (1..500).map(|id| ia_na(id, &[OTHER; 3]));
    let options: Vec<_> = [client(ALICE), to_us()].into_iter().chain(many).chain([ia_na(1000, &[OWN])]).collect();
    for kind in [MessageType::Request, MessageType::Renew] {
        let said = associations(&ask(&mut server(), kind, options.clone()).unwrap());
        assert!(said.len() > 5 && said.contains(&granted(1000)), "{said:?}");
    }
    let options = vec![client(ALICE), to_us(), ia_na(1, &[[OTHER; 200].to_vec(), vec![OWN]].concat())];
    let said = associations(&ask(&mut server(), MessageType::Renew, options).unwrap());
    assert!(said[0].2.contains(&(OWN, 3600, 7200)) && said[0].2.contains(&(OTHER, 0, 0)), "{said:?}");
}

fn any_association() -> impl Strategy<Value = DhcpOption> {
    let addresses = prop::collection::vec(prop::sample::select(vec![OWN, OTHER, Ipv6Addr::UNSPECIFIED]), 0..40);
    (0..3, any::<u32>(), addresses).prop_map(|(kind, id, addresses)| match kind {
        0 => ia_na(id, &addresses),
        1 => ia_ta(id),
        _ => ia_pd(id),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_bytes_make_the_server_panic(message in prop::collection::vec(any::<u8>(), 0..300), kind in 0..12u8, unicast in any::<bool>()) {
        let mut server = server();
        let _ = server.answer(peer(), unicast, &message, NOW);
        let start = encoded(MessageType::Unknown(kind), vec![client(ALICE), to_us()]);
        let _ = server.answer(peer(), unicast, &[start, message].concat(), NOW);
    }

    #[test]
    fn every_answer_keeps_the_rules(
        kind in 1..12u8,
        ids in (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()),
        wanted in prop::collection::vec(any_association(), 0..30),
    ) {
        let (with_client, with_server, rapid, wants_dns) = ids;
        let optional = [
            with_client.then(|| client(ALICE)),
            with_server.then(to_us),
            rapid.then_some(DhcpOption::RapidCommit),
            wants_dns.then(dns),
        ];
        let options = optional.into_iter().flatten().chain(wanted).collect();
        let mut server = server();
        let raw = bytes(&mut server, false, &encoded(kind.into(), options), NOW);
        if let Ok(raw) = raw {
            prop_assert_eq!(&raw[raw.len() - 6..raw.len() - 2], &[0, 13, 0, 2], "the status is the last option");
            let answer = v6::Message::decode(&mut Decoder::new(&raw)).unwrap();
            prop_assert_eq!(answer.opts().get(OptionCode::ClientId).is_some(), with_client);
            let alive: Vec<_> = associations(&answer).into_iter().flat_map(|said| said.2).filter(|address| address.2 > 0).collect();
            prop_assert!(alive.len() <= 1 && alive.iter().all(|(address, ..)| *address == OWN));
            let committed = answer.msg_type() == MessageType::Reply && !alive.is_empty();
            prop_assert_eq!(server.lease().is_some(), committed);
        }
    }
}
