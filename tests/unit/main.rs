//! The unit tier.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod card;
#[path = "../common/mod.rs"]
mod common;
mod config;
mod faults;
mod import;
mod journal;
// The example of a device enrols.
#[cfg(feature = "enrol")]
mod nftables;
mod pages;
mod protocol;
mod readme;
mod tls;
mod units;
