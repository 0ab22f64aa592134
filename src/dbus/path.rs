//! Object paths: where a tunnel's object lives on the bus, and back from a path to the name.
//! The escaping is that of `sd_bus_path_encode(3)`, so that programs built on sd-bus find the object without asking.

use zbus::OwnedObjectPath;

/// The object that holds the manager; everything else lives below it.
pub const ROOT: &str = "/org/enftun/Enftun1";

/// Above each tunnel's object.
pub const TUNNELS: &str = "/org/enftun/Enftun1/tunnel";

/// Above each trusted group's object.
pub const GROUPS: &str = "/org/enftun/Enftun1/group";

/// Where `systemctl service-log-level` looks.
pub const LOG_CONTROL: &str = "/org/freedesktop/LogControl1";

/// `/org/enftun/Enftun1/group/NAME`, the name escaped.
pub fn of_group(name: &str) -> OwnedObjectPath {
    OwnedObjectPath::try_from(format!("{GROUPS}/{}", escape(name))).unwrap_or_default()
}

/// `/org/enftun/Enftun1/tunnel/NAME`, the name escaped.
pub fn of_tunnel(name: &str) -> OwnedObjectPath {
    OwnedObjectPath::try_from(format!("{TUNNELS}/{}", escape(name))).unwrap_or_default()
}

/// The name of the tunnel whose object is at `path`.
pub fn tunnel_name(path: &str) -> Option<String> {
    let label = path.strip_prefix(TUNNELS)?.strip_prefix('/')?;
    if label.is_empty() || label.contains('/') { None } else { unescape(label) }
}

/// One element of an object path that stands for `name`: every byte that is not an ASCII letter or digit, and a digit at
/// the start, becomes `_` and two lower-case hexadecimal digits. The empty name becomes `_`.
pub fn escape(name: &str) -> String {
    if name.is_empty() {
        return "_".to_owned();
    }
    let mut label = String::with_capacity(name.len());
    for (at, byte) in name.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (at > 0 && byte.is_ascii_digit()) {
            label.push(char::from(byte));
        } else {
            label.push_str(&format!("_{byte:02x}"));
        }
    }
    label
}

/// The reverse of [`escape`]; none when `label` cannot have come from it.
pub fn unescape(label: &str) -> Option<String> {
    if label == "_" {
        return Some(String::new());
    }
    let mut name = Vec::with_capacity(label.len());
    let mut bytes = label.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'_' {
            let high = char::from(bytes.next()?).to_digit(16)?;
            let low = char::from(bytes.next()?).to_digit(16)?;
            name.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            name.push(byte);
        }
    }
    String::from_utf8(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_escaped_as_sd_bus_does() {
        for (name, label) in [
            ("enf0", "enf0"),
            ("", "_"),
            ("0enf", "_30enf"),
            ("my-tunnel", "my_2dtunnel"),
            ("under_score", "under_5fscore"),
            ("a.b/c", "a_2eb_2fc"),
            ("grün", "gr_c3_bcn"),
            ("42", "_342"),
        ] {
            assert_eq!(escape(name), label);
            assert_eq!(unescape(label).as_deref(), Some(name));
        }
    }

    #[test]
    fn a_path_names_a_tunnel_only_when_it_is_a_tunnels_object() {
        assert_eq!(of_tunnel("my-tunnel").as_str(), "/org/enftun/Enftun1/tunnel/my_2dtunnel");
        assert_eq!(tunnel_name("/org/enftun/Enftun1/tunnel/my_2dtunnel").as_deref(), Some("my-tunnel"));
        for path in [ROOT, TUNNELS, "/org/enftun/Enftun1/tunnel/", "/org/enftun/Enftun1/tunnel/a/b", "/a/tunnel/b"] {
            assert_eq!(tunnel_name(path), None, "{path}");
        }
        for label in ["_g0", "a_", "a_4", "_ff"] {
            assert_eq!(unescape(label), None, "{label}");
        }
    }

    proptest! {
        #[test]
        fn every_name_has_a_path_of_its_own(name in ".*") {
            let path = of_tunnel(&name);
            prop_assert_eq!(tunnel_name(path.as_str()), Some(name));
        }
    }
}
