//! The keys of `kind = "aws-iot"`: TCP connections through AWS IoT Secure Tunneling.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::authority;

/// The keys that only `kind = "aws-iot"` has. The service's host is the only one of `remote.hosts`.
#[derive(Clone, Debug, PartialEq)]
pub struct Aws {
    /// Which end of the forwarded connections this is.
    pub mode: Mode,
    /// What each service of the tunnel is here.
    pub services: Services,
    /// A source listens here, unless a service says otherwise; a destination dials from here, where that is an address. None:
    /// `localhost`, and any address.
    pub bind: Option<String>,
    /// What the destination understands. A destination finds out by itself what the source does.
    pub compat: Compat,
    /// `Sec-WebSocket-Protocol`, without its prefix.
    pub subprotocol: Subprotocol,
    /// The access token, in a file of one line; absolute.
    pub token_file: Option<PathBuf>,
    /// The client token, in a file of one line; absolute. None: one is made, and kept.
    pub client_token_file: Option<PathBuf>,
    /// `false`: the server's certificate is not looked at. Only `enftun-localproxy -k` says so.
    pub verify: bool,
    /// Bounds in time and space.
    pub limits: Limits,
}

/// `aws.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Listens for applications.
    Source,
    /// Dials applications.
    Destination,
}

impl Mode {
    /// The word in the configuration file, in the request and on the bus.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

/// What is at this end of each service: where a source listens, what a destination dials. The tunnel says which services it
/// has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Services {
    /// The one service that there is, by whatever name.
    Only(Application),
    /// Exactly these.
    Named(BTreeMap<String, Application>),
    /// Each service of the tunnel is looked up here. What is missing gets a free port on a source, and is an error on a
    /// destination.
    Among(BTreeMap<String, Application>),
}

/// Where an application is: it is dialled, or listened for, there. As text: `port`, `host:port`, or a path with a `/` in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Application {
    /// TCP. Without a host it is that of `aws.bind`. Port 0: a free one, which a source chooses.
    Tcp {
        /// A name, or an IP address in text without brackets.
        host: Option<String>,
        /// Port.
        port: u16,
    },
    /// A Unix socket; absolute.
    Unix(PathBuf),
}

impl std::fmt::Display for Application {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp { host: Some(host), port } => f.write_str(&authority(host, *port)),
            Self::Tcp { host: None, port } => write!(f, "{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// `aws.compat`: the version of the protocol that a source speaks to the destination behind the service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compat {
    /// One service without a name, one connection at a time.
    V1,
    /// Services with names, one connection at a time in each.
    V2,
    /// Many connections in each.
    #[default]
    V3,
}

impl Compat {
    /// The word in the configuration file and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "V1",
            Self::V2 => "V2",
            Self::V3 => "V3",
        }
    }
}

/// The version of the protocol that is agreed with the service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Subprotocol {
    /// `aws.iot.securetunneling-1.0`
    V1,
    /// `aws.iot.securetunneling-2.0`
    V2,
    /// `aws.iot.securetunneling-3.0`
    #[default]
    V3,
}

impl Subprotocol {
    /// As it stands in `Sec-WebSocket-Protocol`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "aws.iot.securetunneling-1.0",
            Self::V2 => "aws.iot.securetunneling-2.0",
            Self::V3 => "aws.iot.securetunneling-3.0",
        }
    }
}

/// `[aws]`: bounds in time and space of what is forwarded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Connections of one service at a time; the source refuses more.
    pub max_connections: usize,
    /// Most bytes of data in one message, up to 64512.
    pub max_payload: usize,
    /// Bytes that may wait for one application before nothing more is read from the service.
    pub queue: usize,
    /// For so long in all may one application keep the others waiting, before its connection is reset.
    pub patience: Duration,
    /// After the application's end of its data, what the other end still sends is waited for while less than this passes
    /// without any. Zero: the connection ends at once.
    pub half_close_grace: Duration,
    /// A connection to an application, and a listening socket, is tried again so often; none: for ever.
    pub retries: Option<u32>,
    /// So long after the last attempt.
    pub retry_delay: Duration,
    /// One attempt to reach an application, all its addresses.
    pub dial_timeout: Duration,
}

impl Limits {
    /// The largest payload of a message: 63 KiB.
    pub const MAX_PAYLOAD: usize = 64_512;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 128,
            max_payload: Self::MAX_PAYLOAD,
            queue: 1 << 20,
            patience: Duration::from_secs(10),
            half_close_grace: Duration::from_secs(2),
            retries: Some(5),
            retry_delay: Duration::from_millis(2500),
            dial_timeout: Duration::from_secs(10),
        }
    }
}
