//! Units from and to the queue of a device.

use super::offload::{self, Unit};
use crate::sys::tun::Tun;
use crate::sys::vnet::Vnet;
use std::cell::Cell;
use std::io;

/// As long as the longest packet.
const LONGEST: usize = 65_535;

thread_local! {
    /// Where a packet lands, and where one is made.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Takes one packet or super-packet; `WouldBlock` when there is none.
pub fn receive<T>(tun: &Tun, each: impl FnOnce(Unit<'_>) -> T) -> io::Result<T> {
    let mut buffer = BUFFER.take();
    buffer.resize(LONGEST, 0);
    let received = tun.try_recv_with(&mut buffer).map(|(vnet, length)| {
        let packet = buffer.get(..length).unwrap_or_default();
        each(Unit { vnet, packet }.canonical())
    });
    BUFFER.set(buffer);
    received
}

/// Hands on a packet or super-packet, as packets where the queue takes no super-packets.
///
/// # Errors
/// Those of [`Tun::try_send_with`]; of several packets the last one's.
pub fn send(tun: &Tun, unit: Unit<'_>) -> io::Result<()> {
    let offloads = tun.offloads();
    let takes = match unit.vnet.gso_type {
        Vnet::NONE => offloads.tcp || unit.is_plain(),
        Vnet::UDP_L4 => offloads.udp,
        _ => offloads.tcp,
    };
    if takes {
        return tun.try_send_with(unit.vnet, unit.packet);
    }
    let (mut scratch, mut sent) = (SCRATCH.take(), Ok(()));
    let made = offload::split(unit, &mut scratch, |packet| {
        if let Err(error) = tun.try_send(packet) {
            sent = Err(error);
        }
    });
    SCRATCH.set(scratch);
    if made { sent } else { Err(nix::errno::Errno::EINVAL.into()) }
}
