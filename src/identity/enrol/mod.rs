//! Enrolment: the interface over HTTPS that hands out addresses for public keys. Client ([`enrol`]) and router share what is
//! said in it ([`api`]). The client saves nothing: its caller does when there is an address.

pub mod api;
mod client;
mod error;
mod tls;

pub use super::{Secret, SecretError};
pub use client::{Enrolled, Login, enrol};
pub use error::{EnrolError, Step};
pub use tls::Https;
