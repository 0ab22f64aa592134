//! Kind `enf`: IP packets between a TUN device and an ENF router over TLS (the ENF wire, version 1).

mod connect;
pub mod device;
pub mod filter;
pub mod frame;
pub mod frame2;
pub mod heartbeat;
pub mod liveness;
pub mod offload;
pub mod packet;
#[cfg(feature = "enrol")]
mod provision;
mod pump;
pub mod queue;
pub mod session;
pub mod succession;
pub mod wire;
