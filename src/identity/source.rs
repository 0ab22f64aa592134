//! Where a tunnel's certificate and key come from: its sources in their order, the first that has either of the two. A source
//! that has them and is wrong is an error, never passed over for the next.

use super::{Credentials, LoadError};
use crate::config::{Identity, Source};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::{env, fmt};

/// One place that may have the certificate and the key of a tunnel.
pub trait CredentialSource: fmt::Debug {
    /// It has either of the two: then no source after it counts.
    fn is_there(&self) -> bool;

    /// The files that it reads, whether they are there or not: when one of them changes, it may have something else.
    fn files(&self) -> Vec<PathBuf>;

    /// Reads both, and checks that they can be used at the time `now`.
    ///
    /// # Errors
    /// One is missing or cannot be used.
    fn load(&self, now: SystemTime) -> Result<Credentials, LoadError>;
}

/// A certificate and a key in files; systemd's credentials are some, too.
#[derive(Debug)]
struct Pair {
    cert_file: PathBuf,
    key_file: PathBuf,
}

impl CredentialSource for Pair {
    fn is_there(&self) -> bool {
        self.cert_file.exists() || self.key_file.exists()
    }

    fn files(&self) -> Vec<PathBuf> {
        vec![self.cert_file.clone(), self.key_file.clone()]
    }

    fn load(&self, now: SystemTime) -> Result<Credentials, LoadError> {
        super::load(&self.cert_file, &self.key_file, now)
    }
}

/// The directory of credentials that systemd made for this process (`LoadCredential=`), if it did.
pub fn credentials_directory() -> Option<PathBuf> {
    env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from).filter(|path| path.is_absolute())
}

/// The source of the certificate and the key of a tunnel. `credentials` is [`credentials_directory`].
///
/// # Errors
/// No source has either, and files are none of the sources; with them, loading says what is missing.
pub fn find(
    tunnel: &str,
    identity: &Identity,
    credentials: Option<&Path>,
) -> Result<Box<dyn CredentialSource>, LoadError> {
    if let Some(source) = sources(tunnel, identity, credentials).find(|source| source.is_there()) {
        return Ok(source);
    }
    match identity.source.contains(&Source::Files) {
        true => Ok(Box::new(files(identity))),
        false => Err(LoadError::NoCredentials { tunnel: tunnel.to_owned() }),
    }
}

/// Every file that the sources of a tunnel read, now or later.
pub fn candidates(tunnel: &str, identity: &Identity, credentials: Option<&Path>) -> Vec<PathBuf> {
    sources(tunnel, identity, credentials).flat_map(|source| source.files()).collect()
}

fn sources<'a>(
    tunnel: &'a str,
    identity: &'a Identity,
    credentials: Option<&'a Path>,
) -> impl Iterator<Item = Box<dyn CredentialSource>> {
    identity.source.iter().filter_map(move |source| {
        let pair = match source {
            Source::Credentials => {
                let directory = credentials?;
                let [cert_file, key_file] = ["crt", "key"].map(|kind| directory.join(format!("{tunnel}.{kind}")));
                Pair { cert_file, key_file }
            }
            Source::Files => files(identity),
        };
        Some(Box::new(pair) as Box<dyn CredentialSource>)
    })
}

fn files(identity: &Identity) -> Pair {
    Pair { cert_file: identity.cert_file.clone(), key_file: identity.key_file.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const CERT: &str = "enf0/enf0.crt.pem";

    struct Host(tempfile::TempDir);

    impl Host {
        /// With these files, empty.
        fn with(files: &[&str]) -> Self {
            let host = Self(tempfile::tempdir().unwrap());
            for file in files {
                let file = host.path(file);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, "").unwrap();
            }
            host
        }

        fn path(&self, file: &str) -> PathBuf {
            self.0.path().join(file)
        }

        /// The certificate that is found, as a path in the host.
        fn finds(&self, source: &[Source]) -> Result<String, LoadError> {
            let identity = Identity {
                cert_file: self.path(CERT),
                key_file: self.path("enf0/enf0.key.pem"),
                ip_file: None,
                source: source.to_vec(),
            };
            let source = find("enf0", &identity, Some(&self.path("credentials")))?;
            Ok(source.files()[0].strip_prefix(self.0.path()).unwrap().display().to_string())
        }
    }

    #[test]
    fn the_first_source_that_has_either_is_it() {
        use Source::{Credentials, Files};
        let both = Host::with(&[CERT, "credentials/enf0.key"]);
        assert_eq!(both.finds(&[Credentials, Files]).unwrap(), "credentials/enf0.crt");
        assert_eq!(both.finds(&[Files, Credentials]).unwrap(), CERT);
        let others = Host::with(&["credentials/enf1.crt", "credentials/enf1.key"]);
        assert_eq!(others.finds(&[Credentials, Files]).unwrap(), CERT, "what is missing is missing there");
        let credentials = Host::with(&["credentials/enf0.crt"]);
        assert_eq!(credentials.finds(&[Files, Credentials]).unwrap(), "credentials/enf0.crt");
    }

    #[test]
    fn without_files_a_missing_credential_is_said_with_its_name() {
        let error = Host::with(&[CERT]).finds(&[Source::Credentials]).unwrap_err();
        assert!(error.to_string().contains("enf0.crt"), "{error}");
    }
}
