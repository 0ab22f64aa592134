//! The system tier: packages, units, bus and polkit on a Debian with a real systemd, as a person meets them.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code)]
#[path = "../wire/shot.rs"]
mod shot;
#[allow(dead_code)]
#[path = "../wire/sniffer.rs"]
mod sniffer;

#[allow(dead_code)]
mod bed;
mod fire;
#[allow(dead_code)]
mod machine;

mod activation;
mod boot;
mod enrolment;
mod figures;
mod forwards;
mod journal;
mod life;
mod neighbours;
mod packages;
mod polkit;
mod rpm;
mod units;
mod vm;
