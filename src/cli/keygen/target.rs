//! Where a new pair goes: whether it can, whose it will be, and what is there already. Looking changes nothing.

use std::fs;
use std::io;
use std::net::Ipv6Addr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};
use x509_parser::x509::X509Version;

use super::error::KeygenError;
use crate::config::{Identity, Place, Source};
use crate::files::directory_of;
use crate::identity::{self, Algorithm, LoadError, Owner, PairFiles, address_of, next_key_file};
use crate::privileges;

/// Where a new pair goes.
#[derive(Debug)]
pub struct Target {
    /// The files.
    pub files: PairFiles,
    /// Whose they will be; none: whoever runs this.
    pub owner: Option<Owner>,
    /// Something is there.
    pub occupied: bool,
    /// The key that is there is wrapped by a TPM, or none but such a key is used.
    pub in_tpm: bool,
}

/// The certificate that is there.
#[derive(Clone, Copy, Debug)]
pub struct Old {
    /// Whose it is.
    pub address: Ipv6Addr,
    /// Its kind of key, if it is made here.
    pub algorithm: Option<Algorithm>,
    /// Without extensions.
    pub v1: bool,
    /// The end of its validity, seconds since 1970.
    pub not_after: i64,
}

impl Target {
    /// Looks at everything that could be in the way.
    pub fn look(tunnel: &str, identity: &Identity, user: &str) -> Result<Self, KeygenError> {
        let sources = [Source::Files, Source::Tpm].map(|source| identity.source.contains(&source));
        if sources == [false; 2] {
            return Err(KeygenError::NotFiles { tunnel: tunnel.to_owned() });
        }
        let Place::File(key_file) = &identity.key_file else {
            let (tunnel, place) = (tunnel.to_owned(), identity.key_file.to_string());
            return Err(KeygenError::NoKeyFile { tunnel, place });
        };
        let files = PairFiles { cert_file: identity.cert_file.clone(), key_file: key_file.clone() };
        if files.cert_file == files.key_file {
            let why = "would be both certificate and key: correct identity.cert_file or identity.key_file".to_owned();
            return Err(KeygenError::Place { path: files.key_file, why });
        }
        let owner = privileges::owner_for(user)?.map(|(uid, gid)| Owner { uid, gid });
        let occupied = [is_there(&files.cert_file)?, is_there(&files.key_file)?].contains(&true);
        is_there(&files.request_file())?;
        is_there(&next_key_file(&files.key_file))?;
        let wrapped = fs::read(&files.key_file).is_ok_and(|key| identity::tpm::is_blob(&key));
        can_write_in(directory_of(&files.cert_file))?;
        can_write_in(directory_of(&files.key_file))?;
        Ok(Self { files, owner, occupied, in_tpm: wrapped || sources == [false, true] })
    }

    /// Makes the directories that are missing. They go again with the value, unless [`Made::keep`] says otherwise.
    pub fn make_directories(&self) -> Result<Made, KeygenError> {
        let (certs, keys) = (directory_of(&self.files.cert_file), directory_of(&self.files.key_file));
        let mut made = Made(Vec::new());
        made.directory(certs, 0o755, self.owner)?;
        // One that holds nothing but keys is nobody else's business.
        made.directory(keys, 0o700, self.owner)?;
        Ok(made)
    }
}

/// A regular file is there, or none.
fn is_there(path: &Path) -> Result<bool, KeygenError> {
    let place = |why: String| KeygenError::Place { path: path.to_owned(), why };
    match path.symlink_metadata() {
        Ok(found) if found.is_symlink() => Err(place(
            "is a symbolic link, through which nothing is written: write where it leads to, or remove it".to_owned(),
        )),
        Ok(found) if !found.is_file() => Err(place("is there, and is no file".to_owned())),
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(place(format!("cannot be looked at: {error}"))),
    }
}

/// The directory, or the nearest one above it that is there, takes files.
fn can_write_in(directory: &Path) -> Result<(), KeygenError> {
    let place = |path: &Path, why: String| KeygenError::Place { path: path.to_owned(), why };
    for above in directory.ancestors().map(|path| if path.as_os_str().is_empty() { Path::new(".") } else { path }) {
        match fs::metadata(above) {
            Ok(found) if !found.is_dir() => return Err(place(above, "is no directory".to_owned())),
            Ok(_) => {
                return access(above, AccessFlags::W_OK | AccessFlags::X_OK)
                    .map_err(|error| place(above, format!("takes no new files: {}", error.desc())));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(place(above, format!("cannot be looked at: {error}"))),
        }
    }
    Err(place(directory, "is nowhere".to_owned()))
}

/// What the certificate that is there says, even if it has expired.
pub fn look_at(cert_file: &Path) -> Result<Old, LoadError> {
    let chain = identity::certificates(cert_file)?;
    let bad = || LoadError::BadCertificate { path: cert_file.to_owned(), number: 1 };
    let leaf = chain.first().ok_or_else(bad)?;
    let certificate = identity::parse(leaf).ok_or_else(bad)?;
    let address = address_of(leaf).ok_or_else(|| LoadError::NoAddress {
        path: cert_file.to_owned(),
        subject: identity::name_text(&certificate.subject),
    })?;
    Ok(Old {
        address,
        algorithm: Algorithm::of_spki(certificate.subject_pki.raw),
        v1: certificate.version == X509Version::V1,
        not_after: certificate.validity.not_after.timestamp(),
    })
}

/// Directories that were made.
#[derive(Debug)]
pub struct Made(Vec<PathBuf>);

impl Made {
    /// There is something in them now.
    pub fn keep(mut self) {
        self.0.clear();
    }

    /// With this mode and owner; those above it are root's, for everybody to pass.
    fn directory(&mut self, path: &Path, mode: u32, owner: Option<Owner>) -> Result<(), KeygenError> {
        let missing: Vec<_> =
            path.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).collect();
        for above in missing.into_iter().rev() {
            let (mode, owner) = if above == path { (mode, owner) } else { (0o755, None) };
            self.make(above, mode, owner)
                .map_err(|source| KeygenError::Directory { path: above.to_owned(), source })?;
        }
        Ok(())
    }

    fn make(&mut self, path: &Path, mode: u32, owner: Option<Owner>) -> io::Result<()> {
        fs::DirBuilder::new().mode(0o700).create(path)?;
        self.0.push(path.to_owned());
        if let Some(Owner { uid, gid }) = owner {
            chown(path, Some(uid.as_raw()), Some(gid.as_raw()))?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            if let Err(error) = fs::remove_dir(path) {
                log::debug!("remove {}: {error}", path.display());
            }
        }
    }
}
