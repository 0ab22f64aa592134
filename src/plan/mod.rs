//! What the kernel must hold for a tunnel, as a value: built from the configuration and the state, printed as ip commands.
//! No I/O. `kernel` compares it with what is there and makes the difference go away.

use crate::config;
use crate::state::Wanted;
use ipnet::IpNet;

/// Everything of one tunnel. Owned scopes: the device, the table, the rules in [`PREFERENCES`] with its mark or table,
/// and the multicast routes of the local table with our metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The TUN device, if there shall be one.
    pub link: Option<Link>,
    /// Addresses on the device.
    pub addresses: Vec<IpNet>,
}

/// The TUN device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface name.
    pub dev: String,
    /// MTU in bytes.
    pub mtu: u16,
    /// Whether packets may flow.
    pub carrier: bool,
}

/// The plan of one tunnel for what is wanted of it.
pub fn build(_tunnel: &config::Tunnel, _wanted: &Wanted) -> Plan {
    Plan { link: None, addresses: Vec::new() }
}
