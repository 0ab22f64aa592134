//! A descriptor of a TUN or TAP device: packets or frames in and out without blocking, and the settings that only a holder may
//! change; and a pair of queues that is like one on both sides. It touches neither links nor addresses nor routes: that is `kernel`.
#![allow(unsafe_code)]

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};
use std::ffi::{c_int, c_uint};
use std::fs::OpenOptions;
use std::io;
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
/// More packets than any TUN queue holds.
const DRAIN: usize = 65_536;
/// Bytes that wait in a pair, each way: some hundreds of packets with what the kernel keeps beside each, as in a TUN's queue.
const PAIR: usize = 1 << 20;

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
    ioctl_write_ptr_bad!(set_carrier, request_code_write!(b'T', 226, size_of::<c_int>()), c_int);
}

/// An open queue of a TUN or TAP device. Whole IP packets, or frames, without any header; closed on exec. Dropping it leaves a
/// persistent device behind, without carrier.
#[derive(Debug)]
pub struct Tun {
    fd: AsyncFd<OwnedFd>,
    name: String,
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

    /// As [`Self::open`], to a device of this layer.
    pub fn attach(name: &str, layer: Layer) -> io::Result<Self> {
        let kind = if layer == Layer::Ip { IFF_TUN } else { IFF_TAP };
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
        Self::attached(OwnedFd::from(file), name)
    }

    /// Makes a device that stays, which only this user (and `CAP_NET_ADMIN`) may attach to, and is attached to it. The owner
    /// is set before it becomes persistent, so that at no time just anybody may attach.
    pub fn create(name: &str, owner: u32, layer: Layer) -> io::Result<Self> {
        // tokio-tun loses its descriptor when something fails after the first step: see first whether that one succeeds.
        OpenOptions::new().read(true).write(true).open(NODE)?;
        let owner = c_int::from_ne_bytes(owner.to_ne_bytes());
        let device = TunBuilder::new().name(name).owner(owner).persist().close_on_exec();
        let made = if layer == Layer::Ip { device.build() } else { device.tap().build() };
        let made = made.map_err(|error| match error {
            tokio_tun::Error::NixError(errno) => errno.into(),
            tokio_tun::Error::IoError(error) => error,
        })?;
        let made = made.first().ok_or(io::ErrorKind::NotFound)?;
        // The same open file under a descriptor of our own: nobody can attach in between, and a child process that was just
        // forked, and still holds a copy, is not in the way.
        // SAFETY: `made` keeps its descriptor open until the end of this function.
        let fd = unsafe { BorrowedFd::borrow_raw(made.as_raw_fd()) }.try_clone_to_owned()?;
        Self::attached(fd, name)
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
            Ok::<_, io::Error>(Self { fd, name: name.to_owned() })
        };
        Ok((queue(one)?, queue(other)?))
    }

    fn attached(fd: OwnedFd, name: &str) -> io::Result<Self> {
        // Another program may have left segmentation on; then a read returns more than a packet.
        // SAFETY: takes its argument by value.
        unsafe { raw::set_offload(fd.as_raw_fd(), 0) }?;
        // SAFETY: an `OwnedFd` is open, and the same descriptor, until the `AsyncFd` that owns it is dropped.
        let fd = unsafe { AsyncFd::register(fd) }?;
        let tun = Self { fd, name: name.to_owned() };
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

    /// One packet, if there is one; else `WouldBlock`, and [`readable`](Self::readable) waits for the next. A packet longer
    /// than the buffer is cut.
    pub fn try_recv(&self, packet: &mut [u8]) -> io::Result<usize> {
        match self.fd.try_io(Interest::READABLE, |fd| Ok(nix::unistd::read(fd, packet)?)) {
            // The other end of a pair is gone.
            Ok(0) if !packet.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
            // What the kernel says of a device that was deleted.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.fd.try_io(Interest::ERROR, |fd| Ok(nix::unistd::read(fd, packet)?))
            }
            received => received,
        }
    }

    /// Hands one packet to the kernel as received, or to the other end of a pair. `EAGAIN`: there is no room.
    pub fn try_send(&self, packet: &[u8]) -> io::Result<()> {
        match self.fd.try_io(Interest::WRITABLE, |fd| Ok(nix::unistd::write(fd, packet).map(drop)?)) {
            // The runtime says so without a number.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Errno::EAGAIN.into()),
            sent => sent,
        }
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
