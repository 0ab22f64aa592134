//! Kind `aws-iot`: TCP connections through AWS IoT Secure Tunneling, as source or destination.
//!
//! ```text
//! application -- connection --> session -- frames --> engine -- frames --> WebSocket over TLS --> service --> the other end
//! ```
//!
//! `engine` is the protocol, and knows no I/O; `session` has the sockets. Nothing here changes the host.

pub mod application;
mod connect;
pub mod engine;
pub mod forwards;
pub mod frames;
mod heart;
pub mod listen;
mod local;
pub mod message;
mod pump;
mod seldom;
pub mod services;
pub mod session;
mod socket;
pub mod tokens;
