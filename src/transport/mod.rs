//! Getting a connection to a far end: marked sockets, TLS configuration, and who is trusted. Nothing here knows what a
//! tunnel carries, and nothing changes the host.

pub mod connectivity;
pub mod dial;
pub mod no_proxy;
pub mod proxy;
pub mod race;
pub mod resolve;
pub mod tls;
pub mod trust;
pub mod vsock;
pub mod web;
pub mod websocket;
