//! The faults tier: broken networks and far ends, told one by one and drawn by chance.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../common/mod.rs"]
mod common;

mod far_ends;
mod paths;
mod sequences;
mod story;
mod waiting;
