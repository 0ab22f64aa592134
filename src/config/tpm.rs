//! `[tpm]`, and the names of what stands in a TPM: `tpm:0x81000001` for a key, `tpm-nv:0x1410005` for certificates.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use super::reader::{Item, Section};
use super::values::{self, Complaint, Endpoint, quoted};
use super::{Place, Tpm};

/// Handles of keys that stay in the TPM (TPM 2.0 library, part 2, 7.2: `TPM_HT_PERSISTENT`).
pub(super) const PERSISTENT: RangeInclusive<u32> = 0x8100_0000..=0x81ff_ffff;
/// Handles of non-volatile storage (the same: `TPM_HT_NV_INDEX`).
const NV_INDICES: RangeInclusive<u32> = 0x0100_0000..=0x01ff_ffff;

/// What a place in the TPM can be the place of.
#[derive(Clone, Copy)]
pub(super) enum Held {
    /// A private key.
    Key,
    /// Certificates.
    Certificates,
}

impl Held {
    fn prefix(self) -> &'static str {
        match self {
            Self::Key => "tpm:",
            Self::Certificates => "tpm-nv:",
        }
    }

    fn handles(self) -> RangeInclusive<u32> {
        match self {
            Self::Key => PERSISTENT,
            Self::Certificates => NV_INDICES,
        }
    }

    fn complaint(self, text: &str) -> Complaint {
        match self {
            Self::Key => Complaint::new(&format!("{} is no persistent handle, 0x81000000 to 0x81ffffff", quoted(text)))
                .help("write \"tpm:0x81000001\"; `tpm2_getcap handles-persistent` lists those that there are"),
            Self::Certificates => Complaint::new(&format!("{} is no NV index, 0x1000000 to 0x1ffffff", quoted(text)))
                .help("write \"tpm-nv:0x1410005\"; `tpm2_nvreadpublic` lists those that there are"),
        }
    }
}

impl Section<'_> {
    /// A path from `base`, or a place in the TPM; the default is a path.
    pub(super) fn place_or(&mut self, key: &'static str, base: &Path, default: &str, held: Held) -> Place {
        let place = self.take(key).and_then(|item| {
            let place = item.parse(|text| place(text, base, held))?;
            if place.file().is_none() {
                item.asks_for("tpm");
            }
            Some(place)
        });
        place.unwrap_or_else(|| Place::File(values::absolute(&base.join(default))))
    }
}

fn place(text: &str, base: &Path, held: Held) -> Result<Place, Complaint> {
    if let Some(number) = text.strip_prefix(held.prefix()) {
        return handle(number, held.handles()).map(Place::Tpm).ok_or_else(|| held.complaint(text));
    }
    if ["tpm:", "tpm-nv:"].iter().any(|prefix| text.starts_with(prefix)) {
        return Err(held.complaint(text));
    }
    values::path(base)(text).map(Place::File)
}

/// A handle, in hexadecimal.
fn handle(text: &str, range: RangeInclusive<u32>) -> Option<u32> {
    let digits = text.strip_prefix("0x").filter(|digits| digits.chars().all(|digit| digit.is_ascii_hexdigit()))?;
    u32::from_str_radix(digits, 16).ok().filter(|handle| range.contains(handle))
}

/// Reads `[tpm]`.
pub(super) fn tpm(config_dir: &Path, root: &mut Section<'_>) -> Tpm {
    let Some(item) = root.take("tpm") else { return Tpm::default() };
    item.asks_for("tpm");
    let mut section = item.section();
    let defaults = Tpm::default();
    Tpm {
        tcti: section.parse("tcti", tcti).unwrap_or(defaults.tcti),
        password_file: section.parse("password_file", values::path(config_dir)),
        parent: section.take("parent").and_then(|item| parent(&item)),
    }
}

fn parent(item: &Item<'_>) -> Option<u32> {
    let judged = item.parse(|text| match text {
        "owner" => Ok(None),
        text => handle(text, PERSISTENT).map(Some).ok_or_else(|| {
            let text = format!("{} is neither \"owner\" nor a persistent handle", quoted(text));
            Complaint::new(&text).help("write \"owner\", or \"0x81000001\" for a storage key that stays in the TPM")
        }),
    });
    judged.flatten()
}

/// The name of a way to a TPM as libtss2 takes it.
pub(super) fn tcti(text: &str) -> Result<String, Complaint> {
    let wrong = |what: &str| {
        Complaint::new(&format!("{} {what}", quoted(text)))
            .help("write \"device:/dev/tpmrm0\", or \"swtpm:host=127.0.0.1,port=2321\" for an emulated one")
    };
    match text.split_once(':') {
        Some(("device", path)) if Path::new(path).is_absolute() && !path.contains('\0') => Ok(text.to_owned()),
        Some(("device", _)) => Err(wrong("names no device by its whole path")),
        Some((name @ ("swtpm" | "mssim"), rest)) => {
            let place = rest.strip_prefix("host=").and_then(|rest| rest.split_once(",port="));
            let endpoint = place.map(|(host, port)| values::endpoint(&endpoint_of(host, port)));
            match (place, endpoint) {
                (Some((host, _)), Some(Ok(Endpoint::Tcp(_, Some(port))))) => {
                    Ok(format!("{name}:host={host},port={port}"))
                }
                _ => Err(wrong("has no host=HOST,port=PORT that can be used")),
            }
        }
        _ => Err(wrong("is no way to a TPM that this program knows: device, swtpm or mssim")),
    }
}

fn endpoint_of(host: &str, port: &str) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

impl Default for Tpm {
    fn default() -> Self {
        Self { tcti: "device:/dev/tpmrm0".to_owned(), password_file: None, parent: None }
    }
}

impl Place {
    /// The file, if it is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Tpm(_) => None,
        }
    }
}

impl From<PathBuf> for Place {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

/// As it is written in the configuration.
impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Tpm(handle) if NV_INDICES.contains(handle) => write!(f, "tpm-nv:{handle:#x}"),
            Self::Tpm(handle) => write!(f, "tpm:{handle:#x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_to_a_tpm_are_read_as_libtss2_does() {
        for (text, read) in [
            ("device:/dev/tpmrm0", Some("device:/dev/tpmrm0")),
            ("swtpm:host=127.0.0.1,port=2321", Some("swtpm:host=127.0.0.1,port=2321")),
            ("swtpm:host=::1,port=2321", Some("swtpm:host=::1,port=2321")),
            ("mssim:host=tpm.example.net,port=02321", Some("mssim:host=tpm.example.net,port=2321")),
            ("device", None),
            ("device:tpmrm0", None),
            ("swtpm:", None),
            ("swtpm:port=2321,host=127.0.0.1", None),
            ("swtpm:host=,port=2321", None),
            ("mssim:host=localhost,port=0", None),
            ("tabrmd:bus_type=system", None),
        ] {
            assert_eq!(tcti(text).ok().as_deref(), read, "{text}");
        }
    }

    #[test]
    fn a_place_is_printed_as_it_is_read() {
        let read = |text: &str, held| place(text, Path::new("/etc/enftun"), held).map(|place| place.to_string());
        for text in ["tpm:0x81000001", "tpm:0x81ffffff", "/key.pem"] {
            assert_eq!(read(text, Held::Key).unwrap(), text);
        }
        assert_eq!(read("tpm-nv:0x01410005", Held::Certificates).unwrap(), "tpm-nv:0x1410005");
        assert_eq!(read("ca.pem", Held::Certificates).unwrap(), "/etc/enftun/ca.pem");
        for text in ["tpm:81000001", "tpm:0x1410005", "tpm:0x", "tpm:0x+1", "tpm:0x181000001", "tpm-nv:0x1410005"] {
            assert!(read(text, Held::Key).is_err(), "{text}");
        }
        for text in ["tpm-nv:0x81000001", "tpm:0x1410005"] {
            assert!(read(text, Held::Certificates).is_err(), "{text}");
        }
    }
}
