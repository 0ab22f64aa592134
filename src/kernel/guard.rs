//! The guard: an nftables table that belongs to this process, on a netlink socket of its own. Nobody else can change or flush
//! it, it stays when we end, and the next daemon takes it over. The nft program cannot make one: its tables end with it.
//!
//! It is put whole, in one transaction, and never read back: what is owned nobody else can take away.

mod encode;

use super::KernelError;
use crate::plan::GUARD;
use crate::plan::nft::Table;
use encode::Message;
use nix::errno::Errno;
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{Socket, SocketAddr};
use std::io;
use std::time::Duration;

/// The kernel's answer to a message (linux/netlink.h).
const NLMSG_ERROR: u16 = 2;
/// How often, and how far apart, a guard that is in other hands is tried again.
const PATIENCE: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);

/// What of the guard is this process's.
#[derive(Debug, Default)]
pub(super) struct Guard {
    /// The owner, as the kernel sees it. Closed, it leaves the table without one.
    socket: Option<Socket>,
    sequence: u32,
    held: Held,
}

#[derive(Debug, Default)]
enum Held {
    #[default]
    Unknown,
    This(Table),
    /// This kernel keeps no tables for anybody.
    Impossible,
}

/// A refused transaction: the number of the refused message in it, 0 for the whole, and why.
struct Refused(u32, io::Error);

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self(0, error)
    }
}

impl Guard {
    /// As [`Guard::try_apply`], and waits for an owner that is just ending, or has just forked.
    pub async fn apply(&mut self, wanted: Option<&Table>) -> Result<Option<String>, KernelError> {
        let mut patience = PATIENCE;
        loop {
            match self.try_apply(wanted) {
                Err(KernelError::GuardHeld) if patience > 0 => {
                    patience -= 1;
                    tokio::time::sleep(PAUSE).await;
                }
                done => return done,
            }
        }
    }

    /// Makes this the guard, in one transaction, whatever table of its name is there; without one, deletes it, also one whose
    /// owner is gone. What was changed, if anything: nothing, where the kernel can keep no guard.
    pub fn try_apply(&mut self, wanted: Option<&Table>) -> Result<Option<String>, KernelError> {
        match wanted {
            Some(table) => self.put(table),
            None => self.delete(),
        }
    }

    fn put(&mut self, table: &Table) -> Result<Option<String>, KernelError> {
        match &self.held {
            Held::Impossible => return Ok(None),
            Held::This(held) if held == table => return Ok(None),
            Held::This(_) | Held::Unknown => {}
        }
        let messages = encode::replace(table).ok_or(KernelError::Guard(io::ErrorKind::Unsupported.into()))?;
        match self.transact(&messages) {
            Ok(()) => {
                self.held = Held::This(table.clone());
                Ok(Some(format!("nft: hold table inet {}", table.name)))
            }
            // The first two messages: they are of no known sort, or a flag is not known.
            Err(Refused(1 | 2, error)) if is(&error, &[Errno::EINVAL, Errno::EOPNOTSUPP]) => {
                log::info!(
                    "this kernel keeps no nftables table for its owner (Linux 6.9 does): after `nft flush ruleset` routing \
                     holds alone until the firewall is put back"
                );
                self.held = Held::Impossible;
                Ok(None)
            }
            Err(refused) => Err(refused.into()),
        }
    }

    fn delete(&mut self) -> Result<Option<String>, KernelError> {
        match self.transact(&[encode::delete(GUARD)]) {
            Ok(()) => {
                self.held = Held::Unknown;
                Ok(Some(format!("nft delete table inet {GUARD}")))
            }
            // There is none, or no nftables at all.
            Err(Refused(_, error)) if is(&error, &[Errno::ENOENT, Errno::EOPNOTSUPP]) => Ok(None),
            Err(refused) => Err(refused.into()),
        }
    }

    /// All of these messages, or none.
    fn transact(&mut self, messages: &[Message]) -> Result<(), Refused> {
        let socket = match &mut self.socket {
            Some(socket) => socket,
            none => {
                let mut socket = Socket::new(NETLINK_NETFILTER)?;
                socket.bind_auto()?;
                none.insert(socket)
            }
        };
        let (first, count) = (self.sequence, u32::try_from(messages.len()).unwrap_or(u32::MAX));
        self.sequence = first.wrapping_add(count).wrapping_add(2);
        let batch = encode::batch(messages, first);
        socket.send_to(&batch, &SocketAddr::new(0, 0), 0)?;

        // The kernel has done it all by now: its answers wait, in the order of the messages.
        let mut refused = None;
        loop {
            let Some((sequence, error)) = answer(socket)? else {
                return Err(refused.unwrap_or_else(|| io::Error::from(Errno::ENOBUFS).into()));
            };
            match (sequence.wrapping_sub(first), error) {
                (number, 0) if number == count => return refused.map_or(Ok(()), Err),
                (number, error) if error != 0 && number <= count => {
                    refused.get_or_insert(Refused(number, io::Error::from_raw_os_error(error)));
                }
                // One that needs no answer, or is of an earlier transaction.
                _ => {}
            }
        }
    }
}

/// The next answer that waits: to which message, and the error, 0 for none.
fn answer(socket: &Socket) -> io::Result<Option<(u32, i32)>> {
    loop {
        let mut bytes = Vec::with_capacity(1024);
        match socket.recv(&mut bytes, nix::sys::socket::MsgFlags::MSG_DONTWAIT.bits()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            received => received?,
        };
        // A header (length, kind, flags, sequence, port), and the negative error.
        let kind = bytes.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
        let sequence = bytes.get(8..12).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
        let error = bytes.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
        if let (Some(NLMSG_ERROR), Some(sequence), Some(error)) = (kind, sequence, error) {
            return Ok(Some((sequence, error.wrapping_neg())));
        }
    }
}

/// Whether it is one of these errors.
fn is(error: &io::Error, any: &[Errno]) -> bool {
    error.raw_os_error().is_some_and(|error| any.contains(&Errno::from_raw(error)))
}

impl From<Refused> for KernelError {
    fn from(Refused(number, error): Refused) -> Self {
        // Without the capability the whole transaction is refused, and not one message of it.
        if number > 0 && is(&error, &[Errno::EPERM]) { Self::GuardHeld } else { Self::Guard(error) }
    }
}
