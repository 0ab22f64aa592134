//! A descriptor of a TUN or TAP device: packets or frames in and out without blocking, and the settings that only a holder may
//! change; and a pair of queues that is like one on both sides. It touches neither links nor addresses nor routes: that is `kernel`.
//!
//! tokio-tun makes the persistent device with its owner. It has no offloads, so packets are moved by this file's own few calls:
//! an [`offloaded`](Tun::offloaded) queue carries super-packets of up to 64 KiB, each with its [`Vnet`] header.
#![allow(unsafe_code)]

use super::vnet::Vnet;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};
use nix::sys::uio::{readv, writev};
use std::ffi::{c_int, c_uint};
use std::fs::OpenOptions;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio_tun::TunBuilder;

/// The device node that all TUN devices are made and opened through.
pub const NODE: &str = "/dev/net/tun";

// linux/if_tun.h. A kernel that does not know `IFF_NO_CARRIER` (before 6.0) ignores it.
const IFF_TUN: u16 = 0x0001;
const IFF_TAP: u16 = 0x0002;
const IFF_NO_CARRIER: u16 = 0x0040;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
const TUN_F_CSUM: c_uint = 0x01;
const TUN_F_TSO4: c_uint = 0x02;
const TUN_F_TSO6: c_uint = 0x04;
/// Linux 6.2.
const TUN_F_USO: c_uint = 0x20 | 0x40;
/// More packets than any TUN queue holds.
const DRAIN: usize = 65_536;
/// Bytes that wait in a pair, each way: some hundreds of packets with what the kernel keeps beside each, as in a TUN's queue.
const PAIR: usize = 1 << 20;

/// What a queue takes besides plain packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Checksums to be completed, and TCP super-packets.
    pub tcp: bool,
    /// UDP super-packets.
    pub udp: bool,
}

/// What a device carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// IP packets: a TUN.
    Ip,
    /// Ethernet frames: a TAP.
    Ethernet,
}

/// `struct ifreq`, as far as TUNSETIFF reads it.
#[repr(C)]
struct IfReq {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

mod raw {
    use super::{IfReq, c_int, c_uint};
    use nix::{ioctl_write_int_bad, ioctl_write_ptr_bad, request_code_write};

    ioctl_write_ptr_bad!(set_iff, request_code_write!(b'T', 202, size_of::<c_int>()), IfReq);
    ioctl_write_int_bad!(set_persist, request_code_write!(b'T', 203, size_of::<c_int>()));
    ioctl_write_int_bad!(set_owner, request_code_write!(b'T', 204, size_of::<c_int>()));
    ioctl_write_int_bad!(set_offload, request_code_write!(b'T', 208, size_of::<c_uint>()));
    ioctl_write_ptr_bad!(set_vnet_size, request_code_write!(b'T', 216, size_of::<c_int>()), c_int);
    ioctl_write_ptr_bad!(set_vnet_le, request_code_write!(b'T', 220, size_of::<c_int>()), c_int);
    ioctl_write_ptr_bad!(set_carrier, request_code_write!(b'T', 226, size_of::<c_int>()), c_int);
}

/// An open queue of a TUN or TAP device. Whole IP packets, or frames, without any header; closed on exec. Dropping it leaves a
/// persistent device behind, without carrier.
#[derive(Debug)]
pub struct Tun {
    fd: AsyncFd<OwnedFd>,
    name: String,
    /// Every packet has a [`Vnet`] header before it.
    vnet: bool,
    offloads: Offloads,
}

impl Tun {
    /// Attaches to the device, with the carrier and all offloads off. Needs a runtime.
    ///
    /// # Errors
    /// `EBUSY`: somebody else is attached. `EINVAL`: it is no TUN device, or has many queues. `EPERM`: it belongs to another
    /// user. A device that does not exist is made, and vanishes with the descriptor; that needs `CAP_NET_ADMIN`.
    pub fn open(name: &str) -> io::Result<Self> {
        Self::attach(name, Layer::Ip)
    }

    /// As [`Self::open`], with all the offloads that the kernel has: super-packets come and go, and packets whose checksum
    /// is still to be completed.
    pub fn offloaded(name: &str) -> io::Result<Self> {
        let fd = Self::opened(name, IFF_TUN | IFF_VNET_HDR)?;
        let (size, on) = (Vnet::SIZE as c_int, 1);
        // SAFETY: both arguments are ints that outlive the call.
        unsafe {
            raw::set_vnet_size(fd.as_raw_fd(), &raw const size)?;
            raw::set_vnet_le(fd.as_raw_fd(), &raw const on)?;
        }
        let tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
        // SAFETY: takes its argument by value.
        let accepts = |mask: c_uint| unsafe { raw::set_offload(fd.as_raw_fd(), mask as c_int) }.is_ok();
        let udp = accepts(tcp | TUN_F_USO);
        let offloads = Offloads { tcp: udp || accepts(tcp), udp };
        Self::attached(fd, name, true, offloads)
    }

    /// As [`Self::open`], to a device of this layer.
    pub fn attach(name: &str, layer: Layer) -> io::Result<Self> {
        let fd = Self::opened(name, if layer == Layer::Ip { IFF_TUN } else { IFF_TAP })?;
        // Another program may have left segmentation on; then a read returns more than a packet.
        // SAFETY: takes its argument by value.
        unsafe { raw::set_offload(fd.as_raw_fd(), 0) }?;
        Self::attached(fd, name, false, Offloads::default())
    }

    fn opened(name: &str, kind: u16) -> io::Result<OwnedFd> {
        let flags = nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC;
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(NODE)?;
        let mut request = IfReq { name: [0; 16], flags: kind | IFF_NO_PI | IFF_NO_CARRIER, rest: [0; 22] };
        match request.name.get_mut(..name.len()) {
            // The last byte stays zero.
            Some(place) if !name.is_empty() && name.len() < 16 => place.copy_from_slice(name.as_bytes()),
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "an interface name has 1 to 15 bytes")),
        }
        // SAFETY: the descriptor is open, and the request is a `struct ifreq` (40 bytes) that outlives the call.
        unsafe { raw::set_iff(file.as_raw_fd(), &raw const request) }?;
        Ok(OwnedFd::from(file))
    }

    /// Makes a device that stays, which only this user (and `CAP_NET_ADMIN`) may attach to. The owner is set before it
    /// becomes persistent, so that at no time just anybody may attach. Nobody is attached to it afterwards.
    pub fn create(name: &str, owner: u32, layer: Layer) -> io::Result<()> {
        // tokio-tun loses its descriptor when something fails after the first step: see first whether that one succeeds.
        OpenOptions::new().read(true).write(true).open(NODE)?;
        let owner = c_int::from_ne_bytes(owner.to_ne_bytes());
        let device = TunBuilder::new().name(name).owner(owner).persist().close_on_exec();
        let made = if layer == Layer::Ip { device.build() } else { device.tap().build() };
        made.map(drop).map_err(|error| match error {
            tokio_tun::Error::NixError(errno) => errno.into(),
            tokio_tun::Error::IoError(error) => error,
        })
    }

    /// Two queues, each the other's far end: what one is handed, the other has. Each is called `name`. Needs a runtime.
    pub fn pair(name: &str) -> io::Result<(Self, Self)> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let (one, other) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        let queue = |fd: OwnedFd| {
            // Without CAP_NET_ADMIN it is as long as the host allows.
            let _ = setsockopt(&fd, sockopt::SndBufForce, &PAIR).or_else(|_| setsockopt(&fd, sockopt::SndBuf, &PAIR));
            // SAFETY: an `OwnedFd` is open, and the same descriptor, until the `AsyncFd` that owns it is dropped.
            let fd = unsafe { AsyncFd::register(fd) }?;
            Ok::<_, io::Error>(Self { fd, name: name.to_owned(), vnet: false, offloads: Offloads::default() })
        };
        Ok((queue(one)?, queue(other)?))
    }

    fn attached(fd: OwnedFd, name: &str, vnet: bool, offloads: Offloads) -> io::Result<Self> {
        // SAFETY: an `OwnedFd` is open, and the same descriptor, until the `AsyncFd` that owns it is dropped.
        let fd = unsafe { AsyncFd::register(fd) }?;
        let tun = Self { fd, name: name.to_owned(), vnet, offloads };
        tun.set_carrier(false)?;
        Ok(tun)
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes the device stay when its last descriptor is closed, and lets only this user (and `CAP_NET_ADMIN`) attach.
    pub fn adopt(&self, owner: u32) -> io::Result<()> {
        let owner = c_int::from_ne_bytes(owner.to_ne_bytes());
        // SAFETY: both take their argument by value.
        unsafe {
            raw::set_owner(self.fd.as_raw_fd(), owner)?;
            raw::set_persist(self.fd.as_raw_fd(), 1)?;
        }
        Ok(())
    }

    /// Turns the carrier on or off. Without it the kernel drops what is sent to the device; packets that were still queued
    /// from before are thrown away when it comes back.
    pub fn set_carrier(&self, on: bool) -> io::Result<()> {
        if on {
            let mut packet = [0; 1];
            let _ = (0..DRAIN).try_for_each(|_| nix::unistd::read(&self.fd, &mut packet).map(drop));
        }
        let on = c_int::from(on);
        // SAFETY: the argument is an int that outlives the call.
        unsafe { raw::set_carrier(self.fd.as_raw_fd(), &raw const on) }?;
        Ok(())
    }

    /// Waits until a packet may be there.
    pub async fn readable(&self) -> io::Result<()> {
        self.fd.ready(Interest::READABLE | Interest::ERROR).await?.retain_ready();
        Ok(())
    }

    /// Waits until a packet may be taken.
    pub async fn writable(&self) -> io::Result<()> {
        self.fd.writable().await?.retain_ready();
        Ok(())
    }

    /// What may be sent besides plain packets.
    pub fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// One packet, or super-packet, if there is one; else `WouldBlock`, and [`readable`](Self::readable) waits for the next.
    /// One that is longer than the buffer is cut; none is longer than 65,535 bytes.
    pub fn try_recv_with(&self, packet: &mut [u8]) -> io::Result<(Vnet, usize)> {
        let mut header = [0; Vnet::SIZE];
        let before = if self.vnet { Vnet::SIZE } else { 0 };
        let mut read = |fd: &OwnedFd| {
            Ok(if self.vnet {
                readv(fd, &mut [IoSliceMut::new(&mut header), IoSliceMut::new(packet)])?
            } else {
                nix::unistd::read(fd, packet)?
            })
        };
        let received = match self.fd.try_io(Interest::READABLE, |fd| read(fd)) {
            // The other end of a pair is gone.
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            // What the kernel says of a device that was deleted.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.fd.try_io(Interest::ERROR, |fd| read(fd)),
            received => received,
        };
        received.map(|length| (Vnet::from_bytes(header), length.saturating_sub(before)))
    }

    /// As [`try_recv_with`](Self::try_recv_with), for who wants no header: plain queues have none.
    pub fn try_recv(&self, packet: &mut [u8]) -> io::Result<usize> {
        self.try_recv_with(packet).map(|(_, length)| length)
    }

    /// Hands one packet to the kernel as received, or to the other end of a pair; with a header only what
    /// [`offloads`](Self::offloads) names. `EAGAIN`: there is no room.
    pub fn try_send_with(&self, header: Vnet, packet: &[u8]) -> io::Result<()> {
        let write = |fd: &OwnedFd| {
            let written = match self.vnet {
                true => writev(fd, &[IoSlice::new(&header.to_bytes()), IoSlice::new(packet)]),
                false => nix::unistd::write(fd, packet),
            };
            Ok(written.map(drop)?)
        };
        match self.fd.try_io(Interest::WRITABLE, |fd| write(fd)) {
            // The runtime says so without a number.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Errno::EAGAIN.into()),
            sent => sent,
        }
    }

    /// Sends one plain packet, or frame.
    pub fn try_send(&self, packet: &[u8]) -> io::Result<()> {
        self.try_send_with(Vnet::default(), packet)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
