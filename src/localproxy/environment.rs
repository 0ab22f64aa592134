//! What the environment says beside the options: the web proxy, and who is reached without it. Trust anchors, by
//! `SSL_CERT_FILE` and `SSL_CERT_DIR`, are read where trust is made.

use crate::config::{self, Host, Way};
use crate::transport::no_proxy;

/// In the order in which they are asked.
const PROXIES: [&str; 2] = ["https_proxy", "HTTPS_PROXY"];
const EXCEPTIONS: [&str; 2] = ["no_proxy", "NO_PROXY"];
/// The port of a proxy that names none.
const PORT: u16 = 3128;

/// Why the proxy cannot be used. Nothing of it is repeated: there may be a password in it.
#[derive(Debug, thiserror::Error)]
#[error("the web proxy in the variable {variable} {why}")]
pub struct ProxyError {
    /// The variable that names it.
    variable: &'static str,
    /// What is wrong.
    why: String,
}

/// The way to `host`, and what there is to warn of.
pub fn way(variable: &dyn Fn(&str) -> Option<String>, host: &Host) -> Result<(Way, Vec<String>), ProxyError> {
    let filled =
        |name: &'static str| variable(name).filter(|value| !value.trim().is_empty()).map(|value| (name, value));
    let Some((name, url)) = PROXIES.into_iter().find_map(filled) else { return Ok((Way::Direct, Vec::new())) };
    if let Some((except, list)) = EXCEPTIONS.into_iter().find_map(filled)
        && no_proxy::bypasses(&list, &host.host, host.port)
    {
        return Ok((Way::Direct, vec![format!("{except} says that {host} is reached without the proxy of {name}")]));
    }
    let wrong = |why: String| ProxyError { variable: name, why };
    let (url, usual_port) = complete(url.trim());
    let proxy = config::parse_web_proxy(&url).map_err(wrong)?;
    let warnings =
        usual_port.then(|| format!("the web proxy in the variable {name} has no port; {PORT} is used")).into_iter();
    Ok((proxy.map_or(Way::Direct, Way::Proxy), warnings.collect()))
}

/// The URL with a scheme and a port, and whether the port was missing. A `+` in user and password is a space, as it is for AWS's
/// local proxy.
fn complete(url: &str) -> (String, bool) {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
        None => ("http".to_owned(), url),
    };
    let (login, place) = match rest.rsplit_once('@') {
        Some((login, place)) => (format!("{}@", login.replace('+', "%20")), place),
        None => (String::new(), rest),
    };
    let place = place.trim_end_matches('/');
    match config::parse_endpoint(place) {
        Ok((host, None)) => (format!("{scheme}://{login}{}", config::authority(&host, PORT)), true),
        _ => (format!("{scheme}://{login}{place}"), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The way to `data.example.net:443` and the number of warnings.
    fn to(host: &str, variables: &[(&str, &str)]) -> Result<(Way, usize), String> {
        let variable =
            |name: &str| variables.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned());
        let (way, warnings) = way(&variable, &Host::direct(host, 443)).map_err(|error| error.to_string())?;
        Ok((way, warnings.len()))
    }

    fn shown(url: &str) -> (String, Option<(String, String)>, usize) {
        let (way, warnings) = to("data.example.net", &[("https_proxy", url)]).unwrap();
        let Way::Proxy(proxy) = way else { panic!("{url}: {way:?}") };
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let login = proxy.login.as_ref().map(|login| (text(&login.user), text(&login.password)));
        (proxy.to_string(), login, warnings)
    }

    #[test]
    fn a_proxy_url_loses_nothing_whether_it_has_a_scheme_or_not() {
        let login = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        for (url, proxy, expected, warnings) in [
            ("http://zzlocalhost:3199", "http://zzlocalhost:3199", None, 0),
            ("zzlocalhost:3199", "http://zzlocalhost:3199", None, 0),
            ("zzlocalhost", "http://zzlocalhost:3128", None, 1),
            ("127.0.0.1:8080/", "http://127.0.0.1:8080", None, 0),
            ("[::1]:8080", "http://[::1]:8080", None, 0),
            ("[::1]", "http://[::1]:3128", None, 1),
            ("HTTP://[2001:db8::1]/", "http://[2001:db8::1]:3128", None, 1),
            ("https://proxy:8443", "https://proxy:8443", None, 0),
            ("http://me:a+b%2Bc%40@proxy:1", "http://proxy:1", login("me", "a b+c@"), 0),
            ("me:s3@proxy:1", "http://proxy:1", login("me", "s3"), 0),
            ("socks5://proxy:1080", "socks5://proxy:1080", None, 0),
        ] {
            assert_eq!(shown(url), (proxy.to_owned(), expected, warnings), "{url}");
        }
    }

    #[test]
    fn the_small_letters_come_first_and_an_empty_variable_says_nothing() {
        let host = "data.example.net";
        assert_eq!(to(host, &[]).unwrap(), (Way::Direct, 0));
        let proxy = |variables: &[(&str, &str)]| match to(host, variables).unwrap().0 {
            Way::Proxy(proxy) => proxy.host,
            other => panic!("{other:?}"),
        };
        assert_eq!(proxy(&[("https_proxy", "small:1"), ("HTTPS_PROXY", "large:1")]), "small");
        assert_eq!(proxy(&[("https_proxy", " "), ("HTTPS_PROXY", "large:1")]), "large");
    }

    #[test]
    fn who_is_in_no_proxy_is_reached_without_it() {
        let proxy = ("https_proxy", "http://proxy:1");
        for (name, list, host, direct) in [
            ("NO_PROXY", "example.net", "data.example.net", true),
            ("no_proxy", ".example.net,x", "data.example.net", true),
            ("NO_PROXY", "127.0.0.0/8,::1", "127.0.0.1", true),
            ("NO_PROXY", "127.0.0.0/8,::1", "::1", true),
            ("NO_PROXY", "example.org", "data.example.net", false),
            ("NO_PROXY", "", "data.example.net", false),
        ] {
            assert_eq!(to(host, &[proxy, (name, list)]).unwrap().0 == Way::Direct, direct, "{name}={list} {host}");
        }
    }

    #[test]
    fn what_is_no_proxy_is_told_without_its_password() {
        for url in
            ["ftp://me:s3cret@proxy:1", "http://me:s3cret@proxy:0", "http://me:s3cret@", "http://me:s3cret@proxy:1/x"]
        {
            let error = to("data.example.net", &[("HTTPS_PROXY", url)]).unwrap_err();
            assert!(error.contains("HTTPS_PROXY") && !error.contains("s3cret"), "{url}: {error}");
        }
    }
}
