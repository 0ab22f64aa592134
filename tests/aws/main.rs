//! The aws tier: connections through AWS IoT Secure Tunneling, between our two ends and a service of our own on loopback.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../common/mod.rs"]
mod common;

mod apps;
mod carry;
mod halves;
mod handshake;
mod localproxy;
mod localproxy_options;
mod lost;
mod ours;
mod process;
mod processes;
mod proxies;
mod raw;
mod schedules;
mod service;
mod slow;
mod streams;
mod targets;
