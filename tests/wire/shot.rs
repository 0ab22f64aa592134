//! One packet, or one attempt to connect, that can be told from all others: by a tag in its payload or by its source port.

use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, SetSockOpt, SockaddrStorage, sendmsg};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockAddr, Socket, Type};
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::time::Duration;

/// What every payload starts with; the probe's number follows in five digits.
pub const TAG: &[u8] = b"<wire probe ";
/// A probe sends from this port plus its number: below the kernel's own choices, so the tunnel's flows are never in it.
const FIRST_PORT: u16 = 20000;
const PROBES: u16 = 1000;

/// Where a probe's packets come from.
pub fn port_of_probe(id: u16) -> u16 {
    assert!(id < PROBES);
    FIRST_PORT + id
}

/// The probe that uses this port.
pub fn probe_of_port(port: u16) -> Option<u16> {
    port.checked_sub(FIRST_PORT).filter(|id| *id < PROBES)
}

/// The multicast group that it joins.
fn group_of_probe(id: u16) -> Ipv4Addr {
    let [high, low] = id.to_be_bytes();
    Ipv4Addr::new(239, 77, high, low)
}

/// The probe whose group a membership report (IGMP version 3) is about.
pub fn probe_of_report(report: &[u8]) -> Option<u16> {
    match report.get(12..16)? {
        [239, 77, high, low] => Some(u16::from_be_bytes([*high, *low])),
        _ => None,
    }
}

/// What it says.
pub fn payload(id: u16, size: usize) -> Vec<u8> {
    let tag = [TAG, format!("{id:05}>").as_bytes()].concat();
    // Again and again, so that every fragment carries it.
    tag.repeat(1 + size / tag.len())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Udp,
    Tcp,
    /// An echo request from a raw socket.
    Echo,
    /// A protocol that nobody knows.
    Raw,
    /// Joins and leaves an IPv4 multicast group; the kernel reports it.
    Join,
}

/// How the interface is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It is not.
    Chosen,
    /// `SO_BINDTODEVICE`
    Device,
    /// `IP_PKTINFO`, `IPV6_PKTINFO`
    PacketInfo,
    /// `IP_UNICAST_IF`, `IPV6_UNICAST_IF`
    UnicastIf,
    /// `IP_MULTICAST_IF`, `IPV6_MULTICAST_IF`
    MulticastIf,
    /// `MSG_DONTROUTE`
    DontRoute,
}

/// What is sent, to whom, and how.
#[derive(Clone, Copy, Debug)]
pub struct Shot {
    pub what: What,
    pub to: SocketAddr,
    pub way: Way,
    pub mark: Option<u32>,
    pub source: Option<IpAddr>,
    pub size: usize,
    /// An IPv4 address through an IPv6 socket.
    pub mapped: bool,
}

/// The interface that is asked for.
#[derive(Clone, Debug)]
pub struct Link {
    pub name: &'static str,
    pub index: u32,
    /// Its IPv4 address, which is how `IP_MULTICAST_IF` is told.
    pub address: Ipv4Addr,
}

#[derive(Clone)]
struct UnicastIf4;
#[derive(Clone)]
struct UnicastIf6;
nix::setsockopt_impl!(
    UnicastIf4,
    libc::IPPROTO_IP,
    libc::IP_UNICAST_IF,
    u32,
    nix::sys::socket::sockopt::SetStruct<'_, u32>
);
nix::setsockopt_impl!(
    UnicastIf6,
    libc::IPPROTO_IPV6,
    libc::IPV6_UNICAST_IF,
    u32,
    nix::sys::socket::sockopt::SetStruct<'_, u32>
);

impl Shot {
    pub fn new(what: What, to: SocketAddr) -> Self {
        Self { what, to, way: Way::Chosen, mark: None, source: None, size: 0, mapped: false }
    }

    pub fn by(self, way: Way) -> Self {
        Self { way, ..self }
    }

    pub fn marked(self, mark: u32) -> Self {
        Self { mark: Some(mark), ..self }
    }

    pub fn from(self, source: impl Into<IpAddr>) -> Self {
        Self { source: Some(source.into()), ..self }
    }

    /// A socket as this shot needs it, bound.
    pub fn socket(&self, id: u16, link: &Link) -> io::Result<Socket> {
        let v6 = self.to.is_ipv6() || self.mapped;
        let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
        let (kind, protocol) = match self.what {
            What::Udp | What::Join => (Type::DGRAM, Protocol::UDP),
            What::Tcp => (Type::STREAM, Protocol::TCP),
            What::Echo => (Type::RAW, if v6 { Protocol::ICMPV6 } else { Protocol::ICMPV4 }),
            What::Raw => (Type::RAW, Protocol::from(253)),
        };
        let socket = Socket::new(domain, kind, Some(protocol))?;
        socket.set_nonblocking(true)?;
        socket.set_reuse_address(true)?;
        if let Some(mark) = self.mark {
            socket.set_mark(mark)?;
        }
        match (self.way, self.to) {
            (Way::Device, _) => socket.bind_device(Some(link.name.as_bytes()))?,
            // In network byte order.
            (Way::UnicastIf, SocketAddr::V4(_)) => UnicastIf4.set(&socket, &link.index.to_be())?,
            (Way::UnicastIf, SocketAddr::V6(_)) => UnicastIf6.set(&socket, &link.index.to_be())?,
            (Way::MulticastIf, SocketAddr::V4(_)) => socket.set_multicast_if_v4(&link.address)?,
            (Way::MulticastIf, SocketAddr::V6(_)) => socket.set_multicast_if_v6(link.index)?,
            (Way::Chosen | Way::PacketInfo | Way::DontRoute, _) => {}
        }
        match self.what {
            What::Tcp => socket.set_linger(Some(Duration::ZERO))?,
            What::Udp => socket.set_broadcast(true)?,
            What::Echo | What::Raw | What::Join => {}
        }
        let unspecified: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let port = if matches!(self.what, What::Udp | What::Tcp) { port_of_probe(id) } else { 0 };
        match (self.source, self.what) {
            (Some(source), _) => {
                if v6 {
                    socket.set_freebind_v6(true)?
                } else {
                    socket.set_freebind_v4(true)?
                }
                socket.bind(&SocketAddr::new(source, port).into())?;
            }
            (None, What::Udp | What::Tcp) => socket.bind(&SocketAddr::new(unspecified, port).into())?,
            (None, _) => {}
        }
        Ok(socket)
    }

    /// Where it goes, as the socket's family wants it.
    pub fn destination(&self) -> SocketAddr {
        let port = if matches!(self.what, What::Udp | What::Tcp) { self.to.port() } else { 0 };
        match self.to {
            SocketAddr::V4(to) if self.mapped => SocketAddrV6::new(to.ip().to_ipv6_mapped(), port, 0, 0).into(),
            SocketAddr::V4(to) => SocketAddrV4::new(*to.ip(), port).into(),
            SocketAddr::V6(to) => SocketAddrV6::new(*to.ip(), port, 0, to.scope_id()).into(),
        }
    }

    /// Sends it. That the kernel refuses is as good an end as any other; what left is seen on the wire.
    pub fn fire(&self, id: u16, link: &Link) -> io::Result<()> {
        let socket = self.socket(id, link)?;
        let to = SockAddr::from(self.destination());
        let payload = match self.what {
            What::Tcp => return socket.connect(&to),
            What::Join => {
                let interface = InterfaceIndexOrAddress::Index(link.index);
                return socket.join_multicast_v4_n(&group_of_probe(id), &interface);
            }
            What::Echo => echo_request(self.to.is_ipv6(), id, &payload(id, self.size)),
            What::Udp | What::Raw => payload(id, self.size),
        };
        if self.way == Way::DontRoute {
            return socket.send_to_with_flags(&payload, &to, libc::MSG_DONTROUTE).map(drop);
        }
        if self.way == Way::PacketInfo {
            send_by(&socket, self.to, &payload, link)
        } else {
            socket.send_to(&payload, &to).map(drop)
        }
    }
}

/// Sends with the interface in a control message.
fn send_by(socket: &Socket, to: SocketAddr, payload: &[u8], link: &Link) -> io::Result<()> {
    let nowhere = libc::in_addr { s_addr: 0 };
    let four = libc::in_pktinfo { ipi_ifindex: link.index.cast_signed(), ipi_spec_dst: nowhere, ipi_addr: nowhere };
    let six = libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: [0; 16] }, ipi6_ifindex: link.index };
    let message =
        if to.is_ipv4() { ControlMessage::Ipv4PacketInfo(&four) } else { ControlMessage::Ipv6PacketInfo(&six) };
    let to = SockaddrStorage::from(to);
    sendmsg(socket.as_raw_fd(), &[IoSlice::new(payload)], &[message], MsgFlags::empty(), Some(&to))?;
    Ok(())
}

/// For IPv6 the kernel fills in the checksum.
fn echo_request(v6: bool, id: u16, payload: &[u8]) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    let mut packet = vec![if v6 { 128 } else { 8 }, 0, 0, 0, high, low, 0, 1];
    packet.extend(payload);
    if packet.len() % 2 == 1 {
        packet.push(0);
    }
    let words = packet.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    if !v6 {
        packet[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    }
    packet
}
