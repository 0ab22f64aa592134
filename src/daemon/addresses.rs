//! The address at which each router or proxy that is given by name was last found: `addresses.json` in the state directory, written
//! only when one changes. While nobody answers for the name, its router is tried there.

use crate::config::Remote;
use crate::files::replace;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::{fs, io};

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    routers: BTreeMap<String, IpAddr>,
}

/// Names of routers, and where they last answered. Without a file they live in memory only.
#[derive(Debug, Default)]
pub struct LastAddresses {
    file: Option<PathBuf>,
    routers: BTreeMap<String, IpAddr>,
}

impl LastAddresses {
    /// Reads the file; whatever is wrong with it, it is only a memory, and begins anew.
    pub fn load(state_dir: &Path) -> Self {
        let file = state_dir.join("addresses.json");
        let routers = match fs::read(&file).map(|bytes| serde_json::from_slice::<Document>(&bytes)) {
            Ok(Ok(document)) => document.routers,
            Ok(Err(error)) => {
                log::warn!("{} is damaged ({error}); it begins anew", file.display());
                BTreeMap::new()
            }
            Err(_) => BTreeMap::new(),
        };
        Self { file: Some(file), routers }
    }

    /// Those of a tunnel's routers, and of the proxies to them, that are known.
    pub fn of(&self, remote: &Remote) -> BTreeMap<String, IpAddr> {
        let known = |name: &str| Some((name.to_owned(), *self.routers.get(name)?));
        remote.hosts.iter().filter_map(|host| known(host.dialled()?.0)).collect()
    }

    /// A router answered here. An address in text needs no memory.
    pub fn set(&mut self, name: &str, address: IpAddr) -> io::Result<()> {
        if name.parse::<IpAddr>().is_ok() || self.routers.insert(name.to_owned(), address) == Some(address) {
            return Ok(());
        }
        let Some(file) = &self.file else { return Ok(()) };
        let document = Document { version: 1, routers: self.routers.clone() };
        replace(file, &serde_json::to_vec_pretty(&document)?, 0o600)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives_a_restart_and_is_written_only_when_it_changes() {
        let directory = tempfile::tempdir().unwrap();
        let address: IpAddr = "2001:db8::1".parse().unwrap();
        let mut addresses = LastAddresses::load(directory.path());
        addresses.set("router.example.net", address).unwrap();
        addresses.set("192.0.2.1", "192.0.2.1".parse().unwrap()).unwrap();
        let mut again = LastAddresses::load(directory.path());
        assert_eq!(again.routers, BTreeMap::from([("router.example.net".to_owned(), address)]));
        fs::remove_file(directory.path().join("addresses.json")).unwrap();
        again.set("router.example.net", address).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing new, nothing written");
        fs::write(directory.path().join("addresses.json"), b"{").unwrap();
        assert_eq!(LastAddresses::load(directory.path()).routers, BTreeMap::new());
    }
}
