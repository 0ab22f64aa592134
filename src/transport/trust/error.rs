//! Why a certificate is not trusted, where rustls has no word that says it all.

use std::io;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::UnixTime;
use rustls::{CertificateError, OtherError};

use crate::error::Class;
use crate::state::Reason;

/// What is wrong with the far end's certificate. It travels inside [`CertificateError::Other`].
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The right name, another key.
    #[error(
        "a CA of the issuer's name is in the CA file, but its key did not sign this certificate: was the CA replaced?"
    )]
    IssuerKey,
    /// Signed by a certificate that is no CA.
    #[error("it was signed by a certificate that is not in the CA file and may not sign others")]
    NotCa,
    /// Its extended key usage says something else.
    #[error("it is not for {0} authentication: its extended key usage names other purposes only")]
    Purpose(Usage),
    /// A signature that is not understood.
    #[error("it is signed in a way that is not supported (too old, such as SHA-1, or too new)")]
    Algorithm,
    /// The rest of what webpki checks.
    #[error("its chain cannot be verified")]
    Chain(#[source] webpki::Error),
    /// A router by another name.
    #[error("it carries {presented}, but remote.name asks for {wanted:?}")]
    Name {
        /// `remote.name`.
        wanted: String,
        /// What the certificate says.
        presented: String,
    },
    /// A device plays the router.
    #[error(
        "it is a device's, for it carries the address {0} as an identity: any device could play the router; \
         if this really is the router, say so with remote.name = \"{0}\""
    )]
    Device(Ipv6Addr),
    /// A client without an address.
    #[error("it carries no IPv6 address, or more than one: the router would not know where to send packets")]
    NoAddress,
    /// A client with an address that nobody may have.
    #[error("its address {address} cannot be used: {why}")]
    Unusable {
        /// The address.
        address: Ipv6Addr,
        /// What it is instead.
        why: &'static str,
    },
    /// Neither under the client CA nor enrolled.
    #[error("{address} is not enrolled ({} does not exist), nor is the certificate under a client CA", file.display())]
    NotEnrolled {
        /// The address.
        address: Ipv6Addr,
        /// Where its key was looked for.
        file: PathBuf,
    },
    /// Somebody else was enrolled with this address.
    #[error("{address} is enrolled with another key ({})", file.display())]
    OtherKey {
        /// The address.
        address: Ipv6Addr,
        /// Where the enrolled key is.
        file: PathBuf,
    },
    /// The file of an enrolled client does not help.
    #[error("the enrolled key of {address} cannot be read from {}", file.display())]
    Endpoint {
        /// The address.
        address: Ipv6Addr,
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// What a certificate shall prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// That its holder is a router.
    Server,
    /// That its holder is a client.
    Client,
}

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Server => "server",
            Self::Client => "client",
        })
    }
}

impl TrustError {
    /// Other certificates are needed, or another configuration of whom to trust.
    pub fn class(&self) -> Class {
        Class::Credentials
    }

    /// The word for programs.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Name { .. } => Reason::CertificateName,
            _ => Reason::CertificateUntrusted,
        }
    }

    /// The error again, once it has been through rustls.
    pub fn find(error: &CertificateError) -> Option<&Self> {
        match error {
            CertificateError::Other(OtherError(other)) => other.downcast_ref(),
            _ => None,
        }
    }
}

impl From<TrustError> for CertificateError {
    fn from(error: TrustError) -> Self {
        Self::Other(OtherError(Arc::new(error)))
    }
}

/// webpki's verdict in rustls's words where it has them: they choose the alert that the far end gets to see.
pub(super) fn from_webpki(error: webpki::Error, usage: Usage) -> CertificateError {
    match error {
        webpki::Error::BadDer | webpki::Error::BadDerTime | webpki::Error::TrailingData(_) => {
            CertificateError::BadEncoding
        }
        webpki::Error::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }
        }
        webpki::Error::CertExpired { time, not_after } => CertificateError::ExpiredContext { time, not_after },
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        webpki::Error::InvalidSignatureForPublicKey => TrustError::IssuerKey.into(),
        // v1 between a v3 certificate and its anchor is one that may not sign.
        webpki::Error::EndEntityUsedAsCa
        | webpki::Error::PathLenConstraintViolated
        | webpki::Error::UnsupportedCertVersion => TrustError::NotCa.into(),
        webpki::Error::RequiredEkuNotFoundContext(_) => TrustError::Purpose(usage).into(),
        webpki::Error::UnsupportedSignatureAlgorithmContext(_) => TrustError::Algorithm.into(),
        other => TrustError::Chain(other).into(),
    }
}

/// Whether a certificate is valid now, with any year from 0000 to 9999.
pub(super) fn check_dates(not_before: i64, not_after: i64, now: UnixTime) -> Result<(), CertificateError> {
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let unix = |seconds: i64| {
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(seconds).unwrap_or_default()))
    };
    if seconds < not_before {
        Err(CertificateError::NotValidYetContext { time: now, not_before: unix(not_before) })
    } else if seconds > not_after {
        Err(CertificateError::ExpiredContext { time: now, not_after: unix(not_after) })
    } else {
        Ok(())
    }
}
