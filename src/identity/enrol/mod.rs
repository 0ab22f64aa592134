//! Enrolment: the interface over HTTPS that hands out addresses for public keys. Client and router share what is said in it
//! ([`api`]).

pub mod api;
mod secret;

pub use secret::Secret;
