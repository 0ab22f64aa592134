//! The addresses that a certificate carries as its holder's identity.

use std::net::{Ipv4Addr, Ipv6Addr};

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use super::parse;

/// An ENF address as a common name writes it: textual IPv6 with a colon within its first five characters, or 32 hex
/// digits without colons.
pub fn parse_address(text: &str) -> Option<Ipv6Addr> {
    if text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        u128::from_str_radix(text, 16).ok().map(Ipv6Addr::from)
    } else if text.bytes().take(5).any(|byte| byte == b':') {
        text.parse().ok()
    } else {
        None
    }
}

/// The address that the certificate gives its holder: from the common name, else, in X.509 v3, from the subject
/// alternative names. None when there is none, or more than one.
pub fn address_of(certificate: &CertificateDer<'_>) -> Option<Ipv6Addr> {
    match *addresses(&parse(certificate)?) {
        [address] => Some(address),
        _ => None,
    }
}

/// The IPv4 address that the certificate gives its holder: the only one among the subject alternative names of a v3
/// certificate.
pub fn ipv4_of(certificate: &CertificateDer<'_>) -> Option<Ipv4Addr> {
    let certificate = parse(certificate)?;
    let mut found = ip_names(&certificate).filter_map(|bytes| Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)));
    let first = found.next()?;
    found.all(|other| other == first).then_some(first)
}

/// Why an address cannot be a host's own on the overlay; none: it can.
pub fn unusable(address: Ipv6Addr) -> Option<&'static str> {
    if address.is_unspecified() {
        Some("it is the unspecified address")
    } else if address.is_loopback() {
        Some("it is the loopback address")
    } else if address.is_multicast() {
        Some("it is a multicast address")
    } else if address.is_unicast_link_local() {
        Some("it is a link-local address")
    } else if address.to_ipv4_mapped().is_some() {
        Some("it is an IPv4 address in IPv6 form")
    } else {
        None
    }
}

/// Every distinct address that may be meant: all of the common names, else all of the subject alternative names.
pub(crate) fn addresses(certificate: &X509Certificate<'_>) -> Vec<Ipv6Addr> {
    let mut found: Vec<_> = common_names(certificate).filter_map(parse_address).collect();
    if found.is_empty() {
        found =
            ip_names(certificate).filter_map(|name| Some(Ipv6Addr::from(<[u8; 16]>::try_from(name).ok()?))).collect();
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// The subject's common names that are text.
pub(crate) fn common_names<'a>(certificate: &'a X509Certificate<'_>) -> impl Iterator<Item = &'a str> {
    certificate.subject.iter_common_name().filter_map(|name| std::str::from_utf8(name.attr_value().data).ok())
}

fn ip_names<'a>(certificate: &'a X509Certificate<'_>) -> impl Iterator<Item = &'a [u8]> {
    let names = certificate.subject_alternative_name().ok().flatten();
    names.into_iter().flat_map(|extension| &extension.value.general_names).filter_map(|name| match name {
        GeneralName::IPAddress(bytes) => Some(*bytes),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_common_name_are_read_and_nothing_else_is() {
        let address = "fd00:8f80:1::1234".parse().ok();
        assert_eq!(parse_address("fd00:8f80:1::1234"), address);
        assert_eq!(parse_address("fd008f80000100000000000000001234"), address);
        assert_eq!(parse_address("FD008F80000100000000000000001234"), address);
        assert_eq!(parse_address("::1"), Some(Ipv6Addr::LOCALHOST));
        for text in ["", "router.example", "fd008", "fd00:", "fd008f8000010000000000000000123", "198.51.100.7"] {
            assert_eq!(parse_address(text), None, "{text}");
        }
        assert_eq!(parse_address("+d008f80000100000000000000001234"), None, "a sign is no digit");
    }

    #[test]
    fn only_a_unicast_address_of_the_overlay_is_usable() {
        for (text, usable) in [
            ("fd00:8f80:1::1234", true),
            ("2607:8f80:8000::1", true),
            ("::", false),
            ("::1", false),
            ("ff02::1", false),
            ("fe80::1", false),
            ("::ffff:198.51.100.7", false),
        ] {
            assert_eq!(unusable(text.parse().unwrap()).is_none(), usable, "{text}");
        }
    }
}
