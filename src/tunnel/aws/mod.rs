//! Kind `aws-iot`: TCP connections through AWS IoT Secure Tunneling, as source or destination.
//!
//! ```text
//! application -- connection --> session -- frames --> engine -- frames --> WebSocket over TLS --> service --> the other end
//! ```
//!
//! `engine` is the protocol, and knows no I/O; `session` has the sockets. Nothing here changes the host.

pub mod engine;
pub mod forwards;
pub mod frames;
pub mod message;
pub mod tokens;
