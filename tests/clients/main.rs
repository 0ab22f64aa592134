//! The clients tier: other people's programs against ours.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../bus/simulation.rs"]
#[allow(dead_code, reason = "the bus tier uses all of it")]
mod simulation;

mod applet;
mod card;
mod desktop;
mod panel;
mod permissions;
mod screen;
