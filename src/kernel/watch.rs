//! Notices that links, addresses, routes, rules or the firewall changed, by whomever: subscriptions to the kernel's notices. It does not
//! read what they say, and changes nothing; whoever waits looks for himself. Without a notice nothing is woken.

use rtnetlink::MulticastGroup;
use rtnetlink::sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use std::fmt;
use std::io;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// What a tunnel's plan is made of.
const GROUPS: [MulticastGroup; 8] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv6Ifinfo,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
];
/// The kernel's group for changes of nftables (NFNLGRP_NFTABLES).
const NFTABLES: u32 = 7;
/// From the first notice to the look: a flush is many notices and one look.
const SETTLE: Duration = Duration::from_millis(20);
/// At least this long from look to look, however much changes.
const PACE: Duration = Duration::from_millis(50);
/// Notices that are thrown away together. Should there be more, the next look is due at once.
const DRAIN: usize = 4096;

/// A subscription, in the network namespace of the thread that made it.
pub struct Watch {
    routing: TokioSocket,
    firewall: TokioSocket,
    /// When the notice that has come is to be told.
    due: Option<Instant>,
    /// No notice is told before.
    rest: Instant,
}

impl Watch {
    /// Starts watching; needs a tokio runtime, and CAP_NET_ADMIN for the firewall.
    pub fn new() -> io::Result<Self> {
        let routing = subscribe(NETLINK_ROUTE, GROUPS.iter().map(|group| *group as u32))?;
        let firewall = subscribe(NETLINK_NETFILTER, [NFTABLES])?;
        Ok(Self { routing, firewall, due: None, rest: Instant::now() })
    }

    /// Waits until something has changed since it last returned. A burst is told once, and an endless one twenty times
    /// a second. May be dropped and called again at any time: nothing is forgotten.
    pub async fn changed(&mut self) {
        let due = match self.due {
            Some(due) => due,
            None => {
                // An error, too, is a notice: the kernel had more of them than the socket holds.
                let mut bytes = ([0; 1], [0; 1]);
                let (mut routing, mut firewall) = (bytes.0.as_mut_slice(), bytes.1.as_mut_slice());
                tokio::select! {
                    _ = self.routing.recv(&mut routing) => {}
                    _ = self.firewall.recv(&mut firewall) => {}
                }
                *self.due.insert(self.rest.max(Instant::now() + SETTLE))
            }
        };
        sleep_until(due).await;
        // What happened until now is seen by the look that follows.
        for socket in [&self.routing, &self.firewall] {
            for _ in 0..DRAIN {
                match socket.socket_ref().recv(&mut [0; 1].as_mut_slice(), 0) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    _ => {}
                }
            }
        }
        self.due = None;
        self.rest = Instant::now() + PACE;
    }
}

fn subscribe(protocol: isize, groups: impl IntoIterator<Item = u32>) -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(protocol)?;
    let groups = groups.into_iter().fold(0, |groups, group| groups | 1 << (group - 1));
    socket.socket_mut().bind(&SocketAddr::new(0, groups))?;
    Ok(socket)
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("due", &self.due).finish_non_exhaustive()
    }
}
