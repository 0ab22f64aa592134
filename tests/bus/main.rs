//! The bus tier.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../common/mod.rs"]
mod common;

mod api;
mod calls;
mod check;
mod cli;
mod docs;
mod exit_codes;
mod fake_systemd;
mod follow;
mod forwards;
mod import;
mod keygen;
#[cfg(feature = "enrol")]
mod keygen_api;
#[cfg(feature = "enrol")]
mod keygen_router;
mod listener;
mod logind;
mod logs;
mod metrics;
mod peer;
mod polkit;
mod presence;
mod reads;
mod schema;
mod signals;
mod simulation;
mod terminal;
