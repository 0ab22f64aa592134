//! Super-packets: what one of them is, whether one may be believed, how it becomes plain packets and how plain packets become
//! one. Pure: bytes in, bytes out. It follows linux/virtio_net.h, and RFC 9293, 768 and 8200 for the headers within.
//!
//! | file | owns |
//! |---|---|
//! | `check` | whether a header agrees with its packet |
//! | `split` | from a super-packet to the packets that it stands for, with their checksums |
//! | `gro` | from packets to super-packets |
//! | `checksum` | RFC 1071 |

mod check;
pub mod checksum;
mod gro;
#[cfg(test)]
pub(crate) mod samples;
mod split;

pub use check::{Limits, TCP_SEGMENT, UDP_SEGMENTS, check};
pub use gro::Gro;
pub use split::{Splitter, split};

use crate::sys::vnet::Vnet;
use split::Shape;

/// A packet, or a super-packet with what is still to be done to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit<'a> {
    /// What is to be done to it.
    pub vnet: Vnet,
    /// IP header and all that follows.
    pub packet: &'a [u8],
}

impl<'a> Unit<'a> {
    /// A packet with nothing left to do.
    pub fn plain(packet: &'a [u8]) -> Self {
        Self { vnet: Vnet::default(), packet }
    }

    /// Nothing is left to do.
    pub fn is_plain(&self) -> bool {
        self.vnet.gso_type == Vnet::NONE && self.vnet.flags & Vnet::NEEDS_CSUM == 0
    }
}
