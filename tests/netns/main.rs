//! The netns tier.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../common/mod.rs"]
mod common;

mod bufferbloat;
mod card;
mod daemon;
#[cfg(feature = "enrol")]
mod enrol;
mod firewall;
mod guard;
mod healing;
mod interop;
mod kernel;
mod last_mile;
mod lockdown;
mod names;
mod offload;
mod overlap;
mod path;
mod proxies;
mod remotes;
mod resolved;
mod roaming;
mod router;
mod ruleset;
mod session;
#[cfg(feature = "tpm")]
mod tpm;
mod trusted;
mod wire2;
