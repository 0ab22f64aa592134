//! The one actor: it alone owns the state, carries out effects and publishes the snapshot.

pub mod clock;
pub mod command;
pub mod snapshot;

pub use command::{Caller, Command, Core, Refusal, Request};
pub use snapshot::{Snapshot, Transition, TunnelSnapshot};
