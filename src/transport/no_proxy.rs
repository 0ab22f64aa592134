//! Who is reached without the proxy, by the list in `NO_PROXY`. There is no standard for it; this takes what curl, Go and Python
//! agree on, and of the rest what excludes more. It looks nothing up.

use ipnet::IpNet;
use std::net::IpAddr;

/// Whether `list` says that `host`, a name or an address without brackets, is reached without the proxy on this port.
///
/// Entries are separated by commas or blanks. `*` is everybody. A name stands for itself and all names below it, with or
/// without a dot or `*.` before it. An address or a network in CIDR notation stands for addresses only. Each may end in
/// `:port`, and counts for that port alone then; an IPv6 address with a port is in brackets.
pub fn bypasses(list: &str, host: &str, port: u16) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let address = host.parse().ok().map(|address: IpAddr| address.to_canonical());
    list.split([',', ' ', '\t', '\n'])
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .any(|entry| covers(entry, &host, address, port))
}

fn covers(entry: &str, host: &str, address: Option<IpAddr>, port: u16) -> bool {
    if entry == "*" {
        return true;
    }
    let (place, only) = split_port(entry);
    if only.is_some_and(|only| only != port) {
        return false;
    }
    if let Ok(network) = place.parse::<IpNet>() {
        return address.is_some_and(|address| network.contains(&address));
    }
    if let Ok(only) = place.parse::<IpAddr>() {
        return address == Some(only.to_canonical());
    }
    let name = place.trim_start_matches("*.").trim_matches('.').to_ascii_lowercase();
    if name.is_empty() || address.is_some() {
        return false;
    }
    host == name || host.strip_suffix(&name).is_some_and(|above| above.ends_with('.'))
}

/// The entry without its port. What stands behind a colon and is no port belongs to the address.
fn split_port(entry: &str) -> (&str, Option<u16>) {
    if let Some(rest) = entry.strip_prefix('[') {
        let Some((address, behind)) = rest.split_once(']') else { return (entry, None) };
        return (address, behind.strip_prefix(':').and_then(|port| port.parse().ok()));
    }
    match entry.split_once(':') {
        Some((place, port)) if !port.contains(':') => match port.parse() {
            Ok(port) => (place, Some(port)),
            Err(_) => (entry, None),
        },
        _ => (entry, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_says_who_is_reached_without_the_proxy() {
        for (list, host, port, expected) in [
            ("", "a.example", 443, false),
            (" , ,", "a.example", 443, false),
            ("*", "a.example", 443, true),
            ("b.example,*", "a.example", 443, true),
            ("a.example", "a.example", 443, true),
            ("a.example", "A.Example.", 443, true),
            ("a.example", "x.a.example", 443, true),
            ("a.example", "xa.example", 443, false),
            (".a.example", "a.example", 443, true),
            (".a.example", "x.y.a.example", 443, true),
            ("*.a.example", "x.a.example", 443, true),
            ("*.a.example", "x.b.example", 443, false),
            ("a.example:443", "a.example", 443, true),
            ("a.example:8443", "a.example", 443, false),
            ("b.example a.example", "a.example", 443, true),
            ("localhost,127.0.0.1", "127.0.0.1", 443, true),
            ("127.0.0.1:8443", "127.0.0.1", 8443, true),
            ("127.0.0.1:8443", "127.0.0.1", 443, false),
            ("10.0.0.0/8", "10.1.2.3", 443, true),
            ("10.0.0.0/8", "11.1.2.3", 443, false),
            ("10.0.0.0/8", "10.example", 443, false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", 443, true),
            ("2001:db8::1", "2001:db8:0::1", 443, true),
            ("[2001:db8::1]", "2001:db8::1", 443, true),
            ("[2001:db8::1]:443", "2001:db8::1", 443, true),
            ("[2001:db8::1]:80", "2001:db8::1", 443, false),
            ("2001:db8::/32", "2001:db8:5::1", 443, true),
            ("0.0.1", "127.0.0.1", 443, false),
            (".", "a.example", 443, false),
            ("[", "a.example", 443, false),
        ] {
            assert_eq!(bypasses(list, host, port), expected, "{list:?} {host}:{port}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_list_makes_it_panic(list in ".{0,60}", host in ".{0,30}", port: u16) {
            bypasses(&list, &host, port);
        }
    }
}
