//! The wire tier: what really leaves the host, seen from the other end of its cable.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../common/mod.rs"]
mod common;

mod bed;
mod catalogue;
mod probes;
mod shot;
mod sniffer;

mod flood;
mod leases;
mod states;
mod transitions;
