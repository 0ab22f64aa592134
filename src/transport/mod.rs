//! How bytes reach the far end: TLS configuration, and who is trusted.

pub mod tls;
pub mod trust;
