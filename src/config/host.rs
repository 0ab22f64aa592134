//! Where a router is, and the way there. What is shown of a way never tells a password.

use std::fmt;

/// One far end. Displayed it is `host:port`, and after it `via` its proxy if it has one; or `vsock:CID:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host {
    /// A name, or an IP address in text without brackets; empty for vsock.
    pub host: String,
    /// TCP port; 0 for vsock.
    pub port: u16,
    /// How it is reached.
    pub way: Way,
}

/// How a far end is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Way {
    /// Over TCP, by its own address.
    #[default]
    Direct,
    /// Through this proxy, which looks its name up too.
    Proxy(Proxy),
    /// From a virtual machine or a card to its host, without a network (vsock(7)).
    Vsock {
        /// Context identifier: 2 is the host, 1 this machine itself.
        cid: u32,
        /// Port.
        port: u32,
    },
}

impl Host {
    /// A far end that is reached over TCP by its own address.
    pub fn direct(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port, way: Way::Direct }
    }

    /// A proxy is on the way.
    pub fn is_proxied(&self) -> bool {
        matches!(self.way, Way::Proxy(_))
    }

    /// Name or address, and port, of what the TCP connection goes to: the far end itself, or its proxy. `None` for vsock.
    pub fn dialled(&self) -> Option<(&str, u16)> {
        match &self.way {
            Way::Direct => Some((&self.host, self.port)),
            Way::Proxy(proxy) => Some((&proxy.host, proxy.port)),
            Way::Vsock { .. } => None,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.way {
            Way::Direct => f.write_str(&authority(&self.host, self.port)),
            Way::Proxy(proxy) => write!(f, "{} via {proxy}", authority(&self.host, self.port)),
            Way::Vsock { cid, port } => write!(f, "vsock:{cid}:{port}"),
        }
    }
}

/// `host:port`, an IPv6 address in brackets (RFC 3986 section 3.2).
pub fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// A proxy. Displayed it is `scheme://host:port`, without the login.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Proxy {
    /// What it speaks.
    pub scheme: Scheme,
    /// A name, or an IP address in text without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Who we are to it.
    pub login: Option<Login>,
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), authority(&self.host, self.port))
    }
}

/// What a proxy speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// HTTP CONNECT (RFC 9110 section 9.3.6), in the clear.
    Http,
    /// The same within TLS. Only kind `aws-iot` knows how.
    Https,
    /// SOCKS5 (RFC 1928).
    Socks5,
}

impl Scheme {
    /// As it is written in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Socks5 => "socks5",
        }
    }
}

/// User and password, percent-decoded: bytes of no particular encoding. Neither is ever shown.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Login {
    /// User.
    pub user: Vec<u8>,
    /// Password; may be empty.
    pub password: Vec<u8>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_is_shown_with_its_proxy_and_never_with_the_password() {
        let login = Some(Login { user: b"me".to_vec(), password: b"s3cret".to_vec() });
        let proxy = Proxy { scheme: Scheme::Socks5, host: "2001:db8::5".into(), port: 1080, login };
        let host = Host { host: "router.example.net".into(), port: 443, way: Way::Proxy(proxy) };
        assert_eq!(host.to_string(), "router.example.net:443 via socks5://[2001:db8::5]:1080");
        assert_eq!(host.dialled(), Some(("2001:db8::5", 1080)));
        let debug = format!("{host:?}");
        assert!(debug.contains("router.example.net") && !debug.contains("s3cret") && !debug.contains("115"), "{debug}");
        let vsock = Host { host: String::new(), port: 0, way: Way::Vsock { cid: 2, port: 443 } };
        assert_eq!((vsock.to_string().as_str(), vsock.dialled()), ("vsock:2:443", None));
    }
}
