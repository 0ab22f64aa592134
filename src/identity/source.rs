//! Where a tunnel's certificate and key come from: its sources in their order, the first that has either of the two. A source
//! that has them and is wrong is an error, never passed over for the next. It only says where they are; [`super::load`] reads.

use super::LoadError;
use crate::config::{Identity, Source};
use std::env;
use std::path::{Path, PathBuf};

/// The directory of credentials that systemd made for this process (`LoadCredential=`), if it did.
pub fn credentials_directory() -> Option<PathBuf> {
    env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from).filter(|path| path.is_absolute())
}

/// The files of the certificate and of the key of a tunnel. `credentials` is [`credentials_directory`].
///
/// # Errors
/// No source has either, and files are none of the sources; with them, reading says what is missing.
pub fn find(tunnel: &str, identity: &Identity, credentials: Option<&Path>) -> Result<(PathBuf, PathBuf), LoadError> {
    let has_any = |(cert, key): &(PathBuf, PathBuf)| cert.exists() || key.exists();
    match places(tunnel, identity, credentials).find(has_any) {
        Some(pair) => Ok(pair),
        None if identity.source.contains(&Source::Files) => Ok((identity.cert_file.clone(), identity.key_file.clone())),
        None => Err(LoadError::NoCredentials { tunnel: tunnel.to_owned() }),
    }
}

/// Every file that [`find`] may find, now or later.
pub fn candidates(tunnel: &str, identity: &Identity, credentials: Option<&Path>) -> Vec<PathBuf> {
    places(tunnel, identity, credentials).flat_map(|(cert, key)| [cert, key]).collect()
}

fn places(tunnel: &str, identity: &Identity, credentials: Option<&Path>) -> impl Iterator<Item = (PathBuf, PathBuf)> {
    identity.source.iter().filter_map(move |source| match source {
        Source::Credentials => {
            credentials.map(|path| (path.join(format!("{tunnel}.crt")), path.join(format!("{tunnel}.key"))))
        }
        Source::Files => Some((identity.cert_file.clone(), identity.key_file.clone())),
    })
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
            let (cert, _) = find("enf0", &identity, Some(&self.path("credentials")))?;
            Ok(cert.strip_prefix(self.0.path()).unwrap().display().to_string())
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
