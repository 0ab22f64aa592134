//! The DHCPv6 server (RFC 8415) for the one address that there is.

use super::wire::Peer;
use super::{Reason, Settings};
use crate::state::Moment;
use std::net::Ipv6Addr;

/// Where clients ask: all relay agents and servers.
pub const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// The port that servers listen to.
pub const SERVER_PORT: u16 = 547;

/// The server.
#[derive(Clone, Debug)]
pub struct Server {}

impl Server {
    /// A server without a binding.
    pub fn new(_settings: &Settings) -> Self {
        Self {}
    }

    /// The frame that answers a UDP datagram.
    pub fn answer(&mut self, _from: Peer, _unicast: bool, _message: &[u8], _now: Moment) -> Result<Vec<u8>, Reason> {
        Err(Reason::NotServed)
    }
}
