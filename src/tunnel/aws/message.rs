//! The one protobuf message of the protocol (package `com.amazonaws.iot.securedtunneling`), as prost reads and writes it. What
//! a message means is the engine's.
//!
//! A field that is not in here is skipped when it comes and never sent. The service cuts off a client that sends one, so it
//! can only come from the service itself in a later version, and what that wants to be understood has a type of its own,
//! which says whether it may be ignored.

use bytes::Bytes;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum Type {
    /// Never sent, and an error when it comes.
    Unknown = 0,
    /// Bytes of a connection.
    Data = 1,
    /// Opens a stream, and its first connection.
    StreamStart = 2,
    /// Ends a stream with every connection in it.
    StreamReset = 3,
    /// Ends every stream.
    SessionReset = 4,
    /// The services of the tunnel; the service's first message.
    ServiceIds = 5,
    /// Opens a further connection in a stream (v3).
    ConnectionStart = 6,
    /// Ends one connection (v3).
    ConnectionReset = 7,
}

/// A message. Absent and zero are the same for every field.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Message {
    /// A [`Type`], or one of a later version.
    #[prost(enumeration = "Type", tag = "1")]
    pub r#type: i32,
    /// From 1 on; 0 is none.
    #[prost(int32, tag = "2")]
    pub stream_id: i32,
    /// Whoever does not know the type may do without it.
    #[prost(bool, tag = "3")]
    pub ignorable: bool,
    /// Data's bytes.
    #[prost(bytes = "bytes", tag = "4")]
    pub payload: Bytes,
    /// Which service; empty from a v1 peer.
    #[prost(string, tag = "5")]
    pub service_id: String,
    /// In service ids: all that the tunnel has.
    #[prost(string, repeated, tag = "6")]
    pub available_service_ids: Vec<String>,
    /// Which connection of the stream, from 1 on; 0 from a v1 or v2 peer.
    #[prost(uint32, tag = "7")]
    pub connection_id: u32,
}
