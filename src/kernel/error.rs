//! Why the kernel could not be brought to a plan.

use crate::error::{Class, chain};
use crate::plan::Change;
use crate::state::{Failure, Reason};
use nix::errno::Errno;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why the kernel could not be brought to a plan, or a plan not be taken back.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// No netlink socket.
    #[error("open a netlink socket")]
    Netlink(#[source] io::Error),
    /// It cannot be seen what is there.
    #[error("read {what} from the kernel")]
    Observe {
        /// What was asked for.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A change was refused.
    #[error("`{change}` failed{}", advice(source))]
    Change {
        /// The change.
        change: Box<Change>,
        /// Why.
        source: io::Error,
    },
    /// There is no TUN driver, or we may not use it.
    #[error(
        "{} cannot be opened; `modprobe tun` loads the driver, and a unit needs DeviceAllow={} rw",
        crate::sys::tun::NODE,
        crate::sys::tun::NODE
    )]
    NoTun(#[source] io::Error),
    /// A link of this name is there and it is something else.
    #[error("{dev} exists and is not a TUN device ({kind}); choose another tun.dev, or remove it")]
    NotTun {
        /// Interface name.
        dev: String,
        /// What it is.
        kind: String,
    },
    /// A link has the name of a device of ours, and is not ours.
    #[error(
        "{dev} exists and is not ours ({kind}); the devices of [advertise] are called after tun.dev: choose another, or remove this one"
    )]
    Taken {
        /// Interface name.
        dev: String,
        /// What it is.
        kind: String,
    },
    /// The port that the host behind is on is in other hands.
    #[error(
        "{port} is a port of {master}, which is not ours, and [advertise] dev is for the host behind alone; take it out (`ip link set dev {port} nomaster`)"
    )]
    PortTaken {
        /// Interface name.
        port: String,
        /// The bridge, bond or the like that it is in.
        master: String,
    },
    /// The port cannot be in a bridge.
    #[error("put {port} into a bridge: [advertise] dev must be an Ethernet interface{}", advice(source))]
    Port {
        /// Interface name.
        port: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// Another process holds the device.
    #[error("{dev} is in use by another process; stop it (is a second enftund running?), or choose another tun.dev")]
    Busy {
        /// Interface name.
        dev: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// The device can be neither made nor attached to.
    #[error("attach to the TUN device {dev}{}", advice(source))]
    Attach {
        /// Interface name.
        dev: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// There is no nft.
    #[error("the program nft is not there; install it (`apt install nftables`, `dnf install nftables`)")]
    NoNft,
    /// nft cannot be run.
    #[error("{program} cannot be run; it needs to be executable by the user of enftund")]
    RunNft {
        /// Which program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// nft does not end.
    #[error("{program} did not end within {} s and was killed; it is run again later", limit.as_secs())]
    NftHangs {
        /// Which program.
        program: String,
        /// The deadline.
        limit: Duration,
    },
    /// nft refuses.
    #[error("{what} (nft): {said}{}", advice_nft(said))]
    Nft {
        /// What was to be done.
        what: &'static str,
        /// What it says.
        said: String,
    },
    /// The guard cannot be put, or not be taken away.
    #[error("keep the nftables table {}{}", crate::plan::GUARD, advice(.0))]
    Guard(#[source] io::Error),
    /// The guard is another process's.
    #[error(
        "another process holds the nftables table {0}; stop it (is a second enftund running? `nft list table inet {0}` names it)",
        crate::plan::GUARD
    )]
    GuardHeld,
    /// What was there before cannot be kept.
    #[error("keep what was there before in {}", path.display())]
    Previous {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// More than one thing.
    #[error("{}", told(.0))]
    Several(Vec<KernelError>),
    /// Somebody else changes our table.
    #[error("somebody else keeps changing our nftables table; it is not what it shall be")]
    UnstableFirewall,
    /// Somebody else changes the same things.
    #[error("somebody else keeps changing what belongs to the tunnel; still to be done: {}", listed(.0))]
    Unstable(Vec<Change>),
    /// The deadline passed.
    #[error("the kernel did not take the changes within {} s", .0.as_secs())]
    TimedOut(Duration),
}

impl KernelError {
    pub(super) fn observe(what: &'static str, error: rtnetlink::Error) -> Self {
        Self::Observe { what, source: super::plain(error) }
    }

    /// One error for these, if there are any.
    pub(super) fn all(mut errors: Vec<Self>) -> Option<Self> {
        if errors.len() > 1 { Some(Self::Several(errors)) } else { errors.pop() }
    }

    /// The class of the error.
    pub fn class(&self) -> Class {
        match self {
            Self::Netlink(source) | Self::Observe { source, .. } | Self::Change { source, .. } => class_of(source),
            Self::RunNft { source, .. } | Self::Previous { source, .. } | Self::Guard(source) => class_of(source),
            Self::Several(errors) => errors.first().map_or(Class::Bug, Self::class),
            Self::Port { source, .. } if errno(source) == Some(Errno::ENODEV) => Class::Transient,
            Self::NoTun(_)
            | Self::NotTun { .. }
            | Self::Taken { .. }
            | Self::PortTaken { .. }
            | Self::Port { .. }
            | Self::Attach { .. }
            | Self::NoNft
            | Self::Nft { .. } => Class::Environment,
            Self::Busy { .. }
            | Self::GuardHeld
            | Self::Unstable(_)
            | Self::UnstableFirewall
            | Self::NftHangs { .. }
            | Self::TimedOut(_) => Class::Transient,
        }
    }
}

impl From<&KernelError> for Failure {
    fn from(error: &KernelError) -> Self {
        let reason = if of_firewall(error) { Reason::FirewallFailed } else { Reason::RouteFailed };
        // Some commands are several lines.
        Self::new(reason, error.class(), chain(error).replace('\n', "; "))
    }
}

fn of_firewall(error: &KernelError) -> bool {
    use KernelError::{Guard, GuardHeld, Nft, NftHangs, NoNft, RunNft, Several, UnstableFirewall};
    match error {
        NoNft | RunNft { .. } | NftHangs { .. } | Nft { .. } | UnstableFirewall | Guard(_) | GuardHeld => true,
        Several(errors) => errors.iter().any(of_firewall),
        _ => false,
    }
}

fn errno(error: &io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw)
}

fn class_of(error: &io::Error) -> Class {
    match errno(error) {
        Some(Errno::EINVAL) => Class::Bug,
        Some(
            Errno::EPERM
            | Errno::EACCES
            | Errno::EROFS
            | Errno::ENOENT
            | Errno::EOPNOTSUPP
            | Errno::EAFNOSUPPORT
            | Errno::EPROTONOSUPPORT
            | Errno::EMFILE
            | Errno::ENFILE,
        ) => Class::Environment,
        _ => Class::Transient,
    }
}

fn advice(error: &io::Error) -> &'static str {
    match errno(error) {
        Some(Errno::EPERM) => advice_net_admin(),
        Some(Errno::EROFS) => ": /proc/sys is read-only here (a unit needs ReadWritePaths=/proc/sys/net)",
        _ => "",
    }
}

fn advice_nft(said: &str) -> &'static str {
    if said.contains("Operation not permitted") {
        advice_net_admin()
    } else {
        "; `nft list ruleset`, run as root, shows whether nft works at all on this kernel"
    }
}

fn advice_net_admin() -> &'static str {
    ": the capability CAP_NET_ADMIN is missing (run as root, or give it to the unit with AmbientCapabilities=)"
}

fn told(errors: &[KernelError]) -> String {
    errors.iter().map(|error| chain(error)).collect::<Vec<_>>().join("; ")
}

fn listed(changes: &[Change]) -> impl fmt::Display + '_ {
    struct Listed<'a>(&'a [Change]);
    impl fmt::Display for Listed<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            for (number, change) in self.0.iter().enumerate() {
                write!(f, "{}`{change}`", if number == 0 { "" } else { ", " })?;
            }
            Ok(())
        }
    }
    Listed(changes)
}
