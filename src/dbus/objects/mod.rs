//! The objects on the bus, one file an interface. Properties answer from the latest value the follower was given, at once;
//! methods hand the request to the [`Gate`](super::gate::Gate). `dbus/*.xml` is the contract, and a test holds these to it.

mod firewall;
mod forwards;
mod group;
mod log_control;
mod manager;
mod statistics;
mod tunnel;

pub(super) use firewall::Firewall;
pub(super) use forwards::Forwards;
pub(super) use group::TrustedGroup;
pub(super) use log_control::LogControl;
pub(super) use manager::Manager;
pub(super) use statistics::{Refresh, Statistics};
pub(super) use tunnel::Tunnel;

use ipnet::IpNet;
use std::time::SystemTime;
use zbus::OwnedVariant;

/// Microseconds since 1970, as all times on the bus.
fn usec(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

fn usec_of_seconds(seconds: i64) -> u64 {
    u64::try_from(seconds).unwrap_or_default().saturating_mul(1_000_000)
}

fn texts(nets: &[IpNet]) -> Vec<String> {
    nets.iter().map(IpNet::to_string).collect()
}

fn text(value: &str) -> OwnedVariant {
    zbus::Str::from(value.to_owned()).into()
}
