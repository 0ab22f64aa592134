//! DHCPv6 on the wire (RFC 8415 sections 8 and 21, RFC 3646): what a client's message says, and the options of an answer.

use std::net::Ipv6Addr;

pub const SOLICIT: u8 = 1;
pub const ADVERTISE: u8 = 2;
pub const REQUEST: u8 = 3;
pub const CONFIRM: u8 = 4;
pub const RENEW: u8 = 5;
pub const REBIND: u8 = 6;
pub const REPLY: u8 = 7;
pub const RELEASE: u8 = 8;
pub const DECLINE: u8 = 9;
pub const INFORMATION_REQUEST: u8 = 11;

pub const CLIENT_ID: u16 = 1;
pub const SERVER_ID: u16 = 2;
pub const IA_NA: u16 = 3;
pub const IA_TA: u16 = 4;
pub const IA_ADDRESS: u16 = 5;
pub const OPTION_REQUEST: u16 = 6;
pub const PREFERENCE: u16 = 7;
pub const STATUS_CODE: u16 = 13;
pub const RAPID_COMMIT: u16 = 14;
pub const DNS_SERVERS: u16 = 23;
pub const IA_PD: u16 = 25;

/// The longest DUID: its type and 128 bytes (RFC 8415 section 11.1).
const LONGEST_DUID: usize = 130;

/// Status codes (RFC 8415 section 21.13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Success = 0,
    NoAddrsAvail = 2,
    NoBinding = 3,
    NotOnLink = 4,
    UseMulticast = 5,
    NoPrefixAvail = 6,
}

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Message type.
    pub kind: u8,
    /// Transaction, which the answer repeats.
    pub transaction: [u8; 3],
    /// DUID of the client.
    pub client: Option<&'a [u8]>,
    /// DUID of the server it means.
    pub server: Option<&'a [u8]>,
    /// It wants to spare itself the second exchange.
    pub rapid: bool,
    /// It wants to know name servers.
    pub wants_dns: bool,
    /// What it wants addresses or prefixes for, in its order.
    pub associations: Vec<Association>,
}

/// An identity association: IA_NA, IA_TA or IA_PD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Association {
    /// Its option code.
    pub code: u16,
    /// Its number; every one is allowed.
    pub iaid: [u8; 4],
    /// The addresses in it. Of an IA_PD nothing is read.
    pub addresses: Vec<Ipv6Addr>,
}

impl<'a> Message<'a> {
    /// Reads a message of a client. `None`: an option is longer than what is left, or shorter than it must be.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (&[kind, a, b, c], rest) = bytes.split_first_chunk::<4>()?;
        let mut message = Self {
            kind,
            transaction: [a, b, c],
            client: None,
            server: None,
            rapid: false,
            wants_dns: false,
            associations: Vec::new(),
        };
        let mut options = Options(rest);
        while let Some((code, data)) = options.next()? {
            match code {
                CLIENT_ID | SERVER_ID => {
                    let id = if code == CLIENT_ID { &mut message.client } else { &mut message.server };
                    let sound = (3..=LONGEST_DUID).contains(&data.len()) && id.is_none();
                    *id = Some(data).filter(|_| sound)?.into();
                }
                IA_NA | IA_TA | IA_PD => message.associations.push(Association::parse(code, data)?),
                OPTION_REQUEST => {
                    let (codes, []) = data.as_chunks::<2>() else { return None };
                    message.wants_dns |= codes.contains(&DNS_SERVERS.to_be_bytes());
                }
                RAPID_COMMIT => message.rapid = true,
                _ => {}
            }
        }
        Some(message)
    }
}

impl Association {
    fn parse(code: u16, data: &[u8]) -> Option<Self> {
        let (iaid, rest) = data.split_first_chunk::<4>()?;
        // Two times, which an IA_TA does not have.
        let rest = if code == IA_TA { rest } else { rest.get(8..)? };
        let mut association = Self { code, iaid: *iaid, addresses: Vec::new() };
        let mut options = Options(rest);
        while let Some((inner, data)) = options.next()? {
            if inner == IA_ADDRESS && code != IA_PD {
                let (address, _lifetimes_and_options) =
                    data.split_first_chunk::<16>().filter(|(_, rest)| rest.len() >= 8)?;
                association.addresses.push(Ipv6Addr::from(*address));
            }
        }
        // "None in particular".
        association.addresses.retain(|address| !address.is_unspecified());
        Some(association)
    }
}

/// Options one after the other.
struct Options<'a>(&'a [u8]);

impl<'a> Options<'a> {
    /// The next option; `None`: what is left is none; `Some(None)`: nothing is left.
    fn next(&mut self) -> Option<Option<(u16, &'a [u8])>> {
        if self.0.is_empty() {
            return Some(None);
        }
        let (&[c0, c1, l0, l1], rest) = self.0.split_first_chunk::<4>()?;
        let (data, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([l0, l1])))?;
        self.0 = rest;
        Some(Some((u16::from_be_bytes([c0, c1]), data)))
    }
}

/// Appends an option.
pub fn put(out: &mut Vec<u8>, code: u16, data: &[&[u8]]) {
    let length: usize = data.iter().map(|part| part.len()).sum();
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
    for part in data {
        out.extend_from_slice(part);
    }
}

/// Appends a status without words.
pub fn put_status(out: &mut Vec<u8>, status: Status) {
    put(out, STATUS_CODE, &[&(status as u16).to_be_bytes()]);
}

/// Appends an address with one lifetime for each use of it.
pub fn put_address(out: &mut Vec<u8>, address: Ipv6Addr, preferred: u32, valid: u32) {
    put(out, IA_ADDRESS, &[&address.octets(), &preferred.to_be_bytes(), &valid.to_be_bytes()]);
}
