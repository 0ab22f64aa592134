//! Kind `enf`: IP packets between a TUN device and an ENF router over TLS (`enf-tunnel` wire, version 1).

pub mod frame;
pub mod packet;
pub mod wire;
