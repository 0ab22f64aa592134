//! Where a tunnel's certificate and key come from: its sources in their order, the first that has either of the two. A source
//! that has them and is wrong is an error, never passed over for the next.

use super::{Credentials, LoadError, tpm};
use crate::config::{Identity, Kind, Place, Source, Tpm, Tunnel};
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

/// A certificate in a file and a key in another or in a TPM; systemd's credentials are files, too.
#[derive(Debug)]
struct Pair {
    cert_file: PathBuf,
    key: Place,
    tpm: Tpm,
    /// A key that is not in a TPM is none.
    in_tpm: bool,
}

impl Pair {
    fn key_is_in_tpm(&self) -> bool {
        self.key.file().is_none_or(|path| std::fs::read(path).is_ok_and(|file| tpm::is_blob(&file)))
    }
}

impl CredentialSource for Pair {
    fn is_there(&self) -> bool {
        if self.in_tpm { self.key_is_in_tpm() } else { self.files().iter().any(|file| file.exists()) }
    }

    fn files(&self) -> Vec<PathBuf> {
        [Some(self.cert_file.as_path()), self.key.file()].into_iter().flatten().map(Path::to_owned).collect()
    }

    fn load(&self, now: SystemTime) -> Result<Credentials, LoadError> {
        if let Some(path) = self.key.file().filter(|path| self.in_tpm && path.exists() && !self.key_is_in_tpm()) {
            return Err(LoadError::KeyInClear { path: path.to_owned() });
        }
        super::load_at(&self.cert_file, &self.key, &self.tpm, now)
    }
}

/// The directory of credentials that systemd made for this process (`LoadCredential=`), if it did.
pub fn credentials_directory() -> Option<PathBuf> {
    env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from).filter(|path| path.is_absolute())
}

/// The source of the certificate and the key of a tunnel. `credentials` is [`credentials_directory`].
///
/// # Errors
/// No source has either, and the configured files are none of the sources; with them, loading says what is missing.
pub fn find(tunnel: &Tunnel, credentials: Option<&Path>) -> Result<Box<dyn CredentialSource>, LoadError> {
    let Kind::Enf(enf) = &tunnel.kind else { return Err(LoadError::NoCredentials { tunnel: tunnel.name.clone() }) };
    if let Some(source) = sources(tunnel, credentials).find(|source| source.is_there()) {
        return Ok(source);
    }
    let wanted = &enf.identity.source;
    match (wanted.contains(&Source::Files), wanted.contains(&Source::Tpm)) {
        (false, false) => Err(LoadError::NoCredentials { tunnel: tunnel.name.clone() }),
        (files, _) => Ok(Box::new(pair(&enf.identity, &tunnel.tpm, !files))),
    }
}

/// Every file that the sources of a tunnel read, now or later.
pub fn candidates(tunnel: &Tunnel, credentials: Option<&Path>) -> Vec<PathBuf> {
    sources(tunnel, credentials).flat_map(|source| source.files()).collect()
}

fn sources<'a>(
    tunnel: &'a Tunnel,
    credentials: Option<&'a Path>,
) -> impl Iterator<Item = Box<dyn CredentialSource>> + use<'a> {
    tunnel
        .kind
        .enf()
        .into_iter()
        .flat_map(|enf| enf.identity.source.iter().map(move |source| (enf, source)))
        .filter_map(move |(enf, source)| {
            let pair = match source {
                Source::Credentials => {
                    let [cert_file, key] = ["crt", "key"].map(|kind| format!("{}.{kind}", tunnel.name));
                    let (cert_file, key) = (credentials?.join(cert_file), Place::File(credentials?.join(key)));
                    Pair { cert_file, key, tpm: tunnel.tpm.clone(), in_tpm: false }
                }
                Source::Files => pair(&enf.identity, &tunnel.tpm, false),
                Source::Tpm => pair(&enf.identity, &tunnel.tpm, true),
            };
            Some(Box::new(pair) as Box<dyn CredentialSource>)
        })
}

fn pair(identity: &Identity, tpm: &Tpm, in_tpm: bool) -> Pair {
    let (cert_file, key) = (identity.cert_file.clone(), identity.key_file.clone());
    Pair { cert_file, key, tpm: tpm.clone(), in_tpm }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
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
        fn finds(&self, source: &[&str]) -> Result<String, LoadError> {
            let source = self.source(source)?;
            Ok(source.files()[0].strip_prefix(self.0.path()).unwrap().display().to_string())
        }

        fn source(&self, source: &[&str]) -> Result<Box<dyn CredentialSource>, LoadError> {
            let text = format!("kind = \"enf\"\nremote.hosts = [\"r.example\"]\nidentity.source = {source:?}\n");
            let tunnel = config::parse_tunnel("enf0", Path::new("enf0.toml"), self.0.path(), &text).0;
            find(&tunnel.unwrap(), Some(&self.path("credentials")))
        }
    }

    #[test]
    fn the_first_source_that_has_either_is_it() {
        let [credentials, files] = ["credentials", "files"];
        let both = Host::with(&[CERT, "credentials/enf0.key"]);
        assert_eq!(both.finds(&[credentials, files]).unwrap(), "credentials/enf0.crt");
        assert_eq!(both.finds(&[files, credentials]).unwrap(), CERT);
        let others = Host::with(&["credentials/enf1.crt", "credentials/enf1.key"]);
        assert_eq!(others.finds(&[credentials, files]).unwrap(), CERT, "what is missing is missing there");
        let passed = Host::with(&["credentials/enf0.crt"]);
        assert_eq!(passed.finds(&[files, credentials]).unwrap(), "credentials/enf0.crt");
    }

    #[test]
    fn without_files_a_missing_credential_is_said_with_its_name() {
        let error = Host::with(&[CERT]).finds(&["credentials"]).unwrap_err();
        assert!(error.to_string().contains("enf0.crt"), "{error}");
    }

    /// A build without TPMs refuses such a configuration.
    #[cfg(feature = "tpm")]
    #[test]
    fn only_a_key_in_a_tpm_is_of_the_source_tpm() {
        let key = "enf0/enf0.key.pem";
        let host = Host::with(&[CERT, key, "credentials/enf0.crt"]);
        assert_eq!(
            host.finds(&["tpm", "credentials"]).unwrap(),
            "credentials/enf0.crt",
            "a key in clear is passed over"
        );
        let error = host.source(&["tpm"]).unwrap().load(SystemTime::now()).unwrap_err();
        assert!(matches!(error, LoadError::KeyInClear { .. }), "{error}");
        fs::write(host.path(key), "-----BEGIN TSS2 PRIVATE KEY-----\n").unwrap();
        assert_eq!(host.finds(&["tpm", "credentials"]).unwrap(), CERT);
    }
}
