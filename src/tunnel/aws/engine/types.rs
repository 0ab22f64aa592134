//! What goes into the engine and comes out of it, apart from bytes.

use std::sync::Arc;

use bytes::Bytes;

use crate::config::{Compat, Limits, Mode};

/// What an engine has to know.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Which end this is.
    pub mode: Mode,
    /// What the destination understands; a destination finds out by itself what the source does.
    pub compat: Compat,
    /// `max_connections`, `max_payload`, `queue`, `patience` and `half_close_grace` are the engine's.
    pub limits: Limits,
}

/// A forwarded connection, at this end. Never used again by the same engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Conn(pub(super) u64);

/// What is to be done, in this order.
///
/// Each connection ends once: with [`Action::Finish`], with [`Action::Abort`], or, without an action, when the caller itself
/// said [`LocalEnd::Broken`] or that it could not be dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// One whole frame for the WebSocket.
    Send(Bytes),
    /// The services of the tunnel. Asks for [`super::Engine::services`]; until then nothing should be received.
    Serve(Vec<String>),
    /// Connect to the application of this service, and say what came of it.
    Dial {
        /// The connection to be.
        conn: Conn,
        /// As [`super::Engine::services`] named it.
        service: Arc<str>,
    },
    /// Bytes for the application. What it has taken is to be told with [`super::Engine::written`].
    Deliver {
        /// Whose.
        conn: Conn,
        /// Not empty.
        data: Bytes,
    },
    /// Everything was delivered and taken, and no more comes: close the socket, so that the application sees its end.
    Finish {
        /// Which; it is gone for the engine.
        conn: Conn,
    },
    /// Break the socket off at once, so that the application sees an error.
    Abort {
        /// Which; it is gone for the engine.
        conn: Conn,
        /// Why.
        why: Why,
    },
}

/// Why a connection was broken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The application kept others waiting for longer than it may.
    TooSlow,
    /// The other end or the service reset the stream, or the session.
    Reset,
    /// A newer connection, or stream, took its place.
    Replaced,
    /// The other end broke the rules, so that nobody knows any more which bytes are whose.
    Misused,
    /// This end stops.
    Stopped,
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::TooSlow => "the application reads too slowly and keeps others waiting",
            Self::Reset => "the other end or the service has reset it",
            Self::Replaced => "a newer one took its place",
            Self::Misused => "the other end broke the rules of the protocol",
            Self::Stopped => "the tunnel stops",
        })
    }
}

/// How the application's socket ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalEnd {
    /// It sends no more, and may still read.
    Eof,
    /// It is gone both ways.
    Broken,
}

/// Why an application's connection is not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Too many at a time, or this end stops.
    #[error("as many connections as `max_connections` allows are open")]
    TooMany,
    /// Nothing by this name is forwarded from here.
    #[error("no such service is forwarded from here")]
    Unknown,
}

/// The service, or the other end through it, broke the protocol, and this session cannot go on.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Violation {
    /// Not a protobuf message.
    #[error("the service sent a frame that is no message")]
    Malformed(#[from] prost::DecodeError),
    /// Type 0, which is also that of an empty frame.
    #[error("the service sent a message without a type")]
    NoType,
    /// A type that this version does not know, and that may not be ignored.
    #[error("the service sent a message of the unknown type {0}, which may not be ignored")]
    UnknownType(i32),
    /// Zero or negative.
    #[error("the service sent a message of stream {0}; streams are numbered from 1")]
    StreamId(i32),
    /// Some of the other end's messages name their service and some do not.
    #[error("messages with and without a service id are mixed in one session")]
    Mixed,
    /// Only a destination may be asked to open a connection.
    #[error("the other end asked this source to open a connection; is it a source too?")]
    StartAtSource,
    /// More than may be held before this end serves.
    #[error("too many messages came before the tunnel's services were known")]
    TooEarly,
    /// A name that leaves no room in a frame.
    #[error("the tunnel has a service whose name is {0} bytes long; {max} are possible", max = super::opening::LONGEST_NAME)]
    LongName(usize),
}
